//! Challenges that prove possession of a key, kept in this replica's memory.
//!
//! A challenge is random, good for one minute, for one use, and for the key it
//! was given to. Live ones are never evicted to make room: a full memory refuses
//! new challenges, so that no flood can bring a used one back to life.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use time::{Duration, OffsetDateTime};

/// How long a challenge is good for.
pub(crate) const CHALLENGE_LIFETIME: Duration = Duration::MINUTE;
/// Live challenges of one key: enough for a busy client, too few to fill the memory.
pub(crate) const CHALLENGES_PER_KEY_MAX: u32 = 16;

/// What is signed begins with this, so that the signature means nothing elsewhere.
const SIGNED_PREFIX: &[u8] = b"zta-challenge-v1\0";
const CHALLENGE_LEN: usize = 32;
/// Challenges are forgotten by the bucket, once the last of a bucket has expired.
const BUCKET_SECONDS: i64 = 5;
/// How far a clock may step back without making fresh challenges invalid.
const STEP_BACK_MAX: Duration = Duration::SECOND;

/// A challenge that was just given.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// The random bytes to sign.
    pub(crate) bytes: [u8; CHALLENGE_LEN],
    /// From this moment on it is refused.
    pub(crate) expire_time: OffsetDateTime,
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge")
            .field("expire_time", &self.expire_time)
            .finish_non_exhaustive()
    }
}

/// Why a challenge was not given or not taken. The caller hears of every refusal
/// by the same name; these tell the record which it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChallengeError {
    /// It was never given, was used before, or was given long ago.
    #[error("the challenge is unknown or was used before")]
    Unknown,
    /// Its minute is over.
    #[error("the challenge has expired")]
    Expired,
    /// It was given to another key.
    #[error("the challenge was given to another key")]
    OtherKey,
    /// This key has too many live challenges.
    #[error("this key has {CHALLENGES_PER_KEY_MAX} challenges that are neither used nor expired")]
    TooManyOfKey,
    /// The memory is full of live challenges.
    #[error("no more challenges can be given until some are used or expire")]
    Full,
    /// No random bytes could be drawn.
    #[error("no randomness for a challenge")]
    Random,
}

/// The bytes to sign for `challenge`.
pub(crate) fn signed_message(challenge: &[u8]) -> Vec<u8> {
    [SIGNED_PREFIX, challenge].concat()
}

/// The live challenges of this replica.
pub(crate) struct ChallengeMemory {
    capacity: usize,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    buckets: BTreeMap<i64, HashMap<[u8; CHALLENGE_LEN], Entry>>,
    per_key: HashMap<[u8; 32], u32>,
    count: usize,
}

struct Entry {
    key_sha256: [u8; 32],
    issue_time: OffsetDateTime,
}

impl ChallengeMemory {
    /// A memory for at most `capacity` live challenges.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            live: Mutex::default(),
        }
    }

    /// A new challenge for the key whose SPKI has this SHA-256.
    pub(crate) fn issue(
        &self,
        key_sha256: &[u8; 32],
        now: OffsetDateTime,
    ) -> Result<Challenge, ChallengeError> {
        let mut bytes = [0; CHALLENGE_LEN];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ChallengeError::Random)?;
        let mut live = self.lock();
        live.forget_expired(now);
        if live.per_key.get(key_sha256).copied().unwrap_or(0) >= CHALLENGES_PER_KEY_MAX {
            return Err(ChallengeError::TooManyOfKey);
        }
        if live.count >= self.capacity {
            return Err(ChallengeError::Full);
        }
        let entry = Entry {
            key_sha256: *key_sha256,
            issue_time: now,
        };
        let bucket = live.buckets.entry(bucket_of(now)).or_default();
        bucket.insert(bytes, entry);
        live.count += 1;
        *live.per_key.entry(*key_sha256).or_default() += 1;
        Ok(Challenge {
            bytes,
            expire_time: now + CHALLENGE_LIFETIME,
        })
    }

    /// Uses up `challenge`, which must have been given to this key. Call it before
    /// the signature is looked at: a wrong signature spends the challenge too.
    pub(crate) fn redeem(
        &self,
        challenge: &[u8],
        key_sha256: &[u8; 32],
        now: OffsetDateTime,
    ) -> Result<(), ChallengeError> {
        let bytes: &[u8; CHALLENGE_LEN] =
            challenge.try_into().map_err(|_| ChallengeError::Unknown)?;
        let mut live = self.lock();
        let found = live
            .buckets
            .values_mut()
            .find_map(|bucket| Some((bucket.get(bytes)?.key_sha256, bucket)));
        let (owner, bucket) = found.ok_or(ChallengeError::Unknown)?;
        // Left to its owner: whoever overhears a challenge cannot spend it.
        if owner != *key_sha256 {
            return Err(ChallengeError::OtherKey);
        }
        let entry = bucket.remove(bytes).ok_or(ChallengeError::Unknown)?;
        live.release(&owner);
        let age = now - entry.issue_time;
        if age >= CHALLENGE_LIFETIME || age < -STEP_BACK_MAX {
            return Err(ChallengeError::Expired);
        }
        Ok(())
    }

    // Every update leaves the maps usable, so a panic elsewhere need not end logins.
    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ChallengeMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChallengeMemory")
            .field("capacity", &self.capacity)
            .field("count", &self.lock().count)
            .finish_non_exhaustive()
    }
}

