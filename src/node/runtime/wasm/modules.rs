//! The modules of a node: files named by the SHA-256 of what is in them, which is checked at each reading.
//!
//! A module comes in whole (an upload) or in parts (from peers), is written beside its place and moved there when it
//! is known to be what its name says. What no agent uses is removed after a while. Every call may block on the disk.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::core::ids::ModuleId;
use crate::core::limits;
use crate::core::wire::ModulePart;

/// What the name of a module's file ends with.
const SUFFIX: &str = ".wasm";
/// What the name of a file ends with that is being written.
const UNFINISHED: &str = ".part";

/// Why a module cannot be had from the disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lack {
    /// There is none of that name.
    #[error("the node does not have it")]
    Absent,
    /// There was one, and its bytes were others than its name says. It is gone now.
    #[error("its file was damaged, and was removed")]
    Damaged,
    /// The disk.
    #[error("its file cannot be read: {0}")]
    Disk(io::Error),
}

/// A module of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub module: ModuleId,
    /// Its size.
    pub bytes: u64,
}

/// The files.
#[derive(Debug)]
pub(super) struct Modules {
    directory: PathBuf,
    /// Held while the room that is left is counted and taken.
    room: Mutex<()>,
}

impl Modules {
    /// Those in `directory`, which is made when the first comes in.
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, room: Mutex::default() }
    }

    fn path(&self, module: &ModuleId) -> PathBuf {
        self.directory.join(format!("{module}{SUFFIX}"))
    }

    /// Keeps a module.
    ///
    /// # Errors
    /// One sentence; nothing is kept.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<ModuleId, String> {
        let module = ModuleId::of(bytes);
        if bytes.len() > limits::MODULE_BYTES_MAX {
            return Err(too_large(bytes.len() as u64));
        }
        // A place may hold something else than its name says: then it is written again.
        if self.get(&module).is_ok() {
            let _ = File::open(self.path(&module)).and_then(|file| file.set_modified(SystemTime::now()));
            return Ok(module);
        }
        let _room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.list().map_err(|error| self.cannot("be read", &error))?;
        let used: u64 = kept.iter().map(|kept| kept.bytes).sum();
        if kept.len() >= limits::MODULES_MAX || used + bytes.len() as u64 > limits::MODULES_BYTES_MAX {
            return Err(format!(
                "the node keeps {} modules with {used} bytes, and has no room for one of {} bytes more: stop agents \
                 that are not needed",
                kept.len(),
                bytes.len()
            ));
        }
        write_whole(&self.directory, &self.path(&module), &[bytes])
            .map_err(|error| self.cannot("be written to", &error))?;
        Ok(module)
    }

    fn cannot(&self, what: &str, error: &io::Error) -> String {
        format!("the directory {:?} for modules cannot {what}: {error}", self.directory)
    }

    /// A module's bytes, which are what its name says.
    ///
    /// # Errors
    /// [`Lack`].
    pub(super) fn get(&self, module: &ModuleId) -> Result<Vec<u8>, Lack> {
        let path = self.path(module);
        let bytes = match read_bounded(&path, limits::MODULE_BYTES_MAX as u64) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Lack::Absent),
            Err(error) => return Err(Lack::Disk(error)),
        };
        if ModuleId::of(&bytes) == *module {
            return Ok(bytes);
        }
        tracing::warn!(%module, ?path, "the module's file is damaged; it is removed");
        fs::remove_file(&path).map_err(Lack::Disk)?;
        Err(Lack::Damaged)
    }

    /// A part of a module, for a peer, who checks the whole.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn part(&self, module: &ModuleId, offset: u64) -> Result<ModulePart, String> {
        let read = || {
            let mut file = File::open(self.path(module))?;
            let total_bytes = file.metadata()?.len();
            file.seek(SeekFrom::Start(offset.min(total_bytes)))?;
            let mut bytes = Vec::new();
            file.take(limits::MODULE_PART_BYTES as u64).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(ModulePart { total_bytes, bytes: bytes.into() })
        };
        let part = read().map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return format!("it does not have the module {module}");
            }
            format!("it cannot read the module {module}: {error}")
        })?;
        part.check().map_err(str::to_owned)?;
        Ok(part)
    }

    /// All modules, by name.
    pub(super) fn list(&self) -> io::Result<Vec<Kept>> {
        let mut kept = Vec::new();
        for (name, entry) in self.entries()? {
            let module = name.strip_suffix(SUFFIX).and_then(|name| name.parse().ok());
            if let (Some(module), Ok(metadata)) = (module, entry.metadata()) {
                kept.push(Kept { module, bytes: metadata.len() });
            }
        }
        kept.sort_unstable_by_key(|kept| kept.module);
        Ok(kept)
    }

    /// Removes what is not in use and has not been touched for `unused_max`: modules, and what was left unfinished.
    pub(super) fn collect(&self, in_use: &HashSet<ModuleId>, unused_max: Duration) -> io::Result<()> {
        for (name, entry) in self.entries()? {
            let module: Option<ModuleId> = name.strip_suffix(SUFFIX).and_then(|name| name.parse().ok());
            let may_go = match &module {
                Some(module) => !in_use.contains(module),
                None => name.ends_with(UNFINISHED),
            };
            if may_go && is_older(&entry.path(), unused_max) {
                tracing::info!(name, "a module that no agent uses is removed");
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> io::Result<Vec<(String, fs::DirEntry)>> {
        entries(&self.directory)
    }
}

/// The files of a directory that have names in text; of one that is not there, none.
pub(super) fn entries(directory: &Path) -> io::Result<Vec<(String, fs::DirEntry)>> {
    let listing = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let named = |entry: io::Result<fs::DirEntry>| match entry {
        Ok(entry) => entry.file_name().into_string().ok().map(|name| Ok((name, entry))),
        Err(error) => Some(Err(error)),
    };
    listing.filter_map(named).collect()
}

/// Whether a file was last written so long ago.
pub(super) fn is_older(path: &Path, than: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > than))
}

