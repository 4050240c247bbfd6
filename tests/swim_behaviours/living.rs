//! Living: what is told of members while they come, go, change and are slow.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one kind among many")]

use std::collections::BTreeSet;
use std::time::Duration;

use shoal::core::ids::AgentName;
use shoal::core::model::{AgentSource, AgentSpec, Found, MemberStatus};
use shoal::core::time::Instant;
use shoal::core::wire::RequestBody;
use shoal::sim::{Config, World};

use super::worlds::{all, joined, ms, must, secs, settles, sound, told};

use MemberStatus::{Alive, Failed, Suspect};

#[test]
fn row_069_when_one_of_five_dies_all_others_suspect_it_and_then_call_it_failed() {
    for seed in 0..20 {
        let mut world = joined(Config::lan(5, seed));
        world.run_for(secs(5));
        let since = world.now();
        world.crash(2);
        must(&mut world, secs(4), "it is failed", |w| all(w, 2, Some(Failed)));
        for observer in [0, 1, 3, 4] {
            assert_eq!(told(&world, observer, 2, since), [Suspect, Failed], "seed {seed}, n{}", observer + 1);
        }
    }
}

/// How long until all survivors say that a node that was killed has failed, over many worlds.
fn longest_detection(refuses: bool) -> Duration {
    let mut longest = Duration::ZERO;
    for seed in 0..20 {
        let mut config = Config::lan(5, seed);
        config.network.dead_port_refuses = refuses;
        let mut world = joined(config);
        world.run_for(secs(5) + ms(37 * seed));
        let since = world.now();
        world.crash(2);
        must(&mut world, secs(10), "it is failed", |w| all(w, 2, Some(Failed)));
        let found = world.report().detections(world.node(2), since);
        longest = longest.max(found[found.len() - 1]);
    }
    longest
}

#[test]
fn row_070_a_process_that_is_gone_from_a_living_host_is_called_failed_no_later_than_a_host_that_is_gone() {
    let (gone, refusing) = (longest_detection(false), longest_detection(true));
    println!("all know of a killed process after at most {refusing:?}, of a vanished host after {gone:?}");
    assert!(refusing <= gone + ms(100), "{refusing:?}, {gone:?}");
    assert!(refusing < secs(4), "{refusing:?}");
}

#[test]
fn row_039_and_042_a_verdict_names_who_accused_and_who_confirmed() {
    for seed in 0..5 {
        let mut world = joined(Config::lan(8, seed));
        world.run_for(secs(5));
        let since = world.now();
        world.crash(2);
        must(&mut world, secs(6), "it is failed", |w| all(w, 2, Some(Failed)));
        let dead = world.node(2).clone();
        let findings = world.report().findings.iter();
        let of_it: Vec<_> = findings.filter(|(at, _, f)| *at >= since && f.node == dead).collect();
        for observer in (0..8).filter(|m| *m != 2) {
            let mine = || of_it.iter().filter(|(_, m, _)| *m == observer).map(|(_, _, f)| &f.found);
            let accusers: BTreeSet<_> = mine()
                .filter_map(|found| match found {
                    Found::Accused { by } | Found::Confirmed { by, .. } => Some(by.clone()),
                    _ => None,
                })
                .collect();
            assert!(!accusers.contains(&dead));
            let failed = mine().any(|found| matches!(found, Found::Failed { by: Some(_), .. }));
            assert!(failed, "seed {seed}: n{} does not know whose verdict it was", observer + 1);
        }
    }
}

#[test]
fn row_073_what_a_node_says_about_itself_changes_without_a_word_about_its_membership() {
    let mut world = joined(Config::lan(5, 1));
    world.run_for(secs(5));
    let since = world.now();
    let to = world.node(3).clone();
    let name = AgentName::new("a").expect("valid");
    let spec = AgentSpec::new(name.clone(), AgentSource::Native { builtin: "echo".to_owned() });
    world.request(0, &to, RequestBody::Deploy { spec });
    must(&mut world, secs(2), "the agent is known everywhere", |w| {
        (0..5).all(|m| w.view(m).is_some_and(|v| v.agents.iter().any(|a| a.name == name)))
    });
    world.request(0, &to, RequestBody::StopAgent { agent: name.clone() });
    must(&mut world, secs(2), "and gone everywhere", |w| {
        (0..5).all(|m| w.view(m).is_some_and(|v| v.agents.is_empty()))
    });
    assert!(world.report().changes.iter().all(|c| c.at < since));
}

/// Bytes a node sends in a second of a mesh at rest.
fn bytes_at_rest(nodes: usize) -> u64 {
    let mut world = joined(Config::lan(nodes, 1));
    settles(&mut world, secs(10));
    world.run_for(secs(60));
    let before = world.traffic().1;
    world.run_for(secs(30));
    sound(&world);
    (world.traffic().1 - before) / 30 / nodes as u64
}

#[test]
fn row_099_at_rest_lists_are_compared_by_their_hash_and_cost_little_whatever_the_size() {
    let costs = [10, 30, 100].map(|nodes| (nodes, bytes_at_rest(nodes)));
    println!("bytes a node and second at rest: {costs:?}");
    // A list of a hundred has 3 kB; a mesh of a hundred has no links to all, and most of this is handshakes.
    // Above 32 nodes the beats of the seven voters are passed on by everybody: three kilobytes a second of it.
    let most = |nodes: usize| if nodes > 32 { 5_000 } else { 2_000 };
    assert!(costs.iter().all(|(nodes, bytes)| *bytes < most(*nodes)), "{costs:?}");
}

#[test]
fn row_116_of_a_member_that_comes_and_goes_every_change_is_told_once_and_the_last_is_true() {
    for seed in 0..5 {
        let mut world = joined(Config::lan(5, seed));
        world.run_for(secs(5));
        for round in 0..10 {
            world.crash(3);
            world.run_for(ms(50 + 400 * (round % 4)));
            world.start(3);
            world.run_for(ms(100 + 300 * (round % 3)));
        }
        must(&mut world, secs(10), "it is back", World::all_see_all);
        settles(&mut world, secs(10));
        for observer in [0, 1, 2, 4] {
            let told = told(&world, observer, 3, Instant::ZERO);
            assert!(told.windows(2).all(|two| two[0] != two[1]), "seed {seed}: {told:?}");
            assert_eq!(told.last(), Some(&Alive), "seed {seed}");
        }
    }
}

#[test]
fn row_120_a_disk_that_takes_half_a_minute_holds_up_no_verdict_and_no_refutation() {
    for seed in 0..5 {
        let mut world = World::new(Config { commit_max: secs(30), ..Config::lan(5, seed) });
        world.start_all();
        must(&mut world, secs(60), "everyone joins", |w| (0..5).all(|m| w.is_running(m)) && w.all_see_all());
        let since = world.now();
        world.crash(2);
        must(&mut world, secs(4), "it is failed", |w| all(w, 2, Some(Failed)));
        let found = world.report().detections(world.node(2), since);
        assert_eq!(found.len(), 4);
        // Whoever is called failed and is not renews itself without waiting for its disk.
        world.pause(3, secs(15));
        world.run_for(secs(15));
        must(&mut world, secs(10), "the sleeper is back", |w| all(w, 3, Some(Alive)));
        world.start(2);
        must(&mut world, secs(3), "and so is the dead", World::all_see_all);
        world.run_for(secs(60));
        settles(&mut world, secs(20));
    }
}
