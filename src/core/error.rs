//! Why the mesh refuses: one closed list of reasons, each a sentence that says what failed, what the
//! caller may do and whether anything changed. The same reason travels over the wire, the HTTP API and
//! to the exit code.

use serde::{Deserialize, Serialize};

use super::ids::{AgentName, NodeId};

/// Why a message was not handled or not answered. Nothing was delivered unless the text says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SendError {
    /// No live node runs an agent of that name.
    #[error(
        "no agent named {agent} runs anywhere in the mesh: deploy it, or check the name with `shoal agent list`"
    )]
    UnknownAgent {
        /// The name asked for.
        agent: AgentName,
    },
    /// Nobody is there of those whom a capability, a topic or `all:` means.
    #[error("nobody takes messages for {to}: {why}")]
    NoRecipient {
        /// Whom the sender meant.
        to: String,
        /// Why there is nobody.
        why: String,
    },
    /// The agent is known, but every node that runs it is failed or has left.
    #[error("agent {agent} is not reachable: its node {node} is {status}")]
    NodeDown {
        /// The name asked for.
        agent: AgentName,
        /// The node that ran it.
        node: NodeId,
        /// `failed` or `left`.
        status: String,
    },
    /// Every instance that could take the message is in another region, beyond `max_cross_region_latency`.
    #[error(
        "agent {agent} is too far away: its nearest instance, on {node} in region {region:?}, has a round trip of {rtt_ms} ms, beyond max_cross_region_latency; name the node, as in {agent}@{node}, or raise the bound"
    )]
    TooFar {
        /// The name asked for.
        agent: AgentName,
        /// The node of the nearest instance.
        node: NodeId,
        /// That node's region.
        region: String,
        /// The round trip to be expected of it.
        rtt_ms: u64,
    },
    /// The agent exists and is not able to take messages now.
    #[error("agent {agent} on {node} is {state}: it takes no messages")]
    NotRunning {
        /// The name asked for.
        agent: AgentName,
        /// The node it is on.
        node: NodeId,
        /// The agent's state.
        state: String,
    },
    /// The agent keeps failing, and is left alone for a while.
    #[error(
        "agent {agent} on {node} keeps failing and is not asked now: {reason}; it is tried again in {}",
        in_seconds(*retry_ms)
    )]
    BreakerOpen {
        /// The name asked for.
        agent: AgentName,
        /// The node it is on.
        node: NodeId,
        /// What failed last.
        reason: String,
        /// When it is tried again, in milliseconds.
        retry_ms: u64,
    },
    /// A mailbox, a queue or a table is full.
    #[error("{what} is full: slow down and try again")]
    Overloaded {
        /// What is full.
        what: String,
    },
    /// No answer came in time; the agent may or may not have handled the message.
    #[error("no answer within {deadline_ms} ms; the agent may or may not have handled the message")]
    DeadlineExceeded {
        /// The deadline that was given.
        deadline_ms: u64,
    },
    /// The content exceeds its bound.
    #[error("the content has {bytes} bytes, the most a message can carry is {bytes_max}")]
    ContentTooLarge {
        /// Bytes given.
        bytes: u64,
        /// Bytes allowed.
        bytes_max: u64,
    },
    /// The address is not one that this version understands.
    #[error("address {address:?} is not understood: {why}")]
    BadAddress {
        /// The address given.
        address: String,
        /// The rule that it breaks.
        why: String,
    },
    /// The link to the node broke while the message was on its way; it may or may not have arrived.
    #[error(
        "the link to {node} broke before the answer came; the agent may or may not have handled the message"
    )]
    LinkLost {
        /// The node the message went to.
        node: NodeId,
    },
    /// The agent answered that it failed.
    #[error("agent {agent} failed: {reason}")]
    AgentFailed {
        /// The agent that failed.
        agent: AgentName,
        /// What it said.
        reason: String,
    },
    /// The message has passed through too many hands.
    #[error("the message has made {hops} hops: it is going round in circles")]
    TooManyHops {
        /// Hops made.
        hops: u8,
    },
    /// This node has not found its mesh yet, so it knows of no agents but its own.
    #[error(
        "node {node} has not joined its mesh yet and knows of no agent {agent}: its seeds are still being called"
    )]
    Joining {
        /// The node asked.
        node: NodeId,
        /// The name asked for.
        agent: AgentName,
    },
    /// This node is shutting down.
    #[error("node {node} is stopping and takes no new messages")]
    Stopping {
        /// The node that is stopping.
        node: NodeId,
    },
    /// Another instance has taken the place of the sender.
    #[error(
        "{sender} has been replaced: the slot was ordered anew by {epoch}, and that instance runs; nothing was delivered"
    )]
    Superseded {
        /// The sender's slot.
        sender: AgentName,
        /// The order by which the slot runs now.
        epoch: String,
    },
    /// A message that is to be delivered at least once was not taken in.
    #[error("{node} does not promise to deliver the message: {why}")]
    NotPromised {
        /// The sender's node.
        node: NodeId,
        /// Why.
        why: String,
    },
}

