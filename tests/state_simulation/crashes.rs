//! Nodes that die at a bad moment, lose all that they had, or are there twice.

use super::*;
use shoal::sim::{Disk, Workload};

#[test]
fn fault_04_a_write_that_was_answered_and_told_to_nobody_is_told_after_the_restart() {
    let mut world = healthy_mesh(3, 31);
    world.cut(&[0], &[1, 2]);
    // It does not know yet that it is alone.
    written(&mut world, 0, "a", "answered");
    world.crash(0);
    heal(&mut world);
    world.run_for(seconds(3));
    assert_eq!(get(&mut world, 1, "a"), None, "nobody else has heard of it");
    world.start(0);
    rests(&mut world);
    for machine in 0..3 {
        assert_eq!(siblings(&mut world, machine, "a"), ["answered"]);
    }
}

#[test]
fn fault_05_a_write_that_reached_one_node_before_its_writer_died_reaches_all_by_comparing() {
    let mut world = healthy_mesh(5, 32);
    world.cut(&[0], &[2, 3, 4]);
    written(&mut world, 0, "a", "half told");
    let end = world.now() + Duration::from_millis(500);
    let told = world.run_until(end, |world| world.shared_view(1).is_some_and(|v| v.clock.len() == 1));
    assert!(told.is_some(), "one has heard of it");
    world.crash(0);
    assert!((2..5).all(|m| world.shared_view(m).is_some_and(|v| v.clock.is_empty())), "the others have not");
    heal(&mut world);
    let end = world.now() + seconds(10);
    let all = |world: &World| (1..5).all(|m| world.shared_view(m).is_some_and(|v| v.clock.len() == 1));
    let since = world.now();
    let took = world.run_until(end, all).expect("all have it").since(since);
    println!("the rest had it after {took:?}");
    for machine in 1..5 {
        assert_eq!(siblings(&mut world, machine, "a"), ["half told"]);
    }
    world.start(0);
    rests(&mut world);
}

#[test]
fn fault_06_a_node_that_dies_again_and_again_while_it_takes_in_what_it_missed_resumes_each_time() {
    let mut world = healthy_mesh(3, 33);
    world.crash(2);
    for n in 0..1_500 {
        // Large enough for many parts, and many commits.
        let (key, value) = (format!("k{n:04}"), Some(Bytes::from(vec![b'v'; 4 << 10])));
        ask(&mut world, n % 2, StateRequest::Put { key, value, context: None, ack: Ack::Local });
        if n % 100 == 99 {
            world.run_for(Duration::from_millis(200));
        }
    }
    world.run_for(seconds(1));
    let held = |world: &World| world.shared_view(2).map_or(0, |v| known(v.durable));
    let all = known(world.shared_view(0).expect("it runs").durable);
    assert_eq!(all, 1_500);
    let mut resumed = vec![0];
    while *resumed.last().expect("not empty") < all && resumed.len() < 40 {
        // Now and then in the middle of a commit, which is lost whole, and now and then right after one.
        world.start(2);
        let before = held(&world);
        assert!(before >= *resumed.last().expect("not empty"), "what it had is lost: {resumed:?} {before}");
        if resumed.len() % 2 == 0 {
            world.apply(&Fault::CrashAfterCommit { machine: 2 });
        }
        let end = world.now() + Duration::from_millis(137 + 31 * (resumed.len() as u64 % 5));
        world.run_until(end, |world| !world.is_running(2));
        resumed.push(held(&world).max(before));
        world.crash(2);
    }
    println!("it had {resumed:?} of {all} writes before each restart");
    let middles = resumed.iter().filter(|had| (1..all).contains(*had)).count();
    assert!(middles >= 3, "it died in the middle of it: {resumed:?}");
    world.start(2);
    rests(&mut world);
}

