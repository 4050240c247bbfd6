//! Whom messages reach that name no agent: one that can do something, all that listen to a topic, all of a name; and which
//! instance of several gets what. Real nodes; each agent says where it is.

#[path = "running/mod.rs"]
mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use running::{Answer, LONG, Place, Running};
use serde_json::{Value, json};

/// Answers with its own name and node, and keeps what it got in a file. What is to be held it answers when it is released.
const TELLER: &str = r#"
import json, sys
out = open(sys.argv[1], "a")
hello = json.loads(sys.stdin.readline())
held = []
print('{"type":"ready"}', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "message":
        out.write(json.dumps(message) + "\n")
        out.flush()
        held.append(message["id"])
        where = hello["agent"] + "@" + hello["node"]
        while message["content"] != "hold" and held:
            print(json.dumps({"type": "reply", "to": held.pop(), "content": where}), flush=True)
"#;

struct Mesh {
    place: Place,
    nodes: Vec<Running>,
}

impl Mesh {
    fn of(count: usize) -> Self {
        let place = Place::new();
        // On a busy machine a round trip is what it is by chance.
        let config = place.path().join("node.yaml");
        let anywhere = "coordination: {cluster: {cross_region: {latency_aware_routing: false}}}\n";
        fs::write(&config, anywhere).expect("written");
        let more = ["--config", config.to_str().expect("text")];
        let mut nodes = vec![place.bootstrap("n1", &more)];
        for n in 2..=count {
            nodes.push(place.join_with(&format!("n{n}"), &nodes[0], &more));
        }
        fs::write(place.path().join("teller.py"), TELLER).expect("written");
        Self { place, nodes }
    }

    /// Deploys an agent on a node, counted from 0, and waits until all nodes know of it.
    fn deploy(&self, name: &str, at: usize, offer: &[&str]) {
        let (script, out) = (self.place.path().join("teller.py"), self.place.path().join(out_of(name, at)));
        let command = format!("exec python3 {} {}", script.display(), out.display());
        let words = [&["deploy", "/bin/sh", "--name", name], offer, &["--", "-c", &command]].concat();
        let told = self.nodes[at].shoal(&words);
        assert_eq!(told.code, Some(0), "{told:?}");
        let node = self.nodes[at].name();
        self.all_know(|agent| {
            agent["name"] == name && agent["node"] == node.as_str() && agent["state"] == "running"
        });
    }

    fn all_know(&self, is_it: impl Fn(&Value) -> bool) {
        for node in &self.nodes {
            node.until("/v1/agents", |answer| {
                answer.json().as_array().is_some_and(|all| all.iter().any(&is_it))
            });
        }
    }

    fn stop(&self, name: &str, at: usize) {
        let node = self.nodes[at].name();
        let told = self.nodes[at].shoal(&["agent", "stop", name, "--node", &node]);
        assert_eq!(told.code, Some(0), "{told:?}");
        for each in &self.nodes {
            each.until("/v1/agents", |answer| {
                let all = answer.json();
                !all.as_array()
                    .expect("a list")
                    .iter()
                    .any(|a| a["name"] == name && a["node"] == node.as_str())
            });
        }
    }

    /// What an agent got, in order.
    fn got(&self, name: &str, at: usize) -> Vec<Value> {
        let text = fs::read_to_string(self.place.path().join(out_of(name, at))).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a message")).collect()
    }
}

fn out_of(name: &str, at: usize) -> String {
    format!("{name}-{at}")
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < 2 * LONG, "it never comes to that: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(pid: u64, name: &str) {
    assert!(Command::new("kill").args(["-s", name, &pid.to_string()]).status().expect("ran").success());
}

fn ask(node: &Running, to: &str, more: Value) -> Answer {
    let mut message = json!({"to": to, "content": "who are you?"});
    message.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    node.post("/v1/messages", &message)
}

fn who(node: &Running, to: &str, more: Value) -> String {
    let answer = ask(node, to, more);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["content"].as_str().expect("text").to_owned()
}

fn publish(node: &Running, to: &str, content: &str) -> Answer {
    node.post("/v1/messages", &json!({"to": to, "content": content, "want": "receipt"}))
}

#[test]
fn a_capability_is_one_of_the_agents_that_offer_it_whatever_their_names() {
    let mesh = Mesh::of(3);
    let [asker, _, _] = &mesh.nodes[..] else { unreachable!("three") };
    let nobody = ask(asker, "cap:resize", json!({}));
    assert_eq!((nobody.status, nobody.code().as_str()), (404, "no_recipient"), "{nobody:?}");
    assert!(nobody.body.contains("cap:resize") && nobody.body.contains("no agent offers"), "{nobody:?}");

    mesh.deploy("small", 1, &["--capability", "resize"]);
    mesh.deploy("large", 2, &["--capability", "resize", "--capability", "crop"]);
    let told: BTreeSet<_> = (0..6).map(|_| who(asker, "cap:resize", json!({}))).collect();
    assert_eq!(told, BTreeSet::from(["small@n2".to_owned(), "large@n3".to_owned()]));
    let own: BTreeSet<_> = (0..6).map(|_| who(&mesh.nodes[1], "cap:resize", json!({}))).collect();
    assert_eq!(own, BTreeSet::from(["small@n2".to_owned()]), "one on the node itself goes first");
    assert_eq!(who(asker, "cap:crop", json!({})), "large@n3");
    let conversation: BTreeSet<_> =
        (0..6).map(|_| who(asker, "cap:resize", json!({"conversation_id": "one"}))).collect();
    assert_eq!(conversation.len(), 1, "a conversation stays with one: {conversation:?}");
    assert!(
        mesh.got("small", 1).iter().all(|message| message["to"] == "cap:resize"),
        "as the sender wrote it"
    );

    let told = asker.shoal(&["message", "send", "--to", "cap:crop", "--content", "x"]);
    assert!(told.code == Some(0) && told.out.contains("is with large@n3"), "{told:?}");
    mesh.stop("large", 2);
    let told: BTreeSet<_> = (0..4).map(|_| who(asker, "cap:resize", json!({}))).collect();
    assert_eq!(told, BTreeSet::from(["small@n2".to_owned()]));
    assert_eq!(ask(asker, "cap:crop", json!({})).code(), "no_recipient");
}

#[test]
fn a_topic_reaches_every_agent_that_listens_once_and_in_its_publishers_order() {
    let mesh = Mesh::of(3);
    for (name, at) in [("ledger", 0), ("mailer", 1), ("ledger", 2), ("audit", 2)] {
        mesh.deploy(name, at, &["--topic", "orders"]);
    }
    mesh.deploy("deaf", 1, &["--topic", "invoices"]);
    const COUNT: usize = 100;
    for n in 0..COUNT {
        for node in &mesh.nodes {
            let answer = publish(node, "topic:orders", &format!("{} {n}", node.name()));
            assert_eq!(answer.status, 202, "{answer:?}");
            let recipients = answer.json()["recipients"].as_array().expect("of a topic").clone();
            assert!(recipients.len() == 4 && recipients.iter().all(|to| to["code"].is_null()), "{answer:?}");
        }
    }
    for (name, at) in [("ledger", 0), ("mailer", 1), ("ledger", 2), ("audit", 2)] {
        until(&format!("{name} has all"), || mesh.got(name, at).len() >= 3 * COUNT);
        let got = mesh.got(name, at);
        assert_eq!(got.len(), 3 * COUNT, "each once");
        let mut next: BTreeMap<String, usize> = BTreeMap::new();
        for message in &got {
            let content = message["content"].as_str().expect("text");
            let (publisher, n) = content.split_once(' ').expect("two words");
            let expected = next.entry(publisher.to_owned()).or_default();
            assert_eq!(
                n.parse::<usize>().expect("a number"),
                *expected,
                "{name} on {at} has {publisher}'s in order"
            );
            *expected += 1;
            assert_eq!(message["to"], "topic:orders");
        }
        let ids: BTreeSet<_> = got.iter().map(|message| message["id"].to_string()).collect();
        assert_eq!(ids.len(), 3 * COUNT);
    }
    assert_eq!(mesh.got("deaf", 1), [] as [Value; 0]);
}

/// Told to, it publishes sixty messages and waits for none of them.
const BURSTS: &str = r#"
import json, sys
hello = json.loads(sys.stdin.readline())
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "message":
        for n in range(60):
            content = hello["node"] + " " + str(n)
            print(json.dumps({"type": "send", "to": "topic:ticks", "content": content, "conversation_id": str(n)}))
        sys.stdout.flush()
"#;

#[test]
fn what_agents_publish_without_waiting_stays_in_order_too() {
    let mesh = Mesh::of(3);
    mesh.deploy("clock", 1, &["--topic", "ticks"]);
    mesh.deploy("clock", 2, &["--topic", "ticks"]);
    let script = mesh.place.path().join("bursts.py");
    fs::write(&script, BURSTS).expect("written");
    for node in &mesh.nodes[..2] {
        let command = format!("exec python3 {}", script.display());
        let told = node.shoal(&["deploy", "/bin/sh", "--name", "bursts", "--", "-c", &command]);
        assert_eq!(told.code, Some(0), "{told:?}");
    }
    mesh.all_know(|agent| agent["name"] == "bursts" && agent["node"] == "n2" && agent["state"] == "running");
    assert_eq!(publish(&mesh.nodes[0], "all:bursts", "go").status, 202);
    for at in [1, 2] {
        until("all are there", || mesh.got("clock", at).len() >= 120);
        for publisher in ["n1", "n2"] {
            let contents: Vec<_> = mesh.got("clock", at).iter().map(|m| m["content"].to_string()).collect();
            let of: Vec<_> = contents.iter().filter(|content| content.contains(publisher)).cloned().collect();
            assert_eq!(of, (0..60).map(|n| format!("\"{publisher} {n}\"")).collect::<Vec<_>>());
        }
    }
}

#[test]
fn who_does_not_get_a_message_to_many_is_told_with_the_reason() {
    let mesh = Mesh::of(2);
    mesh.deploy("worker", 0, &["--topic", "jobs"]);
    mesh.deploy("worker", 1, &["--topic", "jobs"]);
    let all = publish(&mesh.nodes[0], "all:worker", "x");
    assert_eq!((all.status, all.json()["recipients"].as_array().map(Vec::len)), (202, Some(2)), "{all:?}");
    // An agent that reads nothing more, until its mailbox is full.
    let stopped = mesh.nodes[1].get("/v1/agents/worker?node=n2").json()["pid"].as_u64().expect("a process");
    signal(stopped, "STOP");
    let content = "x".repeat(64 << 10);
    let fill = json!({"to": "topic:jobs", "content": content, "want": "receipt", "deadline_ms": 600_000});
    let mut refused = None;
    for _ in 0..2_000 {
        let answer = mesh.nodes[0].post("/v1/messages", &fill);
        assert_eq!(answer.status, 202, "the other one has it: {answer:?}");
        let of = |to: &str| {
            let answer = answer.json();
            answer["recipients"].as_array().expect("two").iter().find(|r| r["to"] == to).expect("it").clone()
        };
        assert!(of("worker@n1")["code"].is_null(), "{answer:?}");
        if !of("worker@n2")["code"].is_null() {
            refused = Some(of("worker@n2"));
            break;
        }
    }
    let refused = refused.expect("a mailbox has an end");
    assert_eq!(refused["code"], "overloaded", "{refused}");
    let file = mesh.place.path().join("content");
    fs::write(&file, &content).expect("written");
    let told = mesh.nodes[0].shoal(&[
        "message",
        "send",
        "--to",
        "topic:jobs",
        "--content",
        &format!("@{}", file.display()),
    ]);
    assert!(told.code == Some(1) && told.out.contains("is with 1 of 2 agents"), "{told:?}");
    assert!(told.out.contains("not with worker@n2: ") && told.err.contains("1 of 2"), "{told:?}");
    signal(stopped, "CONT");
}

#[test]
fn an_instance_that_takes_its_time_gets_no_more_under_least_inflight() {
    let mesh = Mesh::of(3);
    for at in [1, 2] {
        mesh.deploy("worker", at, &["--balance", "least-inflight"]);
    }
    let node = &mesh.nodes[0];
    let mut ask = running::shoal();
    ask.env("SHOAL_API", node.url());
    ask.args(["message", "ask", "--to", "worker", "--content", "hold", "--deadline", "10m"]);
    let mut ask = ask.stdout(Stdio::null()).spawn().expect("started");
    until("one has it", || mesh.got("worker", 1).len() + mesh.got("worker", 2).len() == 1);
    let (busy, idle) = if mesh.got("worker", 1).is_empty() {
        ("worker@n3", "worker@n2")
    } else {
        ("worker@n2", "worker@n3")
    };
    let answer = node.post("/v1/messages", &json!({"to": busy, "content": "hold", "want": "receipt"}));
    assert_eq!(answer.status, 202, "{answer:?}");
    for _ in 0..20 {
        assert_eq!(who(node, "worker", json!({})), idle);
    }
    assert_eq!(who(node, busy, json!({})), busy, "by its node it can be asked, and answers what it held");
    assert!(ask.wait().expect("ended").success());
    let both: BTreeSet<_> = (0..20).map(|_| who(node, "worker", json!({}))).collect();
    assert_eq!(both.len(), 2, "what has ended is not counted");
}

#[test]
fn a_key_goes_to_one_instance_from_every_node_and_what_cannot_be_is_refused() {
    let mesh = Mesh::of(4);
    for at in [0, 1, 2] {
        mesh.deploy("store", at, &["--balance", "key-hash"]);
    }
    mesh.stop("store", 0);
    let at = |node: &Running, key: &str| who(node, "store", json!({"key": key}));
    let mut places = BTreeSet::new();
    for n in 0..16 {
        let key = format!("customer-{n}");
        let place = at(&mesh.nodes[0], &key);
        assert_eq!(at(&mesh.nodes[3], &key), place, "both nodes choose alike");
        places.insert(place);
    }
    assert_eq!(places.len(), 2, "keys are spread");
    let keys: BTreeSet<_> = mesh.got("store", 1).iter().map(|message| message["key"].to_string()).collect();
    assert!(
        !keys.is_empty() && keys.iter().all(|key| key.contains("customer-")),
        "the agent sees it: {keys:?}"
    );

    let node = &mesh.nodes[0];
    let code = |answer: &Answer| (answer.status, answer.code());
    let bad = (400, "bad_address".to_owned());
    assert_eq!(code(&ask(node, "topic:orders", json!({}))), bad, "one answer comes from one agent");
    assert_eq!(code(&ask(node, "all:store", json!({}))), bad);
    assert_eq!(code(&ask(node, "queue:x", json!({}))), bad);
    for key in [String::new(), "x".repeat(257), "a\tb".to_owned()] {
        assert_eq!(code(&ask(node, "store", json!({"key": key}))), (400, "bad_request".to_owned()));
    }
    assert_eq!(code(&publish(node, "topic:orders", "x")), (404, "no_recipient".to_owned()));
    assert_eq!(code(&publish(node, "all:nobody", "x")), (404, "unknown_agent".to_owned()));
    let promised = json!({"want": "receipt", "guarantee": "at-least-once"});
    let nobody = (404, "no_recipient".to_owned());
    assert_eq!(code(&ask(node, "topic:orders", promised.clone())), nobody);
    assert_eq!(code(&ask(node, "cap:x", promised.clone())), nobody);
    assert_eq!(code(&ask(node, "all:nobody", promised)), (404, "unknown_agent".to_owned()));
    let many: Vec<_> = (0..33).flat_map(|n| ["--topic".to_owned(), format!("t{n}")]).collect();
    let many =
        [vec!["deploy".to_owned(), "echo".to_owned(), "--name".to_owned(), "e".to_owned()], many].concat();
    let told = node.shoal(&many.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(told.code == Some(1) && told.err.contains("33 topics: at most 32"), "{told:?}");
    let told = node.shoal(&["deploy", "echo", "--name", "e", "--topic", "a b"]);
    assert!(told.code == Some(2) && told.err.contains("only letters"), "{told:?}");
    let told = node.shoal(&["agent", "info", "store", "--node", "n2"]);
    assert!(told.out.contains("key-hash"), "{told:?}");
}

#[test]
fn what_is_promised_to_a_topic_waits_for_each_listener_that_was_known_and_ends_with_each_by_itself() {
    let mut mesh = Mesh::of(2);
    mesh.deploy("near", 0, &["--topic", "orders", "--capability", "count"]);
    mesh.deploy("far", 1, &["--topic", "orders"]);
    mesh.deploy("deaf", 1, &[]);
    let promise = |node: &Running, to: &str, content: &str| {
        let more = json!({"to": to, "content": content, "want": "receipt", "guarantee": "at-least-once"});
        let answer = node.post("/v1/messages", &more);
        assert_eq!(answer.status, 202, "{answer:?}");
        let all = answer.json()["recipients"].as_array().expect("a list").clone();
        let id = |one: &Value| one["message_id"].as_str().expect("an id").to_owned();
        all.iter()
            .map(|one| (one["to"].as_str().expect("text").to_owned(), id(one)))
            .collect::<BTreeMap<_, _>>()
    };
    let state = |node: &Running, id: &str| {
        node.get(&format!("/v1/messages/{id}")).json()["state"].as_str().expect("a state").to_owned()
    };
    let contents = |got: &[Value]| got.iter().map(|m| m["content"].clone()).collect::<Vec<_>>();

    // One listener's node is gone: the other has its message, and this one waits.
    let bind = mesh.nodes[1].get("/v1/cluster/members").json();
    let own = bind.as_array().expect("a list").iter().find(|m| m["node_id"] == "n2").expect("itself");
    let bind = own["address"].as_str().expect("an address").to_owned();
    drop(mesh.nodes.pop());
    let sender = &mesh.nodes[0];
    sender.until("/v1/cluster/members", |answer| {
        answer.json().as_array().is_some_and(|all| all.iter().any(|m| m["status"] == "failed"))
    });
    let ids = promise(sender, "topic:orders", "first");
    assert_eq!(ids.keys().collect::<Vec<_>>(), ["far@n2", "near@n1"]);
    until("the near one has it", || state(sender, &ids["near@n1"]) == "delivered");
    assert_ne!(state(sender, &ids["far@n2"]), "delivered");
    assert_eq!(contents(&mesh.got("near", 0)), ["first"]);
    assert_eq!(mesh.got("near", 0)[0]["to"], "topic:orders");
    let told = sender.shoal(&[
        "message",
        "send",
        "--to",
        "topic:orders",
        "--content",
        "second",
        "--guarantee",
        "at-least-once",
    ]);
    assert_eq!((told.code, told.out.lines().count()), (Some(0), 2), "{told:?}");
    assert!(told.out.contains("tried until far@n2 has answered it"), "{told:?}");

    // It is back, and has both.
    let config = mesh.place.path().join("node.yaml");
    let back = mesh.place.start("n2", &["--bind-addr", &bind, "--config", config.to_str().expect("text")]);
    until("the far one has them", || mesh.got("far", 1).len() >= 2);
    until("that is known", || state(&mesh.nodes[0], &ids["far@n2"]) == "delivered");
    let far: BTreeSet<_> = contents(&mesh.got("far", 1)).iter().map(Value::to_string).collect();
    assert_eq!(far.len(), 2, "{far:?}");
    assert!(mesh.got("deaf", 1).is_empty());

    // A capability is one agent's, by its name, and its message waits for it.
    let ids = promise(&mesh.nodes[0], "cap:count", "third");
    assert_eq!(ids.keys().collect::<Vec<_>>(), ["near"]);
    until("it has it", || contents(&mesh.got("near", 0)).contains(&json!("third")));
    until("that is known", || state(&mesh.nodes[0], &ids["near"]) == "delivered");
    drop(back);
}
