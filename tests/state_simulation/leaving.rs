//! Who leaves hands over what it runs by order first: each instance runs elsewhere before it ends here.

use shoal::core::model::{Blueprint, Instances, Mode, Placement, Update};
use shoal::core::wire::DesiredRequest;

use super::desired::{holder, *};
use super::*;

/// Tells a machine's node to leave, from another one. The number under which that is answered.
fn tell_to_leave(world: &mut World, machine: usize, drain_ms: u64) -> (usize, RequestId) {
    let (node, asked) = (world.node(machine).clone(), (machine + 1) % world.len());
    (asked, world.request(asked, &node, RequestBody::Leave { drain_ms, force: false }))
}

fn answered(world: &World, asked: (usize, RequestId)) -> Option<Result<ResponseBody, String>> {
    let (_, answer) = world.report().replies.get(&asked)?;
    Some(answer.clone().map_err(|refusal| refusal.to_string()))
}

#[test]
fn what_a_node_has_runs_elsewhere_before_it_leaves_whether_it_gives_the_orders_or_not() {
    for (seed, of_holder) in [(61, true), (62, false)] {
        let mut world = healthy_mesh(4, seed);
        apply(&mut world, 0, blueprint("web", Instances::Count(8), "first"));
        until_runs(&mut world, "web", 8, "first", seconds(2));
        world.run_for(seconds(3));
        let holds = holder(&mut world);
        let leaver = if of_holder { holds } else { (holds + 1) % 4 };
        assert!(world.agents(leaver).count() > 0);
        let asked = tell_to_leave(&mut world, leaver, 30_000);
        let begun = world.now();
        while answered(&world, asked).is_none() {
            world.run_for(Duration::from_millis(5));
            let all = running(&world, "web");
            assert_eq!(all.len(), 8, "each runs somewhere at any time: {all:?}");
            assert!(world.now().since(begun) < seconds(20), "{all:?}");
        }
        assert_eq!(answered(&world, asked), Some(Ok(ResponseBody::Done)));
        until_runs(&mut world, "web", 8, "first", seconds(5));
        assert_eq!(world.broken(), [] as [String; 0]);
    }
}

#[test]
fn a_node_whose_instances_can_go_nowhere_leaves_when_the_time_is_over_and_says_so() {
    let mut world = healthy_mesh(4, 63);
    let leaver = (holder(&mut world) + 1) % 4;
    let require = [("node".to_owned(), world.node(leaver).to_string())].into();
    let placement = Placement { require, ..Placement::default() };
    apply(&mut world, 0, Blueprint { placement, ..blueprint("web", Instances::Count(2), "first") });
    until_runs(&mut world, "web", 2, "first", seconds(2));
    let asked = tell_to_leave(&mut world, leaver, 8_000);
    world.run_for(seconds(7));
    assert_eq!(answered(&world, asked), None);
    assert_eq!(world.agents(leaver).count(), 2, "they run until the time is over");
    world.run_for(seconds(20));
    let left_behind = vec![name("web#0"), name("web#1")];
    let told = ResponseBody::Left { left_behind, left_behind_total: 2 };
    assert_eq!(answered(&world, asked), Some(Ok(told)));
}

/// A mesh of four nodes that are full, and one of them that has two instances, which can go nowhere.
fn full_mesh(seed: u64) -> (World, usize) {
    let mut world = World::new(Config::lan(4, seed));
    (0..4).for_each(|machine| world.set_labels(machine, &[("capacity", "2")]));
    world.start_all();
    let end = world.now() + seconds(60);
    world.run_until(end, all_healthy).expect("they are healthy");
    apply(&mut world, 0, blueprint("web", Instances::Count(4), "first"));
    until_runs(&mut world, "web", 4, "first", seconds(2));
    apply(&mut world, 0, blueprint("other", Instances::Count(4), "first"));
    until_runs(&mut world, "other", 4, "first", seconds(2));
    world.run_for(seconds(3));
    let leaver = (holder(&mut world) + 1) % 4;
    (world, leaver)
}

/// Cuts a machine off until its node has noticed, and for a second more.
fn blinks(world: &mut World, machine: usize) {
    isolate(world, machine);
    let end = world.now() + seconds(10);
    world.run_until(end, |world| mode(world, machine) == Mode::Degraded).expect("it notices");
    world.run_for(seconds(1));
    world.apply(&Fault::Heal);
}

