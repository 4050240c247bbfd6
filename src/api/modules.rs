//! `/v1/modules`: the WASM modules of the asked node, and taking one in.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::problem::Problem;
use super::read::read_body;
use super::types::Module;
use crate::core::limits;

/// The time for the body of an upload.
const UPLOAD_DEADLINE: Duration = limits::MODULE_UPLOAD_DEADLINE;

/// Ends when the module is checked, compiled and kept. The body is the module itself.
pub(super) async fn put(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let Ok(_turn) = api.uploads.try_acquire() else {
        let detail = format!("{} modules are being uploaded already: try again", limits::MODULE_UPLOADS_MAX);
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail));
    };
    let reading = read_body(request, limits::MODULE_BYTES_MAX);
    let Ok(body) = tokio::time::timeout(UPLOAD_DEADLINE, reading).await else {
        let detail = format!("the module did not arrive within {} s", UPLOAD_DEADLINE.as_secs());
        return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", detail));
    };
    let body = body?;
    let bytes = body.len() as u64;
    let refused = |why: String| {
        let detail = format!("{} does not take the module: {why}", api.node.own());
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_module", detail)
    };
    let module = api.node.put_module(body).await.map_err(refused)?;
    Ok((StatusCode::CREATED, Body(Module { module, bytes, in_use: false })).into_response())
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Body<Vec<Module>>, Problem> {
    let failed = |why| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no_answer", why);
    let modules = api.node.modules().await.map_err(failed)?;
    Ok(Body(modules.into_iter().map(Module::from).collect()))
}
