//! `shoal why`: the causal chain behind the present state of a node, from what the asked node has seen and,
//! if wanted, from what the others have.
//!
//! It tells what was recorded and concludes nothing from it but where the chain begins: after the last time
//! that the node was in a settled state before the present one.

use clap::Args;
use serde::Serialize;

use super::client::{Client, Connection};
use super::print;
use super::{Failure, Shown, client_of};
use crate::api::types::{Agent, Event, Found, History, HistoryEntry, Member, Status};
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::node::clock;

/// Entries of a chain that are shown: the last ones.
const CHAIN_MAX: usize = 60;

/// Arguments of `shoal why`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  shoal why node-3
  shoal why node-3 --all-nodes           (also what every other node has seen)
  shoal why echo                         (an agent: its state, and its node's)")]
pub(crate) struct WhyArgs {
    /// The node, or an agent
    #[arg(value_name = "NODE")]
    what: String,
    /// Ask every node that can be reached what it has seen
    #[arg(long)]
    all_nodes: bool,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// What one node has seen of another.
#[derive(Debug, Serialize)]
struct Seen {
    by: NodeId,
    /// What it is there, by the last event; null when none is kept.
    status: Option<String>,
    since_unix_ms: Option<u64>,
    reason: Option<String>,
    /// The chain, oldest first.
    entries: Vec<HistoryEntry>,
    /// Why it could not be asked.
    error: Option<String>,
}

/// The answer, as JSON.
#[derive(Debug, Serialize)]
struct Answer {
    node: NodeId,
    /// What it is for the asked node; null for one that is no member.
    status: Option<String>,
    seen: Vec<Seen>,
}

/// The state of an agent, as JSON.
#[derive(Debug, Serialize)]
struct AgentAnswer {
    agent: String,
    instances: Vec<Agent>,
    /// The node that has seen this: that of the agent, or the asked one where there are several.
    seen_by: NodeId,
    /// What it has seen of agents of that name, oldest first.
    entries: Vec<HistoryEntry>,
}

/// Explains.
pub(super) async fn run(args: &WhyArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let members: Vec<Member> = client.get("/v1/cluster/members").await?;
    let node = NodeId::new(&args.what);
    if let Ok(node) = &node {
        let member = members.iter().find(|member| member.node_id == *node);
        let own = ask(&client, node, None).await?;
        if member.is_some() || !own.entries.is_empty() {
            return explain_node(args, &client, &members, node, own).await;
        }
    }
    if let Ok(agent) = AgentName::new(&args.what) {
        let agents: Vec<Agent> = client.get("/v1/agents").await?;
        let instances: Vec<_> = agents.into_iter().filter(|found| found.name == agent).collect();
        if !instances.is_empty() {
            return explain_agent(args, &client, &agent, instances).await;
        }
    }
    Err(Failure::Refused(format!(
        "no node and no agent named {:?} is known: see `shoal cluster members` and `shoal agent list` (for a message: \
         `shoal message trace ID`, for a ticket: `shoal state ticket ID`)",
        args.what
    )))
}

async fn ask(client: &Client, node: &NodeId, by: Option<&NodeId>) -> Result<History, Failure> {
    let by = by.map(|by| format!("&seen_by={by}")).unwrap_or_default();
    client.get(&format!("/v1/history?node={node}&limit={}{by}", limits::HISTORY_PAGE_MAX)).await
}

async fn explain_node(
    args: &WhyArgs,
    client: &Client,
    members: &[Member],
    node: &NodeId,
    own: History,
) -> Result<(), Failure> {
    let asked = own.node_id.clone();
    let member = members.iter().find(|member| member.node_id == *node);
    let status = member.map(|member| member.status.clone());
    let mut seen = vec![seen(own, status.as_deref())];
    if args.all_nodes {
        let is_other = |m: &&Member| m.node_id != asked && (m.status == "alive" || m.status == "suspect");
        for other in members.iter().filter(is_other) {
            let by = &other.node_id;
            seen.push(match ask(client, node, Some(by)).await {
                Ok(history) => self::seen(history, None),
                Err(error) => Seen::unknown(by.clone(), error.to_string()),
            });
        }
    }
    let uptime = if *node == asked {
        let status: Status = client.get("/v1/cluster/status").await?;
        Some(status.uptime_seconds)
    } else {
        None
    };
    let answer = Answer { node: node.clone(), status, seen };
    print::show(args.shown.output, &answer, |answer| told(answer, uptime, clock::unix_ms()))
}

/// The chain behind a status; where none is given, behind the last one that the history tells of.
fn seen(history: History, status: Option<&str>) -> Seen {
    let entries: Vec<_> = history.entries.into_iter().filter(|entry| !is_of_agent(entry)).collect();
    let last = entries.iter().rev().find_map(|entry| Some(status_of(entry)?.to_owned()));
    let status = status.map(str::to_owned).or(last);
    let since = status.as_deref().and_then(|status| since(&entries, status));
    Seen {
        by: history.node_id,
        since_unix_ms: since.map(|since| since.unix_ms),
        reason: since.and_then(reason_of),
        entries: chain(&entries, since),
        status,
        error: None,
    }
}

impl Seen {
    fn unknown(by: NodeId, error: String) -> Self {
        Self { by, status: None, since_unix_ms: None, reason: None, entries: Vec::new(), error: Some(error) }
    }
}

/// The entry with which the present status began: the last event of a member that has it, unless a later
/// one says otherwise. One of an earlier process of the asked node counts: it still held when that stopped.
pub(super) fn since<'a>(entries: &'a [HistoryEntry], status: &str) -> Option<&'a HistoryEntry> {
    let last = entries.iter().rev().find(|entry| status_of(entry).is_some())?;
    (status_of(last) == Some(status)).then_some(last)
}

