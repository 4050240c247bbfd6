//! Nodes that stood still, or that start where nobody else is: what they do with the state until they have compared.

use super::*;

#[test]
fn fault_36_a_machine_that_slept_a_minute_makes_no_write_before_it_has_compared_with_the_others() {
    let mut world = healthy_mesh(3, 36);
    written(&mut world, 2, "a", "before");
    // Its own time stands still meanwhile: only the wall clock tells.
    world.suspend(2, seconds(60));
    written(&mut world, 0, "a", "while it slept");
    world.run_for(seconds(60));
    let ticket = queued(&mut world, 2, "b", "the first thing after it woke");
    rests(&mut world);
    assert_eq!(outcome(&mut world, 2, &ticket), Outcome::Applied);
    assert_eq!(siblings(&mut world, 2, "a"), ["while it slept"]);
    for machine in 0..3 {
        assert_eq!(get(&mut world, machine, "b").as_deref(), Some("the first thing after it woke"));
    }
}

#[test]
fn fault_55_a_node_that_starts_alone_reads_what_it_has_and_queues_what_is_written() {
    let mut world = healthy_mesh(3, 55);
    written(&mut world, 0, "a", "one");
    world.run_for(seconds(2));
    (0..3).for_each(|machine| world.crash(machine));
    world.start(2);
    world.run_for(seconds(60));
    assert_eq!(mode(&world, 2), Mode::Joining);
    assert_eq!(get(&mut world, 2, "a").as_deref(), Some("one"));
    let ticket = queued(&mut world, 2, "a", "two");
    assert_eq!(get(&mut world, 2, "a").as_deref(), Some("one"), "it is not made yet");
    world.start(0);
    world.start(1);
    rests(&mut world);
    assert_eq!(outcome(&mut world, 2, &ticket), Outcome::Applied);
    assert_eq!(siblings(&mut world, 0, "a"), ["two"]);
}

#[test]
fn who_was_away_for_longer_than_max_offline_is_no_member_until_it_has_taken_in_everything() {
    let max_offline = seconds(60);
    let mut world = healthy_mesh_with(3, PartitionConfig { max_offline, ..PartitionConfig::default() });
    written(&mut world, 2, "a", "before");
    rests(&mut world);
    let members =
        |world: &World| world.shared_view(0).and_then(|view| view.roster).map_or(0, |r| r.members.len());
    world.crash(2);
    world.run_for(seconds(50));
    assert_eq!(members(&world), 3);
    world.run_for(seconds(30));
    assert_eq!(members(&world), 2, "nobody waits for it any more");
    // What it has is behind what the others have forgotten by then.
    delete(&mut world, 0, "a");
    written(&mut world, 1, "b", "meanwhile");
    world.run_for(seconds(10));
    world.start(2);
    let ticket = queued(&mut world, 2, "c", "when it is back");
    rests(&mut world);
    assert_eq!(members(&world), 3);
    assert_eq!(outcome(&mut world, 2, &ticket), Outcome::Applied);
    for machine in 0..3 {
        assert_eq!(get(&mut world, machine, "a"), None, "what it had does not come back");
        assert_eq!(get(&mut world, machine, "b").as_deref(), Some("meanwhile"));
    }
}

#[test]
fn who_leaves_for_good_is_taken_out_of_the_roster() {
    let mut world = healthy_mesh(3, 57);
    rests(&mut world);
    world.leave(2);
    let end = world.now() + seconds(30);
    let is_out = |world: &World| {
        let roster = world.shared_view(0).and_then(|view| view.roster);
        roster.is_some_and(|roster| roster.members.len() == 2 && !roster.members.contains_key(world.node(2)))
    };
    assert!(
        world.run_until(end, is_out).is_some(),
        "{:?}",
        world.shared_view(0).and_then(|view| view.roster)
    );
    written(&mut world, 0, "a", "by the two that are left");
}

#[test]
fn a_write_that_no_quorum_confirms_in_time_is_told_to_be_indeterminate_and_is_kept() {
    let mut world = healthy_mesh(3, 58);
    rests(&mut world);
    world.cut(&[2], &[0, 1]);
    let (key, value) = ("a".to_owned(), Some(Bytes::from_static(b"one")));
    let told = answer(&mut world, 2, StateRequest::Put { key, value, context: None, ack: Ack::Quorum });
    let why = told.expect_err("no quorum has it");
    assert!(why.contains("1 of") && why.contains("stored"), "{why}");
    assert_eq!(get(&mut world, 2, "a").as_deref(), Some("one"));
    heal(&mut world);
    rests(&mut world);
    assert_eq!(get(&mut world, 0, "a").as_deref(), Some("one"), "it was not taken back");
}

/// Writes a key on the first node, and asks the last one to replace it, which cannot have heard of that yet.
fn replaced_too_early(world: &mut World, value: &'static str) -> RequestId {
    world.cut(&[2], &[0, 1]);
    written(world, 0, "a", &format!("before {value}"));
    let context = match answer(world, 0, StateRequest::Get { key: "a".to_owned() }) {
        Ok(StateAnswer::Value(value)) => Some(value.context),
        other => panic!("{other:?}"),
    };
    let value = Some(Bytes::from_static(value.as_bytes()));
    ask(world, 2, StateRequest::Put { key: "a".to_owned(), value, context, ack: Ack::Local })
}

