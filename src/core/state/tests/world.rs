//! A few nodes with disks, messages that are late, lost or doubled, and everything that can go wrong between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::reference::Reference;
use crate::core::contract::{Change, Table};
use crate::core::ids::NodeId;
use crate::core::model::{Actor, Clock, Dot, DotRange, KeyUpdate, Writer};
use crate::core::state::{Part, State};

pub(super) const NODES: usize = 4;
const KEYS: [&str; 3] = ["a", "a/b", "c"];

/// One step of a run. Nodes, keys and messages are meant modulo how many there are.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Write {
        node: usize,
        key: usize,
        delete: bool,
        context: Context,
        outcome: Outcome,
    },
    /// Remembers what is read, to be the context of a later write.
    Read {
        node: usize,
        key: usize,
    },
    Deliver {
        message: usize,
        keep: bool,
    },
    Lose {
        message: usize,
    },
    Sync {
        from: usize,
        to: usize,
        parts: usize,
    },
    Flush {
        node: usize,
        stored: bool,
    },
    Crash {
        node: usize,
    },
    Restore {
        node: usize,
    },
    Backup {
        node: usize,
    },
    RaiseFloor,
    Evict {
        node: usize,
    },
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Context {
    Seen,
    Remembered(usize),
    Nothing,
}

/// What becomes of a write at the disk.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Stored,
    Failed,
    /// It is said to have failed, and is found on the disk later.
    InDoubt,
}

pub(super) fn steps(max: usize) -> impl Strategy<Value = Vec<Step>> {
    let node = || 0..NODES;
    let key = || 0..KEYS.len();
    let context = prop_oneof![
        4 => Just(Context::Seen),
        3 => (0..32_usize).prop_map(Context::Remembered),
        1 => Just(Context::Nothing),
    ];
    let outcome =
        prop_oneof![8 => Just(Outcome::Stored), 1 => Just(Outcome::Failed), 1 => Just(Outcome::InDoubt)];
    let step = prop_oneof![
        8 => (node(), key(), any::<bool>(), context, outcome)
            .prop_map(|(node, key, delete, context, outcome)| Step::Write { node, key, delete, context, outcome }),
        2 => (node(), key()).prop_map(|(node, key)| Step::Read { node, key }),
        6 => (0..64_usize, any::<bool>()).prop_map(|(message, keep)| Step::Deliver { message, keep }),
        2 => (0..64_usize).prop_map(|message| Step::Lose { message }),
        4 => (node(), node(), 1..6_usize).prop_map(|(from, to, parts)| Step::Sync { from, to, parts }),
        4 => (node(), proptest::bool::weighted(0.8)).prop_map(|(node, stored)| Step::Flush { node, stored }),
        2 => node().prop_map(|node| Step::Crash { node }),
        1 => node().prop_map(|node| Step::Restore { node }),
        1 => node().prop_map(|node| Step::Backup { node }),
        3 => Just(Step::RaiseFloor),
        1 => node().prop_map(|node| Step::Evict { node }),
    ];
    proptest::collection::vec(step, 1..max)
}

type Disk = BTreeMap<(Table, Bytes), Bytes>;

struct Node {
    state: State,
    disk: Disk,
    backup: Disk,
    /// Whether the floor waits for it.
    is_member: bool,
    /// It has been evicted, or its disk went back: it takes everything in before it writes or tells.
    is_behind: bool,
    highest: Clock,
    collected: Option<crate::core::state::Key>,
}

type Told = (Vec<KeyUpdate>, Vec<DotRange>, Clock);

pub(super) struct World {
    nodes: Vec<Node>,
    reference: Reference,
    messages: Vec<(usize, Told)>,
    contexts: Vec<(usize, Clock)>,
    actors: u128,
    tokens: u64,
    writes: u64,
    writer: Arc<Writer>,
    /// Acknowledged writes: none of them may be unknown to all.
    acknowledged: BTreeSet<Dot>,
    /// Disks went back in time, so what only they held may be gone.
    lossy: bool,
}

impl World {
    pub(super) fn new() -> Self {
        let node = || Node {
            state: State::default(),
            disk: Disk::new(),
            backup: Disk::new(),
            is_member: true,
            is_behind: false,
            highest: Clock::default(),
            collected: None,
        };
        let writer = Writer { node: NodeId::new("n").expect("valid"), slot: None };
        Self {
            nodes: (0..NODES).map(|_| node()).collect(),
            reference: Reference::default(),
            messages: vec![],
            contexts: vec![],
            actors: 0,
            tokens: 0,
            writes: 0,
            writer: Arc::new(writer),
            acknowledged: BTreeSet::new(),
            lossy: false,
        }
    }