#[test]
fn a_node_that_is_without_a_majority_for_a_moment_still_waits_until_what_it_has_has_gone() {
    for (seed, is_cut_before) in [(69, false), (70, true)] {
        let (mut world, leaver) = full_mesh(seed);
        let node = world.node(leaver).clone();
        let leave = RequestBody::Leave { drain_ms: 60_000, force: false };
        let asked = match is_cut_before {
            true => {
                isolate(&mut world, leaver);
                let end = world.now() + seconds(10);
                world.run_until(end, |world| mode(world, leaver) == Mode::Degraded).expect("it notices");
                let asked = (leaver, world.request(leaver, &node, leave));
                world.run_for(seconds(1));
                world.apply(&Fault::Heal);
                asked
            }
            false => {
                let asked = (leaver, world.request(leaver, &node, leave));
                world.run_for(seconds(1));
                blinks(&mut world, leaver);
                asked
            }
        };
        world.run_for(seconds(10));
        assert_eq!(answered(&world, asked), None, "it waits: there is no room elsewhere yet");
        assert_eq!(world.agents(leaver).count(), 2);
        scale(&mut world, (leaver + 1) % 4, "other", 0);
        let end = world.now() + seconds(40);
        world.run_until(end, |world| answered(world, asked).is_some()).expect("it leaves");
        assert_eq!(answered(&world, asked), Some(Ok(ResponseBody::Done)), "nothing was left behind");
        until_runs(&mut world, "web", 4, "first", seconds(5));
        assert_eq!(world.broken(), [] as [String; 0]);
    }
}

#[test]
fn a_node_that_stays_without_a_majority_does_not_wait_for_others_to_take_what_it_has() {
    let (mut world, leaver) = full_mesh(85);
    let node = world.node(leaver).clone();
    isolate(&mut world, leaver);
    let leave = RequestBody::Leave { drain_ms: 60_000, force: false };
    let asked = (leaver, world.request(leaver, &node, leave));
    world.run_for(seconds(45));
    let refused = answered(&world, asked).expect("it is answered").expect_err("nobody can let it go");
    assert!(refused.contains("it stays in the mesh"), "{refused}");
    assert_eq!(world.broken(), [] as [String; 0]);
}

#[test]
fn one_that_leaves_is_given_nothing_meanwhile_and_ends_what_each_node_has() {
    let mut world = healthy_mesh(4, 64);
    let leaver = (holder(&mut world) + 2) % 4;
    apply(&mut world, 0, blueprint("log", Instances::PerNode, "first"));
    let require = [("node".to_owned(), world.node(leaver).to_string())].into();
    let placement = Placement { require, ..Placement::default() };
    apply(&mut world, 0, Blueprint { placement, ..blueprint("web", Instances::Count(1), "first") });
    until_runs(&mut world, "log", 4, "first", seconds(2));
    let asked = tell_to_leave(&mut world, leaver, 10_000);
    world.run_for(seconds(3));
    let scaled = DesiredRequest::Scale { name: name("web"), instances: Instances::Count(3) };
    planned(desired(&mut world, (leaver + 1) % 4, scaled));
    world.run_for(seconds(3));
    let here: Vec<_> = world.agents(leaver).map(|(agent, _)| agent.to_string()).collect();
    assert_eq!(here, ["web#0"], "log has ended here, and nothing began");
    world.run_for(seconds(20));
    assert!(answered(&world, asked).is_some());
    let others = running(&world, "log");
    assert!(others.len() == 3 && others.values().all(|on| on.len() == 1), "{others:?}");
}

#[test]
fn one_that_stays_after_all_takes_instances_again() {
    let mut world = healthy_mesh(2, 65);
    apply(&mut world, 0, blueprint("web", Instances::Count(4), "first"));
    until_runs(&mut world, "web", 4, "first", seconds(2));
    world.run_for(seconds(3));
    let leaver = (holder(&mut world) + 1) % 2;
    tell_to_leave(&mut world, leaver, 30_000);
    world.run_until(world.now() + seconds(3), |world| world.agents(leaver).count() == 0);
    // What the others have to confirm does not reach it: it stays.
    isolate(&mut world, leaver);
    world.run_for(seconds(60));
    world.apply(&Fault::Heal);
    world.run_for(seconds(20));
    scale(&mut world, 1 - leaver, "web", 8);
    until_runs(&mut world, "web", 8, "first", seconds(5));
    assert!(world.agents(leaver).count() > 0, "{:?}", running(&world, "web"));
}

