//! The loop that owns the core: one input after another, then every effect, then sleep until the next
//! deadline. It is the only task that touches [`Mesh`].
//!
//! Inputs come before timers, so that a process that was paused takes in the answers that wait in its
//! queue before it draws conclusions from their absence.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::clock::{self, Clock};
use super::discovery::Discovery;
use super::dispatch::{Dispatcher, Instance, Routes, Way};
use super::events::Events;
use super::facts::Witness;
use super::identity::KeeperHandle;
use super::runtime::Runtime;
use super::store::{Outcome, Store};
use super::transport::Transport;
use crate::core::contract::{Effect, Input, Output, RuntimeAnswer, RuntimeQuery, View};
use crate::core::error::Refusal;
use crate::core::error::Refused;
use crate::core::ids::{AgentName, NodeId, PersistNo, RequestId};
use crate::core::limits;
use crate::core::mesh::Mesh;
use crate::core::model::{AgentView, CrossRegion, Event, MemberStatus, Message};
use crate::core::wire::{Recorded, RequestBody, ResponseBody, StateChange};

/// Inputs taken before timers and effects get their turn.
const BATCH: usize = 64;
/// A changed view is published at most this often.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(10);
/// How often the core is told what the wall clock shows.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);
/// A loop that is later than this is worth a warning: probes and answers wait for it.
const LATE: Duration = Duration::from_secs(1);

/// What the loop shares with those who read and ask.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) view: ArcSwap<View>,
    pub(super) events: Events,
    /// Keys of the state that changed.
    pub(super) changes: Events<StateChange>,
    replies: Mutex<HashMap<RequestId, oneshot::Sender<Result<ResponseBody, Refusal>>>>,
    requests: AtomicU64,
}

impl Shared {
    pub(super) fn new(view: View) -> Self {
        Self {
            view: ArcSwap::from_pointee(view),
            events: Events::default(),
            changes: Events::default(),
            replies: Mutex::default(),
            requests: AtomicU64::new(0),
        }
    }

    /// Asks the core something on behalf of a client.
    pub(super) async fn request(
        &self,
        core: &mpsc::Sender<Input>,
        node: NodeId,
        body: RequestBody,
    ) -> Result<ResponseBody, Refusal> {
        let request = RequestId(self.requests.fetch_add(1, Ordering::Relaxed) + 1);
        let (reply, replied) = oneshot::channel();
        self.replies().insert(request, reply);
        let gone = || Refusal::NodeDown { node: node.clone(), status: "stopped".to_owned() };
        if core.send(Input::Request { request, node: node.clone(), body }).await.is_err() {
            self.replies().remove(&request);
            return Err(gone());
        }
        replied.await.unwrap_or_else(|_| Err(gone()))
    }

