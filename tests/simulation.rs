//! Whole meshes under virtual time: joining, failing, cutting, healing, leaving, coming back.
//!
//! A test that fails names its seed; `shoal sim --seed` or the same test runs it again, byte for byte.

use std::time::Duration;

use shoal::core::error::Refusal;
use shoal::core::ids::{AgentName, NodeId, RequestId};
use shoal::core::model::{AgentSource, AgentSpec, Care, HealthCheck, MemberStatus, Probe, ProcessProtocol};
use shoal::core::time::Instant;
use shoal::core::wire::{RequestBody, ResponseBody};
use shoal::sim::{Config, Fault, Schedule, World, percentile};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn node(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).expect("valid")
}

/// A mesh in which everyone knows everyone; where packets are lost, somebody is always under suspicion.
fn joined(config: Config) -> World {
    let mut world = World::new(config);
    world.start_all();
    let started = 50 * world.len() as u64;
    world.run_for(ms(started));
    must(&mut world, secs(30), "everyone joins", World::all_know_all);
    world
}

/// Waits for a condition; how long it took.
fn must(world: &mut World, within: Duration, what: &str, condition: impl Fn(&World) -> bool) -> Duration {
    let since = world.now();
    let found = world.run_until(since + within, condition);
    sound(world);
    let seed = world.report().seed;
    found
        .unwrap_or_else(|| panic!("seed {seed}: not within {within:?}: {what}; {:#?}", story(world)))
        .since(since)
}

fn story(world: &World) -> Vec<String> {
    let unrest = world.unrest();
    let changes = world.report().changes.iter().rev().take(20).rev();
    unrest.into_iter().take(10).chain(changes.map(ToString::to_string)).collect()
}

fn sound(world: &World) {
    let seed = world.report().seed;
    assert!(world.broken().is_empty(), "seed {seed}: {:#?}", world.broken());
}

/// Everyone agrees on everything, soon.
fn settles(world: &mut World, within: Duration) -> Duration {
    must(world, within, "the mesh comes to rest", |w| w.unrest().is_empty())
}

fn all(world: &World, of: usize, status: Option<MemberStatus>) -> bool {
    (0..world.len()).filter(|m| *m != of && world.is_running(*m)).all(|m| world.status(m, of) == status)
}

fn told(world: &World, of: usize, status: MemberStatus, since: Instant) -> usize {
    let name = world.node(of).clone();
    world.report().changes.iter().filter(|c| c.at >= since && c.node == name && c.status == status).count()
}

fn agent(name: &str) -> AgentName {
    AgentName::new(name).expect("valid")
}

fn echo(name: &str) -> AgentSpec {
    AgentSpec::new(agent(name), AgentSource::Native { builtin: "echo".to_owned() })
}

fn process(name: &str, command: &str) -> AgentSpec {
    let source =
        AgentSource::Process { protocol: ProcessProtocol::Stdio, command: command.to_owned(), args: vec![] };
    AgentSpec::new(agent(name), source)
}

fn answer(world: &mut World, machine: usize, request: RequestId) -> Result<ResponseBody, Refusal> {
    must(world, secs(40), "an answer", |w| w.report().replies.contains_key(&(machine, request)));
    world.report().replies[&(machine, request)].1.clone()
}

fn deploy(world: &mut World, from: usize, on: usize, spec: AgentSpec) -> Result<ResponseBody, Refusal> {
    let to = world.node(on).clone();
    let request = world.request(from, &to, RequestBody::Deploy { spec });
    answer(world, from, request)
}

fn routable(world: &World, observer: usize, name: &str) -> bool {
    let view = world.view(observer).expect("it runs");
    view.agents.iter().any(|a| {
        a.name == agent(name) && a.node_status.is_reachable() && a.record.state.as_str() == "running"
    })
}

fn routable_everywhere(world: &World, name: &str) -> bool {
    (0..world.len()).filter(|m| world.is_running(*m)).all(|m| routable(world, m, name))
}

mod determinism {
    use super::*;

    fn digest(seed: u64) -> String {
        let mut world = World::new(Config::lan(5, seed).with_loss(0.1));
        world.start_all();
        world.take_up(Schedule::random(5, 3, seed, secs(60)));
        world.run_for(secs(120));
        world.report().digest()
    }

    #[test]
    fn the_same_seed_twice_gives_the_same_bytes_and_another_seed_others() {
        assert_eq!(digest(7), digest(7));
        assert_ne!(digest(7), digest(8));
    }
}

mod joining {
    use super::*;

    fn join(nodes: usize, loss: f64, seed: u64, within: Duration) -> Duration {
        let mut world = World::new(Config::lan(nodes, seed).with_loss(loss));
        world.start_all();
        world.run_for(ms(50 * nodes as u64));
        must(&mut world, within, "full membership", World::all_know_all)
    }

    #[test]
    fn five_thirty_and_a_hundred_nodes_join_without_loss_within_a_second_of_the_last_start() {
        for (nodes, seeds) in [(5, 20), (30, 5), (100, 1)] {
            for seed in 0..seeds {
                join(nodes, 0.0, seed, secs(1));
            }
        }
    }

