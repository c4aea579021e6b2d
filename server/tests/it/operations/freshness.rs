//! Consistency tokens: what a client has seen done, no answer that it demands so may
//! precede.

use tonic_types::StatusExt as _;
use zta_client::{Client, v1};

use crate::support::rpc::{allowed, authorize, call, entity, reason, refused};
use crate::support::{Database, Server, Setup};

fn demanding(token: &str) -> v1::AuthorizeRequest {
    v1::AuthorizeRequest {
        at_least_as_fresh: Some(v1::ConsistencyToken {
            value: token.to_owned(),
        }),
        ..call("web_search")
    }
}

fn value(token: Option<v1::ConsistencyToken>) -> String {
    token.expect("a token").value
}

/// The same log, some leaves later.
fn beyond(token: &str, by: u64) -> String {
    let (log, size) = token.split_once(':').expect("a token of ours");
    format!("{log}:{}", size.parse::<u64>().expect("a size") + by)
}

async fn not_fresh(client: &Client, token: &str) {
    let started = std::time::Instant::now();
    let status = authorize(client, demanding(token))
        .await
        .expect_err("too new");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (tonic::Code::Unavailable, "NOT_FRESH")
    );
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    assert!(
        started.elapsed() >= std::time::Duration::from_secs(2),
        "it waited"
    );
}

#[tokio::test]
async fn a_token_is_demanded_waited_for_or_refused() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let research = server.agent("research", &["researcher"]).await;
        let token = value(
            allowed(&research, call("web_search"))
                .await
                .consistency_token,
        );
        // Behind and at the head: answered, and newer than what was demanded.
        for _ in 0..2 {
            let answer = allowed(&research, demanding(&token)).await;
            assert_ne!(value(answer.consistency_token), token);
        }
        let log = token.split_once(':').expect("a token of ours").0;
        for garbage in [
            "",
            "x",
            log,
            &format!("{log}:"),
            &format!("{log}:01"),
            &format!("{log}:-1"),
            &format!("{}:1", "0".repeat(32)),
            &format!("{log}:1{}", "0".repeat(200)),
            &format!("{}:1", uuid::Uuid::new_v4().simple()),
        ] {
            let answer = authorize(&research, demanding(garbage)).await;
            assert_eq!(refused(answer), "CONSISTENCY_TOKEN_INVALID", "{garbage}");
        }
        let newest = value(
            allowed(&research, call("web_search"))
                .await
                .consistency_token,
        );
        not_fresh(&research, &beyond(&newest, 1000)).await;
        not_fresh(&research, &format!("{log}:{}", u64::MAX)).await;
        // One item's demand is its own.
        let request = v1::BatchAuthorizeRequest {
            requests: vec![
                demanding(&token),
                demanding(&beyond(&newest, 1000)),
                demanding("garbage"),
                call("web_search"),
            ],
        };
        let answer = research.authorization().batch_authorize(request).await;
        let items = answer.expect("answers").into_inner().items;
        let errors = items.iter().map(|item| match &item.result {
            Some(v1::batch_authorize_item::Result::Error(error)) => error.reason.as_str(),
            _ => "",
        });
        let errors: Vec<_> = errors.collect();
        assert_eq!(errors, ["", "NOT_FRESH", "CONSISTENCY_TOKEN_INVALID", ""]);
        server.assert_verifies();
    }
}

#[tokio::test]
async fn who_waits_is_woken_by_what_it_waits_for() {
    let first = Setup::on(Database::postgres().await).start().await;
    let second = first.replica().await;
    first.register("research", &["researcher"]).await;
    let credential = first.enroll("research").await;
    let (here, there) = (first.client(credential.clone()), second.client(credential));
    let token = value(allowed(&here, call("web_search")).await.consistency_token);
    // Far enough that the few events of the servers' own keys do not get there.
    let demanded = beyond(&token, 40);
    let waiting = tokio::spawn(async move { authorize(&there, demanding(&demanded)).await });
    let mut waiting = std::pin::pin!(waiting);
    // Some more leaves at the other replica, while it waits here.
    for _ in 0..3 {
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut waiting).await;
        assert!(early.is_err(), "answered before the log was that long");
        allowed(&here, call("web_search")).await;
    }
    for _ in 0..40 {
        allowed(&here, call("web_search")).await;
    }
    let answer = waiting.await.expect("a task").expect("a decision");
    assert!(answer.sequence >= 40);
}

async fn two() -> (Server, Server) {
    let first = Setup::on(Database::postgres().await).start().await;
    let second = first.replica().await;
    (first, second)
}

