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
use crate::core::limits;
use crate::core::model::Mode;
use crate::core::wire::{RequestBody, ResponseBody, StateAnswer, StateRequest, StateStatus};
use crate::node::Handle;
use crate::node::identity::Standing;

/// The media type of the metrics.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The process answers.
pub(super) async fn live() -> Json<Health> {
    Json(Health { status: "live".to_owned(), mode: None })
}

/// Whether the node serves its mesh: 503 while it has not found it or does not know yet what it has missed, while its
/// certificate is good no more, once it stops, and while its main loop does not answer. A node of a minority is ready:
/// it serves what it may, and says so.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Response {
    let status = status_of(&api.node);
    let standing = if status == "healthy" { standing(&api.node).await } else { None };
    let mode = standing.map(|standing| standing.partition.mode);
    let status = match (status, mode) {
        ("healthy", None) => "unresponsive",
        ("healthy", Some(Mode::Joining)) => "joining",
        (status, _) => status,
    };
    let code = if status == "healthy" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let health = Health { status: status.to_owned(), mode: mode.map(|mode| mode.to_string()) };
    (code, Json(health)).into_response()
}

/// How the node itself stands; `None` when its main loop does not say in time.
pub(super) async fn standing(node: &Handle) -> Option<StateStatus> {
    let asking = node.request(node.own().clone(), RequestBody::State(StateRequest::Status));
    let answer = tokio::time::timeout(limits::API_HEALTH_DEADLINE, asking).await;
    let Ok(Ok(ResponseBody::State(StateAnswer::Status(status)))) = answer else {
        return None;
    };
    Some(*status)
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
