//! Streams of events: each once and in order over cuts, restarts and replicas; for nobody who
//! may not read the log at that moment; and never in the way of the writer.

mod refused;

use std::collections::BTreeMap;

use zta_client::v1::watch_events_request::Start;
use zta_client::{Client, v1};

use crate::support::rpc::{authorize, call, events};
use crate::support::{Database, SOON, Server, Setup};

pub(super) type Request = v1::WatchEventsRequest;
pub(super) type Answers = tonic::Streaming<v1::WatchEventsResponse>;

/// From a place of the log on.
pub(super) fn from(sequence: u64) -> Request {
    Request {
        start: Some(Start::Sequence(sequence)),
        ..Default::default()
    }
}

pub(super) async fn watch(client: &Client, request: Request) -> Result<Answers, tonic::Status> {
    let answer = client.audit().watch_events(request).await;
    answer.map(tonic::Response::into_inner)
}

pub(super) async fn next(stream: &mut Answers) -> Result<v1::WatchEventsResponse, tonic::Status> {
    let told = tokio::time::timeout(SOON, stream.message()).await;
    told.expect("soon").map(|told| told.expect("it goes on"))
}

/// Every leaf of the log, by its place.
async fn whole(admin: &Client) -> BTreeMap<u64, Vec<u8>> {
    let (mut all, mut page_token) = (BTreeMap::new(), String::new());
    loop {
        let request = v1::ListEventsRequest {
            page_size: 1000,
            page_token,
            ..Default::default()
        };
        let answer = admin
            .audit()
            .list_events(request)
            .await
            .expect("a page")
            .into_inner();
        all.extend(
            answer
                .events
                .into_iter()
                .map(|event| (event.sequence, event.leaf)),
        );
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

/// Decisions of so many calls at once, at these replicas.
fn load(clients: Vec<Client>, calls: usize) -> tokio::task::JoinSet<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for client in clients {
        tasks.spawn(async move {
            for _ in 0..calls {
                authorize(&client, call("web_search"))
                    .await
                    .expect("a decision");
            }
        });
    }
    tasks
}

#[tokio::test]
async fn a_stream_goes_on_at_each_place_without_loss_or_repeat_while_two_replicas_write() {
    let first = Setup::on(Database::postgres().await).start().await;
    let second = first.replica().await;
    first.register("research", &["researcher"]).await;
    let credential = first.enroll("research").await;
    let writers = [&first, &second].map(|replica| replica.client(credential.clone()));
    let writers = [writers.to_vec(), writers.to_vec()].concat();
    let mut load = load(writers, 60);
    let readers = [first.admin(), second.admin()];
    let (mut seen, mut cursor, mut streams) = (BTreeMap::new(), String::new(), 0_usize);
    let done = loop {
        let start = match cursor.is_empty() {
            true => Start::Sequence(0),
            false => Start::Cursor(cursor.clone()),
        };
        let request = Request {
            start: Some(start),
            ..Default::default()
        };
        let mut stream = watch(&readers[streams % 2], request)
            .await
            .expect("a stream");
        streams += 1;
        // Cut after one answer, or a few.
        let mut quiet = false;
        for _ in 0..streams % 4 + 1 {
            let told = next(&mut stream).await.expect("an answer");
            for event in &told.events {
                assert_eq!(
                    event.sequence,
                    seen.len() as u64,
                    "in order, each once, no gap"
                );
                seen.insert(event.sequence, event.leaf.clone());
            }
            assert_eq!(told.sequence, seen.len() as u64);
            assert!(told.log_size >= told.sequence);
            quiet = told.events.is_empty();
            cursor = told.cursor;
            if quiet {
                break;
            }
        }
        if load.is_empty() && quiet {
            break seen;
        }
        while load.try_join_next().is_some() {}
    };
    assert!(streams > 5, "it was cut often: {streams}");
    let all = whole(&first.admin()).await;
    assert!(done.len() > 240);
    assert!(
        done.iter()
            .all(|(sequence, leaf)| all.get(sequence) == Some(leaf))
    );
}

#[tokio::test]
async fn the_client_goes_on_over_a_killed_server_and_hands_out_each_event_once() {
    for database in Database::both().await {
        let mut server = Setup::on(database).start().await;
        let research = server.agent("research", &["researcher"]).await;
        let admin = server.admin();
        let mut stream = admin.watch_events(from(0)).await.expect("a stream");
        let mut seen = Vec::new();
        for round in 0..3 {
            authorize(&research, call("web_search"))
                .await
                .expect("a decision");
            let last = events(&admin, &["decision"]).await[0].0;
            while seen.last().is_none_or(|seen| *seen < last) {
                let event = tokio::time::timeout(SOON, stream.next())
                    .await
                    .expect("soon");
                seen.push(event.expect("an event").sequence);
                let place = format!(":{}", seen.len());
                assert!(
                    stream.cursor().ends_with(&place),
                    "{} {place}",
                    stream.cursor()
                );
            }
            match round {
                0 => server.kill(),
                _ => assert!(server.stop().await.success()),
            }
            server.start().await;
        }
        assert_eq!(seen, (0..seen.len() as u64).collect::<Vec<_>>());
        // Another process with the kept cursor.
        let start = Some(Start::Cursor(stream.cursor().to_owned()));
        let again = Request {
            start,
            ..Default::default()
        };
        let mut again = server.admin().watch_events(again).await.expect("a stream");
        let event = tokio::time::timeout(SOON, again.next())
            .await
            .expect("soon");
        assert_eq!(event.expect("an event").sequence, seen.len() as u64);
    }
}

#[tokio::test]
async fn filters_hold_for_streams_and_heartbeats_carry_the_cursor() {
    for database in Database::both().await {
        let server = Setup::on(database)
            .set("ZTA_LIMITS__WATCH_HEARTBEAT_MS", 100)
            .start()
            .await;
        let research = server.agent("research", &["researcher"]).await;
        let admin = server.admin();
        let none = Request {
            session_id: "nobody's".to_owned(),
            ..Default::default()
        };
        let some = Request {
            session_id: "mine".to_owned(),
            effect: v1::Effect::Allow.into(),
            ..Default::default()
        };
        let mut none = watch(&admin, none).await.expect("a stream");
        let mut some = watch(&admin, some).await.expect("a stream");
        let begun = next(&mut none).await.expect("a heartbeat").sequence;
        assert!(
            next(&mut some)
                .await
                .expect("a heartbeat")
                .events
                .is_empty()
        );
        let mut sequences = Vec::new();
        for session in ["mine", "other", "mine"] {
            let mut request = call("web_search");
            request.session_id = session.to_owned();
            let answer = authorize(&research, request).await.expect("a decision");
            if session == "mine" {
                sequences.push(answer.sequence);
            }
        }
        let mut told = Vec::new();
        while told.len() < 2 {
            let answer = next(&mut some).await.expect("an answer");
            told.extend(answer.events.iter().map(|event| event.sequence));
        }
        assert_eq!(told, sequences);
        // What matches nothing comes on all the same.
        let mut reached = begun;
        while reached <= sequences[1] {
            let answer = next(&mut none).await.expect("a heartbeat");
            assert!(answer.events.is_empty() && answer.sequence >= reached);
            assert!(
                answer.time.is_some() && answer.cursor.ends_with(&format!(":{}", answer.sequence))
            );
            reached = answer.sequence;
        }
        // A stream puts nothing on record but its beginning.
        let reads = events(&admin, &["admin"]).await;
        let reads = reads
            .iter()
            .filter(|e| e.1["action"]["id"] == "read_audit")
            .count();
        assert_eq!(reads, 3, "two streams and this list");
    }
}

#[tokio::test]
async fn readers_that_do_not_read_hold_up_nobody_and_miss_nothing() {
    const DECISIONS: u64 = 4000;
    const SLOW: usize = 14;
    let server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    // On one connection, so that most streams find no room in the middle of a step.
    let admin = server.admin();
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        slow.push(watch(&admin, from(0)).await.expect("a stream"));
    }
    let before = resident_kib(&server);
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let research = research.clone();
        load.spawn(async move {
            for _ in 0..DECISIONS / 16 {
                let mut large = call("web_search");
                large.session_id = "s".repeat(250);
                large.correlation_id = "c".repeat(250);
                large.task_id = "t".repeat(250);
                authorize(&research, large).await.expect("a decision");
            }
        });
    }
    let mut quick = watch(&server.admin(), from(0)).await.expect("a stream");
    let (mut seen, mut bytes) = (0, 0);
    while seen < DECISIONS {
        for event in next(&mut quick).await.expect("an answer").events {
            seen = event.sequence;
            bytes += event.leaf.len();
        }
    }
    while let Some(done) = load.join_next().await {
        done.expect("the writer goes on");
    }
    // For each one answer waits, not the log.
    let (log_kib, limit) = (bytes / 1024, 32 * 1024);
    assert!(SLOW * log_kib > 2 * limit, "proves little: {log_kib} KiB");
    let grown = resident_kib(&server).saturating_sub(before);
    assert!(grown < limit, "{grown} KiB more");
    // All at once: what one does not take is in the way of the others.
    let reading = slow.into_iter().map(async |mut slow| {
        let mut seen = 0;
        while seen < DECISIONS {
            for event in next(&mut slow).await.expect("an answer").events {
                assert_eq!(event.sequence, seen);
                seen += 1;
            }
        }
    });
    futures_util::future::join_all(reading).await;
}

