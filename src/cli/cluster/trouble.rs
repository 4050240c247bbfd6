//! What is wrong with a mesh, as far as its nodes' reports show it: pure functions from reports to a list of
//! troubles, each with the figure that it rests on and what to do about it.
//!
//! A report that is missing says nothing of its node beyond that; nothing here guesses.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::reach::{Matrix, Reach};
use crate::api::types::{Facts, Link, NodeReport, ShownCertificate};
use crate::cli::print;
use crate::core::ids::NodeId;
use crate::core::limits;

/// Days before the end of a certificate from which its renewal is overdue, and from which it should be planned.
pub(super) const EXPIRY_DAYS_PROBLEM: i64 = 7;
pub(super) const EXPIRY_DAYS_NOTE: i64 = 30;
/// Clocks that differ by more break certificates' first and last minutes and make logs hard to compare.
pub(super) const CLOCK_SECONDS_MAX: f64 = 5.0;
/// A main loop that is later than this misses probes; later than the second, it is worth a look.
const LOOP_SECONDS_PROBLEM: f64 = 1.0;
const LOOP_SECONDS_NOTE: f64 = 0.2;
/// The path's MTU after discovery on Ethernet is 1452; tunnels have somewhat less.
const MTU_NORMAL_MIN: u16 = 1_350;
/// Discovery of the MTU is over by then.
const MTU_KNOWN_AFTER_SECONDS: f64 = 60.0;
/// Packets below which a share of lost ones says nothing.
const LOSS_PACKETS_MIN: u64 = 500;
const LOSS_PROBLEM: f64 = 0.2;
const LOSS_NOTE: f64 = 0.02;
const DISK_BYTES_PROBLEM: u64 = 256 << 20;
const DISK_SHARE_NOTE: f64 = 0.1;

/// How bad a trouble is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// Something does not work, or will not in a few days.
    Problem,
    /// Worth knowing.
    Note,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Trouble {
    pub(super) severity: Severity,
    /// Whom it is about.
    pub(super) nodes: Vec<NodeId>,
    pub(super) what: String,
    /// The measurement that it rests on; `None` where it is a state and no figure.
    pub(super) figure: Option<String>,
    pub(super) advice: String,
}

impl Trouble {
    fn new(
        severity: Severity,
        nodes: &[&NodeId],
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let nodes = nodes.iter().map(|node| (*node).clone()).collect();
        Self { severity, nodes, what: what.into(), figure: None, advice: advice.into() }
    }

    fn with(self, figure: impl Into<String>) -> Self {
        Self { figure: Some(figure.into()), ..self }
    }
}

/// Everything that is wrong, the worst first. `now` is the asked node's clock, in seconds since 1970.
pub(super) fn troubles(reports: &[NodeReport], matrix: &Matrix, now: u64) -> Vec<Trouble> {
    let mut found = Vec::new();
    for report in reports {
        found.extend(of_status(report));
        found.extend(of_clock(report));
        if let Some(facts) = &report.facts {
            of_facts(&report.node_id, facts, now, &mut found);
        }
    }
    of_reach(reports, matrix, &mut found);
    of_views(reports, &mut found);
    found.extend(of_authorities(reports));
    found.extend(of_versions(reports));
    found.sort_by_key(|trouble| trouble.severity);
    found
}

/// `1 problem`, `3 problems`.
pub(super) fn count_of(troubles: &[Trouble]) -> Option<String> {
    match troubles.iter().filter(|t| t.severity == Severity::Problem).count() {
        0 => None,
        1 => Some("1 problem".to_owned()),
        count => Some(format!("{count} problems")),
    }
}

fn of_status(report: &NodeReport) -> Option<Trouble> {
    let node = &report.node_id;
    match report.status.as_str() {
        "left" => None,
        "failed" => Some(Trouble::new(
            Severity::Problem,
            &[node],
            format!("{node} is failed"),
            format!(
                "`shoal why {node}` tells how that came; then look at the machine, its process and its network"
            ),
        )),
        _ => {
            let reason = report.error.as_ref()?;
            let advice = format!("look at its log and at the path to it: `shoal cluster ping {node}`");
            Some(Trouble::new(
                Severity::Problem,
                &[node],
                format!("{node} is {} and does not tell its facts: {reason}", report.status),
                advice,
            ))
        }
    }
}

