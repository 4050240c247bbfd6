//! Which process of each peer this node has met last: kept over this node's own restarts, because nothing else betrays
//! a peer whose store is a copy from before its last restart. Such a process begins with the number that the one
//! before it had, and knows nothing of what that one promised.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Durable, Mesh, Pending};
use crate::core::contract::{Change, Output, Table};
use crate::core::ids::{LinkId, NodeKey, ProcessId};
use crate::core::wire::{Control, decode_value, encode_value};

/// What the keys of its rows begin with, among those of the register.
const PREFIX: &[u8] = b"met/";

/// The highest process start that was met of each peer, and which process that was.
pub(super) type Starts = BTreeMap<NodeKey, (u64, ProcessId)>;

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
    /// A link to a process of the peer is there.
    pub(super) fn note_start(&mut self, key: NodeKey, start: u64, process: ProcessId) {
        let before = self.latest_starts.get(&key).copied();
        let after = match before {
            Some((latest, other)) if other != process && latest >= start => return,
            Some((latest, _)) => (latest.max(start), process),
            None => (start, process),
        };
        if before == Some(after) {
            return;
        }
        self.latest_starts.insert(key, after);
        if !self.shared.has_left {
            let put = Change::Put { table: Table::Register, key: row_of(&key), row: encode_value(&after) };
            self.persist(vec![put], Pending::Shared(Durable::Leftovers));
        }
    }

    pub(super) fn forget_start(&mut self, key: &NodeKey) {
        if self.latest_starts.remove(key).is_some() && !self.shared.has_left {
            let delete = Change::Delete { table: Table::Register, key: row_of(key) };
            self.persist(vec![delete], Pending::Shared(Durable::Leftovers));
        }
    }

    /// Tells a process whose start number another process of its node had, until it has taken a later one.
    pub(super) fn tell_start_taken(&mut self, link: LinkId, key: NodeKey) {
        let (Some(process), Some(latest)) = (self.links.get(link), self.latest_starts.get(&key)) else {
            return;
        };
        let start = latest.0;
        let goes_on_above =
            self.membership.known(&key).is_some_and(|known| known.incarnation.start() > start);
        if latest.1 != process.process && start >= process.start && !goes_on_above {
            self.output(Output::Control { link, frame: Control::StartTaken { start } });
        }
    }
}
