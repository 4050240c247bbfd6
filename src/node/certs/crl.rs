//! Lists of revoked certificates (CRLs): makes them, reads them, and checks who signed them.
//!
//! A [`Crl`] exists only with a CA's signature that was verified. It belongs to the CA's key and not to the CA's
//! name: the two CAs of a rotation have the same name, and a list of the one says nothing about the other's
//! certificates. Of two lists of one key the one with the higher number is newer, whatever their dates say.
//!
//! It does not decide which list applies or what is done with a revoked certificate; that is the business of
//! [`crate::node::transport::tls`]. It keeps no record of what was revoked: a list is made whole, each time.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use base64::Engine as _;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::oid_registry::{
    OID_X509_EXT_CRL_NUMBER, OID_X509_EXT_DELTA_CRL_INDICATOR, OID_X509_EXT_ISSUER_DISTRIBUTION_POINT,
};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::inspect::{self, system_time};
use super::{Ca, CertError, Facts, Validity};
use crate::core::ids::CaKeyId;
use crate::core::limits;

/// What a file in PEM format calls a CRL.
const CRL: &str = "revocation list (CRL)";

/// The most octets of a serial number (RFC 5280, 4.1.2.2).
const SERIAL_BYTES_MAX: usize = 20;

/// The serial number of a certificate, as its CA numbers them: shown and read as hexadecimal bytes separated
/// by colons. Leading zeros do not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// The serial number of a certificate in DER format.
    ///
    /// # Errors
    /// [`CertError::Malformed`] when the certificate cannot be read.
    pub fn of(certificate: &[u8]) -> Result<Self, CertError> {
        Ok(Self::from_octets(inspect::parse(certificate)?.raw_serial()))
    }

    fn from_octets(octets: &[u8]) -> Self {
        let start = octets.iter().position(|octet| *octet != 0);
        Self(start.map_or_else(|| vec![0], |start| octets[start..].to_vec()))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, octet) in self.0.iter().enumerate() {
            write!(f, "{}{octet:02x}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl FromStr for Serial {
    type Err = CertError;

    /// Reads hexadecimal digits of either case, with colons between bytes or without.
    fn from_str(text: &str) -> Result<Self, CertError> {
        let fault = || CertError::Serial { text: text.chars().take(80).collect() };
        let digits: Vec<u8> = if text.contains(':') {
            let whole = |byte: &str| byte.len() == 2 || byte.len() == 1;
            if !text.split(':').all(whole) {
                return Err(fault());
            }
            text.split(':').flat_map(|byte| format!("{byte:0>2}").into_bytes()).collect()
        } else {
            format!("{}{text}", if text.len().is_multiple_of(2) { "" } else { "0" }).into_bytes()
        };
        if digits.is_empty() || digits.len() > 2 * SERIAL_BYTES_MAX {
            return Err(fault());
        }
        let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let octets: Option<Vec<u8>> =
            digits.chunks(2).map(|pair| Some(value(pair[0])? << 4 | value(*pair.get(1)?)?)).collect();
        octets.map(|octets| Self::from_octets(&octets)).ok_or_else(fault)
    }
}

impl CaKeyId {
    /// The name of the key in a certificate in DER format.
    ///
    /// # Errors
    /// [`CertError::Malformed`] when the certificate cannot be read.
    pub fn of(certificate: &[u8]) -> Result<Self, CertError> {
        Ok(Self(Sha256::digest(inspect::parse(certificate)?.public_key().raw).into()))
    }
}

/// One revoked certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number.
    pub serial: Serial,
    /// Since when it is to be trusted no more, to the second; for people, it decides nothing.
    pub since: SystemTime,
}

/// A list of revoked certificates whose signature was found to be that of a trusted CA.
#[derive(Clone, PartialEq, Eq)]
pub struct Crl {
    /// The key that signed it.
    pub issuer: CaKeyId,
    /// Its number: the higher of two lists of one issuer is the newer.
    pub number: u64,
    /// When it was made.
    pub this_update: SystemTime,
    /// When the next one is due. It still applies afterwards.
    pub next_update: SystemTime,
    der: CertificateRevocationListDer<'static>,
    serials: BTreeSet<Serial>,
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crl")
            .field("issuer", &self.issuer)
            .field("number", &self.number)
            .field("serials", &self.serials.len())
            .finish_non_exhaustive()
    }
}

