//! What becomes of batches that could not be put on record.

use tokio::time::Instant;

use super::Submission;
use crate::audit::record::AppendError;
use crate::model::repeats::Repeats;
use crate::store::StoreError;

/// What the log says of them, counted in events.
#[derive(Debug, Default)]
pub(super) struct Outage(Repeats);

impl Outage {
    /// Answers the callers; whether the store refused the events, rather than failed.
    pub(super) fn fail(&mut self, batch: Vec<Submission>, error: &StoreError) -> bool {
        let events: usize = batch.iter().map(|s| s.events.len()).sum();
        let reason = error.to_string();
        if let Some(unsaid) = self.0.admit(&reason, events, Instant::now().into_std()) {
            tracing::error!(events, unsaid, %error, "events could not be put on record");
        }
        for submission in batch {
            let answer = Err(AppendError::Store(reason.clone()));
            let _ = submission.reply.send(answer);
        }
        matches!(error, StoreError::Refused(_))
    }

    /// A batch is on record.
    pub(super) fn over(&mut self) {
        let unsaid = self.0.take();
        if unsaid > 0 {
            tracing::error!(
                unsaid,
                "more events could not be put on record; it works again"
            );
        }
    }
}
