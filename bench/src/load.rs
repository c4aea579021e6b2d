//! The generator: a fixed number of callers, each with one request in flight.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use zta_client::Client;

use crate::{
    Result,
    requests::{self, Case},
};

/// How many connections, and how many requests in flight on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Connections.
    pub connections: usize,
    /// Requests in flight on each of them.
    pub in_flight: usize,
}

/// What one round found.
#[derive(Clone, Debug)]
pub struct Round {
    /// Right answers a second.
    pub per_s: f64,
    /// The median latency, in microseconds.
    pub p50_us: f64,
    /// The 99th percentile of the latency, in microseconds.
    pub p99_us: f64,
}

/// Drives a server for `warm_up` and then for `duration`, over the first connections of
/// `clients`. One wrong answer ends the run.
///
/// # Errors
/// An error, or the first wrong answer.
pub async fn drive(
    clients: &[Client],
    pool: &Arc<Vec<Case>>,
    shape: Shape,
    warm_up: Duration,
    duration: Duration,
) -> Result<Round> {
    let begin = Instant::now() + warm_up;
    let end = begin + duration;
    let mut callers = JoinSet::new();
    for (nth, client) in clients.iter().take(shape.connections).enumerate() {
        for mth in 0..shape.in_flight {
            let first = (nth * shape.in_flight + mth) * 7;
            callers.spawn(call(client.clone(), Arc::clone(pool), first, begin, end));
        }
    }
    let mut latencies_us = Vec::new();
    while let Some(caller) = callers.join_next().await {
        latencies_us.extend(caller??);
    }
    Ok(summarize(latencies_us, duration))
}

/// One caller: asks, reads, asks again. Counts what was answered between begin and end.
async fn call(
    client: Client,
    pool: Arc<Vec<Case>>,
    first: usize,
    begin: Instant,
    end: Instant,
) -> Result<Vec<u32>> {
    let mut authorization = client.authorization();
    let mut latencies_us = Vec::new();
    let mut sequence = None;
    for n in first.. {
        let case = &pool[n % pool.len()];
        let mut request = case.request.clone();
        request.correlation_id = format!("{first}-{n}");
        let correlation_id = request.correlation_id.clone();
        let asked = Instant::now();
        let answer = authorization.authorize(request).await?.into_inner();
        let answered = Instant::now();
        requests::verify(case, &correlation_id, sequence, &answer)?;
        sequence = Some(answer.sequence);
        if answered > end {
            break;
        }
        if answered >= begin {
            let latency_us = answered.duration_since(asked).as_micros();
            latencies_us.push(u32::try_from(latency_us).unwrap_or(u32::MAX));
        }
    }
    Ok(latencies_us)
}

pub(crate) fn summarize(mut latencies_us: Vec<u32>, duration: Duration) -> Round {
    latencies_us.sort_unstable();
    Round {
        per_s: latencies_us.len() as f64 / duration.as_secs_f64(),
        p50_us: percentile(&latencies_us, 50),
        p99_us: percentile(&latencies_us, 99),
    }
}

/// By nearest rank; nothing measured is infinitely slow, not fast.
pub(crate) fn percentile(sorted: &[u32], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .map_or(f64::INFINITY, |latency_us| f64::from(*latency_us))
}

/// The middle value, or the mean of the two middle ones.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let round = summarize((1..=200).rev().collect(), Duration::from_secs(2));
        assert_eq!(
            (round.per_s, round.p50_us, round.p99_us),
            (100.0, 100.0, 198.0)
        );
        let empty = summarize(Vec::new(), Duration::from_secs(1));
        assert_eq!((empty.per_s, empty.p50_us), (0.0, f64::INFINITY));
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