    #[test]
    fn thirty_nodes_that_are_started_at_once_know_each_other_within_a_second() {
        for seed in 0..5 {
            let mut world = World::new(Config::lan(30, seed));
            (0..30).for_each(|m| world.start(m));
            must(&mut world, secs(1), "full membership", World::all_see_all);
        }
    }

    #[test]
    fn they_join_at_ten_percent_loss() {
        for (nodes, seeds) in [(5, 20), (30, 5), (100, 1)] {
            for seed in 0..seeds {
                join(nodes, 0.1, seed, secs(8));
            }
        }
    }

    #[test]
    fn they_join_at_twenty_five_percent_loss() {
        for (nodes, seeds) in [(5, 20), (30, 5), (100, 1)] {
            for seed in 0..seeds {
                join(nodes, 0.25, seed, secs(20));
            }
        }
    }

    #[test]
    fn whoever_joins_a_mesh_of_a_hundred_knows_everyone_within_a_second() {
        let mut world = joined(Config::lan(100, 1));
        let seeds = vec!["n2:7946".to_owned()];
        let late = world.add_machine(node(101), "n101:7946".to_owned(), seeds, None);
        world.start(late);
        let knows = |w: &World| (0..100).all(|m| w.status(late, m) == Some(MemberStatus::Alive));
        must(&mut world, secs(1), "the joiner knows everyone", knows);
        must(&mut world, secs(2), "everyone knows the joiner", |w| all(w, late, Some(MemberStatus::Alive)));
    }

    #[test]
    fn every_two_nodes_of_a_small_mesh_have_one_link_soon_after_the_start() {
        for (nodes, seeds) in [(5, 20), (30, 3)] {
            for seed in 0..seeds {
                let mut world = joined(Config::lan(nodes, seed));
                must(&mut world, ms(500), "one link a pair", World::all_linked);
                world.crash(nodes - 1);
                world.run_for(ms(200));
                world.start(nodes - 1);
                must(&mut world, secs(1), "one link a pair after a restart", World::all_linked);
            }
        }
    }

    #[test]
    fn a_large_mesh_joins_and_tells_its_news_without_links_between_all() {
        let mut world = World::new(Config::lan(100, 1));
        world.start_all();
        world.run_for(ms(50 * 100));
        must(&mut world, secs(1), "full membership", World::all_know_all);
        let (_, bytes) = world.traffic();
        assert!(bytes < 100 * 600_000, "{bytes} bytes for a join of a hundred");
        let all_informed = |w: &World| (0..100).all(|m| w.informed(m) == 100);
        must(&mut world, secs(10), "all records", all_informed);
        // What the join needed is let go.
        world.run_for(secs(90));
        let links: Vec<_> = (0..100).map(|m| world.gauges(m).expect("it runs").links).collect();
        assert!(links.iter().sum::<usize>() < 100 * 75, "{links:?}");
        assert!(links.iter().all(|links| *links >= 12), "{links:?}");
        for owner in [0, 50, 99] {
            assert!(world.publish(owner));
            must(&mut world, secs(5), "everyone has the news", |w| w.informed(owner) == 100);
        }
        assert!(world.shared_unrest().is_empty(), "{:?}", world.shared_unrest().first());
        sound(&world);
    }

    #[test]
    fn two_islands_become_one_through_a_seed_that_both_know() {
        for seed in 0..3 {
            let mut world = World::new(Config::lan(10, seed));
            let common = "n10:7946".to_owned();
            for m in 0..10 {
                let own = if m < 5 { "n1:7946" } else { "n6:7946" };
                let mut seeds = vec![own.to_owned(), common.clone()];
                seeds.retain(|s| *s != format!("n{}:7946", m + 1));
                world.set_seeds(m, seeds);
            }
            (0..9).for_each(|m| world.start(m));
            world.run_for(secs(20));
            assert!(!world.all_see_all());
            world.start(9);
            must(&mut world, secs(20), "one mesh", World::all_see_all);
            settles(&mut world, secs(10));
        }
    }

    #[test]
    fn islands_that_were_cut_apart_before_they_met_become_one() {
        let mut world = joined(Config::lan(3, 5));
        let (one, other): (Vec<_>, Vec<_>) = ((0..6).collect(), (6..9).collect());
        for m in 3..9 {
            let seeds = vec!["n1:7946".to_owned(), "n2:7946".to_owned(), "n3:7946".to_owned()];
            world.add_machine(node(m + 1), format!("n{}:7946", m + 1), seeds, None);
        }
        world.cut(&one, &other);
        (3..9).for_each(|m| world.start(m));
        world.run_for(secs(30));
        world.apply(&Fault::Heal);
        must(&mut world, secs(20), "one mesh", World::all_see_all);
        settles(&mut world, secs(10));
    }
}

mod refusing {
    use super::*;

