//! Leaving the mesh for good: the instances of blueprints go elsewhere first, then whatever only this node has goes to others,
//! then the roster goes on without it, and only then it forgets.
//!
//! Its instances go while it is a member like any other: it says that it leaves, and whoever gives the orders moves them as from
//! a node that is drained, each running elsewhere before it ends here. That takes no longer than its agents have to finish;
//! what has not gone by then ends with it, and whoever asked is told. While there is no majority nobody can move anything: a node waits
//! for one to come back, as long as that is likely, and no longer than its agents have.
//!
//! In this order because the last step cannot be undone. A node that forgot first would take with it the writes that
//! it has acknowledged and nobody else has yet; and of five nodes that leave three at a time, the other two would be
//! left without a quorum. So whoever leaves is a member until a quorum has agreed that it is none: a mesh that is
//! in no state to agree to that says so, and the node stays.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::{Mesh, Pending, Requester};
use super::writes::Durable;
use crate::core::contract::{Change, Table};
use crate::core::error::Refusal;
use crate::core::ids::{AgentName, NodeId, NodeKey};
use crate::core::limits;
use crate::core::model::{Clock, Mode};
use crate::core::register::{RosterChange, successor};
use crate::core::time::Instant;
use crate::core::wire::{Control, RequestBody, ResponseBody, StateDelta, StateRequest};

/// How long others may take to have what this node has, before it stays.
const PATIENCE: Duration = Duration::from_secs(10);
/// For so long without a break a node may be without a majority before it counts on nobody who could move what it runs.
const MAJORITY_PATIENCE: Duration = Duration::from_secs(10);
/// Who is evicted at its own wish is not taken in again for so long, although it is still there.
const GOING: Duration = Duration::from_secs(10);

/// A node on its way out.
#[derive(Debug)]
pub(super) struct Farewell {
    asked_by: Vec<Requester>,
    drain: Duration,
    since: Instant,
    stage: Stage,
    /// Since when there has been no majority that could move what it runs.
    alone_since: Option<Instant>,
    /// What others take over.
    clock: Clock,
    /// Who has told what is on its disk since then: what was told before may come from one that leaves as well.
    told: BTreeSet<NodeId>,
    /// Why the mesh did not let it go when it last asked.
    refused: Option<Refusal>,
}

#[derive(Debug)]
enum Stage {
    /// What it runs by order goes to others. It is a member like any other, and gives orders if it holds the lease.
    Relieving,
    /// Its writes are being made, those under way and the queued ones, and its messages delivered.
    Emptying,
    /// Others take over its writes. From here on it answers for nobody's writes: who leaves at the same time must
    /// not count on it.
    HandingOver,
    /// The roster is to go on without it; whether that was asked and not yet answered.
    Withdrawing { asked: bool },
    /// It is out; a quorum of the others is to know that before it forgets what it has agreed to.
    Parting,
}

