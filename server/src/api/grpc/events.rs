//! Listing and following events of `zta.v1.AuditService`.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt as _};
use prost::Message as _;
use tonic::{Code, Response, Status};
use uuid::Uuid;
use zta_proto::v1;
use zta_proto::v1::watch_events_request::Start;

use super::told::{self, Source};
use super::{
    ID_BYTES_MAX, optional, page_size, page_token_invalid, size_in, time, timestamp, token_of,
};
use crate::api::status::{field, internal, limit, status};
use crate::identity::registry::Credential;
use crate::keys::cursor::CursorSeal;
use crate::model::arguments::sha256;
use crate::model::{Effect, EventType};
use crate::operations::Operations;
use crate::operations::audit::EventQuery;
use crate::operations::follow::{Follower, Told};
use crate::store::{EventFilter, StoredEvent};

/// What a page token of this list begins with: one of another list is none here.
const LIST: &str = "events";

pub(super) async fn list(
    operations: &Operations,
    cursors: &CursorSeal,
    credential: &Credential,
    mut request: v1::ListEventsRequest,
) -> Result<Response<v1::ListEventsResponse>, Status> {
    let size = page_size(request.page_size)?;
    let token = std::mem::take(&mut request.page_token);
    request.page_size = 0;
    // Everything that is asked for, order included, but for the page.
    let asked = hex::encode(sha256(&request.encode_to_vec()));
    let rest = match token.as_str() {
        "" => None,
        token => Some(opened(cursors, token, &asked).ok_or_else(page_token_invalid)?),
    };
    let (start_sequence, descending) = (request.start_sequence, request.descending);
    let query = EventQuery {
        filter: filter(request)?,
        start_sequence,
        descending,
        rest,
    };
    let (scanned, kept_from) = operations.list_events(credential, &query, size).await?;
    let Range { start, end } = scanned.rest;
    let next_page_token = match start < end {
        true => cursors
            .seal(&format!("{LIST}\n{asked}\n{start}\n{end}"))
            .map_err(|e| internal(&e))?,
        false => String::new(),
    };
    Ok(Response::new(v1::ListEventsResponse {
        events: scanned.events.into_iter().map(wire_event).collect(),
        next_page_token,
        scanned_until: if descending { end } else { start },
        kept_from,
    }))
}

/// What a page token says is left, if it was sealed here for the same request.
fn opened(cursors: &CursorSeal, token: &str, asked: &str) -> Option<Range<u64>> {
    let text = cursors.open(token)?;
    let parts: Vec<&str> = text.split('\n').collect();
    let [list, query, start, end] = parts[..] else {
        return None;
    };
    let rest = start.parse().ok()?..end.parse().ok()?;
    (list == LIST && query == asked).then_some(rest)
}

fn wire_event(event: StoredEvent) -> v1::AuditEvent {
    v1::AuditEvent {
        sequence: event.sequence,
        time: timestamp(event.columns.time),
        leaf: event.leaf,
    }
}

fn filter(request: v1::ListEventsRequest) -> Result<EventFilter, Status> {
    if request.types.len() > EventType::ALL.len() {
        return Err(limit("types", request.types.len(), EventType::ALL.len()));
    }
    for name in &request.types {
        if !EventType::ALL.iter().any(|kind| kind.as_str() == name) {
            let known: Vec<&str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
            return Err(field(
                "types",
                format!("a type is one of {}", known.join(", ")),
            ));
        }
    }
    let effect = match v1::Effect::try_from(request.effect) {
        Ok(v1::Effect::Unspecified) => None,
        Ok(v1::Effect::Allow) => Some(Effect::Allow),
        Ok(v1::Effect::Deny) => Some(Effect::Deny),
        Err(_) => return Err(field("effect", "is not a known effect")),
    };
    if request.revision.is_some_and(|n| i64::try_from(n).is_err()) {
        return Err(field("revision", "is beyond every revision there can be"));
    }
    let id = |name, text| optional(name, text, ID_BYTES_MAX);
    Ok(EventFilter {
        types: request.types,
        actor_id: id("actor_id", request.actor_id)?,
        resource_id: id("resource_id", request.resource_id)?,
        action_id: id("action_id", request.action_id)?,
        effect,
        reason: id("reason", request.reason)?,
        policy_id: id("policy_id", request.policy_id)?,
        revision: request.revision,
        session_id: id("session_id", request.session_id)?,
        task_id: id("task_id", request.task_id)?,
        user_id: id("user_id", request.user_id)?,
        correlation_id: id("correlation_id", request.correlation_id)?,
        trace_id: id("trace_id", request.trace_id)?,
        start_time: time("start_time", request.start_time)?,
        end_time: time("end_time", request.end_time)?,
        with_inputs: false,
    })
}

/// A stream of events, as tonic takes it.
pub(crate) type Events =
    Pin<Box<dyn Stream<Item = Result<v1::WatchEventsResponse, Status>> + Send>>;

/// Opens a stream. It does something only when its reader takes something.
pub(super) async fn watch(
    operations: &Arc<Operations>,
    credential: Credential,
    request: v1::WatchEventsRequest,
) -> Result<Response<Events>, Status> {
    let log_id = operations.pdp.audit.log_id();
    let from = start(&request, log_id)?;
    let filter = filter(conditions(request))?;
    let follower = operations.watch_events(credential, filter, from).await?;
    let answers = told::stream(follower).map_ok(move |told| wire_told(told, log_id));
    Ok(Response::new(Box::pin(answers)))
}

impl Source for Follower {
    type Told = Told;

    async fn next(&mut self) -> Result<Told, Status> {
        Ok(self.next().await?)
    }

    fn is_outdated(&self) -> bool {
        self.is_outdated()
    }

    async fn require_reader(&mut self) -> Result<(), Status> {
        Ok(self.require_reader().await?)
    }
}

/// The place that a stream begins at; `None` is now.
fn start(request: &v1::WatchEventsRequest, log_id: Uuid) -> Result<Option<u64>, Status> {
    match &request.start {
        None => Ok(None),
        Some(Start::Sequence(sequence)) => Ok(Some(*sequence)),
        Some(Start::Cursor(cursor)) => size_in(cursor, log_id).map(Some).ok_or_else(|| {
            status(
                Code::InvalidArgument,
                v1::ErrorReason::CursorInvalid,
                "cursor: not one of this server's log",
            )
        }),
    }
}

/// The conditions of a stream, as a list says them.
fn conditions(request: v1::WatchEventsRequest) -> v1::ListEventsRequest {
    v1::ListEventsRequest {
        types: request.types,
        actor_id: request.actor_id,
        effect: request.effect,
        start_time: request.start_time,
        end_time: request.end_time,
        resource_id: request.resource_id,
        action_id: request.action_id,
        session_id: request.session_id,
        task_id: request.task_id,
        reason: request.reason,
        policy_id: request.policy_id,
        revision: request.revision,
        trace_id: request.trace_id,
        user_id: request.user_id,
        correlation_id: request.correlation_id,
        ..Default::default()
    }
}

fn wire_told(told: Told, log_id: Uuid) -> v1::WatchEventsResponse {
    v1::WatchEventsResponse {
        events: told.events.into_iter().map(wire_event).collect(),
        cursor: token_of(log_id, told.next).map_or_else(String::new, |token| token.value),
        sequence: told.next,
        log_size: told.log_size,
        time: timestamp(told.time),
    }
}
