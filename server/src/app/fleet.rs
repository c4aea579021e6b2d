//! Tells the other replicas which revision this one runs.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::tasks::Tasks;
use crate::config::Config;
use crate::model::event::to_micros;
use crate::model::replica::ReplicaRecord;
use crate::operations::Operations;
use crate::operations::fleet::REMEMBERED;
use crate::pdp::Pdp;
use crate::store::{SharedStore, StoreError};

/// Between two words of a replica to which nothing happens.
const INTERVAL: Duration = Duration::from_secs(5);
/// Between two words at least, whatever happens.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two times that the dead are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);

/// What this process tells of itself.
pub(super) struct Reporter {
    pub(super) store: SharedStore,
    pub(super) pdp: Arc<Pdp>,
    record: Mutex<ReplicaRecord>,
}

impl Reporter {
    fn new(operations: &Operations, name: String) -> Arc<Self> {
        let now = to_micros((operations.pdp.clock)());
        Arc::new(Self {
            store: Arc::clone(&operations.store),
            pdp: Arc::clone(&operations.pdp),
            record: Mutex::new(ReplicaRecord {
                id: operations.replica_id,
                name,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                revision: 0,
                revision_time: now,
                start_time: now,
                seen_time: now,
                stopped: false,
            }),
        })
    }

    /// The id of this process among the replicas.
    pub(super) fn id(&self) -> Uuid {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.id
    }

    /// Tells how it is now.
    pub(super) async fn report(&self, stopped: bool) -> Result<(), StoreError> {
        let record = self.refreshed(to_micros((self.pdp.clock)()), stopped);
        self.store.put_replica(&record).await
    }

    fn refreshed(&self, now: OffsetDateTime, stopped: bool) -> ReplicaRecord {
        let state = self.pdp.replica.current();
        let revision = state.revision.as_ref().map_or(0, |r| r.meta.number);
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if record.revision != revision {
            (record.revision, record.revision_time) = (revision, now);
        }
        (record.seen_time, record.stopped) = (now, stopped);
        record.clone()
    }

    fn revision(&self) -> u64 {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.revision
    }

    /// Returns when there is something to tell: another revision, or that it still lives.
    async fn wait(&self, states: &mut tokio::sync::watch::Receiver<u64>) {
        let known = self.revision();
        let other = |state: &crate::replica::State| {
            state.revision.as_ref().map_or(0, |r| r.meta.number) != known
        };
        let news = async {
            while !other(&self.pdp.replica.current()) {
                if states.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        let _ = tokio::time::timeout(INTERVAL, news).await;
    }
}

impl Tasks {
    /// Tells of this replica as long as it lives. A store that is away hears nothing; the
    /// others then see that this one is gone.
    pub(super) fn report_replica(
        &mut self,
        config: &Config,
        operations: &Operations,
        address: SocketAddr,
    ) -> Arc<Reporter> {
        let name = config.replica_name.clone();
        let own = Reporter::new(operations, name.unwrap_or_else(|| address.to_string()));
        let reporter = Arc::clone(&own);
        self.spawn("the report of this replica", async move {
            let mut states = reporter.pdp.replica.subscribe();
            let mut forgotten: Option<Instant> = None;
            loop {
                if let Err(error) = reporter.report(false).await {
                    tracing::warn!(%error, "this replica could not be reported; trying again");
                }
                if forgotten.is_none_or(|at| at.elapsed() > FORGET_INTERVAL) {
                    forgotten = Some(Instant::now());
                    let end = (reporter.pdp.clock)() - REMEMBERED;
                    if let Err(error) = reporter.store.forget_replicas(end).await {
                        tracing::warn!(%error, "replicas that are gone could not be forgotten");
                    }
                }
                tokio::time::sleep(PAUSE).await;
                reporter.wait(&mut states).await;
            }
        });
        own
    }
}
