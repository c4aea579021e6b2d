//! Stopping.

use std::time::Duration;

use sqlx::{Connection as _, Executor as _, SqliteConnection};
use zta_client::v1;

use crate::support::rpc::{allowed, authorize, call, event, events};
use crate::support::{Database, Setup};

#[tokio::test]
async fn a_call_in_flight_is_answered_before_the_end() {
    let mut server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    allowed(&research, call("web_search")).await;
    let url = format!("sqlite://{}", server.data().join("zta.db").display());
    let mut other = SqliteConnection::connect(&url).await.expect("the store");
    other.execute("BEGIN IMMEDIATE").await.expect("the lock");
    let client = research.clone();
    let in_flight = tokio::spawn(async move { authorize(&client, call("web_search")).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.terminate();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!in_flight.is_finished(), "it waits for its record");
    other.execute("ROLLBACK").await.expect("lets go");
    let answer = in_flight.await.expect("a task").expect("a decision");
    assert_eq!(answer.effect(), v1::Effect::Allow);
    assert!(server.ended().await.success());
    let late = research.authorize(call("web_search")).await;
    assert!(late.is_err(), "no new calls");
    server.start().await;
    let admin = server.admin();
    assert_eq!(
        event(&admin, answer.sequence).await["id"],
        answer.decision_id
    );
    let stopped = events(&admin, &["server_stopped"]).await;
    assert!(
        stopped[0].0 > answer.sequence,
        "the stop is on record after it"
    );
}

#[tokio::test]
async fn a_call_that_does_not_end_is_cut_off_at_the_deadline() {
    let mut server = Setup::sqlite()
        .set("ZTA_DRAIN_TIMEOUT_MS", 500)
        .start()
        .await;
    let research = server.agent("research", &["researcher"]).await;
    let url = format!("sqlite://{}", server.data().join("zta.db").display());
    let mut other = SqliteConnection::connect(&url).await.expect("the store");
    other.execute("BEGIN IMMEDIATE").await.expect("the lock");
    let in_flight = tokio::spawn(async move { authorize(&research, call("web_search")).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let asked = std::time::Instant::now();
    server.terminate();
    assert!(server.ended().await.success());
    assert!(
        asked.elapsed() < Duration::from_secs(9),
        "{:?}",
        asked.elapsed()
    );
    assert!(
        in_flight.await.expect("a task").is_err(),
        "no record, no answer"
    );
    assert!(server.log().contains("cut off"), "and the log says so");
}

#[tokio::test]
async fn a_restart_goes_on_with_the_same_log_keys_and_agents() {
    for database in Database::both().await {
        let mut server = Setup::on(database).start().await;
        let research = server.agent("research", &["researcher"]).await;
        let token = research.authenticate().await.expect("a token").access_token;
        let before = allowed(&research, call("web_search")).await;
        server.kill();
        server.start().await;
        let after = allowed(&research, call("web_search")).await;
        assert!(after.sequence > before.sequence);
        let with_token =
            crate::support::rpc::authorize_with_token(&research, call("web_search"), &token).await;
        assert_eq!(
            with_token.expect("a decision").effect(),
            v1::Effect::Allow,
            "the same key"
        );
        server.assert_verifies();
    }
}
