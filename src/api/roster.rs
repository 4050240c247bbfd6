//! `/v1/cluster/roster` and what changes it; `/v1/cluster/partition`, who reaches whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json as Body;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::StreamExt;

use super::Api;
use super::everywhere::{ask_all, not_understood};
use super::problem::Problem;
use super::read::Json;
use super::state::ask;
use super::types::{
    Mended, NodeMode, Partition, Reconcile, Reconciled, Remove, Resolve, ResolveStrategy, Roster, SetRoster,
    SilentNode,
};
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{self, MemberStatus};
use crate::core::partition::sides;
use crate::core::wire::{RequestBody, ResponseBody, StateAnswer, StateRequest, StateStatus};
use crate::node::Handle;

pub(super) async fn show(State(api): State<Arc<Api>>) -> Result<Body<Roster>, Problem> {
    roster(&api.node, StateRequest::Roster).await.map(|roster| Body(roster.into()))
}

/// The roster that a question or a change is answered with.
async fn roster(node: &Handle, request: StateRequest) -> Result<model::Roster, Problem> {
    let own = node.own();
    let StateAnswer::Roster(roster) = ask(node, own, request).await? else {
        return Err(Problem::bad_answer(own));
    };
    roster.ok_or_else(|| {
        let detail = format!("{own} knows no roster yet: it has not heard from its mesh, try again later");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_roster", detail)
    })
}

pub(super) async fn set(
    State(api): State<Arc<Api>>,
    Json(SetRoster { key, value, allow_split_writes }): Json<SetRoster>,
) -> Result<Body<Roster>, Problem> {
    let request = StateRequest::SetRoster { key, value, split_writes: allow_split_writes };
    roster(&api.node, request).await.map(|roster| Body(roster.into()))
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Json(Remove { node, force }): Json<Remove>,
) -> Result<Body<Roster>, Problem> {
    if is_alive(&api.node, &node) && !force {
        let detail = format!(
            "{node} is alive: let it leave with `shoal cluster leave --node {node}`, or remove it with --force"
        );
        return Err(Problem::new(StatusCode::CONFLICT, "node_is_alive", detail));
    }
    roster(&api.node, StateRequest::Evict { node }).await.map(|roster| Body(roster.into()))
}

fn is_alive(node: &Handle, asked: &NodeId) -> bool {
    let view = node.view();
    view.members.iter().any(|(member, _)| member.card.node_id == *asked && member.status.is_reachable())
}

pub(super) async fn resolve(
    State(api): State<Arc<Api>>,
    Json(Resolve { strategy, reason }): Json<Resolve>,
) -> Result<Body<Roster>, Problem> {
    let request = match (strategy, reason) {
        (ResolveStrategy::Quorum, None) => StateRequest::FinishRoster,
        (ResolveStrategy::Quorum, Some(_)) => {
            return Err(Problem::bad_request("a reason is kept of a forced override only: leave it out"));
        }
        (ResolveStrategy::Force, reason) => {
            let reason = reason.unwrap_or_else(|| "no reason was given".to_owned());
            let most = limits::API_NAME_BYTES_MAX;
            if reason.is_empty() || reason.len() > most || reason.chars().any(char::is_control) {
                let why = format!("reason must have 1 to {most} bytes and no control characters");
                return Err(Problem::bad_request(why));
            }
            StateRequest::ForceRoster { audit: format!("{reason} (asked of {})", api.node.own()) }
        }
    };
    roster(&api.node, request).await.map(|roster| Body(roster.into()))
}

pub(super) async fn reconcile(
    State(api): State<Arc<Api>>,
    Json(Reconcile { force }): Json<Reconcile>,
) -> Result<Body<Reconciled>, Problem> {
    let own = api.node.own();
    let StateAnswer::Reconciled { peers } = ask(&api.node, own, StateRequest::Reconcile).await? else {
        return Err(Problem::bad_answer(own));
    };
    let peers = peers.into_iter().map(|(node, found)| (node, found.map(Into::into))).collect();
    let mended = if force { Some(mend(&api.node).await?) } else { None };
    Ok(Body(Reconciled { node: own.clone(), peers, mended }))
}

async fn mend(node: &Handle) -> Result<Mended, Problem> {
    let own = node.own();
    let StateAnswer::Mended { peers, keys, written } = ask(node, own, StateRequest::Mend).await? else {
        return Err(Problem::bad_answer(own));
    };
    let peers = peers.into_iter().map(|(node, found)| (node, found.map(Into::into))).collect();
    Ok(Mended { peers, keys, written })
}

