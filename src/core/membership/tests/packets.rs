//! Packets: how much goes into one, how often news is told, and what is dropped.

use std::collections::BTreeMap;

use foca::{Message, State};

use super::bench::{Bench, identity, news, packet_of, start_of};
use super::*;
use crate::core::membership::packet::{Form, Note, seal};

#[test]
fn row_084_each_piece_of_news_is_told_a_bounded_number_of_times_and_new_news_first() {
    let mut bench = Bench::of(60);
    bench.run(Duration::from_secs(60));
    bench.sent.clear();
    bench.hear_gossip(4, &[news(3, 1, State::Alive)]);
    bench.hear(5, Message::Ping(200), &[]);
    let first = bench.sent.iter().find(|s| s.message == Message::Ack(200)).expect("answered");
    assert!(first.news.iter().any(|m| m.id().key == key(3)), "the next packet has it");
    bench.run(Duration::from_secs(60));
    let told = bench.sent.iter().filter(|s| s.news.iter().any(|m| m.id().key == key(3))).count();
    let most = usize::from(bench.it.outbox.timings.transmissions);
    assert!((2..=most).contains(&told), "{told}, at most {most}");
}

#[test]
fn row_086_a_packet_never_exceeds_its_budget_however_much_there_is_to_tell() {
    let mut bench = Bench::of(5);
    let entry = |n: u16| MemberEntry {
        key: NodeKey(std::array::from_fn(|i| if i < 2 { n.to_le_bytes()[i] } else { 0xfe })),
        incarnation: Incarnation(start_of(limits::INCARNATION_START_JUMP_MAX).0 - 1),
        refutations: u16::MAX - 1,
        state: MemberEntryState::Alive,
    };
    // Lists of up to so many are gossiped on.
    for chunk in (0..1000_u16).collect::<Vec<_>>().chunks(50) {
        bench.it.apply_entries(key(4), &chunk.iter().map(|n| entry(*n)).collect::<Vec<_>>());
        for byte in 2..=5 {
            bench.it.peer_left(NodeKey([100 + byte; 16]), start_of(1 << 20));
        }
        bench.drain();
    }
    bench.silent.extend(2..=5);
    bench.run(Duration::from_secs(10));
    let largest = bench.sent.iter().map(|s| s.bytes).max().expect("it talks");
    assert!(largest > 900, "packets are filled: {largest}");
    assert!(largest <= limits::SWIM_PACKET_BYTES_MAX, "{largest}");
}

#[test]
fn row_087_a_count_of_members_that_lies_and_a_packet_that_is_cut_are_errors() {
    let mut bench = Bench::of(5);
    let own = *bench.it.foca.identity();
    let two = [news(3, 1, State::Suspect), news(4, 1, State::Suspect)];
    let honest = packet_of((identity(2), 0), own, Message::Gossip, &two, &Note::default());
    let members: usize = 2 * 24;
    let count_at = (0..honest.len() - 1)
        .rfind(|at| honest[*at..].starts_with(&[0, 2]) && honest.len() - at > members / 2)
        .expect("there is a count");
    for count in [0_u16, 1, 3, 255, 256, u16::MAX] {
        let mut lying = honest.clone();
        lying[count_at..count_at + 2].copy_from_slice(&count.to_be_bytes());
        assert!(bench.it.handle_packet(key(2), &lying).is_err(), "{count}");
    }
    for length in count_at + 1..honest.len() {
        assert!(bench.it.handle_packet(key(2), &honest[..length]).is_err(), "{length} bytes");
    }
    bench.drain();
    assert!((2..=5).all(|byte| bench.status(byte) == Some(MemberStatus::Alive)), "nothing of it was taken");
    bench.it.handle_packet(key(2), &honest).expect("it opens");
    assert_eq!(bench.status(3), Some(MemberStatus::Suspect));
}

#[test]
fn row_089_empty_short_and_unknown_packets_are_dropped_with_the_reason() {
    let mut bench = Bench::of(5);
    let before = bench.it.entries();
    let good = seal(Form::Full, &Note::default(), &[0; 40]);
    let mut cases: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    cases.insert("empty", vec![]);
    cases.insert("one byte", vec![1]);
    cases.insert("another form", vec![99, 0, 1, 2, 3]);
    cases.insert("a note beyond the end", vec![1, 200, 1]);
    cases.insert("a note of garbage", [&[1, 4][..], &[255; 4], &good[2..]].concat());
    cases.insert("an unknown message", {
        let own = *bench.it.foca.identity();
        let mut ping = packet_of((identity(2), 0), own, Message::Announce, &[], &Note::default());
        *ping.last_mut().expect("not empty") = 250;
        ping
    });
    cases.insert("too long", vec![1; limits::SWIM_PACKET_BYTES_MAX + 1]);
    for (what, packet) in &cases {
        let dropped = bench.it.handle_packet(key(2), packet);
        assert!(dropped.is_err(), "{what}");
        assert!(!dropped.expect_err("dropped").to_string().is_empty());
    }
    bench.drain();
    assert_eq!(bench.it.entries(), before);
    assert!(bench.sent.is_empty(), "nobody is answered");
}

#[test]
fn row_088_a_packet_in_which_any_bit_is_flipped_makes_nobody_fail() {
    // QUIC drops such packets; this is what a peer that sends them on purpose achieves.
    let own = Bench::of(5).it.foca.identity().to_owned();
    let packet =
        packet_of((identity(2), 0), own, Message::Gossip, &[news(3, 0, State::Alive)], &Note::default());
    for bit in 0..packet.len() * 8 {
        let mut bench = Bench::of(5);
        let mut flipped = packet.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let _ = bench.it.handle_packet(key(2), &flipped);
        bench.drain();
        let status = (2..=5).filter(|byte| bench.status(*byte) == Some(MemberStatus::Failed)).count();
        assert!(status <= 1, "bit {bit}");
        let known = bench.it.known(&key(2)).expect("known");
        assert_eq!(known.status, MemberStatus::Alive, "bit {bit}");
    }
}
