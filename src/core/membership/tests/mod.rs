//! Memberships that talk to each other by hand, or to a made-up mesh: see [`bench`].
//!
//! The numbers in the names are those of `docs/swim-behaviours.md`.

use rand::SeedableRng;

use super::*;
use crate::core::wire::{MemberEntry, MemberEntryState};

mod bench;
mod claims;
mod expulsion;
mod packets;
mod probing;
mod suspicion;

fn key(byte: u8) -> NodeKey {
    NodeKey([byte; 16])
}

fn member(byte: u8, start: u64) -> Membership {
    let rng = ChaCha8Rng::seed_from_u64(u64::from(byte));
    let incarnation = Incarnation::first_of(start);
    Membership::new(key(byte), incarnation, Profile::Auto, Overrides::default(), rng)
}

fn alive(byte: u8, incarnation: Incarnation) -> MemberEntry {
    MemberEntry { key: key(byte), incarnation, refutations: 0, state: MemberEntryState::Alive }
}

/// The packets that wait to be sent to a node.
fn packets(from: &mut Membership, to: NodeKey) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while let Some(effect) = from.poll() {
        if let MemberEffect::Send { to: receiver, packet } = effect
            && receiver == to
        {
            packets.push(packet);
        }
    }
    packets
}

fn suspicion_timer(of: &mut Membership) -> Option<(Duration, MemberTimer)> {
    let timers = std::iter::from_fn(|| of.poll()).filter_map(|effect| {
        if let MemberEffect::Timer { after, timer: timer @ MemberTimer::Suspicion(_) } = effect {
            return Some((after, timer));
        }
        None
    });
    timers.last()
}

fn acquainted() -> (Membership, Membership) {
    let (mut a, mut b) = (member(1, 1), member(2, 1));
    a.apply_entries(key(2), &[alive(2, Incarnation::first_of(1))]);
    b.apply_entries(key(1), &[alive(1, Incarnation::first_of(1))]);
    (a, b)
}

#[test]
fn a_packet_that_names_another_sender_than_its_link_is_dropped() {
    let (mut a, mut b) = acquainted();
    b.announce(key(1));
    let packet = packets(&mut b, key(1)).pop().expect("announced");
    let refused = a.handle_packet(key(3), &packet).expect_err("forged");
    assert_eq!(refused, PacketError::WrongSender { claimed: key(2), peer: key(3) });
    assert!(a.handle_packet(key(2), &packet).is_ok());
}

#[test]
fn absurd_incarnations_lock_nobody_out() {
    let (mut a, _) = acquainted();
    for unknown in [2, 3] {
        let absurd = [MemberEntryState::Alive, MemberEntryState::Failed, MemberEntryState::Left];
        for state in absurd {
            let entry = MemberEntry { state, ..alive(unknown, Incarnation(u64::MAX)) };
            a.apply_entries(key(9), &[entry]);
        }
        a.apply_entries(key(unknown), &[alive(unknown, Incarnation::first_of(2))]);
        let known = a.known(&key(unknown)).expect("it is believed");
        assert_eq!((known.incarnation.start(), known.status), (2, MemberStatus::Alive));
    }
}

#[test]
fn a_claim_about_this_very_node_cannot_use_up_its_incarnations() {
    let (mut a, _) = acquainted();
    for claimed in [Incarnation(u64::MAX), Incarnation::first_of(1 << 40)] {
        a.apply_entries(key(2), &[alive(1, claimed)]);
    }
    assert!(!std::iter::from_fn(|| a.poll()).any(|e| matches!(e, MemberEffect::OutdatedSelf(_))));
    a.apply_entries(key(2), &[alive(1, Incarnation::first_of(7))]);
    let noticed = std::iter::from_fn(|| a.poll()).any(|e| matches!(e, MemberEffect::OutdatedSelf(_)));
    assert!(noticed, "a start that is credible is continued above");
}

#[test]
fn more_members_than_the_bound_are_not_taken() {
    let (mut a, _) = acquainted();
    let entry = |n: usize| MemberEntry {
        key: NodeKey(std::array::from_fn(|i| if i < 8 { n.to_le_bytes()[i] } else { 0xee })),
        ..alive(0, Incarnation::first_of(1))
    };
    let many: Vec<_> = (0..3 * limits::PEERS_MAX).map(entry).collect();
    a.apply_entries(key(2), &many);
    let left: Vec<_> = many.iter().map(|e| MemberEntry { state: MemberEntryState::Left, ..*e }).collect();
    a.apply_entries(key(2), &left);
    let gone: Vec<_> =
        many.iter().map(|e| MemberEntry { state: MemberEntryState::Forgotten, ..*e }).collect();
    assert!(a.all_known().count() <= limits::PEERS_MAX);
    a.apply_entries(key(2), &gone);
    assert!(a.forgotten.len() <= FORGOTTEN_MAX);
    assert!(a.entries().len() <= limits::MEMBERS_PER_FRAME_MAX, "and its own list is accepted by others");
}

#[test]
fn a_suspect_that_is_told_refutes_and_one_that_is_not_fails() {
    let (mut a, mut b) = acquainted();
    a.suspect(key(2));
    assert_eq!(a.known(&key(2)).expect("known").status, MemberStatus::Suspect);
    let told = packets(&mut a, key(2));
    for packet in &told {
        b.handle_packet(key(1), packet).expect("it is a packet");
    }
    for packet in packets(&mut b, key(1)) {
        a.handle_packet(key(2), &packet).expect("it is a packet");
    }
    let known = a.known(&key(2)).expect("known");
    assert_eq!((known.status, known.refutations), (MemberStatus::Alive, 1));

    a.suspect(key(2));
    for step in 1..=200 {
        let Some((after, timer)) = suspicion_timer(&mut a) else { break };
        a.set_now(a.now + after);
        a.handle_timer(timer, Duration::ZERO);
        assert!(step < 200, "there is a verdict at some time");
    }
    assert_eq!(a.known(&key(2)).expect("known").status, MemberStatus::Failed);
}
