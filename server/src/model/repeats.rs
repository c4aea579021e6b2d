//! What a log says of a trouble that comes with every call: each reason once a second, and not
//! many of them. An outage must not fill the disk that it may have come from.

use std::time::{Duration, Instant};

/// How long after a line the same one may come again.
const QUIET: Duration = Duration::from_secs(1);
/// Lines of one second.
const LINES_MAX: u32 = 10;

/// What was said, and how much was not.
#[derive(Debug, Default)]
pub struct Repeats {
    /// Since when lines are counted, how many there were, and the last reason.
    since: Option<Instant>,
    lines: u32,
    reason: String,
    unsaid: usize,
}

impl Repeats {
    /// Nothing was said yet.
    pub const fn new() -> Self {
        Self {
            since: None,
            lines: 0,
            reason: String::new(),
            unsaid: 0,
        }
    }

    /// Whether this reason, which is that of `count` things, is worth a line now: then how many
    /// things were not spoken of since the last one.
    pub fn admit(&mut self, reason: &str, count: usize, now: Instant) -> Option<usize> {
        let again = self
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= QUIET);
        if again {
            (self.since, self.lines) = (Some(now), 0);
        }
        if !again && (self.reason == reason || self.lines >= LINES_MAX) {
            self.unsaid += count;
            return None;
        }
        self.lines += 1;
        reason.clone_into(&mut self.reason);
        Some(self.take())
    }

    /// How many things nobody spoke of; from now on none.
    pub fn take(&mut self) -> usize {
        std::mem::take(&mut self.unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_said_once_a_second_and_what_was_not_is_counted() {
        let (mut repeats, start) = (Repeats::new(), Instant::now());
        assert_eq!(repeats.admit("full", 3, start), Some(0));
        assert_eq!(repeats.admit("full", 4, start), None);
        assert_eq!(repeats.admit("gone", 1, start), Some(4));
        assert_eq!(repeats.admit("gone", 5, start + QUIET / 2), None);
        assert_eq!(repeats.admit("gone", 1, start + QUIET), Some(5));
        assert_eq!(repeats.take(), 0);
    }

    #[test]
    fn many_reasons_are_a_few_lines() {
        let (mut repeats, start) = (Repeats::new(), Instant::now());
        let said = (0..1000).filter(|n| repeats.admit(&n.to_string(), 1, start).is_some());
        assert_eq!(said.count(), LINES_MAX as usize);
        assert_eq!(repeats.take(), 1000 - LINES_MAX as usize);
        // A clock that was read by another thread.
        assert_eq!(repeats.admit("late", 1, start - QUIET), None);
    }
}
