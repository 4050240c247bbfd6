//! Reads what a request carries: its body, its query and the names in its path. What is wrong with them
//! is said as a [`Problem`], with the place where there is one.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use serde::de::DeserializeOwned;

use super::Api;
use super::problem::Problem;
use crate::core::ids::AgentName;
use crate::core::limits;

/// The JSON body of a request.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Arc<Api>) -> Result<Self, Problem> {
        if !is_json(&request) {
            let detail = "the body must be JSON: send the header `content-type: application/json`";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail));
        }
        let reading = read_body(request, limits::API_BODY_BYTES_MAX);
        let Ok(body) = tokio::time::timeout(limits::API_READ_DEADLINE, reading).await else {
            let detail = format!("the body did not arrive within {} s", limits::API_READ_DEADLINE.as_secs());
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", detail));
        };
        serde_json::from_slice(&body?).map(Self).map_err(|error| bad_json(&error))
    }
}

fn is_json(request: &Request) -> bool {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/json")
}

/// The whole body, of at most so many bytes.
pub(super) async fn read_body(request: Request, bytes_max: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body has more than {bytes_max} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    };
    let body = request.into_body();
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    match Limited::new(body, bytes_max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Problem::bad_request(format!("the body could not be read: {error}"))),
    }
}

/// A syntax error and a field that does not fit are both told with their place; the parser refuses deep
/// nesting of its own accord.
fn bad_json(error: &serde_json::Error) -> Problem {
    let detail = format!("the body is not the JSON that is expected here: {error}");
    Problem::new(StatusCode::BAD_REQUEST, "bad_json", detail)
}

/// The query of a request.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Api>> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, Problem> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                let detail = format!("the query is not understood: {}", rejection.body_text());
                Err(Problem::new(StatusCode::BAD_REQUEST, "bad_query", detail))
            }
        }
    }
}

/// The agent's name in the path.
pub(super) struct Named(pub(super) AgentName);

impl FromRequestParts<Arc<Api>> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, api)
            .await
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        AgentName::new(&name).map(Self).map_err(|error| Problem::bad_request(error.to_string()))
    }
}
