//! Runs agents. One behaviour seen from outside, several kinds inside: `native` (built in), `process` (an
//! executable, spoken to in JSON lines or HTTP) and `wasm` (a WebAssembly component).
//!
//! An agent has *runs*, numbered by who starts them. A run begins with [`Runtime::start`] and ends with one
//! report, [`AgentReport::Ended`] or [`AgentReport::Stopped`], before which [`AgentReport::Running`] comes at
//! most once. Whether and when an agent is started again is decided elsewhere; so is where a message goes.
//!
//! A message takes no lock on its way to an agent but that of the agent's own mailbox, and one agent's
//! slowness, noise or end touches no other: each run has its own tasks, mailbox, pipes and bounds.

mod agent;
mod breaker;
mod checks;
mod command;
mod http;
pub mod keeper;
mod launch;
mod lines;
mod log;
mod mailbox;
mod permit;
mod process;
mod protocol;
mod stdio;
mod usage;
#[cfg(feature = "wasm")]
mod wasm;
#[cfg(not(feature = "wasm"))]
#[path = "wasm_absent.rs"]
mod wasm;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};

use self::agent::{Agent, Intake, Run};
use self::launch::Process;
use self::mailbox::{Mailbox, Phase};
use self::permit::Permit;
pub use self::wasm::Kept as KeptModule;
use self::wasm::Wasm;
use crate::core::contract::AgentReport;
use crate::core::error::{Refusal, SendError};
use crate::core::ids::{AgentName, ModuleId, NodeId};
use crate::core::limits;
use crate::core::model::{
    AgentSource, AgentSpec, Answer, Confinement, Guarantee, MEASURED_AGENT, Message, Performative, Samples,
    Tally,
};
use crate::core::wire::{AgentStats, ModulePart, StateAnswer, StateRequest};

/// Takes what became of a message, exactly once. Runs on whatever task finishes the message, so it
/// must not block.
pub type Finish = Box<dyn FnOnce(Result<Option<Answer>, SendError>) + Send>;

/// A message on its way into an agent.
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// Whether `finish` wants the agent's answer (`true`), or only to hear that the message is in the mailbox.
    pub wants_answer: bool,
    /// Called exactly once, with `Ok(Some(answer))`, `Ok(None)` (in the mailbox, no answer was wanted) or the reason.
    pub finish: Finish,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, wants_answer, finish: _ } = self;
        f.debug_struct("Delivery")
            .field("message", message)
            .field("wants_answer", wants_answer)
            .finish_non_exhaustive()
    }
}

/// A message that an agent wants to send.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The agent that sends it.
    pub from: AgentName,
    /// Whom it is for, not yet parsed: the text of a [`Target`](crate::core::model::Target).
    pub to: String,
    /// Its speech act.
    pub performative: Performative,
    /// Its conversation.
    pub conversation_id: Option<String>,
    /// The message it answers.
    pub in_reply_to: Option<uuid::Uuid>,
    /// MIME type.
    pub content_type: String,
    /// Content; its bound is checked.
    pub content: bytes::Bytes,
    /// Time for an answer, or for the tries to deliver it, in milliseconds; `None` is the default.
    pub deadline_ms: Option<u32>,
    /// What is promised of a message without an answer.
    pub guarantee: Guarantee,
    /// By which it is shared out among instances.
    pub key: Option<String>,
    /// Hops of the message that caused this one, plus one.
    pub hops: u8,
}

/// What agents may do to the mesh; the dispatcher offers it.
///
/// Both are called in the order in which the agent wrote, and the futures are then awaited side by side: an
/// implementation that keeps order takes the message's place in it before it returns the future.
pub trait Outlet: Send + Sync + 'static {
    /// Sends a message; the result is that of its receipt.
    fn send(&self, draft: Draft) -> Pin<Box<dyn Future<Output = Result<(), SendError>> + Send>>;
    /// Sends a message and waits for the answer.
    fn ask(&self, draft: Draft) -> Pin<Box<dyn Future<Output = Result<Answer, SendError>> + Send>>;
}

/// What the nodes of a mesh have in common, as WASM agents need it; the node offers it.
pub trait Commons: Send + Sync + 'static {
    /// Asks this node about the state, or to write it.
    fn state(
        &self,
        request: StateRequest,
    ) -> Pin<Box<dyn Future<Output = Result<StateAnswer, Refusal>> + Send>>;
    /// The other nodes that can be asked now, the nearest first.
    fn peers(&self) -> Vec<NodeId>;
    /// Asks another node for a part of a module.
    fn module_part(
        &self,
        node: NodeId,
        module: ModuleId,
        offset: u64,
    ) -> Pin<Box<dyn Future<Output = Result<ModulePart, Refusal>> + Send>>;
}

