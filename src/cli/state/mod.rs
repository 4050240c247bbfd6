//! `shoal state`: what the nodes share.
//!
//! - `keys` reads and writes single keys, `value` shows them
//! - `map`, `set` and `counter` are layouts of keys; `aggregate` puts together what the nodes hold for one key
//! - `watch` follows changes, `policy` chooses how concurrent values are resolved

mod aggregate;
mod counter;
mod keys;
mod listing;
mod map;
mod policy;
mod set;
mod value;
mod watch;

use clap::{Args, Subcommand};

use super::client::{Client, Connection, quoted};
use super::{Failure, Output, Shown, client_of, print};
use crate::api::types::{Ack, PutKey, Ticket, Write};

/// The subcommands of `shoal state`.
#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Print the value of a key, byte for byte; several values that the policy does not choose from are a table
    #[command(after_help = "Examples:
  shoal state get orders/42
  shoal state get orders/42 --node node-2 -o json     (with its context, policy and siblings)
  shoal state get orders/42 --all-nodes")]
    Get(keys::GetArgs),
    /// Write a key; exits 5 when the write waits for a majority, and prints its ticket
    #[command(after_help = "Examples:
  shoal state put orders/42 shipped
  shoal state put orders/42 @order.json --ack quorum
  generate | shoal state put orders/42 - --context \"$CONTEXT\"     (replaces exactly what was read)")]
    Put(keys::PutArgs),
    /// Delete a key; a value that another node writes at the same time stays
    #[command(after_help = "Example: shoal state delete orders/42")]
    Delete(keys::DeleteArgs),
    /// List keys in order
    #[command(after_help = "Examples:
  shoal state list
  shoal state list orders/ --limit 20 --node node-2")]
    List(listing::ListArgs),
    /// Show keys as they change on the asked node, until interrupted; exits 3 when the node goes away
    #[command(after_help = "Examples:
  shoal state watch orders/
  shoal state watch --after 0 -o json     (all changes that the node keeps, then new ones)")]
    Watch(watch::WatchArgs),
    /// Tell what became of a queued write; exits 5 while it waits, 1 when it was not made
    #[command(after_help = "Example: shoal state ticket node-1/3f2a-17")]
    Ticket(TicketArgs),
    /// Ask every node for the number that it has for a key, and put them together
    #[command(after_help = "Example: shoal state aggregate load/target --op max")]
    Aggregate(aggregate::AggregateArgs),
    /// Maps: a value for each field, in a key of its own
    #[command(subcommand)]
    Map(map::MapCommand),
    /// Sets: an element that is added while another node removes it stays
    #[command(subcommand)]
    Set(set::SetCommand),
    /// Counters: any node adds without asking another
    #[command(subcommand)]
    Counter(counter::CounterCommand),
    /// How concurrent values of keys are resolved, in the whole mesh
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
}

/// Arguments of `shoal state ticket`.
#[derive(Debug, Args)]
pub(crate) struct TicketArgs {
    /// The ticket, as a queued write has printed it
    #[arg(value_name = "ID")]
    ticket: String,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// How a write is answered.
#[derive(Debug, Clone, Args)]
pub(crate) struct Writing {
    /// When the write is answered
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    ack: Ack,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Does what the subcommand asks.
pub(super) async fn run(command: StateCommand) -> Result<(), Failure> {
    match command {
        StateCommand::Get(args) => keys::get(&args).await,
        StateCommand::Put(args) => keys::put(&args).await,
        StateCommand::Delete(args) => keys::delete(&args).await,
        StateCommand::List(args) => listing::run(&args).await,
        StateCommand::Watch(args) => watch::run(&args).await,
        StateCommand::Ticket(args) => ticket(&args).await,
        StateCommand::Aggregate(args) => aggregate::run(&args).await,
        StateCommand::Map(command) => map::run(command).await,
        StateCommand::Set(command) => set::run(command).await,
        StateCommand::Counter(command) => counter::run(command).await,
        StateCommand::Policy(command) => policy::run(command).await,
    }
}

/// The path of a key; its slashes are those of the path.
fn key_path(key: &str) -> String {
    let parts: Vec<_> = key.split('/').map(quoted).collect();
    format!("/v1/state/{}", parts.join("/"))
}

/// Writes a key.
async fn write_key(client: &Client, key: &str, put: &PutKey) -> Result<Write, Failure> {
    client.put(&key_path(key), put).await
}

/// Deletes a key.
async fn delete_key(client: &Client, key: &str, context: Option<&str>, ack: Ack) -> Result<Write, Failure> {
    let context = context.map(|context| format!("&context={}", quoted(context))).unwrap_or_default();
    client.delete(&format!("{}?ack={}{context}", key_path(key), ack.as_str())).await
}

/// Says what became of a write, `done` where it was made. A ticket alone is on stdout, for scripts.
fn tell(output: Output, write: &Write, done: &str) -> Result<(), Failure> {
    print::show(output, write, |write| match write {
        Write::Done(made) => {
            let sibling = if made.sibling {
                "; it stands beside values that it has not replaced: `shoal state get KEY -o json` shows them"
            } else {
                ""
            };
            let marked = if made.marked { "; without a majority" } else { "" };
            format!("{}{sibling}{marked}\n", print::visible(done))
        }
        Write::Queued(queued) => format!("{}\n", print::visible(&queued.ticket)),
    })?;
    match write {
        Write::Done(_) => Ok(()),
        Write::Queued(queued) => Err(Failure::Queued(format!(
            "the node is not among a majority, and the write waits until it is: `shoal state ticket {}` tells what \
             became of it",
            queued.ticket
        ))),
    }
}

async fn ticket(args: &TicketArgs) -> Result<(), Failure> {
    let parsed: Result<crate::core::model::Ticket, _> = args.ticket.parse();
    let parsed = parsed.map_err(|error| Failure::Usage(error.to_string()))?;
    let client = client_of(&args.connection)?;
    let ticket: Ticket = client.get(&format!("/v1/tickets/{parsed}")).await?;
    print::show(args.shown.output, &ticket, |ticket| {
        print::pairs(&[
            ("Ticket", ticket.ticket.clone()),
            ("Key", ticket.key.clone()),
            ("State", ticket.state.clone()),
            ("Reason", print::or_nothing(ticket.reason.clone(), |reason| reason)),
            ("Queued", print::time(ticket.queued_unix_ms)),
            ("Expires", print::time(ticket.expires_unix_ms)),
        ])
    })?;
    match ticket.state.as_str() {
        "applied" | "conflicted" => Ok(()),
        "queued" => Err(Failure::Queued(format!("the write of {} still waits", ticket.ticket))),
        _ => {
            let reason = ticket.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            Err(Failure::Refused(format!(
                "the write of {} was not made, it is {}{reason}",
                ticket.ticket, ticket.state
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_quoted_part_by_part() {
        assert_eq!(key_path("orders/42"), "/v1/state/orders/42");
        assert_eq!(key_path("a b/50%/ü?#"), "/v1/state/a%20b/50%25/%C3%BC%3F%23");
        assert_eq!(key_path("_set/a%2Fb/x"), "/v1/state/_set/a%252Fb/x");
    }
}
