//! The last checkpoint that this client saw, kept in a file.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{Checkpoint, Hash, LogError, LogKey, Recorded, is_extension};
use crate::{client::Client, error::Error, folder, v1};

/// What this client knows of a log: its key and, in a file, the last checkpoint that it saw.
/// Each further one must extend it. Processes that share the file each keep it growing.
#[derive(Clone, Debug)]
pub struct LogView {
    key: LogKey,
    path: PathBuf,
}

impl LogView {
    /// A view kept in this file, which need not be there yet; its folder must. Put it where
    /// the log's keeper cannot write.
    pub fn new(key: LogKey, path: impl Into<PathBuf>) -> Self {
        Self {
            key,
            path: path.into(),
        }
    }

    /// The log's key.
    pub fn key(&self) -> &LogKey {
        &self.key
    }

    /// The last checkpoint; `None` before the first.
    ///
    /// # Errors
    /// The file cannot be read, or holds no checkpoint of this log.
    pub fn last(&self) -> Result<Option<Checkpoint>, LogError> {
        match fs::read_to_string(&self.path) {
            Ok(note) => self.key.open(&note).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.problem(&error)),
        }
    }

    /// Takes a newer checkpoint, with the consistency proof from the last one to it; of the
    /// same size, and as the first one, none is needed.
    ///
    /// # Errors
    /// [`LogError::RolledBack`] and [`LogError::SplitView`] where it does not extend the last
    /// one, which then stays.
    pub fn advance(&self, note: &str, proof: &[Vec<u8>]) -> Result<Checkpoint, LogError> {
        let new = self.key.open(note)?;
        let Some(known) = self.last()? else {
            self.keep(&new)?;
            return Ok(new);
        };
        if new.size < known.size {
            return Err(LogError::RolledBack {
                size: new.size,
                known: known.size,
            });
        }
        let hashes = hashes(proof)?;
        if !is_extension((known.size, known.root), (new.size, new.root), &hashes) {
            return Err(LogError::SplitView {
                size: new.size,
                known: known.size,
                note: new.note,
            });
        }
        if new.size > known.size {
            self.keep(&new)?;
        }
        Ok(new)
    }

    fn keep(&self, checkpoint: &Checkpoint) -> Result<(), LogError> {
        let kept = folder::replace(&self.path, checkpoint.note.as_bytes());
        kept.map_err(|error| self.problem(&error))
    }

    fn problem(&self, error: &dyn std::fmt::Display) -> LogError {
        LogError::File {
            path: display(&self.path),
            problem: error.to_string(),
        }
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

impl Client {
    /// The receipt of an event, by its place in the log. Verify it with
    /// [`LogKey::verify_receipt`]; it can be kept and shown to others. A record is covered
    /// within a second: before that the call fails with `NOT_READY`.
    ///
    /// # Errors
    /// The server refuses, or there is no such event.
    pub async fn receipt(&self, sequence: u64) -> Result<v1::Receipt, Error> {
        let request = v1::GetEventRequest {
            event: Some(v1::get_event_request::Event::Sequence(sequence)),
        };
        let answer = self.audit().get_event(request).await?.into_inner();
        answer.receipt.ok_or(Error::Answer("no receipt"))
    }

    /// Looks at the server's newest checkpoint and takes it into the view.
    ///
    /// # Errors
    /// [`Error::Log`] where the log does not extend what was seen; else there was no answer.
    pub async fn follow_log(&self, view: &LogView) -> Result<Checkpoint, Error> {
        let mut known = view.last()?;
        loop {
            let followed = self.follow_from(view, known.as_ref()).await;
            let last = view.last()?;
            // Somebody else with the same file may have gone on meanwhile: that is no split.
            if followed.is_ok() || last == known {
                return followed;
            }
            known = last;
        }
    }

    async fn follow_from(
        &self,
        view: &LogView,
        known: Option<&Checkpoint>,
    ) -> Result<Checkpoint, Error> {
        let newest = self
            .audit()
            .get_checkpoint(v1::GetCheckpointRequest {})
            .await?;
        let note = newest.into_inner().note;
        // Signed before its size is believed.
        let newest = view.key.open(&note)?;
        let proof = match known {
            Some(known) => self.consistency(known, &newest).await?,
            None => Vec::new(),
        };
        Ok(view.advance(&note, &proof)?)
    }

    /// The server's proof that one checkpoint extends another; nothing where none is needed
    /// or can be.
    async fn consistency(&self, old: &Checkpoint, new: &Checkpoint) -> Result<Vec<Vec<u8>>, Error> {
        if old.size == 0 || old.size >= new.size {
            return Ok(Vec::new());
        }
        let request = v1::GetConsistencyProofRequest {
            first_size: old.size,
            second_size: new.size,
        };
        let answer = self.audit().get_consistency_proof(request).await?;
        Ok(answer.into_inner().hashes)
    }

    /// Asks for the receipt of an event, verifies it, and takes the log's newest checkpoint
    /// into the view: the event is on record in the log that this client has always seen.
    ///
    /// # Errors
    /// As [`Self::receipt`] and [`Self::follow_log`]; [`Error::Log`] where it proves nothing.
    pub async fn verify_recorded(&self, view: &LogView, sequence: u64) -> Result<Recorded, Error> {
        let receipt = self.receipt(sequence).await?;
        let recorded = view.key.verify_receipt(&receipt)?;
        if recorded.sequence != sequence {
            return Err(Error::Answer("the receipt of another event"));
        }
        // The receipt's checkpoint may be older than the newest one: one log all the same?
        let (old, new) = (&recorded.checkpoint, self.follow_log(view).await?);
        let proof = self.consistency(old, &new).await?;
        if is_extension((old.size, old.root), (new.size, new.root), &hashes(&proof)?) {
            return Ok(recorded);
        }
        Err(Error::Log(LogError::SplitView {
            size: new.size,
            known: old.size,
            note: new.note,
        }))
    }
}

fn hashes(proof: &[Vec<u8>]) -> Result<Vec<Hash>, LogError> {
    let hashes = proof.iter().map(|hash| hash.as_slice().try_into());
    let hashes: Result<_, _> = hashes.collect();
    hashes.map_err(|_| LogError::Malformed("hash"))
}