impl SendError {
    /// Every [`SendError::code`].
    pub const CODES: [&'static str; 17] = [
        "unknown_agent",
        "no_recipient",
        "node_down",
        "too_far",
        "not_running",
        "breaker_open",
        "overloaded",
        "deadline_exceeded",
        "content_too_large",
        "bad_address",
        "link_lost",
        "agent_failed",
        "too_many_hops",
        "joining",
        "stopping",
        "superseded",
        "not_promised",
    ];

    /// The stable, machine-readable name of the reason: the metric label and the JSON field.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownAgent { .. } => "unknown_agent",
            Self::NoRecipient { .. } => "no_recipient",
            Self::NodeDown { .. } => "node_down",
            Self::TooFar { .. } => "too_far",
            Self::NotRunning { .. } => "not_running",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::Overloaded { .. } => "overloaded",
            Self::DeadlineExceeded { .. } => "deadline_exceeded",
            Self::ContentTooLarge { .. } => "content_too_large",
            Self::BadAddress { .. } => "bad_address",
            Self::LinkLost { .. } => "link_lost",
            Self::AgentFailed { .. } => "agent_failed",
            Self::TooManyHops { .. } => "too_many_hops",
            Self::Joining { .. } => "joining",
            Self::Stopping { .. } => "stopping",
            Self::Superseded { .. } => "superseded",
            Self::NotPromised { .. } => "not_promised",
        }
    }
}

fn in_seconds(ms: u64) -> String {
    format!("{} s", ms.div_ceil(1000))
}

/// Why a request to the mesh (deploy, stop, ping, leave, logs) was refused. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// There is no such node.
    #[error("no node named {node} is known: see `shoal cluster members`")]
    UnknownNode {
        /// The node asked for.
        node: NodeId,
    },
    /// The node is known and not reachable.
    #[error("node {node} is {status}: it cannot be asked now")]
    NodeDown {
        /// The node asked for.
        node: NodeId,
        /// Its status.
        status: String,
    },
    /// There is no such agent on that node.
    #[error("no agent named {agent} on {node}: see `shoal agent list`")]
    UnknownAgent {
        /// The agent asked for.
        agent: AgentName,
        /// The node asked.
        node: NodeId,
    },
    /// The agent exists already.
    #[error("{node} already has an agent named {agent}: stop it first, or choose another name")]
    AgentExists {
        /// The agent.
        agent: AgentName,
        /// The node.
        node: NodeId,
    },
    /// The agent could not be started.
    #[error("agent {agent} did not start on {node}: {reason}")]
    StartFailed {
        /// The agent.
        agent: AgentName,
        /// The node.
        node: NodeId,
        /// What went wrong, with the last lines of its log where there are any.
        reason: String,
    },
    /// A bound is reached.
    #[error("{what} is full: try again later, or make room")]
    Overloaded {
        /// What is full.
        what: String,
    },
    /// The other node did not answer in time; it may still act on the request.
    #[error("{node} did not answer within {deadline_ms} ms; it may still act on the request")]
    TimedOut {
        /// The node asked.
        node: NodeId,
        /// The deadline.
        deadline_ms: u64,
    },
    /// The link to the other node broke before it answered.
    #[error("the link to {node} broke before it answered; it may still act on the request")]
    LinkLost {
        /// The node asked.
        node: NodeId,
    },
    /// The request itself is wrong.
    #[error("{why}")]
    BadRequest {
        /// What is wrong with it.
        why: String,
    },
    /// The disk did not take the change.
    #[error("the change could not be stored on {node}: {reason}; nothing changed")]
    StoreFailed {
        /// The node whose disk it is.
        node: NodeId,
        /// What the store said.
        reason: String,
    },
    /// The node could not find out what was asked.
    #[error("{node} could not answer: {reason}")]
    NoAnswer {
        /// The node asked.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// This node is not part of a mesh yet.
    #[error("{node} has not joined its mesh yet: none of its seeds has answered")]
    Joining {
        /// The node asked.
        node: NodeId,
    },
    /// The other node's version of Shoal is too old for the request, and was not asked.
    #[error("{node} runs version {version} of Shoal and does not know this request: upgrade it")]
    Outdated {
        /// The node asked.
        node: NodeId,
        /// The version that it says it runs.
        version: String,
    },
    /// A write to the state that breaks a rule.
    #[error("{why}")]
    BadWrite {
        /// The rule: a word for programs, as `context_ahead`.
        code: String,
        /// The rule, in words.
        why: String,
    },
    /// The node is not among a majority, and its configuration denies what was asked meanwhile.
    #[error("{node}: {why}; nothing changed")]
    Barred {
        /// The node.
        node: NodeId,
        /// Why.
        why: String,
    },
    /// A write is on this node's disk, and a quorum has not confirmed it in time.
    #[error(
        "indeterminate: the write is stored on {node}, and {voters} of {quorum} voters have confirmed it in time; the others may get it later"
    )]
    Indeterminate {
        /// The node that has it.
        node: NodeId,
        /// How many voters have confirmed it.
        voters: u32,
        /// How many it takes.
        quorum: u32,
    },
    /// The node knows no such ticket: it is another node's, was never given, or its outcome is too old.
    #[error(
        "{node} knows no ticket {ticket}: it is another node's, was never given, or its outcome is forgotten"
    )]
    UnknownTicket {
        /// The node.
        node: NodeId,
        /// The ticket.
        ticket: String,
    },
}

