//! The core's own tables in the store, and what becomes of a damaged database: real files, and processes that end at
//! a chosen point.
#![cfg(feature = "node")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rusqlite::Connection;
use shoal::core::contract::{Change, Remembered, Table};
use shoal::core::ids::{AgentName, MeshId, NodeId, PersistNo};
use shoal::core::limits;
use shoal::core::model::{AgentSource, AgentSpec, NodeCard};
use shoal::node::store::{NodeKeys, Opened, Outcome, Store, StoreError};

/// The data directory that a test gives to a process of its own.
const CHILD_DIRECTORY: &str = "SHOAL_TEST_STORE_DIRECTORY";

// --- What survives ---

#[test]
fn rows_are_there_at_the_next_start_in_order_of_their_keys() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path());
    node.commit(1, vec![put(Table::State, "b", "1"), put(Table::State, "a", ""), put(Table::Queue, "", "q")])
        .unwrap();
    node.commit(
        2,
        vec![put(Table::State, "b", "2"), put(Table::State, "c", "3"), put(Table::Clock, "x", "y")],
    )
    .unwrap();
    node.commit(
        3,
        vec![delete(Table::State, "c"), delete(Table::State, "absent"), Change::Clear(Table::Clock)],
    )
    .unwrap();
    drop(node);

    let remembered = Node::open(directory.path()).remembered;
    let expected = BTreeMap::from([
        (Table::State, vec![("a".into(), "".into()), ("b".into(), "2".into())]),
        (Table::Queue, vec![("".into(), "q".into())]),
    ]);
    assert_eq!(remembered.tables, expected);
    assert!(!remembered.rebuilt);
}

#[test]
fn a_refused_batch_leaves_rows_and_tally_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path());
    node.commit(1, vec![put(Table::State, "a", "1")]).unwrap();
    let absurd = Change::StartAtLeast(u64::MAX);
    node.commit(2, vec![put(Table::State, "a", "2"), put(Table::State, "b", "2"), absurd]).unwrap_err();
    node.commit(3, vec![Change::Afresh, put(Table::State, "c", "3")]).unwrap();
    drop(node);
    assert_eq!(Node::open(directory.path()).rows(), [("a", "1"), ("c", "3")].map(owned));
}

#[test]
fn a_key_or_a_row_that_is_too_large_is_refused_and_the_largest_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path());
    let sized = |key: usize, row: usize| {
        let (key, row) = (Bytes::from(vec![7; key]), Bytes::from(vec![8; row]));
        vec![Change::Afresh, Change::Put { table: Table::State, key, row }]
    };
    let (key, row) = (limits::STORE_KEY_BYTES_MAX, limits::STORE_ROW_BYTES_MAX);
    node.commit(1, sized(key, row)).unwrap();
    for (no, (key, row)) in [(2, (key + 1, 1)), (3, (1, row + 1))] {
        let reason = node.commit(no, sized(key, row)).unwrap_err();
        assert!(reason.contains("at most"), "{reason}");
    }
    drop(node);
    assert_eq!(Node::open(directory.path()).remembered.tables[&Table::State].len(), 1);
}

#[test]
fn what_a_disk_that_was_full_has_to_take_at_once_is_taken_whatever_its_size() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path());
    let many = limits::STORE_QUEUE_CHANGES_MAX + 1;
    let rows = (0..many).map(|n| put(Table::State, &format!("many-{n:05}"), "1"));
    node.commit(1, [Change::Afresh].into_iter().chain(rows).collect()).unwrap();
    let row = Bytes::from(vec![1; limits::STORE_ROW_BYTES_MAX]);
    let times = limits::STORE_QUEUE_BYTES_MAX / row.len() + 1;
    let large = |n: usize| Change::Put { table: Table::State, key: vec![n as u8].into(), row: row.clone() };
    node.commit(2, (0..times).map(large).collect()).unwrap();
    drop(node);
    assert_eq!(Node::open(directory.path()).remembered.tables[&Table::State].len(), many + times);
}

