//! Certificates on disk: `ca.crt`, `ca.key`, `ca.crl`, `node.crt`, `node.key`.
//!
//! A key is never readable by others, not for an instant: it is written to a temporary file that is created
//! with mode 0600, made durable, and only then given its name. The files of one call are checked
//! together before the first is written. An existing file is replaced only on demand, and taking a
//! free name never replaces a file that appeared in the meantime.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use tempfile::NamedTempFile;

use super::{CertError, CertPair, parse_certificates, parse_crls};
use crate::core::limits;

/// The CA's certificate, or several during a rotation: what a node trusts.
pub const CA_CERT: &str = "ca.crt";
/// The CA's private key. Only the machine that issues certificates has it.
pub const CA_KEY: &str = "ca.key";
/// The revocation lists of the CAs, as the CA made them.
pub const CA_CRL: &str = "ca.crl";
/// A node's certificate.
pub const NODE_CERT: &str = "node.crt";
/// A node's private key.
pub const NODE_KEY: &str = "node.key";

const CERT_MODE: u32 = 0o644;
pub(super) const KEY_MODE: u32 = 0o600;
pub(super) const DIR_MODE: u32 = 0o700;

/// What happens to a file that is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the call is refused.
    Keep,
    /// It is replaced, in one step.
    Replace,
}

/// What a node needs to be let into its mesh.
#[derive(Clone, Copy)]
pub struct NodeFiles<'a> {
    /// The CAs it trusts.
    pub ca_pem: &'a str,
    /// Its certificate.
    pub cert_pem: &'a str,
    /// Its key, unless it was made elsewhere and stays there.
    pub key_pem: Option<&'a str>,
}

impl std::fmt::Debug for NodeFiles<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeFiles").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// Writes a CA to `dir` as `ca.crt` and `ca.key`. A directory that has to be made gets mode 0700.
///
/// # Errors
/// [`CertError::Exists`] when a file is in the way and `existing` keeps it, or what the file system says.
pub fn write_ca(dir: &Path, ca: &CertPair, existing: Existing) -> Result<Vec<PathBuf>, CertError> {
    let files = [NewFile::key(CA_KEY, &ca.key_pem), NewFile::certificate(CA_CERT, &ca.cert_pem)];
    write_all(dir, &files, existing)
}

/// Writes a node's files to `dir`: `node.key` (when given), `node.crt` and `ca.crt`. A `ca.crt`
/// with the same content may be there already.
///
/// # Errors
/// As [`write_ca`].
pub fn write_node(dir: &Path, node: &NodeFiles<'_>, existing: Existing) -> Result<Vec<PathBuf>, CertError> {
    let mut files = Vec::new();
    files.extend(node.key_pem.map(|key| NewFile::key(NODE_KEY, key)));
    files.push(NewFile::certificate(NODE_CERT, node.cert_pem));
    let ca_cert = dir.join(CA_CERT);
    if !(ca_cert.exists() && read_text(&ca_cert)? == node.ca_pem) {
        files.push(NewFile::certificate(CA_CERT, node.ca_pem));
    }
    write_all(dir, &files, existing)
}

/// Writes certificates or revocation lists to `path`, in one step.
///
/// # Errors
/// As [`write_ca`].
pub fn write_certificate(path: &Path, text: &str, existing: Existing) -> Result<(), CertError> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        let source = std::io::Error::from(ErrorKind::InvalidFilename);
        return Err(CertError::io("write it")(source).at(path));
    };
    // The parent of a bare name is empty, and means the directory that the process is in.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    write_all(dir, &[NewFile::certificate(name, text)], existing).map(|_| ())
}

/// Whether a node's files could be written to `dir` without replacing any: to know before a certificate is issued.
///
/// # Errors
/// [`CertError::Exists`] for the first that is in the way.
pub fn check_free(dir: &Path, with_key: bool) -> Result<(), CertError> {
    let names: &[&str] = if with_key { &[NODE_KEY, NODE_CERT] } else { &[NODE_CERT] };
    let paths = names.iter().map(|name| dir.join(name));
    match paths.into_iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(CertError::Exists { path }),
        None => Ok(()),
    }
}

/// Writes revocation lists to `dir` as `ca.crl`, in one step; an older one is replaced.
///
/// # Errors
/// What the file system says.
pub fn write_crl(dir: &Path, crl_pem: &str) -> Result<PathBuf, CertError> {
    let paths = write_all(dir, &[NewFile::certificate(CA_CRL, crl_pem)], Existing::Replace)?;
    Ok(paths.into_iter().next().unwrap_or_else(|| dir.join(CA_CRL)))
}

