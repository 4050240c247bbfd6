//! The one agreement of the mesh: the chain of rosters, and the lease with its term.
//!
//! All other state is merged; these two cannot be. Each roster's successor is chosen by single-decree Paxos
//! (Lamport: "Paxos Made Simple", 2001) among the voters of that roster, and the lease is granted by the same
//! voters, a second at a time (Gray, Cheriton: "Leases", SOSP 1989).
//!
//! # What holds
//!
//! - Each roster of a chain has one successor: a voter has promise and accepted value on disk before it answers,
//!   accepts only what no later promise forbids, and a proposer takes over the highest accepted value it hears of.
//! - Each term has one holder: a voter has (term, holder) on disk before it grants, and grants no other term that
//!   is not above it. Renewals within a term are not written.
//! - No two nodes hold the lease at once while clocks run alike within [`limits::CLOCK_DRIFT_MILLI`]: a holder
//!   counts from *sending*, a little less; a voter from granting, a little more, and grants nobody else until then.
//! - The next change waits until the lease was renewed under the present roster. That takes a quorum of the new
//!   voters which have stored it, and from then on no quorum of the one before grants or decides anything.
//!
//! # Lost and old stores
//!
//! A voter grants nobody for [`quiet`] after its start, after a step of its clock, and after an override. One whose
//! store is not known to be whole ([`StoreState`]) then asks so many *other* voters that every quorum has one of
//! them, and takes over their highest promise, accepted value and term, before it votes. The order matters: an
//! attempt and a bid for the lease count votes for less than that silence, so votes that this node gave before
//! and has forgotten are counted by nobody any more, and what they brought about is on the disks of those it asks.
//! A roster's single voter has nobody to ask: only an override helps.
//!
//! # Order of calls
//!
//! [`Register::new`] with the rows as they were left, then any of `handle_*`, `set_*`, [`Register::propose`] and
//! [`Register::bootstrap`], and after each of them [`Register::poll`] until `None` and [`Register::poll_timeout`]. Each
//! [`RegisterEffect::Store`] is answered by [`Register::handle_committed`] or [`Register::handle_commit_failed`]; one
//! at a time is under way. A node is joining until [`Register::set_joining`] says otherwise.
//!
//! # What it does not do
//!
//! It does not find out who is alive, does not tell members that do not vote who holds the lease, and does not
//! compare rosters with peers at rest: whoever exchanges summaries calls [`Register::note_peer_epoch`]. A leader's
//! orders and a voter's permits are others' business; they ask [`Register::lease`].

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use self::durable::{Durable, Then, Vote, Write};
use self::lease::Lease;
use self::proposer::Proposer;
use self::recovery::Recovery;
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{Epoch, Roster, Seat};
use crate::core::time::Instant;

mod durable;
mod lease;
mod message;
mod proposer;
mod recovery;
mod rules;
pub mod steward;
#[cfg(test)]
mod tests;
mod voter;

pub use durable::{RowChange, row_of_soundness};
pub use lease::LeaseView;
pub use message::{Accepted, Ballot, RegisterMessage};
pub use rules::{
    RegisterError, RosterChange, RosterSettings, agrees, check_alone, check_successor, successor,
};

/// What is known of the store at the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreState {
    /// It is the one that this node wrote last.
    Whole,
    /// It is empty, was rebuilt, or is older than what peers remember of this node.
    Doubtful,
}

/// What the register wants done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RegisterEffect {
    /// Tell a node something. What depends on a write comes out only after it.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        message: RegisterMessage,
    },
    /// Make this durable in one transaction, then call [`Register::handle_committed`].
    Store {
        /// Names the write.
        token: u64,
        /// The rows of the table of the register.
        changes: Vec<RowChange>,
    },
    /// Another roster holds from now on; it is on disk here.
    RosterChanged(Roster),
    /// The lease went to somebody, lapsed, or was renewed.
    LeaseChanged(LeaseView),
    /// What became of a proposal of this node.
    Decided {
        /// Its number.
        proposal: u64,
        /// The epoch under which it holds.
        result: Result<Epoch, RegisterError>,
    },
}

