//! The composition root: builds the parts, starts the tasks, watches over them, and
//! drains. The wall clock is read here and nowhere else.

mod administrator;
mod authorities;
mod bootstrap;
mod facts;
mod fleet;
mod issuers;
mod log;
mod material;
mod operator_ca;
mod retention;
mod revocations;
mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, watch};

use crate::api::http::Pages;
use crate::api::server::Doors;
use crate::api::tls::{Acceptor, Incoming, Limits as TlsLimits, TlsReload};
use crate::audit::Audit;
use crate::audit::checkpoint::VerifierKey;
use crate::audit::signer::Signer;
use crate::audit::throttle::Throttle;
use crate::audit::tiles::Edge;
use crate::config::Config;
use crate::identity::challenge::ChallengeMemory;
use crate::identity::continuous::KeyProofs;
use crate::identity::dpop::DpopVerifier;
use crate::identity::lockout::Lockouts;
use crate::keys::{KeyNote, KeyNotes, LocalKeys};
use crate::model::note::NoteKey;
use crate::operations::Operations;
use crate::operations::issuers::Issuers;
use crate::operations::watch::Watches;
use crate::pdp::{Clock, Pdp};
use crate::policy::Signing;
use crate::replica::Replica;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{SharedStore, StoreError};
use crate::telemetry::{DEVELOPMENT_NOTICE, Metrics};
use fleet::Reporter;
pub use log::{Seen, Verified, export, verify, verify_export};
use material::Material;
pub use retention::prune;
use tasks::{Ready, Tasks};

/// How long the record of the stop and the last checkpoint may take.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long the announcement waits for the server to be ready.
const READY_WAIT: Duration = Duration::from_secs(1);
/// Live challenges of one replica.
const CHALLENGES_MAX: usize = 100_000;

/// Why the server did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that the server needs is missing or no good; the text says what to do.
    #[error("{0}")]
    Start(String),
    /// The log could not be verified, or is not what it should be.
    #[error(transparent)]
    Verify(#[from] crate::audit::verify::VerifyError),
    /// A part ended that must not.
    #[error("{0} ended; the server stops, because a dead part must not look alive")]
    PartEnded(String),
}

/// An error of the start from anything that says what is wrong.
fn start_error(error: impl std::fmt::Display) -> AppError {
    AppError::Start(error.to_string())
}

/// The wall clock.
#[allow(clippy::disallowed_methods, reason = "the one place that reads it")]
fn wall_clock() -> Clock {
    Arc::new(OffsetDateTime::now_utc)
}

/// Opens the store of this configuration.
///
/// # Errors
/// When it cannot be reached or opened.
pub async fn open_store(config: &Config) -> Result<SharedStore, AppError> {
    match &config.database_url {
        Some(url) => Ok(Arc::new(PostgresStore::connect(url).await?)),
        None => {
            material::private_dir(&config.data_dir).map_err(start_error)?;
            Ok(Arc::new(SqliteStore::open(&config.sqlite_path()).await?))
        }
    }
}

/// Brings the schema of the store up to date.
///
/// # Errors
/// When the store cannot be reached or changed.
pub async fn migrate(config: &Config) -> Result<(), AppError> {
    let store = open_store(config).await?;
    store.migrate().await?;
    store.close().await;
    Ok(())
}

/// Encrypts the private keys that this configuration keeps in files and that are in clear
/// text, and answers which those were. The server is not to run meanwhile.
///
/// # Errors
/// No passphrase is configured, or a file holds no key that can be encrypted with it.
pub fn encrypt_keys(config: &Config) -> Result<Vec<std::path::PathBuf>, AppError> {
    let passphrase = material::passphrase(config)?.ok_or_else(|| {
        let text = "no passphrase is configured; name the file with it in `key_passphrase_file`";
        AppError::Start(text.to_owned())
    })?;
    let mut encrypted = Vec::new();
    if config.database_url.is_none() {
        let keys = LocalKeys::encrypt(&config.data_dir, &passphrase).map_err(start_error)?;
        encrypted.extend(keys);
    }
    for path in operator_ca::key_files(config) {
        let file = operator_ca::key_file(path);
        if file.encrypt(&passphrase).map_err(start_error)? {
            encrypted.push(path.to_owned());
        }
    }
    Ok(encrypted)
}

