//! Agents that depend on others and are launched in phases, on a real node.

#[path = "running/mod.rs"]
mod running;

use std::fs;

use running::{Place, Running, Told};
use serde_json::json;

/// Runs, and answers nothing; while a file `broken` lies beside it, it ends instead.
const AGENT: &str = "#!/bin/sh\n[ -e \"${0%/*}/broken-$SHOAL_AGENT\" ] && exit 3\necho '{\"type\":\"ready\"}'\ncat >/dev/null\n";

struct Bench {
    place: Place,
    node: Running,
}

impl Bench {
    fn new() -> Self {
        let place = Place::new();
        let node = place.bootstrap("n1", &[]);
        let agent = place.path().join("agent.sh");
        fs::write(&agent, AGENT).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(agent, mode).expect("set");
        Self { place, node }
    }

    fn deploy(&self, name: &str, more: &str) -> Told {
        let file = self.place.path().join(format!("{name}.yaml"));
        let text = format!("name: {name}\nsource: ./agent.sh\nrestart: {{waits: [200ms, 200ms]}}\n{more}");
        fs::write(&file, text).expect("written");
        self.node.shoal(&["deploy", "--file", file.to_str().expect("text")])
    }

    fn deployed(&self, name: &str, more: &str) {
        let told = self.deploy(name, more);
        assert!(told.code == Some(0) && told.out.contains("runs on n1"), "{told:?}");
    }

    fn until(&self, agent: &str, state: &str) -> serde_json::Value {
        let path = format!("/v1/agents/{agent}");
        self.node.until(&path, |answer| answer.status == 200 && answer.json()["state"] == state).json()
    }
}

#[test]
fn what_an_agent_depends_on_must_be_known_must_not_depend_on_it_and_runs_first() {
    let bench = Bench::new();
    let unknown = bench.deploy("web", "depends_on: [db]\n");
    assert!(unknown.code == Some(1) && unknown.err.contains("it depends on db, and no agent"), "{unknown:?}");
    bench.deployed("db", "");
    bench.deployed("web", "depends_on: [db]\n");
    assert_eq!(bench.until("web", "running")["launch"]["depends_on"], json!(["db"]));
    // An agent that is stopped leaves its name in what depends on it.
    let stopped = bench.node.shoal(&["agent", "stop", "db"]);
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    let cycle = bench.deploy("db", "depends_on: [web]\n");
    assert!(cycle.code == Some(1) && cycle.err.contains("db -> web -> db"), "{cycle:?}");

    fs::write(bench.place.path().join("broken-db"), "").expect("written");
    assert_eq!(bench.deploy("db", "").code, Some(1), "it does not start");
    fs::remove_file(bench.place.path().join("broken-db")).expect("removed");
    bench.deployed("db", "");
    fs::write(bench.place.path().join("broken-db"), "").expect("written");
    let told = bench.node.shoal(&["agent", "restart", "db"]);
    assert_eq!(told.code, Some(1), "{told:?}");
    bench.until("db", "quarantined");
    // Who depends on it is taken in and waits, and says what for.
    let waits = bench.deploy("page", "depends_on: [db]\n");
    assert!(
        waits.out.contains("page on n1 is not started yet: it depends on db, which does not run here"),
        "{waits:?}"
    );
    let why = bench.node.shoal(&["why", "page"]);
    assert!(why.out.contains("agent page on n1 is starting: it depends on db"), "{why:?}");
    fs::remove_file(bench.place.path().join("broken-db")).expect("removed");
    let told = bench.node.shoal(&["agent", "release", "db"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    bench.until("page", "running");
}

#[test]
fn a_node_that_starts_launches_phases_in_order_and_a_failed_critical_agent_holds_the_next() {
    let bench = Bench::new();
    bench.deployed("db", "");
    bench.deployed("extra", "optional: true\n");
    bench.deployed("web", "phase: 1\ndepends_on: [db]\n");
    let graph = bench.node.get("/v1/dependencies").json();
    let of = |name: &str| {
        let agents = graph["agents"].as_array().expect("a list");
        agents.iter().find(|agent| agent["name"] == name).expect("it is there").clone()
    };
    assert_eq!((&of("web")["depends_on"], &of("db")["dependents"]), (&json!(["db"]), &json!(["web"])));
    assert_eq!(of("db")["instances"], json!([{"node": "n1", "state": "running"}]));
    let dot = bench.node.shoal(&["agent", "graph", "-o", "dot"]);
    assert!(dot.code == Some(0) && dot.out.contains("\"web\" -> \"db\";"), "{dot:?}");
    let table = bench.node.shoal(&["agent", "graph"]);
    assert!(table.out.contains("NEEDED BY") && table.out.contains("n1 (running)"), "{table:?}");

    let Bench { place, node } = bench;
    let broken = |name: &str| place.path().join(format!("broken-{name}"));
    fs::write(broken("db"), "").expect("written");
    fs::write(broken("extra"), "").expect("written");
    drop(node);
    let again = place.start("n1", &[]);
    again.until("/health/ready", |answer| answer.status == 200);
    let held = "it waits for phase 0, which is held up: db has failed and is not optional";
    let waits = again
        .until("/v1/agents/web", |answer| answer.status == 200 && answer.json()["reason"] == held)
        .json();
    assert_eq!((&waits["state"], &waits["pid"]), (&json!("starting"), &json!(null)));
    let why = again.shoal(&["why", "web"]);
    assert!(why.out.contains(held), "{why:?}");
    fs::remove_file(broken("db")).expect("removed");
    again.until("/v1/agents/db", |answer| {
        ["running", "quarantined"].contains(&answer.json()["state"].as_str().unwrap_or_default())
    });
    if again.get("/v1/agents/db").json()["state"] == "quarantined" {
        let told = again.shoal(&["agent", "release", "db"]);
        assert_eq!(told.code, Some(0), "{told:?}");
    }
    again.until("/v1/agents/web", |answer| answer.json()["state"] == "running");
    again.until("/v1/agents/extra", |answer| answer.json()["state"] == "quarantined");
}