/// What led to `since` and what came after it: everything after the settled state before it.
fn chain(entries: &[HistoryEntry], since: Option<&HistoryEntry>) -> Vec<HistoryEntry> {
    let place = since.and_then(|since| entries.iter().position(|entry| entry.sequence == since.sequence));
    let before = place.map_or(&entries[..0], |place| &entries[..place]);
    let is_settled = |entry: &HistoryEntry| status_of(entry).is_some_and(|status| status != "suspect");
    let begin = match place {
        Some(_) => before.iter().rposition(is_settled).unwrap_or(0),
        None => 0,
    };
    let chain = &entries[begin..];
    chain[chain.len().saturating_sub(CHAIN_MAX)..].to_vec()
}

fn is_of_agent(entry: &HistoryEntry) -> bool {
    matches!(entry.event, Some(Event::Agent { .. }))
}

fn status_of(entry: &HistoryEntry) -> Option<&str> {
    match &entry.event {
        Some(Event::Member { status, .. }) => Some(status),
        Some(_) | None => None,
    }
}

fn reason_of(entry: &HistoryEntry) -> Option<String> {
    match &entry.event {
        Some(Event::Member { reason, .. }) => Some(reason.clone()),
        Some(_) | None => None,
    }
}

/// The text for people; `now` in milliseconds since 1970.
fn told(answer: &Answer, uptime: Option<f64>, now: u64) -> String {
    let node = &answer.node;
    let mut text = String::new();
    for (place, seen) in answer.seen.iter().enumerate() {
        if place > 0 {
            text += "\n";
        }
        text += &print::visible(&match (&seen.error, place, uptime) {
            (Some(error), ..) => format!("{}: {error}", seen.by),
            (None, 0, Some(uptime)) => {
                format!("{node} is the asked node: it answers, and runs since {}", print::span(uptime as u64))
            }
            (None, 0, None) => headline(node, seen, now),
            (None, ..) => format!("seen by {}: {}", seen.by, headline(node, seen, now)),
        });
        text += "\n";
        text.extend(seen.entries.iter().map(|entry| format!("  {}", dated_line(entry, &seen.by))));
    }
    text
}

fn headline(node: &NodeId, seen: &Seen, now: u64) -> String {
    let Some(status) = &seen.status else {
        return format!("{node} is no member, and nothing of it is kept");
    };
    match seen.since_unix_ms {
        Some(since) => {
            let ago = print::span(now.saturating_sub(since) / 1000);
            let reason = seen.reason.as_deref().unwrap_or(print::NOTHING);
            format!("{node} is {status} since {} ({ago} ago): {reason}", print::time(since))
        }
        None => format!("{node} is {status}; since when is not kept"),
    }
}

/// One entry with its time, as a line.
pub(super) fn dated_line(entry: &HistoryEntry, by: &NodeId) -> String {
    print::visible(&format!("{}  {}", print::time(entry.unix_ms), line(entry, by))) + "\n"
}

