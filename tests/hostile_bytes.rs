//! Bytes that nobody writes by accident, at the entries where bytes of others come in: frames and manifests. None makes
//! their reader panic, take memory out of proportion, or complain in words that are none.
//!
//! Recorded frames are damaged in many ways, because most of what is only random is refused at the first byte. Lines of
//! agents are treated alike beside their parser; so is the configuration.

#![allow(unsafe_code, reason = "the allocator is counted, by forwarding each call of it")]

mod version1;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use shoal::core::limits;
use shoal::core::model::Hello;
use shoal::core::wire::{self, Body, Control, Data, FrameKind, WireError};
use shoal::node::config::Manifest;

// --- memory ---

/// The system's allocator, which notes what each thread has.
struct Counted;

thread_local! {
    static HAS: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

fn took(bytes: usize) {
    // A thread that ends has no cells any more.
    let _ = HAS.try_with(|has| {
        has.set(has.get().saturating_add(bytes));
        let _ = MOST.try_with(|most| most.set(most.get().max(has.get())));
    });
}

fn gave(bytes: usize) {
    let _ = HAS.try_with(|has| has.set(has.get().saturating_sub(bytes)));
}

// SAFETY: each call is the system allocator's, with the arguments that came; counting allocates nothing.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: as the caller says.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// What `work` gives, and the most that it had at once.
fn memory_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HAS.get();
    MOST.set(before);
    let given = work();
    (given, MOST.get().saturating_sub(before))
}

#[test]
fn what_is_allocated_is_counted() {
    let (kept, most) = memory_of(|| {
        drop(vec![1_u8; 100_000]);
        vec![2_u8; 10]
    });
    assert!((100_000..101_000).contains(&most), "{most}");
    assert_eq!(kept.len(), 10);
}

// --- damage ---

/// One thing that happens to bytes.
#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    Set(Index, u8),
    Cut(Index, usize),
    Insert(Index, Vec<u8>),
    Double(Index, usize),
    End(Index),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = |index: &Index| index.index(bytes.len() + 1);
        match self {
            Self::Flip(index, bits) => {
                let at = at(index);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits);
            }
            Self::Set(index, value) => {
                let at = at(index);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = *value);
            }
            Self::Cut(index, length) => {
                let from = at(index);
                let to = (from + length).min(bytes.len());
                bytes.drain(from..to);
            }
            Self::Insert(index, more) => {
                let at = at(index);
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Double(index, length) => {
                let from = at(index);
                let to = (from + length).min(bytes.len());
                let again = bytes[from..to].to_vec();
                bytes.splice(to..to, again);
            }
            Self::End(index) => bytes.truncate(at(index)),
        }
    }
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    // What MessagePack marks its longest values with, and the ends of the range.
    const MARKS: &[u8] =
        &[0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xc0, 0xc1, 0xc6, 0xc9, 0xd9, 0xdb, 0xdd, 0xdf, 0xff];
    let marker = prop_oneof![proptest::sample::select(MARKS), any::<u8>()];
    let index = any::<Index>;
    let damage = prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        (index(), marker).prop_map(|(at, value)| Damage::Set(at, value)),
        (index(), 1..20_usize).prop_map(|(at, length)| Damage::Cut(at, length)),
        (index(), proptest::collection::vec(any::<u8>(), 1..12))
            .prop_map(|(at, more)| Damage::Insert(at, more)),
        (index(), 1..60_usize).prop_map(|(at, length)| Damage::Double(at, length)),
        index().prop_map(Damage::End),
    ];
    proptest::collection::vec(damage, 1..6)
}

// --- frames ---

/// Recorded frames, without the SWIM packets, whose reader has such tests of its own.
fn frames() -> Vec<Vec<u8>> {
    let names = version1::names().into_iter().filter(|name| !name.starts_with("swim-"));
    let frames: Vec<_> = names.map(|name| version1::recorded(&name)).collect();
    assert!(frames.len() > 20, "the recorded frames are where they were");
    frames
}

