//! Messages that nodes have promised to deliver, and the agents that they are for: what was promised, what was handled, in
//! which order, and what must hold of that.
//!
//! A try takes no link of the simulated network: it arrives where the path is open and the agent runs, and its answer
//! does where the path back is. Some agents fail, some are slow, and some answers are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use uuid::Uuid;

use super::world::{Event, World};
use crate::core::contract::Input;
use crate::core::error::{Refusal, SendError};
use crate::core::ids::RequestId;
use crate::core::model::{Address, LetterState, Message, Performative};
use crate::core::wire::{OutboxAnswer, OutboxRequest, RequestBody, ResponseBody};

/// How long a try takes in each direction, at most.
const TRY_MAX: Duration = Duration::from_millis(20);
/// The share of tries that their agent fails.
const FAILED: f64 = 0.05;
/// The share of tries that are handled and answered too late.
const SLOW: f64 = 0.02;

/// A try on its way: from which run of which machine, its number there, and to which machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    machine: usize,
    run: u64,
    number: u64,
    to: usize,
    deadline: Duration,
}

impl Way {
    /// Nothing comes back, and so it ends with its deadline.
    fn late(self) -> (Duration, Result<(), SendError>) {
        let deadline_ms = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
        (self.deadline, Err(SendError::DeadlineExceeded { deadline_ms }))
    }
}

/// What was promised and what became of it.
#[derive(Debug, Default)]
pub(super) struct Letters {
    posted: u64,
    /// By id: which machine has promised it.
    accepted: BTreeMap<Uuid, usize>,
    /// By id: how often it was handled.
    handled: BTreeMap<Uuid, u64>,
    /// By sender, address and conversation: the message that was the last one to be handled for the first time.
    last: BTreeMap<(String, Address, String), Uuid>,
    wrong: Vec<String>,
}

impl Letters {
    pub(super) fn on_answer(
        &mut self,
        machine: usize,
        asked: &RequestBody,
        answer: &Result<ResponseBody, Refusal>,
    ) {
        if let (
            RequestBody::Outbox(OutboxRequest::Accept { .. }),
            Ok(ResponseBody::Outbox(OutboxAnswer::Accepted { id })),
        ) = (asked, answer)
        {
            self.accepted.insert(*id, machine);
        }
    }

    /// An agent handles a message.
    fn handle(&mut self, message: &Message) {
        let times = self.handled.entry(message.id).or_default();
        *times += 1;
        if *times > 1 {
            return;
        }
        if let Some(conversation) = &message.conversation_id {
            let lane = (message.from.clone(), message.to.clone(), conversation.clone());
            let before = self.last.insert(lane, message.id);
            if let Some(before) = before.filter(|before| *before > message.id) {
                self.wrong.push(format!("{} was handled after {before}, which came later", message.id));
            }
        }
    }
}

impl World {
    /// A client of a machine has a message delivered at least once. Ids grow.
    pub fn post(
        &mut self,
        machine: usize,
        to: &Address,
        conversation: Option<&str>,
        life: Duration,
    ) -> RequestId {
        self.letters.posted += 1;
        let node = self.machines[machine].node.clone();
        let message = Message {
            id: Uuid::from_u128(u128::from(self.letters.posted)),
            from: format!("client@{node}"),
            to: to.clone(),
            performative: Performative::Inform,
            conversation_id: conversation.map(str::to_owned),
            in_reply_to: None,
            content_type: "text/plain".to_owned(),
            content: Bytes::from_static(b"x"),
            deadline_ms: 5_000,
            traceparent: None,
            hops: 0,
            extensions: BTreeMap::new(),
        };
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        self.request(
            machine,
            &node,
            RequestBody::Outbox(OutboxRequest::Accept { messages: vec![message], life_ms }),
        )
    }

    pub(super) fn try_letter(&mut self, machine: usize, number: u64, message: Message) {
        let Some(run) = self.run_of(machine) else {
            return;
        };
        let runs = |m: &usize| {
            let host = &self.machines[*m];
            let named = message.to.node.as_ref().is_none_or(|node| *node == host.node);
            named && host.process.as_ref().is_some_and(|p| p.agents.contains_key(&message.to.agent))
        };
        let candidates: Vec<usize> = (0..self.machines.len()).filter(runs).collect();
        if candidates.is_empty() {
            let result = Err(SendError::UnknownAgent { agent: message.to.agent });
            return self.input_soon(machine, Input::TryEnded { number, result });
        }
        let to = candidates[self.rng.random_range(0..candidates.len())];
        let takes = TRY_MAX.mul_f64(self.rng.random());
        let deadline = Duration::from_millis(message.deadline_ms.into());
        let way = Way { machine, run, number, to, deadline };
        self.after(takes, Event::Letter { way, message: Box::new(message) });
    }

    /// A message comes to the machine of its agent, if it comes.
    pub(super) fn on_letter(&mut self, way: Way, message: &Message) {
        let agent = &message.to.agent;
        let host = &self.machines[way.to];
        let runs = host.process.as_ref().is_some_and(|p| p.agents.contains_key(agent)) && !host.paused;
        let arrives = runs && (way.machine == way.to || self.paths.is_open(way.machine, way.to));
        let chance: f64 = self.rng.random();
        let (after, result) = if !arrives {
            let node = self.machines[way.to].node.clone();
            if chance < 0.5 { way.late() } else { (TRY_MAX, Err(SendError::LinkLost { node })) }
        } else if chance < FAILED {
            (TRY_MAX, Err(SendError::AgentFailed { agent: agent.clone(), reason: "no luck".to_owned() }))
        } else {
            self.letters.handle(message);
            if chance < FAILED + SLOW { way.late() } else { (TRY_MAX.mul_f64(chance), Ok(())) }
        };
        self.after(after, Event::LetterOver { way, result });
    }

    /// What came of a try comes back, if it comes.
    pub(super) fn on_letter_over(&mut self, way: Way, result: Result<(), SendError>) {
        let Way { machine, run, number, to, .. } = way;
        let is_lost = result.is_ok() && machine != to && !self.paths.is_open(to, machine);
        let (after, result) = if is_lost { way.late() } else { (Duration::ZERO, result) };
        self.after(after, Event::Input { machine, run, input: Input::TryEnded { number, result } });
    }

    /// What does not hold of the messages although none waits any more: all that were promised were handled or are
    /// among the dead letters of a node that runs, and those of a conversation were handled in order.
    #[must_use]
    pub fn undelivered(&self) -> Vec<String> {
        let mut wrong = self.letters.wrong.clone();
        for (id, machine) in &self.letters.accepted {
            let Some(process) = &self.machines[*machine].process else {
                wrong.push(format!("{} has promised {id} and does not run", self.machines[*machine].node));
                continue;
            };
            let state = process.mesh.letter(*id).map(|trace| trace.state);
            let is_dead = matches!(state, Some(LetterState::Dead { .. }));
            let is_handled = self.letters.handled.contains_key(id);
            if !is_handled && !is_dead {
                wrong.push(format!("{id} was promised and is nowhere: {state:?}"));
            }
            if matches!(state, Some(LetterState::Waiting | LetterState::Trying)) {
                wrong.push(format!("{id} still waits"));
            }
        }
        wrong
    }

    /// How many messages were promised, handled once or more often, and handled more than once.
    #[must_use]
    pub fn letters(&self) -> (usize, usize, usize) {
        let handled: BTreeSet<_> = self.letters.handled.keys().collect();
        let again = self.letters.handled.values().filter(|times| **times > 1).count();
        (self.letters.accepted.len(), handled.len(), again)
    }
}
