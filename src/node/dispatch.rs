//! The message path: from a sender to an agent, here or on another node, and back.
//!
//! It reads a published routing snapshot and writes a frame; no core step, no lock that the control plane
//! holds, no disk. Three things may be wanted of a message: its answer ([`Dispatcher::ask`]), the news
//! that it is in the agent's mailbox ([`Dispatcher::send`]), or nothing ([`Dispatcher::tell`]). The
//! guarantee is at-most-once: nothing is sent twice, and what cannot be delivered is an error with its
//! reason, to the sender, at once where the reason is known. Messages that are to be delivered at least once wait in the
//! core's outbox, and each of its tries comes this way.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use self::routes::{Counted, Group, Sticky};
use super::runtime::{Delivery, Finish, Runtime};
use super::transport::{Awaited, DataHandler, Peer, SendFailure};
use crate::core::contract::Input;
use crate::core::error::SendError;
use crate::core::ids::{AgentName, LinkId, NodeId};
use crate::core::limits;
use crate::core::model::{Address, Answer, Message};
use crate::core::wire::{Data, Want};

mod choice;
mod outlet;
mod post;
mod routes;

pub use self::outlet::{Promise, Promised};
pub use self::post::{Delivered, Posting};
pub use self::routes::{Instance, Open, Routes, Way};

/// How long an answer may take when the sender does not say.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);
/// How long the news of where an instance is now is waited for.
const REROUTE_PAUSE: Duration = Duration::from_millis(20);
/// Tables of waiting senders, so that they do not wait for each other.
const SHARDS: usize = 16;

type Outcome = Result<Option<Answer>, SendError>;

struct Waiting {
    link: LinkId,
    finish: oneshot::Sender<Outcome>,
}

/// Sends messages and takes them in. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("own", &self.inner.own).finish_non_exhaustive()
    }
}

struct Inner {
    own: NodeId,
    runtime: Runtime,
    routes: ArcSwap<Routes>,
    routes_changed: Notify,
    core: mpsc::Sender<Input>,
    shards: [Mutex<HashMap<u64, Waiting>>; SHARDS],
    waiting: AtomicUsize,
    tags: AtomicU64,
    meters: OnceLock<Meters>,
    promise: OnceLock<Promise>,
}

/// Metric handles, looked up once.
struct Meters {
    outcomes: HashMap<&'static str, metrics::Counter>,
    delivered: metrics::Counter,
    seconds: metrics::Histogram,
}

impl Meters {
    fn new() -> Self {
        let of = |code: &'static str| metrics::counter!("shoal_messages_total", "outcome" => code);
        let codes = SendError::CODES;
        Self {
            outcomes: codes.iter().map(|code| (*code, of(code))).collect(),
            delivered: of("delivered"),
            seconds: metrics::histogram!("shoal_message_seconds"),
        }
    }
}

impl Dispatcher {
    /// A dispatcher for node `own` that delivers to `runtime` and asks the core for links.
    #[must_use]
    pub fn new(own: NodeId, runtime: Runtime, core: mpsc::Sender<Input>) -> Self {
        let inner = Inner {
            own,
            runtime,
            routes: ArcSwap::default(),
            routes_changed: Notify::new(),
            core,
            shards: std::array::from_fn(|_| Mutex::default()),
            waiting: AtomicUsize::new(0),
            tags: AtomicU64::new(0),
            meters: OnceLock::new(),
            promise: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Lets agents have messages delivered at least once. Only the first call counts.
    pub fn set_promise(&self, promise: Promise) {
        // Whoever comes later is not needed.
        let _ = self.inner.promise.set(promise);
    }

    /// Who runs what, as published last.
    #[must_use]
    pub fn routes(&self) -> Arc<Routes> {
        self.inner.routes.load_full()
    }

    /// Publishes who runs what, for every message from now on.
    pub fn publish(&self, routes: Routes) {
        self.inner.routes.store(Arc::new(routes));
        self.inner.routes_changed.notify_waiters();
    }

    /// Sends a message and waits for the agent's answer until the message's deadline.
    ///
    /// # Errors
    /// [`SendError`]; its text says whether the agent may have handled the message.
    pub async fn ask(&self, message: Message) -> Result<Answer, SendError> {
        let agent = message.to.agent.clone();
        answer_of(agent, self.exchange(None, message, Want::Answer).await?)
    }

    /// As [`Self::ask`], by routes of the caller's own: for agents that are in nobody's view.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn ask_along(&self, routes: &Routes, message: Message) -> Result<Answer, SendError> {
        let agent = message.to.agent.clone();
        answer_of(agent, self.exchange(Some(routes), message, Want::Answer).await?)
    }

    /// Sends a message and waits until it is in the agent's mailbox.
    ///
    /// # Errors
    /// [`SendError`]; its text says whether the message may have arrived.
    pub async fn send(&self, message: Message) -> Result<(), SendError> {
        self.exchange(None, message, Want::Receipt).await.map(|_| ())
    }

    /// Hands a message to the way to its agent and does not wait: `Ok` says that there is one. What
    /// becomes of the message further on is counted by the receiving node and told to nobody.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub fn tell(&self, message: Message) -> Result<(), SendError> {
        let result = self.inner.check(&message).and_then(|()| self.inner.tell(message));
        self.inner.count(&result);
        result
    }

