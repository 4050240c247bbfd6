//! The HTTP API of a running node, as `docs/http-api.md` describes it.

mod running;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use running::{Answer, Events, Place, exchange, read_answer};
use serde_json::{Value, json};
use shoal::core::limits;

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn echo(name: &str) -> Value {
    json!({"name": name, "source": {"kind": "native", "builtin": "echo"}})
}

fn script(name: &str, script: &str) -> Value {
    json!({"name": name, "source": {"kind": "process", "protocol": "stdio", "command": "/bin/sh",
        "args": ["-c", script]}})
}

#[test]
fn members_and_status_have_the_documented_fields_and_measured_figures_only() {
    let place = Place::new();
    let first = place.bootstrap("n1", &["--region", "eu", "--zone", "a", "--label", "gpu=no"]);
    let _second = place.join("n2", &first);
    let members = first.get("/v1/cluster/members").json();
    let (own, other) = (&members[0], &members[1]);
    let documented = [
        "node_id",
        "status",
        "address",
        "region",
        "zone",
        "agents",
        "cpu_percent",
        "memory_bytes",
        "rtt_seconds",
        "rtt_estimate_seconds",
        "doubts",
        "version",
        "labels",
        "incarnation",
    ];
    assert_eq!(keys(own), BTreeSet::from(documented));
    assert_eq!((&own["node_id"], &own["region"], &own["zone"]), (&json!("n1"), &json!("eu"), &json!("a")));
    assert_eq!((&own["labels"], &own["rtt_seconds"]), (&json!({"gpu": "no"}), &Value::Null));
    assert_eq!((&other["node_id"], &other["status"]), (&json!("n2"), &json!("alive")));
    assert!(other["rtt_seconds"].as_f64().is_some_and(|rtt| rtt > 0.0), "{other}");
    assert_eq!((&own["rtt_estimate_seconds"], &other["rtt_estimate_seconds"]), (&Value::Null, &Value::Null));

    let status = first.get("/v1/cluster/status").json();
    let documented = [
        "node_id",
        "mesh_id",
        "status",
        "nodes",
        "agents",
        "mode",
        "reason",
        "age_seconds",
        "queued_writes",
        "lease_holder",
        "uptime_seconds",
        "version",
    ];
    assert_eq!(keys(&status), BTreeSet::from(documented));
    assert_eq!(status["nodes"], json!({"alive": 2, "suspect": 0, "failed": 0, "left": 0}));
    assert_eq!((&status["status"], &status["queued_writes"]), (&json!("healthy"), &json!(0)));
}

#[test]
fn an_agent_is_deployed_asked_described_and_stopped_on_this_node_and_on_another() {
    let place = Place::new();
    let first = place.bootstrap("n1", &[]);
    let _second = place.join("n2", &first);
    for node in ["n1", "n2"] {
        let mut deploy = script("shout", "while read -r _; do :; done");
        deploy["node"] = json!(node);
        let deployed = first.post("/v1/agents", &deploy);
        assert_eq!(deployed.status, 201, "{deployed:?}");
        let location = format!("location: /v1/agents/shout?node={node}");
        assert!(deployed.head.to_ascii_lowercase().contains(&location), "{deployed:?}");
        let listed = first.get(&format!("/v1/agents?node={node}")).json();
        assert_eq!(
            listed,
            json!([{"name": "shout", "node": node, "kind": "stdio", "state": "running", "reason": null,
                "restarts": 0, "reachable": true, "capabilities": [], "topics": [], "health": null,
                "health_why": null, "breaker_state": "closed", "breaker_why": null, "depends_on": [],
                "waits": null}])
        );
        let info = first.get(&format!("/v1/agents/shout?node={node}")).json();
        assert_eq!((&info["capabilities"], &info["balance"]), (&json!([]), &json!("round-robin")));
        assert_eq!(info["source"], deploy["source"]);
        assert!(info["pid"].as_u64().is_some());
        let told = json!({"to": format!("shout@{node}"), "content": "x", "want": "receipt"});
        assert_eq!(first.post("/v1/messages", &told).status, 202);

        let stop = first.ask("DELETE", &format!("/v1/agents/shout?node={node}"), &[], b"");
        assert_eq!(stop.json(), json!({"name": "shout", "node": node}));
        assert_eq!(first.get("/v1/agents").json(), json!([]));
    }
}

