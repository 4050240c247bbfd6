//! A machine gets its first certificate for a join token, a node its next one for its present one: real nodes on loopback,
//! and strangers at the same port that want more than that.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one kind among many")]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, SendStream, TransportErrorCode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, DigitallySignedStruct, SignatureScheme};
use serde_json::{Value, json};
use shoal::core::ids::{Incarnation, MeshName, NodeId, ProcessId};
use shoal::core::limits;
use shoal::core::model::{Hello, NodeCard};
use shoal::core::wire;
use shoal::node::certs::{self, Authority, Existing, Hosts, JoinToken, Ledger, NodeFiles, Validity, Way};
use shoal::node::config::{Config, Flags};
use shoal::node::transport::join::{self, Asker};
use shoal::node::transport::tls::{NodeIdentity, SERVER_NAME};
use shoal::node::{Node, clock, enrol};
use tempfile::TempDir;
use tokio::time::timeout;

use common::mesh::{PATIENCE, until};

const HOUR: Duration = Duration::from_secs(3600);

/// A CA in a directory, and the nodes beside it.
struct Place {
    dir: TempDir,
    mesh: &'static str,
}

impl Place {
    fn of(mesh: &'static str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let pair = certs::make_ca(&mesh.parse().expect("valid"), days(30)).expect("made");
        certs::write_ca(&dir.path().join("ca"), &pair, Existing::Keep).expect("written");
        Self { dir, mesh }
    }

