//! Messages that are delivered at least once, between real nodes that are killed meanwhile: what a client was told is
//! recorded, and afterwards held against what the agent has written down.

#[path = "running/mod.rs"]
mod running;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use running::{Answer, LONG, Place, Running};
use serde_json::json;

/// Writes down what it gets, then says that it has.
const WRITER: &str = r#"
import json, sys
out = open(sys.argv[1], "a")
print('{"type":"ready"}', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "message":
        out.write(message["content"] + "\n")
        out.flush()
        print(json.dumps({"type": "reply", "to": message["id"], "content": "done"}), flush=True)
"#;

/// Starts it on a node, under that name; returns where it writes.
fn deploy_writer(place: &Place, node: &Running, name: &str) -> PathBuf {
    let (script, out) = (place.path().join("writer.py"), place.path().join(name));
    fs::write(&script, WRITER).expect("written");
    let command = format!("exec python3 {} {}", script.display(), out.display());
    let told = node.shoal(&["deploy", "/bin/sh", "--name", name, "--", "-c", &command]);
    assert_eq!(told.code, Some(0), "{told:?}");
    out
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn promise(node: &Running, to: &str, content: &str, conversation: &str) -> Answer {
    let message = json!({
        "to": to, "content": content, "conversation_id": conversation, "want": "receipt", "guarantee": "at-least-once",
    });
    node.post("/v1/messages", &message)
}

fn is_empty(node: &Running) -> bool {
    node.get("/metrics").body.lines().any(|line| line == "shoal_outbox_messages 0")
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < 2 * LONG, "it never comes to that: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where a node listens, so that it does again when it is back.
fn bind_addr(node: &Running) -> String {
    let members = node.get("/v1/cluster/members").json();
    let own = members.as_array().expect("a list").iter().find(|m| m["node_id"] == node.name());
    own.expect("itself")["address"].as_str().expect("an address").to_owned()
}

fn killed_and_back(place: &Place, node: Running, bind: &str) -> Running {
    let name = node.name();
    drop(node);
    place.start(&name, &["--bind-addr", bind])
}

/// `SHOAL_LETTERS=100000 cargo test --test guarantees no_promised -- --nocapture` sends as many.
#[test]
fn no_promised_message_is_lost_while_nodes_are_killed_and_conversations_keep_their_order() {
    let count: usize = std::env::var("SHOAL_LETTERS").map_or(2_000, |text| text.parse().expect("a number"));
    let place = Place::new();
    let mut sender = place.bootstrap("n1", &[]);
    let receiver = place.join("n2", &sender);
    let out = deploy_writer(&place, &receiver, "writer");
    let (at_sender, at_receiver) = (bind_addr(&sender), bind_addr(&receiver));
    let is_over = AtomicBool::new(false);
    let mut promised = Vec::new();
    let (mut sender, kills) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let (mut receiver, mut kills) = (receiver, 0);
            while !is_over.load(Ordering::Relaxed) {
                let had = lines(&out).len();
                until("some more are delivered", || {
                    lines(&out).len() > had + 100 || is_over.load(Ordering::Relaxed)
                });
                receiver = killed_and_back(&place, receiver, &at_receiver);
                kills += 1;
            }
            (receiver, kills)
        });
        for n in 0..count {
            if n % (count / 4) == count / 8 {
                sender = killed_and_back(&place, sender, &at_sender);
            }
            let (conversation, content) = (format!("c{}", n % 5), format!("c{} {n}", n % 5));
            let answer = promise(&sender, "writer", &content, &conversation);
            match answer.status {
                202 => promised.push(content),
                // It may have been taken in.
                _ => assert!(answer.status >= 429, "{answer:?}"),
            }
        }
        is_over.store(true, Ordering::Relaxed);
        let (receiver, kills) = killer.join().expect("no panic");
        until("all are delivered", || is_empty(&sender));
        drop(receiver);
        (sender, kills)
    });
    let dead = sender.get("/v1/dead-letters").json();
    assert_eq!(dead["total"], 0, "{dead}");
    let written = lines(&out);
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, line) in written.iter().enumerate() {
        first.entry(line).or_insert(at);
    }
    let lost: Vec<_> = promised.iter().filter(|content| !first.contains_key(content.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), promised.len());
    for conversation in 0..5 {
        let begin = format!("c{conversation} ");
        let places: Vec<_> =
            promised.iter().filter(|c| c.starts_with(&begin)).map(|c| first[c.as_str()]).collect();
        assert!(places.is_sorted(), "conversation {conversation} is out of order");
    }
    let again = written.len() - first.len();
    println!("{} of {count} were promised, {again} came again, n2 was killed {kills} times", promised.len());
    assert!(promised.len() > count / 2 && kills > 0, "nothing was put to the test");
    sender.signal("TERM");
    assert_eq!(sender.code(), Some(0));
}

