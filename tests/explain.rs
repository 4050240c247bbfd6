//! Explaining: the history that a node keeps, what nodes measure, and the commands that say what is wrong. The
//! last test needs root, for network namespaces.

#![allow(clippy::print_stdout, reason = "what was said is worth reading")]

mod common;
mod running;

use std::collections::BTreeSet;

use common::netns::{Net, until};
use running::{Place, Running, Told};
use serde_json::{Value, json};
use shoal::core::limits;
use shoal::core::model::Event;
use shoal::core::wire::{HistoryQuery, Recorded};
use shoal::node::store::{NodeKeys, Opened, Store};

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn run(node: &Running, line: &str) -> Told {
    node.shoal(&line.split(' ').collect::<Vec<_>>())
}

/// Runs a command that should be done; gives what it printed.
#[track_caller]
fn done(node: &Running, line: &str) -> String {
    let told = run(node, line);
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{line}: {told:?}");
    told.out
}

fn entries(node: &Running, query: &str) -> Vec<Value> {
    node.get(&format!("/v1/history?{query}")).json()["entries"].as_array().expect("a list").clone()
}

fn has_status(entry: &Value, status: &str) -> bool {
    entry["event"]["type"] == "member" && entry["event"]["status"] == status
}

/// Waits until the node's history has an entry that fits; gives all of that query.
fn until_kept(node: &Running, query: &str, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
    let path = format!("/v1/history?{query}");
    node.until(&path, |answer| answer.json()["entries"].as_array().expect("a list").iter().any(&fits));
    entries(node, query)
}

#[test]
fn history_is_kept_by_number_over_a_restart_and_told_by_node_by_agent_and_by_others() {
    let place = Place::new();
    let mut first = place.bootstrap("n1", &[]);
    let second = place.join("n2", &first);
    done(&first, "deploy echo --name echo");
    let before = until_kept(&first, "node=n2", |entry| entry["finding"]["type"] == "linked");
    assert!(before.iter().any(|entry| has_status(entry, "alive")), "{before:?}");
    assert!(before.iter().all(|entry| {
        entry["event"]["node"] == "n2" || (entry["finding"]["node"] == "n2" && entry["unix_ms"].is_u64())
    }));
    let of_echo = until_kept(&first, "agent=echo", |entry| entry["event"]["state"] == "running");
    assert!(of_echo.iter().all(|entry| entry["event"]["agent"] == "echo"));
    let of_second = until_kept(&first, "node=n1&seen_by=n2", |entry| has_status(entry, "alive"));
    assert!(of_second.iter().all(|e| e["event"]["node"] == "n1" || e["finding"]["node"] == "n1"));

    let numbers = |entries: &[Value]| -> Vec<u64> {
        entries.iter().map(|entry| entry["sequence"].as_u64().expect("a number")).collect()
    };
    let all = numbers(&entries(&first, "limit=1000"));
    assert!(all.len() >= 4 && all.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no gaps: {all:?}");
    assert_eq!(numbers(&entries(&first, "limit=2")), all[all.len() - 2..]);
    assert_eq!(numbers(&entries(&first, "after=1&limit=2")), [2, 3]);

    drop(second);
    until_kept(&first, "node=n2", |entry| has_status(entry, "failed"));
    first.signal("TERM");
    assert_eq!(first.code(), Some(0));
    let first = place.start("n1", &[]);
    let joined =
        |entries: &[Value]| entries.iter().filter(|entry| entry["event"]["type"] == "joined").count();
    first.until("/v1/history?limit=1000", |answer| {
        joined(answer.json()["entries"].as_array().expect("a list")) == 2
    });
    let after = entries(&first, "limit=1000");
    assert_eq!(numbers(&after)[..all.len()], all, "what was kept is kept");
    assert!(after.iter().any(|entry| has_status(entry, "failed")), "also the last of the old process");
    assert!(numbers(&after).windows(2).all(|pair| pair[0] + 1 == pair[1]), "and the numbers go on");
}

#[test]
fn a_question_about_history_that_is_wrong_is_refused() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    for (query, status, code) in [
        ("limit=0", 400, "bad_request"),
        ("limit=1001", 400, "bad_request"),
        ("after=x", 400, "bad_query"),
        ("node=a/b", 400, "bad_query"),
        ("colour=red", 400, "bad_query"),
        ("seen_by=n9", 404, "unknown_node"),
    ] {
        let answer = node.get(&format!("/v1/history?{query}"));
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{query}");
    }
    assert_eq!(node.get("/v1/cluster/facts?node=n9").code(), "unknown_node");
    assert_eq!(node.get("/v1/history?node=never-heard-of").json()["entries"], json!([]));
}