/// Asks every node that can be asked how it stands and whom it sees, and puts that together. A side that cannot be
/// asked shows as members that tell nothing and that nobody sees: from here it cannot be told from a crash.
pub(super) async fn partition(State(api): State<Arc<Api>>) -> Result<Body<Partition>, Problem> {
    let roster = roster(&api.node, StateRequest::Roster).await?;
    let (standings, liveness) = tokio::join!(standings(&api.node), liveness(&api.node));
    let heard = standings.iter().filter_map(|(node, status)| Some((node, status.as_ref().ok()?)));
    let views: BTreeMap<NodeId, BTreeSet<NodeId>> = heard
        .map(|(node, status)| (node.clone(), seen(&status.partition.reachable, liveness.get(node), &roster)))
        .collect();
    let found = sides(&views, &roster);
    let view = api.node.view();
    let status = |node: &NodeId| {
        let member = view.members.iter().find(|(member, _)| member.card.node_id == *node);
        member.map(|(member, _)| member.status)
    };
    let is_lost = |silent: &model::SilentNode| {
        silent.seen_by.is_empty() && status(&silent.node) != Some(MemberStatus::Left)
    };
    let silent = |silent: &model::SilentNode| SilentNode {
        node: silent.node.clone(),
        status: status(&silent.node).map(|status| status.to_string()),
        seen_by: silent.seen_by.clone(),
    };
    Ok(Body(Partition {
        parted: found.sides.len() > 1 || found.silent.iter().any(is_lost),
        silent: found.silent.iter().map(silent).collect(),
        sides: found.sides.into_iter().map(Into::into).collect(),
        cuts: found.cuts.into_iter().map(Into::into).collect(),
        cuts_unlisted: found.cuts_unlisted,
        nodes: standings.into_iter().map(|(node, status)| mode_of(node, status)).collect(),
    }))
}

/// Beats tell which voters a node hears; those that do not vote send none, and are seen as gossip sees them.
fn seen(
    voters: &BTreeSet<NodeId>,
    alive: Option<&BTreeSet<NodeId>>,
    roster: &model::Roster,
) -> BTreeSet<NodeId> {
    let others = alive.into_iter().flatten().filter(|node| !roster.is_voter(node));
    voters.iter().chain(others).cloned().collect()
}

async fn standings(node: &Handle) -> Vec<(NodeId, Result<StateStatus, String>)> {
    let answers = ask_all(node, RequestBody::State(StateRequest::Status));
    let told = answers.map(|(node, answer)| {
        let status = match answer {
            Ok(ResponseBody::State(StateAnswer::Status(status))) => Ok(*status),
            Ok(_) => Err(not_understood(&node)),
            Err(reason) => Err(reason),
        };
        (node, status)
    });
    told.collect().await
}

async fn liveness(node: &Handle) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
    let answers = ask_all(node, RequestBody::Facts);
    let told = answers.filter_map(|(node, answer)| async move {
        let Ok(ResponseBody::Facts(facts)) = answer else {
            return None;
        };
        let alive = facts.members.into_iter().filter(|member| member.status.is_reachable());
        Some((node, alive.map(|member| member.node).collect()))
    });
    told.collect().await
}

fn mode_of(node_id: NodeId, status: Result<StateStatus, String>) -> NodeMode {
    match status {
        Ok(status) => NodeMode {
            node_id,
            mode: Some(status.partition.mode.to_string()),
            reason: status.reason,
            age_seconds: age(&status.partition),
            error: None,
        },
        Err(error) => {
            NodeMode { node_id, mode: None, reason: String::new(), age_seconds: None, error: Some(error) }
        }
    }
}

/// Since a majority was last heard, in seconds; `None` while one is.
pub(super) fn age(view: &model::PartitionView) -> Option<f64> {
    match view.mode {
        model::Mode::Healthy => None,
        model::Mode::Joining | model::Mode::Degraded | model::Mode::Recovering => {
            view.age_ms.map(|ms| ms as f64 / 1e3)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::Seat;

    #[test]
    fn voters_are_seen_by_their_beats_and_others_by_gossip() {
        let node = |name: &str| NodeId::new(name).expect("valid");
        let nodes = |names: &[&str]| names.iter().map(|name| node(name)).collect::<BTreeSet<_>>();
        let seat = |voter: bool| Seat { voter, ..Seat::default() };
        let roster = model::Roster {
            epoch: model::Epoch::default(),
            members: [(node("a"), seat(true)), (node("b"), seat(true)), (node("c"), seat(false))].into(),
            quorum_size: None,
            tie_breaker: None,
            split_writes: false,
            max_offline: std::time::Duration::from_secs(60),
            audit: None,
        };
        let alive = nodes(&["b", "c"]);
        assert_eq!(
            seen(&nodes(&["a"]), Some(&alive), &roster),
            nodes(&["a", "c"]),
            "b is alive and not heard"
        );
        assert_eq!(seen(&nodes(&["a", "b"]), None, &roster), nodes(&["a", "b"]));
    }
}
