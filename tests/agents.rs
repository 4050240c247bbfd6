//! Agents as real processes: the runtime, the keeper and the examples, over real pipes and sockets.
//!
//! Needs `/bin/sh`, `python3` and `setsid`, and says so when one is missing.

#![cfg(target_os = "linux")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal::core::contract::AgentReport;
use shoal::core::error::SendError;
use shoal::core::ids::{AgentName, NodeId};
use shoal::core::limits;
use shoal::core::model::{
    Address, AgentSource, AgentSpec, Answer, Message, Performative, ProcessProtocol, Tally,
};
use shoal::node::runtime::{Delivery, Draft, Outlet, Runtime, RuntimeConfig};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// The binary, whose `keeper` subcommand the runtime needs.
const SHOAL: &str = env!("CARGO_BIN_EXE_shoal");
const NO_DRAIN: Duration = Duration::ZERO;
const LONG_DRAIN: Duration = Duration::from_secs(20);

/// A runtime, what it reports, and a directory for its agents.
struct Bench {
    runtime: Runtime,
    reports: Reports,
    /// Reports that were read while another was waited for.
    stash: VecDeque<(AgentName, u64, AgentReport)>,
    directory: tempfile::TempDir,
}

fn name(text: &str) -> AgentName {
    AgentName::new(text).expect("a valid name")
}

fn spec(agent: &str, protocol: ProcessProtocol, command: &str, args: &[&str]) -> AgentSpec {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    AgentSpec::new(name(agent), AgentSource::Process { protocol, command: command.to_owned(), args })
}

/// A stdio agent written in shell, inline.
fn shell(agent: &str, script: &str) -> AgentSpec {
    spec(agent, ProcessProtocol::Stdio, "/bin/sh", &["-c", script])
}

fn python(agent: &str, protocol: ProcessProtocol, script: &str) -> AgentSpec {
    spec(agent, protocol, "python3", &["-u", "-c", script])
}

fn example(agent: &str, protocol: ProcessProtocol, file: &str, args: &[&str]) -> AgentSpec {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/agents").join(file);
    spec(agent, protocol, path.to_str().expect("a path that is text"), args)
}

fn native(agent: &str) -> AgentSpec {
    AgentSpec::new(name(agent), AgentSource::Native { builtin: "echo".to_owned() })
}

