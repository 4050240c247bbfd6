//! `deploy --file`: an agent as its manifest describes it, on a real node.

#[path = "running/mod.rs"]
mod running;

use std::fs;

use std::process::Command;

use running::{Place, Running};
use serde_json::json;

/// Answers with the word that it was given.
const SAYER: &str = r#"
import json, sys
print('{"type":"ready"}', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "message":
        print(json.dumps({"type": "reply", "to": message["id"], "content": sys.argv[1]}), flush=True)
"#;

#[test]
fn an_agent_is_deployed_as_its_manifest_describes_it() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let folder = place.path().join("agents");
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("sayer.py"), format!("#!/usr/bin/env python3\n{SAYER}")).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.join("sayer.py"), mode).expect("set");
    let file = folder.join("agent.yaml");
    let write = |text: &str| fs::write(&file, text).expect("written");
    let deploy =
        |more: &[&str]| node.shoal(&[&["deploy", "--file", file.to_str().expect("text")], more].concat());

    let tools = "tools: [{name: say, description: Says it., schema: {type: object, required: [what]}}, {name: stop}]\n";
    write(&format!(
        "name: one\nsource: ./sayer.py\nargs: [first]\ntopics: [words]\nbalance: key-hash\n{tools}"
    ));
    let told = deploy(&["--target-node", "n1"]);
    assert!(told.code == Some(0) && told.out.contains("agent one runs on n1"), "{told:?}");
    let asked = node.shoal(&["message", "ask", "--to", "one", "--content", "say it"]);
    assert_eq!(asked.out, "first", "{asked:?}");
    let info = node.get("/v1/agents/one").json();
    assert_eq!((&info["topics"], &info["balance"]), (&json!(["words"]), &json!("key-hash")));
    let say =
        json!({"name": "say", "description": "Says it.", "schema": {"type": "object", "required": ["what"]}});
    assert_eq!(info["tools"], json!([say, {"name": "stop", "description": "", "schema": {}}]));
    assert!(node.shoal(&["agent", "info", "one"]).out.contains("say, stop"));
    let told = deploy(&[]);
    assert!(told.code == Some(1) && told.err.contains("one"), "its name is taken: {told:?}");
    let with = |tools: serde_json::Value| {
        let source = json!({"kind": "native", "builtin": "echo"});
        node.post("/v1/agents", &json!({"name": "two", "source": source, "tools": tools}))
    };
    for (tools, words) in [
        (json!([{"name": "x", "schema": [1]}]), "the schema of the tool x: a JSON Schema is an object"),
        (json!([{"name": "x"}, {"name": "x"}]), "the tool x is given twice"),
        (
            json!([{"name": "x", "schema": {"a": "b".repeat(9000)}}]),
            "the schema of the tool x has 9008 bytes",
        ),
        (json!([{"nam": "x"}]), "nam"),
    ] {
        let refused = with(tools);
        assert!(refused.status == 400 && refused.body.contains(words), "{words}: {refused:?}");
    }

    // The flags and the file are not mixed.
    for more in
        [&["--name", "x"][..], &["--topic", "x"], &["--balance", "key-hash"], &["--fuel", "5"], &["echo"]]
    {
        assert_eq!(deploy(more).code, Some(2), "{more:?}");
    }
    write("name: one\nkind: x\nsuorce: y\n");
    let told = deploy(&[]);
    assert_eq!(told.code, Some(2));
    for words in
        ["agent.yaml:2: kind: \"x\" is not one of", "agent.yaml:3: suorce", "source: this key is needed"]
    {
        assert!(told.err.contains(words), "{told:?}");
    }
    fs::remove_file(&file).expect("removed");
    let told = deploy(&[]);
    assert!(told.code == Some(2) && told.err.contains("cannot be read"), "{told:?}");
    assert_eq!(node.shoal(&["deploy", "echo"]).code, Some(2), "a name is needed");
    assert_eq!(node.shoal(&["deploy", "--name", "x"]).code, Some(2), "a source is needed");
}

/// Starts a process of its own and says which; takes as many bytes as a message says.
const EATER: &str = r#"
import json, subprocess, sys
child = subprocess.Popen(["sleep", "1000"])
print('{"type":"ready"}', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] != "message":
        continue
    try:
        bytearray(int(message["content"]))
        answer = {"type": "reply", "to": message["id"], "content": str(child.pid)}
    except MemoryError:
        answer = {"type": "failure", "to": message["id"], "reason": "there is no memory"}
    print(json.dumps(answer), flush=True)
