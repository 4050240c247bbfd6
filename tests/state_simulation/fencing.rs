//! What an instance may do after another has taken its place: nothing that counts.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use shoal::core::ids::{AgentName, ModuleId};
use shoal::core::limits::PERMIT;
use shoal::core::model::{AgentSource, Blueprint, Instances, OnCut, WasmSource};
use shoal::core::wire::{DesiredRequest, StateValue};

use super::desired::{apply, blueprint, desired, isolate, name, planned, running, until_runs};
use super::*;

/// An agent of this machine writes.
fn put_by(world: &mut World, machine: usize, agent: &str, key: &str, value: &str) -> RequestId {
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    ask(world, machine, StateRequest::PutBy { agent: name(agent), key: key.to_owned(), value })
}

/// What it is told: the code of the refusal where it is refused.
fn told(world: &mut World, machine: usize, id: RequestId) -> Result<StateAnswer, &'static str> {
    let end = world.now() + seconds(20);
    world.run_until(end, |world| world.report().replies.contains_key(&(machine, id)));
    match &world.report().replies.get(&(machine, id)).expect("it is answered").1 {
        Ok(ResponseBody::State(answer)) => Ok(answer.clone()),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal.code()),
    }
}

fn write_by(
    world: &mut World,
    machine: usize,
    agent: &str,
    key: &str,
    value: &str,
) -> Result<StateAnswer, &'static str> {
    let id = put_by(world, machine, agent, key, value);
    told(world, machine, id)
}

fn read(world: &mut World, machine: usize, key: &str) -> StateValue {
    match answer(world, machine, StateRequest::Get { key: key.to_owned() }) {
        Ok(StateAnswer::Value(value)) => value,
        other => panic!("{other:?}"),
    }
}

fn is_written(answer: &Result<StateAnswer, &'static str>) -> bool {
    matches!(answer, Ok(StateAnswer::Written { .. }))
}

fn hosts(world: &World, slot: &str) -> Vec<usize> {
    running(world, "one").remove(&name(slot)).unwrap_or_default().into_iter().map(|(on, _)| on).collect()
}

/// A mesh of which one machine runs the only instance of a blueprint.
fn with_one(partition: PartitionConfig, seed: u64) -> (World, usize) {
    let mut world = healthy(Config { partition, ..Config::lan(3, seed) });
    apply(&mut world, 0, blueprint("one", Instances::Count(1), "v0"));
    until_runs(&mut world, "one", 1, "v0", seconds(10));
    let on = hosts(&world, "one#0")[0];
    (world, on)
}

/// Cuts a machine off until the others run what it had; who does.
fn replaced(world: &mut World, on: usize) -> usize {
    isolate(world, on);
    let end = world.now() + seconds(20);
    let parted = |world: &World| hosts(world, "one#0").len() == 2 && mode(world, on) == Mode::Degraded;
    world.run_until(end, parted).expect("two sides run it");
    let other = hosts(world, "one#0").into_iter().find(|other| *other != on);
    other.expect("the majority has started another one")
}

#[test]
fn a_write_of_an_instance_says_which_it_was_and_by_which_order_it_ran() {
    let (mut world, on) = with_one(PartitionConfig::default(), 1);
    assert!(is_written(&write_by(&mut world, on, "one#0", "k", "a")));
    let writer = read(&mut world, on, "k").value.expect("it is there").writer;
    let slot = writer.slot.expect("an instance wrote it");
    assert_eq!((slot.name.as_str(), slot.epoch.order > 0), ("one#0", true), "{slot:?}");
    let other = (on + 1) % 3;
    assert_eq!(write_by(&mut world, other, "one#0", "k", "b"), Err("superseded"), "it does not run there");
    assert!(is_written(&write_by(&mut world, other, "by-hand", "k", "c")));
    let writer = read(&mut world, other, "k").value.expect("it is there").writer;
    assert_eq!(writer.slot, None, "who was deployed by hand fills no slot");
}