impl Crl {
    /// Reads a list in DER format and finds the one of `cas` (certificates in DER format) that signed it.
    ///
    /// # Errors
    /// [`CertError`]: it is malformed or too large, none of `cas` signed it, its number is missing or too large, or it
    /// covers a part of its CA's certificates only (a delta, or one with a distribution point).
    pub fn read(der: &[u8], cas: &[CertificateDer<'_>]) -> Result<Self, CertError> {
        if der.len() > limits::CRL_BYTES_MAX {
            return Err(CertError::CrlTooLarge);
        }
        let (rest, list) =
            CertificateRevocationList::from_der(der).map_err(|why| CertError::malformed(CRL, why))?;
        if !rest.is_empty() {
            return Err(CertError::malformed(CRL, format_args!("{} bytes follow it", rest.len())));
        }
        // What decides at handshakes is read by another parser, which must understand it too.
        webpki::OwnedCertRevocationList::from_der(der).map_err(|why| CertError::malformed(CRL, why))?;
        let issuer = signer(&list, cas)?;
        let partial = [OID_X509_EXT_DELTA_CRL_INDICATOR, OID_X509_EXT_ISSUER_DISTRIBUTION_POINT];
        if list.extensions().iter().any(|extension| partial.contains(&extension.oid)) {
            return Err(CertError::malformed(CRL, "it covers a part of its CA's certificates only"));
        }
        let next_update =
            list.next_update().ok_or_else(|| CertError::malformed(CRL, "it does not say when it ends"))?;
        Ok(Self {
            issuer,
            number: number(&list)?,
            this_update: system_time(list.last_update())?,
            next_update: system_time(next_update)?,
            serials: list.iter_revoked_certificates().map(|r| Serial::from_octets(r.raw_serial())).collect(),
            der: der.to_vec().into(),
        })
    }

    /// The list in DER format, as its CA signed it.
    #[must_use]
    pub fn der(&self) -> &CertificateRevocationListDer<'static> {
        &self.der
    }

    /// The list in PEM format.
    #[must_use]
    pub fn to_pem(&self) -> String {
        /// Characters of a line (RFC 7468).
        const LINE: usize = 64;
        let text = base64::engine::general_purpose::STANDARD.encode(&self.der);
        let mut pem = "-----BEGIN X509 CRL-----\n".to_owned();
        for line in text.as_bytes().chunks(LINE) {
            pem.extend(line.iter().copied().map(char::from));
            pem.push('\n');
        }
        pem + "-----END X509 CRL-----\n"
    }

    /// Whether it lists that certificate of its issuer.
    #[must_use]
    pub fn lists(&self, serial: &Serial) -> bool {
        self.serials.contains(serial)
    }

    /// The certificates that it lists, in order of their numbers.
    #[must_use]
    pub fn serials(&self) -> &BTreeSet<Serial> {
        &self.serials
    }
}

/// Makes the list of all certificates of `ca` that are revoked, in PEM format. It is valid from
/// [`limits::CERT_BACKDATE`] before the start of `validity`; the next one is due at its end. Each list of a CA needs
/// a higher `number` than the one before; the first is 1.
///
/// # Errors
/// [`CertError`] for the number 0, for more certificates than a list can carry, for a time that no list can hold and
/// for a CA that may not sign lists.
pub fn make_crl(ca: &Ca, revoked: &[Revoked], number: u64, validity: Validity) -> Result<String, CertError> {
    if number == 0 {
        return Err(CertError::malformed(CRL, "the first one has the number 1"));
    }
    let revoked_certs = revoked.iter().map(entry).collect::<Result<_, _>>()?;
    let params = CertificateRevocationListParams {
        this_update: validity.not_before(),
        next_update: validity.not_after(),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(ca.issuer()).map_err(CertError::crypto)?;
    if list.der().len() > limits::CRL_BYTES_MAX {
        return Err(CertError::CrlTooLarge);
    }
    list.pem().map_err(CertError::crypto)
}

/// The lists in a text in PEM format, in their order and not verified: see [`Crl::read`]. There may be none.
///
/// # Errors
/// [`CertError`] when there are more than [`limits::CRLS_MAX`] or the text is not well-formed.
pub fn parse_crls(pem: &str) -> Result<Vec<CertificateRevocationListDer<'static>>, CertError> {
    let mut lists = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()) {
        if lists.len() == limits::CRLS_MAX {
            return Err(CertError::TooManyCrls);
        }
        lists.push(list.map_err(|why| CertError::malformed("PEM file", why))?);
    }
    if lists.is_empty() { Err(CertError::NoCrl) } else { Ok(lists) }
}

