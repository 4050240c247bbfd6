//! One connection to the database file: how it is opened, checked, brought to the current schema,
//! written and closed. What the rows mean is in `records`.
//!
//! # What is promised
//!
//! A transaction that [`Database::write`] returned `Ok` for is on the disk. Two things need care:
//!
//! - **A failed synchronisation.** Its frames stand in the write-ahead log without being acknowledged, and the
//!   kernel may have dropped them while it shows them to every later reader. Opening the file again would
//!   find them, call them committed and put new commits behind them. So a connection in doubt first
//!   moves what was acknowledged into the database file and empties the log ([`Database::empty_log`]), and only then
//!   is it replaced by a new one; and every open does the same before anything is written.
//! - **A file that is not what it was.** One that is damaged, foreign or of a later version is read with the
//!   checkpoint at closing switched off, so that looking at it does not change it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, ffi};

use super::directory;
use super::error::StoreError;
use super::log;
use super::records::SCHEMA;
use crate::core::limits;
use crate::node::crash_point::CrashPoint;

/// Prepared statements that are kept: all that the store has.
const STATEMENTS: usize = 64;

/// Marks the file as ours for `file(1)` and for [`StoreError::Foreign`]: `shoa` in ASCII.
const APPLICATION_ID: i32 = 0x7368_6f61;

/// What to do when there is no database yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfAbsent {
    /// Make one: the node's first start.
    Create,
    /// Refuse: it was there a moment ago.
    Refuse,
}

/// An open database of the current schema.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    file: PathBuf,
    /// The database and its log as they were opened.
    identities: [(PathBuf, FileIdentity); 2],
}

/// Device and inode.
type FileIdentity = (u64, u64);

impl Database {
    /// Opens the database, checks that it is whole and ours, migrates it and empties its log.
    ///
    /// # Errors
    /// Any but those of the directory; the file is as it was, except that a migration either happened or did not.
    pub(super) fn open(file: &Path, if_absent: IfAbsent) -> Result<Self, StoreError> {
        let fresh = prepare_file(file, if_absent)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let failed = |cause| StoreError::of(file, cause);
        let mut connection = Connection::open_with_flags(file, flags).map_err(failed)?;
        connection.busy_timeout(limits::STORE_BUSY_MAX).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        if !fresh {
            keep_log_on_close(&connection, true).map_err(failed)?;
            inspect(&connection, file)?;
            keep_log_on_close(&connection, false).map_err(failed)?;
            make_private(file)?;
        }
        configure(&connection, file)?;
        migrate(&mut connection, SCHEMA).map_err(failed)?;
        empty_log(&connection).map_err(failed)?;
        let log = log_of(file);
        let identities = [(file.to_owned(), identify(file)?), (log.clone(), identify(&log)?)];
        Ok(Self { connection, file: file.to_owned(), identities })
    }

    /// Runs `work` in one transaction and commits it to the disk.
    ///
    /// # Errors
    /// Nothing of it is committed. Where [`StoreError::leaves_the_disk_in_doubt`], the connection must
    /// not be written again: [`Database::empty_log`], drop, [`Database::open`].
    pub(super) fn write<T>(
        &mut self,
        work: impl FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.check_in_place()?;
        let failed = |cause| StoreError::of(&self.file, cause);
        let mut transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let done = work(&mut transaction).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(done)
    }

