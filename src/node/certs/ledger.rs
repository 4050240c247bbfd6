//! What a CA has issued and revoked: `ledger.jsonl` in its directory, one JSON object a line, mode 0600.
//!
//! Lines are only ever added, under a lock that one program holds at a time, and each is durable before what it
//! tells is acted on: a certificate that nobody wrote down was never handed out. The last line may be
//! torn, by a crash or a full disk; it is left out with a warning and overwritten by the next. Any other line that
//! cannot be read stops the CA: a token that was used may be told in it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{CertError, Facts, Serial, files};
use crate::core::ids::NodeId;
use crate::core::limits;

/// The file of the ledger, in the directory of the CA.
pub const LEDGER: &str = "ledger.jsonl";

/// How often a lock that another program has is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// What led to a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// `shoal cert issue`.
    Issue,
    /// A join token.
    Token,
    /// A present certificate of the same node.
    Renewal,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// When it was issued.
    #[serde(with = "rfc3339")]
    pub at: SystemTime,
    /// Its serial number, as [`Serial`] writes it.
    pub serial: String,
    /// The node that it names.
    pub node_id: NodeId,
    /// The first second at which it is valid.
    #[serde(with = "rfc3339")]
    pub not_before: SystemTime,
    /// The last second at which it is valid.
    #[serde(with = "rfc3339")]
    pub not_after: SystemTime,
    /// SHA-256 of the certificate, as [`Facts::fingerprint`] writes it.
    pub fingerprint: String,
    /// What led to it.
    pub way: Way,
    /// The token that was used, by its nonce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// SHA-256 of the public key, where a token was used: that token is good for this key alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl Issued {
    /// The entry for a certificate in DER format.
    ///
    /// # Errors
    /// [`CertError::Malformed`] when the certificate cannot be read.
    pub fn of(certificate: &[u8], node_id: NodeId, way: Way, at: SystemTime) -> Result<Self, CertError> {
        let facts = Facts::read(certificate)?;
        Ok(Self {
            at,
            serial: Serial::of(certificate)?.to_string(),
            node_id,
            not_before: facts.not_before,
            not_after: facts.not_after,
            fingerprint: facts.fingerprint,
            way,
            token: None,
            key: None,
        })
    }
}

/// The revocation of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// When it was revoked.
    #[serde(with = "rfc3339")]
    pub at: SystemTime,
    /// Its serial number.
    pub serial: String,
    /// Why, in the words of RFC 5280.
    pub reason: String,
    /// The node that the certificate names, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// The last second at which the certificate would have been valid, where that is known.
    #[serde(default, with = "rfc3339::maybe", skip_serializing_if = "Option::is_none")]
    pub not_after: Option<SystemTime>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Entry {
    /// A certificate was issued.
    Issued(Issued),
    /// A certificate was revoked.
    Revoked(Revocation),
}

/// What a ledger says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Its lines, oldest first.
    pub entries: Vec<Entry>,
}

impl Ledger {
    /// Reads the ledger of the CA in `dir`; one that does not exist yet is empty.
    ///
    /// # Errors
    /// [`CertError`] with the file: it cannot be read, is too large, or a line but the last is not understood.
    pub fn read(dir: &Path) -> Result<Self, CertError> {
        let path = dir.join(LEDGER);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(CertError::io("open it")(source).at(path)),
        };
        Ok(read_from(&mut file).map_err(|error| error.at(&path))?.0)
    }

    /// The certificates that it tells of, oldest first.
    pub fn issued(&self) -> impl DoubleEndedIterator<Item = &Issued> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Issued(issued) => Some(issued),
            Entry::Revoked(_) => None,
        })
    }

    /// The revocations that it tells of, oldest first.
    pub fn revocations(&self) -> impl Iterator<Item = &Revocation> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Revoked(revoked) => Some(revoked),
            Entry::Issued(_) => None,
        })
    }

    /// The revocation of the certificate with that serial number.
    #[must_use]
    pub fn revocation(&self, serial: &str) -> Option<&Revocation> {
        self.revocations().find(|revoked| revoked.serial == serial)
    }

    /// The certificates of a node that have neither expired nor been revoked at `now`.
    pub fn good(&self, node: &NodeId, now: SystemTime) -> impl Iterator<Item = &Issued> {
        self.issued().filter(move |issued| {
            issued.node_id == *node && issued.not_after >= now && self.revocation(&issued.serial).is_none()
        })
    }
}

