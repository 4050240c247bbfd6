//! Bad input, case by case: each error is found at its place and says why.

use super::*;

/// A file below a line of comment, where its one error must be found (line and key), and a part of what it
/// must say. The environment gives the node its name.
#[rustfmt::skip]
const BAD_FILES: &[(&str, &str, &str)] = &[
    // The text itself.
    ("node:\n  id: n\n bad", "4: ", "not valid YAML"),
    ("node: {id: n\n", "2: ", "not valid YAML"),
    ("node:\n\tid: n", "3: ", "not valid YAML"),
    ("node: {id: ${A:-n}}", "2: ", "needs quotes"),
    ("\0log: x", "2: ", "U+0000"),
    ("log: {level: \u{1b}[2J}", "2: ", "U+001B"),
    ("log: {}\n---\nnode: {id: m}", "3: ", "second document"),
    ("node: &a {id: n}", "2: ", "anchors"),
    ("node: {id: !!str n}", "2: ", "tags"),
    ("log: *a", "2: ", "unknown anchor"),
    ("? [a]\n: b", "2: ", "a key must be one plain word"),
    ("log: [[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]", "2: ", "more than 16 deep"),
    ("- a", "2: ", "keys and values are expected"),
    // Keys.
    ("node: {id: n}\nnode: {id: m}", "3: node: ", "twice: first on line 2"),
    ("node:\n  id: n\n  zone: a\n  zone: b", "5: node.zone: ", "first on line 4"),
    ("node:\n  id: n\n  labels:\n    a: b\n    a: c", "6: node.labels.a: ", "first on line 5"),
    ("nodes: 1", "2: nodes: ", "did you mean node?"),
    ("node:\n  id: n\n  data-dir: x", "4: node.data-dir: ", "did you mean data_dir?"),
    ("seeds: [a]", "2: seeds: ", "did you mean coordination.cluster.seeds?"),
    ("bind_addr: a", "2: bind_addr: ", "coordination.cluster.bind_addr or api.bind_addr?"),
    ("\"log.level\": info", "2: log.level: ", "in its section"),
    ("log: {\"a\\nb\": 1}", "2: log.\"a\\nb\": ", "log has level, format"),
    ("coordination: {cluster: {bootstrap: true}}", "2: coordination.cluster.bootstrap: ", "--bootstrap"),
    // Keys of other versions.
    ("agents: {dir: null}", "2: agents: ", "not offered by this version"),
    // Partitions and roles.
    ("node: {id: n, roles: [a, b, a]}", "2: node.roles: ", "the role a is given twice"),
    ("partition: {strategy: consistent}", "2: coordination.partition.strategy: ", "not one of consistency"),
    ("partition: {detection_timeout: 1ms}", "2: coordination.partition.detection_timeout: ", "not between"),
    ("partition: {quorum_size: 0}", "2: coordination.partition.quorum_size: ", "and not auto"),
    ("partition: {quorum_size: 2, tie_breaker: n}", "2: coordination.partition.tie_breaker: ", "does nothing beside quorum_size"),
    ("partition: {max_offline: 1s}", "2: coordination.partition.max_offline: ", "not between"),
    ("partition: {custom_handler: /a}", "2: coordination.partition.custom_handler: ", "without strategy: custom"),
    ("partition: {strategy: custom}", "2: coordination.partition.strategy: ", "needs decisions"),
    (
        "partition: {strategy: availability, degraded_mode: false}",
        "2: coordination.partition.degraded_mode: ",
        "must read what it wrote",
    ),
    (
        "partition: {strategy: custom, custom_handler: /a, decisions: [{condition: nodes < 2, action: read-only}]}",
        "2: coordination.partition.custom_handler: ",
        "remove one of the two",
    ),
    (
        "partition: {strategy: custom, decisions: [{condition: critical_agents_present, action: read-only}]}",
        "2: coordination.partition.decisions[0].condition: ",
        "comes with critical agents",
    ),
    (
        "partition: {strategy: custom, decisions: [{condition: nodes < 2, action: continue-critical}]}",
        "2: coordination.partition.decisions[0].action: ",
        "comes with critical agents",
    ),
    (
        "partition: {strategy: custom, decisions: [{condition: nodes < 2}]}",
        "2: coordination.partition.decisions[0]: ",
        "a condition and an action",
    ),
    ("partition: {decisions: read-only}", "2: coordination.partition.decisions: ", "a list is expected"),
    ("partition: {}\ncoordination: {partition: {}}", "2: partition: ", "are the same: keep one"),
    ("coordination: {cluster: {suspicion_min: 1s}}", "2: coordination.cluster.suspicion_min: ", "suspicion_max"),
    ("coordination: {cluster: {suspicion_max: 1s}}", "2: coordination.cluster.suspicion_max: ", "suspicion_min"),
    (
        "coordination: {cluster: {suspicion_min: 3s, suspicion_max: 1s}}",
        "2: coordination.cluster.suspicion_max: ",
        "must not be shorter",
    ),
    ("security: {cluster: {mtls: {crl: [x]}}}", "2: security.cluster.mtls.crl: ", "one value is expected"),
    // Shapes.
    ("node: n", "2: node: ", "indented below it"),
    ("log:\n- level", "2: log: ", "indented below it"),
    ("node: {id: [n]}", "2: node.id: ", "one value is expected"),
    ("node: {id: n, zone: {a: b}}", "2: node.zone: ", "one value is expected"),
    ("node:\n  id:\n  zone: a", "3: node.id: ", "has no value"),
    ("node: {id: n, zone: null}", "2: node.zone: ", "has no value"),
    ("node: {id: n, labels: [a]}", "2: node.labels: ", "names and values"),
    ("node: {id: n, labels: {a: }}", "2: node.labels.a: ", "has no value"),
    ("node: {id: n, labels: {a: [b]}}", "2: node.labels.a: ", "one value is expected"),
    ("coordination: {cluster: {seeds: {a: b}}}", "2: coordination.cluster.seeds: ", "one value"),
    // Variables.
    ("node:\n  id: ${NONE}", "3: node.id: ", "NONE is not set"),
    ("node:\n  id: ${NONE", "3: node.id: ", "without its `}`"),
    ("coordination:\n  cluster:\n    seeds:\n      - a\n      - ${NONE}:1", "6: coordination.cluster.seeds[1]: ", "NONE is not set"),
    ("node:\n  id: n\n  labels:\n    a: ${NONE}", "5: node.labels.a: ", "NONE is not set"),
    // Values.
    ("node:\n  id: -n", "3: node.id: ", "must begin with"),
    ("node:\n  id: ''", "3: node.id: ", "it is empty"),
    ("node: {id: n, data_dir: ''}", "2: node.data_dir: ", "empty"),
    ("node: {id: n, data_dir: ~/shoal}", "2: node.data_dir: ", "not expanded"),
    ("node: {id: n, data_dir: \"a\\0b\"}", "2: node.data_dir: ", "control character"),
    ("node: {id: n, region: \"a\\nb\"}", "2: node.region: ", "control character"),
    ("node: {id: n, labels: {a b: c}}", "2: node.labels.\"a b\": ", "not the name of a label"),
    ("node: {id: n, labels: {capacity: much}}", "2: node.labels.capacity: ", "a number, and \"much\" is none"),
    ("coordination:\n  cluster:\n    bind_addr: node-1", "4: coordination.cluster.bind_addr: ", "IP address"),
    ("coordination: {cluster: {bind_addr: '0.0.0.0:99999'}}", "2: coordination.cluster.bind_addr: ", "not a port"),
    ("coordination: {cluster: {advertise_addr: 0.0.0.0}}", "2: coordination.cluster.advertise_addr: ", "nobody can dial"),
    ("coordination: {cluster: {advertise_addr: [a, 'b:']}}", "2: coordination.cluster.advertise_addr[1]: ", "not a port"),
    ("coordination: {cluster: {bind_addr: '0.0.0.0:0',\n  advertise_addr: a}}", "3: coordination.cluster.advertise_addr: ", "must be given here"),
    ("coordination:\n  cluster:\n    seeds:\n    - a\n    - https://b\n    - c", "6: coordination.cluster.seeds[1]: ", "scheme"),
    ("coordination: {cluster: {seeds: 'a,,b'}}", "2: coordination.cluster.seeds: ", "it is empty"),
    ("coordination: {cluster: {profile: lam}}", "2: coordination.cluster.profile: ", "did you mean lan?"),
    ("coordination: {cluster: {gossip_interval: 200}}", "2: coordination.cluster.gossip_interval: ", "200ms, 1s or 2m"),
    ("coordination: {cluster: {gossip_interval: 1ms}}", "2: coordination.cluster.gossip_interval: ", "not between 20ms and 10s"),
    ("coordination: {cluster: {gossip_fanout: 0}}", "2: coordination.cluster.gossip_fanout: ", "from 1 to 16"),
    ("coordination: {cluster: {gossip_fanout: 257}}", "2: coordination.cluster.gossip_fanout: ", "from 1 to 16"),
    ("coordination: {cluster: {probe_interval: 2m, probe_timeout: 1s}}", "2: coordination.cluster.probe_interval: ", "not between 50ms and 1m"),
    ("security: {cluster: {mtls: {enabled: false}}}", "2: security.cluster.mtls.enabled: ", "no unauthenticated mode"),
    ("security: {cluster: {mtls: {verify_peer: false}}}", "2: security.cluster.mtls.verify_peer: ", "no unauthenticated mode"),
    ("security: {cluster: {mtls: {enabled: no}}}", "2: security.cluster.mtls.enabled: ", "neither true nor false"),
    ("transport: {type: tcp}", "2: transport.type: ", "not one of quic"),
    ("transport:\n  congestion_control: bbr2", "3: transport.congestion_control: ", "did you mean bbr?"),
    ("transport: {max_streams: 0}", "2: transport.max_streams: ", "from 4 to 1024"),
    ("transport: {max_streams: 1025}", "2: transport.max_streams: ", "from 4 to 1024"),
    ("transport: {max_streams: 6.4}", "2: transport.max_streams: ", "whole number"),
    ("api: {bind_addr: ':8080'}", "2: api.bind_addr: ", "missing before"),
    ("api: {metrics_addr: none}", "2: api.metrics_addr: ", "IP address"),
    ("log: {level: inof}", "2: log.level: ", "did you mean info?"),
    ("log: {format: jsn}", "2: log.format: ", "did you mean json?"),
    // Regions.
    ("coordination: {cluster: {regions: eu}}", "2: coordination.cluster.regions: ", "a list is expected"),
    ("coordination: {cluster: {regions: [eu]}}", "2: coordination.cluster.regions[0]: ", "a region has a name"),
    ("coordination: {cluster: {regions: [{name: eu}]}}", "2: coordination.cluster.regions[0]: ", "names no nodes"),
    ("coordination: {cluster: {regions: [{name: eu, nodes: []}]}}", "2: coordination.cluster.regions[0]: ", "names no nodes"),
    ("coordination: {cluster: {regions: [{nodes: [n]}]}}", "2: coordination.cluster.regions[0]: ", "has no name"),
    ("coordination: {cluster: {regions: [{name: '', nodes: [n]}]}}", "2: coordination.cluster.regions[0].name: ", "has no name"),
    ("coordination: {cluster: {regions: [{name: eu, nodes: [n], zone: a}]}}", "2: coordination.cluster.regions[0].zone: ", "name, nodes"),
    ("coordination: {cluster: {regions: [{name: eu, nodes: [n, -m]}]}}", "2: coordination.cluster.regions[0].nodes[1]: ", "must begin with"),
    ("coordination:\n  cluster:\n    regions:\n    - {name: eu, nodes: [n]}\n    - {name: us, nodes: [m, n]}", "6: coordination.cluster.regions[1].nodes[1]: ", "listed already, in region"),
    ("coordination:\n  cluster:\n    regions:\n    - {name: eu, nodes: [n]}\n    - {name: eu, nodes: [m]}", "6: coordination.cluster.regions[1].name: ", "listed twice"),
    ("coordination: {cluster: {regions: [{name: eu, nodes: [m]}]}}", "2: coordination.cluster.regions: ", "no region names this node, n"),
    ("node: {region: us}\ncoordination: {cluster: {regions: [{name: eu, nodes: [n]}]}}", "3: coordination.cluster.regions[0].nodes[0]: ", "make them agree"),
    ("coordination: {cluster: {regions: [{name: a, nodes: [n]}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}]}}", "2: coordination.cluster.regions: ", "17 regions, at most 16"),
    ("coordination: {cluster: {cross_region: {prefer_local_region: true}}}", "2: coordination.cluster.cross_region.prefer_local_region: ", "without a region"),
    ("coordination: {cluster: {cross_region: {max_cross_region_latency: 100ms}}}", "2: coordination.cluster.cross_region.max_cross_region_latency: ", "without a region"),
    ("node: {region: eu}\ncoordination: {cluster: {cross_region: {max_cross_region_latency: 11s}}}", "3: coordination.cluster.cross_region.max_cross_region_latency: ", "not between 1ms and 10s"),
    ("coordination: {cluster: {cross_region: {latency_aware_routing: maybe}}}", "2: coordination.cluster.cross_region.latency_aware_routing: ", "neither true nor false"),
    ("coordination: {cluster: {cross_region: {prefer_local: true}}}", "2: coordination.cluster.cross_region.prefer_local: ", "there is no such key"),
    // Contradictions.
    ("coordination:\n  cluster:\n    probe_timeout: 1s\n    probe_interval: 1s", "4: coordination.cluster.probe_timeout: ", "shorter than probe_interval, 1s"),
    ("coordination: {cluster: {probe_timeout: 1s}}", "2: coordination.cluster.probe_timeout: ", "set both"),
    ("coordination: {cluster: {probe_interval: 1s}}", "2: coordination.cluster.probe_interval: ", "set both"),
    ("security:\n  cluster:\n    mtls:\n      node_cert: a", "5: security.cluster.mtls.node_cert: ", "needs node_key"),
    ("security: {cluster: {mtls: {node_key: a}}}", "2: security.cluster.mtls.node_key: ", "needs node_cert"),
    ("api:\n  bind_addr: 127.0.0.1:9090\n  metrics_addr: 0.0.0.0", "4: api.metrics_addr: ", "cannot have the API's address"),
    ("# two\r\nlog:\r\n  level: loud", "4: log.level: ", "not one of"),
];

