//! Certificates of a mesh and lists of revoked ones: makes them, writes them to disk, reads what they say.
//!
//! A mesh has a CA (two during a rotation) whose certificate names the mesh, `spiffe://<mesh>`, and each
//! node has one leaf, signed by the CA directly, that names the node, `spiffe://<mesh>/node/<id>`. Keys are
//! ECDSA P-256 and are made on the machine that uses them.
//!
//! Nothing here reads the clock or decides whom to trust: times are arguments, and trust is the
//! business of [`crate::node::transport::tls`].

use std::path::PathBuf;

use crate::core::limits;

mod authority;
mod crl;
mod files;
mod inspect;
mod issue;
mod key;
mod ledger;
mod name;
mod token;

pub use authority::{Authority, Granted, Hosts, JoinAsk, JoinRefused, Renewing, Revoking, Which};
pub use crl::{Crl, Revoked, Serial, make_crl, parse_crls};
pub use files::{
    CA_CERT, CA_CRL, CA_KEY, Existing, NODE_CERT, NODE_KEY, NodeFiles, check_free, read_certificates,
    read_crls, read_text, write_ca, write_certificate, write_crl, write_node,
};
pub use inspect::{Facts, is_signed_by, parse_certificates};
pub use issue::{Ca, CertPair, Validity, issue, issue_for_request, make_ca};
pub use key::{has_signed, keep_key, new_key_pem, request_for, sign_with};
pub use ledger::{Entry, Issued, LEDGER, Ledger, OpenLedger, Revocation, Way};
pub use name::{NameFault, SpiffeName};
pub use token::{Claims, JoinToken, ShownToken, TOKEN_PREFIX, TokenError};

/// Why a certificate could not be made, written or read. Nothing was written, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The time given lies outside what a certificate can express.
    #[error(
        "the clock of this machine is far off ({unix_seconds} seconds since 1970): set it, then try again"
    )]
    Clock {
        /// The time given, in seconds since 1970.
        unix_seconds: i64,
    },
    /// The validity asked for is outside its bounds.
    #[error("{days} days is not a validity: give 1 to {} days", limits::CERT_DAYS_MAX)]
    Days {
        /// Days asked for.
        days: u32,
    },
    /// More DNS names and addresses than a certificate may have.
    #[error(
        "{count} DNS names and addresses are too many: a certificate has at most {}",
        limits::CERT_HOSTS_MAX
    )]
    TooManyHosts {
        /// Names asked for.
        count: usize,
    },
    /// A text is not a DNS name.
    #[error(
        "{name:?} is not a DNS name: give a host name such as node-1.example.com, or use --ip for an address"
    )]
    DnsName {
        /// The text given.
        name: String,
    },
    /// A leaf would outlive its CA, and would stop working without a warning on the CA's last day.
    #[error(
        "the CA is valid for {ca_days_left} more days, which is less than the {days_asked} days asked for: \
         ask for fewer days, or make a new CA"
    )]
    OutlivesCa {
        /// Whole days until the CA expires; negative when it has.
        ca_days_left: i64,
        /// Whole days asked for.
        days_asked: i64,
    },
    /// The bytes are not what they should be.
    #[error("this is not a valid {what}: {why}")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// What the parser said.
        why: String,
    },
    /// A file without a certificate.
    #[error("it holds no certificate in PEM format")]
    NoCertificate,
    /// A file with more certificates than a bundle may have.
    #[error("it holds more than {} certificates", limits::CERTS_PER_FILE_MAX)]
    TooManyCertificates,
    /// The certificate that belongs to the key does not sign others.
    #[error("the certificate of {subject} is not a CA: make one with `shoal cert ca --out D --mesh NAME`")]
    NotCa {
        /// Whom the certificate names.
        subject: String,
    },
    /// A name in a certificate is not one of ours.
    #[error(transparent)]
    Name(#[from] NameFault),
    /// No certificate of the bundle has the public half of the key.
    #[error("the key belongs to none of the certificates in the CA's bundle")]
    KeyMismatch,
    /// A file without a revocation list.
    #[error("it holds no revocation list (X509 CRL) in PEM format")]
    NoCrl,
    /// A file with more revocation lists than there are CAs.
    #[error("it holds more than {} revocation lists", limits::CRLS_MAX)]
    TooManyCrls,
    /// A revocation list that is too long to be passed on.
    #[error(
        "the revocation list is larger than {} bytes: leave out certificates that have expired",
        limits::CRL_BYTES_MAX
    )]
    CrlTooLarge,
    /// A revocation list that nobody who is trusted has signed.
    #[error("the revocation list is not signed by a CA that is trusted and may sign one")]
    CrlIssuer,
    /// A text is not a serial number.
    #[error(
        "{text:?} is not a serial number: give its bytes in hexadecimal, as `shoal cert show` prints them"
    )]
    Serial {
        /// The text given, cut after 80 characters.
        text: String,
    },
    /// A signing request is refused.
    #[error("the signing request is refused: {why}")]
    Request {
        /// What is wrong with it.
        why: String,
    },
    /// A file is in the way.
    #[error("{path} exists and is not overwritten: choose another directory, or give --force if it can go")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file is too large to be what it should be.
    #[error("it has more than {bytes_max} bytes, which nothing that belongs in it needs")]
    TooLarge {
        /// Bytes allowed.
        bytes_max: u64,
    },
    /// The file system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The random generator or the signing failed.
    #[error("the key or the signature could not be made: {why}")]
    Crypto {
        /// What the library said.
        why: String,
    },
    /// Another program writes the ledger, for longer than one should.
    #[error("another program has it open for writing: try again when that one is done")]
    Locked,
    /// The ledger takes no more.
    #[error(
        "the ledger has more than {} bytes: when its certificates have expired, put the file aside",
        limits::LEDGER_BYTES_MAX
    )]
    LedgerFull,
    /// A line of the ledger cannot be read.
    #[error(
        "line {no} of the ledger is not understood ({why}): restore the file, because a used token may be told there"
    )]
    LedgerLine {
        /// Which, from 1.
        no: u64,
        /// What the parser said.
        why: String,
    },
    /// A certificate that is not in the ledger.
    #[error(
        "the ledger knows no certificate of {what} that could be revoked: see `shoal cert show` for what it \
             knows, or give the certificate itself with --cert"
    )]
    NotInLedger {
        /// What was asked for.
        what: String,
    },
    /// A certificate of another CA.
    #[error("the certificate of {subject} was not signed by this CA: use the directory of the CA that did")]
    OtherCa {
        /// Whom the certificate names.
        subject: String,
    },
    /// A certificate that was revoked.
    #[error(
        "the certificate has been revoked and is not renewed: `shoal cert issue` makes a new one, if that is meant"
    )]
    Revoked,
    /// A token that would be good for too long, or not at all.
    #[error("a join token can be good for 1 s to {}", humantime::format_duration(limits::JOIN_TOKEN_TTL_MAX))]
    TokenTtl,
    /// Something about one file.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Self>,
    },
}

impl CertError {
    /// The same reason, told with the file it is about.
    #[must_use]
    pub fn at(self, path: impl Into<PathBuf>) -> Self {
        Self::File { path: path.into(), source: Box::new(self) }
    }

    fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, source }
    }

    fn malformed(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }

    fn crypto(why: impl std::fmt::Display) -> Self {
        Self::Crypto { why: why.to_string() }
    }
}
