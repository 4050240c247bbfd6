//! Desired state with real nodes: a file is planned and applied, a node is killed, an update goes out under load.

#[path = "running/mod.rs"]
mod running;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use running::{Place, Running, Told};
use serde_json::{Value, json};

/// Says which version it is of, and which instance and process.
const AGENT: &str = r#"#!/usr/bin/env python3
import json, os, sys
print('{"type":"ready"}', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "message":
        said = {"version": sys.argv[1], "pid": os.getpid(), "to": message.get("to")}
        print(json.dumps({"type": "reply", "to": message["id"], "content": json.dumps(said)}), flush=True)
"#;

struct Bench {
    place: Place,
    nodes: Vec<Running>,
}

impl Bench {
    fn new(nodes: usize) -> Self {
        let place = Place::new();
        place.executable("agent.py", AGENT);
        let all = place.healthy_mesh(nodes);
        Self { place, nodes: all }
    }

    fn write(&self, text: &str) -> String {
        let path = self.place.path().join("mesh.yaml");
        fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    }

    /// A blueprint of the script.
    fn web(&self, version: &str, more: &str) -> String {
        self.write(&format!("name: web\nsource: ./agent.py\nargs: [{version}]\n{more}"))
    }

    fn apply(&self, file: &str) -> Told {
        let told = self.nodes[0].shoal(&["apply", "--file", file, "--wait", "60s"]);
        assert_eq!(told.code, Some(0), "{told:?}");
        told
    }

    fn detail(&self) -> Value {
        self.nodes[0].get("/v1/blueprints/web").json()
    }
}

fn ask(node: &Running, to: &str) -> Result<Value, String> {
    let answer = node.post("/v1/messages", &json!({"to": to, "content": "?", "deadline_ms": 10_000}));
    match answer.status {
        200 => Ok(serde_json::from_str(answer.json()["content"].as_str().expect("text")).expect("JSON")),
        _ => Err(format!("{answer:?}")),
    }
}

fn nodes_of(detail: &Value) -> BTreeSet<String> {
    let slots = detail["slots"].as_array().expect("a list");
    slots.iter().map(|slot| slot["node"].as_str().expect("a node").to_owned()).collect()
}

#[test]
fn a_file_is_planned_applied_changed_and_taken_back() {
    let bench = Bench::new(3);
    let node = &bench.nodes[1];
    let file = bench.web("one", "instances: 3\nplacement: {strategy: spread}\n");
    let plan = node.shoal(&["plan", "--file", &file, "--detailed-exitcode"]);
    assert_eq!(plan.code, Some(6), "{plan:?}");
    assert!(plan.out.contains("blueprint web: new, version 1") && plan.out.contains("create"), "{plan:?}");
    bench.apply(&file);
    assert_eq!(nodes_of(&bench.detail()).len(), 3, "one on each: {}", bench.detail());
    for asked in &bench.nodes {
        assert_eq!(ask(asked, "web").expect("answered")["version"], "one");
        assert_eq!(ask(asked, "web#2").expect("answered")["version"], "one");
    }
    let again = node.shoal(&["plan", "--file", &file, "--detailed-exitcode"]);
    assert_eq!((again.code, again.out.trim()), (Some(0), "nothing to do"), "{again:?}");
    let stale = node.shoal(&["apply", "--file", &file, "--plan-id", "0123456789ab"]);
    assert_eq!(stale.code, Some(1), "{stale:?}");
    assert!(stale.err.contains("the mesh has moved on since plan 0123456789ab"), "{stale:?}");

    bench.apply(&bench.web("two", "instances: 3\nplacement: {strategy: spread}\n"));
    assert_eq!(ask(node, "web").expect("answered")["version"], "two");
    let back = node.shoal(&["agent", "rollback", "web"]);
    assert_eq!((back.code, back.out.as_str()), (Some(0), "blueprint web: version 3\n"), "{back:?}");
    node.until("/v1/blueprints/web", |answer| answer.json()["status"]["updated"] == 3);
    assert_eq!(ask(node, "web").expect("answered")["version"], "one");

    let scaled = node.shoal(&["agent", "scale", "web", "1"]);
    assert_eq!(scaled.code, Some(0), "{scaled:?}");
    node.until("/v1/agents", |answer| answer.json().as_array().is_some_and(|agents| agents.len() == 1));
    let stopped = node.shoal(&["agent", "stop", "web#0"]);
    assert!(stopped.err.contains("shoal agent scale web N"), "{stopped:?}");
    let removed = node.shoal(&["blueprint", "remove", "web"]);
    assert_eq!(removed.code, Some(0), "{removed:?}");
    node.until("/v1/agents", |answer| answer.json() == json!([]));
}

#[test]
fn what_a_killed_node_had_answers_elsewhere_and_comes_back_nowhere_twice() {
    let mut bench = Bench::new(3);
    bench.apply(&bench.web("one", "instances: 12\nplacement: {strategy: spread}\n"));
    let killed = bench.nodes.pop().expect("three");
    let name = killed.name();
    let slots = bench.detail()["slots"].as_array().expect("a list").clone();
    let had = slots.iter().find(|slot| slot["node"] == name.as_str()).expect("four of twelve");
    killed.signal("KILL");
    let begun = Instant::now();
    let moved = |detail: &Value| !nodes_of(detail).contains(&name);
    let answer = bench.nodes[1].until("/v1/blueprints/web", |answer| {
        let detail = answer.json();
        moved(&detail) && detail["status"]["running"] == 12
    });
    println!("12 of 12 run again {:?} after the kill", begun.elapsed());
    // What messages go by is published a moment after it is known.
    bench.nodes[0].until("/v1/agents", |answer| {
        let agents = answer.json();
        let runs = |agent: &&Value| agent["state"] == "running" && agent["node"] != name.as_str();
        agents.as_array().is_some_and(|agents| agents.iter().filter(runs).count() == 12)
    });
    for slot in answer.json()["slots"].as_array().expect("a list") {
        let slot = slot["slot"].as_str().expect("text");
        assert_eq!(ask(&bench.nodes[0], slot).expect("answered")["version"], "one");
    }
    let events = bench.nodes[0].shoal(&["why", had["slot"].as_str().expect("text")]);
    assert!(events.out.contains(&format!("{name} is gone")), "{events:?}");
    drop(killed);
    let back = bench.place.start(&name, &[]);
    back.until("/health/ready", |answer| answer.status == 200);
    bench.nodes[0].until("/v1/cluster/members", |answer| {
        let members = answer.json();
        members.as_array().expect("a list").iter().all(|member| member["status"] == "alive")
    });
    let once = |answer: &running::Answer| answer.json().as_array().is_some_and(|agents| agents.len() == 12);
    back.until("/v1/agents", once);
    bench.nodes[0].until("/v1/agents", once);
}

/// Asks `web` again and again until it is dropped, and counts.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Load {
    fn on(nodes: &[Running]) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let client = |url: String| {
            let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
            std::thread::spawn(move || {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let args = ["message", "ask", "--to", "web", "--content", "?", "--api", &url];
                    let told = Told::of(running::shoal().args(args).output().expect("it runs"));
                    asked.fetch_add(1, Ordering::Relaxed);
                    if told.code != Some(0) {
                        failed.push(told.err);
                    }
                }
                failed
            })
        };
        let threads = nodes.iter().map(|node| client(node.url())).collect();
        Self { stop, asked, threads }
    }

    fn end(self) -> (u32, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect();
        (self.asked.load(Ordering::Relaxed), failed)
    }
}

