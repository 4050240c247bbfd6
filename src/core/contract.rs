//! What goes into [`Mesh`](super::mesh::Mesh) and what comes out of it. Both enums are closed and
//! serialise, so any run is a log that can be replayed.
//!
//! # The run loop
//!
//! 1. `handle(input, now)` or `handle_timeout(now)` makes exactly one change. `now` never goes back.
//! 2. Then `poll_output()` until `None`. An [`Effect`] with `after: Some(n)` must wait until persist
//!    `n` is committed; the others may act at once. SWIM packets never wait.
//! 3. `poll_timeout()` is when `handle_timeout` wants to be called next.
//!
//! The core's memory never runs ahead of the disk: a change that must be durable is applied when
//! [`Input::Committed`] comes back, so [`Input::CommitFailed`] only drops what waited for it.

use ::core::net::SocketAddr;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::{Refusal, Refused, SendError};
use super::ids::{
    AgentName, CaKeyId, LinkId, MeshId, MeshName, ModuleId, NodeId, PersistNo, ProcessId, RequestId,
};
use super::model::{
    Action, AgentSpec, Checkup, CrossRegion, Event, Finding, Hello, Load, Message, NodeCard, Overrides,
    PartitionConfig, PartitionView, Profile, Recovery, Tally, Turn,
};
use super::time::Instant;
use super::wire::{
    AgentStats, Control, HistoryPage, HistoryQuery, ModulePart, NodeFacts, RequestBody, ResponseBody,
    StateChange,
};

mod changes;
mod view;

pub use changes::{Change, ROW_OF_ROSTER, Table};
pub use view::{Counters, RegionRtt, View};

/// What the driver tells the core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// A connection has passed TLS and the exchange of hellos.
    LinkUp {
        /// Its number.
        link: LinkId,
        /// Who is at the other end; its certificate says so too.
        hello: Hello,
        /// Where the other end is, for the log.
        address: String,
        /// What this node dialled to get it; `None` when the other side opened it.
        dialled: Option<DialTarget>,
    },
    /// A connection is gone.
    LinkDown {
        /// Its number.
        link: LinkId,
        /// Why.
        reason: LinkEnd,
    },
    /// The network says that a link's peer cannot be reached: its process may be gone, or the sign may be
    /// forged. Worth a check at once, and no verdict.
    Hint {
        /// The link.
        link: LinkId,
        /// Where its packets went.
        address: SocketAddr,
        /// What was said.
        sign: Sign,
    },
    /// A dial failed before it became a link.
    DialFailed {
        /// What was dialled.
        target: DialTarget,
        /// Why, for people.
        reason: String,
        /// Whether the other side was reached and one of the two refused the other.
        refused: Option<Refused>,
    },
    /// A peer with a certificate of this mesh dialled this node and was refused before its connection became
    /// a link, because no protocol version is spoken by both.
    Unspoken {
        /// Who, and from where.
        peer: String,
        /// One sentence that names both sides' versions.
        reason: String,
    },
    /// What discovery finds at present: these addresses are seeds from now on, and those that it found before
    /// and does not any more are none. Seeds that were given at the start stay.
    Seeds {
        /// `host:port` texts, at most [`SEEDS_MAX`](super::limits::SEEDS_MAX) of which are called.
        addresses: Vec<String>,
    },
    /// A SWIM packet came in.
    Swim {
        /// The link it came over.
        link: LinkId,
        /// Its bytes, not yet trusted.
        packet: Bytes,
    },
    /// A control frame came in.
    Control {
        /// The link it came over.
        link: LinkId,
        /// The frame.
        frame: Control,
    },
    /// A local client asks something.
    Request {
        /// Names the reply.
        request: RequestId,
        /// The node that should do it; this one or another.
        node: NodeId,
        /// What is asked.
        body: RequestBody,
    },
    /// What the runtime reports of an agent.
    Agent {
        /// The agent.
        agent: AgentName,
        /// The run that the report is about; reports of earlier runs are outdated.
        run: u64,
        /// What happened.
        report: AgentReport,
    },
    /// The answer to [`Output::AskRuntime`].
    RuntimeAnswer {
        /// The number of the question.
        question: u64,
        /// The answer.
        answer: RuntimeAnswer,
    },
    /// The answer to [`Output::AskNode`].
    NodeAnswer {
        /// The number of the question.
        question: u64,
        /// The answer, or why there is none.
        answer: Result<NodeAnswer, String>,
    },
    /// The answer to [`Output::CountMessages`].
    Counted {
        /// Of each of them that the runtime knows, since it was deployed there.
        tallies: BTreeMap<AgentName, Tally>,
    },
    /// The machine's load was measured.
    Load(Load),
    /// What the wall clock shows: told once a second, and whenever it was set.
    WallClock {
        /// Milliseconds since 1970.
        unix_ms: u64,
    },
    /// The answer to [`Output::AskHandler`].
    HandlerAnswer {
        /// The number of the question.
        question: u64,
        /// What it decided, or why it did not.
        answer: Result<Action, String>,
    },
    /// What came of an [`Output::Try`].
    TryEnded {
        /// Its number.
        number: u64,
        /// `Ok` when an agent has answered the message.
        result: Result<(), SendError>,
    },
    /// A message needs a link to a node that is alive and has none.
    WantLink {
        /// The node.
        node: NodeId,
    },
    /// A node's certificate is good no more: its connections are closed already. A later [`Input::LinkUp`] of it
    /// has passed TLS with a good one.
    Expelled {
        /// The node.
        node: NodeId,
        /// Why: [`Refused::is_about_certificate`].
        reason: Refused,
    },
    /// A revocation list was verified and is stored: an answer to [`Output::CheckCrl`], or from this node's operator.
    CrlAccepted {
        /// Who signed it.
        issuer: CaKeyId,
        /// Its number.
        number: u64,
        /// The list (DER), at most [`CRL_BYTES_MAX`](super::limits::CRL_BYTES_MAX) bytes.
        der: Bytes,
    },
    /// This node's certificate, or the CAs that it trusts, are others now.
    CertificatesChanged {
        /// The keys of the CAs that are trusted.
        trusted: Vec<CaKeyId>,
        /// Whether its own certificate is another one: links that were made with the old one are replaced.
        renewed: bool,
    },
    /// The node is asked to stop (a signal).
    Stop,
    /// What the node remembers is gone from the disk: nothing that it promises from now on would outlive it.
    StoreGone {
        /// What the store said.
        reason: String,
    },
    /// A persist is durable.
    Committed(PersistNo),
    /// A persist failed; nothing of it is durable.
    CommitFailed {
        /// Which.
        no: PersistNo,
        /// What the store said.
        reason: String,
    },
}

