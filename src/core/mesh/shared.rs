//! What the nodes share: the replicated state, the register and the modes.

use super::{Mesh, Requester};
use crate::core::error::Refusal;
use crate::core::ids::{LinkId, NodeId, NodeKey};
use crate::core::wire::{Control, StateRequest};

impl Mesh {
    pub(super) fn on_shared(&mut self, link: LinkId, _key: NodeKey, from: &NodeId, frame: Control) {
        tracing::debug!(?link, %from, ?frame, "not taken in");
    }

    pub(super) fn on_state_request(&mut self, requester: Requester, request: StateRequest) {
        let why = format!("not there yet: {request:?}");
        self.answer(requester, Err(Refusal::BadRequest { why }));
    }
}
