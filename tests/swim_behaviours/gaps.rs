//! What the suites that the rows come from do not test.

#![allow(clippy::print_stdout, reason = "the figures are the point")]

use std::time::Duration;

use shoal::core::model::MemberStatus;
use shoal::sim::{Config, Fault, World};

use super::worlds::{all, joined, ms, must, secs, settles, sound, told, verdicts};

use MemberStatus::{Alive, Failed};

/// Cuts `nodes` in two halves for `span`, in which all seeds die and each side keeps but two nodes at
/// their old addresses; returns the bytes a node and second while they waited, and how long healing took.
fn long_cut(nodes: usize, seed: u64, span: Duration) -> (u64, Duration) {
    let mut world = joined(Config::lan(nodes, seed));
    let seeds = 2;
    let half = seeds + (nodes - seeds) / 2;
    let (one, other): (Vec<_>, Vec<_>) = ((0..half).collect(), (half..nodes).collect());
    world.run_for(secs(20));
    world.cut(&one, &other);
    must(&mut world, secs(60), "each side calls the other failed", |w| {
        one.iter().all(|a| other.iter().all(|b| w.status(*a, *b) == Some(Failed)))
            && other.iter().all(|a| one.iter().all(|b| w.status(*a, *b) == Some(Failed)))
    });
    (0..seeds).for_each(|m| world.crash(m));
    world.run_for(secs(60));
    // The last of each side stay where they are.
    for m in (seeds..half - 1).chain(half..nodes - 1) {
        world.crash(m);
        world.move_to(m, &format!("n{}:9000", m + 1));
        world.set_seeds(m, vec![]);
        world.start(m);
    }
    world.run_for(secs(60));
    let (since, before) = (world.now(), world.traffic().1);
    world.run_for(span);
    let waited = world.now().since(since).as_secs();
    let bytes = (world.traffic().1 - before) / waited / (nodes - seeds) as u64;
    sound(&world);
    let false_failures = world.report().false_failures();
    assert_eq!(false_failures, 0, "nobody of one's own side was called failed meanwhile");
    world.apply(&Fault::Heal);
    let took = must(&mut world, secs(60), "one mesh again", World::all_see_all);
    settles(&mut world, secs(30));
    (bytes, took)
}

/// How long the cut is: hours, from the environment. Seventy-three of them take minutes.
fn cut_hours() -> u64 {
    let set = std::env::var("SHOAL_CUT_HOURS").ok();
    set.map_or(2, |hours| hours.parse().expect("SHOAL_CUT_HOURS is a number of hours"))
}

#[test]
fn gap_01_a_cut_of_hours_heals_within_a_minute_although_all_seeds_died_and_most_nodes_moved() {
    let hours = cut_hours();
    let (bytes, took) = long_cut(10, 1, secs(hours * 3600));
    println!("10 nodes, cut for {hours} h: {bytes} bytes a node and second, healed in {took:?}");
    assert!(bytes < 4_000, "waiting costs {bytes} bytes a node and second");
}

#[test]
fn gap_02_ways_that_are_open_in_one_direction_only_fail_nobody_that_a_third_reaches() {
    for seed in 0..10 {
        let mut world = joined(Config::lan(6, seed));
        world.run_for(secs(20));
        let since = world.now();
        // n1 cannot hear n2, n3 cannot hear n4; the others reach all.
        world.apply(&Fault::Cut { from: vec![1], to: vec![0] });
        world.apply(&Fault::Cut { from: vec![3], to: vec![2] });
        world.run_for(secs(300));
        sound(&world);
        let verdicts: usize = (0..6).map(|m| verdicts(&world, m, since)).sum();
        assert_eq!(verdicts, 0, "seed {seed}");
        world.apply(&Fault::Heal);
        settles(&mut world, secs(60));
    }
}

