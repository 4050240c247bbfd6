//! The loader as a whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;

mod bad_input;
mod hostile;
mod partition;
mod precedence;
mod recovery;
mod regions;

use super::error::Problems;
use super::keys::{KEYS, Shape};
use super::*;
use crate::core::limits;

/// An environment of exactly these variables.
fn env_of(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    let variables: Vec<(String, String)> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    move |name| variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

const FULL_EXAMPLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/config/node.yaml"));

const HOME: (&str, &str) = ("HOME", "/home/ada");

fn load_all(flags: &Flags, variables: &[(&str, &str)], text: &str) -> Result<Config, ConfigErrors> {
    let variables: Vec<_> = variables.iter().copied().chain([HOME]).collect();
    let file = Some((Arc::from("config/bad.yaml"), Some(text.to_owned())));
    Config::load_from(flags, &env_of(&variables), file, false, Problems::default())
}

fn load(text: &str) -> Result<Config, ConfigErrors> {
    load_all(&Flags::default(), &[], text)
}

fn flags(arguments: &[&str]) -> Flags {
    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: Flags,
    }
    Command::try_parse_from(["shoal"].iter().chain(arguments)).expect("flags that clap knows").flags
}

fn lines(result: Result<Config, ConfigErrors>) -> Vec<String> {
    result.expect_err("it is refused").to_string().lines().map(str::to_owned).collect()
}

#[test]
fn every_example_is_accepted_as_it_is() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).expect("the examples") {
        let path = entry.expect("an entry").path();
        let flags = Flags { config: Some(path.clone()), ..Flags::default() };
        let config = Config::load(&flags, &env_of(&[HOME])).unwrap_or_else(|e| panic!("{e}"));
        assert!(config.node.id.as_str().starts_with("node-"), "{path:?}");
        count += 1;
    }
    assert!(count >= 3);
}

#[test]
fn the_full_example_shows_every_key() {
    let top = yaml::parse(FULL_EXAMPLE, &mut |line, key, message| panic!("{line} {key} {message}"));
    let mut problems = Problems::default();
    let values = keys::read(&top.expect("a tree"), &Arc::from(""), &|_| None, &mut problems);
    for (key, shape) in KEYS {
        assert!(*shape == Shape::Section || values.contains_key(key), "{key} is missing");
    }
}

