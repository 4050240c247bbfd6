//! `shoal deploy`: starts an agent on a node, which keeps it until it is stopped.

mod wasm;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use self::wasm::WasmArgs;
use super::client::{ANSWER_DEADLINE, Client, Connection};
use super::{Failure, Shown, blueprint, client_of, print};
use crate::api::types::{
    AgentRef, Blueprint, Deploy, Grants, HealthCheck, Instances, Placement, Protocol, Source, WasmSource,
};
use crate::core::ids::{AgentName, NodeId, Tag};
use crate::core::limits;
use crate::core::model::{Balance, Offer, PlacementStrategy};
use crate::node::config::{Manifest, ManifestSource, STRATEGIES, instances_of};

/// Arguments of `shoal deploy`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  shoal deploy echo --name echo
  shoal deploy ./upper.py --name upper --target-node node-2
  shoal deploy python3 --name web --kind http -- serve.py --verbose
  shoal deploy ./resize.py --name resize --capability resize --topic photos.added
  shoal deploy --file agent.yaml --target-node node-2
  shoal deploy ./web.py --name web --instances 3 --placement-strategy spread
  shoal deploy notes.wasm --name notes --kind wasm --grant-state notes/ --target-node node-3")]
pub(crate) struct DeployArgs {
    /// `echo` or `native:echo` for the built-in agent; with `--kind wasm` a WebAssembly component on this
    /// machine; else an executable on the node's machine: a path, or a name that the node looks up in its PATH
    #[arg(required_unless_present = "file")]
    source: Option<String>,
    /// Name of the agent; messages are addressed to it
    #[arg(long, required_unless_present = "file")]
    name: Option<AgentName>,
    /// Manifest of the agent: it takes the place of SOURCE and all other flags but --target-node and those of instances
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "source", "name", "kind", "capability", "topic", "balance", "args", "instance", "memory_bytes", "fuel",
        "grant_state", "grant_address",
    ])]
    file: Option<PathBuf>,
    /// Node that runs it [default: the node that is asked]
    #[arg(long, value_name = "NODE")]
    target_node: Option<NodeId>,
    /// How an executable is spoken to, or that it is a component [default: stdio]
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// What it can do: messages to cap:NAME go to one agent that can. May be repeated
    #[arg(long, value_name = "NAME")]
    capability: Vec<Tag>,
    /// What it listens to: messages to topic:NAME go to all that do. May be repeated
    #[arg(long, value_name = "NAME")]
    topic: Vec<Tag>,
    /// How its messages are shared out among its instances on several nodes
    #[arg(long, value_enum, default_value = "round-robin")]
    balance: Balancing,
    /// Arguments for the executable
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
    #[command(flatten)]
    wasm: WasmArgs,
    #[command(flatten)]
    placed: PlacedArgs,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// What makes it a blueprint, whose instances the mesh places and keeps.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Instances that the mesh places and keeps")]
struct PlacedArgs {
    /// So many instances, or per-node: the mesh decides where they run, and moves them when a node is lost
    #[arg(long, value_name = "N", conflicts_with = "target_node", value_parser = instances)]
    instances: Option<Instances>,
    /// What decides between nodes [default: least-loaded]
    #[arg(long, value_name = "STRATEGY", requires = "instances", value_parser = strategy)]
    placement_strategy: Option<PlacementStrategy>,
    /// Rather on these nodes, the first one first
    #[arg(long, value_name = "NODES", requires = "instances", value_delimiter = ',')]
    prefer_nodes: Vec<NodeId>,
    /// No instance ever runs twice at a time: it runs under a permit that a quorum renews, and ends when it is cut off
    #[arg(long, requires = "instances")]
    exclusive: bool,
}

fn instances(word: &str) -> Result<Instances, String> {
    instances_of(word).map(Into::into)
}

