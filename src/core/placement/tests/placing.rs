//! Which node a new instance is given to.

use super::*;
use crate::core::model::{Domain, PlacementStrategy};

fn with_strategy(name: &str, instances: u16, strategy: PlacementStrategy) -> Blueprint {
    count(name, instances).placed(|placement| placement.strategy = strategy)
}

/// Three nodes: `n1` has four agents, `n2` one and a busy CPU, `n3` one.
fn uneven() -> World {
    let mut world = World::of(&["n1", "n2", "n3"]);
    world.host("n1").other_agents = 4;
    world.host("n2").other_agents = 1;
    world.host("n2").cpu_tenths = 9;
    world.host("n3").other_agents = 1;
    world
}

#[test]
fn the_least_loaded_node_has_the_fewest_agents_and_then_the_idlest_cpu() {
    let world = uneven().with(with_strategy("web", 4, PlacementStrategy::LeastLoaded));
    let plan = world.plan();
    let wanted = ["create web#0 to n3", "create web#1 to n2", "create web#2 to n3", "create web#3 to n2"];
    assert_eq!(steps(&plan), wanted);
    assert_eq!(why(&plan, "web#0"), "it is wanted");
}

#[test]
fn spread_counts_the_instances_of_the_blueprint_before_other_agents() {
    let world = uneven().with(with_strategy("web", 4, PlacementStrategy::Spread)).settled();
    assert_eq!(world.places("web"), ["0@n3", "1@n2", "2@n1", "3@n3"]);
}

#[test]
fn binpack_fills_the_fullest_node_until_it_has_no_room() {
    let mut world = uneven().with(with_strategy("web", 4, PlacementStrategy::Binpack));
    world.host("n1").other_agents = limits::AGENTS_PER_NODE_MAX - 2;
    world.host("n3").other_agents = 2;
    assert_eq!(world.settled().places("web"), ["0@n1", "1@n1", "2@n3", "3@n3"]);
}

#[test]
fn round_robin_goes_through_the_nodes_by_name_whatever_else_they_have() {
    let mut later = uneven().with(with_strategy("web", 3, PlacementStrategy::RoundRobin));
    later.gave("web#0", "n2");
    assert_eq!(later.settled().places("web"), ["0@n2", "1@n3", "2@n1"]);
    let world = uneven().with(with_strategy("web", 4, PlacementStrategy::RoundRobin)).settled();
    assert_eq!(world.places("web"), ["0@n1", "1@n2", "2@n3", "3@n1"]);
}

#[test]
fn the_same_state_gives_the_same_plan() {
    let world = uneven().with(count("web", 5)).with(blueprint("log", Instances::PerNode));
    let again = world.clone();
    assert_eq!(world.plan(), again.plan());
    assert_eq!(world.plan().steps.len(), 8);
}

#[test]
fn only_nodes_with_the_required_labels_are_given_instances() {
    let mut world = World::of(&["n1@eu/a", "n2@eu/b", "n3@us/a", "n4"]);
    world.host("n2").card.labels.insert("disk".to_owned(), "fast".to_owned());
    for (name, label, wanted, place) in [
        ("of-region", "region", "us", "n3"),
        ("of-zone", "zone", "b", "n2"),
        ("of-node", "node", "n4", "n4"),
        ("of-label", "disk", "fast", "n2"),
    ] {
        let require = BTreeMap::from([(label.to_owned(), wanted.to_owned())]);
        world.apply(count(name, 2).placed(|placement| placement.require = require));
        world.settle();
        assert_eq!(world.places(name), [format!("0@{place}"), format!("1@{place}")]);
    }
}

#[test]
fn a_slot_that_no_node_can_have_stays_empty_with_the_reason_of_each_node() {
    let mut world = World::of(&["n1@a", "n2", "n3@b", "n4@b", "n5@b", "n6@b"]);
    let require = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
    let apart = count("web", 1).placed(|placement| {
        placement.require = require;
        placement.apart_from = names(&["db"]);
    });
    world.apply(count("db", 1));
    world.apply(apart);
    world.gave("db#0", "n6");
    world.is("n3", HostState::Draining);
    world.is("n4", HostState::Lost);
    world.host("n5").other_agents = limits::AGENTS_PER_NODE_MAX;
    let plan = world.plan();
    assert_eq!(steps(&plan), [""; 0]);
    assert_eq!(
        plan.unplaced[&agent("web#0")],
        "no node can have it (n1: its zone is a, not b; n2: it has no zone, b is required; n3: it is drained; \
         n4: it is gone; n5: it has 10000 agents; n6: it has db)"
    );
}

#[test]
fn of_many_nodes_only_some_tell_their_reasons() {
    let nodes: Vec<_> = (0..20).map(|number| format!("n{number}@a")).collect();
    let mut world = World::of(&nodes.iter().map(String::as_str).collect::<Vec<_>>());
    let require = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
    world.apply(count("web", 1).placed(|placement| placement.require = require));
    let reason = &world.plan().unplaced[&agent("web#0")];
    assert_eq!(reason.matches("its zone is a").count(), limits::REASONS_TOLD_MAX);
    assert!(reason.ends_with("; and 12 more)"), "{reason}");
}

