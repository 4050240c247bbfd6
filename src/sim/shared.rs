//! What must hold of the state that the nodes share: after every step where that is cheap, ten times a second, and
//! at rest.
//!
//! After every step: the clock and the durable clock of a process only grow, a new process knows all that was
//! durable, a roster epoch has one roster, a term of the lease one holder, and one node at a time holds it; a ticket
//! has one outcome, and what is collected is on every member's disk. Ten times a second: equal clocks mean equal values;
//! every node's state is what the dots that it has taken in make it ([`Ledger`]); nobody is healthy for longer than the
//! detection takes without a quorum that it can hear. At rest ([`World::shared_unrest`]): all are healthy and equal,
//! nothing waits, and whatever was acknowledged is here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::ledger::Ledger;
use super::world::World;
use crate::core::error::Refusal;
use crate::core::ids::{AgentName, NodeId};
use crate::core::mesh::SharedView;
use crate::core::model::{Actor, AgentSpec, Clock, Dot, Epoch, Mode, Outcome, Roster, Ticket, TicketState};
use crate::core::time::Instant;
use crate::core::wire::{RequestBody, ResponseBody, StateAnswer, StateRequest};

/// How often the checks are made that cost too much for every step.
const SAMPLE: Duration = Duration::from_millis(100);
/// How much longer than the detection time a node may be healthy without a quorum: a beat, a timer, a frame that was
/// under way.
const HEALTHY_SLACK: Duration = Duration::from_secs(1);
/// Of how many machines it is looked at once whom they can hear: those of a larger world take turns.
const HEARERS_AT_ONCE: usize = 40;

/// What a client was told.
#[derive(Debug)]
enum Told {
    Written { dot: Dot, key: Option<String>, value: Option<Bytes> },
    Queued { ticket: Ticket, written: Option<(String, Bytes)> },
}

/// A ticket that a client was given.
#[derive(Debug)]
struct Queued {
    machine: usize,
    at: Instant,
    /// The key and the value, unless it is a deletion.
    written: Option<(String, Bytes)>,
}

/// What was last seen of a machine's state.
#[derive(Debug, Default)]
struct Seen {
    run: u64,
    clock: Clock,
    durable: Clock,
    minted: Option<(Actor, u64)>,
    epoch: Option<Epoch>,
    floor: Clock,
    /// It has changed since it was last compared with the ledger.
    is_new: bool,
    /// The run in which it has left the mesh, until it is healthy in a later one: what it had told of its disk is not
    /// so any more.
    left: Option<u64>,
}

/// What the checkers remember of the shared state.
#[derive(Debug, Default)]
pub(super) struct SharedChecks {
    ledger: Ledger,
    seen: BTreeMap<usize, Seen>,
    /// What is collected somewhere.
    floor: Clock,
    rosters: BTreeMap<Epoch, Roster>,
    /// Who held the lease in a term, and since when.
    terms: BTreeMap<(u64, u64, u64), (usize, Instant)>,
    outcomes: BTreeMap<Ticket, String>,
    tickets: BTreeMap<Ticket, Queued>,
    acknowledged: BTreeMap<Dot, (usize, Instant)>,
    told: Vec<Told>,
    /// Machines whose disks went back in time, and when they last did.
    restored: BTreeMap<usize, Instant>,
    /// Those to which it happened within one process start, and when it last did: nothing shows them that they have
    /// forgotten promises.
    amnesiac: BTreeMap<usize, Instant>,
    sampled: Instant,
    samples: usize,
    wrong: Vec<String>,
}

impl SharedChecks {
    pub(super) fn on_disk_replaced(&mut self, machine: usize, same_start: bool, now: Instant) {
        self.seen.remove(&machine);
        self.restored.insert(machine, now);
        if same_start {
            self.amnesiac.insert(machine, now);
        }
    }

    /// A machine has left its mesh and forgotten it, tickets that had their outcome as well: whatever it comes back
    /// with is new.
    pub(super) fn on_left(&mut self, machine: usize, run: u64, has_outcome: impl Fn(&Ticket) -> bool) {
        self.seen.entry(machine).or_default().left = Some(run);
        self.tickets.retain(|ticket, queued| queued.machine != machine || !has_outcome(ticket));
    }

    pub(super) fn was_restored(&self, machine: usize) -> bool {
        self.restored.contains_key(&machine)
    }