#[test]
fn a_start_finds_a_table_that_somebody_else_has_changed() {
    for (sql, detail) in [
        ("UPDATE state SET row = x'41' WHERE key = x'62'", "a row of the table state"),
        ("UPDATE state SET key = x'41' WHERE key = x'62'", "a row of the table state"),
        ("UPDATE state SET checksum = checksum + 1", "a row of the table state"),
        ("DELETE FROM state WHERE key = x'62'", "1 rows are there, and 2 were"),
        ("INSERT INTO clock SELECT * FROM state", "a row of the table clock"),
        ("UPDATE tallies SET checksums = 0", "2 rows are there, and 2 were"),
        ("DELETE FROM tallies", "no rows"),
        ("DROP TABLE register", "register is not defined as version 4"),
        ("ALTER TABLE queue RENAME COLUMN row TO sow", "queue is not defined as version 4"),
        ("PRAGMA user_version = 1", "not defined as version 1"),
        ("UPDATE meta SET value = 'many' WHERE key = 'start'", "invalid column type text"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(directory.path());
        node.commit(1, vec![put(Table::State, "a", "1"), put(Table::State, "b", "2"), peer("node-2")])
            .unwrap();
        drop(node);
        edit(directory.path(), sql);
        let log = Log::default();
        let opened = tracing::subscriber::with_default(log.subscriber(), || Node::open(directory.path()));
        assert!(opened.remembered.rebuilt, "{sql}");
        assert!(opened.remembered.tables.is_empty(), "{sql}");
        assert_eq!(opened.remembered.peers, [card("node-2")], "{sql}");
        let text = log.text();
        assert!(text.contains("WARN") && text.to_lowercase().contains(detail), "{sql}: {text}");
    }
}

#[test]
fn an_old_row_that_comes_back_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path());
    node.commit(1, vec![put(Table::Register, "vote", "term 1")]).unwrap();
    let shell = Connection::open(directory.path().join("shoal.db")).unwrap();
    let old: (Vec<u8>, i64) = shell
        .query_row("SELECT row, checksum FROM register", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    node.commit(2, vec![put(Table::Register, "vote", "term 2")]).unwrap();
    drop((node, shell));
    let shell = Connection::open(directory.path().join("shoal.db")).unwrap();
    shell.execute("UPDATE register SET row = ?1, checksum = ?2", old).unwrap();
    drop(shell);
    assert!(Node::open(directory.path()).remembered.rebuilt, "its own checksum is right, the tally is not");
}

// --- Damage ---

#[test]
fn a_damaged_database_is_put_aside_whole_and_what_can_be_read_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shoal.db");
    make_and_damage_state(directory.path());
    let damaged = fs::read(&file).unwrap();

    let log = Log::default();
    let node = tracing::subscriber::with_default(log.subscriber(), || Node::open(directory.path()));
    let remembered = &node.remembered;
    let expected = Remembered {
        start: 1 + limits::STORE_SALVAGED_START_MARGIN + 1,
        mesh_id: Some(mesh_id()),
        peers: vec![card("node-2")],
        agents: vec![spec("echo")],
        rebuilt: true,
        ..Remembered::default()
    };
    assert_eq!(*remembered, expected);
    let aside = put_aside(directory.path());
    assert_eq!(aside.len(), 1);
    assert_eq!(fs::read(&aside[0]).unwrap(), damaged, "not a byte of it has changed");
    let text = log.text();
    assert!(
        text.contains("WARN") && text.contains(aside[0].file_name().unwrap().to_str().unwrap()),
        "{text}"
    );
    let keys = Store::open(&directory.path().join("other"), || keys(9), |_| {}).unwrap().keys;
    assert_ne!(node.keys, keys);
    assert_eq!(node.keys, self::keys(1), "the keys of the damaged one");
}

