//! Reports of what became of permitted calls: on record once, by whom the decision was made
//! for, and by nobody else.

use serde_json::json;
use tonic::Status;
use zta_client::{Client, v1};

use crate::support::http::anonymous;
use crate::support::rpc::{allowed, authorize, call, event, events, refused};
use crate::support::{Database, Setup};

fn outcome(decision_id: &str) -> v1::CallOutcome {
    v1::CallOutcome {
        decision_id: decision_id.to_owned(),
        result: v1::CallResult::Ok.into(),
        size_bytes: Some(12),
        duration_us: Some(3400),
        ..v1::CallOutcome::default()
    }
}

async fn report(
    client: &Client,
    outcomes: Vec<v1::CallOutcome>,
) -> Result<Vec<v1::ReportOutcomeItem>, Status> {
    let request = v1::ReportOutcomeRequest { outcomes };
    let answer = client.authorization().report_outcome(request).await?;
    Ok(answer.into_inner().items)
}

/// What became of each: its place in the log, or the reason of a refusal.
async fn reported(client: &Client, outcomes: Vec<v1::CallOutcome>) -> Vec<Result<u64, String>> {
    use v1::report_outcome_item::Result as Item;
    let ids: Vec<_> = outcomes.iter().map(|o| o.decision_id.clone()).collect();
    let items = report(client, outcomes).await.expect("reports");
    assert!(items.iter().map(|item| &item.decision_id).eq(&ids));
    let said = items.into_iter().map(|item| match item.result {
        Some(Item::Recorded(recorded)) => Ok(recorded.sequence),
        Some(Item::Error(error)) => Err(error.reason),
        None => panic!("an item that says nothing"),
    });
    said.collect()
}

async fn one(client: &Client, outcome: v1::CallOutcome) -> Result<u64, String> {
    reported(client, vec![outcome]).await.remove(0)
}

#[tokio::test]
async fn an_outcome_is_on_record_beside_its_decision_and_once() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let research = server.agent("research", &["researcher"]).await;
        let request = v1::AuthorizeRequest {
            session_id: "s1".to_owned(),
            task_id: "t1".to_owned(),
            correlation_id: "c1".to_owned(),
            ..call("web_search")
        };
        let decided = allowed(&research, request).await;
        let failed = v1::CallOutcome {
            result: v1::CallResult::Error.into(),
            error_class: "TimeoutError".to_owned(),
            labels: vec!["pii".to_owned(), "eu".to_owned()],
            ..outcome(&decided.decision_id)
        };
        let place = one(&research, failed.clone()).await.expect("on record");

        let admin = server.admin();
        let (decision, leaf) = (
            event(&admin, decided.sequence).await,
            event(&admin, place).await,
        );
        for same in [
            "actor",
            "instance",
            "action",
            "resource",
            "session",
            "task",
            "correlation_id",
        ] {
            assert_eq!(leaf[same], decision[same], "{same}");
            assert!(!leaf[same].is_null(), "{same}");
        }
        assert_eq!(
            (&leaf["type"], &leaf["effect"]),
            (&json!("outcome"), &json!(null))
        );
        let detail = json!({
            "decision_id": decided.decision_id, "result": "error", "error_class": "TimeoutError",
            "size_bytes": "12", "duration_us": "3400", "labels": ["eu", "pii"],
        });
        assert_eq!(leaf["detail"], detail);

        // The same again is answered alike, however its labels are ordered; another is not.
        let mut again = failed.clone();
        again.labels.reverse();
        assert_eq!(one(&research, again).await, Ok(place));
        let other = one(&research, outcome(&decided.decision_id)).await;
        assert_eq!(other, Err("OUTCOME_CONFLICT".to_owned()));
        assert_eq!(events(&admin, &["outcome"]).await.len(), 1);
        server.assert_verifies();
    }
}

