//! The laws, over random runs.

use proptest::test_runner::{Config, TestRunner};

use super::world::{Mood, World, steps};

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
