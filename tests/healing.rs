//! Agents that hang, end and fall ill, on a real node: how they are found, started anew, and put in quarantine.

#[path = "running/mod.rs"]
mod running;

use std::fs;
use std::path::PathBuf;

use running::{Answer, Place, Running, Told};
use serde_json::{Value, json};

/// Ends before it is ready while a file `broken` lies in its directory. Says what it hears; `hang` is the last word that it
/// hears, `end` its end.
const STDIO: &str = r#"#!/usr/bin/env python3
import json, os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
if os.path.exists(here + "/broken"):
    sys.exit("something is missing")
print('{"type":"ready"}', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] != "message":
        continue
    if message["content"] == "hang":
        time.sleep(3600)
    if message["content"] == "end":
        sys.exit(3)
    if message["content"] == "fail":
        print(json.dumps({"type": "failure", "to": message["id"], "reason": "it is beyond me"}), flush=True)
        continue
    print(json.dumps({"type": "reply", "to": message["id"], "content": message["content"]}), flush=True)
"#;

/// Its health is the status in the file `status`, at /status. It hangs while there is a file `hang`, and answers a number with
/// that status.
const HTTP: &str = r#"#!/usr/bin/env python3
import os, time
from http.server import BaseHTTPRequestHandler, HTTPServer
here = os.path.dirname(os.path.abspath(__file__))
class Agent(BaseHTTPRequestHandler):
    def do_GET(self):
        status = int(open(here + "/status").read()) if self.path == "/status" else 404
        self.send_response(status)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"so-so")
    def do_POST(self):
        content = self.rfile.read(int(self.headers["content-length"])).decode()
        while os.path.exists(here + "/hang"):
            time.sleep(0.05)
        self.send_response(int(content) if content.isdigit() else 200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *args):
        pass
HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Agent).serve_forever()
"#;

struct Bench {
    place: Place,
    node: Running,
    folder: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let place = Place::new();
        let node = place.bootstrap("n1", &[]);
        let folder = place.path().join("agents");
        fs::create_dir(&folder).expect("made");
        let bench = Self { place, node, folder };
        for (file, text) in [("stdio.py", STDIO), ("web.py", HTTP)] {
            bench.write(file, text);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(bench.folder.join(file), mode).expect("set");
        }
        bench
    }

    fn write(&self, file: &str, text: &str) {
        // Whoever reads it meanwhile finds all of it.
        fs::write(self.folder.join(".new"), text).expect("written");
        fs::rename(self.folder.join(".new"), self.folder.join(file)).expect("renamed");
    }

    fn deploy(&self, text: &str) -> Told {
        self.write("agent.yaml", text);
        let file = self.folder.join("agent.yaml");
        self.node.shoal(&["deploy", "--file", file.to_str().expect("text")])
    }

    fn deployed(&self, text: &str) {
        let told = self.deploy(text);
        assert_eq!(told.code, Some(0), "{told:?}");
    }

    fn say(&self, word: &str) -> Answer {
        self.node.post("/v1/messages", &json!({"to": "a", "content": word, "deadline_ms": 20_000}))
    }

    fn tell(&self, word: &str) {
        let told = self.node.post("/v1/messages", &json!({"to": "a", "content": word, "want": "receipt"}));
        assert!(told.status < 300, "{told:?}");
    }

    fn info(&self) -> Value {
        self.node.get("/v1/agents/a").json()
    }

    fn until(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        self.node.until("/v1/agents/a", |answer| answer.status == 200 && is_it(&answer.json())).json()
    }

    fn history(&self) -> String {
        let told = self.node.shoal(&["agent", "history", "a"]);
        assert_eq!(told.code, Some(0), "{told:?}");
        told.out
    }
}