    #[test]
    fn nodes_of_two_meshes_refuse_each_other_with_the_reason_and_not_several_times_a_second() {
        let mut world = joined(Config::lan(3, 1));
        let seeds = vec!["n1:7946".to_owned(), "n2:7946".to_owned()];
        let other = world.add_machine(node(9), "n9:7946".to_owned(), seeds, None);
        let mesh_id = shoal::core::ids::MeshId(uuid::Uuid::from_u128(7));
        world.set_disk(other, shoal::sim::Disk { mesh_id: Some(mesh_id), ..world.disk(other) });
        let packets = |world: &mut World| {
            let before = world.traffic().0;
            world.run_for(secs(300));
            world.traffic().0 - before
        };
        let alone = packets(&mut world);
        world.start(other);
        let beside = packets(&mut world);
        sound(&world);
        let told = world.report().refused.iter();
        let reasons: Vec<_> =
            told.filter(|(_, m, why)| *m == other && why.contains("different meshes")).collect();
        assert!(!reasons.is_empty() && reasons.len() <= 4, "{reasons:?}");
        assert!(
            beside - alone < 300 * 10,
            "it does not call all the time: {beside} packets, {alone} without it"
        );
        assert!((0..3).all(|m| world.status(m, other).is_none()));
        assert!(world.view(0).expect("it runs").members.iter().all(|(m, _)| m.card.node_id != node(9)));
    }

    #[test]
    fn nodes_that_wait_for_their_mesh_join_soon_after_it_begins() {
        let mut world = World::new(Config::lan(5, 1));
        (1..5).for_each(|m| world.start(m));
        world.run_for(secs(120));
        world.start(0);
        must(&mut world, secs(20), "everyone joins", World::all_see_all);
        assert!(world.report().refused.len() < 100, "{}", world.report().refused.len());
    }
}

mod failing {
    use super::*;

    #[test]
    fn one_crash_is_seen_by_all() {
        for (nodes, loss, seeds, within) in [
            (5, 0.0, 5, 5),
            (5, 0.1, 5, 6),
            (5, 0.25, 5, 8),
            (30, 0.0, 2, 6),
            (30, 0.1, 2, 8),
            (30, 0.25, 2, 10),
            (100, 0.0, 1, 8),
            (100, 0.1, 1, 10),
            (100, 0.25, 1, 15),
        ] {
            for seed in 0..seeds {
                let mut world = joined(Config::lan(nodes, seed).with_loss(loss));
                world.run_for(secs(2));
                world.crash(nodes / 2);
                let what = format!("{nodes} nodes at loss {loss} see the crash");
                let dead = |w: &World| all(w, nodes / 2, Some(MemberStatus::Failed));
                must(&mut world, secs(within), &what, dead);
            }
        }
    }

    #[test]
    fn in_small_meshes_every_survivor_says_so_within_four_seconds() {
        for nodes in [3, 5] {
            let mut times = Vec::new();
            for seed in 0..60 {
                let mut world = joined(Config::lan(nodes, seed));
                world.run_for(secs(2) + ms(37 * seed));
                let at = world.now();
                world.crash((seed as usize) % nodes);
                world.run_for(secs(6));
                sound(&world);
                let found = world.report().detections(world.node((seed as usize) % nodes), at);
                assert_eq!(found.len(), nodes - 1, "seed {seed}");
                times.extend(found);
            }
            times.sort_unstable();
            let (p50, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
            let max = times[times.len() - 1];
            println!("{nodes} nodes: detection p50 {p50:?} p99 {p99:?} max {max:?}");
            assert!(max < secs(4), "{nodes} nodes: {max:?}");
        }
    }

    #[test]
    fn at_ten_percent_loss_nobody_healthy_is_called_failed() {
        for (nodes, seeds, span) in [(5, 5, 600), (30, 1, 300), (100, 1, 300)] {
            for seed in 0..seeds {
                let mut world = joined(Config::lan(nodes, seed).with_loss(0.1));
                world.run_for(secs(span));
                sound(&world);
                let false_failures = world.report().false_failures();
                println!("{nodes} nodes: {false_failures} false failures, {} renewals", world.renewals());
                assert_eq!((false_failures, world.renewals()), (0, 0), "{nodes} nodes, seed {seed}");
            }
        }
    }
}

mod healing {
    use super::*;

    fn sides(nodes: usize) -> (Vec<usize>, Vec<usize>) {
        let first = nodes * 2 / 5;
        ((0..first).collect(), (first..nodes).collect())
    }

    /// Cuts 2:3 for a while, does something meanwhile, heals, and waits for the old state.
    fn cut_and_heal(nodes: usize, seed: u64, span: Duration, meanwhile: impl Fn(&mut World)) -> Duration {
        let mut world = joined(Config::lan(nodes, seed));
        let (one, other) = sides(nodes);
        world.cut(&one, &other);
        must(&mut world, secs(30), "each side calls the other failed", |w| {
            one.iter().all(|a| other.iter().all(|b| w.status(*a, *b) == Some(MemberStatus::Failed)))
                && other.iter().all(|a| one.iter().all(|b| w.status(*a, *b) == Some(MemberStatus::Failed)))
        });
        world.run_for(span / 2);
        meanwhile(&mut world);
        world.run_for(span / 2);
        world.apply(&Fault::Heal);
        let took = must(&mut world, secs(60), "all are alive again", World::all_see_all);
        settles(&mut world, secs(20));
        took
    }

    #[test]
    fn a_cut_of_an_hour_heals_within_a_minute() {
        for nodes in [5, 30] {
            let took = cut_and_heal(nodes, 1, secs(3600), |_| {});
            println!("{nodes} nodes: healed in {took:?}");
        }
    }

