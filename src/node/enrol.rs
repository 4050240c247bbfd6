//! A node's first certificate: made for a key that never leaves this machine, by a node that has the CA, for a join token.
//!
//! [`first_certificate`] comes before [`super::start`]. It keeps the key before it asks, so that a machine that
//! fails in the middle asks again for the same key; and it writes the certificate last, so that a certificate that is
//! there stands for files that are complete.

use std::path::{Path, PathBuf};

use super::certs::{self, CertError, Existing, Granted, JoinToken, TokenError};
use super::clock;
use super::config::{Config, TokenSource};
use super::transport::join::{self, Asker, JoinError};
use super::transport::tls::{NodeIdentity, TlsError};
use crate::core::ids::{MeshName, NodeId};
use crate::core::limits;

/// Why a node did not get its first certificate. Its key may have been made; nothing else was written.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The file with the token.
    #[error("the join token cannot be read from {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text of the token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token is for another name.
    #[error(
        "the join token is for node {token} of mesh {mesh}, and this node is called {configured}: make one for that name"
    )]
    OtherName {
        /// In the token.
        token: NodeId,
        /// Its mesh.
        mesh: MeshName,
        /// In the configuration.
        configured: NodeId,
    },
    /// A `ca.crt` that is there is not that of the token.
    #[error("{path} holds another CA than the join token speaks of: remove it, or use a token of that CA")]
    OtherCa {
        /// The file.
        path: PathBuf,
    },
    /// What a node gave is not what the token promised.
    #[error(
        "a node answered with CAs that the join token does not know: make a new token, the CA may have changed"
    )]
    UnknownCa,
    /// What a node gave is no certificate for this node.
    #[error("a node answered with a certificate that is of no use here: {0}")]
    Useless(#[from] TlsError),
    /// Nobody gave one.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Key or files.
    #[error(transparent)]
    Cert(#[from] CertError),
}

/// Gets the node's first certificate, where it has none and was given a token; otherwise nothing happens.
///
/// # Errors
/// [`EnrolError`].
pub async fn first_certificate(config: &Config) -> Result<(), EnrolError> {
    let Some(source) = &config.enrolment.token else {
        return Ok(());
    };
    let tls = &config.tls;
    if tls.cert.symlink_metadata().is_ok() {
        tracing::info!(certificate = %tls.cert.display(), "the node has a certificate: its join token is not used");
        return Ok(());
    }
    let token = read_token(source)?;
    let claims = token.claims();
    if claims.node_id != config.node.id {
        let (token, mesh, configured) = (claims.node_id.clone(), claims.mesh.clone(), config.node.id.clone());
        return Err(EnrolError::OtherName { token, mesh, configured });
    }
    check_present_ca(&tls.ca, &claims.cas)?;
    let key_pem = certs::keep_key(&tls.key)?;
    let request_pem = certs::request_for(&key_pem)?;
    let seeds: Vec<String> = config.cluster.askable().iter().map(ToString::to_string).collect();
    tracing::info!(node = %config.node.id, mesh = %claims.mesh, "asking for the node's first certificate");
    let granted = join::ask(&seeds, &Asker::Token(&token), &config.node.id, &request_pem).await?;
    let fingerprints = fingerprints(&granted.ca_pem)?;
    if !fingerprints.iter().all(|fingerprint| claims.cas.contains(fingerprint)) {
        return Err(EnrolError::UnknownCa);
    }
    let Granted { ca_pem, cert_pem, .. } = &granted;
    let identity = NodeIdentity::from_pem(ca_pem, cert_pem, &key_pem, clock::wall_clock())?;
    if identity.node_id != config.node.id {
        return Err(EnrolError::UnknownCa);
    }
    write(config, &granted)?;
    tracing::info!(node = %config.node.id, certificate = %tls.cert.display(), "the node has its first certificate");
    Ok(())
}

fn read_token(source: &TokenSource) -> Result<JoinToken, EnrolError> {
    let text = match source {
        TokenSource::Text(secret) => return Ok(JoinToken::parse(secret.as_str())?),
        TokenSource::File(path) => {
            read_bounded(path).map_err(|source| EnrolError::File { path: path.clone(), source })?
        }
    };
    Ok(JoinToken::parse(&text)?)
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let most = limits::JOIN_TOKEN_CHARS_MAX as u64 + 2;
    std::fs::File::open(path)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// A `ca.crt` that somebody put there must be that of the token: it is replaced by the mesh's bundle.
fn check_present_ca(path: &Path, cas: &[String]) -> Result<(), EnrolError> {
    if !path.exists() {
        return Ok(());
    }
    let present = fingerprints(&certs::read_text(path)?).map_err(|error| error.at(path))?;
    if present.iter().any(|fingerprint| cas.contains(fingerprint)) {
        return Ok(());
    }
    Err(EnrolError::OtherCa { path: path.to_owned() })
}

fn fingerprints(pem: &str) -> Result<Vec<String>, CertError> {
    let certificates = certs::parse_certificates(pem)?;
    certificates.iter().map(|certificate| Ok(certs::Facts::read(certificate)?.fingerprint)).collect()
}

fn write(config: &Config, granted: &Granted) -> Result<(), CertError> {
    let tls = &config.tls;
    certs::write_certificate(&tls.ca, &granted.ca_pem, Existing::Replace)?;
    if let Some(crl_pem) = &granted.crl_pem {
        certs::write_certificate(tls.crl.path(), crl_pem, Existing::Replace)?;
    }
    certs::write_certificate(&tls.cert, &granted.cert_pem, Existing::Keep)
}
