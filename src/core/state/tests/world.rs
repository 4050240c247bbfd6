//! A few nodes with disks, messages that are late, lost or doubled, and everything that can go wrong between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::reference::Reference;
use crate::core::contract::{Change, Table};
use crate::core::ids::NodeId;
use crate::core::model::{Actor, Clock, Dot, DotRange, KeyUpdate, Writer};
use crate::core::state::{Part, Rule, State};

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
    /// The floor rises, and one of the nodes, if it is one, does not hear of it.
    RaiseFloor {
        misses: usize,
    },
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

/// Of what there is much in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// Writes, messages that are late or lost, now and then all else.
    Ordinary,
    /// Disks that fail, processes that die, old disks.
    BadDisks,
    /// Members that go and come back, floors that rise, comparisons that break off.
    Comings,
}

impl Mood {
    pub(super) const ALL: [Self; 3] = [Self::Ordinary, Self::BadDisks, Self::Comings];
}

pub(super) fn steps(mood: Mood, max: usize) -> impl Strategy<Value = Vec<Step>> {
    // Where few meet often, what needs several coincidences happens.
    let (nodes, keys) = if mood == Mood::Comings { (NODES - 1, 2) } else { (NODES, KEYS.len()) };
    let node = move || 0..nodes;
    let key = move || 0..keys;
    let context = prop_oneof![
        4 => Just(Context::Seen),
        3 => (0..32_usize).prop_map(Context::Remembered),
        1 => Just(Context::Nothing),
    ];
    let (disks, comings) = match mood {
        Mood::Ordinary => (1, 1),
        Mood::BadDisks => (4, 1),
        Mood::Comings => (1, 5),
    };
    let outcome = prop_oneof![
        8 => Just(Outcome::Stored),
        disks => Just(Outcome::Failed),
        disks => Just(Outcome::InDoubt)
    ];
    let stored = proptest::bool::weighted(if mood == Mood::BadDisks { 0.5 } else { 0.8 });
    let step = prop_oneof![
        8 => (node(), key(), any::<bool>(), context, outcome)
            .prop_map(|(node, key, delete, context, outcome)| Step::Write { node, key, delete, context, outcome }),
        2 => (node(), key()).prop_map(|(node, key)| Step::Read { node, key }),
        6 => (0..64_usize, any::<bool>()).prop_map(|(message, keep)| Step::Deliver { message, keep }),
        2 => (0..64_usize).prop_map(|message| Step::Lose { message }),
        4 * comings => (node(), node(), 1..6_usize).prop_map(|(from, to, parts)| Step::Sync { from, to, parts }),
        4 => (node(), stored).prop_map(|(node, stored)| Step::Flush { node, stored }),
        1 + disks => node().prop_map(|node| Step::Crash { node }),
        disks => node().prop_map(|node| Step::Restore { node }),
        disks => node().prop_map(|node| Step::Backup { node }),
        2 * comings => (0..2 * NODES).prop_map(|misses| Step::RaiseFloor { misses }),
        comings => node().prop_map(|node| Step::Evict { node }),
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

/// What the state asks of whoever calls it, and tests leave out, to see that they would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    /// Each process mints under a name of its own.
    ActorPerProcess,
    /// What a write replaces is stored with it.
    FlushWithTheWrite,
    /// Nothing is taken from a sender whose floor has not been reached.
    MindTheSendersFloor,
    /// The floor waits for members that cannot be reached as well.
    FloorOfAllMembers,
    /// Ranges are closed when everything in them has come.
    CloseLast,
}

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
    broken: Option<Rule>,
    neglected: Option<Duty>,
}

impl World {
    /// One whose nodes break a rule.
    pub(super) fn breaking(rule: Rule) -> Self {
        let mut world = Self { broken: Some(rule), ..Self::new() };
        world.nodes.iter_mut().for_each(|node| node.state.broken = Some(rule));
        world
    }

