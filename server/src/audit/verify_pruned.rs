//! Verifies what was pruned: the records are gone, and the hashes of their leaves are proved by
//! what is signed. That they were pruned must be on record, signed by the log's key, or they
//! were deleted.

use std::ops::Range;

use serde_json::Value;
use uuid::Uuid;

use super::checkpoint::VerifierKey;
use super::merkle::{Hash, leaf_hash};
use super::proof::{Plan, verify_consistency, verify_inclusion};
use super::tile::subtree_root;
use super::tiles;
use super::verify::{VerifyError, read_leaf};
use crate::model::EventType;
use crate::store::{Pruned, SharedStore, TILE_WIDTH, TILES_MAX, TileId};

/// Tells the hashes of these leaves, in order, as the tiles have them. Whether they are the
/// ones that were signed shows in the tree that they give.
///
/// # Errors
/// A tile is missing or does not have its root; nothing signs so many records.
pub(super) async fn leaf_hashes(
    store: &SharedStore,
    leaves: Range<u64>,
    signed: Option<u64>,
    mut tell: impl FnMut(u64, Hash),
) -> Result<(), VerifyError> {
    if leaves.is_empty() {
        return Ok(());
    }
    let end = leaves.end;
    if signed.unwrap_or(0) < end {
        let what = format!("the records below {end} were pruned, and no checkpoint signs them");
        return Err(VerifyError::Tree(what));
    }
    let numbers: Vec<u64> = (leaves.start / TILE_WIDTH..end.div_ceil(TILE_WIDTH)).collect();
    for piece in numbers.chunks(TILES_MAX) {
        let ids: Vec<TileId> = piece
            .iter()
            .map(|number| TileId {
                level: 0,
                number: *number,
            })
            .collect();
        let stored = store.tiles(&ids).await?;
        for id in ids {
            let tile = stored.iter().find(|tile| tile.id == id);
            let tile = tile.filter(|tile| subtree_root(&tile.hashes) == Some(tile.root));
            let tile = tile.ok_or_else(|| lost(id.number))?;
            let start = id.number * TILE_WIDTH;
            for (sequence, hash) in (start..).zip(&tile.hashes) {
                if leaves.contains(&sequence) {
                    tell(sequence, *hash);
                }
            }
        }
    }
    Ok(())
}

fn lost(number: u64) -> VerifyError {
    let first = number * TILE_WIDTH;
    VerifyError::Tree(format!(
        "the tile 0/{number} is missing or altered, and the records {first} to {} that it proves \
         were pruned: its row of `log_tiles` can only come back from a backup or an export",
        first + TILE_WIDTH - 1
    ))
}

/// The act by which records were pruned.
pub(super) struct Act {
    /// Where it stands in the log, and the hash of its leaf.
    sequence: u64,
    leaf: Hash,
    /// The root of the tree of what was pruned, as the log's key signed it.
    root: Hash,
}

/// The act that `audit_pruned` names. That it is what was signed, and that its root is that of
/// the log, is for the caller to see.
///
/// # Errors
/// There is none of this log and key that says so: the records were deleted.
pub(super) async fn act(
    store: &SharedStore,
    log_id: Uuid,
    key: &VerifierKey,
    pruned: Pruned,
) -> Result<Act, VerifyError> {
    let sequence = store.place(pruned.event_id).await?;
    let sequence = sequence.ok_or_else(|| unsaid(pruned))?;
    let rows = store.read(sequence, 1).await?;
    let row = rows.first().filter(|row| row.sequence == sequence);
    let row = row.ok_or_else(|| unsaid(pruned))?;
    let bad = |what| VerifyError::Record { sequence, what };
    let (leaf, event) = read_leaf(log_id, &row.leaf).map_err(bad)?;
    if event.kind != EventType::LogPruned || event.id != pruned.event_id {
        return Err(unsaid(pruned));
    }
    let statement = event.detail.get("statement").and_then(Value::as_str);
    let opened = key.open_pruned(statement.unwrap_or_default());
    match opened {
        Ok((size, root)) if size == pruned.size => Ok(Act {
            sequence,
            leaf,
            root,
        }),
        _ => Err(unsaid(pruned)),
    }
}

impl Act {
    /// That the root is that of the log, whose tree of a larger size is known.
    ///
    /// # Errors
    /// It is not.
    pub(super) async fn fits(
        &self,
        store: &SharedStore,
        pruned: Pruned,
        (size, root): (u64, Hash),
    ) -> Result<(), VerifyError> {
        let plan = Plan::consistency(pruned.size, size).ok_or_else(|| unsaid(pruned))?;
        let proof = tiles::prove(store, &plan, size).await?;
        match verify_consistency((pruned.size, self.root), (size, root), &proof) {
            true => Ok(()),
            false => Err(unsaid(pruned)),
        }
    }

    /// That it is in the tree of a size, where that reaches it.
    ///
    /// # Errors
    /// It is not what was signed.
    async fn is_in(
        &self,
        store: &SharedStore,
        (size, root): (u64, Hash),
    ) -> Result<(), VerifyError> {
        let Some(plan) = Plan::inclusion(self.sequence, size) else {
            return Ok(());
        };
        let proof = tiles::prove(store, &plan, size).await?;
        match verify_inclusion(self.sequence, size, self.leaf, &proof, root) {
            true => Ok(()),
            false => Err(VerifyError::Record {
                sequence: self.sequence,
                what: "is not what was signed".to_owned(),
            }),
        }
    }
}

/// That the log's key signed what `audit_pruned` says, in an event of the log, and that nothing
/// stands below. `root` is that of the tree of what was pruned, where it was computed; else
/// `known` is a later tree that was verified before.
///
/// # Errors
/// The act is not on record, so the records were deleted; or some of them stand still.
pub(super) async fn on_record(
    store: &SharedStore,
    act: &Act,
    pruned: Pruned,
    root: Option<Hash>,
    known: Option<(u64, Hash)>,
) -> Result<(), VerifyError> {
    match (root, known) {
        (Some(root), _) if root == act.root => {}
        (None, Some(known)) => act.fits(store, pruned, known).await?,
        _ => return Err(unsaid(pruned)),
    }
    // What was read is verified; what was not is what was verified before.
    if let Some(known) = known {
        act.is_in(store, known).await?;
    }
    nothing_below(store, pruned.size).await
}

fn unsaid(pruned: Pruned) -> VerifyError {
    let size = pruned.size;
    VerifyError::Tree(format!(
        "the records below {size} are gone, and no `log_pruned` event that the log's key signed \
         says that they were pruned: they were deleted"
    ))
}

/// # Errors
/// A record that was to go stands still, or one that never was in the log stands in its place.
async fn nothing_below(store: &SharedStore, size: u64) -> Result<(), VerifyError> {
    let first = store.read(0, 1).await?;
    let Some(row) = first.first().filter(|row| row.sequence < size) else {
        return Ok(());
    };
    let sequence = row.sequence;
    let number = sequence / TILE_WIDTH;
    let tiles = store.tiles(&[TileId { level: 0, number }]).await?;
    // Below 256.
    let place = (sequence % TILE_WIDTH) as usize;
    let hash = tiles.first().and_then(|tile| tile.hashes.get(place));
    match hash == Some(&leaf_hash(&row.leaf)) {
        true => Err(VerifyError::Standing { sequence, size }),
        false => Err(VerifyError::Record {
            sequence,
            what: "was pruned, and stands there with another leaf than was signed".to_owned(),
        }),
    }
}
