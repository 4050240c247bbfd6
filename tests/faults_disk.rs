//! Faults of disks and of processes under real nodes that share state: on loopback, with the disk's calls tampered with
//! by `strace`, which `tests/run` installs.

mod running;

#[path = "faults_disk/crashes.rs"]
mod crashes;
#[path = "faults_disk/files.rs"]
mod files;
#[path = "faults_disk/strace.rs"]
mod strace;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use running::{Answer, LONG, Place, Running, Told};
use serde_json::{Value, json};
use strace::Trouble;

/// What confirms that something is on the disk.
const SYNC: &str = "fsync,fdatasync";

/// A mesh of nodes `n1`, `n2`, ..., all of which vote and take writes.
fn mesh(place: &Place, nodes: usize) -> Vec<Running> {
    let mut all = vec![place.bootstrap("n1", &[])];
    for n in 2..=nodes {
        let node = place.join(&format!("n{n}"), &all[0]);
        all.push(node);
    }
    for node in &all {
        node.until("/v1/cluster/roster", |answer| answer.status == 200 && answer.json()["voters"] == nodes);
    }
    all.iter().for_each(healthy);
    all
}

fn mode(node: &Running) -> String {
    node.get("/v1/cluster/status").json()["mode"].as_str().unwrap_or("none").to_owned()
}

fn healthy(node: &Running) {
    node.until("/v1/cluster/status", |answer| answer.json()["mode"] == "healthy");
}

fn put(node: &Running, key: &str, value: &str) -> Answer {
    put_at(node.api, key, value)
}

/// Writes at the node with this API, also from another thread.
fn put_at(api: SocketAddr, key: &str, value: &str) -> Answer {
    let body = json!({ "value": value }).to_string();
    let head = format!("PUT /v1/state/{key} HTTP/1.1\r\nhost: {api}\r\nconnection: close\r\n");
    let more = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    running::exchange(api, (head + &more + &body).as_bytes())
}

#[track_caller]
fn written(node: &Running, key: &str, value: &str) {
    let answer = put(node, key, value);
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// A key's value on a node; `None`: it knows none.
fn value(node: &Running, key: &str) -> Option<String> {
    let answer = node.get(&format!("/v1/state/{key}"));
    (answer.status == 200).then(|| answer.json()["value"].as_str().expect("one value").to_owned())
}

/// Waits until a node knows these keys, each with that value.
fn knows(node: &Running, keys: impl Iterator<Item = String>, value: &str) {
    for key in keys {
        node.until(&format!("/v1/state/{key}"), |answer| {
            answer.status == 200 && answer.json()["value"] == value
        });
    }
}

fn database(node: &Running) -> PathBuf {
    node.data_dir.join("shoal.db")
}

fn log(node: &Running) -> PathBuf {
    node.data_dir.join("shoal.db-wal")
}

/// What a node has told of others' statuses since it started.
fn told_of(node: &Running, status: &str) -> Vec<Value> {
    let page = node.get("/v1/history?limit=1000").json();
    let entries = page["entries"].as_array().expect("a list").clone();
    entries.into_iter().filter(|entry| entry.to_string().contains(&format!("\"{status}\""))).collect()
}

/// A figure of a node's metrics; zero when it is not told.
fn metric(node: &Running, name: &str) -> f64 {
    let metrics = node.get("/metrics").body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |figure| figure.parse().expect("a figure"))
}

#[test]
fn fault_17_a_disk_without_room_for_a_checkpoint_stops_neither_reads_nor_writes_and_tears_nothing() {
    let place = Place::new();
    let mut node = mesh(&place, 1).remove(0);
    let large = "v".repeat(60_000);
    let keys = || (0..120).map(|n| format!("k{n:03}"));
    let trouble = Trouble::with(node.pid(), Some(&database(&node)), "pwrite64", "error=ENOSPC");
    keys().for_each(|key| written(&node, &key, &large));
    assert!(value(&node, "k000").is_some_and(|value| value == large), "it is read all the time");
    assert!(trouble.times() > 0, "a checkpoint was tried");
    assert_eq!(mode(&node), "healthy");
    println!("{} pages were refused", trouble.end());
    written(&node, "after", "room");
    node.signal("KILL");
    node.code();
    let again = place.start("n1", &[]);
    healthy(&again);
    knows(&again, keys(), &large);
    assert_eq!(value(&again, "after").as_deref(), Some("room"));
    let shell = rusqlite::Connection::open(database(&again)).expect("opened");
    let found: String = shell.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("read");
    assert_eq!(found, "ok");
}

