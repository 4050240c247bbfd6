//! Disks that are full, old, or whose machine dies; nodes that were away; a long queue.

use super::*;

#[test]
fn fault_03_a_write_that_was_stored_and_not_answered_is_there_after_the_restart() {
    let mut world = healthy_mesh(3, 11);
    // Until its store has nothing else to do: the crash is to follow the write.
    world.run_for(seconds(5));
    let (key, value) = ("a".to_owned(), Some(Bytes::from_static(b"one")));
    world.apply(&Fault::CrashAfterCommit { machine: 0 });
    let id = ask(&mut world, 0, StateRequest::Put { key, value, context: None, ack: Ack::Local });
    let end = world.now() + seconds(5);
    world.run_until(end, |world| !world.is_running(0));
    assert!(!world.is_running(0) && !world.report().replies.contains_key(&(0, id)));
    world.start(0);
    rests(&mut world);
    let there: Vec<_> = (0..3).map(|m| get(&mut world, m, "a")).collect();
    assert_eq!(there, vec![Some("one".to_owned()); 3]);
}

#[test]
fn fault_07_a_replay_that_is_killed_again_and_again_makes_each_write_once() {
    let mut world = healthy_mesh(3, 12);
    world.cut(&[0, 1], &[2]);
    world.run_for(seconds(4));
    let tickets: Vec<_> =
        (0..40).map(|n| queued(&mut world, 2, &format!("k{}", n % 7), &format!("v{n}"))).collect();
    heal(&mut world);
    for _ in 0..12 {
        let end = world.now() + seconds(30);
        let healthy = world.run_until(end, |world| mode(world, 2) == Mode::Healthy);
        assert!(healthy.is_some());
        world.apply(&Fault::CrashAfterCommit { machine: 2 });
        let end = world.now() + seconds(5);
        world.run_until(end, |world| !world.is_running(2));
        world.apply(&Fault::Start { machine: 2 });
    }
    rests(&mut world);
    for ticket in &tickets {
        assert_eq!(outcome(&mut world, 2, ticket), Outcome::Applied, "{ticket}");
    }
    let last: Vec<_> = (0..7).map(|k| get(&mut world, 0, &format!("k{k}")).expect("written")).collect();
    assert_eq!(last, ["v35", "v36", "v37", "v38", "v39", "v33", "v34"]);
}

#[test]
fn fault_09_when_all_nodes_die_at_once_all_that_was_acknowledged_is_there_again() {
    let mut world = healthy_mesh(3, 13);
    world.work(shoal::sim::Workload::default(), seconds(20));
    for _ in 0..4 {
        world.run_for(Duration::from_millis(4_321));
        (0..3).for_each(|m| world.crash(m));
        world.run_for(Duration::from_millis(100));
        world.start_all();
    }
    world.run_for(seconds(5));
    rests(&mut world);
    assert!(world.writes_made() > 20, "{}", world.writes_made());
}

#[test]
fn fault_16_a_node_whose_disk_is_full_reads_refuses_writes_and_recovers() {
    let mut world = healthy_mesh(3, 14);
    written(&mut world, 0, "a", "one");
    world.run_for(seconds(1));
    world.apply(&Fault::DiskFull { machine: 2, full: true });
    let refused = put(&mut world, 2, "b", "of the full one");
    assert!(refused.is_err(), "{refused:?}");
    world.run_for(seconds(2));
    assert_eq!(mode(&world, 2), Mode::Degraded);
    assert!(put(&mut world, 2, "b", "of the full one").is_err());
    assert_eq!(get(&mut world, 2, "a").as_deref(), Some("one"));
    written(&mut world, 0, "b", "of the others");
    world.run_for(seconds(1));
    assert_eq!(get(&mut world, 2, "b").as_deref(), Some("of the others"));
    world.apply(&Fault::DiskFull { machine: 2, full: false });
    rests(&mut world);
    written(&mut world, 2, "b", "of the recovered one");
    rests(&mut world);
}

#[test]
fn fault_26_an_old_copy_of_a_disk_takes_nothing_back_and_mints_no_write_twice() {
    let mut world = healthy_mesh(3, 15);
    written(&mut world, 2, "kept", "one");
    written(&mut world, 2, "deleted", "one");
    world.run_for(seconds(2));
    world.apply(&Fault::Backup { machine: 2 });
    written(&mut world, 2, "kept", "two");
    delete(&mut world, 2, "deleted");
    world.run_for(seconds(8));
    world.apply(&Fault::Restore { machine: 2 });
    world.start(2);
    written_or_queued(&mut world, 2, "new", "after the restore");
    rests(&mut world);
    for machine in 0..3 {
        assert_eq!(siblings(&mut world, machine, "kept"), ["two"]);
        assert_eq!(get(&mut world, machine, "deleted"), None);
        assert_eq!(get(&mut world, machine, "new").as_deref(), Some("after the restore"));
    }
}

