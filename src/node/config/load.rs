//! Puts a [`Config`] together: reads the file, asks the sources for each setting, checks settings
//! against each other. Errors are collected to the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Origin, Problems, quoted};
use super::sources::{Place, Setting, Sources};
use super::{
    API_PORT, ApiConfig, CLUSTER_PORT, ClusterConfig, Config, ConfigErrors, CongestionControl, CrlFile,
    Flags, HostPort, LogConfig, LogFormat, METRICS_PORT, NodeConfig, ProbeTimings, Profile, StartMode,
    SuspicionTimings, TlsPaths, TransportConfig, enrolment, flags, keys, parse_listen, partition, recovery,
    regions, values, yaml,
};
use crate::core::limits;

const CUSTOM_POLICY: &str = "coordination.state.custom_policy";

impl Config {
    /// Reads the configuration from `flags`, the environment as `env` tells it, and the file that one of
    /// them names. It depends on nothing else but whether the process runs as root.
    ///
    /// # Errors
    /// [`ConfigErrors`] has every error that was found. Nothing was started or changed.
    pub fn load(flags: &Flags, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let mut problems = Problems::default();
        let file = named_file(flags, env).map(|(path, origin)| {
            let text = read_file(&path).map_err(|why| problems.add(origin, "", why));
            (Arc::from(path.to_string_lossy()), text.ok())
        });
        Self::load_from(flags, env, file, rustix::process::geteuid().is_root(), problems)
    }

    /// The same, with the file's path and text in hand; its text is `None` where it could not be read.
    pub(super) fn load_from(
        flags: &Flags,
        env: &dyn Fn(&str) -> Option<String>,
        file: Option<(Arc<str>, Option<String>)>,
        is_root: bool,
        mut problems: Problems,
    ) -> Result<Self, ConfigErrors> {
        let (path, values) = match file {
            None => (Arc::from(""), Some(keys::FileValues::new())),
            Some((path, None)) => (path, None),
            Some((path, Some(text))) => {
                let values = parse_file(&text, &path, env, &mut problems);
                (path, values)
            }
        };
        let mut sources = Sources { env, path, file: values, problems };

        let (node, unplaced) = node(&mut sources, flags, is_root);
        let cluster = cluster(&mut sources, flags, unplaced);
        let partition = partition::read(&mut sources);
        let custom_policy = sources.in_file(CUSTOM_POLICY, partition::command).into_value();
        let tls = tls(&mut sources, flags);
        let enrolment = enrolment::read(&mut sources, flags, &cluster);
        let transport = transport(&mut sources);
        let api = api(&mut sources, flags);
        let log = log(&mut sources, flags);
        let recovery = recovery::rules(&mut sources);
        let webhooks = recovery::webhooks(&mut sources);

        debug_assert!(
            sources.file.as_ref().is_none_or(BTreeMap::is_empty),
            "every key of the table is read: {:?}",
            sources.file
        );
        sources.problems.into_result()?;
        let node = node.expect("a node without an id or a data directory was reported");
        let tls = tls.under(&node.data_dir);
        Ok(Self {
            node,
            cluster,
            partition,
            custom_policy,
            tls,
            enrolment,
            transport,
            api,
            log,
            recovery,
            webhooks,
        })
    }
}

/// The file that the flag or the environment names, and which of them does.
fn named_file(flags: &Flags, env: &dyn Fn(&str) -> Option<String>) -> Option<(PathBuf, Origin)> {
    if let Some(path) = &flags.config {
        return Some((path.clone(), Origin::Flag(flags::CONFIG.flag)));
    }
    let path = env(flags::CONFIG.env).filter(|path| !path.is_empty())?;
    Some((path.into(), Origin::Env(flags::CONFIG.env)))
}

