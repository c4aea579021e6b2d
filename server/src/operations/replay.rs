//! Replay: decisions of the log, made again under a candidate that is not in force.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::audit::require_event;
use super::policies::{blocking, source_of};
use super::submission::{Candidate, gates};
use super::{OperationError, Operations};
use crate::identity::registry::Credential;
use crate::model::{AccessRequest, EntityUid, EventType};
use crate::pdp::PdpError;
use crate::pdp::recorded::{self, NotReplayable, Outcome, RecordedDecision};
use crate::pdp::replay::{Past, Tally, decide_again};
use crate::policy::{PolicySource, SharedSet, parallel};
use crate::store::{ENTITY_PAGE, EventFilter, SharedStore, StoreError, StoredEvent};

/// Decisions that are read at once.
const PAGE: u32 = 2_048;
/// Fewer than these are no work for a second core.
const PARALLEL_MIN: usize = 256;
/// Decisions of one replay.
pub(crate) const DECISIONS_MAX: u64 = 100_000_000;
/// How often entities are read anew from the beginning, because those of an epoch did not
/// fit; after that the rest counts as not fitting.
const RELOADS_MAX: u32 = 100;

/// Which decisions.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// Of the log, beside the type.
    pub(crate) filter: EventFilter,
    /// Of each 2^32 decisions so many, chosen by the random part of their ids: the same
    /// ones each time.
    pub(crate) sample: Option<u32>,
    /// How many at most, the oldest first.
    pub(crate) decisions_max: u64,
}

impl Selection {
    fn takes(&self, id: uuid::Uuid) -> bool {
        let low = id.as_u128() & u128::from(u32::MAX);
        self.sample.is_none_or(|sample| low < u128::from(sample))
    }
}

/// Under what.
pub(crate) enum Subject {
    /// A policy set that is not in force.
    Candidate(Candidate),
    /// One that is, or was.
    Revision(u64),
}

/// How far a replay is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Decisions that were made again, so far.
    pub(crate) replayed: u64,
    /// The place in the log that was reached.
    pub(crate) sequence: u64,
    /// Where it ends.
    pub(crate) end_sequence: u64,
}

/// What a replay found.
pub(crate) struct Replayed {
    /// The counts.
    pub(crate) tally: Tally,
    /// Whether there were more decisions than were asked for.
    pub(crate) truncated: bool,
}

impl Operations {
    /// Makes decisions of the log again, under a candidate that has passed the gates. The
    /// caller is looked at again with each page: who may not read any more, learns no more.
    pub(crate) async fn replay(
        &self,
        credential: &Credential,
        subject: Subject,
        selection: Selection,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<Replayed, OperationError> {
        self.read(credential, "replay_policy").await?;
        let _turn = self
            .replays
            .try_acquire()
            .map_err(|_| OperationError::ReplayRunning)?;
        let base = self.pdp.replica.current().revision.clone();
        let base = base.ok_or(PdpError::NotReady)?;
        let candidate = match subject {
            Subject::Candidate(candidate) => candidate,
            Subject::Revision(number) => Candidate::Source(self.stored(number).await?),
        };
        let candidate = blocking(move || gates(candidate, &base.compiled)).await??;
        let candidate = candidate.map_err(OperationError::PolicyInvalid)?;
        let end = self.store.head().await?.size;
        let kept = self.kept_from().await?;
        let mut run = Run {
            store: Arc::clone(&self.store),
            candidate,
            past: Some(Past::default()),
            epoch: 0,
            reloads: 0,
            tally: Tally::default(),
        };
        let request = AccessRequest::new(EntityUid::action("replay_policy"), self.zone());
        let mut reader = Reader::new(&self.store, &selection, kept..end);
        let mut page = reader.next().await?;
        while let Some(events) = page {
            // The next page is read while this one is decided.
            let (done, next) = tokio::join!(run.page(events), reader.next());
            done?;
            page = next?;
            if !self.may(credential, &request).await? {
                return Err(OperationError::NoLongerPermitted);
            }
            let told = progress.send(Progress {
                replayed: run.tally.replayed,
                sequence: reader.next.saturating_sub(1),
                end_sequence: end,
            });
            if told.await.is_err() {
                // Nobody listens any more.
                break;
            }
        }
        Ok(Replayed {
            tally: run.tally,
            truncated: reader.truncated,
        })
    }
}

impl Operations {
    /// The files of a revision.
    async fn stored(&self, number: u64) -> Result<PolicySource, OperationError> {
        let manifest = self.store.revision(number).await?;
        let manifest = manifest.ok_or(OperationError::RevisionNotFound(number))?;
        Ok(source_of(&self.store, manifest.files).await?)
    }
}

/// Reads what is selected, page by page.
struct Reader<'a> {
    store: &'a SharedStore,
    selection: &'a Selection,
    filter: EventFilter,
    end: u64,
    /// The place after the last one that was read.
    next: u64,
    begun: bool,
    ended: bool,
    left: u64,
    truncated: bool,
}