#[test]
fn a_rebuilt_store_says_so_until_the_core_knows_its_mesh_and_has_its_roster() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shoal.db");
    fs::write(&file, "This is a letter, not a database, and it is long enough. ".repeat(100)).unwrap();
    let node = Node::open(directory.path());
    assert!(node.remembered.rebuilt);
    assert_eq!((node.remembered.start, node.remembered.mesh_id), (1, None));
    node.commit(1, vec![agent("echo")]).unwrap();
    drop(node);
    let node = Node::open(directory.path());
    assert!(node.remembered.rebuilt, "the core has written nothing of its own");
    let roster = |value| put(Table::Register, "roster", value);
    node.commit(1, vec![put(Table::Clock, "a", "1"), roster("1")]).unwrap();
    node.commit(2, vec![Change::Delete { table: Table::Register, key: "roster".into() }]).unwrap();
    drop(node);
    let node = Node::open(directory.path());
    assert!(node.remembered.rebuilt, "the mesh is unknown");
    node.commit(1, vec![Change::MeshId(mesh_id())]).unwrap();
    node.commit(2, vec![put(Table::Clock, "a", "2"), put(Table::Register, "ran/1", "2")]).unwrap();
    drop(node);
    let node = Node::open(directory.path());
    assert!(node.remembered.rebuilt, "told to begin a mesh, it would agree with nobody on a second roster");
    node.commit(1, vec![roster("2")]).unwrap();
    drop(node);
    assert!(!Node::open(directory.path()).remembered.rebuilt);
    assert_eq!(put_aside(directory.path()).len(), 1);
}

#[test]
fn a_start_with_as_many_damaged_files_as_may_be_is_refused_and_removes_none() {
    let directory = tempfile::tempdir().unwrap();
    for n in 1..=limits::STORE_DAMAGED_MAX {
        fs::write(directory.path().join("shoal.db"), "not a database at all, and long enough ".repeat(100))
            .unwrap();
        Node::open(directory.path());
        assert_eq!(put_aside(directory.path()).len(), n);
    }
    let letter = "one more ".repeat(100);
    fs::write(directory.path().join("shoal.db"), &letter).unwrap();
    let error = Store::open(directory.path(), || keys(1), |_| {}).expect_err("refused");
    assert!(matches!(error, StoreError::TooManyDamaged { .. }), "{error}");
    assert!(error.to_string().contains("move those named shoal.db.damaged-* away"), "{error}");
    assert_eq!(fs::read_to_string(directory.path().join("shoal.db")).unwrap(), letter);
    assert_eq!(put_aside(directory.path()).len(), limits::STORE_DAMAGED_MAX);
    fs::remove_file(&put_aside(directory.path())[0]).unwrap();
    Node::open(directory.path());
}

#[test]
fn fault_22_a_damaged_log_is_found_and_put_aside_with_its_database() {
    let directory = tempfile::tempdir().unwrap();
    let copy = crashed_copy(directory.path());
    let log = copy.path().join("shoal.db-wal");
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, &bytes).unwrap();

    let remembered = Node::open(copy.path()).remembered;
    assert!(remembered.rebuilt);
    assert_eq!(remembered.mesh_id, Some(mesh_id()), "which stands in the sound part of the log only");
    let aside = put_aside(copy.path());
    let mut log_aside = aside[0].clone().into_os_string();
    log_aside.push("-wal");
    assert_eq!(fs::read(log_aside).unwrap(), bytes, "its log is beside it, as it was");
}

#[test]
fn a_log_that_ends_in_a_torn_commit_loses_that_commit_and_nothing_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let copy = crashed_copy(directory.path());
    let log = copy.path().join("shoal.db-wal");
    let mut bytes = fs::read(&log).unwrap();
    // As a loss of power would leave it: the last frame is not all there.
    let torn = bytes.len() - 100;
    bytes[torn..].fill(0);
    fs::write(&log, &bytes).unwrap();
    let node = Node::open(copy.path());
    assert!(!node.remembered.rebuilt, "a loss of power is no damage");
    let rows = node.rows();
    assert_eq!((rows.len(), rows[298].0.as_str()), (299, "key-298"));
}

