//! The store: the only place that names sqlx. Two native implementations of the same
//! traits, [`sqlite`] (embedded, one process) and [`postgres`] (many replicas). One
//! conformance suite runs over both (`tests/it/store.rs`).
//!
//! All writes that matter go through [`AuditTx`]: the head row of the log is locked,
//! events and changes are written, the head moves on, and one COMMIT makes it so.

pub mod postgres;
mod proofs;
mod query;
mod retention;
pub mod sqlite;
mod value;

use std::sync::Arc;

use async_trait::async_trait;
use time::OffsetDateTime;
use uuid::Uuid;

pub use proofs::{ProofStore, SigningTurn, StoredTile, TILE_WIDTH, TILES_MAX, TileId, TileLevel};
pub use query::{EventFilter, EventQueries};
pub use retention::{Pruned, RetentionStore};

use crate::model::event::Inputs;
use crate::model::proposal::{Proposal, ProposalMeta};
use crate::model::replica::{Fleet, ReplicaRecord};
use crate::model::revision::{Digest, Manifest, RevisionNews};
use crate::model::{
    AgentRecord, AuthorityRecord, Change, Columns, Conflict, EntityCursor, EntityPage, EntityUid,
    Instance, PartyVersion, RevisionMeta, StoredEntity, UserRecord, VoidTokens,
};

/// The head row of the log: where it stands, and the clock of everything that can turn
/// an allow into a deny.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHead {
    /// The log.
    pub log_id: Uuid,
    /// How many leaves it has.
    pub size: u64,
    /// The roots of the complete subtrees, largest first (RFC 6962).
    pub frontier: Vec<[u8; 32]>,
    /// Grows with each change that replicas must see before they decide again.
    pub epoch: u64,
}

/// An event ready to be written.
#[derive(Clone, Debug)]
pub struct PreparedEvent {
    /// The leaf's bytes.
    pub leaf: Vec<u8>,
    /// The RFC 6962 leaf hash.
    pub leaf_hash: [u8; 32],
    /// The projections of the leaf.
    pub columns: Columns,
    /// What stands in the side table.
    pub inputs: Option<Inputs>,
}

/// A stored event, columns read back as they stand in the table.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Its place.
    pub sequence: u64,
    /// The log, as the column says.
    pub log_id: Uuid,
    /// The leaf's bytes.
    pub leaf: Vec<u8>,
    /// The leaf hash as stored.
    pub leaf_hash: [u8; 32],
    /// The columns as stored.
    pub columns: Columns,
    /// The side table's row, if it still exists.
    pub inputs: Option<Inputs>,
}

/// A signed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// The size it signs.
    pub size: u64,
    /// The C2SP signed note.
    pub note: String,
}

/// Everything that changed after an epoch, read in one snapshot of the database.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The epoch that these changes lead to.
    pub epoch: u64,
    /// The log's size in that snapshot.
    pub size: u64,
    /// Agents that are new or changed.
    pub agents: Vec<AgentRecord>,
    /// Users that are new or changed.
    pub users: Vec<UserRecord>,
    /// Keys that are new or changed.
    pub instances: Vec<Instance>,
    /// CAs that are new or changed.
    pub authorities: Vec<AuthorityRecord>,
    /// Tokens that became void.
    pub revocations: Vec<VoidTokens>,
    /// The revision in force, if it is another one than before. Without texts.
    pub revision: Option<RevisionNews>,
    /// The first page of what changed among the entities; the others come from
    /// [`EntityStore::entity_changes`].
    pub entities: EntityPage,
}

/// Versions of entities in one page of the change feed.
pub const ENTITY_PAGE: u32 = 4096;

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, or refused; a later try may succeed.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The database refuses what was written for what is in it; the same again fails again.
    #[error("the store refuses it: {0}")]
    Refused(String),
    /// A COMMIT got no answer: whether it took effect must be looked up.
    #[error("the outcome of a commit is not known: {0}")]
    CommitUnknown(String),
    /// The database holds something that this program cannot have written.
    #[error("the store holds something unexpected: {0}")]
    Corrupt(String),
    /// The schema is missing or of another version.
    #[error("the database schema does not fit, `zta migrate` brings it up to date: {0}")]
    Schema(String),
}

