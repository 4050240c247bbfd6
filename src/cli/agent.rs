//! `shoal agent`: the agents of the mesh.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::agent_graph::{self, GraphArgs};
use super::client::Connection;
use super::print::{self, Table};
use super::{Failure, Shown, blueprint, client_of, why};
use crate::api::types::{
    Agent, AgentInfo, AgentRef, Check, History, InstanceLife, Logs, OrderedBy, Protocol, RestartAgent,
    Source, Tool, WasmSource,
};
use crate::core::ids::{AgentName, NodeId, Tag};
use crate::core::limits;
use crate::core::model::Target;

/// How long a node is given to start an agent anew, and the way there and back.
const RESTART_DEADLINE: Duration = limits::RESTART_DEADLINE.saturating_add(Duration::from_secs(5));

/// The subcommands of `shoal agent`.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// List the agents of the mesh
    #[command(after_help = "Example: shoal agent list --node node-2")]
    List(ListArgs),
    /// Show what is known of an agent
    #[command(after_help = "Example: shoal agent info echo -o json")]
    Info(OneArgs),
    /// Show the last lines that an agent has logged
    #[command(after_help = "Example: shoal agent logs upper --lines 20")]
    Logs(LogsArgs),
    /// Show what its node has kept of an agent: its states, each with its cause
    #[command(after_help = "Example: shoal agent history upper --limit 20")]
    History(HistoryArgs),
    /// Show which agents of the mesh depend on which
    #[command(after_help = "Example: shoal agent graph -o dot | dot -Tsvg > agents.svg")]
    Graph(GraphArgs),
    /// Start an agent anew: it finishes what it has first
    #[command(after_help = "Example: shoal agent restart upper --node node-2")]
    Restart(OneArgs),
    /// Start an agent that is in quarantine, because it came to its end too often
    #[command(after_help = "Example: shoal agent release upper")]
    Release(OneArgs),
    /// Have so many instances of a blueprint
    #[command(after_help = "Examples:
  shoal agent scale web 5
  shoal agent scale log per-node")]
    Scale(blueprint::ScaleArgs),
    /// Go back to a former version of a blueprint, at once
    #[command(after_help = "Examples:
  shoal agent rollback web
  shoal agent rollback web --to-version 3")]
    Rollback(blueprint::RollBackArgs),
    /// Show how far an update has come, pause it, go on with it
    #[command(subcommand)]
    Rollout(blueprint::RolloutCommand),
    /// Stop an agent for good: it finishes what it has and is forgotten
    #[command(after_help = "Example: shoal agent stop upper --node node-2")]
    Stop(OneArgs),
}

/// Arguments of `shoal agent list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only agents on this node
    #[arg(long)]
    node: Option<NodeId>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of the commands that are about one agent.
#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// The agent
    name: AgentName,
    /// Its node; needed where several nodes have an agent of that name
    #[arg(long)]
    node: Option<NodeId>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `shoal agent logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    one: OneArgs,
    /// How many lines at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=limits::AGENT_LOG_LINES_MAX as i64))]
    lines: u32,
}

/// Arguments of `shoal agent history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    one: OneArgs,
    /// How many entries at most: the last ones
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=limits::HISTORY_PAGE_MAX as i64))]
    limit: u32,
}

/// Does what the subcommand asks.
pub(super) async fn run(command: AgentCommand) -> Result<(), Failure> {
    match command {
        AgentCommand::List(args) => list(&args).await,
        AgentCommand::Info(args) => info(&args).await,
        AgentCommand::Logs(args) => logs(&args).await,
        AgentCommand::History(args) => history(&args).await,
        AgentCommand::Graph(args) => agent_graph::run(&args).await,
        AgentCommand::Restart(args) => restart(&args, false).await,
        AgentCommand::Release(args) => restart(&args, true).await,
        AgentCommand::Scale(args) => blueprint::scale(&args).await,
        AgentCommand::Rollback(args) => blueprint::roll_back(&args).await,
        AgentCommand::Rollout(command) => blueprint::rollout(command).await,
        AgentCommand::Stop(args) => stop(&args).await,
    }
}

/// Of the characters of both names only the '#' before the number of a slot needs an escape in a URL.
fn path_of(name: &AgentName, below: &str, node: Option<&NodeId>, query: &[String]) -> String {
    let node = node.map(|node| format!("node={node}"));
    let query: Vec<_> = node.into_iter().chain(query.iter().cloned()).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    let name = name.as_str().replace('#', "%23");
    format!("/v1/agents/{name}{below}{mark}{}", query.join("&"))
}

