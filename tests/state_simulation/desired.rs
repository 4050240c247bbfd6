//! Desired state: what is ordered runs, once, wherever nodes fail, are cut off and come back.

use std::collections::BTreeMap;

use shoal::core::ids::AgentName;
use shoal::core::model::{
    AgentSource, AgentSpec, Blueprint, Instances, OnCut, Placement, PlacementStrategy, ProcessProtocol,
    Update,
};
use shoal::core::wire::{BlueprintDetail, BlueprintStatus, Changes, DesiredAnswer, DesiredRequest, Planned};

use super::*;

pub(super) fn name(text: &str) -> AgentName {
    AgentName::new(text).expect("a valid name")
}

/// A blueprint of processes that run this command.
pub(super) fn blueprint(text: &str, instances: Instances, command: &str) -> Blueprint {
    let source =
        AgentSource::Process { protocol: ProcessProtocol::Stdio, command: command.to_owned(), args: vec![] };
    Blueprint {
        spec: AgentSpec::new(name(text), source),
        instances,
        placement: Placement { strategy: PlacementStrategy::Spread, ..Placement::default() },
        update: Update::default(),
        on_cut: OnCut::default(),
    }
}

pub(super) fn desired(
    world: &mut World,
    machine: usize,
    request: DesiredRequest,
) -> Result<DesiredAnswer, String> {
    let node = world.node(machine).clone();
    let id = world.request(machine, &node, RequestBody::Desired(request));
    let end = world.now() + seconds(20);
    world.run_until(end, |world| world.report().replies.contains_key(&(machine, id)));
    match &world.report().replies.get(&(machine, id)).expect("it is answered").1 {
        Ok(ResponseBody::Desired(answer)) => Ok(answer.clone()),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal.to_string()),
    }
}

pub(super) fn planned(answer: Result<DesiredAnswer, String>) -> Planned {
    match answer {
        Ok(DesiredAnswer::Planned(planned)) => *planned,
        other => panic!("{other:?}"),
    }
}

pub(super) fn apply(world: &mut World, machine: usize, blueprint: Blueprint) -> Planned {
    let changes = Changes { blueprints: vec![blueprint], remove: vec![] };
    planned(desired(world, machine, DesiredRequest::Apply { changes, plan_id: None }))
}

pub(super) fn scale(world: &mut World, machine: usize, text: &str, count: u16) {
    let instances = Instances::Count(count);
    planned(desired(world, machine, DesiredRequest::Scale { name: name(text), instances }));
}

pub(super) fn detail(world: &mut World, machine: usize, text: &str) -> BlueprintDetail {
    match desired(world, machine, DesiredRequest::Blueprint { name: name(text) }) {
        Ok(DesiredAnswer::Blueprint(detail)) => *detail,
        other => panic!("{other:?}"),
    }
}

pub(super) fn stands(world: &mut World, machine: usize, text: &str) -> BlueprintStatus {
    detail(world, machine, text).status
}

/// Which machines run each slot of a blueprint, and what.
pub(super) fn running(world: &World, text: &str) -> BTreeMap<AgentName, Vec<(usize, String)>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for machine in 0..world.len() {
        for (agent, spec) in world.agents(machine).filter(|(agent, _)| agent.base() == name(text)) {
            let AgentSource::Process { command, .. } = &spec.source else {
                panic!("these are processes: {spec:?}");
            };
            found.entry(agent.clone()).or_default().push((machine, command.clone()));
        }
    }
    found
}

/// Whether each of so many slots runs once, as this command.
pub(super) fn runs_once(world: &World, text: &str, count: u16, command: &str) -> bool {
    let running = running(world, text);
    running.len() == usize::from(count)
        && running.values().all(|on| on.len() == 1 && on[0].1 == command)
        && (0..count).all(|number| running.contains_key(&name(text).of_slot(number)))
}

/// Waits until each of so many slots runs once, and says how long that took.
pub(super) fn until_runs(
    world: &mut World,
    text: &str,
    count: u16,
    command: &str,
    within: Duration,
) -> Duration {
    let begun = world.now();
    let done = world.run_until(begun + within, |world| runs_once(world, text, count, command));
    assert_eq!(world.broken(), [] as [String; 0]);
    match done {
        Some(at) => at.since(begun),
        None => panic!("{text} does not run {count} times as {command}: {:?}", running(world, text)),
    }
}

