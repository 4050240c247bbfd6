//! The side of the node that has the CA: one request, one answer, and bounds on both.
//!
//! Whoever asks is a stranger until its request is checked, so everything is limited before: how many are inside at
//! once, from one address, and in a second, how long a request is and how long it takes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quinn::{Connection, ReadToEndError, RecvStream, SendStream, VarInt};
use tokio::time::timeout;

use super::{Answer, CLOSE_BUSY, CLOSE_DONE, CLOSE_MISUSE, Request, Right, message};
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::node::certs::{
    self, Authority, CertError, Granted, JoinAsk, JoinRefused, Renewing, has_signed, parse_certificates,
};
use crate::node::transport::LogPace;
use crate::node::transport::tls::{self, NodeIdentity};

/// Gives certificates to those that may have one.
#[derive(Debug)]
pub struct Door {
    authority: Arc<Authority>,
    /// This node, as its files are now: it checks a present certificate.
    identity: ArcSwapOption<NodeIdentity>,
    now: fn() -> SystemTime,
    gate: Mutex<Gate>,
}

/// Who is inside.
#[derive(Debug, Default)]
struct Gate {
    inside: BTreeMap<IpAddr, usize>,
    /// Requests looked at since then.
    second: Option<(Instant, u32)>,
    refusals: LogPace,
}

impl Gate {
    fn lets_in(&mut self, address: IpAddr) -> bool {
        let here = self.inside.get(&address).copied().unwrap_or(0);
        let inside: usize = self.inside.values().sum();
        if inside >= limits::JOINS_MAX || here >= limits::JOINS_PER_ADDRESS_MAX {
            return false;
        }
        self.inside.insert(address, here + 1);
        true
    }

    fn lets_out(&mut self, address: IpAddr) {
        match self.inside.get_mut(&address) {
            Some(here) if *here > 1 => *here -= 1,
            Some(_) | None => {
                self.inside.remove(&address);
            }
        }
    }

    fn may_look(&mut self, now: Instant) -> bool {
        let (since, count) = self.second.get_or_insert((now, 0));
        if now.duration_since(*since).as_secs() >= 1 {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= limits::JOINS_PER_SECOND_MAX
    }
}

/// One that is inside.
struct Inside<'a>(&'a Door, IpAddr);

impl<'a> Inside<'a> {
    fn of(door: &'a Door, address: IpAddr) -> Option<Self> {
        // The value is made only when it is let in: dropping it takes the lock and lets one out.
        let is_in = door.gate().lets_in(address);
        if is_in { Some(Self(door, address)) } else { None }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.gate().lets_out(self.1);
    }
}

/// What did not become a request.
#[derive(Debug, thiserror::Error)]
enum Misuse {
    #[error("the connection has gone")]
    Gone,
    #[error("a connection for a certificate carries one request and nothing else")]
    SomethingElse,
    #[error("the request is larger than {} bytes", limits::JOIN_REQUEST_BYTES_MAX)]
    TooLarge,
    #[error("the request is not understood: ask with the version of Shoal that this node runs")]
    NotUnderstood,
    #[error("no whole request came within {} s", limits::JOIN_REQUEST_DEADLINE.as_secs())]
    Slow,
}

impl Door {
    /// A door that signs with the CA of `authority`, by the time that `now` tells. It opens with the endpoint.
    #[must_use]
    pub fn new(authority: Arc<Authority>, now: fn() -> SystemTime) -> Self {
        Self { authority, identity: ArcSwapOption::empty(), now, gate: Mutex::default() }
    }

    /// Answers in the name of this node from now on: the TLS settings for it, which show the CA too.
    pub(super) fn adopt(&self, identity: &NodeIdentity) -> Result<rustls::ServerConfig, CertError> {
        let ca = self.authority.ca()?;
        if ca.mesh() != &identity.mesh {
            return Err(certs::NameFault::OtherMesh {
                theirs: ca.mesh().clone(),
                ours: identity.mesh.clone(),
            }
            .into());
        }
        let config = tls::join_server_config(identity, &parse_certificates(ca.bundle_pem())?)?;
        self.identity.store(Some(Arc::new(identity.clone())));
        Ok(config)
    }

