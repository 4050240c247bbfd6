//! Probes: whom, when, with whose help, and what this node thinks of its own health.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one kind among many")]

use std::collections::{BTreeMap, BTreeSet};

use foca::{Message, State};

use super::bench::{Bench, Help, identity, news, packet_of, start_of};
use super::*;
use crate::core::membership::packet::Note;

const PERIOD: Duration = Duration::from_millis(500);

/// Who was asked beside the neighbour in the ring, in order: the laps.
fn laps(bench: &Bench, ring: u8) -> Vec<u8> {
    bench.pinged().into_iter().map(|(_, to)| to).filter(|to| *to != ring).collect()
}

/// The next one in the ring behind node 1: keys are in order of their bytes.
const RING: u8 = 2;

#[test]
fn row_035_every_member_is_probed_once_a_lap_before_any_is_probed_twice() {
    let mut bench = Bench::of(9);
    bench.run(PERIOD * 4 * 8 * 5);
    let asked = laps(&bench, RING);
    let others: BTreeSet<u8> = (3..=9).collect();
    // The lap that was under way when the members came is not whole.
    let whole: Vec<_> = asked.chunks_exact(7).collect();
    assert!(whole.len() >= 4, "{asked:?}");
    for lap in &whole {
        assert_eq!(lap.iter().copied().collect::<BTreeSet<_>>(), others, "{asked:?}");
    }
    assert!(whole.windows(2).any(|two| two[0] != two[1]), "each lap has an order of its own: {asked:?}");
}

#[test]
fn row_035_a_new_member_takes_a_random_place_in_the_present_lap() {
    let mut waits = BTreeSet::new();
    for seed in 0..12 {
        let mut bench = Bench::seeded(9, Overrides::default(), seed);
        bench.run(PERIOD * 4);
        bench.sent.clear();
        bench.it.apply_entries(key(2), &[alive(10, start_of(1))]);
        bench.drain();
        // It is the ring's neighbour of nobody here; what is left of a lap has at most nine turns.
        bench.run(PERIOD * 4 * 10);
        let place = laps(&bench, RING).iter().position(|to| *to == 10);
        waits.insert(place.expect("it is asked within the lap"));
    }
    assert!(waits.len() >= 3, "its place is a matter of chance: {waits:?}");
}

#[test]
fn row_035_in_every_period_every_member_is_probed_by_its_neighbour() {
    let mut probed = BTreeSet::new();
    let all: Vec<_> = (1..=20).map(|byte| alive(byte, start_of(1))).collect();
    for byte in 1..=20 {
        let mut it = member(byte, 1);
        it.apply_entries(key(99), &all);
        it.on_turn(Duration::ZERO);
        let asked = std::iter::from_fn(|| it.poll()).find_map(|effect| match effect {
            MemberEffect::Send { to, packet } => {
                let opened = super::super::packet::open(&packet, key(byte), to).expect("opens");
                matches!(opened.header.message, Message::Ping(_)).then_some(to)
            }
            _ => None,
        });
        probed.insert(asked.expect("it asks somebody"));
    }
    assert_eq!(probed.len(), 20, "nobody twice, and so everybody once");
}

#[test]
fn row_036_after_a_missed_answer_helpers_are_asked_and_one_that_reaches_it_is_enough() {
    let mut bench = Bench::of(9);
    bench.silent.insert(RING);
    (3..=9).for_each(|byte| _ = bench.help.insert(byte, Help::Silent));
    bench.help.insert(5, Help::Reaches);
    bench.help.insert(7, Help::Reaches);
    bench.run(PERIOD * 40);
    let mut asked: BTreeMap<Instant, BTreeSet<u8>> = BTreeMap::new();
    for plea in bench.sent.iter().filter(|s| matches!(s.message, Message::PingReq { .. })) {
        asked.entry(plea.at).or_default().insert(plea.to.0[0]);
    }
    assert!(asked.len() >= 5 && asked.values().all(|helpers| helpers.len() == 4), "{asked:?}");
    let in_vain = asked.values().filter(|helpers| !helpers.contains(&5) && !helpers.contains(&7)).count();
    let missed =
        |e: &MemberEffect| matches!(e, MemberEffect::Found { evidence: Evidence::ProbeMissed { .. }, .. });
    assert_eq!(bench.count(missed), in_vain, "one of the two that reach it is enough");
    let mut bench = Bench::of(9);
    bench.silent.insert(RING);
    (3..=9).for_each(|byte| _ = bench.help.insert(byte, Help::Reaches));
    bench.run(PERIOD * 40);
    assert_eq!((bench.changes(RING), bench.health()), (vec![], 0), "it is not even suspected");
}

