//! What is to be ordered so that what runs is what should run: a plan, as data.
//!
//! [`plan`] looks at the blueprints, at the orders that hold, at the nodes and at what they say of their agents, and says
//! which orders to give, each with its reason. It keeps nothing, knows no time and asks nobody, so the same state gives the
//! same plan on every node. [`check()`] looks at a plan once more, with other eyes: what it finds is a mistake of [`plan`], and
//! such a plan is not carried out.
//!
//! - An instance stays where it is as long as its node is there and may have it.
//! - Of a node that is gone, instances move at once; of one that is drained, when another has begun.
//! - An instance whose node starts it again is not replaced, until that has given up on it.
//! - Another version comes to as many instances at once as the blueprint says, and to the next when these are steady. A canary
//!   comes to no more than its share, whatever else moves or begins meanwhile.
//! - A version that comes beside the one before ([`SlotSide`]) begins as a whole or not at all, and takes nothing from the one before.
//! - Instances of a blueprint that wants it go to emptier nodes when nothing else is to be done with them, some at a time.
//! - Where nodes have a capacity and it is taken, instances of a lower priority give way.
//! - What has no node stays unplaced, with the reason of each node.

mod beside;
mod check;
mod choose;
mod rebalance;
mod rollout;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

pub use self::beside::{Standby, standby};
pub use self::check::check;
use self::choose::Occupancy;
pub use self::rebalance::rebalance;
pub use self::rollout::{Stage, settled, stage};
use super::ids::{AgentName, NodeId};
use super::limits;
use super::model::{
    Blueprint, BlueprintRecord, Instances, NodeCard, Order, Post, SlotSide, SpecDigest, Tally,
};
pub use super::model::{Plan, Step, StepAction};

/// Everything that a plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct Landscape<'a> {
    /// The blueprints, by name.
    pub blueprints: &'a BTreeMap<AgentName, BlueprintRecord>,
    /// The orders that hold, by slot.
    pub orders: &'a BTreeMap<AgentName, Order>,
    /// The nodes that belong to the mesh, whether they are there or not.
    pub hosts: &'a BTreeMap<NodeId, Host>,
    /// What runs by the orders that hold: by slot, as its node tells. Of a slot that is missing nothing was heard.
    pub observed: &'a BTreeMap<AgentName, Observed>,
    /// What became of the messages of instances on trial since the step of their canary began, by slot.
    pub tallies: &'a BTreeMap<AgentName, Tally>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// What it says of itself.
    pub card: NodeCard,
    /// Whether it may have instances.
    pub state: HostState,
    /// Agents that it has and that no blueprint gave it.
    pub other_agents: usize,
    /// How busy its CPU is, in tenths.
    pub cpu_tenths: u16,
}

/// Whether a node may have instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    /// It is there.
    Up,
    /// It is there, and what it has is to go elsewhere.
    Draining,
    /// It is gone.
    Lost,
}

/// How the instance that an order asks for is, as its node tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// It is on its way, or starts again.
    Unsteady {
        /// It has come to an end since its order was given, for this reason.
        stumbled: Option<String>,
        /// Its deadline is over.
        overdue: bool,
    },
    /// It takes messages, for long enough.
    Steady,
    /// Its node has given up on it.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A reason, as long as it may be in an order or a version.
fn cut_off(mut why: String) -> String {
    why.truncate(why.floor_char_boundary(limits::ORDER_WHY_BYTES_MAX));
    why
}

/// What is to be ordered now.
#[must_use]
pub fn plan(landscape: Landscape<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut occupancy = Occupancy::of(landscape);
    stop_unwanted(landscape, &mut occupancy, &mut plan);
    let mut by_priority: Vec<_> = landscape.blueprints.iter().collect();
    by_priority.sort_by_key(|(_, record)| Reverse(record.current.blueprint.placement.priority));
    for (name, record) in by_priority {
        let Some(blueprint) = record.wanted() else {
            continue;
        };
        if let Some(why) = rollout::failure(landscape, record) {
            plan.roll_back.insert(name.clone(), cut_off(why));
            continue;
        }
        if record.current.beside.is_some() {
            beside::fill_both(landscape, record, &mut occupancy, &mut plan);
            continue;
        }
        let digest = blueprint.digest();
        for slot in wanted_slots(landscape, record) {
            fill(landscape, record, digest, slot, &mut occupancy, &mut plan);
        }
        rollout::advance(landscape, record, &mut occupancy, &mut plan);
    }
    for (name, record) in landscape.blueprints {
        if !plan.roll_back.contains_key(name) {
            rebalance::even_out(landscape, record, &mut occupancy, &mut plan);
        }
    }
    plan
}

/// Whether a node takes an instance of a blueprint of which each has one.
#[must_use]
pub fn takes_one(blueprint: &Blueprint, host: &Host) -> bool {
    host.state == HostState::Up && choose::may_have(blueprint, host).is_ok()
}

/// The slots of a blueprint that should be filled by its current version.
fn wanted_slots(landscape: Landscape<'_>, record: &BlueprintRecord) -> Vec<AgentName> {
    slots_on(record.current.side, landscape, &record.current.blueprint)
}

