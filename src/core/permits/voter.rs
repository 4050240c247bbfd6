//! The voter's side: what it has granted, to whom, and until when it grants that to nobody else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use bytes::Bytes;

use super::{Denied, Granted, Life, PermitMessage, SLOT_ROWS, at_voter, row_of_doubt};
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::{Electorate, Epoch, OrderEpoch, Roster};
use crate::core::time::Instant;
use crate::core::wire::{decode_value, encode_value};

/// What the voter wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoterEffect {
    /// Tell a node something.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        message: PermitMessage,
    },
    /// Make this durable in one transaction, then call [`Voter::handle_committed`].
    Store {
        /// Names the write.
        token: u64,
        /// Rows of the register's table; without a value, one that is removed.
        changes: Vec<(Bytes, Option<Bytes>)>,
    },
}

/// The epoch of the order for a slot that holds here, and whether it gives the slot to that node.
pub type OrderFor<'a> = dyn Fn(&AgentName, &NodeId) -> Option<(OrderEpoch, bool)> + 'a;

/// What else is known when a voter answers.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The roster.
    pub roster: &'a Roster,
    /// Whether this node may vote.
    pub may_vote: bool,
    /// Which order for a slot holds.
    pub order: &'a OrderFor<'a>,
    /// Whether every quorum has one of these nodes in it, even without this one; or there is no other voter.
    pub witnesses: &'a dyn Fn(&BTreeSet<NodeId>) -> bool,
}

impl fmt::Debug for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { roster, may_vote, .. } = self;
        f.debug_struct("Known").field("roster", roster).field("may_vote", may_vote).finish_non_exhaustive()
    }
}

/// A grant that waits for the disk.
#[derive(Debug, Clone)]
struct Waiting {
    to: NodeId,
    life: u64,
    ask: u64,
    slots: Vec<(u16, AgentName, Granted)>,
}

/// Whether what this voter has granted before is known.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Store {
    Whole,
    /// It is not. Witnesses under one roster have told this.
    Doubtful {
        asked: Option<(u64, Epoch, Instant)>,
        told: BTreeSet<NodeId>,
        granted: BTreeMap<AgentName, Granted>,
    },
    /// What they have told is on its way to the disk.
    Recovering {
        token: u64,
    },
}

impl Store {
    fn doubtful() -> Self {
        Self::Doubtful { asked: None, told: BTreeSet::new(), granted: BTreeMap::new() }
    }
}

/// What this voter has granted.
#[derive(Debug, Clone)]
pub struct Voter {
    own: NodeId,
    /// On disk.
    granted: BTreeMap<AgentName, Granted>,
    /// On its way there.
    staged: BTreeMap<AgentName, (u64, Granted)>,
    /// Until when a slot is granted to nobody else than its holder.
    running: BTreeMap<AgentName, Instant>,
    /// The highest epoch that anybody has claimed a slot by.
    claimed: BTreeMap<AgentName, OrderEpoch>,
    /// The last question of each node's process: an earlier one that comes late says nothing.
    asks: BTreeMap<Life, u64>,
    waiting: BTreeMap<u64, Waiting>,
    store: Store,
    /// Somebody has asked for a permit: until then nobody is asked what this voter may have granted.
    is_needed: bool,
    /// Nothing new is granted before.
    quiet_until: Instant,
    /// Who decides, and on which chain.
    electorate: Option<(Electorate, u64)>,
    numbers: u64,
    effects: VecDeque<VoterEffect>,
}

impl Voter {
    /// The voter as its rows tell. `first`: numbers that no other process of this node uses begin there.
    #[must_use]
    pub fn new(own: NodeId, rows: &[(Bytes, Bytes)], is_whole: bool, first: u64, now: Instant) -> Self {
        let mut is_readable = true;
        let mut granted = BTreeMap::new();
        for (key, row) in rows {
            let Some(slot) = key.strip_prefix(SLOT_ROWS) else {
                continue;
            };
            let slot = std::str::from_utf8(slot).ok().and_then(|slot| AgentName::new(slot).ok());
            match (slot, decode_value::<Granted>(row)) {
                (Some(slot), Ok(row)) => _ = granted.insert(slot, row),
                (Some(_) | None, _) => is_readable = false,
            }
        }
        let is_doubted = rows.iter().any(|(key, _)| *key == row_of_doubt().0);
        let store = if is_whole && is_readable && !is_doubted { Store::Whole } else { Store::doubtful() };
        Self {
            own,
            granted,
            staged: BTreeMap::new(),
            running: BTreeMap::new(),
            claimed: BTreeMap::new(),
            asks: BTreeMap::new(),
            waiting: BTreeMap::new(),
            store,
            is_needed: false,
            quiet_until: now + at_voter(),
            electorate: None,
            numbers: first,
            effects: VecDeque::new(),
        }
    }

