//! The JSON of agents: what one is made of, what is known of one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Breaker, Check, HealthCheck, Restart, WasmSource};
use crate::core::ids::{AgentName, NodeId, Tag};
use crate::core::model::{self, AgentSource, Balance, Offer, ProcessProtocol};
use crate::core::wire::AgentStats;
use crate::node::config::schema_text;

/// One agent on one node: an element of `GET /v1/agents`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// The node it is on.
    pub node: NodeId,
    /// `native`, `stdio` or `http`.
    pub kind: String,
    /// `starting`, `running`, `draining`, `restarting`, `quarantined` or `failed`, as its node last said.
    pub state: String,
    /// Why it is in that state, where there is something to say.
    pub reason: Option<String>,
    /// How often it was started again since it was deployed or its node started.
    pub restarts: u32,
    /// Whether its node is alive or suspect.
    pub reachable: bool,
    /// What it can do.
    #[serde(default)]
    pub capabilities: BTreeSet<Tag>,
    /// What it listens to.
    #[serde(default)]
    pub topics: BTreeSet<Tag>,
    /// `healthy`, `degraded` or `unhealthy`, by the checks of its node; null when nothing was checked.
    #[serde(default)]
    pub health: Option<String>,
    /// What the last check found; null when all was well.
    #[serde(default)]
    pub health_why: Option<String>,
    /// `closed`, `open` or `half-open`; null of a node of an earlier version.
    #[serde(default)]
    pub breaker_state: Option<String>,
    /// What failed last; null while the breaker is closed.
    #[serde(default)]
    pub breaker_why: Option<String>,
    /// What it depends on.
    #[serde(default)]
    pub depends_on: BTreeSet<AgentName>,
    /// What its start waits for; `reason` tells it as well.
    #[serde(default)]
    pub waits: Option<String>,
}

/// `POST /v1/agents`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// Its name, free on that node.
    pub name: AgentName,
    /// On which node; the asked one when null.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// What it is made of.
    pub source: Source,
    /// What it can do: `cap:NAME` finds it.
    #[serde(default)]
    pub capabilities: BTreeSet<Tag>,
    /// What it listens to: `topic:NAME` reaches it.
    #[serde(default)]
    pub topics: BTreeSet<Tag>,
    /// How its instances share its messages: `round-robin`, `least-inflight` or `key-hash`.
    #[serde(default)]
    pub balance: Balance,
    /// What it can be asked to do.
    #[serde(default)]
    pub tools: Vec<Tool>,
    /// How its health is checked; null: only its end tells that something is wrong.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// When it is started again; null: as its node's recovery rules say, or as usual.
    #[serde(default)]
    pub restart: Option<Restart>,
    /// When those who ask it are spared their wait; null: likewise.
    #[serde(default)]
    pub breaker: Option<Breaker>,
    /// When it is started.
    #[serde(default)]
    pub launch: Launch,
    /// What its processes may use.
    #[serde(default)]
    pub limits: Confinement,
}

/// What the processes of an agent may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Confinement {
    /// Open files of each; null: 1024.
    pub files: Option<u64>,
    /// Bytes of address space of each; null: no bound of its own.
    pub memory_bytes: Option<u64>,
    /// Processes and threads of the node's user with which the agent starts no more; null: no bound of its own.
    pub processes: Option<u64>,
}

impl From<Confinement> for model::Confinement {
    fn from(limits: Confinement) -> Self {
        let Confinement { files, memory_bytes, processes } = limits;
        Self { files, memory_bytes, processes }
    }
}

impl From<model::Confinement> for Confinement {
    fn from(limits: model::Confinement) -> Self {
        let model::Confinement { files, memory_bytes, processes } = limits;
        Self { files, memory_bytes, processes }
    }
}

/// One thing that an agent can be asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Its name.
    pub name: Tag,
    /// What it does.
    #[serde(default)]
    pub description: String,
    /// What it takes: a JSON Schema, which is an object.
    #[serde(default = "any_schema")]
    pub schema: serde_json::Value,
}

fn any_schema() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}

impl Tool {
    /// What it means.
    ///
    /// # Errors
    /// A sentence: its schema can be none.
    pub fn into_model(self) -> Result<model::Tool, String> {
        let Self { name, description, schema } = self;
        let schema = schema_text(&schema).map_err(|why| format!("the schema of the tool {name}: {why}"))?;
        Ok(model::Tool { name, description, schema })
    }
}

impl From<model::Tool> for Tool {
    fn from(tool: model::Tool) -> Self {
        let model::Tool { name, description, schema } = tool;
        // One that is no JSON came from a node that does not check; it is shown as the text that it is.
        let schema = serde_json::from_str(&schema).unwrap_or(serde_json::Value::String(schema));
        Self { name, description, schema }
    }
}

