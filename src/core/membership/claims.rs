//! What may be believed: each claim about a member is checked before foca sees it.

use foca::{Member, State};

use super::identity::Identity;
use super::{MemberEffect, Membership};
use crate::core::ids::Incarnation;
use crate::core::limits;

impl Membership {
    /// Whether a claim may be given to foca at all.
    pub(super) fn is_credible(&self, member: &Member<Identity>) -> bool {
        let identity = member.id();
        if identity.key == self.foca.identity().key {
            // foca refutes claims about this very identity. Others are about an earlier one and outdated by
            // each packet that we send, or about a later one: see `notice_outdated_self`.
            return identity.incarnation == self.incarnation();
        }
        if self.is_forgotten(&identity.key, identity.incarnation) {
            return false;
        }
        let down = member.state() == State::Down;
        if !down && self.left.get(&identity.key).is_some_and(|at| identity.incarnation <= *at) {
            return false;
        }
        if !down && self.expelled.contains(&identity.key) {
            return false;
        }
        let Some(known) = self.known.get(&identity.key) else {
            return !self.is_full() && is_credible_start(Incarnation(0), identity.incarnation);
        };
        let outdated_down =
            down && identity.incarnation == known.incarnation && member.incarnation() < known.refutations;
        !outdated_down && is_credible_start(known.incarnation, identity.incarnation)
    }

    /// Whether a claim may be given to foca beside others: all of them together must find room.
    pub(super) fn admits(&self, member: &Member<Identity>, room: &mut usize) -> bool {
        if !self.is_credible(member) {
            return false;
        }
        let key = &member.id().key;
        if self.known.contains_key(key) || *key == self.foca.identity().key {
            return true;
        }
        let has_room = *room > 0;
        *room = room.saturating_sub(1);
        has_room
    }

    pub(super) fn notice_outdated_self<'a>(&mut self, claims: impl Iterator<Item = &'a Identity>) {
        let own = *self.foca.identity();
        let later = claims
            .filter(|claim| claim.key == own.key && claim.incarnation.start() > own.incarnation.start())
            .map(|claim| claim.incarnation)
            .filter(|later| is_credible_start(own.incarnation, *later))
            .max();
        if let Some(later) = later {
            self.effects.push_back(MemberEffect::OutdatedSelf(later));
        }
    }
}

/// Whether a start is near enough to the known one to be true.
pub(super) fn is_credible_start(known: Incarnation, claimed: Incarnation) -> bool {
    claimed.start() <= known.start().saturating_add(limits::INCARNATION_START_JUMP_MAX)
}