/// Machine 2 has made a queued write, after a copy of its disk was taken.
fn copied_before_a_replay(seed: u64) -> (World, Ticket) {
    let mut world = healthy_mesh(3, seed);
    world.cut(&[0, 1], &[2]);
    world.run_for(seconds(4));
    let ticket = queued(&mut world, 2, "a", "of the queue");
    world.apply(&Fault::Backup { machine: 2 });
    heal(&mut world);
    rests(&mut world);
    (world, ticket)
}

/// The third node is started from the copy: it does not make the queued write again that "newer" has replaced, and says so.
fn an_old_copy_refuses(world: &mut World, ticket: &Ticket) {
    world.apply(&Fault::Restore { machine: 2 });
    world.start(2);
    rests(world);
    assert_eq!(siblings(world, 0, "a"), ["newer"]);
    let told = outcome(world, 2, ticket);
    assert!(matches!(&told, Outcome::Rejected { reason } if reason.contains("old copy")), "{told:?}");
}

#[test]
fn fault_26_a_queued_write_that_was_made_after_the_copy_was_taken_is_not_made_again() {
    let (mut world, ticket) = copied_before_a_replay(17);
    assert_eq!(outcome(&mut world, 2, &ticket), Outcome::Applied);
    world.apply(&Fault::Restore { machine: 2 });
    world.start(2);
    rests(&mut world);
    assert_eq!(outcome(&mut world, 2, &ticket), Outcome::Applied);
    assert_eq!(siblings(&mut world, 0, "a"), ["of the queue"], "it stands once");
}

#[test]
fn fault_26_a_queued_write_that_was_made_and_replaced_after_the_copy_was_taken_does_not_come_back() {
    let (mut world, ticket) = copied_before_a_replay(18);
    written(&mut world, 0, "a", "newer");
    // The process that starts from the copy takes the number that this one takes.
    world.crash(2);
    world.start(2);
    rests(&mut world);
    an_old_copy_refuses(&mut world, &ticket);
}

#[test]
fn fault_26_a_node_with_an_old_copy_is_heard_as_a_voter_soon() {
    let mut world = healthy_mesh(3, 19);
    world.apply(&Fault::Backup { machine: 2 });
    world.crash(2);
    world.start(2);
    // Beats are counted within a start, and this one makes very many.
    world.run_for(seconds(120));
    world.apply(&Fault::Restore { machine: 2 });
    world.start(2);
    rests(&mut world);
    world.run_for(seconds(5));
    world.cut(&[0, 2], &[1]);
    world.run_for(seconds(20));
    for machine in [0, 2] {
        assert_eq!(mode(&world, machine), Mode::Healthy, "two of three are a majority");
    }
    written(&mut world, 0, "a", "by the majority");
}

#[test]
fn fault_26_a_voter_that_has_forgotten_and_finds_too_few_to_ask_is_overruled_and_the_mesh_goes_on() {
    let mut world = healthy_mesh(3, 20);
    world.apply(&Fault::Backup { machine: 0 });
    world.crash(0);
    world.start(0);
    rests(&mut world);
    world.apply(&Fault::Restore { machine: 0 });
    world.crash(2);
    world.start(0);
    world.run_for(seconds(20));
    let is_sound = |world: &World| world.shared_view(0).is_some_and(|view| view.sound);
    assert!(!is_sound(&world), "one of the two others does not tell it enough");
    let audit = "machine 2 is gone".to_owned();
    let forced = answer(&mut world, 0, StateRequest::ForceRoster { audit });
    assert!(matches!(forced, Ok(StateAnswer::Roster(Some(_)))), "{forced:?}");
    world.run_for(seconds(20));
    assert!(is_sound(&world));
    assert!((0..2).any(|machine| world.lease_of(machine).is_some()), "somebody leads again");
    written(&mut world, 0, "a", "after the override");
}

#[test]
fn a_key_that_was_deleted_and_made_again_is_not_undone_by_a_node_that_was_away() {
    for crashes in [false, true] {
        let mut world = healthy_mesh(3, 16);
        written(&mut world, 2, "a", "old");
        written(&mut world, 2, "b", "old");
        world.run_for(seconds(3));
        world.cut(&[0, 1], &[2]);
        if crashes {
            world.crash(2);
        }
        world.run_for(seconds(4));
        delete(&mut world, 0, "a");
        delete(&mut world, 1, "b");
        world.run_for(seconds(10));
        written(&mut world, 1, "a", "new");
        world.run_for(seconds(10));
        heal(&mut world);
        world.apply(&Fault::Start { machine: 2 });
        rests(&mut world);
        for machine in 0..3 {
            assert_eq!(siblings(&mut world, machine, "a"), ["new"]);
            assert_eq!(get(&mut world, machine, "b"), None);
        }
        let end = world.now() + seconds(20);
        let settled = |world: &World| (0..3).all(|m| world.shared_view(m).is_some_and(|v| v.unsettled == 0));
        assert!(world.run_until(end, settled).is_some(), "what all have is forgotten in the end");
    }
}

