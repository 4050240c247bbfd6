//! The last beat of each voter: its number, so that only a new one counts, and when it came.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::core::ids::NodeId;
use crate::core::model::Electorate;
use crate::core::time::Instant;

/// A process start and a number within it: later ones are greater.
type Count = (u64, u64);

#[derive(Debug, Default)]
pub(super) struct Beats {
    /// Voters only: at most as many as the roster has.
    last: BTreeMap<NodeId, Last>,
}

#[derive(Debug)]
struct Last {
    count: Count,
    /// By whoever heard it first. `None`: when it was sent is unknown.
    heard: Option<Instant>,
}

impl Beats {
    /// Whether the beat is a new one. One without a time only makes those before it old.
    pub(super) fn take_in(&mut self, from: &NodeId, count: Count, heard: Option<Instant>) -> bool {
        match self.last.get_mut(from) {
            Some(last) if last.count >= count => false,
            Some(last) => {
                *last = Last { count, heard: heard.max(last.heard) };
                true
            }
            None => {
                self.last.insert(from.clone(), Last { count, heard });
                true
            }
        }
    }

    pub(super) fn heard(&self, voter: &NodeId) -> Option<Instant> {
        self.last.get(voter)?.heard
    }

    /// Forgets when beats came, and remembers which did.
    pub(super) fn unhear(&mut self) {
        self.last.values_mut().for_each(|last| last.heard = None);
    }

    pub(super) fn retain(&mut self, is_voter: impl Fn(&NodeId) -> bool) {
        self.last.retain(|node, _| is_voter(node));
    }

    pub(super) fn heard_within(&self, span: Duration, now: Instant) -> impl Iterator<Item = &NodeId> {
        let in_time = move |last: &Last| last.heard.is_some_and(|heard| now < heard + span);
        self.last.iter().filter(move |(_, last)| in_time(last)).map(|(node, _)| node)
    }

    /// When the next beat becomes too old, after `now`.
    pub(super) fn next_expiry(&self, span: Duration, now: Instant) -> Option<Instant> {
        self.last.values().filter_map(|last| Some(last.heard? + span)).filter(|at| *at > now).min()
    }

    /// The latest time by which the node had heard a quorum whose every beat is at least that new. `own` is the node
    /// itself if it votes; it hears itself all the time.
    pub(super) fn majority_heard(
        &self,
        electorate: &Electorate,
        own: Option<&NodeId>,
        now: Instant,
    ) -> Option<Instant> {
        let mut heard: BTreeSet<NodeId> = own.into_iter().cloned().collect();
        if electorate.is_quorum(&heard) {
            return Some(now);
        }
        let mut newest_first: Vec<_> =
            self.last.iter().filter_map(|(node, last)| Some((last.heard?, node))).collect();
        newest_first.sort_by(|a, b| b.cmp(a));
        for (at, node) in newest_first {
            heard.insert(node.clone());
            if electorate.is_quorum(&heard) {
                return Some(at);
            }
        }
        None
    }
}
