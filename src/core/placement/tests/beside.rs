//! A version beside the one before: all of it or nothing, and nothing of the one before is touched until it ends.

use super::*;
use crate::core::model::UpdateStrategy;

fn beside(instances: u16, made_of: &str) -> Blueprint {
    let strategy = UpdateStrategy::BlueGreen;
    count("web", instances).made_of(made_of).updated(|update| update.strategy = strategy)
}

/// Three instances that run, and another version that is to come beside them.
fn trying(hosts: &[&str]) -> World {
    let mut world = World::of(hosts).with(count("web", 3)).settled();
    world.record("web").current.settled = true;
    world.apply(beside(3, "two"));
    world
}

fn standby_of(world: &World) -> Option<Standby> {
    standby(world.landscape(), &world.blueprints[&agent("web")])
}

fn waits_for(world: &World) -> Option<String> {
    standby_of(world).expect("it is beside another").waits_for
}

#[test]
fn all_of_it_begins_at_once_beside_what_runs_and_what_runs_ends_when_it_has_served() {
    let mut world = trying(&["n1", "n2", "n3"]);
    let plan = world.plan();
    let begin = ["create web#10000 to n1", "create web#10001 to n2", "create web#10002 to n3"];
    assert_eq!(steps(&plan), begin);
    world.give(&plan);
    assert_eq!(waits_for(&world).as_deref(), Some("web#10000 is not steady"));
    world.all_begin();
    assert_eq!((world.plan(), waits_for(&world)), (Plan::default(), None));
    assert!(world.standbys_pass());
    assert_eq!(world.plan(), Plan::default(), "those who have not heard of it still send to the others");
    assert!(world.standbys_pass());
    let plan = world.plan();
    assert_eq!(steps(&plan), ["stop web#0", "stop web#1", "stop web#2"]);
    assert_eq!(why(&plan, "web#0"), "version 2 takes all messages");
    world.settle();
    assert_eq!(world.places("web"), ["10000@n1", "10001@n2", "10002@n3"]);
    world.apply(beside(3, "three"));
    assert_eq!(steps(&world.plan())[0], "create web#0 to n1", "the next one has the first side again");
}

#[test]
fn an_instance_that_is_late_or_ends_takes_the_version_back_and_nothing_else_has_changed() {
    for observed in [
        failed("it ends with 1"),
        Observed::Unsteady { stumbled: None, overdue: true },
        Observed::Unsteady { stumbled: Some("it ends with 1".to_owned()), overdue: false },
    ] {
        let mut world = trying(&["n1", "n2", "n3"]);
        let before = world.places("web");
        world.give(&world.plan());
        world.all_begin();
        world.says("web#10001", observed);
        let plan = world.plan();
        assert_eq!(plan.roll_back.len(), 1, "{plan:?}");
        world.give(&plan);
        assert_eq!(standby_of(&world), None);
        assert_eq!(steps(&world.plan()), ["stop web#10000", "stop web#10001", "stop web#10002"]);
        world.settle();
        assert_eq!(world.places("web"), before);
    }
}

#[test]
fn where_there_is_no_room_for_all_of_it_nothing_begins_and_the_plan_says_why() {
    let mut world = trying(&["n1", "n2", "n3"]);
    let sized = |world: &mut World, name: &str, capacity: u8| {
        let labels = &mut world.host(name).card.labels;
        labels.insert("capacity".to_owned(), capacity.to_string());
    };
    [("n1", 2), ("n2", 2), ("n3", 1)].into_iter().for_each(|(name, room)| sized(&mut world, name, room));
    let plan = world.plan();
    assert_eq!((plan.steps.len(), plan.unplaced.len()), (0, 3));
    let told = &plan.unplaced[&agent("web#10000")];
    assert!(told.starts_with("version 2 begins when there is room for all of it"), "{told}");
    assert!(told.contains("n3: its capacity is 1, of which 1 is taken"), "{told}");
    sized(&mut world, "n3", 2);
    assert_eq!((world.plan().steps.len(), world.plan().unplaced.len()), (3, 0));
}

#[test]
fn what_a_lost_node_had_comes_back_as_what_it_was_on_either_side() {
    let mut world = trying(&["n1", "n2", "n3"]);
    world.give(&world.plan());
    world.all_begin();
    world.is("n2", HostState::Lost);
    assert_eq!(waits_for(&world).as_deref(), Some("web#10001 is not steady"), "its node is gone");
    let plan = world.plan();
    let digest_of = |slot: &str| {
        let step = plan.steps.iter().find(|step| step.slot == agent(slot)).expect("it moves");
        step.post.as_ref().expect("to another node").digest
    };
    assert_eq!(plan.steps.len(), 2);
    assert_eq!(digest_of("web#1"), count("web", 3).digest());
    assert_eq!(digest_of("web#10001"), beside(3, "two").digest());
}

#[test]
fn a_change_of_numbers_meanwhile_is_one_of_both_sides() {
    let mut world = trying(&["n1", "n2", "n3"]);
    world.give(&world.plan());
    world.all_begin();
    world.apply(beside(4, "two"));
    assert_eq!(steps(&world.plan()), ["create web#3 to n1", "create web#10003 to n2"]);
    assert_eq!(waits_for(&world).as_deref(), Some("web#10003 is not steady"));
    world.apply(beside(1, "two"));
    assert_eq!(
        steps(&world.plan()),
        ["stop web#1", "stop web#10001", "stop web#10002", "stop web#2"],
        "in the order of their names"
    );
}

#[test]
fn one_that_is_paused_neither_begins_nor_takes_messages() {
    let mut world = trying(&["n1", "n2", "n3"]);
    world.record("web").paused = true;
    assert_eq!(world.plan(), Plan::default());
    world.record("web").paused = false;
    world.give(&world.plan());
    world.all_begin();
    world.record("web").paused = true;
    assert_eq!(waits_for(&world).as_deref(), Some("it is paused"));
}

#[test]
fn what_takes_the_place_of_one_that_waits_waits_at_its_places() {
    let mut world = trying(&["n1", "n2", "n3"]);
    world.give(&world.plan());
    world.apply(beside(3, "three"));
    let renewed = ["update web#10000 to n1", "update web#10001 to n2", "update web#10002 to n3"];
    assert_eq!(steps(&world.plan()), renewed, "all at once");
    world.settle();
    assert_eq!(world.places("web"), ["10000@n1", "10001@n2", "10002@n3"]);
}

#[test]
fn the_way_back_before_the_former_version_has_ended_is_a_switch_to_what_still_runs() {
    let mut world = trying(&["n1", "n2", "n3"]);
    world.give(&world.plan());
    world.all_begin();
    world.standbys_pass();
    let record = world.record("web");
    let former = record.before().expect("the one before").blueprint.clone();
    *record = record.followed_by(former, "rolled back".to_owned(), true);
    assert_eq!((world.plan(), waits_for(&world)), (Plan::default(), None), "all of it runs already");
    world.settle();
    assert_eq!(world.places("web"), ["0@n1", "1@n2", "2@n3"]);
}

#[test]
fn a_blueprint_that_cannot_run_twice_at_a_time_is_refused_with_the_reason() {
    let mut exclusive = beside(3, "two");
    exclusive.spec.exclusive = true;
    let refused = exclusive.check().expect_err("both versions would run");
    assert!(refused.contains("blue-green is not for exclusive agents: both versions would run"), "{refused}");
    let per_node = Blueprint { instances: Instances::PerNode, ..beside(3, "two") };
    let refused = per_node.check().expect_err("each node would have two");
    assert!(refused.contains("blue-green is not for one on each node"), "{refused}");
}
