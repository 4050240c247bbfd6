//! Claims: what is believed of members and of this node, from gossip and from whole lists.

use std::collections::BTreeSet;

use foca::{Message, State};

use super::bench::{Bench, news, start_of};
use super::*;
use crate::core::membership::packet::Note;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn entry(byte: u8, start: u64, refutations: u16, state: MemberEntryState) -> MemberEntry {
    MemberEntry { key: key(byte), incarnation: start_of(start), refutations, state }
}

/// This node's number of refutations, as its packets say.
fn own_refutations(bench: &mut Bench) -> u16 {
    bench.sent.clear();
    bench.hear(2, Message::Ping(9), &[]);
    bench.sent.iter().find(|s| s.message == Message::Ack(9)).expect("it answers").refutations
}

#[test]
fn row_021_nothing_that_was_on_its_way_brings_back_a_member_that_left() {
    let mut bench = Bench::of(5);
    let note = Note { left: vec![(key(3), start_of(1))], ..Note::default() };
    bench.hear_noted(3, Message::Gossip, &[], &note);
    assert_eq!(bench.status(3), Some(MemberStatus::Left));
    bench.hear(3, Message::Ping(4), &[]);
    bench.hear_gossip(4, &[news(3, 7, State::Alive)]);
    bench.it.apply_entries(key(4), &[entry(3, 1, 7, MemberEntryState::Alive)]);
    bench.it.apply_entries(key(3), &[alive(3, start_of(1))]);
    bench.drain();
    assert_eq!(bench.changes(3), [MemberStatus::Left]);
}

#[test]
fn row_024_a_departure_is_told_a_bounded_number_of_times_however_often_it_is_heard() {
    let mut bench = Bench::of(9);
    let note = Note { left: vec![(key(3), start_of(1))], ..Note::default() };
    for _ in 0..4 {
        for teller in [4, 5, 6, 7] {
            bench.hear_noted(teller, Message::Gossip, &[], &note);
        }
        bench.run(Duration::from_secs(60));
    }
    let told = bench.sent.iter().filter(|s| s.note.left.contains(&(key(3), start_of(1)))).count();
    let timings = bench.it.outbox.timings;
    let most = usize::from(timings.transmissions) * usize::from(timings.gossip_fanout);
    assert!((1..=most + 4).contains(&told), "{told} packets told it, {most} should");
    assert!(bench.it.departures.is_empty());
}

#[test]
fn row_028_a_node_that_was_killed_refutes_what_is_said_of_its_earlier_self_by_a_later_start() {
    let mut bench = Bench::of(5);
    bench.silent.insert(3);
    bench.it.suspect(key(3));
    bench.until(Duration::from_secs(20), |b| b.status(3) == Some(MemberStatus::Failed));
    bench.it.apply_entries(key(3), &[alive(3, start_of(2))]);
    bench.drain();
    assert_eq!(bench.status(3), Some(MemberStatus::Alive));
    bench.hear_gossip(4, &[news(3, 9, State::Down)]);
    bench.hear_gossip(4, &[news(3, 9, State::Suspect)]);
    assert_eq!(bench.status(3), Some(MemberStatus::Alive), "that was its earlier self");
}

#[test]
fn row_055_a_suspicion_about_this_node_is_refuted_and_never_believed() {
    let mut bench = Bench::of(5);
    assert_eq!(own_refutations(&mut bench), 0);
    bench.sent.clear();
    bench.hear_gossip(4, &[news(1, 0, State::Suspect)]);
    let told: BTreeSet<_> = bench.sent.iter().filter(|s| s.refutations == 1).map(|s| s.to).collect();
    assert!(told.len() >= 3, "some hear of it at once: {told:?}");
    assert_eq!(own_refutations(&mut bench), 1, "and everybody with the next answer");
    assert!(bench.it.known(&key(1)).is_none());
    let listed = bench.it.entries().into_iter().find(|e| e.key == key(1)).expect("it lists itself");
    assert_eq!(listed.state, MemberEntryState::Alive);
}

