//! The log as it grows: a stream of events that goes on by itself after a cut.

use std::{collections::VecDeque, time::Duration};

use tokio::time::{sleep, timeout};
use tonic::{Code, Streaming};
use zta_proto::v1::{self, audit_service_client::AuditServiceClient, watch_events_request::Start};

use crate::{client::Client, error::Error};

/// How long one connection of a stream may last; then it goes on over another one.
const CONNECTION_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a server may say nothing: several of its heartbeats.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// The first wait before another attempt; each further one is twice as long.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Events of the log in order, each once. A cut connection, a server that stops or starts,
/// an expired certificate: it goes on where it was. See [`Client::watch_events`].
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    /// What is asked for; without where it begins.
    request: v1::WatchEventsRequest,
    stream: Option<Streaming<v1::WatchEventsResponse>>,
    waiting: VecDeque<v1::AuditEvent>,
    /// Where to go on once nothing waits.
    reached: String,
    /// Where to go on after the last event that was handed out.
    cursor: String,
    attempts: u32,
}

impl Client {
    /// Follows the log from the request's cursor or place, or from now on. What was appended
    /// after this returned is not missed.
    ///
    /// Keep [`EventStream::cursor`] where it survives the process, together with what was
    /// made of the events, and begin with it the next time: nothing is lost or repeated.
    ///
    /// # Errors
    /// The server refuses: the caller may not read the log, a filter or the cursor is no good,
    /// or there are too many streams. Nothing is tried again before the stream has begun.
    pub async fn watch_events(
        &self,
        mut request: v1::WatchEventsRequest,
    ) -> Result<EventStream, Error> {
        let start = request.start.take();
        let mut events = EventStream {
            client: self.clone(),
            request,
            stream: None,
            waiting: VecDeque::new(),
            reached: String::new(),
            cursor: String::new(),
            attempts: 0,
        };
        events.open(start).await?;
        // The first answer comes at once. It fixes where `now` was.
        events.take().await?;
        Ok(events)
    }

    async fn event_answers(
        &self,
        request: v1::WatchEventsRequest,
    ) -> Result<Streaming<v1::WatchEventsResponse>, Error> {
        let connection = self.connection().with_timeout(CONNECTION_MAX);
        let mut audit = AuditServiceClient::new(connection);
        let answered = timeout(self.connection().timeout(), audit.watch_events(request)).await;
        let late = |_| tonic::Status::deadline_exceeded("no answer in time");
        Ok(answered.map_err(late)??.into_inner())
    }
}

impl EventStream {
    /// The next event. Waits for as long as it takes, over as many connections. It may be
    /// dropped while it waits, and called again.
    ///
    /// # Errors
    /// What no other attempt can mend: the caller may not read the log any more, or what comes
    /// next is not kept. Then the stream has ended.
    pub async fn next(&mut self) -> Result<v1::AuditEvent, Error> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                self.cursor = match self.waiting.is_empty() {
                    true => self.reached.clone(),
                    false => after(&self.reached, event.sequence),
                };
                return Ok(event);
            }
            self.cursor.clone_from(&self.reached);
            let taken = match self.stream {
                Some(_) => self.take().await,
                None => self.open(Some(Start::Cursor(self.reached.clone()))).await,
            };
            match taken {
                Ok(()) => {}
                Err(error) if self.goes_on(&error) => {
                    self.stream = None;
                    let wait = WAIT_MIN * 2_u32.saturating_pow(self.attempts.min(10));
                    self.attempts += 1;
                    sleep(wait.min(WAIT_MAX)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Where to go on after the last event that was handed out: worth keeping. Heartbeats
    /// move it, too, while the next event is waited for.
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    async fn open(&mut self, start: Option<Start>) -> Result<(), Error> {
        let request = v1::WatchEventsRequest {
            start,
            ..self.request.clone()
        };
        self.stream = Some(self.client.event_answers(request).await?);
        Ok(())
    }

    /// One answer of the server.
    async fn take(&mut self) -> Result<(), Error> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        let told = match timeout(SILENCE_MAX, stream.message()).await {
            Ok(told) => told?,
            Err(_) => return Err(cut("the server said nothing for too long")),
        };
        let told = told.ok_or_else(|| cut("the server ended the stream"))?;
        if self.cursor.is_empty() {
            self.cursor = told.events.first().map_or_else(
                || told.cursor.clone(),
                |first| at(&told.cursor, first.sequence),
            );
        }
        self.waiting = told.events.into();
        self.reached = told.cursor;
        self.attempts = 0;
        Ok(())
    }

    /// Whether another attempt can mend it. A stream that had begun may have to wait for its
    /// own place, which the server keeps until it sees the cut; and it outlives certificates.
    fn goes_on(&self, error: &Error) -> bool {
        let Error::Rpc(rpc) = error else {
            return error.is_retriable();
        };
        let begun = self.attempts == 0 && self.stream.is_some();
        rpc.is_retriable()
            || match rpc.reason() {
                None => matches!(rpc.code(), Code::Unknown | Code::Cancelled | Code::Internal),
                Some("CERTIFICATE_EXPIRED" | "TOKEN_EXPIRED") => begun,
                Some("LIMIT_EXCEEDED") => rpc.message().starts_with("watch_streams"),
                Some(_) => false,
            }
    }
}

fn cut(why: &str) -> Error {
    tonic::Status::unavailable(why).into()
}

/// The cursor of a place in the same log: the log's id, a colon, the place.
fn at(cursor: &str, place: u64) -> String {
    let log = cursor.rsplit_once(':').map_or(cursor, |(log, _)| log);
    format!("{log}:{place}")
}

/// The cursor after an event in the same log.
fn after(cursor: &str, sequence: u64) -> String {
    at(cursor, sequence + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_keeps_its_log() {
        assert_eq!(at("0af7:12", 5), "0af7:5");
        assert_eq!(after("0af7:12", 5), "0af7:6");
    }
}
