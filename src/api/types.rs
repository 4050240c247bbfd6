//! The JSON of the HTTP API, for both of its ends. Fields are only ever added: a client must skip those
//! that it does not know. Requests are strict: a field that is not known is an error, because it would be
//! ignored otherwise.

mod agents;
mod blueprints;
mod care;
mod certificates;
mod dependencies;
mod facts;
mod history;
mod letters;
mod messages;
mod modules;
mod performance;
mod roster;
mod state;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::ids::{AgentName, MeshId, NodeId};
use crate::core::limits;
use crate::core::model;
use crate::node::events::Numbered;

pub use self::agents::{
    Agent, AgentInfo, AgentRef, Confinement, Deploy, Launch, Logs, OrderedBy, Protocol, Source, Tool,
};
pub use self::blueprints::{
    Blueprint, BlueprintChange, BlueprintDetail, BlueprintStatus, BlueprintVersion, Canary, CanaryStatus,
    Changes, Drain, Instances, Pause, PerNode, Placement, Planned, Rebalance, RollBack, Rollout, Scale,
    SlotStatus, StandbyStatus, Step, Update,
};
pub use self::care::{Breaker, Check, CheckKind, HealthCheck, Restart, RestartAgent};
pub use self::certificates::{
    Certificate, Certificates, OfferedLists, PeerCertificate, RevocationList, TakenList, TakenLists,
};
pub use self::dependencies::{DependencyGraph, Dependent, DependentInstance};
pub use self::facts::{Arrival, Authority, Facts, Link, NetworkPath, NodeReport, ShownCertificate};
pub use self::history::{Finding, Found, History, HistoryEntry};
pub use self::letters::{DeadChanged, DeadLetter, DeadLetters, DeadOnes, FailedTry, MessageTrace};
pub use self::messages::{Answered, Receipt, Recipient, Send, Wanted};
pub use self::modules::{Grants, InstanceLife, Module, WasmSource};
pub use self::performance::{Measure, Performance, PerformanceRow};
pub use self::roster::{
    Cut, Difference, Inspected, Mended, NodeMode, Partition, Reconcile, Reconciled, Remove, Resolve,
    ResolveStrategy, Roster, RosterMember, SetRoster, Side, SilentNode,
};
pub use self::state::{
    Ack, AddToCounter, Counter, Encoding, KeyAtNode, KeyEverywhere, KeyPage, KeyState, NumberedChange,
    Policies, PutKey, PutPolicy, Sibling, Ticket, ValueWriter, Write, WriteDone, WriteQueued, decoded, dot,
    encoded,
};

/// One node: an element of `GET /v1/cluster/members`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub node_id: NodeId,
    /// `alive`, `suspect`, `failed` or `left`, as the asked node sees it.
    pub status: String,
    /// The first of the addresses at which it can be dialled; null when it has told none.
    pub address: Option<String>,
    /// Its region; empty when it has none.
    pub region: String,
    /// Its zone; empty when it has none.
    pub zone: String,
    /// Agents that it says it has.
    pub agents: u32,
    /// CPU in use on the whole machine, 0 to 100; null when it has not told or is not reachable.
    pub cpu_percent: Option<f64>,
    /// Memory in use on the whole machine; null as above.
    pub memory_bytes: Option<u64>,
    /// Smoothed round trip of the link from the asked node; null without a link, and for the node itself.
    pub rtt_seconds: Option<f64>,
    /// Where there is no link: the round trip to be expected, from what was measured before or from
    /// coordinates; null with a link, and while nothing is known.
    #[serde(default)]
    pub rtt_estimate_seconds: Option<f64>,
    /// What it doubts about itself, in words: that its disk fails, or that its clock is ahead. Empty when it does
    /// not, and for a node that is not reachable.
    #[serde(default)]
    pub doubts: Vec<String>,
    /// Its software's version.
    pub version: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its incarnation as far as known.
    pub incarnation: u64,
}

