//! The command line: one module per subcommand. A command parses its arguments, does its work through
//! the library and prints to the writer it is given; it never ends the process.

pub mod cert;
pub mod keeper;
pub mod sample;

/// How a command that reads shows what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// Text for people; it may change from version to version.
    #[default]
    Table,
    /// JSON for programs; documented and stable.
    Json,
}
