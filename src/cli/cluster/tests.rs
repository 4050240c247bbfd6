//! What is concluded from reports: the matrix, the troubles and the advice, without a mesh.

use super::analyze;
use super::doctor::Diagnosis;
use super::reach::{Matrix, Reach};
use super::trouble::{self, Severity, Trouble};
use crate::api::types::{Arrival, Authority, Facts, Link, NodeReport, ShownCertificate};
use crate::core::ids::NodeId;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn node(n: usize) -> NodeId {
    NodeId::new(&format!("node-{n}")).expect("valid")
}

fn address(n: usize) -> String {
    format!("10.0.0.{n}:7946")
}

/// What is wrong in a case.
type Change = fn(&mut Vec<NodeReport>);

fn certificate(days: u64) -> ShownCertificate {
    ShownCertificate {
        serial: "01:02".to_owned(),
        not_after: NOW + days * DAY,
        signed_by: Some("AA:BB".to_owned()),
    }
}

fn link(to: usize) -> Link {
    Link {
        node: node(to),
        address: address(to),
        in_use: true,
        dialled: true,
        age_seconds: 100.0,
        silent_seconds: 0.3,
        rtt_seconds: 0.0004,
        sent_packets: 10_000,
        lost_packets: 0,
        congestion_events: 0,
        mtu: 1452,
        gossip: "datagrams".to_owned(),
        certificate: Some(certificate(90)),
    }
}

/// A mesh of so many nodes in which everything is well.
fn mesh(count: usize) -> Vec<NodeReport> {
    let others = |n: usize| (1..=count).filter(move |other| *other != n);
    let report = |n: usize| NodeReport {
        node_id: node(n),
        status: "alive".to_owned(),
        addresses: vec![address(n)],
        region: String::new(),
        zone: String::new(),
        labels: [].into(),
        incarnation: 1,
        agents: 1,
        cpu_percent: Some(10.0),
        memory_bytes: Some(1 << 30),
        is_asked: n == 1,
        seconds: Some(0.001),
        clock_seconds: (n != 1).then_some(0.002),
        facts: Some(Facts {
            unix_ms: NOW * 1000,
            version: "0.1.0".to_owned(),
            uptime_seconds: 1000.0,
            profile: "auto".to_owned(),
            certificate: Some(certificate(90)),
            trusted: vec![Authority { fingerprint: "AA:BB".to_owned(), not_after: NOW + 900 * DAY }],
            links: others(n).map(link).collect(),
            disk_free_bytes: Some(50 << 30),
            disk_bytes: Some(100 << 30),
            loop_late_seconds: 0.001,
            mode: Some("healthy".to_owned()),
            members: others(n).map(|other| (node(other), "alive".to_owned())).collect(),
            ..Facts::default()
        }),
        error: None,
    };
    (1..=count).map(report).collect()
}

fn facts(reports: &mut [NodeReport], n: usize) -> &mut Facts {
    reports[n - 1].facts.as_mut().expect("it has some")
}

/// Both have lost their link to each other.
fn unlink(reports: &mut [NodeReport], a: usize, b: usize) {
    facts(reports, a).links.retain(|link| link.node != node(b));
    facts(reports, b).links.retain(|link| link.node != node(a));
}

fn unanswered(from: usize, times: u32) -> Arrival {
    let reason = "timed out".to_owned();
    Arrival { address: address(from), times, seconds_ago: 3.0, unanswered: true, reason }
}

fn found(reports: &[NodeReport]) -> Vec<Trouble> {
    trouble::troubles(reports, &Matrix::of(reports), NOW)
}

