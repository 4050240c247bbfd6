//! How two nodes greet each other: TLS, whom the certificate names, one hello each way; and what a
//! connection turns out to be by it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quinn::{Connection, VarInt};
use tokio::time::timeout;

use super::super::facts::was_unanswered;
use super::super::framing::{FrameReader, FrameWriter};
use super::super::hello::{self, DialFailure};
use super::super::join::{self, Door};
use super::super::peer::Peer;
use super::super::tls;
use super::Inner;
use crate::core::contract::Input;
use crate::core::error::Refused;
use crate::core::ids::{LinkId, NodeId, ProcessId};
use crate::core::limits;
use crate::core::model::Hello;
use crate::core::wire::VersionRange;

pub(super) type Greeted = (Arc<Peer>, FrameReader, Hello);

/// What an accepted connection turned out to be.
pub(super) enum Arrival {
    Link(Box<Greeted>),
    /// Large frames beside the link of that peer.
    Bulk(Arc<Peer>, Connection, FrameReader),
    /// Somebody wants a certificate: nothing of the mesh is ever spoken there.
    Join(Connection, Arc<Door>),
}

impl Inner {
    /// `heard` is set once the other side is known to hear this one.
    pub(super) async fn greet_incoming(
        &self,
        incoming: quinn::Incoming,
        heard: &AtomicBool,
    ) -> Result<Arrival, DialFailure> {
        let connection = incoming.await.map_err(|error| {
            let unanswered = was_unanswered(&error);
            DialFailure { unanswered, ..DialFailure::from(error) }
        })?;
        heard.store(true, Ordering::Relaxed);
        if let Some(door) = self.door.as_ref().filter(|_| join::is_join(&connection)) {
            return Ok(Arrival::Join(connection, Arc::clone(door)));
        }
        let peer = self.peer_identity(&connection)?;
        let node = peer.node_id.clone();
        let (send, recv) = connection.accept_bi().await?;
        let control = Peer::control_writer(send);
        let mut reader = FrameReader::new(recv, limits::HELLO_BYTES_MAX);
        let hello = match self.read_hello(&connection, &mut reader, &node).await {
            Ok(hello) => hello,
            Err(failure) => {
                if failure.refused == Some(Refused::Version) {
                    let unspoken = Input::Unspoken { peer: node.to_string(), reason: failure.reason.clone() };
                    let _ = self.inbox.core.send(unspoken).await;
                }
                return Err(failure);
            }
        };
        if let Some(process) = hello.bulk_beside {
            let Some(peer) = self.link_of(&hello, process) else {
                connection.close(VarInt::from_u32(Refused::Superseded.code()), b"there is no such link");
                return Err(DialFailure::new(format!("{node} opened a bulk connection without its link")));
            };
            peer.until_accepted().await;
            self.say_hello(&connection, &control)?;
            return Ok(Arrival::Bulk(peer, connection, reader));
        }
        if self.peers().values().filter(|peer| *peer.node() == node).count() >= limits::LINKS_PER_NODE_MAX {
            connection.close(VarInt::from_u32(Refused::Full.code()), Refused::Full.as_str().as_bytes());
            return Err(DialFailure::new(format!("{node} has too many connections already")));
        }
        self.say_hello(&connection, &control)?;
        self.peer_of(connection, peer, control, reader, hello)
            .await
            .map(|greeted| Arrival::Link(Box::new(greeted)))
    }

    /// The link beside which a bulk connection stands that says this hello, of this process: the newest that
    /// the core has accepted.
    fn link_of(&self, hello: &Hello, process: ProcessId) -> Option<Arc<Peer>> {
        if process != self.hello.load().process_id {
            return None;
        }
        let is_theirs =
            |peer: &&Arc<Peer>| *peer.node() == hello.card.node_id && peer.process() == hello.process_id;
        self.peers().values().filter(is_theirs).max_by_key(|p| (p.is_accepted(), p.link())).cloned()
    }

    /// Opens a bulk connection beside a link, to where the link leads.
    pub(super) async fn open_bulk(&self, peer: &Peer) -> Result<(Connection, Arc<FrameWriter>), String> {
        let greeted = timeout(limits::HANDSHAKE_DEADLINE, self.greet_bulk(peer)).await;
        greeted.unwrap_or_else(|_| Err(DialFailure::new("timed out"))).map_err(|failure| failure.reason)
    }