#[test]
fn row_056_an_outdated_suspicion_about_this_node_changes_nothing() {
    let mut bench = Bench::of(5);
    bench.hear_gossip(4, &[news(1, 0, State::Suspect)]);
    bench.sent.clear();
    for teller in [2, 3, 5] {
        bench.hear_gossip(teller, &[news(1, 0, State::Suspect)]);
    }
    assert!(bench.sent.is_empty(), "nor is it gossiped against: {:?}", bench.sent);
    assert_eq!(own_refutations(&mut bench), 1, "it was refuted already");
    let earlier = Identity::of(key(1), Incarnation(start_of(1).0 - 1));
    bench.hear_gossip(4, &[Member::new(earlier, 5, State::Suspect), Member::new(earlier, 5, State::Down)]);
    assert_eq!(own_refutations(&mut bench), 1, "that was an earlier self");
    assert_eq!(bench.count(|e| matches!(e, MemberEffect::Renewed)), 0);
}

#[test]
fn row_057_a_refutation_beats_an_accusation_that_is_far_ahead() {
    let mut bench = Bench::of(5);
    bench.hear_gossip(4, &[news(1, 500, State::Suspect)]);
    assert_eq!(own_refutations(&mut bench), 501);
}

#[test]
fn row_058_a_death_is_told_once_and_one_of_an_unknown_or_an_earlier_member_is_none() {
    let mut bench = Bench::of(5);
    bench.it.apply_entries(key(3), &[alive(3, start_of(2))]);
    bench.drain();
    bench.told.clear();
    bench.hear_gossip(4, &[news(3, 9, State::Down)]);
    assert_eq!(bench.changes(3), [], "that was an earlier self");
    bench.hear_gossip(4, &[news(5, 2, State::Alive)]);
    bench.hear_gossip(4, &[news(5, 1, State::Down)]);
    assert_eq!(bench.changes(5), [], "it has refuted that since");
    for teller in [3, 4] {
        bench.hear_gossip(teller, &[news(5, 2, State::Down)]);
    }
    assert_eq!(bench.changes(5), [MemberStatus::Failed], "twice heard, once told");
    bench.hear_gossip(4, &[news(8, 0, State::Down)]);
    assert!(bench.changes(8).iter().all(|status| !status.is_reachable()), "it was never seen here");
}

#[test]
fn row_059_an_alive_of_the_same_incarnation_does_not_raise_the_dead() {
    let mut bench = Bench::of(5);
    bench.hear_gossip(4, &[news(3, 0, State::Down)]);
    for refutations in [0, 1, 500] {
        bench.hear_gossip(4, &[news(3, refutations, State::Alive)]);
        bench.it.apply_entries(key(4), &[entry(3, 1, refutations, MemberEntryState::Alive)]);
        bench.it.apply_entries(key(3), &[entry(3, 1, refutations, MemberEntryState::Alive)]);
    }
    bench.drain();
    assert_eq!(bench.changes(3), [MemberStatus::Failed]);
    let renewed = Identity::of(key(3), start_of(1).renewed().expect("room"));
    bench.hear_gossip(4, &[Member::new(renewed, 0, State::Alive)]);
    assert_eq!(bench.status(3), Some(MemberStatus::Alive), "a renewed incarnation does");
}

#[test]
fn row_060_a_death_of_this_node_is_refuted_by_a_new_incarnation_unless_it_leaves() {
    let mut bench = Bench::of(5);
    let before = bench.it.incarnation();
    bench.hear_gossip(4, &[news(1, 0, State::Down)]);
    assert_eq!(bench.it.incarnation(), before.renewed().expect("room"));
    assert_eq!(bench.count(|e| matches!(e, MemberEffect::Renewed)), 1);
    // Told over a link by who holds it for failed, it does the same.
    let before = bench.it.incarnation();
    bench.it.held_for_failed(before);
    bench.it.held_for_failed(before);
    assert_eq!(bench.it.incarnation(), before.renewed().expect("room"), "once");

    let mut leaving = Bench::of(5);
    let before = leaving.it.incarnation();
    leaving.it.leave();
    leaving.hear_gossip(4, &[news(1, 0, State::Down)]);
    leaving.it.held_for_failed(before);
    leaving.drain();
    assert_eq!(leaving.it.incarnation(), before);
    assert!(leaving.sent.is_empty() && leaving.told.is_empty());
}

