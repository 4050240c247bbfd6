//! `shoal cluster members`: the nodes of the mesh, all or those that fit.

use clap::Args;

use crate::api::types::Member;
use crate::cli::client::Connection;
use crate::cli::print::{self, Table};
use crate::cli::{Failure, Shown, client_of};

/// Arguments of `shoal cluster members`.
#[derive(Debug, Args)]
pub(crate) struct MembersArgs {
    /// Only nodes with this label, or with this node_id, status, region, zone or version; may be repeated
    #[arg(long = "where", value_name = "NAME=VALUE", value_parser = condition)]
    conditions: Vec<(String, String)>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

fn condition(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("give NAME=VALUE, as in region=us-east".to_owned()),
    }
}

/// Lists them.
pub(super) async fn run(args: &MembersArgs) -> Result<(), Failure> {
    let mut members: Vec<Member> = client_of(&args.connection)?.get("/v1/cluster/members").await?;
    members.retain(|member| args.conditions.iter().all(|(name, value)| fits(member, name, value)));
    print::show(args.shown.output, &members, |members| member_table(members))
}

fn fits(member: &Member, name: &str, value: &str) -> bool {
    match name {
        "node_id" => member.node_id.as_str() == value,
        "status" => member.status == value,
        "region" => member.region == value,
        "zone" => member.zone == value,
        "version" => member.version == value,
        label => member.labels.get(label).is_some_and(|own| own == value),
    }
}

fn member_table(members: &[Member]) -> String {
    let has_regions = members.iter().any(|member| !member.region.is_empty());
    let mut heads = vec!["NODE-ID", "STATUS", "ADDRESS", "AGENTS", "CPU", "MEMORY"];
    if has_regions {
        heads.push("REGION");
    }
    let has_rtts = members.iter().any(|member| rtt(member).is_some());
    if has_rtts {
        heads.push("RTT");
    }
    let has_doubts = members.iter().any(|member| !member.doubts.is_empty());
    if has_doubts {
        heads.push("DOUBTS");
    }
    let mut table = Table::new(&heads);
    for member in members {
        let mut cells = vec![
            member.node_id.to_string(),
            member.status.clone(),
            print::or_nothing(member.address.clone(), |address| address),
            member.agents.to_string(),
            print::or_nothing(member.cpu_percent, |percent| format!("{percent:.0}%")),
            print::or_nothing(member.memory_bytes, print::bytes),
        ];
        if has_regions {
            cells.push(print::or_dash(&member.region));
        }
        if has_rtts {
            cells.push(print::or_nothing(rtt(member), |text| text));
        }
        if has_doubts {
            cells.push(print::or_dash(&member.doubts.join("; ")));
        }
        table.row(cells);
    }
    table.text()
}

/// The round trip over the link, or `~` and the estimate.
fn rtt(member: &Member) -> Option<String> {
    let measured = member.rtt_seconds.map(print::seconds);
    measured.or_else(|| Some(format!("~{}", print::seconds(member.rtt_estimate_seconds?))))
}
