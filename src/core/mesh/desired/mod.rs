//! What should run, as this node knows it, and those who act on it.
//!
//! Blueprints, orders and drained nodes are keys of the replicated state, below `_mesh/`: every node has them. This room
//! keeps them decoded, and
//!
//! - `clients` takes in what clients want of them, on any node that is among a majority;
//! - `orders` gives orders, on the node that holds the lease and on no other: it plans, checks and executes, again and again;
//! - `trials` lets a canary go on from step to step, on the same node, and counts messages for it, on each node;
//! - `beside` lets the messages go from one version to another, on the same node;
//! - `rollout` says how far a version has come;
//! - `follow` does what is ordered, on each node, whoever gave the order;
//! - `fence` says what an instance may write and send, and until when.
//!
//! # Which order holds
//!
//! Of two orders for a slot the one with the higher epoch holds, and no clock is asked. Terms of the lease grow, so whatever
//! the holder of a lease orders takes the place of what all before it have ordered, also where news of that comes later. A
//! node follows an order as soon as it reads it. It need not wait until a quorum has stored it: should the order be lost
//! with its giver, the next holder of the lease gives another with a higher epoch, and the node gives way to that.
//!
//! # What is not promised
//!
//! While the mesh is cut, an instance on the minority's side may run on beside the one that the majority has started (a
//! blueprint says whether it does). Its node cannot write to the state, its writes are queued. When the cut heals, the order
//! with the higher epoch reaches its node and ends it.

mod beside;
mod clients;
mod fence;
mod follow;
mod orders;
mod rollout;
mod trials;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Mesh, Requester};
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::{
    AgentState, BLUEPRINTS_PREFIX, Beside, BlueprintRecord, DRAINED_PREFIX, Event, Mode, ORDERS_PREFIX,
    OnCut, Order, OrderEpoch, Post, Sibling, SpecDigest, Version, slot_of_key,
};
use crate::core::time::Instant;
use crate::core::wire::{DesiredRequest, Planned, ResponseBody, decode_value};

use self::follow::Followed;
use self::orders::Leading;
use self::trials::Counting;

/// What should run, decoded, and what is under way because of it.
#[derive(Debug, Default)]
pub(super) struct Desired {
    blueprints: BTreeMap<AgentName, BlueprintRecord>,
    /// What the instances of each version are made of: of the current one first.
    digests: BTreeMap<AgentName, Vec<SpecDigest>>,
    /// By slot.
    orders: BTreeMap<AgentName, Order>,
    drained: BTreeSet<NodeId>,
    /// Slots whose orders name this node.
    mine: BTreeSet<AgentName>,
    /// What this node runs by order.
    followed: BTreeMap<AgentName, Followed>,
    /// What it has run by order, and which still ends.
    ending: BTreeMap<AgentName, Followed>,
    follow_due: bool,
    /// Slots that wait for their permits here, and what was told of that.
    waiting: BTreeMap<AgentName, &'static str>,
    /// There while this node holds the lease.
    leading: Option<Leading>,
    /// Something that a plan depends on has changed.
    plan_due: bool,
    /// There is a timer for then.
    armed: Option<Instant>,
    /// And one for then, which is not soon.
    armed_late: Option<Instant>,
    moving: Moving,
    counting: Counting,
    /// Instances that end with this node, which leaves, although they run nowhere else.
    left_behind: Vec<AgentName>,
    /// Clients that wait until their changes are stored, by a number.
    applying: BTreeMap<u64, Applying>,
    /// Changes that wait for those: each is made of what the one before has left.
    changes: VecDeque<(Requester, DesiredRequest)>,
}

impl Desired {
    /// The version of a blueprint whose instances are made of that.
    fn version_at(&self, name: &AgentName, digest: SpecDigest) -> Option<&Version> {
        let at = self.digests.get(name)?.iter().position(|known| *known == digest)?;
        let record = self.blueprints.get(name)?;
        if at == 0 { Some(&record.current) } else { record.former.get(at - 1) }
    }

    /// Whether messages to its blueprint go to whoever fills a slot.
    pub(super) fn is_on_call(&self, agent: &AgentName) -> bool {
        agent.slot().is_none()
            || self.blueprints.get(&agent.base()).is_none_or(|record| record.is_on_call(agent))
    }

    /// The epoch of the order for a slot that holds, and whether it gives the slot to that node.
    pub(super) fn order_for(&self, slot: &AgentName, node: &NodeId) -> Option<(OrderEpoch, bool)> {
        let order = self.orders.get(slot)?;
        Some((order.epoch, order.post.as_ref().is_some_and(|post| post.node == *node)))
    }

    /// Whether at most one instance of a slot may run at any moment.
    fn is_exclusive(&self, slot: &AgentName) -> bool {
        self.blueprints.get(&slot.base()).is_some_and(|record| record.current.blueprint.spec.exclusive)
    }

    /// What an instance does while its node is among a minority.
    fn on_cut(&self, slot: &AgentName, digest: SpecDigest) -> OnCut {
        let name = slot.base();
        let version = self.version_at(&name, digest).or_else(|| Some(&self.blueprints.get(&name)?.current));
        version.map_or(OnCut::default(), |version| version.blueprint.on_cut)
    }
}

