//! WASM agents on a runtime of its own: what their components may do, what stops them, and what is left then.
//!
//! Needs clang and lld for `wasm32-wasi`, and says so when they are missing.

#![cfg(feature = "wasm")]

mod wasm;

use std::collections::{BTreeMap, VecDeque};
use std::future::ready;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal::core::contract::AgentReport;
use shoal::core::error::{Refusal, SendError};
use shoal::core::ids::{AgentName, ModuleId, NodeId};
use shoal::core::limits;
use shoal::core::model::{
    Actor, Address, AgentSource, AgentSpec, Answer, Breaker, Care, Clock, Dot, Grants, Guarantee,
    InstanceLife, Message, Mode, Performative, Target, WasmSource, Writer,
};
use shoal::core::wire::{ModulePart, SiblingValue, StateAnswer, StateRequest, StateValue};
use shoal::node::runtime::{Commons, Delivery, Draft, Outlet, Runtime, RuntimeConfig};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

type Later<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

// --- what surrounds the agents ---

/// Answers with the message's content, but for the agent `silent`, which never does.
#[derive(Default)]
struct Post {
    drafts: Mutex<Vec<Draft>>,
}

impl Outlet for Post {
    fn send(&self, draft: Draft) -> Later<(), SendError> {
        self.drafts.lock().expect("no panic").push(draft);
        Box::pin(ready(Ok(())))
    }

    fn ask(&self, draft: Draft) -> Later<Answer, SendError> {
        self.drafts.lock().expect("no panic").push(draft.clone());
        if draft.to == "silent" {
            return Box::pin(std::future::pending());
        }
        let Draft { to, content_type, content, .. } = draft;
        Box::pin(ready(Ok(Answer { from: format!("{to}@node-2"), content_type, content })))
    }
}

/// A state in memory, and peers with modules.
#[derive(Default)]
struct Mesh {
    keys: Mutex<BTreeMap<String, Bytes>>,
    peers: Vec<(&'static str, Vec<u8>)>,
}

fn dot() -> Dot {
    Dot { actor: Actor(Uuid::from_u128(7)), n: 1 }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "agents ask for no more than this")]
impl Commons for Mesh {
    fn state(&self, request: StateRequest) -> Later<StateAnswer, Refusal> {
        let mut keys = self.keys.lock().expect("no panic");
        let answer = match request {
            StateRequest::Get { key } => {
                let value = keys.get(&key).map(|value| SiblingValue {
                    value: value.clone(),
                    writer: Writer { node: NodeId::new("node-1").expect("valid"), slot: None },
                    written_ms: 0,
                    dot: dot(),
                });
                StateAnswer::Value(StateValue {
                    key,
                    value,
                    policy: "lww".to_owned(),
                    siblings: vec![],
                    context: Clock::default(),
                    mode: Mode::Healthy,
                    age_ms: None,
                })
            }
            StateRequest::PutBy { key, value: Some(value), .. } => {
                keys.insert(key, value);
                StateAnswer::Written { dot: dot(), is_sibling: false, marked: false, voters: 1 }
            }
            StateRequest::PutBy { key, value: None, .. } => match keys.remove(&key) {
                Some(_) => StateAnswer::Written { dot: dot(), is_sibling: false, marked: false, voters: 1 },
                None => StateAnswer::Absent,
            },
            other => panic!("an agent asks {other:?}"),
        };
        Box::pin(ready(Ok(answer)))
    }

    fn peers(&self) -> Vec<NodeId> {
        self.peers.iter().map(|(name, _)| NodeId::new(name).expect("valid")).collect()
    }

    fn module_part(&self, node: NodeId, module: ModuleId, offset: u64) -> Later<ModulePart, Refusal> {
        let (_, bytes) = self.peers.iter().find(|(name, _)| *name == node.as_str()).expect("a peer");
        if ModuleId::of(bytes) != module {
            return Box::pin(ready(Err(Refusal::NoAnswer {
                node,
                reason: "it does not have it".to_owned(),
            })));
        }
        let at = offset as usize;
        let part = bytes[at..(at + 1000).min(bytes.len())].to_vec();
        Box::pin(ready(Ok(ModulePart { total_bytes: bytes.len() as u64, bytes: part.into() })))
    }
}

