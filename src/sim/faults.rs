//! What can be done to a mesh, by hand or by a seeded schedule.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::machine::{Disk, Ended};
use super::world::{Event, World};
use crate::core::contract::{Input, Output};
use crate::core::model::{TicketState, TicketView};
use crate::core::wire::{RequestBody, StateRequest};

/// One thing that is done to the mesh. Machines are meant by their index.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Starts a machine's process. When it runs, no crash waits for it any more.
    Start {
        /// Which.
        machine: usize,
    },
    /// Kills it at once; its disk stays.
    Crash {
        /// Which.
        machine: usize,
    },
    /// Asks it to stop in good order.
    Stop {
        /// Which.
        machine: usize,
    },
    /// Its process does nothing for a while.
    Pause {
        /// Which.
        machine: usize,
        /// How long.
        span: Duration,
    },
    /// Lets it leave its mesh for good; nothing when it does not run.
    Leave {
        /// Which.
        machine: usize,
    },
    /// Kills it, and gives it another port; a start brings it up there.
    Move {
        /// Which.
        machine: usize,
        /// The new port.
        port: u16,
    },
    /// Nothing passes from some machines to others; the other way is not touched.
    Cut {
        /// From these.
        from: Vec<usize>,
        /// To those.
        to: Vec<usize>,
    },
    /// Everything passes again.
    Heal,
    /// From now on this share of all packets is lost.
    Loss(f64),
    /// From now on this share of one machine's packets is lost, both ways.
    Lossy {
        /// Which.
        machine: usize,
        /// The share, 0 to 1.
        share: f64,
    },
    /// Kills it right after its next commit that touches the core's tables: what is stored was told to nobody.
    CrashAfterCommit {
        /// Which.
        machine: usize,
    },
    /// Its disk takes nothing, or takes everything again.
    DiskFull {
        /// Which.
        machine: usize,
        /// Whether it is full.
        full: bool,
    },
    /// From now on a commit takes up to this long there.
    SlowDisk {
        /// Which.
        machine: usize,
        /// How long; `None`: as everywhere.
        commit_max: Option<Duration>,
    },
    /// Copies its disk; an earlier copy is dropped.
    Backup {
        /// Which.
        machine: usize,
    },
    /// Kills it, and puts the copy of its disk in the place of the disk; nothing when there is none.
    Restore {
        /// Which.
        machine: usize,
    },
    /// Its wall clock is set.
    ClockStep {
        /// Which.
        machine: usize,
        /// By how many milliseconds.
        by_ms: i64,
    },
    /// An operator asks its node for something; nothing when it does not run.
    Ask {
        /// Which.
        machine: usize,
        /// What is asked.
        request: StateRequest,
    },
}

/// Faults with the time at which each happens, counted from when the schedule is taken up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Schedule(pub Vec<(Duration, Fault)>);

impl Schedule {
    /// Crashes, restarts, moves, departures, pauses, cuts and losses for `span`, all healed and started at
    /// its end. The first `seeds` machines stay where they are.
    #[must_use]
    pub fn random(nodes: usize, seeds: usize, seed: u64, span: Duration) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed_fa17);
        let mut faults = Vec::new();
        let mut at = Duration::ZERO;
        while at < span {
            let machine = rng.random_range(0..nodes);
            let fault = match rng.random_range(0..12) {
                0 | 1 => Fault::Crash { machine },
                2..=4 => Fault::Start { machine },
                5 => Fault::Stop { machine },
                6 => Fault::Pause { machine, span: Duration::from_millis(rng.random_range(50..8_000)) },
                7 => {
                    let mut all: Vec<_> = (0..nodes).collect();
                    all.shuffle(&mut rng);
                    let to = all.split_off(rng.random_range(1..nodes.max(2)));
                    if rng.random() {
                        faults.push((at, Fault::Cut { from: to.clone(), to: all.clone() }));
                    }
                    Fault::Cut { from: all, to }
                }
                8 => Fault::Heal,
                9 if machine >= seeds => Fault::Move { machine, port: rng.random_range(8000..9000) },
                9 | 10 if rng.random_range(0..3) == 0 => Fault::Leave { machine },
                _ => Fault::Loss(if rng.random() { 0.0 } else { rng.random_range(0.0..0.3) }),
            };
            faults.push((at, fault));
            at += Duration::from_millis(rng.random_range(20..10_000));
        }
        faults.push((span, Fault::Heal));
        faults.push((span, Fault::Loss(0.0)));
        // A paused process is over its pause, and a stopping one has stopped.
        let later = span + Duration::from_secs(30);
        faults.extend((0..nodes).map(|machine| (later, Fault::Start { machine })));
        Self(faults)
    }
}

