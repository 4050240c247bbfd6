//! Clients at every node that read, write and delete, by chance, a few keys often and many keys now and then.
//!
//! Every value is written once, by one client, so that a value that stands twice betrays a write that was made twice.
//! A client remembers what it last read of each key, and gives that as the context of about every second write.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::world::{Event, World};
use crate::core::ids::RequestId;
use crate::core::model::Clock;
use crate::core::time::Instant;
use crate::core::wire::{Ack, RequestBody, ResponseBody, StateAnswer, StateRequest};

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Workload {
    /// Keys that every other request is about.
    pub hot_keys: usize,
    /// Keys that the others are about.
    pub keys: usize,
    /// The mean time between two requests of one node's client.
    pub pause: Duration,
    /// The share of requests that read.
    pub reads: f64,
    /// The share of writes that delete.
    pub deletes: f64,
    /// The share of writes that wait for a quorum.
    pub quorum: f64,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            hot_keys: 3,
            keys: 40,
            pause: Duration::from_millis(500),
            reads: 0.35,
            deletes: 0.25,
            quorum: 0.1,
        }
    }
}

/// What the clients of a world remember.
#[derive(Debug, Default)]
pub(super) struct Clients {
    running: Option<(Workload, Instant, ChaCha8Rng)>,
    values: u64,
    /// By machine: questions that are read when they are needed next.
    asked: BTreeMap<(usize, String), RequestId>,
    requests: u64,
}

impl World {
    /// Lets a client at every node work for `span` from now on.
    pub fn work(&mut self, workload: Workload, span: Duration) {
        let rng = ChaCha8Rng::seed_from_u64(self.config.seed ^ 0xc11e_4757);
        self.clients.running = Some((workload, self.now + span, rng));
        (0..self.machines.len()).for_each(|machine| self.after(Duration::ZERO, Event::Client { machine }));
    }

    /// How many requests clients have made so far.
    #[must_use]
    pub fn requests_of_clients(&self) -> u64 {
        self.clients.requests
    }

    pub(super) fn on_client(&mut self, machine: usize) {
        let Some((workload, end, mut rng)) = self.clients.running.take() else {
            return;
        };
        if self.now < end {
            if self.is_running(machine) {
                self.ask_as_client(machine, &workload, &mut rng);
            }
            let pause = workload.pause.mul_f64(2.0 * rng.random::<f64>());
            self.after(pause, Event::Client { machine });
        }
        self.clients.running = Some((workload, end, rng));
    }

    fn ask_as_client(&mut self, machine: usize, workload: &Workload, rng: &mut ChaCha8Rng) {
        let keys = if rng.random() { workload.hot_keys } else { workload.keys };
        let key = format!("k/{}", rng.random_range(0..keys.max(1)));
        let (reads, deletes, quorum): (f64, f64, f64) = (rng.random(), rng.random(), rng.random());
        let with_context: bool = rng.random();
        let is_read = reads < workload.reads;
        let request = if is_read {
            StateRequest::Get { key: key.clone() }
        } else {
            let context = with_context.then(|| self.last_read(machine, &key)).flatten();
            self.clients.values += 1;
            let value = format!("{} of {}", self.clients.values, self.machines[machine].node);
            let value = (deletes >= workload.deletes).then(|| Bytes::from(value));
            let ack = if quorum < workload.quorum { Ack::Quorum } else { Ack::Local };
            StateRequest::Put { key: key.clone(), value, context, ack }
        };
        let node = self.machines[machine].node.clone();
        let id = self.request(machine, &node, RequestBody::State(request));
        self.clients.requests += 1;
        if is_read {
            self.clients.asked.insert((machine, key), id);
        }
    }

    /// What the client of a machine has last read of a key.
    fn last_read(&self, machine: usize, key: &str) -> Option<Clock> {
        let id = self.clients.asked.get(&(machine, key.to_owned()))?;
        match &self.report.replies.get(&(machine, *id))?.1 {
            Ok(ResponseBody::State(StateAnswer::Value(value))) if value.key == key => {
                Some(value.context.clone())
            }
            Ok(_) | Err(_) => None,
        }
    }
}
