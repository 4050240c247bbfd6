//! Two real QUIC endpoints on loopback: who is let into a mesh, and who is not, in either direction.
//!
//! A dialler's handshake is complete before the other side has refused its certificate, so each test
//! tries a round trip of the application: that settles it, and shows that no byte gets through.

#![cfg(feature = "node")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, Endpoint, TransportErrorCode};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::AlertDescription;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use shoal::core::ids::{MeshName, NodeId};
use shoal::node::certs::{self, Ca, CertPair, Crl, Validity};
use shoal::node::transport::tls::{self, NodeIdentity, SERVER_NAME};

/// Long enough for a busy machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: time::Duration = time::Duration::hours(1);

#[tokio::test]
async fn two_nodes_of_one_mesh_talk_and_each_knows_the_other() {
    let mesh = Mesh::new("prod");
    let (server, client) = (mesh.node("server"), mesh.node("client"));
    let outcome = exchange(server.server_config(), client.client_config()).await;
    outcome.assert_talked("server", "client");
}

#[tokio::test]
async fn what_the_bad_certificates_are_made_from_is_good() {
    let mesh = Mesh::new("prod");
    let (chain, key) = mesh.spoilt(|_| ());
    let good = Bad { what: "good", chain, key, alert: AlertDescription::CloseNotify, says: "" };
    let mut client = mesh.node("client").client_config();
    client.client_auth_cert_resolver = good.resolver();
    exchange(mesh.node("server").server_config(), client).await.assert_talked("server", "mallory");
    let mut server = mesh.node("server").server_config();
    server.cert_resolver = good.resolver();
    exchange(server, mesh.node("client").client_config()).await.assert_talked("mallory", "client");
}

#[tokio::test]
async fn the_same_connection_does_not_name_a_node_of_another_mesh() {
    let mesh = Mesh::new("prod");
    let (server, client) = (mesh.node("server"), mesh.node("client"));
    let (listener, dialler) = endpoints(server.server_config(), client.client_config());
    let address = listener.local_addr().unwrap();
    let talk = async {
        tokio::join!(listen(&listener), async {
            let connection = dialler.connect(address, SERVER_NAME).unwrap().await.unwrap();
            let error = tls::peer_identity(&connection, &MeshName::new("other").unwrap()).unwrap_err();
            connection.close(0u32.into(), b"");
            error
        })
    };
    let (_, error) = tokio::time::timeout(PATIENCE, talk).await.expect("both ends come to an end");
    assert!(error.to_string().contains("belongs to mesh prod, this is mesh other"), "{error}");
}

#[tokio::test]
async fn during_a_rotation_nodes_of_the_old_and_the_new_ca_talk() {
    let (old, new) = (Mesh::new("prod"), Mesh::new("prod"));
    let both = format!("{}{}", old.pair.cert_pem, new.pair.cert_pem);
    let (server, client) = (old.node_trusting("server", &both), new.node_trusting("client", &both));
    exchange(server.server_config(), client.client_config()).await.assert_talked("server", "client");
    exchange(client.server_config(), server.client_config()).await.assert_talked("client", "server");
    let behind = old.node("behind");
    let outcome = exchange(behind.server_config(), client.client_config()).await;
    outcome.assert_refused_by_server(
        "a node without the new CA",
        AlertDescription::UnknownCA,
        "UnknownIssuer",
    );
}

#[tokio::test]
async fn fault_69_a_revoked_certificate_is_refused_in_both_directions_also_by_a_list_past_its_time() {
    let mesh = Mesh::new("prod");
    for validity in [days(1), days(1).shortened(0)] {
        let (mallory, crl) = mesh.revoked("mallory", validity);
        let honest = || mesh.node("honest").with_crls([&crl]);
        let outcome = exchange(honest().server_config(), mallory.client_config()).await;
        outcome.assert_refused_by_server("revoked", AlertDescription::CertificateRevoked, "Revoked");
        let outcome = exchange(mallory.server_config(), honest().client_config()).await;
        outcome.assert_refused_by_client("revoked", AlertDescription::CertificateRevoked, "Revoked");
        // Whoever is not on it passes, in either direction.
        let other = mesh.node("other");
        exchange(honest().server_config(), other.client_config()).await.assert_talked("honest", "other");
        exchange(other.server_config(), honest().client_config()).await.assert_talked("other", "honest");
    }
}

