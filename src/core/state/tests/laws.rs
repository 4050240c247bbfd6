//! The laws, over random runs.

use proptest::test_runner::{Config, TestRunner};

use super::world::{Context, Mood, Outcome, Step, World, steps};

/// How many random runs the laws are tried with, in all moods together.
const CASES: u32 = 12_000;

fn try_all(cases: u32, steps_max: usize) {
    for mood in Mood::ALL {
        let cases = cases / Mood::ALL.len() as u32;
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let run = runner.run(&steps(mood, steps_max), |steps| {
            let mut world = World::new();
            world.run(&steps);
            world.settle();
            Ok(())
        });
        if let Err(error) = run {
            panic!("{mood:?}: {error}");
        }
    }
}

#[test]
fn every_node_shows_what_its_clock_says_and_all_come_to_be_equal() {
    try_all(CASES, 60);
}

#[test]
fn long_runs_come_to_rest() {
    try_all(300, 400);
}

/// A node that had half of a snapshot told a third one of it: values without what they had replaced, which is
/// forgotten below a floor that comes with the other half. A random run found it.
#[test]
fn half_of_a_snapshot_is_not_told_on() {
    let write =
        |node, key, delete, context| Step::Write { node, key, delete, context, outcome: Outcome::Stored };
    let sync = |from, to, parts| Step::Sync { from, to, parts };
    let steps = [
        Step::Evict { node: 0 },
        Step::Evict { node: 2 },
        write(1, 0, false, Context::Seen),
        write(1, 0, false, Context::Seen),
        Step::Evict { node: 3 },
        write(1, 1, false, Context::Seen),
        sync(1, 2, 1),
        sync(1, 2, 5),
        write(1, 0, false, Context::Seen),
        Step::RaiseFloor { misses: 4 },
        write(1, 2, true, Context::Nothing),
        sync(1, 3, 5),
        sync(1, 0, 5),
        Step::Crash { node: 0 },
        sync(3, 0, 2),
        sync(0, 2, 5),
    ];
    let mut world = World::new();
    world.run(&steps);
    world.settle();
}