impl Live {
    /// Drops the buckets whose every challenge `redeem` would call expired,
    /// including those from before the clock was set back.
    fn forget_expired(&mut self, now: OffsetDateTime) {
        let oldest = bucket_of(now - CHALLENGE_LIFETIME);
        let newest = bucket_of(now + STEP_BACK_MAX);
        let kept = self.buckets.split_off(&oldest);
        let mut gone = std::mem::replace(&mut self.buckets, kept);
        gone.append(&mut self.buckets.split_off(&(newest + 1)));
        for entry in gone.into_values().flat_map(HashMap::into_values) {
            self.release(&entry.key_sha256);
        }
    }

    fn release(&mut self, key_sha256: &[u8; 32]) {
        self.count = self.count.saturating_sub(1);
        if let Some(count) = self.per_key.get_mut(key_sha256) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_key.remove(key_sha256);
            }
        }
    }
}

fn bucket_of(at: OffsetDateTime) -> i64 {
    at.unix_timestamp().div_euclid(BUCKET_SECONDS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:03.5 UTC);
    const KEY: [u8; 32] = [1; 32];

    #[test]
    fn a_challenge_is_good_once() {
        let memory = ChallengeMemory::new(10);
        let challenge = memory.issue(&KEY, NOW).expect("a challenge");
        assert_eq!(challenge.expire_time, NOW + Duration::MINUTE);
        assert_eq!(memory.redeem(&challenge.bytes, &KEY, NOW), Ok(()));
        let replayed = memory.redeem(&challenge.bytes, &KEY, NOW);
        assert_eq!(replayed, Err(ChallengeError::Unknown));
    }

    #[test]
    fn a_challenge_ends_after_its_minute() {
        let memory = ChallengeMemory::new(10);
        let last = NOW + CHALLENGE_LIFETIME - Duration::NANOSECOND;
        let challenge = memory.issue(&KEY, NOW).expect("a challenge");
        assert_eq!(memory.redeem(&challenge.bytes, &KEY, last), Ok(()));
        let challenge = memory.issue(&KEY, NOW).expect("a challenge");
        let late = memory.redeem(&challenge.bytes, &KEY, challenge.expire_time);
        assert_eq!(late, Err(ChallengeError::Expired));
    }

    #[test]
    fn a_clock_set_back_makes_challenges_invalid_and_frees_their_place() {
        let memory = ChallengeMemory::new(1);
        let challenge = memory.issue(&KEY, NOW).expect("a challenge");
        let earlier = NOW - Duration::HOUR;
        assert!(memory.issue(&KEY, earlier).is_ok(), "the place is free");
        let future = memory.redeem(&challenge.bytes, &KEY, earlier);
        assert_eq!(future, Err(ChallengeError::Unknown));

        let memory = ChallengeMemory::new(1);
        let challenge = memory.issue(&KEY, NOW).expect("a challenge");
        let future = memory.redeem(&challenge.bytes, &KEY, earlier);
        assert_eq!(future, Err(ChallengeError::Expired));
        let challenge = memory.issue(&KEY, NOW).expect("a challenge");
        let slewed = NOW - Duration::MILLISECOND;
        assert_eq!(memory.redeem(&challenge.bytes, &KEY, slewed), Ok(()));
    }

    #[test]
    fn another_key_can_neither_use_nor_spend_it() {
        let memory = ChallengeMemory::new(10);
        let challenge = memory.issue(&KEY, NOW).expect("a challenge");
        let stolen = memory.redeem(&challenge.bytes, &[2; 32], NOW);
        assert_eq!(stolen, Err(ChallengeError::OtherKey));
        assert_eq!(memory.redeem(&challenge.bytes, &KEY, NOW), Ok(()));
    }

    #[test]
    fn what_was_never_given_is_unknown() {
        let memory = ChallengeMemory::new(10);
        memory.issue(&KEY, NOW).expect("a challenge");
        for bytes in [&[0; 32][..], &[], &[0; 31], &[0; 33]] {
            assert_eq!(
                memory.redeem(bytes, &KEY, NOW),
                Err(ChallengeError::Unknown)
            );
        }
    }

    #[test]
    fn a_full_memory_refuses_and_keeps_what_lives() {
        let memory = ChallengeMemory::new(3);
        let first = memory.issue(&[1; 32], NOW).expect("a challenge");
        memory.issue(&[2; 32], NOW).expect("a challenge");
        memory.issue(&[3; 32], NOW).expect("a challenge");
        assert_eq!(memory.issue(&[4; 32], NOW), Err(ChallengeError::Full));
        assert_eq!(memory.redeem(&first.bytes, &[1; 32], NOW), Ok(()));
        assert!(memory.issue(&[4; 32], NOW).is_ok(), "a used one makes room");
        assert_eq!(memory.issue(&[5; 32], NOW), Err(ChallengeError::Full));
        let later = NOW + CHALLENGE_LIFETIME + Duration::seconds(BUCKET_SECONDS);
        assert!(
            memory.issue(&[5; 32], later).is_ok(),
            "expired ones make room"
        );
        assert_eq!(memory.lock().count, 1);
        assert_eq!(memory.lock().per_key.len(), 1);
    }

    #[test]
    fn one_key_cannot_fill_the_memory() {
        let memory = ChallengeMemory::new(1000);
        for _ in 0..CHALLENGES_PER_KEY_MAX {
            memory.issue(&KEY, NOW).expect("a challenge");
        }
        assert_eq!(memory.issue(&KEY, NOW), Err(ChallengeError::TooManyOfKey));
        assert!(memory.issue(&[2; 32], NOW).is_ok());
    }

    #[test]
    fn what_is_signed_cannot_be_mistaken() {
        assert_eq!(signed_message(b"abc"), b"zta-challenge-v1\0abc");
    }

    proptest! {
        /// Whatever happens in whatever order: each challenge is taken at most
        /// once, and the counters agree with what is kept.
        #[test]
        fn no_sequence_lets_a_challenge_pass_twice(
            steps in proptest::collection::vec((0..3_u8, 0..3_u8, 0..40_i64), 1..80)
        ) {
            let memory = ChallengeMemory::new(6);
            let mut now = NOW;
            let mut given: Vec<([u8; 32], [u8; 32], OffsetDateTime, bool)> = Vec::new();
            for (act, key, seconds) in steps {
                let key = [key; 32];
                match act {
                    0 => now += Duration::seconds(seconds),
                    1 => if let Ok(challenge) = memory.issue(&key, now) {
                        given.push((challenge.bytes, key, now, false));
                    },
                    _ => for (bytes, owner, issued, used) in &mut given {
                        let taken = memory.redeem(bytes, &key, now).is_ok();
                        let fresh = now - *issued < CHALLENGE_LIFETIME;
                        prop_assert_eq!(taken, !*used && fresh && *owner == key);
                        *used |= *owner == key;
                    },
                }
                let live = memory.lock();
                let kept: usize = live.buckets.values().map(HashMap::len).sum();
                prop_assert_eq!(live.count, kept);
                prop_assert!(kept <= 6);
                let per_key: u32 = live.per_key.values().sum();
                prop_assert_eq!(per_key as usize, kept);
            }
        }
    }
}