    fn replies(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<RequestId, oneshot::Sender<Result<ResponseBody, Refusal>>>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the loop ended.
#[derive(Debug)]
pub(super) enum End {
    /// As it was told to.
    Stopped,
    /// The node must not go on.
    Fatal(String),
}

pub(super) struct Driver {
    pub(super) mesh: Mesh,
    pub(super) clock: Clock,
    pub(super) inputs: mpsc::Receiver<Input>,
    /// What the runtime reports; unbounded, because there are only so many agents and each says little.
    pub(super) reports: mpsc::UnboundedReceiver<Input>,
    /// What the store reports, a transaction at a time; unbounded, because each answers what the core has asked for.
    pub(super) outcomes: mpsc::UnboundedReceiver<Vec<Outcome>>,
    pub(super) store: Store,
    pub(super) witness: Witness,
    pub(super) transport: Transport,
    pub(super) runtime: Runtime,
    pub(super) identity: KeeperHandle,
    pub(super) dispatcher: Dispatcher,
    pub(super) discovery: Discovery,
    pub(super) shared: Arc<Shared>,
    /// What the core wanted when it was made.
    pub(super) first: VecDeque<Effect>,
    pub(super) held: BTreeMap<PersistNo, Vec<Output>>,
    pub(super) answers: VecDeque<Input>,
    pub(super) cross_region: CrossRegion,
    /// Where answers that take a while come in.
    pub(super) core: mpsc::Sender<Input>,
    /// When the core was last told of the wall clock, and what that showed, in milliseconds since 1970.
    pub(super) clock_told: (Instant, u64),
    /// Pairs of regions that the metrics have told of: a label, once told, stays.
    pub(super) region_pairs: BTreeSet<(String, String)>,
    pub(super) dirty: bool,
    pub(super) published: Instant,
    pub(super) end: Option<End>,
}

impl Driver {
    /// Runs the node until it is told to stop, or must.
    pub(super) async fn run(mut self) -> End {
        let mut batch = Vec::with_capacity(BATCH);
        self.act();
        self.publish();
        while self.end.is_none() {
            let wake = self.next_wake();
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => batch.push(report),
                Some(outcomes) = self.outcomes.recv() => batch.extend(outcomes.into_iter().map(committed)),
                _ = self.inputs.recv_many(&mut batch, BATCH) => {}
                () = sleep_until(wake) => {}
            }
            // Before all else: while a virtual machine was suspended, its own time stood still, and only the wall clock
            // tells how much of it is gone.
            self.tell_wall_clock();
            for input in batch.drain(..) {
                self.step(input);
            }
            self.fire_timers();
            if self.dirty && self.published.elapsed() >= PUBLISH_INTERVAL {
                self.publish();
            }
        }
        Box::pin(self.shut_down()).await
    }

    fn next_wake(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let timer = self.mesh.poll_timeout().map_or(far, |(at, _)| self.clock.deadline(at));
        if self.dirty { timer.min(self.published + PUBLISH_INTERVAL) } else { timer }
    }

    fn step(&mut self, input: Input) {
        if let Input::Committed(no) = input {
            for output in self.held.remove(&no).unwrap_or_default() {
                self.perform(output);
            }
        }
        if let Input::CommitFailed { no, .. } = input {
            // What waited for it must not be said; the core says what there is to say instead.
            self.held.remove(&no);
        }
        self.mesh.handle(input, self.clock.now());
        self.act();
    }

    /// Now and then, and at once when it was set or has run on while this process's own time stood still.
    fn tell_wall_clock(&mut self) {
        let (told, told_ms) = self.clock_told;
        let since = told.elapsed();
        let unix_ms = clock::unix_ms();
        let expected_ms = told_ms.saturating_add(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let is_step = Duration::from_millis(unix_ms.abs_diff(expected_ms)) >= CLOCK_INTERVAL;
        if is_step || since >= CLOCK_INTERVAL {
            self.clock_told = (Instant::now(), unix_ms);
            self.step(Input::WallClock { unix_ms });
        }
    }

    fn fire_timers(&mut self) {
        let now = self.clock.now();
        let Some((at, reason)) = self.mesh.poll_timeout().filter(|(at, _)| *at <= now) else {
            return;
        };
        let late = now.since(at);
        self.witness.lateness.note(late);
        if late > LATE {
            metrics::counter!("shoal_loop_late_total").increment(1);
            tracing::warn!(
                late_ms = late.as_millis() as u64,
                reason,
                "the node was held up: paused, or out of CPU"
            );
        }
        self.mesh.handle_timeout(now);
        self.act();
    }

    /// Performs every effect, and steps through the answers that performing gave at once.
    fn act(&mut self) {
        loop {
            while let Some(effect) = self.first.pop_front().or_else(|| self.mesh.poll_output()) {
                match effect.after {
                    Some(no) => self.held.entry(no).or_default().push(effect.output),
                    None => self.perform(effect.output),
                }
            }
            let Some(answer) = self.answers.pop_front() else {
                return;
            };
            self.mesh.handle(answer, self.clock.now());
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Swim { link, packet } => self.transport.send_swim(link, packet),
            Output::Control { link, frame } => self.transport.send_control(link, &frame),
            Output::Dial { target, addresses } => self.transport.dial(target, addresses),
            Output::Close { link, reason } => self.transport.close(link, reason),
            Output::Persist { no, changes } => self.store.commit(no, changes),
            Output::StartAgent { spec, run } => self.runtime.start(spec, run),
            Output::StopAgent { agent, run, drain_ms } => {
                self.runtime.stop(&agent, run, Duration::from_millis(drain_ms));
            }
            Output::Permit { agent, until } => {
                self.runtime.permit(&agent, self.clock.boot_nanos_at(until));
            }
            Output::ForgetAgent { agent } => self.runtime.forget(&agent),
            Output::AskRuntime { question, agent, query } => {
                let answer = self.ask_runtime(&agent, &query);
                self.answers.push_back(Input::RuntimeAnswer { question, answer });
            }
            Output::CountMessages { agents } => {
                self.answers.push_back(Input::Counted { tallies: self.runtime.tallies(agents) });
            }
            Output::Try { number, message } => self.try_to_deliver(number, message),
            Output::AskNode { question, query } => self.witness.answer(question, query),
            Output::Reply { request, result } => {
                // Whoever is told that an agent runs may ask it at once. What is asked of the state, or of the outbox, is
                // not in the view.
                if self.dirty && !matches!(result, Ok(ResponseBody::State(_) | ResponseBody::Outbox(_))) {
                    self.publish();
                }
                if let Some(reply) = self.shared.replies().remove(&request) {
                    // A client that has gone needs no answer.
                    let _ = reply.send(result);
                }
            }
            Output::CheckCrl { from, der } => self.identity.check(from, der),
            Output::Event(event) => {
                log_event(&event);
                self.witness.history.record(clock::unix_ms(), Recorded::Event(event.clone()));
                self.shared.events.push(event);
            }
            Output::Found(finding) => {
                tracing::debug!(?finding, "found");
                self.witness.history.record(clock::unix_ms(), Recorded::Finding(finding));
            }
            Output::StateChanged(change) => self.shared.changes.push(change),
            Output::AskHandler { question, command, view } => {
                let core = self.core.clone();
                tokio::spawn(async move {
                    let answer = super::decision::ask(&command, &view).await;
                    if let Err(reason) = &answer {
                        tracing::warn!(reason, "the command decided nothing: read-only");
                    }
                    // The driver is gone only when the node is.
                    let _ = core.send(Input::HandlerAnswer { question, answer }).await;
                });
            }
            Output::ViewChanged => self.dirty = true,
            Output::HelloChanged(hello) => self.transport.set_hello(hello),
            Output::Fatal { reason } => self.end = Some(End::Fatal(reason)),
            Output::Stopped => self.end = Some(self.end.take().unwrap_or(End::Stopped)),
        }
    }

    fn try_to_deliver(&self, number: u64, message: Message) {
        let (dispatcher, core) = (self.dispatcher.clone(), self.core.clone());
        tokio::spawn(async move {
            let result = dispatcher.ask(message).await.map(drop);
            // The driver is gone only when the node is.
            let _ = core.send(Input::TryEnded { number, result }).await;
        });
    }

    fn ask_runtime(&self, agent: &AgentName, query: &RuntimeQuery) -> RuntimeAnswer {
        match query {
            RuntimeQuery::Stats => RuntimeAnswer::Stats(self.runtime.stats(agent).unwrap_or_default()),
            RuntimeQuery::Logs { lines } => {
                RuntimeAnswer::Lines(self.runtime.logs(agent, *lines as usize).unwrap_or_default())
            }
        }
    }

    fn publish(&mut self) {
        let view = self.mesh.view();
        let before = self.dispatcher.routes();
        self.dispatcher.publish(routes(&view, &self.transport, &self.cross_region, &before));
        publish_metrics(&view);
        self.publish_region_rtts(&view);
        self.shared.view.store(Arc::new(view));
        self.dirty = false;
        self.published = Instant::now();
    }

    /// A pair that is not measured any more shows NaN, as Prometheus has it for "no value".
    fn publish_region_rtts(&mut self, view: &View) {
        for rtt in &view.regions {
            if self.region_pairs.len() < limits::REGION_PAIRS_MAX {
                self.region_pairs.insert(rtt.between.clone());
            }
        }
        for pair in &self.region_pairs {
            let rtt = view.regions.iter().find(|rtt| rtt.between == *pair);
            let (from, to) = pair.clone();
            metrics::gauge!("shoal_region_rtt_seconds", "from" => from, "to" => to)
                .set(rtt.map_or(f64::NAN, |rtt| rtt.rtt.as_secs_f64()));
        }
    }

    async fn shut_down(mut self) -> End {
        self.publish();
        tokio::join!(self.transport.shut_down(Refused::Stopping), self.discovery.stop());
        let end = self.end.take().unwrap_or(End::Stopped);
        self.inputs.close();
        // Nobody answers those who still wait: they hear that the node has stopped.
        self.shared.replies().clear();
        if let Err(error) = tokio::task::spawn_blocking(move || drop(self.store)).await {
            tracing::error!(%error, "the store did not close cleanly");
        }
        end
    }
}

fn committed((no, outcome): Outcome) -> Input {
    match outcome {
        Ok(()) => Input::Committed(no),
        Err(reason) => Input::CommitFailed { no, reason },
    }
}

/// The view as messages need it.
fn routes(view: &View, transport: &Transport, rule: &CrossRegion, before: &Routes) -> Routes {
    let members: HashMap<_, _> = view.members.iter().map(|(m, link)| (&m.card.node_id, (m, *link))).collect();
    let instance = |agent: &AgentView| {
        let member = members.get(&agent.node);
        let link = member.and_then(|(_, link)| *link);
        Instance {
            agent: agent.name.clone(),
            node: agent.node.clone(),
            status: agent.node_status,
            state: agent.record.state.clone(),
            way: match link.and_then(|link| transport.peer(link)) {
                _ if agent.node == view.own => Way::Here,
                Some(peer) => Way::Link(peer),
                None => Way::NoLink,
            },
            order: agent.record.order,
            is_open: agent.record.breaker.is_open(),
            region: member.map(|(m, _)| m.card.region.clone()).unwrap_or_default(),
            rtt: member.and_then(|(m, _)| m.expected_rtt),
            offer: agent.record.offer.clone(),
            on_call: agent.on_call,
            open: None,
            hash: 0,
        }
    };
    let own_region = members.get(&view.own).map_or("", |(own, _)| &own.card.region);
    let mut routes = Routes::new(view.agents.iter().map(instance), own_region, rule, before);
    (routes.stopping, routes.joined) = (view.stopping, view.joined);
    routes.ordered = view.ordered.clone();
    routes
}

fn publish_metrics(view: &View) {
    for status in MemberStatus::ALL {
        let count = view.members.iter().filter(|(m, _)| m.status == status).count();
        metrics::gauge!("shoal_cluster_nodes", "status" => status.as_str()).set(count as f64);
    }
    let routed = view.agents.iter().filter(|a| a.node_status.is_reachable()).count();
    metrics::gauge!("shoal_cluster_agents").set(routed as f64);
    let open = view.agents.iter().filter(|a| a.node == view.own && !a.record.breaker.is_closed()).count();
    metrics::gauge!("shoal_agent_breakers_open").set(open as f64);
    metrics::gauge!("shoal_cluster_mode").set(f64::from(view.mode as u8));
    metrics::gauge!("shoal_queue_writes").set(view.queued as f64);
    metrics::gauge!("shoal_state_keys").set(view.state_keys as f64);
    metrics::gauge!("shoal_outbox_messages").set(view.outbox as f64);
    metrics::gauge!("shoal_dead_letters").set(view.dead_letters as f64);
    metrics::gauge!("shoal_gossip_health").set(f64::from(view.health));
    let counters = view.counters;
    metrics::counter!("shoal_gossip_packets_dropped_total").absolute(counters.swim_packets_dropped);
    metrics::counter!("shoal_gossip_claims_dropped_total").absolute(counters.claims_dropped);
    metrics::counter!("shoal_gossip_records_dropped_total").absolute(counters.records_dropped);
    metrics::counter!("shoal_state_refused_total").absolute(counters.state_refused);
    metrics::counter!("shoal_state_held_back_total").absolute(counters.state_held_back);
    metrics::counter!("shoal_dead_letters_total").absolute(counters.letters_died);
    metrics::counter!("shoal_gossip_renewals_total").absolute(counters.renewals);
    metrics::counter!("shoal_gossip_crls_dropped_total").absolute(counters.crls_dropped);
    metrics::counter!("shoal_gossip_round_trips_refused_total").absolute(counters.round_trips_refused);
    metrics::counter!("shoal_gossip_coordinates_refused_total").absolute(counters.coordinates_refused);
    metrics::counter!("shoal_gossip_coordinate_resets_total").absolute(counters.coordinate_resets);
}

fn log_event(event: &Event) {
    match event {
        Event::Joined { mesh_id } => tracing::info!(%mesh_id, "joined"),
        Event::Member { node, status: MemberStatus::Suspect, reason } => {
            tracing::debug!(%node, reason, "member suspect");
        }
        Event::Member { node, status, reason } => tracing::info!(%node, %status, reason, "member"),
        Event::Agent { agent, node, state, reason: Some(reason) } => {
            tracing::warn!(%agent, %node, state, reason, "agent");
        }
        Event::Agent { agent, node, state, reason: None } => tracing::info!(%agent, %node, state, "agent"),
        Event::Breaker { agent, node, state, reason } => {
            tracing::info!(%agent, %node, state, reason, "breaker");
        }
        Event::LaunchHeld { agent, node, phase } => {
            tracing::warn!(%agent, %node, phase, "later phases wait: it has failed and is not optional");
        }
        Event::DuplicateNode { node, address } => {
            tracing::error!(%node, address, "a second live process claims this node id and was refused");
        }
        Event::Mode { from, to, reason } => tracing::info!(%from, %to, reason, "mode"),
        Event::Ticket { ticket, key, outcome, reason } => {
            tracing::debug!(%ticket, key, outcome, reason, "queued write");
        }
        Event::Ordered { agent, from, to, why } => {
            tracing::debug!(%agent, ?from, ?to, why, "ordered");
        }
        Event::Rollout { blueprint, version, what } => {
            tracing::info!(%blueprint, version, what, "rollout");
        }
        Event::Settled { agents, took_ms } => tracing::info!(agents, took_ms, "all that was ordered runs"),
        Event::Roster { epoch, voters, members } => tracing::info!(epoch, ?voters, members, "roster"),
        Event::Refused { peer, reason } => tracing::warn!(peer, reason, "refused"),
    }
}
