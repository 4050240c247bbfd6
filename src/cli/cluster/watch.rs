//! `shoal cluster watch`: events as they happen, one a line.

use clap::Args;

use crate::api::types::{Event, Gap, NumberedEvent};
use crate::cli::client::Connection;
use crate::cli::print;
use crate::cli::{Failure, Output, Shown, client_of, why};

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

/// Follows the events until the node goes away.
pub(super) async fn run(args: &WatchArgs) -> Result<(), Failure> {
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
        Event::Breaker { agent, node, state, reason } => {
            format!("breaker  {agent}@{node}  {state}  {}", reason.unwrap_or_default())
        }
        Event::LaunchHeld { agent, node, phase } => {
            format!("launch  phase {phase} of {node} is held up: {agent} has failed and is not optional")
        }
        Event::DuplicateNode { node, address } => {
            format!("duplicate  a second process claims to be {node}, from {address}")
        }
        Event::Refused { peer, reason } => format!("refused  {peer}  {reason}"),
        Event::Mode { from, to, reason } => format!("mode  {from} -> {to}  {reason}"),
        Event::Ticket { ticket, key, outcome, reason } => {
            format!("ticket  {ticket}  {key}  {outcome}  {}", reason.unwrap_or_default())
        }
        Event::Ordered { agent, from, to, why } => {
            format!("order  {}", why::ordered_line(&agent, from.as_ref(), to.as_ref(), &why))
        }
        Event::Settled { agents, took_ms } => format!("order  {}", why::settled_line(agents, took_ms)),
        Event::Rollout { blueprint, version, what } => {
            format!("rollout  {}", why::rollout_line(&blueprint, version, &what))
        }
        Event::Roster { epoch, voters, members } => {
            let voters: Vec<_> = voters.iter().map(|node| node.as_str()).collect();
            format!("roster  {epoch}  {members} members, voters {}", voters.join(", "))
        }
        Event::Unknown => data.to_owned(),
    };
    Ok(print::visible(&format!("{}  {}  {told}", print::time(numbered.unix_ms), numbered.sequence))
        .trim_end()
        .to_owned())
}