/// What was ordered and does not run yet.
#[derive(Debug, Default)]
struct Moving {
    slots: BTreeMap<AgentName, OrderEpoch>,
    ordered: u32,
    since: Option<Instant>,
}

/// A client that waits until its changes are stored.
#[derive(Debug)]
struct Applying {
    requester: Requester,
    /// Writes that are on their way.
    left: usize,
    answer: Planned,
}

impl Mesh {
    /// Takes in what the disk remembers.
    pub(super) fn load_desired(&mut self) {
        for prefix in [BLUEPRINTS_PREFIX, ORDERS_PREFIX, DRAINED_PREFIX] {
            let keys: Vec<_> =
                self.shared.state().list(prefix, None).map(|(key, _)| key.to_string()).collect();
            keys.iter().for_each(|key| self.note_desired(key));
        }
    }

    /// A key of Shoal's own has changed.
    pub(super) fn note_desired(&mut self, key: &str) {
        if let Some(name) = key.strip_prefix(BLUEPRINTS_PREFIX) {
            self.note_blueprint(key, name);
        } else if let Some(slot) = slot_of_key(key) {
            self.note_order(key, slot);
        } else if let Some(node) = key.strip_prefix(DRAINED_PREFIX).and_then(|node| NodeId::new(node).ok()) {
            let is_drained = !self.shared.state().read(key).values.is_empty();
            let known = &mut self.desired.drained;
            let _ = if is_drained { known.insert(node) } else { known.remove(&node) };
        } else {
            return;
        }
        self.desired.plan_due = true;
    }

    /// Of two that were written at once, the one with the higher version holds, then the later one.
    fn note_blueprint(&mut self, key: &str, name: &str) {
        let Ok(name) = AgentName::new(name) else {
            return;
        };
        (self.desired.follow_due, self.view_changed) = (true, true);
        let rank = |(sibling, record): &(Sibling, BlueprintRecord)| {
            (record.current.number, record.removed, sibling.hlc, sibling.dot)
        };
        match self.decoded::<BlueprintRecord>(key).into_iter().max_by_key(rank) {
            Some((_, record)) if *record.current.blueprint.name() == name => {
                let versions = std::iter::once(&record.current).chain(&record.former);
                let digests = versions.map(|version| version.blueprint.digest()).collect();
                self.desired.digests.insert(name.clone(), digests);
                let of = &mut self.desired.counting.of;
                let _ = if record.counts_messages() { of.insert(name.clone()) } else { of.remove(&name) };
                let before = self.desired.blueprints.insert(name.clone(), record);
                self.tell_rollout(&name, before.as_ref());
            }
            Some(_) | None => {
                self.desired.blueprints.remove(&name);
                self.desired.digests.remove(&name);
                self.desired.counting.of.remove(&name);
            }
        }
    }

    /// Tells those who watch of a new version, and of each step that it takes.
    fn tell_rollout(&mut self, name: &AgentName, before: Option<&BlueprintRecord>) {
        let Some(record) = self.desired.blueprints.get(name).filter(|_| self.shared.mode() == Mode::Healthy)
        else {
            return;
        };
        let Version { number, why, settled, beside, .. } = &record.current;
        let is_new = before.is_none_or(|before| before.current.number != *number);
        let passed = |record: &BlueprintRecord| record.current.steps_passed;
        let goes_on = before.is_none_or(|before| passed(before) != passed(record));
        let step = record.canary().map(|(canary, passed)| {
            format!("canary step {} of {}, {} %", passed + 1, canary.steps.len(), canary.steps[passed])
        });
        let what = match (is_new, step) {
            (true, _) if *beside == Some(Beside::Waits) => {
                format!("{why}: it begins beside the version before")
            }
            (false, _)
                if *beside == Some(Beside::Serves)
                    && before.is_some_and(|before| before.current.beside != *beside) =>
            {
                "all messages go to it".to_owned()
            }
            (true, Some(step)) => format!("{why}: {step}"),
            (true, None) => why.clone(),
            (false, Some(step)) if goes_on => step,
            (false, None) if goes_on => "canary passed".to_owned(),
            (false, _) if *settled && before.is_some_and(|before| !before.current.settled) => {
                "all instances are steady".to_owned()
            }
            (false, _) => return,
        };
        let version = *number;
        self.event(Event::Rollout { blueprint: name.clone(), version, what });
    }

