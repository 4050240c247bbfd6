//! The store on a disk that does less than it was asked, cannot be read, or keeps only what it was told to keep: this
//! program's own `pwrite`, `pread` and `fsync` take the place of the C library's, for SQLite and everything else in it.
#![cfg(all(feature = "node", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]
#![allow(unsafe_code, reason = "an exported C function cannot be had otherwise")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rusqlite::Connection;
use rustix::io::Errno;
use shoal::core::contract::{Change, Remembered, Table};
use shoal::core::ids::{MeshId, PersistNo};
use shoal::core::model::Event;
use shoal::core::wire::Recorded;
use shoal::node::store::{NodeKeys, Outcome, Store};

// --- Writes that are cut short ---

#[test]
fn fault_20_writes_that_are_cut_short_or_interrupted_tear_nothing() {
    let disk = Disk::take();
    let directory = tempfile::tempdir().unwrap();
    disk.set(|d| d.writes = Writes::InPieces);
    let node = Node::open(directory.path());
    for no in 1..=80 {
        node.commit(no, row(no, 20_000)).unwrap();
    }
    drop(node);
    disk.set(|d| d.writes = Writes::Whole);
    let (short, interrupted) = disk.get(|d| (d.short, d.interrupted));
    assert!(short > 300 && interrupted > 300, "{short} cut short, {interrupted} interrupted");
    is_whole(directory.path());
    let node = Node::open(directory.path());
    assert!(!node.remembered.rebuilt);
    assert_eq!(rows_of(&node.remembered), (1..=80).collect::<Vec<_>>());
}

#[test]
fn fault_20_a_write_of_which_a_part_fits_on_the_disk_fails_whole() {
    let disk = Disk::take();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path());
    node.commit(1, row(1, 20_000)).unwrap();
    disk.set(|d| d.writes = Writes::PartAndFull);
    let reason = node.commit(2, row(2, 20_000)).unwrap_err();
    assert!(reason.contains("is full: make room"), "{reason}");
    disk.set(|d| d.writes = Writes::Whole);
    node.commit(3, [vec![Change::Afresh], row(3, 20_000)].concat()).unwrap();
    let copy = copied(directory.path());
    is_whole(copy.path());
    assert_eq!(rows_of(&Node::open(copy.path()).remembered), [1, 3], "also after a crash");
    drop(node);
    assert_eq!(rows_of(&Node::open(directory.path()).remembered), [1, 3]);
}

// --- A disk that cannot be read ---

#[test]
fn fault_31_a_database_that_cannot_be_read_is_put_aside_at_the_start_and_its_node_goes_on() {
    let disk = Disk::take();
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(directory.path());
    node.commit(1, [vec![Change::MeshId(mesh_id())], row(1, 20_000)].concat()).unwrap();
    drop(node);
    let file = directory.path().join("shoal.db");
    let inode = fs::metadata(&file).unwrap().ino();
    // Once is no damage: a cable, a controller.
    disk.set(|d| d.unreadable = Some((inode, 1)));
    let node = Node::open(directory.path());
    assert_eq!((rows_of(&node.remembered), node.remembered.rebuilt), (vec![1], false));
    drop(node);
    disk.set(|d| d.unreadable = Some((inode, u32::MAX)));
    let node = Node::open(directory.path());
    assert!(node.remembered.rebuilt, "what it knew is to come from peers");
    assert_eq!(rows_of(&node.remembered), [0_u64; 0]);
    node.commit(1, row(2, 20_000)).unwrap();
    drop(node);
    disk.set(|d| d.unreadable = None);
    assert_eq!(rows_of(&Node::open(directory.path()).remembered), [2]);
    let aside = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let aside: Vec<_> = aside.filter(|path| fs::metadata(path).unwrap().ino() == inode).collect();
    assert!(aside.len() == 1 && aside[0].to_string_lossy().contains("shoal.db.damaged-"), "{aside:?}");
}

// --- A loss of power ---

