//! What the second look at a plan finds. These plans are made by hand: no planner may make them.

use super::*;

/// `n1` has `web#0`, `n2` nothing, `n3` is drained, `n4` is gone. `db` wants one instance, `old` was removed.
fn world() -> World {
    let mut world = World::of(&["n1@a", "n2@b", "n3", "n4"]);
    world.apply(count("web", 2));
    world.apply(count("db", 1));
    world.apply(count("old", 1));
    world.record("old").removed = true;
    world.gave("web#0", "n1");
    world.gave("old#0", "n2");
    world.is("n3", HostState::Draining);
    world.is("n4", HostState::Lost);
    world
}

fn step(world: &World, slot: &str, action: StepAction, to: Option<&str>) -> Step {
    let digest = world.blueprints.get(&agent(slot).base()).map(|record| record.current.blueprint.digest());
    let digest = digest.unwrap_or_default();
    let post = to.map(|to| Post { node: node(to), digest, relieves: None, tried: vec![] });
    Step { slot: agent(slot), action, post, why: String::new() }
}

fn found(world: &World, steps: &[Step]) -> Result<(), String> {
    check(world.landscape(), &Plan { steps: steps.to_vec(), ..Plan::default() })
}

/// What is found in a plan of one step.
fn found_in(world: &World, slot: &str, action: StepAction, to: Option<&str>) -> Result<(), String> {
    found(world, &[step(world, slot, action, to)])
}

fn error(text: &str) -> Result<(), String> {
    Err(text.to_owned())
}

#[test]
fn a_plan_with_nothing_wrong_passes() {
    let mut world = world();
    let mut relieving = step(&world, "web#0", StepAction::Move, Some("n2"));
    relieving.post.as_mut().expect("a post").relieves = Some(node("n1"));
    let steps = [
        step(&world, "old#0", StepAction::Stop, None),
        step(&world, "db#0", StepAction::Create, Some("n1")),
        relieving,
        step(&world, "web#1", StepAction::Create, Some("n1")),
    ];
    assert_eq!(found(&world, &steps), Ok(()));
    world.apply(count("web", 2).made_of("two"));
    assert_eq!(found_in(&world, "web#0", StepAction::Update, Some("n1")), Ok(()));
}

#[test]
fn a_slot_is_not_ordered_twice() {
    let world = world();
    let twice = step(&world, "web#0", StepAction::Stop, None);
    assert_eq!(found(&world, &[twice.clone(), twice]), error("web#0: it is ordered twice"));
}

#[test]
fn nothing_is_ordered_of_a_blueprint_that_is_not_known_or_was_removed() {
    let mut world = world();
    world.gave("unknown#0", "n1");
    let wanted = error("unknown#0: no blueprint of that name is known");
    assert_eq!(found_in(&world, "unknown#0", StepAction::Stop, None), wanted);
    let wanted = error("old#0: it is of a blueprint that was removed");
    assert_eq!(found_in(&world, "old#0", StepAction::Move, Some("n1")), wanted);
}

#[test]
fn what_is_done_fits_what_there_is() {
    let world = world();
    for (slot, action, to) in [
        ("web#1", StepAction::Stop, None),
        ("web#0", StepAction::Stop, Some("n1")),
        ("web#0", StepAction::Create, Some("n2")),
        ("web#1", StepAction::Create, None),
        ("web#1", StepAction::Move, Some("n2")),
        ("web#1", StepAction::Update, Some("n2")),
        ("web#0", StepAction::Move, None),
        // Nothing would be different.
        ("web#0", StepAction::Move, Some("n1")),
        ("web#0", StepAction::Update, Some("n2")),
    ] {
        let wanted = error(&format!("{slot}: what is done does not fit what there is"));
        assert_eq!(found_in(&world, slot, action, to), wanted, "{action:?} {to:?}");
    }
}

#[test]
fn only_a_node_that_is_there_and_may_have_it_is_given_an_instance() {
    let mut world = world();
    let require = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
    world.apply(count("web", 2).placed(|placement| placement.require = require));
    for (to, wanted) in [
        ("n3", "web#1: n3 takes no agents"),
        ("n4", "web#1: n4 takes no agents"),
        ("n9", "web#1: n9 does not belong to the mesh"),
        ("n1", "web#1: n1 may not have it: its zone is a, not b"),
    ] {
        assert_eq!(found_in(&world, "web#1", StepAction::Create, Some(to)), error(wanted));
    }
}

#[test]
fn no_node_relieves_itself() {
    let world = world();
    let mut itself = step(&world, "web#0", StepAction::Move, Some("n2"));
    itself.post.as_mut().expect("a post").relieves = Some(node("n2"));
    assert_eq!(found(&world, &[itself]), error("web#0: it would relieve itself"));
}

#[test]
fn there_are_only_as_many_slots_as_instances() {
    let wanted = error("web#2: there are not so many slots");
    assert_eq!(found_in(&world(), "web#2", StepAction::Create, Some("n2")), wanted);
}

#[test]
fn an_instance_is_of_a_version_that_is_known() {
    let world = world();
    let mut unknown = step(&world, "web#1", StepAction::Create, Some("n2"));
    unknown.post.as_mut().expect("a post").digest = SpecDigest::default();
    assert_eq!(found(&world, &[unknown]), error("web#1: no version of its blueprint is made of that"));
}

#[test]
fn no_node_is_given_more_than_it_has_room_for() {
    let mut world = world();
    world.host("n1").other_agents = limits::AGENTS_PER_NODE_MAX - 1;
    let wanted = error("db#0: n1 would have 10001 agents");
    assert_eq!(found_in(&world, "db#0", StepAction::Create, Some("n1")), wanted);
    let leaves = step(&world, "web#0", StepAction::Stop, None);
    let comes = step(&world, "db#0", StepAction::Create, Some("n1"));
    assert_eq!(found(&world, &[leaves, comes]), Ok(()));
    world.host("n1").other_agents = usize::MAX;
    assert!(found_in(&world, "db#0", StepAction::Create, Some("n1")).is_err());
}

#[test]
fn whoever_is_to_be_apart_is_not_put_together_from_either_side() {
    let mut world = world();
    world.apply(count("web", 2).placed(|placement| placement.apart_from = names(&["db", "web"])));
    let wanted = error("db#0: it would be with web on n1, which is to be apart from it");
    assert_eq!(found_in(&world, "db#0", StepAction::Create, Some("n1")), wanted);
    let wanted = error("web#1: it would be with web on n1");
    assert_eq!(found_in(&world, "web#1", StepAction::Create, Some("n1")), wanted);
    world.gave("db#0", "n2");
    let wanted = error("web#1: it would be with db on n2");
    assert_eq!(found_in(&world, "web#1", StepAction::Create, Some("n2")), wanted);
}

#[test]
fn of_one_on_each_node_there_are_not_two_on_one() {
    let mut world = world().with(blueprint("log", Instances::PerNode));
    world.gave("log#0", "n1");
    let wanted = error("log#1: n1 would have two");
    assert_eq!(found_in(&world, "log#1", StepAction::Create, Some("n1")), wanted);
    assert_eq!(found_in(&world, "log#1", StepAction::Create, Some("n2")), Ok(()));
}

#[test]
fn what_stays_where_it_is_may_be_where_it_could_not_come_to() {
    let mut world = world();
    world.gave("db#0", "n1");
    let apart = |placement: &mut Placement| placement.apart_from = names(&["db"]);
    world.apply(count("web", 2).made_of("two").placed(apart));
    assert_eq!(found_in(&world, "web#0", StepAction::Update, Some("n1")), Ok(()));
}
