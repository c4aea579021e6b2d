//! Compares the stored tiles with those that the leaves give.

use super::merkle::Hash;
use super::tile::{hashes_at, subtree_root};
use super::verify::VerifyError;
use crate::store::{SharedStore, TILE_WIDTH, TILES_MAX, TileId};

/// The roots of the full tiles of level 0, as leaves go by.
#[derive(Default)]
pub(super) struct TileRoots {
    /// The first tile whose leaves all went by.
    first: u64,
    hashes: Vec<Hash>,
    roots: Vec<Hash>,
}

impl TileRoots {
    /// From the leaf of this place on.
    pub(super) fn new(start: u64) -> Self {
        Self {
            first: start.div_ceil(TILE_WIDTH),
            ..Self::default()
        }
    }

    pub(super) fn push(&mut self, sequence: u64, hash: Hash) {
        if sequence < self.first * TILE_WIDTH {
            return;
        }
        self.hashes.push(hash);
        if self.hashes.len() as u64 == TILE_WIDTH {
            self.roots.extend(subtree_root(&self.hashes));
            self.hashes.clear();
        }
    }

    /// Each stored tile whose leaves went by must be what they give. Those of records below
    /// `pruned` cannot be made again.
    pub(super) async fn compare(self, store: &SharedStore, pruned: u64) -> Result<(), VerifyError> {
        let (mut first, mut roots, mut level) = (self.first, self.roots, 0);
        while !roots.is_empty() {
            let ids = (first..).map(|number| TileId { level, number });
            let all: Vec<(TileId, Hash)> = ids.zip(roots.iter().copied()).collect();
            for piece in all.chunks(TILES_MAX) {
                let ids: Vec<TileId> = piece.iter().map(|(id, _)| *id).collect();
                for tile in store.tiles(&ids).await? {
                    let expected = piece.iter().find(|(id, _)| *id == tile.id);
                    let expected = expected.map(|(_, root)| *root);
                    let hashed = subtree_root(&tile.hashes);
                    if expected != Some(tile.root) || hashed != expected {
                        let lost = level == 0 && tile.id.number < hashes_at(pruned, 1);
                        return Err(differs(tile.id, lost));
                    }
                }
            }
            // Those of the next level whose tiles below were all seen.
            let skipped = (first.div_ceil(TILE_WIDTH) * TILE_WIDTH - first) as usize;
            let (tiles, _) = roots.get(skipped..).unwrap_or_default().as_chunks::<256>();
            roots = tiles
                .iter()
                .filter_map(|hashes| subtree_root(hashes))
                .collect();
            first = first.div_ceil(TILE_WIDTH);
            level += 1;
        }
        Ok(())
    }
}

/// A stored tile is not what those below it give.
fn differs(id: TileId, lost: bool) -> VerifyError {
    let (level, number) = (id.level, id.number);
    let what_to_do = match lost {
        true => "its records were pruned, so its row can only come back from a backup or an export",
        false => "delete its row of `log_tiles`, a start of the server makes it again",
    };
    VerifyError::Tree(format!(
        "the stored tile {level}/{number} is not what its leaves give; {what_to_do}"
    ))
}
