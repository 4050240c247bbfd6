//! What happened, for those who watch: a bounded, numbered history and a live feed behind it. One of them holds the
//! events of the mesh, another the changes of the state.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::clock;
use crate::core::limits;
use crate::core::model::Event;
use crate::core::wire::StateChange;

/// One event as watchers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered<T = Event> {
    /// Grows by one with each event of this process; resuming after it misses nothing that is kept.
    pub sequence: u64,
    /// Milliseconds since 1970 by this node's wall clock, when this node saw it.
    pub unix_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: T,
}

/// The history and its followers.
#[derive(Debug)]
pub struct Events<T = Event> {
    kept: Mutex<Kept<T>>,
    live: broadcast::Sender<Numbered<T>>,
    bounds: Bounds<T>,
}

/// How much is kept. The oldest give way; the newest is kept whatever its size.
#[derive(Debug)]
struct Bounds<T> {
    count_max: usize,
    bytes_max: usize,
    weigh: fn(&T) -> usize,
}

#[derive(Debug)]
struct Kept<T> {
    sequence: u64,
    events: VecDeque<Numbered<T>>,
    bytes: usize,
}

/// Where a watcher begins.
#[derive(Debug)]
pub struct Subscription<T = Event> {
    /// Events that were kept after the asked-for sequence number, oldest first.
    pub missed: Vec<Numbered<T>>,
    /// Whether events between that number and the first of `missed` are gone.
    pub gap: bool,
    /// The number of the newest event so far: what comes live is younger.
    pub upto: u64,
    /// Everything from then on.
    pub live: broadcast::Receiver<Numbered<T>>,
}

impl Default for Events<Event> {
    fn default() -> Self {
        let bounds = Bounds { count_max: limits::EVENTS_MAX, bytes_max: usize::MAX, weigh: |_| 0 };
        Self::new(bounds, limits::EVENTS_MAX)
    }
}

impl Default for Events<StateChange> {
    fn default() -> Self {
        let weigh =
            |change: &StateChange| change.key.len() + change.value.as_ref().map_or(0, bytes::Bytes::len);
        let bounds = Bounds { count_max: limits::CHANGES_MAX, bytes_max: limits::CHANGES_BYTES_MAX, weigh };
        Self::new(bounds, limits::CHANGES_WAITING_MAX)
    }
}

impl<T: Clone> Events<T> {
    fn new(bounds: Bounds<T>, waiting_max: usize) -> Self {
        let kept = Mutex::new(Kept { sequence: 0, events: VecDeque::new(), bytes: 0 });
        Self { kept, live: broadcast::Sender::new(waiting_max), bounds }
    }

    /// Adds an event; the oldest gives way.
    pub fn push(&self, event: T) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.sequence += 1;
        let numbered = Numbered { sequence: kept.sequence, unix_ms: clock::unix_ms(), event };
        kept.bytes += (self.bounds.weigh)(&numbered.event);
        kept.events.push_back(numbered.clone());
        while kept.events.len() > self.bounds.count_max
            || (kept.bytes > self.bounds.bytes_max && kept.events.len() > 1)
        {
            let oldest = kept.events.pop_front().expect("it is longer than one");
            kept.bytes -= (self.bounds.weigh)(&oldest.event);
        }
        // Under the lock, so that a new follower neither misses it nor sees it twice. Nobody following is fine.
        let _ = self.live.send(numbered);
    }

    /// Follows the events after `after`; `None` begins with the next one.
    #[must_use]
    pub fn subscribe(&self, after: Option<u64>) -> Subscription<T> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.subscribe();
        let upto = kept.sequence;
        let Some(after) = after else {
            return Subscription { missed: Vec::new(), gap: false, upto, live };
        };
        // A number that this process has not given comes from an earlier one, whose events are gone.
        let is_foreign = after > kept.sequence;
        let after = if is_foreign { 0 } else { after };
        let missed: Vec<_> = kept.events.iter().filter(|e| e.sequence > after).cloned().collect();
        let oldest = kept.events.front().map_or(kept.sequence + 1, |e| e.sequence);
        Subscription { gap: is_foreign || after + 1 < oldest, missed, upto, live }
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

    #[test]
    fn large_changes_leave_room_for_fewer_and_the_newest_is_always_kept() {
        let changes = Events::<StateChange>::default();
        let change = |bytes: usize| StateChange {
            key: "k".to_owned(),
            value: Some(vec![0; bytes].into()),
            siblings: 1,
        };
        changes.push(change(limits::CHANGES_BYTES_MAX / 2));
        changes.push(change(limits::CHANGES_BYTES_MAX / 2));
        let kept = changes.subscribe(Some(0));
        assert_eq!((kept.gap, kept.upto), (true, 2));
        assert_eq!(kept.missed.iter().map(|e| e.sequence).collect::<Vec<_>>(), [2]);
        changes.push(change(2 * limits::CHANGES_BYTES_MAX));
        changes.push(change(1));
        assert_eq!(changes.subscribe(Some(0)).missed.len(), 1);
        changes.push(change(1));
        assert_eq!(changes.subscribe(Some(3)).missed.len(), 2, "what has given way no longer counts");
        assert!(!changes.subscribe(Some(3)).gap);
    }
}
