//! Blue-green updates: a version begins as a whole beside the one before, and then takes all messages at once.

use std::collections::{BTreeMap, BTreeSet};

use shoal::core::ids::AgentName;
use shoal::core::model::{AgentSource, AgentState, Blueprint, Instances, Update, UpdateStrategy};
use shoal::core::wire::{DesiredAnswer, DesiredRequest, RolloutStatus};

use super::desired::{holder, *};
use super::*;

/// Longer than an instance named `ends` runs.
const HEALTHY: Duration = Duration::from_secs(2);

/// The longest that the news of a switch takes from one node to another.
const NEWS: Duration = Duration::from_millis(500);

fn beside(count: u16, command: &str) -> Blueprint {
    let (strategy, deadline) = (UpdateStrategy::BlueGreen, seconds(10));
    let update = Update { strategy, deadline, min_healthy: HEALTHY, ..Update::default() };
    Blueprint { update, ..blueprint("web", Instances::Count(count), command) }
}

/// A mesh whose three instances run, and have for a while.
fn running_three(nodes: usize, seed: u64) -> World {
    let mut world = healthy_mesh(nodes, seed);
    apply(&mut world, 0, blueprint("web", Instances::Count(3), "first"));
    until_runs(&mut world, "web", 3, "first", seconds(2));
    world.run_for(seconds(3));
    world
}

/// The commands of the instances that messages to `web` go to, as one machine sees it.
fn takers(world: &World, machine: usize) -> Vec<String> {
    let Some(view) = world.view(machine) else {
        return vec![];
    };
    let takes = view.agents.iter().filter(|agent| {
        let is_usable = agent.node_status.is_reachable() && agent.record.state == AgentState::Running;
        agent.name.base() == name("web") && agent.on_call && is_usable
    });
    let command = |agent: &shoal::core::model::AgentView| {
        let on = (0..world.len()).find(|on| *world.node(*on) == agent.node)?;
        let (_, spec) = world.agents(on).find(|(other, _)| **other == agent.name)?;
        match &spec.source {
            AgentSource::Process { command, .. } => Some(command.clone()),
            AgentSource::Native { .. } | AgentSource::Wasm(_) => None,
        }
    };
    takes.filter_map(command).collect()
}

/// The instances of which one machine has heard.
fn told(world: &World, machine: usize) -> BTreeSet<AgentName> {
    let view = world.view(machine).expect("it runs");
    let names = view.agents.into_iter().map(|agent| agent.name);
    names.filter(|agent| agent.base() == name("web")).collect()
}

/// What each machine that runs has seen of the way from one version to the other.
#[derive(Default)]
struct Watch {
    switched: BTreeMap<usize, Duration>,
}

impl Watch {
    /// Lets the world run on, and looks at every machine: at least so many instances take messages, all of one version, which
    /// is `from` and from some moment on `to`.
    fn looks(&mut self, world: &mut World, least: usize, from: &str, to: &str) {
        world.run_for(Duration::from_millis(2));
        for machine in 0..world.len() {
            let takers = takers(world, machine);
            if world.view(machine).is_none() {
                continue;
            }
            let commands: BTreeSet<_> = takers.iter().map(String::as_str).collect();
            assert!(takers.len() >= least, "{machine}: {takers:?} at {:?}", world.now());
            assert!(commands.len() <= 1, "{machine} sends to both: {takers:?}");
            if commands.contains(to) {
                self.switched.entry(machine).or_insert(world.now().since(Default::default()));
            } else {
                assert!(least == 0 || commands.contains(from), "{takers:?}");
                assert!(!self.switched.contains_key(&machine), "{machine} went back: {takers:?}");
            }
        }
    }

    /// How long after the first machine the last one has heard of it.
    fn spread(&self) -> Duration {
        let (first, last) = (self.switched.values().min(), self.switched.values().max());
        last.zip(first).map(|(last, first)| *last - *first).expect("somebody has switched")
    }
}

/// Whether three instances of this command run, and nothing else.
fn is_all(world: &World, count: usize, command: &str) -> bool {
    let all = running(world, "web");
    all.len() == count && all.values().all(|on| on.len() == 1 && on[0].1 == command)
}

fn rollout(world: &mut World, machine: usize) -> RolloutStatus {
    match desired(world, machine, DesiredRequest::Rollout { name: name("web") }) {
        Ok(DesiredAnswer::Rollout(rollout)) => *rollout,
        other => panic!("{other:?}"),
    }
}

fn epochs(world: &mut World) -> BTreeMap<AgentName, String> {
    let slots = detail(world, 0, "web").slots;
    slots.into_iter().map(|slot| (slot.slot, slot.epoch)).collect()
}

fn roll_back(world: &mut World, machine: usize) {
    let request = DesiredRequest::RollBack { name: name("web"), version: None };
    planned(desired(world, machine, request));
}

fn pause(world: &mut World, paused: bool) {
    planned(desired(world, 0, DesiredRequest::Pause { name: name("web"), paused }));
}

