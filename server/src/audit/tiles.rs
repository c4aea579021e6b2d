//! Tiles of the stored log. Full ones are rows, made by the signer before it signs a tree
//! that has them; those at the right edge are put together when they are asked for, out of
//! leaf hashes or of the roots of the tiles below. So nothing of a tile ever changes.
//!
//! Every row can be made again from the leaves, as long as those are kept: below what was
//! pruned, the rows are all that is left. What if we crash here: tiles are missing that the
//! next pass makes; what was signed does not depend on them.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use futures_util::future::try_join_all;

use super::merkle::Hash;
use super::proof::{Plan, Tiles};
use super::tile::{TILE_HEIGHT, hashes_at, subtree_root, width_in};
use crate::store::{SharedStore, StoreError, StoredTile, TILE_WIDTH, TILES_MAX, TileId};

/// The tiles of these names, as wide as the tree of `size` has them.
///
/// # Errors
/// [`StoreError::Corrupt`] where one cannot be had: the tree does not reach it, or a part of
/// it is gone.
pub async fn read(
    store: &SharedStore,
    ids: &BTreeSet<TileId>,
    size: u64,
) -> Result<Tiles, StoreError> {
    if ids.is_empty() {
        return Ok(Tiles::new());
    }
    let mut tiles = Tiles::new();
    // The narrow ones, too: a log that has grown since holds them as the beginning of full
    // ones, and holds nothing else of them where their leaves were pruned.
    let wanted: Vec<TileId> = ids.iter().copied().collect();
    for piece in wanted.chunks(TILES_MAX) {
        for mut tile in store.tiles(piece).await? {
            tile.hashes.truncate(width_in(size, tile.id).into());
            if !tile.hashes.is_empty() {
                tiles.insert(tile.id, tile.hashes);
            }
        }
    }
    let missing = ids.iter().filter(|id| !tiles.contains_key(id));
    // One of each level at most, so all at once.
    let made = missing.map(async |id| {
        let hashes = put_together(store, *id, width_in(size, *id)).await?;
        Ok::<_, StoreError>((*id, hashes))
    });
    tiles.extend(try_join_all(made.collect::<Vec<_>>()).await?);
    Ok(tiles)
}

/// The tiles at the right edge of the tree that proofs are asked in, put together once: all
/// proofs of a second are in the tree of one checkpoint. What is proved with them is compared
/// with what is signed, so one that is wrong gives no wrong proof.
#[derive(Debug, Default)]
pub struct Edge(Mutex<(u64, Tiles)>);

impl Edge {
    /// As [`read`], with what is known of the tree's edge.
    ///
    /// # Errors
    /// As [`read`].
    pub async fn read(
        &self,
        store: &SharedStore,
        ids: &BTreeSet<TileId>,
        size: u64,
    ) -> Result<Tiles, StoreError> {
        let at_edge = |id: &TileId| u64::from(width_in(size, *id)) < TILE_WIDTH;
        let known = {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match known.0 == size {
                true => known.1.clone(),
                false => Tiles::new(),
            }
        };
        let wanted = ids.iter().filter(|id| !known.contains_key(id)).copied();
        let mut tiles = read(store, &wanted.collect(), size).await?;
        let found = tiles.iter().filter(|(id, _)| at_edge(id));
        let found: Tiles = found.map(|(id, hashes)| (*id, hashes.clone())).collect();
        if !found.is_empty() {
            let mut edge = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if edge.0 < size {
                *edge = (size, Tiles::new());
            }
            if edge.0 == size {
                edge.1.extend(found);
            }
        }
        tiles.extend(known);
        Ok(tiles)
    }

    /// A proof in the tree of `size`.
    ///
    /// # Errors
    /// As [`read`].
    pub async fn prove(
        &self,
        store: &SharedStore,
        plan: &Plan,
        size: u64,
    ) -> Result<Vec<Hash>, StoreError> {
        from_tiles(plan, &self.read(store, &plan.tiles(), size).await?)
    }
}

