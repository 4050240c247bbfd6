//! What the two sides of a connection tell each other first, and whether that lets them talk.

use serde::{Deserialize, Serialize};

use super::NodeCard;
use crate::core::error::Refused;
use crate::core::ids::{Incarnation, MeshId, MeshName, ProcessId};

/// The first thing either side of a connection says, before anything else is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest protocol version that the sender speaks.
    pub version_min: u8,
    /// Highest protocol version that the sender speaks.
    pub version_max: u8,
    /// The mesh that the sender belongs to; `None` while it has not joined one.
    pub mesh_id: Option<MeshId>,
    /// The mesh's name, equal to the trust domain in its certificate.
    pub mesh_name: MeshName,
    /// This run of the sender's process.
    pub process_id: ProcessId,
    /// The sender's current incarnation.
    pub incarnation: Incarnation,
    /// The sender's card; its `node_id` must equal the certificate's.
    pub card: NodeCard,
    /// `None`: the connection is a link. Otherwise it carries bulk beside the link between the sender's
    /// process and this process of the receiver's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulk_beside: Option<ProcessId>,
}

impl Hello {
    /// Why the node that says this hello cannot talk to the one that says `theirs`, if it cannot. Both
    /// sides come to the same answer, except for [`Refused::Duplicate`], which only the namesake sees.
    #[must_use]
    pub fn refusal(&self, theirs: &Self) -> Option<Refused> {
        if self.common_version(theirs).is_none() {
            return Some(Refused::Version);
        }
        if self.mesh_name != theirs.mesh_name {
            return Some(Refused::Name);
        }
        if self.process_id == theirs.process_id {
            return Some(Refused::Oneself);
        }
        if self.card.node_id == theirs.card.node_id {
            return Some(Refused::Duplicate);
        }
        match (self.mesh_id, theirs.mesh_id) {
            (Some(ours), Some(theirs)) if ours != theirs => Some(Refused::Mesh),
            (None, None) => Some(Refused::NoMesh),
            (Some(_), _) | (None, Some(_)) => None,
        }
    }
}
