//! `/v1/messages/{id}` and `/v1/dead-letters`: what became of messages that a node has promised to deliver.

use std::sync::Arc;

use axum::Json as Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use uuid::Uuid;

use super::Api;
use super::problem::Problem;
use super::read::{Json, Query};
use super::types::{DeadChanged, DeadLetters, DeadOnes, MessageTrace};
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::wire::{self, OutboxAnswer, OutboxRequest, RequestBody, ResponseBody};

/// Dead letters in one answer when the client does not say.
const LIMIT_DEFAULT: u32 = 100;

/// Whose outbox.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Of {
    /// The asked node when absent.
    node: Option<NodeId>,
}

/// Which dead letters of whom.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    node: Option<NodeId>,
    /// Only those after this one.
    after: Option<Uuid>,
    limit: Option<u32>,
}

pub(super) async fn trace(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Query(Of { node }): Query<Of>,
) -> Result<Body<MessageTrace>, Problem> {
    let Ok(id) = id.parse::<Uuid>() else {
        return Err(Problem::bad_request(format!("{id:?} is no message id")));
    };
    let (node, answer) = ask(&api, node, OutboxRequest::Trace { id }).await?;
    match answer {
        OutboxAnswer::Trace(Some(trace)) => Ok(Body(MessageTrace::new(node, *trace))),
        OutboxAnswer::Trace(None) => {
            let detail = format!(
                "{node} knows no message {id}: it did not promise to deliver it, or has done so too long ago"
            );
            Err(Problem::new(StatusCode::NOT_FOUND, "unknown_message", detail))
        }
        OutboxAnswer::Accepted { .. } | OutboxAnswer::DeadLetters { .. } | OutboxAnswer::Changed { .. } => {
            Err(Problem::bad_answer(&node))
        }
    }
}

pub(super) async fn dead(
    State(api): State<Arc<Api>>,
    Query(Which { node, after, limit }): Query<Which>,
) -> Result<Body<DeadLetters>, Problem> {
    let (limit, limit_max) = (limit.unwrap_or(LIMIT_DEFAULT), limits::DEAD_LETTERS_LISTED_MAX as u32);
    if !(1..=limit_max).contains(&limit) {
        return Err(Problem::bad_request(format!("limit is {limit}: it must be 1 to {limit_max}")));
    }
    let (node, answer) = ask(&api, node, OutboxRequest::DeadLetters { limit, after }).await?;
    let OutboxAnswer::DeadLetters { letters, total } = answer else {
        return Err(Problem::bad_answer(&node));
    };
    Ok(Body(DeadLetters { node, total, letters: letters.into_iter().map(Into::into).collect() }))
}

pub(super) async fn retry(
    State(api): State<Arc<Api>>,
    Query(Of { node }): Query<Of>,
    Json(ones): Json<DeadOnes>,
) -> Result<Body<DeadChanged>, Problem> {
    let letters = meant(ones)?;
    change(&api, node, OutboxRequest::Retry { letters }).await
}

pub(super) async fn drop(
    State(api): State<Arc<Api>>,
    Query(Of { node }): Query<Of>,
    Json(ones): Json<DeadOnes>,
) -> Result<Body<DeadChanged>, Problem> {
    let letters = meant(ones)?;
    change(&api, node, OutboxRequest::Drop { letters }).await
}

fn meant(ones: DeadOnes) -> Result<wire::DeadOnes, Problem> {
    match ones {
        DeadOnes { ids, all: true } if ids.is_empty() => Ok(wire::DeadOnes::All),
        DeadOnes { ids, all: false } if !ids.is_empty() => Ok(wire::DeadOnes::These(ids)),
        DeadOnes { .. } => Err(Problem::bad_request("say which: `ids`, or `all`")),
    }
}

async fn change(
    api: &Api,
    node: Option<NodeId>,
    request: OutboxRequest,
) -> Result<Body<DeadChanged>, Problem> {
    let (node, answer) = ask(api, node, request).await?;
    let OutboxAnswer::Changed { count, left } = answer else {
        return Err(Problem::bad_answer(&node));
    };
    Ok(Body(DeadChanged { node, count, left }))
}

/// Who answered, and what.
pub(super) async fn ask(
    api: &Api,
    node: Option<NodeId>,
    request: OutboxRequest,
) -> Result<(NodeId, OutboxAnswer), Problem> {
    let node = node.unwrap_or_else(|| api.node.own().clone());
    match api.node.request(node.clone(), RequestBody::Outbox(request)).await? {
        ResponseBody::Outbox(answer) => Ok((node, answer)),
        ResponseBody::Done
        | ResponseBody::Left { .. }
        | ResponseBody::AgentInfo { .. }
        | ResponseBody::Lines { .. }
        | ResponseBody::Facts(_)
        | ResponseBody::History(_)
        | ResponseBody::State(_)
        | ResponseBody::Desired(_)
        | ResponseBody::ModulePart(_) => Err(Problem::bad_answer(&node)),
    }
}
