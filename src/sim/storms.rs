//! Seeded schedules of faults for a mesh that is written to: whatever can happen to its network, its processes, its
//! disks and its clocks, all of it over at the end.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::faults::{Fault, Schedule};
use crate::core::ids::NodeId;
use crate::core::wire::StateRequest;

/// The longest pause of a process in a storm.
const PAUSE_MAX_MS: u64 = 6_000;

impl Schedule {
    /// Faults for `span`. With `restores` a disk is sometimes replaced by an old copy of itself.
    #[must_use]
    pub fn storm(nodes: usize, seed: u64, span: Duration, restores: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x0005_708a);
        let mut faults = Vec::new();
        let mut at = Duration::from_millis(rng.random_range(0..3_000));
        while at < span {
            let machine = rng.random_range(0..nodes);
            for (after, fault) in strike(&mut rng, nodes, machine, restores) {
                faults.push((at + after, fault));
            }
            at += Duration::from_millis(rng.random_range(20..5_000));
        }
        faults.extend(calm(nodes, span));
        Self(faults)
    }

    /// The same, and machines leave the mesh for good, or join it, and a quorum is now larger and now as large as it
    /// must be.
    #[must_use]
    pub fn storm_of_members(nodes: usize, seed: u64, span: Duration) -> Self {
        let Self(mut faults) = Self::storm(nodes, seed, span, false);
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x00c0_3e60);
        let mut at = Duration::from_millis(rng.random_range(0..10_000));
        while at < span {
            // Whoever leaves last ends the mesh, also for those that were evicted and do not run: half of them stay.
            let machine = rng.random_range(nodes / 2..nodes);
            let later = at + Duration::from_millis(rng.random_range(100..15_000));
            match rng.random_range(0..8) {
                0..=3 => {
                    faults.push((at, Fault::Leave { machine }));
                    faults.push((later, Fault::Start { machine }));
                    // Two at once count on each other, unless they take care.
                    let (other, third) = (rng.random_range(nodes / 2..nodes), rng.random_range(0..nodes));
                    if rng.random() {
                        let soon = at + Duration::from_millis(rng.random_range(0..300));
                        faults.push((soon, Fault::Leave { machine: other }));
                        faults.push((later, Fault::Start { machine: other }));
                        let cut = |from, to| Fault::Cut { from: vec![from], to: vec![to] };
                        faults.extend([(at, cut(machine, third)), (at, cut(third, machine))]);
                        faults.push((soon + Duration::from_millis(500), Fault::Heal));
                    }
                }
                4 | 5 => faults.push((at, Fault::Start { machine })),
                _ => {
                    let value = ["auto", "2", "3", "4"][rng.random_range(0..4)];
                    let set = |value: &str| {
                        let (key, value) = ("quorum_size".to_owned(), value.to_owned());
                        let request = StateRequest::SetRoster { key, value, split_writes: false };
                        Fault::Ask { machine, request }
                    };
                    faults.push((at, set(value)));
                    // As many as a quorum needs later may not be there.
                    faults.push((later, set("auto")));
                }
            }
            at += Duration::from_millis(rng.random_range(500..20_000));
        }
        Self(faults)
    }
}