    fn note_order(&mut self, key: &str, slot: AgentName) {
        let orders = self.decoded::<Order>(key).into_iter().map(|(_, order)| order);
        let Some(order) = orders.max_by_key(|order| order.epoch) else {
            self.desired.orders.remove(&slot);
            self.desired.follow_due |= self.desired.mine.remove(&slot);
            return;
        };
        let concerns = |node: &NodeId| *node == self.own;
        let post = order.post.as_ref();
        let is_mine =
            post.is_some_and(|post| concerns(&post.node) || post.relieves.as_ref().is_some_and(concerns));
        let was_mine = match is_mine {
            true => !self.desired.mine.insert(slot.clone()),
            false => self.desired.mine.remove(&slot),
        };
        self.desired.follow_due |= was_mine || is_mine;
        let before = self.desired.orders.insert(slot.clone(), order.clone());
        if before.as_ref() != Some(&order) {
            self.note_moving(&slot, &order);
            if self.shared.mode() == Mode::Healthy {
                let from = before.and_then(|order| order.post).map(|post| post.node);
                let to = order.post.map(|post| post.node);
                self.event(Event::Ordered { agent: slot, from, to, why: order.why });
            }
        }
    }

    /// The values of a key that can be read.
    fn decoded<T: serde::de::DeserializeOwned>(&self, key: &str) -> Vec<(Sibling, T)> {
        let values = self.shared.state().read(key).values;
        let decode = |sibling: Sibling| {
            let value = decode_value(sibling.value.as_ref()?);
            if let Err(error) = &value {
                tracing::warn!(key, %error, "a record of what should run cannot be read by this version");
            }
            Some((sibling, value.ok()?))
        };
        values.into_iter().filter_map(decode).collect()
    }

    /// What is ordered and does not run by that order yet is on its way.
    fn note_moving(&mut self, slot: &AgentName, order: &Order) {
        let runs = |post: &Post| {
            let told = self.registry.owner(&post.node).and_then(|owner| owner.agents.get(slot));
            told.is_some_and(|told| told.order == Some(order.epoch) && told.state == AgentState::Running)
        };
        let is_on_its_way = order.post.as_ref().is_some_and(|post| !runs(post));
        let moving = &mut self.desired.moving;
        if is_on_its_way {
            moving.since.get_or_insert(self.now);
            moving.ordered += u32::from(moving.slots.insert(slot.clone(), order.epoch).is_none());
        } else {
            moving.slots.remove(slot);
        }
    }

    /// A node has told something of an agent.
    pub(super) fn note_agent(&mut self, node: &NodeId, agent: &AgentName) {
        if agent.slot().is_none() {
            return;
        }
        self.desired.plan_due = true;
        self.desired.follow_due |= self.desired.mine.contains(agent);
        let told = self.registry.owner(node).and_then(|owner| owner.agents.get(agent));
        let runs = told.filter(|record| record.state == AgentState::Running).and_then(|record| record.order);
        if runs.is_some() && self.desired.moving.slots.get(agent) == runs.as_ref() {
            self.desired.moving.slots.remove(agent);
        }
    }

    /// What this node runs by order, or is to.
    pub(super) fn ordered_here(&self) -> Vec<AgentName> {
        // An order goes on naming whom it has relieved.
        let is_here = |slot: &&AgentName| {
            let post = self.desired.orders.get(*slot).and_then(|order| order.post.as_ref());
            post.is_some_and(|post| post.node == self.own)
        };
        let ordered = self.desired.mine.iter().filter(is_here);
        let all: BTreeSet<_> = self.desired.followed.keys().chain(ordered).cloned().collect();
        all.into_iter().collect()
    }

    /// This node leaves, and these instances end with it.
    pub(super) fn desired_left_behind(&mut self, slots: Vec<AgentName>) {
        self.desired.left_behind = slots;
    }

    /// What there is to say when this node has left.
    pub(super) fn left(&self) -> ResponseBody {
        match self.desired.left_behind.len() {
            0 => ResponseBody::Done,
            count => ResponseBody::Left {
                left_behind: self
                    .desired
                    .left_behind
                    .iter()
                    .take(limits::REASONS_TOLD_MAX)
                    .cloned()
                    .collect(),
                left_behind_total: u32::try_from(count).unwrap_or(u32::MAX),
            },
        }
    }

    /// Says, or takes back, that this node leaves for good: whoever gives the orders moves what it has.
    pub(super) fn tell_leaving(&mut self, leaves: bool) {
        let delta = self.registry.publish_leaving(leaves);
        self.spread(delta);
        self.note_landscape();
    }

    /// Whether there is a blueprint of that name.
    pub(super) fn is_of_blueprint(&self, agent: &AgentName) -> bool {
        self.desired.blueprints.get(agent).is_some_and(|record| !record.removed)
    }

    /// Who is there, or who gives orders, has changed.
    pub(super) fn note_landscape(&mut self) {
        self.desired.plan_due = true;
        self.desired.follow_due = true;
    }

    /// After each change: what is ordered is done, and what is to be ordered is ordered.
    pub(super) fn tend_desired(&mut self) {
        if std::mem::take(&mut self.desired.follow_due) {
            self.follow();
        }
        self.lead();
        self.count_messages();
        if self.desired.moving.slots.is_empty()
            && let Some(since) = self.desired.moving.since.take()
        {
            let agents = std::mem::take(&mut self.desired.moving.ordered);
            let took_ms = u64::try_from(self.now.since(since).as_millis()).unwrap_or(u64::MAX);
            self.event(Event::Settled { agents, took_ms });
        }
    }
}
