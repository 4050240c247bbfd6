//! From one version of a blueprint to the next: some instances at a time, and back again when they fail.

use super::choose::Occupancy;
use super::{HostState, Landscape, Observed, Plan, StepAction, orders_of, wanted_slots};
use crate::core::ids::AgentName;
use crate::core::model::{Blueprint, BlueprintRecord, Instances, Post, SpecDigest};

/// Why the current version has to make room for the one before; `None`: it has not failed, or nothing came before it.
pub(super) fn failure(landscape: Landscape<'_>, record: &BlueprintRecord) -> Option<String> {
    let blueprint = record.wanted()?;
    let digest = blueprint.digest();
    let differs = |before: &crate::core::model::Version| before.blueprint.digest() != digest;
    let is_over = record.current.settled || record.current.goes_back;
    if !blueprint.update.roll_back || is_over || !record.former.first().is_some_and(differs) {
        return None;
    }
    let is_of_it = |(_, post): &(&AgentName, &Post)| post.digest == digest;
    orders_of(landscape, blueprint.name()).filter(is_of_it).find_map(|(slot, post)| {
        let why = match landscape.observed.get(slot)? {
            Observed::Failed { reason } | Observed::Unsteady { stumbled: Some(reason), .. } => reason.clone(),
            Observed::Unsteady { overdue: true, .. } => {
                format!("it was not steady within {} s", blueprint.update.deadline.as_secs())
            }
            Observed::Unsteady { .. } | Observed::Steady => return None,
        };
        Some(format!("{slot} on {}: {why}", post.node))
    })
}

/// The blueprints whose current version has come to all of their slots, all of them steady, for the first time.
#[must_use]
pub fn settled(landscape: Landscape<'_>) -> Vec<AgentName> {
    let is_settled = |record: &BlueprintRecord| {
        let Some(blueprint) = record.wanted().filter(|_| !record.current.settled) else {
            return false;
        };
        let digest = blueprint.digest();
        let is_done = |slot: &AgentName| {
            let post = landscape.orders.get(slot).and_then(|order| order.post.as_ref());
            let is_steady = landscape.observed.get(slot) == Some(&Observed::Steady);
            post.is_some_and(|post| post.digest == digest) && is_steady
        };
        wanted_slots(landscape, blueprint).iter().all(is_done)
    };
    let settled = landscape.blueprints.iter().filter(|(_, record)| is_settled(record));
    settled.map(|(name, _)| name.clone()).collect()
}

/// Updates the next instances, if those before them are steady.
pub(super) fn advance(
    landscape: Landscape<'_>,
    record: &BlueprintRecord,
    occupancy: &mut Occupancy,
    plan: &mut Plan,
) {
    let Some(blueprint) = record.wanted().filter(|_| !record.paused) else {
        return;
    };
    let digest = blueprint.digest();
    let changes: std::collections::BTreeSet<_> = plan.steps.iter().map(|step| step.slot.clone()).collect();
    let is_up = |post: &Post| landscape.hosts.get(&post.node).is_some_and(|host| host.state == HostState::Up);
    let held = || {
        orders_of(landscape, blueprint.name()).filter(|(slot, post)| !changes.contains(*slot) && is_up(post))
    };
    let is_steady = |slot: &AgentName| landscape.observed.get(slot) == Some(&Observed::Steady);
    let outdated: Vec<_> = held().filter(|(_, post)| post.digest != digest).collect();
    let under_way = held().filter(|(slot, post)| post.digest == digest && !is_steady(slot)).count();
    let half = if record.current.goes_back { held().count().div_ceil(2) } else { 0 };
    let at_once = usize::from(blueprint.update.max_parallel).max(half).saturating_sub(under_way);
    let steady = held().filter(|(slot, _)| is_steady(slot)).count();
    let why = format!("version {}: {}", record.current.number, record.current.why);
    for (slot, post) in outdated.into_iter().take(at_once) {
        let others_serve = steady > usize::from(is_steady(slot));
        let post = updated(landscape, blueprint, digest, slot, post, others_serve, occupancy);
        plan.order(slot.clone(), StepAction::Update, Some(post), why.clone());
    }
}

/// An instance is updated where it is while others serve; the only one begins elsewhere before it ends here, if it can.
fn updated(
    landscape: Landscape<'_>,
    blueprint: &Blueprint,
    digest: SpecDigest,
    slot: &AgentName,
    post: &Post,
    others_serve: bool,
    occupancy: &mut Occupancy,
) -> Post {
    let here = Post { node: post.node.clone(), digest, relieves: None, tried: vec![] };
    if others_serve || blueprint.instances == Instances::PerNode {
        return here;
    }
    occupancy.leave(&post.node, blueprint.name());
    match occupancy.choose(landscape, blueprint, slot, std::slice::from_ref(&post.node)) {
        Ok(node) => Post { node, relieves: Some(post.node.clone()), ..here },
        Err(_) => {
            occupancy.come(&post.node, blueprint.name());
            here
        }
    }
}