/// The slots on a side that as many instances fill as are wanted.
fn slots_on(side: SlotSide, landscape: Landscape<'_>, blueprint: &Blueprint) -> Vec<AgentName> {
    let name = blueprint.name();
    match blueprint.instances {
        Instances::Count(count) => (0..count).map(|number| side.slot(name, number)).collect(),
        Instances::PerNode => {
            let mut given: Vec<_> = orders_of(landscape, name).collect();
            given.sort_by_key(|(slot, _)| slot.slot());
            // A slot that ends with this plan is not given to another node before it has ended.
            let taken: BTreeSet<_> = given.iter().map(|(slot, _)| *slot).collect();
            let mut held: BTreeMap<&NodeId, &AgentName> = BTreeMap::new();
            for (slot, post) in given.iter().filter(|(_, post)| landscape.hosts.contains_key(&post.node)) {
                held.entry(&post.node).or_insert(slot);
            }
            let lacks = landscape.hosts.iter().filter(|(node, host)| {
                !held.contains_key(node)
                    && host.state == HostState::Up
                    && choose::may_have(blueprint, host).is_ok()
            });
            let free = (0..limits::INSTANCES_MAX)
                .map(|number| side.slot(name, number))
                .filter(|slot| !taken.contains(slot));
            let new = free.zip(lacks).map(|(slot, _)| slot);
            held.values().copied().cloned().chain(new).collect()
        }
    }
}

/// The slots of a blueprint that are given to somebody, with what was ordered.
fn orders_of<'a>(
    landscape: Landscape<'a>,
    name: &AgentName,
) -> impl Iterator<Item = (&'a AgentName, &'a Post)> + use<'a> {
    let prefix = format!("{name}#");
    let from = name.of_slot(0);
    let orders =
        landscape.orders.range(from..).take_while(move |(slot, _)| slot.as_str().starts_with(&prefix));
    orders.filter_map(|(slot, order)| Some((slot, order.post.as_ref()?)))
}

/// Ends what no blueprint wants. An order of a blueprint that is not known here is left alone: word of it may be on its way.
fn stop_unwanted(landscape: Landscape<'_>, occupancy: &mut Occupancy, plan: &mut Plan) {
    for (name, record) in landscape.blueprints {
        let wanted: BTreeSet<_> =
            record.wanted().into_iter().flat_map(|_| beside::kept_slots(landscape, record)).collect();
        let why = |slot: &AgentName, post: &Post| match record.wanted().map(|blueprint| blueprint.instances) {
            Some(Instances::Count(_)) if SlotSide::of(slot) != record.current.side => {
                format!("version {} takes all messages", record.current.number)
            }
            None => "its blueprint was removed".to_owned(),
            Some(Instances::Count(count)) => format!("{count} instances are wanted"),
            Some(Instances::PerNode) if landscape.hosts.contains_key(&post.node) => {
                "its node has another one".to_owned()
            }
            Some(Instances::PerNode) => "its node does not belong to the mesh any more".to_owned(),
        };
        for (slot, post) in orders_of(landscape, name) {
            if !wanted.contains(slot) {
                occupancy.ends(slot, &post.node);
                plan.order(slot.clone(), StepAction::Stop, None, why(slot, post));
            }
        }
    }
}

/// Gives a slot to a node, if it has none that may keep it.
fn fill(
    landscape: Landscape<'_>,
    record: &BlueprintRecord,
    digest: SpecDigest,
    slot: AgentName,
    occupancy: &mut Occupancy,
    plan: &mut Plan,
) {
    if occupancy.is_evicted(&slot) {
        return;
    }
    let blueprint = &record.current.blueprint;
    let per_node = blueprint.instances == Instances::PerNode;
    let held = landscape.orders.get(&slot).and_then(|order| order.post.as_ref());
    let before = beside::kept_back(landscape, record, &slot);
    let Some(post) = held else {
        // A canary's share grows by updates alone.
        let digest = before.unwrap_or(digest);
        let why = if per_node { "one on each node" } else { "it is wanted" };
        return match find_room(landscape, blueprint, &slot, &[], occupancy, plan) {
            Ok((node, made)) => {
                let post = Post { node, digest, relieves: None, tried: vec![] };
                plan.order(slot, StepAction::Create, Some(post), format!("{why}{made}"));
            }
            Err(why) => {
                plan.unplaced.insert(slot, why);
            }
        };
    };
    let Some(trouble) = trouble_of(landscape, blueprint, &slot, post) else {
        return;
    };
    if per_node {
        return end_on_node(blueprint, slot, post, &trouble, occupancy, plan);
    }
    // While an update is paused, or a canary, what goes elsewhere goes as what it is.
    let is_known = record.version_of(post.digest).is_some();
    let digest = match before {
        Some(_) if is_known => post.digest,
        Some(before) => before,
        None if record.paused && is_known => post.digest,
        None => digest,
    };
    let mut tried = if post.digest == digest { post.tried.clone() } else { vec![] };
    if matches!(trouble, Trouble::GivenUp(_)) && post.digest == digest {
        tried.push(post.node.clone());
        tried.drain(..tried.len().saturating_sub(limits::ORDER_TRIED_MAX));
    }
    let runs = matches!(trouble, Trouble::Drained | Trouble::Unfit(_));
    let relieves = serving(landscape, &slot, post, runs).cloned();
    let mut not_on = tried.clone();
    not_on.push(post.node.clone());
    occupancy.leave(&post.node, blueprint.name());
    match find_room(landscape, blueprint, &slot, &not_on, occupancy, plan) {
        Ok((node, made)) => {
            let relieves = relieves.filter(|relieved| *relieved != node);
            let post = Post { node, digest, relieves, tried };
            plan.order(slot, StepAction::Move, Some(post), format!("{trouble}{made}"));
        }
        Err(why) => {
            occupancy.come(&post.node, blueprint.name());
            plan.unplaced.insert(slot, format!("{trouble}; {why}"));
        }
    }
}

