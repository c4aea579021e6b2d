//! Streams of revisions: what comes next after a known one. And of every kind: who may have
//! how many.
//!
//! The caller is asked for again at each answer, on record: a stream is no permission that
//! outlives the one that opened it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;

use super::{OperationError, Operations};
use crate::identity::registry::Credential;
use crate::model::{AccessRequest, EntityUid, RevisionMeta};

/// Revisions of one answer.
const REVISIONS_MAX: u64 = 100;

/// What a stream tells at once.
pub(crate) struct News {
    /// The next revisions, in order. Empty: nothing is new.
    pub(crate) revisions: Vec<RevisionMeta>,
    pub(crate) in_force: u64,
    pub(crate) time: OffsetDateTime,
}

/// The streams that are open.
pub(crate) struct Watches {
    max: usize,
    open: Mutex<HashMap<EntityUid, usize>>,
    /// How often a stream says that nothing is new, on whatever it is told of.
    pub(crate) heartbeat: Duration,
    /// Whether the server stops.
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Watches {
    pub(crate) fn new(max: usize, heartbeat: Duration, stopping: watch::Receiver<bool>) -> Self {
        Self {
            max,
            open: Mutex::default(),
            heartbeat,
            stopping,
        }
    }

    /// A place for one more stream of this caller, until it is dropped.
    ///
    /// # Errors
    /// [`OperationError::Limit`] when there are too many.
    pub(super) fn place(self: &Arc<Self>, caller: EntityUid) -> Result<Place, OperationError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (
            open.values().sum::<usize>(),
            open.get(&caller).copied().unwrap_or(0),
        );
        let own_max = self.max.div_ceil(4);
        let refused = |name, size, max| Err(OperationError::Limit { name, size, max });
        if all >= self.max {
            return refused("watch_streams", all + 1, self.max);
        }
        if own >= own_max {
            return refused("watch_streams_per_caller", own + 1, own_max);
        }
        *open.entry(caller.clone()).or_default() += 1;
        drop(open);
        let watches = Arc::clone(self);
        Ok(Place { watches, caller })
    }
}

/// How long what was looked at of a reader holds for an answer that waits for room: its
/// credential ends by time, too.
pub(crate) const FRESH: Duration = Duration::from_secs(1);

/// A place among the open streams.
pub(crate) struct Place {
    watches: Arc<Watches>,
    caller: EntityUid,
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = &self.watches.open;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.caller);
            }
        }
    }
}

impl Operations {
    /// The first answer of a stream, and its place.
    pub(crate) async fn watch_revisions(
        &self,
        credential: &Credential,
        after: u64,
    ) -> Result<(News, Place), OperationError> {
        let news = self.news(credential, after).await?;
        let state = self.pdp.replica.current();
        let now = (self.pdp.clock)();
        let caller = self.pdp.authenticate(credential, &state, now).await?;
        Ok((news, self.watches.place(caller.principal.uid())?))
    }

    /// The revisions after a known one. Decided and recorded, so the state that it is told
    /// from was the newest at that place of the log.
    pub(crate) async fn news(
        &self,
        credential: &Credential,
        after: u64,
    ) -> Result<News, OperationError> {
        self.read(credential, "read_policy").await?;
        let in_force = self.active_revision();
        if after > in_force {
            return Err(OperationError::RevisionNotFound(after));
        }
        let end = in_force.min(after + REVISIONS_MAX);
        let mut revisions = match end - after {
            0 => Vec::new(),
            // At most REVISIONS_MAX, and numbers have no gaps.
            count => self.store.revisions(end + 1, count as u32).await?,
        };
        revisions.reverse();
        Ok(News {
            revisions,
            in_force,
            time: (self.pdp.clock)(),
        })
    }

    /// Whether a stream's caller could still be answered. Asks nobody and records nothing;
    /// what is told is decided on first.
    pub(crate) async fn may_watch(&self, credential: &Credential) -> bool {
        let request = AccessRequest::new(EntityUid::action("read_policy"), self.zone());
        matches!(self.may(credential, &request).await, Ok(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_for_all_and_for_each() {
        let (_stop, stopping) = watch::channel(false);
        let watches = Arc::new(Watches::new(5, Duration::from_secs(1), stopping));
        let place = |name: &str| watches.place(EntityUid::new("ZTA::User", name));
        let named = |result: Result<Place, OperationError>| match result {
            Err(OperationError::Limit { name, .. }) => name,
            _ => "",
        };
        let (a, b) = (place("a").expect("one"), place("a").expect("two"));
        assert_eq!(named(place("a")), "watch_streams_per_caller");
        let others = ["b", "b", "c"].map(|name| place(name).expect("another"));
        assert_eq!(named(place("d")), "watch_streams");
        drop((a, b));
        assert_eq!(named(place("a")), "");
        drop(others);
        assert!(watches.open.lock().expect("a lock").is_empty());
    }
}