#[test]
fn fault_30_after_a_loss_of_power_at_any_moment_what_was_acknowledged_is_there_and_nothing_is_torn() {
    let disk = Disk::take();
    let directory = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(30);
    disk.set(|d| d.watched = Some(Watched::new(directory.path())));
    let node = Node::open(directory.path());
    node.commit(0, vec![Change::MeshId(mesh_id())]).unwrap();
    let history = node.store.history();
    for no in 1..=150 {
        // Some of the history is written in between, and never waited for.
        for _ in 0..3 {
            let event = Event::Refused { peer: "p".to_owned(), reason: "x".repeat(400) };
            history.record(no, Recorded::Event(event));
        }
        let bytes = if random.random_bool(0.3) { 60_000 } else { 300 };
        node.commit(no, row(no, bytes)).unwrap();
        disk.set(|d| {
            d.acknowledged = no;
            // Also right after it was told, not only while the disk is being asked.
            d.watched.as_mut().unwrap().before(no);
        });
    }
    drop(node);
    let moments = disk.set(|d| d.watched.take()).unwrap().moments;
    let mut lost = 0;
    for (at, moment) in moments.iter().enumerate() {
        let survived = moment.survivors(&mut random);
        let node = Node::open(survived.path());
        let (rows, acknowledged) = (rows_of(&node.remembered), moment.acknowledged);
        assert!(!node.remembered.rebuilt, "moment {at}: a loss of power is no damage");
        assert!(rows == (1..=rows.len() as u64).collect::<Vec<_>>(), "moment {at}: {rows:?}");
        let more = (rows.len() as u64).checked_sub(acknowledged);
        assert!(more.is_some_and(|more| more <= 1), "moment {at}: {acknowledged} and {}", rows.len());
        lost += u64::from(more == Some(0));
    }
    let sizes: BTreeSet<_> = moments.iter().map(|moment| moment.files["shoal.db"].0.len()).collect();
    println!("{} moments, databases of {sizes:?}; in {lost} the commit under way was lost", moments.len());
    assert!(moments.len() > 60 && lost > 15, "{} moments, {lost} lost", moments.len());
    assert!(sizes.last().is_some_and(|size| *size > 1 << 20), "before and after a checkpoint: {sizes:?}");
}

// --- The disk ---

static STATE: Mutex<Faults> = Mutex::new(Faults::NONE);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What is wrong with the disk.
struct Faults {
    writes: Writes,
    calls: u64,
    short: u64,
    interrupted: u64,
    /// So many reads of the file with this number fail.
    unreadable: Option<(u64, u32)>,
    acknowledged: u64,
    watched: Option<Watched>,
}

#[derive(Clone, Copy, PartialEq)]
enum Writes {
    Whole,
    /// Of three calls one is interrupted, one writes a part, and one is as it should be.
    InPieces,
    /// A part is written, and for the rest there is no room.
    PartAndFull,
}

impl Faults {
    const NONE: Self = Self {
        writes: Writes::Whole,
        calls: 0,
        short: 0,
        interrupted: 0,
        unreadable: None,
        acknowledged: 0,
        watched: None,
    };
}

/// The right to make the disk fail, for one test at a time; one that is as it should be when it is dropped.
struct Disk {
    _turn: MutexGuard<'static, ()>,
}

impl Disk {
    fn take() -> Self {
        Self { _turn: ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    fn set<T>(&self, change: impl FnOnce(&mut Faults) -> T) -> T {
        change(&mut faults())
    }

    fn get<T>(&self, read: impl FnOnce(&Faults) -> T) -> T {
        read(&faults())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        *faults() = Faults::NONE;
    }
}

fn faults() -> MutexGuard<'static, Faults> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory of which is known what would survive a loss of power.
struct Watched {
    directory: PathBuf,
    /// By file: what it held when it was last synchronised.
    synchronised: BTreeMap<PathBuf, Vec<u8>>,
    calls: u64,
    moments: Vec<Moment>,
}

/// What is on the disk at one moment, and how much of it is certain to survive.
struct Moment {
    acknowledged: u64,
    /// By file name: as last synchronised, and as it is now.
    files: BTreeMap<String, (Vec<u8>, Vec<u8>)>,
}

/// One in so many possible moments is kept: each is a copy of everything.
const MOMENTS_EACH: u64 = 3;

impl Watched {
    fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), synchronised: BTreeMap::new(), calls: 0, moments: Vec::new() }
    }

    /// The power may fail now.
    fn before(&mut self, acknowledged: u64) {
        self.calls += 1;
        if !self.calls.is_multiple_of(MOMENTS_EACH) {
            return;
        }
        let names = ["shoal.db", "shoal.db-wal"];
        let files = names.iter().map(|name| {
            let path = self.directory.join(name);
            let now = fs::read(&path).unwrap_or_default();
            ((*name).to_owned(), (self.synchronised.get(&path).cloned().unwrap_or_default(), now))
        });
        self.moments.push(Moment { acknowledged, files: files.collect() });
    }

    fn after(&mut self, path: PathBuf) {
        if path.starts_with(&self.directory) && path.is_file() {
            self.synchronised.insert(path.clone(), fs::read(path).unwrap());
        }
    }
}

impl Moment {
    /// What a loss of power may leave: each sector as it was last synchronised, or as it was written since.
    fn survivors(&self, random: &mut ChaCha8Rng) -> tempfile::TempDir {
        const SECTOR: usize = 512;
        let survived = tempfile::tempdir().unwrap();
        for (name, (certain, written)) in &self.files {
            let share = [0.0, 0.5, 0.95][random.random_range(0..3)];
            let mut bytes = vec![0; certain.len().max(written.len())];
            for (at, sector) in bytes.chunks_mut(SECTOR).enumerate() {
                let is_new = random.random_bool(share) || certain.len() < at * SECTOR + sector.len();
                let source = if is_new && share > 0.0 { written } else { certain };
                let from = source.get(at * SECTOR..).unwrap_or_default();
                let count = from.len().min(sector.len());
                sector[..count].copy_from_slice(&from[..count]);
            }
            if share == 0.0 {
                bytes.truncate(certain.len());
            }
            fs::write(survived.path().join(name), bytes).unwrap();
        }
        survived
    }
}

