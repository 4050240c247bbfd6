//! This node's wall clock: what it shows, what a step of it means, and how it stands beside those of the others.
//!
//! The wall clock orders nothing that is causal; it breaks ties between concurrent values. A node whose clock is far
//! ahead would win all of them, so one that is ahead of more than half of the voters that it hears doubts itself, until
//! it is not. Which of two clocks is the wrong one cannot be told: the one that is ahead gives way. A node that hears no
//! voter learns nothing of clocks, and thinks of its own what it thought before.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::Mesh;
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{Doubt, DoubtKind, Roster};
use crate::core::time::Instant;

/// A wall clock that was set by more than this makes the node doubt itself.
const STEP_MAX: Duration = Duration::from_secs(10);
/// One that was set by more than this costs the lease; a leap second does not.
const LEASE_STEP_MAX: Duration = Duration::from_millis(1_500);

/// What is known of the wall clocks of the others.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// By voter: milliseconds since 1970 at this core's time zero, by that voter's clock.
    offsets_ms: BTreeMap<NodeId, i128>,
    is_ahead: bool,
}

impl Clocks {
    /// What a voter's clock showed just now.
    pub(super) fn note(&mut self, voter: &NodeId, unix_ms: u64, now: Instant) {
        let offset = i128::from(unix_ms) - i128::from(now.as_nanos() / 1_000_000);
        self.offsets_ms.insert(voter.clone(), offset);
    }

    pub(super) fn forget_all_but(&mut self, roster: &Roster) {
        self.offsets_ms.retain(|node, _| roster.is_voter(node));
    }

    /// By how much a clock with this offset is ahead of those of more than half of these voters; zero when it is not.
    /// `None`: of none of them a clock is known.
    fn ahead<'a>(&self, own_ms: i128, voters: impl Iterator<Item = &'a NodeId>) -> Option<Duration> {
        let mut by_ms: Vec<_> = voters.filter_map(|node| Some(own_ms - self.offsets_ms.get(node)?)).collect();
        by_ms.sort_unstable();
        // More than half are at least so far behind.
        let least = *by_ms.get(by_ms.len().checked_sub(1)? / 2)?;
        Some(Duration::from_millis(u64::try_from(least).unwrap_or(0)))
    }
}

impl Mesh {
    /// What the wall clock shows.
    pub(in crate::core::mesh) fn on_wall_clock(&mut self, unix_ms: u64) {
        let expected = self.shared.unix_ms(self.now);
        let step = Duration::from_millis(expected.abs_diff(unix_ms));
        let by = i128::from(unix_ms) - i128::from(expected);
        self.shared.wall_offset_ms += by;
        if step <= STEP_MAX {
            self.shared.queue_offset_ms += by;
        }
        if step > LEASE_STEP_MAX {
            self.shared.register.drop_lease(self.now);
        }
        if step > STEP_MAX {
            self.shared.partition.doubt(Doubt::ClockStep(step), self.now);
        }
        self.judge_clock();
    }

    /// Whether this node's clock is too far ahead of the others' for it to write.
    pub(super) fn judge_clock(&mut self) {
        let others = self.shared.partition.reachable().iter().filter(|node| **node != self.own);
        let Some(ahead) = self.shared.clocks.ahead(self.shared.wall_offset_ms, others) else {
            return;
        };
        let was_ahead = self.shared.clocks.is_ahead;
        let bound = if was_ahead { limits::CLOCK_AHEAD_OVER } else { limits::CLOCK_AHEAD_MAX };
        let is_ahead = ahead > bound;
        self.shared.clocks.is_ahead = is_ahead;
        match (was_ahead, is_ahead) {
            (false, true) => self.shared.partition.doubt(Doubt::ClockAhead, self.now),
            (true, false) => self.shared.partition.doubt_over(DoubtKind::ClockAhead, self.now),
            (true, true) | (false, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: usize) -> NodeId {
        NodeId::new(&format!("n{n}")).expect("valid")
    }

    #[test]
    fn a_clock_is_ahead_of_most_by_what_more_than_half_are_behind_it() {
        let ahead = |theirs_ms: &[u64]| {
            let mut clocks = Clocks::default();
            let voters: Vec<_> = (0..theirs_ms.len()).map(node).collect();
            for (voter, unix_ms) in voters.iter().zip(theirs_ms) {
                clocks.note(voter, *unix_ms, Instant::ZERO);
            }
            clocks.ahead(100_000, voters.iter()).map(|ahead| ahead.as_secs())
        };
        assert_eq!(ahead(&[]), None);
        assert_eq!(ahead(&[30_000]), Some(70));
        assert_eq!(ahead(&[30_000, 100_000]), Some(0), "half is not most");
        assert_eq!(ahead(&[30_000, 40_000]), Some(60));
        assert_eq!(ahead(&[30_000, 40_000, 100_000]), Some(60));
        assert_eq!(ahead(&[30_000, 100_000, 200_000]), Some(0));
        assert_eq!(ahead(&[170_000, 180_000]), Some(0), "it is behind");
    }
}
