//! The JSON of the HTTP API, for both of its ends. Fields are only ever added: a client must skip those
//! that it does not know. Requests are strict: a field that is not known is an error, because it would be
//! ignored otherwise.

mod care;
mod certificates;
mod facts;
mod history;
mod letters;
mod messages;
mod modules;
mod roster;
mod state;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::core::ids::{AgentName, MeshId, NodeId, Tag};
use crate::core::limits;
use crate::core::model::{self, AgentSource, Balance, Offer, ProcessProtocol};
use crate::core::wire::AgentStats;
use crate::node::events::Numbered;

pub use self::care::{Check, CheckKind, HealthCheck, Restart, RestartAgent};
pub use self::certificates::{
    Certificate, Certificates, OfferedLists, PeerCertificate, RevocationList, TakenList, TakenLists,
};
pub use self::facts::{Arrival, Authority, Facts, Link, NetworkPath, NodeReport, ShownCertificate};
pub use self::history::{Finding, Found, History, HistoryEntry};
pub use self::letters::{DeadChanged, DeadLetter, DeadLetters, DeadOnes, FailedTry, MessageTrace};
pub use self::messages::{Answered, Receipt, Recipient, Send, Wanted};
pub use self::modules::{Grants, InstanceLife, Module, WasmSource};
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
}

/// One agent on one node: an element of `GET /v1/agents`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// The node it is on.
    pub node: NodeId,
    /// `native`, `stdio` or `http`.
    pub kind: String,
    /// `starting`, `running`, `draining`, `restarting`, `quarantined` or `failed`, as its node last said.
    pub state: String,
    /// Why it is in that state, where there is something to say.
    pub reason: Option<String>,
    /// How often it was started again since it was deployed or its node started.
    pub restarts: u32,
    /// Whether its node is alive or suspect.
    pub reachable: bool,
    /// What it can do.
    #[serde(default)]
    pub capabilities: BTreeSet<Tag>,
    /// What it listens to.
    #[serde(default)]
    pub topics: BTreeSet<Tag>,
    /// `healthy`, `degraded` or `unhealthy`, by the checks of its node; null when nothing was checked.
    #[serde(default)]
    pub health: Option<String>,
    /// What the last check found; null when all was well.
    #[serde(default)]
    pub health_why: Option<String>,
}

/// `POST /v1/agents`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// Its name, free on that node.
    pub name: AgentName,
    /// On which node; the asked one when null.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// What it is made of.
    pub source: Source,
    /// What it can do: `cap:NAME` finds it.
    #[serde(default)]
    pub capabilities: BTreeSet<Tag>,
    /// What it listens to: `topic:NAME` reaches it.
    #[serde(default)]
    pub topics: BTreeSet<Tag>,
    /// How its instances share its messages: `round-robin`, `least-inflight` or `key-hash`.
    #[serde(default)]
    pub balance: Balance,
    /// How its health is checked; null: only its end tells that something is wrong.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// When it is started again; null: as usual.
    #[serde(default)]
    pub restart: Option<Restart>,
}

impl Deploy {
    /// An agent that is found by its name alone and looked after as usual.
    #[must_use]
    pub fn new(name: AgentName, node: Option<NodeId>, source: Source) -> Self {
        let Offer { capabilities, topics, balance } = Offer::default();
        Self { name, node, source, capabilities, topics, balance, health: None, restart: None }
    }

    /// What the agent offers.
    #[must_use]
    pub fn offer(&self) -> Offer {
        let Self { capabilities, topics, balance, .. } = self;
        Offer { capabilities: capabilities.clone(), topics: topics.clone(), balance: *balance }
    }
}

/// What an agent is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
pub enum Source {
    /// Built into the binary.
    Native {
        /// Which one: `echo`.
        builtin: String,
    },
    /// An executable on the node's machine.
    Process {
        /// How it is spoken to.
        protocol: Protocol,
        /// Absolute path, or a name that the node looks up in its `PATH`.
        command: String,
        /// Its arguments.
        #[serde(default)]
        args: Vec<String>,
    },
    /// A WebAssembly component.
    Wasm(WasmSource),
}

/// How a process agent is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// JSON lines on stdin and stdout.
    Stdio,
    /// HTTP on loopback at the port given in `PORT`.
    Http,
}

impl From<ProcessProtocol> for Protocol {
    fn from(protocol: ProcessProtocol) -> Self {
        match protocol {
            ProcessProtocol::Stdio => Self::Stdio,
            ProcessProtocol::Http => Self::Http,
        }
    }
}

/// Names an agent on a node: the answer to a deploy and to a stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRef {
    /// The agent.
    pub name: AgentName,
    /// Its node.
    pub node: NodeId,
}

