//! What an instance may ask of its node: the imports of `wit/agent.wit`, within the agent's grants, and the bounds of
//! what it may take up.

use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as NotOne, StrDeserializer};
use wasmtime::ResourceLimiter;

use super::bindings::shoal::agent::{clock, log, messaging, random, state, types};
use crate::core::error::{Refusal, SendError};
use crate::core::limits;
use crate::core::model::{Guarantee, Performative, Target, WasmSource};
use crate::core::wire::{StateAnswer, StateRequest};
use crate::node::clock::{fill_random, unix_ms};
use crate::node::runtime::agent::Agent;
use crate::node::runtime::{Commons, Draft, Ground, Outlet, protocol};

/// Why an instance was stopped although nothing in it trapped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error("it asked for {wanted} bytes of memory, and may have {most}")]
    Memory { wanted: usize, most: u64 },
    #[error("it asked for a table of {wanted} elements, and may have {}", limits::WASM_TABLE_ELEMENTS_MAX)]
    Table { wanted: usize },
    #[error("it called the host more than {} times for one message", limits::WASM_HOST_CALLS_MAX)]
    Calls,
    #[error("it asked for {wanted} random bytes at once, and may have {}", limits::WASM_RANDOM_BYTES_MAX)]
    Random { wanted: u32 },
}

/// What belongs to one instance on the node's side.
pub(super) struct Host {
    ground: Arc<Ground>,
    agent: Arc<Agent>,
    source: Arc<WasmSource>,
    origin: Instant,
    /// Hops of what it sends now.
    hops: u8,
    /// Calls of the host for this message.
    calls: u32,
}

impl Host {
    pub(super) fn new(ground: Arc<Ground>, agent: Arc<Agent>, source: Arc<WasmSource>) -> Self {
        Self { ground, agent, source, origin: Instant::now(), hops: 0, calls: 0 }
    }

    /// What follows is caused by a message that has made so many hops.
    pub(super) fn begin(&mut self, hops: u8) {
        (self.hops, self.calls) = (hops.saturating_add(1), 0);
    }

    pub(super) fn fuel(&self) -> u64 {
        self.source.fuel
    }

    /// A call of the host costs the instance next to no fuel, so that it is counted.
    fn count(&mut self) -> wasmtime::Result<()> {
        self.calls += 1;
        if self.calls > limits::WASM_HOST_CALLS_MAX { Err(Stop::Calls.into()) } else { Ok(()) }
    }

    /// The message to be sent, and the way.
    fn outgoing(
        &self,
        draft: messaging::Draft,
        default: Performative,
    ) -> Result<(Arc<dyn Outlet>, Draft), types::Failure> {
        let messaging::Draft { to, performative, conversation, body, deadline_ms, guarantee, key } = draft;
        let guarantee = match guarantee {
            Some(messaging::Guarantee::AtLeastOnce) if default == Performative::Request => {
                let reason = "at-least-once is for messages without an answer: `send` it".to_owned();
                return Err(types::Failure { code: "bad_request".to_owned(), reason });
            }
            Some(messaging::Guarantee::AtLeastOnce) => Guarantee::AtLeastOnce,
            Some(messaging::Guarantee::AtMostOnce) | None => Guarantee::AtMostOnce,
        };
        let target = Target::parse(&to).map_err(|error| failure(&error))?;
        if !self.source.grants.permits_target(&target) {
            return Err(not_granted(&format!("send to {target}")));
        }
        let performative = match performative {
            Some(name) => performative_of(&name)?,
            None => default,
        };
        let content = body.content.into();
        protocol::check_content(&content).map_err(|error| failure(&error))?;
        self.agent.check_permit().map_err(|error| failure(&error))?;
        let outlet = self.ground.outlet.get().ok_or_else(|| not_yet("messages"))?;
        let draft = Draft {
            from: self.agent.name.clone(),
            to,
            performative,
            conversation_id: conversation,
            in_reply_to: None,
            content_type: body.content_type,
            content,
            deadline_ms,
            guarantee,
            key,
            hops: self.hops,
        };
        Ok((Arc::clone(outlet), draft))
    }

    fn commons_for(&self, key: &str) -> Result<Arc<dyn Commons>, types::Failure> {
        self.agent.check_permit().map_err(|error| failure(&error))?;
        if !self.source.grants.permits_key(key) {
            return Err(not_granted(&format!("read or write the key {key:?}")));
        }
        self.ground.commons.get().cloned().ok_or_else(|| not_yet("state"))
    }

    async fn write(&self, key: String, value: Option<Vec<u8>>) -> Result<state::Written, types::Failure> {
        let commons = self.commons_for(&key)?;
        let value = value.map(Into::into);
        match commons.state(StateRequest::PutBy { agent: self.agent.name.clone(), key, value }).await {
            Ok(StateAnswer::Written { .. }) => Ok(state::Written::Made),
            Ok(StateAnswer::Absent) => Ok(state::Written::Absent),
            Ok(StateAnswer::Queued { ticket }) => Ok(state::Written::Queued(ticket.to_string())),
            Ok(other) => Err(unexpected(&other)),
            Err(refusal) => Err(refused(&refusal)),
        }
    }
}

