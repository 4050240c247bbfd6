//! Registers that talk to each other over a made-up network and write to made-up disks.

use std::collections::BTreeMap;

use super::*;

mod chain;
mod changes;
mod lease;
mod model;
mod overrides;
mod recovery;
mod steward;

pub(super) fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

pub(super) fn nodes(names: &[&str]) -> BTreeSet<NodeId> {
    names.iter().map(|name| node(name)).collect()
}

pub(super) fn voter() -> Seat {
    Seat { voter: true, ..Seat::default() }
}

pub(super) fn settings() -> RosterSettings {
    RosterSettings {
        quorum_size: None,
        tie_breaker: None,
        split_writes: false,
        max_offline: Duration::from_secs(72 * 3600),
    }
}

pub(super) fn roster(voters: &[&str], others: &[&str]) -> Roster {
    let mut roster = rules::first(node(voters[0]), Seat::default(), settings(), 7);
    roster.members.extend(voters.iter().map(|name| (node(name), voter())));
    roster.members.extend(others.iter().map(|name| (node(name), Seat::default())));
    roster
}

pub(super) type Disk = BTreeMap<Bytes, Bytes>;

/// The disk of a node that has this roster and has lost nothing.
pub(super) fn disk(roster: &Roster) -> Disk {
    let whole = Durable { roster: Some(roster.clone()), sound: true, ..Durable::default() };
    let mut disk = Disk::new();
    apply(&mut disk, Durable::default().changes(&whole));
    disk
}

pub(super) fn apply(disk: &mut Disk, changes: Vec<RowChange>) {
    for (key, row) in changes {
        match row {
            Some(row) => drop(disk.insert(key, row)),
            None => drop(disk.remove(&key)),
        }
    }
}

pub(super) fn open(name: &str, disk: &Disk, store: StoreState, life: u64, now: Instant) -> Register {
    let rows: Vec<_> = disk.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
    let mut register = Register::new(node(name), &rows, store, life, now);
    register.set_joining(false, now);
    register
}

/// A roster that comes from a node which has granted nothing.
pub(super) fn learn(roster: Roster) -> RegisterMessage {
    RegisterMessage::Learn { roster, term: 0, holder: None }
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Registers, their disks and what they have said.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) registers: BTreeMap<NodeId, Register>,
    pub(super) disks: BTreeMap<NodeId, Disk>,
    /// These hear nobody and are heard by nobody.
    pub(super) cut: BTreeSet<NodeId>,
    pub(super) decided: BTreeMap<(NodeId, u64), Result<Epoch, RegisterError>>,
    lives: u64,
}

impl World {
    /// Nodes that have this roster, the silence of their start over.
    pub(super) fn new(roster: &Roster) -> Self {
        let mut world = Self {
            now: Instant::ZERO + ms(1000),
            registers: BTreeMap::new(),
            disks: BTreeMap::new(),
            cut: BTreeSet::new(),
            decided: BTreeMap::new(),
            lives: 0,
        };
        for name in roster.members.keys() {
            world.disks.insert(name.clone(), disk(roster));
            world.start(name.as_str(), StoreState::Whole);
        }
        world
    }

    pub(super) fn start(&mut self, name: &str, store: StoreState) {
        self.lives += 1_000_000;
        let disk = self.disks.entry(node(name)).or_default();
        self.registers.insert(node(name), open(name, disk, store, self.lives, self.now));
    }

    pub(super) fn stop(&mut self, name: &str) {
        self.registers.remove(&node(name));
    }

    pub(super) fn at(&mut self, name: &str) -> &mut Register {
        self.registers.get_mut(&node(name)).expect("it runs")
    }

    /// Lets time pass; messages take no time.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + ms(10);
            for register in self.registers.values_mut() {
                register.handle_timeout(self.now);
            }
            self.exchange();
            assert!(self.holders().len() <= 1, "two leases at once: {:?}", self.holders());
        }
    }

    fn exchange(&mut self) {
        while let Some((name, effect)) =
            self.registers.iter_mut().find_map(|(name, register)| Some((name.clone(), register.poll()?)))
        {
            match effect {
                RegisterEffect::Store { token, changes } => {
                    apply(self.disks.entry(name.clone()).or_default(), changes);
                    let now = self.now;
                    self.at(name.as_str()).handle_committed(token, now);
                }
                RegisterEffect::Send { to, message } => {
                    assert_eq!(message.check(), Ok(()));
                    let is_cut = self.cut.contains(&name) || self.cut.contains(&to);
                    if let Some(register) = self.registers.get_mut(&to).filter(|_| !is_cut) {
                        register.handle_message(&name, message, self.now);
                    }
                }
                RegisterEffect::Decided { proposal, result } => {
                    self.decided.insert((name, proposal), result);
                }
                RegisterEffect::RosterChanged(_) | RegisterEffect::LeaseChanged(_) => {}
            }
        }
    }

    pub(super) fn holders(&self) -> Vec<(NodeId, u64)> {
        let held = self.registers.iter().filter_map(|(name, register)| match register.lease(self.now) {
            LeaseView::Mine { term, .. } => Some((name.clone(), term)),
            LeaseView::Theirs { .. } | LeaseView::Nobody => None,
        });
        held.collect()
    }

    pub(super) fn holder(&self) -> (NodeId, u64) {
        self.holders().pop().expect("somebody holds the lease")
    }

    /// Proposes at the holder of the lease and waits for what comes of it.
    pub(super) fn change(&mut self, change: RosterChange) -> Result<Epoch, RegisterError> {
        let (holder, _) = self.holder();
        self.change_at(holder.as_str(), change)
    }

    pub(super) fn change_at(&mut self, name: &str, change: RosterChange) -> Result<Epoch, RegisterError> {
        let now = self.now;
        let number = self.at(name).propose(change, now);
        for _ in 0..12 {
            self.exchange();
            if let Some(result) = self.decided.remove(&(node(name), number)) {
                return result;
            }
            self.run(ms(1000));
        }
        panic!("proposals end")
    }
}

/// What a register says of its own accord or in answer, after its writes.
pub(super) fn said(register: &mut Register, now: Instant) -> Vec<(NodeId, RegisterMessage)> {
    let mut said = Vec::new();
    while let Some(effect) = register.poll() {
        match effect {
            RegisterEffect::Store { token, .. } => register.handle_committed(token, now),
            RegisterEffect::Send { to, message } => said.push((to, message)),
            RegisterEffect::RosterChanged(_)
            | RegisterEffect::LeaseChanged(_)
            | RegisterEffect::Decided { .. } => {}
        }
    }
    said
}