    fn ca_dir(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    fn authority(&self) -> Authority {
        Authority::open(&self.ca_dir()).expect("a CA")
    }

    fn certs(&self, name: &str) -> PathBuf {
        self.dir.path().join(name).join("certs")
    }

    fn certify(&self, name: &str) {
        let authority = self.authority();
        let (cert_pem, key_pem) =
            authority.issue(&id(name), None, &Hosts::default(), days(7), SystemTime::now()).expect("issued");
        let ca_pem = authority.ca().expect("a CA").bundle_pem().to_owned();
        let files = NodeFiles { ca_pem: &ca_pem, cert_pem: &cert_pem, key_pem: key_pem.as_deref() };
        certs::write_node(&self.certs(name), &files, Existing::Keep).expect("written");
    }

    fn token(&self, name: &str) -> JoinToken {
        self.token_from(name, SystemTime::now())
    }

    fn token_from(&self, name: &str, made: SystemTime) -> JoinToken {
        let ca = self.authority().ca().expect("a CA");
        JoinToken::new(&ca, &id(name), made, HOUR, 5).expect("made")
    }

    fn config(&self, name: &str, flags: Flags) -> Config {
        let flags = Flags {
            node_id: Some(name.to_owned()),
            bind_addr: Some("127.0.0.1:0".to_owned()),
            data_dir: Some(self.dir.path().join(name)),
            ..flags
        };
        Config::load(&flags, &|_| None).expect("a good configuration")
    }

    /// The first node of the mesh, with the CA or without.
    async fn bootstrap(&self, with_ca: bool) -> (Node, SocketAddr) {
        self.certify("node-1");
        let ca = with_ca.then(|| self.ca_dir());
        let node = start(&self.config("node-1", Flags { bootstrap: true, ca, ..Flags::default() })).await;
        until(|| node.handle().view().joined).await;
        let address = node.handle().listens_on().expect("it listens");
        (node, address)
    }

    /// How a machine is configured that joins with this token.
    fn joiner(&self, name: &str, seeds: &[SocketAddr], token: &str) -> Config {
        let join = seeds.iter().map(ToString::to_string).collect();
        self.config(name, Flags { join, join_token: Some(token.to_owned().into()), ..Flags::default() })
    }

    /// Why a machine does not get its first certificate; nothing but its key was written.
    async fn refusal(&self, name: &str, seed: SocketAddr, token: &JoinToken) -> String {
        let error = enrol::first_certificate(&self.joiner(name, &[seed], &text(token))).await;
        let error = error.expect_err("refused").to_string();
        let certs = self.certs(name);
        assert!(!certs.join("node.crt").exists() && !certs.join("ca.crt").exists(), "{error}");
        error
    }

    fn issued_by(&self, way: Way) -> usize {
        Ledger::read(&self.ca_dir()).expect("readable").issued().filter(|one| one.way == way).count()
    }
}

fn id(name: &str) -> NodeId {
    name.parse().expect("valid")
}

fn days(days: u32) -> Validity {
    Validity::starting(SystemTime::now(), days).expect("a validity")
}

fn text(token: &JoinToken) -> String {
    token.text().expect("short")
}

async fn start(config: &Config) -> Node {
    let keeper = PathBuf::from(env!("CARGO_BIN_EXE_shoal"));
    shoal::node::start(config, keeper).await.expect("the node starts")
}

async fn stop(node: Node) {
    node.handle().stop().await;
    node.stopped().await.expect("it stops cleanly");
}

fn request_pem() -> String {
    certs::request_for(&certs::new_key_pem().expect("made")).expect("made")
}

#[tokio::test]
async fn a_machine_with_a_token_gets_its_certificate_and_joins() {
    let place = Place::of("prod");
    let (first, seed) = place.bootstrap(true).await;
    let config = place.joiner("node-2", &[seed], &text(&place.token("node-2")));
    enrol::first_certificate(&config).await.expect("granted");
    let mode =
        |name| fs::metadata(place.certs("node-2").join(name)).expect("there").permissions().mode() & 0o7777;
    assert_eq!((mode("node.key"), mode("node.crt")), (0o600, 0o644));
    let second = start(&config).await;
    until(|| first.handle().view().members.len() == 2 && second.handle().view().members.len() == 2).await;
    assert_eq!(place.issued_by(Way::Token), 1);
    let before = fs::read(place.certs("node-2").join("node.crt")).expect("read");
    enrol::first_certificate(&config).await.expect("the token is not needed any more");
    assert_eq!(fs::read(place.certs("node-2").join("node.crt")).expect("read"), before);
    assert_eq!(place.issued_by(Way::Token), 1);
    stop(second).await;
    stop(first).await;
}

#[tokio::test]
async fn a_token_that_is_used_or_expired_or_for_another_name_gets_nothing() {
    let place = Place::of("prod");
    let (first, seed) = place.bootstrap(true).await;
    let token = place.token("node-2");
    enrol::first_certificate(&place.joiner("node-2", &[seed], &text(&token))).await.expect("granted");
    fs::remove_dir_all(place.certs("node-2")).expect("removed");
    let error = place.refusal("node-2", seed, &token).await;
    assert!(error.contains("used already"), "{error}");
    let old = place.token_from("node-3", SystemTime::now() - 2 * HOUR);
    let error = place.refusal("node-3", seed, &old).await;
    assert!(error.contains("expired 36"), "{error}");
    let error = place.refusal("node-4", seed, &place.token("node-5")).await;
    assert!(error.contains("for node node-5 of mesh prod") && error.contains("called node-4"), "{error}");
    assert!(!place.certs("node-4").exists(), "nobody was asked");
    assert_eq!(place.issued_by(Way::Token), 1);
    stop(first).await;
}

#[tokio::test]
async fn a_joiner_tells_nothing_to_a_node_of_another_ca() {
    let (place, impostor, other) = (Place::of("prod"), Place::of("prod"), Place::of("other"));
    for between in [&impostor, &other] {
        let (node, seed) = between.bootstrap(true).await;
        let error = place.refusal("node-2", seed, &place.token("node-2")).await;
        assert!(error.contains("the CA that it shows is not the one in the token"), "{error}");
        assert_eq!(between.issued_by(Way::Token), 0, "{}", between.mesh);
        stop(node).await;
    }
}

#[tokio::test]
async fn a_node_without_the_ca_says_so_and_the_next_seed_is_asked() {
    let place = Place::of("prod");
    let (first, with_ca) = place.bootstrap(true).await;
    place.certify("node-0");
    let join = vec![with_ca.to_string()];
    let plain = start(&place.config("node-0", Flags { join, ..Flags::default() })).await;
    let without_ca = plain.handle().listens_on().expect("it listens");
    let token = place.token("node-2");
    let error = place.refusal("node-2", without_ca, &token).await;
    assert!(error.contains("started without --ca"), "{error}");
    let config = place.joiner("node-2", &[without_ca, with_ca], &text(&token));
    enrol::first_certificate(&config).await.expect("granted by the second");
    stop(plain).await;
    stop(first).await;
}

#[tokio::test]
async fn a_ca_file_that_is_another_than_that_of_the_token_is_left_alone() {
    let (place, other) = (Place::of("prod"), Place::of("prod"));
    let (first, seed) = place.bootstrap(true).await;
    fs::create_dir_all(place.certs("node-2")).expect("made");
    let present = place.certs("node-2").join("ca.crt");
    fs::copy(other.ca_dir().join("ca.crt"), &present).expect("copied");
    let config = place.joiner("node-2", &[seed], &text(&place.token("node-2")));
    let error = enrol::first_certificate(&config).await.expect_err("another CA").to_string();
    assert!(error.contains("another CA than the join token"), "{error}");
    assert_eq!(fs::read(&present).expect("read"), fs::read(other.ca_dir().join("ca.crt")).expect("read"));
    assert_eq!(place.issued_by(Way::Token), 0);
    stop(first).await;
}

#[tokio::test]
async fn a_node_whose_certificate_the_ca_did_not_sign_does_not_start_with_it() {
    let (place, other) = (Place::of("prod"), Place::of("prod"));
    place.certify("node-1");
    let flags = Flags { bootstrap: true, ca: Some(other.ca_dir()), ..Flags::default() };
    let keeper = PathBuf::from(env!("CARGO_BIN_EXE_shoal"));
    let error =
        shoal::node::start(&place.config("node-1", flags), keeper).await.expect_err("another CA").to_string();
    assert!(error.contains("--ca") && error.contains("not signed by this CA"), "{error}");
}

#[tokio::test]
async fn a_node_renews_its_certificate_over_the_mesh_and_nobody_else_does() {
    let place = Place::of("prod");
    let (first, seed) = place.bootstrap(true).await;
    place.certify("node-2");
    let read = |path: &Path| fs::read_to_string(path).expect("read");
    let file = |node: &str, name: &str| read(&place.certs(node).join(name));
    let identity = |node: &str| {
        NodeIdentity::from_pem(
            &file(node, "ca.crt"),
            &file(node, "node.crt"),
            &file(node, "node.key"),
            SystemTime::now(),
        )
        .expect("loads")
    };
    let (own, seeds) = (identity("node-2"), [seed.to_string()]);
    let (cert_pem, key_pem) = (file("node-2", "node.crt"), file("node-2", "node.key"));
    let asker = Asker::Node { identity: &own, cert_pem: &cert_pem, key_pem: &key_pem };
    let granted = join::ask(&seeds, &asker, &id("node-2"), &request_pem()).await.expect("granted");
    let certificate = certs::parse_certificates(&granted.cert_pem).expect("PEM").remove(0);
    let facts = certs::Facts::read(&certificate).expect("readable");
    assert_eq!(
        (facts.uris, place.issued_by(Way::Renewal)),
        (vec!["spiffe://prod/node/node-2".to_owned()], 1)
    );
    // With another's certificate, and without its key.
    place.certify("node-3");
    let theirs = file("node-3", "node.crt");
    let asker = Asker::Node { identity: &own, cert_pem: &theirs, key_pem: &key_pem };
    let error =
        join::ask(&seeds, &asker, &id("node-3"), &request_pem()).await.expect_err("not its key").to_string();
    assert!(error.contains("not signed with"), "{error}");
    // For another name.
    let asker = Asker::Node { identity: &own, cert_pem: &cert_pem, key_pem: &key_pem };
    let error =
        join::ask(&seeds, &asker, &id("node-3"), &request_pem()).await.expect_err("another name").to_string();
    assert!(error.contains("names node node-2"), "{error}");
    // Revoked.
    place
        .authority()
        .revoke(&certs::Which::Node(id("node-2")), "superseded", SystemTime::now())
        .expect("revoked");
    let error =
        join::ask(&seeds, &asker, &id("node-2"), &request_pem()).await.expect_err("revoked").to_string();
    assert!(error.contains("has been revoked"), "{error}");
    assert_eq!(place.issued_by(Way::Renewal), 1);
    stop(first).await;
}

/// Takes whatever certificate the other end shows.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A stranger without a certificate who offers these protocols.
struct Stranger {
    _endpoint: Endpoint,
    connection: Connection,
}

impl Stranger {
    async fn dial(address: SocketAddr, protocols: &[&[u8]]) -> Result<Self, ConnectionError> {
        let provider = Arc::new(ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("usable")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
            .with_no_client_auth();
        tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("usable")));
        let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
        let connection = endpoint.connect_with(config, address, SERVER_NAME).expect("valid").await?;
        Ok(Self { _endpoint: endpoint, connection })
    }