/// Reads a text file of at most [`limits::CERT_FILE_BYTES_MAX`] bytes.
///
/// # Errors
/// [`CertError`] with the path: not there, not readable, too large, not text.
pub fn read_text(path: &Path) -> Result<String, CertError> {
    read_text_up_to(path, limits::CERT_FILE_BYTES_MAX)
}

/// Reads the revocation lists of a file in PEM format, in their order and not verified, at least one.
///
/// # Errors
/// [`CertError`] with the path.
pub fn read_crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, CertError> {
    parse_crls(&read_text_up_to(path, limits::CRL_FILE_BYTES_MAX)?).map_err(|error| error.at(path))
}

fn read_text_up_to(path: &Path, bytes_max: u64) -> Result<String, CertError> {
    let read = || {
        let file = File::open(path).map_err(CertError::io("open it"))?;
        let mut bytes = Vec::new();
        let room = bytes_max + 1;
        let count = file.take(room).read_to_end(&mut bytes).map_err(CertError::io("read it"))?;
        if count as u64 == room {
            return Err(CertError::TooLarge { bytes_max });
        }
        String::from_utf8(bytes).map_err(|_| CertError::malformed("PEM file", "it is not text"))
    };
    read().map_err(|error| error.at(path))
}

/// Reads the certificates of a file in PEM format, in their order, at least one.
///
/// # Errors
/// [`CertError`] with the path.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    parse_certificates(&read_text(path)?).map_err(|error| error.at(path))
}

struct NewFile<'a> {
    name: &'a Path,
    text: &'a str,
    mode: u32,
}

impl<'a> NewFile<'a> {
    fn certificate(name: &'a (impl AsRef<Path> + ?Sized), text: &'a str) -> Self {
        Self { name: name.as_ref(), text, mode: CERT_MODE }
    }

    fn key(name: &'a (impl AsRef<Path> + ?Sized), text: &'a str) -> Self {
        Self { name: name.as_ref(), text, mode: KEY_MODE }
    }
}

fn write_all(dir: &Path, files: &[NewFile<'_>], existing: Existing) -> Result<Vec<PathBuf>, CertError> {
    let paths: Vec<PathBuf> = files.iter().map(|file| dir.join(file.name)).collect();
    if existing == Existing::Keep
        && let Some(path) = paths.iter().find(|path| path.symlink_metadata().is_ok())
    {
        return Err(CertError::Exists { path: path.clone() });
    }
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(dir)
        .map_err(|source| CertError::io("make the directory")(source).at(dir))?;
    let mut staged = Vec::new();
    for (file, path) in files.iter().zip(&paths) {
        let stage = stage(dir, file).map_err(|source| CertError::io("write it")(source).at(path))?;
        staged.push((stage, path.as_path()));
    }
    name_all(staged, existing)?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| CertError::io("make it durable")(source).at(dir))?;
    Ok(paths)
}

fn stage(dir: &Path, file: &NewFile<'_>) -> std::io::Result<NamedTempFile> {
    let mut stage = tempfile::Builder::new()
        .prefix(".shoal-")
        .permissions(Permissions::from_mode(file.mode))
        .tempfile_in(dir)?;
    stage.write_all(file.text.as_bytes())?;
    stage.as_file().sync_all()?;
    Ok(stage)
}

