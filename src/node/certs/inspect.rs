//! Reads what a certificate says. Nothing is verified here: the facts are the certificate's own claims.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, SubjectAlternativeName};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::CertError;
use crate::core::limits;

const CERTIFICATE: &str = "certificate";

/// What one certificate says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whom it names, as a distinguished name.
    pub subject: String,
    /// Who signed it, as a distinguished name.
    pub issuer: String,
    /// Its serial number, in hexadecimal bytes separated by colons.
    pub serial: String,
    /// The first second at which it is valid.
    pub not_before: SystemTime,
    /// The last second at which it is valid.
    pub not_after: SystemTime,
    /// Whether it may sign other certificates.
    pub is_ca: bool,
    /// The URIs among its subject alternative names.
    pub uris: Vec<String>,
    /// The DNS names among them.
    pub dns_names: Vec<String>,
    /// The IP addresses among them.
    pub ip_addresses: Vec<IpAddr>,
    /// What its key may be used for; `None` when the certificate does not limit it.
    pub key_usages: Option<Vec<&'static str>>,
    /// The purposes of its extended key usage, by name or object identifier.
    pub extended_key_usages: Vec<String>,
    /// SHA-256 over the whole certificate, in the form that `openssl x509 -fingerprint` prints.
    pub fingerprint: String,
}

impl Facts {
    /// The key usage that a leaf needs to sign a TLS handshake.
    pub const DIGITAL_SIGNATURE: &'static str = "digitalSignature";
    /// The key usage that a CA needs to sign certificates.
    pub const KEY_CERT_SIGN: &'static str = "keyCertSign";
    /// The key usage that a CA needs to sign revocation lists.
    pub const CRL_SIGN: &'static str = "cRLSign";
    /// The purpose of a leaf that accepts connections.
    pub const SERVER_AUTH: &'static str = "serverAuth";
    /// The purpose of a leaf that opens connections.
    pub const CLIENT_AUTH: &'static str = "clientAuth";

    /// Reads one certificate in DER format.
    ///
    /// # Errors
    /// [`CertError::Malformed`] when any part that [`Facts`] shows cannot be read: a name that
    /// cannot be read could be one that matters.
    pub fn read(der: &[u8]) -> Result<Self, CertError> {
        let certificate = parse(der)?;
        let malformed = |why| CertError::malformed(CERTIFICATE, why);
        let mut facts = Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: certificate.raw_serial_as_string(),
            not_before: system_time(certificate.validity().not_before)?,
            not_after: system_time(certificate.validity().not_after)?,
            is_ca: certificate.basic_constraints().map_err(malformed)?.is_some_and(|basic| basic.value.ca),
            uris: Vec::new(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            key_usages: certificate.key_usage().map_err(malformed)?.map(|usage| key_usages(usage.value)),
            extended_key_usages: certificate
                .extended_key_usage()
                .map_err(malformed)?
                .map_or_else(Vec::new, |usage| extended_key_usages(usage.value)),
            fingerprint: fingerprint(der),
        };
        if let Some(names) = certificate.subject_alternative_name().map_err(malformed)? {
            facts.read_names(names.value)?;
        }
        Ok(facts)
    }

    /// Whole days from `now` until the certificate expires, rounded down; negative once it has.
    #[must_use]
    pub fn days_left(&self, now: SystemTime) -> i64 {
        const DAY_SECONDS: i64 = 86_400;
        let seconds = match self.not_after.duration_since(now) {
            Ok(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            // A part of a second past the end is past the end.
            Err(past) => -i64::try_from(past.duration().as_secs()).unwrap_or(i64::MAX) - 1,
        };
        seconds.div_euclid(DAY_SECONDS)
    }

    fn read_names(&mut self, names: &SubjectAlternativeName<'_>) -> Result<(), CertError> {
        for name in &names.general_names {
            if let GeneralName::URI(uri) = name {
                self.uris.push((*uri).to_owned());
            } else if let GeneralName::DNSName(dns) = name {
                self.dns_names.push((*dns).to_owned());
            } else if let GeneralName::IPAddress(octets) = name {
                self.ip_addresses.push(ip_address(octets)?);
            } else if let GeneralName::Invalid(..) = name {
                return Err(CertError::malformed(CERTIFICATE, "a subject alternative name cannot be read"));
            }
        }
        Ok(())
    }
}

/// The certificates in a text in PEM format, in their order, at least one.
///
/// # Errors
/// [`CertError`] when there is none, there are too many, or the text is not well-formed.
pub fn parse_certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        if certificates.len() == limits::CERTS_PER_FILE_MAX {
            return Err(CertError::TooManyCertificates);
        }
        certificates.push(certificate.map_err(|why| CertError::malformed("PEM file", why))?);
    }
    if certificates.is_empty() { Err(CertError::NoCertificate) } else { Ok(certificates) }
}

/// Whether the key of `issuer` made the signature of `certificate` (both in DER format). It says
/// nothing about whether `issuer` may sign, or whether either is valid now.
#[must_use]
pub fn is_signed_by(certificate: &[u8], issuer: &[u8]) -> bool {
    let (Ok(certificate), Ok(issuer)) = (parse(certificate), parse(issuer)) else {
        return false;
    };
    certificate.issuer().as_raw() == issuer.subject().as_raw()
        && certificate.verify_signature(Some(issuer.public_key())).is_ok()
}

/// Parses one certificate and insists that nothing follows it.
pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|why| CertError::malformed(CERTIFICATE, why))?;
    if rest.is_empty() {
        Ok(certificate)
    } else {
        Err(CertError::malformed(CERTIFICATE, format_args!("{} bytes follow it", rest.len())))
    }
}

fn fingerprint(der: &[u8]) -> String {
    let octets: Vec<String> = Sha256::digest(der).iter().map(|octet| format!("{octet:02X}")).collect();
    octets.join(":")
}

pub(super) fn system_time(time: ASN1Time) -> Result<SystemTime, CertError> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    time.ok_or_else(|| CertError::malformed(CERTIFICATE, "a date is out of range"))
}

fn ip_address(octets: &[u8]) -> Result<IpAddr, CertError> {
    if let Ok(four) = <[u8; 4]>::try_from(octets) {
        return Ok(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(octets)
        .map(IpAddr::from)
        .map_err(|_| CertError::malformed(CERTIFICATE, "an IP address has neither 4 nor 16 bytes"))
}

fn key_usages(usage: &KeyUsage) -> Vec<&'static str> {
    let all = [
        (usage.digital_signature(), Facts::DIGITAL_SIGNATURE),
        (usage.non_repudiation(), "nonRepudiation"),
        (usage.key_encipherment(), "keyEncipherment"),
        (usage.data_encipherment(), "dataEncipherment"),
        (usage.key_agreement(), "keyAgreement"),
        (usage.key_cert_sign(), Facts::KEY_CERT_SIGN),
        (usage.crl_sign(), Facts::CRL_SIGN),
        (usage.encipher_only(), "encipherOnly"),
        (usage.decipher_only(), "decipherOnly"),
    ];
    all.into_iter().filter_map(|(set, name)| set.then_some(name)).collect()
}

fn extended_key_usages(usage: &ExtendedKeyUsage<'_>) -> Vec<String> {
    let all = [
        (usage.any, "anyExtendedKeyUsage"),
        (usage.server_auth, Facts::SERVER_AUTH),
        (usage.client_auth, Facts::CLIENT_AUTH),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
    ];
    let named = all.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned());
    named.chain(usage.other.iter().map(ToString::to_string)).collect()
}
