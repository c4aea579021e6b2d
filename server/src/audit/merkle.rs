//! The Merkle tree of RFC 6962, section 2.1, as pure functions over hashes. The tree is
//! never held: its frontier (the roots of the complete subtrees) is enough to append to
//! it and to compute its root.

use aws_lc_rs::digest;

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// The hash of a leaf: `SHA-256(0x00 || leaf)`.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    hash(&[&[0], leaf])
}

/// The hash of an inner node: `SHA-256(0x01 || left || right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    hash(&[&[1], left, right])
}

fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// The right edge of a tree: the roots of its complete subtrees, largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    roots: Vec<Hash>,
}

impl Frontier {
    /// The frontier of a stored tree; `None` when the roots do not fit the size.
    pub fn new(size: u64, roots: Vec<Hash>) -> Option<Self> {
        (roots.len() == size.count_ones() as usize).then_some(Self { size, roots })
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots, largest subtree first.
    pub fn roots(&self) -> &[Hash] {
        &self.roots
    }

    /// Appends a leaf by its hash. Two subtrees of one size become one of the next.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            // The size's ones are the roots, so there is one to pop for each.
            if let Some(left) = self.roots.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.roots.push(hash);
        self.size += 1;
    }

    /// Appends a complete subtree of 2^`level` leaves by its root. `None`, and nothing done,
    /// where one of that size cannot stand at this place.
    pub fn push_subtree(&mut self, level: u8, root: Hash) -> Option<()> {
        let leaves = 1_u64.checked_shl(level.into())?;
        if !self.size.is_multiple_of(leaves) {
            return None;
        }
        let mut hash = root;
        for _ in 0..(self.size >> level).trailing_ones() {
            if let Some(left) = self.roots.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.roots.push(hash);
        self.size += leaves;
        Some(())
    }

    /// The tree's root. That of an empty tree is the hash of nothing.
    pub fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev();
        let Some(&smallest) = roots.next() else {
            return hash(&[]);
        };
        roots.fold(smallest, |right, left| node_hash(left, &right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_another_implementation(leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..200)) {
            let mut oracle = MemoryBackedTree::<sha2::Sha256, Vec<u8>>::new();
            let mut frontier = Frontier::default();
            for leaf in leaves {
                frontier.push(leaf_hash(&leaf));
                oracle.push(leaf);
                let expected: Hash = oracle.root().as_bytes().as_slice().try_into().expect("32 bytes");
                prop_assert_eq!(frontier.root(), expected);
                prop_assert_eq!(frontier.roots().len(), frontier.size().count_ones() as usize);
            }
        }
    }

    #[test]
    fn the_empty_tree_has_the_hash_of_nothing() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex::encode(Frontier::default().root()), hex);
    }
}