/// Shell: answers every message that wants an answer with its content, which must not need escapes.
const SHELL_ECHO: &str = r#"
    echo '{"type":"ready"}'
    while read -r line; do
        case $line in *'"wants_answer":true'*) ;; *) continue ;; esac
        id=${line#*'"id":"'}; id=${id%%'"'*}
        content=${line#*'"content":"'}; content=${content%%'"'*}
        echo "{\"type\":\"reply\",\"to\":\"$id\",\"content\":\"$content\"}"
    done"#;

/// Shell: is ready, and never reads a line.
const SHELL_DEAF: &str = "echo '{\"type\":\"ready\"}'; exec sleep 1000";

/// Shell: is ready, reads everything and answers nothing.
const SHELL_MUTE: &str = "echo '{\"type\":\"ready\"}'; exec cat >/dev/null";

fn fresh_id() -> Uuid {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Uuid::from_u64_pair(7, NEXT.fetch_add(1, Ordering::Relaxed))
}

fn message(to: &str, content: impl Into<Bytes>, deadline: Duration) -> Message {
    Message {
        id: fresh_id(),
        from: "client@node-1".to_owned(),
        to: Address::parse(to).expect("a valid address"),
        performative: Performative::Request,
        conversation_id: Some("talk-7".to_owned()),
        in_reply_to: None,
        content_type: "text/plain".to_owned(),
        content: content.into(),
        deadline_ms: u32::try_from(deadline.as_millis()).expect("a short deadline"),
        traceparent: None,
        hops: 3,
        extensions: BTreeMap::new(),
    }
}

type Outcome = Result<Option<Answer>, SendError>;

/// Delivers a message; the receiver hears what becomes of it.
fn deliver(runtime: &Runtime, message: Message, wants_answer: bool) -> oneshot::Receiver<Outcome> {
    let (tell, hear) = oneshot::channel();
    let agent = message.to.agent.clone();
    let finish = Box::new(move |outcome| drop(tell.send(outcome)));
    runtime.deliver(&agent, Delivery { message, wants_answer, finish });
    hear
}

async fn outcome(hear: oneshot::Receiver<Outcome>) -> Outcome {
    tokio::time::timeout(PATIENCE, hear).await.expect("finish is called in time").expect("finish is called")
}

async fn ask(runtime: &Runtime, agent: &str, content: impl Into<Bytes>) -> Result<Answer, SendError> {
    let answer = outcome(deliver(runtime, message(agent, content, PATIENCE), true)).await?;
    Ok(answer.expect("an answer was wanted"))
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.content).expect("text")
}

type Reports = mpsc::UnboundedReceiver<(AgentName, u64, AgentReport)>;

/// A runtime whose agents work in `directory` under the keeper `keeper`, and what it reports.
fn runtime(directory: &Path, keeper: &str) -> (Runtime, Reports) {
    let (tell, reports) = mpsc::unbounded_channel();
    let node = NodeId::new("node-1").expect("valid");
    let modules = directory.join("modules");
    let config = RuntimeConfig { node, keeper: keeper.into(), directory: directory.to_owned(), modules };
    (Runtime::new(config, move |agent, run, report| drop(tell.send((agent, run, report)))), reports)
}

impl Bench {
    fn new() -> Self {
        Self::with_keeper(SHOAL)
    }

    fn with_keeper(keeper: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (runtime, reports) = runtime(directory.path(), keeper);
        Self { runtime, reports, stash: VecDeque::new(), directory }
    }

    /// The next report about that run.
    async fn report(&mut self, agent: &str, run: u64) -> AgentReport {
        let wanted = |(a, r, _): &(AgentName, u64, AgentReport)| a.as_str() == agent && *r == run;
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
        tokio::time::timeout(PATIENCE, next)
            .await
            .unwrap_or_else(|_| panic!("no report of {agent} run {run}"))
    }

    async fn run(&mut self, spec: AgentSpec) {
        let agent = spec.name.clone();
        self.runtime.start(spec, 1);
        assert_eq!(
            self.report(agent.as_str(), 1).await,
            AgentReport::Running,
            "{:?}",
            self.logs(agent.as_str())
        );
    }

    async fn ended(&mut self, agent: &str) -> String {
        match self.report(agent, 1).await {
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

    fn pid(&self, agent: &str) -> u32 {
        self.runtime.stats(&name(agent)).expect("known").pid.expect("it has a process")
    }

    /// Waits until the agent's log has a line with that text, and returns it.
    async fn log_line(&self, agent: &str, part: &str) -> String {
        let find = || self.logs(agent).into_iter().find(|line| line.contains(part));
        eventually(&format!("a log line with {part:?}"), find).await
    }
}

/// Waits for something that nothing announces.
async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process is there; one that is dead and not collected yet is not.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

async fn gone(pid: u32) {
    eventually(&format!("the end of process {pid}"), || (!is_alive(pid)).then_some(())).await;
}

fn number_after(line: &str, word: &str) -> u32 {
    let rest = line.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {line:?}")).1;
    rest.split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("no number: {line:?}"))
}

// --- answering ---

#[tokio::test]
async fn the_built_in_echo_answers_before_deliver_returns() {
    let mut bench = Bench::new();
    bench.run(native("echo")).await;
    let mut hear = deliver(&bench.runtime, message("echo", "hällo", PATIENCE), true);
    let answer = hear.try_recv().expect("answered already").expect("no error").expect("an answer");
    assert_eq!(
        (answer.from.as_str(), text(&answer), answer.content_type.as_str()),
        ("echo@node-1", "hällo", "text/plain")
    );
    assert_eq!(bench.runtime.stats(&name("echo")).expect("known").requests, 1);

    bench.runtime.stop(&name("echo"), 1, LONG_DRAIN);
    assert_eq!(bench.report("echo", 1).await, AgentReport::Stopped);
    assert!(matches!(ask(&bench.runtime, "echo", "x").await, Err(SendError::NotRunning { .. })));
    assert!(matches!(ask(&bench.runtime, "nobody", "x").await, Err(SendError::UnknownAgent { .. })));
}

#[tokio::test]
async fn an_agent_in_shell_answers_and_stops_when_its_stdin_closes() {
    let mut bench = Bench::new();
    bench.run(example("host", ProcessProtocol::Stdio, "host.sh", &[])).await;
    let answer =
        ask(&bench.runtime, "host", "\"wants_answer\":false,\"id\":\"forged\"").await.expect("an answer");
    assert!(text(&answer).contains(": load "), "{answer:?}");
    assert_eq!(answer.from, "host@node-1");
    bench.log_line("host", "host started on node-1").await;

    let pid = bench.pid("host");
    let asked = Instant::now();
    bench.runtime.stop(&name("host"), 1, LONG_DRAIN);
    assert_eq!(bench.report("host", 1).await, AgentReport::Stopped);
    assert!(asked.elapsed() < LONG_DRAIN / 2, "an idle agent has nothing to drain");
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn an_agent_in_python_answers_text_and_says_when_it_cannot() {
    let mut bench = Bench::new();
    bench.run(example("upper", ProcessProtocol::Stdio, "upper.py", &[])).await;
    let answer = ask(&bench.runtime, "upper", "straße\n\"zwei\" \u{1F41F}").await.expect("an answer");
    assert_eq!(text(&answer), "STRASSE\n\"ZWEI\" \u{1F41F}");
    let error = ask(&bench.runtime, "upper", vec![0xff, 0xfe]).await.expect_err("binary is refused");
    assert_eq!(
        error,
        SendError::AgentFailed { agent: name("upper"), reason: "only text can be put in upper case".into() }
    );
    let stats = bench.runtime.stats(&name("upper")).expect("known");
    assert_eq!((stats.requests, stats.errors, stats.waiting), (2, 1, 0));
    let tallies = bench.runtime.tallies(vec![name("upper"), name("nobody")]);
    assert_eq!(tallies, [(name("upper"), Tally { worked: 2, failed: 0 })].into(), "what it refuses is work");
}

#[tokio::test]
async fn the_sample_agent_in_the_binary_counts_words() {
    let mut bench = Bench::new();
    bench.run(spec("words", ProcessProtocol::Stdio, SHOAL, &["sample-agent", "wordcount"])).await;
    let answer = ask(&bench.runtime, "words", "one two\nthree").await.expect("an answer");
    assert_eq!(text(&answer), r#"{"lines":2,"words":3,"characters":13}"#);
    assert_eq!(answer.content_type, "application/json");
}

#[tokio::test]
async fn many_messages_are_outstanding_at_once_and_each_gets_its_own_answer() {
    let mut bench = Bench::new();
    // Collects a batch, then answers it backwards.
    let script = r#"
import json, sys
batch = []
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] != "message": continue
    batch.append(message)
    if len(batch) == 50:
        for message in reversed(batch):
            print(json.dumps({"type": "reply", "to": message["id"], "content": message["content"]}))
        batch = []
"#;
    bench.run(python("batch", ProcessProtocol::Stdio, script)).await;
    let hear: Vec<_> =
        (0..200).map(|n| deliver(&bench.runtime, message("batch", n.to_string(), PATIENCE), true)).collect();
    for (n, hear) in hear.into_iter().enumerate() {
        let answer = outcome(hear).await.expect("answered").expect("an answer");
        assert_eq!(text(&answer), n.to_string());
    }
}

#[tokio::test]
async fn the_largest_content_passes_both_ways_and_a_larger_reply_is_refused() {
    let mut bench = Bench::new();
    let script = r#"
import base64, json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] != "message": continue
    if "content" in message:
        print(json.dumps({"type": "reply", "to": message["id"], "content": "x" * int(message["content"])}))
    else:
        print(json.dumps({"type": "reply", "to": message["id"], "content_base64": message["content_base64"]}))
"#;
    bench.run(python("large", ProcessProtocol::Stdio, script)).await;
    let content = vec![0xff; limits::CONTENT_BYTES_MAX];
    let answer = ask(&bench.runtime, "large", content.clone()).await.expect("an answer");
    assert_eq!(answer.content, content);
    let error = ask(&bench.runtime, "large", (limits::CONTENT_BYTES_MAX + 1).to_string()).await;
    assert!(matches!(error, Err(SendError::ContentTooLarge { .. })), "{error:?}");
    assert_eq!(ask(&bench.runtime, "large", "3").await.expect("it still answers").content, "xxx");
}

#[tokio::test]
async fn a_message_that_wants_no_answer_is_finished_when_it_is_in_the_mailbox() {
    let mut bench = Bench::new();
    bench.run(shell("log", "echo '{\"type\":\"ready\"}'; exec cat >&2")).await;
    let mut hear = deliver(&bench.runtime, message("log", "a note", PATIENCE), false);
    assert_eq!(hear.try_recv().expect("finished already"), Ok(None));
    let line = bench.log_line("log", "a note").await;
    assert!(
        line.contains("\"wants_answer\":false") && line.contains("\"conversation_id\":\"talk-7\""),
        "{line}"
    );
}

#[tokio::test]
async fn an_http_agent_answers_and_sees_the_message_in_its_headers() {
    let mut bench = Bench::new();
    bench.run(example("reverse", ProcessProtocol::Http, "http_reverse.py", &[])).await;
    let answer = ask(&bench.runtime, "reverse", "straw").await.expect("an answer");
    assert_eq!((text(&answer), answer.content_type.as_str()), ("warts", "text/plain; charset=utf-8"));
    bench.log_line("reverse", "from client@node-1").await;
    let error = ask(&bench.runtime, "reverse", vec![0xff]).await.expect_err("415");
    assert!(error.to_string().contains("415") && error.to_string().contains("only text"), "{error}");
    let mut hear = deliver(&bench.runtime, message("reverse", "no answer wanted", PATIENCE), false);
    assert_eq!(hear.try_recv().expect("finished already"), Ok(None));
    bench.runtime.stop(&name("reverse"), 1, LONG_DRAIN);
    assert_eq!(bench.report("reverse", 1).await, AgentReport::Stopped);
}

/// An HTTP agent that answers by what it is told: too much, nothing, its headers, or with a broken connection.
const HTTP_ODD: &str = r#"
import json, os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Agent(BaseHTTPRequestHandler):
    def do_POST(self):
        what = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if what == "close": return self.connection.close()
        if what == "sleep": time.sleep(1000)
        self.send_response(204 if what == "nothing" else 200)
        self.end_headers()
        if what == "headers": self.wfile.write(json.dumps({k.lower(): v for k, v in self.headers.items()}).encode())
        if what == "endless":
            try:
                while True: self.wfile.write(b"x" * 65536)
            except OSError: print("cut off", flush=True)
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Agent).serve_forever()
"#;

#[tokio::test]
async fn an_http_agent_that_answers_oddly_harms_only_that_message() {
    let mut bench = Bench::new();
    bench.run(python("odd", ProcessProtocol::Http, HTTP_ODD)).await;
    let error = ask(&bench.runtime, "odd", "endless").await.expect_err("too much");
    assert!(error.to_string().contains("more than 1048576 bytes"), "{error}");
    bench.log_line("odd", "cut off").await;
    let error = ask(&bench.runtime, "odd", "close").await.expect_err("no response");
    assert!(error.to_string().contains("no valid HTTP response"), "{error}");
    let slow = deliver(&bench.runtime, message("odd", "sleep", Duration::from_millis(200)), true);
    assert_eq!(outcome(slow).await, Err(SendError::DeadlineExceeded { deadline_ms: 200 }));
    assert_eq!(ask(&bench.runtime, "odd", "nothing").await.expect("204 is an answer").content, "");

    let mut question = message("odd", "headers", PATIENCE);
    question.conversation_id = Some("a\r\nshoal-from: boss é".to_owned());
    question.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    let id = question.id.to_string();
    let answer =
        outcome(deliver(&bench.runtime, question, true)).await.expect("answered").expect("an answer");
    let headers: serde_json::Value = serde_json::from_slice(&answer.content).expect("JSON");
    assert_eq!(headers["shoal-message-id"], id);
    assert_eq!(headers["shoal-from"], "client@node-1");
    assert_eq!(headers["shoal-to"], "odd");
    assert_eq!(headers["shoal-performative"], "request");
    assert_eq!(headers["shoal-conversation"], "a\\r\\nshoal-from: boss \\u{e9}");
    assert_eq!(headers["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    assert_eq!(headers["content-type"], "text/plain");
    assert!(
        headers["shoal-deadline-ms"].as_str().expect("there").parse::<u64>().expect("a number") <= 30_000
    );
}

// --- sending ---

/// Remembers what was sent, and answers by the address.
#[derive(Default)]
struct FakeOutlet {
    drafts: Mutex<Vec<Draft>>,
}

type Promise<T> = Pin<Box<dyn Future<Output = Result<T, SendError>> + Send>>;

impl FakeOutlet {
    fn take(&self, draft: Draft) -> Result<Answer, SendError> {
        let to = draft.to.clone();
        let content = draft.content.clone();
        self.drafts.lock().expect("no panics").push(draft);
        match to.as_str() {
            "nobody" => Err(SendError::UnknownAgent { agent: name("nobody") }),
            _ => Ok(Answer { from: format!("{to}@node-2"), content_type: "text/x".to_owned(), content }),
        }
    }
}

impl Outlet for FakeOutlet {
    fn send(&self, draft: Draft) -> Promise<()> {
        let result = self.take(draft).map(drop);
        Box::pin(async { result })
    }
    fn ask(&self, draft: Draft) -> Promise<Answer> {
        let never = draft.to == "never";
        let result = self.take(draft);
        Box::pin(async move { if never { std::future::pending().await } else { result } })
    }
}

#[tokio::test]
async fn an_agent_asks_another_and_answers_with_what_it_hears() {
    let mut bench = Bench::new();
    let outlet = Arc::new(FakeOutlet::default());
    bench.runtime.set_outlet(outlet.clone());
    bench.run(example("relay", ProcessProtocol::Stdio, "relay.py", &["other"])).await;
    for content in [Bytes::from_static(b"text"), Bytes::from_static(&[0xff, 0x00])] {
        let answer = ask(&bench.runtime, "relay", content.clone()).await.expect("an answer");
        assert_eq!((answer.content, answer.content_type.as_str()), (content, "text/x"));
    }
    let drafts = outlet.drafts.lock().expect("no panics").clone();
    assert_eq!((drafts[0].from.as_str(), drafts[0].to.as_str()), ("relay", "other"));
    assert_eq!(drafts[0].hops, 4, "one more than the message that caused it");
    assert_eq!(drafts[0].performative, Performative::Request);
    assert!(drafts[0].in_reply_to.is_some() && drafts[0].deadline_ms.is_some());
}

#[tokio::test]
async fn what_an_agent_sends_and_cannot_be_sent_comes_back_to_it_as_an_error() {
    let mut bench = Bench::new();
    // Before there is an outlet, and after: a send and an ask each.
    bench.run(example("relay", ProcessProtocol::Stdio, "relay.py", &["nobody"])).await;
    let error = ask(&bench.runtime, "relay", "x").await.expect_err("no outlet yet");
    assert!(error.to_string().contains("does not carry messages yet"), "{error}");

    bench.runtime.set_outlet(Arc::new(FakeOutlet::default()));
    let error = ask(&bench.runtime, "relay", "x").await.expect_err("nobody is unknown");
    assert!(error.to_string().contains("nobody: no agent named nobody runs"), "{error}");
    let hear = deliver(&bench.runtime, message("relay", "x", PATIENCE), false);
    assert_eq!(outcome(hear).await, Ok(None));
    bench.log_line("relay", "warn: nobody: no agent named nobody runs").await;
}

#[tokio::test]
async fn an_agent_that_floods_the_mesh_is_told_to_slow_down_and_goes_on() {
    let mut bench = Bench::new();
    let outlet = Arc::new(FakeOutlet::default());
    bench.runtime.set_outlet(outlet.clone());
    // More asks than may be under way and more refusals than are kept, before it reads a single line.
    let script = r#"
import json, sys
for n in range(300):
    print(json.dumps({"type": "ask", "id": str(n), "to": "never", "content": ""}))
codes = {}
for line in sys.stdin:
    line = json.loads(line)
    if line["type"] == "error":
        codes[line["code"]] = codes.get(line["code"], 0) + 1
    if line["type"] == "message":
        print(json.dumps({"type": "reply", "to": line["id"], "content": json.dumps(codes)}))
"#;
    bench.run(python("flood", ProcessProtocol::Stdio, script)).await;
    let counted = async {
        loop {
            let answer = ask(&bench.runtime, "flood", "codes?").await.expect("it still answers");
            if text(&answer).contains("overloaded") {
                return text(&answer).to_owned();
            }
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("it is told");
    assert_eq!(outlet.drafts.lock().expect("no panics").len(), limits::AGENT_SENDS_IN_FLIGHT_MAX);
}

// --- breaking the protocol ---

#[tokio::test]
async fn a_line_that_is_not_understood_is_logged_harmlessly_and_ignored() {
    let mut bench = Bench::new();
    let script = format!("printf 'hello \\033[2J%0300d\\n' 0; {SHELL_ECHO}");
    bench.run(shell("chatty", &script)).await;
    assert_eq!(text(&ask(&bench.runtime, "chatty", "still here").await.expect("an answer")), "still here");
    let line = bench.log_line("chatty", "protocol: ").await;
    assert!(line.contains("hello \\u{1b}[2J000") && line.len() < 400, "{line}");
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_is_logged_and_ignored() {
    let mut bench = Bench::new();
    let id = fresh_id();
    let script = format!("echo '{{\"type\":\"reply\",\"to\":\"{id}\",\"content\":\"\"}}'; {SHELL_ECHO}");
    bench.run(shell("confused", &script)).await;
    bench.log_line("confused", &format!("nobody waits for an answer to {id}")).await;
    assert_eq!(text(&ask(&bench.runtime, "confused", "x").await.expect("an answer")), "x");
}

#[tokio::test]
async fn an_agent_that_writes_only_garbage_is_ended_with_that_reason() {
    let mut bench = Bench::new();
    bench.runtime.start(shell("garbage", "exec yes garbage"), 1);
    let reason = bench.ended("garbage").await;
    assert!(reason.contains("100 lines in a row that are not of the protocol"), "{reason}");
}

#[tokio::test]
async fn an_agent_that_writes_a_line_without_end_is_ended_with_that_reason() {
    let mut bench = Bench::new();
    bench.runtime.start(shell("endless", "exec tr '\\0' x </dev/zero"), 1);
    let reason = bench.ended("endless").await;
    assert!(reason.contains("a line of more than 6356992 bytes"), "{reason}");
}

#[tokio::test]
async fn an_agent_that_closes_its_stdout_is_ended_because_it_cannot_answer() {
    let mut bench = Bench::new();
    bench.run(shell("silent", "echo '{\"type\":\"ready\"}'; exec sleep 1000 >&-")).await;
    let reason = bench.ended("silent").await;
    assert!(reason.contains("it closed its stdout"), "{reason}");
}

#[tokio::test]
async fn fault_15_an_agent_that_fills_stderr_keeps_answering_and_its_log_stays_bounded() {
    let mut bench = Bench::new();
    let script =
        format!("(while :; do head -c 100000 /dev/zero | tr '\\0' e; echo; done) >&2 & {SHELL_ECHO}");
    bench.run(shell("noisy", &script)).await;
    eventually("a full log", || (bench.logs("noisy").len() > 50).then_some(())).await;
    for n in 0..20 {
        assert_eq!(
            text(&ask(&bench.runtime, "noisy", n.to_string()).await.expect("an answer")),
            n.to_string()
        );
    }
    let logs = bench.logs("noisy");
    assert!(logs.iter().map(String::len).sum::<usize>() <= limits::AGENT_LOG_BYTES_MAX);
    assert!(logs.iter().all(|line| line.len() <= limits::AGENT_LOG_LINE_BYTES_MAX + 16));
}

// --- starting ---

#[tokio::test]
async fn an_agent_that_dies_at_once_never_runs_and_its_last_words_are_told() {
    let mut bench = Bench::new();
    bench.runtime.start(shell("dying", "echo 'no \u{1b}[1mconfiguration' >&2; exit 3"), 1);
    let reason = bench.ended("dying").await;
    assert!(reason.contains("exit status 3 before it was ready"), "{reason}");
    assert!(reason.contains("its log ends with: no \\u{1b}[1mconfiguration"), "{reason}");
    assert_eq!(bench.logs("dying"), ["no \\u{1b}[1mconfiguration"], "the log outlives the run");

    bench.runtime.start(shell("killed", "kill -SEGV $$"), 1);
    assert!(bench.ended("killed").await.contains("SIGSEGV (signal 11)"));
}

#[tokio::test]
async fn what_cannot_be_started_is_told_in_a_sentence() {
    let mut bench = Bench::new();
    let script = bench.directory.path().join("script");
    std::fs::write(&script, "echo no interpreter line").expect("written");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("made executable");
    let script = script.to_str().expect("text");
    for (n, (command, why)) in [
        ("/no/such/program", "there is no file"),
        ("no-such-program", "no executable \"no-such-program\" in the node's PATH"),
        ("./relative", "relative path"),
        ("/tmp", "is a directory"),
        ("/etc/passwd", "not executable"),
        (script, "a script needs `#!`"),
    ]
    .into_iter()
    .enumerate()
    {
        let agent = format!("agent-{n}");
        bench.runtime.start(spec(&agent, ProcessProtocol::Stdio, command, &[]), 1);
        let reason = bench.ended(&agent).await;
        assert!(reason.contains(why), "{command}: {reason}");
    }
    bench
        .runtime
        .start(AgentSpec { source: AgentSource::Native { builtin: "oracle".into() }, ..native("o") }, 1);
    assert!(bench.ended("o").await.contains("no built-in agent"));
    assert_eq!(bench.runtime.count(), 0);
}

#[tokio::test]
async fn a_node_that_cannot_start_a_process_says_so() {
    let mut bench = Bench::with_keeper("/no/such/shoal");
    bench.runtime.start(shell("a", SHELL_ECHO), 1);
    let reason = bench.ended("a").await;
    assert!(reason.contains("its keeper \"/no/such/shoal\" could not be started"), "{reason}");
}

#[tokio::test]
async fn an_http_agent_that_does_not_listen_fails_to_start() {
    let mut bench = Bench::new();
    bench.runtime.start(spec("deaf", ProcessProtocol::Http, "sleep", &["1000"]), 1);
    let reason = bench.ended("deaf").await;
    assert!(reason.contains("did not accept a connection at the port in PORT within 10 s"), "{reason}");
}

#[tokio::test]
async fn a_second_run_needs_the_end_of_the_first_and_keeps_its_log_and_counters() {
    let mut bench = Bench::new();
    bench.run(shell("a", &format!("echo first >&2; {SHELL_ECHO}"))).await;
    assert!(ask(&bench.runtime, "a", "x").await.is_ok());
    bench.runtime.start(shell("a", SHELL_ECHO), 2);
    let AgentReport::Ended { reason } = bench.report("a", 2).await else { panic!("the second run started") };
    assert!(reason.contains("earlier run"), "{reason}");

    bench.runtime.stop(&name("a"), 1, LONG_DRAIN);
    assert_eq!(bench.report("a", 1).await, AgentReport::Stopped);
    bench.runtime.start(shell("a", SHELL_ECHO), 3);
    assert_eq!(bench.report("a", 3).await, AgentReport::Running);
    assert!(ask(&bench.runtime, "a", "y").await.is_ok());
    assert_eq!(bench.logs("a"), ["first"]);
    assert_eq!(bench.runtime.stats(&name("a")).expect("known").requests, 2);

    bench.runtime.stop(&name("a"), 1, NO_DRAIN);
    assert_eq!(bench.report("a", 1).await, AgentReport::Stopped, "an outdated stop ends nothing");
    assert!(ask(&bench.runtime, "a", "z").await.is_ok());
    bench.runtime.forget(&name("a"));
    assert!(bench.runtime.logs(&name("a"), 1).is_some(), "a live agent is not forgotten");
    bench.runtime.stop(&name("a"), 3, NO_DRAIN);
    assert_eq!(bench.report("a", 3).await, AgentReport::Stopped);
    bench.runtime.forget(&name("a"));
    assert!(bench.runtime.logs(&name("a"), 1).is_none());
}

// --- bounds ---

#[tokio::test]
async fn a_full_mailbox_refuses_as_overloaded_and_others_do_not_notice() {
    let mut bench = Bench::new();
    bench.run(shell("deaf", SHELL_DEAF)).await;
    bench.run(shell("well", SHELL_ECHO)).await;
    let mut waiting = Vec::new();
    let overloaded = loop {
        let mut hear = deliver(&bench.runtime, message("deaf", vec![b'x'; 1000], PATIENCE), true);
        match hear.try_recv() {
            Ok(outcome) => break outcome,
            Err(_) => waiting.push(hear),
        }
        assert!(waiting.len() <= limits::MAILBOX_MESSAGES_MAX + limits::AGENT_WINDOW_MAX, "no bound");
    };
    assert!(matches!(overloaded, Err(SendError::Overloaded { .. })), "{overloaded:?}");
    assert!(waiting.len() >= limits::MAILBOX_MESSAGES_MAX);
    assert_eq!(text(&ask(&bench.runtime, "well", "x").await.expect("an answer")), "x");

    bench.runtime.stop(&name("deaf"), 1, NO_DRAIN);
    assert_eq!(bench.report("deaf", 1).await, AgentReport::Stopped);
    let (mut given, mut kept, mut all) = (0, 0, 0);
    for hear in waiting {
        let error = outcome(hear).await.expect_err("it never answered");
        given += usize::from(matches!(error, SendError::AgentFailed { .. }));
        kept += usize::from(matches!(error, SendError::NotRunning { .. }));
        all += 1;
    }
    assert_eq!(given + kept, all);
    assert!(given <= limits::AGENT_WINDOW_MAX && kept > 0, "{given} {kept}");
}

#[tokio::test]
async fn a_message_whose_deadline_passes_is_over_whether_it_waits_or_was_given() {
    let mut bench = Bench::new();
    bench.run(shell("mute", SHELL_MUTE)).await;
    let hear: Vec<_> = (0..100)
        .map(|_| deliver(&bench.runtime, message("mute", "x", Duration::from_millis(300)), true))
        .collect();
    for hear in hear {
        assert_eq!(outcome(hear).await, Err(SendError::DeadlineExceeded { deadline_ms: 300 }));
    }
    assert_eq!(bench.runtime.stats(&name("mute")).expect("known").waiting, 0);
}

#[tokio::test]
async fn what_an_agent_was_given_fails_when_it_ends() {
    let mut bench = Bench::new();
    let script =
        "echo '{\"type\":\"ready\"}'; read -r hello; read -r message; echo 'cannot go on' >&2; exit 7";
    bench.run(shell("dying", script)).await;
    let error = ask(&bench.runtime, "dying", "x").await.expect_err("it ended");
    assert!(
        matches!(&error, SendError::AgentFailed { reason, .. } if reason.contains("exit status 7")),
        "{error}"
    );
    let reason = bench.ended("dying").await;
    assert!(reason.contains("exit status 7; its log ends with: cannot go on"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_agents_one_that_floods_delays_none_of_the_others() {
    let mut bench = Bench::new();
    let flood = r#"yes '{"type":"log","text":"all work and no play"}' & yes 'noise on stderr' >&2 & "#;
    bench.run(shell("flood", &format!("{flood} {SHELL_ECHO}"))).await;
    for n in 1..10 {
        bench.run(shell(&format!("agent-{n}"), SHELL_ECHO)).await;
    }
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        for n in 1..10 {
            let asked = Instant::now();
            let answer =
                ask(&bench.runtime, &format!("agent-{n}"), round.to_string()).await.expect("an answer");
            assert_eq!(text(&answer), round.to_string());
            slowest = slowest.max(asked.elapsed());
        }
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    bench.runtime.stop_all(NO_DRAIN).await;
    assert_eq!(bench.runtime.count(), 0);
}

// --- confinement ---

#[tokio::test]
async fn an_agent_sees_a_clean_environment_no_foreign_descriptor_and_cannot_gain_rights() {
    let mut bench = Bench::new();
    // What a careless parent of the node leaves open: a descriptor that survives exec.
    let careless = std::fs::File::open("/etc/passwd").expect("every machine has it");
    rustix::io::fcntl_setfd(careless.as_fd(), rustix::io::FdFlags::empty()).expect("a valid descriptor");
    bench.run(spec("look", ProcessProtocol::Stdio, "sleep", &["1000"])).await;
    let process = Path::new("/proc").join(bench.pid("look").to_string());
    let read = |file: &str| std::fs::read_to_string(process.join(file)).expect("the agent lives");

    let environ = read("environ");
    let variables: BTreeMap<_, _> =
        environ.split_terminator('\0').map(|pair| pair.split_once('=').expect("a pair")).collect();
    let allowed = ["HOME", "LANG", "PATH", "SHOAL_AGENT", "SHOAL_NODE", "TMPDIR"];
    let foreign: Vec<_> = variables.keys().filter(|variable| !allowed.contains(variable)).collect();
    assert!(foreign.is_empty(), "{foreign:?} reached the agent");
    assert_eq!((variables["SHOAL_AGENT"], variables["SHOAL_NODE"]), ("look", "node-1"));

    let open = std::fs::read_dir(process.join("fd")).expect("the agent lives");
    let mut open: Vec<_> = open.map(|entry| entry.expect("an entry").file_name()).collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"]);

    let status = read("status");
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    let table = read("limits");
    let limit = |name: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(name)).expect("a known limit");
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max open files"), ["1024", "1024"]);

    let stat = read("stat");
    let fields: Vec<_> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let [keeper, group, session, terminal] = [fields[1], fields[2], fields[3], fields[4]];
    assert_eq!(group, bench.pid("look").to_string(), "a group of its own");
    assert_eq!((session, terminal), (keeper, "0"), "a session without a terminal");
    let directory = bench.directory.path().canonicalize().expect("it exists");
    assert_eq!(process.join("cwd").read_link().expect("the agent lives"), directory);
    drop(careless);
}

// --- ending ---

#[tokio::test]
async fn a_stopping_agent_finishes_what_it_has_and_takes_nothing_new() {
    let mut bench = Bench::new();
    let gate = bench.directory.path().join("gate");
    let script = format!("while [ ! -e gate ]; do sleep 0.01; done; {SHELL_ECHO}");
    bench.run(shell("slow", &script)).await;
    let hear: Vec<_> =
        (0..5).map(|n| deliver(&bench.runtime, message("slow", n.to_string(), PATIENCE), true)).collect();
    bench.runtime.stop(&name("slow"), 1, LONG_DRAIN);
    let refused = eventually("the draining phase", || {
        deliver(&bench.runtime, message("slow", "late", PATIENCE), true).try_recv().ok()
    });
    let refused = refused.await.expect_err("refused");
    assert!(matches!(&refused, SendError::NotRunning { state, .. } if state == "draining"), "{refused}");
    std::fs::write(gate, "").expect("opened");
    for (n, hear) in hear.into_iter().enumerate() {
        assert_eq!(text(&outcome(hear).await.expect("answered").expect("an answer")), n.to_string());
    }
    assert_eq!(bench.report("slow", 1).await, AgentReport::Stopped);
}

#[tokio::test]
async fn a_stopping_agent_hears_the_end_of_its_stdin_before_any_signal() {
    let mut bench = Bench::new();
    bench.run(shell("polite", &format!("{SHELL_ECHO}\necho 'good bye' >&2"))).await;
    bench.runtime.stop(&name("polite"), 1, LONG_DRAIN);
    assert_eq!(bench.report("polite", 1).await, AgentReport::Stopped);
    assert_eq!(bench.logs("polite"), ["good bye"]);
}

#[tokio::test]
async fn an_answer_that_an_agent_writes_just_before_its_end_counts() {
    let mut bench = Bench::new();
    bench.run(shell("once", &SHELL_ECHO.replace("done", "exit 0; done"))).await;
    assert_eq!(text(&ask(&bench.runtime, "once", "last words").await.expect("an answer")), "last words");
    assert!(bench.ended("once").await.contains("exit status 0"));
}

#[tokio::test]
async fn an_agent_that_ignores_sigterm_is_killed_with_everything_it_started() {
    let mut bench = Bench::new();
    let script = r#"
        trap '' TERM HUP INT
        sleep 1000 & echo "child $!" >&2
        setsid sh -c 'echo "escaped $$" >&2; exec sleep 1000' &
        echo '{"type":"ready"}'
        while :; do sleep 1000; done"#;
    bench.run(shell("stubborn", script)).await;
    let agent = bench.pid("stubborn");
    let child = number_after(&bench.log_line("stubborn", "child").await, "child ");
    let escaped = number_after(&bench.log_line("stubborn", "escaped").await, "escaped ");
    for pid in [agent, child, escaped] {
        assert!(is_alive(pid));
    }
    bench.runtime.stop(&name("stubborn"), 1, NO_DRAIN);
    assert_eq!(bench.report("stubborn", 1).await, AgentReport::Stopped);
    for pid in [agent, child, escaped] {
        gone(pid).await;
    }
}

#[tokio::test]
async fn what_an_agent_leaves_behind_is_killed_when_it_ends() {
    let mut bench = Bench::new();
    let script = r#"
        sleep 1000 & echo "child $!" >&2
        setsid sh -c 'echo "escaped $$" >&2; exec sleep 1000' &
        echo '{"type":"ready"}'
        read -r hello; read -r message; exit 0"#;
    bench.run(shell("leaving", script)).await;
    let child = number_after(&bench.log_line("leaving", "child").await, "child ");
    let escaped = number_after(&bench.log_line("leaving", "escaped").await, "escaped ");
    let last = deliver(&bench.runtime, message("leaving", "go", PATIENCE), true);
    assert!(bench.ended("leaving").await.contains("exit status 0"));
    assert!(outcome(last).await.is_err());
    gone(child).await;
    gone(escaped).await;
}

#[tokio::test]
async fn an_agent_dies_with_its_keeper() {
    let mut bench = Bench::new();
    bench.run(shell("orphan", &format!("sleep 1000 & echo \"child $!\" >&2; {SHELL_ECHO}"))).await;
    let agent = bench.pid("orphan");
    let child = number_after(&bench.log_line("orphan", "child").await, "child ");
    let stat = std::fs::read_to_string(format!("/proc/{agent}/stat")).expect("alive");
    let keeper =
        stat.rsplit_once(')').expect("a name").1.split_whitespace().nth(1).expect("a parent").to_owned();
    assert!(Command::new("kill").args(["-KILL", &keeper]).status().expect("kill is there").success());
    let reason = bench.ended("orphan").await;
    assert!(reason.contains("its keeper was killed"), "{reason}");
    gone(agent).await;
    gone(child).await;
}

#[tokio::test]
async fn nobody_is_left_waiting_and_no_agent_left_running_when_the_runtime_goes_away() {
    let mut bench = Bench::new();
    let elsewhere = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let elsewhere = elsewhere.expect("threads are there");
    (bench.runtime, bench.reports) = {
        let _entered = elsewhere.enter();
        runtime(bench.directory.path(), SHOAL)
    };
    bench.run(shell("a", SHELL_MUTE)).await;
    let agent = bench.pid("a");
    let hear = deliver(&bench.runtime, message("a", "x", PATIENCE), true);
    elsewhere.shutdown_background();
    let error = outcome(hear).await.expect_err("it was never answered");
    // Whether it was given to the agent before the end is chance.
    assert!(matches!(error, SendError::AgentFailed { .. } | SendError::NotRunning { .. }), "{error}");
    gone(agent).await;
}

// --- the keeper on its own ---

/// A node in Python: starts a keeper for an agent that starts a child, tells both their processes, and lives on.
const STAND_IN_NODE: &str = r#"
import socket, subprocess, sys, threading, time
shoal, silence, beats = sys.argv[1:]
ours, theirs = socket.socketpair()
ours.sendall(b"N")
script = 'sleep 1000 & echo "child $!"; setsid sh -c \'echo "escaped $$"; exec sleep 1000\' & exec sleep 1000'
keeper = subprocess.Popen([shoal, "keeper", "--silence-ms", silence, "--", "/bin/sh", "-c", script],
                          stdin=theirs, stdout=subprocess.PIPE, env={"PATH": "/usr/bin:/bin"})
theirs.close()
reports = ours.makefile()
print(reports.readline().strip(), flush=True)
for _ in range(2): print(keeper.stdout.readline().decode().strip(), flush=True)
print("keeper", keeper.pid, flush=True)
def beat():
    try:
        while beats == "yes":
            ours.sendall(b".")
            time.sleep(0.05)
    except OSError:
        pass  # the keeper has ended
threading.Thread(target=beat, daemon=True).start()
for line in reports: print(line.strip(), flush=True)
print("keeper exit status", keeper.wait(), flush=True)
sys.stdin.read()
"#;

struct StandIn {
    node: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    /// The agent, its child, the one that escaped its group, and the keeper.
    all: [u32; 4],
}

impl StandIn {
    fn start(silence_ms: u32, beats: &str) -> Self {
        let mut node = Command::new("python3")
            .args(["-c", STAND_IN_NODE, SHOAL, &silence_ms.to_string(), beats])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed");
        let mut lines = BufReader::new(node.stdout.take().expect("piped")).lines();
        let mut all = BTreeMap::new();
        while all.len() < 4 {
            let line = lines.next().expect("it says four lines").expect("text");
            let (word, number) = line.split_once(' ').expect("a word and a number");
            all.insert(word.to_owned(), number.parse().unwrap_or_else(|_| panic!("{line}")));
        }
        let all = ["started", "child", "escaped", "keeper"].map(|word| all[word]);
        assert!(all.into_iter().all(is_alive));
        Self { node, lines, all }
    }

    fn signal(&self, signal: &str) {
        let node = self.node.id().to_string();
        assert!(Command::new("kill").args([signal, &node]).status().expect("kill is there").success());
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

#[tokio::test]
async fn an_agent_and_all_its_children_die_with_a_node_that_is_killed() {
    let stand_in = StandIn::start(600_000, "yes");
    stand_in.signal("-KILL");
    for pid in stand_in.all {
        gone(pid).await;
    }
}

#[tokio::test]
async fn an_agent_and_all_its_children_die_when_their_node_falls_silent() {
    let stand_in = StandIn::start(500, "yes");
    stand_in.signal("-STOP");
    for pid in &stand_in.all[..3] {
        gone(*pid).await;
    }
    stand_in.signal("-CONT");
}

#[tokio::test]
async fn a_keeper_says_that_it_ended_its_agent_because_the_node_was_silent() {
    let mut stand_in = StandIn::start(500, "no");
    let line = stand_in.lines.next().expect("a report").expect("text");
    assert_eq!(line, "failed its node was silent for 500 ms, so its keeper ended it");
    for pid in &stand_in.all[..3] {
        gone(*pid).await;
    }
}

#[tokio::test]
async fn a_node_that_lives_is_heard_by_its_keepers() {
    let mut bench = Bench::new();
    bench.run(shell("patient", SHELL_ECHO)).await;
    tokio::time::sleep(limits::KEEPER_SILENCE_MAX + limits::KEEPER_HEARTBEAT).await;
    assert_eq!(text(&ask(&bench.runtime, "patient", "x").await.expect("an answer")), "x");
}

#[test]
fn a_keeper_that_is_started_by_hand_says_so_and_starts_nothing() {
    let mut keeper = Command::new(SHOAL)
        .args(["keeper", "--silence-ms", "1000", "--", "/bin/echo", "started"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let _ = keeper.stdin.take().expect("piped").write_all(b"N");
    let output = keeper.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("started by a node, not by hand"));
}
