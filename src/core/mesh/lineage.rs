//! What this node's own store knows of its past: which processes have run on it, and how much each had promised as a
//! voter when it ended.
//!
//! A start number alone does not betray an old copy of a store: the processes that run on the copy count on from where
//! it was taken, and pass the numbers of those that came after it. So peers keep which process of a node they have met
//! last, and what it had promised (`starts`); they tell a later process of that node, until it has accounted for it. A
//! store that does not have such a process, or that had promised less when it ended, is an older copy.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Durable, Mesh, Pending};
use crate::core::contract::{Change, Output, Table};
use crate::core::ids::{LinkId, NodeId, NodeKey, ProcessId};
use crate::core::limits;
use crate::core::wire::{Control, Past, decode_value, encode_value};

/// What the keys of its rows begin with, among those of the register; then the start, eight bytes, highest first.
const PREFIX: &[u8] = b"ran/";
/// The row that counts the register's promises.
const PROMISES: &[u8] = b"promises";

/// Whether a row of the register's table is one of these.
pub(super) fn is_row_of_lineage(key: &[u8]) -> bool {
    key.starts_with(PREFIX) || key == PROMISES
}

#[derive(Debug, Default)]
pub(super) struct Lineage {
    /// The starts of the processes that ran on this store, and how many promises it had when each began.
    ran: BTreeMap<u64, (ProcessId, u64)>,
    /// How often the register has stored something.
    promises: u64,
    /// The part of it that is on the disk.
    kept: u64,
    /// How many there were when this process began.
    begun_with: u64,
    /// The row of this process is on the disk: peers may remember it.
    is_stored: bool,
    /// The start that this process is to go on above: on its way to the disk, or waiting for one that takes it.
    above: Option<u64>,
    /// The store is an old copy, which is to be written there together with that, before anything else.
    is_old: bool,
    /// Whoever has shown it to this process. This one goes on above all that they have met.
    shown_by: BTreeSet<NodeKey>,
    /// This process was told of writes of its node that its store does not know.
    has_seen_lost_writes: bool,
}

impl Lineage {
    /// What earlier processes have left. A row that is not understood is as good as none.
    pub(super) fn load(rows: &[(Bytes, Bytes)]) -> Self {
        let read = |(key, row): &(Bytes, Bytes)| {
            let start = u64::from_be_bytes(key.strip_prefix(PREFIX)?.try_into().ok()?);
            Some((start, decode_value(row).ok()?))
        };
        let counted = rows.iter().find(|(key, _)| key == PROMISES);
        let promises = counted.and_then(|(_, row)| decode_value(row).ok()).unwrap_or_default();
        let ran = rows.iter().filter_map(read).collect();
        Self { ran, promises, kept: promises, begun_with: promises, ..Self::default() }
    }

    /// Whether the store knows that process and all that it had promised. Of what is older than the oldest that it
    /// knows, nothing is left to be told: others have been asked since, or it is too long ago.
    fn accounts_for(&self, start: u64, process: ProcessId, promises: u64) -> bool {
        if self.ran.first_key_value().is_none_or(|(oldest, _)| start < *oldest) {
            return true;
        }
        let next = self.ran.range(start + 1..).next();
        let at_its_end = next.map_or(self.promises, |(_, (_, promises))| *promises);
        self.ran.get(&start).is_some_and(|(ran, _)| *ran == process) && promises <= at_its_end
    }
}

fn row_of(start: u64) -> Bytes {
    [PREFIX, &start.to_be_bytes()].concat().into()
}

impl Mesh {
    /// Writes down that this process runs; peers are told once that is on the disk.
    pub(super) fn store_process(&mut self) {
        if self.shared.has_left {
            return;
        }
        let start = self.membership.incarnation().start();
        // Those that this one has tried to store since are not its predecessor's.
        let ran = (self.process_id, self.lineage.begun_with);
        self.lineage.ran.insert(start, ran);
        let mut changes = vec![put(row_of(start), encode_value(&ran))];
        changes.extend(self.doubts_to_store());
        while self.lineage.ran.len() > limits::LINEAGE_PROCESSES_MAX {
            if let Some((oldest, _)) = self.lineage.ran.pop_first() {
                changes.push(delete(row_of(oldest)));
            }
        }
        self.persist(changes, Pending::Shared(Durable::Process));
    }

    pub(super) fn on_process_stored(&mut self) {
        self.lineage.is_stored = true;
        self.tell_all_what_is_kept();
    }

    /// To be stored with what the register stores.
    pub(super) fn count_promise(&mut self) -> Change {
        self.lineage.promises += 1;
        put(Bytes::from_static(PROMISES), encode_value(&self.lineage.promises))
    }

    pub(super) fn on_promise_stored(&mut self) {
        self.lineage.kept = self.lineage.promises;
        self.tell_all_what_is_kept();
    }

