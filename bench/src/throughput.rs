//! The real server beside the no-op one, on both databases; then its latency at half of
//! what it can do, and batches.

use crate::{
    Result, batch,
    database::Database,
    device,
    load::{Shape, median},
    measure::{self, FULL, Plan, Target},
    noop::Noop,
    openloop,
    report::{Report, Series},
    requests::{self, Expected},
    server::RealServer,
    setup,
};

/// The shapes, each with the suffix of its names in the report.
const SHAPES: [(&str, Shape); 3] = [
    ("", FULL),
    (
        "_4x8",
        Shape {
            connections: 4,
            in_flight: 8,
        },
    ),
    (
        "_1x1",
        Shape {
            connections: 1,
            in_flight: 1,
        },
    ),
];
const BATCH: usize = 128;
/// Batches in flight: two on each connection, so that one is decided while one travels.
const BATCHES: Shape = Shape {
    connections: 4,
    in_flight: 2,
};
const SQLITE: &str = "authorize_sqlite";

/// Runs this part.
///
/// # Errors
/// A server does not come up, an answer is wrong, or a log does not verify.
pub(crate) async fn run(plan: &Plan, report: &mut Report, say: &mut dyn FnMut(&str)) -> Result<()> {
    let noop = Noop::start().await?;
    let credential = noop.credential()?;
    let mut allowed = requests::pool()?;
    allowed
        .iter_mut()
        .for_each(|case| case.expected = Expected::Allow);
    let endpoint = credential.endpoint().to_owned();
    let mut targets = vec![Target::new("noop", &credential, &endpoint, allowed)?];
    let mut names = vec!["noop"];
    let mut servers = Vec::new();
    for (name, database) in stores(plan).await? {
        let Some(binary) = &plan.binary else { break };
        let server = RealServer::start(binary, &device::durable_dir(), database).await?;
        let credential = setup::prepare(&server).await?;
        let pool = requests::pool()?;
        targets.push(Target::new(name, &credential, server.endpoint(), pool)?);
        names.push(name);
        servers.push((name, server));
    }
    let mut full_rate = None;
    let all: Vec<&Target> = targets.iter().collect();
    for (suffix, shape) in SHAPES {
        let rounds = measure::alternate(plan, &all, shape, say).await?;
        for (&name, rounds) in names.iter().zip(rounds) {
            if (name, shape) == (SQLITE, FULL) {
                full_rate = Some(median(rounds.iter().map(|r| r.per_s).collect()));
            }
            report.add(Series {
                name,
                suffix: suffix.to_owned(),
                shape,
                rounds,
            });
        }
    }
    let sqlite = all.iter().find(|target| target.name == SQLITE);
    if let (Some(target), Some(rate)) = (sqlite, full_rate) {
        half_load(plan, target, rate / 2.0, report, say).await?;
        batches(plan, target, report, say).await?;
    }
    drop(targets);
    for (name, mut server) in servers {
        server.stop().await?;
        let proof = server.verify_audit()?;
        let first = proof.lines().next().unwrap_or_default().to_owned();
        say(&format!("{name}: {first}"));
        report.verified(name, &first);
    }
    Ok(())
}

async fn stores(plan: &Plan) -> Result<Vec<(&'static str, Option<Database>)>> {
    let mut stores = Vec::new();
    if plan.binary.is_some() {
        stores.push((SQLITE, None));
        if let Some(url) = &plan.postgres_url {
            let name = format!("zta_bench_{}", std::process::id());
            let database = Database::create(url, &name).await?;
            stores.push(("authorize_postgres", Some(database)));
        }
    }
    Ok(stores)
}

async fn half_load(
    plan: &Plan,
    target: &Target,
    rate: f64,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let duration = plan.duration * 3;
    let (clients, pool) = (&target.clients, &target.pool);
    let round = openloop::drive(clients, pool, rate, plan.warm_up, duration).await?;
    say(&format!(
        "half load, {rate:.0}/s: {}",
        measure::describe(&target.name, &round)
    ));
    report.figure("authorize_per_s_at_half_load", round.per_s, 0);
    report.figure("authorize_p50_ms_at_half_load", round.p50_us / 1e3, 2);
    report.figure("authorize_p99_ms_at_half_load", round.p99_us / 1e3, 2);
    Ok(())
}

async fn batches(
    plan: &Plan,
    target: &Target,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut rates = Vec::new();
    let mut p99s_us = Vec::new();
    for nth in 1..=plan.rounds {
        let (clients, pool) = (&target.clients, &target.pool);
        let driven = batch::drive(clients, pool, BATCHES, BATCH, plan.warm_up, plan.duration);
        let round = driven.await?;
        say(&format!(
            "batches of {BATCH}, round {nth}/{}: {}",
            plan.rounds,
            measure::describe(&target.name, &round)
        ));
        rates.push(round.per_s);
        p99s_us.push(round.p99_us);
    }
    report.figure("batch128_sqlite_per_s", median(rates), 0);
    report.figure("batch128_sqlite_p99_ms", median(p99s_us) / 1e3, 2);
    Ok(())
}
