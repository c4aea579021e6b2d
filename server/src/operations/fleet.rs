//! Which replica runs which revision.
//!
//! What a replica told last may be some seconds old, and nothing is decided by it: that no
//! replica decides by an old revision is the epoch's doing. This says who is behind, or away.

use time::{Duration, OffsetDateTime};

use super::{OperationError, Operations};
use crate::identity::registry::Credential;
use crate::model::replica::ReplicaRecord;

/// Replicas in one answer, those that were seen last.
const REPLICAS_MAX: u32 = 1000;
/// How long after its last word a replica counts as gone. Three words in a row are missing
/// then.
const GONE_AFTER: Duration = Duration::seconds(15);
/// How long a replica that is gone is told of.
pub(crate) const REMEMBERED: Duration = Duration::DAY;

/// How a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReplicaState {
    /// It has told of itself lately.
    Running,
    /// It has said that it stops.
    Stopped,
    /// It tells nothing any more.
    Gone,
}

/// A replica as it is seen now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenReplica {
    pub(crate) record: ReplicaRecord,
    pub(crate) state: ReplicaState,
    /// Whether it runs an older revision than the newest one.
    pub(crate) lagging: bool,
    /// Whether it is this one.
    pub(crate) answering: bool,
}

/// All replicas, and the newest revision in the store.
pub(crate) struct FleetStatus {
    pub(crate) revision: u64,
    pub(crate) time: OffsetDateTime,
    pub(crate) replicas: Vec<SeenReplica>,
}

impl Operations {
    /// Which replica runs which revision, as of now.
    pub(crate) async fn fleet_status(
        &self,
        credential: &Credential,
    ) -> Result<FleetStatus, OperationError> {
        self.read(credential, "read_status").await?;
        let fleet = self.store.fleet(REPLICAS_MAX).await?;
        let time = (self.pdp.clock)();
        let recent = |r: &ReplicaRecord| time - r.seen_time <= REMEMBERED;
        let records = fleet.replicas.into_iter().filter(recent);
        let mut replicas: Vec<_> = records
            .map(|record| {
                let answering = record.id == self.replica_id;
                let (state, lagging) = seen(&record, fleet.revision, time);
                SeenReplica {
                    record,
                    state,
                    lagging,
                    answering,
                }
            })
            .collect();
        replicas.sort_by_key(|replica| replica.state);
        Ok(FleetStatus {
            revision: fleet.revision,
            time,
            replicas,
        })
    }
}

/// How a replica is, and whether it is behind the newest revision.
fn seen(record: &ReplicaRecord, newest: u64, now: OffsetDateTime) -> (ReplicaState, bool) {
    let state = match record.stopped {
        true => ReplicaState::Stopped,
        false if now - record.seen_time > GONE_AFTER => ReplicaState::Gone,
        false => ReplicaState::Running,
    };
    (
        state,
        state != ReplicaState::Stopped && record.revision < newest,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_runs_stops_or_is_gone() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::DAY;
        let record = |age: i64, revision, stopped| ReplicaRecord {
            id: uuid::Uuid::nil(),
            name: "a".to_owned(),
            version: "1".to_owned(),
            revision,
            revision_time: now,
            start_time: now,
            seen_time: now - Duration::seconds(age),
            stopped,
        };
        let seen = |age, revision, stopped| seen(&record(age, revision, stopped), 7, now);
        assert_eq!(seen(0, 7, false), (ReplicaState::Running, false));
        assert_eq!(seen(15, 6, false), (ReplicaState::Running, true));
        assert_eq!(seen(16, 7, false), (ReplicaState::Gone, false));
        assert_eq!(seen(16, 6, false), (ReplicaState::Gone, true));
        assert_eq!(seen(99, 6, true), (ReplicaState::Stopped, false));
        // Its clock is ahead of ours.
        assert_eq!(seen(-9, 7, false), (ReplicaState::Running, false));
    }
}