    async fn at_the_door(address: SocketAddr) -> Self {
        Self::dial(address, &[b"shoal-join/1"]).await.expect("the door is open to strangers")
    }

    /// Why the node ends the connection.
    async fn end(&self) -> String {
        let end = timeout(PATIENCE, self.connection.closed()).await.expect("the node closes the connection");
        match end {
            ConnectionError::ApplicationClosed(close) => String::from_utf8_lossy(&close.reason).into_owned(),
            other => format!("{other:?}"),
        }
    }

    /// Sends these bytes as its request, and gives the stream back unfinished.
    async fn says(&self, bytes: &[u8]) -> SendStream {
        let (mut send, _recv) = self.connection.open_bi().await.expect("a stream");
        // A node that has heard enough need not read the rest.
        let _ = send.write_all(bytes).await;
        send
    }

    async fn asks(&self, request: &Value) -> Value {
        let (mut send, mut recv) = self.connection.open_bi().await.expect("a stream");
        send.write_all(request.to_string().as_bytes()).await.expect("written");
        send.finish().expect("finished");
        let answer = timeout(PATIENCE, recv.read_to_end(1 << 20)).await.expect("an answer").expect("read");
        serde_json::from_slice(&answer).expect("JSON")
    }
}

#[tokio::test]
async fn without_a_certificate_nobody_gets_a_connection_of_the_mesh() {
    let place = Place::of("prod");
    let (first, address) = place.bootstrap(true).await;
    let required = TransportErrorCode::crypto(AlertDescription::CertificateRequired.into());
    for protocols in [&[&b"shoal/1"[..]][..], &[b"shoal/1", b"shoal-join/1"], &[b"shoal-join/1", b"shoal/1"]]
    {
        // The dialler's handshake is complete before the node has missed its certificate.
        let Ok(stranger) = Stranger::dial(address, protocols).await else { continue };
        stranger.says(&hello(&first)).await;
        let end = timeout(PATIENCE, stranger.connection.closed()).await.expect("closed");
        let ConnectionError::ConnectionClosed(close) = &end else { panic!("{protocols:?}: {end:?}") };
        assert_eq!(close.error_code, required, "{protocols:?}: {close:?}");
    }
    for protocols in [&[&b"h3"[..]][..], &[b"shoal-join/2"], &[]] {
        assert!(Stranger::dial(address, protocols).await.is_err(), "{protocols:?}");
    }
    assert!(first.handle().view().members.len() == 1, "nobody joined");
    stop(first).await;
}

