//! The shared state under simulation: writes at every node, cuts, crashes, disks that fail.

use std::time::Duration;

use bytes::Bytes;
use shoal::core::ids::{NodeId, RequestId};
use shoal::core::model::Mode;
use shoal::core::wire::{Ack, RequestBody, ResponseBody, StateAnswer, StateRequest, StateStatus};
use shoal::sim::{Config, World};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ask(world: &mut World, machine: usize, request: StateRequest) -> RequestId {
    let node = world.node(machine).clone();
    world.request(machine, &node, RequestBody::State(request))
}

fn answer(world: &mut World, machine: usize, request: StateRequest) -> Result<StateAnswer, String> {
    let id = ask(world, machine, request);
    let end = world.now() + seconds(20);
    world.run_until(end, |world| world.report().replies.contains_key(&(machine, id)));
    match &world.report().replies.get(&(machine, id)).expect("it is answered").1 {
        Ok(ResponseBody::State(answer)) => Ok(answer.clone()),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal.to_string()),
    }
}

fn status(world: &mut World, machine: usize) -> StateStatus {
    match answer(world, machine, StateRequest::Status) {
        Ok(StateAnswer::Status(status)) => *status,
        other => panic!("{other:?}"),
    }
}

fn put(world: &mut World, machine: usize, key: &str, value: &str) -> Result<StateAnswer, String> {
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    answer(world, machine, StateRequest::Put { key: key.to_owned(), value, context: None, ack: Ack::Local })
}

fn get(world: &mut World, machine: usize, key: &str) -> Option<String> {
    match answer(world, machine, StateRequest::Get { key: key.to_owned() }) {
        Ok(StateAnswer::Value(value)) => value.value.map(|v| String::from_utf8_lossy(&v.value).into_owned()),
        other => panic!("{other:?}"),
    }
}

fn all_healthy(world: &World) -> bool {
    (0..world.len()).all(|m| world.view(m).is_some_and(|view| view.mode == Mode::Healthy))
}

fn healthy_mesh(nodes: usize, seed: u64) -> World {
    let mut world = World::new(Config::lan(nodes, seed));
    world.start_all();
    let end = world.now() + seconds(60);
    let healthy = world.run_until(end, all_healthy);
    assert!(healthy.is_some(), "{nodes} nodes: not all healthy: {:?}", modes(&mut world));
    world
}

fn modes(world: &mut World) -> Vec<(NodeId, Mode, String, Vec<NodeId>)> {
    (0..world.len())
        .map(|m| {
            let node = world.node(m).clone();
            let status = status(world, m);
            (node, status.partition.mode, status.reason, status.partition.reachable.into_iter().collect())
        })
        .collect()
}

#[test]
fn what_is_written_on_one_node_is_read_on_all() {
    for nodes in [1, 2, 3, 5] {
        let mut world = healthy_mesh(nodes, 7);
        println!("{nodes} nodes healthy at {:?}", world.now());
        assert!(matches!(put(&mut world, 0, "a", "one"), Ok(StateAnswer::Written { is_sibling: false, .. })));
        world.run_for(Duration::from_millis(100));
        for machine in 0..nodes {
            assert_eq!(get(&mut world, machine, "a").as_deref(), Some("one"), "{machine}");
        }
        assert_eq!(world.broken(), [] as [String; 0]);
    }
}

mod storms {
    use super::*;
    use shoal::sim::{Schedule, Workload};

    fn storm(nodes: usize, seed: u64, span: Duration, restores: bool) -> Result<Duration, Vec<String>> {
        let mut world = healthy_mesh(nodes, seed);
        let begun = world.now();
        world.work(Workload::default(), span);
        world.take_up(Schedule::storm(nodes, seed, span, restores));
        world.run_for(span + seconds(18));
        let end = world.now() + seconds(120);
        let rested = world.run_until(end, |world| world.shared_unrest().is_empty());
        let wrong: Vec<_> = world.broken().to_vec();
        if !wrong.is_empty() {
            return Err(wrong);
        }
        match rested {
            Some(_) => Ok(world.now().since(begun)),
            None => Err(world.shared_unrest()),
        }
    }

    fn storms(nodes: usize, seeds: std::ops::Range<u64>, restores: bool) {
        let begun = std::time::Instant::now();
        let mut simulated = Duration::ZERO;
        let mut failed = Vec::new();
        let count = seeds.end - seeds.start;
        for seed in seeds {
            match storm(nodes, seed, seconds(42), restores) {
                Ok(span) => simulated += span,
                Err(wrong) => {
                    println!("seed {seed}: {wrong:#?}");
                    failed.push(seed);
                }
            }
        }
        let speed = simulated.as_secs_f64() / begun.elapsed().as_secs_f64();
        println!("{count} seeds of {nodes} nodes, {speed:.0} simulated seconds a second");
        assert!(failed.is_empty(), "seeds {failed:?} of {nodes} nodes");
    }

    /// How many seeds are tried and from which on: `SHOAL_STATE_SEEDS=1000..2000`, or a few.
    fn seeds(count: u64) -> std::ops::Range<u64> {
        let Ok(text) = std::env::var("SHOAL_STATE_SEEDS") else {
            return 0..count;
        };
        let (from, to) = text.split_once("..").expect("FROM..TO");
        from.parse().expect("a number")..to.parse().expect("a number")
    }

    #[test]
    fn three_nodes_come_to_rest_after_a_storm_and_nothing_is_lost() {
        storms(3, seeds(30), false);
    }

    #[test]
    fn four_nodes_come_to_rest_after_a_storm_and_nothing_is_lost() {
        storms(4, seeds(20), false);
    }

    #[test]
    fn five_nodes_come_to_rest_after_a_storm_and_nothing_is_lost() {
        storms(5, seeds(20), false);
    }

    #[test]
    fn old_disks_in_a_storm_lose_nothing_that_others_have() {
        storms(3, seeds(20), true);
    }
}
