//! Agents that do their worst, on a real node: each is an error that names the agent and the reason, and the others
//! answer on, in the same processes as before.
//!
//! What the runtime alone does with them is in `tests/agents.rs` and `tests/wasm_agents.rs`; how they are started again, in
//! `tests/healing.rs`.

#![cfg(target_os = "linux")]

#[path = "running/mod.rs"]
mod running;
#[cfg(feature = "wasm")]
mod wasm;

use running::{Answer, Place, Running};
use serde_json::{Value, json};

/// Shell: answers every message that wants an answer with its content.
const ECHO: &str = r#"
    echo '{"type":"ready"}'
    while read -r line; do
        case $line in *'"wants_answer":true'*) ;; *) continue ;; esac
        id=${line#*'"id":"'}; id=${id%%'"'*}
        content=${line#*'"content":"'}; content=${content%%'"'*}
        echo "{\"type\":\"reply\",\"to\":\"$id\",\"content\":\"$content\"}"
    done"#;

/// A node with two agents that behave, and the process of the one that has one.
struct Bench {
    node: Running,
    well: Value,
    _place: Place,
}

impl Bench {
    fn new() -> Self {
        let place = Place::new();
        let node = place.bootstrap("n1", &[]);
        let mut bench = Self { node, well: Value::Null, _place: place };
        bench.deployed("well", shell(ECHO));
        bench.deployed("near", json!({"kind": "native", "builtin": "echo"}));
        bench.well = bench.info("well")["pid"].clone();
        assert!(bench.well.is_u64());
        bench
    }

    fn deploy(&self, name: &str, source: Value) -> Answer {
        let spec = json!({"name": name, "source": source, "restart": {"waits_ms": []}});
        self.node.post("/v1/agents", &spec)
    }

    #[track_caller]
    fn deployed(&self, name: &str, source: Value) {
        let answer = self.deploy(name, source);
        assert_eq!(answer.status, 201, "{name}: {answer:?}");
    }

    fn ask(&self, to: &str, content: &str) -> Answer {
        self.node.post("/v1/messages", &json!({"to": to, "content": content, "deadline_ms": 20_000}))
    }

    fn tell(&self, to: &str, content: &str) -> Answer {
        self.node.post("/v1/messages", &json!({"to": to, "content": content, "want": "receipt"}))
    }

    fn info(&self, name: &str) -> Value {
        self.node.get(&format!("/v1/agents/{name}")).json()
    }

    fn until_log(&self, name: &str, words: &str) -> String {
        let has = |answer: &Answer| line_of(answer, words).is_some();
        line_of(&self.node.until(&format!("/v1/agents/{name}/logs"), has), words).expect("it has")
    }

    /// The agents that behave answer, and have not been started anew.
    #[track_caller]
    fn others_are_unharmed(&self) {
        for name in ["well", "near"] {
            assert_eq!(self.ask(name, "still here").json()["content"], "still here", "{name}");
            let info = self.info(name);
            assert_eq!(
                (&info["state"], &info["errors"], &info["restarts"]),
                (&json!("running"), &json!(0), &json!(0))
            );
        }
        assert_eq!(self.info("well")["pid"], self.well);
    }

    /// The agent `bad` of this script does what it does when a message comes: its sender is told, and its state says it.
    #[track_caller]
    fn is_ended_with(&self, script: &str, why: &str) {
        self.deployed("bad", shell(script));
        let answer = self.ask("bad", "go");
        assert_eq!((answer.status, answer.code().as_str()), (502, "agent_failed"), "{answer:?}");
        assert!(answer.body.contains("agent bad failed: ") && answer.body.contains(why), "{answer:?}");
        self.rests_with(why);
    }

    /// It is not started any more, for that reason, and whoever sends to it is told so.
    #[track_caller]
    fn rests_with(&self, why: &str) {
        let path = "/v1/agents/bad";
        let ill = self.node.until(path, |answer| answer.json()["state"] == "quarantined").json();
        assert!(ill["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{ill}");
        let refused = self.ask("bad", "again");
        assert_eq!((refused.status, refused.code().as_str()), (503, "not_running"), "{refused:?}");
        assert!(refused.body.contains("bad"), "{refused:?}");
        self.others_are_unharmed();
    }
}

fn shell(script: &str) -> Value {
    json!({"kind": "process", "protocol": "stdio", "command": "/bin/sh", "args": ["-c", script]})
}

/// Shell: is ready, and goes on when the first message has come.
fn once_asked(script: &str) -> String {
    format!("echo '{{\"type\":\"ready\"}}'; read -r hello; read -r message; {script}")
}

fn line_of(logs: &Answer, words: &str) -> Option<String> {
    let logs = logs.json();
    let lines = logs["lines"].as_array().expect("lines");
    lines.iter().filter_map(Value::as_str).find(|line| line.contains(words)).map(str::to_owned)
}

fn is_alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn until_gone(pid: u64) {
    let begun = std::time::Instant::now();
    while is_alive(pid) {
        assert!(begun.elapsed() < running::LONG, "{pid} lives on");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn pid_after(line: &str, word: &str) -> u64 {
    line.split_once(word).and_then(|(_, pid)| pid.trim().parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

// --- processes ---

#[test]
fn an_agent_that_prints_garbage_is_ended_and_its_sender_is_told_why() {
    Bench::new()
        .is_ended_with(&once_asked("exec yes garbage"), "100 lines in a row that are not of the protocol");
}

#[test]
fn fault_15_an_agent_that_prints_a_line_without_end_is_ended_and_its_sender_is_told_why() {
    Bench::new()
        .is_ended_with(&once_asked("exec tr '\\0' x </dev/zero"), "a line of more than 6356992 bytes");
}

#[test]
fn an_agent_that_closes_its_stdout_is_ended_and_its_sender_is_told_why() {
    Bench::new().is_ended_with(&once_asked("exec sleep 1000 >&-"), "it closed its stdout");
}

#[test]
fn an_agent_that_closes_its_stdin_is_ended_with_the_next_message() {
    let bench = Bench::new();
    bench.deployed("bad", shell(&once_asked("exec <&-; echo 'closed it' >&2; exec sleep 1000")));
    assert_eq!(bench.tell("bad", "go").status, 202);
    bench.until_log("bad", "closed it");
    let answer = bench.ask("bad", "do you hear?");
    assert_eq!((answer.status, answer.code().as_str()), (502, "agent_failed"), "{answer:?}");
    assert!(
        answer.body.contains("agent bad failed: ") && answer.body.contains("it closed its stdin"),
        "{answer:?}"
    );
    bench.rests_with("it closed its stdin");
}

#[test]
fn an_agent_that_ends_is_told_of_with_its_status_and_its_last_words() {
    let script = once_asked("echo 'no more' >&2; exit 7");
    Bench::new().is_ended_with(&script, "exit status 7; its log ends with: no more");
}

#[test]
fn an_agent_that_crashes_is_told_of_with_its_signal() {
    Bench::new().is_ended_with(&once_asked("kill -SEGV $$"), "SIGSEGV");
}

#[test]
fn fault_13_an_agent_that_crashes_again_and_again_fails_alone_after_pauses_that_grow() {
    let bench = Bench::new();
    let source =
        shell("echo '{\"type\":\"ready\"}'; read -r hello; echo 'panicked at once' >&2; kill -ABRT $$");
    let waits = [150, 300, 600];
    let spec = json!({"name": "bad", "source": source, "restart": {"waits_ms": waits}});
    assert_eq!(bench.node.post("/v1/agents", &spec).status, 201);
    let ill = bench.node.until("/v1/agents/bad", |answer| answer.json()["state"] == "quarantined").json();
    assert_eq!(ill["restarts"], waits.len(), "{ill}");
    bench.rests_with("SIGABRT (signal 6); its log ends with: panicked at once");
    let times = |state: &str| {
        let history = bench.node.get("/v1/history?agent=bad&limit=1000").json();
        let entries = history["entries"].as_array().expect("a list").clone();
        let of_state = entries.into_iter().filter(|entry| entry["event"]["state"] == state);
        of_state.map(|entry| entry["unix_ms"].as_u64().expect("a time")).collect::<Vec<_>>()
    };
    bench.node.until("/v1/history?agent=bad&limit=1000", |history| history.body.contains("quarantined"));
    let (ended, started) = (times("restarting"), times("starting"));
    assert_eq!(
        (ended.len(), started.len()),
        (waits.len(), waits.len() + 1),
        "the first start was the deploy's"
    );
    for ((ended, started), wait) in ended.iter().zip(&started[1..]).zip(waits) {
        // Half of it: an entry may be written down late.
        assert!(started - ended >= wait / 2, "started {} ms after its end, and not {wait}", started - ended);
    }
}

#[test]
fn an_agent_that_ends_before_it_is_ready_is_refused_at_its_deploy_and_nothing_of_it_stays() {
    let bench = Bench::new();
    let answer = bench.deploy("bad", shell("echo 'no configuration' >&2; exit 3"));
    assert_eq!((answer.status, answer.code().as_str()), (422, "start_failed"), "{answer:?}");
    for words in ["bad", "exit status 3 before it was ready", "no configuration"] {
        assert!(answer.body.contains(words), "{answer:?}");
    }
    assert_eq!(bench.node.get("/v1/agents/bad").status, 404);
    bench.others_are_unharmed();
}

#[test]
fn fault_15_an_agent_that_ignores_sigterm_is_killed_when_it_is_stopped() {
    let bench = Bench::new();
    bench.deployed(
        "bad",
        shell("trap '' TERM HUP INT; echo '{\"type\":\"ready\"}'; while :; do sleep 1000; done"),
    );
    let pid = bench.info("bad")["pid"].as_u64().expect("it has a process");
    let stopped = bench.node.ask("DELETE", "/v1/agents/bad", &[], b"");
    assert_eq!(stopped.status, 200, "{stopped:?}");
    until_gone(pid);
    assert_eq!(bench.node.get("/v1/agents/bad").status, 404);
    bench.others_are_unharmed();
}

#[test]
fn fault_15_what_an_agent_has_forked_ends_with_it_wherever_it_has_gone() {
    let bench = Bench::new();
    let script = r#"
        for n in 1 2 3 4 5 6 7 8; do sleep 1000 & done
        echo "child $!" >&2
        setsid sh -c 'trap "" TERM HUP; echo "escaped $$" >&2; while :; do sleep 1000; done' &
        sleep 0.2
        exit 1"#;
    bench.is_ended_with(&once_asked(script), "exit status 1");
    for word in ["child ", "escaped "] {
        until_gone(pid_after(&bench.until_log("bad", word), word));
    }
}

#[test]
fn answers_to_nobody_and_answers_said_twice_are_logged_and_reach_nobody() {
    let bench = Bench::new();
    let id = "00000000-0000-0000-0000-000000000007";
    let twice =
        ECHO.replace("echo \"{", "for n in 1 2; do echo \"{").replace("}\"\n    done", "}\"; done\n    done");
    assert_ne!(twice, ECHO);
    let script = format!("echo '{{\"type\":\"reply\",\"to\":\"{id}\",\"content\":\"unasked\"}}'; {twice}");
    bench.deployed("bad", shell(&script));
    let line = bench.until_log("bad", "nobody waits for an answer to");
    assert!(line.contains(id), "{line}");
    for word in ["one", "two"] {
        assert_eq!(bench.ask("bad", word).json()["content"], word);
    }
    bench
        .node
        .until("/v1/agents/bad/logs", |logs| logs.body.matches("nobody waits for an answer to").count() >= 3);
    bench.others_are_unharmed();
}

#[test]
fn what_an_agent_sends_to_nobody_comes_back_to_it_with_the_reason() {
    let bench = Bench::new();
    let script = r#"
        echo '{"type":"ready"}'; read -r hello
        echo '{"type":"ask","id":"q1","to":"nobody","content":"x"}'; read -r one; echo "one $one" >&2
        echo '{"type":"send","id":"s1","to":"cap:nothing","content":"x"}'; read -r two; echo "two $two" >&2
        echo '{"type":"send","id":"s2","to":"a b","content":"x"}'; read -r three; echo "three $three" >&2
        sleep 1000"#;
    bench.deployed("bad", shell(script));
    for (word, code, about) in [
        ("one", "unknown_agent", "nobody"),
        ("two", "no_recipient", "nothing"),
        ("three", "bad_address", "a b"),
    ] {
        let line = bench.until_log("bad", &format!("{word} "));
        assert!(line.contains(code) && line.contains(about), "{line}");
    }
    bench.others_are_unharmed();
}

// --- addresses ---

#[test]
fn an_address_that_matches_nothing_is_refused_at_once_and_named() {
    let bench = Bench::new();
    for (to, status, code) in [
        ("nobody", 404, "unknown_agent"),
        ("nobody@n1", 404, "unknown_agent"),
        ("well@n9", 503, "not_running"),
        ("cap:nothing", 404, "no_recipient"),
        ("a b", 400, "bad_address"),
        ("well@", 400, "bad_address"),
        ("@n1", 400, "bad_address"),
        ("", 400, "bad_address"),
        ("cap:", 400, "bad_address"),
        ("queue:x", 400, "bad_address"),
    ] {
        let answer = bench.ask(to, "x");
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{to:?}: {answer:?}");
        let name = to.split(['@', ':']).find(|part| !part.is_empty() && *part != "cap").unwrap_or_default();
        assert!(answer.body.contains(name), "{to:?}: {answer:?}");
    }
    for (to, code) in [("topic:nothing", "no_recipient"), ("all:nobody", "unknown_agent")] {
        let answer = bench.tell(to, "x");
        assert_eq!((answer.status, answer.code().as_str()), (404, code), "{to:?}: {answer:?}");
        assert!(answer.body.contains(to.split_once(':').expect("two parts").1), "{answer:?}");
    }
    bench.others_are_unharmed();
}

// --- components ---

#[cfg(feature = "wasm")]
impl Bench {
    /// Runs `bad` of the component that breaks what its message names, within little fuel and memory.
    fn with_hostile_component(&self) {
        let module = self.node.ask("POST", "/v1/modules", &[], wasm::hostile());
        assert_eq!(module.status, 201, "{module:?}");
        let module = module.json()["module"].clone();
        let source = json!({"kind": "wasm", "module": module, "fuel": 100_000_000, "memory_bytes": 8 << 20});
        self.deployed("bad", source);
    }

    #[track_caller]
    fn instance_is_stopped(&self, word: &str, why: &str) {
        self.with_hostile_component();
        assert_eq!(self.ask("bad", "hello").json()["content"], "1");
        let answer = self.ask("bad", word);
        assert_eq!((answer.status, answer.code().as_str()), (502, "agent_failed"), "{answer:?}");
        assert!(answer.body.contains("agent bad failed: ") && answer.body.contains(why), "{answer:?}");
        self.until_log("bad", why);
        assert_eq!(self.ask("bad", "hello").json()["content"], "1", "a fresh instance goes on");
        self.others_are_unharmed();
    }

    #[track_caller]
    fn module_is_refused(&self, module: &[u8], why: &str) {
        let answer = self.node.ask("POST", "/v1/modules", &[], module);
        assert_eq!((answer.status, answer.code().as_str()), (422, "bad_module"), "{answer:?}");
        assert!(answer.body.contains(why), "{answer:?}");
        assert_eq!(self.node.get("/v1/modules").json(), json!([]), "it is not kept");
        self.others_are_unharmed();
    }
}

#[cfg(feature = "wasm")]
#[test]
fn a_module_that_is_none_is_refused_with_what_it_is() {
    let bench = Bench::new();
    bench.module_is_refused(b"#!/bin/sh\necho", "it does not begin as one");
    bench.module_is_refused(&wasm::text("(module)"), "it is a core module");
    bench.module_is_refused(&wasm::tally()[..200], "not a component that can be compiled");
    bench.module_is_refused(b"", "it does not begin as one");
}

#[cfg(feature = "wasm")]
#[test]
fn a_module_that_imports_what_is_not_offered_is_refused_with_its_name() {
    let bench = Bench::new();
    let imports = |name: &str| wasm::text(&format!("(component (import \"{name}\" (instance)))"));
    bench.module_is_refused(&imports("wasi:sockets/tcp@0.2.0"), "wasi:sockets/tcp@0.2.0");
    bench.module_is_refused(&imports("some:other/thing"), "some:other/thing, which is not offered");
    bench.module_is_refused(&wasm::text("(component)"), "it does not export `handle`");
}

#[cfg(feature = "wasm")]
#[test]
fn fault_14_an_instance_that_traps_is_stopped_and_its_sender_is_told_why() {
    Bench::new().instance_is_stopped("trap", "unreachable");
}

#[cfg(feature = "wasm")]
#[test]
fn fault_14_an_instance_that_loops_is_stopped_and_its_sender_is_told_why() {
    Bench::new().instance_is_stopped("spin", "it used up its fuel");
}

#[cfg(feature = "wasm")]
#[test]
fn fault_14_an_instance_that_grows_is_stopped_and_its_sender_is_told_why() {
    Bench::new().instance_is_stopped("grow", "and may have 8388608");
}

#[cfg(feature = "wasm")]
#[test]
fn an_instance_that_recurses_is_stopped_and_its_sender_is_told_why() {
    Bench::new().instance_is_stopped("recurse", "call stack exhausted");
}

#[cfg(feature = "wasm")]
#[test]
fn an_instance_that_floods_its_node_with_calls_is_stopped_and_its_sender_is_told_why() {
    Bench::new().instance_is_stopped("flood", "it called the host more than 100000 times");
}
