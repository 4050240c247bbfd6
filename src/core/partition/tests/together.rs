//! Several nodes whose network is cut again and again: a minority never stays healthy for longer than it takes to
//! detect the cut, and once a quorum hears each other for long enough it serves.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const STEP: Duration = Duration::from_millis(50);

/// Five nodes and the group that each is in.
struct Mesh {
    nodes: Vec<Partition>,
    rounds: [u64; 5],
    groups: [u8; 5],
    /// Whether each node's group is a quorum, and since when that and, for a minority, the group are the same. Beats
    /// of the former group count until they are too old, so a minority that changes its members counts anew.
    steady: [(bool, Instant); 5],
    now: Instant,
}

impl Mesh {
    fn new() -> Self {
        let roster = roster(&NAMES, &[]);
        let of = |name: &&str| {
            let mut here = Partition::new(node(name), PartitionConfig::default(), Instant::ZERO);
            here.set_roster(&roster, Instant::ZERO);
            here
        };
        let steady = [(true, Instant::ZERO); 5];
        Self {
            nodes: NAMES.iter().map(of).collect(),
            rounds: [0; 5],
            groups: [0; 5],
            steady,
            now: Instant::ZERO,
        }
    }

    fn cut(&mut self, groups: [u8; 5]) {
        let with = |groups: [u8; 5], at: usize| groups.map(|group| group == groups[at]);
        for at in 0..5 {
            let (before, after) = (with(self.groups, at), with(groups, at));
            let quorum = after.iter().filter(|same| **same).count() >= 3;
            if self.steady[at].0 != quorum || (!quorum && before != after) {
                self.steady[at] = (quorum, self.now);
            }
        }
        self.groups = groups;
    }

    fn step(&mut self) {
        self.now = self.now + STEP;
        for (at, name) in NAMES.iter().enumerate() {
            if self.nodes[at].poll_timeout() <= self.now {
                self.nodes[at].handle_timeout(self.now);
            }
            while let Some(effect) = self.nodes[at].poll() {
                match effect {
                    PartitionEffect::Beat { number } => {
                        for other in (0..5).filter(|other| self.groups[*other] == self.groups[at]) {
                            self.nodes[other].handle_beat(&node(name), (1, number), Some(self.now), self.now);
                        }
                    }
                    PartitionEffect::Synchronise { round } => self.rounds[at] = round,
                    PartitionEffect::ModeChanged { .. } | PartitionEffect::AskHandler { .. } => {}
                }
            }
            for other in (0..5).filter(|other| self.groups[*other] == self.groups[at]) {
                self.nodes[at].handle_synchronised(self.rounds[at], &node(NAMES[other]), self.now);
            }
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (at, name) in NAMES.iter().enumerate() {
            let (quorum, since) = self.steady[at];
            let mode = self.nodes[at].mode();
            let steady_for = self.now.since(since);
            if !quorum && steady_for > DETECTION + STEP {
                prop_assert_ne!(mode, Mode::Healthy, "{} at {:?}", name, self.now);
            }
            let enough = limits::HOLD_DOWN_MAX + 2 * DETECTION;
            if quorum && steady_for > enough {
                prop_assert_eq!(mode, Mode::Healthy, "{} at {:?}", name, self.now);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_minority_is_never_healthy_for_longer_than_the_detection_time_and_a_majority_always_serves_again(
        cuts in prop::collection::vec((prop::array::uniform5(0u8..3), 1u32..120), 1..30),
    ) {
        let mut mesh = Mesh::new();
        for (groups, steps) in cuts {
            mesh.cut(groups);
            for _ in 0..steps {
                mesh.step();
                mesh.check()?;
            }
        }
        mesh.cut([0; 5]);
        for _ in 0..1500 {
            mesh.step();
            mesh.check()?;
        }
    }
}