    fn tell_all_what_is_kept(&mut self) {
        let links: Vec<_> = self.links.every_proven().map(|(_, link)| link).collect();
        links.into_iter().for_each(|link| self.tell_what_is_kept(link));
    }

    /// Tells the peer what it may remember of this process.
    pub(super) fn tell_what_is_kept(&mut self, link: LinkId) {
        self.tell_kept(link, None);
    }

    fn tell_kept(&mut self, link: LinkId, accounts: Option<(ProcessId, u64)>) {
        if self.lineage.is_stored && self.lineage.above.is_none() {
            let start = self.membership.incarnation().start();
            let kept = Past::Kept { start, promises: self.lineage.kept, accounts };
            self.output(Output::Control { link, frame: Control::Past(kept) });
        }
    }

    /// A peer has met this process of this node last, and knows so many promises of it.
    pub(super) fn on_met(&mut self, link: LinkId, from: &NodeId, met: (u64, ProcessId, u64)) {
        let (start, process, promises) = met;
        let own = self.membership.incarnation();
        if start > own.start().saturating_add(limits::INCARNATION_START_JUMP_MAX) {
            return self.refuse_start(from, start);
        }
        // They are told when this is over, and say it again then.
        if self.lineage.above.is_some() {
            return;
        }
        if self.lineage.accounts_for(start, process, promises) {
            return self.tell_kept(link, Some((process, promises)));
        }
        if !self.lineage.shown_by.insert(from.key()) {
            return self.refuse_start(from, start);
        }
        tracing::warn!(%from, start, promises, "a peer has met a process of this node that its store does not know, or not to its end");
        self.on_later_start(start.max(own.start()));
    }

    /// A peer has a write of an earlier process of this node that its store does not know.
    pub(super) fn on_lost_write(&mut self, from: &NodeId, dot: crate::core::model::Dot) {
        if self.lineage.above.is_none() && !std::mem::replace(&mut self.lineage.has_seen_lost_writes, true) {
            tracing::warn!(%from, ?dot, "a peer has a write of this node that its store does not know");
            self.on_later_start(self.membership.incarnation().start());
        }
    }

    /// The store is an older copy: what its processes may have promised is asked of others, before anything else.
    pub(super) fn on_later_start(&mut self, start: u64) {
        if self.lineage.above.is_some() {
            return;
        }
        tracing::warn!(start, "this node's store is an old copy: going on above what peers remember of it");
        self.lineage.is_old = true;
        self.on_old_store();
        self.restart_above(start);
    }

    /// What could not be written when the disk failed.
    pub(super) fn store_lineage_again(&mut self) {
        match self.lineage.above {
            // It was given to the disk after the repair.
            Some(_) if self.is_restarting() => {}
            Some(start) => {
                if self.lineage.is_old {
                    self.on_old_store();
                }
                self.store_restart(start);
            }
            None if self.lineage.is_old => self.on_later_start(self.membership.incarnation().start()),
            None if !self.lineage.is_stored => self.store_process(),
            None => {}
        }
    }

    fn is_restarting(&self) -> bool {
        self.pending.values().any(|(_, then)| matches!(then, Pending::RestartAs(_)))
    }

    pub(super) fn restart_above(&mut self, start: u64) {
        if self.lineage.above.is_none() {
            self.lineage.above = Some(start);
            self.store_restart(start);
        }
    }

    fn store_restart(&mut self, above: u64) {
        let start = above + 1;
        // This process takes `start`; the next one must not take it again.
        let mut changes = vec![Change::StartAtLeast(start + 1)];
        if !self.shared.has_left {
            // In one step with what makes the next process ask, too: none of them believes in this store again.
            if self.lineage.is_old {
                changes.extend(self.lineage.ran.keys().map(|ran| delete(row_of(*ran))));
                changes.push(delete(crate::core::register::row_of_soundness()));
                changes.push(super::permits::change_of_doubt());
            }
            changes.push(put(row_of(start), encode_value(&(self.process_id, self.lineage.promises))));
        }
        self.persist(changes, Pending::RestartAs(start));
    }

    /// This process goes by a later start from now on.
    pub(super) fn on_restart_stored(&mut self, start: u64) {
        self.lineage.above = None;
        if self.shared.has_left {
            // Nothing else was written. If it turns out that this node could not leave, that is made up for.
            self.lineage.is_stored = false;
            return;
        }
        if std::mem::take(&mut self.lineage.is_old) {
            self.lineage.ran.clear();
        }
        self.lineage.ran.insert(start, (self.process_id, self.lineage.promises));
        self.lineage.is_stored = true;
        self.tell_all_what_is_kept();
    }
}

fn put(key: Bytes, row: Bytes) -> Change {
    Change::Put { table: Table::Register, key, row }
}

fn delete(key: Bytes) -> Change {
    Change::Delete { table: Table::Register, key }
}
