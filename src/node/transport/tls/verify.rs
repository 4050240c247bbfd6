//! Decides whether a peer's certificate lets it into the mesh, in either direction.
//!
//! The stock verifiers match DNS names and IP addresses; a node's identity is a URI. So the chain, the validity
//! and the purpose are checked by `webpki`, and on top of it, by us: exactly one URI, of our mesh, with a
//! valid node id; not a CA; allowed to sign; both purposes, because every node opens and accepts connections.
//!
//! A leaf must be signed by a trusted CA directly. Other certificates that a peer sends are not looked at: a
//! node's key must not be able to vouch for another node.
//!
//! It does not compare the node with the one that was meant: any node of the mesh may answer at a seed's
//! address. Whoever dials a particular node compares afterwards.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ExtendedKeyPurpose, OtherError,
    PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator, KeyPurposeIdIter,
    KeyUsage, RequiredEkuNotFoundContext, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use crate::core::error::Refused;
use crate::core::ids::{CaKeyId, MeshName, NodeId};
use crate::node::certs::{Facts, NameFault, SpiffeName};

/// `id-kp-serverAuth`, 1.3.6.1.5.5.7.3.1, as DER content.
const SERVER_AUTH_OID: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
/// `id-kp-clientAuth`, 1.3.6.1.5.5.7.3.2, as DER content.
const CLIENT_AUTH_OID: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// Why a certificate does not let its owner into the mesh.
#[derive(Clone, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read.
    #[error("the certificate cannot be read: {why}")]
    Malformed {
        /// What the parser said.
        why: String,
    },
    /// Its last day is past.
    #[error("the certificate expired {} s ago", .now.as_secs().saturating_sub(.not_after.as_secs()))]
    Expired {
        /// The time of the check.
        now: UnixTime,
        /// The last second at which it was valid.
        not_after: UnixTime,
    },
    /// Its first day is to come, or a clock is wrong.
    #[error("the certificate is not valid yet, but in {} s: check the clocks", .not_before.as_secs().saturating_sub(.now.as_secs()))]
    NotValidYet {
        /// The time of the check.
        now: UnixTime,
        /// The first second at which it is valid.
        not_before: UnixTime,
    },
    /// None of the CAs that are trusted and valid now has signed it.
    #[error("the certificate is not signed by a CA that is trusted and valid now")]
    UnknownIssuer,
    /// It has been revoked.
    #[error("the certificate has been revoked")]
    Revoked,
    /// It lacks one of the purposes that a node needs.
    #[error("the certificate is not meant for {missing} (its extended key usage), and a node's must be")]
    Purpose {
        /// The purpose that it lacks.
        missing: ExtendedKeyPurpose,
        /// The purposes that it has.
        presented: Vec<ExtendedKeyPurpose>,
    },
    /// It is a CA's.
    #[error("the certificate is that of a CA, and a CA is not a node")]
    Ca,
    /// Its key may not sign.
    #[error("the key of the certificate may not be used for digitalSignature")]
    KeyUsage,
    /// It does not name a node of this mesh.
    #[error(transparent)]
    Name(#[from] NameFault),
    /// `webpki` has another reason.
    #[error("the certificate is not valid: {0}")]
    Other(webpki::Error),
}

impl Refusal {
    /// What the owner of the certificate is told when a connection of it is closed, and the word for the metrics.
    #[must_use]
    pub fn told(&self) -> (Refused, &'static str) {
        match self {
            Self::Revoked => (Refused::Revoked, "revoked"),
            Self::Expired { .. } => (Refused::Expired, "expired"),
            Self::Malformed { .. }
            | Self::NotValidYet { .. }
            | Self::UnknownIssuer
            | Self::Purpose { .. }
            | Self::Ca
            | Self::KeyUsage
            | Self::Name(_)
            | Self::Other(_) => (Refused::Untrusted, "untrusted"),
        }
    }
}

