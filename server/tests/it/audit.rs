//! What happened is on record before its answer, and whoever changes the record is found.

mod canaries;
mod documented;
mod exported;
mod following;
mod intruder;
mod listing;
mod outcomes;
mod proofs;
mod redaction;
mod retention;
mod secrets;
mod tamper;

use serde_json::Value;
use zta_client::{Client, v1};

use crate::support::http::anonymous;
use crate::support::rpc::{authorize, call, entity, events, refused};
use crate::support::{Database, Setup};

/// The newest event that is not a look at the log, and not of the server's own keys, whose
/// first uses are recorded on the side.
async fn newest(admin: &Client) -> Value {
    let events = events(admin, &[]).await.into_iter().map(|(_, leaf)| leaf);
    let looks = |leaf: &Value| leaf.pointer("/action/id") == Some(&"read_audit".into());
    let of_keys = |leaf: &Value| leaf["type"].as_str().is_some_and(|t| t.starts_with("key_"));
    let mut events = events.filter(|leaf| !looks(leaf) && !of_keys(leaf));
    events.next().expect("an event")
}

/// Asserts type, actor and action of the newest event.
async fn last_is(admin: &Client, kind: &str, actor: &str, action: &str) -> Value {
    let leaf = newest(admin).await;
    let text = |pointer: &str| {
        leaf.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    assert_eq!(
        (text("/type"), text("/actor/id"), text("/action/id")),
        (kind, actor, action),
        "{leaf}"
    );
    leaf
}

const ADMIN: &str = "spiffe://zta.local#admin";
const RESEARCH: &str = "spiffe://zta.local/agent/research";

#[tokio::test]
async fn every_act_is_on_record_before_its_answer() {
    for database in Database::both().await {
        let mut server = Setup::on(database).start().await;
        let admin = server.admin();
        let first = events(&admin, &["log_created", "server_started"]).await;
        assert_eq!(
            (first.len(), first[1].0),
            (2, 0),
            "the log begins with its creation"
        );
        let root = events(&admin, &["enrolled"]).await;
        assert_eq!(
            root[0].1["actor"]["id"], ADMIN,
            "the administrator's key, too"
        );

        server.register("research", &["researcher"]).await;
        let leaf = last_is(&admin, "admin", ADMIN, "register_agent").await;
        assert_eq!(
            (&leaf["resource"]["id"], &leaf["effect"]),
            (&RESEARCH.into(), &"allow".into())
        );
        assert_eq!(leaf["detail"]["roles"], serde_json::json!(["researcher"]));
        assert_eq!(
            leaf["policies"],
            serde_json::json!(["zta.admin.administrators_administer"])
        );
        let credential = server.enroll("research").await;
        let leaf = last_is(&admin, "enrolled", RESEARCH, "").await;
        assert_eq!(leaf["instance"], credential.instance_id());
        let research = server.client(credential);
        research.authenticate().await.expect("a token");
        last_is(&admin, "login", RESEARCH, "").await;
        research.renew().await.expect("renews");
        last_is(&admin, "renewed", RESEARCH, "").await;
        authorize(&research, call("web_search"))
            .await
            .expect("a decision");
        last_is(&admin, "decision", RESEARCH, "call_tool").await;
        let mut stranger =
            v1::authorization_service_client::AuthorizationServiceClient::new(anonymous(&server));
        assert_eq!(
            refused(stranger.authorize(call("x")).await),
            "CREDENTIAL_MISSING"
        );
        let leaf = last_is(&admin, "login_failed", "", "").await;
        assert_eq!(leaf["source"], "127.0.0.1");
        reading_is_on_record(&admin).await;
        containment_is_on_record(&admin).await;
        assert!(server.stop().await.success());
        server.assert_verifies();
        server.start().await;
        let stops = events(&server.admin(), &["server_stopped", "server_started"]).await;
        assert_eq!(stops.len(), 3, "start, stop, start");
    }
}

async fn reading_is_on_record(admin: &Client) {
    let mut agents = admin.agents();
    agents
        .list(v1::AgentServiceListRequest::default())
        .await
        .expect("a list");
    last_is(admin, "admin", ADMIN, "list_agents").await;
    let mut policies = admin.policies();
    let answer = policies
        .get_revision(v1::GetRevisionRequest::default())
        .await
        .expect("one");
    last_is(admin, "admin", ADMIN, "read_policy").await;
    let source = answer.into_inner().source;
    policies
        .validate(v1::ValidateRequest {
            source: source.clone(),
            ..Default::default()
        })
        .await
        .expect("passes");
    last_is(admin, "admin", ADMIN, "validate_policy").await;
    let apply = v1::ApplyRequest {
        source,
        expected_revision: 1,
        message: "why".to_owned(),
        ..Default::default()
    };
    policies.apply(apply).await.expect("applies");
    let leaf = last_is(admin, "admin", ADMIN, "apply_policy").await;
    assert_eq!(
        (&leaf["detail"]["revision"], &leaf["detail"]["message"]),
        (&"2".into(), &"why".into())
    );
    let item = v1::EvaluateItem {
        principal: entity("A", "a"),
        action: entity("A", "a"),
        resource: entity("A", "a"),
        ..Default::default()
    };
    let evaluate = v1::EvaluateRequest {
        requests: vec![item],
        ..Default::default()
    };
    policies.evaluate(evaluate).await.expect("an answer");
    last_is(admin, "admin", ADMIN, "evaluate_policy").await;
    let looks = events(admin, &["admin"]).await;
    let looks = looks
        .iter()
        .filter(|(_, l)| l.pointer("/action/id") == Some(&"read_audit".into()));
    assert!(
        looks.count() > 5,
        "each look at the log is itself on record"
    );
}

async fn containment_is_on_record(admin: &Client) {
    let (agent, note) = (|| "research".to_owned(), || "because".to_owned());
    let mut agents = admin.agents();
    let suspend = v1::SuspendRequest {
        agent: agent(),
        note: note(),
    };
    agents.suspend(suspend).await.expect("suspends");
    let leaf = last_is(admin, "admin", ADMIN, "suspend_agent").await;
    assert_eq!(
        (&leaf["detail"]["note"], &leaf["detail"]["state"]),
        (&"because".into(), &"suspended".into())
    );
    let isolate = v1::IsolateRequest {
        agent: agent(),
        note: note(),
    };
    agents.isolate(isolate).await.expect("isolates");
    last_is(admin, "admin", ADMIN, "isolate_agent").await;
    let reinstate = v1::ReinstateRequest {
        agent: agent(),
        note: note(),
        ..Default::default()
    };
    agents.reinstate(reinstate).await.expect("reinstates");
    last_is(admin, "admin", ADMIN, "reinstate_agent").await;
    let token = v1::CreateJoinTokenRequest { agent: agent() };
    agents.create_join_token(token).await.expect("a token");
    last_is(admin, "admin", ADMIN, "create_join_token").await;
    let revoke = v1::RevokeRequest {
        agent: agent(),
        note: note(),
        ..Default::default()
    };
    agents.revoke(revoke).await.expect("revokes");
    last_is(admin, "admin", ADMIN, "revoke_agent").await;
}

async fn list(
    admin: &Client,
    request: v1::ListEventsRequest,
) -> Result<v1::ListEventsResponse, tonic::Status> {
    let answer = admin.audit().list_events(request).await;
    answer.map(tonic::Response::into_inner)
}

/// The decisions about the research agent, two a page.
fn decisions() -> v1::ListEventsRequest {
    v1::ListEventsRequest {
        types: vec!["decision".to_owned()],
        actor_id: RESEARCH.to_owned(),
        page_size: 2,
        ..Default::default()
    }
}

#[tokio::test]
async fn events_are_listed_by_type_actor_effect_and_time_in_pages() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        for tool in ["web_search", "x", "web_search", "x", "x"] {
            let answer = authorize(&research, call(tool)).await;
            answer.expect("a decision");
        }
        let (mut request, mut sequences) = (decisions(), Vec::new());
        loop {
            let page = list(&admin, request.clone()).await.expect("a page");
            assert!(page.events.len() <= 2);
            sequences.extend(page.events.iter().map(|e| e.sequence));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(sequences.len(), 5);
        assert!(sequences.is_sorted());
        let count = async |change: &dyn Fn(&mut v1::ListEventsRequest)| {
            let mut request = decisions();
            request.page_size = 0;
            change(&mut request);
            let page = list(&admin, request).await.expect("a page");
            page.events.len()
        };
        let future = crate::support::pki::now() + time::Duration::HOUR;
        let future = Some(prost_types::Timestamp {
            seconds: future.unix_timestamp(),
            nanos: 0,
        });
        assert_eq!(count(&|r| r.effect = v1::Effect::Deny.into()).await, 3);
        assert_eq!(count(&|r| r.effect = v1::Effect::Allow.into()).await, 2);
        assert_eq!(count(&|r| r.start_time = future).await, 0);
        assert_eq!(count(&|r| r.end_time = future).await, 5);
        assert_eq!(count(&|r| r.actor_id = "nobody".to_owned()).await, 0);
        assert_eq!(count(&|r| r.types = vec!["login".to_owned()]).await, 0);
    }
}

