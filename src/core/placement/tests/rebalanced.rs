//! Moves that make nodes equally full.

use super::*;
use crate::core::model::{Domain, PlacementStrategy};

/// So many instances of `web`, all on `n1`, and two nodes that are empty.
fn crowded(instances: u16, change: impl FnOnce(&mut Placement)) -> World {
    let mut world = World::of(&["n1@a", "n2@b", "n3@a"]).with(count("web", instances).placed(change));
    for number in 0..instances {
        world.gave(&format!("web#{number}"), "n1");
    }
    world
}

#[test]
fn instances_go_from_the_fullest_node_to_the_emptiest_until_all_are_equally_full() {
    let world = crowded(6, |_| {});
    let plan = world.rebalanced(100);
    let wanted = [
        "move web#0 to n2 for n1",
        "move web#1 to n3 for n1",
        "move web#2 to n2 for n1",
        "move web#3 to n3 for n1",
    ];
    assert_eq!(steps(&plan), wanted);
    assert_eq!(why(&plan, "web#0"), "nodes are made equally full");
}

#[test]
fn the_budget_bounds_the_moves() {
    let world = crowded(6, |_| {});
    assert_eq!(world.rebalanced(1).steps.len(), 1);
    assert_eq!(world.rebalanced(0), Plan::default());
}

#[test]
fn what_is_balanced_stays() {
    let mut world = crowded(6, |_| {});
    world.give(&world.rebalanced(100));
    world.all_begin();
    assert_eq!(world.rebalanced(100), Plan::default());
    assert_eq!(world.plan(), Plan::default(), "and no plan undoes it");
    world.host("n3").other_agents = 1;
    assert_eq!(world.rebalanced(100), Plan::default(), "one more is no reason");
}

#[test]
fn other_agents_count_as_well() {
    let mut world = crowded(2, |_| {});
    world.host("n2").other_agents = 2;
    assert_eq!(steps(&world.rebalanced(100)), ["move web#0 to n3 for n1"]);
}

#[test]
fn only_steady_instances_move_and_only_to_nodes_that_are_up() {
    let mut world = crowded(4, |_| {});
    world.is_unsteady("web#0");
    world.says("web#1", failed("it ends with 1"));
    world.observed.remove(&agent("web#2"));
    world.is("n2", HostState::Draining);
    assert_eq!(steps(&world.rebalanced(100)), ["move web#3 to n3 for n1"]);
}

#[test]
fn rules_of_who_may_be_where_hold() {
    let mut apart = crowded(4, |placement| placement.apart_from = names(&["db"]));
    apart.apply(count("db", 1));
    apart.gave("db#0", "n2");
    assert_eq!(steps(&apart.rebalanced(1)), ["move web#0 to n3 for n1"]);

    let require = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    let required = crowded(4, |placement| placement.require = require);
    let wanted = ["move web#0 to n3 for n1", "move web#1 to n3 for n1"];
    assert_eq!(steps(&required.rebalanced(100)), wanted);

    let alone = crowded(4, |placement| placement.apart_from = names(&["web"]));
    assert_eq!(alone.rebalanced(100).steps.len(), 2, "one goes to each of the others");
}

#[test]
fn what_was_wished_for_is_not_given_up_for_balance() {
    let preferred = crowded(4, |placement| placement.prefer = vec![node("n3"), node("n1")]);
    let wanted = ["move web#0 to n3 for n1", "move web#1 to n3 for n1"];
    assert_eq!(steps(&preferred.rebalanced(100)), wanted);

    let mut near = crowded(4, |placement| placement.near = names(&["db"])).with(count("db", 1));
    near.gave("db#0", "n1");
    near.is_unsteady("db#0");
    assert_eq!(near.rebalanced(100), Plan::default());

    let spread = crowded(4, |placement| placement.spread_over = Some(Domain::Zone));
    assert_eq!(steps(&spread.rebalanced(100)), wanted, "it stays within its zone");
}

