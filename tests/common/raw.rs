//! A peer that can say anything: a plain QUIC client with a certificate, or without.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint};
use shoal::core::error::Refused;
use shoal::core::limits;
use shoal::core::wire::{self, FrameKind};
use shoal::node::certs::Ca;
use shoal::node::transport::tls::{NodeIdentity, SERVER_NAME};
use tokio::time::timeout;

use super::ends::identity;
use super::mesh::PATIENCE;

pub struct Raw {
    pub endpoint: Endpoint,
    pub connection: Connection,
}

impl Raw {
    /// Connects with a good certificate for that name.
    pub async fn connect(ca: &Ca, name: &str, address: SocketAddr) -> Result<Self, ConnectionError> {
        Self::connect_with(client(&identity(ca, name)), address).await
    }

    pub async fn connect_with(
        config: quinn::ClientConfig,
        address: SocketAddr,
    ) -> Result<Self, ConnectionError> {
        let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
        let connection = endpoint.connect_with(config, address, SERVER_NAME).expect("valid").await?;
        Ok(Self { endpoint, connection })
    }

    /// Opens the control stream and says these bytes on it.
    pub async fn say(&self, bytes: &[u8]) -> (quinn::SendStream, quinn::RecvStream) {
        let (mut send, recv) = self.connection.open_bi().await.expect("a stream");
        send.write_all(bytes).await.expect("written");
        (send, recv)
    }

    /// How the node ends the connection.
    pub async fn end(&self) -> ConnectionError {
        timeout(PATIENCE, self.connection.closed()).await.expect("the node closes the connection")
    }

    pub async fn is_refused_with(&self, refused: Refused) {
        let end = self.end().await;
        let ConnectionError::ApplicationClosed(close) = &end else {
            panic!("expected {refused:?}, got {end:?}");
        };
        assert_eq!(Refused::from_code(close.error_code.into()), Some(refused), "{close:?}");
    }
}

pub fn client(identity: &NodeIdentity) -> quinn::ClientConfig {
    let tls = QuicClientConfig::try_from(identity.client_config()).expect("usable");
    quinn::ClientConfig::new(Arc::new(tls))
}

pub fn frame<B: wire::Body>(body: &B) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode(body, &mut bytes).expect("fits");
    bytes
}

/// The next frame on a stream.
pub async fn read_frame(recv: &mut quinn::RecvStream) -> (FrameKind, Vec<u8>) {
    let reading = async {
        let mut prefix = [0; 4];
        recv.read_exact(&mut prefix).await.expect("the link lasts");
        let length = wire::frame_length(prefix, limits::FRAME_BYTES_MAX).expect("a frame");
        let mut bytes = vec![0; length];
        recv.read_exact(&mut bytes).await.expect("the link lasts");
        let (kind, body) = wire::split(&bytes).expect("our version").expect("a known kind");
        (kind, body.to_vec())
    };
    timeout(PATIENCE, reading).await.expect("a frame comes in time")
}
