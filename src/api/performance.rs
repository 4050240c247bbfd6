//! `/v1/cluster/performance`: what messages and starts take on the asked node, measured now.

use std::sync::Arc;

use axum::Json as Body;
use axum::extract::State;

use super::Api;
use super::problem::Problem;
use super::read::Json;
use super::types::{Measure, Performance, PerformanceRow};

/// Takes some seconds at most; a client that goes away ends it.
pub(super) async fn measure(
    State(api): State<Arc<Api>>,
    Json(Measure { peer }): Json<Measure>,
) -> Result<Body<Performance>, Problem> {
    let rows = api.node.measure(peer).await?;
    Ok(Body(Performance {
        node_id: api.node.own().clone(),
        rows: rows.into_iter().map(PerformanceRow::from).collect(),
    }))
}
