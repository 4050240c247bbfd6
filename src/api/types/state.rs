//! The JSON of the shared state: keys, writes, tickets, policies, counters and changes.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::core::ids::NodeId;
use crate::core::model;
use crate::core::wire;
use crate::node::events::Numbered;

/// How bytes are written as a JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As they are: they are UTF-8.
    Text,
    /// As base64 with padding.
    Base64,
}

/// Bytes as a text, and how to read it.
#[must_use]
pub fn encoded(bytes: &Bytes) -> (String, Encoding) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), Encoding::Text),
        Err(_) => (BASE64_STANDARD.encode(bytes), Encoding::Base64),
    }
}

/// The bytes that a text stands for; `None` when it is not the base64 that it claims to be.
#[must_use]
pub fn decoded(value: &str, encoding: Encoding) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Text => Some(value.as_bytes().to_vec()),
        Encoding::Base64 => BASE64_STANDARD.decode(value).ok(),
    }
}

/// A key as a node knows it: `GET /v1/state/{key}`, and an element of `GET /v1/state`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyState {
    /// The key.
    pub key: String,
    /// The node whose knowledge this is.
    pub node: NodeId,
    /// The value that the policy chooses; null when it chooses none of several.
    pub value: Option<String>,
    /// How `value` is written; null without one.
    pub encoding: Option<Encoding>,
    /// Who wrote it; null without a value.
    pub writer: Option<ValueWriter>,
    /// When, on the writer's wall clock: milliseconds since 1970; null without a value.
    pub written_unix_ms: Option<u64>,
    /// Names the write; null without a value.
    pub dot: Option<String>,
    /// How concurrent values are resolved: `lww`, `max`, `min`, `manual` or `custom`.
    pub policy: String,
    /// Why the command of the policy `custom` has chosen none of several values; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_error: Option<String>,
    /// All values, when there are several.
    pub siblings: Vec<Sibling>,
    /// Names what was read: a write that is given it replaces exactly that.
    pub context: String,
    /// Of the node: `joining`, `healthy`, `degraded` or `recovering`.
    pub mode: String,
    /// How old this may be; null while the node is among a majority.
    pub age_seconds: Option<f64>,
}

/// One of several concurrent values of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sibling {
    /// The value.
    pub value: String,
    /// How it is written.
    pub encoding: Encoding,
    /// Who wrote it.
    pub writer: ValueWriter,
    /// When, on the writer's wall clock: milliseconds since 1970.
    pub written_unix_ms: u64,
    /// Names the write.
    pub dot: String,
}

/// Who wrote a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueWriter {
    /// The node that took the write in.
    pub node: NodeId,
    /// The agent's instance on whose behalf, as `agent#k`; null for a client.
    pub slot: Option<String>,
    /// The epoch of the order by which it ran, as `chain.term.order`; null as above.
    pub epoch: Option<String>,
}

/// `PUT /v1/state/{key}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutKey {
    /// The value, when it is text. Exactly one of `value` and `value_base64` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value as base64 with padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// What it replaces, from a [`KeyState`]; what the node has seen of the key when null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// When it is answered.
    #[serde(default)]
    pub ack: Ack,
}

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// It is on the disk of the asked node
    #[default]
    Local,
    /// It is on the disks of a quorum of the voters
    Quorum,
}

impl Ack {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Quorum => "quorum",
        }
    }
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Write {
    /// It is made (200).
    Done(WriteDone),
    /// It waits for a majority (202).
    Queued(WriteQueued),
}

/// A write that is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteDone {
    /// Names it.
    pub dot: String,
    /// It stands beside values that it has not replaced.
    pub sibling: bool,
    /// It was made without a majority.
    pub marked: bool,
    /// Voters that have it on their disks so far.
    pub voters: u32,
}

/// A write that waits for a majority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteQueued {
    /// `GET /v1/tickets/{ticket}` tells what became of it.
    pub ticket: String,
}

/// `GET /v1/state`: keys in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyPage {
    /// The keys.
    pub entries: Vec<KeyState>,
    /// Whether there are more: ask again with the last key as `after`.
    pub more: bool,
}

/// `GET /v1/state?all_nodes=true&key=KEY`: one key as each node knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyEverywhere {
    /// The key.
    pub key: String,
    /// In order of names; those that have left the mesh are left out.
    pub nodes: Vec<KeyAtNode>,
}

/// One key as one node knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyAtNode {
    /// The node.
    pub node: NodeId,
    /// What it knows; null when it has no value for the key, or has not answered.
    pub state: Option<KeyState>,
    /// Why it has not answered; null when it has.
    pub error: Option<String>,
}

/// `GET /v1/tickets/{ticket}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Its name.
    pub ticket: String,
    /// The key that is written.
    pub key: String,
    /// When it was queued: milliseconds since 1970.
    pub queued_unix_ms: u64,
    /// When it expires, or would have: milliseconds since 1970.
    pub expires_unix_ms: u64,
    /// `queued`, `applied`, `conflicted`, `expired` or `rejected`.
    pub state: String,
    /// Why it was rejected; null otherwise.
    pub reason: Option<String>,
}

/// `GET /v1/policies`: prefixes with their policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// In order of prefixes; a key has the policy of the longest one that it begins with, `lww` without any.
    pub policies: BTreeMap<String, String>,
}

/// `PUT /v1/policies/{prefix}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutPolicy {
    /// `lww`, `max`, `min` or `manual`.
    pub policy: String,
}

/// `POST /v1/counters/{name}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddToCounter {
    /// What to add; may be negative.
    #[serde(default = "one")]
    pub add: i64,
    /// When it is answered.
    #[serde(default)]
    pub ack: Ack,
}

