//! What registers say to each other, and the bounds of it.
//!
//! Every question names the roster that it stands on (`base`) and what tells its answers from late ones: a ballot,
//! or a number drawn by the asker. Nothing here decides anything.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{Epoch, Roster};

/// Orders the attempts to choose one successor; no two attempts ever have the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// Counts up: a proposer takes one above all it has seen.
    pub round: u64,
    /// Who tries.
    pub node: NodeId,
    /// Drawn by chance for each process: one that has lost its store never repeats a ballot.
    pub life: u64,
}

/// What a voter accepted: the value and the attempt that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Accepted {
    /// The attempt.
    pub ballot: Ballot,
    /// The successor.
    pub successor: Roster,
}

/// A message between two registers. It travels in a control frame.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RegisterMessage {
    /// "Will you listen to no attempt below this one?"
    Prepare {
        /// The roster whose successor is to be chosen.
        base: Epoch,
        /// The attempt.
        ballot: Ballot,
    },
    /// "I will not."
    Promise {
        /// The attempt.
        ballot: Ballot,
        /// What the voter accepted before.
        accepted: Option<Accepted>,
    },
    /// "Accept this successor."
    Accept {
        /// The roster that it follows.
        base: Epoch,
        /// The attempt.
        ballot: Ballot,
        /// The successor.
        successor: Roster,
    },
    /// "I have."
    Accepted {
        /// The attempt.
        ballot: Ballot,
    },
    /// "I have promised another attempt not to."
    Outbid {
        /// The attempt that was refused.
        ballot: Ballot,
        /// The one that the voter listens to.
        promised: Ballot,
    },
    /// A roster that was decided.
    Learn {
        /// The roster.
        roster: Roster,
        /// The highest term that the sender has granted or was told of so: whoever goes by the roster grants no lower one,
        /// because it may be a quorum with others than those who granted this.
        term: u64,
        /// To whom.
        holder: Option<NodeId>,
    },
    /// "Tell me of a roster later than mine."
    RosterAsk {
        /// The asker's; `None` if it has none.
        have: Option<Epoch>,
    },
    /// "Grant me the lease", or a renewal of it.
    LeaseAsk {
        /// The roster under which it is asked.
        base: Epoch,
        /// The term.
        term: u64,
        /// Names the question.
        ask: u64,
    },
    /// "You have my vote, for [`LEASE`](limits::LEASE) from when you asked."
    LeaseGrant {
        /// The term.
        term: u64,
        /// The question.
        ask: u64,
    },
    /// "You have not."
    LeaseRefuse {
        /// The question.
        ask: u64,
        /// The highest term that the voter has granted.
        term: u64,
        /// It is no use asking again before.
        wait: Duration,
    },
    /// "My store is old or gone: what may I have promised?"
    RecoverAsk {
        /// Names the question.
        ask: u64,
    },
    /// What the voter knows of promises and terms.
    RecoverAnswer {
        /// The question.
        ask: u64,
        /// The roster that the answer stands on.
        base: Epoch,
        /// The highest attempt that it has promised to listen to.
        promised: Option<Ballot>,
        /// What it has accepted.
        accepted: Option<Accepted>,
        /// The highest term that it has granted.
        term: u64,
        /// To whom.
        holder: Option<NodeId>,
    },
}

impl RegisterMessage {
    /// Whether a voter binds itself with it, or says what it is bound to: only one whose store is not an older copy may.
    #[must_use]
    pub fn is_binding(&self) -> bool {
        match self {
            Self::Promise { .. }
            | Self::Accepted { .. }
            | Self::LeaseGrant { .. }
            | Self::RecoverAnswer { .. } => true,
            Self::Prepare { .. }
            | Self::Accept { .. }
            | Self::Outbid { .. }
            | Self::Learn { .. }
            | Self::RosterAsk { .. }
            | Self::LeaseAsk { .. }
            | Self::LeaseRefuse { .. }
            | Self::RecoverAsk { .. } => false,
        }
    }

    /// Checks the bounds that decoding alone does not.
    ///
    /// # Errors
    /// The bound that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Accept { successor: roster, .. } | Self::Learn { roster, .. } => check_roster(roster),
            Self::Promise { accepted, .. } | Self::RecoverAnswer { accepted, .. } => {
                accepted.as_ref().map_or(Ok(()), |accepted| check_roster(&accepted.successor))
            }
            Self::LeaseRefuse { wait, .. } if *wait > limits::DEADLINE_MAX => Err("an absurd wait"),
            Self::LeaseRefuse { .. }
            | Self::Prepare { .. }
            | Self::Accepted { .. }
            | Self::Outbid { .. }
            | Self::RosterAsk { .. }
            | Self::LeaseAsk { .. }
            | Self::LeaseGrant { .. }
            | Self::RecoverAsk { .. } => Ok(()),
        }
    }
}

/// Checks the bounds of a roster, whoever made it.
pub(super) fn check_roster(roster: &Roster) -> Result<(), &'static str> {
    if roster.members.len() > limits::ROSTER_MEMBERS_MAX {
        return Err("the roster has too many members");
    }
    if roster.voter_count() == 0 {
        return Err("the roster has no voter");
    }
    if roster.voter_count() > limits::VOTERS_MAX {
        return Err("the roster has too many voters");
    }
    if roster.audit.as_ref().is_some_and(|text| text.len() > limits::AUDIT_BYTES_MAX) {
        return Err("the audit text is too long");
    }
    let mut bytes = 0;
    for seat in roster.members.values() {
        if seat.roles.len() > limits::ROLES_MAX {
            return Err("a member has too many roles");
        }
        let mut texts = seat.roles.iter().chain([&seat.zone]);
        if texts.any(|text| text.len() > limits::LABEL_BYTES_MAX) {
            return Err("a role or a zone is too long");
        }
        bytes += seat.zone.len() + seat.roles.iter().map(String::len).sum::<usize>();
    }
    if bytes > limits::ROSTER_TEXT_BYTES_MAX {
        return Err("the roles and zones of the roster are too long together");
    }
    Ok(())
}
