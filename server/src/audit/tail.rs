//! Where the log ends, as far as this replica knows: what wakes those who follow it.
//!
//! The writer says it with each commit; what other replicas append is looked for a few times a
//! second, and only while somebody follows. The writer waits for nobody: it says a number, and
//! readers fetch the rows by themselves.

use std::sync::Arc;

use tokio::sync::watch;

/// An end of the log that was committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// How many events there are, at least.
    pub size: u64,
    /// An epoch that was committed no earlier than any of them: a state of it covers them.
    pub epoch: u64,
}

/// Tells the end of the log on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tail(Arc<watch::Sender<End>>);

impl Default for Tail {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(End::default())))
    }
}

impl Tail {
    /// Takes note of what was committed. It never goes back.
    pub fn saw(&self, size: u64, epoch: u64) {
        self.0.send_if_modified(|end| {
            let grown = size > end.size || epoch > end.epoch;
            end.size = end.size.max(size);
            end.epoch = end.epoch.max(epoch);
            grown
        });
    }

    /// The end as it is known now.
    pub fn end(&self) -> End {
        *self.0.borrow()
    }

    /// Tells whoever follows of each new end.
    pub fn follow(&self) -> watch::Receiver<End> {
        self.0.subscribe()
    }

    /// Whether somebody follows.
    pub fn is_followed(&self) -> bool {
        self.0.receiver_count() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_never_goes_back_and_says_nothing_twice() {
        let tail = Tail::default();
        assert!(!tail.is_followed());
        let mut end = tail.follow();
        assert!(tail.is_followed());
        tail.saw(5, 2);
        assert_eq!(*end.borrow_and_update(), End { size: 5, epoch: 2 });
        for (size, epoch) in [(4, 2), (5, 1), (0, 0)] {
            tail.saw(size, epoch);
            assert!(!end.has_changed().expect("it is there"));
        }
        tail.saw(3, 3);
        assert_eq!(*end.borrow_and_update(), End { size: 5, epoch: 3 });
    }
}