/// One or a few faults that belong together, each with when it happens.
fn strike(rng: &mut ChaCha8Rng, nodes: usize, machine: usize, restores: bool) -> Vec<(Duration, Fault)> {
    let now = Duration::ZERO;
    let soon = Duration::from_millis(rng.random_range(5..4_000));
    let later = soon + Duration::from_millis(rng.random_range(100..12_000));
    let start = Fault::Start { machine };
    match rng.random_range(0..20) {
        0..=4 => cut(rng, nodes).into_iter().map(|fault| (now, fault)).collect(),
        5..=7 => vec![(now, Fault::Heal)],
        8 | 9 => vec![(now, Fault::Crash { machine }), (soon, start)],
        10 => vec![(now, Fault::CrashAfterCommit { machine }), (later, start)],
        11 => {
            let crash = |machine| (now, Fault::Crash { machine });
            let start = |machine| (soon, Fault::Start { machine });
            (0..nodes).map(crash).chain((0..nodes).map(start)).collect()
        }
        12 => vec![
            (now, Fault::DiskFull { machine, full: true }),
            (later, Fault::DiskFull { machine, full: false }),
        ],
        13 => {
            let commit_max = Some(Duration::from_millis(rng.random_range(20..800)));
            vec![
                (now, Fault::SlowDisk { machine, commit_max }),
                (later, Fault::SlowDisk { machine, commit_max: None }),
            ]
        }
        14 => {
            let span = Duration::from_millis(rng.random_range(50..PAUSE_MAX_MS));
            vec![(now, Fault::Pause { machine, span })]
        }
        15 if restores => {
            vec![(now, Fault::Backup { machine }), (later, Fault::Restore { machine }), (later + soon, start)]
        }
        15 | 16 => {
            let by_ms = rng.random_range(-30_000..30_000);
            vec![
                (now, Fault::ClockStep { machine, by_ms }),
                (later, Fault::ClockStep { machine, by_ms: -by_ms }),
            ]
        }
        17 => {
            let node = name(rng.random_range(0..nodes));
            // Only the holder of the lease does it.
            let request = StateRequest::Evict { node };
            (0..nodes).map(|machine| (now, Fault::Ask { machine, request: request.clone() })).collect()
        }
        18 => {
            let value = if rng.random() { name(machine).to_string() } else { "none".to_owned() };
            let request =
                StateRequest::SetRoster { key: "tie_breaker".to_owned(), value, split_writes: false };
            (0..nodes).map(|machine| (now, Fault::Ask { machine, request: request.clone() })).collect()
        }
        _ => vec![(now, Fault::Loss(rng.random_range(0.0..0.2))), (later, Fault::Loss(0.0))],
    }
}

/// A cut in two or three, full or one way only, or of a single pair.
fn cut(rng: &mut ChaCha8Rng, nodes: usize) -> Vec<Fault> {
    let mut all: Vec<_> = (0..nodes).collect();
    all.shuffle(rng);
    let both = |from: &[usize], to: &[usize]| {
        [
            Fault::Cut { from: from.to_vec(), to: to.to_vec() },
            Fault::Cut { from: to.to_vec(), to: from.to_vec() },
        ]
    };
    let (one, other) = all.split_at(rng.random_range(1..nodes.max(2)));
    match rng.random_range(0..6) {
        0 => vec![Fault::Cut { from: one.to_vec(), to: other.to_vec() }],
        1 if nodes > 2 => both(&all[..1], &all[1..2]).to_vec(),
        2 if nodes > 2 => {
            let third = rng.random_range(1..nodes - 1);
            let mut cuts = both(&all[..third], &all[third..]).to_vec();
            cuts.extend(both(&all[third..=third], &all[third + 1..]));
            cuts
        }
        _ => both(one, other).to_vec(),
    }
}

/// Everything heals, and whoever does not run starts.
fn calm(nodes: usize, span: Duration) -> Vec<(Duration, Fault)> {
    // Faults of a few seconds that began before are over by then.
    let later = span + Duration::from_secs(17);
    let mut faults = vec![(span, Fault::Heal), (later, Fault::Loss(0.0)), (later, Fault::Heal)];
    for machine in 0..nodes {
        faults.push((later, Fault::DiskFull { machine, full: false }));
        faults.push((later, Fault::SlowDisk { machine, commit_max: None }));
        faults.push((later, Fault::Start { machine }));
    }
    faults
}

/// The name that a machine's node has in a world as it is made.
fn name(machine: usize) -> NodeId {
    NodeId::new(&format!("n{}", machine + 1)).expect("a valid name")
}
