//! What is made durable, and in which tables.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::core::ids::{AgentName, MeshId, NodeId};
use crate::core::model::{AgentSpec, NodeCard};

/// One durable change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "agents change seldom, and each change is moved a few times")]
pub enum Change {
    /// The mesh that this node belongs to.
    MeshId(MeshId),
    /// A peer, so that a restart finds the mesh with every seed dead.
    Peer(NodeCard),
    /// A peer that left for good.
    ForgetPeer(NodeId),
    /// An agent that comes back with the node.
    Agent(AgentSpec),
    /// An agent that does not.
    RemoveAgent(AgentName),
    /// This node left its mesh for good: mesh id and peers are forgotten.
    LeaveMesh,
    /// The next process start is at least this number (a store older than what peers remember).
    StartAtLeast(u64),
    /// A row of one of the core's own tables.
    Put {
        /// Which.
        table: Table,
        /// Its key, unique in its table.
        key: Bytes,
        /// What it says; only the core understands it.
        row: Bytes,
    },
    /// A row that is no more.
    Delete {
        /// Which table.
        table: Table,
        /// The key.
        key: Bytes,
    },
    /// All rows of a table are no more.
    Clear(Table),
    /// What follows is built on nothing that has failed. When a persist that touches a [`Table`] fails, every
    /// later one that does fails as well, because it may have been built upon it, until one begins with this.
    Afresh,
}

impl Change {
    /// Whether it is about one of the core's own tables.
    #[must_use]
    pub fn touches_table(&self) -> bool {
        match self {
            Self::Put { .. } | Self::Delete { .. } | Self::Clear(_) | Self::Afresh => true,
            Self::MeshId(_)
            | Self::Peer(_)
            | Self::ForgetPeer(_)
            | Self::Agent(_)
            | Self::RemoveAgent(_)
            | Self::LeaveMesh
            | Self::StartAtLeast(_) => false,
        }
    }
}

/// The key, in [`Table::Register`], of the newest roster: without it a store that was made anew counts as such.
pub const ROW_OF_ROSTER: &[u8] = b"roster";

/// A table of the store whose rows only the core understands: the store keeps keys and bytes, checks that
/// they are the ones that were written, and knows nothing else of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Table {
    /// The replicated keys.
    State,
    /// How much of each actor's writes is here, and what else the state knows of itself.
    Clock,
    /// Promises, votes and rosters.
    Register,
    /// Writes that wait for a majority, and what became of those that did.
    Queue,
    /// Messages that are to be delivered, and those that were given up.
    Outbox,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::State, Self::Clock, Self::Register, Self::Queue, Self::Outbox];

    /// Its name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Clock => "clock",
            Self::Register => "register",
            Self::Queue => "queue",
            Self::Outbox => "outbox",
        }
    }
}