/// Reads a file; a longer one is an error.
pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Writes a file that is there whole or not at all, and that nobody but the node's user may read.
pub(super) fn write_whole(directory: &Path, path: &Path, pieces: &[&[u8]]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}{UNFINISHED}", crate::node::clock::random_id()));
    let beside = PathBuf::from(beside);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        pieces.iter().try_for_each(|piece| file.write_all(piece))?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // What is left over is collected later.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// The sentence about a module that is too large.
pub(super) fn too_large(bytes: u64) -> String {
    format!("the module has {bytes} bytes, the most is {}", limits::MODULE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> (tempfile::TempDir, Modules) {
        let directory = tempfile::tempdir().expect("a directory");
        let modules = Modules::new(directory.path().join("modules"));
        (directory, modules)
    }

    #[test]
    fn a_module_is_read_back_whole_and_in_parts_and_listed() {
        let (_directory, modules) = modules();
        let bytes: Vec<u8> = (0..limits::MODULE_PART_BYTES + 10).map(|n| (n % 251) as u8).collect();
        let module = modules.put(&bytes).expect("kept");
        assert_eq!(modules.put(&bytes).expect("kept again"), module);
        assert_eq!(modules.get(&module).expect("there"), bytes);
        assert_eq!(modules.list().expect("read"), [Kept { module, bytes: bytes.len() as u64 }]);
        let first = modules.part(&module, 0).expect("there");
        let rest = modules.part(&module, first.bytes.len() as u64).expect("there");
        assert_eq!([first.bytes, rest.bytes].concat(), bytes);
        assert_eq!((first.total_bytes, rest.total_bytes), (bytes.len() as u64, bytes.len() as u64));
        assert!(modules.part(&module, u64::MAX).expect("there").bytes.is_empty());
        let other = ModuleId::of(b"other");
        assert!(matches!(modules.get(&other), Err(Lack::Absent)));
        assert!(modules.part(&other, 0).expect_err("not there").contains("does not have"));
    }

    #[test]
    fn a_damaged_module_is_found_and_removed_and_can_be_kept_anew() {
        let (_directory, modules) = modules();
        let module = modules.put(b"a module").expect("kept");
        fs::write(modules.path(&module), b"a modulf").expect("written");
        assert!(matches!(modules.get(&module), Err(Lack::Damaged)));
        assert!(matches!(modules.get(&module), Err(Lack::Absent)));
        fs::write(modules.path(&module), b"a modulf").expect("written");
        assert_eq!(modules.put(b"a module").expect("kept"), module);
        assert_eq!(modules.get(&module).expect("there"), b"a module");
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let (_directory, modules) = modules();
        let why = modules.put(&vec![0; limits::MODULE_BYTES_MAX + 1]).expect_err("too large");
        assert!(why.contains("the most is"), "{why}");
        assert!(modules.list().expect("read").is_empty());
    }

    #[test]
    fn what_no_agent_uses_is_removed_once_it_is_old_and_the_rest_stays() {
        let (_directory, modules) = modules();
        let [used, unused, young] =
            [b"used", b"idle", b"new!"].map(|bytes| modules.put(bytes).expect("kept"));
        let unfinished = modules.directory.join(format!("x{UNFINISHED}"));
        let stranger = modules.directory.join("README");
        for path in [&unfinished, &stranger] {
            fs::write(path, b"?").expect("written");
        }
        let hours_ago = SystemTime::now() - Duration::from_secs(7200);
        for path in [&modules.path(&used), &modules.path(&unused), &unfinished, &stranger] {
            File::options().write(true).open(path).and_then(|f| f.set_modified(hours_ago)).expect("set");
        }
        modules.collect(&HashSet::from([used]), Duration::from_secs(3600)).expect("collects");
        let left: Vec<_> = modules.list().expect("read").into_iter().map(|kept| kept.module).collect();
        let mut expected = [used, young];
        expected.sort_unstable();
        assert_eq!(left, expected);
        assert!(!unfinished.exists() && stranger.exists());
    }
}
