//! Suspicions: who counts, how long they last, what ends them, and verdicts.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one kind among many")]

use std::collections::BTreeSet;

use foca::{Message, State};

use super::bench::{Bench, accusation, news, start_of};
use super::*;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A mesh in which a suspicion lasts from half a second to a second, and all round trips are known to be short.
fn half_to_one(size: u8) -> Bench {
    let overrides =
        Overrides { suspicion_min: Some(ms(500)), suspicion_max: Some(ms(1000)), ..Overrides::default() };
    let mut bench = Bench::with(size, overrides);
    (2..=size).for_each(|byte| bench.it.round_trips.measure(key(byte), ms(2)));
    bench
}

/// Node 1 accuses node 3, which is silent. Everybody else is fine.
fn accused(mut bench: Bench) -> Bench {
    bench.silent.insert(3);
    bench.it.suspect(key(3));
    bench.drain();
    assert_eq!(bench.status(3), Some(MemberStatus::Suspect));
    bench
}

fn verdict(bench: &mut Bench) -> Duration {
    bench.until(Duration::from_secs(60), |b| b.status(3) == Some(MemberStatus::Failed))
}

#[test]
fn row_040_independent_confirmations_shorten_a_suspicion_step_by_step() {
    let mut times = Vec::new();
    for confirmations in 0..4 {
        let mut bench = accused(half_to_one(6));
        for by in 0..confirmations {
            bench.hear_noted(4 + by, Message::Gossip, &[], &accusation(3, 4 + by));
        }
        times.push(verdict(&mut bench));
    }
    // A verdict is given at a step, of which there are eight.
    for (took, window) in times.iter().zip([1000, 750, 604, 500]) {
        let most = ms(window) + ms(window) / 8 + ms(1);
        assert!((ms(window - 1)..=most).contains(took), "{times:?}, here {window} ms");
    }
}

#[test]
fn row_042_who_accuses_twice_or_passes_on_an_accusation_confirms_nothing() {
    let alone = verdict(&mut accused(half_to_one(9)));
    let mut bench = accused(half_to_one(9));
    for teller in 4..=9 {
        // All of them pass on what the first has said, and what this node said itself.
        bench.hear_noted(teller, Message::Gossip, &[], &accusation(3, 1));
        bench.hear_noted(teller, Message::Gossip, &[news(3, 0, State::Suspect)], &accusation(3, 3));
    }
    assert_eq!(verdict(&mut bench), alone, "neither the accuser nor hearsay nor the accused counts");
    let mut bench = accused(half_to_one(9));
    for teller in 4..=9 {
        bench.hear_noted(teller, Message::Gossip, &[], &accusation(3, 4));
    }
    let one = verdict(&mut bench);
    assert!(one < alone && one >= ms(750), "one witness, however often it is heard, is one: {one:?}");
}

#[test]
fn row_043_where_nobody_could_confirm_the_wait_is_short_and_the_last_confirmation_ends_it_at_once() {
    let mut two = half_to_one(2);
    two.silent.insert(2);
    two.it.suspect(key(2));
    let took = two.until(ms(4000), |b| b.status(2) == Some(MemberStatus::Failed));
    assert!((ms(500)..=ms(563)).contains(&took), "{took:?}: of two nodes none is left to be asked");
    let mut bench = accused(half_to_one(9));
    bench.run(ms(900));
    assert_eq!(bench.status(3), Some(MemberStatus::Suspect));
    for by in 4..=6 {
        bench.hear_noted(by, Message::Gossip, &[], &accusation(3, by));
    }
    let took = verdict(&mut bench);
    assert!(took <= ms(63), "it has had its time already: {took:?}");
}

#[test]
fn row_042_helpers_that_failed_are_witnesses_at_once() {
    let mut bench = half_to_one(6);
    bench.silent.insert(2);
    (3..=6).for_each(|byte| _ = bench.help.insert(byte, super::bench::Help::Fails));
    bench.until(ms(4000), |b| b.status(2) == Some(MemberStatus::Suspect));
    let took = bench.until(ms(4000), |b| b.status(2) == Some(MemberStatus::Failed));
    assert!((ms(500)..=ms(563)).contains(&took), "{took:?}");
    let by: BTreeSet<_> = bench
        .found(2)
        .into_iter()
        .filter_map(|found| match found {
            Evidence::Accused { by } | Evidence::Confirmed { by, .. } => Some(by.0[0]),
            _ => None,
        })
        .collect();
    assert_eq!(by, BTreeSet::from([1, 3, 4, 5, 6]), "each with its name");
}

