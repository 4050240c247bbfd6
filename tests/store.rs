//! The store as a node uses it: real files, and real processes where it matters that there are two.
#![cfg(feature = "node")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use shoal::core::contract::{Change, Remembered};
use shoal::core::ids::{AgentName, MeshId, NodeId, PersistNo};
use shoal::core::limits;
use shoal::core::model::{AgentSource, AgentSpec, NodeCard};
use shoal::node::store::{NodeKeys, Opened, Outcome, Store, StoreError};

/// The data directory that a test gives to a process of its own.
const CHILD_DIRECTORY: &str = "SHOAL_TEST_STORE_DIRECTORY";

// --- What survives ---

#[test]
fn the_start_number_grows_by_one_with_every_start() {
    let directory = tempfile::tempdir().unwrap();
    for start in 1..=4 {
        assert_eq!(Node::open(directory.path()).remembered.start, start);
    }
}

#[test]
fn a_start_is_never_below_what_peers_remember_and_never_lowered() {
    let directory = tempfile::tempdir().unwrap();
    Node::open(directory.path()).commit(1, vec![Change::StartAtLeast(100)]).unwrap();
    let node = Node::open(directory.path());
    assert_eq!(node.remembered.start, 100);
    node.commit(1, vec![Change::StartAtLeast(7)]).unwrap();
    drop(node);
    assert_eq!(Node::open(directory.path()).remembered.start, 101);
}

#[test]
fn a_node_whose_start_numbers_are_used_up_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let last = limits::INCARNATION_START_MAX;
    let node = Node::open(directory.path());
    node.commit(1, vec![Change::StartAtLeast(last)]).unwrap();
    drop(node);
    assert_eq!(Node::open(directory.path()).remembered.start, last);
    assert!(matches!(refusal(directory.path()), StoreError::StartsUsedUp { .. }));
}

#[test]
fn what_is_committed_is_there_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let mesh_id = MeshId(uuid::Uuid::from_u128(7));
    let node = Node::open(directory.path());
    node.commit(1, vec![Change::MeshId(mesh_id), peer("node-2", "b:1"), peer("node-3", "c:1")]).unwrap();
    node.commit(2, vec![peer("node-2", "b:2"), Change::ForgetPeer(node_id("node-3"))]).unwrap();
    node.commit(3, vec![agent("echo"), agent("gone"), Change::RemoveAgent(agent_name("gone"))]).unwrap();
    drop(node);

    let remembered = Node::open(directory.path()).remembered;
    assert_eq!(
        remembered,
        Remembered {
            start: 2,
            mesh_id: Some(mesh_id),
            peers: vec![card("node-2", "b:2")],
            agents: vec![spec("echo")],
            ..Remembered::default()
        }
    );
}

#[test]
fn leaving_the_mesh_forgets_it_and_its_peers_and_keeps_the_agents_and_the_count() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path());
    let joined = vec![Change::MeshId(MeshId(uuid::Uuid::from_u128(7))), peer("node-2", "b:1"), agent("echo")];
    node.commit(1, joined).unwrap();
    node.commit(2, vec![Change::LeaveMesh]).unwrap();
    drop(node);

    let remembered = Node::open(directory.path()).remembered;
    let expected = Remembered { start: 2, agents: vec![spec("echo")], ..Remembered::default() };
    assert_eq!(remembered, expected);
}

#[test]
fn the_keys_of_the_first_start_are_those_of_every_start() {
    let directory = tempfile::tempdir().unwrap();
    let first = Node::open(directory.path());
    assert_eq!(first.keys, keys(1));
    drop(first);
    let again = Store::open(directory.path(), || panic!("the keys are stored"), |_| {}).unwrap();
    assert_eq!(again.keys, keys(1));
    assert_eq!(format!("{:?}", again.keys), "NodeKeys(secret)");
}