    /// Serves one connection to its end.
    pub(in crate::node::transport) async fn serve(&self, connection: Connection, address: SocketAddr) {
        let Some(_inside) = Inside::of(self, address.ip()) else {
            return self.refuse(&connection, address, CLOSE_BUSY, "too many machines ask at once: try again");
        };
        let (send, request) = match timeout(limits::JOIN_REQUEST_DEADLINE, read(&connection)).await {
            Ok(Ok(read)) => read,
            Ok(Err(misuse)) => return self.refuse(&connection, address, CLOSE_MISUSE, &misuse.to_string()),
            Err(_) => return self.refuse(&connection, address, CLOSE_MISUSE, &Misuse::Slow.to_string()),
        };
        if !self.gate().may_look(Instant::now()) {
            return self.refuse(&connection, address, CLOSE_BUSY, "too many machines ask at once: try again");
        }
        let node = request.node_id.clone();
        let answer = match self.decide(&connection, request).await {
            Ok(granted) => {
                metrics::counter!("shoal_join_requests_total", "outcome" => "granted").increment(1);
                tracing::info!(%node, %address, "a certificate was issued over the network");
                Answer::from(granted)
            }
            Err(refused) => {
                self.note(address, &refused.to_string());
                Answer::Refused { why: for_strangers(&refused), is_final: refused.is_final() }
            }
        };
        // An asker that goes before it has its answer asks again.
        let _ = timeout(limits::JOIN_ANSWER_DEADLINE, tell(&connection, send, &answer)).await;
        connection.close(VarInt::from_u32(CLOSE_DONE), b"answered");
    }

    async fn decide(&self, connection: &Connection, request: Request) -> Result<Granted, JoinRefused> {
        let message = message(connection, &request.node_id, &request.request_pem);
        let proof = URL_SAFE_NO_PAD.decode(&request.proof);
        let (Some(message), Ok(proof)) = (message, proof) else {
            return Err(JoinRefused::NotProven);
        };
        let authority = Arc::clone(&self.authority);
        let identity = self.identity.load_full();
        let now = (self.now)();
        let deciding = tokio::task::spawn_blocking(move || match &request.right {
            Right::Token(token) => {
                let (node_id, request_pem) = (&request.node_id, request.request_pem.as_str());
                let ask = JoinAsk { token, node_id, request_pem, message: &message, proof: &proof };
                authority.join(&ask, now)
            }
            Right::Certificate(present) => {
                let present = present_certificate(present, &request.node_id, identity.as_deref(), now)?;
                if !has_signed(&present, &message, &proof) {
                    return Err(JoinRefused::NotProven);
                }
                authority.renew(&present, &request.request_pem, Renewing::Node, now)
            }
        });
        deciding.await.unwrap_or_else(|error| Err(CertError::Crypto { why: error.to_string() }.into()))
    }

    fn refuse(&self, connection: &Connection, address: SocketAddr, code: u32, why: &str) {
        connection.close(VarInt::from_u32(code), why.as_bytes());
        self.note(address, why);
    }

