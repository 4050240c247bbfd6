//! The folder of manifests: agents that come, change and go with their files, on a real node.

#[path = "running/mod.rs"]
mod running;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use running::{Answer, Place, Running};
use serde_json::{Value, json};

/// Answers with the word that it was given.
const SAYER: &str = r#"#!/usr/bin/env python3
import json, sys
print('{"type":"ready"}', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "message":
        print(json.dumps({"type": "reply", "to": message["id"], "content": sys.argv[1]}), flush=True)
"#;

struct Agents {
    place: Place,
    folder: PathBuf,
}

impl Agents {
    fn new() -> Self {
        let place = Place::new();
        let folder = place.path().join("agents");
        fs::create_dir(&folder).expect("made");
        let agents = Self { place, folder };
        agents.write_script("sayer.py");
        agents
    }

    fn node(&self) -> Running {
        self.place.bootstrap("n1", &["--agents-dir", self.folder.to_str().expect("text")])
    }

    fn again(&self, node: Running) -> Running {
        drop(node);
        let node = self.place.start("n1", &["--agents-dir", self.folder.to_str().expect("text")]);
        node.until("/health/ready", |answer| answer.status == 200);
        node
    }

    fn write_script(&self, file: &str) {
        fs::write(self.folder.join(file), SAYER).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.folder.join(file), mode).expect("set");
    }

    /// A manifest of an agent that says `word`.
    fn write(&self, file: &str, name: &str, word: &str) {
        self.write_text(
            file,
            &format!("name: {name}\nsource: ./sayer.py\nargs: [{word}]\ntopics: [words]\n"),
        );
    }

    /// As an editor does: under another name first.
    fn write_text(&self, file: &str, text: &str) {
        fs::write(self.folder.join(".new"), text).expect("written");
        fs::rename(self.folder.join(".new"), self.folder.join(file)).expect("renamed");
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.folder.join(file)).expect("removed");
    }
}

fn says(node: &Running, agent: &str) -> Option<String> {
    let answer = node.post("/v1/messages", &json!({"to": agent, "content": "say it"}));
    (answer.status == 200).then(|| answer.json()["content"].as_str().expect("text").to_owned())
}

fn names(answer: &Answer) -> Vec<String> {
    let agents = answer.json();
    let running = agents.as_array().expect("a list").iter().filter(|agent| agent["state"] == "running");
    running.map(|agent| agent["name"].as_str().expect("text").to_owned()).collect()
}

fn until_run(node: &Running, wanted: &[&str]) {
    node.until("/v1/agents", |answer| names(answer) == wanted);
}

fn until_says(node: &Running, agent: &str, word: &str) {
    node.until("/v1/agents", |_| says(node, agent).as_deref() == Some(word));
}

fn until_complaints(node: &Running, count: usize) {
    let line = format!("shoal_folder_complaints {count}");
    node.until("/metrics", |answer| answer.body.lines().any(|other| other == line));
}

/// Waits until the log has a complaint with these words.
fn complaint(node: &Running, words: &str) -> Value {
    loop {
        let entry = node.wait_for_log("a manifest is not followed");
        if entry.to_string().contains(words) {
            return entry;
        }
    }
}

#[test]
fn agents_come_change_and_go_with_their_manifests() {
    let agents = Agents::new();
    agents.write("one.yaml", "one", "first");
    let node = agents.node();
    until_says(&node, "one", "first");
    agents.write("two.yml", "two", "other");
    agents.write_text("echo.yaml", "name: echo\nsource: echo\n");
    agents.write_text("notes.txt", "name: three\nsource: echo\n");
    until_run(&node, &["echo", "one", "two"]);
    let info = node.get("/v1/agents/two").json();
    assert_eq!((&info["of_folder"], &info["topics"]), (&json!(true), &json!(["words"])));
    assert!(node.shoal(&["agent", "info", "two"]).out.contains("a manifest in --agents-dir"));

    agents.write("one.yaml", "one", "second");
    until_says(&node, "one", "second");
    agents.remove("two.yml");
    until_run(&node, &["echo", "one"]);
    // Another name in the same file is another agent.
    agents.write("one.yaml", "uno", "second");
    until_run(&node, &["echo", "uno"]);

    // What changes while the node is down.
    agents.write("uno.yaml", "two", "back");
    agents.remove("echo.yaml");
    let node = agents.again(node);
    until_run(&node, &["two", "uno"]);
    until_says(&node, "two", "back");
    // An agent that is stopped by hand while its manifest lies there comes back.
    let restarts = node.get("/v1/agents/uno").json()["pid"].clone();
    assert_eq!(node.shoal(&["agent", "stop", "uno"]).code, Some(0));
    until_says(&node, "uno", "second");
    assert_ne!(node.get("/v1/agents/uno").json()["pid"], restarts);
    until_complaints(&node, 0);
}

