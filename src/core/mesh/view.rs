//! What readers outside the core see of it: a plain copy, made on request.

use uuid::Uuid;

use super::{Mesh, Phase};
use crate::core::contract::{Counters, View};
use crate::core::ids::{Incarnation, LinkId, NodeId, NodeKey};
use crate::core::model::{AgentView, LetterTrace, MemberStatus, MemberView, NodeCard};

/// How much the core holds, for those who watch that it stays bounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Links, proven and doubted.
    pub links: usize,
    /// Deadlines in the heap.
    pub timers: usize,
    /// Nodes for which packets or frames wait until there is a link.
    pub stashes: usize,
    /// Nodes that membership knows, whatever their status.
    pub members: usize,
    /// Cards of other nodes.
    pub cards: usize,
    /// Persists that are not durable yet.
    pub persists: usize,
    /// Requests to other nodes that wait for their answer.
    pub requests: usize,
    /// Outputs that were not polled yet.
    pub outputs: usize,
}

/// Two nodes that agree have equal ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Over who is there at which incarnation.
    pub members: u64,
    /// Over whose own records are held up to where.
    pub owned: u64,
}

impl Mesh {
    /// How much the core holds now.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let (links, stashes, cards) = self.links.sizes();
        Gauges {
            links,
            timers: self.timers.len(),
            stashes,
            members: self.membership.all_known().len(),
            cards,
            persists: self.pending.len(),
            requests: self.requests.len(),
            outputs: self.outputs.len(),
        }
    }

    /// What this node believes, hashed.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { members: self.membership.entries_hash(), owned: self.registry.digest_hash() }
    }

    /// What this node believes of another; `None` for one that was never heard of.
    #[must_use]
    pub fn status(&self, node: &NodeId) -> Option<MemberStatus> {
        self.status_of(&node.key())
    }

    /// What is known of the way of a message that this node has promised to deliver.
    #[must_use]
    pub fn letter(&self, id: Uuid) -> Option<LetterTrace> {
        self.outbox.trace(id)
    }

    /// Each owner's records as held here: the owner, its start, its number, and a hash of the content.
    pub fn owned(&self) -> impl Iterator<Item = (&NodeId, u64, u64, u64)> {
        self.registry.owners().map(|(node, owner)| {
            let (start, n, content) = owner.version();
            (node, start, n, content)
        })
    }

    /// Up to which start and number the records of a node are held here; `None` for one without any.
    #[must_use]
    pub fn owned_version(&self, node: &NodeId) -> Option<(u64, u64)> {
        self.registry.version_of(node)
    }

    /// The mesh as this node sees it now.
    #[must_use]
    pub fn view(&self) -> View {
        let own = self.member_view(&self.card, MemberStatus::Alive, self.membership.incarnation());
        let others = self.links.cards().map(|(key, card)| {
            let incarnation = self.membership.known(key).map_or(Incarnation(0), |k| k.incarnation);
            let status = self.status_of(key).unwrap_or(MemberStatus::Failed);
            (self.member_view(card, status, incarnation), self.links.proven(key))
        });
        let mut members: Vec<(MemberView, Option<LinkId>)> = others.chain([(own, None)]).collect();
        members.sort_by(|(a, _), (b, _)| a.card.node_id.cmp(&b.card.node_id));
        View {
            own: self.own.clone(),
            mesh_id: self.mesh_id,
            joined: self.joined,
            stopping: !matches!(self.phase, Phase::Running),
            agents: self.agent_views(),
            members,
            health: self.membership.health(),
            regions: self.regions.rtts.clone(),
            counters: self.counters(),
            mode: self.shared.mode(),
            queued: self.shared.queued(),
            state_keys: self.shared.state.key_count(),
            ordered: self.heard_orders(),
            outbox: self.outbox.len(),
            dead_letters: self.outbox.dead(),
        }
    }

    fn counters(&self) -> Counters {
        let refusals = self.coordinates.refusals();
        Counters {
            claims_dropped: self.membership.dropped_claims(),
            state_refused: self.shared.refused(),
            state_held_back: self.shared.held_back(),
            letters_died: self.outbox.died(),
            round_trips_refused: refusals.round_trips,
            coordinates_refused: refusals.coordinates,
            coordinate_resets: refusals.resets,
            ..self.counters
        }
    }

    /// What this node believes of another; one that is remembered and was not heard of since this
    /// process started counts as failed. `None` for a node that was never heard of.
    pub(super) fn status_of(&self, key: &NodeKey) -> Option<MemberStatus> {
        if *key == self.key {
            return Some(MemberStatus::Alive);
        }
        let known = self.membership.known(key).map(|known| known.status);
        known.or_else(|| self.links.card(key).map(|_| MemberStatus::Failed))
    }

    fn member_view(&self, card: &NodeCard, status: MemberStatus, incarnation: Incarnation) -> MemberView {
        let owner = self.registry.owner(&card.node_id);
        MemberView {
            card: card.clone(),
            status,
            incarnation,
            load: owner.and_then(|o| o.load),
            doubts: owner.map_or_else(Vec::new, |o| o.doubts.clone()),
            expected_rtt: self.expected_rtt(&card.node_id.key()),
            agents: owner.map_or(0, |o| o.agents.len() as u32),
        }
    }

    fn agent_views(&self) -> Vec<AgentView> {
        let mut views = Vec::new();
        for (node, owner) in self.registry.owners() {
            let node_status = self.status_of(&node.key()).unwrap_or(MemberStatus::Failed);
            views.extend(owner.agents.iter().map(|(name, record)| AgentView {
                name: name.clone(),
                node: node.clone(),
                node_status,
                record: record.clone(),
                on_call: self.desired.is_on_call(name),
            }));
        }
        views.sort_by(|a, b| (&a.name, &a.node).cmp(&(&b.name, &b.node)));
        views
    }
}
