//! `/v1/cluster`: who is in the mesh and how it is; ping; leave.

use std::sync::Arc;
use std::time::Instant;

use axum::Json as Body;
use axum::extract::State;

use super::Api;
use super::health::status_of;
use super::problem::Problem;
use super::read::Json;
use super::types::{Leave, Member, NodeCounts, NodeLeft, Ping, Pinged, Status};
use crate::core::ids::LinkId;
use crate::core::limits;
use crate::core::model::{MemberStatus, MemberView};
use crate::core::wire::RequestBody;
use crate::node::Handle;

pub(super) async fn members(State(api): State<Arc<Api>>) -> Body<Vec<Member>> {
    let view = api.node.view();
    Body(view.members.iter().map(|(member, link)| describe(&api.node, member, *link)).collect())
}

fn describe(node: &Handle, member: &MemberView, link: Option<LinkId>) -> Member {
    let card = &member.card;
    // What a node said before it went is no measurement of it now.
    let load = member.load.filter(|_| member.status.is_reachable());
    let rtt = link.and_then(|link| node.rtt(link));
    let estimate = member.expected_rtt.filter(|_| rtt.is_none() && member.status.is_reachable());
    Member {
        node_id: card.node_id.clone(),
        status: member.status.to_string(),
        address: card.addresses.first().cloned(),
        region: card.region.clone(),
        zone: card.zone.clone(),
        agents: member.agents,
        cpu_percent: load.map(|load| f64::from(load.cpu_permille) / 10.0),
        memory_bytes: load.map(|load| load.memory_bytes),
        rtt_seconds: rtt.map(|rtt| rtt.as_secs_f64()),
        rtt_estimate_seconds: estimate.map(|rtt| rtt.as_secs_f64()),
        version: card.version.clone(),
        labels: card.labels.clone(),
        incarnation: member.incarnation.0,
    }
}

pub(super) async fn status(State(api): State<Arc<Api>>) -> Body<Status> {
    let view = api.node.view();
    let count = |status| view.members.iter().filter(|(member, _)| member.status == status).count();
    Body(Status {
        node_id: view.own.clone(),
        mesh_id: view.mesh_id,
        status: status_of(&view).to_owned(),
        nodes: NodeCounts {
            alive: count(MemberStatus::Alive),
            suspect: count(MemberStatus::Suspect),
            failed: count(MemberStatus::Failed),
            left: count(MemberStatus::Left),
        },
        agents: view.agents.iter().filter(|agent| agent.node_status.is_reachable()).count(),
        queued_writes: None,
        uptime_seconds: api.node.uptime().as_secs_f64(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Round trips one after the other; the first that fails ends them with its reason.
pub(super) async fn ping(
    State(api): State<Arc<Api>>,
    Json(Ping { node, count }): Json<Ping>,
) -> Result<Body<Pinged>, Problem> {
    if !(1..=limits::API_PINGS_MAX).contains(&count) {
        let why = format!("count is {count}: it must be 1 to {}", limits::API_PINGS_MAX);
        return Err(Problem::bad_request(why));
    }
    let mut seconds = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        api.node.request(node.clone(), RequestBody::Ping).await?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    Ok(Body(Pinged { node, seconds }))
}

/// Ends when the node has left.
pub(super) async fn leave(
    State(api): State<Arc<Api>>,
    Json(Leave { node, drain_ms }): Json<Leave>,
) -> Result<Body<NodeLeft>, Problem> {
    let drain_ms_max = limits::DEADLINE_MAX.as_millis() as u64;
    if drain_ms > drain_ms_max {
        let why = format!("drain_ms is {drain_ms}: it must be at most {drain_ms_max}");
        return Err(Problem::bad_request(why));
    }
    let node = node.unwrap_or_else(|| api.node.own().clone());
    api.node.request(node.clone(), RequestBody::Leave { drain_ms }).await?;
    Ok(Body(NodeLeft { node }))
}
