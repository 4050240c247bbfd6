//! Which source wins, and how those that are weighed up together come out.

use super::*;

/// Flag, its value, variable, its value, section of the file, and where the result shows.
type Layered = (&'static str, &'static str, &'static str, &'static str, &'static str, fn(&Config) -> String);

const LAYERED: &[Layered] = &[
    ("--node-id", "f", "SHOAL_NODE_ID", "e", "node: {id: y}", |c| c.node.id.to_string()),
    ("--data-dir", "f", "SHOAL_DATA_DIR", "e", "node: {id: n, data_dir: y}", |c| {
        c.node.data_dir.display().to_string()
    }),
    ("--agents-dir", "f", "SHOAL_AGENTS_DIR", "e", "node: {id: n, agents_dir: y}", |c| {
        c.node.agents_dir.as_deref().expect("given").display().to_string()
    }),
    ("--region", "f", "SHOAL_REGION", "e", "node: {id: n, region: y}", |c| c.node.region.clone()),
    ("--zone", "f", "SHOAL_ZONE", "e", "node: {id: n, zone: y}", |c| c.node.zone.clone()),
    ("--label", "l=f", "SHOAL_LABEL", "l=e", "node: {id: n, labels: {l: y}}", |c| c.node.labels["l"].clone()),
    (
        "--bind-addr",
        "1.1.1.1",
        "SHOAL_BIND_ADDR",
        "2.2.2.2",
        "node: {id: n}\ncoordination: {cluster: {bind_addr: 3.3.3.3}}",
        |c| {
            c.cluster
                .bind_addr
                .to_string()
                .replace("1.1.1.1:7946", "f")
                .replace("2.2.2.2:7946", "e")
                .replace("3.3.3.3:7946", "y")
        },
    ),
    (
        "--advertise-addr",
        "f:7946",
        "SHOAL_ADVERTISE_ADDR",
        "e",
        "node: {id: n}\ncoordination: {cluster: {advertise_addr: y}}",
        |c| c.cluster.advertise_addrs[0].to_string().replace(":7946", ""),
    ),
    ("--join", "f", "SHOAL_JOIN", "e:7946", "node: {id: n}\ncoordination: {cluster: {seeds: [y]}}", |c| {
        match &c.cluster.start {
            StartMode::Join(seeds) => seeds[0].to_string().replace(":7946", ""),
            StartMode::Bootstrap | StartMode::Discover | StartMode::Resume => "no seeds".into(),
        }
    }),
    (
        "--discover",
        "dns:f",
        "SHOAL_DISCOVER",
        "dns:e:7946",
        "node: {id: n}\ncoordination: {cluster: {discover: ['dns:y']}}",
        |c| {
            assert_eq!(c.cluster.start, StartMode::Discover);
            c.cluster.discover[0].to_string().replace("dns:", "").replace(":7946", "")
        },
    ),
    (
        "--api-addr",
        "127.0.0.1:1",
        "SHOAL_API_ADDR",
        "127.0.0.1:2",
        "node: {id: n}\napi: {bind_addr: '127.0.0.1:3'}",
        |c| ["f", "e", "y"][usize::from(c.api.bind_addr.port()) - 1].into(),
    ),
    (
        "--metrics-addr",
        "127.0.0.1:1",
        "SHOAL_METRICS_ADDR",
        "127.0.0.1:2",
        "node: {id: n}\napi: {metrics_addr: '127.0.0.1:3'}",
        |c| ["f", "e", "y"][usize::from(c.api.metrics_addr.expect("set").port()) - 1].into(),
    ),
    ("--token-file", "f", "SHOAL_TOKEN_FILE", "e", "node: {id: n}\napi: {token_file: y}", |c| {
        c.api.token_file.as_ref().expect("set").display().to_string()
    }),
    (
        "--certs",
        "f",
        "SHOAL_CERTS",
        "e",
        "node: {id: n}\nsecurity: {cluster: {mtls: {ca_cert: y/ca.crt, node_cert: y/node.crt, node_key: y/node.key, crl: y/ca.crl}}}",
        |c| {
            let TlsPaths { ca, cert, key, crl } = &c.tls;
            let directory = ca.parent().expect("a directory");
            assert_eq!(*cert, directory.join("node.crt"));
            assert_eq!(*key, directory.join("node.key"));
            assert_eq!(crl.path(), directory.join("ca.crl"));
            directory.display().to_string()
        },
    ),
    ("--ca", "f", "SHOAL_CA", "e", "node: {id: n}\nsecurity: {cluster: {enrolment: {ca_dir: y}}}", |c| {
        c.enrolment.ca.as_ref().expect("set").display().to_string()
    }),
    (
        "--join-token",
        "@f",
        "SHOAL_JOIN_TOKEN",
        "@e",
        "node: {id: n}\ncoordination: {cluster: {seeds: a}}\nsecurity: {cluster: {enrolment: {token_file: y}}}",
        |c| match c.enrolment.token.as_ref().expect("set") {
            TokenSource::File(path) => path.display().to_string(),
            TokenSource::Text(_) => "no file".into(),
        },
    ),
    ("--log-level", "error", "SHOAL_LOG_LEVEL", "warn", "node: {id: n}\nlog: {level: debug}", |c| {
        c.log.level.replace("error", "f").replace("warn", "e").replace("debug", "y")
    }),
];

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    for (flag, from_flag, variable, from_env, text, result) in LAYERED {
        let all = flags(&[flag, from_flag]);
        let show =
            |loaded: Result<Config, ConfigErrors>| result(&loaded.unwrap_or_else(|e| panic!("{flag}: {e}")));
        assert_eq!(show(load_all(&all, &[(variable, from_env)], text)), "f", "{flag}");
        assert_eq!(show(load_all(&Flags::default(), &[(variable, from_env)], text)), "e", "{flag}");
        assert_eq!(
            show(load_all(&Flags::default(), &[(variable, "")], text)),
            "y",
            "{flag}: empty is not set"
        );
    }
}

