//! `shoal deploy`: starts an agent on a node, which keeps it until it is stopped.

mod wasm;

use clap::{Args, ValueEnum};

use self::wasm::WasmArgs;
use super::client::{ANSWER_DEADLINE, Connection};
use super::{Failure, Shown, client_of, print};
use crate::api::types::{AgentRef, Deploy, Protocol, Source};
use crate::core::ids::{AgentName, NodeId};

/// Arguments of `shoal deploy`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  shoal deploy echo --name echo
  shoal deploy ./upper.py --name upper --target-node node-2
  shoal deploy python3 --name web --kind http -- serve.py --verbose
  shoal deploy notes.wasm --name notes --kind wasm --grant-state notes/ --target-node node-3")]
pub(crate) struct DeployArgs {
    /// `echo` or `native:echo` for the built-in agent; with `--kind wasm` a WebAssembly component on this
    /// machine; else an executable on the node's machine: a path, or a name that the node looks up in its PATH
    source: String,
    /// Name of the agent; messages are addressed to it
    #[arg(long)]
    name: AgentName,
    /// Node that runs it [default: the node that is asked]
    #[arg(long, value_name = "NODE")]
    target_node: Option<NodeId>,
    /// How an executable is spoken to, or that it is a component [default: stdio]
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Arguments for the executable
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
    #[command(flatten)]
    wasm: WasmArgs,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
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

/// Waits until the agent takes messages.
pub(super) async fn run(args: DeployArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let source = match local_source(&args)? {
        Some(source) => source,
        None => wasm::source(&client, &args.source, &args.wasm).await?,
    };
    let deploy = Deploy { name: args.name, node: args.target_node, source };
    let deployed: AgentRef = client.post("/v1/agents", &deploy, ANSWER_DEADLINE).await?;
    print::show(args.shown.output, &deployed, |deployed| {
        format!("agent {} runs on {}\n", deployed.name, deployed.node)
    })
}

/// What the agent is made of, unless it is a component that is to be uploaded first.
fn local_source(args: &DeployArgs) -> Result<Option<Source>, Failure> {
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
    let builtin = if args.source == "echo" { Some("echo") } else { args.source.strip_prefix("native:") };
    if let Some(builtin) = builtin {
        if args.kind.is_some() || !args.args.is_empty() {
            let why = format!("{} is built in: it takes neither --kind nor arguments", args.source);
            return Err(Failure::Usage(why));
        }
        return Ok(Some(Source::Native { builtin: builtin.to_owned() }));
    }
    let protocol = match args.kind {
        Some(Kind::Http) => Protocol::Http,
        Some(Kind::Stdio | Kind::Wasm) | None => Protocol::Stdio,
    };
    Ok(Some(Source::Process { protocol, command: command(&args.source)?, args: args.args.clone() }))
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
        let source = local_source(&Deployed::try_parse_from(words).expect("parses").args)?;
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
