//! Tiles and entry bundles (C2SP tlog-tiles): how they are named, how wide they are in a tree
//! of some size, and how leaves are packed. Pure.

use std::fmt;
use std::str::FromStr;

use super::merkle::{Hash, node_hash};
use crate::store::{TILE_WIDTH, TileId};

/// Levels of the tree that a tile spans.
pub const TILE_HEIGHT: u8 = 8;

/// What a path below the log's prefix names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TilePath {
    /// The level of a hash tile; `None` for an entry bundle.
    pub level: Option<u8>,
    /// Its place in the level.
    pub number: u64,
    /// How many hashes or entries, 1 to 256.
    pub width: u16,
}

/// A path that names no tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the path of a tile: `<level>/<number>`, `entries/<number>`, or one of these with `.p/<width>`"
)]
pub struct TilePathError;

impl TilePath {
    /// The tile of the hashes that it has, or whose entries it has.
    pub fn tile(&self) -> TileId {
        TileId {
            level: self.level.unwrap_or(0),
            number: self.number,
        }
    }
}

/// As below `<prefix>/tile/`.
impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Some(level) => write!(f, "{level}/")?,
            None => f.write_str("entries/")?,
        }
        let mut groups = vec![self.number % 1000];
        let mut rest = self.number / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for group in groups[1..].iter().rev() {
            write!(f, "x{group:03}/")?;
        }
        write!(f, "{:03}", groups[0])?;
        if u64::from(self.width) < TILE_WIDTH {
            write!(f, ".p/{}", self.width)?;
        }
        Ok(())
    }
}

impl FromStr for TilePath {
    type Err = TilePathError;

    fn from_str(path: &str) -> Result<Self, TilePathError> {
        let (kind, rest) = path.split_once('/').ok_or(TilePathError)?;
        let level = match kind {
            "entries" => None,
            level => Some(level.parse().map_err(|_| TilePathError)?),
        };
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().map_err(|_| TilePathError)?),
            None => (rest, 256),
        };
        let mut parsed: u64 = 0;
        for group in number.split('/') {
            let digits = group.trim_start_matches('x');
            let group: u64 = digits.parse().map_err(|_| TilePathError)?;
            parsed = parsed
                .checked_mul(1000)
                .and_then(|n| n.checked_add(group))
                .ok_or(TilePathError)?;
        }
        let tile = Self {
            level,
            number: parsed,
            width,
        };
        // There is one way to write a path; the strict look is at what we would write.
        let good = tile.to_string() == path && (1..=256).contains(&width);
        let good = good && level.is_none_or(|level| level < 64);
        good.then_some(tile).ok_or(TilePathError)
    }
}

/// How many hashes of a level a tree has.
pub fn hashes_at(size: u64, level: u8) -> u64 {
    size.checked_shr(u32::from(level) * u32::from(TILE_HEIGHT))
        .unwrap_or(0)
}

/// How wide a tile is in a tree; 0 where the tree does not reach it.
pub fn width_in(size: u64, tile: TileId) -> u16 {
    let start = tile.number.saturating_mul(TILE_WIDTH);
    let width = hashes_at(size, tile.level).saturating_sub(start);
    // At most 256 fits.
    u16::try_from(width.min(TILE_WIDTH)).unwrap_or(0)
}

/// Every tile of a tree from a smaller one's on: what is needed beside that one's to have it
/// all, the tiles that hold its frontier included.
pub fn tiles_between(first: u64, second: u64) -> Vec<TilePath> {
    let mut tiles = Vec::new();
    for level in 0..TILE_HEIGHT {
        let (from, hashes) = (hashes_at(first, level), hashes_at(second, level));
        for number in from / TILE_WIDTH..hashes.div_ceil(TILE_WIDTH) {
            tiles.push(TilePath {
                level: Some(level),
                number,
                width: width_in(second, TileId { level, number }),
            });
        }
    }
    tiles
}

