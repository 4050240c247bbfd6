//! `shoal cert` and joining with a token as operators meet them: what is printed, what is written, and the exit code.

mod running;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use running::{Place, Running, Told, shoal};
use serde_json::Value;

/// Runs `shoal <line>` where `@` stands for the directory of the test.
fn run(place: &Place, line: &str) -> Told {
    let line = line.replace('@', place.path().to_str().expect("text"));
    Told::of(shoal().args(line.split(' ')).output().expect("ran"))
}

#[track_caller]
fn done(place: &Place, line: &str) -> String {
    let told = run(place, line);
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{line}: {told:?}");
    told.out
}

#[track_caller]
fn fails(place: &Place, line: &str, code: i32) -> String {
    let told = run(place, line);
    assert_eq!((told.code, told.out.as_str()), (Some(code), ""), "{line}: {told:?}");
    assert!(told.err.starts_with("shoal: ") && told.err.lines().count() == 1, "{line}: {told:?}");
    told.err
}

fn json(place: &Place, line: &str) -> Value {
    serde_json::from_str(&done(place, line)).expect("JSON")
}

fn seed(node: &Running) -> String {
    let members = node.get("/v1/cluster/members").json();
    members[0]["address"].as_str().expect("an address").to_owned()
}

/// `shoal server start` without anything but the flags.
fn bare(place: &Place, name: &str, flags: &[&str]) -> Command {
    let mut command = shoal();
    command.args(["server", "start", "--node-id", name, "--log-format", "json"]);
    command.args(["--bind-addr", "127.0.0.1:0", "--api-addr", "127.0.0.1:0"]);
    command.arg("--data-dir").arg(place.data_dir(name)).args(flags);
    command
}

fn ca(place: &Place) -> String {
    place.path().join("ca").display().to_string()
}

#[test]
fn a_machine_joins_with_a_token_and_starts_again_without_needing_it() {
    let place = Place::new();
    let first = place.bootstrap("n1", &["--ca", &ca(&place)]);
    let seed = seed(&first);
    let token = done(&place, "cert token --ca @/ca --node-id n2 --ttl 10m --days 9");
    let file = place.path().join("token");
    fs::write(&file, &token).expect("written");
    let source = format!("@{}", file.display());
    let flags = ["--join", seed.as_str(), "--join-token", &source];
    let checked =
        Told::of(bare(&place, "n2", &[&flags[..], &["--check-config"]].concat()).output().expect("ran"));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(!place.data_dir("n2").exists(), "a check asks nobody");

    let second = Running::start(bare(&place, "n2", &flags), place.data_dir("n2"));
    first.until("/v1/cluster/members", |answer| {
        answer
            .json()
            .as_array()
            .expect("a list")
            .iter()
            .any(|m| m["node_id"] == "n2" && m["status"] == "alive")
    });
    let shown = json(&place, "cert show @/n2/certs --ca @/ca -o json");
    assert_eq!(
        (&shown[0]["node_id"], &shown[0]["days_left"], &shown[0]["revoked"]),
        (&"n2".into(), &8.into(), &false.into())
    );
    let key = fs::metadata(place.data_dir("n2").join("certs/node.key")).expect("there");
    assert_eq!(key.permissions().mode() & 0o7777, 0o600);

    second.signal("TERM");
    let mut second = second;
    assert_eq!(second.code(), Some(0));
    let log = format!("{:?}", second.rest_of_log());
    assert!(!log.contains(token.trim()) && !log.contains("PRIVATE"), "{log}");
    fs::remove_file(&file).expect("removed");
    let again = Running::start(bare(&place, "n2", &flags), place.data_dir("n2"));
    again.until("/health/ready", |answer| answer.status == 200);
}

#[test]
fn a_token_in_the_environment_is_as_good_and_is_not_used_where_a_certificate_is() {
    let place = Place::new();
    let first = place.bootstrap("n1", &["--ca", &ca(&place)]);
    let token = done(&place, "cert token --ca @/ca --node-id n2 --days 9");
    let seed = seed(&first);
    let mut command = place.command("n2", &["--join", &seed]);
    command.env("SHOAL_JOIN_TOKEN", token.trim());
    let mut second = Running::start(command, place.data_dir("n2"));
    second.until("/health/ready", |answer| answer.status == 200);
    second.signal("TERM");
    assert_eq!(second.code(), Some(0));
    assert!(!place.path().join("ca/ledger.jsonl").exists(), "nothing was issued");
}

