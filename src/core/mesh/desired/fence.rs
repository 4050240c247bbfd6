//! What an instance may do in the mesh, and until when: one that another instance has replaced does nothing more.
//!
//! # Writes
//!
//! A write of an agent that fills a slot carries the slot and the epoch of the order by which it runs. Merging never refuses
//! a write, because equal clocks must mean equal state; so a replaced instance is stopped at four other places:
//!
//! 1. where its write would be minted: a node ends what it is not to run, and mints nothing for what has ended, nor for one in whose
//!    place another was started because this node was taken for lost. An exclusive instance needs its permit at that moment as well;
//! 2. where it would cover what a later instance of the slot wrote ([`State::write`](crate::core::state::State::write));
//! 3. where it was queued among a minority and is to be replayed: by then the node has heard of later orders, and a slot that has
//!    been another node's since rejects the ticket;
//! 4. where values stand beside each other: those of the earlier instance are left out when a key is read.
//!
//! # Messages
//!
//! A message of such an agent carries the last order for its slot that its node has heard of. Whoever knows an instance of
//! the slot that runs by a later one refuses it ([`SendError::Superseded`](crate::core::error::SendError::Superseded)). It is
//! not the order by which the sender runs that counts: an instance that is to end finishes what it has begun, within its
//! deadline, and may ask others for that; its node knows. One whose node does not know is of another time.
//!
//! # What is not promised
//!
//! An instance that is relieved writes on until the one that takes over has begun, and until it has finished what it has
//! begun: never over what the other one wrote. A write that was minted in time and stored late, because its process stood still
//! between the two, is not called back: it is read only where no later instance has written the key. What agents do outside
//! the mesh no node can fence.

use std::collections::BTreeMap;

use super::super::Mesh;
use super::follow::Followed;
use crate::core::error::Refusal;
use crate::core::ids::AgentName;
use crate::core::model::{Mode, OnCut, Order, OrderEpoch, Slot};

impl Mesh {
    /// What an agent of this node writes under now: its slot, or nothing where it fills none.
    ///
    /// # Errors
    /// As [`Self::run_of`]; `read_only` when it may not write now.
    pub(in crate::core::mesh) fn slot_of_writer(&self, agent: &AgentName) -> Result<Option<Slot>, Refusal> {
        let Some(followed) = self.run_of(agent)? else {
            return Ok(None);
        };
        let mode = self.shared.mode();
        if mode != Mode::Healthy && self.desired.on_cut(agent, followed.digest) == OnCut::ReadOnly {
            let why =
                format!("{} is {mode}, and the blueprint of {agent} says `on_cut: read-only`", self.own);
            return Err(refused("read_only", why));
        }
        Ok(Some(Slot { name: agent.to_string(), epoch: followed.epoch }))
    }

    /// By which order an agent of this node writes and sends now; nothing where it fills no slot.
    ///
    /// # Errors
    /// `superseded` or `not_permitted`, when it may do neither any more.
    pub(in crate::core::mesh) fn run_of(&self, agent: &AgentName) -> Result<Option<&Followed>, Refusal> {
        if agent.slot().is_none() {
            return Ok(None);
        }
        let ending = || self.desired.ending.get(agent).filter(|_| self.may_finish(agent));
        let Some(followed) = self.desired.followed.get(agent).or_else(ending) else {
            let why = format!(
                "{agent} runs by no order on {} any more: another instance takes its place",
                self.own
            );
            return Err(refused("superseded", why));
        };
        if self.desired.is_exclusive(agent) && self.permits.holder.until(agent, self.now).is_none() {
            return Err(refused("not_permitted", format!("the permit of {agent} on {} is over", self.own)));
        }
        Ok(Some(followed))
    }

    /// Whether an instance of this node that is to end may still write and send: it is relieved, updated or not wanted any more. One
    /// in whose place the mesh has started another, because it took this node for lost, may not.
    fn may_finish(&self, slot: &AgentName) -> bool {
        let post = self.desired.orders.get(slot).and_then(|order| order.post.as_ref());
        post.is_none_or(|post| post.node == self.own || post.relieves.as_ref() == Some(&self.own))
    }

    /// The last orders that this node has heard of for the slots that it runs, from their givers or from those who run by them.
    pub(in crate::core::mesh) fn heard_orders(&self) -> BTreeMap<AgentName, OrderEpoch> {
        let run = self.desired.followed.iter().chain(&self.desired.ending);
        let mut heard: BTreeMap<_, _> = run.map(|(slot, run)| (slot.clone(), run.epoch)).collect();
        for (slot, known) in heard.iter_mut().filter(|(slot, _)| self.may_finish(slot)) {
            *known = self.desired.orders.get(slot).map_or(*known, |order| order.epoch.max(*known));
        }
        if heard.is_empty() {
            return heard;
        }
        // It is asked for with each view: one pass over what is known, however much runs here.
        for (slot, record) in self.registry.owners().flat_map(|(_, owner)| &owner.agents) {
            if let Some(order) = record.order
                && let Some(known) = heard.get_mut(slot).filter(|known| **known < order)
                && self.may_finish(slot)
            {
                *known = order;
            }
        }
        heard
    }

    /// Why a write that was queued here under a slot is not to be made, if it is not. A later order that names this node is no reason
    /// where the slot has been this node's ever since.
    pub(in crate::core::mesh) fn why_superseded(&self, slot: &Slot) -> Option<String> {
        let name = AgentName::new(&slot.name).ok()?;
        let Order { epoch: holds, post, since, .. } = self.desired.orders.get(&name)?;
        let is_own = post.as_ref().is_some_and(|post| post.node == self.own);
        if *holds <= slot.epoch || (is_own && *since <= slot.epoch) {
            return None;
        }
        let ours = slot.epoch;
        Some(match post {
            Some(_) => {
                format!(
                    "{name} was given to another node since it wrote this under {ours}, now by {holds}: it has been replaced"
                )
            }
            None => format!("{name} was ended by {holds} since it wrote this under {ours}"),
        })
    }
}

fn refused(code: &str, why: String) -> Refusal {
    Refusal::BadWrite { code: code.to_owned(), why }
}
