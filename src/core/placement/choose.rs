//! Which node a slot is given to: first who may have it, then who should.

use std::collections::{BTreeMap, BTreeSet};

use super::{Host, HostState, Landscape};
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::{
    Blueprint, BlueprintRecord, Domain, Instances, Placement, PlacementStrategy, SlotSide,
};

/// Who has how many of what, with what the plan has ordered so far.
#[derive(Debug, Clone)]
pub(super) struct Occupancy {
    nodes: BTreeMap<NodeId, Room>,
    /// By blueprint: who else is to be apart from it.
    kept_off_by: BTreeMap<AgentName, BTreeSet<AgentName>>,
    /// By blueprint: what an instance weighs.
    weights: BTreeMap<AgentName, u64>,
    /// By node: what may give way to a higher priority, the lowest first.
    yielding: BTreeMap<NodeId, Vec<(i16, AgentName)>>,
    /// What gives way with this plan.
    evicted: BTreeSet<AgentName>,
}

/// What a node has.
#[derive(Debug, Clone, Default)]
struct Room {
    agents: usize,
    /// What the instances of blueprints weigh together.
    weight: u64,
    of: BTreeMap<AgentName, usize>,
}

impl Room {
    fn has(&self, name: &AgentName) -> usize {
        self.of.get(name).copied().unwrap_or(0)
    }
}

/// Whether a blueprint's instances may be on a node at all, whatever else it has.
pub(super) fn may_have(blueprint: &Blueprint, host: &Host) -> Result<(), String> {
    let roles = &host.card.roles;
    if !roles.is_empty() && !roles.iter().any(|role| role == "worker") {
        return Err(format!("its roles are {}, not worker", roles.join(", ")));
    }
    host.card.satisfies(&blueprint.placement.require)
}

impl Occupancy {
    pub(super) fn of(landscape: Landscape<'_>) -> Self {
        let room = |host: &Host| Room { agents: host.other_agents, ..Room::default() };
        let nodes = landscape.hosts.iter().map(|(node, host)| (node.clone(), room(host))).collect();
        let weight = |record: &BlueprintRecord| u64::from(record.current.blueprint.placement.weight.0);
        let weights = landscape.blueprints.iter().map(|(name, record)| (name.clone(), weight(record)));
        let mut occupancy = Self {
            nodes,
            kept_off_by: kept_off_by(landscape),
            weights: weights.collect(),
            yielding: yielding(landscape),
            evicted: BTreeSet::new(),
        };
        for (slot, order) in landscape.orders {
            if let Some(post) = &order.post {
                occupancy.come(&post.node, &slot.base());
            }
        }
        occupancy
    }

    pub(super) fn come(&mut self, node: &NodeId, name: &AgentName) {
        let weight = self.weight_of(name);
        if let Some(room) = self.nodes.get_mut(node) {
            room.agents = room.agents.saturating_add(1);
            room.weight = room.weight.saturating_add(weight);
            *room.of.entry(name.clone()).or_default() += 1;
        }
    }

    pub(super) fn leave(&mut self, node: &NodeId, name: &AgentName) {
        let weight = self.weight_of(name);
        if let Some(room) = self.nodes.get_mut(node) {
            room.agents = room.agents.saturating_sub(1);
            room.weight = room.weight.saturating_sub(weight);
            let of = room.of.entry(name.clone()).or_default();
            *of = of.saturating_sub(1);
        }
    }

    fn weight_of(&self, name: &AgentName) -> u64 {
        self.weights.get(name).copied().unwrap_or(1)
    }

    /// Whether an instance gives way with this plan.
    pub(super) fn is_evicted(&self, slot: &AgentName) -> bool {
        self.evicted.contains(slot)
    }

    /// What ends for other reasons gives way to nobody.
    pub(super) fn ends(&mut self, slot: &AgentName, node: &NodeId) {
        self.leave(node, &slot.base());
        if let Some(there) = self.yielding.get_mut(node) {
            there.retain(|(_, other)| other != slot);
        }
    }

