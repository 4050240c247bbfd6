//! Local writes: made against what is here and what waits, stored, then applied.

use std::sync::Arc;

use bytes::Bytes;

use super::{Key, Rule, State};
use crate::core::contract::Change;
use crate::core::limits;
use crate::core::model::{
    Actor, Clock, Dot, Hlc, KeyState, KeyUpdate, OrderEpoch, Sibling, Writer, check_key,
};

/// Why a write is refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The key breaks a rule.
    #[error("{0}")]
    Key(&'static str),
    /// The value is too large.
    #[error("the value has {bytes} bytes, the most a key can hold is {bytes_max}", bytes_max = limits::STATE_VALUE_BYTES_MAX)]
    TooLarge {
        /// How many it has.
        bytes: usize,
    },
    /// The context names writes that have not arrived here yet.
    #[error("the context names writes that have not arrived on this node yet")]
    ContextAhead,
    /// The key would have more concurrent values than a key may.
    #[error(
        "the key has {} concurrent values that the given context does not name: read it again and resolve them",
        limits::SIBLINGS_MAX
    )]
    TooManySiblings,
    /// A later life of the same agent has written what this write would replace.
    #[error(
        "{slot} wrote the key in epoch {theirs}, later than this write's epoch {ours}: its writer has been replaced"
    )]
    Superseded {
        /// The agent's slot.
        slot: String,
        /// The later epoch.
        theirs: OrderEpoch,
        /// This write's.
        ours: OrderEpoch,
    },
    /// The disk has failed, and what it holds has not been put right since.
    #[error("the disk has failed and takes no writes")]
    Disk,
    /// A bound of the node is reached.
    #[error("{0} is full")]
    Full(&'static str),
}

/// A write that was accepted and is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Names it.
    pub dot: Dot,
    /// What to store, in one transaction.
    pub changes: Vec<Change>,
}

/// A write that is stored and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Names it.
    pub dot: Dot,
    /// Its key as it stands now: what others are to be told.
    pub update: KeyUpdate,
    /// Whether it stands beside others that it has not replaced.
    pub is_sibling: bool,
}

/// A local write that waits for the disk.
#[derive(Debug)]
pub(super) struct Waiting {
    dot: Dot,
    key: Key,
    /// The write, and in its context what it replaces.
    delta: KeyState,
}

impl State {
    /// Takes the actor that mints the dots of this process from its next write on, if it has none.
    pub fn use_actor(&mut self, fresh: impl FnOnce() -> Actor) {
        if self.actor.is_none() {
            self.actor = Some((fresh(), 0));
        }
    }

    /// The hybrid time of a write that is made at `unix_ms` on this node's wall clock.
    #[must_use]
    pub fn next_hlc(&self, unix_ms: u64) -> Hlc {
        self.hlc.next_by(unix_ms)
    }

    /// Writes `value` to a key, or deletes it with `None`: replaces what `context` names, or without one what this
    /// node has seen of the key. [`State::use_actor`] has been called, and [`State::flush`]: its changes and this
    /// write's are to be stored in one transaction, because what a write replaces must be known on the disk as
    /// soon as it is replaced there. Then [`State::on_stored`] or [`State::on_store_failed`] is called, in the order
    /// of the writes.
    ///
    /// # Errors
    /// [`WriteError`]; nothing has changed.
    ///
    /// # Panics
    /// Without an actor.
    pub fn write(
        &mut self,
        key: &str,
        value: Option<Bytes>,
        context: Option<&Clock>,
        hlc: Hlc,
        writer: &Arc<Writer>,
    ) -> Result<Written, WriteError> {
        let current = self.current(key);
        self.check_write(key, value.as_ref(), context, &current)?;
        let covered = |sibling: &&Sibling| context.is_none_or(|context| context.contains(sibling.dot));
        check_epoch(writer, current.siblings.iter().filter(covered))?;
        let left = current.siblings.iter().filter(|sibling| !covered(sibling)).count();
        if left >= limits::SIBLINGS_MAX {
            return Err(WriteError::TooManySiblings);
        }
        let mut replaced: Clock =
            current.siblings.iter().filter(covered).map(|sibling| sibling.dot).collect();
        match context {
            Some(context) => replaced.join(context),
            None => replaced.join(&current.context),
        }
        let (actor, minted) = self.actor.expect("an actor is taken before the first write");
        let dot = Dot { actor, n: minted + 1 };
        self.actor = Some((actor, dot.n));
        self.hlc = self.hlc.max(hlc);
        let writer = self.share_writer(writer);
        let delta = KeyState { siblings: vec![Sibling { dot, hlc, writer, value }], context: replaced };
        let mut after = current;
        after.merge(&delta, &[], &Clock::default());
        after.context.compact(&self.clock);
        let key = self.keys.get_key_value(key).map_or_else(|| Key::from(key), |(key, _)| key.clone());
        let changes =
            vec![super::rows::key_row(&key, &after), super::rows::actor_row(&actor, &self.span_with(dot))];
        self.waiting.push_back(Waiting { dot, key, delta });
        Ok(Written { dot, changes })
    }

