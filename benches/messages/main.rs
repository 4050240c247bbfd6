//! What a message costs, beside the raw limit in the same run: `cargo bench --bench messages`.
//!
//! Two nodes in one process, each on an executor of its own, over loopback with mutual TLS; beside them a
//! bare quinn connection with the same TLS and quinn settings between two executors of the same kind, that
//! sends a frame and gets it back on one long-lived stream. Rounds are interleaved (A B A B ...), so that
//! a change of the machine's speed meets all of them; what counts are the ratios.

#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

#[path = "../tests/common/mesh.rs"]
#[allow(dead_code, unreachable_pub, missing_debug_implementations, reason = "it is the tests' too")]
mod mesh;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use shoal::core::model::{AgentSource, AgentSpec, Answer, ProcessProtocol};
use shoal::core::wire::{self, Data, RequestBody, ResponseBody, Want};
use shoal::node::transport::tls::{NodeIdentity, SERVER_NAME};
use tokio::runtime::{Builder, Handle, Runtime};

use mesh::{TestMesh, message, until};

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

/// What one ask spends on its two frames: encoding, walking and decoding of message and answer.
fn codec() -> Duration {
    let deliver = Data::Deliver { want: Want::Answer, tag: 7, message: message("echo", &[7; CONTENT]) };
    let answer = Answer {
        from: "echo@node-2".to_owned(),
        content_type: "application/octet-stream".to_owned(),
        content: vec![7; CONTENT].into(),
    };
    let outcome = Data::Outcome { tag: 7, result: Ok(Some(answer)) };
    let mut bytes = Vec::new();
    let begun = Instant::now();
    for _ in 0..ASKS_A_ROUND * ROUNDS {
        for frame in [&deliver, &outcome] {
            bytes.clear();
            wire::encode(frame, &mut bytes).expect("fits");
            let (_, body) = wire::split(&bytes[4..]).expect("our version").expect("a known kind");
            std::hint::black_box(wire::decode::<Data>(body).expect("decodes"));
        }
    }
    begun.elapsed() / (ASKS_A_ROUND * ROUNDS) as u32
}

fn main() {
    println!("encoding and decoding both frames of an ask: {:.2} us", micros(codec()));
    let only = std::env::args().nth(1).filter(|a| !a.starts_with('-'));
    for kind in [Kind::OneThread, Kind::TwoThreads] {
        if only.as_ref().is_none_or(|o| format!("{kind:?}").contains(o.as_str())) {
            measure(kind);
        }
    }
}

fn measure(kind: Kind) {
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
    let raw = Raw::start(&a, &b, mesh.certs(1), mesh.certs(2));

    let mut samples: [Vec<Duration>; 4] = Default::default();
    let mut one_way = Vec::new();
    for _ in 0..ROUNDS {
        samples[0].extend(raw.round_trips(&a, ASKS_A_ROUND));
        samples[1].extend(asks(&a, &mesh, "echo", ASKS_A_ROUND));
        samples[2].extend(asks(&a, &mesh, "near", ASKS_A_ROUND));
        samples[3].extend(asks(&a, &mesh, "process", ASKS_A_ROUND / 10));
        one_way.push(tells(&a, &mesh, ONE_WAY_A_ROUND));
    }
    let base = percentile(&mut samples[0], 0.5);
    println!("\n{kind:?}: {CONTENT} B, one in flight, {ROUNDS} interleaved rounds");
    println!("{:<44} {:>9} {:>9} {:>8}", "", "p50", "p99", "p50/raw");
    let names = [
        "raw quinn, framed stream, 2 nodes",
        "ask native echo, 2 nodes",
        "ask native echo, same node",
        "ask process (stdio), 2 nodes",
    ];
    for (name, samples) in names.iter().zip(&mut samples) {
        let (p50, p99) = (percentile(samples, 0.5), percentile(samples, 0.99));
        let ratio = p50.as_secs_f64() / base.as_secs_f64();
        println!("{name:<44} {:>6.1} us {:>6.1} us {ratio:>7.2}x", micros(p50), micros(p99));
    }
    one_way.sort_by(f64::total_cmp);
    println!("one-way, 2 nodes, all handled: {:.0} messages/s (median)", one_way[one_way.len() / 2]);
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

fn percentile(samples: &mut [Duration], p: f64) -> Duration {
    samples.sort();
    samples[((samples.len() - 1) as f64 * p) as usize]
}

fn native_echo() -> AgentSource {
    AgentSource::Native { builtin: "echo".to_owned() }
}

fn wordcount() -> AgentSource {
    let command = env!("CARGO_BIN_EXE_shoal").to_owned();
    let args = vec!["sample-agent".to_owned(), "wordcount".to_owned()];
    AgentSource::Process { protocol: ProcessProtocol::Stdio, command, args }
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

/// The raw limit: one quinn connection, one stream, a frame there and the same frame back.
struct Raw {
    streams: Arc<tokio::sync::Mutex<(quinn::SendStream, quinn::RecvStream)>>,
    _endpoints: Vec<quinn::Endpoint>,
}

const FRAME: usize = 4 + CONTENT;

impl Raw {
    fn start(a: &Executor, b: &Executor, client_certs: PathBuf, server_certs: PathBuf) -> Self {
        let server = b.run(async move { raw_server(identity(&server_certs)) });
        let address = server.local_addr().expect("it listens");
        let (streams, client) = a.run(async move {
            let config = QuicClientConfig::try_from(identity(&client_certs).client_config()).expect("usable");
            let config = quinn::ClientConfig::new(Arc::new(config));
            let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
            let connection = endpoint.connect_with(config, address, SERVER_NAME).expect("valid");
            let streams = connection.await.expect("connects").open_bi().await.expect("opens");
            (streams, endpoint)
        });
        Self { streams: Arc::new(tokio::sync::Mutex::new(streams)), _endpoints: vec![server, client] }
    }

    fn round_trips(&self, a: &Executor, count: usize) -> Vec<Duration> {
        let streams = Arc::clone(&self.streams);
        a.run(async move {
            let mut streams = streams.lock().await;
            let (send, recv) = &mut *streams;
            let mut frame = [7; FRAME];
            frame[..4].copy_from_slice(&(CONTENT as u32).to_le_bytes());
            let mut samples = Vec::with_capacity(count);
            for _ in 0..count {
                let begun = Instant::now();
                send.write_all(&frame).await.expect("writes");
                recv.read_exact(&mut frame).await.expect("reads");
                samples.push(begun.elapsed());
            }
            samples
        })
    }
}

fn identity(certs: &std::path::Path) -> NodeIdentity {
    let path = |name: &str| certs.join(name);
    let now = std::time::SystemTime::now();
    NodeIdentity::load(&path("ca.crt"), &path("node.crt"), &path("node.key"), now).expect("loads")
}

fn raw_server(identity: NodeIdentity) -> quinn::Endpoint {
    let config = QuicServerConfig::try_from(identity.server_config()).expect("usable");
    let config = quinn::ServerConfig::with_crypto(Arc::new(config));
    let endpoint = quinn::Endpoint::server(config, ([127, 0, 0, 1], 0).into()).expect("a socket");
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            let connection = incoming.await.expect("connects");
            let (mut send, mut recv) = connection.accept_bi().await.expect("opens");
            let mut frame = [0; FRAME];
            while recv.read_exact(&mut frame).await.is_ok() {
                send.write_all(&frame).await.expect("writes");
            }
        }
    });
    endpoint
}