    #[test]
    fn a_cut_of_a_hundred_nodes_heals_within_a_minute() {
        let took = cut_and_heal(100, 1, secs(60), |_| {});
        println!("100 nodes: healed in {took:?}");
    }

    #[test]
    fn short_cuts_of_every_length_heal() {
        for seed in 0..20 {
            let mut world = joined(Config::lan(5, seed));
            let (one, other) = sides(5);
            world.cut(&one, &other);
            world.run_for(ms(300 * seed));
            world.apply(&Fault::Heal);
            world.run_for(ms(50));
            must(&mut world, secs(60), "all are alive again", World::all_see_all);
            settles(&mut world, secs(20));
        }
    }

    #[test]
    fn a_cut_heals_although_all_seeds_died_meanwhile() {
        for seed in 0..3 {
            cut_and_heal(10, seed, secs(120), |w| (0..3).for_each(|m| w.crash(m)));
        }
        cut_and_heal(30, 1, secs(120), |w| (0..3).for_each(|m| w.crash(m)));
    }

    #[test]
    fn a_cut_heals_although_nodes_of_both_sides_moved_and_all_seeds_died_meanwhile() {
        for seed in 0..3 {
            cut_and_heal(10, seed, secs(120), |w| {
                (0..3).for_each(|m| w.crash(m));
                for m in [3, 5, 6, 8] {
                    w.crash(m);
                    w.move_to(m, &format!("n{}:8000", m + 1));
                    w.set_seeds(m, vec![]);
                    w.start(m);
                }
            });
        }
    }

    #[test]
    fn a_node_cut_off_alone_and_its_seeds_come_back() {
        for seed in 0..5 {
            let mut world = joined(Config::lan(5, seed));
            world.cut(&[4], &[0, 1, 2, 3]);
            world.run_for(secs(60));
            world.apply(&Fault::Heal);
            must(&mut world, secs(20), "all are alive again", World::all_see_all);
            settles(&mut world, secs(10));
        }
    }

    #[test]
    fn a_partial_cut_that_a_third_node_bridges_fails_nobody() {
        for seed in 0..5 {
            let mut world = joined(Config::lan(5, seed));
            world.cut(&[0], &[1]);
            world.run_for(secs(300));
            assert_eq!(told(&world, 0, MemberStatus::Failed, Instant::ZERO), 0, "seed {seed}");
            assert_eq!(told(&world, 1, MemberStatus::Failed, Instant::ZERO), 0, "seed {seed}");
            world.apply(&Fault::Heal);
            settles(&mut world, secs(60));
        }
    }

    #[test]
    fn a_one_way_cut_ends_in_order_and_does_not_flap_for_ever() {
        for seed in 0..5 {
            let mut world = joined(Config::lan(5, seed));
            world.apply(&Fault::Cut { from: vec![0], to: vec![1] });
            world.run_for(secs(300));
            let flaps = told(&world, 0, MemberStatus::Failed, Instant::ZERO)
                + told(&world, 1, MemberStatus::Failed, Instant::ZERO);
            assert!(flaps <= 4, "seed {seed}: {flaps} verdicts");
            world.apply(&Fault::Heal);
            settles(&mut world, secs(60));
        }
    }

    #[test]
    fn a_node_that_can_speak_and_not_hear_is_called_failed_and_comes_back() {
        for seed in 0..5 {
            let mut world = joined(Config::lan(5, seed));
            world.apply(&Fault::Cut { from: vec![0, 1, 2, 3], to: vec![4] });
            world.run_for(secs(120));
            let flaps = told(&world, 4, MemberStatus::Failed, Instant::ZERO);
            println!("seed {seed}: {flaps} verdicts about the deaf node");
            world.apply(&Fault::Heal);
            settles(&mut world, secs(60));
        }
    }

    #[test]
    fn a_pause_that_is_longer_than_any_suspicion_heals_and_accuses_nobody_else() {
        for seed in 0..10 {
            let mut world = joined(Config::lan(5, seed));
            world.run_for(secs(25));
            world.pause(2, secs(1 + 3 * seed));
            world.run_for(secs(1 + 3 * seed));
            settles(&mut world, secs(20));
            for m in [0, 1, 3, 4] {
                assert_eq!(
                    told(&world, m, MemberStatus::Failed, Instant::ZERO),
                    0,
                    "seed {seed}: n{}",
                    m + 1
                );
            }
        }
    }

    #[test]
    fn a_node_that_runs_half_of_the_time_is_slow_and_not_failed() {
        for seed in 0..5 {
            let mut world = joined(Config::lan(5, seed));
            for _ in 0..120 {
                world.pause(2, ms(250));
                world.run_for(ms(500));
            }
            sound(&world);
            let failed = world.report().changes.iter().filter(|c| c.status == MemberStatus::Failed).count();
            assert_eq!(failed, 0, "seed {seed}");
        }
    }

    #[test]
    fn a_burst_of_three_seconds_in_which_everything_is_lost_is_over_within_five_seconds() {
        for seed in 0..10 {
            let mut world = joined(Config::lan(5, seed));
            world.run_for(secs(25));
            world.apply(&Fault::Loss(1.0));
            world.run_for(secs(3));
            world.apply(&Fault::Loss(0.0));
            must(&mut world, secs(5), "all are alive again", World::all_see_all);
            let failed = world.report().changes.iter().filter(|c| c.status == MemberStatus::Failed).count();
            assert_eq!(failed, 0, "seed {seed}: whoever hears of nobody doubts itself");
        }
    }
}

mod coming_and_going {
    use super::*;