/// `rustls` prints reasons of ours by `Debug`, so this is what logs show.
impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The nearest variant of `rustls` decides the alert that the peer gets. Reasons of our own travel as
/// `Other`: `ApplicationVerificationFailure` could not carry the sentence into the logs.
impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        let reason = match refusal {
            Refusal::Malformed { .. } => CertificateError::BadEncoding,
            Refusal::Expired { now, not_after } => CertificateError::ExpiredContext { time: now, not_after },
            Refusal::NotValidYet { now, not_before } => {
                CertificateError::NotValidYetContext { time: now, not_before }
            }
            Refusal::UnknownIssuer => CertificateError::UnknownIssuer,
            Refusal::Revoked => CertificateError::Revoked,
            Refusal::Purpose { missing, presented } => {
                CertificateError::InvalidPurposeContext { required: missing, presented }
            }
            Refusal::Ca | Refusal::KeyUsage | Refusal::Name(_) | Refusal::Other(_) => {
                CertificateError::Other(OtherError(Arc::new(refusal)))
            }
        };
        Self::InvalidCertificate(reason)
    }
}

/// A CA that is trusted while it is valid, and what it says of revoked certificates.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) anchor: TrustAnchor<'static>,
    pub(super) key: CaKeyId,
    /// Verified to be of that key. The CAs of a rotation have one name, by which alone `webpki` would choose.
    pub(super) crl: Option<Arc<CertRevocationList<'static>>>,
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
}

impl Root {
    pub(super) fn is_valid(&self, now: UnixTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// A certificate that lets its owner into the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The node that it names.
    pub node_id: NodeId,
    /// The key that signed it.
    pub ca: CaKeyId,
}

/// Whom a node trusts: its mesh's name and CAs.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    pub(super) mesh: MeshName,
    pub(super) roots: Vec<Root>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// Whose certificate it is and who signed it, if it lets its owner into the mesh at `now`.
    ///
    /// A list past its time still applies: what it revokes stays revoked, and a mesh whose CA is away must not
    /// fall apart on the day after.
    pub(super) fn check(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<Verified, Refusal> {
        let leaf = EndEntityCert::try_from(certificate).map_err(refusal)?;
        let mut refused = None;
        // `webpki` does not look at the validity of a trust anchor.
        for root in self.roots.iter().filter(|root| root.is_valid(now)) {
            match self.check_against(&leaf, Some(root), now) {
                Ok(()) => return Ok(Verified { node_id: node_of(certificate, &self.mesh)?, ca: root.key }),
                Err(Refusal::UnknownIssuer) => {}
                Err(other) => refused = Some(other),
            }
        }
        // Without any CA too, a certificate may have a fault that says more than that nobody signed it.
        Err(refused.or_else(|| self.check_against(&leaf, None, now).err()).unwrap_or(Refusal::UnknownIssuer))
    }

    fn check_against(
        &self,
        leaf: &EndEntityCert<'_>,
        root: Option<&Root>,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let anchors: Vec<_> = root.iter().map(|root| root.anchor.clone()).collect();
        let lists: Vec<_> = root.and_then(|root| root.crl.as_deref()).into_iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::EndEntity)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        leaf.verify_for_usage(self.algorithms.all, &anchors, &[], now, BothPurposes, revocation, None)
            .map(|_| ())
            .map_err(refusal)
    }
}

/// The node that a certificate names, if the certificate has the form of a node's of this mesh. Who signed it and
/// when it is valid has been checked before.
pub(super) fn node_of(certificate: &CertificateDer<'_>, ours: &MeshName) -> Result<NodeId, Refusal> {
    let facts = Facts::read(certificate).map_err(|error| Refusal::Malformed { why: error.to_string() })?;
    if facts.is_ca {
        return Err(Refusal::Ca);
    }
    if facts.key_usages.is_some_and(|usages| !usages.contains(&Facts::DIGITAL_SIGNATURE)) {
        return Err(Refusal::KeyUsage);
    }
    let (theirs, node) = SpiffeName::from_uris(&facts.uris)?.into_node()?;
    if theirs != *ours {
        return Err(NameFault::OtherMesh { theirs, ours: ours.clone() }.into());
    }
    Ok(node)
}

