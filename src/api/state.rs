//! `/v1/state`, `/v1/tickets` and `/v1/policies`: the keys that the nodes share. Reads may go to any node; a write is
//! made by the asked one.

use std::sync::Arc;

use axum::Json as Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;

use super::Api;
use super::context;
use super::custom_policy;
use super::everywhere::{ask_all, not_understood};
use super::problem::Problem;
use super::read::{Json, Query};
use super::types::{
    Ack, KeyAtNode, KeyEverywhere, KeyPage, KeyState, Policies, PutKey, PutPolicy, Ticket, Write, WriteDone,
    WriteQueued, dot,
};
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{self, check_key};
use crate::core::wire::{RequestBody, ResponseBody, StateAnswer, StateRequest, StateValue};
use crate::node::Handle;

/// Asks a node about the state.
pub(super) async fn ask(
    node: &Handle,
    asked: &NodeId,
    request: StateRequest,
) -> Result<StateAnswer, Problem> {
    let ResponseBody::State(answer) = node.request(asked.clone(), RequestBody::State(request)).await? else {
        return Err(Problem::bad_answer(asked));
    };
    Ok(answer)
}

/// The key in the path.
pub(super) struct Key(String);

impl FromRequestParts<Arc<Api>> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let Path(key) = Path::<String>::from_request_parts(parts, api)
            .await
            .map_err(|rejection| bad_key(&rejection.body_text()))?;
        check_key(&key).map_err(bad_key)?;
        Ok(Self(key))
    }
}

fn bad_key(why: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_key", format!("the key is not usable: {why}"))
}

fn no_such_key(node: &NodeId, key: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_such_key", format!("{node} knows no value of the key {key:?}"))
}

/// Which node is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct At {
    /// The one whose API it is when absent.
    node: Option<NodeId>,
}

pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Key(key): Key,
    Query(At { node }): Query<At>,
) -> Result<Body<KeyState>, Problem> {
    let node = node.unwrap_or_else(|| api.node.own().clone());
    let answer = ask(&api.node, &node, StateRequest::Get { key: key.clone() }).await?;
    if answer == StateAnswer::Absent {
        return Err(no_such_key(&node, &key));
    }
    let StateAnswer::Value(value) = answer else {
        return Err(Problem::bad_answer(&node));
    };
    if !has_value(&value) {
        return Err(no_such_key(&node, &key));
    }
    let mut state = described(node, value);
    custom_policy::choose(&api.node, &mut state).await;
    Ok(Body(state))
}

fn has_value(value: &StateValue) -> bool {
    value.value.is_some() || !value.siblings.is_empty()
}

fn described(node: NodeId, value: StateValue) -> KeyState {
    let context = context::text(&value.context);
    KeyState::new(node, value, context)
}

/// What is listed, or asked of all nodes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    prefix: Option<String>,
    after: Option<String>,
    limit: Option<u32>,
    node: Option<NodeId>,
    #[serde(default)]
    all_nodes: bool,
    key: Option<String>,
}

/// A page of keys, or one key as every node knows it.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(listed): Query<Listed>,
) -> Result<Response, Problem> {
    let Listed { prefix, after, limit, node, all_nodes, key } = listed;
    if all_nodes {
        let (Some(key), None, None, None, None) = (key, prefix, after, limit, node) else {
            let why = "all_nodes=true is about one key: give key=KEY, and nothing else";
            return Err(Problem::bad_request(why));
        };
        check_key(&key).map_err(bad_key)?;
        return Ok(Body(everywhere(&api.node, key).await).into_response());
    }
    if key.is_some() {
        return Err(Problem::bad_request("key is for all_nodes=true: one node is asked at /v1/state/KEY"));
    }
    let node = node.unwrap_or_else(|| api.node.own().clone());
    let limit_max = u32::try_from(limits::STATE_PAGE_MAX).unwrap_or(u32::MAX);
    let limit = limit.unwrap_or(limit_max);
    if !(1..=limit_max).contains(&limit) {
        return Err(Problem::bad_request(format!("limit is {limit}: it must be 1 to {limit_max}")));
    }
    let prefix = prefix.unwrap_or_default();
    check_text("prefix", &prefix)?;
    check_text("after", after.as_deref().unwrap_or_default())?;
    let (entries, more) = page(&api.node, &node, StateRequest::List { prefix, after, limit }).await?;
    let mut entries: Vec<_> = entries.into_iter().map(|value| described(node.clone(), value)).collect();
    custom_policy::choose_some(&api.node, &mut entries).await;
    Ok(Body(KeyPage { entries, more }).into_response())
}

fn check_text(field: &str, text: &str) -> Result<(), Problem> {
    let most = limits::STATE_KEY_BYTES_MAX;
    if text.len() > most {
        return Err(Problem::bad_request(format!("{field} has more than {most} bytes, and no key has")));
    }
    Ok(())
}

/// One page, and whether there are more.
pub(super) async fn page(
    node: &Handle,
    asked: &NodeId,
    request: StateRequest,
) -> Result<(Vec<StateValue>, bool), Problem> {
    let StateAnswer::Page { entries, more } = ask(node, asked, request).await? else {
        return Err(Problem::bad_answer(asked));
    };
    Ok((entries, more))
}