#[test]
fn an_update_and_a_drain_under_load_fail_no_request() {
    let bench = Bench::new(3);
    let more = "instances: 6\nplacement: {strategy: spread}\nupdate: {max_parallel: 2, min_healthy: 200ms}\n";
    bench.apply(&bench.web("one", more));
    let load = Load::on(&bench.nodes);
    bench.apply(&bench.web("two", more));
    let drained = bench.nodes[0].shoal(&["cluster", "drain", "n2"]);
    assert_eq!(drained.code, Some(0), "{drained:?}");
    bench.nodes[0].until("/v1/blueprints/web", |answer| {
        let detail = answer.json();
        !nodes_of(&detail).contains("n2") && detail["status"]["running"] == 6
    });
    bench.nodes[0].until("/v1/agents?node=n2", |answer| answer.json() == json!([]));
    let (asked, failed) = load.end();
    assert!(asked > 30, "{asked} were asked");
    assert_eq!(failed, [] as [String; 0], "of {asked}");
    assert_eq!(ask(&bench.nodes[0], "web").expect("answered")["version"], "two");
}

#[test]
fn a_version_that_ends_goes_back_by_itself_and_the_former_serves_on() {
    let bench = Bench::new(2);
    bench.apply(&bench.web("one", "instances: 2\n"));
    let bad =
        bench.write("name: web\nsource: python3\nargs: [-c, 'import sys; sys.exit(3)']\ninstances: 2\n");
    let told = bench.nodes[0].shoal(&["apply", "--file", &bad]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let back = bench.nodes[0].until("/v1/blueprints/web", |answer| {
        let detail = answer.json();
        detail["status"]["version"] == 3 && detail["status"]["updated"] == 2
    });
    let why = back.json()["status"]["why"].as_str().expect("text").to_owned();
    assert!(why.contains("back to version 1: version 2 failed, web#"), "{why}");
    assert_eq!(ask(&bench.nodes[1], "web").expect("answered")["version"], "one");
}

#[test]
fn wrong_files_and_names_are_refused_with_what_is_wrong() {
    let bench = Bench::new(1);
    let node = &bench.nodes[0];
    let refused = |file: &str, wanted: &str| {
        let told = node.shoal(&["apply", "--file", file]);
        assert!(matches!(told.code, Some(1 | 2)), "{told:?}");
        assert!(told.err.contains(wanted), "{wanted}: {told:?}");
    };
    refused(&bench.web("x", "instances: lots\n"), "mesh.yaml:4: instances: \"lots\" is neither a number");
    refused(&bench.web("x", "replicas: 2\n"), "there is no such key");
    refused(&bench.web("x", "placement: {near: [web]}\n"), "it is to be near itself");
    refused("/nonexistent/mesh.yaml", "cannot be read");
    let told = node.shoal(&["agent", "scale", "nothing", "3"]);
    assert!(told.err.contains("there is no blueprint nothing"), "{told:?}");
    let told = node.shoal(&["cluster", "drain", "nobody"]);
    assert!(told.err.contains("no node named nobody"), "{told:?}");
    bench.apply(&bench.web("x", "instances: 1\n"));
    let told = node.shoal(&["agent", "rollback", "web"]);
    assert!(told.err.contains("blueprint web has no former version"), "{told:?}");
    let label = bench.write("name: gpu\nsource: echo\nplacement: {require: {gpu: a100}}\n");
    let told = node.shoal(&["apply", "--file", &label, "--wait", "1s"]);
    assert_eq!(told.code, Some(4), "{told:?}");
    assert!(told.err.contains("n1: it has no gpu, a100 is required"), "{told:?}");
    let deadline = Instant::now() + Duration::from_secs(30);
    while node.shoal(&["blueprint", "list"]).out.lines().count() < 3 {
        assert!(Instant::now() < deadline, "both are listed");
    }
}
