//! What a node's configuration says of agents that are not well: recovery rules, and webhooks that are told.

#[path = "running/mod.rs"]
mod running;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use running::{LONG, Place, Running};
use serde_json::{Value, json};

/// Ends before it is ready while a file `broken` with its name lies beside it, and when it is told `end`.
const AGENT: &str = r#"#!/usr/bin/env python3
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
if os.path.exists(here + "/broken-" + os.environ["SHOAL_AGENT"]):
    sys.exit("something is missing")
print('{"type":"ready"}', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "message":
        if message["content"] == "end":
            sys.exit(3)
        print(json.dumps({"type": "reply", "to": message["id"], "content": message["content"]}), flush=True)
"#;

/// Takes posts, and answers each with the next of its statuses, the last one for ever. A status of 0 is none.
struct Receptor {
    url: String,
    posts: Receiver<(String, Value)>,
}

impl Receptor {
    fn answering(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (told, posts) = channel();
        std::thread::spawn(move || {
            let mut statuses = statuses.iter().copied();
            let mut status = 200;
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
                let (mut head, mut length) = (String::new(), 0);
                while head.lines().last() != Some("") {
                    reader.read_line(&mut head).expect("a head");
                    let last = head.lines().last().unwrap_or_default().to_ascii_lowercase();
                    if let Some(text) = last.strip_prefix("content-length: ") {
                        length = text.parse().expect("a number");
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).expect("a body");
                let body = serde_json::from_slice(&body).expect("JSON");
                status = statuses.next().unwrap_or(status);
                if status != 0 {
                    let answer =
                        format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    stream.write_all(answer.as_bytes()).expect("written");
                }
                let line = head.lines().next().expect("a line").to_owned();
                if told.send((line, body)).is_err() {
                    return;
                }
            }
        });
        Self { url, posts }
    }

    fn next(&self) -> Value {
        self.posts.recv_timeout(LONG).expect("a post").1
    }
}

struct Bench {
    place: Place,
    node: Running,
}

impl Bench {
    /// A node n1 with this in its configuration.
    fn new(config: &str) -> Self {
        let place = Place::new();
        let file = place.path().join("node.yaml");
        fs::write(&file, config).expect("written");
        let node = place.bootstrap("n1", &["--config", file.to_str().expect("text")]);
        let agent = place.path().join("agent.py");
        fs::write(&agent, AGENT).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(agent, mode).expect("set");
        Self { place, node }
    }

    fn deployed(&self, name: &str, more: &str) {
        let file = self.place.path().join(format!("{name}.yaml"));
        fs::write(&file, format!("name: {name}\nsource: ./agent.py\n{more}")).expect("written");
        let told = self.node.shoal(&["deploy", "--file", file.to_str().expect("text")]);
        assert_eq!(told.code, Some(0), "{told:?}");
    }

    fn is_broken(&self, agent: &str, is_it: bool) {
        let file = self.place.path().join(format!("broken-{agent}"));
        if is_it { fs::write(file, "").expect("written") } else { fs::remove_file(file).expect("removed") }
    }

    fn end(&self, agent: &str) {
        let told = self.node.post("/v1/messages", &json!({"to": agent, "content": "end"}));
        assert_eq!(told.status, 502, "{told:?}");
    }

    fn info(&self, agent: &str) -> Value {
        self.node.get(&format!("/v1/agents/{agent}")).json()
    }

    fn until(&self, agent: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/v1/agents/{agent}");
        self.node.until(&path, |answer| answer.status == 200 && is_it(&answer.json())).json()
    }

    fn metric(&self, name: &str) -> u64 {
        let metrics = self.node.get("/metrics").body;
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name}: {metrics}")).parse().expect("a number")
    }
}

#[test]
fn a_rule_holds_for_agents_that_say_nothing_themselves_and_for_all_if_it_overrules() {
    let bench = Bench::new(
        "recovery:\n  rules:\n  - {agents: 'strict-*', breaker: {failures: 1, open: 1h}, overrules: true}\n  - {agents: '*', restart: {waits: [20ms]}, breaker: {failures: 7}}\n",
    );
    bench.deployed("plain", "");
    bench.deployed("own", "restart: {waits: [10ms, 20ms, 30ms], steady: 1m}\n");
    bench.deployed("strict-1", "breaker: {failures: 100}\n");
    let held = |agent: &str| {
        let info = bench.info(agent);
        (info["restart"]["waits_ms"].clone(), info["breaker"]["failures"].clone())
    };
    assert_eq!(held("plain"), (json!([20]), json!(7)));
    assert_eq!(held("own"), (json!([10, 20, 30]), json!(7)));
    assert_eq!(held("strict-1"), (json!([20]), json!(1)));

    // And that is what happens: one attempt, three attempts, and a breaker that opens at the first failure.
    for (agent, restarts) in [("plain", 1), ("own", 3)] {
        bench.is_broken(agent, true);
        bench.end(agent);
        let ill = bench.until(agent, |agent| agent["state"] == "quarantined");
        assert_eq!(ill["restarts"], restarts, "{ill}");
    }
    bench.end("strict-1");
    bench.until("strict-1", |agent| agent["breaker_state"] != "closed");
    assert_eq!(bench.until("own", |_| true)["breaker_state"], "closed");
}

