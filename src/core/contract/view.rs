//! The mesh as a node sees it, for readers outside the core.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::ids::{AgentName, LinkId, MeshId, NodeId};
use crate::core::model::{AgentView, MemberView, Mode, OrderEpoch};

/// The mesh as this node sees it, for readers outside the core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// This node.
    pub own: NodeId,
    /// Its mesh, once it belongs to one.
    pub mesh_id: Option<MeshId>,
    /// Whether it has found its mesh.
    pub joined: bool,
    /// Whether it is stopping.
    pub stopping: bool,
    /// All nodes, this one included, in order of names, each with its proven link.
    pub members: Vec<(MemberView, Option<LinkId>)>,
    /// All agents that nodes have told of, whatever the nodes' status, in order of names.
    pub agents: Vec<AgentView>,
    /// The usual round trip of each pair of regions, some seconds old.
    pub regions: Vec<RegionRtt>,
    /// What was refused or dropped.
    pub counters: Counters,
    /// This node's own health as its gossip sees it: 0 while all is well, at most 7. Its waits are so many
    /// times longer, plus one.
    pub health: u8,
    /// Whether the node is among a majority.
    pub mode: Mode,
    /// Writes that wait until it is.
    pub queued: usize,
    /// Keys of the state with a value.
    pub state_keys: usize,
    /// Of the slots that this node runs: the last order for each that it has heard of, whomever that names.
    #[serde(default)]
    pub ordered: BTreeMap<AgentName, OrderEpoch>,
    /// Messages that are to be delivered.
    #[serde(default)]
    pub outbox: usize,
    /// Those that were given up, and are kept.
    #[serde(default)]
    pub dead_letters: usize,
}

/// How far two regions are from each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionRtt {
    /// Their names, in order; the same twice is the inside of one region.
    pub between: (String, String),
    /// The median round trip between nodes of theirs, measured or estimated.
    pub rtt: Duration,
}

/// What the core has dropped, since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// SWIM packets that did not decode or named another sender than their link.
    pub swim_packets_dropped: u64,
    /// Claims in SWIM packets and lists that were not credible.
    pub claims_dropped: u64,
    /// Record batches that did not decode.
    pub records_dropped: u64,
    /// Revocation lists that a peer sent too many of.
    #[serde(default)]
    pub crls_dropped: u64,
    /// How often this node had to renew its incarnation.
    pub renewals: u64,
    /// Round trips that cannot be.
    #[serde(default)]
    pub round_trips_refused: u64,
    /// Coordinates of other nodes that are none.
    #[serde(default)]
    pub coordinates_refused: u64,
    /// What peers sent of the shared state that cannot be.
    #[serde(default)]
    pub state_refused: u64,
    /// How often a write was not told to a peer at once, because too many were told just before.
    #[serde(default)]
    pub state_held_back: u64,
    /// Messages that were given up.
    #[serde(default)]
    pub letters_died: u64,
    /// How often this node's own coordinate had become unsound and began anew.
    #[serde(default)]
    pub coordinate_resets: u64,
}