#[test]
fn every_code_and_every_path_is_documented() {
    use shoal::core::error::SendError;
    let document = include_str!("../docs/http-api.md");
    for code in SendError::CODES {
        assert!(document.contains(&format!("`{code}`")), "{code}");
    }
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let words = document.split(['`', ' ', '?', '\n']);
    let paths: BTreeSet<_> =
        words.filter(|word| word.starts_with("/v1/") || word.starts_with("/health/l")).collect();
    assert!(paths.len() >= 9, "{paths:?}");
    for path in paths {
        let answer = node.ask("DELETE", &path.replace("{name}", "nobody"), &[], b"");
        assert_ne!(answer.code(), "no_such_path", "{path}");
    }
}

#[test]
fn text_comes_back_as_text_and_bytes_as_base64() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    node.post("/v1/agents", &echo("echo")).json();
    let text = node.post("/v1/messages", &json!({"to": "echo", "content": "häh?\u{0}"})).json();
    assert_eq!((&text["content"], &text["from"]), (&json!("häh?\u{0}"), &json!("echo@n1")));
    assert_eq!(text["content_type"], "text/plain; charset=utf-8");
    let documented = ["content", "content_type", "from", "message_id", "seconds"];
    assert_eq!(keys(&text), BTreeSet::from(documented));
    let bytes = json!({"to": "echo", "content_base64": "/wA=", "content_type": "image/png"});
    let bytes = node.post("/v1/messages", &bytes).json();
    assert_eq!((&bytes["content_base64"], &bytes["content_type"]), (&json!("/wA="), &json!("image/png")));
    assert!(bytes.get("content").is_none());
}