#[test]
fn what_a_replaced_instance_has_queued_is_rejected_when_the_cut_heals() {
    for seed in 0..10 {
        let (mut world, on) = with_one(PartitionConfig::default(), seed);
        assert!(is_written(&write_by(&mut world, on, "one#0", "k", "before")));
        world.run_for(seconds(1));
        let other = replaced(&mut world, on);
        let ticket = match write_by(&mut world, on, "one#0", "k", "old") {
            Ok(StateAnswer::Queued { ticket }) => ticket,
            told => panic!("{told:?}"),
        };
        let by_client = queued(&mut world, on, "of-a-client", "kept");
        world.apply(&Fault::Heal);
        let end = world.now() + seconds(30);
        world.run_until(end, all_healthy).expect("it heals");
        world.run_for(seconds(5));
        match outcome(&mut world, on, &ticket) {
            Outcome::Rejected { reason } => {
                assert!(reason.contains("one#0 was given to another"), "{reason}")
            }
            outcome @ (Outcome::Applied | Outcome::Conflicted | Outcome::Expired) => {
                panic!("seed {seed}: {outcome:?}")
            }
        }
        assert_eq!(outcome(&mut world, on, &by_client), Outcome::Applied);
        assert_eq!(get(&mut world, on, "k").as_deref(), Some("before"), "seed {seed}");
        assert!(is_written(&write_by(&mut world, other, "one#0", "k", "new")));
        assert_eq!(write_by(&mut world, on, "one#0", "k", "old"), Err("superseded"), "seed {seed}");
        assert_eq!(world.broken(), [] as [String; 0], "seed {seed}");
    }
}

#[test]
fn what_an_instance_has_queued_that_nobody_has_replaced_is_applied() {
    // The whole mesh is cut into pieces: nobody orders anything.
    let (mut world, on) = with_one(PartitionConfig::default(), 3);
    (0..3).for_each(|machine| isolate(&mut world, machine));
    let end = world.now() + seconds(10);
    world.run_until(end, |world| (0..3).all(|machine| mode(world, machine) == Mode::Degraded));
    let Ok(StateAnswer::Queued { ticket }) = write_by(&mut world, on, "one#0", "k", "kept") else {
        panic!("it is queued");
    };
    world.apply(&Fault::Heal);
    let end = world.now() + seconds(30);
    world.run_until(end, all_healthy).expect("it heals");
    world.run_for(seconds(5));
    assert_eq!(outcome(&mut world, on, &ticket), Outcome::Applied);
    let value = read(&mut world, (on + 1) % 3, "k").value.expect("it is there");
    assert_eq!(value.writer.slot.map(|slot| slot.name).as_deref(), Some("one#0"));
}

#[test]
fn what_an_instance_has_queued_that_was_only_ordered_anew_where_it_was_is_applied() {
    let mut world = healthy_mesh(3, 8);
    apply(&mut world, 0, blueprint("one", Instances::PerNode, "v0"));
    let end = world.now() + seconds(10);
    world.run_until(end, |world| running(world, "one").len() == 3).expect("one on each node");
    let on = 2;
    let all = running(&world, "one");
    let slot = all.iter().find(|(_, machines)| machines[0].0 == on).expect("it is there").0.to_string();
    isolate(&mut world, on);
    let end = world.now() + seconds(10);
    world.run_until(end, |world| mode(world, on) == Mode::Degraded).expect("it is cut off");
    let Ok(StateAnswer::Queued { ticket }) = write_by(&mut world, on, &slot, "k", "kept") else {
        panic!("it is queued");
    };
    apply(&mut world, 0, blueprint("one", Instances::PerNode, "v1"));
    world.run_for(seconds(20));
    world.apply(&Fault::Heal);
    let end = world.now() + seconds(60);
    let is_new = |world: &World| {
        let all = running(world, "one");
        all.len() == 3 && all.values().all(|on| on.len() == 1 && on[0].1 == "v1")
    };
    world.run_until(end, is_new).expect("the next version is there, also where it was ordered last");
    world.run_for(seconds(5));
    assert_eq!(outcome(&mut world, on, &ticket), Outcome::Applied, "nobody else ever had the slot");
    assert_eq!(get(&mut world, 0, "k").as_deref(), Some("kept"));
    assert_eq!(world.broken(), [] as [String; 0]);
}

