//! The shared state of real processes in network namespaces, with clients that write at every node meanwhile: what
//! they were told is recorded, and afterwards held against what every node shows.

mod common;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use common::netns::{Net, RealNode, address, until};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rusqlite::Connection;
use serde_json::Value;
use shoal::core::contract::Table;
use shoal::core::model::{Clock, Dot};
use shoal::core::state::State;

const NODES: usize = 5;

/// What one client was told of one write.
#[derive(Debug, Clone)]
enum Told {
    Written,
    Queued(String),
    /// Neither: it may have been made.
    Failed,
}

#[derive(Debug, Clone)]
struct Write {
    node: usize,
    key: String,
    value: String,
    told: Told,
}

fn put(net: &Net, node: usize, key: &str, value: &str) -> Told {
    let output = net.shoal(node, &["state", "put", key, value, "-o", "json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    match output.status.code() {
        Some(0) => Told::Written,
        Some(5) => Told::Queued(json["ticket"].as_str().expect("a ticket").to_owned()),
        _ => Told::Failed,
    }
}

fn mode(net: &Net, node: usize) -> Option<String> {
    Some(net.json(node, &["cluster", "status"])?["mode"].as_str()?.to_owned())
}

/// Every key that a node shows, with its value; siblings are joined.
fn all_of(net: &Net, node: usize) -> BTreeMap<String, Vec<String>> {
    let output = net.shoal(node, &["state", "list", "--limit", "1000", "-o", "json"]);
    let page: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    let entries = page["entries"].as_array().or_else(|| page.as_array()).cloned().unwrap_or_default();
    let values = |entry: &Value| {
        let mut values: Vec<_> = entry["siblings"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|sibling| sibling["value"].as_str().map(str::to_owned))
            .collect();
        if values.is_empty() {
            values.extend(entry["value"].as_str().map(str::to_owned));
        }
        values.sort();
        values
    };
    entries.iter().filter_map(|e| Some((e["key"].as_str()?.to_owned(), values(e)))).collect()
}

/// Nothing passes between the machines of one side and those of the other.
fn cut(net: &Net, side: &[usize], other: &[usize]) {
    for (here, there) in side.iter().flat_map(|a| other.iter().flat_map(move |b| [(*a, *b), (*b, *a)])) {
        net.nft(here, "add table ip cut");
        net.nft(here, "add chain ip cut in { type filter hook input priority 0; }");
        net.nft(here, &format!("add rule ip cut in ip saddr {} drop", address(there)));
    }
}

fn heal(net: &Net) {
    for n in 1..=NODES {
        net.nft(n, "flush ruleset");
    }
}

/// The clients end with the test, also when it fails.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Clients that write keys of their own at every node, one after the other, until `stop`.
fn write_everywhere(net: &Net, stop: &AtomicBool, history: &Mutex<Vec<Write>>) {
    std::thread::scope(|scope| {
        for node in 1..=NODES {
            scope.spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (key, value) = (format!("client-{node}/{}", n % 20), format!("{node}-{n}"));
                    let told = put(net, node, &key, &value);
                    history.lock().expect("no client panics").push(Write { node, key, value, told });
                }
            });
        }
    });
}

fn five(net: &Net) -> Vec<RealNode<'_>> {
    let first = net.start(1, &["--bootstrap"]);
    first.until_ready();
    let mut nodes = vec![first];
    nodes.extend((2..=NODES).map(|n| net.start(n, &["--join", "node-1"])));
    net.all_alive(&[1, 2, 3, 4, 5]);
    until("all are healthy", || (1..=NODES).all(|n| mode(net, n).as_deref() == Some("healthy")));
    until("all vote", || {
        let roster = net.json(1, &["cluster", "roster"]).unwrap_or_default();
        let members = roster["members"].as_array().cloned().unwrap_or_default();
        members.iter().filter(|member| member["voter"] == true).count() == NODES
    });
    nodes
}

/// What a node's file holds: the writes that it knows, and every key with the names and values of those that stand.
type Stored = (Clock, BTreeMap<String, Vec<(Dot, Bytes)>>);

