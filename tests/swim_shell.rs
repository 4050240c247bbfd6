//! Rows of `docs/swim-behaviours.md` that only whole nodes with real sockets can show.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::mesh::{issue, new_ca, until};
use shoal::core::ids::NodeId;
use shoal::core::model::MemberStatus;
use shoal::node::certs::{self, Ca, Existing, NodeFiles};
use shoal::node::config::{Config, Flags};
use shoal::node::{Handle, Node};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, RwLock};

struct Place {
    dir: TempDir,
    ca: Ca,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory"), ca: new_ca("test") }
    }

    /// Starts a node with these flags; it bootstraps where it is told of no seed.
    async fn start(&self, name: &str, bind: &str, seed: Option<SocketAddr>, flags: Flags) -> Node {
        let id: NodeId = name.parse().expect("valid");
        let data_dir = self.dir.path().join(name);
        let pair = issue(&self.ca, &id);
        let bundle = self.ca.bundle_pem();
        let files = NodeFiles { ca_pem: bundle, cert_pem: &pair.cert_pem, key_pem: Some(&pair.key_pem) };
        certs::write_node(&data_dir.join("certs"), &files, Existing::Replace).expect("writes");
        let flags = Flags {
            node_id: Some(name.to_owned()),
            bind_addr: Some(bind.to_owned()),
            data_dir: Some(data_dir),
            bootstrap: seed.is_none(),
            join: seed.map(|seed| seed.to_string()).into_iter().collect(),
            ..flags
        };
        let config = Config::load(&flags, &|_| None).expect("a good configuration");
        let keeper = std::path::PathBuf::from(env!("CARGO_BIN_EXE_shoal"));
        shoal::node::start(&config, keeper).await.expect("the node starts")
    }
}

async fn stop(node: Node) {
    node.handle().stop().await;
    node.stopped().await.expect("it stops cleanly");
}

fn listens_on(node: &Node) -> SocketAddr {
    node.handle().listens_on().expect("it listens")
}

fn status(handle: &Handle, of: &str) -> Option<MemberStatus> {
    let view = handle.view();
    view.members.iter().find(|(m, _)| m.card.node_id.as_str() == of).map(|(m, _)| m.status)
}

fn is_alive(handle: &Handle, of: &str) -> bool {
    status(handle, of) == Some(MemberStatus::Alive)
}

async fn see_each_other(one: &Node, other: &Node) {
    until(|| is_alive(one.handle(), "node-2") && is_alive(other.handle(), "node-1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_007_nodes_join_over_ipv6() {
    let place = Place::new();
    let one = place.start("node-1", "[::1]:0", None, Flags::default()).await;
    let other = place.start("node-2", "[::1]:0", Some(listens_on(&one)), Flags::default()).await;
    see_each_other(&one, &other).await;
    let view = one.handle().view();
    let addresses = view.members.iter().flat_map(|(m, _)| &m.card.addresses);
    assert!(addresses.into_iter().all(|address| address.starts_with("[::1]:")));
    stop(other).await;
    stop(one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_008_others_see_the_advertised_address_and_not_the_bound_one() {
    let place = Place::new();
    let one = place.start("node-1", "127.0.0.1:0", None, Flags::default()).await;
    let advertised = Flags { advertise_addr: vec!["two.example:4711".to_owned()], ..Flags::default() };
    let other = place.start("node-2", "127.0.0.1:0", Some(listens_on(&one)), advertised).await;
    see_each_other(&one, &other).await;
    let view = one.handle().view();
    let seen = view.members.iter().find(|(m, _)| m.card.node_id.as_str() == "node-2").expect("known");
    assert_eq!(seen.0.card.addresses, ["two.example:4711"]);
    stop(other).await;
    stop(one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_010_a_node_that_stops_right_after_its_start_leaves_its_port_and_its_files_to_the_next() {
    let place = Place::new();
    let one = place.start("node-1", "127.0.0.1:0", None, Flags::default()).await;
    let seed = Some(listens_on(&one));
    let mut bind = "127.0.0.1:0".to_owned();
    for _ in 0..5 {
        let other = place.start("node-2", &bind, seed, Flags::default()).await;
        bind = listens_on(&other).to_string();
        stop(other).await;
        // What its tasks still hold goes in a moment.
        until(|| std::net::UdpSocket::bind(&bind).is_ok()).await;
    }
    let other = place.start("node-2", &bind, seed, Flags::default()).await;
    see_each_other(&one, &other).await;
    stop(other).await;
    stop(one).await;
}

/// A translator of addresses: whoever calls its front is seen by the target at the back, at a port that
/// can change.
struct Translator {
    front: SocketAddr,
    back: Arc<RwLock<Arc<UdpSocket>>>,
    changed: Arc<Notify>,
    target: SocketAddr,
    /// Packets both ways since the last change.
    passed: [Arc<AtomicUsize>; 2],
}

impl Translator {
    async fn new(target: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("binds"));
        let address = front.local_addr().expect("bound");
        let back = Arc::new(RwLock::new(Self::socket(target).await));
        let changed = Arc::new(Notify::new());
        let passed = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
        let caller = Arc::new(RwLock::new(None));
        tokio::spawn({
            let (front, back, caller, passed) =
                (Arc::clone(&front), Arc::clone(&back), Arc::clone(&caller), Arc::clone(&passed[0]));
            async move {
                let mut buffer = vec![0; 65_536];
                while let Ok((length, from)) = front.recv_from(&mut buffer).await {
                    *caller.write().await = Some(from);
                    let socket = Arc::clone(&*back.read().await);
                    if socket.send(&buffer[..length]).await.is_ok() {
                        passed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        tokio::spawn({
            let (back, changed, passed) = (Arc::clone(&back), Arc::clone(&changed), Arc::clone(&passed[1]));
            async move {
                let mut buffer = vec![0; 65_536];
                loop {
                    let socket = Arc::clone(&*back.read().await);
                    let received = tokio::select! {
                        received = socket.recv(&mut buffer) => received,
                        () = changed.notified() => continue,
                    };
                    let to = *caller.read().await;
                    if let (Ok(length), Some(to)) = (received, to)
                        && front.send_to(&buffer[..length], to).await.is_ok()
                    {
                        passed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Self { front: address, back, changed, target, passed }
    }

    async fn socket(target: SocketAddr) -> Arc<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
        socket.connect(target).await.expect("connects");
        Arc::new(socket)
    }

    /// From now on the target sees the caller at another port, and hears nobody at the old one.
    async fn rebind(&self) {
        *self.back.write().await = Self::socket(self.target).await;
        self.passed.iter().for_each(|passed| passed.store(0, Ordering::Relaxed));
        self.changed.notify_one();
    }

    fn passed(&self) -> [usize; 2] {
        [0, 1].map(|way| self.passed[way].load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gap_06_a_link_survives_that_the_peers_port_changes_under_way() {
    let place = Place::new();
    let one = place.start("node-1", "127.0.0.1:0", None, Flags::default()).await;
    let translator = Translator::new(listens_on(&one)).await;
    let other = place.start("node-2", "127.0.0.1:0", Some(translator.front), Flags::default()).await;
    see_each_other(&one, &other).await;
    for _ in 0..3 {
        translator.rebind().await;
        // Probes of both go on over the same link, through the new port.
        until(|| {
            let seen = [status(one.handle(), "node-2"), status(other.handle(), "node-1")];
            assert!(!seen.contains(&Some(MemberStatus::Failed)), "{seen:?}");
            translator.passed().iter().all(|passed| *passed >= 20)
        })
        .await;
        see_each_other(&one, &other).await;
    }
    stop(other).await;
    stop(one).await;
}
