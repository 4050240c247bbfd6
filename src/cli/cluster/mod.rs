//! `shoal cluster`: the mesh as one node sees it, and what its nodes measure.
//!
//! - `reach` and `trouble` conclude from the nodes' reports, as pure functions; `reports` fetches those
//! - `roster` shows and changes who should exist and who votes; `partition` tells who reaches whom
//! - `performance` shows what messages and starts take
//! - `doctor`, `health`, `auth`, `analyze`, `info` show different parts of it

mod analyze;
mod auth;
mod doctor;
mod health;
mod info;
mod members;
mod partition;
mod performance;
mod ping;
mod reach;
mod reports;
mod roster;
#[cfg(test)]
mod tests;
mod trouble;
mod watch;

use std::time::Duration;

use clap::{Args, Subcommand};

use super::client::{ANSWER_DEADLINE, Connection};
use super::print;
use super::{Failure, Shown, blueprint, client_of};
use crate::api::types::{Leave, NodeLeft, Status};
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;

/// The subcommands of `shoal cluster`.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// List the nodes of the mesh
    #[command(after_help = "Examples:
  shoal cluster members
  shoal cluster members --where region=us-east --where gpu=yes -o json")]
    Members(members::MembersArgs),
    /// Show the state of a node and of its mesh
    #[command(after_help = "Example: shoal cluster status -o json")]
    Status(StatusArgs),
    /// Show events as they happen, until interrupted; exits 3 when the node goes away
    #[command(after_help = "Examples:
  shoal cluster watch
  shoal cluster watch --after 0 -o json     (all events that the node keeps, then new ones)")]
    Watch(watch::WatchArgs),
    /// Measure round trips between the asked node and another, and the path that they take; exits 1 when none
    /// comes back
    #[command(after_help = "Example: shoal cluster ping node-2 --count 10")]
    Ping(ping::PingArgs),
    /// Show all about one node: what it says of itself, its link, its certificate, its clock
    #[command(after_help = "Examples:
  shoal cluster info node-2
  shoal cluster info node-2 -o json")]
    Info(info::InfoArgs),
    /// Show one line a node with what matters; exits 1 when something is wrong
    #[command(after_help = "Examples:
  shoal cluster health
  shoal cluster health --watch                 (every 2 seconds, until interrupted)")]
    Health(health::HealthArgs),
    /// Ask all nodes what they measure and find out who does not reach whom and what else is wrong; exits 1
    /// when there is a problem
    #[command(after_help = "Examples:
  shoal cluster doctor
  shoal cluster doctor -o json")]
    Doctor(doctor::DoctorArgs),
    /// Advise what to change, from measurements alone; silent where there is nothing to change
    #[command(after_help = "Example: shoal cluster analyze")]
    Analyze(analyze::AnalyzeArgs),
    /// Measure what a message takes on this node and to a peer, and what a WASM agent takes to start; exits 1 when a target
    /// is missed
    #[command(after_help = "Examples:
  shoal cluster performance
  shoal cluster performance --peer node-2 -o json")]
    Performance(performance::PerformanceArgs),
    /// Check the certificates, the CAs and the clocks of all nodes; exits 1 when something is wrong
    #[command(after_help = "Example: shoal cluster verify-auth")]
    VerifyAuth(auth::AuthArgs),
    /// Find out who reaches whom: the sides, who is on each, and which is the majority; exits 1 when the mesh is parted or
    /// cannot be told from one that is
    #[command(after_help = "Example: shoal cluster detect-partition")]
    DetectPartition(partition::PartitionArgs),
    /// Show which nodes should exist, which of them vote, and what counts as a quorum
    #[command(after_help = "Example: shoal cluster roster -o json")]
    Roster(roster::RosterArgs),
    /// Change a setting of the roster, in the whole mesh
    #[command(after_help = "Examples:
  shoal cluster set quorum_size=4
  shoal cluster set tie_breaker=node-1
  shoal cluster set quorum_size=2 --allow-split-writes     (two sides may then write at once)")]
    Set(roster::SetArgs),
    /// Take a node that is gone for good out of the roster; on return it rejoins as a stranger would
    #[command(after_help = "Example: shoal cluster remove --node node-3")]
    Remove(roster::RemoveArgs),
    /// Finish a change of the roster that is stuck, or overrule a lost quorum
    #[command(after_help = "Examples:
  shoal cluster resolve --strategy quorum
  shoal cluster resolve --strategy force --reason 'site B burnt down'")]
    Resolve(roster::ResolveArgs),
    /// Compare the state with every node that the asked one reaches, now, and exchange what differs
    #[command(after_help = "Examples:
  shoal cluster reconcile
  shoal cluster reconcile --force")]
    Reconcile(roster::ReconcileArgs),
    /// Move what a node has by blueprints to others, and give it nothing more; agents deployed by hand stay
    #[command(after_help = "Example: shoal cluster drain node-3")]
    Drain(blueprint::DrainArgs),
    /// Let a node that was drained have instances again
    #[command(after_help = "Example: shoal cluster undrain node-3")]
    Undrain(blueprint::DrainArgs),
    /// Move instances from full nodes to empty ones
    #[command(after_help = "Examples:
  shoal cluster rebalance --dry-run
  shoal cluster rebalance --max-moves 5")]
    Rebalance(blueprint::RebalanceArgs),
    /// Let a node leave the mesh for good: its agents end, it forgets the mesh and stops
    #[command(after_help = "Examples:
  shoal cluster leave                          (the node that is asked)
  shoal cluster leave --node node-3 --drain-timeout 10s")]
    Leave(LeaveArgs),
}