#[test]
fn one_that_was_taken_for_lost_writes_nothing_while_it_ends_when_its_node_comes_back() {
    for seed in 0..10 {
        let mut world = healthy_mesh(3, seed);
        apply(&mut world, 0, blueprint("one", Instances::Count(1), "lingers"));
        until_runs(&mut world, "one", 1, "lingers", seconds(10));
        let on = hosts(&world, "one#0")[0];
        replaced(&mut world, on);
        world.apply(&Fault::Heal);
        let healed = world.now();
        let mut asked = vec![];
        while world.now() < healed + seconds(10) {
            let key = format!("late/{}", asked.len());
            asked.push(put_by(&mut world, on, "one#0", &key, "old"));
            world.run_for(Duration::from_millis(20));
        }
        world.run_for(seconds(20));
        let made = asked.into_iter().filter(|id| is_written(&told(&mut world, on, *id))).count();
        assert_eq!(made, 0, "seed {seed}: it finishes nothing, because nobody has relieved it");
        for machine in 0..3 {
            assert_eq!(
                get(&mut world, machine, "late/0"),
                None,
                "seed {seed}: and what it has queued is rejected"
            );
        }
        assert_eq!(world.broken(), [] as [String; 0], "seed {seed}");
    }
}

#[test]
fn one_whose_node_has_slept_while_another_began_writes_nothing_when_it_wakes() {
    for seed in 0..20 {
        let (mut world, on) = with_one(PartitionConfig::default(), seed);
        world.pause(on, seconds(30));
        // They were on their way to their node when the machine stood still.
        let late: Vec<_> =
            (0..5).map(|number| put_by(&mut world, on, "one#0", &format!("late/{number}"), "old")).collect();
        world.run_for(seconds(60));
        assert!(!hosts(&world, "one#0").contains(&on), "seed {seed}: another one has begun");
        for id in late {
            let answer = told(&mut world, on, id);
            assert!(!is_written(&answer), "seed {seed}: {answer:?}");
        }
        for machine in 0..3 {
            for number in 0..5 {
                assert_eq!(get(&mut world, machine, &format!("late/{number}")), None, "seed {seed}");
            }
        }
        assert_eq!(world.broken(), [] as [String; 0], "seed {seed}");
    }
}

#[test]
fn of_values_beside_each_other_that_of_the_later_instance_is_read_though_it_was_written_first() {
    let partition = PartitionConfig { strategy: Strategy::Availability, ..PartitionConfig::default() };
    for seed in 0..10 {
        let (mut world, on) = with_one(partition.clone(), seed);
        let other = replaced(&mut world, on);
        assert!(is_written(&write_by(&mut world, other, "one#0", "k", "new")));
        world.run_for(seconds(1));
        let later = write_by(&mut world, on, "one#0", "k", "old");
        assert!(matches!(later, Ok(StateAnswer::Written { marked: true, .. })), "{later:?}");
        world.apply(&Fault::Heal);
        let end = world.now() + seconds(30);
        world.run_until(end, all_healthy).expect("it heals");
        world.run_for(seconds(5));
        for machine in 0..3 {
            let value = read(&mut world, machine, "k");
            assert_eq!(value.siblings.len(), 2, "seed {seed}: nothing is thrown away");
            let read = value.value.expect("it is there").value;
            assert_eq!(read, "new", "seed {seed}: machine {machine}");
        }
        assert_eq!(world.broken(), [] as [String; 0], "seed {seed}");
    }
}

