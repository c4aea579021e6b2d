//! A persistent map: a clone shares everything, and a change copies only the shard that it
//! is in. For what is read by every decision and changed by few administrative acts: a
//! reader keeps its version without a lock while the next one is made.
//!
//! Shards are plain hash maps behind `Arc`s. Against a trie this trades a costlier change
//! (one shard of n / [`SHARDS`] entries) for look-ups at the speed of a hash map and for
//! no memory beyond it, which counts at a million entries.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// How many shards a map has. A clone costs as many counter increments.
const SHARDS: usize = 1024;

/// A persistent map. Keys are hashed with a secret of each map family, because some are
/// chosen by callers.
#[derive(Debug)]
pub(super) struct Sharded<K, V, S = RandomState> {
    shards: Box<[Arc<HashMap<K, V, S>>]>,
    hasher: S,
    len: usize,
}

impl<K, V, S: Clone> Clone for Sharded<K, V, S> {
    fn clone(&self) -> Self {
        Self {
            shards: self.shards.clone(),
            hasher: self.hasher.clone(),
            len: self.len,
        }
    }
}

impl<K, V, S: BuildHasher + Clone + Default> Default for Sharded<K, V, S> {
    fn default() -> Self {
        let hasher = S::default();
        let empty = Arc::new(HashMap::with_hasher(hasher.clone()));
        Self {
            shards: vec![empty; SHARDS].into_boxed_slice(),
            hasher,
            len: 0,
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone, S: BuildHasher + Clone> Sharded<K, V, S> {
    /// The shard of a key. By the upper bits: the shard itself uses the lower ones.
    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        (self.hasher.hash_one(key) >> 32) as usize % SHARDS
    }

    /// The value of a key.
    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards.get(self.shard(key))?.get(key)
    }

    /// The key as it stands in the map, and its value.
    pub(super) fn get_key_value<Q>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards.get(self.shard(key))?.get_key_value(key)
    }

    /// A value that may be changed in place; copies the shard if another map shares it.
    pub(super) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let shard = self.shard(key);
        Arc::make_mut(self.shards.get_mut(shard)?).get_mut(key)
    }

    /// A value that may be changed in place, made if it is not there.
    pub(super) fn or_insert(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        let shard = self.shard(key);
        let shard = Arc::make_mut(&mut self.shards[shard]);
        match shard.entry(key.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.len += 1;
                entry.insert(make())
            }
        }
    }

    /// Puts a value in place of the one of the same key, which it returns.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let shard = self.shard(&key);
        let old = Arc::make_mut(self.shards.get_mut(shard)?).insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes a value out.
    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let shard = self.shard(key);
        let shard = self.shards.get_mut(shard)?;
        // Nothing is copied for a key that is not there.
        if !shard.contains_key(key) {
            return None;
        }
        let old = Arc::make_mut(shard).remove(key);
        self.len -= usize::from(old.is_some());
        old
    }

    /// How many entries it has.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All entries, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_version_stays_what_it_was(
            steps in prop::collection::vec((0u8..40, prop::option::of(any::<u8>())), 0..200),
        ) {
            let mut map: Sharded<u8, u8> = Sharded::default();
            let mut model: HashMap<u8, u8> = HashMap::new();
            let mut versions = Vec::new();
            for (key, value) in steps {
                versions.push((map.clone(), model.clone()));
                match value {
                    Some(value) => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    None => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                }
                if let Some(value) = map.get_mut(&key) {
                    *value = value.wrapping_add(1);
                }
                model.entry(key).and_modify(|v| *v = v.wrapping_add(1));
            }
            versions.push((map, model));
            for (map, model) in versions {
                prop_assert_eq!(map.len(), model.len());
                prop_assert_eq!(map.iter().map(|(k, v)| (*k, *v)).collect::<HashMap<_, _>>(), model.clone());
                prop_assert!(model.iter().all(|(k, v)| map.get(k) == Some(v)));
            }
        }
    }
}
