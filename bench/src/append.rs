//! The one writer of the log, in this process: events a second on each store, and how long
//! one event takes to be durable. Then what tiles and signing cost decisions.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, Executor as _, SqliteConnection};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use uuid::Uuid;
use zta_server::{
    audit::{Audit, Record},
    model::{Effect, EntityUid, Event, EventType, event::Inputs},
    store::{SharedStore, postgres::PostgresStore, sqlite::SqliteStore},
};

use crate::{
    Result,
    database::Database,
    device,
    load::{Shape, drive, median, percentile},
    measure::{Plan, Target, describe},
    report::{Report, paired_ratio},
    requests,
    server::RealServer,
    setup,
};

/// Events that wait for the writer at once.
const IN_FLIGHT: usize = 256;
/// Commits of one event that are timed.
const COMMITS: usize = 1000;
/// The load that features are switched on and off under.
const SHAPE: Shape = Shape {
    connections: 4,
    in_flight: 32,
};

/// The turn to sign is free again.
const TURN_FREE: &str = "UPDATE log_signer SET expire_time_ms = 0";
/// Somebody holds it for ever.
const TURN_HELD: &str = "UPDATE log_signer SET holder = '00000000-0000-0000-0000-000000000000', \
    term = term + 1, expire_time_ms = 9000000000000000";

/// Runs this part.
///
/// # Errors
/// A store fails, or a log does not verify.
pub(crate) async fn run(
    plan: &Plan,
    binary: &Path,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    sqlite(plan, report, say).await?;
    if let Some(url) = &plan.postgres_url {
        let name = format!("zta_append_{}", std::process::id());
        postgres(plan, &Database::create(url, &name).await?, report, say).await?;
    }
    features(plan, binary, report, say).await
}

async fn sqlite(plan: &Plan, report: &mut Report, say: &mut dyn FnMut(&str)) -> Result<()> {
    let folder = tempfile::tempdir_in(device::durable_dir())?;
    let store = SqliteStore::open(&folder.path().join("zta.db")).await?;
    let writer = Writer::new(Arc::new(store)).await?;
    let per_s = per_second(plan, &[&writer]).await?;
    let (p50_ms, p99_ms) = commits(&writer).await?;
    say(&format!(
        "appended on SQLite: {per_s:.0}/s; one event durable: p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms"
    ));
    report.figure("audit_append_sqlite_per_s", per_s, 0);
    report.figure("audit_commit_ms_p50", p50_ms, 2);
    report.figure("audit_commit_ms_p99", p99_ms, 2);
    Ok(())
}

async fn postgres(
    plan: &Plan,
    database: &Database,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let connect = || async {
        let store = PostgresStore::connect(database.url()).await?;
        Writer::new(Arc::new(store)).await
    };
    let (one, other) = (connect().await?, connect().await?);
    let alone = per_second(plan, &[&one]).await?;
    let both = per_second(plan, &[&one, &other]).await?;
    let (p50_ms, p99_ms) = commits(&one).await?;
    say(&format!(
        "appended on Postgres: {alone:.0}/s; by two replicas: {both:.0}/s; one event durable: \
         p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms"
    ));
    report.figure("audit_append_postgres_per_s", alone, 0);
    report.figure("audit_append_postgres_per_s_2", both, 0);
    report.figure("audit_commit_postgres_ms_p50", p50_ms, 2);
    report.figure("audit_commit_postgres_ms_p99", p99_ms, 2);
    Ok(())
}

/// A replica's writer. It ends with this value.
struct Writer {
    audit: Audit,
    _task: JoinSet<()>,
}

impl Writer {
    async fn new(store: SharedStore) -> Result<Self> {
        store.migrate().await?;
        let log_id = store.ensure_log(Uuid::new_v4()).await?.log_id;
        let (audit, sequencer) = Audit::new(log_id, store);
        let mut task = JoinSet::new();
        task.spawn(sequencer.run());
        Ok(Self { audit, _task: task })
    }
}