impl<'a> Reader<'a> {
    fn new(store: &'a SharedStore, selection: &'a Selection, places: Range<u64>) -> Self {
        let filter = EventFilter {
            types: vec![EventType::Decision.as_str().to_owned()],
            with_inputs: true,
            ..selection.filter.clone()
        };
        Self {
            store,
            selection,
            filter,
            end: places.end,
            next: places.start,
            begun: false,
            ended: false,
            left: selection.decisions_max,
            truncated: false,
        }
    }

    /// # Errors
    /// [`OperationError::EventPruned`]: records were pruned before they were read.
    async fn next(&mut self) -> Result<Option<Vec<StoredEvent>>, OperationError> {
        if self.ended {
            return Ok(None);
        }
        let mut events = loop {
            let places = self.next..u64::MAX;
            let events = self.store.list(&self.filter, places, false, PAGE).await?;
            // Asked after the look, which may have passed over what was pruned meanwhile.
            match require_event(self.store, self.next).await {
                Ok(()) => break events,
                // Nothing was decided yet: it begins with what is kept by now.
                Err(OperationError::EventPruned { first, .. }) if !self.begun => self.next = first,
                Err(error) => return Err(error),
            }
        };
        self.begun = true;
        let full = events.len() == PAGE as usize;
        let last = events.last().map(|event| event.sequence);
        self.ended = !full || last.is_none_or(|last| last >= self.end);
        self.next = last.map_or(self.next, |last| last + 1);
        events.retain(|event| {
            event.sequence < self.end && self.selection.takes(event.columns.event_id)
        });
        let taken = events.len() as u64;
        if taken > self.left {
            self.truncated = true;
            self.ended = true;
            events.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        }
        self.left = self.left.saturating_sub(taken);
        Ok(Some(events))
    }
}

/// A replay under way.
struct Run {
    store: SharedStore,
    candidate: Arc<SharedSet>,
    /// What was stored in `epoch`; `None` where it does not fit the candidate's schema.
    past: Option<Past>,
    epoch: u64,
    reloads: u32,
    tally: Tally,
}

/// A decision with what was stored when it was made.
type Job = (RecordedDecision, Option<Arc<Past>>);

impl Run {
    async fn page(&mut self, events: Vec<StoredEvent>) -> Result<(), OperationError> {
        let read = move || parallel(&events, PARALLEL_MIN, recorded::read);
        let mut jobs: Vec<Job> = Vec::new();
        let mut past = self.past.clone().map(Arc::new);
        for decision in blocking(read).await? {
            let decision = match decision {
                Ok(decision) => decision,
                Err(why) => {
                    self.tally.skip(why);
                    continue;
                }
            };
            if decision.epoch != self.epoch {
                self.advance(decision.epoch).await?;
                past = self.past.clone().map(Arc::new);
            }
            jobs.push((decision, past.clone()));
        }
        let candidate = Arc::clone(&self.candidate);
        let decide = move || {
            let again = |(decision, past): &Job| -> Option<Outcome> {
                past.as_ref()
                    .map(|past| decide_again(&candidate, past, decision))
            };
            let outcomes = parallel(&jobs, PARALLEL_MIN, again);
            (jobs, outcomes)
        };
        let (jobs, outcomes) = blocking(decide).await?;
        for ((decision, _), outcome) in jobs.into_iter().zip(outcomes) {
            match outcome {
                Some(outcome) => self.tally.count(decision, outcome),
                None => self.tally.skip(NotReplayable::Misfit),
            }
        }
        Ok(())
    }

    /// Moves on to what was stored in a later epoch.
    async fn advance(&mut self, epoch: u64) -> Result<(), StoreError> {
        // Decisions stand in the log in the order of their epochs.
        if epoch < self.epoch {
            let why = format!("a decision of epoch {epoch} after one of {}", self.epoch);
            return Err(StoreError::Corrupt(why));
        }
        let (mut past, since) = match self.past.take() {
            Some(past) => (past, self.epoch),
            None if self.reloads < RELOADS_MAX => {
                self.reloads += 1;
                (Past::default(), 0)
            }
            None => {
                self.epoch = epoch;
                return Ok(());
            }
        };
        self.epoch = epoch;
        if self.follow(&mut past, since).await? {
            self.past = Some(past);
        }
        Ok(())
    }

