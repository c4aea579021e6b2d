//! Streams of revisions: no loss, no repeat, and for nobody who may not read them now.

use zta_client::{Client, v1};

use super::{apply, in_force, with};
use crate::support::rpc::{events, reason, refused};
use crate::support::{Database, SOON, Setup};

type Stream = tonic::Streaming<v1::WatchRevisionsResponse>;

async fn watch(client: &Client, after: u64) -> Result<Stream, tonic::Status> {
    let request = v1::WatchRevisionsRequest { after };
    let answer = client.policies().watch_revisions(request).await?;
    Ok(answer.into_inner())
}

async fn next(stream: &mut Stream) -> Result<v1::WatchRevisionsResponse, tonic::Status> {
    let message = tokio::time::timeout(SOON, stream.message()).await;
    message.expect("soon").map(|m| m.expect("it goes on"))
}

/// Numbers until one of them is there, heartbeats left out.
async fn until(stream: &mut Stream, last: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        let news = next(stream).await.expect("news");
        numbers.extend(news.revisions.iter().map(|r| r.number));
    }
    numbers
}

#[tokio::test]
async fn each_revision_comes_once_and_a_stream_goes_on_where_it_ended() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let admin = server.admin();
        let mut stream = watch(&admin, 0).await.expect("a stream");
        let first = next(&mut stream).await.expect("news");
        assert_eq!((first.revisions.len(), first.in_force), (1, 1));
        assert!(first.revisions[0].active && first.time.is_some());
        let (_, source) = in_force(&admin).await;
        for revision in 1..131 {
            apply(&admin, source.clone(), revision)
                .await
                .expect("applied");
        }
        assert_eq!(until(&mut stream, 131).await, (2..=131).collect::<Vec<_>>());
        drop(stream);
        apply(&admin, source.clone(), 131).await.expect("applied");
        let mut stream = watch(&admin, 131).await.expect("a stream");
        assert_eq!(until(&mut stream, 132).await, [132]);
        // More than one answer holds, from the beginning.
        let mut all = watch(&admin, 0).await.expect("a stream");
        let page = next(&mut all).await.expect("news");
        assert_eq!((page.revisions.len(), page.in_force), (100, 132));
        assert_eq!(until(&mut all, 132).await, (101..=132).collect::<Vec<_>>());
        assert_eq!(refused(watch(&admin, 133).await), "REVISION_NOT_FOUND");
    }
}

#[tokio::test]
async fn what_another_replica_applies_comes_too() {
    let first = Setup::on(Database::postgres().await).start().await;
    let second = first.replica().await;
    let mut stream = watch(&second.admin(), 1).await.expect("a stream");
    let heartbeat = next(&mut stream).await.expect("news");
    assert_eq!((heartbeat.revisions.len(), heartbeat.in_force), (0, 1));
    let admin = first.admin();
    let (_, source) = in_force(&admin).await;
    apply(&admin, source, 1).await.expect("applied");
    assert_eq!(until(&mut stream, 2).await, [2]);
}

