//! `shoal state policy`: how concurrent values are resolved.

use clap::{Args, Subcommand, ValueEnum};

use super::tell;
use crate::api::types::{Policies, PutPolicy, Write};
use crate::cli::client::{Connection, quoted};
use crate::cli::print::{self, Table};
use crate::cli::{Failure, Shown, client_of};

/// The subcommands of `shoal state policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// List the prefixes for which a policy was chosen; all other keys have lww
    #[command(after_help = "Example: shoal state policy list")]
    List(ListArgs),
    /// Choose the policy of all keys that begin with a prefix; the longest prefix of a key counts
    #[command(after_help = "Examples:
  shoal state policy set orders manual
  shoal state policy set orders none     (takes the choice back)")]
    Set(SetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The prefix: the start of a text, not a path; it may not end with /
    prefix: String,
    /// The policy
    #[arg(value_enum)]
    policy: Policy,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// What is done with several values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// The one that was written last by the clocks of the writers
    Lww,
    /// The greatest, as numbers where all are numbers
    Max,
    /// The least, likewise
    Min,
    /// None is chosen: the reader is shown all
    Manual,
    /// The command of the node that is read from chooses (coordination.state.custom_policy)
    Custom,
    /// Take a choice back
    None,
}

impl Policy {
    fn word(self) -> Option<&'static str> {
        match self {
            Self::Lww => Some("lww"),
            Self::Max => Some("max"),
            Self::Min => Some("min"),
            Self::Manual => Some("manual"),
            Self::Custom => Some("custom"),
            Self::None => None,
        }
    }
}

pub(super) async fn run(command: PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::List(args) => list(&args).await,
        PolicyCommand::Set(args) => set(&args).await,
    }
}

async fn list(args: &ListArgs) -> Result<(), Failure> {
    let policies: Policies = client_of(&args.connection)?.get("/v1/policies").await?;
    print::show(args.shown.output, &policies, |policies| {
        let mut table = Table::new(&["PREFIX", "POLICY"]);
        for (prefix, policy) in &policies.policies {
            table.row([prefix.clone(), policy.clone()]);
        }
        table.text()
    })
}

async fn set(args: &SetArgs) -> Result<(), Failure> {
    if args.prefix.is_empty() {
        return Err(Failure::Usage("the prefix must not be empty: all keys have lww".to_owned()));
    }
    let parts: Vec<_> = args.prefix.split('/').map(quoted).collect();
    let path = format!("/v1/policies/{}", parts.join("/"));
    let client = client_of(&args.connection)?;
    let (write, done): (Write, _) = match args.policy.word() {
        Some(word) => {
            let put = PutPolicy { policy: word.to_owned() };
            (
                client.put(&path, &put).await?,
                format!("keys that begin with {} have the policy {word}", args.prefix),
            )
        }
        None => (client.delete(&path).await?, format!("no policy is chosen for {} any more", args.prefix)),
    };
    tell(args.shown.output, &write, &done)
}
