//! Durable writes of many clients at once: answered after the disk has them.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use shoal::api;
use tokio::runtime::Runtime;

use crate::clients::{Client, Http, Local, Round, millis, round, shoal_put};
use crate::etcd::Etcd;
use crate::mesh::TestMesh;
use crate::raw::Raw;
use crate::results::{percentile, ratio, shown};
use crate::tables::Tables;
use crate::{Size, cpu_time};

/// Clients at once, and rows of a transaction of bare SQLite.
const CLIENTS: u64 = 64;

/// Rounds, and writes of each client in one.
fn plan(size: Size) -> (usize, u64) {
    match size {
        Size::Short => (8, 16),
        Size::Full => (40, 32),
    }
}

/// One way to write.
struct Way {
    name: &'static str,
    many: Vec<Round>,
    cpu: Duration,
    /// One client alone, each write in milliseconds.
    alone: Vec<f64>,
}

impl Way {
    fn new(name: &'static str) -> Self {
        Self { name, many: Vec::new(), cpu: Duration::ZERO, alone: Vec::new() }
    }

    fn note(&mut self, cpu_before: Duration, round: Round) {
        self.cpu += cpu_time() - cpu_before;
        self.many.push(round);
    }

    /// All clients at once, and then one of them alone; nothing if there are none.
    async fn turn<C: Client>(&mut self, clients: &mut Vec<C>, each: u64, first: u64) {
        let before = cpu_time();
        if clients.is_empty() {
            return;
        }
        let measured;
        (measured, *clients) = round(std::mem::take(clients), each, first).await;
        self.note(before, measured);
        let one = clients.pop().expect("there are many");
        let (alone, one) = round(vec![one], each, first + CLIENTS * each).await;
        self.alone.extend(alone.waits);
        clients.extend(one);
    }

    fn rate(&self) -> Option<f64> {
        percentile(&self.many.iter().map(Round::per_second).collect::<Vec<_>>(), 0.5)
    }

    fn waits(&self) -> Vec<f64> {
        self.many.iter().flat_map(|round| round.waits.clone()).collect()
    }
}

pub(crate) fn measure(runtime: &Runtime, size: Size) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let (rounds, each) = plan(size);
    let mut raw = Raw::open(&directory.path().join("raw.db"));
    let mut tables = Tables::open(&directory.path().join("tables"));
    let mesh = runtime.block_on(async {
        let mesh = TestMesh::start(1).await;
        crate::all_healthy(&mesh, 1).await;
        mesh
    });
    let server = runtime.block_on(serve(&mesh));
    let etcd = Etcd::start(&directory.path().join("etcd"));
    let node = mesh.node(1).handle().clone();
    let mut local = vec![Local(node); CLIENTS as usize];
    let mut http: Vec<Http> = runtime.block_on(connect(server, shoal_put));
    let mut theirs: Vec<Http> = match &etcd {
        Ok(etcd) => runtime.block_on(connect(etcd.address(), crate::etcd::put)),
        Err(_) => Vec::new(),
    };
    let names = [
        "raw SQLite, 64 rows a transaction",
        "the store's tables",
        "a node, in process",
        "a node, HTTP",
        "etcd, HTTP",
    ];
    let [mut w_raw, mut w_tables, mut w_local, mut w_http, mut w_etcd] = names.map(Way::new);
    let mut first = 1;
    for time in 0..rounds {
        let all = CLIENTS * each;
        // Each begins a round as often as the others: what one leaves to the disk the next one pays for.
        for turn in 0..names.len() {
            let before = cpu_time();
            match (time + turn) % names.len() {
                0 => {
                    w_raw.note(before, raw_round(&mut raw, each, first));
                    w_raw.alone.extend((0..each).map(|n| millis(raw.commit(first + all + n, 1))));
                }
                1 => {
                    w_tables.note(before, tables.round(CLIENTS, each, first));
                    let alone = (0..each).flat_map(|n| tables.round(1, 1, first + all + n).waits);
                    w_tables.alone.extend(alone);
                }
                2 => runtime.block_on(w_local.turn(&mut local, each, first)),
                3 => runtime.block_on(w_http.turn(&mut http, each, first)),
                _ => runtime.block_on(w_etcd.turn(&mut theirs, each, first)),
            }
        }
        first += all + each;
    }
    let batch = tables.rows as f64 / tables.transactions as f64;
    let why = etcd.err();
    table(&[w_raw, w_tables, w_local, w_http, w_etcd], rounds, each, batch, why.as_deref())
}

fn raw_round(raw: &mut Raw, each: u64, first: u64) -> Round {
    let mut round = Round::default();
    for time in 0..each {
        let took = raw.commit(first + time * CLIENTS, CLIENTS);
        round.took += took;
        round.waits.extend(vec![millis(took); CLIENTS as usize]);
    }
    round
}

async fn serve(mesh: &TestMesh) -> SocketAddr {
    let listener = api::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let metrics = PrometheusBuilder::new().build_recorder().handle();
    let node = mesh.node(1).handle().clone();
    let options = api::Options { token: None, metrics };
    tokio::spawn(async move { api::serve(listener, node, options, std::future::pending()).await });
    address
}

async fn connect(server: SocketAddr, request: fn(u64) -> String) -> Vec<Http> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Http::connect(server, request).await);
    }
    clients
}

fn table(ways: &[Way], rounds: usize, each: u64, batch: f64, no_etcd: Option<&str>) -> String {
    let base = ways[0].rate();
    let mut text = format!(
        "{rounds} rounds by turns of {CLIENTS} clients that make {each} writes each, one after another, of 128 bytes to one of 10,000\n\
         keys; then one client alone. Everything is answered after the disk has it. Clients, node and SQLite share this machine;\n\
         CPU is that of this process, clients included (etcd is a process of its own). The store's transactions had {batch:.0} rows\n\
         on average. Goal: at least 0.8x raw SQLite.\n\n\
         | | writes/s | beside raw | p50 ms | p99 ms | CPU us a write | alone: p50 ms | p99 ms |\n|---|---|---|---|---|---|---|---|\n"
    );
    for way in ways.iter().filter(|way| !way.many.is_empty()) {
        let waits = way.waits();
        let cpu = way.cpu.as_secs_f64() * 1e6 / waits.len() as f64;
        let figures = [
            shown(way.rate()),
            ratio(way.rate(), base),
            shown(percentile(&waits, 0.5)),
            shown(percentile(&waits, 0.99)),
            shown(Some(cpu)),
            shown(percentile(&way.alone, 0.5)),
            shown(percentile(&way.alone, 0.99)),
        ];
        let _ = writeln!(text, "| {} | {} |", way.name, figures.join(" | "));
    }
    if let Some(why) = no_etcd {
        let _ = writeln!(text, "\netcd was not measured: {why}.");
    }
    text
}