impl Mesh {
    /// This node leaves the mesh for good, with `force` whatever that costs.
    pub(in crate::core::mesh) fn leave_mesh(&mut self, requester: Requester, drain: Duration, force: bool) {
        let leaving = self.pending.values_mut().find_map(|(_, then)| {
            let Pending::LeaveMesh { requesters, .. } = then else {
                return None;
            };
            Some(requesters)
        });
        let asked_by = leaving.or(self.shared.farewell.as_mut().map(|farewell| &mut farewell.asked_by));
        if let Some(asked_by) = asked_by {
            if asked_by.len() >= limits::REQUESTS_IN_FLIGHT_MAX {
                let what = format!("the list of those who wait for {} to leave", self.own);
                return self.answer(requester, Err(Refusal::Overloaded { what }));
            }
            asked_by.push(requester);
            if force {
                self.forget_mesh();
            }
            return;
        }
        let farewell = Farewell {
            asked_by: vec![requester],
            drain,
            since: self.now,
            stage: if force || drain.is_zero() { Stage::Emptying } else { Stage::Relieving },
            alone_since: None,
            clock: Clock::default(),
            told: BTreeSet::new(),
            refused: None,
        };
        let dead = self.outbox.dead();
        if dead > 0 && !force {
            let why = format!(
                "{dead} dead letters would be lost with it: see `shoal dead-letters`, or --force leaves them behind"
            );
            return self.answer(requester, Err(Refusal::Barred { node: self.own.clone(), why }));
        }
        self.shared.farewell = Some(farewell);
        let roster = self.shared.register.roster();
        let has_nothing = self.shared.queued() == 0 && self.shared.state.clock().is_empty();
        let may_go = self.outbox.is_empty() && (self.is_alone() || (roster.is_none() && has_nothing));
        if force || may_go {
            return self.forget_mesh();
        }
        let others = roster.filter(|_| !self.is_alone());
        let evicted = others.map(|roster| successor(roster, &RosterChange::evict(self.own.clone())));
        if let Some(Err(error)) = evicted {
            return self.stay(&error.to_string());
        }
        if self.is_relieving() {
            self.tell_leaving(true);
        }
        self.tend_farewell();
        self.hand_over();
    }

    /// Whether nobody else belongs to the mesh, nor is about to.
    fn is_alone(&self) -> bool {
        let roster = self.shared.register.roster();
        let is_last = roster.is_some_and(|roster| roster.members.keys().all(|node| *node == self.own));
        is_last && self.links.all_proven().next().is_none()
    }

    /// Whether this node is about to leave, and makes no writes for clients any more.
    pub(in crate::core::mesh) fn is_leaving(&self) -> bool {
        self.shared.has_left || (self.shared.farewell.is_some() && !self.is_relieving())
    }

    fn is_relieving(&self) -> bool {
        let stage = self.shared.farewell.as_ref().map(|farewell| &farewell.stage);
        matches!(stage, Some(Stage::Relieving))
    }

    /// Goes on once nothing runs here by order, nobody has been able to give orders for long, or the time for that is over.
    fn relieve(&mut self) {
        let now = self.now;
        let is_among_majority = self.shared.mode() == Mode::Healthy;
        let Some(farewell) = &mut self.shared.farewell else {
            return;
        };
        farewell.alone_since = if is_among_majority { None } else { farewell.alone_since.or(Some(now)) };
        let took = now.since(farewell.since);
        let is_given_up = farewell.alone_since.is_some_and(|since| now.since(since) >= MAJORITY_PATIENCE);
        let is_over = took >= farewell.drain || is_given_up;
        let left = self.ordered_here();
        if !left.is_empty() && !is_over && !self.is_alone() {
            return;
        }
        if !left.is_empty() {
            let slots = left.iter().map(AgentName::as_str).collect::<Vec<_>>().join(", ");
            tracing::warn!(slots, "it leaves, though these instances do not run elsewhere yet");
        }
        self.desired_left_behind(left);
        if let Some(farewell) = &mut self.shared.farewell {
            farewell.drain = farewell.drain.saturating_sub(took);
            (farewell.since, farewell.stage) = (now, Stage::Emptying);
        }
    }

    pub(in crate::core::mesh) fn leaving(&self) -> Refusal {
        Refusal::NodeDown { node: self.own.clone(), status: "leaving".to_owned() }
    }

    /// Whether others may count on what is on this node's disk.
    pub(super) fn answers_for_writes(&self) -> bool {
        let is_emptying = |farewell: &Farewell| matches!(farewell.stage, Stage::Relieving | Stage::Emptying);
        !self.shared.has_left && self.shared.farewell.as_ref().is_none_or(is_emptying)
    }

