//! `/health/live`, `/health/ready` and `/metrics`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;

use super::Api;
use super::types::Health;
use crate::node::Handle;
use crate::node::identity::Standing;

/// The media type of the metrics.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The process answers.
pub(super) async fn live() -> Json<Health> {
    Json(Health { status: "live".to_owned() })
}

/// Whether the node serves its mesh: 503 while it has not found it, while its certificate is good no more, and once
/// it stops.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Response {
    let status = status_of(&api.node);
    let code = if status == "healthy" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Health { status: status.to_owned() })).into_response()
}

pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    exposition(&api.metrics)
}

pub(super) fn exposition(metrics: &PrometheusHandle) -> Response {
    ([(CONTENT_TYPE, EXPOSITION)], metrics.render()).into_response()
}

/// The node's own status, in the word that users see.
pub(super) fn status_of(node: &Handle) -> &'static str {
    let view = node.view();
    match (view.stopping, node.identity().standing, view.joined) {
        (true, _, _) => "stopping",
        (false, Standing::Expired, _) => "certificate_expired",
        (false, Standing::Revoked, _) => "certificate_revoked",
        (false, Standing::Good, false) => "joining",
        (false, Standing::Good, true) => "healthy",
    }
}
