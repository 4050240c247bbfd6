//! What a node does with more messages than it has ever had: `cargo bench --bench load -- [--write]`.
//!
//! The sender is a node in this process, the receiver a process of its own on this machine, with mutual TLS between them. The receiver
//! has 10,000 agents, half of them built in and half of one WASM component, and messages of 128 bytes go to those of one kind in turn:
//! 100,000 a second for a minute, and then 1,000 a second with a burst of 100,000 a second for ten seconds. Each message waits for its receipt, and is
//! counted by what that says. Beside them 100 messages a second are promised, to an agent of their own. What the agents say that they
//! have handled is held against what was taken in. Then a small agent is asked, by turns beside a component that computes without end
//! and without it: the 99th percentile must not double.
//!
//! Options: `--seconds N` (60), `--burst N` (10), `--rate N` (100,000), `--agents N` (10,000), `--rounds N` (15, of the neighbours);
//! `--write`, which puts the tables into `benches/RESULTS.md`. Without `--bench` it is short, to see that it works.

#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

#[path = "shared/results.rs"]
mod results;
#[path = "../tests/running/mod.rs"]
mod running;
#[path = "../tests/wasm/mod.rs"]
mod wasm;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use results::{percentile, ratio, shown};
use running::{LONG, Place, Running};
use serde_json::{Value, json};
use shoal::core::error::SendError;
use shoal::core::limits;
use shoal::core::model::{Address, Message, Performative};
use shoal::core::wire::{OutboxRequest, RequestBody};
use shoal::node::config::{Config, Flags};
use shoal::node::{Handle, Node, clock};
use tokio::runtime::Runtime;

const CONTENT: [u8; 128] = [7; 128];
/// How often the sender looks whether messages are due.
const TICK: Duration = Duration::from_millis(1);
/// Messages that are promised, a second.
const PROMISES: f64 = 100.0;
/// Longer than the last receipts take.
const DRAIN: Duration = Duration::from_secs(60);

/// How much is measured.
struct Size {
    seconds: f64,
    burst: f64,
    rate: f64,
    agents: usize,
    rounds: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let number = |flag: &str, usual: usize| {
        let at = arguments.iter().position(|argument| argument == flag);
        at.and_then(|at| arguments.get(at + 1)).map_or(usual, |text| text.parse().expect("a number"))
    };
    let usual = if has("--bench") { [60, 10, 100_000, 10_000, 15] } else { [2, 1, 2_000, 50, 2] };
    let size = Size {
        seconds: number("--seconds", usual[0]) as f64,
        burst: number("--burst", usual[1]) as f64,
        rate: number("--rate", usual[2]) as f64,
        agents: number("--agents", usual[3]),
        rounds: number("--rounds", usual[4]),
    };
    let executor = Runtime::new().expect("an executor");
    let mesh = Mesh::start(&executor, size.agents);
    let mut rows = Vec::new();
    for kind in ["native", "wasm"] {
        let calm = size.rate.min(1_000.0);
        let steady = [(size.seconds, size.rate)];
        let burst = [(size.burst, calm), (size.burst, size.rate), (size.burst, calm)];
        rows.push(mesh.load(
            &executor,
            &format!("{kind}, {} a second for {} s", size.rate, size.seconds),
            kind,
            &steady,
        ));
        rows.push(mesh.load(
            &executor,
            &format!("{kind}, {calm}, then {} a second for {} s", size.rate, size.burst),
            kind,
            &burst,
        ));
    }
    let text = [
        "## Load (`cargo bench --bench load`)".to_owned(),
        String::new(),
        format!("{}.", results::machine()),
        String::new(),
        format!(
            "128 bytes a message, to {} agents of each kind in turn, each with a receipt; the sender and its client in one process, the \
             receiver in another. Memory is resident MB: before, the most, and 10 s after.",
            mesh.agents
        ),
        String::new(),
        "| | offered | taken in | handled | lost | `overloaded` | too late | other | promised | not promised | of them lost | receipts/s | sender MB | receiver MB |".to_owned(),
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|".to_owned(),
        rows.join("\n"),
        String::new(),
        mesh.neighbours(&executor, size.rounds),
    ]
    .join("\n");
    println!("{text}");
    if has("--write") {
        results::write_part("load", &text).expect("benches/RESULTS.md can be written");
    }
}