fn strategy(word: &str) -> Result<PlacementStrategy, String> {
    let found = STRATEGIES.iter().find(|(known, _)| *known == word).map(|(_, strategy)| *strategy);
    let words = || STRATEGIES.map(|(word, _)| word).join(", ");
    found.ok_or_else(|| format!("it is one of {}", words()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// JSON lines on stdin and stdout
    Stdio,
    /// HTTP on loopback, at the port in the environment variable PORT
    Http,
    /// A WebAssembly component of the world in wit/agent.wit
    Wasm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Balancing {
    /// In turn
    RoundRobin,
    /// To the one of which the sender's node awaits the fewest outcomes
    LeastInflight,
    /// Messages of one key to one instance
    KeyHash,
}

impl From<Balancing> for Balance {
    fn from(balancing: Balancing) -> Self {
        match balancing {
            Balancing::RoundRobin => Self::RoundRobin,
            Balancing::LeastInflight => Self::LeastInflight,
            Balancing::KeyHash => Self::KeyHash,
        }
    }
}

/// Waits until the agent takes messages.
pub(super) async fn run(args: DeployArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let deploy = match &args.file {
        Some(file) => described(&client, file, args.target_node).await?,
        None => flagged(&client, &args).await?,
    };
    if let Some(instances) = args.placed.instances {
        let PlacedArgs { placement_strategy, prefer_nodes, exclusive, .. } = args.placed;
        let strategy = placement_strategy.unwrap_or_default();
        let placement = Placement { strategy, prefer: prefer_nodes, ..Placement::default() };
        let (update, on_cut) = (Default::default(), Default::default());
        let described = Blueprint { agent: deploy, instances, placement, update, on_cut, exclusive };
        return blueprint::apply_one(&client, args.shown, described).await;
    }
    let patience =
        deploy.launch.start_timeout_ms.map_or(Duration::ZERO, |ms| Duration::from_millis(ms.into()));
    let deadline = ANSWER_DEADLINE.max(patience + limits::REQUEST_DEADLINE);
    let deployed: AgentRef = client.post("/v1/agents", &deploy, deadline).await?;
    print::show(args.shown.output, &deployed, |deployed| match &deployed.waits {
        Some(waits) => format!("agent {} on {} is not started yet: {waits}\n", deployed.name, deployed.node),
        None => format!("agent {} runs on {}\n", deployed.name, deployed.node),
    })
}

/// The agent of a manifest's file.
async fn described(client: &Client, file: &Path, node: Option<NodeId>) -> Result<Deploy, Failure> {
    let manifest = Manifest::read(file).map_err(|errors| Failure::Usage(errors.to_string()))?;
    agent_of(client, manifest, node).await
}

/// The agent of a manifest; a component of it is uploaded.
pub(super) async fn agent_of(
    client: &Client,
    manifest: Manifest,
    node: Option<NodeId>,
) -> Result<Deploy, Failure> {
    let source = match manifest.source {
        ManifestSource::Native { builtin } => Source::Native { builtin },
        ManifestSource::Process { protocol, command, args } => {
            Source::Process { protocol: protocol.into(), command, args }
        }
        ManifestSource::Wasm { file, instance, grants, memory_bytes, fuel } => {
            let module = wasm::upload(client, &file).await?;
            let grants = Grants { state: grants.state, addresses: grants.addresses };
            Source::Wasm(WasmSource { module, instance: instance.into(), grants, memory_bytes, fuel })
        }
    };
    let Offer { capabilities, topics, balance } = manifest.offer;
    let health = manifest.care.health.map(HealthCheck::from);
    let restart = manifest.care.restart.map(Into::into);
    let breaker = manifest.care.breaker.map(Into::into);
    let bare = Deploy::new(manifest.name, node, source);
    let (launch, limits) = (manifest.launch.into(), manifest.limits.into());
    let tools = manifest.tools.into_iter().map(Into::into).collect();
    Ok(Deploy { capabilities, topics, balance, tools, health, restart, breaker, launch, limits, ..bare })
}

/// The agent of the flags.
async fn flagged(client: &Client, args: &DeployArgs) -> Result<Deploy, Failure> {
    let (Some(source), Some(name)) = (&args.source, &args.name) else {
        return Err(Failure::Usage("give a source and --name, or --file".to_owned()));
    };
    let made_of = match local_source(args, source)? {
        Some(made_of) => made_of,
        None => wasm::source(client, source, &args.wasm).await?,
    };
    Ok(Deploy {
        capabilities: args.capability.iter().cloned().collect(),
        topics: args.topic.iter().cloned().collect(),
        balance: args.balance.into(),
        ..Deploy::new(name.clone(), args.target_node.clone(), made_of)
    })
}

/// What the agent is made of, unless it is a component that is to be uploaded first.
fn local_source(args: &DeployArgs, source: &str) -> Result<Option<Source>, Failure> {
    if args.kind == Some(Kind::Wasm) {
        if !args.args.is_empty() {
            return Err(Failure::Usage("a WASM agent takes no arguments".to_owned()));
        }
        return Ok(None);
    }
    if args.wasm.is_given() {
        let why = "--instance, --memory-bytes, --fuel and the grants are for --kind wasm";
        return Err(Failure::Usage(why.to_owned()));
    }
    let builtin = if source == "echo" { Some("echo") } else { source.strip_prefix("native:") };
    if let Some(builtin) = builtin {
        if args.kind.is_some() || !args.args.is_empty() {
            let why = format!("{source} is built in: it takes neither --kind nor arguments");
            return Err(Failure::Usage(why));
        }
        return Ok(Some(Source::Native { builtin: builtin.to_owned() }));
    }
    let protocol = match args.kind {
        Some(Kind::Http) => Protocol::Http,
        Some(Kind::Stdio | Kind::Wasm) | None => Protocol::Stdio,
    };
    Ok(Some(Source::Process { protocol, command: command(source)?, args: args.args.clone() }))
}

/// A path is meant from here, wherever the node runs; a bare name is the node's to look up.
fn command(source: &str) -> Result<String, Failure> {
    if !source.contains('/') {
        return Ok(source.to_owned());
    }
    let path = std::path::absolute(source)
        .map_err(|error| Failure::Usage(format!("the path {source:?} cannot be made absolute: {error}")))?;
    let path = path.into_os_string().into_string();
    path.map_err(|_| Failure::Usage("the path of the current directory is not text in UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Deployed {
        #[command(flatten)]
        args: DeployArgs,
    }

    fn source_of(line: &str) -> Result<Source, Failure> {
        let words = std::iter::once("deploy").chain(line.split(' '));
        let args = Deployed::try_parse_from(words).expect("parses").args;
        let source = local_source(&args, args.source.as_deref().expect("given"))?;
        Ok(source.expect("not a component"))
    }

    fn process(protocol: Protocol, command: &str, args: &[&str]) -> Source {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Source::Process { protocol, command: command.to_owned(), args }
    }

    #[test]
    fn a_source_is_built_in_a_path_from_here_or_a_name_for_the_node() {
        let echo = Source::Native { builtin: "echo".to_owned() };
        assert_eq!(source_of("echo --name a").expect("valid"), echo);
        assert_eq!(source_of("native:echo --name a").expect("valid"), echo);
        let here = std::env::current_dir().expect("there is one").join("x/upper.py");
        let here = here.to_str().expect("text");
        assert_eq!(source_of("./x/upper.py --name a").expect("valid"), process(Protocol::Stdio, here, &[]));
        assert_eq!(
            source_of("python3 --name a --kind http -- -u serve.py").expect("valid"),
            process(Protocol::Http, "python3", &["-u", "serve.py"])
        );
    }

    #[test]
    fn what_the_kind_of_agent_would_ignore_is_bad_usage() {
        for line in [
            "echo --name a --kind http",
            "native:echo --name a -- x",
            "echo --name a --fuel 7",
            "./upper.py --name a --grant-state notes/",
            "upper.wasm --name a --kind wasm -- x",
        ] {
            assert_eq!(source_of(line).expect_err(line).exit_code(), 2);
        }
    }
}
