//! `shoal message`: asks an agent and prints its answer, or sends it something.
//!
//! An answer's content goes to stdout byte for byte, because it is what was asked for; only a terminal
//! gets a line end after it where it has none.

use std::io::{IsTerminal, Read};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::client::{Client, Connection};
use super::letters::{self, TraceArgs};
use super::{Failure, Output, Shown, client_of, print};
use crate::api::types::{Answered, Receipt, Recipient, Send, Wanted};
use crate::core::limits;
use crate::core::model::{Guarantee, Performative, Target};

/// What the way to the node and back may take beside the deadline of the message.
const SLACK: Duration = Duration::from_secs(5);
/// How long a receipt may take when nobody says.
const RECEIPT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a node may take to store a message.
const ACCEPT_DEADLINE: Duration = Duration::from_secs(20);

/// The subcommands of `shoal message`.
#[derive(Debug, Subcommand)]
pub(crate) enum MessageCommand {
    /// Send a message and print the answer
    #[command(after_help = "Examples:
  shoal message ask --to echo --content hello
  shoal message ask --to upper@node-2 --content @letter.txt --deadline 30s
  generate | shoal message ask --to store --content - --content-type application/json")]
    Ask(AskArgs),
    /// Send a message and wait until it is in the agent's mailbox or, to be delivered at least once, on the node's disk
    #[command(after_help = "Examples:
  shoal message send --to worker --content '{\"job\": 7}' --conversation job-7
  shoal message send --to topic:orders --content '{\"order\": 9}'
  shoal message send --to worker --content '{\"job\": 8}' --guarantee at-least-once --deadline 1day")]
    Send(SendArgs),
    /// Tell where a message is that is to be delivered at least once
    #[command(after_help = "Example: shoal message trace 01a1fc5e-54e2-7a91-aea0-15afccd41a51")]
    Trace(TraceArgs),
}

/// Arguments of `shoal message ask`.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    #[command(flatten)]
    message: MessageArgs,
    /// How long the answer may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = span)]
    deadline: Duration,
}

/// Arguments of `shoal message send`.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    #[command(flatten)]
    message: MessageArgs,
    /// at-most-once: it is sent once. at-least-once: the node keeps it on its disk and tries until the agent has
    /// answered it, so the agent may get it twice
    #[arg(long, value_name = "WORD", default_value = "at-most-once", value_parser = guarantee)]
    guarantee: Guarantee,
    /// How long the receipt may take [default: 5s]; with at-least-once, how long it is tried [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = life)]
    deadline: Option<Duration>,
}

/// Arguments of both.
#[derive(Debug, Args)]
pub(crate) struct MessageArgs {
    /// The agent, as NAME or NAME@NODE; or cap:NAME for one that can do something, and for `send` topic:NAME for all
    /// that listen to it, all:NAME for all of a name
    #[arg(long, value_name = "ADDRESS", value_parser = target)]
    to: Target,
    /// The content: a text, @FILE, or - for stdin
    #[arg(long, value_name = "TEXT|@FILE|-", allow_hyphen_values = true)]
    content: String,
    /// MIME type of the content [default: text/plain; charset=utf-8, or application/octet-stream for
    /// what is not text]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Id of a conversation; messages of one keep their order
    #[arg(long, value_name = "ID")]
    conversation: Option<String>,
    /// What instances with `--balance key-hash` share messages out by
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// FIPA performative, as query-ref [default: request for ask, inform for send]
    #[arg(long, value_name = "WORD", value_parser = performative)]
    performative: Option<Performative>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

fn target(text: &str) -> Result<Target, String> {
    Target::parse(text).map_err(|error| error.to_string())
}

fn performative(text: &str) -> Result<Performative, String> {
    Performative::deserialize(StrDeserializer::<ValueError>::new(text)).map_err(|error| error.to_string())
}

fn guarantee(text: &str) -> Result<Guarantee, String> {
    Guarantee::deserialize(StrDeserializer::<ValueError>::new(text)).map_err(|error| error.to_string())
}

/// A time as `500ms`, `1h`, `2days`: how long a message may be tried.
fn life(text: &str) -> Result<Duration, String> {
    span_up_to(text, limits::OUTBOX_LIFE_MAX)
}

/// A time as `500ms`, `5s`, `1m 30s`: at least a millisecond, at most what a deadline may be.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    span_up_to(text, limits::DEADLINE_MAX)
}

fn span_up_to(text: &str, most: Duration) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|error| format!("{error}; give one such as 5s"))?;
    if span < Duration::from_millis(1) || span > most {
        return Err(format!("give 1ms to {}", humantime::format_duration(most)));
    }
    Ok(span)
}

/// Does what the subcommand asks.
pub(super) async fn run(command: MessageCommand) -> Result<(), Failure> {
    match command {
        MessageCommand::Ask(args) => ask(args).await,
        MessageCommand::Send(args) => send(args).await,
        MessageCommand::Trace(args) => letters::trace(&args).await,
    }
}

async fn ask(AskArgs { message, deadline }: AskArgs) -> Result<(), Failure> {
    if matches!(message.to, Target::Topic(_) | Target::All(_)) {
        let why = format!("--to {}: one answer comes from one agent: ask an agent or cap:NAME", message.to);
        return Err(Failure::Usage(why));
    }
    let output = message.shown.output;
    let answered: Answered =
        post(message, Wanted::Answer, Guarantee::AtMostOnce, deadline, deadline + SLACK).await?;
    match output {
        Output::Json => print::show(output, &answered, |_| String::new()),
        Output::Table => {
            let mut content = content_of(answered)?;
            if std::io::stdout().is_terminal() && !content.ends_with(b"\n") {
                content.push(b'\n');
            }
            print::write_out(&content)
        }
    }
}