fn stored(net: &Net, node: usize) -> Stored {
    let mut file = Connection::open(net.path(&format!("node-{node}/shoal.db"))).expect("opened");
    let moment = file.transaction().expect("read at one moment");
    let rows = |table: &str| -> Vec<(Bytes, Bytes)> {
        let mut statement = moment.prepare(&format!("SELECT key, row FROM {table}")).expect("a table");
        let bytes = |row: &rusqlite::Row<'_>, at| row.get::<_, Vec<u8>>(at).map(Bytes::from);
        let rows = statement.query_map([], |row| Ok((bytes(row, 0)?, bytes(row, 1)?))).expect("read");
        rows.map(|row| row.expect("two columns of bytes")).collect()
    };
    let mut tables = [(Table::State, rows("state")), (Table::Clock, rows("clock"))].into();
    let state = State::load(&mut tables);
    let values = state.keys().map(|(key, state)| {
        let values = state.values().map(|(sibling, value)| (sibling.dot, value.clone()));
        (key.to_string(), values.collect::<Vec<_>>())
    });
    // Who has forgotten a deletion and who has not hold the same.
    (state.clock().clone(), values.filter(|(_, values)| !values.is_empty()).collect())
}

/// What was taken from others goes to the disk a moment later: then all files hold the same, and they do so when the
/// nodes have ended.
fn the_files_are_equal(net: &Net, nodes: Vec<RealNode<'_>>) {
    until("all have it on their disks", || (2..=NODES).all(|n| stored(net, n) == stored(net, 1)));
    let shown = all_of(net, 1);
    for node in nodes {
        assert!(node.stop().success());
    }
    let (clock, keys) = stored(net, 1);
    assert_eq!(
        keys.keys().collect::<Vec<_>>(),
        shown.keys().collect::<Vec<_>>(),
        "it holds what it has shown"
    );
    for n in 2..=NODES {
        assert_eq!(stored(net, n), (clock.clone(), keys.clone()), "the file of node-{n} and that of node-1");
    }
}

/// Each client writes its keys in turn and nobody else does: the last write that was made is what must stand, or a
/// later one whose client was told nothing.
fn nothing_is_lost(net: &Net, history: &[Write]) {
    let shown = all_of(net, 1);
    for n in 2..=NODES {
        assert_eq!(all_of(net, n), shown, "node-{n} shows something else than node-1");
    }
    let mut last: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
    for write in history {
        let of_key = last.entry(&write.key).or_default();
        let is_made = match &write.told {
            Told::Written => true,
            Told::Queued(ticket) => {
                let ticket = net.json(write.node, &["state", "ticket", ticket]).expect("it is known");
                let state = ticket["state"].as_str().expect("a state");
                assert!(matches!(state, "applied" | "conflicted"), "{write:?}: {ticket}");
                true
            }
            Told::Failed => false,
        };
        if is_made {
            of_key.clear();
        }
        of_key.push(write);
    }
    for (key, candidates) in last {
        let values = shown.get(key).cloned().unwrap_or_default();
        // And nothing beside it that was replaced: nobody else writes the key.
        let are_all = values.iter().all(|value| candidates.iter().any(|write| *value == write.value));
        assert!(are_all, "{key} shows {values:?}, more than {candidates:?}");
        let is_one = candidates.iter().any(|write| values.contains(&write.value));
        let none_is_certain = candidates.iter().all(|write| matches!(write.told, Told::Failed));
        assert!(
            is_one || (none_is_certain && values.is_empty()),
            "{key} shows {values:?}, not one of {candidates:?}"
        );
    }
}