/// Runs the server until a signal or `stop` ends it. With `new_administrator` it first makes
/// the first administrator a new key, if the one in its folder is no good any more.
///
/// # Errors
/// What kept it from starting, or which part ended.
pub async fn serve(
    config: Config,
    new_administrator: bool,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), AppError> {
    let clock = wall_clock();
    let now = clock();
    let store = open_store(&config).await?;
    if config.database_url.is_none() {
        store.migrate().await?;
    }
    let head = store.ensure_log(uuid::Uuid::new_v4()).await?;
    let (key_notes, mut noted) = KeyNotes::new();
    let material = Material::load(&config, &store, head.log_id, key_notes, now).await?;
    let signer = signer(&store, &material)?;
    let metrics = Metrics::new().map_err(AppError::Start)?;

    let (stopping, stopped) = watch::channel(false);
    let mut tasks = Tasks::new(stopped);
    let (audit, sequencer) = Audit::new(head.log_id, Arc::clone(&store));
    tasks.spawn("the audit writer", sequencer.run());
    let replica = Arc::new(Replica::new(Arc::clone(&store)));
    let issuers = issuers::follow(&config, &clock, &mut tasks)?;
    let parts = (&store, &audit, replica, issuers);
    let operations = operations(&config, parts, &material, &clock, tasks.stop_signal())?;
    let pdp = Arc::clone(&operations.pdp);
    let (ready, health) = tasks.watch_readiness(&store, &pdp);
    let shown = ready.clone();

    // The doors open before the policies are loaded, which takes seconds for a large set:
    // `/livez` answers then, and everything that needs policies says NOT_READY.
    let (listener, address) = listen(&config).await?;
    let reporter = tasks.report_replica(&config, &operations, address);
    let (incoming, reload) = accept(&config, &material, &clock, &pdp, listener, &mut tasks)?;
    let (publish, lists) = watch::channel(None);
    let authorities = material.ca.clone();
    let doors = Doors {
        operations: Arc::clone(&operations),
        metrics: metrics.clone(),
        cursors: Arc::new(material.cursors().map_err(start_error)?),
        pages: Pages {
            readiness: Arc::new(move || shown.borrow().clone()),
            notice: config.development_bearer.then_some(DEVELOPMENT_NOTICE),
            metrics: Arc::new(move || metrics.text()),
            ca_pem: Arc::new(move || authorities.current().bundle_pem()),
            crl: Arc::new(move || lists.borrow().clone()),
        },
        limits: config.limits.clone(),
        spans: config.otlp_endpoint.is_some(),
    };
    tasks.serve(doors, incoming, health);
    tokio::pin!(stop);
    let ended = tokio::select! {
        part = tasks.first_end() => Err(AppError::PartEnded(part)),
        () = &mut stop => Ok(()),
        loaded = load(&config, &operations, &material, &mut noted, (new_administrator, now)) => {
            let first = loaded?;
            tasks.record_keys(&pdp, operations.replica_id, noted);
            become_ready(ready).await;
            tasks.publish_revocations(&store, &pdp, material.ca.clone(), publish);
            keep_up(&signer, &store, &pdp, &mut tasks);
            announce(&config, address, first.as_ref(), &material)?;
            // After the announcement: both write the bundle.
            tasks.follow_authorities(&config, (&pdp, &store), &material, reload);
            tokio::select! {
                part = tasks.first_end() => Err(AppError::PartEnded(part)),
                () = &mut stop => Ok(()),
            }
        }
    };
    drain(&config, stopping, tasks, &reporter, &signer).await;
    ended
}

/// The signer of checkpoints, for its task and for the last one at the stop.
fn signer(store: &SharedStore, material: &Material) -> Result<Arc<Mutex<Signer>>, AppError> {
    let key = Arc::clone(&material.log_key);
    let signer = Signer::new(Arc::clone(store), key, &material.origin).map_err(start_error)?;
    Ok(Arc::new(Mutex::new(signer)))
}

