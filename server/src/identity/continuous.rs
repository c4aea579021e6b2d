//! Continuous verification: a key that was proved long ago has to be proved again.
//!
//! A handshake proves the key once and its connection may live for hours. After the interval
//! the instance counts as suspended on that connection, until it answers a challenge or
//! connects anew. Who holds only the connection, or a copy of its session keys, cannot.
//!
//! Kept in this replica's memory, like the connections that it is about.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// Instances whose proofs are remembered. When there are more, the oldest are forgotten, and
/// have to be given once more.
const REMEMBERED_MAX: usize = 100_000;

/// What is to be said of a key that a call stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Proved lately.
    Proved,
    /// Not proved for longer than the interval.
    Missed {
        /// Nobody has been told yet.
        first: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Proof {
    time: OffsetDateTime,
    missed: bool,
}

/// When keys were proved last, beside their handshakes.
pub(crate) struct KeyProofs {
    interval: Option<Duration>,
    last: Mutex<HashMap<Uuid, Proof>>,
}

impl KeyProofs {
    /// Asks for a proof at this interval; `None`: never again.
    pub(crate) fn new(interval: Option<Duration>) -> Self {
        Self {
            interval,
            last: Mutex::default(),
        }
    }

    /// How often a proof is asked for.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// Whether the key of a call was proved lately, given when its handshake or its token
    /// did so. Looks into the memory only if that is too long ago.
    pub(crate) fn standing(
        &self,
        instance: Uuid,
        proved: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Standing {
        let Some(interval) = self.interval else {
            return Standing::Proved;
        };
        if now - proved <= interval {
            return Standing::Proved;
        }
        let mut last = self.lock();
        let proof = last.entry(instance).or_insert(Proof {
            time: proved,
            missed: false,
        });
        if now - proof.time <= interval {
            return Standing::Proved;
        }
        let first = !std::mem::replace(&mut proof.missed, true);
        make_room(&mut last);
        Standing::Missed { first }
    }

    /// The key was proved by the answer to a challenge.
    pub(crate) fn proved(&self, instance: Uuid, now: OffsetDateTime) {
        if self.interval.is_none() {
            return;
        }
        let mut last = self.lock();
        let proof = Proof {
            time: now,
            missed: false,
        };
        last.insert(instance, proof);
        make_room(&mut last);
    }

    // Every update leaves the map usable, so a panic elsewhere need not end decisions.
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Proof>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the older half. To forget only asks for a proof once more.
fn make_room(last: &mut HashMap<Uuid, Proof>) {
    if last.len() <= REMEMBERED_MAX {
        return;
    }
    let mut times: Vec<OffsetDateTime> = last.values().map(|proof| proof.time).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    last.retain(|_, proof| proof.time > median);
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:00 UTC);
    const MINUTE: Duration = Duration::MINUTE;

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    #[test]
    fn a_key_has_to_be_proved_again_and_again() {
        let proofs = KeyProofs::new(Some(MINUTE));
        let standing = |now| proofs.standing(id(1), NOW, now);
        assert_eq!(standing(NOW + MINUTE), Standing::Proved);
        let late = NOW + MINUTE + Duration::NANOSECOND;
        assert_eq!(standing(late), Standing::Missed { first: true });
        assert_eq!(standing(late), Standing::Missed { first: false });
        proofs.proved(id(1), late);
        assert_eq!(standing(late + MINUTE), Standing::Proved);
        let later = late + MINUTE + Duration::SECOND;
        assert_eq!(standing(later), Standing::Missed { first: true });
        // Another connection of the same key has proved it by its handshake.
        assert_eq!(proofs.standing(id(1), later, later), Standing::Proved);
        assert_eq!(
            proofs.standing(id(2), NOW, later),
            Standing::Missed { first: true }
        );
    }

    #[test]
    fn without_an_interval_once_is_enough() {
        let proofs = KeyProofs::new(None);
        proofs.proved(id(1), NOW);
        let year = NOW + Duration::days(365);
        assert_eq!(proofs.standing(id(1), NOW, year), Standing::Proved);
        assert!(proofs.lock().is_empty());
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_what_is_oldest() {
        let proofs = KeyProofs::new(Some(MINUTE));
        let count = REMEMBERED_MAX as u128;
        for n in 0..=count {
            let at = NOW + Duration::milliseconds(n as i64);
            proofs.proved(id(n), at);
        }
        assert!(proofs.lock().len() <= REMEMBERED_MAX);
        let now = NOW + MINUTE + Duration::milliseconds(count as i64);
        assert_eq!(proofs.standing(id(count), NOW, now), Standing::Proved);
        let old = proofs.standing(id(0), NOW, now);
        assert_eq!(old, Standing::Missed { first: true });
    }
}