#[test]
fn a_start_with_a_token_that_cannot_work_says_why() {
    let place = Place::new();
    let nobody = "127.0.0.1:9";
    let token = done(&place, "cert token --ca @/ca --node-id n2 --days 9");
    let token = token.trim();
    let fails = |name: &str, flags: &[&str], code: i32| {
        let told = Told::of(bare(&place, name, flags).output().expect("ran"));
        assert_eq!(told.code, Some(code), "{told:?}");
        assert!(!told.err.contains(&token[7..40]), "the token shows in {}", told.err);
        let said = told.err.lines().find(|line| line.starts_with("shoal: ")).expect("an error").to_owned();
        assert!(!place.data_dir(name).join("certs/node.crt").exists());
        said
    };
    let usage = |flags: &[&str]| fails("n2", flags, 2);
    assert!(usage(&["--join-token", token]).contains("--join"));
    assert!(usage(&["--discover", "mdns", "--join-token", token]).contains("mDNS begins once it has one"));
    assert!(usage(&["--bootstrap", "--join-token", token]).contains("shoal cert issue"));
    assert!(usage(&["--join", nobody, "--join-token", "hush"]).contains("no join token"));
    assert!(
        fails("n2", &["--join", nobody, "--join-token", "@/nowhere/at-all"], 1).contains("/nowhere/at-all")
    );
    assert!(fails("n2", &["--join", nobody, "--join-token", &token[..60]], 1).contains("whole line"));
    assert!(fails("n3", &["--join", nobody, "--join-token", token], 1).contains("for node n2"));
    let error = fails("n2", &["--join", nobody, "--join-token", token], 1);
    assert!(error.contains("no node has given a certificate in 3 rounds: 127.0.0.1:9: "), "{error}");
    assert!(
        fails("n4", &["--bootstrap", "--ca", "/nowhere/at-all"], 1).contains("cert issue"),
        "its own comes first"
    );
}

#[test]
fn a_certificate_is_renewed_by_hand_and_over_the_mesh() {
    let place = Place::new();
    let first = place.bootstrap("n1", &["--ca", &ca(&place)]);
    place.certify("n2");
    let read = |name: &str| fs::read(place.data_dir("n2").join("certs").join(name)).expect("read");
    let mut before = (read("node.key"), read("node.crt"));
    let seed = seed(&first);
    let given = json(&place, "cert show @/n2/certs -o json")[0]["days_left"].as_i64().expect("a number");
    for (line, days) in [
        ("cert renew --certs @/n2/certs --ca @/ca".to_owned(), given),
        ("cert renew --certs @/n2/certs --ca @/ca --days 3".to_owned(), 2),
        (format!("cert renew --certs @/n2/certs --join 127.0.0.1:9,{seed}"), 2),
    ] {
        let told = done(&place, &line);
        assert!(told.starts_with("Renewed the certificate of node n2"), "{told}");
        let after = (read("node.key"), read("node.crt"));
        assert!(after.0 != before.0 && after.1 != before.1, "{line}");
        let shown = json(&place, "cert show @/n2/certs -o json");
        assert_eq!(shown[0]["days_left"], days, "{line}");
        before = after;
    }
    let ways: Vec<Value> = json(&place, "cert show @/ca -o json")
        .as_array()
        .expect("a list")
        .iter()
        .filter(|item| item["kind"] == "issued")
        .map(|item| item["way"].clone())
        .collect();
    assert_eq!(ways, ["renewal", "renewal", "renewal"]);
    let second = place.start("n2", &["--join", &seed]);
    second.until("/health/ready", |answer| answer.status == 200);

    done(&place, "cert revoke --ca @/ca --cert @/n2/certs/node.crt");
    assert!(fails(&place, "cert renew --certs @/n2/certs --ca @/ca", 1).contains("revoked"));
    assert!(fails(&place, &format!("cert renew --certs @/n2/certs --join {seed}"), 1).contains("revoked"));
    assert_eq!((read("node.key"), read("node.crt")), before);
    assert!(fails(&place, "cert renew --certs @/nowhere --ca @/ca", 1).contains("nowhere/node.crt"));
}

