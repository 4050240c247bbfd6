//! Permits: who may run an exclusive agent now.
//!
//! An order says which node *should* fill a slot, and may be unknown where it would end something. That is too little for an
//! agent that must never run twice. The host of such an agent therefore runs it under a *permit*: it asks all voters, again and
//! again, and goes on while a quorum of them has granted it of late. Whoever is cut off from a quorum loses its permit within
//! [`PERMIT`](limits::PERMIT), and stops; only then can another host get one.
//!
//! Leases as in Gray and Cheriton: "Leases" (SOSP 1989), one for each slot, renewed all together.
//!
//! # What holds
//!
//! No two holders have a permit for one slot at the same time, a holder being one process of one node, while clocks run alike
//! within [`limits::CLOCK_DRIFT_MILLI`]. Why:
//!
//! - A holder counts from *sending*, a little less; a voter from granting, a little more. Until that time is over the voter
//!   grants the slot to no other holder, unless the first has given it up itself.
//! - Where the roster allows two halves to write at once, a half is no quorum here.
//! - A voter grants nothing below the highest epoch that it has stored, was asked for, or has read in an order, and stores
//!   (slot, epoch, holder) before it grants that for the first time. So of two holders at most one is renewed for long.
//! - Any two quorums of one roster have a voter in common, and so have those of a roster and the next one. A voter that goes by
//!   other voters than before, or has just started, grants nothing new for the time of a permit: what a quorum of the roster
//!   before the last has granted is over by then, because the last one was not decided before a quorum went by the one
//!   between.
//!
//! Nothing of this needs the disk. What the disk is for is that permits follow the orders: no holder gets one by an order below
//! one by which another has had it. A voter whose store is not known to be whole therefore asks so many others that every quorum
//! has one of them, once all that it may have granted is over, and takes over the highest epoch of each slot. Where a quorum has
//! lost its disks at once, a host that has not heard of its last order may run once more what it ran before, and nobody beside it.
//!
//! What a holder does when it stops being asked, is stopped or suspended, is not decided here: the deadline is handed on to
//! those who can keep it (`crate::node::runtime`).
//!
//! # Order of calls
//!
//! [`Holder`] asks, [`Voter`] answers; both are told the time, and say when they want to be called again.

mod holder;
#[cfg(test)]
mod tests;
mod voter;

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use holder::Holder;
pub use voter::{Known, OrderFor, Voter, VoterEffect};

use super::ids::{AgentName, NodeId};
use super::limits;
use super::model::{Epoch, OrderEpoch};

/// One process of one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Life {
    /// The node.
    pub node: NodeId,
    /// Drawn by chance for each process.
    pub life: u64,
}

/// What a voter has last granted for a slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Granted {
    /// By which order.
    pub epoch: OrderEpoch,
    /// To whom.
    pub holder: Life,
}

/// Why a voter does not grant a slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Denied {
    /// The slot has gone to another node by a later order.
    Superseded,
    /// Another holder may still run it.
    Held {
        /// For so long at most.
        wait: Duration,
    },
    /// The voter has just started, or goes by other voters: others may have granted what it does not know of.
    Quiet {
        /// It is no use asking again before.
        wait: Duration,
    },
    /// The voter keeps as many slots as it may.
    Full,
}

/// A message about permits. It travels in a control frame.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PermitMessage {
    /// "Grant me these slots, and take back what you have granted me besides."
    Ask {
        /// The roster under which it is asked.
        base: Epoch,
        /// The asker's process.
        life: u64,
        /// Counts the questions of a process.
        ask: u64,
        /// Each slot with the order by which it is claimed.
        claims: Vec<(AgentName, OrderEpoch)>,
    },
    /// The answer, in up to two parts: what has to be written first comes later.
    Answer {
        /// The asker's process.
        life: u64,
        /// The question.
        ask: u64,
        /// The claims that are granted, by their place in the question.
        granted: Vec<u16>,
        /// Those that are not.
        denied: Vec<(u16, Denied)>,
    },
    /// "My store is old or gone: what may I have granted?"
    RecoverAsk {
        /// Names the question.
        ask: u64,
        /// The roster under which it is asked.
        base: Epoch,
    },
    /// What the voter has granted, whenever that was.
    RecoverAnswer {
        /// The question.
        ask: u64,
        /// The roster that the answer stands on.
        base: Epoch,
        /// By slot.
        granted: Vec<(AgentName, Granted)>,
    },
}

impl PermitMessage {
    /// Checks the bounds that decoding alone does not.
    ///
    /// # Errors
    /// The bound that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Ask { claims, .. } if claims.len() > limits::PERMITS_PER_NODE_MAX => {
                Err("too many slots are claimed")
            }
            Self::Answer { granted, denied, .. }
                if granted.len() + denied.len() > limits::PERMITS_PER_NODE_MAX =>
            {
                Err("too many slots are answered")
            }
            Self::Answer { denied, .. }
                if denied.iter().any(|(_, why)| why.wait() > limits::DEADLINE_MAX) =>
            {
                Err("an absurd wait")
            }
            // What was recovered may be more than was ever granted at once.
            Self::RecoverAnswer { granted, .. } if granted.len() > 2 * limits::PERMITS_MAX => {
                Err("too many slots are told")
            }
            Self::Ask { .. } | Self::Answer { .. } | Self::RecoverAsk { .. } | Self::RecoverAnswer { .. } => {
                Ok(())
            }
        }
    }

    /// Whether a voter binds itself with it, or says what it is bound to: only one whose store is not an older copy may.
    #[must_use]
    pub fn is_binding(&self) -> bool {
        matches!(self, Self::Answer { .. } | Self::RecoverAnswer { .. })
    }
}

impl Denied {
    fn wait(&self) -> Duration {
        match self {
            Self::Held { wait } | Self::Quiet { wait } => *wait,
            Self::Superseded | Self::Full => Duration::ZERO,
        }
    }
}

const SLOT_ROWS: &[u8] = b"permit/slot/";
const DOUBT_ROW: &[u8] = b"permit/doubt";

/// Whether a row of the register's table is one of this room's.
#[must_use]
pub fn is_row_of_permits(key: &[u8]) -> bool {
    key.starts_with(SLOT_ROWS) || key == DOUBT_ROW
}

/// The row that says that a store is not whole. It is written in the transaction that makes the register doubt its own.
#[must_use]
pub fn row_of_doubt() -> (Bytes, Bytes) {
    (Bytes::from_static(DOUBT_ROW), Bytes::from_static(b"\xc3"))
}

/// How long a holder may go on, from when it asked.
#[must_use]
pub fn at_holder() -> Duration {
    limits::PERMIT * (1000 - limits::CLOCK_DRIFT_MILLI) / 1000
}

/// How long a voter grants a slot to nobody else.
#[must_use]
pub fn at_voter() -> Duration {
    limits::PERMIT * (1000 + limits::CLOCK_DRIFT_MILLI) / 1000
}
