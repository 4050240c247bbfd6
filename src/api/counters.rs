//! `/v1/counters`: sums to which any node adds without asking another; how they lie in keys is in [`Layout`].
//!
//! The process that adds is the only writer of its key, and remembers what it has written there. So an addition needs
//! nothing but its own place in the order of additions: it holds also while writes wait for a majority and cannot be
//! read back yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json as Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;

use super::Api;
use super::problem::Problem;
use super::read::Json;
use super::state::{page, told, written};
use super::types::{AddToCounter, Counter, Write};
use crate::core::error::Refusal;
use crate::core::layout::Layout;
use crate::core::limits;
use crate::core::wire::{Ack, RequestBody, ResponseBody, StateRequest, StateValue};
use crate::node::Handle;

/// What this process has added to each counter.
#[derive(Debug)]
pub(super) struct Counters {
    /// The last part of this process's keys; no other process has the same.
    adder: String,
    sums: Mutex<BTreeMap<String, Sum>>,
}

/// Held from choosing a sum to knowing what became of its write: the writes of one key follow one another.
type Sum = Arc<tokio::sync::Mutex<i64>>;

impl Counters {
    pub(super) fn new(node: &Handle) -> Self {
        let adder = format!("{}.{}", node.own(), crate::node::clock::random_id().simple());
        Self { adder, sums: Mutex::default() }
    }

    fn of(&self, name: &str) -> Result<Sum, Refusal> {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sum) = sums.get(name) {
            return Ok(Arc::clone(sum));
        }
        if sums.len() >= limits::COUNTERS_MAX {
            return Err(Refusal::Overloaded {
                what: "the table of counters that this process adds to".to_owned(),
            });
        }
        Ok(Arc::clone(sums.entry(name.to_owned()).or_default()))
    }
}

/// The counter's name in the path.
pub(super) struct Name(String);

impl FromRequestParts<Arc<Api>> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, api)
            .await
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        Ok(Self(name))
    }
}

pub(super) async fn add(
    State(api): State<Arc<Api>>,
    Name(name): Name,
    Json(AddToCounter { add, ack }): Json<AddToCounter>,
) -> Result<Response, Problem> {
    // A task of its own: a client that goes away must not leave it open whether the sum was written.
    let adding = tokio::spawn(async move { add_to(&api, &name, add, ack.into()).await });
    match adding.await {
        Ok(write) => write.map(told),
        Err(error) => {
            let detail = format!("the addition failed: {error}");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail))
        }
    }
}

async fn add_to(api: &Api, name: &str, add: i64, ack: Ack) -> Result<Write, Problem> {
    let own = api.node.own();
    let key =
        Layout::Counter.key(name, &api.counters.adder).map_err(|e| Problem::bad_request(e.to_string()))?;
    let sum = api.counters.of(name)?;
    let mut sum = sum.lock().await;
    let Some(new) = sum.checked_add(add) else {
        return Err(Problem::bad_request("the sum of what this node has added would exceed 64 bits"));
    };
    let value = Some(new.to_string().into());
    let request = StateRequest::Put { key, value, context: None, ack };
    match api.node.request(own.clone(), RequestBody::State(request)).await {
        Ok(answer) => {
            *sum = new;
            let ResponseBody::State(answer) = answer else {
                return Err(Problem::bad_answer(own));
            };
            written(answer).ok_or_else(|| Problem::bad_answer(own))
        }
        Err(refusal) => {
            // It may have been written: then the next sum must have it in it.
            if may_have_happened(&refusal) {
                *sum = new;
            }
            Err(refusal.into())
        }
    }
}

fn may_have_happened(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::TimedOut { .. } | Refusal::LinkLost { .. } | Refusal::Indeterminate { .. } => true,
        Refusal::UnknownNode { .. }
        | Refusal::NodeDown { .. }
        | Refusal::UnknownAgent { .. }
        | Refusal::AgentExists { .. }
        | Refusal::StartFailed { .. }
        | Refusal::Overloaded { .. }
        | Refusal::BadRequest { .. }
        | Refusal::StoreFailed { .. }
        | Refusal::NoAnswer { .. }
        | Refusal::Outdated { .. }
        | Refusal::BadWrite { .. }
        | Refusal::Barred { .. }
        | Refusal::UnknownTicket { .. }
        | Refusal::Joining { .. } => false,
    }
}

pub(super) async fn get(State(api): State<Arc<Api>>, Name(name): Name) -> Result<Body<Counter>, Problem> {
    let own = api.node.own();
    let prefix = Layout::Counter.prefix(&name).map_err(|e| Problem::bad_request(e.to_string()))?;
    let limit = u32::try_from(limits::STATE_PAGE_MAX).unwrap_or(u32::MAX);
    let (mut value, mut adders, mut after) = (0_i64, 0_u64, None);
    loop {
        let request = StateRequest::List { prefix: prefix.clone(), after, limit };
        let (entries, more) = page(&api.node, own, request).await?;
        for entry in &entries {
            value = value.checked_add(added(entry)?).ok_or_else(|| bad_counter("its sum exceeds 64 bits"))?;
            adders += 1;
        }
        after = entries.last().map(|entry| entry.key.clone());
        if !more || after.is_none() {
            break;
        }
        if adders >= limits::COUNTER_KEYS_MAX as u64 {
            return Err(bad_counter("too many processes have added to it"));
        }
    }
    if adders == 0 {
        let detail = format!("{own} knows no counter named {name:?}: nothing was added to it yet");
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_such_key", detail));
    }
    Ok(Body(Counter { name, value, adders }))
}

fn added(entry: &StateValue) -> Result<i64, Problem> {
    let chosen = entry.value.as_ref().and_then(|chosen| std::str::from_utf8(&chosen.value).ok());
    let number = chosen.and_then(|text| text.parse().ok());
    number.ok_or_else(|| bad_counter(&format!("the key {:?} holds no number", entry.key)))
}

fn bad_counter(why: &str) -> Problem {
    Problem::new(StatusCode::CONFLICT, "bad_counter", format!("the counter cannot be summed: {why}"))
}
