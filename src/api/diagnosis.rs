//! `/v1/cluster/facts`: what every node measures of itself and of its links, gathered by the asked one. What
//! follows from it is for the reader to say.

use std::sync::Arc;
use std::time::Instant;

use axum::Json as Body;
use axum::extract::State;
use futures_util::stream::{self, StreamExt};
use serde::Deserialize;

use super::Api;
use super::problem::Problem;
use super::read::Query;
use super::types::{Facts, NodeReport};
use crate::core::error::Refusal;
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::MemberView;
use crate::core::wire::{NodeFacts, RequestBody, ResponseBody};
use crate::node::{Handle, clock};

/// Whose facts are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Whose {
    /// All nodes when absent.
    node: Option<NodeId>,
}

/// One report a node, in order of names. A node that cannot be asked has its reason in its report.
pub(super) async fn facts(
    State(api): State<Arc<Api>>,
    Query(Whose { node }): Query<Whose>,
) -> Result<Body<Vec<NodeReport>>, Problem> {
    let view = api.node.view();
    let is_meant = |member: &&MemberView| node.as_ref().is_none_or(|node| member.card.node_id == *node);
    let members: Vec<_> = view.members.iter().map(|(member, _)| member).filter(is_meant).cloned().collect();
    if let (Some(node), true) = (node, members.is_empty()) {
        return Err(Refusal::UnknownNode { node }.into());
    }
    let deadline = tokio::time::Instant::now() + limits::REQUEST_DEADLINE;
    let reports = stream::iter(members).map(|member| report(&api.node, member, deadline));
    Ok(Body(reports.buffered(limits::FACTS_ASKED_AT_ONCE).collect().await))
}

async fn report(node: &Handle, member: MemberView, deadline: tokio::time::Instant) -> NodeReport {
    let asked = member.card.node_id.clone();
    let deadline = deadline.min(tokio::time::Instant::now() + limits::FACTS_DEADLINE);
    let answer = if member.status.is_reachable() {
        let asking = ask(node, asked.clone());
        tokio::time::timeout_at(deadline, asking).await.unwrap_or_else(|_| {
            let seconds = limits::FACTS_DEADLINE.as_secs();
            Err(format!("{asked} did not answer within {seconds} s"))
        })
    } else {
        Err(format!("{asked} is {}: it cannot be asked", member.status))
    };
    let load = member.load.filter(|_| member.status.is_reachable());
    let card = member.card;
    let mut report = NodeReport {
        is_asked: card.node_id == *node.own(),
        node_id: card.node_id,
        status: member.status.to_string(),
        addresses: card.addresses,
        region: card.region,
        zone: card.zone,
        labels: card.labels,
        incarnation: member.incarnation.0,
        agents: member.agents,
        cpu_percent: load.map(|load| f64::from(load.cpu_permille) / 10.0),
        memory_bytes: load.map(|load| load.memory_bytes),
        seconds: None,
        clock_seconds: None,
        facts: None,
        error: None,
    };
    match answer {
        Ok(Told { facts, seconds, clock_seconds }) => {
            report.seconds = Some(seconds);
            // Its own clock is what the others are compared with.
            report.clock_seconds = (!report.is_asked).then_some(clock_seconds);
            report.facts = Some(Facts::from(facts));
        }
        Err(reason) => report.error = Some(reason),
    }
    report
}

struct Told {
    facts: NodeFacts,
    seconds: f64,
    clock_seconds: f64,
}

async fn ask(node: &Handle, asked: NodeId) -> Result<Told, String> {
    let (begun, begun_ms) = (Instant::now(), clock::unix_ms());
    let answer =
        node.request(asked.clone(), RequestBody::Facts).await.map_err(|refusal| refusal.to_string())?;
    let seconds = begun.elapsed().as_secs_f64();
    let ResponseBody::Facts(facts) = answer else {
        return Err(format!("{asked} gave an answer that this version does not understand"));
    };
    let clock_seconds = clock_difference(begun_ms, facts.unix_ms, seconds);
    Ok(Told { facts: *facts, seconds, clock_seconds })
}

/// How far a clock is ahead that showed `theirs_ms` somewhere in a round trip that began at `ours_ms`.
fn clock_difference(ours_ms: u64, theirs_ms: u64, round_trip_seconds: f64) -> f64 {
    // Both fit into 53 bits for as long as anybody will care.
    (theirs_ms as f64 - ours_ms as f64) / 1e3 - round_trip_seconds / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_in_the_middle_of_the_round_trip() {
        let now = 1_800_000_000_000;
        assert!(clock_difference(now, now + 100, 0.2).abs() < 1e-6);
        assert!((clock_difference(now, now + 10_100, 0.2) - 10.0).abs() < 1e-6);
        assert!((clock_difference(now, now - 4_900, 0.2) + 5.0).abs() < 1e-6);
    }
}
