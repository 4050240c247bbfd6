//! What must hold: after every step, and at rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::machine::Ended;
use super::report::StatusChange;
use super::shared::SharedChecks;
use super::world::World;
use crate::core::contract::View;
use crate::core::error::Refusal;
use crate::core::ids::{AgentName, Incarnation, NodeId, RequestId};
use crate::core::limits;
use crate::core::mesh::Gauges;
use crate::core::model::{Event, Hello, MemberStatus};
use crate::core::time::Instant;
use crate::core::wire::{RequestBody, ResponseBody, StateRequest};

/// A request may take this much longer than its deadline.
const REPLY_SLACK: Duration = Duration::from_secs(1);
/// Deadlines in one core's heap: a dozen of its own, a few a member, one a request.
const TIMERS_PER_MEMBER_MAX: usize = 64;
/// A node that was started, paused or cut off this recently may be called failed.
const DISTURBED_FOR: Duration = Duration::from_secs(20);
/// Views are compared this rarely in large meshes.
const VIEW_SAMPLE: u64 = 64;

/// What the checkers remember, and what they found.
#[derive(Debug, Default)]
pub(super) struct Checkers {
    pub(super) broken: Vec<String>,
    pub(super) shared: SharedChecks,
    /// Agents that have begun as exclusive ones.
    pub(super) exclusive: BTreeSet<AgentName>,
    /// Requests of exclusive agents that must be refused, and why.
    pub(super) barred: BTreeMap<(usize, RequestId), String>,
    starts: BTreeMap<(NodeId, u64), u64>,
    highest: BTreeMap<NodeId, Incarnation>,
    told: BTreeMap<(u64, NodeId), MemberStatus>,
    contents: BTreeMap<(NodeId, u64, u64), u64>,
    views: u64,
}

impl Checkers {
    pub(super) fn fail(&mut self, what: String) {
        // The first ones tell the story.
        if self.broken.len() < 20 {
            self.broken.push(what);
        }
    }

    /// No two processes of a node share a start number, and so none of their incarnations.
    pub(super) fn on_start(&mut self, node: &NodeId, start: u64, run: u64, is_odd: bool) {
        let used = self.starts.insert((node.clone(), start), run);
        if used.is_some_and(|other| other != run) && !is_odd {
            self.fail(format!("two processes of {node} have start {start}"));
        }
    }
}

impl World {
    /// What was found broken so far, with the time and the seed.
    #[must_use]
    pub fn broken(&self) -> &[String] {
        &self.checkers.broken
    }

    pub(super) fn fail_at(&mut self, machine: usize, what: &str) {
        let text = format!("{:?} {}: {what}", self.now, self.machines[machine].node);
        self.checkers.fail(text);
    }

    pub(super) fn check_packet(&mut self, packet: &Bytes) {
        if packet.len() > limits::SWIM_PACKET_BYTES_MAX {
            self.checkers.fail(format!("a SWIM packet has {} bytes", packet.len()));
        }
    }

    pub(super) fn check_hello(&mut self, machine: usize, hello: &Hello) {
        let is_odd = self.machines[machine].is_odd;
        let Some(run) = self.run_of(machine) else {
            return;
        };
        let node = hello.card.node_id.clone();
        self.checkers.on_start(&node, hello.incarnation.start(), run, is_odd);
        let highest = self.checkers.highest.entry(node).or_insert(hello.incarnation);
        let fell = hello.incarnation < *highest;
        *highest = hello.incarnation.max(*highest);
        if fell && !is_odd {
            self.fail_at(machine, &format!("its incarnation fell to {:?}", hello.incarnation));
        }
    }