    /// Takes the next steps that can be taken.
    pub(super) fn tend_farewell(&mut self) {
        if self.is_relieving() {
            self.relieve();
        }
        while let Some(farewell) = &self.shared.farewell {
            let since = self.now.since(farewell.since);
            let patience = match &farewell.stage {
                // What was asked may happen: its end is awaited.
                Stage::Withdrawing { asked: true } | Stage::Parting => limits::LEAVE_DEADLINE,
                Stage::Relieving => return,
                Stage::Emptying | Stage::HandingOver | Stage::Withdrawing { asked: false } => PATIENCE,
            };
            if since >= patience {
                return self.stay_for_time();
            }
            let next = match &farewell.stage {
                Stage::Relieving => return,
                Stage::Emptying if self.has_writes_under_way() => return,
                Stage::Emptying => Stage::HandingOver,
                _ if self.is_alone() => return self.forget_mesh(),
                Stage::HandingOver if self.is_handed_over(farewell) => Stage::Withdrawing { asked: false },
                Stage::HandingOver => return,
                Stage::Withdrawing { .. } if !self.is_in_roster() => Stage::Parting,
                Stage::Withdrawing { asked: true } => return,
                Stage::Withdrawing { asked: false } => return self.withdraw(),
                // Whoever holds the lease now has taken it in again.
                Stage::Parting if self.is_in_roster() => Stage::Withdrawing { asked: false },
                Stage::Parting if self.is_known_to_be_out(farewell) => return self.forget_mesh(),
                Stage::Parting => return,
            };
            let clock = self.shared.state.clock();
            if let Some(farewell) = &mut self.shared.farewell {
                if matches!(next, Stage::HandingOver) {
                    farewell.clock = clock.clone();
                }
                farewell.stage = next;
            }
        }
    }

    fn has_writes_under_way(&self) -> bool {
        let is_write =
            |then: &Pending| matches!(then, Pending::Shared(Durable::Write { .. } | Durable::Enqueue { .. }));
        self.shared.queued() > 0
            || !self.shared.awaiting.is_empty()
            || !self.outbox.is_empty()
            || self.outbox.dead() > 0
            || self.pending.values().any(|(_, then)| is_write(then))
    }

    fn is_in_roster(&self) -> bool {
        self.shared.register.roster().is_some_and(|roster| roster.members.contains_key(&self.own))
    }

    /// Whether a quorum has all of it on its disks, this node's counted in, and at least one besides this.
    fn is_handed_over(&self, farewell: &Farewell) -> bool {
        let Some(roster) = self.shared.register.roster() else {
            return true;
        };
        let has_all = |node: &&NodeId| **node != self.own && self.has_taken_over(node, farewell);
        let mut have: BTreeSet<_> = roster.voters().filter(has_all).cloned().collect();
        let nobody = have.is_empty();
        have.insert(self.own.clone());
        !nobody && roster.is_quorum(&have)
    }

    fn has_taken_over(&self, node: &NodeId, farewell: &Farewell) -> bool {
        let told = self.shared.floors.told_by(node).filter(|_| farewell.told.contains(node));
        told.is_some_and(|told| told.covers(&farewell.clock))
    }

    /// A member has told what is on its disk.
    pub(super) fn note_told(&mut self, from: &NodeId) {
        if let Some(farewell) = &mut self.shared.farewell
            && !matches!(farewell.stage, Stage::Relieving | Stage::Emptying)
        {
            farewell.told.insert(from.clone());
        }
    }

    /// Whether a quorum of the roster without this node has that, and what it has handed over, on its disks.
    fn is_known_to_be_out(&self, farewell: &Farewell) -> bool {
        self.shared.register.roster().is_none_or(|roster| {
            let knows = |node: &&NodeId| {
                self.shared.floors.epoch_of(node) >= Some(roster.epoch) && self.has_taken_over(node, farewell)
            };
            roster.is_quorum(&roster.voters().filter(knows).cloned().collect())
        })
    }