    #[test]
    fn a_graceful_stop_is_seen_as_left_and_never_as_failed() {
        for (nodes, loss, seeds) in [(5, 0.0, 5), (5, 0.1, 10), (30, 0.1, 2), (100, 0.0, 1)] {
            for seed in 0..seeds {
                let mut world = joined(Config::lan(nodes, seed).with_loss(loss));
                world.run_for(secs(20));
                let since = world.now();
                world.stop(1);
                must(&mut world, secs(10), "all see it gone", |w| {
                    !w.is_running(1) && all(w, 1, Some(MemberStatus::Left))
                });
                world.run_for(secs(30));
                sound(&world);
                assert_eq!(told(&world, 1, MemberStatus::Failed, since), 0, "{nodes} nodes, seed {seed}");
                assert!(all(&world, 1, Some(MemberStatus::Left)), "it stays left");
            }
        }
    }

    #[test]
    fn a_node_that_left_and_starts_again_is_alive_again() {
        for seed in 0..5 {
            let mut world = joined(Config::lan(5, seed));
            world.stop(1);
            world.run_for(secs(5));
            world.start(1);
            must(&mut world, secs(2), "it is alive again", World::all_see_all);
            settles(&mut world, secs(10));
        }
    }

    #[test]
    fn a_node_that_leaves_for_good_disappears_and_stays_away() {
        for (nodes, seeds) in [(5, 5), (30, 2), (100, 1)] {
            for seed in 0..seeds {
                let mut world = joined(Config::lan(nodes, seed));
                world.run_for(secs(20));
                let since = world.now();
                world.leave(1);
                must(&mut world, secs(10), "all forget it", |w| !w.is_running(1) && all(w, 1, None));
                settles(&mut world, secs(20));
                world.run_for(secs(20));
                assert!(all(&world, 1, None), "it stays forgotten");
                assert_eq!(told(&world, 1, MemberStatus::Failed, since), 0);
                assert!(!world.disk(0).peers.contains_key(world.node(1)));
                world.start(1);
                must(&mut world, secs(5), "it may join anew", World::all_see_all);
                settles(&mut world, secs(20));
            }
        }
    }

    #[test]
    fn a_node_that_was_away_while_another_left_for_good_forgets_it_too() {
        for seed in 0..30 {
            let mut world = joined(Config::lan(5, seed));
            world.run_for(secs(5));
            world.crash(3);
            world.leave(1);
            world.run_for(secs(20));
            world.start(3);
            must(&mut world, secs(5), "it forgets the leaver", |w| w.all_see_all() && all(w, 1, None));
            settles(&mut world, secs(10));
            // The commit may be under way.
            world.run_for(ms(10));
            assert!(!world.disk(3).peers.contains_key(world.node(1)));
        }
    }

    #[test]
    fn a_restart_finds_its_mesh_without_any_seed() {
        for (nodes, seeds) in [(5, 5), (30, 2), (100, 1)] {
            for seed in 0..seeds {
                let mut world = joined(Config::lan(nodes, seed));
                let last = nodes - 1;
                world.set_seeds(last, vec![]);
                world.run_for(secs(5));
                world.crash(last);
                must(&mut world, secs(15), "it is failed", |w| all(w, last, Some(MemberStatus::Failed)));
                world.start(last);
                must(&mut world, secs(5), "it is back", World::all_see_all);
                settles(&mut world, secs(10));
            }
        }
    }

    #[test]
    fn a_quick_restart_is_told_as_failed_and_alive() {
        for seed in 0..5 {
            let mut world = joined(Config::lan(5, seed));
            world.run_for(secs(5));
            let since = world.now();
            world.crash(3);
            world.run_for(ms(100));
            world.start(3);
            must(&mut world, secs(3), "it is back", World::all_see_all);
            settles(&mut world, secs(10));
            assert_eq!(told(&world, 3, MemberStatus::Failed, since), 4, "seed {seed}");
            assert_eq!(told(&world, 3, MemberStatus::Alive, since), 4, "seed {seed}");
        }
    }

    #[test]
    fn a_restart_at_another_address_is_found_there() {
        for (seed, pause) in (0..10).map(|seed| (seed, ms(500 * seed))) {
            let mut world = joined(Config::lan(5, seed));
            world.run_for(secs(5));
            world.crash(3);
            world.run_for(pause);
            world.move_to(3, "n4:8000");
            world.start(3);
            world.run_for(ms(100));
            must(&mut world, secs(10), "it is back", World::all_see_all);
            settles(&mut world, secs(10));
            let view = world.view(1).expect("it runs");
            let moved = view.members.iter().find(|(m, _)| m.card.node_id == node(4)).expect("known");
            assert_eq!(moved.0.card.addresses, ["n4:8000"]);
        }
    }

