//! Capacity, weight and priority: who has room, and who gives way.

use super::*;
use crate::core::model::{CAPACITY_LABEL, Weight};

/// Nodes that may have so much.
fn nodes_of(capacities: &[(&str, u32)]) -> World {
    let mut world = World::of(&capacities.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (name, capacity) in capacities {
        let labels = &mut world.host(name).card.labels;
        labels.insert(CAPACITY_LABEL.to_owned(), capacity.to_string());
    }
    world
}

fn weighing(name: &str, instances: u16, weight: u16, priority: i16) -> Blueprint {
    count(name, instances)
        .placed(|placement| (placement.weight, placement.priority) = (Weight(weight), priority))
}

#[test]
fn a_node_takes_as_much_as_its_capacity_and_says_so() {
    let mut world = nodes_of(&[("n1", 4), ("n2", 5)]).with(weighing("web", 5, 2, 0));
    let plan = world.plan();
    assert_eq!(plan.steps.len(), 4);
    let why = &plan.unplaced[&agent("web#4")];
    assert!(why.contains("n1: its capacity is 4, of which 4 is taken"), "{why}");
    assert!(why.contains("n2: its capacity is 5, of which 4 is taken"), "{why}");
    world.settle();
    world.host("n2").card.labels.insert(CAPACITY_LABEL.to_owned(), "six".to_owned());
    let why = &world.plan().unplaced[&agent("web#4")];
    assert!(why.contains("n2: its label capacity is \"six\", which is no number"), "{why}");
}

#[test]
fn a_lower_priority_gives_way_and_both_plans_say_why() {
    let mut world = nodes_of(&[("n1", 2)]).with(weighing("batch", 2, 1, 0)).settled();
    world.apply(weighing("web", 1, 1, 10));
    let plan = world.plan();
    assert_eq!(steps(&plan), ["stop batch#0", "create web#0 to n1"]);
    assert_eq!(why(&plan, "batch#0"), "it gives way to web#0, whose priority is 10");
    let made = "it is wanted; there is room for it because of its priority, without batch#0";
    assert_eq!(why(&plan, "web#0"), made);
    world.give(&plan);
    world.all_begin();
    let plan = world.plan();
    assert_eq!(steps(&plan), [""; 0]);
    assert!(plan.unplaced[&agent("batch#0")].contains("its capacity is 2, of which 2 is taken"));
    world.apply(weighing("web", 0, 1, 10));
    assert_eq!(steps(&world.plan()), ["stop web#0", "create batch#0 to n1"], "it comes back");
}

#[test]
fn no_more_give_way_than_have_to() {
    let mut world =
        nodes_of(&[("n1", 10)]).with(weighing("a", 1, 1, 0)).with(weighing("b", 1, 9, 0)).settled();
    world.apply(weighing("c", 1, 9, 5));
    assert_eq!(
        steps(&world.plan()),
        ["stop b#0", "create c#0 to n1"],
        "with a beside it there is room as well"
    );
}

#[test]
fn nobody_gives_way_to_its_own_priority_or_in_vain() {
    let mut world = nodes_of(&[("n1", 2)]).with(weighing("batch", 2, 1, 5)).settled();
    world.apply(weighing("same", 1, 1, 5));
    world.apply(weighing("less", 1, 1, -5));
    world.apply(weighing("huge", 1, 3, 10));
    let plan = world.plan();
    assert_eq!(steps(&plan), [""; 0]);
    assert_eq!(plan.unplaced.len(), 3, "{:?}", plan.unplaced);
}

#[test]
fn the_lowest_priorities_give_way_and_as_few_as_can_be() {
    let mut world = nodes_of(&[("n1", 4), ("n2", 4)]);
    for (name, priority, to) in [("low", 1, "n1"), ("lower", 0, "n2"), ("mid", 5, "n1"), ("middle", 5, "n2")]
    {
        world.apply(weighing(name, 1, 2, priority));
        world.gave(&format!("{name}#0"), to);
    }
    world.apply(weighing("web", 1, 2, 10));
    assert_eq!(steps(&world.plan()), ["stop lower#0", "create web#0 to n2"]);
    world.apply(weighing("web", 1, 3, 10));
    assert_eq!(
        steps(&world.plan()),
        ["stop low#0", "stop mid#0", "create web#0 to n1"],
        "of equal ones the first node"
    );
}

#[test]
fn what_a_lost_node_had_takes_the_room_of_a_lower_priority() {
    let mut world = nodes_of(&[("n1", 1), ("n2", 1)]);
    world.apply(weighing("batch", 1, 1, 0));
    world.apply(weighing("web", 1, 1, 1));
    world.gave("web#0", "n1");
    world.gave("batch#0", "n2");
    world.is("n1", HostState::Lost);
    let plan = world.plan();
    assert_eq!(steps(&plan), ["stop batch#0", "move web#0 to n2"]);
    assert!(why(&plan, "web#0").starts_with("n1 is gone; there is room"));
}

#[test]
fn what_gives_way_takes_the_room_of_what_is_lower_still() {
    let mut world = nodes_of(&[("n1", 1), ("n2", 1)]);
    world.apply(weighing("a", 1, 1, 0));
    world.apply(weighing("b", 1, 1, 1));
    world.gave("a#0", "n1");
    world.gave("b#0", "n2");
    let only = BTreeMap::from([("node".to_owned(), "n2".to_owned())]);
    world.apply(weighing("c", 1, 1, 2).placed(|placement| placement.require = only));
    assert_eq!(steps(&world.plan()), ["stop b#0", "create c#0 to n2"]);
    world.settle();
    assert_eq!((world.places("b"), world.places("a").len()), (vec!["0@n1".to_owned()], 0));
}

#[test]
fn a_plan_that_puts_too_much_on_a_node_is_found() {
    let world = nodes_of(&[("n1", 1)]).with(weighing("web", 1, 2, 0));
    let digest = world.blueprints[&agent("web")].current.blueprint.digest();
    let post = Post { node: node("n1"), digest, relieves: None, tried: vec![] };
    let mut plan = Plan::default();
    plan.order(agent("web#0"), StepAction::Create, Some(post), "by hand");
    let wrong = "web#0: n1 would have 2, and its capacity is 1".to_owned();
    assert_eq!(check(world.landscape(), &plan), Err(wrong));
}

#[test]
fn priorities_and_weights_have_their_bounds() {
    let refused = |blueprint: Blueprint, what: &str| {
        assert!(blueprint.check().is_err_and(|why| why.contains(what)), "{what}");
    };
    refused(weighing("web", 1, 0, 0), "placement.weight is 1 to 10000");
    refused(weighing("web", 1, 10_001, 0), "placement.weight is 1 to 10000");
    refused(weighing("web", 1, 1, 1_001), "placement.priority is -1000 to 1000");
    refused(weighing("web", 1, 1, i16::MIN), "placement.priority is -1000 to 1000");
}
