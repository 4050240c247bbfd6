//! The data directory: made if it is absent, and held by one process at a time.
//!
//! The lock is the system's lock on an open file (`flock`), so it ends with the process, however that ends.
//! The file's content, the holder's process id, only serves the message to whoever comes second. The
//! file is never removed: removing it would let two processes lock two files of the same name.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::StoreError;

/// Makes the directory if it is absent, readable by its owner alone, and gives its absolute path.
///
/// # Errors
/// [`StoreError::Create`] or [`StoreError::NotADirectory`].
pub(super) fn prepare(directory: &Path) -> Result<PathBuf, StoreError> {
    let failed = |cause| StoreError::Create { directory: directory.to_owned(), cause };
    match fs::metadata(directory) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(StoreError::NotADirectory { directory: directory.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
            if let Some(parent) = directory.canonicalize().map_err(failed)?.parent() {
                sync(parent);
            }
        }
        Err(error) => return Err(failed(error)),
    }
    directory.canonicalize().map_err(failed)
}

/// Makes the names in a directory durable. A file system that cannot do that is no reason to refuse
/// the directory: SQLite goes on there as well.
pub(super) fn sync(directory: &Path) {
    if let Err(error) = File::open(directory).and_then(|d| d.sync_all()) {
        tracing::debug!(directory = %directory.display(), %error, "the directory could not be synchronised");
    }
}

/// The right to the data directory, for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the directory, or says who has it.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::NotWritable`] or [`StoreError::NoLock`].
    pub(super) fn take(directory: &Path) -> Result<Self, StoreError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join("lock"))
            .map_err(|error| StoreError::NotWritable {
                path: directory.to_owned(),
                cause: error.to_string(),
            })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked {
                    directory: directory.to_owned(),
                    holder: read_holder(&mut file),
                });
            }
            Err(TryLockError::Error(cause)) => {
                return Err(StoreError::NoLock { directory: directory.to_owned(), cause });
            }
        }
        let mut lock = Self { file };
        if let Err(error) = lock.write_holder() {
            tracing::debug!(%error, "the lock file could not be written; the lock holds all the same");
        }
        Ok(lock)
    }

    fn write_holder(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a process that is just being started holds a copy until it runs its program.
        if let Err(error) = self.file.set_len(0).and_then(|()| self.file.unlock()) {
            tracing::debug!(%error, "the lock was not given back; it ends with this process");
        }
    }
}

fn read_holder(file: &mut File) -> Option<u32> {
    /// More than the digits of any process id.
    const HOLDER_BYTES_MAX: u64 = 32;
    let mut text = String::new();
    file.take(HOLDER_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