/// One entry in words.
fn line(entry: &HistoryEntry, by: &NodeId) -> String {
    match (&entry.event, &entry.finding) {
        (Some(event), _) => event_line(event),
        (None, Some(finding)) => found_line(&finding.found, by),
        (None, None) => "an entry that this version does not understand".to_owned(),
    }
}

fn event_line(event: &Event) -> String {
    match event {
        Event::Joined { mesh_id } => format!("the asked node found its mesh {mesh_id}"),
        Event::Member { status, reason, .. } => format!("=> {status}: {reason}"),
        Event::Agent { agent, node, state, reason } => {
            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("agent {agent} on {node} is {state}{reason}")
        }
        Event::Breaker { agent, node, state, reason } => {
            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("the breaker of agent {agent} on {node} is {state}{reason}")
        }
        Event::LaunchHeld { agent, node, phase } => {
            format!("phase {phase} of {node} is held up: {agent} has failed and is not optional")
        }
        Event::DuplicateNode { address, .. } => {
            format!("a second process claimed its name from {address} and was refused")
        }
        Event::Mode { from, to, reason } => format!("mode {from} -> {to}: {reason}"),
        Event::Ticket { ticket, key, outcome, reason } => {
            let why = reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("queued write {ticket} to {key} {outcome}{why}")
        }
        Event::Ordered { agent, from, to, why } => ordered_line(agent, from.as_ref(), to.as_ref(), why),
        Event::Settled { agents, took_ms } => settled_line(*agents, *took_ms),
        Event::Rollout { blueprint, version, what } => rollout_line(blueprint, *version, what),
        Event::Roster { epoch, voters, members } => {
            let voters: Vec<_> = voters.iter().map(|node| node.as_str()).collect();
            format!("roster {epoch}: {members} members, voters {}", voters.join(", "))
        }
        Event::Refused { peer, reason } => format!("{peer} was refused: {reason}"),
        Event::Unknown => "an event that this version does not know".to_owned(),
    }
}

/// `web#3 -> node-1, from node-2: node-2 is gone`
pub(super) fn ordered_line(
    agent: &AgentName,
    from: Option<&NodeId>,
    to: Option<&NodeId>,
    why: &str,
) -> String {
    match (from, to) {
        (Some(from), Some(to)) if from != to => format!("{agent} -> {to}, from {from}: {why}"),
        (_, Some(to)) => format!("{agent} -> {to}: {why}"),
        (_, None) => format!("{agent} is to end: {why}"),
    }
}

pub(super) fn settled_line(agents: u32, took_ms: u64) -> String {
    let took = took_ms as f64 / 1e3;
    format!("done: {agents} ordered, all that is wanted runs ({took:.1} s)")
}

pub(super) fn rollout_line(blueprint: &AgentName, version: u64, what: &str) -> String {
    format!("{blueprint} version {version}: {what}")
}

fn found_line(found: &Found, by: &NodeId) -> String {
    match found {
        Found::Alive => "it was heard of".to_owned(),
        Found::Restarted => "its process was started again".to_owned(),
        Found::ProbeMissed { waited_ms, helpers, nacks } => format!(
            "it did not answer {by}'s probe within {waited_ms} ms; {helpers} others were asked to reach it, \
             {nacks} of them said that they could not"
        ),
        Found::Hint { sign } => format!("a sign that it may be gone, and it was called at once: {sign}"),
        Found::Accused { by: accuser } => format!("{accuser} suspects it, from a probe of its own"),
        Found::Confirmed { by: other, so_far, wanted } => {
            format!(
                "{other} could not reach it either: confirmation {so_far} of {wanted} that shorten the wait"
            )
        }
        Found::Refuted => "it answered for itself".to_owned(),
        Found::Failed { by: judge, suspected_ms, confirmations } => {
            let judge = judge.as_ref().map_or("others".to_owned(), ToString::to_string);
            format!(
                "the verdict failed by {judge}: suspected here for {suspected_ms} ms, {confirmations} confirmations"
            )
        }
        Found::Left => "it said good-bye".to_owned(),
        Found::Expelled { reason } => format!("it was expelled: {reason}"),
        Found::Linked { address } => format!("connected, at {address}"),
        Found::LinkLost { reason } => format!("the connection ended: {reason}"),
        Found::Unknown => "something that this version does not know".to_owned(),
    }
}

