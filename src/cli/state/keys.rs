//! `shoal state get`, `put` and `delete`: one key.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;

use super::{Writing, delete_key, key_path, tell, value, write_key};
use crate::api::types::{KeyEverywhere, KeyState, PutKey};
use crate::cli::client::{Connection, quoted};
use crate::cli::message::read_bytes;
use crate::cli::{Failure, Output, Shown, client_of, print};
use crate::core::ids::NodeId;
use crate::core::layout::Layout;
use crate::core::limits;

/// Arguments of `shoal state get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The key
    key: String,
    /// Ask this node instead of the one whose API it is
    #[arg(long, conflicts_with = "all_nodes")]
    node: Option<NodeId>,
    /// Show what each node of the mesh has
    #[arg(long)]
    all_nodes: bool,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `shoal state put`.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The key: a path such as orders/42
    key: String,
    /// The value: a text, @FILE, or - for stdin
    #[arg(value_name = "VALUE|@FILE|-", allow_hyphen_values = true)]
    value: String,
    /// What the write replaces, from `state get -o json` [default: what the node has seen of the key]
    #[arg(long)]
    context: Option<String>,
    #[command(flatten)]
    writing: Writing,
}

/// Arguments of `shoal state delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The key
    key: String,
    /// What is deleted, from `state get -o json` [default: what the node has seen of the key]
    #[arg(long)]
    context: Option<String>,
    #[command(flatten)]
    writing: Writing,
}

pub(super) async fn get(args: &GetArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    if args.all_nodes {
        let path = format!("/v1/state?all_nodes=true&key={}", quoted(&args.key));
        let everywhere: KeyEverywhere = client.get(&path).await?;
        return print::show(args.shown.output, &everywhere, value::everywhere);
    }
    let node = args.node.as_ref().map(|node| format!("?node={node}")).unwrap_or_default();
    let state: KeyState = client.get(&format!("{}{node}", key_path(&args.key))).await?;
    show(args.shown.output, &state)
}

/// A chosen value goes out byte for byte; several of which none is chosen as a table.
pub(super) fn show(output: Output, state: &KeyState) -> Result<(), Failure> {
    match output {
        Output::Json => print::show(output, state, |_| String::new())?,
        Output::Table if state.value.is_none() => print::write_out(value::siblings(state).as_bytes())?,
        Output::Table => value::write_raw(state)?,
    }
    value::warn_of_policy(state);
    value::warn_of_age(&state.node, &state.mode, state.age_seconds);
    Ok(())
}

pub(super) async fn put(args: &PutArgs) -> Result<(), Failure> {
    check_plain(&args.key)?;
    let client = client_of(&args.writing.connection)?;
    let put = PutKey { context: args.context.clone(), ack: args.writing.ack, ..body(&args.value)? };
    let write = write_key(&client, &args.key, &put).await?;
    tell(args.writing.shown.output, &write, &format!("{} is written", args.key))
}

/// A body with what a text, `@FILE` or `-` stands for.
pub(super) fn body(value: &str) -> Result<PutKey, Failure> {
    let bytes = read_bytes(value, limits::STATE_VALUE_BYTES_MAX, "a key can hold")?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => PutKey { value: Some(text), ..PutKey::default() },
        Err(error) => {
            PutKey { value_base64: Some(BASE64_STANDARD.encode(error.as_bytes())), ..PutKey::default() }
        }
    })
}

pub(super) async fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    check_plain(&args.key)?;
    let client = client_of(&args.writing.connection)?;
    let write = delete_key(&client, &args.key, args.context.as_deref(), args.writing.ack).await?;
    tell(args.writing.shown.output, &write, &format!("{} is deleted", args.key))
}

/// A part of a map, a set or a counter is written by the commands that know its layout.
fn check_plain(key: &str) -> Result<(), Failure> {
    let command = match Layout::of(key) {
        None => return Ok(()),
        Some(Layout::Map) => "map",
        Some(Layout::Set) => "set",
        Some(Layout::Counter) => "counter",
    };
    Err(Failure::Usage(format!(
        "the key {key:?} is part of a {command}: write it with `shoal state {command}`"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_layouts_are_not_written_as_plain_keys() {
        assert!(check_plain("orders/42").is_ok());
        let error = check_plain("_counter/hits/n1.x").expect_err("a counter's").to_string();
        assert!(error.contains("`shoal state counter`"), "{error}");
    }

    #[test]
    fn a_value_that_is_no_text_goes_as_base64_and_one_too_large_is_refused_here() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let from_file = format!("@{}", file.path().display());
        std::fs::write(file.path(), b"\xff\x00").expect("written");
        let put = body(&from_file).expect("readable");
        assert_eq!((put.value, put.value_base64.as_deref()), (None, Some("/wA=")));
        std::fs::write(file.path(), vec![b'x'; limits::STATE_VALUE_BYTES_MAX + 1]).expect("written");
        let error = body(&from_file).expect_err("too large").to_string();
        assert!(error.contains("65536 bytes that a key can hold"), "{error}");
    }
}