/// `GET /v1/cluster/status`: the mesh as the asked node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The asked node.
    pub node_id: NodeId,
    /// Its mesh; null until it belongs to one.
    pub mesh_id: Option<MeshId>,
    /// `joining`, `healthy` or `stopping`: of the asked node; `certificate_expired` or `certificate_revoked` where that
    /// is why its peers refuse it.
    pub status: String,
    /// Nodes by status, the asked one included.
    pub nodes: NodeCounts,
    /// Agents on nodes that are alive or suspect.
    pub agents: usize,
    /// Of the asked node: `joining`, `healthy`, `degraded` or `recovering`; null when it does not say in time.
    #[serde(default)]
    pub mode: Option<String>,
    /// Why it is in that mode; empty while it is healthy, and without a mode.
    #[serde(default)]
    pub reason: String,
    /// Since a majority was last heard; null while one is, and where that was never.
    #[serde(default)]
    pub age_seconds: Option<f64>,
    /// Writes on the asked node that wait for a majority; null without a mode.
    pub queued_writes: Option<u64>,
    /// The node that gives orders at present, as far as the asked one knows.
    #[serde(default)]
    pub lease_holder: Option<NodeId>,
    /// Since the asked node's process started.
    pub uptime_seconds: f64,
    /// Of the asked node's software.
    pub version: String,
}

/// Nodes by status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the statuses")]
pub struct NodeCounts {
    pub alive: usize,
    pub suspect: usize,
    pub failed: usize,
    pub left: usize,
}

/// One event of `GET /v1/cluster/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NumberedEvent {
    /// Grows by one with each event of the asked node's process.
    pub sequence: u64,
    /// When the asked node saw it: milliseconds since 1970 by its wall clock.
    pub unix_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Event {
    /// The asked node belongs to a mesh and has found it.
    Joined {
        /// The mesh.
        mesh_id: MeshId,
    },
    /// A node's status changed.
    Member {
        /// The node.
        node: NodeId,
        /// Its new status.
        status: String,
        /// Why, in a few words.
        reason: String,
    },
    /// An agent's state changed, or it is gone.
    Agent {
        /// The agent.
        agent: AgentName,
        /// Its node.
        node: NodeId,
        /// Its new state; `stopped` when it is gone.
        state: String,
        /// Why, where there is something to say.
        reason: Option<String>,
    },
    /// An agent's breaker has opened, half-opened or closed.
    Breaker {
        /// The agent.
        agent: AgentName,
        /// Its node.
        node: NodeId,
        /// `open`, `half-open` or `closed`.
        state: String,
        /// What failed last; null once it is closed.
        reason: Option<String>,
    },
    /// Agents of later phases wait, because one of this phase that is not optional has failed.
    LaunchHeld {
        /// The agent that has failed.
        agent: AgentName,
        /// Its node, the asked one.
        node: NodeId,
        /// Its phase.
        phase: i32,
    },
    /// A second live process claims a node's name.
    DuplicateNode {
        /// The name.
        node: NodeId,
        /// Where the newcomer came from.
        address: String,
    },
    /// The node is among a majority, or is not any more, or catches up.
    Mode {
        /// What it was.
        from: String,
        /// What it is.
        to: String,
        /// Why.
        reason: String,
    },
    /// A write that waited for a majority has its outcome.
    Ticket {
        /// Its ticket.
        ticket: String,
        /// The key that it writes.
        key: String,
        /// `applied`, `conflicted`, `expired` or `rejected`.
        outcome: String,
        /// Why, where there is something to say.
        reason: Option<String>,
    },
    /// A slot of a blueprint was given to a node, or is not filled any more.
    Ordered {
        /// The slot, as `web#3`.
        agent: AgentName,
        /// Who had it before; null: nobody.
        from: Option<NodeId>,
        /// Who has it now; null: nobody.
        to: Option<NodeId>,
        /// Why.
        why: String,
    },
    /// All that was ordered since the mesh last was at rest runs, or is not wanted any more.
    Settled {
        /// How many instances.
        agents: u32,
        /// How long it took.
        took_ms: u64,
    },
    /// A blueprint has another version, or its canary has come to another step.
    Rollout {
        /// The blueprint.
        blueprint: AgentName,
        /// Its version.
        version: u64,
        /// What has happened.
        what: String,
    },
    /// Another roster holds.
    Roster {
        /// Its epoch, as `chain.order`.
        epoch: String,
        /// Its voters.
        voters: Vec<NodeId>,
        /// How many members it has.
        members: u32,
    },
    /// A peer was refused.
    Refused {
        /// Who, as far as known.
        peer: String,
        /// Why.
        reason: String,
    },
    /// Of a type that this version does not know.
    #[serde(other)]
    Unknown,
}

