//! Messages that a node has promised to deliver, and what became of them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Address;

/// What is promised to the sender of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guarantee {
    /// It is tried once, and whoever waits is told what came of that.
    #[default]
    AtMostOnce,
    /// It is on the disk of the sender's node before it is taken in, and is tried again until an agent has answered it
    /// or its time is over; then it is among the dead letters. An agent may get it more than once.
    AtLeastOnce,
}

/// A try that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedTry {
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// [`SendError::code`](crate::core::error::SendError::code).
    pub code: String,
    /// The same in words.
    pub reason: String,
}

/// Where a message is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LetterState {
    /// It waits for its next try, or for an earlier message of its conversation.
    Waiting,
    /// An agent may have it; its answer is awaited.
    Trying,
    /// An agent has answered it.
    Delivered {
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
    /// It was given up.
    Dead {
        /// Why.
        reason: String,
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
}

/// The way of one message, as far as its sender's node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterTrace {
    /// The message.
    pub id: Uuid,
    /// Who sent it.
    pub from: String,
    /// Where it goes.
    pub to: Address,
    /// The conversation it belongs to.
    pub conversation_id: Option<String>,
    /// When it was taken in, in milliseconds since 1970.
    pub accepted_at_ms: u64,
    /// When it is given up, in milliseconds since 1970.
    pub deadline_at_ms: u64,
    /// How often it was tried by this process of its node, or, of a dead letter, by the last one.
    pub tries: u32,
    /// The last tries that failed, oldest first.
    pub failed: Vec<FailedTry>,
    /// Where it is.
    pub state: LetterState,
}

/// A message that was given up, and is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The message.
    pub id: Uuid,
    /// Who sent it.
    pub from: String,
    /// Where it went.
    pub to: Address,
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
    /// Why.
    pub reason: String,
}
