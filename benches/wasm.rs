//! What a message to a fresh WASM instance costs, beside wasmtime alone in the same run, and what the start of a process
//! agent costs, beside `posix_spawn`: `cargo bench --bench wasm`.
//!
//! The same component, on one thread, with 128 bytes of content. Alone: a store, an instance out of wasmtime's pool and
//! one call of `handle`, with the same engine settings. In the node: a message into the mailbox of an agent with an
//! instance for each message, until its answer. Rounds are interleaved, and what counts is the ratio.
//!
//! The same shell, with pipes. Alone: from its spawn, which is `posix_spawn` in the standard library, until its first
//! line. In the node: from the call that starts the agent until the report that it runs, with its keeper.
//!
//! Options: `--rounds N` (15); `--quick`, a tenth of the messages in two rounds; `--write`, which puts the tables into
//! `benches/RESULTS.md`.

#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

#[path = "shared/results.rs"]
mod results;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use shoal::core::contract::AgentReport;
use shoal::core::ids::{AgentName, NodeId};
use shoal::core::limits;
use shoal::core::model::{
    Address, AgentSource, AgentSpec, InstanceLife, Message, Performative, ProcessProtocol, WasmSource,
};
use shoal::node::clock;
use shoal::node::runtime::{Delivery, Runtime, RuntimeConfig};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use wasmtime::component::{Component, ComponentType, InstancePre, Lift, Linker, Lower};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};

const CONTENT: usize = 128;
const ROUNDS: usize = 15;
const MESSAGES_A_ROUND: usize = 2_000;
const STARTS_A_ROUND: usize = 20;
/// A process agent that is ready at once and reads on.
const SHELL: &str = "echo '{\"type\":\"ready\"}'; exec cat >/dev/null";

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let rounds = arguments.iter().position(|argument| argument == "--rounds");
    let rounds =
        rounds.and_then(|at| arguments.get(at + 1)).map(|rounds| rounds.parse().expect("--rounds N"));
    let part = if has("--quick") { 10 } else { 1 };
    let rounds = rounds.unwrap_or(if has("--quick") { 2 } else { ROUNDS });
    let (messages, starts) = (MESSAGES_A_ROUND / part, STARTS_A_ROUND / part);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/agents/wasm/tally.wat");
    let component = wat::parse_file(path).expect("the sample is a component");
    let executor = Builder::new_current_thread().enable_all().build().expect("an executor");
    let mut samples: [Vec<f64>; 5] = Default::default();
    executor.block_on(async {
        let alone = Alone::new(&component);
        let directory = tempfile::tempdir().expect("a directory");
        let mut node = InNode::start(directory.path(), &component).await;
        for _ in 0..rounds {
            for _ in 0..messages {
                let begun = Instant::now();
                alone.handle().await;
                samples[0].push(micros(begun.elapsed()));
            }
            for (agent, samples) in ["fresh", "kept"].iter().zip(&mut samples[1..]) {
                for _ in 0..messages {
                    let message = message(agent);
                    let begun = Instant::now();
                    node.ask(message).await;
                    samples.push(micros(begun.elapsed()));
                }
            }
            for _ in 0..starts {
                samples[3].push(micros(spawn_alone()));
                samples[4].push(micros(node.start_process().await));
            }
        }
    });
    let mut text = format!(
        "{rounds} rounds by turns. {CONTENT} bytes, one message in flight, {messages} a round; {starts} starts a round, one after \
         another. Times in microseconds.\n\n| | p50 | p99 | p50 beside the first | goal |\n|---|---|---|---|---|\n"
    );
    let rows = [
        ("wasmtime alone, fresh pooled instance", 0, ""),
        ("message, fresh instance", 0, "<= 2x"),
        ("message, long-lived instance", 0, ""),
        ("posix_spawn of a shell, until its first line", 3, ""),
        ("process agent of the same shell, until it runs", 3, "<= 1.1x"),
    ];
    let p50 = |row: usize| results::percentile(&samples[row], 0.5);
    for (row, (name, beside, goal)) in rows.into_iter().enumerate() {
        let p99 = results::shown(results::percentile(&samples[row], 0.99));
        let ratio = results::ratio(p50(row), p50(beside));
        text += &format!("| {name} | {} | {p99} | {ratio} | {goal} |\n", results::shown(p50(row)));
    }
    println!("{text}");
    if has("--write") {
        let machine = results::machine();
        let part = format!("## Starts (`cargo bench --bench wasm`)\n\n{machine}.\n\n{text}");
        results::write_part("wasm", &part).expect("benches/RESULTS.md can be written");
    }
}

/// A shell until its first line. Its end is not counted.
fn spawn_alone() -> Duration {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SHELL]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let begun = Instant::now();
    let mut child = command.spawn().expect("there is a shell");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("a line");
    let took = begun.elapsed();
    assert!(line.contains("ready"), "{line}");
    drop(child.stdin.take());
    child.wait().expect("it ends");
    took
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

// --- wasmtime alone ---

/// A message as `wit/agent.wit` has it.
#[derive(ComponentType, Lower)]
#[component(record)]
struct WitMessage<'a> {
    id: &'a str,
    sender: &'a str,
    receiver: &'a str,
    performative: &'a str,
    conversation: Option<&'a str>,
    #[component(name = "in-reply-to")]
    in_reply_to: Option<&'a str>,
    #[component(name = "content-type")]
    content_type: &'a str,
    content: &'a [u8],
    #[component(name = "wants-answer")]
    wants_answer: bool,
    #[component(name = "deadline-ms")]
    deadline_ms: u64,
}