#[tokio::test]
async fn fault_69_during_a_rotation_the_list_of_one_ca_says_nothing_of_the_other_cas_certificates() {
    let (old, new) = (Mesh::new("prod"), Mesh::new("prod"));
    let both = format!("{}{}", old.pair.cert_pem, new.pair.cert_pem);
    let (mallory, by_new) = new.revoked("mallory", days(1));
    let (_, by_old) = old.revoked("somebody", days(1));
    for lists in [vec![&by_new], vec![&by_old, &by_new], vec![&by_new, &by_old]] {
        for (bundle, ca) in [(&both, &old), (&both, &new)] {
            let node = || ca.node_trusting("node", bundle).with_crls(lists.iter().copied());
            for other in [old.node_trusting("other", &both), new.node_trusting("other", &both)] {
                exchange(node().server_config(), other.client_config()).await.assert_talked("node", "other");
                exchange(other.server_config(), node().client_config()).await.assert_talked("other", "node");
            }
            let outcome = exchange(node().server_config(), mallory.client_config()).await;
            // Mallory trusts its own CA alone, and may be the one that refuses.
            if std::ptr::eq(ca, &raw const new) {
                outcome.assert_refused_by_server("revoked", AlertDescription::CertificateRevoked, "Revoked");
            }
        }
    }
    // A list of a CA that is not trusted does nothing, and a CA that is trusted no more takes its nodes along.
    let alone = || old.node("node").with_crls([&by_new]);
    let honest = old.node("honest");
    exchange(alone().server_config(), honest.client_config()).await.assert_talked("node", "honest");
    let outcome = exchange(alone().server_config(), new.node_trusting("late", &both).client_config()).await;
    outcome.assert_refused_by_server("of a former CA", AlertDescription::UnknownCA, "UnknownIssuer");
}

#[tokio::test]
async fn a_bad_certificate_does_not_let_a_dialler_in() {
    let mesh = Mesh::new("prod");
    for bad in bad_certificates(&mesh) {
        let mut client = mesh.node("client").client_config();
        client.client_auth_cert_resolver = bad.resolver();
        let outcome = exchange(mesh.node("server").server_config(), client).await;
        outcome.assert_refused_by_server(bad.what, bad.alert, bad.says);
    }
}

#[tokio::test]
async fn a_bad_certificate_does_not_let_a_listener_be_talked_to() {
    let mesh = Mesh::new("prod");
    for bad in bad_certificates(&mesh) {
        let mut server = mesh.node("server").server_config();
        server.cert_resolver = bad.resolver();
        let outcome = exchange(server, mesh.node("client").client_config()).await;
        outcome.assert_refused_by_client(bad.what, bad.alert, bad.says);
    }
}

#[tokio::test]
async fn nobody_gets_in_without_a_certificate() {
    let mesh = Mesh::new("prod");
    let mut client = mesh.node("client").client_config();
    client.client_auth_cert_resolver = Arc::new(NoCertificate);
    let outcome = exchange(mesh.node("server").server_config(), client).await;
    outcome.assert_refused_by_server(
        "no certificate",
        AlertDescription::CertificateRequired,
        "no certificates",
    );

    let mut server = mesh.node("server").server_config();
    server.cert_resolver = Arc::new(NoCertificate);
    let outcome = exchange(server, mesh.node("client").client_config()).await;
    // A listener without a certificate cannot even begin; it gives up before the dialler can refuse it.
    outcome.assert_refused_by_server(
        "no certificate",
        AlertDescription::AccessDenied,
        "no server certificate",
    );
}

#[tokio::test]
async fn another_protocol_or_none_at_either_end_is_refused() {
    let mesh = Mesh::new("prod");
    for protocols in [vec![b"shoal/2".to_vec()], vec![b"h3".to_vec()], vec![]] {
        let what = format!("{protocols:?}");
        let (mut server, mut client) =
            (mesh.node("server").server_config(), mesh.node("client").client_config());
        client.alpn_protocols.clone_from(&protocols);
        let outcome = exchange(mesh.node("server").server_config(), client).await;
        outcome.assert_refused_by_server(&what, AlertDescription::NoApplicationProtocol, "protocol");
        server.alpn_protocols = protocols;
        let outcome = exchange(server, mesh.node("client").client_config()).await;
        outcome.assert_refused_by_server(&what, AlertDescription::NoApplicationProtocol, "protocol");
    }
}

