//! What `shoal cert show` shows besides certificates: revocation lists, what a ledger says was issued, and
//! whether a certificate is revoked.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use serde::Serialize;

use super::{date, days_left, lines, listed, or_dash};
use crate::cli::print::Table;
use crate::core::ids::{CaKeyId, NodeId};
use crate::node::certs::{self, CA_CRL, CertError, Crl, Facts, LEDGER, Ledger, Serial, Way};

/// A revocation list.
#[derive(Debug, Serialize)]
pub(super) struct ShownCrl {
    file: String,
    /// `crl`.
    kind: &'static str,
    /// SHA-256 of the certificate of the CA that signed it.
    issuer_fingerprint: Option<String>,
    /// The higher of two is the newer.
    number: u64,
    this_update: String,
    next_update: String,
    /// Whole days until the next one is due; negative once it is.
    days_left: i64,
    /// Serial numbers of what is revoked.
    serials: Vec<String>,
}

/// A certificate that a ledger tells of.
#[derive(Debug, Serialize)]
pub(super) struct ShownIssued {
    file: String,
    /// `issued`.
    kind: &'static str,
    node_id: NodeId,
    serial: String,
    not_before: String,
    not_after: String,
    days_left: i64,
    fingerprint: String,
    issued_at: String,
    /// `issue`, `token` or `renewal`.
    way: Way,
    /// When and why it was revoked, or null.
    revoked_at: Option<String>,
    revoked_reason: Option<String>,
}

/// Lists and ledgers that may tell of a revocation.
#[derive(Debug, Default)]
pub(super) struct Known {
    lists: Vec<Crl>,
    ledgers: Vec<Ledger>,
}

impl Known {
    /// What is beside `path`, and in the directory of the CA.
    pub(super) fn read(
        path: &Path,
        ca: Option<&Path>,
        cas: &[CertificateDer<'static>],
    ) -> Result<Self, CertError> {
        let beside = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let mut known = Self::default();
        for dir in std::iter::once(beside).chain(ca) {
            // A list of a CA that is not here says nothing about the certificates that are.
            known.lists.extend(read_lists(&dir.join(CA_CRL), cas).unwrap_or_default());
            if dir.join(LEDGER).exists() {
                known.ledgers.push(Ledger::read(dir)?);
            }
        }
        Ok(known)
    }

    /// `None` where neither a list of its CA nor a ledger is known.
    pub(super) fn is_revoked(&self, certificate: &CertificateDer<'_>) -> Result<Option<bool>, CertError> {
        if Facts::read(certificate)?.is_ca || (self.lists.is_empty() && self.ledgers.is_empty()) {
            return Ok(None);
        }
        let serial = Serial::of(certificate)?;
        let text = serial.to_string();
        let listed = self.lists.iter().any(|list| list.lists(&serial));
        Ok(Some(listed || self.ledgers.iter().any(|ledger| ledger.revocation(&text).is_some())))
    }
}

fn read_lists(path: &Path, cas: &[CertificateDer<'static>]) -> Result<Vec<Crl>, CertError> {
    let lists = certs::read_crls(path)?;
    lists.iter().map(|list| Crl::read(list, cas).map_err(|error| error.at(path))).collect()
}

pub(super) fn lists(
    path: &Path,
    cas: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<Vec<ShownCrl>, CertError> {
    let mut shown = Vec::new();
    for list in read_lists(path, cas)? {
        let issuer = cas.iter().find(|ca| CaKeyId::of(ca).is_ok_and(|id| id == list.issuer));
        shown.push(ShownCrl {
            file: path.display().to_string(),
            kind: "crl",
            issuer_fingerprint: issuer.map(|ca| Facts::read(ca)).transpose()?.map(|ca| ca.fingerprint),
            number: list.number,
            this_update: date(list.this_update),
            next_update: date(list.next_update),
            days_left: days_until(list.next_update, now),
            serials: list.serials().iter().map(ToString::to_string).collect(),
        });
    }
    Ok(shown)
}

pub(super) fn issued(dir: &Path, now: SystemTime) -> Result<Vec<ShownIssued>, CertError> {
    let ledger = Ledger::read(dir)?;
    let file = dir.join(LEDGER).display().to_string();
    let show = |one: &certs::Issued| {
        let revocation = ledger.revocation(&one.serial);
        ShownIssued {
            file: file.clone(),
            kind: "issued",
            node_id: one.node_id.clone(),
            serial: one.serial.clone(),
            not_before: date(one.not_before),
            not_after: date(one.not_after),
            days_left: days_until(one.not_after, now),
            fingerprint: one.fingerprint.clone(),
            issued_at: date(one.at),
            way: one.way,
            revoked_at: revocation.map(|revoked| date(revoked.at)),
            revoked_reason: revocation.map(|revoked| revoked.reason.clone()),
        }
    };
    Ok(ledger.issued().map(show).collect())
}

pub(super) fn crl_table(shown: &ShownCrl) -> String {
    let rows = [
        ("kind", shown.kind.to_owned()),
        ("issuer SHA-256", or_dash(shown.issuer_fingerprint.as_ref())),
        ("number", shown.number.to_string()),
        ("this update", shown.this_update.clone()),
        ("next update", shown.next_update.clone()),
        ("days left", days_left(shown.days_left)),
        ("revoked", listed(&shown.serials)),
    ];
    lines(&shown.file, &rows)
}

/// All that a ledger tells of, a line each; nothing for none.
pub(super) fn issued_table(issued: &[&ShownIssued]) -> Option<String> {
    let first = issued.first()?;
    let mut table = Table::new(&["NODE-ID", "SERIAL", "NOT-AFTER", "DAYS-LEFT", "WAY", "REVOKED"]);
    for one in issued {
        let revoked = one.revoked_at.as_deref().zip(one.revoked_reason.as_deref());
        table.row([
            one.node_id.to_string(),
            one.serial.clone(),
            one.not_after.clone(),
            days_left(one.days_left),
            match one.way {
                Way::Issue => "issue",
                Way::Token => "token",
                Way::Renewal => "renewal",
            }
            .to_owned(),
            revoked.map_or("-".to_owned(), |(at, reason)| format!("{at} ({reason})")),
        ]);
    }
    Some(format!("{}\n{}", first.file, table.text()))
}

/// Whole days, rounded down.
fn days_until(end: SystemTime, now: SystemTime) -> i64 {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let left = match end.duration_since(now) {
        Ok(left) => seconds(left),
        Err(past) => -seconds(past.duration()) - 1,
    };
    left.div_euclid(86_400)
}
