//! Disks that fill up, are slow, are older than they say, or whose machine dies at the worst moment; and wall clocks
//! that are set.
//!
//! A disk is never wrong about what it has: that is the store's business, and tested there.

use std::time::Duration;

use super::machine::{Disk, Machine};
use super::world::{Event, World};
use crate::core::contract::{Change, Input};
use crate::core::ids::PersistNo;
use crate::core::model::Mode;
use crate::core::time::Instant;

/// What the wall clocks show when a world begins, in milliseconds since 1970.
const UNIX_MS: u64 = 1_700_000_000_000;

/// What is wrong with a machine's disk and its wall clock.
#[derive(Debug, Default)]
pub(super) struct Mishaps {
    is_full: bool,
    commit_max: Option<Duration>,
    crashes_after_commit: bool,
    backup: Option<Disk>,
    /// How far its wall clock is ahead.
    ahead_ms: i64,
}

impl Machine {
    /// What its wall clock shows, in milliseconds since 1970.
    pub(super) fn unix_ms(&self, now: Instant) -> u64 {
        (UNIX_MS + now.as_nanos() / 1_000_000).saturating_add_signed(self.mishaps.ahead_ms)
    }
}

impl World {
    pub(super) fn persist(&mut self, machine: usize, no: PersistNo, changes: Vec<Change>) {
        let now = self.now;
        // A slow disk is slow each time.
        let (commit_max, least) = match self.machines[machine].mishaps.commit_max {
            Some(commit_max) => (commit_max, 0.5),
            None => (self.config.commit_max, 0.0),
        };
        let takes = commit_max.mul_f64(rand::RngExt::random_range(&mut self.rng, least..1.0));
        let fails = self.chance(self.config.commit_failures);
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        // One writer: commits end in their order.
        process.commit_last = process.commit_last.max(now + takes);
        let (at, run) = (process.commit_last, process.run);
        self.at(at, Event::Commit { machine, run, no, changes, fails });
    }

    pub(super) fn on_commit(
        &mut self,
        machine: usize,
        run: u64,
        no: PersistNo,
        changes: &[Change],
        fails: bool,
    ) {
        // A commit that was under way when its process died is lost: nothing was promised yet.
        if !self.machines[machine].is_running(run) {
            return;
        }
        let host = &mut self.machines[machine];
        if !host.disk.commit(changes, fails || host.mishaps.is_full) {
            let reason = "the disk is full".to_owned();
            return self.input_soon(machine, Input::CommitFailed { no, reason });
        }
        if changes.contains(&Change::LeaveMesh) {
            self.on_left(machine, run);
        }
        let host = &mut self.machines[machine];
        if host.mishaps.crashes_after_commit && changes.iter().any(Change::touches_table) {
            host.mishaps.crashes_after_commit = false;
            return self.crash(machine);
        }
        if let Some(process) = &mut host.process {
            process.committed = no;
        }
        self.input_soon(machine, Input::Committed(no));
    }

    pub(super) fn crash_after_commit(&mut self, machine: usize) {
        self.machines[machine].mishaps.crashes_after_commit = true;
    }

    pub(super) fn spare_after_commit(&mut self, machine: usize) {
        self.machines[machine].mishaps.crashes_after_commit = false;
    }

    pub(super) fn fill_disk(&mut self, machine: usize, full: bool) {
        self.machines[machine].mishaps.is_full = full;
    }

    pub(super) fn slow_disk(&mut self, machine: usize, commit_max: Option<Duration>) {
        self.machines[machine].mishaps.commit_max = commit_max;
    }

    pub(super) fn back_up(&mut self, machine: usize) {
        self.machines[machine].mishaps.backup = Some(self.machines[machine].disk.clone());
    }

    pub(super) fn restore(&mut self, machine: usize) {
        let Some(disk) = self.machines[machine].mishaps.backup.clone() else {
            return;
        };
        // A majority of voters that have forgotten is nothing that a mesh recovers from by itself.
        if (0..self.machines.len()).any(|other| other != machine && self.is_in_doubt(other)) {
            return;
        }
        self.crash(machine);
        self.set_disk(machine, disk);
    }

    /// Whether a machine has an old disk and has not yet learned from others what it may have promised.
    fn is_in_doubt(&self, machine: usize) -> bool {
        let has_recovered = || {
            let view = self.shared_view(machine);
            view.is_some_and(|view| view.sound && view.mode == Mode::Healthy)
        };
        self.checkers.shared.was_restored(machine) && !has_recovered()
    }

    pub(super) fn step_clock(&mut self, machine: usize, by_ms: i64) {
        self.machines[machine].mishaps.ahead_ms += by_ms;
        let unix_ms = self.machines[machine].unix_ms(self.now);
        self.input_soon(machine, Input::WallClock { unix_ms });
    }
}