#[test]
fn an_instance_that_is_read_only_while_cut_off_has_nothing_queued_and_others_have() {
    let (mut world, on) = {
        let mut world = healthy_mesh(3, 4);
        let mut careful = blueprint("one", Instances::Count(1), "");
        careful.spec.source = AgentSource::Wasm(WasmSource::new(ModuleId::of(b"a module")));
        careful.on_cut = OnCut::ReadOnly;
        apply(&mut world, 0, careful);
        let runs =
            |world: &World, machine: usize| world.agents(machine).any(|(agent, _)| *agent == name("one#0"));
        let end = world.now() + seconds(10);
        let anywhere = |world: &World| (0..3).any(|machine| runs(world, machine));
        world.run_until(end, anywhere).expect("it runs");
        world.run_for(seconds(1));
        let on = (0..3).find(|machine| runs(&world, *machine)).expect("it runs");
        (world, on)
    };
    assert!(is_written(&write_by(&mut world, on, "one#0", "k", "a")));
    isolate(&mut world, on);
    let end = world.now() + seconds(10);
    world.run_until(end, |world| mode(world, on) == Mode::Degraded).expect("it is cut off");
    assert_eq!(write_by(&mut world, on, "one#0", "k", "b"), Err("read_only"));
    queued(&mut world, on, "of-a-client", "kept");
    assert_eq!(get(&mut world, on, "k").as_deref(), Some("a"), "it may read");
}

#[test]
fn only_a_component_may_be_read_only_while_cut_off() {
    let mut world = healthy_mesh(1, 4);
    let blueprint = Blueprint { on_cut: OnCut::ReadOnly, ..blueprint("one", Instances::Count(1), "v0") };
    let changes = shoal::core::wire::Changes { blueprints: vec![blueprint], remove: vec![] };
    let told = desired(&mut world, 0, DesiredRequest::Apply { changes, plan_id: None });
    assert!(told.is_err_and(|why| why.contains("read-only is for components")));
}

fn exclusive(count: u16) -> Blueprint {
    let mut blueprint = blueprint("one", Instances::Count(count), "v0");
    blueprint.spec.exclusive = true;
    blueprint
}

#[test]
fn an_exclusive_agent_whose_node_has_slept_beyond_its_permit_writes_nothing_when_it_wakes() {
    let mut codes = BTreeSet::new();
    for seed in 0..20 {
        let mut world = healthy_mesh(3, seed);
        apply(&mut world, 0, exclusive(1));
        until_runs(&mut world, "one", 1, "v0", seconds(10));
        let on = hosts(&world, "one#0")[0];
        assert!(is_written(&write_by(&mut world, on, "one#0", "k", "before")));
        world.run_for(seconds(1));
        world.pause(on, seconds(30));
        // It was on its way to its node when the machine stood still.
        let late = put_by(&mut world, on, "one#0", "k", "late");
        let end = world.now() + PERMIT + seconds(5);
        let elsewhere = |world: &World| hosts(world, "one#0").iter().any(|other| *other != on);
        world.run_until(end, elsewhere).expect("another one has begun");
        let other = hosts(&world, "one#0")[0];
        assert!(is_written(&write_by(&mut world, other, "one#0", "k", "new")));
        world.run_for(seconds(40));
        let refused = told(&mut world, on, late).expect_err("it has no permit any more");
        codes.insert(refused);
        for machine in 0..3 {
            assert_eq!(get(&mut world, machine, "k").as_deref(), Some("new"), "seed {seed}");
        }
        assert_eq!(world.broken(), [] as [String; 0], "seed {seed}");
    }
    assert!(codes.iter().all(|code| ["not_permitted", "superseded", "joining"].contains(code)), "{codes:?}");
    assert!(codes.contains("not_permitted"), "{codes:?}");
}

