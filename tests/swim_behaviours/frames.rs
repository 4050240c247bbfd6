//! Hellos and frames: what is refused before it costs anything.

use std::collections::BTreeMap;

use shoal::core::error::Refused;
use shoal::core::ids::{Incarnation, MeshId, NodeId, NodeKey, ProcessId};
use shoal::core::limits;
use shoal::core::model::{Hello, NodeCard};
use shoal::core::wire::{self, Control, Data, MemberEntry, MemberEntryState, WireError};

fn hello(n: u8) -> Hello {
    Hello {
        version_min: wire::PROTOCOL_VERSION_MIN,
        version_max: wire::PROTOCOL_VERSION,
        mesh_id: Some(MeshId(uuid::Uuid::from_u128(1))),
        mesh_name: "one".parse().expect("valid"),
        process_id: ProcessId(uuid::Uuid::from_bytes([n; 16])),
        incarnation: Incarnation::first_of(1),
        card: NodeCard {
            node_id: NodeId::new(&format!("n{n}")).expect("valid"),
            addresses: vec![format!("n{n}:7946")],
            region: String::new(),
            zone: String::new(),
            labels: BTreeMap::new(),
            roles: vec![],
            version: "0.1.0".to_owned(),
        },
        bulk_beside: None,
    }
}

#[test]
fn row_005_nodes_of_two_mesh_names_refuse_each_other_and_those_of_one_do_not() {
    let (one, same) = (hello(1), hello(2));
    let other = Hello { mesh_name: "other".parse().expect("valid"), ..hello(3) };
    assert_eq!((one.refusal(&same), same.refusal(&one)), (None, None));
    assert_eq!(one.refusal(&other), Some(Refused::Name));
    assert_eq!(other.refusal(&one), Some(Refused::Name), "both come to the same answer");
}

#[test]
fn row_074_a_card_beyond_its_bounds_is_refused_before_it_is_looked_at() {
    let too_many = (0..=limits::LABELS_MAX).map(|n| (format!("k{n}"), String::new())).collect();
    let too_long = BTreeMap::from([("k".to_owned(), "v".repeat(limits::LABEL_BYTES_MAX + 1))]);
    let most = (0..limits::LABELS_MAX).map(|n| (format!("k{n}"), "v".repeat(limits::LABEL_BYTES_MAX)));
    for (labels, is_taken) in [(too_many, false), (too_long, false), (most.collect(), true)] {
        let mut hello = hello(1);
        hello.card.labels = labels;
        let mut frame = Vec::new();
        wire::encode(&hello, &mut frame).expect("it encodes");
        let read = wire::decode::<Hello>(&frame[wire::HEADER_BYTES..]);
        assert_eq!(read.is_ok(), is_taken, "{read:?}");
    }
    let addresses = vec!["a:1".to_owned(); limits::ADDRESSES_MAX + 1];
    assert!(NodeCard { addresses, ..hello(1).card }.check().is_err());
}

#[test]
fn row_075_whoever_speaks_no_version_that_is_spoken_here_is_refused() {
    let here = hello(1);
    for (min, max) in [(0, 0), (wire::PROTOCOL_VERSION + 1, 200), (200, 3)] {
        let other = Hello { version_min: min, version_max: max, ..hello(2) };
        assert_eq!(here.refusal(&other), Some(Refused::Version), "{min} to {max}");
        assert_eq!(other.refusal(&here), Some(Refused::Version), "{min} to {max}");
    }
}

/// A map with one entry whose value is the bytes given: how a control frame with one field begins.
fn control(variant: &str, field: &str, value: &[u8]) -> Vec<u8> {
    let mut body = vec![0x81, 0xa0 | variant.len() as u8];
    body.extend_from_slice(variant.as_bytes());
    body.extend_from_slice(&[0x82, 0xa0 | field.len() as u8]);
    body.extend_from_slice(field.as_bytes());
    body.extend_from_slice(value);
    body.extend_from_slice(&[0xa5]);
    body.extend_from_slice(b"reply\xc2");
    body
}

#[test]
fn row_090_a_frame_that_claims_millions_of_members_is_refused_before_room_is_made_for_them() {
    let ten_million = [&[0xdd][..], &10_000_000_u32.to_be_bytes()].concat();
    let refused = wire::decode::<Control>(&control("Members", "members", &ten_million));
    assert!(matches!(refused, Err(WireError::Shape(_))), "{refused:?}");
    let members = (0..=limits::MEMBERS_PER_FRAME_MAX).map(|n| MemberEntry {
        key: NodeKey(std::array::from_fn(|i| if i < 8 { n.to_le_bytes()[i] } else { 0 })),
        incarnation: Incarnation::first_of(1),
        refutations: 0,
        state: MemberEntryState::Alive,
    });
    let mut frame = Vec::new();
    wire::encode(&Control::Members { members: members.collect(), reply: false }, &mut frame)
        .expect("encodes");
    let refused = wire::decode::<Control>(&frame[wire::HEADER_BYTES..]);
    assert_eq!(refused, Err(WireError::Bound("too many members")));
    let thirty_megabytes = (30_u32 << 20).to_le_bytes();
    assert!(wire::frame_length(thirty_megabytes, limits::FRAME_BYTES_MAX).is_err());
}

#[test]
fn row_091_a_message_that_claims_thirty_megabytes_is_refused_at_its_head() {
    let thirty = 30_u32 << 20;
    assert!(wire::frame_length(thirty.to_le_bytes(), limits::FRAME_BYTES_MAX).is_err());
    // A frame of honest length with a content that claims more than there is.
    let lying =
        [&[0x81, 0xa7][..], b"Deliver", &[0x92, 0x01, 0xc6], &thirty.to_be_bytes(), &[0; 100]].concat();
    let refused = wire::decode::<Data>(&lying);
    assert!(matches!(refused, Err(WireError::Shape(_))), "{refused:?}");
}
