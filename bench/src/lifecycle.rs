//! What a change of policy costs: how fast recorded decisions are replayed under a candidate,
//! and how soon another replica decides by a revision that was applied.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use zta_client::Client;
use zta_proto::v1::{self, replay_response::Step};

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

/// Decisions of one batch, while the log is filled.
const BATCH: usize = 128;
/// Revisions that are applied, one after the other.
const REVISIONS: usize = 100;
/// Requests in flight on the replica that has to follow.
const LOAD: load::Shape = load::Shape {
    connections: 2,
    in_flight: 8,
};
/// A call that may take longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs this part.
///
/// # Errors
/// A server does not come up, a replay leaves decisions out, or a replica decided by a
/// revision that was no longer in force.
pub(crate) async fn run(
    plan: &Plan,
    binary: &Path,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut server = RealServer::start(binary, &device::durable_dir(), None).await?;
    let credential = setup::prepare(&server).await?;
    let target = Target::new("log", &credential, server.endpoint(), requests::pool()?)?;
    let decided = fill(&target, plan.sizes.decisions).await?;
    let (found, took) = replay(&server.admin()?).await?;
    if found.replayed != decided || found.flipped == 0 {
        return Err(format!("{decided} decisions were made, replayed: {found:?}").into());
    }
    let rate = decided as f64 / took.as_secs_f64();
    say(&format!(
        "replayed {decided} decisions in {:.2} s: {rate:.0}/s, {} would flip",
        took.as_secs_f64(),
        found.flipped
    ));
    report.figure("replay_per_s", rate, 0);
    drop(target);
    server.stop().await?;
    match &plan.postgres_url {
        Some(url) => converge(binary, url, report, say).await,
        None => {
            report.not_available("converge_ms_p99", "it needs Postgres");
            Ok(())
        }
    }
}

/// Has at least so many requests decided; how many.
pub(crate) async fn fill(target: &Target, decisions: usize) -> Result<u64> {
    let batches = decisions.div_ceil(BATCH).div_ceil(target.clients.len());
    let mut callers = JoinSet::new();
    for client in &target.clients {
        let (mut service, pool) = (client.authorization(), Arc::clone(&target.pool));
        callers.spawn(async move {
            for batch in 0..batches {
                let case = |n: usize| pool[(batch * BATCH + n) % pool.len()].request.clone();
                let requests = (0..BATCH).map(case).collect();
                let batch = v1::BatchAuthorizeRequest { requests };
                service.batch_authorize(batch).await?;
            }
            Result::Ok(batches * BATCH)
        });
    }
    let mut decided = 0;
    while let Some(caller) = callers.join_next().await {
        decided += caller?? as u64;
    }
    Ok(decided)
}

async fn replay(admin: &Client) -> Result<(v1::ReplayReport, Duration)> {
    let text =
        r#"@id("candidate") forbid (principal, action, resource == ZTA::Tool::"web_search");"#;
    let file = v1::SourceFile {
        name: "candidate.cedar".to_owned(),
        text: text.to_owned(),
    };
    let request = v1::ReplayRequest {
        patch: Some(v1::PolicyPatch {
            put_policies: vec![file],
            ..Default::default()
        }),
        ..Default::default()
    };
    let asked = Instant::now();
    let mut answers = admin.policies().replay(request).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        if let Some(Step::Report(found)) = answer.step {
            return Ok((found, asked.elapsed()));
        }
    }
    Err("a replay without a report".into())
}

/// Revisions that one replica applies, while another one is under load.
async fn converge(
    binary: &Path,
    url: &str,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let name = format!("zta_converge_{}", std::process::id());
    let database = Database::create(url, &name).await?;
    let server = RealServer::start(binary, &device::durable_dir(), Some(database)).await?;
    let credential = setup::prepare(&server).await?;
    let replica = server.replica().await?;
    let load = Target::new("load", &credential, replica.endpoint(), requests::pool()?)?;
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for client in load.clients.iter().take(LOAD.connections) {
        for _ in 0..LOAD.in_flight {
            let (client, over) = (client.clone(), Arc::clone(&over));
            callers.spawn(identity::keep_busy(client, Arc::clone(&load.pool), over));
        }
    }
    let (admin, probe) = (server.admin()?, load.clients.last().ok_or("no client")?);
    let mut waited_us = Vec::new();
    let mut number = setup::in_force(&admin, true)
        .await?
        .revision
        .unwrap_or_default()
        .number;
    for n in 0..REVISIONS {
        let text = format!(
            r#"@id("round") forbid (principal, action, resource == ZTA::Tool::"round-{n}");"#
        );
        let name = "round.cedar".to_owned();
        let patch = v1::PolicyPatch {
            put_policies: vec![v1::SourceFile { name, text }],
            ..Default::default()
        };
        number = setup::apply_patch_to(&admin, patch, number).await?;
        let applied = Instant::now();
        let call = load.pool[0].request.clone();
        let mut service = probe.authorization();
        let answer = tokio::time::timeout(CALL_TIMEOUT, service.authorize(call)).await??;
        let decided_by = answer.into_inner().revision;
        if decided_by != number {
            let why = format!("revision {number} was applied, and {decided_by} decided");
            return Err(why.into());
        }
        waited_us.push(u32::try_from(applied.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    over.store(true, Ordering::Relaxed);
    let mut decided = 0;
    while let Some(caller) = callers.join_next().await {
        decided += caller??;
    }
    waited_us.sort_unstable();
    let (p50, p99) = (percentile(&waited_us, 50), percentile(&waited_us, 99));
    say(&format!(
        "applied on one replica, decides on the other: p50 {:.1} ms, p99 {:.1} ms, beside {decided} decisions",
        p50 / 1e3,
        p99 / 1e3,
    ));
    report.figure("converge_ms_p50", p50 / 1e3, 2);
    report.figure("converge_ms_p99", p99 / 1e3, 2);
    drop(replica);
    Ok(())
}