/// What the runtime must know.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// This node.
    pub node: NodeId,
    /// The executable with the `keeper` subcommand: the node's own.
    pub keeper: PathBuf,
    /// The working directory of process agents. It must exist; agents share it.
    pub directory: PathBuf,
    /// Where the modules of WASM agents are kept. It is made when the first comes in.
    pub modules: PathBuf,
}

/// Takes reports: which agent, which run, what. Must not block.
type Reports = Arc<dyn Fn(AgentName, u64, AgentReport) + Send + Sync>;

/// The agents of one node. A clone is another handle to the same agents.
#[derive(Clone)]
pub struct Runtime(Arc<Ground>);

/// The reader of agents' lines, for the fuzzer alone.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// Reads a line as if an agent had written it; whether it was understood.
    #[must_use]
    pub fn line(line: &[u8]) -> bool {
        super::protocol::parse(line).is_ok()
    }
}

/// What all agents of a node stand on.
struct Ground {
    config: RuntimeConfig,
    reports: Reports,
    outlet: OnceLock<Arc<dyn Outlet>>,
    commons: OnceLock<Arc<dyn Commons>>,
    wasm: Wasm,
    /// Answers messages that measure the way to this node. It is no agent: nobody deploys, lists or stops it.
    measured: Arc<Agent>,
    agents: ArcSwap<HashMap<AgentName, Arc<Agent>>>,
    /// Of exclusive agents: told before such a one is started.
    permits: Mutex<HashMap<AgentName, Arc<Permit>>>,
    /// Held while `agents`, or the run of one, is exchanged; never over an await.
    changing: Mutex<()>,
    /// Runs that are not over.
    live: watch::Sender<usize>,
    is_stopping: AtomicBool,
    /// Processes that may be started at this moment: few, so that the node stays responsive while thousands come back.
    starts: Semaphore,
    /// Ports given to HTTP agents.
    ports: Arc<Mutex<HashSet<u16>>>,
    /// What process agents see of the node's environment.
    environment: Vec<(OsString, OsString)>,
    /// Where commands without a path are looked up.
    path: OsString,
    tokio: tokio::runtime::Handle,
}

/// What process agents see of the node's own environment, besides `PATH`.
const ENVIRONMENT: [&str; 3] = ["HOME", "LANG", "TMPDIR"];
/// `PATH`, where the node has none.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