    /// After every step: nothing in the core has grown beyond its bound.
    pub(super) fn check_step(&mut self, machine: usize) {
        let Some(process) = &self.machines[machine].process else {
            return;
        };
        let gauges = process.mesh.gauges();
        let requests = process.requests_made as usize;
        let timers_max = 32 + TIMERS_PER_MEMBER_MAX * (gauges.members + 1) + requests;
        let grown = [
            ("outputs", gauges.outputs, 0),
            ("links", gauges.links, 2 * limits::PEERS_MAX),
            ("timers", gauges.timers, timers_max),
            ("stashes", gauges.stashes, limits::PEERS_MAX),
            ("members", gauges.members, limits::PEERS_MAX),
            ("cards", gauges.cards, limits::PEERS_MAX),
            ("requests", gauges.requests, limits::REQUESTS_IN_FLIGHT_MAX),
        ];
        let grown = grown.into_iter().find(|(_, size, max)| size > max);
        if let Some((what, size, max)) = grown {
            self.fail_at(machine, &format!("it holds {size} {what}, allowed are {max}"));
        }
        self.check_shared_step(machine);
    }

    /// A view tells one story: routing never counts on a node that the member list calls gone.
    pub(super) fn check_view(&mut self, machine: usize) {
        self.checkers.views += 1;
        if self.machines.len() > 10 && !self.checkers.views.is_multiple_of(VIEW_SAMPLE) {
            return;
        }
        let Some(process) = &self.machines[machine].process else {
            return;
        };
        let view = process.mesh.view();
        if let Some(what) = contradiction(&view) {
            self.fail_at(machine, &what);
        }
    }

    pub(super) fn on_event(&mut self, machine: usize, event: Event) {
        let Some(run) = self.run_of(machine) else {
            return;
        };
        match event {
            Event::Member { node, status, reason } => {
                let before = self.checkers.told.insert((run, node.clone()), status);
                if before == Some(status) {
                    self.fail_at(machine, &format!("it says twice that {node} is {status}"));
                }
                if node == self.machines[machine].node {
                    self.fail_at(machine, "it reports on itself");
                }
                let is_false = status == MemberStatus::Failed && self.is_undisturbed(machine, &node, &reason);
                let observer = self.machines[machine].node.clone();
                let at = self.now;
                self.report.changes.push(StatusChange { at, observer, node, status, reason, is_false });
            }
            Event::DuplicateNode { node, .. } => self.report.duplicates.push((self.now, machine, node)),
            Event::Refused { peer, reason } => {
                self.report.refused.push((self.now, machine, format!("{peer}: {reason}")));
            }
            Event::Ticket { ticket, outcome, .. } => {
                self.checkers.shared.on_outcome(machine, ticket, &outcome)
            }
            Event::Rollout { blueprint, version, what } => {
                self.report.rollouts.push((machine, blueprint, version, what));
            }
            Event::Mode { from, to, reason } => self.report.modes.push((self.now, machine, from, to, reason)),
            Event::Joined { .. }
            | Event::Agent { .. }
            | Event::Breaker { .. }
            | Event::LaunchHeld { .. }
            | Event::Roster { .. }
            | Event::Ordered { .. }
            | Event::Settled { .. } => {}
        }
    }

    /// Whether nothing was done to either that could excuse calling the node failed.
    fn is_undisturbed(&self, observer: usize, node: &NodeId, reason: &str) -> bool {
        let calm = |m: usize| {
            let host = &self.machines[m];
            host.process.is_some() && !host.paused && self.now.since(host.disturbed) > DISTURBED_FOR
        };
        let Some(other) = self.machines.iter().position(|m| m.node == *node && m.process.is_some()) else {
            return false;
        };
        let open = self.paths.is_open(observer, other) && self.paths.is_open(other, observer);
        reason != "its process ended" && calm(observer) && calm(other) && open
    }

    pub(super) fn on_reply(
        &mut self,
        machine: usize,
        request: RequestId,
        result: Result<ResponseBody, Refusal>,
    ) {
        let Some(run) = self.run_of(machine) else {
            return;
        };
        match self.report.asked.remove(&(run, request)) {
            Some((at, asked)) => {
                let took = self.now.since(at);
                self.checkers.shared.on_answer(&asked, &result);
                self.letters.on_answer(machine, &asked, &result);
                if matches!(asked, RequestBody::State(StateRequest::PutBy { .. })) {
                    self.check_effect(machine, request, &result);
                }
                self.report.replies.insert((machine, request), (took, result));
            }
            None => self.fail_at(machine, &format!("it answers {request:?}, which is not open")),
        }
    }