/// Every entry bundle of a tree from the one that a smaller one ends in.
pub fn bundles_between(first: u64, second: u64) -> Vec<TilePath> {
    let bundle = |number| TilePath {
        level: None,
        number,
        width: width_in(second, TileId { level: 0, number }),
    };
    let numbers = first / TILE_WIDTH..second.div_ceil(TILE_WIDTH);
    numbers.map(bundle).collect()
}

/// The root over the hashes of a complete subtree: a power of two of them.
pub fn subtree_root(hashes: &[Hash]) -> Option<Hash> {
    if !hashes.len().is_power_of_two() {
        return None;
    }
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        let (pairs, _) = row.as_chunks::<2>();
        row = pairs.iter().map(|[l, r]| node_hash(l, r)).collect();
    }
    row.first().copied()
}

/// A bundle: each leaf after its length in two bytes, the high one first. `None` where a leaf
/// is longer than that.
pub fn bundle(leaves: &[Vec<u8>]) -> Option<Vec<u8>> {
    let bytes = leaves.iter().map(|leaf| leaf.len() + 2).sum();
    let mut out = Vec::with_capacity(bytes);
    for leaf in leaves {
        let length = u16::try_from(leaf.len()).ok()?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(leaf);
    }
    Some(out)
}

/// The leaves of a bundle; `None` where it ends in the middle of one.
pub fn unbundle(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut leaves = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (leaf, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        leaves.push(leaf);
        bytes = rest;
    }
    Some(leaves)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_those_of_the_standard() {
        for (path, level, number, width) in [
            ("0/x001/x234/067", Some(0), 1_234_067, 256),
            ("entries/000", None, 0, 256),
            ("2/000.p/1", Some(2), 0, 1),
            ("entries/x001/000.p/255", None, 1000, 255),
            ("63/999", Some(63), 999, 256),
        ] {
            let tile = TilePath {
                level,
                number,
                width,
            };
            assert_eq!(
                (path.parse(), tile.to_string()),
                (Ok(tile), path.to_owned())
            );
        }
    }

    #[test]
    fn other_paths_are_refused() {
        for path in [
            "",
            "0",
            "0/",
            "0/1",
            "0/0001",
            "0/001.p/0",
            "0/001.p/256",
            "0/001.p/01",
            "00/001",
            "+1/001",
            "64/001",
            "0/x001",
            "0/001/002",
            "0/x000/001",
            "0/xx01/001",
            "0/-01",
            "x/001",
            "entries/../001",
            "0/001.p/1/",
            "0/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(path.parse::<TilePath>(), Err(TilePathError), "{path}");
        }
    }

    #[test]
    fn a_tree_of_70000_has_the_tiles_that_the_standard_counts() {
        let tiles = tiles_between(0, 70_000);
        let count = |level, full| {
            let of = tiles.iter().filter(|t| t.level == Some(level));
            of.filter(|t| (t.width == 256) == full).count()
        };
        assert_eq!((count(0, true), count(0, false)), (273, 1));
        assert_eq!((count(1, true), count(1, false)), (1, 1));
        assert_eq!((count(2, true), count(2, false)), (0, 1));
        let widths: Vec<u16> = tiles.iter().map(|t| t.width).filter(|w| *w < 256).collect();
        assert_eq!(widths, [112, 17, 1]);
        assert_eq!(bundles_between(0, 70_000).len(), 274);
        assert_eq!(tiles_between(0, 256).len(), 2);
        assert!(tiles_between(0, 0).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_bundled_comes_back(leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20), cut in 1_usize..3) {
            let bytes = bundle(&leaves).expect("short leaves");
            let back = unbundle(&bytes).expect("whole");
            prop_assert!(back.iter().copied().eq(leaves.iter().map(Vec::as_slice)));
            if leaves.last().is_some_and(|leaf| leaf.len() >= cut) {
                prop_assert_eq!(unbundle(&bytes[..bytes.len() - cut]), None);
            }
        }
    }
}