/// The data of an event named `gap`: events after `after` are gone, what follows is younger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The last event that the watcher has; null when it has none.
    pub after: Option<u64>,
}

/// `POST /v1/cluster/ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// Which node.
    pub node: NodeId,
    /// Round trips, one after the other.
    #[serde(default = "one")]
    pub count: u32,
    /// A round trip that takes longer counts as lost.
    #[serde(default = "ping_deadline_default")]
    pub deadline_ms: u64,
}

fn ping_deadline_default() -> u64 {
    limits::REQUEST_DEADLINE.as_millis() as u64
}

fn one() -> u32 {
    1
}

/// The answer to [`Ping`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pinged {
    /// Which node.
    pub node: NodeId,
    /// What each round trip took that came back, from this node's main loop to the other's and back.
    pub seconds: Vec<f64>,
    /// Those that did not come back.
    #[serde(default)]
    pub lost: u32,
    /// Why the last of them did not.
    #[serde(default)]
    pub reason: Option<String>,
    /// The link that was taken; null without one, and for the asked node itself.
    #[serde(default)]
    pub path: Option<NetworkPath>,
}

/// `POST /v1/cluster/leave`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leave {
    /// Which node; the asked one when null.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// How long its agents may take to finish what they have.
    #[serde(default = "drain_default")]
    pub drain_ms: u64,
    /// At once, whatever only it has, and whether or not the mesh can agree to go on without it.
    #[serde(default)]
    pub force: bool,
}

fn drain_default() -> u64 {
    60_000
}

/// The answer to [`Leave`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLeft {
    /// The node that left.
    pub node: NodeId,
    /// Instances of blueprints that ended with it although they did not run elsewhere yet: the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_behind: Vec<AgentName>,
    /// How many of them there are.
    #[serde(default, skip_serializing_if = "is_none_of_them")]
    pub left_behind_total: u32,
}

fn is_none_of_them(count: &u32) -> bool {
    *count == 0
}

/// `/health/live` and `/health/ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `live`, or the node's status: `joining`, `healthy` or `stopping`.
    pub status: String,
    /// Of `/health/ready`: the node's mode; null when it does not say in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// An error (RFC 9457), with the media type `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemDocument {
    /// `urn:shoal:problem:` and the code.
    pub r#type: String,
    /// What the HTTP status says.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// One sentence: what failed, why, what to do.
    pub detail: String,
    /// The stable name of the reason.
    pub code: String,
    /// The nodes to choose from, with the code `ambiguous_agent`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeId>,
}

impl From<Numbered> for NumberedEvent {
    fn from(numbered: Numbered) -> Self {
        Self { sequence: numbered.sequence, unix_ms: numbered.unix_ms, event: numbered.event.into() }
    }
}

impl From<model::Event> for Event {
    fn from(event: model::Event) -> Self {
        match event {
            model::Event::Joined { mesh_id } => Self::Joined { mesh_id },
            model::Event::Member { node, status, reason } => {
                Self::Member { node, status: status.to_string(), reason }
            }
            model::Event::Agent { agent, node, state, reason } => Self::Agent { agent, node, state, reason },
            model::Event::Breaker { agent, node, state, reason } => {
                Self::Breaker { agent, node, state, reason }
            }
            model::Event::LaunchHeld { agent, node, phase } => Self::LaunchHeld { agent, node, phase },
            model::Event::DuplicateNode { node, address } => Self::DuplicateNode { node, address },
            model::Event::Mode { from, to, reason } => {
                Self::Mode { from: from.to_string(), to: to.to_string(), reason }
            }
            model::Event::Ticket { ticket, key, outcome, reason } => {
                Self::Ticket { ticket: ticket.to_string(), key, outcome, reason }
            }
            model::Event::Ordered { agent, from, to, why } => Self::Ordered { agent, from, to, why },
            model::Event::Settled { agents, took_ms } => Self::Settled { agents, took_ms },
            model::Event::Rollout { blueprint, version, what } => Self::Rollout { blueprint, version, what },
            model::Event::Roster { epoch, voters, members } => Self::Roster { epoch, voters, members },
            model::Event::Refused { peer, reason } => Self::Refused { peer, reason },
        }
    }
}
