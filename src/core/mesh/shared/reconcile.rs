//! Comparing with every node at once, for an operator: what each had that the other lacked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::{Mesh, Requester};
use crate::core::error::Refusal;
use crate::core::ids::{NodeId, NodeKey};
use crate::core::time::Instant;
use crate::core::wire::{Difference, ResponseBody, StateAnswer};

/// How long it may take. Who has not answered by then is named as such.
const PATIENCE: Duration = Duration::from_secs(10);

/// A comparison that an operator asked for.
#[derive(Debug)]
pub(super) struct Comparing {
    requester: Requester,
    peers: BTreeMap<NodeId, Option<Difference>>,
    waiting: BTreeSet<NodeKey>,
    since: Instant,
}

impl Comparing {
    pub(super) fn waits_for(&self, key: &NodeKey) -> bool {
        self.waiting.contains(key)
    }
}

impl Mesh {
    /// Compares with every node that there is a link to.
    pub(super) fn reconcile(&mut self, requester: Requester) {
        if self.shared.comparing.is_some() {
            let what = "the comparison with all nodes, which is under way,".to_owned();
            return self.answer(requester, Err(Refusal::Overloaded { what }));
        }
        let keys = self.linked();
        let peers = keys.iter().filter_map(|key| Some((self.node_of(key)?, None))).collect();
        let waiting: BTreeSet<_> = keys.iter().copied().collect();
        let nobody = waiting.is_empty();
        self.shared.comparing = Some(Comparing { requester, peers, waiting, since: self.now });
        for key in keys {
            self.shared.asked.remove(&key);
            self.ask_state(key);
        }
        if nobody {
            self.end_comparing();
        }
    }

    /// This node has everything that the peer had, and told it what it lacked.
    pub(super) fn note_compared(&mut self, key: NodeKey, from: &NodeId, found: Difference) {
        if let Some(comparing) = &mut self.shared.comparing
            && comparing.waiting.remove(&key)
        {
            comparing.peers.insert(from.clone(), Some(found));
            if comparing.waiting.is_empty() {
                self.end_comparing();
            }
        }
    }

    /// Who had too much to do is asked again; who is silent for too long is not waited for.
    pub(super) fn retry_comparing(&mut self) {
        let Some(comparing) = &self.shared.comparing else {
            return;
        };
        if self.now.since(comparing.since) >= PATIENCE {
            return self.end_comparing();
        }
        for key in comparing.waiting.clone() {
            self.ask_state(key);
        }
    }

    fn end_comparing(&mut self) {
        if let Some(Comparing { requester, peers, .. }) = self.shared.comparing.take() {
            self.answer(requester, Ok(ResponseBody::State(StateAnswer::Reconciled { peers })));
        }
    }
}