fn one() -> i64 {
    1
}

/// `GET /v1/counters/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Its name.
    pub name: String,
    /// The sum that the asked node knows.
    pub value: i64,
    /// How many processes have added to it.
    pub adders: u64,
}

/// One event of `GET /v1/state-changes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberedChange {
    /// Grows by one with each change on the asked node's process.
    pub sequence: u64,
    /// When the asked node saw it: milliseconds since 1970 by its wall clock.
    pub unix_ms: u64,
    /// The key.
    pub key: String,
    /// The value that its policy chooses now; null when it has none, or chooses none of several.
    pub value: Option<String>,
    /// How `value` is written; null without one.
    pub encoding: Option<Encoding>,
    /// How many values stand beside each other.
    pub siblings: u32,
}

impl KeyState {
    /// What `node` has told; `context` is the text of its context.
    #[must_use]
    pub fn new(node: NodeId, told: wire::StateValue, context: String) -> Self {
        let chosen = told.value.map(Sibling::from);
        let (value, encoding, writer, written_unix_ms, dot) = match chosen {
            Some(Sibling { value, encoding, writer, written_unix_ms, dot }) => {
                (Some(value), Some(encoding), Some(writer), Some(written_unix_ms), Some(dot))
            }
            None => (None, None, None, None, None),
        };
        Self {
            key: told.key,
            node,
            value,
            encoding,
            writer,
            written_unix_ms,
            dot,
            policy: told.policy,
            policy_error: None,
            siblings: told.siblings.into_iter().map(Sibling::from).collect(),
            context,
            mode: told.mode.to_string(),
            age_seconds: told.age_ms.map(|ms| ms as f64 / 1e3),
        }
    }

    /// The bytes of the value that the policy chooses.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        decoded(self.value.as_deref()?, self.encoding?)
    }
}

impl Sibling {
    /// Its bytes; `None` when they are not the base64 that they claim to be.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        decoded(&self.value, self.encoding)
    }
}

impl From<wire::SiblingValue> for Sibling {
    fn from(told: wire::SiblingValue) -> Self {
        let (value, encoding) = encoded(&told.value);
        let writer = told.writer.into();
        Self { value, encoding, writer, written_unix_ms: told.written_ms, dot: dot(told.dot) }
    }
}

impl From<model::Writer> for ValueWriter {
    fn from(writer: model::Writer) -> Self {
        let (slot, epoch) = writer.slot.map(|slot| (slot.name, slot.epoch.to_string())).unzip();
        Self { node: writer.node, slot, epoch }
    }
}

/// The text of a dot: its actor and its number.
#[must_use]
pub fn dot(dot: model::Dot) -> String {
    format!("{}-{}", dot.actor.0.simple(), dot.n)
}

impl From<Ack> for wire::Ack {
    fn from(ack: Ack) -> Self {
        match ack {
            Ack::Local => Self::Local,
            Ack::Quorum => Self::Quorum,
        }
    }
}

impl From<model::TicketView> for Ticket {
    fn from(view: model::TicketView) -> Self {
        let (state, reason) = match view.state {
            model::TicketState::Queued => ("queued", None),
            model::TicketState::Done(outcome) => {
                let word = outcome.as_str();
                match outcome {
                    model::Outcome::Rejected { reason } => (word, Some(reason)),
                    model::Outcome::Applied | model::Outcome::Conflicted | model::Outcome::Expired => {
                        (word, None)
                    }
                }
            }
        };
        Self {
            ticket: view.ticket.to_string(),
            key: view.key,
            queued_unix_ms: view.queued_at_ms,
            expires_unix_ms: view.deadline_ms,
            state: state.to_owned(),
            reason,
        }
    }
}

impl From<Numbered<wire::StateChange>> for NumberedChange {
    fn from(numbered: Numbered<wire::StateChange>) -> Self {
        let wire::StateChange { key, value, siblings } = numbered.event;
        let (value, encoding) = value.as_ref().map(encoded).unzip();
        Self { sequence: numbered.sequence, unix_ms: numbered.unix_ms, key, value, encoding, siblings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_no_text_travels_as_base64_and_comes_back_byte_for_byte() {
        for bytes in [&b"hello"[..], b"", b"\xff\x00", "\u{1f41f}".as_bytes()] {
            let (value, encoding) = encoded(&Bytes::copy_from_slice(bytes));
            assert_eq!(encoding == Encoding::Text, std::str::from_utf8(bytes).is_ok());
            assert_eq!(decoded(&value, encoding).as_deref(), Some(bytes));
        }
        assert_eq!(decoded("no base64!", Encoding::Base64), None);
    }

    #[test]
    fn a_write_that_is_made_and_one_that_waits_are_told_apart_by_their_fields() {
        let read = |text: &str| serde_json::from_str::<Write>(text).expect("readable");
        assert_eq!(read(r#"{"ticket": "n/1-1"}"#), Write::Queued(WriteQueued { ticket: "n/1-1".to_owned() }));
        let done = read(r#"{"dot": "a-1", "sibling": false, "marked": true, "voters": 1, "later": 0}"#);
        assert!(matches!(done, Write::Done(WriteDone { marked: true, .. })));
    }

    #[test]
    fn an_unknown_field_of_a_write_is_refused() {
        assert!(serde_json::from_str::<PutKey>(r#"{"value": "x", "akc": "quorum"}"#).is_err());
        assert!(serde_json::from_str::<PutKey>(r#"{"value": "x", "ack": "all"}"#).is_err());
        assert!(serde_json::from_str::<AddToCounter>(r#"{"add": 1.5}"#).is_err());
    }
}