#[test]
fn the_store_keeps_a_bounded_history_that_a_new_process_finds() {
    let directory = tempfile::tempdir().expect("a directory");
    let open = || {
        let keys = || NodeKeys { reset_key: [0; 64], connection_id_key: [0; 8] };
        let Opened { store, .. } = Store::open(directory.path(), keys, |_| {}).expect("opens");
        store
    };
    let event = |n: usize| Recorded::Event(Event::Refused { peer: n.to_string(), reason: "no".to_owned() });
    let newest = HistoryQuery { limit: 1, ..HistoryQuery::default() };
    let store = open();
    let history = store.history();
    let count = limits::HISTORY_ROWS_MAX + 50;
    for n in 1..=count {
        history.record(n as u64, event(n));
        if n % 1000 == 0 {
            history.read(&newest).expect("reading writes what waits");
        }
    }
    drop(store);
    let page = open().history().read(&newest).expect("readable");
    assert_eq!((page.oldest, page.dropped), (Some(51), 0));
    assert_eq!(page.entries[0].sequence, count as u64);
    assert_eq!((page.entries[0].unix_ms, &page.entries[0].what), (count as u64, &event(count)));
}

#[test]
fn facts_of_all_nodes_are_measured_and_documented() {
    let place = Place::new();
    let first = place.bootstrap("n1", &["--region", "eu"]);
    let _second = place.join("n2", &first);
    let settled = |answer: &running::Answer| {
        let reports = answer.json();
        (0..2).all(|n| reports[n]["facts"]["links"][0]["in_use"] == true)
    };
    let reports = first.until("/v1/cluster/facts", settled).json();
    let document = include_str!("../docs/http-api.md");
    let (own, other) = (&reports[0], &reports[1]);
    let link = &other["facts"]["links"][0];
    let certificate = &other["facts"]["certificate"];
    for key in [own, &own["facts"], link, certificate].into_iter().flat_map(keys) {
        assert!(document.contains(&format!("\"{key}\"")) || document.contains(&format!("`{key}`")), "{key}");
    }
    assert_eq!(
        (&own["is_asked"], &own["clock_seconds"], &own["region"]),
        (&json!(true), &Value::Null, &json!("eu"))
    );
    let clock = other["clock_seconds"].as_f64().expect("measured");
    assert!(
        clock.abs() < other["seconds"].as_f64().expect("measured") + 0.1,
        "one machine, one clock: {clock}"
    );
    assert_eq!(link["node"], "n1");
    assert!(link["rtt_seconds"].as_f64().is_some_and(|rtt| rtt > 0.0));
    assert!(link["sent_packets"].as_u64().is_some_and(|sent| sent > 0));
    assert_eq!((&link["gossip"], &other["facts"]["members"]), (&json!("datagrams"), &json!({"n1": "alive"})));
    let ca = &other["facts"]["trusted"][0]["fingerprint"];
    assert_eq!((&certificate["signed_by"], &link["certificate"]["signed_by"]), (ca, ca));
    assert_eq!(link["certificate"]["serial"], own["facts"]["certificate"]["serial"]);
    assert!(other["facts"]["disk_free_bytes"].is_u64() && other["facts"]["database_bytes"].is_u64());
    let one = first.get("/v1/cluster/facts?node=n2").json();
    assert_eq!((one.as_array().map(Vec::len), &one[0]["node_id"]), (Some(1), &json!("n2")));
}

