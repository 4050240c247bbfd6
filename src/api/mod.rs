//! The HTTP API of a node: JSON under `/v1`, health and metrics, described in `docs/http-api.md`.
//!
//! It holds a [`Handle`] and nothing of its own but a count of watchers and what its counters have added. [`bind`] comes before the node
//! starts, so that a port in use is told before anything has happened; [`serve`] ends after its
//! `shutdown` future, when the answers under way have been given.

mod agents;
mod blueprints;
mod certificates;
mod cluster;
mod context;
mod counters;
mod custom_policy;
mod diagnosis;
mod events;
mod everywhere;
mod guard;
mod health;
mod history;
mod letters;
mod listen;
mod messages;
mod modules;
mod performance;
mod problem;
mod read;
mod roster;
mod state;
pub mod token;
pub mod types;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post, put};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::counters::Counters;
use self::guard::{Guard, guard};
use self::problem::Problem;
use self::token::Token;
use crate::core::limits;
use crate::node::Handle;

/// How often histograms are folded, which would grow between two scrapes otherwise.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why the API cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("the {what} cannot listen on {address}: {}", explain(source))]
pub struct BindError {
    what: &'static str,
    address: SocketAddr,
    source: io::Error,
}

fn explain(error: &io::Error) -> String {
    let known = [
        (io::ErrorKind::AddrInUse, "another program uses that port: stop it, or choose another port"),
        (io::ErrorKind::AddrNotAvailable, "this machine does not have that address"),
        (io::ErrorKind::PermissionDenied, "this user may not use that port: choose one above 1023"),
    ];
    let found = known.iter().find(|(kind, _)| *kind == error.kind());
    found.map_or_else(|| error.to_string(), |(_, why)| (*why).to_owned())
}

/// What the API is given beside the node.
#[derive(Debug)]
pub struct Options {
    /// Required from every client, if set; it must be on any address but loopback.
    pub token: Option<Token>,
    /// What `/metrics` shows.
    pub metrics: PrometheusHandle,
}

/// What handlers share.
#[derive(Debug)]
struct Api {
    node: Handle,
    metrics: PrometheusHandle,
    watchers: Arc<Semaphore>,
    /// Modules that may be uploaded at this moment.
    uploads: Semaphore,
    counters: Counters,
    closing: CancellationToken,
}

/// Listens on `address` for the API.
///
/// # Errors
/// [`BindError`], one sentence.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    bind_for("HTTP API", address).await
}

/// Listens on `address` for the metrics alone.
///
/// # Errors
/// [`BindError`], one sentence.
pub async fn bind_metrics(address: SocketAddr) -> Result<TcpListener, BindError> {
    bind_for("metrics address", address).await
}

async fn bind_for(what: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { what, address, source })
}

/// Serves the API of `node` until `shutdown`, then ends the answers under way.
///
/// # Errors
/// The system does not know the listener's address, or it is open to the network and there is no token;
/// nothing was served.
pub async fn serve(
    listener: TcpListener,
    node: Handle,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() && options.token.is_none() {
        return Err(io::Error::other(format!(
            "the API on {address} is open to the network and has no token"
        )));
    }
    let closing = CancellationToken::new();
    let Options { token, metrics } = options;
    let upkeep = tokio::spawn(keep_up(metrics.clone()));
    let api = Arc::new(Api {
        counters: Counters::new(&node),
        node,
        metrics,
        watchers: Arc::new(Semaphore::new(limits::API_WATCHERS_MAX)),
        uploads: Semaphore::new(limits::MODULE_UPLOADS_MAX),
        closing: closing.clone(),
    });
    let router = router(api).layer(from_fn_with_state(Guard::new(address, token), guard));
    listen::serve(listener, router, closing, shutdown).await;
    upkeep.abort();
    Ok(())
}

