//! Proofs of the log, and the log as tiles. Each reading is itself on record.

use uuid::Uuid;

use super::{OperationError, Operations};
use crate::audit::merkle::Hash;
use crate::audit::proof::{Plan, verify_inclusion};
use crate::audit::tile::{TilePath, bundle, width_in};
use crate::audit::{receipt, tiles};
use crate::identity::registry::Credential;
use crate::store::{StoreError, StoredCheckpoint, StoredEvent, TILE_WIDTH, TileId};

/// Which event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EventName {
    /// That of a place in the log.
    Sequence(u64),
    /// That of an id.
    Id(Uuid),
}

/// An event with its receipt.
pub(crate) struct Receipted {
    pub(crate) event: StoredEvent,
    /// C2SP tlog-proof.
    pub(crate) receipt: String,
}

/// A proof in the tree of a size.
pub(crate) struct SizedProof {
    pub(crate) hashes: Vec<Hash>,
    pub(crate) size: u64,
    /// The checkpoint of that size, if there is one.
    pub(crate) checkpoint: Option<StoredCheckpoint>,
}

impl Operations {
    /// An event and what proves that it is on record. That nothing proves it is on record,
    /// too.
    pub(crate) async fn event(
        &self,
        credential: &Credential,
        name: EventName,
    ) -> Result<Receipted, OperationError> {
        let receipted = self.receipted(credential, name).await;
        self.verified("receipt", receipted).await
    }

    async fn receipted(
        &self,
        credential: &Credential,
        name: EventName,
    ) -> Result<Receipted, OperationError> {
        self.read(credential, "read_audit").await?;
        let sequence = match name {
            EventName::Sequence(sequence) => Some(sequence),
            EventName::Id(id) => self.store.place(id).await?,
        };
        let sequence = sequence.ok_or(OperationError::EventNotFound)?;
        let read = async { Ok(self.store.read(sequence, 1).await?) };
        let (event, checkpoint) = tokio::try_join!(read, self.signed())?;
        let event = event.into_iter().find(|e| e.sequence == sequence);
        let Some(event) = event else {
            self.require_event(sequence).await?;
            return Err(OperationError::EventNotFound);
        };
        let plan = Plan::inclusion(sequence, checkpoint.size).ok_or(OperationError::NotSigned)?;
        let proof = self.prove(&plan, checkpoint.size).await?;
        // A receipt that proves nothing is worse than none: say that something is wrong.
        let receipt = receipt::write(sequence, &proof, &checkpoint.note);
        let proved = receipt::verify(&self.log_key, &event.leaf, &receipt);
        proved.map_err(|error| OperationError::LogAltered(error.to_string()))?;
        Ok(Receipted { event, receipt })
    }

    /// That an event is in the tree of a size; the leaf's hash beside it.
    pub(crate) async fn inclusion_proof(
        &self,
        credential: &Credential,
        sequence: u64,
        size: u64,
    ) -> Result<(Hash, SizedProof), OperationError> {
        let included = self.included(credential, sequence, size).await;
        self.verified("inclusion_proof", included).await
    }

    async fn included(
        &self,
        credential: &Credential,
        sequence: u64,
        size: u64,
    ) -> Result<(Hash, SizedProof), OperationError> {
        self.read(credential, "read_audit").await?;
        let size = self.tree_size("size", size).await?;
        let plan = Plan::inclusion(sequence, size).ok_or(OperationError::EventNotFound)?;
        let hash = self.leaf_hash(sequence, size).await?;
        let proof = self.sized(&plan, size).await?;
        if let Some(checkpoint) = &proof.checkpoint {
            let (_, root) = self.open(checkpoint)?;
            if !verify_inclusion(sequence, size, hash, &proof.hashes, root) {
                let what = format!("record {sequence} is not what was signed");
                return Err(OperationError::LogAltered(what));
            }
        }
        Ok((hash, proof))
    }

    /// The hash of a leaf: that of its record, or where this was pruned, of its tile.
    async fn leaf_hash(&self, sequence: u64, size: u64) -> Result<Hash, OperationError> {
        let hash = self.store.leaf_hashes(sequence, 1).await;
        // Asked after the look: what is gone by now may have been gone before it.
        if sequence >= self.kept_from().await? {
            let hash = hash.map_err(altered)?.first().copied();
            return hash.ok_or(OperationError::EventNotFound);
        }
        let (level, number) = (0, sequence / TILE_WIDTH);
        let ids = [TileId { level, number }].into();
        let tiles = tiles::read(&self.store, &ids, size).await;
        let hashes = tiles.map_err(altered)?.into_values().next();
        // Below 256.
        let place = (sequence % TILE_WIDTH) as usize;
        let hash = hashes.and_then(|hashes| hashes.get(place).copied());
        hash.ok_or(OperationError::EventNotFound)
    }

