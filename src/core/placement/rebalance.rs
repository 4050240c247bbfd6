//! Moves that make nodes equally full: when somebody asks for them, and of blueprints that want it by themselves.

use std::collections::BTreeMap;

use super::choose::Occupancy;
use super::{HostState, Landscape, Observed, Plan, StepAction, orders_of};
use crate::core::ids::{AgentName, NodeId};
use crate::core::model::{Blueprint, BlueprintRecord, Instances, Order, PlacementStrategy, Post, SlotSide};

/// Why an instance moves that need not.
pub(super) const EQUALLY_FULL: &str = "nodes are made equally full";

/// At most `moves_max` moves from the fullest nodes to the emptiest that may have what they have. Only steady instances
/// move, none of a blueprint that is to fill one node after the other, and none away from where it was wished to be.
#[must_use]
pub fn rebalance(landscape: Landscape<'_>, moves_max: usize) -> Plan {
    let mut plan = Plan::default();
    let mut occupancy = Occupancy::of(landscape);
    let movable = movable(landscape, landscape.orders.iter());
    make_even(landscape, movable, moves_max, &mut occupancy, &mut plan);
    plan
}

/// The moves of a blueprint that wants nodes to be equally full, once all of its instances are steady and nothing else is to be
/// done with them: the next moves come when these are over.
pub(super) fn even_out(
    landscape: Landscape<'_>,
    record: &BlueprintRecord,
    occupancy: &mut Occupancy,
    plan: &mut Plan,
) {
    let Some(blueprint) = record.wanted().filter(|blueprint| blueprint.placement.rebalance > 0) else {
        return;
    };
    let name = blueprint.name();
    let is_steady = |slot| landscape.observed.get(slot) == Some(&Observed::Steady);
    let is_at_rest = orders_of(landscape, name).all(|(slot, _)| is_steady(slot))
        && plan.unplaced.range(name.of_slot(0)..).next().is_none_or(|(slot, _)| slot.base() != *name)
        && !plan.steps.iter().any(|step| step.slot.base() == *name);
    let is_under_way = record.canary().is_some() || record.current.beside.is_some();
    if record.paused || is_under_way || !is_at_rest {
        return;
    }
    let orders = landscape.orders.range(name.of_slot(0)..).take_while(|(slot, _)| slot.base() == *name);
    let movable = movable(landscape, orders);
    make_even(landscape, movable, usize::from(blueprint.placement.rebalance), occupancy, plan);
}

fn make_even(
    landscape: Landscape<'_>,
    mut movable: BTreeMap<&NodeId, Movable<'_>>,
    moves_max: usize,
    occupancy: &mut Occupancy,
    plan: &mut Plan,
) {
    for _ in 0..moves_max {
        let mut hosts: Vec<&NodeId> = landscape
            .hosts
            .iter()
            .filter(|(_, host)| host.state == HostState::Up)
            .map(|(node, _)| node)
            .collect();
        hosts.sort_by_key(|node| (occupancy.agents(node), *node));
        let Some((slot, step)) = next_move(landscape, occupancy, &hosts, &movable) else {
            break;
        };
        if let Some(from) = &step.relieves {
            occupancy.leave(from, &slot.base());
            movable.get_mut(from).and_then(|there| there.remove(&slot));
        }
        occupancy.come(&step.node, &slot.base());
        plan.order(slot, StepAction::Move, Some(step), EQUALLY_FULL);
    }
}

/// What a node has that may move.
type Movable<'a> = BTreeMap<AgentName, (&'a Blueprint, &'a Post)>;

/// What may move, by the node that has it.
fn movable<'a>(
    landscape: Landscape<'a>,
    orders: impl Iterator<Item = (&'a AgentName, &'a Order)>,
) -> BTreeMap<&'a NodeId, Movable<'a>> {
    let mut movable: BTreeMap<_, Movable<'_>> = BTreeMap::new();
    for (slot, order) in orders {
        let record = landscape.blueprints.get(&slot.base());
        let (Some(record), Some(post)) = (record, &order.post) else {
            continue;
        };
        let Some(blueprint) = record.wanted() else {
            continue;
        };
        let is_wanted = match blueprint.instances {
            Instances::Count(count) => SlotSide::number_of(slot).is_some_and(|number| number < count),
            Instances::PerNode => false,
        };
        if is_wanted
            && record.current.beside.is_none()
            && SlotSide::of(slot) == record.current.side
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
        // The emptiest come first.
        for to in
            hosts.iter().take_while(|to| occupancy.agents(to).saturating_add(1) < occupancy.agents(from))
        {
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