#[test]
fn an_agent_that_hangs_is_found_by_a_message_and_started_anew() {
    let bench = Bench::new();
    bench.deployed(
        "name: a\nsource: ./stdio.py\nrestart: {waits: [100ms, 100ms, 100ms]}\nhealth: {check: answer, content: well?, interval: 200ms, timeout: 1s, failures: 2}\n",
    );
    let well = bench.until(|agent| agent["health"] == "healthy");
    assert_eq!((&well["check"]["check"], &well["check"]["content"]), (&json!("answer"), &json!("well?")));
    let pid = well["pid"].clone();
    bench.tell("hang");
    let again = bench.until(|agent| agent["restarts"] != 0 && agent["health"] == "healthy");
    assert_ne!(again["pid"], pid);
    assert_eq!(bench.say("hello").json()["content"], "hello");
    let results: Vec<_> =
        again["checks"].as_array().expect("a list").iter().map(|c| c["result"].clone()).collect();
    let failed = results.iter().filter(|result| **result == "timeout").count();
    assert!(failed >= 2, "{results:?}");

    let history = bench.history();
    let places: Vec<_> = [
        "agent a on n1 is running: healthy",
        "agent a on n1 is running: degraded: no answer within 1000 ms",
        "agent a on n1 is restarting: 2 health checks failed, the last one: no answer within 1000 ms",
        "agent a on n1 is starting",
    ]
    .iter()
    .map(|words| history.rfind(words).unwrap_or_else(|| panic!("{words}: {history}")))
    .collect();
    assert!(places[1..].is_sorted(), "{history}");
    let why = bench.node.shoal(&["why", "a"]);
    assert!(why.out.contains("2 health checks failed"), "{why:?}");
    let list = bench.node.shoal(&["agent", "list"]);
    assert!(list.out.contains("HEALTH") && list.out.contains("healthy"), "{list:?}");
    let info = bench.node.shoal(&["agent", "info", "a"]);
    assert!(info.out.contains("healthy after"), "{info:?}");
}

#[test]
fn an_agent_that_keeps_ending_is_in_quarantine_until_somebody_releases_it() {
    let bench = Bench::new();
    bench.deployed("name: a\nsource: ./stdio.py\nrestart: {waits: [20ms, 40ms]}\n");
    let release = || bench.node.shoal(&["agent", "release", "a"]);
    let told = release();
    assert!(told.code == Some(1) && told.err.contains("is not in quarantine: it is running"), "{told:?}");
    bench.write("broken", "");
    bench.tell("end");
    let ill = bench.until(|agent| agent["state"] == "quarantined");
    assert_eq!(ill["restarts"], 2);
    assert!(ill["reason"].as_str().expect("a reason").contains("something is missing"), "{ill}");
    let refused = bench.say("hello");
    assert!(refused.status == 503 && refused.body.contains("quarantined"), "{refused:?}");
    assert!(bench.node.shoal(&["why", "a"]).out.contains("agent a on n1 is quarantined"));

    // It is still broken: whoever releases it is told, and it goes up the ladder once more.
    let told = release();
    assert!(told.code == Some(1) && told.err.contains("something is missing"), "{told:?}");
    bench.until(|agent| agent["state"] == "quarantined" && agent["restarts"] == 5);
    fs::remove_file(bench.folder.join("broken")).expect("removed");
    let told = release();
    assert!(told.code == Some(0) && told.out.contains("agent a on n1 was started anew and runs"), "{told:?}");
    assert_eq!(bench.say("hello").json()["content"], "hello");

    // A node that starts anew tries what it finds, as often as the ladder is long.
    bench.write("broken", "");
    let Bench { place, node, folder } = bench;
    drop(node);
    let node = place.start("n1", &[]);
    let bench = Bench { place, node, folder };
    bench.until(|agent| agent["state"] == "quarantined" && agent["restarts"] == 2);
}

