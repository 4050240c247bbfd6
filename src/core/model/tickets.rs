//! Tickets: the receipts for writes that wait for a majority, and what became of those writes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::core::ids::NodeId;

/// Names one queued write, for ever: no later process of the node gives the same one, because each counts
/// its starts. As text: `node-1/3f2a-17`, the start in hexadecimal digits and the number within it in decimal ones.
/// Those of one node are ordered by the time at which they were given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ticket {
    /// The node that has the write.
    pub node: NodeId,
    /// The number of the process start that gave it.
    pub start: u64,
    /// Its number within that, counted from 1.
    pub number: u64,
}

/// Why a text names no ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no ticket: one looks like node-1/3f2a-17")]
pub struct TicketError(String);

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}-{}", self.node.as_str(), self.start, self.number)
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let parsed = || {
            let (node, numbers) = text.split_once('/')?;
            let (start, number) = numbers.split_once('-')?;
            let node = NodeId::new(node).ok()?;
            let start = u64::from_str_radix(start, 16).ok()?;
            let number = number.parse().ok()?;
            Some(Self { node, start, number })
        };
        // One ticket, one text: a sign, a leading zero or a capital letter would be a second one.
        let same = |ticket: &Self| ticket.to_string() == text;
        parsed().filter(same).ok_or_else(|| TicketError(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for Ticket {
    type Error = TicketError;

    fn try_from(text: String) -> Result<Self, TicketError> {
        text.parse()
    }
}

impl From<Ticket> for String {
    fn from(ticket: Ticket) -> Self {
        ticket.to_string()
    }
}

/// What became of a queued write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was made.
    Applied,
    /// It was made, and stands beside what others wrote meanwhile.
    Conflicted,
    /// It waited for too long and was not made.
    Expired,
    /// It was not made.
    Rejected {
        /// Why.
        reason: String,
    },
}

impl Outcome {
    /// The word that users see.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Conflicted => "conflicted",
            Self::Expired => "expired",
            Self::Rejected { .. } => "rejected",
        }
    }
}

/// Where a queued write is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TicketState {
    /// It waits for a majority, or for its turn.
    Queued,
    /// Its outcome is final.
    Done(Outcome),
}

/// One ticket, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketView {
    /// Its name.
    pub ticket: Ticket,
    /// The key that is written.
    pub key: String,
    /// When it was queued, in milliseconds since 1970.
    pub queued_at_ms: u64,
    /// When it expires, or would have, in milliseconds since 1970.
    pub deadline_ms: u64,
    /// Where it is.
    pub state: TicketState,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_one_text_and_that_text_is_one_ticket() {
        let node = NodeId::new("node-1").expect("valid");
        let ticket = Ticket { node, start: 0x3f2a, number: 17 };
        assert_eq!(ticket.to_string(), "node-1/3f2a-17");
        assert_eq!("node-1/3f2a-17".parse(), Ok(ticket));
        for text in
            ["", "node-1", "node-1/3f2a", "node-1/3F2A-17", "node-1/3f2a-+17", "node-1/03f2a-17", "/1-1"]
        {
            assert!(text.parse::<Ticket>().is_err(), "{text}");
        }
    }
}
