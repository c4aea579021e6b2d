//! Streams of answers that their reader may lose the right to.
//!
//! HTTP/2 polls the body of an answer only while its connection has room. Work that was polled
//! by it alone would stop wherever it was for as long as a reader does not read, with a
//! connection to the database in its hands; a few such streams would have them all. So each
//! answer is made in a task of its own; and as it may then wait long for room, it is looked
//! again, before it is told, whether the reader may have it.

use futures_util::{Stream, stream};
use tokio::task::JoinSet;
use tonic::Status;

use crate::api::status::internal;

/// What makes the answers of a stream.
pub(super) trait Source: Sized + Send + 'static {
    /// An answer.
    type Told: Send + 'static;

    /// The next answer, once there is one; that the reader may have it was looked at.
    fn next(&mut self) -> impl Future<Output = Result<Self::Told, Status>> + Send;
    /// Whether something can have changed since that was looked at.
    fn is_outdated(&self) -> bool;
    /// # Errors
    /// The reader may not have what is told any more: on record, and named.
    fn require_reader(&mut self) -> impl Future<Output = Result<(), Status>> + Send;
}

/// The answers, until the first error. Something is done only when the reader takes something;
/// dropped, it is done no more.
pub(super) fn stream<S: Source>(source: S) -> impl Stream<Item = Result<S::Told, Status>> + Send {
    stream::unfold(Some(source), |source| async move {
        Some(match tell(source?).await {
            Ok((source, told)) => (Ok(told), Some(source)),
            Err(status) => (Err(status), None),
        })
    })
}

async fn tell<S: Source>(mut source: S) -> Result<(S, S::Told), Status> {
    let (mut source, told) = to_its_end(async move {
        let told = source.next().await?;
        Ok((source, told))
    })
    .await?;
    while source.is_outdated() {
        source = to_its_end(async move {
            source.require_reader().await?;
            Ok(source)
        })
        .await?;
    }
    Ok((source, told))
}

/// Does the work whoever polls this; dropped, it ends the work.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    let mut task = JoinSet::new();
    task.spawn(work);
    match task.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(error)) => Err(internal(&error)),
        None => Err(internal(&"a step of a stream did not begin")),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::time::Duration;

    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;

    /// Counts its answers, for a reader who may be shut out.
    #[derive(Clone, Default)]
    struct Counting {
        made: Arc<AtomicU32>,
        outdated: Arc<AtomicBool>,
        shut_out: Arc<AtomicBool>,
    }

    impl Source for Counting {
        type Told = u32;

        async fn next(&mut self) -> Result<u32, Status> {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(self.made.fetch_add(1, Ordering::SeqCst) + 1)
        }

        fn is_outdated(&self) -> bool {
            self.outdated.load(Ordering::SeqCst)
        }

        async fn require_reader(&mut self) -> Result<(), Status> {
            self.outdated.store(false, Ordering::SeqCst);
            match self.shut_out.load(Ordering::SeqCst) {
                true => Err(Status::permission_denied("shut out")),
                false => Ok(()),
            }
        }
    }

    async fn made(source: &Counting, answers: u32) {
        while source.made.load(Ordering::SeqCst) < answers {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn an_answer_is_made_whoever_polls_and_told_only_to_who_may_still_have_it() {
        let source = Counting::default();
        let mut answers = pin!(stream(source.clone()));
        // Polled once, as by a connection that then has no room.
        assert!(answers.next().now_or_never().is_none());
        made(&source, 1).await;
        // A change that does not concern the reader.
        source.outdated.store(true, Ordering::SeqCst);
        assert!(matches!(answers.next().await, Some(Ok(1))));

        assert!(answers.next().now_or_never().is_none());
        made(&source, 2).await;
        source.shut_out.store(true, Ordering::SeqCst);
        source.outdated.store(true, Ordering::SeqCst);
        let told = answers.next().await.expect("an end that says why");
        assert_eq!(told.expect_err("shut out").message(), "shut out");
        assert!(answers.next().await.is_none());
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_ends() {
        let source = Counting::default();
        let mut answers = Box::pin(stream(source.clone()));
        assert!(answers.next().now_or_never().is_none());
        assert_eq!(Arc::strong_count(&source.made), 2, "the task has it");
        drop(answers);
        while Arc::strong_count(&source.made) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(source.made.load(Ordering::SeqCst), 0);
    }
}
