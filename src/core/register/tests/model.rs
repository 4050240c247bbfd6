//! Walks all runs of small meshes: the very code of the register, every order of messages, losses, crashes and lost stores.
//!
//! Three voters, `a`, `b` and `c`. A message is delivered at any later moment or never. A crash loses what was not
//! committed and all memory; a loss also empties the disk. Time passes in steps for all nodes at once, but not
//! equally fast: the clock of `a` is slow and that of `c` fast, within the bound. Writes are committed at
//! any later moment.
//!
//! Four meshes are walked: in one, `a` and `b` change the roster at the same time (without a lease, so that they
//! meet); in another they bid for the lease; in the third, `a` is the only voter at first, holds the lease and makes
//! voters of `b` and `c`, one after the other, while `b` bids as soon as it votes; in the fourth, `a` holds the lease by
//! the vote of `c`, `b` hears nothing of it but the roster, and `a` leaves that roster. Each rule of the register is
//! then broken, one at a time, and the walk must find a run in which it matters.
//!
//! The disk of `c` may also be replaced by an old copy of itself. Only peers can tell, so it joins first, as every
//! process does, and by the end of that it has been told.
//!
//! A walk of the whole rules ends after [`STATES_QUICK`] states, those with the fewest steps first. With
//! `SHOAL_REGISTER_WIDE=1` it ends after [`STATES_WIDE`], and more is begun, crashed and ticked. Whole walks are beyond the
//! memory of a machine.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::*;

/// No node bids of its own accord: when it does is a choice of the walk.
const NEVER: Instant = Instant::from_nanos(u64::MAX / 2);
/// A quick walk of the whole rules ends after so many states, the nearest first.
const STATES_QUICK: usize = 100_000;
/// And a wide one after so many.
const STATES_WIDE: usize = 1_000_000;
const COMES: &str = "it comes to something";
const NAMES: [&str; 3] = ["a", "b", "c"];
/// A second, as the three clocks count it, in milliseconds.
const RATES: [u64; 3] = [991, 1000, 1009];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Subject {
    Chain,
    Lease,
    Growth,
    Departure,
}

/// What is walked, and which rule is broken.
#[derive(Debug, Clone)]
struct Walk {
    subject: Subject,
    broken: Option<Rule>,
    /// How often `a`, and `b`, begins.
    begins: [u8; 2],
    crashes: u8,
    losses: u8,
    restores: u8,
    ticks: u8,
    tick_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Mesh {
    subject: Subject,
    registers: Vec<Register>,
    disks: Vec<Disk>,
    /// The write of `c` that is under way: (token, rows).
    write: Option<(u64, Vec<RowChange>)>,
    network: BTreeSet<Packet>,
    /// Milliseconds since the start.
    elapsed: u64,
    ticks: u8,
    crashes: u8,
    losses: u8,
    restores: u8,
    /// The disk of `c` is an old copy, and nothing on it says so yet.
    is_old: bool,
    begun: [u8; 2],
    lives: u64,
    /// Who held which term, ever.
    holders: BTreeMap<u64, BTreeSet<usize>>,
    /// What was decided to follow which roster, ever.
    successors: BTreeMap<Epoch, BTreeSet<Vec<NodeId>>>,
    two_leases: bool,
}

/// Ordered by its text, made once: the network is a set, so that the same messages in another order are the same state.
#[derive(Debug, Clone)]
struct Packet {
    text: Arc<str>,
    from: usize,
    to: usize,
    message: Arc<RegisterMessage>,
}

impl Packet {
    fn new(from: usize, to: usize, message: RegisterMessage) -> Self {
        Self { text: format!("{from}{to}{message:?}").into(), from, to, message: Arc::new(message) }
    }
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Packet {}

impl Ord for Packet {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Packet {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.text.hash(hasher);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Deliver(Packet),
    Commit,
    Crash,
    Lose,
    Restore,
    /// `c` has joined, and was told meanwhile that its disk is an old one.
    Told,
    /// `a` or `b` begins an attempt or a bid.
    Begin(usize),
    Tick,
}

/// What only saves time is lost in every run: who is refused or behind finds out without it. So is the lease where
/// the chain is walked. Where the mesh grows, its new voters must hear of it.
fn matters(message: &RegisterMessage, subject: Subject, from: usize, to: usize) -> bool {
    let of_lease = matches!(
        message,
        RegisterMessage::LeaseAsk { .. }
            | RegisterMessage::LeaseGrant { .. }
            | RegisterMessage::LeaseRefuse { .. }
    );
    match subject {
        Subject::Chain if of_lease => return false,
        Subject::Growth | Subject::Departure if matches!(message, RegisterMessage::Learn { .. }) => {
            return true;
        }
        Subject::Departure if from == 0 && to == 1 => return false,
        Subject::Chain | Subject::Lease | Subject::Growth | Subject::Departure => {}
    }
    !matches!(
        message,
        RegisterMessage::Outbid { .. } | RegisterMessage::RosterAsk { .. } | RegisterMessage::Learn { .. }
    )
}

fn place(name: &NodeId) -> usize {
    NAMES.iter().position(|known| *known == name.as_str()).expect("one of the three")
}

impl Mesh {
    fn now(&self, at: usize) -> Instant {
        Instant::from_nanos((10_000 + self.elapsed) * RATES[at] * 1000)
    }

