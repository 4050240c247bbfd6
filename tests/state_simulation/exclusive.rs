//! Exclusive agents: never two of one slot at a time, whatever becomes of nodes, disks, voters and the network.
//!
//! The simulator itself looks whenever one begins: it has a permit, and runs nowhere else. What these tests add is that one
//! does run again, and how soon.

use rand::{RngExt, SeedableRng};
use shoal::core::limits::PERMIT;
use shoal::core::model::{Blueprint, Instances};
use shoal::core::wire::{Changes, DesiredRequest};

use super::desired::{
    apply, blueprint, desired, detail, isolate, name, planned, running, runs_once, scale, stands, until_runs,
};
use super::*;

fn exclusive(text: &str, count: u16, command: &str) -> Blueprint {
    let mut blueprint = blueprint(text, Instances::Count(count), command);
    blueprint.spec.exclusive = true;
    blueprint
}

/// A mesh in which a slot runs, and the machine that runs it.
fn with_one(nodes: usize, seed: u64) -> (World, usize) {
    let mut world = healthy_mesh(nodes, seed);
    apply(&mut world, 0, exclusive("one", 1, "v0"));
    until_runs(&mut world, "one", 1, "v0", seconds(10));
    let on = host(&world).expect("it runs");
    (world, on)
}

fn host(world: &World) -> Option<usize> {
    running(world, "one").values().flatten().next().map(|(machine, _)| *machine)
}

#[test]
fn an_exclusive_agent_begins_under_a_permit_and_goes_on_as_long_as_it_is_renewed() {
    for nodes in [1, 2, 3, 5] {
        let (mut world, on) = with_one(nodes, 3);
        world.run_for(seconds(60));
        assert_eq!((host(&world), world.report().exclusive_starts), (Some(on), 1), "{nodes} nodes");
        assert_eq!(world.broken(), [] as [String; 0]);
    }
}

#[test]
fn one_that_is_cut_off_ends_before_another_begins() {
    for seed in 0..10 {
        let (mut world, on) = with_one(3, seed);
        isolate(&mut world, on);
        let cut = world.now();
        let ended = world.run_until(cut + PERMIT, |world| host(world) != Some(on));
        assert!(ended.is_some(), "seed {seed}: it has ended when its permit is over");
        let begun = world.run_until(cut + seconds(15), |world| host(world).is_some_and(|now| now != on));
        let took = begun.expect("it runs again").since(cut);
        assert!(took < PERMIT + seconds(4), "seed {seed}: {took:?}");
        world.run_for(seconds(20));
        world.apply(&Fault::Heal);
        world.run_for(seconds(20));
        assert!(runs_once(&world, "one", 1, "v0"), "{:?}", running(&world, "one"));
        assert_eq!(world.broken(), [] as [String; 0], "seed {seed}");
    }
}

#[test]
fn one_whose_node_stands_still_is_ended_by_its_keeper_and_does_not_come_back_with_it() {
    for seed in 0..10 {
        let (mut world, on) = with_one(3, seed);
        world.pause(on, seconds(60));
        let paused = world.now();
        let ended = world.run_until(paused + PERMIT, |world| host(world) != Some(on));
        assert!(ended.is_some(), "seed {seed}: its keeper ends it");
        until_runs(&mut world, "one", 1, "v0", PERMIT + seconds(5));
        let now_on = host(&world);
        world.run_for(seconds(90));
        assert_eq!((host(&world), world.report().exclusive_starts), (now_on, 2), "seed {seed}");
        assert_eq!(world.broken(), [] as [String; 0], "seed {seed}");
    }
}

#[test]
fn one_whose_host_dies_begins_elsewhere_when_its_permit_is_over() {
    let mut took = vec![];
    for seed in 0..10 {
        let (mut world, on) = with_one(3, seed);
        world.crash(on);
        let begun = until_runs(&mut world, "one", 1, "v0", seconds(15));
        took.push(begun);
        assert_eq!(world.broken(), [] as [String; 0], "seed {seed}");
    }
    took.sort();
    println!("killed: runs again after {took:?}");
    assert!(took.iter().all(|took| *took < PERMIT + seconds(4)), "{took:?}");
}

