//! One run of a WASM agent: from its module to the answers to its messages.
//!
//! A long-lived agent has one instance, which handles one message at a time; between two it waits on the node's
//! shelf, from which it may be pushed. An agent with an instance for each message handles some of them at once. An
//! instance that was stopped is never used again: the next message has a fresh one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::host::Host;
use super::instance::{Ended, Instance, Prepared, Reply, Ticket};
use crate::core::contract::AgentReport;
use crate::core::error::SendError;
use crate::core::limits;
use crate::core::model::{Answer, InstanceLife, WasmSource};
use crate::node::runtime::agent::{Agent, Run};
use crate::node::runtime::breaker::Fate;
use crate::node::runtime::mailbox::{Mailbox, Phase, Taken};
use crate::node::runtime::{Ground, mailbox_of, protocol};

/// Runs the agent until it is stopped. It ends by itself only before it runs.
pub(in crate::node::runtime) async fn supervise(
    ground: &Arc<Ground>,
    agent: &Arc<Agent>,
    run: &Arc<Run>,
    source: WasmSource,
) -> AgentReport {
    let mut stop = run.stop.subscribe();
    let started = tokio::select! {
        started = Box::pin(Worker::start(ground, agent, source)) => started,
        _ = stop.wait_for(Option::is_some) => return AgentReport::Stopped,
    };
    let worker = match started {
        Ok(worker) => worker,
        Err(reason) => return AgentReport::Ended { reason },
    };
    run.become_phase(Phase::Running);
    ground.report(&agent.name, run.number, AgentReport::Running);
    worker.serve(run, mailbox_of(run), stop).await;
    AgentReport::Stopped
}

struct Worker {
    ground: Arc<Ground>,
    agent: Arc<Agent>,
    source: Arc<WasmSource>,
    prepared: Arc<Prepared>,
    /// Where a long-lived agent's instance waits.
    idle: Mutex<Option<Ticket>>,
}

impl Worker {
    /// Has the module, and an instance if there is room for one: what is wrong with either is told to whoever deploys.
    async fn start(ground: &Arc<Ground>, agent: &Arc<Agent>, source: WasmSource) -> Result<Self, String> {
        let prepared = ground.wasm.prepare(ground, &source).await?;
        let (ground, agent, source) = (Arc::clone(ground), Arc::clone(agent), Arc::new(source));
        let worker = Self { ground, agent, source, prepared, idle: Mutex::default() };
        if let Some(place) = worker.ground.wasm.shelf().free_place() {
            let within = worker.agent.run.load().start_timeout;
            let instance = worker.make(place, within).await.map_err(|ended| match ended {
                Ended::Deadline => format!("its instance was not made within {} s", within.as_secs()),
                Ended::Failed(reason) => reason,
            })?;
            worker.put_away(instance);
        }
        Ok(worker)
    }

    async fn serve(&self, run: &Run, mailbox: &Mailbox, mut stop: watch::Receiver<Option<Duration>>) {
        let window = window_of(&self.source);
        let mut calls = FuturesUnordered::new();
        // Until when it may drain.
        let mut until: Option<Instant> = None;
        loop {
            while calls.len() < window
                && let Some(taken) = mailbox.take(Instant::now())
            {
                calls.push(Box::pin(self.call(taken)));
            }
            if until.is_some() && calls.is_empty() && mailbox.is_empty() {
                return;
            }
            let far = || Instant::now() + limits::DEADLINE_MAX;
            let over = mailbox.next_deadline().unwrap_or_else(far);
            tokio::select! {
                Some((id, wants_answer, fate)) = calls.next() => {
                    if let Some(error) = fate.error() {
                        let silent = if wants_answer { "" } else { ", and nobody waits for its answer" };
                        self.agent.log.push(&format!("shoal: message {id} failed{silent}: {error}"));
                    }
                    // One that is over already was told so.
                    let _ = self.agent.settle(mailbox, id, fate);
                }
                () = mailbox.arrived.notified() => {}
                () = mailbox.sooner.notified() => {}
                () = sleep_until(over.min(until.unwrap_or(over))) => {
                    let now = Instant::now();
                    self.agent.expire(mailbox, now);
                    if until.is_some_and(|until| until <= now) {
                        return;
                    }
                }
                Ok(()) = stop.changed() => {
                    if let Some(drain) = *stop.borrow_and_update() {
                        run.become_phase(Phase::Draining);
                        let asked = Instant::now() + drain.min(limits::DEADLINE_MAX);
                        // A second stop may shorten the time, never lengthen it.
                        until = Some(until.map_or(asked, |earlier| earlier.min(asked)));
                    }
                }
            }
        }
    }

