//! `/v1/agents`: which agents there are, starting and stopping one, what is known of one, its log.
//!
//! An agent of one name may be on several nodes; whoever means one of them names the node, or is told
//! which there are.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Body;
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::Api;
use super::blueprints::ordered_by;
use super::listen::Client;
use super::problem::Problem;
use super::read::{Json, Named, Query};
use super::types::{
    Agent, AgentInfo, AgentRef, DependencyGraph, Deploy, HealthCheck, Logs, RestartAgent, Tool,
};
use crate::core::error::{Refusal, SendError};
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::{AgentSource, AgentSpec, AgentState, AgentView, Care};
use crate::core::wire::{RequestBody, ResponseBody};

/// Lines of a log when the client does not say.
const LINES_DEFAULT: u32 = 100;
/// How long an answer waits for the view to show it.
const VIEW_DEADLINE: Duration = Duration::from_secs(2);
/// A view is published about so often.
const VIEW_INTERVAL: Duration = Duration::from_millis(5);

/// Where the agent is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OnNode {
    node: Option<NodeId>,
}

/// Where the agent is, and how much of its log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsOf {
    node: Option<NodeId>,
    lines: Option<u32>,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(OnNode { node }): Query<OnNode>,
) -> Body<Vec<Agent>> {
    let view = api.node.view();
    let agents = view.agents.iter().filter(|agent| node.as_ref().is_none_or(|node| *node == agent.node));
    Body(agents.map(Agent::from).collect())
}

/// What the agents of the mesh say that they depend on.
pub(super) async fn dependencies(State(api): State<Arc<Api>>) -> Body<DependencyGraph> {
    Body(DependencyGraph::of(&api.node.view().agents))
}

/// Ends when the agent takes messages, or has failed to start and is gone again.
pub(super) async fn deploy(
    State(api): State<Arc<Api>>,
    Json(deploy): Json<Deploy>,
) -> Result<Response, Problem> {
    let (name, node) = (deploy.name.clone(), deploy.node.clone());
    let spec = spec_of(deploy, api.node.own()).map_err(Problem::bad_request)?;
    let node = node.unwrap_or_else(|| api.node.own().clone());
    let started = api.node.request(node.clone(), RequestBody::Deploy { spec }).await;
    let is_it = |a: &AgentView| a.name == name && a.node == node;
    match started {
        Ok(_) => {
            let runs = |a: &AgentView| {
                is_it(a) && (a.record.state == AgentState::Running || a.record.waits.is_some())
            };
            until_view(&api, |agents| agents.iter().any(runs)).await;
        }
        Err(refusal) => {
            if matches!(refusal, Refusal::StartFailed { .. }) {
                until_view(&api, |agents| !agents.iter().any(is_it)).await;
            }
            return Err(refusal.into());
        }
    }
    let location = [("location", format!("/v1/agents/{name}?node={node}"))];
    let view = api.node.view();
    let waits = view.agents.iter().find(|a| is_it(a)).and_then(|a| a.record.waits.clone());
    Ok((StatusCode::CREATED, location, Body(AgentRef { name, node, waits })).into_response())
}

/// What a client describes, who asks the node `own`.
pub(super) fn spec_of(deploy: Deploy, own: &NodeId) -> Result<AgentSpec, String> {
    let offer = deploy.offer();
    let Deploy { name, source, tools, health, restart, breaker, launch, limits, .. } = deploy;
    let tools = tools.into_iter().map(Tool::into_model).collect::<Result<_, _>>()?;
    let health = health.map(HealthCheck::into_model).transpose()?;
    let care = Care { health, restart: restart.map(Into::into), breaker: breaker.map(Into::into) };
    let bare = AgentSpec::new(name, source.into());
    let mut spec = AgentSpec { offer, tools, care, launch: launch.into(), limits: limits.into(), ..bare };
    if let AgentSource::Wasm(source) = &mut spec.source {
        // Where the module was uploaded, most likely.
        source.origin = Some(own.clone());
    }
    spec.check()?;
    Ok(spec)
}