    fn check_write(
        &self,
        key: &str,
        value: Option<&Bytes>,
        context: Option<&Clock>,
        current: &KeyState,
    ) -> Result<(), WriteError> {
        check_key(key).map_err(WriteError::Key)?;
        if self.failed {
            return Err(WriteError::Disk);
        }
        let bytes = value.map_or(0, Bytes::len);
        if bytes > limits::STATE_VALUE_BYTES_MAX {
            return Err(WriteError::TooLarge { bytes });
        }
        if self.waiting.len() >= limits::STATE_WRITES_WAITING_MAX {
            return Err(WriteError::Full("the queue of writes that wait for the disk"));
        }
        if !current.has_value() && value.is_some() && self.values >= limits::STATE_KEYS_MAX {
            return Err(WriteError::Full("the state's table of keys"));
        }
        if value.is_some() && self.bytes + key.len() + bytes > limits::STATE_BYTES_MAX {
            return Err(WriteError::Full("the state"));
        }
        // Its own writes that wait may be named before they are in the clock.
        let known = |clock: &Clock| {
            clock.beyond(&self.clock).iter().all(|range| {
                self.actor.is_some_and(|(actor, minted)| range.actor == actor && range.upto <= minted)
            })
        };
        if context.is_some_and(|context| !known(context)) {
            return Err(WriteError::ContextAhead);
        }
        Ok(())
    }

    /// A key with the writes that wait.
    pub(super) fn current(&self, key: &str) -> KeyState {
        let mut current = self.keys.get(key).cloned().unwrap_or_default();
        for waiting in self.waiting.iter().filter(|waiting| &*waiting.key == key) {
            current.merge(&waiting.delta, &[], &Clock::default());
        }
        current
    }

    /// Whether a key, writes that wait included, has a value that could be deleted.
    #[must_use]
    pub fn would_delete(&self, key: &str) -> bool {
        self.current(key).has_value()
    }

    /// What this node has seen of a key, writes that wait included: the context of a write that is given none.
    #[must_use]
    pub fn seen(&self, key: &str) -> Clock {
        let current = self.current(key);
        let mut seen = current.dots();
        seen.join(&current.context);
        seen
    }

    /// The dot of what was written to a key at this hybrid time by this writer, while it stands: no node gives one time
    /// twice.
    #[must_use]
    pub fn find_write(&self, key: &str, hlc: Hlc, by: &Writer, value: Option<&Bytes>) -> Option<Dot> {
        let state = self.keys.get(key)?;
        let found =
            state.siblings.iter().find(|s| s.hlc == hlc && *s.writer == *by && s.value.as_ref() == value);
        found.map(|sibling| sibling.dot)
    }

    /// How many values of a key stand beside each other, writes that wait included.
    #[must_use]
    pub fn current_values(&self, key: &str) -> usize {
        self.current(key).values().count()
    }

    /// What is known of an actor, and what waits up to a dot.
    fn span_with(&self, dot: Dot) -> crate::core::model::Span {
        let mut clock = Clock::default();
        if let Some(span) = self.clock.get(&dot.actor) {
            clock.set(dot.actor, span.clone());
        }
        clock.add_range(crate::core::model::DotRange { actor: dot.actor, from: 1, upto: dot.n });
        clock.get(&dot.actor).cloned().unwrap_or_default()
    }

    /// The oldest write that waits is on the disk: it is applied, and may be told.
    ///
    /// # Panics
    /// When none waits, or another than the oldest is named.
    pub fn on_stored(&mut self, dot: Dot) -> Stored {
        let waiting = self.waiting.pop_front().expect("a stored write has waited");
        assert_eq!(waiting.dot, dot, "writes are stored in their order");
        let mut state = self.keys.get(&waiting.key).cloned().unwrap_or_default();
        state.merge(&waiting.delta, &[], &self.clock);
        self.clock.add(dot);
        self.durable.add(dot);
        self.open.insert(dot.actor);
        state.context.compact(&self.clock);
        let is_sibling = state.values().count() > 1;
        let was_clean = !self.dirty.keys.contains(&waiting.key);
        let update = KeyUpdate { key: waiting.key.to_string(), state: state.clone(), more: vec![] };
        self.replace(&waiting.key, state);
        if was_clean {
            // The row that was stored with it says the same.
            self.dirty.keys.remove(&waiting.key);
        }
        Stored { dot, update, is_sibling }
    }

    /// A write could not be stored: it and all that wait are dropped, and their actor is not used again, because
    /// what was not stored for certain may yet be found on the disk one day. Until their rows have been written
    /// as they were ([`State::flush`]), no further write is taken: its row could take the place of one that is in
    /// doubt, and the disk would count as known what it does not hold.
    pub fn on_store_failed(&mut self) -> Vec<Dot> {
        self.failed = true;
        let failed: Vec<_> = self.waiting.drain(..).collect();
        if self.breaks(Rule::RowsInDoubtComeFirst) {
            self.actor = None;
            return failed.into_iter().map(|waiting| waiting.dot).collect();
        }
        if let Some((actor, minted)) = self.actor.take() {
            self.dirty.actors.insert(actor);
            if self.breaks(Rule::ActorInDoubtIsOver) {
                self.actor = Some((actor, minted - failed.len() as u64));
            }
        }
        self.dirty.keys.extend(failed.iter().map(|waiting| waiting.key.clone()));
        failed.into_iter().map(|waiting| waiting.dot).collect()
    }
}

/// An earlier life of an agent does not replace what a later one wrote.
fn check_epoch<'a>(writer: &Writer, replaced: impl Iterator<Item = &'a Sibling>) -> Result<(), WriteError> {
    let Some(ours) = &writer.slot else {
        return Ok(());
    };
    let theirs = replaced.filter_map(|sibling| sibling.writer.slot.as_ref());
    match theirs.filter(|theirs| theirs.name == ours.name).map(|theirs| theirs.epoch).max() {
        Some(theirs) if theirs > ours.epoch => {
            Err(WriteError::Superseded { slot: ours.name.clone(), theirs, ours: ours.epoch })
        }
        Some(_) | None => Ok(()),
    }
}