/// Reads a frame as a node does: its length, its head, and its body by its kind.
fn read(bytes: &[u8]) -> Result<(), WireError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(());
    };
    let length = wire::frame_length(*prefix, limits::FRAME_BYTES_MAX)?;
    // A reader waits for what is missing; what is too much is the next frame.
    let Some((kind, body)) = rest.get(..length).map(wire::split).transpose()?.flatten() else {
        return Ok(());
    };
    match kind {
        FrameKind::Hello => wire::decode::<Hello>(body).map(drop),
        FrameKind::Control => wire::decode::<Control>(body).map(drop),
        FrameKind::Data => wire::decode::<Data>(body).map(drop),
        FrameKind::Swim => Ok(()),
    }
}

/// The length that the frame has, in place of the one that it says.
fn with_true_length(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(bytes.len().saturating_sub(4)).expect("short");
    if let Some(prefix) = bytes.first_chunk_mut::<4>() {
        *prefix = length.to_le_bytes();
    }
    bytes
}

/// Structures are larger than their bytes, by so much at most, and lists are made with room for what they claim.
const FRAME_MEMORY_FACTOR: usize = 512;
const MEMORY_BASE: usize = 64 << 10;

fn reads_soundly(bytes: &[u8]) -> Result<(), TestCaseError> {
    let (result, most) = memory_of(|| read(bytes));
    let most_allowed = MEMORY_BASE + FRAME_MEMORY_FACTOR * bytes.len();
    prop_assert!(most <= most_allowed, "{most} bytes of memory for {} bytes", bytes.len());
    if let Err(error) = result {
        let told = error.to_string();
        prop_assert!((10..400).contains(&told.chars().count()), "{told:?}");
        prop_assert!(!told.chars().any(char::is_control), "{told:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_to_a_frame_harms_its_reader(
        frame in proptest::sample::select(frames()), damages in damages(), keep_length in any::<bool>(),
    ) {
        let mut bytes = frame;
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        reads_soundly(&if keep_length { bytes } else { with_true_length(bytes) })?;
    }

    #[test]
    fn the_head_of_one_frame_before_the_rest_of_another_harms_no_reader(
        one in proptest::sample::select(frames()), other in proptest::sample::select(frames()),
        at in any::<Index>(), from in any::<Index>(),
    ) {
        let (at, from) = (at.index(one.len() + 1), from.index(other.len() + 1));
        reads_soundly(&with_true_length([&one[..at], &other[from..]].concat()))?;
    }

    #[test]
    fn no_bytes_harm_the_reader_of_frames(
        version in 0..4_u8, kind in 0..6_u8, body in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        reads_soundly(&with_true_length([&[0, 0, 0, 0, version, kind], &body[..]].concat()))?;
    }

    #[test]
    fn what_a_reader_takes_is_written_and_read_again_as_the_same(
        frame in proptest::sample::select(frames()), damages in damages(),
    ) {
        fn again<B: Body + PartialEq + std::fmt::Debug>(body: &[u8]) -> Result<(), TestCaseError> {
            let Ok(value) = wire::decode::<B>(body) else { return Ok(()) };
            let mut bytes = Vec::new();
            wire::encode(&value, &mut bytes).expect("it came in a frame");
            prop_assert_eq!(wire::decode::<B>(&bytes[wire::HEADER_BYTES..]).expect("its own bytes"), value);
            Ok(())
        }
        let mut bytes = frame;
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        if let Some(Ok(Some((kind, body)))) = bytes.get(4..).map(wire::split) {
            match kind {
                FrameKind::Hello => again::<Hello>(body)?,
                FrameKind::Control => again::<Control>(body)?,
                FrameKind::Data => again::<Data>(body)?,
                FrameKind::Swim => {}
            }
        }
    }
}

/// Without damage each frame is read: otherwise the tests above would read nothing but its first bytes.
#[test]
fn the_frames_that_are_damaged_are_sound_before() {
    for name in version1::names().into_iter().filter(|name| !name.starts_with("swim-")) {
        read(&version1::recorded(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

// --- manifests ---

const MANIFEST: &str = "\
name: worker
kind: stdio
source: ./worker.py
args: [--fast, \"two words\"]
capabilities: [resize, crop]
topics: [images]
balance: key-hash
health:
  check: answer
  content: ping
  interval: 5s
  timeout: 2s
  failures: 3
restart:
  waits: [1s, 5s, 15s]
  steady: 10m
";
const WASM_MANIFEST: &str = "\
name: tally
kind: wasm
source: ./tally.wasm
instance: per-message
memory_bytes: 1048576
fuel: 1000000
grants:
  state: [orders/]
  addresses: [worker, topic:images]
";

/// Pieces that mean something in YAML or in a manifest.
fn pieces() -> impl Strategy<Value = String> {
    #[rustfmt::skip]
    const WORDS: &[&str] = &[
        "name", "kind", "source", "args", "health", "check", "interval", "restart", "grants", "state", "fuel", "wasm",
        "stdio", "http", "native", "echo", "-1", "18446744073709551616", "1e999", "5s", "~", "true", ": ", ":", "- ",
        "[", "]", "{", "}", ", ", "\n", "\n  ", "\t", "'", "\"", "\\", "|\n", ">\n", "&a ", "*a", "!!binary ", "<<: *a",
        "---\n", "#", "\0", "\u{feff}", "\u{202e}", "../..", "/", "a\u{300}",
    ];
    let word = prop_oneof![
        12 => proptest::sample::select(WORDS).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(word, 0..40).prop_map(|parts| parts.concat())
}

const MANIFEST_MEMORY_FACTOR: usize = 4096;

fn loads_soundly(text: &str) -> Result<(), TestCaseError> {
    let shown: Arc<str> = Arc::from("agent.yaml");
    let (result, most) = memory_of(|| Manifest::parse(text, &shown, Path::new("/agents")));
    let most_allowed = MEMORY_BASE + MANIFEST_MEMORY_FACTOR * text.len();
    prop_assert!(most <= most_allowed, "{most} bytes of memory for {} bytes", text.len());
    if let Err(errors) = result {
        let told = errors.to_string();
        prop_assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
        let mut lines = told.lines();
        let is_of_file = |line: &str| line.starts_with("agent.yaml");
        prop_assert!(lines.next().is_some_and(is_of_file), "{told:?}");
        prop_assert!(lines.all(|line| is_of_file(line) || line.contains("more")), "{told:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_to_a_manifest_harms_its_loader(
        good in proptest::sample::select(vec![MANIFEST, WASM_MANIFEST]),
        at in any::<Index>(), length in 0..40_usize, instead in pieces(),
    ) {
        let good: Vec<char> = good.chars().collect();
        let from = at.index(good.len() + 1);
        let to = (from + length).min(good.len());
        let text: String =
            good[..from].iter().copied().chain(instead.chars()).chain(good[to..].iter().copied()).collect();
        loads_soundly(&text)?;
    }

    #[test]
    fn no_text_harms_the_loader_of_manifests(text in prop_oneof![any::<String>(), pieces()]) {
        loads_soundly(&text)?;
    }
}

#[test]
fn the_manifests_that_are_damaged_are_sound_before() {
    for text in [MANIFEST, WASM_MANIFEST] {
        let shown: Arc<str> = Arc::from("agent.yaml");
        Manifest::parse(text, &shown, Path::new("/agents")).unwrap_or_else(|errors| panic!("{errors}"));
    }
}

#[test]
fn a_manifest_made_to_exhaust_its_loader_is_refused_in_few_words_and_little_memory() {
    let bytes = limits::CONFIG_FILE_BYTES_MAX;
    for text in [
        "[".repeat(bytes),
        "{a: ".repeat(bytes / 4),
        "- ".repeat(bytes / 2),
        format!("args: [{}]", "x,".repeat(bytes / 2 - 8)),
        format!("name: {}", "x".repeat(bytes - 8)),
        format!("topics: [{}]", "[],".repeat(bytes / 3 - 8)),
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n".repeat(100),
    ] {
        let shown: Arc<str> = Arc::from("agent.yaml");
        let (result, most) = memory_of(|| Manifest::parse(&text, &shown, Path::new("/agents")));
        let told = result.expect_err("refused").to_string();
        assert!(told.len() < 100_000, "{}", told.len());
        assert!(most <= MEMORY_BASE + MANIFEST_MEMORY_FACTOR * text.len(), "{most} for {}", text.len());
    }
}
