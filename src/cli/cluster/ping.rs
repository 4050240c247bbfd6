//! `shoal cluster ping`: round trips to another node, and the path that they take.

use std::time::Duration;

use clap::Args;

use super::{info, trouble};
use crate::api::types::{Ping, Pinged};
use crate::cli::client::{ANSWER_DEADLINE, Client, Connection};
use crate::cli::message::span;
use crate::cli::{Failure, Shown, client_of, print};
use crate::core::ids::NodeId;
use crate::core::limits;

/// Arguments of `shoal cluster ping`.
#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// The other node
    node: NodeId,
    /// How many round trips
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::API_PINGS_MAX)))]
    count: u32,
    /// A round trip that takes longer counts as lost; at most 15s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = deadline)]
    timeout: Duration,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

fn deadline(text: &str) -> Result<Duration, String> {
    let span = span(text)?;
    if span > limits::REQUEST_DEADLINE || span < Duration::from_millis(1) {
        return Err(format!("give 1ms to {}s", limits::REQUEST_DEADLINE.as_secs()));
    }
    Ok(span)
}

pub(super) async fn run(args: PingArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let pinged = round_trips(&client, args.node, args.count, args.timeout).await?;
    print::show(args.shown.output, &pinged, table)?;
    if pinged.seconds.is_empty() {
        let reason = pinged.reason.unwrap_or_default();
        return Err(Failure::Refused(format!(
            "none of {} pings of {} came back: {reason}",
            args.count, pinged.node
        )));
    }
    Ok(())
}

/// Each round trip is a request of its own, so that none has to wait for the time of all.
async fn round_trips(client: &Client, node: NodeId, count: u32, within: Duration) -> Result<Pinged, Failure> {
    let deadline_ms = within.as_millis() as u64;
    let mut all = Pinged { node, seconds: Vec::new(), lost: 0, reason: None, path: None };
    for _ in 0..count {
        let ping = Ping { node: all.node.clone(), count: 1, deadline_ms };
        let one: Pinged = client.post("/v1/cluster/ping", &ping, ANSWER_DEADLINE).await?;
        all.seconds.extend(one.seconds);
        all.lost += one.lost;
        all.reason = one.reason.or(all.reason);
        all.path = one.path.or(all.path);
    }
    Ok(all)
}

fn table(pinged: &Pinged) -> String {
    let Pinged { node, seconds, lost, reason, path } = pinged;
    let mut text: String =
        seconds.iter().map(|took| format!("answer from {node} in {}\n", print::seconds(*took))).collect();
    if *lost > 0 {
        let of = *lost as usize + seconds.len();
        let reason = print::visible(reason.as_deref().unwrap_or_default());
        text += &format!(
            "lost: {lost} of {of} ({}), the last because {reason}\n",
            trouble::share(f64::from(*lost) / of as f64)
        );
    }
    if let Some(figures) = figures(seconds) {
        text += &format!("round trips: {figures}\n");
    }
    if let Some(path) = path {
        let from = path.from.as_deref().unwrap_or(print::NOTHING);
        text += &print::visible(&format!("path: {from} -> {}", info::link(&path.link)));
        text += "\n";
    }
    text
}

/// Least, median, 90th and 99th percentile and most; those percentiles only that so many round trips can tell.
fn figures(seconds: &[f64]) -> Option<String> {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (least, most) = (*sorted.first()?, *sorted.last()?);
    // The nearest rank: the smallest one that so many percent do not exceed.
    let percentile =
        |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).clamp(1, sorted.len()) - 1];
    let mut told = vec![("least", least), ("median", percentile(50))];
    told.extend((sorted.len() >= 10).then(|| ("90%", percentile(90))));
    told.extend((sorted.len() >= 100).then(|| ("99%", percentile(99))));
    told.push(("most", most));
    let told: Vec<_> = told.iter().map(|(name, took)| format!("{name} {}", print::seconds(*took))).collect();
    Some(told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_told_where_there_are_enough_round_trips_for_them() {
        let upto = |n: u32| (1..=n).rev().map(f64::from).collect::<Vec<_>>();
        assert_eq!(figures(&[]), None);
        assert_eq!(figures(&upto(3)).as_deref(), Some("least 1.00s, median 2.00s, most 3.00s"));
        assert_eq!(figures(&upto(10)).as_deref(), Some("least 1.00s, median 5.00s, 90% 9.00s, most 10.00s"));
        let hundred = "least 1.00s, median 50.00s, 90% 90.00s, 99% 99.00s, most 100.00s";
        assert_eq!(figures(&upto(100)).as_deref(), Some(hundred));
    }
}