impl Runtime {
    /// A runtime without agents. Must be called inside a tokio runtime, which runs the agents' tasks.
    ///
    /// `reports` hears of each run what the core wants to know; it is called on the agents' tasks.
    #[must_use]
    pub fn new(
        config: RuntimeConfig,
        reports: impl Fn(AgentName, u64, AgentReport) + Send + Sync + 'static,
    ) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into());
        let kept =
            ENVIRONMENT.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
        let environment = kept.chain([("PATH".into(), path.clone())]).collect();
        let reports: Reports = Arc::new(reports);
        let ground = Arc::new(Ground {
            wasm: Wasm::new(config.modules.clone()),
            measured: Arc::new(measured(config.node.clone(), Arc::clone(&reports))),
            config,
            reports,
            outlet: OnceLock::new(),
            commons: OnceLock::new(),
            agents: ArcSwap::default(),
            permits: Mutex::default(),
            changing: Mutex::new(()),
            live: watch::Sender::new(0),
            is_stopping: AtomicBool::new(false),
            starts: Semaphore::new(limits::AGENT_STARTS_MAX),
            ports: Arc::default(),
            environment,
            path,
            tokio: tokio::runtime::Handle::current(),
        });
        tokio::spawn(sweep(Arc::downgrade(&ground)));
        Self(ground)
    }

    /// Lets agents send. Until then they are told that the node does not carry messages yet. Only the first call counts.
    pub fn set_outlet(&self, outlet: Arc<dyn Outlet>) {
        let _ = self.0.outlet.set(outlet);
    }

    /// Lets WASM agents use the state, and modules come from peers. Only the first call counts.
    pub fn set_commons(&self, commons: Arc<dyn Commons>) {
        let _ = self.0.commons.set(commons);
    }

    /// Takes in a WASM module and keeps it, if it is a component that can be an agent.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence; it is not kept.
    pub async fn put_module(&self, bytes: bytes::Bytes) -> Result<ModuleId, String> {
        self.0.wasm.put(bytes).await
    }

    /// A part of a module of this node. May block on the disk.
    ///
    /// # Errors
    /// Why there is none, in one sentence.
    pub fn module_part(&self, module: &ModuleId, offset: u64) -> Result<ModulePart, String> {
        self.0.wasm.part(module, offset)
    }

    /// The modules of this node, each with whether an agent of it uses it.
    ///
    /// # Errors
    /// What the disk said, in one sentence.
    pub async fn modules(&self) -> Result<Vec<(KeptModule, bool)>, String> {
        let kept = self.0.wasm.list().await?;
        let in_use = self.0.modules_in_use();
        let told = |kept: KeptModule| {
            let is_used = in_use.contains(&kept.module);
            (kept, is_used)
        };
        Ok(kept.into_iter().map(told).collect())
    }

    /// Removes the modules that no agent uses and that were not touched for `unused_max`, as the node does now and then.
    pub async fn collect_modules(&self, unused_max: Duration) {
        self.0.wasm.collect(self.0.modules_in_use(), unused_max).await;
    }

    /// Starts a run of an agent, and returns at once. The run's reports tell what comes of it; also when it
    /// is refused, because the specification is wrong, an earlier run is not over or the node is full.
    pub fn start(&self, spec: AgentSpec, run: u64) {
        let ground = Arc::clone(&self.0);
        match ground.admit(&spec, run) {
            Ok((agent, run)) => {
                let checks = spec.care.health.map(|check| {
                    let check =
                        checks::check(Arc::downgrade(&ground), Arc::clone(&agent), Arc::clone(&run), check);
                    AbortOnDrop(self.0.tokio.spawn(check))
                });
                let permit = run.permit.clone().map(|permit| {
                    let run = Arc::clone(&run);
                    AbortOnDrop(self.0.tokio.spawn(async move {
                        permit.over().await;
                        run.stop.send_replace(Some(Duration::ZERO));
                    }))
                });
                let reason = "its node stopped".to_owned();
                let guard = RunGuard {
                    ground,
                    agent,
                    run,
                    reason,
                    is_fault: false,
                    _checks: checks,
                    _permit: permit,
                };
                self.0.tokio.spawn(live(guard, spec.source, spec.limits));
            }
            Err(reason) => {
                let report = AgentReport::Ended { reason };
                self.0.tokio.spawn(async move { ground.report(&spec.name, run, report) });
            }
        }
    }

    /// Stops a run: it takes nothing new, has `drain` (an hour at most) to finish what it has, and is then
    /// ended. A second call can shorten that, not lengthen it. Returns at once; the report is [`AgentReport::Stopped`], also when that run is over or never was.
    pub fn stop(&self, agent: &AgentName, run: u64, drain: Duration) {
        if let Some(agent) = self.0.agents.load().get(agent) {
            let current = agent.run.load();
            if current.number == run && current.phase() != Phase::Ended {
                current.stop.send_replace(Some(drain));
                return;
            }
        }
        let (ground, agent) = (Arc::clone(&self.0), agent.clone());
        self.0.tokio.spawn(async move { ground.report(&agent, run, AgentReport::Stopped) });
    }

    /// Until when an exclusive agent may run, by [`boot_nanos`](super::clock::boot_nanos). Told before it is started, and again and
    /// again while it is to go on.
    pub fn permit(&self, agent: &AgentName, until: u64) {
        {
            let mut permits = self.0.permits.lock().unwrap_or_else(PoisonError::into_inner);
            match permits.get(agent) {
                Some(permit) => permit.extend(until),
                None => {
                    permits.retain(|_, permit| permit.holds());
                    permits.insert(agent.clone(), Permit::new(until));
                }
            }
        }
        if let Some(agent) = self.0.agents.load().get(agent)
            && let Intake::Mailbox(mailbox) = &agent.run.load().intake
        {
            mailbox.arrived.notify_one();
        }
    }

    /// Gives a message to an agent, and returns at once. `finish` is called exactly once: by this call, when
    /// the agent is unknown, not running, full or native; later otherwise.
    pub fn deliver(&self, agent: &AgentName, delivery: Delivery) {
        let agents = self.0.agents.load();
        if let Some(agent) = agents.get(agent) {
            let agent = Arc::clone(agent);
            // `finish` may call back into the runtime: nothing is held while it runs.
            drop(agents);
            return agent.deliver(delivery);
        }
        drop(agents);
        if *agent == self.0.measured.name {
            return self.0.measured.deliver(delivery);
        }
        (delivery.finish)(Err(SendError::UnknownAgent { agent: agent.clone() }));
    }

    /// What fresh instances of a small WASM agent took to be made and to answer their first message, one after another.
    pub async fn measure_wasm_starts(&self) -> Samples {
        wasm::measure_starts(&self.0).await
    }

    /// What is measured of an agent.
    #[must_use]
    pub fn stats(&self, agent: &AgentName) -> Option<AgentStats> {
        self.0.agents.load().get(agent).map(|agent| agent.stats())
    }

    /// What became of the messages of these agents; of each that there is.
    #[must_use]
    pub fn tallies(&self, of: Vec<AgentName>) -> BTreeMap<AgentName, Tally> {
        let agents = self.0.agents.load();
        let found =
            of.into_iter().filter_map(|name| agents.get(&name).map(|agent| agent.tally()).map(|t| (name, t)));
        found.collect()
    }

    /// The last lines of an agent's log, oldest first, safe to show on a terminal. They outlive a run.
    #[must_use]
    pub fn logs(&self, agent: &AgentName, lines: usize) -> Option<Vec<String>> {
        self.0.agents.load().get(agent).map(|agent| agent.log.last(lines))
    }

    /// Forgets an agent's log and counters, once its run is over. One that is not over stays.
    pub fn forget(&self, agent: &AgentName) {
        let ground = &self.0;
        let _changing = ground.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut agents = HashMap::clone(&ground.agents.load());
        if agents.get(agent).is_some_and(|agent| agent.run.load().phase() == Phase::Ended) {
            agents.remove(agent);
            ground.agents.store(Arc::new(agents));
            ground.permits.lock().unwrap_or_else(PoisonError::into_inner).remove(agent);
        }
    }

    /// Runs that are not over.
    #[must_use]
    pub fn count(&self) -> usize {
        *self.0.live.borrow()
    }

    /// Stops every run, each with `drain` to finish what it has, and waits until all are over. Nothing starts any more.
    pub async fn stop_all(&self, drain: Duration) {
        let agents = {
            let _changing = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.is_stopping.store(true, Ordering::Release);
            self.0.agents.load_full()
        };
        for agent in agents.values() {
            agent.run.load().stop.send_replace(Some(drain));
        }
        let mut live = self.0.live.subscribe();
        let _ = live.wait_for(|count| *count == 0).await;
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("config", &self.0.config)
            .field("live", &self.count())
            .finish_non_exhaustive()
    }
}