    /// Whether the entities fit.
    async fn follow(&self, past: &mut Past, since: u64) -> Result<bool, StoreError> {
        let mut from = since;
        loop {
            let versions = self
                .store
                .party_versions(from, self.epoch, ENTITY_PAGE)
                .await?;
            let more = versions.len() == ENTITY_PAGE as usize;
            from = versions.last().map_or(from, |version| version.epoch);
            past.follow(versions);
            if !more {
                break;
            }
        }
        let types = Arc::clone(self.candidate.entity_types());
        let mut after = None;
        loop {
            let page = self
                .store
                .entity_changes(since, self.epoch, after.as_ref(), ENTITY_PAGE);
            let page = page.await?;
            if past.entities.apply(&types, &page.versions).is_err() {
                return Ok(false);
            }
            after = page.next;
            if after.is_none() {
                return Ok(true);
            }
        }
    }
}

/// The selection that a caller asks for.
///
/// # Errors
/// A sample or a number of decisions that is none.
pub(crate) fn selection(
    filter: EventFilter,
    sample: f64,
    decisions_max: u64,
) -> Result<Selection, OperationError> {
    let field = |field, why: &str| OperationError::Field {
        field,
        why: why.to_owned(),
    };
    if !(0.0..=1.0).contains(&sample) {
        return Err(field(
            "sample",
            "must be above 0 and at most 1; 0 means all",
        ));
    }
    if decisions_max > DECISIONS_MAX {
        let why = format!("must be at most {DECISIONS_MAX}; 0 means that");
        return Err(field("decisions_max", &why));
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 0 and 2^32 - 1"
    )]
    let part = (sample * f64::from(u32::MAX)).ceil() as u32;
    Ok(Selection {
        filter,
        sample: (sample > 0.0 && sample < 1.0).then_some(part),
        decisions_max: if decisions_max == 0 {
            DECISIONS_MAX
        } else {
            decisions_max
        },
    })
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;
    use crate::audit::{Audit, Record};
    use crate::model::Event;
    use crate::store::sqlite::SqliteStore;

    /// Three pages of decisions.
    async fn log(folder: &std::path::Path) -> Arc<SqliteStore> {
        let store = Arc::new(SqliteStore::with_log(folder).await);
        let (audit, sequencer) = Audit::new(Uuid::nil(), Arc::clone(&store) as _);
        tokio::spawn(sequencer.run());
        for _ in 0..3 * PAGE / 256 {
            let event = || {
                let (log, id, time) = (Uuid::nil(), Uuid::new_v4(), OffsetDateTime::UNIX_EPOCH);
                let event = Event::new(EventType::Decision, log, id, time);
                Record::prepare(event, None).expect("an event")
            };
            let events = std::iter::repeat_with(event).take(256).collect();
            let appended = audit.append_all(events, 0, None).await;
            appended.expect("on record");
        }
        store
    }

    #[tokio::test]
    async fn a_page_below_which_records_are_pruned_is_whole_and_one_that_they_were_of_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = log(folder.path()).await;
        let shared: SharedStore = Arc::clone(&store) as _;
        let selection = selection(EventFilter::default(), 1.0, DECISIONS_MAX).expect("all");
        let page = u64::from(PAGE);
        let mut reader = Reader::new(&shared, &selection, 0..3 * page);
        let first = reader.next().await.expect("a page").expect("decisions");
        assert_eq!(first.len(), PAGE as usize);

        store
            .intrude("INSERT INTO audit_pruned VALUES (2048, '', '00000000-0000-0000-0000-000000000000')")
            .await;
        let second = reader.next().await.expect("a page").expect("decisions");
        assert_eq!(second.first().map(|event| event.sequence), Some(page));

        store
            .intrude("INSERT INTO audit_pruned VALUES (4352, '', '00000000-0000-0000-0000-000000000000')")
            .await;
        let third = reader.next().await.map(|page| page.map(|page| page.len()));
        let overtaken = matches!(
            third,
            Err(OperationError::EventPruned { place, first: 4352 }) if place == 2 * page
        );
        assert!(overtaken, "{third:?}");

        // One that has not begun begins with what is kept.
        let mut reader = Reader::new(&shared, &selection, 0..3 * page);
        let first = reader.next().await.expect("a page").expect("decisions");
        assert_eq!(first.first().map(|event| event.sequence), Some(4352));
    }
}
