//! What identity costs: logins, calls by each kind of proof beside the no-op server, and how
//! long a revocation takes to bite on another replica that is under load.

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
use zta_proto::v1;

use crate::{
    Result,
    database::Database,
    device,
    load::{self, median, percentile},
    measure::{self, FULL, Plan, Target},
    noop::Noop,
    report::{self, Report},
    requests::{self, Case, Expected},
    server::RealServer,
    setup,
};

/// Logins in flight on one connection. A key has at most 16 live challenges.
const LOGINS_IN_FLIGHT: usize = 12;
/// Agents that are revoked, one after the other.
const REVOCATIONS: usize = 60;
/// Requests in flight on the replica where a revocation has to bite.
const LOAD: load::Shape = load::Shape {
    connections: 2,
    in_flight: 8,
};
/// A revocation that takes longer has failed.
const VISIBLE_WITHIN: Duration = Duration::from_secs(10);

/// Runs this part.
///
/// # Errors
/// A server does not come up, an answer is wrong, a log does not verify, or an agent was
/// permitted something after its revocation was answered.
pub(crate) async fn run(
    plan: &Plan,
    binary: &Path,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut server = RealServer::start(binary, &device::durable_dir(), None).await?;
    let credential = setup::prepare(&server).await?;
    let noop = Noop::start().await?;
    let (noop_credential, mut allowed) = (noop.credential()?, requests::pool()?);
    allowed
        .iter_mut()
        .for_each(|case| case.expected = Expected::Allow);
    let beside = Target::new(
        "noop",
        &noop_credential,
        noop_credential.endpoint(),
        allowed,
    )?;
    let mtls = Target::new("mtls", &credential, server.endpoint(), requests::pool()?)?;
    let mut dpop = Target::new("dpop", &credential, server.endpoint(), requests::pool()?)?;
    for client in &mut dpop.clients {
        let builder = Client::builder(credential.clone()).server(server.endpoint());
        *client = builder.dpop().build()?;
    }
    let all = [&beside, &mtls, &dpop];
    let mut rounds = measure::alternate(plan, &all, FULL, say).await?.into_iter();
    let noop_rounds = rounds.next().unwrap_or_default();
    for (target, rounds) in [&mtls, &dpop].into_iter().zip(rounds) {
        let name = format!("authorize_{}", target.name);
        let ratio = report::paired_ratio(&rounds, &noop_rounds);
        report.figure(format!("{name}_ratio"), ratio, 4);
        let rate = median(rounds.iter().map(|r| r.per_s).collect());
        report.figure(format!("{name}_per_s"), rate, 0);
    }
    let rate = logins(&mtls.clients, plan).await?;
    say(&format!("logins: {rate:.0}/s"));
    report.figure("authenticate_per_s", rate, 0);
    drop((beside, mtls, dpop));
    server.stop().await?;
    let proof = server.verify_audit()?;
    report.verified("identity", proof.lines().next().unwrap_or_default());
    match &plan.postgres_url {
        Some(url) => revocations(binary, url, report, say).await,
        None => {
            report.not_available("revoke_visible_ms_p99", "it needs Postgres");
            Ok(())
        }
    }
}

/// Challenges signed and exchanged for tokens, a second.
async fn logins(clients: &[Client], plan: &Plan) -> Result<f64> {
    let begin = Instant::now() + plan.warm_up;
    let end = begin + plan.duration;
    let mut callers = JoinSet::new();
    let client = clients.first().ok_or("no client")?;
    for _ in 0..LOGINS_IN_FLIGHT {
        let client = client.clone();
        callers.spawn(async move {
            let mut done = 0_u32;
            loop {
                client.authenticate().await?;
                let now = Instant::now();
                if now > end {
                    return Result::Ok(done);
                }
                done += u32::from(now >= begin);
            }
        });
    }
    let mut done = 0;
    while let Some(caller) = callers.join_next().await {
        done += caller??;
    }
    Ok(f64::from(done) / plan.duration.as_secs_f64())
}