#[test]
fn a_manifest_that_cannot_be_read_is_told_and_changes_nothing() {
    let agents = Agents::new();
    agents.write("one.yaml", "one", "first");
    agents.write("two.yaml", "two", "other");
    let node = agents.node();
    until_run(&node, &["one", "two"]);
    let pid = node.get("/v1/agents/one").json()["pid"].clone();
    agents.write_text("one.yaml", "name: one\nsuorce: /bin/sh\n");
    let told = complaint(&node, "suorce").to_string();
    assert!(told.contains("one.yaml:2: suorce: there is no such key: did you mean source?"), "{told}");
    until_complaints(&node, 1);
    // What goes meanwhile goes, and what cannot be read runs on as it was.
    agents.remove("two.yaml");
    until_run(&node, &["one"]);
    assert_eq!(
        (says(&node, "one").as_deref(), &node.get("/v1/agents/one").json()["pid"]),
        (Some("first"), &pid)
    );

    // After a start it is not known what the manifest was about: nothing is stopped.
    agents.write("two.yaml", "two", "other");
    until_run(&node, &["one", "two"]);
    agents.remove("two.yaml");
    let node = agents.again(node);
    complaint(&node, "no agent of the folder is stopped");
    agents.write_text("echo.yaml", "name: echo\nsource: echo\n");
    until_run(&node, &["echo", "one", "two"]);
    agents.write("one.yaml", "one", "mended");
    until_says(&node, "one", "mended");
    until_run(&node, &["echo", "one"]);
    until_complaints(&node, 0);
}

#[test]
fn what_is_in_the_way_of_a_manifest_is_told_and_over_when_it_is_gone() {
    let agents = Agents::new();
    agents.write("one.yaml", "one", "first");
    let node = agents.node();
    until_says(&node, "one", "first");
    assert_eq!(node.shoal(&["deploy", "echo", "--name", "mine"]).code, Some(0));
    agents.write("mine.yaml", "mine", "not");
    complaint(&node, "was deployed by hand");
    assert_eq!(says(&node, "mine").as_deref(), Some("say it"));
    agents.write("a-copy.yaml", "one", "again");
    complaint(&node, "one.yaml describes an agent one already");
    agents.write_text("late.yaml", "name: late\nsource: ./late.py\nargs: [late]\n");
    complaint(&node, "agent late: it could not be started");
    assert!(Command::new("mkfifo").arg(agents.folder.join("pipe.yaml")).status().expect("ran").success());
    complaint(&node, "pipe.yaml is no file");
    until_complaints(&node, 4);
    assert_eq!(says(&node, "one").as_deref(), Some("first"));

    assert_eq!(node.shoal(&["agent", "stop", "mine"]).code, Some(0));
    agents.remove("a-copy.yaml");
    agents.remove("pipe.yaml");
    agents.write_script("late.py");
    until_says(&node, "mine", "not");
    until_says(&node, "late", "late");
    until_complaints(&node, 0);
}

#[test]
fn a_folder_that_is_empty_or_away_stops_nothing_at_once() {
    let agents = Agents::new();
    agents.write("one.yaml", "one", "first");
    let node = agents.node();
    until_says(&node, "one", "first");
    let away = agents.place.path().join("away");
    fs::rename(&agents.folder, &away).expect("moved");
    complaint(&node, "it cannot be read");
    fs::create_dir(&agents.folder).expect("made");
    complaint(&node, "the folder has no manifests");
    let mut node = agents.again(node);
    complaint(&node, "the folder has no manifests");
    // What it runs lies in the folder that is away.
    fs::remove_dir(&agents.folder).expect("removed");
    fs::rename(&away, &agents.folder).expect("moved");
    until_says(&node, "one", "first");
    until_complaints(&node, 0);
    node.signal("TERM");
    assert_eq!(node.code(), Some(0));
}
