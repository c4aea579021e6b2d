//! The steps of a stream, each in a task of its own.
//!
//! HTTP/2 polls the body of an answer only while its connection has room. A step that was
//! polled by it alone would stop wherever it was for as long as a reader does not read, with
//! a connection to the database in its hands; a few such streams would have them all.

use tokio::task::JoinSet;
use tonic::Status;

use crate::api::status::internal;

/// Does the work to its end, whoever polls this; dropped, it ends the work.
pub(super) async fn step<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Status> {
    let mut task = JoinSet::new();
    task.spawn(work);
    match task.join_next().await {
        Some(Ok(done)) => Ok(done),
        Some(Err(error)) => Err(internal(&error)),
        None => Err(internal(&"a step of a stream did not begin")),
    }
}