async fn list(args: &ListArgs) -> Result<(), Failure> {
    let path = match &args.node {
        Some(node) => format!("/v1/agents?node={node}"),
        None => "/v1/agents".to_owned(),
    };
    let agents: Vec<Agent> = client_of(&args.connection)?.get(&path).await?;
    print::show(args.shown.output, &agents, |agents| {
        let mut heads = vec!["NAME", "NODE", "KIND", "STATE", "RESTARTS", "REASON"];
        let is_checked = agents.iter().any(|agent| agent.health.is_some());
        if is_checked {
            heads.insert(4, "HEALTH");
        }
        let has_offers = agents.iter().any(|agent| !offers(agent).is_empty());
        if has_offers {
            heads.push("OFFERS");
        }
        let mut table = Table::new(&heads);
        for agent in agents {
            // What a node that is gone last said of its agent is not what the agent is.
            let state = if agent.reachable { agent.state.clone() } else { "unreachable".to_owned() };
            // Of one that runs and is not asked, that is the news.
            let is_refusing = agent.breaker_why.is_some() && state == "running";
            let breaker = agent.breaker_state.as_deref().filter(|_| is_refusing);
            let state =
                breaker.map_or_else(|| state.clone(), |breaker| format!("{state}, breaker {breaker}"));
            let reasons = [&agent.reason, &agent.health_why, &agent.breaker_why];
            let reason = reasons.into_iter().flatten().next();
            let mut cells = vec![
                agent.name.to_string(),
                agent.node.to_string(),
                agent.kind.clone(),
                state,
                agent.restarts.to_string(),
                print::or_nothing(reason.cloned(), |reason| reason),
            ];
            if is_checked {
                cells.insert(4, print::or_nothing(agent.health.clone(), |health| health));
            }
            if has_offers {
                cells.push(print::or_dash(&offers(agent)));
            }
            table.row(cells);
        }
        table.text()
    })
}

/// As messages name it: `cap:resize topic:orders`.
fn offers(agent: &Agent) -> String {
    let capabilities = agent.capabilities.iter().cloned().map(Target::Capability);
    let topics = agent.topics.iter().cloned().map(Target::Topic);
    capabilities.chain(topics).map(|target| target.to_string()).collect::<Vec<_>>().join(" ")
}

async fn info(args: &OneArgs) -> Result<(), Failure> {
    let path = path_of(&args.name, "", args.node.as_ref(), &[]);
    let info: AgentInfo = client_of(&args.connection)?.get(&path).await?;
    print::show(args.shown.output, &info, |info| {
        let (kind, source) = describe(&info.source);
        let balance = serde_json::to_value(info.balance).unwrap_or_default();
        print::pairs(&[
            ("Name", info.name.to_string()),
            ("Node", info.node.to_string()),
            ("Kind", kind.to_owned()),
            ("Source", source),
            ("Deployed by", deployed_by(info)),
            ("Capabilities", tags(&info.capabilities)),
            ("Topics", tags(&info.topics)),
            ("Tools", tools(&info.tools)),
            ("Balance", balance.as_str().unwrap_or_default().to_owned()),
            ("State", print::or_nothing(info.state.clone(), |state| state)),
            ("Reason", print::or_nothing(info.reason.clone(), |reason| reason)),
            ("Health", print::or_nothing(info.health.clone(), |health| health)),
            ("Last check", print::or_nothing(info.checks.last(), checked)),
            ("Breaker", print::or_nothing(info.breaker_state.as_deref(), |state| breaker(info, state))),
            ("Restarts", print::or_nothing(info.restarts, |restarts| restarts.to_string())),
            ("Process", print::or_nothing(info.pid, |pid| pid.to_string())),
            ("Uptime", print::span(info.uptime_seconds)),
            ("Messages", info.requests.to_string()),
            ("Errors", info.errors.to_string()),
            ("Waiting", info.waiting.to_string()),
            ("Mean time", print::or_nothing(info.mean_seconds, |mean| format!("{:.3} ms", 1e3 * mean))),
            ("CPU", print::or_nothing(info.cpu_seconds, |cpu| format!("{cpu:.2} s"))),
            ("Memory", print::or_nothing(info.memory_bytes, print::bytes)),
        ])
    })
}

/// `blueprint web, version 2 (order 1.3.14)`
fn deployed_by(info: &AgentInfo) -> String {
    let Some(OrderedBy { blueprint, version, epoch }) = &info.ordered_by else {
        return if info.of_folder { "a manifest in --agents-dir" } else { "hand" }.to_owned();
    };
    let version = version.map(|version| format!(", version {version}")).unwrap_or_default();
    let order = epoch.as_ref().map(|epoch| format!(" (order {epoch})")).unwrap_or_default();
    format!("blueprint {blueprint}{version}{order}")
}

/// Their names; what they take is in the JSON.
fn tools(tools: &[Tool]) -> String {
    print::or_dash(&tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>().join(", "))
}

/// `open, tried again in 42s: HTTP status 500`
fn breaker(info: &AgentInfo, state: &str) -> String {
    let retry =
        info.breaker_retry_ms.map(|ms| format!(", tried again in {}", print::span(ms.div_ceil(1000))));
    let failures =
        (info.breaker_failures > 0).then(|| format!(", {} failures in a row", info.breaker_failures));
    let why = info.breaker_why.as_ref().map(|why| format!(": {why}"));
    [Some(state.to_owned()), retry, failures, why].into_iter().flatten().collect()
}

