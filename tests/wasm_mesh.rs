//! WASM agents in a mesh, from the command line: uploaded to one node, run on another that never saw the file, there
//! again after a restart.
//!
//! Needs clang and lld for `wasm32-wasi`, and says so when they are missing.

#![cfg(feature = "wasm")]

mod running;
mod wasm;

use std::path::PathBuf;

use running::{Place, Running};
use serde_json::{Value, json};
use shoal::core::ids::ModuleId;
use shoal::core::limits;

#[track_caller]
fn done(node: &Running, words: &[&str]) -> String {
    let told = node.shoal(words);
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{words:?}: {told:?}");
    told.out
}

#[track_caller]
fn fails(node: &Running, words: &[&str], code: i32) -> String {
    let told = node.shoal(words);
    assert_eq!((told.code, told.out.as_str()), (Some(code), ""), "{words:?}: {told:?}");
    told.err
}

fn ask(node: &Running, to: &str, content: &str) -> String {
    done(node, &["message", "ask", "--to", to, "--content", content, "--deadline", "20s"])
}

/// Writes a component to a file, with so much of nothing behind it that it takes several parts.
fn file(place: &Place, name: &str, component: &[u8]) -> (PathBuf, ModuleId) {
    let padding = vec![7; 5 * limits::MODULE_PART_BYTES / 2];
    // A custom section: its number, its length, the length of its name, its name, what it holds.
    let mut section = b"\x03pad".to_vec();
    section.extend(padding);
    let mut bytes = [component, &[0]].concat();
    let mut length = section.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(section);
    let path = place.path().join(name);
    std::fs::write(&path, &bytes).expect("written");
    (path, ModuleId::of(&bytes))
}

fn module_file(node: &Running, module: &ModuleId) -> PathBuf {
    node.data_dir.join(format!("modules/{module}.wasm"))
}

fn bulk_opened(node: &Running) -> bool {
    let metrics = node.get("/metrics").body;
    metrics
        .lines()
        .any(|line| line.starts_with("shoal_transport_bulk_opened_total ") && !line.ends_with(" 0"))
}

#[test]
fn a_module_deployed_by_one_node_answers_on_another_that_never_saw_the_file_and_comes_back_with_it() {
    let place = Place::new();
    let first = place.bootstrap("n1", &[]);
    let second = place.join("n2", &first);
    let third = place.join("n3", &first);
    let (path, module) = file(&place, "notes.wasm", wasm::notes());
    let path = path.to_str().expect("text");
    done(&first, &["deploy", "echo", "--name", "echo"]);
    let deployed = done(
        &first,
        &[
            "deploy",
            path,
            "--name",
            "notes",
            "--kind",
            "wasm",
            "--target-node",
            "n3",
            "--grant-state",
            "notes/",
            "--grant-address",
            "echo",
        ],
    );
    assert_eq!(deployed, "agent notes runs on n3\n");
    assert!(module_file(&third, &module).exists() && module_file(&first, &module).exists());
    assert!(!module_file(&second, &module).exists(), "nobody else needs it");
    assert!(bulk_opened(&first), "it went beside the link");

    // Its words are those of the state and the mesh.
    third.until("/v1/cluster/status", |answer| answer.json()["mode"] == "healthy");
    second.until("/v1/agents", |answer| {
        answer
            .json()
            .as_array()
            .is_some_and(|all| all.iter().any(|a| a["name"] == "notes" && a["state"] == "running"))
    });
    assert_eq!(ask(&second, "notes", "put notes/a from an agent"), "done");
    third.until("/v1/state/notes/a", |answer| answer.status == 200);
    assert_eq!(done(&third, &["state", "get", "notes/a"]), "from an agent");
    assert_eq!(ask(&second, "notes", "ask echo hello"), "hello");
    let refused = fails(&second, &["message", "ask", "--to", "notes", "--content", "put other/a x"], 1);
    assert!(refused.contains("not_granted"), "{refused}");

    let info = done(&first, &["agent", "info", "notes", "-o", "json"]);
    let info: Value = serde_json::from_str(&info).expect("JSON");
    assert_eq!(
        info["source"],
        json!({
            "kind": "wasm", "module": module.to_string(), "instance": "long-lived",
            "grants": {"state": ["notes/"], "addresses": ["echo"]},
            "memory_bytes": limits::WASM_MEMORY_BYTES_DEFAULT, "fuel": limits::WASM_FUEL_DEFAULT,
        })
    );
    assert!(done(&first, &["agent", "info", "notes"]).contains("--grant-state notes/ --grant-address echo"));
    let listed = third.get("/v1/modules").json();
    assert_eq!((&listed[0]["module"], &listed[0]["in_use"]), (&json!(module.to_string()), &json!(true)));

    // It comes back with its node, without anybody else.
    for mut node in [first, second] {
        node.signal("TERM");
        node.code();
    }
    let mut third = third;
    third.signal("TERM");
    assert_eq!(third.code(), Some(0));
    let third = place.start("n3", &[]);
    third.until("/v1/agents", |answer| answer.json()[0]["state"] == "running");
    assert_eq!(ask(&third, "notes", "dice").len(), 1);
}

