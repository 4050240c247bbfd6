//! Faults of the catalogue in `docs/faults.md` that the simulator can show, each by its number.

use std::time::Duration;

use shoal::core::ids::NodeId;
use shoal::core::model::MemberStatus;
use shoal::sim::{Config, Fault, World};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A mesh in which everyone knows everyone and nothing was done for a while.
fn at_rest(config: Config) -> World {
    let mut world = World::new(config);
    world.start_all();
    let started = 50 * world.len() as u64;
    world.run_for(ms(started));
    must(&mut world, secs(30), "everyone joins", World::all_know_all);
    world.run_for(secs(25));
    world
}

fn must(world: &mut World, within: Duration, what: &str, condition: impl Fn(&World) -> bool) -> Duration {
    let since = world.now();
    let found = world.run_until(since + within, condition);
    sound(world);
    let told: Vec<_> = world.report().changes.iter().rev().take(20).map(ToString::to_string).collect();
    let seed = world.report().seed;
    found.unwrap_or_else(|| panic!("seed {seed}: not within {within:?}: {what}: {told:#?}")).since(since)
}

fn sound(world: &World) {
    assert!(world.broken().is_empty(), "seed {}: {:#?}", world.report().seed, world.broken());
}

/// How often the survivors together said this of a machine.
fn told(world: &World, of: usize, status: MemberStatus) -> usize {
    let name: NodeId = world.node(of).clone();
    world.report().changes.iter().filter(|c| c.node == name && c.status == status).count()
}

fn failures(world: &World) -> usize {
    world.report().changes.iter().filter(|c| c.status == MemberStatus::Failed).count()
}

#[test]
fn fault_11_a_crash_loop_is_told_a_few_times_and_its_incarnations_grow_by_one_a_start() {
    let mut world = at_rest(Config::lan(5, 11));
    let before = world.start_number(4).expect("it runs");
    for _ in 0..120 {
        world.crash(4);
        world.run_for(ms(100));
        world.start(4);
        world.run_for(ms(900));
    }
    sound(&world);
    assert_eq!(world.start_number(4), Some(before + 120));
    let told = told(&world, 4, MemberStatus::Failed);
    println!("120 restarts: told {told} times by four");
    assert!(told <= 4 * 12, "{told}");
    must(&mut world, secs(20), "it is at rest", |w| w.unrest().is_empty());
}

#[test]
fn fault_36_a_machine_that_slept_a_minute_accuses_nobody_and_is_back_in_seconds() {
    for seed in 0..10 {
        let mut world = at_rest(Config::lan(5, seed));
        world.pause(2, secs(60));
        world.run_for(secs(60));
        let took = must(&mut world, secs(10), "it is back", World::all_see_all);
        let others: usize = [0, 1, 3, 4].iter().map(|m| told(&world, *m, MemberStatus::Failed)).sum();
        assert_eq!(others, 0, "seed {seed}: back after {took:?}");
    }
}

#[test]
fn fault_38_both_sides_of_a_cut_see_the_other_fail_in_seconds_and_are_one_mesh_after_it() {
    for seed in 0..5 {
        let mut world = at_rest(Config::lan(5, seed));
        let (minority, majority) = ([0, 1], [2, 3, 4]);
        world.cut(&minority, &majority);
        let seen = |w: &World, observers: &[usize], of: &[usize]| {
            observers.iter().all(|o| of.iter().all(|m| w.status(*o, *m) == Some(MemberStatus::Failed)))
        };
        let took = must(&mut world, secs(10), "each side sees the other fail", |w| {
            seen(w, &majority, &minority) && seen(w, &minority, &majority)
        });
        world.run_for(secs(60));
        world.apply(&Fault::Heal);
        let healed = must(&mut world, secs(60), "one mesh", World::all_see_all);
        println!("seed {seed}: both sides know after {took:?}, healed in {healed:?}");
    }
}

#[test]
fn fault_41_a_way_that_is_open_in_one_direction_only_fails_nobody_or_settles() {
    for seed in 0..5 {
        let mut world = at_rest(Config::lan(5, seed));
        world.apply(&Fault::Cut { from: vec![0], to: vec![1] });
        world.run_for(secs(600));
        sound(&world);
        assert!(failures(&world) <= 8, "seed {seed}: {} verdicts in ten minutes", failures(&world));
        world.apply(&Fault::Heal);
        must(&mut world, secs(60), "one mesh", World::all_see_all);
    }
}

#[test]
fn fault_42_two_nodes_that_cannot_reach_each_other_are_alive_through_a_third() {
    for seed in 0..5 {
        let mut world = at_rest(Config::lan(3, seed));
        world.cut(&[0], &[2]);
        world.run_for(secs(600));
        assert_eq!(failures(&world), 0, "seed {seed}");
    }
}

#[test]
fn fault_44_a_link_that_comes_and_goes_every_two_seconds_is_held_down() {
    for seed in 0..5 {
        let mut world = at_rest(Config::lan(5, seed));
        for _ in 0..150 {
            world.cut(&[4], &[0, 1, 2, 3]);
            world.run_for(secs(2));
            world.apply(&Fault::Heal);
            world.run_for(secs(2));
        }
        sound(&world);
        let verdicts = told(&world, 4, MemberStatus::Failed);
        println!("seed {seed}: {verdicts} verdicts by four in ten minutes");
        // Unheld, each of 150 cuts could be one of each observer.
        assert!(verdicts <= 4 * 30, "seed {seed}: {verdicts}");
        must(&mut world, secs(30), "one mesh", World::all_see_all);
    }
}