/// Gives the files their names. If one name turns out to be taken, those given before it are taken back.
fn name_all(staged: Vec<(NamedTempFile, &Path)>, existing: Existing) -> Result<(), CertError> {
    let mut named: Vec<&Path> = Vec::new();
    for (stage, path) in staged {
        let outcome = match existing {
            Existing::Keep => stage.persist_noclobber(path),
            Existing::Replace => stage.persist(path),
        };
        let Err(failure) = outcome else {
            named.push(path);
            continue;
        };
        if existing == Existing::Keep {
            for path in named {
                // The first failure is the one to tell; a file that stays behind is refused by the next call.
                let _ = fs::remove_file(path);
            }
        }
        return Err(if failure.error.kind() == ErrorKind::AlreadyExists {
            CertError::Exists { path: path.to_owned() }
        } else {
            CertError::io("write it")(failure.error).at(path)
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ca() -> CertPair {
        CertPair { cert_pem: "certificate".to_owned(), key_pem: "key".to_owned() }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o7777
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("a directory");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_key_is_its_owners_alone_and_so_is_a_new_directory() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("a/b");
        write_ca(&dir, &ca(), Existing::Keep).expect("written");
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join(CA_KEY)), 0o600);
        assert_eq!(names(&dir), [CA_CERT, CA_KEY]);
        let node = NodeFiles { ca_pem: "certificate", cert_pem: "leaf", key_pem: Some("leaf key") };
        write_node(&dir, &node, Existing::Keep).expect("written");
        assert_eq!(mode(&dir.join(NODE_KEY)), 0o600);
        assert_eq!(names(&dir), [CA_CERT, CA_KEY, NODE_CERT, NODE_KEY]);
    }

    #[test]
    fn a_replaced_key_is_private_even_if_the_old_file_was_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = dir.path().join(CA_KEY);
        fs::write(&key, "old").expect("written");
        fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("set");
        write_ca(dir.path(), &ca(), Existing::Replace).expect("written");
        assert_eq!((fs::read_to_string(&key).expect("text").as_str(), mode(&key)), ("key", 0o600));
    }

    #[test]
    fn any_file_in_the_way_refuses_the_call_and_nothing_changes() {
        for name in [CA_KEY, CA_CERT] {
            let dir = tempfile::tempdir().expect("a directory");
            fs::write(dir.path().join(name), "old").expect("written");
            let error = write_ca(dir.path(), &ca(), Existing::Keep).expect_err("in the way");
            assert!(matches!(&error, CertError::Exists { path } if path.ends_with(name)), "{error}");
            assert_eq!(names(dir.path()), [name]);
            assert_eq!(fs::read_to_string(dir.path().join(name)).expect("text"), "old");
        }
    }

    #[test]
    fn a_dangling_link_is_in_the_way_too_and_is_never_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let elsewhere = dir.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, dir.path().join(CA_KEY)).expect("linked");
        assert!(matches!(write_ca(dir.path(), &ca(), Existing::Keep), Err(CertError::Exists { .. })));
        write_ca(dir.path(), &ca(), Existing::Replace).expect("written");
        assert!(!elsewhere.exists());
    }

    #[test]
    fn a_name_that_is_taken_in_the_meantime_is_kept_and_the_others_are_taken_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let (key, cert) = (dir.path().join(CA_KEY), dir.path().join(CA_CERT));
        let stage = |file| stage(dir.path(), &file).expect("staged");
        let staged = vec![
            (stage(NewFile::key(CA_KEY, "key")), key.as_path()),
            (stage(NewFile::certificate(CA_CERT, "certificate")), cert.as_path()),
        ];
        fs::write(&cert, "theirs").expect("written");
        assert!(matches!(name_all(staged, Existing::Keep), Err(CertError::Exists { .. })));
        assert_eq!(names(dir.path()), [CA_CERT]);
        assert_eq!(fs::read_to_string(&cert).expect("text"), "theirs");
    }

    #[test]
    fn the_same_ca_may_be_there_already_and_another_may_not() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(CA_CERT), "certificate").expect("written");
        let node = NodeFiles { ca_pem: "certificate", cert_pem: "leaf", key_pem: None };
        write_node(dir.path(), &node, Existing::Keep).expect("written");
        assert_eq!(names(dir.path()), [CA_CERT, NODE_CERT]);
        fs::remove_file(dir.path().join(NODE_CERT)).expect("removed");
        let other = NodeFiles { ca_pem: "another", ..node };
        assert!(matches!(write_node(dir.path(), &other, Existing::Keep), Err(CertError::Exists { .. })));
    }

    #[test]
    fn a_file_that_is_too_large_or_not_text_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(CA_CERT);
        let most = usize::try_from(limits::CERT_FILE_BYTES_MAX).expect("small");
        fs::write(&path, vec![b'x'; most]).expect("written");
        assert_eq!(read_text(&path).expect("at its bound").len(), most);
        for bytes in [vec![b'x'; most + 1], vec![0xff]] {
            fs::write(&path, bytes).expect("written");
            let error = read_text(&path).expect_err("refused").to_string();
            assert!(error.contains(CA_CERT), "{error}");
        }
        assert!(read_text(&dir.path().join("absent")).expect_err("absent").to_string().contains("absent"));
    }
}
