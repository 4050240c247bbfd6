//! One instance of a component, and the shelf on which those that are idle wait for their next message.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{Engine, Store, Trap};

use super::bindings::{self, AgentPre};
use super::engine::Ticker;
use super::host::{Host, Stop};
use crate::core::limits;
use crate::node::runtime::mailbox::Taken;

/// A component that is compiled, checked and linked.
pub(super) struct Prepared {
    pub(super) engine: Engine,
    pub(super) ticker: Arc<Ticker>,
    pub(super) pre: AgentPre<Host>,
}

/// Why an instance was stopped. It is of no use any more.
#[derive(Debug)]
pub(super) enum Ended {
    /// The message's time was over.
    Deadline,
    /// It trapped, or reached a bound.
    Failed(String),
}

/// An instance.
pub(super) struct Instance {
    store: Store<Host>,
    agent: bindings::Agent,
    ticker: Arc<Ticker>,
    /// Its place among all instances of the node; given back with it.
    place: OwnedSemaphorePermit,
}

impl Instance {
    /// Makes an instance, which may compute for `within` in doing so.
    pub(super) async fn new(
        prepared: &Prepared,
        host: Host,
        place: OwnedSemaphorePermit,
        within: Duration,
    ) -> Result<Self, Ended> {
        let Prepared { engine, ticker, pre } = prepared;
        let mut store = Store::new(engine, host);
        store.limiter(|host| host);
        let failed = |error: wasmtime::Error| ended(&error, "its instance could not be made");
        allow(&mut store, within).map_err(failed)?;
        let _ticking = ticker.tick();
        let making = pre.instantiate_async(&mut store);
        let agent = match tokio::time::timeout(within, making).await {
            Ok(made) => made.map_err(failed)?,
            Err(_) => return Err(Ended::Deadline),
        };
        Ok(Self { store, agent, ticker: Arc::clone(ticker), place })
    }

    /// Ends it for another one, which takes its place.
    fn give_way(self) -> OwnedSemaphorePermit {
        metrics::counter!("shoal_wasm_evictions_total").increment(1);
        let Self { store, agent: _, ticker: _, place } = self;
        // Its memory goes back to the pool before its place is taken.
        drop(store);
        place
    }

    /// Lets it handle a message. Only after `Ok` may it be given another.
    pub(super) async fn handle(&mut self, taken: Taken) -> Result<Result<Option<Reply>, String>, Ended> {
        let Taken { message, wants_answer, left } = taken;
        let failed = |error: wasmtime::Error| ended(&error, "it was stopped");
        self.store.data_mut().begin(message.hops);
        allow(&mut self.store, left).map_err(failed)?;
        let performative = serde_json::to_value(message.performative).unwrap_or_default();
        let receiver = message.sent_to();
        let message = Message {
            id: message.id.to_string(),
            sender: message.from,
            receiver,
            performative: performative.as_str().unwrap_or_default().to_owned(),
            conversation: message.conversation_id,
            in_reply_to: message.in_reply_to.map(|id| id.to_string()),
            content_type: message.content_type,
            content: message.content.into(),
            wants_answer,
            deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        };
        let _ticking = self.ticker.tick();
        let handling = self.agent.call_handle(&mut self.store, &message);
        match tokio::time::timeout(left, handling).await {
            Ok(handled) => handled.map_err(failed),
            Err(_) => Err(Ended::Deadline),
        }
    }
}

/// A message as a component gets it.
type Message = bindings::shoal::agent::types::Message;
/// A reply as a component gives it.
pub(super) type Reply = bindings::shoal::agent::types::Body;

/// Fuel and time for what comes now. The executor's timer ends a wait, and between two slices of fuel a computation;
/// the epoch ends one that takes no fuel.
fn allow(store: &mut Store<Host>, within: Duration) -> wasmtime::Result<()> {
    let fuel = store.data().fuel();
    store.set_fuel(fuel)?;
    store.fuel_async_yield_interval(Some(limits::WASM_FUEL_SLICE))?;
    let ticks = within.as_millis() / limits::WASM_EPOCH.as_millis() + 2;
    store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX >> 1));
    Ok(())
}

fn ended(error: &wasmtime::Error, what: &str) -> Ended {
    let reason = match (error.downcast_ref::<Trap>(), error.downcast_ref::<Stop>()) {
        (Some(Trap::Interrupt), _) => return Ended::Deadline,
        (Some(Trap::OutOfFuel), _) => "it used up its fuel for one message".to_owned(),
        (Some(trap), _) => trap.to_string(),
        (None, Some(stop)) => stop.to_string(),
        (None, None) => format!("{error:#}"),
    };
    Ended::Failed(format!("{what}: {reason}"))
}

/// All instances of the node: so many at once, the idle ones in the order in which they became idle.
pub(super) struct Shelf {
    total: usize,
    places: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    instances: BTreeMap<u64, Instance>,
    last: u64,
    /// Those who wait for a place.
    waiting: usize,
}

/// Names an idle instance. It may be gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket(u64);

impl Shelf {
    pub(super) fn new(total: usize) -> Self {
        let places = Arc::new(Semaphore::new(total));
        Self { total, places, idle: Mutex::default() }
    }

    /// A place for a new instance. When there is none, the instance that was idle for longest gives way.
    pub(super) async fn place(&self) -> OwnedSemaphorePermit {
        if let Some(place) = self.free_place() {
            return place;
        }
        let _waiting = {
            let mut idle = self.idle();
            if let Some((_, oldest)) = idle.instances.pop_first() {
                drop(idle);
                return oldest.give_way();
            }
            // From here on nobody puts an instance on the shelf, so that none is overlooked.
            idle.waiting += 1;
            Waiting(self)
        };
        Arc::clone(&self.places).acquire_owned().await.expect("nobody closes it")
    }

    /// A place, if one is free.
    pub(super) fn free_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Keeps an idle instance, unless somebody waits for its place.
    pub(super) fn put(&self, instance: Instance) -> Option<Ticket> {
        let mut idle = self.idle();
        if idle.waiting > 0 {
            drop(idle);
            drop(instance.give_way());
            return None;
        }
        idle.last += 1;
        let number = idle.last;
        idle.instances.insert(number, instance);
        Some(Ticket(number))
    }

    /// Takes an idle instance back, if it is still there.
    pub(super) fn take(&self, Ticket(number): Ticket) -> Option<Instance> {
        self.idle().instances.remove(&number)
    }

    /// Instances in memory.
    pub(super) fn live(&self) -> usize {
        self.total.saturating_sub(self.places.available_permits())
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of those who wait.
struct Waiting<'a>(&'a Shelf);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.idle().waiting -= 1;
    }
}
