//! Canaries: a new version comes from share to share, and one that is bad is taken back before it is everywhere.

use shoal::core::model::{Blueprint, Canary, Instances, Update, UpdateStrategy};
use shoal::core::wire::{CanaryStatus, DesiredAnswer, DesiredRequest, RolloutStatus};

use super::desired::{holder, *};
use super::*;

const HOLD: Duration = Duration::from_secs(20);

fn canary(command: &str, steps: &[u8]) -> Blueprint {
    let canary = Canary { steps: steps.to_vec(), hold: HOLD, ..Canary::default() };
    let update = Update { strategy: UpdateStrategy::Canary(canary), ..Update::default() };
    Blueprint { update, ..blueprint("web", Instances::Count(10), command) }
}

/// A mesh whose ten instances run, and have for a while.
fn running_ten(seed: u64) -> World {
    let mut world = healthy_mesh(3, seed);
    apply(&mut world, 0, blueprint("web", Instances::Count(10), "first"));
    until_runs(&mut world, "web", 10, "first", seconds(2));
    world.run_for(seconds(3));
    world
}

fn rollout(world: &mut World, machine: usize) -> RolloutStatus {
    match desired(world, machine, DesiredRequest::Rollout { name: name("web") }) {
        Ok(DesiredAnswer::Rollout(rollout)) => *rollout,
        other => panic!("{other:?}"),
    }
}

fn stage(world: &mut World, machine: usize) -> CanaryStatus {
    rollout(world, machine).canary.expect("a canary is under way")
}

/// How many instances run as this command.
fn made_of(world: &World, command: &str) -> usize {
    running(world, "web").values().flatten().filter(|(_, of)| of == command).count()
}

#[test]
fn a_good_version_comes_from_share_to_share_and_holds_at_each() {
    let mut world = running_ten(51);
    apply(&mut world, 0, canary("second", &[5, 30, 100]));
    let mut reached: Vec<(usize, Duration)> = Vec::new();
    let begun = world.now();
    while reached.last().is_none_or(|(count, _)| *count < 10) {
        world.run_for(Duration::from_millis(50));
        let count = made_of(&world, "second");
        let since = world.now().since(begun);
        if reached.last().map_or(0, |(count, _)| *count) != count {
            reached.push((count, since));
        }
        assert!(since < seconds(120), "{reached:?}");
    }
    let at = |count: usize| reached.iter().find(|(reached, _)| *reached == count).expect("it was so").1;
    assert!(at(2) - at(1) >= HOLD, "one instance was held: {reached:?}");
    assert!(at(4) - at(3) >= HOLD, "three were: {reached:?}");
    assert!(at(2) - at(1) < HOLD + seconds(3), "and not for longer: {reached:?}");
    let last = stage(&mut world, 1);
    assert_eq!((last.step, last.steps, last.percent, last.share), (3, 3, 100, 10), "all are held as well");
    world.run_for(HOLD + seconds(3));
    let rest = rollout(&mut world, 2);
    assert_eq!((rest.status.version, rest.status.updated, rest.canary), (2, 10, None));
    let record = detail(&mut world, 0, "web").record;
    assert!(record.current.settled);
    assert_eq!(world.broken(), [] as [String; 0]);
}

#[test]
fn a_version_whose_messages_fail_is_taken_back_from_its_first_share() {
    let mut world = running_ten(52);
    apply(&mut world, 0, canary("errs", &[20, 100]));
    let begun = world.now();
    while stands(&mut world, 0, "web").version == 2 {
        world.run_for(Duration::from_millis(100));
        assert!(made_of(&world, "errs") <= 2, "{:?}", running(&world, "web"));
        assert!(world.now().since(begun) < HOLD, "before its time is over");
    }
    until_runs(&mut world, "web", 10, "first", seconds(10));
    let why = stands(&mut world, 0, "web").why;
    assert!(
        why.contains("back to version 1: version 2 failed, ") && why.contains("messages failed"),
        "{why}"
    );
    world.run_for(seconds(60));
    assert_eq!(stands(&mut world, 0, "web").version, 3, "it stays with that");
}

#[test]
fn a_version_whose_instances_end_is_taken_back_from_its_first_share() {
    let mut world = running_ten(53);
    apply(&mut world, 0, canary("ends", &[10, 100]));
    let begun = world.now();
    while stands(&mut world, 0, "web").version == 2 {
        world.run_for(Duration::from_millis(100));
        assert!(made_of(&world, "ends") <= 1);
        assert!(world.now().since(begun) < seconds(10));
    }
    until_runs(&mut world, "web", 10, "first", seconds(10));
}