#[test]
fn an_instance_that_is_relieved_writes_until_it_ends_and_never_over_the_one_that_follows() {
    let (mut world, on) = with_one(PartitionConfig::default(), 6);
    let node = world.node(on).clone();
    planned(desired(&mut world, (on + 1) % 3, DesiredRequest::Drain { node, drained: true }));
    let end = world.now() + seconds(10);
    let mut written = 0;
    while hosts(&world, "one#0").contains(&on) && world.now() < end {
        let answer = write_by(&mut world, on, "one#0", "log", &format!("old {written}"));
        assert!(is_written(&answer) || !hosts(&world, "one#0").contains(&on), "{answer:?}");
        written += u32::from(is_written(&answer));
    }
    assert!(written > 0);
    let other = hosts(&world, "one#0")[0];
    assert!(other != on && is_written(&write_by(&mut world, other, "one#0", "log", "new")));
    world.run_for(seconds(2));
    assert_eq!(write_by(&mut world, on, "one#0", "log", "old"), Err("superseded"));
    assert_eq!(get(&mut world, on, "log").as_deref(), Some("new"));
    assert_eq!(world.broken(), [] as [String; 0]);
}

#[test]
fn in_any_storm_no_write_of_an_exclusive_agent_counts_that_another_has_replaced() {
    let mut effects = 0;
    for seed in super::storms::seeds(10) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let nodes = rng.random_range(3..=5);
        let mut world = healthy_mesh(nodes, seed);
        let mut paused_until = vec![world.now(); nodes];
        apply(&mut world, 0, exclusive(3));
        let slots: Vec<AgentName> = (0..3).map(|number| name("one").of_slot(number)).collect();
        for step in 0..150 {
            let machine = rng.random_range(0..nodes);
            let is_up = world.shared_view(machine).is_some() && paused_until[machine] < world.now();
            match rng.random_range(0..40) {
                0 if is_up => world.crash(machine),
                1 if world.shared_view(machine).is_none() => world.start(machine),
                2 => isolate(&mut world, machine),
                3 | 4 => world.apply(&Fault::Heal),
                5 if is_up => {
                    let span = Duration::from_millis(rng.random_range(200..20_000));
                    paused_until[machine] = world.now() + span;
                    world.pause(machine, span);
                }
                6 if is_up => {
                    let request =
                        DesiredRequest::Drain { node: world.node(machine).clone(), drained: step % 2 == 0 };
                    let _ = desired(&mut world, machine, request);
                }
                _ => {}
            }
            // Each instance, and each that was one, goes on writing.
            for slot in &slots {
                let up = |machine: &usize| world.shared_view(*machine).is_some();
                for machine in (0..nodes).filter(up).collect::<Vec<_>>() {
                    put_by(&mut world, machine, slot.as_str(), slot.as_str(), &format!("{machine} {step}"));
                }
            }
            world.run_for(Duration::from_millis(rng.random_range(10..1_000)));
            assert_eq!(world.broken(), [] as [String; 0], "seed {seed}");
        }
        world.apply(&Fault::Heal);
        for machine in 0..nodes {
            if world.shared_view(machine).is_none() {
                world.start(machine);
            }
        }
        world.run_for(seconds(40));
        for machine in 0..nodes {
            let node = world.node(machine).clone();
            planned(desired(&mut world, machine, DesiredRequest::Drain { node, drained: false }));
        }
        let end = world.now() + seconds(120);
        let once = |world: &World| running(world, "one").values().filter(|on| on.len() == 1).count() == 3;
        assert!(world.run_until(end, once).is_some(), "seed {seed}: {:?}", running(&world, "one"));
        world.run_for(seconds(5));
        for slot in &slots {
            let on = hosts(&world, slot.as_str())[0];
            let last = write_by(&mut world, on, slot.as_str(), slot.as_str(), "last");
            assert!(is_written(&last), "seed {seed}: {slot}: {last:?}");
            world.run_for(seconds(2));
            for machine in 0..nodes {
                let read = get(&mut world, machine, slot.as_str());
                assert_eq!(read.as_deref(), Some("last"), "seed {seed}: {slot} on {machine}");
            }
        }
        assert_eq!(world.broken(), [] as [String; 0], "seed {seed}");
        effects += world.report().effects;
    }
    println!("{effects} writes of exclusive agents were accepted");
}