#[test]
fn every_refusal_has_its_status_and_its_code() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    node.post("/v1/agents", &echo("echo")).json();
    node.post("/v1/agents", &script("mute", r#"echo '{"type":"ready"}'; cat >/dev/null"#)).json();
    let failing = r#"echo '{"type":"ready"}'; read -r _; read -r line; id=${line#*'"id":"'}; id=${id%%'"'*}
        echo "{\"type\":\"failure\",\"to\":\"$id\",\"reason\":\"no\"}"; cat >/dev/null"#;
    node.post("/v1/agents", &script("failing", failing)).json();
    let huge = "x".repeat(limits::CONTENT_BYTES_MAX + 1);
    let with = |name: &str, source: Value| json!({"name": name, "source": source});
    let process = |command: &str| json!({"kind": "process", "protocol": "stdio", "command": command});
    for (path, body, status, code) in [
        ("/v1/messages", json!({"to": "nobody", "content": ""}), 404, "unknown_agent"),
        ("/v1/messages", json!({"to": "echo@n9", "content": ""}), 503, "not_running"),
        ("/v1/messages", json!({"to": "queue:x", "content": ""}), 400, "bad_address"),
        ("/v1/messages", json!({"to": "topic:x", "content": ""}), 400, "bad_address"),
        ("/v1/messages", json!({"to": "cap:x", "content": ""}), 404, "no_recipient"),
        ("/v1/messages", json!({"to": "topic:x", "content": "", "want": "receipt"}), 404, "no_recipient"),
        ("/v1/messages", json!({"to": "a b", "content": ""}), 400, "bad_address"),
        ("/v1/messages", json!({"to": "echo", "content": huge}), 413, "content_too_large"),
        ("/v1/messages", json!({"to": "mute", "content": "", "deadline_ms": 20}), 504, "deadline_exceeded"),
        ("/v1/messages", json!({"to": "failing", "content": ""}), 502, "agent_failed"),
        ("/v1/messages", json!({"to": "echo", "content": "", "deadline_ms": 0}), 400, "bad_request"),
        ("/v1/messages", json!({"to": "echo", "content": "", "deadline_ms": 3_600_001}), 400, "bad_request"),
        ("/v1/messages", json!({"to": "echo"}), 400, "bad_request"),
        ("/v1/messages", json!({"to": "echo", "content": "", "content_base64": ""}), 400, "bad_request"),
        ("/v1/messages", json!({"to": "echo", "content_base64": "%"}), 400, "bad_request"),
        (
            "/v1/messages",
            json!({"to": "echo", "content": "", "content_type": "a\r\nb: c"}),
            400,
            "bad_request",
        ),
        ("/v1/messages", json!({"to": "echo", "content": "", "conversation_id": ""}), 400, "bad_request"),
        ("/v1/messages", json!({"to": "echo", "content": "", "performative": "shout"}), 400, "bad_json"),
        ("/v1/messages", json!({"to": "echo", "content": "", "deadline": 5}), 400, "bad_json"),
        ("/v1/agents", echo("echo"), 409, "agent_exists"),
        ("/v1/agents", echo("a/b"), 400, "bad_json"),
        ("/v1/agents", with("a", json!({"kind": "native", "builtin": "x"})), 400, "bad_request"),
        ("/v1/agents", with("a", json!({"kind": "native", "builtin": "echo", "args": []})), 400, "bad_json"),
        ("/v1/agents", with("a", json!({"kind": "wasm"})), 400, "bad_json"),
        ("/v1/agents", with("a", process("/nowhere/at-all")), 422, "start_failed"),
        ("/v1/agents", with("a", process("/bin/false")), 422, "start_failed"),
        ("/v1/cluster/ping", json!({"node": "n9"}), 404, "unknown_node"),
        ("/v1/cluster/ping", json!({"node": "n1", "count": 0}), 400, "bad_request"),
        ("/v1/cluster/ping", json!({"node": "n1", "count": 100_000}), 400, "bad_request"),
        ("/v1/cluster/leave", json!({"node": "n9"}), 404, "unknown_node"),
        ("/v1/cluster/leave", json!({"drain_ms": 1u64 << 60}), 400, "bad_request"),
    ] {
        let answer = node.post(path, &body);
        let shown: String = body.to_string().chars().take(200).collect();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{path} {shown}: {}",
            answer.body
        );
    }
    for (method, path, status, code) in [
        ("GET", "/", 404, "no_such_path"),
        ("GET", "/v1/nothing", 404, "no_such_path"),
        ("GET", "/v1/../etc/passwd", 404, "no_such_path"),
        ("DELETE", "/v1/cluster/members", 405, "method_not_allowed"),
        ("GET", "/v1/messages", 405, "method_not_allowed"),
        ("BREW", "/v1/agents", 405, "method_not_allowed"),
        ("GET", "/v1/agents/nobody", 404, "unknown_agent"),
        ("GET", "/v1/agents/nobody?node=n1", 404, "unknown_agent"),
        ("GET", "/v1/agents/nobody?node=n9", 404, "unknown_node"),
        ("GET", "/v1/agents/a%20b", 400, "bad_request"),
        ("GET", "/v1/agents/a%ffb", 400, "bad_request"),
        ("GET", "/v1/agents?colour=red", 400, "bad_query"),
        ("GET", "/v1/agents?node=-", 400, "bad_query"),
        ("GET", "/v1/agents/echo/logs?lines=x", 400, "bad_query"),
        ("GET", "/v1/agents/echo/logs?lines=1000000", 400, "bad_request"),
        ("GET", "/v1/cluster/events?after=-1", 400, "bad_query"),
        ("DELETE", "/v1/agents/nobody", 404, "unknown_agent"),
    ] {
        let answer = node.ask(method, path, &[], b"");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{method} {path}: {}",
            answer.body
        );
    }
    let refused = node.ask("GET", "/v1/cluster/events", &["last-event-id: x"], b"");
    assert_eq!((refused.status, refused.code().as_str()), (400, "bad_request"));
    assert_eq!(node.get("/v1/agents").json().as_array().map(Vec::len), Some(3), "nothing stays of a refusal");
}

