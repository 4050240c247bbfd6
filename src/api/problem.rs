//! Errors of the API: one status, one stable code and one sentence each, told as RFC 9457 documents.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::types::ProblemDocument;
use crate::core::error::{Refusal, SendError};
use crate::core::ids::NodeId;

/// The media type of an error.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request was not done.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    nodes: Vec<NodeId>,
    /// Seconds after which the same may end otherwise, as far as known.
    retry_after: Option<u64>,
}

impl Problem {
    /// An error with this status, code and sentence.
    #[must_use]
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), nodes: Vec::new(), retry_after: None }
    }

    /// The request itself is wrong.
    #[must_use]
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// Only a node of another version answers with something else than what was asked.
    #[must_use]
    pub(super) fn bad_answer(node: &NodeId) -> Self {
        let detail =
            format!("{node} gave an answer that this node does not understand: do their versions differ?");
        Self::new(StatusCode::BAD_GATEWAY, "bad_answer", detail)
    }

    /// The same error, with the nodes to choose from.
    #[must_use]
    pub(super) fn with_nodes(self, nodes: Vec<NodeId>) -> Self {
        Self { nodes, ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        metrics::counter!("shoal_api_problems_total", "code" => self.code).increment(1);
        let document = ProblemDocument {
            r#type: format!("urn:shoal:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code.to_owned(),
            nodes: self.nodes,
        };
        let body = serde_json::to_vec(&document).expect("texts and numbers are JSON");
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == "overloaded" || self.code == "too_many_watchers" {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<SendError> for Problem {
    fn from(error: SendError) -> Self {
        let status = match &error {
            SendError::BadAddress { .. } => StatusCode::BAD_REQUEST,
            SendError::Superseded { .. } => StatusCode::CONFLICT,
            SendError::UnknownAgent { .. } | SendError::NoRecipient { .. } => StatusCode::NOT_FOUND,
            SendError::ContentTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            SendError::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            SendError::AgentFailed { .. } | SendError::LinkLost { .. } => StatusCode::BAD_GATEWAY,
            SendError::NodeDown { .. }
            | SendError::TooFar { .. }
            | SendError::NotRunning { .. }
            | SendError::BreakerOpen { .. }
            | SendError::Joining { .. }
            | SendError::NotPromised { .. }
            | SendError::Stopping { .. } => StatusCode::SERVICE_UNAVAILABLE,
            SendError::DeadlineExceeded { .. } => StatusCode::GATEWAY_TIMEOUT,
            SendError::TooManyHops { .. } => StatusCode::LOOP_DETECTED,
        };
        let retry_after = if let SendError::BreakerOpen { retry_ms, .. } = &error {
            Some(retry_ms.div_ceil(1000))
        } else {
            None
        };
        Self { retry_after, ..Self::new(status, error.code(), error.to_string()) }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::BadRequest { .. } => StatusCode::BAD_REQUEST,
            Refusal::UnknownNode { .. } | Refusal::UnknownAgent { .. } => StatusCode::NOT_FOUND,
            Refusal::UnknownTicket { .. } => StatusCode::NOT_FOUND,
            Refusal::AgentExists { .. } | Refusal::Outdated { .. } => StatusCode::CONFLICT,
            Refusal::BadWrite { .. } => match refusal.code() {
                "context_ahead" | "superseded" | "too_many_siblings" => StatusCode::CONFLICT,
                "full" => StatusCode::TOO_MANY_REQUESTS,
                "disk" => StatusCode::INSUFFICIENT_STORAGE,
                "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            },
            Refusal::StartFailed { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refusal::StoreFailed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::LinkLost { .. } | Refusal::NoAnswer { .. } => StatusCode::BAD_GATEWAY,
            Refusal::NodeDown { .. } | Refusal::Joining { .. } | Refusal::Barred { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Refusal::TimedOut { .. } | Refusal::Indeterminate { .. } => StatusCode::GATEWAY_TIMEOUT,
        };
        Self::new(status, refusal.code(), refusal.to_string())
    }
}
