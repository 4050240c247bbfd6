//! Faults of load: too many messages, agents that are too slow, a node without memory or without tasks. Those with
//! cgroups need root; without it a test fails and says so.

mod common;
#[allow(unreachable_pub, missing_debug_implementations, reason = "shared with other programs")]
mod running;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::cgroup::Group;
use common::netns::until;
use running::{Answer, Place, Running};
use serde_json::{Value, json};
use shoal::core::limits;

/// Takes nothing before a file is there; then it writes down what it gets and says that it has.
const LATE: &str = r#"
import json, os, sys, time
print('{"type":"ready"}', flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
out = open(sys.argv[2], "a")
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "message":
        out.write(message["content"][:40].rstrip() + "\n")
        out.flush()
        if message["wants_answer"]:
            print(json.dumps({"type": "reply", "to": message["id"], "content": ""}), flush=True)
"#;

/// Answers at once.
const PROMPT: &str = r#"
import json, sys
print('{"type":"ready"}', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message.get("wants_answer"):
        print(json.dumps({"type": "reply", "to": message["id"], "content": message["content"]}), flush=True)
"#;

/// An agent in Python, with these arguments.
fn python(place: &Place, node: &Running, name: &str, script: &str, args: &[&Path]) -> Answer {
    let file = place.path().join(format!("{name}.py"));
    fs::write(&file, script).expect("written");
    let args: Vec<_> = [file.as_path()].iter().chain(args).map(|arg| arg.display().to_string()).collect();
    let source = json!({"kind": "process", "protocol": "stdio", "command": "python3", "args": args});
    node.post("/v1/agents", &json!({"name": name, "source": source}))
}

/// The late one: the file that it waits for, and the one that it writes.
fn deploy_late(place: &Place, node: &Running) -> (PathBuf, PathBuf) {
    let (go, out) = (place.path().join("go"), place.path().join("out"));
    let deployed = python(place, node, "late", LATE, &[&go, &out]);
    assert_eq!(deployed.status, 201, "{deployed:?}");
    (go, out)
}

fn deploy_prompt(place: &Place, node: &Running) {
    let deployed = python(place, node, "prompt", PROMPT, &[]);
    assert_eq!(deployed.status, 201, "{deployed:?}");
}

fn tell(node: &Running, to: &str, content: &str) -> Answer {
    node.post("/v1/messages", &json!({"to": to, "content": content, "want": "receipt"}))
}

fn promise(node: &Running, to: &str, content: &str) -> Answer {
    let message = json!({"to": to, "content": content, "want": "receipt", "guarantee": "at-least-once"});
    node.post("/v1/messages", &message)
}

fn ask(node: &Running, to: &str, content: &str) -> Answer {
    node.post("/v1/messages", &json!({"to": to, "content": content, "deadline_ms": 20_000}))
}

/// Waits until that node knows of the agents of the other one.
fn until_known(node: &Running, agents: &[&str]) {
    for agent in agents {
        node.until("/v1/agents", |answer| {
            let all = answer.json();
            all.as_array()
                .is_some_and(|all| all.iter().any(|a| a["name"] == *agent && a["state"] == "running"))
        });
    }
}

/// Text of that length which begins with those words.
fn padded(words: &str, bytes: usize) -> String {
    words.to_owned() + &" ".repeat(bytes.saturating_sub(words.len()))
}

/// Sends until the mailbox is full; how many were taken.
fn fill(node: &Running, to: &str) -> usize {
    // What a pipe holds, and a mailbox.
    let most = limits::MAILBOX_MESSAGES_MAX + 200;
    for n in 0..=most {
        let answer = tell(node, to, &padded(&format!("once {n}"), 1000));
        if answer.status == 429 {
            assert_eq!(answer.code(), "overloaded", "{answer:?}");
            return n;
        }
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    panic!("the mailbox has no bound: {most} are in it");
}

fn is_drained(node: &Running) -> bool {
    node.get("/metrics").body.lines().any(|line| line == "shoal_outbox_messages 0")
}

/// How often each line is there.
fn lines(file: &Path) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    for line in fs::read_to_string(file).unwrap_or_default().lines() {
        *lines.entry(line.to_owned()).or_default() += 1;
    }
    lines
}

const MIB: u64 = 1 << 20;

#[test]
fn fault_61_a_full_mailbox_is_told_to_its_senders_costs_no_memory_and_what_is_promised_waits_for_it() {
    let place = Place::new();
    let sender = place.bootstrap("n1", &[]);
    let receiver = place.join("n2", &sender);
    let (go, out) = deploy_late(&place, &receiver);
    until_known(&sender, &["late"]);
    let taken = fill(&sender, "late");
    assert!(taken >= limits::MAILBOX_MESSAGES_MAX, "{taken}");

    // Whoever goes on sending is refused each time, and nothing of it stays on either node.
    let before = [&sender, &receiver].map(Running::resident_bytes);
    for _ in 0..1_000 {
        let refused = tell(&sender, "late", &padded("refused", 64 << 10));
        assert_eq!((refused.status, refused.code().as_str()), (429, "overloaded"), "{refused:?}");
    }
    let after = [&sender, &receiver].map(Running::resident_bytes);
    println!(
        "{taken} in the mailbox; resident before {before:?} and after 62 MiB that were refused {after:?}"
    );
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + 24 * MIB, "{before} and then {after}");
    }

    // The sender's node backs off from what it has promised.
    let ids: Vec<Value> = (0..100)
        .map(|n| {
            let taken = promise(&sender, "late", &format!("promised {n}"));
            assert_eq!(taken.status, 202, "{taken:?}");
            taken.json()["message_id"].clone()
        })
        .collect();
    let path = format!("/v1/messages/{}", ids[0].as_str().expect("an id"));
    let trace = sender.until(&path, |answer| answer.json()["tries"].as_u64() >= Some(4)).json();
    let failed = trace["failed"].as_array().expect("a list");
    assert!(failed.iter().all(|one| one["code"] == "overloaded"), "{trace}");
    let times: Vec<_> = failed.iter().map(|one| one["at_ms"].as_u64().expect("a time")).collect();
    let pauses: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // 200 ms, and twice as long each time.
    assert!(pauses.iter().zip([200, 400, 800]).all(|(pause, least)| *pause >= least / 2), "{pauses:?}");

    fs::write(go, "").expect("written");
    until("all that was promised is delivered", || is_drained(&sender));
    until("all that was taken is handled", || lines(&out).values().sum::<usize>() >= taken + ids.len());
    let lines = lines(&out);
    assert!((0..ids.len()).all(|n| lines.contains_key(&format!("promised {n}"))), "one is lost");
    assert!((0..taken).all(|n| lines.get(&format!("once {n}")) == Some(&1)), "one is lost, or came again");
    assert!(!lines.contains_key("refused"), "who was told that it was refused was told the truth");
}

