//! The background tasks. If one of them ends, the process does, and says which.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic_health::ServingStatus;

use super::material::{Material, SERVER_CERTIFICATE_LIFETIME};
use crate::api::server::{Doors, Health};
use crate::api::tls::{FailedHandshake, Incoming, TlsReload};
use crate::audit::signer::{SignError, Signer};
use crate::audit::{Record, checkpoint};
use crate::identity::registry::Credential;
use crate::model::EventType;
use crate::pdp::{Clock, Pdp};
use crate::store::SharedStore;

/// Handshake failures that may wait to be recorded; further ones are only counted by the
/// summary of their second.
const HANDSHAKES_QUEUED_MAX: usize = 1024;
/// How often readiness is looked at.
const READINESS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the end of the log is looked at for those who follow it: what this replica
/// appends, they hear of at once; this is for what others append.
const TAIL_INTERVAL: Duration = Duration::from_millis(50);
/// How long the store may take to show that it can be written.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether the server can decide, and if not, why.
pub(super) type Ready = Result<(), String>;

/// The tasks of the process.
pub(super) struct Tasks {
    /// Each ends with its name and, if it failed, why.
    set: JoinSet<String>,
    /// Those that end by themselves when the server stops.
    draining: JoinSet<String>,
    stopped: watch::Receiver<bool>,
}

impl Tasks {
    pub(super) fn new(stopped: watch::Receiver<bool>) -> Self {
        Self {
            set: JoinSet::new(),
            draining: JoinSet::new(),
            stopped,
        }
    }

