//! A real node against peers that are not what they should be: real QUIC clients with wrong certificates,
//! wrong names, and frames that lie. None gets a frame through, and the node serves the others as before.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quinn::ConnectionError;
use quinn::crypto::rustls::QuicClientConfig;
use shoal::core::error::Refused;
use shoal::core::ids::{Incarnation, NodeId};
use shoal::core::limits;
use shoal::core::model::{AgentSource, AgentSpec, Hello};
use shoal::core::wire::{self, Control, Data, MemberEntry, MemberEntryState, RequestBody, Want};
use shoal::node::certs::{self, Revoked, Validity};
use shoal::node::clock;
use shoal::node::identity::Standing;
use shoal::node::transport::tls::NodeIdentity;
use tokio::time::timeout;

use common::ends;
use common::mesh::{PATIENCE, TestMesh, issue, message, message_from, new_ca, until};
use common::raw::{Raw, client, frame, read_frame};

/// A node with an agent, and somebody with a good certificate who has said nothing yet.
async fn visited_as(name: &str) -> (TestMesh, SocketAddr, Raw) {
    let (mesh, address) = mesh_with_echo().await;
    let raw = Raw::connect(mesh.ca(), name, address).await.expect("connects");
    (mesh, address, raw)
}

/// A hello of somebody who belongs to the mesh.
fn hello(node: &str, mesh: &TestMesh) -> Hello {
    ends::hello(node, mesh.node(1).handle().view().mesh_id)
}

async fn mesh_with_echo() -> (TestMesh, SocketAddr) {
    let mesh = TestMesh::start(1).await;
    let handle = mesh.node(1).handle();
    until(|| handle.view().joined).await;
    let source = AgentSource::Native { builtin: "echo".to_owned() };
    let spec = AgentSpec::new("echo".parse().expect("valid"), source);
    handle.request(mesh.node(1).id(), RequestBody::Deploy { spec }).await.expect("deploys");
    until(|| handle.view().agents.iter().any(|a| a.record.state.as_str() == "running")).await;
    let address = handle.listens_on().expect("it listens");
    (mesh, address)
}

/// Nobody joined, nothing was delivered, and the node still works.
async fn unharmed(mesh: &TestMesh) {
    let handle = mesh.node(1).handle();
    let view = handle.view();
    let members: Vec<_> = view.members.iter().map(|(m, _)| m.card.node_id.to_string()).collect();
    assert_eq!(members, ["node-1"]);
    handle.ask(message("echo", b"still here")).await.expect("the node still works");
}

/// Messages that the agent has handled.
async fn handled(mesh: &TestMesh) -> u64 {
    let body = RequestBody::AgentInfo { agent: "echo".parse().expect("valid") };
    let info = mesh.node(1).handle().request(mesh.node(1).id(), body).await.expect("answers");
    let wire::ResponseBody::AgentInfo { stats, .. } = info else {
        panic!("unexpected {info:?}");
    };
    stats.requests
}

