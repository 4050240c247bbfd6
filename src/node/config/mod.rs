//! The configuration of a node: a YAML file, the environment and flags become one typed, checked value.
//!
//! Flags beat the environment (`SHOAL_...`), which beats the file, which beats the defaults.
//! [`Config::load`] reports every error at once, each with its file, line and key, or with its flag or
//! variable, before anything is started. Only keys that are honoured are accepted.
//!
//! It touches the file named by `--config` and nothing else: whether certificates exist, names resolve
//! and ports are free shows when they are used, and whether the data directory remembers a mesh is for
//! the store to say.
//!
//! The way of a value: `yaml` makes a tree with lines, `keys` compares it with the table of known keys
//! and `expand`s variables, `sources` parses each source by `values` and `address`, `load` weighs them
//! up against each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::core::ids::NodeId;
pub use crate::core::model::{CrossRegion, PartitionConfig, Profile, Recovery};

mod address;
mod blueprint;
mod care;
mod enrolment;
mod error;
mod expand;
mod flags;
mod keys;
mod load;
mod manifest;
mod partition;
mod recovery;
mod regions;
mod sources;
#[cfg(test)]
mod tests;
mod tools;
mod values;
mod yaml;

pub use address::{AddressError, Host, HostPort, parse_listen};
pub use blueprint::{BlueprintManifest, STRATEGIES, instances_of};
pub use enrolment::{EnrolmentConfig, Secret, TokenSource};
pub use error::{ConfigError, ConfigErrors, Origin};
pub use flags::Flags;
pub use manifest::{Manifest, ManifestSource};
pub use recovery::{AlertKind, Webhook};
pub use tools::schema_text;

/// The port of the mesh (UDP) where none is given.
pub const CLUSTER_PORT: u16 = 7946;
/// The port of the HTTP API (TCP) where none is given.
pub const API_PORT: u16 = 8080;
/// The port of the metrics (TCP) where an address without a port is given.
pub const METRICS_PORT: u16 = 9090;

/// The configuration of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Who this node is: `node`.
    pub node: NodeConfig,
    /// How it finds and watches the others: `coordination.cluster`.
    pub cluster: ClusterConfig,
    /// What it does while it is not among a majority: `coordination.partition`, or `partition` at the top.
    pub partition: PartitionConfig,
    /// The command that chooses among the values of a key whose policy is `custom`: `coordination.state.custom_policy`.
    /// `None`: such values are shown beside each other.
    pub custom_policy: Option<String>,
    /// How it proves who it is: `security.cluster.mtls`.
    pub tls: TlsPaths,
    /// How it gets its first certificate, and whether it gives others theirs: `security.cluster.enrolment`.
    pub enrolment: EnrolmentConfig,
    /// How its links carry: `transport`.
    pub transport: TransportConfig,
    /// Its HTTP API: `api`.
    pub api: ApiConfig,
    /// What it writes about itself: `log`.
    pub log: LogConfig,
    /// How its agents are started again and left alone: `recovery.rules`. Default none: as they say themselves, or as usual.
    pub recovery: Recovery,
    /// Who is told of agents and nodes that are not well: `alerts.webhooks`. Default nobody.
    pub webhooks: Vec<Webhook>,
}

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The name of the node. No default. It must be the one in the node's certificate and unlike that of
    /// any other node; with another name the peers refuse the node.
    pub id: NodeId,
    /// Directory of the node's store, its API token and, unless [`TlsPaths`] says otherwise, its
    /// certificates. Default `/var/lib/shoal` for root, else `$XDG_STATE_HOME/shoal` or
    /// `~/.local/state/shoal`. One node at a time uses it: several on one machine need one each. A node
    /// that loses it has to join again.
    pub data_dir: PathBuf,
    /// Directory of manifests; the agents that they describe run on this node. Default none.
    pub agents_dir: Option<PathBuf>,
    /// Region, a free text; default: the one under which `coordination.cluster.regions` lists the node, or
    /// empty, none, where there is no such list. Peers see it; it travels with every copy of the node's
    /// card, as do zone and labels.
    pub region: String,
    /// Zone within the region, a free text; default empty, none.
    pub zone: String,
    /// Labels for selecting nodes, at most [`LABELS_MAX`](crate::core::limits::LABELS_MAX); default none.
    /// Labels of the flags or of the environment are added to those of the file and replace those of the
    /// same name.
    pub labels: BTreeMap<String, String>,
    /// What the node is there for, free texts, at most [`ROLES_MAX`](crate::core::limits::ROLES_MAX); default
    /// none. Where not all nodes can vote, voters are chosen from different roles and zones.
    pub roles: Vec<String>,
}

