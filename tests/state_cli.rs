//! The shared state from the command line: what each command prints, and the exit code that scripts go by.

mod running;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use running::{Place, Running, Told, shoal};
use serde_json::{Value, json};

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
    assert!(told.err.starts_with("shoal: ") && told.err.lines().count() == 1, "{words:?}: {told:?}");
    told.err
}

/// A mesh of one node that takes writes.
fn node(place: &Place) -> Running {
    let node = place.bootstrap("n1", &[]);
    node.until("/v1/cluster/status", |answer| answer.json()["mode"] == "healthy");
    node
}

/// A mesh of two nodes that vote and take writes. The first is in a minority from the moment in which the second votes
/// until it hears it.
fn pair(place: &Place) -> (Running, Running) {
    let first = node(place);
    let second = place.join("n2", &first);
    for node in [&first, &second] {
        node.until("/v1/cluster/roster", |answer| answer.status == 200 && answer.json()["voters"] == 2);
    }
    for node in [&first, &second] {
        has_leader(node);
    }
    (first, second)
}

/// It takes writes, and somebody takes changes of the roster: with each voter that comes, that is settled anew.
fn has_leader(node: &Running) {
    node.until("/v1/cluster/status", |answer| {
        let status = answer.json();
        status["mode"] == "healthy" && status["lease_holder"].is_string()
    });
}

#[test]
fn a_key_is_written_read_replaced_listed_and_deleted() {
    let place = Place::new();
    let node = node(&place);
    assert_eq!(done(&node, &["state", "put", "orders/42", "open"]), "orders/42 is written\n");
    assert_eq!(done(&node, &["state", "get", "orders/42"]), "open");
    let state: Value =
        serde_json::from_str(&done(&node, &["state", "get", "orders/42", "-o", "json"])).expect("JSON");
    assert_eq!((&state["policy"], &state["siblings"]), (&json!("lww"), &json!([])));
    let context = state["context"].as_str().expect("a context");
    done(&node, &["state", "put", "orders/42", "sent", "--context", context, "--ack", "quorum"]);
    assert_eq!(done(&node, &["state", "get", "orders/42", "--node", "n1"]), "sent");
    done(&node, &["state", "put", "orders/7", "-x"]);
    done(&node, &["state", "put", "other", ""]);
    let list = done(&node, &["state", "list", "orders/"]);
    let keys: Vec<_> = list.lines().map(|line| line.split_whitespace().next().unwrap_or_default()).collect();
    assert_eq!(keys, ["KEY", "orders/42", "orders/7"]);
    let first = node.shoal(&["state", "list", "--limit", "1"]);
    assert!(first.err.contains("there are more keys after \"orders/42\""), "{first:?}");
    assert_eq!(done(&node, &["state", "list", "--after", "orders/7"]).lines().count(), 2);
    assert_eq!(done(&node, &["state", "delete", "orders/42"]), "orders/42 is deleted\n");
    assert!(fails(&node, &["state", "get", "orders/42"], 1).contains("no value of the key \"orders/42\""));
    assert!(fails(&node, &["state", "delete", "orders/42"], 1).contains("no value"));
}

#[test]
fn a_value_comes_from_a_file_or_stdin_and_goes_out_byte_for_byte() {
    let place = Place::new();
    let node = node(&place);
    let bytes: Vec<u8> = (0..=255).collect();
    let file = place.path().join("bytes");
    std::fs::write(&file, &bytes).expect("written");
    done(&node, &["state", "put", "a", &format!("@{}", file.display())]);
    let stdin = std::fs::File::open(&file).expect("there");
    let put = shoal().env("SHOAL_API", node.url()).args(["state", "put", "b", "-"]).stdin(stdin).output();
    assert_eq!(Told::of(put.expect("ran")).code, Some(0));
    for key in ["a", "b"] {
        let got = shoal().env("SHOAL_API", node.url()).args(["state", "get", key]).output().expect("ran");
        assert_eq!(got.stdout, bytes);
    }
}