#[tokio::test]
async fn nothing_of_the_mesh_is_spoken_where_certificates_are_asked_for() {
    let place = Place::of("prod");
    let (first, address) = place.bootstrap(true).await;
    let hello = hello(&first);
    let stranger = Stranger::at_the_door(address).await;
    stranger.says(&hello).await.finish().expect("finished");
    assert!(stranger.end().await.contains("not understood"));
    let stranger = Stranger::at_the_door(address).await;
    // Both stay open: a stream that is let go of ends, and what it said is read as a request.
    let both = (stranger.says(&hello).await, stranger.says(&hello).await);
    assert!(stranger.end().await.contains("one request and nothing else"));
    drop(both);
    let stranger = Stranger::at_the_door(address).await;
    stranger.connection.open_uni().await.expect("a stream").write_all(&hello).await.expect("written");
    assert!(stranger.end().await.contains("one request and nothing else"));
    let stranger = Stranger::at_the_door(address).await;
    stranger.connection.send_datagram(hello.into()).expect("sent");
    assert!(stranger.end().await.contains("one request and nothing else"));
    assert!(first.handle().view().members.len() == 1, "nobody joined");
    stop(first).await;
}

#[tokio::test]
async fn a_request_is_bounded_in_size_and_in_time() {
    let place = Place::of("prod");
    let (first, address) = place.bootstrap(true).await;
    let stranger = Stranger::at_the_door(address).await;
    stranger.says(&vec![b' '; limits::JOIN_REQUEST_BYTES_MAX + 1]).await;
    assert!(stranger.end().await.contains("larger than 65536 bytes"));
    let slow = Stranger::at_the_door(address).await;
    let _open = slow.says(b"{").await;
    let mute = Stranger::at_the_door(address).await;
    assert!(slow.end().await.contains("no whole request came within 5 s"));
    assert!(mute.end().await.contains("no whole request came within 5 s"));
    stop(first).await;
}

