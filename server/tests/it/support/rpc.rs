//! Requests in one line, and what comes back.

use serde_json::Value;
use tonic::Status;
use tonic_types::StatusExt as _;
use zta_client::{Client, v1};

use super::documented::assert_documented;

/// The reason in a status of ours.
pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "zta");
    info.reason
}

/// The reason of a call that must fail.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> String {
    reason(&result.expect_err("must be refused"))
}

/// An entity reference.
pub(crate) fn entity(ty: &str, id: &str) -> Option<v1::EntityRef> {
    Some(v1::EntityRef {
        r#type: ty.to_owned(),
        id: id.to_owned(),
    })
}

/// A tool call without arguments.
pub(crate) fn call(tool: &str) -> v1::AuthorizeRequest {
    v1::AuthorizeRequest {
        action: entity("ZTA::Action", "call_tool"),
        resource: entity("ZTA::Tool", tool),
        ..v1::AuthorizeRequest::default()
    }
}

/// A tool call with arguments as JSON text.
pub(crate) fn call_with(tool: &str, arguments: impl AsRef<[u8]>) -> v1::AuthorizeRequest {
    v1::AuthorizeRequest {
        arguments_json: arguments.as_ref().to_vec(),
        ..call(tool)
    }
}

/// Has one request decided.
pub(crate) async fn authorize(
    client: &Client,
    request: v1::AuthorizeRequest,
) -> Result<v1::AuthorizeResponse, Status> {
    let answer = client.authorization().authorize(request).await;
    answer.map(tonic::Response::into_inner)
}

/// Has one request decided under an access token.
pub(crate) async fn authorize_with_token(
    client: &Client,
    request: v1::AuthorizeRequest,
    token: &str,
) -> Result<v1::AuthorizeResponse, Status> {
    let mut request = tonic::Request::new(request);
    let value = format!("Bearer {token}").parse().expect("a header value");
    request.metadata_mut().insert("authorization", value);
    let answer = client.authorization().authorize(request).await;
    answer.map(tonic::Response::into_inner)
}

/// A decision that must be an allow.
pub(crate) async fn allowed(
    client: &Client,
    request: v1::AuthorizeRequest,
) -> v1::AuthorizeResponse {
    let answer = authorize(client, request).await.expect("a decision");
    assert_eq!(answer.effect(), v1::Effect::Allow, "{answer:?}");
    answer
}

/// The reason of a decision that must be a deny.
pub(crate) async fn denied(client: &Client, request: v1::AuthorizeRequest) -> v1::DenyReason {
    let answer = authorize(client, request).await.expect("a decision");
    assert_eq!(answer.effect(), v1::Effect::Deny, "{answer:?}");
    answer.reason()
}

/// The newest events, newest first, with their places.
pub(crate) async fn events(admin: &Client, types: &[&str]) -> Vec<(u64, Value)> {
    let request = v1::ListEventsRequest {
        page_size: 1000,
        types: types.iter().map(|&t| t.to_owned()).collect(),
        descending: true,
        ..v1::ListEventsRequest::default()
    };
    let answer = admin.audit().list_events(request).await.expect("events");
    let events = answer.into_inner().events.into_iter();
    let read = |event: v1::AuditEvent| {
        let leaf = serde_json::from_slice(&event.leaf).expect("a leaf");
        assert_documented(&leaf);
        (event.sequence, leaf)
    };
    events.map(read).collect()
}

/// The event at a place of the log.
pub(crate) async fn event(admin: &Client, sequence: u64) -> Value {
    let request = v1::ListEventsRequest {
        page_size: 1,
        start_sequence: sequence,
        ..v1::ListEventsRequest::default()
    };
    let answer = admin
        .audit()
        .list_events(request)
        .await
        .expect("events")
        .into_inner();
    let event = answer.events.first().expect("an event there");
    assert_eq!(event.sequence, sequence);
    serde_json::from_slice(&event.leaf).expect("a leaf")
}

/// How many refused credentials are on record for a cause that contains `why`.
pub(crate) async fn refusals(admin: &Client, why: &str) -> usize {
    let events = events(admin, &["login_failed"]).await;
    let named = |e: &&(u64, Value)| {
        e.1["detail"]["why"]
            .as_str()
            .is_some_and(|w| w.contains(why))
    };
    events.iter().filter(named).count()
}
