//! `/v1/messages`: a client asks an agent, or sends it something.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json as Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use super::problem::Problem;
use super::read::Json;
use super::types::{Answered, Receipt, Recipient, Send, Wanted};
use super::{Api, letters};
use crate::core::error::SendError;
use crate::core::limits;
use crate::core::model::{Guarantee, Message, Performative, Target};
use crate::core::wire::OutboxRequest;
use crate::node::clock;
use crate::node::dispatch::{DEADLINE_DEFAULT, Delivered, Posting};

/// Ends with the answer or the receipt, or with the deadline.
pub(super) async fn send(State(api): State<Arc<Api>>, Json(send): Json<Send>) -> Result<Response, Problem> {
    let begun = Instant::now();
    let (want, guarantee) = (send.want, send.guarantee);
    if (want, guarantee) == (Wanted::Answer, Guarantee::AtLeastOnce) {
        let why = "at-least-once is for messages without an answer: send `\"want\": \"receipt\"` with it";
        return Err(Problem::bad_request(why));
    }
    let life = send.deadline_ms.map_or(limits::OUTBOX_LIFE_DEFAULT, Duration::from_millis);
    let posting = posting(&api, send)?;
    let message_id = posting.id;
    let receipt = |recipients| Receipt { message_id, recipients, seconds: begun.elapsed().as_secs_f64() };
    if guarantee == Guarantee::AtLeastOnce {
        let (bytes, bytes_max) = (posting.content.len() as u64, limits::CONTENT_BYTES_MAX as u64);
        if bytes > bytes_max {
            return Err(SendError::ContentTooLarge { bytes, bytes_max }.into());
        }
        let is_plain = posting.target.address().is_some();
        let messages = api.node.copies(posting)?;
        let recipients: Vec<_> = messages.iter().map(promised).collect();
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        letters::ask(&api, None, OutboxRequest::Accept { messages, life_ms }).await?;
        let recipients = (!is_plain).then_some(recipients);
        return Ok((StatusCode::ACCEPTED, Body(receipt(recipients))).into_response());
    }
    match want {
        Wanted::Receipt => {
            let is_plain = posting.target.address().is_some();
            let delivered = api.node.post(posting).await?;
            let recipients = if is_plain {
                delivered.into_iter().try_for_each(|Delivered { result, .. }| result)?;
                None
            } else {
                Some(recipients(delivered)?)
            };
            Ok((StatusCode::ACCEPTED, Body(receipt(recipients))).into_response())
        }
        Wanted::Answer => {
            let answer = api.node.enquire(posting).await?;
            let (content, content_base64) = match String::from_utf8(answer.content.into()) {
                Ok(text) => (Some(text), None),
                Err(error) => (None, Some(BASE64_STANDARD.encode(error.as_bytes()))),
            };
            let (from, content_type) = (answer.from, answer.content_type);
            let seconds = begun.elapsed().as_secs_f64();
            let answered = Answered { message_id, from, content_type, content, content_base64, seconds };
            Ok(Body(answered).into_response())
        }
    }
}

/// One for whom a message is on the disk.
fn promised(message: &Message) -> Recipient {
    Recipient { to: message.to.to_string(), message_id: Some(message.id), code: None, detail: None }
}

/// What became of a message at each; an error when nobody has it.
fn recipients(delivered: Vec<Delivered>) -> Result<Vec<Recipient>, SendError> {
    let is_somewhere = delivered.iter().any(|Delivered { result, .. }| result.is_ok());
    let mut recipients = Vec::with_capacity(delivered.len());
    for Delivered { to, result } in delivered {
        let error = match result {
            Ok(()) => None,
            Err(error) if is_somewhere => Some(error),
            Err(error) => return Err(error),
        };
        let code = error.as_ref().map(|error| error.code().to_owned());
        let detail = error.map(|error| error.to_string());
        recipients.push(Recipient { to: to.to_string(), message_id: None, code, detail });
    }
    Ok(recipients)
}

fn posting(api: &Api, send: Send) -> Result<Posting, Problem> {
    let target = Target::parse(&send.to)?;
    let (content, type_default) = content(send.content, send.content_base64)?;
    let performative_default = match send.want {
        Wanted::Answer => Performative::Request,
        Wanted::Receipt => Performative::Inform,
    };
    let content_type = send.content_type.unwrap_or_else(|| type_default.to_owned());
    check_text("content_type", &content_type)?;
    if let Some(conversation) = &send.conversation_id {
        check_text("conversation_id", conversation)?;
    }
    if let Some(key) = &send.key {
        check_text("key", key)?;
    }
    Ok(Posting {
        target,
        id: clock::message_id(),
        from: format!("client@{}", api.node.own()),
        performative: send.performative.unwrap_or(performative_default),
        conversation_id: send.conversation_id,
        in_reply_to: None,
        content_type,
        content,
        deadline_ms: deadline_ms(send.deadline_ms, send.guarantee)?,
        key: send.key,
        hops: 0,
    })
}

fn content(text: Option<String>, base64: Option<String>) -> Result<(Bytes, &'static str), Problem> {
    match (text, base64) {
        (Some(text), None) => Ok((text.into(), "text/plain; charset=utf-8")),
        (None, Some(base64)) => match BASE64_STANDARD.decode(base64) {
            Ok(bytes) => Ok((bytes.into(), "application/octet-stream")),
            Err(error) => Err(Problem::bad_request(format!("content_base64 is not base64: {error}"))),
        },
        (Some(_), Some(_)) => Err(Problem::bad_request("give content or content_base64, not both")),
        (None, None) => Err(Problem::bad_request("there is no content: give content or content_base64")),
    }
}

/// Both end up in header lines of agents.
fn check_text(field: &str, text: &str) -> Result<(), Problem> {
    if text.is_empty() || text.len() > limits::API_NAME_BYTES_MAX || text.chars().any(char::is_control) {
        let rule = limits::API_NAME_BYTES_MAX;
        let why = format!("{field} must have 1 to {rule} bytes and no control characters");
        return Err(Problem::bad_request(why));
    }
    Ok(())
}

fn deadline_ms(given: Option<u64>, guarantee: Guarantee) -> Result<u32, Problem> {
    let most = match guarantee {
        Guarantee::AtMostOnce => limits::DEADLINE_MAX,
        // Each try has a deadline of its own.
        Guarantee::AtLeastOnce => limits::OUTBOX_LIFE_MAX,
    };
    let most = most.as_millis() as u64;
    let given = given.unwrap_or(DEADLINE_DEFAULT.as_millis() as u64);
    match u32::try_from(given) {
        Ok(deadline) if (1..=most).contains(&given) => Ok(deadline),
        _ => Err(Problem::bad_request(format!("deadline_ms is {given}: it must be 1 to {most}"))),
    }
}
