//! What those see of the shared state who watch that its invariants hold: borrowed, never changed.

use super::super::Mesh;
use crate::core::ids::NodeId;
use crate::core::model::{Actor, Clock, Dot, KeyState, Mode, Roster, Ticket, TicketView};
use crate::core::register::LeaseView;
use crate::core::state::Key;
use crate::core::time::Instant;

/// The shared state of one node.
#[derive(Debug, Clone, Copy)]
pub struct SharedView<'a> {
    /// Every dot that it has taken in.
    pub clock: &'a Clock,
    /// Every dot that is on its disk.
    pub durable: &'a Clock,
    /// What every member has on its disk, as far as it collects.
    pub floor: &'a Clock,
    /// Over the values of all keys.
    pub hash: u128,
    /// Who mints its dots.
    pub actor: Option<Actor>,
    /// Keys that hold more than values.
    pub unsettled: usize,
    /// Writes that wait for a majority.
    pub queued: usize,
    /// Its mode.
    pub mode: Mode,
    /// Why it is in its mode; empty while it is healthy.
    pub reason: &'a str,
    /// The roster that it knows.
    pub roster: Option<&'a Roster>,
    /// All that it promised as a voter is on its disk, as far as it knows.
    pub sound: bool,
    /// It has forgotten, and no other voter could tell it: only an operator can go on from there.
    pub beyond_recovery: bool,
    /// What peers sent that it refused.
    pub refused: u64,
    /// Peers whose comparison with it is being answered.
    pub serving: usize,
    /// How often a write was not told to a peer, because too many were told just before.
    pub held_back: u64,
}

impl Mesh {
    /// What it knows of what the nodes share.
    #[must_use]
    pub fn shared_view(&self) -> SharedView<'_> {
        let shared = &self.shared;
        SharedView {
            clock: shared.state.clock(),
            durable: shared.state.durable(),
            floor: shared.state.floor(),
            hash: shared.state.hash(),
            actor: shared.state.actor(),
            unsettled: shared.state.unsettled(),
            queued: shared.queue.len(),
            mode: shared.mode(),
            reason: &shared.reason,
            roster: shared.register.roster(),
            sound: shared.register.is_sound(),
            beyond_recovery: shared.register.is_beyond_recovery(),
            refused: shared.refused,
            serving: shared.serving.len(),
            held_back: shared.held_back,
        }
    }

    /// All keys of the state, those without a value as well.
    pub fn shared_keys(&self) -> impl Iterator<Item = (&Key, &KeyState)> {
        self.shared.state.keys()
    }

    /// The key at which a write stands.
    #[must_use]
    pub fn shared_key_of(&self, dot: Dot) -> Option<(&Key, &KeyState)> {
        self.shared.state.key_of(dot)
    }

    /// The term in which it holds the lease at `now`, if it does.
    #[must_use]
    pub fn lease_term(&self, now: Instant) -> Option<u64> {
        match self.shared.register.lease(now) {
            LeaseView::Mine { term, .. } => Some(term),
            LeaseView::Nobody | LeaseView::Theirs { .. } => None,
        }
    }

    /// The voters that it hears.
    pub fn voters_heard(&self) -> impl Iterator<Item = &NodeId> {
        self.shared.partition.reachable().iter()
    }

    /// What it tells of a ticket.
    #[must_use]
    pub fn ticket(&self, ticket: &Ticket) -> Option<TicketView> {
        self.shared.queue.ticket(ticket)
    }
}