/// What the network says of a destination that a packet did not reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sign {
    /// The machine is there, and nothing listens on that port.
    PortUnreachable,
    /// The machine cannot be reached, or a filter says so.
    HostUnreachable,
    /// There is no way to its network.
    NetworkUnreachable,
}

impl Sign {
    /// In words, for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PortUnreachable => "port unreachable",
            Self::HostUnreachable => "host unreachable",
            Self::NetworkUnreachable => "network unreachable",
        }
    }
}

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkEnd {
    /// Nothing came for [`LINK_IDLE_MAX`](super::limits::LINK_IDLE_MAX): no news of the peer either way.
    Idle,
    /// The peer closed it, or its process lost the connection's state: worth a check at once.
    Closed {
        /// What the peer said.
        reason: String,
    },
    /// The peer's side refused this node.
    Refused(Refused),
    /// This side closed it.
    Local,
}

/// What the core asks of the driver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Output {
    /// Send a SWIM packet: a datagram, or a stream of its own where the path carries none.
    Swim {
        /// Over which link.
        link: LinkId,
        /// The packet.
        packet: Bytes,
    },
    /// Send a control frame.
    Control {
        /// Over which link.
        link: LinkId,
        /// The frame.
        frame: Control,
    },
    /// Open a connection; answered by [`Input::LinkUp`] or [`Input::DialFailed`].
    Dial {
        /// To whom.
        target: DialTarget,
        /// `host:port` texts to try, in order; names may resolve to several addresses.
        addresses: Vec<String>,
    },
    /// Close a connection.
    Close {
        /// Which.
        link: LinkId,
        /// What to tell the other side.
        reason: Refused,
    },
    /// Store these changes in one transaction, then feed [`Input::Committed`].
    Persist {
        /// Names the transaction.
        no: PersistNo,
        /// What to store.
        changes: Vec<Change>,
    },
    /// Start an agent; the runtime reports with [`Input::Agent`].
    StartAgent {
        /// What to start.
        spec: AgentSpec,
        /// Names this run of it.
        run: u64,
    },
    /// Stop an agent: let it finish what it has, then end it.
    StopAgent {
        /// Which.
        agent: AgentName,
        /// Its run.
        run: u64,
        /// How long it may take to finish what it has, in milliseconds.
        drain_ms: u64,
    },
    /// Until when an exclusive agent may run, whatever else goes on; told before it is started.
    Permit {
        /// Which.
        agent: AgentName,
        /// Until when.
        until: Instant,
    },
    /// An agent is gone for good: what the runtime keeps of it (its log, its counters) may go too.
    ForgetAgent {
        /// Which.
        agent: AgentName,
    },
    /// Ask the runtime something; answered by [`Input::RuntimeAnswer`].
    AskRuntime {
        /// Names the answer.
        question: u64,
        /// Which agent.
        agent: AgentName,
        /// What.
        query: RuntimeQuery,
    },
    /// Count what became of the messages of these agents; answered by [`Input::Counted`].
    CountMessages {
        /// Which.
        agents: Vec<AgentName>,
    },
    /// Give a message to its agent and wait for the answer; answered by [`Input::TryEnded`].
    Try {
        /// Names the try.
        number: u64,
        /// The message, with the time that this may take.
        message: Message,
    },
    /// Ask the shell something about this node; answered by [`Input::NodeAnswer`], not at once.
    AskNode {
        /// Names the answer.
        question: u64,
        /// What.
        query: NodeQuery,
    },
    /// Answer a local client.
    Reply {
        /// Which request.
        request: RequestId,
        /// What came of it.
        result: Result<ResponseBody, Refusal>,
    },
    /// Verify a revocation list; answered by [`Input::CrlAccepted`] if it is good and new, else not at all.
    CheckCrl {
        /// Who sent it.
        from: NodeId,
        /// The list (DER), not yet trusted.
        der: Bytes,
    },
    /// Tell those who watch.
    Event(Event),
    /// Keep for those who ask why.
    Found(Finding),
    /// A key of the state has changed.
    StateChanged(StateChange),
    /// Run the command that decides what a minority does; answered by [`Input::HandlerAnswer`].
    AskHandler {
        /// Names the answer.
        question: u64,
        /// The command.
        command: String,
        /// What it is told.
        view: PartitionView,
    },
    /// Members, links or agents have changed: publish a new view.
    ViewChanged,
    /// The hello that this node says from now on.
    HelloChanged(Hello),
    /// The node must not go on: end the process with this reason.
    Fatal {
        /// One sentence.
        reason: String,
    },
    /// The node has told its peers and stopped its agents: end the process.
    Stopped,
}

