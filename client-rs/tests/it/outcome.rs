//! What became of calls is told in the background, and never in the way.

use std::{future::pending, time::Duration};

use serde_json::json;
use tokio::sync::Notify;
use zta_client::{Guard, Outcome, v1};

use crate::support::Fake;

const SOON: Duration = Duration::from_secs(20);

fn told(fake: &Fake) -> Vec<v1::CallOutcome> {
    fake.seen.outcomes.lock().expect("lock").clone()
}

#[tokio::test]
async fn each_allowed_call_is_told_and_no_denied_one() {
    let fake = Fake::start();
    let guard = Guard::new(fake.client());
    let run = async |tool: &str| {
        let done = guard.run(tool, json!({}), || async { 42 }).await;
        assert_eq!(done.is_ok(), tool == "allowed");
    };
    run("denied").await;
    run("broken").await;
    assert!(guard.flush_outcomes(SOON).await);
    assert!(told(&fake).is_empty());

    run("allowed").await;
    assert!(guard.flush_outcomes(SOON).await);
    let failed = guard.try_run("allowed", json!({}), || async {
        Err::<(), _>("secret text")
    });
    assert_eq!(failed.await.expect("allowed"), Err("secret text"));
    assert!(guard.flush_outcomes(SOON).await);
    let told = told(&fake);
    // The server was overloaded by the first: told again, and no loss.
    let results: Vec<_> = told.iter().map(v1::CallOutcome::result).collect();
    let (ok, error) = (v1::CallResult::Ok, v1::CallResult::Error);
    assert_eq!(results, [ok, ok, error]);
    assert!(
        told.iter()
            .all(|o| o.duration_us.is_some() && o.decision_id == "0198c0de")
    );
    assert!(!format!("{told:?}").contains("secret"));
    assert_eq!(guard.outcomes_lost(), 0);
}

#[tokio::test]
async fn a_call_that_nobody_waited_for_is_told_as_a_failure() {
    let fake = Fake::start();
    let guard = Guard::new(fake.client());
    let begun = Notify::new();
    let never = guard.run("allowed", json!({}), || async {
        begun.notify_one();
        pending::<()>().await;
    });
    tokio::select! {
        _ = never => panic!("it never ends"),
        () = begun.notified() => {}
    }
    assert!(guard.flush_outcomes(SOON).await);
    let told = told(&fake);
    let last = told.last().expect("a report");
    assert_eq!(
        (last.result(), last.error_class.as_str()),
        (v1::CallResult::Error, "cancelled")
    );
}

#[tokio::test]
async fn what_is_refused_is_counted_and_reporting_can_be_turned_off() {
    let fake = Fake::start();
    let guard = Guard::new(fake.client());
    let decision = guard
        .authorize("allowed", json!({}))
        .await
        .expect("allowed");
    let silent = guard.clone().without_outcomes();
    silent.report(&decision, Outcome::ok());
    assert!(silent.flush_outcomes(SOON).await);
    assert!(told(&fake).is_empty());

    guard.report(&decision, Outcome::ok().label("refused"));
    guard
        .clone()
        .report(&decision, Outcome::error("a text of an error"));
    assert!(guard.flush_outcomes(SOON).await);
    assert_eq!(guard.outcomes_lost(), 1);
    let told = told(&fake);
    assert_eq!(told.last().map(|o| o.error_class.as_str()), Some(""));
}

#[tokio::test]
async fn outcomes_wait_for_a_server_and_the_queue_is_bounded() {
    let fake = Fake::start();
    let guard = Guard::new(fake.client());
    let decision = guard
        .authorize("allowed", json!({}))
        .await
        .expect("allowed");
    drop(fake);
    for _ in 0..6000 {
        guard.report(&decision, Outcome::ok());
    }
    assert!(!guard.flush_outcomes(Duration::from_millis(300)).await);
    // At most a queue and a batch wait; nobody waited for them.
    let lost = guard.outcomes_lost();
    assert!((6000 - 4096 - 256..=6000 - 4096).contains(&lost), "{lost}");
}
