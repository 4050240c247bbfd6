//! The replicated state: keys that every node holds, that any node writes, and that come to be equal.
//!
//! # How it works
//!
//! A write is named by a *dot*: its actor (one process of one node) and its number. A key is the writes that
//! stand beside each other (its *siblings*) and the dots of those that they have replaced (its *context*). A node's
//! *clock* is the exact set of dots that it has taken in. A sibling of another node is taken in unless this
//! node's clock has it, because then it has been replaced here; one of this node's goes if the other's context
//! names it and it does not stand there. Deletions are siblings without a value.
//!
//! - A local write ([`State::write`]) is first stored and only then applied ([`State::on_stored`]): until then it can
//!   be seen by the next write to its key and by nobody else. If storing fails, nothing has happened, and the
//!   actor is never used again, because what failed may yet be found on the disk.
//! - What comes from others ([`State::apply`]) is readable at once and stored when [`State::flush`] is next asked
//!   for it. What is on the disk is the *durable* clock, and only that is acknowledged to others.
//! - What every member has acknowledged is the *floor*. A key that lies within it needs no context, and no deletion,
//!   because nobody can hold what they have replaced ([`State::raise_floor`], [`State::collect`]).
//! - Two nodes compare clocks; whoever has more sends the keys of the dots that the other lacks, as they stood at one
//!   moment, and at the end says which ranges are complete ([`Offer`]). A node that is behind the floor is sent
//!   all keys, and drops what the sender has seen and does not hold any more.
//!
//! # What must hold
//!
//! Equal clocks mean equal values. A dot names one write for ever. Clocks and the floor only grow. What was deleted
//! does not come back. A range that a clock has closed is here, or has been replaced by something that is.
//!
//! # What it does not do
//!
//! It does not decide who may write when (`partition`), nor whom to send to (`mesh`), and it reads no clock: the
//! hybrid times of writes are given to it, and break ties between concurrent values in [`policy`] only.

mod apart;
mod apply;
mod collect;
mod offer;
pub mod policy;
mod rows;
mod write;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use self::apart::{Apart, Inspection};
pub use self::apply::{Applied, Refuse};
pub use self::offer::{Offer, Part};
pub use self::policy::Policy;
pub use self::write::WriteError;
use super::model::{Actor, Clock, Dot, Hlc, KeyState, Sibling, Writer};

/// A key; cheap to clone, because the index of dots shares it.
pub type Key = Arc<str>;

/// The state of one node.
#[derive(Debug, Default)]
pub struct State {
    /// Who mints this process's dots, and how many it has minted; `None` before the first write.
    actor: Option<(Actor, u64)>,
    keys: BTreeMap<Key, KeyState>,
    /// Where each write that stands is.
    index: BTreeMap<Actor, BTreeMap<u64, Key>>,
    clock: Clock,
    durable: Clock,
    floor: Clock,
    /// How often the floor has risen.
    floor_number: u64,
    /// Actors with writes beyond the floor.
    open: BTreeSet<Actor>,
    /// What a snapshot that was begun makes known at least, once it is complete.
    target: Clock,
    /// Keys that hold more than values: contexts or deletions.
    unsettled: BTreeSet<Key>,
    /// Local writes that wait for the disk, in order.
    waiting: VecDeque<write::Waiting>,
    /// What changed since it was last given to the disk.
    dirty: rows::Dirty,
    /// What is on its way to the disk, in order.
    flushing: BTreeMap<u64, rows::Dirty>,
    /// The disk has failed, and holds perhaps what was never applied.
    failed: bool,
    policies: BTreeMap<String, Policy>,
    writers: BTreeSet<Arc<Writer>>,
    /// Over the values of all keys: nodes with equal clocks have equal ones.
    hash: u128,
    /// Bytes of all keys and values.
    bytes: usize,
    values: usize,
    hlc: Hlc,
    #[cfg(test)]
    broken: Option<Rule>,
}

/// A rule that tests break, to see that they would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "only tests break rules"))]
pub(super) enum Rule {
    /// A write says nothing of those of its actor before it.
    GapsStayOpen,
    /// A write that is known and does not stand here has been replaced.
    ReplacedStaysReplaced,
    /// What could not be stored is never named again.
    ActorInDoubtIsOver,
    /// After a failed write its rows are written anew.
    RowsInDoubtComeFirst,
    /// Nothing is forgotten before every member has it.
    ForgetBelowTheFloor,
    /// A snapshot takes along what its sender has seen and does not hold.
    SnapshotDropsUnnamed,
    /// A snapshot that was begun is completed before anything else is taken in.
    SnapshotIsWhole,
    /// The floor is no lower than that of the snapshot which was taken in.
    SnapshotBringsItsFloor,
    /// Durable is what the disk has said to have.
    DurableIsStored,
}

/// What a reader is told of a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// The values that stand beside each other, in order of their dots; none when the key has none.
    pub values: Vec<Sibling>,
    /// Names what was read: a write that is given this replaces exactly that.
    pub context: Clock,
}

impl State {
    /// What is known of a key. Only what is applied is told: a write that waits for the disk is not.
    #[must_use]
    pub fn read(&self, key: &str) -> Reading {
        let Some(state) = self.keys.get(key) else {
            return Reading::default();
        };
        Reading {
            values: state.values().map(|(sibling, _)| sibling.clone()).collect(),
            context: state.dots(),
        }
    }