/// What answers measurements, and runs from the beginning.
fn measured(node: NodeId, reports: Reports) -> Agent {
    let name = AgentName::new(MEASURED_AGENT).expect("it is a name");
    let spec = AgentSpec::new(name.clone(), AgentSource::Native { builtin: "echo".to_owned() });
    let run = Run::new(0, &spec, None);
    run.become_phase(Phase::Running);
    Agent::new(name, node, run, reports)
}

/// Looks for modules that nobody uses. Agents that come back with their node are there long before the first look.
async fn sweep(ground: Weak<Ground>) {
    let mut pause = limits::MODULE_UNUSED_MAX;
    loop {
        tokio::time::sleep(pause).await;
        let Some(ground) = ground.upgrade() else { return };
        ground.wasm.collect(ground.modules_in_use(), limits::MODULE_UNUSED_MAX).await;
        pause = limits::MODULE_SWEEP_INTERVAL;
    }
}

/// The mailbox of a run that has one: see [`Run::new`].
fn mailbox_of(run: &Run) -> &Mailbox {
    match &run.intake {
        Intake::Mailbox(mailbox) => mailbox,
        Intake::Echo(_) => unreachable!("only runs with a mailbox have tasks that take from it"),
    }
}

impl Ground {
    fn modules_in_use(&self) -> HashSet<ModuleId> {
        self.agents.load().values().filter_map(|agent| agent.run.load().module).collect()
    }