    /// Counts every refusal and logs at most one a second: strangers must not fill the log.
    fn note(&self, address: SocketAddr, why: &str) {
        metrics::counter!("shoal_join_requests_total", "outcome" => "refused").increment(1);
        let untold = self.gate().refusals.tell();
        if let Some(untold) = untold {
            tracing::warn!(%address, why, untold, "a request for a certificate was refused");
        }
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a stranger is told: nothing of this machine's files.
fn for_strangers(refused: &JoinRefused) -> String {
    let is_about_files = match refused {
        JoinRefused::Cert(
            CertError::Request { .. } | CertError::Malformed { .. } | CertError::OutlivesCa { .. },
        ) => false,
        JoinRefused::Cert(_) => true,
        JoinRefused::OtherMesh { .. }
        | JoinRefused::NotOurs
        | JoinRefused::NotProven
        | JoinRefused::Expired { .. }
        | JoinRefused::OtherName { .. }
        | JoinRefused::Used
        | JoinRefused::OtherCa
        | JoinRefused::Revoked
        | JoinRefused::TooMany { .. } => false,
    };
    if is_about_files {
        "this node cannot sign now: its log says why".to_owned()
    } else {
        refused.to_string()
    }
}

/// A present certificate that would still let its owner into the mesh.
fn present_certificate(
    pem: &str,
    wanted: &NodeId,
    identity: Option<&NodeIdentity>,
    now: SystemTime,
) -> Result<rustls_pki_types::CertificateDer<'static>, JoinRefused> {
    let malformed = |why: String| CertError::Malformed { what: "present certificate", why };
    let present = parse_certificates(pem)?.swap_remove(0);
    let identity = identity.ok_or_else(|| malformed("nobody is there to check it".to_owned()))?;
    let node = identity.check(&present, now).map_err(|refusal| malformed(refusal.to_string()))?.node_id;
    if node != *wanted {
        return Err(malformed(format!("it names node {node}, and the request node {wanted}")).into());
    }
    Ok(present)
}

async fn read(connection: &Connection) -> Result<(SendStream, Request), Misuse> {
    let (send, recv) = tokio::select! {
        stream = connection.accept_bi() => stream.map_err(|_| Misuse::Gone)?,
        () = something_else(connection) => return Err(Misuse::SomethingElse),
    };
    let bytes = tokio::select! {
        bytes = whole(recv) => bytes?,
        () = something_else(connection) => return Err(Misuse::SomethingElse),
        _ = connection.accept_bi() => return Err(Misuse::SomethingElse),
    };
    let request = serde_json::from_slice(&bytes).map_err(|_| Misuse::NotUnderstood)?;
    Ok((send, request))
}

async fn whole(mut recv: RecvStream) -> Result<Vec<u8>, Misuse> {
    match recv.read_to_end(limits::JOIN_REQUEST_BYTES_MAX).await {
        Ok(bytes) => Ok(bytes),
        Err(ReadToEndError::TooLong) => Err(Misuse::TooLarge),
        Err(ReadToEndError::Read(_)) => Err(Misuse::Gone),
    }
}

/// Waits for anything that a request is not.
async fn something_else(connection: &Connection) {
    tokio::select! {
        _ = connection.accept_uni() => {}
        _ = connection.read_datagram() => {}
    }
}

/// Writes the answer and waits until the asker has it.
async fn tell(connection: &Connection, mut send: SendStream, answer: &Answer) {
    let answer = serde_json::to_vec(answer).expect("texts are JSON");
    if send.write_all(&answer).await.is_ok() && send.finish().is_ok() {
        tokio::select! {
            _ = send.stopped() => {}
            _ = connection.closed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn so_many_are_let_in_and_so_many_from_one_address() {
        let mut gate = Gate::default();
        for _ in 0..limits::JOINS_PER_ADDRESS_MAX {
            assert!(gate.lets_in(address(0)));
        }
        assert!(!gate.lets_in(address(0)));
        let mut others = 1;
        while gate.lets_in(address(others)) {
            others += 1;
        }
        assert_eq!(usize::from(others) - 1, limits::JOINS_MAX - limits::JOINS_PER_ADDRESS_MAX);
        gate.lets_out(address(0));
        assert!(gate.lets_in(address(0)) && !gate.lets_in(address(0)));
        (0..others).for_each(|last| (0..3).for_each(|_| gate.lets_out(address(last))));
        assert!(gate.inside.is_empty());
    }

    #[test]
    fn so_many_requests_are_looked_at_in_a_second() {
        let mut gate = Gate::default();
        let now = Instant::now();
        for _ in 0..limits::JOINS_PER_SECOND_MAX {
            assert!(gate.may_look(now));
        }
        assert!(!gate.may_look(now));
        assert!(gate.may_look(now + Duration::from_secs(1)));
    }
}