/// A tile that is not stored, from what lies below.
async fn put_together(
    store: &SharedStore,
    id: TileId,
    width: u16,
) -> Result<Vec<Hash>, StoreError> {
    let first = id.number.saturating_mul(TILE_WIDTH);
    let hashes = match id.level {
        0 => store.leaf_hashes(first, width.into()).await,
        level => store.tile_roots(level - 1, first, width.into()).await,
    };
    match hashes {
        Ok(hashes) if !hashes.is_empty() && hashes.len() == usize::from(width) => Ok(hashes),
        Ok(_) | Err(StoreError::Corrupt(_)) => {
            let (level, number) = (id.level, id.number);
            Err(StoreError::Corrupt(format!(
                "hashes of the tile {level}/{number} are missing; see what `zta audit verify` says"
            )))
        }
        Err(error) => Err(error),
    }
}

/// A proof in the tree of `size`.
///
/// # Errors
/// As [`read`].
pub async fn prove(store: &SharedStore, plan: &Plan, size: u64) -> Result<Vec<Hash>, StoreError> {
    from_tiles(plan, &read(store, &plan.tiles(), size).await?)
}

fn from_tiles(plan: &Plan, tiles: &Tiles) -> Result<Vec<Hash>, StoreError> {
    let proof = plan.prove(tiles);
    proof.ok_or_else(|| StoreError::Corrupt("a tile is too narrow".to_owned()))
}

/// Makes the full tiles of a growing log.
#[derive(Debug, Default)]
pub struct TileBuilder {
    /// By level, how many tiles there are; unknown before the first pass.
    built: Option<Vec<u64>>,
}

impl TileBuilder {
    /// Stores every full tile that the tree of `size` has; how many were made.
    ///
    /// # Errors
    /// When the store fails, or leaves are missing.
    pub async fn extend(&mut self, store: &SharedStore, size: u64) -> Result<u64, StoreError> {
        let (mut built, pruned) = match self.built.take() {
            Some(built) => (built, 0),
            None => {
                let pruned = store.pruned().await?.map_or(0, |pruned| pruned.size);
                (stored_levels(store).await?, pruned)
            }
        };
        let mut made = 0;
        for level in 0..TILE_HEIGHT {
            let wanted = hashes_at(size, level + 1);
            if wanted == 0 {
                break;
            }
            let place = usize::from(level);
            built.resize(built.len().max(place + 1), 0);
            if level == 0 {
                // One that is missing there cannot be made: `zta audit verify` names it.
                built[place] = built[place].max(hashes_at(pruned, 1));
            }
            while built[place] < wanted {
                let end = wanted.min(built[place] + TILES_MAX as u64);
                let mut tiles = Vec::new();
                for number in built[place]..end {
                    tiles.push(full_tile(store, TileId { level, number }).await?);
                }
                store.put_tiles(&tiles).await?;
                made += tiles.len() as u64;
                built[place] = end;
            }
        }
        self.built = Some(built);
        Ok(made)
    }
}

async fn full_tile(store: &SharedStore, id: TileId) -> Result<StoredTile, StoreError> {
    let hashes = put_together(store, id, 256).await?;
    let root = subtree_root(&hashes);
    let root = root.ok_or_else(|| StoreError::Corrupt("a tile that is not full".to_owned()))?;
    Ok(StoredTile { id, root, hashes })
}

/// How many tiles of each level are there without a gap. A level with one is gone through
/// from its start again: rows that are there stay as they are.
async fn stored_levels(store: &SharedStore) -> Result<Vec<u64>, StoreError> {
    let mut built = Vec::new();
    for level in store.tile_levels().await? {
        built.resize(usize::from(level.level), 0);
        built.push(if level.count == level.end {
            level.end
        } else {
            0
        });
    }
    Ok(built)
}