/// Everything that a peer could say at once: a hello, gossip, a request, and a message on a data stream.
/// The streams stay open as long as what it returns.
async fn says_everything(
    intruder: &Raw,
    mesh: &TestMesh,
    name: &str,
) -> (Option<(quinn::SendStream, quinn::RecvStream)>, Option<quinn::SendStream>) {
    let stop = RequestBody::StopAgent { agent: "echo".parse().expect("valid") };
    let said = [frame(&hello(name, mesh)), frame(&Control::Request { id: 1, body: stop })].concat();
    // The connection may be refused while this is written; that is what the test wants.
    let mut control = intruder.connection.open_bi().await.ok();
    if let Some((send, _)) = &mut control {
        let _ = send.write_all(&said).await;
    }
    let deliver =
        Data::Deliver { want: Want::Nothing, tag: 0, message: message_from(9, "echo", b"from outside") };
    let mut data = intruder.connection.open_uni().await.ok();
    if let Some(send) = &mut data {
        let _ = send.write_all(&frame(&deliver)).await;
    }
    (control, data)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_a_certificate_gets_no_frame_through() {
    let (mesh, address) = mesh_with_echo().await;
    let mut roots = rustls::RootCertStore::empty();
    for der in shoal::node::certs::parse_certificates(mesh.ca().bundle_pem()).expect("parses") {
        roots.add(der).expect("a CA");
    }
    // It accepts any server, so that the refusal can only be the node's.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    tls.alpn_protocols = vec![shoal::node::transport::tls::ALPN.to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("usable")));
    if let Ok(intruder) = Raw::connect_with(config, address).await {
        let _streams = says_everything(&intruder, &mesh, "node-9").await;
        assert!(matches!(intruder.end().await, ConnectionError::ConnectionClosed(_)));
    }
    assert_eq!(handled(&mesh).await, 0);
    unharmed(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_another_cas_certificate_gets_no_frame_through() {
    let (mesh, address) = mesh_with_echo().await;
    let other = new_ca("test");
    // It trusts the mesh's CA, so that only its own certificate is wrong.
    let pair = issue(&other, &"node-9".parse().expect("valid"));
    let both = format!("{}{}", mesh.ca().bundle_pem(), other.bundle_pem());
    let identity =
        NodeIdentity::from_pem(&both, &pair.cert_pem, &pair.key_pem, SystemTime::now()).expect("loads");
    if let Ok(intruder) = Raw::connect_with(client(&identity), address).await {
        let _streams = says_everything(&intruder, &mesh, "node-9").await;
        assert!(matches!(intruder.end().await, ConnectionError::ConnectionClosed(_)));
    }
    assert_eq!(handled(&mesh).await, 0);
    unharmed(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_another_nodes_name_gets_no_frame_through() {
    let (mesh, _, intruder) = visited_as("node-9").await;
    let _streams = says_everything(&intruder, &mesh, "node-2").await;
    intruder.is_refused_with(Refused::Name).await;
    assert_eq!(handled(&mesh).await, 0);
    unharmed(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_with_a_live_nodes_own_name_is_refused() {
    let (mesh, _, intruder) = visited_as("node-1").await;
    let _streams = says_everything(&intruder, &mesh, "node-1").await;
    intruder.is_refused_with(Refused::Duplicate).await;
    assert_eq!(handled(&mesh).await, 0);
    unharmed(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_mesh_with_the_same_ca_and_name_gets_no_frame_through() {
    let (mesh, _, intruder) = visited_as("node-9").await;
    let theirs = Some(shoal::core::ids::MeshId(clock::random_id()));
    let other = Hello { mesh_id: theirs, ..hello("node-9", &mesh) };
    let deliver =
        Data::Deliver { want: Want::Nothing, tag: 0, message: message_from(9, "echo", b"from outside") };
    let mut data = intruder.connection.open_uni().await.expect("a stream");
    data.write_all(&frame(&deliver)).await.expect("written");
    let _streams = intruder.say(&frame(&other)).await;
    intruder.is_refused_with(Refused::Mesh).await;
    assert_eq!(handled(&mesh).await, 0);
    unharmed(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hellos_that_cannot_be_accepted_are_refused_each_with_its_reason() {
    let (mesh, address) = mesh_with_echo().await;
    let good = hello("node-9", &mesh);
    let other_mesh = Hello { mesh_id: Some(shoal::core::ids::MeshId(clock::random_id())), ..good.clone() };
    let later = Hello { version_min: 3, version_max: 9, ..good.clone() };
    let other_name = Hello { mesh_name: "elsewhere".parse().expect("valid"), ..good.clone() };
    let mut wrong_version = frame(&good);
    wrong_version[4] = 255;
    let cases: [(&str, Vec<u8>, Refused); 7] = [
        ("another mesh", frame(&other_mesh), Refused::Mesh),
        ("later versions only", frame(&later), Refused::Version),
        ("another mesh's name", frame(&other_name), Refused::Name),
        ("another frame version", wrong_version, Refused::Version),
        ("no hello but a frame", frame(&Control::KeepAlive), Refused::Malformed),
        ("a length of 2^32-1", u32::MAX.to_le_bytes().to_vec(), Refused::Malformed),
        ("a length of 0", vec![0; 8], Refused::Malformed),
    ];
    for (what, bytes, refused) in cases {
        let intruder = Raw::connect(mesh.ca(), "node-9", address).await.expect("connects");
        let _streams = intruder.say(&bytes).await;
        println!("{what}");
        intruder.is_refused_with(refused).await;
    }
    unharmed(&mesh).await;
}

/// A member of the mesh, as far as the node can tell.
async fn member(mesh: &TestMesh, address: SocketAddr) -> (Raw, quinn::SendStream, quinn::RecvStream) {
    let member = Raw::connect(mesh.ca(), "node-9", address).await.expect("connects");
    let (send, recv) = member.say(&frame(&hello("node-9", mesh))).await;
    let handle = mesh.node(1).handle();
    until(|| handle.view().members.len() == 2).await;
    (member, send, recv)
}

/// The node answers a check over the link, behind whatever else it says.
async fn is_answered(send: &mut quinn::SendStream, recv: &mut quinn::RecvStream, nonce: u64) {
    send.write_all(&frame(&Control::Check { nonce })).await.expect("written");
    let answered = async {
        loop {
            let (kind, body) = read_frame(recv).await;
            if kind == wire::FrameKind::Control
                && wire::decode::<Control>(&body).expect("decodes") == (Control::CheckAnswer { nonce })
            {
                return;
            }
        }
    };
    timeout(PATIENCE, answered).await.expect("the check is answered");
}

/// A member that speaks for another node is not heard.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_another_nodes_name_does_not_reach_the_agent() {
    let (mesh, address) = mesh_with_echo().await;
    let (member, mut send, mut recv) = member(&mesh, address).await;
    let mut data = member.connection.open_uni().await.expect("a stream");
    let say = |message| frame(&Data::Deliver { want: Want::Nothing, tag: 0, message });
    data.write_all(&say(message_from(1, "echo", b"forged"))).await.expect("written");
    let mut elsewhere = message_from(9, "echo@node-2", b"not for this node");
    elsewhere.deadline_ms = 1_000;
    data.write_all(&say(elsewhere)).await.expect("written");
    data.write_all(&say(message_from(9, "echo", b"honest"))).await.expect("written");
    is_answered(&mut send, &mut recv, 3).await;
    let begun = tokio::time::Instant::now();
    while handled(&mesh).await == 0 {
        assert!(begun.elapsed() < PATIENCE, "the honest message arrives");
    }
    assert_eq!(handled(&mesh).await, 1, "and only that one");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_is_read_from_a_peer_that_is_not_accepted_yet() {
    let (mesh, address) = mesh_with_echo().await;
    // The first process with this name answers no check, so the second is doubted for as long as that takes.
    let (_first, _send, _recv) = member(&mesh, address).await;
    let second = Raw::connect(mesh.ca(), "node-9", address).await.expect("connects");
    let begun = tokio::time::Instant::now();
    let _streams = second.say(&frame(&hello("node-9", &mesh))).await;
    let mut data = second.connection.open_uni().await.expect("a stream");
    let message = message_from(9, "echo", b"from whom?");
    data.write_all(&frame(&Data::Deliver { want: Want::Nothing, tag: 0, message })).await.expect("written");
    while handled(&mesh).await == 0 {
        assert!(begun.elapsed() < PATIENCE, "the second is accepted in the end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "not before the first was given up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_frames_that_lie_cost_the_frame_or_the_link_and_nothing_else() {
    let (mesh, address) = mesh_with_echo().await;
    let header = |length: u32, kind: u8| [&length.to_le_bytes()[..], &[1, kind]].concat();
    let deep = [header(1002, 2), vec![0x91; 1000]].concat();
    let many = [header(7, 2), vec![0xdd, 0xff, 0xff, 0xff, 0xff]].concat();
    let unknown_kind = [header(4, 99), vec![1, 2]].concat();
    let (member, mut send, mut recv) = member(&mesh, address).await;
    for bytes in [deep, many, unknown_kind] {
        send.write_all(&bytes).await.expect("written");
    }
    // The link still works behind them: an honest frame is answered.
    is_answered(&mut send, &mut recv, 7).await;
    let handle = mesh.node(1).handle();
    handle.ask(message("echo", b"meanwhile")).await.expect("answers");
    send.write_all(&header(u32::MAX, 2)).await.expect("written");
    member.is_refused_with(Refused::Malformed).await;
    handle.ask(message("echo", b"afterwards")).await.expect("answers");
}

/// A member may send any list that its CA has signed, and nothing else of that kind does anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_members_bad_revocation_lists_are_refused_and_revoke_nobody() {
    let (mesh, address) = mesh_with_echo().await;
    let (member, mut send, mut recv) = member(&mesh, address).await;
    let handle = mesh.node(1).handle();
    let own = handle.identity().own.serial.parse().expect("a serial");
    let revoked = [Revoked { serial: own, since: SystemTime::now() }];
    let validity = || Validity::starting(SystemTime::now(), 7).expect("a validity");
    let der = |pem: &str| Bytes::copy_from_slice(&certs::parse_crls(pem).expect("PEM")[0]);
    // Another CA with the mesh's own name says that the node is revoked.
    let foreign = der(&certs::make_crl(&new_ca("test"), &revoked, 9, validity()).expect("made"));
    let honest = der(&certs::make_crl(mesh.ca(), &[], 1, validity()).expect("made"));
    let mut altered = honest.to_vec();
    let last = altered.len() - 1;
    altered[last] ^= 1;
    let cut = honest.slice(..honest.len() / 2);
    let longer = [&honest[..], b"and more"].concat();
    let bad = [foreign, altered.into(), cut, longer.into(), Bytes::new(), vec![0x30; 60_000].into()];
    for der in bad {
        send.write_all(&frame(&Control::Crl { der })).await.expect("written");
    }
    is_answered(&mut send, &mut recv, 11).await;
    // Behind all these, the good one is taken: those before have been judged by then.
    send.write_all(&frame(&Control::Crl { der: honest })).await.expect("written");
    until(|| handle.identity().crls.len() == 1).await;
    assert_eq!(handle.identity().crls[0].number, 1);
    assert_eq!(handle.identity().standing, Standing::Good);
    // A flood is cut before anything of it is verified.
    for n in 0..3 * limits::CRLS_PER_SECOND_MAX {
        let der = Bytes::from(n.to_le_bytes().repeat(20));
        send.write_all(&frame(&Control::Crl { der })).await.expect("written");
    }
    until(|| handle.view().counters.crls_dropped > 0).await;
    is_answered(&mut send, &mut recv, 12).await;
    assert_eq!(handle.identity().crls.len(), 1);
    handle.ask(message("echo", b"still here")).await.expect("the node still works");
    assert!(member.connection.close_reason().is_none(), "a list that is no good is no reason to part");
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_in_another_nodes_name_and_random_bytes_are_counted_and_dropped() {
    let (mesh, address) = mesh_with_echo().await;
    let (member, mut send, mut recv) = member(&mesh, address).await;
    let handle = mesh.node(1).handle();
    // A good packet's bytes with another node's key as its sender: envelope, then the header's source.
    let mut forged = vec![1, 0];
    forged.extend_from_slice(&"node-2".parse::<NodeId>().expect("valid").key().0);
    forged.extend_from_slice(&[0; 24]);
    member.connection.send_datagram(Bytes::from(forged)).expect("sent");
    until(|| handle.view().counters.swim_packets_dropped > 0).await;
    for n in 0..200_u32 {
        let noise: Vec<u8> = (0..n).map(|i| (i * 31 + n * 7) as u8).collect();
        member.connection.send_datagram(Bytes::from(noise)).expect("sent");
    }
    let noise_was_dropped = || handle.view().counters.swim_packets_dropped > 1;
    until(noise_was_dropped).await;
    // A claim about the node itself at the highest incarnation there is must not lock it out.
    let lie = MemberEntry {
        key: mesh.node(1).id().key(),
        incarnation: Incarnation(u64::MAX),
        refutations: u16::MAX,
        state: MemberEntryState::Failed,
    };
    let crowd = (0..100_u8).map(|n| MemberEntry {
        key: shoal::core::ids::NodeKey([n; 16]),
        incarnation: Incarnation(u64::MAX),
        refutations: 0,
        state: MemberEntryState::Alive,
    });
    let members = crowd.chain([lie]).collect();
    send.write_all(&frame(&Control::Members { members, reply: false })).await.expect("written");
    // Frames are handled in order: what comes before an answered check has been handled.
    is_answered(&mut send, &mut recv, 1).await;
    handle.ask(message("echo", b"still here")).await.expect("answers");
    let own = handle.view().members.iter().find(|(m, _)| m.card.node_id == mesh.node(1).id()).cloned();
    assert_eq!(own.expect("itself").0.incarnation.start(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_udp_port_harms_nothing() {
    let (mesh, address) = mesh_with_echo().await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for n in 0..2_000_usize {
        let noise: Vec<u8> = (0..n % 1400).map(|i| (i * 131 + n * 17) as u8).collect();
        socket.send_to(&noise, address).expect("sent");
    }
    // Something that looks like a first packet, cut short.
    let mut initial = vec![0xc0, 0, 0, 0, 1, 8];
    initial.resize(1200, 0x5a);
    socket.send_to(&initial, address).expect("sent");
    unharmed(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_nothing_is_dropped_after_the_handshake_deadline() {
    let (mesh, _, silent) = visited_as("node-9").await;
    let begun = tokio::time::Instant::now();
    silent.end().await;
    assert!(begun.elapsed() < Duration::from_secs(15));
    unharmed(&mesh).await;
}

/// Accepts any server.
#[derive(Debug)]
struct Credulous;

impl rustls::client::danger::ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
