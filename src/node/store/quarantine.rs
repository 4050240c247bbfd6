//! What becomes of a damaged database: it is put aside whole, and one made of what can be read takes its place.
//!
//! # Steps
//!
//! 1. What can be read of the damaged file is read, without changing it, and written to `shoal.db.making`.
//! 2. When that is complete and on the disk, it is renamed to `shoal.db.rebuilt-<seconds>`: the point of no return.
//! 3. The damaged file and its log are renamed to `shoal.db.damaged-<seconds>`, and the new one to `shoal.db`.
//!
//! A process that ends before step 2 has changed nothing; after it, the next start takes step 3 where it was left
//! ([`finish`]). At no time is there a database that looks like a first start's: such a node would forget that it
//! had lost something.
//!
//! # What it does not do
//!
//! It removes nothing but what it was making itself. How many damaged files are kept is bounded by refusing to start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::database::{Database, IfAbsent};
use super::directory;
use super::error::StoreError;
use super::records::{self, Salvage};
use crate::core::limits;
use crate::node::clock;
use crate::node::crash_point::CrashPoint;

/// A database is as many files as there are of these: the database itself comes last when it is moved.
const PARTS: [&str; 3] = ["-wal", "-shm", ""];

/// Puts a database of what can be read of `file` in its place.
///
/// # Errors
/// [`StoreError::TooManyDamaged`], or that the new one could not be written; the damaged one is as it was.
pub(super) fn replace(file: &Path, detail: String) -> Result<(), StoreError> {
    if kept(file)? >= limits::STORE_DAMAGED_MAX {
        return Err(StoreError::TooManyDamaged { file: file.to_owned(), detail });
    }
    let salvage = read(file);
    let making = beside(file, ".making");
    make(&making, &salvage)?;
    let stamp = free_stamp(file);
    let rebuilt = beside(file, &format!(".rebuilt-{stamp}"));
    rename(&making, &rebuilt)?;
    sync_directory(file);
    CrashPoint::Rebuilt.reached();
    put_in_place(file, &rebuilt, &stamp)?;
    tracing::warn!(file = %file.display(), detail, put_aside = %beside(file, &format!(".damaged-{stamp}")).display(),
        start = salvage.start, mesh_id = ?salvage.mesh_id, peers = salvage.peers.len(), agents = salvage.agents.len(),
        "the database was damaged and is put aside; a new one was made of what could be read of it, \
         the rest comes back from peers: look after the disk");
    Ok(())
}

/// Takes the last step, if an earlier process has ended before it.
///
/// # Errors
/// The files cannot be renamed.
pub(super) fn finish(file: &Path) -> Result<(), StoreError> {
    let prefix = format!("{}.rebuilt-", name_of(file));
    for name in names_beside(file)? {
        if let Some(stamp) = name.strip_prefix(&prefix) {
            put_in_place(file, &file.with_file_name(&name), stamp)?;
            tracing::warn!(file = %file.display(), put_aside = %beside(file, &format!(".damaged-{stamp}")).display(),
                "an earlier start found the database damaged: it is put aside, and the new one is in its place");
        }
    }
    Ok(())
}

fn put_in_place(file: &Path, rebuilt: &Path, stamp: &str) -> Result<(), StoreError> {
    for part in PARTS {
        let from = beside(file, part);
        if from.exists() {
            rename(&from, &beside(file, &format!(".damaged-{stamp}{part}")))?;
        }
    }
    sync_directory(file);
    CrashPoint::PutAside.reached();
    rename(rebuilt, file)?;
    sync_directory(file);
    Ok(())
}

/// Reads what can be read. Opened without the right to write, SQLite leaves database and log alone.
fn read(file: &Path) -> Salvage {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(file, flags).and_then(|connection| {
        connection.busy_timeout(limits::STORE_BUSY_MAX)?;
        connection.pragma_update(None, "trusted_schema", "OFF")?;
        connection.pragma_update(None, "cell_size_check", "ON")?;
        Ok(connection)
    });
    match opened {
        Ok(connection) => records::read_salvage(&connection),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "nothing of the damaged database can be read");
            Salvage::default()
        }
    }
}

/// Writes a database that is complete without its log.
fn make(making: &Path, salvage: &Salvage) -> Result<(), StoreError> {
    remove_all(making)?;
    let mut database = Database::open(making, IfAbsent::Create)?;
    database.write(|transaction| records::write_salvage(transaction, salvage))?;
    database.empty_log()?;
    database.close();
    for part in PARTS.iter().filter(|part| !part.is_empty()) {
        remove(&beside(making, part))?;
    }
    Ok(())
}

/// How many damaged databases are beside this one.
fn kept(file: &Path) -> Result<usize, StoreError> {
    let prefix = format!("{}.damaged-", name_of(file));
    let is_database = |name: &String| {
        name.strip_prefix(&prefix).is_some_and(|stamp| stamp.bytes().all(|byte| byte.is_ascii_digit()))
    };
    Ok(names_beside(file)?.iter().filter(|name| is_database(name)).count())
}

/// Seconds since 1970, or later ones if those are taken: renaming would overwrite.
fn free_stamp(file: &Path) -> String {
    let mut seconds = clock::unix_ms() / 1000;
    let is_taken = |seconds| PARTS.iter().any(|p| beside(file, &format!(".damaged-{seconds}{p}")).exists());
    while is_taken(seconds) {
        seconds += 1;
    }
    seconds.to_string()
}

fn names_beside(file: &Path) -> Result<Vec<String>, StoreError> {
    let directory = file.parent().unwrap_or(Path::new("."));
    let entries = fs::read_dir(directory).map_err(|error| not_writable(directory, &error))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

fn name_of(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn remove_all(file: &Path) -> Result<(), StoreError> {
    PARTS.iter().try_for_each(|part| remove(&beside(file, part)))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(not_writable(path, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| not_writable(from, &error))
}

fn sync_directory(file: &Path) {
    if let Some(directory) = file.parent() {
        directory::sync(directory);
    }
}

fn not_writable(path: &Path, error: &io::Error) -> StoreError {
    StoreError::NotWritable { path: path.to_owned(), cause: error.to_string() }
}
