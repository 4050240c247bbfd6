//! The JSON of `GET /v1/history`.

use serde::{Deserialize, Serialize};

use super::Event;
use crate::core::ids::NodeId;
use crate::core::model;
use crate::core::wire;

/// A part of a node's history, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The node that has seen this.
    pub node_id: NodeId,
    /// The number of the oldest entry that it keeps, whatever it is about; null when it keeps none.
    pub oldest: Option<u64>,
    /// Entries that could not be kept since its process started, because its disk was behind.
    pub dropped: u64,
    /// The entries.
    pub entries: Vec<HistoryEntry>,
}

/// One entry: either an event or a finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Grows by one with each entry, over restarts of the node.
    pub sequence: u64,
    /// When the node saw it: milliseconds since 1970 by its wall clock.
    pub unix_ms: u64,
    /// Something that happened; as in `GET /v1/cluster/events`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
    /// Something that the node found out about another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
}

/// Something that a node found out about another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The other node.
    pub node: NodeId,
    /// Its incarnation, as far as known then.
    pub incarnation: u64,
    /// What was found.
    #[serde(flatten)]
    pub found: Found,
}

/// What can be found out about a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Found {
    /// It was heard of for the first time, or again after it had gone.
    Alive,
    /// Its process was started again.
    Restarted,
    /// It did not answer a probe, neither directly nor through others.
    ProbeMissed {
        /// How long the probe waited.
        waited_ms: u32,
        /// Others that were asked to reach it.
        helpers: u8,
        /// How many of them said that they could not.
        nacks: u8,
    },
    /// A sign that it may be gone led to a check at once.
    Hint {
        /// What the sign was.
        sign: String,
    },
    /// Somebody began to suspect it.
    Accused {
        /// Who, from a probe of its own.
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
        /// Who gave the verdict; null when that is not known.
        by: Option<NodeId>,
        /// How long the suspicion stood here.
        suspected_ms: u32,
        /// Independent confirmations that were heard of.
        confirmations: u8,
    },
    /// It said good-bye.
    Left,
    /// It was expelled.
    Expelled {
        /// Why.
        reason: String,
    },
    /// A connection to it was made.
    Linked {
        /// Its address.
        address: String,
    },
    /// The connection to it ended.
    LinkLost {
        /// Why.
        reason: String,
    },
    /// Of a type that this version does not know.
    #[serde(other)]
    Unknown,
}

impl History {
    /// What `node` has told.
    #[must_use]
    pub fn new(node: NodeId, page: wire::HistoryPage) -> Self {
        let entries = page.entries.into_iter().map(HistoryEntry::from).collect();
        Self { node_id: node, oldest: page.oldest, dropped: page.dropped, entries }
    }
}

impl From<wire::HistoryEntry> for HistoryEntry {
    fn from(entry: wire::HistoryEntry) -> Self {
        let (event, finding) = match entry.what {
            wire::Recorded::Event(event) => (Some(event.into()), None),
            wire::Recorded::Finding(finding) => (None, Some(finding.into())),
        };
        Self { sequence: entry.sequence, unix_ms: entry.unix_ms, event, finding }
    }
}

impl From<model::Finding> for Finding {
    fn from(finding: model::Finding) -> Self {
        Self { node: finding.node, incarnation: finding.incarnation.0, found: finding.found.into() }
    }
}

impl From<model::Found> for Found {
    fn from(found: model::Found) -> Self {
        use model::Found as F;
        match found {
            F::Alive => Self::Alive,
            F::Restarted => Self::Restarted,
            F::ProbeMissed { waited_ms, helpers, nacks } => Self::ProbeMissed { waited_ms, helpers, nacks },
            F::Hint { sign } => Self::Hint { sign },
            F::Accused { by } => Self::Accused { by },
            F::Confirmed { by, so_far, wanted } => Self::Confirmed { by, so_far, wanted },
            F::Refuted => Self::Refuted,
            F::Failed { by, suspected_ms, confirmations } => Self::Failed { by, suspected_ms, confirmations },
            F::Left => Self::Left,
            F::Expelled { reason } => Self::Expelled { reason },
            F::Linked { address } => Self::Linked { address },
            F::LinkLost { reason } => Self::LinkLost { reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_version_finds_out_is_read_as_unknown() {
        let text = r#"{"sequence": 1, "unix_ms": 2,
            "finding": {"node": "n", "incarnation": 3, "type": "sneezed", "how": "loudly"}}"#;
        let entry: HistoryEntry = serde_json::from_str(text).expect("readable");
        assert_eq!(entry.finding.map(|finding| finding.found), Some(Found::Unknown));
    }
}