#[test]
fn a_bad_file_is_refused_with_the_line_the_key_and_the_reason() {
    for (text, place, why) in BAD_FILES {
        let text = format!("# Configuration.\n{text}");
        let lines = lines(load_all(&Flags::default(), &[("SHOAL_NODE_ID", "n")], &text));
        assert_eq!(lines.len(), 1, "{text:?} has one error: {lines:#?}");
        assert!(lines[0].starts_with(&format!("config/bad.yaml:{place}")), "{text:?}: {lines:?}");
        assert!(lines[0].contains(why), "{text:?}: {lines:?}");
        assert!(!lines[0].chars().any(char::is_control), "{lines:?}");
    }
}

/// Flags, variables, and the beginning and a part of the one error.
type BadGiven =
    (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str, &'static str);

#[rustfmt::skip]
const BAD_GIVEN: &[BadGiven] = &[
    (&["--node-id", "a b"], &[], "--node-id: ", "only letters"),
    (&[], &[("SHOAL_NODE_ID", "a\nb")], "SHOAL_NODE_ID: ", "only letters"),
    (&["--bind-addr", "x"], &[], "--bind-addr: ", "IP address"),
    (&[], &[("SHOAL_BIND_ADDR", "1.2.3")], "SHOAL_BIND_ADDR: ", "neither an IPv4"),
    (&["--advertise-addr", "a,0.0.0.0"], &[], "--advertise-addr: ", "nobody can dial"),
    (&["--advertise-addr", "a,b,c,d,e,f,g,h,i"], &[], "--advertise-addr: ", "at most 8"),
    (&["--api-addr", "*:80"], &[], "--api-addr: ", "letters"),
    (&["--metrics-addr", ""], &[], "--metrics-addr: ", "empty"),
    (&["--metrics-addr", "127.0.0.1:8080"], &[], "--metrics-addr: ", "cannot have the API's address"),
    (&["--data-dir", "~/x"], &[], "--data-dir: ", "not expanded"),
    (&[], &[("SHOAL_DATA_DIR", "~/x")], "SHOAL_DATA_DIR: ", "not expanded"),
    (&["--certs", "~"], &[], "--certs: ", "not expanded"),
    (&["--join", "a,"], &[], "--join: ", "empty"),
    (&[], &[("SHOAL_JOIN", "a:0")], "SHOAL_JOIN: ", "port 0"),
    (&[], &[("SHOAL_BOOTSTRAP", "yes")], "SHOAL_BOOTSTRAP: ", "neither true nor false"),
    (&["--log-level", "loud"], &[], "--log-level: ", "not one of"),
    (&["--log-format", "xml"], &[], "--log-format: ", "human, json"),
    (&[], &[("SHOAL_ZONE", "a\u{7}")], "SHOAL_ZONE: ", "control character"),
    (&["--label", "a"], &[], "--label: ", "name=value"),
    (&["--label", "a=b,a=c"], &[], "--label: ", "the label a is given twice"),
    (&["--label", "capacity=much"], &[], "--label: ", "a number, and \"much\" is none"),
    (&[], &[("SHOAL_LABEL", "=b")], "SHOAL_LABEL: ", "not the name of a label"),
];

#[test]
fn a_bad_flag_or_variable_is_named() {
    for (arguments, variables, start, why) in BAD_GIVEN {
        let lines = lines(load_all(&flags(arguments), variables, "node: {id: n}"));
        assert_eq!(lines.len(), 1, "{arguments:?} {variables:?}: {lines:?}");
        assert!(lines[0].starts_with(start) && lines[0].contains(why), "{lines:?}");
    }
}

#[test]
fn all_errors_come_at_once_file_first_also_of_sources_that_are_beaten() {
    let text = "log: {level: loud}\nnode: {id: '', zone: a}\nnod: 1\napi: {bind_addr: x}";
    let flags = flags(&["--node-id", "n", "--api-addr", "y", "--log-format", "xml"]);
    let lines = lines(load_all(&flags, &[("SHOAL_API_ADDR", "z"), ("SHOAL_JOIN", "a b")], text));
    let starts = [
        "config/bad.yaml:1: log.level: ",
        "config/bad.yaml:2: node.id: ",
        "config/bad.yaml:3: nod: ",
        "config/bad.yaml:4: api.bind_addr: ",
        "SHOAL_API_ADDR: ",
        "SHOAL_JOIN: ",
        "--api-addr: ",
        "--log-format: ",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    for start in starts {
        assert!(lines.iter().any(|line| line.starts_with(start)), "{start} in {lines:#?}");
    }
    assert!(lines[3].starts_with(starts[3]) && lines[7].starts_with("--"), "{lines:#?}");
}

#[test]
fn a_node_without_a_name_is_told_how_to_give_it() {
    let lines = lines(load(""));
    assert_eq!(lines.len(), 1);
    for part in ["configuration: node.id: ", "--node-id", "SHOAL_NODE_ID", "certificate"] {
        assert!(lines[0].contains(part), "{lines:?}");
    }
}

#[test]
fn what_stands_in_a_spoilt_section_is_not_called_missing() {
    for (text, place) in [("node: n", "1: node: "), ("- a", "1: "), ("log: &a {}\nnode: *a", "1: ")] {
        let shown = lines(load(text)).join("\n");
        assert!(shown.starts_with(&format!("config/bad.yaml:{place}")), "{shown}");
        assert!(!shown.contains("node.id"), "{shown}");
    }
}

#[test]
fn lists_that_are_too_long_are_refused() {
    let seeds = |count| format!("[{}]", vec!["a"; count].join(", "));
    let file = |count| format!("node: {{id: n}}\ncoordination: {{cluster: {{seeds: {}}}}}", seeds(count));
    assert!(load(&file(limits::SEEDS_MAX)).is_ok());
    assert!(lines(load(&file(limits::SEEDS_MAX + 1)))[0].contains("at most 64"));
    let labels: Vec<String> = (0..=limits::LABELS_MAX).map(|n| format!("l{n}: a")).collect();
    let text = |count| format!("node: {{id: n, labels: {{{}}}}}", labels[..count].join(", "));
    assert!(load(&text(limits::LABELS_MAX)).is_ok());
    assert!(lines(load(&text(limits::LABELS_MAX + 1)))[0].contains("at most 32"));
    let lines = lines(load_all(&flags(&["--label", "one=more"]), &[], &text(limits::LABELS_MAX)));
    assert!(lines[0].starts_with("--label: with it the node has 33 labels"), "{lines:?}");
}

#[test]
fn errors_beyond_the_bound_are_counted() {
    let text: String = (0..limits::CONFIG_ERRORS_MAX + 7).map(|n| format!("unknown{n}: 1\n")).collect();
    let lines = lines(load(&text));
    assert_eq!(lines.len(), limits::CONFIG_ERRORS_MAX + 1);
    assert_eq!(lines.last().map(String::as_str), Some("and 8 more errors"), "node.id is missing too");
}
