//! Leaving the mesh for good: whatever only this node has goes to others first, then the roster goes on without it,
//! and only then it forgets.
//!
//! In this order because the last step cannot be undone. A node that forgot first would take with it the writes that
//! it has acknowledged and nobody else has yet; and of five nodes that leave three at a time, the other two would be
//! left without a quorum. So whoever leaves is a member until a quorum has agreed that it is none: a mesh that is
//! in no state to agree to that says so, and the node stays.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::{Mesh, Pending, Phase, Requester};
use crate::core::contract::{Change, Table};
use crate::core::error::Refusal;
use crate::core::ids::{NodeId, NodeKey};
use crate::core::model::Clock;
use crate::core::register::{RosterChange, successor};
use crate::core::time::Instant;
use crate::core::wire::{Control, RequestBody, ResponseBody, StateDelta, StateRequest};

/// How long the mesh may take to let a node go, before it stays.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who is evicted at its own wish is not taken in again for so long, although it is still there.
const GOING: Duration = Duration::from_secs(30);

/// A node on its way out.
#[derive(Debug)]
pub(super) struct Farewell {
    asked_by: Vec<Requester>,
    drain: Duration,
    since: Instant,
    stage: Stage,
    /// Why the mesh did not let it go when it last asked.
    refused: Option<Refusal>,
}

#[derive(Debug)]
enum Stage {
    /// Its queued writes are being made.
    Emptying,
    /// Others take over all of this.
    HandingOver(Clock),
    /// The roster is to go on without it; whether that was asked and not yet answered.
    Withdrawing { asked: bool },
}

impl Mesh {
    /// This node leaves the mesh for good, with `force` whatever that costs.
    pub(in crate::core::mesh) fn leave_mesh(&mut self, requester: Requester, drain: Duration, force: bool) {
        if let Some(farewell) = &mut self.shared.farewell {
            farewell.asked_by.push(requester);
            if force {
                self.forget_mesh();
            }
            return;
        }
        let farewell = Farewell {
            asked_by: vec![requester],
            drain,
            since: self.now,
            stage: Stage::Emptying,
            refused: None,
        };
        self.shared.farewell = Some(farewell);
        let roster = self.shared.register.roster();
        let has_nothing = self.shared.queued() == 0 && self.shared.state.clock().is_empty();
        let alone = roster.map_or(has_nothing, |roster| roster.members.keys().all(|node| *node == self.own));
        if force || alone {
            return self.forget_mesh();
        }
        let evicted = roster.map(|roster| successor(roster, &RosterChange::evict(self.own.clone())));
        if let Some(Err(error)) = evicted {
            return self.stay(&error.to_string());
        }
        self.tend_farewell();
        self.hand_over();
    }

    /// Whether this node is about to leave, and makes no writes for clients any more.
    pub(super) fn is_leaving(&self) -> bool {
        self.shared.has_left || self.shared.farewell.is_some()
    }

    pub(super) fn leaving(&self) -> Refusal {
        Refusal::NodeDown { node: self.own.clone(), status: "leaving".to_owned() }
    }

    /// Takes the next steps that can be taken.
    pub(super) fn tend_farewell(&mut self) {
        while let Some(farewell) = &self.shared.farewell {
            if self.now.since(farewell.since) >= PATIENCE {
                return self.stay_for_time();
            }
            let next = match &farewell.stage {
                Stage::Emptying if self.shared.queued() > 0 || !self.shared.awaiting.is_empty() => return,
                Stage::Emptying => Stage::HandingOver(self.shared.state.clock().clone()),
                Stage::HandingOver(clock) if self.is_handed_over(clock) => {
                    Stage::Withdrawing { asked: false }
                }
                Stage::HandingOver(_) => return,
                Stage::Withdrawing { .. } if !self.is_in_roster() => return self.forget_mesh(),
                Stage::Withdrawing { asked: true } => return,
                Stage::Withdrawing { asked: false } => return self.withdraw(),
            };
            if let Some(farewell) = &mut self.shared.farewell {
                farewell.stage = next;
            }
        }
    }

    fn is_in_roster(&self) -> bool {
        self.shared.register.roster().is_some_and(|roster| roster.members.contains_key(&self.own))
    }

    /// Whether a quorum has all of it on its disks, this node's counted in, and at least one besides this.
    fn is_handed_over(&self, clock: &Clock) -> bool {
        let Some(roster) = self.shared.register.roster() else {
            return true;
        };
        let voters = roster.voters().filter(|node| **node != self.own);
        let mut have: BTreeSet<_> = voters.filter(|node| self.has_all(node, clock)).cloned().collect();
        !have.is_empty() && {
            have.insert(self.own.clone());
            roster.is_quorum(&have)
        }
    }

