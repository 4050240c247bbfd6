//! `shoal cluster`: the mesh as one node sees it, and what its nodes measure.
//!
//! - `reach` and `trouble` conclude from the nodes' reports, as pure functions; `reports` fetches those
//! - `doctor`, `health`, `auth`, `analyze`, `info` show different parts of it

mod analyze;
mod auth;
mod doctor;
mod health;
mod info;
mod members;
mod ping;
mod reach;
mod reports;
#[cfg(test)]
mod tests;
mod trouble;
mod watch;

use std::time::Duration;

use clap::{Args, Subcommand};

use super::client::{ANSWER_DEADLINE, Connection};
use super::print;
use super::{Failure, Shown, client_of};
use crate::api::types::{Leave, NodeLeft, Status};
use crate::core::ids::NodeId;

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
    /// Check the certificates, the CAs and the clocks of all nodes; exits 1 when something is wrong
    #[command(after_help = "Example: shoal cluster verify-auth")]
    VerifyAuth(auth::AuthArgs),
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
    /// How long its agents may take to finish what they have
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = super::message::span)]
    drain_timeout: Duration,
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
        ClusterCommand::VerifyAuth(args) => auth::run(&args).await,
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

async fn leave(args: LeaveArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let drain_ms = u64::try_from(args.drain_timeout.as_millis()).unwrap_or(u64::MAX);
    let leave = Leave { node: args.node, drain_ms };
    let within = args.drain_timeout + ANSWER_DEADLINE;
    let left: NodeLeft = client.post("/v1/cluster/leave", &leave, within).await?;
    print::show(args.shown.output, &left, |left| format!("{} has left the mesh and stopped\n", left.node))
}
