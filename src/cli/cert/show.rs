//! `shoal cert show`: what certificates, revocation lists and a CA's ledger say, as text for people or JSON for programs.
//!
//! The JSON is a list of objects, told apart by `kind`: the certificates in the order of the file, then the lists
//! (`crl`), then what the ledger says was issued (`issued`). A directory shows `node.crt`, `ca.crt`, `ca.crl` and
//! `ledger.jsonl`, as far as they are there. Keys are never opened.

mod more;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use serde::Serialize;

use super::date;
use crate::cli::Output;
use crate::core::ids::{MeshName, NodeId};
use crate::node::certs::{self, CertError, Facts, SpiffeName};

/// One certificate, as it is shown. The names of the fields are those of the JSON.
#[derive(Debug, Serialize)]
struct Shown {
    /// The file that it is in.
    file: String,
    /// `ca`, `node`, or `other` for a certificate that no node would accept by its name.
    kind: &'static str,
    /// The mesh that it names, or null.
    mesh: Option<MeshName>,
    /// The node that it names, or null.
    node_id: Option<NodeId>,
    /// Distinguished name.
    subject: String,
    /// Distinguished name of the signer.
    issuer: String,
    /// Hexadecimal bytes, separated by colons.
    serial: String,
    /// RFC 3339, UTC.
    not_before: String,
    /// RFC 3339, UTC.
    not_after: String,
    /// Whole days until it expires, rounded down; negative once it has.
    days_left: i64,
    /// SHA-256 of the certificate.
    fingerprint: String,
    /// SHA-256 of the certificate of the CA that signed it; null unless that CA is in the same
    /// file or in the `ca.crt` beside it.
    issuer_fingerprint: Option<String>,
    /// What the key may be used for, the extended key usages included.
    key_usages: Vec<String>,
    dns_names: Vec<String>,
    ip_addresses: Vec<String>,
    /// Whether a revocation list or ledger beside it, or in the directory given, says that it is revoked; null where
    /// there is none.
    revoked: Option<bool>,
}

/// One object of the JSON.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Item {
    Certificate(Box<Shown>),
    Crl(more::ShownCrl),
    Issued(more::ShownIssued),
}

pub(super) fn show(
    path: &Path,
    ca: Option<&Path>,
    output: Output,
    now: SystemTime,
) -> Result<String, CertError> {
    let found = find(path)?;
    let cas = possible_issuers(path, ca, &found.certificates);
    let known = more::Known::read(path, ca, &cas)?;
    let mut shown = Vec::new();
    for (file, certificate) in &found.certificates {
        let one = describe(file, certificate, &cas, &known, now).map_err(|error| error.at(file))?;
        shown.push(Item::Certificate(Box::new(one)));
    }
    for file in &found.lists {
        shown.extend(more::lists(file, &cas, now)?.into_iter().map(Item::Crl));
    }
    if path.is_dir() {
        shown.extend(more::issued(path, now)?.into_iter().map(Item::Issued));
    }
    if shown.is_empty() {
        return Err(CertError::NoCertificate.at(path));
    }
    match output {
        Output::Table => Ok(tables(&shown)),
        Output::Json => {
            let json = serde_json::to_string_pretty(&shown).expect("strings, numbers and lists are JSON");
            Ok(json + "\n")
        }
    }
}

fn tables(shown: &[Item]) -> String {
    let mut tables = Vec::new();
    let mut issued = Vec::new();
    for item in shown {
        match item {
            Item::Certificate(one) => tables.push(table(one)),
            Item::Crl(list) => tables.push(more::crl_table(list)),
            Item::Issued(one) => issued.push(one),
        }
    }
    tables.extend(more::issued_table(&issued));
    tables.join("\n")
}

