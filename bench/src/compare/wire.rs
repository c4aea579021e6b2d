//! As much of the public API of Cerbos (`cerbos.svc.v1.CerbosService/CheckResources`) as
//! the comparison speaks, by its field numbers.

use std::collections::BTreeMap;

use prost::Message;
use prost_types::Value;
use tonic::{Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

const CHECK_RESOURCES: &str = "/cerbos.svc.v1.CerbosService/CheckResources";
/// `cerbos.effect.v1.EFFECT_ALLOW`.
pub(super) const ALLOW: i32 = 1;

#[derive(Clone, PartialEq, Message)]
pub(super) struct CheckRequest {
    #[prost(string, tag = "1")]
    pub(super) request_id: String,
    #[prost(message, optional, tag = "3")]
    pub(super) principal: Option<Principal>,
    #[prost(message, repeated, tag = "4")]
    pub(super) resources: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Principal {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) roles: Vec<String>,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(super) attr: BTreeMap<String, Value>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(string, repeated, tag = "1")]
    pub(super) actions: Vec<String>,
    #[prost(message, optional, tag = "2")]
    pub(super) resource: Option<Resource>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(string, tag = "3")]
    pub(super) id: String,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(super) attr: BTreeMap<String, Value>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CheckResponse {
    #[prost(string, tag = "1")]
    pub(super) request_id: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) results: Vec<Outcome>,
    #[prost(string, tag = "3")]
    pub(super) call_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Outcome {
    #[prost(btree_map = "string, int32", tag = "2")]
    pub(super) actions: BTreeMap<String, i32>,
}

/// Has one request decided.
pub(super) async fn check(
    channel: &Channel,
    request: CheckRequest,
) -> Result<CheckResponse, Status> {
    let mut client = Grpc::new(channel.clone());
    let ready = client.ready().await;
    ready.map_err(|e| Status::unavailable(e.to_string()))?;
    let path = PathAndQuery::from_static(CHECK_RESOURCES);
    let codec: ProstCodec<CheckRequest, CheckResponse> = ProstCodec::default();
    let answer = client.unary(Request::new(request), path, codec).await?;
    Ok(answer.into_inner())
}
