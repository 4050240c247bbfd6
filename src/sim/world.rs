//! The world: machines, one event queue, and what a driver, a store and a runtime do with what the
//! core puts out.
//!
//! Order of calls: [`World::new`], [`World::start`] machines, then [`World::run_for`] or
//! [`World::run_until`] with faults in between. Time passes only in those two.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::alarm::Alarm;
use super::checkers::Checkers;
use super::config::Config;
use super::disks::Mishaps;
use super::faults::Fault;
use super::letters::{Letters, Way};
use super::machine::{Disk, Ended, Machine, Process};
use super::net::{Connection, Dial, Item};
use super::paths::Paths;
use super::report::Report;
use super::workload::Clients;
use crate::core::contract::{Boot, Change, Effect, Input, LinkEnd, Output, StartMode};
use crate::core::error::SendError;
use crate::core::ids::{AgentName, MeshId, MeshName, NodeId, PersistNo, ProcessId, RequestId};
use crate::core::mesh::Mesh;
use crate::core::model::{Load, Message};
use crate::core::time::Instant;
use crate::core::wire::RequestBody;

/// Something that happens at a point of time.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "packets and wakes, nearly all of them, stay off the heap")]
pub(super) enum Event {
    Wake { machine: usize, run: u64 },
    Input { machine: usize, run: u64, input: Input },
    Commit { machine: usize, run: u64, no: PersistNo, changes: Vec<Change>, fails: bool },
    Datagram { connection: u64, to: usize, bytes: Bytes },
    Item { connection: u64, to: usize, seq: u64, item: Item },
    ItemAgain { connection: u64, from: usize, seq: u64, item: Item, attempt: u32 },
    Closed { connection: u64, to: usize, end: LinkEnd },
    Idle { connection: u64, side: usize },
    Flight { dial: u64, flight: u8 },
    FlightAgain { dial: u64, flight: u8, attempt: u32 },
    PortClosed { dial: u64 },
    DialDeadline { dial: u64 },
    Resume { machine: usize },
    PermitOver { machine: usize, run: u64, agent: AgentName },
    Client { machine: usize },
    Letter { way: Way, message: Box<Message> },
    LetterOver { way: Way, result: Result<(), SendError> },
    Fault(Fault),
}

#[derive(Debug)]
struct Scheduled {
    at: Instant,
    number: u64,
    event: Event,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        // Reversed: the heap's greatest is the earliest.
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Scheduled {}

/// A mesh under virtual time.
#[derive(Debug)]
pub struct World {
    pub(super) config: Config,
    pub(super) now: Instant,
    pub(super) rng: ChaCha8Rng,
    queue: BinaryHeap<Scheduled>,
    numbers: u64,
    runs: u64,
    pub(super) mesh_id: MeshId,
    pub(super) machines: Vec<Machine>,
    pub(super) addresses: BTreeMap<String, usize>,
    pub(super) paths: Paths,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) dials: BTreeMap<u64, Dial>,
    /// What reached a paused machine, in order.
    inboxes: BTreeMap<usize, Vec<Event>>,
    pub(super) checkers: Checkers,
    pub(super) clients: Clients,
    pub(super) letters: Letters,
    pub(super) report: Report,
    alarm: Alarm,
    checked: Instant,
    halted: bool,
}

