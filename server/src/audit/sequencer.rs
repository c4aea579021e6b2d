//! The one writer of the log on this replica, and the only place where events get their
//! sequence.
//!
//! Calls queue; while one batch is in COMMIT the next one collects. Each batch is one
//! transaction under the lock of the head row: the epoch is compared, changes are made,
//! events are written, the frontier moves on. Nobody is answered before the COMMIT is.
//!
//! What if we crash here: before COMMIT nothing happened and nobody was answered; after
//! it, events stand in the log whose callers never heard of them. The reverse, an answer
//! without its event, cannot happen.

mod outage;
mod reports;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use uuid::Uuid;

use super::merkle::Frontier;
use super::record::{AppendError, Appended, Record};
use super::tail::Tail;
use crate::model::Change;
use crate::model::change::GenerationUse;
use crate::store::{AuditTx, LogHead, PreparedEvent, SharedStore, StoreError};

/// Events that may wait for the writer; the next one is refused.
pub const QUEUE_MAX: usize = 8192;
/// Events of one transaction.
pub const BATCH_MAX: usize = 512;
/// Events that commit together because their caller asked for them together.
pub const UNIT_MAX: usize = 256;
/// How often the outcome of a COMMIT without an answer is looked up before giving up.
const LOOKUPS_MAX: u32 = 20;

use outage::Outage;
pub use reports::REPORTS_MAX;
use reports::{REPORTS_BATCH_MAX, refuse_repeated, reported_once, witness};

/// What commits together and is answered together: one event, or several decisions of
/// one epoch.
struct Submission {
    events: Vec<PreparedEvent>,
    epoch: Option<u64>,
    /// Only with one event.
    change: Option<Change>,
    rider: Option<GenerationUse>,
    /// Of an event that the log holds at most once, by its id: before which place it was
    /// looked for and not found.
    once: Option<u64>,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<Appended, AppendError>>;

/// A submission on its way; its events count as waiting until the writer takes it.
type Queued = (Submission, OwnedSemaphorePermit);

impl Submission {
    /// Whether it reports what happened, whoever waits for its record.
    fn is_fact(&self) -> bool {
        self.epoch.is_none() && self.change.is_none()
    }
}

/// The way to the writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {
    log_id: Uuid,
    queue: mpsc::UnboundedSender<Queued>,
    /// What bounds the queue: a permit is an event.
    room: Arc<Semaphore>,
    /// The queue of reports, and what bounds it.
    reports: mpsc::UnboundedSender<Queued>,
    reports_room: Arc<Semaphore>,
    failing: Arc<AtomicBool>,
    tail: Tail,
}