    /// Asks the voters, now and then, what is on their disks, and whoever may lack something to compare.
    pub(super) fn hand_over(&mut self) {
        let asks = |farewell: &Farewell| matches!(farewell.stage, Stage::HandingOver | Stage::Parting);
        let roster = self.shared.register.roster();
        let Some(roster) = roster.filter(|_| self.shared.farewell.as_ref().is_some_and(asks)) else {
            return;
        };
        let voters: Vec<_> = roster.voters().filter(|node| **node != self.own).map(NodeId::key).collect();
        let (base, _) = self.base();
        let nothing = StateDelta { updates: vec![], closes: vec![], base, hops: 0, ack: true };
        for key in voters {
            self.tell_member_soon(&key, Control::State(nothing.clone()));
            if let Some(link) = self.links.proven(&key) {
                self.send_summary(link);
            }
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

    /// The mesh has answered whether this node may go. When it may, its own register is about to learn it.
    pub(in crate::core::mesh) fn on_withdrawn(&mut self, result: Result<ResponseBody, Refusal>) {
        if let Some(farewell) = &mut self.shared.farewell
            && matches!(farewell.stage, Stage::Withdrawing { asked: true })
            && let Err(refusal) = result
            && !matches!(&refusal, Refusal::UnknownNode { node } if *node == self.own)
        {
            farewell.refused = Some(refusal);
            farewell.stage = Stage::Withdrawing { asked: false };
        }
    }

    /// Nothing is left to do for the mesh: what it shared goes with it, and nothing is stored behind this.
    fn forget_mesh(&mut self) {
        let Some(Farewell { asked_by, drain, .. }) = self.shared.farewell.take() else {
            return;
        };
        self.drop_own_requests();
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
            (Stage::Relieving | Stage::Emptying, _) => {
                let queued = self.shared.queued();
                let (letters, dead) = (self.outbox.len(), self.outbox.dead());
                format!(
                    "{queued} queued writes, or others under way, wait for a majority or the disk, and {letters} messages \
                     to be delivered; {dead} dead letters would be lost"
                )
            }
            (Stage::HandingOver, _) => {
                "no quorum has confirmed that it has all of this node's writes".to_owned()
            }
            (Stage::Withdrawing { .. } | Stage::Parting, refused) => {
                let refused = refused.as_ref().map(|refusal| format!(" ({refusal})")).unwrap_or_default();
                let reason = format!(
                    "no quorum has confirmed in time that it goes on without this node{refused}, which stays; if \
                    the others have agreed to it, they take it in again"
                );
                return self.refuse_to_leave(&Refusal::NoAnswer { node: self.own.clone(), reason });
            }
        };
        self.stay(&why);
    }

    /// This node does not leave after all.
    fn stay(&mut self, why: &str) {
        let why = format!(
            "it stays in the mesh: {why}; try again when that is over, or leave with force, which loses what \
            only this node has"
        );
        self.refuse_to_leave(&Refusal::Barred { node: self.own.clone(), why });
    }

    fn refuse_to_leave(&mut self, refusal: &Refusal) {
        let Some(Farewell { asked_by, .. }) = self.shared.farewell.take() else {
            return;
        };
        self.drop_own_requests();
        self.tell_leaving(false);
        self.desired_left_behind(vec![]);
        // What it has kept back meanwhile.
        self.shared.floors.tell_again();
        tracing::warn!(%refusal, "this node was told to leave");
        asked_by.into_iter().for_each(|requester| self.answer(requester, Err(refusal.clone())));
    }

    /// An answer to what this farewell has asked is not one to the next.
    fn drop_own_requests(&mut self) {
        self.requests.retain(|_, open| open.requester != Requester::Own);
    }

    /// This node stops before the mesh has let it go.
    pub(in crate::core::mesh) fn break_off_farewell(&mut self) {
        self.refuse_to_leave(&Refusal::NodeDown { node: self.own.clone(), status: "stopping".to_owned() });
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

    pub(in crate::core::mesh) fn is_going(&self, key: &NodeKey) -> bool {
        self.shared.going.get(key).is_some_and(|since| self.now.since(*since) < GOING)
    }

    pub(super) fn forget_gone(&mut self) {
        let now = self.now;
        self.shared.going.retain(|_, since| now.since(*since) < GOING);
    }
}
