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