impl Refusal {
    /// Whether what was asked for cannot be, whoever is asked and whenever.
    #[must_use]
    pub fn is_of_bad_input(&self) -> bool {
        matches!(self.code(), "bad_request" | "bad_write" | "too_large")
    }

    /// The stable, machine-readable name of the reason.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownNode { .. } => "unknown_node",
            Self::NodeDown { .. } => "node_down",
            Self::UnknownAgent { .. } => "unknown_agent",
            Self::AgentExists { .. } => "agent_exists",
            Self::StartFailed { .. } => "start_failed",
            Self::Overloaded { .. } => "overloaded",
            Self::TimedOut { .. } => "timed_out",
            Self::LinkLost { .. } => "link_lost",
            Self::BadRequest { .. } => "bad_request",
            Self::StoreFailed { .. } => "store_failed",
            Self::NoAnswer { .. } => "no_answer",
            Self::Joining { .. } => "joining",
            Self::Outdated { .. } => "outdated",
            Self::BadWrite { code, .. } => match code.as_str() {
                "context_ahead" => "context_ahead",
                "superseded" => "superseded",
                "not_permitted" => "not_permitted",
                "read_only" => "read_only",
                "too_many_siblings" => "too_many_siblings",
                "full" => "full",
                "disk" => "disk",
                "too_large" => "too_large",
                _ => "bad_write",
            },
            Self::Barred { .. } => "barred",
            Self::Indeterminate { .. } => "indeterminate",
            Self::UnknownTicket { .. } => "unknown_ticket",
        }
    }
}

/// Why one side of a connection refuses the other. The number is the QUIC application close code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u32)]
pub enum Refused {
    /// No common protocol version.
    Version = 1,
    /// Another mesh.
    Mesh = 2,
    /// Neither side belongs to a mesh yet.
    NoMesh = 3,
    /// A live node has this name.
    Duplicate = 4,
    /// The hello names another node than the certificate.
    Name = 5,
    /// The hello or a frame is malformed.
    Malformed = 6,
    /// The peer was told to leave for good and is not wanted back under this link.
    Full = 7,
    /// The node dialled itself.
    Oneself = 8,
    /// Another link to the same node has taken its place.
    Superseded = 9,
    /// Gossip holds the peer for failed.
    Failed = 10,
    /// The node stops.
    Stopping = 11,
    /// The refused side's certificate has been revoked.
    Revoked = 12,
    /// The refused side's certificate has expired.
    Expired = 13,
    /// The refused side's certificate is not signed by a CA that is trusted (any more).
    Untrusted = 14,
}

impl Refused {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Version,
        Self::Mesh,
        Self::NoMesh,
        Self::Duplicate,
        Self::Name,
        Self::Malformed,
        Self::Full,
        Self::Oneself,
        Self::Superseded,
        Self::Failed,
        Self::Stopping,
        Self::Revoked,
        Self::Expired,
        Self::Untrusted,
    ];

    /// The close code on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        self as u32
    }

    /// Whether the refused side needs another certificate, or one of the two another CA bundle or clock: until
    /// then each further attempt ends the same way.
    #[must_use]
    pub fn is_about_certificate(self) -> bool {
        matches!(self, Self::Revoked | Self::Expired | Self::Untrusted)
    }

    /// The reason with that close code.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|r| u64::from(r.code()) == code)
    }

    /// A sentence for the log and the operator.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Version => "no protocol version is spoken by both sides: upgrade the older node",
            Self::Mesh => "the two nodes belong to different meshes: a mesh never merges with another",
            Self::NoMesh => "neither node belongs to a mesh yet: bootstrap one of them, or join one that has",
            Self::Duplicate => "a live node has this node id: give this one a certificate of its own",
            Self::Name => "the hello names another node or mesh than the certificate",
            Self::Malformed => "the first frame was not a valid hello",
            Self::Full => "the node knows as many peers as it can",
            Self::Oneself => "the address is this node's own",
            Self::Superseded => "another connection between the two nodes is kept instead",
            Self::Failed => "the node is held for failed",
            Self::Stopping => "the node is stopping",
            Self::Revoked => "the certificate has been revoked: the node needs a new one",
            Self::Expired => "the certificate has expired: renew it, or set the clock that is wrong",
            Self::Untrusted => {
                "the certificate is not signed by a CA that is trusted here: compare the CA bundles of both nodes"
            }
        }
    }
}