    /// Whether a machine has an old copy of its disk from when it was a quorum alone, and has not heard of a later roster
    /// yet. It has nobody to ask: a limit of the design.
    fn believes_an_old_copy(&self, machine: usize, node: &NodeId, roster: &Roster) -> bool {
        let is_old =
            || self.rosters.keys().any(|epoch| epoch.same_chain(roster.epoch) && *epoch > roster.epoch);
        self.was_restored(machine) && roster.is_quorum(&BTreeSet::from([node.clone()])) && is_old()
    }

    /// A ticket has its outcome, told by a process of its node. An old copy of a disk may hold a write that was made
    /// after the copy was taken: it is made again.
    pub(super) fn on_outcome(&mut self, machine: usize, ticket: Ticket, outcome: &str) {
        let before = self.outcomes.insert(ticket.clone(), outcome.to_owned());
        if let Some(before) = before.filter(|_| !self.restored.contains_key(&machine)) {
            self.wrong.push(format!("{ticket} is {outcome} after it was {before}"));
        }
    }

    /// A client is answered.
    pub(super) fn on_answer(&mut self, asked: &RequestBody, answer: &Result<ResponseBody, Refusal>) {
        let (RequestBody::State(request), Ok(ResponseBody::State(answer))) = (asked, answer) else {
            return;
        };
        let (key, value) =
            if let StateRequest::Put { key, value, .. } | StateRequest::PutBy { key, value, .. } = request {
                (Some(key.clone()), value.clone())
            } else {
                (None, None)
            };
        if let StateAnswer::Written { dot, .. } = answer {
            self.told.push(Told::Written { dot: *dot, key, value });
        } else if let StateAnswer::Queued { ticket } = answer {
            self.told.push(Told::Queued { ticket: ticket.clone(), written: key.zip(value) });
        }
    }

    fn is_excused(&self, machine: usize, made: Instant) -> bool {
        self.restored.get(&machine).is_some_and(|restored| *restored >= made)
    }
}

impl World {
    /// The agents that run on a machine.
    pub fn agents(&self, machine: usize) -> impl Iterator<Item = (&AgentName, &AgentSpec)> {
        let agents = self.machines[machine].process.iter().flat_map(|process| &process.agents);
        agents.map(|(agent, (_, spec))| (agent, spec))
    }

    /// After every step of a machine.
    pub(super) fn check_shared_step(&mut self, machine: usize) {
        let mut checks = std::mem::take(&mut self.checkers.shared);
        self.step_of(&mut checks, machine);
        self.note_told(&mut checks, machine);
        let (now, node) = (self.now, self.machines[machine].node.clone());
        for what in checks.wrong.drain(..) {
            self.checkers.fail(format!("{now:?} {node}: {what}"));
        }
        self.checkers.shared = checks;
    }

    fn step_of(&self, checks: &mut SharedChecks, machine: usize) {
        let Some(process) = &self.machines[machine].process else {
            return;
        };
        let view = process.mesh.shared_view();
        let seen = checks.seen.entry(machine).or_default();
        let is_start = seen.run != process.run;
        if is_start {
            let has_left = seen.left == Some(seen.run);
            if !has_left && !view.clock.covers(&seen.durable) {
                checks.wrong.push(format!("it has forgotten {:?}", seen.durable.beyond(view.clock)));
            }
            *seen = Seen { run: process.run, is_new: true, left: seen.left, ..Seen::default() };
        }
        seen.left = seen.left.filter(|run| *run == process.run || view.mode != Mode::Healthy);
        if seen.clock != *view.clock {
            if !view.clock.covers(&seen.clock) {
                checks.wrong.push(format!("its clock lost {:?}", seen.clock.beyond(view.clock)));
            }
            seen.clock = view.clock.clone();
            seen.is_new = true;
        }
        if seen.durable != *view.durable {
            if !view.durable.covers(&seen.durable) || !view.clock.covers(view.durable) {
                checks.wrong.push("its durable clock fell, or holds more than it knows".to_owned());
            }
            seen.durable = view.durable.clone();
        }
        if is_start {
            // What was stored and never told before the crash is known from now on.
            for (key, state) in process.mesh.shared_keys() {
                for sibling in &state.siblings {
                    let note = checks.ledger.note(sibling.dot, (key, state), view.clock, (machine, self.now));
                    let may_be = checks.restored.contains_key(&machine);
                    checks.wrong.extend(note.filter(|_| !may_be));
                }
            }
        }
        self.note_minted(checks, machine, &view);
        self.check_floor(checks, machine, &view);
        self.check_register(checks, machine, &view);
    }