/// When an agent is started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Launch {
    /// A node that starts starts its agents phase by phase, the lowest first.
    pub phase: i32,
    /// It is started once these run, here or elsewhere.
    pub depends_on: BTreeSet<AgentName>,
    /// Whether the next phase begins also when it could not be started.
    pub optional: bool,
    /// After so long a start that is not over has failed; null: 10 s.
    pub start_timeout_ms: Option<u32>,
}

impl From<Launch> for model::Launch {
    fn from(launch: Launch) -> Self {
        let Launch { phase, depends_on, optional, start_timeout_ms: timeout_ms } = launch;
        Self { phase, depends_on, optional, timeout_ms }
    }
}

impl From<model::Launch> for Launch {
    fn from(launch: model::Launch) -> Self {
        let model::Launch { phase, depends_on, optional, timeout_ms: start_timeout_ms } = launch;
        Self { phase, depends_on, optional, start_timeout_ms }
    }
}

impl Deploy {
    /// An agent that is found by its name alone and looked after as usual.
    #[must_use]
    pub fn new(name: AgentName, node: Option<NodeId>, source: Source) -> Self {
        let Offer { capabilities, topics, balance } = Offer::default();
        Self {
            name,
            node,
            source,
            capabilities,
            topics,
            balance,
            tools: Vec::new(),
            health: None,
            restart: None,
            breaker: None,
            launch: Launch::default(),
            limits: Confinement::default(),
        }
    }

    /// What the agent offers.
    #[must_use]
    pub fn offer(&self) -> Offer {
        let Self { capabilities, topics, balance, .. } = self;
        Offer { capabilities: capabilities.clone(), topics: topics.clone(), balance: *balance }
    }
}

/// What an agent is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
pub enum Source {
    /// Built into the binary.
    Native {
        /// Which one: `echo`.
        builtin: String,
    },
    /// An executable on the node's machine.
    Process {
        /// How it is spoken to.
        protocol: Protocol,
        /// Absolute path, or a name that the node looks up in its `PATH`.
        command: String,
        /// Its arguments.
        #[serde(default)]
        args: Vec<String>,
    },
    /// A WebAssembly component.
    Wasm(WasmSource),
}

/// How a process agent is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// JSON lines on stdin and stdout.
    Stdio,
    /// HTTP on loopback at the port given in `PORT`.
    Http,
}

impl From<ProcessProtocol> for Protocol {
    fn from(protocol: ProcessProtocol) -> Self {
        match protocol {
            ProcessProtocol::Stdio => Self::Stdio,
            ProcessProtocol::Http => Self::Http,
        }
    }
}

/// Names an agent on a node: the answer to a deploy and to a stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRef {
    /// The agent.
    pub name: AgentName,
    /// Its node.
    pub node: NodeId,
    /// Of one that was deployed and is not started yet: what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

/// `GET /v1/agents/{name}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Its name.
    pub name: AgentName,
    /// The node it is on.
    pub node: NodeId,
    /// What it is made of.
    pub source: Source,
    /// As in [`Deploy`].
    #[serde(default)]
    pub capabilities: BTreeSet<Tag>,
    /// As in [`Deploy`].
    #[serde(default)]
    pub topics: BTreeSet<Tag>,
    /// As in [`Deploy`].
    #[serde(default)]
    pub balance: Balance,
    /// As in [`Deploy`].
    #[serde(default)]
    pub tools: Vec<Tool>,
    /// As in [`Deploy`].
    #[serde(default)]
    pub check: Option<HealthCheck>,
    /// As it holds on its node, by whatever says so; null of a node of an earlier version.
    #[serde(default)]
    pub restart: Option<Restart>,
    /// As in [`Agent`].
    #[serde(default)]
    pub health: Option<String>,
    /// As in [`Agent`].
    #[serde(default)]
    pub health_why: Option<String>,
    /// As `restart`.
    #[serde(default)]
    pub breaker: Option<Breaker>,
    /// As in [`Agent`].
    #[serde(default)]
    pub breaker_state: Option<String>,
    /// What failed last; null while nothing has failed since the last answer.
    #[serde(default)]
    pub breaker_why: Option<String>,
    /// Failures in a row while its breaker is closed.
    #[serde(default)]
    pub breaker_failures: u32,
    /// As in [`Deploy`].
    #[serde(default)]
    pub launch: Launch,
    /// As in [`Deploy`].
    #[serde(default)]
    pub limits: Confinement,
    /// When it is tried again; null while messages go through.
    #[serde(default)]
    pub breaker_retry_ms: Option<u64>,
    /// The last hundred checks of its health, oldest first.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// Whether it is there because of a manifest in its node's `--agents-dir`.
    #[serde(default)]
    pub of_folder: bool,
    /// The blueprint of which it is an instance; null of an agent that no blueprint wants.
    #[serde(default)]
    pub ordered_by: Option<OrderedBy>,
    /// As in [`Agent`]; null while the asked node has not heard of the agent's state.
    pub state: Option<String>,
    /// As in [`Agent`].
    pub reason: Option<String>,
    /// As in [`Agent`]; null as `state`.
    pub restarts: Option<u32>,
    /// Operating-system process; null where it has none.
    pub pid: Option<u32>,
    /// Since it last became `running`.
    pub uptime_seconds: u64,
    /// Messages handled or failed since its node started.
    pub requests: u64,
    /// Messages that ended in an error.
    pub errors: u64,
    /// Messages waiting in its mailbox.
    pub waiting: u64,
    /// From the arrival of a message to its answer, on average since its node started; null before the first, and of `native`.
    #[serde(default)]
    pub mean_seconds: Option<f64>,
    /// CPU time of its process since that started; null where it has none.
    #[serde(default)]
    pub cpu_seconds: Option<f64>,
    /// Bytes of memory that its process holds; null where it has none.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
}

