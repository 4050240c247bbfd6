//! What the decoder takes, and what it refuses.

use super::*;
use crate::core::ids::NodeId;

fn framed<B: Body>(body: &B) -> Vec<u8> {
    let mut out = Vec::new();
    encode(body, &mut out).expect("it fits");
    out
}

#[test]
fn a_frame_survives_the_round_trip() {
    let body = Control::Request { id: 7, body: RequestBody::Ping };
    let bytes = framed(&body);
    let length = frame_length(bytes[..4].try_into().expect("four"), limits::FRAME_BYTES_MAX).expect("fine");
    assert_eq!(length, bytes.len() - 4);
    let (kind, rest) = split(&bytes[4..]).expect("our version").expect("known");
    assert_eq!(kind, FrameKind::Control);
    assert_eq!(decode::<Control>(rest).expect("decodes"), body);
}

#[test]
fn a_lying_length_is_refused_before_anything_is_allocated() {
    for length in [0_u32, 1, limits::FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
        assert!(frame_length(length.to_le_bytes(), limits::FRAME_BYTES_MAX).is_err(), "{length}");
    }
}

#[test]
fn another_version_is_refused_and_an_unknown_kind_is_skipped() {
    assert_eq!(split(&[0, 2]), Err(WireError::Version(0)));
    assert_eq!(split(&[255, 2]), Err(WireError::Version(255)));
    for version in PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION {
        assert_eq!(split(&[version, 99, 1, 2, 3]), Ok(None));
    }
    assert_eq!(split(&[PROTOCOL_VERSION + 1, 2]), Err(WireError::Version(PROTOCOL_VERSION + 1)));
    assert!(split(&[1]).is_err());
}

#[test]
fn an_oversized_frame_is_refused_and_leaves_the_buffer_as_it_was() {
    let lines = vec!["x".repeat(limits::FRAME_BYTES_MAX)];
    let body = Control::Response { id: 1, result: Ok(ResponseBody::Lines { lines }) };
    let mut out = vec![1, 2, 3];
    assert!(matches!(encode(&body, &mut out), Err(WireError::Length { .. })));
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn a_field_that_a_later_version_adds_to_a_control_frame_is_skipped() {
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Later {
        Check { nonce: u64, mood: &'static str },
    }
    let bytes = rmp_serde::to_vec_named(&Later::Check { nonce: 5, mood: "fine" }).expect("encodes");
    assert_eq!(decode::<Control>(&bytes).expect("decodes"), Control::Check { nonce: 5 });
}

#[test]
fn fault_72_a_frame_of_the_state_from_another_version_is_understood_without_what_only_one_of_them_has() {
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Other {
        Beats(OtherBeats),
    }
    #[derive(Serialize)]
    struct OtherBeats {
        hops: u8,
        beats: Vec<OtherBeat>,
    }
    #[derive(Serialize)]
    struct OtherBeat {
        v: NodeId,
        s: u64,
        n: u64,
        l: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        mood: Option<&'static str>,
    }
    let voter = NodeId::new("node-1").expect("valid");
    for mood in [None, Some("fine")] {
        let beat = OtherBeat { v: voter.clone(), s: 1, n: 2, l: true, mood };
        let bytes = rmp_serde::to_vec_named(&Other::Beats(OtherBeats { hops: 3, beats: vec![beat] }))
            .expect("encodes");
        let expected =
            Beat { voter: voter.clone(), start: 1, number: 2, leads: true, unix_ms: None, age_ms: 0 };
        let expected = Control::Beats(Beats { hops: 3, beats: vec![expected] });
        assert_eq!(decode::<Control>(&bytes).expect("decodes"), expected);
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = decode::<Control>(&bytes);
        let _ = decode::<Data>(&bytes);
        let _ = decode::<Hello>(&bytes);
    }
}
