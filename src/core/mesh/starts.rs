//! Which process of each peer this node has met last, and how much it had promised: kept over this node's own restarts,
//! because nothing else betrays a peer whose store is an older copy (`lineage`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Durable, Mesh, Pending};
use crate::core::contract::{Change, Output, Table};
use crate::core::ids::{LinkId, NodeId, NodeKey, ProcessId};
use crate::core::wire::{Control, Past, decode_value, encode_value};

/// What the keys of its rows begin with, among those of the register.
const PREFIX: &[u8] = b"met/";

/// The start of the process that was met last, which one it was, and how many promises it had stored.
type Met = (u64, ProcessId, u64);

#[derive(Debug, Default)]
pub(super) struct Starts {
    met: BTreeMap<NodeKey, Met>,
    /// Who has yet to account for what was met of it.
    unaccounted: BTreeSet<NodeKey>,
    /// Whose rows on the disk say something else, with nothing on its way there.
    unstored: BTreeSet<NodeKey>,
}

/// Whether a row of the register's table is one of these.
pub(super) fn is_row_of_starts(key: &[u8]) -> bool {
    key.starts_with(PREFIX)
}

/// What an earlier process of this node has met. A row that is not understood is as good as none.
pub(super) fn load(rows: &[(Bytes, Bytes)]) -> Starts {
    let read = |(key, row): &(Bytes, Bytes)| {
        let key = key.strip_prefix(PREFIX)?.try_into().ok()?;
        Some((NodeKey(key), decode_value(row).ok()?))
    };
    Starts { met: rows.iter().filter_map(read).collect(), ..Starts::default() }
}

fn row_of(key: &NodeKey) -> Bytes {
    [PREFIX, &key.0].concat().into()
}

impl Mesh {
    pub(super) fn on_past(&mut self, link: LinkId, key: NodeKey, from: &NodeId, past: Past) {
        match past {
            Past::Kept { start, promises, accounts } => self.on_kept(link, key, (start, promises), accounts),
            Past::Met { start, process, promises } => {
                self.on_met(link, from, (start, process, promises));
            }
        }
    }

    /// A process has this on its disk. It is the last one met from now on, if it knows of the one before.
    fn on_kept(&mut self, link: LinkId, key: NodeKey, kept: (u64, u64), accounts: Option<(ProcessId, u64)>) {
        let Some(process) = self.links.get(link).map(|link| link.process) else {
            return;
        };
        let (start, promises) = kept;
        // What was told before may have come while the link was doubted.
        if self.links.told_mut(link).is_some_and(|told| !std::mem::replace(&mut told.is_answered, true)) {
            self.tell_what_is_kept(link);
        }
        match self.starts.met.get(&key).copied() {
            // Another process, or the same one with less: a machine that was set back.
            Some((start, other, noted))
                if (other != process || noted > promises) && accounts != Some((other, noted)) =>
            {
                self.starts.unaccounted.insert(key);
                let met = Past::Met { start, process: other, promises: noted };
                self.output(Output::Control { link, frame: Control::Past(met) });
            }
            before => {
                self.starts.unaccounted.remove(&key);
                if before != Some((start, process, promises)) {
                    self.starts.met.insert(key, (start, process, promises));
                    self.store_start(key);
                }
            }
        }
    }

    /// Whether the process that a link leads to has accounted for what this node knows of the one before it. Until then
    /// its store may be an older copy, and its votes do not count. Nodes of version 1 do not vote.
    pub(super) fn is_vouched_for(&self, link: LinkId) -> bool {
        let link = self.links.get(link).filter(|link| !self.starts.unaccounted.contains(&link.key));
        let met = link.and_then(|link| self.starts.met.get(&link.key));
        link.zip(met).is_some_and(|(link, (_, met, _))| link.process == *met)
    }

    pub(super) fn forget_start(&mut self, key: &NodeKey) {
        self.starts.unaccounted.remove(key);
        if self.starts.met.remove(key).is_some() {
            self.store_start(*key);
        }
    }

    fn store_start(&mut self, key: NodeKey) {
        self.starts.unstored.insert(key);
        self.store_starts();
    }

    /// Writes down what the disk does not say yet, unless it takes nothing now.
    pub(super) fn store_starts(&mut self) {
        if !self.takes_rows() || self.starts.unstored.is_empty() {
            return;
        }
        let keys = std::mem::take(&mut self.starts.unstored);
        let (table, rows) = (Table::Register, &self.starts.met);
        let change = |key| match rows.get(key) {
            Some(met) => Change::Put { table, key: row_of(key), row: encode_value(met) },
            None => Change::Delete { table, key: row_of(key) },
        };
        let changes = keys.iter().map(change).collect();
        self.persist(changes, Pending::Shared(Durable::Starts { keys }));
    }

    pub(super) fn on_starts_not_stored(&mut self, keys: BTreeSet<NodeKey>) {
        self.starts.unstored.extend(keys);
    }
}
