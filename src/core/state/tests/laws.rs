//! The laws, over random runs.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::world::{World, steps};

/// How many random runs each law is tried with.
const CASES: u32 = 10_000;

#[test]
fn every_node_shows_what_its_clock_says_and_all_come_to_be_equal() {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let run = runner.run(&steps(60), |steps| {
        let mut world = World::new();
        world.run(&steps);
        world.settle();
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}

proptest! {
    #![proptest_config(Config { cases: 200, failure_persistence: None, ..Config::default() })]
    #[test]
    fn a_long_run_comes_to_rest(steps in steps(400)) {
        let mut world = World::new();
        world.run(&steps);
        world.settle();
    }
}
