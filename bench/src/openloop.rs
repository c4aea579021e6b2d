//! The other generator: sends at a fixed rate whether or not answers come, as the world
//! does. A latency counts from the moment at which its request was due, so that a stall
//! of the server, or of this generator, shows in every request that it delayed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};
use zta_client::Client;

use crate::{
    Result,
    load::{self, Round},
    requests::{self, Case},
};

/// When each request is due: evenly spaced, the first one at once.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    rate_per_s: f64,
    count: usize,
}

impl Schedule {
    /// So many requests a second, for so long.
    #[must_use]
    pub fn new(rate_per_s: f64, duration: Duration) -> Self {
        Self {
            rate_per_s,
            count: (rate_per_s * duration.as_secs_f64()).floor() as usize,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// When the `n`th is due, counted from 0, after the start.
    #[must_use]
    pub fn due(&self, n: usize) -> Duration {
        Duration::from_secs_f64(n as f64 / self.rate_per_s)
    }

    /// How many are due once so much time has passed: never one too early.
    #[must_use]
    pub fn due_after(&self, passed: Duration) -> usize {
        let mut due = (passed.as_secs_f64() * self.rate_per_s) as usize + 2;
        while due > 0 && self.due(due - 1) > passed {
            due -= 1;
        }
        due.min(self.count)
    }
}

/// Drives a server at `rate_per_s` for `warm_up`, unmeasured, and then for `duration`,
/// over all of `clients` in turn. One wrong answer ends the run.
///
/// # Errors
/// An error, or the first wrong answer.
pub async fn drive(
    clients: &[Client],
    pool: &Arc<Vec<Case>>,
    rate_per_s: f64,
    warm_up: Duration,
    duration: Duration,
) -> Result<Round> {
    let schedule = Schedule::new(rate_per_s, warm_up + duration);
    let start = Instant::now();
    let (release, mut released) = mpsc::unbounded_channel();
    // A thread: its sleep is finer than the runtime's timer.
    let pacer = std::thread::spawn(move || pace(schedule, start, &release));
    let mut calls = JoinSet::new();
    let mut latencies_us = Vec::with_capacity(schedule.count());
    while let Some(n) = released.recv().await {
        let client = clients[n % clients.len()].clone();
        let due = start + schedule.due(n);
        calls.spawn(call(client, Arc::clone(pool), n, due));
        while let Some(call) = calls.try_join_next() {
            latencies_us.push(call??);
        }
    }
    while let Some(call) = calls.join_next().await {
        latencies_us.push(call??);
    }
    pacer.join().map_err(|_| "the pacer panicked")?;
    let measured = latencies_us.into_iter().filter(|(n, _)| {
        // The first of them belong to the warm-up.
        schedule.due(*n) >= warm_up
    });
    Ok(load::summarize(
        measured.map(|(_, us)| us).collect(),
        duration,
    ))
}

fn pace(schedule: Schedule, start: Instant, release: &mpsc::UnboundedSender<usize>) {
    let mut sent = 0;
    while sent < schedule.count() {
        let due = schedule.due_after(start.elapsed());
        if (sent..due).any(|n| release.send(n).is_err()) {
            return;
        }
        sent = sent.max(due);
        let next = start + schedule.due(sent);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// One call, and its latency in microseconds since it was due.
async fn call(
    client: Client,
    pool: Arc<Vec<Case>>,
    n: usize,
    due: Instant,
) -> Result<(usize, u32)> {
    let case = &pool[n % pool.len()];
    let mut request = case.request.clone();
    request.correlation_id = n.to_string();
    let answer = client.authorization().authorize(request).await?;
    let latency_us = due.elapsed().as_micros();
    requests::verify(case, &n.to_string(), None, &answer.into_inner())?;
    Ok((n, u32::try_from(latency_us).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_evenly_and_never_early() {
        let schedule = Schedule::new(1000.0, Duration::from_millis(1500));
        assert_eq!(schedule.count(), 1500);
        assert_eq!(schedule.due(250), Duration::from_millis(250));
        for (passed_us, due) in [(0, 1), (999, 1), (1000, 2), (9_999, 10), (9_000_000, 1500)] {
            let passed = Duration::from_micros(passed_us);
            assert_eq!(schedule.due_after(passed), due, "{passed_us}");
        }
        let odd = Schedule::new(3.0, Duration::from_secs(4));
        for n in 0..odd.count() {
            assert_eq!(odd.due_after(odd.due(n)), n + 1);
        }
    }

    #[test]
    fn a_late_pacer_releases_all_that_is_due_in_order() {
        let schedule = Schedule::new(1000.0, Duration::from_millis(50));
        let (release, mut released) = mpsc::unbounded_channel();
        let begun = Instant::now()
            .checked_sub(Duration::from_secs(1))
            .expect("the machine is up for longer");
        pace(schedule, begun, &release);
        let all: Vec<usize> = std::iter::from_fn(|| released.try_recv().ok()).collect();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
    }
}
