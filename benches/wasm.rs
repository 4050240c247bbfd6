//! What a message to a fresh WASM instance costs, beside wasmtime alone in the same run: `cargo bench --bench wasm`.
//!
//! The same component, on one thread, with 128 bytes of content. Alone: a store, an instance out of wasmtime's pool and
//! one call of `handle`, with the same engine settings. In the node: a message into the mailbox of an agent with an
//! instance for each message, until its answer. Rounds are interleaved, and what counts is the ratio.

#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use shoal::core::contract::AgentReport;
use shoal::core::ids::{AgentName, NodeId};
use shoal::core::limits;
use shoal::core::model::{Address, AgentSource, AgentSpec, InstanceLife, Message, Performative, WasmSource};
use shoal::node::clock;
use shoal::node::runtime::{Delivery, Runtime, RuntimeConfig};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use wasmtime::component::{Component, ComponentType, InstancePre, Lift, Linker, Lower};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};

const CONTENT: usize = 128;
const ROUNDS: usize = 15;
const MESSAGES_A_ROUND: usize = 2_000;

fn main() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/agents/wasm/tally.wat");
    let component = wat::parse_file(path).expect("the sample is a component");
    let executor = Builder::new_current_thread().enable_all().build().expect("an executor");
    let names =
        ["wasmtime alone, fresh pooled instance", "message, fresh instance", "message, long-lived instance"];
    let mut samples: [Vec<Duration>; 3] = Default::default();
    executor.block_on(async {
        let alone = Alone::new(&component);
        let directory = tempfile::tempdir().expect("a directory");
        let node = InNode::start(directory.path(), &component).await;
        for _ in 0..ROUNDS {
            for _ in 0..MESSAGES_A_ROUND {
                let begun = Instant::now();
                alone.handle().await;
                samples[0].push(begun.elapsed());
            }
            for (agent, samples) in ["fresh", "kept"].iter().zip(&mut samples[1..]) {
                for _ in 0..MESSAGES_A_ROUND {
                    let message = message(agent);
                    let begun = Instant::now();
                    node.ask(message).await;
                    samples.push(begun.elapsed());
                }
            }
        }
    });
    let base = percentile(&mut samples[0], 0.5);
    println!("{CONTENT} B, one in flight, {ROUNDS} interleaved rounds of {MESSAGES_A_ROUND}");
    println!("{:<40} {:>9} {:>9} {:>9}", "", "p50", "p99", "p50/alone");
    for (name, samples) in names.iter().zip(&mut samples) {
        let (p50, p99) = (percentile(samples, 0.5), percentile(samples, 0.99));
        let ratio = p50.as_secs_f64() / base.as_secs_f64();
        println!("{name:<40} {:>6.1} us {:>6.1} us {ratio:>8.2}x", micros(p50), micros(p99));
    }
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

fn percentile(samples: &mut [Duration], p: f64) -> Duration {
    samples.sort();
    samples[((samples.len() - 1) as f64 * p) as usize]
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
}

impl InNode {
    async fn start(directory: &Path, component: &[u8]) -> Self {
        let config = RuntimeConfig {
            node: NodeId::new("node-1").expect("valid"),
            keeper: "/none".into(),
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
        Self { runtime }
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
