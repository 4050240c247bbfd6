//! The QUIC endpoint: accepting, dialling, and the table of links.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use futures_util::future::{FutureExt, select_ok};
use quinn::congestion::{BbrConfig, CubicConfig};
use quinn::{Endpoint, EndpointConfig, IdleTimeout, ServerConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use tokio::net::lookup_host;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use self::credentials::Credentials;
use self::greeting::Arrival;
use super::bulk;
use super::facts::FailedArrivals;
use super::framing::FrameReader;
use super::hello::DialFailure;
use super::join::Door;
use super::peer::Peer;
use super::signs::{DialSigns, HintPace};
use super::socket::{Socket, Unreached, canonical};
use super::tls::NodeIdentity;
use super::{DataHandler, Inbox, LogPace};
use crate::core::contract::{DialTarget, Input};
use crate::core::error::Refused;
use crate::core::ids::{LinkId, MeshName, NodeId};
use crate::core::limits;
use crate::core::model::Hello;
use crate::core::wire::{ArrivalFacts, Control};
use crate::node::clock;

mod credentials;
mod greeting;

pub use self::credentials::PeerCertificate;

/// Wait before the next address of a node is tried beside the one that has not answered.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(200);
/// How long a link that another one replaces may still deliver what is on its way.
const SUPERSEDED_GRACE: Duration = Duration::from_secs(2);
/// How often such a link is asked whether an answer is still awaited over it.
const LINGER_POLL: Duration = Duration::from_millis(100);
/// How long peers may take to acknowledge the last frames, and then the close.
const SHUT_DOWN_GRACE: Duration = Duration::from_secs(1);
/// Guess of a round trip before any was measured; it sets when a lost first packet is sent again.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Receive buffer asked of the kernel.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Congestion control of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// RFC 9438.
    #[default]
    Cubic,
    /// Experimental in quinn.
    Bbr,
}

/// What an endpoint is made with.
#[derive(Debug)]
pub struct TransportConfig {
    /// Streams with messages that a peer may hold open.
    pub max_streams: u32,
    /// Congestion control.
    pub congestion: Congestion,
    /// Signs stateless resets; kept, so that a restarted process resets its old connections at once.
    pub reset_key: [u8; 64],
    /// Marks connection ids as this node's; kept with the reset key.
    pub connection_id_key: u64,
    /// Certificate, key and trusted CAs.
    pub identity: NodeIdentity,
    /// Gives certificates to machines that may have one, where this node has the CA.
    pub door: Option<Arc<Door>>,
}

/// Why the endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The UDP port.
    #[error("cannot listen on UDP {address}: {source}{}", hint(.source))]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bound socket.
    #[error("the UDP socket cannot be used: {0}")]
    Socket(std::io::Error),
    /// The TLS configuration has no cipher suite that QUIC can use.
    #[error("the TLS configuration cannot be used for QUIC: {0}")]
    Tls(String),
    /// The CA that this node is to sign with.
    #[error("this node cannot give certificates (--ca): {0}")]
    Ca(String),
}

fn hint(error: &std::io::Error) -> &'static str {
    const HINTS: [(std::io::ErrorKind, &str); 3] = [
        (
            std::io::ErrorKind::AddrInUse,
            ": another process has the port; stop it, or choose another --bind-addr",
        ),
        (std::io::ErrorKind::AddrNotAvailable, ": no interface has that address"),
        (std::io::ErrorKind::PermissionDenied, ": ports below 1024 need privileges"),
    ];
    HINTS.iter().find(|(kind, _)| *kind == error.kind()).map_or("", |(_, hint)| hint)
}

/// A node's connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Transport {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    /// What handshakes are made with from now on; replaced as a whole.
    credentials: ArcSwap<Credentials>,
    /// With everything but the certificates as it stays: the key of address tokens among it.
    server: ServerConfig,
    quic: Arc<quinn::TransportConfig>,
    /// Why nothing is dialled now, if nothing is.
    held: ArcSwapOption<(Refused, String)>,
    door: Option<Arc<Door>>,
    mesh: MeshName,
    hello: ArcSwap<Hello>,
    inbox: Inbox,
    peers: Mutex<HashMap<LinkId, Arc<Peer>>>,
    dials: Arc<DialSigns>,
    links: AtomicU64,
    handshakes: AtomicUsize,
    arrivals: Mutex<HashMap<IpAddr, (Instant, u32)>>,
    complaints: Mutex<LogPace>,
    failed_arrivals: Mutex<FailedArrivals>,
}