#[test]
fn values_written_with_one_context_are_siblings_and_the_policy_says_which_is_read() {
    let place = Place::new();
    let node = node(&place);
    assert!(done(&node, &["state", "policy", "set", "votes", "manual"]).contains("manual"));
    done(&node, &["state", "put", "votes/1", "first"]);
    let state = node.get("/v1/state/votes/1").json();
    let context = state["context"].as_str().expect("a context").to_owned();
    done(&node, &["state", "put", "votes/1", "7", "--context", &context]);
    let beside = done(&node, &["state", "put", "votes/1", "12", "--context", &context]);
    assert!(beside.contains("stands beside values"), "{beside}");
    let table = done(&node, &["state", "get", "votes/1"]);
    let lines: Vec<_> =
        table.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>()).collect();
    assert_eq!(lines[0], ["VALUE", "WRITER"]);
    assert!(lines.contains(&vec!["7", "n1"]) && lines.contains(&vec!["12", "n1"]), "{table}");
    done(&node, &["state", "policy", "set", "votes", "min"]);
    assert_eq!(done(&node, &["state", "get", "votes/1"]), "7");
    assert_eq!(done(&node, &["state", "policy", "list"]), "PREFIX  POLICY\nvotes   min\n");
    done(&node, &["state", "policy", "set", "votes", "none"]);
    assert_eq!(done(&node, &["state", "policy", "list"]), "PREFIX  POLICY\n");
    let state = node.get("/v1/state/votes/1").json();
    assert_eq!((&state["value"], &state["policy"]), (&json!("12"), &json!("lww")), "the last one");
    let context = state["context"].as_str().expect("a context");
    done(&node, &["state", "put", "votes/1", "resolved", "--context", context]);
    assert_eq!(node.get("/v1/state/votes/1").json()["siblings"], json!([]));
}

#[test]
fn the_policy_custom_lets_a_command_choose_and_says_why_when_it_does_not() {
    let place = Place::new();
    let (script, config) = (place.path().join("choose"), place.path().join("config.yaml"));
    let choose = |text: &str| {
        // Written beside and moved: a file that is being run cannot be written.
        let fresh = place.path().join("fresh");
        std::fs::write(&fresh, format!("#!/bin/sh\n{text}\n")).expect("written");
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o700)).expect("executable");
        std::fs::rename(&fresh, &script).expect("moved");
    };
    let text =
        format!("node: {{id: n1}}\ncoordination: {{state: {{custom_policy: {}}}}}\n", script.display());
    std::fs::write(&config, text).expect("written");
    let node = place.bootstrap("n1", &["--config", config.to_str().expect("text")]);
    node.until("/health/ready", |answer| answer.status == 200);
    done(&node, &["state", "policy", "set", "votes", "custom"]);
    done(&node, &["state", "put", "votes/1", "first"]);
    assert_eq!(done(&node, &["state", "get", "votes/1"]), "first", "one value needs no command");
    let context = node.get("/v1/state/votes/1").json()["context"].as_str().expect("a context").to_owned();
    for value in ["7", "12"] {
        done(&node, &["state", "put", "votes/1", value, "--context", &context]);
    }

    choose(r#"echo "{\"value\": \"$(grep -o '"dot"' | wc -l) values\"}""#);
    assert_eq!(done(&node, &["state", "get", "votes/1"]), "2 values");
    let state = node.get("/v1/state/votes/1").json();
    assert_eq!(
        (&state["policy"], &state["writer"], &state["dot"]),
        (&json!("custom"), &json!(null), &json!(null))
    );
    let second = state["siblings"][1].clone();
    choose(&format!("echo '{{\"dot\": {}}}'", second["dot"]));
    let page = node.get("/v1/state?prefix=votes/").json();
    let listed = &page["entries"][0];
    assert_eq!((&listed["value"], &listed["writer"]["node"]), (&second["value"], &json!("n1")));

    for (text, why) in
        [("exit 3", "failed"), ("echo 7", "what is none"), ("exec sleep 60", "took longer than 1s")]
    {
        choose(text);
        let told = node.shoal(&["state", "get", "votes/1"]);
        assert_eq!(told.code, Some(0), "{told:?}");
        assert!(told.out.contains("7 ") && told.out.contains("12 "), "both are shown: {told:?}");
        assert!(told.err.contains(why), "{text}: {told:?}");
    }
}