    pub(super) fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(step);
            self.check();
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write { node, key, delete, context, outcome } => {
                self.write(node, KEYS[key], delete, context, outcome);
            }
            Step::Read { node, key } => {
                self.contexts.push((key, self.nodes[node].state.read(KEYS[key]).context));
            }
            Step::Deliver { message, keep } => self.deliver(message, keep),
            Step::Lose { message } => {
                if !self.messages.is_empty() {
                    self.messages.remove(message % self.messages.len());
                }
            }
            Step::Sync { from, to, parts } => self.sync(from, to, parts),
            Step::Flush { node, stored } => self.flush(node, stored),
            Step::Crash { node } => self.restart(node),
            Step::Backup { node } => self.nodes[node].backup = self.nodes[node].disk.clone(),
            Step::Restore { node } if self.others_are_well(node) => {
                self.nodes[node].disk = self.nodes[node].backup.clone();
                self.nodes[node].is_behind = true;
                self.lossy = true;
                self.restart(node);
            }
            Step::RaiseFloor => self.raise_floor(),
            Step::Evict { node } if self.others_are_well(node) => {
                self.nodes[node].is_member = false;
                self.nodes[node].is_behind = true;
            }
            Step::Restore { .. } | Step::Evict { .. } => {}
        }
    }

    /// Whether some member beside this node has what the members have.
    fn others_are_well(&self, node: usize) -> bool {
        let others = self.nodes.iter().enumerate().filter(|(at, _)| *at != node);
        others.filter(|(_, other)| other.is_member && !other.is_behind).count() > 0
    }

    fn write(&mut self, at: usize, key: &str, delete: bool, context: Context, outcome: Outcome) {
        if self.nodes[at].is_behind {
            return;
        }
        self.writes += 1;
        let value = (!delete).then_some(self.writes);
        let node = &mut self.nodes[at];
        let actors = &mut self.actors;
        node.state.use_actor(|| {
            *actors += 1;
            Actor(uuid::Uuid::from_u128(*actors))
        });
        let given = match context {
            Context::Seen => None,
            Context::Nothing => Some(Clock::default()),
            Context::Remembered(n) => {
                let of_key: Vec<_> = self.contexts.iter().filter(|(k, _)| KEYS[*k] == key).collect();
                of_key.get(n % of_key.len().max(1)).map(|(_, context)| context.clone())
            }
        };
        // What a write replaces must be as durable as the write.
        self.tokens += 1;
        let flushed = node.state.flush(self.tokens);
        let bytes = value.map(|value| Bytes::copy_from_slice(&value.to_le_bytes()));
        let hlc = node.state.next_hlc(self.writes);
        let seen = given.clone().unwrap_or_else(|| node.state.clock().clone());
        let written = node.state.write(key, bytes, given.as_ref(), hlc, &self.writer);
        let stored = !matches!((outcome, &written), (Outcome::Failed, Ok(_)));
        let mut changes = vec![];
        if let Some(flushed) = flushed {
            if stored {
                changes.extend(flushed.changes);
            }
            node.state.on_flushed(flushed.token, stored && !matches!(outcome, Outcome::InDoubt));
        }
        apply(&mut node.disk, &changes);
        let Ok(written) = written else {
            return;
        };
        self.reference.note(written.dot, key, value, &seen);
        match outcome {
            Outcome::Stored => {
                apply(&mut node.disk, &written.changes);
                let stored = node.state.on_stored(written.dot);
                self.acknowledged.insert(stored.dot);
                let range = DotRange { actor: stored.dot.actor, from: stored.dot.n, upto: stored.dot.n };
                for to in (0..NODES).filter(|to| *to != at) {
                    let floor = node.state.floor().clone();
                    self.messages.push((to, (vec![stored.update.clone()], vec![range], floor)));
                }
            }
            Outcome::Failed => drop(node.state.on_store_failed()),
            Outcome::InDoubt => {
                apply(&mut node.disk, &written.changes);
                node.state.on_store_failed();
            }
        }
    }

    fn deliver(&mut self, message: usize, keep: bool) {
        if self.messages.is_empty() {
            return;
        }
        let at = message % self.messages.len();
        let (to, (updates, closes, floor)) =
            if keep { self.messages[at].clone() } else { self.messages.remove(at) };
        // Its sender may have forgotten what this node would need to be told.
        if !self.nodes[to].state.clock().covers(&floor) {
            return;
        }
        self.nodes[to].state.apply(&updates, &closes).expect("nobody lies here");
    }

    fn sync(&mut self, from: usize, to: usize, parts: usize) {
        if from == to || self.nodes[from].is_behind {
            return;
        }
        let theirs = self.nodes[to].state.clock().clone();
        let whole = self.nodes[to].state.is_behind();
        let Some(mut offer) = self.nodes[from].state.offer(&theirs, whole) else {
            self.nodes[to].is_behind &= !self.nodes[from].is_member;
            return;
        };
        for _ in 0..parts {
            let Some(part): Option<Part> = offer.next_part() else {
                break;
            };
            self.nodes[to].state.apply_part(&part).expect("nobody lies here");
        }
        if offer.is_done() && self.nodes[from].is_member {
            self.nodes[to].is_behind = false;
        }
    }

    fn flush(&mut self, at: usize, stored: bool) {
        self.tokens += 1;
        let node = &mut self.nodes[at];
        let Some(flushed) = node.state.flush(self.tokens) else {
            return;
        };
        if stored {
            apply(&mut node.disk, &flushed.changes);
        }
        node.state.on_flushed(flushed.token, stored);
    }

    fn restart(&mut self, at: usize) {
        let mut tables: BTreeMap<Table, Vec<_>> = BTreeMap::new();
        for ((table, key), row) in &self.nodes[at].disk {
            tables.entry(*table).or_default().push((key.clone(), row.clone()));
        }
        self.nodes[at].state = State::load(&mut tables);
        self.nodes[at].highest = Clock::default();
    }

    fn raise_floor(&mut self) {
        // An evicted node is a member again once it has everything.
        let mut durable = self.nodes.iter().filter(|n| n.is_member).map(|n| n.state.durable().gap_free());
        let Some(first) = durable.next() else {
            return;
        };
        let floor = durable.fold(first, |floor, theirs| floor.meet(&theirs));
        for node in self.nodes.iter_mut().filter(|n| n.is_member && !n.is_behind) {
            node.state.raise_floor(&floor);
            let after = node.collected.take();
            node.collected = node.state.collect(after.as_deref(), 2);
        }
        for node in &mut self.nodes {
            node.is_member |= !node.is_behind && node.state.durable().covers(&floor);
        }
    }

    /// What must hold after every step.
    fn check(&mut self) {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            assert!(node.state.clock().covers(&node.highest), "the clock of {at} shrank");
            node.highest = node.state.clock().clone();
            assert!(node.state.clock().covers(node.state.durable()));
            assert!(node.state.clock().covers(node.state.floor()));
            if node.is_behind {
                continue;
            }
            for key in KEYS {
                let read = node.state.read(key).values;
                let read: BTreeMap<_, _> = read.iter().map(|s| (s.dot, number(s.value.as_ref()))).collect();
                let expected = self.reference.expected(key, node.state.clock());
                assert_eq!(read, expected, "node {at} shows another {key:?} than its clock says");
            }
        }
    }

    /// Lets everybody hear everything, and requires that all are equal and nothing acknowledged is unknown.
    pub(super) fn settle(&mut self) {
        for _ in 0..3 {
            for from in 0..NODES {
                for to in 0..NODES {
                    self.sync(from, to, usize::MAX);
                    self.check();
                }
            }
        }
        for at in 0..NODES {
            self.flush(at, true);
        }
        let clock = self.nodes[0].state.clock().clone();
        for node in &self.nodes {
            assert_eq!(node.state.clock(), &clock);
            assert_eq!(node.state.hash(), self.nodes[0].state.hash());
            assert!(node.state.durable().covers(&clock));
        }
        if !self.lossy {
            assert!(
                self.acknowledged.iter().all(|dot| clock.contains(*dot)),
                "an acknowledged write is lost"
            );
        }
        self.close_what_nobody_has();
        // With everything acknowledged by everybody, nothing but values is left.
        for _ in 0..3 * KEYS.len() {
            self.raise_floor();
        }
        for node in &self.nodes {
            assert_eq!(node.state.unsettled(), 0);
        }
        self.check();
        for at in 0..NODES {
            self.flush(at, true);
            let hash = self.nodes[at].state.hash();
            self.restart(at);
            assert_eq!(self.nodes[at].state.hash(), hash, "a restart shows another state");
        }
        self.check();
    }
}