#[test]
fn what_an_instance_of_a_blueprint_writes_says_which_it_was_and_by_which_order_it_ran() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    node.until("/v1/cluster/status", |answer| answer.json()["mode"] == "healthy");
    let (path, _) = file(&place, "notes.wasm", wasm::notes());
    let path = path.to_str().expect("text");
    let grant = ["--grant-state", "notes/", "--instances", "1"];
    done(&node, &[&["deploy", path, "--name", "notes", "--kind", "wasm"][..], &grant].concat());
    let blueprint = node.until("/v1/blueprints/notes", |answer| answer.json()["status"]["running"] == 1);
    assert_eq!(ask(&node, "notes", "put notes/a kept"), "done");
    let told = done(&node, &["state", "get", "notes/a", "-o", "json"]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let epoch = &blueprint.json()["slots"][0]["epoch"];
    assert_eq!(told["writer"], json!({"node": "n1", "slot": "notes#0", "epoch": epoch}));
    done(&node, &["state", "put", "notes/b", "by-hand"]);
    let told = done(&node, &["state", "get", "notes/b", "-o", "json"]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["writer"], json!({"node": "n1", "slot": null, "epoch": null}));
}

#[test]
fn a_module_that_is_damaged_while_its_node_is_down_comes_anew_from_the_node_that_has_it() {
    let place = Place::new();
    let first = place.bootstrap("n1", &[]);
    let mut second = place.join("n2", &first);
    let (path, module) = file(&place, "tally.wasm", &wasm::tally());
    let path = path.to_str().expect("text");
    done(&first, &["deploy", path, "--name", "tally", "--kind", "wasm", "--target-node", "n2"]);
    assert_eq!(ask(&first, "tally", "x"), "1");
    second.signal("TERM");
    second.code();
    let kept = module_file(&second, &module);
    let mut bytes = std::fs::read(&kept).expect("there");
    bytes[300] ^= 1;
    std::fs::write(&kept, &bytes).expect("written");
    let second = place.start("n2", &[]);
    second.wait_for_log("the module's file is damaged; it is removed");
    // What the first has heard may be from before.
    for node in [&second, &first] {
        node.until("/v1/agents", |answer| answer.json()[0]["state"] == "running");
    }
    assert_eq!(ask(&first, "tally@n2", "x"), "1");
    bytes[300] ^= 1;
    assert_eq!(std::fs::read(&kept).expect("there again"), bytes);
}

#[test]
fn what_cannot_be_a_wasm_agent_is_refused_with_the_reason() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let write = |name: &str, bytes: &[u8]| {
        let path = place.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (script, core) = (write("agent.sh", b"#!/bin/sh\n"), write("core.wasm", &wasm::text("(module)")));
    let wasi = write("wasi.wasm", &wasm::text(r#"(component (import "wasi:io/poll@0.2.0" (instance)))"#));
    for (file, why) in
        [(&script, "does not begin as one"), (&core, "core module"), (&wasi, "WASI is not offered")]
    {
        let told = fails(&node, &["deploy", file, "--name", "bad", "--kind", "wasm"], 1);
        assert!(told.contains("n1 does not take the module") && told.contains(why), "{told}");
    }
    let tally = write("tally.wasm", &wasm::tally());
    let deploy = |flag, value, code| {
        fails(&node, &["deploy", &tally, "--name", "tally", "--kind", "wasm", flag, value], code)
    };
    let told = deploy("--memory-bytes", "9999999999", 1);
    assert!(told.contains("memory in bytes is 9999999999"), "{told}");
    let told = deploy("--memory-bytes", "100", 1);
    assert!(told.contains("its instance could not be made"), "{told}");
    deploy("--grant-address", "queue:x", 2);
    fails(&node, &["deploy", "echo", "--name", "e", "--fuel", "7"], 2);
    assert_eq!(node.get("/v1/agents").json(), json!([]), "nothing of it stays");

    // A module that nobody has.
    let module = ModuleId::of(b"nobody has it").to_string();
    let source = json!({"kind": "wasm", "module": module});
    let answer = node.post("/v1/agents", &json!({"name": "ghost", "source": source}));
    assert_eq!((answer.status, answer.code().as_str()), (422, "start_failed"), "{answer:?}");
    assert!(answer.body.contains("the node does not have it, and no peer gave it"), "{answer:?}");
    let unknown = json!({"kind": "wasm", "module": module, "wasi": true});
    let answer = node.post("/v1/agents", &json!({"name": "ghost", "source": unknown}));
    assert!(answer.body.contains("unknown field `wasi`"), "{answer:?}");
    let answer = node.ask("POST", "/v1/modules", &[], b"");
    assert_eq!((answer.status, answer.code().as_str()), (422, "bad_module"));
}
