//! Nodes of other versions. What version 1 wrote is recorded in `tests/fixtures/wire-v1` and is read for as
//! long as version 1 is spoken; what is said to it, it understands; and nodes with which no version is
//! spoken in common are refused with the reason, on both sides.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one kind among many")]

mod common;
mod version1;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use shoal::core::contract::{Boot, Input, Output, Remembered, StartMode};
use shoal::core::error::Refused;
use shoal::core::ids::{Incarnation, LinkId, MeshId, NodeId, ProcessId};
use shoal::core::limits;
use shoal::core::mesh::Mesh;
use shoal::core::model::{Event, Hello, Load, MemberStatus, NodeCard, Overrides, Profile};
use shoal::core::time::Instant;
use shoal::core::wire::{self, Body, Control, Data, MemberEntryState, RequestBody};
use shoal::node::telemetry;
use shoal::node::transport::tls::{NodeIdentity, SERVER_NAME};
use tokio::sync::mpsc;
use tokio::time::timeout;
use uuid::Uuid;

use common::mesh::{PATIENCE, TestMesh, issue, message, until};
use version1::mirror::{self, Frame, Packet, SwimMessage};
use version1::{names, recorded, samples};

/// The SWIM packets that are recorded.
const SWIM: &[&str] = &[
    "swim-ack",
    "swim-ack-departure",
    "swim-ack-members",
    "swim-announce",
    "swim-feed-members",
    "swim-forwarded-ack",
    "swim-gossip",
    "swim-gossip-members",
    "swim-indirect-ack",
    "swim-indirect-ping",
    "swim-ping",
    "swim-ping-departure",
    "swim-ping-req",
];

fn framed_at<B: Body>(version: u8, body: &B) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode_at(version, body, &mut bytes).expect("fits");
    bytes
}

fn read<B: Body>(frame: &[u8]) -> B {
    let (kind, body) = wire::split(&frame[4..]).expect("a version that is spoken").expect("a known kind");
    assert_eq!(kind, B::KIND);
    wire::decode(body).expect("decodes")
}

#[test]
fn what_version_1_wrote_is_read_as_it_was_meant() {
    let mut read_so_far: BTreeSet<String> = SWIM.iter().map(ToString::to_string).collect();
    for (name, meant) in samples::hellos() {
        assert_eq!(read::<Hello>(&recorded(name)), meant, "{name}");
        read_so_far.insert(name.to_owned());
    }
    for (name, meant) in samples::controls() {
        assert_eq!(read::<Control>(&recorded(name)), meant, "{name}");
        read_so_far.insert(name.to_owned());
    }
    for (name, meant) in samples::data() {
        assert_eq!(read::<Data>(&recorded(name)), meant, "{name}");
        read_so_far.insert(name.to_owned());
    }
    assert_eq!(read_so_far, names(), "all that is recorded is read");
}

