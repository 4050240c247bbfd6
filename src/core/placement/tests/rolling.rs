//! From one version to another, and back.

use super::*;

/// So many instances that run, and another version of their blueprint.
fn updating(instances: u16, nodes: &[&str], change: impl FnOnce(&mut Update)) -> World {
    let mut world = World::of(nodes).with(count("web", instances)).settled();
    world.apply(count("web", instances).made_of("two").updated(change));
    world
}

fn two(world: &World) -> SpecDigest {
    world.blueprints[&agent("web")].current.blueprint.digest()
}

#[test]
fn another_version_comes_to_one_instance_at_a_time() {
    let mut world = updating(3, &["n1", "n2"], |_| {});
    let plan = world.plan();
    assert_eq!(steps(&plan), ["update web#0 to n1"]);
    assert_eq!(why(&plan, "web#0"), "version 2: applied");
    assert_eq!(plan.steps[0].post.as_ref().expect("a post").digest, two(&world));
    assert_eq!(world.settle(), 3);
    assert!((0..3).all(|slot| world.clone().post(&format!("web#{slot}")).digest == two(&world)));
}

#[test]
fn the_next_instance_waits_until_the_one_before_is_steady() {
    let mut world = updating(3, &["n1", "n2"], |_| {});
    world.give(&world.plan());
    assert_eq!(world.plan(), Plan::default(), "nothing was heard of it");
    world.is_unsteady("web#0");
    assert_eq!(world.plan(), Plan::default());
    world.says("web#0", Observed::Steady);
    assert_eq!(steps(&world.plan()), ["update web#1 to n2"]);
}

#[test]
fn as_many_are_updated_at_once_as_the_blueprint_says() {
    let mut world = updating(5, &["n1", "n2"], |update| update.max_parallel = 3);
    assert_eq!(steps(&world.plan()), ["update web#0 to n1", "update web#1 to n2", "update web#2 to n1"]);
    world.give(&world.plan());
    world.says("web#1", Observed::Steady);
    assert_eq!(steps(&world.plan()), ["update web#3 to n2"]);
}

#[test]
fn what_is_the_same_is_not_started_anew() {
    let mut world = World::of(&["n1@a", "n2@a"]).with(count("web", 2)).settled();
    let require = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    world.apply(count("web", 3).placed(|placement| placement.require = require));
    assert_eq!(steps(&world.plan()), ["create web#2 to n1"]);
}

#[test]
fn a_paused_update_goes_no_further_in_any_way() {
    let mut world = updating(3, &["n1", "n2"], |_| {});
    let one = world.post("web#1").digest;
    world.give(&world.plan());
    world.all_begin();
    world.record("web").paused = true;
    assert_eq!(world.plan(), Plan::default());
    world.is("n2", HostState::Lost);
    let plan = world.plan();
    assert_eq!(steps(&plan), ["move web#1 to n1"]);
    assert_eq!(plan.steps[0].post.as_ref().expect("a post").digest, one, "a move is no update");
    world.says("web#0", failed("it ends with 1"));
    world.is("n2", HostState::Up);
    assert_eq!(steps(&world.plan()), ["move web#0 to n2"], "nor does a failure undo it");
    world.record("web").paused = false;
    assert_eq!(world.plan().roll_back.len(), 1);
}

#[test]
fn what_a_paused_update_moves_is_the_new_version_if_the_old_one_was_forgotten() {
    let mut world = updating(1, &["n1", "n2"], |_| {});
    world.record("web").paused = true;
    world.record("web").former.clear();
    world.is("n1", HostState::Lost);
    assert_eq!(world.plan().steps[0].post.as_ref().expect("a post").digest, two(&world));
}

#[test]
fn an_instance_is_updated_where_it_is_while_another_serves() {
    let world = updating(2, &["n1", "n2", "n3"], |_| {});
    assert_eq!(steps(&world.plan()), ["update web#0 to n1"]);
}

#[test]
fn the_only_instance_begins_elsewhere_before_it_ends_here() {
    let mut world = updating(1, &["n1", "n2"], |_| {});
    let plan = world.plan();
    assert_eq!(steps(&plan), ["update web#0 to n2 for n1"]);
    world.give(&plan);
    assert_eq!(world.plan(), Plan::default());
    let alone = updating(1, &["n1"], |_| {});
    assert_eq!(steps(&alone.plan()), ["update web#0 to n1"], "with one node there is nowhere else");
}

