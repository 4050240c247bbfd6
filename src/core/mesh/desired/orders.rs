//! Giving orders: plan, check, execute, while this node holds the lease.
//!
//! Who takes the lease first catches up with a quorum of the voters, so that it knows what those before it have ordered.
//! Then it plans whenever something has changed that a plan depends on, and every now and then without that. What it has
//! ordered is on its disk before it plans again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::shared::{By, Durable};
use super::super::{Mesh, Pending, Timer};
use super::Desired;
use super::beside::Switched;
use super::trials::Trial;
use crate::core::ids::{AgentName, NodeId, NodeKey};
use crate::core::limits;
use crate::core::model::{
    AgentRecord, AgentState, BLUEPRINTS_PREFIX, Blueprint, BlueprintRecord, BreakerState, DRAINED_PREFIX,
    Health, MemberStatus, Mode, Order, OrderEpoch, Roster, Step, Update, Version, Writer, Writes, order_key,
};
use crate::core::placement::{self, Host, HostState, Observed};
use crate::core::register::LeaseView;
use crate::core::time::Instant;
use crate::core::wire::{Ack, encode_value};

/// A plan is made so often though nothing has changed.
const PLAN_INTERVAL: Duration = Duration::from_secs(30);
/// Changes that come one after the other are planned for together.
const PLAN_PAUSE: Duration = Duration::from_millis(5);
/// In a mesh with many slots a plan takes longer.
const PLAN_PAUSE_LARGE: Duration = Duration::from_millis(200);
/// From so many slots on.
const LARGE: usize = 1_000;
/// A node that has not been heard of since this process started is not held for gone before.
const RETURN_PATIENCE: Duration = Duration::from_secs(10);
/// So long after the disk took nothing it is tried again.
const WRITE_PAUSE: Duration = Duration::from_secs(1);
/// A timer for what comes within that is one of its own.
const SOON: Duration = Duration::from_secs(1);
/// Who has not answered is asked again.
const CATCH_UP_PATIENCE: Duration = Duration::from_millis(250);

/// What the holder of the lease keeps while it holds it.
#[derive(Debug)]
pub(super) struct Leading {
    term: u64,
    /// Orders given in this term.
    given: u64,
    /// Voters that have told what they have since this node took the lease; `None` once they are a quorum.
    told: Option<BTreeSet<NodeKey>>,
    /// Slots whose orders are on their way to the disk.
    storing: BTreeSet<AgentName>,
    /// Blueprints whose records are.
    rewriting: BTreeSet<AgentName>,
    /// Nodes that are drained no more, of which that is.
    undraining: BTreeSet<NodeId>,
    watched: BTreeMap<AgentName, Watched>,
    /// The canaries that are under way, by blueprint.
    pub(super) trials: BTreeMap<AgentName, Trial>,
    /// The versions that take messages beside the one before.
    pub(super) switched: Switched,
    planned: Instant,
    /// When a plan is made although nothing has changed.
    look_at: Instant,
}

/// What was seen of an order.
#[derive(Debug)]
struct Watched {
    epoch: OrderEpoch,
    since: Instant,
    running_since: Option<Instant>,
    stumbled: Option<String>,
}

impl Leading {
    /// Whether nothing that it has written is on its way to the disk.
    pub(super) fn is_at_rest(&self) -> bool {
        self.storing.is_empty() && self.rewriting.is_empty() && self.undraining.is_empty()
    }
}

impl Mesh {
    /// Gives orders, if this node may and something is to be ordered.
    pub(super) fn lead(&mut self) {
        let LeaseView::Mine { term, .. } = self.shared.lease_now(self.now) else {
            self.desired.leading = None;
            return self.change_on();
        };
        if self.desired.leading.as_ref().is_none_or(|leading| leading.term != term) {
            self.begin_leading(term);
        }
        self.learn_orders();
        let Some(leading) = &self.desired.leading else {
            return;
        };
        let may = self.shared.mode() == Mode::Healthy
            && self.shared.writes() == Writes::Apply
            && !self.is_leaving();
        // A client's change that is on its way to the disk is not to be written over.
        let is_at_rest = leading.is_at_rest() && self.desired.applying.is_empty();
        if leading.told.is_some() || !is_at_rest || !may {
            return;
        }
        let is_large = self.desired.orders.len() > LARGE;
        let pause = if is_large { PLAN_PAUSE_LARGE } else { PLAN_PAUSE };
        let due = match self.desired.plan_due {
            true => leading.planned + pause,
            false => leading.look_at,
        };
        if due > self.now {
            return self.look_again(due);
        }
        if self.waits_for_members() {
            return self.look_again(self.now + CATCH_UP_PATIENCE);
        }
        self.desired.plan_due = false;
        self.give_orders();
    }

