//! Leaving, coming back, and being called again.

use std::collections::BTreeMap;

use shoal::core::model::MemberStatus;
use shoal::core::time::Instant;
use shoal::sim::{Config, Fault, World};

use super::worlds::{all, joined, ms, must, names, node, secs, settles, sound, told, verdicts};

use MemberStatus::{Alive, Failed, Left, Suspect};

fn labels(world: &World, observer: usize, of: usize) -> BTreeMap<String, String> {
    let view = world.view(observer).expect("it runs");
    let of = world.node(of);
    let found = view.members.into_iter().find(|(m, _)| m.card.node_id == *of).expect("known");
    found.0.card.labels
}

fn role(role: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("role".to_owned(), role.to_owned())])
}

#[test]
fn row_019_a_node_that_stops_is_told_as_left_and_nothing_else() {
    for seed in 0..5 {
        let mut world = joined(Config::lan(5, seed));
        world.run_for(secs(5));
        let since = world.now();
        world.stop(2);
        must(&mut world, secs(1), "all see it gone", |w| !w.is_running(2) && all(w, 2, Some(Left)));
        world.run_for(secs(60));
        for observer in [0, 1, 3, 4] {
            assert_eq!(told(&world, observer, 2, since), [Left], "seed {seed}, n{}", observer + 1);
        }
    }
}

#[test]
fn row_020_a_departure_is_told_to_all_before_the_node_is_gone_whatever_is_lost() {
    for seed in 0..10 {
        let mut world = joined(Config::lan(8, seed).with_loss(0.3));
        world.run_for(secs(20));
        let since = world.now();
        world.stop(2);
        must(&mut world, secs(20), "all see it gone", |w| !w.is_running(2) && all(w, 2, Some(Left)));
        world.run_for(secs(30));
        assert_eq!(verdicts(&world, 2, since), 0, "seed {seed}");
    }
}

#[test]
fn row_022_leaving_and_coming_back_are_told_in_their_order() {
    for seed in 0..5 {
        let mut world = joined(Config::lan(5, seed));
        world.run_for(secs(5));
        for _ in 0..3 {
            world.stop(2);
            must(&mut world, secs(5), "it is gone", |w| !w.is_running(2) && all(w, 2, Some(Left)));
            world.start(2);
            must(&mut world, secs(5), "it is back", World::all_see_all);
        }
        settles(&mut world, secs(10));
        let order = [Alive, Left, Alive, Left, Alive, Left, Alive];
        for observer in [0, 1, 3, 4] {
            assert_eq!(told(&world, observer, 2, Instant::ZERO), order, "seed {seed}");
        }
    }
}

#[test]
fn row_023_a_node_that_comes_back_with_other_labels_shows_those() {
    for seed in 0..3 {
        let mut world = World::new(Config::lan(4, seed));
        world.set_labels(3, &[("role", "gateway")]);
        world.start_all();
        must(&mut world, secs(5), "everyone joins", |w| w.is_running(3) && w.all_see_all());
        settles(&mut world, secs(5));
        assert_eq!(labels(&world, 0, 3), role("gateway"));
        world.stop(3);
        must(&mut world, secs(5), "it is gone", |w| !w.is_running(3) && all(w, 3, Some(Left)));
        world.set_labels(3, &[("role", "worker")]);
        world.start(3);
        must(&mut world, secs(5), "its labels are everywhere", |w| {
            (0..4).all(|m| labels(w, m, 3) == role("worker"))
        });
        settles(&mut world, secs(10));
    }
}

#[test]
fn row_025_a_node_that_failed_and_starts_at_another_port_is_told_as_alive_failed_alive() {
    for seed in 0..5 {
        let mut world = joined(Config::lan(5, seed));
        world.run_for(secs(5));
        world.crash(3);
        must(&mut world, secs(10), "it is failed", |w| all(w, 3, Some(Failed)));
        world.move_to(3, "n4:9000");
        world.start(3);
        must(&mut world, secs(10), "it is back", World::all_see_all);
        for observer in [0, 1, 2, 4] {
            let order: Vec<_> = told(&world, observer, 3, Instant::ZERO);
            let order: Vec<_> = order.into_iter().filter(|status| *status != Suspect).collect();
            assert_eq!(order, [Alive, Failed, Alive], "seed {seed}, n{}", observer + 1);
        }
    }
}