#[test]
fn what_is_revoked_is_told_and_shown_and_written_into_the_list() {
    let place = Place::new();
    for name in ["n2", "n2b", "n3"] {
        let id = name.trim_end_matches('b');
        done(&place, &format!("cert issue --ca @/ca --node-id {id} --out @/{name} --days 7"));
    }
    let told = done(&place, "cert revoke --ca @/ca --node-id n2 --reason key-compromise");
    assert!(told.starts_with("Revoked:\n  node n2, serial ") && told.contains("key-compromise"), "{told}");
    assert!(told.contains("has number 1: ") && told.contains("shoal cert crl"), "{told}");
    assert_eq!(told.matches("node n2, serial").count(), 2, "{told}");
    let again = done(&place, "cert revoke --ca @/ca --node-id n2");
    assert!(again.starts_with("Revoked before:\n") && again.contains("has number 1: "), "{again}");
    let shown = json(&place, "cert show @/ca -o json");
    let of = |kind: &str| {
        let items = shown.as_array().expect("a list").iter().filter(|item| item["kind"] == kind);
        items.cloned().collect::<Vec<_>>()
    };
    assert_eq!((of("ca").len(), of("crl").len(), of("issued").len()), (1, 1, 3));
    assert_eq!(
        (&of("crl")[0]["number"], of("crl")[0]["serials"].as_array().expect("a list").len()),
        (&1.into(), 2)
    );
    assert_eq!(of("crl")[0]["issuer_fingerprint"], of("ca")[0]["fingerprint"]);
    let reasons: Vec<Value> = of("issued").iter().map(|one| one["revoked_reason"].clone()).collect();
    assert_eq!(reasons, ["key-compromise".into(), "key-compromise".into(), Value::Null]);
    for (name, revoked) in [("n2", true), ("n3", false)] {
        let one = json(&place, &format!("cert show @/{name}/node.crt --ca @/ca -o json"));
        assert_eq!(one[0]["revoked"], revoked, "{name}");
    }
    assert_eq!(json(&place, "cert show @/n3 -o json")[0]["revoked"], Value::Null);
    let table = done(&place, "cert show @/ca");
    for text in ["NODE-ID", "key-compromise", "next update", "number"] {
        assert!(table.contains(text), "{text} is not in {table}");
    }
    assert!(done(&place, "cert show @/ca/ca.crl").contains("next update"));
    let serial =
        json(&place, "cert show @/n3/node.crt -o json")[0]["serial"].as_str().expect("text").to_owned();
    done(&place, &format!("cert revoke --ca @/ca --serial {serial}"));
    let text = done(&place, "cert crl --ca @/ca");
    assert!(text.starts_with("Made the list of revoked certificates with number 3:\n"), "{text}");
    assert_eq!(mode(&place.path().join("ca/ledger.jsonl")), 0o600);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

#[test]
fn what_cannot_be_revoked_or_published_is_one_sentence_with_its_exit_code() {
    let place = Place::new();
    assert!(
        fails(&place, "cert revoke --ca @/ca --node-id n9", 1).contains("knows no certificate of node n9")
    );
    assert!(fails(&place, "cert revoke --ca @/ca --serial 0a", 1).contains("serial number 0a"));
    assert!(fails(&place, "cert revoke --ca @/nowhere --node-id n9", 1).contains("nowhere/ca.crt"));
    assert!(fails(&place, "cert revoke --ca @/ca --cert @/nowhere", 1).contains("nowhere"));
    assert!(
        fails(&place, "cert revoke --ca @/ca --node-id n9 --api http://127.0.0.1:1", 2).contains("--publish")
    );
    assert!(!place.path().join("ca/ca.crl").exists());
    done(&place, "cert issue --ca @/ca --node-id n2 --out @/n2 --days 7");
    let nobody = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound");
    let line = format!("cert revoke --ca @/ca --node-id n2 --publish --api http://{nobody}");
    let error = fails(&place, &line, 3);
    assert!(error.contains("revoked and the list is written, but not published"), "{error}");
    assert!(place.path().join("ca/ca.crl").exists());
}

#[test]
fn a_published_revocation_reaches_the_mesh_and_can_be_published_again() {
    let place = Place::new();
    let first = place.bootstrap("n1", &[]);
    let _second = place.join("n2", &first);
    let line = format!("cert revoke --ca @/ca --cert @/n2/certs/node.crt --publish --api {}", first.url());
    let told = done(&place, &line);
    assert!(told.contains("serial") && told.contains("passes it on"), "{told}");
    first.until("/v1/cluster/members", |answer| {
        let members = answer.json();
        !members.as_array().expect("a list").iter().any(|m| m["node_id"] == "n2" && m["status"] == "alive")
    });
    assert!(done(&place, &line).starts_with("Revoked before:"), "twice is once");
    done(&place, &format!("cert crl --ca @/ca --publish --api {}", first.url()));
}

#[test]
fn a_request_from_the_node_gets_a_certificate_and_is_in_the_ledger() {
    let place = Place::new();
    let request = shoal::node::certs::request_for(&shoal::node::certs::new_key_pem().expect("made"));
    fs::write(place.path().join("csr"), request.expect("made")).expect("written");
    let line = "cert issue --ca @/ca --node-id n2 --csr @/csr --out @/out --days 7 --dns n2.example";
    done(&place, line);
    assert!(place.path().join("out/node.crt").exists() && !place.path().join("out/node.key").exists());
    assert!(fails(&place, line, 1).contains("--force"));
    let issued = |place: &Place| {
        let shown = json(place, "cert show @/ca -o json");
        shown.as_array().expect("a list").iter().filter(|item| item["kind"] == "issued").count()
    };
    assert_eq!(issued(&place), 1, "what was refused was not issued");
    fs::write(place.path().join("csr"), "no request").expect("written");
    assert!(fails(&place, &format!("{line} --force"), 1).contains("signing request"));
    assert_eq!(issued(&place), 1);
}

#[test]
fn a_token_is_one_line_for_one_name_and_a_bounded_time() {
    let place = Place::new();
    let token = done(&place, "cert token --ca @/ca --node-id n2 --days 9");
    assert!(token.starts_with("shoal1.") && token.lines().count() == 1 && token.ends_with('\n'), "{token}");
    assert!(fails(&place, "cert token --ca @/ca --node-id n2 --ttl 8days --days 9", 1).contains("7days"));
    assert!(fails(&place, "cert token --ca @/ca --node-id n2", 1).contains("ask for fewer days"));
    assert!(fails(&place, "cert token --ca @/nowhere --node-id n2", 1).contains("nowhere/ca.crt"));
}

#[test]
fn wrong_flags_are_bad_usage() {
    let place = Place::new();
    for line in [
        "cert token --ca @/ca",
        "cert token --ca @/ca --node-id a/b",
        "cert token --ca @/ca --node-id n2 --ttl soon",
        "cert token --ca @/ca --node-id n2 --days 0",
        "cert renew --certs @/n2",
        "cert renew --certs @/n2 --ca @/ca --join n1",
        "cert renew --certs @/n2 --join n1 --days 3",
        "cert renew --ca @/ca",
        "cert revoke --ca @/ca",
        "cert revoke --ca @/ca --node-id n2 --serial 01",
        "cert revoke --ca @/ca --serial xyz",
        "cert revoke --ca @/ca --node-id n2 --reason spite",
        "cert crl",
        "cert crl --ca @/ca --api http://127.0.0.1:1",
        "cert show",
    ] {
        let told = run(&place, line);
        assert_eq!((told.code, told.out.as_str()), (Some(2), ""), "{line}: {told:?}");
        assert!(!told.err.is_empty(), "{line}");
    }
}