    /// Takes what a register wants done, and notes what it has become.
    fn collect(&mut self, at: usize) {
        while let Some(effect) = self.registers[at].poll() {
            match effect {
                RegisterEffect::Send { to, message } => {
                    if NAMES.contains(&to.as_str()) && matters(&message, self.subject, at, place(&to)) {
                        self.network.insert(Packet::new(at, place(&to), message));
                    }
                }
                RegisterEffect::Store { token, changes } if at == 2 => self.write = Some((token, changes)),
                RegisterEffect::Store { token, changes } => {
                    apply(&mut self.disks[at], changes);
                    let now = self.now(at);
                    self.registers[at].handle_committed(token, now);
                }
                RegisterEffect::RosterChanged(roster) => {
                    let members = roster.members.keys().cloned().collect();
                    self.successors.entry(roster.epoch).or_default().insert(members);
                }
                RegisterEffect::LeaseChanged(_) | RegisterEffect::Decided { .. } => {}
            }
        }
        let holding: Vec<_> = (0..3).filter_map(|at| Some((at, self.term_held(at)?))).collect();
        self.two_leases |= holding.len() > 1;
        for (at, term) in holding {
            self.holders.entry(term).or_default().insert(at);
        }
    }

    fn term_held(&self, at: usize) -> Option<u64> {
        match self.registers[at].lease(self.now(at)) {
            LeaseView::Mine { term, .. } => Some(term),
            LeaseView::Theirs { .. } | LeaseView::Nobody => None,
        }
    }

    fn restart(&mut self, store: StoreState, broken: Option<Rule>) {
        let at = 2;
        self.write = None;
        self.lives += 1_000_000;
        let now = self.now(at);
        self.registers[at] = open(NAMES[at], &self.disks[at], store, self.lives, now);
        self.registers[at].broken = broken;
        self.registers[at].lease.bid_from(NEVER);
        self.registers[at].set_joining(self.is_old, now);
        self.collect(at);
    }
}

impl Walk {
    fn begin(&self, mesh: &mut Mesh, at: usize) {
        let now = mesh.now(at);
        let register = &mut mesh.registers[at];
        match self.subject {
            Subject::Chain => {
                let change = RosterChange::put(node(["x", "y"][at]), Seat::default());
                register.proposer.force_attempt(change, now);
                register.begin(now);
                register.settle(now);
            }
            Subject::Departure if mesh.begun[0] == 2 && at == 0 => {
                register.propose(RosterChange::evict(node("a")), now);
            }
            Subject::Lease | Subject::Growth | Subject::Departure => {
                register.lease.bid_from(Instant::ZERO);
                register.handle_timeout(now);
            }
        }
        register.lease.bid_from(NEVER);
        mesh.collect(at);
        if self.subject == Subject::Growth && at == 0 {
            let register = &mut mesh.registers[at];
            register.propose(RosterChange::put(node("b"), voter()), now);
            register.propose(RosterChange::put(node("c"), voter()), now);
            mesh.collect(at);
        }
    }

