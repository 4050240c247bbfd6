//! The shell: the only code that awaits, sleeps, reads or writes.
//!
//! [`start`] brings a node up in phases, each of which can fail with one clear error before the next
//! begins: identity, store, runtime, endpoint, core. [`Node::stopped`] waits for its end; [`Handle`] is
//! what the API and embedding programs hold.

mod alerts;
pub mod certs;
pub mod clock;
mod command;
pub mod config;
mod crash_point;
mod decision;
pub mod discovery;
pub mod dispatch;
mod driver;
pub mod enrol;
pub mod events;
mod facts;
mod folder;
mod handle;
pub mod identity;
mod load;
mod performance;
pub mod runtime;
mod shares;
pub mod store;
pub mod telemetry;
pub mod transport;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::certs::{Authority, CertError};
use self::clock::Clock;
use self::config::{Config, CongestionControl, Discover};
use self::discovery::{Discovery, DiscoveryError, Itself, Way};
use self::dispatch::Dispatcher;
use self::driver::{Driver, End, Shared};
use self::facts::{Lateness, Witness};
use self::folder::Folder;
pub use self::handle::Handle;
use self::handle::PolicyCommand;
use self::identity::{Keeper, Loaded, Places};
pub use self::performance::Measured;
use self::runtime::{Runtime, RuntimeConfig};
use self::shares::Shares;
use self::store::{NodeKeys, Opened, Outcome, Store, StoreError};
use self::transport::join::Door;
use self::transport::tls::{NodeIdentity, TlsError};
use self::transport::{Congestion, Transport, TransportConfig, TransportError};
use crate::core::contract::{Boot, Effect, Input, Output, Remembered, StartMode};
use crate::core::ids::{MeshId, MeshName, NodeId, ProcessId};
use crate::core::limits;
use crate::core::mesh::Mesh;
use crate::core::model::{NodeCard, Overrides};
use crate::core::state::State;

/// Why a node did not start. Nothing was changed on disk beyond what the text says.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificate, key or CA.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificate is another node's.
    #[error(
        "the certificate names node {certificate}, the configuration {configured}: use that node's certificate, or its name"
    )]
    OtherNode {
        /// In the certificate.
        certificate: NodeId,
        /// In the configuration.
        configured: NodeId,
    },
    /// The data directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The agents' directory.
    #[error("the directory {directory} for agents could not be made: {source}")]
    Directory {
        /// Which.
        directory: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The CA that it is to give certificates from.
    #[error("this node cannot give certificates (--ca): {0}")]
    Ca(#[from] CertError),
    /// The UDP port.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Discovery.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The store was damaged, and which mesh this node belongs to could not be read from it.
    #[error(
        "the database in {data_dir} was damaged and made anew, and which mesh this node belongs to could not be read from it: start it with --join and the address of any node of its mesh; if this was the only node, move the files named shoal.db* away and --bootstrap begins a new mesh"
    )]
    MeshLost {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// Neither told nor remembered.
    #[error(
        "{data_dir} remembers no mesh, and neither --bootstrap nor --join nor --discover was given: bootstrap the first node of a mesh, and join the others to it"
    )]
    NoMesh {
        /// The data directory.
        data_dir: PathBuf,
    },
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    handle: Handle,
    driver: JoinHandle<End>,
}