#[test]
fn row_039_whoever_answers_to_nobody_is_suspected_and_others_are_told() {
    let mut bench = Bench::of(9);
    bench.silent.insert(RING);
    bench.until(PERIOD * 4, |b| b.status(RING) == Some(MemberStatus::Suspect));
    bench.run(Duration::from_millis(400));
    let told: BTreeSet<_> = bench
        .sent
        .iter()
        .filter(|s| s.news.iter().any(|m| m.id().key == key(RING) && m.state() == State::Suspect))
        .map(|sent| sent.to.0[0])
        .collect();
    assert!(told.len() >= 4 && told.contains(&RING), "it and others: {told:?}");
    let origins = bench.sent.iter().flat_map(|s| &s.note.rumours).filter(|r| r.key == key(RING));
    assert!(origins.into_iter().all(|rumour| rumour.by == key(1)), "with the origin of the accusation");
}

/// How long a silent member's first wait is: until helpers are asked.
fn first_wait(bench: &mut Bench) -> Duration {
    bench.sent.clear();
    bench.silent.insert(RING);
    bench.until(PERIOD * 20, |b| b.pinged().iter().any(|(_, to)| *to == RING));
    let asked = bench.pinged()[0].0;
    let plea = |s: &&super::bench::Sent| matches!(s.message, Message::PingReq { .. });
    bench.until(PERIOD * 20, |b| b.sent.iter().any(|s| plea(&s)));
    bench.sent.iter().find(plea).expect("it was waited for").at.since(asked)
}

#[test]
fn row_044_waits_and_periods_are_stretched_by_one_more_than_the_health_score() {
    let healthy = first_wait(&mut Bench::of(9));
    for score in [1, 3, 7] {
        let mut ill = Bench::of(9);
        ill.it.health.worsen(score);
        let wait = first_wait(&mut ill);
        assert_eq!(wait, healthy * u32::from(score + 1), "at a score of {score}");
    }
}

#[test]
fn row_045_an_answer_improves_the_own_health_and_silent_helpers_cost_as_much_as_they_are() {
    let mut bench = Bench::of(9);
    bench.it.health.worsen(3);
    bench.run(PERIOD * 9);
    assert!(bench.health() < 3, "answers improve it");
    for (nacks, cost) in [(0, 4), (1, 3), (2, 2)] {
        let mut bench = Bench::of(6);
        bench.silent.insert(RING);
        (3..=6).for_each(|byte| _ = bench.help.insert(byte, Help::Silent));
        (3..3 + nacks).for_each(|byte| _ = bench.help.insert(byte, Help::Fails));
        bench.until(PERIOD * 4, |b| b.status(RING) == Some(MemberStatus::Suspect));
        assert_eq!(bench.health(), cost, "{nacks} of 4 helpers said that they failed");
    }
}

#[test]
fn row_046_helpers_that_say_that_they_failed_cost_no_health() {
    let mut bench = Bench::of(6);
    bench.silent.insert(RING);
    (3..=6).for_each(|byte| _ = bench.help.insert(byte, Help::Fails));
    let took = bench.until(PERIOD * 4, |b| b.status(RING) == Some(MemberStatus::Suspect));
    assert_eq!(bench.health(), 0);
    let missed = Evidence::ProbeMissed { waited_ms: 200, helpers: 4, nacks: 4 };
    assert!(bench.found(RING).contains(&&missed), "{:?}", bench.found(RING));
    let asked = bench.pinged().iter().filter(|(_, to)| *to == RING).map(|(at, _)| *at).next();
    let waited = bench.now.since(asked.expect("it was asked"));
    assert!(waited < Duration::from_millis(210), "the last of them ends the wait: {waited:?} of {took:?}");
}

