//! The store when the disk is slow to confirm, or refuses to: this program's own `fsync` takes the place of
//! the C library's, for SQLite and everything else in it.
#![cfg(all(feature = "node", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]
#![allow(unsafe_code, reason = "an exported C function cannot be had otherwise")]

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal::core::contract::{Change, Remembered, Table};
use shoal::core::ids::{AgentName, PersistNo};
use shoal::core::model::{AgentSource, AgentSpec};
use shoal::node::store::{NodeKeys, Outcome, Store, StoreError};

#[test]
fn nothing_is_reported_before_the_disk_has_confirmed_it() {
    let disk = Disk::take();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path()).unwrap();
    let held = disk.hold();
    node.store.commit(PersistNo(1), vec![agent("a")]);
    disk.wait_until_asked();
    assert_eq!(node.outcomes.try_recv(), Err(TryRecvError::Empty));
    drop(held);
    assert_eq!(node.outcomes.recv().unwrap(), (1, Ok(())));
}

#[test]
fn what_gathers_while_the_disk_works_is_committed_together() {
    let disk = Disk::take();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path()).unwrap();
    let held = disk.hold();
    node.store.commit(PersistNo(0), vec![agent("a0")]);
    disk.wait_until_asked();
    for no in 1..=1000 {
        node.store.commit(PersistNo(no), vec![agent(&format!("a{no}"))]);
    }
    let before = disk.asked();
    drop(held);
    for no in 0..=1000 {
        assert_eq!(node.outcomes.recv().unwrap(), (no, Ok(())));
    }
    assert_eq!(disk.asked() - before, 1, "a thousand commits wait for the disk once");
    drop(node);
    assert_eq!(Node::open(directory.path()).unwrap().remembered.agents.len(), 1001);
}

#[test]
fn a_commit_that_the_disk_refused_is_reported_and_does_not_come_back() {
    let disk = Disk::take();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path()).unwrap();
    node.commit(1, "before").unwrap();
    disk.refuse(1);
    let reason = node.commit(2, "refused").unwrap_err();
    assert!(reason.contains("disk I/O error") && reason.contains("check the disk"), "{reason}");
    node.commit(3, "after").unwrap();
    drop(node);
    assert_eq!(Node::open(directory.path()).unwrap().agents(), ["after", "before"]);
}

#[test]
fn while_the_disk_refuses_every_commit_fails_and_what_was_acknowledged_stays() {
    let disk = Disk::take();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path()).unwrap();
    node.commit(1, "before").unwrap();
    disk.refuse(u32::MAX);
    for no in 2..10 {
        node.commit(no, "refused").unwrap_err();
    }
    let error = Node::open(&directory.path().join("other")).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Unusable { .. }), "a start is not counted without the disk: {error}");
    disk.refuse(0);
    node.commit(10, "after").unwrap();
    drop(node);
    assert_eq!(Node::open(directory.path()).unwrap().agents(), ["after", "before"]);
}

#[test]
fn a_store_that_ends_while_the_disk_refuses_keeps_what_was_acknowledged() {
    let disk = Disk::take();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path()).unwrap();
    node.commit(1, "before").unwrap();
    disk.refuse(u32::MAX);
    node.commit(2, "refused").unwrap_err();
    drop(node);
    disk.refuse(0);
    // Whether the refused change is there is open after such an end; that the acknowledged one is there is not.
    let node = Node::open(directory.path()).unwrap();
    assert_eq!(node.remembered.start, 2);
    assert!(node.agents().contains(&"before".to_owned()));
}

#[test]
fn fault_18_rows_that_the_disk_refused_do_not_come_back_and_what_is_built_on_them_waits_for_a_fresh_beginning()
 {
    let disk = Disk::take();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path()).unwrap();
    node.commit_rows(1, vec![row("a", "1"), row("b", "1")]).unwrap();
    disk.refuse(1);
    let reason = node.commit_rows(2, vec![row("a", "2"), row("c", "2")]).unwrap_err();
    assert!(reason.contains("disk I/O error"), "{reason}");
    let reason = node.commit_rows(3, vec![row("b", "3")]).unwrap_err();
    assert!(reason.contains("begin afresh"), "{reason}");
    node.commit(4, "stands-for-itself").unwrap();
    node.commit_rows(5, vec![Change::Afresh, row("b", "5")]).unwrap();
    node.commit_rows(6, vec![row("d", "6")]).unwrap();
    drop(node);
    let node = Node::open(directory.path()).unwrap();
    let rows: Vec<_> = [("a", "1"), ("b", "5"), ("d", "6")].map(|(key, row)| (key.into(), row.into())).into();
    assert_eq!(node.remembered.tables[&Table::State], rows);
    assert!(!node.remembered.rebuilt);
}

