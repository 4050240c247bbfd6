//! What the endpoint measures and has seen, for those who look for what is wrong: its links as QUIC counts
//! them, the certificates behind them, and who came and never finished its handshake.
//!
//! It decides nothing. A certificate was verified when its connection was made; here it is only said
//! which of the CAs trusted now has signed it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use quinn::ConnectionError;
use rustls_pki_types::CertificateDer;

use super::Transport;
use super::peer::Peer;
use super::tls::NodeIdentity;
use crate::core::ids::LinkId;
use crate::core::limits;
use crate::core::wire::{ArrivalFacts, CaFacts, CertificateFacts, LinkFacts};
use crate::node::certs::{self, Facts};

/// What a transport tells of itself.
#[derive(Debug, Default)]
pub struct TransportFacts {
    /// The certificate that new connections show.
    pub certificate: Option<CertificateFacts>,
    /// The CAs that are trusted.
    pub trusted: Vec<CaFacts>,
    /// The links, at most [`limits::FACTS_LINKS_MAX`]; which of them is in use is not known here.
    pub links: Vec<(LinkId, LinkFacts)>,
    /// Connections that came to nothing.
    pub arrivals: Vec<ArrivalFacts>,
}

impl Transport {
    /// Measures everything. It verifies a signature for each link: not for a task that others wait for.
    #[must_use]
    pub fn facts(&self) -> TransportFacts {
        let identity = self.identity();
        let authorities = Authorities::of(&identity);
        let links = self.peers().into_iter().take(limits::FACTS_LINKS_MAX);
        TransportFacts {
            certificate: authorities.certificate(identity.certificate()),
            trusted: authorities.trusted.iter().map(|(facts, _)| facts.clone()).collect(),
            links: links.map(|peer| (peer.link(), authorities.link(&peer))).collect(),
            arrivals: self.arrivals_kept(),
        }
    }
}

/// The CAs that are trusted now.
struct Authorities {
    trusted: Vec<(CaFacts, CertificateDer<'static>)>,
}

impl Authorities {
    fn of(identity: &NodeIdentity) -> Self {
        let facts = |certificate: &CertificateDer<'static>| {
            let facts = Facts::read(certificate).ok()?;
            let ca = CaFacts { fingerprint: facts.fingerprint, not_after: unix_seconds(facts.not_after) };
            Some((ca, certificate.clone()))
        };
        Self { trusted: identity.cas().iter().filter_map(facts).collect() }
    }

    fn certificate(&self, certificate: &[u8]) -> Option<CertificateFacts> {
        let facts = Facts::read(certificate).ok()?;
        let signed = |(_, authority): &&(CaFacts, CertificateDer<'static>)| {
            certs::is_signed_by(certificate, authority)
        };
        Some(CertificateFacts {
            serial: facts.serial,
            not_after: unix_seconds(facts.not_after),
            signed_by: self.trusted.iter().find(signed).map(|(ca, _)| ca.fingerprint.clone()),
        })
    }

    fn link(&self, peer: &Peer) -> LinkFacts {
        let connection = peer.connection();
        let path = connection.stats().path;
        let micros = |span: std::time::Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let chain = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
        LinkFacts {
            node: peer.node().clone(),
            address: connection.remote_address().to_string(),
            in_use: false,
            dialled: connection.side().is_client(),
            age_ms: micros(peer.age()) / 1000,
            silent_ms: micros(peer.silence()) / 1000,
            rtt_us: micros(path.rtt),
            sent_packets: path.sent_packets,
            lost_packets: path.lost_packets,
            congestion_events: path.congestion_events,
            mtu: path.current_mtu,
            datagrams: connection.max_datagram_size().is_some_and(|b| b >= limits::SWIM_PACKET_BYTES_MAX),
            certificate: chain.and_then(|chain| self.certificate(chain.first()?)),
        }
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Connections that others began and that came to nothing, by address.
#[derive(Debug, Default)]
pub(super) struct FailedArrivals {
    /// Those that were last seen longest ago come first.
    kept: VecDeque<FailedArrival>,
}

#[derive(Debug)]
struct FailedArrival {
    address: SocketAddr,
    times: u32,
    last: Instant,
    unanswered: bool,
    reason: String,
}

impl FailedArrivals {
    /// Remembers one; the oldest gives way where there are too many.
    pub(super) fn note(&mut self, address: SocketAddr, reason: &str, unanswered: bool) {
        let now = Instant::now();
        self.forget_old(now);
        let before = self.kept.iter().position(|arrival| arrival.address == address);
        let times = before.and_then(|at| self.kept.remove(at)).map_or(0, |arrival| arrival.times);
        if self.kept.len() >= limits::ARRIVALS_KEPT_MAX {
            self.kept.pop_front();
        }
        let reason = reason.chars().take(limits::PEER_ERROR_CHARS_MAX).collect();
        let times = times.saturating_add(1);
        self.kept.push_back(FailedArrival { address, times, last: now, unanswered, reason });
    }

    pub(super) fn facts(&mut self) -> Vec<ArrivalFacts> {
        let now = Instant::now();
        self.forget_old(now);
        let facts = |arrival: &FailedArrival| ArrivalFacts {
            address: arrival.address.to_string(),
            times: arrival.times,
            ago_ms: u64::try_from(now.duration_since(arrival.last).as_millis()).unwrap_or(u64::MAX),
            unanswered: arrival.unanswered,
            reason: arrival.reason.clone(),
        };
        self.kept.iter().map(facts).collect()
    }

    fn forget_old(&mut self, now: Instant) {
        self.kept.retain(|arrival| now.duration_since(arrival.last) <= limits::ARRIVALS_KEPT_FOR);
    }
}

/// Whether a handshake ended because the other side had heard nothing: it gave up, or fell silent. One that
/// did not like what it heard says so with an alert of TLS.
pub(super) fn was_unanswered(error: &ConnectionError) -> bool {
    use quinn::TransportErrorCode as Code;
    match error {
        ConnectionError::TimedOut | ConnectionError::ApplicationClosed(_) => true,
        ConnectionError::ConnectionClosed(close) => {
            [Code::NO_ERROR, Code::APPLICATION_ERROR].contains(&close.error_code)
        }
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 7946))
    }

    #[test]
    fn failed_arrivals_are_counted_by_address_and_the_oldest_give_way() {
        let mut arrivals = FailedArrivals::default();
        arrivals.note(address(0), "first", false);
        arrivals.note(address(1), "other", true);
        arrivals.note(address(0), "second", true);
        let facts = arrivals.facts();
        assert_eq!(facts.len(), 2);
        assert_eq!((facts[1].times, facts[1].reason.as_str(), facts[1].unanswered), (2, "second", true));
        (0..limits::ARRIVALS_KEPT_MAX + 9).for_each(|n| arrivals.note(address(n + 100), "flood", true));
        let facts = arrivals.facts();
        assert_eq!(facts.len(), limits::ARRIVALS_KEPT_MAX);
        assert!(facts.iter().all(|arrival| arrival.reason == "flood"));
    }
}