/// Requires both purposes, and that they are stated: the stock check passes a leaf that states none.
struct BothPurposes;

impl ExtendedKeyUsageValidator for BothPurposes {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut present = Vec::new();
        for purpose in purposes {
            present.push(purpose?.to_decoded_oid());
        }
        for (oid, wanted) in
            [(SERVER_AUTH_OID, KeyUsage::SERVER_AUTH_REPR), (CLIENT_AUTH_OID, KeyUsage::CLIENT_AUTH_REPR)]
        {
            if !present.iter().any(|purpose| purpose == wanted) {
                let required = KeyUsage::required(oid);
                return Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext {
                    required,
                    present,
                }));
            }
        }
        Ok(())
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other reason of webpki is told as it is")]
fn refusal(error: webpki::Error) -> Refusal {
    use webpki::Error as E;
    match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => Refusal::Malformed { why: error.to_string() },
        E::CertExpired { time: now, not_after } => Refusal::Expired { now, not_after },
        E::CertNotValidYet { time: now, not_before } => Refusal::NotValidYet { now, not_before },
        // A CA that bears the name of ours and has another key: its signature is wrong for our CA's key.
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => Refusal::UnknownIssuer,
        E::CertRevoked => Refusal::Revoked,
        E::CaUsedAsEndEntity => Refusal::Ca,
        E::EmptyEkuExtension => {
            Refusal::Purpose { missing: ExtendedKeyPurpose::ServerAuth, presented: Vec::new() }
        }
        E::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required, present }) => Refusal::Purpose {
            missing: purpose(required.oid_values().collect()),
            presented: present.into_iter().map(purpose).collect(),
        },
        other => Refusal::Other(other),
    }
}

fn purpose(oid: Vec<usize>) -> ExtendedKeyPurpose {
    if oid == KeyUsage::SERVER_AUTH_REPR {
        ExtendedKeyPurpose::ServerAuth
    } else if oid == KeyUsage::CLIENT_AUTH_REPR {
        ExtendedKeyPurpose::ClientAuth
    } else {
        ExtendedKeyPurpose::Other(oid)
    }
}

/// The verifier of both directions.
#[derive(Debug)]
pub(super) struct MeshVerifier(pub(super) Arc<Trust>);

impl MeshVerifier {
    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.algorithms)
    }
}

/// TLS 1.2 is not offered, so this answers a peer that `rustls` should have turned away before.
fn refuse_tls12() -> rustls::Error {
    PeerIncompatible::Tls13RequiredForQuic.into()
}

