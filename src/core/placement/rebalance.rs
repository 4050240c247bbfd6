//! Moves that make nodes equally full, when somebody asks for them: nothing moves for that reason by itself.

use std::collections::BTreeMap;

use super::choose::Occupancy;
use super::{HostState, Landscape, Observed, Plan, StepAction};
use crate::core::ids::{AgentName, NodeId};
use crate::core::model::{Blueprint, Instances, PlacementStrategy, Post};

/// At most `moves_max` moves from the fullest nodes to the emptiest that may have what they have. Only steady instances
/// move, none of a blueprint that is to fill one node after the other, and none away from where it was wished to be.
#[must_use]
pub fn rebalance(landscape: Landscape<'_>, moves_max: usize) -> Plan {
    let mut plan = Plan::default();
    let mut occupancy = Occupancy::of(landscape);
    let mut movable = movable(landscape);
    while plan.steps.len() < moves_max {
        let mut hosts: Vec<&NodeId> = landscape
            .hosts
            .iter()
            .filter(|(_, host)| host.state == HostState::Up)
            .map(|(node, _)| node)
            .collect();
        hosts.sort_by_key(|node| (occupancy.agents(node), *node));
        let Some((slot, step)) = next_move(landscape, &occupancy, &hosts, &movable) else {
            break;
        };
        if let Some(from) = &step.relieves {
            occupancy.leave(from, &slot.base());
            movable.get_mut(from).and_then(|there| there.remove(&slot));
        }
        occupancy.come(&step.node, &slot.base());
        plan.order(slot, StepAction::Move, Some(step), "nodes are made equally full");
    }
    plan
}

/// What a node has that may move.
type Movable<'a> = BTreeMap<AgentName, (&'a Blueprint, &'a Post)>;

/// What may move, by the node that has it.
fn movable(landscape: Landscape<'_>) -> BTreeMap<&NodeId, Movable<'_>> {
    let mut movable: BTreeMap<_, Movable<'_>> = BTreeMap::new();
    for (slot, order) in landscape.orders {
        let record = landscape.blueprints.get(&slot.base());
        let (Some(record), Some(post)) = (record, &order.post) else {
            continue;
        };
        let Some(blueprint) = record.wanted() else {
            continue;
        };
        let is_wanted = match blueprint.instances {
            Instances::Count(count) => slot.slot().is_some_and(|number| number < count),
            Instances::PerNode => false,
        };
        if is_wanted
            && blueprint.placement.strategy != PlacementStrategy::Binpack
            && landscape.observed.get(slot) == Some(&Observed::Steady)
        {
            movable.entry(&post.node).or_default().insert(slot.clone(), (blueprint, post));
        }
    }
    movable
}

/// The first move, from the fullest node, that leaves its target emptier than its source was.
fn next_move(
    landscape: Landscape<'_>,
    occupancy: &Occupancy,
    hosts: &[&NodeId],
    movable: &BTreeMap<&NodeId, Movable<'_>>,
) -> Option<(AgentName, Post)> {
    for from in hosts.iter().rev() {
        let there = movable.get(*from).into_iter().flatten();
        for to in hosts.iter().filter(|to| occupancy.agents(to).saturating_add(1) < occupancy.agents(from)) {
            let found = there.clone().find(|(slot, (blueprint, post))| {
                occupancy.accepts(blueprint, to, &landscape.hosts[*to], &post.tried).is_ok()
                    && !occupancy.is_worse(landscape, blueprint, from, to)
                    && landscape.blueprints[&slot.base()].version_of(post.digest).is_some()
            });
            if let Some((slot, (_, post))) = found {
                let (node, relieves) = ((**to).clone(), Some((**from).clone()));
                return Some((slot.clone(), Post { node, relieves, ..(*post).clone() }));
            }
        }
    }
    None
}