#[test]
fn a_good_version_takes_all_messages_at_once_and_nobody_is_missing_meanwhile() {
    for seed in [71, 72, 73] {
        let mut world = running_three(3, seed);
        apply(&mut world, 1, beside(3, "second"));
        let (begun, mut watch) = (world.now(), Watch::default());
        while !is_all(&world, 3, "second") {
            watch.looks(&mut world, 3, "first", "second");
            assert!(world.now().since(begun) < seconds(20), "{:?}", running(&world, "web"));
        }
        assert_eq!(watch.switched.len(), 3);
        assert!(watch.spread() < NEWS, "{:?}", watch.spread());
        let first = watch.switched.values().min().copied().expect("three");
        assert!(first >= begun.since(Default::default()) + HEALTHY, "not before all are healthy");
        let status = stands(&mut world, 2, "web");
        assert_eq!((status.version, status.placed, status.running, status.updated), (2, 3, 3, 3));
        world.run_for(seconds(40));
        assert!(is_all(&world, 3, "second"));
        assert_eq!(world.broken(), [] as [String; 0]);
        let told: Vec<_> = world
            .report()
            .rollouts
            .iter()
            .filter(|(machine, .., version, _)| (*machine, *version) == (1, 2))
            .map(|(.., what)| what.as_str())
            .collect();
        let wanted = [
            "applied: it begins beside the version before",
            "all messages go to it",
            "all instances are steady",
        ];
        assert_eq!(told, wanted);
    }
}

#[test]
fn a_bad_version_never_takes_a_message_and_goes_away_without_the_other_having_been_touched() {
    for command in ["ends", "fails", "stalls@1"] {
        let mut world = running_three(3, 74);
        let (before, ordered) = (running(&world, "web"), epochs(&mut world));
        apply(&mut world, 0, beside(3, command));
        let (begun, mut watch) = (world.now(), Watch::default());
        world.run_for(seconds(1));
        assert!(running(&world, "web").len() > 3, "it was tried: {:?}", running(&world, "web"));
        while stands(&mut world, 0, "web").version == 2 {
            watch.looks(&mut world, 3, "first", "nothing");
            assert!(world.now().since(begun) < seconds(15), "{command}");
        }
        let has_gone =
            |world: &World| (0..3).all(|machine| told(world, machine) == before.keys().cloned().collect());
        world.run_until(world.now() + seconds(5), has_gone).expect("it goes away");
        assert_eq!(epochs(&mut world), ordered, "no order was given for what has run all the time");
        let why = stands(&mut world, 0, "web").why;
        assert!(why.contains("back to version 1: version 2 failed"), "{why}");
        world.run_for(seconds(40));
        assert!(has_gone(&world) && (0..3).all(|machine| takers(&world, machine) == ["first"; 3]));
        let still = running(&world, "web");
        assert!(before.iter().all(|(slot, on)| still[slot] == *on), "where they were: {still:?}");
    }
}

#[test]
fn another_holder_of_the_lease_goes_on_before_the_switch_and_after_it() {
    for (seed, after_switch) in [(75, false), (76, true), (77, false), (78, true)] {
        let mut world = running_three(5, seed);
        apply(&mut world, 0, beside(3, "second"));
        let end = world.now() + seconds(10);
        let machine = holder(&mut world);
        let other = (machine + 1) % 5;
        if after_switch {
            world
                .run_until(end, |world| takers(world, other).iter().any(|taker| taker == "second"))
                .expect("it is switched");
        } else {
            world.run_for(seconds(1));
        }
        world.crash(machine);
        let (crashed, mut watch) = (world.now(), Watch::default());
        while !is_all(&world, 3, "second") {
            watch.looks(&mut world, 0, "first", "second");
            assert!(world.now().since(crashed) < seconds(40), "{:?}", running(&world, "web"));
        }
        world.start(machine);
        world.run_for(seconds(20));
        assert!(is_all(&world, 3, "second"), "{:?}", running(&world, "web"));
        assert_eq!(stands(&mut world, other, "web").version, 2);
        assert_eq!(world.broken(), [] as [String; 0]);
    }
}

#[test]
fn what_a_node_loses_before_the_switch_comes_back_on_both_sides_and_then_it_goes_on() {
    let mut world = running_three(4, 79);
    apply(&mut world, 0, beside(3, "second"));
    world.run_for(Duration::from_millis(800));
    let holds = holder(&mut world);
    let lost = running(&world, "web").values().map(|on| on[0].0).find(|machine| *machine != holds);
    let lost = lost.expect("three are on several nodes");
    world.crash(lost);
    let (crashed, mut watch) = (world.now(), Watch::default());
    while !is_all(&world, 3, "second") {
        watch.looks(&mut world, 0, "first", "second");
        assert!(world.now().since(crashed) < seconds(40), "{:?}", running(&world, "web"));
    }
    assert_eq!(stands(&mut world, holds, "web").version, 2);
    assert_eq!(world.broken(), [] as [String; 0]);
}