#[test]
fn why_tells_the_chain_of_a_node_says_what_an_agent_is_and_refuses_strangers() {
    let place = Place::new();
    let first = place.bootstrap("n1", &[]);
    let second = place.join("n2", &first);
    let third = place.join("n3", &first);
    until_kept(&second, "node=n3", |entry| has_status(entry, "alive"));
    assert_eq!(run(&first, "deploy echo --name echo --target-node n3").code, Some(0));
    first.wait_for_event(|event| event["agent"] == "echo" && event["state"] == "running");
    let agent = done(&first, "why echo");
    assert!(agent.starts_with("agent echo on n3 is running\n"), "{agent}");

    let alive = done(&first, "why n3");
    assert!(alive.starts_with("n3 is alive since 2") && alive.contains(" ago): it joined\n"), "{alive}");
    drop(third);
    for node in [&first, &second] {
        until_kept(node, "node=n3", |entry| has_status(entry, "failed"));
        node.until("/v1/cluster/members", |answer| answer.json()[2]["status"] == "failed");
    }
    let failed = done(&first, "why n3");
    let head = failed.lines().next().expect("a line");
    assert!(head.starts_with("n3 is failed since 2") && head.contains(" ago): "), "{failed}");
    let steps: Vec<_> = failed.lines().skip(1).collect();
    assert!(steps.iter().any(|step| step.contains("=> suspect: ")), "{failed}");
    assert!(steps.iter().any(|step| step.contains("the connection ended: ")), "{failed}");
    assert!(steps.iter().any(|step| step.contains("the verdict failed by n")), "{failed}");
    assert!(!failed.contains("agent echo"), "{failed}");
    let agent = done(&first, "why echo");
    assert!(agent.starts_with("agent echo is not reachable because n3 is not"), "{agent}");

    let all = done(&first, "why n3 --all-nodes");
    assert!(all.contains("\nseen by n2: n3 is failed since 2"), "{all}");
    let json: Value = serde_json::from_str(&done(&first, "why n3 --all-nodes -o json")).expect("JSON");
    assert_eq!((&json["status"], &json["seen"][1]["by"]), (&json!("failed"), &json!("n2")));
    assert!(done(&first, "why n1").starts_with("n1 is the asked node: it answers, and runs since "));
    let stranger = run(&first, "why nobody");
    assert_eq!((stranger.code, stranger.out.as_str()), (Some(1), ""));
    assert!(stranger.err.contains("no node and no agent named \"nobody\""), "{stranger:?}");
}

#[test]
fn the_commands_that_look_at_a_mesh_tell_a_good_one_from_one_with_a_dead_node() {
    let place = Place::new();
    let first = place.bootstrap("n1", &["--label", "gpu=no"]);
    let second = place.join("n2", &first);
    let ping = done(&first, "cluster ping n2 --count 10");
    assert_eq!(ping.lines().filter(|line| line.starts_with("answer from n2 in ")).count(), 10);
    assert!(ping.contains("round trips: least ") && ping.contains("90% "), "{ping}");
    assert!(ping.contains("path: 127.0.0.1:") && ping.contains("gossip by datagrams"), "{ping}");
    let info = done(&first, "cluster info n2");
    for part in ["Node:        n2\n", "Status:      alive\n", "Since:       2", "signed by CA ", "MTU "] {
        assert!(info.contains(part), "{part}: {info}");
    }
    assert!(done(&first, "cluster info n1").contains("Labels:      gpu=no\n"));
    let auth = done(&first, "cluster verify-auth");
    assert_eq!(auth.lines().filter(|line| line.ends_with(" ok")).count(), 2, "{auth}");
    let reach = |pair: &str| {
        let told = run(&first, "cluster doctor -o json");
        let json: Value = serde_json::from_str(&told.out).expect("JSON");
        let matrix = json["matrix"].as_array().expect("a list").clone();
        let names =
            |p: &Value| format!("{}-{}", p["from"].as_str().expect("text"), p["to"].as_str().expect("text"));
        matrix.into_iter().find(|p| names(p) == pair).expect("the pair")["reach"].clone()
    };
    assert_eq!((reach("n1-n2"), reach("n2-n1")), (json!("ok"), json!("ok")));
    let advice = done(&first, "cluster analyze");
    assert!(advice.starts_with("measured: 2 of 2 nodes, 2 links\n"), "{advice}");
    assert!(advice.contains("(2 nodes)\n  do: run an odd number of nodes"), "{advice}");
    let health: Value = serde_json::from_str(&run(&first, "cluster health -o json").out).expect("JSON");
    assert_eq!(health[1]["node_id"], "n2");
    // Twenty from when it was issued, which may be this very second.
    assert!([json!(19), json!(20)].contains(&health[1]["certificate_days"]), "{health}");

    drop(second);
    first.until("/v1/cluster/members", |answer| answer.json()[1]["status"] == "failed");
    for (line, said) in [
        ("cluster doctor", "PROBLEM  n2 is failed\n"),
        ("cluster health", "n2 is failed"),
        ("cluster verify-auth", "n2: n2 is failed: it cannot be asked\n"),
    ] {
        let told = run(&first, line);
        assert!(told.code == Some(1) && told.out.contains(said), "{line}: {told:?}");
        assert_eq!(told.err.lines().count(), 1, "{line}: {told:?}");
    }
    assert!(done(&first, "cluster info n2").contains("Not told:    n2 is failed"));
    assert!(run(&first, "cluster ping n2").err.contains("n2 is failed"));
}