pub(super) fn read_file(path: &Path) -> Result<String, String> {
    let shown = quoted(&path.to_string_lossy());
    let mut bytes = Vec::new();
    let bytes_max = limits::CONFIG_FILE_BYTES_MAX;
    File::open(path)
        .and_then(|file| file.take(bytes_max as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("the file {shown} cannot be read: {error}"))?;
    if bytes.len() > bytes_max {
        return Err(format!("the file {shown} is larger than {bytes_max} bytes: it is no configuration"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let (good, _) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        format!("the file {shown} is not UTF-8 text (line {line})")
    })
}

/// The file's values, or `None` where it could not be read to its end.
fn parse_file(
    text: &str,
    path: &Arc<str>,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Problems,
) -> Option<keys::FileValues> {
    let top = yaml::parse(text, &mut |line, key, message| {
        problems.add(Origin::File { path: Arc::clone(path), line: Some(line) }, key, message);
    });
    top.map(|top| keys::read(&top, path, env, problems))
}

/// Who the node is, and whether it has no region.
fn node(sources: &mut Sources<'_>, flags: &Flags, is_root: bool) -> (Option<NodeConfig>, bool) {
    let id = sources.one(&flags::NODE_ID, flags.node_id.as_deref(), values::node_id);
    if id == Setting::Absent {
        let message = "this node has no name: give --node-id, SHOAL_NODE_ID or node.id in the file, the same \
                       name as in its certificate";
        sources.problems.add(Origin::Missing, flags::NODE_ID.key, message);
    }
    let data_dir = sources.path(&flags::DATA_DIR, flags.data_dir.as_deref());
    let data_dir = data_dir.or(default_data_dir(sources, is_root));
    if data_dir == Setting::Absent {
        let message =
            "there is no HOME to keep data in: give --data-dir, SHOAL_DATA_DIR or node.data_dir in the file";
        sources.problems.add(Origin::Missing, flags::DATA_DIR.key, message);
    }
    let agents_dir = sources.path(&flags::AGENTS_DIR, flags.agents_dir.as_deref()).into_value();
    let region = regions::own_region(sources, flags, &id);
    let unplaced = region == Setting::Absent;
    let region = region.or_default_to(String::new());
    let zone =
        sources.one(&flags::ZONE, flags.zone.as_deref(), values::label_text).or_default_to(String::new());
    let labels = sources.labels(&flags::LABEL, &flags.label);
    let roles = partition::roles(sources);
    let named = id.into_value().zip(data_dir.into_value());
    let node =
        named.map(|(id, data_dir)| NodeConfig { id, data_dir, agents_dir, region, zone, labels, roles });
    (node, unplaced)
}

/// A relative `XDG_STATE_HOME` is to be ignored, says the XDG base directory specification.
fn default_data_dir(sources: &Sources<'_>, is_root: bool) -> Setting<PathBuf> {
    let place = Place { origin: Origin::Missing, key: String::new() };
    if is_root {
        return Setting::Value("/var/lib/shoal".into(), place);
    }
    let absolute = |name| sources.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    state.map_or(Setting::Absent, |state| Setting::Value(state.join("shoal"), place))
}

fn cluster(sources: &mut Sources<'_>, flags: &Flags, unplaced: bool) -> ClusterConfig {
    let bind_addr = sources
        .one(&flags::BIND_ADDR, flags.bind_addr.as_deref(), |text| listen(text, CLUSTER_PORT))
        .or_default_to(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), CLUSTER_PORT));
    let advertise_addrs = sources
        .list(&flags::ADVERTISE_ADDR, &flags.advertise_addr, limits::ADDRESSES_MAX, |text| {
            advertised(text, bind_addr.port())
        })
        .or_default_to(Vec::new());
    let discover = sources
        .list(&flags::DISCOVER, &flags.discover, limits::DISCOVERIES_MAX, values::discover)
        .or_default_to(Vec::new());
    let mut start = start_mode(sources, flags);
    if start == StartMode::Resume && !discover.is_empty() {
        start = StartMode::Discover;
    }
    let profile = sources
        .in_file("coordination.cluster.profile", |text| {
            let choices = [
                ("auto", Profile::Auto),
                ("local", Profile::Local),
                ("lan", Profile::Lan),
                ("wan", Profile::Wan),
            ];
            values::choice(text, &choices)
        })
        .or_default_to(Profile::Auto);
    let gossip_interval = sources.in_file("coordination.cluster.gossip_interval", |text| {
        values::duration(text, limits::GOSSIP_INTERVAL_MIN, limits::GOSSIP_INTERVAL_MAX)
    });
    let gossip_fanout = sources.in_file("coordination.cluster.gossip_fanout", |text| {
        values::integer(text, 1, limits::GOSSIP_FANOUT_MAX)
    });
    ClusterConfig {
        bind_addr,
        advertise_addrs: without_repetitions(advertise_addrs),
        start,
        discover: BTreeSet::from_iter(discover).into_iter().collect(),
        profile,
        gossip_interval: gossip_interval.into_value(),
        gossip_fanout: gossip_fanout.into_value(),
        probe: probe(sources),
        suspicion: suspicion(sources),
        cross_region: regions::cross_region(sources, unplaced),
    }
}

