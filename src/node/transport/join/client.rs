//! The side of the machine that wants a certificate: it asks one seed after the other until one gives it, or one
//! says what no other would say differently.
//!
//! It sends nothing before the other end has shown a certificate under the CA that it expects. What it gets is not
//! trusted here: whoever asked holds it against its own key and its own idea of the CA.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, VarInt};
use rustls::AlertDescription;
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};

use super::{Answer, CLOSE_BUSY, CLOSE_DONE, Request, Right, message};
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::node::certs::{self, CertError, Granted, JoinToken};
use crate::node::transport::tls::{self, NodeIdentity};

/// Who asks.
#[derive(Debug)]
pub enum Asker<'a> {
    /// A machine with a token.
    Token(&'a JoinToken),
    /// A node with a certificate.
    Node {
        /// Who it is, and whom it trusts.
        identity: &'a NodeIdentity,
        /// Its certificate, in PEM format.
        cert_pem: &'a str,
        /// The key of that certificate, in PEM format.
        key_pem: &'a str,
    },
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A node said what every other would say.
    #[error("{seed} refuses: {why}")]
    Refused {
        /// Which seed.
        seed: String,
        /// What it said, in a sentence.
        why: String,
    },
    /// None has given one.
    #[error("no node has given a certificate in {} rounds: {}", limits::JOIN_ROUNDS_MAX, .reasons.join("; "))]
    Nobody {
        /// What went wrong, one text for each address of each seed.
        reasons: Vec<String>,
    },
    /// The own side.
    #[error(transparent)]
    Own(#[from] CertError),
    /// No socket.
    #[error("no UDP socket can be opened to ask for a certificate: {0}")]
    Socket(#[from] std::io::Error),
}

/// Why one address gave none.
enum Failure {
    Final(String),
    /// It had too many askers at once.
    Busy(String),
    Other(String),
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Self {
        let why = reason(&error);
        match error {
            ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(CLOSE_BUSY) => {
                Self::Busy(why)
            }
            ConnectionError::ApplicationClosed(_)
            | ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::Reset
            | ConnectionError::TimedOut
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => Self::Other(why),
        }
    }
}

/// Asks the seeds (`host:port`) in turn for a certificate for `node`, for the key of `request_pem`.
///
/// # Errors
/// [`JoinError`].
pub async fn ask(
    seeds: &[String],
    asker: &Asker<'_>,
    node: &NodeId,
    request_pem: &str,
) -> Result<Granted, JoinError> {
    let tls = match asker {
        Asker::Token(token) => tls::join_client_config(&token.claims().mesh, &token.claims().cas),
        Asker::Node { identity, .. } => tls::renewal_client_config(identity),
    };
    let tls =
        QuicClientConfig::try_from(tls).map_err(|error| CertError::Crypto { why: error.to_string() })?;
    let config = ClientConfig::new(Arc::new(tls));
    let (mut rounds, mut busy_rounds) = (0, 0);
    loop {
        let mut said = Said::default();
        for seed in seeds {
            match ask_seed(seed, &config, asker, node, request_pem, &mut said).await? {
                Some(granted) => return Ok(granted),
                None => {
                    tracing::debug!(seed, rounds, reason = said.reasons.last(), "no certificate from a seed")
                }
            }
        }
        if said.is_busy && busy_rounds < limits::JOIN_BUSY_ROUNDS_MAX {
            busy_rounds += 1;
        } else {
            rounds += 1;
        }
        if rounds == limits::JOIN_ROUNDS_MAX {
            return Err(JoinError::Nobody { reasons: said.reasons });
        }
        sleep(pause()?).await;
    }
}

/// What the seeds said in a round.
#[derive(Debug, Default)]
struct Said {
    reasons: Vec<String>,
    is_busy: bool,
}

/// Between once and twice [`limits::JOIN_ROUND_PAUSE`].
fn pause() -> Result<Duration, CertError> {
    let mut chance = [0];
    getrandom::fill(&mut chance).map_err(|error| CertError::Crypto { why: error.to_string() })?;
    Ok(limits::JOIN_ROUND_PAUSE + limits::JOIN_ROUND_PAUSE * u32::from(chance[0]) / 256)
}

async fn ask_seed(
    seed: &str,
    config: &ClientConfig,
    asker: &Asker<'_>,
    node: &NodeId,
    request_pem: &str,
    said: &mut Said,
) -> Result<Option<Granted>, JoinError> {
    let addresses: Vec<SocketAddr> = match timeout(limits::HANDSHAKE_DEADLINE, lookup_host(seed)).await {
        Ok(Ok(found)) => found.take(limits::ADDRESSES_MAX).collect(),
        Ok(Err(error)) => {
            said.reasons.push(format!("{seed} does not resolve: {error}"));
            return Ok(None);
        }
        Err(_) => {
            said.reasons.push(format!("{seed} does not resolve in time"));
            return Ok(None);
        }
    };
    for address in addresses {
        let endpoint = Endpoint::client(if address.is_ipv6() {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        })?;
        let asked = exchange(&endpoint, config, address, asker, node, request_pem);
        let deadline = limits::HANDSHAKE_DEADLINE + limits::JOIN_ANSWER_DEADLINE;
        let outcome = timeout(deadline, asked).await;
        match outcome.unwrap_or_else(|_| Err(Failure::Other("it did not answer in time".to_owned()))) {
            Ok(granted) => {
                // So that the other side hears that the answer has arrived.
                let _ = timeout(limits::HANDSHAKE_DEADLINE, endpoint.wait_idle()).await;
                return Ok(Some(granted));
            }
            Err(Failure::Final(why)) => return Err(JoinError::Refused { seed: seed.to_owned(), why }),
            Err(Failure::Busy(why)) => {
                said.is_busy = true;
                said.reasons.push(format!("{address}: {why}"));
            }
            Err(Failure::Other(why)) => said.reasons.push(format!("{address}: {why}")),
        }
    }
    Ok(None)
}

async fn exchange(
    endpoint: &Endpoint,
    config: &ClientConfig,
    address: SocketAddr,
    asker: &Asker<'_>,
    node: &NodeId,
    request_pem: &str,
) -> Result<Granted, Failure> {
    let other = |error: &dyn std::fmt::Display| Failure::Other(error.to_string());
    let connecting =
        endpoint.connect_with(config.clone(), address, tls::SERVER_NAME).map_err(|error| other(&error))?;
    let connection = timeout(limits::HANDSHAKE_DEADLINE, connecting)
        .await
        .map_err(|_| Failure::Other("it did not answer in time".to_owned()))??;
    let request = request(&connection, asker, node, request_pem).map_err(|error| other(&error))?;
    let request = serde_json::to_vec(&request).expect("texts are JSON");
    let (mut send, mut recv) = connection.open_bi().await?;
    let asked = async {
        send.write_all(&request).await.map_err(|error| other(&error))?;
        send.finish().map_err(|error| other(&error))?;
        recv.read_to_end(limits::JOIN_ANSWER_BYTES_MAX).await.map_err(|error| other(&error))
    };
    let answer = match asked.await {
        Ok(answer) => answer,
        // What closed the connection says more than the stream that ended with it.
        Err(failure) => return Err(connection.close_reason().map_or(failure, Failure::from)),
    };
    connection.close(VarInt::from_u32(CLOSE_DONE), b"");
    match serde_json::from_slice(&answer) {
        Ok(Answer::Granted { cert_pem, ca_pem, crl_pem }) => Ok(Granted { cert_pem, ca_pem, crl_pem }),
        Ok(Answer::Refused { why, is_final }) => {
            let why = visible(&why);
            Err(if is_final { Failure::Final(why) } else { Failure::Other(why) })
        }
        Err(_) => Err(Failure::Other("its answer is not understood: it may run another version".to_owned())),
    }
}

fn request(
    connection: &Connection,
    asker: &Asker<'_>,
    node: &NodeId,
    request_pem: &str,
) -> Result<Request, CertError> {
    let message = message(connection, node, request_pem)
        .ok_or_else(|| CertError::Crypto { why: "TLS exports nothing".to_owned() })?;
    let (right, proof) = match asker {
        Asker::Token(token) => (Right::Token(token.shown()), token.prove(&message)?),
        Asker::Node { cert_pem, key_pem, .. } => {
            (Right::Certificate((*cert_pem).to_owned()), certs::sign_with(key_pem, &message)?)
        }
    };
    Ok(Request {
        node_id: node.clone(),
        request_pem: request_pem.to_owned(),
        right,
        proof: URL_SAFE_NO_PAD.encode(proof),
    })
}

/// A sentence for the operator.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other end of a connection is told as it is")]
fn reason(error: &ConnectionError) -> String {
    const NO_PROTOCOL: u8 = 120;
    debug_assert_eq!(u8::from(AlertDescription::NoApplicationProtocol), NO_PROTOCOL);
    let no_protocol = quinn::TransportErrorCode::crypto(NO_PROTOCOL);
    match error {
        ConnectionError::ConnectionClosed(close) if close.error_code == no_protocol => {
            "this node gives no certificates: it was started without --ca".to_owned()
        }
        ConnectionError::ApplicationClosed(close) => visible(&String::from_utf8_lossy(&close.reason)),
        ConnectionError::TimedOut => "it did not answer in time".to_owned(),
        ConnectionError::TransportError(error) => visible(&error.reason),
        other => visible(&other.to_string()),
    }
}

/// Text from elsewhere, cut and without what a terminal would obey.
fn visible(text: &str) -> String {
    text.chars()
        .take(limits::PEER_ERROR_CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
