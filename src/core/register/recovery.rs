//! A store that was lost: what this node may have promised is asked of others before it votes.
//!
//! Every member does this, voter or not, so that one that becomes a voter later is ready. It begins when the silence
//! after the start is over (the module above says why not before) and asks all voters of the newest roster that it
//! hears of. So many must answer that every quorum has one of them. Only a voter that may vote itself answers: another
//! one that has forgotten is no witness.

use std::collections::{BTreeMap, BTreeSet};

use super::durable::{Durable, Instance, Then, Vote};
use super::message::{Accepted, Ballot, RegisterMessage};
use super::rules::meets_every_quorum;
use super::{Register, Rule};
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{Epoch, Roster};
use crate::core::time::Instant;

/// What one voter answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Witness {
    promised: Option<Ballot>,
    accepted: Option<Accepted>,
    vote: Vote,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Recovery {
    /// The store says that it is whole, and it is not: that is to be struck out first.
    doubting: bool,
    /// The question that is out, and when it was asked.
    asked: Option<(u64, Instant)>,
    /// The disk has just refused something: not before then again.
    paused_until: Option<Instant>,
    /// Answers under the present roster, at most one a voter.
    witnesses: BTreeMap<NodeId, Witness>,
}

impl Recovery {
    pub(super) fn is_doubting(&self) -> bool {
        self.doubting
    }

    /// A disk that fails is not asked again as fast as it answers.
    pub(super) fn pause(&mut self, now: Instant) {
        self.paused_until = Some(now + limits::RECOVERY_RETRY);
    }

    /// Answers under another roster do not count.
    pub(super) fn begin_anew(&mut self) {
        self.asked = None;
        self.witnesses.clear();
    }
}