#[test]
fn fault_62_an_agent_that_is_too_slow_has_a_bounded_mailbox_and_the_others_answer_all_the_time() {
    let place = Place::new();
    let sender = place.bootstrap("n1", &[]);
    let node = place.join("n2", &sender);
    let (go, _) = deploy_late(&place, &node);
    deploy_prompt(&place, &node);
    until_known(&sender, &["late", "prompt"]);
    let (is_over, taken, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let answer = tell(&sender, "late", &padded("x", 1000));
                    assert!([202, 429].contains(&answer.status), "{answer:?}");
                    let counter = if answer.status == 202 { &taken } else { &refused };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let over = Over(&is_over);
        until("its mailbox is full", || refused.load(Ordering::Relaxed) > 0);
        for n in 0..200 {
            let answer = ask(&sender, "prompt", &n.to_string());
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.json()["content"], n.to_string());
        }
        let waiting = node.get("/v1/agents/late").json()["waiting"].as_u64().expect("a number");
        assert!(waiting <= limits::MAILBOX_MESSAGES_MAX as u64, "{waiting}");
        drop(over);
    });
    let (taken, refused) = (taken.into_inner(), refused.into_inner());
    println!("the slow one took {taken}, and {refused} were refused, while the other answered 200");
    let prompt = node.get("/v1/agents/prompt").json();
    assert_eq!((&prompt["errors"], &prompt["restarts"]), (&json!(0), &json!(0)), "{prompt}");
    // It is slow, and not ill: it goes on where it was.
    fs::write(go, "").expect("written");
    node.until("/v1/agents/late", |answer| answer.json()["waiting"] == 0);
    assert_eq!(tell(&sender, "late", "x").status, 202);
}

