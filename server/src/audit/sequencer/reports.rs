//! Reports of callers: facts that the log holds once, whoever tells them how often. They
//! wait in a queue of their own and ride with what decisions leave of a batch, so that no
//! number of them keeps a decision waiting.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Audit, Batch, Submission};
use crate::audit::record::{AppendError, Appended, Record};
use crate::model::Event;
use crate::model::change::GenerationUse;
use crate::store::PreparedEvent;

/// Reports that may wait for the writer; the next one is refused.
pub const REPORTS_MAX: usize = 4096;
/// Reports of one transaction, beside its decisions. Few, because decisions of the next
/// one wait for them.
pub(super) const REPORTS_BATCH_MAX: usize = 128;

impl Audit {
    /// Puts reports on record, each by itself, and returns once what became of all of them
    /// is durable; in their order. The id of a report's event says what it is about: one
    /// whose id is in the log is refused with [`AppendError::OnRecord`]. The caller has looked
    /// for all of them before the place `since`, and found none there.
    pub async fn report(
        &self,
        events: Vec<Event>,
        since: u64,
        rider: Option<GenerationUse>,
    ) -> Vec<Result<Appended, AppendError>> {
        let reports = events
            .into_iter()
            .map(|event| self.report_one(event, since, rider));
        join_all(reports).await
    }

    async fn report_one(
        &self,
        event: Event,
        since: u64,
        rider: Option<GenerationUse>,
    ) -> Result<Appended, AppendError> {
        let event = Record::prepare(event, None)?;
        let permit = Arc::clone(&self.reports_room)
            .try_acquire_owned()
            .map_err(|_| AppendError::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        let submission = Submission {
            events: vec![event],
            epoch: None,
            change: None,
            rider,
            once: Some(since),
            reply,
        };
        self.reports
            .send((submission, permit))
            .map_err(|_| AppendError::Closed)?;
        answer.await.map_err(|_| AppendError::Closed)?
    }
}

/// The ids of the reports among these, and the first place where not all were looked for.
pub(super) fn reported_once(submissions: &[Submission]) -> (Vec<Uuid>, u64) {
    let reports = || submissions.iter().filter_map(|s| Some((s, s.once?)));
    let since = reports().map(|(_, since)| since).min().unwrap_or(0);
    (reports().flat_map(|(s, _)| event_ids(s)).collect(), since)
}

/// Takes those out of the batch that are in the log, or in the batch before. What is in the
/// log was asked under the head's lock, so that two replicas cannot both find that one is new.
pub(super) fn refuse_repeated(
    on_record: Vec<Uuid>,
    kept: &mut Vec<Submission>,
    refused: &mut Vec<(Submission, AppendError)>,
) {
    let mut known: HashSet<Uuid> = on_record.into_iter().collect();
    let is_repeated =
        |s: &mut Submission| s.once.is_some() && !event_ids(s).all(|id| known.insert(id));
    let repeated = kept.extract_if(.., is_repeated);
    refused.extend(repeated.map(|submission| (submission, AppendError::OnRecord)));
}

fn event_ids(submission: &Submission) -> impl Iterator<Item = Uuid> {
    submission.events.iter().map(|e| e.columns.event_id)
}

/// An event that nobody but this batch can have written, with its place in it: not a
/// report, whose id another replica's report of the same may have put into the log.
pub(super) fn witness(batch: &Batch) -> Option<(u64, &PreparedEvent)> {
    let mut place = 0;
    for waiting in &batch.waiting {
        if waiting.once.is_none() {
            return Some((place as u64, batch.events.get(place)?));
        }
        place += waiting.events;
    }
    None
}