#[tokio::test]
async fn a_stream_ends_when_its_caller_may_no_longer() {
    let policy = r#"@id("watcher") permit (principal in ZTA::Role::"watcher",
        action == ZTA::Action::"read_policy", resource);"#;
    let server = Setup::sqlite()
        .policies(&["policies"])
        .set("ZTA_LIMITS__WATCH_HEARTBEAT_MS", 60_000)
        .start()
        .await;
    let admin = server.admin();
    let mut source = with(&admin, "own.cedar", policy).await;
    source.policies.retain(|f| f.name != "base.cedar");
    apply(&admin, source.clone(), 1).await.expect("applied");
    let (a, b) = (
        server.agent("a", &["watcher"]).await,
        server.agent("b", &["watcher"]).await,
    );
    let mut streams = [
        watch(&a, 2).await.expect("a"),
        watch(&b, 2).await.expect("b"),
    ];
    for stream in &mut streams {
        assert_eq!(next(stream).await.expect("a heartbeat").in_force, 2);
    }
    // Contained: at once, long before the next heartbeat, and on record.
    let suspend = v1::SuspendRequest {
        agent: "a".to_owned(),
        note: String::new(),
    };
    admin.agents().suspend(suspend).await.expect("suspended");
    let ended = next(&mut streams[0]).await.expect_err("no more");
    assert_eq!(reason(&ended), "NOT_PERMITTED", "{ended:?}");
    let acts = events(&admin, &["admin"]).await;
    let refused_act = acts.iter().find(|e| e.1["action"]["id"] == "read_policy");
    let refused_act = &refused_act.expect("on record").1;
    assert_eq!(
        (&refused_act["effect"], &refused_act["reason"]),
        (&"deny".into(), &"SUSPENDED".into())
    );
    // By the very revision that takes the permission away: it is not told of that one.
    source.policies.retain(|f| f.name != "own.cedar");
    apply(&admin, source, 2).await.expect("applied");
    let ended = next(&mut streams[1]).await.expect_err("no more");
    assert_eq!(reason(&ended), "NOT_PERMITTED", "{ended:?}");
    assert_eq!(refused(watch(&b, 0).await), "NOT_PERMITTED");
}

#[tokio::test]
async fn heartbeats_come_and_are_decided_each() {
    let server = Setup::sqlite()
        .set("ZTA_LIMITS__WATCH_HEARTBEAT_MS", 100)
        .start()
        .await;
    let admin = server.admin();
    let mut stream = watch(&admin, 1).await.expect("a stream");
    for _ in 0..3 {
        let heartbeat = next(&mut stream).await.expect("a heartbeat");
        assert_eq!((heartbeat.revisions.len(), heartbeat.in_force), (0, 1));
    }
    let acts = events(&admin, &["admin"]).await;
    let reads = acts.iter().filter(|e| e.1["action"]["id"] == "read_policy");
    assert!(reads.count() >= 3);
}

#[tokio::test]
async fn open_streams_are_bounded_by_name_and_a_slow_reader_holds_up_nobody() {
    let server = Setup::sqlite()
        .set("ZTA_LIMITS__WATCH_STREAMS_MAX", 8)
        .set("ZTA_LIMITS__WATCH_HEARTBEAT_MS", 100)
        .start()
        .await;
    let admin = server.admin();
    // Nobody reads from these.
    let (one, _two) = (
        watch(&admin, 0).await.expect("one"),
        watch(&admin, 0).await.expect("two"),
    );
    let third = watch(&admin, 0).await.expect_err("one too many");
    assert_eq!(reason(&third), "LIMIT_EXCEEDED");
    assert!(
        third.message().starts_with("watch_streams_per_caller"),
        "{third:?}"
    );
    let (_, source) = in_force(&admin).await;
    for revision in 1..20 {
        apply(&admin, source.clone(), revision)
            .await
            .expect("applied");
    }
    drop(one);
    let mut stream =
        crate::support::eventually("a place is free again", async || watch(&admin, 0).await).await;
    assert_eq!(until(&mut stream, 20).await.len(), 20);
}

#[tokio::test]
async fn a_server_that_stops_ends_its_streams_and_says_why() {
    let mut server = Setup::sqlite()
        .set("ZTA_LIMITS__WATCH_HEARTBEAT_MS", 60_000)
        .set("ZTA_DRAIN_TIMEOUT_MS", 600_000)
        .start()
        .await;
    let admin = server.admin();
    let mut stream = watch(&admin, 1).await.expect("a stream");
    next(&mut stream).await.expect("a heartbeat");
    server.terminate();
    let ended = next(&mut stream).await.expect_err("it ends");
    assert_eq!(reason(&ended), "STOPPING", "{ended:?}");
    // It drains: an open stream is nothing to wait ten minutes for.
    assert!(server.ended().await.success());
}