    /// Whether this node holds the lease, knows what was ordered before, and has nothing on its way to the disk.
    pub(super) fn gives_orders(&self) -> bool {
        let LeaseView::Mine { term, .. } = self.shared.lease_now(self.now) else {
            return false;
        };
        let is_ready =
            |leading: &Leading| leading.term == term && leading.told.is_none() && leading.is_at_rest();
        self.desired.leading.as_ref().is_some_and(is_ready) && !self.waits_for_members()
    }

    pub(super) fn look_again(&mut self, at: Instant) {
        // One that comes before is enough: it looks when it is due next.
        let is_soon = at < self.now + SOON;
        let armed = if is_soon { &mut self.desired.armed } else { &mut self.desired.armed_late };
        if armed.is_none_or(|armed| at < armed || armed <= self.now) {
            *armed = Some(at);
            self.timers.set(at, Timer::Desired);
        }
    }

    pub(in crate::core::mesh) fn on_desired_timer(&mut self) {
        let now = self.now;
        for armed in [&mut self.desired.armed, &mut self.desired.armed_late] {
            armed.take_if(|at| *at <= now);
        }
        // `settle` comes next and does what is due.
    }

    fn begin_leading(&mut self, term: u64) {
        self.desired.leading = Some(Leading {
            term,
            given: 0,
            told: Some(BTreeSet::new()),
            storing: BTreeSet::new(),
            rewriting: BTreeSet::new(),
            undraining: BTreeSet::new(),
            watched: BTreeMap::new(),
            trials: BTreeMap::new(),
            switched: Switched::new(),
            planned: Instant::ZERO,
            look_at: self.now,
        });
        self.desired.plan_due = true;
        let voters = self.voters_linked();
        self.ask_anew(&voters);
    }

    fn voters_linked(&self) -> BTreeSet<NodeKey> {
        let voters = self.shared.roster().into_iter().flat_map(|roster| roster.voters());
        voters.map(NodeId::key).filter(|key| *key != self.key && self.links.proven(key).is_some()).collect()
    }

    /// Whether the holder of the lease waits for what this voter has.
    pub(in crate::core::mesh) fn leads_once_told_by(&self, key: &NodeKey) -> bool {
        let told = self.desired.leading.as_ref().and_then(|leading| leading.told.as_ref());
        let is_voter = |roster: &Roster| roster.voters().any(|voter| voter.key() == *key);
        told.is_some_and(|told| !told.contains(key)) && self.shared.roster().is_some_and(is_voter)
    }

    /// A peer has told everything that it has.
    pub(in crate::core::mesh) fn note_caught_up_with(&mut self, key: &NodeKey) {
        let leading = self.desired.leading.as_mut();
        if let Some(told) = leading.and_then(|leading| leading.told.as_mut()) {
            told.insert(*key);
        }
    }

    /// Goes on once a quorum of the voters, this node among them, has told what it has.
    fn learn_orders(&mut self) {
        let Some((leading, roster)) = self.desired.leading.as_mut().zip(self.shared.roster()) else {
            return;
        };
        let Some(told) = &leading.told else {
            return;
        };
        let has_told = |node: &&NodeId| **node == self.own || told.contains(&node.key());
        let those: BTreeSet<NodeId> = roster.voters().filter(has_told).cloned().collect();
        if roster.is_quorum(&those) {
            leading.told = None;
            return;
        }
        // Links come and go: who has not told is asked, unless it is being asked.
        let told = told.clone();
        for key in self.voters_linked().difference(&told) {
            self.ask_state(*key);
        }
        self.look_again(self.now + CATCH_UP_PATIENCE);
    }

    /// Just after its start a node has not heard of everybody who is there.
    fn waits_for_members(&self) -> bool {
        let members = self.shared.roster().into_iter().flat_map(|roster| roster.members.keys());
        let is_unheard = |node: &NodeId| *node != self.own && self.membership.known(&node.key()).is_none();
        self.now.since(self.born) < RETURN_PATIENCE && members.into_iter().any(is_unheard)
    }

