//! The command line as its users meet it: what each command prints, and the exit code that scripts go by.

mod running;

use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;

use running::{Place, Running, Told, shoal};
use serde_json::{Value, json};

/// Says that it is ready and answers nothing.
const MUTE: &str = r#"echo '{"type":"ready"}'; cat >/dev/null"#;

/// Runs `shoal <line>` against a node; words are separated by spaces.
fn run(node: &Running, line: &str) -> Told {
    node.shoal(&line.split(' ').collect::<Vec<_>>())
}

/// Runs a command that should be done; gives what it printed.
#[track_caller]
fn done(node: &Running, line: &str) -> String {
    let told = run(node, line);
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{line}: {told:?}");
    told.out
}

/// Runs a command that should fail; gives its one line on stderr.
#[track_caller]
fn fails(node: &Running, line: &str, code: i32) -> String {
    let told = run(node, line);
    assert_eq!((told.code, told.out.as_str()), (Some(code), ""), "{line}: {told:?}");
    assert!(told.err.starts_with("shoal: ") && told.err.lines().count() == 1, "{line}: {told:?}");
    told.err
}

#[test]
fn a_first_user_deploys_asks_looks_and_stops() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    assert_eq!(done(&node, "deploy echo --name echo"), "agent echo runs on n1\n");
    assert_eq!(done(&node, "message ask --to echo --content hello"), "hello");
    assert_eq!(done(&node, "message ask --to echo@n1 --content -x"), "-x");
    assert!(done(&node, "message send --to echo --content hello").ends_with(" is with echo\n"));
    assert_eq!(
        done(&node, "agent list"),
        "NAME  NODE  KIND    STATE    RESTARTS  REASON\necho  n1    native  running  0         -\n"
    );
    assert!(done(&node, "agent info echo").contains("\nState:        running\n"));
    assert_eq!(done(&node, "agent logs echo"), "");
    let status = done(&node, "cluster status");
    assert!(
        status.starts_with("Status:        healthy\nMode:          healthy\nNode:          n1\n"),
        "{status}"
    );
    assert!(status.contains("Queued writes: 0\n"), "{status}");
    assert!(done(&node, "cluster ping n1 --count 2").lines().count() == 3);
    assert_eq!(done(&node, "agent stop echo"), "agent echo on n1 has stopped\n");
    assert_eq!(done(&node, "cluster leave --drain-timeout 1s"), "n1 has left the mesh and stopped\n");
}

#[test]
fn members_are_a_table_or_json_and_can_be_chosen() {
    let place = Place::new();
    let first = place.bootstrap("n1", &["--region", "eu", "--label", "gpu=no"]);
    let _second = place.join("n2", &first);
    let table = done(&first, "cluster members");
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NODE-ID", "STATUS", "ADDRESS", "AGENTS", "CPU", "MEMORY", "REGION", "RTT"]);
    assert_eq!((&lines[1][..2], lines[1][6]), (&["n1", "alive"][..], "eu"));
    assert_eq!((&lines[2][..2], lines[2][6]), (&["n2", "alive"][..], "-"));
    assert_eq!(lines[1][7], "-", "no way to itself");
    assert!(lines[2][7].ends_with("ms") || lines[2][7].ends_with("µs"), "{table}");
    let chosen = |line: &str| {
        let json: Value = serde_json::from_str(&done(&first, line)).expect("JSON");
        let names = json.as_array().expect("a list").iter().map(|member| member["node_id"].clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(chosen("cluster members -o json"), ["n1", "n2"]);
    assert_eq!(chosen("cluster members -o json --where gpu=no"), ["n1"]);
    assert_eq!(chosen("cluster members -o json --where status=alive --where region="), ["n2"]);
    assert_eq!(chosen("cluster members -o json --where gpu=yes"), Vec::<Value>::new());
    let regionless = done(&first, "cluster members --where node_id=n2");
    assert!(
        regionless.lines().next().is_some_and(|heads| heads.ends_with("RTT") && !heads.contains("REGION")),
        "{regionless}"
    );
}

#[test]
fn each_kind_of_failure_has_its_exit_code_and_one_sentence() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    done(&node, "deploy echo --name echo");
    let mute = node.shoal(&["deploy", "/bin/sh", "--name", "mute", "--", "-c", MUTE]);
    assert_eq!(mute.code, Some(0), "{mute:?}");
    assert!(fails(&node, "message ask --to nobody --content x", 1).contains("no agent named nobody"));
    assert!(fails(&node, "deploy echo --name echo", 1).contains("already has an agent named echo"));
    assert!(fails(&node, "deploy ./nothing-here --name a", 1).contains("nothing-here"));
    assert!(fails(&node, "deploy native:fax --name a", 1).contains("the only one is `echo`"));
    assert!(fails(&node, "agent info nobody", 1).contains("nobody"));
    assert!(fails(&node, "cluster ping n9", 1).contains("no node named n9"));
    assert!(fails(&node, "cluster leave --node n9", 1).contains("n9"));
    assert!(fails(&node, "message ask --to mute --content x --deadline 20ms", 4).contains("within 20 ms"));
    assert!(fails(&node, "message ask --to echo --content @/nowhere/at-all", 2).contains("/nowhere/at-all"));
    assert!(fails(&node, "deploy echo --name a --kind http", 2).contains("built in"));
    assert!(fails(&node, "cluster status --api https://127.0.0.1:1", 2).contains("plain HTTP"));
    assert!(fails(&node, "cluster status --token-file /nowhere/at-all", 2).contains("/nowhere/at-all"));
    let nobody = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound");
    let unreachable = fails(&node, &format!("cluster status --api http://{nobody}"), 3);
    assert!(unreachable.contains("shoal server start"), "{unreachable}");
}

#[test]
fn a_wrong_command_line_is_bad_usage_and_says_what_is_wrong() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    for line in [
        "",
        "frobnicate",
        "cluster",
        "cluster members --colour",
        "cluster members -o yaml",
        "cluster members --where region",
        "cluster ping",
        "cluster ping a/b",
        "cluster ping n1 --count 0",
        "cluster leave --drain-timeout 5",
        "cluster watch --after x",
        "deploy echo",
        "deploy echo --name a/b",
        "deploy echo --name a --kind wasm",
        "deploy echo --name a --instances several",
        "deploy echo --name a --instances 3 --target-node n1",
        "deploy echo --name a --placement-strategy spread",
        "deploy echo --name a --replicas 3",
        "plan --file none.yaml",
        "apply",
        "agent scale web many",
        "cluster rebalance --max-moves 0",
        "agent logs echo --lines 0",
        "message ask --to echo",
        "message ask --to topic:x --content x",
        "message ask --to echo --content x --deadline 0s",
        "message ask --to echo --content x --deadline 2h",
        "message ask --to echo --content x --performative shout",
        "message ask --to echo --content x --guarantee exactly-once",
        "server start --node-id n1 --bootstrap --join a",
        "server start --node-id a/b",
        "completions basic",
    ] {
        let told = run(&node, line);
        assert_eq!((told.code, told.out.as_str()), (Some(2), ""), "{line}: {told:?}");
        assert!(!told.err.is_empty(), "{line}");
    }
}

