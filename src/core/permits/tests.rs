//! Runs by chance of small meshes: holders and voters that lose messages, crash, lose their stores and change, under orders
//! that move slots about. At no moment do two holders have a permit for one slot, and none gets one by an order below one by
//! which another has had it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::core::model::{Roster, Seat};
use crate::core::time::Instant;

fn node(number: usize) -> NodeId {
    NodeId::new(&format!("n{number}")).expect("valid")
}

fn slot(number: usize) -> AgentName {
    AgentName::new(&format!("one#{number}")).expect("valid")
}

fn epoch(order: u64) -> OrderEpoch {
    OrderEpoch { order, ..OrderEpoch::default() }
}

/// What a test breaks, to see that it would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// A voter that has just started grants at once.
    NotQuiet,
    /// A holder takes its permit for longer than it was granted.
    Overstays,
}

struct Machine {
    holder: Holder,
    voter: Voter,
    life: u64,
    /// The orders that it has heard of.
    heard: BTreeMap<AgentName, (u64, usize)>,
}

struct Net {
    rng: ChaCha8Rng,
    now: Instant,
    roster: Roster,
    machines: Vec<Option<Machine>>,
    disks: Vec<BTreeMap<Bytes, Bytes>>,
    /// Messages and commits on their way.
    on_way: Vec<(Instant, usize, Coming)>,
    orders: BTreeMap<AgentName, (u64, usize)>,
    lives: u64,
    cut: BTreeSet<usize>,
    flaw: Flaw,
    permits: usize,
    /// The highest order by which each slot was permitted, and to which process.
    highest: BTreeMap<AgentName, (u64, u64)>,
}

enum Coming {
    Message { life: u64, from: usize, message: PermitMessage },
    Committed { life: u64, token: u64, changes: Vec<(Bytes, Option<Bytes>)> },
}