impl World {
    /// Lets each fault of a schedule happen at its time from now.
    pub fn take_up(&mut self, schedule: Schedule) {
        for (after, fault) in schedule.0 {
            self.after(after, Event::Fault(fault));
        }
    }

    /// Does one thing to the mesh now.
    pub fn apply(&mut self, fault: &Fault) {
        match fault {
            Fault::Start { machine } => {
                self.spare_after_commit(*machine);
                if self.machines[*machine].process.is_none() {
                    self.start(*machine);
                }
            }
            Fault::Crash { machine } => self.crash(*machine),
            Fault::Stop { machine } => self.stop(*machine),
            Fault::Leave { machine } => {
                if self.machines[*machine].process.is_some() {
                    self.leave(*machine);
                }
            }
            Fault::Move { machine, port } => {
                self.crash(*machine);
                let address = format!("{}:{port}", self.machines[*machine].node);
                self.move_to(*machine, &address);
            }
            Fault::Pause { machine, span } => self.pause(*machine, *span),
            Fault::Cut { from, to } => {
                for &a in from {
                    for &b in to {
                        self.paths.cut.insert((a, b));
                        self.disturb(a);
                        self.disturb(b);
                    }
                }
            }
            Fault::Heal => {
                self.paths.cut.clear();
                self.paths.lossy.clear();
                (0..self.machines.len()).for_each(|machine| self.disturb(machine));
            }
            Fault::Loss(share) => self.config.network.loss = *share,
            Fault::Lossy { machine, share } => {
                self.paths.lossy.insert(*machine, *share);
                self.disturb(*machine);
            }
            Fault::CrashAfterCommit { machine } => self.crash_after_commit(*machine),
            Fault::DiskFull { machine, full } => self.fill_disk(*machine, *full),
            Fault::SlowDisk { machine, commit_max } => self.slow_disk(*machine, *commit_max),
            Fault::Backup { machine } => self.back_up(*machine),
            Fault::Restore { machine } => self.restore(*machine),
            Fault::ClockStep { machine, by_ms } => self.step_clock(*machine, *by_ms),
            Fault::Ask { machine, request } => {
                if self.is_running(*machine) {
                    let node = self.machines[*machine].node.clone();
                    self.request(*machine, &node, RequestBody::State(request.clone()));
                }
            }
        }
    }

    pub(super) fn disturb(&mut self, machine: usize) {
        self.machines[machine].disturbed = self.now;
    }

    /// Nothing passes between the two sides.
    pub fn cut(&mut self, one: &[usize], other: &[usize]) {
        self.apply(&Fault::Cut { from: one.to_vec(), to: other.to_vec() });
        self.apply(&Fault::Cut { from: other.to_vec(), to: one.to_vec() });
    }

    /// Kills a machine's process; its disk stays, with what was committed.
    pub fn crash(&mut self, machine: usize) {
        if self.machines[machine].process.is_some() {
            self.disturb(machine);
            self.report.crashes.push((self.now, self.machines[machine].node.clone()));
            self.end_process(machine, Ended::Crashed(self.now));
        }
    }

    /// Asks a machine's process to stop in good order.
    pub fn stop(&mut self, machine: usize) {
        if self.machines[machine].process.is_some() {
            self.input_soon(machine, Input::Stop);
        }
    }

