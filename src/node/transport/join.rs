//! Certificates over the network, by a protocol of their own ([`tls::JOIN_ALPN`]) on the port of the mesh: a machine
//! without a certificate gets its first one for a join token, a node gets its next one for its present one.
//!
//! The node that answers has the CA (`--ca`); it shows its certificate and the CA's, and the asker knows it by
//! the CA's fingerprint in its token. The asker shows no certificate in the handshake, so nothing of the mesh is
//! ever spoken on such a connection: it carries one request and one answer, both JSON, on one stream.
//!
//! The asker proves that it has its token's secret, or the key of its present certificate, by a signature
//! over a value that both ends of this very connection export from TLS. So what one node was shown is of no
//! use anywhere else.
//!
//! `shoal/1` is not touched by any of this: `split` gives each connection TLS settings for the one
//! protocol that it asks for, and those of `shoal/1` always demand a client's certificate.

mod client;
mod door;
mod split;

use std::sync::Arc;

use quinn::Connection;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::TransportError;
use super::tls::{self, NodeIdentity};
use crate::core::ids::NodeId;
use crate::node::certs::{Granted, ShownToken};

pub use self::client::{Asker, JoinError, ask};
pub use self::door::Door;

/// What the exported value is for, as TLS wants to know it.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-shoal-join-1";
/// Closes a connection whose request was answered.
const CLOSE_DONE: u32 = 0;
/// Closes a connection that did something else than ask.
const CLOSE_MISUSE: u32 = 1;
/// Closes a connection that may try again.
const CLOSE_BUSY: u32 = 2;

/// What an asker says.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    /// The name that it wants a certificate for.
    node_id: NodeId,
    /// The request for its key (PKCS#10, PEM).
    request_pem: String,
    /// By what right.
    right: Right,
    /// A signature over [`message`], in base64url.
    proof: String,
}

/// By what right somebody asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Right {
    /// A join token, whose secret signed.
    Token(ShownToken),
    /// A present certificate (PEM), whose key signed.
    Certificate(String),
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// Its certificate and what comes with it.
    Granted {
        cert_pem: String,
        ca_pem: String,
        #[serde(default)]
        crl_pem: Option<String>,
    },
    /// Why there is none.
    Refused {
        why: String,
        /// Whether every other node would say the same.
        is_final: bool,
    },
}

impl From<Granted> for Answer {
    fn from(granted: Granted) -> Self {
        let Granted { cert_pem, ca_pem, crl_pem } = granted;
        Self::Granted { cert_pem, ca_pem, crl_pem }
    }
}

/// The TLS settings of an endpoint: for nodes alone, or with a door for those that want a certificate.
///
/// # Errors
/// [`TransportError`] when the settings cannot be used for QUIC.
pub(super) fn server_crypto(
    identity: &NodeIdentity,
    door: Option<&Door>,
) -> Result<Arc<dyn quinn::crypto::ServerConfig>, TransportError> {
    let usable = |config: rustls::ServerConfig| match QuicServerConfig::try_from(config) {
        Ok(config) => Ok(Arc::new(config)),
        Err(error) => Err(TransportError::Tls(error.to_string())),
    };
    let mesh = usable(identity.server_config())?;
    let Some(door) = door else {
        return Ok(mesh);
    };
    let join = usable(door.adopt(identity).map_err(|error| TransportError::Ca(error.to_string()))?)?;
    Ok(Arc::new(split::ByProtocol { mesh, join }))
}

/// The protocol that an established connection has agreed on.
pub(super) fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// Whether a connection is for a certificate, and so never for anything else.
pub(super) fn is_join(connection: &Connection) -> bool {
    protocol(connection).as_deref() == Some(tls::JOIN_ALPN)
}

/// What an asker has to sign on this connection: only here, only for this request.
fn message(connection: &Connection, node: &NodeId, request_pem: &str) -> Option<Vec<u8>> {
    let mut exported = [0; 32];
    connection.export_keying_material(&mut exported, EXPORTER_LABEL, b"").ok()?;
    let mut message = b"shoal join request 1\0".to_vec();
    message.extend_from_slice(&exported);
    message.extend_from_slice(&Sha256::digest(request_pem));
    message.extend_from_slice(node.as_str().as_bytes());
    Some(message)
}