/// The sender, and the receiver with its agents.
struct Mesh {
    sender: Handle,
    receiver: Running,
    agents: usize,
    _node: Node,
    _place: Place,
}

/// What came of the messages so far.
#[derive(Default)]
struct Outcomes {
    taken: AtomicU64,
    overloaded: AtomicU64,
    late: AtomicU64,
    other: AtomicU64,
    promised: AtomicU64,
    unpromised: AtomicU64,
}

impl Outcomes {
    fn note(&self, outcome: &Result<(), SendError>) {
        let counter = match outcome {
            Ok(()) => &self.taken,
            Err(error) => match error.code() {
                "overloaded" => &self.overloaded,
                "deadline_exceeded" => &self.late,
                _ => &self.other,
            },
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were promised, and how many it was refused to promise.
    fn promises(&self) -> [u64; 2] {
        [&self.promised, &self.unpromised].map(|counter| counter.load(Ordering::Relaxed))
    }

    fn counts(&self) -> [u64; 4] {
        [&self.taken, &self.overloaded, &self.late, &self.other]
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}

impl Mesh {
    fn start(executor: &Runtime, agents: usize) -> Self {
        let place = Place::new();
        let receiver = place.bootstrap("n2", &[]);
        let module = receiver.ask("POST", "/v1/modules", &[], &wasm::tally()).json()["module"].clone();
        let per_message =
            json!({"kind": "wasm", "module": module, "instance": "per-message", "memory_bytes": 1 << 20});
        // A few more come beside them.
        let agents = agents.min(limits::AGENTS_PER_NODE_MAX - 10) / 2;
        for (kind, source) in
            [("native", json!({"kind": "native", "builtin": "echo"})), ("wasm", per_message)]
        {
            deploy_all(&receiver, agents, |n| json!({"name": format!("{kind}-{n}"), "source": source}));
        }
        deploy_all(
            &receiver,
            1,
            |_| json!({"name": "promised-0", "source": {"kind": "native", "builtin": "echo"}}),
        );
        place.certify("n1");
        let address = receiver.get("/v1/cluster/members").json()[0]["address"].clone();
        let flags = Flags {
            node_id: Some("n1".to_owned()),
            bind_addr: Some("127.0.0.1:0".to_owned()),
            data_dir: Some(place.data_dir("n1")),
            join: vec![address.as_str().expect("an address").to_owned()],
            ..Flags::default()
        };
        let config = Config::load(&flags, &|_| None).expect("a good configuration");
        let node = executor.block_on(shoal::node::start(&config, env!("CARGO_BIN_EXE_shoal").into()));
        let node = node.expect("the node starts");
        let sender = node.handle().clone();
        until("the sender knows of all agents", || {
            let view = sender.view();
            view.agents.iter().filter(|agent| agent.record.state.as_str() == "running").count() > 2 * agents
        });
        Self { sender, receiver, agents, _node: node, _place: place }
    }

    /// Sends at these rates, each for its time; a row of what came of it.
    fn load(&self, executor: &Runtime, name: &str, kind: &str, phases: &[(f64, f64)]) -> String {
        let handled_before = self.handled(kind, self.agents);
        let promised_before = self.handled("promised", 1);
        let before = self.resident();
        let most = [AtomicU64::new(before[0]), AtomicU64::new(before[1])];
        let outcomes = Arc::new(Outcomes::default());
        let begun = Instant::now();
        let (offered, promises) = std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                executor.block_on(async {
                    let (mut offered, mut promises) = (0, 0);
                    for (seconds, rate) in phases {
                        let (some, promised) = self.offer(kind, *seconds, *rate, &outcomes).await;
                        offered += some;
                        promises += promised;
                    }
                    (offered, promises)
                })
            });
            while !sending.is_finished() {
                for (most, now) in most.iter().zip(self.resident()) {
                    most.fetch_max(now, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            sending.join().expect("it does not panic")
        });
        until("every message has its outcome", || outcomes.counts().iter().sum::<u64>() == offered);
        let took = begun.elapsed();
        until("every promise was given or refused", || outcomes.promises().iter().sum::<u64>() == promises);
        until("what was promised is delivered", || self.sender.view().outbox == 0);
        let [promised, unpromised] = outcomes.promises();
        let [taken, overloaded, late, other] = outcomes.counts();
        // What is in a mailbox is handled a moment later.
        let handled = || self.handled(kind, self.agents) - handled_before;
        until("the agents come to rest", || {
            let some = handled();
            std::thread::sleep(Duration::from_secs(1));
            some == handled()
        });
        let (handled, kept) = (handled(), self.handled("promised", 1) - promised_before);
        std::thread::sleep(Duration::from_secs(10));
        let after = self.resident();
        let memory = |n: usize| {
            let mb = |bytes: u64| shown(Some(bytes as f64 / 1e6));
            format!("{} / {} / {}", mb(before[n]), mb(most[n].load(Ordering::Relaxed)), mb(after[n]))
        };
        let row = format!(
            "| {name} | {offered} | {taken} | {handled} | {} | {overloaded} | {late} | {other} | {promised} | {unpromised} | {} | {} | {} | {} |",
            taken.saturating_sub(handled),
            promised.saturating_sub(kept),
            shown(Some(taken as f64 / took.as_secs_f64())),
            memory(0),
            memory(1)
        );
        println!("{row}");
        row
    }

    /// Sends at a steady rate, and promises some beside; how many were to be sent, and promised.
    async fn offer(&self, kind: &str, seconds: f64, rate: f64, outcomes: &Arc<Outcomes>) -> (u64, u64) {
        let to: Vec<_> =
            (0..self.agents).map(|n| Address::parse(&format!("{kind}-{n}")).expect("valid")).collect();
        let promised = Address::parse("promised-0").expect("valid");
        let (mut offered, mut promises) = (0_u64, 0_u64);
        let begun = tokio::time::Instant::now();
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let elapsed = begun.elapsed().as_secs_f64().min(seconds);
            while (offered as f64) < elapsed * rate {
                let message = message(to[offered as usize % to.len()].clone());
                let (sender, outcomes) = (self.sender.clone(), Arc::clone(outcomes));
                tokio::spawn(async move { outcomes.note(&sender.send(message).await) });
                offered += 1;
            }
            while (promises as f64) < elapsed * PROMISES {
                let messages = vec![message(promised.clone())];
                let accept = RequestBody::Outbox(OutboxRequest::Accept { messages, life_ms: 3_600_000 });
                let (sender, outcomes) = (self.sender.clone(), Arc::clone(outcomes));
                tokio::spawn(async move {
                    let is_taken = sender.request(sender.own().clone(), accept).await.is_ok();
                    let counter = if is_taken { &outcomes.promised } else { &outcomes.unpromised };
                    counter.fetch_add(1, Ordering::Relaxed);
                });
                promises += 1;
            }
            if elapsed >= seconds {
                return (offered, promises);
            }
        }
    }

    /// How many messages the agents of that kind have handled.
    fn handled(&self, kind: &str, count: usize) -> u64 {
        let sum = AtomicU64::new(0);
        for_each(count, |n| {
            let info = self.receiver.get(&format!("/v1/agents/{kind}-{n}")).json();
            sum.fetch_add(info["requests"].as_u64().expect("a number"), Ordering::Relaxed);
        });
        sum.into_inner()
    }

    /// Resident bytes of the sender and of the receiver.
    fn resident(&self) -> [u64; 2] {
        let status = std::fs::read_to_string("/proc/self/status").expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("told");
        let own = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10;
        [own, self.receiver.resident_bytes()]
    }

    /// Asks an agent beside one that computes, and beside none, by turns.
    fn neighbours(&self, executor: &Runtime, rounds: usize) -> String {
        let hostile = self.receiver.ask("POST", "/v1/modules", &[], wasm::hostile()).json()["module"].clone();
        let source = json!({"kind": "wasm", "module": hostile, "fuel": limits::WASM_FUEL_MAX});
        // It is stopped at each deadline on purpose.
        let patient = json!({"failures": 1_000, "open_ms": 1_000});
        deploy_all(
            &self.receiver,
            1,
            |n| json!({"name": format!("busy-{n}"), "source": source, "breaker": patient}),
        );
        let busy = Address::parse("busy-0").expect("valid");
        until("the sender knows of it", || {
            self.sender
                .view()
                .agents
                .iter()
                .any(|agent| agent.name.as_str() == "busy-0" && agent.record.state.as_str() == "running")
        });
        let mut samples: [Vec<f64>; 4] = Default::default();
        executor.block_on(async {
            for _ in 0..rounds {
                for (agent, samples) in ["native-0", "wasm-0"].iter().zip(samples.chunks_mut(2)) {
                    self.asks(agent, &mut samples[0]).await;
                    let spin = Message {
                        content: Bytes::from_static(b"spin"),
                        deadline_ms: 1_000,
                        ..message(busy.clone())
                    };
                    let sender = self.sender.clone();
                    let spinning = tokio::spawn(async move { sender.ask(spin).await });
                    while !spinning.is_finished() {
                        self.asks(agent, &mut samples[1]).await;
                    }
                }
            }
        });
        let mut text = format!(
            "An agent of the receiver that is asked, one message in flight, alone and beside a component that computes without end; {rounds} rounds by turns. Microseconds.\n\n\
             | | p50 | p99 | p99 beside alone | goal |\n|---|---|---|---|---|\n"
        );
        for (name, pair) in ["built-in", "component, fresh instance"].iter().zip(samples.chunks(2)) {
            let p99 = |which: usize| percentile(&pair[which], 0.99);
            for (which, how) in ["alone", "beside one that computes"].iter().enumerate() {
                let goal = if which == 1 { "< 2x" } else { "" };
                let (p50, beside) = (shown(percentile(&pair[which], 0.5)), ratio(p99(which), p99(0)));
                text += &format!("| {name}, {how} | {p50} | {} | {beside} | {goal} |\n", shown(p99(which)));
            }
        }
        text
    }

    /// Asks that agent a hundred times.
    async fn asks(&self, agent: &str, samples: &mut Vec<f64>) {
        let to = Address::parse(agent).expect("valid");
        for _ in 0..100 {
            let message = message(to.clone());
            let begun = Instant::now();
            self.sender.ask(message).await.expect("it answers");
            samples.push(begun.elapsed().as_secs_f64() * 1e6);
        }
    }
}

fn deploy_all(node: &Running, count: usize, spec: impl Fn(usize) -> Value + Sync) {
    for_each(count, |n| {
        let deployed = node.post("/v1/agents", &spec(n));
        assert_eq!(deployed.status, 201, "{deployed:?}");
    });
}

/// Does it for each number, by several threads.
fn for_each(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..32.min(count) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    work(n);
                }
            });
        }
    });
}

fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < DRAIN + LONG, "it never comes to that: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn message(to: Address) -> Message {
    Message {
        id: clock::message_id(),
        from: "client@n1".to_owned(),
        to,
        performative: Performative::Inform,
        conversation_id: None,
        in_reply_to: None,
        content_type: "application/octet-stream".to_owned(),
        content: Bytes::from_static(&CONTENT),
        deadline_ms: 30_000,
        traceparent: None,
        hops: 0,
        extensions: BTreeMap::new(),
    }
}