#[test]
fn a_write_whose_writer_has_seen_more_than_the_node_waits_for_it_and_not_for_long() {
    let mut world = healthy_mesh(3, 59);
    rests(&mut world);
    let id = replaced_too_early(&mut world, "too early");
    let told = |world: &World| world.report().replies.get(&(2, id)).map(|(_, told)| format!("{told:?}"));
    world.run_for(Duration::from_millis(1_900));
    assert_eq!(told(&world), None, "it may yet come");
    world.run_for(Duration::from_millis(500));
    assert!(told(&world).is_some_and(|told| told.contains("context_ahead")), "{:?}", told(&world));
    heal(&mut world);
    rests(&mut world);

    let id = replaced_too_early(&mut world, "three");
    world.run_for(Duration::from_millis(300));
    heal(&mut world);
    let end = world.now() + seconds(3);
    world.run_until(end, |world| world.report().replies.contains_key(&(2, id)));
    let told = &world.report().replies.get(&(2, id)).expect("it is answered").1;
    let replaces = matches!(told, Ok(ResponseBody::State(StateAnswer::Written { is_sibling: false, .. })));
    assert!(replaces, "{told:?}");
    rests(&mut world);
    assert_eq!(siblings(&mut world, 1, "a"), ["three"]);
}

/// What a node answers that is told to leave.
fn leave(world: &mut World, machine: usize, force: bool) -> Result<(), String> {
    let node = world.node(machine).clone();
    let id = world.request(machine, &node, RequestBody::Leave { drain_ms: 100, force });
    let end = world.now() + seconds(20);
    world.run_until(end, |world| world.report().replies.contains_key(&(machine, id)));
    let told = &world.report().replies.get(&(machine, id)).expect("it is answered").1;
    told.as_ref().map(|_| ()).map_err(ToString::to_string)
}

/// A write that only this machine's node has, and has acknowledged.
fn written_alone(world: &mut World, machine: usize, key: &str, value: &str) {
    let others: Vec<_> = (0..world.len()).filter(|other| *other != machine).collect();
    world.cut(&[machine], &others);
    written(world, machine, key, value);
    world.run_for(Duration::from_millis(100));
    heal(world);
}

#[test]
fn who_leaves_takes_along_no_write_that_it_has_acknowledged() {
    let mut world = healthy_mesh(3, 61);
    rests(&mut world);
    written_alone(&mut world, 2, "a", "of the one that leaves");
    assert_eq!(get(&mut world, 0, "a"), None, "nobody else has it");
    assert_eq!(leave(&mut world, 2, false), Ok(()));
    world.run_for(seconds(5));
    for machine in 0..2 {
        assert_eq!(get(&mut world, machine, "a").as_deref(), Some("of the one that leaves"));
    }
    assert_eq!(world.broken(), [] as [String; 0]);
}

#[test]
fn of_five_three_may_leave_at_once_and_the_other_two_go_on() {
    let mut world = healthy_mesh(5, 62);
    rests(&mut world);
    let ids: Vec<_> = (2..5)
        .map(|machine| {
            let node = world.node(machine).clone();
            world.request(machine, &node, RequestBody::Leave { drain_ms: 100, force: false })
        })
        .collect();
    let end = world.now() + seconds(30);
    let gone = world.run_until(end, |world| (2..5).all(|machine| !world.is_running(machine)));
    let told = |world: &World, n: usize| format!("{:?}", world.report().replies.get(&(n + 2, ids[n])));
    assert!(gone.is_some(), "{:?}", (0..3).map(|n| told(&world, n)).collect::<Vec<_>>());
    written(&mut world, 0, "a", "by the two that are left");
    world.run_for(seconds(2));
    assert_eq!(get(&mut world, 1, "a").as_deref(), Some("by the two that are left"));
    let members = world.shared_view(0).and_then(|view| view.roster).map(|roster| roster.members.len());
    assert_eq!(members, Some(2));
}

#[test]
fn who_cannot_be_spared_or_has_what_nobody_else_has_stays_and_says_why() {
    let mut world = healthy_mesh(3, 63);
    rests(&mut world);
    world.cut(&[2], &[0, 1]);
    world.run_for(seconds(4));
    let ticket = queued(&mut world, 2, "a", "of a minority");
    let why = leave(&mut world, 2, false).expect_err("nobody has what it has queued");
    assert!(why.contains("1 queued writes") && why.contains("force"), "{why}");
    heal(&mut world);
    rests(&mut world);
    assert_eq!(outcome(&mut world, 2, &ticket), Outcome::Applied);
    written(&mut world, 2, "b", "it takes writes again");

    let (key, value) = ("quorum_size".to_owned(), "3".to_owned());
    let holder = holder(&mut world);
    let set = answer(&mut world, holder, StateRequest::SetRoster { key, value, split_writes: false });
    assert!(set.is_ok(), "{set:?}");
    rests(&mut world);
    let since = world.now();
    let why = leave(&mut world, 1, false).expect_err("two voters are no quorum of three");
    assert!(why.contains("quorum"), "{why}");
    assert!(world.now().since(since) < seconds(1), "it is told at once");
    assert!(leave(&mut world, 1, true).is_ok(), "by force it leaves all the same");
}