    /// That the tree of one size begins with that of another.
    pub(crate) async fn consistency_proof(
        &self,
        credential: &Credential,
        first: u64,
        second: u64,
    ) -> Result<SizedProof, OperationError> {
        self.read(credential, "read_audit").await?;
        let second = self.tree_size("second_size", second).await?;
        let plan = Plan::consistency(first, second).ok_or_else(|| OperationError::Field {
            field: "first_size",
            why: format!("must be from 1 to the second size, which is {second}"),
        })?;
        let proof = self.sized(&plan, second).await;
        self.verified("consistency_proof", proof).await
    }

    /// A tile or entry bundle of the signed log; `None` where it has none of that name. Entry
    /// bundles say who did what: nobody reads them without a credential.
    pub(crate) async fn log_tile(
        &self,
        credential: &Credential,
        path: TilePath,
    ) -> Result<Option<Vec<u8>>, OperationError> {
        let tile = self.tile(credential, path).await;
        self.verified("tile", tile).await
    }

    async fn tile(
        &self,
        credential: &Credential,
        path: TilePath,
    ) -> Result<Option<Vec<u8>>, OperationError> {
        if path.level.is_none() || !self.public_log {
            self.read(credential, "read_audit").await?;
        }
        // Never beyond what is signed: that could still be another tree after a crash.
        let signed = self.store.latest_checkpoint().await?.map_or(0, |c| c.size);
        if path.width == 0 || path.width > width_in(signed, path.tile()) {
            return Ok(None);
        }
        if path.level.is_some() {
            let ids = [path.tile()].into();
            let tiles = tiles::read(&self.store, &ids, signed)
                .await
                .map_err(altered)?;
            let hashes = tiles.into_values().next().unwrap_or_default();
            let hashes = hashes.get(..usize::from(path.width)).unwrap_or_default();
            return Ok(Some(hashes.as_flattened().to_vec()));
        }
        let first = path.number * TILE_WIDTH;
        let leaves = self.store.leaves(first, path.width.into()).await;
        // Asked after the look, likewise.
        self.require_event(first).await?;
        let leaves = leaves.map_err(altered)?;
        let bytes = bundle(&leaves).filter(|_| leaves.len() == usize::from(path.width));
        let bytes = bytes.ok_or_else(|| OperationError::LogAltered(format!("bundle {path}")))?;
        Ok(Some(bytes))
    }

    /// The newest checkpoint, as beside the tiles.
    pub(crate) async fn log_checkpoint(
        &self,
        credential: &Credential,
    ) -> Result<StoredCheckpoint, OperationError> {
        if !self.public_log {
            self.read(credential, "read_audit").await?;
        }
        self.signed().await
    }

    async fn signed(&self) -> Result<StoredCheckpoint, OperationError> {
        let newest = self.store.latest_checkpoint().await?;
        newest.ok_or(OperationError::NotSigned)
    }

    /// The size that a request names, or that of the newest checkpoint.
    async fn tree_size(&self, field: &'static str, size: u64) -> Result<u64, OperationError> {
        let signed = self.signed().await?.size;
        match size {
            0 => Ok(signed),
            size if size <= signed => Ok(size),
            _ => Err(OperationError::Field {
                field,
                why: format!("is beyond the {signed} records that are signed"),
            }),
        }
    }

    async fn sized(&self, plan: &Plan, size: u64) -> Result<SizedProof, OperationError> {
        Ok(SizedProof {
            hashes: self.prove(plan, size).await?,
            size,
            checkpoint: self.store.checkpoint(size).await?,
        })
    }

    async fn prove(&self, plan: &Plan, size: u64) -> Result<Vec<Hash>, OperationError> {
        let proof = self.edge.prove(&self.store, plan, size).await;
        proof.map_err(altered)
    }

    /// Puts on record that something of the log did not verify, before the caller hears so.
    async fn verified<T>(
        &self,
        what: &'static str,
        result: Result<T, OperationError>,
    ) -> Result<T, OperationError> {
        if let Err(OperationError::LogAltered(why)) = &result {
            self.pdp.record_unverified(what, why).await;
        }
        result
    }

    fn open(&self, checkpoint: &StoredCheckpoint) -> Result<(u64, Hash), OperationError> {
        let opened = self.log_key.open(&checkpoint.note);
        opened.map_err(|error| OperationError::LogAltered(error.to_string()))
    }
}

/// What is missing of the log is no trouble with the database.
fn altered(error: StoreError) -> OperationError {
    match error {
        StoreError::Corrupt(what) => OperationError::LogAltered(what),
        error => error.into(),
    }
}
