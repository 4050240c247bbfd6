//! What a message costs, beside its limits and beside others: `cargo bench --bench messages`.
//!
//! Two nodes in one process, each on an executor of its own, over loopback with mutual TLS; beside them a
//! bare quinn connection with the same TLS and quinn settings between two executors of the same kind, that
//! sends a frame and gets it back on one long-lived stream; bare UDP; Debian's `nats-server` with mutual TLS between two
//! threads; and tonic with mutual TLS between two processes (`benches/tonic`, built apart). Rounds are interleaved
//! (A B A B ...), so that a change of the machine's speed meets all of them; what counts are the ratios.
//!
//! Options: `OneThread` or `TwoThreads`, the kind of executor; `--rounds N` (15); `--quick`, a tenth of the messages in
//! two rounds; `--write`, which puts the tables into `benches/RESULTS.md`. What is not installed is said, and is `-`.

#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

#[path = "../../tests/common/mesh.rs"]
#[allow(dead_code, unreachable_pub, missing_debug_implementations, reason = "it is the tests' too")]
mod mesh;
mod nats;
mod raw;
#[path = "../shared/results.rs"]
mod results;
mod tonic;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal::core::model::{AgentSource, AgentSpec, Answer, ProcessProtocol};
use shoal::core::wire::{self, Data, RequestBody, ResponseBody, Want};
use tokio::runtime::{Builder, Handle, Runtime};

use mesh::{TestMesh, message, until};
use nats::Nats;
use tonic::Tonic;

const CONTENT: usize = 128;
const ROUNDS: usize = 15;
const ASKS_A_ROUND: usize = 2_000;
const ONE_WAY_A_ROUND: usize = 200_000;

/// An executor on a thread of its own, as long as the value lives.
struct Executor {
    handle: Handle,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Executor {
    fn start(kind: Kind) -> Self {
        let runtime = kind.runtime();
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = runtime.block_on(stopped);
        });
        Self { handle, stop: Some(stop) }
    }

    fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = std::sync::mpsc::channel();
        self.handle.spawn(async move {
            let _ = done.send(work.await);
        });
        result.recv().expect("the work does not panic")
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.stop.take();
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    OneThread,
    TwoThreads,
}

impl Kind {
    fn runtime(self) -> Runtime {
        let built = match self {
            Self::OneThread => Builder::new_current_thread().enable_all().build(),
            Self::TwoThreads => Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        };
        built.expect("an executor")
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Size {
    rounds: usize,
    asks: usize,
    one_way: usize,
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let rounds = arguments.iter().position(|argument| argument == "--rounds");
    let rounds =
        rounds.and_then(|at| arguments.get(at + 1)).map(|rounds| rounds.parse().expect("--rounds N"));
    let size = if has("--quick") {
        let (asks, one_way) = (ASKS_A_ROUND / 10, ONE_WAY_A_ROUND / 10);
        Size { rounds: rounds.unwrap_or(2), asks, one_way }
    } else {
        Size { rounds: rounds.unwrap_or(ROUNDS), asks: ASKS_A_ROUND, one_way: ONE_WAY_A_ROUND }
    };
    let only =
        arguments.iter().find(|argument| argument.ends_with("Thread") || argument.ends_with("Threads"));
    let codec = codec(size);
    let mut text = format!(
        "Content of {CONTENT} bytes, one message in flight, {} rounds by turns of {} each; times in microseconds. Encoding and \
         decoding both frames of an ask takes {:.2} of them.\n",
        size.rounds,
        size.asks,
        micros(codec)
    );
    for kind in [Kind::OneThread, Kind::TwoThreads] {
        if only.is_none_or(|only| format!("{kind:?}") == *only) {
            text += &measure(kind, size);
        }
    }
    println!("{text}");
    if has("--write") {
        let machine = results::machine();
        let part = format!("## Messages (`cargo bench --bench messages`)\n\n{machine}.\n\n{text}");
        results::write_part("messages", &part).expect("benches/RESULTS.md can be written");
    }
}

/// What one ask spends on its two frames: encoding, walking and decoding of message and answer.
fn codec(size: Size) -> Duration {
    let deliver = Data::Deliver { want: Want::Answer, tag: 7, message: message("echo", &[7; CONTENT]) };
    let answer = Answer {
        from: "echo@node-2".to_owned(),
        content_type: "application/octet-stream".to_owned(),
        content: vec![7; CONTENT].into(),
    };
    let outcome = Data::Outcome { tag: 7, result: Ok(Some(answer)) };
    let mut bytes = Vec::new();
    let count = size.asks * size.rounds;
    let begun = Instant::now();
    for _ in 0..count {
        for frame in [&deliver, &outcome] {
            bytes.clear();
            wire::encode(frame, &mut bytes).expect("fits");
            let (_, body) = wire::split(&bytes[4..]).expect("our version").expect("a known kind");
            std::hint::black_box(wire::decode::<Data>(body).expect("decodes"));
        }
    }
    begun.elapsed() / count as u32
}

/// A row of samples; the reason where there are none.
struct Row {
    name: String,
    samples: Vec<f64>,
    missing: Option<String>,
}

impl Row {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), samples: Vec::new(), missing: None }
    }

    fn add(&mut self, samples: impl IntoIterator<Item = Duration>) {
        self.samples.extend(samples.into_iter().map(micros));
    }
}

