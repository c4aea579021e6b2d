//! What is said of batches that could not be put on record. At most one line a second: an
//! outage must not fill the disk that it may have come from.

use std::time::Duration;

use tokio::time::Instant;

use super::Submission;
use crate::audit::record::AppendError;
use crate::store::StoreError;

/// How long after a line the next one may come.
const QUIET: Duration = Duration::from_secs(1);

/// What was not said yet.
#[derive(Debug, Default)]
pub(super) struct Outage {
    said: Option<Instant>,
    unsaid: usize,
}

impl Outage {
    /// Answers the callers; whether the store refused the events, rather than failed.
    pub(super) fn fail(&mut self, batch: Vec<Submission>, error: &StoreError) -> bool {
        let events: usize = batch.iter().map(|s| s.events.len()).sum();
        self.unsaid += events;
        if self.said.is_none_or(|said| said.elapsed() >= QUIET) {
            let events = std::mem::take(&mut self.unsaid);
            tracing::error!(events, %error, "events could not be put on record");
            self.said = Some(Instant::now());
        }
        for submission in batch {
            let _ = submission
                .reply
                .send(Err(AppendError::Store(error.to_string())));
        }
        matches!(error, StoreError::Refused(_))
    }
}