/// A rule that tests break, to see that they would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(not(test), allow(dead_code, reason = "only tests break rules"))]
pub(super) enum Rule {
    StoreBeforeGrant,
    StoreBeforePromise,
    StoreBeforeAccepted,
    RefuseLowerBallot,
    AdoptHighest,
    CountFromSending,
    RecoverBeforeVoting,
    JoinBeforeVoting,
    RefuseOlderEpochs,
    RenewBeforeNextChange,
    GrantNobodyElse,
    QuietAtStart,
    TermsOnlyRise,
    VotesGoWithRosters,
}

/// This node's part in the agreement. See the module for the order of calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Register {
    own: NodeId,
    /// Drawn by chance for this process: makes its ballots and questions unlike those of any before.
    life: u64,
    numbers: u64,
    durable: Durable,
    write: Option<Write>,
    /// Messages that wait for the write under way.
    waiting: VecDeque<(NodeId, RegisterMessage)>,
    /// Messages of this node to itself: as a voter it is one among others.
    own_messages: VecDeque<RegisterMessage>,
    effects: VecDeque<RegisterEffect>,
    joining: bool,
    /// It grants nobody before.
    quiet_until: Instant,
    failed: BTreeSet<NodeId>,
    lease: Lease,
    proposer: Proposer,
    recovery: Recovery,
    #[cfg(test)]
    broken: Option<Rule>,
}

impl Register {
    /// The register as its rows tell. `life` is drawn by chance for this process.
    #[must_use]
    pub fn new(own: NodeId, rows: &[(Bytes, Bytes)], store: StoreState, life: u64, now: Instant) -> Self {
        let durable = Durable::from_rows(rows);
        let mut register = Self {
            own,
            life,
            numbers: 0,
            durable,
            write: None,
            waiting: VecDeque::new(),
            own_messages: VecDeque::new(),
            effects: VecDeque::new(),
            joining: true,
            quiet_until: now + quiet(),
            failed: BTreeSet::new(),
            lease: Lease::default(),
            proposer: Proposer::default(),
            recovery: Recovery::default(),
            #[cfg(test)]
            broken: None,
        };
        if store == StoreState::Doubtful {
            register.doubt(now);
        }
        register
    }

    /// Makes this node the first of a mesh: a roster of which it is the only member and voter.
    ///
    /// # Errors
    /// [`RegisterError::NotNow`] if there is a roster already, [`RegisterError::Forbidden`] if the settings make no
    /// sense for one voter.
    pub fn bootstrap(
        &mut self,
        seat: Seat,
        settings: RosterSettings,
        now: Instant,
    ) -> Result<(), RegisterError> {
        if self.durable.roster.is_some() {
            return Err(RegisterError::NotNow("this node has a roster already".into()));
        }
        if self.write.is_some() {
            return Err(RegisterError::NotNow("the store is busy: try again".into()));
        }
        let roster = rules::first(self.own.clone(), seat, settings, self.life);
        check_alone(&roster).map_err(|why| RegisterError::Forbidden { why: why.into() })?;
        let next = Durable { roster: Some(roster), sound: true, ..Durable::default() };
        self.write(next, Then::Adopt);
        self.settle(now);
        Ok(())
    }

