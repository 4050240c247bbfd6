//! The JSON of `GET /v1/cluster/facts`, and of the path that a ping takes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::ids::NodeId;
use crate::core::model::Profile;
use crate::core::wire;

/// One node: what the asked node knows of it, and what it says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name.
    pub node_id: NodeId,
    /// As in `GET /v1/cluster/members`.
    pub status: String,
    /// Where it can be dialled, best first.
    pub addresses: Vec<String>,
    /// Its region; empty when it has none.
    pub region: String,
    /// Its zone; empty when it has none.
    pub zone: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its incarnation as far as known.
    pub incarnation: u64,
    /// Agents that it says it has.
    pub agents: u32,
    /// As in `GET /v1/cluster/members`.
    pub cpu_percent: Option<f64>,
    /// As in `GET /v1/cluster/members`.
    pub memory_bytes: Option<u64>,
    /// Whether it is the asked node.
    pub is_asked: bool,
    /// From asking for its facts to having them.
    pub seconds: Option<f64>,
    /// How far its clock is ahead of the asked node's, corrected by half of `seconds`, by which it may be off;
    /// negative when it is behind.
    pub clock_seconds: Option<f64>,
    /// What it says of itself; null when it was not asked or did not answer.
    pub facts: Option<Facts>,
    /// Why there are no facts.
    pub error: Option<String>,
}

/// What a node measures of itself and of its links.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Its wall clock: milliseconds since 1970.
    pub unix_ms: u64,
    /// Its software's version.
    pub version: String,
    /// Since its process started.
    pub uptime_seconds: f64,
    /// Its gossip timings: `auto`, `local`, `lan` or `wan`.
    pub profile: String,
    /// Seeds that it was started with.
    pub seeds: u32,
    /// Its certificate.
    pub certificate: Option<ShownCertificate>,
    /// The CAs that it trusts.
    pub trusted: Vec<Authority>,
    /// Its connections.
    pub links: Vec<Link>,
    /// Connections that others began in the last minute and that came to nothing.
    pub arrivals: Vec<Arrival>,
    /// Inputs that wait for its main loop.
    pub queued_inputs: u32,
    /// Changes that wait for its disk.
    pub queued_changes: u32,
    /// Entries of its history that were dropped since its process started.
    pub history_dropped: u64,
    /// Free bytes on the disk of its data directory.
    pub disk_free_bytes: Option<u64>,
    /// Bytes of that disk.
    pub disk_bytes: Option<u64>,
    /// Bytes of its database.
    pub database_bytes: Option<u64>,
    /// How late its main loop was at most in the last minute.
    pub loop_late_seconds: f64,
    /// What it believes of the other nodes: status by name.
    pub members: BTreeMap<NodeId, String>,
    /// Whether it is among a majority: `joining`, `healthy`, `degraded` or `recovering`; null from an earlier version.
    #[serde(default)]
    pub mode: Option<String>,
}

/// A certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownCertificate {
    /// Its serial number.
    pub serial: String,
    /// The last second at which it is valid, since 1970.
    pub not_after: u64,
    /// SHA-256 fingerprint of the trusted CA that has signed it; null if none that is trusted now has.
    pub signed_by: Option<String>,
}

/// A CA that a node trusts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Authority {
    /// SHA-256 over its certificate.
    pub fingerprint: String,
    /// The last second at which it is valid, since 1970.
    pub not_after: u64,
}

/// One connection to a peer, measured on this side of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The peer.
    pub node: NodeId,
    /// Where the peer is.
    pub address: String,
    /// Whether this side talks over it.
    pub in_use: bool,
    /// Whether this side opened it.
    pub dialled: bool,
    /// Since it was made.
    pub age_seconds: f64,
    /// Since anything at all came from the peer; up to 5 s too little.
    pub silent_seconds: f64,
    /// Smoothed round trip.
    pub rtt_seconds: f64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets of those that were lost.
    pub lost_packets: u64,
    /// How often congestion control saw congestion.
    pub congestion_events: u64,
    /// Largest UDP payload that the path is known to carry.
    pub mtu: u16,
    /// What gossip takes: `datagrams`, or `stream` where those are too small.
    pub gossip: String,
    /// The peer's certificate.
    pub certificate: Option<ShownCertificate>,
}

/// Connections from one address that came to nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arrival {
    /// Where they came from.
    pub address: String,
    /// How many, each within a minute of the one before.
    pub times: u32,
    /// Since the last of them.
    pub seconds_ago: f64,
    /// Whether the other side never heard this node.
    pub unanswered: bool,
    /// Why the last one failed.
    pub reason: String,
}

/// The way between the asked node and another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkPath {
    /// The asked node's own address; null where the system does not tell.
    pub from: Option<String>,
    /// The link.
    #[serde(flatten)]
    pub link: Link,
}

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1e3
}

impl From<wire::NodeFacts> for Facts {
    fn from(facts: wire::NodeFacts) -> Self {
        let word = |profile| match profile {
            Profile::Auto => "auto",
            Profile::Local => "local",
            Profile::Lan => "lan",
            Profile::Wan => "wan",
        };
        Self {
            unix_ms: facts.unix_ms,
            version: facts.version,
            uptime_seconds: facts.uptime_seconds as f64,
            profile: word(facts.profile).to_owned(),
            seeds: facts.seeds,
            certificate: facts.certificate.map(ShownCertificate::from),
            trusted: facts.trusted.into_iter().map(Authority::from).collect(),
            links: facts.links.into_iter().map(Link::from).collect(),
            arrivals: facts.arrivals.into_iter().map(Arrival::from).collect(),
            queued_inputs: facts.queues.inputs,
            queued_changes: facts.queues.store_changes,
            history_dropped: facts.queues.history_dropped,
            disk_free_bytes: facts.disk.free_bytes,
            disk_bytes: facts.disk.total_bytes,
            database_bytes: facts.disk.database_bytes,
            loop_late_seconds: seconds(facts.loop_late_ms.into()),
            members: facts.members.into_iter().map(|m| (m.node, m.status.to_string())).collect(),
            mode: facts.mode.map(|mode| mode.to_string()),
        }
    }
}

impl From<wire::CertificateFacts> for ShownCertificate {
    fn from(facts: wire::CertificateFacts) -> Self {
        Self { serial: facts.serial, not_after: facts.not_after, signed_by: facts.signed_by }
    }
}

impl From<wire::CaFacts> for Authority {
    fn from(facts: wire::CaFacts) -> Self {
        Self { fingerprint: facts.fingerprint, not_after: facts.not_after }
    }
}

impl From<wire::LinkFacts> for Link {
    fn from(facts: wire::LinkFacts) -> Self {
        Self {
            node: facts.node,
            address: facts.address,
            in_use: facts.in_use,
            dialled: facts.dialled,
            age_seconds: seconds(facts.age_ms),
            silent_seconds: seconds(facts.silent_ms),
            rtt_seconds: facts.rtt_us as f64 / 1e6,
            sent_packets: facts.sent_packets,
            lost_packets: facts.lost_packets,
            congestion_events: facts.congestion_events,
            mtu: facts.mtu,
            gossip: if facts.datagrams { "datagrams" } else { "stream" }.to_owned(),
            certificate: facts.certificate.map(ShownCertificate::from),
        }
    }
}

impl From<wire::ArrivalFacts> for Arrival {
    fn from(facts: wire::ArrivalFacts) -> Self {
        Self {
            address: facts.address,
            times: facts.times,
            seconds_ago: seconds(facts.ago_ms),
            unanswered: facts.unanswered,
            reason: facts.reason,
        }
    }
}
