//! Instances that their nodes have given up on.

use super::*;

#[test]
fn an_instance_that_is_given_up_goes_elsewhere_and_remembers_where_it_was() {
    let mut world = World::of(&["n1", "n2", "n3"]).with(count("web", 1)).settled();
    world.says("web#0", failed("it ends with 1"));
    let plan = world.plan();
    assert_eq!(steps(&plan), ["move web#0 to n2"]);
    assert_eq!(why(&plan, "web#0"), "its node has given up on it: it ends with 1");
    world.give(&plan);
    assert_eq!(world.post("web#0").tried, [node("n1")]);
    assert_eq!(world.plan(), Plan::default(), "nothing was heard yet");
    world.says("web#0", failed("again"));
    world.give(&world.plan());
    assert_eq!(
        (world.post("web#0").node.clone(), world.post("web#0").tried.clone()),
        (node("n3"), vec![node("n1"), node("n2")])
    );
}

#[test]
fn when_it_was_everywhere_it_stays_until_there_is_another_node() {
    let mut world = World::of(&["n1", "n2"]).with(count("web", 1)).settled();
    for _ in 0..2 {
        world.says("web#0", failed("it ends with 1"));
        world.give(&world.plan());
    }
    let plan = world.plan();
    assert!(plan.is_empty());
    let wanted = "its node has given up on it: it ends with 1; no node can have it (n1: it has had it; n2: it has had it)";
    assert_eq!(plan.unplaced[&agent("web#0")], wanted);
    world.hosts.extend([host("n3")]);
    assert_eq!(steps(&world.plan()), ["move web#0 to n3"]);
    world.hosts.remove(&node("n3"));
    world.apply(count("web", 1).made_of("two").updated(|update| update.roll_back = false));
    let plan = world.plan();
    assert_eq!(steps(&plan), ["move web#0 to n1"], "another version has been nowhere");
    assert!(plan.steps[0].post.as_ref().is_some_and(|post| post.tried.is_empty()));
}

#[test]
fn nodes_that_were_tried_are_remembered_over_a_move_for_another_reason() {
    let mut world = World::of(&["n1", "n2", "n3", "n4"]).with(count("web", 1));
    world.gave("web#0", "n2").tried = vec![node("n1")];
    world.is("n2", HostState::Lost);
    let plan = world.plan();
    assert_eq!(steps(&plan), ["move web#0 to n3"]);
    assert_eq!(plan.steps[0].post.as_ref().expect("a post").tried, [node("n1")]);
}

#[test]
fn of_too_many_nodes_that_were_tried_the_oldest_is_tried_again() {
    let nodes: Vec<_> = (10..=10 + limits::ORDER_TRIED_MAX).map(|number| format!("n{number}")).collect();
    let mut world = World::of(&nodes.iter().map(String::as_str).collect::<Vec<_>>());
    world.apply(count("web", 1));
    world.settle();
    let mut visited = vec![];
    for _ in 0..nodes.len() {
        visited.push(world.post("web#0").node.to_string());
        world.says("web#0", failed("it ends with 1"));
        world.give(&world.plan());
        assert!(world.post("web#0").tried.len() <= limits::ORDER_TRIED_MAX);
    }
    assert_eq!(visited, nodes);
    assert_eq!(world.post("web#0").node, node("n10"));
}

#[test]
fn an_outdated_one_that_was_given_up_everywhere_is_updated_where_it_is() {
    let mut world = World::of(&["n1"]).with(count("web", 1)).settled();
    world.says("web#0", failed("it ends with 1"));
    world.apply(count("web", 1).made_of("two"));
    let plan = world.plan();
    assert_eq!(steps(&plan), ["update web#0 to n1"]);
    assert!(plan.unplaced.is_empty(), "what is ordered is not out of place: {:?}", plan.unplaced);
}

#[test]
fn a_reason_that_is_too_long_is_cut_off_in_an_order_and_in_a_version() {
    let mut world = World::of(&["n1", "n2"]).with(count("web", 2)).settled();
    world.says("web#0", failed(&"ä".repeat(1000)));
    assert!(why(&world.plan(), "web#0").len() <= limits::ORDER_WHY_BYTES_MAX);
    world.apply(count("web", 2).made_of("two"));
    world.post("web#0").digest = world.blueprints[&agent("web")].current.blueprint.digest();
    let reason = world.plan().roll_back.remove(&agent("web")).expect("it has failed");
    assert!(reason.len() <= limits::ORDER_WHY_BYTES_MAX, "{}", reason.len());

    let too_long = "x".repeat(limits::BLUEPRINT_RECORD_BYTES_MAX);
    let alone = world.record("web").followed_by(count("web", 2), too_long, true);
    assert!(alone.former.is_empty(), "there is no room for any version besides it");
}