#[test]
fn dropping_the_store_finishes_what_is_queued_and_leaves_no_log_behind() {
    let directory = tempfile::tempdir().unwrap();
    let Node { store, outcomes, .. } = Node::open(directory.path());
    for no in 1..=300 {
        store.commit(PersistNo(no), vec![peer(&format!("node-{no}"), "b:1")]);
    }
    drop(store);
    let reported: Vec<_> = outcomes.iter().collect();
    assert_eq!(reported, (1..=300).map(|no| (no, Ok(()))).collect::<Vec<_>>());
    assert!(!directory.path().join("shoal.db-wal").exists());
    assert_eq!(Node::open(directory.path()).remembered.peers.len(), 300);
}

#[test]
fn outcomes_come_in_the_order_of_the_commits_and_a_full_queue_refuses_in_its_turn() {
    let directory = tempfile::tempdir().unwrap();
    let (go, wait) = channel::<()>();
    let (reports, outcomes) = channel();
    let opened = Store::open(
        directory.path(),
        || keys(1),
        move |outcomes: Vec<Outcome>| {
            // Holds the writer at the first commit until the test lets it go; later this returns at once.
            let _ = wait.recv();
            outcomes.into_iter().for_each(|(no, outcome)| drop(reports.send((no.0, outcome))));
        },
    );
    let store = opened.unwrap().store;
    store.commit(PersistNo(0), vec![]);
    let max = limits::STORE_QUEUE_CHANGES_MAX as u64;
    for no in 1..=2 * max + 10 {
        store.commit(PersistNo(no), vec![]);
    }
    drop(go);
    drop(store);

    let reported: Vec<_> = outcomes.iter().collect();
    assert!(reported.iter().map(|(no, _)| *no).eq(0..=2 * max + 10), "in order, once each");
    let refused: Vec<_> = reported.iter().filter_map(|(_, outcome)| outcome.as_ref().err()).collect();
    // Depending on when the writer took the first, at most two queues full were accepted.
    assert!(refused.len() >= 10, "{} refused", refused.len());
    assert!(refused.iter().all(|reason| reason.contains("queue is full")), "{:?}", refused[0]);
    assert!(reported[1..=max as usize - 1].iter().all(|(_, outcome)| outcome.is_ok()));
}

#[test]
fn a_peer_beyond_the_bound_is_dropped_and_a_known_one_is_still_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path());
    let many = (0..limits::PEERS_MAX).map(|n| peer(&format!("node-{n:04}"), "b:1")).collect();
    node.commit(1, many).unwrap();
    node.commit(2, vec![peer("node-too-many", "b:1"), peer("node-0000", "b:2")]).unwrap();
    drop(node);

    let peers = Node::open(directory.path()).remembered.peers;
    assert_eq!(peers.len(), limits::PEERS_MAX);
    assert_eq!(peers[0], card("node-0000", "b:2"));
    assert!(peers.iter().all(|p| p.node_id != node_id("node-too-many")));
}

// --- Two processes, and the end of one ---

#[test]
fn every_acknowledged_change_and_the_start_number_survive_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let mut child = spawn_child("child_commits_until_it_is_killed", directory.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let started = lines.by_ref().find_map(|l| number_after(&l, "started ")).expect("it starts");
        assert_eq!(started, 2 * round - 1);
        let acknowledged =
            lines.by_ref().filter_map(|l| number_after(&l, "stored ")).nth(50).expect("it stores");
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = lines.filter_map(|l| number_after(&l, "stored ")).last().unwrap_or(acknowledged);

        let remembered = Node::open(directory.path()).remembered;
        assert_eq!(remembered.start, started + 1);
        for no in 1..=acknowledged {
            let expected = card(&format!("node-{:03}", no % 500), &format!("round-{started}:{no}"));
            let stored = remembered.peers.iter().find(|p| p.node_id == expected.node_id);
            let stored_no = stored.and_then(|p| number_after(&p.addresses[0], &format!("round-{started}:")));
            assert!(stored_no >= Some(no), "{no} was acknowledged and is not there");
        }
    }
}

