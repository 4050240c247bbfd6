//! Writes on their way: this node's to the others, and theirs to this one.

use bytes::Bytes;

use super::super::Mesh;
use super::agreement::RELAY_FANOUT;
use crate::core::contract::Output;
use crate::core::ids::{NodeId, NodeKey};
use crate::core::model::{Dot, DotRange, KeyUpdate, Sibling};
use crate::core::state::{Applied, Refuse};
use crate::core::wire::{Control, StateChange, StateDelta};

impl Mesh {
    /// Sends a write to all in a small mesh; in a large one to some, who pass it on. Whoever is missed finds the gap
    /// by comparing.
    pub(super) fn spread_delta(&mut self, delta: StateDelta, except: Option<NodeKey>) {
        let mut to = self.linked();
        to.retain(|key| Some(*key) != except && self.is_member(key));
        let delta = if self.is_full_mesh() {
            StateDelta { hops: 0, ..delta }
        } else {
            to.truncate(RELAY_FANOUT);
            delta
        };
        // A client waits for these.
        let is_paced = !delta.ack;
        let bytes = bytes_of(&delta);
        for key in to {
            if self.shared.deltas.take(self.now, bytes) || !is_paced {
                self.send_control(&key, Control::State(delta.clone()));
            } else {
                self.shared.held_back += 1;
            }
        }
    }

    /// Only members are told of writes: of a node that is not one, it is not known what it lacks.
    pub(super) fn is_member(&self, key: &NodeKey) -> bool {
        let node = self.links.card(key).map(|card| &card.node_id);
        node.is_some_and(|node| self.shared.register.roster().is_some_and(|r| r.members.contains_key(node)))
    }

    pub(super) fn on_delta(&mut self, key: NodeKey, from: &NodeId, delta: StateDelta) {
        // Of what lies below its floor, the sender has forgotten what this node may need.
        if !self.shared.synchronised || !self.covers(delta.base) {
            return self.ask_state(key);
        }
        if let Some(dot) = foreign(from, &delta) {
            self.shared.refused += 1;
            tracing::warn!(%from, ?dot, "it sends as its own what another node wrote: refused");
            return;
        }
        let lost = self.lost_write(&delta.updates, &delta.closes);
        match self.shared.state.apply(&delta.updates, &delta.closes) {
            Ok(applied) => {
                let is_new = applied.is_new;
                self.on_applied(applied);
                if delta.ack {
                    self.ack_when_stored(key);
                }
                if is_new && delta.hops > 1 {
                    self.spread_delta(StateDelta { hops: delta.hops - 1, ..delta }, Some(key));
                }
                if let Some(dot) = lost {
                    self.on_lost_write(from, dot);
                }
            }
            Err(refuse) => self.on_state_refused(from, refuse),
        }
    }

    /// A write of an earlier process of this node that is not in its store, which had it before it was told: the store
    /// is an old copy. It lacks the last ones of an actor; one that others count as never made may lie before those. A store
    /// that began with nothing learns its node's writes from its first comparison.
    pub(super) fn lost_write(&self, updates: &[KeyUpdate], closes: &[DotRange]) -> Option<Dot> {
        let (state, key) = (&self.shared.state, &self.key);
        if self.shared.is_blank && !self.shared.synchronised {
            return None;
        }
        let is_lost = |dot: &Dot| {
            dot.actor.is_of(key) && state.actor() != Some(dot.actor) && state.clock().max(&dot.actor) < dot.n
        };
        let written = updates.iter().flat_map(|update| &update.state.siblings).map(|sibling| sibling.dot);
        let closed = closes.iter().map(|range| Dot { actor: range.actor, n: range.upto });
        written.chain(closed).find(is_lost)
    }

    pub(super) fn on_state_refused(&mut self, from: &NodeId, refuse: Refuse) {
        self.shared.refused += 1;
        match refuse {
            Refuse::TwoContents { .. } | Refuse::Ours { .. } => {
                tracing::error!(%from, %refuse, "what a peer sent of the state is refused");
            }
            Refuse::Jump { .. } | Refuse::TooManyActors => {
                tracing::warn!(%from, %refuse, "what a peer sent of the state is refused");
            }
        }
    }

    /// What was taken in is told to those who watch, and goes to the disk soon.
    pub(super) fn on_applied(&mut self, applied: Applied) {
        for key in &applied.keys {
            self.tell_change(key);
        }
        self.put_awaited();
        self.flush_later();
    }

    pub(super) fn tell_change(&mut self, key: &str) {
        let reading = self.shared.state.read(key);
        let value = self.shared.state.policy(key).resolve(&reading.values).and_then(|s| s.value.clone());
        let siblings = reading.values.len() as u32;
        self.output(Output::StateChanged(StateChange { key: key.to_owned(), value, siblings }));
        if key.starts_with("_mesh/") {
            self.note_desired(key);
        }
        self.view_changed = true;
    }
}

/// About how long it is on the wire.
fn bytes_of(delta: &StateDelta) -> usize {
    let sibling = |sibling: &Sibling| sibling.value.as_ref().map_or(0, Bytes::len) + 64;
    let update = |update: &KeyUpdate| {
        let siblings: usize = update.state.siblings.iter().map(sibling).sum();
        update.key.len() + siblings + 64
    };
    delta.updates.iter().map(update).sum::<usize>() + 64
}

/// A write in a delta that comes from its origin, and that the origin has not made.
fn foreign(from: &NodeId, delta: &StateDelta) -> Option<Dot> {
    let first_hand = delta.hops == 0 || delta.hops == super::agreement::HOPS_MAX;
    if !first_hand {
        return None;
    }
    let siblings = delta.updates.iter().flat_map(|update| &update.state.siblings);
    siblings
        .filter(|sibling| {
            delta
                .closes
                .iter()
                .any(|r| r.actor == sibling.dot.actor && (r.from..=r.upto).contains(&sibling.dot.n))
        })
        .find(|sibling| sibling.writer.node != *from || !sibling.dot.actor.is_of(&from.key()))
        .map(|sibling| sibling.dot)
}
