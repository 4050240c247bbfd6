//! Every write that was ever made, with what it replaced: from the dots that a node has taken in follows what must
//! stand there, whatever way they came.
//!
//! What a write replaced is read from its writer's state the moment it is applied there. Two bounds are kept, because
//! another write may have replaced the same: *surely* holds what nothing else had replaced, *maybe* everything that
//! did not stand any more. What stands although it was surely replaced has come back; what does not stand although
//! nothing here has maybe replaced it was lost.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::core::mesh::{Mesh, SharedView};
use crate::core::model::{Clock, Dot, KeyState};
use crate::core::time::Instant;

/// One write.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) key: String,
    pub(super) value: Option<Bytes>,
    /// On which machine it was made.
    pub(super) machine: usize,
    pub(super) at: Instant,
    surely_by: Vec<Dot>,
    maybe_by: Vec<Dot>,
}

/// All writes.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    records: BTreeMap<Dot, Record>,
    keys: BTreeMap<String, Vec<Dot>>,
    values: BTreeMap<(String, Bytes), Dot>,
}

impl Ledger {
    pub(super) fn get(&self, dot: Dot) -> Option<&Record> {
        self.records.get(&dot)
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether somebody wrote this.
    pub(super) fn has(&self, key: &str, value: &Bytes) -> bool {
        self.values.contains_key(&(key.to_owned(), value.clone()))
    }

    /// Notes a write that now stands in its writer's state. Returns what is wrong with it.
    pub(super) fn note(
        &mut self,
        dot: Dot,
        (key, state): (&str, &KeyState),
        clock: &Clock,
        (machine, at): (usize, Instant),
    ) -> Option<String> {
        if self.records.contains_key(&dot) {
            return None;
        }
        let value = state.siblings.iter().find(|s| s.dot == dot).and_then(|s| s.value.clone());
        let of_key = self.keys.entry(key.to_owned()).or_default();
        // What those have replaced that this write replaces may never have been here itself.
        let is_known = |other: &Dot| clock.contains(*other) || state.context.contains(*other);
        for other in of_key.iter().copied().filter(|other| is_known(other) && !state.has(*other)) {
            let Some(record) = self.records.get_mut(&other) else {
                continue;
            };
            record.maybe_by.push(dot);
            if !record.maybe_by.iter().any(|by| *by != dot && clock.contains(*by)) {
                record.surely_by.push(dot);
            }
        }
        of_key.push(dot);
        // Shoal's own records say the same again when somebody takes a change back.
        let is_of_user = !key.starts_with("_mesh/");
        let twice = value
            .as_ref()
            .filter(|_| is_of_user)
            .and_then(|value| self.values.insert((key.to_owned(), value.clone()), dot));
        let record = Record { key: key.to_owned(), value, machine, at, surely_by: vec![], maybe_by: vec![] };
        self.records.insert(dot, record);
        twice.map(|first| format!("{dot:?} at {key} writes again what {first:?} wrote"))
    }

    /// What is wrong with a node's state: what has come back, what was lost, what nobody wrote. `is_excused` names
    /// the writes that may be lost.
    pub(super) fn check(&self, mesh: &Mesh, is_excused: impl Fn(&Record) -> bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let SharedView { clock, .. } = mesh.shared_view();
        let mut standing = BTreeMap::new();
        for (key, state) in mesh.shared_keys() {
            for sibling in &state.siblings {
                let dot = sibling.dot;
                standing.insert(dot, key);
                match self.records.get(&dot) {
                    None => wrong.push(format!("{dot:?} stands at {key} and was never made")),
                    Some(record) if *record.key != **key || record.value != sibling.value => {
                        wrong.push(format!("{dot:?} at {key} was something else at {}", record.key));
                    }
                    // A deletion that has been replaced elsewhere after it was collected may stand: it says nothing.
                    Some(record) if record.value.is_none() => {}
                    Some(record) => {
                        // What was lost with a disk is closed as known, and what it had replaced stands again.
                        let is_lost = |by: &Dot| self.records.get(by).is_some_and(&is_excused);
                        let by = record.surely_by.iter().find(|by| clock.contains(**by) && !is_lost(by));
                        if let Some(by) = by {
                            wrong.push(format!("{dot:?} stands at {key}, which {by:?} has replaced"));
                        }
                    }
                }
            }
        }
        for (dot, record) in &self.records {
            let is_lost = record.value.is_some()
                && clock.contains(*dot)
                && !standing.contains_key(dot)
                && !record.maybe_by.iter().any(|by| clock.contains(*by))
                && !is_excused(record);
            if is_lost {
                wrong.push(format!(
                    "{dot:?} of {}, made at {:?} on n{}, counts as known and is not there, nor is what has replaced \
                     it: {:?}",
                    record.key,
                    record.at,
                    record.machine + 1,
                    record.maybe_by
                ));
            }
        }
        wrong
    }
}