/// Ends the clients, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn fault_12_a_node_that_is_killed_for_its_memory_has_all_that_it_acknowledged_and_is_back() {
    let place = Place::new();
    let group = Group::new("memory");
    let other = place.bootstrap("n1", &[]);
    let mut node = place.join("n2", &other);
    let (go, out) = deploy_late(&place, &other);
    deploy_prompt(&place, &other);
    until_known(&node, &["late", "prompt"]);
    // It takes what it is sent, and never reads it.
    let deaf = json!({"kind": "process", "protocol": "stdio", "command": "/bin/sleep", "args": ["1000"]});
    let deployed = node.post("/v1/agents", &json!({"name": "deaf", "source": deaf}));
    assert_eq!(deployed.status, 201, "{deployed:?}");

    group.take(node.pid());
    // What it holds already is not counted: this is for what comes. Its mailbox alone may hold 16 MiB.
    group.bound_memory(6 * MIB);
    let mut promised = Vec::new();
    let mut written = Vec::new();
    let large = padded("x", 256 << 10);
    for n in 0.. {
        assert!(n < 2_000, "it was not killed; it holds {} bytes", node.resident_bytes());
        // Nobody answers for one that is dead.
        let name = format!("promised {n}");
        match post_if_alive(
            &node,
            "POST",
            "/v1/messages",
            &json!({"to": "late", "content": name, "want": "receipt", "guarantee": "at-least-once"}),
        ) {
            Some(202) => promised.push(name),
            Some(status) => panic!("{status}"),
            None => break,
        }
        let key = format!("key-{n}");
        match post_if_alive(&node, "PUT", &format!("/v1/state/{key}"), &json!({"value": "x"})) {
            Some(200 | 201 | 204) => written.push(key),
            Some(_) => {}
            None => break,
        }
        if post_if_alive(
            &node,
            "POST",
            "/v1/messages",
            &json!({"to": "deaf", "content": large, "want": "receipt"}),
        )
        .is_none()
        {
            break;
        }
    }
    assert_eq!(node.code(), None, "a signal has ended it");
    assert_eq!(group.killed_for_memory(), 1);
    println!("killed after {} promises and {} writes", promised.len(), written.len());
    assert!(!promised.is_empty() && !written.is_empty());
    for n in 0..20 {
        assert_eq!(ask(&other, "prompt", &n.to_string()).status, 200, "the others go on");
    }

    let node = place.start("n2", &[]);
    node.until("/health/ready", |answer| answer.status == 200);
    fs::write(go, "").expect("written");
    until("all that it promised is delivered", || is_drained(&node));
    let lines = lines(&out);
    let lost: Vec<_> = promised.iter().filter(|name| !lines.contains_key(*name)).collect();
    assert!(lost.is_empty(), "{} of {}: {lost:?}", lost.len(), promised.len());
    for key in &written {
        let shown = node.get(&format!("/v1/state/{key}"));
        assert_eq!(shown.status, 200, "{key}: {shown:?}");
    }
}

/// The status that the node answers; `None` when nobody answers.
fn post_if_alive(node: &Running, method: &str, path: &str, body: &Value) -> Option<u16> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(node.api).ok()?;
    stream.set_read_timeout(Some(running::LONG)).expect("set");
    let body = body.to_string();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        node.api,
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split(' ').nth(1)?.parse().ok()
}

#[test]
fn fault_64_a_node_without_tasks_refuses_new_process_agents_with_the_reason_and_serves_those_it_has() {
    let place = Place::new();
    let group = Group::new("pids");
    let node = place.bootstrap("n1", &[]);
    deploy_prompt(&place, &node);
    group.take(node.pid());
    // No room for the agent's keeper; then for that, and not for the agent.
    for (n, room) in [0, 0, 1, 1].into_iter().enumerate() {
        group.bound_tasks(room);
        let refused = python(&place, &node, "more", PROMPT, &[]);
        assert_eq!((refused.status, refused.code().as_str()), (422, "start_failed"), "{refused:?}");
        assert!(
            refused.body.contains("more") && refused.body.contains("temporarily unavailable"),
            "{refused:?}"
        );
        assert_eq!(node.get("/v1/agents/more").status, 404, "nothing of it stays");
        let answer = ask(&node, "prompt", &n.to_string());
        assert_eq!((answer.status, &answer.json()["content"]), (200, &json!(n.to_string())), "{answer:?}");
    }
    assert!(group.tasks_refused() > 0, "the system has refused them");
    assert_eq!(node.get("/health/live").status, 200);
    group.free_tasks();
    let deployed = python(&place, &node, "more", PROMPT, &[]);
    assert_eq!(deployed.status, 201, "{deployed:?}");
    assert_eq!(ask(&node, "more", "x").status, 200);
}