#[test]
fn a_ping_that_does_not_come_back_is_counted_and_the_others_go_on() {
    let place = Place::new();
    let first = place.bootstrap("n1", &[]);
    let second = place.join("n2", &first);
    second.signal("STOP");
    let told = first.post("/v1/cluster/ping", &json!({"node": "n2", "count": 2, "deadline_ms": 50})).json();
    assert_eq!((&told["lost"], &told["seconds"]), (&json!(2), &json!([])));
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("within 50 ms")), "{told}");
    second.signal("CONT");
    let refused = first.post("/v1/cluster/ping", &json!({"node": "n2", "deadline_ms": 0}));
    assert_eq!(refused.code(), "bad_request");
}

#[test]
fn watching_health_looks_again_and_again() {
    use std::io::{BufRead, BufReader};
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let mut command = running::shoal();
    command.env("SHOAL_API", node.url()).args(["cluster", "health", "--watch", "-o", "json"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let seen: Vec<_> = lines.take(2).map(|line| line.expect("read")).collect();
    child.kill().expect("killed");
    child.wait().expect("ended");
    for line in seen {
        let health: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&health[0]["node_id"], &health[0]["status"]), (&json!("n1"), &json!("alive")));
    }
}

/// Drops on machine 2 what comes from machine 3.
fn drop_from_three_to_two(net: &Net) {
    net.run_on(2, &["nft", "add table inet t"]);
    net.run_on(2, &["nft", "add chain inet t in { type filter hook input priority 0; }"]);
    net.run_on(2, &["nft", "add rule inet t in ip saddr 10.91.0.3 drop"]);
}

/// Waits until the doctor, asked on machine 1, names that path.
fn until_named(net: &Net) {
    let mut said = String::new();
    let took = until("the doctor names the path", || {
        let output = net.shoal(1, &["cluster", "doctor"]);
        said = String::from_utf8_lossy(&output.stdout).into_owned();
        let named = "one way only: packets from node-2 reach node-3, nothing from node-3 reaches node-2";
        output.status.code() == Some(1) && said.contains(named)
    });
    println!("named after {took:?}:\n{said}");
    let row: Vec<_> = said.lines().nth(2).expect("a row").split_whitespace().collect();
    assert_eq!((row[0], row[1], row[3]), ("node-2", "ok", "one-way"), "{said}");
    assert!(said.contains("into node-2 (10.91.0.2:7946)"), "{said}");
    assert_eq!(said.matches("one way only").count(), 1, "and not the way back: {said}");
}

#[test]
fn fault_41_a_path_that_never_worked_both_ways_is_named_by_the_doctor() {
    let net = Net::new(3);
    let one = net.start(1, &["--bootstrap"]);
    one.until_ready();
    let _two = net.start(2, &["--join", "node-1"]);
    net.all_alive(&[1, 2]);
    drop_from_three_to_two(&net);
    let _three = net.start(3, &["--join", "node-1"]);
    until_named(&net);
}

#[test]
fn fault_41_a_path_that_works_one_way_only_from_some_moment_on_is_named_by_the_doctor() {
    let net = Net::new(3);
    let one = net.start(1, &["--bootstrap"]);
    one.until_ready();
    let (_two, _three) = (net.start(2, &["--join", "node-1"]), net.start(3, &["--join", "node-1"]));
    net.all_alive(&[1, 2, 3]);
    drop_from_three_to_two(&net);
    until_named(&net);
}