/// `timeout after 2001 ms: no answer within 2000 ms`
fn checked(check: &Check) -> String {
    let why = check.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("{} after {} ms{why}", check.result, check.took_ms)
}

fn tags(tags: &BTreeSet<Tag>) -> String {
    print::or_dash(&tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(", "))
}

fn describe(source: &Source) -> (&'static str, String) {
    match source {
        Source::Native { builtin } => ("native", builtin.clone()),
        Source::Process { protocol, command, args } => {
            let kind = match protocol {
                Protocol::Stdio => "stdio",
                Protocol::Http => "http",
            };
            let words: Vec<_> = std::iter::once(command).chain(args).map(|word| quoted(word)).collect();
            (kind, words.join(" "))
        }
        Source::Wasm(source) => ("wasm", describe_wasm(source)),
    }
}

/// Only what is not as usual, beside the module.
fn describe_wasm(source: &WasmSource) -> String {
    let WasmSource { module, instance, grants, memory_bytes, fuel } = source;
    let mut words = vec![module.to_string()];
    if *instance == InstanceLife::PerMessage {
        words.push("--instance per-message".to_owned());
    }
    if *memory_bytes != limits::WASM_MEMORY_BYTES_DEFAULT {
        words.push(format!("--memory-bytes {memory_bytes}"));
    }
    if *fuel != limits::WASM_FUEL_DEFAULT {
        words.push(format!("--fuel {fuel}"));
    }
    words.extend(grants.state.iter().map(|prefix| format!("--grant-state {}", quoted(prefix))));
    words.extend(grants.addresses.iter().map(|address| format!("--grant-address {address}")));
    words.join(" ")
}

/// In quotes where a reader could not tell one word from two.
fn quoted(word: &str) -> String {
    let is_plain =
        !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
    if is_plain { word.to_owned() } else { format!("{word:?}") }
}

async fn logs(args: &LogsArgs) -> Result<(), Failure> {
    let OneArgs { name, node, shown, connection } = &args.one;
    let path = path_of(name, "/logs", node.as_ref(), &[format!("lines={}", args.lines)]);
    let logs: Logs = client_of(connection)?.get(&path).await?;
    print::show(shown.output, &logs, |logs| {
        // A tab is a log line's own business and harmless.
        let line = |line: &String| line.split('\t').map(print::visible).collect::<Vec<_>>().join("\t") + "\n";
        logs.lines.iter().map(line).collect()
    })
}

async fn restart(args: &OneArgs, release: bool) -> Result<(), Failure> {
    let path = path_of(&args.name, "/restart", args.node.as_ref(), &[]);
    let client = client_of(&args.connection)?;
    let started: AgentRef = client.post(&path, &RestartAgent { release }, RESTART_DEADLINE).await?;
    print::show(args.shown.output, &started, |started| {
        format!("agent {} on {} was started anew and runs\n", started.name, started.node)
    })
}

async fn history(args: &HistoryArgs) -> Result<(), Failure> {
    let OneArgs { name, node, shown, connection } = &args.one;
    let client = client_of(connection)?;
    let agents: Vec<Agent> = client.get("/v1/agents").await?;
    let hosts: BTreeSet<_> = agents.iter().filter(|a| a.name == *name).map(|a| a.node.clone()).collect();
    let node = match (node, hosts.len()) {
        (Some(node), _) => Some(node.clone()),
        (None, 0 | 1) => hosts.first().cloned(),
        (None, _) => {
            let hosts: Vec<_> = hosts.iter().map(NodeId::as_str).collect();
            let why = format!("agent {name} is on several nodes: give --node, one of {}", hosts.join(", "));
            return Err(Failure::Refused(why));
        }
    };
    let by = node.map(|node| format!("&seen_by={node}")).unwrap_or_default();
    let agent = name.as_str().replace('#', "%23");
    let path = format!("/v1/history?agent={agent}&limit={}{by}", args.limit);
    let history: History = client.get(&path).await?;
    if history.entries.is_empty() {
        let why =
            format!("nothing of an agent {name} is kept on {}: see `shoal agent list`", history.node_id);
        return Err(Failure::Refused(why));
    }
    print::show(shown.output, &history, |history| {
        let line = |entry| why::dated_line(entry, &history.node_id);
        history.entries.iter().map(line).collect()
    })
}

async fn stop(args: &OneArgs) -> Result<(), Failure> {
    let path = path_of(&args.name, "", args.node.as_ref(), &[]);
    let stopped: AgentRef = client_of(&args.connection)?.delete(&path).await?;
    print::show(args.shown.output, &stopped, |stopped| {
        format!("agent {} on {} has stopped\n", stopped.name, stopped.node)
    })
}