/// A runtime, what it reports, and a directory for its modules.
struct Bench {
    runtime: Runtime,
    reports: mpsc::UnboundedReceiver<(AgentName, u64, AgentReport)>,
    stash: VecDeque<(AgentName, u64, AgentReport)>,
    post: Arc<Post>,
    mesh: Arc<Mesh>,
    directory: Arc<tempfile::TempDir>,
}

impl Bench {
    fn new() -> Self {
        Self::beside(Mesh::default())
    }

    fn beside(mesh: Mesh) -> Self {
        Self::at(Arc::new(tempfile::tempdir().expect("a temporary directory")), mesh)
    }

    fn at(directory: Arc<tempfile::TempDir>, mesh: Mesh) -> Self {
        let (tell, reports) = mpsc::unbounded_channel();
        let config = RuntimeConfig {
            node: NodeId::new("node-1").expect("valid"),
            keeper: "/none".into(),
            directory: directory.path().to_owned(),
            modules: directory.path().join("modules"),
        };
        let runtime = Runtime::new(config, move |agent, run, report| drop(tell.send((agent, run, report))));
        let (post, mesh) = (Arc::new(Post::default()), Arc::new(mesh));
        runtime.set_outlet(Arc::clone(&post) as _);
        runtime.set_commons(Arc::clone(&mesh) as _);
        Self { runtime, reports, stash: VecDeque::new(), post, mesh, directory }
    }

    async fn put(&self, module: &[u8]) -> ModuleId {
        self.runtime.put_module(Bytes::copy_from_slice(module)).await.expect("a good module")
    }

    async fn report(&mut self, agent: &str) -> AgentReport {
        let wanted = |(a, ..): &(AgentName, u64, AgentReport)| a.as_str() == agent;
        if let Some(index) = self.stash.iter().position(wanted) {
            return self.stash.remove(index).expect("it is there").2;
        }
        let next = async {
            loop {
                let report = self.reports.recv().await.expect("the runtime lives");
                if wanted(&report) {
                    return report.2;
                }
                self.stash.push_back(report);
            }
        };
        tokio::time::timeout(PATIENCE, next).await.unwrap_or_else(|_| panic!("no report of {agent}"))
    }

    async fn run(&mut self, agent: &str, source: WasmSource) {
        self.run_as(agent, spec(agent, source)).await;
    }

    async fn run_as(&mut self, agent: &str, spec: AgentSpec) {
        self.runtime.start(spec, 1);
        assert_eq!(self.report(agent).await, AgentReport::Running, "{agent}");
    }

    async fn fails_to_start(&mut self, agent: &str, source: WasmSource) -> String {
        self.runtime.start(spec(agent, source), 1);
        match self.report(agent).await {
            AgentReport::Ended { reason } => reason,
            other @ (AgentReport::Running
            | AgentReport::Stopped
            | AgentReport::Checked { .. }
            | AgentReport::Breaker(_)) => {
                panic!("{agent}: {other:?}")
            }
        }
    }

    fn logs(&self, agent: &str) -> Vec<String> {
        self.runtime.logs(&name(agent), usize::MAX).expect("the agent is known")
    }

    async fn ask(&self, agent: &str, content: &str) -> Result<String, SendError> {
        self.ask_within(agent, content, PATIENCE).await
    }

    async fn ask_within(&self, agent: &str, content: &str, within: Duration) -> Result<String, SendError> {
        let hear = deliver(&self.runtime, message(agent, content, within), true);
        let outcome = tokio::time::timeout(2 * PATIENCE, hear).await.expect("in time").expect("finished");
        let answer = outcome?.expect("an answer was wanted");
        Ok(String::from_utf8(answer.content.to_vec()).expect("text"))
    }

    /// Why the agent failed to answer.
    async fn failure(&self, agent: &str, content: &str) -> String {
        match self.ask(agent, content).await {
            Err(SendError::AgentFailed { reason, .. }) => reason,
            other => panic!("{agent} to {content:?}: {other:?}"),
        }
    }