#[test]
fn fault_21_whatever_bit_is_flipped_no_row_is_read_that_was_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let copy = crashed_copy(directory.path());
    let sound = copied(copy.path());
    let expected = Node::open(copied(sound.path()).path()).rows();
    assert_eq!(expected.len(), 300);
    let mut before_last = expected.clone();
    before_last.pop();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let (mut whole, mut rebuilt, mut refused, mut short) = (0, 0, 0, 0);
    for round in 0..120 {
        let damaged = copied(sound.path());
        // Half of the rounds in the log, half in the database after its log was emptied into it.
        let name = if round % 2 == 0 { "shoal.db-wal" } else { "shoal.db" };
        if name == "shoal.db" {
            Node::open(damaged.path());
        }
        let path = damaged.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << (random.next_u32() % 8);
        fs::write(&path, bytes).unwrap();
        let opened = Store::open(damaged.path(), || keys(1), |_| {});
        let opened = match opened {
            Ok(opened) => opened,
            // The bits that say whose database this is, and of which version.
            Err(StoreError::Foreign { .. } | StoreError::Newer { .. }) => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("{name} at {at}: {error}"),
        };
        let rows = rows_of(&opened.remembered);
        if opened.remembered.rebuilt {
            assert!(rows.is_empty(), "{name} at {at}");
            assert_eq!(put_aside(damaged.path()).len(), 1);
            rebuilt += 1;
        } else if rows == before_last && name == "shoal.db-wal" {
            // The last commit cannot be told from one that a loss of power cut off.
            short += 1;
        } else {
            assert!(rows == expected, "{name} at {at}: {} rows", rows.len());
            whole += 1;
        }
    }
    println!("{whole} whole, {rebuilt} rebuilt, {short} without the last commit, {refused} refused");
    assert!(rebuilt >= 60, "{rebuilt} of 120 were found");
    assert!(short <= 4, "{short}");
}