#[test]
fn row_063_the_dead_are_told_once_and_reliably_and_get_no_gossip_after_that() {
    let mut bench = Bench::of(9);
    bench.silent.insert(3);
    bench.it.suspect(key(3));
    bench.until(Duration::from_secs(20), |b| b.status(3) == Some(MemberStatus::Failed));
    let told =
        |e: &MemberEffect| matches!(e, MemberEffect::TellHeldForFailed { key: to, .. } if *to == key(3));
    assert_eq!(bench.count(told), 1);
    bench.run(ms(500));
    bench.sent.clear();
    bench.run(Duration::from_secs(600));
    assert!(bench.sent.iter().all(|s| s.to != key(3)), "it is dialled again, not gossiped to");
    bench.hear(3, Message::Ping(3), &[]);
    let answered = bench.sent.iter().any(|s| s.to == key(3) && s.message == Message::TurnUndead);
    assert!(answered, "one that speaks is told that it is held for dead");
}

#[test]
fn row_064_the_failed_are_kept_however_long_and_probed_no_more() {
    let mut bench = Bench::of(9);
    bench.silent.insert(3);
    bench.it.suspect(key(3));
    bench.until(Duration::from_secs(20), |b| b.status(3) == Some(MemberStatus::Failed));
    bench.sent.clear();
    bench.run(Duration::from_secs(2 * 3600));
    assert_eq!(bench.status(3), Some(MemberStatus::Failed));
    assert!(bench.pinged().iter().all(|(_, to)| *to != 3));
    assert!(bench.it.entries().iter().any(|e| e.key == key(3) && e.state == MemberEntryState::Failed));
}

#[test]
fn row_065_who_left_for_good_stays_forgotten_and_may_come_back_as_somebody_new() {
    let mut bench = Bench::of(5);
    bench.it.forget(key(3), start_of(1));
    bench.drain();
    assert_eq!(bench.status(3), None);
    bench.it.apply_entries(key(4), &[alive(3, start_of(1)), alive(4, start_of(1))]);
    bench.hear_gossip(4, &[news(3, 3, State::Alive), news(3, 4, State::Suspect)]);
    assert_eq!(bench.status(3), None);
    let grave = bench.it.entries().into_iter().find(|e| e.key == key(3)).expect("lists tell of it");
    assert_eq!(grave.state, MemberEntryState::Forgotten, "so that everybody forgets it");
    bench.it.apply_entries(key(4), &[alive(3, start_of(2))]);
    assert_eq!(bench.status(3), Some(MemberStatus::Alive));
    assert!(!bench.it.is_forgotten(&key(3), start_of(2)));
}

#[test]
fn row_066_a_later_start_of_a_node_takes_the_place_of_the_earlier_one() {
    let mut bench = Bench::of(5);
    bench.it.apply_entries(key(4), &[alive(3, start_of(9))]);
    bench.drain();
    let known = bench.it.known(&key(3)).expect("known");
    assert_eq!((known.incarnation, known.refutations), (start_of(9), 0));
    assert_eq!(bench.it.entries().iter().filter(|e| e.key == key(3)).count(), 1, "there is one of it");
    bench.it.apply_entries(key(4), &[alive(3, start_of(8))]);
    assert_eq!(bench.it.known(&key(3)).expect("known").incarnation, start_of(9), "never the other way");
}

#[test]
fn row_071_a_new_member_is_told_once_and_the_same_news_again_is_none() {
    let mut bench = Bench::of(5);
    for teller in [3, 4, 5] {
        bench.it.apply_entries(key(teller), &[alive(8, start_of(1))]);
        bench.drain();
        bench.hear_gossip(teller, &[news(8, 0, State::Alive)]);
    }
    assert_eq!(bench.changes(8), [MemberStatus::Alive]);
}

#[test]
fn row_082_suspects_count_as_there_and_the_failed_and_those_who_left_do_not() {
    let mut bench = Bench::of(9);
    assert_eq!(bench.it.live_count(), 8);
    bench.hear_gossip(4, &[news(3, 0, State::Suspect)]);
    assert_eq!(bench.it.live_count(), 8);
    bench.hear_gossip(4, &[news(5, 0, State::Down)]);
    bench.it.peer_left(key(6), start_of(1));
    bench.drain();
    assert_eq!(bench.it.live_count(), 6);
    assert_eq!(bench.it.all_known().count(), 8, "though all are known");
}

