//! The host's side: claims slots, asks for them, and knows until when it may run each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Denied, PermitMessage, at_holder};
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::{Epoch, OrderEpoch, Roster};
use crate::core::time::Instant;

/// Questions whose answers still count.
const ASKS_KEPT: usize = 64;

/// A slot that this host runs, or would.
#[derive(Debug, Clone)]
struct Claim {
    epoch: OrderEpoch,
    /// Answers to earlier questions are about a claim that was given up meanwhile.
    since_ask: u64,
    /// When the question was sent that each voter has granted last, under the present roster.
    grants: BTreeMap<NodeId, Instant>,
    /// What each voter has said last that does not grant it.
    denied: BTreeMap<NodeId, Denied>,
    until: Option<Instant>,
}

/// A question that is out.
#[derive(Debug, Clone)]
struct Asked {
    ask: u64,
    sent: Instant,
    base: Epoch,
    claims: Vec<(AgentName, OrderEpoch)>,
}

/// What this process claims, and what it was granted.
#[derive(Debug, Clone)]
pub struct Holder {
    life: u64,
    claims: BTreeMap<AgentName, Claim>,
    asks: u64,
    asked: VecDeque<Asked>,
    /// The roster under which grants are counted.
    base: Option<Epoch>,
    /// A question goes out now, whatever was asked before.
    is_due: bool,
}

impl Holder {
    /// A host that claims nothing. `life` is drawn by chance for this process.
    #[must_use]
    pub fn new(life: u64) -> Self {
        Self { life, claims: BTreeMap::new(), asks: 0, asked: VecDeque::new(), base: None, is_due: false }
    }

    /// Claims a slot, by that order. `false`: it claims as many as it may.
    #[must_use]
    pub fn claim(&mut self, slot: &AgentName, epoch: OrderEpoch) -> bool {
        let since_ask = self.asks + 1;
        if let Some(claim) = self.claims.get_mut(slot) {
            if claim.epoch != epoch {
                // It goes on under what it has, until that is over or the new order is granted.
                (claim.epoch, claim.since_ask) = (epoch, since_ask);
                claim.grants.clear();
                claim.denied.clear();
                self.is_due = true;
            }
            return true;
        }
        if self.claims.len() >= limits::PERMITS_PER_NODE_MAX {
            return false;
        }
        let claim = Claim { epoch, since_ask, grants: BTreeMap::new(), denied: BTreeMap::new(), until: None };
        self.claims.insert(slot.clone(), claim);
        self.is_due = true;
        true
    }

    /// Gives slots up that do not run here any more, and will not: all but these.
    pub fn keep(&mut self, is_needed: impl Fn(&AgentName) -> bool) {
        let before = self.claims.len();
        self.claims.retain(|slot, _| is_needed(slot));
        self.is_due |= self.claims.len() < before;
    }

    /// Until when a slot may be run here; `None`: it may not.
    #[must_use]
    pub fn until(&self, slot: &AgentName, now: Instant) -> Option<Instant> {
        self.claims.get(slot)?.until.filter(|until| now < *until)
    }

    /// Whether a slot may be begun here: there is time for a renewal.
    #[must_use]
    pub fn may_begin(&self, slot: &AgentName, now: Instant) -> bool {
        self.until(slot, now).is_some_and(|until| until > now + limits::PERMIT / 2)
    }

    /// The slots that are claimed.
    pub fn slots(&self) -> impl Iterator<Item = &AgentName> {
        self.claims.keys()
    }