// --- Processes that end at a chosen point ---

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release has no crash points")]
fn fault_02_whatever_the_point_a_process_ends_at_acknowledged_rows_are_there_and_none_is_half_there() {
    for (point, commits) in [
        ("pre_begin:40", 39),
        ("in_transaction:40", 39),
        ("post_commit:1", 0),
        ("post_commit:40", 39),
        // Two checkpoints of the empty log at the start, then the first and the second of the end.
        ("checkpoint:3", 60),
        ("checkpoint:4", 60),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let acknowledged = crash(directory.path(), "child_commits_sixty_times", point);
        assert_eq!(acknowledged, commits, "{point}");
        let node = Node::open(directory.path());
        assert!(!node.remembered.rebuilt, "{point}");
        let found: Vec<u64> = ["left", "right"]
            .into_iter()
            .map(|side| check_side(&node.remembered, side, acknowledged, point))
            .collect();
        assert_eq!(found[0], found[1], "{point}: half of a commit");
        let is_committed = point.starts_with("post_commit");
        assert_eq!(found[0], acknowledged + u64::from(is_committed), "{point}");
        node.commit(1, vec![put(Table::State, "after", "1")]).unwrap();
    }
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release has no crash points")]
fn fault_08_a_process_that_ends_during_a_checkpoint_leaves_a_whole_database() {
    // Two checkpoints of the empty log at the start, then those of the end: each with the database half way.
    for point in ["checkpoint:1", "checkpoint:2", "checkpoint:3", "checkpoint:4"] {
        let directory = tempfile::tempdir().unwrap();
        let acknowledged = crash(directory.path(), "child_commits_sixty_times", point);
        let shell = Connection::open(directory.path().join("shoal.db")).unwrap();
        let found: String = shell.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(found, "ok", "{point}");
        drop(shell);
        let node = Node::open(directory.path());
        assert!(!node.remembered.rebuilt, "{point}");
        assert_eq!(check_side(&node.remembered, "left", acknowledged, point), acknowledged, "{point}");
    }
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release has no crash points")]
fn fault_08_a_process_that_ends_during_a_migration_has_not_migrated() {
    for point in ["migration:1", "migration:2"] {
        let directory = tempfile::tempdir().unwrap();
        edit(
            directory.path(),
            "PRAGMA application_id = 1936224097; PRAGMA user_version = 1;
             CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
             CREATE TABLE peers (node_id TEXT PRIMARY KEY, card BLOB NOT NULL) STRICT;
             CREATE TABLE agents (name TEXT PRIMARY KEY, spec BLOB NOT NULL) STRICT;
             INSERT INTO meta VALUES ('start', 41);",
        );
        crash(directory.path(), "child_commits_sixty_times", point);
        let shell = Connection::open(directory.path().join("shoal.db")).unwrap();
        let version: i64 = shell.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, 1, "{point}");
        drop(shell);
        let node = Node::open(directory.path());
        assert_eq!((node.remembered.start, node.remembered.rebuilt), (42, false), "{point}");
    }
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release has no crash points")]
fn a_process_that_ends_while_a_damaged_database_is_replaced_leaves_that_to_the_next_start() {
    for point in ["rebuilt", "put_aside", "checkpoint:1", "in_transaction:1"] {
        let directory = tempfile::tempdir().unwrap();
        make_and_damage_state(directory.path());
        crash(directory.path(), "child_commits_sixty_times", point);
        if point == "in_transaction:1" {
            // It was replaced already, and the mark that says so must outlive the first commit that failed.
            assert_eq!(put_aside(directory.path()).len(), 1, "{point}");
        }
        let node = Node::open(directory.path());
        assert!(node.remembered.rebuilt, "{point}");
        assert_eq!(node.remembered.mesh_id, Some(mesh_id()), "{point}");
        assert_eq!(put_aside(directory.path()).len(), 1, "{point}");
        let names = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name());
        let left: Vec<_> = names.filter(|n| n.to_string_lossy().contains(".rebuilt-")).collect();
        assert!(left.is_empty(), "{point}: {left:?}");
    }
}

#[test]
#[ignore = "only the child process of another test"]
fn child_commits_sixty_times() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let node = Node::open(Path::new(&directory));
    for no in 1..=60 {
        let row = format!("{no}");
        let both = ["left", "right"].map(|side| put(Table::State, &format!("{side}-{}", no % 7), &row));
        node.commit(no, both.to_vec()).unwrap();
        println!("\nstored {no}");
    }
}

/// The highest commit that the rows of one side tell of.
fn check_side(remembered: &Remembered, side: &str, acknowledged: u64, point: &str) -> u64 {
    let rows: BTreeMap<_, _> = rows_of(remembered).into_iter().collect();
    for no in acknowledged.saturating_sub(6).max(1)..=acknowledged {
        let row = rows.get(&format!("{side}-{}", no % 7));
        let stored: u64 = row.unwrap_or_else(|| panic!("{point}: {no} is not there")).parse().unwrap();
        assert!(stored >= no, "{point}: {no} was acknowledged and {stored} is there");
    }
    let of_side = rows.iter().filter(|(key, _)| key.starts_with(side));
    of_side.map(|(_, row)| row.parse().unwrap()).max().unwrap_or(0)
}

/// Runs a test of this file in a process that aborts at the point, and returns the last commit it acknowledged.
fn crash(directory: &Path, test: &str, point: &str) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(CHILD_DIRECTORY, directory)
        .env("SHOAL_CRASH_AT", point)
        .output()
        .unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(output.status.signal(), Some(6), "{point} was not reached: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("stored ")?.parse().ok()).next_back().unwrap_or(0)
}

// --- The parts that the tests are made of ---

/// A store with something of everything, whose pages of one table are overwritten.
fn make_and_damage_state(directory: &Path) {
    let node = Node::open(directory);
    node.commit(1, vec![Change::MeshId(mesh_id()), peer("node-2"), agent("echo")]).unwrap();
    node.commit(2, (0..500).map(|n| put(Table::State, &format!("key-{n}"), &"x".repeat(200))).collect())
        .unwrap();
    drop(node);
    let file = directory.join("shoal.db");
    let root: u32 = Connection::open(&file)
        .unwrap()
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'state'", [], |r| r.get(0))
        .unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let at = (root as usize - 1) * 4096;
    bytes[at..at + 4096].fill(0xA5);
    fs::write(&file, bytes).unwrap();
}

