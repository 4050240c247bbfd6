//! How gossip names a node: by the hash of its id and its incarnation, nothing else.
//!
//! foca compares addresses linearly and repeats identities in every packet, so names, addresses and
//! labels stay out of them; those travel in the hello and in the node's own records.

use serde::{Deserialize, Serialize};

use crate::core::ids::{Incarnation, NodeKey};

/// A node at one incarnation. Two of them with one key are the same node; the higher incarnation wins.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) key: NodeKey,
    pub(crate) incarnation: Incarnation,
    /// Whether this node may renew its identity; never sent, false for every identity from the wire,
    /// and switched off on a node that leaves, so that nothing can call it back.
    #[serde(skip)]
    pub(crate) renewable: bool,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.incarnation == other.incarnation
    }
}
impl Eq for Identity {}

impl Identity {
    pub(crate) fn of(key: NodeKey, incarnation: Incarnation) -> Self {
        Self { key, incarnation, renewable: false }
    }
}

impl foca::Identity for Identity {
    type Addr = NodeKey;

    /// A node that was declared down can only come back under a higher incarnation. The block that it
    /// comes from is durable already (see [`Incarnation`]), so this may happen in the middle of a call.
    fn renew(&self) -> Option<Self> {
        if !self.renewable {
            return None;
        }
        Some(Self { incarnation: self.incarnation.renewed()?, ..*self })
    }

    fn addr(&self) -> NodeKey {
        self.key
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.incarnation > adversary.incarnation
    }
}