/// Cuts a machine off from all others.
pub(super) fn isolate(world: &mut World, machine: usize) {
    let others: Vec<_> = (0..world.len()).filter(|other| *other != machine).collect();
    world.cut(&[machine], &others);
}

pub(super) fn holder(world: &mut World) -> usize {
    let asked = (0..world.len()).find(|machine| world.shared_view(*machine).is_some()).expect("one runs");
    let leader = status(world, asked).lease_holder.expect("somebody holds the lease");
    (0..world.len()).find(|machine| *world.node(*machine) == leader).expect("it is one of them")
}

pub(super) const WEB: Instances = Instances::Count(6);

#[test]
fn what_is_applied_on_any_node_runs_once_and_as_evenly_as_can_be() {
    for nodes in [1, 3, 5] {
        let mut world = healthy_mesh(nodes, 41);
        let told = apply(&mut world, nodes - 1, blueprint("web", WEB, "first"));
        assert_eq!(told.steps, 6);
        until_runs(&mut world, "web", 6, "first", seconds(2));
        let per_node = (0..nodes).map(|machine| world.agents(machine).count());
        let (least, most) = (per_node.clone().min(), per_node.max());
        assert!(
            most.zip(least).is_some_and(|(most, least)| most - least <= 1),
            "{:?}",
            running(&world, "web")
        );
        world.run_for(seconds(1));
        let status = stands(&mut world, 0, "web");
        assert_eq!((status.placed, status.running, status.updated), (6, 6, 6));
        world.run_for(seconds(120));
        assert!(runs_once(&world, "web", 6, "first"), "nothing moves for no reason");
    }
}

#[test]
fn what_a_lost_node_had_runs_elsewhere_and_comes_back_to_nobody_twice() {
    for seed in 1..=4 {
        let mut world = healthy_mesh(3, seed);
        apply(&mut world, 0, blueprint("web", WEB, "first"));
        until_runs(&mut world, "web", 6, "first", seconds(2));
        let holds = holder(&mut world);
        // As often the holder of the lease as not.
        let lost = if seed % 2 == 0 { holds } else { (holds + 1) % 3 };
        world.crash(lost);
        let took = until_runs(&mut world, "web", 6, "first", seconds(8));
        println!("lost {}: {took:?}", if lost == holds { "the holder" } else { "another" });
        world.start(lost);
        world.run_for(seconds(30));
        assert!(runs_once(&world, "web", 6, "first"), "{:?}", running(&world, "web"));
    }
}

#[test]
fn a_mesh_that_stops_as_a_whole_starts_again_where_everything_was() {
    let mut world = healthy_mesh(3, 12);
    apply(&mut world, 0, blueprint("web", WEB, "first"));
    until_runs(&mut world, "web", 6, "first", seconds(2));
    let before = running(&world, "web");
    (0..3).for_each(|machine| world.crash(machine));
    world.run_for(seconds(5));
    for machine in 0..3 {
        world.start(machine);
        world.run_for(seconds(1));
    }
    until_runs(&mut world, "web", 6, "first", seconds(30));
    assert_eq!(running(&world, "web"), before);
}

#[test]
fn while_the_mesh_is_cut_a_minority_does_what_the_blueprint_says_and_afterwards_each_runs_once() {
    for on_cut in [OnCut::Continue, OnCut::Stop] {
        let mut world = healthy_mesh(3, 21);
        apply(&mut world, 0, Blueprint { on_cut, ..blueprint("web", WEB, "first") });
        until_runs(&mut world, "web", 6, "first", seconds(2));
        isolate(&mut world, 0);
        world.run_for(seconds(10));
        let on_majority: usize = (1..3).map(|machine| world.agents(machine).count()).sum();
        assert_eq!(on_majority, 6, "the majority runs all of it: {:?}", running(&world, "web"));
        let on_minority = world.agents(0).count();
        assert_eq!(on_minority, if on_cut == OnCut::Continue { 2 } else { 0 });
        let refused = desired(&mut world, 0, DesiredRequest::Scale { name: name("web"), instances: WEB });
        assert!(refused.expect_err("it is among a minority").contains("not among a majority"));
        world.apply(&Fault::Heal);
        until_runs(&mut world, "web", 6, "first", seconds(20));
        world.run_for(seconds(40));
        assert!(runs_once(&world, "web", 6, "first"), "{:?}", running(&world, "web"));
    }
}