/// An output, and the persist that must be durable before it may act.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// `None`: act at once.
    pub after: Option<PersistNo>,
    /// What to do.
    pub output: Output,
}

/// Whom to dial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DialTarget {
    /// A known node: a certificate with another name is refused.
    Node(NodeId),
    /// A seed, by its address: whoever answers with a certificate of this mesh.
    Seed(String),
}

/// What a node knows when its process starts, read from its store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The number of this process start, already durable.
    pub start: u64,
    /// The mesh it belongs to.
    pub mesh_id: Option<MeshId>,
    /// The peers it knew.
    pub peers: Vec<NodeCard>,
    /// The agents that come back with it.
    pub agents: Vec<AgentSpec>,
    /// The rows of the core's own tables, in order of their keys; a table without rows may be absent.
    #[serde(default)]
    pub tables: BTreeMap<Table, Vec<(Bytes, Bytes)>>,
    /// Whether the database was damaged or gone, and this one was made in its place and has not had the mesh's roster since.
    #[serde(default)]
    pub rebuilt: bool,
}

/// What the runtime reports of one run of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentReport {
    /// It takes messages.
    Running,
    /// A check of its health was made.
    Checked {
        /// What it found.
        found: Checkup,
    },
    /// Its breaker has opened or closed.
    Breaker(Turn),
    /// It could not be started, or ended without having been asked to.
    Ended {
        /// Why, with the last lines of its log where there are any.
        reason: String,
    },
    /// It ended because it was asked to.
    Stopped,
}

/// A question to the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuntimeQuery {
    /// What is measured of the agent.
    Stats,
    /// The last lines of its log.
    Logs {
        /// At most so many.
        lines: u32,
    },
}

/// The runtime's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuntimeAnswer {
    /// To [`RuntimeQuery::Stats`].
    Stats(AgentStats),
    /// To [`RuntimeQuery::Logs`], oldest first.
    Lines(Vec<String>),
}

/// A question about this node that only the shell can answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeQuery {
    /// What it measures.
    Facts,
    /// A part of its history.
    History(HistoryQuery),
    /// A part of a WASM module that it keeps.
    ModulePart {
        /// Which module.
        module: ModuleId,
        /// From which byte on.
        offset: u64,
    },
}

/// The shell's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeAnswer {
    /// To [`NodeQuery::Facts`].
    Facts(Box<NodeFacts>),
    /// To [`NodeQuery::History`].
    History(HistoryPage),
    /// To [`NodeQuery::ModulePart`].
    ModulePart(ModulePart),
}

/// What a mesh is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// This node's card; its addresses may be empty until they are known.
    pub card: NodeCard,
    /// The mesh's name from this node's certificate.
    pub mesh_name: MeshName,
    /// This run of the process.
    pub process_id: ProcessId,
    /// What the store remembers; its start number is durable.
    pub remembered: Remembered,
    /// How the node finds its mesh.
    pub start: StartMode,
    /// Gossip timings.
    pub profile: Profile,
    /// Explicit gossip timings.
    pub overrides: Overrides,
    /// How regions weigh on whom the node talks to.
    #[serde(default)]
    pub cross_region: CrossRegion,
    /// How the node finds out that it is in a minority, and what it does then.
    #[serde(default)]
    pub partition: PartitionConfig,
    /// How its agents are started again and left alone, where they do not say so themselves.
    #[serde(default)]
    pub recovery: Recovery,
    /// What the wall clock shows, in milliseconds since 1970.
    #[serde(default)]
    pub unix_ms: u64,
    /// Seeds all randomness of the core.
    pub seed: [u8; 32],
}

/// How a node finds its mesh. A node that remembers a mesh always resumes that one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartMode {
    /// Begin a new mesh with this id.
    Bootstrap {
        /// Freshly drawn.
        mesh_id: MeshId,
    },
    /// Ask these seeds, `host:port`, for ever, and those that discovery finds.
    Join {
        /// None where only discovery finds them.
        seeds: Vec<String>,
    },
    /// Go back to the mesh that is remembered.
    Resume,
}
