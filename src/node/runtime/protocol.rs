//! The lines of the stdio protocol, version 1, as `docs/agents.md` gives them to the authors of agents.
//!
//! A line from an agent is parsed in one pass into one flat record and then checked by its type. Fields
//! that are not known are ignored, so that a later version may add some.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::error::SendError;
use crate::core::limits;
use crate::core::model::{Answer, Guarantee, Message, Performative};

/// The version that the first line names.
const PROTOCOL: u8 = 1;

/// A line to the agent.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ToAgent<'a> {
    Hello {
        protocol: u8,
        agent: &'a str,
        node: &'a str,
    },
    Message {
        id: Uuid,
        from: &'a str,
        to: String,
        performative: Performative,
        conversation_id: Option<&'a str>,
        in_reply_to: Option<Uuid>,
        content_type: &'a str,
        #[serde(flatten)]
        content: Content<'a>,
        wants_answer: bool,
        deadline_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        traceparent: Option<&'a str>,
    },
    Answer {
        id: &'a str,
        from: &'a str,
        content_type: &'a str,
        #[serde(flatten)]
        content: Content<'a>,
    },
    Accepted {
        id: &'a str,
    },
    Error {
        id: Option<&'a str>,
        code: &'a str,
        reason: &'a str,
    },
}

#[derive(Debug, Serialize)]
enum Content<'a> {
    #[serde(rename = "content")]
    Text(&'a str),
    #[serde(rename = "content_base64")]
    Binary(String),
}

impl<'a> Content<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Binary(STANDARD.encode(bytes)),
        }
    }
}

/// Appends the first line that an agent reads.
pub(super) fn write_hello(line: &mut Vec<u8>, agent: &str, node: &str) {
    write(line, &ToAgent::Hello { protocol: PROTOCOL, agent, node });
}

/// Appends a message; `left_ms` is the time left for its answer.
pub(super) fn write_message(line: &mut Vec<u8>, message: &Message, wants_answer: bool, left_ms: u64) {
    let to_agent = ToAgent::Message {
        id: message.id,
        from: &message.from,
        to: message.sent_to(),
        performative: message.performative,
        conversation_id: message.conversation_id.as_deref(),
        in_reply_to: message.in_reply_to,
        content_type: &message.content_type,
        content: Content::of(&message.content),
        wants_answer,
        deadline_ms: left_ms,
        key: message.key(),
        traceparent: message.traceparent.as_deref(),
    };
    write(line, &to_agent);
}

/// Appends the answer to what the agent asked under `id`.
pub(super) fn write_answer(line: &mut Vec<u8>, id: &str, answer: &Answer) {
    let Answer { from, content_type, content } = answer;
    write(line, &ToAgent::Answer { id, from, content_type, content: Content::of(content) });
}

/// Appends that what the agent sent under `id`, to be delivered at least once, is on the disk.
pub(super) fn write_accepted(line: &mut Vec<u8>, id: &str) {
    write(line, &ToAgent::Accepted { id });
}

/// Appends the reason for which what the agent sent or asked was not done.
pub(super) fn write_error(line: &mut Vec<u8>, id: Option<&str>, code: &str, reason: &str) {
    write(line, &ToAgent::Error { id, code, reason });
}

fn write(line: &mut Vec<u8>, to_agent: &ToAgent<'_>) {
    serde_json::to_writer(&mut *line, to_agent).expect("plain records with text keys always serialise");
    line.push(b'\n');
}

/// A line from the agent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromAgent {
    /// It takes messages.
    Ready,
    /// The answer to a message.
    Reply {
        /// The message.
        to: Uuid,
        /// MIME type.
        content_type: String,
        /// Content.
        content: Bytes,
    },
    /// A message that it could not handle.
    Failure {
        /// The message.
        to: Uuid,
        /// Why.
        reason: String,
    },
    /// A message of its own.
    Send(Outgoing),
    /// A message of its own that it wants answered, under an id that it chose.
    Ask(String, Outgoing),
    /// A line for its log.
    Log {
        /// As it names it.
        level: String,
        /// What it says.
        text: String,
    },
}

/// A message of the agent's own, not yet addressed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) id: Option<String>,
    pub(super) to: String,
    pub(super) performative: Option<Performative>,
    pub(super) conversation_id: Option<String>,
    pub(super) in_reply_to: Option<Uuid>,
    pub(super) content_type: String,
    pub(super) content: Bytes,
    pub(super) deadline_ms: Option<u32>,
    pub(super) guarantee: Guarantee,
    pub(super) key: Option<String>,
}