    /// A message came from a node; its bounds are checked already.
    pub fn handle_message(&mut self, from: &NodeId, message: RegisterMessage, now: Instant) {
        self.lapse(now);
        self.on_message(from.clone(), message, now);
        self.settle(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.lapse(now);
        self.settle(now);
    }

    /// A write is on disk.
    pub fn handle_committed(&mut self, token: u64, now: Instant) {
        self.lapse(now);
        let Some(write) = self.write.take_if(|write| write.token == token) else {
            return;
        };
        self.durable = write.next;
        match write.then {
            Then::Answer(to, message) => self.send(to, *message),
            Then::Grant { to, term, ask } => self.grant(to, term, ask, now),
            Then::Adopt => self.on_adopted(now),
            Then::Nothing => {}
        }
        self.settle(now);
    }

    /// A write failed: nothing of it is on disk, and nothing that depends on it is said.
    pub fn handle_commit_failed(&mut self, token: u64, now: Instant) {
        self.lapse(now);
        if self.write.take_if(|write| write.token == token).is_some() {
            self.fail_all(&RegisterError::StoreFailed);
            self.recovery.pause(now);
        }
        self.settle(now);
    }

    /// Asks for a change of the roster; [`RegisterEffect::Decided`] with the number tells what became of it.
    pub fn propose(&mut self, change: RosterChange, now: Instant) -> u64 {
        self.lapse(now);
        let number = self.number();
        self.enqueue(number, change, now);
        self.settle(now);
        number
    }

    /// Overrules a lost quorum: begins a new chain in which only these members are left, without asking anybody.
    /// Whoever holds a roster of a lower chain goes over to this one when it hears of it; of two overrides at once
    /// the one with the higher, random chain id stands. Until the other side hears of it, it may go on under the old roster.
    ///
    /// # Errors
    /// [`RegisterError::NotNow`] without a roster, [`RegisterError::Forbidden`] if no voter would be left, this
    /// node would not be among the members, or the reason is missing or too long.
    pub fn force(
        &mut self,
        keep: &BTreeSet<NodeId>,
        audit: String,
        now: Instant,
    ) -> Result<Epoch, RegisterError> {
        let forbid = |why: &str| Err(RegisterError::Forbidden { why: why.into() });
        let Some(old) = &self.durable.roster else {
            return Err(RegisterError::NotNow("this node knows of no roster".into()));
        };
        if self.write.is_some() {
            return Err(RegisterError::NotNow("the store is busy: try again".into()));
        }
        if audit.trim().is_empty() {
            return forbid("it needs a reason, for the record");
        }
        if !keep.contains(&self.own) {
            return forbid("the node that overrules must stay a member");
        }
        let new = rules::forced(old, keep, self.life.rotate_left(17) ^ self.numbers, audit);
        check_alone(&new).map_err(|why| RegisterError::Forbidden { why: why.into() })?;
        let epoch = new.epoch;
        self.tell_all(&[old.clone(), new.clone()], &self.learn(new));
        self.settle(now);
        Ok(epoch)
    }

    /// Which nodes are failed at present: they are passed over where candidates stand in line.
    pub fn set_failed(&mut self, failed: BTreeSet<NodeId>, now: Instant) {
        self.lapse(now);
        self.failed = failed;
        self.settle(now);
    }

    /// Whether this node has yet to catch up with its mesh: it votes only when it has.
    pub fn set_joining(&mut self, joining: bool, now: Instant) {
        self.lapse(now);
        self.joining = joining;
        self.settle(now);
    }

    /// The clock made a step, or this process did not run for a while: no time that it measured counts.
    pub fn drop_lease(&mut self, now: Instant) {
        self.lease.forget();
        self.quiet_until = now + quiet();
        self.settle(now);
    }

    /// A peer remembers a later start of this node than its store does: the store is an old one.
    pub fn handle_old_store(&mut self, now: Instant) {
        self.lease.forget();
        self.quiet_until = now + quiet();
        self.doubt(now);
        self.settle(now);
    }

    /// A peer says how new its roster is.
    pub fn note_peer_epoch(&mut self, peer: &NodeId, epoch: Option<Epoch>, now: Instant) {
        let own = self.epoch();
        if epoch < own {
            self.tell_roster(peer.clone());
        } else if epoch > own {
            self.send(peer.clone(), RegisterMessage::RosterAsk { have: own });
        }
        self.settle(now);
    }

    /// The newest roster that is on disk here.
    #[must_use]
    pub fn roster(&self) -> Option<&Roster> {
        self.durable.roster.as_ref()
    }

    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.durable.roster.as_ref().map(|roster| roster.epoch)
    }

