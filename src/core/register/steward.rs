//! The steward: which change of the roster the holder of the lease should propose next. One pure function.
//!
//! Members that live and are not in the roster are added; a voter that has failed for
//! [`VOTER_REPLACED_AFTER`](limits::VOTER_REPLACED_AFTER) gives its vote to another one, if there is one; while there
//! are fewer than [`VOTERS_MAX`](limits::VOTERS_MAX), more members are made voters; and who was away for longer
//! than the roster allows is evicted.
//!
//! Who may vote: a node without roles, or with the role `voter`. One whose roles are all others is set apart for
//! other work. Of several, one of the zone with the fewest voters is taken, then the first by name.
//!
//! It changes nothing by itself, and proposes only what the rules of the roster allow: what they refuse is passed
//! over for the next best. It does not decide how many voters there should be beyond "as many as may be".

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::rules::{RosterChange, successor};
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{Roster, Seat};

/// The role of a node that may vote; one without any role may too.
pub const VOTER_ROLE: &str = "voter";

/// What is known of one node of the mesh, in the roster or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attendance {
    /// Its roles, as it says itself.
    pub roles: Vec<String>,
    /// Its zone, as it says itself.
    pub zone: String,
    /// How long it has been away; `None`: it is here.
    pub away: Option<Duration>,
}

/// The next change, if one is due. A node of the roster that `attendance` does not name counts as here: nothing is
/// known against it.
#[must_use]
pub fn next_change(roster: &Roster, attendance: &BTreeMap<NodeId, Attendance>) -> Option<RosterChange> {
    let due = [
        eviction(roster, attendance),
        promotion(roster, attendance),
        replacement(roster, attendance),
        addition(roster, attendance),
    ];
    due.into_iter().flatten().next()
}

/// Whoever was away for longer than the roster allows; a voter is demoted in the same change.
fn eviction(roster: &Roster, attendance: &BTreeMap<NodeId, Attendance>) -> Option<RosterChange> {
    let mut gone = roster.members.keys().filter(|node| away(attendance, node) > roster.max_offline);
    gone.find_map(|node| allowed(roster, RosterChange::evict(node.clone())))
}

/// One more voter while there are fewer than the most.
fn promotion(roster: &Roster, attendance: &BTreeMap<NodeId, Attendance>) -> Option<RosterChange> {
    if roster.voter_count() >= limits::VOTERS_MAX {
        return None;
    }
    let mut candidates: Vec<_> = roster
        .members
        .iter()
        .filter(|(node, seat)| is_candidate(seat, away_or_here(attendance, node)))
        .collect();
    candidates.sort_by_key(|(node, seat)| (voters_of_zone(roster, &seat.zone), (*node).clone()));
    candidates.into_iter().find_map(|(node, seat)| {
        allowed(roster, RosterChange::put(node.clone(), Seat { voter: true, ..seat.clone() }))
    })
}

/// A voter that failed long ago gives up its vote where another one waits for the place, or where the others need
/// fewer votes without it: three of four bear no loss, two of three do. While there is room, the other one has been
/// made a voter before, so that there are never fewer than there were.
fn replacement(roster: &Roster, attendance: &BTreeMap<NodeId, Attendance>) -> Option<RosterChange> {
    let is_awaited = roster.voter_count() == limits::VOTERS_MAX
        && roster.members.iter().any(|(node, seat)| is_candidate(seat, away_or_here(attendance, node)));
    let mut failed = roster.voters().filter(|node| away(attendance, node) >= limits::VOTER_REPLACED_AFTER);
    failed.find_map(|node| {
        let seat = roster.members.get(node)?;
        let change = RosterChange::put(node.clone(), Seat { voter: false, ..seat.clone() });
        let next = successor(roster, &change).ok()??;
        (is_awaited || next.quorum() < roster.quorum()).then_some(change)
    })
}

/// All that live and are not in the roster, and those whose roles or zone are others now.
fn addition(roster: &Roster, attendance: &BTreeMap<NodeId, Attendance>) -> Option<RosterChange> {
    let room = limits::ROSTER_MEMBERS_MAX.saturating_sub(roster.members.len());
    let here = attendance.iter().filter(|(_, node)| node.away.is_none());
    let seat = |node: &NodeId, said: &Attendance| Seat {
        voter: roster.is_voter(node),
        roles: said.roles.clone(),
        zone: said.zone.clone(),
    };
    let seats = here.map(|(node, said)| (node.clone(), seat(node, said)));
    let (known, new): (BTreeMap<_, _>, BTreeMap<_, _>) =
        seats.partition(|(node, _)| roster.members.contains_key(node));
    let moved = known.into_iter().filter(|(node, seat)| roster.members.get(node) != Some(seat));
    let put: BTreeMap<_, _> = moved.chain(new.into_iter().take(room)).collect();
    if put.is_empty() {
        return None;
    }
    allowed(roster, RosterChange::Members { put, remove: BTreeSet::new() })
}

fn is_candidate(seat: &Seat, away: Option<Duration>) -> bool {
    let may_vote = seat.roles.is_empty() || seat.roles.iter().any(|role| role == VOTER_ROLE);
    !seat.voter && may_vote && away.is_none()
}

fn voters_of_zone(roster: &Roster, zone: &str) -> usize {
    roster.members.values().filter(|seat| seat.voter && seat.zone == zone).count()
}

fn away_or_here(attendance: &BTreeMap<NodeId, Attendance>, node: &NodeId) -> Option<Duration> {
    attendance.get(node).and_then(|node| node.away)
}

fn away(attendance: &BTreeMap<NodeId, Attendance>, node: &NodeId) -> Duration {
    away_or_here(attendance, node).unwrap_or_default()
}

/// The change, if it makes a difference that the rules allow.
fn allowed(roster: &Roster, change: RosterChange) -> Option<RosterChange> {
    let makes_sense = matches!(successor(roster, &change), Ok(Some(_)));
    makes_sense.then_some(change)
}
