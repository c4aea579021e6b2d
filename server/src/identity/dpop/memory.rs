//! The proofs that were used, until their nonces end. Nothing is evicted to make room: a
//! proof that was forgotten too early could be used again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use time::{Duration, OffsetDateTime};

use super::nonce::NonceTime;
use super::{DpopError, Place};

/// Proofs are forgotten by the bucket, once the last nonce of a bucket has expired.
const BUCKET_MS: i64 = 5_000;

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long the nonces are good for.
    pub(super) lifetime: Duration,
    /// Proofs of enrolled keys, and as many of all others.
    pub(super) each_max: usize,
    /// Of the others, those of one address.
    pub(super) per_source_max: u32,
    /// Those of one key.
    pub(super) per_key_max: u32,
}

/// The used proofs of this replica. One memory, whosever places they take: a key may be
/// enrolled between the first use of its proof and the second one.
pub(super) struct UsedProofs {
    limits: Limits,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    /// By the time of their nonce; within a bucket by the key's thumbprint.
    buckets: BTreeMap<i64, Bucket>,
    per_key: HashMap<[u8; 32], u32>,
    per_source: HashMap<IpAddr, u32>,
    enrolled: usize,
    strangers: usize,
    /// Buckets below it were forgotten: should the clock step back, what belongs there is
    /// refused, until the clock has caught up or the server starts anew.
    forgotten: i64,
}

/// Proofs that are forgotten together, with whose places they take.
#[derive(Default)]
struct Bucket {
    ids: HashMap<[u8; 32], HashSet<[u8; 32]>>,
    per_source: HashMap<IpAddr, u32>,
    enrolled: usize,
    strangers: usize,
}

impl UsedProofs {
    /// An empty memory.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            used: Mutex::new(Used {
                forgotten: i64::MIN,
                ..Used::default()
            }),
        }
    }

    /// Remembers the use of a proof, by its key's thumbprint and its id. It must be its first.
    pub(super) fn spend(
        &self,
        (thumbprint, id): (&[u8; 32], &[u8; 32]),
        place: Place,
        nonce_time: NonceTime,
        now: OffsetDateTime,
    ) -> Result<(), DpopError> {
        let mut used = self.lock();
        used.forget_expired(self.limits.lifetime, now);
        let bucket = nonce_time.0.div_euclid(BUCKET_MS);
        if bucket < used.forgotten {
            return Err(DpopError::NonceExpired);
        }
        // Only the key's owner can sign an id again under another nonce, so a replay always
        // meets its first use in the bucket of its nonce.
        let ids = used
            .buckets
            .get(&bucket)
            .and_then(|b| b.ids.get(thumbprint));
        if ids.is_some_and(|ids| ids.contains(id)) {
            return Err(DpopError::Replayed);
        }
        used.require_room(&self.limits, thumbprint, place)?;
        *used.per_key.entry(*thumbprint).or_default() += 1;
        match place {
            Place::Enrolled => used.enrolled += 1,
            Place::Stranger(_) => used.strangers += 1,
        }
        if let Place::Stranger(Some(source)) = place {
            *used.per_source.entry(source).or_default() += 1;
        }
        used.buckets
            .entry(bucket)
            .or_default()
            .add(thumbprint, id, place);
        Ok(())
    }

    // Every update leaves the maps usable, so a panic elsewhere need not end all calls.
    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn add(&mut self, thumbprint: &[u8; 32], id: &[u8; 32], place: Place) {
        self.ids.entry(*thumbprint).or_default().insert(*id);
        match place {
            Place::Enrolled => self.enrolled += 1,
            Place::Stranger(source) => {
                self.strangers += 1;
                if let Some(source) = source {
                    *self.per_source.entry(source).or_default() += 1;
                }
            }
        }
    }
}

impl Used {
    fn require_room(
        &self,
        limits: &Limits,
        thumbprint: &[u8; 32],
        place: Place,
    ) -> Result<(), DpopError> {
        if self.per_key.get(thumbprint).copied().unwrap_or(0) >= limits.per_key_max {
            return Err(DpopError::TooManyOfKey);
        }
        let of_source = |source: IpAddr| self.per_source.get(&source).copied().unwrap_or(0);
        let taken = match place {
            Place::Enrolled => self.enrolled,
            Place::Stranger(Some(source)) if of_source(source) >= limits.per_source_max => {
                return Err(DpopError::TooManyOfSource);
            }
            Place::Stranger(_) => self.strangers,
        };
        match taken >= limits.each_max {
            true => Err(DpopError::Full),
            false => Ok(()),
        }
    }

    /// Drops the buckets whose every nonce has expired. Those of the future stay: the clock
    /// may come back to them.
    fn forget_expired(&mut self, lifetime: Duration, now: OffsetDateTime) {
        let oldest = NonceTime::of(now - lifetime).0.div_euclid(BUCKET_MS);
        if oldest <= self.forgotten {
            return;
        }
        let kept = self.buckets.split_off(&oldest);
        let gone = std::mem::replace(&mut self.buckets, kept);
        self.forgotten = oldest;
        for bucket in gone.into_values() {
            self.enrolled = self.enrolled.saturating_sub(bucket.enrolled);
            self.strangers = self.strangers.saturating_sub(bucket.strangers);
            for (source, count) in bucket.per_source {
                lower(&mut self.per_source, source, count);
            }
            for (thumbprint, ids) in bucket.ids {
                let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
                lower(&mut self.per_key, thumbprint, count);
            }
        }
    }
}