#[test]
fn row_047_a_suspicion_about_this_node_worsens_its_health_once() {
    let mut bench = Bench::of(5);
    for teller in 2..=5 {
        bench.hear_gossip(teller, &[news(1, 0, State::Suspect)]);
    }
    assert_eq!(bench.health(), 1, "the same suspicion from four is one");
    bench.hear_gossip(2, &[news(1, 1, State::Suspect)]);
    assert_eq!(bench.health(), 2, "one about what it is since is another");
}

#[test]
fn row_049_a_helper_that_hears_nothing_says_so_to_who_asked_with_its_number() {
    let mut bench = Bench::of(5);
    bench.silent.extend([3, 4]);
    bench.hear(4, Message::PingReq { target: identity(3), probe_number: 77 }, &[]);
    bench.hear(5, Message::PingReq { target: identity(3), probe_number: 78 }, &[]);
    bench.run(Duration::from_millis(200));
    let nacks = |to: u8| {
        let to = bench.sent.iter().filter(|s| s.to == key(to)).flat_map(|s| s.note.nacks.clone());
        to.collect::<Vec<_>>()
    };
    assert_eq!((nacks(4), nacks(5)), (vec![77], vec![78]));
    assert!(nacks(2).is_empty(), "and to nobody else");
    let asked = |s: &&super::bench::Sent| s.to == key(3) && matches!(s.message, Message::IndirectPing { .. });
    assert_eq!(bench.sent.iter().filter(asked).count(), 2, "and it has tried");
}

#[test]
fn row_049_a_helper_that_is_answered_says_nothing_of_failure() {
    let mut bench = Bench::of(5);
    bench.hear(4, Message::PingReq { target: identity(3), probe_number: 77 }, &[]);
    bench.hear(3, Message::IndirectAck { target: identity(4), probe_number: 77 }, &[]);
    bench.run(Duration::from_millis(500));
    assert!(bench.sent.iter().all(|s| s.note.nacks.is_empty()));
    let forwards = bench.sent.iter().filter(|s| matches!(s.message, Message::ForwardedAck { .. }));
    assert_eq!(forwards.map(|s| s.to).collect::<Vec<_>>(), [key(4)]);
}

#[test]
fn row_050_late_repeated_and_unknown_answers_mean_nothing() {
    let mut bench = Bench::of(5);
    bench.it.health.worsen(5);
    for number in 0..=255 {
        bench.hear(4, Message::Ack(number), &[]);
        bench.hear(4, Message::ForwardedAck { origin: identity(3), probe_number: number }, &[]);
        bench.hear_noted(4, Message::Gossip, &[], &Note { nacks: vec![number], ..Note::default() });
    }
    assert_eq!(bench.health(), 5, "an answer that nobody waits for proves nothing");
    bench.silent.insert(RING);
    bench.until(PERIOD * 60, |b| b.pinged().iter().any(|(_, to)| *to == RING));
    let Message::Ping(number) = bench.sent.iter().rfind(|s| s.to == key(RING)).expect("asked").message else {
        panic!("a ping was the last thing");
    };
    bench.hear(4, Message::Ack(number), &[]);
    assert_eq!(bench.health(), 5, "nor does an answer of somebody else");
    bench.hear(RING, Message::Ack(number), &[]);
    bench.hear(RING, Message::Ack(number), &[]);
    assert_eq!(bench.health(), 4, "the same answer twice is one");
    let trips = bench.count(|e| matches!(e, MemberEffect::RoundTrip { key: of, .. } if *of == key(RING)));
    assert_eq!(trips, 1);
}

#[test]
fn row_050_probes_that_nobody_answers_are_not_kept() {
    let mut bench = Bench::of(40);
    bench.silent.extend(2..=40);
    bench.run(Duration::from_secs(3600));
    assert!((2..=40).all(|byte| bench.status(byte) == Some(MemberStatus::Failed)));
    let kept = format!("{:?}", bench.it.prober);
    assert!(kept.contains("open: {}") && kept.contains("duties: {}"), "{kept}");
}