impl Net {
    fn new(nodes: usize, seed: u64, flaw: Flaw) -> Self {
        let mut net = Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            now: Instant::ZERO,
            roster: roster_of(nodes),
            machines: (0..nodes).map(|_| None).collect(),
            disks: vec![BTreeMap::new(); nodes],
            on_way: vec![],
            orders: BTreeMap::new(),
            lives: 0,
            cut: BTreeSet::new(),
            flaw,
            permits: 0,
            highest: BTreeMap::new(),
        };
        (0..nodes).for_each(|number| net.start(number, true));
        net
    }

    fn start(&mut self, number: usize, is_whole: bool) {
        self.lives += 1;
        let rows: Vec<_> = self.disks[number].iter().map(|(key, row)| (key.clone(), row.clone())).collect();
        let mut voter = Voter::new(node(number), &rows, is_whole, self.lives << 32, self.now);
        voter.set_roster(&self.roster, self.now);
        if self.flaw == Flaw::NotQuiet {
            voter.break_silence();
        }
        let holder = Holder::new(self.lives);
        self.machines[number] = Some(Machine { holder, voter, life: self.lives, heard: BTreeMap::new() });
        if !is_whole {
            let (key, row) = row_of_doubt();
            self.disks[number].insert(key, row);
        }
    }

    fn crash(&mut self, number: usize) {
        self.machines[number] = None;
    }

    fn send(&mut self, from: usize, to: &NodeId, message: PermitMessage) {
        let Some(to) = (0..self.machines.len()).find(|number| node(*number) == *to) else {
            return;
        };
        let Some(life) = self.machines[to].as_ref().map(|machine| machine.life) else {
            return;
        };
        let is_lost =
            from != to && (self.cut.contains(&from) || self.cut.contains(&to) || self.rng.random_bool(0.1));
        if !is_lost {
            let late = if self.rng.random_bool(0.05) { 4_000 } else { 20 };
            let at = self.now + Duration::from_millis(self.rng.random_range(0..late));
            self.on_way.push((at, to, Coming::Message { life, from, message }));
        }
    }

    /// A hundredth of a second: whatever arrives, is committed, asked and granted within it.
    fn step(&mut self) {
        self.now = self.now + Duration::from_millis(10);
        for number in 0..self.machines.len() {
            self.act(number);
        }
        let (due, later) = std::mem::take(&mut self.on_way).into_iter().partition(|(at, ..)| *at <= self.now);
        self.on_way = later;
        let due: Vec<_> = due;
        for (_, to, coming) in due {
            self.come(to, coming);
        }
        self.check();
    }

    /// Follows orders, asks, and recovers.
    fn act(&mut self, number: usize) {
        let (roster, now) = (self.roster.clone(), self.now);
        let orders = self.orders.clone();
        let Some(machine) = &mut self.machines[number] else {
            return;
        };
        for (slot, order) in &orders {
            // News of orders takes its time, and who is cut off hears none.
            if !self.cut.contains(&number) && self.rng.random_bool(0.005) {
                machine.heard.insert(slot.clone(), *order);
            }
        }
        let wanted = machine.heard.iter().filter(|(_, (_, on))| *on == number);
        let wanted: BTreeMap<_, _> = wanted.map(|(slot, (order, _))| (slot.clone(), *order)).collect();
        for (slot, order) in &wanted {
            assert!(machine.holder.claim(slot, epoch(*order)));
        }
        machine.holder.keep(|slot| wanted.contains_key(slot));
        let ask = machine.holder.poll_ask(&roster, now);
        self.with_voter(number, |voter, known, now| voter.tend(known, now));
        if let Some(message) = ask {
            for voter in roster.voters() {
                self.send(number, voter, message.clone());
            }
        }
    }

    fn with_voter(&mut self, number: usize, act: impl FnOnce(&mut Voter, Known<'_>, Instant)) {
        let roster = self.roster.clone();
        let own = node(number);
        let heard = self.machines[number].as_ref().map(|machine| machine.heard.clone()).unwrap_or_default();
        let order = |slot: &AgentName, to: &NodeId| {
            let (order, on) = heard.get(slot)?;
            Some((epoch(*order), node(*on) == *to))
        };
        let witnesses = |nodes: &BTreeSet<NodeId>| {
            let rest: BTreeSet<_> =
                roster.voters().filter(|v| **v == own || !nodes.contains(*v)).cloned().collect();
            !roster.is_quorum(&rest)
        };
        let now = self.now;
        let may_vote = roster.is_voter(&own);
        let mut effects = vec![];
        if let Some(machine) = &mut self.machines[number] {
            let known = Known { roster: &roster, may_vote, order: &order, witnesses: &witnesses };
            act(&mut machine.voter, known, now);
            effects.extend(std::iter::from_fn(|| machine.voter.poll()));
        }
        effects.into_iter().for_each(|effect| self.perform(number, effect));
    }

    fn perform(&mut self, number: usize, effect: VoterEffect) {
        match effect {
            VoterEffect::Send { to, message } => self.send(number, &to, message),
            VoterEffect::Store { token, changes } => {
                let life = self.machines[number].as_ref().expect("it runs").life;
                // In order: a commit takes as long as all before it.
                let after = self.on_way.iter().filter(|(_, to, coming)| {
                    *to == number && matches!(coming, Coming::Committed { life: of, .. } if *of == life)
                });
                let after = after.map(|(at, ..)| *at).max().unwrap_or(self.now);
                let at = after + Duration::from_millis(self.rng.random_range(1..50));
                self.on_way.push((at, number, Coming::Committed { life, token, changes }));
            }
        }
    }

    fn come(&mut self, to: usize, coming: Coming) {
        let life_here = self.machines[to].as_ref().map(|machine| machine.life);
        match coming {
            Coming::Message { life, from, message } if Some(life) == life_here => {
                let (roster, now) = (self.roster.clone(), self.now);
                let from = node(from);
                if matches!(message, PermitMessage::Answer { .. }) {
                    let machine = self.machines[to].as_mut().expect("it runs");
                    for slot in machine.holder.handle_answer(&from, &message, &roster, now) {
                        let (order, _) = machine.heard[&slot];
                        let highest = self.highest.entry(slot.clone()).or_insert((order, life));
                        assert!(
                            order >= highest.0 || life == highest.1,
                            "{slot} is permitted by order {order} after {highest:?}"
                        );
                        *highest = (*highest).max((order, life));
                        self.permits += 1;
                    }
                } else {
                    self.with_voter(to, |voter, known, now| voter.handle_message(&from, message, known, now));
                }
            }
            Coming::Committed { life, token, changes } if Some(life) == life_here => {
                let fails = self.rng.random_bool(0.02);
                let machine = self.machines[to].as_mut().expect("it runs");
                if fails {
                    machine.voter.handle_commit_failed(token);
                } else {
                    for (key, row) in changes {
                        _ = match row {
                            Some(row) => self.disks[to].insert(key, row),
                            None => self.disks[to].remove(&key),
                        };
                    }
                    machine.voter.handle_committed(token, self.now);
                }
                let effects: Vec<_> = std::iter::from_fn(|| machine.voter.poll()).collect();
                effects.into_iter().for_each(|effect| self.perform(to, effect));
            }
            Coming::Message { .. } | Coming::Committed { .. } => {}
        }
    }

    fn check(&self) {
        for number in 0..3 {
            let slot = slot(number);
            let now = self.now;
            let early = if self.flaw == Flaw::Overstays { Duration::from_secs(2) } else { Duration::ZERO };
            let has = |machine: &Machine| {
                let at = now.checked_sub(early).unwrap_or(Instant::ZERO);
                machine.holder.until(&slot, at).is_some()
            };
            let holders = self.machines.iter().flatten().filter(|machine| has(machine)).count();
            assert!(holders <= 1, "{holders} have {slot} at {now:?}");
        }
    }

    /// Something happens to the mesh.
    fn disturb(&mut self) {
        let number = self.rng.random_range(0..self.machines.len());
        match self.rng.random_range(0..8) {
            0 => self.crash(number),
            1 | 2 => {
                if self.machines[number].is_none() {
                    self.start(number, true);
                }
            }
            3 => {
                // A lost disk, of one voter at a time.
                let others = self.machines.iter().flatten().all(|machine| machine.voter.is_sound());
                if others && self.machines.iter().filter(|machine| machine.is_none()).count() == 0 {
                    self.crash(number);
                    self.disks[number].clear();
                    self.start(number, false);
                }
            }
            4 => _ = self.cut.insert(number),
            5 => self.cut.clear(),
            _ => {
                let slot = slot(self.rng.random_range(0..3));
                let order = self.orders.get(&slot).map_or(1, |(order, _)| order + 1);
                self.orders.insert(slot, (order, number));
            }
        }
    }
}