    fn give_orders(&mut self) {
        let scene = self.scene();
        let landscape = scene.landscape(&self.desired, &self.desired.blueprints);
        let plan = placement::plan(landscape);
        if let Err(wrong) = placement::check(landscape, &plan) {
            tracing::error!(wrong, "a plan is not carried out, because it breaks a rule");
            self.rest_for(WRITE_PAUSE);
            return self.watch_on();
        }
        let settled = placement::settled(landscape);
        let mut stages = Self::stages(landscape);
        stages.retain(|name, _| !plan.roll_back.contains_key(name));
        let mut standbys = Self::standbys(landscape);
        standbys.retain(|name, _| !plan.roll_back.contains_key(name));
        self.rest_for(Duration::ZERO);
        for (name, why) in plan.roll_back {
            self.take_back(&name, &why);
        }
        let held = self.hold_canaries(&stages);
        held.iter().for_each(|name| self.pass_step(name));
        settled.iter().for_each(|name| self.settle_version(name));
        self.tend_standbys(&standbys);
        let more = plan.steps.len() > limits::ORDERS_IN_FLIGHT_MAX;
        for step in plan.steps.into_iter().take(limits::ORDERS_IN_FLIGHT_MAX) {
            if !self.give_order(step) {
                self.rest_for(WRITE_PAUSE);
                break;
            }
        }
        self.undrain_who_is_gone();
        self.desired.plan_due |= more;
        self.watch_on();
    }

    /// A node that does not belong to the mesh any more is not drained: one that comes by its name is another. One that is there
    /// and does not belong to it yet, or is about to belong to it again, keeps its mark.
    fn undrain_who_is_gone(&mut self) {
        let Some(roster) = self.shared.roster() else {
            return;
        };
        let is_there = |node: &NodeId| self.status_of(&node.key()).is_some_and(MemberStatus::is_reachable);
        let is_gone = |node: &&NodeId| !roster.members.contains_key(*node) && !is_there(node);
        let gone: Vec<_> = self.desired.drained.iter().filter(is_gone).cloned().collect();
        for node in gone {
            tracing::info!(%node, "it is gone for good, and drained no more");
            let key = format!("{DRAINED_PREFIX}{node}");
            if !self.write_desired(&key, None, By::Undrained(node.clone())) {
                return self.rest_for(WRITE_PAUSE);
            }
            if let Some(leading) = &mut self.desired.leading {
                leading.undraining.insert(node);
            }
        }
    }

    /// Nothing is planned for a while.
    fn rest_for(&mut self, pause: Duration) {
        if let Some(leading) = &mut self.desired.leading {
            leading.planned = self.now + pause;
        }
    }

    /// Writes an order. `false`: the disk takes none now.
    pub(super) fn give_order(&mut self, step: Step) -> bool {
        let Some((leading, epoch)) =
            self.desired.leading.as_mut().zip(self.shared.roster().map(|roster| roster.epoch))
        else {
            return false;
        };
        let Some(key) = order_key(&step.slot) else {
            return true;
        };
        leading.given += 1;
        let (term, order) = (leading.term, leading.given);
        let epoch = OrderEpoch { chain: epoch.chain, chain_id: epoch.chain_id, term, order };
        let before = self.desired.orders.get(&step.slot);
        if before.is_some_and(|known| known.epoch >= epoch) {
            tracing::error!(slot = %step.slot, %epoch, "an order would not take the place of the one that holds");
            return true;
        }
        // One that is ordered to the node that has the slot leaves it there.
        let to = step.post.as_ref().map(|post| &post.node);
        let stays = before.filter(|known| to.is_some() && known.post.as_ref().map(|post| &post.node) == to);
        let since = stays.map_or(epoch, |known| known.since);
        let Step { slot, post, why, action: _ } = step;
        let value = encode_value(&Order { epoch, post, why, since });
        let is_written = self.write_desired(&key, Some(value), By::Order(slot.clone()));
        if let (true, Some(leading)) = (is_written, &mut self.desired.leading) {
            leading.storing.insert(slot);
        }
        is_written
    }

    /// Writes a key of Shoal's own. `false`: the disk takes nothing now, and it is tried again later.
    pub(super) fn write_desired(&mut self, key: &str, value: Option<Bytes>, by: By) -> bool {
        let (hlc, writer) = (self.next_hlc(), Arc::new(Writer { node: self.own.clone(), slot: None }));
        match self.write(key, value, None, hlc, &writer, vec![]) {
            Ok((dot, flush, changes)) => {
                let durable = Durable::Write { dot, flush, ack: Ack::Local, marked: false, by };
                self.persist(changes, Pending::Shared(durable));
                true
            }
            Err(error) => {
                tracing::warn!(key, %error, "what should run cannot be written now");
                self.desired.plan_due = true;
                false
            }
        }
    }