#[test]
fn every_value_of_the_full_example_arrives() {
    let config = load(FULL_EXAMPLE).expect("valid");
    let address = |text| HostPort::parse(text, 1).expect("valid");
    let expected = Config {
        node: NodeConfig {
            id: NodeId::new("node-1").expect("valid"),
            data_dir: "/var/lib/shoal".into(),
            agents_dir: Some("/etc/shoal/agents".into()),
            region: "us-east".into(),
            zone: "a".into(),
            labels: [("gpu", "no"), ("rack", "r12")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            roles: vec!["voter".into(), "worker".into()],
        },
        partition: PartitionConfig::default(),
        custom_policy: None,
        cluster: ClusterConfig {
            bind_addr: "0.0.0.0:7946".parse().expect("valid"),
            advertise_addrs: vec![address("node-1.example.com:7946")],
            start: StartMode::Join(vec![address("node-2.example.com:7946"), address("[fd00::3]:7946")]),
            discover: vec![Discover::Dns(address("nodes.example.com:7946")), Discover::Mdns],
            profile: Profile::Auto,
            gossip_interval: Some(Duration::from_millis(200)),
            gossip_fanout: Some(3),
            probe: Some(ProbeTimings {
                interval: Duration::from_secs(1),
                timeout: Duration::from_millis(500),
            }),
            suspicion: Some(SuspicionTimings { min: Duration::from_secs(1), max: Duration::from_secs(6) }),
            cross_region: CrossRegion {
                latency_aware_routing: true,
                prefer_local_region: true,
                max_cross_region_latency: Some(Duration::from_millis(100)),
            },
        },
        tls: TlsPaths {
            ca: "/var/lib/shoal/certs/ca.crt".into(),
            cert: "/var/lib/shoal/certs/node.crt".into(),
            key: "/var/lib/shoal/certs/node.key".into(),
            crl: CrlFile::IfPresent("/var/lib/shoal/certs/ca.crl".into()),
        },
        enrolment: EnrolmentConfig { ca: None, token: None },
        transport: TransportConfig { congestion_control: CongestionControl::Cubic, max_streams: 32 },
        api: ApiConfig {
            bind_addr: "127.0.0.1:8080".parse().expect("valid"),
            metrics_addr: None,
            token_file: None,
        },
        log: LogConfig { level: "info".into(), format: LogFormat::Human },
        recovery: Recovery::default(),
        webhooks: Vec::new(),
    };
    assert_eq!(config, expected);
}

#[test]
fn the_values_that_differ_from_the_defaults_arrive() {
    let text = "
coordination: {cluster: {profile: wan, bind_addr: '[::]', advertise_addr: [a, '::1', a]}}
security: {cluster: {mtls: {ca_cert: /a/ca, node_cert: /a/cert, node_key: /a/key, crl: /a/crl}}}
transport: {congestion_control: bbr, max_streams: 1024}
api: {bind_addr: 10.0.0.1, metrics_addr: '[::]', token_file: /a/token}
log: {level: 'warn,shoal=trace', format: json}
node: {id: n}";
    let config = load(text).expect("valid");
    assert_eq!(config.cluster.profile, Profile::Wan);
    assert_eq!(config.cluster.bind_addr.to_string(), "[::]:7946");
    let advertised: Vec<String> = config.cluster.advertise_addrs.iter().map(HostPort::to_string).collect();
    assert_eq!(advertised, ["a:7946", "[::1]:7946"]);
    let crl = CrlFile::Named("/a/crl".into());
    let tls = TlsPaths { ca: "/a/ca".into(), cert: "/a/cert".into(), key: "/a/key".into(), crl };
    assert_eq!(config.tls, tls);
    let transport = TransportConfig { congestion_control: CongestionControl::Bbr, max_streams: 1024 };
    assert_eq!(config.transport, transport);
    assert_eq!(config.api.bind_addr.to_string(), "10.0.0.1:8080");
    assert_eq!(config.api.metrics_addr.map(|a| a.to_string()).as_deref(), Some("[::]:9090"));
    assert_eq!(config.api.token_file, Some("/a/token".into()));
    assert_eq!(config.log, LogConfig { level: "warn,shoal=trace".into(), format: LogFormat::Json });
}

#[test]
fn a_name_is_all_that_a_node_needs() {
    let config = load("node: {id: n}").expect("valid");
    assert_eq!(config.node.data_dir, PathBuf::from("/home/ada/.local/state/shoal"));
    assert_eq!(config.tls.key, PathBuf::from("/home/ada/.local/state/shoal/certs/node.key"));
    assert_eq!(config.cluster.bind_addr.to_string(), "0.0.0.0:7946");
    assert_eq!(config.cluster.advertise_addrs, []);
    assert_eq!(config.cluster.start, StartMode::Resume);
    assert_eq!(config.cluster.probe, None);
    assert_eq!(config.transport.max_streams, limits::UNI_STREAMS_MAX);
    assert_eq!(config.api.bind_addr.to_string(), "127.0.0.1:8080");
    assert_eq!(config.log.level, "info");
}

#[test]
fn data_goes_where_the_user_may_write() {
    let data_dir = |variables: &[(&str, &str)], is_root| {
        let flags = flags(&["--node-id", "n"]);
        Config::load_from(&flags, &env_of(variables), None, is_root, Problems::default())
            .map(|config| config.node.data_dir.to_str().expect("UTF-8").to_owned())
    };
    assert_eq!(data_dir(&[], true).as_deref(), Ok("/var/lib/shoal"));
    assert_eq!(data_dir(&[("XDG_STATE_HOME", "/x"), HOME], false).as_deref(), Ok("/x/shoal"));
    assert_eq!(
        data_dir(&[("XDG_STATE_HOME", "x"), HOME], false).as_deref(),
        Ok("/home/ada/.local/state/shoal"),
        "a relative one is ignored"
    );
    let error = data_dir(&[], false).expect_err("nowhere to write").to_string();
    assert!(error.starts_with("configuration: node.data_dir: there is no HOME"), "{error}");
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/first-node.yaml");
    let config = Config::load(&Flags::default(), &env_of(&[HOME, ("SHOAL_CONFIG", path)])).expect("valid");
    assert_eq!(config.node.id.as_str(), "node-1");
    let named = [HOME, ("SHOAL_CONFIG", "/nowhere/a.yaml")];
    let lines = lines(Config::load(&Flags::default(), &env_of(&named)));
    assert_eq!(lines.len(), 1, "what is in an unread file is not missing: {lines:?}");
    assert!(lines[0].starts_with("SHOAL_CONFIG: the file \"/nowhere/a.yaml\" cannot be read: "), "{lines:?}");
}

#[test]
fn a_file_that_is_no_text_or_has_no_end_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("c.yaml");
    for (content, why) in [
        (b"node:\n  id: \xff".to_vec(), "is not UTF-8 text (line 2)"),
        (vec![b'#'; limits::CONFIG_FILE_BYTES_MAX + 1], "is larger than"),
    ] {
        std::fs::write(&path, content).expect("written");
        let flags = Flags { config: Some(path.clone()), ..Flags::default() };
        let lines = lines(Config::load(&flags, &env_of(&[HOME])));
        assert!(
            lines.len() == 1 && lines[0].starts_with("--config: ") && lines[0].contains(why),
            "{lines:?}"
        );
    }
    let flags = Flags { config: Some(directory.path().into()), ..Flags::default() };
    assert!(lines(Config::load(&flags, &env_of(&[HOME])))[0].contains("cannot be read"));
}