    #[test]
    fn all_nodes_killed_at_once_come_back_as_one_mesh() {
        for (nodes, seeds) in [(5, 5), (30, 1)] {
            for seed in 0..seeds {
                let mut world = joined(Config::lan(nodes, seed));
                (0..nodes).for_each(|m| world.crash(m));
                (0..nodes).for_each(|m| world.set_seeds(m, vec![]));
                world.run_for(secs(3));
                world.start_all();
                world.run_for(secs(2));
                must(&mut world, secs(30), "one mesh again", World::all_see_all);
                settles(&mut world, secs(20));
            }
        }
    }

    #[test]
    fn a_node_whose_old_disk_was_restored_comes_back_above_what_the_mesh_remembers() {
        for seed in 0..5 {
            let mut world = joined(Config::lan(5, seed));
            world.run_for(secs(1));
            let old = world.disk(3);
            for _ in 0..4 {
                world.crash(3);
                world.run_for(secs(5));
                world.start(3);
                must(&mut world, secs(5), "it is back", World::all_see_all);
            }
            world.crash(3);
            let newest = world.disk(3).start_next;
            world.set_disk(3, old);
            world.run_for(secs(5));
            world.start(3);
            must(&mut world, secs(10), "it is back", World::all_see_all);
            world.run_for(secs(5));
            let start = world.start_number(3).expect("it runs");
            assert!(start >= newest, "seed {seed}: it goes on at {start}, {newest} was next");
            assert!(world.disk(3).start_next > start, "seed {seed}: its next start is above this one");
        }
    }
}

mod duplicates {
    use super::*;

    fn second(world: &mut World, of: usize, with_disk: bool) -> usize {
        let name = world.node(of).clone();
        let address = format!("{name}-again:7946");
        let double = world.add_machine(name, address, vec!["n1:7946".to_owned(), "n2:7946".to_owned()], None);
        if with_disk {
            let disk = world.disk(of);
            world.set_disk(double, disk);
        }
        double
    }

    #[test]
    fn a_second_process_with_a_live_nodes_id_is_refused_and_the_first_stays() {
        for (nodes, loss, with_disk) in [
            (5, 0.0, false),
            (5, 0.0, true),
            (5, 0.1, false),
            (5, 0.1, true),
            (60, 0.0, false),
            (60, 0.0, true),
        ] {
            for seed in 0..if nodes == 5 { 10 } else { 2 } {
                let mut world = joined(Config::lan(nodes, seed).with_loss(loss));
                world.run_for(secs(10));
                let first = world.start_number(3);
                let since = world.now();
                let double = second(&mut world, 3, with_disk);
                world.start(double);
                let what = format!("{nodes} nodes, loss {loss}, disk {with_disk}: it ends");
                must(&mut world, secs(15), &what, |w| !w.is_running(double));
                world.run_for(secs(20));
                sound(&world);
                assert!(world.is_running(3), "seed {seed}: the first lives");
                assert_eq!(told(&world, 3, MemberStatus::Failed, since), 0, "{what}, seed {seed}");
                assert_eq!(world.start_number(3), first, "{what}, seed {seed}");
                let noticed = world.report().duplicates.iter().any(|(_, _, name)| *name == node(4));
                assert!(noticed, "{what}, seed {seed}: an operator hears of it");
            }
        }
    }
}

mod agents {
    use super::*;

    #[test]
    fn an_agent_is_routable_everywhere_within_a_second_and_gone_with_its_node() {
        for (nodes, seeds) in [(5, 5), (30, 2), (100, 1)] {
            for seed in 0..seeds {
                let mut world = joined(Config::lan(nodes, seed));
                world.run_for(secs(2));
                deploy(&mut world, 0, 3, echo("a")).expect("it starts");
                let took =
                    must(&mut world, secs(1), "the agent is everywhere", |w| routable_everywhere(w, "a"));
                println!("{nodes} nodes: an agent is everywhere {took:?} after its deploy");
                world.crash(3);
                must(&mut world, secs(10), "nobody routes to it", |w| {
                    (0..nodes).filter(|m| *m != 3).all(|m| !routable(w, m, "a"))
                });
                world.start(3);
                must(&mut world, secs(10), "it came back with its node", |w| routable_everywhere(w, "a"));
                settles(&mut world, secs(10));
            }
        }
    }

    #[test]
    fn agents_that_cannot_start_that_end_and_that_are_stopped_leave_the_right_records() {
        let mut world = joined(Config::lan(5, 1));
        let refused = deploy(&mut world, 0, 3, process("bad", "fails"));
        assert!(matches!(refused, Err(Refusal::StartFailed { .. })), "{refused:?}");
        deploy(&mut world, 0, 3, process("ends", "ends")).expect("it starts");
        deploy(&mut world, 0, 3, echo("a")).expect("it starts");
        let again = deploy(&mut world, 1, 3, echo("a"));
        assert!(matches!(again, Err(Refusal::AgentExists { .. })), "{again:?}");
        world.run_for(secs(600));
        let view = world.view(0).expect("it runs");
        let states: Vec<_> = view.agents.iter().map(|a| (a.name.as_str(), a.record.state.as_str())).collect();
        assert_eq!(states, [("a", "running"), ("ends", "quarantined")]);
        let to = world.node(3).clone();
        for name in ["a", "ends"] {
            let request = world.request(2, &to, RequestBody::StopAgent { agent: agent(name) });
            assert_eq!(answer(&mut world, 2, request), Ok(ResponseBody::Done));
        }
        settles(&mut world, secs(5));
        assert!(world.view(4).expect("it runs").agents.is_empty());
        assert!(world.disk(3).agents.is_empty());
    }