    /// The roster at the beginning.
    fn roster(&self) -> Roster {
        match self.subject {
            Subject::Chain | Subject::Lease | Subject::Departure => roster(&NAMES, &[]),
            Subject::Growth => roster(&NAMES[..1], &NAMES[1..]),
        }
    }
}

impl Model for Walk {
    type State = Mesh;
    type Action = Step;

    fn init_states(&self) -> Vec<Mesh> {
        let disks = vec![disk(&self.roster()); 3];
        let open_one = |at: usize| {
            let start = Instant::from_nanos(5_000 * RATES[at] * 1000);
            let mut register = open(NAMES[at], &disks[at], StoreState::Whole, 1000 * (at as u64 + 1), start);
            register.broken = self.broken;
            register.lease.bid_from(NEVER);
            register
        };
        vec![Mesh {
            subject: self.subject,
            registers: (0..3).map(open_one).collect(),
            disks: disks.clone(),
            write: None,
            network: BTreeSet::new(),
            elapsed: 0,
            ticks: 0,
            crashes: 0,
            losses: 0,
            restores: 0,
            is_old: false,
            begun: [0; 2],
            lives: 1_000_000,
            holders: BTreeMap::new(),
            successors: BTreeMap::new(),
            two_leases: false,
        }]
    }

    fn actions(&self, mesh: &Mesh, steps: &mut Vec<Step>) {
        steps.extend(mesh.network.iter().cloned().map(Step::Deliver));
        steps.extend(mesh.write.iter().map(|_| Step::Commit));
        steps.extend((0..2).filter(|at| mesh.begun[*at] < self.begins[*at]).map(Step::Begin));
        if mesh.crashes < self.crashes {
            steps.push(Step::Crash);
        }
        if mesh.losses < self.losses {
            steps.push(Step::Lose);
        }
        if mesh.restores < self.restores {
            steps.push(Step::Restore);
        }
        if mesh.registers[2].joining {
            steps.push(Step::Told);
        }
        if mesh.ticks < self.ticks {
            steps.push(Step::Tick);
        }
    }

