//! What an instance may do in the mesh, and until when: one that another instance has replaced does nothing more.
//!
//! # Writes
//!
//! A write of an agent that fills a slot carries the slot and the epoch of the order by which it runs. Merging never refuses
//! a write, because equal clocks must mean equal state; so a replaced instance is stopped at four other places:
//!
//! 1. where its write would be minted: a node ends what it is not to run, and mints nothing for what has ended. An exclusive
//!    instance needs its permit at that moment as well;
//! 2. where it would cover what a later instance of the slot wrote ([`State::write`](crate::core::state::State::write));
//! 3. where it was queued among a minority and is to be replayed: by then the node has heard of later orders, and a slot that
//!    was ordered anew since rejects the ticket;
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
use crate::core::model::{Mode, OnCut, OrderEpoch, Slot};

impl Mesh {
    /// What a write of an agent of this node is made under now: its slot, or nothing where it fills none.
    ///
    /// # Errors
    /// `superseded` or `not_permitted`, when it may not write any more; `read_only`, when it may not write now.
    pub(in crate::core::mesh) fn slot_of_writer(&self, agent: &AgentName) -> Result<Option<Slot>, Refusal> {
        if agent.slot().is_none() {
            return Ok(None);
        }
        let run = self.desired.followed.get(agent).or_else(|| self.desired.ending.get(agent));
        let Some(followed) = run else {
            let why = format!(
                "{agent} runs by no order on {} any more: another instance takes its place",
                self.own
            );
            return Err(refused("superseded", why));
        };
        if self.desired.is_exclusive(agent) && self.permits.holder.until(agent, self.now).is_none() {
            return Err(refused("not_permitted", format!("the permit of {agent} on {} is over", self.own)));
        }
        if self.shared.mode() == Mode::Degraded
            && self.desired.on_cut(agent, followed.digest) == OnCut::ReadOnly
        {
            let why = format!(
                "{} is not among a majority, and the blueprint of {agent} says `on_cut: read-only`",
                self.own
            );
            return Err(refused("read_only", why));
        }
        Ok(Some(Slot { name: agent.to_string(), epoch: followed.epoch }))
    }

    /// The last orders that this node has heard of for the slots that it runs.
    pub(in crate::core::mesh) fn heard_orders(&self) -> BTreeMap<AgentName, OrderEpoch> {
        let run = self.desired.followed.iter().chain(&self.desired.ending);
        let heard = |(slot, followed): (&AgentName, &Followed)| {
            let order = self.desired.orders.get(slot).map_or(followed.epoch, |order| order.epoch);
            (slot.clone(), order.max(followed.epoch))
        };
        run.map(heard).collect()
    }

    /// Why a write that was queued under a slot is not to be made, if it is not. A later order that names this node again is no
    /// exception: between the two the slot may have been another node's.
    pub(in crate::core::mesh) fn why_superseded(&self, slot: &Slot) -> Option<String> {
        let name = AgentName::new(&slot.name).ok()?;
        let holds = self.desired.orders.get(&name)?.epoch;
        (holds > slot.epoch).then(|| {
            let ours = slot.epoch;
            format!(
                "{name} was ordered anew by {holds} since it wrote this under {ours}: it has been replaced"
            )
        })
    }
}

fn refused(code: &str, why: String) -> Refusal {
    Refusal::BadWrite { code: code.to_owned(), why }
}