#[test]
fn a_node_that_comes_is_given_its_part_by_blueprints_that_want_it_some_at_a_time() {
    let mut world = healthy_mesh(3, 66);
    let placement = Placement { rebalance: 1, ..Placement::default() };
    apply(&mut world, 0, Blueprint { placement, ..blueprint("web", Instances::Count(6), "first") });
    apply(&mut world, 0, blueprint("plain", Instances::Count(6), "first"));
    until_runs(&mut world, "web", 6, "first", seconds(2));
    until_runs(&mut world, "plain", 6, "first", seconds(2));
    let machine = (holder(&mut world) + 1) % 3;
    world.crash(machine);
    world.run_for(seconds(15));
    assert!(runs_once(&world, "web", 6, "first") && runs_once(&world, "plain", 6, "first"));
    let before = running(&world, "plain");
    world.start(machine);
    let begun = world.now();
    let mut first = None;
    while world.agents(machine).count() < 4 {
        world.run_for(Duration::from_millis(2));
        first = first.or((world.agents(machine).count() > 0).then(|| world.now()));
        let all = running(&world, "web");
        let moving = all.values().filter(|on| on.len() > 1).count();
        assert!(all.len() == 6 && moving <= 1, "one at a time, and each runs: {all:?}");
        assert!(world.now().since(begun) < seconds(30), "{all:?}");
    }
    let took = first.map(|first| world.now().since(first));
    assert!(took >= Some(seconds(3)), "each is steady for a second before the next one moves: {took:?}");
    world.run_for(seconds(10));
    assert!(runs_once(&world, "web", 6, "first"));
    assert_eq!(world.agents(machine).count(), 4);
    assert_eq!(running(&world, "plain"), before, "the other blueprint stays where it is");
}

#[test]
fn an_order_that_is_not_followed_by_its_deadline_goes_to_another_node_with_the_reason() {
    let mut world = healthy_mesh(3, 67);
    let update = Update { deadline: seconds(10), ..Update::default() };
    apply(&mut world, 0, Blueprint { update, ..blueprint("web", Instances::Count(6), "stalls@1") });
    world.run_for(seconds(5));
    let stands_still: Vec<_> = world.agents(1).map(|(agent, _)| agent.clone()).collect();
    assert_eq!((stands_still.len(), stands(&mut world, 0, "web").running), (2, 4));
    world.run_for(seconds(9));
    let told = detail(&mut world, 2, "web");
    assert_eq!((told.status.running, world.agents(1).count()), (6, 0));
    for slot in told.slots.iter().filter(|slot| stands_still.contains(&slot.slot)) {
        assert_eq!(slot.why, "its node has not begun it in time");
    }
    assert_eq!(world.broken(), [] as [String; 0]);
}

#[test]
fn where_no_node_has_room_a_lower_priority_gives_way_and_comes_back() {
    let mut world = World::new(Config::lan(3, 68));
    (0..3).for_each(|machine| world.set_labels(machine, &[("capacity", "2")]));
    world.start_all();
    let end = world.now() + seconds(60);
    world.run_until(end, all_healthy).expect("they are healthy");
    apply(&mut world, 0, blueprint("batch", Instances::Count(6), "first"));
    until_runs(&mut world, "batch", 6, "first", seconds(2));
    let placement = Placement { priority: 10, ..Placement::default() };
    apply(&mut world, 1, Blueprint { placement, ..blueprint("web", Instances::Count(2), "first") });
    until_runs(&mut world, "web", 2, "first", seconds(2));
    world.run_for(seconds(2));
    assert_eq!(running(&world, "batch").len(), 4);
    assert!((0..3).all(|machine| world.agents(machine).count() == 2));
    let status = stands(&mut world, 2, "batch");
    assert_eq!((status.running, status.unplaced.len()), (4, 2));
    assert!(status.unplaced.values().all(|why| why.contains("its capacity is 2, of which 2 is taken")));
    // A lost node's important instances find room, whoever has it now.
    let lost = (0..3).find(|machine| world.agents(*machine).any(|(agent, _)| agent.base() == name("web")));
    world.crash(lost.expect("somebody has one"));
    until_runs(&mut world, "web", 2, "first", seconds(8));
    world.start(lost.expect("as above"));
    scale(&mut world, (lost.expect("as above") + 1) % 3, "web", 0);
    until_runs(&mut world, "batch", 6, "first", seconds(30));
    assert_eq!(world.broken(), [] as [String; 0]);
}
