//! Makes certificates: a mesh's CA, and leaves for its nodes, for a key made here or for the key of a
//! signing request.
//!
//! A request contributes its public key and nothing else. Its subject and the extensions it asks for are not
//! looked at: what a certificate says is decided by whoever holds the CA.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData,
    SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, DnsName};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::key::new_key;
use super::{CA_CERT, CA_KEY, CertError, Facts, SpiffeName, inspect, read_text};
use crate::core::ids::{MeshName, NodeId};
use crate::core::limits;

/// The most characters of a common name (`ub-common-name` of RFC 5280).
const COMMON_NAME_BYTES_MAX: usize = 64;

/// From when until when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Validity {
    /// Valid for `days` days from `now` on, and already [`limits::CERT_BACKDATE`] before it.
    ///
    /// # Errors
    /// [`CertError::Days`] for none or too many, [`CertError::Clock`] for a time that no certificate can hold.
    pub fn starting(now: SystemTime, days: u32) -> Result<Self, CertError> {
        if !(1..=limits::CERT_DAYS_MAX).contains(&days) {
            return Err(CertError::Days { days });
        }
        let unix_seconds = match now.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            Err(_) => -1,
        };
        let clock = || CertError::Clock { unix_seconds };
        if unix_seconds < 0 {
            return Err(clock());
        }
        let start = OffsetDateTime::from_unix_timestamp(unix_seconds).map_err(|_| clock())?;
        let not_before = start.checked_sub(limits::CERT_BACKDATE.try_into().map_err(|_| clock())?);
        let not_after = start.checked_add(time::Duration::days(i64::from(days)));
        let (Some(not_before), Some(not_after)) = (not_before, not_after) else {
            return Err(clock());
        };
        Ok(Self { not_before, not_after })
    }

    /// The same start and an earlier end, `seconds` after it: for a certificate that is to expire soon. A later end
    /// is not given.
    #[must_use]
    pub fn shortened(self, seconds: u32) -> Self {
        let start = self.not_before + limits::CERT_BACKDATE;
        let not_after = self.not_after.min(start + time::Duration::seconds(i64::from(seconds)));
        Self { not_before: self.not_before, not_after }
    }

    pub(super) fn not_before(self) -> OffsetDateTime {
        self.not_before
    }

    pub(super) fn not_after(self) -> OffsetDateTime {
        self.not_after
    }
}

/// A certificate and its private key, both in PEM format. `Debug` does not show the key.
#[derive(Clone)]
pub struct CertPair {
    /// The certificate.
    pub cert_pem: String,
    /// The private key (PKCS#8). Keep it out of logs and messages.
    pub key_pem: String,
}

impl fmt::Debug for CertPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertPair").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// A mesh's CA: its certificates and its private key, ready to sign.
#[derive(Debug)]
pub struct Ca {
    mesh: MeshName,
    bundle_pem: String,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// Reads the CA in `dir`: `ca.crt` and `ca.key`.
    ///
    /// # Errors
    /// [`CertError`], with the file it is about.
    pub fn load(dir: &Path) -> Result<Self, CertError> {
        let bundle_pem = read_text(&dir.join(CA_CERT))?;
        let key_pem = read_text(&dir.join(CA_KEY))?;
        Self::from_pem(&bundle_pem, &key_pem).map_err(|error| error.at(dir))
    }

