//! Members whose certificate is good no more: failed at once, and not believed alive on anybody's word.
//!
//! Suspicion does not come into it: there is nothing that such a member could refute. It comes back through
//! [`Membership::readmit`], when a link of its own has shown a good certificate.

use foca::{Member, State};

use super::Membership;
use super::identity::Identity;
use crate::core::ids::NodeKey;
use crate::core::limits;

impl Membership {
    /// Holds a member for failed from now on, whoever says otherwise, and tells the others.
    pub(crate) fn expel(&mut self, key: NodeKey) {
        if self.expelled.len() >= limits::PEERS_MAX && !self.expelled.contains(&key) {
            return;
        }
        self.expelled.insert(key);
        let Some(known) = self.known.get(&key).copied().filter(|known| known.status.is_reachable()) else {
            return;
        };
        let down = Member::new(Identity::of(key, known.incarnation), known.refutations, State::Down);
        self.outbox.touched.insert(key);
        let result = self.foca.apply_many([down].into_iter(), true, &mut self.outbox);
        self.settle("expulsion", result);
    }

    /// What is said of the member counts again.
    pub(crate) fn readmit(&mut self, key: &NodeKey) {
        self.expelled.remove(key);
    }
}
