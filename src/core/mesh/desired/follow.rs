//! Doing what is ordered: this node runs the slots that are its own, and no others.
//!
//! What it runs is not on its disk: after a start it runs nothing until it has caught up with the others, because its slots
//! may have gone elsewhere meanwhile.
//!
//! An exclusive agent needs a permit as well: its slot is claimed, it is begun when that is granted, and ended at once when
//! the permit is over. What another node is to take over ends here first, and is given up only when it is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{Mesh, Phase};
use crate::core::contract::Output;
use crate::core::ids::AgentName;
use crate::core::limits;
use crate::core::model::{
    AgentRecord, AgentSpec, AgentState, BreakerState, Health, Mode, OnCut, OrderEpoch, Post, SpecDigest,
};
use crate::core::time::Instant;

/// What this node runs by order.
#[derive(Debug)]
pub(in crate::core::mesh) struct Followed {
    pub(super) epoch: OrderEpoch,
    pub(super) digest: SpecDigest,
}

impl Mesh {
    /// Starts what this node is to run and does not, and ends what it runs and is not to.
    pub(super) fn follow(&mut self) {
        if !matches!(self.phase, Phase::Running) || self.shared.mode() == Mode::Joining {
            return;
        }
        let wanted = self.wanted_here();
        self.permits.look_due = true;
        for (slot, (epoch, _)) in wanted.iter().filter(|(slot, _)| self.desired.is_exclusive(slot)) {
            if !self.permits.holder.claim(slot, *epoch) {
                tracing::error!(%slot, "this node has as many exclusive agents as it may: an order is not followed");
            }
        }
        let followed: Vec<_> = self.desired.followed.keys().cloned().collect();
        for slot in followed {
            if !wanted.contains_key(&slot) && !self.goes_on(&slot) {
                self.end_slot(&slot);
            }
        }
        for (slot, (epoch, digest)) in wanted {
            match self.desired.followed.get_mut(&slot) {
                None => self.begin_slot(slot, epoch, digest),
                Some(followed) if followed.digest != digest => self.end_slot(&slot),
                Some(followed) if followed.epoch != epoch => {
                    followed.epoch = epoch;
                    self.publish_order(&slot);
                }
                Some(_) => {}
            }
        }
    }

    /// The slots that this node is to run.
    fn wanted_here(&self) -> BTreeMap<AgentName, (OrderEpoch, SpecDigest)> {
        let is_cut = matches!(self.shared.mode(), Mode::Degraded);
        let wanted = |slot: &AgentName| {
            let order = self.desired.orders.get(slot)?;
            let post = order.post.as_ref().filter(|post| post.node == self.own)?;
            // What runs already goes on, also when the version that it is of is forgotten.
            let runs = self.desired.followed.get(slot).is_some_and(|followed| followed.digest == post.digest);
            let is_known = runs || self.desired.version_at(&slot.base(), post.digest).is_some();
            let stops = is_cut && self.desired.on_cut(slot, post.digest) == OnCut::Stop;
            (is_known && !stops).then(|| (slot.clone(), (order.epoch, post.digest)))
        };
        self.desired.mine.iter().filter_map(wanted).collect()
    }

    /// Whether this node runs a slot on until the one that takes it over has begun.
    fn goes_on(&self, slot: &AgentName) -> bool {
        let Some(order) = self.desired.orders.get(slot) else {
            return false;
        };
        let Some(Post { node, relieves: Some(relieves), .. }) = &order.post else {
            return false;
        };
        let told = self.registry.owner(node).and_then(|owner| owner.agents.get(slot));
        let has_begun = told
            .is_some_and(|record| record.order == Some(order.epoch) && record.state == AgentState::Running);
        let followed = self.desired.followed.get(slot);
        let stops = matches!(self.shared.mode(), Mode::Degraded)
            && followed.is_some_and(|followed| self.desired.on_cut(slot, followed.digest) == OnCut::Stop);
        let is_exclusive = self.desired.is_exclusive(slot);
        *relieves == self.own && *node != self.own && !has_begun && !stops && !is_exclusive
    }

    fn begin_slot(&mut self, slot: AgentName, epoch: OrderEpoch, digest: SpecDigest) {
        // What ends first leaves the name free and brings this node here again.
        if self.supervision.spec(&slot).is_some() {
            return;
        }
        let is_exclusive = self.desired.is_exclusive(&slot);
        if is_exclusive && !self.permits.holder.may_begin(&slot, self.now) {
            // The order is followed when the permit is there.
            return;
        }
        if self.supervision.len() + self.deploying.len() >= limits::AGENTS_PER_NODE_MAX {
            return tracing::error!(%slot, "this node has as many agents as it may: an order is not followed");
        }
        let Some(spec) = self.spec_of(&slot, digest) else {
            return;
        };
        tracing::info!(%slot, %epoch, "ordered to run");
        if let Some(until) = self.permits.holder.until(&slot, self.now) {
            // The runtime forgets a permit with the agent that had it.
            self.output(Output::Permit { agent: slot.clone(), until });
        }
        self.desired.followed.insert(slot, Followed { epoch, digest });
        let effects = self.supervision.take_order(spec);
        self.run_agent_effects(effects);
    }

    fn spec_of(&self, slot: &AgentName, digest: SpecDigest) -> Option<AgentSpec> {
        let version = self.desired.version_at(&slot.base(), digest)?;
        Some(version.blueprint.spec_of(slot.slot()?))
    }

