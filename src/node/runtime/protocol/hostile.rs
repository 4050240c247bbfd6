//! Lines that nobody writes by accident: none makes their reader panic, gives more than it was given, or is refused in
//! words that are none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, ReadBuf};

use super::*;
use crate::node::runtime::lines::{Line, Lines};

const FIELDS: [&str; 15] = [
    "type",
    "id",
    "to",
    "content",
    "content_base64",
    "content_type",
    "reason",
    "level",
    "text",
    "performative",
    "conversation_id",
    "in_reply_to",
    "deadline_ms",
    "guarantee",
    "key",
];

/// Good lines, one of each type, with all that they may have.
fn good_lines() -> Vec<String> {
    let id = "00000000-0000-0000-0000-000000000007";
    [
        json!({"type": "ready"}),
        json!({"type": "reply", "to": id, "content": "two\nlines \u{1F41F}", "content_type": "text/plain"}),
        json!({"type": "reply", "to": id, "content_base64": "/wABAgMEBQ=="}),
        json!({"type": "failure", "to": id, "reason": "it does not want to"}),
        json!({"type": "send", "id": "s1", "to": "topic:orders", "content": "x", "performative": "inform",
            "conversation_id": "c", "in_reply_to": id, "deadline_ms": 500, "guarantee": "at-least-once", "key": "k"}),
        json!({"type": "ask", "id": "q1", "to": "worker@node-2", "content": "x", "deadline_ms": 4294967295_u32}),
        json!({"type": "log", "level": "warn", "text": "\u{1b}[2J"}),
    ]
    .map(|line| line.to_string())
    .to_vec()
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        proptest::sample::select(
            &["ready", "reply", "send", "ask", "log", "failure", "q1", "AAAA", "=", "inform"][..]
        )
        .prop_map(Value::from),
        Just(json!("00000000-0000-0000-0000-000000000007")),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|map| Value::from(map.into_iter().collect::<serde_json::Map<_, _>>())),
        ]
    })
}

/// Bytes of everything that was understood of a line.
fn bytes_of(said: &FromAgent) -> usize {
    let of_outgoing = |outgoing: &Outgoing| {
        let Outgoing { id, to, conversation_id, content_type, content, key, .. } = outgoing;
        let texts = [id, conversation_id, key].map(|text| text.as_ref().map_or(0, String::len));
        texts.iter().sum::<usize>() + to.len() + content.len() + content_type.len()
    };
    match said {
        FromAgent::Ready => 0,
        FromAgent::Reply { to: _, content_type, content } => content_type.len() + content.len(),
        FromAgent::Failure { to: _, reason } => reason.len(),
        FromAgent::Send(outgoing) => of_outgoing(outgoing),
        FromAgent::Ask(id, outgoing) => id.len() + of_outgoing(outgoing),
        FromAgent::Log { level, text } => level.len() + text.len(),
    }
}

/// What comes for a field that is missing: its content type, or its level.
const DEFAULTS_BYTES: usize = 24;

fn is_read_soundly(line: &[u8]) -> Result<(), TestCaseError> {
    match parse(line) {
        // An id is named twice.
        Ok(said) => prop_assert!(
            bytes_of(&said) <= line.len() + DEFAULTS_BYTES + limits::AGENT_ASK_ID_BYTES_MAX,
            "{} bytes of {}",
            bytes_of(&said),
            line.len()
        ),
        Err(BadLine { id, why }) => {
            prop_assert!((8..=limits::AGENT_REASON_CHARS_MAX).contains(&why.chars().count()), "{why:?}");
            prop_assert!(
                why.starts_with("it") || why.starts_with("there") || why.starts_with("at-least-once"),
                "{why:?}"
            );
            prop_assert!(id.is_none_or(|id| id.len() <= limits::AGENT_ASK_ID_BYTES_MAX));
        }
    }
    Ok(())
}

/// Gives its bytes in these pieces.
struct Pieces(Vec<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let pieces = &mut self.get_mut().0;
        if !pieces.is_empty() {
            to.put_slice(&pieces.remove(0));
        }
        Poll::Ready(Ok(()))
    }
}

async fn read_all(pieces: Vec<Vec<u8>>, bytes_max: usize) -> Vec<(Vec<u8>, bool)> {
    let mut lines = Lines::new(Pieces(pieces), bytes_max);
    let mut all = Vec::new();
    while let Some(line) = lines.next().await.expect("memory does not fail") {
        all.push(match line {
            Line::Whole(bytes) => (bytes.to_vec(), true),
            Line::TooLong(bytes) => (bytes.to_vec(), false),
        });
    }
    all
}

/// What the lines of a text are, said without regard to how it comes.
fn lines_of(text: &[u8], bytes_max: usize) -> Vec<(Vec<u8>, bool)> {
    let mut lines: Vec<_> = text.split(|byte| *byte == b'\n').collect();
    // What follows the last line end is a line only if there is something.
    lines.pop_if(|last| last.is_empty());
    let told = |line: &[u8]| match line.get(..bytes_max).filter(|_| line.len() > bytes_max) {
        Some(cut) => (cut.to_vec(), false),
        None => (line.strip_suffix(b"\r").unwrap_or(line).to_vec(), true),
    };
    lines.into_iter().map(told).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_harm_the_reader_of_lines(line in proptest::collection::vec(any::<u8>(), 0..300)) {
        is_read_soundly(&line)?;
    }

    #[test]
    fn no_values_in_its_fields_harm_the_reader_of_lines(
        fields in proptest::collection::btree_map(proptest::sample::select(&FIELDS[..]), value(), 0..8),
    ) {
        is_read_soundly(json!(fields).to_string().as_bytes())?;
    }

    #[test]
    fn no_damage_to_a_line_harms_its_reader(
        line in proptest::sample::select(good_lines()), at in any::<Index>(), length in 0..12_usize,
        instead in proptest::collection::vec(any::<u8>(), 0..12), again in any::<bool>(),
    ) {
        let bytes = line.as_bytes();
        let from = at.index(bytes.len() + 1);
        let to = (from + length).min(bytes.len());
        let repeated = if again { &bytes[from..] } else { &bytes[to..] };
        is_read_soundly(&[&bytes[..from], &instead, repeated].concat())?;
    }

    #[test]
    fn lines_are_the_same_however_their_bytes_come(
        pieces in proptest::collection::vec(proptest::collection::vec(proptest::sample::select(&b"ab\r\n"[..]), 1..9), 0..12),
        bytes_max in 1..10_usize,
    ) {
        let expected = lines_of(&pieces.concat(), bytes_max);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("an executor");
        prop_assert_eq!(runtime.block_on(read_all(pieces, bytes_max)), expected);
    }
}

#[test]
fn the_lines_that_are_damaged_are_sound_before() {
    for line in good_lines() {
        parse(line.as_bytes()).unwrap_or_else(|bad| panic!("{line}: {}", bad.why));
    }
}

#[test]
fn a_complaint_about_a_long_line_is_short() {
    let long = "x".repeat(1 << 20);
    for line in [
        json!({"type": "send", "to": "b", "content": "", "performative": long}),
        json!({"type": long}),
        json!({"type": "reply", "to": long, "content": ""}),
        json!({"type": "ask", "id": long, "to": "b", "content": ""}),
    ] {
        let bad = parse(line.to_string().as_bytes()).expect_err("it is bad");
        assert!(bad.why.chars().count() <= limits::AGENT_REASON_CHARS_MAX, "{} characters", bad.why.len());
    }
}
