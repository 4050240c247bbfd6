//! A node's TLS: its identity, the settings of both ends of a connection, and who the peer is.
//!
//! TLS 1.3 only, with `ring`; both ends present a certificate and both verify. There is no 0-RTT,
//! because a replayed packet would act twice, and no resumption, because a resumed session would let in
//! a peer whose certificate has expired or been revoked since.
//!
//! With TLS 1.3 the dialler's side is complete before the other side has looked at the dialler's
//! certificate. A dialler knows that it was let in when the first answer of the application arrives.
//!
//! It does not watch files, choose between revocation lists or close connections.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use crate::core::ids::{MeshName, NodeId};
use crate::node::certs::{CertError, Facts, Serial};

mod identity;
mod join;
mod verify;

pub use identity::NodeIdentity;
pub use verify::{Refusal, Verified};

pub(crate) use join::{join_client_config, join_server_config, renewal_client_config};

/// The protocol that nodes speak with each other, as negotiated by ALPN.
pub const ALPN: &[u8] = b"shoal/1";

/// The protocol of those that want a certificate. Nothing of the mesh is spoken in it.
pub const JOIN_ALPN: &[u8] = b"shoal-join/1";

/// The server name to dial every node with. QUIC asks for one; ours is the same for all, is not sent, and is
/// not compared, because a node is known by the URI in its certificate and not by the host it runs on.
/// The name can never resolve (RFC 2606).
pub const SERVER_NAME: &str = "node.shoal.invalid";

/// Why a node's own files are no identity, or why a peer has none.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there.
    #[error("there is no {what} at {path}: make it with `shoal cert issue --ca CA-DIR --node-id ID --out {dir}`",
        dir = .path.parent().unwrap_or(Path::new(".")).display())]
    Missing {
        /// What the file should hold.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file of revocation lists that the configuration names is not there.
    #[error(
        "there is no file of revocation lists at {path}, which the configuration names: `shoal cert revoke` makes one, \
         or leave the key out"
    )]
    MissingCrl {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file cannot be read, or holds something else.
    #[error(transparent)]
    File(#[from] CertError),
    /// The file of the node's certificate holds more than it.
    #[error(
        "{path} holds {count} certificates: it must hold the node's alone, which the mesh's CA signs directly"
    )]
    NotAlone {
        /// The file.
        path: PathBuf,
        /// How many it holds.
        count: usize,
    },
    /// A trusted certificate is not one of a CA.
    #[error(
        "{path} holds the certificate of {subject}, which is not a CA: take the ca.crt that `shoal cert ca` made"
    )]
    NotCa {
        /// The file.
        path: PathBuf,
        /// Whom the certificate names.
        subject: String,
    },
    /// A trusted CA belongs to another mesh.
    #[error(
        "{path} holds the CA of mesh {theirs}, but the node's certificate is for mesh {ours}: use files of one mesh"
    )]
    CaOfOtherMesh {
        /// The file.
        path: PathBuf,
        /// The mesh of the CA.
        theirs: MeshName,
        /// The mesh of the node.
        ours: MeshName,
    },
    /// No trusted CA is valid now.
    #[error(
        "no CA in {path} is valid now: make a new one with `shoal cert ca` and issue the nodes' certificates again"
    )]
    NoValidCa {
        /// The file.
        path: PathBuf,
    },
    /// The private key cannot be read.
    #[error(
        "{path} holds no private key that can be used (PEM, ECDSA P-256, unencrypted): issue the certificate again"
    )]
    BadKey {
        /// The file.
        path: PathBuf,
    },
    /// The private key is not that of the certificate.
    #[error(
        "the key in {key} does not belong to the certificate in {cert}: issue both again, or restore the matching one"
    )]
    KeyMismatch {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// The mesh would refuse the node's certificate.
    #[error("{path}: {refusal}; issue it again with `shoal cert issue`")]
    Refused {
        /// The file.
        path: PathBuf,
        /// The reason that peers would give.
        refusal: Refusal,
    },
    /// The clock of this machine is before 1970.
    #[error("the clock of this machine is before 1970: set it, then start again")]
    Clock,
    /// The peer has shown no certificate.
    #[error("the peer has shown no certificate")]
    NoPeerCertificate,
    /// The peer's certificate is not that of a node of this mesh.
    #[error("the peer is refused: {0}")]
    Peer(Refusal),
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node in its certificate.
    pub node_id: NodeId,
    /// The last second at which its certificate is valid.
    pub not_after: SystemTime,
    /// The serial number of its certificate.
    pub serial: Serial,
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
}

/// The node at the other end of an established connection of [`ALPN`], by the certificate that the handshake verified.
///
/// # Errors
/// [`TlsError`] when there is no certificate or it does not name a node of `mesh`, which means that
/// the connection was not made with the settings of a [`NodeIdentity`].
pub fn peer_identity(connection: &quinn::Connection, mesh: &MeshName) -> Result<NodeId, TlsError> {
    Ok(peer(connection, mesh)?.node_id)
}

/// As [`peer_identity`], with the end of the certificate's validity.
///
/// # Errors
/// As [`peer_identity`].
pub fn peer(connection: &quinn::Connection, mesh: &MeshName) -> Result<Peer, TlsError> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or(TlsError::NoPeerCertificate)?;
    let leaf = chain.first().ok_or(TlsError::NoPeerCertificate)?;
    let node_id = verify::node_of(leaf, mesh).map_err(TlsError::Peer)?;
    let (serial, not_after) = (Serial::of(leaf)?, Facts::read(leaf)?.not_after);
    Ok(Peer { node_id, not_after, serial, certificate: leaf.clone() })
}
