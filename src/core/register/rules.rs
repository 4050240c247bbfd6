//! Which roster may follow which. Pure functions: proposers and voters ask the same ones.
//!
//! One change alters one voter, or the settings, or any number of members that do not vote. It is refused unless
//! every quorum of the old roster shares a node with every quorum of the new one, so that no two of them can
//! decide or hold the lease apart from each other.
//!
//! A quorum of the register is one of the roster, with one exception: where split writes are allowed
//! (`2 * quorum_size <= voters`), the register still wants more than half. Split writes are about data, which
//! can be merged afterwards; two holders of one lease cannot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::check_roster;
use crate::core::ids::NodeId;
use crate::core::model::{Epoch, Roster, Seat};

/// The settings of a roster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RosterSettings {
    /// See [`Roster::quorum_size`].
    pub quorum_size: Option<u16>,
    /// See [`Roster::tie_breaker`].
    pub tie_breaker: Option<NodeId>,
    /// See [`Roster::split_writes`].
    pub split_writes: bool,
    /// See [`Roster::max_offline`].
    pub max_offline: Duration,
}

impl RosterSettings {
    /// Those of a roster.
    #[must_use]
    pub fn of(roster: &Roster) -> Self {
        Self {
            quorum_size: roster.quorum_size,
            tie_breaker: roster.tie_breaker.clone(),
            split_writes: roster.split_writes,
            max_offline: roster.max_offline,
        }
    }
}

/// What somebody wants to be otherwise in the roster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RosterChange {
    /// The settings.
    Settings(RosterSettings),
    /// Members, of which one voter at most is altered, and then nothing else.
    Members {
        /// Added, or given another seat.
        put: BTreeMap<NodeId, Seat>,
        /// Evicted.
        remove: BTreeSet<NodeId>,
    },
    /// Nothing of its own: a change that was begun and not finished is brought to its end, if there is one.
    FinishPending,
}

impl RosterChange {
    /// One member is added or given another seat.
    #[must_use]
    pub fn put(node: NodeId, seat: Seat) -> Self {
        Self::Members { put: [(node, seat)].into(), remove: BTreeSet::new() }
    }

    /// One member is evicted.
    #[must_use]
    pub fn evict(node: NodeId) -> Self {
        Self::Members { put: BTreeMap::new(), remove: [node].into() }
    }
}

/// Why a change of the roster did not happen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum RegisterError {
    /// There is no roster yet, or there is one already. Nothing changed.
    #[error("{0}; nothing changed")]
    NotNow(String),
    /// Another node holds the lease, or nobody does. Nothing changed.
    #[error("{}; nothing changed", holder.as_ref().map_or_else(
        || "the roster is changed by the holder of the lease, and there is none without a quorum: `shoal cluster status` says why".to_owned(),
        |holder| format!("the roster is changed by the holder of the lease, {holder}: ask it"),
    ))]
    NotHolder {
        /// The holder, as far as this node knows.
        holder: Option<NodeId>,
    },
    /// The rules forbid it. Nothing changed.
    #[error("the change of the roster is refused: {why}; nothing changed")]
    Forbidden {
        /// The rule that it breaks.
        why: String,
    },
    /// Too many wait. Nothing changed.
    #[error("too many changes of the roster are waiting: try again later; nothing changed")]
    Overloaded,
    /// No quorum answered in time. The change may still come about: it is finished or replaced by the next one.
    #[error(
        "no quorum of the voters answered; missing: {}. The change may still come about, see `shoal cluster status`",
        list(missing)
    )]
    NoQuorum {
        /// Voters that did not answer.
        missing: Vec<NodeId>,
    },
    /// The disk did not take it. The change may still come about.
    #[error("the change could not be stored here; it may still come about")]
    StoreFailed,
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ")
}

/// Whether these nodes are enough to decide and to grant the lease under a roster.
#[must_use]
pub fn agrees(roster: &Roster, nodes: &BTreeSet<NodeId>) -> bool {
    let present = nodes.iter().filter(|node| roster.is_voter(node)).count();
    roster.is_quorum(nodes) && (!roster.can_split() || 2 * present > roster.voter_count())
}

/// Whether every quorum has one of these nodes in it, even if `without` is left out.
#[must_use]
pub(super) fn meets_every_quorum(roster: &Roster, nodes: &BTreeSet<NodeId>, without: &NodeId) -> bool {
    let others = roster.voters().filter(|voter| *voter == without || !nodes.contains(*voter));
    !agrees(roster, &others.cloned().collect())
}

