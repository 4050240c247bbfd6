//! From one version of a blueprint to the next: some instances at a time, and back again when they fail.

use std::collections::BTreeMap;

use super::choose::{self, Occupancy};
use super::{Host, HostState, Landscape, Observed, Plan, StepAction, orders_of, serving, wanted_slots};
use crate::core::ids::{AgentName, NodeId};
use crate::core::model::{Blueprint, BlueprintRecord, Instances, Post, SpecDigest, Tally};

/// Why the current version has to make room for the one before; `None`: it has not failed, or nothing came before it.
///
/// A version whose instances were all steady once has taken its place: if an instance fails later, that is no reason to go
/// back. Nor is a node that is gone, or one that its instance has to leave.
pub(super) fn failure(landscape: Landscape<'_>, record: &BlueprintRecord) -> Option<String> {
    let blueprint = record.wanted()?;
    let digest = blueprint.digest();
    let is_over = record.paused || record.current.settled || record.current.goes_back;
    if !blueprint.update.roll_back || is_over {
        return None;
    }
    record.before()?;
    let held: Vec<_> = updatable(landscape, blueprint).collect();
    let is_of_it = |(_, post): &&(&AgentName, &Post)| post.digest == digest;
    let ill = held.iter().filter(is_of_it).find_map(|(slot, post)| {
        let why = match landscape.observed.get(*slot)? {
            Observed::Failed { reason } | Observed::Unsteady { stumbled: Some(reason), .. } => reason.clone(),
            Observed::Unsteady { overdue: true, .. } => {
                format!("it was not steady within {} s", blueprint.update.deadline.as_secs())
            }
            Observed::Unsteady { .. } | Observed::Steady => return None,
        };
        Some(format!("{slot} on {}: {why}", post.node))
    });
    ill.or_else(|| errors(landscape, record))
}

/// Why the messages of the current version speak against it.
fn errors(landscape: Landscape<'_>, record: &BlueprintRecord) -> Option<String> {
    let canary = record.wanted()?.update.strategy.canary()?;
    canary.failure(tally(landscape, record))
}

/// What became of the messages of the current version since its step began.
fn tally(landscape: Landscape<'_>, record: &BlueprintRecord) -> Tally {
    let of_it = of_current(landscape, record).filter_map(|slot| landscape.tallies.get(slot));
    of_it.fold(Tally::default(), |all, one| all.and(*one))
}

/// The slots that were given to the current version, wherever they are.
fn of_current<'a>(
    landscape: Landscape<'a>,
    record: &BlueprintRecord,
) -> impl Iterator<Item = &'a AgentName> + use<'a> {
    let blueprint = &record.current.blueprint;
    let digest = blueprint.digest();
    let orders = orders_of(landscape, blueprint.name());
    orders.filter(move |(_, post)| post.digest == digest).map(|(slot, _)| slot)
}

/// How many instances may be of the current version while its canary is under way; `None`: none is.
pub(super) fn share(landscape: Landscape<'_>, record: &BlueprintRecord) -> Option<usize> {
    let (canary, passed) = record.canary()?;
    let wanted = wanted_slots(landscape, record).len();
    Some((wanted * usize::from(canary.steps[passed])).div_ceil(100).max(1).min(wanted))
}

/// How a step of a canary stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Which step it is, from 1.
    pub step: usize,
    /// How many there are.
    pub steps: usize,
    /// Its share.
    pub percent: u8,
    /// How many instances that is.
    pub share: usize,
    /// How many are of the version.
    pub updated: usize,
    /// What became of their messages since the step began.
    pub tally: Tally,
    /// What it waits for before the time counts for which it is held; `None`: that time counts.
    pub waits_for: Option<String>,
}

/// How the canary of a blueprint stands; `None`: there is none under way.
#[must_use]
pub fn stage(landscape: Landscape<'_>, record: &BlueprintRecord) -> Option<Stage> {
    let (canary, passed) = record.canary()?;
    let share = share(landscape, record)?;
    let of_it: Vec<_> = of_current(landscape, record).collect();
    let unsteady =
        of_it.iter().find(|slot| landscape.observed.get(**slot) != Some(&Observed::Steady)).copied();
    let waits_for = match unsteady {
        _ if record.paused => Some("it is paused".to_owned()),
        Some(slot) => Some(format!("{slot} is not steady")),
        None if of_it.len() < share => Some(format!("{} of {share} instances are of it", of_it.len())),
        None => errors(landscape, record),
    };
    Some(Stage {
        step: passed + 1,
        steps: canary.steps.len(),
        percent: canary.steps[passed],
        share,
        updated: of_it.len(),
        tally: tally(landscape, record),
        waits_for,
    })
}