    fn end_slot(&mut self, slot: &AgentName) {
        if let Some(followed) = self.desired.followed.remove(slot) {
            self.desired.ending.insert(slot.clone(), followed);
        }
        tracing::info!(%slot, "not ordered to run any more");
        let effects = self.supervision.stop(slot);
        self.run_agent_effects(effects);
    }

    /// Gives up what does not run here any more and is not to, and ends at once what has no permit any more.
    pub(in crate::core::mesh) fn end_what_is_over(&mut self) {
        if self.permits.holder.slots().next().is_none() {
            return;
        }
        let is_running = matches!(self.phase, Phase::Running);
        let wanted = if is_running { self.wanted_here() } else { BTreeMap::new() };
        let runs = |slot: &AgentName| self.supervision.spec(slot).is_some();
        self.permits.holder.keep(|slot| wanted.contains_key(slot) || runs(slot));
        let slots = self.permits.holder.slots();
        let over: Vec<_> = slots
            .filter(|slot| runs(slot) && self.permits.holder.until(slot, self.now).is_none())
            .cloned()
            .collect();
        for slot in over {
            if let Some(followed) = self.desired.followed.remove(&slot) {
                tracing::warn!(%slot, "its permit is over: it is ended at once");
                self.desired.ending.insert(slot.clone(), followed);
            }
            let effects = self.supervision.cut_short(&slot);
            self.run_agent_effects(effects);
        }
    }

    /// Tells the others what waits for its permit here, and why.
    pub(in crate::core::mesh) fn tell_waiting(&mut self) {
        let runs = |slot: &AgentName| self.supervision.spec(slot).is_some();
        let holder = &self.permits.holder;
        let waits = holder.slots().filter(|slot| !runs(slot));
        let waits = waits.filter_map(|slot| Some((slot.clone(), holder.why_not(slot, self.now)?)));
        let waits: BTreeMap<_, _> = waits.collect();
        if waits == self.desired.waiting {
            return;
        }
        let before = std::mem::replace(&mut self.desired.waiting, waits.clone());
        for slot in before.keys().filter(|slot| !waits.contains_key(*slot)) {
            // What runs by now has told so itself.
            if self.supervision.spec(slot).is_none() {
                self.publish_waiting(slot, None);
            }
        }
        for (slot, why) in waits.iter().filter(|(slot, why)| before.get(*slot) != Some(*why)) {
            self.publish_waiting(slot, Some(why));
        }
    }

    fn publish_waiting(&mut self, slot: &AgentName, why: Option<&str>) {
        let order = self.desired.orders.get(slot);
        let ordered = order.and_then(|order| Some((order.epoch, order.post.as_ref()?.digest)));
        let spec = ordered.and_then(|(epoch, digest)| Some((epoch, self.spec_of(slot, digest)?)));
        let record = spec.zip(why).map(|((epoch, spec), why)| AgentRecord {
            kind: spec.source.kind().to_owned(),
            state: AgentState::Starting,
            restarts: 0,
            offer: spec.offer,
            health: Health::default(),
            order: Some(epoch),
            breaker: BreakerState::default(),
            depends_on: spec.launch.depends_on,
            waits: Some(why.to_owned()),
        });
        let delta = self.registry.publish_agent(slot, record.as_ref());
        self.spread(delta);
        let own = self.own.clone();
        self.note_agent(&own, slot);
    }

    /// When the next permit is over of something that runs.
    pub(in crate::core::mesh) fn next_permit_end(&self) -> Option<Instant> {
        let holder = &self.permits.holder;
        let running = holder.slots().filter(|slot| self.supervision.spec(slot).is_some());
        running.filter_map(|slot| holder.until(slot, self.now)).min()
    }

    /// How long an agent that is to end may take to finish what it has: one that another node takes over is not permitted
    /// for long any more, and is to end by itself before that is over.
    pub(in crate::core::mesh) fn drain_of(&self, agent: &AgentName, drain: Duration) -> Duration {
        let Some(until) = self.permits.holder.until(agent, self.now) else {
            return drain;
        };
        let is_here = self.desired.order_for(agent, &self.own).is_some_and(|(_, is_here)| is_here);
        let left = until.since(self.now).saturating_sub(limits::PERMIT_ENDING);
        if is_here { drain } else { drain.min(left) }
    }

    /// There is a permit for a slot that waits for it, if it does not run already.
    pub(in crate::core::mesh) fn note_permit(&mut self, slot: &AgentName) {
        self.desired.follow_due |= !self.desired.followed.contains_key(slot);
    }

    /// Tells the others by which order an agent runs.
    fn publish_order(&mut self, slot: &AgentName) {
        let told = self.registry.owner(&self.own).and_then(|owner| owner.agents.get(slot)).cloned();
        if let Some(mut record) = told {
            record.order = self.order_of(slot);
            let delta = self.registry.publish_agent(slot, Some(&record));
            self.spread(delta);
            let own = self.own.clone();
            self.note_agent(&own, slot);
        }
    }

    /// The order by which this node runs an agent.
    pub(in crate::core::mesh) fn order_of(&self, agent: &AgentName) -> Option<OrderEpoch> {
        self.desired.followed.get(agent).map(|followed| followed.epoch)
    }

    /// An agent of this node has ended for good: its slot may be this node's again.
    pub(in crate::core::mesh) fn on_slot_gone(&mut self, agent: &AgentName) {
        self.desired.followed.remove(agent);
        self.desired.ending.remove(agent);
        self.desired.follow_due = true;
        self.permits.look_due = true;
    }
}