/// The files of a store with three hundred commits, as a crash leaves them.
fn crashed_copy(directory: &Path) -> tempfile::TempDir {
    let node = Node::open(directory);
    node.commit(0, vec![Change::MeshId(mesh_id())]).unwrap();
    for no in 0..300 {
        let row = put(Table::State, &format!("key-{no:03}"), &format!("row {no} ").repeat(20));
        node.commit(no + 1, vec![row]).unwrap();
    }
    copied(directory)
}

fn copied(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["shoal.db", "shoal.db-wal"] {
        if directory.join(name).exists() {
            fs::copy(directory.join(name), copy.path().join(name)).unwrap();
        }
    }
    copy
}

/// The damaged databases beside the one in use.
fn put_aside(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let is_database = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("shoal.db.damaged-") && !name.ends_with("-wal") && !name.ends_with("-shm")
    };
    paths.filter(is_database).collect()
}

/// An open store and what it reports.
struct Node {
    store: Store,
    remembered: Remembered,
    keys: NodeKeys,
    outcomes: Receiver<(u64, Result<(), String>)>,
}

impl Node {
    fn open(directory: &Path) -> Self {
        let (reports, outcomes) = channel();
        let on_outcomes = move |outcomes: Vec<Outcome>| {
            outcomes.into_iter().for_each(|(no, outcome)| drop(reports.send((no.0, outcome))));
        };
        let Opened { store, remembered, keys } = Store::open(directory, || keys(1), on_outcomes).unwrap();
        Self { store, remembered, keys, outcomes }
    }

    /// Commits and waits for the outcome.
    fn commit(&self, no: u64, changes: Vec<Change>) -> Result<(), String> {
        self.store.commit(PersistNo(no), changes);
        let (reported, outcome) = self.outcomes.recv().unwrap();
        assert_eq!(reported, no);
        outcome
    }

    fn rows(&self) -> Vec<(String, String)> {
        rows_of(&self.remembered)
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    fn subscriber(&self) -> impl tracing::Subscriber + use<> {
        let log = self.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish()
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The rows of the state, as text.
fn rows_of(remembered: &Remembered) -> Vec<(String, String)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let rows = remembered.tables.get(&Table::State);
    rows.into_iter().flatten().map(|(key, row)| (text(key), text(row))).collect()
}

fn owned((key, row): (&str, &str)) -> (String, String) {
    (key.to_owned(), row.to_owned())
}

fn put(table: Table, key: &str, row: &str) -> Change {
    Change::Put { table, key: key.to_owned().into(), row: row.to_owned().into() }
}

fn delete(table: Table, key: &str) -> Change {
    Change::Delete { table, key: key.to_owned().into() }
}

/// Runs SQL on the database as an operator's shell would.
fn edit(directory: &Path, sql: &str) {
    Connection::open(directory.join("shoal.db")).unwrap().execute_batch(sql).unwrap();
}

fn mesh_id() -> MeshId {
    MeshId(uuid::Uuid::from_u128(7))
}

fn keys(byte: u8) -> NodeKeys {
    NodeKeys { reset_key: [byte; 64], connection_id_key: [byte; 8] }
}

fn card(name: &str) -> NodeCard {
    NodeCard {
        node_id: NodeId::new(name).unwrap(),
        addresses: vec!["b:1".to_owned()],
        region: String::new(),
        zone: String::new(),
        labels: Default::default(),
        roles: vec![],
        version: "0.1.0".to_owned(),
    }
}

fn peer(name: &str) -> Change {
    Change::Peer(card(name))
}

fn spec(name: &str) -> AgentSpec {
    AgentSpec::new(AgentName::new(name).unwrap(), AgentSource::Native { builtin: "echo".to_owned() })
}

fn agent(name: &str) -> Change {
    Change::Agent(spec(name))
}