    /// Whether all that this node has promised is on its disk, as far as it knows.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.durable.sound && !self.recovery.is_doubting()
    }

    /// Whether this node may vote: its store is whole, it is a voter and not joining.
    #[must_use]
    pub fn may_vote(&self) -> bool {
        let sound = self.durable.sound || self.breaks(Rule::RecoverBeforeVoting);
        let voter = self.durable.roster.as_ref().is_some_and(|roster| roster.is_voter(&self.own));
        let joined = !self.joining || self.breaks(Rule::JoinBeforeVoting);
        sound && voter && joined && !self.recovery.is_doubting()
    }

    /// The next thing to be done.
    pub fn poll(&mut self) -> Option<RegisterEffect> {
        self.effects.pop_front()
    }

    /// When [`Register::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.lease_timeout(), self.proposer_timeout(), self.recovery_timeout()].into_iter().flatten().min()
    }

    fn on_message(&mut self, from: NodeId, message: RegisterMessage, now: Instant) {
        match message {
            RegisterMessage::Prepare { base, ballot } => self.on_prepare(from, base, ballot),
            RegisterMessage::Promise { ballot, accepted } => self.on_promise(from, &ballot, accepted, now),
            RegisterMessage::Accept { base, ballot, successor } => {
                self.on_accept(from, base, ballot, successor);
            }
            RegisterMessage::Accepted { ballot } => self.on_accepted(from, &ballot, now),
            RegisterMessage::Outbid { ballot, promised } => self.on_outbid(&ballot, &promised, now),
            RegisterMessage::Learn { roster, term, holder } => {
                self.on_learn(from, roster, Vote { term, holder });
            }
            RegisterMessage::RosterAsk { have } => self.on_roster_ask(from, have),
            RegisterMessage::LeaseAsk { base, term, ask } => self.on_lease_ask(from, base, term, ask, now),
            RegisterMessage::LeaseGrant { term, ask } => self.on_lease_grant(from, term, ask, now),
            RegisterMessage::LeaseRefuse { ask, term, wait } => {
                self.on_lease_refuse(from, ask, term, wait, now);
            }
            RegisterMessage::RecoverAsk { ask } => self.on_recover_ask(from, ask),
            answer @ RegisterMessage::RecoverAnswer { .. } => self.on_recover_answer(from, answer),
        }
    }

    /// Carries on until nothing more can be done at this moment.
    fn settle(&mut self, now: Instant) {
        loop {
            if let Some(message) = self.own_messages.pop_front() {
                self.on_message(self.own.clone(), message, now);
            } else if self.write.is_none()
                && let Some((from, message)) = self.waiting.pop_front()
            {
                self.on_message(from, message, now);
            } else if !self.tend_recovery(now) && !self.tend_lease(now) && !self.tend_proposals(now) {
                break;
            }
        }
        self.tell_lease(now);
    }

    fn write(&mut self, next: Durable, then: Then) {
        debug_assert!(self.write.is_none(), "one write at a time");
        let token = self.number();
        let changes = self.durable.changes(&next);
        self.write = Some(Write { token, next, then });
        self.effects.push_back(RegisterEffect::Store { token, changes });
    }

    /// Keeps a message until the write under way is done, and says whether there is one.
    fn hold_back(&mut self, from: &NodeId, message: impl FnOnce() -> RegisterMessage) -> bool {
        if self.write.is_none() {
            return false;
        }
        if self.waiting.len() < limits::REGISTER_WAITING_MAX {
            self.waiting.push_back((from.clone(), message()));
        }
        true
    }

    fn send(&mut self, to: NodeId, message: RegisterMessage) {
        if to == self.own {
            self.own_messages.push_back(message);
        } else {
            self.effects.push_back(RegisterEffect::Send { to, message });
        }
    }

    /// Tells all voters of the present roster, this node among them.
    fn tell_voters(&mut self, message: &RegisterMessage) {
        let voters: Vec<_> = self.durable.roster.iter().flat_map(Roster::voters).cloned().collect();
        voters.into_iter().for_each(|voter| self.send(voter, message.clone()));
    }

    /// Tells all members of these rosters.
    fn tell_all(&mut self, rosters: &[Roster], message: &RegisterMessage) {
        let members: BTreeSet<_> = rosters.iter().flat_map(|roster| roster.members.keys()).collect();
        members.into_iter().for_each(|member| self.send(member.clone(), message.clone()));
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A number that no earlier process of this node has used.
    fn question(&mut self) -> u64 {
        self.number().wrapping_add(self.life)
    }

    #[cfg(test)]
    pub(super) fn break_rule(&mut self, rule: Rule) {
        self.broken = Some(rule);
    }

    #[cfg(test)]
    fn breaks(&self, rule: Rule) -> bool {
        self.broken == Some(rule)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "tests ask it of a register")]
    fn breaks(&self, _rule: Rule) -> bool {
        false
    }
}

/// How long a voter grants nobody after its start: until every lease that it may have granted before is over.
#[must_use]
pub fn quiet() -> Duration {
    at_voter(limits::LEASE)
}

/// A span as the one who granted it counts.
fn at_voter(span: Duration) -> Duration {
    span * (1000 + limits::CLOCK_DRIFT_MILLI) / 1000
}

/// A span as the one to whom it was granted counts.
fn at_holder(span: Duration) -> Duration {
    span * (1000 - limits::CLOCK_DRIFT_MILLI) / 1000
}