impl World {
    /// Makes the machines; none of them runs yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let mesh_id = MeshId(uuid::Uuid::from_bytes(rng.random()));
        let mut world = Self {
            now: Instant::ZERO,
            rng,
            queue: BinaryHeap::new(),
            numbers: 0,
            runs: 0,
            mesh_id,
            machines: Vec::new(),
            addresses: BTreeMap::new(),
            paths: Paths { regions: config.regions.clone(), ..Paths::default() },
            connections: BTreeMap::new(),
            dials: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            checkers: Checkers::default(),
            clients: Clients::default(),
            letters: Letters::default(),
            report: Report::new(config.seed),
            alarm: Alarm::default(),
            checked: Instant::ZERO,
            halted: false,
            config,
        };
        let seeds: Vec<_> = (1..=world.config.seeds).map(|n| format!("n{n}:7946")).collect();
        for n in 1..=world.config.nodes {
            let node = NodeId::new(&format!("n{n}")).expect("a valid name");
            let begins = (n == 1).then_some(world.mesh_id);
            let mut seeds = seeds.clone();
            seeds.retain(|seed| *seed != format!("n{n}:7946"));
            world.add_machine(node, format!("n{n}:7946"), seeds, begins);
        }
        world
    }

    /// Adds a machine that does not run yet; returns its index.
    pub fn add_machine(
        &mut self,
        node: NodeId,
        address: String,
        seeds: Vec<String>,
        bootstrap: Option<MeshId>,
    ) -> usize {
        let index = self.machines.len();
        let region = self.config.regions.name(index);
        let is_odd = self.machines.iter().any(|m| m.node == node);
        self.addresses.insert(address.clone(), index);
        self.machines.push(Machine {
            node,
            address,
            region,
            labels: BTreeMap::new(),
            seeds,
            bootstrap,
            disk: Disk::default(),
            process: None,
            paused: false,
            behind: Duration::ZERO,
            suspended: None,
            ended: Ended::Never,
            is_odd,
            disturbed: Instant::ZERO,
            mishaps: Mishaps::default(),
            packets_sent: 0,
            bytes_sent: 0,
        });
        index
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What has happened so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Starts a machine's process.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start(&mut self, machine: usize) {
        let now = self.now;
        self.runs += 1;
        let process_id = ProcessId(uuid::Uuid::from_bytes(self.rng.random()));
        let seed = self.rng.random();
        let (profile, overrides) = (self.config.profile, self.config.overrides);
        let host = &mut self.machines[machine];
        assert!(host.process.is_none(), "{} runs already", host.node);
        let start = match (host.bootstrap, host.seeds.is_empty()) {
            (Some(mesh_id), _) if host.disk.mesh_id.is_none() => StartMode::Bootstrap { mesh_id },
            (_, true) => StartMode::Resume,
            (_, false) => StartMode::Join { seeds: host.seeds.clone() },
        };
        let remembered = host.disk.begin_start();
        let unix_ms = host.unix_ms(now);
        self.checkers.on_start(&host.node, remembered.start, self.runs, host.is_odd);
        let boot = Boot {
            card: host.card(),
            mesh_name: MeshName::new("sim").expect("a valid name"),
            process_id,
            remembered,
            start,
            profile,
            overrides,
            cross_region: self.config.cross_region,
            partition: self.config.partition.clone(),
            recovery: Default::default(),
            unix_ms,
            seed,
        };
        host.disturbed = now;
        host.behind = Duration::ZERO;
        self.report.log(now, machine, &boot);
        host.process = Some(Process {
            run: self.runs,
            mesh: Mesh::new(boot, now),
            hello: None,
            links: BTreeMap::new(),
            links_made: 0,
            requests_made: 0,
            wake: None,
            held: Vec::new(),
            committed: PersistNo(0),
            commit_last: now,
            agents: BTreeMap::new(),
            permits: BTreeMap::new(),
            tallies: BTreeMap::new(),
        });
        #[cfg(test)]
        self.spoil(machine);
        self.drain(machine);
    }

    /// Starts all machines, each up to 50 ms after the one before.
    pub fn start_all(&mut self) {
        let mut at = self.now;
        for machine in 0..self.machines.len() {
            self.at(at, Event::Fault(Fault::Start { machine }));
            at = at + Duration::from_millis(50).mul_f64(self.rng.random());
        }
    }

    /// Lets time pass.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        self.run_until(end, |_| false);
    }

    /// Lets time pass until the condition holds, at most to `end`. The condition is tried after every
    /// 10 ms; returns when it first held.
    pub fn run_until(&mut self, end: Instant, condition: impl Fn(&Self) -> bool) -> Option<Instant> {
        let alarm = self.alarm.clone();
        let run = || {
            alarm.listen(|| {
                loop {
                    if condition(self) {
                        return Some(self.now);
                    }
                    if self.now >= end || self.halted {
                        return None;
                    }
                    self.run_to((self.now + Duration::from_millis(10)).min(end));
                    self.check_now_and_then();
                    self.check_shared_now_and_then();
                }
            })
        };
        let found = catch_unwind(AssertUnwindSafe(run));
        for error in alarm.take() {
            self.checkers.fail(format!("{:?}: an ERROR in the log: {error}", self.now));
        }
        found.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            self.checkers.fail(format!("{:?}: a core panicked: {text}", self.now));
            // Its state is worth nothing: this world has ended.
            self.halted = true;
            None
        })
    }

    /// The checks that cost too much for every step.
    fn check_now_and_then(&mut self) {
        let pause = if self.machines.len() <= 10 { Duration::from_secs(1) } else { Duration::from_secs(5) };
        if self.now >= self.checked + pause {
            self.checked = self.now;
            self.check_requests();
            self.check_records();
        }
    }

    fn run_to(&mut self, end: Instant) {
        while self.queue.peek().is_some_and(|next| next.at <= end) {
            let Some(Scheduled { at, event, .. }) = self.queue.pop() else {
                break;
            };
            assert!(at >= self.now, "events are scheduled ahead");
            self.now = at;
            self.report.events += 1;
            self.happen(event);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        if let Some(machine) = self.touches(&event)
            && self.machines[machine].paused
        {
            self.inboxes.entry(machine).or_default().push(event);
            return;
        }
        match event {
            Event::Wake { machine, run } => self.on_wake(machine, run),
            Event::Input { machine, run, input } => {
                if self.machines[machine].is_running(run) {
                    self.feed(machine, input);
                }
            }
            Event::Commit { machine, run, no, changes, fails } => {
                self.on_commit(machine, run, no, &changes, fails);
            }
            Event::Datagram { connection, to, bytes } => self.on_datagram(connection, to, &bytes),
            Event::Item { connection, to, seq, item } => self.on_item(connection, to, seq, item),
            Event::ItemAgain { connection, from, seq, item, attempt } => {
                self.transmit(connection, from, seq, item, attempt);
            }
            Event::Closed { connection, to, end } => self.on_close(connection, to, end),
            Event::Idle { connection, side } => self.on_idle(connection, side),
            Event::Flight { dial, flight } => self.on_flight(dial, flight),
            Event::FlightAgain { dial, flight, attempt } => self.send_flight(dial, flight, attempt),
            Event::PortClosed { dial } => self.dial_failed(dial, "connection refused", None),
            Event::DialDeadline { dial } => self.dial_failed(dial, "timed out", None),
            Event::Resume { machine } => self.resume(machine),
            Event::PermitOver { machine, run, agent } => self.on_permit_over(machine, run, &agent),
            Event::Client { machine } => self.on_client(machine),
            Event::Letter { way, message } => self.on_letter(way, &message),
            Event::LetterOver { way, result } => self.on_letter_over(way, result),
            Event::Fault(fault) => self.apply(&fault),
        }
    }

    /// Whose process has to run for this event.
    fn touches(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Wake { machine, .. } | Event::Input { machine, .. } => Some(*machine),
            Event::Datagram { connection, to: side, .. }
            | Event::Item { connection, to: side, .. }
            | Event::ItemAgain { connection, from: side, .. }
            | Event::Closed { connection, to: side, .. }
            | Event::Idle { connection, side } => {
                self.connections.get(connection).map(|c| c.ends[*side].machine)
            }
            Event::Flight { dial, flight } => self.flight_receiver(*dial, *flight),
            Event::FlightAgain { dial, .. } | Event::PortClosed { dial } | Event::DialDeadline { dial } => {
                self.dials.get(dial).map(|d| d.machine)
            }
            // Its keeper ends an agent also while the node stands still.
            Event::PermitOver { .. } => None,
            Event::Commit { .. } | Event::Resume { .. } | Event::Client { .. } | Event::Fault(_) => None,
            // It waits with the input that it becomes.
            Event::Letter { .. } | Event::LetterOver { .. } => None,
        }
    }

    /// A paused machine goes on: what has reached it meanwhile and its due timers, in one order or the other.
    fn resume(&mut self, machine: usize) {
        let host = &mut self.machines[machine];
        host.paused = false;
        host.disturbed = self.now;
        let slept = host.suspended.take().map(|since| self.now.since(since));
        host.behind += slept.unwrap_or(Duration::ZERO);
        if slept.is_some() {
            // As the driver does: first of all it tells what the wall clock shows.
            let unix_ms = host.unix_ms(self.now);
            self.input_soon(machine, Input::WallClock { unix_ms });
        }
        let inbox = self.inboxes.remove(&machine).unwrap_or_default();
        let (timers, rest): (Vec<_>, Vec<_>) =
            inbox.into_iter().partition(|event| matches!(event, Event::Wake { .. }));
        let timers_first = self.rng.random::<bool>();
        let (first, second) = if timers_first { (timers, rest) } else { (rest, timers) };
        for event in first.into_iter().chain(second) {
            self.after(Duration::ZERO, event);
        }
    }

    fn on_wake(&mut self, machine: usize, run: u64) {
        let now = self.now;
        let clock = self.machines[machine].clock(now);
        let Some(process) = self.machines[machine].process.as_mut().filter(|p| p.run == run) else {
            return;
        };
        if process.wake.is_none_or(|wake| wake > now) {
            return;
        }
        process.wake = None;
        if process.mesh.poll_timeout().is_some_and(|(at, _)| at <= clock) {
            self.report.log(now, machine, &());
            process.mesh.handle_timeout(clock);
        }
        self.drain(machine);
    }

    /// Gives the core of a running machine an input, and does what it says.
    pub(super) fn feed(&mut self, machine: usize, input: Input) {
        self.note_effect(machine, &input);
        let now = self.now;
        let clock = self.machines[machine].clock(now);
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        self.report.log(now, machine, &input);
        process.mesh.handle(input, clock);
        self.drain(machine);
    }

    fn drain(&mut self, machine: usize) {
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        let (run, committed) = (process.run, process.committed);
        let mut effects = std::mem::take(&mut process.held);
        while let Some(effect) = process.mesh.poll_output() {
            self.report.log(self.now, machine, &effect);
            effects.push(effect);
        }
        let mut held = Vec::new();
        for effect in effects {
            if effect.after.is_some_and(|no| no > committed) {
                held.push(effect);
            } else if self.machines[machine].is_running(run) {
                self.perform(machine, effect);
            }
        }
        let (now, behind) = (self.now, self.machines[machine].behind);
        let Some(process) = self.machines[machine].process.as_mut().filter(|p| p.run == run) else {
            return;
        };
        process.held = held;
        if let Some((at, _)) = process.mesh.poll_timeout() {
            let at = (at + behind).max(now);
            if process.wake.is_none_or(|wake| at < wake) {
                process.wake = Some(at);
                self.at(at, Event::Wake { machine, run });
            }
        }
        self.check_step(machine);
    }

    fn perform(&mut self, machine: usize, effect: Effect) {
        match effect.output {
            Output::Swim { link, packet } => {
                self.check_packet(&packet);
                self.send_swim(machine, link, &packet);
            }
            Output::Control { link, frame } => self.send_control(machine, link, &frame),
            Output::Dial { target, addresses } => self.dial(machine, target, addresses),
            Output::Close { link, reason } => self.close_link(machine, link, reason),
            Output::Persist { no, changes } => self.persist(machine, no, changes),
            Output::StartAgent { spec, run } => self.start_agent(machine, spec, run),
            Output::StopAgent { agent, run, .. } => self.stop_agent(machine, &agent, run),
            Output::Permit { agent, until } => self.permit_agent(machine, agent, until),
            Output::ForgetAgent { agent } => self.forget_agent(machine, &agent),
            // There are no certificates here, and so no lists that anybody could send.
            Output::CheckCrl { .. } => {}
            Output::AskRuntime { question, agent, query } => {
                self.ask_runtime(machine, question, &agent, &query);
            }
            Output::CountMessages { agents } => self.count_messages(machine, agents),
            Output::Try { number, message } => self.try_letter(machine, number, message),
            Output::AskNode { question, query } => self.ask_node(machine, question, &query),
            Output::Reply { request, result } => self.on_reply(machine, request, result),
            Output::Event(event) => self.on_event(machine, event),
            Output::StateChanged(_) => {}
            Output::AskHandler { question, .. } => {
                let answer = Err("there are no commands in a simulation".to_owned());
                self.input_soon(machine, Input::HandlerAnswer { question, answer });
            }
            Output::Found(finding) => self.report.found(self.now, machine, finding),
            Output::ViewChanged => self.check_view(machine),
            Output::HelloChanged(hello) => {
                self.check_hello(machine, &hello);
                if let Some(process) = &mut self.machines[machine].process {
                    process.hello = Some(hello);
                }
            }
            Output::Fatal { reason } => self.on_fatal(machine, &reason),
            Output::Stopped => self.on_stopped(machine),
        }
    }

    /// A client of the machine's node asks something; the answer is in [`Report::replies`].
    ///
    /// # Panics
    /// When the machine does not run.
    pub fn request(&mut self, machine: usize, node: &NodeId, body: RequestBody) -> RequestId {
        let process = self.machines[machine].process.as_mut().expect("a client needs a running node");
        process.requests_made += 1;
        let request = RequestId(process.requests_made);
        self.report.asked.insert((process.run, request), (self.now, body.clone()));
        // An earlier process of the machine counted from the same number.
        self.report.replies.remove(&(machine, request));
        self.input_soon(machine, Input::Request { request, node: node.clone(), body });
        request
    }

    /// A running machine's node says something new about itself: its load, which differs each time from what it
    /// last told. Returns whether it was told: the larger the mesh, the more rarely a node does.
    pub fn publish(&mut self, machine: usize) -> bool {
        let node = self.machines[machine].node.clone();
        let told = self.view(machine).and_then(|view| {
            view.members.iter().find(|(m, _)| m.card.node_id == node).and_then(|(m, _)| m.load)
        });
        let cpu_permille = if told.is_some_and(|load| load.cpu_permille > 500) { 100 } else { 900 };
        let number = |world: &Self| world.machines[machine].process.as_ref()?.mesh.owned_version(&node);
        let before = number(self);
        self.feed(machine, Input::Load(Load { cpu_permille, memory_bytes: 1 << 30 }));
        number(self) > before
    }

    /// How many running machines' nodes have the newest records of this one's, itself included.
    #[must_use]
    pub fn informed(&self, of: usize) -> usize {
        let running = || self.machines.iter().filter_map(|m| m.process.as_ref());
        let newest = running().filter_map(|p| p.mesh.owned_version(&self.machines[of].node)).max();
        running().filter(|p| p.mesh.owned_version(&self.machines[of].node) == newest).count()
    }

    pub(super) fn input_soon(&mut self, machine: usize, input: Input) {
        self.input_after(Duration::ZERO, machine, input);
    }

    pub(super) fn input_after(&mut self, after: Duration, machine: usize, input: Input) {
        if let Some(run) = self.run_of(machine) {
            self.after(after, Event::Input { machine, run, input });
        }
    }

    pub(super) fn run_of(&self, machine: usize) -> Option<u64> {
        self.machines[machine].process.as_ref().map(|p| p.run)
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn after(&mut self, span: Duration, event: Event) {
        self.at(self.now + span, event);
    }

    pub(super) fn at(&mut self, at: Instant, event: Event) {
        let number = self.next_number();
        self.queue.push(Scheduled { at, number, event });
    }

    pub(super) fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.rng.random::<f64>() < share
    }

    pub(super) fn count(&mut self, machine: usize, bytes: usize) {
        self.machines[machine].packets_sent += 1;
        self.machines[machine].bytes_sent += bytes as u64;
    }
}
