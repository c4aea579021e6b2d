//! Two replicas on one Postgres: one order, no gap, and what one is told the other knows
//! on its next call.

use zta_client::v1;

use crate::support::rpc::{allowed, authorize, call, denied, event, events};
use crate::support::{Database, Server, Setup};

async fn two() -> (Server, Server) {
    let first = Setup::on(Database::postgres().await).start().await;
    let second = first.replica().await;
    (first, second)
}

#[tokio::test]
async fn two_replicas_write_one_order_without_a_gap() {
    let (first, second) = two().await;
    first.register("research", &["researcher"]).await;
    let credential = first.enroll("research").await;
    let clients = [first.client(credential.clone()), second.client(credential)];
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let client = clients[worker % 2].clone();
        tasks.spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..25 {
                let answer = authorize(&client, call("web_search"))
                    .await
                    .expect("a decision");
                answers.push((answer.sequence, answer.decision_id));
            }
            // One caller's calls stand in the order in which it made them.
            assert!(answers.is_sorted_by(|a, b| a.0 < b.0));
            answers
        });
    }
    let mut answers: Vec<(u64, String)> = tasks.join_all().await.into_iter().flatten().collect();
    answers.sort();
    answers.dedup_by_key(|(sequence, _)| *sequence);
    assert_eq!(answers.len(), 200, "a place of its own for each");
    // That a key was used for the first time is on record a moment after it was; each other
    // place is an answer's.
    let between = events(&second.admin(), &[]).await.into_iter();
    let between = between.filter(|(place, _)| (answers[0].0..=answers[199].0).contains(place));
    let (decisions, others): (Vec<_>, Vec<_>) = between.partition(|(_, e)| e["type"] == "decision");
    let others: Vec<_> = others.iter().map(|(_, event)| &event["type"]).collect();
    let gaps = answers[199].0 - answers[0].0 - 199 - others.len() as u64;
    assert_eq!((decisions.len(), gaps), (200, 0), "{others:?}");
    let quiet = others.iter().all(|kind| **kind == "key_used");
    assert!(quiet, "nothing else was going on: {others:?}");
    for (sequence, id) in [&answers[0], &answers[99], &answers[199]] {
        assert_eq!(event(&second.admin(), *sequence).await["id"], *id);
    }
    first.assert_verifies();
    second.assert_verifies();
}

#[tokio::test]
async fn what_one_replica_is_told_bites_on_the_next_call_at_the_other() {
    let (first, second) = two().await;
    for round in 0..5 {
        let name = format!("agent{round}");
        first.register(&name, &["researcher"]).await;
        // Enrolled at one, known at the other.
        let there = second.client(first.enroll(&name).await);
        allowed(&there, call("web_search")).await;
        let admin = first.admin();
        let request = v1::SuspendRequest {
            agent: name.clone(),
            note: String::new(),
        };
        admin.agents().suspend(request).await.expect("suspends");
        assert_eq!(
            denied(&there, call("web_search")).await,
            v1::DenyReason::Suspended
        );
        let request = v1::ReinstateRequest {
            agent: name.clone(),
            note: String::new(),
            ..Default::default()
        };
        second
            .admin()
            .agents()
            .reinstate(request)
            .await
            .expect("reinstates");
        allowed(&there, call("web_search")).await;
        let request = v1::RevokeRequest {
            agent: name,
            note: String::new(),
            ..Default::default()
        };
        admin.agents().revoke(request).await.expect("revokes");
        assert_eq!(
            denied(&there, call("web_search")).await,
            v1::DenyReason::Revoked
        );
    }
}