#[test]
fn what_waits_for_its_permit_says_so_and_why() {
    let (mut world, on) = with_one(3, 4);
    world.crash(on);
    let (asked, end) = ((on + 1) % 3, world.now() + seconds(10));
    let mut told = std::collections::BTreeSet::new();
    while host(&world).is_none() && world.now() < end {
        world.run_for(Duration::from_millis(100));
        let slots = detail(&mut world, asked, "one").slots;
        told.extend(slots.into_iter().filter_map(|slot| Some((slot.state?, slot.why))));
    }
    let waits = |(state, why): &(String, String)| {
        state == "starting" && why.contains("who had it before may still run")
    };
    assert!(told.iter().any(waits), "{told:?}");
    assert!(runs_once(&world, "one", 1, "v0"));
    world.run_for(seconds(2));
    let slot = detail(&mut world, asked, "one").slots.remove(0);
    assert!(!slot.why.contains("permit"), "{slot:?}");
}

#[test]
fn one_whose_node_is_started_anew_waits_for_the_permit_of_the_process_before() {
    let (mut world, on) = with_one(1, 5);
    world.crash(on);
    world.start(on);
    until_runs(&mut world, "one", 1, "v0", seconds(20));
    assert_eq!(world.broken(), [] as [String; 0]);
    // Long before the others notice: nobody else is given it.
    let (mut world, on) = with_one(3, 5);
    world.crash(on);
    world.start(on);
    until_runs(&mut world, "one", 1, "v0", seconds(20));
    assert_eq!(world.broken(), [] as [String; 0]);
}

#[test]
fn one_that_is_moved_ends_first_and_begins_at_once() {
    let (mut world, on) = with_one(3, 9);
    let node = world.node(on).clone();
    planned(desired(&mut world, (on + 1) % 3, DesiredRequest::Drain { node, drained: true }));
    let asked = world.now();
    let moved = world.run_until(asked + seconds(5), |world| host(world).is_some_and(|now| now != on));
    let took = moved.expect("it is moved").since(asked);
    assert!(took < seconds(1), "nobody waits for a permit that was given back: {took:?}");
    assert_eq!((world.broken(), world.report().exclusive_starts), ([].as_slice(), 2));
}

#[test]
fn one_is_updated_on_its_node_and_its_next_version_begins_when_the_last_has_ended() {
    for nodes in [1, 3] {
        let (mut world, _) = with_one(nodes, 9);
        apply(&mut world, 0, exclusive("one", 1, "v1"));
        until_runs(&mut world, "one", 1, "v1", seconds(10));
        world.run_for(seconds(10));
        assert!(runs_once(&world, "one", 1, "v1"), "it is not taken back: {:?}", running(&world, "one"));
        assert_eq!((world.broken(), world.report().exclusive_starts), ([].as_slice(), 2), "{nodes} nodes");
    }
}

#[test]
fn an_agent_is_exclusive_from_the_beginning_or_never() {
    let (mut world, _) = with_one(3, 9);
    for (text, command, is_exclusive) in [("one", "v1", false), ("many", "v0", false)] {
        let mut next = blueprint(text, Instances::Count(1), command);
        next.spec.exclusive = is_exclusive;
        let changes = Changes { blueprints: vec![next], remove: vec![] };
        let answer = desired(&mut world, 1, DesiredRequest::Apply { changes, plan_id: None });
        assert_eq!(answer.is_ok(), text == "many", "{answer:?}");
        if let Err(why) = answer {
            assert!(why.contains("exclusive"), "{why}");
        }
    }
    world.run_for(seconds(5));
    let changes = Changes { blueprints: vec![exclusive("many", 1, "v0")], remove: vec![] };
    let answer = desired(&mut world, 1, DesiredRequest::Apply { changes, plan_id: None });
    assert!(answer.is_err_and(|why| why.contains("exclusive")), "it would begin while the other may run");
}

