//! Exclusive agents on real nodes: whatever is stopped or killed, no two processes of one slot ever live at a time.

#[path = "running/mod.rs"]
mod running;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use running::{Place, Running};
use serde_json::{Value, json};

/// Writes down, every hundredth of a second and before each answer, that it lives: by a clock that all processes of the
/// machine share.
const AGENT: &str = r#"#!/usr/bin/env python3
import json, os, sys, threading, time
lives = open(os.path.dirname(os.path.abspath(__file__)) + "/lives", "a", buffering=1)
def live():
    lives.write("%d %d\n" % (os.getpid(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)))
def beat():
    while True:
        live()
        time.sleep(0.01)
threading.Thread(target=beat, daemon=True).start()
print('{"type":"ready"}', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "message":
        live()
        said = {"pid": os.getpid(), "version": sys.argv[1]}
        print(json.dumps({"type": "reply", "to": message["id"], "content": json.dumps(said)}), flush=True)
"#;

struct Bench {
    place: Place,
    nodes: Vec<Running>,
}

impl Bench {
    fn new() -> Self {
        let place = Place::new();
        place.executable("agent.py", AGENT);
        let nodes = place.healthy_mesh(3);
        let bench = Self { place, nodes };
        bench.apply("v0");
        bench
    }

    fn apply(&self, version: &str) {
        let file = self.file(version, true);
        let told = self.nodes[0].shoal(&["apply", "--file", &file, "--wait", "60s"]);
        assert_eq!(told.code, Some(0), "{told:?}");
    }

    fn file(&self, version: &str, is_exclusive: bool) -> String {
        let path = self.place.path().join("one.yaml");
        let text = format!("name: one\nsource: ./agent.py\nargs: [{version}]\nexclusive: {is_exclusive}\n");
        fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    }

    /// The node that runs it, the others, and the agent's process.
    fn found(&self) -> (&Running, Vec<&Running>, u32) {
        let said = ask(&self.nodes[0]).expect("it answers");
        let slot = self.nodes[0].get("/v1/blueprints/one").json()["slots"][0].clone();
        let (on, others) =
            self.nodes.iter().partition::<Vec<_>, _>(|node| slot["node"] == node.name().as_str());
        (on[0], others, u32::try_from(said["pid"].as_u64().expect("a number")).expect("a process"))
    }

    /// Of each process of the agent, when it first and last said that it lives.
    fn lives(&self) -> BTreeMap<u32, (u64, u64)> {
        let text = fs::read_to_string(self.place.path().join("lives")).expect("there is one");
        let mut lives = BTreeMap::new();
        for line in text.lines() {
            let (pid, at) = line.split_once(' ').expect("two numbers");
            let (pid, at): (u32, u64) = (pid.parse().expect("a number"), at.parse().expect("a number"));
            let (first, last) = lives.entry(pid).or_insert((at, at));
            (*first, *last) = ((*first).min(at), (*last).max(at));
        }
        lives
    }

    fn check_lives(&self, processes: usize) {
        let mut lives: Vec<_> = self.lives().into_values().collect();
        lives.sort_unstable();
        assert_eq!(lives.len(), processes, "{lives:?}");
        for pair in lives.windows(2) {
            assert!(pair[0].1 < pair[1].0, "two of them lived at a time: {lives:?}");
        }
    }
}

fn ask(node: &Running) -> Option<Value> {
    let answer = node.post("/v1/messages", &json!({"to": "one", "content": "?", "deadline_ms": 2_000}));
    (answer.status == 200)
        .then(|| serde_json::from_str(answer.json()["content"].as_str().expect("text")).expect("JSON"))
}

/// Waits until another process than that answers, and says how long it took.
fn until_another_answers(node: &Running, pid: u32) -> Duration {
    let begun = Instant::now();
    while ask(node).is_none_or(|said| said["pid"] == pid) {
        assert!(begun.elapsed() < Duration::from_secs(60), "nobody else answers");
        std::thread::sleep(Duration::from_millis(20));
    }
    begun.elapsed()
}

/// A field of `/proc/PID/status`; `None`: there is no such process.
fn status(pid: u32, field: &str) -> Option<String> {
    let text = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/status"))).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

fn is_dead(pid: u32) -> bool {
    status(pid, "State").is_none_or(|state| state.starts_with('Z') || state.starts_with('X'))
}

fn until_dead(pid: u32) -> Duration {
    let begun = Instant::now();
    while !is_dead(pid) {
        assert!(begun.elapsed() < Duration::from_secs(30), "process {pid} is {:?}", status(pid, "State"));
        std::thread::sleep(Duration::from_millis(5));
    }
    begun.elapsed()
}

fn signal(pid: u32, signal: &str) {
    let done = std::process::Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(done.expect("it runs").success());
}

#[test]
fn fault_59_one_whose_node_stands_still_is_dead_within_its_permit_and_does_not_come_back_with_it() {
    let bench = Bench::new();
    let (on, others, pid) = bench.found();
    on.signal("STOP");
    println!("its process was dead {:?} after its node was stopped", until_dead(pid));
    println!("another one answered {:?} later", until_another_answers(others[0], pid));
    on.signal("CONT");
    on.until("/v1/cluster/status", |answer| answer.json()["mode"] == "healthy");
    let agents = |answer: &running::Answer| answer.json().as_array().is_some_and(|agents| agents.len() == 1);
    on.until("/v1/agents", agents);
    assert_ne!(ask(on).expect("it answers")["pid"], pid);
    bench.check_lives(2);
}

#[test]
fn fault_59_one_that_is_stopped_with_its_keeper_and_its_node_is_dead_before_it_could_go_on() {
    let bench = Bench::new();
    let (on, others, pid) = bench.found();
    let keeper: u32 = status(pid, "PPid").expect("it lives").parse().expect("a number");
    on.signal("STOP");
    signal(keeper, "STOP");
    signal(pid, "STOP");
    println!("its process was dead {:?} after all were stopped", until_dead(pid));
    assert!(is_dead(keeper), "its keeper was killed by its timer");
    until_another_answers(others[0], pid);
    on.signal("CONT");
    on.until("/v1/cluster/status", |answer| answer.json()["mode"] == "healthy");
    bench.check_lives(2);
}

#[test]
fn one_whose_node_is_killed_runs_elsewhere_and_an_update_of_it_never_overlaps() {
    let bench = Bench::new();
    let (on, others, pid) = bench.found();
    on.signal("KILL");
    println!("killed: another one answered after {:?}", until_another_answers(others[0], pid));
    let file = bench.file("v1", true);
    let told = others[0].shoal(&["apply", "--file", &file, "--wait", "60s"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let begun = Instant::now();
    while ask(others[1]).is_none_or(|said| said["version"] != "v1") {
        assert!(begun.elapsed() < Duration::from_secs(30), "the next version does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    bench.check_lives(3);
}

#[test]
fn one_that_is_updated_where_it_is_begins_under_the_permit_that_its_node_has() {
    let place = Place::new();
    place.executable("agent.py", AGENT);
    let bench = Bench { nodes: vec![place.bootstrap("n1", &[])], place };
    for version in ["v0", "v1", "v2"] {
        bench.apply(version);
        assert_eq!(ask(&bench.nodes[0]).expect("it answers")["version"], version);
    }
    let detail = bench.nodes[0].get("/v1/blueprints/one").json();
    assert_eq!(detail["status"]["version"], 3, "none was taken back: {detail}");
    bench.check_lives(3);
}

#[test]
fn exclusive_is_shown_and_stays_what_it_is() {
    let bench = Bench::new();
    let node = &bench.nodes[0];
    let told = node.shoal(&["apply", "--file", &bench.file("v0", false)]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.err.contains("blueprint one is exclusive: remove it before"), "{told:?}");
    let told = node.shoal(&["blueprint", "info", "one"]);
    assert!(told.out.contains("Exclusive") && told.out.contains("ever runs twice at a time"), "{told:?}");
    let told = node.shoal(&["deploy", "echo", "--name", "two", "--exclusive"]);
    assert_eq!(told.code, Some(2), "{told:?}");
    assert!(told.err.contains("--instances"), "{told:?}");
    let told = node.shoal(&["deploy", "echo", "--name", "two", "--instances", "1", "--exclusive"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    node.until("/v1/blueprints/two", |answer| answer.json()["status"]["running"] == 1);
    assert_eq!(node.get("/v1/blueprints/two").json()["exclusive"], true);
}