pub(super) fn of_clock(report: &NodeReport) -> Option<Trouble> {
    let (ahead, seconds) = (report.clock_seconds?, report.seconds?);
    // By half of the round trip the measurement itself may be off.
    if ahead.abs() <= CLOCK_SECONDS_MAX + seconds / 2.0 {
        return None;
    }
    let node = &report.node_id;
    let trouble = Trouble::new(
        Severity::Problem,
        &[node],
        format!("the clock of {node} differs from that of the asked node"),
        "let both machines follow a time server (NTP): certificates are checked against these clocks",
    );
    Some(trouble.with(format!("{ahead:+.1} s")))
}

fn of_facts(node: &NodeId, facts: &Facts, now: u64, found: &mut Vec<Trouble>) {
    if let Some(certificate) = &facts.certificate {
        found.extend(of_certificate(node, certificate, now));
    }
    for authority in &facts.trusted {
        let days = days_left(authority.not_after, now);
        if days < EXPIRY_DAYS_NOTE {
            let severity = if days < EXPIRY_DAYS_PROBLEM { Severity::Problem } else { Severity::Note };
            let what = format!("a CA that {node} trusts expires soon ({})", short(&authority.fingerprint));
            let advice =
                "make a new CA, let all nodes trust both, issue new certificates, then drop the old one";
            found.push(Trouble::new(severity, &[node], what, advice).with(format!("{days} days left")));
        }
    }
    found.extend(of_mode(node, facts));
    found.extend(of_loop(node, facts));
    of_queues(node, facts, found);
    found.extend(of_disk(node, facts));
    facts.links.iter().filter(|link| link.in_use).for_each(|link| of_link(node, link, found));
}

/// What a node that is not among a majority cannot do. One that joins or recovers is about to be.
fn of_mode(node: &NodeId, facts: &Facts) -> Option<Trouble> {
    facts.mode.as_deref().filter(|mode| *mode == "degraded")?;
    let what = format!("{node} is degraded: writes wait there, and nothing exclusive runs");
    let advice = format!(
        "`shoal cluster status` on {node} says why; `shoal cluster detect-partition` says which side is the majority"
    );
    Some(Trouble::new(Severity::Problem, &[node], what, advice))
}

pub(super) fn of_certificate(node: &NodeId, certificate: &ShownCertificate, now: u64) -> Option<Trouble> {
    let days = days_left(certificate.not_after, now);
    if days >= EXPIRY_DAYS_NOTE {
        return None;
    }
    let severity = if days < EXPIRY_DAYS_PROBLEM { Severity::Problem } else { Severity::Note };
    let what = if days < 0 {
        format!("the certificate of {node} has expired: no new connection to it can be made")
    } else {
        format!("the certificate of {node} expires soon")
    };
    let advice = format!("issue a new one for {node} with `shoal cert issue`");
    Some(Trouble::new(severity, &[node], what, advice).with(format!("{days} days left")))
}

fn of_loop(node: &NodeId, facts: &Facts) -> Option<Trouble> {
    let late = facts.loop_late_seconds;
    let severity = match late {
        late if late >= LOOP_SECONDS_PROBLEM => Severity::Problem,
        late if late >= LOOP_SECONDS_NOTE => Severity::Note,
        _ => return None,
    };
    let what = format!("{node} was held up: others may take it for dead while it is");
    let advice = format!("look for what takes CPU or pauses the process on the machine of {node}");
    Some(Trouble::new(severity, &[node], what, advice).with(format!("{} late", print::seconds(late))))
}

fn of_queues(node: &NodeId, facts: &Facts, found: &mut Vec<Trouble>) {
    let queues = [
        (facts.queued_inputs as usize, limits::DRIVER_QUEUE_MAX, "inputs wait for the main loop", "CPU"),
        (facts.queued_changes as usize, limits::STORE_QUEUE_CHANGES_MAX, "changes wait for the disk", "disk"),
    ];
    for (waiting, most, what, short_of) in queues {
        if waiting >= most / 4 {
            let severity = if waiting >= most / 2 { Severity::Problem } else { Severity::Note };
            let advice =
                format!("{node} is short of {short_of}: look at its machine, or move work away from it");
            let trouble = Trouble::new(severity, &[node], format!("{what} of {node}"), advice);
            found.push(trouble.with(format!("{waiting} of {most}")));
        }
    }
    if facts.history_dropped > 0 {
        let what = format!("{node} could not keep all of its history: its disk was behind");
        let trouble = Trouble::new(Severity::Note, &[node], what, "look at the speed of its disk");
        found.push(trouble.with(format!("{} entries dropped", facts.history_dropped)));
    }
}

