//! What a node measures of itself and of its links, told to whoever looks for what is wrong with a mesh.
//!
//! Everything here is a measurement or a certificate's own claim; what follows from it is decided by those who
//! asked. Lists are bounded when they are made and again when they are read.

use serde::{Deserialize, Serialize};

use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{Checkup, MemberStatus, Mode, Profile};

/// The facts of one node at one moment. What it cannot measure is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFacts {
    /// Milliseconds since 1970 by its wall clock, when the facts were put together.
    pub unix_ms: u64,
    /// Its software's version.
    pub version: String,
    /// Since its process started.
    pub uptime_seconds: u64,
    /// Its set of gossip timings.
    pub profile: Profile,
    /// Seeds that it was started with.
    pub seeds: u32,
    /// Its own certificate, the one that new connections show.
    pub certificate: Option<CertificateFacts>,
    /// The CAs that it trusts.
    pub trusted: Vec<CaFacts>,
    /// Its connections to peers, at most [`limits::FACTS_LINKS_MAX`].
    pub links: Vec<LinkFacts>,
    /// Connections that others began in the last minute and that came to nothing, by address.
    pub arrivals: Vec<ArrivalFacts>,
    /// What waits in it.
    pub queues: QueueFacts,
    /// The disk of its data directory.
    pub disk: DiskFacts,
    /// How late its main loop was at most in the last minute, in milliseconds.
    pub loop_late_ms: u32,
    /// What it believes of the other nodes, at most [`limits::PEERS_MAX`].
    pub members: Vec<MemberFacts>,
    /// Whether it is among a majority; `None` from a version that does not say so.
    pub mode: Option<Mode>,
}

/// A certificate as it concerns those who trust it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateFacts {
    /// Its serial number, in hexadecimal bytes separated by colons.
    pub serial: String,
    /// The last second at which it is valid, since 1970.
    pub not_after: u64,
    /// SHA-256 fingerprint of the trusted CA that has signed it; `None` if none that is trusted now has.
    pub signed_by: Option<String>,
}

/// A CA that a node trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct CaFacts {
    /// SHA-256 over its certificate, as `openssl x509 -fingerprint` prints it.
    pub fingerprint: String,
    /// The last second at which it is valid, since 1970.
    pub not_after: u64,
}

/// One connection to a peer, as QUIC measures it on this side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFacts {
    /// The peer.
    pub node: NodeId,
    /// Where the peer is.
    pub address: String,
    /// Whether this node talks over it; a second connection to the same peer waits or ends.
    pub in_use: bool,
    /// Whether this node opened it.
    pub dialled: bool,
    /// Since it was made.
    pub age_ms: u64,
    /// Since anything at all came from the peer; looked at every 5 s, so up to so much too little.
    #[serde(default)]
    pub silent_ms: u64,
    /// Smoothed round trip, in microseconds.
    pub rtt_us: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets of those that were declared lost.
    pub lost_packets: u64,
    /// How often congestion control saw congestion.
    pub congestion_events: u64,
    /// Largest UDP payload that the path is known to carry, in bytes.
    pub mtu: u16,
    /// Whether a SWIM packet of full size fits into a datagram; else gossip takes a stream.
    pub datagrams: bool,
    /// The certificate that the peer has shown.
    #[serde(default)]
    pub certificate: Option<CertificateFacts>,
}

/// Connections from one address that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrivalFacts {
    /// Where they came from.
    pub address: String,
    /// How many in the last minute.
    pub times: u32,
    /// Since the last of them ended.
    pub ago_ms: u64,
    /// Whether the other side never heard this node: what it sends arrives, what it is sent does not.
    pub unanswered: bool,
    /// Why the last one failed.
    pub reason: String,
}

/// What waits in a node now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueFacts {
    /// Inputs that wait for the main loop, at most [`limits::DRIVER_QUEUE_MAX`].
    pub inputs: u32,
    /// Changes that wait for the disk, at most [`limits::STORE_QUEUE_CHANGES_MAX`].
    pub store_changes: u32,
    /// Entries of the history that found its queue full since the process started.
    pub history_dropped: u64,
}

/// The disk under a node's data directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskFacts {
    /// Bytes that the node's user may still write.
    pub free_bytes: Option<u64>,
    /// Bytes of the whole file system.
    pub total_bytes: Option<u64>,
    /// Bytes of the database and its log.
    pub database_bytes: Option<u64>,
}

/// What a node believes of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberFacts {
    /// The other node.
    pub node: NodeId,
    /// Its status there.
    pub status: MemberStatus,
}

/// What the runtime measures of one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStats {
    /// Operating-system process, where it has one.
    pub pid: Option<u32>,
    /// Seconds since it last became `running`.
    pub uptime_seconds: u64,
    /// Messages handled or failed since the node started.
    pub requests: u64,
    /// Messages that ended in an error.
    pub errors: u64,
    /// Messages waiting in its mailbox now.
    pub waiting: u64,
    /// Messages that it has answered, or taken where no answer was wanted, since the node started.
    #[serde(default)]
    pub answered: u64,
    /// From arrival to answer, of all of these together, in microseconds.
    #[serde(default)]
    pub answer_micros: u64,
    /// CPU time of its process since that started, in milliseconds.
    #[serde(default)]
    pub cpu_ms: Option<u64>,
    /// Bytes of memory that its process holds.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// The last checks of its health, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckEntry>,
    /// How its breaker stands; `None` while nothing has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerStats>,
}

