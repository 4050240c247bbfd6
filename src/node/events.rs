//! What happened, for those who watch: a bounded, numbered history and a live feed behind it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::clock;
use crate::core::limits;
use crate::core::model::Event;

/// One event as watchers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    /// Grows by one with each event of this process; resuming after it misses nothing that is kept.
    pub sequence: u64,
    /// Milliseconds since 1970 by this node's wall clock, when this node saw it.
    pub unix_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// The history and its followers.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<Kept>,
    live: broadcast::Sender<Numbered>,
}

#[derive(Debug, Default)]
struct Kept {
    sequence: u64,
    events: VecDeque<Numbered>,
}

/// Where a watcher begins.
#[derive(Debug)]
pub struct Subscription {
    /// Events that were kept after the asked-for sequence number, oldest first.
    pub missed: Vec<Numbered>,
    /// Whether events between that number and the first of `missed` are gone.
    pub gap: bool,
    /// Everything from then on.
    pub live: broadcast::Receiver<Numbered>,
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Mutex::default(), live: broadcast::Sender::new(limits::EVENTS_MAX) }
    }
}

impl Events {
    /// Adds an event; the oldest gives way.
    pub fn push(&self, event: Event) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.sequence += 1;
        let numbered = Numbered { sequence: kept.sequence, unix_ms: clock::unix_ms(), event };
        if kept.events.len() >= limits::EVENTS_MAX {
            kept.events.pop_front();
        }
        kept.events.push_back(numbered.clone());
        // Under the lock, so that a new follower neither misses it nor sees it twice. Nobody following is fine.
        let _ = self.live.send(numbered);
    }

    /// Follows the events after `after`; `None` begins with the next one.
    #[must_use]
    pub fn subscribe(&self, after: Option<u64>) -> Subscription {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.subscribe();
        let Some(after) = after else {
            return Subscription { missed: Vec::new(), gap: false, live };
        };
        // A number that this process has not given comes from an earlier one, whose events are gone.
        let is_foreign = after > kept.sequence;
        let after = if is_foreign { 0 } else { after };
        let missed: Vec<_> = kept.events.iter().filter(|e| e.sequence > after).cloned().collect();
        let oldest = kept.events.front().map_or(kept.sequence + 1, |e| e.sequence);
        Subscription { gap: is_foreign || after + 1 < oldest, missed, live }
    }

    /// Watchers that follow now.
    #[must_use]
    pub fn followers(&self) -> usize {
        self.live.receiver_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::NodeId;

    fn event(n: usize) -> Event {
        let node = NodeId::new("n").expect("valid");
        Event::DuplicateNode { node, address: n.to_string() }
    }

    #[test]
    fn a_resumed_watcher_sees_each_event_once_and_hears_of_a_gap() {
        let events = Events::default();
        for n in 0..10 {
            events.push(event(n));
        }
        let resumed = events.subscribe(Some(4));
        assert_eq!(resumed.missed.iter().map(|e| e.sequence).collect::<Vec<_>>(), [5, 6, 7, 8, 9, 10]);
        assert!(!resumed.gap);
        for n in 0..limits::EVENTS_MAX {
            events.push(event(n));
        }
        let resumed = events.subscribe(Some(4));
        assert!(resumed.gap);
        assert_eq!(resumed.missed.len(), limits::EVENTS_MAX);
        let foreign = events.subscribe(Some(1_000_000));
        assert!(foreign.gap, "a number of an earlier process");
        assert_eq!(foreign.missed.len(), limits::EVENTS_MAX, "what this process keeps is told");
    }
}
