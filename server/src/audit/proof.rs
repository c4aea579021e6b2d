//! Inclusion and consistency proofs (RFC 6962, 2.1.1 and 2.1.2): which tiles one takes, what
//! it is made of, and how it is verified. Pure: tiles are fetched between [`Plan::tiles`] and
//! [`Plan::prove`], so that a proof costs a few reads in a log of any size.

use std::collections::{BTreeMap, BTreeSet};

use super::merkle::{Frontier, Hash, node_hash};
use super::tile::{TILE_HEIGHT, subtree_root};
use crate::store::{TILE_WIDTH, TileId};

/// Tiles by their names. One at the right edge has as many hashes as the tree gives it.
pub type Tiles = BTreeMap<TileId, Vec<Hash>>;

/// Leaves `start..end`, over which the tree has a hash.
type Range = (u64, u64);

/// The ranges whose hashes make a proof, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    ranges: Vec<Range>,
}

/// The largest power of two below `n`, which is 2 or more.
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

impl Plan {
    /// That leaf `index` is in the tree of `size`; `None` where it is not.
    pub fn inclusion(index: u64, size: u64) -> Option<Self> {
        if index >= size {
            return None;
        }
        let (mut start, mut end) = (0, size);
        let mut ranges = Vec::new();
        while end - start > 1 {
            let middle = start + split(end - start);
            if index < middle {
                ranges.push((middle, end));
                end = middle;
            } else {
                ranges.push((start, middle));
                start = middle;
            }
        }
        ranges.reverse();
        Some(Self { ranges })
    }

    /// That the tree of `second` begins with that of `first`; `None` where there is no such
    /// proof: `first` is 0 or larger.
    pub fn consistency(first: u64, second: u64) -> Option<Self> {
        if first == 0 || first > second {
            return None;
        }
        let (mut start, mut end) = (0, second);
        let mut ranges = Vec::new();
        // Until what is left is a complete subtree that the smaller tree ends with.
        while end != first {
            let middle = start + split(end - start);
            if first <= middle {
                ranges.push((middle, end));
                end = middle;
            } else {
                ranges.push((start, middle));
                start = middle;
            }
        }
        // The whole smaller tree is known to who asks.
        if start != 0 {
            ranges.push((start, end));
        }
        ranges.reverse();
        Some(Self { ranges })
    }

    /// The complete subtrees of a tree, largest first: its frontier.
    pub fn frontier(size: u64) -> Self {
        let ranges = nodes((0, size));
        let ranges = ranges.into_iter().map(Node::range).collect();
        Self { ranges }
    }

    /// The tiles that it takes.
    pub fn tiles(&self) -> BTreeSet<TileId> {
        let ranges = self.ranges.iter().copied();
        ranges.flat_map(nodes).map(|node| node.place().0).collect()
    }

    /// The hashes; `None` where a tile is missing or too narrow.
    pub fn prove(&self, tiles: &Tiles) -> Option<Vec<Hash>> {
        let ranges = self.ranges.iter();
        ranges.map(|range| range_hash(*range, tiles)).collect()
    }
}

/// The frontier of the tree of a size, from tiles.
pub fn frontier(size: u64, tiles: &Tiles) -> Option<Frontier> {
    Frontier::new(size, Plan::frontier(size).prove(tiles)?)
}

/// The root of a complete subtree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    /// It spans 2^level leaves.
    level: u8,
    /// Its place in the level.
    index: u64,
}

impl Node {
    fn range(self) -> Range {
        let start = self.index << self.level;
        (start, start + (1 << self.level))
    }

    /// The tile that it is computed from, and which hashes of it.
    fn place(self) -> (TileId, std::ops::Range<usize>) {
        let below = self.level % TILE_HEIGHT;
        let first = self.index << below;
        let tile = TileId {
            level: self.level / TILE_HEIGHT,
            number: first / TILE_WIDTH,
        };
        // Below 256.
        let offset = (first % TILE_WIDTH) as usize;
        (tile, offset..offset + (1 << below))
    }
}