impl ServerCertVerifier for MeshVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.check(end_entity, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for MeshVerifier {
    /// None: a stranger has no business to learn the names of our CAs.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.check(end_entity, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rustls::AlertDescription;

    use super::*;
    use crate::node::certs::{self, Ca, Validity};

    const DAY: u64 = 86_400;
    const NOW: u64 = 1_800_000_000;

    fn days(days: u32) -> Validity {
        Validity::starting(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW), days).expect("in range")
    }

    fn unix(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    fn ca(days_valid: u32) -> Ca {
        let pair = certs::make_ca(&MeshName::new("prod").expect("valid"), days(days_valid)).expect("made");
        Ca::from_pem(&pair.cert_pem, &pair.key_pem).expect("a CA")
    }

    fn leaf(ca: &Ca) -> CertificateDer<'static> {
        let id = NodeId::new("node-1").expect("valid");
        let pair = certs::issue(ca, &id, &[], &[], days(10)).expect("issued");
        certs::parse_certificates(&pair.cert_pem).expect("PEM").remove(0)
    }

    fn root(ca: &Ca, until: u64) -> Root {
        let der = certs::parse_certificates(ca.bundle_pem()).expect("PEM").remove(0);
        let anchor = webpki::anchor_from_trusted_cert(&der).expect("a CA").to_owned();
        let key = CaKeyId::of(&der).expect("a CA");
        Root { anchor, key, crl: None, not_before: unix(NOW), not_after: unix(until) }
    }

    fn trust(roots: Vec<Root>) -> Trust {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        Trust { mesh: MeshName::new("prod").expect("valid"), roots, algorithms }
    }

    #[test]
    fn a_leaf_is_good_from_its_first_second_to_its_last() {
        let ca = ca(100);
        let (leaf, mut root) = (leaf(&ca), root(&ca, NOW + 100 * DAY));
        root.not_before = unix(0);
        let trust = trust(vec![root]);
        let first = NOW - crate::core::limits::CERT_BACKDATE.as_secs();
        let last = NOW + 10 * DAY;
        assert!(matches!(trust.check(&leaf, unix(first - 1)), Err(Refusal::NotValidYet { .. })));
        for now in [first, NOW, last] {
            assert_eq!(trust.check(&leaf, unix(now)).expect("good").node_id.as_str(), "node-1");
        }
        assert!(matches!(trust.check(&leaf, unix(last + 1)), Err(Refusal::Expired { .. })));
    }

    #[test]
    fn a_ca_is_trusted_while_it_is_valid_and_another_of_the_bundle_does_not_stand_in() {
        let (old, new) = (ca(100), ca(100));
        let trust = trust(vec![root(&old, NOW + DAY), root(&new, NOW + 100 * DAY)]);
        let [by_old, by_new] = [leaf(&old), leaf(&new)];
        trust.check(&by_old, unix(NOW + DAY)).expect("good");
        trust.check(&by_new, unix(NOW + DAY)).expect("good");
        assert!(matches!(trust.check(&by_old, unix(NOW + DAY + 1)), Err(Refusal::UnknownIssuer)));
        trust.check(&by_new, unix(NOW + DAY + 1)).expect("good");
    }

    #[test]
    fn a_single_changed_byte_is_refused() {
        let ca = ca(100);
        let trust = trust(vec![root(&ca, NOW + 100 * DAY)]);
        let leaf = leaf(&ca).to_vec();
        for at in 0..leaf.len() {
            let mut changed = leaf.clone();
            changed[at] ^= 1;
            assert!(trust.check(&changed.into(), unix(NOW)).is_err(), "byte {at}");
        }
        for length in 0..leaf.len() {
            assert!(trust.check(&leaf[..length].into(), unix(NOW)).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn each_refusal_reaches_the_peer_as_the_alert_of_its_kind() {
        let (now, then) = (unix(NOW), unix(NOW + DAY));
        for (refusal, alert, says) in [
            (Refusal::Malformed { why: String::new() }, AlertDescription::BadCertificate, "BadEncoding"),
            (Refusal::Expired { now: then, not_after: now }, AlertDescription::CertificateExpired, "expired"),
            (
                Refusal::NotValidYet { now, not_before: then },
                AlertDescription::CertificateExpired,
                "not valid yet",
            ),
            (Refusal::UnknownIssuer, AlertDescription::UnknownCA, "UnknownIssuer"),
            (Refusal::Revoked, AlertDescription::CertificateRevoked, "Revoked"),
            (Refusal::Ca, AlertDescription::CertificateUnknown, "a CA is not a node"),
            (Refusal::Name(NameFault::NoUri), AlertDescription::CertificateUnknown, "no URI name"),
        ] {
            let rustls::Error::InvalidCertificate(reason) = rustls::Error::from(refusal.clone()) else {
                panic!("{refusal}");
            };
            assert!(reason.to_string().contains(says), "{reason}");
            assert_eq!(AlertDescription::from(reason), alert, "{refusal}");
        }
    }

    #[test]
    fn the_reasons_of_webpki_keep_their_meaning() {
        let refusals = [webpki::Error::CertRevoked, webpki::Error::CaUsedAsEndEntity, webpki::Error::BadDer]
            .map(refusal);
        assert!(
            matches!(refusals, [Refusal::Revoked, Refusal::Ca, Refusal::Malformed { .. }]),
            "{refusals:?}"
        );
    }
}