fn entry(revoked: &Revoked) -> Result<RevokedCertParams, CertError> {
    let seconds = revoked.since.duration_since(SystemTime::UNIX_EPOCH).map(|since| since.as_secs());
    let unix_seconds = seconds.map_or(-1, |seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
    let clock = CertError::Clock { unix_seconds };
    if unix_seconds < 0 {
        return Err(clock);
    }
    Ok(RevokedCertParams {
        serial_number: SerialNumber::from_slice(&revoked.serial.0),
        revocation_time: OffsetDateTime::from_unix_timestamp(unix_seconds).map_err(|_| clock)?,
        reason_code: None,
        invalidity_date: None,
    })
}

fn signer(list: &CertificateRevocationList<'_>, cas: &[CertificateDer<'_>]) -> Result<CaKeyId, CertError> {
    for ca in cas {
        let facts = Facts::read(ca)?;
        let signs = facts.key_usages.is_none_or(|usages| usages.contains(&Facts::CRL_SIGN));
        let certificate = inspect::parse(ca)?;
        if facts.is_ca
            && signs
            && certificate.subject().as_raw() == list.issuer().as_raw()
            && list.verify_signature(certificate.public_key()).is_ok()
        {
            return CaKeyId::of(ca);
        }
    }
    Err(CertError::CrlIssuer)
}

