//! The JSON of `/v1/certificates`. Dates are RFC 3339, UTC; serial numbers and fingerprints are written as
//! `shoal cert show` writes them.

use serde::{Deserialize, Serialize};

use crate::core::ids::NodeId;

/// `GET /v1/certificates`: what the asked node proves itself with, and whom it trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// The asked node.
    pub node_id: NodeId,
    /// `good`, `expired` or `revoked`: of its own certificate.
    pub standing: String,
    /// Its own certificate.
    pub own: Certificate,
    /// The CAs that it trusts.
    pub cas: Vec<Certificate>,
    /// The revocation lists that it applies.
    pub crls: Vec<RevocationList>,
    /// What its peers have shown, one entry a link, in order of names.
    pub peers: Vec<PeerCertificate>,
    /// Why the files are not what is in use; null when they are.
    pub refused: Option<String>,
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Distinguished name.
    pub subject: String,
    /// Its serial number.
    pub serial: String,
    /// SHA-256 over the certificate.
    pub fingerprint: String,
    /// The first second at which it is valid.
    pub not_before: String,
    /// The last second at which it is valid.
    pub not_after: String,
    /// Of a CA: names its key, as `ca` and `issuer` do elsewhere; null for a node's.
    pub key: Option<String>,
}

/// One revocation list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationList {
    /// Names the key of the CA that signed it.
    pub issuer: String,
    /// Its number: the higher of two lists of one issuer is the newer.
    pub number: u64,
    /// When it was made.
    pub this_update: String,
    /// When the next one is due; it still applies afterwards.
    pub next_update: String,
    /// The serial numbers that it revokes.
    pub revoked: Vec<String>,
}

/// The certificate at the other end of one link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCertificate {
    /// The node that it names.
    pub node_id: NodeId,
    /// Its serial number.
    pub serial: String,
    /// The last second at which it is valid.
    pub not_after: String,
    /// Names the key of the CA that signed it; null when it is good no more and the link is about to end.
    pub ca: Option<String>,
}

/// `POST /v1/certificates/crl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferedLists {
    /// Revocation lists in PEM format, as `ca.crl` holds them.
    pub crl_pem: String,
}

/// The answer to [`OfferedLists`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenLists {
    /// One entry a list, in their order.
    pub lists: Vec<TakenList>,
}

/// What came of one list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenList {
    /// Names the key of the CA that signed it.
    pub issuer: String,
    /// Its number.
    pub number: u64,
    /// How many certificates it revokes.
    pub revoked: usize,
    /// Whether it was news to the asked node.
    pub new: bool,
}