#[test]
fn fault_45_loss_of_one_ten_and_thirty_percent_fails_nobody_and_news_still_spreads() {
    for (loss, hours) in [(0.01, 1), (0.1, 4), (0.3, 1)] {
        let mut world = at_rest(Config::lan(5, 45).with_loss(loss));
        world.run_for(secs(3600 * hours));
        sound(&world);
        assert_eq!(failures(&world), 0, "at {loss}: {:?}", world.report().changes.last());
        world.crash(1);
        let took = must(&mut world, secs(30), "all survivors know", |w| {
            [0, 2, 3, 4].iter().all(|m| w.status(*m, 1) == Some(MemberStatus::Failed))
        });
        println!("at {loss}: a crash is known to all after {took:?}");
    }
}

#[test]
fn fault_46_a_burst_on_all_links_fails_nobody_and_one_on_a_nodes_links_is_over_in_five_seconds() {
    for seed in 0..10 {
        let mut world = at_rest(Config::lan(5, seed));
        world.apply(&Fault::Loss(1.0));
        world.run_for(secs(3));
        world.apply(&Fault::Loss(0.0));
        must(&mut world, secs(5), "all are alive", World::all_see_all);
        assert_eq!(failures(&world), 0, "seed {seed}: whoever hears of nobody doubts itself");

        world.apply(&Fault::Lossy { machine: 3, share: 1.0 });
        world.run_for(secs(3));
        world.apply(&Fault::Lossy { machine: 3, share: 0.0 });
        must(&mut world, secs(5), "all are alive again", World::all_see_all);
        let others: usize = [0, 1, 2, 4].iter().map(|m| told(&world, *m, MemberStatus::Failed)).sum();
        assert_eq!(others, 0, "seed {seed}: only the one that was cut off was called failed");
    }
}

#[test]
fn fault_47_probes_adapt_to_200_ms_with_100_ms_of_jitter() {
    for nodes in [3, 5, 30] {
        let mut config = Config::lan(nodes, 47);
        (config.network.latency, config.network.jitter) = (ms(200), ms(100));
        let mut world = World::new(config);
        world.start_all();
        must(&mut world, secs(60), "everyone joins", World::all_know_all);
        world.run_for(secs(1800));
        sound(&world);
        assert_eq!(
            failures(&world),
            0,
            "{nodes} nodes: {:#?} {:#?}",
            world.report().changes.iter().filter(|c| c.status == MemberStatus::Failed).collect::<Vec<_>>(),
            world.report().findings.iter().take(0).collect::<Vec<_>>()
        );
    }
}

#[test]
fn fault_48_packets_that_arrive_twice_and_out_of_order_change_nothing() {
    let mut config = Config::lan(5, 48);
    (config.network.duplicate, config.network.reorder) = (0.2, 0.3);
    let mut world = at_rest(config);
    world.run_for(secs(1800));
    must(&mut world, secs(20), "it is at rest", |w| w.unrest().is_empty());
    assert_eq!(failures(&world), 0);
}

#[test]
fn fault_52_udp_blocked_between_two_nodes_is_bridged_by_the_others() {
    for seed in 0..3 {
        let mut world = at_rest(Config::lan(5, seed));
        world.cut(&[1], &[3]);
        world.run_for(secs(600));
        assert_eq!(failures(&world), 0, "seed {seed}");
        world.apply(&Fault::Heal);
        must(&mut world, secs(60), "it is at rest", |w| w.unrest().is_empty());
    }
}

#[test]
fn fault_56_a_node_with_an_old_incarnation_comes_back_above_what_the_mesh_remembers() {
    let mut world = at_rest(Config::lan(5, 56));
    let old = world.disk(3);
    for _ in 0..4 {
        world.crash(3);
        world.run_for(secs(10));
        world.start(3);
        world.run_for(secs(10));
    }
    let last = world.start_number(3).expect("it runs");
    world.crash(3);
    world.run_for(secs(10));
    world.set_disk(3, old);
    world.start(3);
    must(&mut world, secs(20), "it is alive for all", World::all_see_all);
    assert!(world.start_number(3).expect("it runs") > last);
}

#[test]
fn fault_58_the_verdict_closes_a_half_open_connection() {
    let mut world = at_rest(Config::lan(3, 58));
    let linked = |w: &World, m: usize, of: usize| {
        let view = w.view(m).expect("it runs");
        view.members.iter().any(|(member, link)| member.card.node_id == *w.node(of) && link.is_some())
    };
    assert!(linked(&world, 0, 2));
    world.crash(2);
    let crashed = world.now();
    must(&mut world, secs(10), "the connections are closed", |w| !linked(w, 0, 2) && !linked(w, 1, 2));
    assert!(world.now().since(crashed) < secs(5), "long before they would have been idle");
}

#[test]
fn fault_60_a_node_that_runs_half_of_the_time_accuses_nobody() {
    for seed in 0..5 {
        let mut world = at_rest(Config::lan(5, seed));
        for _ in 0..1200 {
            world.pause(2, ms(250));
            world.run_for(ms(500));
        }
        sound(&world);
        assert_eq!(failures(&world), 0, "seed {seed}: {:?}", world.report().changes.last());
    }
}

#[test]
fn a_node_that_is_cut_off_from_everybody_holds_all_of_them_for_failed_in_the_end() {
    for seed in 0..5 {
        let mut world = at_rest(Config::lan(4, seed));
        for n in 0..4 {
            let others: Vec<_> = (0..4).filter(|m| *m != n).collect();
            world.cut(&[n], &others);
        }
        let took = must(&mut world, secs(120), "everybody is alone", |w| {
            (0..4).all(|o| (0..4).all(|m| o == m || w.status(o, m) == Some(MemberStatus::Failed)))
        });
        println!("seed {seed}: after {took:?}");
    }
}
