//! The real server with few and with very many policies: throughput of both in
//! alternation, how long one changed policy takes to bite, how long the large set takes
//! to load, and what memory it needs.

use std::{path::Path, time::Instant};

use zta_client::Credential;
use zta_proto::v1;

use crate::{
    Result, device, load,
    load::median,
    measure::{self, FULL, Plan, Target},
    memory::Memory,
    policies::{self, CELL},
    random::Random,
    report::{Report, Series, paired_ratio},
    server::RealServer,
    setup, workload,
};

/// Requests of a pool: the same for both sizes, so that the generator does the same work.
pub(crate) const REQUESTS: usize = 8192;
/// Cells that are locked down and opened again.
const CHANGED_CELLS: usize = 4;
const NAME: &str = "authorize_sqlite";

/// A server with so many policies, and the generator's connections to it.
pub(crate) struct Subject {
    size: usize,
    pub(crate) server: RealServer,
    credential: Credential,
    pub(crate) target: Target,
}

impl Subject {
    pub(crate) async fn start(
        binary: &Path,
        size: usize,
        say: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        let server = RealServer::start(binary, &device::durable_dir(), None).await?;
        let begin = Instant::now();
        setup::apply(&server.admin()?, policies::scoped(size)).await?;
        let seconds = begin.elapsed().as_secs_f64();
        say(&format!("{size} policies applied in {seconds:.1} s"));
        let credential = setup::enroll(&server, &policies::ROLES).await?;
        let pool = workload::pool(size, REQUESTS)?;
        let name = format!("{NAME}_{size}");
        let target = Target::new(name, &credential, server.endpoint(), pool)?;
        Ok(Self {
            size,
            server,
            credential,
            target,
        })
    }

    /// Stops the server; its log must verify.
    pub(crate) async fn finish(mut self) -> Result<String> {
        drop(self.target);
        self.server.stop().await?;
        let proof = self.server.verify_audit()?;
        Ok(proof.lines().next().unwrap_or_default().to_owned())
    }
}

/// Runs this part.
///
/// # Errors
/// A server does not come up, an answer is wrong, or a log does not verify.
pub(crate) async fn run(
    plan: &Plan,
    binary: &Path,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let [few, many] = plan.sizes.policies;
    let small = Subject::start(binary, few, say).await?;
    let mut large = Subject::start(binary, many, say).await?;
    let targets = [&small.target, &large.target];
    let rounds = measure::alternate(plan, &targets, FULL, say).await?;
    if let [few_rounds, many_rounds] = rounds.as_slice() {
        let ratio = paired_ratio(many_rounds, few_rounds);
        report.figure(format!("{NAME}_{many}_vs_{few}"), ratio, 3);
    }
    for (size, rounds) in [few, many].into_iter().zip(rounds) {
        report.add(Series {
            name: NAME,
            suffix: format!("_{size}"),
            shape: FULL,
            rounds,
        });
    }
    small.finish().await?;
    activate(&large, report, say).await?;
    load_again(plan, &mut large, report, say).await?;
    let proof = large.finish().await?;
    say(&format!("{NAME}_{many}: {proof}"));
    report.verified(&format!("{NAME}_{many}"), &proof);
    Ok(())
}

