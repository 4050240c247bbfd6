//! The limits: one quinn connection with a frame there and back on one stream, bare UDP, and the cipher alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use shoal::node::transport::tls::{NodeIdentity, SERVER_NAME};
use tokio::net::UdpSocket;

use crate::{CONTENT, Executor};

/// The raw limit: one quinn connection, one stream, a frame there and the same frame back.
pub(crate) struct Quinn {
    streams: Arc<tokio::sync::Mutex<(quinn::SendStream, quinn::RecvStream)>>,
    _endpoints: Vec<quinn::Endpoint>,
}

/// A length and the content.
const FRAME: usize = 4 + CONTENT;

impl Quinn {
    pub(crate) fn start(a: &Executor, b: &Executor, client_certs: PathBuf, server_certs: PathBuf) -> Self {
        let server = b.run(async move { server(&identity(&server_certs)) });
        let address = server.local_addr().expect("it listens");
        let (streams, client) = a.run(async move {
            let config = QuicClientConfig::try_from(identity(&client_certs).client_config()).expect("usable");
            let config = quinn::ClientConfig::new(Arc::new(config));
            let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
            let connection = endpoint.connect_with(config, address, SERVER_NAME).expect("valid");
            let streams = connection.await.expect("connects").open_bi().await.expect("opens");
            (streams, endpoint)
        });
        Self { streams: Arc::new(tokio::sync::Mutex::new(streams)), _endpoints: vec![server, client] }
    }

    pub(crate) fn round_trips(&self, a: &Executor, count: usize) -> Vec<Duration> {
        let streams = Arc::clone(&self.streams);
        a.run(async move {
            let mut streams = streams.lock().await;
            let (send, recv) = &mut *streams;
            let mut frame = [7; FRAME];
            frame[..4].copy_from_slice(&(CONTENT as u32).to_le_bytes());
            let mut samples = Vec::with_capacity(count);
            for _ in 0..count {
                let begun = Instant::now();
                send.write_all(&frame).await.expect("writes");
                recv.read_exact(&mut frame).await.expect("reads");
                samples.push(begun.elapsed());
            }
            samples
        })
    }
}

pub(crate) fn identity(certs: &Path) -> NodeIdentity {
    let path = |name: &str| certs.join(name);
    let now = std::time::SystemTime::now();
    NodeIdentity::load(&path("ca.crt"), &path("node.crt"), &path("node.key"), now).expect("loads")
}

fn server(identity: &NodeIdentity) -> quinn::Endpoint {
    let config = QuicServerConfig::try_from(identity.server_config()).expect("usable");
    let config = quinn::ServerConfig::with_crypto(Arc::new(config));
    let endpoint = quinn::Endpoint::server(config, ([127, 0, 0, 1], 0).into()).expect("a socket");
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            let connection = incoming.await.expect("connects");
            let (mut send, mut recv) = connection.accept_bi().await.expect("opens");
            let mut frame = [0; FRAME];
            while recv.read_exact(&mut frame).await.is_ok() {
                send.write_all(&frame).await.expect("writes");
            }
        }
    });
    endpoint
}

/// Datagrams between two sockets, without any protection.
pub(crate) struct Udp {
    socket: Arc<UdpSocket>,
    /// Datagrams of the one-way kind that have arrived.
    arrived: Arc<AtomicU64>,
}

/// The first byte of a datagram that is not answered.
const ONE_WAY: u8 = 1;

impl Udp {
    pub(crate) fn start(a: &Executor, b: &Executor) -> Self {
        let bind = || async { UdpSocket::bind("127.0.0.1:0").await.expect("a socket") };
        let (socket, far) = (a.run(bind()), b.run(bind()));
        let (here, there) =
            (socket.local_addr().expect("it is bound"), far.local_addr().expect("it is bound"));
        let arrived = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&arrived);
        b.spawn(async move {
            let mut bytes = [0; CONTENT];
            while let Ok((length, from)) = far.recv_from(&mut bytes).await {
                if bytes[0] == ONE_WAY {
                    counted.fetch_add(1, Ordering::Relaxed);
                } else {
                    let _ = far.send_to(&bytes[..length], from).await;
                }
            }
        });
        let socket = Arc::new(a.run(async move {
            socket.connect(there).await.expect("connects");
            socket
        }));
        assert_eq!(socket.local_addr().expect("it is bound").ip(), here.ip());
        Self { socket, arrived }
    }

    pub(crate) fn round_trips(&self, a: &Executor, count: usize) -> Vec<Duration> {
        let socket = Arc::clone(&self.socket);
        a.run(async move {
            let mut bytes = [0; CONTENT];
            let mut samples = Vec::with_capacity(count);
            for _ in 0..count {
                let begun = Instant::now();
                socket.send(&bytes).await.expect("sends");
                socket.recv(&mut bytes).await.expect("loopback loses none that somebody waits for");
                samples.push(begun.elapsed());
            }
            samples
        })
    }

    /// Datagrams that arrive a second, of those that are sent as fast as the system takes them.
    pub(crate) fn one_way(&self, a: &Executor, count: usize) -> f64 {
        let (socket, arrived) = (Arc::clone(&self.socket), Arc::clone(&self.arrived));
        a.run(async move {
            let before = arrived.load(Ordering::Relaxed);
            let begun = Instant::now();
            let bytes = [ONE_WAY; CONTENT];
            for _ in 0..count {
                socket.send(&bytes).await.expect("sends");
            }
            // What has not arrived by then was lost.
            let rate = |now: Instant| {
                (arrived.load(Ordering::Relaxed) - before) as f64 / (now - begun).as_secs_f64()
            };
            let mut last = (arrived.load(Ordering::Relaxed), Instant::now());
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let now = arrived.load(Ordering::Relaxed);
                if now == last.0 {
                    return rate(last.1);
                }
                last = (now, Instant::now());
            }
        })
    }
}

/// Messages a second that one thread seals and opens again, and does nothing else.
pub(crate) fn aead(count: usize) -> f64 {
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("sixteen bytes"));
    let begun = Instant::now();
    let mut bytes = Vec::with_capacity(CONTENT + 16);
    for n in 0..count as u64 {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&n.to_le_bytes());
        let nonce = || Nonce::assume_unique_for_key(nonce);
        bytes.clear();
        bytes.resize(CONTENT, 7);
        key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut bytes).expect("seals");
        let opened = key.open_in_place(nonce(), Aad::empty(), &mut bytes).expect("opens");
        std::hint::black_box(opened);
    }
    count as f64 / begun.elapsed().as_secs_f64()
}