/// Why a node runs an instance of a blueprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderedBy {
    /// The blueprint.
    pub blueprint: AgentName,
    /// The version of it that was ordered; null where the asked node does not keep that, or has not heard of it.
    pub version: Option<u64>,
    /// Which order it is; null likewise.
    pub epoch: Option<String>,
}

impl AgentInfo {
    /// Puts together what the agent's node says and what the asked node has heard.
    #[must_use]
    pub fn new(node: NodeId, spec: model::AgentSpec, stats: &AgentStats, heard: Option<Agent>) -> Self {
        let (health, health_why) =
            heard.as_ref().map_or((None, None), |agent| (agent.health.clone(), agent.health_why.clone()));
        let breaker_state = heard.as_ref().and_then(|agent| agent.breaker_state.clone());
        let breaker = stats.breaker.clone().unwrap_or_default();
        let (state, restarts, reason) = match heard {
            Some(agent) => (Some(agent.state), Some(agent.restarts), agent.reason),
            None => (None, None, None),
        };
        Self {
            name: spec.name,
            node,
            source: spec.source.into(),
            capabilities: spec.offer.capabilities,
            topics: spec.offer.topics,
            balance: spec.offer.balance,
            tools: spec.tools.into_iter().map(Tool::from).collect(),
            check: spec.care.health.clone().map(HealthCheck::from),
            restart: Some(spec.care.restart().into()),
            breaker: Some(spec.care.breaker().into()),
            breaker_state,
            breaker_why: Some(breaker.why).filter(|why| !why.is_empty()),
            breaker_failures: breaker.failures,
            launch: spec.launch.into(),
            limits: spec.limits.into(),
            breaker_retry_ms: breaker.retry_ms,
            health,
            health_why,
            checks: stats.checks.iter().map(Check::from).collect(),
            of_folder: spec.of_folder,
            ordered_by: None,
            state,
            reason,
            restarts,
            pid: stats.pid,
            uptime_seconds: stats.uptime_seconds,
            requests: stats.requests,
            errors: stats.errors,
            waiting: stats.waiting,
            mean_seconds: (stats.answered > 0)
                .then(|| stats.answer_micros as f64 / 1e6 / stats.answered as f64),
            cpu_seconds: stats.cpu_ms.map(|ms| ms as f64 / 1e3),
            memory_bytes: stats.memory_bytes,
        }
    }
}

/// `GET /v1/agents/{name}/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// The agent.
    pub name: AgentName,
    /// Its node.
    pub node: NodeId,
    /// Oldest first, without line ends.
    pub lines: Vec<String>,
}

impl From<Source> for AgentSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Native { builtin } => Self::Native { builtin },
            Source::Process { protocol, command, args } => {
                let protocol = match protocol {
                    Protocol::Stdio => ProcessProtocol::Stdio,
                    Protocol::Http => ProcessProtocol::Http,
                };
                Self::Process { protocol, command, args }
            }
            Source::Wasm(source) => Self::Wasm(source.into()),
        }
    }
}

impl From<AgentSource> for Source {
    fn from(source: AgentSource) -> Self {
        match source {
            AgentSource::Native { builtin } => Self::Native { builtin },
            AgentSource::Process { protocol, command, args } => {
                Self::Process { protocol: protocol.into(), command, args }
            }
            AgentSource::Wasm(source) => Self::Wasm(source.into()),
        }
    }
}

impl From<&model::AgentView> for Agent {
    fn from(view: &model::AgentView) -> Self {
        Self {
            name: view.name.clone(),
            node: view.node.clone(),
            kind: view.record.kind.clone(),
            state: view.record.state.as_str().to_owned(),
            reason: view.record.reason(),
            restarts: view.record.restarts,
            reachable: view.node_status.is_reachable(),
            capabilities: view.record.offer.capabilities.clone(),
            topics: view.record.offer.topics.clone(),
            health: Some(&view.record.health).filter(|h| !h.is_unchecked()).map(|h| h.as_str().to_owned()),
            health_why: view.record.health.why().map(str::to_owned),
            breaker_state: Some(view.record.breaker.as_str().to_owned()),
            depends_on: view.record.depends_on.clone(),
            waits: view.record.waits.clone(),
            breaker_why: view.record.breaker.why().map(str::to_owned),
        }
    }
}
