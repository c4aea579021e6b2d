//! Keeps callers that fail to authenticate from filling the log: of each source and
//! second, the first few failures are events of their own; the rest becomes one summary.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use time::OffsetDateTime;

/// Failures of one source within one second that are listed singly.
pub const SINGLE_MAX: u32 = 5;
/// Sources counted apart within one second; all further ones share one count.
pub const SOURCES_MAX: usize = 256;

/// What is left to say about one source and second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The source (IPv6: its /64 network); `None` for all beyond [`SOURCES_MAX`] together.
    pub source: Option<IpAddr>,
    /// The second, Unix time.
    pub second: i64,
    /// Failures that were not listed singly.
    pub failures: u64,
}

/// Counts of the current second. Memory is bounded by [`SOURCES_MAX`].
#[derive(Debug, Default)]
pub struct Throttle {
    second: i64,
    counts: HashMap<Option<IpAddr>, u64>,
    finished: Vec<Summary>,
}

impl Throttle {
    /// Counts a failure; whether it is to be listed singly.
    pub fn admit(&mut self, source: Option<IpAddr>, now: OffsetDateTime) -> bool {
        self.turn(now);
        let source = source.map(network_of);
        let known = self.counts.contains_key(&source);
        // One place is kept for all sources beyond the limit together.
        let overflow = source.is_none() || (!known && self.counts.len() >= SOURCES_MAX - 1);
        let key = if overflow { None } else { source };
        let count = self.counts.entry(key).or_default();
        *count += 1;
        !overflow && *count <= u64::from(SINGLE_MAX)
    }

    /// Counts a failure that nobody is going to list.
    pub fn count(&mut self, now: OffsetDateTime) {
        self.turn(now);
        *self.counts.entry(None).or_default() += 1;
    }

    /// The summaries of seconds that are over.
    pub fn take(&mut self, now: OffsetDateTime) -> Vec<Summary> {
        self.turn(now);
        std::mem::take(&mut self.finished)
    }

    fn turn(&mut self, now: OffsetDateTime) {
        let second = now.unix_timestamp();
        if second == self.second {
            return;
        }
        let over = std::mem::replace(&mut self.second, second);
        for (source, count) in self.counts.drain() {
            let singly = if source.is_some() {
                u64::from(SINGLE_MAX)
            } else {
                0
            };
            let failures = count.saturating_sub(singly);
            if failures > 0 {
                self.finished.push(Summary {
                    source,
                    second: over,
                    failures,
                });
            }
        }
    }
}

/// Whom a limit per source counts as one: an IPv6 customer has at least a /64.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;

    fn ip(n: u32) -> Option<IpAddr> {
        Some(IpAddr::from(n.to_be_bytes()))
    }

    #[test]
    fn a_flood_becomes_one_summary_per_source_and_second() {
        let t = OffsetDateTime::UNIX_EPOCH + Duration::days(1);
        let mut throttle = Throttle::default();
        let singly = (0..1000).filter(|_| throttle.admit(ip(1), t)).count();
        assert_eq!(singly, SINGLE_MAX as usize);
        assert!(throttle.admit(ip(2), t));
        assert!(throttle.take(t).is_empty());
        let summaries = throttle.take(t + Duration::SECOND);
        let second = t.unix_timestamp();
        assert_eq!(
            summaries,
            [Summary {
                source: ip(1),
                second,
                failures: 995
            }]
        );
        assert!(
            throttle.admit(ip(1), t + Duration::SECOND),
            "a new second begins anew"
        );
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_source() {
        let t = OffsetDateTime::UNIX_EPOCH;
        let mut throttle = Throttle::default();
        let address = |n: u128| Some(IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | n)));
        let singly = (0..1000).filter(|n| throttle.admit(address(*n), t)).count();
        assert_eq!(singly, SINGLE_MAX as usize);
        throttle.count(t);
        let summaries = throttle.take(t + Duration::SECOND);
        let summed: u64 = summaries.iter().map(|s| s.failures).sum();
        assert_eq!(summed, 996);
    }

    #[test]
    fn many_sources_are_counted_together_and_none_is_lost() {
        let t = OffsetDateTime::UNIX_EPOCH;
        let mut throttle = Throttle::default();
        let singly = (0..100_000).filter(|n| throttle.admit(ip(*n), t)).count();
        let summaries = throttle.take(t + Duration::SECOND);
        assert!(singly < SOURCES_MAX && summaries.len() <= SOURCES_MAX);
        let summed: u64 = summaries.iter().map(|s| s.failures).sum();
        assert_eq!(singly as u64 + summed, 100_000);
    }
}