impl Transport {
    /// Opens the endpoint and begins to accept.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn open(
        config: TransportConfig,
        socket: UdpSocket,
        hello: Hello,
        core: mpsc::Sender<Input>,
        data: Arc<dyn DataHandler>,
    ) -> Result<Self, TransportError> {
        let quic = Arc::new(quic_config(&config));
        if let Some(door) = &config.door {
            door.check(&config.identity)?;
        }
        let credentials = Credentials::new(config.identity, config.door.as_deref(), &quic)?;
        let mut server = ServerConfig::with_crypto(Arc::clone(&credentials.server));
        server.transport_config(Arc::clone(&quic));
        server.max_incoming(limits::INCOMING_MAX);

        let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &config.reset_key);
        let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
        let id_key = config.connection_id_key;
        endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
        let (unreached, signs) = mpsc::channel(limits::SIGNS_QUEUE_MAX);
        let socket = Socket::open(socket, unreached).map_err(TransportError::Socket)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let (accepting, socket) = (Some(server.clone()), Arc::new(socket));
        let endpoint = Endpoint::new_with_abstract_socket(endpoint, accepting, socket, runtime)
            .map_err(TransportError::Socket)?;
        let inner = Arc::new(Inner {
            endpoint,
            door: config.door,
            mesh: credentials.identity.mesh.clone(),
            credentials: ArcSwap::from_pointee(credentials),
            server,
            quic,
            held: ArcSwapOption::empty(),
            hello: ArcSwap::from_pointee(hello),
            inbox: Inbox { core, data },
            peers: Mutex::new(HashMap::new()),
            dials: Arc::default(),
            links: AtomicU64::new(0),
            handshakes: AtomicUsize::new(0),
            arrivals: Mutex::new(HashMap::new()),
            complaints: Mutex::default(),
            failed_arrivals: Mutex::default(),
        });
        tokio::spawn(accept_all(Arc::clone(&inner)));
        tokio::spawn(follow_signs(Arc::downgrade(&inner), signs));
        Ok(Self { inner })
    }

    /// Where the endpoint listens, with the port that the system chose if none was given.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.inner.endpoint.local_addr()
    }

    /// The hello that new links begin with.
    pub fn set_hello(&self, hello: Hello) {
        self.inner.hello.store(Arc::new(hello));
    }

    /// Whom new connections show this node to be, and whom it trusts.
    pub(super) fn identity(&self) -> NodeIdentity {
        self.inner.credentials.load().identity.clone()
    }

    pub(super) fn peers(&self) -> Vec<Arc<Peer>> {
        self.inner.peers().values().cloned().collect()
    }

    pub(super) fn arrivals_kept(&self) -> Vec<ArrivalFacts> {
        self.inner.failed_arrivals.lock().unwrap_or_else(PoisonError::into_inner).facts()
    }

    /// The peer at the other end of a link, while it lasts.
    #[must_use]
    pub fn peer(&self, link: LinkId) -> Option<Arc<Peer>> {
        self.inner.peers().get(&link).cloned()
    }

    /// Sends a SWIM packet; a link that is gone loses it.
    pub fn send_swim(&self, link: LinkId, packet: Bytes) {
        if let Some(peer) = self.peer(link) {
            peer.send_swim(packet);
        }
    }

    /// Sends a control frame; a link that is gone loses it.
    pub fn send_control(&self, link: LinkId, frame: &Control) {
        if let Some(peer) = self.peer(link)
            && peer.send_control(frame)
        {
            let inner = Arc::clone(&self.inner);
            tokio::spawn(async move { bulk::send_over(&peer, inner.open_bulk(&peer).await).await });
        }
    }

    /// Closes a link. One that gives way to another stays until what is on its way has arrived and nobody waits for
    /// an answer over it any more, at most [`limits::LINK_LINGER_MAX`].
    pub fn close(&self, link: LinkId, reason: Refused) {
        let Some(peer) = self.peer(link) else {
            return;
        };
        if reason != Refused::Superseded {
            return peer.close(reason);
        }
        tokio::spawn(async move {
            sleep(SUPERSEDED_GRACE).await;
            let all_answered = async {
                while peer.is_awaited() && !peer.is_gone() {
                    sleep(LINGER_POLL).await;
                }
                peer.flush().await;
            };
            let _ = timeout(limits::LINK_LINGER_MAX, all_answered).await;
            peer.close(reason);
        });
    }

    /// Dials in the background; the core hears of the link or of the failure.
    pub fn dial(&self, target: DialTarget, addresses: Vec<String>) {
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            let held = inner.held.load_full();
            let outcome = match (held.as_deref(), &target) {
                (Some((refused, reason)), _) => {
                    Err(DialFailure { reason: reason.clone(), refused: Some(*refused), unanswered: false })
                }
                (None, DialTarget::Node(node)) => inner.dial_node(node, &addresses).await,
                (None, DialTarget::Seed(_)) => inner.dial_seed(&target, &addresses).await,
            };
            if let Err(failure) = outcome {
                let DialFailure { reason, refused, .. } = failure;
                let _ = inner.inbox.core.send(Input::DialFailed { target, reason, refused }).await;
            }
        });
    }

    /// Closes every link, tells the peers why, and waits until they had a chance to hear it.
    pub async fn shut_down(&self, reason: Refused) {
        let peers: Vec<_> = self.inner.peers().values().cloned().collect();
        let flushed = futures_util::future::join_all(peers.iter().map(|peer| peer.flush()));
        let _ = timeout(SHUT_DOWN_GRACE, flushed).await;
        self.inner.endpoint.close(VarInt::from_u32(reason.code()), reason.as_str().as_bytes());
        let _ = timeout(SHUT_DOWN_GRACE, self.inner.endpoint.wait_idle()).await;
    }
}

