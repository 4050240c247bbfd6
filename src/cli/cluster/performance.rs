//! `shoal cluster performance`: what messages and starts take, measured now, beside what they should take.

use clap::Args;

use crate::api::types::{Measure, Performance, PerformanceRow};
use crate::cli::client::{ANSWER_DEADLINE, Connection};
use crate::cli::print::{self, NOTHING, Table};
use crate::cli::{Failure, Shown, client_of};
use crate::core::ids::NodeId;
use crate::core::limits;

/// Rows, each of which has its time.
const ROWS: u32 = 3;

/// Arguments of `shoal cluster performance`.
#[derive(Debug, Args)]
pub(crate) struct PerformanceArgs {
    /// The node to which the remote route is measured [default: the nearest]
    #[arg(long, value_name = "NODE")]
    peer: Option<NodeId>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: PerformanceArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let within = ANSWER_DEADLINE + limits::MEASURED_FOR_MAX * ROWS;
    let measured: Performance =
        client.post("/v1/cluster/performance", &Measure { peer: args.peer }, within).await?;
    print::show(args.shown.output, &measured, table)?;
    judge(&measured)
}

fn judge(measured: &Performance) -> Result<(), Failure> {
    let missed: Vec<_> = measured.rows.iter().filter(|row| row.status == "missed").map(label).collect();
    if missed.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "{} missed on {}: {}",
        targets(missed.len()),
        measured.node_id,
        missed.join(", ")
    )))
}

fn targets(count: usize) -> String {
    if count == 1 { "1 target is".to_owned() } else { format!("{count} targets are") }
}

fn table(measured: &Performance) -> String {
    let mut table =
        Table::new(&["WHAT", "NODE", "TARGET-P50", "P50", "TARGET-P99", "P99", "SAMPLES", "STATUS"]);
    let seconds = |value: Option<f64>| print::or_nothing(value, print::seconds);
    for row in &measured.rows {
        table.row([
            label(row),
            print::or_nothing(row.node.as_ref(), ToString::to_string),
            format!("<= {}", print::seconds(row.target_p50_seconds)),
            seconds(row.p50_seconds),
            row.target_p99_seconds
                .map_or_else(|| NOTHING.to_owned(), |target| format!("<= {}", print::seconds(target))),
            seconds(row.p99_seconds),
            row.count.to_string(),
            status(row),
        ]);
    }
    table.text()
}

/// `local route`.
fn label(row: &PerformanceRow) -> String {
    row.name.replace('_', " ")
}

/// `met`, or what is wrong and why.
fn status(row: &PerformanceRow) -> String {
    let status = if row.status == "not_measured" { NOTHING } else { &row.status };
    match &row.reason {
        Some(reason) => format!("{status} ({reason})"),
        None => status.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, status: &str, reason: Option<&str>) -> PerformanceRow {
        let is_measured = status != "not_measured";
        PerformanceRow {
            name: name.to_owned(),
            node: is_measured.then(|| NodeId::new("n1").expect("valid")),
            target_p50_seconds: 1e-4,
            target_p99_seconds: (name != "wasm_start").then_some(1e-3),
            p50_seconds: is_measured.then_some(5e-6),
            p99_seconds: is_measured.then_some(0.002),
            count: if is_measured { 1000 } else { 0 },
            failed: 0,
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
        }
    }

    #[test]
    fn a_target_that_is_missed_is_an_error_that_names_it_and_one_that_was_not_measured_is_none() {
        let judged = |statuses: [&str; 3]| {
            let names = ["local_route", "remote_route", "wasm_start"];
            let rows = names.iter().zip(statuses).map(|(name, status)| row(name, status, None)).collect();
            judge(&Performance { node_id: NodeId::new("n1").expect("valid"), rows })
        };
        assert!(judged(["met", "not_measured", "met"]).is_ok());
        let Err(Failure::Refused(why)) = judged(["missed", "not_measured", "met"]) else {
            panic!("it is refused");
        };
        assert_eq!(why, "1 target is missed on n1: local route");
        let Err(Failure::Refused(why)) = judged(["missed", "met", "missed"]) else {
            panic!("it is refused");
        };
        assert_eq!(why, "2 targets are missed on n1: local route, wasm start");
    }

    #[test]
    fn each_row_shows_target_figure_and_status_and_a_dash_with_the_reason_where_nothing_was_measured() {
        let rows = vec![
            row("local_route", "missed", None),
            row("remote_route", "not_measured", Some("this node reaches no other")),
            row("wasm_start", "met", None),
        ];
        let shown = table(&Performance { node_id: NodeId::new("n1").expect("valid"), rows });
        let expected = "\
WHAT          NODE  TARGET-P50  P50  TARGET-P99  P99     SAMPLES  STATUS
local route   n1    <= 100µs    5µs  <= 1.00ms   2.00ms  1000     missed
remote route  -     <= 100µs    -    <= 1.00ms   -       0        - (this node reaches no other)
wasm start    n1    <= 100µs    5µs  -           2.00ms  1000     met
";
        assert_eq!(shown, expected);
    }
}
