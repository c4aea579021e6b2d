//! When a stream does not begin, and when it ends.

use zta_client::Client;
use zta_client::v1;
use zta_client::v1::watch_events_request::Start;

use super::{Request, from, next, watch};
use crate::support::rpc::{authorize, call, events, reason, refused};
use crate::support::{Database, Server, Setup, eventually};

const WATCHERS: &str = r#"@id("watcher") permit (principal in ZTA::Role::"watcher",
    action == ZTA::Action::"read_audit", resource);"#;

/// Applies the policies that are in force, changed.
async fn apply(admin: &Client, revision: u64, change: impl FnOnce(&mut Vec<v1::SourceFile>)) {
    let current = v1::GetRevisionRequest::default();
    let current = admin.policies().get_revision(current).await;
    let mut source = current.expect("one").into_inner().source.expect("files");
    change(&mut source.policies);
    let request = v1::ApplyRequest {
        source: Some(source),
        expected_revision: revision,
        message: "why".to_owned(),
        ..Default::default()
    };
    admin.policies().apply(request).await.expect("applied");
}

/// A server whose agents may read the log by a role.
async fn with_watchers(database: Database) -> Server {
    let server = Setup::on(database)
        .policies(&["policies"])
        .set("ZTA_LIMITS__WATCH_HEARTBEAT_MS", 60_000)
        .start()
        .await;
    apply(&server.admin(), 1, |policies| {
        policies.retain(|file| file.name != "base.cedar");
        policies.push(v1::SourceFile {
            name: "own.cedar".to_owned(),
            text: WATCHERS.to_owned(),
        });
    })
    .await;
    server
}

/// An act of the administrator on an agent.
macro_rules! act {
    ($admin:ident.$method:ident($request:ident { $agent:expr })) => {
        $admin
            .agents()
            .$method(v1::$request {
                agent: $agent.to_owned(),
                ..Default::default()
            })
            .await
            .expect("done")
    };
}

#[tokio::test]
async fn a_stream_ends_when_its_reader_is_contained_and_says_why() {
    for database in Database::both().await {
        let server = with_watchers(database).await;
        let admin = server.admin();
        let mut streams = Vec::new();
        for name in ["a", "b", "c"] {
            let client = server.agent(name, &["watcher"]).await;
            let mut stream = watch(&client, Request::default()).await.expect("a stream");
            next(&mut stream).await.expect("a heartbeat");
            streams.push((client, stream));
        }
        act!(admin.suspend(SuspendRequest { "a" }));
        act!(admin.isolate(IsolateRequest { "b" }));
        act!(admin.revoke(RevokeRequest { "c" }));
        let last = events(&admin, &["admin"]).await[0].0;
        for ((_, stream), why) in streams.iter_mut().zip(["SUSPENDED", "ISOLATED", "REVOKED"]) {
            // Long before the next heartbeat; and of what came after, nothing.
            let ended = loop {
                match next(stream).await {
                    Ok(told) => assert!(told.events.iter().all(|event| event.sequence <= last)),
                    Err(ended) => break ended,
                }
            };
            assert_eq!(reason(&ended), why, "{ended:?}");
        }
        let acts = events(&admin, &["admin"]).await;
        let denied = acts
            .iter()
            .filter(|e| e.1["action"]["id"] == "read_audit" && e.1["effect"] == "deny");
        assert_eq!(denied.count(), 3, "each end is on record");
    }
}

#[tokio::test]
async fn a_stream_ends_when_the_rule_goes_that_permitted_it() {
    let server = with_watchers(Database::Sqlite).await;
    let admin = server.admin();
    let client = server.agent("a", &["watcher"]).await;
    let mut stream = watch(&client, Request::default()).await.expect("a stream");
    next(&mut stream).await.expect("a heartbeat");
    apply(&admin, 2, |policies| {
        policies.retain(|file| file.name != "own.cedar")
    })
    .await;
    let ended = loop {
        match next(&mut stream).await {
            Ok(_) => {}
            Err(ended) => break ended,
        }
    };
    assert_eq!(reason(&ended), "NOT_PERMITTED", "{ended:?}");
    assert_eq!(
        refused(watch(&client, Request::default()).await),
        "NOT_PERMITTED"
    );
}

#[tokio::test]
async fn a_cursor_of_nowhere_is_refused_by_name() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let mut stream = watch(&admin, from(0)).await.expect("a stream");
        let told = next(&mut stream).await.expect("an answer");
        let cursor = |cursor: String| Request {
            start: Some(Start::Cursor(cursor)),
            ..Default::default()
        };
        let (log, _) = told.cursor.split_once(':').expect("a log");
        let other = format!("{}:1", uuid::Uuid::new_v4().simple());
        for wrong in [
            "",
            "5",
            ":5",
            &other,
            &format!("{log}:"),
            &format!("{log}:05"),
            &format!("{log}:-1"),
        ] {
            let refusal = refused(watch(&admin, cursor(wrong.to_owned())).await);
            assert_eq!(refusal, "CURSOR_INVALID", "{wrong}");
        }
        for request in [cursor(format!("{log}:1000")), from(u64::MAX)] {
            assert_eq!(refused(watch(&admin, request).await), "CURSOR_BEYOND_LOG");
        }
        let types = Request {
            types: vec!["x".to_owned()],
            ..Default::default()
        };
        assert_eq!(refused(watch(&admin, types).await), "FIELD_INVALID");
    }
}

#[tokio::test]
async fn open_streams_are_bounded_by_name_with_those_of_revisions() {
    let server = Setup::sqlite()
        .set("ZTA_LIMITS__WATCH_STREAMS_MAX", 8)
        .start()
        .await;
    let admin = server.admin();
    let revisions = v1::WatchRevisionsRequest { after: 0 };
    let _one = admin
        .policies()
        .watch_revisions(revisions)
        .await
        .expect("one");
    let two = watch(&admin, from(0)).await.expect("two");
    let third = watch(&admin, from(0)).await.expect_err("one too many");
    assert_eq!(reason(&third), "LIMIT_EXCEEDED");
    assert!(
        third.message().starts_with("watch_streams_per_caller"),
        "{third:?}"
    );
    drop(two);
    eventually("a place is free again", async || {
        watch(&admin, from(0)).await
    })
    .await;
}

#[tokio::test]
async fn a_server_that_stops_ends_its_streams_and_says_why() {
    let mut server = Setup::sqlite()
        .set("ZTA_LIMITS__WATCH_HEARTBEAT_MS", 60_000)
        .set("ZTA_DRAIN_TIMEOUT_MS", 600_000)
        .start()
        .await;
    let research = server.agent("research", &["researcher"]).await;
    let admin = server.admin();
    let mut stream = watch(&admin, Request::default()).await.expect("a stream");
    next(&mut stream).await.expect("a heartbeat");
    authorize(&research, call("web_search"))
        .await
        .expect("a decision");
    server.terminate();
    let ended = loop {
        if let Err(ended) = next(&mut stream).await {
            break ended;
        }
    };
    assert_eq!(reason(&ended), "STOPPING", "{ended:?}");
    assert!(
        server.ended().await.success(),
        "an open stream is nothing to wait ten minutes for"
    );
}