#[test]
fn row_044_the_own_health_stretches_the_time_that_a_suspect_has() {
    let healthy = verdict(&mut accused(half_to_one(9)));
    let mut bench = half_to_one(9);
    bench.it.health.worsen(7);
    bench.silent.extend(2..=9);
    let ill = verdict(&mut accused(bench));
    assert!(ill >= healthy * 7, "{ill:?}, healthy {healthy:?}");
}

#[test]
fn row_048_a_ping_to_a_suspect_tells_it_and_it_refutes_once() {
    let (mut a, mut b) = acquainted();
    a.suspect(key(2));
    let mut pings = packets(&mut a, key(2));
    assert!(!pings.is_empty());
    for packet in &pings {
        let opened = super::super::packet::open(packet, key(1), key(2)).expect("opens");
        let tells = opened.members.iter().any(|(m, _)| m.id().key == key(2) && m.state() == State::Suspect);
        assert!(tells, "{:?}", opened.header.message);
    }
    // The same suspicion comes again and again, from others too.
    pings.extend(pings.clone());
    for packet in &pings {
        b.handle_packet(key(1), packet).expect("opens");
    }
    let answers: Vec<_> = packets(&mut b, key(1));
    let refutations: BTreeSet<_> = answers
        .iter()
        .map(|packet| {
            super::super::packet::open(packet, key(2), key(1)).expect("opens").header.src_incarnation
        })
        .collect();
    assert_eq!(refutations, BTreeSet::from([1]), "one refutation for one suspicion");
}

#[test]
fn row_052_an_accusation_of_somebody_unknown_is_ignored_and_gossip_makes_it_known_without_a_verdict() {
    let mut bench = Bench::of(5);
    bench.hear_noted(4, Message::Gossip, &[], &accusation(8, 4));
    assert_eq!(bench.status(8), None);
    // That somebody suspects it says that it is a member: what is known of it is that.
    bench.hear_gossip(4, &[news(8, 0, State::Suspect)]);
    assert_eq!(bench.status(8), Some(MemberStatus::Suspect));
    bench.run(ms(4000));
    assert_ne!(bench.status(8), Some(MemberStatus::Failed), "it answers when it is asked");
}

#[test]
fn row_053_a_suspicion_of_an_earlier_incarnation_or_of_what_was_refuted_is_ignored() {
    let mut bench = Bench::of(5);
    bench.it.apply_entries(key(3), &[alive(3, start_of(2))]);
    bench.hear_gossip(4, &[news(3, 9, State::Suspect)]);
    assert_eq!(bench.status(3), Some(MemberStatus::Alive), "it was started again since");
    bench.hear_gossip(4, &[news(5, 2, State::Alive)]);
    bench.hear_gossip(4, &[news(5, 1, State::Suspect)]);
    assert_eq!(bench.status(5), Some(MemberStatus::Alive), "it has refuted that");
    bench.hear_gossip(4, &[news(5, 2, State::Suspect)]);
    assert_eq!(bench.status(5), Some(MemberStatus::Suspect));
}

#[test]
fn row_054_suspecting_again_does_not_give_more_time() {
    let once = verdict(&mut accused(half_to_one(6)));
    let mut bench = accused(half_to_one(6));
    let since = bench.now;
    for _ in 0..9 {
        bench.run(ms(100));
        bench.it.suspect(key(3));
        bench.hear_gossip(4, &[news(3, 0, State::Suspect)]);
    }
    verdict(&mut bench);
    let took = bench.now.since(since);
    assert!(took <= once + ms(125), "{took:?}, once {once:?}: a step later at most");
    assert_eq!(bench.changes(3), [MemberStatus::Suspect, MemberStatus::Failed]);
}

