//! Which replica runs which revision, and who is behind.

use std::process::Command;

use serde_json::Value;
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use zta_client::{Client, v1};

use super::{apply, in_force, with};
use crate::support::database::run;
use crate::support::rpc::{allowed, authorize, call, refused};
use crate::support::server::text;
use crate::support::{Database, Server, Setup, eventually};

async fn status(client: &Client) -> v1::GetStatusResponse {
    let answer = client.policies().get_status(v1::GetStatusRequest {}).await;
    answer.expect("a status").into_inner()
}

/// The status once a replica is as it should be.
async fn once(
    client: &Client,
    what: &str,
    is: impl Fn(&[v1::Replica]) -> bool,
) -> v1::GetStatusResponse {
    eventually(what, async || {
        let status = status(client).await;
        match is(&status.replicas) {
            true => Ok(status),
            false => Err(status.replicas),
        }
    })
    .await
}

fn named<'r>(replicas: &'r [v1::Replica], endpoint: &str) -> Option<&'r v1::Replica> {
    replicas.iter().find(|r| r.name == endpoint)
}

fn signal(server: &Server, name: &str) {
    let pid = server.pid().to_string();
    let sent = Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", name, &pid])
        .status();
    assert!(sent.expect("sh").success());
}

#[tokio::test]
async fn a_replica_says_what_it_runs_and_that_it_stops() {
    for database in Database::both().await {
        let mut server = Setup::on(database)
            .set("ZTA_REPLICA_NAME", "one")
            .start()
            .await;
        let admin = server.admin();
        let here = |r: &[v1::Replica]| r.iter().any(|r| r.revision == 1 && r.name == "one");
        let first = once(&admin, "it tells of itself", here).await;
        assert_eq!((first.revision, first.replicas.len()), (1, 1));
        let one = &first.replicas[0];
        assert_eq!(one.state(), v1::ReplicaState::Running);
        assert!(one.answering && !one.lagging && !one.version.is_empty());
        let source = with(&admin, "x.cedar", "// x").await;
        apply(&admin, source, 1).await.expect("applied");
        let moved = once(&admin, "it runs the next one", |r| r[0].revision == 2).await;
        let two = &moved.replicas[0];
        assert_eq!((&two.id, two.lagging), (&one.id, false));
        assert!(two.revision_time != one.revision_time && two.start_time == one.start_time);
        assert!(server.stop().await.success());
        server.start().await;
        let admin = server.admin();
        let again = once(&admin, "a new process", |r| {
            r.len() == 2 && r[0].revision == 2
        })
        .await;
        let states: Vec<_> = again.replicas.iter().map(v1::Replica::state).collect();
        assert_eq!(
            states,
            [v1::ReplicaState::Running, v1::ReplicaState::Stopped]
        );
        assert_eq!(again.replicas[1].id, one.id);
    }
}

#[tokio::test]
async fn a_replica_that_hears_nothing_is_shown_behind_and_decides_by_nothing_old() {
    const FORBID: &str = r#"@id("no") forbid (principal is ZTA::Agent, action, resource);"#;
    let first = Setup::on(Database::postgres().await).start().await;
    let second = first.replica().await;
    let admin = first.admin();
    let research = second.client({
        first.register("research", &["researcher"]).await;
        first.enroll("research").await
    });
    allowed(&research, call("web_search")).await;
    let endpoint = second.endpoint().to_owned();
    let both = |r: &[v1::Replica]| r.len() == 2 && r.iter().all(|r| r.revision == 1 && !r.lagging);
    once(&admin, "both run the first", both).await;

    // It gets no time and hears nothing.
    signal(&second, "STOP");
    let source = with(&admin, "no.cedar", FORBID).await;
    apply(&admin, source, 1).await.expect("applied");
    let behind = status(&admin).await;
    let slow = named(&behind.replicas, &endpoint).expect("it is told of");
    assert_eq!((behind.revision, slow.revision, slow.lagging), (2, 1, true));
    let shown = first.zta(&["policy", "status", "--json"]);
    let said: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(said["revision"], 2);
    let in_flight = {
        let research = research.clone();
        tokio::spawn(async move { authorize(&research, call("web_search")).await })
    };
    signal(&second, "CONT");
    let answer = in_flight.await.expect("a task").expect("a decision");
    assert_eq!((answer.effect(), answer.revision), (v1::Effect::Deny, 2));
    let caught_up = |r: &[v1::Replica]| r.iter().all(|r| r.revision == 2 && !r.lagging);
    once(&admin, "both run the second", caught_up).await;
    let shown = first.zta(&["policy", "status"]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    assert!(
        text(&shown.stdout).contains("(this one)"),
        "{}",
        text(&shown.stdout)
    );
}

#[tokio::test]
async fn a_replica_that_is_dead_is_told_of_as_gone_and_then_no_more() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let ready = |r: &[v1::Replica]| r.len() == 1 && r[0].revision == 1;
        once(&admin, "it tells of itself", ready).await;
        // One that died an hour ago, and one two days ago.
        for (n, ago) in [(1, "1 hours"), (2, "48 hours")] {
            match &*server.database {
                Database::Sqlite => {
                    let url = format!("sqlite://{}", server.data().join("zta.db").display());
                    let mut store = SqliteConnection::connect(&url).await.expect("the store");
                    let insert = format!(
                        "INSERT INTO replicas SELECT '0000000{n}-0000-0000-0000-000000000000', \
                         log_id, 'dead{n}', version, 0, revision_time, start_time, \
                         strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-{ago}'), 0 FROM replicas LIMIT 1"
                    );
                    store
                        .execute(sqlx::AssertSqlSafe(insert))
                        .await
                        .expect("a row");
                }
                Database::Postgres(fresh) => {
                    let insert = format!(
                        "INSERT INTO replicas SELECT '0000000{n}-0000-0000-0000-000000000000', \
                         log_id, 'dead{n}', version, 0, revision_time, start_time, \
                         now() - interval '{ago}', false FROM replicas LIMIT 1"
                    );
                    run(&mut fresh.intruder().await, &insert).await;
                }
            }
        }
        let seen = status(&admin).await.replicas;
        let names: Vec<&str> = seen.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(
            names,
            [server.endpoint(), "dead1"],
            "{}",
            server.database.name()
        );
        assert_eq!(seen[1].state(), v1::ReplicaState::Gone);
        // Nobody is kept waiting for the dead.
        let shown = server.zta(&["policy", "status"]);
        assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
        assert!(text(&shown.stdout).contains("gone"));
    }
}

#[tokio::test]
async fn who_may_not_learns_nothing_of_the_fleet() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let answer = research
        .policies()
        .get_status(v1::GetStatusRequest {})
        .await;
    assert_eq!(refused(answer), "NOT_PERMITTED");
    assert_eq!(in_force(&server.admin()).await.0, 1);
}