/// A ledger that nobody else writes to.
#[derive(Debug)]
pub struct OpenLedger {
    file: File,
    path: PathBuf,
    /// Bytes up to the end of the last whole line.
    end: u64,
    said: Ledger,
}

impl OpenLedger {
    /// Opens the ledger of the CA in `dir`, made if it does not exist, for this program alone. It waits for another
    /// one up to [`limits::LEDGER_LOCK_WAIT_MAX`], so it is not for a thread that serves others.
    ///
    /// # Errors
    /// As [`Ledger::read`]; [`CertError::Locked`] when the wait was too long.
    pub fn open(dir: &Path) -> Result<Self, CertError> {
        let path = dir.join(LEDGER);
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(files::KEY_MODE);
            let mut file = options.open(&path).map_err(CertError::io("open it"))?;
            lock(&file)?;
            let (said, end) = read_from(&mut file)?;
            Ok((file, said, end))
        };
        let (file, said, end) = open().map_err(|error: CertError| error.at(&path))?;
        Ok(Self { file, path, end, said })
    }

    /// What it says.
    #[must_use]
    pub fn said(&self) -> &Ledger {
        &self.said
    }

    /// Adds a line. When this returns it is on disk.
    ///
    /// # Errors
    /// [`CertError`] with the file; then nothing was added.
    pub fn add(&mut self, entry: Entry) -> Result<(), CertError> {
        let mut line = serde_json::to_vec(&entry).map_err(|why| CertError::malformed("entry", why))?;
        line.push(b'\n');
        if line.len() > limits::LEDGER_LINE_BYTES_MAX {
            return Err(CertError::malformed("entry", "it is too long for the ledger").at(&self.path));
        }
        if self.end + line.len() as u64 > limits::LEDGER_BYTES_MAX {
            return Err(CertError::LedgerFull.at(&self.path));
        }
        let mut write = || {
            // Also away with what was torn.
            self.file.set_len(self.end)?;
            self.file.seek(SeekFrom::Start(self.end))?;
            self.file.write_all(&line)?;
            self.file.sync_all()?;
            // The file may be new.
            if self.end == 0 {
                File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
            } else {
                Ok(())
            }
        };
        if let Err(source) = write() {
            // A part of a line would be overwritten by the next; this only keeps the file tidy until then.
            let _ = self.file.set_len(self.end);
            return Err(CertError::io("write it")(source).at(&self.path));
        }
        self.end += line.len() as u64;
        self.said.entries.push(entry);
        Ok(())
    }
}

fn lock(file: &File) -> Result<(), CertError> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if begun.elapsed() < limits::LEDGER_LOCK_WAIT_MAX => {
                std::thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => return Err(CertError::Locked),
            Err(TryLockError::Error(source)) => return Err(CertError::io("lock it")(source)),
        }
    }
}

/// The whole lines, and where the last of them ends.
fn read_from(file: &mut File) -> Result<(Ledger, u64), CertError> {
    let mut bytes = Vec::new();
    let room = limits::LEDGER_BYTES_MAX + 1;
    file.take(room).read_to_end(&mut bytes).map_err(CertError::io("read it"))?;
    if bytes.len() as u64 == room {
        return Err(CertError::LedgerFull);
    }
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (whole, torn) = bytes.split_at(end);
    if !torn.is_empty() {
        tracing::warn!(bytes = torn.len(), "the last line of the CA's ledger is torn and left out");
    }
    let mut said = Ledger::default();
    for (line, no) in whole.split_inclusive(|byte| *byte == b'\n').zip(1_u64..) {
        if line.len() > limits::LEDGER_LINE_BYTES_MAX {
            return Err(CertError::LedgerLine { no, why: "it is too long".to_owned() });
        }
        let entry =
            serde_json::from_slice(line).map_err(|why| CertError::LedgerLine { no, why: why.to_string() })?;
        said.entries.push(entry);
    }
    Ok((said, end as u64))
}

/// Times in the file: RFC 3339, UTC, whole seconds.
mod rfc3339 {
    use serde::{Deserializer, Serializer, de, ser};