/// A mesh with a CA that the tests can also make misuse of.
struct Mesh {
    pair: CertPair,
    ca: Ca,
}

impl Mesh {
    fn new(name: &str) -> Self {
        let pair = certs::make_ca(&MeshName::new(name).unwrap(), days(10)).unwrap();
        let ca = Ca::from_pem(&pair.cert_pem, &pair.key_pem).unwrap();
        Self { pair, ca }
    }

    fn node(&self, id: &str) -> NodeIdentity {
        self.node_trusting(id, &self.pair.cert_pem)
    }

    fn node_trusting(&self, id: &str, bundle: &str) -> NodeIdentity {
        let pair = self.issue(id);
        NodeIdentity::from_pem(bundle, &pair.cert_pem, &pair.key_pem, SystemTime::now()).unwrap()
    }

    /// A node, and the list that revokes it.
    fn revoked(&self, id: &str, validity: Validity) -> (NodeIdentity, Crl) {
        let node = self.node(id);
        let serial = certs::Serial::of(node.certificate()).unwrap();
        let entry = certs::Revoked { serial, since: SystemTime::now() };
        let pem = certs::make_crl(&self.ca, &[entry], 1, validity).unwrap();
        let list = certs::parse_crls(&pem).unwrap().remove(0);
        let crl = Crl::read(&list, &[der(&self.pair.cert_pem)]).unwrap();
        (node, crl)
    }

    fn issue(&self, id: &str) -> CertPair {
        certs::issue(&self.ca, &NodeId::new(id).unwrap(), &[], &[], days(1)).unwrap()
    }

    fn issuer(&self) -> Issuer<'static, KeyPair> {
        Issuer::from_ca_cert_pem(&self.pair.cert_pem, KeyPair::from_pem(&self.pair.key_pem).unwrap()).unwrap()
    }

    /// A certificate that is good but for what `spoil` does to it.
    fn spoilt(&self, spoil: impl FnOnce(&mut CertificateParams)) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = good_params();
        spoil(&mut params);
        (vec![params.signed_by(&key, &self.issuer()).unwrap().into()], key)
    }
}

fn days(days: u32) -> Validity {
    Validity::starting(SystemTime::now(), days).unwrap()
}

fn good_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "mallory");
    params.not_before = time::OffsetDateTime::now_utc() - HOUR;
    params.not_after = time::OffsetDateTime::now_utc() + HOUR;
    params.subject_alt_names = uris(&["spiffe://prod/node/mallory"]);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn uris(uris: &[&str]) -> Vec<SanType> {
    uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect()
}

/// A certificate that must not be accepted, and how it is refused.
struct Bad {
    what: &'static str,
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    alert: AlertDescription,
    says: &'static str,
}

impl Bad {
    fn resolver(&self) -> Arc<SingleCertAndKey> {
        let der = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let key = rustls::crypto::ring::sign::any_supported_type(&der).unwrap();
        Arc::new(CertifiedKey::new(self.chain.clone(), key).into())
    }
}

fn bad_certificates(mesh: &Mesh) -> Vec<Bad> {
    let mut bad = wrongly_signed(mesh);
    bad.extend(wrongly_made(mesh));
    bad.extend(wrongly_named(mesh));
    bad
}