    /// A task that must never end.
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.set.spawn(async move {
            task.await;
            name.to_owned()
        });
    }

    /// A task that ends when the server stops, and not before.
    pub(super) fn spawn_until_stop(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        self.draining.spawn(async move {
            match task.await {
                Ok(()) => name.to_owned(),
                Err(why) => format!("{name} ({why})"),
            }
        });
    }

    /// Completes when the server stops.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopped = self.stopped.clone();
        async move {
            // An error means that the sender is gone, and the server with it.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    }

    /// Tells whether the server stops.
    pub(super) fn stop_signal(&self) -> watch::Receiver<bool> {
        self.stopped.clone()
    }

    /// Serves the doors until the server stops.
    pub(super) fn serve(&mut self, doors: Doors, incoming: Incoming, health: Health) {
        let signal = self.stopped();
        self.spawn_until_stop("the API", async move {
            let served = doors.serve(incoming, signal, health).await;
            served.map_err(|e| e.to_string())
        });
    }

    /// The name of the first task that ends.
    pub(super) async fn first_end(&mut self) -> String {
        let ended = tokio::select! {
            Some(ended) = self.set.join_next() => ended,
            Some(ended) = self.draining.join_next() => ended,
            else => return "every task".to_owned(),
        };
        ended.unwrap_or_else(|panic| format!("a task ({panic})"))
    }

    /// Completes when the draining tasks have ended.
    pub(super) async fn drained(&mut self) {
        while self.draining.join_next().await.is_some() {}
    }

    pub(super) fn abort(&mut self) {
        self.draining.abort_all();
        self.set.abort_all();
    }

    /// Looks once a second whether the server can decide: a revision is in force and the
    /// audit can be written. Shown by `/readyz` and `grpc.health.v1`.
    pub(super) fn watch_readiness(
        &mut self,
        store: &SharedStore,
        pdp: &Arc<Pdp>,
    ) -> (watch::Receiver<Ready>, Health) {
        let health = Health::new();
        let (show, shown) = watch::channel(Err("starting".to_owned()));
        let (store, pdp, reporter) = (Arc::clone(store), Arc::clone(pdp), health.clone());
        let (stopped, draining) = (self.stopped(), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&draining);
        self.spawn_until_stop("the drain watch", async move {
            stopped.await;
            flag.store(true, Ordering::Relaxed);
            Ok(())
        });
        self.spawn("the readiness probe", async move {
            loop {
                let ready = if draining.load(Ordering::Relaxed) {
                    Err("stopping".to_owned())
                } else {
                    probe(&store, &pdp).await
                };
                let status = if ready.is_ok() {
                    ServingStatus::Serving
                } else {
                    ServingStatus::NotServing
                };
                reporter.set_service_status("", status).await;
                reporter
                    .set_service_status("zta.v1.AuthorizationService", status)
                    .await;
                drop(show.send_replace(ready));
                let loading = pdp.replica.current().epoch == 0;
                tokio::select! {
                    () = pdp.replica.loaded(), if loading => {}
                    () = tokio::time::sleep(READINESS_INTERVAL) => {}
                }
            }
        });
        (shown, health)
    }

    /// Signs a checkpoint at least once a second while the log grows, for as long as it is
    /// this replica's turn.
    pub(super) fn sign_checkpoints(&mut self, signer: Arc<Mutex<Signer>>, pdp: Arc<Pdp>) {
        self.spawn("the checkpoint signer", async move {
            let mut tick = tokio::time::interval(checkpoint::INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut recorded = false;
            loop {
                tick.tick().await;
                let signed = signer.lock().await.advance().await;
                match signed {
                    Ok(_) => recorded = false,
                    Err(error @ SignError::Altered { .. }) => {
                        tracing::error!(%error, "the log");
                        // Once: the log would grow by it each second.
                        if !std::mem::replace(&mut recorded, true) {
                            let why = error.to_string();
                            pdp.record_unverified("checkpoint", &why).await;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no checkpoint could be signed; trying again");
                    }
                }
            }
        });
    }

    /// Looks at the end of the log for as long as somebody follows it.
    pub(super) fn follow_tail(&mut self, store: &SharedStore, pdp: &Pdp) {
        let (store, tail) = (Arc::clone(store), pdp.audit.tail().clone());
        self.spawn("the watch over the log's end", async move {
            loop {
                tokio::time::sleep(TAIL_INTERVAL).await;
                if !tail.is_followed() {
                    continue;
                }
                match store.head().await {
                    Ok(head) => tail.saw(head.size, head.epoch),
                    // The next look is soon, and readiness says what is wrong.
                    Err(error) => tracing::debug!(%error, "the end of the log is not known"),
                }
            }
        });
    }

    /// Puts the summaries of refused credentials on record.
    pub(super) fn summarize_refusals(&mut self, pdp: Arc<Pdp>) {
        self.spawn("the summary of refused credentials", async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                record_summaries(&pdp, (pdp.clock)()).await;
            }
        });
    }

    /// Renews the server's certificate at half of its lifetime.
    pub(super) fn renew_server_certificate(
        &mut self,
        material: Material,
        reload: TlsReload,
        clock: Clock,
    ) {
        let half = Duration::try_from(SERVER_CERTIFICATE_LIFETIME / 2)
            .unwrap_or(Duration::from_secs(3600));
        self.spawn("the renewal of the server's certificate", async move {
            let mut wait = half;
            loop {
                tokio::time::sleep(wait).await;
                wait = match material.renew_tls(&reload, clock()) {
                    Ok(()) => half,
                    Err(error) => {
                        tracing::error!(%error, "the server's certificate could not be renewed; trying again");
                        Duration::from_secs(60)
                    }
                };
            }
        });
    }

    /// Puts handshakes that failed for their certificate on record, like any login that
    /// failed. The returned hook does not block.
    pub(super) fn record_handshake_failures(
        &mut self,
        pdp: Arc<Pdp>,
    ) -> impl Fn(FailedHandshake) + Send + Sync + 'static {
        let (queue, mut failed) = mpsc::channel::<FailedHandshake>(HANDSHAKES_QUEUED_MAX);
        let counted = Arc::clone(&pdp);
        self.spawn("the record of failed handshakes", async move {
            while let Some(handshake) = failed.recv().await {
                let now = (pdp.clock)();
                let credential = Credential::none(Some(handshake.source.ip()), now);
                let why = format!("TLS handshake: {}", handshake.failure.as_str());
                if let Err(error) = pdp.record_refusal(&credential, &why, now).await {
                    tracing::error!(%error, "a failed handshake could not be put on record");
                }
            }
        });
        move |handshake| {
            tracing::debug!(source = %handshake.source, why = handshake.failure.as_str(), "TLS handshake failed");
            if handshake.failure.is_failed_login() && queue.try_send(handshake).is_err() {
                let mut failures = counted
                    .failures
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                failures.count((counted.clock)());
            }
        }
    }
}

/// Puts the summaries of seconds that are over at `now` on record.
pub(super) async fn record_summaries(pdp: &Pdp, now: OffsetDateTime) {
    let summaries = {
        let mut failures = pdp
            .failures
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        failures.take(now)
    };
    for summary in summaries {
        let mut event = pdp
            .event(EventType::LoginFailedSummary, (pdp.clock)())
            .with_detail("failures", summary.failures.to_string())
            .with_detail("second", summary.second.to_string());
        event.source = summary.source;
        if let Err(error) = pdp.audit.append(Record::fact(event)).await {
            tracing::error!(%error, failures = summary.failures, "refused credentials could not be put on record");
        }
    }
}

/// Whether a decision could be made and put on record now.
async fn probe(store: &SharedStore, pdp: &Pdp) -> Result<(), String> {
    let state = pdp.replica.current();
    if state.epoch == 0 {
        return Err("the policies are being loaded".to_owned());
    }
    if state.revision.is_none() {
        return Err("no policy revision is in force".to_owned());
    }
    match tokio::time::timeout(PROBE_TIMEOUT, pdp.audit.probe(store)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready: the audit cannot be written");
            Err("the audit cannot be written".to_owned())
        }
        Err(_) => Err("the audit cannot be written in time".to_owned()),
    }
}
