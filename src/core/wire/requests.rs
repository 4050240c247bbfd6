//! What nodes ask of each other, and what they answer.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    AgentStats, DesiredAnswer, DesiredRequest, HistoryPage, HistoryQuery, NodeFacts, OutboxAnswer,
    OutboxRequest, StateAnswer, StateRequest,
};
use crate::core::ids::{AgentName, ModuleId};
use crate::core::limits;
use crate::core::model::{AgentSpec, Care};

/// What one node may ask another to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "requests are few, and each is moved a few times")]
pub enum RequestBody {
    /// Answer at once.
    Ping,
    /// Start this agent and keep it.
    Deploy {
        /// The agent.
        spec: AgentSpec,
    },
    /// Stop this agent and forget it.
    StopAgent {
        /// The agent.
        agent: AgentName,
    },
    /// Start this agent anew.
    RestartAgent {
        /// The agent.
        agent: AgentName,
        /// Only if it is in quarantine.
        release: bool,
    },
    /// Tell all about one agent.
    AgentInfo {
        /// The agent.
        agent: AgentName,
    },
    /// The last lines of an agent's log.
    AgentLogs {
        /// The agent.
        agent: AgentName,
        /// At most so many lines.
        lines: u32,
    },
    /// Leave the mesh for good.
    Leave {
        /// How long agents may take to finish what they have.
        drain_ms: u64,
        /// At once, although what only this node has is lost and the roster keeps it for a while.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    /// What the node measures of itself and of its links.
    Facts,
    /// A part of the node's history.
    History {
        /// Which part.
        query: HistoryQuery,
    },
    /// Something about the state, the roster or the mode.
    State(StateRequest),
    /// A part of a WASM module.
    ModulePart {
        /// Which module.
        module: ModuleId,
        /// From which byte on.
        offset: u64,
    },
    /// Something about the messages that it has promised to deliver.
    Outbox(OutboxRequest),
    /// Something about what should run.
    Desired(DesiredRequest),
}

/// What a request brings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "as of requests")]
pub enum ResponseBody {
    /// Done, and nothing to say.
    Done,
    /// The node has left, and these instances of blueprints ended with it although they did not run elsewhere yet.
    Left {
        /// The first of them, at most [`REASONS_TOLD_MAX`](limits::REASONS_TOLD_MAX).
        left_behind: Vec<AgentName>,
        /// How many there are.
        left_behind_total: u32,
    },
    /// All about one agent.
    AgentInfo {
        /// What it is.
        spec: AgentSpec,
        /// What the runtime measures of it.
        stats: AgentStats,
        /// How it is looked after on its node, by that node's rules; `None` of a node of an earlier version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        care: Option<Box<Care>>,
    },
    /// Lines of a log, oldest first.
    Lines {
        /// The lines, without newlines.
        lines: Vec<String>,
    },
    /// What the node measures.
    Facts(Box<NodeFacts>),
    /// A part of the node's history.
    History(HistoryPage),
    /// About the state, the roster or the mode.
    State(StateAnswer),
    /// A part of a WASM module.
    ModulePart(ModulePart),
    /// About the messages that it has promised to deliver.
    Outbox(OutboxAnswer),
    /// About what should run.
    Desired(DesiredAnswer),
}

/// Some bytes of a WASM module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModulePart {
    /// How many bytes the module has.
    pub total_bytes: u64,
    /// Those from the offset that was asked for; at most [`MODULE_PART_BYTES`](limits::MODULE_PART_BYTES).
    pub bytes: Bytes,
}

impl ModulePart {
    /// Checks the bounds of a part that came from elsewhere.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.total_bytes > limits::MODULE_BYTES_MAX as u64 {
            return Err("the module is too large");
        }
        if self.bytes.len() > limits::MODULE_PART_BYTES {
            return Err("the part of the module is too large");
        }
        Ok(())
    }
}
