//! The JSON of desired state: blueprints, plans, and how they stand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Deploy;
use crate::core::ids::{AgentName, NodeId};
use crate::core::model::{self, Beside, Domain, OnCut, PlacementStrategy, UpdateStrategy, Weight};
use crate::core::wire;

/// How many instances: a number, or `"per-node"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Instances {
    /// So many.
    Count(u16),
    /// One on each node that may have one.
    Each(PerNode),
}

/// The word for one on each node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PerNode {
    /// `per-node`.
    #[serde(rename = "per-node")]
    PerNode,
}

impl std::fmt::Display for Instances {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => f.pad(&count.to_string()),
            Self::Each(PerNode::PerNode) => f.pad("per-node"),
        }
    }
}

/// What should run, how often, and where: an element of `blueprints` in `POST /v1/plan` and `POST /v1/blueprints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blueprint {
    /// What each instance is, as for `POST /v1/agents`; `node` is null.
    pub agent: Deploy,
    /// How many there are.
    pub instances: Instances,
    /// Where they are.
    #[serde(default)]
    pub placement: Placement,
    /// How another version takes their place.
    #[serde(default)]
    pub update: Update,
    /// What they do while their node is among a minority: `continue` or `stop`.
    #[serde(default)]
    pub on_cut: OnCut,
    /// Whether an instance must never run twice at a time: it runs under a permit of a quorum of the voters.
    #[serde(default)]
    pub exclusive: bool,
}

/// Where instances are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// `least-loaded`, `spread`, `binpack` or `round-robin`.
    pub strategy: PlacementStrategy,
    /// Rather on these nodes, the first one first.
    pub prefer: Vec<NodeId>,
    /// Only on nodes with these labels; `region`, `zone` and `node` count as labels.
    pub require: BTreeMap<String, String>,
    /// Rather on nodes that have an instance of these blueprints.
    pub near: BTreeSet<AgentName>,
    /// Not on nodes that have an instance of these blueprints.
    pub apart_from: BTreeSet<AgentName>,
    /// `zone` or `region`: as evenly as can be over these.
    pub spread_over: Option<Domain>,
    /// So many instances at a time go by themselves to nodes that have fewer agents.
    pub rebalance: u16,
    /// Where there is no room, instances of blueprints with a lower one give way.
    pub priority: i16,
    /// How much of a node's label `capacity` an instance takes; 1 at least.
    pub weight: Weight,
}

/// How another version takes the place of one that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Update {
    /// Instances at once.
    pub max_parallel: u16,
    /// An instance that has run for so long is steady.
    pub min_healthy_ms: u64,
    /// One that is not steady after so long has failed.
    pub deadline_ms: u64,
    /// Whether the version before comes back when an instance fails.
    pub roll_back: bool,
    /// From share to share; null: a rolling update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// All of it beside the version before, and then all messages at once; not with `canary`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub blue_green: bool,
}

/// An update that goes from share to share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Canary {
    /// The shares, in percent of the instances.
    pub steps: Vec<u8>,
    /// For how long each is held.
    pub hold_ms: u64,
    /// So many failures among a thousand messages are not too many.
    pub max_error_permille: u16,
    /// Of fewer messages nothing is concluded.
    pub min_messages: u32,
}

impl Default for Canary {
    fn default() -> Self {
        model::Canary::default().into()
    }
}

impl From<model::Canary> for Canary {
    fn from(canary: model::Canary) -> Self {
        let model::Canary { steps, hold, error_permille_max, messages_min } = canary;
        Self { steps, hold_ms: ms(hold), max_error_permille: error_permille_max, min_messages: messages_min }
    }
}