    fn note_minted(&self, checks: &mut SharedChecks, machine: usize, view: &SharedView<'_>) {
        let (Some(process), Some(seen)) = (&self.machines[machine].process, checks.seen.get_mut(&machine))
        else {
            return;
        };
        let Some(actor) = view.actor else {
            return;
        };
        let last = seen.minted.filter(|(of, _)| *of == actor).map_or(0, |(_, n)| n);
        let upto = view.clock.upto(&actor);
        seen.minted = Some((actor, upto));
        for n in last + 1..=upto {
            let dot = Dot { actor, n };
            match process.mesh.shared_key_of(dot) {
                Some((key, state)) => {
                    let note = checks.ledger.note(dot, (key, state), view.clock, (machine, self.now));
                    let may_be = checks.restored.contains_key(&machine);
                    checks.wrong.extend(note.filter(|_| !may_be));
                }
                None => checks.wrong.push(format!("{dot:?} was made and is nowhere")),
            }
        }
    }

    fn check_register(&self, checks: &mut SharedChecks, machine: usize, view: &SharedView<'_>) {
        let (Some(roster), Some(seen)) = (view.roster, checks.seen.get_mut(&machine)) else {
            return;
        };
        if seen.epoch != Some(roster.epoch) {
            if seen.epoch.is_some_and(|before| before > roster.epoch) {
                checks.wrong.push(format!("its roster went back to {:?}", roster.epoch));
            }
            seen.epoch = Some(roster.epoch);
            let known = checks.rosters.entry(roster.epoch).or_insert_with(|| roster.clone());
            if known != roster {
                checks.wrong.push(format!("{:?} has two rosters", roster.epoch));
            }
        }
        let Some(term) = self.lease_of(machine) else {
            return;
        };
        let Epoch { chain, chain_id, .. } = roster.epoch;
        let held = (machine, self.now);
        let (holder, since) = *checks.terms.entry((chain, chain_id, term)).or_insert(held);
        let forgotten = checks.amnesiac.values().any(|at| *at >= since);
        if holder != machine && !forgotten {
            let other = &self.machines[holder].node;
            checks.wrong.push(format!("it holds the lease in term {term}, which {other} held"));
        }
        for other in (0..self.machines.len()).filter(|other| *other != machine) {
            let theirs = self.machines[other].process.as_ref().and_then(|p| p.mesh.shared_view().roster);
            let same = theirs.filter(|theirs| theirs.epoch.same_chain(roster.epoch));
            let believes =
                |m: usize, roster: &Roster| checks.believes_an_old_copy(m, &self.machines[m].node, roster);
            let believed = same.is_some_and(|theirs| believes(other, theirs)) || believes(machine, roster);
            if same.is_some() && !believed && self.lease_of(other).is_some() {
                let node = &self.machines[other].node;
                checks.wrong.push(format!("it holds the lease while {node} holds it"));
            }
        }
    }

    /// The term in which a machine holds the lease. One whose clock stood still is not asked: the lease is only safe
    /// with clocks that run.
    #[must_use]
    pub fn lease_of(&self, machine: usize) -> Option<u64> {
        let host = &self.machines[machine];
        let process = host.process.as_ref().filter(|_| host.behind.is_zero() && host.suspended.is_none())?;
        process.mesh.lease_term(self.now)
    }

    fn note_told(&self, checks: &mut SharedChecks, machine: usize) {
        for told in std::mem::take(&mut checks.told) {
            match told {
                Told::Written { dot, key, value } => {
                    checks.acknowledged.insert(dot, (machine, self.now));
                    let record = checks.ledger.get(dot);
                    let is_right =
                        record.is_some_and(|r| key.is_none_or(|key| r.key == key && r.value == value));
                    if !is_right {
                        checks.wrong.push(format!("{dot:?} is acknowledged, and is {record:?}"));
                    }
                }
                Told::Queued { ticket, written } => {
                    checks.tickets.insert(ticket, Queued { machine, at: self.now, written });
                }
            }
        }
    }

    /// The checks that cost too much for every step.
    pub(super) fn check_shared_now_and_then(&mut self) {
        if self.now < self.checkers.shared.sampled + SAMPLE {
            return;
        }
        let mut checks = std::mem::take(&mut self.checkers.shared);
        checks.sampled = self.now;
        checks.samples += 1;
        let mut wrong = self.unequal();
        wrong.extend(self.against_the_ledger(&mut checks));
        wrong.extend(self.healthy_alone(checks.samples));
        for what in wrong {
            self.checkers.fail(format!("{:?} {what}", self.now));
        }
        self.checkers.shared = checks;
    }