    /// One in which a duty towards the state is neglected.
    pub(super) fn neglecting(duty: Duty) -> Self {
        Self { neglected: Some(duty), ..Self::new() }
    }

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
            broken: None,
            neglected: None,
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
            Step::RaiseFloor { misses } => self.raise_floor(misses),
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
        let neglects = self.neglected == Some(Duty::FlushWithTheWrite);
        let flushed = if neglects { None } else { node.state.flush(self.tokens) };
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
        let reaches = self.nodes[to].state.clock().covers(&floor);
        if !reaches && self.neglected != Some(Duty::MindTheSendersFloor) {
            return;
        }
        self.nodes[to].state.apply(&updates, &closes).expect("nobody lies here");
    }

    fn sync(&mut self, from: usize, to: usize, parts: usize) {
        // Whoever holds half a snapshot lacks the floor that goes with it: nobody is answered from there.
        if from == to || self.nodes[from].is_behind || self.nodes[from].state.is_behind() {
            return;
        }
        let theirs = self.nodes[to].state.clock().clone();
        let whole = self.nodes[to].state.is_behind();
        let Some(mut offer) = self.nodes[from].state.offer(&theirs, whole) else {
            self.nodes[to].is_behind &= !self.nodes[from].is_member;
            return;
        };
        let early = (self.neglected == Some(Duty::CloseLast)).then(|| all_closes(&offer));
        for _ in 0..parts {
            let Some(mut part): Option<Part> = offer.next_part_of(1) else {
                break;
            };
            part.closes.extend(early.iter().flatten());
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
        let before = self.nodes[at].state.actor;
        let mut state = load(&self.nodes[at].disk);
        state.broken = self.broken;
        if let (Some(Duty::ActorPerProcess), Some((actor, _))) = (self.neglected, before) {
            state.actor = Some((actor, state.clock().max(&actor)));
        }
        self.nodes[at].state = state;
        self.nodes[at].highest = Clock::default();
    }

    fn raise_floor(&mut self, misses: usize) {
        // An evicted node is a member again once it has everything.
        let is_asked = |at: usize| at < 2 || self.neglected != Some(Duty::FloorOfAllMembers);
        let members = self.nodes.iter().enumerate().filter(|(at, n)| n.is_member && is_asked(*at));
        let mut durable = members.map(|(_, node)| node.state.durable().gap_free());
        let Some(first) = durable.next() else {
            return;
        };
        let floor = durable.fold(first, |floor, theirs| floor.meet(&theirs));
        for (at, node) in self.nodes.iter_mut().enumerate().filter(|(_, n)| n.is_member && !n.is_behind) {
            if at == misses {
                continue;
            }
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
            let stored = load(&node.disk);
            assert!(stored.clock().covers(node.state.durable()), "{at} says to have stored what it has not");
            // Half of a snapshot has dropped what its other half names.
            if node.is_behind || !node.state.clock.covers(&node.state.target) {
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
        if self.lossy && self.half_is_lost() {
            return;
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
            self.raise_floor(NODES);
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
    /// Whether a node has half of a snapshot and nobody who may answer has the other half, because the disks of those who had it
    /// went back: it must not tell of what it has, and waits for an operator. A limit that docs/design.md names.
    fn half_is_lost(&self) -> bool {
        self.nodes.iter().any(|node| node.state.is_behind())
    }

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

/// Every range that an offer closes in the end.
fn all_closes(offer: &crate::core::state::Offer) -> Vec<DotRange> {
    let mut offer = offer.clone();
    std::iter::from_fn(|| offer.next_part_of(1)).flat_map(|part| part.closes).collect()
}

fn load(disk: &Disk) -> State {
    let mut tables: BTreeMap<Table, Vec<_>> = BTreeMap::new();
    for ((table, key), row) in disk {
        tables.entry(*table).or_default().push((key.clone(), row.clone()));
    }
    State::load(&mut tables)
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