#[test]
fn row_094_a_list_that_lies_changes_nothing_that_it_must_not() {
    let mut bench = Bench::of(5);
    let before = bench.it.entries();
    let states = [
        MemberEntryState::Alive,
        MemberEntryState::Suspect,
        MemberEntryState::Failed,
        MemberEntryState::Left,
        MemberEntryState::Forgotten,
    ];
    let absurd = Incarnation(u64::MAX);
    let lies: Vec<_> = (1..=6)
        .flat_map(|byte| {
            states.map(|state| MemberEntry { state, incarnation: absurd, ..alive(byte, absurd) })
        })
        .collect();
    bench.it.apply_entries(key(4), &lies);
    let outdated = states.map(|state| MemberEntry { state, ..alive(3, Incarnation(0)) });
    bench.it.apply_entries(key(4), &outdated);
    bench.drain();
    assert_eq!(bench.it.entries(), before);
    assert!(bench.told.is_empty(), "{:?}", bench.told);
}

#[test]
fn row_097_two_lists_are_equal_after_both_were_told_the_other() {
    let (mut a, mut b) = acquainted();
    let of_a: Vec<_> = (10..40).map(|byte| alive(byte, start_of(u64::from(byte)))).collect();
    let of_b: Vec<_> = (30..60).map(|byte| alive(byte, start_of(u64::from(byte) + 1))).collect();
    a.apply_entries(key(2), &of_a);
    b.apply_entries(key(1), &of_b);
    a.peer_left(key(12), start_of(12));
    b.peer_left(key(35), start_of(36));
    a.forget(key(13), start_of(13));
    assert_ne!(a.entries_hash(), b.entries_hash());
    let (told_a, told_b) = (a.entries(), b.entries());
    b.apply_entries(key(1), &told_a);
    a.apply_entries(key(2), &told_b);
    assert_eq!(a.entries_hash(), b.entries_hash());
    let status = |it: &Membership, byte| it.known(&key(byte)).map(|k| (k.incarnation.start(), k.status));
    for byte in 10..60 {
        assert_eq!(status(&a, byte), status(&b, byte), "{byte}");
    }
    assert_eq!(status(&a, 35), Some((36, MemberStatus::Left)));
    assert_eq!(status(&b, 13), None);
}

#[test]
fn row_098_what_another_holds_for_failed_is_suspected_here_and_told() {
    let mut bench = Bench::of(5);
    bench.it.apply_entries(key(4), &[entry(3, 1, 0, MemberEntryState::Failed)]);
    bench.drain();
    assert_eq!(bench.status(3), Some(MemberStatus::Suspect), "it has the time to show itself");
    let told =
        |e: &MemberEffect| matches!(e, MemberEffect::TellHeldForFailed { key: to, .. } if *to == key(3));
    assert_eq!(bench.count(told), 1, "and hears who must be convinced");
    bench.run(ms(100));
    assert_eq!(bench.status(3), Some(MemberStatus::Alive));
    bench.it.apply_entries(key(4), &[entry(3, 1, 0, MemberEntryState::Failed)]);
    bench.drain();
    assert_eq!(bench.count(told), 1, "once for one incarnation");
}

#[test]
fn row_100_a_list_has_the_living_the_dead_the_departed_and_the_forgotten() {
    let mut bench = Bench::of(6);
    bench.hear_gossip(4, &[news(2, 0, State::Suspect), news(3, 0, State::Down)]);
    bench.it.peer_left(key(5), start_of(1));
    bench.it.forget(key(6), start_of(1));
    bench.drain();
    let states: Vec<_> = bench.it.entries().into_iter().map(|e| (e.key.0[0], e.state)).collect();
    let expected = [
        (1, MemberEntryState::Alive),
        (2, MemberEntryState::Suspect),
        (3, MemberEntryState::Failed),
        (4, MemberEntryState::Alive),
        (5, MemberEntryState::Left),
        (6, MemberEntryState::Forgotten),
    ];
    assert_eq!(states, expected);
}