#[test]
fn row_026_failed_members_are_called_again_until_they_are_back_without_help() {
    for seed in 0..5 {
        let mut world = World::new(Config::lan(5, seed));
        world.start_all();
        must(&mut world, secs(10), "everyone joins", |w| w.is_running(4) && w.all_see_all());
        (0..5).for_each(|m| world.set_seeds(m, vec![]));
        // Started without seeds, nobody but those who remember each other can call.
        (0..5).for_each(|m| world.crash(m));
        world.start_all();
        must(&mut world, secs(30), "they find each other", |w| w.is_running(4) && w.all_see_all());
        world.run_for(secs(20));
        world.cut(&[3], &[0, 1, 2, 4]);
        must(&mut world, secs(20), "it is failed", |w| {
            [0, 1, 2, 4].iter().all(|m| w.status(*m, 3) == Some(Failed))
        });
        world.run_for(secs(1800));
        world.apply(&Fault::Heal);
        let took = must(&mut world, secs(20), "it is back", World::all_see_all);
        println!("seed {seed}: back after {took:?}");
    }
}

#[test]
fn row_028_a_killed_node_with_other_labels_replaces_its_earlier_self_at_once() {
    for seed in 0..5 {
        let mut world = joined(Config::lan(5, seed));
        world.run_for(secs(5));
        let before = world.start_number(3).expect("it runs");
        world.crash(3);
        world.set_labels(3, &[("role", "worker")]);
        world.start(3);
        assert!(world.start_number(3).expect("it runs") > before, "no two of its lives share a number");
        must(&mut world, secs(3), "its labels are everywhere", |w| {
            w.all_see_all() && (0..5).all(|m| labels(w, m, 3) == role("worker"))
        });
        settles(&mut world, secs(10));
    }
}

#[test]
fn row_033_failed_members_are_never_forgotten_by_themselves() {
    let mut world = joined(Config::lan(4, 1));
    world.run_for(secs(5));
    world.crash(3);
    must(&mut world, secs(10), "it is failed", |w| all(w, 3, Some(Failed)));
    let since = world.now();
    world.run_for(secs(6 * 3600));
    sound(&world);
    assert!(all(&world, 3, Some(Failed)), "six hours later it is still failed");
    assert!(world.report().changes.iter().all(|c| c.at < since), "and nothing was told of it");
    world.start(3);
    must(&mut world, secs(5), "and it may come back", World::all_see_all);
}

#[test]
fn row_077_a_node_that_left_may_come_back_at_another_address() {
    for seed in 0..5 {
        let mut world = joined(Config::lan(5, seed));
        world.run_for(secs(5));
        world.stop(3);
        must(&mut world, secs(5), "it is gone", |w| !w.is_running(3) && all(w, 3, Some(Left)));
        world.move_to(3, "n4:9000");
        world.start(3);
        must(&mut world, secs(2), "it is back", World::all_see_all);
        settles(&mut world, secs(10));
        assert_eq!(world.report().duplicates, []);
        let view = world.view(0).expect("it runs");
        let moved = view.members.iter().find(|(m, _)| m.card.node_id == node(4)).expect("known");
        assert_eq!(moved.0.card.addresses, ["n4:9000"]);
    }
}

#[test]
fn row_117_a_node_that_starts_again_finds_its_mesh_and_tells_nothing_of_the_past() {
    for seed in 0..5 {
        let mut world = joined(Config::lan(5, seed));
        world.run_for(secs(5));
        world.crash(1);
        must(&mut world, secs(10), "it is failed", |w| all(w, 1, Some(Failed)));
        world.set_seeds(4, vec![]);
        world.crash(4);
        world.run_for(secs(10));
        let since = world.now();
        world.start(4);
        must(&mut world, secs(5), "it is back", World::all_see_all);
        world.run_for(secs(30));
        assert_eq!(world.status(4, 1), Some(Failed));
        assert_eq!(told(&world, 4, 1, since), [], "it has not seen that one go");
        for other in [0, 2, 3] {
            assert_eq!(told(&world, 4, other, since), [Alive]);
        }
    }
}

#[test]
fn row_118_whoever_left_for_good_does_not_come_back_by_itself_and_whoever_stopped_does() {
    for seed in 0..5 {
        let mut world = joined(Config::lan(5, seed));
        world.run_for(secs(5));
        // Neither is a seed: those are called by others, whatever they did.
        [4, 3].iter().for_each(|m| world.set_seeds(*m, vec![]));
        world.leave(4);
        world.stop(3);
        must(&mut world, secs(10), "both have ended", |w| !w.is_running(4) && !w.is_running(3));
        world.run_for(secs(5));
        world.start(3);
        must(&mut world, secs(5), "the one that stopped is back", |w| w.status(0, 3) == Some(Alive));
        // Whoever was away remembers the one that left until it hears of that.
        world.run_for(secs(5));
        world.start(4);
        world.run_for(secs(60));
        assert_eq!(names(&world, 4), ["n5"], "it knows nobody");
        assert!([0, 1, 2, 3].iter().all(|m| world.status(*m, 4).is_none()));
        assert!(!world.view(4).expect("it runs").joined);
        world.crash(4);
        world.set_seeds(4, vec!["n1:7946".to_owned()]);
        world.run_for(ms(100));
        world.start(4);
        must(&mut world, secs(5), "told to, it joins", World::all_see_all);
    }
}
