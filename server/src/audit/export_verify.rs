//! Verifies an exported log without server or database: every leaf is hashed again and read,
//! every tile computed from those below, and the root compared with the signed one.
//!
//! Bundles are read by as many threads as there are processors; trees and tiles are put
//! together in order, so that the first bad record is the one that is named.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use uuid::Uuid;

use super::checkpoint::VerifierKey;
use super::export::{CHECKPOINT, FROM_CHECKPOINT, tile_file};
use super::merkle::{Frontier, Hash};
use super::proof::{self, Tiles};
use super::tile::{
    TILE_HEIGHT, TilePath, bundles_between, subtree_root, tiles_between, unbundle, width_in,
};
use super::verify::{Known, VerifyError, read_leaf};
use crate::store::{TILE_WIDTH, TileId};

/// Bundles that are in memory at once, for each thread.
const PIECE: usize = 16;
/// Bytes of the largest file: a bundle of the longest leaves that its format can hold.
const FILE_BYTES_MAX: u64 = TILE_WIDTH * (2 + 0xffff);

/// What was proved of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportProof {
    /// The log.
    pub log_id: Uuid,
    /// Records before the first one that is in it, taken from its earlier checkpoint.
    pub from: u64,
    /// Records that the checkpoint signs.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// The checkpoint's signed note.
    pub note: String,
}

/// Verifies an export, and that its log begins with what `known` signs.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(
    folder: &Path,
    key: &VerifierKey,
    known: Option<Known>,
) -> Result<ExportProof, VerifyError> {
    let note = text(folder, CHECKPOINT)?;
    let (size, root) = key.open(&note)?;
    let from = match folder.join(FROM_CHECKPOINT).exists() {
        true => Some(key.open(&text(folder, FROM_CHECKPOINT)?)?),
        false => None,
    };
    let first = from.map_or(0, |(size, _)| size);
    if let Some(known) = known {
        if known.size > size {
            known.compare(size, None)?;
        }
        if known.size < first {
            return Err(VerifyError::Unreadable(format!(
                "the export begins at record {first}, your checkpoint signs {} records: get \
                 an export from it on",
                known.size
            )));
        }
    }
    let export = Export {
        folder,
        log_id: log_id(key)?,
        first,
        size,
        hashes: read_tiles(folder, first, size)?,
        known,
    };
    export.begin(from)?;
    let tree = export.records()?;
    export.upper_tiles()?;
    if tree.root() != root {
        return Err(VerifyError::Tree(format!(
            "the {size} records are not those that the checkpoint signs"
        )));
    }
    Ok(ExportProof {
        log_id: export.log_id,
        from: first,
        size,
        root,
        note,
    })
}

/// The log's id ends the log's name.
fn log_id(key: &VerifierKey) -> Result<Uuid, VerifyError> {
    let id = key
        .origin()
        .rsplit('/')
        .next()
        .and_then(|id| id.parse().ok());
    id.ok_or_else(|| VerifyError::Unreadable("the key's name names no log of ours".to_owned()))
}

struct Export<'a> {
    folder: &'a Path,
    log_id: Uuid,
    first: u64,
    size: u64,
    hashes: Tiles,
    known: Option<Known>,
}

/// What a thread found of one bundle.
struct Bundle {
    path: TilePath,
    hashes: Vec<Hash>,
    ids: Vec<Uuid>,
    root: Option<Hash>,
}