fn written_or_queued(world: &mut World, machine: usize, key: &str, value: &str) {
    assert!(put(world, machine, key, value).is_ok());
}

#[test]
fn ten_thousand_queued_writes_are_replayed_in_order_and_in_less_than_a_minute() {
    let mut world = healthy_mesh(3, 17);
    world.cut(&[0, 1], &[2]);
    world.run_for(seconds(4));
    for n in 0..10_000 {
        let (key, value) = (format!("k{}", n % 100), Some(Bytes::from(format!("{n}"))));
        ask(&mut world, 2, StateRequest::Put { key, value, context: None, ack: Ack::Local });
        if n % 100 == 99 {
            world.run_for(Duration::from_millis(500));
        }
    }
    world.run_for(seconds(1));
    assert_eq!(world.shared_view(2).expect("it runs").queued, 10_000);
    heal(&mut world);
    let took = rests(&mut world);
    println!("10,000 queued writes were replayed in {took:?}");
    for n in 9_900..10_000 {
        assert_eq!(siblings(&mut world, 0, &format!("k{}", n % 100)), [n.to_string()]);
    }
}

#[test]
fn fault_19_a_disk_that_says_nothing_degrades_its_node_until_it_answers_and_loses_nothing() {
    let mut world = healthy_mesh(3, 51);
    world.apply(&Fault::SlowDisk { machine: 2, commit_max: Some(seconds(12)) });
    let (key, value) = ("a".to_owned(), Some(Bytes::from_static(b"one")));
    let id = ask(&mut world, 2, StateRequest::Put { key, value, context: None, ack: Ack::Local });
    world.run_for(Duration::from_millis(5_900));
    assert!(!world.report().replies.contains_key(&(2, id)), "nothing is answered before it is on the disk");
    assert_eq!(mode(&world, 2), Mode::Degraded);
    let told = status(&mut world, 2).reason;
    assert!(told.contains("has not confirmed a change for 5s"), "{told}");
    written(&mut world, 0, "b", "of the others");
    assert_eq!(get(&mut world, 2, "b"), Some("of the others".to_owned()), "it goes on taking in and reading");
    world.apply(&Fault::SlowDisk { machine: 2, commit_max: None });
    let end = world.now() + seconds(90);
    let answered = world.run_until(end, |world| world.report().replies.contains_key(&(2, id)));
    assert!(answered.is_some(), "{:?}", world.broken());
    rests(&mut world);
    assert_eq!(get(&mut world, 0, "a").as_deref(), Some("one"));
    let failed = world.report().changes.iter().filter(|change| change.status == MemberStatus::Failed);
    assert_eq!(failed.count(), 0, "nobody held it for failed");
}

#[test]
fn queued_writes_whose_time_is_over_do_not_keep_a_slow_disk_that_was_full_from_its_repair() {
    let mut world = healthy_mesh(3, 52);
    world.cut(&[0, 1], &[2]);
    world.run_for(seconds(4));
    let ticket = queued(&mut world, 2, "a", "too old");
    world.crash(2);
    world.apply(&Fault::ClockStep { machine: 2, by_ms: 25 * 3_600_000 });
    world.start(2);
    world.apply(&Fault::SlowDisk { machine: 2, commit_max: Some(seconds(3)) });
    world.apply(&Fault::DiskFull { machine: 2, full: true });
    world.run_for(seconds(10));
    assert_eq!(outcome_if_any(&mut world, 2, &ticket), None, "its outcome is not on the disk");
    world.apply(&Fault::DiskFull { machine: 2, full: false });
    world.run_for(seconds(15));
    assert_eq!(outcome_if_any(&mut world, 2, &ticket), Some(Outcome::Expired));
    world.apply(&Fault::SlowDisk { machine: 2, commit_max: None });
    world.apply(&Fault::ClockStep { machine: 2, by_ms: -25 * 3_600_000 });
    heal(&mut world);
    rests(&mut world);
}