    /// A CA from its bundle and its key. The bundle may hold other CAs too, as it does during a
    /// rotation: the one that the key belongs to signs.
    ///
    /// # Errors
    /// [`CertError`] when a part cannot be read, they do not belong together, or it is not a mesh's CA.
    pub fn from_pem(bundle_pem: &str, key_pem: &str) -> Result<Self, CertError> {
        // The text of a parser's complaint about a key could hold a piece of the key, so it is not passed on.
        let key = KeyPair::from_pem(key_pem).map_err(|_| {
            CertError::malformed("private key", "it is not an unencrypted PKCS#8 key in PEM format")
        })?;
        let (certificate, facts) = certificate_of(&key, bundle_pem)?;
        let signs = facts.key_usages.as_ref().is_none_or(|usages| usages.contains(&Facts::KEY_CERT_SIGN));
        if !facts.is_ca || !signs {
            return Err(CertError::NotCa { subject: facts.subject });
        }
        let mesh = SpiffeName::from_uris(&facts.uris)?.into_mesh()?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|why| CertError::malformed("CA certificate", why))?;
        Ok(Self { mesh, bundle_pem: bundle_pem.to_owned(), not_after: facts.not_after, issuer })
    }

    /// The mesh that the CA signs for.
    #[must_use]
    pub fn mesh(&self) -> &MeshName {
        &self.mesh
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// The certificates of the CA in PEM format: what a node trusts, its `ca.crt`.
    #[must_use]
    pub fn bundle_pem(&self) -> &str {
        &self.bundle_pem
    }

    /// The fingerprints of those certificates, as [`Facts::fingerprint`] writes them.
    ///
    /// # Errors
    /// [`CertError`] when one of them cannot be read.
    pub fn fingerprints(&self) -> Result<Vec<String>, CertError> {
        let certificates = inspect::parse_certificates(&self.bundle_pem)?;
        certificates.iter().map(|certificate| Ok(Facts::read(certificate)?.fingerprint)).collect()
    }

    /// Whether the CA is valid for at least as long as a certificate of that validity.
    ///
    /// # Errors
    /// [`CertError::OutlivesCa`].
    pub fn outlives(&self, validity: &Validity) -> Result<(), CertError> {
        let ca_not_after = OffsetDateTime::from(self.not_after);
        if validity.not_after <= ca_not_after {
            return Ok(());
        }
        let start = validity.not_before + limits::CERT_BACKDATE;
        Err(CertError::OutlivesCa {
            ca_days_left: (ca_not_after - start).whole_seconds().div_euclid(86_400),
            days_asked: (validity.not_after - start).whole_days(),
        })
    }

    /// Whole days from `now` until the CA expires; negative once it has.
    pub(super) fn days_left(&self, now: SystemTime) -> i64 {
        (OffsetDateTime::from(self.not_after) - OffsetDateTime::from(now)).whole_seconds().div_euclid(86_400)
    }

    pub(super) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// The certificate of the bundle that the key belongs to, in DER format.
    pub(super) fn certificate(&self) -> Result<CertificateDer<'static>, CertError> {
        Ok(certificate_of(self.key(), &self.bundle_pem)?.0)
    }

    /// Whether the signature of `certificate` (DER format) is of this CA's key.
    #[must_use]
    pub fn has_signed(&self, certificate: &[u8]) -> bool {
        self.certificate().is_ok_and(|ca| inspect::is_signed_by(certificate, &ca))
    }
}