impl Audit {
    /// The way to a writer on this store, and the writer itself, to be run as a task.
    pub fn new(log_id: Uuid, store: SharedStore) -> (Self, Sequencer) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let (reports, reports_receiver) = mpsc::unbounded_channel();
        let failing = Arc::new(AtomicBool::new(false));
        let audit = Self {
            log_id,
            queue,
            room: Arc::new(Semaphore::new(QUEUE_MAX)),
            reports,
            reports_room: Arc::new(Semaphore::new(REPORTS_MAX)),
            failing: Arc::clone(&failing),
            tail: Tail::default(),
        };
        let sequencer = Sequencer {
            store,
            tail: audit.tail.clone(),
            receiver,
            reports: reports_receiver,
            next: None,
            failing,
            outage: Outage::default(),
        };
        (audit, sequencer)
    }

    /// Whether the log can be written: a transaction can begin and, if the last batch
    /// failed, one commits again. A full disk shows at a COMMIT and not before it.
    ///
    /// # Errors
    /// What the store says.
    pub async fn probe(&self, store: &SharedStore) -> Result<(), StoreError> {
        let tx = store.begin().await?;
        if self.failing.load(Ordering::Relaxed) {
            // Only a change makes a database write. A higher epoch is one that says
            // nothing: replicas look, and find no news.
            let mut head = tx.head().clone();
            head.epoch += 1;
            tx.commit(&head).await?;
            self.failing.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The log.
    pub fn log_id(&self) -> Uuid {
        self.log_id
    }

    /// Where the log ends.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// How many events wait.
    pub fn queued(&self) -> usize {
        QUEUE_MAX - self.room.available_permits()
    }

    /// Puts an event on record and returns once it is durable.
    ///
    /// # Errors
    /// See [`AppendError`]; the event then has no place in the log that the caller
    /// could name, and nothing may be answered on the strength of it.
    pub async fn append(&self, record: Record) -> Result<Appended, AppendError> {
        let event = Record::prepare(record.event, record.inputs)?;
        let changes = (record.change, record.rider);
        self.submit(vec![event], record.epoch, changes).await
    }

    /// Puts decisions of one epoch on record, in one transaction and at consecutive
    /// places, and returns once they are durable: all of them or none.
    ///
    /// # Errors
    /// As [`Audit::append`]; [`AppendError::Overloaded`] for none or more than [`UNIT_MAX`].
    pub async fn append_all(
        &self,
        events: Vec<PreparedEvent>,
        epoch: u64,
        rider: Option<GenerationUse>,
    ) -> Result<Appended, AppendError> {
        if !(1..=UNIT_MAX).contains(&events.len()) {
            return Err(AppendError::Overloaded);
        }
        self.submit(events, Some(epoch), (None, rider)).await
    }

    async fn submit(
        &self,
        events: Vec<PreparedEvent>,
        epoch: Option<u64>,
        (change, rider): (Option<Change>, Option<GenerationUse>),
    ) -> Result<Appended, AppendError> {
        let places = u32::try_from(events.len()).map_err(|_| AppendError::Overloaded)?;
        let permit = Arc::clone(&self.room)
            .try_acquire_many_owned(places)
            .map_err(|_| AppendError::Overloaded)?;
        let (reply, answer) = oneshot::channel();
        let submission = Submission {
            events,
            epoch,
            change,
            rider,
            once: None,
            reply,
        };
        self.queue
            .send((submission, permit))
            .map_err(|_| AppendError::Closed)?;
        answer.await.map_err(|_| AppendError::Closed)?
    }
}

/// The writer. One per replica; the head row's lock orders replicas.
pub struct Sequencer {
    store: SharedStore,
    tail: Tail,
    receiver: mpsc::UnboundedReceiver<Queued>,
    reports: mpsc::UnboundedReceiver<Queued>,
    /// Taken, but too large for the batch that was being filled.
    next: Option<Submission>,
    failing: Arc<AtomicBool>,
    outage: Outage,
}

/// A batch inside its transaction.
struct Batch {
    head: LogHead,
    frontier: Frontier,
    first: u64,
    events: Vec<PreparedEvent>,
    waiting: Vec<Waiting>,
}

/// A submission whose events stand in the batch.
struct Waiting {
    events: usize,
    epoch: Option<u64>,
    change: Option<Change>,
    rider: Option<GenerationUse>,
    once: Option<u64>,
    reply: Reply,
}

impl Sequencer {
    /// Writes batches until every [`Audit`] is gone.
    pub async fn run(mut self) {
        while let Some(mut batch) = self.take().await {
            // A caller that went away before its batch began needs no decision on record:
            // it has had no answer and will get none. What happened stays a fact.
            batch.retain(|s| s.is_fact() || !s.reply.is_closed());
            if !batch.is_empty() {
                let works = self.commit_or_split(batch).await;
                self.failing.store(!works, Ordering::Relaxed);
            }
        }
    }

    /// Waits for a submission and takes what waits with it, up to a batch; then some
    /// reports, however many decisions there are, so that they do not wait for ever.
    async fn take(&mut self) -> Option<Vec<Submission>> {
        let first = match self.next.take() {
            Some(first) => first,
            None => tokio::select! {
                biased;
                Some((submission, _permit)) = self.receiver.recv() => submission,
                Some((report, _permit)) = self.reports.recv() => report,
                else => return None,
            },
        };
        let mut events = first.events.len();
        let mut batch = vec![first];
        while events < BATCH_MAX
            && let Ok((submission, _permit)) = self.receiver.try_recv()
        {
            events += submission.events.len();
            if events > BATCH_MAX {
                self.next = Some(submission);
                break;
            }
            batch.push(submission);
        }
        let reports = std::iter::from_fn(|| self.reports.try_recv().ok());
        batch.extend(
            reports
                .take(REPORTS_BATCH_MAX)
                .map(|(report, _permit)| report),
        );
        Some(batch)
    }

    /// Commits a batch. If the store refuses it for what is in it, each submission gets a
    /// transaction of its own, so that one bad event does not poison the rest. Says whether
    /// the store works, whatever it thought of the events.
    async fn commit_or_split(&mut self, batch: Vec<Submission>) -> bool {
        let (store, tail) = (&self.store, &self.tail);
        match commit(store, tail, batch).await {
            Ok(()) => {
                self.outage.over();
                true
            }
            Err((batch, error)) if batch.len() > 1 && matches!(error, StoreError::Refused(_)) => {
                let mut works = true;
                for submission in batch {
                    if let Err((one, error)) = commit(store, tail, vec![submission]).await {
                        works &= self.outage.fail(one, &error);
                    }
                }
                works
            }
            Err((batch, error)) => self.outage.fail(batch, &error),
        }
    }
}

/// One transaction. On an error the submissions come back, unanswered.
async fn commit(
    store: &SharedStore,
    tail: &Tail,
    submissions: Vec<Submission>,
) -> Result<(), (Vec<Submission>, StoreError)> {
    let (ids, since) = reported_once(&submissions);
    let (mut tx, on_record) = match store.begin_with(&ids, since).await {
        Ok(begun) => begun,
        Err(error) => return Err((submissions, error)),
    };
    let head = tx.head().clone();
    let Some(frontier) = Frontier::new(head.size, head.frontier.clone()) else {
        let error = StoreError::Corrupt("the head's frontier does not fit its size".to_owned());
        return Err((submissions, error));
    };
    let mut kept = Vec::with_capacity(submissions.len());
    let mut refused = Vec::new();
    let mut epoch = head.epoch;
    // Decisions stand before changes: they were made in the epoch that the changes end.
    let (decisions, changes): (Vec<_>, Vec<_>) =
        submissions.into_iter().partition(|s| s.change.is_none());
    for submission in decisions {
        match submission.epoch.is_some_and(|decided| decided != epoch) {
            true => refused.push((submission, AppendError::Stale { epoch })),
            false => kept.push(submission),
        }
    }
    refuse_repeated(on_record, &mut kept, &mut refused);
    let mut changes = changes.into_iter();
    while let Some(submission) = changes.next() {
        match apply(tx.as_mut(), &submission, &mut epoch).await {
            Ok(()) => kept.push(submission),
            Err(Ok(refusal)) => refused.push((submission, refusal)),
            Err(Err(error)) => {
                kept.push(submission);
                kept.extend(changes);
                kept.extend(refused.into_iter().map(|(s, _)| s));
                return Err((kept, error));
            }
        }
    }
    if let Err(error) = ride(tx.as_mut(), &kept, epoch).await {
        kept.extend(refused.into_iter().map(|(s, _)| s));
        return Err((kept, error));
    }
    let batch = Batch {
        first: head.size,
        head: LogHead { epoch, ..head },
        frontier,
        events: Vec::new(),
        waiting: Vec::new(),
    };
    let result = write((store, tail), tx, batch, kept).await;
    match result {
        Ok(()) => {
            for (submission, refusal) in refused {
                let _ = submission.reply.send(Err(refusal));
            }
            Ok(())
        }
        Err((mut back, error)) => {
            back.extend(refused.into_iter().map(|(s, _)| s));
            Err((back, error))
        }
    }
}

/// Makes a change; the inner `Err` of the error is the store's, the inner `Ok` a refusal
/// of this one change.
async fn apply(
    tx: &mut dyn AuditTx,
    submission: &Submission,
    epoch: &mut u64,
) -> Result<(), Result<AppendError, StoreError>> {
    if submission.epoch.is_some_and(|decided| decided != *epoch) {
        return Err(Ok(AppendError::Stale { epoch: *epoch }));
    }
    let Some(change) = &submission.change else {
        return Ok(());
    };
    let next = *epoch + u64::from(change.bumps_epoch());
    match tx.apply(change, next).await {
        Ok(Ok(())) => {
            *epoch = next;
            Ok(())
        }
        Ok(Err(conflict)) => Err(Ok(AppendError::Conflict(conflict))),
        Err(error) => Err(Err(error)),
    }
}

/// Writes what rides with the events that are kept, each once: many calls of one key may
/// be the first of its certificate.
async fn ride(tx: &mut dyn AuditTx, kept: &[Submission], epoch: u64) -> Result<(), StoreError> {
    let mut written: Vec<GenerationUse> = Vec::new();
    for rider in kept.iter().filter_map(|s| s.rider) {
        if written.contains(&rider) {
            continue;
        }
        let change = Change::UseGeneration(rider);
        if let Err(conflict) = tx.apply(&change, epoch).await? {
            return Err(StoreError::Refused(conflict.to_string()));
        }
        written.push(rider);
    }
    Ok(())
}

/// Inserts, commits and answers.
async fn write(
    (store, tail): (&SharedStore, &Tail),
    mut tx: Box<dyn AuditTx>,
    mut batch: Batch,
    submissions: Vec<Submission>,
) -> Result<(), (Vec<Submission>, StoreError)> {
    if submissions.is_empty() {
        return Ok(());
    }
    for submission in submissions {
        for event in &submission.events {
            batch.frontier.push(event.leaf_hash);
        }
        batch.waiting.push(Waiting {
            events: submission.events.len(),
            epoch: submission.epoch,
            change: submission.change,
            rider: submission.rider,
            once: submission.once,
            reply: submission.reply,
        });
        batch.events.extend(submission.events);
    }
    batch.head.size = batch.frontier.size();
    batch.head.frontier = batch.frontier.roots().to_vec();
    let written = match tx.insert(batch.first, &batch.events).await {
        Ok(()) => tx.commit(&batch.head).await,
        Err(error) => Err(error),
    };
    let first = match written {
        Ok(()) => batch.first,
        Err(StoreError::CommitUnknown(why)) => match look_up(store, &batch, &why).await {
            Ok(sequence) => sequence,
            Err(error) => return Err((rejoin(batch), error)),
        },
        Err(error) => return Err((rejoin(batch), error)),
    };
    let epoch = batch.head.epoch;
    tail.saw(first + batch.events.len() as u64, epoch);
    let mut sequence = first;
    for waiting in batch.waiting {
        let _ = waiting.reply.send(Ok(Appended { sequence, epoch }));
        sequence += waiting.events as u64;
    }
    Ok(())
}

fn rejoin(batch: Batch) -> Vec<Submission> {
    let mut events = batch.events.into_iter();
    let rejoin = |waiting: Waiting| Submission {
        events: events.by_ref().take(waiting.events).collect(),
        epoch: waiting.epoch,
        change: waiting.change,
        rider: waiting.rider,
        once: waiting.once,
        reply: waiting.reply,
    };
    batch.waiting.into_iter().map(rejoin).collect()
}

/// Whether a COMMIT without an answer took effect: a batch is there whole or not at all,
/// so one event tells where it begins. Where all are reports, nobody can tell, and they are
/// told so: a report may be repeated.
async fn look_up(store: &SharedStore, batch: &Batch, why: &str) -> Result<u64, StoreError> {
    let Some((place, event)) = witness(batch) else {
        return Err(StoreError::Unavailable(why.to_owned()));
    };
    tracing::warn!(%why, "a commit got no answer; looking its outcome up");
    let mut last = StoreError::Unavailable(why.to_owned());
    for attempt in 1..=LOOKUPS_MAX {
        match store.find(event.columns.event_id).await {
            Ok(Some(sequence)) => return Ok(sequence.saturating_sub(place)),
            Ok(None) => {
                return Err(StoreError::Unavailable(format!(
                    "the commit did not take effect: {why}"
                )));
            }
            Err(error) => last = error,
        }
        tokio::time::sleep(Duration::from_millis(u64::from(attempt) * 50)).await;
    }
    Err(last)
}
