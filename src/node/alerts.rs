//! Alerts: what befalls the agents of this node, and nodes that fail, posted as JSON to the webhooks of its configuration.
//!
//! One task follows the node's events and puts what a webhook wants into its queue; each webhook has a task that posts one
//! alert after the other, each a bounded number of times with pauses between. Nothing waits for either: the events are a feed
//! that may be missed, and a full queue drops what comes. What is dropped is counted and told in the log. What waits when the
//! node ends is lost, and so is what nobody took in all attempts; one whose answer is lost is posted again, under one id.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{sleep, timeout};

use super::config::{AlertKind, Webhook};
use super::events::Numbered;
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::{Event, MemberStatus};

/// The body of a post.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Alert {
    /// The same in each attempt, and never given twice.
    id: String,
    /// A name of [`AlertKind`].
    event: &'static str,
    /// Whose agent it is, or which node has failed.
    node: NodeId,
    agent: Option<AgentName>,
    reason: Option<String>,
    /// Milliseconds since 1970 by the clock of the node that posts it.
    unix_ms: u64,
    /// The node that posts it.
    seen_by: NodeId,
}

/// What became of an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Posted {
    Taken,
    /// It would be refused again.
    Refused(String),
    /// It may be taken later.
    Failed(String),
}

/// Begins to tell the webhooks of what happens from now on.
pub(super) fn start(webhooks: &[Webhook], own: &NodeId, events: broadcast::Receiver<Numbered>) {
    if webhooks.is_empty() {
        return;
    }
    let posters = webhooks.iter().map(|webhook| {
        let (queue, waiting) = mpsc::channel(limits::ALERTS_WAITING_MAX);
        tokio::spawn(Poster::new(webhook.clone()).run(waiting));
        Queue { webhook: webhook.clone(), queue, overflowed: 0 }
    });
    tokio::spawn(follow(Watch::new(own.clone()), posters.collect(), events));
}

