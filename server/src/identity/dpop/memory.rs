//! The proofs that were used, until their nonces end. Nothing is evicted to make room: a
//! proof that was forgotten too early could be used again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;

use super::nonce::NonceTime;
use super::{DpopError, NONCE_LIFETIME};

/// Proofs are forgotten by the bucket, once the last nonce of a bucket has expired.
const BUCKET_MS: i64 = 5_000;

/// The used proofs of this replica.
pub(super) struct UsedProofs {
    max: usize,
    per_key_max: u32,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    /// By the time of their nonce; within a bucket by the key's thumbprint.
    buckets: BTreeMap<i64, HashMap<[u8; 32], HashSet<[u8; 32]>>>,
    per_key: HashMap<[u8; 32], u32>,
    count: usize,
    /// Buckets below it were forgotten: should the clock step back, what belongs there is
    /// refused, until the clock has caught up or the server starts anew.
    forgotten: i64,
}

impl UsedProofs {
    /// A memory for at most `max` proofs, and `per_key_max` of one key.
    pub(super) fn new(max: usize, per_key_max: u32) -> Self {
        Self {
            max,
            per_key_max,
            used: Mutex::new(Used {
                forgotten: i64::MIN,
                ..Used::default()
            }),
        }
    }

    /// Remembers the use of a proof, which must be its first.
    pub(super) fn spend(
        &self,
        thumbprint: &[u8; 32],
        id: &[u8; 32],
        nonce_time: NonceTime,
        now: OffsetDateTime,
    ) -> Result<(), DpopError> {
        let mut used = self.lock();
        used.forget_expired(now);
        let bucket = nonce_time.0.div_euclid(BUCKET_MS);
        if bucket < used.forgotten {
            return Err(DpopError::NonceExpired);
        }
        // Only the key's owner can sign an id again under another nonce, so a replay always
        // meets its first use in the bucket of its nonce.
        let ids = used.buckets.get(&bucket).and_then(|b| b.get(thumbprint));
        if ids.is_some_and(|ids| ids.contains(id)) {
            return Err(DpopError::Replayed);
        }
        if used.per_key.get(thumbprint).copied().unwrap_or(0) >= self.per_key_max {
            return Err(DpopError::TooManyOfKey);
        }
        if used.count >= self.max {
            return Err(DpopError::Full);
        }
        let of_bucket = used.buckets.entry(bucket).or_default();
        of_bucket.entry(*thumbprint).or_default().insert(*id);
        *used.per_key.entry(*thumbprint).or_default() += 1;
        used.count += 1;
        Ok(())
    }

    // Every update leaves the maps usable, so a panic elsewhere need not end all calls.
    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    /// Drops the buckets whose every nonce has expired. Those of the future stay: the clock
    /// may come back to them.
    fn forget_expired(&mut self, now: OffsetDateTime) {
        let oldest = NonceTime::of(now - NONCE_LIFETIME).0.div_euclid(BUCKET_MS);
        if oldest <= self.forgotten {
            return;
        }
        let kept = self.buckets.split_off(&oldest);
        let gone = std::mem::replace(&mut self.buckets, kept);
        self.forgotten = oldest;
        for (thumbprint, ids) in gone.into_values().flatten() {
            self.count = self.count.saturating_sub(ids.len());
            let dropped = u32::try_from(ids.len()).unwrap_or(u32::MAX);
            if let Some(count) = self.per_key.get_mut(&thumbprint) {
                *count = count.saturating_sub(dropped);
                if *count == 0 {
                    self.per_key.remove(&thumbprint);
                }
            }
        }
    }
}

impl fmt::Debug for UsedProofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsedProofs")
            .field("max", &self.max)
            .field("count", &self.lock().count)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:03.5 UTC);

    fn spend(memory: &UsedProofs, key: u8, id: u8, now: OffsetDateTime) -> Result<(), DpopError> {
        memory.spend(&[key; 32], &[id; 32], NonceTime::of(now), now)
    }

    #[test]
    fn a_full_memory_refuses_and_forgets_nothing_that_could_be_used() {
        let memory = UsedProofs::new(3, 2);
        assert_eq!(spend(&memory, 1, 1, NOW), Ok(()));
        assert_eq!(spend(&memory, 1, 1, NOW), Err(DpopError::Replayed));
        assert_eq!(spend(&memory, 1, 2, NOW), Ok(()));
        let third = spend(&memory, 1, 3, NOW);
        assert_eq!(third, Err(DpopError::TooManyOfKey));
        assert_eq!(spend(&memory, 2, 1, NOW), Ok(()), "another key's id");
        assert_eq!(spend(&memory, 3, 1, NOW), Err(DpopError::Full));
        assert_eq!(spend(&memory, 1, 1, NOW), Err(DpopError::Replayed));
        let later = NOW + NONCE_LIFETIME + Duration::seconds(5);
        assert_eq!(
            spend(&memory, 3, 1, later),
            Ok(()),
            "expired ones make room"
        );
        let used = memory.lock();
        assert_eq!(
            (used.count, used.per_key.len(), used.buckets.len()),
            (1, 1, 1)
        );
    }

    #[test]
    fn a_clock_that_jumps_and_comes_back_brings_no_proof_to_life() {
        let memory = UsedProofs::new(10, 10);
        assert_eq!(spend(&memory, 1, 1, NOW), Ok(()));
        assert_eq!(spend(&memory, 1, 2, NOW + Duration::HOUR), Ok(()));
        assert_eq!(spend(&memory, 1, 1, NOW), Err(DpopError::NonceExpired));
        let memory = UsedProofs::new(10, 10);
        assert_eq!(spend(&memory, 1, 1, NOW), Ok(()));
        let earlier = spend(&memory, 1, 2, NOW - Duration::HOUR);
        assert_eq!(earlier, Err(DpopError::NonceExpired));
        assert_eq!(spend(&memory, 1, 1, NOW), Err(DpopError::Replayed));
    }

    proptest! {
        /// Whatever happens in whatever order, and wherever the clock goes: each proof is
        /// taken at most once while its nonce is good, and the counters agree.
        #[test]
        fn no_sequence_lets_a_proof_pass_twice(
            steps in proptest::collection::vec((0..3_u8, 0..3_u8, 0..4_u8, -400..400_i64), 1..80)
        ) {
            let memory = UsedProofs::new(8, 5);
            let mut now = NOW;
            let mut taken: HashSet<(u8, u8, i64)> = HashSet::new();
            let mut nonce = NonceTime::of(now);
            for (act, key, id, seconds) in steps {
                match act {
                    0 => now += Duration::seconds(seconds),
                    1 => nonce = NonceTime::of(now),
                    _ => {
                        let age = now - nonce.moment();
                        if age >= NONCE_LIFETIME || age < Duration::ZERO {
                            continue;
                        }
                        if memory.spend(&[key; 32], &[id; 32], nonce, now).is_ok() {
                            prop_assert!(taken.insert((key, id, nonce.0)), "twice");
                        }
                    }
                }
                let used = memory.lock();
                let kept: usize = used.buckets.values().flat_map(HashMap::values).map(HashSet::len).sum();
                prop_assert_eq!(used.count, kept);
                prop_assert!(kept <= 8);
                let per_key: u32 = used.per_key.values().sum();
                prop_assert_eq!(per_key as usize, kept);
                prop_assert!(used.per_key.values().all(|count| *count <= 5));
            }
        }
    }
}
