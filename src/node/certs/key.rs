//! Keys: making them, signing requests for them, signatures that prove that somebody has one.
//!
//! A signature here is always over a text that begins with what it is for, so that one made for one
//! purpose is never good for another. Keys are ECDSA P-256 where this program makes them; P-384 and Ed25519 of
//! other making are taken too.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, PublicKeyData, SigningKey, SubjectPublicKeyInfo,
};
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use sha2::{Digest, Sha256};

use super::{CertError, files, inspect, read_text};

/// A new key, as text in PEM format (PKCS#8).
///
/// # Errors
/// [`CertError::Crypto`] when the system gives no random numbers.
pub fn new_key_pem() -> Result<String, CertError> {
    Ok(new_key()?.serialize_pem())
}

pub(super) fn new_key() -> Result<KeyPair, CertError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CertError::crypto)
}

/// The key in the file at `path`, in PEM format; where there is none, a new one that is written there with mode 0600.
/// A key that is there is never replaced.
///
/// # Errors
/// [`CertError`] with the path.
pub fn keep_key(path: &Path) -> Result<String, CertError> {
    if path.symlink_metadata().is_ok() {
        let key_pem = read_text(path)?;
        parse(&key_pem).map_err(|error| error.at(path))?;
        return Ok(key_pem);
    }
    let key_pem = new_key_pem()?;
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(files::DIR_MODE)
            .create(dir)
            .map_err(|source| CertError::io("make the directory")(source).at(dir))?;
    }
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(files::KEY_MODE).open(path)?;
        file.write_all(key_pem.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| CertError::io("write it")(source).at(path))?;
    Ok(key_pem)
}

/// A request for a certificate for this key (PKCS#10, in PEM format). It names nobody: who asks and for which name is
/// told beside it.
///
/// # Errors
/// [`CertError`] when the key cannot be read or does not sign.
pub fn request_for(key_pem: &str) -> Result<String, CertError> {
    let key = parse(key_pem)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(CertError::crypto)?;
    request.pem().map_err(CertError::crypto)
}

/// Signs `message` with a key in PEM format.
///
/// # Errors
/// As [`request_for`].
pub fn sign_with(key_pem: &str, message: &[u8]) -> Result<Vec<u8>, CertError> {
    sign(&parse(key_pem)?, message)
}

pub(super) fn sign(key: &KeyPair, message: &[u8]) -> Result<Vec<u8>, CertError> {
    SigningKey::sign(key, message).map_err(CertError::crypto)
}

/// Whether the key of a certificate (DER format) made this signature.
#[must_use]
pub fn has_signed(certificate: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Ok(certificate) = inspect::parse(certificate) else {
        return false;
    };
    SubjectPublicKeyInfo::from_der(certificate.public_key().raw)
        .is_ok_and(|key| verifies(&key, message, signature))
}

pub(super) fn verifies(key: &impl PublicKeyData, message: &[u8], signature: &[u8]) -> bool {
    let algorithm: &dyn VerificationAlgorithm = if key.algorithm() == &PKCS_ECDSA_P256_SHA256 {
        &signature::ECDSA_P256_SHA256_ASN1
    } else if key.algorithm() == &PKCS_ECDSA_P384_SHA384 {
        &signature::ECDSA_P384_SHA384_ASN1
    } else if key.algorithm() == &PKCS_ED25519 {
        &signature::ED25519
    } else {
        return false;
    };
    UnparsedPublicKey::new(algorithm, key.der_bytes()).verify(message, signature).is_ok()
}

/// SHA-256 of a public key (SubjectPublicKeyInfo), in hexadecimal.
pub(super) fn digest_of(key: &impl PublicKeyData) -> String {
    Sha256::digest(key.subject_public_key_info()).iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The text of a parser's complaint about a key could hold a piece of the key, so it is not passed on.
fn parse(key_pem: &str) -> Result<KeyPair, CertError> {
    KeyPair::from_pem(key_pem)
        .map_err(|_| CertError::malformed("private key", "it is not an unencrypted PKCS#8 key in PEM format"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("certs/node.key");
        let made = keep_key(&path).expect("made");
        assert_eq!(keep_key(&path).expect("kept"), made);
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        std::fs::write(&path, "no key").expect("written");
        let error = keep_key(&path).expect_err("no key").to_string();
        assert!(error.contains("node.key") && error.contains("private key"), "{error}");
    }

    #[test]
    fn a_signature_is_good_for_its_text_and_its_key_alone() {
        let (key, other) = (new_key().expect("made"), new_key().expect("made"));
        let signature = sign(&key, b"text").expect("signed");
        assert!(verifies(&key, b"text", &signature));
        assert!(!verifies(&other, b"text", &signature));
        assert!(!verifies(&key, b"another", &signature));
        assert!(!verifies(&key, b"text", b""));
        for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).expect("made");
            let signature = sign(&key, b"text").expect("signed");
            assert!(verifies(&key, b"text", &signature) && !verifies(&key, b"t", &signature));
        }
    }
}