/// The blueprints whose current version has come to all of their slots, all of them steady, for the first time.
#[must_use]
pub fn settled(landscape: Landscape<'_>) -> Vec<AgentName> {
    let is_settled = |record: &BlueprintRecord| {
        let is_open = !record.current.settled && record.canary().is_none() && record.current.beside.is_none();
        let Some(blueprint) = record.wanted().filter(|_| is_open) else {
            return false;
        };
        let digest = blueprint.digest();
        let is_done = |slot: &AgentName| {
            let post = landscape.orders.get(slot).and_then(|order| order.post.as_ref());
            let is_steady = landscape.observed.get(slot) == Some(&Observed::Steady);
            post.is_some_and(|post| post.digest == digest) && is_steady
        };
        wanted_slots(landscape, record).iter().all(is_done)
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
    if updatable(landscape, blueprint).all(|(_, post)| post.digest == digest) {
        return;
    }
    let of_it = plan.steps.iter().filter(|step| is_slot_of(&step.slot, blueprint.name()));
    let changes: BTreeMap<_, _> = of_it.map(|step| (&step.slot, step.post.as_ref())).collect();
    let held = updatable(landscape, blueprint).filter(|(slot, _)| !changes.contains_key(slot));
    let (current, outdated): (Vec<_>, Vec<_>) = held.partition(|(_, post)| post.digest == digest);
    let is_steady = |slot: &AgentName| landscape.observed.get(slot) == Some(&Observed::Steady);
    let begins = changes.values().flatten().filter(|post| post.digest == digest).count();
    let under_way = begins + current.iter().filter(|(slot, _)| !is_steady(slot)).count();
    let half = if record.current.goes_back { (current.len() + outdated.len()).div_ceil(2) } else { 0 };
    let mut at_once = usize::from(blueprint.update.max_parallel).max(half).saturating_sub(under_way);
    let mut outdated = outdated;
    if let Some((share, before)) = share(landscape, record).zip(record.before()) {
        let elsewhere = of_current(landscape, record).filter(|slot| !changes.contains_key(slot)).count();
        at_once = at_once.min(share.saturating_sub(begins + elsewhere));
        // What is of neither version was given up, or is on its way to be: it goes first.
        let before = before.blueprint.digest();
        outdated.sort_by_key(|(_, post)| post.digest == before);
    }
    let mut others = current.iter().chain(&outdated).filter(|(slot, _)| is_steady(slot)).count();
    let why = format!("version {}: {}", record.current.number, record.current.why);
    for (slot, post) in outdated.into_iter().take(at_once) {
        let serves = usize::from(is_steady(slot));
        let next = updated(landscape, blueprint, digest, slot, post, others > serves, occupancy);
        if next.node == post.node {
            others -= serves;
        }
        plan.unplaced.remove(slot);
        plan.order(slot.clone(), StepAction::Update, Some(next), why.clone());
    }
}

/// What an update may come to: instances on nodes that are there and may have them.
pub(super) fn updatable<'a>(
    landscape: Landscape<'a>,
    blueprint: &'a Blueprint,
) -> impl Iterator<Item = (&'a AgentName, &'a Post)> {
    let may_stay = |host: &Host| host.state == HostState::Up && choose::may_have(blueprint, host).is_ok();
    orders_of(landscape, blueprint.name())
        .filter(move |(_, post)| landscape.hosts.get(&post.node).is_some_and(may_stay))
}

fn is_slot_of(slot: &AgentName, name: &AgentName) -> bool {
    slot.as_str().strip_prefix(name.as_str()).is_some_and(|number| number.starts_with('#'))
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
    let serves = serving(landscape, slot, post, true);
    let relieves = |node: &NodeId| serves.filter(|serves| *serves != node).cloned();
    let to = |node: NodeId| Post { relieves: relieves(&node), node, digest, tried: vec![] };
    let here = to(post.node.clone());
    if others_serve || blueprint.instances == Instances::PerNode {
        return here;
    }
    occupancy.leave(&post.node, blueprint.name());
    match occupancy.choose(landscape, blueprint, slot, std::slice::from_ref(&post.node)) {
        Ok(node) => to(node),
        Err(_) => {
            occupancy.come(&post.node, blueprint.name());
            here
        }
    }
}