#[test]
fn fault_27_a_data_directory_in_use_is_refused_with_the_holder_s_process_id() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path());
    let here = refusal(directory.path()).to_string();
    assert!(here.contains(&format!("in use by process {}", std::process::id())), "{here}");
    drop(node);

    let mut child = spawn_child("child_commits_until_it_is_killed", directory.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.by_ref().find(|l| l.starts_with("started ")).expect("it starts");
    let there = refusal(directory.path()).to_string();
    let expected = format!(
        "the data directory {} is in use by process {}: stop it, or give this node a data directory of its own",
        directory.path().canonicalize().unwrap().display(),
        child.id()
    );
    assert_eq!(there, expected);
    child.kill().unwrap();
    child.wait().unwrap();
    Node::open(directory.path());
}

#[test]
#[ignore = "only the child process of another test"]
fn child_commits_until_it_is_killed() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let node = Node::open(Path::new(&directory));
    let start = node.remembered.start;
    println!("\nstarted {start}");
    for no in 1.. {
        node.commit(no, vec![peer(&format!("node-{:03}", no % 500), &format!("round-{start}:{no}"))])
            .unwrap();
        println!("stored {no}");
    }
}

// --- What cannot be opened ---

#[test]
fn an_absent_directory_is_made_for_its_owner_alone_like_the_files_in_it() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/b");
    let _node = Node::open(&directory);
    assert_eq!(mode(&directory), 0o700);
    for file in ["shoal.db", "shoal.db-wal", "lock"] {
        assert_eq!(mode(&directory.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_database_that_others_can_read_is_made_private() {
    let directory = tempfile::tempdir().unwrap();
    Node::open(directory.path());
    let file = directory.path().join("shoal.db");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    Node::open(directory.path());
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn a_file_in_the_place_of_the_directory_or_above_it_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "mine").unwrap();
    let error = refusal(&file);
    assert!(error.to_string().ends_with("file is not a directory: choose another data directory"), "{error}");
    let error = refusal(&file.join("below"));
    assert!(matches!(error, StoreError::Create { .. }), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[test]
fn a_directory_that_takes_no_files_is_refused() {
    // Also root cannot make a file or a directory there.
    let error = refusal(Path::new("/proc/self"));
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
    let error = refusal(Path::new("/proc/shoal"));
    assert!(matches!(error, StoreError::Create { .. }), "{error}");
}

#[test]
fn a_database_of_a_later_version_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    Node::open(directory.path());
    edit(directory.path(), "PRAGMA user_version = 99");
    let error = refused_and_untouched(directory.path());
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
}

#[test]
fn a_later_version_is_recognised_from_its_log_and_the_log_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    Node::open(directory.path());
    let file = directory.path().join("shoal.db");
    let other = Connection::open(&file).unwrap();
    other.execute_batch("PRAGMA user_version = 99").unwrap();
    // As a crash would leave it: the version stands in the log only.
    let copy = tempfile::tempdir().unwrap();
    for name in ["shoal.db", "shoal.db-wal"] {
        fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
    }
    let error = refused_and_untouched(copy.path());
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
}

#[test]
fn a_database_of_another_program_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    edit(directory.path(), "CREATE TABLE recipes (name TEXT)");
    let error = refused_and_untouched(directory.path());
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
}

#[test]
fn a_log_without_its_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("shoal.db-wal"), "acknowledged changes").unwrap();
    let error = refusal(directory.path());
    assert!(matches!(error, StoreError::LogWithoutDatabase { .. }), "{error}");
    assert_eq!(fs::read(directory.path().join("shoal.db-wal")).unwrap(), b"acknowledged changes");
}

#[test]
fn a_first_start_that_was_cut_off_is_begun_again() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("shoal.db"), "").unwrap();
    assert_eq!(Node::open(directory.path()).remembered.start, 1);

    let directory = tempfile::tempdir().unwrap();
    edit(directory.path(), "PRAGMA journal_mode = wal");
    assert_eq!(Node::open(directory.path()).remembered.start, 1);
}

// --- Files of other versions ---

