//! How long the agents of a node that is killed are away: `cargo bench --bench failover -- [--rounds 20] [--agents 40] [--write]`.
//!
//! Three real nodes on this machine. In each round one of them, by turns the holder of the lease and another one, is given all
//! instances of a blueprint, a small shell script each, and killed with SIGKILL. Clients ask the others for each instance, again and
//! again, and note when it answers for the first time. `--write` puts the table into `benches/RESULTS.md`. Without `--bench` it
//! makes two small rounds, to see that it works.

#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

#[path = "shared/results.rs"]
#[allow(dead_code, reason = "each benchmark uses a part")]
mod results;
#[path = "../tests/running/mod.rs"]
mod running;

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use results::{percentile, shown};
use running::{Place, Running};
use serde_json::json;

const AGENT: &str = r#"#!/bin/sh
printf '{"type":"ready"}\n'
while read -r line; do
  id=${line#*\"id\":\"}
  printf '{"type":"reply","to":"%s","content":"here"}\n' "${id%%\"*}"
done
"#;

/// Longer than anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

struct Mesh {
    place: Place,
    nodes: Vec<Running>,
}

/// What came of one round, in seconds after the kill.
struct Round {
    of_holder: bool,
    answers: Vec<f64>,
}

impl Mesh {
    fn new() -> Self {
        let place = Place::new();
        place.executable("agent.sh", AGENT);
        let nodes = place.healthy_mesh(3);
        Self { place, nodes }
    }

    /// Which node holds the lease.
    fn holder(&self) -> usize {
        let status =
            self.nodes[0].until("/v1/cluster/status", |answer| answer.json()["lease_holder"].is_string());
        let holder = status.json()["lease_holder"].clone();
        self.nodes.iter().position(|node| holder == node.name().as_str()).expect("it is one of them")
    }

    fn round(&mut self, number: usize, agents: usize) -> Round {
        let of_holder = number.is_multiple_of(2);
        let holder = self.holder();
        let victim = if of_holder { holder } else { (holder + 1 + number / 2 % 2) % 3 };
        let victim_name = self.nodes[victim].name();
        let name = format!("work{number}");
        let file = self.place.path().join("work.yaml");
        let text = format!(
            "name: {name}\nsource: ./agent.sh\ninstances: {agents}\nplacement: {{strategy: binpack, prefer: [{victim_name}]}}\n"
        );
        fs::write(&file, text).expect("written");
        let file = file.to_str().expect("text");
        let told = self.nodes[0].shoal(&["apply", "--file", file, "--wait", "60s"]);
        assert_eq!(told.code, Some(0), "{told:?}");
        let slots = self.nodes[0].get(&format!("/v1/blueprints/{name}")).json()["slots"].clone();
        let there =
            slots.as_array().expect("a list").iter().filter(|slot| slot["node"] == victim_name.as_str());
        assert_eq!(there.count(), agents, "all of them are on {victim_name}: {slots}");
        let asked = self.nodes[(victim + 1) % 3].api;

        self.nodes[victim].signal("KILL");
        let killed = Instant::now();
        let clients: Vec<_> = (0..agents)
            .map(|slot| {
                let to = format!("{name}#{slot}");
                std::thread::spawn(move || until_answered(asked, &to, killed))
            })
            .collect();
        let answers = clients.into_iter().map(|client| client.join().expect("it answers")).collect();

        let back = self.place.start(&victim_name, &[]);
        self.nodes[victim] = back;
        Running::until_healthy(&self.nodes);
        let told = self.nodes[0].shoal(&["blueprint", "remove", &name]);
        assert_eq!(told.code, Some(0), "{told:?}");
        self.nodes[0].until("/v1/agents", |answer| answer.json() == json!([]));
        Round { of_holder, answers }
    }
}

/// Asks until an answer comes; seconds since the kill.
fn until_answered(api: SocketAddr, to: &str, killed: Instant) -> f64 {
    let body = json!({"to": to, "content": "?", "deadline_ms": 100}).to_string();
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nconnection: close\r\nhost: {api}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    loop {
        let answer = running::exchange(api, &[head.as_bytes(), body.as_bytes()].concat());
        if answer.status == 200 {
            return killed.elapsed().as_secs_f64();
        }
        assert!(killed.elapsed() < PATIENCE, "{to} does not answer: {answer:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn row(what: &str, rounds: &[&Round]) -> String {
    let each: Vec<f64> = rounds.iter().flat_map(|round| round.answers.iter().copied()).collect();
    let last: Vec<f64> =
        rounds.iter().filter_map(|round| round.answers.iter().copied().max_by(f64::total_cmp)).collect();
    let figures = |values: &[f64]| [0.5, 0.99].map(|share| shown(percentile(values, share))).join(" | ");
    format!("| {what} | {} | {} | {} |", rounds.len(), figures(&each), figures(&last))
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let is_bench = args.iter().any(|arg| arg == "--bench");
    let number = |name: &str, usual: usize| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(usual)
    };
    let (rounds, agents) = if is_bench { (number("--rounds", 20), number("--agents", 40)) } else { (2, 3) };
    let mut mesh = Mesh::new();
    let done: Vec<Round> = (0..rounds).map(|round| mesh.round(round, agents)).collect();
    drop(mesh);
    let of = |of_holder| done.iter().filter(|round| round.of_holder == of_holder).collect::<Vec<_>>();
    let all: Vec<_> = done.iter().collect();
    let text = [
        "## Killed with its agents (`cargo bench --bench failover`)".to_owned(),
        String::new(),
        results::machine(),
        String::new(),
        format!("Three nodes, on this machine; one that has all {agents} instances of a blueprint, a shell script each, is killed with SIGKILL."),
        "Seconds from the kill until an instance answers a client of another node, and until the last of them does.".to_owned(),
        "p99 is the greatest of fewer than 100 values.".to_owned(),
        String::new(),
        "| killed | rounds | each, p50 | p99 | last, p50 | p99 |".to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
        row("the holder of the lease", &of(true)),
        row("another node", &of(false)),
        row("either", &all),
    ]
    .join("\n");
    println!("{text}");
    if args.iter().any(|arg| arg == "--write") {
        results::write_part("failover", &text).expect("written");
    }
}