/// Puts a decision on record, as large as they are.
async fn append(audit: &Audit) -> Result<()> {
    let log_id = audit.log_id();
    let mut event = Event::new(
        EventType::Decision,
        log_id,
        Uuid::new_v4(),
        OffsetDateTime::UNIX_EPOCH,
    );
    let agent = "spiffe://zta.local/agent/research";
    event.actor = Some(EntityUid::new("ZTA::Agent", agent));
    event.action = Some(EntityUid::new("ZTA::Action", "call_tool"));
    event.resource = Some(EntityUid::new("ZTA::Tool", "web_search"));
    event.instance = Some(log_id);
    event.effect = Some(Effect::Allow);
    event.policies = vec!["crew.research_searches".to_owned()];
    event.revision = Some(2);
    event.session = Some("session-1".to_owned());
    let inputs = Inputs {
        salt: [7; 16],
        json: br#"{"arguments":{"query":"zero trust for agents"},"request":{"framework":"bench"}}"#
            .to_vec(),
    };
    event.inputs_sha256 = Some(
        inputs
            .commitment()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect(),
    );
    let mut record = Record::fact(event);
    record.inputs = Some(inputs);
    audit.append(record).await?;
    Ok(())
}

/// Events a second by these writers of one log together: the median of the rounds.
async fn per_second(plan: &Plan, writers: &[&Writer]) -> Result<f64> {
    let mut rates = Vec::new();
    for _ in 0..plan.rounds {
        let started = Instant::now();
        let end = started + plan.duration;
        let mut callers = JoinSet::new();
        for writer in writers {
            for _ in 0..IN_FLIGHT / writers.len() {
                callers.spawn(until(writer.audit.clone(), end));
            }
        }
        let mut appended = 0;
        while let Some(caller) = callers.join_next().await {
            appended += caller??;
        }
        rates.push(appended as f64 / started.elapsed().as_secs_f64());
    }
    Ok(median(rates))
}

async fn until(audit: Audit, end: Instant) -> Result<u64> {
    let mut appended = 0;
    while Instant::now() < end {
        append(&audit).await?;
        appended += 1;
    }
    Ok(appended)
}

/// How long one event alone takes to be durable, in milliseconds: median and 99th percentile.
async fn commits(writer: &Writer) -> Result<(f64, f64)> {
    let mut took = Vec::with_capacity(COMMITS);
    for _ in 0..COMMITS {
        let started = Instant::now();
        append(&writer.audit).await?;
        took.push(u32::try_from(started.elapsed().as_micros())?);
    }
    took.sort_unstable();
    Ok((
        percentile(&took, 50) / 1000.0,
        percentile(&took, 99) / 1000.0,
    ))
}

/// Decisions with tiles and signing as they are, beside the same with the turn to sign held
/// by nobody that uses it, so that neither is done.
async fn features(
    plan: &Plan,
    binary: &Path,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut server = RealServer::start(binary, &device::durable_dir(), None).await?;
    let credential = setup::prepare(&server).await?;
    let target = Target::new(
        "features",
        &credential,
        server.endpoint(),
        requests::pool()?,
    )?;
    let url = format!("sqlite://{}", server.data_dir().join("zta.db").display());
    let mut store = SqliteConnection::connect(&url).await?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        for (name, sql, rounds) in [
            ("audit features on", TURN_FREE, &mut with),
            ("audit features off", TURN_HELD, &mut without),
        ] {
            store.execute(sql).await?;
            // What runs when the turn changes ends.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (clients, pool) = (&target.clients, &target.pool);
            let round = drive(clients, pool, SHAPE, plan.warm_up, plan.duration).await?;
            say(&describe(name, &round));
            rounds.push(round);
        }
    }
    store.execute(TURN_FREE).await?;
    store.close().await?;
    report.figure(
        "authorize_audit_features_ratio",
        paired_ratio(&with, &without),
        2,
    );
    drop(target);
    server.stop().await?;
    report.verified(
        "features",
        server.verify_audit()?.lines().next().unwrap_or_default(),
    );
    Ok(())
}
