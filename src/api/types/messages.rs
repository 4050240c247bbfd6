//! Messages that clients send, and what they hear of them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::model::{Guarantee, Performative};

/// `POST /v1/messages`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Send {
    /// `agent` or `agent@node`, `cap:NAME`, `topic:NAME` or `all:NAME`.
    pub to: String,
    /// The content, when it is text. Exactly one of `content` and `content_base64` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The content as base64 with padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_base64: Option<String>,
    /// MIME type; `text/plain; charset=utf-8` or, for `content_base64`, `application/octet-stream` when null.
    #[serde(default)]
    pub content_type: Option<String>,
    /// FIPA performative; `request` where an answer is wanted and `inform` where not, when null.
    #[serde(default)]
    pub performative: Option<Performative>,
    /// Messages of one conversation keep their order.
    #[serde(default)]
    pub conversation_id: Option<String>,
    /// How long the answer or the receipt may take; 5,000 when null. With `at-least-once`: how long the message is
    /// tried; 3,600,000 when null.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
    /// What is waited for.
    #[serde(default)]
    pub want: Wanted,
    /// What is promised. `at-least-once` goes with [`Wanted::Receipt`], which says then that the message is on the disk.
    #[serde(default)]
    pub guarantee: Guarantee,
    /// What instances with `key-hash` share messages out by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What the sender of a message waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// The agent's answer.
    #[default]
    Answer,
    /// The news that the message is in the agent's mailbox or, with `at-least-once`, on the disk of the asked node.
    Receipt,
}

/// The answer to a [`Send`] that wanted a receipt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The message's id.
    pub message_id: Uuid,
    /// Of a message to `cap:`, `topic:` or `all:`: whom it went to; at least one of them has it. With `at-least-once`: for whom
    /// it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<Vec<Recipient>>,
    /// From taking the request to knowing the outcome.
    pub seconds: f64,
}

/// What became of a message at one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// `agent@node`; with `at-least-once` also an agent's name, where it may be found elsewhere later.
    pub to: String,
    /// With `at-least-once`: the id of its message, by which it is traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<Uuid>,
    /// The code of the error for which it does not have the message; null when it has.
    pub code: Option<String>,
    /// The same in words.
    pub detail: Option<String>,
}

/// The answer to a [`Send`] that wanted an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// The id of the message that was sent.
    pub message_id: Uuid,
    /// Who answered: `agent@node`.
    pub from: String,
    /// MIME type of the content.
    pub content_type: String,
    /// The content, when it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The content as base64 with padding, when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_base64: Option<String>,
    /// From taking the request to having the answer.
    pub seconds: f64,
}