fn measure(kind: Kind, size: Size) -> String {
    let (a, b) = (Executor::start(kind), Executor::start(kind));
    let executors = [a.handle.clone(), b.handle.clone()];
    let mesh = Arc::new(a.run(async move {
        let mesh = TestMesh::start_on(&executors).await;
        mesh.all_alive().await;
        mesh
    }));
    deploy(&a, &mesh, 2, "echo", native_echo());
    deploy(&a, &mesh, 1, "near", native_echo());
    deploy(&a, &mesh, 2, "process", wordcount());
    let wasm = deploy_wasm(&a, &mesh);
    let raw = raw::Quinn::start(&a, &b, mesh.certs(1), mesh.certs(2));
    let udp = raw::Udp::start(&a, &b);
    let mut nats = Nats::start(&mesh.certs(1), &mesh.certs(2));
    let (certificates, mut tonic) = start_tonic(&mesh);

    let nats_name = nats.as_ref().map_or("nats-server", |nats| nats.version.as_str()).to_owned();
    let mut rows = [
        "raw quinn, framed stream",
        "raw UDP",
        "ask native echo",
        "ask native echo, same node",
        "ask WASM agent, long-lived instance",
        "ask WASM agent, fresh instance",
        "ask process (stdio)",
        &format!("{nats_name}, mutual TLS"),
        "tonic, mutual TLS",
    ]
    .map(Row::new);
    let mut one_way: [Vec<f64>; 4] = Default::default();
    for _ in 0..size.rounds {
        rows[0].add(raw.round_trips(&a, size.asks));
        rows[2].add(asks(&a, &mesh, "echo", size.asks));
        rows[1].add(udp.round_trips(&a, size.asks));
        rows[3].add(asks(&a, &mesh, "near", size.asks));
        if wasm.is_ok() {
            rows[4].add(asks(&a, &mesh, "kept", size.asks));
            rows[5].add(asks(&a, &mesh, "fresh", size.asks));
        }
        rows[6].add(asks(&a, &mesh, "process", size.asks / 10));
        if let Ok(nats) = &mut nats {
            rows[7].add(nats.round_trips(size.asks));
        }
        if let Ok(tonic) = &mut tonic {
            rows[8].add(tonic.round_trips(size.asks));
        }
        one_way[0].push(tells(&a, &mesh, size.one_way));
        if let Ok(nats) = &mut nats {
            one_way[1].push(nats.one_way(size.one_way));
        }
        one_way[2].push(udp.one_way(&a, size.one_way));
        one_way[3].push(raw::aead(size.one_way));
    }
    drop(certificates);
    for row in &mut rows[4..=5] {
        row.missing = wasm.as_ref().err().cloned();
    }
    rows[7].missing = nats.as_ref().err().cloned();
    rows[8].missing = tonic.as_ref().err().cloned();
    round_trip_table(kind, &rows) + &one_way_table(&nats_name, &one_way)
}

fn round_trip_table(kind: Kind, rows: &[Row]) -> String {
    let p50 = |row: &Row| results::percentile(&row.samples, 0.5);
    let (raw, nats) = (p50(&rows[0]), p50(&rows[7]));
    let mut text = format!("\n### There and back, two nodes, {}\n\n", executors(kind));
    text += "| | p50 | p99 | p50 beside raw quinn | beside NATS | |\n|---|---|---|---|---|---|\n";
    for row in rows {
        let shown = |share| results::shown(results::percentile(&row.samples, share));
        text += &format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            row.name,
            shown(0.5),
            shown(0.99),
            results::ratio(p50(row), raw),
            results::ratio(p50(row), nats),
            row.missing.as_deref().unwrap_or_default()
        );
    }
    text + "\nGoals: native echo at most 1.25x raw quinn, and at most 0.6x NATS.\n"
}

fn one_way_table(nats_name: &str, rates: &[Vec<f64>; 4]) -> String {
    let names = [
        "tell native echo, all handled".to_owned(),
        format!("{nats_name}, mutual TLS, all read"),
        "raw UDP, those that arrive".to_owned(),
        "AES-128-GCM alone, sealed and opened".to_owned(),
    ];
    let nats = results::percentile(&rates[1], 0.5);
    let mut text =
        "\nOne way, thousands of messages a second, median and worst of the rounds:\n\n".to_owned();
    text += "| | median | worst | beside NATS |\n|---|---|---|---|\n";
    for (name, rates) in names.iter().zip(rates) {
        let median = results::percentile(rates, 0.5);
        let worst = rates.iter().copied().reduce(f64::min);
        let thousands = |rate: Option<f64>| results::shown(rate.map(|rate| rate / 1e3));
        let ratio = results::ratio(median, nats);
        text += &format!("| {name} | {} | {} | {ratio} |\n", thousands(median), thousands(worst));
    }
    text + "\nGoal: at least 2x NATS.\n"
}