/// Both or none, for the same reason as with [`probe`].
fn suspicion(sources: &mut Sources<'_>) -> Option<SuspicionTimings> {
    let (shortest, longest) = (limits::SUSPICION_MIN, limits::SUSPICION_MAX);
    let min = sources
        .in_file("coordination.cluster.suspicion_min", |text| values::duration(text, shortest, longest));
    let max = sources
        .in_file("coordination.cluster.suspicion_max", |text| values::duration(text, shortest, longest));
    match (min, max) {
        (Setting::Value(min, _), Setting::Value(max, _)) if min <= max => Some(SuspicionTimings { min, max }),
        (Setting::Value(min, _), Setting::Value(max, place)) => {
            let message = format!(
                "it is {}, which must not be shorter than suspicion_min, {}",
                humantime::format_duration(max),
                humantime::format_duration(min)
            );
            sources.problem(&place, message);
            None
        }
        (Setting::Value(_, place), Setting::Absent) => {
            sources.problem(&place, "it needs suspicion_max beside it: set both, or neither");
            None
        }
        (Setting::Absent, Setting::Value(_, place)) => {
            sources.problem(&place, "it needs suspicion_min beside it: set both, or neither");
            None
        }
        (Setting::Bad, _) | (_, Setting::Bad) | (Setting::Absent, Setting::Absent) => None,
    }
}

fn listen(text: &str, port_default: u16) -> Result<SocketAddr, String> {
    parse_listen(text, port_default).map_err(|error| error.to_string())
}

fn advertised(text: &str, bind_port: u16) -> Result<HostPort, String> {
    HostPort::parse(text, bind_port).map_err(|error| match bind_port {
        0 => format!("{error}; the bind address leaves the port to the system, so it must be given here"),
        _ => error.to_string(),
    })
}

fn without_repetitions(addresses: Vec<HostPort>) -> Vec<HostPort> {
    let mut seen = BTreeSet::new();
    addresses.into_iter().filter(|address| seen.insert(address.clone())).collect()
}

fn start_mode(sources: &mut Sources<'_>, flags: &Flags) -> StartMode {
    let flag = flags.bootstrap.then_some("true");
    let bootstrap = sources.one(&flags::BOOTSTRAP, flag, values::boolean);
    let join = sources.list(&flags::JOIN, &flags.join, limits::SEEDS_MAX, |text| {
        HostPort::parse(text, CLUSTER_PORT).map_err(|error| error.to_string())
    });
    match (bootstrap, join) {
        (Setting::Value(true, founder), Setting::Value(_, joiner)) => {
            let joiner = if joiner.key.is_empty() {
                joiner.origin.to_string()
            } else {
                format!("{} ({})", joiner.key, joiner.origin)
            };
            let message = format!(
                "it founds a new mesh, but {joiner} names nodes of an existing one: leave it out to join them, \
                 or remove those to found a mesh"
            );
            sources.problem(&founder, message);
            StartMode::Bootstrap
        }
        (Setting::Value(true, _), Setting::Absent | Setting::Bad) => StartMode::Bootstrap,
        (_, Setting::Value(seeds, _)) => StartMode::Join(without_repetitions(seeds)),
        (_, Setting::Absent | Setting::Bad) => StartMode::Resume,
    }
}

/// Interval and timeout come together: the profile's value for the missing one follows the size of the
/// mesh and could contradict the given one in the middle of a run.
fn probe(sources: &mut Sources<'_>) -> Option<ProbeTimings> {
    let interval = sources.in_file("coordination.cluster.probe_interval", |text| {
        values::duration(text, limits::PROBE_INTERVAL_MIN, limits::PROBE_INTERVAL_MAX)
    });
    let timeout = sources.in_file("coordination.cluster.probe_timeout", |text| {
        values::duration(text, limits::PROBE_TIMEOUT_MIN, limits::PROBE_INTERVAL_MAX)
    });
    match (interval, timeout) {
        (Setting::Value(interval, _), Setting::Value(timeout, _)) if timeout < interval => {
            Some(ProbeTimings { interval, timeout })
        }
        (Setting::Value(interval, _), Setting::Value(timeout, place)) => {
            let message = format!(
                "it is {}, which must be shorter than probe_interval, {}: half of it is a good choice",
                humantime::format_duration(timeout),
                humantime::format_duration(interval)
            );
            sources.problem(&place, message);
            None
        }
        (Setting::Value(_, place), Setting::Absent) => {
            sources.problem(&place, "it needs probe_timeout beside it: set both, or neither");
            None
        }
        (Setting::Absent, Setting::Value(_, place)) => {
            sources.problem(&place, "it needs probe_interval beside it: set both, or neither");
            None
        }
        (Setting::Bad, _) | (_, Setting::Bad) | (Setting::Absent, Setting::Absent) => None,
    }
}

/// The certificates as far as they are named.
struct TlsSettings {
    directory: Option<PathBuf>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    crl: Option<PathBuf>,
}

