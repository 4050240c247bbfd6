//! Whole member lists: what a node tells, and what it makes of another's.
//!
//! "Failed" in somebody's list is a reason to suspect and to tell the member, not a verdict.

use foca::{Member, State};

use super::identity::Identity;
use super::{MemberEffect, Membership};
use crate::core::ids::{Incarnation, NodeKey};
use crate::core::limits;
use crate::core::model::MemberStatus;
use crate::core::wire::{MemberEntry, MemberEntryState};

/// Listed news above this many is left to the lists.
const LIST_NEWS_GOSSIPED_MAX: usize = 64;

impl Membership {
    /// The whole member list, this node included, in order of keys.
    pub(crate) fn entries(&self) -> Vec<MemberEntry> {
        let own = self.foca.identity();
        let own = MemberEntry {
            key: own.key,
            incarnation: own.incarnation,
            refutations: 0,
            state: if self.leaving { MemberEntryState::Left } else { MemberEntryState::Alive },
        };
        let others = self.known.iter().map(|(key, known)| MemberEntry {
            key: *key,
            incarnation: known.incarnation,
            refutations: known.refutations,
            state: match known.status {
                MemberStatus::Alive => MemberEntryState::Alive,
                MemberStatus::Suspect => MemberEntryState::Suspect,
                MemberStatus::Failed => MemberEntryState::Failed,
                MemberStatus::Left => MemberEntryState::Left,
            },
        });
        let forgotten = self.forgotten.iter().map(|(key, incarnation)| MemberEntry {
            key: *key,
            incarnation: *incarnation,
            refutations: 0,
            state: MemberEntryState::Forgotten,
        });
        let mut entries: Vec<_> = others.chain([own]).chain(forgotten).collect();
        entries.sort_unstable();
        entries
    }

    /// A hash of the member list that is equal on two nodes which agree on who is there (FNV-1a over keys,
    /// incarnations and presence). Suspicions and refutations pass too quickly to count.
    ///
    /// It is asked for with every summary, and kept until something changes.
    pub(crate) fn entries_hash(&self) -> u64 {
        // A new incarnation of this node's own comes by many ways.
        let own = self.incarnation();
        if let Some((of, hash)) = self.entries_hash.get()
            && of == own
        {
            return hash;
        }
        let hash = self.hash_entries();
        self.entries_hash.set(Some((own, hash)));
        hash
    }

    fn hash_entries(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut mix = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        for entry in self.entries().iter().filter(|entry| entry.state != MemberEntryState::Forgotten) {
            let present = matches!(entry.state, MemberEntryState::Alive | MemberEntryState::Suspect);
            entry.key.0.into_iter().for_each(&mut mix);
            entry.incarnation.0.to_le_bytes().into_iter().for_each(&mut mix);
            mix(u8::from(present));
        }
        hash
    }

    /// Takes in another node's whole member list. `peer` is whose list it is: of itself it knows best.
    pub(crate) fn apply_entries(&mut self, peer: NodeKey, entries: &[MemberEntry]) {
        if self.leaving {
            return;
        }
        let mut news = Vec::new();
        let mut suspects = Vec::new();
        for entry in entries {
            let identity = Identity::of(entry.key, entry.incarnation);
            if entry.key == self.foca.identity().key {
                self.notice_outdated_self([&identity].into_iter());
                if matches!(entry.state, MemberEntryState::Failed) && entry.incarnation == self.incarnation()
                {
                    news.push(Member::new(identity, entry.refutations, State::Down));
                }
                continue;
            }
            match entry.state {
                MemberEntryState::Left => self.peer_left(entry.key, entry.incarnation),
                MemberEntryState::Forgotten => self.forget(entry.key, entry.incarnation),
                MemberEntryState::Failed if self.is_live_at(entry) && entry.key != peer => {
                    suspects.push((entry.key, entry.incarnation));
                }
                MemberEntryState::Failed => {
                    news.push(Member::new(identity, entry.refutations, State::Down));
                }
                MemberEntryState::Alive | MemberEntryState::Suspect => {
                    news.push(Member::new(identity, entry.refutations, State::Alive));
                }
            }
        }
        let own = self.foca.identity().key;
        let mut room = limits::PEERS_MAX.saturating_sub(self.known.len());
        news.retain(|member| {
            member.id().key == own || (self.is_news(member) && self.admits(member, &mut room))
        });
        // What many learn from lists at once need not be gossiped as well.
        let gossip = news.len() <= LIST_NEWS_GOSSIPED_MAX;
        self.outbox.touched.extend(news.iter().map(|m| m.id().key));
        let result = self.foca.apply_many(news.into_iter(), gossip, &mut self.outbox);
        self.settle("member list", result);
        for (key, incarnation) in suspects {
            self.doubt(key, incarnation);
        }
    }

    /// Somebody holds this node for failed at `incarnation`: renew, if that is the current one.
    pub(crate) fn held_for_failed(&mut self, incarnation: Incarnation) {
        if self.leaving || incarnation != self.incarnation() {
            return;
        }
        let down = Member::new(*self.foca.identity(), 0, State::Down);
        let result = self.foca.apply_many([down].into_iter(), true, &mut self.outbox);
        self.settle("held for failed", result);
    }

    /// Another node holds `key` for failed at the incarnation at which this node sees it alive: doubt it,
    /// and tell it, because only a renewed incarnation of it can convince the other.
    fn doubt(&mut self, key: NodeKey, incarnation: Incarnation) {
        self.suspect(key);
        if self.told_held_for_failed.len() >= limits::PEERS_MAX {
            self.told_held_for_failed.clear();
        }
        if self.told_held_for_failed.insert((key, incarnation)) {
            self.effects.push_back(MemberEffect::TellHeldForFailed { key, incarnation });
        }
    }

    fn is_live_at(&self, entry: &MemberEntry) -> bool {
        self.known
            .get(&entry.key)
            .is_some_and(|k| k.status.is_reachable() && k.incarnation == entry.incarnation)
    }

    /// Whether a listed member tells anything that is not known and may be believed.
    fn is_news(&self, member: &Member<Identity>) -> bool {
        if !self.is_credible(member) {
            return false;
        }
        let Some(known) = self.known.get(&member.id().key) else {
            return true;
        };
        let newer = (member.id().incarnation, member.incarnation()) > (known.incarnation, known.refutations);
        newer || (member.state() == State::Down && known.status.is_reachable())
    }
}
