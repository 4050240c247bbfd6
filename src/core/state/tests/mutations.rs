//! The tests of the tests: each rule of the state is broken, and each duty of its caller neglected, and random runs
//! must notice.

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::world::{Context, Duty, Mood, NODES, Outcome, Step, World, steps};
use crate::core::state::Rule;

/// How many random runs a broken rule may pass before it counts as unnoticed; the same ones every time.
const CASES: u32 = 10_000;

/// In which kind of runs, and in how many of them, one failed.
fn noticed_after(world: impl Fn() -> World) -> Option<(Mood, u32)> {
    Mood::ALL.into_iter().find_map(|mood| {
        let config =
            Config { cases: CASES, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let runs = std::cell::Cell::new(0);
        let run = TestRunner::new_with_rng(config, rng).run(&steps(mood, 60), |steps| {
            runs.set(runs.get() + 1);
            let fails = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut world = world();
                world.run(&steps);
                world.settle();
            }));
            fails.map_err(|_| TestCaseError::fail("noticed"))
        });
        run.is_err().then(|| (mood, runs.get()))
    })
}

#[test]
fn every_rule_that_is_broken_is_noticed() {
    let mut unnoticed = Vec::new();
    for rule in [
        Rule::GapsStayOpen,
        Rule::ReplacedStaysReplaced,
        Rule::ActorInDoubtIsOver,
        Rule::RowsInDoubtComeFirst,
        Rule::ForgetBelowTheFloor,
        Rule::SnapshotDropsUnnamed,
        Rule::SnapshotIsWhole,
        Rule::SnapshotBringsItsFloor,
        Rule::DurableIsStored,
    ] {
        match noticed_after(|| World::breaking(rule)) {
            Some((mood, runs)) => println!("{rule:?} broken: noticed in run {runs}, {mood:?}"),
            None => unnoticed.push(rule),
        }
    }
    assert!(unnoticed.is_empty(), "broken for {CASES} runs without anybody noticing: {unnoticed:?}");
}

#[test]
fn every_duty_that_is_neglected_is_noticed() {
    let mut unnoticed = Vec::new();
    for duty in [Duty::ActorPerProcess, Duty::FlushWithTheWrite, Duty::FloorOfAllMembers, Duty::CloseLast] {
        match noticed_after(|| World::neglecting(duty)) {
            Some((mood, runs)) => println!("{duty:?} neglected: noticed in run {runs}, {mood:?}"),
            None => unnoticed.push(duty),
        }
    }
    assert!(unnoticed.is_empty(), "neglected for {CASES} runs without anybody noticing: {unnoticed:?}");
}

/// A node that is no member any more has the first value; the members have replaced it, and everybody who counts has
/// forgotten that; then the next write reaches that node alone, and says nothing of the first.
fn a_write_from_above_the_floor() -> Vec<Step> {
    let write =
        |node| Step::Write { node, key: 0, delete: false, context: Context::Seen, outcome: Outcome::Stored };
    let sync = |from, to| Step::Sync { from, to, parts: usize::MAX };
    let flush = |node| Step::Flush { node, stored: true };
    let mut steps = vec![write(1)];
    steps.extend([0, 2, 3].into_iter().flat_map(|to| [sync(1, to), flush(to)]));
    steps.extend([Step::Evict { node: 3 }, sync(1, 3), write(0)]);
    steps.extend([1, 2].into_iter().flat_map(|to| [sync(0, to), flush(to)]));
    steps.push(Step::RaiseFloor { misses: NODES });
    steps.push(write(0));
    // Each of the three writes left a message to each other node; the last is for the node that is behind.
    steps.push(Step::Deliver { message: 8, keep: false });
    steps
}

#[test]
fn a_write_from_a_sender_whose_floor_is_not_reached_is_not_taken_in() {
    World::new().run(&a_write_from_above_the_floor());
    let neglected = std::panic::catch_unwind(|| {
        World::neglecting(Duty::MindTheSendersFloor).run(&a_write_from_above_the_floor());
    });
    assert!(neglected.is_err(), "it was taken in, and nobody noticed");
}
