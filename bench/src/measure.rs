//! The comparison: all servers up, one driven at a time, in alternation.

use std::{path::PathBuf, sync::Arc, time::Duration};

use zta_client::{Client, Credential};

use crate::{
    Result,
    database::Database,
    device,
    load::{self, Round, Shape},
    noop::Noop,
    report::{Report, Series},
    requests::{self, Case, Expected},
    server::RealServer,
    setup,
};

/// The shapes, each with the suffix of its names in the report. The first is the one
/// that ratios are of.
pub const SHAPES: [(&str, Shape); 3] = [
    (
        "",
        Shape {
            connections: 4,
            in_flight: 32,
        },
    ),
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
const CONNECTIONS: usize = 4;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `zta` binary; without it the no-op server alone is measured.
    pub binary: Option<PathBuf>,
    /// A Postgres on which a database may be created; without it that store is left out.
    pub postgres_url: Option<String>,
    /// Rounds of each server at each shape.
    pub rounds: usize,
    /// How long a round is.
    pub duration: Duration,
    /// What goes before each round, unmeasured.
    pub warm_up: Duration,
}

/// A server that can be driven.
struct Target {
    name: &'static str,
    clients: Vec<Client>,
    pool: Arc<Vec<Case>>,
}

impl Target {
    fn new(name: &'static str, credential: &Credential, pool: Vec<Case>) -> Result<Self> {
        let client = || Client::new(credential.clone());
        Ok(Self {
            name,
            clients: (0..CONNECTIONS)
                .map(|_| client())
                .collect::<std::result::Result<_, _>>()?,
            pool: Arc::new(pool),
        })
    }
}

/// Runs the plan. `say` is told each step.
///
/// # Errors
/// A server does not come up, an answer is wrong, or a log does not verify.
pub async fn run(plan: &Plan, say: &mut dyn FnMut(&str)) -> Result<Report> {
    let noop = Noop::start().await?;
    let mut allowed = requests::pool()?;
    allowed
        .iter_mut()
        .for_each(|case| case.expected = Expected::Allow);
    let mut targets = vec![Target::new("noop", &noop.credential()?, allowed)?];
    let dir = device::durable_dir();
    let mut servers = Vec::new();
    for (name, database) in stores(plan).await? {
        let Some(binary) = &plan.binary else { break };
        let server = RealServer::start(binary, &dir, database).await?;
        let credential = setup::prepare(&server).await?;
        targets.push(Target::new(name, &credential, requests::pool()?)?);
        servers.push((name, server));
    }
    let mut report = Report::new(&dir)?;
    for (suffix, shape) in SHAPES {
        for series in measure_shape(plan, &targets, suffix, shape, say).await? {
            report.add(series);
        }
    }
    drop(targets);
    for (name, mut server) in servers {
        server.stop().await?;
        let proof = server.verify_audit()?;
        let first = proof.lines().next().unwrap_or_default().to_owned();
        say(&format!("{name}: {first}"));
        report.verified(name, &first);
    }
    Ok(report)
}

async fn stores(plan: &Plan) -> Result<Vec<(&'static str, Option<Database>)>> {
    let mut stores = Vec::new();
    if plan.binary.is_some() {
        stores.push(("authorize_sqlite", None));
        if let Some(url) = &plan.postgres_url {
            let name = format!("zta_bench_{}", std::process::id());
            let database = Database::create(url, &name).await?;
            stores.push(("authorize_postgres", Some(database)));
        }
    }
    Ok(stores)
}

/// Each round drives every server once, so that what slows the machine for a while slows
/// all of them.
async fn measure_shape(
    plan: &Plan,
    targets: &[Target],
    suffix: &'static str,
    shape: Shape,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Series>> {
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); targets.len()];
    for nth in 1..=plan.rounds {
        for (target, rounds) in targets.iter().zip(&mut rounds) {
            let (clients, pool) = (&target.clients, &target.pool);
            let round = load::drive(clients, pool, shape, plan.warm_up, plan.duration)
                .await
                .map_err(|e| format!("{}: {e}", target.name))?;
            say(&format!(
                "{}x{} round {nth}/{}: {:18} {:>9.0}/s  p50 {:>6.0} us  p99 {:>6.0} us",
                shape.connections,
                shape.in_flight,
                plan.rounds,
                target.name,
                round.per_s,
                round.p50_us,
                round.p99_us,
            ));
            rounds.push(round);
        }
    }
    let series = targets.iter().zip(rounds);
    Ok(series
        .map(|(target, rounds)| Series {
            name: target.name,
            suffix,
            rounds,
        })
        .collect())
}
