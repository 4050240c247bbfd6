//! What this node tells of itself when it is asked: facts, put together from those who measure them, and
//! its history. Both touch the disk or cost time, so neither is done on the driver's task.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::clock;
use super::driver::Shared;
use super::runtime::Runtime;
use super::store::History;
use super::transport::{Transport, TransportFacts};
use crate::core::contract::{Input, NodeAnswer, NodeQuery, View};
use crate::core::limits;
use crate::core::model::Profile;
use crate::core::wire::{MemberFacts, NodeFacts, QueueFacts};

/// The span over which [`Lateness`] remembers, and the parts that it forgets it in.
const LATE_WINDOW: Duration = Duration::from_secs(60);
const LATE_PARTS: usize = 6;

/// How late the main loop was at most in the last minute.
#[derive(Debug)]
pub(super) struct Lateness {
    origin: Instant,
    /// For each part of the window the number of the part that it stands for, and the worst in it.
    parts: Mutex<[(u64, Duration); LATE_PARTS]>,
}

impl Default for Lateness {
    fn default() -> Self {
        Self { origin: Instant::now(), parts: Mutex::default() }
    }
}

impl Lateness {
    /// Takes in how late the loop was once.
    pub(super) fn note(&self, late: Duration) {
        self.note_at(self.origin.elapsed(), late);
    }

    /// The worst of the last minute.
    pub(super) fn worst(&self) -> Duration {
        self.worst_at(self.origin.elapsed())
    }

    fn note_at(&self, at: Duration, late: Duration) {
        let number = part_of(at);
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let part = &mut parts[(number % LATE_PARTS as u64) as usize];
        *part = if part.0 == number { (number, part.1.max(late)) } else { (number, late) };
    }

    fn worst_at(&self, at: Duration) -> Duration {
        let now = part_of(at);
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = parts.iter().filter(|(number, _)| now - number.min(&now) < LATE_PARTS as u64);
        recent.map(|(_, late)| *late).max().unwrap_or_default()
    }
}

fn part_of(at: Duration) -> u64 {
    at.as_secs() / (LATE_WINDOW.as_secs() / LATE_PARTS as u64)
}

/// Answers questions about this node. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Witness {
    pub(super) core: mpsc::WeakSender<Input>,
    pub(super) shared: Arc<Shared>,
    pub(super) transport: Transport,
    pub(super) runtime: Runtime,
    pub(super) history: History,
    pub(super) lateness: Arc<Lateness>,
    pub(super) profile: Profile,
    pub(super) seeds: u32,
    pub(super) started: Instant,
}

impl Witness {
    /// Answers in its own time, with [`Input::NodeAnswer`].
    pub(super) fn answer(&self, question: u64, query: NodeQuery) {
        let witness = self.clone();
        let inputs_waiting = self.inputs_waiting();
        tokio::spawn(async move {
            let core = witness.core.clone();
            let finding = tokio::task::spawn_blocking(move || witness.find(query, inputs_waiting));
            let answer = finding.await.unwrap_or_else(|error| Err(format!("the question failed: {error}")));
            // Without a driver nobody waits for the answer any more.
            if let Some(core) = core.upgrade() {
                let _ = core.send(Input::NodeAnswer { question, answer }).await;
            }
        });
    }

    fn inputs_waiting(&self) -> usize {
        self.core.upgrade().map_or(0, |core| core.max_capacity() - core.capacity())
    }

    fn find(&self, query: NodeQuery, inputs_waiting: usize) -> Result<NodeAnswer, String> {
        match query {
            NodeQuery::Facts => Ok(NodeAnswer::Facts(Box::new(self.facts(inputs_waiting)))),
            NodeQuery::History(query) => {
                let page = self.history.read(&query).map_err(|error| error.to_string())?;
                Ok(NodeAnswer::History(page))
            }
            NodeQuery::ModulePart { module, offset } => {
                self.runtime.module_part(&module, offset).map(NodeAnswer::ModulePart)
            }
        }
    }

    fn facts(&self, inputs_waiting: usize) -> NodeFacts {
        let view = self.shared.view.load_full();
        let TransportFacts { certificate, trusted, mut links, arrivals } = self.transport.facts();
        for (id, link) in &mut links {
            link.in_use = view.members.iter().any(|(_, used)| used.as_ref() == Some(id));
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        NodeFacts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            profile: self.profile,
            seeds: self.seeds,
            certificate,
            trusted,
            links: links.into_iter().map(|(_, link)| link).collect(),
            arrivals,
            queues: QueueFacts {
                inputs: count(inputs_waiting),
                store_changes: count(self.history.waiting_changes()),
                history_dropped: self.history.dropped(),
            },
            disk: self.history.disk(),
            loop_late_ms: u32::try_from(self.lateness.worst().as_millis()).unwrap_or(u32::MAX),
            members: members(&view),
            mode: Some(view.mode),
            // Last, so that it is as close to the answer's way back as can be.
            unix_ms: clock::unix_ms(),
        }
    }
}

fn members(view: &View) -> Vec<MemberFacts> {
    let others = view.members.iter().filter(|(member, _)| member.card.node_id != view.own);
    let told = others.map(|(m, _)| MemberFacts { node: m.card.node_id.clone(), status: m.status });
    told.take(limits::PEERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_lateness_is_forgotten_after_a_minute() {
        let lateness = Lateness::default();
        let (at, ms) = (Duration::from_secs, Duration::from_millis);
        assert_eq!(lateness.worst_at(at(0)), ms(0));
        lateness.note_at(at(3), ms(700));
        lateness.note_at(at(4), ms(2));
        lateness.note_at(at(31), ms(40));
        assert_eq!(lateness.worst_at(at(59)), ms(700));
        assert_eq!(lateness.worst_at(at(62)), ms(40));
        lateness.note_at(at(63), ms(1));
        assert_eq!(lateness.worst_at(at(63)), ms(40), "the part of the 700 ms was used anew");
        assert_eq!(lateness.worst_at(at(500)), ms(0));
    }
}