#[test]
fn what_befalls_agents_is_posted_to_the_webhooks_that_want_it() {
    let all = Receptor::answering(&[200]);
    let some = Receptor::answering(&[204]);
    let bench = Bench::new(&format!(
        "alerts:\n  webhooks:\n  - url: {}/alerts?key=7\n  - {{url: '{}', events: [released]}}\n",
        all.url, some.url
    ));
    bench.deployed("a", "restart: {waits: [20ms]}\nbreaker: {failures: 1, open: 1h}\n");
    bench.is_broken("a", true);
    bench.end("a");
    let (line, first) = all.posts.recv_timeout(LONG).expect("a post");
    assert_eq!(line, "POST /alerts?key=7 HTTP/1.1");
    let rest = [all.next(), all.next()];
    let told: Vec<_> = std::iter::once(&first).chain(&rest).map(|alert| alert["event"].clone()).collect();
    // The runtime tells that the breaker opens before it tells that the run is over.
    assert_eq!(told, ["breaker_opened", "restarting", "quarantined"]);
    for alert in std::iter::once(&first).chain(&rest) {
        assert_eq!(
            (&alert["agent"], &alert["node"], &alert["seen_by"]),
            (&json!("a"), &json!("n1"), &json!("n1"))
        );
    }
    assert!(rest[1]["reason"].as_str().expect("a reason").contains("something is missing"), "{rest:?}");
    assert_ne!(rest[0]["id"], rest[1]["id"]);

    bench.is_broken("a", false);
    assert_eq!(bench.node.shoal(&["agent", "release", "a"]).code, Some(0));
    assert_eq!(all.next()["event"], "released");
    // The first that the other hears.
    assert_eq!(some.next()["event"], "released");
    let answered = bench.node.post("/v1/messages", &json!({"to": "a", "content": "hello"}));
    assert_eq!(answered.status, 200, "{answered:?}");
    assert_eq!(all.next()["event"], "breaker_closed");
    assert_eq!(bench.metric("shoal_alerts_dropped_total"), 0);
}

#[test]
fn an_alert_is_posted_again_after_a_failure_and_dropped_when_it_is_refused_and_healing_goes_on() {
    let slow = Receptor::answering(&[503, 0, 200]);
    let refusing = Receptor::answering(&[404]);
    // Nobody listens there any more.
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let bench = Bench::new(&format!(
        "alerts:\n  webhooks:\n  - {{url: '{}', events: [quarantined]}}\n  - {{url: '{}', events: [quarantined]}}\n  - url: http://{nobody}\n",
        slow.url, refusing.url
    ));
    bench.deployed("a", "restart: {waits: [20ms, 20ms]}\n");
    bench.is_broken("a", true);
    bench.end("a");
    let ill = bench.until("a", |agent| agent["state"] == "quarantined");
    assert_eq!(ill["restarts"], 2);
    let posts = [slow.next(), slow.next(), slow.next()];
    assert!(posts.iter().all(|post| post == &posts[0] && post["event"] == "quarantined"), "{posts:?}");
    assert_eq!(refusing.next()["event"], "quarantined");
    let dropped = bench.node.wait_for_log("an alert was dropped");
    assert!(dropped["why"].as_str().expect("a reason").contains("404"), "{dropped}");
    bench.node.until("/metrics", |answer| answer.body.contains("\nshoal_alerts_posted_total 1"));
    assert!(bench.metric("shoal_alerts_dropped_total") >= 1);
    assert!(refusing.posts.try_recv().is_err(), "it is not posted again");
}

#[test]
fn a_launch_that_is_held_up_and_a_node_that_fails_are_posted() {
    let receptor = Receptor::answering(&[200]);
    let config = format!(
        "alerts: {{webhooks: [{{url: '{}', events: [launch_held, node_failed]}}]}}\ncoordination: {{cluster: {{profile: local}}}}\n",
        receptor.url
    );
    let bench = Bench::new(&config);
    bench.deployed("db", "phase: 1\nrestart: {waits: [1h]}\n");
    bench.deployed("web", "phase: 2\n");
    bench.is_broken("db", true);
    let Bench { place, node, .. } = bench;
    drop(node);
    let file = place.path().join("node.yaml");
    let node = place.start("n1", &["--config", file.to_str().expect("text")]);
    let held = receptor.next();
    assert_eq!(
        (&held["event"], &held["agent"], &held["node"]),
        (&json!("launch_held"), &json!("db"), &json!("n1"))
    );
    assert!(held["reason"].as_str().expect("a reason").contains("phase 1 is held up"), "{held}");
    let held = node.wait_for_event(|event| event["type"] == "launch_held");
    assert_eq!((&held["agent"], &held["phase"]), (&json!("db"), &json!(1)));

    let other = place.join("n2", &node);
    drop(other);
    let failed = receptor.next();
    assert_eq!((&failed["event"], &failed["node"]), (&json!("node_failed"), &json!("n2")));
    assert_eq!((&failed["agent"], &failed["seen_by"]), (&Value::Null, &json!("n1")));
}
