//! From mode to mode.

use super::*;

#[test]
fn a_voter_beats_every_quarter_of_the_detection_time_and_nobody_else_does() {
    let mut voter = Bench::new("a", PartitionConfig::default(), &roster(&["a", "b", "c"], &["x"]));
    voter.pass(5 * DETECTION, &[]);
    let numbers: Vec<_> = voter.beats.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let gaps: Vec<_> = voter.beats.windows(2).map(|pair| pair[1].1.since(pair[0].1)).collect();
    assert!(gaps.len() >= 18 && gaps.iter().all(|gap| *gap == DETECTION / 4), "{gaps:?}");
    let mut other = Bench::new("x", PartitionConfig::default(), &roster(&["a", "b", "c"], &["x"]));
    other.pass(5 * DETECTION, &["a", "b"]);
    assert_eq!(other.beats, []);
}

#[test]
fn a_node_joins_when_it_is_as_far_as_a_quorum_and_everybody_else_that_it_reaches() {
    let mut bench = Bench::new("a", PartitionConfig::default(), &roster(&["a", "b", "c"], &["x"]));
    bench.here.set_liveness([(node("x"), MemberStatus::Alive)].into(), bench.now);
    bench.hear(&["b", "c"]);
    bench.synchronise(&["b"]);
    assert_eq!(bench.here.mode(), Mode::Joining, "c is reachable and x alive");
    bench.synchronise(&["c"]);
    assert_eq!(bench.here.mode(), Mode::Joining, "x is alive");
    bench.synchronise(&["x"]);
    assert_eq!(bench.here.mode(), Mode::Healthy);
    assert_eq!(bench.reasons, [ModeReason::Synchronised]);
}

#[test]
fn a_node_that_joins_waits_no_longer_than_it_must_for_those_whom_only_gossip_knows() {
    let mut bench = Bench::new("a", PartitionConfig::default(), &roster(&["a", "b", "c"], &["x"]));
    let alive = ["b", "c", "x"].map(|name| (node(name), MemberStatus::Alive)).into();
    bench.here.set_liveness(alive, bench.now);
    bench.hear(&["b"]);
    bench.synchronise(&["b", "x"]);
    assert_eq!(bench.mode_after(DETECTION - MS, &["b"]), Mode::Joining, "c may yet be heard");
    assert_eq!(bench.mode_after(DETECTION, &["b"]), Mode::Healthy);

    let mut bench = Bench::new("a", PartitionConfig::default(), &roster(&["a", "b", "c"], &["x"]));
    bench.here.set_liveness([(node("x"), MemberStatus::Suspect)].into(), bench.now);
    bench.hear(&["b"]);
    bench.synchronise(&["b"]);
    let patience = limits::SYNCHRONISATION_PATIENCE;
    assert_eq!(bench.mode_after(patience - MS, &["b"]), Mode::Joining);
    assert_eq!(bench.mode_after(Duration::from_secs(2), &["b"]), Mode::Healthy);
}

#[test]
fn without_a_quorum_nobody_leaves_joining_and_a_single_voter_is_one() {
    let mut bench = Bench::new("a", PartitionConfig::default(), &roster(&["a", "b", "c"], &[]));
    assert_eq!(bench.mode_after(10 * DETECTION, &[]), Mode::Joining);
    assert_eq!(bench.here.age(bench.now), None);
    let alone = Bench::new("a", PartitionConfig::default(), &roster(&["a"], &[]));
    assert_eq!(alone.here.mode(), Mode::Healthy);
}

#[test]
fn only_a_voter_counts_itself() {
    let mut other = Bench::new("x", PartitionConfig::default(), &roster(&["a", "b", "c"], &["x"]));
    other.hear(&["a"]);
    other.synchronise(&["a"]);
    assert_eq!(other.here.mode(), Mode::Joining);
    other.hear(&["b"]);
    other.synchronise(&["b"]);
    assert_eq!(other.here.mode(), Mode::Healthy);
    assert_eq!(*other.here.reachable(), nodes(&["a", "b"]));
}

