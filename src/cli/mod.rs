//! The command line: one module per subcommand. A command parses its arguments, does its work through
//! the library or the API of a node, and prints what came of it; it never ends the process.

mod agent;
mod agent_graph;
mod blueprint;
pub mod cert;
pub mod client;
mod cluster;
mod deploy;
mod dev;
pub mod keeper;
mod letters;
mod message;
mod print;
pub mod sample;
pub mod server;
mod sim;
mod state;
mod why;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::node::clock;
use crate::node::config::process_env;

/// How a command that reads shows what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// Text for people; it may change from version to version.
    #[default]
    Table,
    /// JSON for programs; documented and stable.
    Json,
}

/// The flag for it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Shown {
    /// How to show what is found, also into a pipe
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

/// A peer-to-peer mesh for agents: one binary per machine, no broker.
#[derive(Debug, Parser)]
#[command(
    name = "shoal",
    version,
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 bad usage, 3 the API cannot be reached, 4 timed out, 5 queued, 6 there is something to do (`plan`)."
)]
pub struct Shoal {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a mesh on this machine to try things out
    Dev(dev::DevArgs),
    /// Run a node
    #[command(subcommand)]
    Server(server::ServerCommand),
    /// Look at the mesh, ping its nodes, leave it
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Tell why a node is in the state that it is in
    Why(why::WhyArgs),
    /// Start an agent on a node and keep it there
    Deploy(deploy::DeployArgs),
    /// Show what would be done if blueprints were applied
    Plan(blueprint::PlanArgs),
    /// Make blueprints what should run: the mesh places their instances and keeps them
    Apply(blueprint::ApplyArgs),
    /// Look at blueprints, remove them
    #[command(subcommand)]
    Blueprint(blueprint::BlueprintCommand),
    /// Look at agents, scale them, go back to a former version, stop them
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Ask an agent, or send it something
    #[command(subcommand)]
    Message(message::MessageCommand),
    /// Look at messages that could not be delivered, try them again, drop them
    #[command(subcommand)]
    DeadLetters(letters::DeadLettersCommand),
    /// Read and write what the nodes share: keys, maps, sets and counters
    #[command(subcommand)]
    State(state::StateCommand),
    /// Simulate a mesh under virtual time
    Sim(sim::SimArgs),
    /// Make, renew, revoke and show the certificates of a mesh
    #[command(subcommand)]
    Cert(cert::CertCommand),
    /// Write the completions of a shell to stdout
    #[command(after_help = "Example: shoal completions bash > /etc/bash_completion.d/shoal")]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Keeps one process agent; started by a node.
    #[command(hide = true)]
    Keeper(keeper::KeeperArgs),
    /// A stdio agent that needs nothing else on the machine.
    #[command(hide = true)]
    SampleAgent(sample::SampleArgs),
}

/// Why a command did not do what it was asked to, in one sentence; the kind is the exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The mesh refused, or the answer is no.
    #[error("{0}")]
    Refused(String),
    /// The command line or the configuration is wrong.
    #[error("{0}")]
    Usage(String),
    /// The API cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// There was no answer in time.
    #[error("{0}")]
    TimedOut(String),
    /// A write waits for a majority; its ticket is on stdout.
    #[error("{0}")]
    Queued(String),
    /// A plan has something to do, and it was asked to say so.
    #[error("there is something to do")]
    Changes,
    /// Whoever read the output has gone; nobody is there to be told.
    #[error("the reader of the output has gone")]
    ReaderGone,
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::ReaderGone => 0,
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::TimedOut(_) => 4,
            Self::Queued(_) => 5,
            Self::Changes => 6,
        }
    }

    /// Tells it on stderr and gives the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        if !matches!(self, Self::ReaderGone | Self::Changes) {
            let lines: Vec<_> = self.to_string().lines().map(print::visible).collect();
            // With stderr gone there is nowhere left to say it.
            let _ = writeln!(std::io::stderr(), "shoal: {}", lines.join("\n"));
        }
        ExitCode::from(self.exit_code())
    }
}

impl Shoal {
    /// Does what the command line says.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Dev(args) => wait_for(dev::run(args)),
            Command::Server(command) => server::run(command),
            Command::Cluster(command) => wait_for(cluster::run(command)),
            Command::Why(args) => wait_for(why::run(&args)),
            Command::Deploy(args) => wait_for(deploy::run(args)),
            Command::Plan(args) => wait_for(blueprint::plan(args)),
            Command::Apply(args) => wait_for(blueprint::apply(args)),
            Command::Blueprint(command) => wait_for(blueprint::run(command)),
            Command::Agent(command) => wait_for(agent::run(command)),
            Command::Message(command) => wait_for(message::run(command)),
            Command::DeadLetters(command) => wait_for(letters::run(command)),
            Command::State(command) => wait_for(state::run(command)),
            Command::Sim(args) => simulate(&args),
            Command::Cert(command) => run_cert(&command),
            Command::Completions { shell } => complete(shell),
            Command::Keeper(args) => Ok(keeper::run(&args)),
            Command::SampleAgent(args) => Ok(sample::run(&args)),
        }
    }
}

/// Runs a command that asks a node, on this thread.
fn wait_for(command: impl Future<Output = Result<(), Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Refused(format!("the program cannot run: {error}")))?;
    runtime.block_on(command).map(|()| ExitCode::SUCCESS)
}

fn run_cert(command: &cert::CertCommand) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    cert::run(command, clock::wall_clock(), &mut text)?;
    print::write_out(&text).map(|()| ExitCode::SUCCESS)
}

/// Prints as it happens: a long run is watched.
fn simulate(args: &sim::SimArgs) -> Result<ExitCode, Failure> {
    match sim::run(args, &mut std::io::stdout().lock()) {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::ReaderGone),
        Err(error) => Err(Failure::Refused(format!("the result could not be written: {error}"))),
    }
}

fn complete(shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    let whole = Shoal::command();
    let visible = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut command = clap::Command::new("shoal").version(env!("CARGO_PKG_VERSION")).subcommands(visible);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "shoal", &mut script);
    print::write_out(&script).map(|()| ExitCode::SUCCESS)
}

/// The environment, as [`client::Connection::client`] wants it.
fn client_of(connection: &client::Connection) -> Result<client::Client, Failure> {
    connection.client(&process_env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Shoal::command().debug_assert();
    }

    /// Calls `check` with the words of each command that people use.
    fn each_command(command: &clap::Command, words: &str, check: &mut dyn FnMut(&clap::Command, &str)) {
        if command.is_hide_set() {
            return;
        }
        let words = format!("{words}{}", command.get_name());
        if !command.has_subcommands() {
            check(command, &words);
        }
        command.get_subcommands().for_each(|sub| each_command(sub, &format!("{words} "), check));
    }

    #[test]
    fn every_command_has_an_example_and_is_documented_with_its_flags() {
        let document = include_str!("../../docs/cli.md");
        each_command(&Shoal::command(), "", &mut |command, words| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(words), "`{words}` has no example");
            assert!(document.contains(&format!("`{words}")), "`{words}` is not in docs/cli.md");
            // Those of a node's configuration are described with it.
            let flags = command.get_arguments().filter_map(clap::Arg::get_long);
            for flag in flags.filter(|_| words != "shoal server start" && !words.starts_with("shoal cert")) {
                assert!(document.contains(&format!("--{flag}")), "--{flag} is not in docs/cli.md");
            }
        });
    }
}
