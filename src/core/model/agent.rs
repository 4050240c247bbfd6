//! Agents: what one is made of, what should run, and what its node says of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    BreakerState, Care, Confinement, Health, Launch, MemberStatus, Offer, OrderEpoch, Tool, WasmSource,
};
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;

/// The name at which every node answers the messages that measure a route. No agent can have it.
pub const MEASURED_AGENT: &str = "shoal-performance";

/// How a process agent is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessProtocol {
    /// JSON lines on stdin and stdout.
    Stdio,
    /// HTTP on loopback at the port given in `PORT`.
    Http,
}

/// What an agent is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum AgentSource {
    /// Built into the binary.
    Native {
        /// Which one: `echo`.
        builtin: String,
    },
    /// An executable on the node's machine.
    Process {
        /// How it is spoken to.
        protocol: ProcessProtocol,
        /// Absolute path, or a name that the node looks up in its `PATH`.
        command: String,
        /// Its arguments.
        args: Vec<String>,
    },
    /// A WebAssembly component.
    Wasm(WasmSource),
}

impl AgentSource {
    /// The word that users see: `native`, `stdio`, `http` or `wasm`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Native { .. } => "native",
            Self::Process { protocol: ProcessProtocol::Stdio, .. } => "stdio",
            Self::Process { protocol: ProcessProtocol::Http, .. } => "http",
            Self::Wasm(_) => "wasm",
        }
    }
}

/// What should run: an agent's name and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// Its name; messages are addressed to it.
    pub name: AgentName,
    /// What it is made of.
    pub source: AgentSource,
    /// What it offers.
    #[serde(default, skip_serializing_if = "Offer::is_plain")]
    pub offer: Offer,
    /// What it can be asked to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// How it is looked after.
    #[serde(default, skip_serializing_if = "Care::is_default")]
    pub care: Care,
    /// When it is started.
    #[serde(default, skip_serializing_if = "Launch::is_default")]
    pub launch: Launch,
    /// What its processes may use. Only of process agents.
    #[serde(default, skip_serializing_if = "Confinement::is_default")]
    pub limits: Confinement,
    /// Whether it is there because of a manifest in the node's folder, which its end follows as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_folder: bool,
    /// Whether it must never run twice at a time: it runs under a permit. Only instances of a blueprint can.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclusive: bool,
}

impl AgentSpec {
    /// An agent that is found by its name alone and looked after as usual.
    #[must_use]
    pub fn new(name: AgentName, source: AgentSource) -> Self {
        let (offer, care, launch, limits) = Default::default();
        let (of_folder, exclusive) = (false, false);
        Self { name, source, offer, tools: Vec::new(), care, launch, limits, of_folder, exclusive }
    }

    /// Checks the bounds of a specification.
    ///
    /// # Errors
    /// A sentence for the person who deploys it.
    pub fn check(&self) -> Result<(), String> {
        if self.name.as_str() == MEASURED_AGENT {
            return Err(format!("the name {MEASURED_AGENT} is kept for measurements: choose another"));
        }
        self.offer.check()?;
        Tool::check_all(&self.tools)?;
        let speaks_http = matches!(self.source, AgentSource::Process { protocol: ProcessProtocol::Http, .. });
        self.care.check(speaks_http)?;
        self.launch.check(&self.name)?;
        self.limits.check()?;
        if !self.limits.is_default() && !matches!(self.source, AgentSource::Process { .. }) {
            return Err("limits are for process agents: what bounds a component is in its source".to_owned());
        }
        match &self.source {
            AgentSource::Native { builtin } if builtin == "echo" => Ok(()),
            AgentSource::Native { builtin } => {
                Err(format!("there is no built-in agent {builtin:?}: the only one is `echo`"))
            }
            AgentSource::Process { command, args, .. } => {
                let bytes = command.len() + args.iter().map(String::len).sum::<usize>();
                if command.is_empty() {
                    return Err("the agent's command is empty".to_owned());
                }
                if args.len() > limits::AGENT_ARGS_MAX || bytes > limits::AGENT_ARGS_BYTES_MAX {
                    return Err(format!(
                        "the agent's command is too long: at most {} arguments and {} bytes",
                        limits::AGENT_ARGS_MAX,
                        limits::AGENT_ARGS_BYTES_MAX
                    ));
                }
                if command.contains('\0') || args.iter().any(|a| a.contains('\0')) {
                    return Err("the agent's command has a NUL byte".to_owned());
                }
                Ok(())
            }
            AgentSource::Wasm(source) => source.check(),
        }
    }
}

/// Where an agent is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum AgentState {
    /// Its process is being started.
    Starting,
    /// It takes messages.
    Running,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// It ended unexpectedly, was found unhealthy, or somebody wants it started anew: it is being ended, or waits for
    /// its next start.
    Restarting {
        /// Why.
        reason: String,
    },
    /// It could not be started, or came to its end too often.
    Failed {
        /// Why.
        reason: String,
        /// Whether all attempts to start it again were made: it waits for an operator.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        quarantined: bool,
    },
}

impl AgentState {
    /// The word that users see.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Restarting { .. } => "restarting",
            Self::Failed { quarantined: true, .. } => "quarantined",
            Self::Failed { quarantined: false, .. } => "failed",
        }
    }

    /// Why it is in that state, where there is something to say.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Restarting { reason } | Self::Failed { reason, .. } => Some(reason),
            Self::Starting | Self::Running | Self::Draining => None,
        }
    }
}

/// What a node publishes about one of its agents, as `_owned/<node>/agents/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// `native`, `stdio` or `http`.
    pub kind: String,
    /// Where it is in its life.
    pub state: AgentState,
    /// How often it was started again since it was deployed or its node started.
    pub restarts: u32,
    /// What it offers.
    #[serde(default, skip_serializing_if = "Offer::is_plain")]
    pub offer: Offer,
    /// How its last checks found it.
    #[serde(default, skip_serializing_if = "Health::is_unchecked")]
    pub health: Health,
    /// The order by which it runs; `None`: it was deployed by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderEpoch>,
    /// Whether messages to it are refused, because it keeps failing.
    #[serde(default, skip_serializing_if = "BreakerState::is_closed")]
    pub breaker: BreakerState,
    /// What it depends on.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub depends_on: BTreeSet<AgentName>,
    /// What its start waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

impl AgentRecord {
    /// Why it is in its state, and what it waits for.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match (self.state.reason(), &self.waits) {
            (Some(reason), Some(waits)) => Some(format!("{reason}; {waits}")),
            (reason, waits) => reason.map(str::to_owned).or_else(|| waits.clone()),
        }
    }

    /// Checks the bounds that the record of another node must keep.
    ///
    /// # Errors
    /// The bound that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.offer.check().is_err() {
            return Err("an agent offers too much");
        }
        let is_long = self.waits.as_ref().is_some_and(|waits| waits.len() > limits::WAITS_BYTES_MAX);
        if is_long || self.depends_on.len() > limits::DEPENDENCIES_MAX {
            return Err("an agent depends on too much");
        }
        Ok(())
    }
}

/// One agent on one node as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// Its name.
    pub name: AgentName,
    /// The node it is on.
    pub node: NodeId,
    /// What this node believes of that node.
    pub node_status: MemberStatus,
    /// What that node says of the agent.
    pub record: AgentRecord,
    /// Whether messages to its blueprint go to it: not to one that waits beside the version before, nor to one that ends
    /// because another version has taken its place.
    #[serde(default = "usually", skip_serializing_if = "is_usual")]
    pub on_call: bool,
}

fn usually() -> bool {
    true
}

fn is_usual(on_call: &bool) -> bool {
    *on_call
}
