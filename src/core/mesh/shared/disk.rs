//! What is done about a disk that fails, or says nothing: the node doubts itself until the disk works again.
//!
//! A disk that has failed is tried again until it takes what must be durable. One that does not answer is only waited
//! for: what was given to it is under way, and would be given twice.

use std::time::Duration;

use super::super::{Mesh, Pending};
use super::Durable;
use crate::core::contract::Change;
use crate::core::ids::PersistNo;
use crate::core::limits;
use crate::core::model::{Doubt, DoubtKind};
use crate::core::time::Instant;

/// How often a disk that has failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How the disk does.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// What it said when it failed; `None` while it works.
    failure: Option<String>,
    /// What was given to it until that was known: how much of it has failed as well is not known yet.
    given: u64,
    is_silent: bool,
    /// When it is tried again after it has failed.
    repair_due: Option<Instant>,
}

impl Mesh {
    /// Whether the core's own tables may be given rows now. Not while the disk fails: what is written then may be built
    /// upon something that has failed, and the repair waits for whatever is under way. Not when this node has left its
    /// mesh: nothing of it is stored any more.
    pub(in crate::core::mesh) fn takes_rows(&self) -> bool {
        let shared = &self.shared;
        shared.disk.failure.is_none() && !shared.state.has_failed() && !shared.has_left
    }

    /// The disk has not taken something.
    pub(in crate::core::mesh) fn on_disk_failed(&mut self, reason: &str) {
        if self.shared.disk.failure.is_none() {
            self.shared.disk.failure = Some(reason.to_owned());
            self.shared.disk.given = self.persists;
            self.shared.partition.doubt(Doubt::DiskFailed(reason.to_owned()), self.now);
        }
        self.shared.disk.repair_due.get_or_insert(self.now + RETRY);
    }

    /// What the disk said when it failed.
    pub(super) fn disk_failure(&self) -> Option<&str> {
        self.shared.disk.failure.as_deref()
    }

    /// Why rows are not taken now.
    pub(in crate::core::mesh) fn why_no_rows(&self) -> String {
        self.disk_failure().unwrap_or("the disk has failed and takes no writes").to_owned()
    }

    /// Tries a disk that has failed again: whatever is in doubt there is written as it should be.
    pub(super) fn retry_disk(&mut self) {
        if self.shared.has_left || self.shared.disk.repair_due.is_none_or(|due| due > self.now) {
            return;
        }
        // What comes after the repair is built upon everything that came before it: so nothing is to be in doubt.
        if self.pending.iter().any(|(no, (_, then))| self.is_in_doubt(*no, then)) {
            return;
        }
        self.shared.disk.repair_due = None;
        let token = self.shared.token();
        let mut changes = vec![Change::Afresh];
        if let Some(flushed) = self.shared.state.flush(token) {
            changes.extend(flushed.changes);
        }
        self.persist(changes, Pending::Shared(Durable::Flush { token, is_repair: true }));
    }

    /// Whether it may have failed without this node knowing.
    fn is_in_doubt(&self, no: PersistNo, then: &Pending) -> bool {
        match then {
            Pending::Shared(_) | Pending::Outbox(_) => true,
            Pending::Register(_)
            | Pending::Permits(_)
            | Pending::RestartAs(_)
            | Pending::LeaveMesh { .. } => no.0 <= self.shared.disk.given,
            Pending::Nothing | Pending::BelongTo(_) | Pending::Deploy { .. } | Pending::Undeploy { .. } => {
                false
            }
        }
    }

    /// What was in doubt on the disk is as it should be.
    pub(super) fn on_disk_well(&mut self) {
        if self.shared.state.has_failed() {
            // Something failed after this was under way.
            self.shared.disk.repair_due = Some(self.now);
            return;
        }
        self.shared.disk.failure = None;
        self.shared.disk.repair_due = None;
        self.store_lineage_again();
        self.store_starts();
        self.trust_disk();
    }

    /// A disk that does not confirm what it was given is as good as one that fails.
    pub(super) fn watch_disk(&mut self) {
        let oldest = self.pending.first_key_value().map(|(_, (since, _))| self.now.since(*since));
        let is_silent = oldest.is_some_and(|waited| waited >= limits::DISK_SILENCE_MAX);
        if std::mem::replace(&mut self.shared.disk.is_silent, is_silent) == is_silent {
            return;
        }
        if is_silent && self.shared.disk.failure.is_none() {
            let reason = format!("it has not confirmed a change for {:?}", limits::DISK_SILENCE_MAX);
            self.shared.partition.doubt(Doubt::DiskFailed(reason), self.now);
        }
        self.trust_disk();
    }

    fn trust_disk(&mut self) {
        if self.shared.disk.failure.is_none() && !self.shared.disk.is_silent {
            self.shared.partition.doubt_over(DoubtKind::DiskFailed, self.now);
        }
    }
}