/// The roster that a change makes of this one; `None` if it makes no difference.
///
/// # Errors
/// [`RegisterError::Forbidden`] with the rule that the change breaks.
pub fn successor(roster: &Roster, change: &RosterChange) -> Result<Option<Roster>, RegisterError> {
    let mut next = roster.clone();
    match change {
        RosterChange::Settings(settings) => {
            next.quorum_size = settings.quorum_size;
            next.tie_breaker.clone_from(&settings.tie_breaker);
            next.split_writes = settings.split_writes;
            next.max_offline = settings.max_offline;
        }
        RosterChange::Members { put, remove } => {
            next.members.retain(|node, _| !remove.contains(node));
            next.members.extend(put.clone());
        }
        RosterChange::FinishPending => {}
    }
    if next == *roster {
        return Ok(None);
    }
    next.epoch = roster.epoch.next();
    check_successor(roster, &next).map_err(|why| RegisterError::Forbidden { why: why.into() })?;
    Ok(Some(next))
}

/// Whether one roster may follow another in the same chain.
///
/// # Errors
/// The rule that is broken.
pub fn check_successor(old: &Roster, new: &Roster) -> Result<(), &'static str> {
    if new.epoch != old.epoch.next() || new.audit != old.audit {
        return Err("it is not the next roster of this chain");
    }
    check_alone(new)?;
    let voters_altered = voters_altered(old, new);
    let settings_altered = RosterSettings::of(old) != RosterSettings::of(new);
    let others_altered = others_altered(old, new);
    if voters_altered > 1 {
        return Err("it alters more than one voter: change one after the other");
    }
    if usize::from(voters_altered > 0) + usize::from(settings_altered) + usize::from(others_altered) > 1 {
        return Err("it alters a voter, settings and other members at once: change one after the other");
    }
    if !quorums_meet(old, new) {
        return Err("a quorum of before and one of afterwards could decide apart from each other");
    }
    Ok(())
}

/// Whether a roster makes sense by itself.
///
/// # Errors
/// The rule that is broken.
pub fn check_alone(roster: &Roster) -> Result<(), &'static str> {
    check_roster(roster)?;
    let quorum = roster.quorum();
    if quorum == 0 || quorum > roster.voter_count() {
        return Err("a quorum has one voter at least, and no more than there are");
    }
    if roster.can_split() && !roster.split_writes {
        return Err("two halves of the voters could both be a quorum: allow split writes if that is meant");
    }
    if roster.tie_breaker.as_ref().is_some_and(|node| !roster.is_voter(node)) {
        return Err("the tie-breaker is no voter: choose another one first");
    }
    Ok(())
}

fn voters_altered(old: &Roster, new: &Roster) -> usize {
    let nodes: BTreeSet<_> = old.members.keys().chain(new.members.keys()).collect();
    nodes.into_iter().filter(|node| old.is_voter(node) != new.is_voter(node)).count()
}

/// Whether a member is altered otherwise than by becoming a voter or ceasing to be one.
fn others_altered(old: &Roster, new: &Roster) -> bool {
    let nodes: BTreeSet<_> = old.members.keys().chain(new.members.keys()).collect();
    let mut unvoted = nodes.into_iter().filter(|node| old.is_voter(node) == new.is_voter(node));
    unvoted.any(|node| old.members.get(node) != new.members.get(node))
}

/// Walks all groups of the old voters: there are at most [`VOTERS_MAX`](crate::core::limits::VOTERS_MAX) of them.
fn quorums_meet(old: &Roster, new: &Roster) -> bool {
    let voters: Vec<_> = old.voters().cloned().collect();
    (0..1_u32 << voters.len()).all(|chosen| {
        let within = |at: &usize| chosen >> at & 1 == 1;
        let group: BTreeSet<_> = (0..voters.len()).filter(within).map(|at| voters[at].clone()).collect();
        let rest = new.voters().filter(|node| !group.contains(*node)).cloned().collect();
        !agrees(old, &group) || !agrees(new, &rest)
    })
}

/// The first roster of a mesh: one node, which votes.
pub(super) fn first(own: NodeId, seat: Seat, settings: RosterSettings, chain_id: u64) -> Roster {
    Roster {
        epoch: Epoch { chain: 1, chain_id, order: 1 },
        members: [(own, Seat { voter: true, ..seat })].into(),
        quorum_size: settings.quorum_size,
        tie_breaker: settings.tie_breaker,
        split_writes: settings.split_writes,
        max_offline: settings.max_offline,
        audit: None,
    }
}

/// The first roster of a new chain that overrules `old`: only these members of it stay.
///
/// A quorum size that those voters cannot meet, and a tie-breaker that is not among them, are dropped.
pub(super) fn forced(old: &Roster, keep: &BTreeSet<NodeId>, chain_id: u64, audit: String) -> Roster {
    let mut new = old.clone();
    new.epoch = Epoch { chain: old.epoch.chain + 1, chain_id, order: 1 };
    new.members.retain(|node, _| keep.contains(node));
    new.audit = Some(audit);
    if new.tie_breaker.as_ref().is_some_and(|node| !new.is_voter(node)) {
        new.tie_breaker = None;
    }
    if new.quorum() > new.voter_count() || (new.can_split() && !new.split_writes) {
        new.quorum_size = None;
    }
    new
}
