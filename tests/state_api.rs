//! The shared state over HTTP, as `docs/http-api.md` describes it.

mod running;

use std::collections::BTreeSet;

use running::{Answer, Place, Running};
use serde_json::{Value, json};

fn put(node: &Running, path: &str, body: &Value) -> Answer {
    node.ask("PUT", path, &["content-type: application/json"], body.to_string().as_bytes())
}

fn delete(node: &Running, path: &str) -> Answer {
    node.ask("DELETE", path, &[], b"")
}

fn node(place: &Place) -> Running {
    let node = place.bootstrap("n1", &[]);
    node.until("/v1/cluster/status", |answer| answer.json()["mode"] == "healthy");
    node
}

fn fields(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn a_key_has_the_documented_fields_and_its_context_replaces_it() {
    let place = Place::new();
    let node = node(&place);
    let written = put(&node, "/v1/state/a/b%20c", &json!({"value": "x"})).json();
    assert_eq!(fields(&written), BTreeSet::from(["dot", "sibling", "marked", "voters"]));
    assert_eq!(
        (&written["sibling"], &written["marked"], &written["voters"]),
        (&json!(false), &json!(false), &json!(1))
    );
    let state = node.get("/v1/state/a/b%20c").json();
    let documented = [
        "key",
        "node",
        "value",
        "encoding",
        "writer",
        "written_unix_ms",
        "dot",
        "policy",
        "siblings",
        "context",
        "mode",
        "age_seconds",
    ];
    assert_eq!(fields(&state), BTreeSet::from(documented));
    assert_eq!(
        (&state["key"], &state["value"], &state["encoding"]),
        (&json!("a/b c"), &json!("x"), &json!("text"))
    );
    assert_eq!(state["writer"], json!({"node": "n1", "slot": null, "epoch": null}));
    assert_eq!(
        (&state["dot"], &state["mode"], &state["age_seconds"]),
        (&written["dot"], &json!("healthy"), &Value::Null)
    );

    let context = state["context"].as_str().expect("a context");
    let again = put(
        &node,
        "/v1/state/a/b%20c",
        &json!({"value_base64": "/wA=", "context": context, "ack": "quorum"}),
    );
    assert_eq!(again.json()["sibling"], false);
    let state = node.get("/v1/state/a/b%20c?node=n1").json();
    assert_eq!((&state["value"], &state["encoding"]), (&json!("/wA="), &json!("base64")));
    let beside = put(&node, "/v1/state/a/b%20c", &json!({"value": "y", "context": context}));
    assert_eq!(beside.json()["sibling"], true);
    let state = node.get("/v1/state/a/b%20c").json();
    assert_eq!(state["siblings"].as_array().map(Vec::len), Some(2));
    let context = state["context"].as_str().expect("a context");
    assert_eq!(delete(&node, &format!("/v1/state/a/b%20c?context={context}&ack=local")).status, 200);
    assert_eq!(node.get("/v1/state/a/b%20c").code(), "no_such_key");
    assert_eq!(delete(&node, "/v1/state/a/b%20c").status, 404);
}

#[test]
fn keys_are_listed_page_by_page_in_order() {
    let place = Place::new();
    let node = node(&place);
    for n in 0..7 {
        assert_eq!(put(&node, &format!("/v1/state/p/{n}"), &json!({"value": n.to_string()})).status, 200);
    }
    put(&node, "/v1/state/q", &json!({"value": "no"}));
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = node.get(&format!("/v1/state?prefix=p/&limit=3{after}")).json();
        for entry in page["entries"].as_array().expect("a list") {
            seen.push(entry["value"].as_str().expect("text").to_owned());
        }
        if page["more"] == false {
            break;
        }
        after = format!("&after=p/{}", seen.last().expect("one"));
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5", "6"]);
    let all = node.get("/v1/state?all_nodes=true&key=q").json();
    assert_eq!(all["nodes"][0]["state"]["value"], "no");
    assert_eq!(node.get("/v1/state?all_nodes=true&key=none").json()["nodes"][0]["state"], Value::Null);
}

#[test]
fn bad_input_is_refused_with_a_code_and_changes_nothing() {
    let place = Place::new();
    let node = node(&place);
    let long = "k".repeat(513);
    let large = "v".repeat((64 << 10) + 1);
    for (path, body, status, code) in [
        (format!("/v1/state/{long}"), json!({"value": "x"}), 400, "bad_key"),
        ("/v1/state/a//b".to_owned(), json!({"value": "x"}), 400, "bad_key"),
        ("/v1/state/a/".to_owned(), json!({"value": "x"}), 400, "bad_key"),
        ("/v1/state/a%00".to_owned(), json!({"value": "x"}), 400, "bad_key"),
        ("/v1/state/a%FF".to_owned(), json!({"value": "x"}), 400, "bad_key"),
        ("/v1/state/a".to_owned(), json!({"value": large}), 413, "too_large"),
        ("/v1/state/a".to_owned(), json!({}), 400, "bad_request"),
        ("/v1/state/a".to_owned(), json!({"value": "x", "value_base64": "eA=="}), 400, "bad_request"),
        ("/v1/state/a".to_owned(), json!({"value_base64": "!"}), 400, "bad_request"),
        ("/v1/state/a".to_owned(), json!({"value": "x", "context": "nonsense"}), 400, "bad_context"),
        ("/v1/state/a".to_owned(), json!({"value": "x", "ack": "all"}), 400, "bad_json"),
        ("/v1/state/a".to_owned(), json!({"value": "x", "ttl": 1}), 400, "bad_json"),
        ("/v1/state/_mesh/policies/a".to_owned(), json!({"value": "max"}), 400, "bad_write"),
        ("/v1/state/_owned/n1/load".to_owned(), json!({"value": "x"}), 400, "bad_write"),
        ("/v1/policies/a".to_owned(), json!({"policy": "random"}), 400, "bad_request"),
    ] {
        let answer = put(&node, &path, &body);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path} {answer:?}");
    }
    for (path, status, code) in [
        ("/v1/state?limit=0", 400, "bad_request"),
        ("/v1/state?limit=1001", 400, "bad_request"),
        ("/v1/state?key=a", 400, "bad_request"),
        ("/v1/state?all_nodes=true", 400, "bad_request"),
        ("/v1/state?all_nodes=true&key=a&limit=3", 400, "bad_request"),
        ("/v1/state?colour=red", 400, "bad_query"),
        ("/v1/state/a?node=n9", 404, "unknown_node"),
        ("/v1/tickets/n1/1-1", 404, "unknown_ticket"),
        ("/v1/tickets/n1/nonsense", 400, "bad_request"),
        ("/v1/tickets/n9/1-1", 404, "unknown_node"),
        ("/v1/counters/none", 404, "no_such_key"),
        ("/v1/state-changes?after=x", 400, "bad_query"),
    ] {
        let answer = node.get(path);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}");
    }
    assert_eq!(delete(&node, "/v1/state/a?context=x").code(), "bad_context");
    assert_eq!(delete(&node, "/v1/policies/none").code(), "no_such_policy");
    assert_eq!(node.post("/v1/counters/c", &json!({"add": "1"})).code(), "bad_json");
    assert_eq!(node.get("/v1/state").json(), json!({"entries": [], "more": false}));
}