fn of_disk(node: &NodeId, facts: &Facts) -> Option<Trouble> {
    let free = facts.disk_free_bytes?;
    let share = facts.disk_bytes.filter(|total| *total > 0).map(|total| free as f64 / total as f64);
    let severity = if free < DISK_BYTES_PROBLEM {
        Severity::Problem
    } else if share.is_some_and(|share| share < DISK_SHARE_NOTE) {
        Severity::Note
    } else {
        return None;
    };
    let what = format!(
        "the disk of {node} is nearly full: with a full one it takes no writes, messages at least once or deployments, \
         and does not start"
    );
    let advice = "make room on the file system of its data directory";
    Some(Trouble::new(severity, &[node], what, advice).with(format!("{} free", print::bytes(free))))
}

fn of_link(node: &NodeId, link: &Link, found: &mut Vec<Trouble>) {
    let peer = &link.node;
    if link.gossip == "stream" || (link.age_seconds >= MTU_KNOWN_AFTER_SECONDS && link.mtu < MTU_NORMAL_MIN) {
        let what = format!(
            "the path from {node} to {peer} carries small packets only; gossip takes the {}",
            if link.gossip == "stream" { "stream" } else { "datagrams still" }
        );
        let severity = if link.gossip == "stream" { Severity::Problem } else { Severity::Note };
        let advice = "look for a tunnel with a small MTU on the way, or a router that drops large packets";
        found.push(Trouble::new(severity, &[node, peer], what, advice).with(format!("MTU {}", link.mtu)));
    }
    if let Some(loss) = loss_of(link).filter(|loss| *loss >= LOSS_NOTE) {
        let severity = if loss >= LOSS_PROBLEM { Severity::Problem } else { Severity::Note };
        let what = format!("packets from {node} to {peer} are lost");
        let advice = format!("look at the network between them: `shoal cluster ping {peer} --count 100`");
        let figure = format!("{} of {} packets", share(loss), link.sent_packets);
        found.push(Trouble::new(severity, &[node, peer], what, advice).with(figure));
    }
    if link.certificate.as_ref().is_some_and(|certificate| certificate.signed_by.is_none()) {
        let what =
            format!("{peer} is connected to {node} with a certificate of a CA that {node} trusts no more");
        let advice =
            format!("issue {peer} a certificate of the present CA: once the link ends it is refused");
        found.push(Trouble::new(Severity::Problem, &[node, peer], what, advice));
    }
}

fn of_reach(reports: &[NodeReport], matrix: &Matrix, found: &mut Vec<Trouble>) {
    for (from, to, reach) in matrix.pairs() {
        if let Reach::OneWay { seen } = reach {
            let what =
                format!("one way only: packets from {from} reach {to}, nothing from {to} reaches {from}");
            let advice = format!(
                "look at what lets UDP from {to} into {from} ({}): its firewall, a route, a NAT",
                address_of(reports, from)
            );
            let trouble = Trouble::new(Severity::Problem, &[from, to], what, advice);
            found.push(match seen {
                0 => trouble,
                _ => trouble.with(format!("{seen} handshakes of {from} at {to} without an echo")),
            });
        }
        // Said once for both directions, and not where one of them explains it.
        let back = matrix.reach(to, from);
        let is_explained = matches!(back, Some(Reach::OneWay { .. }));
        let is_first = from < to || !matches!(back, Some(Reach::No));
        if matches!(reach, Reach::No) && is_first && !is_explained && !is_failed(reports, to) {
            let what = match back {
                Some(Reach::No) => format!("{from} and {to} have no connection to each other"),
                _ => format!("{from} has no connection to {to}"),
            };
            let advice = format!(
                "check that UDP passes both ways between {} and {}",
                address_of(reports, from),
                address_of(reports, to)
            );
            found.push(Trouble::new(Severity::Problem, &[from, to], what, advice));
        }
    }
}

