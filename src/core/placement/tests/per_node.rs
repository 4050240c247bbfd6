//! Blueprints with one instance on each node.

use super::*;

fn per_node() -> Blueprint {
    blueprint("log", Instances::PerNode)
}

#[test]
fn each_node_that_may_have_one_is_given_one() {
    let mut world = World::of(&["n1@a", "n2@a", "n3@b", "n4@a", "n5@a"]);
    world.is("n4", HostState::Draining);
    world.is("n5", HostState::Lost);
    let require = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    world.apply(per_node().placed(|placement| placement.require = require));
    let plan = world.plan();
    assert_eq!(steps(&plan), ["create log#0 to n1", "create log#1 to n2"]);
    assert_eq!(why(&plan, "log#0"), "one on each node");
    assert!(plan.unplaced.is_empty());
}

#[test]
fn a_new_node_is_given_the_first_free_slot() {
    let mut world = World::of(&["n1", "n2", "n3"]).with(per_node()).settled();
    world.is("n2", HostState::Draining);
    world.settle();
    world.hosts.extend([host("n0")]);
    assert_eq!(steps(&world.plan()), ["create log#1 to n0"]);
}

#[test]
fn on_a_drained_node_it_ends_and_comes_back_when_the_node_does() {
    let mut world = World::of(&["n1", "n2"]).with(per_node()).settled();
    world.is("n1", HostState::Draining);
    let plan = world.plan();
    assert_eq!(steps(&plan), ["stop log#0"]);
    assert_eq!(why(&plan, "log#0"), "its node is drained");
    world.settle();
    assert_eq!(world.places("log"), ["1@n2"]);
    world.is("n1", HostState::Up);
    assert_eq!(steps(&world.plan()), ["create log#0 to n1"]);
}

#[test]
fn it_ends_on_a_node_that_may_not_have_it_any_more() {
    let mut world = World::of(&["n1", "n2"]).with(per_node()).settled();
    world.host("n2").card.roles = vec!["voter".to_owned()];
    let plan = world.plan();
    assert_eq!(steps(&plan), ["stop log#1"]);
    assert_eq!(why(&plan, "log#1"), "its node may not have it: its roles are voter, not worker");
}

#[test]
fn a_lost_node_keeps_its_slot_and_nobody_else_gets_a_second_one() {
    let mut world = World::of(&["n1", "n2"]).with(per_node()).settled();
    world.is("n1", HostState::Lost);
    let plan = world.plan();
    assert!(plan.is_empty());
    assert_eq!(plan.unplaced, BTreeMap::from([(agent("log#0"), "n1 is gone".to_owned())]));
    world.is("n1", HostState::Up);
    assert_eq!(world.plan(), Plan::default());
}

#[test]
fn the_slot_of_a_node_that_was_removed_ends() {
    let mut world = World::of(&["n1", "n2"]).with(per_node()).settled();
    world.hosts.remove(&node("n1"));
    let plan = world.plan();
    assert_eq!(steps(&plan), ["stop log#0"]);
    assert_eq!(why(&plan, "log#0"), "its node does not belong to the mesh any more");
    world.settle();
    assert_eq!(world.places("log"), ["1@n2"]);
}

#[test]
fn a_node_that_comes_as_another_is_removed_is_given_one() {
    let mut world = World::of(&["n1", "n2"]).with(per_node()).settled();
    world.hosts.remove(&node("n1"));
    world.hosts.extend([host("n3")]);
    let plan = world.plan();
    assert_eq!(steps(&plan), ["stop log#0", "create log#2 to n3"]);
    assert!(plan.unplaced.is_empty());
    world.settle();
    assert_eq!(world.places("log"), ["1@n2", "2@n3"]);
}

#[test]
fn one_that_is_given_up_stays_with_its_node() {
    let mut world = World::of(&["n1", "n2"]).with(per_node()).settled();
    world.says("log#0", failed("it ends with 1"));
    let plan = world.plan();
    assert!(plan.is_empty());
    assert_eq!(plan.unplaced[&agent("log#0")], "its node has given up on it: it ends with 1");
}

#[test]
fn it_is_apart_from_others_like_any_instance() {
    let mut world = World::of(&["n1", "n2"]).with(count("db", 1));
    world.gave("db#0", "n1");
    world.apply(per_node().placed(|placement| placement.apart_from = names(&["db"])));
    let plan = world.plan();
    assert_eq!(steps(&plan), ["create log#0 to n2"]);
    assert!(plan.unplaced[&agent("log#1")].contains("n1: it has db"));
}

#[test]
fn of_several_on_a_node_one_stays_when_there_is_to_be_one_on_each() {
    let mut world = World::of(&["n1", "n2", "n3"]).with(count("log", 12));
    for number in 0..12 {
        world.gave(&format!("log#{number}"), if number % 5 == 2 { "n2" } else { "n1" });
    }
    world.apply(per_node());
    let plan = world.plan();
    assert_eq!(why(&plan, "log#10"), "its node has another one");
    world.settle();
    assert_eq!(world.places("log"), ["0@n1", "2@n2", "12@n3"]);
    world.apply(count("log", 3));
    world.settle();
    assert_eq!(world.places("log"), ["0@n1", "1@n3", "2@n2"]);
}

#[test]
fn it_is_updated_where_it_is_even_as_the_only_one() {
    let mut world = World::of(&["n1"]).with(per_node()).settled();
    world.hosts.extend([host("n2")]);
    world.host("n2").card.roles = vec!["voter".to_owned()];
    world.apply(per_node().made_of("two"));
    assert_eq!(steps(&world.plan()), ["update log#0 to n1"]);
}

#[test]
fn a_lost_node_does_not_hold_up_an_update_and_is_updated_when_it_is_back() {
    let mut world = World::of(&["n1", "n2", "n3"]).with(per_node()).settled();
    world.is("n1", HostState::Lost);
    world.says("log#0", Observed::Unsteady { stumbled: None, overdue: true });
    world.apply(per_node().made_of("two"));
    assert_eq!(steps(&world.plan()), ["update log#1 to n2"]);
    world.settle();
    let two = world.blueprints[&agent("log")].current.blueprint.digest();
    assert_eq!((world.post("log#1").digest, world.post("log#2").digest), (two, two));
    assert_ne!(world.post("log#0").digest, two);
    world.is("n1", HostState::Up);
    assert_eq!(steps(&world.plan()), ["update log#0 to n1"]);
}