    /// As [`Database::write`], but whether it is on the disk is settled by the next commit: a loss of power may
    /// cost it, the loss of the process does not.
    ///
    /// # Errors
    /// As [`Database::write`]. A connection that could not be set back to synchronising is in doubt.
    pub(super) fn write_unsynchronised<T>(
        &mut self,
        work: impl FnOnce(&mut Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.connection
            .pragma_update(None, "synchronous", "NORMAL")
            .map_err(|cause| StoreError::of(&self.file, cause))?;
        let done = self.write(work);
        let restored = self.connection.pragma_update(None, "synchronous", "FULL");
        restored.map_err(|cause| StoreError::Unusable { file: self.file.clone(), cause })?;
        done
    }

    /// Moves what is acknowledged from the log into the database and truncates the log, which drops
    /// whatever a failed commit left there.
    ///
    /// # Errors
    /// The log is as it was.
    pub(super) fn empty_log(&self) -> Result<(), StoreError> {
        self.check_in_place()?;
        empty_log(&self.connection).map_err(|cause| StoreError::of(&self.file, cause))
    }

    /// Empties the log and closes the connection.
    pub(super) fn close(self) {
        if let Err(error) = self.empty_log() {
            // What is acknowledged is safe in the log; another file's log must not be touched.
            tracing::warn!(%error, "the store's log stays as it is until the next start");
            if let Err(error) = keep_log_on_close(&self.connection, true) {
                tracing::warn!(%error, "the store may touch its log while it closes");
            }
        }
        if let Err((_, error)) = self.connection.close() {
            tracing::warn!(%error, "the store's database did not close cleanly");
        }
    }

    /// A commit to a file that has no name any more would be acknowledged and lost.
    ///
    /// # Errors
    /// [`StoreError::Replaced`].
    pub(super) fn check_in_place(&self) -> Result<(), StoreError> {
        for (path, identity) in &self.identities {
            if identify(path).ok().as_ref() != Some(identity) {
                return Err(StoreError::Replaced { file: path.clone() });
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// The write-ahead log that belongs to a database.
pub(super) fn log_of(file: &Path) -> PathBuf {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Makes an absent file, readable by its owner alone (SQLite gives its log the same mode).
/// Returns whether the database is still to be made.
fn prepare_file(file: &Path, if_absent: IfAbsent) -> Result<bool, StoreError> {
    let found = match fs::metadata(file) {
        Ok(metadata) => Some(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(not_writable(file, &error)),
    };
    if found.is_some_and(|bytes| bytes > 0) {
        return Ok(false);
    }
    if if_absent == IfAbsent::Refuse {
        return Err(StoreError::Replaced { file: file.to_owned() });
    }
    // SQLite would take the log of an empty database for a leftover and remove it.
    if fs::metadata(log_of(file)).is_ok_and(|log| log.len() > 0) {
        return Err(StoreError::LogWithoutDatabase { file: file.to_owned() });
    }
    if found.is_none() {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
        made.map_err(|error| not_writable(file, &error))?;
        if let Some(parent) = file.parent() {
            directory::sync(parent);
        }
    }
    Ok(true)
}

/// Refuses a file that is not a whole database of this program in a schema that it knows.
fn inspect(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    let failed = |cause| StoreError::of(file, cause);
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |r| r.get(0)).map_err(failed)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0)).map_err(failed)?;
    // A first start that was cut off leaves a database without a table, a version or a mark.
    let unborn = application == 0 && tables == 0;
    if application != APPLICATION_ID && !unborn {
        return Err(StoreError::Foreign { file: file.to_owned() });
    }
    let found: i64 = connection.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(failed)?;
    let known = SCHEMA.len() as i64;
    if found > known {
        return Err(StoreError::Newer { file: file.to_owned(), found, known });
    }
    check_log(connection, file)?;
    check_schema(connection, file, usize::try_from(found).unwrap_or_default())?;
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(failed)?;
    if found != "ok" {
        // The finding has a heading on a line of its own.
        let detail = found.lines().last().unwrap_or_default().to_owned();
        return Err(StoreError::Damaged { file: file.to_owned(), detail });
    }
    Ok(())
}

/// Refuses a file whose tables are not those of its version: statements would fail on them for ever. What somebody added
/// does no harm.
fn check_schema(connection: &Connection, file: &Path, version: usize) -> Result<(), StoreError> {
    let failed = |cause| StoreError::of(file, cause);
    let found = schema_of(connection).map_err(failed)?;
    let model = Connection::open_in_memory().map_err(failed)?;
    SCHEMA.iter().take(version).try_for_each(|step| model.execute_batch(step)).map_err(failed)?;
    let expected = schema_of(&model).map_err(failed)?;
    SCHEMA.iter().skip(version).try_for_each(|step| model.execute_batch(step)).map_err(failed)?;
    // Of a later version nothing may be there yet.
    let later = schema_of(&model).map_err(failed)?;
    match expected.keys().chain(later.keys()).find(|name| expected.get(*name) != found.get(*name)) {
        Some(name) => {
            let detail = format!("{name} is not defined as version {version} defined it");
            Err(StoreError::Damaged { file: file.to_owned(), detail })
        }
        None => Ok(()),
    }
}

/// What is defined, by name.
fn schema_of(connection: &Connection) -> rusqlite::Result<BTreeMap<String, String>> {
    let mut statement = connection.prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Refuses a log that lost what was acknowledged. Files of a version without the tallies are taken as SQLite takes them.
fn check_log(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    let marker = connection
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'tallies'", [], |r| r.get(0))
        .optional()
        .map_err(|cause| StoreError::of(file, cause))?;
    let Some(marker) = marker else { return Ok(()) };
    let log = log_of(file);
    match log::damage(&log, marker).map_err(|error| not_writable(&log, &error))? {
        Some(detail) => Err(StoreError::Damaged { file: file.to_owned(), detail: detail.to_owned() }),
        None => Ok(()),
    }
}

fn configure(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    let failed = |cause| StoreError::of(file, cause);
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |r| r.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(StoreError::NoLog { file: file.to_owned() });
    }
    for (pragma, value) in [
        // Every commit waits for the disk; `fullfsync` is what that takes on macOS and nothing elsewhere.
        ("synchronous", "FULL"),
        ("fullfsync", "ON"),
        ("foreign_keys", "ON"),
        // The way back from a refused batch is kept in memory, not in files elsewhere on the disk.
        ("temp_store", "MEMORY"),
        // A damaged or forged schema runs no functions, and a damaged page is noticed when it is read.
        ("trusted_schema", "OFF"),
        ("cell_size_check", "ON"),
    ] {
        connection.pragma_update(None, pragma, value).map_err(failed)?;
    }
    Ok(())
}

/// Takes all steps from the file's schema version to the last one, in one transaction with the version.
fn migrate(connection: &mut Connection, steps: &[&str]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: usize =
        transaction.pragma_query_value(None, "user_version", |r| r.get::<_, u32>(0))? as usize;
    if version >= steps.len() {
        return transaction.rollback();
    }
    for step in steps.iter().skip(version) {
        transaction.execute_batch(step)?;
        CrashPoint::Migration.reached();
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", steps.len() as i64)?;
    transaction.commit()?;
    tracing::info!(from = version, to = steps.len(), "the store's schema was brought up to date");
    Ok(())
}

fn empty_log(connection: &Connection) -> rusqlite::Result<()> {
    // Copied first and truncated then: the second has nothing left to copy.
    for checkpoint in ["PRAGMA wal_checkpoint(FULL)", "PRAGMA wal_checkpoint(TRUNCATE)"] {
        let busy: bool = connection.query_row(checkpoint, [], |r| r.get(0))?;
        // The pragma reports a reader that is in the way as a value, not as an error.
        if busy {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None));
        }
        CrashPoint::Checkpoint.reached();
    }
    Ok(())
}

fn keep_log_on_close(connection: &Connection, keep: bool) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep).map(drop)
}

/// The database holds keys: whatever mode it was copied here with, only its owner reads it.
fn make_private(file: &Path) -> Result<(), StoreError> {
    for path in [file.to_owned(), log_of(file)] {
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.permissions().mode() & 0o077 != 0 {
            tracing::warn!(file = %path.display(), "others could read this file, which holds keys; now only its owner can");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(|e| not_writable(&path, &e))?;
        }
    }
    Ok(())
}

fn identify(path: &Path) -> Result<FileIdentity, StoreError> {
    let metadata = fs::metadata(path).map_err(|error| not_writable(path, &error))?;
    Ok((metadata.dev(), metadata.ino()))
}

fn not_writable(path: &Path, error: &io::Error) -> StoreError {
    StoreError::NotWritable { path: path.to_owned(), cause: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "CREATE TABLE peers (node_id TEXT PRIMARY KEY) STRICT;";
    const SECOND: &str = "ALTER TABLE peers ADD COLUMN region TEXT NOT NULL DEFAULT 'none';";

    fn version(connection: &Connection) -> i64 {
        connection.pragma_query_value(None, "user_version", |r| r.get(0)).expect("readable")
    }

    #[test]
    fn a_migration_takes_each_missing_step_once_and_keeps_the_rows() {
        let mut connection = Connection::open_in_memory().expect("opens");
        migrate(&mut connection, &[FIRST]).expect("first schema");
        connection.execute("INSERT INTO peers VALUES ('a')", []).expect("a row of the first schema");

        migrate(&mut connection, &[FIRST, SECOND]).expect("second schema");
        migrate(&mut connection, &[FIRST, SECOND]).expect("nothing to do");

        let region: String = connection
            .query_row("SELECT region FROM peers WHERE node_id = 'a'", [], |r| r.get(0))
            .expect("row");
        assert_eq!((region.as_str(), version(&connection)), ("none", 2));
    }

    #[test]
    fn a_migration_that_fails_half_way_leaves_the_schema_as_it_was() {
        let mut connection = Connection::open_in_memory().expect("opens");
        migrate(&mut connection, &[FIRST]).expect("first schema");

        migrate(&mut connection, &[FIRST, SECOND, "INSERT INTO absent VALUES (1);"])
            .expect_err("no such table");

        assert_eq!(version(&connection), 1);
        connection.prepare("SELECT region FROM peers").expect_err("the second step was rolled back");
    }
}