#[test]
fn a_change_of_numbers_meanwhile_holds_for_both_versions() {
    let mut world = running_three(3, 80);
    apply(&mut world, 0, beside(3, "second"));
    world.run_for(seconds(1));
    scale(&mut world, 1, "web", 5);
    world.run_for(seconds(1));
    assert_eq!(running(&world, "web").len(), 10);
    assert_eq!(takers(&world, 2), ["first"; 5]);
    let (begun, mut watch) = (world.now(), Watch::default());
    while !is_all(&world, 5, "second") {
        watch.looks(&mut world, 5, "first", "second");
        assert!(world.now().since(begun) < seconds(20), "{:?}", running(&world, "web"));
    }
}

#[test]
fn without_room_for_both_nothing_begins_and_everybody_is_told_why_until_there_is() {
    let mut world = World::new(Config::lan(3, 81));
    (0..3).for_each(|machine| world.set_labels(machine, &[("capacity", "2")]));
    world.start_all();
    let end = world.now() + seconds(60);
    world.run_until(end, all_healthy).expect("they are healthy");
    apply(&mut world, 0, blueprint("web", Instances::Count(3), "first"));
    apply(&mut world, 0, blueprint("other", Instances::Count(1), "first"));
    until_runs(&mut world, "web", 3, "first", seconds(2));
    until_runs(&mut world, "other", 1, "first", seconds(2));
    world.run_for(seconds(3));
    let told = apply(&mut world, 1, beside(3, "second"));
    assert_eq!((told.steps, told.plan.unplaced.len()), (0, 3), "{told:?}");
    world.run_for(seconds(20));
    assert!(runs_once(&world, "web", 3, "first"), "{:?}", running(&world, "web"));
    let why = stands(&mut world, 2, "web").unplaced.into_values().next().expect("it is told");
    assert!(
        why.contains("when there is room for all of it beside the one before: no node can have it"),
        "{why}"
    );
    let waits = rollout(&mut world, 2).beside.expect("it waits");
    assert_eq!((waits.steady, waits.wanted), (0, 3));
    scale(&mut world, 0, "other", 0);
    let end = world.now() + seconds(20);
    world.run_until(end, |world| is_all(world, 3, "second")).expect("there is room");
    assert_eq!(world.broken(), [] as [String; 0]);
}

#[test]
fn an_operator_goes_back_before_the_switch_and_at_once_after_it() {
    let mut world = running_three(3, 82);
    let (before, ordered) = (running(&world, "web"), epochs(&mut world));
    apply(&mut world, 0, beside(3, "second"));
    world.run_for(seconds(1));
    roll_back(&mut world, 1);
    until_runs(&mut world, "web", 3, "first", seconds(2));
    assert_eq!((running(&world, "web"), epochs(&mut world)), (before.clone(), ordered.clone()));

    apply(&mut world, 0, beside(3, "third"));
    let end = world.now() + seconds(10);
    let is_switched = |world: &World| (0..3).all(|machine| takers(world, machine) == ["third"; 3]);
    world.run_until(end, is_switched).expect("it is switched");
    roll_back(&mut world, 1);
    let begun = world.now();
    let is_back = |world: &World| (0..3).all(|machine| takers(world, machine) == ["first"; 3]);
    world.run_until(begun + seconds(1), is_back).expect("what still runs takes messages again");
    until_runs(&mut world, "web", 3, "first", seconds(10));
    assert_eq!((running(&world, "web"), epochs(&mut world)), (before, ordered));

    // Once it has ended, it begins beside the other again.
    apply(&mut world, 0, beside(3, "fourth"));
    world.run_until(world.now() + seconds(20), |world| is_all(world, 3, "fourth")).expect("it came");
    world.run_for(seconds(5));
    roll_back(&mut world, 2);
    let (begun, mut watch) = (world.now(), Watch::default());
    while !is_all(&world, 3, "first") {
        watch.looks(&mut world, 3, "fourth", "first");
        assert!(world.now().since(begun) < seconds(20), "{:?}", running(&world, "web"));
    }
}

#[test]
fn one_that_is_paused_takes_no_messages_until_it_goes_on() {
    let mut world = running_three(3, 83);
    apply(&mut world, 0, beside(3, "second"));
    world.run_for(seconds(1));
    pause(&mut world, true);
    world.run_for(seconds(20));
    assert_eq!(rollout(&mut world, 1).beside.expect("it waits").waits_for, "it is paused");
    assert!((0..3).all(|machine| takers(&world, machine) == ["first"; 3]));
    pause(&mut world, false);
    let end = world.now() + seconds(10);
    world.run_until(end, |world| is_all(world, 3, "second")).expect("it goes on");
}

#[test]
fn agents_that_must_not_run_twice_are_refused() {
    let mut world = healthy_mesh(1, 84);
    let mut exclusive = beside(1, "first");
    exclusive.spec.exclusive = true;
    let changes = shoal::core::wire::Changes { blueprints: vec![exclusive], remove: vec![] };
    let refused = desired(&mut world, 0, DesiredRequest::Apply { changes, plan_id: None });
    assert!(refused.expect_err("both would run").contains("not for exclusive agents"));
}
