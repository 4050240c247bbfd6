//! `/v1/cluster`: who is in the mesh and how it is; ping; leave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json as Body;
use axum::extract::State;

use super::Api;
use super::health::{standing, status_of};
use super::problem::Problem;
use super::read::Json;
use super::roster::age;
use super::types::{Leave, Member, NetworkPath, NodeCounts, NodeLeft, Ping, Pinged, Status};
use crate::core::error::Refusal;
use crate::core::ids::{LinkId, NodeId};
use crate::core::limits;
use crate::core::model::{MemberStatus, MemberView};
use crate::core::wire::{RequestBody, ResponseBody};
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
        doubts: if member.status.is_reachable() { member.doubts.clone() } else { Vec::new() },
        version: card.version.clone(),
        labels: card.labels.clone(),
        incarnation: member.incarnation.0,
    }
}

pub(super) async fn status(State(api): State<Arc<Api>>) -> Body<Status> {
    let standing = standing(&api.node).await;
    let view = api.node.view();
    let count = |status| view.members.iter().filter(|(member, _)| member.status == status).count();
    Body(Status {
        node_id: view.own.clone(),
        mesh_id: view.mesh_id,
        status: status_of(&api.node).to_owned(),
        nodes: NodeCounts {
            alive: count(MemberStatus::Alive),
            suspect: count(MemberStatus::Suspect),
            failed: count(MemberStatus::Failed),
            left: count(MemberStatus::Left),
        },
        agents: view.agents.iter().filter(|agent| agent.node_status.is_reachable()).count(),
        mode: standing.as_ref().map(|standing| standing.partition.mode.to_string()),
        age_seconds: standing.as_ref().and_then(|standing| age(&standing.partition)),
        queued_writes: standing.as_ref().map(|standing| standing.queued),
        lease_holder: standing.as_ref().and_then(|standing| standing.lease_holder.clone()),
        reason: standing.map(|standing| standing.reason).unwrap_or_default(),
        uptime_seconds: api.node.uptime().as_secs_f64(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Round trips one after the other. One that does not come back is lost; a node that is not known, or that
/// cannot be asked at all, ends them.
pub(super) async fn ping(
    State(api): State<Arc<Api>>,
    Json(Ping { node, count, deadline_ms }): Json<Ping>,
) -> Result<Body<Pinged>, Problem> {
    if !(1..=limits::API_PINGS_MAX).contains(&count) {
        let why = format!("count is {count}: it must be 1 to {}", limits::API_PINGS_MAX);
        return Err(Problem::bad_request(why));
    }
    let deadline_ms_max = limits::REQUEST_DEADLINE.as_millis() as u64;
    if !(1..=deadline_ms_max).contains(&deadline_ms) {
        let why = format!("deadline_ms is {deadline_ms}: it must be 1 to {deadline_ms_max}");
        return Err(Problem::bad_request(why));
    }
    let mut pinged = Pinged { node, seconds: Vec::new(), lost: 0, reason: None, path: None };
    for _ in 0..count {
        match round_trip(&api.node, &pinged.node, Duration::from_millis(deadline_ms)).await {
            Ok(seconds) => pinged.seconds.push(seconds),
            Err(refusal) if is_loss(&refusal) => {
                pinged.lost += 1;
                pinged.reason = Some(refusal.to_string());
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
    // Measured last: the pings have made the link if there was none.
    pinged.path = path_to(&api.node, &pinged.node).await;
    Ok(Body(pinged))
}

async fn round_trip(node: &Handle, to: &NodeId, within: Duration) -> Result<f64, Refusal> {
    let begun = Instant::now();
    let asking = node.request(to.clone(), RequestBody::Ping);
    let deadline_ms = within.as_millis() as u64;
    let timed_out = |_| Err(Refusal::TimedOut { node: to.clone(), deadline_ms });
    tokio::time::timeout(within, asking).await.unwrap_or_else(timed_out)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Whether the refusal says that a packet did not come back, and nothing of the question.
fn is_loss(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::TimedOut { .. } | Refusal::LinkLost { .. } => true,
        Refusal::UnknownNode { .. }
        | Refusal::NodeDown { .. }
        | Refusal::UnknownAgent { .. }
        | Refusal::AgentExists { .. }
        | Refusal::StartFailed { .. }
        | Refusal::Overloaded { .. }
        | Refusal::BadRequest { .. }
        | Refusal::StoreFailed { .. }
        | Refusal::NoAnswer { .. }
        | Refusal::Outdated { .. }
        | Refusal::BadWrite { .. }
        | Refusal::Barred { .. }
        | Refusal::Indeterminate { .. }
        | Refusal::UnknownTicket { .. }
        | Refusal::Joining { .. } => false,
    }
}

/// The link in use to a node, from the asked node's own facts.
async fn path_to(node: &Handle, to: &NodeId) -> Option<NetworkPath> {
    let view = node.view();
    let link = view.members.iter().find(|(member, _)| member.card.node_id == *to)?.1?;
    let peer = node.peer(link)?;
    let port = node.listens_on().ok()?.port();
    let from = peer.local_ip().map(|ip| SocketAddr::new(ip, port).to_string());
    let Ok(ResponseBody::Facts(facts)) = node.request(node.own().clone(), RequestBody::Facts).await else {
        return None;
    };
    let link = facts.links.into_iter().find(|link| link.node == *to && link.in_use)?;
    Some(NetworkPath { from, link: link.into() })
}

/// Ends when the node has left.
pub(super) async fn leave(
    State(api): State<Arc<Api>>,
    Json(Leave { node, drain_ms, force }): Json<Leave>,
) -> Result<Body<NodeLeft>, Problem> {
    let drain_ms_max = limits::DEADLINE_MAX.as_millis() as u64;
    if drain_ms > drain_ms_max {
        let why = format!("drain_ms is {drain_ms}: it must be at most {drain_ms_max}");
        return Err(Problem::bad_request(why));
    }
    let node = node.unwrap_or_else(|| api.node.own().clone());
    let done = api.node.request(node.clone(), RequestBody::Leave { drain_ms, force }).await?;
    let (left_behind, left_behind_total) = if let ResponseBody::Left { left_behind, left_behind_total } = done
    {
        (left_behind, left_behind_total)
    } else {
        (vec![], 0)
    };
    Ok(Body(NodeLeft { node, left_behind, left_behind_total }))
}
