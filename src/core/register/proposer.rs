//! The proposer: brings changes of the roster to their end, one after the other.
//!
//! Only the holder of a lease that was renewed under the present roster begins a change. An attempt has a ballot of its
//! own and counts answers for less than a lease; then another one begins, until the deadline. If voters tell of a
//! value that was accepted before, that one is finished first and the own change is made upon it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::message::{Accepted, Ballot, RegisterMessage};
use super::rules::{RegisterError, RosterChange, agrees, successor};
use super::{LeaseView, Register, RegisterEffect, Rule, at_holder};
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{Epoch, Roster};
use crate::core::time::Instant;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Proposal {
    number: u64,
    change: RosterChange,
    begun: Instant,
    /// What was last tried, to be known again when it holds.
    wanted: Option<Roster>,
    /// Voters that answered the last attempt.
    answered: BTreeSet<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Attempt {
    base: Epoch,
    ballot: Ballot,
    begun: Instant,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Preparing(BTreeMap<NodeId, Option<Accepted>>),
    Accepting(Roster, BTreeSet<NodeId>),
    /// Outbid, or decided and being stored: it answers to nothing until its time is over.
    Over,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Proposer {
    /// The first one is being tried.
    queue: VecDeque<Proposal>,
    attempt: Option<Attempt>,
    round: u64,
}

impl Register {
    pub(super) fn enqueue(&mut self, number: u64, change: RosterChange, now: Instant) {
        if self.proposer.queue.len() >= limits::PROPOSALS_MAX {
            return self.decide(number, Err(RegisterError::Overloaded));
        }
        let Some(roster) = &self.durable.roster else {
            let why = "this node knows of no roster".into();
            return self.decide(number, Err(RegisterError::NotNow(why)));
        };
        let refused = match self.lease(now) {
            LeaseView::Mine { .. } => None,
            _ if change == RosterChange::FinishPending => None,
            LeaseView::Theirs { node, .. } => Some(RegisterError::NotHolder { holder: Some(node) }),
            LeaseView::Nobody => Some(RegisterError::NotHolder { holder: None }),
        };
        // What waits before it may change the answer: then it is judged when its turn comes.
        let refused = refused
            .or_else(|| self.proposer.queue.is_empty().then(|| successor(roster, &change).err()).flatten());
        if let Some(error) = refused {
            return self.decide(number, Err(error));
        }
        let answered = BTreeSet::new();
        self.proposer.queue.push_back(Proposal { number, change, begun: now, wanted: None, answered });
    }

    /// Begins the next attempt, or gives up; `false` if nothing is to be done now.
    pub(super) fn tend_proposals(&mut self, now: Instant) -> bool {
        let Some(first) = self.proposer.queue.front() else {
            self.proposer.attempt = None;
            return false;
        };
        if now >= first.begun + limits::PROPOSAL_DEADLINE {
            return self.give_up();
        }
        self.proposer.attempt.take_if(|attempt| now >= attempt.begun + at_holder(limits::LEASE));
        let finishing = first.change == RosterChange::FinishPending;
        if self.proposer.attempt.is_some() || !self.may_vote() || !(finishing || self.leads(now)) {
            return false;
        }
        self.begin(now)
    }

    /// Begins an attempt for the first proposal.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        let (Some(roster), Some(first)) = (&self.durable.roster, self.proposer.queue.front_mut()) else {
            return false;
        };
        let base = roster.epoch;
        let number = first.number;
        match successor(roster, &first.change) {
            Ok(None) if first.change != RosterChange::FinishPending => return self.finish(number, Ok(base)),
            Ok(wanted) => first.wanted = wanted,
            Err(error) => return self.finish(number, Err(error)),
        }
        first.answered.clear();
        let promised = self.durable.instance.promised.as_ref().map_or(0, |ballot| ballot.round);
        let round = self.proposer.round.max(promised) + 1;
        self.proposer.round = round;
        let ballot = Ballot { round, node: self.own.clone(), life: self.life };
        let phase = Phase::Preparing(BTreeMap::new());
        self.proposer.attempt = Some(Attempt { base, ballot: ballot.clone(), begun: now, phase });
        self.tell_voters(&RegisterMessage::Prepare { base, ballot });
        true
    }

    pub(super) fn on_promise(
        &mut self,
        from: NodeId,
        ballot: &Ballot,
        accepted: Option<Accepted>,
        now: Instant,
    ) {
        let Some((mut attempt, roster)) = self.counting(ballot, &from, now) else {
            return;
        };
        let Phase::Preparing(promises) = &mut attempt.phase else {
            return;
        };
        promises.insert(from, accepted);
        if !agrees(&roster, &promises.keys().cloned().collect()) {
            self.proposer.attempt = Some(attempt);
            return;
        }
        let highest = promises.values().flatten().max_by(|one, other| one.ballot.cmp(&other.ballot));
        let highest = highest.filter(|_| !self.breaks(Rule::AdoptHighest)).map(|a| a.successor.clone());
        let wanted = self.proposer.queue.front().and_then(|proposal| proposal.wanted.clone());
        let Some(value) = highest.or(wanted) else {
            let number = self.proposer.queue.front().map_or(0, |proposal| proposal.number);
            self.finish(number, Ok(roster.epoch));
            return;
        };
        let (base, ballot) = (attempt.base, attempt.ballot.clone());
        attempt.phase = Phase::Accepting(value.clone(), BTreeSet::new());
        self.proposer.attempt = Some(attempt);
        if let Some(first) = self.proposer.queue.front_mut() {
            first.answered.clear();
        }
        self.tell_voters(&RegisterMessage::Accept { base, ballot, successor: value });
    }

    pub(super) fn on_accepted(&mut self, from: NodeId, ballot: &Ballot, now: Instant) {
        let Some((mut attempt, roster)) = self.counting(ballot, &from, now) else {
            return;
        };
        let Phase::Accepting(value, accepted) = &mut attempt.phase else {
            return;
        };
        accepted.insert(from);
        if agrees(&roster, accepted) {
            let value = value.clone();
            attempt.phase = Phase::Over;
            let message = self.learn(value.clone());
            let rosters = [roster, value];
            self.tell_all(&rosters, &message);
            // This node goes by it even if it is the one that is evicted.
            self.own_messages.push_back(message);
        }
        self.proposer.attempt = Some(attempt);
    }

    pub(super) fn on_outbid(&mut self, ballot: &Ballot, promised: &Ballot, now: Instant) {
        self.proposer.round = self.proposer.round.max(promised.round);
        let Some(attempt) = self.proposer.attempt.as_mut().filter(|attempt| attempt.ballot == *ballot) else {
            return;
        };
        // Who outbid it is given the rest of this attempt's time.
        if now >= attempt.begun {
            attempt.phase = Phase::Over;
        }
    }

    /// The attempt that an answer counts for, taken out.
    fn counting(&mut self, ballot: &Ballot, from: &NodeId, now: Instant) -> Option<(Attempt, Roster)> {
        let roster = self.durable.roster.clone()?;
        let attempt = self.proposer.attempt.clone()?;
        let counts = attempt.ballot == *ballot
            && attempt.base == roster.epoch
            && now < attempt.begun + at_holder(limits::LEASE);
        if let Some(first) = self.proposer.queue.front_mut().filter(|_| counts) {
            first.answered.insert(from.clone());
        }
        counts.then_some((attempt, roster))
    }

    pub(super) fn on_roster_changed(&mut self, roster: &Roster, _now: Instant) {
        self.proposer.attempt = None;
        let Some(first) = self.proposer.queue.front() else {
            return;
        };
        let number = first.number;
        if first.wanted.as_ref() == Some(roster) || first.change == RosterChange::FinishPending {
            self.finish(number, Ok(roster.epoch));
        }
    }

    fn give_up(&mut self) -> bool {
        let Some(first) = self.proposer.queue.front() else {
            return false;
        };
        let silent = |voter: &&NodeId| !first.answered.contains(*voter);
        let roster = self.durable.roster.as_ref();
        let missing = roster.into_iter().flat_map(Roster::voters).filter(silent).cloned().collect();
        let number = first.number;
        self.finish(number, Err(RegisterError::NoQuorum { missing }))
    }

    /// The first proposal has come to its end.
    fn finish(&mut self, number: u64, result: Result<Epoch, RegisterError>) -> bool {
        self.proposer.queue.pop_front();
        self.proposer.attempt = None;
        self.decide(number, result);
        true
    }

    pub(super) fn fail_all(&mut self, error: &RegisterError) {
        self.proposer.attempt = None;
        for proposal in std::mem::take(&mut self.proposer.queue) {
            self.decide(proposal.number, Err(error.clone()));
        }
    }

    fn decide(&mut self, proposal: u64, result: Result<Epoch, RegisterError>) {
        self.effects.push_back(RegisterEffect::Decided { proposal, result });
    }

    pub(super) fn proposer_timeout(&self) -> Option<Instant> {
        let deadline = self.proposer.queue.front()?.begun + limits::PROPOSAL_DEADLINE;
        let attempt = self.proposer.attempt.as_ref().map(|attempt| attempt.begun + at_holder(limits::LEASE));
        attempt.into_iter().chain([deadline]).min()
    }
}

#[cfg(test)]
impl Proposer {
    /// Takes up a change without a lease, in place of what was tried before.
    pub(super) fn force_attempt(&mut self, change: RosterChange, now: Instant) {
        let answered = BTreeSet::new();
        self.attempt = None;
        self.queue = [Proposal { number: 0, change, begun: now, wanted: None, answered }].into();
    }
}