    fn has_all(&self, node: &NodeId, clock: &Clock) -> bool {
        self.shared.floors.told_by(node).is_some_and(|told| told.covers(clock))
    }

    /// Asks everybody what is on their disks, now and then. Who lacks something compares by itself.
    pub(super) fn hand_over(&mut self) {
        let asks = |farewell: &Farewell| matches!(farewell.stage, Stage::HandingOver(_));
        if !self.shared.farewell.as_ref().is_some_and(asks) {
            return;
        }
        let (base, _) = self.base();
        let nothing = StateDelta { updates: vec![], closes: vec![], base, hops: 0, ack: true };
        let mut to = self.linked();
        to.retain(|key| self.is_member(key));
        for key in to {
            self.send_control(&key, Control::State(nothing.clone()));
        }
    }

    /// Asks for a roster without this node.
    fn withdraw(&mut self) {
        if let Some(Farewell { stage: Stage::Withdrawing { asked }, .. }) = &mut self.shared.farewell {
            *asked = true;
        }
        let request = StateRequest::Evict { node: self.own.clone() };
        self.request(Requester::Own, self.own.clone(), RequestBody::State(request));
    }

    /// The mesh has answered whether this node may go.
    pub(in crate::core::mesh) fn on_withdrawn(&mut self, result: Result<ResponseBody, Refusal>) {
        let Some(farewell) = &mut self.shared.farewell else {
            return;
        };
        match result {
            Ok(_) => self.forget_mesh(),
            Err(refusal) => {
                farewell.refused = Some(refusal);
                farewell.stage = Stage::Withdrawing { asked: false };
            }
        }
    }

    /// Nothing is left to do for the mesh: what it shared goes with it, and nothing is stored behind this.
    fn forget_mesh(&mut self) {
        let Some(Farewell { asked_by, drain, .. }) = self.shared.farewell.take() else {
            return;
        };
        self.shared.has_left = true;
        let tables = Table::ALL.map(Change::Clear);
        let changes = [Change::LeaveMesh].into_iter().chain(tables).collect();
        self.persist(changes, Pending::LeaveMesh { requesters: asked_by, drain });
    }

    fn stay_for_time(&mut self) {
        let Some(farewell) = &self.shared.farewell else {
            return;
        };
        let why = match (&farewell.stage, &farewell.refused) {
            (Stage::Emptying, _) => {
                format!("{} queued writes wait for a majority", self.shared.queued())
            }
            (Stage::HandingOver(_), _) => {
                "no quorum has confirmed that it has all of this node's writes".to_owned()
            }
            (Stage::Withdrawing { .. }, Some(refusal)) => format!("the roster still has it: {refusal}"),
            (Stage::Withdrawing { .. }, None) => "the roster still has it: nobody has answered".to_owned(),
        };
        self.stay(&why);
    }

    /// This node does not leave after all.
    fn stay(&mut self, why: &str) {
        let Some(Farewell { asked_by, .. }) = self.shared.farewell.take() else {
            return;
        };
        let why = format!(
            "it stays in the mesh: {why}; try again when that is over, or leave with force, which loses what \
            only this node has"
        );
        tracing::warn!(why, "this node was told to leave");
        for requester in asked_by {
            self.answer(requester, Err(Refusal::Barred { node: self.own.clone(), why: why.clone() }));
        }
    }

    /// This node stops before the mesh has let it go.
    pub(in crate::core::mesh) fn break_off_farewell(&mut self) {
        if matches!(self.phase, Phase::Running)
            && let Some(Farewell { asked_by, .. }) = self.shared.farewell.take()
        {
            let (node, status) = (self.own.clone(), "stopping");
            for requester in asked_by {
                self.answer(
                    requester,
                    Err(Refusal::NodeDown { node: node.clone(), status: status.to_owned() }),
                );
            }
        }
    }

    /// A member asks to be evicted: the steward does not take it in again.
    pub(super) fn note_going(&mut self, requester: Requester, node: &NodeId) {
        let is_own_wish = match requester {
            Requester::Remote(key, _) => node.key() == key,
            Requester::Own => true,
            Requester::Local(_) => false,
        };
        if is_own_wish {
            self.shared.going.insert(node.key(), self.now);
        }
    }

    pub(super) fn is_going(&self, key: &NodeKey) -> bool {
        self.shared.going.get(key).is_some_and(|since| self.now.since(*since) < GOING)
    }

    pub(super) fn forget_gone(&mut self) {
        let now = self.now;
        self.shared.going.retain(|_, since| now.since(*since) < GOING);
    }
}
