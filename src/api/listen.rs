//! Accepts connections of HTTP clients and serves them, within bounds: so many at once, so long for a
//! head, so much of it, and no client that does not read.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::core::limits;

/// After an error of `accept` that is not the client's, as when there are no more descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The other end of a connection; an extension of each of its requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client(pub(super) SocketAddr);

/// Serves `router` on `listener` until `shutdown`; then lets answers under way end, within
/// [`limits::API_STOP_DEADLINE`]. `closing` is cancelled for those that do not end by themselves.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    closing: CancellationToken,
    shutdown: impl Future<Output = ()>,
) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(limits::API_CONNECTIONS_MAX));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepting = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accepting => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                let connection = converse(stream, client, router.clone(), closing.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the API could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    closing.cancel();
    connections.close();
    if tokio::time::timeout(limits::API_STOP_DEADLINE, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "the API stops with answers under way");
    }
}

async fn converse(stream: TcpStream, client: SocketAddr, router: Router, closing: CancellationToken) {
    if let Err(error) = configure(&stream) {
        tracing::debug!(%client, %error, "a connection could not be configured");
        return;
    }
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Client(client));
        router.call(request)
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::API_READ_DEADLINE)
            .max_header_size(limits::API_HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%client, %error, "a connection to the API broke");
    }
}

fn configure(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(limits::API_WRITE_DEADLINE))?;
    Ok(())
}