#[test]
fn a_start_that_the_disk_fails_puts_no_database_aside() {
    let disk = Disk::take();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path()).unwrap();
    node.commit_rows(1, vec![row("a", "1")]).unwrap();
    drop(node);
    disk.refuse(u32::MAX);
    let error = Node::open(directory.path()).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Unusable { .. }), "{error}");
    disk.refuse(0);
    let node = Node::open(directory.path()).unwrap();
    assert_eq!((node.remembered.tables.len(), node.remembered.rebuilt), (1, false));
}

// --- The disk ---

static STATE: Mutex<State> = Mutex::new(State { held: false, refusals: 0, asked: 0 });
static CHANGED: Condvar = Condvar::new();
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct State {
    held: bool,
    refusals: u32,
    asked: u32,
}

/// Replaces the C library's function for the whole test program.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: i32) -> i32 {
    let mut state = lock();
    state.asked += 1;
    CHANGED.notify_all();
    state = CHANGED.wait_while(state, |s| s.held).unwrap_or_else(PoisonError::into_inner);
    if state.refusals > 0 {
        state.refusals -= 1;
        return -1;
    }
    drop(state);
    // SAFETY: the caller of fsync owns the descriptor and keeps it open during the call.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::fs::fdatasync(fd).map_or(-1, |()| 0)
}

fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to make the disk fail, for one test at a time; one that refuses nothing when it is dropped.
struct Disk {
    _turn: MutexGuard<'static, ()>,
}

impl Disk {
    fn take() -> Self {
        Self { _turn: ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// From now on the disk does not answer, until what this returns is dropped.
    fn hold(&self) -> Held {
        let mut state = lock();
        state.held = true;
        state.asked = 0;
        Held
    }

    fn wait_until_asked(&self) {
        let waited = CHANGED.wait_timeout_while(lock(), Duration::from_secs(30), |s| s.asked == 0);
        let (state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        assert!(!result.timed_out(), "the store did not ask the disk to confirm");
    }

    fn asked(&self) -> u32 {
        lock().asked
    }

    /// The disk refuses so many times.
    fn refuse(&self, times: u32) {
        lock().refusals = times;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.refuse(0);
    }
}

/// A disk that does not answer.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        lock().held = false;
        CHANGED.notify_all();
    }
}

// --- The node ---

struct Node {
    store: Store,
    remembered: Remembered,
    outcomes: Receiver<(u64, Result<(), String>)>,
}

impl Node {
    fn open(directory: &Path) -> Result<Self, StoreError> {
        let (reports, outcomes) = channel();
        let keys = || NodeKeys { reset_key: [1; 64], connection_id_key: [1; 8] };
        let on_outcomes = move |outcomes: Vec<Outcome>| {
            outcomes.into_iter().for_each(|(no, outcome)| drop(reports.send((no.0, outcome))));
        };
        let opened = Store::open(directory, keys, on_outcomes)?;
        Ok(Self { store: opened.store, remembered: opened.remembered, outcomes })
    }

    /// Commits one agent and waits for the outcome.
    fn commit(&self, no: u64, name: &str) -> Result<(), String> {
        self.commit_rows(no, vec![agent(name)])
    }

    /// Commits changes and waits for the outcome.
    fn commit_rows(&self, no: u64, changes: Vec<Change>) -> Result<(), String> {
        self.store.commit(PersistNo(no), changes);
        let (reported, outcome) = self.outcomes.recv().unwrap();
        assert_eq!(reported, no);
        outcome
    }

    fn agents(&self) -> Vec<String> {
        self.remembered.agents.iter().map(|a| a.name.to_string()).collect()
    }
}

fn row(key: &str, row: &str) -> Change {
    Change::Put { table: Table::State, key: key.to_owned().into(), row: row.to_owned().into() }
}

fn agent(name: &str) -> Change {
    let source = AgentSource::Native { builtin: "echo".to_owned() };
    Change::Agent(AgentSpec::new(AgentName::new(name).unwrap(), source))
}