/// Replaces the C library's function for the whole test program, as the two below.
#[unsafe(no_mangle)]
extern "C" fn pwrite64(fd: i32, bytes: *const u8, count: usize, offset: i64) -> isize {
    // SAFETY: the caller of pwrite gives `count` readable bytes.
    let bytes = unsafe { std::slice::from_raw_parts(bytes, count) };
    let mut faults = faults();
    faults.calls += 1;
    let part = match (faults.writes, faults.calls % 3) {
        (Writes::Whole, _) | (Writes::InPieces, 0) => bytes,
        (Writes::InPieces, 1) => {
            faults.interrupted += 1;
            return failed(Errno::INTR);
        }
        (Writes::PartAndFull, n) if n != 1 => return failed(Errno::NOSPC),
        (Writes::InPieces | Writes::PartAndFull, _) => {
            faults.short += 1;
            &bytes[..count.div_ceil(2)]
        }
    };
    drop(faults);
    told(rustix::io::pwrite(borrowed(fd), part, offset.cast_unsigned()))
}

#[unsafe(no_mangle)]
extern "C" fn pread64(fd: i32, bytes: *mut u8, count: usize, offset: i64) -> isize {
    if let Some((inode, times)) = &mut faults().unreadable
        && *times > 0
        && rustix::fs::fstat(borrowed(fd)).is_ok_and(|stat| stat.st_ino == *inode)
    {
        *times -= 1;
        return failed(Errno::IO);
    }
    // SAFETY: the caller of pread gives `count` bytes that may be written.
    let bytes = unsafe { std::slice::from_raw_parts_mut(bytes, count) };
    told(rustix::io::pread(borrowed(fd), bytes, offset.cast_unsigned()))
}

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: i32) -> i32 {
    let mut faults = faults();
    let acknowledged = faults.acknowledged;
    if let Some(watched) = &mut faults.watched {
        watched.before(acknowledged);
    }
    if let Err(error) = rustix::fs::fdatasync(borrowed(fd)) {
        return failed(error) as i32;
    }
    if let Some(watched) = &mut faults.watched
        && let Ok(path) = fs::read_link(format!("/proc/self/fd/{fd}"))
    {
        watched.after(path);
    }
    0
}

unsafe extern "C" {
    fn __errno_location() -> *mut i32;
}

fn told(result: Result<usize, Errno>) -> isize {
    result.map_or_else(failed, usize::cast_signed)
}

fn failed(error: Errno) -> isize {
    // SAFETY: the C library gives each thread a place for its error.
    unsafe { *__errno_location() = error.raw_os_error() };
    -1
}

fn borrowed<'a>(fd: i32) -> BorrowedFd<'a> {
    // SAFETY: the caller of these functions owns the descriptor and keeps it open during the call.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

// --- The node ---

struct Node {
    store: Store,
    remembered: Remembered,
    outcomes: Receiver<(u64, Result<(), String>)>,
}

impl Node {
    fn open(directory: &Path) -> Self {
        let (reports, outcomes) = channel();
        let keys = || NodeKeys { reset_key: [1; 64], connection_id_key: [1; 8] };
        let on_outcomes = move |outcomes: Vec<Outcome>| {
            outcomes.into_iter().for_each(|(no, outcome)| drop(reports.send((no.0, outcome))));
        };
        let opened = Store::open(directory, keys, on_outcomes).unwrap();
        Self { store: opened.store, remembered: opened.remembered, outcomes }
    }

    /// Commits and waits for the outcome.
    fn commit(&self, no: u64, changes: Vec<Change>) -> Result<(), String> {
        self.store.commit(PersistNo(no), changes);
        let (reported, outcome) = self.outcomes.recv().unwrap();
        assert_eq!(reported, no);
        outcome
    }
}

/// A row that is named by its number and repeats it.
fn row(no: u64, bytes: usize) -> Vec<Change> {
    let text = format!("{no} ").repeat(bytes / 4);
    vec![Change::Put { table: Table::State, key: format!("{no:06}").into(), row: text.into() }]
}

/// The numbers of the rows, each of which is whole.
fn rows_of(remembered: &Remembered) -> Vec<u64> {
    let rows = remembered.tables.get(&Table::State).into_iter().flatten();
    rows.map(|(key, row)| {
        let no = std::str::from_utf8(key).unwrap().parse().unwrap();
        let text = std::str::from_utf8(row).unwrap();
        assert!(text.split_terminator(' ').all(|word| word.parse() == Ok(no)), "row {no} is torn");
        no
    })
    .collect()
}

fn copied(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["shoal.db", "shoal.db-wal"] {
        fs::copy(directory.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

fn is_whole(directory: &Path) {
    let shell = Connection::open(directory.join("shoal.db")).unwrap();
    let found: String = shell.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok");
}

fn mesh_id() -> MeshId {
    MeshId(uuid::Uuid::from_u128(7))
}