    /// Every state that another node sees of an agent, each with the second in which it saw it first.
    fn seen_states(world: &mut World, name: &str, span: Duration) -> Vec<(u64, String)> {
        let since = world.now();
        let mut seen: Vec<(u64, String)> = vec![];
        while world.now().since(since) < span {
            let view = world.view(0).expect("it runs");
            let found = view.agents.iter().find(|agent| agent.name.as_str() == name);
            let state = found.map_or("gone", |agent| agent.record.state.as_str()).to_owned();
            if seen.last().is_none_or(|(_, last)| *last != state) {
                seen.push((world.now().since(since).as_secs(), state));
            }
            world.run_for(ms(5));
        }
        seen
    }

    #[test]
    fn an_agent_whose_checks_fail_goes_up_the_whole_ladder_on_time_and_down_again_when_released() {
        let mut world = joined(Config::lan(3, 2));
        let probe = Probe::Answer { content: "ping".to_owned() };
        let care = Care { health: Some(HealthCheck::new(probe)), ..Care::default() };
        let hangs = AgentSpec { care, ..process("a", "hangs") };
        deploy(&mut world, 0, 2, hangs).expect("it starts");
        let states = seen_states(&mut world, "a", secs(700));
        // Three checks, each 5 s after the one before and 2 s long, are 21 s.
        let mut at = 0;
        let mut wanted = vec![(0, "running")];
        for wait in [1, 5, 15, 30, 60, 120, 240] {
            at += 21;
            wanted.push((at, "restarting"));
            at += wait;
            wanted.push((at, "running"));
        }
        wanted.push((at + 21, "quarantined"));
        let told = states.iter().filter(|(_, state)| state != "starting");
        let told: Vec<_> = told.map(|(second, state)| (*second, state.as_str())).collect();
        assert_eq!(told.len(), wanted.len(), "{told:?}");
        for (told, wanted) in told.iter().zip(&wanted) {
            let is_near = (wanted.0..=wanted.0 + 2).contains(&told.0);
            assert!(is_near && told.1 == wanted.1, "{told:?} is not {wanted:?}");
        }
        let to = world.node(2).clone();
        let release = |agent| RequestBody::RestartAgent { agent, release: true };
        let request = world.request(1, &to, release(agent("a")));
        assert_eq!(answer(&mut world, 1, request), Ok(ResponseBody::Done));
        let request = world.request(1, &to, release(agent("a")));
        let refused = answer(&mut world, 1, request);
        assert!(
            matches!(&refused, Err(Refusal::StartFailed { reason, .. }) if reason.contains("it is running")),
            "{refused:?}"
        );
        let states = seen_states(&mut world, "a", secs(30));
        assert!(states.iter().any(|(_, state)| state == "restarting"), "the count begins anew: {states:?}");
        sound(&world);
    }

    #[test]
    fn everyone_who_asks_to_stop_an_agent_is_answered() {
        let mut world = joined(Config::lan(3, 1));
        deploy(&mut world, 0, 1, echo("a")).expect("it starts");
        let to = world.node(1).clone();
        let requests: Vec<_> = [0, 1, 1, 2]
            .map(|m| (m, world.request(m, &to, RequestBody::StopAgent { agent: agent("a") })))
            .into();
        let answers: Vec<_> = requests.into_iter().map(|(m, r)| answer(&mut world, m, r)).collect();
        assert!(answers.contains(&Ok(ResponseBody::Done)), "{answers:?}");
    }

    #[test]
    fn everyone_who_asks_a_node_to_leave_is_answered() {
        let mut world = joined(Config::lan(3, 1));
        let to = world.node(1).clone();
        let requests: Vec<_> = [0, 0, 2]
            .map(|m| (m, world.request(m, &to, RequestBody::Leave { drain_ms: 100, force: false })))
            .into();
        let since = world.now();
        for (m, request) in requests {
            let _ = answer(&mut world, m, request);
        }
        assert!(world.now().since(since) < secs(5), "nobody waits for a timeout");
    }

    #[test]
    fn many_agents_deployed_and_stopped_while_a_node_was_away_leave_no_ghost() {
        let mut world = joined(Config::lan(4, 1));
        deploy(&mut world, 0, 0, echo("keep")).expect("it starts");
        deploy(&mut world, 0, 0, echo("gone")).expect("it starts");
        world.run_for(secs(3));
        // The third sees none of what follows; the second gets it as a snapshot; then the third asks the second.
        world.cut(&[2], &[0, 1, 3]);
        let own = world.node(0).clone();
        let request = world.request(0, &own, RequestBody::StopAgent { agent: agent("gone") });
        answer(&mut world, 0, request).expect("it stops");
        for n in 0..300 {
            let name = format!("t{n}");
            deploy(&mut world, 0, 0, echo(&name)).expect("it starts");
            let request = world.request(0, &own, RequestBody::StopAgent { agent: agent(&name) });
            answer(&mut world, 0, request).expect("it stops");
        }
        world.crash(1);
        world.run_for(secs(3));
        world.start(1);
        world.run_for(secs(5));
        world.apply(&Fault::Heal);
        world.cut(&[2], &[0, 3]);
        world.run_for(secs(30));
        let agents: Vec<_> = world.view(2).expect("it runs").agents.into_iter().map(|a| a.name).collect();
        assert_eq!(agents, [agent("keep")]);
        world.apply(&Fault::Heal);
        settles(&mut world, secs(60));
    }
}

mod requests {
    use super::*;