    /// Every request is answered in its time.
    pub(super) fn check_requests(&mut self) {
        let late = |(at, body): &(Instant, RequestBody)| {
            let more = match body {
                RequestBody::Leave { drain_ms, .. } => {
                    Duration::from_millis(*drain_ms) + limits::LEAVE_DEADLINE + Duration::from_secs(15)
                }
                RequestBody::RestartAgent { .. } => limits::RESTART_DEADLINE,
                RequestBody::Ping
                | RequestBody::Deploy { .. }
                | RequestBody::StopAgent { .. }
                | RequestBody::AgentInfo { .. }
                | RequestBody::AgentLogs { .. }
                | RequestBody::Facts
                | RequestBody::History { .. }
                | RequestBody::State(_)
                | RequestBody::Outbox(_)
                | RequestBody::Desired(_)
                | RequestBody::ModulePart { .. } => Duration::ZERO,
            };
            self.now.since(*at) > limits::REQUEST_DEADLINE + more + REPLY_SLACK
        };
        let undisturbed = |run: u64| {
            let host = self.machines.iter().find(|m| m.is_running(run));
            host.is_some_and(|m| !m.paused && self.now.since(m.disturbed) > DISTURBED_FOR)
        };
        let open = self.report.asked.iter();
        let lost = open.filter(|((run, _), asked)| late(asked) && undisturbed(*run)).map(|(key, asked)| {
            (*key, format!("{:?}: {:?} of {:?} was never answered", self.now, key.1, asked))
        });
        for (key, what) in lost.collect::<Vec<_>>() {
            self.report.asked.remove(&key);
            self.checkers.fail(what);
        }
    }

    /// What a node holds of another's records is what the owner had published up to that number.
    pub(super) fn check_records(&mut self) {
        let mut broken = Vec::new();
        for host in &self.machines {
            let Some(process) = host.process.as_ref().filter(|_| !host.is_odd) else {
                continue;
            };
            for (owner, start, n, content) in process.mesh.owned() {
                let known = self.checkers.contents.entry((owner.clone(), start, n)).or_insert(content);
                if *known != content {
                    broken.push(format!(
                        "{:?} {}: records of {owner} at {start}.{n} differ",
                        self.now, host.node
                    ));
                }
            }
        }
        // Only the present matters: an owner at rest keeps its number.
        if self.checkers.contents.len() > 100_000 {
            self.checkers.contents.clear();
        }
        broken.into_iter().for_each(|what| self.checkers.fail(what));
    }

    /// What does not hold although nothing was done to the mesh for long enough: everyone must agree.
    #[must_use]
    pub fn unrest(&self) -> Vec<String> {
        let mut found = Vec::new();
        let alive: Vec<_> = self.machines.iter().filter_map(|m| Some((m, m.process.as_ref()?))).collect();
        let Some((_, first)) = alive.first() else {
            return found;
        };
        let fingerprint = first.mesh.fingerprint();
        for (host, process) in &alive {
            let theirs = process.mesh.fingerprint();
            if theirs.members != fingerprint.members {
                found.push(format!("{} has another member list than {}", host.node, alive[0].0.node));
            }
            if theirs.owned != fingerprint.owned {
                found.push(format!("{} has other records than {}", host.node, alive[0].0.node));
            }
            for other in self.machines.iter().filter(|m| m.node != host.node && !m.is_odd) {
                let status = process.mesh.status(&other.node);
                let expected: &[Option<MemberStatus>] = match (&other.process, other.ended) {
                    (Some(_), _) => &[Some(MemberStatus::Alive)],
                    (None, Ended::Never) => &[None],
                    (None, Ended::Crashed(_) | Ended::Fatal(_)) => &[Some(MemberStatus::Failed), None],
                    (None, Ended::Stopped(_)) => &[Some(MemberStatus::Left), None],
                    (None, Ended::Left(_)) => &[None],
                };
                if !expected.contains(&status) {
                    let status = status.map_or("unknown", MemberStatus::as_str);
                    found.push(format!("{} holds {} for {status}", host.node, other.node));
                }
            }
        }
        found
    }