async fn explain_agent(
    args: &WhyArgs,
    client: &Client,
    agent: &AgentName,
    instances: Vec<Agent>,
) -> Result<(), Failure> {
    // The node of an agent knows best; of several, and of one that cannot be asked, the asked node tells.
    let host = match &instances[..] {
        [only] if only.reachable => format!("&seen_by={}", only.node),
        _ => String::new(),
    };
    let path = format!("/v1/history?agent={}&limit={CHAIN_MAX}", agent.as_str().replace('#', "%23"));
    let history: History = match client.get(&format!("{path}{host}")).await {
        Ok(history) => history,
        Err(_) => client.get(&path).await?,
    };
    let (seen_by, entries) = (history.node_id, history.entries);
    let answer = AgentAnswer { agent: agent.to_string(), instances, seen_by, entries };
    print::show(args.shown.output, &answer, |answer| {
        let mut text = String::new();
        for instance in &answer.instances {
            let Agent { name, node, state, .. } = instance;
            let reason = instance.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            text += &print::visible(&match instance.reachable {
                true => format!("agent {name} on {node} is {state}{reason}"),
                false => format!(
                    "agent {name} is not reachable because {node} is not: it was {state} there; see `shoal why {node}`"
                ),
            });
            text += "\n";
        }
        text.extend(answer.entries.iter().map(|entry| format!("  {}", dated_line(entry, &answer.seen_by))));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Finding;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn member(sequence: u64, status: &str, reason: &str) -> HistoryEntry {
        let event =
            Event::Member { node: node("node-3"), status: status.to_owned(), reason: reason.to_owned() };
        HistoryEntry { sequence, unix_ms: sequence * 1000, event: Some(event), finding: None }
    }

    fn found(sequence: u64, found: Found) -> HistoryEntry {
        let finding = Finding { node: node("node-3"), incarnation: 1, found };
        HistoryEntry { sequence, unix_ms: sequence * 1000, event: None, finding: Some(finding) }
    }

    fn history(entries: Vec<HistoryEntry>) -> History {
        History { node_id: node("node-1"), oldest: Some(1), dropped: 0, entries }
    }

    #[test]
    fn the_chain_begins_with_the_settled_state_before_and_its_first_line_is_the_present_state() {
        let entries = vec![
            member(1, "alive", "it joined"),
            member(2, "failed", "an old story"),
            member(3, "alive", "it came back"),
            found(4, Found::ProbeMissed { waited_ms: 400, helpers: 3, nacks: 2 }),
            member(5, "suspect", "it missed a probe"),
            found(6, Found::Confirmed { by: node("node-2"), so_far: 1, wanted: 2 }),
            found(7, Found::Failed { by: Some(node("node-2")), suspected_ms: 900, confirmations: 1 }),
            member(8, "failed", "it did not refute in time"),
            found(9, Found::LinkLost { reason: "closed".to_owned() }),
        ];
        let seen = seen(history(entries), Some("failed"));
        let numbers: Vec<_> = seen.entries.iter().map(|entry| entry.sequence).collect();
        assert_eq!(numbers, [3, 4, 5, 6, 7, 8, 9]);
        let answer = Answer { node: node("node-3"), status: Some("failed".to_owned()), seen: vec![seen] };
        let text = told(&answer, None, 8_000 + 240_000);
        let first = text.lines().next().expect("a line");
        assert_eq!(
            first,
            "node-3 is failed since 1970-01-01T00:00:08.000Z (4m ago): it did not refute in time"
        );
        assert!(text.contains("within 400 ms; 3 others were asked to reach it, 2 of them"), "{text}");
        assert!(text.contains("node-2 could not reach it either: confirmation 1 of 2"), "{text}");
        assert!(text.contains("the verdict failed by node-2: suspected here for 900 ms"), "{text}");
    }

    #[test]
    fn a_status_that_the_history_does_not_tell_of_has_no_time() {
        let seen = seen(history(vec![member(1, "alive", "it joined")]), Some("failed"));
        assert_eq!((seen.since_unix_ms, seen.reason.clone()), (None, None));
        assert_eq!(headline(&node("node-3"), &seen, 0), "node-3 is failed; since when is not kept");
        let unheard = self::seen(history(Vec::new()), None);
        assert_eq!(unheard.status, None);
    }
}