#[test]
fn without_a_quorum_nothing_exclusive_runs_and_with_one_it_does_again() {
    let (mut world, _) = with_one(3, 2);
    scale(&mut world, 0, "one", 4);
    until_runs(&mut world, "one", 4, "v0", seconds(10));
    for machine in 0..3 {
        isolate(&mut world, machine);
    }
    world.run_for(PERMIT);
    assert!(running(&world, "one").is_empty(), "{:?}", running(&world, "one"));
    world.apply(&Fault::Heal);
    until_runs(&mut world, "one", 4, "v0", seconds(30));
    assert_eq!(world.broken(), [] as [String; 0]);
}

#[test]
fn after_any_storm_each_exclusive_agent_runs_once_and_never_ran_twice() {
    let mut starts = 0;
    for seed in super::storms::seeds(10) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let nodes = rng.random_range(3..=5);
        let mut world = healthy_mesh(nodes, seed);
        let (mut count, mut version) = (3, 0);
        let mut paused_until = vec![world.now(); nodes];
        apply(&mut world, 0, exclusive("one", count, "v0"));
        for _ in 0..25 {
            let machine = rng.random_range(0..nodes);
            let is_up = world.shared_view(machine).is_some() && paused_until[machine] < world.now();
            match rng.random_range(0..9) {
                0 if is_up => world.crash(machine),
                1 if world.shared_view(machine).is_none() => world.start(machine),
                2 => isolate(&mut world, machine),
                3 | 4 => world.apply(&Fault::Heal),
                5 if is_up => {
                    let span = Duration::from_millis(rng.random_range(200..20_000));
                    paused_until[machine] = world.now() + span;
                    world.pause(machine, span);
                }
                6 if is_up => {
                    let instances = Instances::Count(rng.random_range(1..=5));
                    let request = DesiredRequest::Scale { name: name("one"), instances };
                    if desired(&mut world, machine, request).is_ok()
                        && let Instances::Count(wanted) = instances
                    {
                        count = wanted;
                    }
                }
                7 if is_up => {
                    let next = exclusive("one", count, &format!("v{}", version + 1));
                    let changes = Changes { blueprints: vec![next], remove: vec![] };
                    let request = DesiredRequest::Apply { changes, plan_id: None };
                    version += u32::from(desired(&mut world, machine, request).is_ok());
                }
                8 if is_up => {
                    world.crash(machine);
                    world.run_for(Duration::from_millis(rng.random_range(0..800)));
                    world.start(machine);
                }
                _ => {}
            }
            world.run_for(Duration::from_millis(rng.random_range(10..6_000)));
            assert_eq!(world.broken(), [] as [String; 0], "seed {seed}");
        }
        world.apply(&Fault::Heal);
        let down: Vec<_> = (0..nodes).filter(|machine| world.shared_view(*machine).is_none()).collect();
        down.into_iter().for_each(|machine| world.start(machine));
        let at_rest = |world: &World| {
            let all = running(world, "one");
            !all.is_empty() && all.values().all(|on| on.len() == 1)
        };
        world.run_for(seconds(60));
        let end = world.now() + seconds(120);
        assert!(world.run_until(end, at_rest).is_some(), "seed {seed}: {:?}", running(&world, "one"));
        let rests = stands(&mut world, 0, "one");
        assert_eq!((rests.placed, rests.running), (rests.updated, rests.updated), "seed {seed}: {rests:?}");
        assert_eq!(world.broken(), [] as [String; 0], "seed {seed}");
        starts += world.report().exclusive_starts;
    }
    println!("{starts} starts of exclusive agents");
}