/// Starts a node. `keeper` is this program's binary, which process agents are started through.
///
/// # Errors
/// [`StartError`], one sentence each.
pub async fn start(config: &Config, keeper: PathBuf) -> Result<Node, StartError> {
    let places = Places::of(config);
    let loaded = Loaded::at_start(&places, clock::wall_clock())?;
    let identity = loaded.identity().clone();
    if identity.node_id != config.node.id {
        let (certificate, configured) = (identity.node_id.clone(), config.node.id.clone());
        return Err(StartError::OtherNode { certificate, configured });
    }
    let door = door(config)?;
    let (core, inputs) = mpsc::channel(limits::DRIVER_QUEUE_MAX);
    let (told, outcomes) = mpsc::unbounded_channel();
    let (Opened { store, remembered, keys }, state) = open_store(config, told).await?;
    let driver = core.clone();
    store.when_gone(move |reason| {
        // Called on the store's own thread, which may wait for the driver.
        let _ = driver.blocking_send(Input::StoreGone { reason });
    });
    check_mesh(config, &remembered)?;
    let (report, reports) = mpsc::unbounded_channel();
    let runtime = RuntimeConfig {
        node: config.node.id.clone(),
        keeper,
        directory: agents_directory(config)?,
        modules: config.node.data_dir.join("modules"),
    };
    let runtime = Runtime::new(runtime, move |agent, run, what| {
        // The driver is gone only when the node is.
        let _ = report.send(Input::Agent { agent, run, report: what });
    });
    let dispatcher = Dispatcher::new(config.node.id.clone(), runtime.clone(), core.clone());
    runtime.set_outlet(Arc::new(dispatcher.clone()));

    let mesh_name = identity.mesh.clone();
    let boot = |addresses: Vec<String>| Boot {
        card: card(config, addresses),
        mesh_name: mesh_name.clone(),
        process_id: ProcessId(clock::random_id()),
        remembered,
        start: start_mode(&config.cluster.start),
        profile: config.cluster.profile,
        overrides: overrides(config),
        cross_region: config.cluster.cross_region,
        partition: config.partition.clone(),
        recovery: config.recovery.clone(),
        unix_ms: clock::unix_ms(),
        seed: clock::random_bytes(),
    };
    let clock = Clock::start();
    // The port may be the system's choice, so the endpoint comes before the card that names it; its
    // first hello is that of a node without addresses, and nobody is greeted before the core has its own.
    let socket = transport::bind(config.cluster.bind_addr)?;
    let port = socket.local_addr().map_or(config.cluster.bind_addr.port(), |a| a.port());
    let advertised = addresses(config, port);
    let mut mesh = Mesh::with_state(boot(advertised.clone()), state, clock.now());
    let outputs: Vec<_> = std::iter::from_fn(|| mesh.poll_output()).collect();
    let shared = Arc::new(Shared::new(mesh.view()));
    let shares =
        Arc::new(Shares { own: config.node.id.clone(), core: core.clone(), shared: Arc::clone(&shared) });
    runtime.set_commons(Arc::clone(&shares) as Arc<_>);
    dispatcher.set_promise(Box::new(move |messages, life| shares.promise(messages, life)));
    let discovery = start_discovery(config, mesh_name.clone(), advertised, &core, &shared)?;
    let transport = Transport::open(
        transport_config(config, &keys, identity, door),
        socket,
        first_hello(&outputs),
        core.clone(),
        Arc::new(dispatcher.clone()),
    )?;
    let (identity_keeper, identity) =
        Keeper::new(places, loaded, transport.clone(), core.clone()).map_err(TlsError::from)?;
    tokio::spawn(identity_keeper.run());
    let witness = Witness {
        core: core.downgrade(),
        shared: Arc::clone(&shared),
        transport: transport.clone(),
        runtime: runtime.clone(),
        history: store.history(),
        lateness: Arc::new(Lateness::default()),
        profile: config.cluster.profile,
        seeds: seeds(&config.cluster.start),
        started: std::time::Instant::now(),
    };
    let driver = Driver {
        mesh,
        clock,
        inputs,
        reports,
        outcomes,
        store,
        witness,
        transport: transport.clone(),
        runtime: runtime.clone(),
        identity: identity.clone(),
        dispatcher: dispatcher.clone(),
        discovery,
        shared: Arc::clone(&shared),
        first: outputs.into(),
        held: std::collections::BTreeMap::new(),
        answers: VecDeque::new(),
        cross_region: config.cluster.cross_region,
        core: core.clone(),
        clock_told: (Instant::now(), clock::unix_ms()),
        region_pairs: std::collections::BTreeSet::new(),
        dirty: true,
        published: Instant::now(),
        end: None,
    };
    alerts::start(&config.webhooks, &config.node.id, shared.events.subscribe(None).live);
    let watched = Arc::clone(&shared);
    tokio::spawn(load::sample(core.clone(), transport.clone(), move || watched.view.load_full()));
    let own = config.node.id.clone();
    let policy = PolicyCommand {
        command: config.custom_policy.clone(),
        turns: Semaphore::new(limits::POLICIES_AT_ONCE_MAX),
    };
    let policy = Arc::new(policy);
    let handle = Handle {
        own,
        core,
        shared,
        dispatcher,
        runtime,
        transport,
        identity,
        policy,
        measuring: Arc::new(Semaphore::new(limits::MEASUREMENTS_AT_ONCE_MAX)),
        started: Instant::now(),
    };
    if let Some(directory) = &config.node.agents_dir {
        tokio::spawn(Folder::new(directory.clone(), handle.clone()).run());
    }
    Ok(Node { handle, driver: tokio::spawn(driver.run()) })
}