    /// Why a slot that is claimed is not granted, in words that stay the same while the reason does; `None`: it is.
    #[must_use]
    pub fn why_not(&self, slot: &AgentName, now: Instant) -> Option<&'static str> {
        let claim = self.claims.get(slot).filter(|_| self.until(slot, now).is_none())?;
        let is_denied = |because: fn(&Denied) -> bool| claim.denied.values().any(because);
        Some(match () {
            () if is_denied(|why| *why == Denied::Superseded) => {
                "it waits for its permit: there is a later order, which its node has not heard of"
            }
            () if is_denied(|why| *why == Denied::Full) => {
                "it waits for its permit: the voters keep as many permits as they may"
            }
            () if is_denied(|why| matches!(why, Denied::Held { .. })) => {
                "it waits for its permit: who had it before may still run"
            }
            () if is_denied(|why| matches!(why, Denied::Quiet { .. })) => {
                "it waits for its permit: voters have just started, and do not know who may still run"
            }
            () => "it waits for its permit: no quorum of the voters has answered",
        })
    }

    /// Asks, if it is time. The question goes to every voter.
    pub fn poll_ask(&mut self, roster: &Roster, now: Instant) -> Option<PermitMessage> {
        if self.base != Some(roster.epoch) {
            self.base = Some(roster.epoch);
            self.claims.values_mut().for_each(|claim| {
                claim.grants.clear();
                claim.denied.clear();
            });
        }
        if self.poll_timeout(now).is_none_or(|at| now < at) {
            return None;
        }
        self.is_due = false;
        self.asks += 1;
        let claims: Vec<_> = self.claims.iter().map(|(slot, claim)| (slot.clone(), claim.epoch)).collect();
        let (ask, base) = (self.asks, roster.epoch);
        if self.asked.len() == ASKS_KEPT {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { ask, sent: now, base, claims: claims.clone() });
        Some(PermitMessage::Ask { base, life: self.life, ask, claims })
    }

    /// When [`Holder::poll_ask`] has something to ask; `None`: it has not.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let last = self.asked.back().map(|asked| asked.sent);
        let many = limits::PERMIT_RETRY_PER_CLAIM * self.claims.len() as u32;
        if self.is_due {
            // Many changes in a moment are asked for together. That all is given up is told at once: it may be the last word.
            let pause = if self.claims.is_empty() { Duration::ZERO } else { limits::PERMIT_PAUSE.max(many) };
            return Some(last.map_or(now, |sent| sent + pause));
        }
        if self.claims.is_empty() {
            return None;
        }
        let waits = self.claims.keys().any(|slot| !self.may_begin(slot, now));
        let pause = if waits { limits::PERMIT_RETRY.max(many) } else { limits::PERMIT_RENEWAL };
        Some(last.map_or(now, |sent| sent + pause))
    }

    /// A voter has answered. Returns the slots whose time has changed.
    pub fn handle_answer(
        &mut self,
        voter: &NodeId,
        answer: &PermitMessage,
        roster: &Roster,
        now: Instant,
    ) -> Vec<AgentName> {
        let PermitMessage::Answer { life, ask, granted, denied } = answer else {
            return vec![];
        };
        let Some(asked) = self.asked.iter().find(|asked| asked.ask == *ask) else {
            return vec![];
        };
        if *life != self.life || asked.base != roster.epoch || !roster.is_voter(voter) {
            return vec![];
        }
        if self.base != Some(roster.epoch) {
            return vec![];
        }
        let mut changed = vec![];
        for at in granted {
            let Some((slot, claim)) = about(&mut self.claims, asked, *at) else {
                continue;
            };
            claim.denied.remove(voter);
            let last = claim.grants.entry(voter.clone()).or_insert(asked.sent);
            *last = (*last).max(asked.sent);
            if let Some(since) = granted_since(roster, &claim.grants)
                && claim.until.is_none_or(|until| until < since + at_holder())
                && now < since + at_holder()
            {
                claim.until = Some(since + at_holder());
                changed.push(slot.clone());
            }
        }
        for (at, why) in denied {
            if let Some((_, claim)) = about(&mut self.claims, asked, *at) {
                claim.denied.insert(voter.clone(), why.clone());
            }
        }
        changed
    }
}

/// The claim that an answer is about, if it is still the one that was asked for.
fn about<'a>(
    claims: &'a mut BTreeMap<AgentName, Claim>,
    asked: &'a Asked,
    at: u16,
) -> Option<(&'a AgentName, &'a mut Claim)> {
    let (slot, epoch) = asked.claims.get(usize::from(at))?;
    let claim = claims.get_mut(slot)?;
    (claim.epoch == *epoch && claim.since_ask <= asked.ask).then_some((slot, claim))
}

/// When the oldest question was sent of those that a quorum has granted last; `None`: no quorum has.
pub(super) fn granted_since(roster: &Roster, grants: &BTreeMap<NodeId, Instant>) -> Option<Instant> {
    let mut latest: Vec<_> = grants.iter().collect();
    latest.sort_by_key(|(_, sent)| std::cmp::Reverse(**sent));
    let mut nodes = BTreeSet::new();
    latest.into_iter().find_map(|(voter, sent)| {
        nodes.insert(voter.clone());
        // Where halves may each write, a half is a quorum: both could grant.
        let is_alone = !roster.can_split() || 2 * nodes.len() > roster.voter_count();
        (is_alone && roster.is_quorum(&nodes)).then_some(*sent)
    })
}