/// How a node finds and watches the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Address (UDP) on which the node listens and from which it dials. Default `0.0.0.0:7946`: all IPv4
    /// networks of the machine. `[::]:7946` takes IPv6 instead. Port 0 is one of the system's choice.
    pub bind_addr: SocketAddr,
    /// Addresses at which others dial this node, best first. Default empty: derived from
    /// [`bind_addr`](Self::bind_addr), which is wrong behind a NAT or in a container. A missing port is
    /// that of `bind_addr`.
    pub advertise_addrs: Vec<HostPort>,
    /// Which mesh the node belongs to: from `--bootstrap`, or `--join` and `seeds`, or `discover`.
    pub start: StartMode,
    /// Where nodes of the mesh are looked for as long as this one runs, beside the seeds that are given.
    /// Default none. Each costs a question to the resolver or the local network every few seconds to half a
    /// minute.
    pub discover: Vec<Discover>,
    /// Timings by kind of network. Default [`Profile::Auto`]. The fields below override single ones.
    pub profile: Profile,
    /// Time between two rounds of gossip, 20 ms to 10 s. Default: the profile's. Half of it spreads news
    /// about twice as fast for twice the packets.
    pub gossip_interval: Option<Duration>,
    /// Peers that hear each round, 1 to 16. Default: the profile's. Packets grow in proportion; above
    /// the logarithm of the number of nodes little is gained.
    pub gossip_fanout: Option<u8>,
    /// How peers are probed. Default: the profile's.
    pub probe: Option<ProbeTimings>,
    /// How long suspects may take to answer for themselves. Default: the profile's.
    pub suspicion: Option<SuspicionTimings>,
    /// How regions weigh on whom the node talks to. Default: nearest instances first, the own region before
    /// others, no bound on the round trip to other regions.
    pub cross_region: CrossRegion,
}

/// How long a suspect may take to answer for itself: `suspicion_min` and `suspicion_max`, which are set
/// together. Shorter finds failures sooner, and calls a node that only stalled failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuspicionTimings {
    /// The time when enough others confirm that it is gone, 100 ms to 10 minutes.
    pub min: Duration,
    /// The time when nobody does, at least `min`.
    pub max: Duration,
}

impl ClusterConfig {
    /// Where nodes of the mesh may be that can be asked for something before this node has its place: the
    /// seeds, and the names that discovery resolves.
    #[must_use]
    pub fn askable(&self) -> Vec<&HostPort> {
        let seeds = match &self.start {
            StartMode::Join(seeds) => &seeds[..],
            StartMode::Bootstrap | StartMode::Discover | StartMode::Resume => &[],
        };
        let names = self.discover.iter().filter_map(|way| match way {
            Discover::Dns(name) => Some(name),
            Discover::Mdns => None,
        });
        seeds.iter().chain(names).collect()
    }
}

/// How peers are probed: `probe_interval` and `probe_timeout`, which are set together because each
/// bounds the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeTimings {
    /// Time between two probes, 50 ms to 60 s: every node probes one peer in it. Shorter finds failures
    /// sooner and costs packets in proportion.
    pub interval: Duration,
    /// How long a direct answer may take before others are asked to probe, at least 10 ms and shorter
    /// than `interval`; half of it or less leaves those others time to answer. Below the usual round trip
    /// of the network it raises false suspicions.
    pub timeout: Duration,
}

