//! Other systems beside ours on the same machine, with the same workload, in alternation.
//!
//! Cerbos decides by policies of its own kind: each generated policy is one rule there, the
//! six of a tool in one resource policy (found by the resource's kind), the three of a
//! folder in another, the one of a crew in a principal policy. Its clients, as ours, are
//! four connections with 32 requests in flight each, with the same varied requests and
//! every answer read.
//!
//! What is not equal, all of it in its favour:
//! - it listens in plain text, we speak mutual TLS and authenticate every call;
//! - its principal and roles are what the caller says, ours come from the credential;
//! - its audit log (local backend) is written behind the answer and is not durable: what
//!   was answered can be lost. We answer after the commit, with fsync, and hash-chain;
//! - rules that are roles over all tools (one in twenty) have no equivalent and stand in
//!   principal policies there, which requests of our agent never meet.

mod cerbos;
mod translate;
mod wire;

use std::{path::Path, process::Command, sync::Arc};

use serde_json::{Value, json};

use self::{cerbos::Cerbos, translate::Check};
use crate::{
    Result, device,
    load::{self, Round, median},
    measure::{self, FULL, Plan},
    report::{Report, paired_ratio, rounded},
    scale::{self, Subject},
    workload,
};

/// Runs this part.
///
/// # Errors
/// A server does not come up, or an answer is wrong.
pub(crate) async fn run(
    plan: &Plan,
    binary: &Path,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let Some(cerbos) = &plan.cerbos else {
        let why = "skipped: Cerbos is not installed (`make bench-compare` installs it)";
        say(&format!("compare: {why}"));
        report.not_available("compare", why);
        return Ok(());
    };
    let mut found = json!({
        "cerbos_version": version(cerbos)?,
        "shape": "4x32",
        "not_equal": "Cerbos: plain text, no authentication, audit not durable. \
                      ZTA: mutual TLS, every call authenticated, durable record (SQLite).",
    });
    for &size in &plan.sizes.compare {
        found[size.to_string()] = at_size(plan, binary, cerbos, size, say).await?;
    }
    report.value("compare", found);
    Ok(())
}

fn version(cerbos: &Path) -> Result<String> {
    let output = Command::new(cerbos).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

async fn at_size(
    plan: &Plan,
    binary: &Path,
    cerbos: &Path,
    size: usize,
    say: &mut dyn FnMut(&str),
) -> Result<Value> {
    let ours = Subject::start(binary, size, say).await?;
    let pool = workload::pool(size, scale::REQUESTS)?;
    let pool: Vec<Check> = pool.iter().map(translate::check).collect::<Result<_>>()?;
    let dir = tempfile::Builder::new()
        .prefix("zta-compare.")
        .tempdir_in(device::durable_dir())?;
    let policies = dir.path().join("policies");
    let files = translate::write(&policies, size)?;
    let mut theirs = Vec::new();
    for (name, audit) in [("cerbos_no_audit", false), ("cerbos_audit", true)] {
        let own = dir.path().join(name);
        let started = Cerbos::start(cerbos, &policies, &own, audit, FULL.connections, &pool[0]);
        let started = started.await?;
        say(&format!(
            "{name}: {size} rules in {files} files loaded in {:.1} s",
            started.load_s
        ));
        theirs.push((name, started));
    }
    let pool = Arc::new(pool);
    let mut zta = Vec::new();
    let mut others = vec![Vec::new(); theirs.len()];
    for nth in 1..=plan.rounds {
        let mut note = |name: &str, round: &Round| {
            let line = measure::describe(name, round);
            say(&format!(
                "{size} policies, round {nth}/{}: {line}",
                plan.rounds
            ));
        };
        let (clients, cases) = (&ours.target.clients, &ours.target.pool);
        let round = load::drive(clients, cases, FULL, plan.warm_up, plan.duration).await?;
        note("zta", &round);
        zta.push(round);
        for ((name, cerbos), rounds) in theirs.iter().zip(&mut others) {
            let round = cerbos
                .drive(&pool, FULL, plan.warm_up, plan.duration)
                .await?;
            note(name, &round);
            rounds.push(round);
        }
    }
    let mut found = json!({"zta": summary(&zta)});
    found["zta"]["rss_mb"] = rounded(ours.server.memory()?.rss_mb, 0);
    for ((name, cerbos), rounds) in theirs.iter().zip(&others) {
        let mut one = summary(rounds);
        one["zta_vs_it"] = rounded(paired_ratio(&zta, rounds), 3);
        one["load_s"] = rounded(cerbos.load_s, 1);
        one["rss_mb"] = rounded(cerbos.memory()?.rss_mb, 0);
        found[*name] = one;
    }
    ours.finish().await?;
    Ok(found)
}

fn summary(rounds: &[Round]) -> Value {
    let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
    json!({
        "per_s": rounded(of(|r| r.per_s), 0),
        "p50_us": rounded(of(|r| r.p50_us), 0),
        "p99_us": rounded(of(|r| r.p99_us), 0),
    })
}
