//! What a node keeps of what happened: the entries of its history, and how they are asked for.

use serde::{Deserialize, Serialize};

use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::{Event, Finding, Found};

/// One entry of a node's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Grows by one with each entry that the node has kept, over all its processes.
    pub sequence: u64,
    /// Milliseconds since 1970 by the node's wall clock, when it saw this.
    pub unix_ms: u64,
    /// What it saw.
    pub what: Recorded,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recorded {
    /// Something that the node found out about another.
    Finding(Finding),
    /// Something that happened.
    Event(Event),
}

impl Recorded {
    /// The node that it is about.
    #[must_use]
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Finding(finding) => Some(&finding.node),
            Self::Event(
                Event::Member { node, .. }
                | Event::Agent { node, .. }
                | Event::Breaker { node, .. }
                | Event::LaunchHeld { node, .. }
                | Event::DuplicateNode { node, .. },
            ) => Some(node),
            Self::Event(Event::Ordered { from, to, .. }) => to.as_ref().or(from.as_ref()),
            Self::Event(
                Event::Joined { .. }
                | Event::Refused { .. }
                | Event::Mode { .. }
                | Event::Ticket { .. }
                | Event::Settled { .. }
                | Event::Rollout { .. }
                | Event::Roster { .. },
            ) => None,
        }
    }

    /// The agent that it is about.
    #[must_use]
    pub fn agent(&self) -> Option<&AgentName> {
        match self {
            Self::Event(
                Event::Agent { agent, .. }
                | Event::Ordered { agent, .. }
                | Event::Breaker { agent, .. }
                | Event::LaunchHeld { agent, .. },
            ) => Some(agent),
            Self::Event(Event::Rollout { blueprint, .. }) => Some(blueprint),
            Self::Finding(_) | Self::Event(_) => None,
        }
    }

    /// The same with texts from elsewhere cut to [`limits::HISTORY_TEXT_CHARS_MAX`], so that an entry has a bound.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let text = match &mut self {
            Self::Finding(finding) => match &mut finding.found {
                Found::Hint { sign: text }
                | Found::Expelled { reason: text }
                | Found::Linked { address: text }
                | Found::LinkLost { reason: text } => Some(text),
                Found::Alive
                | Found::Restarted
                | Found::ProbeMissed { .. }
                | Found::Accused { .. }
                | Found::Confirmed { .. }
                | Found::Refuted
                | Found::Failed { .. }
                | Found::Left => None,
            },
            Self::Event(Event::Member { reason: text, .. } | Event::DuplicateNode { address: text, .. }) => {
                Some(text)
            }
            Self::Event(Event::Agent { reason, .. } | Event::Breaker { reason, .. }) => reason.as_mut(),
            Self::Event(Event::Refused { peer, reason }) => {
                cut(peer);
                Some(reason)
            }
            Self::Event(Event::Mode { reason, .. }) => Some(reason),
            Self::Event(Event::Ticket { key, reason, .. }) => {
                cut(key);
                reason.as_mut()
            }
            Self::Event(Event::Ordered { why: text, .. } | Event::Rollout { what: text, .. }) => Some(text),
            Self::Event(
                Event::Joined { .. }
                | Event::Roster { .. }
                | Event::Settled { .. }
                | Event::LaunchHeld { .. },
            ) => None,
        };
        if let Some(text) = text {
            cut(text);
        }
        self
    }
}

fn cut(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(limits::HISTORY_TEXT_CHARS_MAX) {
        text.truncate(at);
    }
}

/// Which entries of a history to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryQuery {
    /// Only those about this node.
    pub node: Option<NodeId>,
    /// Only those about agents of this name.
    pub agent: Option<AgentName>,
    /// The first ones after this number; the newest ones when `None`.
    pub after: Option<u64>,
    /// At most so many; never more than [`limits::HISTORY_PAGE_MAX`].
    pub limit: u32,
}

/// A part of a node's history, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryPage {
    /// The entries.
    pub entries: Vec<HistoryEntry>,
    /// The number of the oldest entry that is kept, whatever it is about.
    pub oldest: Option<u64>,
    /// Entries that found the queue to the disk full since the node's process started.
    pub dropped: u64,
}

impl HistoryPage {
    /// Checks the bounds that a page of another node must keep.
    ///
    /// # Errors
    /// The bound that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.entries.len() > limits::HISTORY_PAGE_MAX {
            return Err("it has too many entries");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::{Incarnation, MeshId};
    use crate::core::model::MemberStatus;
    use crate::core::wire::{decode_value, encode_value};

    fn node() -> NodeId {
        NodeId::new("n").expect("valid")
    }

    #[test]
    fn every_kind_of_entry_survives_the_way_to_the_disk_and_back() {
        let finding = |found| Recorded::Finding(Finding { node: node(), incarnation: Incarnation(1), found });
        let member = Event::Member { node: node(), status: MemberStatus::Failed, reason: "r".to_owned() };
        for recorded in [
            finding(Found::Alive),
            finding(Found::ProbeMissed { waited_ms: 400, helpers: 3, nacks: 1 }),
            finding(Found::Failed { by: Some(node()), suspected_ms: 7, confirmations: 2 }),
            finding(Found::LinkLost { reason: "it is gone".to_owned() }),
            Recorded::Event(member),
            Recorded::Event(Event::Joined { mesh_id: MeshId(uuid::Uuid::from_bytes([7; 16])) }),
        ] {
            assert_eq!(decode_value::<Recorded>(&encode_value(&recorded)).expect("decodes"), recorded);
        }
    }

    #[test]
    fn a_text_from_elsewhere_is_cut_at_a_character() {
        let reason = "ä".repeat(limits::HISTORY_TEXT_CHARS_MAX + 1);
        let refused = Event::Refused { peer: reason.clone(), reason };
        let Recorded::Event(Event::Refused { peer, reason }) = Recorded::Event(refused).bounded() else {
            panic!("it stays what it is");
        };
        assert_eq!([peer, reason].map(|t| t.chars().count()), [limits::HISTORY_TEXT_CHARS_MAX; 2]);
    }
}