/// Makes the CA of a new mesh, with a new key.
///
/// # Errors
/// [`CertError::Crypto`] when the system gives no random numbers.
pub fn make_ca(mesh: &MeshName, validity: Validity) -> Result<CertPair, CertError> {
    let key = new_key()?;
    let mut params = params(mesh, "Shoal CA", validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(&SpiffeName::Mesh(mesh.clone()))?];
    let certificate = params.self_signed(&key).map_err(CertError::crypto)?;
    Ok(CertPair { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// Makes a node's certificate, with a new key. `dns_names` and `ip_addresses` are for programs that
/// check them; nodes do not.
///
/// # Errors
/// [`CertError`] for a bad DNS name, too many names, or a leaf that would outlive its CA.
pub fn issue(
    ca: &Ca,
    node: &NodeId,
    dns_names: &[String],
    ip_addresses: &[IpAddr],
    validity: Validity,
) -> Result<CertPair, CertError> {
    let params = leaf_params(ca, node, dns_names, ip_addresses, validity)?;
    let key = new_key()?;
    let certificate = params.signed_by(&key, &ca.issuer).map_err(CertError::crypto)?;
    Ok(CertPair { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// Makes a node's certificate, in PEM format, for the key of a signing request (PKCS#10, in PEM
/// format) that proves by its signature that the sender has that key.
///
/// # Errors
/// As [`issue`], and [`CertError::Request`] when the request is malformed, its signature is
/// wrong, or its key is of a kind that nodes do not use.
pub fn issue_for_request(
    ca: &Ca,
    node: &NodeId,
    request_pem: &str,
    dns_names: &[String],
    ip_addresses: &[IpAddr],
    validity: Validity,
) -> Result<String, CertError> {
    let params = leaf_params(ca, node, dns_names, ip_addresses, validity)?;
    let key = requested_key(request_pem)?;
    if key.subject_public_key_info() == ca.issuer.key().subject_public_key_info() {
        return Err(refused("its key is the CA's own, which a node must not have"));
    }
    let certificate = params.signed_by(&key, &ca.issuer).map_err(CertError::crypto)?;
    Ok(certificate.pem())
}

/// The certificate of the bundle that has the public half of `key`.
fn certificate_of(key: &KeyPair, bundle_pem: &str) -> Result<(CertificateDer<'static>, Facts), CertError> {
    let public = key.subject_public_key_info();
    for certificate in inspect::parse_certificates(bundle_pem)? {
        if inspect::parse(&certificate)?.public_key().raw == public.as_slice() {
            let facts = Facts::read(&certificate)?;
            return Ok((certificate, facts));
        }
    }
    Err(CertError::KeyMismatch)
}

fn leaf_params(
    ca: &Ca,
    node: &NodeId,
    dns_names: &[String],
    ip_addresses: &[IpAddr],
    validity: Validity,
) -> Result<CertificateParams, CertError> {
    let count = dns_names.len() + ip_addresses.len();
    if count > limits::CERT_HOSTS_MAX {
        return Err(CertError::TooManyHosts { count });
    }
    ca.outlives(&validity)?;
    // The identity is the URI; the common name is for people, so a long id may be cut in it.
    let common_name = &node.as_str()[..node.as_str().len().min(COMMON_NAME_BYTES_MAX)];
    let mut params = params(&ca.mesh, common_name, validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names.push(uri(&SpiffeName::Node(ca.mesh.clone(), node.clone()))?);
    for name in dns_names {
        params.subject_alt_names.push(dns(name)?);
    }
    params.subject_alt_names.extend(ip_addresses.iter().copied().map(SanType::IpAddress));
    Ok(params)
}

fn params(mesh: &MeshName, common_name: &str, validity: Validity) -> Result<CertificateParams, CertError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, mesh.as_str());
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    params.serial_number = Some(new_serial()?);
    Ok(params)
}

/// 127 random bits: two certificates for one key differ in it, so that one of them can be revoked.
fn new_serial() -> Result<SerialNumber, CertError> {
    let mut octets = [0; 16];
    getrandom::fill(&mut octets).map_err(CertError::crypto)?;
    octets[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&octets))
}

fn uri(name: &SpiffeName) -> Result<SanType, CertError> {
    name.to_string().try_into().map(SanType::URI).map_err(CertError::crypto)
}

fn dns(name: &str) -> Result<SanType, CertError> {
    let fault = || CertError::DnsName { name: name.chars().take(80).collect() };
    if DnsName::try_from(name).is_err() {
        return Err(fault());
    }
    name.try_into().map(SanType::DnsName).map_err(|_| fault())
}

pub(super) fn requested_key(request_pem: &str) -> Result<SubjectPublicKeyInfo, CertError> {
    let der = CertificateSigningRequestDer::from_pem_slice(request_pem.as_bytes())
        .map_err(|why| refused(format_args!("it holds no CERTIFICATE REQUEST in PEM format ({why})")))?;
    let (rest, request) = X509CertificationRequest::from_der(&der)
        .map_err(|why| refused(format_args!("it is not a PKCS#10 request ({why})")))?;
    if !rest.is_empty() {
        return Err(refused("bytes follow it"));
    }
    request.verify_signature().map_err(|why| {
        refused(format_args!(
            "its signature was not made with its own key, so the sender may not have it ({why})"
        ))
    })?;
    let kinds = "use an ECDSA P-256 key (or P-384, or Ed25519)";
    let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| refused(format_args!("its key is of an unknown kind: {kinds}")))?;
    if [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519].contains(&key.algorithm()) {
        Ok(key)
    } else {
        Err(refused(format_args!("nodes do not use keys of its kind: {kinds}")))
    }
}

fn refused(why: impl fmt::Display) -> CertError {
    CertError::Request { why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::KeyPair;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn days(days: u32) -> Validity {
        Validity::starting(now(), days).expect("in range")
    }

    fn mesh() -> MeshName {
        MeshName::new("prod").expect("valid")
    }

    fn node() -> NodeId {
        NodeId::new("node-1").expect("valid")
    }

    fn pair() -> CertPair {
        make_ca(&mesh(), days(100)).expect("made")
    }

    fn ca() -> Ca {
        let pair = pair();
        Ca::from_pem(&pair.cert_pem, &pair.key_pem).expect("a CA")
    }

    fn facts(pem: &str) -> Facts {
        Facts::read(&der(pem)).expect("readable")
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        inspect::parse_certificates(pem).expect("PEM").remove(0)
    }

    fn request(params: &CertificateParams, key: &KeyPair) -> String {
        params.serialize_request(key).expect("a request").pem().expect("PEM")
    }

    fn pem_of(label: &str, der: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = format!("-----BEGIN {label}-----\n");
        for three in der.chunks(3) {
            let bits =
                three.iter().fold(0, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - three.len()));
            for digit in 0..4 {
                let index = (bits >> (18 - 6 * digit) & 63) as usize;
                text.push(if digit <= three.len() { char::from(DIGITS[index]) } else { '=' });
            }
        }
        text + &format!("\n-----END {label}-----\n")
    }

    #[test]
    fn a_ca_names_its_mesh_and_signs_leaves_only() {
        let pair = pair();
        let facts = facts(&pair.cert_pem);
        assert!(facts.is_ca);
        assert_eq!(facts.uris, ["spiffe://prod"]);
        assert_eq!(facts.key_usages, Some(vec!["keyCertSign", "cRLSign"]));
        let der = der(&pair.cert_pem);
        let parsed = inspect::parse(&der).expect("readable");
        let basic = parsed.basic_constraints().expect("unique").expect("present");
        assert_eq!((basic.critical, basic.value.path_len_constraint), (true, Some(0)));
    }

    #[test]
    fn a_leaf_has_one_uri_both_purposes_and_the_names_asked_for() {
        let ca = ca();
        let pair =
            issue(&ca, &node(), &["a.example".to_owned()], &["::1".parse().expect("an address")], days(30))
                .expect("issued");
        let facts = facts(&pair.cert_pem);
        assert!(!facts.is_ca);
        assert_eq!(facts.uris, ["spiffe://prod/node/node-1"]);
        assert_eq!(facts.dns_names, ["a.example"]);
        assert_eq!(facts.ip_addresses, ["::1".parse::<IpAddr>().expect("an address")]);
        assert_eq!(facts.key_usages, Some(vec!["digitalSignature"]));
        assert_eq!(facts.extended_key_usages, ["serverAuth", "clientAuth"]);
        assert_eq!(facts.not_before, now() - limits::CERT_BACKDATE);
        assert_eq!(facts.not_after, now() + Duration::from_secs(30 * 86_400));
        assert_eq!(facts.days_left(now()), 30);
        assert_eq!(facts.days_left(now() + Duration::from_secs(1)), 29);
        assert_eq!(facts.days_left(facts.not_after + Duration::from_secs(1)), -1);
        assert!(inspect::is_signed_by(&der(&pair.cert_pem), &der(ca.bundle_pem())));
        assert!(!inspect::is_signed_by(&der(&pair.cert_pem), &der(self::ca().bundle_pem())));
    }

    #[test]
    fn two_certificates_for_one_node_differ_in_key_and_serial() {
        let ca = ca();
        let [one, two] = [(); 2].map(|()| issue(&ca, &node(), &[], &[], days(30)).expect("issued"));
        assert_ne!(one.key_pem, two.key_pem);
        assert_ne!(facts(&one.cert_pem).serial, facts(&two.cert_pem).serial);
    }

    #[test]
    fn the_longest_id_is_whole_in_the_uri() {
        let id = NodeId::new(&"x".repeat(limits::NODE_ID_BYTES_MAX)).expect("valid");
        let pair = issue(&ca(), &id, &[], &[], days(30)).expect("issued");
        assert_eq!(facts(&pair.cert_pem).uris, [format!("spiffe://prod/node/{id}")]);
    }

    #[test]
    fn a_leaf_may_not_outlive_its_ca() {
        let error = issue(&ca(), &node(), &[], &[], days(101)).expect_err("101 of 100 days");
        assert!(matches!(error, CertError::OutlivesCa { ca_days_left: 100, days_asked: 101 }), "{error}");
        issue(&ca(), &node(), &[], &[], days(100)).expect("100 of 100 days");
    }

    #[test]
    fn a_validity_outside_its_bounds_is_refused() {
        for days in [0, limits::CERT_DAYS_MAX + 1] {
            assert!(matches!(Validity::starting(now(), days), Err(CertError::Days { .. })), "{days}");
        }
        let eight_millennia = Duration::from_secs(8000 * 365 * 86_400);
        for clock in [SystemTime::UNIX_EPOCH - Duration::from_secs(1), now() + eight_millennia] {
            assert!(matches!(Validity::starting(clock, 1), Err(CertError::Clock { .. })), "{clock:?}");
        }
    }

    #[test]
    fn a_bad_or_excessive_host_name_is_refused() {
        for name in ["", "a b", "-a", "*.example", "a..b", "ä.example", "127.0.0.1"] {
            let error = issue(&ca(), &node(), &[name.to_owned()], &[], days(1)).expect_err(name);
            assert!(matches!(error, CertError::DnsName { .. }), "{error}");
        }
        let many = vec!["a.example".to_owned(); limits::CERT_HOSTS_MAX + 1];
        assert!(matches!(issue(&ca(), &node(), &many, &[], days(1)), Err(CertError::TooManyHosts { .. })));
    }

    #[test]
    fn a_request_contributes_its_key_and_nothing_else() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "admin");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.subject_alt_names = vec![SanType::URI("spiffe://prod/node/other".try_into().expect("ASCII"))];
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).expect("a key");
            let pem = issue_for_request(&ca(), &node(), &request(&params, &key), &[], &[], days(30))
                .expect("issued");
            let facts = facts(&pem);
            assert!(!facts.is_ca && facts.subject.contains("node-1"), "{facts:?}");
            assert_eq!(facts.uris, ["spiffe://prod/node/node-1"]);
            let certificate = der(&pem);
            let parsed = inspect::parse(&certificate).expect("readable");
            assert_eq!(parsed.public_key().raw, key.subject_public_key_info());
        }
    }

    #[test]
    fn a_request_without_proof_of_its_key_is_refused() {
        let key = KeyPair::generate().expect("a key");
        let request = CertificateParams::default().serialize_request(&key).expect("a request");
        let mut tampered = request.der().to_vec();
        let last = tampered.len() - 1;
        tampered[last] ^= 1;
        let pem = pem_of("CERTIFICATE REQUEST", &tampered);
        let error = issue_for_request(&ca(), &node(), &pem, &[], &[], days(30)).expect_err("tampered");
        assert!(error.to_string().contains("signature"), "{error}");
    }

    #[test]
    fn a_request_that_is_none_is_refused() {
        for text in ["", "hello", &pair().cert_pem, &pem_of("CERTIFICATE REQUEST", b"junk")] {
            let error = issue_for_request(&ca(), &node(), text, &[], &[], days(30)).expect_err("no request");
            assert!(matches!(error, CertError::Request { .. }), "{error}");
        }
    }

    #[test]
    fn a_node_does_not_get_a_certificate_for_the_key_of_its_ca() {
        let pair = pair();
        let key = KeyPair::from_pem(&pair.key_pem).expect("a key");
        let ca = Ca::from_pem(&pair.cert_pem, &pair.key_pem).expect("a CA");
        let request = request(&CertificateParams::default(), &key);
        let error = issue_for_request(&ca, &node(), &request, &[], &[], days(30)).expect_err("the CA's key");
        assert!(error.to_string().contains("the CA's own"), "{error}");
    }

    #[test]
    fn in_a_bundle_the_certificate_of_the_key_signs() {
        let (old, new) = (pair(), pair());
        let bundle = format!("{}{}", old.cert_pem, new.cert_pem);
        let ca = Ca::from_pem(&bundle, &new.key_pem).expect("a CA");
        let leaf = issue(&ca, &node(), &[], &[], days(30)).expect("issued");
        assert!(inspect::is_signed_by(&der(&leaf.cert_pem), &der(&new.cert_pem)));
        assert_eq!(ca.bundle_pem(), bundle);
        assert!(matches!(Ca::from_pem(&old.cert_pem, &new.key_pem), Err(CertError::KeyMismatch)));
    }

    #[test]
    fn a_leaf_is_no_ca() {
        let leaf = issue(&ca(), &node(), &[], &[], days(30)).expect("issued");
        let error = Ca::from_pem(&leaf.cert_pem, &leaf.key_pem).expect_err("a leaf");
        assert!(matches!(error, CertError::NotCa { .. }), "{error}");
    }

    #[test]
    fn a_key_shows_in_no_debug_text_and_no_error() {
        let pair = pair();
        let secret = pair.key_pem.lines().nth(1).expect("base64").to_owned();
        let ca = Ca::from_pem(&pair.cert_pem, &pair.key_pem).expect("a CA");
        let broken = pair.key_pem.replacen("MIG", "AAA", 1);
        let error = Ca::from_pem(&pair.cert_pem, &broken).expect_err("broken");
        for text in [format!("{pair:?}"), format!("{ca:?}"), format!("{error:?}")] {
            assert!(!text.contains(&secret), "{text}");
        }
    }
}