fn roster_of(nodes: usize) -> Roster {
    let seat = Seat { voter: true, ..Seat::default() };
    Roster {
        epoch: crate::core::model::Epoch { chain: 1, chain_id: 1, order: 1 },
        members: (0..nodes).map(|number| (node(number), seat.clone())).collect(),
        quorum_size: None,
        tie_breaker: None,
        split_writes: false,
        max_offline: Duration::from_secs(3600),
        audit: None,
    }
}

fn run(seed: u64, flaw: Flaw) -> usize {
    let nodes = 3 + (seed % 3) as usize;
    let mut net = Net::new(nodes, seed, flaw);
    for step in 0..6_000 {
        if step % 40 == 0 {
            net.disturb();
        }
        net.step();
    }
    net.permits
}

#[test]
fn no_two_holders_have_a_permit_for_a_slot_whatever_happens() {
    let permits: usize = (0..60).map(|seed| run(seed, Flaw::None)).sum();
    assert!(permits > 1_000, "{permits} permits");
}

#[test]
fn a_broken_rule_is_noticed() {
    for flaw in [Flaw::NotQuiet, Flaw::Overstays] {
        let notices = |seed| std::panic::catch_unwind(|| run(seed, flaw)).is_err();
        assert!((0..200).any(notices), "{flaw:?}");
    }
}

/// What a voter of a mesh of three answers to a claim by that order, long after its start.
fn answer_to(voter: &mut Voter, from: usize, order: u64) -> (Vec<u16>, Vec<(u16, Denied)>) {
    let roster = roster_of(3);
    let known = Known { roster: &roster, may_vote: true, order: &|_, _| None, witnesses: &|_| false };
    let claims = vec![(slot(0), epoch(order))];
    let ask = PermitMessage::Ask { base: roster.epoch, life: from as u64, ask: 1, claims };
    let late = Instant::ZERO + Duration::from_secs(60);
    voter.handle_message(&node(from), ask, known, late);
    while let Some(effect) = voter.poll() {
        match effect {
            VoterEffect::Store { token, .. } => voter.handle_committed(token, late),
            VoterEffect::Send { message: PermitMessage::Answer { granted, denied, .. }, .. } => {
                return (granted, denied);
            }
            VoterEffect::Send { message, .. } => panic!("{message:?}"),
        }
    }
    panic!("it does not answer");
}

#[test]
fn a_voter_that_starts_anew_grants_nothing_below_what_its_disk_has() {
    let granted = Granted { epoch: epoch(2), holder: Life { node: node(2), life: 7 } };
    let row =
        (Bytes::from([SLOT_ROWS, b"one#0".as_slice()].concat()), crate::core::wire::encode_value(&granted));
    let voter = |rows: &[(Bytes, Bytes)]| Voter::new(node(0), rows, true, 0, Instant::ZERO);
    assert_eq!(answer_to(&mut voter(&[]), 1, 1), (vec![0], vec![]));
    assert_eq!(
        answer_to(&mut voter(std::slice::from_ref(&row)), 1, 1),
        (vec![], vec![(0, Denied::Superseded)])
    );
    assert_eq!(
        answer_to(&mut voter(std::slice::from_ref(&row)), 1, 2),
        (vec![], vec![(0, Denied::Superseded)])
    );
    assert_eq!(answer_to(&mut voter(&[row]), 1, 3), (vec![0], vec![]));
}

#[test]
fn halves_that_may_both_write_grant_nothing() {
    let sent = |nodes: &[usize]| nodes.iter().map(|n| (node(*n), Instant::from_nanos(5))).collect();
    let split = Roster { quorum_size: Some(2), split_writes: true, ..roster_of(4) };
    assert!(split.is_quorum(&[node(0), node(1)].into()), "for writes it is one");
    assert_eq!(holder::granted_since(&split, &sent(&[0, 1])), None);
    assert_eq!(holder::granted_since(&split, &sent(&[0, 1, 2])), Some(Instant::from_nanos(5)));
    assert_eq!(holder::granted_since(&roster_of(3), &sent(&[0, 1])), Some(Instant::from_nanos(5)));
}
