//! `/v1/plan`, `/v1/blueprints`, `/v1/cluster/drain` and `/v1/cluster/rebalance`: what should run.

use std::sync::Arc;

use axum::Json as Body;
use axum::extract::State;

use super::Api;
use super::agents::spec_of;
use super::problem::Problem;
use super::read::{Json, Named};
use super::types::{
    Blueprint, BlueprintDetail, BlueprintStatus, Changes, Drain, OrderedBy, Pause, Planned, Rebalance,
    RollBack, Rollout, Scale,
};
use crate::core::ids::{AgentName, NodeId};
use crate::core::model::{self, AgentSpec};
use crate::core::wire::{self, DesiredAnswer, DesiredRequest, RequestBody, ResponseBody};

pub(super) async fn plan(
    State(api): State<Arc<Api>>,
    Json(changes): Json<Changes>,
) -> Result<Body<Planned>, Problem> {
    if changes.plan_id.is_some() {
        return Err(Problem::bad_request("plan_id is for POST /v1/blueprints: a plan has one of its own"));
    }
    let (changes, _) = taken(&api, changes)?;
    planned(&api, DesiredRequest::Plan(changes)).await
}

/// Ends when the blueprints are stored on the asked node; their instances start after that.
pub(super) async fn apply(
    State(api): State<Arc<Api>>,
    Json(changes): Json<Changes>,
) -> Result<Body<Planned>, Problem> {
    let (changes, plan_id) = taken(&api, changes)?;
    planned(&api, DesiredRequest::Apply { changes, plan_id }).await
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Body<Vec<BlueprintStatus>>, Problem> {
    match ask(&api, DesiredRequest::Blueprints).await? {
        DesiredAnswer::Blueprints(list) => Ok(Body(list.into_iter().map(Into::into).collect())),
        DesiredAnswer::Planned(_) | DesiredAnswer::Blueprint(_) | DesiredAnswer::Rollout(_) => {
            Err(Problem::bad_answer(api.node.own()))
        }
    }
}

pub(super) async fn info(
    State(api): State<Arc<Api>>,
    Named(name): Named,
) -> Result<Body<BlueprintDetail>, Problem> {
    match ask(&api, DesiredRequest::Blueprint { name }).await? {
        DesiredAnswer::Blueprint(detail) => Ok(Body((*detail).into())),
        DesiredAnswer::Planned(_) | DesiredAnswer::Blueprints(_) | DesiredAnswer::Rollout(_) => {
            Err(Problem::bad_answer(api.node.own()))
        }
    }
}

pub(super) async fn rollout(
    State(api): State<Arc<Api>>,
    Named(name): Named,
) -> Result<Body<Rollout>, Problem> {
    match ask(&api, DesiredRequest::Rollout { name }).await? {
        DesiredAnswer::Rollout(rollout) => Ok(Body((*rollout).into())),
        DesiredAnswer::Planned(_) | DesiredAnswer::Blueprints(_) | DesiredAnswer::Blueprint(_) => {
            Err(Problem::bad_answer(api.node.own()))
        }
    }
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Named(name): Named,
) -> Result<Body<Planned>, Problem> {
    let changes = wire::Changes { blueprints: vec![], remove: vec![name] };
    planned(&api, DesiredRequest::Apply { changes, plan_id: None }).await
}

pub(super) async fn scale(
    State(api): State<Arc<Api>>,
    Named(name): Named,
    Json(Scale { instances }): Json<Scale>,
) -> Result<Body<Planned>, Problem> {
    planned(&api, DesiredRequest::Scale { name, instances: instances.into() }).await
}

pub(super) async fn roll_back(
    State(api): State<Arc<Api>>,
    Named(name): Named,
    Json(RollBack { version }): Json<RollBack>,
) -> Result<Body<Planned>, Problem> {
    planned(&api, DesiredRequest::RollBack { name, version }).await
}

pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    Named(name): Named,
    Json(Pause { paused }): Json<Pause>,
) -> Result<Body<Planned>, Problem> {
    planned(&api, DesiredRequest::Pause { name, paused }).await
}