fn is_failed(reports: &[NodeReport], node: &NodeId) -> bool {
    reports.iter().any(|report| report.node_id == *node && report.status == "failed")
}

fn address_of<'a>(reports: &'a [NodeReport], node: &NodeId) -> &'a str {
    let report = reports.iter().find(|report| report.node_id == *node);
    report.and_then(|report| report.addresses.first()).map_or(print::NOTHING, String::as_str)
}

/// Some hold a node for alive and others for failed.
fn of_views(reports: &[NodeReport], found: &mut Vec<Trouble>) {
    let mut views: BTreeMap<&NodeId, BTreeMap<&str, Vec<&NodeId>>> = BTreeMap::new();
    for report in reports {
        for (node, status) in report.facts.iter().flat_map(|facts| &facts.members) {
            views.entry(node).or_default().entry(status).or_default().push(&report.node_id);
        }
    }
    for (node, by_status) in views {
        let (Some(alive), Some(failed)) = (by_status.get("alive"), by_status.get("failed")) else {
            continue;
        };
        let what = format!(
            "the nodes disagree about {node}: failed for {}, alive for {}",
            names(failed),
            names(alive)
        );
        let advice = format!("compare what they have seen: `shoal why {node} --all-nodes`");
        found.push(Trouble::new(Severity::Problem, &[node], what, advice));
    }
}

/// Nodes whose CA bundles differ from what most of them trust.
pub(super) fn of_authorities(reports: &[NodeReport]) -> Option<Trouble> {
    let mut bundles: BTreeMap<BTreeSet<&str>, Vec<&NodeId>> = BTreeMap::new();
    for report in reports {
        if let Some(facts) = &report.facts {
            let bundle = facts.trusted.iter().map(|authority| authority.fingerprint.as_str()).collect();
            bundles.entry(bundle).or_default().push(&report.node_id);
        }
    }
    if bundles.len() < 2 {
        return None;
    }
    let told = bundles.iter().map(|(bundle, nodes)| {
        let bundle: Vec<_> = bundle.iter().map(|fingerprint| short(fingerprint)).collect();
        format!("{} trust {}", names(nodes), bundle.join(" and "))
    });
    let told = told.collect::<Vec<_>>().join("; ");
    let nodes: Vec<&NodeId> = bundles.values().flatten().copied().collect();
    let what = format!("the nodes trust different CAs: {told}");
    let advice = "give every node the same ca.crt: until then some refuse what others accept";
    Some(
        Trouble::new(Severity::Problem, &nodes, what, advice)
            .with(format!("{} different bundles", bundles.len())),
    )
}

fn of_versions(reports: &[NodeReport]) -> Option<Trouble> {
    let mut versions: BTreeMap<&str, Vec<&NodeId>> = BTreeMap::new();
    for report in reports {
        if let Some(facts) = &report.facts {
            versions.entry(&facts.version).or_default().push(&report.node_id);
        }
    }
    if versions.len() < 2 {
        return None;
    }
    let told: Vec<_> =
        versions.iter().map(|(version, nodes)| format!("{} run {version}", names(nodes))).collect();
    let nodes: Vec<&NodeId> = versions.values().flatten().copied().collect();
    let what = format!("the nodes run different versions: {}", told.join("; "));
    let trouble = Trouble::new(Severity::Note, &nodes, what, "finish the upgrade");
    Some(trouble.with(format!("{} versions", versions.len())))
}

/// `a, b and 3 more`.
fn names(nodes: &[&NodeId]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<_> = nodes.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = nodes.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

/// The first bytes of a fingerprint, enough to tell one CA from another.
pub(super) fn short(fingerprint: &str) -> String {
    fingerprint.chars().take(11).collect()
}

/// Whole days until then, rounded down; negative once it is past.
pub(super) fn days_left(not_after: u64, now: u64) -> i64 {
    let seconds =
        i64::try_from(not_after).unwrap_or(i64::MAX).saturating_sub(i64::try_from(now).unwrap_or(i64::MAX));
    seconds.div_euclid(86_400)
}

/// The share of lost packets, where enough were sent for one.
pub(super) fn loss_of(link: &Link) -> Option<f64> {
    (link.sent_packets >= LOSS_PACKETS_MIN).then(|| link.lost_packets as f64 / link.sent_packets as f64)
}

/// `1.5%`.
pub(super) fn share(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}