/// One transaction of the audit writer. Dropped without [`AuditTx::commit`], it is
/// rolled back.
#[async_trait]
pub trait AuditTx: Send {
    /// The head row, locked by this transaction.
    fn head(&self) -> &LogHead;

    /// Makes a change, or says why not; then nothing of it is written. Rows that
    /// change get `epoch`, the epoch that this transaction will commit.
    async fn apply(
        &mut self,
        change: &Change,
        epoch: u64,
    ) -> Result<Result<(), Conflict>, StoreError>;

    /// Writes events at consecutive sequences.
    async fn insert(
        &mut self,
        first_sequence: u64,
        events: &[PreparedEvent],
    ) -> Result<(), StoreError>;

    /// Moves the head and commits.
    ///
    /// # Errors
    /// [`StoreError::CommitUnknown`] when the connection died around COMMIT. After any other one
    /// nothing may be answered, though what was written can stand in the log all the same.
    async fn commit(self: Box<Self>, head: &LogHead) -> Result<(), StoreError>;
}

/// The log.
#[async_trait]
pub trait AuditStore: Send + Sync {
    /// Creates the log's head row if there is none, and returns the head.
    async fn ensure_log(&self, log_id: Uuid) -> Result<LogHead, StoreError>;
    /// The head as committed, without a lock.
    async fn head(&self) -> Result<LogHead, StoreError>;
    /// Starts a transaction and locks the head row.
    async fn begin(&self) -> Result<Box<dyn AuditTx>, StoreError> {
        let (tx, _) = self.begin_with(&[], 0).await?;
        Ok(tx)
    }
    /// As [`AuditStore::begin`], and which of these events stand at the place `since` or after
    /// it: as the head is locked, and in the same trip, because decisions wait for it.
    async fn begin_with(
        &self,
        event_ids: &[Uuid],
        since: u64,
    ) -> Result<(Box<dyn AuditTx>, Vec<Uuid>), StoreError>;
    /// Where an event stands, if it is committed. Takes the head lock first, so that
    /// a COMMIT still in flight has ended.
    async fn find(&self, event_id: Uuid) -> Result<Option<u64>, StoreError>;
    /// Events from `first` on, in order, at most `limit`, with inputs.
    async fn read(&self, first: u64, limit: u32) -> Result<Vec<StoredEvent>, StoreError>;
    /// Those of these events whose commits can be seen, in no order, without inputs.
    async fn named(&self, event_ids: &[Uuid]) -> Result<Vec<StoredEvent>, StoreError>;
    /// The newest checkpoint.
    async fn latest_checkpoint(&self) -> Result<Option<StoredCheckpoint>, StoreError>;
}

/// Agents, users, keys and join tokens.
#[async_trait]
pub trait RegistryStore: Send + Sync {
    /// The change feed: everything after `epoch`, with what the revision in force has
    /// different from `known_revision`, if it is not that one.
    async fn changes_since(&self, epoch: u64, known_revision: u64) -> Result<Changes, StoreError>;
    /// A key as it is stored now: generations move without the feed.
    async fn instance(&self, id: Uuid) -> Result<Option<Instance>, StoreError>;
    /// Keys of a principal, in the order of their ids, after `after`, at most `limit`.
    async fn instances(
        &self,
        principal_id: &str,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<Instance>, StoreError>;
    /// What was said of agents and users, in versions younger than `since` and not younger
    /// than `until`, in the order of their epochs, at most `limit`.
    async fn party_versions(
        &self,
        since: u64,
        until: u64,
        limit: u32,
    ) -> Result<Vec<PartyVersion>, StoreError>;
    /// The CAs on record, in the order in which they were prepared. None before the first
    /// one was replaced.
    async fn authorities(&self) -> Result<Vec<AuthorityRecord>, StoreError>;
    /// A join token by its public part, whether used or not.
    async fn join_token(
        &self,
        id: &str,
    ) -> Result<Option<crate::model::change::JoinTokenRecord>, StoreError>;
}

/// Certificates that are revoked, read in one snapshot of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedCertificates {
    /// The log's size in that snapshot.
    pub size: u64,
    /// Serial numbers in lower-case hex, sorted.
    pub serials: Vec<String>,
}

