//! What the nodes of the mesh share, as agents in this node's own process reach it: the state and the modules.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::dispatch::Promised;
use super::driver::Shared;
use super::runtime::Commons;
use crate::core::contract::Input;
use crate::core::error::{Refusal, SendError};
use crate::core::ids::{ModuleId, NodeId};
use crate::core::model::Message;
use crate::core::wire::{ModulePart, OutboxRequest, RequestBody, ResponseBody, StateAnswer, StateRequest};

/// Asks the core on behalf of agents.
#[derive(Debug)]
pub(super) struct Shares {
    pub(super) own: NodeId,
    pub(super) core: mpsc::Sender<Input>,
    pub(super) shared: Arc<Shared>,
}

impl Shares {
    fn ask(
        &self,
        node: NodeId,
        body: RequestBody,
    ) -> impl Future<Output = Result<ResponseBody, Refusal>> + Send + use<> {
        let (core, shared) = (self.core.clone(), Arc::clone(&self.shared));
        async move { shared.request(&core, node, body).await }
    }
}

impl Shares {
    /// Promises to deliver messages at least once; they are on this node's disk when this ends, or none of them is.
    pub(super) fn promise(&self, messages: Vec<Message>, life: Duration) -> Promised {
        let node = self.own.clone();
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        let request = OutboxRequest::Accept { messages, life_ms };
        let accepted = self.ask(node.clone(), RequestBody::Outbox(request));
        Box::pin(async move {
            let refused = |refusal: Refusal| SendError::NotPromised { node, why: refusal.to_string() };
            accepted.await.map(drop).map_err(refused)
        })
    }
}

fn unexpected(node: NodeId) -> Refusal {
    Refusal::NoAnswer { node, reason: "it answered something else".to_owned() }
}

impl Commons for Shares {
    fn state(
        &self,
        request: StateRequest,
    ) -> Pin<Box<dyn Future<Output = Result<StateAnswer, Refusal>> + Send>> {
        let own = self.own.clone();
        let asking = self.ask(own.clone(), RequestBody::State(request));
        Box::pin(async move {
            let ResponseBody::State(answer) = asking.await? else {
                return Err(unexpected(own));
            };
            Ok(answer)
        })
    }

    fn peers(&self) -> Vec<NodeId> {
        let view = self.shared.view.load();
        let members = view.members.iter().map(|(member, _)| member);
        let others = members.filter(|m| m.card.node_id != self.own && m.status.is_reachable());
        let mut peers: Vec<_> =
            others.map(|m| (m.expected_rtt.unwrap_or(Duration::MAX), m.card.node_id.clone())).collect();
        peers.sort_unstable();
        peers.into_iter().map(|(_, node)| node).collect()
    }

    fn module_part(
        &self,
        node: NodeId,
        module: ModuleId,
        offset: u64,
    ) -> Pin<Box<dyn Future<Output = Result<ModulePart, Refusal>> + Send>> {
        let asking = self.ask(node.clone(), RequestBody::ModulePart { module, offset });
        Box::pin(async move {
            let ResponseBody::ModulePart(part) = asking.await? else {
                return Err(unexpected(node));
            };
            Ok(part)
        })
    }
}
