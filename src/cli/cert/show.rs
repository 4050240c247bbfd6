//! `shoal cert show`: what certificates say, as text for people or JSON for programs.
//!
//! The JSON is a list with one object per certificate, in the order of the file; a directory shows `node.crt`,
//! then `ca.crt`. Keys are never opened.

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
}

pub(super) fn show(path: &Path, output: Output, now: SystemTime) -> Result<String, CertError> {
    let found = find(path)?;
    let cas = possible_issuers(path, &found);
    let mut shown = Vec::new();
    for (file, certificate) in &found {
        shown.push(describe(file, certificate, &cas, now).map_err(|error| error.at(file))?);
    }
    match output {
        Output::Table => Ok(shown.iter().map(table).collect::<Vec<_>>().join("\n")),
        Output::Json => {
            let json = serde_json::to_string_pretty(&shown).expect("strings, numbers and lists are JSON");
            Ok(json + "\n")
        }
    }
}

type Found = Vec<(PathBuf, CertificateDer<'static>)>;

fn find(path: &Path) -> Result<Found, CertError> {
    let files = if path.is_dir() {
        let candidates = [certs::NODE_CERT, certs::CA_CERT].map(|name| path.join(name));
        candidates.into_iter().filter(|file| file.exists()).collect()
    } else {
        vec![path.to_owned()]
    };
    let mut found = Vec::new();
    for file in files {
        found.extend(
            certs::read_certificates(&file)?.into_iter().map(|certificate| (file.clone(), certificate)),
        );
    }
    if found.is_empty() { Err(CertError::NoCertificate.at(path)) } else { Ok(found) }
}

/// The certificates shown, and the CAs beside the file. Those are only an aid, so a `ca.crt` that cannot be read is
/// no reason to show nothing.
fn possible_issuers(path: &Path, found: &Found) -> Vec<CertificateDer<'static>> {
    let mut cas: Vec<_> = found.iter().map(|(_, certificate)| certificate.clone()).collect();
    if !path.is_dir() {
        cas.extend(certs::read_certificates(&path.with_file_name(certs::CA_CERT)).unwrap_or_default());
    }
    cas
}

fn describe(
    file: &Path,
    certificate: &CertificateDer<'_>,
    cas: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<Shown, CertError> {
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
    })
}

fn table(shown: &Shown) -> String {
    let days_left = if shown.days_left < 0 { "expired".to_owned() } else { shown.days_left.to_string() };
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
    ];
    let mut text = format!("{}\n", shown.file);
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