fn wrongly_signed(mesh: &Mesh) -> Vec<Bad> {
    let refused = |what, (chain, key)| Bad {
        what,
        chain,
        key,
        alert: AlertDescription::UnknownCA,
        says: "UnknownIssuer",
    };
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        (vec![good_params().self_signed(&key).unwrap().into()], key)
    };
    let by_leaf = {
        let leaf = mesh.issue("honest");
        let issuer =
            Issuer::from_ca_cert_pem(&leaf.cert_pem, KeyPair::from_pem(&leaf.key_pem).unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let evil = good_params().signed_by(&key, &issuer).unwrap();
        (vec![evil.into(), der(&leaf.cert_pem), der(&mesh.pair.cert_pem)], key)
    };
    let by_intermediate = {
        let middle_key = KeyPair::generate().unwrap();
        let mut params = good_params();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let middle = params.signed_by(&middle_key, &mesh.issuer()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = good_params().signed_by(&key, &Issuer::new(params, middle_key)).unwrap();
        (vec![leaf.into(), middle.into(), der(&mesh.pair.cert_pem)], key)
    };
    // It has the mesh's name, and so the same subject, and another key.
    let other_ca = Mesh::new("prod").spoilt(|_| ());
    let with_its_ca = {
        let other = Mesh::new("prod");
        let (mut chain, key) = other.spoilt(|_| ());
        chain.push(der(&other.pair.cert_pem));
        (chain, key)
    };
    let ca_of_another_name = Mesh::new("other").spoilt(|_| ());
    let stolen = Bad {
        what: "a certificate without its key",
        chain: vec![der(&mesh.issue("honest").cert_pem)],
        key: KeyPair::generate().unwrap(),
        alert: AlertDescription::DecryptError,
        says: "BadSignature",
    };
    vec![
        refused("self-signed", self_signed),
        refused("signed by a leaf", by_leaf),
        refused("signed by an intermediate", by_intermediate),
        refused("signed by another CA of the same name", other_ca),
        refused("signed by another CA that is sent along", with_its_ca),
        refused("signed by another CA", ca_of_another_name),
        stolen,
    ]
}

fn wrongly_made(mesh: &Mesh) -> Vec<Bad> {
    let bad = |what, alert, says, spoil: fn(&mut CertificateParams)| {
        let (chain, key) = mesh.spoilt(spoil);
        Bad { what, chain, key, alert, says }
    };
    let purpose = AlertDescription::UnsupportedCertificate;
    vec![
        bad("expired", AlertDescription::CertificateExpired, "certificate expired", |params| {
            params.not_after = time::OffsetDateTime::now_utc() - time::Duration::seconds(5);
        }),
        bad("not yet valid", AlertDescription::CertificateExpired, "not valid yet", |params| {
            params.not_before = time::OffsetDateTime::now_utc() + HOUR / 2;
        }),
        bad("a CA", AlertDescription::CertificateUnknown, "a CA is not a node", |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        }),
        bad("no purpose", purpose, "extended key usage for server authentication", |params| {
            params.extended_key_usages.clear();
        }),
        bad("only serverAuth", purpose, "extended key usage for client authentication", |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
        bad("only clientAuth", purpose, "extended key usage for server authentication", |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }),
        bad("any purpose", purpose, "extended key usage for server authentication", |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
        }),
        bad("no digitalSignature", AlertDescription::CertificateUnknown, "digitalSignature", |params| {
            params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        }),
    ]
}

fn wrongly_named(mesh: &Mesh) -> Vec<Bad> {
    let two = ["spiffe://prod/node/mallory", "spiffe://prod/node/alice"];
    let cases: [(&'static str, &[&str], &'static str); 10] = [
        ("no URI", &[], "no URI name"),
        ("two URIs", &two, "2 URI names"),
        ("one URI twice", &[two[0], two[0]], "2 URI names"),
        ("a URI of something else beside ours", &[two[0], "https://prod.example"], "2 URI names"),
        ("another mesh", &["spiffe://other/node/mallory"], "belongs to mesh other, this is mesh prod"),
        ("another path", &["spiffe://prod/agent/mallory"], "neither spiffe://"),
        ("the mesh's own name", &["spiffe://prod"], "names the mesh prod as a whole"),
        ("another scheme", &["https://prod/node/mallory"], "neither spiffe://"),
        ("an invalid node id", &["spiffe://prod/node/a%20b"], "only letters"),
        ("an empty node id", &["spiffe://prod/node/"], "it is empty"),
    ];
    let bad = |(what, names, says): (_, &[&str], _)| {
        let (chain, key) = mesh.spoilt(|params| params.subject_alt_names = uris(names));
        Bad { what, chain, key, alert: AlertDescription::CertificateUnknown, says }
    };
    let mut all: Vec<Bad> = cases.into_iter().map(bad).collect();
    let (chain, key) = mesh.spoilt(|params| {
        params.subject_alt_names = vec![SanType::DnsName(SERVER_NAME.try_into().unwrap())];
    });
    let what = "the name that is dialled, and no URI";
    all.push(Bad { what, chain, key, alert: AlertDescription::CertificateUnknown, says: "no URI name" });
    all
}

