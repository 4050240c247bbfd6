//! Rules that tests of whole meshes break, to see that what watches a mesh would notice.

use super::super::Mesh;
use crate::core::register;
use crate::core::state;

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The floor is what those have who are there, whatever other members the roster has.
    FloorOfTheLiveView,
    /// A voter grants the lease before its vote is on its disk.
    GrantBeforeTheVoteIsStored,
    /// A write tells of all those of its actor before it.
    MaximumForPrefix,
}

impl Mesh {
    /// From now on this node does without that rule.
    pub(crate) fn break_rule(&mut self, flaw: Flaw) {
        match flaw {
            Flaw::FloorOfTheLiveView => self.shared.floors.of_the_live_view = true,
            Flaw::GrantBeforeTheVoteIsStored => {
                self.shared.register.break_rule(register::Rule::StoreBeforeGrant);
            }
            Flaw::MaximumForPrefix => self.shared.state.break_rule(state::Rule::GapsStayOpen),
        }
    }
}
