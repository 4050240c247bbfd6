//! Certificates of an endpoint that runs: what handshakes are made with, and links whose peer's certificate is
//! good no more.
//!
//! It reads no files and decides on no identity; whoever does hands it in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig};

use super::{Inner, Transport, TransportError};
use crate::core::error::Refused;
use crate::core::ids::{CaKeyId, LinkId, NodeId};
use crate::node::certs::Serial;
use crate::node::transport::Peer;
use crate::node::transport::join::{self, Door};
use crate::node::transport::tls::NodeIdentity;

/// An identity and the settings that follow from it.
pub(super) struct Credentials {
    pub(super) identity: NodeIdentity,
    pub(super) client: quinn::ClientConfig,
    pub(super) server: Arc<dyn quinn::crypto::ServerConfig>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Credentials {
    pub(super) fn new(
        identity: NodeIdentity,
        door: Option<&Door>,
        quic: &Arc<quinn::TransportConfig>,
    ) -> Result<Self, TransportError> {
        let tls_error = |error: NoInitialCipherSuite| TransportError::Tls(error.to_string());
        let server = join::server_crypto(&identity, door)?;
        let client = QuicClientConfig::try_from(identity.client_config()).map_err(tls_error)?;
        let mut client = quinn::ClientConfig::new(Arc::new(client));
        client.transport_config(Arc::clone(quic));
        Ok(Self { identity, client, server })
    }
}

/// The certificate of the peer of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The link.
    pub link: LinkId,
    /// The node that it names.
    pub node_id: NodeId,
    /// Its serial number.
    pub serial: Serial,
    /// The last second at which it is valid.
    pub not_after: SystemTime,
    /// The key of the trusted CA that signed it; `None` when it is refused now and the link about to end.
    pub ca: Option<CaKeyId>,
}

impl Transport {
    /// From now on handshakes are made with `identity`. Links stay as they are: see [`Transport::close_untrusted`].
    ///
    /// # Errors
    /// [`TransportError::Tls`]; nothing changed.
    pub fn set_identity(&self, identity: NodeIdentity) -> Result<(), TransportError> {
        let credentials = Credentials::new(identity, self.inner.door.as_deref(), &self.inner.quic)?;
        let mut server = self.inner.server.clone();
        server.crypto = Arc::clone(&credentials.server);
        self.inner.credentials.store(Arc::new(credentials));
        self.inner.endpoint.set_server_config(Some(server));
        Ok(())
    }

    /// Closes every link whose peer's certificate is good no more at `now`. Returns the nodes that have no
    /// other link with a good one, and why.
    pub fn close_untrusted(&self, now: SystemTime) -> BTreeMap<NodeId, Refused> {
        self.close_bad(now, |_| true)
    }

    /// The same for those links only whose peer's certificate is past its time: cheap enough for once a second.
    pub fn close_expired(&self, now: SystemTime) -> BTreeMap<NodeId, Refused> {
        self.close_bad(now, |peer| peer.identity().not_after < now)
    }

    /// From now on nothing is dialled, for this reason; or everything again.
    pub fn hold_dials(&self, why: Option<(Refused, String)>) {
        self.inner.held.store(why.map(Arc::new));
    }

    /// The certificates of the peers, one a link, as they stand at `now`.
    #[must_use]
    pub fn peer_certificates(&self, now: SystemTime) -> Vec<PeerCertificate> {
        let credentials = self.inner.credentials.load_full();
        let describe = |peer: &Arc<Peer>| {
            let identity = peer.identity();
            PeerCertificate {
                link: peer.link(),
                node_id: identity.node_id.clone(),
                serial: identity.serial.clone(),
                not_after: identity.not_after,
                ca: credentials.identity.check(&identity.certificate, now).ok().map(|verified| verified.ca),
            }
        };
        let peers: Vec<_> = self.inner.peers().values().cloned().collect();
        let mut all: Vec<_> = peers.iter().map(describe).collect();
        all.sort_by(|a, b| (&a.node_id, a.link).cmp(&(&b.node_id, b.link)));
        all
    }

    fn close_bad(&self, now: SystemTime, is_doubtful: impl Fn(&Peer) -> bool) -> BTreeMap<NodeId, Refused> {
        let peers: Vec<_> = self.inner.peers().values().cloned().collect();
        let (doubtful, others): (Vec<_>, Vec<_>) = peers.into_iter().partition(|peer| is_doubtful(peer));
        let mut good: BTreeSet<_> = others.iter().map(|peer| peer.node().clone()).collect();
        let mut bad = BTreeMap::new();
        for peer in doubtful {
            match self.inner.close_if_bad(&peer, now) {
                Some((node, reason)) => {
                    bad.insert(node, reason);
                }
                None => {
                    good.insert(peer.node().clone());
                }
            }
        }
        bad.retain(|node, _| !good.contains(node));
        bad
    }
}

impl Inner {
    /// Closes a link if its peer's certificate is good no more. Returns whose it is, and why.
    pub(super) fn close_if_bad(&self, peer: &Peer, now: SystemTime) -> Option<(NodeId, Refused)> {
        let refusal = self.credentials.load().identity.check(&peer.identity().certificate, now).err()?;
        let (reason, label) = refusal.told();
        metrics::counter!("shoal_transport_links_expelled_total", "reason" => label).increment(1);
        let (node, serial) = (peer.node(), &peer.identity().serial);
        tracing::warn!(%node, %serial, %refusal, "link closed: the peer's certificate is good no more");
        peer.close(reason);
        Some((node.clone(), reason))
    }
}