/// quinn's limits: its defaults are made for trusted peers.
fn quic_config(config: &TransportConfig) -> quinn::TransportConfig {
    let mut quic = quinn::TransportConfig::default();
    quic.max_concurrent_bidi_streams(limits::BIDI_STREAMS_MAX.into());
    quic.max_concurrent_uni_streams(config.max_streams.into());
    quic.stream_receive_window(limits::STREAM_WINDOW_BYTES.into());
    quic.receive_window(limits::CONNECTION_WINDOW_BYTES.into());
    quic.send_window(limits::SEND_WINDOW_BYTES);
    quic.datagram_receive_buffer_size(Some(limits::DATAGRAM_BUFFER_BYTES));
    quic.datagram_send_buffer_size(limits::DATAGRAM_BUFFER_BYTES);
    let idle = IdleTimeout::try_from(limits::LINK_IDLE_MAX).expect("a minute fits into a QUIC integer");
    quic.max_idle_timeout(Some(idle));
    quic.initial_rtt(INITIAL_RTT);
    match config.congestion {
        Congestion::Cubic => quic.congestion_controller_factory(Arc::new(CubicConfig::default())),
        Congestion::Bbr => quic.congestion_controller_factory(Arc::new(BbrConfig::default())),
    };
    quic
}

/// Takes the UDP port.
///
/// # Errors
/// [`TransportError::Bind`].
pub fn bind(address: SocketAddr) -> Result<UdpSocket, TransportError> {
    let socket = UdpSocket::bind(address).map_err(|source| TransportError::Bind { address, source })?;
    // The kernel may grant less; then bursts are lost a little earlier.
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    Ok(socket)
}

