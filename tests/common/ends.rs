//! Bare transports: the connections between nodes, without a core behind them. A test reads what a core
//! would be told, and says what it likes.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use shoal::core::contract::{DialTarget, Input};
use shoal::core::ids::{Incarnation, LinkId, MeshId, NodeId, ProcessId};
use shoal::core::limits;
use shoal::core::model::{Hello, NodeCard};
use shoal::core::wire::Data;
use shoal::node::certs::Ca;
use shoal::node::clock;
use shoal::node::transport::tls::NodeIdentity;
use shoal::node::transport::{self, Congestion, DataHandler, Peer, Transport, TransportConfig};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::mesh::{PATIENCE, issue};

/// One transport of a test.
pub struct End {
    pub transport: Transport,
    pub hello: Hello,
    pub frames: Arc<Frames>,
    inputs: mpsc::Receiver<Input>,
}

/// How an [`End`] is made.
#[derive(Clone)]
pub struct EndOptions {
    pub bind: SocketAddr,
    pub max_streams: u32,
    pub congestion: Congestion,
    pub reset_key: [u8; 64],
    pub connection_id_key: u64,
}

impl Default for EndOptions {
    fn default() -> Self {
        Self {
            bind: ([127, 0, 0, 1], 0).into(),
            max_streams: limits::UNI_STREAMS_MAX,
            congestion: Congestion::Cubic,
            reset_key: clock::random_bytes(),
            connection_id_key: u64::from_le_bytes(clock::random_bytes()),
        }
    }
}

/// The data frames that arrived.
#[derive(Default)]
pub struct Frames {
    seen: Mutex<Vec<Data>>,
}

impl Frames {
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl DataHandler for Frames {
    fn handle(&self, _peer: &Arc<Peer>, frame: Data) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
    }
    fn peer_gone(&self, _peer: &Peer) {}
}

pub fn identity(ca: &Ca, name: &str) -> NodeIdentity {
    let pair = issue(ca, &name.parse::<NodeId>().expect("valid"));
    NodeIdentity::from_pem(ca.bundle_pem(), &pair.cert_pem, &pair.key_pem, SystemTime::now()).expect("loads")
}

/// A hello that any node of the mesh accepts.
pub fn hello(name: &str, mesh_id: Option<MeshId>) -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        mesh_id,
        mesh_name: "test".parse().expect("valid"),
        process_id: ProcessId(clock::random_id()),
        incarnation: Incarnation::first_of(1),
        card: NodeCard {
            node_id: name.parse().expect("valid"),
            addresses: vec!["127.0.0.1:9".to_owned()],
            region: String::new(),
            zone: String::new(),
            labels: Default::default(),
            roles: vec![],
            version: "test".to_owned(),
        },
        bulk_beside: None,
    }
}

impl End {
    /// A transport on loopback.
    pub fn open(ca: &Ca, name: &str) -> Self {
        Self::open_with(ca, name, EndOptions::default())
    }

    pub fn open_with(ca: &Ca, name: &str, options: EndOptions) -> Self {
        let socket = transport::bind(options.bind).expect("a port");
        Self::open_on(ca, name, options, socket)
    }

    pub fn open_on(ca: &Ca, name: &str, options: EndOptions, socket: UdpSocket) -> Self {
        let (core, inputs) = mpsc::channel(limits::DRIVER_QUEUE_MAX);
        let config = TransportConfig {
            max_streams: options.max_streams,
            congestion: options.congestion,
            reset_key: options.reset_key,
            connection_id_key: options.connection_id_key,
            identity: identity(ca, name),
            door: None,
        };
        let hello = hello(name, Some(MeshId(clock::random_id())));
        let frames = Arc::new(Frames::default());
        let handler: Arc<dyn DataHandler> = Arc::clone(&frames) as _;
        let transport = Transport::open(config, socket, hello.clone(), core, handler).expect("opens");
        Self { transport, hello, frames, inputs }
    }

    /// Where it can be dialled over loopback.
    pub fn address(&self) -> SocketAddr {
        let port = self.transport.local_addr().expect("bound").port();
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    pub fn dial(&self, address: SocketAddr) {
        let seed = address.to_string();
        self.transport.dial(DialTarget::Seed(seed.clone()), vec![seed]);
    }

    /// The next thing that a core would be told and that `picks` anything from; what comes before it is
    /// passed over.
    pub async fn until<T>(&mut self, mut picks: impl FnMut(&Input) -> Option<T>) -> T {
        let told = async {
            loop {
                let input = self.inputs.recv().await.expect("the transport lives");
                if let Some(found) = picks(&input) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, told).await.expect("the core is told in time")
    }

    /// The next thing that a core would be told, if it was told already.
    pub fn told(&mut self) -> Option<Input> {
        self.inputs.try_recv().ok()
    }

    pub async fn link_up(&mut self) -> LinkId {
        self.until(|input| if let Input::LinkUp { link, .. } = input { Some(*link) } else { None }).await
    }

    pub fn peer(&self, link: LinkId) -> Arc<Peer> {
        self.transport.peer(link).expect("the link lasts")
    }
}

/// Links `dialler` to `listener`; the number that each gives the link.
pub async fn link(dialler: &mut End, listener: &mut End) -> (LinkId, LinkId) {
    dialler.dial(listener.address());
    (dialler.link_up().await, listener.link_up().await)
}
