//! Which process of each peer this node has met last, and how much it had promised: kept over this node's own restarts,
//! because nothing else betrays a peer whose store is an older copy (`lineage`).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Durable, Mesh, Pending};
use crate::core::contract::{Change, Output, Table};
use crate::core::ids::{LinkId, NodeId, NodeKey, ProcessId};
use crate::core::wire::{Control, Past, decode_value, encode_value};

/// What the keys of its rows begin with, among those of the register.
const PREFIX: &[u8] = b"met/";

/// Of each peer: the start of the process that was met last, which one it was, and how many promises it had stored.
pub(super) type Starts = BTreeMap<NodeKey, (u64, ProcessId, u64)>;

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
    rows.iter().filter_map(read).collect()
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
        match self.starts.get(&key).copied() {
            Some((start, other, promises))
                if other != process && accounts.is_none_or(|told| told != (other, promises)) =>
            {
                let met = Past::Met { start, process: other, promises };
                self.output(Output::Control { link, frame: Control::Past(met) });
            }
            before if before != Some((start, process, promises)) => {
                self.note_start(key, (start, process, promises));
            }
            _ => {}
        }
    }

    fn note_start(&mut self, key: NodeKey, met: (u64, ProcessId, u64)) {
        self.starts.insert(key, met);
        if !self.shared.has_left {
            let put = Change::Put { table: Table::Register, key: row_of(&key), row: encode_value(&met) };
            self.persist(vec![put], Pending::Shared(Durable::Leftovers));
        }
    }

    pub(super) fn forget_start(&mut self, key: &NodeKey) {
        if self.starts.remove(key).is_some() && !self.shared.has_left {
            let delete = Change::Delete { table: Table::Register, key: row_of(key) };
            self.persist(vec![delete], Pending::Shared(Durable::Leftovers));
        }
    }
}