/// Takes a number from a count, and the count away when nothing is left.
fn lower<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: K, by: u32) {
    if let Some(count) = counts.get_mut(&key) {
        *count = count.saturating_sub(by);
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

impl fmt::Debug for UsedProofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsedProofs")
            .field("limits", &self.limits)
            .field("count", &self.lock().per_key.values().sum::<u32>())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::identity::dpop::NONCE_LIFETIME;

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:03.5 UTC);

    fn memory_of(each_max: usize, per_key_max: u32) -> UsedProofs {
        UsedProofs::new(Limits {
            lifetime: NONCE_LIFETIME,
            each_max,
            per_source_max: u32::MAX,
            per_key_max,
        })
    }

    fn spend(memory: &UsedProofs, key: u8, id: u8, now: OffsetDateTime) -> Result<(), DpopError> {
        let used = (&[key; 32], &[id; 32]);
        memory.spend(used, Place::Enrolled, NonceTime::of(now), now)
    }

    fn address(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    #[test]
    fn strangers_take_no_places_of_enrolled_keys_and_one_address_not_all() {
        let memory = UsedProofs::new(Limits {
            lifetime: Duration::MINUTE,
            each_max: 3,
            per_source_max: 2,
            per_key_max: 9,
        });
        let nonce = NonceTime::of(NOW);
        let spend = |key: u8, place| memory.spend((&[key; 32], &[1; 32]), place, nonce, NOW);
        let from = |n| Place::Stranger(Some(address(n)));
        assert_eq!((spend(1, from(1)), spend(2, from(1))), (Ok(()), Ok(())));
        assert_eq!(spend(3, from(1)), Err(DpopError::TooManyOfSource));
        assert_eq!(spend(3, from(2)), Ok(()), "another address");
        assert_eq!(spend(4, from(2)), Err(DpopError::Full));
        assert_eq!(spend(4, Place::Stranger(None)), Err(DpopError::Full));
        assert_eq!(spend(5, Place::Enrolled), Ok(()), "places of their own");
        // A key that is enrolled meanwhile brings no proof back to life, nor the reverse.
        assert_eq!(spend(1, Place::Enrolled), Err(DpopError::Replayed));
        assert_eq!(spend(5, from(2)), Err(DpopError::Replayed));
        let later = NOW + Duration::MINUTE + Duration::seconds(5);
        let fresh = (&[6; 32], &[1; 32]);
        let made = memory.spend(fresh, from(1), NonceTime::of(later), later);
        assert_eq!(made, Ok(()), "a minute makes room");
        let used = memory.lock();
        assert_eq!((used.enrolled, used.strangers), (0, 1));
        assert_eq!((used.per_source.len(), used.per_key.len()), (1, 1));
    }

    #[test]
    fn a_full_memory_refuses_and_forgets_nothing_that_could_be_used() {
        let memory = memory_of(3, 2);
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
            (used.enrolled, used.per_key.len(), used.buckets.len()),
            (1, 1, 1)
        );
    }

    #[test]
    fn a_clock_that_jumps_and_comes_back_brings_no_proof_to_life() {
        let memory = memory_of(10, 10);
        assert_eq!(spend(&memory, 1, 1, NOW), Ok(()));
        assert_eq!(spend(&memory, 1, 2, NOW + Duration::HOUR), Ok(()));
        assert_eq!(spend(&memory, 1, 1, NOW), Err(DpopError::NonceExpired));
        let memory = memory_of(10, 10);
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
            steps in proptest::collection::vec(
                (0..3_u8, 0..3_u8, 0..4_u8, -400..400_i64, 0..4_u8), 1..80)
        ) {
            let memory = memory_of(8, 5);
            let mut now = NOW;
            let mut taken: HashSet<(u8, u8, i64)> = HashSet::new();
            let mut nonce = NonceTime::of(now);
            for (act, key, id, seconds, from) in steps {
                match act {
                    0 => now += Duration::seconds(seconds),
                    1 => nonce = NonceTime::of(now),
                    _ => {
                        let age = now - nonce.moment();
                        if age >= NONCE_LIFETIME || age < Duration::ZERO {
                            continue;
                        }
                        let place = match from {
                            0 => Place::Enrolled,
                            n => Place::Stranger(Some(address(n))),
                        };
                        let used = (&[key; 32], &[id; 32]);
                        if memory.spend(used, place, nonce, now).is_ok() {
                            prop_assert!(taken.insert((key, id, nonce.0)), "twice");
                        }
                    }
                }
                let used = memory.lock();
                let ids = used.buckets.values().flat_map(|bucket| bucket.ids.values());
                let kept: usize = ids.map(HashSet::len).sum();
                prop_assert_eq!(used.enrolled + used.strangers, kept);
                prop_assert!(used.enrolled <= 8 && used.strangers <= 8);
                let of_sources: u32 = used.per_source.values().sum();
                prop_assert_eq!(of_sources as usize, used.strangers);
                let per_key: u32 = used.per_key.values().sum();
                prop_assert_eq!(per_key as usize, kept);
                prop_assert!(used.per_key.values().all(|count| *count <= 5));
            }
        }
    }
}