impl Export<'_> {
    /// The tree of the records before the first one.
    fn start(&self) -> Option<Frontier> {
        proof::frontier(self.first, &self.hashes)
    }

    /// That tree has the root that was signed.
    fn begin(&self, from: Option<(u64, Hash)>) -> Result<(), VerifyError> {
        match from {
            Some((_, root)) if self.start().is_none_or(|tree| tree.root() != root) => {
                let first = self.first;
                Err(VerifyError::Tree(format!(
                    "the tiles of the first {first} records are not those that their \
                     checkpoint signs"
                )))
            }
            _ => Ok(()),
        }
    }

    fn records(&self) -> Result<Frontier, VerifyError> {
        let mut tree = self.start().unwrap_or_default();
        let mut ids = HashSet::new();
        self.at_known(&tree)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for piece in bundles_between(self.first, self.size).chunks(PIECE * threads) {
            let parts: Vec<Vec<Result<Bundle, VerifyError>>> = std::thread::scope(|scope| {
                let share = piece.len().div_ceil(threads);
                let parts: Vec<_> = piece
                    .chunks(share)
                    .map(|part| scope.spawn(|| part.iter().map(|p| self.bundle(*p)).collect()))
                    .collect();
                parts
                    .into_iter()
                    .filter_map(|part| part.join().ok())
                    .collect()
            });
            let bundles: Vec<_> = parts.into_iter().flatten().collect();
            if bundles.len() != piece.len() {
                let text = "a thread of the verification ended";
                return Err(VerifyError::Unreadable(text.to_owned()));
            }
            for bundle in bundles {
                self.add(&bundle?, &mut tree, &mut ids)?;
            }
        }
        Ok(tree)
    }

    /// Reads a bundle: each leaf must be one of this log and have the hash of its tile.
    fn bundle(&self, path: TilePath) -> Result<Bundle, VerifyError> {
        let start = path.number * TILE_WIDTH;
        let bytes = read(self.folder, &tile_file(path))?;
        let leaves = unbundle(&bytes).unwrap_or_default();
        let tile = self.hashes.get(&path.tile()).map_or(&[][..], Vec::as_slice);
        let mut bundle = Bundle {
            path,
            hashes: Vec::with_capacity(leaves.len()),
            ids: Vec::with_capacity(leaves.len()),
            root: None,
        };
        for (sequence, leaf) in (start..).zip(&leaves) {
            let bad = |what: String| VerifyError::Record { sequence, what };
            let (hash, event) = read_leaf(self.log_id, leaf).map_err(bad)?;
            if tile.get(bundle.hashes.len()) != Some(&hash) {
                return Err(bad(
                    "the leaf does not have the hash that its tile says".into()
                ));
            }
            bundle.hashes.push(hash);
            bundle.ids.push(event.id);
        }
        if leaves.len() != usize::from(path.width) {
            let sequence = start + leaves.len() as u64;
            let what = format!("is missing, or not whole, in the bundle {path}");
            return Err(VerifyError::Record { sequence, what });
        }
        bundle.root = subtree_root(&bundle.hashes);
        Ok(bundle)
    }

    fn add(
        &self,
        bundle: &Bundle,
        tree: &mut Frontier,
        ids: &mut HashSet<Uuid>,
    ) -> Result<(), VerifyError> {
        let start = bundle.path.number * TILE_WIDTH;
        let skipped = tree.size() - start;
        for (sequence, id) in (start..).zip(&bundle.ids).skip(skipped as usize) {
            if !ids.insert(*id) {
                let what = "an event of the same id stands earlier in the log".to_owned();
                return Err(VerifyError::Record { sequence, what });
            }
        }
        let end = start + u64::from(bundle.path.width);
        let passes = self
            .known
            .is_some_and(|k| k.size > tree.size() && k.size < end);
        if let (0, 256, false, Some(root)) = (skipped, bundle.path.width, passes, bundle.root) {
            // In its place by the order of bundles.
            if tree.push_subtree(TILE_HEIGHT, root).is_some() {
                return self.at_known(tree);
            }
        }
        for hash in bundle.hashes.iter().skip(skipped as usize) {
            tree.push(*hash);
            self.at_known(tree)?;
        }
        Ok(())
    }

    fn at_known(&self, tree: &Frontier) -> Result<(), VerifyError> {
        match self.known {
            Some(known) if known.size == tree.size() => known.compare(self.size, Some(tree.root())),
            _ => Ok(()),
        }
    }

    /// Each hash above level 0 is the root of its tile below.
    fn upper_tiles(&self) -> Result<(), VerifyError> {
        let mut roots: HashMap<TileId, Hash> = HashMap::new();
        for (id, hashes) in &self.hashes {
            if let Some(root) = subtree_root(hashes).filter(|_| hashes.len() == 256) {
                roots.insert(*id, root);
            }
        }
        for (id, hashes) in self.hashes.iter().filter(|(id, _)| id.level > 0) {
            let below = (id.number * TILE_WIDTH..).zip(hashes);
            for (number, hash) in below {
                let level = id.level - 1;
                let lower = TileId { level, number };
                if roots.get(&lower).is_some_and(|root| root != hash) {
                    let (start, bits) = (number, u32::from(TILE_HEIGHT) * u32::from(id.level));
                    return Err(VerifyError::Tree(format!(
                        "the records from {} on: the tile {}/{} does not have the root that \
                         the tile above says",
                        start << bits,
                        level,
                        number
                    )));
                }
            }
        }
        Ok(())
    }
}

fn read_tiles(folder: &Path, first: u64, size: u64) -> Result<Tiles, VerifyError> {
    let mut tiles = Tiles::new();
    for path in tiles_between(first, size) {
        let bytes = read(folder, &tile_file(path))?;
        let (hashes, rest) = bytes.as_chunks::<32>();
        let width = usize::from(width_in(size, path.tile()));
        if !rest.is_empty() || hashes.len() != width {
            return Err(VerifyError::Tree(format!(
                "the tile {path} has another length"
            )));
        }
        tiles.insert(path.tile(), hashes.to_vec());
    }
    Ok(tiles)
}

fn text(folder: &Path, name: &str) -> Result<String, VerifyError> {
    let bytes = read(folder, name)?;
    String::from_utf8(bytes).map_err(|_| VerifyError::Unreadable(format!("`{name}` is no text")))
}

fn read(folder: &Path, name: &str) -> Result<Vec<u8>, VerifyError> {
    use std::io::Read as _;
    let path = folder.join(name);
    let unread = |error| VerifyError::Unreadable(format!("`{}`: {error}", path.display()));
    let file = std::fs::File::open(&path).map_err(unread)?;
    let mut bytes = Vec::new();
    let mut bounded = file.take(FILE_BYTES_MAX + 1);
    bounded.read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unread(std::io::Error::other("is longer than any tile")));
    }
    Ok(bytes)
}
