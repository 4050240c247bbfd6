//! `shoal cluster health`: one line a node with what matters, once or every two seconds.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::doctor::Diagnosis;
use super::reports;
use super::trouble::{self, Severity};
use crate::api::types::{Facts, NodeReport};
use crate::cli::client::Connection;
use crate::cli::print::{self, Table};
use crate::cli::{Failure, Output, Shown, client_of};
use crate::core::ids::NodeId;

/// Between two looks with `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Puts the cursor at the top of a terminal and clears it.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Arguments of `shoal cluster health`.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Look again every 2 seconds until interrupted; with `-o json` one line each
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// One node, as JSON.
#[derive(Debug, Serialize)]
struct Health {
    node_id: NodeId,
    status: String,
    /// Of the asked node's link to it.
    rtt_seconds: Option<f64>,
    /// Of all packets that it has sent over its links, the share that was lost.
    loss: Option<f64>,
    loop_late_seconds: Option<f64>,
    certificate_days: Option<i64>,
    disk_free_bytes: Option<u64>,
    /// What is wrong with it; see `shoal cluster doctor`.
    problems: Vec<String>,
}

pub(super) async fn run(args: &HealthArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    if !args.watch {
        let (health, diagnosis) = look(&reports::of_all(&client).await?);
        print::show(args.shown.output, &health, |health| table(health))?;
        return diagnosis.verdict();
    }
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        let reports = reports::of_all(&client).await?;
        let (health, _) = look(&reports);
        let text = match args.shown.output {
            Output::Json => serde_json::to_string(&health).expect("texts, numbers and lists are JSON") + "\n",
            Output::Table => {
                let clear = if is_terminal { CLEAR } else { "" };
                let time = print::time(reports::now(&reports) * 1000);
                format!("{clear}{time}\n{}\n", table(&health))
            }
        };
        print::write_out(text.as_bytes())?;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

fn look(reports: &[NodeReport]) -> (Vec<Health>, Diagnosis) {
    let diagnosis = Diagnosis::of(reports);
    let now = reports::now(reports);
    let health = |report: &NodeReport| {
        let facts = report.facts.as_ref();
        let of_it = diagnosis.troubles().iter().filter(|t| t.severity == Severity::Problem);
        let of_it = of_it.filter(|trouble| trouble.nodes.contains(&report.node_id));
        let certificate = facts.and_then(|facts| facts.certificate.as_ref());
        Health {
            node_id: report.node_id.clone(),
            status: report.status.clone(),
            rtt_seconds: reports::link_to(reports, &report.node_id).map(|link| link.rtt_seconds),
            loss: facts.and_then(loss),
            loop_late_seconds: facts.map(|facts| facts.loop_late_seconds),
            certificate_days: certificate.map(|c| trouble::days_left(c.not_after, now)),
            disk_free_bytes: facts.and_then(|facts| facts.disk_free_bytes),
            problems: of_it.map(|trouble| trouble.what.clone()).collect(),
        }
    };
    (reports.iter().map(health).collect(), diagnosis)
}

/// Over all links of a node together.
fn loss(facts: &Facts) -> Option<f64> {
    let sent: u64 = facts.links.iter().map(|link| link.sent_packets).sum();
    let lost: u64 = facts.links.iter().map(|link| link.lost_packets).sum();
    (sent > 0).then(|| lost as f64 / sent as f64)
}

fn table(health: &[Health]) -> String {
    let mut table =
        Table::new(&["NODE-ID", "STATUS", "RTT", "LOSS", "LOOP-LAG", "CERT-DAYS", "DISK-FREE", "PROBLEMS"]);
    for node in health {
        table.row([
            node.node_id.to_string(),
            node.status.clone(),
            print::or_nothing(node.rtt_seconds, print::seconds),
            print::or_nothing(node.loss, trouble::share),
            print::or_nothing(node.loop_late_seconds, print::seconds),
            print::or_nothing(node.certificate_days, |days| days.to_string()),
            print::or_nothing(node.disk_free_bytes, print::bytes),
            print::or_dash(&node.problems.join("; ")),
        ]);
    }
    table.text()
}