/// What there is to show.
#[derive(Debug, Default)]
struct Found {
    certificates: Vec<(PathBuf, CertificateDer<'static>)>,
    lists: Vec<PathBuf>,
}

fn find(path: &Path) -> Result<Found, CertError> {
    let mut found = Found::default();
    let files = if path.is_dir() {
        let is_there = |name: &&str| path.join(name).exists();
        if is_there(&certs::CA_CRL) {
            found.lists.push(path.join(certs::CA_CRL));
        }
        [certs::NODE_CERT, certs::CA_CERT].into_iter().filter(is_there).map(|name| path.join(name)).collect()
    } else if certs::read_crls(path).is_ok() {
        found.lists.push(path.to_owned());
        Vec::new()
    } else {
        vec![path.to_owned()]
    };
    for file in files {
        let certificates = certs::read_certificates(&file)?;
        found.certificates.extend(certificates.into_iter().map(|certificate| (file.clone(), certificate)));
    }
    Ok(found)
}

/// The certificates shown, and the CAs beside the file. Those are only an aid, so a `ca.crt` that cannot be read is
/// no reason to show nothing.
fn possible_issuers(
    path: &Path,
    ca: Option<&Path>,
    found: &[(PathBuf, CertificateDer<'static>)],
) -> Vec<CertificateDer<'static>> {
    let mut cas: Vec<_> = found.iter().map(|(_, certificate)| certificate.clone()).collect();
    let beside = (!path.is_dir()).then(|| path.with_file_name(certs::CA_CERT));
    for file in beside.into_iter().chain(ca.map(|dir| dir.join(certs::CA_CERT))) {
        cas.extend(certs::read_certificates(&file).unwrap_or_default());
    }
    cas
}

fn describe(
    file: &Path,
    certificate: &CertificateDer<'_>,
    cas: &[CertificateDer<'static>],
    known: &more::Known,
    now: SystemTime,
) -> Result<Shown, CertError> {
    let revoked = known.is_revoked(certificate)?;
    let facts = Facts::read(certificate)?;
    let days_left = facts.days_left(now);
    let (kind, mesh, node_id) = match SpiffeName::from_uris(&facts.uris) {
        Ok(SpiffeName::Mesh(mesh)) if facts.is_ca => ("ca", Some(mesh), None),
        Ok(SpiffeName::Node(mesh, node)) if !facts.is_ca => ("node", Some(mesh), Some(node)),
        Ok(_) | Err(_) => ("other", None, None),
    };
    let issuer = cas.iter().find(|ca| certs::is_signed_by(certificate, ca));
    let key_usages =
        facts.key_usages.into_iter().flatten().map(str::to_owned).chain(facts.extended_key_usages);
    Ok(Shown {
        file: file.display().to_string(),
        kind,
        mesh,
        node_id,
        subject: facts.subject,
        issuer: facts.issuer,
        serial: facts.serial,
        not_before: date(facts.not_before),
        not_after: date(facts.not_after),
        days_left,
        fingerprint: facts.fingerprint,
        issuer_fingerprint: issuer.map(|ca| Facts::read(ca)).transpose()?.map(|ca| ca.fingerprint),
        key_usages: key_usages.collect(),
        dns_names: facts.dns_names,
        ip_addresses: facts.ip_addresses.iter().map(ToString::to_string).collect(),
        revoked,
    })
}

fn table(shown: &Shown) -> String {
    let days_left = days_left(shown.days_left);
    let rows = [
        ("kind", shown.kind.to_owned()),
        ("mesh", or_dash(shown.mesh.as_ref())),
        ("node id", or_dash(shown.node_id.as_ref())),
        ("subject", shown.subject.clone()),
        ("issuer", shown.issuer.clone()),
        ("serial", shown.serial.clone()),
        ("not before", shown.not_before.clone()),
        ("not after", shown.not_after.clone()),
        ("days left", days_left),
        ("SHA-256", shown.fingerprint.clone()),
        ("issuer SHA-256", or_dash(shown.issuer_fingerprint.as_ref())),
        ("key usages", listed(&shown.key_usages)),
        ("DNS names", listed(&shown.dns_names)),
        ("IP addresses", listed(&shown.ip_addresses)),
        ("revoked", shown.revoked.map_or("-", |revoked| if revoked { "yes" } else { "no" }).to_owned()),
    ];
    lines(&shown.file, &rows)
}

fn days_left(days: i64) -> String {
    if days < 0 { "expired".to_owned() } else { days.to_string() }
}

fn lines(file: &str, rows: &[(&str, String)]) -> String {
    let mut text = format!("{file}\n");
    for (name, value) in rows {
        // A certificate from elsewhere may hold what a terminal would obey.
        let value = value.replace(char::is_control, "\u{fffd}");
        writeln!(text, "  {name:<14}  {value}").expect("a String takes all text");
    }
    text
}

fn or_dash(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn listed(values: &[String]) -> String {
    if values.is_empty() { "-".to_owned() } else { values.join(", ") }
}