#[test]
fn an_agent_is_started_anew_when_somebody_wants_it() {
    let bench = Bench::new();
    bench.deployed("name: a\nsource: ./stdio.py\n");
    let pid = bench.info()["pid"].clone();
    let told = bench.node.shoal(&["agent", "restart", "a"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let now = bench.info();
    assert_ne!(now["pid"], pid);
    assert_eq!((&now["state"], &now["restarts"]), (&json!("running"), &json!(1)));
    assert!(bench.history().contains("is restarting: somebody wants it started anew"));
    for command in ["restart", "release", "history"] {
        let told = bench.node.shoal(&["agent", command, "nobody"]);
        assert!(told.code == Some(1) && told.err.contains("nobody"), "{told:?}");
    }
    let wrong = bench.node.post("/v1/agents/a/restart", &json!({"relaese": true}));
    assert_eq!(wrong.status, 400, "{wrong:?}");
}

#[test]
fn an_http_agent_that_says_that_it_is_ill_is_started_anew_and_one_that_is_busy_is_not() {
    let bench = Bench::new();
    bench.write("status", "200");
    bench.deployed(
        "name: a\nkind: http\nsource: ./web.py\nrestart: {waits: [100ms, 100ms, 100ms]}\nhealth: {check: http, interval: 150ms, timeout: 5s, failures: 2}\n",
    );
    let pid = bench.until(|agent| agent["health"] == "healthy")["pid"].clone();
    bench.write("status", "429");
    let busy = bench.until(|agent| agent["health"] == "degraded");
    assert!(busy["health_why"].as_str().expect("told").contains("it says that it is busy"), "{busy}");
    // More checks than make an agent unhealthy.
    let is_busy = |check: &Value| check["result"] == "degraded";
    let busy = bench
        .until(|agent| agent["checks"].as_array().expect("a list").iter().filter(|c| is_busy(c)).count() > 4);
    assert_eq!((&busy["pid"], &busy["restarts"], &busy["health"]), (&pid, &json!(0), &json!("degraded")));
    bench.write("status", "500");
    let ill = bench.until(|agent| agent["restarts"] == 1);
    assert!(!ill["checks"].as_array().expect("a list").is_empty(), "they outlive a run");
    bench.write("status", "200");
    bench.until(|agent| agent["health"] == "healthy");
    let history = bench.history();
    assert!(
        history.contains("the last one: /status: HTTP status 500 Internal Server Error: so-so"),
        "{history}"
    );
}

#[test]
fn an_http_agent_that_hangs_is_found_by_a_message() {
    let bench = Bench::new();
    bench.deployed(
        "name: a\nkind: http\nsource: ./web.py\nrestart: {waits: [100ms, 100ms, 100ms]}\nhealth: {check: answer, interval: 200ms, timeout: 1s, failures: 2}\n",
    );
    bench.until(|agent| agent["health"] == "healthy");
    bench.write("hang", "");
    bench.until(|agent| agent["restarts"] != 0);
    fs::remove_file(bench.folder.join("hang")).expect("removed");
    bench.until(|agent| agent["health"] == "healthy");
    assert!(bench.history().contains("2 health checks failed, the last one: no answer within 1000 ms"));
}

#[test]
fn a_check_that_the_kind_of_agent_cannot_have_is_refused() {
    let bench = Bench::new();
    let told = bench.deploy("name: a\nsource: ./stdio.py\nhealth: {check: http}\n");
    assert_eq!(told.code, Some(2));
    assert!(told.err.contains("agent.yaml:3: health: only an agent of kind http"), "{told:?}");
    let source = json!({"kind": "native", "builtin": "echo"});
    let deploy = |health: Value| {
        bench.node.post("/v1/agents", &json!({"name": "a", "source": source, "health": health}))
    };
    for (health, words) in [
        (json!({"check": "http"}), "only an agent of kind http"),
        (json!({"check": "answer", "path": "/x"}), "a health check by message has no path"),
        (json!({"check": "answer", "interval_ms": 1}), "100 to 86400000 ms"),
        (json!({"check": "answer", "every": 1}), "every"),
    ] {
        let refused = deploy(health);
        assert!(refused.status == 400 && refused.body.contains(words), "{words}: {refused:?}");
    }
    assert_eq!(deploy(json!({"check": "answer"})).status, 201);
    bench.until(|agent| agent["check"]["content"] == "ping");
}

#[test]
fn an_agent_that_keeps_failing_is_left_alone_for_a_while_and_then_tried_with_one_message() {
    let bench = Bench::new();
    bench.deployed(
        "name: a\nkind: http\nsource: ./web.py\nbreaker: {failures: 3, open: 2s}\nhealth: {check: answer, interval: 100ms}\n",
    );
    let failed = || {
        let told = bench.say("500");
        assert!(told.status == 502 && told.body.contains("\"agent_failed\""), "{told:?}");
    };
    failed();
    failed();
    assert_eq!(bench.say("hello").status, 200, "an answer between them: the count begins anew");
    (0..3).for_each(|_| failed());
    let refused = bench.say("hello");
    assert!(refused.status == 503 && refused.body.contains("\"breaker_open\""), "{refused:?}");
    let why = "HTTP status 500 Internal Server Error: ok";
    assert!(refused.body.contains(&format!("{why}; it is tried again in")), "{refused:?}");
    assert!(refused.head.to_lowercase().contains("retry-after: "), "{refused:?}");
    let open = bench.until(|agent| agent["breaker_state"] == "open");
    assert_eq!((&open["state"], &open["breaker_why"]), (&json!("running"), &json!(why)));
    // Health checks go on, and say that it is well.
    let checks = open["checks"].as_array().expect("a list").len();
    let checked = bench.until(|agent| agent["checks"].as_array().is_some_and(|list| list.len() > checks));
    assert_eq!(checked["health"], "healthy");
    let list = bench.node.shoal(&["agent", "list"]);
    assert!(list.out.contains("running, breaker "), "{list:?}");

    // The first message after its time decides: it fails, then one does not.
    bench.until(|agent| agent["breaker_state"] == "half-open");
    failed();
    assert_eq!(bench.say("hello").status, 503);
    bench.until(|agent| agent["breaker_state"] == "half-open");
    assert_eq!(bench.say("hello").status, 200);
    bench.until(|agent| agent["breaker_state"] == "closed");
    assert_eq!(bench.say("hello").status, 200);
    let history = bench.history();
    let places = ["open: ", "half-open: ", "open: ", "half-open: ", "closed"].iter().scan(0, |from, word| {
        let words = format!("the breaker of agent a on n1 is {word}");
        let at = *from + history[*from..].find(&words).unwrap_or_else(|| panic!("{words}: {history}"));
        *from = at + words.len();
        Some(at)
    });
    assert_eq!(places.count(), 5);

    // One that was started anew is tried at once.
    (0..3).for_each(|_| failed());
    assert_eq!(bench.say("hello").status, 503);
    let again = bench.node.shoal(&["agent", "restart", "a"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(bench.say("hello").status, 200);
}

#[test]
fn what_an_agent_refuses_by_itself_does_not_shut_it_for_others() {
    let bench = Bench::new();
    let is_closed = |words: &str| {
        let agent = bench.info();
        assert_eq!(
            (&agent["breaker_state"], &agent["breaker_failures"]),
            (&json!("closed"), &json!(0)),
            "{words}"
        );
    };
    bench.deployed(
        "name: a\nsource: ./stdio.py\nrestart: {waits: [20ms]}\nbreaker: {failures: 1, open: 1h}\n",
    );
    for _ in 0..4 {
        let told = bench.say("fail");
        assert!(told.status == 502 && told.body.contains("it is beyond me"), "{told:?}");
    }
    is_closed("it says that it failed");
    assert_eq!(bench.say("hello").status, 200);
    let told = bench.say("end");
    assert!(told.status == 502 && told.body.contains("exit status 3"), "{told:?}");
    let again = bench.until(|agent| agent["restarts"] == 1 && agent["breaker_state"] == "half-open");
    assert!(again["breaker_why"].as_str().expect("a reason").contains("exit status 3"), "{again}");
    assert_eq!(bench.node.shoal(&["agent", "stop", "a"]).code, Some(0));

    bench.deployed("name: a\nkind: http\nsource: ./web.py\nbreaker: {failures: 1, open: 1h}\n");
    for status in ["400", "404", "429", "499", "300"] {
        let told = bench.say(status);
        assert!(told.status == 502 && told.body.contains(&format!("HTTP status {status}")), "{told:?}");
        is_closed(status);
    }
    assert_eq!(bench.say("503").status, 502);
    let refused = bench.say("hello");
    assert!(refused.status == 503 && refused.body.contains("\"breaker_open\""), "{refused:?}");
}

#[test]
fn an_agent_that_lets_deadlines_pass_opens_its_breaker() {
    let bench = Bench::new();
    bench.deployed("name: a\nsource: ./stdio.py\nbreaker: {failures: 1, open: 1h}\n");
    let hang = json!({"to": "a", "content": "hang", "deadline_ms": 3_000});
    let late = bench.node.post("/v1/messages", &hang);
    assert!(late.status == 504 && late.body.contains("\"deadline_exceeded\""), "{late:?}");
    // The sender's time is over a moment before the mailbox notices.
    bench.until(|agent| agent["breaker_state"] == "open");
    let refused = bench.say("hello");
    assert!(refused.status == 503 && refused.body.contains("no answer within 3000 ms"), "{refused:?}");
}
