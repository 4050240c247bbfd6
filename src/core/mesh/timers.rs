//! The one timer heap: every deadline of the core, popped by time, then by rank, then by age.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::core::ids::{AgentName, LinkId, NodeKey};
use crate::core::membership::MemberTimer;
use crate::core::time::Instant;

/// What a deadline is for. None is ever cancelled: whoever handles one checks that it still matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Timer {
    /// Membership's own.
    Member(MemberTimer),
    /// Dial the seeds that are due.
    Seeds,
    /// Call some of the lost again.
    CallLost,
    /// Compare summaries with a random peer.
    Sync,
    /// Compare with a peer that was not sent a whole list when it was its turn.
    Lists,
    /// Pass on the records that have gathered.
    Relay,
    /// Tell who is alive, if that has changed again.
    Liveness,
    /// Ask a peer for the cards of members whose names are not known.
    AskCards,
    /// The process that this doubted link would replace has not answered.
    Probation(LinkId),
    /// A peer whose link was closed has not come back.
    Hint(NodeKey),
    /// Dials that were under way when the certificate was renewed are links by now, or will be none.
    RenewLate,
    /// A request to another node has taken too long.
    Request(u64),
    /// Something of what the nodes share is due.
    Shared,
    /// A message is to be tried, or is over.
    Outbox,
    /// Something of what should run is to be looked at.
    Desired,
    /// Permits are to be asked for, or one is over.
    Permits,
    /// Start an agent again.
    AgentRestart(AgentName, u64),
    /// The breaker of an agent has been open for long enough.
    AgentBreaker(AgentName, u64),
    /// Replace some of the links after this one that were made with a former certificate.
    Renew(Option<LinkId>),
    /// Agents have had long enough to stop.
    StopDeadline,
}

impl Timer {
    /// Among timers due at once, membership's come first and in foca's order.
    fn rank(&self) -> u8 {
        match self {
            Self::Member(timer) => timer.rank(),
            Self::Seeds
            | Self::CallLost
            | Self::Sync
            | Self::Lists
            | Self::Relay
            | Self::Liveness
            | Self::AskCards
            | Self::Probation(_)
            | Self::Hint(_)
            | Self::RenewLate
            | Self::Request(_)
            | Self::Shared
            | Self::Outbox
            | Self::Desired
            | Self::Permits
            | Self::AgentRestart(..)
            | Self::AgentBreaker(..)
            | Self::Renew(_)
            | Self::StopDeadline => 16,
        }
    }

    /// The name of the deadline, for the driver's log.
    fn reason(&self) -> &'static str {
        match self {
            Self::Member(_) => "gossip",
            Self::Seeds => "seeds",
            Self::CallLost => "call the lost",
            Self::Sync => "sync",
            Self::Lists => "lists",
            Self::Relay => "relay",
            Self::Liveness => "liveness",
            Self::AskCards => "ask for cards",
            Self::Probation(_) => "probation",
            Self::Hint(_) => "hint",
            Self::RenewLate => "renew late",
            Self::Request(_) => "request",
            Self::Shared => "shared state",
            Self::Outbox => "outbox",
            Self::Desired => "desired",
            Self::Permits => "permits",
            Self::AgentRestart(..) => "agent restart",
            Self::AgentBreaker(..) => "agent breaker",
            Self::Renew(_) => "renew links",
            Self::StopDeadline => "stop",
        }
    }
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    number: u64,
    timer: Timer,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |e: &Self| (e.at, e.timer.rank(), e.number);
        // Reversed: the heap's greatest is the earliest.
        key(other).cmp(&key(self))
    }
}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}

#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Entry>,
    number: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.number += 1;
        self.heap.push(Entry { at, number: self.number, timer });
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The earliest deadline and what it is for.
    pub(super) fn next(&self) -> Option<(Instant, &'static str)> {
        self.heap.peek().map(|entry| (entry.at, entry.timer.reason()))
    }

    /// The earliest timer, if it is due, and when it was.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        if self.heap.peek()?.at > now {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.timer))
    }
}
