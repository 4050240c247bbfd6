//! How fast instances are placed: `cargo bench --bench placement -- [--rounds 20] [--agents 600] [--write]`.
//!
//! In memory: a plan of 10,000 instances over 100 nodes, its check, and the plans after that. Durable: three real nodes on this
//! machine are given a blueprint of so many native agents; it is noted when every node has all orders, each written to the disk of
//! the node that gave it before anybody heard of it, and when all instances run. Beside it, in the same run: SQLite alone, one row of
//! an order's size each, as many a transaction as the holder of the lease has in flight. `--write` puts the table into
//! `benches/RESULTS.md`. Without `--bench` it makes one small round, to see that it works.

#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

#[path = "shared/results.rs"]
#[allow(dead_code, reason = "each benchmark uses a part")]
mod results;
#[path = "../tests/running/mod.rs"]
mod running;

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use results::{percentile, ratio, shown};
use running::{Answer, Place, Running};
use serde_json::json;
use shoal::core::ids::{AgentName, NodeId};
use shoal::core::limits::ORDERS_IN_FLIGHT_MAX;
use shoal::core::model::{
    AgentSource, AgentSpec, Blueprint, BlueprintRecord, Instances, NodeCard, Order, OrderEpoch, Placement,
    Update,
};
use shoal::core::placement::{Host, HostState, Landscape, Observed, Plan, check, plan};

/// About as many bytes as an order has, with its key and its context.
const ORDER_BYTES: usize = 250;

/// What the holder of the lease knows.
struct Knowledge {
    blueprints: BTreeMap<AgentName, BlueprintRecord>,
    orders: BTreeMap<AgentName, Order>,
    hosts: BTreeMap<NodeId, Host>,
    observed: BTreeMap<AgentName, Observed>,
}

fn agent(name: &str) -> AgentName {
    AgentName::new(name).expect("valid")
}

impl Knowledge {
    fn new(nodes: usize, instances: u16) -> Self {
        let source = AgentSource::Native { builtin: "echo".to_owned() };
        let blueprint = Blueprint {
            spec: AgentSpec::new(agent("web"), source),
            instances: Instances::Count(instances),
            placement: Placement::default(),
            update: Update::default(),
            on_cut: Default::default(),
        };
        let host = |number: usize| {
            let node_id = NodeId::new(&format!("n{number}")).expect("valid");
            let card = NodeCard {
                node_id: node_id.clone(),
                addresses: vec![],
                region: String::new(),
                zone: String::new(),
                labels: BTreeMap::new(),
                version: String::new(),
                roles: vec![],
            };
            (node_id, Host { card, state: HostState::Up, other_agents: 0, cpu_tenths: 0 })
        };
        Self {
            blueprints: [(agent("web"), BlueprintRecord::new(blueprint, "applied".to_owned()))].into(),
            orders: BTreeMap::new(),
            hosts: (0..nodes).map(host).collect(),
            observed: BTreeMap::new(),
        }
    }

    fn landscape<'a>(&'a self, tallies: &'a BTreeMap<AgentName, shoal::core::model::Tally>) -> Landscape<'a> {
        let Self { blueprints, orders, hosts, observed } = self;
        Landscape { blueprints, orders, hosts, observed, tallies }
    }

    /// The orders are given, and what is ordered runs.
    fn give(&mut self, plan: &Plan) {
        for step in &plan.steps {
            let order = Order {
                epoch: OrderEpoch::default(),
                post: step.post.clone(),
                why: step.why.clone(),
                since: OrderEpoch::default(),
            };
            self.orders.insert(step.slot.clone(), order);
            self.observed.insert(step.slot.clone(), Observed::Steady);
        }
    }
}

/// Milliseconds of each of these, in each round.
#[derive(Default)]
struct InMemory {
    fresh: Vec<f64>,
    checked: Vec<f64>,
    steady: Vec<f64>,
    lost: Vec<f64>,
    moved: usize,
}

fn timed<T>(into: &mut Vec<f64>, what: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = what();
    into.push(begun.elapsed().as_secs_f64() * 1e3);
    done
}

fn in_memory(rounds: usize, nodes: usize, instances: u16) -> InMemory {
    let mut all = InMemory::default();
    let none = BTreeMap::new();
    for _ in 0..rounds {
        let mut known = Knowledge::new(nodes, instances);
        let fresh = timed(&mut all.fresh, || plan(known.landscape(&none)));
        assert_eq!((fresh.steps.len(), fresh.unplaced.len()), (usize::from(instances), 0));
        timed(&mut all.checked, || check(known.landscape(&none), &fresh)).expect("nothing is wrong");
        known.give(&fresh);
        let steady = timed(&mut all.steady, || plan(known.landscape(&none)));
        assert!(steady.is_empty(), "nothing is to be done");
        known.hosts.values_mut().next().expect("there is one").state = HostState::Lost;
        all.moved = timed(&mut all.lost, || plan(known.landscape(&none))).steps.len();
    }
    all
}

struct Mesh {
    place: Place,
    nodes: Vec<Running>,
}

/// Seconds until every node had all orders, and until all instances ran.
struct Placed {
    ordered: f64,
    running: f64,
}

