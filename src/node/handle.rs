//! What the API, the command line and embedding programs hold of a running node.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::dispatch::{Delivered, Dispatcher, Posting};
use super::driver::Shared;
use super::events::{Events, Subscription};
use super::identity::{IdentityState, KeeperHandle, OfferError, Offered};
use super::runtime::{KeptModule, Runtime};
use super::transport::{Peer, PeerCertificate, Transport};
use super::{clock, command};
use crate::core::contract::{Input, View};
use crate::core::error::{Refusal, SendError};
use crate::core::ids::{LinkId, ModuleId, NodeId};
use crate::core::limits;
use crate::core::model::{Answer, Message};
use crate::core::wire::{RequestBody, ResponseBody, StateChange};

/// Talks to a running node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) own: NodeId,
    pub(super) core: mpsc::Sender<Input>,
    pub(super) shared: Arc<Shared>,
    pub(super) dispatcher: Dispatcher,
    pub(super) runtime: Runtime,
    pub(super) transport: Transport,
    pub(super) identity: KeeperHandle,
    pub(super) policy: Arc<PolicyCommand>,
    pub(super) measuring: Arc<Semaphore>,
    pub(super) started: Instant,
}

/// The command of the policy `custom`.
#[derive(Debug)]
pub(super) struct PolicyCommand {
    pub(super) command: Option<String>,
    pub(super) turns: Semaphore,
}

impl Handle {
    /// The node's name.
    #[must_use]
    pub fn own(&self) -> &NodeId {
        &self.own
    }

    /// Lets the configured command choose among the values of a key: `question` is its standard input, and its standard
    /// output is returned.
    ///
    /// # Errors
    /// Why there is no answer, in one sentence.
    pub async fn ask_policy(&self, question: &[u8]) -> Result<String, String> {
        let PolicyCommand { command, turns } = &*self.policy;
        let Some(command) = command else {
            return Err(format!("{} has no coordination.state.custom_policy", self.own));
        };
        let _turn = turns.acquire().await.map_err(|error| error.to_string())?;
        let bytes_max = 4 * limits::STATE_VALUE_BYTES_MAX as u64;
        command::ask(command, question, bytes_max, limits::POLICY_DEADLINE).await
    }

    /// How long the node has been running.
    #[must_use]
    pub fn uptime(&self) -> std::time::Duration {
        self.started.elapsed()
    }

    /// The mesh as this node sees it; at most some milliseconds old.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.shared.view.load_full()
    }

    /// The round trip over a link, as QUIC measures it.
    #[must_use]
    pub fn rtt(&self, link: LinkId) -> Option<std::time::Duration> {
        self.transport.peer(link).map(|peer| peer.rtt())
    }

    /// The link to a peer, as QUIC measures it.
    #[must_use]
    pub fn peer(&self, link: LinkId) -> Option<Arc<Peer>> {
        self.transport.peer(link)
    }

    /// Where the node listens (UDP).
    ///
    /// # Errors
    /// What the system says.
    pub fn listens_on(&self) -> std::io::Result<SocketAddr> {
        self.transport.local_addr()
    }

    /// The certificates of this node, as they are in use now.
    #[must_use]
    pub fn identity(&self) -> Arc<IdentityState> {
        self.identity.state()
    }

    /// The certificates of the peers, one a link.
    #[must_use]
    pub fn peer_certificates(&self) -> Vec<PeerCertificate> {
        self.transport.peer_certificates(clock::wall_clock())
    }

    /// Takes in revocation lists in PEM format, keeps them, applies them, and lets the whole mesh know: all of
    /// them, or none.
    ///
    /// # Errors
    /// [`OfferError`]; nothing changed.
    pub async fn offer_crls(&self, pem: String) -> Result<Vec<Offered>, OfferError> {
        self.identity.offer(pem).await
    }

    /// Reads certificate, key, CA bundle and revocation lists at once, without waiting until they are noticed.
    ///
    /// # Errors
    /// Why they are refused, in one sentence; the former stay in use.
    pub async fn reload_certificates(&self) -> Result<(), String> {
        self.identity.reload().await
    }

    /// What happened and happens.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.shared.events
    }

    /// Follows the events after `after`, or from now on.
    #[must_use]
    pub fn subscribe(&self, after: Option<u64>) -> Subscription {
        self.shared.events.subscribe(after)
    }

    /// The keys of the state that changed and change on this node.
    #[must_use]
    pub fn state_changes(&self) -> &Events<StateChange> {
        &self.shared.changes
    }

    /// Asks a node of the mesh, this one included, to do something.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn request(&self, node: NodeId, body: RequestBody) -> Result<ResponseBody, Refusal> {
        self.shared.request(&self.core, node, body).await
    }

    /// Keeps a WASM module on this node, if it is a component that can be an agent.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence; it is not kept.
    pub async fn put_module(&self, bytes: bytes::Bytes) -> Result<ModuleId, String> {
        self.runtime.put_module(bytes).await
    }

    /// The WASM modules on this node, each with whether an agent of it uses it.
    ///
    /// # Errors
    /// What the disk said, in one sentence.
    pub async fn modules(&self) -> Result<Vec<(KeptModule, bool)>, String> {
        self.runtime.modules().await
    }

    /// Sends a message and waits for the answer.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn ask(&self, message: Message) -> Result<Answer, SendError> {
        self.dispatcher.ask(message).await
    }

    /// Sends a message and waits until it is in the agent's mailbox.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send(&self, message: Message) -> Result<(), SendError> {
        self.dispatcher.send(message).await
    }

    /// Sends a message to one of those that its sender means, and waits for the answer.
    ///
    /// # Errors
    /// As [`Dispatcher::enquire`].
    pub async fn enquire(&self, posting: Posting) -> Result<Answer, SendError> {
        self.dispatcher.enquire(posting).await
    }

    /// The messages that have to be delivered where one is promised.
    ///
    /// # Errors
    /// As [`Dispatcher::copies`].
    pub fn copies(&self, posting: Posting) -> Result<Vec<Message>, SendError> {
        self.dispatcher.copies(posting)
    }

    /// Sends a message to all that its sender means.
    ///
    /// # Errors
    /// As [`Dispatcher::post`].
    pub async fn post(&self, posting: Posting) -> Result<Vec<Delivered>, SendError> {
        self.dispatcher.post(posting).await
    }

    /// Sends a message and does not wait; see [`Dispatcher::tell`].
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub fn tell(&self, message: Message) -> Result<(), SendError> {
        self.dispatcher.tell(message)
    }

    /// Whether the node has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.core.is_closed()
    }

    /// Tells the node to stop: it says good-bye, lets its agents finish, and ends.
    pub async fn stop(&self) {
        // A driver that is gone has stopped already.
        let _ = self.core.send(Input::Stop).await;
    }
}
