//! What is put on record, and what becomes of it.

use super::merkle::leaf_hash;
use super::sequencer::QUEUE_MAX;
use crate::model::change::GenerationUse;
use crate::model::event::{Inputs, LeafError};
use crate::model::{Change, Conflict, Event};
use crate::store::PreparedEvent;

/// What is to be put on record.
#[derive(Debug)]
pub struct Record {
    /// The event.
    pub event: Event,
    /// What stands beside it, under the commitment in the event.
    pub inputs: Option<Inputs>,
    /// The epoch that the event was decided under; `None` for an event that reports a
    /// fact and is true in any epoch.
    pub epoch: Option<u64>,
    /// The change that commits with the event.
    pub change: Option<Change>,
    /// What else is written beside it: it neither conflicts nor bumps the epoch, and so may
    /// ride with any event.
    pub rider: Option<GenerationUse>,
}

impl Record {
    /// A fact: an event without a change that holds in any epoch.
    pub fn fact(event: Event) -> Self {
        Self {
            event,
            inputs: None,
            epoch: None,
            change: None,
            rider: None,
        }
    }

    /// A change of the server's own, with its event: it holds in any epoch.
    pub fn change(event: Event, change: Change) -> Self {
        Self {
            change: Some(change),
            ..Self::fact(event)
        }
    }

    /// Its event, ready to be written. Hashing happens here, in the caller's task, and
    /// not in the writer's.
    ///
    /// # Errors
    /// When the event does not make a leaf.
    pub fn prepare(event: Event, inputs: Option<Inputs>) -> Result<PreparedEvent, AppendError> {
        let leaf = event.leaf()?;
        Ok(PreparedEvent {
            leaf_hash: leaf_hash(&leaf),
            leaf,
            columns: event.into_columns(),
            inputs,
        })
    }
}

/// An event on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its place in the log; of several, the place of the first, the others follow it.
    pub sequence: u64,
    /// The epoch after its commit.
    pub epoch: u64,
}

/// Why an event is not on record. None of these may end in an allow.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The world changed since the decision: catch up to `epoch` and decide again. A
    /// decision of a later epoch than the log's is refused as well: then the database was
    /// put back to an older state under a running server, which only a restart mends.
    #[error("decided under another epoch than {epoch}")]
    Stale {
        /// The epoch to catch up to.
        epoch: u64,
    },
    /// The change cannot be made.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// An event of this id is in the log: it reports something that is reported once.
    #[error("an event of this id is on record")]
    OnRecord,
    /// The queue is full.
    #[error("more than {QUEUE_MAX} events wait for the audit writer")]
    Overloaded,
    /// The event does not make a leaf.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The store did not take it, or may have without saying so.
    #[error("{0}")]
    Store(String),
    /// The writer has ended.
    #[error("the audit writer has ended")]
    Closed,
}
