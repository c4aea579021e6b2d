//! The function runs after an explicit allow and after nothing else.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::json;
use zta_client::{Arguments, Client, Credential, Denied, Guard};

use crate::support::Fake;

/// Runs a call; says how often the function ran.
async fn run(guard: &Guard, tool: &str) -> (Result<u32, Denied>, usize) {
    let ran = AtomicUsize::new(0);
    let result = guard
        .run(tool, json!({"query": "zta"}), || async {
            ran.fetch_add(1, Ordering::SeqCst);
            42
        })
        .await;
    (result, ran.into_inner())
}

#[tokio::test]
async fn an_allowed_function_runs_once_and_its_call_is_described() {
    let fake = Fake::start();
    let guard = Guard::new(fake.client())
        .session("run-7")
        .user("alice")
        .framework("none");
    let (result, ran) = run(&guard, "allowed").await;
    assert_eq!((result.expect("allowed"), ran), (42, 1));
    let request = fake.last_request();
    let arguments = Arguments::try_from(json!({"query": "zta"})).expect("arguments");
    assert_eq!(request.action.expect("action").id, "call_tool");
    assert_eq!(request.arguments_sha256, arguments.sha256());
    assert_eq!(request.arguments_json, br#"{"query":"zta"}"#);
    assert_eq!(request.context_json, br#"{"framework":"none"}"#);
    assert_eq!(
        (request.session_id, request.user),
        ("run-7".into(), "alice".into())
    );
}

#[tokio::test]
async fn a_denied_function_does_not_run_and_the_reason_is_read() {
    let fake = Fake::start();
    let (result, ran) = run(&Guard::new(fake.client()), "denied").await;
    let denied = result.expect_err("denied");
    assert_eq!(ran, 0);
    assert_eq!(denied.reason, "FORBIDDEN");
    assert_eq!(denied.to_string(), "denied: forbidden by `no-secrets`");
    let decision = denied.decision.expect("a decision");
    assert_eq!(
        (decision.sequence, decision.policy_ids),
        (7, vec!["no-secrets".to_owned()])
    );
}

#[tokio::test]
async fn whatever_is_not_plainly_an_allow_is_a_deny() {
    let fake = Fake::start();
    let guard = Guard::new(fake.client()).timeout(Duration::from_millis(500));
    for (tool, reason) in [
        ("unspecified", "UNSPECIFIED"),
        ("unknown effect", "UNSPECIFIED"),
        ("contradiction", "STALE"),
        ("without id", "ANSWER_MISMATCHED"),
        ("of another", "ANSWER_MISMATCHED"),
        ("obliged", "OBLIGATION_UNSUPPORTED"),
        ("slow", "DEADLINE_EXCEEDED"),
        ("broken", "INTERNAL"),
        ("overloaded", "OVERLOADED"),
        ("unenrolled", "KEY_UNKNOWN"),
    ] {
        let (result, ran) = run(&guard, tool).await;
        let denied = result.expect_err(tool);
        assert_eq!((denied.reason.as_str(), ran), (reason, 0), "{tool}");
        assert!(!denied.message.contains("refused"), "{tool}: {denied}");
    }
}

#[tokio::test]
async fn without_a_server_nothing_runs() {
    let fake = Fake::start();
    let client = fake.client();
    let guard = Guard::new(client.clone());
    assert!(run(&guard, "allowed").await.0.is_ok());
    drop(fake);
    let (result, ran) = run(&guard, "allowed").await;
    let denied = result.expect_err("denied");
    assert_eq!(ran, 0);
    assert_eq!(denied.message, "authorisation service unavailable");
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_denies_in_time() {
    let fake = Fake::start();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let address = silent.local_addr().expect("address").to_string();
    let client = Client::builder(fake.credential()).server(&address).build();
    let guard = Guard::new(client.expect("client")).timeout(Duration::from_millis(200));
    let (result, ran) = run(&guard, "allowed").await;
    assert_eq!(
        (result.expect_err("denied").reason.as_str(), ran),
        ("DEADLINE_EXCEEDED", 0)
    );
}

#[tokio::test]
async fn a_server_of_another_ca_is_not_believed() {
    let (fake, other) = (Fake::start(), Fake::start());
    let credential: Credential = other.credential();
    let client = Client::builder(credential)
        .server(&fake.address.to_string())
        .build();
    let (result, ran) = run(&Guard::new(client.expect("client")), "allowed").await;
    assert!(result.is_err());
    assert_eq!(ran, 0);
    assert!(fake.seen.requests.lock().expect("lock").is_empty());
}

#[tokio::test]
async fn unfit_arguments_are_denied_and_not_quoted() {
    let fake = Fake::start();
    let guard = Guard::new(fake.client());
    let twice = r#"{"secret":1,"secret":2}"#;
    let denied = guard
        .run("allowed", twice, || async { panic!("ran") })
        .await
        .expect_err("denied");
    assert_eq!(denied.reason, "INVALID_ARGUMENTS");
    assert!(!denied.to_string().contains("secret"));
    assert!(fake.seen.requests.lock().expect("lock").is_empty());
}

#[tokio::test]
async fn obligations_are_carried_out_first_and_a_failing_one_denies() {
    let fake = Fake::start();
    static NOTIFIED: AtomicUsize = AtomicUsize::new(0);
    let guard = Guard::new(fake.client());
    let able = guard.clone().obligation("notify", |obligation, decision| {
        assert_eq!(
            (obligation.policy_id.as_str(), decision.sequence),
            ("all", 7)
        );
        NOTIFIED.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let (result, ran) = run(&able, "obliged").await;
    assert!(result.is_ok());
    assert_eq!((NOTIFIED.load(Ordering::SeqCst), ran), (1, 1));
    assert_eq!(fake.last_request().supported_obligations, ["notify"]);

    let unable = guard.obligation("notify", |_, _| Err("no pager".into()));
    let (result, ran) = run(&unable, "obliged").await;
    let denied = result.expect_err("denied");
    assert_eq!((denied.reason.as_str(), ran), ("OBLIGATION_UNSUPPORTED", 0));
}

#[tokio::test]
async fn guards_share_nothing_but_the_client_and_can_be_spawned() {
    let fake = Fake::start();
    let guard = Guard::new(fake.client());
    let (one, two) = (guard.clone().session("one"), guard.session("two"));
    let spawned = tokio::spawn(async move { run(&one, "allowed").await.1 });
    assert_eq!(spawned.await.expect("joined"), 1);
    assert_eq!(fake.last_request().session_id, "one");
    run(&two, "allowed").await.0.expect("allowed");
    assert_eq!(fake.last_request().session_id, "two");
}