/// Refuses a start that has no mesh to go back to, and one that would begin a second mesh in the place of a lost one.
fn check_mesh(config: &Config, remembered: &Remembered) -> Result<(), StartError> {
    if remembered.mesh_id.is_some() {
        return Ok(());
    }
    let data_dir = config.node.data_dir.clone();
    match &config.cluster.start {
        config::StartMode::Join(_) | config::StartMode::Discover => Ok(()),
        config::StartMode::Bootstrap | config::StartMode::Resume if remembered.rebuilt => {
            Err(StartError::MeshLost { data_dir })
        }
        config::StartMode::Resume => Err(StartError::NoMesh { data_dir }),
        config::StartMode::Bootstrap => Ok(()),
    }
}

/// The store, and what its rows say of the shared state. Both are made on one thread: the allocator keeps memory by
/// thread, and what a million rows took is used again for what they say.
async fn open_store(
    config: &Config,
    report: mpsc::UnboundedSender<Vec<Outcome>>,
) -> Result<(Opened, State), StoreError> {
    let data_dir = config.node.data_dir.clone();
    let fresh_keys =
        || NodeKeys { reset_key: clock::random_bytes(), connection_id_key: clock::random_bytes() };
    // A driver that is gone wants to know no more.
    let on_outcomes = move |outcomes| drop(report.send(outcomes));
    let opening = tokio::task::spawn_blocking(move || {
        let mut opened = Store::open(&data_dir, fresh_keys, on_outcomes)?;
        let state = State::load(&mut opened.remembered.tables);
        Ok((opened, state))
    });
    opening.await.expect("opening the store does not panic")
}

/// Where process agents run.
fn agents_directory(config: &Config) -> Result<PathBuf, StartError> {
    let directory = config.node.data_dir.join("agents");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    let made = made.and_then(|()| directory.canonicalize());
    made.map_err(|source| StartError::Directory { directory, source })
}

fn first_hello(outputs: &[Effect]) -> crate::core::model::Hello {
    let hello = outputs.iter().find_map(|effect| {
        if let Output::HelloChanged(hello) = &effect.output { Some(hello.clone()) } else { None }
    });
    hello.expect("a mesh says its hello before anything else")
}