    /// The keys with a value that begin with `prefix` and come after `after`, in order.
    pub fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a KeyState)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            Some(_) | None => Bound::Included(prefix),
        };
        self.keys
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter(|(_, state)| state.has_value())
    }

    /// Every dot that this node has taken in.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Every dot whose write, or whose replacement, is on this node's disk.
    #[must_use]
    pub fn durable(&self) -> &Clock {
        &self.durable
    }

    /// What every member has on its disk, as far as told.
    #[must_use]
    pub fn floor(&self) -> &Clock {
        &self.floor
    }

    /// Counts how often the floor has risen in this process.
    #[must_use]
    pub fn floor_number(&self) -> u64 {
        self.floor_number
    }

    /// How many actors have writes that not every member has on its disk, as far as told.
    #[must_use]
    pub fn open_actors(&self) -> usize {
        self.open.len()
    }

    /// The floor has risen: actors below it need not be counted any more.
    fn on_floor_risen(&mut self) {
        self.floor_number += 1;
        self.dirty.floor = true;
        self.open.retain(|actor| self.clock.max(actor) > self.floor.upto(actor));
    }

    /// Over the values of all keys.
    #[must_use]
    pub fn hash(&self) -> u128 {
        self.hash
    }

    /// How many keys have a value.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.values
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many local writes wait for the disk.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many keys are kept for the sake of members that have not acknowledged everything.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    /// Who mints this process's dots, once it has written.
    #[must_use]
    pub fn actor(&self) -> Option<Actor> {
        self.actor.map(|(actor, _)| actor)
    }

    /// Puts a key's state in place of what was, and keeps everything that is counted about keys.
    fn replace(&mut self, key: &Key, state: KeyState) {
        if let Some(before) = self.keys.remove(key) {
            self.uncount(key, &before);
        }
        self.dirty.keys.insert(key.clone());
        self.unsettled.remove(key);
        if state.siblings.is_empty() && state.context.is_empty() {
            self.note_policy(key, None);
            return;
        }
        for sibling in &state.siblings {
            self.index.entry(sibling.dot.actor).or_default().insert(sibling.dot.n, key.clone());
        }
        self.count(key, &state);
        self.note_unsettled(key, &state);
        self.note_policy(key, Some(&state));
        self.keys.insert(key.clone(), state);
    }

    fn note_unsettled(&mut self, key: &Key, state: &KeyState) {
        if !state.context.is_empty() || state.siblings.iter().any(|sibling| sibling.value.is_none()) {
            self.unsettled.insert(key.clone());
        }
    }

    fn count(&mut self, key: &Key, state: &KeyState) {
        for sibling in &state.siblings {
            self.hash ^= digest(key, sibling);
            self.hlc = self.hlc.max(sibling.hlc);
        }
        self.bytes += state.bytes() + if state.has_value() { key.len() } else { 0 };
        self.values += usize::from(state.has_value());
    }

    fn uncount(&mut self, key: &Key, state: &KeyState) {
        for sibling in &state.siblings {
            if let Some(of_actor) = self.index.get_mut(&sibling.dot.actor) {
                of_actor.remove(&sibling.dot.n);
                if of_actor.is_empty() {
                    self.index.remove(&sibling.dot.actor);
                }
            }
            self.hash ^= digest(key, sibling);
        }
        self.bytes -= state.bytes() + if state.has_value() { key.len() } else { 0 };
        self.values -= usize::from(state.has_value());
    }

    /// One copy of each writer, however many values it has written.
    fn share_writer(&mut self, writer: &Arc<Writer>) -> Arc<Writer> {
        if let Some(shared) = self.writers.get(writer) {
            return Arc::clone(shared);
        }
        if self.writers.len() >= WRITERS_SHARED_MAX {
            self.writers.retain(|writer| Arc::strong_count(writer) > 1);
        }
        if self.writers.len() < WRITERS_SHARED_MAX {
            self.writers.insert(Arc::clone(writer));
        }
        Arc::clone(writer)
    }

    /// All keys, those without a value as well.
    pub fn keys(&self) -> impl Iterator<Item = (&Key, &KeyState)> {
        self.keys.iter()
    }

    /// The key at which a write stands, as it is.
    #[must_use]
    pub fn key_of(&self, dot: Dot) -> Option<(&Key, &KeyState)> {
        self.keys.get_key_value(self.at(dot)?)
    }

    #[cfg(test)]
    pub(super) fn break_rule(&mut self, rule: Rule) {
        self.broken = Some(rule);
    }

    #[cfg(test)]
    fn breaks(&self, rule: Rule) -> bool {
        self.broken == Some(rule)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "tests ask it of a state")]
    fn breaks(&self, _rule: Rule) -> bool {
        false
    }

    /// The key that a dot stands at.
    fn at(&self, dot: Dot) -> Option<&Key> {
        self.index.get(&dot.actor)?.get(&dot.n)
    }
}

/// Writers that are kept once for all their values; those beyond are kept with each value.
const WRITERS_SHARED_MAX: usize = 4096;

/// A value's part of the state's hash. A deletion has none: members forget it at different times.
fn digest(key: &str, sibling: &Sibling) -> u128 {
    let Some(value) = &sibling.value else {
        return 0;
    };
    let mut hasher = Sha256::new();
    hasher.update((key.len() as u64).to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.update(sibling.dot.actor.0.as_bytes());
    hasher.update(sibling.dot.n.to_le_bytes());
    hasher.update(value);
    let digest = hasher.finalize();
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(first)
}
