//! Who may ask: the checks that come before any handler.
//!
//! On a loopback address a browser is the danger: a page from elsewhere may send requests there, also under
//! a name of its own that it lets point to loopback. So the `Host` must be a loopback name and an
//! `Origin`, where there is one, must be that host. On any other address, and wherever a token is
//! configured, the token is required.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use super::token::Token;

/// The rules of one listening address.
#[derive(Debug)]
pub(super) struct Guard {
    bound: SocketAddr,
    token: Option<Token>,
}

impl Guard {
    pub(super) fn new(bound: SocketAddr, token: Option<Token>) -> Arc<Self> {
        Arc::new(Self { bound, token })
    }

    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let host = self.check_host(uri, headers)?;
        check_origin(host.as_ref(), headers)?;
        let is_open = uri.path().starts_with("/health/");
        match &self.token {
            Some(token) if !is_open => check_token(token, headers),
            Some(_) | None => Ok(()),
        }
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<Option<Authority>, Problem> {
        let refuse = || {
            let detail = format!(
                "this API answers on loopback only: ask for http://{}, or http://localhost:{}",
                self.bound,
                self.bound.port()
            );
            Problem::new(StatusCode::FORBIDDEN, "host_not_allowed", detail)
        };
        let mut named = headers.get_all(HOST).iter();
        let host = match (named.next(), named.next()) {
            (None, _) => None,
            (Some(host), None) => {
                let authority = Authority::try_from(host.as_bytes()).ok();
                let authority = authority.filter(|authority| !authority.as_str().contains('@'));
                Some(authority.ok_or_else(|| Problem::bad_request("the Host header is not understood"))?)
            }
            (Some(_), Some(_)) => return Err(Problem::bad_request("there is more than one Host header")),
        };
        if !self.bound.ip().is_loopback() {
            return Ok(host);
        }
        let is_allowed = |authority: &Authority| self.is_own_name(authority.host());
        // A target in absolute form names a host too.
        if !host.as_ref().is_some_and(is_allowed) || !uri.authority().is_none_or(is_allowed) {
            return Err(refuse());
        }
        Ok(host)
    }

    fn is_own_name(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => bare.eq_ignore_ascii_case("localhost"),
        }
    }
}

fn check_origin(host: Option<&Authority>, headers: &HeaderMap) -> Result<(), Problem> {
    let same_host = |origin: &[u8]| {
        let origin = Uri::try_from(origin).ok();
        let authority = origin.as_ref().and_then(Uri::authority);
        matches!((authority, host), (Some(origin), Some(host)) if origin.as_str().eq_ignore_ascii_case(host.as_str()))
    };
    if headers.get_all(ORIGIN).iter().all(|origin| same_host(origin.as_bytes())) {
        return Ok(());
    }
    let detail = "requests from web pages of other hosts are refused";
    Err(Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail))
}

fn check_token(token: &Token, headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(AUTHORIZATION).map(axum::http::HeaderValue::as_bytes);
    let presented = given.and_then(|value| match value.split_at_checked(7) {
        Some((scheme, presented)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(presented.trim_ascii()),
        Some(_) | None => None,
    });
    let detail = match presented {
        Some(presented) if token.admits(presented) => return Ok(()),
        Some(_) => "the token is not the one of this node",
        None => "a token is required: send the header `authorization: Bearer TOKEN`",
    };
    Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail))
}

/// Lets a request through, or answers why not.
pub(super) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}
