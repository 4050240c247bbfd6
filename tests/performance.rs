//! `shoal cluster performance`: what is shown was measured, on the way that all messages take.

mod running;

use std::process::Stdio;

use running::{Place, Running, Told, shoal};
use serde_json::{Value, json};

fn measure(node: &Running, body: &Value) -> Value {
    let answer = node.post("/v1/cluster/performance", body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

fn row<'a>(measured: &'a Value, name: &str) -> &'a Value {
    let rows = measured["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}: {measured}"))
}

/// Messages of this node that were delivered.
fn delivered(node: &Running) -> u64 {
    let text = node.get("/metrics").body;
    let line = text.lines().find(|line| line.starts_with("shoal_messages_total{outcome=\"delivered\"}"));
    line.and_then(|line| line.rsplit_once(' ')).map_or(0, |(_, count)| count.parse().expect("a number"))
}

#[test]
fn both_routes_and_a_start_are_measured_by_messages_that_are_counted_and_nothing_stays() {
    let place = Place::new();
    let first = place.bootstrap("n1", &[]);
    let second = place.join("n2", &first);
    let (before, before_there) = (delivered(&first), delivered(&second));
    let measured = measure(&first, &json!({}));
    let (local, remote) = (row(&measured, "local_route"), row(&measured, "remote_route"));
    assert_eq!((&local["node"], &remote["node"]), (&json!("n1"), &json!("n2")));
    for route in [local, remote] {
        assert_eq!((&route["count"], &route["failed"]), (&json!(1000), &json!(0)), "{route}");
    }
    let rows = measured["rows"].as_array().expect("rows");
    for row in rows {
        let seconds = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"));
        assert!(seconds("p50_seconds") > 0.0 && seconds("p99_seconds") >= seconds("p50_seconds"), "{row}");
        assert_eq!(row["reason"], Value::Null, "{row}");
        let p99_missed = row["target_p99_seconds"].as_f64().is_some_and(|max| seconds("p99_seconds") > max);
        let is_missed = p99_missed || seconds("p50_seconds") > seconds("target_p50_seconds");
        assert_eq!(row["status"], if is_missed { "missed" } else { "met" }, "{row}");
    }
    let local_p50 = local["p50_seconds"].as_f64().expect("measured");
    assert!(remote["p50_seconds"].as_f64().expect("measured") > local_p50, "the other node is farther");
    assert_eq!(delivered(&first) - before, 2000, "each message took the way of all messages");
    assert_eq!(delivered(&second), before_there, "those that it only answers are the sender's");
    for path in ["/v1/agents", "/v1/modules"] {
        assert_eq!(first.get(path).json(), json!([]), "{path}");
    }
}

#[test]
fn a_node_without_a_peer_measures_the_rest_and_says_why_not_that() {
    let place = Place::new();
    let alone = place.bootstrap("n1", &[]);
    let before = delivered(&alone);
    let measured = measure(&alone, &json!({}));
    let remote = row(&measured, "remote_route");
    assert_eq!((&remote["status"], &remote["node"]), (&json!("not_measured"), &Value::Null));
    assert_eq!((&remote["p50_seconds"], &remote["count"]), (&Value::Null, &json!(0)));
    assert!(remote["reason"].as_str().is_some_and(|why| why.contains("reaches no other")), "{remote}");
    assert_eq!(delivered(&alone) - before, 1000);

    let told = alone.shoal(&["cluster", "performance"]);
    let line = told.out.lines().find(|line| line.starts_with("remote route")).expect("a line");
    assert!(line.ends_with("0        - (this node reaches no other)"), "{line}");
    let is_missed = told.out.contains("missed");
    assert_eq!(told.code, Some(i32::from(is_missed)), "{}{}", told.out, told.err);
    let told = alone.shoal(&["cluster", "performance", "-o", "json"]);
    assert_eq!(row(&told.json(), "local_route")["count"], 1000);
}

#[test]
fn one_measurement_at_a_time_and_only_to_a_node_that_is_there() {
    let place = Place::new();
    let first = place.bootstrap("n1", &[]);
    let second = place.join("n2", &first);
    for (peer, status, code) in [("n9", 404, "unknown_node"), ("n1", 400, "bad_request")] {
        let answer = first.post("/v1/cluster/performance", &json!({"peer": peer}));
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{peer}");
    }
    // A peer that stands still holds a measurement for long enough.
    second.signal("STOP");
    let begin = || {
        let mut command = shoal();
        command.args(["cluster", "performance", "--peer", "n2", "--api", &first.url()]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let both = [begin(), begin()].map(|child| Told::of(child.wait_with_output().expect("it ends")));
    second.signal("CONT");
    let refused =
        both.iter().filter(|told| told.err.contains("the one place for measurements on n1 is full"));
    assert_eq!(refused.map(|told| told.code).collect::<Vec<_>>(), [Some(1)], "{both:?}");
}

#[test]
fn what_answers_measurements_can_be_neither_deployed_nor_sent_to() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let spec = json!({"name": "shoal-performance", "source": {"kind": "native", "builtin": "echo"}});
    let refused = node.post("/v1/agents", &spec);
    assert_eq!((refused.status, refused.code().as_str()), (400, "bad_request"));
    assert!(refused.body.contains("kept for measurements"), "{refused:?}");
    let message = json!({"to": "shoal-performance@n1", "content": "x", "want": "answer"});
    let refused = node.post("/v1/messages", &message);
    assert_eq!((refused.status, refused.code().as_str()), (404, "unknown_agent"));
}