impl Mesh {
    fn new() -> Self {
        let place = Place::new();
        let first = place.bootstrap("n1", &[]);
        let others = ["n2", "n3"].map(|name| place.join(name, &first));
        let nodes: Vec<_> = [first].into_iter().chain(others).collect();
        for node in &nodes {
            node.until("/v1/cluster/roster", |answer| answer.json()["voters"] == 3);
            node.until("/v1/cluster/status", |answer| answer.json()["mode"] == "healthy");
        }
        Self { place, nodes }
    }

    fn round(&self, number: usize, instances: usize) -> Placed {
        let name = format!("many{number}");
        let file = self.place.path().join("many.yaml");
        fs::write(&file, format!("name: {name}\nsource: echo\ninstances: {instances}\n")).expect("written");
        let path = format!("/v1/blueprints/{name}");
        let count = |answer: &Answer, what: &str| answer.json()["status"][what].as_u64().unwrap_or(0);
        let begun = Instant::now();
        let told = self.nodes[0].shoal(&["apply", "--file", file.to_str().expect("text")]);
        assert_eq!(told.code, Some(0), "{told:?}");
        for node in &self.nodes {
            node.until(&path, |answer| answer.status == 200 && count(answer, "placed") == instances as u64);
        }
        let ordered = begun.elapsed().as_secs_f64();
        self.nodes[0].until(&path, |answer| count(answer, "running") == instances as u64);
        let running = begun.elapsed().as_secs_f64();
        let told = self.nodes[0].shoal(&["blueprint", "remove", &name]);
        assert_eq!(told.code, Some(0), "{told:?}");
        self.nodes[0].until("/v1/agents", |answer| answer.json() == json!([]));
        Placed { ordered, running }
    }
}

/// Seconds that SQLite alone takes for so many rows.
fn sqlite_alone(place: &Place, number: usize, rows: usize) -> f64 {
    let mut db = rusqlite::Connection::open(place.path().join(format!("raw{number}.db"))).expect("opened");
    let settings = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID;";
    db.execute_batch(settings).expect("set up");
    let row = vec![7_u8; ORDER_BYTES];
    let begun = Instant::now();
    for batch in 0..rows.div_ceil(ORDERS_IN_FLIGHT_MAX) {
        let write = db.transaction().expect("begun");
        for at in batch * ORDERS_IN_FLIGHT_MAX..rows.min((batch + 1) * ORDERS_IN_FLIGHT_MAX) {
            let key = format!("_mesh/assignments/many/{at}");
            write.execute("INSERT INTO t VALUES (?1, ?2)", (key.as_bytes(), &row)).expect("written");
        }
        write.commit().expect("committed");
    }
    begun.elapsed().as_secs_f64()
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let is_bench = args.iter().any(|arg| arg == "--bench");
    let number = |name: &str, usual: usize| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(usual)
    };
    let (rounds, agents, planned) =
        if is_bench { (number("--rounds", 20), number("--agents", 600), 10_000) } else { (1, 30, 500) };
    let memory = in_memory(rounds, 100, planned);
    let mesh = Mesh::new();
    let (mut ordered, mut running, mut raw) = (vec![], vec![], vec![]);
    for round in 0..rounds.div_ceil(4) {
        raw.push(sqlite_alone(&mesh.place, round, agents));
        let placed = mesh.round(round, agents);
        ordered.push(placed.ordered);
        running.push(placed.running);
    }
    drop(mesh);
    let line = |what: &str, values: &[f64], count: usize| {
        let (half, most) = (percentile(values, 0.5), percentile(values, 0.99));
        let rate = half.map(|ms| count as f64 / ms * 1e3);
        format!("| {what} | {count} | {} | {} | {} |", shown(half), shown(most), shown(rate))
    };
    let a_second = |seconds: &[f64]| percentile(seconds, 0.5).map(|seconds| agents as f64 / seconds);
    let row = |what: &str, seconds: &[f64]| {
        let (half, most) = (percentile(seconds, 0.5), percentile(seconds, 0.99));
        let of_raw = ratio(a_second(seconds), a_second(&raw));
        format!("| {what} | {} | {} | {} | {of_raw} |", shown(half), shown(most), shown(a_second(seconds)))
    };
    let planned = usize::from(planned);
    let text = [
        "## Placing instances (`cargo bench --bench placement`)".to_owned(),
        String::new(),
        results::machine(),
        String::new(),
        format!("{rounds} rounds in memory: {planned} instances of one blueprint over 100 nodes. Goal: 37,500 planned a second."),
        String::new(),
        "| plan | instances | ms, p50 | p99 | a second |".to_owned(),
        "|---|---|---|---|---|".to_owned(),
        line("all are new", &memory.fresh, planned),
        line("its check", &memory.checked, planned),
        line("nothing is to be done", &memory.steady, planned),
        line("a node is lost", &memory.lost, memory.moved),
        String::new(),
        format!(
            "{} rounds with three nodes: {agents} instances of the native `echo`, from the command `shoal apply` on. Goal: 3,750 orders a second.",
            raw.len()
        ),
        String::new(),
        "| until | s, p50 | p99 | a second | of SQLite alone |".to_owned(),
        "|---|---|---|---|---|".to_owned(),
        row("SQLite alone has as many rows", &raw),
        row("every node has all orders", &ordered),
        row("all run, as the first node has heard", &running),
    ]
    .join("\n");
    println!("{text}");
    if args.iter().any(|arg| arg == "--write") {
        results::write_part("placement", &text).expect("written");
    }
}