#[test]
fn row_062_the_timer_of_a_suspicion_that_was_refuted_does_nothing() {
    let mut bench = accused(half_to_one(6));
    bench.run(ms(450));
    bench.hear_gossip(4, &[news(3, 1, State::Alive)]);
    assert_eq!(bench.status(3), Some(MemberStatus::Alive));
    bench.silent.remove(&3);
    bench.refuted.insert(3, 1);
    bench.sent.clear();
    bench.run(ms(5000));
    assert_eq!(bench.changes(3), [MemberStatus::Suspect, MemberStatus::Alive]);
    let told =
        |s: &super::bench::Sent| s.news.iter().any(|m| m.id().key == key(3) && m.state() == State::Suspect);
    assert!(!bench.sent.iter().any(told), "and it is not asked to refute again");
}

#[test]
fn row_062_each_suspicion_has_a_time_of_its_own() {
    let mut bench = accused(half_to_one(6));
    bench.run(ms(900));
    bench.hear_gossip(4, &[news(3, 1, State::Alive)]);
    bench.it.suspect(key(3));
    bench.drain();
    let took = verdict(&mut bench);
    assert!(took >= ms(999), "what the first one had served does not count: {took:?}");
}

#[test]
fn row_072_a_later_refutation_or_incarnation_ends_a_suspicion_and_an_equal_one_does_not() {
    let mut bench = accused(Bench::of(6));
    bench.hear_gossip(4, &[news(3, 0, State::Alive)]);
    assert_eq!(bench.status(3), Some(MemberStatus::Suspect), "it says nothing new");
    bench.hear_gossip(4, &[news(3, 1, State::Alive)]);
    assert_eq!(bench.status(3), Some(MemberStatus::Alive));
    assert!(bench.found(3).contains(&&Evidence::Refuted));
    let mut bench = accused(Bench::of(6));
    bench.it.apply_entries(key(4), &[alive(3, start_of(2))]);
    assert_eq!(bench.status(3), Some(MemberStatus::Alive));
}

#[test]
fn row_061_only_the_member_itself_says_that_it_left() {
    let mut bench = accused(half_to_one(6));
    bench.it.peer_left(key(3), start_of(1));
    bench.drain();
    bench.it.peer_left(key(4), start_of(1));
    bench.drain();
    bench.silent.insert(5);
    bench.it.suspect(key(5));
    bench.run(ms(5000));
    let status = [3, 4, 5].map(|byte| bench.status(byte).expect("known"));
    assert_eq!(status, [MemberStatus::Left, MemberStatus::Left, MemberStatus::Failed]);
    assert_eq!(bench.changes(3), [MemberStatus::Suspect, MemberStatus::Left], "it was not called failed");
}

#[test]
fn row_083_what_was_refuted_is_not_told_any_more() {
    let mut bench = accused(Bench::of(9));
    bench.run(ms(50));
    bench.hear_gossip(4, &[news(3, 1, State::Alive)]);
    bench.silent.remove(&3);
    bench.refuted.insert(3, 1);
    bench.sent.clear();
    bench.run(ms(3000));
    let of_three: Vec<_> = bench.sent.iter().flat_map(|s| &s.news).filter(|m| m.id().key == key(3)).collect();
    assert!(!of_three.is_empty(), "the refutation is passed on");
    assert!(of_three.iter().all(|m| m.state() == State::Alive && m.incarnation() == 1), "{of_three:?}");
}

#[test]
fn row_085_accusations_beyond_their_bound_push_out_the_oldest() {
    let mut bench = Bench::of(5);
    let many: Vec<_> = (10..=250).map(|byte| alive(byte, start_of(1))).collect();
    bench.it.apply_entries(key(2), &many);
    bench.drain();
    for by in [2, 3] {
        for of in 10..=250 {
            bench.hear_gossip(4, &[news(of, 0, State::Suspect)]);
            bench.hear_noted(4, Message::Gossip, &[], &accusation(of, by));
        }
    }
    let waiting = format!("{:?}", bench.it.suspicions).matches("Accusation {").count();
    assert!((100..=limits::RUMOURS_MAX).contains(&waiting), "{waiting} wait to be told");
    bench.hear_noted(4, Message::Gossip, &[], &accusation(100, 5));
    let next = bench.it.suspicions.next_rumours();
    assert!(next.iter().any(|r| (r.key, r.by) == (key(100), key(5))), "the newest is told first: {next:?}");
}

