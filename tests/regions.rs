//! Meshes of several regions under virtual time: what nodes know of round trips, and how news crosses.

use std::time::Duration;

use shoal::core::ids::AgentName;
use shoal::core::model::{AgentSource, AgentSpec, CrossRegion};
use shoal::core::wire::RequestBody;
use shoal::sim::{Config, World};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn joined(config: Config) -> World {
    let mut world = World::new(config);
    world.start_all();
    let started = 50 * world.len() as u64;
    world.run_for(ms(started));
    must(&mut world, secs(60), "everyone joins", World::all_know_all);
    world
}

/// Waits for a condition; how long it took.
fn must(world: &mut World, within: Duration, what: &str, condition: impl Fn(&World) -> bool) -> Duration {
    let since = world.now();
    let found = world.run_until(since + within, condition);
    let seed = world.report().seed;
    assert!(world.broken().is_empty(), "seed {seed}: {:#?}", world.broken());
    found.unwrap_or_else(|| panic!("seed {seed}: not within {within:?}: {what}")).since(since)
}

/// Deploys an agent on a machine; how long until every node can send to it.
fn spreads(world: &mut World, on: usize, name: &str) -> Duration {
    let agent = AgentName::new(name).expect("valid");
    let source = AgentSource::Native { builtin: "echo".to_owned() };
    let node = world.node(on).clone();
    world.request(on, &node, RequestBody::Deploy { spec: AgentSpec::new(agent.clone(), source) });
    must(world, secs(30), "everyone knows the agent", |world| {
        (0..world.len()).all(|machine| {
            let view = world.view(machine).expect("it runs");
            view.agents.iter().any(|a| a.name == agent && a.record.state.as_str() == "running")
        })
    })
}

#[test]
fn a_record_crosses_soon_between_one_node_and_thirty_in_both_directions() {
    let mut world = joined(Config::regions(&[1, 30], ms(75), 1));
    assert_eq!((world.region(0), world.region(30)), ("r1".to_owned(), "r2".to_owned()));
    for (n, on) in [0, 17, 0, 30].into_iter().enumerate() {
        let took = spreads(&mut world, on, &format!("agent-{n}"));
        assert!(took < secs(1), "from {on}: {took:?}");
    }
}

#[test]
fn a_record_crosses_soon_in_a_mesh_that_relays_also_to_a_region_of_one_node() {
    for seed in 1..=3 {
        let mut world = joined(Config::regions(&[1, 24, 24], ms(75), seed));
        for (n, on) in [0, 12, 40].into_iter().enumerate() {
            let took = spreads(&mut world, on, &format!("agent-{n}"));
            // Relays miss somebody now and then; comparing summaries every two seconds finds it.
            assert!(took < secs(10), "seed {seed}, from {on}: {took:?}");
        }
    }
}

#[test]
fn a_record_crosses_when_relays_lose_a_tenth_of_their_packets() {
    let mut world = joined(Config::regions(&[3, 40], ms(100), 5).with_loss(0.1));
    let took = spreads(&mut world, 1, "agent");
    assert!(took < secs(15), "{took:?}");
}

#[test]
fn round_trips_are_known_between_all_nodes_and_all_regions() {
    let config = Config::regions(&[7, 7, 7], ms(40), 3).with_way(1, 3, ms(105)).with_way(2, 3, ms(75));
    let mut world = joined(config);
    world.run_for(secs(360));
    let mut errors = Vec::new();
    for (a, b) in (0..21).flat_map(|a| (0..21).map(move |b| (a, b))).filter(|(a, b)| a != b) {
        let expected = world.expected_rtt(a, b).unwrap_or_else(|| panic!("n{} to n{}", a + 1, b + 1));
        if world.region(a) == world.region(b) {
            assert!(expected < ms(15), "inside a region: {expected:?}");
        } else {
            // Up to a tenth of jitter each way: a twentieth on average.
            let usual = world.least_rtt(a, b).as_secs_f64() * 1.05;
            errors.push((expected.as_secs_f64() - usual).abs() / usual);
        }
    }
    errors.sort_by(f64::total_cmp);
    let (median, most) = (errors[errors.len() / 2], errors[errors.len() * 95 / 100]);
    assert!(median < 0.10 && most < 0.15, "{median:.3} {most:.3}");
    for machine in [0, 10, 20] {
        let regions = world.view(machine).expect("it runs").regions;
        let rtt = |one: &str, other: &str| {
            let between = (one.to_owned(), other.to_owned());
            regions.iter().find(|r| r.between == between).expect("known").rtt
        };
        // Inside its own region it has measured; inside another, a millisecond is lost in the estimates.
        let own = world.region(machine);
        assert!(rtt(&own, &own) < ms(10), "{regions:?}");
        for (pair, least) in [(("r1", "r2"), 80.0), (("r1", "r3"), 210.0), (("r2", "r3"), 150.0)] {
            let off = rtt(pair.0, pair.1).as_secs_f64() * 1e3 / (least * 1.05);
            assert!((0.85..1.15).contains(&off), "{pair:?}: {regions:?}");
        }
    }
}

#[test]
fn two_meshes_of_the_same_seed_with_regions_are_the_same() {
    let run = |seed| {
        let cross_region = CrossRegion { max_cross_region_latency: Some(ms(100)), ..CrossRegion::default() };
        let mut world = World::new(Config { cross_region, ..Config::regions(&[3, 3], ms(75), seed) });
        world.start_all();
        world.run_for(secs(60));
        world.report().digest()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