/// Arguments of `shoal cluster status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
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
    /// How long the instances of blueprints may take to go elsewhere, and with what is left of that its agents to finish what
    /// they have
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = super::message::span)]
    drain_timeout: Duration,
    /// Leave at once, also when the others lack writes that this node has, or cannot agree to go on without it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Does what the subcommand asks.
pub(super) async fn run(command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Members(args) => members::run(&args).await,
        ClusterCommand::Status(args) => status(&args).await,
        ClusterCommand::Watch(args) => watch::run(&args).await,
        ClusterCommand::Ping(args) => ping::run(args).await,
        ClusterCommand::Info(args) => info::run(&args).await,
        ClusterCommand::Health(args) => health::run(&args).await,
        ClusterCommand::Doctor(args) => doctor::run(&args).await,
        ClusterCommand::Analyze(args) => analyze::run(&args).await,
        ClusterCommand::Performance(args) => performance::run(args).await,
        ClusterCommand::VerifyAuth(args) => auth::run(&args).await,
        ClusterCommand::DetectPartition(args) => partition::run(&args).await,
        ClusterCommand::Drain(args) => blueprint::drain(&args, true).await,
        ClusterCommand::Undrain(args) => blueprint::drain(&args, false).await,
        ClusterCommand::Rebalance(args) => blueprint::rebalance(&args).await,
        ClusterCommand::Roster(args) => roster::show(&args).await,
        ClusterCommand::Set(args) => roster::set(args).await,
        ClusterCommand::Remove(args) => roster::remove(args).await,
        ClusterCommand::Resolve(args) => roster::resolve(args).await,
        ClusterCommand::Reconcile(args) => roster::reconcile(&args).await,
        ClusterCommand::Leave(args) => leave(args).await,
    }
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
            ("Mode", mode(status)),
            ("Node", status.node_id.to_string()),
            ("Mesh", print::or_nothing(status.mesh_id, |mesh| mesh.to_string())),
            ("Nodes", counts.join(", ")),
            ("Agents", status.agents.to_string()),
            ("Queued writes", print::or_nothing(status.queued_writes, |count| count.to_string())),
            ("Lease holder", print::or_nothing(status.lease_holder.as_ref(), ToString::to_string)),
            ("Uptime", print::span(status.uptime_seconds as u64)),
            ("Version", status.version.clone()),
        ])
    })
}

/// `degraded for 12.00s: 1 of 3 voters are heard, 2 are needed`.
fn mode(status: &Status) -> String {
    let Some(mode) = &status.mode else {
        return print::NOTHING.to_owned();
    };
    let age = status.age_seconds.map(|age| format!(" for {}", print::seconds(age))).unwrap_or_default();
    let reason = if status.reason.is_empty() { String::new() } else { format!(": {}", status.reason) };
    format!("{mode}{age}{reason}")
}

async fn leave(args: LeaveArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let drain_ms = u64::try_from(args.drain_timeout.as_millis()).unwrap_or(u64::MAX);
    let leave = Leave { node: args.node, drain_ms, force: args.force };
    let within = args.drain_timeout + limits::LEAVE_DEADLINE + ANSWER_DEADLINE;
    let left: NodeLeft = client.post("/v1/cluster/leave", &leave, within).await?;
    print::show(args.shown.output, &left, |left| {
        let mut text = format!("{} has left the mesh and stopped\n", left.node);
        if left.left_behind_total > 0 {
            let names: Vec<_> = left.left_behind.iter().map(AgentName::as_str).collect();
            let more = (left.left_behind_total as usize).saturating_sub(names.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            text.push_str(&format!("ended before they ran elsewhere: {}{more}\n", names.join(", ")));
        }
        text
    })
}