    /// The node on which a slot finds room when instances of lower priority end there, and these. They are not counted there
    /// any more, and the slot is. Of several nodes the one where the lowest priorities give way, and then the fewest.
    pub(super) fn preempt(
        &mut self,
        landscape: Landscape<'_>,
        blueprint: &Blueprint,
        not_on: &[NodeId],
    ) -> Option<(NodeId, Vec<AgentName>)> {
        let (name, priority) = (blueprint.name(), blueprint.placement.priority);
        let victims = |(node, there): (&NodeId, &Vec<(i16, AgentName)>)| {
            let host = landscape.hosts.get(node)?;
            self.accepts_apart_from_weight(blueprint, node, host, not_on).ok()?;
            let capacity = u64::from(host.card.capacity().ok()??);
            let mut weight = self.nodes.get(node)?.weight.saturating_add(self.weight_of(name));
            let mut give_way = Vec::new();
            for (of, slot) in there.iter().take_while(|(of, _)| *of < priority) {
                if weight <= capacity {
                    break;
                }
                weight = weight.saturating_sub(self.weight_of(&slot.base()));
                give_way.push((*of, slot.clone()));
            }
            // Where a later one makes room alone, those before it need not end.
            let mut kept = Vec::new();
            for (of, slot) in give_way.drain(..).rev() {
                let back = weight.saturating_add(self.weight_of(&slot.base()));
                if back <= capacity {
                    weight = back;
                } else {
                    kept.push((of, slot));
                }
            }
            let mut give_way = kept;
            give_way.reverse();
            let highest = give_way.last()?.0;
            (weight <= capacity).then(|| (highest, give_way.len(), node.clone(), give_way))
        };
        let (_, _, node, give_way) = self.yielding.iter().filter_map(victims).min()?;
        let slots: Vec<_> = give_way.into_iter().map(|(_, slot)| slot).collect();
        for slot in &slots {
            self.ends(slot, &node);
            self.evicted.insert(slot.clone());
        }
        self.come(&node, name);
        Some((node, slots))
    }

    /// How many agents a node has.
    pub(super) fn agents(&self, node: &NodeId) -> usize {
        self.nodes.get(node).map_or(0, |room| room.agents)
    }

    /// The node for a slot, which is counted there from now on.
    ///
    /// # Errors
    /// Why each node cannot have it.
    pub(super) fn choose(
        &mut self,
        landscape: Landscape<'_>,
        blueprint: &Blueprint,
        slot: &AgentName,
        not_on: &[NodeId],
    ) -> Result<NodeId, String> {
        let fits = |(node, host): &(&NodeId, &Host)| self.accepts(blueprint, node, host, not_on).is_ok();
        let able: Vec<_> = landscape.hosts.iter().filter(fits).collect();
        let number = usize::from(SlotSide::number_of(slot).unwrap_or(0));
        let domains = self.domains(landscape, blueprint);
        let ranked = able.iter().enumerate().map(|(at, (node, host))| {
            let turn = (at + able.len() - number % able.len()) % able.len();
            let in_domain = domains.get(&domain_of(blueprint, host)).copied().unwrap_or(0);
            (self.rank(blueprint, node, host, in_domain, turn), *node)
        });
        let Some((_, node)) = ranked.min() else {
            return Err(self.reasons(landscape, blueprint, not_on));
        };
        let node = node.clone();
        self.come(&node, blueprint.name());
        Ok(node)
    }