/// `GET /v1/agents/{name}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Its name.
    pub name: AgentName,
    /// The node it is on.
    pub node: NodeId,
    /// What it is made of.
    pub source: Source,
    /// As in [`Deploy`].
    #[serde(default)]
    pub capabilities: BTreeSet<Tag>,
    /// As in [`Deploy`].
    #[serde(default)]
    pub topics: BTreeSet<Tag>,
    /// As in [`Deploy`].
    #[serde(default)]
    pub balance: Balance,
    /// As in [`Deploy`].
    #[serde(default)]
    pub check: Option<HealthCheck>,
    /// As in [`Deploy`]; null of a node of an earlier version.
    #[serde(default)]
    pub restart: Option<Restart>,
    /// As in [`Agent`].
    #[serde(default)]
    pub health: Option<String>,
    /// As in [`Agent`].
    #[serde(default)]
    pub health_why: Option<String>,
    /// The last hundred checks of its health, oldest first.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// Whether it is there because of a manifest in its node's `--agents-dir`.
    #[serde(default)]
    pub of_folder: bool,
    /// As in [`Agent`]; null while the asked node has not heard of the agent's state.
    pub state: Option<String>,
    /// As in [`Agent`].
    pub reason: Option<String>,
    /// As in [`Agent`]; null as `state`.
    pub restarts: Option<u32>,
    /// Operating-system process; null where it has none.
    pub pid: Option<u32>,
    /// Since it last became `running`.
    pub uptime_seconds: u64,
    /// Messages handled or failed since its node started.
    pub requests: u64,
    /// Messages that ended in an error.
    pub errors: u64,
    /// Messages waiting in its mailbox.
    pub waiting: u64,
    /// From the arrival of a message to its answer, on average since its node started; null before the first, and of `native`.
    #[serde(default)]
    pub mean_seconds: Option<f64>,
    /// CPU time of its process since that started; null where it has none.
    #[serde(default)]
    pub cpu_seconds: Option<f64>,
    /// Bytes of memory that its process holds; null where it has none.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
}

impl AgentInfo {
    /// Puts together what the agent's node says and what the asked node has heard.
    #[must_use]
    pub fn new(node: NodeId, spec: model::AgentSpec, stats: &AgentStats, heard: Option<Agent>) -> Self {
        let (health, health_why) =
            heard.as_ref().map_or((None, None), |agent| (agent.health.clone(), agent.health_why.clone()));
        let (state, restarts, reason) = match heard {
            Some(agent) => (Some(agent.state), Some(agent.restarts), agent.reason),
            None => (None, None, None),
        };
        Self {
            name: spec.name,
            node,
            source: spec.source.into(),
            capabilities: spec.offer.capabilities,
            topics: spec.offer.topics,
            balance: spec.offer.balance,
            check: spec.care.health.map(HealthCheck::from),
            restart: Some(spec.care.restart.into()),
            health,
            health_why,
            checks: stats.checks.iter().map(Check::from).collect(),
            of_folder: spec.of_folder,
            state,
            reason,
            restarts,
            pid: stats.pid,
            uptime_seconds: stats.uptime_seconds,
            requests: stats.requests,
            errors: stats.errors,
            waiting: stats.waiting,
            mean_seconds: (stats.answered > 0)
                .then(|| stats.answer_micros as f64 / 1e6 / stats.answered as f64),
            cpu_seconds: stats.cpu_ms.map(|ms| ms as f64 / 1e3),
            memory_bytes: stats.memory_bytes,
        }
    }
}

/// `GET /v1/agents/{name}/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// The agent.
    pub name: AgentName,
    /// Its node.
    pub node: NodeId,
    /// Oldest first, without line ends.
    pub lines: Vec<String>,
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

impl From<Source> for AgentSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Native { builtin } => Self::Native { builtin },
            Source::Process { protocol, command, args } => {
                let protocol = match protocol {
                    Protocol::Stdio => ProcessProtocol::Stdio,
                    Protocol::Http => ProcessProtocol::Http,
                };
                Self::Process { protocol, command, args }
            }
            Source::Wasm(source) => Self::Wasm(source.into()),
        }
    }
}

impl From<AgentSource> for Source {
    fn from(source: AgentSource) -> Self {
        match source {
            AgentSource::Native { builtin } => Self::Native { builtin },
            AgentSource::Process { protocol, command, args } => {
                Self::Process { protocol: protocol.into(), command, args }
            }
            AgentSource::Wasm(source) => Self::Wasm(source.into()),
        }
    }
}

impl From<&model::AgentView> for Agent {
    fn from(view: &model::AgentView) -> Self {
        Self {
            name: view.name.clone(),
            node: view.node.clone(),
            kind: view.record.kind.clone(),
            state: view.record.state.as_str().to_owned(),
            reason: view.record.state.reason().map(str::to_owned),
            restarts: view.record.restarts,
            reachable: view.node_status.is_reachable(),
            capabilities: view.record.offer.capabilities.clone(),
            topics: view.record.offer.topics.clone(),
            health: Some(&view.record.health).filter(|h| !h.is_unchecked()).map(|h| h.as_str().to_owned()),
            health_why: view.record.health.why().map(str::to_owned),
        }
    }
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
            model::Event::DuplicateNode { node, address } => Self::DuplicateNode { node, address },
            model::Event::Mode { from, to, reason } => {
                Self::Mode { from: from.to_string(), to: to.to_string(), reason }
            }
            model::Event::Ticket { ticket, key, outcome, reason } => {
                Self::Ticket { ticket: ticket.to_string(), key, outcome, reason }
            }
            model::Event::Roster { epoch, voters, members } => Self::Roster { epoch, voters, members },
            model::Event::Refused { peer, reason } => Self::Refused { peer, reason },
        }
    }
}