    fn report(&self, agent: &AgentName, run: u64, report: AgentReport) {
        match &report {
            AgentReport::Ended { reason } => tracing::warn!(%agent, run, reason, "agent ended"),
            AgentReport::Running => tracing::info!(%agent, run, "agent runs"),
            AgentReport::Checked { found } if found.is_failure() => {
                tracing::warn!(%agent, run, found = found.as_str(), why = found.why(), "a health check failed");
            }
            AgentReport::Checked { found } => {
                tracing::debug!(%agent, run, found = found.as_str(), why = found.why(), "health check");
            }
            AgentReport::Breaker(turn) => tracing::info!(%agent, run, %turn, "breaker"),
            AgentReport::Stopped => tracing::info!(%agent, run, "agent stopped"),
        }
        if report == AgentReport::Running
            && let Some(agent) = self.agents.load().get(agent)
        {
            agent.breaker.renew();
        }
        (self.reports)(agent.clone(), run, report);
    }

    /// The permit of an agent that needs one.
    fn permit_of(&self, spec: &AgentSpec) -> Result<Option<Arc<Permit>>, String> {
        if !spec.exclusive {
            return Ok(None);
        }
        let permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        let permit = permits.get(&spec.name).filter(|permit| permit.holds()).cloned();
        permit.map(Some).ok_or_else(|| "it is exclusive, and there is no permit for it".to_owned())
    }

    /// Makes the run the one that takes the agent's messages.
    fn admit(&self, spec: &AgentSpec, number: u64) -> Result<(Arc<Agent>, Arc<Run>), String> {
        spec.check()?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopping.load(Ordering::Acquire) {
            return Err("the node is stopping".to_owned());
        }
        let run = Run::new(number, spec, self.permit_of(spec)?);
        let agents = self.agents.load();
        let agent = if let Some(agent) = agents.get(&spec.name) {
            if agent.run.load().phase() != Phase::Ended {
                return Err("an earlier run of it is not over: stop it first".to_owned());
            }
            agent.run.store(Arc::new(run));
            Arc::clone(agent)
        } else {
            if agents.len() >= limits::AGENTS_PER_NODE_MAX {
                return Err(format!(
                    "the node has {} agents, which is the most",
                    limits::AGENTS_PER_NODE_MAX
                ));
            }
            let agent = Arc::new(Agent::new(
                spec.name.clone(),
                self.config.node.clone(),
                run,
                Arc::clone(&self.reports),
            ));
            let mut agents = HashMap::clone(&agents);
            agents.insert(spec.name.clone(), Arc::clone(&agent));
            self.agents.store(Arc::new(agents));
            agent
        };
        self.live.send_modify(|count| *count += 1);
        let run = agent.run.load_full();
        Ok((agent, run))
    }
}

/// One run from admission to end.
async fn live(mut guard: RunGuard, source: AgentSource, limits: Confinement) {
    let (ground, agent, run) = (Arc::clone(&guard.ground), Arc::clone(&guard.agent), Arc::clone(&guard.run));
    let report = match source {
        AgentSource::Native { .. } => {
            run.become_phase(Phase::Running);
            ground.report(&agent.name, run.number, AgentReport::Running);
            // It answers on the tasks of those who send to it, so it has nothing to finish.
            let _ = run.stop.subscribe().wait_for(Option::is_some).await;
            AgentReport::Stopped
        }
        AgentSource::Process { protocol, command, args } => {
            process::supervise(&ground, &agent, &run, Process { protocol, command, args, limits }).await
        }
        AgentSource::Wasm(source) => wasm::supervise(&ground, &agent, &run, source).await,
    };
    guard.reason = match &report {
        AgentReport::Ended { reason } => reason.clone(),
        AgentReport::Stopped
        | AgentReport::Running
        | AgentReport::Checked { .. }
        | AgentReport::Breaker(_) => "it was stopped before it answered".to_owned(),
    };
    guard.is_fault = matches!(report, AgentReport::Ended { .. });
    // Who hears the report may start the next run at once.
    guard.close();
    ground.report(&agent.name, run.number, report);
}

/// Ends a run's books, however its task ends: nobody is left waiting for an answer.
struct RunGuard {
    ground: Arc<Ground>,
    agent: Arc<Agent>,
    run: Arc<Run>,
    /// Why what it was given has no answer.
    reason: String,
    /// Whether that speaks against the agent.
    is_fault: bool,
    _checks: Option<AbortOnDrop>,
    _permit: Option<AbortOnDrop>,
}

/// A task that is not to outlive its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RunGuard {
    fn close(&self) {
        self.agent.abandon(&self.run, &self.reason, self.is_fault);
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        self.close();
        self.ground.live.send_modify(|count| *count -= 1);
    }
}
