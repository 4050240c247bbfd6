//! From share to share: what a canary comes to, what it waits for, and what takes it back.

use super::*;
use crate::core::model::{Canary, UpdateStrategy};

/// So many instances that run, and a canary of another version with these steps.
fn trying(instances: u16, steps: &[u8]) -> World {
    let mut world = World::of(&["n1", "n2", "n3"]).with(count("web", instances)).settled();
    world.apply(canary(instances, steps));
    world
}

fn canary(instances: u16, steps: &[u8]) -> Blueprint {
    let canary = Canary { steps: steps.to_vec(), ..Canary::default() };
    count("web", instances).made_of("two").updated(|update| {
        update.strategy = UpdateStrategy::Canary(canary);
        update.max_parallel = 100;
    })
}

fn stage_of(world: &World) -> Option<Stage> {
    stage(world.landscape(), &world.blueprints[&agent("web")])
}

fn waits_for(world: &World) -> String {
    stage_of(world).expect("a canary").waits_for.expect("it waits")
}

/// How many instances are of the current version.
fn of_current(world: &World) -> usize {
    let digest = world.blueprints[&agent("web")].current.blueprint.digest();
    orders_of(world.landscape(), &agent("web")).filter(|(_, post)| post.digest == digest).count()
}

fn begins(world: &mut World) {
    world.give(&world.plan());
    world.all_begin();
}

#[test]
fn each_step_comes_to_its_share_and_to_no_more_before_it_was_held() {
    let mut world = trying(10, &[5, 25, 50]);
    for (step, share) in [(1, 1), (2, 3), (3, 5)] {
        assert_eq!(world.plan().steps.len() + of_current(&world), share, "step {step}");
        begins(&mut world);
        assert_eq!(world.plan(), Plan::default(), "it is held");
        let stage = stage_of(&world).expect("under way");
        assert_eq!((stage.step, stage.steps, stage.share, stage.updated), (step, 3, share, share));
        assert_eq!(stage.waits_for, None);
        assert!(world.holds_pass());
    }
    assert_eq!(world.plan().steps.len(), 5, "what is left after the last step follows");
    begins(&mut world);
    assert_eq!((of_current(&world), stage_of(&world)), (10, None));
    assert_eq!(settled(world.landscape()), [agent("web")]);
}

#[test]
fn a_version_at_all_of_its_instances_is_settled_only_when_its_last_step_was_held() {
    let mut world = trying(2, &[100]);
    begins(&mut world);
    assert_eq!(settled(world.landscape()), []);
    assert!(world.holds_pass());
    assert_eq!(settled(world.landscape()), [agent("web")]);
}

#[test]
fn at_most_so_many_change_at_once_within_a_step() {
    let mut world = trying(10, &[50, 100]);
    world.record("web").current.blueprint.update.max_parallel = 2;
    assert_eq!(steps(&world.plan()), ["update web#0 to n1", "update web#1 to n2"]);
    world.give(&world.plan());
    world.says("web#0", Observed::Steady);
    assert_eq!(steps(&world.plan()), ["update web#2 to n3"]);
    assert_eq!(waits_for(&world), "web#1 is not steady");
}

#[test]
fn the_first_version_and_one_that_comes_back_are_no_canaries() {
    let first = World::of(&["n1"]).with(canary(4, &[25]));
    assert_eq!((first.plan().steps.len(), stage_of(&first)), (4, None));
    let mut world = trying(4, &[25]);
    begins(&mut world);
    world.says("web#0", failed("it ends with 1"));
    assert_eq!(world.plan().roll_back.len(), 1);
    world.give(&world.plan());
    assert_eq!(stage_of(&world), None);
    assert_eq!(steps(&world.plan()), ["move web#0 to n2"]);
}

#[test]
fn what_begins_or_moves_meanwhile_is_of_the_version_before() {
    let mut world = trying(6, &[10]);
    begins(&mut world);
    world.is("n3", HostState::Lost);
    world.record("web").current.blueprint.instances = Instances::Count(8);
    let plan = world.plan();
    assert_eq!(plan.steps.len(), 4, "two move, two begin: {:?}", steps(&plan));
    let one = count("web", 1).digest();
    assert!(plan.steps.iter().all(|step| step.post.as_ref().is_some_and(|post| post.digest == one)));
    world.give(&plan);
    world.all_begin();
    assert_eq!(of_current(&world), 1);
    world.is("n1", HostState::Lost);
    world.give(&world.plan());
    assert_eq!(of_current(&world), 1, "the one that is on trial moves as what it is");
    world.record("web").former.clear();
    assert_eq!(stage_of(&world), None, "there is nothing that it could be compared with");
}

#[test]
fn what_is_of_neither_version_goes_first() {
    let mut world = trying(4, &[25]);
    world.record("web").current.settled = false;
    let between = count("web", 4).made_of("between");
    let record = world.record("web");
    record.former[0].settled = true;
    let canary = record.current.blueprint.clone();
    *record = record.followed_by(between.clone(), "applied".to_owned(), false);
    *record = record.followed_by(canary, "applied".to_owned(), false);
    world.post("web#2").digest = between.digest();
    assert_eq!(steps(&world.plan()), ["update web#2 to n3"]);
}

#[test]
fn errors_of_the_new_version_take_it_back_and_those_of_the_old_one_do_not() {
    let mut world = trying(4, &[50]);
    begins(&mut world);
    let tally = |worked, failed| Tally { worked, failed };
    world.tallies.insert(agent("web#3"), tally(0, 1000));
    assert!(world.plan().roll_back.is_empty());
    world.tallies.insert(agent("web#0"), tally(10, 2));
    assert!(world.plan().roll_back.is_empty(), "of so few nothing is concluded");
    world.tallies.insert(agent("web#1"), tally(10, 2));
    let plan = world.plan();
    let why = "4 of 24 messages failed, more than 5 %";
    assert_eq!(plan.roll_back, BTreeMap::from([(agent("web"), why.to_owned())]));
}

#[test]
fn a_version_that_shall_not_be_taken_back_stays_at_its_step() {
    let mut world = trying(4, &[50]);
    world.record("web").current.blueprint.update.roll_back = false;
    begins(&mut world);
    world.tallies.insert(agent("web#0"), Tally { worked: 0, failed: 40 });
    assert_eq!(world.plan(), Plan::default());
    assert_eq!(waits_for(&world), "40 of 40 messages failed, more than 5 %");
}

#[test]
fn a_paused_canary_is_not_held() {
    let mut world = trying(4, &[50]);
    begins(&mut world);
    world.record("web").paused = true;
    assert_eq!(waits_for(&world), "it is paused");
}

#[test]
fn a_canary_of_one_on_each_node_comes_to_its_share_of_the_nodes() {
    let of = |what: &str| blueprint("log", Instances::PerNode).made_of(what);
    let mut world = World::of(&["n1", "n2", "n3", "n4"]).with(of("one")).settled();
    let strategy = UpdateStrategy::Canary(Canary { steps: vec![50, 100], ..Canary::default() });
    world.apply(of("two").updated(|update| (update.max_parallel, update.strategy) = (100, strategy)));
    assert_eq!(steps(&world.plan()), ["update log#0 to n1", "update log#1 to n2"]);
}