pub(super) async fn drain(
    State(api): State<Arc<Api>>,
    Json(Drain { node, drained }): Json<Drain>,
) -> Result<Body<Planned>, Problem> {
    planned(&api, DesiredRequest::Drain { node, drained }).await
}

pub(super) async fn rebalance(
    State(api): State<Arc<Api>>,
    Json(Rebalance { max_moves, dry_run }): Json<Rebalance>,
) -> Result<Body<Planned>, Problem> {
    planned(&api, DesiredRequest::Rebalance { moves_max: max_moves, dry_run }).await
}

/// Why a node runs an instance, as far as the asked one has heard.
pub(super) async fn ordered_by(api: &Api, agent: &AgentName, node: &NodeId) -> OrderedBy {
    let blueprint = agent.base();
    let slots = match ask(api, DesiredRequest::Blueprint { name: blueprint.clone() }).await {
        Ok(DesiredAnswer::Blueprint(detail)) => detail.slots,
        // Nothing is said of one that was removed, whose last instances end.
        Ok(_) | Err(_) => vec![],
    };
    let slot = slots.into_iter().find(|slot| slot.slot == *agent && slot.node == *node);
    let (version, epoch) = slot.map_or((None, None), |slot| (slot.version, Some(slot.epoch)));
    OrderedBy { blueprint, version, epoch }
}

async fn planned(api: &Api, request: DesiredRequest) -> Result<Body<Planned>, Problem> {
    match ask(api, request).await? {
        DesiredAnswer::Planned(planned) => Ok(Body((*planned).into())),
        DesiredAnswer::Blueprint(_) | DesiredAnswer::Blueprints(_) | DesiredAnswer::Rollout(_) => {
            Err(Problem::bad_answer(api.node.own()))
        }
    }
}

async fn ask(api: &Api, request: DesiredRequest) -> Result<DesiredAnswer, Problem> {
    let own = api.node.own().clone();
    match api.node.request(own.clone(), RequestBody::Desired(request)).await? {
        ResponseBody::Desired(answer) => Ok(answer),
        ResponseBody::Done
        | ResponseBody::Left { .. }
        | ResponseBody::AgentInfo { .. }
        | ResponseBody::Lines { .. }
        | ResponseBody::Facts(_)
        | ResponseBody::History(_)
        | ResponseBody::State(_)
        | ResponseBody::Outbox(_)
        | ResponseBody::ModulePart(_) => Err(Problem::bad_answer(&own)),
    }
}

fn taken(api: &Api, changes: Changes) -> Result<(wire::Changes, Option<String>), Problem> {
    let Changes { blueprints, remove, plan_id } = changes;
    let own = api.node.own();
    let blueprints =
        blueprints.into_iter().map(|blueprint| taken_one(own, blueprint)).collect::<Result<_, _>>();
    Ok((wire::Changes { blueprints: blueprints.map_err(Problem::bad_request)?, remove }, plan_id))
}

fn taken_one(own: &NodeId, blueprint: Blueprint) -> Result<model::Blueprint, String> {
    let Blueprint { agent, instances, placement, update, on_cut, exclusive } = blueprint;
    let name: AgentName = agent.name.clone();
    if agent.node.is_some() {
        return Err(format!(
            "blueprint {name}: agent.node is for agents that are deployed by hand: see placement"
        ));
    }
    if update.blue_green && update.canary.is_some() {
        return Err(format!(
            "blueprint {name}: update.canary and update.blue_green are two ways: leave out one"
        ));
    }
    let spec = spec_of(agent, own).map_err(|why| format!("blueprint {name}: {why}"))?;
    let spec = AgentSpec { exclusive, ..spec };
    Ok(model::Blueprint {
        spec,
        instances: instances.into(),
        placement: placement.into(),
        update: update.into(),
        on_cut,
    })
}
