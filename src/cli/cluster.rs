//! `shoal cluster`: the mesh as one node sees it.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::client::{ANSWER_DEADLINE, Client, Connection};
use super::print::{self, Table};
use super::{Failure, Output, Shown, client_of};
use crate::api::types::{Event, Gap, Leave, Member, NodeLeft, NumberedEvent, Ping, Pinged, Status};
use crate::core::ids::NodeId;
use crate::core::limits;

/// The subcommands of `shoal cluster`.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// List the nodes of the mesh
    #[command(after_help = "Examples:
  shoal cluster members
  shoal cluster members --where region=us-east --where gpu=yes -o json")]
    Members(MembersArgs),
    /// Show the state of a node and of its mesh
    #[command(after_help = "Example: shoal cluster status -o json")]
    Status(StatusArgs),
    /// Show events as they happen, until interrupted; exits 3 when the node goes away
    #[command(after_help = "Examples:
  shoal cluster watch
  shoal cluster watch --after 0 -o json     (all events that the node keeps, then new ones)")]
    Watch(WatchArgs),
    /// Measure round trips between the asked node and another
    #[command(after_help = "Example: shoal cluster ping node-2 --count 10")]
    Ping(PingArgs),
    /// Let a node leave the mesh for good: its agents end, it forgets the mesh and stops
    #[command(after_help = "Examples:
  shoal cluster leave                          (the node that is asked)
  shoal cluster leave --node node-3 --drain-timeout 10s")]
    Leave(LeaveArgs),
}

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

/// Arguments of `shoal cluster status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `shoal cluster watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Begin after the event with this number instead of with the next one
    #[arg(long, value_name = "NUMBER")]
    after: Option<u64>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `shoal cluster ping`.
#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// The other node
    node: NodeId,
    /// How many round trips
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::API_PINGS_MAX)))]
    count: u32,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `shoal cluster leave`.
#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// The node that leaves [default: the node that is asked]
    #[arg(long)]
    node: Option<NodeId>,
    /// How long its agents may take to finish what they have
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = super::message::span)]
    drain_timeout: Duration,
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

/// Does what the subcommand asks.
pub(super) async fn run(command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Members(args) => members(&args).await,
        ClusterCommand::Status(args) => status(&args).await,
        ClusterCommand::Watch(args) => watch(&args).await,
        ClusterCommand::Ping(args) => ping(args).await,
        ClusterCommand::Leave(args) => leave(args).await,
    }
}

async fn members(args: &MembersArgs) -> Result<(), Failure> {
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
        table.row(cells);
    }
    table.text()
}

/// The round trip over the link, or `~` and the estimate.
fn rtt(member: &Member) -> Option<String> {
    let measured = member.rtt_seconds.map(print::seconds);
    measured.or_else(|| Some(format!("~{}", print::seconds(member.rtt_estimate_seconds?))))
}

async fn status(args: &StatusArgs) -> Result<(), Failure> {
    let status: Status = client_of(&args.connection)?.get("/v1/cluster/status").await?;
    print::show(args.shown.output, &status, |status| {
        let nodes = status.nodes;
        let counts = [
            (nodes.alive, "alive"),
            (nodes.suspect, "suspect"),
            (nodes.failed, "failed"),
            (nodes.left, "left"),
        ];
        // Those alive are always worth a word.
        let counts = counts.iter().filter(|(count, word)| *count > 0 || *word == "alive");
        let counts: Vec<_> = counts.map(|(count, word)| format!("{count} {word}")).collect();
        print::pairs(&[
            ("Status", status.status.clone()),
            ("Node", status.node_id.to_string()),
            ("Mesh", print::or_nothing(status.mesh_id, |mesh| mesh.to_string())),
            ("Nodes", counts.join(", ")),
            ("Agents", status.agents.to_string()),
            ("Queued writes", print::or_nothing(status.queued_writes, |count| count.to_string())),
            ("Uptime", print::span(status.uptime_seconds as u64)),
            ("Version", status.version.clone()),
        ])
    })
}

async fn watch(args: &WatchArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let path = match args.after {
        Some(after) => format!("/v1/cluster/events?after={after}"),
        None => "/v1/cluster/events".to_owned(),
    };
    let mut events = client.events(&path).await?;
    loop {
        let sent = events.next().await?;
        let line = match args.shown.output {
            Output::Json => sent.data,
            Output::Table => event_line(&sent.name, &sent.data)?,
        };
        print::write_out(format!("{line}\n").as_bytes())?;
    }
}

fn event_line(name: &str, data: &str) -> Result<String, Failure> {
    let bad = |error| {
        Failure::Refused(format!("the node sent an event that this version does not understand: {error}"))
    };
    if name == "gap" {
        let Gap { after } = serde_json::from_str(data).map_err(bad)?;
        let after = print::or_nothing(after, |after| after.to_string());
        return Ok(format!("events after number {after} are no longer kept; it goes on with younger ones"));
    }
    let numbered: NumberedEvent = serde_json::from_str(data).map_err(bad)?;
    let told = match numbered.event {
        Event::Joined { mesh_id } => format!("joined  mesh {mesh_id}"),
        Event::Member { node, status, reason } => format!("member  {node}  {status}  {reason}"),
        Event::Agent { agent, node, state, reason } => {
            format!("agent   {agent}@{node}  {state}  {}", reason.unwrap_or_default())
        }
        Event::DuplicateNode { node, address } => {
            format!("duplicate  a second process claims to be {node}, from {address}")
        }
        Event::Refused { peer, reason } => format!("refused  {peer}  {reason}"),
        Event::Unknown => data.to_owned(),
    };
    Ok(print::visible(&format!("{}  {}  {told}", print::time(numbered.unix_ms), numbered.sequence))
        .trim_end()
        .to_owned())
}

async fn ping(args: PingArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let Pinged { node, seconds } = round_trips(&client, args.node, args.count).await?;
    let pinged = Pinged { node, seconds };
    print::show(args.shown.output, &pinged, |Pinged { node, seconds }| {
        let lines = seconds.iter().map(|took| format!("answer from {node} in {}\n", print::seconds(*took)));
        let (least, most) = seconds.iter().fold((f64::MAX, 0.0_f64), |(l, m), s| (l.min(*s), m.max(*s)));
        let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
        let [least, mean, most] = [least, mean, most].map(print::seconds);
        lines.chain([format!("round trips: least {least}, mean {mean}, most {most}\n")]).collect()
    })
}

/// Each round trip is a request of its own, so that none has to wait for the time of all.
async fn round_trips(client: &Client, node: NodeId, count: u32) -> Result<Pinged, Failure> {
    let mut seconds = Vec::new();
    for _ in 0..count {
        let ping = Ping { node: node.clone(), count: 1 };
        let pinged: Pinged = client.post("/v1/cluster/ping", &ping, ANSWER_DEADLINE).await?;
        seconds.extend(pinged.seconds);
    }
    Ok(Pinged { node, seconds })
}

async fn leave(args: LeaveArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let drain_ms = u64::try_from(args.drain_timeout.as_millis()).unwrap_or(u64::MAX);
    let leave = Leave { node: args.node, drain_ms };
    let within = args.drain_timeout + ANSWER_DEADLINE;
    let left: NodeLeft = client.post("/v1/cluster/leave", &leave, within).await?;
    print::show(args.shown.output, &left, |left| format!("{} has left the mesh and stopped\n", left.node))
}
