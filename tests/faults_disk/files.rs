//! Files that vanish or are cut, a store of an earlier version beside present ones, and a log that nobody takes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

/// Writes on the last of three nodes, does something to its files while it is dead, and starts it again.
fn after(place: &Place, nodes: &mut [Running], what: &str, harm: impl FnOnce(&Running)) {
    let keys = || (0..20).map(|n| format!("{what}/{n}"));
    keys().for_each(|key| written(&nodes[2], &key, "before"));
    knows(&nodes[0], keys(), "before");
    nodes[2].signal("KILL");
    nodes[2].code();
    harm(&nodes[2]);
    written(&nodes[0], &format!("{what}/0"), "meanwhile");
    nodes[2] = place.start("n3", &[]);
    let first = put(&nodes[2], &format!("{what}/1"), "after");
    assert!([200, 202].contains(&first.status), "made, or kept until it knows what it has missed: {first:?}");
    nodes.iter().for_each(healthy);
    for node in &*nodes {
        knows(node, keys().skip(2), "before");
        knows(node, [format!("{what}/0")].into_iter(), "meanwhile");
        knows(node, [format!("{what}/1")].into_iter(), "after");
    }
    let dots: BTreeSet<_> = keys()
        .map(|key| nodes[1].get(&format!("/v1/state/{key}")).json()["dot"].as_str().expect("one").to_owned())
        .collect();
    assert_eq!(dots.len(), 20, "no write has the name of another");
    // And none is refused as something else under a known name.
    assert!(nodes.iter().all(|node| metric(node, "shoal_state_refused_total") < 0.5));
}

#[test]
fn fault_23_a_log_that_is_deleted_or_cut_costs_nothing_that_peers_have_and_no_number_is_used_twice() {
    let place = Place::new();
    let mut nodes = mesh(&place, 3);
    after(&place, &mut nodes, "deleted", |node| {
        assert!(fs::metadata(log(node)).expect("there").len() > 0);
        fs::remove_file(log(node)).expect("removed");
    });
    after(&place, &mut nodes, "cut", |node| {
        let length = fs::metadata(log(node)).expect("there").len();
        assert!(length > 0);
        let file = fs::OpenOptions::new().write(true).open(log(node)).expect("opened");
        file.set_len(length / 2).expect("cut");
    });
    after(&place, &mut nodes, "emptied", |node| {
        fs::OpenOptions::new().write(true).truncate(true).open(log(node)).expect("emptied");
    });
}

#[test]
fn fault_24_a_node_whose_database_is_deleted_notices_it_by_itself_and_ends_with_the_reason() {
    for name in ["shoal.db", "shoal.db-wal"] {
        let place = Place::new();
        let mut nodes = mesh(&place, 2);
        written(&nodes[1], "a", "one");
        knows(&nodes[0], ["a".to_owned()].into_iter(), "one");
        fs::remove_file(nodes[1].data_dir.join(name)).expect("removed");
        let begun = Instant::now();
        let refused = put(&nodes[1], "b", "lost");
        assert!(refused.status >= 500 && refused.body.contains("removed or replaced"), "{name}: {refused:?}");
        let code = nodes[1].code();
        println!("{name}: ended after {:?}", begun.elapsed());
        assert_eq!(code, Some(1), "{name}");
        let said: Vec<String> = nodes[1].rest_of_log().iter().map(ToString::to_string).collect();
        let last = said.last().expect("it says something");
        assert!(last.contains("shoal: ") && last.contains("removed or replaced"), "{name}: {last}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{name}: {:?}", begun.elapsed());
        assert_eq!(value(&nodes[0], "b"), None, "{name}");
    }
}

#[test]
fn fault_24_an_idle_node_whose_database_is_deleted_ends_too() {
    let place = Place::new();
    let mut node = mesh(&place, 1).remove(0);
    fs::rename(database(&node), place.path().join("aside")).expect("moved away");
    assert_eq!(node.code(), Some(1));
}