    /// Nodes that have taken in the same writes and hold other values.
    fn unequal(&self) -> Vec<String> {
        let views: Vec<_> = self.views().collect();
        let mut wrong = Vec::new();
        for (at, (one, view)) in views.iter().enumerate() {
            // In a large mesh everybody is compared with the next few: who differs does so for long.
            for (other, theirs) in views[at + 1..].iter().take(8) {
                if view.hash != theirs.hash && view.clock == theirs.clock {
                    let (one, other) = (&self.machines[*one].node, &self.machines[*other].node);
                    wrong.push(format!("{one} and {other} know the same writes and hold other values"));
                }
            }
        }
        wrong
    }

    fn against_the_ledger(&self, checks: &mut SharedChecks) -> Vec<String> {
        let mut wrong = Vec::new();
        for (machine, _) in self.views() {
            let is_new = checks.seen.get_mut(&machine).is_some_and(|seen| std::mem::take(&mut seen.is_new));
            let Some(process) = self.machines[machine].process.as_ref().filter(|_| is_new) else {
                continue;
            };
            let excused = |record: &super::ledger::Record| checks.is_excused(record.machine, record.at);
            let node = &self.machines[machine].node;
            wrong.extend(checks.ledger.check(&process.mesh, excused).iter().map(|w| format!("{node}: {w}")));
        }
        wrong
    }

    /// What a node has begun to collect is on the disk of every member.
    fn check_floor(&self, checks: &mut SharedChecks, machine: usize, view: &SharedView<'_>) {
        let Some(seen) = checks.seen.get_mut(&machine).filter(|seen| seen.floor != *view.floor) else {
            return;
        };
        if !view.floor.covers(&seen.floor) {
            checks.wrong.push("its floor fell".to_owned());
        }
        seen.floor = view.floor.clone();
        let risen = view.floor.beyond(&checks.floor);
        checks.floor.join(view.floor);
        let members = view.roster.map(|roster| &roster.members);
        for (other, host) in self.machines.iter().enumerate() {
            // Of two machines with one name the mesh knows one, which may be either.
            let is_odd = self.machines.iter().any(|machine| machine.is_odd && machine.node == host.node);
            let is_member = !is_odd && members.is_some_and(|members| members.contains_key(&host.node));
            let counts =
                |seen: &&Seen| is_member && seen.left.is_none() && !checks.restored.contains_key(&other);
            let theirs = checks.seen.get(&other).filter(counts);
            let Some(theirs) = theirs else {
                continue;
            };
            let mut whole = theirs.durable.clone();
            risen.iter().for_each(|range| whole.add_range(*range));
            if whole != theirs.durable {
                let (node, has) = (&host.node, &theirs.durable);
                checks
                    .wrong
                    .push(format!("it collects {risen:?}, of which {node} has only {has:?} on its disk"));
            }
        }
    }