/// The only trouble of this mesh.
#[track_caller]
fn only(reports: &[NodeReport]) -> Trouble {
    let mut found = found(reports);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

#[test]
fn a_mesh_in_which_all_is_well_has_no_trouble_and_needs_no_advice() {
    let reports = mesh(3);
    assert_eq!(found(&reports), []);
    assert!(Diagnosis::of(&reports).verdict().is_ok());
    assert_eq!(analyze::sentences(&reports), Vec::<String>::new());
    let matrix = Matrix::of(&reports);
    assert!(matrix.pairs().all(|(_, _, reach)| reach == Reach::Ok));
    assert_eq!(matrix.rows().next().expect("a row"), ["node-1", "=", "ok", "ok"]);
}

#[test]
fn a_one_way_path_is_named_with_its_direction_and_what_was_seen() {
    let mut reports = mesh(3);
    unlink(&mut reports, 2, 3);
    facts(&mut reports, 3).arrivals = vec![unanswered(2, 7)];
    let matrix = Matrix::of(&reports);
    assert_eq!(matrix.reach(&node(2), &node(3)), Some(Reach::OneWay { seen: 7 }));
    assert_eq!(matrix.reach(&node(3), &node(2)), Some(Reach::No));
    let trouble = only(&reports);
    assert_eq!((trouble.severity, trouble.nodes), (Severity::Problem, vec![node(2), node(3)]));
    assert!(
        trouble.what.contains("packets from node-2 reach node-3, nothing from node-3"),
        "{}",
        trouble.what
    );
    assert!(trouble.figure.is_some_and(|figure| figure.starts_with("7 handshakes")));
    assert!(Diagnosis::of(&reports).verdict().is_err());
}

#[test]
fn a_link_that_only_one_side_still_has_leads_to_nobody() {
    let mut reports = mesh(3);
    facts(&mut reports, 3).links.retain(|link| link.node != node(2));
    assert_eq!(Matrix::of(&reports).reach(&node(2), &node(3)), Some(Reach::No));
    facts(&mut reports, 2).links.iter_mut().for_each(|link| link.age_seconds = 1.0);
    assert_eq!(Matrix::of(&reports).reach(&node(2), &node(3)), Some(Reach::Ok), "it is on its way");
}

#[test]
fn a_link_on_which_one_side_is_heard_and_does_not_hear_is_one_way() {
    let mut reports = mesh(3);
    facts(&mut reports, 2).links.iter_mut().find(|l| l.node == node(3)).expect("a link").silent_seconds =
        20.0;
    let matrix = Matrix::of(&reports);
    assert_eq!(matrix.reach(&node(2), &node(3)), Some(Reach::OneWay { seen: 0 }));
    assert_eq!(matrix.reach(&node(3), &node(2)), Some(Reach::No));
    assert!(only(&reports).what.contains("packets from node-2 reach node-3, nothing from node-3"));
    facts(&mut reports, 3).links.iter_mut().find(|l| l.node == node(2)).expect("a link").silent_seconds =
        20.0;
    assert_eq!(found(&reports), [], "a quiet link is none that is broken");
}

#[test]
fn two_nodes_without_a_way_are_told_once_and_a_handshake_of_a_stranger_is_no_sign() {
    let mut reports = mesh(3);
    unlink(&mut reports, 2, 3);
    let mut stranger = unanswered(2, 9);
    stranger.address = "192.0.2.1:5".to_owned();
    let mut refused = unanswered(2, 9);
    refused.unanswered = false;
    facts(&mut reports, 3).arrivals = vec![stranger, refused];
    let trouble = only(&reports);
    assert_eq!(trouble.what, "node-2 and node-3 have no connection to each other");
}

#[test]
fn links_are_made_on_demand_in_a_large_mesh_and_by_a_node_that_has_just_come() {
    let mut large = mesh(40);
    unlink(&mut large, 2, 3);
    assert_eq!(Matrix::of(&large).reach(&node(2), &node(3)), Some(Reach::Idle));
    assert_eq!(found(&large).len(), 0);
    let mut young = mesh(3);
    unlink(&mut young, 2, 3);
    facts(&mut young, 3).uptime_seconds = 2.0;
    assert_eq!(found(&young), []);
}

#[test]
fn a_failed_node_is_told_once_and_its_row_is_not_known() {
    let mut reports = mesh(3);
    reports[2].status = "failed".to_owned();
    reports[2].facts = None;
    for n in [1, 2] {
        let facts = facts(&mut reports, n);
        facts.links.retain(|link| link.node != node(3));
        facts.members.insert(node(3), "failed".to_owned());
    }
    let trouble = only(&reports);
    assert!(trouble.what == "node-3 is failed" && trouble.advice.contains("shoal why node-3"));
    let matrix = Matrix::of(&reports);
    assert_eq!(matrix.reach(&node(3), &node(1)), Some(Reach::Unknown));
    assert_eq!(matrix.reach(&node(1), &node(3)), Some(Reach::No));
    reports[2].status = "left".to_owned();
    assert_eq!(found(&reports), [], "who said good-bye is no trouble");
}

#[test]
fn each_figure_beyond_its_bound_is_a_trouble_that_tells_it() {
    let cases: [(Change, Severity, &str, &str); 11] = [
        (|r| r[1].clock_seconds = Some(-6.0), Severity::Problem, "the clock of node-2", "-6.0 s"),
        (
            |r| facts(r, 2).certificate = Some(certificate(6)),
            Severity::Problem,
            "certificate of node-2",
            "6 days",
        ),
        (
            |r| facts(r, 2).certificate = Some(certificate(20)),
            Severity::Note,
            "certificate of node-2",
            "20 days",
        ),
        (|r| facts(r, 2).loop_late_seconds = 1.5, Severity::Problem, "node-2 was held up", "1.50s late"),
        (|r| facts(r, 2).queued_inputs = 5_000, Severity::Problem, "inputs wait", "5000 of 8192"),
        (|r| facts(r, 2).queued_changes = 1_200, Severity::Note, "changes wait", "1200 of 4096"),
        (|r| facts(r, 2).disk_free_bytes = Some(1 << 20), Severity::Problem, "disk of node-2", "1.0MiB free"),
        (|r| facts(r, 2).links[0].mtu = 1200, Severity::Note, "small packets", "MTU 1200"),
        (|r| facts(r, 2).links[0].lost_packets = 3_000, Severity::Problem, "are lost", "30.0% of 10000"),
        (|r| facts(r, 2).version = "0.0.9".to_owned(), Severity::Note, "different versions", "2 versions"),
        (|r| facts(r, 2).history_dropped = 4, Severity::Note, "history", "4 entries"),
    ];
    for (change, severity, what, figure) in cases {
        let mut reports = mesh(3);
        change(&mut reports);
        let trouble = only(&reports);
        assert_eq!(trouble.severity, severity, "{what}");
        assert!(trouble.what.contains(what), "{}", trouble.what);
        assert!(trouble.figure.as_ref().is_some_and(|told| told.contains(figure)), "{trouble:?}");
        assert!(!trouble.advice.is_empty());
    }
}

#[test]
fn a_node_that_is_not_among_a_majority_is_a_trouble() {
    let mut reports = mesh(3);
    facts(&mut reports, 2).mode = Some("degraded".to_owned());
    let trouble = only(&reports);
    assert_eq!(trouble.severity, Severity::Problem);
    assert!(trouble.what.contains("node-2 is degraded") && trouble.advice.contains("detect-partition"));
}

#[test]
fn small_differences_are_no_trouble() {
    let mut reports = mesh(3);
    facts(&mut reports, 1).mode = Some("recovering".to_owned());
    facts(&mut reports, 2).mode = None;
    reports[1].clock_seconds = Some(6.0);
    reports[1].seconds = Some(4.0);
    facts(&mut reports, 2).links[0].age_seconds = 5.0;
    facts(&mut reports, 2).links[0].mtu = 1200;
    facts(&mut reports, 2).links[1].sent_packets = 20;
    facts(&mut reports, 2).links[1].lost_packets = 10;
    assert_eq!(found(&reports), [], "measured too coarsely, too early, or with too few packets");
}

#[test]
fn ca_bundles_that_differ_are_named_with_who_trusts_what() {
    let mut reports = mesh(3);
    facts(&mut reports, 3).trusted[0].fingerprint = "CC:DD".to_owned();
    let trouble = only(&reports);
    assert!(trouble.what.contains("node-1, node-2 trust AA:BB; node-3 trust CC:DD"), "{}", trouble.what);
}

#[test]
fn views_that_disagree_and_nodes_that_do_not_answer_are_troubles() {
    let mut reports = mesh(3);
    facts(&mut reports, 1).members.insert(node(3), "failed".to_owned());
    assert!(only(&reports).what.contains("failed for node-1, alive for node-2"));
    let mut mute = mesh(3);
    mute[2].facts = None;
    mute[2].error = Some("node-3 did not answer within 5 s".to_owned());
    let trouble = only(&mute);
    assert!(trouble.what.contains("does not tell its facts: node-3 did not answer within 5 s"));
}

#[test]
fn advice_has_its_figure_and_there_is_none_without_a_measurement() {
    let cases: [(Change, &str, &str); 8] = [
        (
            |r| {
                facts(r, 2).links[0].rtt_seconds = 0.18;
                r.iter_mut().filter_map(|r| r.facts.as_mut()).for_each(|f| f.profile = "lan".to_owned());
            },
            "round trips are long",
            "180.00ms from node-2 to node-1",
        ),
        (
            |r| facts(r, 1).profile = "wan".to_owned(),
            "waits as if nodes were far apart",
            "longest round trip 400µs",
        ),
        (|r| facts(r, 2).links[0].lost_packets = 150, "packets from node-2 to node-1", "1.5% of 10000"),
        (|r| facts(r, 2).loop_late_seconds = 0.4, "node-2 is slow", "400.00ms late"),
        (|r| r[1].cpu_percent = Some(95.0), "node-2 is much busier", "95% CPU, the median is 10%"),
        (|r| r[1].agents = 20, "node-2 has many more agents", "20 agents, the median is 1"),
        (|r| facts(r, 2).seeds = 1, "node-2 would not find the mesh", "1 seed"),
        (|r| facts(r, 2).certificate = Some(certificate(12)), "certificate of node-2", "12 days left"),
    ];
    for (change, what, figure) in cases {
        let mut reports = mesh(3);
        change(&mut reports);
        let told = analyze::sentences(&reports);
        assert_eq!(told.len(), 1, "{what}: {told:?}");
        assert!(told[0].contains(what) && told[0].contains(figure), "{told:?}");
    }
    let even = analyze::sentences(&mesh(4));
    assert!(
        even.len() == 1 && even[0].contains("4 nodes") && even[0].contains("5 bear the loss of 2"),
        "{even:?}"
    );
    let mut silent = mesh(3);
    silent.iter_mut().for_each(|report| {
        report.facts = None;
        report.cpu_percent = None;
    });
    assert_eq!(analyze::sentences(&silent), Vec::<String>::new());
}

#[test]
fn one_node_that_the_others_doubt_is_sick() {
    let mut reports = mesh(5);
    for n in [1, 2, 4] {
        facts(&mut reports, n).members.insert(node(3), "suspect".to_owned());
    }
    let told = analyze::sentences(&reports);
    assert!(told.len() == 1 && told[0].contains("3 of 4 nodes do not hold it for alive"), "{told:?}");
}
