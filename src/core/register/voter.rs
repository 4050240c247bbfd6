//! The voter: promises, accepts, and goes by the rosters that were decided.
//!
//! It answers only under the roster that it has itself: to a question under an older one it answers with its own
//! roster, to one under a later one by asking for that.

use super::durable::{Durable, Instance, Then, Vote};
use super::message::{Accepted, Ballot, RegisterMessage};
use super::{Register, RegisterEffect, Rule, check_alone, check_successor, quiet};
use crate::core::ids::NodeId;
use crate::core::model::{Epoch, Roster};
use crate::core::time::Instant;

impl Register {
    pub(super) fn on_prepare(&mut self, from: NodeId, base: Epoch, ballot: Ballot) {
        if self.hold_back(&from, || RegisterMessage::Prepare { base, ballot: ballot.clone() })
            || !self.votes_under(&from, base)
        {
            return;
        }
        let promised = &self.durable.instance.promised;
        if promised.as_ref() > Some(&ballot) && !self.breaks(Rule::RefuseLowerBallot) {
            return self.outbid(from, ballot);
        }
        let accepted = self.durable.instance.accepted.clone();
        let instance = Instance { promised: Some(ballot.clone()), accepted: accepted.clone() };
        let answer = RegisterMessage::Promise { ballot, accepted };
        if self.breaks(Rule::StoreBeforePromise) {
            return self.answer_before_stored(from, instance, answer);
        }
        self.answer_once_stored(from, instance, answer);
    }

    pub(super) fn on_accept(&mut self, from: NodeId, base: Epoch, ballot: Ballot, successor: Roster) {
        let again = || RegisterMessage::Accept { base, ballot: ballot.clone(), successor: successor.clone() };
        if self.hold_back(&from, again) || !self.votes_under(&from, base) {
            return;
        }
        let promised = &self.durable.instance.promised;
        if promised.as_ref() > Some(&ballot) && !self.breaks(Rule::RefuseLowerBallot) {
            return self.outbid(from, ballot);
        }
        let is_legal =
            self.durable.roster.as_ref().is_some_and(|old| check_successor(old, &successor).is_ok());
        if !is_legal {
            tracing::error!(node = %from.as_str(), "a successor was proposed that the rules forbid; it is not accepted");
            return;
        }
        let accepted = Some(Accepted { ballot: ballot.clone(), successor });
        let instance = Instance { promised: Some(ballot.clone()), accepted };
        let answer = RegisterMessage::Accepted { ballot };
        if self.breaks(Rule::StoreBeforeAccepted) {
            return self.answer_before_stored(from, instance, answer);
        }
        self.answer_once_stored(from, instance, answer);
    }

    /// Tells of a roster, and of the highest vote that this node knows of.
    pub(super) fn learn(&self, roster: Roster) -> RegisterMessage {
        let held = self.held_term().map(|term| Vote { term, holder: Some(self.own.clone()) });
        let own = self.durable.vote.clone();
        // A holder's own vote may have failed on its disk: others made up the quorum.
        let Vote { term, holder } = held.filter(|held| held.term > own.term).unwrap_or(own);
        RegisterMessage::Learn { roster, term, holder }
    }

    /// A roster was decided, or begins a chain that overrules this one. With it goes what was voted under those before it:
    /// a voter that has forgotten asks the voters of this one, who need not have been among the others.
    pub(super) fn on_learn(&mut self, from: NodeId, roster: Roster, told: Vote) {
        if self.epoch() >= Some(roster.epoch) || check_alone(&roster).is_err() {
            return;
        }
        let again = || {
            let Vote { term, holder } = told.clone();
            RegisterMessage::Learn { roster: roster.clone(), term, holder }
        };
        if self.hold_back(&from, again) {
            return;
        }
        let own = &self.durable.vote;
        let is_later = own.term < told.term && self.believes_term(told.term);
        let is_later = is_later && !self.breaks(Rule::VotesGoWithRosters);
        let vote = if is_later { told } else { own.clone() };
        let (roster, instance) = (Some(roster), Instance::default());
        self.write(Durable { roster, instance, vote, ..self.durable.clone() }, Then::Adopt);
    }

    pub(super) fn on_roster_ask(&mut self, from: NodeId, have: Option<Epoch>) {
        if have < self.epoch() {
            self.tell_roster(from);
        }
    }

    pub(super) fn on_adopted(&mut self, now: Instant) {
        let Some(roster) = self.durable.roster.clone() else {
            return;
        };
        // The lease of an overruled chain may still run: a new chain begins like a process, with silence.
        if roster.epoch.order == 1 && roster.epoch.chain > 1 {
            self.quiet_until = self.quiet_until.max(now + quiet());
            self.lease.forget();
        }
        self.lease.bid_anew();
        self.recovery.begin_anew();
        self.effects.push_back(RegisterEffect::RosterChanged(roster.clone()));
        self.on_roster_changed(&roster, now);
    }

    pub(super) fn tell_roster(&mut self, to: NodeId) {
        if let Some(roster) = self.durable.roster.clone() {
            let message = self.learn(roster);
            self.send(to, message);
        }
    }

    /// Whether a question that stands on `base` can be answered here; if the two sides' rosters differ, the one
    /// that is behind is told of it.
    pub(super) fn votes_under(&mut self, from: &NodeId, base: Epoch) -> bool {
        let own = self.epoch();
        if own > Some(base) {
            self.tell_roster(from.clone());
        } else if own < Some(base) {
            self.send(from.clone(), RegisterMessage::RosterAsk { have: own });
        }
        let asker_votes = self.durable.roster.as_ref().is_some_and(|roster| roster.is_voter(from));
        let is_present = own == Some(base) || own > Some(base) && self.breaks(Rule::RefuseOlderEpochs);
        is_present && asker_votes && self.may_vote()
    }

    fn answer_once_stored(&mut self, to: NodeId, instance: Instance, answer: RegisterMessage) {
        if instance == self.durable.instance {
            return self.send(to, answer);
        }
        let next = Durable { instance, ..self.durable.clone() };
        self.write(next, Then::Answer(to, Box::new(answer)));
    }

    /// What must never happen; only tests do it.
    fn answer_before_stored(&mut self, to: NodeId, instance: Instance, answer: RegisterMessage) {
        self.send(to, answer);
        self.write(Durable { instance, ..self.durable.clone() }, Then::Nothing);
    }

    fn outbid(&mut self, to: NodeId, ballot: Ballot) {
        if let Some(promised) = self.durable.instance.promised.clone() {
            self.send(to, RegisterMessage::Outbid { ballot, promised });
        }
    }
}