impl World {
    /// A disk that went back has taken writes along that only it held. Their numbers leave gaps that nobody
    /// can fill; once everybody has the same gaps, and nobody mints those dots any more, they are closed.
    fn close_what_nobody_has(&mut self) {
        let clock = self.nodes[0].state.clock().clone();
        let mut named = clock.clone();
        self.nodes.iter().for_each(|node| named.join(&node.state.unfilled()));
        let full: Clock = named.iter().map(|(actor, _)| Dot { actor: *actor, n: named.max(actor) }).collect();
        let mut whole = Clock::default();
        for (actor, _) in full.iter() {
            whole.add_range(DotRange { actor: *actor, from: 1, upto: full.max(actor) });
        }
        let gaps = whole.beyond(&clock);
        assert!(self.lossy || gaps.is_empty(), "a gap that nobody can fill");
        self.reference.forget(|dot| !clock.contains(dot));
        for at in 0..NODES {
            self.nodes[at].state.apply(&[], &gaps).expect("nobody lies here");
            self.flush(at, true);
        }
    }
}

fn apply(disk: &mut Disk, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put { table, key, row } => drop(disk.insert((*table, key.clone()), row.clone())),
            Change::Delete { table, key } => drop(disk.remove(&(*table, key.clone()))),
            Change::MeshId(_)
            | Change::Peer(_)
            | Change::ForgetPeer(_)
            | Change::Agent(_)
            | Change::RemoveAgent(_)
            | Change::LeaveMesh
            | Change::StartAtLeast(_)
            | Change::Clear(_)
            | Change::Afresh => panic!("the state does not store {change:?}"),
        }
    }
}

fn number(value: Option<&Bytes>) -> u64 {
    u64::from_le_bytes(value.expect("a value").as_ref().try_into().expect("eight bytes"))
}