    /// Whether a node takes one more instance.
    pub(super) fn accepts(
        &self,
        blueprint: &Blueprint,
        node: &NodeId,
        host: &Host,
        not_on: &[NodeId],
    ) -> Result<(), String> {
        self.accepts_apart_from_weight(blueprint, node, host, not_on)?;
        let taken = self.nodes.get(node).map_or(0, |room| room.weight);
        match host.card.capacity()? {
            Some(capacity) if taken + self.weight_of(blueprint.name()) > u64::from(capacity) => {
                Err(format!("its capacity is {capacity}, of which {taken} is taken"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn accepts_apart_from_weight(
        &self,
        blueprint: &Blueprint,
        node: &NodeId,
        host: &Host,
        not_on: &[NodeId],
    ) -> Result<(), String> {
        match host.state {
            HostState::Up => {}
            HostState::Draining => return Err("it is drained".to_owned()),
            HostState::Lost => return Err("it is gone".to_owned()),
        }
        if not_on.contains(node) {
            return Err("it has had it".to_owned());
        }
        may_have(blueprint, host)?;
        let room = self.nodes.get(node).ok_or("it is not known")?;
        if room.agents >= limits::AGENTS_PER_NODE_MAX {
            return Err(format!("it has {} agents", room.agents));
        }
        let name = blueprint.name();
        if blueprint.instances == Instances::PerNode && room.has(name) > 0 {
            return Err("it has one".to_owned());
        }
        if let Some(other) = blueprint.placement.apart_from.iter().find(|other| room.has(other) > 0) {
            return Err(format!("it has {other}"));
        }
        match self.kept_off_by.get(name).into_iter().flatten().find(|other| room.has(other) > 0) {
            Some(other) => Err(format!("it has {other}, which is to be apart from {name}")),
            None => Ok(()),
        }
    }

    /// Whether what the blueprint wishes for speaks against a move that is made for balance only.
    pub(super) fn is_worse(
        &self,
        landscape: Landscape<'_>,
        blueprint: &Blueprint,
        from: &NodeId,
        to: &NodeId,
    ) -> bool {
        let domain = |node| landscape.hosts.get(node).map(|host| domain_of(blueprint, host));
        self.wishes(blueprint, to) > self.wishes(blueprint, from) || domain(to) != domain(from)
    }

    /// Lower is better: the place among the preferred nodes, and whether nobody is near.
    fn wishes(&self, blueprint: &Blueprint, node: &NodeId) -> (usize, bool) {
        let Placement { prefer, near, .. } = &blueprint.placement;
        let room = &self.nodes[node];
        let preferred = prefer.iter().position(|name| name == node).unwrap_or(usize::MAX);
        (preferred, !near.is_empty() && near.iter().all(|other| room.has(other) == 0))
    }

    /// Lower is better. What was required holds already; what is preferred comes in the order of the fields.
    fn rank(
        &self,
        blueprint: &Blueprint,
        node: &NodeId,
        host: &Host,
        in_domain: usize,
        turn: usize,
    ) -> impl Ord + use<> {
        let room = &self.nodes[node];
        let own = room.has(blueprint.name());
        let [own, agents, turn] =
            [own, room.agents, turn].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        let cpu = i64::from(host.cpu_tenths);
        let by_strategy = match blueprint.placement.strategy {
            PlacementStrategy::LeastLoaded => [agents, cpu, own],
            PlacementStrategy::Spread => [own, agents, cpu],
            PlacementStrategy::Binpack => [-agents, own, 0],
            PlacementStrategy::RoundRobin => [own, turn, 0],
        };
        (self.wishes(blueprint, node), in_domain, by_strategy)
    }

    /// How many instances of the blueprint are in each zone, or region.
    fn domains<'a>(
        &self,
        landscape: Landscape<'a>,
        blueprint: &Blueprint,
    ) -> BTreeMap<(&'a str, &'a str), usize> {
        let mut domains = BTreeMap::new();
        if blueprint.placement.spread_over.is_some() {
            for (node, host) in landscape.hosts {
                *domains.entry(domain_of(blueprint, host)).or_default() +=
                    self.nodes[node].has(blueprint.name());
            }
        }
        domains
    }

    /// Why no node can have it, node by node.
    fn reasons(&self, landscape: Landscape<'_>, blueprint: &Blueprint, not_on: &[NodeId]) -> String {
        let reason = |(node, host): (&NodeId, &Host)| {
            let why = self.accepts(blueprint, node, host, not_on).err()?;
            Some(format!("{node}: {why}"))
        };
        let all: Vec<_> = landscape.hosts.iter().filter_map(reason).collect();
        let more = all.len().saturating_sub(limits::REASONS_TOLD_MAX);
        let mut told = all.into_iter().take(limits::REASONS_TOLD_MAX).collect::<Vec<_>>().join("; ");
        if more > 0 {
            told.push_str(&format!("; and {more} more"));
        }
        format!("no node can have it ({told})")
    }
}

/// What may give way to a higher priority, by node, the lowest first; nothing where all have the same.
fn yielding(landscape: Landscape<'_>) -> BTreeMap<NodeId, Vec<(i16, AgentName)>> {
    let priority = |record: &BlueprintRecord| record.wanted().map(|blueprint| blueprint.placement.priority);
    let priorities: BTreeSet<_> = landscape.blueprints.values().filter_map(priority).collect();
    let mut yielding: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
    if priorities.len() < 2 {
        return yielding;
    }
    for (slot, order) in landscape.orders {
        let of = landscape.blueprints.get(&slot.base()).and_then(priority);
        if let (Some(of), Some(post)) = (of, &order.post) {
            yielding.entry(post.node.clone()).or_default().push((of, slot.clone()));
        }
    }
    yielding.values_mut().for_each(|there| there.sort_unstable());
    yielding
}

/// Of each blueprint that others are to be apart from: those others.
pub(super) fn kept_off_by(landscape: Landscape<'_>) -> BTreeMap<AgentName, BTreeSet<AgentName>> {
    let mut kept_off_by: BTreeMap<AgentName, BTreeSet<AgentName>> = BTreeMap::new();
    for (name, record) in landscape.blueprints {
        let apart_from = record.wanted().into_iter().flat_map(|blueprint| &blueprint.placement.apart_from);
        for other in apart_from.filter(|other| *other != name) {
            kept_off_by.entry(other.clone()).or_default().insert(name.clone());
        }
    }
    kept_off_by
}

/// What a node's instances are spread over.
fn domain_of<'a>(blueprint: &Blueprint, host: &'a Host) -> (&'a str, &'a str) {
    match blueprint.placement.spread_over {
        Some(Domain::Zone) => (&host.card.region, &host.card.zone),
        Some(Domain::Region) => (&host.card.region, ""),
        None => ("", ""),
    }
}
