//! The reports of all nodes, fetched through the asked one.

use crate::api::types::{Link, NodeReport};
use crate::cli::client::Client;
use crate::cli::{Failure, print};
use crate::core::ids::NodeId;

/// The reports of all nodes, in order of names.
pub(super) async fn of_all(client: &Client) -> Result<Vec<NodeReport>, Failure> {
    client.get("/v1/cluster/facts").await
}

/// The report of one node.
pub(super) async fn of_one(client: &Client, node: &NodeId) -> Result<NodeReport, Failure> {
    let reports: Vec<NodeReport> = client.get(&format!("/v1/cluster/facts?node={node}")).await?;
    let found = reports.into_iter().find(|report| report.node_id == *node);
    found.ok_or_else(|| Failure::Refused(format!("the asked node tells nothing of {node}: try again")))
}

/// The asked node's clock, in seconds since 1970; this machine's where the asked node did not tell.
pub(super) fn now(reports: &[NodeReport]) -> u64 {
    let asked = reports.iter().find(|report| report.is_asked).and_then(|report| report.facts.as_ref());
    asked.map_or_else(crate::node::clock::unix_ms, |facts| facts.unix_ms) / 1000
}

/// The asked node's link to another.
pub(super) fn link_to<'a>(reports: &'a [NodeReport], node: &NodeId) -> Option<&'a Link> {
    let asked = reports.iter().find(|report| report.is_asked)?.facts.as_ref()?;
    asked.links.iter().find(|link| link.in_use && link.node == *node)
}

/// `+0.012s`; `-` where nothing was measured.
pub(super) fn clock(report: &NodeReport) -> String {
    print::or_nothing(report.clock_seconds, |ahead| format!("{ahead:+.3}s"))
}
