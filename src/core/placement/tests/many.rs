//! Plans for as many agents as a mesh may have. How long they take is what the runner says of each test.

use super::*;
use crate::core::model::{Domain, PlacementStrategy};

fn hundred_nodes() -> World {
    let nodes: Vec<_> = (0..100).map(|number| format!("n{number:02}@eu/{}", number % 5)).collect();
    World::of(&nodes.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Gives the orders of a plan that has no moves in it, and looks whether the nodes are equally full.
fn given_evenly(world: &mut World, plan: &Plan, each: usize) {
    world.give(plan);
    world.all_begin();
    let mut on: BTreeMap<&NodeId, usize> = BTreeMap::new();
    for order in world.orders.values() {
        *on.entry(&order.post.as_ref().expect("it is filled").node).or_default() += 1;
    }
    assert!(on.len() == 100 && on.values().all(|agents| *agents == each), "{on:?}");
}

#[test]
fn ten_thousand_instances_of_one_blueprint_are_planned_for_a_hundred_nodes() {
    let mut world = hundred_nodes().with(count("web", 10_000));
    let plan = plan(world.landscape());
    assert_eq!((plan.steps.len(), plan.unplaced.len()), (10_000, 0));
    check(world.landscape(), &plan).expect("nothing is wrong");
    given_evenly(&mut world, &plan, 100);
    assert_eq!(world.plan(), Plan::default());

    world.is("n00", HostState::Lost);
    assert_eq!(world.plan().steps.len(), 100);
    world.is("n00", HostState::Up);
    world.apply(count("web", 10_000).made_of("two").updated(|update| update.max_parallel = 1_000));
    assert_eq!(world.plan().steps.len(), 1_000);
}

#[test]
fn ten_thousand_instances_of_a_hundred_blueprints_with_rules_are_planned_for_a_hundred_nodes() {
    let mut world = hundred_nodes();
    let name = |number: usize| format!("b{number:02}");
    for number in 0..100 {
        // Each is apart from itself: one on each node.
        world.apply(count(&name(number), 100).placed(|placement| {
            placement.apart_from = names(&[&name(number)]);
            placement.near = names(&[&name((number + 1) % 100)]);
            placement.spread_over = Some(Domain::Zone);
            placement.strategy = PlacementStrategy::Spread;
        }));
    }
    let plan = plan(world.landscape());
    assert_eq!((plan.steps.len(), plan.unplaced.len()), (10_000, 0));
    check(world.landscape(), &plan).expect("nothing is wrong");
    given_evenly(&mut world, &plan, 100);
    assert_eq!(world.plan(), Plan::default());

    for number in 0..100 {
        let record = world.record(&name(number));
        let next =
            record.current.blueprint.clone().made_of("two").updated(|update| update.max_parallel = 100);
        *record = record.followed_by(next, "applied".to_owned(), false);
    }
    assert_eq!(world.plan().steps.len(), 10_000);
}

#[test]
fn ten_thousand_slots_that_no_node_can_have_are_told() {
    let require = BTreeMap::from([("zone".to_owned(), "none".to_owned())]);
    let world = hundred_nodes().with(count("web", 10_000).placed(|placement| placement.require = require));
    let plan = world.plan();
    assert_eq!((plan.steps.len(), plan.unplaced.len()), (0, 10_000));
}

#[test]
fn moves_among_ten_thousand_instances_are_found() {
    let mut world = hundred_nodes().with(count("web", 10_000));
    for number in 0..10_000 {
        world.gave(&format!("web#{number}"), &format!("n{:02}", number % 50));
    }
    assert_eq!(world.rebalanced(100).steps.len(), 100);
    for number in 0..10_000 {
        world.is_unsteady(&format!("web#{number}"));
    }
    assert_eq!(world.rebalanced(100), Plan::default());
}
