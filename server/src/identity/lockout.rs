//! Locks out whoever keeps failing to log in: a source, or a key under which somebody tries.
//!
//! A few failures are everybody's; then each further one doubles the wait. While it lasts,
//! nothing is looked at, so that a guess learns nothing by being refused. What proves itself
//! by its handshake is counted apart from what is only claimed: a stranger who fails in an
//! agent's name must not lock the agent out.
//!
//! Success makes good what a key has failed. It does not for a source: whoever has one good
//! account could guess at others without end. A source's failures are forgiven by time, one
//! by one, so that the few of many behind one address do not add up.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use time::{Duration, OffsetDateTime};

/// Failures are forgotten after this time without another.
pub(crate) const WINDOW: Duration = Duration::HOUR;
/// The longest that one is locked out.
pub(crate) const LOCKOUT_MAX: Duration = Duration::minutes(15);
/// Sources and keys that are counted. When these are all in use, what is not counted yet is
/// locked out, too: no flood can make room for itself. Not so keys that a handshake proved:
/// there are no more of them than certificates that we signed, and a flood of strangers must
/// not lock them out.
const COUNTED_MAX: usize = 100_000;

/// Who is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// An address (IPv6: its /64 network), of those who have proved nothing yet.
    Source(IpAddr),
    /// SHA-256 of a key that a handshake proved.
    Key([u8; 32]),
    /// SHA-256 of a key in whose name somebody tries.
    ClaimedKey([u8; 32]),
}

#[derive(Clone, Copy, Debug)]
struct Count {
    failures: u32,
    last: OffsetDateTime,
    until: OffsetDateTime,
}

/// How many more failures a source has than a key: many may be behind one address, and
/// behind a proxy all are.
const SOURCE_FACTOR: u32 = 10;

/// The failed logins of this replica.
pub(crate) struct Lockouts {
    free: u32,
    counts: Mutex<HashMap<Subject, Count>>,
}

impl Lockouts {
    /// Locks a key out after `free` failures, and a source after ten times as many.
    pub(crate) fn new(free: u32) -> Self {
        Self {
            free,
            counts: Mutex::default(),
        }
    }

    /// How long one of these is locked out yet; `None`: none of them is.
    pub(crate) fn wait(&self, subjects: &[Subject], now: OffsetDateTime) -> Option<Duration> {
        let mut counts = self.lock();
        make_room(&mut counts, now);
        let full = counts.len() >= COUNTED_MAX;
        let wait = |subject: &Subject| match counts.get(subject) {
            // A clock that was set back locks nobody out for longer than it could.
            Some(count) => Some((count.until - now).min(LOCKOUT_MAX)).filter(|w| w.is_positive()),
            None => (full && !is_proved(*subject)).then_some(Duration::SECOND),
        };
        subjects.iter().filter_map(wait).max()
    }

    /// Counts a failure; how long the subject is locked out by it, if it is.
    pub(crate) fn failed(&self, subject: Subject, now: OffsetDateTime) -> Option<Duration> {
        let mut counts = self.lock();
        make_room(&mut counts, now);
        let full = counts.len() >= COUNTED_MAX && !counts.contains_key(&subject);
        if full && !is_proved(subject) {
            return Some(Duration::SECOND);
        }
        let count = counts.entry(subject).or_insert(Count {
            failures: 0,
            last: now,
            until: now,
        });
        if is_over(count, now) {
            count.failures = 0;
        }
        let free = match subject {
            Subject::Source(_) => self.free.saturating_mul(SOURCE_FACTOR),
            Subject::Key(_) | Subject::ClaimedKey(_) => self.free,
        };
        if matches!(subject, Subject::Source(_)) {
            let forgiven = forgiven(now - count.last, free);
            count.failures = count.failures.saturating_sub(forgiven);
        }
        count.failures = count.failures.saturating_add(1);
        count.last = now;
        let beyond = count.failures.checked_sub(free.saturating_add(1))?;
        let seconds = 1_i64 << beyond.min(20);
        let wait = Duration::seconds(seconds).min(LOCKOUT_MAX);
        count.until = now + wait;
        Some(wait)
    }

    /// Forgets the failures of a key that has logged in; of a source, none.
    pub(crate) fn succeeded(&self, subject: Subject) {
        match subject {
            Subject::Source(_) => {}
            Subject::Key(_) | Subject::ClaimedKey(_) => drop(self.lock().remove(&subject)),
        }
    }

    // Every update leaves the map usable, so a panic elsewhere need not end logins.
    fn lock(&self) -> MutexGuard<'_, HashMap<Subject, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_proved(subject: Subject) -> bool {
    matches!(subject, Subject::Key(_))
}

/// Whether failures are long enough ago, or lie in a future that a clock has left.
fn is_over(count: &Count, now: OffsetDateTime) -> bool {
    now >= count.until && (now - count.last).abs() >= WINDOW
}