#[tokio::test]
async fn a_list_that_cannot_be_is_refused() {
    type Change = fn(&mut v1::ListEventsRequest);
    let server = Setup::sqlite().start().await;
    let admin = server.admin();
    let wrong: [(Change, &str); 5] = [
        (|r| r.page_token = "x".to_owned(), "PAGE_TOKEN_INVALID"),
        (|r| r.page_token = "-1".to_owned(), "PAGE_TOKEN_INVALID"),
        (|r| r.page_size = 1001, "LIMIT_EXCEEDED"),
        (|r| r.types = vec!["rumour".to_owned()], "FIELD_INVALID"),
        (|r| r.effect = 9, "FIELD_INVALID"),
    ];
    for (change, reason) in wrong {
        let mut request = decisions();
        change(&mut request);
        assert_eq!(refused(list(&admin, request).await), reason);
    }
}

#[tokio::test]
async fn a_checkpoint_signs_the_log_within_a_second() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let research = server.agent("research", &["researcher"]).await;
        let answer = authorize(&research, call("web_search"))
            .await
            .expect("a decision");
        let checkpoint = crate::support::eventually("a checkpoint", async || {
            let request = v1::GetCheckpointRequest {};
            let got = admin.audit().get_checkpoint(request).await;
            let got = got.map_err(|e| e.to_string())?.into_inner();
            if got.size > answer.sequence {
                Ok(got)
            } else {
                Err(format!("{} records", got.size))
            }
        })
        .await;
        let mut lines = checkpoint.note.lines();
        let origin = lines.next().expect("an origin");
        assert!(origin.starts_with("zta.local/log/"), "{origin}");
        assert_eq!(lines.next(), Some(checkpoint.size.to_string().as_str()));
        let signature = checkpoint.note.lines().last().expect("a signature");
        assert!(
            signature.starts_with(&format!("— {origin} ")),
            "{signature}"
        );
    }
}