fn number(list: &CertificateRevocationList<'_>) -> Result<u64, CertError> {
    let mut numbers = list.extensions().iter().filter(|extension| extension.oid == OID_X509_EXT_CRL_NUMBER);
    let (Some(_), None) = (numbers.next(), numbers.next()) else {
        return Err(CertError::malformed(CRL, "it does not have exactly one number"));
    };
    let number = list.crl_number().ok_or_else(|| CertError::malformed(CRL, "its number cannot be read"))?;
    u64::try_from(number).map_err(|_| CertError::malformed(CRL, "its number has more than 64 bits"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::ids::{MeshName, NodeId};
    use crate::node::certs::{issue, make_ca, parse_certificates};

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn days(days: u32) -> Validity {
        Validity::starting(now(), days).expect("in range")
    }

    fn ca() -> Ca {
        let pair = make_ca(&MeshName::new("prod").expect("valid"), days(100)).expect("made");
        Ca::from_pem(&pair.cert_pem, &pair.key_pem).expect("a CA")
    }

    fn certificates(ca: &Ca) -> Vec<CertificateDer<'static>> {
        parse_certificates(ca.bundle_pem()).expect("PEM")
    }

    fn serial(text: &str) -> Serial {
        text.parse().expect("a serial")
    }

    fn revoked(texts: &[&str]) -> Vec<Revoked> {
        texts.iter().map(|text| Revoked { serial: serial(text), since: now() }).collect()
    }

    fn der(pem: &str) -> CertificateRevocationListDer<'static> {
        parse_crls(pem).expect("PEM").remove(0)
    }

    #[test]
    fn a_list_is_read_back_as_it_was_made() {
        let ca = ca();
        let pem = make_crl(&ca, &revoked(&["01:02", "ff", "7f"]), u64::MAX, days(7)).expect("made");
        let crl = Crl::read(&der(&pem), &certificates(&ca)).expect("readable");
        assert_eq!((crl.number, crl.next_update), (u64::MAX, now() + Duration::from_secs(7 * 86_400)));
        assert_eq!(crl.this_update, now() - limits::CERT_BACKDATE);
        assert_eq!(crl.serials().iter().map(ToString::to_string).collect::<Vec<_>>(), ["01:02", "7f", "ff"]);
        assert_eq!(crl.issuer, CaKeyId::of(&certificates(&ca)[0]).expect("readable"));
        assert_eq!(der(&crl.to_pem()), *crl.der());
    }

    #[test]
    fn an_empty_list_is_a_list() {
        let ca = ca();
        let pem = make_crl(&ca, &[], 1, days(7)).expect("made");
        assert!(Crl::read(&der(&pem), &certificates(&ca)).expect("readable").serials().is_empty());
    }

    #[test]
    fn a_certificate_is_listed_by_the_number_that_people_are_shown() {
        let ca = ca();
        let pair = issue(&ca, &NodeId::new("a").expect("valid"), &[], &[], days(7)).expect("issued");
        let leaf = parse_certificates(&pair.cert_pem).expect("PEM").remove(0);
        let shown = Facts::read(&leaf).expect("readable").serial;
        let pem = make_crl(&ca, &revoked(&[&shown]), 1, days(7)).expect("made");
        let crl = Crl::read(&der(&pem), &certificates(&ca)).expect("readable");
        assert!(crl.lists(&Serial::of(&leaf).expect("readable")));
        assert!(!crl.lists(&serial("01")));
    }

    #[test]
    fn a_list_belongs_to_the_key_that_signed_it_even_where_two_cas_have_one_name() {
        let (old, new) = (ca(), ca());
        let both = [certificates(&old), certificates(&new)].concat();
        let pem = make_crl(&new, &revoked(&["01"]), 1, days(7)).expect("made");
        let crl = Crl::read(&der(&pem), &both).expect("readable");
        assert_eq!(crl.issuer, CaKeyId::of(&both[1]).expect("readable"));
        assert!(matches!(Crl::read(&der(&pem), &both[..1]), Err(CertError::CrlIssuer)));
    }

    #[test]
    fn a_single_changed_or_missing_byte_is_refused() {
        let ca = ca();
        let cas = certificates(&ca);
        let list = der(&make_crl(&ca, &revoked(&["01:02"]), 3, days(7)).expect("made")).to_vec();
        for at in 0..list.len() {
            let mut changed = list.clone();
            changed[at] ^= 1;
            assert!(Crl::read(&changed, &cas).is_err(), "byte {at}");
            assert!(Crl::read(&list[..at], &cas).is_err(), "{at} bytes");
        }
        assert!(Crl::read(&[list, vec![0]].concat(), &cas).is_err());
    }

    #[test]
    fn a_list_has_bounds() {
        let ca = ca();
        assert!(matches!(make_crl(&ca, &[], 0, days(7)), Err(CertError::Malformed { .. })));
        let many: Vec<_> = (0_u32..20_000)
            .map(|n| Revoked { serial: Serial::from_octets(&n.to_be_bytes()), since: now() })
            .collect();
        assert!(matches!(make_crl(&ca, &many, 1, days(7)), Err(CertError::CrlTooLarge)));
        let too_large = vec![0; limits::CRL_BYTES_MAX + 1];
        assert!(matches!(Crl::read(&too_large, &[]), Err(CertError::CrlTooLarge)));
        let one = make_crl(&ca, &[], 1, days(7)).expect("made");
        assert_eq!(parse_crls(&one.repeat(limits::CRLS_MAX)).expect("at its bound").len(), limits::CRLS_MAX);
        assert!(matches!(parse_crls(&one.repeat(limits::CRLS_MAX + 1)), Err(CertError::TooManyCrls)));
        assert!(matches!(parse_crls(""), Err(CertError::NoCrl)));
    }

    #[test]
    fn a_serial_number_is_read_in_the_forms_that_tools_print() {
        for (text, shown) in [("0A:ff", "0a:ff"), ("aFF", "0a:ff"), ("00:00:1", "01"), ("0", "00")] {
            assert_eq!(serial(text).to_string(), shown);
        }
        let long = "11".repeat(SERIAL_BYTES_MAX + 1);
        for text in ["", ":", "0x1", "g", "1::2", "123:4", "é", "éé", "é:1", " 1", long.as_str()] {
            assert!(text.parse::<Serial>().is_err(), "{text:?}");
        }
    }
}
