//! Continuous verification: a key that was proved long ago has to be proved again.
//!
//! A handshake proves the key once and its connection may live for hours. After the interval
//! the instance counts as suspended on that connection, until it answers a challenge or
//! connects anew. Who holds only the connection, or a copy of its session keys, cannot.
//!
//! Bound to the connection: only the answer over it, to a challenge that was given over it,
//! makes it good. Else the owner's proofs over a connection of its own would keep a hijacked
//! one alive. So it is remembered with the connection, and gone with it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use time::{Duration, OffsetDateTime};

/// Challenges of one connection that may still be answered; more forget the oldest, whose
/// answer then logs in, but does not make the connection good.
const GIVEN_MAX: usize = 16;

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

/// How often keys have to be proved.
pub(crate) struct KeyProofs {
    interval: Option<Duration>,
}

/// When the key of one connection was proved over it, beside its handshake.
#[derive(Debug, Default)]
pub(crate) struct ConnectionProof(Mutex<Proof>);

#[derive(Debug, Default)]
struct Proof {
    last: Option<OffsetDateTime>,
    missed: bool,
    /// The challenges that were given over it.
    given: Vec<Vec<u8>>,
}

impl KeyProofs {
    /// Asks for a proof at this interval; `None`: never again.
    pub(crate) fn new(interval: Option<Duration>) -> Self {
        Self { interval }
    }

    /// How often a proof is asked for.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// Whether the key of a connection was proved over it lately, given when its handshake
    /// did so.
    pub(crate) fn standing(
        &self,
        connection: Option<&ConnectionProof>,
        handshake: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Standing {
        let Some(interval) = self.interval else {
            return Standing::Proved;
        };
        if now - handshake <= interval {
            return Standing::Proved;
        }
        let Some(connection) = connection else {
            return Standing::Missed { first: true };
        };
        let mut proof = connection.lock();
        if proof.last.is_some_and(|last| now - last <= interval) {
            return Standing::Proved;
        }
        let first = !std::mem::replace(&mut proof.missed, true);
        Standing::Missed { first }
    }
}

impl ConnectionProof {
    /// A challenge was given over the connection.
    pub(crate) fn gave(&self, challenge: &[u8]) {
        let mut proof = self.lock();
        if proof.given.len() >= GIVEN_MAX {
            proof.given.remove(0);
        }
        proof.given.push(challenge.to_vec());
    }

    /// The key was proved over the connection by the answer to a challenge. One that was
    /// given over another connection proves nothing of this one.
    pub(crate) fn answered(&self, challenge: &[u8], now: OffsetDateTime) {
        let mut proof = self.lock();
        let Some(at) = proof.given.iter().position(|given| given == challenge) else {
            return;
        };
        proof.given.remove(at);
        proof.last = Some(now);
        proof.missed = false;
    }

    // Every update leaves it usable, so a panic elsewhere need not end decisions.
    fn lock(&self) -> MutexGuard<'_, Proof> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:00 UTC);
    const MINUTE: Duration = Duration::MINUTE;

    fn answer(connection: &ConnectionProof, now: OffsetDateTime) {
        connection.gave(b"challenge");
        connection.answered(b"challenge", now);
    }

    #[test]
    fn a_key_has_to_be_proved_again_and_again_over_its_connection() {
        let proofs = KeyProofs::new(Some(MINUTE));
        let (own, other) = (ConnectionProof::default(), ConnectionProof::default());
        let standing = |of: &ConnectionProof, now| proofs.standing(Some(of), NOW, now);
        assert_eq!(standing(&own, NOW + MINUTE), Standing::Proved);
        let late = NOW + MINUTE + Duration::NANOSECOND;
        assert_eq!(standing(&own, late), Standing::Missed { first: true });
        assert_eq!(standing(&own, late), Standing::Missed { first: false });
        answer(&own, late);
        assert_eq!(standing(&own, late + MINUTE), Standing::Proved);
        // Another connection of the same key is none the better for it.
        let missed = Standing::Missed { first: true };
        assert_eq!(standing(&other, late + MINUTE), missed);
        let later = late + MINUTE + Duration::SECOND;
        assert_eq!(standing(&own, later), missed, "told again");
        assert_eq!(
            proofs.standing(Some(&other), later, later),
            Standing::Proved
        );
        assert_eq!(proofs.standing(None, NOW, later), missed);
    }

    #[test]
    fn the_answer_to_a_challenge_of_another_connection_proves_nothing_of_this_one() {
        let proofs = KeyProofs::new(Some(MINUTE));
        let (own, stolen) = (ConnectionProof::default(), ConnectionProof::default());
        own.gave(b"challenge");
        let late = NOW + MINUTE * 2;
        stolen.answered(b"challenge", late);
        let missed = Standing::Missed { first: true };
        assert_eq!(proofs.standing(Some(&stolen), NOW, late), missed);
        own.answered(b"challenge", late);
        assert_eq!(proofs.standing(Some(&own), NOW, late), Standing::Proved);
        // Once.
        own.answered(b"challenge", late + MINUTE);
        let later = late + MINUTE + Duration::SECOND;
        assert_eq!(proofs.standing(Some(&own), NOW, later), missed);
    }

    #[test]
    fn without_an_interval_once_is_enough() {
        let proofs = KeyProofs::new(None);
        let year = NOW + Duration::days(365);
        assert_eq!(proofs.standing(None, NOW, year), Standing::Proved);
    }

    #[test]
    fn what_was_given_is_bounded() {
        let connection = ConnectionProof::default();
        for n in 0..100_u8 {
            connection.gave(&[n]);
        }
        assert_eq!(connection.lock().given.len(), GIVEN_MAX);
        connection.answered(&[99], NOW);
        assert_eq!(connection.lock().last, Some(NOW));
    }
}
