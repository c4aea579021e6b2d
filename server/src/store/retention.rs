//! What of the log is kept, and what is not any more.

use async_trait::async_trait;
use uuid::Uuid;

use super::StoreError;

/// What was pruned, by the newest row that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Records below this place are gone, or about to go. A whole number of tiles.
    pub size: u64,
    /// The event that says so; it stands at this place or after it.
    pub event_id: Uuid,
}

/// Retention. What is pruned is said by [`Change::Prune`], in the transaction of its event;
/// only then anything is dropped.
///
/// [`Change::Prune`]: crate::model::Change::Prune
#[async_trait]
pub trait RetentionStore: Send + Sync {
    /// What was pruned; `None`: all is kept.
    async fn pruned(&self) -> Result<Option<Pruned>, StoreError>;
    /// The largest place, not above `limit`, below which this database can drop records; 0
    /// where there is none.
    async fn prunable(&self, limit: u64) -> Result<u64, StoreError>;
    /// Drops a piece of what was pruned and still stands, in a transaction that nobody waits
    /// long for; whether there is more.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while somebody reads what is to be dropped, or when the
    /// role owns no tables. Nothing is dropped then; the same again goes on.
    async fn drop_pruned(&self) -> Result<bool, StoreError>;
}