async fn everywhere(api_node: &Handle, key: String) -> KeyEverywhere {
    let mut answers =
        std::pin::pin!(ask_all(api_node, RequestBody::State(StateRequest::Get { key: key.clone() })));
    let mut bytes = 0;
    let mut nodes = Vec::new();
    while let Some((node, answer)) = answers.next().await {
        let (state, error) = match answer {
            Ok(ResponseBody::State(StateAnswer::Absent)) => (None, None),
            Ok(ResponseBody::State(StateAnswer::Value(value))) if has_value(&value) => {
                bytes += size(&value);
                if bytes > limits::STATE_EVERYWHERE_BYTES_MAX {
                    let why =
                        format!("what {node} has is left out, because all answers together are too large");
                    (None, Some(why + ": ask it alone"))
                } else {
                    let mut state = described(node.clone(), value);
                    custom_policy::choose(api_node, &mut state).await;
                    (Some(state), None)
                }
            }
            Ok(ResponseBody::State(StateAnswer::Value(_))) => (None, None),
            Ok(_) => (None, Some(not_understood(&node))),
            Err(reason) => (None, Some(reason)),
        };
        nodes.push(KeyAtNode { node, state, error });
    }
    KeyEverywhere { key, nodes }
}

fn size(value: &StateValue) -> usize {
    let all = value.value.iter().chain(&value.siblings);
    all.map(|sibling| sibling.value.len()).sum()
}

pub(super) async fn put(
    State(api): State<Arc<Api>>,
    Key(key): Key,
    Json(put): Json<PutKey>,
) -> Result<Response, Problem> {
    let value: Bytes = match (put.value, put.value_base64) {
        (Some(text), None) => text.into(),
        (None, Some(base64)) => match BASE64_STANDARD.decode(base64) {
            Ok(bytes) => bytes.into(),
            Err(error) => return Err(Problem::bad_request(format!("value_base64 is not base64: {error}"))),
        },
        (Some(_), Some(_)) => return Err(Problem::bad_request("give value or value_base64, not both")),
        (None, None) => return Err(Problem::bad_request("there is no value: give value or value_base64")),
    };
    write(&api, key, Some(value), put.context, put.ack).await
}

/// How a key is deleted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deletion {
    context: Option<String>,
    #[serde(default)]
    ack: Ack,
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Key(key): Key,
    Query(Deletion { context, ack }): Query<Deletion>,
) -> Result<Response, Problem> {
    write(&api, key, None, context, ack).await
}

async fn write(
    api: &Api,
    key: String,
    value: Option<Bytes>,
    context: Option<String>,
    ack: Ack,
) -> Result<Response, Problem> {
    let context = context.as_deref().map(context::parse).transpose()?;
    let own = api.node.own();
    let request = StateRequest::Put { key: key.clone(), value, context, ack: ack.into() };
    let answer = ask(&api.node, own, request).await?;
    if answer == StateAnswer::Absent {
        return Err(no_such_key(own, &key));
    }
    let write = written(answer).ok_or_else(|| Problem::bad_answer(own))?;
    Ok(told(write))
}

/// What became of a write; `None` where the answer is about something else.
pub(super) fn written(answer: StateAnswer) -> Option<Write> {
    if let StateAnswer::Queued { ticket } = answer {
        return Some(Write::Queued(WriteQueued { ticket: ticket.to_string() }));
    }
    let StateAnswer::Written { dot: made, is_sibling, marked, voters } = answer else {
        return None;
    };
    Some(Write::Done(WriteDone { dot: dot(made), sibling: is_sibling, marked, voters }))
}

/// 200, or 202 and where to ask about the ticket.
pub(super) fn told(write: Write) -> Response {
    let location = match &write {
        Write::Done(_) => return Body(write).into_response(),
        Write::Queued(queued) => HeaderValue::try_from(format!("/v1/tickets/{}", queued.ticket)),
    };
    let mut response = (StatusCode::ACCEPTED, Body(write)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// What became of a queued write, asked of the node that has it.
pub(super) async fn ticket(
    State(api): State<Arc<Api>>,
    path: Result<Path<(String, String)>, axum::extract::rejection::PathRejection>,
) -> Result<Body<Ticket>, Problem> {
    let Path((node, rest)) = path.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let ticket: model::Ticket = format!("{node}/{rest}")
        .parse()
        .map_err(|error: model::TicketError| Problem::bad_request(error.to_string()))?;
    let node = ticket.node.clone();
    let StateAnswer::Ticket(view) = ask(&api.node, &node, StateRequest::Ticket { ticket }).await? else {
        return Err(Problem::bad_answer(&node));
    };
    Ok(Body(view.into()))
}

pub(super) async fn policies(State(api): State<Arc<Api>>) -> Result<Body<Policies>, Problem> {
    let own = api.node.own();
    let StateAnswer::Policies(policies) = ask(&api.node, own, StateRequest::Policies).await? else {
        return Err(Problem::bad_answer(own));
    };
    Ok(Body(Policies { policies }))
}

pub(super) async fn set_policy(
    State(api): State<Arc<Api>>,
    Prefix(prefix): Prefix,
    Json(PutPolicy { policy }): Json<PutPolicy>,
) -> Result<Response, Problem> {
    choose(&api, prefix, Some(policy)).await
}

pub(super) async fn drop_policy(
    State(api): State<Arc<Api>>,
    Prefix(prefix): Prefix,
) -> Result<Response, Problem> {
    choose(&api, prefix, None).await
}

/// The prefix in the path; what it may look like is for the mesh to say.
pub(super) struct Prefix(String);

impl FromRequestParts<Arc<Api>> for Prefix {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let Path(prefix) = Path::<String>::from_request_parts(parts, api)
            .await
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        check_text("prefix", &prefix)?;
        Ok(Self(prefix))
    }
}

async fn choose(api: &Api, prefix: String, policy: Option<String>) -> Result<Response, Problem> {
    let own = api.node.own();
    let answer = ask(&api.node, own, StateRequest::SetPolicy { prefix: prefix.clone(), policy }).await?;
    if answer == StateAnswer::Absent {
        let detail = format!("no policy was chosen for the prefix {prefix:?}");
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_such_policy", detail));
    }
    written(answer).map(told).ok_or_else(|| Problem::bad_answer(own))
}
