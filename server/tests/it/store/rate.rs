//! How fast the store commits. Run by hand, alone on the machine:
//! `tools/with-postgres.sh cargo test --release -p zta-server --test it rate -- --ignored --nocapture`

use std::time::{Duration, Instant};

use super::support::{Db, append, decision, with_inputs};

const FOR: Duration = Duration::from_secs(3);

/// Batches of a realistic size, one after the other, each in a transaction of its own.
#[allow(clippy::print_stdout, reason = "the numbers are the result")]
pub(crate) async fn commits(db: Db) {
    let db = db.with_log().await;
    let inputs = format!(r#"{{"input":"{}"}}"#, "x".repeat(400));
    for size in [1_usize, 16, 128] {
        let (mut commits, mut slowest) = (0_u32, Duration::ZERO);
        let mut times = Vec::new();
        let started = Instant::now();
        while started.elapsed() < FOR {
            let batch: Vec<_> = (0..size)
                .map(|_| {
                    let mut event = decision("spiffe://zta.local/agent/research", 0);
                    event.policies = vec!["researchers-search".to_owned()];
                    event.session = Some("session-1".to_owned());
                    event.user = Some("somebody@example.org".to_owned());
                    with_inputs(&event, &inputs)
                })
                .collect();
            let begun = Instant::now();
            append(&db.store, &batch).await;
            times.push(begun.elapsed());
            slowest = slowest.max(begun.elapsed());
            commits += 1;
        }
        times.sort_unstable();
        let seconds = started.elapsed().as_secs_f64();
        let rate = f64::from(commits) / seconds;
        println!(
            "{:?} batches of {size}: {rate:.0} commits/s, {:.0} events/s, median {:?}, p99 {:?}, slowest {slowest:?}",
            db.kind,
            rate * size as f64,
            times[times.len() / 2],
            times[times.len() * 99 / 100],
        );
    }
    assert!(db.store.head().await.expect("head").size > 0);
}
