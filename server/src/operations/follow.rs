//! Streams of events: the log as it grows, from a place on.
//!
//! Opening one is decided and on record, once. Each answer after that is given only to who
//! may read the log in a state that covers every event of the answer; that is not on record,
//! because a record would be news to each stream. When it ends for want of permission, it
//! ends on record.
//!
//! Nothing waits for a stream: it does something only when its reader takes something, reads
//! committed rows by their places, and holds one answer at most.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;

use super::scan::{Room, SCAN_MAX, scan};
use super::watch::{FRESH, Place};
use super::{OperationError, Operations};
use crate::audit::tail::End;
use crate::identity::registry::Credential;
use crate::model::{AccessRequest, DenyReason, EntityUid, Standing};
use crate::store::{EventFilter, StoredEvent};

/// What one answer may hold.
const ROOM: Room = Room {
    places: SCAN_MAX,
    events: 256,
    bytes: 1 << 20,
};
/// How often a stream looks for news, at most: commits come in hundreds a second.
const PACE: Duration = Duration::from_millis(20);
/// The act that a stream is permitted by.
const ACTION: &str = "read_audit";

/// What a stream tells at once.
pub(crate) struct Told {
    /// In order. Empty: a heartbeat, or a piece of the log where none matches.
    pub(crate) events: Vec<StoredEvent>,
    /// Where to go on.
    pub(crate) next: u64,
    /// The log's size, as far as it is known here.
    pub(crate) log_size: u64,
    pub(crate) time: OffsetDateTime,
}

/// An open stream.
pub(crate) struct Follower {
    operations: Arc<Operations>,
    credential: Credential,
    filter: EventFilter,
    /// Everything before this place was told.
    next: u64,
    /// Where the log ended, as far as it was known at the last look.
    end: End,
    tail: watch::Receiver<End>,
    states: watch::Receiver<u64>,
    /// When it was looked whether the reader may have what is told.
    checked: Instant,
    stopping: watch::Receiver<bool>,
    looked: Option<Instant>,
    beat: Instant,
    _place: Place,
}

impl Operations {
    /// Opens a stream from a place of the log, or from now on.
    ///
    /// # Errors
    /// The caller may not; the place does not exist yet, or is not kept any more; there are
    /// too many streams.
    pub(crate) async fn watch_events(
        self: &Arc<Self>,
        credential: Credential,
        filter: EventFilter,
        from: Option<u64>,
    ) -> Result<Follower, OperationError> {
        let decision = self.read(&credential, ACTION).await?;
        // No cursor that was given before this call is beyond its own record.
        let size = decision.sequence + 1;
        let next = from.unwrap_or(size);
        if next > size {
            return Err(OperationError::CursorBeyondLog { place: next, size });
        }
        self.require_kept(next).await?;
        let state = self.pdp.replica.current();
        let now = (self.pdp.clock)();
        let caller = self.pdp.authenticate(&credential, &state, now).await?;
        let place = self.watches.place(caller.principal.uid())?;
        let tail = self.pdp.audit.tail();
        tail.saw(size, state.epoch);
        Ok(Follower {
            operations: Arc::clone(self),
            credential,
            filter,
            next,
            end: tail.end(),
            tail: tail.follow(),
            states: self.pdp.replica.subscribe(),
            checked: Instant::now(),
            stopping: self.watches.stopping.clone(),
            looked: None,
            beat: Instant::now(),
            _place: place,
        })
    }

    /// # Errors
    /// The log is not kept from this place on.
    async fn require_kept(&self, place: u64) -> Result<(), OperationError> {
        let first = self.kept_from().await?;
        match place < first {
            true => Err(OperationError::CursorTooOld { place, first }),
            false => Ok(()),
        }
    }

    /// # Errors
    /// The caller may not read the log any more: on record, and named.
    async fn require_reader(
        &self,
        credential: &Credential,
        epoch: u64,
    ) -> Result<(), OperationError> {
        self.pdp.replica.catch_up(epoch).await?;
        let request = AccessRequest::new(EntityUid::action(ACTION), self.zone());
        if self.may(credential, &request).await? {
            return Ok(());
        }
        match self.read(credential, ACTION).await {
            Err(OperationError::Denied(decision)) => Err(match decision.verdict.deny {
                Some(DenyReason::Suspended) => OperationError::Contained(Standing::Suspended),
                Some(DenyReason::Isolated) => OperationError::Contained(Standing::Isolated),
                Some(DenyReason::Revoked) => OperationError::Contained(Standing::Revoked),
                Some(DenyReason::Locked) => OperationError::Contained(Standing::KeyLocked),
                _ => OperationError::Denied(decision),
            }),
            other => other.map(drop),
        }
    }
}

impl Follower {
    /// What comes next: events, or a heartbeat when its time has come.
    ///
    /// # Errors
    /// The caller may not any more; the server stops; what comes next is not kept any more.
    pub(crate) async fn next(&mut self) -> Result<Told, OperationError> {
        loop {
            if *self.stopping.borrow() {
                return Err(OperationError::Stopping);
            }
            let end = *self.tail.borrow_and_update();
            self.end = end;
            // Before anything is read.
            self.require_reader().await?;
            if self.next < end.size {
                let events = self.look(end.size).await?;
                if !events.is_empty() || self.next < end.size {
                    return Ok(self.told(events, end));
                }
            }
            if Instant::now() >= self.beat {
                return Ok(self.told(Vec::new(), end));
            }
            self.wait().await;
        }
    }

    /// Whether there is a state of the registry and the policies, or a time, in which it was
    /// not looked whether the reader may have what was told last.
    pub(crate) fn is_outdated(&self) -> bool {
        self.states.has_changed().unwrap_or(true) || self.checked.elapsed() > FRESH
    }

    /// # Errors
    /// The reader may not have what is told: on record, and named.
    pub(crate) async fn require_reader(&mut self) -> Result<(), OperationError> {
        let _ = self.states.borrow_and_update();
        let operations = &self.operations;
        operations
            .require_reader(&self.credential, self.end.epoch)
            .await?;
        self.checked = Instant::now();
        Ok(())
    }

    async fn look(&mut self, size: u64) -> Result<Vec<StoredEvent>, OperationError> {
        let operations = &self.operations;
        let places = self.next..size;
        let scanned = scan(&operations.store, &self.filter, places, false, ROOM).await?;
        // Asked after the look: what is gone by now may have been gone before it.
        operations.require_kept(self.next).await?;
        self.next = scanned.rest.start;
        self.looked = Some(Instant::now());
        Ok(scanned.events)
    }

    fn told(&mut self, events: Vec<StoredEvent>, end: End) -> Told {
        self.beat = Instant::now() + self.operations.watches.heartbeat;
        Told {
            events,
            next: self.next,
            log_size: end.size,
            time: (self.operations.pdp.clock)(),
        }
    }

    /// Returns when there may be something to tell or to refuse.
    async fn wait(&mut self) {
        let paced = self.looked.map(|at| at + PACE);
        tokio::select! {
            _ = self.stopping.wait_for(|stop| *stop) => {}
            () = tokio::time::sleep_until(self.beat) => {}
            _ = self.states.changed() => {}
            () = async {
                let _ = self.tail.changed().await;
                if let Some(paced) = paced {
                    tokio::time::sleep_until(paced).await;
                }
            } => {}
        }
    }
}