    /// How much a machine's core holds; `None` when it does not run.
    #[must_use]
    pub fn gauges(&self, machine: usize) -> Option<Gauges> {
        self.machines[machine].process.as_ref().map(|process| process.mesh.gauges())
    }

    /// Whether all running nodes see all running nodes alive.
    #[must_use]
    pub fn all_see_all(&self) -> bool {
        let running: Vec<_> =
            self.machines.iter().filter_map(|m| Some((&m.node, m.process.as_ref()?))).collect();
        running.iter().all(|(_, process)| {
            running.iter().all(|(node, _)| process.mesh.status(node) == Some(MemberStatus::Alive))
        })
    }

    /// Whether all running nodes know all running nodes, alive or under suspicion.
    #[must_use]
    pub fn all_know_all(&self) -> bool {
        let running: Vec<_> =
            self.machines.iter().filter_map(|m| Some((&m.node, m.process.as_ref()?))).collect();
        let knows = |status: Option<MemberStatus>| status.is_some_and(MemberStatus::is_reachable);
        running.iter().all(|(_, process)| running.iter().all(|(node, _)| knows(process.mesh.status(node))))
    }

    /// Whether every two running nodes have one link that both hold for proven.
    #[must_use]
    pub fn all_linked(&self) -> bool {
        let running: Vec<_> = self.machines.iter().filter_map(|m| m.process.as_ref()).collect();
        let linked =
            running.iter().map(|p| p.mesh.view().members.iter().filter(|(_, l)| l.is_some()).count());
        let links = running.iter().map(|p| p.links.len());
        linked.zip(links).all(|(linked, links)| linked == running.len() - 1 && links == linked)
    }

    /// Links made so far by the processes that run now, both ends counted.
    #[must_use]
    pub fn links_made(&self) -> u64 {
        self.machines.iter().filter_map(|m| m.process.as_ref()).map(|p| p.links_made).sum()
    }

    /// How many machines there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a world without machines is not made")]
    pub fn len(&self) -> usize {
        self.machines.len()
    }

    /// The node of a machine.
    #[must_use]
    pub fn node(&self, machine: usize) -> &NodeId {
        &self.machines[machine].node
    }

    /// What a machine's node believes of another machine's node.
    #[must_use]
    pub fn status(&self, observer: usize, of: usize) -> Option<MemberStatus> {
        self.machines[observer].process.as_ref()?.mesh.status(&self.machines[of].node)
    }

    /// The start number that a machine's process says it has now.
    #[must_use]
    pub fn start_number(&self, machine: usize) -> Option<u64> {
        let hello = self.machines[machine].process.as_ref()?.hello.as_ref()?;
        Some(hello.incarnation.start())
    }

    /// A running machine's view.
    #[must_use]
    pub fn view(&self, machine: usize) -> Option<View> {
        Some(self.machines[machine].process.as_ref()?.mesh.view())
    }

    /// Whether a machine's process runs.
    #[must_use]
    pub fn is_running(&self, machine: usize) -> bool {
        self.machines[machine].process.is_some()
    }
}

fn contradiction(view: &View) -> Option<String> {
    let statuses: BTreeMap<_, _> = view.members.iter().map(|(m, _)| (&m.card.node_id, m.status)).collect();
    let differs = view
        .agents
        .iter()
        .find(|agent| statuses.get(&agent.node).is_some_and(|status| *status != agent.node_status));
    if let Some(agent) = differs {
        return Some(format!("agent {} and its node {} differ in status", agent.name, agent.node));
    }
    None
}
