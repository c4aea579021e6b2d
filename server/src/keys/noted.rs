//! What becomes of the server's keys, told to whoever keeps the record: a key was made, was
//! loaded, was used for the first time in this process. A note never delays or refuses the
//! use of a key; the task that records the notes says so in the log when one is lost.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use aws_lc_rs::digest;
use tokio::sync::mpsc;

use super::{KeyAlgorithm, KeyError, KeyName, KeyService, SigningKey};

/// Notes that wait to be recorded: each key makes three at most, and there are few keys.
const NOTES_MAX: usize = 1024;

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyStep {
    /// It did not exist. Of replicas that start together, each may say so of the one key.
    Made,
    /// It was read from where it lies.
    Loaded,
    /// It was used for the first time since this process loaded it.
    Used,
}

/// Something that became of a key.
#[derive(Clone, Debug)]
pub(crate) struct KeyNote {
    /// Which key.
    pub(crate) key: Cow<'static, str>,
    /// What became of it.
    pub(crate) step: KeyStep,
    /// SHA-256 of the DER `SubjectPublicKeyInfo`, in hex; `None` for a secret.
    pub(crate) spki_sha256: Option<String>,
}

/// Where notes go.
#[derive(Clone, Debug)]
pub(crate) struct KeyNotes(mpsc::Sender<KeyNote>);

impl KeyNotes {
    /// Notes, and where they come out.
    pub(crate) fn new() -> (Self, mpsc::Receiver<KeyNote>) {
        let (notes, come) = mpsc::channel(NOTES_MAX);
        (Self(notes), come)
    }

    /// Notes that something became of a key, or of a secret that has no public half.
    pub(crate) fn note(&self, key: Cow<'static, str>, step: KeyStep, spki_der: &[u8]) {
        let sha256 = || hex::encode(digest::digest(&digest::SHA256, spki_der));
        let note = KeyNote {
            key,
            step,
            spki_sha256: (!spki_der.is_empty()).then(sha256),
        };
        if let Err(error) = self.0.try_send(note) {
            let (mpsc::error::TrySendError::Full(note) | mpsc::error::TrySendError::Closed(note)) =
                error;
            tracing::warn!(key = %note.key, step = ?note.step, "not on record: too many notes on keys, or the server stops");
        }
    }

    /// A key that was loaded or made, whose first use is noted.
    pub(crate) fn follow(
        &self,
        name: Cow<'static, str>,
        step: KeyStep,
        key: Arc<dyn SigningKey>,
    ) -> Arc<dyn SigningKey> {
        self.note(name.clone(), step, key.public_key_spki_der());
        Arc::new(NotedKey {
            key,
            name,
            used: AtomicBool::new(false),
            notes: self.clone(),
        })
    }
}

struct NotedKey {
    key: Arc<dyn SigningKey>,
    name: Cow<'static, str>,
    used: AtomicBool,
    notes: KeyNotes,
}

impl SigningKey for NotedKey {
    fn algorithm(&self) -> KeyAlgorithm {
        self.key.algorithm()
    }

    fn public_key_spki_der(&self) -> &[u8] {
        self.key.public_key_spki_der()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.key.sign(message)?;
        // Looked at before it is written: the line is then shared by all who sign.
        if !self.used.load(Ordering::Relaxed) && !self.used.swap(true, Ordering::Relaxed) {
            let spki_der = self.public_key_spki_der();
            self.notes.note(self.name.clone(), KeyStep::Used, spki_der);
        }
        Ok(signature)
    }
}

impl fmt::Debug for NotedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)
    }
}

/// A key service that notes what becomes of its keys.
pub(crate) struct NotedKeys {
    keys: Box<dyn KeyService>,
    notes: KeyNotes,
}

impl NotedKeys {
    /// These keys, with notes.
    pub(crate) fn new(keys: Box<dyn KeyService>, notes: KeyNotes) -> Self {
        Self { keys, notes }
    }
}

#[async_trait]
impl KeyService for NotedKeys {
    async fn load_or_create(&self, name: KeyName) -> Result<Arc<dyn SigningKey>, KeyError> {
        if let Some(key) = self.existing(name).await? {
            return Ok(key);
        }
        let key = self.keys.load_or_create(name).await?;
        Ok(self.notes.follow(name.text(), KeyStep::Made, key))
    }

    async fn existing(&self, name: KeyName) -> Result<Option<Arc<dyn SigningKey>>, KeyError> {
        let key = self.keys.existing(name).await?;
        let follow = |key| self.notes.follow(name.text(), KeyStep::Loaded, key);
        Ok(key.map(follow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::LocalKeys;

    #[tokio::test]
    async fn a_key_is_made_once_and_its_first_use_is_noted_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (notes, mut come) = KeyNotes::new();
        for step in [KeyStep::Made, KeyStep::Loaded] {
            let keys = LocalKeys::open(folder.path(), None).expect("keys");
            let keys = NotedKeys::new(Box::new(keys), notes.clone());
            let key = keys.load_or_create(KeyName::Log).await.expect("a key");
            for _ in 0..3 {
                key.sign(b"message").expect("signed");
            }
            let secret = keys.load_or_create(KeyName::Redaction).await;
            secret.expect("a secret");
            for (name, step, public) in [
                ("log", step, true),
                ("log", KeyStep::Used, true),
                ("redaction", step, false),
            ] {
                let note = come.try_recv().expect("a note");
                assert_eq!((&*note.key, note.step), (name, step));
                assert_eq!(note.spki_sha256.is_some(), public, "{note:?}");
            }
            assert!(come.try_recv().is_err(), "no further note");
        }
    }
}
