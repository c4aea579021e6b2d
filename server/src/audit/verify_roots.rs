//! The roots of some sizes, as a tree grows past them.

use super::merkle::{Frontier, Hash};
use super::verify::Known;

/// The roots of the sizes that are signed, as the tree grows past them.
pub(super) struct Roots {
    signed: Option<u64>,
    known: Option<u64>,
    pruned: u64,
    pub(super) at_pruned: Option<Hash>,
    pub(super) at_checkpoint: Option<Hash>,
    pub(super) at_known: Option<Hash>,
}

impl Roots {
    pub(super) fn new(signed: Option<(u64, Hash)>, known: Option<Known>, pruned: u64) -> Self {
        Self {
            signed: signed.map(|(size, _)| size),
            known: known.map(|known| known.size),
            pruned,
            at_pruned: None,
            at_checkpoint: None,
            at_known: None,
        }
    }

    pub(super) fn look(&mut self, tree: &Frontier) {
        if self.signed == Some(tree.size()) {
            self.at_checkpoint = Some(tree.root());
        }
        if self.pruned == tree.size() {
            self.at_pruned = Some(tree.root());
        }
        if self.known == Some(tree.size()) {
            self.at_known = Some(tree.root());
        }
    }
}
