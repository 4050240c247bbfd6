//! `shoal state set`: elements, each there or not.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::map::usage;
use super::{Writing, delete_key, listing, tell, write_key};
use crate::api::types::PutKey;
use crate::cli::client::Connection;
use crate::cli::{Failure, Shown, client_of, print};
use crate::core::layout::Layout;

/// The subcommands of `shoal state set`.
#[derive(Debug, Subcommand)]
pub(crate) enum SetCommand {
    /// Add an element; to add one that is there makes it stay if another node removes it at the same time
    #[command(after_help = "Example: shoal state set add blocked 10.0.0.7")]
    Add(ElementArgs),
    /// Remove an element, as far as this node has seen it added
    #[command(after_help = "Example: shoal state set remove blocked 10.0.0.7")]
    Remove(ElementArgs),
    /// List the elements, one a line
    #[command(after_help = "Example: shoal state set list blocked")]
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ElementArgs {
    /// The set
    name: String,
    /// The element
    #[arg(allow_hyphen_values = true)]
    element: String,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The set
    name: String,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// A set, as JSON.
#[derive(Debug, Serialize)]
struct Elements {
    name: String,
    elements: Vec<String>,
    /// Whether there are more than are listed.
    more: bool,
}

pub(super) async fn run(command: SetCommand) -> Result<(), Failure> {
    match command {
        SetCommand::Add(args) => add(&args).await,
        SetCommand::Remove(args) => remove(&args).await,
        SetCommand::List(args) => list(&args).await,
    }
}

async fn add(args: &ElementArgs) -> Result<(), Failure> {
    let key = Layout::Set.key(&args.name, &args.element).map_err(usage)?;
    let client = client_of(&args.writing.connection)?;
    let put = PutKey { value: Some(String::new()), ack: args.writing.ack, ..PutKey::default() };
    let write = write_key(&client, &key, &put).await?;
    tell(args.writing.shown.output, &write, &format!("{} is in {}", args.element, args.name))
}

async fn remove(args: &ElementArgs) -> Result<(), Failure> {
    let key = Layout::Set.key(&args.name, &args.element).map_err(usage)?;
    let client = client_of(&args.writing.connection)?;
    let write = delete_key(&client, &key, None, args.writing.ack).await?;
    tell(args.writing.shown.output, &write, &format!("{} is removed from {}", args.element, args.name))
}

async fn list(args: &ListArgs) -> Result<(), Failure> {
    let prefix = Layout::Set.prefix(&args.name).map_err(usage)?;
    let found = listing::all(&client_of(&args.connection)?, &prefix).await?;
    let elements = found.entries.iter().filter_map(|state| Layout::Set.part(&args.name, &state.key));
    let elements = Elements { name: args.name.clone(), elements: elements.collect(), more: found.more };
    print::show(args.shown.output, &elements, |elements| {
        elements.elements.iter().map(|element| print::visible(element) + "\n").collect()
    })?;
    listing::warn(&found);
    Ok(())
}
