//! Whole nodes in the test's own process, on loopback, each with a directory and a certificate.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use shoal::core::ids::{MeshName, NodeId};
use shoal::core::model::{Address, MemberStatus, Message, Performative};
use shoal::node::certs::{self, Existing, NodeFiles, Validity};
use shoal::node::config::{Config, Flags};
use shoal::node::{Handle, Node, clock};
use tempfile::TempDir;

/// How long anything may take before the test gives up; nothing waits that long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A mesh of nodes `node-1`, `node-2`, ...
pub struct TestMesh {
    dir: TempDir,
    ca: certs::Ca,
    nodes: Vec<TestNode>,
}

/// One of them.
pub struct TestNode {
    config: Config,
    node: Option<Node>,
    handle: Handle,
}

impl TestNode {
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    pub fn id(&self) -> NodeId {
        self.config.node.id.clone()
    }
}

impl TestMesh {
    /// Starts `count` nodes: the first bootstraps, the others join it.
    pub async fn start(count: usize) -> Self {
        let here = tokio::runtime::Handle::current();
        Self::start_on(&vec![here; count]).await
    }

    /// Starts a node on each of these executors.
    pub async fn start_on(executors: &[tokio::runtime::Handle]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut mesh = Self { dir, ca: new_ca("test"), nodes: Vec::new() };
        let mut seed = None;
        for (n, executor) in (1..).zip(executors) {
            let config = mesh.configure(n, seed);
            let starting = config.clone();
            let node =
                executor.spawn(async move { start(&starting).await }).await.expect("it does not panic");
            let handle = node.handle().clone();
            seed = seed.or(Some(handle.listens_on().expect("it listens")));
            mesh.nodes.push(TestNode { config, node: Some(node), handle });
        }
        mesh
    }

    /// Starts one more node with that seed.
    pub async fn join(&mut self, seed: SocketAddr) {
        let config = self.configure(self.nodes.len() + 1, Some(seed));
        let node = start(&config).await;
        let handle = node.handle().clone();
        self.nodes.push(TestNode { config, node: Some(node), handle });
    }

    fn configure(&self, n: usize, seed: Option<SocketAddr>) -> Config {
        let id: NodeId = format!("node-{n}").parse().expect("valid");
        let data_dir = self.dir.path().join(id.as_str());
        let ca = &self.ca;
        let pair = issue(ca, &id);
        let files =
            NodeFiles { ca_pem: ca.bundle_pem(), cert_pem: &pair.cert_pem, key_pem: Some(&pair.key_pem) };
        certs::write_node(&data_dir.join("certs"), &files, Existing::Keep).expect("writes");
        let flags = Flags {
            node_id: Some(id.to_string()),
            bind_addr: Some("127.0.0.1:0".to_owned()),
            data_dir: Some(data_dir),
            bootstrap: seed.is_none(),
            join: seed.map(|seed| seed.to_string()).into_iter().collect(),
            ..Flags::default()
        };
        Config::load(&flags, &|_| None).expect("a good configuration")
    }

    /// The mesh's CA.
    pub fn ca(&self) -> &certs::Ca {
        &self.ca
    }

    /// The certificates' directory of node `n`.
    pub fn certs(&self, n: usize) -> PathBuf {
        self.dir.path().join(self.node(n).id().as_str()).join("certs")
    }

    /// Node `n`, counted from 1.
    pub fn node(&self, n: usize) -> &TestNode {
        &self.nodes[n - 1]
    }

    /// What node `n` believes of node `of`.
    pub fn status(&self, n: usize, of: usize) -> Option<MemberStatus> {
        let of = self.node(of).id();
        let view = self.node(n).handle.view();
        view.members.iter().find(|(m, _)| m.card.node_id == of).map(|(m, _)| m.status)
    }

    /// Waits until every running node sees every other alive.
    pub async fn all_alive(&self) {
        let running: Vec<_> = (1..=self.nodes.len()).filter(|n| self.node(*n).node.is_some()).collect();
        until(|| {
            let sees = |n: &usize| running.iter().all(|of| self.status(*n, *of) == Some(MemberStatus::Alive));
            running.iter().all(sees)
        })
        .await;
    }

    /// Stops node `n` as a signal would.
    pub async fn stop(&mut self, n: usize) {
        let node = &mut self.nodes[n - 1];
        node.handle.stop().await;
        node.node.take().expect("it runs").stopped().await.expect("it stops cleanly");
    }

    /// Starts node `n` again with its directory and without any seed.
    pub async fn restart(&mut self, n: usize) {
        let node = &mut self.nodes[n - 1];
        node.config.cluster.start = shoal::node::config::StartMode::Resume;
        let started = start(&node.config).await;
        node.handle = started.handle().clone();
        node.node = Some(started);
    }
}

/// A CA for a mesh of that name.
pub fn new_ca(mesh: &str) -> certs::Ca {
    let mesh: MeshName = mesh.parse().expect("valid");
    let ca = certs::make_ca(&mesh, validity(30)).expect("makes a CA");
    certs::Ca::from_pem(&ca.cert_pem, &ca.key_pem).expect("reads it")
}

/// A node's certificate and key.
pub fn issue(ca: &certs::Ca, node: &NodeId) -> certs::CertPair {
    certs::issue(ca, node, &[], &[], validity(10)).expect("issues")
}

fn validity(days: u32) -> Validity {
    Validity::starting(SystemTime::now(), days).expect("a validity")
}

async fn start(config: &Config) -> Node {
    let keeper = PathBuf::from(env!("CARGO_BIN_EXE_shoal"));
    shoal::node::start(config, keeper).await.expect("the node starts")
}

/// Waits until `done`, looking again every few milliseconds.
pub async fn until(done: impl Fn() -> bool) {
    let begun = tokio::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "it did not happen in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A message that a test sends from `node-1`.
pub fn message(to: &str, content: &[u8]) -> Message {
    message_from(1, to, content)
}

/// A message that a test sends from node `n`.
pub fn message_from(n: usize, to: &str, content: &[u8]) -> Message {
    Message {
        id: clock::message_id(),
        from: format!("test@node-{n}"),
        to: Address::parse(to).expect("valid"),
        performative: Performative::Request,
        conversation_id: None,
        in_reply_to: None,
        content_type: "application/octet-stream".to_owned(),
        content: content.to_vec().into(),
        deadline_ms: 5_000,
        traceparent: None,
        hops: 0,
        extensions: std::collections::BTreeMap::new(),
    }
}
