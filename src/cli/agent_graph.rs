//! `shoal agent graph`: which agents of the mesh depend on which.

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};

use super::client::Connection;
use super::print::{self, Table};
use super::{Failure, Output, client_of};
use crate::api::types::DependencyGraph;
use crate::core::ids::AgentName;

/// Arguments of `shoal agent graph`.
#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    /// How to show it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text for people
    #[default]
    Table,
    /// JSON for programs
    Json,
    /// The language of Graphviz: `shoal agent graph -o dot | dot -Tsvg`
    Dot,
}

pub(super) async fn run(args: &GraphArgs) -> Result<(), Failure> {
    let graph: DependencyGraph = client_of(&args.connection)?.get("/v1/dependencies").await?;
    match args.output {
        Format::Dot => print::write_out(graph.dot().as_bytes()),
        Format::Json => print::show(Output::Json, &graph, table),
        Format::Table => print::show(Output::Table, &graph, table),
    }
}

fn table(graph: &DependencyGraph) -> String {
    let names = |set: &BTreeSet<AgentName>| {
        print::or_dash(&set.iter().map(AgentName::as_str).collect::<Vec<_>>().join(", "))
    };
    let mut table = Table::new(&["NAME", "WHERE", "DEPENDS ON", "RUNS NOWHERE", "NEEDED BY"]);
    for agent in &graph.agents {
        let places = agent.instances.iter().map(|at| format!("{} ({})", at.node, at.state));
        table.row(vec![
            agent.name.to_string(),
            print::or_dash(&places.collect::<Vec<_>>().join(", ")),
            names(&agent.depends_on),
            names(&agent.missing),
            names(&agent.dependents),
        ]);
    }
    table.text()
}