#[tokio::test]
async fn nobody_reports_of_what_was_not_permitted_to_them() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let research = server.agent("research", &["researcher"]).await;
        let other = server.agent("other", &["researcher"]).await;
        let second_key = server.client(server.enroll("research").await);
        let decided = allowed(&research, call("web_search")).await;
        let denied = authorize(&research, call("delete_everything"))
            .await
            .expect("a deny");
        assert_eq!(denied.effect(), v1::Effect::Deny);
        let admin = server.admin();
        let (_, act) = events(&admin, &["admin"]).await.remove(0);
        let act = act["id"].as_str().expect("an id").to_owned();

        let unknown = Err("DECISION_NOT_FOUND".to_owned());
        let stranger = uuid::Uuid::now_v7().to_string();
        for client in [&other, &second_key] {
            // Both answers are the same in each word but the id.
            let outcomes = vec![outcome(&decided.decision_id), outcome(&stranger)];
            let items = report(client, outcomes).await.expect("answers");
            assert_eq!(items[0].result, items[1].result);
            assert_eq!(one(client, outcome(&denied.decision_id)).await, unknown);
        }
        assert_eq!(
            one(&admin, outcome(&act)).await,
            unknown,
            "an act is no decision"
        );
        let of_a_deny = one(&research, outcome(&denied.decision_id)).await;
        assert_eq!(of_a_deny, Err("DECISION_DENIED".to_owned()));

        // An outcome is no decision, either.
        let place = one(&research, outcome(&decided.decision_id))
            .await
            .expect("on record");
        let id = event(&admin, place).await["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        assert_eq!(one(&research, outcome(&id)).await, unknown);
        assert_eq!(events(&admin, &["outcome"]).await.len(), 1);

        let request = v1::ReportOutcomeRequest {
            outcomes: vec![outcome(&decided.decision_id)],
        };
        let mut door =
            v1::authorization_service_client::AuthorizationServiceClient::new(anonymous(&server));
        let nobody = door.report_outcome(request).await;
        assert_eq!(refused(nobody), "CREDENTIAL_MISSING");
        server.assert_verifies();
    }
}

#[tokio::test]
async fn a_bad_item_does_not_keep_the_others_from_the_record() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(allowed(&research, call("web_search")).await.decision_id);
    }
    let with = |change: fn(&mut v1::CallOutcome)| {
        let mut outcome = outcome(&ids[1]);
        change(&mut outcome);
        outcome
    };
    let bad = [
        with(|o| o.decision_id = "x".repeat(64)),
        with(|o| o.result = 0),
        with(|o| o.result = 77),
        with(|o| o.error_class = "NotAnError".to_owned()),
        with(|o| {
            o.result = v1::CallResult::Error.into();
            o.error_class = "card 4111 1111 was refused".to_owned();
        }),
        with(|o| o.duration_us = Some(u64::MAX)),
        with(|o| o.labels = vec!["x".to_owned(); 17]),
        with(|o| o.labels = vec!["a secret sentence".to_owned()]),
    ];
    let mut all = vec![outcome(&ids[0])];
    all.extend(bad.clone());
    all.extend([outcome(&ids[2]), outcome(&ids[0])]);
    let mut said = reported(&research, all).await;
    let repeated = said.pop().expect("the last");
    let last = said.pop().expect("the last but one");
    let first = said.remove(0);
    assert!(
        first.is_ok() && last.is_ok() && first != last,
        "{first:?} {last:?}"
    );
    assert_eq!(repeated, first, "told twice in one call, on record once");
    assert_eq!(said, vec![Err("FIELD_INVALID".to_owned()); bad.len()]);

    assert_eq!(
        refused(report(&research, Vec::new()).await),
        "FIELD_INVALID"
    );
    let many = vec![outcome(&ids[0]); 257];
    assert_eq!(refused(report(&research, many).await), "LIMIT_EXCEEDED");
    assert_eq!(events(&server.admin(), &["outcome"]).await.len(), 2);
}

#[tokio::test]
async fn a_suspended_agent_may_say_how_its_last_call_ended_and_a_revoked_one_may_not() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let admin = server.admin();
    let first = allowed(&research, call("web_search")).await.decision_id;
    let second = allowed(&research, call("web_search")).await.decision_id;
    let suspend = v1::SuspendRequest {
        agent: "research".to_owned(),
        note: "a test".to_owned(),
    };
    admin.agents().suspend(suspend).await.expect("suspends");
    assert!(one(&research, outcome(&first)).await.is_ok());
    let revoke = v1::RevokeRequest {
        agent: "research".to_owned(),
        note: "a test".to_owned(),
        ..Default::default()
    };
    admin.agents().revoke(revoke).await.expect("revokes");
    assert_eq!(
        refused(report(&research, vec![outcome(&second)]).await),
        "REVOKED"
    );
}

/// One report at many doors at once: one event, and each is told the same place.
#[tokio::test]
async fn reports_that_race_over_replicas_are_one_event() {
    let first = Setup::on(Database::postgres().await).start().await;
    let second = first.replica().await;
    let credential = {
        first.register("research", &["researcher"]).await;
        first.enroll("research").await
    };
    let clients = [first.client(credential.clone()), second.client(credential)];
    let mut places = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let decided = allowed(&clients[0], call("web_search")).await.decision_id;
        let race = (0..16).map(|n| one(&clients[n % 2], outcome(&decided)));
        let said = futures_util::future::join_all(race).await;
        let place = said[0].clone().expect("on record");
        assert_eq!(said, vec![Ok(place); 16]);
        assert!(
            places.insert(place),
            "each decision has an outcome of its own"
        );
    }
    assert_eq!(events(&first.admin(), &["outcome"]).await.len(), 10);
    first.assert_verifies();
}
