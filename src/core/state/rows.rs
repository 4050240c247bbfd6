//! How the state is kept: one row a key, one an actor, one for the floor and one for
//! what a snapshot has to reach.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Key, Rule, State};
use crate::core::contract::{Change, Table};
use crate::core::model::{Actor, Clock, KeyState, Span, check_key};

const FLOOR: &[u8] = b"floor";
const TARGET: &[u8] = b"target";
const ACTOR: u8 = b'a';

/// What is not on the disk yet.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) keys: BTreeSet<Key>,
    pub(super) actors: BTreeSet<Actor>,
    pub(super) floor: bool,
    pub(super) target: bool,
    /// What the disk has of each of these actors once it is stored.
    clock: Clock,
}

impl Dirty {
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.actors.is_empty() && !self.floor && !self.target
    }
}

/// What was taken from other nodes and is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flushed {
    /// Names it in [`State::on_flushed`].
    pub token: u64,
    /// To be stored in one transaction.
    pub changes: Vec<Change>,
}

impl State {
    /// What a node's state was when its process ended. Its rows are taken out of the tables: of a million, each goes as
    /// it is understood, so that what it said does not stand in memory twice.
    #[must_use]
    pub fn load(tables: &mut BTreeMap<Table, Vec<(Bytes, Bytes)>>) -> Self {
        let mut state = Self::default();
        for (key, row) in tables.remove(&Table::Clock).unwrap_or_default() {
            state.load_clock(&key, &row);
        }
        state.load_keys(tables.remove(&Table::State).unwrap_or_default());
        state.durable = state.clock.clone();
        let is_open = |actor: &&Actor| state.clock.max(actor) > state.floor.upto(actor);
        state.open = state.clock.iter().map(|(actor, _)| actor).filter(is_open).copied().collect();
        state
    }

    fn load_clock(&mut self, key: &[u8], row: &[u8]) {
        let loaded = match key {
            [ACTOR, actor @ ..] => uuid::Uuid::from_slice(actor).ok().and_then(|actor| {
                self.clock.set(Actor(actor), rmp_serde::from_slice(row).ok()?);
                Some(())
            }),
            FLOOR => rmp_serde::from_slice(row).ok().map(|floor| self.floor = floor),
            TARGET => rmp_serde::from_slice(row).ok().map(|target| self.target = target),
            _ => None,
        };
        if loaded.is_none() {
            tracing::error!(key = ?key, "a stored row of the clock is not understood and is left out");
        }
    }

    /// The maps are made of all keys at once: built key by key their nodes would be half empty.
    fn load_keys(&mut self, rows: Vec<(Bytes, Bytes)>) {
        let mut keys = Vec::with_capacity(rows.len());
        let mut index: BTreeMap<Actor, Vec<(u64, Key)>> = BTreeMap::new();
        for (key, row) in rows {
            let Some((key, state)) = self.load_key(&key, &row) else {
                tracing::error!(key = ?key, "a stored row of the state is not understood and is left out");
                continue;
            };
            for sibling in &state.siblings {
                index.entry(sibling.dot.actor).or_default().push((sibling.dot.n, key.clone()));
            }
            self.count(&key, &state);
            self.note_unsettled(&key, &state);
            self.note_policy(&key, Some(&state));
            keys.push((key, state));
        }
        self.keys = keys.into_iter().collect();
        self.index = index.into_iter().map(|(actor, dots)| (actor, dots.into_iter().collect())).collect();
    }

    fn load_key(&mut self, key: &[u8], row: &[u8]) -> Option<(Key, KeyState)> {
        let key = std::str::from_utf8(key).ok().filter(|key| check_key(key).is_ok())?;
        let mut state = rmp_serde::from_slice::<KeyState>(row).ok()?;
        for sibling in &mut state.siblings {
            sibling.writer = self.share_writer(&sibling.writer.clone());
        }
        Some((Key::from(key), state))
    }

    /// Whether something of other nodes is not on its way to the disk.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        !self.dirty.is_empty() || (self.failed && self.flushing.is_empty())
    }

    /// What of other nodes' writes is not on its way to the disk, to be stored in one transaction. It is called
    /// after the changes of every local write so far were given to the disk.
    pub fn flush(&mut self, token: u64) -> Option<Flushed> {
        if !self.needs_flush() {
            return None;
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut changes = Vec::with_capacity(dirty.keys.len() + dirty.actors.len() + 1);
        for key in &dirty.keys {
            changes.push(key_row(key, &self.current(key)));
        }
        for actor in &dirty.actors {
            let span = self.clock.get(actor).cloned().unwrap_or_default();
            changes.push(actor_row(actor, &span));
            dirty.clock.set(*actor, span);
        }
        let clocks = [(dirty.floor, FLOOR, &self.floor), (dirty.target, TARGET, &self.target)];
        for (_, name, clock) in clocks.into_iter().filter(|(is_dirty, ..)| *is_dirty) {
            let row = rmp_serde::to_vec(clock).expect("a clock always encodes");
            let key = Bytes::from_static(name);
            changes.push(Change::Put { table: Table::Clock, key, row: row.into() });
        }
        self.flushing.insert(token, dirty);
        Some(Flushed { token, changes })
    }

    /// Whether the disk has failed and was not put right since: nothing can be written.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// What was flushed is on the disk, or is not and will be flushed again.
    pub fn on_flushed(&mut self, token: u64, stored: bool) {
        if self.breaks(Rule::DurableIsStored) {
            self.durable = self.clock.clone();
        }
        let Some(mut flushed) = self.flushing.remove(&token) else {
            return;
        };
        if stored {
            self.durable.join(&flushed.clock);
            self.failed = false;
            return;
        }
        self.failed = true;
        self.dirty.keys.append(&mut flushed.keys);
        self.dirty.actors.append(&mut flushed.actors);
        self.dirty.floor |= flushed.floor;
        self.dirty.target |= flushed.target;
    }
}

/// The row of a key: none when nothing is known of it.
pub(super) fn key_row(key: &Key, state: &KeyState) -> Change {
    let key = Bytes::copy_from_slice(key.as_bytes());
    if state.siblings.is_empty() && state.context.is_empty() {
        return Change::Delete { table: Table::State, key };
    }
    let row = rmp_serde::to_vec(state).expect("a key's state always encodes");
    Change::Put { table: Table::State, key, row: row.into() }
}

pub(super) fn actor_row(actor: &Actor, span: &Span) -> Change {
    let mut key = Vec::with_capacity(17);
    key.push(ACTOR);
    key.extend_from_slice(actor.0.as_bytes());
    let key = key.into();
    if *span == Span::default() {
        return Change::Delete { table: Table::Clock, key };
    }
    let row = rmp_serde::to_vec(span).expect("a span always encodes");
    Change::Put { table: Table::Clock, key, row: row.into() }
}
