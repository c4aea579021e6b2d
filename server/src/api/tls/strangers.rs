//! Connections without a client certificate, counted by where they come from: whoever has
//! proved nothing could else hold open as many as there are file descriptors.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The open connections of strangers; clones share the count.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Strangers {
    /// A place for one more connection from a network, which has at most `max` of them.
    pub(super) fn place(&self, network: IpAddr, max: usize) -> Option<Place> {
        let mut counts = self.lock();
        let count = counts.get(&network).copied().unwrap_or(0);
        if count >= max {
            return None;
        }
        counts.insert(network, count + 1);
        let of = self.clone();
        Some(Place { of, network })
    }

    // Every update leaves the map usable, so a panic elsewhere need not close the door.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stranger's place, given back when its connection ends.
#[derive(Debug)]
pub(crate) struct Place {
    of: Strangers,
    network: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.of.lock();
        let count = counts.get(&self.network).copied().unwrap_or(0);
        match count.checked_sub(1).filter(|left| *left > 0) {
            Some(left) => drop(counts.insert(self.network, left)),
            None => drop(counts.remove(&self.network)),
        }
    }
}