    fn module_file(&self, module: &ModuleId) -> PathBuf {
        self.directory.path().join(format!("modules/{module}.wasm"))
    }
}

fn name(text: &str) -> AgentName {
    AgentName::new(text).expect("a valid name")
}

/// An agent that may fail as often as a test wants it to.
fn spec(agent: &str, source: WasmSource) -> AgentSpec {
    let care = Care { breaker: Some(Breaker { failures: 1_000, ..Breaker::default() }), ..Care::default() };
    AgentSpec { care, ..AgentSpec::new(name(agent), AgentSource::Wasm(source)) }
}

fn message(to: &str, content: &str, within: Duration) -> Message {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Message {
        id: Uuid::from_u64_pair(7, NEXT.fetch_add(1, Ordering::Relaxed)),
        from: "client@node-1".to_owned(),
        to: Address::parse(to).expect("a valid address"),
        performative: Performative::Request,
        conversation_id: None,
        in_reply_to: None,
        content_type: "text/plain".to_owned(),
        content: content.to_owned().into(),
        deadline_ms: u32::try_from(within.as_millis()).expect("a short deadline"),
        traceparent: None,
        hops: 3,
        extensions: BTreeMap::new(),
    }
}

type Outcome = Result<Option<Answer>, SendError>;

fn deliver(runtime: &Runtime, message: Message, wants_answer: bool) -> oneshot::Receiver<Outcome> {
    let (tell, hear) = oneshot::channel();
    let agent = message.to.agent.clone();
    let finish = Box::new(move |outcome| drop(tell.send(outcome)));
    runtime.deliver(&agent, Delivery { message, wants_answer, finish });
    hear
}

fn per_message(source: WasmSource) -> WasmSource {
    WasmSource { instance: InstanceLife::PerMessage, ..source }
}

// --- answering ---

#[tokio::test]
async fn a_component_from_the_text_format_answers_and_its_one_instance_keeps_its_memory() {
    let mut bench = Bench::new();
    let tally = bench.put(&wasm::tally()).await;
    bench.run("tally", WasmSource::new(tally)).await;
    for expected in ["1", "2", "3"] {
        assert_eq!(bench.ask("tally", "hello").await.expect("an answer"), expected);
    }
    // As large as a message may be, and again, so that the memory of the first is seen to be free.
    let large = "x".repeat(limits::CONTENT_BYTES_MAX);
    for expected in ["4", "5"] {
        assert_eq!(bench.ask("tally", &large).await.expect("an answer"), expected);
    }
    assert_eq!(bench.logs("tally"), ["info: the first message"]);

    bench.run("fresh", per_message(WasmSource::new(tally))).await;
    for _ in 0..3 {
        assert_eq!(bench.ask("fresh", "hello").await.expect("an answer"), "1");
    }
    assert_eq!(bench.runtime.stats(&name("fresh")).expect("known").requests, 3);
}

#[tokio::test]
async fn a_component_from_c_calls_each_function_of_its_node() {
    let mut bench = Bench::new();
    let module = bench.put(wasm::notes()).await;
    let grants =
        Grants { state: vec!["notes/".to_owned()], addresses: vec![Target::parse("upper").expect("valid")] };
    bench.run("notes", WasmSource { grants, ..WasmSource::new(module) }).await;
    for (command, answer) in [
        ("get notes/a", "there is none"),
        ("put notes/a two words", "done"),
        ("get notes/a", "two words"),
        ("delete notes/a", "done"),
        ("delete notes/a", "there is none"),
        ("put notes/b kept", "done"),
        ("ask upper a question", "a question"),
        ("tell upper some news", "sent"),
        ("promise upper more of it", "promised"),
    ] {
        assert_eq!(bench.ask("notes", command).await.expect("an answer"), answer, "{command}");
    }
    let keys = bench.mesh.keys.lock().expect("no panic").clone();
    assert_eq!(keys, BTreeMap::from([("notes/b".to_owned(), Bytes::from_static(b"kept"))]));
    let drafts = bench.post.drafts.lock().expect("no panic").clone();
    let sent: Vec<_> =
        drafts.iter().map(|d| (d.to.as_str(), &d.content[..], d.performative, d.hops, d.guarantee)).collect();
    assert_eq!(
        sent,
        [
            ("upper", &b"a question"[..], Performative::Request, 4, Guarantee::AtMostOnce),
            ("upper", &b"some news"[..], Performative::Inform, 4, Guarantee::AtMostOnce),
            ("upper", &b"more of it"[..], Performative::Inform, 4, Guarantee::AtLeastOnce),
        ]
    );
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let told: u128 = bench.ask("notes", "time").await.expect("an answer").parse().expect("a number");
    assert!(told.abs_diff(now.as_millis()) < PATIENCE.as_millis(), "{told} is not {now:?}");
    let dice: u8 = bench.ask("notes", "dice").await.expect("an answer").parse().expect("a number");
    assert!((1..=6).contains(&dice));
    assert!(bench.logs("notes").contains(&"info: tell upper some news".to_owned()));
}

