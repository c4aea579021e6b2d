//! What proofs are made from: tiles of the tree, checkpoints by size, and whose turn it is to
//! sign the next one.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::{StoreError, StoredCheckpoint};

/// Hashes of a full tile (C2SP tlog-tiles).
pub const TILE_WIDTH: u64 = 256;
/// Tiles that are read or written by one statement.
pub const TILES_MAX: usize = 32;

/// Which tile of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// 0 holds leaf hashes; each hash of a level above is the root of a full tile below.
    pub level: u8,
    /// Its place in the level, from 0.
    pub number: u64,
}

/// A full tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTile {
    /// Which one.
    pub id: TileId,
    /// The root over its hashes.
    pub root: [u8; 32],
    /// Its [`TILE_WIDTH`] hashes.
    pub hashes: Vec<[u8; 32]>,
}

/// The tiles of a level as they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileLevel {
    /// Which level.
    pub level: u8,
    /// How many tiles of it are stored.
    pub count: u64,
    /// One more than the number of the last one.
    pub end: u64,
}

/// The turn to sign checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigningTurn {
    /// Whose it is: a name that a replica gives itself at its start.
    pub holder: Uuid,
    /// Grows with each change of hands; what is written under an older one is refused.
    pub term: u64,
}

/// Tiles, checkpoints and the turn to sign.
#[async_trait]
pub trait ProofStore: Send + Sync {
    /// Takes or keeps the turn to sign for `lifetime` by the database's clock; `None` while
    /// another one holds it.
    async fn claim_signing(
        &self,
        holder: Uuid,
        lifetime: Duration,
    ) -> Result<Option<SigningTurn>, StoreError>;
    /// Gives the turn back before its time, if it is still this one.
    async fn release_signing(&self, turn: SigningTurn) -> Result<(), StoreError>;
    /// Stores a checkpoint if the turn is still this one and no larger size is signed; else
    /// says `false`, and nothing is written. The same again is good.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where another one of that size is stored.
    async fn put_checkpoint(
        &self,
        checkpoint: &StoredCheckpoint,
        turn: SigningTurn,
    ) -> Result<bool, StoreError>;
    /// The checkpoint of a size.
    async fn checkpoint(&self, size: u64) -> Result<Option<StoredCheckpoint>, StoreError>;
    /// Where an event stands, if its commit can be seen.
    async fn place(&self, event_id: Uuid) -> Result<Option<u64>, StoreError>;
    /// The stored tiles of each level that has some, lowest level first.
    async fn tile_levels(&self) -> Result<Vec<TileLevel>, StoreError>;
    /// Those of these tiles that are stored, at most [`TILES_MAX`].
    async fn tiles(&self, ids: &[TileId]) -> Result<Vec<StoredTile>, StoreError>;
    /// Roots of the stored tiles of a level, from number `first` on, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where one is missing in between.
    async fn tile_roots(
        &self,
        level: u8,
        first: u64,
        limit: u32,
    ) -> Result<Vec<[u8; 32]>, StoreError>;
    /// Stores full tiles, at most [`TILES_MAX`]; those that are stored stay as they are.
    async fn put_tiles(&self, tiles: &[StoredTile]) -> Result<(), StoreError>;
    /// Hashes of the leaves from `first` on, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where one is missing in between.
    async fn leaf_hashes(&self, first: u64, limit: u32) -> Result<Vec<[u8; 32]>, StoreError>;
    /// Leaves from `first` on, at most `limit`.
    ///
    /// # Errors
    /// As [`ProofStore::leaf_hashes`].
    async fn leaves(&self, first: u64, limit: u32) -> Result<Vec<Vec<u8>>, StoreError>;
}