/// A database as schema version 1 wrote it.
const VERSION_1: &str = "
    PRAGMA application_id = 1936224097;
    PRAGMA user_version = 1;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE peers (node_id TEXT PRIMARY KEY, card BLOB NOT NULL) STRICT;
    CREATE TABLE agents (name TEXT PRIMARY KEY, spec BLOB NOT NULL) STRICT;
    INSERT INTO meta VALUES ('start', 41), ('mesh_id', x'00000000000000000000000000000007');
    INSERT INTO meta VALUES ('quic_reset_key', zeroblob(64)), ('quic_connection_id_key', zeroblob(8));
    INSERT INTO peers VALUES ('node-2', x'86a76e6f64655f6964a66e6f64652d32a961646472657373657391ad31302e302e302e323a37393436a6726567696f6ea775732d65617374a47a6f6e65a161a66c6162656c7381a3677075a26e6fa776657273696f6ea5302e312e30');
    INSERT INTO agents VALUES ('echo', x'82a46e616d65a46563686fa6736f7572636582a46b696e64a66e6174697665a76275696c74696ea46563686f');
";

#[test]
fn a_database_of_version_1_opens_with_all_that_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    edit(directory.path(), VERSION_1);
    let node = Node::open(directory.path());
    let mut peer = card("node-2", "10.0.0.2:7946");
    peer.region = "us-east".to_owned();
    peer.zone = "a".to_owned();
    peer.labels = [("gpu".to_owned(), "no".to_owned())].into();
    let mesh_id = Some(MeshId(uuid::Uuid::from_u128(7)));
    assert_eq!(
        node.remembered,
        Remembered {
            start: 42,
            mesh_id,
            peers: vec![peer],
            agents: vec![spec("echo")],
            ..Remembered::default()
        }
    );
    assert_eq!(node.keys, keys(0));
}

#[test]
fn a_row_that_is_not_understood_is_skipped_with_a_warning_that_names_it_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    Node::open(directory.path()).commit(1, vec![peer("node-2", "b:1"), agent("echo")]).unwrap();
    edit(
        directory.path(),
        "INSERT INTO peers SELECT 'node-alias', card FROM peers;
         INSERT INTO peers VALUES ('node-later', x'93010203');
         INSERT INTO agents VALUES ('agent-later', x'c1');",
    );
    let log = Log::default();
    let remembered =
        tracing::subscriber::with_default(log.subscriber(), || Node::open(directory.path()).remembered);

    assert_eq!((remembered.peers.len(), remembered.agents.len()), (1, 1));
    let text = log.text();
    for key in ["node-alias", "node-later", "agent-later"] {
        let line = text.lines().find(|line| line.contains(key)).expect(key);
        assert!(line.contains("WARN") && line.contains("skipped"), "{line}");
    }
    let connection = Connection::open(directory.path().join("shoal.db")).unwrap();
    let rows: u32 = connection.query_row("SELECT count(*) FROM peers", [], |r| r.get(0)).unwrap();
    assert_eq!(rows, 3);
}

// --- Trouble while it runs ---

#[test]
fn a_database_that_is_removed_while_it_is_open_takes_no_more_changes() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path());
    let (file, aside) = (directory.path().join("shoal.db"), directory.path().join("aside"));
    fs::rename(&file, &aside).unwrap();
    let reason = node.commit(1, vec![agent("lost")]).unwrap_err();
    assert!(reason.contains("removed or replaced"), "{reason}");
    fs::rename(&aside, &file).unwrap();
    node.commit(2, vec![agent("kept")]).unwrap();
    drop(node);
    assert_eq!(Node::open(directory.path()).remembered.agents, vec![spec("kept")]);
}

#[test]
fn a_reader_with_the_database_open_does_not_stop_the_node() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path());
    let mut shell = Connection::open(directory.path().join("shoal.db")).unwrap();
    let reading = shell.transaction().unwrap();
    let start: i64 =
        reading.query_row("SELECT value FROM meta WHERE key = 'start'", [], |r| r.get(0)).unwrap();
    node.commit(1, vec![Change::StartAtLeast(9)]).unwrap();
    assert_eq!(start, 1);
}