/// How many failures of a source are forgiven after so long without one: in [`WINDOW`] as
/// many as it has free, evenly.
fn forgiven(since: Duration, free: u32) -> u32 {
    let window = WINDOW.whole_seconds().max(1);
    let seconds = since.whole_seconds().clamp(0, window);
    u32::try_from(seconds * i64::from(free) / window).unwrap_or(u32::MAX)
}

fn make_room(counts: &mut HashMap<Subject, Count>, now: OffsetDateTime) {
    if counts.len() >= COUNTED_MAX {
        counts.retain(|_, count| !is_over(count, now));
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 12:00:00 UTC);

    fn source(n: u32) -> Subject {
        Subject::Source(IpAddr::from(n.to_be_bytes()))
    }

    fn key(n: u8) -> Subject {
        Subject::Key([n; 32])
    }

    #[test]
    fn each_failure_beyond_the_free_ones_doubles_the_wait() {
        let lockouts = Lockouts::new(3);
        let mut now = NOW;
        for _ in 0..3 {
            assert_eq!(lockouts.failed(key(1), now), None);
        }
        assert_eq!(lockouts.wait(&[key(1)], now), None);
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900] {
            let wait = Duration::seconds(seconds);
            assert_eq!(lockouts.failed(key(1), now), Some(wait));
            assert_eq!(lockouts.wait(&[key(2), key(1)], now), Some(wait));
            let last = now + wait - Duration::NANOSECOND;
            assert!(lockouts.wait(&[key(1)], last).is_some());
            now += wait;
            assert_eq!(lockouts.wait(&[key(1)], now), None);
        }
        assert_eq!(lockouts.wait(&[key(2)], now), None, "nobody else is");
    }

    #[test]
    fn a_source_has_more_failures_than_a_key() {
        let lockouts = Lockouts::new(3);
        for _ in 0..30 {
            assert_eq!(lockouts.failed(source(1), NOW), None);
        }
        assert_eq!(lockouts.failed(source(1), NOW), Some(Duration::SECOND));
    }

    #[test]
    fn one_good_account_buys_a_source_no_guesses() {
        let lockouts = Lockouts::new(1);
        for _ in 0..10 {
            assert_eq!(lockouts.failed(source(1), NOW), None);
            lockouts.succeeded(source(1));
        }
        assert!(lockouts.failed(source(1), NOW).is_some());
    }

    #[test]
    fn few_failures_of_many_behind_one_source_do_not_add_up() {
        let lockouts = Lockouts::new(1);
        let mut now = NOW;
        for _ in 0..100 {
            assert_eq!(lockouts.failed(source(1), now), None);
            now += WINDOW / 10;
        }
        // Twice as many are too many.
        let locked = (0..30).any(|_| {
            now += WINDOW / 20;
            lockouts.failed(source(1), now).is_some()
        });
        assert!(locked);
    }

    #[test]
    fn success_and_time_make_good() {
        let lockouts = Lockouts::new(1);
        lockouts.failed(key(1), NOW);
        lockouts.succeeded(key(1));
        assert_eq!(lockouts.failed(key(1), NOW), None);
        assert!(lockouts.failed(key(1), NOW).is_some());
        let later = NOW + WINDOW + Duration::MINUTE;
        assert_eq!(lockouts.failed(key(1), later), None, "forgotten");
        let earlier = NOW - Duration::DAY;
        let wait = lockouts.wait(&[key(1)], earlier).expect("a clock set back");
        assert!(wait <= LOCKOUT_MAX);
    }

    #[test]
    fn who_claims_a_key_does_not_lock_its_owner_out() {
        let lockouts = Lockouts::new(0);
        assert!(lockouts.failed(Subject::ClaimedKey([1; 32]), NOW).is_some());
        assert_eq!(lockouts.wait(&[Subject::Key([1; 32])], NOW), None);
    }

    #[test]
    fn a_flood_of_sources_makes_no_room_for_itself() {
        let lockouts = Lockouts::new(0);
        let count = u32::try_from(COUNTED_MAX).expect("small");
        for n in 0..count {
            assert!(lockouts.failed(source(n), NOW).is_some());
        }
        assert_eq!(lockouts.wait(&[source(count)], NOW), Some(Duration::SECOND));
        assert!(lockouts.failed(source(count), NOW).is_some());
        assert!(
            lockouts.wait(&[source(7)], NOW).is_some(),
            "what was counted stays"
        );
        // Who has proved its key is none of them, and is counted as ever.
        assert_eq!(lockouts.wait(&[key(1)], NOW), None);
        assert_eq!(lockouts.failed(key(1), NOW), Some(Duration::SECOND));
        assert_eq!(lockouts.failed(key(1), NOW), Some(Duration::seconds(2)));
        assert!(lockouts.wait(&[key(1)], NOW).is_some());
        let later = NOW + WINDOW + LOCKOUT_MAX;
        assert_eq!(lockouts.wait(&[source(count)], later), None);
        assert!(lockouts.lock().is_empty());
    }
}