async fn follow(mut watch: Watch, mut queues: Vec<Queue>, mut events: broadcast::Receiver<Numbered>) {
    loop {
        match events.recv().await {
            Ok(numbered) => {
                let Some((kind, alert)) = watch.alert_of(&numbered) else { continue };
                let body: Bytes = serde_json::to_vec(&alert).expect("texts and numbers are JSON").into();
                let wanted = queues.iter_mut().filter(|queue| queue.webhook.alerts.contains(&kind));
                wanted.for_each(|queue| queue.put(body.clone()));
            }
            Err(RecvError::Lagged(missed)) => {
                // Some of them may have been alerts: better one too many is counted.
                metrics::counter!("shoal_alerts_dropped_total").increment(missed);
                tracing::warn!(missed, "alerts may be missing: more happened at once than is kept");
                // What is known of agents may be wrong now: each is looked at anew when it is heard of next.
                watch.agents.clear();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// What is known of this node's agents, to tell changes from repetitions.
#[derive(Debug)]
struct Watch {
    own: NodeId,
    /// Agents that are there: no more than a node may have.
    agents: BTreeMap<AgentName, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    state: String,
    is_refusing: bool,
}

impl Watch {
    fn new(own: NodeId) -> Self {
        Self { own, agents: BTreeMap::new() }
    }

    /// What is to be told of an event.
    fn alert_of(&mut self, numbered: &Numbered) -> Option<(AlertKind, Alert)> {
        let Numbered { sequence, unix_ms, event } = numbered;
        let (kind, node, agent, reason) = match event {
            Event::Agent { agent, node, state, reason } if *node == self.own => {
                (self.on_state(agent, state)?, node, Some(agent), reason.clone())
            }
            Event::Breaker { agent, node, state, reason } if *node == self.own => {
                (self.on_breaker(agent, state)?, node, Some(agent), reason.clone())
            }
            Event::LaunchHeld { agent, node, phase } => {
                let reason = format!("phase {phase} is held up: it has failed and is not optional");
                (AlertKind::LaunchHeld, node, Some(agent), Some(reason))
            }
            Event::Member { node, status: MemberStatus::Failed, reason } => {
                (AlertKind::NodeFailed, node, None, Some(reason.clone()))
            }
            Event::Agent { .. }
            | Event::Breaker { .. }
            | Event::Member { .. }
            | Event::Joined { .. }
            | Event::DuplicateNode { .. }
            | Event::Mode { .. }
            | Event::Ticket { .. }
            | Event::Ordered { .. }
            | Event::Settled { .. }
            | Event::Rollout { .. }
            | Event::Roster { .. }
            | Event::Refused { .. } => return None,
        };
        let alert = Alert {
            id: format!("{}-{unix_ms}-{sequence}", self.own),
            event: kind.as_str(),
            node: node.clone(),
            agent: agent.cloned(),
            reason,
            unix_ms: *unix_ms,
            seen_by: self.own.clone(),
        };
        Some((kind, alert))
    }

    fn on_state(&mut self, agent: &AgentName, state: &str) -> Option<AlertKind> {
        let before = if state == "stopped" {
            self.agents.remove(agent)?.state
        } else {
            let seen = self.agents.entry(agent.clone()).or_default();
            std::mem::replace(&mut seen.state, state.to_owned())
        };
        match (before.as_str(), state) {
            (before, now) if before == now => None,
            (_, "quarantined") => Some(AlertKind::Quarantined),
            ("quarantined", _) => Some(AlertKind::Released),
            (_, "restarting") => Some(AlertKind::Restarting),
            (_, _) => None,
        }
    }

    /// A trial between two openings is neither.
    fn on_breaker(&mut self, agent: &AgentName, state: &str) -> Option<AlertKind> {
        let seen = self.agents.entry(agent.clone()).or_default();
        let is_refusing = state != "closed";
        match (std::mem::replace(&mut seen.is_refusing, is_refusing), is_refusing) {
            (false, true) => Some(AlertKind::BreakerOpened),
            (true, false) => Some(AlertKind::BreakerClosed),
            (true, true) | (false, false) => None,
        }
    }
}

/// What waits for a webhook.
struct Queue {
    webhook: Webhook,
    queue: mpsc::Sender<Bytes>,
    /// Alerts that found it full.
    overflowed: u64,
}

impl Queue {
    fn put(&mut self, body: Bytes) {
        match self.queue.try_send(body) {
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => {
                metrics::counter!("shoal_alerts_dropped_total").increment(1);
                self.overflowed += 1;
                if self.overflowed.is_power_of_two() {
                    let (webhook, dropped) = (&self.webhook.authority, self.overflowed);
                    tracing::warn!(webhook, dropped, "alerts were dropped: as many wait as may");
                }
            }
        }
    }
}

struct Poster {
    webhook: Webhook,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Poster {
    fn new(webhook: Webhook) -> Self {
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        Self { webhook, client }
    }

    async fn run(self, mut waiting: mpsc::Receiver<Bytes>) {
        while let Some(body) = waiting.recv().await {
            match self.deliver(&body).await {
                Ok(()) => metrics::counter!("shoal_alerts_posted_total").increment(1),
                Err(why) => {
                    metrics::counter!("shoal_alerts_dropped_total").increment(1);
                    let (webhook, alert) = (&self.webhook.authority, String::from_utf8_lossy(&body));
                    tracing::warn!(webhook, why, %alert, "an alert was dropped");
                }
            }
        }
    }

    /// Posts an alert until it is taken or refused, as often as may be.
    async fn deliver(&self, body: &Bytes) -> Result<(), String> {
        let mut attempt = 1;
        loop {
            let why = match self.post(body.clone()).await {
                Posted::Taken => return Ok(()),
                Posted::Refused(why) => return Err(why),
                Posted::Failed(why) if attempt == limits::ALERT_ATTEMPTS_MAX => {
                    return Err(format!("{why}, {attempt} times"));
                }
                Posted::Failed(why) => why,
            };
            tracing::debug!(webhook = self.webhook.authority, attempt, why, "an alert was not taken");
            sleep(pause_after(attempt)).await;
            attempt += 1;
        }
    }

    async fn post(&self, body: Bytes) -> Posted {
        let Webhook { authority, path, .. } = &self.webhook;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{authority}{path}"))
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("shoal/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Posted::Refused(error.to_string()),
        };
        match timeout(limits::ALERT_DEADLINE, self.client.request(request)).await {
            Ok(Ok(response)) => outcome_of(response.status()),
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                Posted::Failed(format!("{error}{}", cause.unwrap_or_default()))
            }
            Err(_) => {
                Posted::Failed(format!("it did not answer within {} s", limits::ALERT_DEADLINE.as_secs()))
            }
        }
    }
}

fn outcome_of(status: StatusCode) -> Posted {
    let is_for_later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    if status.is_success() {
        Posted::Taken
    } else if status.is_server_error() || is_for_later {
        Posted::Failed(format!("it answered {status}"))
    } else {
        Posted::Refused(format!("it answered {status}"))
    }
}

fn pause_after(attempt: u32) -> Duration {
    limits::ALERT_PAUSE * (1 << (attempt - 1).min(limits::ALERT_ATTEMPTS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn agent(name: &str) -> AgentName {
        AgentName::new(name).expect("valid")
    }

    /// What a node n1 tells of these events.
    fn told(events: Vec<Event>) -> Vec<&'static str> {
        let mut watch = Watch::new(node("n1"));
        let numbered = events.into_iter().zip(1..);
        let alerts = numbered.filter_map(|(event, sequence)| {
            watch.alert_of(&Numbered { sequence, unix_ms: 5, event }).map(|(_, alert)| alert.event)
        });
        alerts.collect()
    }

    fn state(at: &str, state: &str) -> Event {
        Event::Agent { agent: agent("a"), node: node(at), state: state.to_owned(), reason: None }
    }

    fn breaker(at: &str, state: &str) -> Event {
        Event::Breaker { agent: agent("a"), node: node(at), state: state.to_owned(), reason: None }
    }

    #[test]
    fn each_change_of_an_agent_is_told_once_and_only_by_its_own_node() {
        let states = ["starting", "running", "running", "restarting", "restarting", "starting", "restarting"];
        let states =
            states.into_iter().chain(["quarantined", "quarantined", "starting", "running", "stopped"]);
        let events: Vec<_> = states.collect();
        let wanted = ["restarting", "restarting", "quarantined", "released"];
        assert_eq!(told(events.iter().map(|name| state("n1", name)).collect()), wanted);
        assert!(told(events.iter().map(|name| state("n2", name)).collect()).is_empty());
        // One that comes anew under its name has no past.
        let events = ["restarting", "quarantined", "stopped", "starting"].map(|name| state("n1", name));
        assert_eq!(told(events.to_vec()), ["restarting", "quarantined", "released"]);
    }

    #[test]
    fn a_breaker_is_told_when_it_opens_and_when_it_closes_and_not_at_each_trial() {
        let states = ["open", "half-open", "open", "half-open", "closed", "open"];
        let events = states.map(|state| breaker("n1", state)).to_vec();
        assert_eq!(told(events), ["breaker_opened", "breaker_closed", "breaker_opened"]);
        assert!(told(vec![breaker("n2", "open")]).is_empty());
    }

    #[test]
    fn a_failed_node_and_a_launch_that_is_held_are_told_with_their_reason() {
        let mut watch = Watch::new(node("n1"));
        let status = MemberStatus::Failed;
        let event = Event::Member { node: node("n2"), status, reason: "no answer".to_owned() };
        let (_, alert) = watch.alert_of(&Numbered { sequence: 7, unix_ms: 5, event }).expect("told");
        let wanted = serde_json::json!({
            "id": "n1-5-7", "event": "node_failed", "node": "n2", "agent": null, "reason": "no answer",
            "unix_ms": 5, "seen_by": "n1",
        });
        assert_eq!(serde_json::to_value(alert).expect("JSON"), wanted);
        let event = Event::LaunchHeld { agent: agent("db"), node: node("n1"), phase: 2 };
        let (_, alert) = watch.alert_of(&Numbered { sequence: 8, unix_ms: 5, event }).expect("told");
        assert_eq!((alert.event, alert.agent), ("launch_held", Some(agent("db"))));
        assert!(alert.reason.expect("a reason").contains("phase 2"));
    }

    #[test]
    fn what_would_be_refused_again_is_not_posted_again() {
        let posted = |code: u16| outcome_of(StatusCode::from_u16(code).expect("a status"));
        assert!([200, 202, 204].into_iter().all(|code| posted(code) == Posted::Taken));
        assert!([301, 400, 404, 410].into_iter().all(|code| matches!(posted(code), Posted::Refused(_))));
        assert!([408, 429, 500, 503].into_iter().all(|code| matches!(posted(code), Posted::Failed(_))));
        let pauses: Vec<_> = (1..limits::ALERT_ATTEMPTS_MAX).map(|n| pause_after(n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8]);
    }

    #[tokio::test]
    async fn a_full_queue_drops_what_comes_and_waits_for_nobody() {
        let (sender, _waiting) = mpsc::channel(2);
        let webhook = Webhook {
            authority: "127.0.0.1:1".to_owned(),
            path: "/".to_owned(),
            alerts: AlertKind::ALL.into_iter().map(|(_, kind)| kind).collect(),
        };
        let mut queue = Queue { webhook, queue: sender, overflowed: 0 };
        (0..5).for_each(|_| queue.put(Bytes::from_static(b"{}")));
        assert_eq!(queue.overflowed, 3);
    }
}