#[test]
fn a_voter_that_could_not_leave_votes_on() {
    let mut world = healthy_mesh(3, 53);
    rests(&mut world);
    let holder = holder(&mut world);
    let leaver = (holder + 1) % 3;
    world.apply(&Fault::SlowDisk { machine: leaver, commit_max: Some(seconds(4)) });
    world.apply(&Fault::DiskFull { machine: leaver, full: true });
    world.apply(&Fault::Leave { machine: leaver });
    // While it does not know yet whether it has left, it is asked for its vote.
    world.crash(holder);
    world.run_for(seconds(5));
    world.apply(&Fault::SlowDisk { machine: leaver, commit_max: None });
    world.apply(&Fault::DiskFull { machine: leaver, full: false });
    let end = world.now() + seconds(30);
    let led = world.run_until(end, |world| (0..3).any(|m| m != holder && world.lease_of(m).is_some()));
    assert!(led.is_some(), "the two that are left agree on who leads");
    world.start(holder);
    rests(&mut world);
}

#[test]
fn fault_26_a_copy_of_the_running_node_is_noticed_by_the_writes_that_others_have_of_it() {
    let (mut world, ticket) = copied_before_a_replay(20);
    written(&mut world, 0, "a", "newer");
    rests(&mut world);
    // The process that was copied is the last one before this: nothing but its writes shows that it went on.
    an_old_copy_refuses(&mut world, &ticket);
}

#[test]
fn fault_26_an_old_copy_is_noticed_by_peers_that_were_started_again_since_they_met_what_came_after_it() {
    let mut world = healthy_mesh(3, 19);
    world.crash(2);
    world.apply(&Fault::Backup { machine: 2 });
    world.start(2);
    rests(&mut world);
    // The process that starts from the copy takes the number that this one has, and nobody remembers it in memory.
    world.apply(&Fault::Restore { machine: 2 });
    (0..2).for_each(|machine| world.crash(machine));
    world.start_all();
    doubts_and_recovers(&mut world, 2);
}

/// The machine's node finds out that its store is an old copy, and gets over it.
fn doubts_and_recovers(world: &mut World, machine: usize) {
    let end = world.now() + seconds(20);
    let doubts = |world: &World| world.shared_view(machine).is_some_and(|view| !view.sound);
    assert!(world.run_until(end, doubts).is_some(), "it goes on as if it had promised nothing");
    let end = world.now() + seconds(60);
    let recovered = |world: &World| world.shared_view(machine).is_some_and(|view| view.sound);
    assert!(world.run_until(end, recovered).is_some(), "nobody tells it what it may have promised");
    rests(world);
}

#[test]
fn fault_26_an_old_copy_is_noticed_when_its_start_numbers_have_passed_those_of_what_was_lost() {
    let mut world = healthy_mesh(3, 21);
    world.crash(2);
    world.apply(&Fault::Backup { machine: 2 });
    world.start(2);
    rests(&mut world);
    world.apply(&Fault::Restore { machine: 2 });
    world.cut(&[0, 1], &[2]);
    for _ in 0..3 {
        world.start(2);
        world.run_for(seconds(2));
        world.crash(2);
    }
    // The others have forgotten what they do not keep on their disks.
    (0..2).for_each(|machine| world.crash(machine));
    heal(&mut world);
    world.start_all();
    doubts_and_recovers(&mut world, 2);
}

#[test]
fn fault_26_a_copy_of_the_running_node_is_noticed_by_the_promises_that_it_made_since() {
    let mut world = healthy_mesh(3, 22);
    rests(&mut world);
    world.run_for(seconds(5));
    let holder = (0..3).find(|m| world.lease_of(*m).is_some()).expect("somebody leads");
    let other = (holder + 1) % 3;
    world.apply(&Fault::Backup { machine: other });
    world.crash(holder);
    // Whoever leads next does so by the vote of the one that was copied, or is that one.
    let end = world.now() + seconds(30);
    let led = world.run_until(end, |world| (0..3).any(|m| m != holder && world.lease_of(m).is_some()));
    assert!(led.is_some(), "somebody leads again");
    world.run_for(seconds(1));
    world.start(holder);
    rests(&mut world);
    world.apply(&Fault::Restore { machine: other });
    world.start(other);
    doubts_and_recovers(&mut world, other);
}

#[test]
fn a_regular_start_is_not_taken_for_an_old_copy_not_even_when_all_lose_power_just_after_it() {
    let mut world = healthy_mesh(3, 23);
    for round in 0..40 {
        (0..3).for_each(|machine| world.crash(machine));
        world.start_all();
        let end = world.now() + Duration::from_micros(500 * (1 << (round % 12)));
        let doubts =
            |world: &World| (0..3).any(|machine| world.shared_view(machine).is_some_and(|view| !view.sound));
        assert!(world.run_until(end, doubts).is_none(), "in round {round} at {:?}", world.now());
    }
    rests(&mut world);
}
