//! Reading the log. Each reading is itself on record.

use std::ops::Range;

use super::scan::{Room, SCAN_MAX, Scanned, scan};
use super::{OperationError, Operations};
use crate::identity::registry::Credential;
use crate::store::{EventFilter, SharedStore, StoredCheckpoint};

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
    /// A page of events that match, in the order of the log, and the oldest place that is
    /// kept. All pages are of the log as it stood at the first one, so what is appended
    /// meanwhile neither shifts nor repeats one.
    ///
    /// # Errors
    /// The caller may not; the list begins, or goes on, where records were pruned.
    pub(crate) async fn list_events(
        &self,
        credential: &Credential,
        query: &EventQuery,
        limit: u32,
    ) -> Result<(Scanned, u64), OperationError> {
        let end = self.read(credential, "read_audit").await?.sequence + 1;
        let kept = self.kept_from().await?;
        let (start, end) = match &query.rest {
            Some(rest) => (rest.start, rest.end),
            None => (query.start_sequence.min(end), end),
        };
        // Nothing was asked of the beginning where none is named, or where it comes last.
        let goes_on = query.rest.is_some() && !query.descending;
        if start < kept && (goes_on || query.start_sequence > 0) {
            return Err(OperationError::EventPruned {
                place: start,
                first: kept,
            });
        }
        let start = start.max(kept).min(end);
        let room = Room {
            places: SCAN_MAX,
            events: limit,
            bytes: PAGE_BYTES_MAX,
        };
        let (filter, descending) = (&query.filter, query.descending);
        let scanned = scan(&self.store, filter, start..end, descending, room).await?;
        // Asked after the look: what is gone by now may have been gone before it.
        self.require_event(start).await?;
        Ok((scanned, kept))
    }

    /// The oldest place that is kept.
    pub(super) async fn kept_from(&self) -> Result<u64, OperationError> {
        kept_from(&self.store).await
    }

    /// # Errors
    /// [`OperationError::EventPruned`]: the record of this place is not kept any more.
    pub(super) async fn require_event(&self, place: u64) -> Result<(), OperationError> {
        require_event(&self.store, place).await
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

async fn kept_from(store: &SharedStore) -> Result<u64, OperationError> {
    Ok(store.pruned().await?.map_or(0, |pruned| pruned.size))
}

/// # Errors
/// [`OperationError::EventPruned`]: the record of this place is not kept any more.
pub(super) async fn require_event(store: &SharedStore, place: u64) -> Result<(), OperationError> {
    let first = kept_from(store).await?;
    match place < first {
        true => Err(OperationError::EventPruned { place, first }),
        false => Ok(()),
    }
}
