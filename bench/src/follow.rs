//! How soon an event is with who follows the log: from the answer of an Authorize to the
//! arrival of its event, beside a load, at a watcher of everything. Also at one on another
//! replica.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::{JoinHandle, JoinSet};
use zta_client::{Client, Credential};
use zta_proto::v1;

use crate::{
    Result,
    database::Database,
    device, identity,
    load::{self, percentile},
    measure::{Plan, Target},
    report::Report,
    requests,
    server::RealServer,
    setup,
};

/// Decisions whose events are waited for.
const PROBES: usize = 1000;
/// The pause between two of them.
const PAUSE: Duration = Duration::from_millis(2);
/// Requests in flight beside them.
const LOAD: load::Shape = load::Shape {
    connections: 2,
    in_flight: 8,
};
/// An event that takes longer is lost.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// Runs this part.
///
/// # Errors
/// A server does not come up, or an event never came.
pub(crate) async fn run(
    plan: &Plan,
    binary: &Path,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut server = RealServer::start(binary, &device::durable_dir(), None).await?;
    let credential = setup::prepare(&server).await?;
    let admin = server.admin()?;
    let mut worst = lag(&server, &credential, &[("sqlite", admin)], say).await?;
    server.stop().await?;
    if let Some(url) = &plan.postgres_url {
        let name = format!("zta_follow_{}", std::process::id());
        let database = Database::create(url, &name).await?;
        let server = RealServer::start(binary, &device::durable_dir(), Some(database)).await?;
        let credential = setup::prepare(&server).await?;
        let replica = server.replica().await?;
        let watchers = [
            ("postgres", server.admin()?),
            ("postgres, another replica", server.admin_at(&replica)?),
        ];
        worst = worst.max(lag(&server, &credential, &watchers, say).await?);
    } else {
        say("another replica is left out: it needs Postgres");
    }
    report.figure("watch_lag_ms_p99", worst, 2);
    Ok(())
}

/// The worst 99th percentile of these watchers, in milliseconds.
async fn lag(
    server: &RealServer,
    credential: &Credential,
    watchers: &[(&str, Client)],
    say: &mut dyn FnMut(&str),
) -> Result<f64> {
    let load = Target::new("load", credential, server.endpoint(), requests::pool()?)?;
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for client in load.clients.iter().take(LOAD.connections) {
        for _ in 0..LOAD.in_flight {
            let (client, over) = (client.clone(), Arc::clone(&over));
            callers.spawn(identity::keep_busy(client, Arc::clone(&load.pool), over));
        }
    }
    let mut following = Vec::new();
    for (name, client) in watchers {
        following.push((*name, follow(client.clone(), Arc::clone(&over)).await?));
    }
    let probe = load.clients.last().ok_or("no client")?;
    let mut answered = Vec::new();
    for _ in 0..PROBES {
        let request = load.pool[0].request.clone();
        let answer = probe.authorization().authorize(request).await?;
        answered.push((answer.into_inner().sequence, Instant::now()));
        tokio::time::sleep(PAUSE).await;
    }
    // The last ones are on their way yet.
    tokio::time::sleep(Duration::from_millis(500)).await;
    over.store(true, Ordering::Relaxed);
    let mut decided = PROBES as u64;
    while let Some(caller) = callers.join_next().await {
        decided += caller??;
    }
    let mut worst: f64 = 0.0;
    for (name, arrivals) in following {
        let arrivals = arrivals.await??;
        let mut lags_us = Vec::new();
        for (sequence, answered) in &answered {
            let arrived = arrivals.get(sequence).ok_or("an event never came")?;
            let lag = arrived.saturating_duration_since(*answered);
            lags_us.push(u32::try_from(lag.as_micros())?);
        }
        lags_us.sort_unstable();
        let (p50, p99) = (
            percentile(&lags_us, 50) / 1e3,
            percentile(&lags_us, 99) / 1e3,
        );
        say(&format!(
            "an event reaches a watcher ({name}): p50 {p50:.1} ms, p99 {p99:.1} ms, beside {decided} decisions"
        ));
        worst = worst.max(p99);
    }
    Ok(worst)
}

/// When each event arrived, by its place; until the load is over.
async fn follow(
    client: Client,
    over: Arc<AtomicBool>,
) -> Result<JoinHandle<Result<HashMap<u64, Instant>>>> {
    let mut events = client
        .watch_events(v1::WatchEventsRequest::default())
        .await?;
    Ok(tokio::spawn(async move {
        let mut arrivals = HashMap::new();
        while !over.load(Ordering::Relaxed) {
            let event = tokio::time::timeout(LOST_AFTER, events.next()).await??;
            arrivals.insert(event.sequence, Instant::now());
        }
        Ok(arrivals)
    }))
}
