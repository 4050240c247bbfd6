//! Frames: what a peer may write on a stream. What is read must be written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal::core::model::Hello;
use shoal::core::wire::{self, Body, Control, Data, FrameKind};

fuzz_target!(|frame: &[u8]| {
    if let Ok(Some((kind, body))) = wire::split(frame) {
        match kind {
            FrameKind::Hello => read::<Hello>(body),
            FrameKind::Control => read::<Control>(body),
            FrameKind::Data => read::<Data>(body),
            FrameKind::Swim => {}
        }
    }
});

fn read<B: Body + PartialEq + std::fmt::Debug>(body: &[u8]) {
    if let Ok(value) = wire::decode::<B>(body) {
        let mut again = Vec::new();
        wire::encode(&value, &mut again).expect("it came in a frame");
        assert_eq!(wire::decode::<B>(&again[wire::HEADER_BYTES..]).expect("its own bytes"), value);
    }
}
