//! The tests of the checkers: in each mesh all nodes break one rule, and a checker must name what came of it. Nodes
//! that keep the rules go through the same, and nothing is found.

use std::time::Duration;

use super::{Config, Fault, Workload, World};
use crate::core::mesh::Flaw;
use crate::core::model::Mode;

/// How many seeds a broken rule may pass before it counts as unnoticed; the same ones every time.
const SEEDS: u64 = 40;
/// How many seeds nodes that keep the rules go through.
const SEEDS_WHOLE: u64 = 5;

impl World {
    /// The process that has just started breaks the rule that this world is without.
    pub(super) fn spoil(&mut self, machine: usize) {
        let process = self.machines[machine].process.as_mut();
        if let (Some(flaw), Some(process)) = (self.config.flaw, process) {
            process.mesh.break_rule(flaw);
        }
    }
}

#[test]
fn a_floor_of_those_who_are_there_is_noticed_as_collected_before_a_member_has_it() {
    noticed(Flaw::FloorOfTheLiveView, a_member_is_cut_off_for_long, "it collects");
}

#[test]
fn a_grant_before_the_vote_is_stored_is_noticed_as_a_term_with_two_holders() {
    noticed(Flaw::GrantBeforeTheVoteIsStored, a_voter_dies_when_it_has_granted, "it holds the lease in term");
}

#[test]
fn a_maximum_in_place_of_the_gap_free_prefix_is_noticed_as_writes_that_count_as_known_and_are_not_there() {
    noticed(Flaw::MaximumForPrefix, a_member_misses_writes, "counts as known and is not there");
}

/// Some seed of a few shows it, as `invariant` says it, and no seed shows anything of nodes that keep the rule.
fn noticed(flaw: Flaw, drill: fn(&mut World), invariant: &str) {
    for seed in 0..SEEDS_WHOLE {
        assert_eq!(found(None, seed, drill), [""; 0], "seed {seed}, with all rules");
    }
    let mut others = Vec::new();
    for seed in 0..SEEDS {
        let found = found(Some(flaw), seed, drill);
        if let Some(what) = found.iter().find(|what| what.contains(invariant)) {
            return println!("{flaw:?}: noticed with seed {seed}: {what}");
        }
        others.extend(found);
    }
    panic!("{flaw:?} for {SEEDS} seeds, and nobody said that {invariant:?}: {others:#?}");
}

/// What the checkers say of three nodes that go through it.
fn found(flaw: Option<Flaw>, seed: u64, drill: fn(&mut World)) -> Vec<String> {
    let mut world = World::new(Config { flaw, ..Config::lan(3, seed) });
    world.start_all();
    let end = world.now() + seconds(60);
    let healthy = world.run_until(end, |world| (0..3).all(|machine| is_healthy_voter(world, machine)));
    assert!(healthy.is_some() || flaw.is_some(), "seed {seed}: not all become healthy");
    drill(&mut world);
    world.broken().to_vec()
}

fn is_healthy_voter(world: &World, machine: usize) -> bool {
    world.shared_view(machine).is_some_and(|view| {
        view.mode == Mode::Healthy && view.roster.is_some_and(|roster| roster.voter_count() == 3)
    })
}

fn a_member_is_cut_off_for_long(world: &mut World) {
    world.work(Workload::default(), seconds(40));
    world.run_for(seconds(5));
    world.cut(&[0, 1], &[2]);
    world.run_for(seconds(35));
}

/// The holder of the lease dies, another one is granted it by the third, and both die before the vote is on its disk.
fn a_voter_dies_when_it_has_granted(world: &mut World) {
    let Some(holder) = (0..3).find(|machine| world.lease_of(*machine).is_some()) else {
        return;
    };
    let others: Vec<_> = (0..3).filter(|machine| *machine != holder).collect();
    let (next, voter) = (others[0], others[1]);
    let commit_max = Some(Duration::from_millis(400));
    world.apply(&Fault::SlowDisk { machine: voter, commit_max });
    world.crash(holder);
    let end = world.now() + seconds(20);
    world.run_until(end, |world| world.lease_of(next).is_some());
    world.crash(voter);
    world.crash(next);
    world.apply(&Fault::SlowDisk { machine: voter, commit_max: None });
    world.start(holder);
    world.start(voter);
    world.run_for(seconds(20));
}

/// Again and again a member is cut off while the others write, and they write on when it is back.
fn a_member_misses_writes(world: &mut World) {
    world.work(Workload { pause: Duration::from_millis(100), ..Workload::default() }, seconds(40));
    for _ in 0..3 {
        world.cut(&[0, 1], &[2]);
        world.run_for(seconds(5));
        world.apply(&Fault::Heal);
        world.run_for(seconds(5));
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
