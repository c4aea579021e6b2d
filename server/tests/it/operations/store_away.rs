//! The store is away: nothing is allowed, the caller is told to try again, and the server
//! recovers by itself.

use std::process::Command;
use std::time::Duration;

use sqlx::{Connection as _, Executor as _, SqliteConnection};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use zta_client::{Client, Guard};

use crate::support::http::{anonymous, get};
use crate::support::rpc::{allowed, authorize, call, event};
use crate::support::{Database, Server, Setup, eventually};

/// With the store away every door says so, and no tool runs.
async fn nothing_is_allowed(server: &Server, client: &Client) {
    let status = authorize(client, call("web_search"))
        .await
        .expect_err("no decision");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    assert_eq!(
        crate::support::rpc::reason(&status),
        "STORE_UNAVAILABLE",
        "{status:?}"
    );
    assert!(
        tonic_types::StatusExt::get_details_retry_info(&status).is_some(),
        "when to try again"
    );
    let leaked = ["sqlite", "postgres", "/tmp", "zta.db", "127.0.0.1"];
    let message = status.message().to_lowercase();
    assert!(
        !leaked.iter().any(|word| message.contains(word)),
        "{message}"
    );
    let mut ran = false;
    let guard = Guard::new(client.clone()).timeout(Duration::from_secs(20));
    let denied = guard
        .run("web_search", "{}", || {
            ran = true;
            std::future::ready(())
        })
        .await
        .expect_err("denied");
    assert!(!ran);
    assert_eq!(denied.reason, "STORE_UNAVAILABLE");
    eventually("not ready", async || match get(server, "/readyz").await {
        (503, _) => Ok(()),
        other => Err(other),
    })
    .await;
    let mut health = HealthClient::new(anonymous(server));
    let answer = health
        .check(HealthCheckRequest::default())
        .await
        .expect("an answer");
    assert_eq!(answer.into_inner().status(), ServingStatus::NotServing);
    assert_eq!(get(server, "/livez").await.0, 200, "alive, only not ready");
}

async fn recovers(server: &Server, client: &Client) {
    eventually("a decision", async || {
        authorize(client, call("web_search")).await
    })
    .await;
    allowed(client, call("web_search")).await;
    eventually("ready", async || match get(server, "/readyz").await {
        (200, _) => Ok(()),
        other => Err(other),
    })
    .await;
    server.assert_verifies();
}

#[tokio::test]
async fn postgres_is_cut_off_and_comes_back() {
    let server = Setup::on(Database::postgres().await).start().await;
    let research = server.agent("research", &["researcher"]).await;
    allowed(&research, call("web_search")).await;
    let Database::Postgres(database) = &*server.database else {
        panic!("postgres")
    };
    database.allow_connections(false).await;
    database.terminate_connections().await;
    nothing_is_allowed(&server, &research).await;
    database.allow_connections(true).await;
    recovers(&server, &research).await;
}

#[tokio::test]
async fn cut_connections_alone_cost_no_decision() {
    let server = Setup::on(Database::postgres().await).start().await;
    let research = server.agent("research", &["researcher"]).await;
    let Database::Postgres(database) = &*server.database else {
        panic!("postgres")
    };
    for _ in 0..3 {
        database.terminate_connections().await;
        // One call may meet the dead connection; it must say so and not be lost.
        eventually("a decision", async || {
            authorize(&research, call("web_search")).await
        })
        .await;
    }
    server.assert_verifies();
}

#[tokio::test]
async fn sqlite_is_locked_by_another_process_and_comes_back() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let url = format!("sqlite://{}", server.data().join("zta.db").display());
    let mut other = SqliteConnection::connect(&url).await.expect("the store");
    other.execute("BEGIN IMMEDIATE").await.expect("the lock");
    nothing_is_allowed(&server, &research).await;
    other.execute("ROLLBACK").await.expect("lets go");
    recovers(&server, &research).await;
}

#[tokio::test]
async fn a_full_disk_allows_nothing_and_room_brings_it_back() {
    let server = Setup::sqlite().ignoring_file_size_signal().start().await;
    let research = server.agent("research", &["researcher"]).await;
    allowed(&research, call("web_search")).await;
    let pid = server.pid().to_string();
    let limit = |limit: &str| {
        let limit = format!("--fsize={limit}:");
        let done = Command::new("prlimit")
            .args(["--pid", &pid, &limit])
            .status();
        assert!(done.expect("prlimit (util-linux)").success(), "{limit}");
    };
    // No file may grow beyond its first page: each write of the log fails as on a full disk.
    limit("4096");
    nothing_is_allowed(&server, &research).await;
    limit("unlimited");
    recovers(&server, &research).await;
}

/// With a WAL, SQLite goes on writing into files that have no name any more.
#[tokio::test]
async fn a_database_that_was_moved_or_replaced_takes_no_decision() {
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    allowed(&research, call("web_search")).await;
    for name in ["zta.db", "zta.db-wal", "zta.db-shm"] {
        let (file, aside) = (server.data().join(name), server.data().join("aside"));
        std::fs::rename(&file, &aside).expect("moves it");
        nothing_is_allowed(&server, &research).await;
        // Somebody puts an older state back.
        std::fs::copy(&aside, &file).expect("replaces it");
        nothing_is_allowed(&server, &research).await;
        std::fs::rename(&aside, &file).expect("puts it back");
        recovers(&server, &research).await;
    }
}

/// As the error says: whoever ends the server in order loses nothing.
#[tokio::test]
async fn a_deleted_wal_loses_nothing_that_was_answered() {
    let mut server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let answered = allowed(&research, call("web_search")).await;
    std::fs::remove_file(server.data().join("zta.db-wal")).expect("deletes it");
    nothing_is_allowed(&server, &research).await;
    assert!(server.stop().await.success());
    server.start().await;
    let kept = event(&server.admin(), answered.sequence).await;
    assert_eq!(kept["id"], answered.decision_id);
    server.assert_verifies();
}
