//! Who reaches whom, as far as the nodes' reports show it.
//!
//! A connection works both ways, so a node with a link reaches its peer. Without one, what the peer has seen
//! tells the two ways of being cut off apart: where handshakes arrived that never heard an answer, the
//! path works in that direction only.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::api::types::{Facts, Link, NodeReport};
use crate::core::ids::NodeId;
use crate::core::limits;

/// A link that one side has and the other does not is on its way in or out for so long.
const SETTLED_AFTER_SECONDS: f64 = 10.0;
/// Nothing came over a link for so long, although the other side has heard this one within the second span.
const SILENT_SECONDS: f64 = 15.0;
const HEARD_SECONDS: f64 = 7.0;
/// A node that has not run for so long may not have called everybody yet.
const CALLED_ALL_AFTER_SECONDS: f64 = 15.0;

/// Whether one node reaches another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reach")]
pub(super) enum Reach {
    /// Both sides have the link.
    Ok,
    /// There is no link now and none is needed; gossip holds the peer for alive.
    Idle,
    /// What the first sends arrives, and nothing comes back.
    OneWay {
        /// Handshakes that the other saw and that never heard an answer.
        seen: u32,
    },
    /// Not at all.
    No,
    /// The first was not asked, or did not answer.
    Unknown,
}

impl Reach {
    fn cell(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Idle => ".",
            Self::OneWay { .. } => "one-way",
            Self::No => "no",
            Self::Unknown => "?",
        }
    }
}

/// All pairs of nodes that have not left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Matrix {
    pub(super) nodes: Vec<NodeId>,
    /// Row by row; a node's own place holds [`Reach::Ok`].
    reaches: Vec<Reach>,
}

impl Matrix {
    /// The matrix that the reports add up to.
    pub(super) fn of(reports: &[NodeReport]) -> Self {
        let reports: Vec<_> = reports.iter().filter(|report| report.status != "left").collect();
        let is_full_mesh = reports.len() <= limits::FULL_MESH_NODES_MAX;
        let nodes = reports.iter().map(|report| report.node_id.clone()).collect();
        let mut reaches = Vec::with_capacity(reports.len() * reports.len());
        for from in &reports {
            let addresses = addresses_of(from, &reports);
            reaches.extend(reports.iter().map(|to| reach(from, &addresses, to, is_full_mesh)));
        }
        Self { nodes, reaches }
    }

    /// Whether one reaches the other; `None` for a node that is not in it.
    pub(super) fn reach(&self, from: &NodeId, to: &NodeId) -> Option<Reach> {
        let place = |node| self.nodes.iter().position(|known| known == node);
        self.reaches.get(place(from)? * self.nodes.len() + place(to)?).copied()
    }

    /// Every pair of two different nodes.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&NodeId, &NodeId, Reach)> {
        let all = self.nodes.iter().flat_map(|from| self.nodes.iter().map(move |to| (from, to)));
        all.zip(&self.reaches).filter(|((from, to), _)| from != to).map(|((from, to), r)| (from, to, *r))
    }

    /// One row a node, one column a node, `=` on the diagonal.
    pub(super) fn rows(&self) -> impl Iterator<Item = Vec<String>> {
        let width = self.nodes.len();
        self.nodes.iter().enumerate().map(move |(row, node)| {
            let cell = |column: usize| {
                if row == column { "=" } else { self.reaches[row * width + column].cell() }.to_owned()
            };
            std::iter::once(node.to_string()).chain((0..width).map(cell)).collect()
        })
    }
}

fn reach(from: &NodeReport, addresses: &BTreeSet<&str>, to: &NodeReport, is_full_mesh: bool) -> Reach {
    if from.node_id == to.node_id {
        return Reach::Ok;
    }
    let Some(facts) = &from.facts else {
        return Reach::Unknown;
    };
    if let Some(link) = facts.links.iter().find(|link| link.in_use && link.node == to.node_id) {
        return to.facts.as_ref().map_or(Reach::Ok, |theirs| over(link, (from, facts), (to, theirs)));
    }
    if let Some(seen) = to.facts.as_ref().and_then(|theirs| handshakes_without_echo(theirs, addresses)) {
        return Reach::OneWay { seen };
    }
    let is_alive = facts.members.get(&to.node_id).is_some_and(|status| status == "alive");
    let is_new = facts.uptime_seconds < CALLED_ALL_AFTER_SECONDS
        || to.facts.as_ref().is_some_and(|theirs| theirs.uptime_seconds < CALLED_ALL_AFTER_SECONDS);
    if is_alive && (!is_full_mesh || is_new) { Reach::Idle } else { Reach::No }
}

/// What a link is worth whose two sides have both told of it.
fn over(link: &Link, (from, facts): (&NodeReport, &Facts), (to, theirs): (&NodeReport, &Facts)) -> Reach {
    let mut back = theirs.links.iter().filter(|back| back.in_use && back.node == from.node_id).peekable();
    if back.peek().is_none() {
        // Coming or going; one that has been there for longer leads to nobody.
        let is_settled = link.age_seconds >= SETTLED_AFTER_SECONDS;
        let has_any = theirs.links.iter().any(|back| back.node == from.node_id);
        return if is_settled && !has_any { Reach::No } else { Reach::Ok };
    }
    if is_one_way(link, theirs, &from.node_id) {
        return Reach::OneWay { seen: 0 };
    }
    if back.any(|back| is_one_way(back, facts, &to.node_id)) { Reach::No } else { Reach::Ok }
}

/// Whether what is sent over the link arrives and nothing comes back. QUIC acknowledges whatever it receives, so a
/// side that hears the other and is not heard itself has lost its way there.
fn is_one_way(link: &Link, theirs: &Facts, from: &NodeId) -> bool {
    let mut back = theirs.links.iter().filter(|back| back.node == *from);
    link.silent_seconds >= SILENT_SECONDS && back.any(|back| back.silent_seconds <= HEARD_SECONDS)
}

/// Where a node is: what it says, and where others have a link to it.
fn addresses_of<'a>(node: &'a NodeReport, reports: &[&'a NodeReport]) -> BTreeSet<&'a str> {
    let links = reports.iter().filter_map(|report| report.facts.as_ref()).flat_map(|facts| &facts.links);
    let seen = links.filter(|link| link.node == node.node_id).map(|link| link.address.as_str());
    node.addresses.iter().map(String::as_str).chain(seen).collect()
}

/// How many handshakes `facts` tells of that came from one of those addresses and never heard an answer.
fn handshakes_without_echo(facts: &Facts, addresses: &BTreeSet<&str>) -> Option<u32> {
    let unanswered = facts.arrivals.iter().filter(|arrival| arrival.unanswered);
    let of_it = unanswered.filter(|arrival| addresses.contains(arrival.address.as_str()));
    let times: u32 = of_it.map(|arrival| arrival.times).sum();
    (times > 0).then_some(times)
}
