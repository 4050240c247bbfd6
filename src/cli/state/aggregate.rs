//! `shoal state aggregate`: one number from what each node has for a key.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use crate::api::types::{KeyAtNode, KeyEverywhere};
use crate::cli::client::{Connection, quoted};
use crate::cli::{Failure, Shown, client_of, print};
use crate::core::ids::NodeId;

/// Arguments of `shoal state aggregate`.
#[derive(Debug, Args)]
pub(crate) struct AggregateArgs {
    /// The key
    key: String,
    /// How the numbers are put together
    #[arg(long, value_enum)]
    op: Op,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// How numbers are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Op {
    /// Their sum
    Sum,
    /// The greatest
    Max,
    /// The least
    Min,
    /// Their mean
    Avg,
}

/// What came of it, as JSON.
#[derive(Debug, PartialEq, Serialize)]
struct Aggregate {
    key: String,
    op: Op,
    /// Null when no node has a number.
    value: Option<f64>,
    /// The nodes whose numbers it is made of.
    counted: Vec<Counted>,
    /// The others, with the reason.
    missing: Vec<Missing>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Counted {
    node: NodeId,
    value: f64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Missing {
    node: NodeId,
    reason: String,
}

pub(super) async fn run(args: &AggregateArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let path = format!("/v1/state?all_nodes=true&key={}", quoted(&args.key));
    let everywhere: KeyEverywhere = client.get(&path).await?;
    let found = aggregate(everywhere, args.op);
    let Some(value) = found.value else {
        print::show(args.shown.output, &found, |_| String::new())?;
        let reasons: Vec<_> = found.missing.iter().map(|missing| missing.reason.as_str()).collect();
        return Err(Failure::Refused(format!(
            "no node has a number for {:?}: {}",
            args.key,
            reasons.join("; ")
        )));
    };
    print::show(args.shown.output, &found, |_| format!("{value}\n"))?;
    for missing in &found.missing {
        // With stderr gone there is nowhere left to say it.
        let _ = writeln!(std::io::stderr(), "shoal: not counted: {}", print::visible(&missing.reason));
    }
    Ok(())
}

fn aggregate(everywhere: KeyEverywhere, op: Op) -> Aggregate {
    let (mut counted, mut missing) = (Vec::new(), Vec::new());
    for at in everywhere.nodes {
        match number(&at) {
            Ok(value) => counted.push(Counted { node: at.node, value }),
            Err(reason) => missing.push(Missing { node: at.node, reason }),
        }
    }
    let values = counted.iter().map(|counted| counted.value);
    let sum: f64 = values.clone().sum();
    let value = match op {
        _ if counted.is_empty() => None,
        Op::Sum => Some(sum),
        Op::Avg => Some(sum / counted.len() as f64),
        Op::Max => values.reduce(f64::max),
        Op::Min => values.reduce(f64::min),
    };
    Aggregate { key: everywhere.key, op, value, counted, missing }
}

fn number(at: &KeyAtNode) -> Result<f64, String> {
    if let Some(error) = &at.error {
        return Err(error.clone());
    }
    let Some(state) = &at.state else {
        return Err(format!("{} has no value", at.node));
    };
    let Some(bytes) = state.bytes() else {
        return Err(format!("{} has several values, none of which is chosen", at.node));
    };
    let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse::<f64>().ok());
    let number = number.filter(|number| number.is_finite());
    number.ok_or_else(|| format!("{} has a value that is no number", at.node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{Encoding, KeyState};

    fn at(name: &str, value: Option<&str>, error: Option<&str>) -> KeyAtNode {
        let node = NodeId::new(name).expect("valid");
        let state = value.map(|value| KeyState {
            key: "k".to_owned(),
            node: node.clone(),
            value: Some(value.to_owned()),
            encoding: Some(Encoding::Text),
            writer: None,
            written_unix_ms: None,
            dot: None,
            policy: "lww".to_owned(),
            policy_error: None,
            siblings: Vec::new(),
            context: String::new(),
            mode: "healthy".to_owned(),
            age_seconds: None,
        });
        KeyAtNode { node, state, error: error.map(str::to_owned) }
    }

    fn of(nodes: Vec<KeyAtNode>, op: Op) -> Aggregate {
        aggregate(KeyEverywhere { key: "k".to_owned(), nodes }, op)
    }

    #[test]
    fn each_operation_is_over_the_nodes_that_have_a_number() {
        let nodes =
            || vec![at("a", Some("1.5"), None), at("b", Some(" -4\n"), None), at("c", Some("7"), None)];
        let value = |op| of(nodes(), op).value;
        assert_eq!([Op::Sum, Op::Max, Op::Min, Op::Avg].map(value), [4.5, 7.0, -4.0, 1.5].map(Some));
    }

    #[test]
    fn every_node_that_is_not_counted_is_named_with_the_reason() {
        let nodes = vec![
            at("a", Some("1"), None),
            at("b", None, Some("b is failed: it cannot be asked")),
            at("c", None, None),
            at("d", Some("many"), None),
            at("e", Some("NaN"), None),
        ];
        let found = of(nodes, Op::Sum);
        assert_eq!(found.value, Some(1.0));
        let named: Vec<_> = found.missing.iter().map(|missing| missing.node.as_str()).collect();
        assert_eq!(named, ["b", "c", "d", "e"]);
        assert!(found.missing.iter().all(|missing| missing.reason.starts_with(missing.node.as_str())));
        assert_eq!(of(vec![at("a", None, None)], Op::Max).value, None);
    }
}
