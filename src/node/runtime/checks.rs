//! Health checks: while a run takes messages, it is asked again and again whether it is well.
//!
//! What a check finds goes to the core, which decides what comes of it; the last [`limits::CHECKS_KEPT_MAX`] are kept.
//! An agent that is busy is not ill: where a check is not answered in time, or finds the mailbox full, and the agent has
//! finished other messages since the check before, or taken some that want no answer, it is degraded and not more.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::agent::{Agent, Run};
use super::mailbox::Phase;
use super::{Delivery, Ground, http};
use crate::core::contract::AgentReport;
use crate::core::error::SendError;
use crate::core::ids::AgentName;
use crate::core::limits;
use crate::core::model::{Address, Checkup, HealthCheck, Message, Performative, Probe};
use crate::core::wire::CheckEntry;
use crate::node::clock;

type HttpClient = Client<HttpConnector, Empty<Bytes>>;

/// What has not changed is told again after so long.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Checks a run until it is over. The task is aborted with the run at the latest.
pub(super) async fn check(ground: Weak<Ground>, agent: Arc<Agent>, run: Arc<Run>, check: HealthCheck) {
    let interval = Duration::from_millis(check.interval_ms.into());
    // Agents that have started together are not checked together.
    let mut ticks = interval_at(Instant::now() + interval.mul_f64(0.5 + share_of(&agent.name)), interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut checker = Checker::new(agent, run, check);
    let mut told = ("", Instant::now());
    loop {
        ticks.tick().await;
        match checker.run.phase() {
            Phase::Starting => continue,
            Phase::Running => {}
            Phase::Draining | Phase::Ended => return,
        }
        let begun = Instant::now();
        let Some(found) = checker.look().await.map(Checkup::bounded) else {
            continue;
        };
        if checker.run.phase() != Phase::Running {
            // What was asked of a run that was ending tells nothing.
            return;
        }
        let Some(ground) = ground.upgrade() else { return };
        let took_ms = u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX);
        checker.agent.note_check(CheckEntry { unix_ms: clock::unix_ms(), took_ms, found: found.clone() });
        // That all is as it was is told again now and then: the core may have kept the last change to itself.
        let (before, at) = told;
        if found.is_failure() || found.as_str() != before || begun.duration_since(at) >= TOLD_AGAIN_AFTER {
            told = (found.as_str(), begun);
            ground.report(&checker.agent.name, checker.run.number, AgentReport::Checked { found });
        }
    }
}

/// A number from 0 to 1 for a name, the same each time.
fn share_of(name: &AgentName) -> f64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() as f64 / u64::MAX as f64
}

struct Checker {
    agent: Arc<Agent>,
    run: Arc<Run>,
    check: HealthCheck,
    client: HttpClient,
    /// Where health was found.
    path: Option<&'static str>,
    /// How far the agent had come when the check before was made.
    progress: u64,
}

impl Checker {
    fn new(agent: Arc<Agent>, run: Arc<Run>, check: HealthCheck) -> Self {
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        let progress = agent.progress();
        Self { agent, run, check, client, path: None, progress }
    }

    /// `None`: the agent takes no messages now.
    async fn look(&mut self) -> Option<Checkup> {
        let within = Duration::from_millis(self.check.timeout_ms.into());
        let begun = Instant::now();
        let asked = async {
            match &self.check.probe {
                Probe::Http { path: Some(path) } => Some(get(&self.client, &self.run, path).await.1),
                Probe::Http { path: None } => Some(self.find().await),
                Probe::Answer { content } => self.send(content).await,
            }
        };
        // A message has its own deadline, which ends it in the agent's mailbox too.
        let patience = within + limits::CHECK_SLACK;
        let found = match timeout(patience, asked).await {
            Ok(found) => found?,
            Err(_) => Checkup::Timeout { after_ms: self.check.timeout_ms },
        };
        let progress = self.agent.progress();
        let has_progressed = std::mem::replace(&mut self.progress, progress) < progress;
        let took = begun.elapsed();
        let is_message = matches!(self.check.probe, Probe::Answer { .. });
        Some(match found {
            Checkup::Healthy if took > within => Checkup::Timeout { after_ms: self.check.timeout_ms },
            Checkup::Healthy if took > within / 2 => {
                Checkup::Degraded { why: format!("it took {} ms to answer", took.as_millis()) }
            }
            Checkup::Timeout { after_ms } if has_progressed => Checkup::Degraded {
                why: format!("it does other work, and does not answer this within {after_ms} ms"),
            },
            Checkup::Degraded { why } if is_message && !has_progressed => {
                Checkup::Unhealthy { why: format!("{why}, and it does nothing") }
            }
            found @ (Checkup::Healthy
            | Checkup::Degraded { .. }
            | Checkup::Unhealthy { .. }
            | Checkup::Timeout { .. }) => found,
        })
    }