#[test]
fn what_is_packed_or_is_on_each_node_or_is_not_wanted_does_not_move() {
    let packed = crowded(4, |placement| placement.strategy = PlacementStrategy::Binpack);
    assert_eq!(packed.rebalanced(100), Plan::default());

    let mut removed = crowded(4, |_| {});
    removed.record("web").removed = true;
    assert_eq!(removed.rebalanced(100), Plan::default());

    let mut fewer = crowded(4, |_| {});
    fewer.apply(count("web", 1));
    assert_eq!(steps(&fewer.rebalanced(100)), ["move web#0 to n2 for n1"]);

    let mut each = World::of(&["n1", "n2", "n3"]).with(blueprint("log", Instances::PerNode));
    each.gave("log#0", "n1");
    each.host("n1").other_agents = 9;
    assert_eq!(each.rebalanced(100), Plan::default());
}

#[test]
fn nothing_goes_back_to_a_node_that_has_given_up_on_it() {
    let mut world = crowded(2, |_| {});
    world.post("web#0").tried = vec![node("n2")];
    world.post("web#1").tried = vec![node("n2")];
    let plan = world.rebalanced(100);
    assert_eq!(steps(&plan), ["move web#0 to n3 for n1"]);
    assert_eq!(plan.steps[0].post.as_ref().expect("a post").tried, [node("n2")]);
}

#[test]
fn instances_of_a_blueprint_that_wants_it_go_to_a_node_that_has_joined_some_at_a_time() {
    let mut world = crowded(6, |placement| placement.rebalance = 2);
    world.hosts.retain(|name, _| name.as_str() == "n1");
    assert_eq!(world.plan(), Plan::default());
    world.hosts.extend([host("n2"), host("n3")]);
    let plan = world.plan();
    assert_eq!(steps(&plan), ["move web#0 to n2 for n1", "move web#1 to n3 for n1"]);
    world.give(&plan);
    assert_eq!(world.plan(), Plan::default(), "these are still under way");
    world.says("web#0", Observed::Steady);
    assert_eq!(world.plan(), Plan::default());
    world.all_begin();
    assert_eq!(steps(&world.plan()), ["move web#2 to n2 for n1", "move web#3 to n3 for n1"]);
    world.settle();
    assert_eq!(world.places("web"), ["0@n2", "1@n3", "2@n2", "3@n3", "4@n1", "5@n1"]);
}

#[test]
fn nothing_moves_for_balance_while_anything_else_is_to_be_done() {
    let full = || crowded(6, |placement| placement.rebalance = 2);
    let stays = |world: &World, why: &str| {
        let moves = world.plan().steps.iter().filter(|step| step.why == rebalance::EQUALLY_FULL).count();
        assert_eq!(moves, 0, "{why}");
    };
    let mut paused = full();
    paused.record("web").paused = true;
    stays(&paused, "it is paused");
    let mut unsteady = full();
    unsteady.is_unsteady("web#5");
    stays(&unsteady, "one starts again");
    let mut scaled = full();
    scaled.record("web").current.blueprint.instances = Instances::Count(7);
    stays(&scaled, "one is to begin");
    let mut updated = full();
    let next = updated.record("web").current.blueprint.clone().made_of("two");
    updated.apply(next);
    stays(&updated, "another version comes");
    let mut plain = full();
    plain.record("web").current.blueprint.placement.rebalance = 0;
    assert_eq!(plain.plan(), Plan::default(), "it is not wanted");
}

#[test]
fn what_goes_nowhere_else_is_refused_to_be_rebalanced() {
    let with = |blueprint: Blueprint| blueprint.placed(|placement| placement.rebalance = 1).check();
    assert!(with(blueprint("log", Instances::PerNode)).is_err_and(|why| why.contains("one on each node")));
    let packed = count("web", 2).placed(|placement| placement.strategy = PlacementStrategy::Binpack);
    assert!(with(packed).is_err_and(|why| why.contains("binpack")));
    let many = limits::REBALANCE_MOVES_MAX + 1;
    let many = count("web", 2).placed(|placement| placement.rebalance = many).check();
    assert!(many.is_err_and(|why| why.contains("placement.rebalance is 0 to 512")));
}