#[test]
fn a_body_that_is_no_json_is_refused_with_its_place_and_none_can_be_too_deep_or_too_large() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let send = |headers: &[&str], body: &[u8]| -> (Answer, String) {
        let answer = node.ask("POST", "/v1/messages", headers, body);
        let code = answer.code();
        (answer, code)
    };
    let json = ["content-type: application/json; charset=utf-8"];
    let (broken, code) = send(&json, b"{\n  \"to\": \"echo\",\n  nope");
    assert_eq!((broken.status, code.as_str()), (400, "bad_json"));
    assert!(broken.body.contains("line 3 column 3"), "{broken:?}");
    for body in [&b""[..], b"\xff\xfe", b"[]", b"null", b"{\"to\":\"a\",\"to\":\"b\",\"content\":\"\"}"] {
        assert_eq!(send(&json, body).1, "bad_json", "{body:?}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(send(&json, deep.as_bytes()).1, "bad_json");
    let deep = format!("{{\"to\":{}", "{\"a\":".repeat(100_000));
    assert_eq!(send(&json, deep.as_bytes()).1, "bad_json");

    for headers in
        [&[][..], &["content-type: text/plain"], &["content-type: application/x-www-form-urlencoded"]]
    {
        let (refused, code) = send(headers, b"{}");
        assert_eq!((refused.status, code.as_str()), (415, "not_json"));
    }

    let (large, code) = send(&json, &vec![b' '; limits::API_BODY_BYTES_MAX + 1]);
    assert_eq!((large.status, code.as_str()), (413, "body_too_large"));
    // A length of a gibibyte is not believed, and not waited for.
    let claimed = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: 1073741824\r\n\r\n",
        node.api
    );
    assert_eq!(exchange(node.api, claimed.as_bytes()).code(), "body_too_large");
    let mut chunked = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n",
        node.api
    );
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20));
    chunked.push_str(&chunk.repeat(limits::API_BODY_BYTES_MAX / (1 << 20) + 1));
    assert_eq!(exchange(node.api, chunked.as_bytes()).code(), "body_too_large");
    let header = format!("x: {}", "y".repeat(limits::API_HEAD_BYTES_MAX));
    assert_eq!(node.ask("GET", "/health/live", &[&header], b"").status, 431);
    assert_eq!(node.get("/health/live").status, 200, "and the node is well");
}

#[test]
fn a_loopback_api_answers_to_loopback_names_and_to_no_web_page() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let port = node.api.port();
    let hosts = [
        (format!("127.0.0.1:{port}"), 200),
        ("localhost".to_owned(), 200),
        ("LOCALHOST:1".to_owned(), 200),
        ("[::1]:8080".to_owned(), 200),
        ("evil.example".to_owned(), 403),
        ("localhost.evil.example".to_owned(), 403),
        ("127.0.0.1.evil.example".to_owned(), 403),
        ("10.0.0.1".to_owned(), 403),
        ("a@localhost@evil".to_owned(), 400),
    ];
    for (host, status) in hosts {
        for path in ["/v1/cluster/status", "/health/live", "/metrics", "/nothing"] {
            let answer = node.ask("GET", path, &[&format!("host: {host}")], b"");
            let expected = if path == "/nothing" && status == 200 { 404 } else { status };
            assert_eq!(answer.status, expected, "{host} {path}: {answer:?}");
        }
    }
    let refused = node.ask("GET", "/v1/cluster/status", &["host: evil.example"], b"");
    assert_eq!(refused.code(), "host_not_allowed");
    let absolute =
        "GET http://evil.example/v1/cluster/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert_eq!(exchange(node.api, absolute.as_bytes()).code(), "host_not_allowed");
    let twice = "GET /health/live HTTP/1.1\r\nhost: localhost\r\nhost: evil\r\nconnection: close\r\n\r\n";
    assert_eq!(exchange(node.api, twice.as_bytes()).code(), "bad_request");
    let none = "GET /health/live HTTP/1.0\r\n\r\n";
    assert_eq!(exchange(node.api, none.as_bytes()).code(), "host_not_allowed");

    for (origin, status) in [
        (format!("http://127.0.0.1:{port}"), 200),
        ("http://127.0.0.1:1".to_owned(), 403),
        ("http://evil.example".to_owned(), 403),
        ("null".to_owned(), 403),
        (format!("http://127.0.0.1:{port}.evil.example"), 403),
    ] {
        let answer = node.ask("GET", "/v1/cluster/status", &[&format!("origin: {origin}")], b"");
        assert_eq!(answer.status, status, "{origin}");
    }
    let page = ["origin: http://evil.example", "content-type: application/json"];
    let refused = node.ask("POST", "/v1/cluster/leave", &page, b"{}");
    assert_eq!(refused.code(), "origin_not_allowed");
    assert_eq!(node.get("/health/ready").status, 200, "it has not left");
}

