//! The first frame of a connection: read, checked against the certificate, and refused with the reason that
//! both sides are told. What the core makes of a good one is not known here.

use quinn::{Connection, ConnectionError, TransportErrorCode, VarInt};
use rustls::AlertDescription;

use super::framing::{FrameReader, ReadError};
use super::peer::link_end;
use crate::core::contract::LinkEnd;
use crate::core::error::Refused;
use crate::core::ids::{MeshName, NodeId};
use crate::core::limits;
use crate::core::model::Hello;
use crate::core::wire::{self, FrameKind, VersionRange, WireError};

/// Why a dial or a handshake came to nothing.
#[derive(Debug)]
pub(super) struct DialFailure {
    pub(super) reason: String,
    /// Whether one side was reached by the other and refused it.
    pub(super) refused: Option<Refused>,
    /// Whether the other side seems not to hear this one; known of arrivals only.
    pub(super) unanswered: bool,
}

impl DialFailure {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), refused: None, unanswered: false }
    }
}

impl From<ConnectionError> for DialFailure {
    fn from(error: ConnectionError) -> Self {
        if let Some((refused, whose)) = certificate_refusal(&error) {
            return Self { reason: format!("{whose}: {error}"), refused: Some(refused), unanswered: false };
        }
        let refused = match link_end(&error) {
            LinkEnd::Refused(refused) => Some(refused),
            LinkEnd::Idle | LinkEnd::Closed { .. } | LinkEnd::Local => None,
        };
        // The peer's own words may be among them.
        let words = error.to_string();
        let reason = words.chars().take(limits::PEER_ERROR_CHARS_MAX);
        let reason = reason.map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { reason, refused, unanswered: false }
    }
}

/// Whether a handshake ended over a certificate, and over whose.
fn certificate_refusal(error: &ConnectionError) -> Option<(Refused, &'static str)> {
    let (code, whose) = if let ConnectionError::TransportError(error) = error {
        (error.code, "this node refuses the certificate that the other shows")
    } else if let ConnectionError::ConnectionClosed(close) = error {
        (close.error_code, "the other node refuses this node's certificate")
    } else {
        return None;
    };
    let reasons = [
        (AlertDescription::CertificateRevoked, Refused::Revoked),
        // Also for one that is not valid yet.
        (AlertDescription::CertificateExpired, Refused::Expired),
        (AlertDescription::UnknownCA, Refused::Untrusted),
    ];
    let found = reasons.into_iter().find(|(alert, _)| TransportErrorCode::crypto(u8::from(*alert)) == code);
    found.map(|(_, refused)| (refused, whose))
}

/// Reads the hello of `node`, whose certificate was checked, to `own`. A peer that says anything else is told
/// why, and its connection closed.
pub(super) async fn read(
    connection: &Connection,
    reader: &mut FrameReader,
    node: &NodeId,
    mesh: &MeshName,
    own: &NodeId,
) -> Result<Hello, DialFailure> {
    let refuse = |refused: Refused, reason: String| {
        connection.close(VarInt::from_u32(refused.code()), refused.as_str().as_bytes());
        Err(DialFailure::new(reason))
    };
    let refuse_version = |speaks: &str| {
        let reason = wire::no_common_version(node, speaks, own);
        connection.close(VarInt::from_u32(Refused::Version.code()), reason.as_bytes());
        Err(DialFailure { reason, refused: Some(Refused::Version), unanswered: false })
    };
    let frame = match reader.next().await {
        Ok(Some(frame)) => frame,
        Ok(None) | Err(ReadError::CutShort) => return refuse(Refused::Malformed, "no hello came".into()),
        Err(ReadError::Wire(error)) => return refuse(Refused::Malformed, error.to_string()),
        Err(ReadError::Gone(_)) => return Err(connection.closed().await.into()),
    };
    // Whatever else a hello of another version says, it says which versions its sender speaks.
    if let Some(theirs) = wire::versions_of_hello(&frame)
        && VersionRange::OWN.common(theirs).is_none()
    {
        return refuse_version(&theirs.to_string());
    }
    let hello = match wire::split(&frame) {
        Ok(Some((FrameKind::Hello, body))) => wire::decode::<Hello>(body),
        Ok(_) => return refuse(Refused::Malformed, "the first frame was not a hello".into()),
        Err(WireError::Version(version)) => return refuse_version(&format!("version {version}")),
        Err(error) => return refuse(Refused::Malformed, error.to_string()),
    };
    match hello {
        Ok(hello) if hello.card.node_id != *node || hello.mesh_name != *mesh => {
            let (id, mesh) = (&hello.card.node_id, &hello.mesh_name);
            refuse(Refused::Name, format!("the certificate says {node}, the hello {id} of mesh {mesh}"))
        }
        Ok(hello) => Ok(hello),
        Err(error) => refuse(Refused::Malformed, error.to_string()),
    }
}