fn content_of(answered: Answered) -> Result<Vec<u8>, Failure> {
    match (answered.content, answered.content_base64) {
        (Some(text), _) => Ok(text.into_bytes()),
        (None, Some(base64)) => BASE64_STANDARD
            .decode(base64)
            .map_err(|error| Failure::Refused(format!("the answer's content is not base64: {error}"))),
        (None, None) => Ok(Vec::new()),
    }
}

async fn send(SendArgs { message, guarantee, deadline }: SendArgs) -> Result<(), Failure> {
    let (output, to) = (message.shown.output, message.to.clone());
    let (deadline, within) = match guarantee {
        Guarantee::AtMostOnce => {
            let deadline = deadline.unwrap_or(RECEIPT_DEADLINE);
            if deadline > limits::DEADLINE_MAX {
                let most = humantime::format_duration(limits::DEADLINE_MAX);
                return Err(Failure::Usage(format!(
                    "--deadline: give 1ms to {most}, or --guarantee at-least-once"
                )));
            }
            (deadline, deadline + SLACK)
        }
        Guarantee::AtLeastOnce => (deadline.unwrap_or(limits::OUTBOX_LIFE_DEFAULT), ACCEPT_DEADLINE),
    };
    let receipt: Receipt = post(message, Wanted::Receipt, guarantee, deadline, within).await?;
    print::show(output, &receipt, |Receipt { message_id, recipients, .. }| match (guarantee, recipients) {
        (Guarantee::AtMostOnce, None) => format!("message {message_id} is with {to}\n"),
        (Guarantee::AtMostOnce, Some(recipients)) => told_of(&message_id.to_string(), recipients),
        (Guarantee::AtLeastOnce, None) => {
            format!("message {message_id} is stored, and tried until {to} has answered it\n")
        }
        (Guarantee::AtLeastOnce, Some(recipients)) => stored_for(recipients),
    })?;
    let all = receipt.recipients.unwrap_or_default();
    match all.iter().filter(|recipient| recipient.code.is_some()).count() {
        0 => Ok(()),
        failed => Err(Failure::Refused(format!("{failed} of {} did not get the message", all.len()))),
    }
}

/// Of each the id by which its message is traced.
fn stored_for(recipients: &[Recipient]) -> String {
    let line = |Recipient { to, message_id, .. }: &Recipient| {
        let id = message_id.map(|id| id.to_string()).unwrap_or_default();
        format!("message {id} is stored, and tried until {to} has answered it\n")
    };
    recipients.iter().map(line).collect()
}

/// One agent by its address; of several how many, and those that do not have it with the reason.
fn told_of(message_id: &str, recipients: &[Recipient]) -> String {
    let has = recipients.iter().filter(|recipient| recipient.code.is_none()).count();
    let whom = match recipients {
        [one] => one.to.clone(),
        all if has == all.len() => format!("{has} agents"),
        all => format!("{has} of {} agents", all.len()),
    };
    let mut text = format!("message {message_id} is with {whom}\n");
    for Recipient { to, detail, .. } in recipients {
        if let Some(detail) = detail {
            text.push_str(&format!("not with {to}: {detail}\n"));
        }
    }
    text
}

async fn post<T: serde::de::DeserializeOwned>(
    args: MessageArgs,
    want: Wanted,
    guarantee: Guarantee,
    deadline: Duration,
    within: Duration,
) -> Result<T, Failure> {
    let client: Client = client_of(&args.connection)?;
    let (content, content_base64) = match String::from_utf8(read_content(&args.content)?) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(BASE64_STANDARD.encode(error.as_bytes()))),
    };
    let send = Send {
        to: args.to.to_string(),
        content,
        content_base64,
        content_type: args.content_type,
        performative: args.performative,
        conversation_id: args.conversation,
        deadline_ms: Some(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)),
        want,
        guarantee,
        key: args.key,
    };
    client.post("/v1/messages", &send, within).await
}

fn read_content(content: &str) -> Result<Vec<u8>, Failure> {
    read_bytes(content, limits::CONTENT_BYTES_MAX, "a message can carry")
}

/// What a text, `@FILE` or `-` stands for. Reads at most one byte more than `what_may` may: the rest would be refused
/// anyway.
pub(super) fn read_bytes(content: &str, bytes_max: usize, what_may: &str) -> Result<Vec<u8>, Failure> {
    let bytes_max = bytes_max as u64;
    let mut bytes = Vec::new();
    let (what, read) = match (content, content.strip_prefix('@')) {
        ("-", _) => ("stdin", std::io::stdin().lock().take(bytes_max + 1).read_to_end(&mut bytes)),
        (_, Some(path)) => {
            let read = std::fs::File::open(path);
            (path, read.and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes)))
        }
        (text, None) => return Ok(text.as_bytes().to_vec()),
    };
    match read {
        Ok(count) if count as u64 <= bytes_max => Ok(bytes),
        Ok(_) => Err(Failure::Refused(format!("{what} has more than the {bytes_max} bytes that {what_may}"))),
        Err(error) => Err(Failure::Usage(format!("the content cannot be read from {what}: {error}"))),
    }
}