impl Register {
    /// The store is not what this node wrote last.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.recovery.doubting = self.durable.sound || self.write.is_some();
        self.recovery.begin_anew();
        if let Some(write) = &mut self.write
            && write.then != Then::Adopt
        {
            write.then = Then::Nothing;
        }
        tracing::warn!(
            "the store is old or new: this node votes when others have told it what it may have promised"
        );
        if self.is_beyond_recovery() {
            tracing::warn!(
                "no other voter can know what this one may have promised: as long as it does not vote, nobody gives \
                orders, and only `shoal cluster resolve --strategy force` ends that"
            );
        }
        self.tend_recovery(now);
    }

    /// Whether this node has forgotten what it promised, and even all other voters together could not tell it: it may
    /// have been a quorum alone.
    #[must_use]
    pub fn is_beyond_recovery(&self) -> bool {
        let is_alone = |roster: &Roster| {
            let others = roster.voters().filter(|voter| **voter != self.own).cloned().collect();
            !meets_every_quorum(roster, &others, &self.own)
        };
        let roster = self.durable.roster.as_ref().filter(|roster| roster.is_voter(&self.own));
        !self.is_sound() && roster.is_some_and(is_alone)
    }

    /// Whether every quorum has one of these nodes in it, even if this one is left out; also if there is no other voter.
    #[must_use]
    pub fn are_witnesses(&self, nodes: &BTreeSet<NodeId>) -> bool {
        let Some(roster) = &self.durable.roster else {
            return false;
        };
        let is_alone = roster.voters().all(|voter| *voter == self.own);
        is_alone || meets_every_quorum(roster, nodes, &self.own)
    }

    pub(super) fn tend_recovery(&mut self, now: Instant) -> bool {
        if self.recovery_timeout().is_none_or(|at| now < at) {
            return false;
        }
        self.recovery.paused_until = None;
        if self.recovery.doubting {
            return self.strike_out();
        }
        let ask = self.question();
        self.recovery.asked = Some((ask, now));
        self.recovery.witnesses.clear();
        self.tell_voters(&RegisterMessage::RecoverAsk { ask });
        true
    }

    fn strike_out(&mut self) -> bool {
        self.recovery.doubting = self.durable.sound;
        if self.durable.sound {
            self.write(Durable { sound: false, ..self.durable.clone() }, Then::Nothing);
        }
        true
    }

    pub(super) fn on_recover_ask(&mut self, from: NodeId, ask: u64) {
        if from == self.own || self.hold_back(&from, || RegisterMessage::RecoverAsk { ask }) {
            return;
        }
        let Some(base) = self.epoch() else {
            return;
        };
        // The asker may be behind: it goes by this roster first, and the answer counts under it.
        self.tell_roster(from.clone());
        if !self.may_vote() {
            return;
        }
        let Instance { promised, accepted } = self.durable.instance.clone();
        let Vote { term, holder } = self.durable.vote.clone();
        let answer = RegisterMessage::RecoverAnswer { ask, base, promised, accepted, term, holder };
        self.send(from, answer);
    }

    pub(super) fn on_recover_answer(&mut self, from: NodeId, answer: RegisterMessage) {
        let RegisterMessage::RecoverAnswer { ask, base, promised, accepted, term, holder } = answer else {
            return;
        };
        let is_asked = self.recovery.asked.is_some_and(|(asked, _)| asked == ask);
        if !is_asked || self.durable.sound || self.write.is_some() || self.epoch() != Some(base) {
            return;
        }
        let witness = Witness { promised, accepted, vote: Vote { term, holder } };
        self.recovery.witnesses.insert(from, witness);
        let nodes = self.recovery.witnesses.keys().cloned().collect();
        let Some(roster) = self.durable.roster.as_ref() else {
            return;
        };
        if meets_every_quorum(roster, &nodes, &self.own) {
            self.take_over(base);
        }
    }

    /// Takes over the highest of everything.
    fn take_over(&mut self, base: Epoch) {
        let witnesses = || self.recovery.witnesses.values();
        let own_accepted = self.durable.instance.accepted.clone();
        let accepted = witnesses().filter_map(|witness| witness.accepted.clone()).chain(own_accepted);
        let accepted = accepted.max_by(|one, other| one.ballot.cmp(&other.ballot));
        let own_promise = self.durable.instance.promised.clone();
        let promised = witnesses().filter_map(|witness| witness.promised.clone()).chain(own_promise).max();
        let votes_told = || witnesses().map(|witness| &witness.vote).chain([&self.durable.vote]);
        let term = votes_told().map(|vote| vote.term).max().unwrap_or(0);
        let last = votes_told().filter(|vote| vote.term == term);
        let holders: BTreeSet<_> = last.map(|vote| vote.holder.clone()).collect();
        // Several have voted for themselves, and one of them may have won by this node's vote: it votes for none of them.
        let holder = if holders.len() == 1 { holders.into_iter().next().flatten() } else { None };
        let vote = Vote { term, holder };
        let votes = self.durable.roster.as_ref().is_some_and(|roster| roster.is_voter(&self.own));
        // A successor that is being decided may make this node a voter, or has done so already and it voted
        // under it: what is asked must be asked again under that roster.
        if !votes && accepted.is_some() {
            return;
        }
        debug_assert_eq!(self.epoch(), Some(base), "answers count under the present roster");
        let next = Durable {
            roster: self.durable.roster.clone(),
            instance: Instance { promised, accepted },
            vote,
            sound: true,
        };
        self.recovery.begin_anew();
        self.write(next, Then::Nothing);
    }

    pub(super) fn recovery_timeout(&self) -> Option<Instant> {
        let member =
            self.durable.roster.as_ref().is_some_and(|roster| roster.members.contains_key(&self.own));
        if self.write.is_some() {
            return None;
        }
        let unpaused = self.recovery.paused_until.unwrap_or(Instant::ZERO);
        if self.recovery.doubting {
            return Some(unpaused);
        }
        if self.durable.sound || !member || self.breaks(Rule::RecoverBeforeVoting) {
            return None;
        }
        let again = self.recovery.asked.map_or(Instant::ZERO, |(_, at)| at + limits::RECOVERY_RETRY);
        Some(again.max(unpaused).max(self.quiet_until))
    }
}
