//! [`Mesh`]: one node's whole protocol state, and the only place that wires the rooms of the core.
//!
//! The order of calls is that of [`contract`](super::contract): `handle` or `handle_timeout`, then
//! `poll_output` until `None`, then wait for `poll_timeout`.
//!
//! - `joining`: seeds, hellos, duplicates, links coming and going
//! - `gossip`: what membership wants, control frames, calling the lost
//! - `lists`: comparing with a peer: whole lists, and how many bytes of them
//! - `neighbours`: with whom a node of a large mesh keeps links, and which it lets go
//! - `records`: what nodes publish about themselves on its way through the mesh
//! - `agents`: deploy, stop, the runtime's reports, what is published
//! - `desired`: what should run: what clients want, the orders that follow from it, and what of them this node does
//! - `regions`: how far the others are, and which of them this node talks to when it may choose
//! - `requests`: what nodes ask of each other
//! - `outbox`: messages that this node has promised to deliver
//! - `permits`: who may run an exclusive agent now
//! - `lineage` and `starts`: which processes ran on a node's store, and which of each peer was met last: how old copies show
//! - `trust`: revocation lists, expelled nodes, links of a former certificate
//! - `versions`: what is not said to a node of an earlier version
//! - `view`: what readers outside see

mod agents;
mod desired;
mod gossip;
mod joining;
mod lineage;
mod lists;
mod neighbours;
mod outbox;
mod permits;
mod records;
mod regions;
mod requests;
mod shared;
mod starts;
mod timers;
mod trust;
mod versions;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::desired::Desired;
use self::lineage::Lineage;
use self::lists::Lists;
use self::neighbours::Neighbours;
use self::outbox::Letters;
use self::permits::Permits;
use self::records::Relays;
use self::regions::Regions;
pub use self::regions::{cross_share, region_keep};
use self::requests::{Open, Requester};
#[cfg(test)]
pub(crate) use self::shared::Flaw;
pub use self::shared::SharedView;
use self::shared::{Durable, Shared};
use self::starts::Starts;
use self::timers::{Timer, Timers};
pub use self::view::{Fingerprint, Gauges};
use super::contract::{Boot, Change, Counters, Effect, Input, Output, StartMode, Table};
use super::coordinates::Coordinates;
use super::ids::{AgentName, Incarnation, LinkId, MeshId, MeshName, NodeId, NodeKey, PersistNo, ProcessId};
use super::limits;
use super::links::Links;
use super::membership::Membership;
use super::model::{AgentSpec, CrossRegion, Event, Finding, Found, Hello, NodeCard};
use super::outbox::{Outbox, OutboxBounds, Restored};
use super::registry::Registry;
use super::state::State;
use super::supervision::Supervision;
use super::time::Instant;
use super::trust::Trust;
use super::wire::VersionRange;

/// Agents have this long to stop before the node goes without them, beyond what they may take to drain.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How long agents may take to finish what they have when the node is told to stop.
const STOP_DRAIN: Duration = limits::AGENT_DRAIN;

/// In a large mesh, changes of who is alive are told together for so long after the last ones.
const LIVENESS_PAUSE: Duration = Duration::from_millis(100);

/// A process that did nothing for so long measures no lease by its former clock.
const STANDSTILL: Duration = Duration::from_secs(1);

/// What is done once a persist is durable.
#[derive(Debug)]
enum Pending {
    Nothing,
    Register(u64),
    Shared(Durable),
    Outbox(Letters),
    Permits(u64),
    BelongTo(MeshId),
    Deploy { spec: Box<AgentSpec>, requester: Requester },
    Undeploy { agent: AgentName, requester: Requester },
    LeaveMesh { requesters: Vec<Requester>, drain: Duration },
    RestartAs(u64),
}

/// Where the node is in its life.
#[derive(Debug)]
enum Phase {
    Running,
    /// It has told its peers; its agents are ending.
    Stopping {
        drain: Duration,
        /// Who asked it to leave for good, and is answered last.
        asked_by: Vec<Requester>,
    },
    Stopped,
}

