//! `shoal message trace` and `shoal dead-letters`: what became of messages that a node has promised to deliver.

use std::fmt::Write;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use uuid::Uuid;

use super::client::Connection;
use super::print::{self, Table};
use super::{Failure, Shown, client_of};
use crate::api::types::{DeadChanged, DeadLetters, DeadOnes, MessageTrace};
use crate::core::ids::NodeId;
use crate::core::limits;

/// How long a node may take to take letters up again or drop them.
const CHANGE_DEADLINE: Duration = Duration::from_secs(30);

/// The subcommands of `shoal dead-letters`.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List the messages that were given up, oldest first
    #[command(after_help = "Example: shoal dead-letters list --node node-2")]
    List(ListArgs),
    /// Take messages up again that were given up; each has the time again that it once had
    #[command(after_help = "Examples:
  shoal dead-letters retry 01a1fc5e-54e2-7a91-aea0-15afccd41a51
  shoal dead-letters retry --all")]
    Retry(ChangeArgs),
    /// Forget messages that were given up
    #[command(after_help = "Example: shoal dead-letters drop 01a1fc5e-54e2-7a91-aea0-15afccd41a51")]
    Drop(ChangeArgs),
}

/// Arguments of `shoal message trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// The message, as its receipt names it
    id: Uuid,
    /// The node that has promised to deliver it [default: the asked one]
    #[arg(long)]
    node: Option<NodeId>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `shoal dead-letters list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The node that has them [default: the asked one]
    #[arg(long)]
    node: Option<NodeId>,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=limits::DEAD_LETTERS_LISTED_MAX as i64))]
    limit: u32,
    /// Only those after this one
    #[arg(long, value_name = "ID")]
    after: Option<Uuid>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of the commands that change something.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["ids", "all"])))]
pub(crate) struct ChangeArgs {
    /// The messages
    #[arg(num_args = 1..=limits::DEAD_LETTERS_AT_ONCE)]
    ids: Vec<Uuid>,
    /// All of them
    #[arg(long)]
    all: bool,
    /// The node that has them [default: the asked one]
    #[arg(long)]
    node: Option<NodeId>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Does what the subcommand asks.
pub(super) async fn run(command: DeadLettersCommand) -> Result<(), Failure> {
    match command {
        DeadLettersCommand::List(args) => list(&args).await,
        DeadLettersCommand::Retry(args) => change(&args, "retry", "taken up again").await,
        DeadLettersCommand::Drop(args) => change(&args, "drop", "dropped").await,
    }
}

pub(super) async fn trace(args: &TraceArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let path = format!("/v1/messages/{}{}", args.id, of(args.node.as_ref(), "?"));
    let trace: MessageTrace = client.get(&path).await?;
    print::show(args.shown.output, &trace, table_of_trace)
}

fn table_of_trace(trace: &MessageTrace) -> String {
    let mut pairs = vec![
        ("State", trace.state.clone()),
        ("Promised by", trace.node.to_string()),
        ("From", trace.from.clone()),
        ("To", trace.to.clone()),
        ("Conversation", print::or_nothing(trace.conversation_id.clone(), |text| text)),
        ("Accepted", print::time(trace.accepted_at_ms)),
    ];
    match trace.ended_at_ms {
        Some(at_ms) => pairs.push(("Ended", print::time(at_ms))),
        None => pairs.push(("Given up", print::time(trace.deadline_at_ms))),
    }
    pairs.push(("Tries", trace.tries.to_string()));
    pairs.extend(trace.reason.clone().map(|reason| ("Reason", reason)));
    let mut text = print::pairs(&pairs);
    for failed in &trace.failed {
        let reason = print::visible(&failed.reason);
        let _ = writeln!(text, "{}  {}: {reason}", print::time(failed.at_ms), failed.code);
    }
    text
}

async fn list(args: &ListArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let after = args.after.map(|id| format!("&after={id}")).unwrap_or_default();
    let node = of(args.node.as_ref(), "&");
    let path = format!("/v1/dead-letters?limit={}{after}{node}", args.limit);
    let dead: DeadLetters = client.get(&path).await?;
    print::show(args.shown.output, &dead, table_of_dead)
}

fn table_of_dead(dead: &DeadLetters) -> String {
    if dead.letters.is_empty() && dead.total == 0 {
        return format!("{} has no dead letters\n", dead.node);
    }
    let mut table = Table::new(&["ID", "FROM", "TO", "BYTES", "GIVEN UP", "TRIES", "REASON"]);
    for letter in &dead.letters {
        table.row([
            letter.message_id.to_string(),
            letter.from.clone(),
            letter.to.clone(),
            letter.bytes.to_string(),
            print::time(letter.died_at_ms),
            letter.tries.to_string(),
            letter.reason.clone(),
        ]);
    }
    let (shown, total) = (dead.letters.len() as u64, dead.total);
    let more =
        if shown < total { format!("{shown} of {total}: see --after and --limit\n") } else { String::new() };
    table.text() + &more
}

async fn change(args: &ChangeArgs, what: &str, done: &str) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let path = format!("/v1/dead-letters/{what}{}", of(args.node.as_ref(), "?"));
    let ones = DeadOnes { ids: args.ids.clone(), all: args.all };
    let mut changed: DeadChanged = client.post(&path, &ones, CHANGE_DEADLINE).await?;
    // All that were there at first are taken, some at a time: some may be given up again meanwhile.
    let there = changed.count + changed.left;
    while args.all && changed.left > 0 && changed.count < there {
        let next: DeadChanged = client.post(&path, &ones, CHANGE_DEADLINE).await?;
        if next.count == 0 {
            break;
        }
        changed = DeadChanged { count: changed.count + next.count, ..next };
    }
    if !args.all && changed.count < args.ids.len() as u64 {
        let (count, asked) = (changed.count, args.ids.len());
        return Err(Failure::Refused(format!(
            "{count} of {asked} dead letters are {done}: {} has no others of these",
            changed.node
        )));
    }
    print::show(args.shown.output, &changed, |changed| {
        format!("{} dead letters are {done}, {} are left on {}\n", changed.count, changed.left, changed.node)
    })
}

fn of(node: Option<&NodeId>, mark: &str) -> String {
    node.map(|node| format!("{mark}node={node}")).unwrap_or_default()
}