impl TlsSettings {
    /// With the default directory of the node for whatever is not named.
    fn under(self, data_dir: &Path) -> TlsPaths {
        let Self { directory, ca, cert, key, crl } = self;
        let directory = directory.unwrap_or_else(|| data_dir.join("certs"));
        let or_in_directory = |path: Option<PathBuf>, name| path.unwrap_or_else(|| directory.join(name));
        TlsPaths {
            ca: or_in_directory(ca, "ca.crt"),
            cert: or_in_directory(cert, "node.crt"),
            key: or_in_directory(key, "node.key"),
            crl: crl.map_or_else(|| CrlFile::IfPresent(directory.join("ca.crl")), CrlFile::Named),
        }
    }
}

fn tls(sources: &mut Sources<'_>, flags: &Flags) -> TlsSettings {
    for key in ["security.cluster.mtls.enabled", "security.cluster.mtls.verify_peer"] {
        let _: Setting<()> = sources.in_file(key, |text| match values::boolean(text)? {
            true => Ok(()),
            false => {
                Err("it cannot be switched off, because there is no unauthenticated mode: remove the key"
                    .into())
            }
        });
    }
    let ca = sources.in_file("security.cluster.mtls.ca_cert", values::path);
    let cert = sources.in_file("security.cluster.mtls.node_cert", values::path);
    let key = sources.in_file("security.cluster.mtls.node_key", values::path);
    let crl = sources.in_file("security.cluster.mtls.crl", values::path);
    match (&cert, &key) {
        (Setting::Value(_, place), Setting::Absent) => {
            sources.problem(place, "it needs node_key beside it: a certificate is of no use without its key");
        }
        (Setting::Absent, Setting::Value(_, place)) => {
            sources
                .problem(place, "it needs node_cert beside it: a key is of no use without its certificate");
        }
        _ => {}
    }
    match sources.path(&flags::CERTS, flags.certs.as_deref()).into_value() {
        Some(directory) => {
            TlsSettings { directory: Some(directory), ca: None, cert: None, key: None, crl: None }
        }
        None => TlsSettings {
            directory: None,
            ca: ca.into_value(),
            cert: cert.into_value(),
            key: key.into_value(),
            crl: crl.into_value(),
        },
    }
}

fn transport(sources: &mut Sources<'_>) -> TransportConfig {
    let _: Setting<()> = sources.in_file("transport.type", |text| values::choice(text, &[("quic", ())]));
    let congestion_control = sources
        .in_file("transport.congestion_control", |text| {
            values::choice(text, &[("cubic", CongestionControl::Cubic), ("bbr", CongestionControl::Bbr)])
        })
        .or_default_to(CongestionControl::Cubic);
    let max_streams = sources
        .in_file("transport.max_streams", |text| {
            values::integer(text, limits::DATA_STREAMS as u32, limits::UNI_STREAMS_CONFIGURED_MAX)
        })
        .or_default_to(limits::UNI_STREAMS_MAX);
    TransportConfig { congestion_control, max_streams }
}

fn api(sources: &mut Sources<'_>, flags: &Flags) -> ApiConfig {
    let bind_addr = sources
        .one(&flags::API_ADDR, flags.api_addr.as_deref(), |text| listen(text, API_PORT))
        .or_default_to(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), API_PORT));
    let metrics_addr =
        sources.one(&flags::METRICS_ADDR, flags.metrics_addr.as_deref(), |text| listen(text, METRICS_PORT));
    if let Setting::Value(metrics, place) = &metrics_addr
        && overlap(bind_addr, *metrics)
    {
        let message = format!(
            "the metrics cannot have the API's address {bind_addr}: give another port, or \
                               nothing to serve them with the API"
        );
        sources.problem(place, message);
    }
    let token_file = sources.path(&flags::TOKEN_FILE, flags.token_file.as_deref());
    ApiConfig { bind_addr, metrics_addr: metrics_addr.into_value(), token_file: token_file.into_value() }
}

/// Whether the system would refuse to listen on both. Port 0 is another one each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_host = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && same_host
}

fn log(sources: &mut Sources<'_>, flags: &Flags) -> LogConfig {
    let level = sources
        .one(&flags::LOG_LEVEL, flags.log_level.as_deref(), values::log_level)
        .or_default_to("info".into());
    let format = sources
        .one(&flags::LOG_FORMAT, flags.log_format.as_deref(), |text| {
            values::choice(text, &[("human", LogFormat::Human), ("json", LogFormat::Json)])
        })
        .or_default_to(LogFormat::Human);
    LogConfig { level, format }
}