#[test]
fn fault_18_a_write_that_the_disk_did_not_confirm_is_refused_and_never_seen_and_the_node_recovers() {
    let place = Place::new();
    let mut nodes = mesh(&place, 3);
    written(&nodes[2], "before", "one");
    knows(&nodes[0], ["before".to_owned()].into_iter(), "one");
    let trouble = Trouble::with(nodes[2].pid(), None, SYNC, "error=EIO");
    let refused = put(&nodes[2], "refused", "one");
    assert!(refused.status >= 500 && refused.code() == "store_failed", "{refused:?}");
    nodes[2].until("/v1/cluster/status", |answer| answer.json()["mode"] == "degraded");
    let reason = nodes[2].get("/v1/cluster/status").json()["reason"].clone();
    assert!(reason.as_str().is_some_and(|reason| reason.contains("the disk fails")), "{reason}");
    assert_eq!(value(&nodes[2], "before").as_deref(), Some("one"), "it answers reads");
    assert!(metric(&nodes[2], "shoal_store_failing") > 0.5);
    assert!(put(&nodes[2], "refused", "again").status >= 500, "and nothing is taken");
    println!("{} synchronisations failed", trouble.end());
    healthy(&nodes[2]);
    written(&nodes[2], "after", "one");
    assert!(metric(&nodes[2], "shoal_store_failing") < 0.5);
    assert_eq!(told_of(&nodes[0], "failed"), [] as [Value; 0], "a disk is no reason to be held for failed");
    nodes[2].signal("KILL");
    nodes[2].code();
    nodes[2] = place.start("n3", &[]);
    healthy(&nodes[2]);
    for node in &nodes {
        knows(node, ["before".to_owned(), "after".to_owned()].into_iter(), "one");
        assert_eq!(value(node, "refused"), None);
    }
}

#[test]
fn fault_19_a_disk_that_hangs_stalls_what_waits_for_it_and_nobody_takes_its_node_for_failed() {
    const HANG: Duration = Duration::from_secs(12);
    let place = Place::new();
    let nodes = mesh(&place, 3);
    let how = format!("delay_enter={}:when=1", HANG.as_micros());
    let trouble = Trouble::with(nodes[2].pid(), None, SYNC, &how);
    let begun = Instant::now();
    std::thread::scope(|threads| {
        let api = nodes[2].api;
        let put = threads.spawn(move || put_at(api, "a", "one"));
        nodes[2].until("/v1/cluster/status", |answer| answer.json()["mode"] == "degraded");
        let degraded = begun.elapsed();
        println!("degraded after {degraded:?}");
        assert!((4..9).contains(&degraded.as_secs()), "{degraded:?}");
        let reason = nodes[2].get("/v1/cluster/status").json()["reason"].clone();
        assert!(reason.as_str().is_some_and(|reason| reason.contains("not confirmed a change")), "{reason}");
        written(&nodes[0], "b", "of the others");
        knows(&nodes[2], ["b".to_owned()].into_iter(), "of the others");
        assert!(!put.is_finished(), "nothing is answered before it is on the disk");
        let answer = put.join().expect("it is answered");
        assert_eq!((answer.status, begun.elapsed() >= HANG), (200, true), "{answer:?}");
    });
    trouble.end();
    healthy(&nodes[2]);
    knows(&nodes[0], ["a".to_owned()].into_iter(), "one");
    for node in &nodes[..2] {
        assert_eq!(told_of(node, "failed"), [] as [Value; 0]);
    }
}

