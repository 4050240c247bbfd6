//! Moves that make nodes equally full, when somebody asks for them: nothing moves for that reason by itself.

use super::choose::Occupancy;
use super::{HostState, Landscape, Observed, Plan, StepAction};
use crate::core::ids::NodeId;
use crate::core::model::{Instances, PlacementStrategy, Post};

/// At most `moves_max` moves from the fullest nodes to the emptiest that may have what they have. Only steady instances
/// move, and none of a blueprint that is to fill one node after the other.
#[must_use]
pub fn rebalance(landscape: Landscape<'_>, moves_max: usize) -> Plan {
    let mut plan = Plan::default();
    let mut occupancy = Occupancy::of(landscape);
    let mut moved = std::collections::BTreeSet::new();
    while plan.steps.len() < moves_max {
        let mut hosts: Vec<&NodeId> = landscape
            .hosts
            .iter()
            .filter(|(_, host)| host.state == HostState::Up)
            .map(|(node, _)| node)
            .collect();
        hosts.sort_by_key(|node| (occupancy.agents(node), *node));
        let Some((slot, step)) = next_move(landscape, &occupancy, &hosts, &moved) else {
            break;
        };
        if let Some(post) = &step.relieves {
            occupancy.leave(post, &slot.base());
        }
        occupancy.come(&step.node, &slot.base());
        moved.insert(slot.clone());
        plan.order(slot, StepAction::Move, Some(step), "nodes are made equally full");
    }
    plan
}

/// The first move, from the fullest node, that leaves its target emptier than its source was.
fn next_move(
    landscape: Landscape<'_>,
    occupancy: &Occupancy,
    hosts: &[&NodeId],
    moved: &std::collections::BTreeSet<crate::core::ids::AgentName>,
) -> Option<(crate::core::ids::AgentName, Post)> {
    for from in hosts.iter().rev() {
        for to in hosts.iter().filter(|to| occupancy.agents(to) + 1 < occupancy.agents(from)) {
            let here = landscape.orders.iter().filter_map(|(slot, order)| Some((slot, order.post.as_ref()?)));
            let mut here = here.filter(|(slot, post)| post.node == **from && !moved.contains(*slot));
            let found = here.find(|(slot, _)| {
                let blueprint = landscape.blueprints.get(&slot.base()).and_then(|record| record.wanted());
                blueprint.is_some_and(|blueprint| {
                    blueprint.instances != Instances::PerNode
                        && blueprint.placement.strategy != PlacementStrategy::Binpack
                        && landscape.observed.get(*slot) == Some(&Observed::Steady)
                        && occupancy.accepts(landscape, blueprint, to, &landscape.hosts[*to], &[]).is_ok()
                })
            });
            if let Some((slot, post)) = found {
                let post = Post {
                    node: (**to).clone(),
                    digest: post.digest,
                    relieves: Some((**from).clone()),
                    tried: vec![],
                };
                return Some((slot.clone(), post));
            }
        }
    }
    None
}
