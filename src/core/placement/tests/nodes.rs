//! What happens to instances as their number, their blueprint and their nodes change.

use super::*;

#[test]
fn what_runs_as_it_should_is_left_alone() {
    let mut world = World::of(&["n1", "n2"]).with(count("web", 4)).settled();
    assert_eq!(world.plan(), Plan::default());
    world.hosts.extend([host("n3")]);
    world.host("n1").other_agents = 100;
    world.is_unsteady("web#0");
    world.observed.remove(&agent("web#1"));
    assert_eq!(
        world.plan(),
        Plan::default(),
        "nothing moves for an emptier node, nor while its node starts it"
    );
}

#[test]
fn fewer_instances_end_those_with_the_highest_numbers() {
    let mut world = World::of(&["n1", "n2", "n3"]).with(count("web", 12)).settled();
    world.apply(count("web", 3));
    let plan = world.plan();
    assert_eq!(plan.steps.len(), 9);
    assert_eq!(why(&plan, "web#3"), "3 instances are wanted");
    world.settle();
    assert_eq!(world.places("web"), ["0@n1", "1@n2", "2@n3"]);
    world.apply(count("web", 0));
    world.settle();
    assert_eq!(world.places("web"), [""; 0]);
}

#[test]
fn more_instances_leave_the_others_where_they_are() {
    let mut world = World::of(&["n1", "n2"]).with(count("web", 1)).settled();
    world.apply(count("web", 3));
    assert_eq!(steps(&world.plan()), ["create web#1 to n2", "create web#2 to n1"]);
}

#[test]
fn what_ends_makes_room_for_what_comes_with_the_same_plan() {
    let mut world = World::of(&["n1"]).with(count("web", 2));
    world.host("n1").other_agents = limits::AGENTS_PER_NODE_MAX - 2;
    world.settle();
    world.apply(count("app", 1));
    assert!(world.plan().unplaced.contains_key(&agent("app#0")));
    world.apply(count("web", 1));
    assert_eq!(steps(&world.plan()), ["stop web#1", "create app#0 to n1"]);
}

#[test]
fn nothing_of_a_removed_blueprint_runs_on_and_its_slots_are_filled_anew_if_it_comes_back() {
    let mut world = World::of(&["n1", "n2"]).with(count("web", 2)).settled();
    world.is("n2", HostState::Lost);
    world.record("web").removed = true;
    let plan = world.plan();
    assert_eq!(steps(&plan), ["stop web#0", "stop web#1"]);
    assert_eq!(why(&plan, "web#1"), "its blueprint was removed");
    world.settle();
    assert_eq!(world.plan(), Plan::default());
    world.apply(count("web", 1));
    assert_eq!(steps(&world.plan()), ["create web#0 to n1"]);
}

#[test]
fn an_order_of_a_blueprint_that_is_not_known_is_left_alone_and_takes_its_room() {
    let mut world = World::of(&["n1", "n2"]).with(count("web", 1)).with(count("web-2", 0));
    world.gave("unknown#0", "n1");
    world.gave("unknown#7", "gone");
    assert_eq!(steps(&world.plan()), ["create web#0 to n2"]);
}

#[test]
fn names_that_begin_alike_are_different_blueprints() {
    let mut world = World::of(&["n1"]);
    for name in ["web", "web-2", "web.b", "web2", "w"] {
        world.apply(count(name, 2));
    }
    world.settle();
    world.record("web").removed = true;
    assert_eq!(steps(&world.plan()), ["stop web#0", "stop web#1"]);
}

#[test]
fn of_a_node_that_is_gone_instances_move_at_once() {
    let mut world = World::of(&["n1", "n2", "n3"]).with(count("web", 3)).settled();
    world.is("n1", HostState::Lost);
    let plan = world.plan();
    assert_eq!(steps(&plan), ["move web#0 to n2"]);
    assert_eq!(why(&plan, "web#0"), "n1 is gone");
    world.settle();
    world.is("n1", HostState::Up);
    assert_eq!(world.plan(), Plan::default(), "it does not go back");

    world.hosts.remove(&node("n3"));
    assert_eq!(steps(&world.plan()), ["move web#2 to n1"]);
}

#[test]
fn of_a_drained_node_instances_move_when_another_has_begun() {
    let mut world = World::of(&["n1", "n2"]).with(count("web", 2)).settled();
    world.is("n1", HostState::Draining);
    let plan = world.plan();
    assert_eq!(steps(&plan), ["move web#0 to n2 for n1"]);
    assert_eq!(why(&plan, "web#0"), "its node is drained");
    world.give(&plan);
    assert_eq!(world.plan(), Plan::default(), "it waits for the one that begins");
}

#[test]
fn on_a_drained_node_it_stays_while_there_is_no_other() {
    let mut world = World::of(&["n1", "n2"]).with(count("web", 1)).settled();
    world.is("n1", HostState::Draining);
    world.is("n2", HostState::Draining);
    let plan = world.plan();
    assert!(plan.is_empty());
    let wanted = "its node is drained; no node can have it (n1: it is drained; n2: it is drained)";
    assert_eq!(plan.unplaced[&agent("web#0")], wanted);
}

#[test]
fn an_instance_leaves_a_node_that_may_not_have_it_any_more() {
    let mut world = World::of(&["n1@a", "n2@b"]).with(count("web", 1)).settled();
    let require = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
    world.apply(count("web", 1).placed(|placement| placement.require = require));
    let plan = world.plan();
    assert_eq!(steps(&plan), ["move web#0 to n2 for n1"]);
    assert_eq!(why(&plan, "web#0"), "its node may not have it: its zone is a, not b");
}

#[test]
fn a_node_that_is_lost_while_it_is_relieved_is_waited_for_no_more() {
    let mut world = World::of(&["n1", "n2", "n3"]).with(count("web", 1)).settled();
    world.is("n1", HostState::Draining);
    world.give(&world.plan());
    assert_eq!(
        (world.post("web#0").node.clone(), world.post("web#0").relieves.clone()),
        (node("n2"), Some(node("n1")))
    );
    world.is("n1", HostState::Lost);
    assert_eq!(world.plan(), Plan::default(), "the order holds");
    world.says("web#0", failed("it ends with 1"));
    assert_eq!(steps(&world.plan()), ["move web#0 to n3"]);
    world.is("n1", HostState::Draining);
    assert_eq!(steps(&world.plan()), ["move web#0 to n3 for n1"]);
}

#[test]
fn the_node_that_serves_is_relieved_when_the_one_that_was_to_follow_is_lost_or_drained_too() {
    let mut world = World::of(&["n1", "n2", "n3"]).with(count("web", 1)).settled();
    world.is("n1", HostState::Draining);
    world.give(&world.plan());
    world.is("n2", HostState::Lost);
    assert_eq!(steps(&world.plan()), ["move web#0 to n3 for n1"]);
    world.is("n2", HostState::Draining);
    assert_eq!(steps(&world.plan()), ["move web#0 to n3 for n1"], "n2 has not begun");
    world.all_begin();
    assert_eq!(steps(&world.plan()), ["move web#0 to n3 for n2"], "n2 has begun");
}

#[test]
fn an_instance_that_goes_back_to_the_node_that_it_relieves_waits_for_nobody() {
    let mut world = World::of(&["n1", "n2"]).with(count("web", 1));
    world.gave("web#0", "n2").relieves = Some(node("n1"));
    world.says("web#0", failed("it ends with 1"));
    assert_eq!(steps(&world.plan()), ["move web#0 to n1"]);
}