/// Serves `/metrics` alone and without a token until `shutdown`.
///
/// # Errors
/// The system does not know the listener's address; nothing was served.
pub async fn serve_metrics(
    listener: TcpListener,
    metrics: PrometheusHandle,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let show = move || std::future::ready(health::exposition(&metrics));
    let router = closed_ends(Router::new().route("/metrics", get(show)))
        .layer(from_fn_with_state(Guard::new(address, None), guard));
    listen::serve(listener, router, CancellationToken::new(), shutdown).await;
    Ok(())
}

fn router(api: Arc<Api>) -> Router {
    let changes = Router::new()
        .route("/v1/cluster/leave", post(cluster::leave))
        .route("/v1/certificates/crl", post(certificates::offer))
        .route("/v1/agents", post(agents::deploy))
        .route("/v1/agents/{name}", delete(agents::stop))
        .route("/v1/agents/{name}/restart", post(agents::restart))
        .route("/v1/modules", post(modules::put))
        .route("/v1/blueprints", post(blueprints::apply))
        .route("/v1/blueprints/{name}", delete(blueprints::remove))
        .route("/v1/blueprints/{name}/scale", post(blueprints::scale))
        .route("/v1/blueprints/{name}/rollback", post(blueprints::roll_back))
        .route("/v1/blueprints/{name}/pause", post(blueprints::pause))
        .route("/v1/cluster/drain", post(blueprints::drain))
        .route("/v1/cluster/rebalance", post(blueprints::rebalance))
        .route("/v1/policies/{*prefix}", put(state::set_policy).delete(state::drop_policy))
        .route("/v1/cluster/roster", post(roster::set))
        .route("/v1/cluster/remove", post(roster::remove))
        .route("/v1/cluster/resolve", post(roster::resolve))
        .route("/v1/cluster/reconcile", post(roster::reconcile))
        .route("/v1/dead-letters/retry", post(letters::retry))
        .route("/v1/dead-letters/drop", post(letters::drop))
        .route_layer(from_fn(agents::record));
    let router = Router::new()
        .route("/v1/cluster/members", get(cluster::members))
        .route("/v1/cluster/status", get(cluster::status))
        .route("/v1/cluster/ping", post(cluster::ping))
        .route("/v1/cluster/performance", post(performance::measure))
        .route("/v1/cluster/events", get(events::follow))
        .route("/v1/certificates", get(certificates::show))
        .route("/v1/cluster/facts", get(diagnosis::facts))
        .route("/v1/history", get(history::read))
        .route("/v1/agents", get(agents::list))
        .route("/v1/dependencies", get(agents::dependencies))
        .route("/v1/agents/{name}", get(agents::info))
        .route("/v1/agents/{name}/logs", get(agents::logs))
        .route("/v1/modules", get(modules::list))
        .route("/v1/plan", post(blueprints::plan))
        .route("/v1/blueprints", get(blueprints::list))
        .route("/v1/blueprints/{name}", get(blueprints::info))
        .route("/v1/blueprints/{name}/rollout", get(blueprints::rollout))
        .route("/v1/messages", post(messages::send))
        .route("/v1/messages/{id}", get(letters::trace))
        .route("/v1/dead-letters", get(letters::dead))
        .route("/v1/state", get(state::list))
        .route("/v1/state/{*key}", get(state::get).put(state::put).delete(state::delete))
        .route("/v1/state-changes", get(events::follow_state))
        .route("/v1/tickets/{node}/{rest}", get(state::ticket))
        .route("/v1/policies", get(state::policies))
        .route("/v1/counters/{*name}", get(counters::get).post(counters::add))
        .route("/v1/cluster/roster", get(roster::show))
        .route("/v1/cluster/partition", get(roster::partition))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .merge(changes);
    closed_ends(router).with_state(api)
}

/// What is not there is told as any other error.
fn closed_ends<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router
        .fallback(|uri: Uri| async move {
            let detail = format!("there is nothing at {}: see the paths in docs/http-api.md", uri.path());
            Problem::new(StatusCode::NOT_FOUND, "no_such_path", detail)
        })
        .method_not_allowed_fallback(|uri: Uri| async move {
            let detail = format!("{} does not take that method: see the Allow header", uri.path());
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        })
}

async fn keep_up(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics.run_upkeep();
    }
}