    /// The store is not what this node wrote last: others are asked before anything is granted.
    pub fn doubt(&mut self, now: Instant) {
        self.store = Store::doubtful();
        self.be_quiet(now);
    }

    /// No time that was measured before counts: nothing new is granted while what was granted may run.
    pub fn be_quiet(&mut self, now: Instant) {
        self.quiet_until = now + at_voter();
    }

    /// This roster holds from now on.
    pub fn set_roster(&mut self, roster: &Roster, now: Instant) {
        let electorate = Some((roster.electorate(), roster.epoch.chain));
        if electorate != self.electorate {
            self.electorate = electorate;
            self.be_quiet(now);
        }
    }

    /// Whether it is known what this voter has granted.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.store == Store::Whole
    }

    /// What was granted last for a slot, and until when it is granted to nobody else.
    #[must_use]
    pub fn granted(&self, slot: &AgentName) -> Option<(&Granted, Option<Instant>)> {
        Some((self.granted.get(slot)?, self.running.get(slot).copied()))
    }

    /// The next thing to be done.
    pub fn poll(&mut self) -> Option<VoterEffect> {
        self.effects.pop_front()
    }

    /// A message came from a node; its bounds are checked already.
    pub fn handle_message(&mut self, from: &NodeId, message: PermitMessage, known: Known<'_>, now: Instant) {
        match message {
            PermitMessage::Ask { base, life, ask, claims } if base == known.roster.epoch => {
                let holder = Life { node: from.clone(), life };
                self.on_ask(&holder, ask, claims, known, now);
            }
            PermitMessage::RecoverAsk { ask, base } if base == known.roster.epoch => {
                // Also one that does not know all of it: several new nodes would wait for each other.
                if *from != self.own {
                    let granted = self.granted.iter().map(|(slot, row)| (slot.clone(), row.clone()));
                    let message = PermitMessage::RecoverAnswer { ask, base, granted: granted.collect() };
                    self.effects.push_back(VoterEffect::Send { to: from.clone(), message });
                }
            }
            PermitMessage::RecoverAnswer { ask, base, granted } if base == known.roster.epoch => {
                self.on_told(from, ask, base, granted, known);
            }
            // Under another roster: whoever is behind hears of the newer one, and asks again.
            PermitMessage::Ask { .. }
            | PermitMessage::RecoverAsk { .. }
            | PermitMessage::RecoverAnswer { .. }
            | PermitMessage::Answer { .. } => {}
        }
    }

    fn on_ask(
        &mut self,
        holder: &Life,
        ask: u64,
        claims: Vec<(AgentName, OrderEpoch)>,
        known: Known<'_>,
        now: Instant,
    ) {
        self.is_needed = true;
        if !known.may_vote || !self.is_sound() {
            return;
        }
        if self.asks.get(holder).is_some_and(|last| ask <= *last) {
            return;
        }
        self.forget_asks(holder, known.roster);
        self.asks.insert(holder.clone(), ask);
        self.take_back(holder, &claims);
        let (mut granted, mut denied, mut to_store) = (vec![], vec![], vec![]);
        for (at, (slot, epoch)) in claims.into_iter().enumerate() {
            let at = u16::try_from(at).unwrap_or(u16::MAX);
            if let Some(why) = self.denies(&slot, epoch, holder, known, now) {
                denied.push((at, why));
                continue;
            }
            let is_new = !self.granted.contains_key(&slot) && !self.staged.contains_key(&slot);
            let kept = self.granted.len() + self.staged.len() + to_store.len();
            if is_new && kept >= limits::PERMITS_MAX && !self.makes_room(known, now) {
                denied.push((at, Denied::Full));
                continue;
            }
            let row = Granted { epoch, holder: holder.clone() };
            if self.granted.get(&slot) == Some(&row) && !self.staged.contains_key(&slot) {
                self.running.insert(slot, now + at_voter());
                granted.push(at);
            } else {
                to_store.push((at, slot, row));
            }
        }
        if !granted.is_empty() || !denied.is_empty() {
            self.answer(holder, ask, granted, denied);
        }
        if !to_store.is_empty() {
            self.store(holder, ask, to_store);
        }
    }

    /// What a holder does not claim any more it does not run either.
    fn take_back(&mut self, holder: &Life, claims: &[(AgentName, OrderEpoch)]) {
        let claimed: BTreeSet<_> = claims.iter().map(|(slot, _)| slot).collect();
        let (granted, staged) = (&self.granted, &self.staged);
        self.running.retain(|slot, _| {
            let is_theirs = granted.get(slot).is_some_and(|row| row.holder == *holder);
            !is_theirs || claimed.contains(slot) || staged.contains_key(slot)
        });
    }

    /// Why a slot is not granted to this holder by that order; `None`: it may be, once it is on the disk.
    fn denies(
        &mut self,
        slot: &AgentName,
        epoch: OrderEpoch,
        holder: &Life,
        known: Known<'_>,
        now: Instant,
    ) -> Option<Denied> {
        let order = (known.order)(slot, &holder.node);
        let is_ordered_otherwise =
            order.is_some_and(|(holds, is_theirs)| holds > epoch || (holds == epoch && !is_theirs));
        let last = self.staged.get(slot).map(|(_, row)| row).or_else(|| self.granted.get(slot));
        let is_granted_otherwise = last
            .is_some_and(|row| row.epoch > epoch || (row.epoch == epoch && row.holder.node != holder.node));
        let is_claimed_otherwise = self.claimed.get(slot).is_some_and(|claimed| *claimed > epoch);
        if is_ordered_otherwise || is_granted_otherwise || is_claimed_otherwise {
            return Some(Denied::Superseded);
        }
        let is_new = last.is_none_or(|row| row.holder != *holder);
        if last.is_some() {
            self.claimed.insert(slot.clone(), epoch);
        }
        if !is_new {
            return None;
        }
        if let Some((_, row)) = self.staged.get(slot)
            && row.holder != *holder
        {
            return Some(Denied::Held { wait: at_voter() });
        }
        if let Some(until) = self.running.get(slot).filter(|until| now < **until) {
            return Some(Denied::Held { wait: until.since(now) });
        }
        if now < self.quiet_until {
            return Some(Denied::Quiet { wait: self.quiet_until.since(now) });
        }
        None
    }

    /// Of processes that run nothing any more, no late question can do harm.
    fn forget_asks(&mut self, holder: &Life, roster: &Roster) {
        let (granted, running) = (&self.granted, &self.running);
        let runs = |life: &Life| {
            let mut slots = running.keys().filter_map(|slot| granted.get(slot));
            slots.any(|row| row.holder == *life)
        };
        self.asks.retain(|life, _| {
            roster.members.contains_key(&life.node)
                && (life.node != holder.node || life == holder || runs(life))
        });
    }

    /// Forgets a slot whose last order gives it to nobody: nothing below that order is granted anyway.
    fn makes_room(&mut self, known: Known<'_>, now: Instant) -> bool {
        let is_over = |slot: &AgentName, row: &Granted| {
            let order = (known.order)(slot, &row.holder.node);
            let runs = self.running.get(slot).is_some_and(|until| now < *until);
            !runs && !self.staged.contains_key(slot) && order.is_some_and(|(holds, _)| holds > row.epoch)
        };
        let over = self.granted.iter().find(|(slot, row)| is_over(slot, row));
        let Some(slot) = over.map(|(slot, _)| slot.clone()) else {
            return false;
        };
        self.granted.remove(&slot);
        self.claimed.remove(&slot);
        self.running.remove(&slot);
        let token = self.number();
        self.effects.push_back(VoterEffect::Store { token, changes: vec![(row_key(&slot), None)] });
        true
    }

    fn answer(&mut self, holder: &Life, ask: u64, granted: Vec<u16>, denied: Vec<(u16, Denied)>) {
        let message = PermitMessage::Answer { life: holder.life, ask, granted, denied };
        self.effects.push_back(VoterEffect::Send { to: holder.node.clone(), message });
    }

    fn store(&mut self, holder: &Life, ask: u64, slots: Vec<(u16, AgentName, Granted)>) {
        let token = self.number();
        let mut changes = vec![];
        for (_, slot, row) in &slots {
            changes.push((row_key(slot), Some(encode_value(row))));
            self.staged.insert(slot.clone(), (token, row.clone()));
        }
        let waiting = Waiting { to: holder.node.clone(), life: holder.life, ask, slots };
        self.waiting.insert(token, waiting);
        self.effects.push_back(VoterEffect::Store { token, changes });
    }

    /// A write is on disk: what waited for it is granted.
    pub fn handle_committed(&mut self, token: u64, now: Instant) {
        if self.store == (Store::Recovering { token }) {
            self.store = Store::Whole;
        }
        let Some(Waiting { to, life, ask, slots }) = self.waiting.remove(&token) else {
            return;
        };
        let mut granted = vec![];
        for (at, slot, row) in slots {
            self.granted.insert(slot.clone(), row);
            // A later one may be on its way.
            self.staged.retain(|other, (of, _)| *other != slot || *of != token);
            self.running.insert(slot.clone(), now + at_voter());
            if !self.staged.contains_key(&slot) && self.is_sound() {
                granted.push(at);
            }
        }
        if !granted.is_empty() {
            self.answer(&Life { node: to, life }, ask, granted, vec![]);
        }
    }

    /// A write failed: nothing of it is on disk, and nothing that depends on it is granted.
    pub fn handle_commit_failed(&mut self, token: u64) {
        if self.store == (Store::Recovering { token }) {
            self.store = Store::doubtful();
        }
        self.waiting.remove(&token);
        self.staged.retain(|_, (of, _)| *of != token);
        let (granted, staged) = (&self.granted, &self.staged);
        self.claimed.retain(|slot, _| granted.contains_key(slot) || staged.contains_key(slot));
    }

    /// Asks the others what this voter may have granted, if it does not know and they can be believed by now.
    pub fn tend(&mut self, known: Known<'_>, now: Instant) {
        let Some(at) = self.poll_timeout() else {
            return;
        };
        if now < at || !known.may_vote {
            return;
        }
        if (known.witnesses)(&BTreeSet::new()) {
            // There is no other voter, and the register believes in this one.
            return self.recover(BTreeMap::new());
        }
        let ask = self.number();
        let base = known.roster.epoch;
        let Store::Doubtful { asked, told, granted } = &mut self.store else {
            return;
        };
        *asked = Some((ask, base, now));
        told.clear();
        granted.clear();
        for voter in known.roster.voters().filter(|voter| **voter != self.own) {
            let message = PermitMessage::RecoverAsk { ask, base };
            self.effects.push_back(VoterEffect::Send { to: voter.clone(), message });
        }
    }

    /// When [`Voter::tend`] has something to do; `None`: it has not.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let Store::Doubtful { asked, .. } = &self.store else {
            return None;
        };
        if !self.is_needed {
            return None;
        }
        let again = asked.map_or(Instant::ZERO, |(_, _, at)| at + limits::RECOVERY_RETRY);
        Some(again.max(self.quiet_until))
    }

    fn on_told(
        &mut self,
        from: &NodeId,
        ask: u64,
        base: Epoch,
        rows: Vec<(AgentName, Granted)>,
        known: Known<'_>,
    ) {
        let Store::Doubtful { asked, told, granted } = &mut self.store else {
            return;
        };
        let is_asked = asked.is_some_and(|(asked, of, _)| (asked, of) == (ask, base));
        if !is_asked || !known.roster.is_voter(from) {
            return;
        }
        told.insert(from.clone());
        for (slot, row) in rows {
            let highest = granted.entry(slot).or_insert_with(|| row.clone());
            if highest.epoch < row.epoch {
                *highest = row;
            }
        }
        if (known.witnesses)(told) {
            let granted = std::mem::take(granted);
            self.recover(granted);
        }
    }

    fn recover(&mut self, told: BTreeMap<AgentName, Granted>) {
        let mut changes = vec![(row_of_doubt().0, None)];
        for (slot, row) in told {
            if self.granted.get(&slot).is_none_or(|own| own.epoch < row.epoch) {
                changes.push((row_key(&slot), Some(encode_value(&row))));
                self.granted.insert(slot, row);
            }
        }
        let token = self.number();
        self.store = Store::Recovering { token };
        self.effects.push_back(VoterEffect::Store { token, changes });
    }

    #[cfg(test)]
    pub(super) fn break_silence(&mut self) {
        self.quiet_until = Instant::ZERO;
    }

    fn number(&mut self) -> u64 {
        self.numbers = self.numbers.wrapping_add(1);
        self.numbers
    }
}

fn row_key(slot: &AgentName) -> Bytes {
    [SLOT_ROWS, slot.as_str().as_bytes()].concat().into()
}