#[test]
fn a_message_that_nobody_answers_is_a_dead_letter_that_can_be_taken_up_again_or_dropped() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let send = |deadline: &str| {
        let words =
            ["message", "send", "--to", "writer", "--content", "hello", "--guarantee", "at-least-once"];
        let told = node.shoal(&[&words[..], &["--deadline", deadline, "-o", "json"]].concat());
        told.json()["message_id"].as_str().expect("an id").to_owned()
    };
    let waiting = send("1h");
    let trace = || node.shoal(&["message", "trace", &waiting]).out;
    until("it was tried", || trace().contains("unknown_agent: no agent named writer"));
    assert!(trace().contains("waiting"), "{}", trace());
    let (one, two) = (send("50ms"), send("50ms"));
    let total = || node.get("/v1/dead-letters").json()["total"].clone();
    until("both are given up", || total() == 2);
    let listed = node.shoal(&["dead-letters", "list"]).out;
    assert!(
        listed.contains(&one) && listed.contains(&two) && listed.contains("its time was over"),
        "{listed}"
    );
    let dropped = node.shoal(&["dead-letters", "drop", &one]);
    assert!(dropped.out.contains("1 dead letters are dropped, 1 are left on n1"), "{dropped:?}");
    let again = node.shoal(&["dead-letters", "drop", &one]);
    assert!(again.code == Some(1) && again.err.contains("0 of 1"), "{again:?}");
    let out = deploy_writer(&place, &node, "writer");
    until("the first is delivered", || trace().contains("delivered"));
    // It has 50 ms again: enough for an agent that is there.
    let retried = node.shoal(&["dead-letters", "retry", "--all"]);
    assert!(retried.out.contains("1 dead letters are taken up again, 0 are left on n1"), "{retried:?}");
    until("it has an end", || is_empty(&node));
    assert!(!lines(&out).is_empty());
    let unknown = node.shoal(&["message", "trace", "01a1fc5e-54e2-7a91-aea0-15afccd41a51"]);
    assert!(unknown.code == Some(1) && unknown.err.contains("knows no message"), "{unknown:?}");
}

#[test]
fn what_cannot_be_promised_is_refused_with_the_reason() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let message = json!({"to": "writer", "content": "x", "guarantee": "at-least-once"});
    let refused = node.post("/v1/messages", &message);
    assert!(refused.code() == "bad_request" && refused.body.contains("receipt"), "{refused:?}");
    let unknown = json!({"to": "writer", "content": "x", "want": "receipt", "guarantee": "effectively-once"});
    assert_eq!(node.post("/v1/messages", &unknown).code(), "bad_json");
    let long = json!({
        "to": "writer", "content": "x", "want": "receipt", "guarantee": "at-least-once", "deadline_ms": 8_u64 * 86_400_000,
    });
    assert!(node.post("/v1/messages", &long).body.contains("604800000"));
    let usage = |words: &[&str]| {
        let told = node.shoal(words);
        assert_eq!(told.code, Some(2), "{told:?}");
        told.err
    };
    let send = ["message", "send", "--to", "writer", "--content", "x"];
    assert!(usage(&[&send[..], &["--deadline", "2h"]].concat()).contains("at-least-once"));
    assert!(usage(&[&send[..], &["--guarantee", "exactly-once"]].concat()).contains("at-least-once"));
    assert!(usage(&["dead-letters", "drop"]).contains("--all"));
    assert!(
        usage(&["dead-letters", "drop", "--all", "01a1fc5e-54e2-7a91-aea0-15afccd41a51"]).contains("--all")
    );
    let both = json!({"ids": ["01a1fc5e-54e2-7a91-aea0-15afccd41a51"], "all": true});
    assert_eq!(node.post("/v1/dead-letters/retry", &both).code(), "bad_request");
    assert_eq!(node.get("/v1/messages/7").code(), "bad_request");
}

/// Sends one on for each message that it gets, and answers when it knows that it is stored.
const RELAY: &str = r#"
import json, sys
print('{"type":"ready"}', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "message":
        print(json.dumps({"type": "send", "id": message["id"], "to": "writer", "content": message["content"],
                          "in_reply_to": message["id"], "guarantee": "at-least-once"}), flush=True)
    elif message["type"] == "accepted":
        print(json.dumps({"type": "reply", "to": message["id"], "content": "passed on"}), flush=True)
"#;

#[test]
fn an_agent_may_have_its_messages_delivered_at_least_once() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let script = place.path().join("relay.py");
    fs::write(&script, RELAY).expect("written");
    let command = format!("exec python3 {}", script.display());
    let told = node.shoal(&["deploy", "/bin/sh", "--name", "relay", "--", "-c", &command]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let asked = node.shoal(&["message", "ask", "--to", "relay", "--content", "hello"]);
    assert_eq!(asked.out, "passed on", "{asked:?}");
    // Nobody is there who could answer it, and the node dies.
    let bind = bind_addr(&node);
    let node = killed_and_back(&place, node, &bind);
    node.until("/health/ready", |answer| answer.status == 200);
    assert!(!is_empty(&node));
    let out = deploy_writer(&place, &node, "writer");
    until("it is delivered", || is_empty(&node));
    assert_eq!(lines(&out), ["hello"]);
}

#[test]
fn a_node_with_messages_that_wait_stops_while_its_agents_take_their_time() {
    let place = Place::new();
    let mut node = place.bootstrap("n1", &[]);
    // It ends three seconds after it was told to.
    let stubborn = "trap '' TERM; while read line; do :; done; sleep 3";
    let told = node.shoal(&["deploy", "/bin/sh", "--name", "stubborn", "--", "-c", stubborn]);
    assert_eq!(told.code, Some(0), "{told:?}");
    for n in 0..10 {
        assert_eq!(promise(&node, "writer", "x", &format!("c{n}")).status, 202);
    }
    node.signal("TERM");
    assert_eq!(node.code(), Some(0));
}

#[test]
fn a_message_that_is_too_large_is_not_promised() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let refused = promise(&node, "writer", &"x".repeat((1 << 20) + 1), "c");
    assert_eq!((refused.status, refused.code().as_str()), (413, "content_too_large"));
    assert!(is_empty(&node));
}