#[test]
fn an_api_that_is_open_to_the_network_makes_a_token_and_requires_it() {
    let place = Place::new();
    let open = ["--api-addr", "0.0.0.0:0"];
    let mut node = place.bootstrap("n1", &open);
    let file = node.data_dir.join("api.token");
    assert_eq!(std::fs::metadata(&file).expect("made").permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).expect("read");
    let token = token.trim();
    for path in ["/v1/cluster/status", "/metrics", "/v1/agents", "/nothing", "/v1/cluster/events"] {
        let refused = node.get(path);
        assert_eq!((refused.status, refused.code().as_str()), (401, "unauthorized"), "{path}");
        assert!(refused.head.to_ascii_lowercase().contains("www-authenticate: bearer"), "{refused:?}");
    }
    for wrong in [
        format!("Bearer {token}x"),
        format!("Bearer {}", &token[1..]),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Basic {token}"),
        token.to_owned(),
    ] {
        let refused = node.ask("GET", "/v1/cluster/status", &[&format!("authorization: {wrong}")], b"");
        assert_eq!(refused.status, 401, "{wrong}");
    }
    assert_eq!(node.get(&format!("/v1/cluster/status?token={token}")).status, 401);
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
    let right = format!("authorization: Bearer {token}");
    assert_eq!(node.ask("GET", "/v1/cluster/status", &[&right], b"").status, 200);
    // From another machine it has whatever name that machine uses.
    assert_eq!(node.ask("GET", "/v1/agents", &[&right, "host: node-1.example.com"], b"").status, 200);

    node.signal("TERM");
    assert_eq!(node.code(), Some(0));
    let again = place.bootstrap("n1", &open);
    assert_eq!(again.ask("GET", "/v1/cluster/status", &[&right], b"").status, 200, "the token stays");
}

#[test]
fn a_token_that_is_configured_is_required_on_loopback_too() {
    let place = Place::new();
    let file = place.path().join("token");
    let token = "0123456789abcdef0123456789abcdef";
    std::fs::write(&file, format!("{token}\n")).expect("written");
    let node = place.bootstrap("n1", &["--token-file", file.to_str().expect("text")]);
    assert_eq!(node.get("/v1/cluster/status").status, 401);
    let right = format!("authorization: bearer {token}");
    assert_eq!(node.ask("GET", "/v1/cluster/status", &[&right], b"").status, 200);
    assert_eq!(node.ask("GET", "/v1/cluster/status", &[&right, "host: evil.example"], b"").status, 403);
    assert!(!node.data_dir.join("api.token").exists());
}

#[test]
fn events_resume_by_header_and_by_query_and_tell_of_a_gap() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let mut live = Events::open(node.api, "/v1/cluster/events", &[]);
    node.post("/v1/agents", &echo("echo")).json();
    let first = live.next();
    assert_eq!(
        (first.data["type"].as_str(), first.data["state"].as_str()),
        (Some("agent"), Some("starting"))
    );
    assert_eq!(first.data["sequence"].as_u64(), first.id, "the id is the number");
    let second = live.next();
    assert_eq!(second.data["state"], "running");

    let number = first.id.expect("numbered");
    let by_query = format!("/v1/cluster/events?after={number}");
    let by_header = format!("last-event-id: {number}");
    for mut resumed in [
        Events::open(node.api, &by_query, &[]),
        Events::open(node.api, "/v1/cluster/events?after=0", &[&by_header]),
    ] {
        let next = resumed.next();
        assert_eq!((next.id, next.name.as_str()), (second.id, ""));
    }
    let mut lost = Events::open(node.api, "/v1/cluster/events?after=1000000", &[]);
    let gap = lost.next();
    assert_eq!((gap.name.as_str(), gap.id, &gap.data), ("gap", None, &json!({"after": 1_000_000})));
}