fn der(pem: &str) -> CertificateDer<'static> {
    certs::parse_certificates(pem).unwrap().remove(0)
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// What one end got: the other end's bytes and name, or the reason why not.
type End = Result<(Vec<u8>, NodeId), ConnectionError>;

#[derive(Debug)]
struct Outcome {
    server: End,
    client: End,
}

impl Outcome {
    fn assert_talked(self, server: &str, client: &str) {
        let (bytes, peer) = self.server.unwrap();
        assert_eq!((bytes.as_slice(), peer.as_str()), (b"ping".as_slice(), client));
        let (bytes, peer) = self.client.unwrap();
        assert_eq!((bytes.as_slice(), peer.as_str()), (b"pong".as_slice(), server));
    }

    fn assert_refused_by_server(self, what: &str, alert: AlertDescription, says: &str) {
        assert_refused(what, alert, says, self.server, self.client);
    }

    fn assert_refused_by_client(self, what: &str, alert: AlertDescription, says: &str) {
        assert_refused(what, alert, says, self.client, self.server);
    }
}

/// One end refused with that alert and that reason, the other was told, and neither got a byte.
fn assert_refused(what: &str, alert: AlertDescription, says: &str, refusing: End, refused: End) {
    let code = TransportErrorCode::crypto(alert.into());
    match refusing {
        Err(ConnectionError::TransportError(error)) => {
            assert_eq!(error.code, code, "{what}: {error}");
            assert!(error.reason.contains(says), "{what}: {error}");
        }
        other => panic!("{what}: not refused, but {other:?}"),
    }
    match refused {
        Err(ConnectionError::ConnectionClosed(close)) => {
            assert_eq!(close.error_code, code, "{what}: {close}");
            let reason = String::from_utf8_lossy(&close.reason);
            assert!(reason.contains(says), "{what}: {reason}");
        }
        other => panic!("{what}: the refused end saw {other:?}"),
    }
}

/// Connects, and lets the dialler ask `ping` and the listener answer `pong`.
async fn exchange(server: rustls::ServerConfig, client: rustls::ClientConfig) -> Outcome {
    let (listener, dialler) = endpoints(server, client);
    let address = listener.local_addr().unwrap();
    let both = async { tokio::join!(listen(&listener), dial(&dialler, address)) };
    let (server, client) = tokio::time::timeout(PATIENCE, both).await.expect("both ends come to an end");
    Outcome { server, client }
}

fn endpoints(server: rustls::ServerConfig, client: rustls::ClientConfig) -> (Endpoint, Endpoint) {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let crypto = QuicServerConfig::try_from(server).unwrap();
    let listener = Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(crypto)), anywhere).unwrap();
    let mut dialler = Endpoint::client(anywhere).unwrap();
    let crypto = QuicClientConfig::try_from(client).unwrap();
    dialler.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    (listener, dialler)
}

async fn listen(listener: &Endpoint) -> End {
    let connection = listener.accept().await.expect("the endpoint is open").await?;
    let (mut send, mut recv) = connection.accept_bi().await?;
    let bytes = recv.read_to_end(16).await.unwrap();
    send.write_all(b"pong").await.unwrap();
    send.finish().unwrap();
    let peer = tls::peer_identity(&connection, &MeshName::new("prod").unwrap()).unwrap();
    // Until the dialler has the answer and closes.
    connection.closed().await;
    Ok((bytes, peer))
}

async fn dial(dialler: &Endpoint, address: SocketAddr) -> End {
    let connection = dialler.connect(address, SERVER_NAME).unwrap().await?;
    let closed = |connection: &quinn::Connection| {
        connection.close_reason().expect("a stream fails when its connection does")
    };
    let Ok((mut send, mut recv)) = connection.open_bi().await else {
        return Err(closed(&connection));
    };
    if send.write_all(b"ping").await.is_err() {
        return Err(closed(&connection));
    }
    // If the connection is lost in between, reading says so.
    let _ = send.finish();
    let Ok(bytes) = recv.read_to_end(16).await else {
        return Err(closed(&connection));
    };
    let peer = tls::peer_identity(&connection, &MeshName::new("prod").unwrap()).unwrap();
    connection.close(0u32.into(), b"");
    Ok((bytes, peer))
}