async fn listen(config: &Config) -> Result<(TcpListener, SocketAddr), AppError> {
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|e| AppError::Start(format!("cannot listen on {}: {e}", config.listen)))?;
    let address = listener.local_addr().map_err(start_error)?;
    Ok((listener, address))
}

/// Who waits for the announcement may ask whether the server is ready.
async fn become_ready(mut ready: watch::Receiver<Ready>) {
    let ready = ready.wait_for(Result::is_ok);
    let _ = tokio::time::timeout(READY_WAIT, ready).await;
}

/// Makes what a new log needs and loads the state.
async fn load(
    config: &Config,
    operations: &Operations,
    material: &Material,
    notes: &mut mpsc::Receiver<KeyNote>,
    (new_administrator, now): (bool, OffsetDateTime),
) -> Result<Option<administrator::FirstStart>, AppError> {
    let (store, pdp) = (&operations.store, &operations.pdp);
    let (audit, replica) = (&pdp.audit, &pdp.replica);
    let policies = bootstrap::first_policies(config, store, audit, material, replica, now).await?;
    let first = bootstrap::first_administrator(config, store, audit, material, now).await?;
    tracing::info!("loading the policies");
    replica.load().await?;
    drop(policies);
    facts::record_start(config, pdp, operations.replica_id, material, notes).await?;
    match new_administrator && first.is_none() {
        true => administrator::create_again(config, pdp, material, now).await,
        false => Ok(first),
    }
}

/// The background work of a server that has its state.
fn keep_up(signer: &Arc<Mutex<Signer>>, store: &SharedStore, pdp: &Arc<Pdp>, tasks: &mut Tasks) {
    let own = Arc::clone(store);
    tasks.spawn("the store", async move { own.ended().await });
    tasks.spawn("the change feed", Arc::clone(&pdp.replica).follow());
    tasks.sign_checkpoints(Arc::clone(signer), Arc::clone(pdp));
    tasks.follow_tail(store, pdp);
    tasks.summarize_refusals(Arc::clone(pdp));
}

fn operations(
    config: &Config,
    (store, audit, replica, issuers): (&SharedStore, &Audit, Arc<Replica>, Issuers),
    material: &Material,
    clock: &Clock,
    stopping: watch::Receiver<bool>,
) -> Result<Arc<Operations>, AppError> {
    let pdp = Arc::new(Pdp {
        replica,
        audit: audit.clone(),
        tokens: material.token_authority(config).map_err(start_error)?,
        proofs: DpopVerifier::new(&config.external_names, &material::server_names(config))
            .map_err(start_error)?,
        redaction: material.redaction(config),
        clock: Arc::clone(clock),
        failures: std::sync::Mutex::new(Throttle::default()),
        key_proofs: KeyProofs::new(config.key_proof_interval()),
    });
    let heartbeat = Duration::from_millis(config.limits.watch_heartbeat_ms);
    let watches = Watches::new(config.limits.watch_streams_max, heartbeat, stopping);
    Ok(Arc::new(Operations {
        pdp,
        store: Arc::clone(store),
        ca: material.ca.clone(),
        log_key: VerifierKey::from_vkey(&material.vkey).map_err(start_error)?,
        edge: Edge::default(),
        public_log: config.public_log,
        challenges: ChallengeMemory::new(CHALLENGES_MAX),
        issuers,
        lockouts: Lockouts::new(config.limits.login_failures_max),
        delegation_depth_max: config.delegation_depth_max,
        four_eyes: config.four_eyes,
        signing: Arc::new(signing(config)?),
        watches: Arc::new(watches),
        replica_id: uuid::Uuid::new_v4(),
        certificate_lifetime_max: time::Duration::seconds(config.certificate_lifetime_s.into()),
        pages: tokio::sync::Semaphore::new(crate::operations::authorization::PAGES_MAX),
        replays: tokio::sync::Semaphore::new(1),
        outcome_window: time::Duration::seconds(config.outcome_window_s.into()),
        recoveries_max: config.recoveries_max,
        token_lifetime_max: time::Duration::seconds(config.token_lifetime_s.into()),
    }))
}