#[test]
fn maps_sets_and_counters_keep_what_was_put_into_them() {
    let place = Place::new();
    let node = node(&place);
    done(&node, &["state", "map", "put", "users", "a/b", "one"]);
    done(&node, &["state", "map", "put", "users", "100%", "two"]);
    assert_eq!(done(&node, &["state", "map", "get", "users", "a/b"]), "one");
    let table = done(&node, &["state", "map", "list", "users"]);
    assert!(table.contains("\n100%   two") && table.contains("\na/b    one"), "{table}");
    done(&node, &["state", "map", "delete", "users", "a/b"]);
    assert!(fails(&node, &["state", "map", "get", "users", "a/b"], 1).contains("no value"));

    for element in ["x/y", "z", "z"] {
        done(&node, &["state", "set", "add", "s", element]);
    }
    done(&node, &["state", "set", "add", "s2", "no"]);
    assert_eq!(done(&node, &["state", "set", "list", "s"]), "x/y\nz\n");
    done(&node, &["state", "set", "remove", "s", "z"]);
    assert_eq!(done(&node, &["state", "set", "list", "s"]), "x/y\n");

    done(&node, &["state", "counter", "add", "hits"]);
    done(&node, &["state", "counter", "add", "hits", "41", "--ack", "quorum"]);
    done(&node, &["state", "counter", "add", "hits", "-2"]);
    assert_eq!(done(&node, &["state", "counter", "get", "hits"]), "40\n");
    assert!(fails(&node, &["state", "counter", "get", "none"], 1).contains("nothing was added"));
    assert!(fails(&node, &["state", "put", "_set/s/z", ""], 2).contains("`shoal state set`"));
}

#[test]
fn additions_that_meet_are_all_counted_also_over_a_restart() {
    let place = Place::new();
    let mut first = node(&place);
    let adds: Vec<_> = (0..8)
        .map(|_| {
            let mut command = shoal();
            command.env("SHOAL_API", first.url()).args(["state", "counter", "add", "hits", "5"]);
            command.stdout(Stdio::null()).spawn().expect("started")
        })
        .collect();
    for mut add in adds {
        assert!(add.wait().expect("ran").success());
    }
    assert_eq!(done(&first, &["state", "counter", "get", "hits"]), "40\n");
    first.signal("TERM");
    first.code();
    let again = place.start("n1", &[]);
    again.until("/v1/cluster/status", |answer| answer.json()["mode"] == "healthy");
    done(&again, &["state", "counter", "add", "hits"]);
    assert_eq!(again.shoal(&["state", "counter", "get", "hits", "-o", "json"]).json()["value"], 41);
}