/// One node's protocol state machine.
#[derive(Debug)]
pub struct Mesh {
    own: NodeId,
    key: NodeKey,
    mesh_name: MeshName,
    process_id: ProcessId,
    card: NodeCard,
    mesh_id: Option<MeshId>,
    joined: bool,
    phase: Phase,
    born: Instant,
    now: Instant,
    rng: ChaCha8Rng,
    timers: Timers,
    outputs: VecDeque<Effect>,
    persists: u64,
    /// With when they were given to the disk.
    pending: BTreeMap<PersistNo, (Instant, Pending)>,
    membership: Membership,
    links: Links,
    lists: Lists,
    neighbours: Neighbours,
    relays: Relays,
    registry: Registry,
    supervision: Supervision,
    trust: Trust,
    coordinates: Coordinates,
    regions: Regions,
    cross_region: CrossRegion,
    /// The last process seen under each node id.
    processes: BTreeMap<NodeKey, ProcessId>,
    /// The process of each peer that was met last.
    starts: Starts,
    /// What this node's own store knows of its past.
    lineage: Lineage,
    /// Doubted links, by the nonce of the check that decides about them.
    probations: BTreeMap<LinkId, (u64, Hello)>,
    /// Who refused this node or was refused, and with which code, as far as told.
    told_refused: BTreeSet<(String, u32)>,
    load_told: Option<Instant>,
    /// Quick restarts of members that were told, and since when they are counted.
    restarts_told: BTreeMap<NodeKey, (u32, Instant)>,
    /// Members that are known by their key only.
    nameless: BTreeSet<NodeKey>,
    shared: Shared,
    desired: Desired,
    permits: Permits,
    outbox: Outbox,
    /// When the outbox is looked after next.
    outbox_armed: Option<Instant>,
    requests: BTreeMap<u64, Open>,
    questions: BTreeMap<u64, (Requester, AgentName)>,
    /// Questions about this node that the shell has not answered yet.
    node_questions: BTreeMap<u64, Requester>,
    /// Who waits for an agent's first start, and who for its end.
    deploying: BTreeMap<AgentName, Option<Requester>>,
    undeploying: BTreeMap<AgentName, Vec<Requester>>,
    /// Who waits until an agent has started anew.
    restarting: BTreeMap<AgentName, Vec<Requester>>,
    numbers: u64,
    view_changed: bool,
    /// Membership believes something else of somebody than was told to those who decide by it.
    liveness_changed: bool,
    /// Not before then.
    liveness_due: Instant,
    counters: Counters,
}

impl Mesh {
    /// Makes the mesh of a node whose process start is durable. Its first outputs are ready at once.
    #[must_use]
    pub fn new(mut boot: Boot, now: Instant) -> Self {
        let state = State::load(&mut boot.remembered.tables);
        Self::with_state(boot, state, now)
    }

    /// The same with what [`State::load`] has made of the remembered tables: of a million rows that takes seconds, which are
    /// not to count as time in which the node stood still.
    #[must_use]
    pub fn with_state(boot: Boot, state: State, now: Instant) -> Self {
        let mut rng = ChaCha8Rng::from_seed(boot.seed);
        let met = boot.remembered.tables.get(&Table::Register);
        let starts = met.map(|rows| starts::load(rows)).unwrap_or_default();
        let lineage = met.map(|rows| Lineage::load(rows)).unwrap_or_default();
        let (shared, leftovers) = Shared::new(&boot, state, rng.random(), now);
        // From a stream of its own: who holds what is no business of whom this node talks to.
        let mut lives = ChaCha8Rng::from_seed(boot.seed);
        lives.set_stream(1);
        let permits = Permits::new(&boot, shared.is_whole(), lives.random(), now);
        let letters = boot.remembered.tables.get(&Table::Outbox).map(Vec::as_slice).unwrap_or_default();
        let Restored { outbox, unreadable } = Outbox::restore(OutboxBounds::default(), letters, now);
        if unreadable > 0 {
            tracing::warn!(
                unreadable,
                "messages that are to be delivered cannot be read by this version: they wait"
            );
        }
        let Boot { card, mesh_name, process_id, remembered, start, .. } = boot;
        let Boot { profile, overrides, cross_region, recovery, .. } = boot;
        let own = card.node_id.clone();
        let key = own.key();
        let incarnation = Incarnation::first_of(remembered.start);
        let gossip_rng = ChaCha8Rng::from_seed(rng.random());
        let mut mesh = Self {
            key,
            mesh_name,
            process_id,
            mesh_id: remembered.mesh_id,
            joined: remembered.mesh_id.is_some(),
            phase: Phase::Running,
            born: now,
            now,
            rng,
            timers: Timers::default(),
            outputs: VecDeque::new(),
            persists: 0,
            pending: BTreeMap::new(),
            membership: Membership::new(key, incarnation, profile, overrides, gossip_rng),
            links: Links::default(),
            lists: Lists::default(),
            neighbours: Neighbours::default(),
            relays: Relays::default(),
            registry: Registry::new(own.clone(), remembered.start),
            supervision: Supervision::new(recovery),
            trust: Trust::default(),
            coordinates: Coordinates::new(key),
            regions: Regions::default(),
            cross_region,
            processes: BTreeMap::new(),
            starts,
            lineage,
            probations: BTreeMap::new(),
            told_refused: BTreeSet::new(),
            load_told: None,
            restarts_told: BTreeMap::new(),
            nameless: BTreeSet::new(),
            shared,
            desired: Desired::default(),
            permits,
            outbox,
            outbox_armed: None,
            requests: BTreeMap::new(),
            questions: BTreeMap::new(),
            node_questions: BTreeMap::new(),
            deploying: BTreeMap::new(),
            undeploying: BTreeMap::new(),
            restarting: BTreeMap::new(),
            numbers: 0,
            view_changed: true,
            liveness_changed: false,
            liveness_due: now,
            counters: Counters::default(),
            own,
            card,
        };
        mesh.membership.set_now(now);
        if !leftovers.is_empty() {
            mesh.persist(leftovers, Pending::Shared(Durable::Leftovers));
        }
        mesh.load_desired();
        mesh.store_process();
        mesh.begin(start, &remembered.peers, remembered.agents);
        mesh
    }