#[test]
fn a_version_whose_breaker_opens_is_taken_back_though_few_of_its_messages_failed() {
    let mut world = running_ten(60);
    apply(&mut world, 0, canary("breaks", &[10, 100]));
    let begun = world.now();
    while stands(&mut world, 0, "web").version == 2 {
        world.run_for(Duration::from_millis(100));
        assert!(made_of(&world, "breaks") <= 1);
        assert!(world.now().since(begun) < HOLD, "before its time is over");
    }
    until_runs(&mut world, "web", 10, "first", seconds(10));
    let why = stands(&mut world, 0, "web").why;
    assert!(why.contains("its breaker is open: no answer"), "{why}");
}

#[test]
fn one_whose_messages_are_not_looked_at_goes_on_though_they_fail() {
    let mut world = running_ten(54);
    let mut blueprint = canary("errs", &[20]);
    if let UpdateStrategy::Canary(canary) = &mut blueprint.update.strategy {
        canary.error_permille_max = 1000;
    }
    apply(&mut world, 0, blueprint);
    until_runs(&mut world, "web", 10, "errs", HOLD + seconds(25));
}

#[test]
fn another_holder_of_the_lease_goes_on_with_the_step_and_holds_it_anew() {
    let mut world = running_ten(55);
    apply(&mut world, 0, canary("second", &[20, 40]));
    world.run_for(HOLD + seconds(14));
    let before = stage(&mut world, 0);
    assert_eq!((before.step, before.share, before.updated), (2, 4, 4));
    let machine = holder(&mut world);
    world.crash(machine);
    let crashed = world.now();
    let other = (machine + 1) % 3;
    while made_of(&world, "second") <= 4 {
        assert!(made_of(&world, "first") + made_of(&world, "second") <= 11);
        world.run_for(Duration::from_millis(100));
        assert!(world.now().since(crashed) < HOLD + seconds(20));
    }
    assert!(world.now().since(crashed) >= HOLD, "held anew: {:?}", world.now().since(crashed));
    until_runs(&mut world, "web", 10, "second", seconds(30));
    assert_eq!(stands(&mut world, other, "web").version, 2);
}

#[test]
fn what_a_node_loses_during_a_canary_comes_back_as_what_it_was() {
    let mut world = running_ten(56);
    apply(&mut world, 0, canary("second", &[10, 20]));
    world.run_for(seconds(5));
    let on_trial = running(&world, "web")[&name("web#0")][0].0;
    let other = (0..3).find(|machine| *machine != on_trial && *machine != holder(&mut world));
    world.crash(other.expect("three are two and one"));
    let begun = world.now();
    while world.now().since(begun) < seconds(12) {
        world.run_for(Duration::from_millis(100));
        assert!(made_of(&world, "second") <= 1, "{:?}", running(&world, "web"));
    }
    assert_eq!((made_of(&world, "first"), made_of(&world, "second")), (9, 1));
}

#[test]
fn a_canary_that_is_paused_says_so_and_is_not_held() {
    let mut world = running_ten(57);
    apply(&mut world, 0, canary("second", &[10, 100]));
    world.run_for(seconds(5));
    let holding = stage(&mut world, 2);
    assert!(
        holding.waits_for.starts_with("hold: ") && holding.waits_for.ends_with(" of 20 s"),
        "{holding:?}"
    );
    planned(desired(&mut world, 0, DesiredRequest::Pause { name: name("web"), paused: true }));
    world.run_for(HOLD + seconds(5));
    assert_eq!(stage(&mut world, 1).waits_for, "it is paused");
    assert_eq!(made_of(&world, "second"), 1);
    planned(desired(&mut world, 0, DesiredRequest::Pause { name: name("web"), paused: false }));
    world.run_for(seconds(10));
    assert_eq!(made_of(&world, "second"), 1, "it is held for its whole time");
}

#[test]
fn messages_are_counted_rarely_and_only_while_somebody_is_on_trial() {
    let mut world = running_ten(58);
    apply(&mut world, 0, canary("second", &[10]));
    world.run_for(HOLD - seconds(2));
    // Each time it is counted, the one instance has had a hundred messages more.
    let counted = stage(&mut world, 1).tally.worked / 100;
    assert!((2..=5).contains(&counted), "{counted} times");
}

#[test]
fn each_step_is_an_event() {
    let mut world = running_ten(59);
    apply(&mut world, 0, canary("second", &[10, 20]));
    world.run_for(HOLD * 2 + seconds(15));
    let told = world.report().rollouts.iter();
    let of_it =
        told.filter(|(machine, name, version, _)| (*machine, name.as_str(), *version) == (1, "web", 2));
    let told: Vec<_> = of_it.map(|(.., what)| what.as_str()).collect();
    let steps = ["applied: canary step 1 of 2, 10 %", "canary step 2 of 2, 20 %", "canary passed"];
    assert_eq!(told[..3], steps);
    assert_eq!(told[3..], ["all instances are steady"]);
}
