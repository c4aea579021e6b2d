//! Verifies what was pruned: the records are gone, and the hashes of their leaves are proved by
//! what is signed. That somebody pruned them must be on record, or they were deleted.

use std::ops::Range;

use uuid::Uuid;

use super::merkle::Hash;
use super::proof::{Plan, verify_inclusion};
use super::tile::subtree_root;
use super::tiles;
use super::verify::{Known, VerifyError, read_leaf};
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

/// That an event of the log says what `audit_pruned` does, and that nothing stands below.
/// What was read is verified; `known` signs what was not read.
///
/// # Errors
/// The act is not on record, so the records were deleted; or some of them stand still.
pub(super) async fn on_record(
    store: &SharedStore,
    log_id: Uuid,
    pruned: Pruned,
    known: Option<Known>,
) -> Result<(), VerifyError> {
    let size = pruned.size;
    let unsaid = || {
        VerifyError::Tree(format!(
            "the records below {size} are gone, and no `log_pruned` event says that they were \
             pruned: they were deleted"
        ))
    };
    let sequence = store.place(pruned.event_id).await?.ok_or_else(unsaid)?;
    let rows = store.read(sequence, 1).await?;
    let row = rows.first().filter(|row| row.sequence == sequence);
    let row = row.ok_or_else(unsaid)?;
    let bad = |what| VerifyError::Record { sequence, what };
    let (hash, event) = read_leaf(log_id, &row.leaf).map_err(bad)?;
    let said = event.detail.get("size").and_then(|size| size.as_str());
    if event.kind != EventType::LogPruned
        || event.id != pruned.event_id
        || said != Some(size.to_string().as_str())
    {
        return Err(unsaid());
    }
    if let Some(known) = known.filter(|known| sequence < known.size) {
        let plan = Plan::inclusion(sequence, known.size).ok_or_else(unsaid)?;
        let proof = tiles::prove(store, &plan, known.size).await?;
        if !verify_inclusion(sequence, known.size, hash, &proof, known.root) {
            return Err(bad("is not what was signed".to_owned()));
        }
    }
    nothing_below(store, size).await
}

/// # Errors
/// A record that was to go stands still.
async fn nothing_below(store: &SharedStore, size: u64) -> Result<(), VerifyError> {
    let first = store.read(0, 1).await?;
    match first.first().filter(|row| row.sequence < size) {
        None => Ok(()),
        Some(row) => Err(VerifyError::Record {
            sequence: row.sequence,
            what: format!(
                "stands still, and the records below {size} were pruned: nothing proves what it \
                 says; `zta audit prune` goes on with it"
            ),
        }),
    }
}
