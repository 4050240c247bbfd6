//! What happened in the mesh, and what was found out about its nodes.

use serde::{Deserialize, Serialize};

use super::{MemberStatus, Mode, Ticket};
use crate::core::ids::{AgentName, Incarnation, MeshId, NodeId};

/// What happened in the mesh, as this node saw it. Every change of a status is one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Event {
    /// This node belongs to a mesh and has found it (or is its first node).
    Joined {
        /// The mesh.
        mesh_id: MeshId,
    },
    /// A node's status changed.
    Member {
        /// The node.
        node: NodeId,
        /// Its new status.
        status: MemberStatus,
        /// Why, in a few words.
        reason: String,
    },
    /// An agent's state changed, or the agent is gone.
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
        /// What it is now: `open`, `half-open` or `closed`.
        state: String,
        /// What failed last; `None` once it is closed.
        reason: Option<String>,
    },
    /// This node's agents of later phases wait, because one that is not optional has failed.
    LaunchHeld {
        /// The agent that has failed.
        agent: AgentName,
        /// Its node: this one.
        node: NodeId,
        /// Its phase.
        phase: i32,
    },
    /// A second live process claims a node's name.
    DuplicateNode {
        /// The name claimed twice.
        node: NodeId,
        /// Where the newcomer came from.
        address: String,
    },
    /// This node is among a majority, or is not any more, or catches up.
    Mode {
        /// What it was.
        from: Mode,
        /// What it is.
        to: Mode,
        /// Why.
        reason: String,
    },
    /// A write that waited for a majority has its outcome.
    Ticket {
        /// Its ticket.
        ticket: Ticket,
        /// The key that it writes.
        key: String,
        /// `applied`, `conflicted`, `expired` or `rejected`.
        outcome: String,
        /// Why, where there is something to say.
        reason: Option<String>,
    },
    /// A slot of a blueprint was given to a node, or is not filled any more.
    Ordered {
        /// The slot.
        agent: AgentName,
        /// Who had it before, if somebody had.
        from: Option<NodeId>,
        /// Who has it now; `None`: nobody.
        to: Option<NodeId>,
        /// Why.
        why: String,
    },
    /// All that was ordered since the mesh last was at rest runs, or is not wanted any more.
    Settled {
        /// How many instances.
        agents: u32,
        /// How long it took, in milliseconds.
        took_ms: u64,
    },
    /// A blueprint has another version, or its canary has come to another step.
    Rollout {
        /// The blueprint.
        blueprint: AgentName,
        /// Its version.
        version: u64,
        /// What has happened: `applied: canary step 1 of 4, 5 %`, `all instances are steady`.
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
}

/// Something that this node found out about another: what "why is it in that state" is answered from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The node that it is about.
    pub node: NodeId,
    /// Its incarnation, as far as known then.
    pub incarnation: Incarnation,
    /// What was found.
    pub found: Found,
}

/// What can be found out about a node, each with its origin where it is not this node's own experience.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Found {
    /// It was heard of for the first time, or again after it had gone.
    Alive,
    /// Its process was started again.
    Restarted,
    /// It did not answer this node's probe, neither directly nor through others.
    ProbeMissed {
        /// How long the probe waited, in milliseconds.
        waited_ms: u32,
        /// Others that were asked to reach it.
        helpers: u8,
        /// How many of them said that they could not.
        nacks: u8,
    },
    /// A sign that it may be gone, which led to a check at once.
    Hint {
        /// What the sign was: a closed connection, a refused datagram.
        sign: String,
    },
    /// Somebody began to suspect it.
    Accused {
        /// Who: from its own probe, not from hearsay.
        by: NodeId,
    },
    /// Somebody else could not reach it either.
    Confirmed {
        /// Who.
        by: NodeId,
        /// Independent confirmations so far.
        so_far: u8,
        /// With so many the suspicion is as short as it gets.
        wanted: u8,
    },
    /// It answered for itself.
    Refuted,
    /// It did not answer for itself in time.
    Failed {
        /// Who gave the verdict, as far as known.
        by: Option<NodeId>,
        /// How long the suspicion stood here, in milliseconds.
        suspected_ms: u32,
        /// Independent confirmations that were heard of.
        confirmations: u8,
    },
    /// It said good-bye.
    Left,
    /// Its certificate was revoked or has expired, and it was expelled.
    Expelled {
        /// Why.
        reason: String,
    },
    /// A link to it was made.
    Linked {
        /// Its address.
        address: String,
    },
    /// The link to it ended.
    LinkLost {
        /// Why.
        reason: String,
    },
}
