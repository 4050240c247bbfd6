//! What nodes publish about themselves, on its way through the mesh.
//!
//! In a small mesh an owner tells everybody itself. In a large one it tells some, and whoever hears news passes it on
//! once, to some over the links that there are; what does not come this way is found missing by comparing. News that
//! comes while other news was passed on a moment ago waits, so that many records travel in one frame: a node that
//! passes on ten or a thousand a second sends as many frames.
//!
//! Not passed on is what a node has asked for: it is no news to the mesh, but for what its owner itself tells, which
//! may have come from nowhere.

use std::time::Duration;

use rand::RngExt;

use super::lists::{batch_bytes, in_frames};
use super::{Mesh, Timer};
use crate::core::contract::Output;
use crate::core::ids::{Incarnation, LinkId, NodeId, NodeKey};
use crate::core::limits;
use crate::core::membership::Known;
use crate::core::registry::Applied;
use crate::core::time::Instant;
use crate::core::wire::{Control, OwnedBatch};

/// What is to be passed on waits until so long after the last time.
const RELAY_PAUSE: Duration = Duration::from_millis(50);
/// What comes over a link so soon after this node has sent a digest over it, answers that.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// What waits to be passed on, with the node that it came from.
#[derive(Debug, Default)]
pub(super) struct Relays {
    waiting: Vec<(Option<NodeKey>, OwnedBatch)>,
    bytes: usize,
    last: Option<Instant>,
    is_armed: bool,
}

impl Mesh {
    pub(super) fn on_owned(&mut self, link: LinkId, from: &NodeId, batches: Vec<OwnedBatch>) {
        let mut gap = false;
        for batch in batches {
            if self.membership.is_forgotten(&batch.node.key(), Incarnation::first_of(batch.start)) {
                continue;
            }
            match self.registry.apply(&batch) {
                Ok(Applied::Old) => {}
                Ok(Applied::Gap) => gap = true,
                Ok(Applied::Changed { card, doubts, leaves, agents }) => {
                    self.view_changed = true;
                    if leaves {
                        self.note_landscape();
                    }
                    if doubts {
                        self.log_doubts(&batch.node);
                    }
                    if card && let Some(card) = self.registry.owner(&batch.node).and_then(|o| o.card.clone())
                    {
                        self.learn_card(&card);
                    }
                    self.tell_agents(&batch.node, agents);
                    if batch.node == *from || !self.has_asked(link) {
                        self.relay(from.key(), batch);
                    }
                }
                Err(error) => {
                    self.counters.records_dropped += 1;
                    tracing::warn!(node = %batch.node, %error, "records dropped");
                }
            }
        }
        if gap {
            self.send_digest(link, false);
        }
    }

    /// Tells all what this node doubts about itself, if that has changed.
    pub(super) fn tell_doubts(&mut self) {
        let doubts: Vec<_> = self.shared.doubts().map(ToString::to_string).collect();
        let delta = self.registry.publish_doubts(doubts);
        self.spread(delta);
    }

    fn log_doubts(&self, node: &NodeId) {
        let doubts = self.registry.owner(node).map_or(&[][..], |owner| &owner.doubts);
        if doubts.is_empty() {
            tracing::info!(%node, "it does not doubt itself any more");
        } else {
            tracing::warn!(%node, doubts = doubts.join("; "), "it doubts itself");
        }
    }

    fn has_asked(&self, link: LinkId) -> bool {
        let asked = self.links.get(link).and_then(|link| link.told.digest);
        asked.is_some_and(|(_, at)| self.now.since(at) < ANSWERED_WITHIN)
    }

    /// In a mesh too large for direct delivery, news is passed on once by whoever it is news to.
    fn relay(&mut self, from: NodeKey, batch: OwnedBatch) {
        if !self.is_full_mesh() {
            self.gather(Some(from), batch);
        }
    }

    /// Sends a delta of this node's own records to everyone, directly or by relays.
    pub(super) fn spread(&mut self, delta: Option<OwnedBatch>) {
        let Some(delta) = delta else {
            return;
        };
        self.view_changed = true;
        if !self.is_full_mesh() {
            return self.gather(None, delta);
        }
        let links: Vec<_> = self.links.all_proven().map(|(_, link)| link).collect();
        for link in links {
            self.output(Output::Control { link, frame: Control::Owned { batches: vec![delta.clone()] } });
        }
    }

    fn gather(&mut self, from: Option<NodeKey>, batch: OwnedBatch) {
        self.relays.bytes += batch_bytes(&batch);
        self.relays.waiting.push((from, batch));
        let due = self.relays.last.map_or(self.now, |last| last + RELAY_PAUSE);
        if due <= self.now || self.relays.bytes >= limits::OWNED_FRAME_BYTES_MAX {
            self.relay_gathered();
        } else if !std::mem::replace(&mut self.relays.is_armed, true) {
            self.set_timer(due.since(self.now), Timer::Relay);
        }
    }

    pub(super) fn relay_gathered(&mut self) {
        self.relays.is_armed = false;
        if self.relays.waiting.is_empty() {
            return;
        }
        self.relays.last = Some(self.now);
        self.relays.bytes = 0;
        let waiting = std::mem::take(&mut self.relays.waiting);
        for key in self.relay_targets() {
            let news = waiting.iter().filter(|(from, batch)| *from != Some(key) && batch.node.key() != key);
            let batches: Vec<_> = news.map(|(_, batch)| batch.clone()).collect();
            for batches in in_frames(batches) {
                self.send_control(&key, Control::Owned { batches });
            }
        }
    }

    /// Some of those that there are links to; where these are too few, others.
    fn relay_targets(&mut self) -> Vec<NodeKey> {
        let mut from: Vec<_> = self.links.all_proven().map(|(key, _)| key).collect();
        if from.len() < limits::RELAY_FANOUT {
            let live = |(key, known): (&NodeKey, &Known)| known.status.is_reachable().then_some(*key);
            from = self.membership.all_known().filter_map(live).collect();
        }
        self.choose_peers(from, limits::RELAY_FANOUT)
    }

    /// Leaves so many of `links`, picked at random.
    pub(super) fn choose(&mut self, links: &mut Vec<LinkId>, count: usize) {
        while links.len() > count {
            let at = self.rng.random_range(0..links.len());
            links.swap_remove(at);
        }
    }
}