fn executors(kind: Kind) -> &'static str {
    match kind {
        Kind::OneThread => "an executor of one thread each",
        Kind::TwoThreads => "an executor of two threads each",
    }
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

fn native_echo() -> AgentSource {
    AgentSource::Native { builtin: "echo".to_owned() }
}

fn wordcount() -> AgentSource {
    let command = env!("CARGO_BIN_EXE_shoal").to_owned();
    let args = vec!["sample-agent".to_owned(), "wordcount".to_owned()];
    AgentSource::Process { protocol: ProcessProtocol::Stdio, command, args }
}

/// The agents `kept` and `fresh` on node 2, of the sample component in the text format.
#[cfg(feature = "wasm")]
fn deploy_wasm(a: &Executor, mesh: &Arc<TestMesh>) -> Result<(), String> {
    use shoal::core::model::{InstanceLife, WasmSource};

    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/agents/wasm/tally.wat");
    let component = wat::parse_file(path).map_err(|error| error.to_string())?;
    let node = mesh.node(2).handle().clone();
    let module = a.run(async move { node.put_module(component.into()).await })?;
    for (name, instance) in [("kept", InstanceLife::LongLived), ("fresh", InstanceLife::PerMessage)] {
        let source = WasmSource { instance, ..WasmSource::new(module) };
        deploy(a, mesh, 2, name, AgentSource::Wasm(source));
    }
    Ok(())
}

#[cfg(not(feature = "wasm"))]
fn deploy_wasm(_: &Executor, _: &Arc<TestMesh>) -> Result<(), String> {
    Err("built without WASM agents".to_owned())
}

/// tonic's own certificates, by the mesh's CA: its client checks the name of the host.
fn start_tonic(mesh: &TestMesh) -> (tempfile::TempDir, Result<Tonic, String>) {
    use shoal::node::certs::{self, Validity};

    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("written");
    write("ca.crt", mesh.ca().bundle_pem());
    for side in ["server", "client"] {
        let node = format!("tonic-{side}").parse().expect("a name");
        let validity = Validity::starting(std::time::SystemTime::now(), 1).expect("a validity");
        let pair = certs::issue(mesh.ca(), &node, &["localhost".to_owned()], &[], validity).expect("issued");
        write(&format!("{side}.crt"), &pair.cert_pem);
        write(&format!("{side}.key"), &pair.key_pem);
    }
    let tonic = Tonic::start(directory.path());
    (directory, tonic)
}

fn deploy(a: &Executor, mesh: &Arc<TestMesh>, n: usize, name: &str, source: AgentSource) {
    let mesh = Arc::clone(mesh);
    let name: shoal::core::ids::AgentName = name.parse().expect("valid");
    a.run(async move {
        let handle = mesh.node(1).handle();
        let spec = AgentSpec::new(name.clone(), source);
        handle.request(mesh.node(n).id(), RequestBody::Deploy { spec }).await.expect("deploys");
        until(|| handle.view().agents.iter().any(|a| a.name == name && a.record.state.as_str() == "running"))
            .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    });
}

fn asks(a: &Executor, mesh: &Arc<TestMesh>, agent: &'static str, count: usize) -> Vec<Duration> {
    let mesh = Arc::clone(mesh);
    a.run(async move {
        let handle = mesh.node(1).handle();
        let mut samples = Vec::with_capacity(count);
        for _ in 0..count {
            let message = message(agent, &[7; CONTENT]);
            let begun = Instant::now();
            handle.ask(message).await.expect("answers");
            samples.push(begun.elapsed());
        }
        samples
    })
}

/// One-way messages as fast as the stream takes them, then one ask behind them on the same stream: when
/// that is answered, all have been handled, which the agent's own counter must confirm.
fn tells(a: &Executor, mesh: &Arc<TestMesh>, count: usize) -> f64 {
    let mesh = Arc::clone(mesh);
    a.run(async move {
        let (handle, agent_node) = (mesh.node(1).handle(), 2);
        let template = message("echo", &[7; CONTENT]);
        let before = requests(&mesh, agent_node).await;
        let begun = Instant::now();
        for sent in 0..count {
            let mut message = template.clone();
            message.id = shoal::node::clock::message_id();
            while handle.tell(message.clone()).is_err() {
                tokio::task::yield_now().await;
            }
            if sent % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let mut last = template.clone();
        last.deadline_ms = 30_000;
        handle.ask(last).await.expect("answers");
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        assert_eq!(requests(&mesh, agent_node).await - before, count as u64 + 1, "none is lost");
        rate
    })
}

/// Messages that the echo agent of node `n` has handled.
async fn requests(mesh: &TestMesh, n: usize) -> u64 {
    let body = RequestBody::AgentInfo { agent: "echo".parse().expect("valid") };
    let info = mesh.node(1).handle().request(mesh.node(n).id(), body).await.expect("answers");
    let ResponseBody::AgentInfo { stats, .. } = info else {
        panic!("unexpected {info:?}");
    };
    stats.requests
}
