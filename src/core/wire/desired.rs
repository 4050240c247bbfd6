//! What is asked about desired state, and what is answered.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::ids::{AgentName, NodeId};
use crate::core::model::Blueprint;
use crate::core::model::{Beside, BlueprintRecord, Instances, Plan, Tally};

/// What one may ask of a node about desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredRequest {
    /// What would be done if these were applied. Answered by [`DesiredAnswer::Planned`].
    Plan(Changes),
    /// Make these what should run. Answered by [`DesiredAnswer::Planned`] once they are stored.
    Apply {
        /// What is to change.
        changes: Changes,
        /// Only if what would be done is what was planned under this id.
        plan_id: Option<String>,
    },
    /// All blueprints, and how they stand.
    Blueprints,
    /// One blueprint with its versions and instances.
    Blueprint {
        /// Its name.
        name: AgentName,
    },
    /// How far its current version has come. Answered by [`DesiredAnswer::Rollout`].
    Rollout {
        /// The blueprint.
        name: AgentName,
    },
    /// Have so many instances.
    Scale {
        /// The blueprint.
        name: AgentName,
        /// How many.
        instances: Instances,
    },
    /// Go back to a former version.
    RollBack {
        /// The blueprint.
        name: AgentName,
        /// Which; the one before when `None`.
        version: Option<u64>,
    },
    /// Update no further instance, or go on.
    Pause {
        /// The blueprint.
        name: AgentName,
        /// Whether to pause.
        paused: bool,
    },
    /// Move what a node has to others and give it nothing, or take that back.
    Drain {
        /// The node.
        node: NodeId,
        /// Whether to drain.
        drained: bool,
    },
    /// Make nodes equally full.
    Rebalance {
        /// With at most so many moves.
        moves_max: u32,
        /// Only say which.
        dry_run: bool,
    },
}

/// What is to change of what should run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Blueprints that come, or take the place of those of their names.
    pub blueprints: Vec<Blueprint>,
    /// Blueprints that go.
    #[serde(default)]
    pub remove: Vec<AgentName>,
}

/// What a node answers about desired state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredAnswer {
    /// What would be done, or is.
    Planned(Box<Planned>),
    /// All blueprints.
    Blueprints(Vec<BlueprintStatus>),
    /// One blueprint.
    Blueprint(Box<BlueprintDetail>),
    /// How far a version has come.
    Rollout(Box<RolloutStatus>),
}

/// What would be done, or is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Names exactly this: another state of the mesh has another.
    pub id: String,
    /// What becomes of the blueprints that were named.
    pub blueprints: Vec<BlueprintChange>,
    /// The orders; of the steps the first [`PLAN_STEPS_TOLD_MAX`](crate::core::limits::PLAN_STEPS_TOLD_MAX).
    pub plan: Plan,
    /// How many steps there are.
    pub steps: u32,
}

/// What becomes of a blueprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlueprintChange {
    /// Which.
    pub name: AgentName,
    /// Its version now; `None`: there is none.
    pub from: Option<u64>,
    /// Its version then; `None`: it is removed.
    pub to: Option<u64>,
}

/// How a blueprint stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlueprintStatus {
    /// Its name.
    pub name: AgentName,
    /// Its version.
    pub version: u64,
    /// Why there is this version.
    pub why: String,
    /// How many instances it wants; `per-node`: as many as nodes may have one.
    pub instances: Instances,
    /// How many that are at present.
    pub wanted: u32,
    /// Slots that are given to a node.
    pub placed: u32,
    /// Instances that take messages.
    pub running: u32,
    /// Instances of the current version that take messages.
    pub updated: u32,
    /// Whether no further instance is updated.
    pub paused: bool,
    /// Slots that cannot be filled, with the reasons; at most as many as nodes are told of in a reason.
    pub unplaced: BTreeMap<AgentName, String>,
}

/// How far the current version of a blueprint has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// How the blueprint stands.
    pub status: BlueprintStatus,
    /// Its canary; `None`: there is none under way.
    pub canary: Option<CanaryStatus>,
    /// How it stands beside the version before; `None`: it is beside nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<StandbyStatus>,
}

/// How a version stands beside the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyStatus {
    /// Whether it takes the messages.
    pub stage: Beside,
    /// How many instances it has to have.
    pub wanted: u32,
    /// How many are steady.
    pub steady: u32,
    /// What it waits for.
    pub waits_for: String,
}

/// How a canary stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// Which step it is, from 1.
    pub step: u32,
    /// How many there are.
    pub steps: u32,
    /// Its share of the instances.
    pub percent: u8,
    /// How many instances that is.
    pub share: u32,
    /// How many are of the version.
    pub updated: u32,
    /// What became of their messages since the step began.
    pub tally: Tally,
    /// How long ago the step began; `None`: only the holder of the lease knows, and it was not asked.
    pub began: Option<Duration>,
    /// For how long it has been held; `None`: likewise.
    pub held: Option<Duration>,
    /// For how long it is to be held.
    pub hold: Duration,
    /// What it waits for.
    pub waits_for: String,
}

/// One blueprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlueprintDetail {
    /// How it stands.
    pub status: BlueprintStatus,
    /// As it is stored.
    pub record: BlueprintRecord,
    /// Its slots, at most [`PLAN_STEPS_TOLD_MAX`](crate::core::limits::PLAN_STEPS_TOLD_MAX).
    pub slots: Vec<SlotStatus>,
}

/// How a slot stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// The slot.
    pub slot: AgentName,
    /// The node that has it.
    pub node: NodeId,
    /// The version that was ordered, as far as it is remembered.
    pub version: Option<u64>,
    /// What its node says of it; `None`: nothing was heard.
    pub state: Option<String>,
    /// Which order it is.
    pub epoch: String,
    /// Why it was ordered.
    pub why: String,
}