/// A line that is not understood. When it carries an id of the agent's own, the agent is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// The id that the agent chose, if that much is legible.
    pub(super) id: Option<String>,
    /// What is wrong.
    pub(super) why: Cow<'static, str>,
}

#[derive(Deserialize)]
struct Fields {
    r#type: String,
    id: Option<String>,
    to: Option<String>,
    content: Option<String>,
    content_base64: Option<String>,
    content_type: Option<String>,
    reason: Option<String>,
    level: Option<String>,
    text: Option<String>,
    performative: Option<Performative>,
    conversation_id: Option<String>,
    in_reply_to: Option<Uuid>,
    deadline_ms: Option<u32>,
    guarantee: Option<Guarantee>,
    key: Option<String>,
}

/// Understands a line of an agent.
///
/// # Errors
/// [`BadLine`] says what is wrong with it.
pub(super) fn parse(line: &[u8]) -> Result<FromAgent, BadLine> {
    let mut fields: Fields = serde_json::from_slice(line).map_err(|error| {
        // The complaint may repeat what the agent wrote, up to a whole line.
        let why = format!("it is not a line of the protocol: {error}");
        let why: String = why.chars().take(limits::AGENT_REASON_CHARS_MAX).collect();
        BadLine { id: None, why: why.into() }
    })?;
    let id = fields.id.take();
    if id.as_ref().is_some_and(|id| id.len() > limits::AGENT_ASK_ID_BYTES_MAX) {
        return Err(BadLine { id: None, why: "its id is too long".into() });
    }
    understand(fields, id.clone()).map_err(|why| BadLine { id, why })
}

fn understand(mut fields: Fields, id: Option<String>) -> Result<FromAgent, Cow<'static, str>> {
    match fields.r#type.as_str() {
        "ready" => Ok(FromAgent::Ready),
        "reply" => {
            let to = message_id(&fields)?;
            let (content_type, content) = content(&mut fields)?;
            Ok(FromAgent::Reply { to, content_type, content })
        }
        "failure" => {
            let to = message_id(&fields)?;
            Ok(FromAgent::Failure { to, reason: fields.reason.ok_or("it has no `reason`")? })
        }
        "send" => Ok(FromAgent::Send(outgoing(fields, id)?)),
        "ask" => {
            let chosen = id.clone().ok_or("it has no `id`, by which its answer would be known")?;
            if fields.guarantee.is_some_and(|guarantee| guarantee != Guarantee::AtMostOnce) {
                return Err("at-least-once is for messages without an answer: `send` it".into());
            }
            Ok(FromAgent::Ask(chosen, outgoing(fields, id)?))
        }
        "log" => {
            let level = fields.level.unwrap_or_else(|| "info".to_owned());
            Ok(FromAgent::Log { level, text: fields.text.ok_or("it has no `text`")? })
        }
        other => {
            let other: String = other.chars().take(40).collect();
            Err(format!("there is no line of type {other:?}").into())
        }
    }
}

fn message_id(fields: &Fields) -> Result<Uuid, Cow<'static, str>> {
    let to = fields.to.as_deref().ok_or("it has no `to`, the id of the message that it is about")?;
    Uuid::parse_str(to).map_err(|_| "its `to` is not the id of a message".into())
}

fn content(fields: &mut Fields) -> Result<(String, Bytes), Cow<'static, str>> {
    let (default_type, content) = match (fields.content.take(), fields.content_base64.take()) {
        (Some(text), None) => ("text/plain", Bytes::from(text)),
        (None, Some(text)) => {
            let binary = STANDARD.decode(text).map_err(|_| "its `content_base64` is not base64")?;
            ("application/octet-stream", Bytes::from(binary))
        }
        (None, None) => return Err("it has no `content`".into()),
        (Some(_), Some(_)) => return Err("it has both `content` and `content_base64`".into()),
    };
    Ok((fields.content_type.take().unwrap_or_else(|| default_type.to_owned()), content))
}

fn outgoing(mut fields: Fields, id: Option<String>) -> Result<Outgoing, Cow<'static, str>> {
    let (content_type, content) = content(&mut fields)?;
    Ok(Outgoing {
        id,
        to: fields.to.ok_or("it has no `to`, the agent that it is for")?,
        performative: fields.performative,
        conversation_id: fields.conversation_id,
        in_reply_to: fields.in_reply_to,
        content_type,
        content,
        deadline_ms: fields.deadline_ms,
        guarantee: fields.guarantee.unwrap_or_default(),
        key: fields.key,
    })
}