/// Memory of the server.
fn resident_kib(server: &Server) -> usize {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse().ok()).expect("its memory")
}

#[tokio::test]
async fn the_command_follows_and_goes_on_over_a_restart() {
    let mut server = Setup::sqlite().start().await;
    let research = server.agent("research", &["researcher"]).await;
    let arguments = [
        "audit", "list", "--follow", "--json", "--type", "decision", "--limit", "1",
    ];
    for _ in 0..2 {
        authorize(&research, call("web_search"))
            .await
            .expect("a decision");
    }
    let mut follower = server.command(&arguments);
    let mut follower = follower
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("zta");
    let lines = follower.stdout.take().expect("lines");
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(std::io::BufReader::new(lines)) {
            let line: serde_json::Value = serde_json::from_str(&line.expect("text")).expect("JSON");
            let _ = tell.send(line["sequence"].as_u64().expect("a place"));
        }
    });
    let mut expect = async |sequence: u64| {
        let line = tokio::time::timeout(SOON, told.recv()).await.expect("soon");
        assert_eq!(line, Some(sequence));
    };
    let decisions = events(&server.admin(), &["decision"]).await;
    expect(decisions[0].0).await;
    for _ in 0..2 {
        let answer = authorize(&research, call("web_search"))
            .await
            .expect("a decision");
        expect(answer.sequence).await;
        assert!(server.stop().await.success());
        server.start().await;
    }
    let _ = follower.kill();
    let _ = follower.wait();
}
