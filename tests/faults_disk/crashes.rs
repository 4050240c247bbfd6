//! Nodes that end at a chosen point of a write, as `kill -9` would end them.

use super::*;

/// A single node that ends at the point while a client writes one key after the other; then what it acknowledged, and
/// the key that it did not, after a start.
fn ends_at(point: &str) -> (Vec<String>, String, Place, Running) {
    let place = Place::new();
    let mut node = mesh(&place, 1).remove(0);
    node.signal("TERM");
    assert_eq!(node.code(), Some(0));
    let mut command = place.command("n1", &[]);
    command.env("SHOAL_CRASH_AT", point);
    let mut node = Running::start(command, place.data_dir("n1"));
    healthy(&node);
    let mut acknowledged = Vec::new();
    let last = loop {
        let key = format!("k{:03}", acknowledged.len());
        assert!(acknowledged.len() < 100, "{point} was not reached");
        let told = node.shoal(&["state", "put", &key, "one"]);
        if told.code != Some(0) {
            is_told_plainly(&told);
            break key;
        }
        acknowledged.push(key);
    };
    assert_eq!(node.code(), None, "it was ended by a signal");
    assert!(!acknowledged.is_empty(), "{point}: it took writes before it ended");
    let node = place.start("n1", &[]);
    healthy(&node);
    knows(&node, acknowledged.iter().cloned(), "one");
    (acknowledged, last, place, node)
}

/// The client hears at once that it does not know what became of its write.
fn is_told_plainly(told: &Told) {
    assert_eq!(told.out, "", "{told:?}");
    assert!(told.err.starts_with("shoal: ") && told.err.lines().count() == 1, "{told:?}");
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release has no crash points")]
fn fault_01_a_write_whose_node_dies_before_it_is_written_is_an_error_and_nowhere() {
    let (_, last, _place, node) = ends_at("pre_begin:20");
    assert_eq!(value(&node, &last), None);
    written(&node, &last, "two");
    assert_eq!(value(&node, &last).as_deref(), Some("two"));
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release has no crash points")]
fn fault_02_a_write_whose_node_dies_before_it_is_committed_is_an_error_and_nowhere() {
    let (_, last, _place, node) = ends_at("in_transaction:20");
    assert_eq!(value(&node, &last), None);
    written(&node, &last, "two");
    let state = node.get(&format!("/v1/state/{last}")).json();
    assert_eq!((&state["value"], &state["siblings"]), (&json!("two"), &json!([])));
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release has no crash points")]
fn fault_03_a_write_whose_node_dies_before_it_answers_can_be_made_again_without_harm() {
    let (acknowledged, last, _place, node) = ends_at("post_commit:20");
    // The client that heard nothing tries again, whatever became of the first.
    written(&node, &last, "one");
    let state = node.get(&format!("/v1/state/{last}")).json();
    assert_eq!((&state["value"], &state["siblings"]), (&json!("one"), &json!([])));
    let page = node.get("/v1/state").json();
    assert_eq!(page["entries"].as_array().map(Vec::len), Some(acknowledged.len() + 1));
}
