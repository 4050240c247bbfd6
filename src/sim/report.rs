//! What happened in a run, in figures.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::world::World;
use crate::core::error::Refusal;
use crate::core::ids::{AgentName, NodeId, RequestId};
use crate::core::model::{Finding, MemberStatus, Mode};
use crate::core::time::Instant;
use crate::core::wire::{RequestBody, ResponseBody};

/// Findings that a report keeps; the oldest is dropped.
const FINDINGS_MAX: usize = 10_000;

/// A node told of another node's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChange {
    /// When.
    pub at: Instant,
    /// Who told.
    pub observer: NodeId,
    /// Of whom.
    pub node: NodeId,
    /// The new status.
    pub status: MemberStatus,
    /// Why.
    pub reason: String,
    /// It says "failed" of a node to which nothing was done.
    pub is_false: bool,
}

impl fmt::Display for StatusChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, observer, node, status, reason, .. } = self;
        write!(f, "{at:?} {observer}: {node} is {status}: {reason}")
    }
}

/// What happened so far.
#[derive(Debug)]
pub struct Report {
    /// The seed of the run.
    pub seed: u64,
    /// Events that happened.
    pub events: u64,
    /// All that nodes told of each other's status.
    pub changes: Vec<StatusChange>,
    /// Which machine went from which mode to which, and why.
    pub modes: Vec<(Instant, usize, Mode, Mode, String)>,
    /// Which nodes were killed, and when.
    pub crashes: Vec<(Instant, NodeId)>,
    /// How often an exclusive agent was begun.
    pub exclusive_starts: u64,
    /// Writes of agents that were accepted.
    pub effects: u64,
    /// Which machines' processes refused to go on, and why.
    pub fatal: Vec<(Instant, usize, String)>,
    /// Which machine noticed that a node id is claimed twice.
    pub duplicates: Vec<(Instant, usize, NodeId)>,
    /// Which machine refused a peer or was refused, and why.
    pub refused: Vec<(Instant, usize, String)>,
    /// What machines told of the versions of blueprints.
    pub rollouts: Vec<(usize, AgentName, u64, String)>,
    /// What nodes found out about each other, the youngest ones, with the machine that did.
    pub findings: VecDeque<(Instant, usize, Finding)>,
    /// Open requests, by process and number.
    pub(super) asked: BTreeMap<(u64, RequestId), (Instant, RequestBody)>,
    /// Answers to requests, by machine and number, with how long they took.
    pub replies: BTreeMap<(usize, RequestId), (Duration, Result<ResponseBody, Refusal>)>,
    buffer: Vec<u8>,
    digest: Sha256,
}

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            events: 0,
            changes: Vec::new(),
            modes: Vec::new(),
            crashes: Vec::new(),
            exclusive_starts: 0,
            effects: 0,
            fatal: Vec::new(),
            duplicates: Vec::new(),
            refused: Vec::new(),
            rollouts: Vec::new(),
            findings: VecDeque::new(),
            asked: BTreeMap::new(),
            replies: BTreeMap::new(),
            buffer: Vec::new(),
            digest: Sha256::new(),
        }
    }

    pub(super) fn found(&mut self, at: Instant, machine: usize, finding: Finding) {
        if self.findings.len() >= FINDINGS_MAX {
            self.findings.pop_front();
        }
        self.findings.push_back((at, machine, finding));
    }

    /// Adds an input or an output of a core to the log, of which only the hash is kept.
    pub(super) fn log(&mut self, now: Instant, machine: usize, what: &impl Serialize) {
        self.buffer.clear();
        rmp_serde::encode::write(&mut self.buffer, &(now, machine, what)).expect("plain values encode");
        self.digest.update(&self.buffer);
    }

    /// SHA-256 over all inputs and outputs of all cores so far: equal for two runs of one seed.
    #[must_use]
    pub fn digest(&self) -> String {
        self.digest.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// How long after `since` each observer said that the node has failed, in order.
    #[must_use]
    pub fn detections(&self, node: &NodeId, since: Instant) -> Vec<Duration> {
        let mut first = BTreeMap::new();
        for change in &self.changes {
            if change.at >= since && change.node == *node && change.status == MemberStatus::Failed {
                first.entry(&change.observer).or_insert(change.at.since(since));
            }
        }
        let mut times: Vec<_> = first.into_values().collect();
        times.sort_unstable();
        times
    }

    /// How often a node to which nothing was done was called failed.
    #[must_use]
    pub fn false_failures(&self) -> usize {
        self.changes.iter().filter(|change| change.is_false).count()
    }
}

/// The value below which a share of the sorted values lies.
#[must_use]
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

impl World {
    /// Packets and bytes sent so far, by all machines together.
    #[must_use]
    pub fn traffic(&self) -> (u64, u64) {
        let add = |(p, b): (u64, u64), m: &super::machine::Machine| (p + m.packets_sent, b + m.bytes_sent);
        self.machines.iter().fold((0, 0), add)
    }

    /// Bytes that one machine has sent so far.
    #[must_use]
    pub fn bytes_sent(&self, machine: usize) -> u64 {
        self.machines[machine].bytes_sent
    }

    /// How often nodes had to renew their incarnation, in the processes that run now.
    #[must_use]
    pub fn renewals(&self) -> u64 {
        let running = self.machines.iter().filter_map(|m| m.process.as_ref());
        running.map(|p| p.mesh.view().counters.renewals).sum()
    }
}
