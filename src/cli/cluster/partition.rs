//! `shoal cluster detect-partition`: who reaches whom, as sides.

use std::collections::BTreeSet;

use clap::Args;

use crate::api::types::Partition;
use crate::cli::client::Connection;
use crate::cli::print::{self, Table};
use crate::cli::{Failure, Shown, client_of};
use crate::core::ids::NodeId;

/// Arguments of `shoal cluster detect-partition`.
#[derive(Debug, Args)]
pub(crate) struct PartitionArgs {
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: &PartitionArgs) -> Result<(), Failure> {
    let found: Partition = client_of(&args.connection)?.get("/v1/cluster/partition").await?;
    print::show(args.shown.output, &found, text)?;
    if found.parted { Err(Failure::Refused(verdict(&found))) } else { Ok(()) }
}

fn text(found: &Partition) -> String {
    let mut text = String::new();
    if !found.parted {
        text += "no partition: all members that have not left reach each other\n";
    }
    for (place, side) in found.sides.iter().enumerate() {
        let word = if side.quorum { "majority" } else { "minority" };
        let members = names(&side.members);
        text += &format!("side {} ({word}, {} voters): {members}\n", place + 1, side.voters);
        let blind: BTreeSet<_> = side.members.difference(&side.see_quorum).cloned().collect();
        if side.quorum && !blind.is_empty() {
            text += &format!("  without sight of a majority: {}\n", names(&blind));
        }
    }
    for silent in &found.silent {
        let status = silent.status.as_deref().unwrap_or("not known here");
        let seen = match (silent.seen_by.is_empty(), silent.status.as_deref()) {
            (true, Some("left")) => "it said good-bye".to_owned(),
            (true, _) => "seen by nobody: down, or on a side that cannot be asked from here".to_owned(),
            (false, _) => format!("seen by {}", names(&silent.seen_by)),
        };
        text += &format!("silent: {} ({}), {seen}\n", silent.node, print::visible(status));
    }
    for cut in &found.cuts {
        let (a, b) = &cut.between;
        text += &match cut.kind.as_str() {
            "one-way" => format!("cut: {a} sees {b}, which does not see it\n"),
            _ => format!("cut: {a} and {b} do not see each other\n"),
        };
    }
    if found.cuts_unlisted > 0 {
        text += &format!("and {} more such pairs\n", found.cuts_unlisted);
    }
    text += "\n";
    let mut table = Table::new(&["NODE-ID", "MODE", "AGE", "WHY"]);
    for node in &found.nodes {
        table.row([
            node.node_id.to_string(),
            print::or_nothing(node.mode.clone(), |mode| mode),
            print::or_nothing(node.age_seconds, print::seconds),
            print::or_dash(node.error.as_deref().unwrap_or(&node.reason)),
        ]);
    }
    text + &table.text()
}

fn names(nodes: &BTreeSet<NodeId>) -> String {
    nodes.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ")
}

/// One sentence.
fn verdict(found: &Partition) -> String {
    let majority = found.sides.iter().find(|side| side.quorum);
    let majority = majority.map_or_else(
        || "no side that can be asked is a majority".to_owned(),
        |side| format!("the majority is {}", names(&side.members)),
    );
    if found.sides.len() > 1 {
        return format!("the mesh is parted into {} sides: {majority}", found.sides.len());
    }
    let lost = found.silent.iter().filter(|silent| silent.seen_by.is_empty());
    let lost: BTreeSet<_> = lost
        .filter(|silent| silent.status.as_deref() != Some("left"))
        .map(|silent| silent.node.clone())
        .collect();
    format!(
        "{} cannot be reached, which a partition or a crash may be the reason of: {majority}",
        names(&lost)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{Cut, NodeMode, Side, SilentNode};

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn nodes(names: &[&str]) -> BTreeSet<NodeId> {
        names.iter().map(|name| node(name)).collect()
    }

    fn side(members: &[&str], quorum: bool) -> Side {
        let members = nodes(members);
        let see_quorum = if quorum { members.clone() } else { BTreeSet::new() };
        Side { voters: members.len(), quorum, see_quorum, members }
    }

    fn partition(sides: Vec<Side>, silent: Vec<SilentNode>) -> Partition {
        let parted = sides.len() > 1 || !silent.is_empty();
        let mode = |name: &str| NodeMode {
            node_id: node(name),
            mode: Some("healthy".to_owned()),
            reason: String::new(),
            age_seconds: None,
            error: None,
        };
        Partition { parted, sides, silent, cuts: Vec::new(), cuts_unlisted: 0, nodes: vec![mode("a")] }
    }

    #[test]
    fn both_sides_are_named_and_which_of_them_is_the_majority() {
        let found = partition(vec![side(&["a", "b", "c"], true), side(&["d", "e"], false)], Vec::new());
        let text = text(&found);
        assert!(
            text.starts_with("side 1 (majority, 3 voters): a, b, c\nside 2 (minority, 2 voters): d, e\n"),
            "{text}"
        );
        assert_eq!(verdict(&found), "the mesh is parted into 2 sides: the majority is a, b, c");
    }

    #[test]
    fn members_that_nobody_sees_are_not_taken_for_healthy() {
        let lost =
            SilentNode { node: node("d"), status: Some("failed".to_owned()), seen_by: BTreeSet::new() };
        let found = partition(vec![side(&["a"], false)], vec![lost]);
        assert!(text(&found).contains("silent: d (failed), seen by nobody"), "{}", text(&found));
        assert!(verdict(&found).starts_with("d cannot be reached"));
        assert!(verdict(&found).ends_with("no side that can be asked is a majority"));
    }

    #[test]
    fn a_whole_mesh_is_one_side_and_cuts_within_it_are_named() {
        let mut found = partition(vec![side(&["a", "b"], true)], Vec::new());
        found.cuts.push(Cut { kind: "one-way".to_owned(), between: (node("a"), node("b")) });
        let text = text(&found);
        assert!(text.starts_with("no partition"), "{text}");
        assert!(text.contains("cut: a sees b, which does not see it\n"), "{text}");
    }
}