    fn begin(&mut self, start: StartMode, peers: &[NodeCard], agents: Vec<AgentSpec>) {
        let card = self.card.clone();
        let delta = self.registry.publish_card(&card);
        self.spread(delta);
        self.place(&card);
        for peer in peers {
            self.links.learn(peer);
            self.place(peer);
        }
        match start {
            StartMode::Bootstrap { mesh_id } if self.mesh_id.is_none() => {
                self.persist(vec![Change::MeshId(mesh_id)], Pending::BelongTo(mesh_id));
            }
            StartMode::Bootstrap { .. } | StartMode::Resume => {}
            StartMode::Join { seeds } => seeds.into_iter().for_each(|seed| self.links.add_seed(seed)),
        }
        self.say_hello_anew();
        if let Some(mesh_id) = self.mesh_id {
            self.event(Event::Joined { mesh_id });
        }
        for spec in agents {
            let effects = self.supervision.resume(spec);
            self.run_agent_effects(effects);
        }
        self.tend_agents();
        self.dial_seeds();
        self.call_the_lost();
        self.sync();
        self.begin_shared();
        self.settle();
    }

    /// Takes in one input.
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.advance(now);
        match input {
            Input::LinkUp { link, hello, address, dialled } => self.on_link_up(link, hello, address, dialled),
            Input::LinkDown { link, reason } => self.on_link_down(link, reason),
            Input::Hint { link, address, sign } => self.on_hint(link, address, sign),
            Input::DialFailed { target, reason, refused } => self.on_dial_failed(&target, &reason, refused),
            Input::Seeds { addresses } => self.on_seeds(addresses),
            Input::Unspoken { peer, reason } => self.on_unspoken(peer, reason),
            Input::Swim { link, packet } => self.on_swim(link, &packet),
            Input::Control { link, frame } => self.on_control(link, frame),
            Input::Request { request, node, body } => self.on_request(request, node, body),
            Input::Agent { agent, run, report } => self.on_agent_report(&agent, run, report),
            Input::RuntimeAnswer { question, answer } => self.on_runtime_answer(question, answer),
            Input::NodeAnswer { question, answer } => self.on_node_answer(question, answer),
            Input::Counted { tallies } => self.on_counted(tallies),
            Input::Load(load) => self.on_load(&load),
            Input::WallClock { unix_ms } => self.on_wall_clock(unix_ms),
            Input::HandlerAnswer { question, answer } => {
                self.shared.on_decision(question, answer, now);
            }
            Input::TryEnded { number, result } => self.on_try_ended(number, result),
            Input::WantLink { node } => self.want_link(&node),
            Input::Expelled { node, reason } => self.on_expelled(&node, reason),
            Input::CrlAccepted { issuer, number, der } => self.on_crl_accepted(issuer, number, der),
            Input::CertificatesChanged { trusted, renewed } => {
                self.on_certificates_changed(&trusted, renewed)
            }
            Input::Stop => self.become_stopping(false, STOP_DRAIN, vec![]),
            Input::StoreGone { reason } => self.output(Output::Fatal { reason }),
            Input::Committed(no) => self.on_committed(no),
            Input::CommitFailed { no, reason } => self.on_commit_failed(no, &reason),
        }
        self.settle();
    }

    /// Fires every timer that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        while let Some((at, timer)) = self.timers.pop_due(now) {
            if matches!(self.phase, Phase::Stopped) {
                return;
            }
            match timer {
                Timer::Member(timer) => self.membership.handle_timer(timer, now.since(at)),
                Timer::Seeds => self.dial_seeds(),
                Timer::CallLost => self.call_the_lost(),
                Timer::Sync => self.sync(),
                Timer::Lists => self.settle_debts(),
                Timer::Relay => self.relay_gathered(),
                // What has gathered is told when the mesh settles.
                Timer::Liveness => {}
                Timer::AskCards => self.ask_for_cards(),
                Timer::Probation(link) => self.on_probation_over(link),
                Timer::Hint(key) => self.on_hint_over(key),
                Timer::RenewLate => self.replace_all(),
                Timer::Request(id) => self.on_request_timeout(id),
                Timer::Shared => self.on_shared_timer(),
                Timer::Outbox => self.on_outbox_timer(),
                Timer::Desired => self.on_desired_timer(),
                Timer::Permits => self.on_permits_timer(),
                Timer::AgentRestart(agent, run) => self.on_restart_due(&agent, run),
                Timer::AgentBreaker(agent, opening) => {
                    let effects = self.supervision.handle_breaker(&agent, opening);
                    self.run_agent_effects(effects);
                }
                Timer::Renew(after) => self.replace_outdated(after),
                Timer::StopDeadline => self.become_stopped(),
            }
            self.settle();
        }
    }

    /// The next effect, in order; call until `None` after each `handle` and `handle_timeout`.
    pub fn poll_output(&mut self) -> Option<Effect> {
        self.outputs.pop_front()
    }

    /// When [`Mesh::handle_timeout`] wants to be called next, and for what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.next()
    }

    fn advance(&mut self, now: Instant) {
        assert!(now >= self.now, "time never goes back: {now:?} after {:?}", self.now);
        // Something is due several times a second: who comes later has stood still.
        let stood_still = now.since(self.now) > STANDSTILL;
        self.now = now;
        self.membership.set_now(now);
        if stood_still {
            self.on_standstill();
        }
    }

    /// After each change: what membership wants, and one notice of a changed view.
    fn settle(&mut self) {
        self.run_member_effects();
        if self.liveness_changed && self.liveness_due <= self.now {
            self.on_liveness();
        }
        self.tell_near();
        self.settle_shared();
        self.tend_desired();
        self.tend_permits();
        self.tend_outbox();
        if self.view_changed {
            self.tend_agents();
        }
        if std::mem::take(&mut self.view_changed) {
            self.output(Output::ViewChanged);
        }
    }

    /// Tells those who decide by it whom membership holds for alive. All of it is told each time, so that changes of a
    /// large mesh that come one after the other are told together.
    fn on_liveness(&mut self) {
        self.liveness_changed = false;
        if !self.is_full_mesh() {
            self.liveness_due = self.now + LIVENESS_PAUSE;
            self.set_timer(LIVENESS_PAUSE, Timer::Liveness);
        }
        self.tell_liveness();
        self.note_landscape();
    }

    /// The one way out. A control frame that its link's version does not know is not sent.
    fn output(&mut self, output: Output) {
        if let Output::Control { link, frame } = output {
            return self.output_control(link, frame);
        }
        self.outputs.push_back(Effect { after: None, output });
    }

    fn event(&mut self, event: Event) {
        self.output(Output::Event(event));
    }

    /// Keeps for those who ask why: what was found out about a node whose name is known.
    fn found(&mut self, key: &NodeKey, found: Found) {
        let Some(node) = self.links.card(key).map(|card| card.node_id.clone()) else {
            return;
        };
        let incarnation = self.membership.known(key).map_or(Incarnation(0), |known| known.incarnation);
        self.output(Output::Found(Finding { node, incarnation, found }));
    }

    fn set_timer(&mut self, after: Duration, timer: Timer) {
        self.timers.set(self.now + after, timer);
    }

    /// `span`, longer or shorter by up to a quarter, so that nodes do not act in step.
    fn jittered(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.rng.random_range(0.75..1.25))
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn persist(&mut self, changes: Vec<Change>, then: Pending) -> PersistNo {
        self.persists += 1;
        let no = PersistNo(self.persists);
        self.pending.insert(no, (self.now, then));
        self.output(Output::Persist { no, changes });
        no
    }

    fn on_committed(&mut self, no: PersistNo) {
        match self.pending.remove(&no).map(|(_, then)| then) {
            None | Some(Pending::Nothing) => {}
            Some(Pending::Register(token)) => {
                self.on_promise_stored();
                self.shared.on_register_stored(token, self.now);
            }
            Some(Pending::Shared(durable)) => self.on_durable(durable),
            Some(Pending::Outbox(letters)) => self.on_letters_stored(letters),
            Some(Pending::Permits(token)) => self.on_permits_stored(token),
            Some(Pending::BelongTo(mesh_id)) => self.become_joined(mesh_id),
            Some(Pending::Deploy { spec, requester }) => self.on_deploy_stored(*spec, requester),
            Some(Pending::Undeploy { agent, requester }) => self.on_undeploy_stored(agent, requester),
            Some(Pending::LeaveMesh { requesters, drain }) => {
                self.become_stopping(true, drain, requesters);
            }
            Some(Pending::RestartAs(start)) => {
                self.membership.restart_as(Incarnation::first_of(start));
                self.registry.restart(start);
                self.shared.restart_as(start);
                self.on_restart_stored(start);
                self.say_hello_anew();
            }
        }
    }

    fn on_commit_failed(&mut self, no: PersistNo, reason: &str) {
        match self.pending.remove(&no).map(|(_, then)| then) {
            None | Some(Pending::Nothing) => {}
            Some(Pending::RestartAs(_)) => self.on_disk_failed(reason),
            Some(Pending::Register(token)) => {
                self.shared.on_register_not_stored(token, self.now);
                self.refuse_new_chain(reason);
                self.on_disk_failed(reason);
            }
            Some(Pending::Shared(durable)) => self.on_not_durable(durable, reason),
            Some(Pending::Outbox(letters)) => self.on_letters_not_stored(letters, reason),
            Some(Pending::Permits(token)) => self.on_permits_not_stored(token, reason),
            Some(Pending::BelongTo(_)) => {
                self.output(Output::Fatal { reason: format!("the mesh's id could not be stored: {reason}") });
            }
            Some(Pending::Deploy { spec, requester }) => {
                self.deploying.remove(&spec.name);
                self.refuse_for_store(requester, reason);
            }
            Some(Pending::LeaveMesh { requesters, .. }) => {
                self.shared.on_leave_failed(self.now);
                self.on_disk_failed(reason);
                requesters.into_iter().for_each(|requester| self.refuse_for_store(requester, reason));
            }
            Some(Pending::Undeploy { requester, .. }) => {
                self.refuse_for_store(requester, reason);
            }
        }
    }

    fn become_joined(&mut self, mesh_id: MeshId) {
        if self.joined {
            return;
        }
        self.mesh_id = Some(mesh_id);
        self.joined = true;
        self.view_changed = true;
        self.event(Event::Joined { mesh_id });
        self.say_hello_anew();
        self.bootstrap_register();
    }

    fn hello(&self) -> Hello {
        Hello {
            version_min: VersionRange::OWN.min,
            version_max: VersionRange::OWN.max,
            mesh_id: self.mesh_id,
            mesh_name: self.mesh_name.clone(),
            process_id: self.process_id,
            incarnation: self.membership.incarnation(),
            card: self.card.clone(),
            bulk_beside: None,
        }
    }

    fn say_hello_anew(&mut self) {
        let hello = self.hello();
        self.output(Output::HelloChanged(hello));
    }

    /// Tells the peers and ends the agents; nothing new begins on this node from here on.
    fn become_stopping(&mut self, forget: bool, drain: Duration, asked_by: Vec<Requester>) {
        self.break_off_farewell();
        match &mut self.phase {
            Phase::Running => self.phase = Phase::Stopping { drain, asked_by },
            Phase::Stopping { asked_by: others, .. } => return others.extend(asked_by),
            Phase::Stopped => return asked_by.into_iter().for_each(|requester| self.answer_done(requester)),
        }
        self.view_changed = true;
        self.tell_departure(forget);
        self.set_timer(drain + STOP_DEADLINE, Timer::StopDeadline);
        let effects = self.supervision.stop_all();
        self.run_agent_effects(effects);
        self.stop_if_empty();
    }

    fn stop_if_empty(&mut self) {
        if self.supervision.len() == 0 && matches!(self.phase, Phase::Stopping { .. }) {
            self.become_stopped();
        }
    }

    fn become_stopped(&mut self) {
        let before = std::mem::replace(&mut self.phase, Phase::Stopped);
        if let Phase::Stopping { asked_by, .. } = before {
            let left = self.left();
            asked_by.into_iter().for_each(|requester| self.answer(requester, Ok(left.clone())));
        }
        self.output(Output::Stopped);
    }
}