#[test]
fn a_bystander_takes_over_when_the_accuser_comes_to_no_verdict() {
    for silent in 4..=9 {
        let mut bench = half_to_one(9);
        bench.silent.insert(silent);
        bench.hear_gossip(3, &[news(silent, 0, State::Suspect)]);
        assert_eq!(bench.status(silent), Some(MemberStatus::Suspect));
        // Its own turn to be probed may be fourteen seconds away.
        bench.until(ms(5000), |b| b.status(silent) == Some(MemberStatus::Failed));
        assert!(bench.found(silent).contains(&&Evidence::Accused { by: key(1) }));
    }
}

#[test]
fn gap_03_a_node_that_slept_gives_its_suspects_time_to_be_heard() {
    let mut bench = accused(half_to_one(6));
    bench.run(ms(700));
    bench.silent.remove(&3);
    // An hour in which this node does nothing; then it reads one packet before its timers fire.
    bench.skip(Duration::from_secs(3600));
    bench.hear(6, Message::Gossip, &[]);
    bench.run(Duration::ZERO);
    assert_eq!(bench.status(3), Some(MemberStatus::Suspect), "the time that it slept through does not count");
    assert!(bench.health() > 0, "it was its own fault");
    bench.run(ms(200));
    assert_eq!(bench.status(3), Some(MemberStatus::Alive));
}

#[test]
fn gap_02_a_node_that_hears_of_nobody_doubts_itself_before_it_calls_everybody_failed() {
    let mut bench = Bench::of(9);
    bench.run(ms(5000));
    bench.silent.extend(2..=9);
    bench.told.clear();
    bench.run(ms(6000));
    assert!(
        (2..=9).all(|byte| bench.status(byte) != Some(MemberStatus::Failed)),
        "no verdict while it is alone"
    );
    bench.run(Duration::from_secs(600));
    assert!((2..=9).all(|byte| bench.status(byte) == Some(MemberStatus::Failed)), "but not for ever");
}

#[test]
fn gap_02_time_in_which_a_node_hears_of_nobody_counts_against_nobody_at_first() {
    let took = |is_alone: bool| {
        let mut bench = half_to_one(6);
        bench.silent.extend(2..=6);
        bench.it.health.worsen(7);
        bench.run(ms(20_000));
        bench.it.suspicions = Suspicions::default();
        bench.it.apply_entries(key(2), &[alive(3, start_of(2))]);
        bench.it.suspect(key(3));
        bench.drain();
        let since = bench.now;
        while bench.status(3) != Some(MemberStatus::Failed) {
            assert!(bench.now.since(since) < Duration::from_secs(60));
            bench.run(ms(100));
            if !is_alone {
                bench.hear(6, Message::Gossip, &[]);
            }
        }
        bench.now.since(since)
    };
    let (alone, in_company) = (took(true), took(false));
    assert!(alone >= in_company + ms(1000), "alone {alone:?}, in company {in_company:?}");
}

#[test]
fn who_refuted_gets_its_time_once_more_and_it_is_forgotten() {
    let mut times = Vec::new();
    for refuted in 0..4_u16 {
        let mut bench = accused(half_to_one(6));
        for refutation in 1..=refuted {
            bench.hear_gossip(4, &[news(3, refutation, State::Alive)]);
            bench.it.suspect(key(3));
            bench.drain();
        }
        times.push(verdict(&mut bench));
    }
    for (took, window) in times.iter().zip([1000, 2000, 3000, 3000]) {
        let most = ms(window) + ms(200) + ms(1);
        assert!((ms(window - 1)..=most).contains(took), "{times:?}, here {window} ms");
    }
    let mut bench = accused(half_to_one(6));
    bench.hear_gossip(4, &[news(3, 1, State::Alive)]);
    bench.silent.remove(&3);
    bench.refuted.insert(3, 1);
    bench.run(ms(10_000));
    bench.silent.insert(3);
    bench.it.suspect(key(3));
    bench.drain();
    let took = verdict(&mut bench);
    assert!(took <= ms(1000) + ms(200), "{took:?}");
}