/// Whose signatures of policies are taken.
fn signing(config: &Config) -> Result<Signing, AppError> {
    let key = |vkey: &String| {
        NoteKey::from_vkey(vkey).map_err(|e| {
            let text = format!("configuration: `policy.signing_keys`: `{vkey}`: {e}");
            AppError::Start(text)
        })
    };
    let keys: Result<_, _> = config.policy.signing_keys.iter().map(key).collect();
    Ok(Signing {
        keys: keys?,
        required: config.policy.require_signed,
    })
}

fn accept(
    config: &Config,
    material: &Material,
    clock: &Clock,
    pdp: &Arc<Pdp>,
    listener: TcpListener,
    tasks: &mut Tasks,
) -> Result<(Incoming, Option<TlsReload>), AppError> {
    let mut shown = None;
    let (acceptor, incoming) = if config.plaintext {
        tracing::warn!(
            "plain text: no TLS, so nobody can authenticate but by a proof of possession"
        );
        Acceptor::plaintext(listener).map_err(start_error)?
    } else {
        let reload = material.tls(clock()).map_err(start_error)?;
        tasks.renew_server_certificate(material.clone(), reload.clone(), Arc::clone(clock));
        shown = Some(reload.clone());
        let report = tasks.record_handshake_failures(Arc::clone(pdp));
        let trust_domain = material.ca.trust_domain().clone();
        let limits = TlsLimits {
            strangers_per_source_max: config.limits.anonymous_connections_max,
            ..TlsLimits::default()
        };
        Acceptor::tls(listener, reload, trust_domain, limits, report)
    };
    let signal = tasks.stopped();
    tasks.spawn_until_stop("the listener", async move {
        acceptor.run(signal).await;
        Ok(())
    });
    Ok((incoming, shown))
}

/// Says where the server is and, on the first start, how to go on.
fn announce(
    config: &Config,
    address: SocketAddr,
    first: Option<&administrator::FirstStart>,
    material: &Material,
) -> Result<(), AppError> {
    material::private_dir(&config.data_dir).map_err(start_error)?;
    authorities::write_bundle(config, material).map_err(start_error)?;
    administrator::refresh_endpoint(config, address).map_err(start_error)?;
    // Last: who waits for this file may use everything else.
    let endpoint = config.data_dir.join("endpoint");
    administrator::write_private(&endpoint, &address.to_string()).map_err(start_error)?;
    if let Some(first) = first {
        tracing::info!(
            credential = %first.credential_dir.display(),
            "a new credential of the administrator is in this folder; keep it safe"
        );
    }
    tracing::info!(%address, "listening");
    Ok(())
}

/// Lets calls in flight end, up to the deadline, and puts the end on record.
async fn drain(
    config: &Config,
    stopping: watch::Sender<bool>,
    mut tasks: Tasks,
    reporter: &Reporter,
    signer: &Mutex<Signer>,
) {
    let Reporter { store, pdp, .. } = reporter;
    tracing::info!("stopping: no new calls, those in flight may end");
    let _ = stopping.send(true);
    let deadline = Duration::from_millis(config.drain_timeout_ms);
    if tokio::time::timeout(deadline, tasks.drained())
        .await
        .is_err()
    {
        tracing::warn!(?deadline, "some calls did not end in time and are cut off");
    }
    let last = async {
        // The second that is not over yet, too: no other one will tell of it.
        tasks::record_summaries(pdp, (pdp.clock)() + time::Duration::SECOND).await;
        facts::record_stop(pdp, reporter.id()).await;
        if let Err(error) = reporter.report(true).await {
            tracing::warn!(%error, "the others could not be told that this replica stops");
        }
        let mut signer = signer.lock().await;
        let signed = signer.advance().await;
        signer.release().await?;
        signed
    };
    match tokio::time::timeout(LAST_WORDS, last).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the last checkpoint could not be signed"),
        Err(_) => tracing::warn!("the stop could not be put on record in time"),
    }
    tasks.abort();
    store.close().await;
    tracing::info!("stopped");
}