async fn accept_all(inner: Arc<Inner>) {
    while let Some(incoming) = inner.endpoint.accept().await {
        let under_way = inner.handshakes.load(Ordering::Relaxed);
        if under_way >= limits::HANDSHAKES_MAX {
            metrics::counter!("shoal_transport_handshakes_refused_total").increment(1);
            incoming.refuse();
            continue;
        }
        let crowded = under_way >= limits::HANDSHAKES_UNPROVEN_MAX;
        let often = inner.arrives_too_often(incoming.remote_address().ip());
        if !incoming.remote_address_validated() && (crowded || often) {
            // The address must prove that it hears us before it costs us a handshake.
            let _ = incoming.retry();
            continue;
        }
        let inner = Arc::clone(&inner);
        let slot = HandshakeSlot::take(&inner);
        tokio::spawn(async move {
            let address = incoming.remote_address();
            let heard = AtomicBool::new(false);
            let greeting = inner.greet_incoming(incoming, &heard);
            let outcome = timeout(limits::HANDSHAKE_DEADLINE, greeting).await;
            drop(slot);
            match outcome {
                Ok(Ok(Arrival::Link(greeted))) => {
                    let (peer, reader, hello) = *greeted;
                    inner.run_link(peer, reader, hello, address, None).await;
                }
                Ok(Ok(Arrival::Bulk(peer, connection, reader))) => {
                    bulk::read_from(peer, connection, reader, inner.inbox.clone()).await;
                }
                Ok(Ok(Arrival::Join(connection, door))) => door.serve(connection, address).await,
                Ok(Err(failure)) => inner.note_failed_arrival(address, &failure.reason, failure.unanswered),
                Err(_) => {
                    let unanswered = !heard.load(Ordering::Relaxed);
                    inner.note_failed_arrival(address, "the handshake took too long", unanswered);
                }
            }
        });
    }
}

/// Passes on what the network says of destinations, until the socket is gone.
async fn follow_signs(inner: Weak<Inner>, mut signs: mpsc::Receiver<Unreached>) {
    let mut pace = HintPace::default();
    while let Some(found) = signs.recv().await {
        metrics::counter!("shoal_transport_unreached_total", "sign" => found.sign.as_str()).increment(1);
        let Some(inner) = inner.upgrade() else {
            return;
        };
        inner.dials.tell(found);
        if pace.permits(found.address, Instant::now()) {
            inner.hint(found);
        }
    }
}

/// One of the handshakes under way.
struct HandshakeSlot(Arc<Inner>);

impl HandshakeSlot {
    fn take(inner: &Arc<Inner>) -> Self {
        inner.handshakes.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(inner))
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    fn peers(&self) -> std::sync::MutexGuard<'_, HashMap<LinkId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the core of every link that ends at an address which was not reached.
    fn hint(&self, found: Unreached) {
        let ends_there = |peer: &&Arc<Peer>| canonical(peer.remote_address()) == found.address;
        let links: Vec<_> = self.peers().values().filter(ends_there).map(|peer| peer.link()).collect();
        for link in links {
            tracing::debug!(?link, address = %found.address, sign = found.sign.as_str(), "a link's peer was not reached");
            metrics::counter!("shoal_transport_hints_total").increment(1);
            // A core that is behind hears the next one.
            let _ = self.inbox.core.try_send(Input::Hint { link, address: found.address, sign: found.sign });
        }
    }

    /// Counts every failed arrival and logs at most one a second: outsiders must not fill the log.
    fn note_failed_arrival(&self, address: SocketAddr, reason: &str, unanswered: bool) {
        metrics::counter!("shoal_transport_handshakes_failed_total").increment(1);
        let mut kept = self.failed_arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        kept.note(address, reason, unanswered);
        drop(kept);
        if let Some(untold) = self.complaints.lock().unwrap_or_else(PoisonError::into_inner).tell() {
            tracing::warn!(%address, reason, untold, "a connection was refused");
        }
    }