#[tokio::test]
async fn after_a_write_at_one_replica_the_demand_at_the_other_is_met() {
    let (first, second) = two().await;
    let admin = first.admin();
    let mut agents = admin.agents();
    let register = v1::RegisterRequest {
        name: "research".to_owned(),
        roles: vec!["researcher".to_owned()],
        owner: String::new(),
        ..Default::default()
    };
    let mut tokens = Vec::new();
    let answer = agents.register(register).await.expect("registers");
    tokens.push(value(answer.into_inner().consistency_token));
    let agent = || "research".to_owned();
    let answer = agents
        .create_join_token(v1::CreateJoinTokenRequest { agent: agent() })
        .await;
    tokens.push(value(
        answer.expect("a join token").into_inner().consistency_token,
    ));
    let research = second.client(first.enroll("research").await);
    let answer = research.agents().renew(v1::RenewRequest::default()).await;
    tokens.push(value(
        answer.expect("renews").into_inner().consistency_token,
    ));
    for suspended in [true, false, true] {
        let token = if suspended {
            let (agent, note) = (agent(), String::new());
            let answer = agents.suspend(v1::SuspendRequest { agent, note }).await;
            answer.expect("suspends").into_inner().consistency_token
        } else {
            let (agent, note) = (agent(), String::new());
            let answer = agents
                .reinstate(v1::ReinstateRequest {
                    agent,
                    note,
                    ..Default::default()
                })
                .await;
            answer.expect("reinstates").into_inner().consistency_token
        };
        let token = value(token);
        let answer = authorize(&research, demanding(&token))
            .await
            .expect("a decision");
        assert_eq!(answer.reason() == v1::DenyReason::Suspended, suspended);
        tokens.push(token);
    }
    let sizes = tokens
        .iter()
        .map(|t| t.split_once(':').expect("ours").1.parse().expect("a size"));
    assert!(
        sizes.collect::<Vec<u64>>().is_sorted_by(|a, b| a < b),
        "{tokens:?}"
    );
}

#[tokio::test]
async fn what_is_only_read_is_as_fresh_as_demanded() {
    let (first, second) = two().await;
    let (here, there) = (first.admin(), second.admin());
    let patch = v1::PolicyPatch {
        put_schemas: vec![v1::SourceFile {
            name: "app.cedarschema".to_owned(),
            text: "namespace App { entity Doc; }".to_owned(),
        }],
        ..v1::PolicyPatch::default()
    };
    let apply = v1::ApplyRequest {
        patch: Some(patch),
        expected_revision: 1,
        ..v1::ApplyRequest::default()
    };
    here.policies().apply(apply).await.expect("applies");
    let list = |token: String| v1::EntityServiceListRequest {
        at_least_as_fresh: Some(v1::ConsistencyToken { value: token }),
        ..v1::EntityServiceListRequest::default()
    };
    let mut token = String::new();
    for n in 1..=5 {
        let uid = entity("App::Doc", &format!("d{n}"));
        let put = v1::EntityServicePutRequest {
            entities: vec![v1::Entity {
                uid: uid.clone(),
                ..v1::Entity::default()
            }],
        };
        let answer = here.entities().put(put).await.expect("puts");
        token = value(answer.into_inner().consistency_token);
        let get = v1::EntityServiceGetRequest {
            uids: uid.into_iter().collect(),
            at_least_as_fresh: Some(v1::ConsistencyToken {
                value: token.clone(),
            }),
        };
        let found = there.entities().get(get).await.expect("gets").into_inner();
        assert_eq!(found.entities.len(), 1);
        let all = there.entities().list(list(token.clone())).await;
        assert_eq!(all.expect("lists").into_inner().entities.len(), n);
    }
    let late = there.entities().list(list(beyond(&token, 1000))).await;
    assert_eq!(refused(late), "NOT_FRESH");
    let garbage = there.entities().list(list("x".to_owned())).await;
    assert_eq!(refused(garbage), "CONSISTENCY_TOKEN_INVALID");
    let question = |token: String| v1::ListPermittedRequest {
        query: Some(v1::list_permitted_request::Query::Resources(
            v1::PermittedResources::default(),
        )),
        at_least_as_fresh: Some(v1::ConsistencyToken { value: token }),
        ..v1::ListPermittedRequest::default()
    };
    let mut authorization = there.authorization();
    let answer = authorization.list_permitted(question(token.clone())).await;
    let answer = answer.expect("lists").into_inner();
    assert_ne!(value(answer.consistency_token), token);
    let late = authorization
        .list_permitted(question(beyond(&token, 1000)))
        .await;
    assert_eq!(refused(late), "NOT_FRESH");
    let explain = |token: &str| v1::ExplainRequest {
        request: Some(demanding(token)),
        principal: None,
    };
    let answer = authorization.explain(explain(&token)).await;
    assert_ne!(
        value(answer.expect("explains").into_inner().consistency_token),
        token
    );
    let garbage = authorization.explain(explain("x")).await;
    assert_eq!(refused(garbage), "CONSISTENCY_TOKEN_INVALID");
}