fn card(config: &Config, addresses: Vec<String>) -> NodeCard {
    NodeCard {
        node_id: config.node.id.clone(),
        addresses,
        region: config.node.region.clone(),
        zone: config.node.zone.clone(),
        labels: config.node.labels.clone(),
        roles: config.node.roles.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn start_mode(start: &config::StartMode) -> StartMode {
    match start {
        config::StartMode::Bootstrap => StartMode::Bootstrap { mesh_id: MeshId(clock::random_id()) },
        config::StartMode::Join(seeds) => {
            StartMode::Join { seeds: seeds.iter().map(ToString::to_string).collect() }
        }
        config::StartMode::Discover => StartMode::Join { seeds: Vec::new() },
        config::StartMode::Resume => StartMode::Resume,
    }
}

fn start_discovery(
    config: &Config,
    mesh: MeshName,
    addresses: Vec<String>,
    core: &mpsc::Sender<Input>,
    shared: &Arc<Shared>,
) -> Result<Discovery, DiscoveryError> {
    let way = |discover: &Discover| match discover {
        Discover::Dns(name) => Way::Dns(name.to_string()),
        Discover::Mdns => Way::Mdns,
    };
    let ways: Vec<_> = config.cluster.discover.iter().map(way).collect();
    let is_ipv6 = config.cluster.bind_addr.is_ipv6();
    let itself = Itself { node: config.node.id.clone(), mesh, addresses, is_ipv6 };
    let shared = Arc::clone(shared);
    let is_alone = move || {
        let view = shared.view.load();
        !view.members.iter().any(|(m, _)| m.card.node_id != view.own && m.status.is_reachable())
    };
    Discovery::start(&ways, &itself, core.clone(), is_alone)
}

fn seeds(start: &config::StartMode) -> u32 {
    match start {
        config::StartMode::Join(seeds) => u32::try_from(seeds.len()).unwrap_or(u32::MAX),
        config::StartMode::Bootstrap | config::StartMode::Discover | config::StartMode::Resume => 0,
    }
}

fn overrides(config: &Config) -> Overrides {
    let probe = config.cluster.probe;
    Overrides {
        probe_interval: probe.map(|p| p.interval),
        probe_timeout: probe.map(|p| p.timeout),
        gossip_interval: config.cluster.gossip_interval,
        gossip_fanout: config.cluster.gossip_fanout,
        suspicion_min: config.cluster.suspicion.map(|s| s.min),
        suspicion_max: config.cluster.suspicion.map(|s| s.max),
    }
}

/// Where the node has the CA: what gives others their certificates.
fn door(config: &Config) -> Result<Option<Arc<Door>>, CertError> {
    let Some(dir) = &config.enrolment.ca else {
        return Ok(None);
    };
    let authority = Arc::new(Authority::open(dir)?);
    Ok(Some(Arc::new(Door::new(authority, clock::wall_clock))))
}

fn transport_config(
    config: &Config,
    keys: &NodeKeys,
    identity: NodeIdentity,
    door: Option<Arc<Door>>,
) -> TransportConfig {
    TransportConfig {
        max_streams: config.transport.max_streams,
        congestion: match config.transport.congestion_control {
            CongestionControl::Cubic => Congestion::Cubic,
            CongestionControl::Bbr => Congestion::Bbr,
        },
        reset_key: keys.reset_key,
        connection_id_key: u64::from_le_bytes(keys.connection_id_key),
        identity,
        door,
    }
}

/// Where others can dial this node: what it was told to say, the address it listens on, or, when it
/// listens everywhere, the addresses of its interfaces.
fn addresses(config: &Config, port: u16) -> Vec<String> {
    let told = &config.cluster.advertise_addrs;
    if !told.is_empty() {
        return told.iter().map(ToString::to_string).collect();
    }
    let bound = config.cluster.bind_addr.ip();
    if !bound.is_unspecified() {
        return vec![SocketAddr::new(bound, port).to_string()];
    }
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => bound.is_ipv6() && !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut found: Vec<_> = interfaces.iter().map(if_addrs::Interface::ip).filter(usable).collect();
    found.truncate(limits::ADDRESSES_MAX);
    if found.is_empty() {
        tracing::warn!("this machine has no address beside loopback: only nodes on it can dial this one");
        found.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    found.into_iter().map(|ip| SocketAddr::new(ip, port).to_string()).collect()
}

impl Node {
    /// Talks to the node.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until the node has stopped.
    ///
    /// # Errors
    /// One sentence, when it did not stop of its own or its operator's will.
    pub async fn stopped(self) -> Result<(), String> {
        match self.driver.await {
            Ok(End::Stopped) => Ok(()),
            Ok(End::Fatal(reason)) => Err(reason),
            Err(error) => Err(format!("the node's main loop failed: {error}")),
        }
    }
}
