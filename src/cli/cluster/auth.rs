//! `shoal cluster verify-auth`: the certificates, CAs and clocks of all nodes.

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;

use super::reports;
use super::trouble::{self, Severity, Trouble};
use crate::api::types::NodeReport;
use crate::cli::client::Connection;
use crate::cli::print::{self, Table};
use crate::cli::{Failure, Shown, client_of};
use crate::core::ids::NodeId;

/// Arguments of `shoal cluster verify-auth`.
#[derive(Debug, Args)]
pub(crate) struct AuthArgs {
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// One node, as JSON.
#[derive(Debug, PartialEq, Serialize)]
struct Checked {
    node_id: NodeId,
    status: String,
    /// Of the certificate that it shows now.
    serial: Option<String>,
    /// The CA that has signed it, by what the node itself trusts.
    signed_by: Option<String>,
    /// The CA that the asked node verified the present link with.
    verified_by: Option<String>,
    not_after: Option<u64>,
    days_left: Option<i64>,
    clock_seconds: Option<f64>,
    trusted: BTreeSet<String>,
    /// What is wrong; empty when nothing is.
    wrong: Vec<String>,
}

pub(super) async fn run(args: &AuthArgs) -> Result<(), Failure> {
    let reports = reports::of_all(&client_of(&args.connection)?).await?;
    let checked = check(&reports);
    print::show(args.shown.output, &checked, |checked| table(checked))?;
    match checked.iter().filter(|node| !node.wrong.is_empty()).count() {
        0 => Ok(()),
        1 => Err(Failure::Refused("something is wrong with one node".to_owned())),
        count => Err(Failure::Refused(format!("something is wrong with {count} nodes"))),
    }
}

/// Each node that has not left.
fn check(reports: &[NodeReport]) -> Vec<Checked> {
    let now = reports::now(reports);
    let bundles = trouble::of_authorities(reports);
    let present = reports.iter().filter(|report| report.status != "left");
    present.map(|report| check_one(report, reports, bundles.as_ref(), now)).collect()
}

fn check_one(report: &NodeReport, all: &[NodeReport], bundles: Option<&Trouble>, now: u64) -> Checked {
    let facts = report.facts.as_ref();
    let certificate = facts.and_then(|facts| facts.certificate.as_ref());
    let link = reports::link_to(all, &report.node_id).and_then(|link| link.certificate.as_ref());
    let mut wrong: Vec<String> = report.error.iter().cloned().collect();
    let shown = certificate.or(link);
    let expiring = shown.and_then(|shown| trouble::of_certificate(&report.node_id, shown, now));
    let expiring = expiring.filter(|trouble| trouble.severity == Severity::Problem);
    wrong.extend(expiring.into_iter().chain(trouble::of_clock(report)).map(|trouble| told(&trouble)));
    if link.is_some_and(|link| link.signed_by.is_none()) {
        wrong.push("the asked node trusts the CA of its present link no more".to_owned());
    }
    if certificate.is_some_and(|certificate| certificate.signed_by.is_none()) {
        wrong.push("it does not trust the CA of its own certificate".to_owned());
    }
    if let Some(bundles) = bundles.filter(|bundles| bundles.nodes.contains(&report.node_id)) {
        wrong.push(told(bundles));
    }
    Checked {
        node_id: report.node_id.clone(),
        status: report.status.clone(),
        serial: shown.map(|shown| shown.serial.clone()),
        signed_by: certificate.and_then(|certificate| certificate.signed_by.clone()),
        verified_by: link.and_then(|link| link.signed_by.clone()),
        not_after: shown.map(|shown| shown.not_after),
        days_left: shown.map(|shown| trouble::days_left(shown.not_after, now)),
        clock_seconds: report.clock_seconds,
        trusted: facts.iter().flat_map(|f| &f.trusted).map(|ca| ca.fingerprint.clone()).collect(),
        wrong,
    }
}

fn told(trouble: &Trouble) -> String {
    match &trouble.figure {
        Some(figure) => format!("{} ({figure})", trouble.what),
        None => trouble.what.clone(),
    }
}

fn table(nodes: &[Checked]) -> String {
    let mut table = Table::new(&[
        "NODE-ID",
        "STATUS",
        "SERIAL",
        "SIGNED-BY",
        "EXPIRES",
        "DAYS",
        "CLOCK",
        "TRUSTS",
        "RESULT",
    ]);
    for node in nodes {
        let signer = node.signed_by.as_ref().or(node.verified_by.as_ref());
        let trusted: Vec<_> = node.trusted.iter().map(|ca| trouble::short(ca)).collect();
        table.row([
            node.node_id.to_string(),
            node.status.clone(),
            print::or_nothing(node.serial.as_deref(), |serial| serial.chars().take(11).collect()),
            print::or_nothing(signer, |ca| trouble::short(ca)),
            print::or_nothing(node.not_after, |at| {
                print::time(at.saturating_mul(1000)).chars().take(10).collect()
            }),
            print::or_nothing(node.days_left, |days| days.to_string()),
            print::or_nothing(node.clock_seconds, |ahead| format!("{ahead:+.3}s")),
            print::or_dash(&trusted.join(",")),
            if node.wrong.is_empty() { "ok" } else { "WRONG" }.to_owned(),
        ]);
    }
    let wrong = nodes.iter().flat_map(|node| node.wrong.iter().map(|why| format!("{}: {why}", node.node_id)));
    // A reason that is about all nodes is said once.
    let mut reasons = Vec::new();
    for line in wrong {
        let why = line.split_once(": ").map_or(line.as_str(), |(_, why)| why).to_owned();
        if !reasons.iter().any(|known: &String| known.ends_with(&why)) {
            reasons.push(line);
        }
    }
    let reasons: String = reasons.iter().map(|line| print::visible(line) + "\n").collect();
    if reasons.is_empty() { table.text() } else { format!("{}\n{reasons}", table.text()) }
}
