//! `/v1/history`: what a node has seen and keeps over restarts.

use std::sync::Arc;

use axum::Json as Body;
use axum::extract::State;
use serde::Deserialize;

use super::Api;
use super::problem::Problem;
use super::read::Query;
use super::types::History;
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::wire::{HistoryQuery, RequestBody, ResponseBody};

/// Which part of whose history.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Only what is about this node.
    node: Option<NodeId>,
    /// Only what is about agents of this name.
    agent: Option<AgentName>,
    /// What follows this number; the newest entries when absent.
    after: Option<u64>,
    /// At most so many.
    #[serde(default = "limit_default")]
    limit: u32,
    /// The node whose history it is; the asked one when absent.
    seen_by: Option<NodeId>,
}

fn limit_default() -> u32 {
    100
}

pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Query(Which { node, agent, after, limit, seen_by }): Query<Which>,
) -> Result<Body<History>, Problem> {
    let limit_max = limits::HISTORY_PAGE_MAX as u32;
    if !(1..=limit_max).contains(&limit) {
        return Err(Problem::bad_request(format!("limit is {limit}: it must be 1 to {limit_max}")));
    }
    let teller = seen_by.unwrap_or_else(|| api.node.own().clone());
    let query = HistoryQuery { node, agent, after, limit };
    let ResponseBody::History(page) =
        api.node.request(teller.clone(), RequestBody::History { query }).await?
    else {
        return Err(Problem::bad_answer(&teller));
    };
    Ok(Body(History::new(teller, page)))
}