#[test]
fn watch_shows_changes_below_a_prefix_and_goes_on_after_a_number() {
    let place = Place::new();
    let node = node(&place);
    let mut watch = shoal();
    watch.env("SHOAL_API", node.url()).args(["state", "watch", "w/", "--after", "0", "-o", "json"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().expect("started");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines().map_while(Result::ok);
    done(&node, &["state", "put", "other", "x"]);
    done(&node, &["state", "put", "w/1", "x"]);
    done(&node, &["state", "delete", "w/1"]);
    let next = |lines: &mut dyn Iterator<Item = String>| -> Value {
        serde_json::from_str(&lines.next().expect("a change")).expect("JSON")
    };
    let (put, deleted) = (next(&mut lines), next(&mut lines));
    assert_eq!((&put["key"], &put["value"], &put["siblings"]), (&json!("w/1"), &json!("x"), &json!(1)));
    assert_eq!((&deleted["key"], &deleted["value"]), (&json!("w/1"), &Value::Null));
    let after = put["sequence"].as_u64().expect("a number");
    let mut stream =
        running::Events::open(node.api, &format!("/v1/state-changes?prefix=w/&after={after}"), &[]);
    let sent = stream.next();
    assert_eq!((sent.id, sent.name.as_str(), sent.data), (deleted["sequence"].as_u64(), "", deleted));
    let _ = watch.kill();
    let _ = watch.wait();
}

#[test]
fn an_aggregate_is_over_all_nodes_and_names_those_that_have_no_number() {
    let place = Place::new();
    let (first, second) = pair(&place);
    done(&first, &["state", "put", "load", "2.5"]);
    second.until("/v1/state/load", |answer| answer.status == 200);
    assert_eq!(done(&second, &["state", "aggregate", "load", "--op", "sum"]), "5\n");
    assert_eq!(done(&second, &["state", "get", "load", "--node", "n1"]), "2.5");
    let table = done(&first, &["state", "get", "load", "--all-nodes"]);
    assert_eq!(table.lines().filter(|line| line.contains("2.5")).count(), 2, "{table}");
    let nothing = first.shoal(&["state", "aggregate", "nothing", "--op", "max"]);
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
    assert!(nothing.err.contains("n1 has no value; n2 has no value"), "{nothing:?}");
}

#[test]
fn roster_partition_and_mode_of_a_whole_mesh_are_told() {
    let place = Place::new();
    let node = node(&place);
    let status = done(&node, &["cluster", "status"]);
    assert!(status.contains("\nMode:          healthy\n"), "{status}");
    assert!(status.contains("\nQueued writes: 0\n") && status.contains("\nLease holder:"), "{status}");
    let roster = done(&node, &["cluster", "roster"]);
    assert!(
        roster.contains("Quorum:       1 (more than half)\n") && roster.contains("\nn1       yes "),
        "{roster}"
    );
    let partition = done(&node, &["cluster", "detect-partition"]);
    assert!(partition.starts_with("no partition") && partition.contains("side 1 (majority, 1 voters): n1\n"));
    node.until("/v1/cluster/status", |answer| answer.json()["lease_holder"] == "n1");
    let set = done(&node, &["cluster", "set", "max_offline_seconds=3600"]);
    assert!(set.contains("Max offline:  1h\n"), "{set}");
    assert!(fails(&node, &["cluster", "set", "colour=red"], 1).contains("no setting"));
    assert!(fails(&node, &["cluster", "remove", "--node", "n1"], 1).contains("n1 is alive"));
    assert!(fails(&node, &["cluster", "remove", "--node", "n9"], 1).contains("no node named n9"));
    assert!(fails(&node, &["cluster", "resolve", "--strategy", "force"], 1).contains("nothing to overrule"));
    assert!(
        fails(&node, &["cluster", "resolve", "--strategy", "quorum", "--reason", "x"], 2)
            .contains("--reason")
    );
    for words in [&["cluster", "reconcile"][..], &["cluster", "reconcile", "--force"]] {
        assert!(done(&node, words).contains("nothing to compare with"));
    }
}

#[test]
fn a_file_that_says_other_than_the_roster_is_warned_of_and_what_is_not_asked_for_stays_as_it_is() {
    let place = Place::new();
    let config = place.path().join("config.yaml");
    std::fs::write(&config, "partition:\n  quorum_size: 2\n").expect("written");
    let node = place.start("n1", &["--bootstrap", "--config", config.to_str().expect("text")]);
    let warning = node.wait_for_log(
        "the file's quorum_size is not the roster's and has no effect: `shoal cluster set quorum_size=2` changes it \
        in the whole mesh",
    );
    assert_eq!(warning["level"], "WARN");
    node.until("/v1/cluster/status", |answer| answer.json()["lease_holder"] == "n1");
    let other = place.join("n2", &node);
    other.until("/v1/cluster/roster", |answer| answer.status == 200 && answer.json()["voters"] == 2);
    has_leader(&node);
    let refused = fails(&node, &["cluster", "set", "quorum_size=1"], 1);
    assert!(refused.contains("split"), "{refused}");
    has_leader(&node);
    let told = done(&node, &["cluster", "set", "quorum_size=1", "--allow-split-writes"]);
    assert!(told.contains("Split writes: allowed"), "{told}");
    has_leader(&node);
    let told = done(&node, &["cluster", "set", "max_offline_seconds=7200"]);
    assert!(told.contains("Split writes: allowed") && told.contains("Quorum:       1 (set)"), "{told}");
    has_leader(&node);
    let told = done(&node, &["cluster", "set", "quorum_size=2"]);
    assert!(told.contains("Split writes: not allowed"), "{told}");
}

#[test]
fn a_minority_queues_writes_with_a_ticket_and_reads_with_their_age() {
    let place = Place::new();
    let (first, second) = pair(&place);
    done(&first, &["state", "put", "k", "before"]);
    second.until("/v1/state/k", |answer| answer.status == 200);
    second.signal("KILL");
    first.until("/v1/cluster/status", |answer| answer.json()["mode"] == "degraded");
    let queued = first.shoal(&["state", "put", "k", "later"]);
    assert_eq!(queued.code, Some(5), "{queued:?}");
    let ticket = queued.out.trim();
    assert!(ticket.starts_with("n1/") && queued.err.contains("not among a majority"), "{queued:?}");
    let asked = first.shoal(&["state", "ticket", ticket]);
    assert!(asked.code == Some(5) && asked.out.contains("State:   queued\n"), "{asked:?}");
    let read = first.shoal(&["state", "get", "k"]);
    assert_eq!((read.code, read.out.as_str()), (Some(0), "before"));
    assert!(read.err.contains("n1 is degraded: what it knows may be "), "{read:?}");
    assert_eq!(first.get("/v1/cluster/status").json()["queued_writes"], 1);
    let ready = first.get("/health/ready");
    assert_eq!(ready.json(), json!({"status": "healthy", "mode": "degraded"}));
    let parted = first.shoal(&["cluster", "detect-partition"]);
    assert_eq!(parted.code, Some(1), "{parted:?}");
    assert!(parted.out.contains("silent: n2") && parted.err.contains("n2 cannot be reached"), "{parted:?}");

    let again = place.start("n2", &[]);
    first.until("/v1/cluster/status", |answer| answer.json()["mode"] == "healthy");
    let path = format!("/v1/tickets/{ticket}");
    first.until(&path, |answer| answer.json()["state"] == "applied");
    assert!(done(&first, &["state", "ticket", ticket]).contains("State:   applied\n"));
    again.until("/v1/state/k", |answer| answer.status == 200 && answer.json()["value"] == "later");
    assert_eq!(again.get(&path).json()["state"], "applied", "any node asks the ticket's");
}

#[test]
fn a_wrong_command_line_is_bad_usage() {
    let place = Place::new();
    let node = node(&place);
    for line in [
        "state",
        "state get",
        "state get a --node n1 --all-nodes",
        "state put a",
        "state put a b --ack all",
        "state list --limit 0",
        "state ticket nonsense",
        "state aggregate a",
        "state aggregate a --op median",
        "state counter add a 1.5",
        "state policy set a random",
        "state policy set  none",
        "cluster set quorum_size",
        "cluster remove",
        "cluster resolve",
        "cluster resolve --strategy pray",
        "cluster reconcile --force=yes",
    ] {
        let told = node.shoal(&line.split(' ').collect::<Vec<_>>());
        assert_eq!((told.code, told.out.as_str()), (Some(2), ""), "{line}: {told:?}");
    }
}

#[test]
fn a_mesh_that_loses_one_of_three_and_then_its_majority_is_mended_by_commands() {
    let place = Place::new();
    let first = node(&place);
    let (second, third) = (place.join("n2", &first), place.join("n3", &first));
    let voters = |node: &Running, count: u64| {
        node.until("/v1/cluster/roster", |answer| answer.status == 200 && answer.json()["voters"] == count);
        node.until("/v1/cluster/status", |answer| answer.json()["mode"] == "healthy");
    };
    [&first, &second, &third].into_iter().for_each(|node| voters(node, 3));
    done(&third, &["state", "put", "k", "of the third"]);
    first.until("/v1/state/k", |answer| answer.status == 200);

    third.signal("KILL");
    let is_failed = |answer: &running::Answer| {
        let members = answer.json();
        members
            .as_array()
            .is_some_and(|all| all.iter().any(|m| m["node_id"] == "n3" && m["status"] == "failed"))
    };
    first.until("/v1/cluster/members", is_failed);
    let roster = done(&second, &["cluster", "remove", "--node", "n3"]);
    assert!(roster.contains("\nn1       yes ") && !roster.contains("\nn3 "), "{roster}");
    voters(&first, 2);
    let finished = done(&first, &["cluster", "resolve", "--strategy", "quorum"]);
    assert!(finished.contains("\nn2       yes "), "nothing was pending: {finished}");

    // Two of two are needed, and one of them is gone for good.
    second.signal("KILL");
    first.until("/v1/cluster/status", |answer| answer.json()["mode"] == "degraded");
    let missing = fails(&first, &["cluster", "resolve", "--strategy", "quorum"], 1);
    assert!(missing.contains("n2"), "it names who is missing: {missing}");
    let stays = fails(&first, &["cluster", "leave"], 1);
    assert!(stays.contains("it stays in the mesh") && stays.contains("force"), "{stays}");
    let reason = ["cluster", "resolve", "--strategy", "force", "--reason", "two machines burnt"];
    let forced = done(&first, &reason);
    assert!(forced.contains("two machines burnt") && !forced.contains("\nn2       yes "), "{forced}");
    voters(&first, 1);
    done(&first, &["state", "put", "k", "of the one that is left"]);
}

#[test]
fn who_leaves_is_out_of_the_roster_when_the_command_ends_and_what_it_wrote_stays() {
    let place = Place::new();
    let (first, mut second) = pair(&place);
    done(&second, &["state", "put", "k", "of the one that leaves"]);
    let left = done(&second, &["cluster", "leave", "--drain-timeout", "1s"]);
    assert_eq!(left, "n2 has left the mesh and stopped\n");
    assert_eq!(second.code(), Some(0));
    let roster = first.until("/v1/cluster/roster", |answer| answer.json()["voters"] == 1);
    assert!(!roster.body.contains("n2"), "{roster:?}");
    assert_eq!(done(&first, &["state", "get", "k"]), "of the one that leaves");
    done(&first, &["state", "put", "k", "of the one that is left"]);
}
