//! Why the store could not be opened or did not take a change: one sentence each, with what to do.
//!
//! The text carries the cause, so printing the error alone is enough. None of these errors changes or
//! removes what the database holds. At a start, [`StoreError::Damaged`] is not the end: the file is put aside and
//! another one made, so that only a running node reports it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use rusqlite::ffi::{
    SQLITE_IOERR_CORRUPTFS, SQLITE_IOERR_READ, SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_SHORT_READ,
};

use crate::core::limits;

/// Why the store could not be opened, or did not take a change.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The data directory does not exist and could not be made.
    #[error("the data directory {} cannot be created: {cause}; create it, or choose another one", directory.display())]
    Create {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Something else than a directory has its name.
    #[error("{} is not a directory: choose another data directory", directory.display())]
    NotADirectory {
        /// What was given as the directory.
        directory: PathBuf,
    },
    /// The user of this process may not read and write there, or the file system is read-only.
    #[error("{} cannot be read and written: {cause}; give the node's user access to it, or choose another data directory", path.display())]
    NotWritable {
        /// The directory or the file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// Another store holds the directory's lock.
    #[error("the data directory {} is in use by {}: stop it, or give this node a data directory of its own", directory.display(), holder_text(*holder))]
    Locked {
        /// The directory.
        directory: PathBuf,
        /// The process that holds it, as far as its lock file tells.
        holder: Option<u32>,
    },
    /// The directory's file system does not lock files.
    #[error("the data directory {} cannot be locked: {cause}; choose one on a local disk", directory.display())]
    NoLock {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file is a database of another program.
    #[error("{} is a database of another program: choose another data directory; the file was left as it is", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// A later version of this program wrote the database.
    #[error("{} was written by a later version (schema {found}, this one knows up to {known}): run that version; the file was left as it is", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// The schema version in the file.
        found: i64,
        /// The schema version of this program.
        known: i64,
    },
    /// The database is not readable as one, or contradicts itself.
    #[error("the database {} is damaged ({detail}): start the node again, which puts the file aside and makes a new one of what can be read, or restore a backup first", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What SQLite found.
        detail: String,
    },
    /// It is damaged, and as many damaged ones as may be are kept beside it.
    #[error("the database {} is damaged ({detail}), and {} that were damaged before are still beside it: move those named shoal.db.damaged-* away, and start again; the file was left as it is", file.display(), limits::STORE_DAMAGED_MAX)]
    TooManyDamaged {
        /// The file.
        file: PathBuf,
        /// What SQLite found.
        detail: String,
    },
    /// The write-ahead log is there and the database that it belongs to is not.
    #[error("{} is gone or empty but its log {}-wal is not: restore both from a backup, or move the log away to start afresh", file.display(), file.display())]
    LogWithoutDatabase {
        /// The database.
        file: PathBuf,
    },
    /// The database or its log was removed, or replaced by another file, while it was open.
    #[error("{} was removed or replaced while it was in use: stop the node, put the file back or restore a backup, and start again", file.display())]
    Replaced {
        /// The file.
        file: PathBuf,
    },
    /// No space is left.
    #[error("the disk that holds {} is full: make room and try again", file.display())]
    Full {
        /// The database.
        file: PathBuf,
        /// What SQLite said.
        cause: rusqlite::Error,
    },
    /// Another program holds the database open and does not let go.
    #[error("{} is held by another program, such as a database shell: close it and try again", file.display())]
    Busy {
        /// The database.
        file: PathBuf,
    },
    /// The node has counted its process starts to the end.
    #[error("{} has no number left for another start of this node: give the node a new name and a new data directory", file.display())]
    StartsUsedUp {
        /// The database.
        file: PathBuf,
    },
    /// The file system cannot hold the shared memory of a write-ahead log.
    #[error("{} cannot use a write-ahead log on this file system: choose a data directory on a local disk", file.display())]
    NoLog {
        /// The database.
        file: PathBuf,
    },
    /// The disk or SQLite failed in another way.
    #[error("{} cannot be used: {}; check the disk and the system's log", file.display(), cause_text(cause))]
    Unusable {
        /// The database.
        file: PathBuf,
        /// What SQLite said.
        cause: rusqlite::Error,
    },
    /// The system gave no thread.
    #[error("the store's thread could not be started: {cause}; raise the limit of processes or memory")]
    Thread {
        /// What the system said.
        cause: io::Error,
    },
}

impl StoreError {
    /// Sorts what SQLite said of `file`.
    pub(super) fn of(file: &Path, cause: rusqlite::Error) -> Self {
        let file = file.to_owned();
        if is_conversion(&cause) {
            return Self::Damaged { file, detail: cause.to_string() };
        }
        match cause.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { file, detail: cause.to_string() }
            }
            Some(ErrorCode::DiskFull) => Self::Full { file, cause },
            // The index of the log could not grow.
            Some(ErrorCode::SystemIoFailure)
                if cause.sqlite_extended_error_code() == Some(SQLITE_IOERR_SHMSIZE) =>
            {
                Self::Full { file, cause }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { file },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                Self::NotWritable { path: file, cause: cause.to_string() }
            }
            Some(_) | None => Self::Unusable { file, cause },
        }
    }

    /// What is wrong with the file, if another one has to take its place.
    pub(super) fn damage(&self) -> Option<String> {
        if let Self::Damaged { detail, .. } = self {
            return Some(detail.clone());
        }
        let Self::Unusable { cause, .. } = self else { return None };
        let unreadable = [SQLITE_IOERR_READ, SQLITE_IOERR_SHORT_READ, SQLITE_IOERR_CORRUPTFS];
        let code = cause.sqlite_extended_error_code()?;
        unreadable.contains(&code).then(|| cause_text(cause))
    }

    /// Whether the connection is as good as before once its transaction is rolled back. Any other
    /// failure leaves in doubt what of it reached the disk.
    pub(super) fn leaves_the_disk_in_doubt(&self) -> bool {
        match self {
            // The log's index grows after the log is written: then the commit may be there in full.
            Self::Full { cause, .. } => cause.sqlite_error_code() != Some(ErrorCode::DiskFull),
            Self::Busy { .. } | Self::Replaced { .. } => false,
            Self::Create { .. }
            | Self::NotADirectory { .. }
            | Self::NotWritable { .. }
            | Self::Locked { .. }
            | Self::NoLock { .. }
            | Self::Foreign { .. }
            | Self::Newer { .. }
            | Self::Damaged { .. }
            | Self::TooManyDamaged { .. }
            | Self::LogWithoutDatabase { .. }
            | Self::StartsUsedUp { .. }
            | Self::NoLog { .. }
            | Self::Unusable { .. }
            | Self::Thread { .. } => true,
        }
    }
}

/// Whether a column held another type or range than this program writes, or a row is absent that is always there.
fn is_conversion(cause: &rusqlite::Error) -> bool {
    use rusqlite::Error as E;
    matches!(
        cause,
        E::FromSqlConversionFailure(..)
            | E::IntegralValueOutOfRange(..)
            | E::InvalidColumnType(..)
            | E::QueryReturnedNoRows
            | E::Utf8Error(..)
    )
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// SQLite's sentence, and the number that tells which of its many causes it was.
fn cause_text(cause: &rusqlite::Error) -> String {
    match cause.sqlite_extended_error_code() {
        Some(code) => format!("{cause} (SQLite code {code})"),
        None => cause.to_string(),
    }
}