/// A reply as `wit/agent.wit` has it.
#[derive(ComponentType, Lift)]
#[component(record)]
struct WitBody {
    #[component(name = "content-type")]
    content_type: String,
    content: Vec<u8>,
}

#[derive(ComponentType, Lift, Lower, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "the component chooses one")]
enum WitLevel {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

struct Alone {
    engine: Engine,
    pre: InstancePre<()>,
}

impl Alone {
    fn new(component: &[u8]) -> Self {
        let mut pool = PoolingAllocationConfig::new();
        pool.linear_memory_keep_resident(64 << 10).table_keep_resident(64 << 10).total_memories(100);
        let mut config = Config::new();
        config
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
            .consume_fuel(true)
            .epoch_interruption(true);
        let engine = Engine::new(&config).expect("an engine");
        let component = Component::from_binary(&engine, component).expect("compiles");
        let mut linker = Linker::<()>::new(&engine);
        let mut log = linker.instance("shoal:agent/log@0.1.0").expect("added once");
        log.func_wrap("log", |_, (_, _): (WitLevel, String)| Ok(())).expect("added once");
        Self { pre: linker.instantiate_pre(&component).expect("links"), engine }
    }

    async fn handle(&self) {
        let mut store = Store::new(&self.engine, ());
        store.set_fuel(limits::WASM_FUEL_DEFAULT).expect("there is fuel");
        store.set_epoch_deadline(1_000);
        let instance = self.pre.instantiate_async(&mut store).await.expect("an instance");
        let handle = instance
            .get_typed_func::<(WitMessage<'_>,), (Result<Option<WitBody>, String>,)>(&mut store, "handle")
            .expect("it is an agent");
        let message = WitMessage {
            id: "01a1fc5e-54e2-7a91-aea0-15afccd41a51",
            sender: "client@node-1",
            receiver: "fresh",
            performative: "request",
            conversation: None,
            in_reply_to: None,
            content_type: "application/octet-stream",
            content: &[7; CONTENT],
            wants_answer: true,
            deadline_ms: 5_000,
        };
        let (reply,) = handle.call_async(&mut store, (message,)).await.expect("it does not trap");
        let WitBody { content_type, content } = reply.expect("no error").expect("a reply");
        assert_eq!((content_type.as_str(), &content[..]), ("text/plain", &b"1"[..]));
    }
}

// --- in the node ---

struct InNode {
    runtime: Runtime,
    reports: mpsc::UnboundedReceiver<AgentReport>,
    /// The run of the process agent.
    run: u64,
}

impl InNode {
    async fn start(directory: &Path, component: &[u8]) -> Self {
        let config = RuntimeConfig {
            node: NodeId::new("node-1").expect("valid"),
            keeper: env!("CARGO_BIN_EXE_shoal").into(),
            directory: directory.to_owned(),
            modules: directory.join("modules"),
        };
        let (tell, mut reports) = mpsc::unbounded_channel();
        let runtime = Runtime::new(config, move |_, _, report| drop(tell.send(report)));
        let module = runtime.put_module(component.to_vec().into()).await.expect("a component");
        for (agent, instance) in [("fresh", InstanceLife::PerMessage), ("kept", InstanceLife::LongLived)] {
            let name = AgentName::new(agent).expect("valid");
            let source = AgentSource::Wasm(WasmSource { instance, ..WasmSource::new(module) });
            runtime.start(AgentSpec::new(name, source), 1);
            assert_eq!(reports.recv().await, Some(AgentReport::Running));
        }
        Self { runtime, reports, run: 0 }
    }

    /// The start of a process agent until it runs. Its end is not counted.
    async fn start_process(&mut self) -> Duration {
        self.run += 1;
        let name = AgentName::new("shell").expect("valid");
        let args = vec!["-c".to_owned(), SHELL.to_owned()];
        let command = "/bin/sh".to_owned();
        let source = AgentSource::Process { protocol: ProcessProtocol::Stdio, command, args };
        let spec = AgentSpec::new(name.clone(), source);
        let begun = Instant::now();
        self.runtime.start(spec, self.run);
        assert_eq!(self.reports.recv().await, Some(AgentReport::Running));
        let took = begun.elapsed();
        self.runtime.stop(&name, self.run, Duration::ZERO);
        assert_eq!(self.reports.recv().await, Some(AgentReport::Stopped));
        took
    }

    async fn ask(&self, message: Message) {
        let (tell, hear) = oneshot::channel();
        let agent = message.to.agent.clone();
        let finish = Box::new(move |outcome| drop(tell.send(outcome)));
        self.runtime.deliver(&agent, Delivery { message, wants_answer: true, finish });
        hear.await.expect("finished").expect("answered").expect("an answer");
    }
}

fn message(to: &str) -> Message {
    Message {
        id: clock::message_id(),
        from: "client@node-1".to_owned(),
        to: Address::parse(to).expect("valid"),
        performative: Performative::Request,
        conversation_id: None,
        in_reply_to: None,
        content_type: "application/octet-stream".to_owned(),
        content: vec![7; CONTENT].into(),
        deadline_ms: 5_000,
        traceparent: None,
        hops: 0,
        extensions: BTreeMap::new(),
    }
}
