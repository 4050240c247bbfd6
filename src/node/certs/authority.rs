//! The directory of a CA: what it signs is written into its ledger first, and what it revokes goes into its list.
//!
//! `ca.crt` and `ca.key` sign, `ledger.jsonl` remembers, `ca.crl` is the list of revoked certificates as the nodes
//! take it. Each call reads the files anew, so that a replaced CA is used at once and no key is held longer than
//! needed; the lock on the ledger keeps two calls apart, in one program or in two.
//!
//! Whether a machine that wants a certificate may have it is decided here; who it is that asks, and how, is for
//! [`crate::node::transport::join`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::token::ShownToken;
use super::{
    CA_CRL, Ca, CertError, Claims, Crl, Entry, Facts, Issued, Ledger, OpenLedger, Revocation, Revoked,
    Serial, SpiffeName, Validity, Way, issue, issue_for_request, key, make_crl, parse_certificates,
    read_crls, write_crl,
};
use crate::core::ids::{MeshName, NodeId};
use crate::core::limits;

/// How long a list of revoked certificates says that it is the newest. It applies longer.
const CRL_DAYS: u32 = 90;

/// A CA with its ledger.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

/// What a machine that wants a certificate brings.
#[derive(Debug)]
pub struct JoinAsk<'a> {
    /// The token.
    pub token: &'a ShownToken,
    /// The name that it wants.
    pub node_id: &'a NodeId,
    /// The request for its key (PKCS#10, PEM).
    pub request_pem: &'a str,
    /// The text that it had to sign with the token's secret.
    pub message: &'a [u8],
    /// That signature.
    pub proof: &'a [u8],
}

/// What it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Its certificate.
    pub cert_pem: String,
    /// The CAs to trust.
    pub ca_pem: String,
    /// The lists of revoked certificates, where there are any.
    pub crl_pem: Option<String>,
}

/// Why it gets nothing. Nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum JoinRefused {
    /// The token is another mesh's.
    #[error("the token is for mesh {theirs}, this is mesh {ours}")]
    OtherMesh {
        /// In the token.
        theirs: MeshName,
        /// Of the CA.
        ours: MeshName,
    },
    /// The CA has not signed the token.
    #[error(
        "the token was not made by the CA of this node, or was changed since: make one with `shoal cert token`"
    )]
    NotOurs,
    /// The joiner does not have the token's secret.
    #[error("the request is not signed with the secret of its token")]
    NotProven,
    /// The token is past its time.
    #[error("the token expired {seconds} s ago: make a new one with `shoal cert token`")]
    Expired {
        /// How long ago.
        seconds: u64,
    },
    /// The token is for another name.
    #[error("the token is for node {token}, and the request for node {wanted}: make one for that name")]
    OtherName {
        /// In the token.
        token: NodeId,
        /// Asked for.
        wanted: NodeId,
    },
    /// Another key got a certificate for it.
    #[error("the token has been used already: make a new one with `shoal cert token`")]
    Used,
    /// The present certificate does not belong to this CA.
    #[error("the present certificate was not signed by the CA of this node")]
    OtherCa,
    /// The present certificate was revoked.
    #[error("the present certificate has been revoked")]
    Revoked,
    /// The node has too many certificates.
    #[error(
        "node {node} has {} certificates that are good: revoke some with `shoal cert revoke`",
        limits::CERTS_PER_NODE_MAX
    )]
    TooMany {
        /// Whose.
        node: NodeId,
    },
    /// The request or the CA.
    #[error(transparent)]
    Cert(#[from] CertError),
}

impl JoinRefused {
    /// Whether another node of the mesh would say the same.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Expired { .. }
            | Self::OtherName { .. }
            | Self::Used
            | Self::Revoked
            | Self::TooMany { .. } => true,
            Self::OtherMesh { .. } | Self::NotOurs | Self::NotProven | Self::OtherCa | Self::Cert(_) => false,
        }
    }
}

/// Who renews a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewing {
    /// Somebody who has the CA, for as many days or as before.
    Operator {
        /// How long.
        days: Option<u32>,
    },
    /// The node itself, for as many days as before and not without end.
    Node,
}

/// Which certificates to revoke.
#[derive(Debug)]
pub enum Which {
    /// All of a node that are good.
    Node(NodeId),
    /// The one with that number.
    Serial(Serial),
    /// This one, in DER format.
    Certificate(CertificateDer<'static>),
}

/// What was revoked.
#[derive(Debug)]
pub struct Revoking {
    /// Now.
    pub newly: Vec<Revocation>,
    /// Before.
    pub already: Vec<Revocation>,
    /// The CA's lists, as they are in its directory.
    pub crl_pem: String,
    /// The number of its own.
    pub number: u64,
}

impl Authority {
    /// The CA in `dir`; its files are read and checked.
    ///
    /// # Errors
    /// [`CertError`], with the file it is about.
    pub fn open(dir: &Path) -> Result<Self, CertError> {
        let authority = Self { dir: dir.to_owned() };
        authority.ca()?;
        Ledger::read(dir)?;
        Ok(authority)
    }

