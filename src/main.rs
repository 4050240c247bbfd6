//! The `shoal` binary: parse, run, map an error to an exit code.

use std::process::ExitCode;

use clap::Parser;
use shoal::cli::{keeper, sample};

#[derive(Debug, Parser)]
#[command(name = "shoal", version)]
enum Shoal {
    /// Keeps one process agent; started by a node.
    #[command(hide = true)]
    Keeper(keeper::KeeperArgs),
    /// A stdio agent that needs nothing else on the machine.
    #[command(hide = true)]
    SampleAgent(sample::SampleArgs),
}

fn main() -> ExitCode {
    match Shoal::parse() {
        Shoal::Keeper(args) => keeper::run(&args),
        Shoal::SampleAgent(args) => sample::run(&args),
    }
}