#[test]
fn two_of_five_that_are_cut_off_queue_what_is_written_and_every_ticket_has_its_outcome_afterwards() {
    let net = Net::new(NODES);
    let nodes = five(&net);
    let (stop, history) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let _stopping = Stopping(&stop);
        scope.spawn(|| write_everywhere(&net, &stop, &history));
        let wrote = |nodes: &[usize], is: fn(&Told) -> bool, since: usize| {
            let history = history.lock().expect("no client panics");
            nodes.iter().all(|n| history[since..].iter().any(|w| w.node == *n && is(&w.told)))
        };
        until("everybody writes", || wrote(&[1, 2, 3, 4, 5], |told| matches!(told, Told::Written), 0));

        cut(&net, &[1, 2], &[3, 4, 5]);
        let since = history.lock().expect("no client panics").len();
        let begun = Instant::now();
        until("the minority is degraded", || {
            [1, 2].iter().all(|n| mode(&net, *n).as_deref() == Some("degraded"))
        });
        println!("the minority knew after {:?}", begun.elapsed());
        until("the minority queues", || wrote(&[1, 2], |told| matches!(told, Told::Queued(_)), since));
        let shown = net.shoal(1, &["state", "get", "client-1/0"]);
        assert!(shown.status.success(), "a minority reads");
        let warning = String::from_utf8_lossy(&shown.stderr).into_owned();
        assert!(warning.contains("may be") && warning.contains("old"), "it says how old that is: {warning}");
        assert_eq!(net.shoal(1, &["cluster", "detect-partition"]).status.code(), Some(1));
        // As long as a cut of this kind lasts on a bad night, in short: several times the detection time.
        until("the cut has lasted", || begun.elapsed() > Duration::from_secs(30));
        let during = history.lock().expect("no client panics").len();
        until("the majority goes on writing", || {
            wrote(&[3, 4, 5], |told| matches!(told, Told::Written), during)
        });

        heal(&net);
        let healed = until("all are healthy again and nothing waits", || {
            (1..=NODES).all(|n| {
                let status = net.json(n, &["cluster", "status"]).unwrap_or_default();
                status["mode"] == "healthy" && status["queued_writes"] == 0
            })
        });
        println!("healed and replayed after {healed:?}");
        let after = history.lock().expect("no client panics").len();
        until("everybody writes again", || {
            wrote(&[1, 2, 3, 4, 5], |told| matches!(told, Told::Written), after)
        });
    });
    let history = history.into_inner().expect("no client panics");
    let count = |is: fn(&Told) -> bool| history.iter().filter(|write| is(&write.told)).count();
    println!(
        "{} writes made at once, {} queued, {} without an answer",
        count(|told| matches!(told, Told::Written)),
        count(|told| matches!(told, Told::Queued(_))),
        count(|told| matches!(told, Told::Failed))
    );
    let equal = || (2..=NODES).all(|n| all_of(&net, n) == all_of(&net, 1));
    until("all show the same", equal);
    nothing_is_lost(&net, &history);
    the_files_are_equal(&net, nodes);
}

/// For how long nodes are killed.
const KILLING: Duration = Duration::from_secs(120);

#[test]
fn nodes_that_are_killed_by_chance_while_everybody_writes_lose_nothing() {
    let net = Net::new(NODES);
    let mut nodes: Vec<_> = five(&net).into_iter().map(Some).collect();
    let mut kills = 0;
    let by_chance = || UNIX_EPOCH.elapsed().expect("a clock that is not before 1970").subsec_nanos().into();
    let seed =
        std::env::var("SHOAL_KILL_SEED").map_or_else(|_| by_chance(), |s| s.parse().expect("a number"));
    println!("SHOAL_KILL_SEED={seed} kills in the same order");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (stop, history) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let _stopping = Stopping(&stop);
        scope.spawn(|| write_everywhere(&net, &stop, &history));
        let begun = Instant::now();
        while begun.elapsed() < KILLING {
            let n = rng.random_range(1..=NODES);
            kills += 1;
            let before = history.lock().expect("no client panics").len();
            nodes[n - 1].take().expect("it runs").kill();
            until("the others go on", || {
                let so_far = history.lock().expect("no client panics").len();
                let others = (1..=NODES).filter(|other| *other != n);
                others.into_iter().all(|other| mode(&net, other).as_deref() == Some("healthy"))
                    && so_far > before
            });
            nodes[n - 1] = Some(net.start(n, &[]));
            until("it is back", || mode(&net, n).as_deref() == Some("healthy"));
        }
    });
    let history = history.into_inner().expect("no client panics");
    until("nothing waits, and all show the same", || {
        let waits = |n: usize| net.json(n, &["cluster", "status"]).unwrap_or_default()["queued_writes"] != 0;
        !(1..=NODES).any(waits) && (2..=NODES).all(|n| all_of(&net, n) == all_of(&net, 1))
    });
    assert!(kills >= 5, "{kills} in {KILLING:?}");
    println!("{kills} nodes were killed while {} writes were made", history.len());
    nothing_is_lost(&net, &history);
    the_files_are_equal(&net, nodes.into_iter().flatten().collect());
}
