//! What a route and a start take on this node, measured when somebody asks, on the way that all messages take.
//!
//! Each node answers such messages at a name that no agent can have ([`MEASURED_AGENT`]), as the built-in `echo` would.
//! It is in nobody's view, so the routes to it are made here and are nobody else's. One message, or one instance, at a
//! time, so many of them, so long, and one measurement at a time: other messages wait for none of it.

use std::time::{Duration, Instant};

use super::clock;
use super::dispatch::{Instance, Routes, Way};
use super::handle::Handle;
use crate::core::error::{Refusal, SendError};
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::{
    Address, AgentState, CrossRegion, Figures, Gauge, MEASURED_AGENT, MemberStatus, Message, Offer, Samples,
    Verdict, measuring_message,
};
use crate::core::wire::RequestBody;

/// One row: what was measured, and what that says of its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// What.
    pub gauge: Gauge,
    /// Between the asked node and this one; the asked one itself where none other takes part, nothing where there is no peer.
    pub node: Option<NodeId>,
    /// The figures.
    pub figures: Figures,
    /// Whether the target is met.
    pub verdict: Verdict,
    /// Why it was not measured, or not in full, or why messages failed.
    pub reason: Option<String>,
}

impl Measured {
    fn new(gauge: Gauge, node: Option<NodeId>, samples: Samples) -> Self {
        let reason = samples.reason.clone();
        let figures = Figures::of(samples);
        let verdict = gauge.verdict(&figures);
        let too_few = || format!("{} samples in {:?} tell no p99", figures.count, limits::MEASURED_FOR_MAX);
        let reason = reason.or_else(|| (verdict == Verdict::NotMeasured).then(too_few));
        Self { gauge, node, figures, verdict, reason }
    }
}

impl Handle {
    /// Measures what messages and starts take, now: on this node, to `peer` (the nearest when none is named), and of a
    /// WASM agent's instance.
    ///
    /// # Errors
    /// [`Refusal`]: another measurement runs on this node, or `peer` is not known, is down or is this node.
    pub async fn measure(&self, peer: Option<NodeId>) -> Result<Vec<Measured>, Refusal> {
        let Ok(_turn) = self.measuring.try_acquire() else {
            return Err(Refusal::Overloaded {
                what: format!("the one place for measurements on {}", self.own),
            });
        };
        let peer = match peer {
            Some(node) if node == self.own => {
                return Err(Refusal::BadRequest {
                    why: format!("{node} is the asked node: name a peer of it"),
                });
            }
            Some(node) => Some(node),
            None => self.nearest(),
        };
        let remote = match &peer {
            Some(node) => self.measure_remote(node).await?,
            None => Samples::nothing("this node reaches no other"),
        };
        let local = self.measure_route(&self.own, Way::Here).await;
        let starts = self.runtime.measure_wasm_starts().await;
        Ok(vec![
            Measured::new(Gauge::LocalRoute, Some(self.own.clone()), local),
            Measured::new(Gauge::RemoteRoute, peer, remote),
            Measured::new(Gauge::WasmStart, Some(self.own.clone()), starts),
        ])
    }

    /// The peer with the shortest round trip; of several, the first by name.
    fn nearest(&self) -> Option<NodeId> {
        let view = self.view();
        let others = view
            .members
            .iter()
            .filter(|(member, _)| member.card.node_id != self.own && member.status.is_reachable());
        let nearest = others.min_by_key(|(member, link)| {
            let rtt = link.and_then(|link| self.rtt(link)).or(member.expected_rtt);
            (rtt.unwrap_or(Duration::MAX), member.card.node_id.clone())
        });
        nearest.map(|(member, _)| member.card.node_id.clone())
    }

    async fn measure_remote(&self, node: &NodeId) -> Result<Samples, Refusal> {
        // Makes the link if there is none, and refuses a node that cannot be asked.
        let within = Duration::from_millis(limits::MEASURED_ASK_DEADLINE_MS.into());
        let pinging = self.request(node.clone(), RequestBody::Ping);
        match tokio::time::timeout(within, pinging).await {
            Ok(Ok(_)) => {}
            Ok(Err(refusal @ (Refusal::UnknownNode { .. } | Refusal::NodeDown { .. }))) => {
                return Err(refusal);
            }
            Ok(Err(refusal)) => return Ok(Samples::nothing(refusal.to_string())),
            Err(_) => return Ok(Samples::nothing(format!("{node} answered no ping within {within:?}"))),
        }
        let view = self.view();
        let member = view.members.iter().find(|(member, _)| member.card.node_id == *node);
        let link = member.and_then(|(_, link)| *link).and_then(|link| self.transport.peer(link));
        Ok(match link {
            Some(peer) => self.measure_route(node, Way::Link(peer)).await,
            None => Samples::nothing(format!("the link to {node} ended")),
        })
    }

    /// Messages one after another, each with its answer; the first that fails ends that.
    async fn measure_route(&self, node: &NodeId, way: Way) -> Samples {
        let agent = AgentName::new(MEASURED_AGENT).expect("it is a name");
        let instance = Instance {
            agent: agent.clone(),
            node: node.clone(),
            status: MemberStatus::Alive,
            state: AgentState::Running,
            way,
            region: String::new(),
            rtt: None,
            offer: Offer::default(),
            on_call: true,
            open: None,
            order: None,
            is_open: false,
            hash: 0,
        };
        let routes = Routes::new([instance], "", &CrossRegion::default(), &Routes::default());
        let to = Address { agent, node: Some(node.clone()) };
        let mut samples = Samples::default();
        let begun = Instant::now();
        while samples.took.len() < limits::MEASURED_ASKS && begun.elapsed() < limits::MEASURED_FOR_MAX {
            let message = self.measuring_message(to.clone());
            let sent = Instant::now();
            match self.dispatcher.ask_along(&routes, message).await {
                Ok(_) => samples.took.push(sent.elapsed()),
                Err(SendError::UnknownAgent { .. }) => {
                    return Samples::nothing(format!("{node} is of a version that answers no measurements"));
                }
                Err(error) => {
                    samples.fail(error.to_string());
                    break;
                }
            }
            // An answer on the same node comes without waiting: others have their turn all the same.
            tokio::task::yield_now().await;
        }
        samples
    }

    fn measuring_message(&self, to: Address) -> Message {
        measuring_message(clock::message_id(), format!("{MEASURED_AGENT}@{}", self.own), to)
    }
}