#[test]
fn the_only_one_that_serves_among_several_counts_as_the_only_one() {
    let mut world = updating(2, &["n1", "n2", "n3"], |_| {});
    world.is_unsteady("web#1");
    assert_eq!(steps(&world.plan()), ["update web#0 to n3 for n1"]);
}

#[test]
fn of_those_that_are_updated_at_once_the_last_to_serve_goes_elsewhere() {
    let world = updating(2, &["n1", "n2", "n3"], |update| update.max_parallel = 2);
    assert_eq!(steps(&world.plan()), ["update web#0 to n1", "update web#1 to n3 for n2"]);
}

#[test]
fn an_instance_that_moves_while_it_is_updated_counts_among_those_under_way() {
    let mut world = updating(4, &["n1", "n2", "n3", "n4"], |_| {});
    world.is("n4", HostState::Lost);
    assert_eq!(steps(&world.plan()), ["move web#3 to n1"]);
}

#[test]
fn a_version_that_is_given_up_goes_to_no_other_instance() {
    let mut world = updating(3, &["n1", "n2", "n3"], |update| update.roll_back = false);
    world.give(&world.plan());
    for _ in 0..5 {
        world.says("web#0", failed("it ends with 1"));
        let plan = world.plan();
        assert!(plan.steps.iter().all(|step| step.slot == agent("web#0")), "{:?}", steps(&plan));
        world.give(&plan);
    }
    assert!(world.plan().unplaced.contains_key(&agent("web#0")));
}

#[test]
fn an_update_that_requires_what_no_node_has_stops_nothing() {
    let mut world = World::of(&["n1@a", "n2@a"]).with(count("web", 2)).with(count("app", 1)).settled();
    let require = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
    world.apply(count("web", 2).made_of("two").placed(|placement| placement.require = require));
    world.apply(count("app", 2));
    let plan = world.plan();
    assert_eq!(steps(&plan), ["create app#1 to n2"]);
    assert!(plan.unplaced[&agent("web#0")].contains("its zone is a, not b"));
}

#[test]
fn an_instance_that_is_with_one_it_should_now_be_apart_from_is_updated_where_it_is() {
    let mut world = World::of(&["n1"]).with(count("db", 1)).with(count("web", 2)).settled();
    let apart = |placement: &mut Placement| placement.apart_from = names(&["db", "web"]);
    world.apply(count("web", 2).made_of("two").placed(apart));
    assert_eq!(steps(&world.plan()), ["update web#0 to n1"]);
    assert_eq!(world.settle(), 2);
}

#[test]
fn a_version_that_fails_makes_room_for_the_one_before() {
    let stumbled = Observed::Unsteady { stumbled: Some("it ends with 1".to_owned()), overdue: false };
    let overdue = Observed::Unsteady { stumbled: None, overdue: true };
    for (observed, reason) in [
        (failed("no such command"), "web#0 on n1: no such command"),
        (stumbled, "web#0 on n1: it ends with 1"),
        (overdue, "web#0 on n1: it was not steady within 60 s"),
    ] {
        let mut world = updating(3, &["n1", "n2"], |_| {});
        world.give(&world.plan());
        world.says("web#0", observed);
        let plan = world.plan();
        assert_eq!(plan.roll_back, BTreeMap::from([(agent("web"), reason.to_owned())]));
        assert_eq!(steps(&plan), [""; 0], "nothing else of it is ordered");
        assert!(!plan.is_empty());
    }
}

#[test]
fn only_the_version_that_came_last_can_fail() {
    let mut world = updating(3, &["n1", "n2"], |_| {});
    world.says("web#2", Observed::Unsteady { stumbled: Some("it ends with 1".to_owned()), overdue: true });
    assert_eq!(steps(&world.plan()), ["update web#0 to n1"]);
}

#[test]
fn the_first_version_and_one_that_shall_not_be_rolled_back_are_not() {
    let mut first = World::of(&["n1", "n2"]).with(count("web", 1)).settled();
    first.says("web#0", failed("it ends with 1"));
    assert_eq!(steps(&first.plan()), ["move web#0 to n2"]);
    first.apply(count("web", 2));
    assert!(first.plan().roll_back.is_empty(), "the version before is made of the same");

    let mut never = updating(2, &["n1", "n2"], |update| update.roll_back = false);
    never.give(&never.plan());
    never.says("web#0", failed("it ends with 1"));
    assert_eq!(steps(&never.plan()), ["move web#0 to n2"]);
}

