//! Who can talk with whom in a mesh that is parted, or may be.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::core::ids::NodeId;

/// Who can talk with whom, put together from what several nodes see.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sides {
    /// Groups whose members reach each other, directly or through one another; the one with most voters first.
    /// More than one: the mesh is parted.
    pub sides: Vec<Side>,
    /// Members that told nothing, and who of those that did sees them.
    pub silent: Vec<SilentNode>,
    /// Pairs that do not see each other although they are on one side, or of whom only one sees the other; at
    /// most [`CUTS_LISTED_MAX`](crate::core::limits::CUTS_LISTED_MAX).
    pub cuts: Vec<Cut>,
    /// How many more such pairs there are.
    pub cuts_unlisted: usize,
}

/// One group of nodes that reach each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Who is on it.
    pub members: BTreeSet<NodeId>,
    /// How many of them vote.
    pub voters: usize,
    /// Whether its members are a quorum together.
    pub quorum: bool,
    /// Those that see a quorum themselves: behind a partial cut a member of the majority may not.
    pub see_quorum: BTreeSet<NodeId>,
}

/// A member that told nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentNode {
    /// The member.
    pub node: NodeId,
    /// Who sees it. Nobody: it is down, or on a side that could not be asked.
    pub seen_by: BTreeSet<NodeId>,
}

/// Two nodes that do not see each other as the rest of their side does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Cut {
    /// Only one of them sees the other.
    OneWay {
        /// Who sees.
        sees: NodeId,
        /// Who is seen, and does not see.
        unseeing: NodeId,
    },
    /// Neither sees the other, though others of their side see both.
    Partial {
        /// The two, in order.
        between: (NodeId, NodeId),
    },
}
