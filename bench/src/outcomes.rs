//! Reports of what became of permitted calls: how many a second, and what they cost the
//! decisions that they are about.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};
use zta_client::Client;
use zta_proto::v1;

use crate::{
    Result, device,
    load::{Round, Shape, median, summarize},
    measure::{FULL, Plan, Target, describe},
    report::{Report, paired_ratio},
    requests,
    server::RealServer,
    setup,
};

/// Reports of one call, as guards make it at most.
const BATCH: usize = 256;
/// How long a guard waits for others that go with a report.
const LINGER: Duration = Duration::from_millis(100);

/// Runs this part.
///
/// # Errors
/// The server does not come up, or a report is not on record.
pub(crate) async fn run(
    plan: &Plan,
    binary: &Path,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut server = RealServer::start(binary, &device::durable_dir(), None).await?;
    let credential = setup::prepare(&server).await?;
    let pool = requests::pool()?;
    let target = Target::new("outcomes", &credential, server.endpoint(), pool)?;
    let (mut rates, mut with, mut without) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let (round, decisions) = decide(plan, &target, false).await?;
        say(&describe("outcomes not reported", &round));
        without.push(round);
        let reports = decisions.len();
        let started = Instant::now();
        tell(&target.clients, decisions).await?;
        rates.push(reports as f64 / started.elapsed().as_secs_f64());
        let (round, _) = decide(plan, &target, true).await?;
        say(&describe("outcomes reported", &round));
        with.push(round);
    }
    let rate = median(rates);
    say(&format!("outcomes alone: {rate:.0}/s"));
    report.figure("outcome_report_per_s", rate, 0);
    let ratio = paired_ratio(&with, &without);
    report.figure("authorize_with_outcomes_ratio", ratio, 2);
    drop(target);
    server.stop().await?;
    let proof = server.verify_audit()?;
    report.verified("outcomes", proof.lines().next().unwrap_or_default());
    Ok(())
}

/// Decisions under full load, and those among them that permitted something. With `reported`
/// the outcome of each of those is told meanwhile, as guards tell it; else nobody hears of it.
async fn decide(plan: &Plan, target: &Target, reported: bool) -> Result<(Round, Vec<String>)> {
    let Shape {
        connections,
        in_flight,
    } = FULL;
    let begin = Instant::now() + plan.warm_up;
    let end = begin + plan.duration;
    let (mut callers, mut reporters) = (JoinSet::new(), JoinSet::new());
    for (nth, client) in target.clients.iter().take(connections).enumerate() {
        let (sender, receiver) = mpsc::unbounded_channel();
        if reported {
            reporters.spawn(tell_on(client.clone(), receiver));
        } else {
            reporters.spawn(gather(receiver));
        }
        for mth in 0..in_flight {
            let first = (nth * in_flight + mth) * 7;
            let (client, pool) = (client.clone(), Arc::clone(&target.pool));
            let sender = sender.clone();
            callers.spawn(async move {
                let mut authorization = client.authorization();
                let mut latencies_us = Vec::new();
                for n in first.. {
                    let request = pool[n % pool.len()].request.clone();
                    let asked = Instant::now();
                    let answer = authorization.authorize(request).await?.into_inner();
                    let answered = Instant::now();
                    if answer.effect() == v1::Effect::Allow {
                        sender.send(answer.decision_id)?;
                    }
                    if answered > end {
                        break;
                    }
                    if answered >= begin {
                        let latency_us = answered.duration_since(asked).as_micros();
                        latencies_us.push(u32::try_from(latency_us)?);
                    }
                }
                Result::Ok(latencies_us)
            });
        }
    }
    let mut latencies_us = Vec::new();
    while let Some(caller) = callers.join_next().await {
        latencies_us.extend(caller??);
    }
    let mut decisions = Vec::new();
    while let Some(reporter) = reporters.join_next().await {
        decisions.extend(reporter??);
    }
    Ok((summarize(latencies_us, plan.duration), decisions))
}

async fn gather(mut decisions: mpsc::UnboundedReceiver<String>) -> Result<Vec<String>> {
    let mut gathered = Vec::new();
    while let Some(decision) = decisions.recv().await {
        gathered.push(decision);
    }
    Ok(gathered)
}

/// Tells outcomes as they come, one call at a time.
async fn tell_on(
    client: Client,
    mut decisions: mpsc::UnboundedReceiver<String>,
) -> Result<Vec<String>> {
    let mut batch = Vec::new();
    while decisions.recv_many(&mut batch, BATCH).await > 0 {
        let linger = tokio::time::Instant::now() + LINGER;
        while batch.len() < BATCH {
            match tokio::time::timeout_at(linger, decisions.recv()).await {
                Ok(Some(decision)) => batch.push(decision),
                Ok(None) | Err(_) => break,
            }
        }
        report_all(&client, &std::mem::take(&mut batch)).await?;
    }
    Ok(Vec::new())
}

/// Tells the outcomes of these decisions, in full batches, over all connections at once. A
/// decision was made by the key that all of them have.
async fn tell(clients: &[Client], decisions: Vec<String>) -> Result<()> {
    let mut callers = JoinSet::new();
    let share = decisions.len().div_ceil(clients.len()).max(1);
    for (client, share) in clients.iter().zip(decisions.chunks(share)) {
        let (client, share) = (client.clone(), share.to_vec());
        callers.spawn(async move {
            for batch in share.chunks(BATCH) {
                report_all(&client, batch).await?;
            }
            Result::Ok(())
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    Ok(())
}

async fn report_all(client: &Client, decisions: &[String]) -> Result<()> {
    let outcome = |decision_id: &String| v1::CallOutcome {
        decision_id: decision_id.clone(),
        result: v1::CallResult::Ok.into(),
        size_bytes: Some(2048),
        duration_us: Some(1500),
        ..Default::default()
    };
    let outcomes = decisions.iter().map(outcome).collect();
    let request = v1::ReportOutcomeRequest { outcomes };
    let answer = client.authorization().report_outcome(request).await?;
    for item in answer.into_inner().items {
        match item.result {
            Some(v1::report_outcome_item::Result::Recorded(recorded))
                if !recorded.repeated_report => {}
            other => return Err(format!("an outcome is not on record: {other:?}").into()),
        }
    }
    Ok(())
}