fn performative_of(name: &str) -> Result<Performative, types::Failure> {
    let from: StrDeserializer<'_, NotOne> = name.into_deserializer();
    Performative::deserialize(from).map_err(|_| types::Failure {
        code: "bad_performative".to_owned(),
        reason: format!("{:?} is none of FIPA's performatives", name.chars().take(50).collect::<String>()),
    })
}

fn failure(error: &SendError) -> types::Failure {
    types::Failure { code: error.code().to_owned(), reason: error.to_string() }
}

fn refused(refusal: &Refusal) -> types::Failure {
    types::Failure { code: refusal.code().to_owned(), reason: refusal.to_string() }
}

fn not_granted(what: &str) -> types::Failure {
    let reason = format!("the agent may not {what}: its deploy does not grant it");
    types::Failure { code: "not_granted".to_owned(), reason }
}

fn not_yet(what: &str) -> types::Failure {
    types::Failure { code: "not_running".to_owned(), reason: format!("the node does not carry {what} yet") }
}

fn unexpected(answer: &StateAnswer) -> types::Failure {
    tracing::error!(?answer, "an answer about the state that does not fit the question");
    types::Failure { code: "no_answer".to_owned(), reason: "the node could not answer".to_owned() }
}

impl messaging::Host for Host {
    async fn send(&mut self, draft: messaging::Draft) -> wasmtime::Result<Result<(), types::Failure>> {
        self.count()?;
        let (outlet, draft) = match self.outgoing(draft, Performative::Inform) {
            Ok(outgoing) => outgoing,
            Err(failure) => return Ok(Err(failure)),
        };
        Ok(outlet.send(draft).await.map_err(|error| failure(&error)))
    }

    async fn ask(
        &mut self,
        draft: messaging::Draft,
    ) -> wasmtime::Result<Result<messaging::Answer, types::Failure>> {
        self.count()?;
        let (outlet, draft) = match self.outgoing(draft, Performative::Request) {
            Ok(outgoing) => outgoing,
            Err(failure) => return Ok(Err(failure)),
        };
        let answer = outlet.ask(draft).await.map_err(|error| failure(&error));
        Ok(answer.map(|answer| {
            let body = types::Body { content_type: answer.content_type, content: answer.content.into() };
            messaging::Answer { sender: answer.from, body }
        }))
    }
}

impl state::Host for Host {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, types::Failure>> {
        self.count()?;
        let commons = match self.commons_for(&key) {
            Ok(commons) => commons,
            Err(failure) => return Ok(Err(failure)),
        };
        Ok(match commons.state(StateRequest::Get { key }).await {
            Ok(StateAnswer::Value(value)) if value.value.is_none() && !value.siblings.is_empty() => {
                let (key, siblings) = (value.key, value.siblings.len());
                let reason = format!("the key {key:?} has {siblings} values beside each other: write one");
                Err(types::Failure { code: "siblings".to_owned(), reason })
            }
            Ok(StateAnswer::Value(value)) => Ok(value.value.map(|value| value.value.into())),
            Ok(other) => Err(unexpected(&other)),
            Err(refusal) => Err(refused(&refusal)),
        })
    }

    async fn put(
        &mut self,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<state::Written, types::Failure>> {
        self.count()?;
        Ok(self.write(key, Some(value)).await)
    }

    async fn delete(&mut self, key: String) -> wasmtime::Result<Result<state::Written, types::Failure>> {
        self.count()?;
        Ok(self.write(key, None).await)
    }
}

impl log::Host for Host {
    async fn log(&mut self, level: log::Level, text: String) -> wasmtime::Result<()> {
        self.count()?;
        let level = match level {
            log::Level::Debug => "debug",
            log::Level::Info => "info",
            log::Level::Warn => "warn",
            log::Level::Error => "error",
        };
        self.agent.log.push(&format!("{level}: {text}"));
        Ok(())
    }
}

impl clock::Host for Host {
    async fn unix_ms(&mut self) -> wasmtime::Result<u64> {
        self.count()?;
        Ok(unix_ms())
    }

    async fn monotonic_ns(&mut self) -> wasmtime::Result<u64> {
        self.count()?;
        Ok(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl random::Host for Host {
    async fn bytes(&mut self, count: u32) -> wasmtime::Result<Vec<u8>> {
        self.count()?;
        if count > limits::WASM_RANDOM_BYTES_MAX {
            return Err(Stop::Random { wanted: count }.into());
        }
        let mut bytes = vec![0; count as usize];
        fill_random(&mut bytes);
        Ok(bytes)
    }
}

impl types::Host for Host {}

impl ResourceLimiter for Host {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let most = self.source.memory_bytes;
        // A program that is told "no" mostly traps somewhere else, with a reason that says less.
        if desired as u64 > most { Err(Stop::Memory { wanted: desired, most }.into()) } else { Ok(true) }
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > limits::WASM_TABLE_ELEMENTS_MAX {
            return Err(Stop::Table { wanted: desired }.into());
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        limits::WASM_CORE_INSTANCES_MAX as usize
    }

    fn tables(&self) -> usize {
        limits::WASM_TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        1
    }
}
