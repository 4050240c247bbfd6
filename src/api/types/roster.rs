//! The JSON of the roster, of its changes and of partitions.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::core::ids::NodeId;
use crate::core::model;
use crate::core::wire;

/// `GET /v1/cluster/roster`: which nodes should exist and which of them vote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Roster {
    /// Its place among all rosters, as `chain.order`; a forced override begins a new chain.
    pub epoch: String,
    /// In order of names.
    pub members: Vec<RosterMember>,
    /// How many of them vote.
    pub voters: usize,
    /// How many voters make a quorum.
    pub quorum: usize,
    /// The quorum that was set; null: more than half.
    pub quorum_size: Option<u16>,
    /// With it exactly half of the voters are a quorum.
    pub tie_breaker: Option<NodeId>,
    /// Whether a quorum may be so small that two sides can write at once.
    pub split_writes: bool,
    /// A member that was away for longer is evicted.
    pub max_offline_seconds: f64,
    /// Who overruled what and why, if an operator forced this roster.
    pub audit: Option<String>,
}

/// One member of the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterMember {
    /// The node.
    pub node_id: NodeId,
    /// Whether it votes.
    pub voter: bool,
    /// Its roles.
    pub roles: Vec<String>,
    /// Its zone; empty when it has none.
    pub zone: String,
}

/// `POST /v1/cluster/roster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRoster {
    /// `quorum_size`, `tie_breaker` or `max_offline_seconds`.
    pub key: String,
    /// Its value as text; `auto` or `none` for none.
    pub value: String,
    /// Allow a quorum so small that two sides can write at once.
    #[serde(default)]
    pub allow_split_writes: bool,
}

/// `POST /v1/cluster/remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Which node.
    pub node: NodeId,
    /// Also when it is alive.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/cluster/resolve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolve {
    /// How.
    pub strategy: ResolveStrategy,
    /// Why, for the record of a forced override; not taken with `quorum`, which keeps no record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What to do about a roster that cannot be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ResolveStrategy {
    /// Finish the change that is under way with the voters that can be reached, if they are a quorum
    Quorum,
    /// Overrule a lost quorum: the nodes that the asked one reaches become the mesh, the others rejoin as evicted ones
    Force,
}

/// `POST /v1/cluster/reconcile`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconcile {
    /// Look at every key as well, and write those anew that nodes hold differently although they have taken in the same
    /// writes.
    #[serde(default)]
    pub force: bool,
}

/// The answer to [`Reconcile`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// The node that compared.
    pub node: NodeId,
    /// What it found with each that it could reach; null for one that did not answer in time.
    pub peers: BTreeMap<NodeId, Option<Difference>>,
    /// With `force`: what had come apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mended: Option<Mended>,
}

/// What had come apart, and was written anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mended {
    /// What was found at each node that could be reached; null for one that did not answer in time.
    pub peers: BTreeMap<NodeId, Option<Inspected>>,
    /// The first of the keys that had come apart, at most 100.
    pub keys: Vec<String>,
    /// How many were written anew.
    pub written: u64,
}

/// What was found when a node's keys were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspected {
    /// Keys that had come apart.
    pub apart: u64,
    /// Keys that differed and were not judged: they were being written, or there were too many of them.
    pub undecided: u64,
}

/// What two nodes had and the other had not, in writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Writes that the asked node lacked.
    pub received: u64,
    /// Writes that the other lacked.
    pub sent: u64,
}

/// `GET /v1/cluster/partition`: who reaches whom, put together from what the nodes say that can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// Whether the mesh is parted, or cannot be told from one that is: there are several sides, or a member that
    /// has not left is seen by nobody.
    pub parted: bool,
    /// Groups of nodes that reach each other, the one with most voters first.
    pub sides: Vec<Side>,
    /// Members that told nothing.
    pub silent: Vec<SilentNode>,
    /// Pairs that do not see each other although they are on one side, or only one way.
    pub cuts: Vec<Cut>,
    /// How many more such pairs there are.
    pub cuts_unlisted: usize,
    /// Each node that was asked.
    pub nodes: Vec<NodeMode>,
}

/// One side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Who is on it.
    pub members: BTreeSet<NodeId>,
    /// How many of them vote.
    pub voters: usize,
    /// Whether it is the majority.
    pub quorum: bool,
    /// Those that see a quorum themselves.
    pub see_quorum: BTreeSet<NodeId>,
}

/// A member that told nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentNode {
    /// The member.
    pub node: NodeId,
    /// As the asked node sees it: `alive`, `suspect`, `failed` or `left`; null when it does not know it.
    pub status: Option<String>,
    /// Who sees it.
    pub seen_by: BTreeSet<NodeId>,
}

/// Two nodes that do not see each other as the rest of their side does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// `one-way` or `partial`.
    pub kind: String,
    /// With `one-way` the first sees the second; with `partial` neither sees the other.
    pub between: (NodeId, NodeId),
}

/// How one node stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeMode {
    /// The node.
    pub node_id: NodeId,
    /// Its mode; null when it did not answer.
    pub mode: Option<String>,
    /// Why it is in that mode; empty while it is healthy.
    pub reason: String,
    /// Since a majority was last heard; null while one is, and where that was never.
    pub age_seconds: Option<f64>,
    /// Why it did not answer; null when it did.
    pub error: Option<String>,
}

impl From<model::Roster> for Roster {
    fn from(roster: model::Roster) -> Self {
        let (voters, quorum) = (roster.voter_count(), roster.quorum());
        let member = |(node_id, seat): (NodeId, model::Seat)| RosterMember {
            node_id,
            voter: seat.voter,
            roles: seat.roles,
            zone: seat.zone,
        };
        Self {
            epoch: format!("{}.{}", roster.epoch.chain, roster.epoch.order),
            members: roster.members.into_iter().map(member).collect(),
            voters,
            quorum,
            quorum_size: roster.quorum_size,
            tie_breaker: roster.tie_breaker,
            split_writes: roster.split_writes,
            max_offline_seconds: roster.max_offline.as_secs_f64(),
            audit: roster.audit,
        }
    }
}

impl From<wire::Inspected> for Inspected {
    fn from(found: wire::Inspected) -> Self {
        let wire::Inspected { apart, undecided } = found;
        Self { apart, undecided }
    }
}

impl From<wire::Difference> for Difference {
    fn from(found: wire::Difference) -> Self {
        Self { received: found.received, sent: found.sent }
    }
}

impl From<model::Side> for Side {
    fn from(side: model::Side) -> Self {
        let model::Side { members, voters, quorum, see_quorum } = side;
        Self { members, voters, quorum, see_quorum }
    }
}

impl From<model::Cut> for Cut {
    fn from(cut: model::Cut) -> Self {
        match cut {
            model::Cut::OneWay { sees, unseeing } => {
                Self { kind: "one-way".to_owned(), between: (sees, unseeing) }
            }
            model::Cut::Partial { between } => Self { kind: "partial".to_owned(), between },
        }
    }
}
