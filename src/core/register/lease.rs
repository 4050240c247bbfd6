//! The lease: granted by voters, bid for and held by one of them.
//!
//! A bid names a term and a question; grants count for that question only, from when it was asked. A renewal is the
//! same term under a new question. Who lost the lease bids for a new term.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::durable::{Durable, Then, Vote};
use super::message::RegisterMessage;
use super::{Register, RegisterEffect, Rule, agrees, at_holder, at_voter};
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{Epoch, Roster};
use crate::core::time::Instant;

/// Who holds the lease, as far as this node knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum LeaseView {
    /// Nobody, or this node does not vote and is not told.
    #[default]
    Nobody,
    /// This node.
    Mine {
        /// The term.
        term: u64,
        /// It may give orders before this moment, not at it.
        until: Instant,
    },
    /// Another one, which this node has granted it.
    Theirs {
        /// Which.
        node: NodeId,
        /// The term.
        term: u64,
    },
}

/// A question that is out, or was answered by a quorum.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Bid {
    term: u64,
    ask: u64,
    base: Epoch,
    sent: Instant,
    grants: BTreeSet<NodeId>,
    refused: BTreeSet<NodeId>,
    /// It cannot be granted by a quorum any more, and counts no grant.
    lost: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Held {
    term: u64,
    until: Instant,
    /// The roster under which a quorum granted it.
    base: Epoch,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Granted {
    to: NodeId,
    term: u64,
    until: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Lease {
    /// Kept when it is over: candidates stand in line from then on.
    granted: Option<Granted>,
    bid: Option<Bid>,
    held: Option<Held>,
    /// The term for which this process has bid since it last lost the lease.
    term: Option<u64>,
    /// The highest term that a voter answered with.
    term_seen: u64,
    /// It is no use bidding before.
    not_before: Instant,
    told: LeaseView,
    #[cfg(test)]
    bids_from: Instant,
}

impl Lease {
    /// All times that were measured are void. Whoever was granted the lease is protected by the silence that follows.
    pub(super) fn forget(&mut self) {
        let told = std::mem::take(&mut self.told);
        *self = Self { term_seen: self.term_seen, told, ..Self::default() };
    }

    /// The roster has changed: what was asked under the old one is asked again at once.
    pub(super) fn bid_anew(&mut self) {
        self.bid = None;
        self.not_before = Instant::ZERO;
    }
}

impl Register {
    /// Who holds the lease.
    #[must_use]
    pub fn lease(&self, now: Instant) -> LeaseView {
        if let Some(held) = self.lease.held.as_ref().filter(|held| now < held.until) {
            return LeaseView::Mine { term: held.term, until: held.until };
        }
        match &self.lease.granted {
            Some(granted) if now < granted.until && granted.to != self.own => {
                LeaseView::Theirs { node: granted.to.clone(), term: granted.term }
            }
            Some(_) | None => LeaseView::Nobody,
        }
    }

    /// Whether this node holds the lease and has renewed it under the present roster.
    pub(super) fn leads(&self, now: Instant) -> bool {
        let held = self.lease.held.as_ref();
        let is_renewed = |base| Some(base) == self.epoch() || self.breaks(Rule::RenewBeforeNextChange);
        held.is_some_and(|held| now < held.until && is_renewed(held.base))
    }

    /// Lets end what is over; before anything else at any moment.
    pub(super) fn lapse(&mut self, now: Instant) {
        if self.lease.held.take_if(|held| held.until <= now).is_some() {
            self.lease.term = None;
            self.lease.bid = None;
        }
    }

    pub(super) fn on_lease_ask(&mut self, from: NodeId, base: Epoch, term: u64, ask: u64, now: Instant) {
        if !self.believes_term(term) {
            tracing::warn!(node = %from.as_str(), term, "an absurd term of the lease is asked for: not listened to");
            return;
        }
        let is_vote = self.durable.vote == Vote { term, holder: Some(from.clone()) };
        // Since it was granted, a higher vote may have come with a roster: nobody else is granted while this one runs.
        let is_running =
            |granted: &Granted| granted.to == from && granted.term == term && now < granted.until;
        let is_renewal = is_vote || self.lease.granted.as_ref().is_some_and(is_running);
        let is_voting = self.write.as_ref().is_some_and(|write| write.next.vote != self.durable.vote);
        // A renewal needs no write, and no slow disk should cost the lease; only another vote is waited for.
        if (!is_renewal || is_voting)
            && self.hold_back(&from, || RegisterMessage::LeaseAsk { base, term, ask })
        {
            return;
        }
        if !self.votes_under(&from, base) {
            return;
        }
        if now < self.quiet_until && !self.breaks(Rule::QuietAtStart) {
            return self.refuse(from, ask, self.quiet_until.since(now).max(at_voter(limits::LEASE)));
        }
        let other = self.lease.granted.as_ref().filter(|granted| granted.to != from);
        if let Some(granted) = other.filter(|granted| now < granted.until)
            && !self.breaks(Rule::GrantNobodyElse)
        {
            return self.refuse(from, ask, granted.until.since(now));
        }
        if is_renewal {
            return self.grant(from, term, ask, now);
        }
        let highest = self.durable.vote.term;
        if term < highest || term == highest && !self.breaks(Rule::TermsOnlyRise) {
            return self.refuse(from, ask, Duration::ZERO);
        }
        let vote = Vote { term, holder: Some(from.clone()) };
        let next = Durable { vote, ..self.durable.clone() };
        if self.breaks(Rule::StoreBeforeGrant) {
            self.grant(from, term, ask, now);
            return self.write(next, Then::Nothing);
        }
        self.write(next, Then::Grant { to: from, term, ask });
    }

    /// The vote is on disk: it is given now, and its time begins. If silence fell meanwhile, it is not.
    pub(super) fn grant(&mut self, to: NodeId, term: u64, ask: u64, now: Instant) {
        if now < self.quiet_until && !self.breaks(Rule::QuietAtStart) {
            return;
        }
        self.lease.granted = Some(Granted { to: to.clone(), term, until: now + at_voter(limits::LEASE) });
        self.send(to, RegisterMessage::LeaseGrant { term, ask });
    }

    fn refuse(&mut self, to: NodeId, ask: u64, wait: Duration) {
        let term = self.durable.vote.term;
        self.send(to, RegisterMessage::LeaseRefuse { ask, term, wait });
    }

    pub(super) fn on_lease_grant(&mut self, from: NodeId, term: u64, ask: u64, now: Instant) {
        let (Some(bid), Some(roster)) = (&mut self.lease.bid, &self.durable.roster) else {
            return;
        };
        if (bid.term, bid.ask) != (term, ask) || bid.base != roster.epoch || bid.lost {
            return;
        }
        bid.grants.insert(from);
        if !agrees(roster, &bid.grants) {
            return;
        }
        let (sent, base) = (bid.sent, bid.base);
        let from_when = if self.breaks(Rule::CountFromSending) { now } else { sent };
        let until = from_when + at_holder(limits::LEASE);
        if now < until {
            self.lease.held = Some(Held { term, until, base });
        }
    }

    pub(super) fn on_lease_refuse(
        &mut self,
        from: NodeId,
        ask: u64,
        term: u64,
        wait: Duration,
        now: Instant,
    ) {
        if !self.believes_term(term) {
            return;
        }
        let Some(bid) = self.lease.bid.as_mut().filter(|bid| bid.ask == ask) else {
            return;
        };
        if term >= bid.term {
            self.lease.term = None;
        }
        bid.refused.insert(from);
        let bid = bid.clone();
        self.give_up_bid(&bid, now);
        self.lease.term_seen = self.lease.term_seen.max(term);
        let wait = wait.min(at_voter(limits::LEASE));
        self.lease.not_before = self.lease.not_before.max(now + wait);
    }

    /// A candidate that cannot win frees the vote that it gave itself: two of them that each renewed their own vote
    /// with every bid would refuse each other for ever. It counts no further grant of that bid, so nobody is let down.
    /// Nobody waits for a voter that has failed: two of three that did would stay without a lease as long as it is away.
    fn give_up_bid(&mut self, bid: &Bid, now: Instant) {
        let is_out = |voter: &NodeId| bid.refused.contains(voter) || self.failed.contains(voter);
        let left = |roster: &Roster| roster.voters().filter(|voter| !is_out(voter)).cloned().collect();
        let may_win = self.durable.roster.as_ref().is_some_and(|roster| agrees(roster, &left(roster)));
        if may_win || self.lease.held.is_some() {
            return;
        }
        if let Some(bid) = &mut self.lease.bid {
            bid.lost = true;
        }
        if let Some(granted) = self.lease.granted.as_mut().filter(|granted| granted.to == self.own) {
            granted.until = granted.until.min(now);
        }
    }

    /// Renews, gives up a bid that came to nothing, or bids.
    pub(super) fn tend_lease(&mut self, now: Instant) -> bool {
        if !self.may_vote() || self.bid_at().is_none_or(|at| now < at) {
            return false;
        }
        let Some(base) = self.epoch() else {
            return false;
        };
        let term = self.term_to_bid();
        let ask = self.question();
        self.lease.term = Some(term);
        let (grants, refused) = (BTreeSet::new(), BTreeSet::new());
        self.lease.bid = Some(Bid { term, ask, base, sent: now, grants, refused, lost: false });
        self.tell_voters(&RegisterMessage::LeaseAsk { base, term, ask });
        true
    }

    pub(super) fn held_term(&self) -> Option<u64> {
        self.lease.held.as_ref().map(|held| held.term)
    }

    /// Whether a term can be one that the mesh has reached: no member can use them all up with one message.
    pub(super) fn believes_term(&self, term: u64) -> bool {
        let known = self.durable.vote.term.max(self.lease.term_seen);
        term <= known.saturating_add(limits::TERM_JUMP_MAX)
    }

    fn term_to_bid(&self) -> u64 {
        let highest = self.durable.vote.term.max(self.lease.term_seen);
        match (&self.lease.held, self.lease.term) {
            (Some(held), _) => held.term,
            (None, Some(term)) if term >= highest => term,
            (None, _) => highest.saturating_add(1),
        }
    }

    /// When the next bid or renewal is due.
    fn bid_at(&self) -> Option<Instant> {
        let again = self.lease.bid.as_ref().map(|bid| bid.sent + limits::LEASE_RENEWAL);
        if self.lease.held.is_some() {
            return Some(again.unwrap_or(Instant::ZERO));
        }
        let granted = self.lease.granted.as_ref().filter(|granted| granted.to != self.own);
        let free = granted.map_or(Instant::ZERO, |granted| granted.until);
        let lapsed = free.max(self.quiet_until).max(self.lease.not_before).max(self.lease.bids_from());
        let in_turn = lapsed + limits::LEASE_RANK_STEP * self.rank()?;
        Some(again.map_or(in_turn, |again| again.max(in_turn)))
    }

    /// The place of this node among the voters that are not failed.
    fn rank(&self) -> Option<u32> {
        let roster = self.durable.roster.as_ref()?;
        let mut standing =
            roster.voters().filter(|voter| **voter == self.own || !self.failed.contains(*voter));
        standing.position(|voter| *voter == self.own).and_then(|rank| u32::try_from(rank).ok())
    }

    pub(super) fn lease_timeout(&self) -> Option<Instant> {
        let lapses = self.lease.held.as_ref().map(|held| held.until);
        let is_told_of = matches!(self.lease.told, LeaseView::Theirs { .. });
        let frees = self.lease.granted.as_ref().filter(|_| is_told_of).map(|granted| granted.until);
        let bids = if self.may_vote() { self.bid_at() } else { None };
        [lapses, frees, bids].into_iter().flatten().min()
    }

    pub(super) fn tell_lease(&mut self, now: Instant) {
        let view = self.lease(now);
        if view != self.lease.told {
            self.lease.told = view.clone();
            self.effects.push_back(RegisterEffect::LeaseChanged(view));
        }
    }
}

#[cfg(test)]
impl Lease {
    /// Bids not before, whatever else happens; renews what it holds.
    pub(super) fn bid_from(&mut self, at: Instant) {
        self.not_before = at;
        self.bids_from = at;
    }

    fn bids_from(&self) -> Instant {
        self.bids_from
    }
}

#[cfg(not(test))]
impl Lease {
    #[allow(clippy::unused_self, reason = "tests ask it of a lease")]
    fn bids_from(&self) -> Instant {
        Instant::ZERO
    }
}