    async fn call(&self, taken: Taken) -> (Uuid, bool, Fate) {
        let (id, wants_answer) = (taken.message.id, taken.wants_answer);
        let deadline_ms = taken.message.deadline_ms.into();
        let end = Instant::now() + taken.left;
        let handled = match tokio::time::timeout_at(end, self.instance(end)).await {
            Ok(Ok(mut instance)) => {
                let handled = instance.handle(taken).await;
                if handled.is_ok() {
                    self.put_away(instance);
                }
                handled
            }
            Ok(Err(ended)) => Err(ended),
            Err(_) => Err(Ended::Deadline),
        };
        let fate = match handled {
            Ok(Ok(reply)) => self.answer(reply, wants_answer).map_or_else(Fate::Declined, Fate::Answered),
            Ok(Err(reason)) => Fate::Declined(self.agent.failed(&reason)),
            Err(Ended::Deadline) => {
                metrics::counter!("shoal_wasm_stopped_total", "reason" => "deadline").increment(1);
                Fate::Failed(SendError::DeadlineExceeded { deadline_ms })
            }
            Err(Ended::Failed(reason)) => {
                metrics::counter!("shoal_wasm_stopped_total", "reason" => "failed").increment(1);
                Fate::Failed(self.agent.failed(&reason))
            }
        };
        (id, wants_answer, fate)
    }

    fn answer(&self, reply: Option<Reply>, wants_answer: bool) -> Result<Answer, SendError> {
        let from = self.agent.address.clone();
        match reply {
            Some(Reply { content_type, content }) => {
                let content = content.into();
                protocol::check_content(&content)?;
                Ok(Answer { from, content_type, content })
            }
            None if wants_answer => Err(self.agent.failed("it gave no answer")),
            // Nobody sees it.
            None => Ok(Answer { from, content_type: String::new(), content: bytes::Bytes::new() }),
        }
    }

    /// The agent's idle instance, or a fresh one.
    async fn instance(&self, end: Instant) -> Result<Instance, Ended> {
        let ticket = self.idle().take();
        if let Some(instance) = ticket.and_then(|ticket| self.ground.wasm.shelf().take(ticket)) {
            return Ok(instance);
        }
        let place = self.ground.wasm.shelf().place().await;
        self.make(place, end.saturating_duration_since(Instant::now())).await
    }

    async fn make(&self, place: OwnedSemaphorePermit, within: Duration) -> Result<Instance, Ended> {
        let host = Host::new(Arc::clone(&self.ground), Arc::clone(&self.agent), Arc::clone(&self.source));
        Instance::new(&self.prepared, host, place, within).await
    }

    fn put_away(&self, instance: Instance) {
        match self.source.instance {
            InstanceLife::LongLived => *self.idle() = self.ground.wasm.shelf().put(instance),
            InstanceLife::PerMessage => drop(instance),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Option<Ticket>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The instance goes with its agent.
impl Drop for Worker {
    fn drop(&mut self) {
        let ticket = self.idle().take();
        drop(ticket.and_then(|ticket| self.ground.wasm.shelf().take(ticket)));
    }
}

/// Messages that an agent handles at once.
pub(in crate::node::runtime) fn window_of(source: &WasmSource) -> usize {
    match source.instance {
        InstanceLife::LongLived => 1,
        InstanceLife::PerMessage => limits::WASM_PER_MESSAGE_AT_ONCE_MAX,
    }
}