    async fn greet_bulk(&self, peer: &Peer) -> Result<(Connection, Arc<FrameWriter>), DialFailure> {
        let (connection, identity) = self.connect(peer.remote_address(), Some(peer.node())).await?;
        let (send, recv) = connection.open_bi().await?;
        let writer = Peer::control_writer(send);
        let hello = Hello { bulk_beside: Some(peer.process()), ..Hello::clone(&self.hello.load()) };
        writer.send(&hello).map_err(|e| DialFailure::new(e.to_string()))?;
        let mut reader = FrameReader::new(recv, limits::HELLO_BYTES_MAX);
        let theirs = self.read_hello(&connection, &mut reader, &identity.node_id).await?;
        if theirs.process_id != peer.process() {
            connection
                .close(VarInt::from_u32(Refused::Superseded.code()), b"another process was expected here");
            return Err(DialFailure::new("another process answers at the link's address"));
        }
        Ok((connection, writer))
    }

    async fn greet(&self, address: SocketAddr, expected: Option<&NodeId>) -> Result<Greeted, DialFailure> {
        let (connection, identity) = self.connect(address, expected).await?;
        let (send, recv) = connection.open_bi().await?;
        let control = Peer::control_writer(send);
        let mut reader = FrameReader::new(recv, limits::HELLO_BYTES_MAX);
        self.say_hello(&connection, &control)?;
        let hello = self.read_hello(&connection, &mut reader, &identity.node_id).await?;
        self.peer_of(connection, identity, control, reader, hello).await
    }

    /// TLS with whoever is at an address.
    async fn connect(
        &self,
        address: SocketAddr,
        expected: Option<&NodeId>,
    ) -> Result<(Connection, tls::Peer), DialFailure> {
        let connecting = self
            .endpoint
            .connect_with(self.credentials.load().client.clone(), address, tls::SERVER_NAME)
            .map_err(|e| DialFailure::new(e.to_string()))?;
        let connection = connecting.await?;
        let peer = self.peer_identity(&connection)?;
        if let Some(expected) = expected.filter(|expected| **expected != peer.node_id) {
            connection.close(VarInt::from_u32(Refused::Name.code()), b"another node was expected here");
            return Err(DialFailure::new(format!("{address} is {}, not {expected}", peer.node_id)));
        }
        Ok((connection, peer))
    }

    /// Dials one address until it greets us, refuses us, says that nothing listens there, or takes too long.
    pub(super) async fn try_address(
        &self,
        address: SocketAddr,
        expected: Option<&NodeId>,
    ) -> Result<Greeted, DialFailure> {
        let mut dial = self.dials.watch(address);
        let greeted = timeout(limits::HANDSHAKE_DEADLINE, self.greet(address, expected));
        let refused = tokio::select! {
            greeted = greeted => greeted.ok(),
            () = dial.refused() => Some(Err(DialFailure::new("connection refused: nothing listens on that port"))),
        };
        refused.unwrap_or_else(|| Err(DialFailure::new(format!("timed out{}", dial.last_word()))))
    }

    fn peer_identity(&self, connection: &Connection) -> Result<tls::Peer, DialFailure> {
        if join::protocol(connection).as_deref() != Some(tls::ALPN) {
            return Err(DialFailure::new("the connection is not one of the mesh"));
        }
        tls::peer(connection, &self.mesh).map_err(|e| DialFailure::new(e.to_string()))
    }

    fn say_hello(&self, connection: &Connection, control: &Arc<FrameWriter>) -> Result<(), DialFailure> {
        control.send(&**self.hello.load()).map_err(|error| match connection.close_reason() {
            // The other side may have refused our certificate meanwhile, which says more.
            Some(end) => end.into(),
            None => DialFailure::new(error.to_string()),
        })
    }

    async fn read_hello(
        &self,
        connection: &Connection,
        reader: &mut FrameReader,
        node: &NodeId,
    ) -> Result<Hello, DialFailure> {
        let own = self.hello.load().card.node_id.clone();
        hello::read(connection, reader, node, &self.mesh, &own).await
    }

    async fn peer_of(
        &self,
        connection: Connection,
        identity: tls::Peer,
        control: Arc<FrameWriter>,
        reader: FrameReader,
        hello: Hello,
    ) -> Result<Greeted, DialFailure> {
        let Some(version) = VersionRange::OWN.common(hello.versions()) else {
            return Err(DialFailure::new("no protocol version is spoken by both sides"));
        };
        let link = LinkId(self.links.fetch_add(1, Ordering::Relaxed) + 1);
        let peer = Peer::new(link, identity, connection, control, version, hello.process_id).await?;
        Ok((Arc::new(peer), reader, hello))
    }
}
