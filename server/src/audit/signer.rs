//! Who signs checkpoints: of all replicas the one whose turn it is, by a row of the store.
//!
//! Each checkpoint comes about in one order: take the turn; look what was signed last; make
//! the tiles; prove from them that the log as it stands begins with what was signed; sign;
//! store. What is shown to anybody is read from the store, so nothing is seen that is not
//! durable. A signer that lost its turn meanwhile (it slept, or the network did) stores
//! nothing: the row is written only under the turn that it was signed under.
//!
//! Ed25519 is deterministic, so signing a size twice gives the same bytes.
//! What if we crash here: the turn ends by the database's clock after [`TURN`], another
//! replica takes it, and signs the same tree or a larger one.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::checkpoint::{self, CheckpointError, VerifierKey};
use super::merkle::{Frontier, Hash};
use super::proof::{Plan, frontier, verify_consistency};
use super::tiles::{self, TileBuilder};
use crate::keys::SigningKey;
use crate::store::{LogHead, SharedStore, SigningTurn, StoreError, StoredCheckpoint};

/// How long a turn lasts that is not kept: the longest that a growing log goes unsigned when
/// its signer dies.
pub const TURN: Duration = Duration::from_secs(3);

/// Why a checkpoint was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The last checkpoint does not verify, or the key does not sign.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log is not the one that was signed; signing it would hide that.
    #[error(
        "the log of {size} records does not begin with the {signed} that were signed last: \
         somebody rewrote it or put an older state back; nothing is signed (`zta audit verify`)"
    )]
    Altered {
        /// Records of the log as it stands.
        size: u64,
        /// Records of the last checkpoint.
        signed: u64,
    },
}

/// What a pass came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Signed {
    /// A new checkpoint is stored.
    Stored(StoredCheckpoint),
    /// All is signed.
    Nothing,
    /// Another replica signs.
    NotOurTurn,
}

/// The signer of one replica.
pub struct Signer {
    store: SharedStore,
    key: Arc<dyn SigningKey>,
    verifier: VerifierKey,
    holder: Uuid,
    turn: Option<SigningTurn>,
    tiles: TileBuilder,
    /// The largest checkpoint that this process has seen: a store that has less lost some.
    seen: Option<(u64, Hash)>,
}

impl Signer {
    /// A signer that has not signed yet.
    ///
    /// # Errors
    /// When the key is not Ed25519.
    pub(crate) fn new(
        store: SharedStore,
        key: Arc<dyn SigningKey>,
        origin: &str,
    ) -> Result<Self, CheckpointError> {
        let verifier = VerifierKey::from_spki(origin.to_owned(), key.public_key_spki_der())?;
        Ok(Self {
            store,
            key,
            verifier,
            holder: Uuid::new_v4(),
            turn: None,
            tiles: TileBuilder::default(),
            seen: None,
        })
    }

    /// Signs the log as it stands, if there is something to sign and it is our turn.
    ///
    /// # Errors
    /// Why nothing could be signed.
    pub async fn advance(&mut self) -> Result<Signed, SignError> {
        let size = self.store.head().await?.size;
        if self.store.latest_checkpoint().await?.map_or(0, |c| c.size) == size {
            return Ok(Signed::Nothing);
        }
        let before = self.turn.take();
        let Some(turn) = self.store.claim_signing(self.holder, TURN).await? else {
            return Ok(Signed::NotOurTurn);
        };
        if before != Some(turn) {
            // Others may have made tiles meanwhile.
            self.tiles = TileBuilder::default();
        }
        self.turn = Some(turn);
        // Only now, so that all that was signed under other turns is seen. The checkpoint
        // first: the log only grows.
        let last = self.last().await?;
        let head = self.store.head().await?;
        if head.size == last.map_or(0, |(signed, _)| signed) {
            return Ok(Signed::Nothing);
        }
        let tree = self.proved(&head, last).await?;
        let checkpoint = checkpoint::sign(self.key.as_ref(), self.verifier.origin(), &tree)?;
        if !self.store.put_checkpoint(&checkpoint, turn).await? {
            self.turn = None;
            return Ok(Signed::NotOurTurn);
        }
        self.seen = Some((tree.size(), tree.root()));
        Ok(Signed::Stored(checkpoint))
    }

    /// The last checkpoint: of the store and of what this process saw, the larger one.
    async fn last(&mut self) -> Result<Option<(u64, Hash)>, SignError> {
        let stored = self.store.latest_checkpoint().await?;
        let stored = stored.map(|c| self.verifier.open(&c.note)).transpose()?;
        if stored.map(|(size, _)| size) > self.seen.map(|(size, _)| size) {
            self.seen = stored;
        }
        Ok(self.seen)
    }

    /// The tree of the head, when it is shown that it begins with what was signed last and
    /// that it is the tree of the leaves.
    async fn proved(
        &mut self,
        head: &LogHead,
        last: Option<(u64, Hash)>,
    ) -> Result<Frontier, SignError> {
        let altered = || SignError::Altered {
            size: head.size,
            signed: last.map_or(0, |(signed, _)| signed),
        };
        let tree = Frontier::new(head.size, head.frontier.clone()).ok_or_else(altered)?;
        self.tiles.extend(&self.store, head.size).await?;
        let (plan, known) = match last {
            Some(known) => {
                let plan = Plan::consistency(known.0, head.size).ok_or_else(altered)?;
                (plan, known)
            }
            None => {
                // Nothing was signed: at least the head must be the tree of the leaves.
                let plan = Plan::frontier(head.size);
                let tiles = tiles::read(&self.store, &plan.tiles(), head.size).await?;
                let fits = frontier(head.size, &tiles).is_some_and(|leaves| leaves == tree);
                return if fits { Ok(tree) } else { Err(altered()) };
            }
        };
        let proof = tiles::prove(&self.store, &plan, head.size).await?;
        if verify_consistency(known, (tree.size(), tree.root()), &proof) {
            Ok(tree)
        } else {
            Err(altered())
        }
    }

    /// Gives the turn back, so that another replica need not wait for its end.
    ///
    /// # Errors
    /// When the store fails; the turn then ends by itself.
    pub async fn release(&mut self) -> Result<(), StoreError> {
        match self.turn.take() {
            Some(turn) => self.store.release_signing(turn).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
