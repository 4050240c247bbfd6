//! `deploy --file`: an agent as its manifest describes it, on a real node.

#[path = "running/mod.rs"]
mod running;

use std::fs;

use running::Place;
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