/// The node for a slot, and what was done to make room there. Where there is none, instances of a lower priority end.
///
/// # Errors
/// Why each node cannot have it.
fn find_room(
    landscape: Landscape<'_>,
    blueprint: &Blueprint,
    slot: &AgentName,
    not_on: &[NodeId],
    occupancy: &mut Occupancy,
    plan: &mut Plan,
) -> Result<(NodeId, String), String> {
    let why = match occupancy.choose(landscape, blueprint, slot, not_on) {
        Ok(node) => return Ok((node, String::new())),
        Err(why) => why,
    };
    let (node, give_way) = occupancy.preempt(landscape, blueprint, not_on).ok_or(why)?;
    let names = give_way.iter().map(AgentName::as_str).collect::<Vec<_>>().join(", ");
    let priority = blueprint.placement.priority;
    for other in give_way {
        plan.unplaced.remove(&other);
        plan.order(
            other,
            StepAction::Stop,
            None,
            format!("it gives way to {slot}, whose priority is {priority}"),
        );
    }
    Ok((node, format!("; there is room for it because of its priority, without {names}")))
}

/// The node that has the instance of a slot until another has begun. One that has not begun is itself waited for, by the
/// one that it relieves.
fn serving<'a>(landscape: Landscape<'_>, slot: &AgentName, post: &'a Post, runs: bool) -> Option<&'a NodeId> {
    let is_there =
        |node: &&NodeId| landscape.hosts.get(*node).is_some_and(|host| host.state != HostState::Lost);
    let before = post.relieves.as_ref().filter(is_there);
    let now = runs.then_some(&post.node);
    if landscape.observed.get(slot) == Some(&Observed::Steady) { now.or(before) } else { before.or(now) }
}

/// One of each node ends with its node, and goes nowhere else.
fn end_on_node(
    blueprint: &Blueprint,
    slot: AgentName,
    post: &Post,
    trouble: &Trouble,
    occupancy: &mut Occupancy,
    plan: &mut Plan,
) {
    match trouble {
        Trouble::Drained | Trouble::Unfit(_) => {
            occupancy.leave(&post.node, blueprint.name());
            plan.order(slot, StepAction::Stop, None, trouble.to_string());
        }
        Trouble::Lost(_) | Trouble::GivenUp(_) | Trouble::Late => {
            plan.unplaced.insert(slot, trouble.to_string());
        }
    }
}

/// Why an instance cannot stay where it is.
#[derive(Debug)]
enum Trouble {
    /// Its node is gone.
    Lost(NodeId),
    /// Its node is drained.
    Drained,
    /// Its node may not have it any more.
    Unfit(String),
    /// Its node has given up on it.
    GivenUp(String),
    /// Its node has not begun it in time, and may do better another day.
    Late,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(node) => write!(f, "{node} is gone"),
            Self::Drained => f.write_str("its node is drained"),
            Self::Unfit(why) => write!(f, "its node may not have it: {why}"),
            Self::GivenUp(why) => write!(f, "its node has given up on it: {why}"),
            Self::Late => f.write_str("its node has not begun it in time"),
        }
    }
}

fn trouble_of(
    landscape: Landscape<'_>,
    blueprint: &Blueprint,
    slot: &AgentName,
    post: &Post,
) -> Option<Trouble> {
    let Some(host) = landscape.hosts.get(&post.node) else {
        return Some(Trouble::Lost(post.node.clone()));
    };
    match host.state {
        HostState::Lost => return Some(Trouble::Lost(post.node.clone())),
        HostState::Draining => return Some(Trouble::Drained),
        HostState::Up => {}
    }
    if let Err(why) = choose::may_have(blueprint, host) {
        return Some(Trouble::Unfit(why));
    }
    match landscape.observed.get(slot) {
        Some(Observed::Failed { reason }) => Some(Trouble::GivenUp(reason.clone())),
        Some(Observed::Unsteady { stumbled: None, overdue: true }) => Some(Trouble::Late),
        Some(Observed::Unsteady { .. } | Observed::Steady) | None => None,
    }
}