    #[test]
    fn a_ping_is_answered_by_every_node() {
        let mut world = joined(Config::lan(100, 1));
        for to in [0, 50, 99] {
            let name = world.node(to).clone();
            let request = world.request(0, &name, RequestBody::Ping);
            assert_eq!(answer(&mut world, 0, request), Ok(ResponseBody::Done));
        }
    }

    #[test]
    fn requests_to_the_dead_the_unknown_and_the_dying_fail_with_their_reason() {
        let mut world = joined(Config::lan(5, 1));
        let request = world.request(0, &node(77), RequestBody::Ping);
        assert!(matches!(answer(&mut world, 0, request), Err(Refusal::UnknownNode { .. })));
        let dead = world.node(4).clone();
        world.crash(4);
        let since = world.now();
        let request = world.request(0, &dead, RequestBody::Ping);
        let refused = answer(&mut world, 0, request);
        assert!(matches!(refused, Err(Refusal::LinkLost { .. })), "{refused:?}");
        assert!(world.now().since(since) < secs(6), "the verdict ends the wait");
        let request = world.request(0, &dead, RequestBody::Ping);
        assert!(matches!(answer(&mut world, 0, request), Err(Refusal::NodeDown { .. })));
        let request = world.request(0, &node(2), RequestBody::AgentInfo { agent: agent("nobody") });
        assert!(matches!(answer(&mut world, 0, request), Err(Refusal::UnknownAgent { .. })));
    }

    #[test]
    fn a_request_to_a_node_that_dies_without_a_link_fails_with_the_verdict() {
        for seed in 0..5 {
            let mut world = joined(Config::lan(60, seed));
            let late = world.add_machine(node(61), "n61:7946".to_owned(), vec!["n1:7946".to_owned()], None);
            // They hear of each other from the others only.
            let to = 40;
            world.cut(&[late], &[to]);
            world.start(late);
            must(&mut world, secs(1), "the joiner knows everyone", World::all_know_all);
            let name = world.node(to).clone();
            world.crash(to);
            let since = world.now();
            let request = world.request(late, &name, RequestBody::Ping);
            let refused = answer(&mut world, late, request);
            assert!(refused.is_err());
            assert!(world.now().since(since) < secs(9), "{refused:?} after {:?}", world.now().since(since));
        }
    }

    #[test]
    fn a_request_whose_answer_never_comes_times_out() {
        let mut world = joined(Config::lan(5, 1));
        let to = world.node(4).clone();
        // The answer cannot come back, and others keep the node alive.
        world.apply(&Fault::Cut { from: vec![4], to: vec![0] });
        let request = world.request(0, &to, RequestBody::Ping);
        let refused = answer(&mut world, 0, request);
        assert!(matches!(refused, Err(Refusal::TimedOut { .. } | Refusal::LinkLost { .. })), "{refused:?}");
    }
}

mod random_faults {
    use super::*;

    fn workload(nodes: usize, seed: u64, span: Duration) {
        let mut config = Config::lan(nodes, seed);
        config.network.duplicate = 0.02;
        config.network.reorder = 0.05;
        config.network.dead_port_refuses = seed.is_multiple_of(2);
        config.commit_failures = if seed.is_multiple_of(3) { 0.02 } else { 0.0 };
        let mut world = World::new(config);
        world.start_all();
        world.take_up(Schedule::random(nodes, 3, seed, span));
        let end = world.now() + span;
        let mut n = 0;
        while world.now() < end {
            world.run_for(ms(2_500));
            n += 1;
            let machine = n % nodes;
            if world.is_running(machine) {
                let to = world.node((n * 7) % nodes).clone();
                let body = match n % 4 {
                    0 => RequestBody::Ping,
                    1 => RequestBody::Deploy { spec: echo(&format!("a{}", n % 11)) },
                    2 => RequestBody::Deploy { spec: process(&format!("e{}", n % 5), "ends") },
                    _ => RequestBody::StopAgent { agent: agent(&format!("a{}", (n * 3) % 11)) },
                };
                world.request(machine, &to, body);
            }
        }
        world.run_for(secs(31));
        must(&mut world, secs(60), "all are alive again", World::all_see_all);
        settles(&mut world, secs(30));
        world.run_for(secs(20));
        if nodes <= 32 {
            must(&mut world, secs(10), "every two nodes have a link", World::all_linked);
            let made = world.links_made();
            world.run_for(secs(30));
            assert_eq!(world.links_made(), made, "seed {seed}: links come and go in a mesh at rest");
        }
        sound(&world);
    }

    #[test]
    fn five_nodes_come_to_rest_after_whatever_happened() {
        for seed in 0..150 {
            workload(5, seed, secs(300));
        }
    }

    #[test]
    fn forty_nodes_come_to_rest_after_whatever_happened() {
        for seed in 0..2 {
            workload(40, seed, secs(120));
        }
    }
}
