//! Two protocols on one port: which TLS settings a connection gets, by the protocol that its first message asks for.
//!
//! The settings of the mesh offer `shoal/1` alone and demand a certificate; those for joining offer `shoal-join/1` alone.
//! Whatever this file makes of a first message, TLS itself then agrees on the protocol of the chosen settings
//! or fails. So a mistake here, or a lie in the message, can cost a connection; it cannot make one of `shoal/1`
//! whose other end has shown no certificate.

use std::any::Any;
use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError};

use super::super::tls;
use crate::core::limits;

/// Settings by protocol.
pub(super) struct ByProtocol {
    pub(super) mesh: Arc<QuicServerConfig>,
    pub(super) join: Arc<QuicServerConfig>,
}

impl ServerConfig for ByProtocol {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.mesh.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.mesh.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let session = Arc::clone(&self.mesh).start_session(version, params);
        let undecided =
            Undecided { join: Arc::clone(&self.join), version, params: *params, heard: Vec::new() };
        Box::new(Listening { session, undecided: Some(undecided) })
    }
}

/// A session of the mesh, until its first message has asked for the other protocol.
struct Listening {
    session: Box<dyn Session>,
    undecided: Option<Undecided>,
}

struct Undecided {
    join: Arc<QuicServerConfig>,
    version: u32,
    params: TransportParameters,
    /// The first message so far.
    heard: Vec<u8>,
}

impl Session for Listening {
    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        let Some(mut undecided) = self.undecided.take() else {
            return self.session.read_handshake(buf);
        };
        undecided.heard.extend_from_slice(buf);
        match wants(&undecided.heard) {
            Wants::More => {
                self.undecided = Some(undecided);
                Ok(false)
            }
            Wants::Mesh => self.session.read_handshake(&undecided.heard),
            Wants::Join => {
                self.session = undecided.join.start_session(undecided.version, &undecided.params);
                self.session.read_handshake(&undecided.heard)
            }
        }
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.session.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.session.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.session.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.session.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.session.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.session.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        self.session.write_handshake(buf)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.session.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.session.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.session.export_keying_material(output, label, context)
    }
}

/// What a first message wants, as far as it was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    /// It is not complete.
    More,
    /// A certificate, and nothing else.
    Join,
    /// Anything else: TLS knows how to refuse it.
    Mesh,
}

/// Reads the protocols of a `ClientHello` (RFC 8446, 4.1.2; RFC 7301).
fn wants(heard: &[u8]) -> Wants {
    const HEADER_BYTES: usize = 4;
    const CLIENT_HELLO: u8 = 1;
    let Some((header, rest)) = heard.split_first_chunk::<HEADER_BYTES>() else {
        return Wants::More;
    };
    let length = usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
    if header[0] != CLIENT_HELLO || length > limits::CLIENT_HELLO_BYTES_MAX {
        return Wants::Mesh;
    }
    let Some(hello) = rest.get(..length) else {
        return Wants::More;
    };
    match protocols(hello) {
        Some(protocols) if protocols == [tls::JOIN_ALPN] => Wants::Join,
        Some(_) | None => Wants::Mesh,
    }
}

/// The protocols that a `ClientHello` offers; `None` for none and for what is not understood.
fn protocols(hello: &[u8]) -> Option<Vec<&[u8]>> {
    const VERSION_AND_RANDOM_BYTES: usize = 2 + 32;
    const ALPN_EXTENSION: u16 = 16;
    let rest = hello.get(VERSION_AND_RANDOM_BYTES..)?;
    let (_session_id, rest) = short(rest)?;
    let (_cipher_suites, rest) = long(rest)?;
    let (_compressions, rest) = short(rest)?;
    let (mut extensions, _) = long(rest)?;
    while !extensions.is_empty() {
        let (kind, rest) = extensions.split_first_chunk()?;
        let (body, rest) = long(rest)?;
        if u16::from_be_bytes(*kind) == ALPN_EXTENSION {
            let (mut names, _) = long(body)?;
            let mut protocols = Vec::new();
            while !names.is_empty() {
                let (name, rest) = short(names)?;
                protocols.push(name);
                names = rest;
            }
            return Some(protocols);
        }
        extensions = rest;
    }
    None
}

/// Bytes after a length of one byte, and what follows them.
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// Bytes after a length of two bytes, and what follows them.
fn long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(bytes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(bytes.len()).expect("short");
        [&length.to_be_bytes()[..], bytes].concat()
    }

    /// A first message that offers these protocols.
    fn hello(protocols: &[&[u8]]) -> Vec<u8> {
        let names: Vec<u8> = protocols
            .iter()
            .flat_map(|name| [&[u8::try_from(name.len()).expect("short")], *name].concat())
            .collect();
        let other = [&[0, 43][..], &counted(&[2, 3, 4])].concat();
        let alpn = [&[0, 16][..], &counted(&counted(&names))].concat();
        let extensions = counted(&[other, alpn].concat());
        let body = [&[3; 34][..], &[0], &counted(&[19, 1]), &[1, 0], &extensions].concat();
        let length = u32::try_from(body.len()).expect("short").to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    #[test]
    fn only_a_message_that_asks_for_joining_alone_is_for_joining() {
        for (protocols, expected) in [
            (&[&b"shoal-join/1"[..]][..], Wants::Join),
            (&[b"shoal/1"], Wants::Mesh),
            (&[b"shoal/1", b"shoal-join/1"], Wants::Mesh),
            (&[b"shoal-join/1", b"shoal/1"], Wants::Mesh),
            (&[b"shoal-join/1", b"shoal-join/1"], Wants::Mesh),
            (&[b"shoal-join/10"], Wants::Mesh),
            (&[], Wants::Mesh),
        ] {
            assert_eq!(wants(&hello(protocols)), expected, "{protocols:?}");
        }
    }

    #[test]
    fn a_message_is_heard_to_its_end_whatever_the_pieces() {
        let whole = hello(&[b"shoal-join/1"]);
        for end in 0..whole.len() {
            assert_eq!(wants(&whole[..end]), Wants::More, "{end} bytes");
        }
    }

    #[test]
    fn nonsense_is_left_to_the_mesh_and_no_byte_of_it_panics() {
        assert_eq!(wants(&[2, 0, 0, 0]), Wants::Mesh);
        assert_eq!(wants(&[1, 0xff, 0xff, 0xff]), Wants::Mesh);
        assert_eq!(wants(&[1, 0, 0, 0]), Wants::Mesh);
        let whole = hello(&[b"shoal-join/1"]);
        for at in 4..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                let _ = wants(&changed);
            }
            let mut cut = whole[..at].to_vec();
            cut[3] = u8::try_from(at - 4).expect("short");
            assert_ne!(wants(&cut), Wants::More);
        }
    }
}