    async fn exchange(&self, routes: Option<&Routes>, message: Message, want: Want) -> Outcome {
        let begun = Instant::now();
        let deadline = Duration::from_millis(message.deadline_ms.into()).min(limits::DEADLINE_MAX);
        let outcome = match self.inner.check(&message) {
            Ok(()) => {
                timeout(deadline, self.inner.exchange(routes, message, want)).await.unwrap_or_else(|_| {
                    Err(SendError::DeadlineExceeded { deadline_ms: deadline.as_millis() as u64 })
                })
            }
            Err(error) => Err(error),
        };
        self.inner.meters().seconds.record(begun.elapsed().as_secs_f64());
        self.inner.count(&outcome);
        outcome
    }
}

/// Takes its entry out of the table of waiting senders, also when the sender stops waiting.
struct Wait<'a> {
    inner: &'a Inner,
    tag: u64,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.inner.shard(self.tag).remove(&self.tag);
        self.inner.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    fn check(&self, message: &Message) -> Result<(), SendError> {
        let (bytes, bytes_max) = (message.content.len() as u64, limits::CONTENT_BYTES_MAX as u64);
        if bytes > bytes_max {
            return Err(SendError::ContentTooLarge { bytes, bytes_max });
        }
        if message.hops > limits::HOPS_MAX {
            return Err(SendError::TooManyHops { hops: message.hops });
        }
        Ok(())
    }

    /// A message from a link comes from that link's node, and is for this one.
    fn check_origin(&self, message: &Message, peer: &Peer) -> Result<(), SendError> {
        let bad = |address: &str, why: String| {
            Err(SendError::BadAddress { address: address.chars().take(200).collect(), why })
        };
        let from = message.from.rsplit_once('@').map(|(_, node)| node);
        if from != Some(peer.node().as_str()) {
            return bad(&message.from, format!("the message came from {}", peer.node()));
        }
        match &message.to.node {
            Some(node) if *node != self.own => {
                return bad(&message.to.to_string(), format!("the message came to {}", self.own));
            }
            Some(_) | None => {}
        }
        message
            .check_extensions()
            .map_err(|why| SendError::BadAddress { address: message.to.to_string(), why })
    }

    /// Delivers a message, and where its instance has gone elsewhere meanwhile and has not taken it in, to the one that
    /// has taken its place. News of the sender's own slot that this node has not heard yet is waited for as well.
    async fn exchange(&self, routes: Option<&Routes>, message: Message, want: Want) -> Outcome {
        if let Some(routes) = routes {
            return self.deliver(self.pick(routes, &message)?, message, want).await;
        }
        let (begun, mut reroutes) = (Instant::now(), 0);
        while reroutes < limits::REROUTES_MAX {
            let changed = self.routes_changed.notified();
            let picked = self.way_to(&message).await?;
            let may_move = picked.agent.slot().is_some();
            if !may_move && !message.from.contains('#') {
                return self.deliver(picked, message, want).await;
            }
            match self.deliver(picked, message.clone(), want).await {
                Err(SendError::Superseded { .. }) if begun.elapsed() < limits::ORDER_NEWS_PATIENCE => {}
                Err(SendError::NotRunning { .. } | SendError::UnknownAgent { .. }) if may_move => {
                    reroutes += 1
                }
                outcome => return outcome,
            }
            // The news of where it is now is on its way; the next in turn may be one that is there.
            let _ = timeout(REROUTE_PAUSE, changed).await;
        }
        let picked = self.way_to(&message).await?;
        self.deliver(picked, message, want).await
    }

    async fn deliver(&self, picked: Picked, mut message: Message, want: Want) -> Outcome {
        let Picked { agent, node, way, counted: _counted } = picked;
        message.to.agent = agent;
        let message = self.routes.load().tell_order(message);
        match way {
            Way::Here => self.deliver_here(message, want).await,
            Way::Link(peer) => self.deliver_over(&peer, message, want).await,
            Way::NoLink => Err(SendError::LinkLost { node }),
        }
    }

    async fn deliver_here(&self, message: Message, want: Want) -> Outcome {
        self.routes.load().check_order(&message)?;
        let (finish, finished) = oneshot::channel();
        let agent = message.to.agent.clone();
        let finish: Finish = Box::new(move |outcome| {
            // The sender may have stopped waiting.
            let _ = finish.send(outcome);
        });
        self.runtime.deliver(&agent, Delivery { message, wants_answer: want == Want::Answer, finish });
        let dropped = "its runtime dropped the message".to_owned();
        finished.await.unwrap_or(Err(SendError::AgentFailed { agent, reason: dropped }))
    }

    async fn deliver_over(&self, peer: &Arc<Peer>, message: Message, want: Want) -> Outcome {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= limits::ASKS_IN_FLIGHT_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(SendError::Overloaded { what: format!("the list of open asks of {}", self.own) });
        }
        let tag = self.tags.fetch_add(1, Ordering::Relaxed) + 1;
        let (finish, finished) = oneshot::channel();
        self.shard(tag).insert(tag, Waiting { link: peer.link(), finish });
        let _wait = Wait { inner: self, tag };
        let _awaited = Awaited::over(peer);
        if peer.is_gone() {
            // Its end has been told to those who waited then; this one came too late for that.
            return Err(SendError::LinkLost { node: peer.node().clone() });
        }
        let order = order_of(&message);
        peer.send_data(order, &Data::Deliver { want, tag, message }).map_err(|e| send_error(&e, peer))?;
        finished.await.unwrap_or_else(|_| Err(SendError::LinkLost { node: peer.node().clone() }))
    }

    fn tell(&self, mut message: Message) -> Result<(), SendError> {
        let Picked { agent, node, way, .. } = self.route(&message)?;
        message.to.agent = agent;
        let message = self.routes.load().tell_order(message);
        match way {
            Way::Here => {
                self.routes.load().check_order(&message)?;
                let agent = message.to.agent.clone();
                let finish: Finish = Box::new(|_| {});
                self.runtime.deliver(&agent, Delivery { message, wants_answer: false, finish });
                Ok(())
            }
            Way::Link(peer) => {
                let order = order_of(&message);
                let frame = Data::Deliver { want: Want::Nothing, tag: 0, message };
                peer.send_data(order, &frame).map_err(|e| send_error(&e, &peer))
            }
            Way::NoLink => {
                // For those that follow; a full queue means that the core is busy with such wishes already.
                let _ = self.core.try_send(Input::WantLink { node: node.clone() });
                Err(SendError::LinkLost { node })
            }
        }
    }

    /// The way to an instance; where only the link is missing, asks for one and waits for it.
    async fn way_to(&self, message: &Message) -> Result<Picked, SendError> {
        loop {
            let changed = self.routes_changed.notified();
            match self.route(message)? {
                Picked { node, way: Way::NoLink, .. } => {
                    let _ = self.core.send(Input::WantLink { node }).await;
                    // The asker's deadline bounds this; a dial that failed a moment ago is not repeated at once.
                    let _ = timeout(Duration::from_millis(500), changed).await;
                }
                found => return Ok(found),
            }
        }
    }

    /// Picks an instance by what was published last.
    fn route(&self, message: &Message) -> Result<Picked, SendError> {
        self.pick(&self.routes.load(), message)
    }

    /// Picks an instance: one of those that were chosen, or where the sender names the node of those there, by key,
    /// conversation or turn.
    fn pick(&self, routes: &Routes, message: &Message) -> Result<Picked, SendError> {
        let address = &message.to;
        if routes.stopping {
            return Err(SendError::Stopping { node: self.own.clone() });
        }
        let group = routes.agents.get(&address.agent);
        let picked = match (&address.node, group) {
            (Some(node), Some(group)) => group.pick_on(node, Sticky::of(message)),
            (None, Some(group)) => group.pick(Sticky::of(message)),
            (_, None) => None,
        };
        match picked {
            Some(instance) => Ok(Picked {
                agent: instance.agent.clone(),
                node: instance.node.clone(),
                way: instance.way.clone(),
                counted: instance.open.clone().map(Open::count),
            }),
            None if group.is_none() && !routes.joined => {
                Err(SendError::Joining { node: self.own.clone(), agent: address.agent.clone() })
            }
            None => Err(why_unusable(address, group)),
        }
    }

    fn shard(&self, tag: u64) -> std::sync::MutexGuard<'_, HashMap<u64, Waiting>> {
        let shard = &self.shards[(tag % SHARDS as u64) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meters(&self) -> &Meters {
        self.meters.get_or_init(Meters::new)
    }

    fn count<T>(&self, outcome: &Result<T, SendError>) {
        match outcome {
            Ok(_) => self.meters().delivered.increment(1),
            Err(error) => self.count_error(error),
        }
    }

    fn count_error(&self, error: &SendError) {
        if let Some(counter) = self.meters().outcomes.get(error.code()) {
            counter.increment(1);
        }
    }
}