#[tokio::test]
async fn a_policy_applied_at_one_decides_the_next_call_at_the_other() {
    let (first, second) = two().await;
    let research = second.client({
        first.register("research", &["researcher"]).await;
        first.enroll("research").await
    });
    let admin = first.admin();
    let answer = admin
        .policies()
        .get_revision(v1::GetRevisionRequest::default())
        .await;
    let open = answer
        .expect("a revision")
        .into_inner()
        .source
        .expect("files");
    let mut closed = open.clone();
    closed.policies.push(v1::SourceFile {
        name: "closed.cedar".to_owned(),
        text: "@id(\"closed\")\nforbid (principal is ZTA::Agent, action, resource);".to_owned(),
    });
    for revision in 1..7 {
        let source = if revision % 2 == 1 { &closed } else { &open };
        // By turns at either replica.
        let admin = if revision % 3 == 0 {
            second.admin()
        } else {
            first.admin()
        };
        let request = v1::ApplyRequest {
            source: Some(source.clone()),
            expected_revision: revision,
            message: String::new(),
            ..Default::default()
        };
        admin.policies().apply(request).await.expect("applies");
        let answer = authorize(&research, call("web_search"))
            .await
            .expect("a decision");
        assert_eq!(answer.revision, revision + 1);
        let expected = if revision % 2 == 1 {
            v1::Effect::Deny
        } else {
            v1::Effect::Allow
        };
        assert_eq!(answer.effect(), expected);
    }
}

#[tokio::test]
async fn an_action_declared_at_one_is_known_at_the_other() {
    let (first, second) = two().await;
    first.register("research", &["researcher"]).await;
    let research = second.client(first.enroll("research").await);
    let admin = first.admin();
    let answer = admin
        .policies()
        .get_revision(v1::GetRevisionRequest::default())
        .await;
    let mut source = answer
        .expect("a revision")
        .into_inner()
        .source
        .expect("files");
    source.schemas.push(v1::SourceFile {
        name: "new.cedarschema".to_owned(),
        text: "namespace New { action fly appliesTo { principal: [ZTA::Agent], \
               resource: [ZTA::Tool], context: ZTA::CallContext }; }"
            .to_owned(),
    });
    let request = v1::AuthorizeRequest {
        action: crate::support::rpc::entity("New::Action", "fly"),
        ..call("kite")
    };
    let unknown = authorize(&research, request.clone()).await;
    assert_eq!(crate::support::rpc::refused(unknown), "ACTION_UNKNOWN");
    let apply = v1::ApplyRequest {
        source: Some(source),
        expected_revision: 1,
        message: String::new(),
        ..Default::default()
    };
    admin.policies().apply(apply).await.expect("applies");
    assert_eq!(
        denied(&research, request).await,
        v1::DenyReason::NotPermitted
    );
}

#[tokio::test]
async fn replicas_that_lost_their_connections_still_see_the_last_word() {
    let (first, second) = two().await;
    first.register("research", &["researcher"]).await;
    let there = second.client(first.enroll("research").await);
    allowed(&there, call("web_search")).await;
    let Database::Postgres(database) = &*first.database else {
        panic!("postgres")
    };
    database.terminate_connections().await;
    let request = || v1::RevokeRequest {
        agent: "research".to_owned(),
        note: String::new(),
        ..Default::default()
    };
    crate::support::eventually("revoked", async || {
        first.admin().agents().revoke(request()).await
    })
    .await;
    database.terminate_connections().await;
    let reason = crate::support::eventually("a decision", async || {
        authorize(&there, call("web_search"))
            .await
            .map(|answer| answer.reason())
    })
    .await;
    assert_eq!(
        reason,
        v1::DenyReason::Revoked,
        "the first answer after the cut"
    );
}

#[tokio::test]
async fn a_second_replica_makes_no_second_administrator_and_shares_the_ca() {
    let (first, second) = two().await;
    assert!(!second.data().join("admin/zta.json").exists());
    let ca = |server: &Server| std::fs::read(server.data().join("ca.pem")).expect("ca.pem");
    assert_eq!(ca(&first), ca(&second));
    assert!(
        !second.data().join("keys").exists(),
        "a fleet's keys lie sealed in the database"
    );
    assert!(!first.data().join("keys").exists());
}