/// Agents that call one replica all the time, while another one revokes them.
async fn revocations(
    binary: &Path,
    url: &str,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let name = format!("zta_revoke_{}", std::process::id());
    let database = Database::create(url, &name).await?;
    let server = RealServer::start(binary, &device::durable_dir(), Some(database)).await?;
    let busy = setup::prepare(&server).await?;
    let replica = server.replica().await?;
    let load = Target::new("load", &busy, replica.endpoint(), requests::pool()?)?;
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for client in load.clients.iter().take(LOAD.connections) {
        for _ in 0..LOAD.in_flight {
            let (client, over) = (client.clone(), Arc::clone(&over));
            let pool = Arc::clone(&load.pool);
            callers.spawn(keep_busy(client, pool, over));
        }
    }
    let admin = server.admin()?;
    let mut visible_us = Vec::new();
    for n in 0..REVOCATIONS {
        let name = format!("revoked-{n}");
        let agent = setup::enroll_as(&server, &name, &["bench"]).await?;
        let builder = Client::builder(agent).server(replica.endpoint());
        let agent = builder.without_renewal().build()?;
        let took = revoke(&admin, &agent, &name, &load.pool[0]).await?;
        visible_us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }
    over.store(true, Ordering::Relaxed);
    let mut decided = 0;
    while let Some(caller) = callers.join_next().await {
        decided += caller??;
    }
    visible_us.sort_unstable();
    let (p50, p99) = (percentile(&visible_us, 50), percentile(&visible_us, 99));
    say(&format!(
        "revoked on one replica, denied on the other: p50 {:.1} ms, p99 {:.1} ms, beside {decided} decisions",
        p50 / 1e3,
        p99 / 1e3,
    ));
    report.figure("revoke_visible_ms_p50", p50 / 1e3, 2);
    report.figure("revoke_visible_ms_p99", p99 / 1e3, 2);
    drop(replica);
    Ok(())
}

/// Has requests decided until it is over; how many.
pub(crate) async fn keep_busy(
    client: Client,
    pool: Arc<Vec<Case>>,
    over: Arc<AtomicBool>,
) -> Result<u64> {
    let mut authorization = client.authorization();
    let mut decided = 0;
    for case in pool.iter().cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        authorization.authorize(case.request.clone()).await?;
        decided += 1;
    }
    Ok(decided)
}

/// From sending the revocation to the first answer that denies for it. No call that began
/// after the revocation was answered may be permitted.
async fn revoke(admin: &Client, agent: &Client, name: &str, case: &Case) -> Result<Duration> {
    let mut authorization = agent.authorization();
    let first = authorization.authorize(case.request.clone()).await?;
    requests::verify(case, "", None, &first.into_inner())?;
    let request = v1::RevokeRequest {
        agent: name.to_owned(),
        ..v1::RevokeRequest::default()
    };
    let mut agents = admin.agents();
    let asked = Instant::now();
    let revoking = tokio::spawn(async move {
        let done = agents.revoke(request).await;
        done.map(|_| Instant::now())
    });
    let mut after_answer = false;
    let mut revoking = Some(revoking);
    loop {
        if let Some(task) = revoking.take_if(|task| task.is_finished()) {
            task.await??;
            after_answer = true;
        }
        let answer = authorization.authorize(case.request.clone()).await?;
        let answer = answer.into_inner();
        if answer.reason() == v1::DenyReason::Revoked {
            let took = asked.elapsed();
            if let Some(task) = revoking {
                task.await??;
            }
            return Ok(took);
        }
        if after_answer {
            return Err(format!("{name} was permitted a call after its revocation").into());
        }
        if asked.elapsed() > VISIBLE_WITHIN {
            return Err(format!("the revocation of {name} does not bite").into());
        }
    }
}