#[test]
fn a_node_degrades_the_moment_that_the_last_beat_is_too_old() {
    let mut bench = Bench::healthy(PartitionConfig::default());
    assert_eq!(bench.mode_after(DETECTION - MS, &[]), Mode::Healthy);
    assert_eq!(bench.mode_after(MS, &[]), Mode::Degraded);
    let lost = ModeReason::QuorumLost { reachable: 1, voters: 3, quorum: 2 };
    assert_eq!(bench.reasons, [lost]);
    assert_eq!(bench.here.age(bench.now), Some(DETECTION));
    bench.pass(DETECTION, &[]);
    assert_eq!(bench.here.age(bench.now), Some(2 * DETECTION));
}

#[test]
fn whom_gossip_calls_failed_or_left_is_not_reachable_however_new_its_beat() {
    for status in [MemberStatus::Failed, MemberStatus::Left] {
        let mut bench = Bench::healthy(PartitionConfig::default());
        bench.here.set_liveness([(node("b"), status)].into(), bench.now);
        assert_eq!(bench.here.mode(), Mode::Healthy);
        bench.here.set_liveness(["b", "c"].map(|name| (node(name), status)).into(), bench.now);
        assert_eq!(bench.here.mode(), Mode::Degraded);
    }
}

#[test]
fn a_beat_that_is_told_again_is_not_a_new_one() {
    let mut bench = Bench::healthy(PartitionConfig::default());
    bench.here.handle_beat(&node("b"), (5, 7), Some(bench.now), bench.now);
    for (start, number) in [(5, 7), (5, 6), (4, 100)] {
        bench.now = bench.now + DETECTION / 3 + MS;
        bench.here.handle_beat(&node("b"), (start, number), Some(bench.now), bench.now);
        bench.here.handle_timeout(bench.now);
    }
    bench.drain();
    assert_eq!(bench.here.mode(), Mode::Degraded);
    bench.here.handle_beat(&node("b"), (6, 1), Some(bench.now), bench.now);
    assert!(bench.here.reachable().contains(&node("b")), "a new process counts anew");
}

#[test]
fn a_beat_that_others_heard_counts_from_when_they_did() {
    let mut bench = Bench::healthy(PartitionConfig::default());
    bench.pass(2 * DETECTION, &[]);
    let tell = |bench: &mut Bench, number, age: Duration| {
        let heard = bench.now.checked_sub(age);
        let is_new = bench.here.handle_beat(&node("b"), (9, number), heard, bench.now);
        (is_new, bench.here.reachable().contains(&node("b")))
    };
    assert_eq!(tell(&mut bench, 1, DETECTION + MS), (true, false), "too old");
    assert_eq!(tell(&mut bench, 2, DETECTION - 10 * MS), (true, true));
    assert_eq!(tell(&mut bench, 3, DETECTION), (true, true), "a later number takes back no time");
    bench.now = bench.now + 10 * MS;
    bench.here.handle_timeout(bench.now);
    assert!(!bench.here.reachable().contains(&node("b")), "as old as was told");
    assert!(!bench.here.handle_beat(&node("b"), (9, 3), Some(bench.now), bench.now), "told again");
    assert_eq!(bench.here.heard(&node("b")), bench.now.checked_sub(DETECTION));
}

#[test]
fn a_node_comes_back_after_a_stable_moment_and_a_new_synchronisation() {
    let mut bench = Bench::healthy(PartitionConfig::default());
    let before = bench.round;
    bench.pass(2 * DETECTION, &[]);
    assert_eq!(bench.mode_after(DETECTION / 2 - MS, &["b"]), Mode::Degraded);
    assert_eq!(bench.mode_after(2 * MS, &["b"]), Mode::Recovering);
    bench.here.handle_synchronised(before, &node("b"), bench.now);
    assert_eq!(bench.here.mode(), Mode::Recovering, "that was before the partition");
    let age = bench.here.age(bench.now).expect("it was healthy");
    assert!(age >= 2 * DETECTION, "it hears a majority and is no younger: {age:?}");
    bench.synchronise(&["b"]);
    assert_eq!(bench.here.mode(), Mode::Healthy);
    let way = [
        (Mode::Healthy, Mode::Degraded),
        (Mode::Degraded, Mode::Recovering),
        (Mode::Recovering, Mode::Healthy),
    ];
    assert_eq!(bench.changes, way);
}