/// The complete subtrees that leaves `start..end` are made of, from the left. Ranges of
/// proofs begin where a subtree as large as themselves could.
fn nodes((mut start, end): Range) -> Vec<Node> {
    let mut nodes = Vec::new();
    while start < end {
        let level = (end - start).ilog2();
        nodes.push(Node {
            level: level as u8,
            index: start >> level,
        });
        start += 1 << level;
    }
    nodes
}

fn range_hash(range: Range, tiles: &Tiles) -> Option<Hash> {
    let mut hash = None;
    for node in nodes(range).into_iter().rev() {
        let (tile, place) = node.place();
        let left = subtree_root(tiles.get(&tile)?.get(place)?)?;
        hash = Some(hash.map_or(left, |right| node_hash(&left, &right)));
    }
    hash
}

/// Whether a proof leads from a leaf's hash to a root.
pub fn verify_inclusion(index: u64, size: u64, leaf: Hash, proof: &[Hash], root: Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut place, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            hash = node_hash(sibling, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && hash == root
}

/// Whether a proof shows that the tree of `second` begins with that of `first`.
pub fn verify_consistency(
    (first, first_root): (u64, Hash),
    (second, second_root): (u64, Hash),
    proof: &[Hash],
) -> bool {
    if first == 0 || first > second {
        return false;
    }
    if first == second {
        return proof.is_empty() && first_root == second_root;
    }
    let mut hashes = proof.iter().copied();
    let seed = if first.is_power_of_two() {
        Some(first_root)
    } else {
        hashes.next()
    };
    let Some(seed) = seed else { return false };
    let (mut place, mut last) = (first - 1, second - 1);
    while place & 1 == 1 {
        place >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (seed, seed);
    for hash in hashes {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            old = node_hash(&hash, &old);
            new = node_hash(&hash, &new);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, &hash);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && old == first_root && new == second_root
}

#[cfg(test)]
mod tests {
    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use proptest::prelude::*;

    use super::*;
    use crate::audit::merkle::leaf_hash;
    use crate::audit::tile::{tiles_between, width_in};

    fn leaf(n: u64) -> Vec<u8> {
        n.to_be_bytes().to_vec()
    }

    fn tree(size: u64) -> Frontier {
        let mut tree = Frontier::default();
        (0..size).for_each(|n| tree.push(leaf_hash(&leaf(n))));
        tree
    }

    /// The tiles of a tree, as they would be stored.
    fn tiles(size: u64) -> Tiles {
        let mut tiles = Tiles::new();
        for path in tiles_between(0, size) {
            let id = path.tile();
            let first = id.number * TILE_WIDTH;
            let hashes = (first..first + u64::from(path.width)).map(|n| match id.level {
                0 => leaf_hash(&leaf(n)),
                level => {
                    let below = TileId {
                        level: level - 1,
                        number: n,
                    };
                    subtree_root(&tiles[&below]).expect("a full tile")
                }
            });
            let hashes = hashes.collect();
            tiles.insert(id, hashes);
        }
        tiles
    }

    const SIZES: [u64; 14] = [
        1, 2, 3, 7, 8, 255, 256, 257, 511, 512, 600, 65_535, 65_536, 66_000,
    ];

    #[test]
    fn proofs_from_tiles_are_those_of_another_implementation() {
        for size in SIZES.into_iter().filter(|size| *size < 1000) {
            let mut oracle = MemoryBackedTree::<sha2::Sha256, Vec<u8>>::new();
            (0..size).for_each(|n| oracle.push(leaf(n)));
            let tiles = tiles(size);
            for index in [0, 1, size / 3, size / 2, size - 1] {
                let Some(plan) = Plan::inclusion(index, size) else {
                    continue;
                };
                let expected = oracle.prove_inclusion(index as usize);
                let proof = plan.prove(&tiles).expect("all tiles");
                assert_eq!(proof.concat(), expected.as_bytes(), "{index} of {size}");
            }
            for additions in [0, 1, size / 3, size / 2].into_iter().filter(|a| *a < size) {
                let expected = oracle.prove_consistency(additions as usize);
                let plan = Plan::consistency(size - additions, size).expect("a proof");
                let proof = plan.prove(&tiles).expect("all tiles");
                assert_eq!(proof.concat(), expected.as_bytes(), "{additions} to {size}");
            }
        }
    }

    #[test]
    fn few_tiles_make_a_proof_in_a_large_log() {
        for (index, size) in [(0, 1_000_000), (999_999, 1_000_000), (1 << 39, 1 << 40)] {
            let plan = Plan::inclusion(index, size).expect("within");
            assert!(plan.tiles().len() <= 10, "{:?}", plan.tiles());
            let plan = Plan::consistency(index + 1, size).expect("within");
            assert!(plan.tiles().len() <= 10, "{:?}", plan.tiles());
            assert!(plan.tiles().iter().all(|tile| width_in(size, *tile) > 0));
        }
    }

    #[test]
    fn what_is_proved_verifies_and_nothing_else_does() {
        for size in SIZES {
            let (tiles, root) = (tiles(size), tree(size).root());
            assert_eq!(frontier(size, &tiles), Some(tree(size)));
            for index in [0, size / 3, size / 2, size - 1] {
                let plan = Plan::inclusion(index, size).expect("within");
                let proof = plan.prove(&tiles).expect("all tiles");
                let hash = leaf_hash(&leaf(index));
                let holds = |i, s, h, p: &[Hash], r| verify_inclusion(i, s, h, p, r);
                assert!(holds(index, size, hash, &proof, root));
                assert!(!holds(index, size, leaf_hash(b"x"), &proof, root));
                assert!(!holds(index, size, hash, &proof, [7; 32]));
                assert!(!holds(size, size, hash, &proof, root));
                let longer = [&proof[..], &[[0; 32]]].concat();
                assert!(!holds(index, size, hash, &longer, root));
                if let Some((_, shorter)) = proof.split_last() {
                    assert!(!holds(index, size, hash, shorter, root));
                    assert!(!holds(index ^ 1, size, hash, &proof, root));
                }
            }
            for first in [1, 2, size / 3, size / 2, size - 1, size] {
                let Some(plan) = Plan::consistency(first, size) else {
                    continue;
                };
                let proof = plan.prove(&tiles).expect("all tiles");
                let (old, new) = ((first, tree(first).root()), (size, root));
                assert!(verify_consistency(old, new, &proof), "{first} to {size}");
                assert!(!verify_consistency((first, [7; 32]), new, &proof));
                assert!(!verify_consistency(old, (size, [7; 32]), &proof));
                let longer = [&proof[..], &[[0; 32]]].concat();
                assert!(!verify_consistency(old, new, &longer));
                if let Some((_, shorter)) = proof.split_last() {
                    assert!(!verify_consistency(old, new, shorter));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_changed_hash_is_no_proof(size in 2_u64..600, index in 0_u64..600, at in any::<prop::sample::Index>()) {
            let index = index % size;
            let (tiles, root) = (tiles(size), tree(size).root());
            let mut proof = Plan::inclusion(index, size).expect("within").prove(&tiles).expect("tiles");
            at.get_mut(&mut proof)[3] ^= 1;
            prop_assert!(!verify_inclusion(index, size, leaf_hash(&leaf(index)), &proof, root));
            let first = index.max(1);
            let mut proof = Plan::consistency(first, size).expect("within").prove(&tiles).expect("tiles");
            if !proof.is_empty() {
                at.get_mut(&mut proof)[3] ^= 1;
                let (old, new) = ((first, tree(first).root()), (size, root));
                prop_assert!(!verify_consistency(old, new, &proof));
            }
        }
    }
}