#[tokio::test]
async fn what_is_not_granted_is_refused_and_reaches_nobody() {
    let mut bench = Bench::new();
    let module = bench.put(wasm::notes()).await;
    bench.run("nothing", WasmSource::new(module)).await;
    let grants = Grants {
        state: vec!["notes/".to_owned()],
        addresses: vec![Target::parse("upper@node-2").expect("valid")],
    };
    bench.run("some", WasmSource { grants, ..WasmSource::new(module) }).await;
    for (agent, command) in [
        ("nothing", "put notes/a x"),
        ("nothing", "get notes/a"),
        ("nothing", "delete notes/a"),
        ("nothing", "ask upper x"),
        ("nothing", "tell upper x"),
        ("some", "put other/notes/a x"),
        ("some", "get _mesh/notes/a"),
        ("some", "ask upper x"),
        ("some", "tell upper@node-3 x"),
    ] {
        let why = bench.failure(agent, command).await;
        assert!(why.starts_with("not_granted: "), "{agent}: {command}: {why}");
    }
    assert!(bench.mesh.keys.lock().expect("no panic").is_empty());
    assert!(bench.post.drafts.lock().expect("no panic").is_empty());
    assert_eq!(bench.ask("some", "ask upper@node-2 x").await.expect("granted"), "x");
}

// --- being stopped ---

#[tokio::test]
async fn an_instance_that_breaks_a_bound_is_stopped_with_its_reason_and_a_fresh_one_goes_on() {
    let mut bench = Bench::new();
    let module = bench.put(wasm::hostile()).await;
    let source = WasmSource { fuel: 100_000_000, memory_bytes: 8 << 20, ..WasmSource::new(module) };
    bench.run("hostile", source.clone()).await;
    bench.run("neighbour", source).await;
    assert_eq!(bench.ask("neighbour", "hello").await.expect("an answer"), "1");
    for (what, why) in [
        ("spin", "it used up its fuel"),
        ("grow", "and may have 8388608"),
        ("trap", "unreachable"),
        ("recurse", "call stack exhausted"),
        ("flood", "it called the host more than 100000 times"),
        ("random", "it asked for 65537 random bytes"),
    ] {
        assert_eq!(bench.ask("hostile", "hello").await.expect("an answer"), "1", "before {what}");
        assert_eq!(bench.ask("hostile", "hello").await.expect("an answer"), "2", "before {what}");
        let reason = bench.failure("hostile", what).await;
        assert!(reason.contains("it was stopped: ") && reason.contains(why), "{what}: {reason}");
        assert!(
            bench.logs("hostile").last().expect("a line").contains(why),
            "{what}: {:?}",
            bench.logs("hostile")
        );
    }
    assert_eq!(bench.ask("neighbour", "hello").await.expect("an answer"), "2", "it has noticed nothing");
    let stats = bench.runtime.stats(&name("hostile")).expect("known");
    assert_eq!((stats.requests, stats.errors, stats.waiting), (18, 6, 0));
}