impl From<Canary> for model::Canary {
    fn from(canary: Canary) -> Self {
        let Canary { steps, hold_ms, max_error_permille, min_messages } = canary;
        Self {
            steps,
            hold: Duration::from_millis(hold_ms),
            error_permille_max: max_error_permille,
            messages_min: min_messages,
        }
    }
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Default for Update {
    fn default() -> Self {
        model::Update::default().into()
    }
}

impl From<model::Update> for Update {
    fn from(update: model::Update) -> Self {
        Self {
            max_parallel: update.max_parallel,
            min_healthy_ms: ms(update.min_healthy),
            deadline_ms: ms(update.deadline),
            roll_back: update.roll_back,
            canary: update.strategy.canary().cloned().map(Into::into),
            blue_green: update.strategy == UpdateStrategy::BlueGreen,
        }
    }
}

impl From<Update> for model::Update {
    fn from(update: Update) -> Self {
        let span = Duration::from_millis;
        Self {
            max_parallel: update.max_parallel,
            min_healthy: span(update.min_healthy_ms),
            deadline: span(update.deadline_ms),
            roll_back: update.roll_back,
            strategy: match (update.canary, update.blue_green) {
                (Some(canary), _) => UpdateStrategy::Canary(canary.into()),
                (None, true) => UpdateStrategy::BlueGreen,
                (None, false) => UpdateStrategy::Rolling,
            },
        }
    }
}

impl From<Instances> for model::Instances {
    fn from(instances: Instances) -> Self {
        match instances {
            Instances::Count(count) => Self::Count(count),
            Instances::Each(PerNode::PerNode) => Self::PerNode,
        }
    }
}

impl From<model::Instances> for Instances {
    fn from(instances: model::Instances) -> Self {
        match instances {
            model::Instances::Count(count) => Self::Count(count),
            model::Instances::PerNode => Self::Each(PerNode::PerNode),
        }
    }
}

impl From<Placement> for model::Placement {
    fn from(placement: Placement) -> Self {
        let Placement { strategy, prefer, require, near, apart_from, spread_over, .. } = placement;
        let Placement { rebalance, priority, weight, .. } = placement;
        Self { strategy, prefer, require, near, apart_from, spread_over, rebalance, priority, weight }
    }
}

impl From<model::Placement> for Placement {
    fn from(placement: model::Placement) -> Self {
        let model::Placement { strategy, prefer, require, near, apart_from, spread_over, .. } = placement;
        let model::Placement { rebalance, priority, weight, .. } = placement;
        Self { strategy, prefer, require, near, apart_from, spread_over, rebalance, priority, weight }
    }
}

/// `POST /v1/plan` and `POST /v1/blueprints`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Changes {
    /// Blueprints that come, or take the place of those of their names.
    pub blueprints: Vec<Blueprint>,
    /// Names of blueprints that go.
    pub remove: Vec<AgentName>,
    /// Of `POST /v1/blueprints`: only if what would be done is what was planned under this id.
    pub plan_id: Option<String>,
}

/// What would be done, or is: the answer to a plan and to every change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Names exactly this.
    pub plan_id: String,
    /// Blueprints that change.
    pub blueprints: Vec<BlueprintChange>,
    /// The orders, at most 2,000 of them.
    pub steps: Vec<Step>,
    /// How many there are.
    pub steps_total: u32,
    /// Slots that cannot be filled, with the reasons.
    pub unplaced: BTreeMap<AgentName, String>,
}

/// What becomes of a blueprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlueprintChange {
    /// Which.
    pub name: AgentName,
    /// Its version now; null: there is none.
    pub from_version: Option<u64>,
    /// Its version then; null: it is removed.
    pub to_version: Option<u64>,
}

/// One order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The slot, as `web#3`.
    pub slot: AgentName,
    /// `create`, `move`, `update` or `stop`.
    pub action: String,
    /// The node that is to have it; null: none.
    pub node: Option<NodeId>,
    /// Why.
    pub why: String,
}

impl From<wire::Planned> for Planned {
    fn from(planned: wire::Planned) -> Self {
        let step = |step: model::Step| Step {
            slot: step.slot,
            action: step.action.as_str().to_owned(),
            node: step.post.map(|post| post.node),
            why: step.why,
        };
        let change = |change: wire::BlueprintChange| BlueprintChange {
            name: change.name,
            from_version: change.from,
            to_version: change.to,
        };
        Self {
            plan_id: planned.id,
            blueprints: planned.blueprints.into_iter().map(change).collect(),
            steps: planned.plan.steps.into_iter().map(step).collect(),
            steps_total: planned.steps,
            unplaced: planned.plan.unplaced,
        }
    }
}

/// How a blueprint stands: an element of `GET /v1/blueprints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlueprintStatus {
    /// Its name.
    pub name: AgentName,
    /// Its version.
    pub version: u64,
    /// Why there is this version.
    pub why: String,
    /// How many instances it wants.
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
    /// Slots that cannot be filled, with the reasons: the first of them.
    pub unplaced: BTreeMap<AgentName, String>,
}

impl From<wire::BlueprintStatus> for BlueprintStatus {
    fn from(status: wire::BlueprintStatus) -> Self {
        Self {
            name: status.name,
            version: status.version,
            why: status.why,
            instances: status.instances.into(),
            wanted: status.wanted,
            placed: status.placed,
            running: status.running,
            updated: status.updated,
            paused: status.paused,
            unplaced: status.unplaced,
        }
    }
}