#[test]
fn the_form_of_the_log_is_layered_too() {
    let text = "node: {id: n}\nlog: {format: json}";
    let human = [("SHOAL_LOG_FORMAT", "human")];
    assert_eq!(load(text).map(|c| c.log.format), Ok(LogFormat::Json));
    assert_eq!(load_all(&Flags::default(), &human, text).map(|c| c.log.format), Ok(LogFormat::Human));
    let flags = flags(&["--log-format", "json"]);
    assert_eq!(load_all(&flags, &human, text).map(|c| c.log.format), Ok(LogFormat::Json));
}

#[test]
fn labels_of_all_sources_come_together() {
    let text = "node: {id: n, labels: {a: file, b: file, c: file, empty: ''}}";
    let flags = flags(&["--label", "c=flag,d=flag", "--label", "e=x=y"]);
    let config = load_all(&flags, &[("SHOAL_LABEL", "b=env,c=env")], text).expect("valid");
    let labels: Vec<String> = config.node.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["a=file", "b=env", "c=flag", "d=flag", "e=x=y", "empty="]);
}

#[test]
fn how_a_node_starts_follows_from_bootstrap_and_seeds() {
    let seeds = |texts: &[&str]| {
        StartMode::Join(texts.iter().map(|text| HostPort::parse(text, 1).expect("valid")).collect())
    };
    let file = "node: {id: n}\ncoordination: {cluster: {seeds: [a, 'a:7946', '::1']}}";
    let none = "node: {id: n}\ncoordination: {cluster: {seeds: }}";
    let text = "node: {id: n}\ncoordination: {cluster: {seeds: '${SEEDS:-}'}}";
    let plain = "node: {id: n}\ncoordination:\n  cluster:\n    seeds: ${SEEDS:-}";
    for (arguments, variables, text, expected) in [
        (&[][..], &[][..], file, seeds(&["a:7946", "[::1]:7946"])),
        (&["--join", "b,c:1", "--join", "d"], &[], file, seeds(&["b:7946", "c:1", "d:7946"])),
        (&[], &[("SHOAL_JOIN", "b, c")], none, seeds(&["b:7946", "c:7946"])),
        (&[], &[("SEEDS", "b,c")], text, seeds(&["b:7946", "c:7946"])),
        (&[], &[], plain, StartMode::Resume),
        (&["--bootstrap"], &[], none, StartMode::Bootstrap),
        (&[], &[("SHOAL_BOOTSTRAP", "true")], none, StartMode::Bootstrap),
        (&[], &[("SHOAL_BOOTSTRAP", "false")], file, seeds(&["a:7946", "[::1]:7946"])),
        (&[], &[], none, StartMode::Resume),
    ] {
        let config = load_all(&flags(arguments), variables, text).expect(text);
        assert_eq!(config.cluster.start, expected, "{arguments:?} {variables:?} {text}");
    }
}

#[test]
fn founding_and_joining_exclude_each_other_whatever_says_so() {
    let file = "node: {id: n}\ncoordination:\n  cluster:\n    seeds:\n    - a\n";
    let bare = "node: {id: n}";
    for (arguments, variables, text, start, named) in [
        (
            &["--bootstrap"][..],
            &[][..],
            file,
            "--bootstrap: ",
            "coordination.cluster.seeds (config/bad.yaml:5)",
        ),
        (&["--bootstrap", "--join", "a"], &[], bare, "--bootstrap: ", "but --join names"),
        (&["--bootstrap"], &[("SHOAL_JOIN", "a")], bare, "--bootstrap: ", "but SHOAL_JOIN names"),
        (&["--join", "a"], &[("SHOAL_BOOTSTRAP", "true")], bare, "SHOAL_BOOTSTRAP: ", "but --join names"),
    ] {
        let lines = lines(load_all(&flags(arguments), variables, text));
        assert!(lines.len() == 1 && lines[0].starts_with(start) && lines[0].contains(named), "{lines:?}");
    }
}