#[tokio::test]
async fn fault_14_a_deadline_ends_what_computes_and_what_waits_and_another_agent_answers_meanwhile() {
    let mut bench = Bench::new();
    let module = bench.put(wasm::hostile()).await;
    let grants = Grants { addresses: vec![Target::parse("silent").expect("valid")], ..Grants::default() };
    let source = WasmSource { fuel: limits::WASM_FUEL_MAX, grants, ..WasmSource::new(module) };
    bench.run("hostile", source).await;
    bench.run("neighbour", WasmSource::new(module)).await;
    for what in ["spin", "wait"] {
        assert_eq!(bench.ask("hostile", "hello").await.expect("an answer"), "1", "before {what}");
        let asked = Instant::now();
        let within = Duration::from_millis(300);
        let (outcome, neighbour) =
            tokio::join!(bench.ask_within("hostile", what, within), bench.ask("neighbour", "hello"));
        assert_eq!(outcome, Err(SendError::DeadlineExceeded { deadline_ms: 300 }), "{what}");
        assert!(asked.elapsed() >= within && asked.elapsed() < PATIENCE, "{:?}", asked.elapsed());
        neighbour.expect("another agent answers meanwhile, on the same thread");
    }
    assert_eq!(bench.ask("hostile", "hello").await.expect("an answer"), "1", "a fresh instance");
}

#[tokio::test]
async fn a_message_that_nobody_waits_for_is_stopped_as_well_and_the_log_says_so() {
    let mut bench = Bench::new();
    let module = bench.put(wasm::hostile()).await;
    bench.run("hostile", WasmSource::new(module)).await;
    let hear = deliver(&bench.runtime, message("hostile", "trap", PATIENCE), false);
    assert_eq!(hear.await.expect("finished"), Ok(None), "it is in the mailbox");
    assert_eq!(bench.ask("hostile", "hello").await.expect("an answer"), "1");
    let logs = bench.logs("hostile");
    assert!(
        logs.iter().any(|line| line.contains("nobody waits") && line.contains("unreachable")),
        "{logs:?}"
    );
}

#[tokio::test]
async fn an_error_or_silence_is_told_and_the_instance_goes_on() {
    let mut bench = Bench::new();
    let module = bench.put(wasm::hostile()).await;
    bench.run("hostile", WasmSource::new(module)).await;
    assert_eq!(bench.failure("hostile", "fail").await, "it does not want to");
    assert_eq!(bench.failure("hostile", "silence").await, "it gave no answer");
    let too_large = bench.ask("hostile", "large").await;
    assert!(matches!(too_large, Err(SendError::ContentTooLarge { .. })), "{too_large:?}");
    assert_eq!(bench.ask("hostile", "hello").await.expect("an answer"), "4", "the same instance");
}