#[test]
fn what_was_rolled_back_is_not_rolled_back_again() {
    let mut world = updating(2, &["n1", "n2"], |_| {});
    let two = two(&world);
    world.give(&world.plan());
    world.says("web#0", failed("it ends with 1"));
    world.give(&world.plan());
    assert!(world.blueprints[&agent("web")].current.goes_back);
    assert_eq!(world.post("web#0").digest, two);
    let plan = world.plan();
    assert_eq!(steps(&plan), ["move web#0 to n2"], "as the version before, which has been nowhere");
    world.give(&plan);
    world.says("web#0", failed("this one too"));
    let plan = world.plan();
    assert!(plan.roll_back.is_empty());
    assert_eq!(steps(&plan), ["move web#0 to n1"]);

    let mut alone = updating(1, &["n1"], |_| {});
    alone.give(&alone.plan());
    alone.says("web#0", failed("it ends with 1"));
    alone.give(&alone.plan());
    alone.give(&alone.plan());
    alone.says("web#0", failed("this one too"));
    assert!(alone.blueprints[&agent("web")].current.goes_back);
    let before = self::two(&alone);
    assert_eq!(alone.post("web#0").digest, before, "it is as it was before");
    assert!(alone.plan().is_empty());
}

#[test]
fn the_only_instance_goes_on_until_the_version_that_takes_the_place_of_a_failed_one_has_begun() {
    let mut world = updating(1, &["n1", "n2", "n3"], |_| {});
    world.host("n1").other_agents = 1;
    world.give(&world.plan());
    assert_eq!(world.post("web#0").relieves, Some(node("n1")));
    world.says("web#0", Observed::Unsteady { stumbled: Some("it ends with 1".to_owned()), overdue: false });
    world.give(&world.plan());
    world.says("web#0", Observed::Unsteady { stumbled: Some("it ends with 1".to_owned()), overdue: false });
    assert_eq!(steps(&world.plan()), ["update web#0 to n3 for n1"], "n2 has never begun");
    world.host("n3").other_agents = 2;
    assert_eq!(steps(&world.plan()), ["update web#0 to n1"], "where it still is");
}

#[test]
fn an_update_in_place_of_one_that_has_not_begun_ends_nothing_elsewhere() {
    let mut world = World::of(&["n1", "n2"]).with(count("web", 1)).settled();
    world.is("n1", HostState::Draining);
    world.give(&world.plan());
    world.apply(count("web", 1).made_of("two"));
    assert_eq!(steps(&world.plan()), ["update web#0 to n2 for n1"]);
    world.all_begin();
    assert_eq!(steps(&world.plan()), ["update web#0 to n2"], "n1 has ended");
}

#[test]
fn a_node_that_is_lost_in_an_update_is_not_held_against_the_version() {
    let mut world = updating(2, &["n1", "n2"], |_| {});
    world.give(&world.plan());
    world.is("n1", HostState::Lost);
    world.says("web#0", Observed::Unsteady { stumbled: None, overdue: true });
    assert_eq!(steps(&world.plan()), ["move web#0 to n2"]);
}

#[test]
fn an_instance_that_fails_long_after_the_update_moves_and_the_version_stays() {
    let mut world = updating(3, &["n1", "n2"], |_| {}).settled();
    world.blueprints.get_mut(&agent("web")).expect("there").current.settled = true;
    world.says("web#0", Observed::Unsteady { stumbled: Some("it ends with 1".to_owned()), overdue: true });
    assert_eq!(world.plan(), Plan::default(), "its node starts it again");
    world.says("web#0", failed("it ends with 1"));
    assert_eq!(steps(&world.plan()), ["move web#0 to n2"]);
}

#[test]
fn the_only_instance_that_fails_at_its_update_is_rolled_back() {
    let mut world = updating(1, &["n1", "n2"], |_| {});
    world.give(&world.plan());
    world.says("web#0", failed("it ends with 1"));
    assert_eq!(world.plan().roll_back.len(), 1);
}
