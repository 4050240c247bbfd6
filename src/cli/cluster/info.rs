//! `shoal cluster info`: all about one node.

use clap::Args;
use serde::Serialize;

use super::{reports, trouble};
use crate::api::types::{Agent, History, Link, NodeReport, Status};
use crate::cli::client::Connection;
use crate::cli::{Failure, Shown, client_of, print, why};
use crate::core::ids::NodeId;

/// Arguments of `shoal cluster info`.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// The node
    node: NodeId,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Everything, as JSON.
#[derive(Debug, Serialize)]
struct Info {
    #[serde(flatten)]
    report: NodeReport,
    /// Since when the asked node holds it for that; null when its history does not reach back so far.
    status_since_unix_ms: Option<u64>,
    agent_names: Vec<String>,
    /// The asked node's link to it.
    link: Option<Link>,
    /// The asked node's clock.
    #[serde(skip)]
    now: u64,
}

pub(super) async fn run(args: &InfoArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let node = &args.node;
    let report = reports::of_one(&client, node).await?;
    let agents: Vec<Agent> = client.get(&format!("/v1/agents?node={node}")).await?;
    let history: History = client.get(&format!("/v1/history?node={node}&limit=1000")).await?;
    let status: Status = client.get("/v1/cluster/status").await?;
    // The asked node's own facts hold its side of the link.
    let asked = if report.is_asked { None } else { Some(reports::of_one(&client, &status.node_id).await?) };
    let reports = asked.into_iter().chain([report.clone()]).collect::<Vec<_>>();
    let info = Info {
        status_since_unix_ms: why::since(&history.entries, &report.status).map(|since| since.unix_ms),
        agent_names: agents.iter().map(|agent| agent.name.to_string()).collect(),
        link: reports::link_to(&reports, node).cloned(),
        now: reports::now(&reports),
        report,
    };
    print::show(args.shown.output, &info, table)
}

fn table(info: &Info) -> String {
    let (report, facts) = (&info.report, info.report.facts.as_ref());
    let labels: Vec<_> = report.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let certificate = facts.and_then(|facts| facts.certificate.as_ref());
    let certificate = certificate.or_else(|| info.link.as_ref().and_then(|link| link.certificate.as_ref()));
    let described = certificate.map(|certificate| {
        let signer = print::or_nothing(certificate.signed_by.as_deref(), trouble::short);
        let expires = print::time(certificate.not_after.saturating_mul(1000));
        let days = trouble::days_left(certificate.not_after, info.now);
        format!("{} signed by CA {signer}, expires {expires} ({days} days)", certificate.serial)
    });
    let agents = format!("{} {}", report.agents, info.agent_names.join(" "));
    print::pairs(&[
        ("Node", report.node_id.to_string()),
        ("Status", report.status.clone()),
        ("Since", print::or_nothing(info.status_since_unix_ms, print::time)),
        ("Incarnation", report.incarnation.to_string()),
        ("Version", print::or_nothing(facts, |facts| facts.version.clone())),
        ("Uptime", print::or_nothing(facts, |facts| print::span(facts.uptime_seconds as u64))),
        ("Region", print::or_dash(&report.region)),
        ("Zone", print::or_dash(&report.zone)),
        ("Labels", print::or_dash(&labels.join(" "))),
        ("Addresses", print::or_dash(&report.addresses.join(" "))),
        ("Agents", agents.trim_end().to_owned()),
        ("CPU", print::or_nothing(report.cpu_percent, |percent| format!("{percent:.0}%"))),
        ("Memory", print::or_nothing(report.memory_bytes, print::bytes)),
        ("Disk free", print::or_nothing(facts.and_then(|facts| facts.disk_free_bytes), print::bytes)),
        ("Database", print::or_nothing(facts.and_then(|facts| facts.database_bytes), print::bytes)),
        ("Loop lag", print::or_nothing(facts, |facts| print::seconds(facts.loop_late_seconds))),
        ("Link", print::or_nothing(info.link.as_ref(), link)),
        ("Certificate", print::or_nothing(described, |text| text)),
        ("Clock", reports::clock(report)),
        ("Not told", print::or_nothing(report.error.clone(), |error| error)),
    ])
}

/// One line about a link.
pub(super) fn link(link: &Link) -> String {
    let by = if link.dialled { "dialled" } else { "accepted" };
    let loss =
        trouble::loss_of(link).map(|loss| format!(", {} lost", trouble::share(loss))).unwrap_or_default();
    let rtt = print::seconds(link.rtt_seconds);
    let age = print::span(link.age_seconds as u64);
    format!(
        "{}, {by} {age} ago, round trip {rtt}{loss}, MTU {}, gossip by {}",
        link.address, link.mtu, link.gossip
    )
}