#[tokio::test]
async fn a_trap_opens_a_breaker_and_an_error_that_a_component_gives_does_not() {
    let mut bench = Bench::new();
    let module = bench.put(wasm::hostile()).await;
    let care = Care { breaker: Some(Breaker { failures: 1, open_ms: 3_600_000 }), ..Care::default() };
    let source = AgentSource::Wasm(WasmSource::new(module));
    bench.run_as("hostile", AgentSpec { care, ..AgentSpec::new(name("hostile"), source) }).await;
    for what in ["fail", "silence", "large"] {
        bench.ask("hostile", what).await.expect_err(what);
        bench.ask("hostile", "hello").await.expect("it works");
    }
    assert!(bench.failure("hostile", "trap").await.contains("unreachable"));
    let refused = bench.ask("hostile", "hello").await;
    assert!(matches!(refused, Err(SendError::BreakerOpen { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_agent_whose_instance_cannot_be_made_is_refused_at_its_deploy() {
    let mut bench = Bench::new();
    let module = bench.put(wasm::hostile()).await;
    let small = WasmSource { memory_bytes: 65_536, ..WasmSource::new(module) };
    let why = bench.fails_to_start("small", small).await;
    assert!(why.contains("its instance could not be made") && why.contains("and may have 65536"), "{why}");
    // Its start function never ends.
    let component = "(component
        (core module $m (func $f (loop $l (br $l))) (start $f)
            (memory (export \"memory\") 1)
            (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export \"handle\") (param i32) (result i32) unreachable))
        (core instance $i (instantiate $m))";
    let endless = bench.put(&wasm::text(&(component.to_owned() + HANDLE + ")"))).await;
    let source = WasmSource { fuel: 1_000_000, ..WasmSource::new(endless) };
    let why = bench.fails_to_start("endless", source).await;
    assert!(why.contains("its instance could not be made: it used up its fuel"), "{why}");
}

/// The export of a core instance `$i` as an agent's.
const HANDLE: &str = r#"
    (import "shoal:agent/types@0.1.0" (instance $types
        (type $message (record
            (field "id" string) (field "sender" string) (field "receiver" string)
            (field "performative" string) (field "conversation" (option string))
            (field "in-reply-to" (option string)) (field "content-type" string)
            (field "content" (list u8)) (field "wants-answer" bool) (field "deadline-ms" u64)))
        (export "message" (type (eq $message)))
        (type $body (record (field "content-type" string) (field "content" (list u8))))
        (export "body" (type (eq $body)))))
    (alias export $types "message" (type $message))
    (alias export $types "body" (type $body))
    (func (export "handle") (param "message" $message) (result (result (option $body) (error string)))
        (canon lift (core func $i "handle") (memory $i "memory") (realloc (func $i "realloc"))))"#;

#[tokio::test]
async fn a_module_that_is_no_agent_is_refused_with_what_is_wrong() {
    let bench = Bench::new();
    let handle_of_another_type = r#"(component
        (core module $m (func (export "handle")))
        (core instance $i (instantiate $m))
        (func (export "handle") (canon lift (core func $i "handle"))))"#;
    let another_log = r#"(component
        (import "shoal:agent/log@0.1.0" (instance (export "log" (func (param "text" string))))))"#;
    let tables = format!(
        "(component (core module $m {}) (core instance (instantiate $m)))",
        "(table 1 funcref)".repeat(9)
    );
    for (bytes, why) in [
        (b"#!/bin/sh\necho".to_vec(), "it does not begin as one"),
        (wasm::text("(module)"), "it is a core module"),
        ([&wasm::tally()[..200]].concat(), "not a component that can be compiled"),
        (
            wasm::text(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#),
            "WASI is not offered",
        ),
        (
            wasm::text(r#"(component (import "some:other/thing" (instance)))"#),
            "some:other/thing, which is not offered",
        ),
        (wasm::text(another_log), "its imports are not those"),
        (wasm::text("(component)"), "it does not export `handle`"),
        (wasm::text(handle_of_another_type), "it does not export `handle`"),
        (wasm::text(&tables), "not a component that can be compiled"),
        (vec![0; limits::MODULE_BYTES_MAX + 1], "the most is"),
    ] {
        let refused = bench.runtime.put_module(bytes.into()).await.expect_err(why);
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(bench.runtime.modules().await.expect("listed"), [], "none of them is kept");
}

// --- modules ---

#[tokio::test]
async fn a_module_that_is_damaged_on_disk_is_found_and_comes_anew_from_a_peer() {
    let tally = wasm::tally();
    let module = ModuleId::of(&tally);
    let directory = Arc::new(tempfile::tempdir().expect("a directory"));
    let bench = Bench::at(Arc::clone(&directory), Mesh::default());
    assert_eq!(bench.put(&tally).await, module);
    let file = bench.module_file(&module);
    let mut damaged = tally.clone();
    damaged[100] ^= 1;
    std::fs::write(&file, &damaged).expect("written");
    let mut alone = Bench::at(Arc::clone(&directory), Mesh::default());
    let why = alone.fails_to_start("tally", WasmSource::new(module)).await;
    assert!(why.contains("its file was damaged, and was removed") && why.contains("no other node"), "{why}");

    std::fs::write(&file, &damaged).expect("written");
    let peers = vec![("other", wasm::hostile().to_vec()), ("right", tally.clone())];
    let mut among = Bench::at(directory, Mesh { peers, ..Mesh::default() });
    among.run("tally", WasmSource::new(module)).await;
    assert_eq!(among.ask("tally", "hello").await.expect("an answer"), "1");
    assert_eq!(std::fs::read(&file).expect("there"), tally, "it is whole again");
}

#[tokio::test]
async fn a_module_is_kept_as_long_as_an_agent_uses_it() {
    let mut bench = Bench::new();
    let (tally, hostile) = (bench.put(&wasm::tally()).await, bench.put(wasm::hostile()).await);
    bench.run("tally", WasmSource::new(tally)).await;
    bench.runtime.collect_modules(Duration::ZERO).await;
    let left = |modules: Vec<_>| {
        modules
            .into_iter()
            .map(|(kept, used): (shoal::node::runtime::KeptModule, _)| (kept.module, used))
            .collect::<Vec<_>>()
    };
    assert_eq!(left(bench.runtime.modules().await.expect("listed")), [(tally, true)]);
    assert!(!bench.module_file(&hostile).exists());

    bench.runtime.stop(&name("tally"), 1, Duration::ZERO);
    assert_eq!(bench.report("tally").await, AgentReport::Stopped);
    bench.runtime.forget(&name("tally"));
    bench.runtime.collect_modules(Duration::ZERO).await;
    assert_eq!(left(bench.runtime.modules().await.expect("listed")), []);
}

// --- many ---

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_agents_of_one_component_share_a_thousand_instances() {
    let mut bench = Bench::new();
    let tally = bench.put(&wasm::tally()).await;
    let agents: Vec<_> = (0..limits::AGENTS_PER_NODE_MAX).map(|n| format!("tally-{n}")).collect();
    for agent in &agents {
        bench.runtime.start(spec(agent, WasmSource::new(tally)), 1);
    }
    for _ in &agents {
        let (agent, _, report) =
            tokio::time::timeout(PATIENCE, bench.reports.recv()).await.expect("in time").expect("it lives");
        assert_eq!(report, AgentReport::Running, "{agent}");
    }
    let asked = async |from: usize, count: usize, expected: &str| {
        let some = &agents[from..from + count];
        let hear: Vec<_> =
            some.iter().map(|agent| deliver(&bench.runtime, message(agent, "x", PATIENCE), true)).collect();
        for hear in hear {
            let answer = hear.await.expect("finished").expect("answered").expect("an answer");
            assert_eq!(&answer.content[..], expected.as_bytes());
        }
    };
    let places = limits::WASM_INSTANCES_MAX;
    asked(0, places, "1").await;
    asked(0, places, "2").await;
    // These push out those that have been idle for longest.
    asked(9_000, places, "1").await;
    asked(9_000, places, "2").await;
    asked(0, places, "1").await;
    asked(1_000, 8_000, "1").await;
}

#[tokio::test]
async fn an_agent_that_is_stopped_finishes_what_it_has() {
    let mut bench = Bench::new();
    let tally = bench.put(&wasm::tally()).await;
    bench.run("tally", WasmSource::new(tally)).await;
    let hear: Vec<_> =
        (0..50).map(|_| deliver(&bench.runtime, message("tally", "x", PATIENCE), true)).collect();
    bench.runtime.stop(&name("tally"), 1, PATIENCE);
    for (n, hear) in hear.into_iter().enumerate() {
        let answer = hear.await.expect("finished").expect("answered").expect("an answer");
        assert_eq!(answer.content, (n + 1).to_string());
    }
    assert_eq!(bench.report("tally").await, AgentReport::Stopped);
    assert!(matches!(bench.ask("tally", "x").await, Err(SendError::NotRunning { .. })));
}

/// The page that tells how to build the samples names what they are built with here.
#[test]
fn the_page_on_wasm_agents_shows_how_the_samples_are_built() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/wasm-agents.md");
    let page = std::fs::read_to_string(page).expect("there is a page");
    for part in ["--target=wasm32-wasi -mexec-model=reactor", "wit-bindgen c", "wasm-tools component new"] {
        assert!(page.contains(part), "the page lacks {part:?}");
    }
}
