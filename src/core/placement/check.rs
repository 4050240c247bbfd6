//! A second look at a plan, which knows nothing of how it was made.

use std::collections::{BTreeMap, BTreeSet};

use super::{HostState, Landscape, Plan, StepAction, choose};
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::{Instances, Post, SlotSide};

/// Looks for what no plan may order.
///
/// # Errors
/// The first thing that is wrong, in words.
pub fn check(landscape: Landscape<'_>, plan: &Plan) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for step in &plan.steps {
        let (slot, wrong) = (&step.slot, |what: &str| Err(format!("{}: {what}", step.slot)));
        if !seen.insert(slot) {
            return wrong("it is ordered twice");
        }
        let Some(record) = landscape.blueprints.get(&slot.base()) else {
            return wrong("no blueprint of that name is known");
        };
        let held = landscape.orders.get(slot).and_then(|order| order.post.as_ref());
        match (step.action, &step.post, held) {
            (StepAction::Stop, None, Some(_)) | (StepAction::Create, Some(_), None) => {}
            (StepAction::Move, Some(post), Some(held)) if post.node != held.node => {}
            (StepAction::Update, Some(post), Some(held)) if post.digest != held.digest => {}
            _ => return wrong("what is done does not fit what there is"),
        }
        let (Some(post), Some(blueprint)) = (&step.post, record.wanted()) else {
            if step.post.is_some() {
                return wrong("it is of a blueprint that was removed");
            }
            continue;
        };
        check_post(landscape, post).map_err(|what| format!("{slot}: {what}"))?;
        if record.version_of(post.digest).is_none() {
            return wrong("no version of its blueprint is made of that");
        }
        let host = &landscape.hosts[&post.node];
        choose::may_have(blueprint, host)
            .map_err(|why| format!("{slot}: {} may not have it: {why}", post.node))?;
        if let (Instances::Count(count), Some(number)) = (blueprint.instances, SlotSide::number_of(slot)) {
            if number >= count {
                return wrong("there are not so many slots");
            }
            if SlotSide::of(slot) != record.current.side && record.current.beside.is_none() {
                return wrong("nothing is beside its version");
            }
        }
    }
    check_crowding(landscape, plan)
}

fn check_post(landscape: Landscape<'_>, post: &Post) -> Result<(), String> {
    let Some(host) = landscape.hosts.get(&post.node) else {
        return Err(format!("{} does not belong to the mesh", post.node));
    };
    if host.state != HostState::Up {
        return Err(format!("{} takes no agents", post.node));
    }
    if post.relieves.as_ref() == Some(&post.node) {
        return Err("it would relieve itself".to_owned());
    }
    Ok(())
}

/// What comes to a node does not break a bound, or a rule of who must not be together.
fn check_crowding(landscape: Landscape<'_>, plan: &Plan) -> Result<(), String> {
    let mut after: BTreeMap<AgentName, NodeId> = BTreeMap::new();
    for (slot, order) in landscape.orders {
        after.extend(order.post.as_ref().map(|post| (slot.clone(), post.node.clone())));
    }
    let mut came = BTreeSet::new();
    for step in &plan.steps {
        match &step.post {
            Some(post) => {
                // What stays where it is does not come there.
                if after.insert(step.slot.clone(), post.node.clone()).as_ref() != Some(&post.node) {
                    came.insert(step.slot.clone());
                }
            }
            None => {
                after.remove(&step.slot);
            }
        }
    }
    let mut on: BTreeMap<&NodeId, BTreeMap<AgentName, usize>> = BTreeMap::new();
    for (slot, node) in &after {
        *on.entry(node).or_default().entry(slot.base()).or_default() += 1;
    }
    let kept_off_by = choose::kept_off_by(landscape);
    for slot in &came {
        let (node, name) = (&after[slot], slot.base());
        let Some(blueprint) = landscape.blueprints.get(&name).and_then(|record| record.wanted()) else {
            continue;
        };
        let others = &on[node];
        let agents = others.values().sum::<usize>().saturating_add(landscape.hosts[node].other_agents);
        if agents > limits::AGENTS_PER_NODE_MAX {
            return Err(format!("{slot}: {node} would have {agents} agents"));
        }
        let weight = |name: &AgentName| {
            let record = landscape.blueprints.get(name);
            record.map_or(1, |record| u64::from(record.current.blueprint.placement.weight.0))
        };
        let weighs: u64 = others.iter().map(|(name, count)| weight(name) * *count as u64).sum();
        match landscape.hosts[node].card.capacity() {
            Ok(Some(capacity)) if weighs > u64::from(capacity) => {
                return Err(format!("{slot}: {node} would have {weighs}, and its capacity is {capacity}"));
            }
            Ok(_) => {}
            Err(why) => return Err(format!("{slot}: {node}: {why}")),
        }
        let most = |other: &AgentName| usize::from(*other == name);
        let crowded = blueprint.placement.apart_from.iter();
        let crowded = crowded.filter(|other| others.get(*other).copied().unwrap_or(0) > most(other));
        if let Some(other) = crowded.into_iter().next() {
            return Err(format!("{slot}: it would be with {other} on {node}"));
        }
        if let Some(other) = kept_off_by.get(&name).into_iter().flatten().find(|o| others.contains_key(*o)) {
            return Err(format!("{slot}: it would be with {other} on {node}, which is to be apart from it"));
        }
        if blueprint.instances == Instances::PerNode && others[&name] > 1 {
            return Err(format!("{slot}: {node} would have two"));
        }
    }
    Ok(())
}