    fn next_state(&self, mesh: &Mesh, step: Step) -> Option<Mesh> {
        let mut next = mesh.clone();
        match step {
            Step::Deliver(packet) => {
                let now = next.now(packet.to);
                next.network.remove(&packet);
                let from = node(NAMES[packet.from]);
                next.registers[packet.to].handle_message(&from, (*packet.message).clone(), now);
                next.collect(packet.to);
            }
            Step::Commit => {
                let (token, changes) = next.write.take()?;
                apply(&mut next.disks[2], changes);
                next.is_old &= next.disks[2].contains_key(b"sound".as_slice());
                let now = next.now(2);
                next.registers[2].handle_committed(token, now);
                next.collect(2);
            }
            Step::Crash => {
                next.crashes += 1;
                next.restart(StoreState::Whole, self.broken);
            }
            Step::Lose => {
                next.losses += 1;
                // It keeps the roster, as if it had been told already: one step less to walk.
                next.disks[2].retain(|key, _| key.as_ref() == b"roster");
                next.restart(StoreState::Doubtful, self.broken);
            }
            Step::Restore => {
                next.restores += 1;
                next.is_old = true;
                next.disks[2] = disk(&self.roster());
                next.restart(StoreState::Whole, self.broken);
            }
            Step::Told => {
                let now = next.now(2);
                next.registers[2].handle_old_store(now);
                next.registers[2].lease.bid_from(NEVER);
                next.registers[2].set_joining(false, now);
                next.collect(2);
            }
            Step::Begin(at) => {
                next.begun[at] += 1;
                self.begin(&mut next, at);
            }
            Step::Tick => {
                next.ticks += 1;
                next.elapsed += self.tick_ms;
                // Only `c`, which begins nothing, does by itself what the time asks for: it recovers.
                let now = next.now(2);
                let recovering = !next.registers[2].durable.sound;
                if recovering {
                    next.registers[2].handle_timeout(now);
                }
                next.collect(2);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one successor an epoch", |_, mesh: &Mesh| {
                mesh.successors.values().all(|successors| successors.len() <= 1)
            }),
            Property::always("one holder a term", |_, mesh: &Mesh| {
                mesh.holders.values().all(|holders| holders.len() <= 1)
            }),
            Property::always("no two leases at once", |_, mesh: &Mesh| !mesh.two_leases),
            Property::sometimes(COMES, |walk, mesh: &Mesh| match walk.subject {
                Subject::Chain | Subject::Departure => !mesh.successors.is_empty(),
                Subject::Growth => mesh.successors.len() == 2,
                Subject::Lease => !mesh.holders.is_empty(),
            }),
        ]
    }
}

fn chain() -> Walk {
    Walk {
        subject: Subject::Chain,
        broken: None,
        begins: [1; 2],
        crashes: 1,
        losses: 0,
        restores: 0,
        ticks: 0,
        tick_ms: 0,
    }
}

fn lease() -> Walk {
    Walk {
        subject: Subject::Lease,
        broken: None,
        begins: [1; 2],
        crashes: 1,
        losses: 0,
        restores: 0,
        ticks: 2,
        tick_ms: 600,
    }
}

fn growth() -> Walk {
    Walk { subject: Subject::Growth, crashes: 0, ticks: 0, ..lease() }
}

fn departure() -> Walk {
    Walk { subject: Subject::Departure, begins: [2, 1], crashes: 0, losses: 1, ..lease() }
}

/// Walks it and says how many different states there were and which properties were found broken.
fn walk(walk: Walk) -> (usize, Vec<&'static str>) {
    let is_whole = walk.broken.is_none();
    let checker = walk.clone().checker().threads(2);
    let (states, found) = if is_whole {
        let end = if wide() == 0 { STATES_QUICK } else { STATES_WIDE };
        let checker = checker.target_state_count(end).spawn_bfs().join();
        (checker.unique_state_count(), checker.discoveries().into_keys().collect::<Vec<_>>())
    } else {
        let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        (checker.unique_state_count(), checker.discoveries().into_keys().collect::<Vec<_>>())
    };
    assert!(!is_whole || found.contains(&COMES), "the walk is too short to mean anything");
    let mut broken: Vec<_> = found.into_iter().filter(|name| *name != COMES).collect();
    broken.sort_unstable();
    println!("{walk:?}: {states} states");
    (states, broken)
}

/// Whether the walk is to be a long one.
fn wide() -> u8 {
    u8::from(std::env::var_os("SHOAL_REGISTER_WIDE").is_some())
}

#[test]
fn no_run_of_two_changes_at_once_gives_a_roster_two_successors() {
    let (states, broken) = walk(Walk { begins: [1 + wide(); 2], ..chain() });
    assert_eq!(broken, [""; 0]);
    assert!(states > 1000, "{states} states are no walk");
}

#[test]
fn no_run_with_a_lost_store_gives_a_roster_two_successors() {
    let (states, broken) = walk(Walk { crashes: wide(), losses: 1, ticks: 2, tick_ms: 600, ..chain() });
    assert_eq!(broken, [""; 0]);
    assert!(states > 1000, "{states} states are no walk");
}

#[test]
fn no_run_of_two_bids_gives_a_term_two_holders_or_two_leases_at_once() {
    let (states, broken) = walk(Walk { begins: [1 + wide(); 2], ..lease() });
    assert_eq!(broken, [""; 0]);
    assert!(states > 1000, "{states} states are no walk");
}

#[test]
fn no_run_with_a_lost_store_gives_a_term_two_holders_or_two_leases_at_once() {
    let (states, broken) = walk(Walk { crashes: wide(), losses: 1, ticks: 2 + wide(), ..lease() });
    assert_eq!(broken, [""; 0]);
    assert!(states > 1000, "{states} states are no walk");
}

#[test]
fn no_run_with_an_old_store_gives_a_roster_two_successors() {
    let (states, broken) = walk(Walk { crashes: wide(), restores: 1, ticks: 2, tick_ms: 600, ..chain() });
    assert_eq!(broken, [""; 0]);
    assert!(states > 1000, "{states} states are no walk");
}

#[test]
fn no_run_with_an_old_store_gives_a_term_two_holders_or_two_leases_at_once() {
    let (states, broken) = walk(Walk { crashes: wide(), restores: 1, ticks: 2 + wide(), ..lease() });
    assert_eq!(broken, [""; 0]);
    assert!(states > 1000, "{states} states are no walk");
}

#[test]
fn no_run_in_which_voters_are_added_one_after_the_other_gives_two_leases_at_once() {
    let (states, broken) = walk(Walk { begins: [1, 2], crashes: 1, ticks: 2 + wide(), ..growth() });
    assert_eq!(broken, [""; 0]);
    assert!(states > 1000, "{states} states are no walk");
}

#[test]
fn no_run_in_which_the_holder_leaves_and_a_store_is_lost_gives_a_term_two_holders() {
    let (states, broken) = walk(Walk { crashes: wide(), ..departure() });
    assert_eq!(broken, [""; 0]);
    assert!(states > 1000, "{states} states are no walk");
}

#[test]
fn every_rule_of_the_chain_that_is_broken_is_found_by_a_walk() {
    let calm = Walk { crashes: 0, ..chain() };
    let lost = Walk { losses: 1, ..calm.clone() };
    let found = "one successor an epoch";
    expect_found(Rule::StoreBeforePromise, chain(), found);
    expect_found(Rule::StoreBeforeAccepted, chain(), found);
    expect_found(Rule::RefuseOlderEpochs, calm.clone(), found);
    expect_found(Rule::RefuseLowerBallot, calm.clone(), found);
    expect_found(Rule::AdoptHighest, calm, found);
    expect_found(Rule::RecoverBeforeVoting, lost, found);
}

#[test]
fn a_voter_with_an_old_store_that_votes_before_it_has_joined_is_found_by_a_walk() {
    let restored = |walk| Walk { crashes: 0, restores: 1, ..walk };
    expect_found(Rule::JoinBeforeVoting, restored(chain()), "one successor an epoch");
    expect_found(Rule::JoinBeforeVoting, restored(lease()), "one holder a term");
}

#[test]
fn every_rule_of_the_lease_that_is_broken_is_found_by_a_walk() {
    let (holders, leases) = ("one holder a term", "no two leases at once");
    let calm = Walk { crashes: 0, ..lease() };
    expect_found(Rule::RecoverBeforeVoting, Walk { losses: 1, ..calm.clone() }, holders);
    expect_found(Rule::StoreBeforeGrant, lease(), holders);
    expect_found(Rule::RenewBeforeNextChange, growth(), leases);
    expect_found(Rule::TermsOnlyRise, calm.clone(), holders);
    expect_found(Rule::CountFromSending, Walk { begins: [2; 2], ..calm.clone() }, leases);
    expect_found(Rule::GrantNobodyElse, Walk { begins: [2; 2], ..calm }, leases);
    expect_found(Rule::VotesGoWithRosters, departure(), holders);
    expect_found(Rule::QuietAtStart, Walk { begins: [1, 2], ticks: 1, ..lease() }, leases);
}

fn expect_found(rule: Rule, of: Walk, property: &str) {
    let (_, broken) = walk(Walk { broken: Some(rule), ..of });
    assert!(broken.contains(&property), "{rule:?} can be broken, and {property} still holds: {broken:?}");
}