    /// Lets a machine leave its mesh for good.
    ///
    /// # Panics
    /// When it does not run.
    pub fn leave(&mut self, machine: usize) {
        let node = self.machines[machine].node.clone();
        self.request(machine, &node, RequestBody::Leave { drain_ms: 100, force: false });
    }

    /// Freezes a machine's process for a while.
    pub fn pause(&mut self, machine: usize, span: Duration) {
        if !self.machines[machine].paused {
            self.machines[machine].paused = true;
            self.disturb(machine);
            self.after(span, Event::Resume { machine });
        }
    }

    /// Freezes a machine for a while together with its clock, as a virtual machine is: when it goes on, no
    /// time has passed as far as it knows.
    pub fn suspend(&mut self, machine: usize, span: Duration) {
        if !self.machines[machine].paused {
            self.machines[machine].suspended = Some(self.now);
            self.pause(machine, span);
        }
    }

    /// Replaces a machine's labels, for its next start.
    pub fn set_labels(&mut self, machine: usize, labels: &[(&str, &str)]) {
        let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        self.machines[machine].labels = labels.iter().map(text).collect();
    }

    /// Gives a machine another address, for its next start; nobody listens at the old one. A process that runs keeps
    /// its connections, as those of QUIC survive a change of the path, and is dialled in vain at the old one.
    pub fn move_to(&mut self, machine: usize, address: &str) {
        let old = std::mem::replace(&mut self.machines[machine].address, address.to_owned());
        self.addresses.remove(&old);
        self.addresses.insert(address.to_owned(), machine);
    }

    /// Replaces what a machine is told of seeds, for its next start.
    pub fn set_seeds(&mut self, machine: usize, seeds: Vec<String>) {
        self.machines[machine].seeds = seeds;
    }

    /// A copy of a machine's disk.
    #[must_use]
    pub fn disk(&self, machine: usize) -> Disk {
        self.machines[machine].disk.clone()
    }

    /// Puts a disk into a machine, for its next start: an old copy, or another machine's.
    pub fn set_disk(&mut self, machine: usize, disk: Disk) {
        let before = std::mem::replace(&mut self.machines[machine].disk, disk);
        let same_start = before.start_next == self.machines[machine].disk.start_next;
        self.machines[machine].is_odd = true;
        self.checkers.shared.on_disk_replaced(machine, same_start, self.now);
    }

    pub(super) fn on_stopped(&mut self, machine: usize) {
        self.close_all_in_order(machine);
        let left = self.machines[machine].disk.mesh_id.is_none();
        let ended = if left { Ended::Left(self.now) } else { Ended::Stopped(self.now) };
        self.end_process(machine, ended);
    }

    /// A machine's disk has forgotten its mesh.
    pub(super) fn on_left(&mut self, machine: usize, run: u64) {
        if self.machines.iter().any(|other| other.disk.mesh_id.is_some()) {
            // Who has left a mesh that goes on does not begin another one with the same id.
            self.machines[machine].bootstrap = None;
        }
        let Some(process) = &self.machines[machine].process else {
            return;
        };
        let is_done = |view: TicketView| matches!(view.state, TicketState::Done(_));
        let has_outcome = |ticket: &_| process.mesh.ticket(ticket).is_some_and(is_done);
        self.checkers.shared.on_left(machine, run, has_outcome);
    }

    pub(super) fn on_fatal(&mut self, machine: usize, reason: &str) {
        self.report.fatal.push((self.now, machine, reason.to_owned()));
        self.close_all_in_order(machine);
        self.end_process(machine, Ended::Fatal(self.now));
    }

    fn end_process(&mut self, machine: usize, ended: Ended) {
        let Some(process) = self.machines[machine].process.take() else {
            return;
        };
        self.machines[machine].ended = ended;
        self.disturb(machine);
        self.report.asked.retain(|(run, _), _| *run != process.run);
        let stopped = Output::Stopped;
        self.report.log(self.now, machine, &stopped);
        for (connection, _) in process.links.values() {
            self.collect(*connection);
        }
    }
}
