//! What a server process tells of itself, for the others and for whoever looks.

use time::OffsetDateTime;
use uuid::Uuid;

/// A server process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaRecord {
    /// A new one for each start.
    pub id: Uuid,
    /// For people.
    pub name: String,
    /// Of the server.
    pub version: String,
    /// The revision that it decides by; 0 before it has loaded one.
    pub revision: u64,
    /// Since when.
    pub revision_time: OffsetDateTime,
    /// When it started.
    pub start_time: OffsetDateTime,
    /// When it told this.
    pub seen_time: OffsetDateTime,
    /// Whether it stops.
    pub stopped: bool,
}

/// All that have told of themselves, and what they should run: one snapshot of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// The newest revision.
    pub revision: u64,
    /// By the start, then by the id.
    pub replicas: Vec<ReplicaRecord>,
}