#[test]
fn a_context_of_writes_that_the_node_has_not_seen_is_ahead() {
    let place = Place::new();
    let (one, other) = (node(&place), Place::new());
    let stranger = node(&other);
    put(&stranger, "/v1/state/a", &json!({"value": "x"}));
    let context = stranger.get("/v1/state/a").json()["context"].clone();
    let ahead = put(&one, "/v1/state/a", &json!({"value": "y", "context": context}));
    assert_eq!((ahead.status, ahead.code().as_str()), (409, "context_ahead"));
}

#[test]
fn counters_are_summed_and_refuse_what_no_number_holds() {
    let place = Place::new();
    let node = node(&place);
    for add in [i64::MAX, -1, 1] {
        assert_eq!(node.post("/v1/counters/big", &json!({"add": add})).status, 200);
    }
    assert_eq!(node.get("/v1/counters/big").json(), json!({"name": "big", "value": i64::MAX, "adders": 1}));
    assert_eq!(node.post("/v1/counters/big", &json!({"add": 1})).code(), "bad_request");
    assert_eq!(node.get("/v1/counters/big").json()["value"], i64::MAX);
    put(&node, "/v1/state/_counter/odd/x", &json!({"value": "many"}));
    assert_eq!(node.get("/v1/counters/odd").code(), "bad_counter");
    assert_eq!(node.post("/v1/counters/a%2Fb", &json!({})).status, 200);
    assert_eq!(node.get("/v1/counters/a%2Fb").json()["value"], 1);
    assert_eq!(node.get("/v1/counters/a/b").json()["value"], 1, "a name is a text, however it is written");
}