#[test]
fn fault_32_a_log_that_nobody_takes_is_counted_and_the_node_goes_on() {
    let place = Place::new();
    let volume = place.path().join("volume");
    fs::create_dir(&volume).expect("made");
    // A small volume for the log alone, in a name space of the node's.
    let node = place.command("n1", &["--bootstrap"]);
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c"])
        .arg("mount -t tmpfs -o size=64k tmpfs \"$0\" && exec \"$@\" 2>\"$0/log\"");
    command.arg(&volume).arg(node.get_program()).args(node.get_args());
    let child = command.stdin(Stdio::null()).spawn().expect("`unshare` is installed and this is root");
    let seen = PathBuf::from(format!("/proc/{}/root{}", child.id(), volume.display()));
    let mut node = Running::adopted(child, place.data_dir("n1"));
    let lines = || fs::read_to_string(seen.join("log")).unwrap_or_default();
    let port = until(|| {
        let text = lines();
        let line = text.lines().find(|line| line.contains("\"message\":\"api\""))?;
        let told: Value = serde_json::from_str(line).ok()?;
        told["address"].as_str()?.rsplit(':').next()?.parse::<u16>().ok()
    });
    node.api.set_port(port);
    healthy(&node);
    assert!(metric(&node, "shoal_log_lines_lost_total") < 0.5);

    // Each time that it is asked to read this, it says what is wrong with it.
    fs::write(node.data_dir.join("certs/node.crt"), "no certificate").expect("written");
    let mut ballast = fs::File::create(seen.join("ballast")).expect("made");
    while ballast.write_all(&[0; 512]).is_ok() {}
    let full = lines().len();
    until(|| {
        node.signal("HUP");
        written(&node, "a", "one");
        (metric(&node, "shoal_log_lines_lost_total") > 5.0).then_some(())
    });
    assert_eq!(value(&node, "a").as_deref(), Some("one"));
    healthy(&node);
    assert!(lines().len() < full + 4096, "no more than the rest of its last page");
    ballast.set_len(0).expect("room again");
    until(|| {
        node.signal("HUP");
        (lines().len() > full + 8192).then_some(())
    });
    let lost = metric(&node, "shoal_log_lines_lost_total");
    written(&node, "b", "one");
    println!("{lost} lines were lost");
}

#[test]
fn fault_32_history_that_the_disk_does_not_take_is_counted_and_the_node_goes_on() {
    let place = Place::new();
    let node = mesh(&place, 1).remove(0);
    let trouble = Trouble::with(node.pid(), Some(&log(&node)), "pwrite64", "error=ENOSPC");
    // A newcomer is something to remember.
    let other = place.start("n2", &["--join", &address(&node)]);
    node.until("/v1/cluster/members", |answer| answer.json().as_array().map(Vec::len) == Some(2));
    until(|| (metric(&node, "shoal_history_dropped_total") > 0.5).then_some(()));
    assert_eq!(node.get("/health/live").status, 200);
    assert!(node.get("/v1/history").json()["dropped"].as_u64().is_some_and(|dropped| dropped > 0));
    assert!(trouble.end() > 0);
    healthy(&node);
    healthy(&other);
}

/// A database as schema version 1 wrote it, which remembers a mesh.
const VERSION_1: &str = "
    PRAGMA application_id = 1936224097;
    PRAGMA user_version = 1;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE peers (node_id TEXT PRIMARY KEY, card BLOB NOT NULL) STRICT;
    CREATE TABLE agents (name TEXT PRIMARY KEY, spec BLOB NOT NULL) STRICT;
    INSERT INTO meta VALUES ('start', 41);
    INSERT INTO meta VALUES ('quic_reset_key', zeroblob(64)), ('quic_connection_id_key', zeroblob(8));
";

#[test]
fn fault_72_a_node_that_migrates_its_store_joins_nodes_that_have_not_to_and_nothing_storms() {
    let place = Place::new();
    let nodes = mesh(&place, 2);
    written(&nodes[0], "before", "one");
    let id = nodes[0].get("/v1/cluster/status").json()["mesh_id"].as_str().expect("an id").replace('-', "");
    let dir = place.data_dir("n3");
    fs::create_dir_all(&dir).expect("made");
    let shell = rusqlite::Connection::open(dir.join("shoal.db")).expect("made");
    shell.execute_batch(VERSION_1).expect("made");
    shell.execute_batch(&format!("INSERT INTO meta VALUES ('mesh_id', x'{id}')")).expect("made");
    drop(shell);
    let third = place.start("n3", &["--join", &address(&nodes[0])]);
    healthy(&third);
    let version = |node: &Running| -> i64 {
        let shell = rusqlite::Connection::open(database(node)).expect("opened");
        shell.pragma_query_value(None, "user_version", |row| row.get(0)).expect("read")
    };
    assert!(version(&third) > 1, "it was migrated");
    assert_eq!(version(&third), version(&nodes[0]));
    written(&third, "after", "one");
    for node in nodes.iter().chain([&third]) {
        knows(node, ["before".to_owned(), "after".to_owned()].into_iter(), "one");
    }
    let before: Vec<u64> = nodes.iter().chain([&third]).map(packets_sent).collect();
    let span = Duration::from_secs(5);
    std::thread::sleep(span);
    for (node, before) in nodes.iter().chain([&third]).zip(before) {
        let rate = (packets_sent(node) - before) as f64 / span.as_secs_f64();
        println!("{}: {rate:.0} packets a second", node.name());
        assert!(rate < 100.0, "{}: {rate} packets a second", node.name());
        assert!(metric(node, "shoal_state_refused_total") < 0.5);
    }
}

fn is_stored(database: &Path, key: &str) -> bool {
    let shell = rusqlite::Connection::open(database).expect("opened");
    let count = "SELECT count(*) FROM state WHERE key = ?1";
    shell.query_row(count, [key.as_bytes()], |row| row.get::<_, i64>(0)).expect("counted") == 1
}