#[test]
fn gap_02_a_node_that_is_heard_and_does_not_hear_is_called_failed_a_few_times_and_calls_nobody_failed_for_long()
 {
    for seed in 0..5 {
        let mut world = joined(Config::lan(5, seed));
        world.run_for(secs(20));
        let since = world.now();
        world.apply(&Fault::Cut { from: vec![0, 1, 2, 3], to: vec![4] });
        world.run_for(secs(600));
        let flaps: usize = verdicts(&world, 4, since);
        let pairs = (0..4).flat_map(|of| (0..4).map(move |m| (m, of)));
        let of_others: usize =
            pairs.map(|(m, of)| told(&world, m, of, since).iter().filter(|s| **s == Failed).count()).sum();
        println!(
            "seed {seed}: {flaps} verdicts about the deaf node in ten minutes, {of_others} about others"
        );
        assert_eq!(of_others, 0, "seed {seed}: the deaf one convinces nobody");
        assert!(flaps <= 4 * 60, "seed {seed}: {flaps}: it does not flap several times a minute");
        world.apply(&Fault::Heal);
        settles(&mut world, secs(60));
    }
}

#[test]
fn gap_03_a_machine_that_was_paused_longer_than_any_suspicion_is_back_soon_and_accuses_nobody() {
    for (seed, nodes) in [(0, 5), (1, 5), (2, 30), (3, 30)] {
        let mut world = joined(Config::lan(nodes, seed));
        world.run_for(secs(25));
        let since = world.now();
        world.pause(2, secs(120));
        world.run_for(secs(120));
        let took = must(&mut world, secs(10), "it is back", World::all_see_all);
        settles(&mut world, secs(20));
        println!("{nodes} nodes: back {took:?} after it went on");
        let accused: usize = (0..nodes).filter(|m| *m != 2).map(|m| verdicts(&world, m, since)).sum();
        assert_eq!(accused, 0, "seed {seed}");
    }
}

#[test]
fn gap_04_a_machine_whose_clock_stood_still_for_an_hour_is_back_soon_and_accuses_nobody() {
    for (seed, span) in [(0, secs(5)), (1, secs(60)), (2, secs(3600)), (3, secs(3600))] {
        let mut world = joined(Config::lan(5, seed));
        world.run_for(secs(25));
        let since = world.now();
        world.suspend(2, span);
        world.run_for(span);
        let took = must(&mut world, secs(10), "it is back", World::all_see_all);
        settles(&mut world, secs(20));
        println!("suspended for {span:?}: back {took:?} after it went on");
        let accused: usize = [0, 1, 3, 4].iter().map(|m| verdicts(&world, *m, since)).sum();
        assert_eq!(accused, 0, "seed {seed}");
    }
}

#[test]
fn gap_04_all_machines_of_a_mesh_may_be_suspended_at_once() {
    for seed in 0..3 {
        let mut world = joined(Config::lan(5, seed));
        world.run_for(secs(25));
        let since = world.now();
        (0..5).for_each(|m| world.suspend(m, secs(1800) + ms(700 * m as u64)));
        world.run_for(secs(1804));
        must(&mut world, secs(10), "all are back", World::all_see_all);
        settles(&mut world, secs(20));
        let verdicts: usize = (0..5).map(|m| verdicts(&world, m, since)).sum();
        println!("seed {seed}: {verdicts} verdicts");
    }
}

#[test]
fn gap_05_a_node_goes_on_when_its_renewals_are_used_up() {
    // Every cut costs it one renewal; a whole block is 2^20 of them, which the unit test of that name ends.
    let mut world = joined(Config::lan(3, 1));
    for _ in 0..20 {
        world.run_for(secs(20));
        world.cut(&[2], &[0, 1]);
        must(&mut world, secs(60), "it is failed", |w| w.status(0, 2) == Some(Failed));
        world.apply(&Fault::Heal);
        must(&mut world, secs(20), "it is back", World::all_see_all);
    }
    settles(&mut world, secs(20));
    assert!(world.renewals() < 200, "a cut costs few renewals: {}", world.renewals());
}