#[tokio::test]
async fn a_flood_of_requests_is_bounded_and_leaves_the_mesh_alone() {
    let place = Place::of("prod");
    let (first, address) = place.bootstrap(true).await;
    let mut inside = Vec::new();
    for _ in 0..limits::JOINS_PER_ADDRESS_MAX {
        inside.push(Stranger::at_the_door(address).await);
    }
    for _ in 0..20 {
        let crowded = Stranger::at_the_door(address).await;
        assert!(crowded.end().await.contains("too many machines ask at once"));
    }
    // Meanwhile a node with a certificate joins as ever.
    place.certify("node-2");
    let join = vec![address.to_string()];
    let second = start(&place.config("node-2", Flags { join, ..Flags::default() })).await;
    until(|| first.handle().view().members.len() == 2).await;
    drop(inside);
    let config = place.joiner("node-3", &[address], &text(&place.token("node-3")));
    enrol::first_certificate(&config).await.expect("there is room again");
    stop(second).await;
    stop(first).await;
}

#[tokio::test]
async fn a_request_that_is_not_signed_on_its_own_connection_is_refused() {
    let place = Place::of("prod");
    let (first, address) = place.bootstrap(true).await;
    let token = place.token("node-2");
    let request = |shown: Value, proof: &str| json!({"node_id": "node-2", "request_pem": request_pem(), "right": {"token": shown}, "proof": proof});
    let shown = serde_json::to_value(token.shown()).expect("JSON");
    let proof = base64_url(&token.prove(b"made for another connection").expect("signed"));
    let mut changed = shown.clone();
    let claims = changed["claims"].as_str().expect("text").replace("node-2", "node-9");
    changed["claims"] = claims.into();
    for (what, shown, proof, says) in [
        ("another connection", &shown, proof.as_str(), "not signed with the secret"),
        ("no proof", &shown, "", "not signed with the secret"),
        ("not base64", &shown, "%", "not signed with"),
        ("changed claims", &changed, proof.as_str(), "was changed since"),
    ] {
        let stranger = Stranger::at_the_door(address).await;
        let answer = stranger.asks(&request(shown.clone(), proof)).await;
        let why = answer["refused"]["why"].as_str().expect("refused");
        assert!(why.contains(says), "{what}: {why}");
    }
    assert_eq!(place.issued_by(Way::Token), 0);
    enrol::first_certificate(&place.joiner("node-2", &[address], &text(&token)))
        .await
        .expect("as good as before");
    stop(first).await;
}

fn base64_url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes that a node of the mesh would begin with.
fn hello(node: &Node) -> Vec<u8> {
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        mesh_id: node.handle().view().mesh_id,
        mesh_name: "prod".parse::<MeshName>().expect("valid"),
        process_id: ProcessId(clock::random_id()),
        incarnation: Incarnation::first_of(1),
        card: NodeCard {
            node_id: id("mallory"),
            addresses: vec!["127.0.0.1:9".to_owned()],
            region: String::new(),
            zone: String::new(),
            labels: Default::default(),
            roles: vec![],
            version: "test".to_owned(),
        },
        bulk_beside: None,
    };
    let mut bytes = Vec::new();
    wire::encode(&hello, &mut bytes).expect("fits");
    bytes
}