#[test]
fn a_blueprint_is_scaled_and_removed_from_any_node() {
    let mut world = healthy_mesh(3, 22);
    apply(&mut world, 0, blueprint("web", WEB, "first"));
    until_runs(&mut world, "web", 6, "first", seconds(2));
    let before = running(&world, "web");
    scale(&mut world, 1, "web", 9);
    until_runs(&mut world, "web", 9, "first", seconds(2));
    scale(&mut world, 2, "web", 2);
    until_runs(&mut world, "web", 2, "first", seconds(2));
    let left = running(&world, "web");
    assert!(left.iter().all(|(slot, on)| before[slot] == *on), "who stays, stays where it is");
    let changes = Changes { blueprints: vec![], remove: vec![name("web")] };
    planned(desired(&mut world, 1, DesiredRequest::Apply { changes, plan_id: None }));
    until_runs(&mut world, "web", 0, "first", seconds(2));
    world.run_for(seconds(60));
    assert!(running(&world, "web").is_empty());
}

#[test]
fn an_update_takes_one_after_the_other_and_waits_until_each_is_steady() {
    let mut world = healthy_mesh(3, 23);
    apply(&mut world, 0, blueprint("web", WEB, "first"));
    until_runs(&mut world, "web", 6, "first", seconds(2));
    world.run_for(seconds(3));
    apply(&mut world, 0, blueprint("web", WEB, "second"));
    let begun = world.now();
    loop {
        world.run_for(Duration::from_millis(50));
        let all = running(&world, "web");
        let serving = all.values().filter(|on| !on.is_empty()).count();
        assert!(serving >= 5, "at most one is missing at a time: {all:?}");
        if runs_once(&world, "web", 6, "second") {
            break;
        }
        assert!(world.now().since(begun) < seconds(30), "{all:?}");
    }
    assert!(world.now().since(begun) > seconds(5), "each has to be steady for a second");
    assert_eq!(stands(&mut world, 2, "web").version, 2);
}

#[test]
fn a_version_that_fails_is_taken_back_by_itself_and_one_that_was_good_is_not() {
    let mut world = healthy_mesh(3, 24);
    apply(&mut world, 0, blueprint("web", WEB, "first"));
    until_runs(&mut world, "web", 6, "first", seconds(2));
    world.run_for(seconds(3));
    apply(&mut world, 1, blueprint("web", WEB, "ends"));
    world.run_for(seconds(3));
    until_runs(&mut world, "web", 6, "first", seconds(10));
    let found = detail(&mut world, 2, "web");
    assert_eq!(found.status.version, 3);
    assert!(found.status.why.contains("back to version 1: version 2 failed"), "{}", found.status.why);
    world.run_for(seconds(60));
    assert_eq!(stands(&mut world, 2, "web").version, 3, "it stays with that");
}

#[test]
fn a_version_that_was_good_stays_when_an_instance_stumbles_after_a_change_of_numbers() {
    let mut world = healthy_mesh(3, 32);
    for command in ["first", "second"] {
        apply(&mut world, 0, blueprint("web", WEB, command));
        until_runs(&mut world, "web", 6, command, seconds(30));
        world.run_for(seconds(3));
    }
    scale(&mut world, 0, "web", 8);
    let slot = name("web#0");
    let machine = running(&world, "web")[&slot][0].0;
    let node = world.node(machine).clone();
    world.request(machine, &node, RequestBody::RestartAgent { agent: slot, release: false });
    until_runs(&mut world, "web", 8, "second", seconds(5));
    world.run_for(seconds(60));
    let status = stands(&mut world, 0, "web");
    assert_eq!((status.version, status.updated), (3, 8), "{status:?}");
    // What the operator takes back is the change of numbers.
    planned(desired(&mut world, 0, DesiredRequest::RollBack { name: name("web"), version: None }));
    until_runs(&mut world, "web", 6, "second", seconds(10));
}

