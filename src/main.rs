//! The `shoal` binary: parse, run, map an error to an exit code.

use std::process::ExitCode;

use clap::Parser;
use shoal::cli::Shoal;

fn main() -> ExitCode {
    Shoal::parse().run().unwrap_or_else(|failure| failure.report())
}