#[test]
fn in_a_mesh_without_nodes_nothing_is_placed() {
    let plan = World::of(&[]).with(count("web", 1)).with(blueprint("log", Instances::PerNode)).plan();
    assert!(plan.is_empty());
    assert_eq!(plan.unplaced.keys().collect::<Vec<_>>(), [&agent("web#0")]);
}

#[test]
fn a_node_that_has_roles_but_not_that_of_a_worker_has_no_instances() {
    let mut world = World::of(&["n1", "n2", "n3"]).with(count("web", 4));
    world.host("n1").card.roles = vec!["voter".to_owned()];
    world.host("n2").card.roles = vec!["voter".to_owned(), "worker".to_owned()];
    assert_eq!(world.clone().settled().places("web"), ["0@n2", "1@n3", "2@n2", "3@n3"]);
    world.hosts.retain(|name, _| *name == node("n1"));
    let reason = &world.plan().unplaced[&agent("web#0")];
    assert_eq!(reason, "no node can have it (n1: its roles are voter, not worker)");
}

#[test]
fn preferred_nodes_come_first_in_their_order() {
    let mut world = World::of(&["n1", "n2", "n3"]);
    world.apply(count("web", 2).placed(|placement| placement.prefer = vec![node("n3"), node("n2")]));
    world.host("n3").other_agents = 5;
    assert_eq!(world.clone().settled().places("web"), ["0@n3", "1@n3"]);
    world.is("n3", HostState::Lost);
    assert_eq!(world.settled().places("web"), ["0@n2", "1@n2"]);
}

#[test]
fn an_instance_is_rather_near_any_of_those_it_is_to_be_near() {
    let mut world = World::of(&["n1", "n2", "n3"]).with(count("cache", 1)).with(count("db", 1));
    world.gave("db#0", "n3");
    world.gave("cache#0", "n2");
    world.host("n2").other_agents = 5;
    world.apply(count("web", 2).placed(|placement| placement.near = names(&["db", "other"])));
    assert_eq!(world.clone().settled().places("web"), ["0@n3", "1@n3"]);
    world.is("n3", HostState::Lost);
    world.blueprints.remove(&agent("db"));
    assert_eq!(world.settled().places("web"), ["0@n1", "1@n1"], "near nobody it is placed all the same");
}

#[test]
fn a_preferred_node_goes_before_one_that_is_near() {
    let mut world = World::of(&["n1", "n2"]).with(count("db", 1));
    world.gave("db#0", "n2");
    world.apply(count("web", 1).placed(|placement| {
        placement.prefer = vec![node("n1")];
        placement.near = names(&["db"]);
    }));
    assert_eq!(steps(&world.plan()), ["create web#0 to n1"]);
}

#[test]
fn whoever_is_to_be_apart_is_kept_apart_whichever_of_both_was_there_first() {
    let apart = count("web", 2).placed(|placement| placement.apart_from = names(&["db"]));
    let mut first = World::of(&["n1", "n2"]).with(count("db", 1));
    first.gave("db#0", "n1");
    first.apply(apart.clone());
    assert_eq!(first.settled().places("web"), ["0@n2", "1@n2"]);

    let mut second = World::of(&["n1", "n2"]).with(apart);
    second.gave("web#0", "n1");
    second.gave("web#1", "n1");
    second.apply(count("db", 2));
    assert_eq!(second.clone().settled().places("db"), ["0@n2", "1@n2"]);
    second.is("n2", HostState::Lost);
    let reason = &second.plan().unplaced[&agent("db#0")];
    assert!(reason.contains("n1: it has web, which is to be apart from db"), "{reason}");

    second.record("web").removed = true;
    assert_eq!(second.settled().places("db"), ["0@n1", "1@n1"], "who leaves keeps nobody away");
}

#[test]
fn both_may_come_with_one_plan_and_are_apart() {
    let apart = count("web", 3).placed(|placement| placement.apart_from = names(&["db", "web"]));
    let world = World::of(&["n1", "n2", "n3"]).with(count("db", 1)).with(apart).settled();
    assert_eq!(
        (world.places("db"), world.places("web")),
        (vec!["0@n1".into()], vec!["0@n2".into(), "1@n3".into()])
    );
    assert!(world.plan().unplaced[&agent("web#2")].contains("n2: it has web"));
}

#[test]
fn instances_are_spread_over_zones_of_regions_before_the_strategy_decides() {
    let over = |domain| count("web", 4).placed(|placement| placement.spread_over = Some(domain));
    let mut world = World::of(&["n1@eu/a", "n2@eu/a", "n3@eu/b", "n4@us/a"]);
    world.host("n3").other_agents = 3;
    world.host("n4").other_agents = 9;
    let zones = world.clone().with(over(Domain::Zone)).settled();
    assert_eq!(zones.places("web"), ["0@n1", "1@n3", "2@n4", "3@n2"]);
    let regions = world.with(over(Domain::Region)).settled();
    assert_eq!(regions.places("web"), ["0@n1", "1@n4", "2@n2", "3@n4"]);
}

#[test]
fn a_number_of_agents_that_cannot_be_is_no_panic() {
    let mut world = World::of(&["n1", "n2"]).with(count("web", 3));
    world.gave("web#0", "n1");
    world.gave("web#1", "n1");
    world.host("n1").other_agents = usize::MAX;
    assert_eq!(steps(&world.plan()), ["create web#2 to n2"]);
    assert_eq!(steps(&world.rebalanced(1)), ["move web#0 to n2 for n1"]);
}
