//! The flags of `shoal server start` that configure a node, and the environment variable and the key of
//! the file that mean the same.
//!
//! Nothing is checked here and the environment is not read: [`Config::load`](super::Config::load) does
//! both, so that errors of all three come together.

use std::path::PathBuf;

use super::Secret;

/// The flags as they were given.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Configuration file (YAML) [env: SHOAL_CONFIG]
    ///
    /// A flag beats its environment variable, which beats the file, which beats the default. An
    /// environment variable that is empty counts as not set.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Name of this node, the same as in its certificate [env: SHOAL_NODE_ID]
    #[arg(long, value_name = "NAME")]
    pub node_id: Option<String>,

    /// Address for the mesh, UDP [env: SHOAL_BIND_ADDR] [default: 0.0.0.0:7946]
    #[arg(long, value_name = "IP[:PORT]")]
    pub bind_addr: Option<String>,

    /// Address that other nodes dial, repeatable or separated by commas [env: SHOAL_ADVERTISE_ADDR]
    /// [default: derived from the bind address]
    ///
    /// Give it where this node sits behind a NAT, in a container or has several networks. A missing port
    /// is that of the bind address.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub advertise_addr: Vec<String>,

    /// Address of the HTTP API, TCP [env: SHOAL_API_ADDR] [default: 127.0.0.1:8080]
    ///
    /// On any address but loopback the API asks for a token.
    #[arg(long, value_name = "IP[:PORT]")]
    pub api_addr: Option<String>,

    /// Own address for /metrics, served without a token [env: SHOAL_METRICS_ADDR] [default: none]
    ///
    /// A missing port is 9090.
    #[arg(long, value_name = "IP[:PORT]")]
    pub metrics_addr: Option<String>,

    /// File with the token of the API [env: SHOAL_TOKEN_FILE] [default: none]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Directory of this node's own data [env: SHOAL_DATA_DIR] [default: /var/lib/shoal for root, else
    /// ~/.local/state/shoal]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Directory of agents' manifests (*.yaml): those agents run on this node, and follow their files
    /// [env: SHOAL_AGENTS_DIR] [default: none]
    #[arg(long, value_name = "DIR")]
    pub agents_dir: Option<PathBuf>,

    /// Directory with ca.crt, node.crt and node.key [env: SHOAL_CERTS] [default: certs in the data directory]
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,

    /// Directory of the mesh's CA, from which this node gives certificates to machines with a join token
    /// [env: SHOAL_CA] [default: none]
    #[arg(long, value_name = "DIR")]
    pub ca: Option<PathBuf>,

    /// Token for this node's first certificate, or @FILE with it [env: SHOAL_JOIN_TOKEN] [default: none]
    ///
    /// `shoal cert token` makes one. The certificate comes from a node of --join that has the CA. With a
    /// certificate in place the token is not used. Other users of the machine can see flags: prefer @FILE.
    #[arg(long, value_name = "TOKEN")]
    pub join_token: Option<Secret>,

    /// Nodes of the mesh to join, repeatable or separated by commas [env: SHOAL_JOIN]
    ///
    /// One that answers is enough. A missing port is 7946. Without --join, --discover, --bootstrap and seeds
    /// in the file, the node resumes the mesh that its data directory remembers.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub join: Vec<String>,

    /// Where to look for nodes of the mesh: `dns:NAME[:PORT]` or mdns, repeatable or separated by commas
    /// [env: SHOAL_DISCOVER]
    ///
    /// dns: the name stands for the addresses of many nodes and is resolved again for ever. mdns: nodes on
    /// the same local network tell each other. Beside --join and --bootstrap, or alone.
    #[arg(long, value_name = "HOW")]
    pub discover: Vec<String>,

    /// Found a new mesh; on a data directory that has one, resume it [env: SHOAL_BOOTSTRAP=true]
    ///
    /// Exactly one node of a mesh is started so, once. It excludes --join and seeds in the file.
    #[arg(long)]
    pub bootstrap: bool,

    /// trace, debug, info, warn, error, off, or directives as info,shoal::node=debug
    /// [env: SHOAL_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// human or json [env: SHOAL_LOG_FORMAT] [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// Region of this node, as us-east [env: SHOAL_REGION] [default: none]
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,

    /// Zone of this node within its region [env: SHOAL_ZONE] [default: none]
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,

    /// Label of this node, repeatable or separated by commas [env: SHOAL_LABEL]
    ///
    /// Labels of the file stay, except those given here too.
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
}

/// The three names of one setting.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) key: &'static str,
    pub(super) flag: &'static str,
    pub(super) env: &'static str,
}

const fn names(key: &'static str, flag: &'static str, env: &'static str) -> Names {
    Names { key, flag, env }
}

/// Not a key of the file: a file does not name itself.
pub(super) const CONFIG: Names = names("", "--config", "SHOAL_CONFIG");
pub(super) const NODE_ID: Names = names("node.id", "--node-id", "SHOAL_NODE_ID");
pub(super) const DATA_DIR: Names = names("node.data_dir", "--data-dir", "SHOAL_DATA_DIR");
pub(super) const AGENTS_DIR: Names = names("node.agents_dir", "--agents-dir", "SHOAL_AGENTS_DIR");
pub(super) const REGION: Names = names("node.region", "--region", "SHOAL_REGION");
pub(super) const ZONE: Names = names("node.zone", "--zone", "SHOAL_ZONE");
pub(super) const LABEL: Names = names("node.labels", "--label", "SHOAL_LABEL");
pub(super) const BIND_ADDR: Names = names("coordination.cluster.bind_addr", "--bind-addr", "SHOAL_BIND_ADDR");
pub(super) const ADVERTISE_ADDR: Names =
    names("coordination.cluster.advertise_addr", "--advertise-addr", "SHOAL_ADVERTISE_ADDR");
pub(super) const JOIN: Names = names("coordination.cluster.seeds", "--join", "SHOAL_JOIN");
pub(super) const DISCOVER: Names = names("coordination.cluster.discover", "--discover", "SHOAL_DISCOVER");
/// Not a key of the file: it would found a second mesh at the next start on an empty disk.
pub(super) const BOOTSTRAP: Names = names("", "--bootstrap", "SHOAL_BOOTSTRAP");
/// In the file each certificate has a key of its own.
pub(super) const CERTS: Names = names("", "--certs", "SHOAL_CERTS");
pub(super) const CA: Names = names("security.cluster.enrolment.ca_dir", "--ca", "SHOAL_CA");
/// Not a key of the file, which names a file with the token instead.
pub(super) const JOIN_TOKEN: Names = names("", "--join-token", "SHOAL_JOIN_TOKEN");
pub(super) const API_ADDR: Names = names("api.bind_addr", "--api-addr", "SHOAL_API_ADDR");
pub(super) const METRICS_ADDR: Names = names("api.metrics_addr", "--metrics-addr", "SHOAL_METRICS_ADDR");
pub(super) const TOKEN_FILE: Names = names("api.token_file", "--token-file", "SHOAL_TOKEN_FILE");
pub(super) const LOG_LEVEL: Names = names("log.level", "--log-level", "SHOAL_LOG_LEVEL");
pub(super) const LOG_FORMAT: Names = names("log.format", "--log-format", "SHOAL_LOG_FORMAT");
