//! What readers outside the core see of it: a plain copy, made on request.

use super::{Mesh, Phase};
use crate::core::contract::{Counters, View};
use crate::core::ids::{Incarnation, LinkId, NodeKey};
use crate::core::model::{AgentView, MemberStatus, MemberView, NodeCard};

impl Mesh {
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
            counters: Counters { claims_dropped: self.membership.dropped_claims(), ..self.counters },
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
            }));
        }
        views.sort_by(|a, b| (&a.name, &a.node).cmp(&(&b.name, &b.node)));
        views
    }
}
