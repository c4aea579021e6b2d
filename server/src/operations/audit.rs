//! Reading the log. Each reading is itself on record.

use super::{OperationError, Operations};
use crate::identity::registry::Credential;
use crate::store::{EventFilter, StoredCheckpoint, StoredEvent};

impl Operations {
    /// Events that match, in the order of the log.
    pub(crate) async fn list_events(
        &self,
        credential: &Credential,
        filter: &EventFilter,
        after: Option<u64>,
        descending: bool,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, OperationError> {
        self.read(credential, "read_audit").await?;
        Ok(self.store.list(filter, after, descending, limit).await?)
    }

    /// The newest checkpoint.
    pub(crate) async fn checkpoint(
        &self,
        credential: &Credential,
    ) -> Result<Option<StoredCheckpoint>, OperationError> {
        self.read(credential, "read_audit").await?;
        Ok(self.store.latest_checkpoint().await?)
    }
}