    /// An order is stored, or could not be.
    pub(in crate::core::mesh) fn on_order_stored(&mut self, slot: &AgentName, is_stored: bool) {
        if let Some(leading) = &mut self.desired.leading {
            leading.storing.remove(slot);
        }
        self.desired.plan_due |= !is_stored;
        self.change_on();
    }

    /// The record of a blueprint that the holder of the lease has changed is stored, or could not be.
    pub(in crate::core::mesh) fn on_record_stored(&mut self, name: &AgentName, is_stored: bool) {
        if let Some(leading) = &mut self.desired.leading {
            leading.rewriting.remove(name);
        }
        self.desired.plan_due |= !is_stored;
        self.change_on();
    }

    /// It is stored that a node is drained no more, or could not be.
    pub(in crate::core::mesh) fn on_undrained_stored(&mut self, node: &NodeId, is_stored: bool) {
        if let Some(leading) = &mut self.desired.leading {
            leading.undraining.remove(node);
        }
        self.desired.plan_due |= !is_stored;
        self.change_on();
    }

    /// The version before the current one holds again.
    fn take_back(&mut self, name: &AgentName, why: &str) {
        let Some(record) = self.desired.blueprints.get(name) else {
            return;
        };
        let Some(Version { number, blueprint, .. }) = record.before().cloned() else {
            return;
        };
        // As many, and where, as is wanted now: only what they are made of has failed.
        let Blueprint { instances, placement, .. } = record.current.blueprint.clone();
        let blueprint = Blueprint { instances, placement, ..blueprint };
        let failed = record.current.number;
        tracing::warn!(%name, failed, back_to = number, why, "a version has failed and is taken back");
        let told = format!("back to version {number}: version {failed} failed, {why}");
        let next = record.followed_by(blueprint, cut(told), true);
        self.rewrite(name, &next);
    }

    /// All instances of the current version were steady.
    fn settle_version(&mut self, name: &AgentName) {
        let Some(record) = self.desired.blueprints.get(name) else {
            return;
        };
        let mut next = record.clone();
        next.current.settled = true;
        self.rewrite(name, &next);
    }

    pub(super) fn rewrite(&mut self, name: &AgentName, record: &BlueprintRecord) {
        let key = format!("{BLUEPRINTS_PREFIX}{name}");
        let is_written = self.write_desired(&key, Some(encode_value(record)), By::Record(name.clone()));
        match &mut self.desired.leading {
            Some(leading) if is_written => {
                leading.rewriting.insert(name.clone());
            }
            Some(_) | None => self.rest_for(WRITE_PAUSE),
        }
    }

    /// The nodes that belong to the mesh, as a plan sees them.
    pub(super) fn hosts(&self) -> BTreeMap<NodeId, Host> {
        let members = self.shared.roster().into_iter().flat_map(|roster| roster.members.keys());
        members.filter_map(|node| Some((node.clone(), self.host(node)?))).collect()
    }

    fn host(&self, node: &NodeId) -> Option<Host> {
        let key = node.key();
        if self.links.proven(&key).and_then(|link| self.links.get(link)).is_some_and(|link| link.version < 2)
        {
            // It knows nothing of orders.
            return None;
        }
        let card = if *node == self.own { &self.card } else { self.links.card(&key)? };
        let is_there = self.status_of(&key).is_some_and(MemberStatus::is_reachable);
        let says_so = self.registry.owner(node).is_some_and(|owner| owner.leaves);
        let goes = self.desired.drained.contains(node) || self.is_going(&key) || says_so;
        let state = match (is_there, goes) {
            (false, _) => HostState::Lost,
            (true, true) => HostState::Draining,
            (true, false) => HostState::Up,
        };
        let owner = self.registry.owner(node);
        let by_hand =
            |agents: &BTreeMap<AgentName, AgentRecord>| agents.keys().filter(|a| a.slot().is_none()).count();
        Some(Host {
            card: card.clone(),
            state,
            other_agents: owner.map_or(0, |owner| by_hand(&owner.agents)),
            cpu_tenths: owner.and_then(|owner| owner.load).map_or(0, |load| load.cpu_permille / 100),
        })
    }

