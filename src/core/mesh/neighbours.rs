//! With whom a node of a large mesh keeps links, and which of the others it lets go.
//!
//! In a small mesh every pair has a link. In a large one a node has links with [`limits::RING_NEIGHBOURS`] members on each
//! side in the ring of probes: its probe's target and those who help with it have links with each other. And it
//! chooses [`limits::NEIGHBOURS`] members by chance (by the law of peer choice where there are regions); as many, on average,
//! choose it. Gossip, records, beats and comparisons go over all of these: a random graph of this degree is connected,
//! and news crosses it in about as many steps as if everybody could be reached. Other links come up for what is meant for their peer (requests, messages,
//! seeds at the start), and rest afterwards: over a link at rest nothing goes that may go elsewhere, so it
//! ends by itself when both sides have nothing to say. Of the links that others have dialled as many are used as are
//! [kept](limits::NEIGHBOURS_INBOUND_MAX), the oldest first; the rest are at rest on this side, so that a seed, which
//! everybody has dialled, does not keep links to all.
//!
//! Voters are linked with until this node has compared with a quorum of them: no relay can do that for it. Voters keep
//! links with each other: each tells the others itself that it is there.

use std::collections::{BTreeMap, BTreeSet};

use super::{Mesh, Phase};
use crate::core::ids::NodeKey;
use crate::core::limits;
use crate::core::membership::Known;
use crate::core::model::{Mode, Roster};
use crate::core::time::Instant;

/// Whom this node has chosen.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// With when.
    chosen: BTreeMap<NodeKey, Instant>,
    /// The state of the links that membership knows of.
    told: Option<(u64, bool)>,
}

impl Mesh {
    /// Sees to it that there are links to those who are chosen, and that others may end.
    pub(super) fn tend_neighbours(&mut self) {
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        if self.is_full_mesh() {
            return self.link_all();
        }
        self.choose_neighbours();
        let mut wanted = self.wanted_voters();
        // Those before this node dial it.
        let (behind, before) = self.membership.around(&self.key, limits::RING_NEIGHBOURS);
        wanted.extend(behind);
        wanted.extend(self.neighbours.chosen.keys());
        wanted.iter().for_each(|key| self.dial(key));
        wanted.extend(before);
        self.rest_others(&wanted);
    }

    /// The mesh is small, or has become so.
    fn link_all(&mut self) {
        self.neighbours.chosen.clear();
        self.links.rest(|_| false);
        let live = |(key, known): (&NodeKey, &Known)| known.status.is_reachable().then_some(*key);
        let live: Vec<_> = self.membership.all_known().filter_map(live).collect();
        live.iter().for_each(|key| self.dial_if_lower(key));
    }

    /// Whoever fails, or cannot be reached in time, is replaced.
    fn choose_neighbours(&mut self) {
        let mut chosen = std::mem::take(&mut self.neighbours.chosen);
        chosen.retain(|key, since| {
            let in_time = self.now.since(*since) < limits::HANDSHAKE_DEADLINE;
            self.is_reachable(key) && (in_time || self.links.proven(key).is_some())
        });
        let missing = limits::NEIGHBOURS.saturating_sub(chosen.len());
        if missing > 0 {
            let live = self.membership.all_known().filter(|(_, known)| known.status.is_reachable());
            let others = live.map(|(key, _)| *key).filter(|key| self.links.card(key).is_some());
            let others: Vec<_> = others.filter(|key| !chosen.contains_key(key)).collect();
            let now = self.now;
            chosen.extend(self.choose_peers(others, missing).into_iter().map(|key| (key, now)));
        }
        self.neighbours.chosen = chosen;
    }

    /// Those whom this node must compare with itself; of a voter all others, whom it sends its beats.
    fn wanted_voters(&self) -> BTreeSet<NodeKey> {
        let view = self.shared_view();
        let is_wanted = |roster: &&Roster| view.mode != Mode::Healthy || roster.is_voter(&self.own);
        let voters = view.roster.filter(is_wanted).into_iter().flat_map(|roster| roster.voters());
        voters.map(|node| node.key()).filter(|key| *key != self.key && self.is_reachable(key)).collect()
    }

    fn rest_others(&mut self, wanted: &BTreeSet<NodeKey>) {
        let mut room = limits::NEIGHBOURS_INBOUND_MAX;
        let mut used = BTreeSet::new();
        for (id, link) in self.links.all() {
            let is_inbound = !link.dialled && !link.doubted;
            let is_wanted = wanted.contains(&link.key);
            if is_wanted || (is_inbound && room > 0) {
                room -= usize::from(!is_wanted);
                used.insert(id);
            }
        }
        // Who knows few others, and nothing of where they are, hears of them over whatever links there are.
        let missing = limits::NEIGHBOURS.saturating_sub(used.len());
        let others = self.links.every_proven().map(|(_, id)| id).filter(|id| !used.contains(id));
        let more: Vec<_> = others.take(missing).collect();
        used.extend(more);
        self.links.rest(|id| !used.contains(&id));
    }

    /// Membership knows over which links gossip of a large mesh goes.
    pub(super) fn tell_near(&mut self) {
        let state = (self.links.changes(), self.is_full_mesh());
        if self.neighbours.told == Some(state) {
            return;
        }
        self.neighbours.told = Some(state);
        let near = self.links.all_proven().map(|(key, _)| key).filter(|_| !state.1).collect();
        self.membership.set_near(near);
    }
}
