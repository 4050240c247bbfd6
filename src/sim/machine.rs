//! A machine: a disk that outlives its processes, an address, and at most one process.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::disks::Mishaps;
use crate::core::contract::{Change, Effect, Remembered, Table};
use crate::core::ids::{AgentName, LinkId, MeshId, NodeId, PersistNo};
use crate::core::mesh::Mesh;
use crate::core::model::{AgentSpec, Hello, NodeCard, Tally};
use crate::core::time::Instant;

/// What a node's store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The number that the next process start takes.
    pub start_next: u64,
    /// The mesh it belongs to.
    pub mesh_id: Option<MeshId>,
    /// The peers it has met.
    pub peers: BTreeMap<NodeId, NodeCard>,
    /// The agents that come back with it.
    pub agents: BTreeMap<AgentName, AgentSpec>,
    /// The rows of the core's own tables.
    pub rows: BTreeMap<(Table, Bytes), Bytes>,
    /// A change of those tables has failed, and nothing that was built upon it may be taken.
    pub has_failed: bool,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            start_next: 1,
            mesh_id: None,
            peers: BTreeMap::new(),
            agents: BTreeMap::new(),
            rows: BTreeMap::new(),
            has_failed: false,
        }
    }
}

impl Disk {
    /// Takes the next start number and returns what a process finds.
    pub(super) fn begin_start(&mut self) -> Remembered {
        let start = self.start_next;
        self.start_next += 1;
        self.has_failed = false;
        let mut tables: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((table, key), row) in &self.rows {
            tables.entry(*table).or_default().push((key.clone(), row.clone()));
        }
        Remembered {
            start,
            mesh_id: self.mesh_id,
            peers: self.peers.values().cloned().collect(),
            agents: self.agents.values().cloned().collect(),
            tables,
            rebuilt: false,
        }
    }

    /// Commits changes, unless the disk fails them or they are built upon some that failed. Returns whether
    /// they are there.
    pub(super) fn commit(&mut self, changes: &[Change], fails: bool) -> bool {
        if changes.first() == Some(&Change::Afresh) {
            self.has_failed = false;
        }
        let is_ordered = changes.iter().any(Change::touches_table);
        if fails || (is_ordered && self.has_failed) {
            self.has_failed |= is_ordered;
            return false;
        }
        self.apply(changes);
        true
    }

    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::MeshId(id) => self.mesh_id = Some(*id),
                Change::Peer(card) => {
                    self.peers.insert(card.node_id.clone(), card.clone());
                }
                Change::ForgetPeer(node) => {
                    self.peers.remove(node);
                }
                Change::Agent(spec) => {
                    self.agents.insert(spec.name.clone(), spec.clone());
                }
                Change::RemoveAgent(name) => {
                    self.agents.remove(name);
                }
                Change::LeaveMesh => {
                    self.mesh_id = None;
                    self.peers.clear();
                }
                Change::StartAtLeast(start) => self.start_next = self.start_next.max(*start),
                Change::Put { table, key, row } => {
                    self.rows.insert((*table, key.clone()), row.clone());
                }
                Change::Delete { table, key } => {
                    self.rows.remove(&(*table, key.clone()));
                }
                Change::Clear(table) => self.rows.retain(|(of, _), _| of != table),
                Change::Afresh => {}
            }
        }
    }
}

/// One run of a node.
#[derive(Debug)]
pub(super) struct Process {
    /// Unique among all processes of the world.
    pub(super) run: u64,
    pub(super) mesh: Mesh,
    /// What it says to whoever connects.
    pub(super) hello: Option<Hello>,
    /// Its links, as (connection, side).
    pub(super) links: BTreeMap<LinkId, (u64, usize)>,
    pub(super) links_made: u64,
    pub(super) requests_made: u64,
    /// When it is going to be woken.
    pub(super) wake: Option<Instant>,
    /// Effects that wait for a commit.
    pub(super) held: Vec<Effect>,
    pub(super) committed: PersistNo,
    pub(super) commit_last: Instant,
    /// Agents that its runtime has, with their runs.
    pub(super) agents: BTreeMap<AgentName, (u64, AgentSpec)>,
    /// Until when those of them that are exclusive may run, by the machine's clock.
    pub(super) permits: BTreeMap<AgentName, Instant>,
    /// What became of their messages, with the run that it is about.
    pub(super) tallies: BTreeMap<AgentName, (u64, Tally)>,
}

/// A machine of the world.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) node: NodeId,
    pub(super) address: String,
    pub(super) region: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) seeds: Vec<String>,
    /// The mesh that it begins, if it begins one.
    pub(super) bootstrap: Option<MeshId>,
    pub(super) disk: Disk,
    pub(super) process: Option<Process>,
    pub(super) paused: bool,
    /// How far the clock of its process is behind the world's, because it stood still while it was suspended.
    pub(super) behind: Duration,
    /// Since when it stands still.
    pub(super) suspended: Option<Instant>,
    /// How its last process ended.
    pub(super) ended: Ended,
    /// Another machine has the same node id, or its disk went back in time.
    pub(super) is_odd: bool,
    /// When something was last done to it that may make others doubt it.
    pub(super) disturbed: Instant,
    /// What is wrong with its disk and its wall clock.
    pub(super) mishaps: Mishaps,
    pub(super) packets_sent: u64,
    pub(super) bytes_sent: u64,
}

/// How a machine's last process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It never ran.
    Never,
    /// It was killed.
    Crashed(Instant),
    /// It stopped of its own will.
    Stopped(Instant),
    /// It left its mesh for good.
    Left(Instant),
    /// It refused to go on.
    Fatal(Instant),
}

impl Machine {
    pub(super) fn card(&self) -> NodeCard {
        NodeCard {
            node_id: self.node.clone(),
            addresses: vec![self.address.clone()],
            region: self.region.clone(),
            zone: String::new(),
            labels: self.labels.clone(),
            roles: vec![],
            version: "0.0.0".to_owned(),
        }
    }

    /// The time as its process knows it.
    pub(super) fn clock(&self, now: Instant) -> Instant {
        Instant::ZERO + now.since(Instant::ZERO + self.behind)
    }

    pub(super) fn is_running(&self, run: u64) -> bool {
        self.process.as_ref().is_some_and(|p| p.run == run)
    }
}