    /// How what was ordered is, as the nodes tell; and what is remembered of that while this node holds the lease.
    pub(super) fn observe(&mut self) -> BTreeMap<AgentName, Observed> {
        let now = self.now;
        let Desired { orders, leading, blueprints, digests, .. } = &mut self.desired;
        let mut fresh = BTreeMap::new();
        let watched = leading.as_mut().map_or(&mut fresh, |leading| &mut leading.watched);
        watched.retain(|slot, _| orders.get(slot).is_some_and(|order| order.post.is_some()));
        let mut observed = BTreeMap::new();
        for (slot, order) in orders.iter() {
            let (Some(post), Some(record)) = (&order.post, blueprints.get(&slot.base())) else {
                continue;
            };
            let told = self.registry.owner(&post.node).and_then(|owner| owner.agents.get(slot));
            let told = told.filter(|told| told.order == Some(order.epoch));
            let entry = watched.entry(slot.clone()).or_insert_with(|| Watched::new(order.epoch, now));
            if entry.epoch != order.epoch {
                *entry = Watched::new(order.epoch, now);
            }
            let current = digests.get(&slot.base()).and_then(|digests| digests.first());
            let counts = record.counts_messages() && current == Some(&post.digest);
            let seen = entry.look(told, &record.current.blueprint, counts, now);
            observed.insert(slot.clone(), seen);
        }
        observed
    }

    /// When something that runs will have run for long enough, or something that does not will be overdue.
    fn watch_on(&mut self) {
        let Desired { leading: Some(leading), blueprints, .. } = &self.desired else {
            return;
        };
        let next = leading.watched.iter().filter_map(|(slot, watched)| {
            let update = &blueprints.get(&slot.base())?.current.blueprint.update;
            watched.due(update, self.now)
        });
        let next = next.min();
        let at = next
            .into_iter()
            .chain(self.trial_due())
            .chain(self.standby_due())
            .min()
            .unwrap_or(self.now + PLAN_INTERVAL);
        let at = at.min(self.now + PLAN_INTERVAL);
        if let Some(leading) = &mut self.desired.leading {
            leading.look_at = at;
        }
        self.look_again(at);
    }
}

impl Watched {
    fn new(epoch: OrderEpoch, now: Instant) -> Self {
        Self { epoch, since: now, running_since: None, stumbled: None }
    }

    /// Takes in what the node tells of it; `None`: nothing that is about this order.
    fn look(
        &mut self,
        told: Option<&AgentRecord>,
        blueprint: &Blueprint,
        counts_messages: bool,
        now: Instant,
    ) -> Observed {
        let (update, is_exclusive) = (&blueprint.update, blueprint.spec.exclusive);
        let illness = told.and_then(|told| match (&told.health, &told.breaker) {
            (Health::Unhealthy { why }, _) => Some(why.clone()),
            (_, BreakerState::Open { why, .. }) if counts_messages => {
                Some(format!("its breaker is open: {why}"))
            }
            (Health::Unchecked | Health::Healthy | Health::Degraded { .. }, _) => None,
        });
        match told.map(|told| &told.state) {
            Some(AgentState::Failed { reason, .. }) => return Observed::Failed { reason: reason.clone() },
            Some(AgentState::Running) if illness.is_none() => {
                let since = *self.running_since.get_or_insert(now);
                if now.since(since) >= update.min_healthy {
                    (self.stumbled, self.since) = (None, now);
                    return Observed::Steady;
                }
            }
            Some(AgentState::Restarting { reason }) => {
                self.running_since = None;
                self.stumbled = Some(reason.clone());
            }
            Some(AgentState::Running | AgentState::Starting | AgentState::Draining) | None => {
                self.running_since = None;
                self.stumbled = illness.or(self.stumbled.take());
            }
        }
        if told.is_some_and(|told| told.waits.is_some()) && !is_exclusive {
            // What it waits for is not its fault. A permit, for which it waits as well, another node may get.
            self.since = now;
        }
        let overdue = now.since(self.since) > update.deadline;
        Observed::Unsteady { stumbled: self.stumbled.clone(), overdue }
    }

    /// When it is to be looked at again though nobody has told anything.
    fn due(&self, update: &Update, now: Instant) -> Option<Instant> {
        let steady = self.running_since.map(|since| since + update.min_healthy);
        let overdue = self.since + update.deadline + Duration::from_millis(1);
        [steady, Some(overdue)].into_iter().flatten().filter(|at| *at > now).min()
    }
}

/// Of a text what an order's reason may hold.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(limits::ORDER_WHY_BYTES_MAX));
    text
}
