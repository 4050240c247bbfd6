//! `shoal state list`, and the pages of keys behind every list.

use std::io::Write;

use clap::Args;

use super::value;
use crate::api::types::{KeyPage, KeyState};
use crate::cli::client::{Client, Connection, quoted};
use crate::cli::print::{self, Table};
use crate::cli::{Failure, Shown, client_of};
use crate::core::ids::NodeId;
use crate::core::limits;

/// Keys that are listed when nothing else is said.
const LIMIT_DEFAULT: u32 = 1000;

/// Arguments of `shoal state list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only keys that begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// At most so many
    #[arg(long, value_name = "NUMBER", default_value_t = LIMIT_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=limits::STATE_LISTED_MAX as i64))]
    limit: u32,
    /// Only keys after this one
    #[arg(long, value_name = "KEY")]
    after: Option<String>,
    /// Ask this node instead of the one whose API it is
    #[arg(long)]
    node: Option<NodeId>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: &ListArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let wanted = Wanted {
        prefix: &args.prefix,
        after: args.after.clone(),
        node: args.node.as_ref(),
        limit: args.limit,
    };
    let found = fetch(&client, wanted).await?;
    print::show(args.shown.output, &found, |found| {
        let mut table = Table::new(&["KEY", "VALUE", "SIBLINGS", "WRITER", "WRITTEN"]);
        for state in &found.entries {
            table.row([
                state.key.clone(),
                value::chosen(state),
                state.siblings.len().to_string(),
                print::or_nothing(state.writer.as_ref(), value::writer),
                print::or_nothing(state.written_unix_ms, print::time),
            ]);
        }
        table.text()
    })?;
    warn(&found);
    Ok(())
}

/// Which keys.
pub(super) struct Wanted<'a> {
    pub(super) prefix: &'a str,
    pub(super) after: Option<String>,
    pub(super) node: Option<&'a NodeId>,
    pub(super) limit: u32,
}

/// All keys below a prefix, as far as one command lists them.
pub(super) async fn all(client: &Client, prefix: &str) -> Result<KeyPage, Failure> {
    let limit = u32::try_from(limits::STATE_LISTED_MAX).unwrap_or(u32::MAX);
    fetch(client, Wanted { prefix, after: None, node: None, limit }).await
}

/// Page after page until there are enough.
async fn fetch(client: &Client, wanted: Wanted<'_>) -> Result<KeyPage, Failure> {
    let Wanted { prefix, mut after, node, limit } = wanted;
    let node = node.map(|node| format!("&node={node}")).unwrap_or_default();
    let mut entries: Vec<KeyState> = Vec::new();
    let mut bytes = 0;
    loop {
        let left = limit as usize - entries.len();
        let from = after.as_deref().map(|after| format!("&after={}", quoted(after))).unwrap_or_default();
        let count = left.min(limits::STATE_PAGE_MAX);
        let path = format!("/v1/state?prefix={}&limit={count}{from}{node}", quoted(prefix));
        let page: KeyPage = client.get(&path).await?;
        after = page.entries.last().map(|entry| entry.key.clone());
        bytes += page.entries.iter().map(size).sum::<usize>();
        entries.extend(page.entries);
        let is_enough = entries.len() >= limit as usize || bytes >= limits::STATE_LISTED_BYTES_MAX;
        if !page.more || after.is_none() || is_enough {
            return Ok(KeyPage { entries, more: page.more });
        }
    }
}

fn size(state: &KeyState) -> usize {
    let siblings: usize = state.siblings.iter().map(|sibling| sibling.value.len()).sum();
    state.value.as_ref().map_or(0, String::len) + siblings
}

/// Says on stderr what the list itself does not: that there is more, and how old it may be.
pub(super) fn warn(found: &KeyPage) {
    if let (true, Some(last)) = (found.more, found.entries.last()) {
        let key = print::visible(&last.key);
        // With stderr gone there is nowhere left to say it.
        let _ = writeln!(std::io::stderr(), "shoal: there are more keys after {key:?}");
    }
    if let Some(state) = found.entries.first() {
        value::warn_of_age(&state.node, &state.mode, state.age_seconds);
    }
}
