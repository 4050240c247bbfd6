//! The TLS settings of connections for a certificate: the node that has the CA shows its certificate and the CA's, the
//! asker shows none.
//!
//! An asker with a token knows the CA by its fingerprint; a node that wants its next certificate trusts
//! whom it trusts otherwise. Nothing here lets anyone into the mesh: these settings offer [`JOIN_ALPN`] alone.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, PeerIncompatible, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::JOIN_ALPN;
use super::identity::NodeIdentity;
use super::verify::{MeshVerifier, Root, Trust};
use crate::core::ids::{CaKeyId, MeshName};
use crate::core::limits;
use crate::node::certs::{CertError, Facts, is_signed_by};

/// The other end is not who the token speaks of.
#[derive(thiserror::Error)]
#[error(
    "the CA that it shows is not the one in the token: it belongs to another mesh, or somebody is in between"
)]
struct OtherCa;

/// `rustls` prints reasons of ours by `Debug`, so this is what the operator reads.
impl fmt::Debug for OtherCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The settings with which a node answers those that want a certificate. `bundle` holds the CAs that it may show.
///
/// # Errors
/// [`CertError::OtherCa`] when none of them signed the node's own certificate: nobody could know the node by them.
pub(crate) fn join_server_config(
    identity: &NodeIdentity,
    bundle: &[CertificateDer<'static>],
) -> Result<ServerConfig, CertError> {
    let own = identity.certified();
    let leaf = own.cert.first().cloned().ok_or(CertError::NoCertificate)?;
    let signers: Vec<_> = bundle.iter().filter(|ca| is_signed_by(&leaf, ca)).cloned().collect();
    if signers.is_empty() {
        return Err(CertError::OtherCa { subject: Facts::read(&leaf)?.subject });
    }
    let chain = std::iter::once(leaf).chain(signers).collect();
    let certified = Arc::new(CertifiedKey::new(chain, Arc::clone(&own.key)));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has cipher suites for TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(config)
}

/// The settings with which a machine with a token asks: the other end must be a node of `mesh` under a CA with one
/// of these fingerprints.
pub(crate) fn join_client_config(mesh: &MeshName, fingerprints: &[String]) -> ClientConfig {
    let verifier = ByFingerprint { mesh: mesh.clone(), fingerprints: fingerprints.to_vec() };
    client_config(Arc::new(verifier))
}

/// The settings with which a node asks for its next certificate.
pub(crate) fn renewal_client_config(identity: &NodeIdentity) -> ClientConfig {
    client_config(Arc::new(MeshVerifier(identity.trust())))
}

fn client_config(verifier: Arc<dyn ServerCertVerifier>) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has cipher suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Trusts the CAs with these fingerprints, which the other end has to show itself.
#[derive(Debug)]
struct ByFingerprint {
    mesh: MeshName,
    fingerprints: Vec<String>,
}

impl ByFingerprint {
    fn roots(&self, shown: &[CertificateDer<'_>]) -> Vec<Root> {
        let root = |certificate: &CertificateDer<'_>| {
            let facts = Facts::read(certificate).ok()?;
            if !facts.is_ca || !self.fingerprints.contains(&facts.fingerprint) {
                return None;
            }
            let unix = |time: SystemTime| {
                time.duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
            };
            Some(Root {
                key: CaKeyId::of(certificate).ok()?,
                crl: None,
                anchor: webpki::anchor_from_trusted_cert(certificate).ok()?.to_owned(),
                not_before: unix(facts.not_before)?,
                not_after: unix(facts.not_after)?,
            })
        };
        shown.iter().take(limits::CERTS_PER_FILE_MAX).filter_map(root).collect()
    }
}

impl ServerCertVerifier for ByFingerprint {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let roots = self.roots(intermediates);
        if roots.is_empty() {
            let other = CertificateError::Other(OtherError(Arc::new(OtherCa)));
            return Err(rustls::Error::InvalidCertificate(other));
        }
        let algorithms = provider().signature_verification_algorithms;
        Trust { mesh: self.mesh.clone(), roots, algorithms }.check(end_entity, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
