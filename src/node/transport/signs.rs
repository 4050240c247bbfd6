//! Who hears what the network says of a destination: the dials that wait for it, and the core, for the
//! links that end there.
//!
//! A dial to a port where nothing listens is over at once. Of a live link it is a hint: the process at its
//! other end is likely gone, or a filter lies.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::socket::{Unreached, canonical};
use crate::core::contract::Sign;
use crate::core::limits;

/// The dials under way, by where they go. As many entries as dials at most.
#[derive(Debug, Default)]
pub(super) struct DialSigns {
    waiting: Mutex<HashMap<SocketAddr, watch::Sender<Option<Sign>>>>,
}

impl DialSigns {
    /// What is said of an address from now on.
    pub(super) fn watch(self: &Arc<Self>, address: SocketAddr) -> WatchedDial {
        let address = canonical(address);
        let said = match self.lock().entry(address) {
            Entry::Occupied(entry) => entry.get().subscribe(),
            Entry::Vacant(entry) => entry.insert(watch::Sender::new(None)).subscribe(),
        };
        WatchedDial { all: Arc::clone(self), address, said }
    }

    pub(super) fn tell(&self, found: Unreached) {
        if let Some(dial) = self.lock().get(&found.address) {
            dial.send_replace(Some(found.sign));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, watch::Sender<Option<Sign>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A dial, for as long as it lasts.
#[derive(Debug)]
pub(super) struct WatchedDial {
    all: Arc<DialSigns>,
    address: SocketAddr,
    said: watch::Receiver<Option<Sign>>,
}

impl WatchedDial {
    /// Returns once the other machine has said that nothing listens there.
    pub(super) async fn refused(&mut self) {
        while self.said.changed().await.is_ok() {
            if *self.said.borrow_and_update() == Some(Sign::PortUnreachable) {
                return;
            }
        }
    }

    /// The last word of the network, for a dial that came to nothing.
    pub(super) fn last_word(&self) -> impl fmt::Display + use<> {
        self.said.borrow().map_or_else(String::new, |sign| format!(" (the network says: {})", sign.as_str()))
    }
}

impl Drop for WatchedDial {
    fn drop(&mut self) {
        let mut waiting = self.all.lock();
        // This one's receiver is still there.
        if waiting.get(&self.address).is_some_and(|dial| dial.receiver_count() <= 1) {
            waiting.remove(&self.address);
        }
    }
}

/// Lets one sign about an address through per [`limits::HINT_INTERVAL`].
#[derive(Debug, Default)]
pub(super) struct HintPace {
    last: HashMap<SocketAddr, Instant>,
}

impl HintPace {
    pub(super) fn permits(&mut self, address: SocketAddr, now: Instant) -> bool {
        let is_recent = |at: &Instant| now.duration_since(*at) < limits::HINT_INTERVAL;
        if self.last.get(&address).is_some_and(is_recent) {
            return false;
        }
        if self.last.len() >= limits::HINTED_ADDRESSES_MAX {
            self.last.retain(|_, at| is_recent(at));
        }
        if self.last.len() >= limits::HINTED_ADDRESSES_MAX {
            return false;
        }
        self.last.insert(address, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(n: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(n).expect("a port")))
    }

    #[test]
    fn one_address_is_hinted_at_once_per_interval_and_the_table_is_bounded() {
        let mut pace = HintPace::default();
        let now = Instant::now();
        assert!(pace.permits(address(1), now));
        assert!(!pace.permits(address(1), now + limits::HINT_INTERVAL / 2));
        assert!(pace.permits(address(2), now));
        assert!(pace.permits(address(1), now + limits::HINT_INTERVAL));
        let later = now + Duration::from_secs(1);
        let permitted = (0..2 * limits::HINTED_ADDRESSES_MAX).filter(|n| pace.permits(address(*n), later));
        assert_eq!(permitted.count(), limits::HINTED_ADDRESSES_MAX);
        assert!(pace.permits(address(1), later + limits::HINT_INTERVAL));
    }

    #[tokio::test]
    async fn a_dial_hears_of_its_own_address_only_and_leaves_nothing_behind() {
        let all = Arc::new(DialSigns::default());
        let (mut one, other) = (all.watch(address(1)), all.watch(address(2)));
        all.tell(Unreached { address: address(1), sign: Sign::HostUnreachable });
        assert_eq!(one.last_word().to_string(), " (the network says: host unreachable)");
        assert_eq!(other.last_word().to_string(), "");
        let beside = all.watch(address(1));
        drop(beside);
        all.tell(Unreached { address: address(1), sign: Sign::PortUnreachable });
        one.refused().await;
        drop((one, other));
        assert!(all.lock().is_empty());
    }
}