#[test]
fn what_one_of_several_clients_at_once_was_told_is_stored_holds() {
    let mut world = healthy_mesh(3, 33);
    apply(&mut world, 0, blueprint("web", WEB, "first"));
    until_runs(&mut world, "web", 6, "first", seconds(2));
    let machine = holder(&mut world);
    let node = world.node(machine).clone();
    let counts = [7, 8, 9, 5];
    let ask = |count| {
        RequestBody::Desired(DesiredRequest::Scale { name: name("web"), instances: Instances::Count(count) })
    };
    let asked: Vec<_> = counts.map(|count| world.request(machine, &node, ask(count))).into();
    world.run_for(seconds(5));
    for id in asked {
        assert!(world.report().replies[&(machine, id)].1.is_ok());
    }
    let found = detail(&mut world, machine, "web");
    let told: Vec<_> = found.record.former.iter().rev().map(|version| version.blueprint.instances).collect();
    assert_eq!(told, [6, 7, 8, 9].map(Instances::Count), "each came after the one before");
    assert_eq!(found.status.instances, Instances::Count(5));
    until_runs(&mut world, "web", 5, "first", seconds(5));
}

#[test]
fn the_plan_of_an_update_is_applied_on_a_node_that_gives_no_orders() {
    let mut world = healthy_mesh(3, 34);
    apply(&mut world, 0, blueprint("web", WEB, "first"));
    until_runs(&mut world, "web", 6, "first", seconds(2));
    world.run_for(seconds(3));
    let other = (holder(&mut world) + 1) % 3;
    let changes = Changes { blueprints: vec![blueprint("web", WEB, "second")], remove: vec![] };
    let plan = planned(desired(&mut world, other, DesiredRequest::Plan(changes.clone())));
    assert_eq!(plan.steps, 6, "all of it is told");
    planned(desired(&mut world, other, DesiredRequest::Apply { changes, plan_id: Some(plan.id) }));
    until_runs(&mut world, "web", 6, "second", seconds(30));
}

#[test]
fn a_former_version_comes_back_when_somebody_wants_it() {
    let mut world = healthy_mesh(3, 25);
    for command in ["first", "second", "third"] {
        apply(&mut world, 0, blueprint("web", WEB, command));
        until_runs(&mut world, "web", 6, command, seconds(30));
        world.run_for(seconds(3));
    }
    planned(desired(&mut world, 1, DesiredRequest::RollBack { name: name("web"), version: None }));
    until_runs(&mut world, "web", 6, "second", seconds(10));
    planned(desired(&mut world, 1, DesiredRequest::RollBack { name: name("web"), version: Some(1) }));
    until_runs(&mut world, "web", 6, "first", seconds(10));
    let refused = desired(&mut world, 1, DesiredRequest::RollBack { name: name("web"), version: Some(77) });
    assert!(refused.expect_err("there is none").contains("version 77 of web is not kept"));
}

#[test]
fn an_update_that_is_paused_goes_no_further_until_somebody_says_so() {
    let mut world = healthy_mesh(3, 26);
    apply(&mut world, 0, blueprint("web", WEB, "first"));
    until_runs(&mut world, "web", 6, "first", seconds(2));
    world.run_for(seconds(3));
    apply(&mut world, 0, blueprint("web", WEB, "second"));
    world.run_for(Duration::from_millis(2_500));
    planned(desired(&mut world, 0, DesiredRequest::Pause { name: name("web"), paused: true }));
    world.run_for(seconds(5));
    let updated = stands(&mut world, 0, "web").updated;
    assert!((1..6).contains(&updated), "{updated}");
    world.run_for(seconds(60));
    assert_eq!(stands(&mut world, 0, "web").updated, updated);
    planned(desired(&mut world, 2, DesiredRequest::Pause { name: name("web"), paused: false }));
    until_runs(&mut world, "web", 6, "second", seconds(30));
}

#[test]
fn a_drained_node_gives_up_what_it_has_when_others_have_begun() {
    let mut world = healthy_mesh(3, 27);
    apply(&mut world, 0, blueprint("web", WEB, "first"));
    until_runs(&mut world, "web", 6, "first", seconds(2));
    let node = world.node(1).clone();
    planned(desired(&mut world, 0, DesiredRequest::Drain { node: node.clone(), drained: true }));
    let begun = world.now();
    while world.agents(1).count() > 0 || !runs_once(&world, "web", 6, "first") {
        world.run_for(Duration::from_millis(5));
        let all = running(&world, "web");
        assert_eq!(all.len(), 6, "each runs somewhere at any time: {all:?}");
        assert!(world.now().since(begun) < seconds(5), "{all:?}");
    }
    scale(&mut world, 0, "web", 9);
    until_runs(&mut world, "web", 9, "first", seconds(2));
    assert_eq!(world.agents(1).count(), 0, "it is given nothing");
    planned(desired(&mut world, 0, DesiredRequest::Drain { node, drained: false }));
    world.run_for(seconds(5));
    assert_eq!(world.agents(1).count(), 0, "nothing moves without need");
    let moves = DesiredRequest::Rebalance { moves_max: 2, dry_run: false };
    let told = planned(desired(&mut world, 0, moves));
    assert_eq!(told.steps, 2, "no more than the budget");
    until_runs(&mut world, "web", 9, "first", seconds(5));
    assert_eq!(world.agents(1).count(), 2);
}