/// How the breaker of an agent stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerStats {
    /// Failures in a row while it is closed.
    pub failures: u32,
    /// When the agent is tried again, in milliseconds; `None` while messages go through, or the next one would.
    pub retry_ms: Option<u64>,
    /// What failed last.
    pub why: String,
}

/// A check of an agent's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckEntry {
    /// Milliseconds since 1970 by the node's wall clock, when it was over.
    pub unix_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u32,
    /// What it found.
    pub found: Checkup,
}

impl NodeFacts {
    /// Checks the bounds that the facts of another node must keep.
    ///
    /// # Errors
    /// The bound that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.links.len() > limits::FACTS_LINKS_MAX || self.members.len() > limits::PEERS_MAX {
            return Err("it tells of too many links or members");
        }
        if self.arrivals.len() > limits::ARRIVALS_KEPT_MAX {
            return Err("it tells of too many arrivals");
        }
        if self.trusted.len() > limits::CERTS_PER_FILE_MAX {
            return Err("it trusts too many CAs");
        }
        let certificates = self.certificate.iter().chain(self.links.iter().flat_map(|l| &l.certificate));
        let of_certificates =
            certificates.flat_map(|c| std::iter::once(&c.serial).chain(c.signed_by.as_ref()));
        let mut texts = of_certificates
            .chain(self.trusted.iter().map(|ca| &ca.fingerprint))
            .chain(self.links.iter().map(|link| &link.address))
            .chain(self.arrivals.iter().map(|arrival| &arrival.address))
            .chain([&self.version]);
        if texts.any(|text| text.len() > limits::FACT_TEXT_BYTES_MAX) {
            return Err("one of its texts is too long");
        }
        if self.arrivals.iter().any(|arrival| arrival.reason.len() > 4 * limits::PEER_ERROR_CHARS_MAX) {
            return Err("one of its reasons is too long");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::wire::{Control, ResponseBody, WireError, decode, encode};

    /// As large as facts can be.
    fn largest() -> NodeFacts {
        let text = |bytes: usize| "x".repeat(bytes);
        let certificate =
            CertificateFacts { serial: text(59), not_after: u64::MAX, signed_by: Some(text(95)) };
        let node = |n: usize| {
            NodeId::new(&format!("{n:0>width$}", width = limits::NODE_ID_BYTES_MAX)).expect("valid")
        };
        let link = |n: usize| LinkFacts {
            node: node(n),
            address: "[1111:2222:3333:4444:5555:6666:7777:8888]:65535".to_owned(),
            in_use: true,
            dialled: true,
            age_ms: u64::MAX,
            silent_ms: u64::MAX,
            rtt_us: u64::MAX,
            sent_packets: u64::MAX,
            lost_packets: u64::MAX,
            congestion_events: u64::MAX,
            mtu: u16::MAX,
            datagrams: true,
            certificate: Some(certificate.clone()),
        };
        let arrival = ArrivalFacts {
            address: text(60),
            times: u32::MAX,
            ago_ms: u64::MAX,
            unanswered: true,
            reason: text(4 * limits::PEER_ERROR_CHARS_MAX),
        };
        let member = |n| MemberFacts { node: node(n), status: MemberStatus::Suspect };
        NodeFacts {
            certificate: Some(certificate.clone()),
            links: (0..limits::FACTS_LINKS_MAX).map(link).collect(),
            arrivals: vec![arrival; limits::ARRIVALS_KEPT_MAX],
            members: (0..limits::PEERS_MAX).map(member).collect(),
            ..NodeFacts::default()
        }
    }

    fn response(facts: NodeFacts) -> Control {
        Control::Response { id: 1, result: Ok(ResponseBody::Facts(Box::new(facts))) }
    }

    #[test]
    fn the_largest_facts_fit_into_a_frame_and_come_back_as_they_were() {
        let told = response(largest());
        let mut bytes = Vec::new();
        encode(&told, &mut bytes).expect("it fits");
        assert_eq!(decode::<Control>(&bytes[6..]).expect("decodes"), told);
    }

    #[test]
    fn facts_that_break_a_bound_are_refused() {
        let mut many = largest();
        many.links.push(many.links[0].clone());
        let mut long =
            NodeFacts { version: "x".repeat(limits::FACT_TEXT_BYTES_MAX + 1), ..NodeFacts::default() };
        for facts in [many, long.clone()] {
            let mut bytes = Vec::new();
            encode(&response(facts), &mut bytes).expect("it fits into a frame");
            assert!(matches!(decode::<Control>(&bytes[6..]), Err(WireError::Bound(_))));
        }
        long.version.pop();
        assert_eq!(long.check(), Ok(()));
    }

    #[test]
    fn facts_of_a_later_version_and_of_one_that_says_less_are_read() {
        #[derive(Serialize)]
        struct Other {
            unix_ms: u64,
            mood: &'static str,
        }
        let bytes = rmp_serde::to_vec_named(&Other { unix_ms: 7, mood: "fine" }).expect("encodes");
        let facts: NodeFacts = rmp_serde::from_slice(&bytes).expect("decodes");
        assert_eq!(facts, NodeFacts { unix_ms: 7, ..NodeFacts::default() });
    }
}