#[test]
fn row_110_a_departure_that_comes_before_its_member_is_kept_for_it() {
    let mut bench = Bench::of(5);
    bench.it.peer_left(key(8), start_of(5));
    bench.drain();
    bench.it.apply_entries(key(4), &[alive(8, start_of(5))]);
    bench.hear_gossip(3, &[Member::new(Identity::of(key(8), start_of(4)), 0, State::Alive)]);
    assert_eq!(bench.status(8), Some(MemberStatus::Left));
    bench.it.peer_left(key(8), start_of(4));
    bench.drain();
    assert_eq!(bench.it.known(&key(8)).expect("known").incarnation, start_of(5), "an older one is dropped");
    bench.it.apply_entries(key(4), &[alive(8, start_of(6))]);
    assert_eq!(bench.status(8), Some(MemberStatus::Alive));
}

#[test]
fn row_111_a_start_after_a_departure_takes_it_back_and_an_older_departure_stays_without_effect() {
    let mut bench = Bench::of(5);
    bench.it.peer_left(key(3), start_of(1));
    bench.it.apply_entries(key(4), &[alive(3, start_of(2))]);
    bench.it.peer_left(key(3), start_of(1));
    let note = Note { left: vec![(key(3), start_of(1))], ..Note::default() };
    bench.hear_noted(4, Message::Gossip, &[], &note);
    assert_eq!(bench.changes(3), [MemberStatus::Left, MemberStatus::Alive]);
}

#[test]
fn row_112_departures_that_wait_to_be_told_are_kept_once_each_and_not_for_ever() {
    let mut bench = Bench::of(9);
    let all: BTreeSet<u8> = [3, 4, 5, 6, 7].into();
    for _ in 0..3 {
        for byte in &all {
            bench.it.peer_left(key(*byte), start_of(1));
            bench.drain();
        }
        assert!(bench.it.departures.len() <= all.len());
    }
    bench.run(Duration::from_secs(60));
    assert!(bench.it.departures.is_empty(), "{:?}", bench.it.departures);
    let told: BTreeSet<_> = bench.sent.iter().flat_map(|s| &s.note.left).map(|(gone, _)| gone.0[0]).collect();
    assert_eq!(told, all);
}

#[test]
fn gap_05_a_block_of_incarnations_that_is_used_up_is_continued_by_a_later_start() {
    let mut bench = Bench::of(5);
    let last = Incarnation(start_of(2).0 - 1);
    assert_eq!((last.start(), last.renewed()), (1, None));
    bench.it.restart_as(last);
    bench.drain();
    bench.told.clear();
    let death = Member::new(Identity::of(key(1), last), 0, State::Down);
    bench.hear_gossip(4, &[death]);
    let asked = bench.count(|e| matches!(e, MemberEffect::OutdatedSelf(at) if *at == last));
    assert_eq!(asked, 1, "{:?}", bench.told);
    bench.it.restart_as(start_of(2));
    bench.drain();
    bench.sent.clear();
    bench.hear(2, Message::Ping(9), &[]);
    assert!(bench.sent.iter().any(|s| s.message == Message::Ack(9)), "it takes part again");
    assert_eq!(bench.it.incarnation(), start_of(2));
}

#[test]
fn gap_05_refutations_that_are_used_up_are_continued_by_a_renewed_incarnation() {
    let mut bench = Bench::of(5);
    let before = bench.it.incarnation();
    bench.hear_gossip(4, &[news(1, u16::MAX, State::Suspect)]);
    assert_eq!(bench.it.incarnation(), before.renewed().expect("room"));
    assert_eq!(own_refutations(&mut bench), 0);
}

#[test]
fn gap_05_starts_near_the_last_one_are_believed_and_nothing_overflows() {
    let mut bench = Bench::of(5);
    let last = limits::INCARNATION_START_MAX;
    let mut start = 1;
    while start < last {
        start = last.min(start + limits::INCARNATION_START_JUMP_MAX * 4096);
        bench.it.known.get_mut(&key(3)).expect("known").incarnation = start_of(start - 1);
        bench.it.apply_entries(key(4), &[alive(3, start_of(start))]);
        assert_eq!(bench.it.known(&key(3)).expect("known").incarnation.start(), start);
    }
    bench.it.apply_entries(key(4), &[alive(3, Incarnation(u64::MAX))]);
    let known = bench.it.known(&key(3)).expect("known");
    assert_eq!(known.incarnation.start(), last, "{known:?}");
    bench.hear_gossip(4, &[Member::new(Identity::of(key(3), known.incarnation), u16::MAX, State::Suspect)]);
    bench.run(Duration::from_secs(30));
}