/// `GET /v1/blueprints/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlueprintDetail {
    /// How it stands.
    pub status: BlueprintStatus,
    /// How it is placed.
    pub placement: Placement,
    /// How it is updated.
    pub update: Update,
    /// What its instances do while their node is among a minority.
    pub on_cut: OnCut,
    /// Whether each of them never runs twice at a time.
    #[serde(default)]
    pub exclusive: bool,
    /// Its versions, the current one first.
    pub versions: Vec<BlueprintVersion>,
    /// Its slots, at most 2,000 of them.
    pub slots: Vec<SlotStatus>,
}

/// `GET /v1/blueprints/{name}/rollout`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// How the blueprint stands.
    pub status: BlueprintStatus,
    /// Its canary; null: there is none under way.
    pub canary: Option<CanaryStatus>,
    /// How it stands beside the version before; null: it is beside nothing.
    #[serde(default)]
    pub beside: Option<StandbyStatus>,
}

/// How a version stands beside the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyStatus {
    /// `waits`: it takes no messages yet; `serves`: it takes all of them.
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
    /// Messages since the step began that instances of the version have answered, or taken.
    pub worked: u64,
    /// Those that ended in an error of their making.
    pub failed: u64,
    /// How long ago the step began; null: the holder of the lease, which knows, was not there.
    pub began_ms: Option<u64>,
    /// For how long it has been held; null: likewise.
    pub held_ms: Option<u64>,
    /// For how long it is to be held.
    pub hold_ms: u64,
    /// What it waits for.
    pub waits_for: String,
}

impl From<wire::RolloutStatus> for Rollout {
    fn from(rollout: wire::RolloutStatus) -> Self {
        let canary = |canary: wire::CanaryStatus| CanaryStatus {
            step: canary.step,
            steps: canary.steps,
            percent: canary.percent,
            share: canary.share,
            updated: canary.updated,
            worked: canary.tally.worked,
            failed: canary.tally.failed,
            began_ms: canary.began.map(ms),
            held_ms: canary.held.map(ms),
            hold_ms: ms(canary.hold),
            waits_for: canary.waits_for,
        };
        let beside = |beside: wire::StandbyStatus| StandbyStatus {
            stage: beside.stage,
            wanted: beside.wanted,
            steady: beside.steady,
            waits_for: beside.waits_for,
        };
        Self {
            status: rollout.status.into(),
            canary: rollout.canary.map(canary),
            beside: rollout.beside.map(beside),
        }
    }
}

/// A version of a blueprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlueprintVersion {
    /// Counted from 1.
    pub version: u64,
    /// Why there is, or was, this version.
    pub why: String,
    /// How many instances it wants.
    pub instances: Instances,
    /// What an instance is made of.
    pub source: super::Source,
}

/// How a slot stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// The slot, as `web#3`.
    pub slot: AgentName,
    /// The node that has it.
    pub node: NodeId,
    /// The version that was ordered; null: it is not kept any more.
    pub version: Option<u64>,
    /// As of an agent; null: its node has told nothing of it, or is not there.
    pub state: Option<String>,
    /// Which order it is: the greater one holds.
    pub epoch: String,
    /// Why it was ordered.
    pub why: String,
}

impl From<wire::BlueprintDetail> for BlueprintDetail {
    fn from(detail: wire::BlueprintDetail) -> Self {
        let wire::BlueprintDetail { status, record, slots } = detail;
        let version = |version: &model::Version| BlueprintVersion {
            version: version.number,
            why: version.why.clone(),
            instances: version.blueprint.instances.into(),
            source: version.blueprint.spec.source.clone().into(),
        };
        let slot = |slot: wire::SlotStatus| SlotStatus {
            slot: slot.slot,
            node: slot.node,
            version: slot.version,
            state: slot.state,
            epoch: slot.epoch,
            why: slot.why,
        };
        let current = &record.current.blueprint;
        Self {
            status: status.into(),
            placement: current.placement.clone().into(),
            update: current.update.clone().into(),
            on_cut: current.on_cut,
            exclusive: current.spec.exclusive,
            versions: std::iter::once(&record.current).chain(&record.former).map(version).collect(),
            slots: slots.into_iter().map(slot).collect(),
        }
    }
}

/// `POST /v1/blueprints/{name}/scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// How many instances.
    pub instances: Instances,
}

/// `POST /v1/blueprints/{name}/rollback`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RollBack {
    /// To which version; the one before when null.
    pub version: Option<u64>,
}

/// `POST /v1/blueprints/{name}/pause`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Whether to pause.
    pub paused: bool,
}

/// `POST /v1/cluster/drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// The node.
    pub node: NodeId,
    /// Whether to drain it, or to take that back.
    pub drained: bool,
}

/// `POST /v1/cluster/rebalance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rebalance {
    /// At most so many moves.
    pub max_moves: u32,
    /// Only say which.
    #[serde(default)]
    pub dry_run: bool,
}