/// The content's bound, checked where content enters the mesh.
///
/// # Errors
/// [`SendError::ContentTooLarge`].
pub(super) fn check_content(content: &Bytes) -> Result<(), SendError> {
    if content.len() <= limits::CONTENT_BYTES_MAX {
        return Ok(());
    }
    Err(SendError::ContentTooLarge {
        bytes: content.len() as u64,
        bytes_max: limits::CONTENT_BYTES_MAX as u64,
    })
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::Address;

    fn text(line: &[u8]) -> serde_json::Value {
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "a record is one line");
        serde_json::from_slice(line).expect("a line is JSON")
    }

    fn why(line: &str) -> String {
        parse(line.as_bytes()).expect_err(line).why.into_owned()
    }

    #[test]
    fn a_message_becomes_the_line_that_is_documented() {
        let mut message = Message {
            id: Uuid::from_u128(7),
            from: "client@node-1".to_owned(),
            to: Address::parse("worker@node-2").expect("valid"),
            performative: Performative::QueryRef,
            conversation_id: None,
            in_reply_to: None,
            content_type: "text/plain".to_owned(),
            content: Bytes::from_static("two\nlines é".as_bytes()),
            deadline_ms: 5000,
            traceparent: None,
            hops: 0,
            extensions: std::collections::BTreeMap::new(),
        };
        let mut line = Vec::new();
        write_message(&mut line, &message, true, 4321);
        let expected = serde_json::json!({
            "type": "message", "id": "00000000-0000-0000-0000-000000000007", "from": "client@node-1",
            "to": "worker@node-2", "performative": "query-ref", "conversation_id": null, "in_reply_to": null,
            "content_type": "text/plain", "content": "two\nlines é", "wants_answer": true, "deadline_ms": 4321
        });
        assert_eq!(text(&line), expected);

        message.content = Bytes::from_static(&[0xff, 0x00]);
        line.clear();
        write_message(&mut line, &message, false, 1);
        assert_eq!(text(&line)["content_base64"], "/wA=");
        assert!(text(&line).get("content").is_none());
    }

    #[test]
    fn the_lines_of_an_agent_are_understood() {
        let id = Uuid::from_u128(7);
        assert_eq!(parse(br#"{"type":"ready","later":[1]}"#), Ok(FromAgent::Ready));
        let reply = parse(format!(r#"{{"type":"reply","to":"{id}","content":"ok"}}"#).as_bytes());
        let expected = FromAgent::Reply {
            to: id,
            content_type: "text/plain".into(),
            content: Bytes::from_static(b"ok"),
        };
        assert_eq!(reply, Ok(expected));
        let Ok(FromAgent::Ask(chosen, outgoing)) =
            parse(br#"{"type":"ask","id":"q1","to":"b@n","content_base64":"/wA=","deadline_ms":9}"#)
        else {
            panic!("an ask is understood")
        };
        assert_eq!((chosen.as_str(), outgoing.to.as_str(), outgoing.deadline_ms), ("q1", "b@n", Some(9)));
        assert_eq!(outgoing.content, [0xff, 0x00].as_slice());
        assert_eq!(outgoing.content_type, "application/octet-stream");
    }

    #[test]
    fn a_line_that_is_not_understood_says_what_is_wrong_with_it() {
        for (line, part) in [
            ("", "not a line of the protocol"),
            ("hello", "not a line of the protocol"),
            ("[1]", "not a line of the protocol"),
            ("{}", "`type`"),
            (r#"{"type":"dance"}"#, "no line of type \"dance\""),
            (r#"{"type":"reply","to":"x","content":""}"#, "not the id of a message"),
            (r#"{"type":"reply","content":""}"#, "no `to`"),
            (r#"{"type":"reply","to":"00000000-0000-0000-0000-000000000007"}"#, "no `content`"),
            (r#"{"type":"send","to":"b","content":"","content_base64":""}"#, "both"),
            (r#"{"type":"send","to":"b","content_base64":"*"}"#, "not base64"),
            (r#"{"type":"send","to":"b","content":"","performative":"shout"}"#, "shout"),
            (r#"{"type":"ask","to":"b","content":""}"#, "no `id`"),
            (r#"{"type":"log"}"#, "no `text`"),
        ] {
            assert!(why(line).contains(part), "{line}: {}", why(line));
        }
        let deep = format!("{}{}", r#"{"type":"ready","x":"#, "[".repeat(100_000));
        assert!(why(&deep).contains("not a line of the protocol"));
        assert_eq!(
            parse(br#"{"type":"ask","id":"q7","to":"b"}"#).expect_err("bad").id.as_deref(),
            Some("q7")
        );
    }
}