fn answer_of(agent: AgentName, answer: Option<Answer>) -> Result<Answer, SendError> {
    answer.ok_or_else(|| SendError::AgentFailed { agent, reason: "it gave no answer".to_owned() })
}

/// Where a message goes, and the note that its outcome is awaited.
struct Picked {
    /// Its own name, which is not that of the message's address where it fills a slot of a blueprint.
    agent: AgentName,
    node: NodeId,
    way: Way,
    counted: Option<Counted>,
}

fn why_unusable(address: &Address, all: Option<&Group>) -> SendError {
    let instances = all.map(|all| all.instances.as_slice()).unwrap_or_default();
    let too_far = all.and_then(|all| all.choice.too_far).filter(|_| address.node.is_none());
    if let Some(found) = too_far.map(|index| &instances[index]) {
        let (agent, node, region) = (found.agent.clone(), found.node.clone(), found.region.clone());
        let rtt_ms = found.rtt.unwrap_or_default().as_millis() as u64;
        return SendError::TooFar { agent, node, region, rtt_ms };
    }
    let mut candidates =
        instances.iter().filter(|i| address.node.as_ref().is_none_or(|node| *node == i.node));
    if let Some(found) = candidates.clone().find(|i| i.status.is_reachable()) {
        let (agent, node) = (found.agent.clone(), found.node.clone());
        return SendError::NotRunning { agent, node, state: found.state.as_str().to_owned() };
    }
    if let Some(found) = candidates.next() {
        let (agent, node) = (found.agent.clone(), found.node.clone());
        return SendError::NodeDown { agent, node, status: found.status.to_string() };
    }
    let agent = address.agent.clone();
    match &address.node {
        Some(node) if !instances.is_empty() => {
            SendError::NotRunning { agent, node: node.clone(), state: "not deployed there".to_owned() }
        }
        Some(_) | None => SendError::UnknownAgent { agent },
    }
}