    /// Counts arrivals per address and second.
    fn arrives_too_often(&self, address: IpAddr) -> bool {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if arrivals.len() >= limits::PEERS_MAX {
            arrivals.retain(|_, (since, _)| now.duration_since(*since) < Duration::from_secs(1));
        }
        if arrivals.len() >= limits::PEERS_MAX && !arrivals.contains_key(&address) {
            return true;
        }
        let (since, count) = arrivals.entry(address).or_insert((now, 0));
        if now.duration_since(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count > limits::HANDSHAKES_PER_SECOND_MAX
    }

    /// Tells the core of a link, reads it until it ends, and tells the core that.
    async fn run_link(
        &self,
        peer: Arc<Peer>,
        reader: FrameReader,
        hello: Hello,
        address: SocketAddr,
        dialled: Option<DialTarget>,
    ) {
        let link = peer.link();
        self.peers().insert(link, Arc::clone(&peer));
        let up = Input::LinkUp { link, hello, address: address.to_string(), dialled };
        if self.inbox.core.send(up).await.is_ok() {
            // The trust may have changed between the handshake and now, unnoticed by whoever looked at all links.
            if let Some((node, reason)) = self.close_if_bad(&peer, clock::wall_clock()) {
                let _ = self.inbox.core.send(Input::Expelled { node, reason }).await;
            }
            let reason = peer.run(reader, self.inbox.clone()).await;
            tracing::debug!(node = %peer.node(), ?link, ?reason, "link down");
            let _ = self.inbox.core.send(Input::LinkDown { link, reason }).await;
        }
        self.peers().remove(&link);
    }

    /// Tries a node's addresses, the next one beside the last when that has not answered in a moment; the
    /// first that greets us as that node wins.
    async fn dial_node(self: &Arc<Self>, node: &NodeId, addresses: &[String]) -> Result<(), DialFailure> {
        let resolved = resolve(addresses).await?;
        let attempts = resolved.into_iter().zip(0_u32..).map(|(address, place)| {
            async move {
                sleep(NEXT_ADDRESS_AFTER * place).await;
                self.try_address(address, Some(node)).await.map(|greeted| (greeted, address))
            }
            .boxed()
        });
        let (((peer, reader, hello), address), _others) = select_ok(attempts).await?;
        let inner = Arc::clone(self);
        let target = DialTarget::Node(node.clone());
        tokio::spawn(async move { inner.run_link(peer, reader, hello, address, Some(target)).await });
        Ok(())
    }

    /// Dials every address that a seed resolves to: each may be another node.
    async fn dial_seed(
        self: &Arc<Self>,
        target: &DialTarget,
        addresses: &[String],
    ) -> Result<(), DialFailure> {
        let resolved = resolve(addresses).await?;
        let mut attempts = tokio::task::JoinSet::new();
        for address in resolved {
            let (inner, target) = (Arc::clone(self), target.clone());
            attempts.spawn(async move {
                let (peer, reader, hello) = inner.try_address(address, None).await?;
                tokio::spawn(async move { inner.run_link(peer, reader, hello, address, Some(target)).await });
                Ok::<_, DialFailure>(())
            });
        }
        let mut failure = DialFailure::new("it resolves to no address");
        let mut reached = false;
        while let Some(outcome) = attempts.join_next().await {
            match outcome {
                Ok(Ok(())) => reached = true,
                Ok(Err(error)) => failure = error,
                Err(error) => failure = DialFailure::new(error.to_string()),
            }
        }
        if reached { Ok(()) } else { Err(failure) }
    }
}

/// Resolves `host:port` texts, in order and without doubles.
async fn resolve(addresses: &[String]) -> Result<Vec<SocketAddr>, DialFailure> {
    let mut resolved = Vec::new();
    let mut seen = HashSet::new();
    let mut failure = DialFailure::new("it has no address");
    for text in addresses {
        match timeout(limits::HANDSHAKE_DEADLINE, lookup_host(text.as_str())).await {
            Ok(Ok(found)) => resolved.extend(found.filter(|address| seen.insert(*address))),
            Ok(Err(error)) => failure = DialFailure::new(format!("{text} does not resolve: {error}")),
            Err(_) => failure = DialFailure::new(format!("{text} does not resolve in time")),
        }
    }
    resolved.truncate(limits::ADDRESSES_MAX * 4);
    if resolved.is_empty() { Err(failure) } else { Ok(resolved) }
}