/// Certificates that were issued.
#[async_trait]
pub trait CertificateStore: Send + Sync {
    /// Those that hold at `now` and whose key or agent is revoked, at most `limit`.
    async fn revoked_certificates(
        &self,
        now: OffsetDateTime,
        limit: u32,
    ) -> Result<RevokedCertificates, StoreError>;
    /// Forgets those that ended before `time`; how many.
    async fn forget_certificates(&self, time: OffsetDateTime) -> Result<u64, StoreError>;
}

/// Policy revisions.
#[async_trait]
pub trait PolicyStore: Send + Sync {
    /// A revision with the names and digests of its files.
    async fn revision(&self, number: u64) -> Result<Option<Manifest>, StoreError>;
    /// The texts of these digests, in their order.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where one is missing.
    async fn texts(&self, digests: &[Digest]) -> Result<Vec<Arc<str>>, StoreError>;
    /// Revisions with numbers below `before`, newest first, at most `limit`.
    async fn revisions(&self, before: u64, limit: u32) -> Result<Vec<RevisionMeta>, StoreError>;
    /// A proposal with the digests of what it changes.
    async fn proposal(&self, number: u64) -> Result<Option<Proposal<Digest>>, StoreError>;
    /// Proposals with numbers below `before`, newest first, at most `limit`.
    async fn proposals(&self, before: u64, limit: u32) -> Result<Vec<ProposalMeta>, StoreError>;
}

/// Entities. Each version of one stays, with the epochs that it holds from and until, so
/// that the entities of any epoch can be read.
#[async_trait]
pub trait EntityStore: Send + Sync {
    /// A page of the versions that are the newest at epoch `until` and younger than
    /// `since`, in the order of the feed, from `after` (exclusive) on. Rows of an epoch
    /// that is committed do not change, so pages read one by one fit together. Since 0,
    /// deletions are left out.
    async fn entity_changes(
        &self,
        since: u64,
        until: u64,
        after: Option<&EntityCursor>,
        limit: u32,
    ) -> Result<EntityPage, StoreError>;
    /// Entities as they are now, of one type or of all, in the order of type and id
    /// byte by byte, after `after`, at most `limit`.
    async fn entities(
        &self,
        ty: Option<&str>,
        after: Option<&EntityUid>,
        limit: u32,
    ) -> Result<Vec<StoredEntity>, StoreError>;
}

/// What replicas tell of themselves. Not part of the log: nothing is decided by it.
#[async_trait]
pub trait ReplicaStore: Send + Sync {
    /// Writes a replica's own row.
    async fn put_replica(&self, replica: &ReplicaRecord) -> Result<(), StoreError>;
    /// The newest revision and the replicas, in one snapshot: at most `limit`, those that
    /// were seen last.
    async fn fleet(&self, limit: u32) -> Result<Fleet, StoreError>;
    /// Forgets those that were seen last before `time`; how many.
    async fn forget_replicas(&self, time: OffsetDateTime) -> Result<u64, StoreError>;
}

/// Small secrets and facts of the deployment: wrapped keys, the CA certificate.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// The blob of that name.
    async fn get_blob(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;
    /// Stores a blob unless there is one, and returns the one that stands.
    async fn put_blob_if_absent(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError>;
}

/// A whole store.
#[async_trait]
pub trait Store:
    AuditStore
    + EventQueries
    + ProofStore
    + RetentionStore
    + RegistryStore
    + CertificateStore
    + PolicyStore
    + EntityStore
    + ReplicaStore
    + BlobStore
{
    /// Brings the schema up to date.
    async fn migrate(&self) -> Result<(), StoreError>;
    /// Returns when another replica may have changed something, at the latest after a
    /// second or so. A hint that makes catching up early: exactness comes from the
    /// epoch. One caller at a time.
    async fn wait_for_change(&self);
    /// Completes when a part of the store that works in the background has ended: never, unless
    /// it failed or the store was closed.
    async fn ended(&self) {
        std::future::pending().await
    }
    /// Closes connections; used at the end of a drain.
    async fn close(&self);
}

/// A store shared by the parts of the server.
pub type SharedStore = Arc<dyn Store>;