#[test]
fn what_is_said_to_version_1_is_read_there_as_what_it_said_itself() {
    let said = |name: &str, bytes: Vec<u8>| {
        let ours = Frame::read(&bytes[4..]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(ours, Frame::read(&recorded(name)[4..]).expect("it wrote that itself"), "{name}");
    };
    samples::hellos().iter().for_each(|(name, hello)| said(name, framed_at(1, hello)));
    samples::controls().iter().for_each(|(name, frame)| said(name, framed_at(1, frame)));
    samples::data().iter().for_each(|(name, frame)| said(name, framed_at(1, frame)));
}

#[test]
fn a_nodes_own_records_are_read_by_version_1_and_its_records_here() {
    let Control::Owned { batches } = read::<Control>(&recorded("control-owned")) else {
        panic!("another frame");
    };
    let value = |path: &str| {
        let found = batches[0].records.iter().find(|record| record.path == path);
        found.and_then(|record| record.value.clone()).expect("it is recorded")
    };
    let (card, load) = samples::record_values();
    assert_eq!(wire::decode_value::<NodeCard>(&value("node")).expect("decodes"), card);
    assert_eq!(wire::decode_value::<Load>(&value("load")).expect("decodes"), load);
    let theirs: mirror::NodeCard = mirror::decode(&wire::encode_value(&card)).expect("version 1 reads it");
    assert_eq!(theirs, mirror::decode(&value("node")).expect("it wrote that itself"));
    mirror::decode::<mirror::Load>(&wire::encode_value(&load)).expect("version 1 reads it");
    for n in 0..5 {
        let record =
            wire::decode_value::<shoal::core::model::AgentRecord>(&value(&format!("agents/agent-{n}")));
        let ours = wire::encode_value(&record.expect("decodes"));
        mirror::decode::<mirror::AgentRecord>(&ours).expect("version 1 reads it");
    }
}

/// A node of the recorded mesh that has a link to the node whose packets are recorded.
struct Listener {
    mesh: Mesh,
    now: Instant,
}

const LINK: LinkId = LinkId(1);

impl Listener {
    fn new() -> Self {
        let now = Instant::ZERO;
        let card = NodeCard { node_id: "node-1".parse().expect("valid"), ..samples::card() };
        let boot = Boot {
            card,
            mesh_name: "test".parse().expect("valid"),
            process_id: ProcessId(Uuid::from_bytes([1; 16])),
            remembered: Remembered {
                start: 1,
                mesh_id: Some(MeshId(Uuid::from_bytes([7; 16]))),
                ..Remembered::default()
            },
            start: StartMode::Resume,
            profile: Profile::Auto,
            overrides: Overrides::default(),
            cross_region: Default::default(),
            partition: Default::default(),
            recovery: Default::default(),
            unix_ms: 0,
            seed: [1; 32],
        };
        let mut listener = Self { mesh: Mesh::new(boot, now), now };
        let hello = read::<Hello>(&recorded("hello-member"));
        listener.tell(Input::LinkUp { link: LINK, hello, address: "127.0.0.1:9".to_owned(), dialled: None });
        listener
    }

    fn tell(&mut self, input: Input) -> Vec<Output> {
        self.mesh.handle(input, self.now);
        std::iter::from_fn(|| self.mesh.poll_output()).map(|effect| effect.output).collect()
    }

    /// What it sends back when it hears this packet.
    fn hears(&mut self, packet: Vec<u8>) -> Vec<Packet> {
        let outputs = self.tell(Input::Swim { link: LINK, packet: packet.into() });
        let packets = outputs.into_iter().filter_map(|output| match output {
            Output::Swim { packet, .. } => Some(Packet::read(&packet).expect("version 1 reads it")),
            _ => None,
        });
        packets.collect()
    }

    /// What it says of a member when it is asked for its list.
    fn knows(&mut self, key: [u8; 16]) -> Option<MemberEntryState> {
        let ask = Control::Members { members: Vec::new(), reply: true };
        let outputs = self.tell(Input::Control { link: LINK, frame: ask });
        let members = outputs.into_iter().find_map(|output| match output {
            Output::Control { frame: Control::Members { members, .. }, .. } => Some(members),
            _ => None,
        });
        members.expect("it answers").iter().find(|entry| entry.key.0 == key).map(|entry| entry.state)
    }
}

#[test]
fn swim_packets_of_version_1_are_taken() {
    for name in SWIM {
        let mut listener = Listener::new();
        let packet = recorded(name);
        let theirs = Packet::read(&packet).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(theirs.written(), packet, "{name}: the test's own writing of it");
        let answers = listener.hears(packet);
        assert_eq!(listener.mesh.view().counters.swim_packets_dropped, 0, "{name}");
        if let SwimMessage::Ping(number) = theirs.header.message {
            let acks = |packet: &Packet| packet.header.message == SwimMessage::Ack(number);
            assert!(answers.iter().any(acks), "{name}: {answers:?}");
        }
        for (key, _) in &theirs.left {
            assert_eq!(listener.knows(*key), Some(MemberEntryState::Left), "{name}");
        }
        // A packet for a later incarnation of the listener tells it nothing, today as then.
        let is_for_it = theirs.header.to.incarnation == Incarnation::first_of(1).0;
        let ends = [theirs.header.from.key, theirs.header.to.key];
        let told = theirs.members.iter().flatten().filter(|m| m.state == 0 && !ends.contains(&m.id.key));
        for member in told.filter(|_| is_for_it) {
            assert_eq!(listener.knows(member.id.key), Some(MemberEntryState::Alive), "{name}");
        }
    }
}

/// Later versions may append to the note of a packet, and only that.
#[test]
fn what_a_later_version_appends_to_a_note_is_skipped() {
    let packet = recorded("swim-ping-departure");
    let meant = Packet::read(&packet).expect("it reads what it wrote");
    assert!(!meant.left.is_empty());
    let note = 2 + packet[1] as usize;
    let longer = |added: &[u8]| {
        let mut longer = [&packet[..note], added, &packet[note..]].concat();
        longer[1] += u8::try_from(added.len()).expect("short");
        longer
    };
    assert_eq!(Packet::read(&longer(&[7, 1, 2, 3])).expect("version 1 skips it"), meant);
    // What version 2 has appended (health, no refusals to help, no rumours, no coordinate), and more behind it.
    let longer = longer(&[0, 0, 0, 0, 7, 1, 2, 3]);
    assert_eq!(Packet::read(&longer).expect("version 1 skips it"), meant);
    let mut listener = Listener::new();
    listener.tell(Input::Swim { link: LINK, packet: longer.into() });
    assert_eq!(listener.mesh.view().counters.swim_packets_dropped, 0);
    assert_eq!(listener.knows(meant.left[0].0), Some(MemberEntryState::Left));
}

fn identity(mesh: &TestMesh, name: &str) -> NodeIdentity {
    let ca = mesh.ca();
    let pair = issue(ca, &name.parse::<NodeId>().expect("valid"));
    NodeIdentity::from_pem(ca.bundle_pem(), &pair.cert_pem, &pair.key_pem, SystemTime::now()).expect("loads")
}

async fn connect(mesh: &TestMesh, name: &str, address: SocketAddr) -> (Endpoint, Connection) {
    let tls = QuicClientConfig::try_from(identity(mesh, name).client_config()).expect("usable");
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
    let connecting = endpoint.connect_with(config, address, SERVER_NAME).expect("valid");
    let connection = connecting.await.expect("connects");
    (endpoint, connection)
}

/// An endpoint that nodes can dial, with a certificate of the mesh.
fn listen(mesh: &TestMesh, name: &str) -> Endpoint {
    let tls = QuicServerConfig::try_from(identity(mesh, name).server_config()).expect("usable");
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    Endpoint::server(config, ([127, 0, 0, 1], 0).into()).expect("a socket")
}

async fn next_frame(stream: &mut RecvStream) -> Option<Vec<u8>> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await.ok()?;
    let length = wire::frame_length(prefix, limits::FRAME_BYTES_MAX).expect("a frame");
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

/// What a node of version 1 has been told.
#[derive(Default)]
struct Heard {
    hello: Option<mirror::Hello>,
    /// What it would count as malformed.
    malformed: Vec<String>,
    pings: usize,
    checks: usize,
    check_answers: Vec<u64>,
    requests: Vec<mirror::RequestBody>,
    messages: usize,
}

/// A node of version 1: it says recorded bytes, answers as version 1 did, and understands nothing else.
struct OldNode {
    _endpoint: Endpoint,
    connection: Connection,
    say: mpsc::UnboundedSender<Vec<u8>>,
    heard: Arc<Mutex<Heard>>,
}

impl OldNode {
    /// Dials a node and says hello.
    async fn join(mesh: &TestMesh, address: SocketAddr, hello: Vec<u8>) -> Self {
        let (endpoint, connection) = connect(mesh, "node-9", address).await;
        let (send, recv) = connection.open_bi().await.expect("a stream");
        Self::over(endpoint, connection, send, recv, hello)
    }

    fn over(
        endpoint: Endpoint,
        connection: Connection,
        mut send: SendStream,
        recv: RecvStream,
        hello: Vec<u8>,
    ) -> Self {
        let heard = Arc::<Mutex<Heard>>::default();
        let (say, mut said) = mpsc::unbounded_channel::<Vec<u8>>();
        say.send(hello).expect("it is read below");
        tokio::spawn(async move {
            while let Some(bytes) = said.recv().await {
                if send.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(hear_control(recv, Arc::clone(&heard), say.clone()));
        tokio::spawn(hear_datagrams(connection.clone(), Arc::clone(&heard)));
        tokio::spawn(hear_messages(connection.clone(), Arc::clone(&heard)));
        Self { _endpoint: endpoint, connection, say, heard }
    }

    fn say(&self, bytes: Vec<u8>) {
        self.say.send(bytes).expect("it still speaks");
    }

    fn heard<T>(&self, what: impl Fn(&Heard) -> T) -> T {
        what(&self.heard.lock().expect("not poisoned"))
    }

    /// Everything that it was told, it understood.
    fn understood_all(&self) {
        self.heard(|heard| assert_eq!(heard.malformed, Vec::<String>::new()));
    }
}

async fn hear_control(mut recv: RecvStream, heard: Arc<Mutex<Heard>>, say: mpsc::UnboundedSender<Vec<u8>>) {
    while let Some(frame) = next_frame(&mut recv).await {
        let frame = Frame::read(&frame);
        let mut heard = heard.lock().expect("not poisoned");
        let answer = match frame {
            Ok(Frame::Hello(hello)) => {
                heard.hello = Some(hello);
                continue;
            }
            Ok(Frame::Control(mirror::Control::Check { nonce })) => {
                heard.checks += 1;
                mirror::Control::CheckAnswer { nonce }
            }
            Ok(Frame::Control(mirror::Control::Request { id, body })) => {
                heard.requests.push(body);
                mirror::Control::Response { id, result: Ok(mirror::ResponseBody::Done) }
            }
            Ok(Frame::Control(mirror::Control::CheckAnswer { nonce })) => {
                heard.check_answers.push(nonce);
                continue;
            }
            Ok(Frame::Control(_) | Frame::Swim(_)) => continue,
            Ok(other @ (Frame::Data(_) | Frame::OfUnknownKind)) => {
                heard.malformed.push(format!("{other:?}"));
                continue;
            }
            Err(error) => {
                heard.malformed.push(error);
                continue;
            }
        };
        let _ = say.send(Frame::Control(answer).written());
    }
}

/// Answers every ping, so that it is not suspected.
async fn hear_datagrams(connection: Connection, heard: Arc<Mutex<Heard>>) {
    while let Ok(packet) = connection.read_datagram().await {
        let mut heard = heard.lock().expect("not poisoned");
        match Packet::read(&packet) {
            Ok(Packet { header, .. }) => {
                if let SwimMessage::Ping(number) = header.message {
                    heard.pings += 1;
                    let message = SwimMessage::Ack(number);
                    let header =
                        mirror::SwimHeader { from: header.to, refutations: 0, to: header.from, message };
                    let ack = Packet { left: Vec::new(), header, members: Some(Vec::new()) };
                    let _ = connection.send_datagram(Bytes::from(ack.written()));
                }
            }
            Err(error) => heard.malformed.push(error),
        }
    }
}

/// Answers every message with its own content.
async fn hear_messages(connection: Connection, heard: Arc<Mutex<Heard>>) {
    while let Ok(mut stream) = connection.accept_uni().await {
        let (connection, heard) = (connection.clone(), Arc::clone(&heard));
        tokio::spawn(async move {
            while let Some(frame) = next_frame(&mut stream).await {
                let outcome = match Frame::read(&frame) {
                    Ok(Frame::Data(mirror::Data::Deliver { tag, message, .. })) => {
                        heard.lock().expect("not poisoned").messages += 1;
                        let (from, content_type) = ("agent-1@node-9".to_owned(), "text/plain".to_owned());
                        let answer = mirror::Answer { from, content_type, content: message.content };
                        Frame::Data(mirror::Data::Outcome { tag, result: Ok(Some(answer)) })
                    }
                    other => {
                        heard.lock().expect("not poisoned").malformed.push(format!("{other:?}"));
                        continue;
                    }
                };
                let mut answer = connection.open_uni().await.expect("a stream");
                answer.write_all(&outcome.written()).await.expect("written");
            }
        });
    }
}

fn status_of_old(mesh: &TestMesh) -> Option<MemberStatus> {
    let view = mesh.node(1).handle().view();
    view.members.iter().find(|(m, _)| m.card.node_id.as_str() == "node-9").map(|(m, _)| m.status)
}

/// Fault 70: versions N and N-1 in one mesh, in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn fault_70_a_node_of_version_1_joins_and_is_told_nothing_that_it_does_not_understand() {
    let mesh = TestMesh::start(1).await;
    let handle = mesh.node(1).handle();
    until(|| handle.view().joined).await;
    let address = handle.listens_on().expect("it listens");
    let old = OldNode::join(&mesh, address, recorded("hello-joining")).await;
    until(|| status_of_old(&mesh) == Some(MemberStatus::Alive)).await;
    until(|| old.heard(|h| h.hello.as_ref().is_some_and(|h| (h.version_min, h.version_max) == (1, 2)))).await;

    // Its records, its check, and what is asked of it.
    old.say(recorded("control-owned"));
    let agents = || handle.view().agents.iter().filter(|a| a.node.as_str() == "node-9").count();
    until(|| agents() == 5).await;
    old.say(recorded("control-check"));
    until(|| old.heard(|h| h.check_answers.contains(&41))).await;
    let node: NodeId = "node-9".parse().expect("valid");
    handle.request(node, RequestBody::Ping).await.expect("it answers");
    old.heard(|h| assert_eq!(h.requests, [mirror::RequestBody::Ping]));
    let answer = handle.ask(message("agent-1", b"hello")).await.expect("it answers");
    assert_eq!(&answer.content[..], b"hello");

    // A second process with its name is asked about over the link, and refused.
    let Ok(Frame::Hello(hello)) = Frame::read(&recorded("hello-joining")[4..]) else {
        panic!("another frame");
    };
    let second = mirror::Hello { process_id: Uuid::from_bytes([10; 16]), ..hello };
    let second = OldNode::join(&mesh, address, Frame::Hello(second).written()).await;
    is_closed_with(&second.connection, Refused::Duplicate).await;
    old.heard(|h| assert_eq!(h.checks, 1));

    // Gossip finds it alive for as long as it answers.
    let pings = old.heard(|h| h.pings);
    until(|| old.heard(|h| h.pings) >= pings + 5).await;
    assert_eq!(status_of_old(&mesh), Some(MemberStatus::Alive));
    old.understood_all();
    second.understood_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_70_a_node_joins_through_a_seed_of_version_1() {
    let mut mesh = TestMesh::start(1).await;
    let endpoint = listen(&mesh, "node-9");
    let address = endpoint.local_addr().expect("it is bound");
    let joins = tokio::spawn(async move {
        let connection = endpoint.accept().await.expect("it is dialled").await.expect("connects");
        let (send, mut recv) = connection.accept_bi().await.expect("a stream");
        let hello = next_frame(&mut recv).await.expect("a hello");
        assert!(matches!(Frame::read(&hello), Ok(Frame::Hello(_))), "version 1 reads the first frame");
        OldNode::over(endpoint, connection, send, recv, recorded("hello-member"))
    });
    mesh.join(address).await;
    let old = timeout(PATIENCE, joins).await.expect("it is dialled").expect("it does not panic");
    // It belongs to a mesh, and its first word makes the newcomer a part of that.
    old.say(recorded("control-keep-alive"));
    old.say(recorded("control-check"));
    let newcomer = mesh.node(2).handle();
    until(|| newcomer.view().mesh_id == Some(MeshId(Uuid::from_bytes([7; 16])))).await;
    until(|| old.heard(|h| h.check_answers.contains(&41) && h.pings > 2)).await;
    old.understood_all();
}

async fn is_closed_with(connection: &Connection, refused: Refused) -> String {
    let end = timeout(PATIENCE, connection.closed()).await.expect("the node closes the connection");
    let ConnectionError::ApplicationClosed(close) = &end else {
        panic!("expected {refused:?}, got {end:?}");
    };
    assert_eq!(Refused::from_code(close.error_code.into()), Some(refused), "{close:?}");
    String::from_utf8_lossy(&close.reason).into_owned()
}

/// A hello of a node that speaks these versions only, as such a node frames it.
fn hello_of(name: &str, min: u8, max: u8) -> Vec<u8> {
    let Hello { card, .. } = read(&recorded("hello-joining"));
    let card = NodeCard { node_id: name.parse().expect("valid"), ..card };
    let recorded = read::<Hello>(&recorded("hello-joining"));
    framed_at(min, &Hello { version_min: min, version_max: max, card, ..recorded })
}

async fn tells_of_refusal(mesh: &TestMesh, n: usize, words: &str) {
    let handle = mesh.node(n).handle();
    let says = |event: &Event| matches!(event, Event::Refused { reason, .. } if reason.contains(words));
    until(|| handle.subscribe(Some(0)).missed.iter().any(|numbered| says(&numbered.event))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_70_nodes_that_share_no_version_are_refused_with_the_reason_on_both_sides() {
    let mesh = TestMesh::start(1).await;
    let handle = mesh.node(1).handle();
    until(|| handle.view().joined).await;
    let address = handle.listens_on().expect("it listens");
    for (name, min, max, theirs) in [("node-9", 3, 4, "versions 3 to 4"), ("node-8", 0, 0, "version 0")] {
        let words = format!("{name} speaks {theirs} of the protocol, node-1 versions 1 to 2");
        let (_endpoint, connection) = connect(&mesh, name, address).await;
        let (mut send, _recv) = connection.open_bi().await.expect("a stream");
        send.write_all(&hello_of(name, min, max)).await.expect("written");
        let reason = is_closed_with(&connection, Refused::Version).await;
        assert!(reason.contains(&words), "{reason}");
        tells_of_refusal(&mesh, 1, &words).await;
    }
    assert_eq!(handle.view().members.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_70_a_seed_that_shares_no_version_is_refused_with_the_reason_on_both_sides() {
    let mut mesh = TestMesh::start(1).await;
    let endpoint = listen(&mesh, "node-9");
    let address = endpoint.local_addr().expect("it is bound");
    let refused = tokio::spawn(async move {
        let connection = endpoint.accept().await.expect("it is dialled").await.expect("connects");
        let (mut send, _recv) = connection.accept_bi().await.expect("a stream");
        send.write_all(&hello_of("node-9", 3, 4)).await.expect("written");
        (is_closed_with(&connection, Refused::Version).await, endpoint)
    });
    mesh.join(address).await;
    let words = "node-9 speaks versions 3 to 4 of the protocol, node-2 versions 1 to 2";
    tells_of_refusal(&mesh, 2, words).await;
    let (reason, _endpoint) = timeout(PATIENCE, refused).await.expect("in time").expect("it does not panic");
    assert!(reason.contains(words), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_70_what_a_seed_of_another_version_says_when_it_refuses_this_node_is_told() {
    let mut mesh = TestMesh::start(1).await;
    let endpoint = listen(&mesh, "node-9");
    let address = endpoint.local_addr().expect("it is bound");
    let refuses = tokio::spawn(async move {
        let connection = endpoint.accept().await.expect("it is dialled").await.expect("connects");
        connection.close(Refused::Version.code().into(), b"node-9 speaks versions 3 to 4,\n you do not");
        endpoint.wait_idle().await;
    });
    mesh.join(address).await;
    tells_of_refusal(&mesh, 2, "node-9 speaks versions 3 to 4,  you do not").await;
    refuses.abort();
}

/// What a node of version 3 may say to one that it speaks version 2 with by mistake.
#[derive(serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Later {
    Sing { verse: u8 },
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_a_later_version_are_skipped_and_counted_apart_and_the_link_lasts() {
    let metrics = telemetry::collect_metrics().expect("the only recorder of this process");
    let mesh = TestMesh::start(1).await;
    let handle = mesh.node(1).handle();
    until(|| handle.view().joined).await;
    let address = handle.listens_on().expect("it listens");
    let (_endpoint, connection) = connect(&mesh, "node-9", address).await;
    let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
    let hello = Hello { version_max: 3, ..read::<Hello>(&recorded("hello-joining")) };
    send.write_all(&framed_at(1, &hello)).await.expect("written");
    for verse in 0..40 {
        let body = rmp_serde::to_vec_named(&Later::Sing { verse }).expect("encodes");
        let length = u32::try_from(body.len() + 2).expect("short");
        send.write_all(&[&length.to_le_bytes()[..], &[2, 2], &body].concat()).await.expect("written");
    }
    send.write_all(&framed_at(2, &Control::Check { nonce: 5 })).await.expect("written");
    let answered = async {
        let mut first = true;
        while let Some(frame) = next_frame(&mut recv).await {
            assert_eq!(frame[0], if first { 1 } else { 2 }, "the hello at the lowest, then what both speak");
            if !std::mem::take(&mut first) && frame[1] == 2 {
                let frame = wire::decode::<Control>(&frame[2..]).expect("decodes");
                if frame == (Control::CheckAnswer { nonce: 5 }) {
                    return;
                }
            }
        }
        panic!("the link was closed");
    };
    timeout(PATIENCE, answered).await.expect("the check is answered");
    let counted = metrics.render();
    assert!(counted.contains("shoal_transport_unknown_frames_total 40"), "{counted}");
    assert!(counted.contains("shoal_transport_bad_frames_total 0"), "{counted}");
}