"#;

/// What the system keeps of a process, as two columns: the soft and the hard bound.
fn bounds(pid: &str, name: &str) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("such a bound");
    let mut columns = line.split_whitespace().map(str::to_owned);
    let mut column = || columns.next().expect("a column");
    (column(), column())
}

#[test]
fn limits_of_a_manifest_hold_for_an_agent_and_for_what_it_starts() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let file = place.path().join("agent.yaml");
    let script = place.path().join("eater.py");
    fs::write(&script, EATER).expect("written");
    let text = format!(
        "name: eater\nsource: python3\nargs: [{}]\nlimits: {{files: 64, memory_bytes: 536870912}}\n",
        script.display()
    );
    fs::write(&file, text).expect("written");
    let told = node.shoal(&["deploy", "--file", file.to_str().expect("text")]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let info = node.get("/v1/agents/eater").json();
    assert_eq!(info["limits"], json!({"files": 64, "memory_bytes": 512 << 20, "processes": null}));
    let ask = |bytes: u64| node.post("/v1/messages", &json!({"to": "eater", "content": bytes.to_string()}));
    let child = ask(1 << 20).json()["content"].as_str().expect("text").to_owned();
    for pid in [info["pid"].to_string(), child] {
        assert_eq!(bounds(&pid, "Max open files"), ("64".to_owned(), "64".to_owned()));
        let memory = (512_u64 << 20).to_string();
        assert_eq!(bounds(&pid, "Max address space"), (memory.clone(), memory));
    }
    let refused = ask(1 << 30);
    assert!(refused.status == 502 && refused.body.contains("there is no memory"), "{refused:?}");
    assert_eq!(ask(1 << 20).status, 200, "it goes on");
    // The node's own are as they were.
    assert_ne!(bounds(&node.pid().to_string(), "Max open files").1, "64");
}

#[test]
fn limits_that_cannot_be_kept_are_refused_with_the_bound() {
    let place = Place::new();
    let plain = place.command("n1", &["--bootstrap"]);
    let mut bounded = Command::new("sh");
    bounded.args(["-c", "ulimit -n 512 && ulimit -v 8000000 && exec \"$0\" \"$@\""]);
    bounded.arg(plain.get_program()).args(plain.get_args());
    let node = Running::start(bounded, place.data_dir("n1"));
    node.until("/health/ready", |answer| answer.status == 200);
    let sleeper = json!({"kind": "process", "protocol": "stdio", "command": "sleep", "args": ["1000"]});
    let deploy = |source: &serde_json::Value, limits: serde_json::Value| {
        node.post("/v1/agents", &json!({"name": "a", "source": source, "limits": limits}))
    };
    let mut wanted = vec![
        (json!({"files": 4}), 400, "limits: files must be 16 to 65536"),
        (json!({"memory_bytes": 1}), 400, "limits: memory_bytes must be 16777216 to"),
        (json!({"processes": 0}), 400, "limits: processes must be 1 to 32768"),
        (json!({"file": 64}), 400, "file"),
        (
            json!({"files": 513}),
            422,
            "its limits say files: 513, and its node may give no more than 512 itself",
        ),
        (
            json!({"memory_bytes": 1_u64 << 33}),
            422,
            "its limits say memory_bytes: 8589934592, and its node may give",
        ),
    ];
    if rustix::process::geteuid().is_root() {
        wanted.push((json!({"processes": 100}), 422, "which the system does not keep for root"));
    }
    for (limits, status, words) in wanted {
        let refused = deploy(&sleeper, limits);
        assert!(refused.status == status && refused.body.contains(words), "{words}: {refused:?}");
        assert_eq!(node.get("/v1/agents/a").status, 404, "nothing of it stays");
    }
    let refused = deploy(&json!({"kind": "native", "builtin": "echo"}), json!({"files": 64}));
    assert!(refused.status == 400 && refused.body.contains("limits are for process agents"), "{refused:?}");
    assert_eq!(deploy(&sleeper, json!({"files": 512})).status, 201);
}
