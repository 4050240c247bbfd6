//! The detector of partitions, one node at a time and several together.

use super::*;
use crate::core::model::{Decision, Epoch, Permissions, Reads, Seat, Writes};

mod modes;
mod strategies;
mod together;

pub(super) const DETECTION: Duration = Duration::from_secs(2);

pub(super) fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

pub(super) fn nodes(names: &[&str]) -> BTreeSet<NodeId> {
    names.iter().map(|name| node(name)).collect()
}

pub(super) fn roster(voters: &[&str], others: &[&str]) -> Roster {
    let seat = |voter| Seat { voter, ..Seat::default() };
    let voters = voters.iter().map(|name| (node(name), seat(true)));
    Roster {
        epoch: Epoch { chain: 1, chain_id: 0, order: 1 },
        members: voters.chain(others.iter().map(|name| (node(name), seat(false)))).collect(),
        quorum_size: None,
        tie_breaker: None,
        split_writes: false,
        max_offline: Duration::from_secs(72 * 3600),
        audit: None,
    }
}

/// One detector and what the test knows of the others.
struct Bench {
    here: Partition,
    now: Instant,
    number: u64,
    /// The last round of synchronisation that was asked for.
    round: u64,
    changes: Vec<(Mode, Mode)>,
    reasons: Vec<ModeReason>,
    questions: Vec<(u64, PartitionView)>,
    beats: Vec<(u64, Instant)>,
}

impl Bench {
    fn new(own: &str, config: PartitionConfig, roster: &Roster) -> Self {
        let mut here = Partition::new(node(own), config, Instant::ZERO);
        here.set_roster(roster, Instant::ZERO);
        let mut bench = Self {
            here,
            now: Instant::ZERO,
            number: 0,
            round: 0,
            changes: vec![],
            reasons: vec![],
            questions: vec![],
            beats: vec![],
        };
        bench.drain();
        bench
    }

    /// Node a of the voters a, b, c; healthy.
    fn healthy(config: PartitionConfig) -> Self {
        let mut bench = Self::new("a", config, &roster(&["a", "b", "c"], &[]));
        bench.hear(&["b", "c"]);
        bench.synchronise(&["b", "c"]);
        assert_eq!(bench.here.mode(), Mode::Healthy);
        bench.changes.clear();
        bench.reasons.clear();
        bench
    }

    fn drain(&mut self) {
        while let Some(effect) = self.here.poll() {
            match effect {
                PartitionEffect::ModeChanged { from, to, reason } => {
                    self.changes.push((from, to));
                    self.reasons.push(reason);
                }
                PartitionEffect::Synchronise { round } => self.round = round,
                PartitionEffect::AskHandler { question, view } => self.questions.push((question, view)),
                PartitionEffect::Beat { number } => self.beats.push((number, self.now)),
            }
        }
    }

    fn hear(&mut self, from: &[&str]) {
        self.number += 1;
        for name in from {
            self.here.handle_beat(&node(name), (1, self.number), Some(self.now), self.now);
        }
        self.drain();
    }

    fn synchronise(&mut self, with: &[&str]) {
        for name in with {
            self.here.handle_synchronised(self.round, &node(name), self.now);
        }
        self.drain();
    }

    /// Lets time pass with every timer in time, and a beat of each of `hearing` every 100 ms.
    fn pass(&mut self, span: Duration, hearing: &[&str]) {
        let end = self.now + span;
        let mut next_beats = self.now;
        while self.now < end {
            let next = self.here.poll_timeout().min(next_beats).min(end).max(self.now);
            self.now = next;
            if next == next_beats {
                self.hear(hearing);
                next_beats = next + Duration::from_millis(100);
            }
            self.here.handle_timeout(next);
            self.drain();
            assert!(self.here.poll_timeout() > next, "timers that are done do not come back");
        }
    }

    fn mode_after(&mut self, span: Duration, hearing: &[&str]) -> Mode {
        self.pass(span, hearing);
        self.here.mode()
    }
}

const MS: Duration = Duration::from_millis(1);
