//! Reading the log. Each reading is itself on record.

use std::ops::Range;

use super::scan::{Room, SCAN_MAX, Scanned, scan};
use super::{OperationError, Operations};
use crate::identity::registry::Credential;
use crate::store::{EventFilter, StoredCheckpoint};

/// Bytes of the leaves of a page.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// Which part of the log, and in what order.
pub(crate) struct EventQuery {
    pub(crate) filter: EventFilter,
    /// From this place on.
    pub(crate) start_sequence: u64,
    /// Newest first.
    pub(crate) descending: bool,
    /// Where the page before ended: what was not looked through yet.
    pub(crate) rest: Option<Range<u64>>,
}

impl Operations {
    /// A page of events that match, in the order of the log. All pages are of the log as it
    /// stood at the first one, so what is appended meanwhile neither shifts nor repeats one.
    pub(crate) async fn list_events(
        &self,
        credential: &Credential,
        query: &EventQuery,
        limit: u32,
    ) -> Result<Scanned, OperationError> {
        let end = self.read(credential, "read_audit").await?.sequence + 1;
        let places = match &query.rest {
            Some(rest) => rest.clone(),
            None => {
                let kept = self.store.first_sequence().await?.unwrap_or(0);
                query.start_sequence.max(kept).min(end)..end
            }
        };
        let room = Room {
            places: SCAN_MAX,
            events: limit,
            bytes: PAGE_BYTES_MAX,
        };
        let (filter, descending) = (&query.filter, query.descending);
        Ok(scan(&self.store, filter, places, descending, room).await?)
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