#[test]
fn watchers_are_bounded_and_a_place_is_free_again_when_one_goes() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let mut watchers: Vec<_> = (0..limits::API_WATCHERS_MAX)
        .map(|_| Events::open(node.api, "/v1/cluster/events?after=0", &[]))
        .collect();
    let refused = node.get("/v1/cluster/events");
    assert_eq!((refused.status, refused.code().as_str()), (503, "too_many_watchers"));
    assert_eq!(node.get("/v1/cluster/status").status, 200, "others are served");
    watchers.pop();
    // The node notices the end of a connection a moment after it was closed.
    let begun = std::time::Instant::now();
    while !first_line(&node, "/v1/cluster/events").contains(" 200 ") {
        assert!(begun.elapsed() < running::LONG, "the place is never free");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn first_line(node: &running::Running, path: &str) -> String {
    use std::io::{BufRead, BufReader};
    let mut stream = TcpStream::connect(node.api).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", node.api).expect("written");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("read");
    line
}

#[test]
fn health_and_metrics_follow_the_node() {
    let place = Place::new();
    let metrics = ["--metrics-addr", "127.0.0.1:0"];
    let mut node = place.bootstrap("n1", &metrics);
    let told = node.wait_for_log("metrics");
    assert_eq!(node.get("/health/ready").json(), json!({"status": "healthy", "mode": "healthy"}));
    assert_eq!(node.get("/health/live").json(), json!({"status": "live"}));
    let own: std::net::SocketAddr = told["address"].as_str().expect("text").parse().expect("an address");
    for api in [node.api, own] {
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\n\r\n");
        let shown = exchange(api, request.as_bytes());
        assert!(shown.head.contains("text/plain; version=0.0.4"), "{shown:?}");
        assert!(shown.body.contains("shoal_cluster_nodes{status=\"alive\"} 1"), "{shown:?}");
    }
    let request = format!("GET /v1/cluster/status HTTP/1.1\r\nhost: {own}\r\nconnection: close\r\n\r\n");
    assert_eq!(exchange(own, request.as_bytes()).code(), "no_such_path");
    let watcher = Events::open(node.api, "/v1/cluster/events", &[]);
    node.signal("TERM");
    assert_eq!(node.code(), Some(0));
    assert!(watcher.ends());
    let forced = |line: &Value| line["message"] == "the API stops with answers under way";
    assert!(!node.rest_of_log().iter().any(forced), "a watcher does not hold the node up");
}

#[test]
fn a_node_that_has_not_found_its_mesh_is_live_and_not_ready() {
    let place = Place::new();
    // A socket that nobody reads: the port is taken, and no node answers there.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
    let seed = silent.local_addr().expect("bound").to_string();
    let mut node = place.start("n1", &["--join", &seed]);
    let ready = node.get("/health/ready");
    assert_eq!((ready.status, ready.body.as_str()), (503, r#"{"status":"joining"}"#));
    assert_eq!(node.get("/health/live").status, 200);
    let status = node.get("/v1/cluster/status").json();
    assert_eq!((&status["status"], &status["mesh_id"]), (&json!("joining"), &Value::Null));
    node.signal("TERM");
    assert_eq!(node.code(), Some(0));
}

#[test]
fn an_agent_on_several_nodes_must_be_named_with_its_node() {
    let place = Place::new();
    let first = place.bootstrap("n1", &[]);
    let _second = place.join("n2", &first);
    for node in ["n1", "n2"] {
        let mut deploy = echo("echo");
        deploy["node"] = json!(node);
        first.post("/v1/agents", &deploy).json();
    }
    for (method, path) in
        [("GET", "/v1/agents/echo"), ("GET", "/v1/agents/echo/logs"), ("DELETE", "/v1/agents/echo")]
    {
        let refused = first.ask(method, path, &[], b"");
        assert_eq!((refused.status, refused.code().as_str()), (409, "ambiguous_agent"));
        let problem: Value = serde_json::from_str(&refused.body).expect("JSON");
        assert_eq!(problem["nodes"], json!(["n1", "n2"]));
    }
    assert_eq!(first.get("/v1/agents/echo?node=n2").json()["node"], "n2");
    let pinged = first.post("/v1/cluster/ping", &json!({"node": "n2", "count": 3})).json();
    assert_eq!(pinged["seconds"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_node_leaves_when_it_is_told_to_and_answers_before_it_ends() {
    let place = Place::new();
    let first = place.bootstrap("n1", &[]);
    let mut second = place.join("n2", &first);
    let left = first.post("/v1/cluster/leave", &json!({"node": "n2", "drain_ms": 1000}));
    assert_eq!(left.json(), json!({"node": "n2"}));
    assert_eq!(second.code(), Some(0));
    let mut first = first;
    assert_eq!(first.post("/v1/cluster/leave", &json!({})).json(), json!({"node": "n1"}));
    assert_eq!(first.code(), Some(0));
}

#[test]
fn a_slow_body_and_a_slow_head_hold_no_connection_for_ever() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let open = || {
        let stream = TcpStream::connect(node.api).expect("connected");
        stream.set_read_timeout(Some(limits::API_READ_DEADLINE + Duration::from_secs(10))).expect("set");
        stream
    };
    let (mut body, mut head, idle) = (open(), open(), open());
    write!(
        body,
        "POST /v1/messages HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{",
        node.api
    )
    .expect("written");
    write!(head, "GET /v1/cluster/status HTTP/1.1\r\nhost: ").expect("written");
    let slow = read_answer(body);
    assert_eq!((slow.status, slow.code().as_str()), (408, "body_too_slow"));
    for mut stream in [head, idle] {
        use std::io::Read;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("closed, not left open");
    }
}
