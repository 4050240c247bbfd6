//! Messages that are delivered at least once, as the API tells of them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::ids::NodeId;
use crate::core::model;

/// `GET /v1/messages/{id}`: the way of a message, as the node that promised it knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageTrace {
    /// The message.
    pub message_id: Uuid,
    /// The node that has promised it.
    pub node: NodeId,
    /// `waiting`, `trying`, `delivered` or `dead`.
    pub state: String,
    /// Who sent it.
    pub from: String,
    /// Where it goes.
    pub to: String,
    /// The conversation it belongs to.
    pub conversation_id: Option<String>,
    /// When it was taken in, in milliseconds since 1970.
    pub accepted_at_ms: u64,
    /// When it is given up, in milliseconds since 1970.
    pub deadline_at_ms: u64,
    /// When it was delivered or given up, in milliseconds since 1970.
    pub ended_at_ms: Option<u64>,
    /// Why it was given up.
    pub reason: Option<String>,
    /// How often it was tried by the process of the node that runs now or, of a dead letter, that gave it up.
    pub tries: u32,
    /// The last tries that failed, oldest first; they are forgotten when the node ends.
    pub failed: Vec<FailedTry>,
}

/// A try that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedTry {
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// One of the codes of `POST /v1/messages`.
    pub code: String,
    /// The same in words.
    pub reason: String,
}

/// `GET /v1/dead-letters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetters {
    /// The node that has them.
    pub node: NodeId,
    /// How many there are in all.
    pub total: u64,
    /// Oldest first.
    pub letters: Vec<DeadLetter>,
}

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The message.
    pub message_id: Uuid,
    /// Who sent it.
    pub from: String,
    /// Where it went.
    pub to: String,
    /// The conversation it belongs to.
    pub conversation_id: Option<String>,
    /// MIME type of its content.
    pub content_type: String,
    /// Bytes of its content.
    pub bytes: u64,
    /// When it was taken in, in milliseconds since 1970.
    pub accepted_at_ms: u64,
    /// When it was given up, in milliseconds since 1970.
    pub died_at_ms: u64,
    /// How often it was tried by the process that gave it up.
    pub tries: u32,
    /// Why it was given up.
    pub reason: String,
}

/// `POST /v1/dead-letters/retry` and `/drop`: exactly one of the two is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadOnes {
    /// These messages; at most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<Uuid>,
    /// All of them, the oldest 256 at a time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadChanged {
    /// The node that has the dead letters.
    pub node: NodeId,
    /// How many were taken up again, or dropped.
    pub count: u64,
    /// How many dead letters there are now.
    pub left: u64,
}

impl MessageTrace {
    pub(crate) fn new(node: NodeId, trace: model::LetterTrace) -> Self {
        let (state, ended_at_ms, reason) = match trace.state {
            model::LetterState::Waiting => ("waiting", None, None),
            model::LetterState::Trying => ("trying", None, None),
            model::LetterState::Delivered { at_ms } => ("delivered", Some(at_ms), None),
            model::LetterState::Dead { reason, at_ms } => ("dead", Some(at_ms), Some(reason)),
        };
        let told = |failed: model::FailedTry| {
            let model::FailedTry { at_ms, code, reason } = failed;
            FailedTry { at_ms, code, reason }
        };
        Self {
            message_id: trace.id,
            node,
            state: state.to_owned(),
            from: trace.from,
            to: trace.to.to_string(),
            conversation_id: trace.conversation_id,
            accepted_at_ms: trace.accepted_at_ms,
            deadline_at_ms: trace.deadline_at_ms,
            ended_at_ms,
            reason,
            tries: trace.tries,
            failed: trace.failed.into_iter().map(told).collect(),
        }
    }
}

impl From<model::DeadLetter> for DeadLetter {
    fn from(letter: model::DeadLetter) -> Self {
        Self {
            message_id: letter.id,
            from: letter.from,
            to: letter.to.to_string(),
            conversation_id: letter.conversation_id,
            content_type: letter.content_type,
            bytes: letter.bytes,
            accepted_at_ms: letter.accepted_at_ms,
            died_at_ms: letter.died_at_ms,
            tries: letter.tries,
            reason: letter.reason,
        }
    }
}