#[test]
fn fault_29_a_slow_disk_slows_its_writers_down_and_nothing_else() {
    let place = Place::new();
    let nodes = mesh(&place, 3);
    let before = nodes[2].resident_bytes();
    // 4 KiB in 4 ms: 1 MB a second.
    let trouble = Trouble::with(nodes[2].pid(), None, &format!("pwrite64,{SYNC}"), "delay_exit=4000");
    let end = Instant::now() + Duration::from_secs(8);
    let value = "v".repeat(16 << 10);
    let made: usize = std::thread::scope(|threads| {
        let writer = |n: usize| {
            let (api, value) = (nodes[2].api, &value);
            let write = move || {
                let mut made = 0;
                while Instant::now() < end {
                    let answer = put_at(api, &format!("k{n}/{made}"), value);
                    assert!([200, 202, 503].contains(&answer.status), "{answer:?}");
                    made += usize::from(answer.status == 200);
                }
                made
            };
            threads.spawn(write)
        };
        let writers: Vec<_> = (0..16).map(writer).collect();
        writers.into_iter().map(|writer| writer.join().expect("it ends")).sum()
    });
    let slow = trouble.end();
    let grown = nodes[2].resident_bytes().saturating_sub(before);
    println!("{made} writes of 16 KiB in 8 s, {slow} calls slowed down, {} MiB more memory", grown >> 20);
    assert!(slow > 200 && (10..1_000).contains(&made), "{made} writes, {slow} calls");
    assert!(grown < 128 << 20, "{grown} bytes more");
    nodes.iter().for_each(healthy);
    for node in &nodes {
        for status in ["suspect", "failed"] {
            assert_eq!(told_of(node, status), [] as [Value; 0], "membership does not wait for the disk");
        }
    }
}

#[test]
fn fault_31_reads_that_fail_fail_what_asked_for_them_and_the_node_goes_on() {
    let place = Place::new();
    let node = mesh(&place, 1).remove(0);
    written(&node, "before", "one");
    let trouble = Trouble::with(node.pid(), Some(&database(&node)), "pread64", "error=EIO");
    let refused = node.get("/v1/history");
    assert!(refused.status >= 500, "{refused:?}");
    assert!(
        refused.body.contains("cannot be used") && refused.body.contains("check the disk"),
        "{refused:?}"
    );
    assert_eq!(value(&node, "before").as_deref(), Some("one"), "what is shared is read from memory");
    assert_eq!(node.get("/health/live").status, 200);
    assert!(trouble.end() > 0);
    assert_eq!(node.get("/v1/history").status, 200);
    healthy(&node);
    written(&node, "after", "one");
}

/// The disk of one of three refuses to be written to, for a while: what its node does meanwhile, and afterwards.
fn refuses_writes_for_a_while(error: &str, words: &str) {
    let place = Place::new();
    let nodes = mesh(&place, 3);
    written(&nodes[2], "before", "one");
    knows(&nodes[0], ["before".to_owned()].into_iter(), "one");
    let how = format!("error={error}");
    let trouble = Trouble::with(nodes[2].pid(), Some(&log(&nodes[2])), "pwrite64,ftruncate", &how);
    let refused = put(&nodes[2], "refused", "one");
    assert!(refused.status >= 500 && refused.code() == "store_failed", "{refused:?}");
    assert!(refused.body.contains(words), "{refused:?}");
    nodes[2].until("/v1/cluster/status", |answer| answer.json()["mode"] == "degraded");
    assert_eq!(value(&nodes[2], "before").as_deref(), Some("one"), "it answers reads");
    written(&nodes[0], "meanwhile", "one");
    assert_eq!(mode(&nodes[0]), "healthy", "the others go on");
    let told = |answer: &Answer| {
        let modes = answer.json()["nodes"].as_array().cloned().unwrap_or_default();
        modes.iter().any(|mode| {
            mode["node_id"] == "n3"
                && mode["mode"] == "degraded"
                && mode.to_string().contains("the disk fails")
        })
    };
    nodes[0].until("/v1/cluster/partition", told);
    let doubts = |answer: &Answer| answer.json()[2]["doubts"].to_string();
    nodes[0].until("/v1/cluster/members", |answer| {
        doubts(answer).contains("the disk fails") && doubts(answer).contains(words)
    });
    assert!(trouble.end() > 0, "writes were refused");
    healthy(&nodes[2]);
    nodes[0].until("/v1/cluster/members", |answer| doubts(answer) == "[]");
    written(&nodes[2], "after", "one");
    for node in &nodes {
        knows(node, ["before", "meanwhile", "after"].map(str::to_owned).into_iter(), "one");
        assert_eq!(value(node, "refused"), None);
    }
    assert_eq!(told_of(&nodes[0], "failed"), [] as [Value; 0], "a disk is no reason to be held for failed");
}

#[test]
fn fault_16_a_node_without_room_on_its_disk_reads_refuses_writes_says_so_and_recovers() {
    refuses_writes_for_a_while("ENOSPC", "full");
}

#[test]
fn fault_28_a_node_whose_file_system_becomes_read_only_reads_refuses_writes_says_so_and_recovers() {
    refuses_writes_for_a_while("EROFS", "");
}