/// Which mesh a node belongs to. In every mode a mesh that the data directory remembers goes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartMode {
    /// Found a new mesh, unless the data directory has one: then resume that.
    Bootstrap,
    /// Join the mesh of the first of these that answers; never empty, without repetitions.
    Join(Vec<HostPort>),
    /// Join the mesh of the first node that [`ClusterConfig::discover`] finds.
    Discover,
    /// Resume the mesh that the data directory remembers; whether it does is not known here.
    Resume,
}

/// A way of looking for nodes of the mesh. What is found is only called: who may join, its certificate says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Discover {
    /// `dns:NAME[:PORT]`: a host name that stands for the addresses (A, AAAA) of many nodes, all with this
    /// port.
    Dns(HostPort),
    /// `mdns`: multicast DNS on the networks of the addresses that this node advertises.
    Mdns,
}

impl std::fmt::Display for Discover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::Mdns => f.write_str("mdns"),
        }
    }
}

/// Where the node's certificates are (PEM). There is no unauthenticated mode, so there is nothing to
/// switch off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// The CAs that peers are verified with. Default `certs/ca.crt` in the data directory; `--certs DIR`
    /// replaces the directory of all four, also when the file names them.
    pub ca: PathBuf,
    /// This node's certificate. Default `certs/node.crt` in the data directory. Set together with
    /// [`key`](Self::key), or not at all.
    pub cert: PathBuf,
    /// The certificate's private key. Default `certs/node.key` in the data directory.
    pub key: PathBuf,
    /// The revocation lists of the CAs. Default `certs/ca.crl` in the data directory, which may be absent; one that is
    /// named must be there. Lists also come from peers and through the API; of two the newer one applies, so a node
    /// without the file is no gap in the mesh.
    pub crl: CrlFile,
}

/// The file of revocation lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CrlFile {
    /// It is used if it is there.
    IfPresent(PathBuf),
    /// It was named, so it must be there.
    Named(PathBuf),
}

impl CrlFile {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::IfPresent(path) | Self::Named(path) => path,
        }
    }
}

/// How links carry. `transport.type` is `quic`, the only one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportConfig {
    /// Congestion control. Default [`CongestionControl::Cubic`].
    pub congestion_control: CongestionControl,
    /// Streams with messages that each peer may hold open at once, 4 to 1024. Default 32
    /// ([`UNI_STREAMS_MAX`](crate::core::limits::UNI_STREAMS_MAX)). A node of this version opens 4 to each
    /// peer. Each costs up to a stream window (256 KiB) of memory.
    pub max_streams: u32,
}

/// How a link finds out what the network carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CongestionControl {
    /// By loss: the usual choice.
    Cubic,
    /// By measured bandwidth: better on long links that lose packets; experimental in the QUIC library.
    Bbr,
}

/// The HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// Address (TCP). Default `127.0.0.1:8080`. On any other than loopback every request needs a token.
    pub bind_addr: SocketAddr,
    /// Own address of `/metrics`, served without a token. Default `None`: only at
    /// [`bind_addr`](Self::bind_addr), under its rules. Must not be the address of the API.
    pub metrics_addr: Option<SocketAddr>,
    /// File that holds the API's token. Default `None`: where a token is needed, the API makes one in
    /// the data directory.
    pub token_file: Option<PathBuf>,
}

/// What the node writes about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A level or the directives of `tracing_subscriber::EnvFilter`, checked. Default `info`; `debug`
    /// writes each decision and `trace` each frame, which slows a busy node down.
    pub level: String,
    /// Form of a line. Default [`LogFormat::Human`].
    pub format: LogFormat,
}

/// Form of a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person's eyes.
    Human,
    /// One JSON object a line.
    Json,
}

/// Reads an environment variable of this process; what is not UTF-8 in it is replaced, and so refused
/// where it matters.
#[must_use]
pub fn process_env(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}
