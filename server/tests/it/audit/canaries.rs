//! A canary in each text of each RPC: what of a request is kept is what is listed here, and
//! nothing of it is in a log line, a metric or a trace of an error.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use serde_json::json;
use tonic::transport::Channel;
use zta_client::v1;

use super::secrets::rows;
use crate::support::descriptors::{Rpc, Text, call, rpcs};
use crate::support::http::{channel_as, get};
use crate::support::rpc::{call_with, entity};
use crate::support::{Database, Server, Setup};

/// What is kept of requests, as somebody who reads the record needs it. Whoever adds a field
/// says here that it is kept, or the test says it is.
const KEPT: [&str; 20] = [
    "AuthorizeRequest.correlation_id",
    "AuthorizeRequest.session_id",
    "AuthorizeRequest.supported_obligations",
    "AuthorizeRequest.task_id",
    "AuthorizeRequest.user",
    "BanRequest.agent",
    "CreateJoinTokenRequest.agent",
    "Delegate.agent",
    "EntityRef.id",
    "InviteRequest.user",
    "IsolateRequest.agent",
    "PrepareRequest.note",
    "RegisterRequest.name",
    "ReinstateRequest.agent",
    "ReinstateRequest.note",
    "RevokeKeysRequest.user",
    "RevokeRequest.agent",
    "RevokeTokensRequest.token_id",
    "SuspendRequest.agent",
    "SuspendRequest.note",
];

/// These stand beside a value that is dropped, so that the rest of the request is kept.
const DROPPED: &str = "password";

/// Requests that go through, so that what is kept of them is seen to be kept.
fn base(rpc: &str) -> Vec<u8> {
    let of_agent = || Some(call_with("web_search", "{}"));
    let agent = || "research".to_owned();
    let tool = || v1::Entity {
        uid: entity("ZTA::Tool", "web_search"),
        ..Default::default()
    };
    match rpc {
        "AuthorizationService.Authorize" => call_with("web_search", "{}").encode_to_vec(),
        "AuthorizationService.BatchAuthorize" => v1::BatchAuthorizeRequest {
            requests: of_agent().into_iter().collect(),
        }
        .encode_to_vec(),
        "AuthorizationService.Explain" => v1::ExplainRequest {
            request: of_agent(),
            principal: entity("ZTA::Agent", "spiffe://zta.local/agent/research"),
        }
        .encode_to_vec(),
        "AgentService.CreateJoinToken" => {
            v1::CreateJoinTokenRequest { agent: agent() }.encode_to_vec()
        }
        "AgentService.Suspend" => v1::SuspendRequest {
            agent: agent(),
            ..Default::default()
        }
        .encode_to_vec(),
        "AgentService.Reinstate" => v1::ReinstateRequest {
            agent: agent(),
            ..Default::default()
        }
        .encode_to_vec(),
        "EntityService.Put" => v1::EntityServicePutRequest {
            entities: vec![tool()],
        }
        .encode_to_vec(),
        _ => Vec::new(),
    }
}

/// The canary of a text, as the text may have to look.
fn canary(text: &Text, number: usize) -> (String, Vec<u8>) {
    let canary = format!("canary-{number:05}-x");
    let value = match text.field.ends_with("_json") {
        true => json!({ DROPPED: canary.clone() }).to_string(),
        false => canary.clone(),
    };
    (canary, value.into_bytes())
}

/// Sends a canary in each text; which stood where.
async fn sing(channels: &[Channel], rpcs: &[Rpc]) -> BTreeMap<String, String> {
    let mut sung = BTreeMap::new();
    for rpc in rpcs {
        for text in &rpc.texts {
            for channel in channels {
                let (canary, value) = canary(text, sung.len());
                let request = [base(&rpc.name), text.holding(&value)].concat();
                if let Err(status) = call(channel, rpc, request).await {
                    let secret = ["_json", "token", "signature", "_der", "proof"];
                    let secret = secret.iter().any(|name| text.field.ends_with(name));
                    let told = format!("{status:?}");
                    assert!(!secret || !told.contains(&canary), "{}: {told}", text.field);
                }
                sung.insert(canary, text.field.clone());
            }
        }
    }
    sung
}

/// The fields whose canaries are somewhere in these bytes.
fn heard<'a>(bytes: &[u8], sung: &'a BTreeMap<String, String>) -> BTreeSet<&'a str> {
    let mut heard = BTreeSet::new();
    for window in bytes.windows("canary-00000-x".len()) {
        if !window.starts_with(b"canary-") {
            continue;
        }
        let canary = std::str::from_utf8(window).ok();
        heard.extend(
            canary
                .and_then(|canary| sung.get(canary))
                .map(String::as_str),
        );
    }
    heard
}

fn exported(server: &Server) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("export");
    let output = server.zta(&["audit", "export", &target.display().to_string()]);
    assert!(output.status.success(), "{output:?}");
    let mut all = Vec::new();
    let mut folders = vec![target];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => all.extend(std::fs::read(path).expect("a file")),
            }
        }
    }
    all
}

#[tokio::test]
async fn of_every_text_of_every_rpc_only_what_is_listed_is_kept_and_nothing_is_logged() {
    for database in Database::both().await {
        let name = database.name();
        let setup = Setup::on(database).set("ZTA_LOG_LEVEL", "trace");
        let mut server = setup.start().await;
        let research = server.agent("research", &["researcher"]).await;
        let credential = research.credential().expect("a credential");
        let folder = credential.folder();
        let own = channel_as(&server, folder.expect("a folder"));
        let admin = channel_as(&server, &server.data().join("admin"));
        let sung = sing(&[admin, own], &rpcs()).await;
        let (_, metrics) = get(&server, "/metrics").await;
        let exported = exported(&server);
        server.assert_verifies();
        assert!(server.stop().await.success());

        let kept = heard(&rows(&server).await, &sung);
        let listed: BTreeSet<&str> = KEPT.into_iter().collect();
        assert_eq!(kept, listed, "{name}: what is kept");
        let leaves = heard(&exported, &sung);
        assert!(
            leaves.is_subset(&listed) && !leaves.is_empty(),
            "{name}: {leaves:?}"
        );
        assert_eq!(
            heard(metrics.as_bytes(), &sung),
            BTreeSet::new(),
            "{name}: metrics"
        );
        let logged = heard(server.log().as_bytes(), &sung);
        assert_eq!(logged, BTreeSet::new(), "{name}: log lines");
    }
}
