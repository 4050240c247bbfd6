//! `shoal state map`: a value for each field; changes of different fields never meet.

use clap::{Args, Subcommand};

use super::{Writing, delete_key, key_path, keys, listing, tell, value, write_key};
use crate::api::types::{KeyState, PutKey};
use crate::cli::client::Connection;
use crate::cli::print::{self, Table};
use crate::cli::{Failure, Shown, client_of};
use crate::core::layout::{Layout, LayoutError};

/// The subcommands of `shoal state map`.
#[derive(Debug, Subcommand)]
pub(crate) enum MapCommand {
    /// Set a field
    #[command(after_help = "Example: shoal state map put users alice '{\"mail\": \"a@example.com\"}'")]
    Put(PutArgs),
    /// Print the value of a field, byte for byte
    #[command(after_help = "Example: shoal state map get users alice")]
    Get(GetArgs),
    /// Delete a field
    #[command(after_help = "Example: shoal state map delete users alice")]
    Delete(DeleteArgs),
    /// List the fields of a map with their values
    #[command(after_help = "Example: shoal state map list users -o json")]
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The map
    name: String,
    /// The field
    field: String,
    /// The value: a text, @FILE, or - for stdin
    #[arg(value_name = "VALUE|@FILE|-", allow_hyphen_values = true)]
    value: String,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The map
    name: String,
    /// The field
    field: String,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The map
    name: String,
    /// The field
    field: String,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The map
    name: String,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(command: MapCommand) -> Result<(), Failure> {
    match command {
        MapCommand::Put(args) => put(&args).await,
        MapCommand::Get(args) => get(&args).await,
        MapCommand::Delete(args) => delete(&args).await,
        MapCommand::List(args) => list(&args).await,
    }
}

/// A name that no key can be made of is bad usage.
pub(super) fn usage(error: LayoutError) -> Failure {
    Failure::Usage(error.to_string())
}

async fn put(args: &PutArgs) -> Result<(), Failure> {
    let key = Layout::Map.key(&args.name, &args.field).map_err(usage)?;
    let client = client_of(&args.writing.connection)?;
    let put = PutKey { ack: args.writing.ack, ..keys::body(&args.value)? };
    let write = write_key(&client, &key, &put).await?;
    tell(args.writing.shown.output, &write, &format!("{} of {} is written", args.field, args.name))
}

async fn get(args: &GetArgs) -> Result<(), Failure> {
    let key = Layout::Map.key(&args.name, &args.field).map_err(usage)?;
    let state: KeyState = client_of(&args.connection)?.get(&key_path(&key)).await?;
    keys::show(args.shown.output, &state)
}

async fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    let key = Layout::Map.key(&args.name, &args.field).map_err(usage)?;
    let client = client_of(&args.writing.connection)?;
    let write = delete_key(&client, &key, None, args.writing.ack).await?;
    tell(args.writing.shown.output, &write, &format!("{} of {} is deleted", args.field, args.name))
}

async fn list(args: &ListArgs) -> Result<(), Failure> {
    let prefix = Layout::Map.prefix(&args.name).map_err(usage)?;
    let found = listing::all(&client_of(&args.connection)?, &prefix).await?;
    print::show(args.shown.output, &found, |found| {
        let mut table = Table::new(&["FIELD", "VALUE", "SIBLINGS"]);
        for state in &found.entries {
            // A key below the map that nobody made as a field of it is shown as it is.
            let field = Layout::Map.part(&args.name, &state.key).unwrap_or_else(|| state.key.clone());
            table.row([field, value::chosen(state), state.siblings.len().to_string()]);
        }
        table.text()
    })?;
    listing::warn(&found);
    Ok(())
}
