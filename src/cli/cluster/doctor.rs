//! `shoal cluster doctor`: asks all nodes and says what is wrong.

use clap::Args;
use serde::Serialize;

use super::reach::{Matrix, Reach};
use super::reports;
use super::trouble::{self, Severity, Trouble};
use crate::api::types::NodeReport;
use crate::cli::client::Connection;
use crate::cli::print::{self, Table};
use crate::cli::{Failure, Shown, client_of};
use crate::core::ids::NodeId;

/// More nodes than this, and their matrix is no table that anybody can read.
const MATRIX_NODES_MAX: usize = 24;

/// Arguments of `shoal cluster doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// What the doctor found, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Diagnosis {
    nodes: Vec<NodeId>,
    matrix: Vec<Pair>,
    troubles: Vec<Trouble>,
    #[serde(skip)]
    table: Matrix,
}

#[derive(Debug, Serialize)]
struct Pair {
    from: NodeId,
    to: NodeId,
    #[serde(flatten)]
    reach: Reach,
}

impl Diagnosis {
    /// What the reports add up to.
    pub(super) fn of(reports: &[NodeReport]) -> Self {
        let table = Matrix::of(reports);
        let pair =
            |(from, to, reach): (&NodeId, &NodeId, _)| Pair { from: from.clone(), to: to.clone(), reach };
        Self {
            nodes: table.nodes.clone(),
            matrix: table.pairs().map(pair).collect(),
            troubles: trouble::troubles(reports, &table, reports::now(reports)),
            table,
        }
    }

    /// What is wrong, the worst first.
    pub(super) fn troubles(&self) -> &[Trouble] {
        &self.troubles
    }

    /// The failure that this amounts to, if it does.
    ///
    /// # Errors
    /// [`Failure::Refused`] when there is a problem.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match trouble::count_of(&self.troubles) {
            Some(count) => Err(Failure::Refused(format!("the mesh has {count}"))),
            None => Ok(()),
        }
    }
}

pub(super) async fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let reports = reports::of_all(&client_of(&args.connection)?).await?;
    let diagnosis = Diagnosis::of(&reports);
    print::show(args.shown.output, &diagnosis, table)?;
    diagnosis.verdict()
}

fn table(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    if diagnosis.nodes.len() <= MATRIX_NODES_MAX {
        let heads: Vec<_> =
            std::iter::once("FROM \\ TO").chain(diagnosis.nodes.iter().map(NodeId::as_str)).collect();
        let mut matrix = Table::new(&heads);
        diagnosis.table.rows().for_each(|row| matrix.row(row));
        text += &matrix.text();
        text += "\nok: a link; one-way: packets arrive there and nothing comes back; no: no way; \
                 .: no link needed now; ?: not asked\n\n";
    } else {
        text += &format!("{} nodes: the matrix is in -o json\n\n", diagnosis.nodes.len());
    }
    text + &list(&diagnosis.troubles)
}

/// One paragraph a trouble.
fn list(troubles: &[Trouble]) -> String {
    if troubles.is_empty() {
        return "nothing is wrong\n".to_owned();
    }
    let told = troubles.iter().map(|trouble| {
        let severity = match trouble.severity {
            Severity::Problem => "PROBLEM",
            Severity::Note => "note   ",
        };
        let figure = trouble.figure.as_ref().map(|figure| format!(" ({figure})")).unwrap_or_default();
        let what = print::visible(&format!("{}{figure}", trouble.what));
        format!("{severity}  {what}\n         do: {}\n", print::visible(&trouble.advice))
    });
    told.collect()
}