pub(super) async fn info(
    State(api): State<Arc<Api>>,
    Named(agent): Named,
    Query(OnNode { node }): Query<OnNode>,
) -> Result<Body<AgentInfo>, Problem> {
    let node = node_of(&api, &agent, node)?;
    let answer = api.node.request(node.clone(), RequestBody::AgentInfo { agent: agent.clone() }).await?;
    let ResponseBody::AgentInfo { mut spec, stats, care } = answer else {
        return Err(Problem::bad_answer(&node));
    };
    spec.care = care.map_or(spec.care, |care| *care);
    let view = api.node.view();
    let heard = view.agents.iter().find(|a| a.name == agent && a.node == node).map(Agent::from);
    let ordered_by = if agent.slot().is_some() { Some(ordered_by(&api, &agent, &node).await) } else { None };
    Ok(Body(AgentInfo { ordered_by, ..AgentInfo::new(node, spec, &stats, heard) }))
}

pub(super) async fn logs(
    State(api): State<Arc<Api>>,
    Named(agent): Named,
    Query(LogsOf { node, lines }): Query<LogsOf>,
) -> Result<Body<Logs>, Problem> {
    let lines = lines.unwrap_or(LINES_DEFAULT);
    if lines as usize > limits::AGENT_LOG_LINES_MAX {
        let why =
            format!("lines is {lines}: a node keeps at most {} of an agent", limits::AGENT_LOG_LINES_MAX);
        return Err(Problem::bad_request(why));
    }
    let node = node_of(&api, &agent, node)?;
    let request = RequestBody::AgentLogs { agent: agent.clone(), lines };
    let ResponseBody::Lines { lines } = api.node.request(node.clone(), request).await? else {
        return Err(Problem::bad_answer(&node));
    };
    Ok(Body(Logs { name: agent, node, lines }))
}

/// Ends when the agent has.
pub(super) async fn stop(
    State(api): State<Arc<Api>>,
    Named(agent): Named,
    Query(OnNode { node }): Query<OnNode>,
) -> Result<Body<AgentRef>, Problem> {
    let node = node_of(&api, &agent, node)?;
    api.node.request(node.clone(), RequestBody::StopAgent { agent: agent.clone() }).await?;
    until_view(&api, |agents| !agents.iter().any(|a| a.name == agent && a.node == node)).await;
    Ok(Body(AgentRef { name: agent, node, waits: None }))
}

/// Ends when the agent takes messages again, or could not be started.
pub(super) async fn restart(
    State(api): State<Arc<Api>>,
    Named(agent): Named,
    Query(OnNode { node }): Query<OnNode>,
    Json(RestartAgent { release }): Json<RestartAgent>,
) -> Result<Body<AgentRef>, Problem> {
    let node = node_of(&api, &agent, node)?;
    let request = RequestBody::RestartAgent { agent: agent.clone(), release };
    api.node.request(node.clone(), request).await?;
    let runs = |a: &AgentView| a.name == agent && a.node == node && a.record.state == AgentState::Running;
    until_view(&api, |agents| agents.iter().any(runs)).await;
    Ok(Body(AgentRef { name: agent, node, waits: None }))
}

/// Waits until the view of this node shows what another node has answered: the answer and the record
/// come on different ways, and whoever has deployed an agent may talk to it at once. A record that is
/// later than [`VIEW_DEADLINE`] does not make the change less true.
async fn until_view(api: &Api, shows: impl Fn(&[AgentView]) -> bool) {
    let waiting = async {
        while !shows(&api.node.view().agents) {
            tokio::time::sleep(VIEW_INTERVAL).await;
        }
    };
    // Either way the change was made.
    let _ = tokio::time::timeout(VIEW_DEADLINE, waiting).await;
}

/// The node that is meant: the one that was given, or the only one that has such an agent.
fn node_of(api: &Api, agent: &AgentName, given: Option<NodeId>) -> Result<NodeId, Problem> {
    if let Some(node) = given {
        return Ok(node);
    }
    let view = api.node.view();
    let mut nodes: Vec<_> = view.agents.iter().filter(|a| a.name == *agent).map(|a| a.node.clone()).collect();
    match (nodes.len(), nodes.pop()) {
        (1, Some(node)) => Ok(node),
        (_, None) => Err(SendError::UnknownAgent { agent: agent.clone() }.into()),
        (_, Some(last)) => {
            nodes.push(last);
            let listed = nodes.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ");
            let detail = format!("agent {agent} is on several nodes: name one of {listed}");
            Err(Problem::new(StatusCode::CONFLICT, "ambiguous_agent", detail).with_nodes(nodes))
        }
    }
}

/// Writes a record of each request that changes something.
pub(super) async fn record(Extension(client): Extension<Client>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let status = response.status().as_u16();
    tracing::info!(client = %client.0, %method, path, status, "change by the API");
    response
}
