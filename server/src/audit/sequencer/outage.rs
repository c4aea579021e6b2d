//! What is said of batches that could not be put on record: each reason once a second, and not
//! many of them. An outage must not fill the disk that it may have come from.

use std::time::Duration;

use tokio::time::Instant;

use super::Submission;
use crate::audit::record::AppendError;
use crate::store::StoreError;

/// How long after a line the same one may come again.
const QUIET: Duration = Duration::from_secs(1);
/// Lines of one second.
const LINES_MAX: u32 = 10;

/// What was not said yet.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// Since when lines are counted, how many there were, and the last reason.
    since: Option<Instant>,
    lines: u32,
    reason: String,
    /// Events of failures that were not said.
    unsaid: usize,
}

impl Outage {
    /// Answers the callers; whether the store refused the events, rather than failed.
    pub(super) fn fail(&mut self, batch: Vec<Submission>, error: &StoreError) -> bool {
        let events: usize = batch.iter().map(|s| s.events.len()).sum();
        let reason = error.to_string();
        if self.is_new(&reason) {
            let unsaid = std::mem::take(&mut self.unsaid);
            tracing::error!(events, unsaid, %error, "events could not be put on record");
            self.reason.clone_from(&reason);
        } else {
            self.unsaid += events;
        }
        for submission in batch {
            let answer = Err(AppendError::Store(reason.clone()));
            let _ = submission.reply.send(answer);
        }
        matches!(error, StoreError::Refused(_))
    }

    /// A batch is on record.
    pub(super) fn over(&mut self) {
        if self.unsaid > 0 {
            let unsaid = std::mem::take(&mut self.unsaid);
            tracing::error!(
                unsaid,
                "more events could not be put on record; it works again"
            );
        }
    }

    fn is_new(&mut self, reason: &str) -> bool {
        let now = Instant::now();
        let again = self.since.is_none_or(|since| now - since >= QUIET);
        if again {
            (self.since, self.lines) = (Some(now), 0);
        }
        let new = again || (self.reason != reason && self.lines < LINES_MAX);
        self.lines += u32::from(new);
        new
    }
}