/// Messages of one sender and conversation, and those that it publishes to one topic, take one stream and stay in order.
fn order_of(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    message.from.hash(&mut hasher);
    match message.topic() {
        Some(topic) => topic.hash(&mut hasher),
        None => message.conversation_id.hash(&mut hasher),
    }
    hasher.finish()
}

fn send_error(failure: &SendFailure, peer: &Peer) -> SendError {
    match failure {
        SendFailure::Full => SendError::Overloaded { what: format!("the stream to {}", peer.node()) },
        SendFailure::Gone => SendError::LinkLost { node: peer.node().clone() },
        SendFailure::Wire(_) => {
            // The content was within its bound, so its envelope is what is too large.
            let bytes_max = limits::CONTENT_BYTES_MAX as u64;
            SendError::ContentTooLarge { bytes: limits::FRAME_BYTES_MAX as u64 + 1, bytes_max }
        }
    }
}

impl DataHandler for Dispatcher {
    fn handle(&self, peer: &Arc<Peer>, frame: Data) {
        match frame {
            Data::Deliver { want, tag, message } => self.take_in(peer, want, tag, message),
            Data::Outcome { tag, result } => {
                // A late outcome finds nobody; one over another link is not this message's.
                let mut shard = self.inner.shard(tag);
                if shard.get(&tag).is_some_and(|waiting| waiting.link == peer.link())
                    && let Some(waiting) = shard.remove(&tag)
                {
                    let _ = waiting.finish.send(result);
                }
            }
        }
    }