#[test]
fn gap_06_a_node_whose_address_changes_under_way_stays_and_is_found_again_when_its_links_are_lost() {
    for seed in 0..5 {
        let mut world = joined(Config::lan(5, seed));
        world.run_for(secs(20));
        let since = world.now();
        world.move_to(3, "n4:9000");
        world.run_for(secs(300));
        assert_eq!(verdicts(&world, 3, since), 0, "seed {seed}: its links survive");
        // Now all its links are lost; it knows where the others are, though they do not know where it is.
        world.cut(&[3], &[0, 1, 2, 4]);
        must(&mut world, secs(20), "it is failed", |w| {
            [0, 1, 2, 4].iter().all(|m| w.status(*m, 3) == Some(Failed))
        });
        world.run_for(secs(120));
        world.apply(&Fault::Heal);
        let took = must(&mut world, secs(60), "it is back", World::all_see_all);
        settles(&mut world, secs(30));
        println!("seed {seed}: back {took:?} after its ways were open again");
    }
}

/// False verdicts an hour and node, renewals, and how long a crash takes to be known by all, at a share of loss.
fn under_loss(nodes: usize, loss: f64, seed: u64) -> (usize, u64, Option<Duration>) {
    let mut world = joined(Config::lan(nodes, seed));
    world.run_for(secs(30));
    world.apply(&Fault::Loss(loss));
    world.run_for(secs(120));
    sound(&world);
    let (false_failures, renewals) = (world.report().false_failures(), world.renewals());
    let since = world.now();
    world.crash(1);
    let end = since + secs(180);
    let found = world.run_until(end, |w| all(w, 1, Some(Failed))).map(|at| at.since(since));
    world.apply(&Fault::Loss(0.0));
    world.start(1);
    must(&mut world, secs(60), "all are alive again", World::all_see_all);
    settles(&mut world, secs(60));
    (false_failures, renewals, found)
}

#[test]
fn gap_07_at_thirty_to_seventy_percent_loss_crashes_are_found_and_all_is_well_when_it_is_over() {
    let sizes: [(usize, &[u32]); 2] = [(5, &[30, 40, 50, 60, 70]), (30, &[30, 50, 70])];
    for (nodes, shares) in sizes {
        for percent in shares {
            let (false_failures, renewals, found) = under_loss(nodes, f64::from(*percent) / 100.0, 1);
            println!(
                "{nodes} nodes, {percent} % loss: {false_failures} false verdicts and {renewals} renewals in \
                 2 min, a crash is known by all after {found:?}"
            );
            if *percent <= 30 {
                // A lone accuser whose every ping is lost: about once in eight hours of one node.
                assert!(false_failures <= nodes / 10, "{nodes} nodes at {percent} %: {false_failures}");
            }
            if *percent <= 50 {
                assert!(found.is_some_and(|took| took < secs(60)), "{nodes} nodes at {percent} %: {found:?}");
            }
        }
    }
}

#[test]
fn gap_13_a_mesh_whose_seeds_are_all_dead_goes_on_and_takes_its_members_back() {
    for seed in 0..3 {
        let mut world = joined(Config::lan(8, seed));
        world.run_for(secs(10));
        (0..3).for_each(|m| world.crash(m));
        must(&mut world, secs(10), "they are failed", |w| (0..3).all(|m| all(w, m, Some(Failed))));
        world.crash(5);
        must(&mut world, secs(10), "it is failed", |w| all(w, 5, Some(Failed)));
        world.start(5);
        must(&mut world, secs(10), "it is back", |w| all(w, 5, Some(Alive)) && w.all_see_all());
        let since = world.now();
        world.run_for(secs(600));
        assert!(world.report().changes.iter().all(|c| c.at <= since), "nothing happens");
    }
}
