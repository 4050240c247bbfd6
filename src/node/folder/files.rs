//! The folder's files: which there are, and what is in them. Nothing here waits for a pipe or reads a device.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// What tells one content of a file from another: where it is, its size, and when it, or what is known of it, was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    bytes: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(about: &Metadata) -> Self {
        Self {
            file: (about.dev(), about.ino()),
            bytes: about.len(),
            written: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }
}

/// The manifests of a folder, and the files that they name, each as it is now; none: it cannot be looked at.
pub(super) type Look = BTreeMap<PathBuf, Option<Stamp>>;

/// Looks at the manifests of a folder and at other files.
///
/// # Errors
/// Why the folder cannot be read.
pub(super) fn look_at(directory: &Path, others: &BTreeSet<PathBuf>) -> Result<Look, String> {
    let mut look = Look::new();
    for entry in fs::read_dir(directory).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if is_manifest(&path) {
            look.insert(path.clone(), stamp_of(&path));
        }
    }
    look.extend(others.iter().map(|path| (path.clone(), stamp_of(path))));
    Ok(look)
}

pub(super) fn is_manifest(path: &Path) -> bool {
    let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !is_hidden && path.extension().is_some_and(|end| end == "yaml" || end == "yml")
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().as_ref().map(Stamp::from)
}

/// What is in a file, as it was when it had this stamp.
///
/// # Errors
/// Why not: it is gone, no file, too large, or has changed.
pub(super) fn read(path: &Path, stamp: Option<Stamp>, bytes_max: usize) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let no = |error: std::io::Error| format!("{shown} cannot be read: {error}");
    // Opening a pipe would wait for its writer.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(no)?;
    if !file.metadata().map_err(no)?.is_file() {
        return Err(format!("{shown} is no file"));
    }
    let mut bytes = Vec::new();
    (&mut file).take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(no)?;
    if bytes.len() > bytes_max {
        return Err(format!("{shown} has more than {bytes_max} bytes"));
    }
    if Some(Stamp::from(&file.metadata().map_err(no)?)) != stamp {
        return Err(format!("{shown} is being changed"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_manifests_that_are_not_hidden_are_looked_at() {
        let place = tempfile::tempdir().expect("a directory");
        for name in ["a.yaml", "b.yml", ".c.yaml", "d.yaml~", "e.txt", "yaml"] {
            fs::write(place.path().join(name), "x").expect("written");
        }
        let look = look_at(place.path(), &BTreeSet::new()).expect("readable");
        let names: Vec<_> = look.keys().map(|path| path.file_name().expect("a name").to_owned()).collect();
        assert_eq!(names, ["a.yaml", "b.yml"]);
        look_at(&place.path().join("none"), &BTreeSet::new()).expect_err("absent");
    }

    #[test]
    fn a_pipe_a_directory_what_is_too_large_and_what_has_changed_are_refused() {
        let place = tempfile::tempdir().expect("a directory");
        let path = |name: &str| place.path().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("made");
        assert!(read(&path("pipe"), None, 10).expect_err("a pipe").contains("is no file"));
        fs::create_dir(path("directory")).expect("made");
        assert!(read(&path("directory"), None, 10).expect_err("a directory").contains("is no file"));
        fs::write(path("a"), "0123456789").expect("written");
        let stamp = stamp_of(&path("a"));
        assert_eq!(read(&path("a"), stamp, 10).expect("readable"), b"0123456789");
        assert!(read(&path("a"), stamp, 9).expect_err("too large").contains("more than 9 bytes"));
        fs::write(path("a"), "012345").expect("written");
        assert!(read(&path("a"), stamp, 10).expect_err("another").contains("is being changed"));
        assert!(read(&path("none"), None, 10).expect_err("absent").contains("cannot be read"));
    }
}