#[test]
fn a_quorum_that_is_lost_again_begins_the_stable_moment_anew() {
    let mut bench = Bench::healthy(PartitionConfig::default());
    bench.pass(2 * DETECTION, &[]);
    bench.pass(DETECTION / 4, &["b"]);
    let failed = BTreeMap::from([(node("b"), MemberStatus::Failed)]);
    bench.here.set_liveness(failed, bench.now);
    bench.here.set_liveness(BTreeMap::new(), bench.now);
    assert_eq!(bench.mode_after(DETECTION / 2 - MS, &["b"]), Mode::Degraded);
    assert_eq!(bench.mode_after(2 * MS, &["b"]), Mode::Recovering);
    assert_eq!(bench.mode_after(2 * DETECTION, &[]), Mode::Degraded);
}

#[test]
fn whoever_falls_again_and_again_is_held_down_for_longer_each_time_up_to_a_bound() {
    let mut bench = Bench::healthy(PartitionConfig::default());
    let mut holds = Vec::new();
    for _ in 0..9 {
        bench.pass(DETECTION, &[]);
        assert_eq!(bench.here.mode(), Mode::Degraded);
        let since = bench.now;
        while bench.here.mode() == Mode::Degraded {
            bench.pass(100 * MS, &["b"]);
        }
        holds.push(bench.now.since(since).as_secs());
        bench.synchronise(&["b"]);
        assert_eq!(bench.here.mode(), Mode::Healthy);
    }
    assert_eq!(holds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    bench.pass(limits::FLAP_WINDOW, &["b"]);
    bench.pass(DETECTION, &[]);
    assert_eq!(bench.mode_after(DETECTION / 2 + MS, &["b"]), Mode::Recovering, "that was long ago");
}

#[test]
fn after_a_pause_neither_what_was_heard_before_counts_nor_what_waited_in_a_buffer() {
    let mut bench = Bench::healthy(PartitionConfig::default());
    bench.now = bench.here.poll_timeout() + limits::PAUSE_MAX + MS;
    // The first thing that comes after the pause is a beat that was sent during it.
    bench.hear(&["b", "c"]);
    assert_eq!(bench.here.mode(), Mode::Degraded);
    assert!(matches!(bench.reasons[..], [ModeReason::Doubt(Doubt::LoopLate(_))]), "{:?}", bench.reasons);
    assert_eq!(*bench.here.reachable(), nodes(&["a"]));
    bench.hear(&["b", "c"]);
    assert_eq!(*bench.here.reachable(), nodes(&["a"]), "that one may have waited too");
    bench.pass(DETECTION / 4 + DETECTION / 2 - MS, &["b", "c"]);
    assert_eq!(bench.here.mode(), Mode::Degraded);
    assert_eq!(bench.mode_after(200 * MS, &["b", "c"]), Mode::Recovering);
}

#[test]
fn timers_that_are_a_little_late_are_no_pause() {
    let mut bench = Bench::healthy(PartitionConfig::default());
    for _ in 0..5 {
        bench.now = bench.here.poll_timeout() + Duration::from_millis(900);
        bench.hear(&["b", "c"]);
        bench.here.handle_timeout(bench.now);
    }
    assert_eq!(bench.here.mode(), Mode::Healthy);
}

#[test]
fn a_node_that_doubts_itself_degrades_at_once_and_stays_so_while_a_doubt_lasts() {
    let lasting = [Doubt::DiskFailed("full".to_owned()), Doubt::TooManyActors, Doubt::ClockAhead];
    for doubt in lasting {
        let mut bench = Bench::healthy(PartitionConfig::default());
        bench.here.doubt(doubt.clone(), bench.now);
        assert_eq!(bench.here.mode(), Mode::Degraded);
        assert_eq!(bench.mode_after(5 * DETECTION, &["b", "c"]), Mode::Degraded);
        bench.here.doubt_over(doubt.kind().expect("it lasts"), bench.now);
        assert_eq!(bench.mode_after(DETECTION / 2 - MS, &["b", "c"]), Mode::Degraded);
        assert_eq!(bench.mode_after(2 * MS, &["b", "c"]), Mode::Recovering);
        assert_eq!(bench.reasons[0], ModeReason::Doubt(doubt));
    }
    let step = Doubt::ClockStep(Duration::from_secs(11));
    let mut bench = Bench::healthy(PartitionConfig::default());
    bench.here.doubt(step, bench.now);
    assert_eq!(bench.here.mode(), Mode::Degraded);
    assert_eq!(bench.mode_after(DETECTION, &["b", "c"]), Mode::Recovering, "it is over");
}

#[test]
fn a_node_that_doubts_itself_does_not_join() {
    let mut bench = Bench::new("a", PartitionConfig::default(), &roster(&["a", "b", "c"], &[]));
    bench.here.doubt(Doubt::ClockAhead, bench.now);
    bench.drain();
    bench.hear(&["b", "c"]);
    bench.synchronise(&["b", "c"]);
    assert_eq!(bench.here.mode(), Mode::Joining);
    bench.here.doubt_over(DoubtKind::ClockAhead, bench.now);
    assert_eq!(bench.here.mode(), Mode::Healthy);
}

#[test]
fn the_tie_breaker_decides_which_half_goes_on() {
    let mut two = roster(&["a", "b"], &[]);
    two.tie_breaker = Some(node("a"));
    for (own, other, expected) in [("a", "b", Mode::Healthy), ("b", "a", Mode::Degraded)] {
        let mut bench = Bench::new(own, PartitionConfig::default(), &two);
        bench.hear(&[other]);
        bench.synchronise(&[other]);
        assert_eq!(bench.here.mode(), Mode::Healthy);
        assert_eq!(bench.mode_after(2 * DETECTION, &[]), expected);
    }
}

#[test]
fn a_roster_with_other_voters_is_heeded_at_once() {
    let mut bench = Bench::healthy(PartitionConfig::default());
    bench.here.set_roster(&roster(&["a", "b", "c", "d", "e", "f"], &[]), bench.now);
    assert_eq!(bench.here.mode(), Mode::Degraded);
    bench.here.set_roster(&roster(&["c"], &["a"]), bench.now);
    assert_eq!(*bench.here.reachable(), nodes(&["c"]));
}

#[test]
fn changes_that_nobody_takes_are_told_together_and_not_lost() {
    let mut bench = Bench::healthy(PartitionConfig::default());
    let failed: BTreeMap<_, _> = ["b", "c"].map(|name| (node(name), MemberStatus::Failed)).into();
    let mut round = bench.round;
    for _ in 0..2 * limits::MODE_CHANGES_MAX {
        bench.here.set_liveness(failed.clone(), bench.now);
        bench.here.set_liveness(BTreeMap::new(), bench.now);
        for _ in 0..2400 {
            bench.now = bench.now + 50 * MS;
            bench.number += 1;
            bench.here.handle_beat(&node("b"), (1, bench.number), Some(bench.now), bench.now);
            bench.here.handle_timeout(bench.now);
        }
        round += 1;
        bench.here.handle_synchronised(round, &node("b"), bench.now);
    }
    assert_eq!(bench.here.mode(), Mode::Healthy);
    bench.drain();
    assert_eq!(bench.changes.len(), limits::MODE_CHANGES_MAX);
    assert_eq!(bench.changes.last().map(|(_, to)| *to), Some(Mode::Healthy));
}