#[test]
#[ignore = "mounts a small file system in a name space of its own: run with --ignored where `unshare -Urm` works"]
fn a_full_disk_is_reported_and_over_when_space_returns() {
    let directory = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=512k tmpfs \"$1\" && exec \"$0\" --exact child_fills_its_disk --ignored --nocapture";
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(directory.path())
        .env(CHILD_DIRECTORY, directory.path())
        .output()
        .expect("`unshare` is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("the disk was full and is not"), "{output:?}");
}

#[test]
#[ignore = "only the child process of another test"]
fn child_fills_its_disk() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let data = directory.join("data");
    let node = Node::open(&data);
    node.commit(1, vec![agent("before")]).unwrap();
    let ballast = directory.join("ballast");
    let mut size = 1 << 20;
    while size > 0 {
        size = if fs::write(&ballast, vec![1; size]).is_ok() { 0 } else { size - 4096 };
    }
    let reason = (2..200).find_map(|no| node.commit(no, vec![peer(&format!("node-{no}"), "b:1")]).err());
    let reason = reason.expect("the disk is full");
    assert!(reason.contains("is full: make room and try again"), "{reason}");
    node.commit(200, vec![agent("during")]).unwrap_err();
    fs::remove_file(&ballast).unwrap();
    node.commit(201, vec![agent("after")]).unwrap();
    drop(node);
    assert_eq!(Node::open(&data).remembered.agents, vec![spec("after"), spec("before")]);

    fs::remove_dir_all(&data).unwrap();
    fs::write(&ballast, vec![1; 500 << 10]).unwrap();
    let error = refusal(&data);
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    println!("the disk was full and is not");
}

// --- The parts that the tests are made of ---

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
        // A test that drops its receiver is not interested any more.
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
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

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

fn refusal(directory: &Path) -> StoreError {
    Store::open(directory, || keys(1), |_| {}).expect_err("it is refused")
}

/// Opens, expects a refusal, and compares the files with what they were.
fn refused_and_untouched(directory: &Path) -> StoreError {
    // SQLite makes an empty log to look at a database that has none.
    let read = || ["shoal.db", "shoal.db-wal"].map(|name| fs::read(directory.join(name)).unwrap_or_default());
    let modified = || fs::metadata(directory.join("shoal.db")).map(|m| (m.mtime(), m.mtime_nsec())).unwrap();
    let before = (read(), modified());
    let error = refusal(directory);
    assert!((read(), modified()) == before, "the refusal changed a file: {error}");
    error
}

/// Runs SQL on the database as an operator's shell would.
fn edit(directory: &Path, sql: &str) {
    Connection::open(directory.join("shoal.db")).unwrap().execute_batch(sql).unwrap();
}

/// Runs one test of this file in a process of its own. It prints until nobody reads, so it ends with the caller.
fn spawn_child(test: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(CHILD_DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn number_after(text: &str, prefix: &str) -> Option<u64> {
    text.strip_prefix(prefix)?.parse().ok()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn keys(byte: u8) -> NodeKeys {
    NodeKeys { reset_key: [byte; 64], connection_id_key: [byte; 8] }
}

fn node_id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn agent_name(name: &str) -> AgentName {
    AgentName::new(name).unwrap()
}

fn card(name: &str, address: &str) -> NodeCard {
    NodeCard {
        node_id: node_id(name),
        addresses: vec![address.to_owned()],
        region: String::new(),
        zone: String::new(),
        labels: Default::default(),
        roles: vec![],
        version: "0.1.0".to_owned(),
    }
}

fn peer(name: &str, address: &str) -> Change {
    Change::Peer(card(name, address))
}

fn spec(name: &str) -> AgentSpec {
    AgentSpec::new(agent_name(name), AgentSource::Native { builtin: "echo".to_owned() })
}

fn agent(name: &str) -> Change {
    Change::Agent(spec(name))
}
