//! Identity while nodes run: certificates, CAs and revocation lists change under whole nodes in one process, over
//! real sockets on loopback. The tests take turns, because they count what all nodes of the process do.

#![cfg(feature = "node")]

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use shoal::core::model::{AgentSource, AgentSpec, Event, MemberStatus};
use shoal::core::wire::RequestBody;
use shoal::node::Handle;
use shoal::node::certs::{self, Ca, CertPair, Revoked, Validity};
use shoal::node::identity::{OfferError, Standing};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use common::mesh::{TestMesh, issue, message_from, new_ca, until};

/// How long a mesh may take to shut out a node whose certificate is good no more.
const OUT_WITHIN: Duration = Duration::from_secs(5);

static TURN: Mutex<()> = Mutex::const_new(());

async fn my_turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_and_all_certificates_rotate_under_load_and_no_request_fails() {
    let _turn = my_turn().await;
    let mesh = TestMesh::start(3).await;
    mesh.all_alive().await;
    let load = Load::on(&mesh).await;
    let (old, new) = (mesh.ca().bundle_pem().to_owned(), new_ca("test"));
    let both = format!("{old}{}", new.bundle_pem());

    for n in 1..=3 {
        fs::write(mesh.certs(n).join("ca.crt"), &both).expect("written");
    }
    until(|| (1..=3).all(|n| mesh.node(n).handle().identity().cas.len() == 2)).await;
    for n in 1..=3 {
        install(&mesh, n, &issue(&new, &mesh.node(n).id()));
    }
    // Only when no link shows a certificate of the old CA may that go: this is what operators wait for.
    let new_key = mesh.node(1).handle().identity().cas[1].0;
    until(|| (1..=3).all(|n| peers_of(&mesh, n).iter().all(|(_, ca)| *ca == Some(new_key)))).await;
    for n in 1..=3 {
        fs::write(mesh.certs(n).join("ca.crt"), new.bundle_pem()).expect("written");
    }
    until(|| (1..=3).all(|n| mesh.node(n).handle().identity().cas.len() == 1)).await;
    let so_far = load.answered();
    until(|| load.answered() > so_far + 100).await;

    let (answered, failures) = load.end().await;
    assert!(failures.is_empty(), "{} of {answered} failed: {:?}", failures.len(), failures.first());
    for n in 1..=3 {
        assert!((1..=3).all(|of| mesh.status(n, of) == Some(MemberStatus::Alive)), "as node {n} sees it");
        until(|| peers_of(&mesh, n).len() == 2).await;
        let events = mesh.node(n).handle().subscribe(Some(0)).missed;
        let failed = |e: &&Event| matches!(e, Event::Member { status: MemberStatus::Failed, .. });
        assert_eq!(events.iter().map(|numbered| &numbered.event).find(failed), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_69_a_revoked_node_is_out_of_the_whole_mesh_at_once_and_comes_back_with_a_new_certificate() {
    let _turn = my_turn().await;
    let mesh = TestMesh::start(3).await;
    mesh.all_alive().await;
    let list = certs::make_crl(mesh.ca(), &[revoked(&mesh, 3)], 1, validity()).expect("made");

    let published = Instant::now();
    let taken = mesh.node(1).handle().offer_crls(list).await.expect("a good list");
    assert!(taken[0].new && taken[0].revoked == 1, "{taken:?}");
    until(|| [1, 2].iter().all(|n| is_out(&mesh, *n, 3))).await;
    let took = published.elapsed();
    assert!(took < OUT_WITHIN, "{took:?}");
    for n in [1, 2] {
        let reason = "the certificate has been revoked";
        until(|| tells_why(mesh.node(n).handle(), "node-3", reason)).await;
    }
    until(|| says_it_was_refused(mesh.node(3).handle(), "revoked")).await;
    assert_eq!(mesh.status(1, 2), Some(MemberStatus::Alive));

    install(&mesh, 3, &issue(mesh.ca(), &mesh.node(3).id()));
    mesh.all_alive().await;
    assert_eq!(mesh.node(3).handle().identity().standing, Standing::Good);
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_69_a_node_that_has_its_own_revocation_says_so_and_dials_nobody() {
    let _turn = my_turn().await;
    let mesh = TestMesh::start(2).await;
    mesh.all_alive().await;
    let list = certs::make_crl(mesh.ca(), &[revoked(&mesh, 2)], 1, validity()).expect("made");
    mesh.node(2).handle().offer_crls(list).await.expect("a good list");
    until(|| mesh.node(2).handle().identity().standing == Standing::Revoked).await;
    // It tells its peers of the list all the same, and is shut out by them.
    until(|| is_out(&mesh, 1, 2)).await;
    until(|| says_it_was_refused(mesh.node(2).handle(), "revoked")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_68_a_certificate_that_expires_while_running_ends_its_links_without_a_storm_and_heals_when_renewed()
 {
    let _turn = my_turn().await;
    let metrics = metrics();
    let mesh = TestMesh::start(3).await;
    mesh.all_alive().await;
    let seconds = 8;
    let short =
        certs::issue(mesh.ca(), &mesh.node(3).id(), &[], &[], validity().shortened(seconds)).expect("issued");
    let ends = SystemTime::now() + Duration::from_secs(seconds.into());
    install(&mesh, 3, &short);
    // The links are replaced, and nobody notices.
    let serial = serial_of(&short);
    until(|| [1, 2].iter().all(|n| peers_of(&mesh, *n).iter().any(|(s, _)| *s == serial))).await;
    mesh.all_alive().await;

    until(|| [1, 2].iter().all(|n| is_out(&mesh, *n, 3))).await;
    let late = SystemTime::now().duration_since(ends).expect("not before its end");
    assert!(late < OUT_WITHIN, "{late:?}");
    until(|| mesh.node(3).handle().identity().standing == Standing::Expired).await;
    until(|| [1, 2].iter().all(|n| tells_why(mesh.node(*n).handle(), "node-3", "expired"))).await;
    let before = refused_handshakes(&metrics);
    let watched = Duration::from_secs(6);
    tokio::time::sleep(watched).await;
    let attempts = refused_handshakes(&metrics) - before;
    assert!(attempts <= 4, "{attempts} handshakes in {watched:?}");

    install(&mesh, 3, &issue(mesh.ca(), &mesh.node(3).id()));
    mesh.all_alive().await;
    assert_eq!(mesh.node(3).handle().identity().standing, Standing::Good);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_good_are_refused_with_the_reason_and_the_former_stay_in_use() {
    let _turn = my_turn().await;
    let mesh = TestMesh::start(2).await;
    mesh.all_alive().await;
    let node = mesh.node(2);
    let good = issue(mesh.ca(), &node.id());
    install(&mesh, 2, &good);
    let serial = serial_of(&good);
    until(|| node.handle().identity().own.serial == serial).await;

    let (other_key, other_node) = (issue(mesh.ca(), &node.id()), issue(mesh.ca(), &mesh.node(1).id()));
    let (bundle, elsewhere) = (mesh.ca().bundle_pem(), new_ca("elsewhere"));
    let list_of_another = certs::make_crl(mesh.ca(), &[], 1, validity()).expect("made");
    for (bundle, cert, key, crl, says) in [
        (bundle, &good.cert_pem, &other_key.key_pem, "", "does not belong to the certificate"),
        (bundle, &other_node.cert_pem, &other_node.key_pem, "", "a running node does not change its name"),
        (elsewhere.bundle_pem(), &good.cert_pem, &good.key_pem, "", "the CA of mesh elsewhere"),
        (
            new_ca("test").bundle_pem(),
            &good.cert_pem,
            &good.key_pem,
            "",
            "not signed by a CA that is trusted",
        ),
        ("", &good.cert_pem, &good.key_pem, "", "holds no certificate"),
        (bundle, &good.cert_pem, &good.key_pem, &list_of_another[..100], "ca.crl"),
    ] {
        write_set(&mesh, 2, bundle, cert, key, crl);
        until(|| node.handle().identity().refused.as_deref().is_some_and(|why| why.contains(says))).await;
        assert_eq!(node.handle().identity().own.serial, serial, "{says}");
        let refused = node.handle().reload_certificates().await.expect_err("still no good");
        assert!(refused.contains(says), "{refused}");
    }
    mesh.all_alive().await;
    write_set(&mesh, 2, bundle, &good.cert_pem, &good.key_pem, "");
    node.handle().reload_certificates().await.expect("good again");
    assert_eq!(node.handle().identity().refused, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_list_survives_a_restart_and_reaches_a_node_that_was_down() {
    let _turn = my_turn().await;
    let mut mesh = TestMesh::start(3).await;
    mesh.all_alive().await;
    mesh.stop(2).await;
    let gone = issue(mesh.ca(), &"gone".parse().expect("valid"));
    let entry = Revoked { serial: serial_of(&gone).parse().expect("a serial"), since: SystemTime::now() };
    let list =
        |number| certs::make_crl(mesh.ca(), std::slice::from_ref(&entry), number, validity()).expect("made");
    let (second, first, third) = (list(2), list(1), list(3));
    mesh.node(1).handle().offer_crls(second).await.expect("a good list");
    until(|| number_at(&mesh, 3) == Some(2)).await;
    mesh.stop(1).await;
    mesh.restart(1).await;
    assert_eq!(number_at(&mesh, 1), Some(2), "kept over the restart");
    mesh.restart(2).await;
    until(|| number_at(&mesh, 2) == Some(2)).await;

    let older = mesh.node(2).handle().offer_crls(first).await;
    assert!(matches!(older, Err(OfferError::Older { number: 1, have: 2 })), "{older:?}");
    let foreign = certs::make_crl(&new_ca("test"), &[], 9, validity()).expect("made");
    let foreign = mesh.node(2).handle().offer_crls(foreign).await;
    assert!(matches!(foreign, Err(OfferError::Bad(certs::CertError::CrlIssuer))), "{foreign:?}");
    // By the file of one node, it reaches all.
    certs::write_crl(&mesh.certs(3), &third).expect("written");
    until(|| (1..=3).all(|n| number_at(&mesh, n) == Some(3))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_69_of_two_cas_with_one_name_the_list_of_each_revokes_its_own_certificates_alone() {
    let _turn = my_turn().await;
    let mesh = TestMesh::start(3).await;
    mesh.all_alive().await;
    let new = new_ca("test");
    let both = format!("{}{}", mesh.ca().bundle_pem(), new.bundle_pem());
    for n in 1..=3 {
        fs::write(mesh.certs(n).join("ca.crt"), &both).expect("written");
    }
    until(|| (1..=3).all(|n| mesh.node(n).handle().identity().cas.len() == 2)).await;
    install(&mesh, 2, &issue(&new, &mesh.node(2).id()));
    let new_key = mesh.node(1).handle().identity().cas[1].0;
    until(|| peers_of(&mesh, 1).iter().any(|(_, ca)| *ca == Some(new_key))).await;
    let list_of = |ca: &Ca, n| certs::make_crl(ca, &[revoked(&mesh, n)], 1, validity()).expect("made");
    // Node 2 and the list of the other CA: its number means nothing there.
    let (of_old, of_new) = (list_of(mesh.ca(), 2), list_of(&new, 3));
    mesh.node(1).handle().offer_crls(format!("{of_old}{of_new}")).await.expect("good lists");
    until(|| (1..=3).all(|n| mesh.node(n).handle().identity().crls.len() == 2)).await;
    mesh.all_alive().await;
    // A link that another replaces lasts a moment longer.
    until(|| peers_of(&mesh, 1).len() == 2).await;
}

/// Asks from every node to agents on two others, without a pause, until it is ended.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    askers: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    async fn on(mesh: &TestMesh) -> Self {
        for n in 1..=3 {
            let source = AgentSource::Native { builtin: "echo".to_owned() };
            let spec = AgentSpec::new(format!("echo-{n}").parse().expect("valid"), source);
            let node = mesh.node(n);
            node.handle().request(node.id(), RequestBody::Deploy { spec }).await.expect("deploys");
        }
        let running = |handle: &Handle| {
            let view = handle.view();
            view.agents.iter().filter(|a| a.record.state.as_str() == "running").count() == 3
        };
        until(|| (1..=3).all(|n| running(mesh.node(n).handle()))).await;
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut askers = Vec::new();
        for (n, to) in (1..=3).flat_map(|n| (1..=3).filter(move |to| *to != n).map(move |to| (n, to))) {
            let handle = mesh.node(n).handle().clone();
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            askers.push(tokio::spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match handle.ask(message_from(n, &format!("echo-{to}"), b"hello")).await {
                        Ok(_) => answered.fetch_add(1, Ordering::Relaxed),
                        Err(error) => {
                            failures.push(format!("{n} to {to}: {error}"));
                            0
                        }
                    };
                    // The other nodes of this process want the processor too.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                failures
            }));
        }
        Self { stop, answered, askers }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for asker in self.askers {
            failures.extend(asker.await.expect("it does not panic"));
        }
        (self.answered.load(Ordering::Relaxed), failures)
    }
}

fn validity() -> Validity {
    Validity::starting(SystemTime::now(), 7).expect("a validity")
}

/// Gives a running node another certificate and key, one file after the other, as a copying operator does.
fn install(mesh: &TestMesh, n: usize, pair: &CertPair) {
    fs::write(mesh.certs(n).join("node.key"), &pair.key_pem).expect("written");
    fs::write(mesh.certs(n).join("node.crt"), &pair.cert_pem).expect("written");
}

fn write_set(mesh: &TestMesh, n: usize, bundle: &str, cert: &str, key: &str, crl: &str) {
    let files = [("ca.crt", bundle), ("node.crt", cert), ("node.key", key), ("ca.crl", crl)];
    for (name, text) in files {
        let path = mesh.certs(n).join(name);
        if text.is_empty() && name == "ca.crl" {
            let _ = fs::remove_file(path);
        } else {
            fs::write(path, text).expect("written");
        }
    }
}

fn serial_of(pair: &CertPair) -> String {
    let der = certs::parse_certificates(&pair.cert_pem).expect("PEM").remove(0);
    certs::Facts::read(&der).expect("readable").serial
}

fn revoked(mesh: &TestMesh, n: usize) -> Revoked {
    let serial = mesh.node(n).handle().identity().own.serial.parse().expect("a serial");
    Revoked { serial, since: SystemTime::now() }
}

/// What the peers of node `n` have shown: serial and CA.
fn peers_of(mesh: &TestMesh, n: usize) -> Vec<(String, Option<shoal::core::ids::CaKeyId>)> {
    let shown = mesh.node(n).handle().peer_certificates();
    shown.into_iter().map(|peer| (peer.serial.to_string(), peer.ca)).collect()
}

/// Whether node `n` holds node `of` for failed and has no link to it.
fn is_out(mesh: &TestMesh, n: usize, of: usize) -> bool {
    let shown = mesh.node(n).handle().peer_certificates();
    let id = mesh.node(of).id();
    mesh.status(n, of) == Some(MemberStatus::Failed) && shown.iter().all(|peer| peer.node_id != id)
}

fn number_at(mesh: &TestMesh, n: usize) -> Option<u64> {
    mesh.node(n).handle().identity().crls.first().map(|list| list.number)
}

/// Whether a node tells why another is out: as the reason of its failure, or beside it where gossip was quicker.
fn tells_why(handle: &Handle, of: &str, why: &str) -> bool {
    let told = handle.subscribe(Some(0)).missed;
    told.iter().any(|numbered| {
        if let Event::Refused { peer, reason } = &numbered.event {
            return peer == of && reason.contains(why);
        }
        matches!(&numbered.event, Event::Member { node, status: MemberStatus::Failed, reason }
            if node.as_str() == of && reason.contains(why))
    })
}

fn says_it_was_refused(handle: &Handle, why: &str) -> bool {
    let told = handle.subscribe(Some(0)).missed;
    told.iter()
        .any(|numbered| matches!(&numbered.event, Event::Refused { reason, .. } if reason.contains(why)))
}

fn metrics() -> metrics_exporter_prometheus::PrometheusHandle {
    shoal::node::telemetry::collect_metrics().expect("the only test that collects them")
}

/// Handshakes that listeners of this process have seen fail.
fn refused_handshakes(metrics: &metrics_exporter_prometheus::PrometheusHandle) -> u64 {
    let text = metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix("shoal_transport_handshakes_failed_total "));
    line.expect("there from the start").parse().expect("a number")
}
