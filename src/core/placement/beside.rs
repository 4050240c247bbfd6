//! A version that comes beside the one before: all of it or nothing, and nothing of the one before is touched for it.

use std::collections::BTreeSet;

use super::choose::Occupancy;
use super::{
    HostState, Landscape, Observed, Plan, StepAction, fill, orders_of, rollout, slots_on, wanted_slots,
};
use crate::core::ids::AgentName;
use crate::core::model::{Beside, BlueprintRecord, Post, SlotSide, SpecDigest};

/// How a version stands that is beside the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    /// Whether it takes the messages.
    pub stage: Beside,
    /// How many instances it has to have.
    pub wanted: usize,
    /// How many are steady.
    pub steady: usize,
    /// What it waits for before it may take the messages; `None`: nothing.
    pub waits_for: Option<String>,
}

/// How the current version of a blueprint stands, if it is beside the one before.
#[must_use]
pub fn standby(landscape: Landscape<'_>, record: &BlueprintRecord) -> Option<Standby> {
    let stage = record.wanted().and(record.current.beside)?;
    let wanted = wanted_slots(landscape, record);
    let digest = record.current.blueprint.digest();
    let is_ready = |slot: &&AgentName| {
        let post = landscape.orders.get(*slot).and_then(|order| order.post.as_ref());
        let is_there = |post: &Post| {
            post.digest == digest
                && landscape.hosts.get(&post.node).is_some_and(|host| host.state != HostState::Lost)
        };
        post.is_some_and(is_there) && landscape.observed.get(*slot) == Some(&Observed::Steady)
    };
    let steady = wanted.iter().filter(is_ready).count();
    let unsteady = wanted.iter().find(|slot| !is_ready(slot));
    let waits_for = match unsteady {
        _ if record.paused => Some("it is paused".to_owned()),
        Some(slot) => Some(format!("{slot} is not steady")),
        None => None,
    };
    Some(Standby { stage, wanted: wanted.len(), steady, waits_for })
}

/// The slots of a blueprint in which something may be.
pub(super) fn kept_slots(landscape: Landscape<'_>, record: &BlueprintRecord) -> Vec<AgentName> {
    let mut slots = wanted_slots(landscape, record);
    if record.current.beside.is_some() {
        slots.extend(slots_on(record.current.side.other(), landscape, &record.current.blueprint));
    }
    slots
}

/// The version before, if what fills a slot is to be of it: a canary's share grows by updates alone, and a version that comes
/// beside another takes none of the slots of that.
pub(super) fn kept_back(
    landscape: Landscape<'_>,
    record: &BlueprintRecord,
    slot: &AgentName,
) -> Option<SpecDigest> {
    let is_former = record.current.beside.is_some() && SlotSide::of(slot) != record.current.side;
    let version = match is_former {
        true => record.on_call(),
        false => rollout::share(landscape, record).and_then(|_| record.before()),
    };
    version.map(|version| version.blueprint.digest())
}

/// Fills the slots of the version that takes messages and of the one that waits.
pub(super) fn fill_both(
    landscape: Landscape<'_>,
    record: &BlueprintRecord,
    occupancy: &mut Occupancy,
    plan: &mut Plan,
) {
    let blueprint = &record.current.blueprint;
    let waits = record.current.beside == Some(Beside::Waits);
    let digest = blueprint.digest();
    // What has served its time is not begun again, nor what nobody knows any more.
    if waits && record.on_call().is_some() {
        for slot in slots_on(record.current.side.other(), landscape, blueprint) {
            fill(landscape, record, digest, slot, occupancy, plan);
        }
    }
    let is_held = |slot: &AgentName| landscape.orders.get(slot).is_some_and(|order| order.post.is_some());
    let (held, missing): (Vec<_>, Vec<_>) = wanted_slots(landscape, record).into_iter().partition(is_held);
    for slot in held {
        fill(landscape, record, digest, slot, occupancy, plan);
    }
    if record.paused {
        return;
    }
    let before = (occupancy.clone(), plan.clone());
    for slot in &missing {
        fill(landscape, record, digest, slot.clone(), occupancy, plan);
    }
    let unplaced = missing.iter().find_map(|slot| plan.unplaced.get(slot)).cloned();
    if let Some(why) = unplaced.filter(|_| waits) {
        (*occupancy, *plan) = before;
        let number = record.current.number;
        let why =
            format!("version {number} begins when there is room for all of it beside the one before: {why}");
        plan.unplaced.extend(missing.into_iter().map(|slot| (slot, why.clone())));
    }
    renew(landscape, record, plan);
}

/// What waits as an earlier version, which waited in vain, waits as the current one: all at once, for nobody needs it yet.
fn renew(landscape: Landscape<'_>, record: &BlueprintRecord, plan: &mut Plan) {
    let blueprint = &record.current.blueprint;
    let (name, digest) = (blueprint.name(), blueprint.digest());
    let changed: BTreeSet<_> = plan.steps.iter().map(|step| step.slot.clone()).collect();
    let stays: BTreeSet<_> = rollout::updatable(landscape, blueprint).map(|(slot, _)| slot).collect();
    let outdated = orders_of(landscape, name).filter(|(slot, post)| {
        SlotSide::of(slot) == record.current.side
            && post.digest != digest
            && stays.contains(slot)
            && !changed.contains(*slot)
    });
    let why = format!("version {}: {}", record.current.number, record.current.why);
    for (slot, post) in outdated {
        plan.unplaced.remove(slot);
        let next = Post { node: post.node.clone(), digest, relieves: None, tried: vec![] };
        plan.order(slot.clone(), StepAction::Update, Some(next), why.clone());
    }
}