/// Takes a key out of a database as if it had never been in it: nothing shows at the start.
fn forget(database: &Path, key: &str) {
    let shell = rusqlite::Connection::open(database).expect("opened");
    let take = "UPDATE tallies SET row_count = row_count - 1, bytes = bytes - ?2, checksums = ?3 WHERE name = 'state'";
    let find = "SELECT length(key) + length(row), checksum FROM state WHERE key = ?1";
    let (bytes, checksum): (i64, i64) =
        shell.query_row(find, [key.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?))).expect("it is there");
    let tally = "SELECT checksums FROM tallies WHERE name = 'state'";
    let checksums: i64 = shell.query_row(tally, [], |row| row.get(0)).expect("a tally");
    let left = checksums.wrapping_sub(checksum);
    assert_eq!(shell.execute(take, rusqlite::params![key, bytes, left]).expect("taken"), 1);
    assert_eq!(shell.execute("DELETE FROM state WHERE key = ?1", [key.as_bytes()]).expect("deleted"), 1);
}

#[test]
fn keys_that_nodes_hold_differently_with_equal_clocks_are_told_of_and_written_anew_when_an_operator_says_so()
{
    let place = Place::new();
    let mut nodes = mesh(&place, 3);
    let keys = || (0..5).map(|n| format!("k{n}"));
    keys().for_each(|key| written(&nodes[0], &key, "one"));
    nodes.iter().for_each(|node| knows(node, keys(), "one"));
    for (at, key) in [(1, "k1"), (2, "k2"), (2, "k3")] {
        until(|| is_stored(&database(&nodes[at]), key).then_some(()));
        nodes[at].signal("TERM");
        nodes[at].code();
        forget(&database(&nodes[at]), key);
        nodes[at] = place.start(&format!("n{}", at + 1), &[]);
        nodes.iter().for_each(healthy);
    }
    for (at, key) in [(1, "k1"), (2, "k2"), (2, "k3")] {
        assert_eq!(value(&nodes[at], key), None, "no rule of merging brings it back");
    }
    // The nodes tell each other what they hold now and then.
    nodes[0].wait_for_log(
        "a peer has seen the same writes and holds other values: one of the two disks is damaged; \
        `shoal cluster reconcile --force` writes the keys in question anew",
    );
    let compared = nodes[0].shoal(&["cluster", "reconcile"]);
    assert_eq!(compared.code, Some(0), "{compared:?}");
    assert_eq!(value(&nodes[1], "k1"), None);

    // Also by a node that has lost some of it itself.
    let mended = nodes[2].shoal(&["cluster", "reconcile", "--force"]);
    assert_eq!(mended.code, Some(0), "{mended:?}");
    assert!(mended.out.contains("3 keys were written anew:\n  k1\n  k2\n  k3\n"), "{mended:?}");
    nodes.iter().for_each(|node| knows(node, keys(), "one"));
    let again = nodes[0].shoal(&["cluster", "reconcile", "--force"]);
    assert!(again.code == Some(0) && again.out.contains("\n0 keys were written anew\n"), "{again:?}");

    nodes[1].signal("KILL");
    nodes[2].signal("KILL");
    nodes[0].until("/v1/cluster/status", |answer| answer.json()["mode"] == "degraded");
    let refused = nodes[0].shoal(&["cluster", "reconcile", "--force"]);
    assert!(refused.code == Some(1) && refused.err.contains("among a majority"), "{refused:?}");
}

#[test]
fn the_only_node_of_a_mesh_whose_database_was_damaged_begins_anew_when_an_operator_says_so() {
    let place = Place::new();
    let mut node = mesh(&place, 1).remove(0);
    written(&node, "a", "one");
    node.signal("TERM");
    node.code();
    let shell = rusqlite::Connection::open(database(&node)).expect("opened");
    shell
        .execute_batch("UPDATE tallies SET checksums = checksums + 1 WHERE name = 'state'")
        .expect("damaged");
    drop(shell);
    // Not by itself, however often it starts: it cannot know that nobody else has the roster.
    for flags in [&[][..], &["--bootstrap"]] {
        node = place.start("n1", flags);
        node.until("/v1/cluster/status", |answer| answer.json()["mode"] == "joining");
        assert_eq!(value(&node, "a"), None);
        node.signal("TERM");
        node.code();
    }
    node = place.start("n1", &[]);
    let reason = ["cluster", "resolve", "--strategy", "force", "--reason", "the disk was damaged"];
    let begun = node.shoal(&reason);
    assert!(begun.code == Some(0) && begun.out.contains("n1"), "{begun:?}");
    healthy(&node);
    written(&node, "a", "two");
}

/// Packets that a node has sent over all its links.
fn packets_sent(node: &Running) -> u64 {
    let reports = node.get(&format!("/v1/cluster/facts?node={}", node.name())).json();
    let links = reports[0]["facts"]["links"].as_array().expect("links").clone();
    links.iter().map(|link| link["sent_packets"].as_u64().expect("a figure")).sum()
}

fn address(node: &Running) -> String {
    node.get("/v1/cluster/members").json()[0]["address"].as_str().expect("an address").to_owned()
}

/// Asks again until there is something.
#[track_caller]
fn until<T>(mut find: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(begun.elapsed() < LONG, "it does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}
