//! Until when an exclusive agent may run, and who keeps that deadline.
//!
//! The core tells a later time several times before the last one is over. When it does not, because it cannot have the permit
//! renewed or stands still, this holds without it:
//!
//! - half a permit before the end the agent is given no more messages;
//! - a little before the end ([`limits::PERMIT_KEEPER_MARGIN`]) a keeper that runs ends the agent by itself, with all that it has
//!   started;
//! - at the end nothing that it sends or writes is taken any more, and its run is stopped;
//! - a process is killed at that moment by the kernel: its keeper has armed a timer that kills the keeper, and the agent dies
//!   with its parent. Both happens also while node, keeper and agent are stopped (`SIGSTOP`).
//!
//! The time is that of a clock that runs on while the machine is suspended. A virtual machine that is paused from outside has no
//! such clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::core::limits;
use crate::node::clock;

/// The permit of one agent.
#[derive(Debug)]
pub(super) struct Permit {
    /// By [`clock::boot_nanos`].
    until: watch::Sender<u64>,
}

impl Permit {
    /// A permit that is over at that time.
    pub(super) fn new(until: u64) -> Arc<Self> {
        Arc::new(Self { until: watch::Sender::new(until) })
    }

    /// It is over later.
    pub(super) fn extend(&self, until: u64) {
        self.until.send_if_modified(|was| {
            let is_later = until > *was;
            *was = until.max(*was);
            is_later
        });
    }

    /// When it is over.
    pub(super) fn until(&self) -> u64 {
        *self.until.borrow()
    }

    /// Hears of each later end.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.until.subscribe()
    }

    /// Whether the agent may run, and what it does counts.
    pub(super) fn holds(&self) -> bool {
        clock::boot_nanos() < self.until()
    }

    /// Whether the agent may be given another message.
    pub(super) fn takes_messages(&self) -> bool {
        let half = u64::try_from((limits::PERMIT / 2).as_nanos()).unwrap_or(u64::MAX);
        clock::boot_nanos().saturating_add(half) < self.until()
    }

    /// Waits until it is over.
    pub(super) async fn over(&self) {
        loop {
            let left = self.until().saturating_sub(clock::boot_nanos());
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_nanos(left)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_its_last_half_no_message_is_taken_and_after_it_nothing_holds() {
        let now = clock::boot_nanos();
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).expect("short");
        let permit = Permit::new(now + nanos(limits::PERMIT));
        assert!(permit.takes_messages() && permit.holds());
        let permit = Permit::new(now + nanos(limits::PERMIT / 2));
        assert!(!permit.takes_messages() && permit.holds());
        permit.extend(now + nanos(limits::PERMIT));
        assert!(permit.takes_messages());
        permit.extend(now);
        assert!(permit.takes_messages(), "it is never over sooner than was told");
        assert!(!Permit::new(now).holds());
    }
}