    fn peer_gone(&self, peer: &Peer) {
        for shard in &self.inner.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            // Dropping the sender tells the waiting one that the link is lost.
            shard.retain(|_, waiting| waiting.link != peer.link());
        }
    }
}

impl Dispatcher {
    /// Takes in a message from a peer and sends back what it wants to hear.
    fn take_in(&self, peer: &Arc<Peer>, want: Want, tag: u64, message: Message) {
        let order = order_of(&message);
        let agent = message.to.agent.clone();
        let finish: Finish = match want {
            Want::Nothing => {
                let inner = Arc::clone(&self.inner);
                Box::new(move |outcome| {
                    if outcome.is_err() {
                        inner.count(&outcome);
                    }
                })
            }
            Want::Receipt | Want::Answer => {
                let (peer, awaited) = (Arc::clone(peer), Awaited::over(peer));
                Box::new(move |result| {
                    send_outcome(&peer, order, tag, result);
                    drop(awaited);
                })
            }
        };
        let inner = &self.inner;
        let checked = inner.check(&message).and_then(|()| inner.check_origin(&message, peer));
        if let Err(error) = checked.and_then(|()| inner.routes.load().check_order(&message)) {
            return finish(Err(error));
        }
        self.inner.runtime.deliver(&agent, Delivery { message, wants_answer: want == Want::Answer, finish });
    }
}

fn send_outcome(peer: &Peer, order: u64, tag: u64, result: Outcome) {
    let result = result.map_err(|error| error.said_in(peer.version()));
    if let Err(failure) = peer.send_data(order, &Data::Outcome { tag, result }) {
        // The asker's deadline, or the end of its link, tells it.
        metrics::counter!("shoal_transport_outcomes_lost_total").increment(1);
        tracing::debug!(node = %peer.node(), %failure, "an answer could not be sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{CrossRegion, Guarantee, Offer, Performative};
    use crate::node::runtime::{Draft, RuntimeConfig};

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    #[tokio::test]
    async fn an_agent_beyond_the_configured_latency_is_refused_with_the_distance_unless_its_node_is_named() {
        let (core, mut wishes) = mpsc::channel(8);
        let config = RuntimeConfig {
            node: node("own"),
            keeper: "/none".into(),
            directory: "/none".into(),
            modules: "/none".into(),
        };
        let dispatcher = Dispatcher::new(node("own"), Runtime::new(config, |_, _, _| {}), core);
        let far = Instance {
            region: "us".to_owned(),
            rtt: Some(Duration::from_millis(150)),
            ..routes::tests::instance("echo", "far", Offer::default())
        };
        let name = AgentName::new("echo").expect("valid");
        let rule = CrossRegion {
            max_cross_region_latency: Some(Duration::from_millis(100)),
            ..CrossRegion::default()
        };
        dispatcher.publish(Routes::new([far], "eu", &rule, &Routes::default()));
        let message = |to: &str| {
            let from = AgentName::new("client").expect("valid");
            let draft = Draft {
                from,
                to: to.to_owned(),
                performative: Performative::Request,
                conversation_id: None,
                in_reply_to: None,
                content_type: "text/plain".to_owned(),
                content: bytes::Bytes::new(),
                deadline_ms: None,
                guarantee: Guarantee::AtMostOnce,
                key: None,
                hops: 0,
            };
            dispatcher
                .posting_of(draft)
                .map(|posting| {
                    let to = Address::parse(to).expect("one agent");
                    posting.addressed(to)
                })
                .expect("a valid message")
        };
        let refused = dispatcher.tell(message("echo")).expect_err("it is too far");
        let expected =
            SendError::TooFar { agent: name, node: node("far"), region: "us".to_owned(), rtt_ms: 150 };
        assert_eq!(refused, expected);
        assert!(wishes.try_recv().is_err(), "nothing was tried");
        let named = dispatcher.tell(message("echo@far")).expect_err("there is no link");
        assert_eq!(named, SendError::LinkLost { node: node("far") });
        assert_eq!(wishes.try_recv().expect("a link is wanted"), Input::WantLink { node: node("far") });
    }
}