#[test]
fn row_051_a_ping_that_is_meant_for_somebody_else_is_not_answered() {
    let mut bench = Bench::of(5);
    let other_node = identity(9);
    let earlier_self = Identity::of(key(1), Incarnation(start_of(1).0 - 1));
    for meant in [other_node, earlier_self] {
        let ping = packet_of((identity(3), 0), meant, Message::Ping(5), &[], &Note::default());
        let _ = bench.it.handle_packet(key(3), &ping);
        bench.drain();
        assert!(!bench.sent.iter().any(|s| s.message == Message::Ack(5)), "{meant:?}");
    }
    bench.hear(3, Message::Ping(5), &[]);
    assert!(bench.sent.iter().any(|s| s.message == Message::Ack(5)));
}

#[test]
fn row_067_this_node_asks_neither_itself_nor_itself_for_help() {
    let mut bench = Bench::of(4);
    let own = MemberEntry { refutations: 3, ..alive(1, start_of(1)) };
    bench.it.apply_entries(key(2), &[own]);
    bench.hear_gossip(3, &[news(1, 2, State::Alive)]);
    bench.silent.insert(3);
    bench.run(PERIOD * 100);
    assert!(bench.sent.iter().all(|s| s.to != key(1)));
    assert!(bench.it.all_known().all(|(known, _)| *known != key(1)));
}

#[test]
fn row_068_in_a_small_mesh_all_others_are_asked_for_help() {
    for size in 3..=6 {
        let mut bench = Bench::of(size);
        bench.silent.insert(RING);
        bench.until(PERIOD * 4, |b| b.status(RING) == Some(MemberStatus::Suspect));
        let helpers = bench.sent.iter().filter(|s| matches!(s.message, Message::PingReq { .. }));
        let helpers: Vec<_> = helpers.map(|s| s.to.0[0]).collect();
        let mut each = helpers.clone();
        each.sort_unstable();
        assert_eq!(each, (3..=size).collect::<Vec<_>>(), "a mesh of {size}");
    }
}

#[test]
fn row_070_a_sign_leads_straight_to_a_check_and_from_there_to_an_accusation() {
    let mut bench = Bench::of(9);
    bench.run(PERIOD * 5);
    bench.silent.insert(7);
    bench.sent.clear();
    bench.it.check(key(7), "host unreachable");
    bench.drain();
    assert_eq!(bench.pinged(), [(bench.now, 7)], "it is asked at once, and nobody else");
    assert_eq!(bench.status(7), Some(MemberStatus::Alive), "a sign is no verdict");
    let took = bench.until(PERIOD, |b| b.status(7) == Some(MemberStatus::Suspect));
    assert!(took <= Duration::from_millis(150), "{took:?}");
    assert!(matches!(bench.found(7)[0], Evidence::Hint { sign } if sign == "host unreachable"));

    let mut bench = Bench::of(9);
    bench.it.check(key(7), "host unreachable");
    bench.run(PERIOD);
    assert_eq!(bench.changes(7), [], "one that answers is none the worse for it");
}

#[test]
fn row_070_a_port_at_which_nobody_listens_is_an_accusation_that_is_over_soon() {
    let mut bench = Bench::of(9);
    bench.silent.insert(7);
    bench.it.port_refuses(key(7), "port unreachable");
    bench.drain();
    assert_eq!(bench.status(7), Some(MemberStatus::Suspect));
    for _ in 0..3 {
        bench.run(Duration::from_millis(30));
        bench.it.port_refuses(key(7), "port unreachable");
        bench.drain();
    }
    let took = bench.until(PERIOD, |b| b.status(7) == Some(MemberStatus::Failed));
    assert!(took < Duration::from_millis(100), "{took:?}");

    let mut bench = Bench::of(9);
    for _ in 0..20 {
        bench.it.port_refuses(key(7), "forged");
        bench.drain();
        bench.run(Duration::from_millis(30));
    }
    assert_eq!(bench.status(7), Some(MemberStatus::Alive), "whoever answers refutes it");
    assert!(!bench.changes(7).contains(&MemberStatus::Failed));
}

#[test]
fn a_mesh_in_which_every_answer_takes_seconds_is_probed_at_its_pace() {
    for millis in [100, 1_000, 2_900, 3_100, 4_500, 10_000, 60_000] {
        let mut bench = Bench::of(4);
        bench.silent.extend(2..=4);
        (2..=4).for_each(|byte| bench.it.round_trips.measure(key(byte), Duration::from_millis(millis)));
        bench.run(PERIOD * 200);
        assert!(!bench.pinged().is_empty(), "{millis} ms");
    }
}