#[test]
fn fault_25_a_node_whose_directory_is_lost_comes_back_with_another_actor_and_all_that_it_had_told() {
    let mut world = healthy_mesh(3, 34);
    written(&mut world, 2, "told", "before");
    written(&mut world, 2, "changed", "before");
    world.run_for(seconds(2));
    let first = world.shared_view(2).expect("it runs").actor.expect("it has written");
    world.crash(2);
    world.set_disk(2, Disk::default());
    written(&mut world, 0, "changed", "meanwhile");
    world.run_for(seconds(1));
    world.start(2);
    rests(&mut world);
    written(&mut world, 2, "new", "after");
    rests(&mut world);
    let view = world.shared_view(2).expect("it runs");
    assert_ne!(view.actor, Some(first), "the lost one is never used again");
    assert!(view.clock.get(&first).is_some(), "and what it made is known");
    for machine in 0..3 {
        assert_eq!(siblings(&mut world, machine, "told"), ["before"]);
        assert_eq!(siblings(&mut world, machine, "changed"), ["meanwhile"]);
        assert_eq!(siblings(&mut world, machine, "new"), ["after"]);
    }
}

#[test]
fn fault_67_two_processes_with_one_certificate_never_write_under_one_name() {
    for with_disk in [false, true] {
        let mut world = healthy_mesh(3, 35);
        written(&mut world, 2, "a", "of the first");
        world.run_for(seconds(2));
        let twin = twin_of(&mut world, 2, with_disk);
        world.cut(&[twin], &[0, 1, 2]);
        world.start(twin);
        written(&mut world, 2, "b", "of the first");
        if with_disk {
            // It remembers the mesh, and keeps what it is given until it is among a majority.
            assert!(put(&mut world, twin, "b", "of the second").is_ok());
        }
        heal(&mut world);
        let end = world.now() + seconds(30);
        let refused = world.run_until(end, |world| !world.is_running(twin));
        assert!(refused.is_some() && world.is_running(2), "disk {with_disk}: the second is refused");
        // The first goes, and the second is the only one now: it goes on under the same name.
        world.crash(2);
        world.run_for(seconds(5));
        world.start(twin);
        let end = world.now() + seconds(30);
        let healthy = world.run_until(end, |world| mode(world, twin) == Mode::Healthy);
        assert!(healthy.is_some(), "disk {with_disk}: {:?}", status(&mut world, twin).reason);
        written(&mut world, twin, "c", "of the second");
        world.run_for(seconds(3));
        assert_eq!(world.broken(), [] as [String; 0], "no dot names two writes");
        let actors = world.shared_view(0).expect("it runs").clock.len();
        assert!(actors >= 2, "disk {with_disk}: each process has an actor of its own");
        assert_eq!(get(&mut world, 0, "c").as_deref(), Some("of the second"));
        assert!(siblings(&mut world, 0, "b").contains(&"of the first".to_owned()));
    }
}

/// Another machine with the node id of this one.
fn twin_of(world: &mut World, machine: usize, with_disk: bool) -> usize {
    let node = world.node(machine).clone();
    let seeds = vec!["n1:7946".to_owned(), "n2:7946".to_owned()];
    let twin = world.add_machine(node.clone(), format!("{node}-again:7946"), seeds, None);
    if with_disk {
        let disk = world.disk(machine);
        world.set_disk(twin, disk);
    }
    twin
}

fn known(clock: &shoal::core::model::Clock) -> u64 {
    clock.iter().flat_map(|(_, span)| span.ranges()).map(|(from, upto)| upto - from + 1).sum()
}

#[test]
fn fault_05_a_mesh_whose_writers_die_all_the_time_comes_to_rest() {
    let mut world = healthy_mesh(5, 36);
    let often = Workload { pause: Duration::from_millis(40), ..Workload::default() };
    world.work(often, seconds(20));
    for round in 0..20 {
        world.run_for(Duration::from_millis(900));
        let machine = round % 5;
        world.crash(machine);
        world.run_for(Duration::from_millis(100));
        world.start(machine);
    }
    rests(&mut world);
    assert!(world.writes_made() > 100, "{}", world.writes_made());
}

/// Both of those that are left bid at once, vote for themselves, and refuse each other: neither may keep its own vote for
/// the sake of the third one.
#[test]
fn two_of_three_agree_on_who_leads_soon_after_the_third_is_gone() {
    for seed in 0..40 {
        let mut world = healthy_mesh(3, seed);
        world.run_for(seconds(5));
        let gone = (0..3).find(|machine| world.lease_of(*machine).is_some()).expect("somebody leads");
        world.crash(gone);
        let end = world.now() + seconds(8);
        let led = world.run_until(end, |world| (0..3).any(|m| m != gone && world.lease_of(m).is_some()));
        assert!(led.is_some(), "seed {seed}: nobody leads");
    }
}