#[test]
fn the_mark_of_a_drained_node_goes_with_the_node_and_not_with_its_machine() {
    for leaves in [true, false] {
        let mut world = healthy_mesh(4, 86);
        let drained = (holder(&mut world) + 1) % 4;
        let asked = (drained + 1) % 4;
        let node = world.node(drained).clone();
        let key = format!("_mesh/drained/{node}");
        let request = DesiredRequest::Drain { node: node.clone(), drained: true };
        planned(desired(&mut world, asked, request));
        world.run_for(seconds(1));
        assert_eq!(get(&mut world, asked, &key).as_deref(), Some("drained"));
        world.crash(drained);
        world.run_for(seconds(60));
        assert_eq!(get(&mut world, asked, &key).as_deref(), Some("drained"), "it may come back");
        if leaves {
            world.start(drained);
            world.run_for(seconds(20));
            assert_eq!(get(&mut world, asked, &key).as_deref(), Some("drained"), "it has come back");
            world.request(asked, &node, RequestBody::Leave { drain_ms: 5_000, force: false });
        } else {
            let evicted = answer(&mut world, asked, StateRequest::Evict { node: node.clone() });
            assert!(evicted.is_ok(), "{evicted:?}");
        }
        world.run_for(seconds(60));
        for machine in (0..4).filter(|machine| *machine != drained) {
            assert_eq!(get(&mut world, machine, &key), None, "nobody of that name is a member");
        }
        assert_eq!(world.broken(), [] as [String; 0]);
    }
}

#[test]
fn one_on_each_node_comes_with_a_node_and_goes_with_it() {
    let mut world = healthy_mesh(3, 28);
    apply(&mut world, 0, blueprint("log", Instances::PerNode, "first"));
    until_runs(&mut world, "log", 3, "first", seconds(2));
    let each = |world: &World| (0..3).all(|machine| world.agents(machine).count() == 1);
    assert!(each(&world));
    world.crash(2);
    world.run_for(seconds(20));
    assert_eq!((0..2).map(|machine| world.agents(machine).count()).sum::<usize>(), 2, "nobody runs two");
    world.start(2);
    until_runs(&mut world, "log", 3, "first", seconds(20));
    assert!(each(&world));
}

#[test]
fn a_plan_is_applied_only_while_it_is_still_that_plan() {
    let mut world = healthy_mesh(3, 29);
    let changes = Changes { blueprints: vec![blueprint("web", WEB, "first")], remove: vec![] };
    let plan = planned(desired(&mut world, 0, DesiredRequest::Plan(changes.clone())));
    assert_eq!((plan.steps, plan.blueprints[0].from, plan.blueprints[0].to), (6, None, Some(1)));
    world.run_for(seconds(5));
    assert!(running(&world, "web").is_empty(), "a plan does nothing");
    apply(&mut world, 1, blueprint("other", Instances::Count(1), "first"));
    until_runs(&mut world, "other", 1, "first", seconds(2));
    let stale = DesiredRequest::Apply { changes: changes.clone(), plan_id: Some("000000000000".to_owned()) };
    let refused = desired(&mut world, 0, stale).expect_err("it was never made");
    assert!(refused.contains("the mesh has moved on since plan 000000000000"), "{refused}");
    let plan = planned(desired(&mut world, 0, DesiredRequest::Plan(changes.clone())));
    planned(desired(
        &mut world,
        0,
        DesiredRequest::Apply { changes: changes.clone(), plan_id: Some(plan.id) },
    ));
    until_runs(&mut world, "web", 6, "first", seconds(2));
    let again = planned(desired(&mut world, 0, DesiredRequest::Plan(changes)));
    assert_eq!((again.steps, again.blueprints.len()), (0, 0), "nothing is to be done: {again:?}");
}