#[test]
fn a_program_that_is_no_node_is_told_apart_from_one_that_refuses() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("bound");
    let stranger = std::thread::spawn(move || {
        for answer in
            ["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "HTTP/1.1 500 Oh\r\n\r\n", "SSH-2.0\r\n\r\n"]
        {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.write_all(answer.as_bytes()).expect("written");
            // The client's request is read, so that closing does not reset what it has not read yet.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    for _ in 0..3 {
        fails(&node, &format!("cluster status --api http://{address}"), 3);
    }
    stranger.join().expect("it ended");
}

#[test]
fn the_token_comes_from_a_file_or_the_environment() {
    let place = Place::new();
    let token = "0123456789abcdef0123456789abcdef";
    let file = place.path().join("token");
    std::fs::write(&file, token).expect("written");
    let file = file.to_str().expect("text");
    let node = place.start("n1", &["--bootstrap", "--token-file", file]);
    assert!(fails(&node, "cluster status", 1).contains("requires a token"));
    done(&node, &format!("cluster status --token-file {file}"));
    let by_env =
        shoal().env("SHOAL_API", node.url()).env("SHOAL_TOKEN", token).args(["cluster", "status"]).output();
    assert_eq!(Told::of(by_env.expect("ran")).code, Some(0));
    let wrong =
        shoal().env("SHOAL_API", node.url()).env("SHOAL_TOKEN", "wrong").args(["cluster", "status"]).output();
    let wrong = Told::of(wrong.expect("ran"));
    assert!(wrong.code == Some(1) && wrong.err.contains("does not take this token"), "{wrong:?}");
    assert!(!wrong.err.contains("wrong"), "a token is not shown");
}

#[test]
fn content_comes_from_a_file_or_stdin_and_goes_out_byte_for_byte() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    done(&node, "deploy echo --name echo");
    let bytes: Vec<u8> = (0..=255).collect();
    let file = place.path().join("bytes");
    std::fs::write(&file, &bytes).expect("written");
    let ask = ["message", "ask", "--to", "echo", "--content"];
    let from_file =
        shoal().env("SHOAL_API", node.url()).args(ask).arg(format!("@{}", file.display())).output();
    assert_eq!(from_file.expect("ran").stdout, bytes);
    let stdin = std::fs::File::open(&file).expect("there");
    let from_stdin = shoal().env("SHOAL_API", node.url()).args(ask).arg("-").stdin(stdin).output();
    assert_eq!(from_stdin.expect("ran").stdout, bytes);
    let huge = std::fs::File::open("/dev/zero").expect("there");
    let huge = shoal().env("SHOAL_API", node.url()).args(ask).arg("-").stdin(huge).output();
    let huge = Told::of(huge.expect("ran"));
    assert!(huge.code == Some(1) && huge.err.contains("1048576"), "{huge:?}");
}

#[test]
fn what_an_agent_logs_cannot_command_the_terminal() {
    let place = Place::new();
    let node = place.bootstrap("n1", &[]);
    let script = r#"printf '\033[2Jred\n' >&2; echo '{"type":"ready"}'; cat >/dev/null"#;
    assert_eq!(node.shoal(&["deploy", "/bin/sh", "--name", "a", "--", "-c", script]).code, Some(0));
    node.until("/v1/agents/a/logs", |answer| answer.body.contains("red"));
    let shown = done(&node, "agent logs a");
    assert!(shown.contains("red") && !shown.contains('\u{1b}'), "{shown:?}");
    let ended = r#"printf '\033]0;title\007\n' >&2; exit 3"#;
    let told = node.shoal(&["deploy", "/bin/sh", "--name", "b", "--", "-c", ended]);
    assert!(told.code == Some(1) && !told.err.contains('\u{1b}'), "{told:?}");
}

#[test]
fn watch_tells_events_line_by_line_and_ends_with_the_node() {
    use std::io::{BufRead, BufReader};
    let place = Place::new();
    let mut node = place.bootstrap("n1", &[]);
    let watch = |output: &str| {
        let mut command = shoal();
        command.env("SHOAL_API", node.url()).args(["cluster", "watch", "--after", "0", "-o", output]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started")
    };
    let (mut table, mut json) = (watch("table"), watch("json"));
    let mut table_lines = BufReader::new(table.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let mut json_lines = BufReader::new(json.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let first = table_lines.next().expect("an event");
    assert!(first.contains("Z  1  joined  mesh "), "{first}");
    let first: Value = serde_json::from_str(&json_lines.next().expect("an event")).expect("JSON");
    assert_eq!((&first["sequence"], &first["type"]), (&json!(1), &json!("joined")));
    node.signal("TERM");
    assert_eq!(node.code(), Some(0));
    for watch in [table, json] {
        let told = Told::of(watch.wait_with_output().expect("ended"));
        assert!(told.code == Some(3) && told.err.contains("has gone"), "{told:?}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let mut command = shoal();
    let mut child = command
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    drop(child.stdout.take());
    let told = Told::of(child.wait_with_output().expect("ended"));
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""));
}

#[test]
fn completions_and_help_are_for_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let told = Told::of(shoal().args(["completions", shell]).output().expect("ran"));
        assert!(told.code == Some(0) && told.out.contains("members"), "{shell}");
        assert!(!told.out.contains("keeper") && !told.out.contains("sample-agent"), "{shell}: hidden ones");
    }
    let help = Told::of(shoal().arg("--help").output().expect("ran"));
    assert!(
        help.code == Some(0) && help.out.contains("Exit codes") && !help.out.contains("keeper"),
        "{help:?}"
    );
}

#[test]
fn a_port_in_use_is_one_error_and_nothing_has_happened() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("bound").to_string();
    for flag in ["--api-addr", "--metrics-addr"] {
        let told = place.command("n1", &["--bootstrap", flag, &address]).output().expect("ran");
        let told = Told::of(told);
        assert_eq!(told.code, Some(1), "{told:?}");
        assert!(
            told.err.contains(&address) && told.err.contains("another program uses that port"),
            "{told:?}"
        );
        assert_eq!(told.err.lines().count(), 1, "{told:?}");
        assert!(!place.data_dir("n1").join("shoal.db").exists(), "the node was not started");
    }
}

#[test]
fn a_start_that_fails_is_one_error() {
    let place = Place::new();
    let started = |more: &[&str]| Told::of(place.command("n1", more).output().expect("ran"));
    let resumed = started(&[]);
    assert_eq!(resumed.code, Some(1), "{resumed:?}");
    assert!(resumed.err.contains("neither --bootstrap nor --join"), "{resumed:?}");
    let short = place.path().join("short");
    std::fs::write(&short, "secret").expect("written");
    let short = started(&["--bootstrap", "--token-file", short.to_str().expect("text")]);
    assert!(
        short.code == Some(1) && short.err.contains("token") && !short.err.contains("secret"),
        "{short:?}"
    );
    let checked = started(&["--bootstrap", "--check-config"]);
    assert_eq!((checked.code, checked.out.as_str()), (Some(0), "the configuration of node n1 is valid\n"));
    let wrong = started(&["--bootstrap", "--check-config", "--log-level", "loud", "--region", "a\nb"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.err.contains("--log-level") && wrong.err.contains("--region"), "all at once: {wrong:?}");
    assert!(!place.data_dir("n1").join("api.token").exists());
}

#[test]
fn a_second_signal_does_not_wait_for_agents() {
    let place = Place::new();
    let mut node = place.bootstrap("n1", &[]);
    let stubborn = r#"trap '' TERM; echo '{"type":"ready"}'; while :; do read -r _ || exec sleep 60; done"#;
    assert_eq!(node.shoal(&["deploy", "/bin/sh", "--name", "a", "--", "-c", stubborn]).code, Some(0));
    node.signal("INT");
    node.wait_for_log("stopping; a second signal ends the node at once");
    node.signal("TERM");
    assert_eq!(node.code(), Some(1));
}
