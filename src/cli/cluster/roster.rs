//! `shoal cluster roster`, and what changes it: `set`, `remove`, `resolve`; `reconcile`, which compares the state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;

use crate::api::types::{Mended, Reconcile, Reconciled, Remove, Resolve, ResolveStrategy, Roster, SetRoster};
use crate::cli::client::{ANSWER_DEADLINE, Connection};
use crate::cli::print::{self, Table};
use crate::cli::{Failure, Shown, client_of};
use crate::core::ids::NodeId;

/// Arguments of `shoal cluster roster`.
#[derive(Debug, Args)]
pub(crate) struct RosterArgs {
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `shoal cluster set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The setting: quorum_size (a number or auto), tie_breaker (a voter or none), max_offline_seconds
    #[arg(value_name = "KEY=VALUE", value_parser = setting)]
    setting: (String, String),
    /// Allow a quorum so small that two sides could write at once
    #[arg(long)]
    allow_split_writes: bool,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `shoal cluster remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The node
    #[arg(long)]
    node: NodeId,
    /// Remove it also when it is alive
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `shoal cluster resolve`.
#[derive(Debug, Args)]
pub(crate) struct ResolveArgs {
    /// How
    #[arg(long, value_enum)]
    strategy: ResolveStrategy,
    /// Why, for the record; of `--strategy force` only
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `shoal cluster reconcile`.
#[derive(Debug, Args)]
pub(crate) struct ReconcileArgs {
    /// Also look at every key of every node, and write those anew that nodes hold differently although they have
    /// taken in the same writes; takes as long as sending the whole state to one node after the other
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// How long a node may look at every key of all others.
const FORCE_DEADLINE: Duration = Duration::from_secs(600);

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("give KEY=VALUE, as in quorum_size=3".to_owned()),
    }
}

pub(super) async fn show(args: &RosterArgs) -> Result<(), Failure> {
    let roster: Roster = client_of(&args.connection)?.get("/v1/cluster/roster").await?;
    print::show(args.shown.output, &roster, text)
}

pub(super) async fn set(args: SetArgs) -> Result<(), Failure> {
    let (key, value) = args.setting;
    let set = SetRoster { key, value, allow_split_writes: args.allow_split_writes };
    let client = client_of(&args.connection)?;
    let roster: Roster = client.post("/v1/cluster/roster", &set, ANSWER_DEADLINE).await?;
    print::show(args.shown.output, &roster, text)
}

pub(super) async fn remove(args: RemoveArgs) -> Result<(), Failure> {
    let remove = Remove { node: args.node, force: args.force };
    let client = client_of(&args.connection)?;
    let roster: Roster = client.post("/v1/cluster/remove", &remove, ANSWER_DEADLINE).await?;
    print::show(args.shown.output, &roster, text)
}

pub(super) async fn resolve(args: ResolveArgs) -> Result<(), Failure> {
    if args.reason.is_some() && args.strategy == ResolveStrategy::Quorum {
        let why = "--reason is kept with --strategy force only: leave it out";
        return Err(Failure::Usage(why.to_owned()));
    }
    let resolve = Resolve { strategy: args.strategy, reason: args.reason };
    let client = client_of(&args.connection)?;
    let roster: Roster = client.post("/v1/cluster/resolve", &resolve, ANSWER_DEADLINE).await?;
    print::show(args.shown.output, &roster, text)
}

fn text(roster: &Roster) -> String {
    let mut text = print::pairs(&[
        ("Epoch", roster.epoch.clone()),
        ("Voters", roster.voters.to_string()),
        ("Quorum", quorum(roster)),
        ("Tie breaker", print::or_nothing(roster.tie_breaker.as_ref(), ToString::to_string)),
        ("Max offline", print::span(roster.max_offline_seconds as u64)),
        ("Split writes", if roster.split_writes { "allowed" } else { "not allowed" }.to_owned()),
        ("Override", print::or_nothing(roster.audit.clone(), |audit| audit)),
    ]);
    let mut table = Table::new(&["NODE-ID", "VOTES", "ZONE", "ROLES"]);
    for member in &roster.members {
        table.row([
            member.node_id.to_string(),
            if member.voter { "yes" } else { "no" }.to_owned(),
            print::or_dash(&member.zone),
            print::or_dash(&member.roles.join(", ")),
        ]);
    }
    text += "\n";
    text + &table.text()
}

fn quorum(roster: &Roster) -> String {
    let how = if roster.quorum_size.is_some() { "set" } else { "more than half" };
    format!("{} ({how})", roster.quorum)
}

pub(super) async fn reconcile(args: &ReconcileArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let within = if args.force { FORCE_DEADLINE } else { ANSWER_DEADLINE };
    let found: Reconciled =
        client.post("/v1/cluster/reconcile", &Reconcile { force: args.force }, within).await?;
    print::show(args.shown.output, &found, reconciled)?;
    let mut silent: BTreeSet<_> = silent(&found.peers).collect();
    if let Some(mended) = &found.mended {
        silent.extend(self::silent(&mended.peers));
    }
    if silent.is_empty() {
        return Ok(());
    }
    let silent: Vec<_> = silent.into_iter().map(NodeId::as_str).collect();
    Err(Failure::Refused(format!("not compared with {}, which did not answer in time", silent.join(", "))))
}

fn silent<T>(peers: &BTreeMap<NodeId, Option<T>>) -> impl Iterator<Item = &NodeId> {
    peers.iter().filter(|(_, found)| found.is_none()).map(|(node, _)| node)
}

fn reconciled(found: &Reconciled) -> String {
    if found.peers.is_empty() {
        return format!("{} reaches no other node: there is nothing to compare with\n", found.node);
    }
    let mut table = Table::new(&["NODE-ID", "RECEIVED", "SENT"]);
    for (node, found) in &found.peers {
        let [received, sent] = figures(found.as_ref().map(|found| [found.received, found.sent]));
        table.row([node.to_string(), received, sent]);
    }
    table.text() + &found.mended.as_ref().map(mended).unwrap_or_default()
}

fn mended(mended: &Mended) -> String {
    let mut table = Table::new(&["NODE-ID", "APART", "UNDECIDED"]);
    for (node, found) in &mended.peers {
        let [apart, undecided] = figures(found.as_ref().map(|found| [found.apart, found.undecided]));
        table.row([node.to_string(), apart, undecided]);
    }
    let undecided = mended.peers.values().flatten().any(|found| found.undecided > 0);
    let mut text = format!("\n{}\n{} keys were written anew", table.text(), mended.written);
    text += if mended.keys.is_empty() { "\n" } else { ":\n" };
    for key in &mended.keys {
        text += &format!("  {}\n", print::visible(key));
    }
    let more = mended.written.saturating_sub(mended.keys.len() as u64);
    if more > 0 {
        text += &format!("  and {more} more\n");
    }
    if undecided {
        text += "undecided keys were being written, or too many: run it again, or on another node\n";
    }
    text
}

fn figures(found: Option<[u64; 2]>) -> [String; 2] {
    let [a, b] = found.map_or([None; 2], |[a, b]| [Some(a), Some(b)]);
    [a, b].map(|figure| print::or_nothing(figure, |figure| figure.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{Difference, Inspected, RosterMember};

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    #[test]
    fn a_roster_is_shown_with_its_quorum_and_its_members() {
        let member = |name: &str, voter| RosterMember {
            node_id: node(name),
            voter,
            roles: vec!["worker".to_owned()],
            zone: String::new(),
        };
        let roster = Roster {
            epoch: "1.3".to_owned(),
            members: vec![member("a", true), member("b", false)],
            voters: 1,
            quorum: 1,
            quorum_size: None,
            tie_breaker: None,
            split_writes: false,
            max_offline_seconds: 72.0 * 3600.0,
            audit: Some("a fire\u{1b}[2J".to_owned()),
        };
        let text = text(&roster);
        assert!(
            text.starts_with("Epoch:        1.3\nVoters:       1\nQuorum:       1 (more than half)\n"),
            "{text}"
        );
        assert!(text.contains("\na        yes    -     worker\nb        no     -     worker\n"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn what_was_compared_is_told_node_by_node() {
        let peers = [(node("b"), Some(Difference { received: 2, sent: 0 })), (node("c"), None)].into();
        let mut found = Reconciled { node: node("a"), peers, mended: None };
        let compared = "NODE-ID  RECEIVED  SENT\nb        2         0\nc        -         -\n";
        assert_eq!(reconciled(&found), compared);
        let peers = [(node("b"), Some(Inspected { apart: 2, undecided: 1 })), (node("c"), None)].into();
        found.mended = Some(Mended { peers, keys: vec!["k\u{1b}".to_owned()], written: 2 });
        let text = reconciled(&found);
        let mended = text.strip_prefix(compared).expect("the comparison comes first");
        assert!(mended.contains("\nb        2      1\nc        -      -\n"), "{mended}");
        assert!(
            mended.contains("2 keys were written anew:\n  k") && mended.contains("and 1 more\n"),
            "{mended}"
        );
        assert!(mended.contains("run it again") && !mended.contains('\u{1b}'), "{mended}");
    }

    #[test]
    fn a_setting_is_a_key_and_a_value() {
        assert_eq!(
            setting("max_offline_seconds=3600"),
            Ok(("max_offline_seconds".to_owned(), "3600".to_owned()))
        );
        for text in ["", "quorum_size", "=3", "quorum_size="] {
            assert!(setting(text).is_err(), "{text}");
        }
    }
}