#[test]
fn names_are_either_those_of_blueprints_or_of_agents_deployed_by_hand() {
    let mut world = healthy_mesh(1, 30);
    let node = world.node(0).clone();
    let deploy = |world: &mut World, text: &str| {
        let spec = AgentSpec { name: name(text), ..blueprint("x", WEB, "first").spec };
        let id = world.request(0, &node, RequestBody::Deploy { spec });
        world.run_for(seconds(2));
        world.report().replies[&(0, id)].1.clone().map_err(|refusal| refusal.to_string())
    };
    deploy(&mut world, "hand").expect("it runs");
    let changes = Changes { blueprints: vec![blueprint("hand", WEB, "first")], remove: vec![] };
    let refused = desired(&mut world, 0, DesiredRequest::Apply { changes, plan_id: None });
    assert!(refused.expect_err("the name is taken").contains("an agent hand that is of no blueprint"));
    apply(&mut world, 0, blueprint("web", WEB, "first"));
    until_runs(&mut world, "web", 6, "first", seconds(2));
    assert!(deploy(&mut world, "web").expect_err("a blueprint").contains("there is a blueprint web"));
    assert!(deploy(&mut world, "web#1").expect_err("a slot").contains("an instance of a blueprint"));
    let id = world.request(0, &node, RequestBody::StopAgent { agent: name("web#1") });
    world.run_for(seconds(1));
    let refused = world.report().replies[&(0, id)].1.clone().expect_err("it would be started again");
    assert!(refused.to_string().contains("shoal agent scale web N"), "{refused}");
}

/// Blueprints change while nodes fail, are cut off and come back; afterwards all is as it should be.
#[test]
fn after_any_storm_each_slot_runs_once_as_the_last_version_says() {
    use rand::{RngExt, SeedableRng};
    for seed in super::storms::seeds(6) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let nodes = rng.random_range(3..=5);
        let mut world = healthy_mesh(nodes, seed);
        let (mut count, mut version) = (4, 0);
        apply(&mut world, 0, blueprint("web", Instances::Count(count), "v0"));
        for _ in 0..20 {
            let machine = rng.random_range(0..nodes);
            let is_up = world.shared_view(machine).is_some();
            match rng.random_range(0..6) {
                0 if is_up => world.crash(machine),
                1 if !is_up => world.start(machine),
                2 => isolate(&mut world, machine),
                3 => world.apply(&Fault::Heal),
                4 if is_up => {
                    let wanted = rng.random_range(1..=8);
                    let instances = Instances::Count(wanted);
                    let request = DesiredRequest::Scale { name: name("web"), instances };
                    if desired(&mut world, machine, request).is_ok() {
                        count = wanted;
                    }
                }
                5 if is_up => {
                    let instances = Instances::Count(count);
                    let next = blueprint("web", instances, &format!("v{}", version + 1));
                    let changes = Changes { blueprints: vec![next], remove: vec![] };
                    if desired(&mut world, machine, DesiredRequest::Apply { changes, plan_id: None }).is_ok()
                    {
                        version += 1;
                    }
                }
                _ => {}
            }
            world.run_for(Duration::from_millis(rng.random_range(10..6_000)));
        }
        world.apply(&Fault::Heal);
        (0..nodes)
            .filter(|m| world.shared_view(*m).is_none())
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|m| world.start(m));
        let at_rest = |world: &World| {
            let all = running(world, "web");
            let commands: std::collections::BTreeSet<_> =
                all.values().flatten().map(|(_, c)| c.clone()).collect();
            commands.len() == 1 && runs_once(world, "web", all.len() as u16, commands.first().expect("one"))
        };
        let end = world.now() + seconds(180);
        world.run_for(seconds(60));
        assert!(world.run_until(end, at_rest).is_some(), "seed {seed}: {:?}", running(&world, "web"));
        world.run_for(seconds(35));
        let status = stands(&mut world, 0, "web");
        assert!(at_rest(&world), "seed {seed}: {:?}", running(&world, "web"));
        assert_eq!(status.instances, Instances::Count(running(&world, "web").len() as u16), "seed {seed}");
        assert_eq!(status.updated, status.placed, "seed {seed}: {status:?}");
        assert_eq!(world.broken(), [] as [String; 0], "seed {seed}");
    }
}
