//! `shoal state counter`: sums to which any node adds.

use clap::{Args, Subcommand};

use super::{Writing, tell};
use crate::api::types::{AddToCounter, Counter, Write};
use crate::cli::client::{ANSWER_DEADLINE, Connection, quoted};
use crate::cli::{Failure, Shown, client_of, print};

/// The subcommands of `shoal state counter`.
#[derive(Debug, Subcommand)]
pub(crate) enum CounterCommand {
    /// Add to a counter; exits 5 when the addition waits for a majority, and prints its ticket
    #[command(after_help = "Examples:
  shoal state counter add visits
  shoal state counter add stock --ack quorum -- -3")]
    Add(AddArgs),
    /// Print the sum that the asked node knows
    #[command(after_help = "Example: shoal state counter get visits")]
    Get(GetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The counter
    name: String,
    /// What to add; may be negative
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    number: i64,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The counter
    name: String,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(command: CounterCommand) -> Result<(), Failure> {
    match command {
        CounterCommand::Add(args) => add(&args).await,
        CounterCommand::Get(args) => get(&args).await,
    }
}

fn path(name: &str) -> Result<String, Failure> {
    if name.is_empty() {
        return Err(Failure::Usage("a name must not be empty".to_owned()));
    }
    Ok(format!("/v1/counters/{}", quoted(name)))
}

async fn add(args: &AddArgs) -> Result<(), Failure> {
    let path = path(&args.name)?;
    let add = AddToCounter { add: args.number, ack: args.writing.ack };
    let write: Write = client_of(&args.writing.connection)?.post(&path, &add, ANSWER_DEADLINE).await?;
    tell(args.writing.shown.output, &write, &format!("{} is added to {}", args.number, args.name))
}

async fn get(args: &GetArgs) -> Result<(), Failure> {
    let counter: Counter = client_of(&args.connection)?.get(&path(&args.name)?).await?;
    print::show(args.shown.output, &counter, |counter| format!("{}\n", counter.value))
}
