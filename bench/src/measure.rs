//! The parts of a run, one after the other. Within a part all servers that are compared
//! are up and one is driven at a time, in alternation.

use std::{path::PathBuf, sync::Arc, time::Duration};

use zta_client::{Client, Credential};

use crate::{
    Result, append, audit, compare, decide, entities, follow, identity, lifecycle,
    load::{self, Round, Shape},
    outcomes,
    report::Report,
    requests::Case,
    scale, throughput,
};

/// The shape that ratios are of.
pub const FULL: Shape = Shape {
    connections: 4,
    in_flight: 32,
};
const CONNECTIONS: usize = 4;

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The real server beside the no-op one; latency at half load; batches.
    Throughput,
    /// The real server with few and with very many policies.
    Policies,
    /// Policy evaluation alone, in this process.
    Decide,
    /// The real server with very many entities.
    Entities,
    /// Logins, calls by each kind of proof beside the no-op server, and revocation.
    Identity,
    /// Replay of recorded decisions, and how soon a revision is in force everywhere.
    Lifecycle,
    /// How soon an event is with who follows the log.
    Follow,
    /// The writer of the log alone, and what tiles and signing cost decisions.
    Append,
    /// Reports of what became of permitted calls, alone and beside decisions.
    Outcomes,
    /// Receipts of single records, an export, and its verification.
    Audit,
    /// Other systems beside ours, where they are installed.
    Compare,
}

/// How large the large things are.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Few and very many policies of a server.
    pub policies: [usize; 2],
    /// Few and very many policies of an evaluation.
    pub decide: [usize; 2],
    /// Entities.
    pub entities: usize,
    /// Decisions that are replayed.
    pub decisions: usize,
    /// Records of the log that is proved.
    pub leaves: usize,
    /// Policies of both systems in each comparison.
    pub compare: Vec<usize>,
}

/// How to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What to measure.
    pub parts: Vec<Part>,
    /// The `zta` binary; without it the no-op server alone is measured.
    pub binary: Option<PathBuf>,
    /// A Postgres on which a database may be created; without it that store is left out.
    pub postgres_url: Option<String>,
    /// The binary of Cerbos; without it there is nothing to compare with.
    pub cerbos: Option<PathBuf>,
    /// Rounds of each server at each shape.
    pub rounds: usize,
    /// How long a round is.
    pub duration: Duration,
    /// What goes before each round, unmeasured.
    pub warm_up: Duration,
    /// How large the large things are.
    pub sizes: Sizes,
}

/// A server that can be driven.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) clients: Vec<Client>,
    pub(crate) pool: Arc<Vec<Case>>,
}

impl Target {
    pub(crate) fn new(
        name: impl Into<String>,
        credential: &Credential,
        endpoint: &str,
        pool: Vec<Case>,
    ) -> Result<Self> {
        let mut target = Self {
            name: name.into(),
            clients: Vec::new(),
            pool: Arc::new(pool),
        };
        target.connect(credential, endpoint)?;
        Ok(target)
    }

    /// New connections, in place of those before.
    pub(crate) fn connect(&mut self, credential: &Credential, endpoint: &str) -> Result<()> {
        let client = || Client::builder(credential.clone()).server(endpoint).build();
        self.clients = (0..CONNECTIONS)
            .map(|_| client())
            .collect::<std::result::Result<_, _>>()?;
        Ok(())
    }
}

/// Runs the plan. `say` is told each step. A part that fails leaves the others their
/// figures.
///
/// # Errors
/// The parts that failed: a server did not come up, an answer was wrong, or a log did not
/// verify.
pub async fn run(plan: &Plan, report: &mut Report, say: &mut dyn FnMut(&str)) -> Result<()> {
    let mut failed = Vec::new();
    for part in &plan.parts {
        let done = match (part, &plan.binary) {
            (Part::Throughput, _) => throughput::run(plan, report, say).await,
            (_, None) => Ok(()),
            (Part::Policies, Some(binary)) => scale::run(plan, binary, report, say).await,
            (Part::Decide, _) => decide::run(plan, report, say),
            (Part::Entities, Some(binary)) => entities::run(plan, binary, report, say).await,
            (Part::Identity, Some(binary)) => identity::run(plan, binary, report, say).await,
            (Part::Lifecycle, Some(binary)) => lifecycle::run(plan, binary, report, say).await,
            (Part::Follow, Some(binary)) => follow::run(plan, binary, report, say).await,
            (Part::Append, Some(binary)) => append::run(plan, binary, report, say).await,
            (Part::Outcomes, Some(binary)) => outcomes::run(plan, binary, report, say).await,
            (Part::Audit, Some(binary)) => audit::run(plan, binary, report, say).await,
            (Part::Compare, Some(binary)) => compare::run(plan, binary, report, say).await,
        };
        if let Err(error) = done {
            let name = format!("{part:?}").to_lowercase();
            say(&format!("{name}: failed: {error}"));
            report.not_available(&name, &error.to_string());
            failed.push(format!("{name}: {error}"));
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(failed.join("\n").into()),
    }
}

/// Rounds at one shape. Each drives every server once, so that what slows the machine for
/// a while slows all of them.
pub(crate) async fn alternate(
    plan: &Plan,
    targets: &[&Target],
    shape: Shape,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Vec<Round>>> {
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); targets.len()];
    for nth in 1..=plan.rounds {
        for (target, rounds) in targets.iter().zip(&mut rounds) {
            let (clients, pool) = (&target.clients, &target.pool);
            let round = load::drive(clients, pool, shape, plan.warm_up, plan.duration)
                .await
                .map_err(|e| format!("{}: {e}", target.name))?;
            say(&format!(
                "{}x{} round {nth}/{}: {}",
                shape.connections,
                shape.in_flight,
                plan.rounds,
                describe(&target.name, &round),
            ));
            rounds.push(round);
        }
    }
    Ok(rounds)
}

/// A round on one line.
pub(crate) fn describe(name: &str, round: &Round) -> String {
    format!(
        "{name:26} {:>9.0}/s  p50 {:>6.0} us  p99 {:>6.0} us",
        round.per_s, round.p50_us, round.p99_us
    )
}