    /// The CA as its files are now.
    ///
    /// # Errors
    /// [`CertError`], with the file it is about.
    pub fn ca(&self) -> Result<Ca, CertError> {
        Ca::load(&self.dir)
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Issues a certificate for a new key, or for that of a signing request: the certificate and the new key, if one
    /// was made. It waits for the disk and for other programs that use the CA, as the other calls do.
    ///
    /// # Errors
    /// [`CertError`]; then nothing was issued.
    pub fn issue(
        &self,
        node: &NodeId,
        request_pem: Option<&str>,
        hosts: &Hosts,
        validity: Validity,
        now: SystemTime,
    ) -> Result<(String, Option<String>), CertError> {
        let ca = self.ca()?;
        let mut ledger = OpenLedger::open(&self.dir)?;
        let (cert_pem, key_pem) = certify(&ca, node, request_pem, hosts, validity)?;
        ledger.add(Entry::Issued(Issued::of(&leaf(&cert_pem)?, node.clone(), Way::Issue, now)?))?;
        Ok((cert_pem, key_pem))
    }

    /// Issues a certificate in place of `present` (DER format): same name, same hosts, and as many days as it was
    /// given unless an operator says otherwise, but no more than the CA has left.
    ///
    /// # Errors
    /// [`JoinRefused`]; then nothing was issued.
    pub fn renew(
        &self,
        present: &[u8],
        request_pem: &str,
        by: Renewing,
        now: SystemTime,
    ) -> Result<Granted, JoinRefused> {
        let ca = self.ca()?;
        let facts = Facts::read(present)?;
        let (mesh, node) =
            SpiffeName::from_uris(&facts.uris).and_then(SpiffeName::into_node).map_err(CertError::from)?;
        let signed_here = parse_certificates(ca.bundle_pem())?
            .iter()
            .any(|certificate| super::is_signed_by(present, certificate));
        if mesh != *ca.mesh() || !signed_here {
            return Err(JoinRefused::OtherCa);
        }
        let mut ledger = OpenLedger::open(&self.dir)?;
        let serial = Serial::of(present)?;
        if ledger.said().revocation(&serial.to_string()).is_some() || self.lists(&ca, &serial)? {
            return Err(JoinRefused::Revoked);
        }
        let days = match by {
            Renewing::Operator { days } => days,
            Renewing::Node => {
                has_room(ledger.said(), &node, now)?;
                None
            }
        };
        let hosts = Hosts { dns: facts.dns_names.clone(), ip: facts.ip_addresses.clone() };
        let validity = Validity::starting(now, days.unwrap_or_else(|| days_of(&facts, &ca, now)))?;
        let cert_pem = issue_for_request(&ca, &node, request_pem, &hosts.dns, &hosts.ip, validity)?;
        ledger.add(Entry::Issued(Issued::of(&leaf(&cert_pem)?, node, Way::Renewal, now)?))?;
        self.granted(&ca, cert_pem)
    }

    /// Issues a certificate for a token. A joiner that lost the answer may ask again for the same key.
    ///
    /// # Errors
    /// [`JoinRefused`]; then nothing was issued and the token is as good as before.
    pub fn join(&self, ask: &JoinAsk<'_>, now: SystemTime) -> Result<Granted, JoinRefused> {
        let ca = self.ca()?;
        let claims = check_token(&ca, ask, now)?;
        let key = key::digest_of(&super::issue::requested_key(ask.request_pem)?);
        let mut ledger = OpenLedger::open(&self.dir)?;
        let used = ledger.said().issued().find(|issued| issued.token.as_ref() == Some(&claims.nonce));
        if let Some(used) = used {
            if used.key.as_ref() != Some(&key) {
                return Err(JoinRefused::Used);
            }
            if ledger.said().revocation(&used.serial).is_some() {
                return Err(JoinRefused::Revoked);
            }
        }
        has_room(ledger.said(), &claims.node_id, now)?;
        let validity = Validity::starting(now, claims.days)?;
        let cert_pem = issue_for_request(&ca, &claims.node_id, ask.request_pem, &[], &[], validity)?;
        let mut issued = Issued::of(&leaf(&cert_pem)?, claims.node_id, Way::Token, now)?;
        (issued.token, issued.key) = (Some(claims.nonce), Some(key));
        ledger.add(Entry::Issued(issued))?;
        self.granted(&ca, cert_pem)
    }

    /// Revokes certificates and makes a new list with the next number.
    ///
    /// # Errors
    /// [`CertError`]: nothing of that kind is known, or the disk. What the ledger took is revoked; the
    /// list follows with the next call or with [`Authority::sign_crl`].
    pub fn revoke(&self, which: &Which, reason: &str, now: SystemTime) -> Result<Revoking, CertError> {
        let ca = self.ca()?;
        let mut ledger = OpenLedger::open(&self.dir)?;
        let (newly, already) = self.chosen(&ca, ledger.said(), which, reason, now)?;
        for revocation in &newly {
            ledger.add(Entry::Revoked(revocation.clone()))?;
        }
        let present = self.own_list(&ca)?;
        let is_listed = |revocation: &Revocation| {
            let listed = |list: &Crl| revocation.serial.parse().is_ok_and(|serial| list.lists(&serial));
            present.as_ref().is_some_and(listed)
        };
        let (crl_pem, number) = match &present {
            Some(list) if newly.iter().chain(&already).all(is_listed) => (self.crl_pem()?, list.number),
            Some(_) | None => self.write_list(&ca, ledger.said(), now)?,
        };
        Ok(Revoking { newly, already, crl_pem, number })
    }

    /// Makes a new list of everything that is revoked, with the next number: its PEM text and that number.
    ///
    /// # Errors
    /// [`CertError`]; then the old list stays.
    pub fn sign_crl(&self, now: SystemTime) -> Result<(String, u64), CertError> {
        let ca = self.ca()?;
        let ledger = OpenLedger::open(&self.dir)?;
        self.write_list(&ca, ledger.said(), now)
    }

    /// Whether the CA's own list has that certificate.
    fn lists(&self, ca: &Ca, serial: &Serial) -> Result<bool, CertError> {
        Ok(self.own_list(ca)?.is_some_and(|list| list.lists(serial)))
    }

    fn granted(&self, ca: &Ca, cert_pem: String) -> Result<Granted, JoinRefused> {
        let crl_pem = if self.dir.join(CA_CRL).exists() { Some(self.crl_pem()?) } else { None };
        Ok(Granted { cert_pem, ca_pem: ca.bundle_pem().to_owned(), crl_pem })
    }

    /// What to revoke, and what of it was revoked before.
    fn chosen(
        &self,
        ca: &Ca,
        ledger: &Ledger,
        which: &Which,
        reason: &str,
        now: SystemTime,
    ) -> Result<(Vec<Revocation>, Vec<Revocation>), CertError> {
        let of = |serial: &str, node_id: Option<NodeId>, not_after: Option<SystemTime>| Revocation {
            at: now,
            serial: serial.to_owned(),
            reason: reason.to_owned(),
            node_id,
            not_after,
        };
        let of_issued = |one: &Issued| of(&one.serial, Some(one.node_id.clone()), Some(one.not_after));
        let wanted: Vec<Revocation> = match which {
            Which::Node(node) => {
                let current = |one: &&Issued| one.node_id == *node && one.not_after >= now;
                ledger.issued().filter(current).map(of_issued).collect()
            }
            Which::Serial(serial) => {
                let serial = serial.to_string();
                ledger.issued().filter(|one| one.serial == serial).map(of_issued).collect()
            }
            Which::Certificate(certificate) => {
                let facts = Facts::read(certificate)?;
                if !ca.has_signed(certificate) {
                    return Err(CertError::OtherCa { subject: facts.subject });
                }
                let name = SpiffeName::from_uris(&facts.uris).and_then(SpiffeName::into_node);
                let node = name.ok().map(|(_, node)| node);
                vec![of(&Serial::of(certificate)?.to_string(), node, Some(facts.not_after))]
            }
        };
        if wanted.is_empty() {
            let what = match which {
                Which::Node(node) => format!("node {node}"),
                Which::Serial(serial) => format!("serial number {serial}"),
                Which::Certificate(_) => "that kind".to_owned(),
            };
            return Err(CertError::NotInLedger { what }.at(&self.dir));
        }
        let mut newly = Vec::new();
        let mut already = Vec::new();
        for one in wanted {
            match ledger.revocation(&one.serial) {
                Some(before) => already.push(before.clone()),
                None => newly.push(one),
            }
        }
        Ok((newly, already))
    }

    /// Writes the list of what the ledger and the present list say is revoked, without what has expired.
    fn write_list(&self, ca: &Ca, ledger: &Ledger, now: SystemTime) -> Result<(String, u64), CertError> {
        let present = self.own_list(ca)?;
        let mut revoked: BTreeMap<Serial, SystemTime> = BTreeMap::new();
        for serial in present.iter().flat_map(|list| list.serials()) {
            revoked.insert(serial.clone(), now);
        }
        for revocation in ledger.revocations() {
            let serial: Serial = revocation.serial.parse()?;
            if revocation.not_after.is_some_and(|not_after| not_after < now) {
                revoked.remove(&serial);
            } else {
                revoked.insert(serial, revocation.at);
            }
        }
        let revoked: Vec<Revoked> =
            revoked.into_iter().map(|(serial, since)| Revoked { serial, since }).collect();
        let number = present.map_or(1, |list| list.number.saturating_add(1));
        let days = u32::try_from(ca.days_left(now)).unwrap_or(0).clamp(1, CRL_DAYS);
        let own = make_crl(ca, &revoked, number, Validity::starting(now, days)?)?;
        let text = format!("{}{own}", self.others_lists(ca)?);
        write_crl(&self.dir, &text)?;
        Ok((self.crl_pem()?, number))
    }

    /// All lists of the file, in PEM format.
    fn crl_pem(&self) -> Result<String, CertError> {
        Ok(self.all_lists()?.iter().map(|list| pem_of("X509 CRL", list)).collect())
    }

    /// The list that this CA's key signed, if the file has one.
    fn own_list(&self, ca: &Ca) -> Result<Option<Crl>, CertError> {
        let own = [ca.certificate()?];
        Ok(self.all_lists()?.iter().find_map(|der| Crl::read(der, &own).ok()))
    }

    /// The lists of other CAs in the file, as during a rotation, in PEM format.
    fn others_lists(&self, ca: &Ca) -> Result<String, CertError> {
        let own = [ca.certificate()?];
        let others = self.all_lists()?.into_iter().filter(|der| Crl::read(der, &own).is_err());
        Ok(others.map(|der| pem_of("X509 CRL", &der)).collect())
    }

    fn all_lists(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, CertError> {
        let path = self.dir.join(CA_CRL);
        if path.exists() { read_crls(&path) } else { Ok(Vec::new()) }
    }
}

/// The hosts in a certificate: for other programs, nodes do not compare them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ip: Vec<IpAddr>,
}

fn certify(
    ca: &Ca,
    node: &NodeId,
    request_pem: Option<&str>,
    hosts: &Hosts,
    validity: Validity,
) -> Result<(String, Option<String>), CertError> {
    match request_pem {
        Some(request) => Ok((issue_for_request(ca, node, request, &hosts.dns, &hosts.ip, validity)?, None)),
        None => {
            let pair = issue(ca, node, &hosts.dns, &hosts.ip, validity)?;
            Ok((pair.cert_pem, Some(pair.key_pem)))
        }
    }
}

fn check_token(ca: &Ca, ask: &JoinAsk<'_>, now: SystemTime) -> Result<Claims, JoinRefused> {
    let Some(claims) = ask.token.claims_by(ca) else {
        return Err(match ask.token.unproven_claims() {
            Some(Claims { mesh, .. }) if mesh != *ca.mesh() => {
                JoinRefused::OtherMesh { theirs: mesh, ours: ca.mesh().clone() }
            }
            Some(_) | None => JoinRefused::NotOurs,
        });
    };
    if claims.mesh != *ca.mesh() {
        return Err(JoinRefused::OtherMesh { theirs: claims.mesh, ours: ca.mesh().clone() });
    }
    if !claims.is_proven_by(ask.message, ask.proof) {
        return Err(JoinRefused::NotProven);
    }
    if claims.is_expired(now) {
        let end = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(claims.expires);
        return Err(JoinRefused::Expired {
            seconds: now.duration_since(end).map_or(0, |past| past.as_secs()),
        });
    }
    if claims.node_id != *ask.node_id {
        return Err(JoinRefused::OtherName { token: claims.node_id, wanted: ask.node_id.clone() });
    }
    Ok(claims)
}

fn has_room(ledger: &Ledger, node: &NodeId, now: SystemTime) -> Result<(), JoinRefused> {
    if ledger.good(node, now).count() < limits::CERTS_PER_NODE_MAX {
        return Ok(());
    }
    Err(JoinRefused::TooMany { node: node.clone() })
}

/// As many days as the certificate was given, or as the CA has left.
fn days_of(present: &Facts, ca: &Ca, now: SystemTime) -> u32 {
    let lifetime = present.not_after.duration_since(present.not_before).unwrap_or_default();
    let days = lifetime.saturating_sub(limits::CERT_BACKDATE).as_secs().div_ceil(86_400);
    let left = u64::try_from(ca.days_left(now)).unwrap_or(0);
    u32::try_from(days.min(left).max(1)).unwrap_or(limits::CERT_DAYS_MAX).min(limits::CERT_DAYS_MAX)
}

fn leaf(cert_pem: &str) -> Result<CertificateDer<'static>, CertError> {
    parse_certificates(cert_pem)?.into_iter().next().ok_or(CertError::NoCertificate)
}

fn pem_of(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n");
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", lines.collect::<String>())
}

#[cfg(test)]
mod tests;