    use super::*;

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        let time = OffsetDateTime::from(*time);
        let text = time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339);
        to.serialize_str(&text.map_err(ser::Error::custom)?)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        OffsetDateTime::parse(&text, &Rfc3339).map(SystemTime::from).map_err(de::Error::custom)
    }

    /// The same where a time need not be known.
    pub(super) mod maybe {
        use super::*;

        pub(in super::super) fn serialize<S: Serializer>(
            time: &Option<SystemTime>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, to),
                None => to.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'d, D: Deserializer<'d>>(
            from: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            super::deserialize(from).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn issued(no: u32, node: &str) -> Entry {
        Entry::Issued(Issued {
            at: now(),
            serial: format!("{no:02x}"),
            node_id: NodeId::new(node).expect("valid"),
            not_before: now(),
            not_after: now() + Duration::from_secs(86_400),
            fingerprint: "AA:BB".to_owned(),
            way: Way::Issue,
            token: None,
            key: None,
        })
    }

    fn revoked(serial: &str) -> Entry {
        Entry::Revoked(Revocation {
            at: now(),
            serial: serial.to_owned(),
            reason: "unspecified".to_owned(),
            node_id: None,
            not_after: None,
        })
    }

    #[test]
    fn what_is_written_is_read_back_by_everyone_and_only_its_owner_may() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Ledger::read(dir.path()).expect("none yet"), Ledger::default());
        let entries = [issued(1, "a"), issued(2, "a"), issued(3, "b"), revoked("01")];
        let mut open = OpenLedger::open(dir.path()).expect("opened");
        entries.iter().for_each(|entry| open.add(entry.clone()).expect("added"));
        let said = Ledger::read(dir.path()).expect("read");
        assert_eq!((&said.entries[..], &said), (&entries[..], open.said()));
        let node = NodeId::new("a").expect("valid");
        let serials = |at| said.good(&node, at).map(|one| one.serial.as_str()).collect::<Vec<_>>();
        assert_eq!(serials(now()), ["02"]);
        assert!(serials(now() + Duration::from_secs(86_401)).is_empty(), "expired");
        let mode = fs::metadata(dir.path().join(LEDGER)).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(LEDGER);
        OpenLedger::open(dir.path()).expect("opened").add(issued(1, "a")).expect("added");
        let whole = fs::read(&path).expect("read");
        for torn in ["{\"what\":\"iss", "\u{0}\u{0}\u{0}", "x"] {
            fs::write(&path, [&whole, torn.as_bytes()].concat()).expect("written");
            assert_eq!(Ledger::read(dir.path()).expect("read").entries, [issued(1, "a")]);
            OpenLedger::open(dir.path()).expect("opened").add(issued(2, "b")).expect("added");
            let said = Ledger::read(dir.path()).expect("read");
            assert_eq!(said.entries, [issued(1, "a"), issued(2, "b")]);
        }
    }

    #[test]
    fn a_line_in_the_middle_that_is_not_understood_stops_the_ca_with_its_number() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(LEDGER);
        let long = format!("{}\n", "x".repeat(limits::LEDGER_LINE_BYTES_MAX));
        for bad in ["junk\n", "{\"what\":\"forgot\"}\n", "{}\n", "\n", long.as_str()] {
            fs::write(&path, "").expect("written");
            OpenLedger::open(dir.path()).expect("opened").add(issued(1, "a")).expect("added");
            let text = fs::read_to_string(&path).expect("read");
            fs::write(&path, format!("{text}{bad}{text}")).expect("written");
            let error = OpenLedger::open(dir.path()).expect_err("not understood").to_string();
            assert!(error.contains("line 2") && error.contains(LEDGER), "{error}");
        }
    }

    #[test]
    fn writers_at_the_same_time_wait_for_each_other_and_lose_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let dir = dir.path();
                scope.spawn(move || {
                    for no in 0..5 {
                        let mut open = OpenLedger::open(dir).expect("opened");
                        open.add(issued(writer * 10 + no, "a")).expect("added");
                    }
                });
            }
        });
        assert_eq!(Ledger::read(dir.path()).expect("read").entries.len(), 20);
    }

    #[test]
    fn an_entry_that_is_too_long_is_not_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut open = OpenLedger::open(dir.path()).expect("opened");
        let long = revoked(&"0".repeat(limits::LEDGER_LINE_BYTES_MAX));
        assert!(open.add(long).expect_err("too long").to_string().contains("too long"));
        assert_eq!(fs::metadata(dir.path().join(LEDGER)).expect("there").len(), 0);
    }
}