    /// Nodes that are healthy and have not been able to hear a quorum for longer than it takes to notice.
    fn healthy_alone(&self, turn: usize) -> Vec<String> {
        let calm = self.machines.iter().map(|m| m.disturbed).max().unwrap_or(Instant::ZERO);
        let window = self.config.partition.detection_timeout + HEALTHY_SLACK;
        if self.now.since(calm) <= window {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        let mut groups: Vec<(usize, Epoch, BTreeSet<_>)> = Vec::new();
        let turns = self.machines.len().div_ceil(HEARERS_AT_ONCE);
        for (machine, view) in self.views().filter(|(machine, _)| machine % turns == turn % turns) {
            // Who stands still does nothing, whatever it believes.
            let is_healthy = view.mode == Mode::Healthy && !self.machines[machine].paused;
            let Some(roster) = view.roster.filter(|_| is_healthy) else {
                continue;
            };
            let hears = |(other, host): &(usize, &super::machine::Machine)| {
                let talks = host.process.is_some() && !host.paused;
                talks && (*other == machine || self.paths.is_open(*other, machine))
            };
            let heard: BTreeSet<_> =
                self.machines.iter().enumerate().filter(hears).map(|(_, host)| host.node.clone()).collect();
            let node = &self.machines[machine].node;
            if !roster.is_quorum(&heard) {
                wrong.push(format!("{node}: is healthy and can hear only {heard:?} of {:?}", roster.members));
            }
            for (other, epoch, theirs) in &groups {
                if epoch.same_chain(roster.epoch) && !roster.split_writes && heard.is_disjoint(theirs) {
                    let other = &self.machines[*other].node;
                    wrong.push(format!(
                        "{node} and {other} are healthy and apart: {node} by {:?} with the voters {:?}, and {other} by {epoch:?}",
                        roster.epoch,
                        roster.voters().collect::<Vec<_>>(),
                    ));
                }
            }
            groups.push((machine, roster.epoch, heard));
        }
        wrong
    }

    fn views(&self) -> impl Iterator<Item = (usize, SharedView<'_>)> {
        let running = self.machines.iter().enumerate();
        running.filter_map(|(at, host)| Some((at, host.process.as_ref()?.mesh.shared_view())))
    }

    /// What of the shared state does not hold although nothing was done to the mesh for long enough.
    #[must_use]
    pub fn shared_unrest(&self) -> Vec<String> {
        let mut found = Vec::new();
        let views: Vec<_> = self.views().collect();
        let Some((_, first)) = views.first() else {
            return found;
        };
        for (machine, view) in &views {
            let node = &self.machines[*machine].node;
            if view.mode != Mode::Healthy {
                found.push(format!("{node} is {}: {}", view.mode, view.reason));
            }
            if view.roster.is_none_or(|roster| !roster.members.contains_key(node)) {
                found.push(format!("{node} is no member"));
            }
            if view.queued > 0 {
                found.push(format!("{node} has {} queued writes", view.queued));
            }
            if view.clock.gaps() > 0 {
                found.push(format!("{node} has {} gaps", view.clock.gaps()));
            }
            if view.clock != first.clock {
                let more = (view.clock.beyond(first.clock).len(), first.clock.beyond(view.clock).len());
                found.push(format!("{node} knows {more:?} ranges more and less than another"));
            } else if view.hash != first.hash {
                found.push(format!("{node} holds other values"));
            }
            if view.durable != view.clock {
                found.push(format!("{node} has not stored all that it knows"));
            }
        }
        found.extend(self.lost(first.clock));
        found.extend(self.tickets_without_outcome());
        found
    }

    /// Whether a voter has forgotten what it promised when it may have been a quorum alone: by design, only an operator
    /// ends that.
    #[must_use]
    pub fn waits_for_an_operator(&self) -> bool {
        self.views().any(|(_, view)| view.beyond_recovery)
    }

    /// Acknowledged writes that nobody knows.
    fn lost(&self, clock: &Clock) -> Vec<String> {
        let checks = &self.checkers.shared;
        let acknowledged = checks.acknowledged.iter();
        let lost = acknowledged
            .filter(|(dot, (machine, at))| !clock.contains(**dot) && !checks.is_excused(*machine, *at));
        lost.map(|(dot, _)| format!("{dot:?} was acknowledged and is lost")).collect()
    }

    /// Tickets that have no outcome, or one that does not fit what was written.
    fn tickets_without_outcome(&self) -> Vec<String> {
        let checks = &self.checkers.shared;
        let mut found = Vec::new();
        for (ticket, Queued { machine, at, written }) in &checks.tickets {
            let process = self.machines[*machine].process.as_ref();
            let Some(process) = process.filter(|_| !checks.is_excused(*machine, *at)) else {
                continue;
            };
            let Some(TicketState::Done(outcome)) = process.mesh.ticket(ticket).map(|view| view.state) else {
                found.push(format!("{ticket} has no outcome"));
                continue;
            };
            let is_made = matches!(outcome, Outcome::Applied | Outcome::Conflicted);
            let is_written = written.as_ref().map(|(key, value)| checks.ledger.has(key, value));
            if is_written.is_some_and(|is_written| is_written != is_made) {
                found.push(format!("{ticket} is {}, which is not so", outcome.as_str()));
            }
        }
        found
    }

    /// How many writes were made so far, by all.
    #[must_use]
    pub fn writes_made(&self) -> usize {
        self.checkers.shared.ledger.len()
    }

    /// What a running machine's core knows of what the nodes share.
    #[must_use]
    pub fn shared_view(&self, machine: usize) -> Option<SharedView<'_>> {
        Some(self.machines[machine].process.as_ref()?.mesh.shared_view())
    }
}