    /// Sends a message as anybody might.
    async fn send(&self, content: &str) -> Option<Checkup> {
        let (told, hears) = oneshot::channel();
        let to = Address { agent: self.agent.name.clone(), node: Some(self.agent.node.clone()) };
        let message = Message {
            id: clock::message_id(),
            from: format!("health@{}", self.agent.node),
            to,
            performative: Performative::Request,
            conversation_id: None,
            in_reply_to: None,
            content_type: "text/plain; charset=utf-8".to_owned(),
            content: Bytes::copy_from_slice(content.as_bytes()),
            deadline_ms: self.check.timeout_ms,
            traceparent: None,
            hops: 0,
            extensions: Default::default(),
        };
        let finish = Box::new(move |result| _ = told.send(result));
        self.agent.deliver_check(Delivery { message, wants_answer: true, finish });
        let unhealthy = |why: String| Some(Checkup::Unhealthy { why });
        match hears.await {
            Ok(Ok(_)) => Some(Checkup::Healthy),
            Ok(Err(SendError::DeadlineExceeded { .. })) => {
                Some(Checkup::Timeout { after_ms: self.check.timeout_ms })
            }
            Ok(Err(SendError::Overloaded { .. })) => {
                Some(Checkup::Degraded { why: "its mailbox is full".to_owned() })
            }
            Ok(Err(SendError::NotRunning { .. })) | Err(_) => None,
            Ok(Err(SendError::AgentFailed { reason, .. })) => unhealthy(reason),
            Ok(Err(error)) => unhealthy(error.to_string()),
        }
    }

    /// Asks at the usual paths, the one that was found before first.
    async fn find(&mut self) -> Checkup {
        let first = self.path;
        for path in first.into_iter().chain(Probe::PATHS.into_iter().filter(|path| Some(*path) != first)) {
            let (status, found) = get(&self.client, &self.run, path).await;
            if status != Some(StatusCode::NOT_FOUND) {
                self.path = status.map(|_| path);
                return found;
            }
        }
        self.path = None;
        Checkup::Unhealthy { why: format!("there is nothing at {}", Probe::PATHS.join(", ")) }
    }
}

/// Asks at one path; without a status it could not be asked.
async fn get(client: &HttpClient, run: &Run, path: &str) -> (Option<StatusCode>, Checkup) {
    let unhealthy = |why: String| Checkup::Unhealthy { why };
    let Some(port) = run.port() else {
        return (None, unhealthy("it has no port".to_owned()));
    };
    let request = match Request::get(format!("http://127.0.0.1:{port}{path}")).body(Empty::new()) {
        Ok(request) => request,
        Err(error) => return (None, unhealthy(format!("{path} cannot be asked: {error}"))),
    };
    let response = match client.request(request).await {
        Ok(response) => response,
        Err(error) => return (None, unhealthy(http::explain(&error))),
    };
    let (parts, mut body) = response.into_parts();
    let status = parts.status;
    let found = if status.is_success() {
        loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break unhealthy(format!("{path}: its response broke off: {error}")),
                None => break Checkup::Healthy,
            }
        }
    } else if status == StatusCode::TOO_MANY_REQUESTS {
        Checkup::Degraded { why: format!("{path}: it says that it is busy (429)") }
    } else {
        let start = http::start_of(body).await;
        unhealthy(format!("{path}: HTTP status {status}: {start}"))
    };
    (Some(status), found)
}