/// Changes one policy of the set, back and forth: the time from sending Apply to the
/// answer of a decision that was made by the new revision, both calls one after the other.
async fn activate(subject: &Subject, report: &mut Report, say: &mut dyn FnMut(&str)) -> Result<()> {
    let admin = subject.server.admin()?;
    let in_force = setup::in_force(&admin, true).await?;
    let mut revision = in_force.revision.unwrap_or_default().number;
    let mut authorization = subject.target.clients[0].authorization();
    let mut random = Random::new(subject.size as u64);
    let mut times_ms = Vec::new();
    for _ in 0..CHANGED_CELLS {
        let cell = random.below(subject.size / CELL);
        for lockdown in [true, false] {
            let request = workload::plain(cell)?;
            let patch = v1::PolicyPatch {
                put_policies: vec![policies::file_of(cell, subject.size, lockdown)],
                ..Default::default()
            };
            let sent = Instant::now();
            let applied = setup::apply_patch_to(&admin, patch, revision).await?;
            let answer = authorization.authorize(request).await?.into_inner();
            times_ms.push(sent.elapsed().as_secs_f64() * 1e3);
            let forbidden = answer.reason() == v1::DenyReason::Forbidden;
            if answer.revision != applied || forbidden != lockdown {
                let (by, reason) = (answer.revision, answer.reason());
                return Err(
                    format!("revision {applied} is not in force: {reason:?} by {by}").into(),
                );
            }
            revision = applied;
        }
    }
    let times: Vec<String> = times_ms.iter().map(|ms| format!("{ms:.0}")).collect();
    say(&format!(
        "one policy of {} changed: {} ms",
        subject.size,
        times.join(", ")
    ));
    let name = format!("activate_one_ms_{}", subject.size);
    report.figure(name, median(times_ms), 1);
    Ok(())
}

/// Starts the server again on its store, some times.
async fn load_again(
    plan: &Plan,
    subject: &mut Subject,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let size = subject.size;
    let request = workload::plain(0)?;
    let mut found = Vec::new();
    for nth in 1..=plan.rounds {
        let restarted = restart(
            plan,
            &mut subject.server,
            &mut subject.target,
            &subject.credential,
            &request,
        );
        let restarted = restarted.await?;
        say(&format!(
            "start with {size} policies, {nth}/{}: {}",
            plan.rounds,
            restarted.describe()
        ));
        found.push(restarted);
    }
    let of = |value: fn(&Restarted) -> f64| median(found.iter().map(value).collect());
    report.figure(format!("load_s_{size}"), of(|r| r.load_s), 2);
    report.figure(format!("load_cpu_s_{size}"), of(|r| r.load_cpu_s), 2);
    report.figure(format!("rss_loaded_mb_{size}"), of(|r| r.loaded.rss_mb), 0);
    report.figure(format!("rss_mb_{size}"), of(|r| r.driven.rss_mb), 0);
    report.figure(format!("rss_peak_mb_{size}"), of(|r| r.driven.peak_mb), 0);
    Ok(())
}

/// What a start on a filled store takes.
pub(crate) struct Restarted {
    /// From exec to the first decision.
    pub(crate) load_s: f64,
    /// The processor time of it, on all cores.
    pub(crate) load_cpu_s: f64,
    /// After that.
    pub(crate) loaded: Memory,
    /// After a round of requests.
    pub(crate) driven: Memory,
}

impl Restarted {
    pub(crate) fn describe(&self) -> String {
        format!(
            "{:.2} s ({:.2} s of processor), RSS {:.0} MB, after requests {:.0} MB, peak {:.0} MB",
            self.load_s,
            self.load_cpu_s,
            self.loaded.rss_mb,
            self.driven.rss_mb,
            self.driven.peak_mb
        )
    }
}

/// Stops a server and starts it again on its store, then drives it for one round.
/// `target` leads to the new process afterwards.
pub(crate) async fn restart(
    plan: &Plan,
    server: &mut RealServer,
    target: &mut Target,
    credential: &Credential,
    request: &v1::AuthorizeRequest,
) -> Result<Restarted> {
    target.clients.clear();
    server.stop().await?;
    let load = server.launch_to_decision(credential, request).await?;
    let (load_cpu_s, loaded) = (server.cpu_s()?, server.memory()?);
    target.connect(credential, server.endpoint())?;
    let (clients, pool) = (&target.clients, &target.pool);
    load::drive(clients, pool, FULL, plan.warm_up, plan.duration).await?;
    Ok(Restarted {
        load_s: load.as_secs_f64(),
        load_cpu_s,
        loaded,
        driven: server.memory()?,
    })
}
