//! What became of permitted calls, told to the server in the background.
//!
//! No call waits for it and none fails of it: a bounded queue, a task, batches. What cannot
//! be told is counted. The server takes the same report twice as one, so what got no answer
//! is told again.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::{Code, Status};
use zta_proto::v1::{self, report_outcome_item::Result as Item};

use crate::{client::Client, decision::Decision, error::Error};

/// Outcomes that may wait; of more, the newest are lost.
const QUEUE_MAX: usize = 4096;
/// Outcomes of one call.
const BATCH_MAX: usize = 256;
/// How long the first of a batch waits for others.
const LINGER: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What became of a call that was allowed. It holds no result and no text of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    error: Option<String>,
    duration: Option<Duration>,
    size_bytes: Option<u64>,
    labels: Vec<String>,
}

impl Outcome {
    /// The call ended with a result.
    #[must_use]
    pub fn ok() -> Self {
        Self::default()
    }

    /// The call failed. `class` is the kind of its error, a short word such as
    /// `TimeoutError` or `http.503` (at most 128 of `A-Za-z0-9_.:-`), or empty; anything
    /// else is left out.
    #[must_use]
    pub fn error(class: &str) -> Self {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
        let class = match class.len() <= 128 && class.chars().all(fits) {
            true => class.to_owned(),
            false => String::new(),
        };
        Self {
            error: Some(class),
            ..Self::default()
        }
    }

    /// From the decision until the result.
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = Some(duration);
        self
    }

    /// The size of the result in bytes.
    #[must_use]
    pub fn size_bytes(mut self, size_bytes: u64) -> Self {
        self.size_bytes = Some(size_bytes);
        self
    }

    /// What is said of the result, for example `pii`: at most 16 words, each of at most
    /// 64 of `A-Za-z0-9_.:/-`.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.labels.push(label.into());
        self
    }

    fn of(self, decision: &Decision) -> v1::CallOutcome {
        let result = match self.error {
            Some(_) => v1::CallResult::Error,
            None => v1::CallResult::Ok,
        };
        v1::CallOutcome {
            decision_id: decision.decision_id.clone(),
            result: result.into(),
            error_class: self.error.unwrap_or_default(),
            size_bytes: self.size_bytes,
            duration_us: self
                .duration
                .map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
            labels: self.labels,
        }
    }
}

/// The way to the background task, which ends with the last of its guards.
#[derive(Debug)]
pub(crate) struct Reporter {
    queue: OnceLock<mpsc::Sender<v1::CallOutcome>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Queued, or on their way.
    untold: AtomicUsize,
    lost: AtomicU64,
    settled: Notify,
    hurried: Notify,
}

impl Counts {
    fn settle(&self, told: usize) {
        if self.untold.fetch_sub(told, Ordering::AcqRel) == told {
            self.settled.notify_waiters();
        }
    }

    fn lose(&self, count: usize, why: &str) {
        self.lost.fetch_add(count as u64, Ordering::Relaxed);
        tracing::warn!(count, why, "outcomes are not on record");
    }
}

impl Reporter {
    pub(crate) fn new() -> Self {
        Self {
            queue: OnceLock::new(),
            counts: Arc::default(),
        }
    }

    pub(crate) fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Queues a report; where there is no room, or no runtime to tell it, it is lost.
    pub(crate) fn put(&self, client: &Client, decision: &Decision, outcome: Outcome) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return self.counts.lose(1, "no runtime");
        };
        let queue = self.queue.get_or_init(|| {
            let (sender, receiver) = mpsc::channel(QUEUE_MAX);
            let task = tell_all(client.clone(), receiver, Arc::clone(&self.counts));
            runtime.spawn(task);
            sender
        });
        self.counts.untold.fetch_add(1, Ordering::AcqRel);
        if queue.try_send(outcome.of(decision)).is_err() {
            self.counts.settle(1);
            self.counts.lose(1, "the queue is full");
        }
    }

    /// Waits until nothing is queued; whether that came about in time.
    pub(crate) async fn flush(&self, within: Duration) -> bool {
        let settled = async {
            loop {
                let notified = self.counts.settled.notified();
                if self.counts.untold.load(Ordering::Acquire) == 0 {
                    return;
                }
                self.counts.hurried.notify_one();
                notified.await;
            }
        };
        timeout(within, settled).await.is_ok()
    }
}

async fn tell_all(client: Client, mut queue: mpsc::Receiver<v1::CallOutcome>, counts: Arc<Counts>) {
    loop {
        let mut batch = Vec::new();
        if queue.recv_many(&mut batch, BATCH_MAX).await == 0 {
            return;
        }
        let until = Instant::now() + LINGER;
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            let more = tokio::select! {
                more = timeout_at(until, queue.recv_many(&mut batch, room)) => more.unwrap_or(0),
                () = counts.hurried.notified() => 0,
            };
            if more == 0 {
                break;
            }
        }
        tell(&client, batch, &queue, &counts).await;
    }
}

/// Tells the server until it has answered; once only where nobody is left to wait for it.
async fn tell(
    client: &Client,
    mut batch: Vec<v1::CallOutcome>,
    queue: &mpsc::Receiver<v1::CallOutcome>,
    counts: &Counts,
) {
    let mut wait = RETRY;
    loop {
        let (again, why) = told(client, &batch, counts).await;
        counts.settle(batch.len() - again.len());
        if again.is_empty() {
            return;
        }
        if queue.is_closed() {
            counts.lose(again.len(), &why);
            return counts.settle(again.len());
        }
        batch = again;
        sleep(wait).await;
        wait = (2 * wait).min(RETRY_MAX);
    }
}

/// Tells the server once; what to tell again, and why.
async fn told(
    client: &Client,
    batch: &[v1::CallOutcome],
    counts: &Counts,
) -> (Vec<v1::CallOutcome>, String) {
    let outcomes = batch.to_vec();
    let request = v1::ReportOutcomeRequest { outcomes };
    let answer = client.authorization().report_outcome(request).await;
    let items = match answer.map(|answer| answer.into_inner().items) {
        Ok(items) if items.len() == batch.len() => items,
        Ok(_) => {
            counts.lose(batch.len(), "the answer does not have one item per outcome");
            return (Vec::new(), String::new());
        }
        Err(status) => {
            let code = status.code();
            let (why, by_server) = why(status);
            // What is not the server's own word is a connection that broke; a server that
            // does not know of outcomes will not learn of them by being asked again.
            let passes = match by_server {
                true => matches!(code, Code::Unavailable),
                false => code != Code::Unimplemented,
            };
            if passes {
                return (batch.to_vec(), why);
            }
            counts.lose(batch.len(), &why);
            return (Vec::new(), why);
        }
    };
    let (mut again, mut why) = (Vec::new(), String::new());
    for (outcome, item) in batch.iter().zip(items) {
        match item.result {
            Some(Item::Recorded(_)) => {}
            Some(Item::Error(error)) if error.code == Code::Unavailable as i32 => {
                why = error.reason;
                again.push(outcome.clone());
            }
            Some(Item::Error(error)) => counts.lose(1, &error.reason),
            None => counts.lose(1, "an item that says nothing"),
        }
    }
    (again, why)
}

/// The reason of a failure, and whether the server gave it; its sentence is not logged.
fn why(status: Status) -> (String, bool) {
    let code = status.code();
    let error = Error::from(status);
    match error.reason() {
        Some(reason) => (reason.to_owned(), true),
        None => (format!("{code:?}"), false),
    }
}
