//! Comparing with a peer: summaries, whole member lists, digests of the records, and what is missing of them.
//!
//! Each side of a new link sends a summary, and so does each node to a random peer every two seconds. Where hashes
//! differ, member lists and digests go both ways, and each sends what the other's digest lacks. On a new link the side
//! that has dialled begins, so that nothing goes twice.
//!
//! While many nodes join a large mesh at once, nearly all lists differ. Four rules bound what that costs:
//! - what was sent over a link a moment ago is not sent over it again;
//! - a node that knows nothing yet asks one peer at a time;
//! - in a large mesh a node begins [few](limits::COMPARISONS_PER_SECOND) exchanges a second: gossip and relays bring most;
//! - lists, digests and records together have a [budget](limits::LIST_BYTES_PER_SECOND).
//!
//! Whoever goes away empty for one of these reasons is owed a comparison: when its turn comes it is sent a summary, and
//! answers if the two still differ. By then it has mostly heard from others.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Mesh, Timer};
use crate::core::contract::Output;
use crate::core::ids::{LinkId, NodeKey};
use crate::core::limits;
use crate::core::queue::Pace;
use crate::core::time::Instant;
use crate::core::wire::{Control, MemberEntry, OwnedBatch, OwnedVersion};

/// The same over the same link, if it differs at all, not before so long.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A node that knows nobody's records asks another peer after so long.
const FIRST_ANSWER: Duration = Duration::from_millis(100);
/// Of how many nodes such a node has records at most: its own, and those of its first peers.
const NOTHING_MAX: usize = 4;
/// Bytes of records that share a frame; those of one owner are not parted for it.
const RECORDS_FRAME_BYTES: usize = 2 << 10;
/// Bytes of a member, or of a node's version in a digest, in a frame.
const MEMBER_BYTES: usize = 64;
const VERSION_BYTES: usize = 32;

/// How much of lists has been sent, and who is owed a comparison.
#[derive(Debug)]
pub(super) struct Lists {
    pace: Pace,
    /// Of exchanges that this node begins.
    begun: Pace,
    /// Of comparisons that it owed. They are counted apart: what it owes, its peer begins.
    settled: Pace,
    owed: VecDeque<(Instant, LinkId)>,
    is_armed: bool,
    /// When this node asked somebody while it knew nothing, and over which link.
    first_asked: Option<(Instant, LinkId)>,
    /// A member list has come.
    has_heard: bool,
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            pace: Pace::new(limits::LIST_BYTES_PER_SECOND, limits::LIST_BYTES_AT_ONCE),
            begun: Pace::new(limits::COMPARISONS_PER_SECOND, limits::COMPARISONS_AT_ONCE),
            settled: Pace::new(limits::COMPARISONS_PER_SECOND, limits::COMPARISONS_AT_ONCE),
            owed: VecDeque::new(),
            is_armed: false,
            first_asked: None,
            has_heard: false,
        }
    }
}

impl Mesh {
    pub(super) fn send_summary(&mut self, link: LinkId) {
        let members = self.membership.entries_hash();
        let owned = self.registry.digest_hash();
        let crls = Some(self.trust.hash());
        let shared = Some(self.shared_summary());
        self.output(Output::Control { link, frame: Control::Summary { members, owned, shared, crls } });
    }

    /// A peer's summary has come.
    pub(super) fn compare(&mut self, link: LinkId, members: u64, owned: u64) {
        let Some(at) = self.links.get(link) else {
            return;
        };
        let (is_first, dialled) = (!at.told.is_opened, at.dialled);
        if let Some(told) = self.links.told_mut(link) {
            told.is_opened = true;
        }
        // The peer has dialled, has this node's summary by now, and begins.
        if is_first && !dialled && self.lists.has_heard {
            return;
        }
        // Who has gone for good is in lists and not in their hashes.
        let differ = members != self.membership.entries_hash() || !self.lists.has_heard;
        let lacks = owned != self.registry.digest_hash();
        if (differ || lacks) && !(self.may_ask(link) && self.may_begin()) {
            return self.owe(link, self.now + FIRST_ANSWER);
        }
        if differ {
            self.send_members(link, true);
        }
        if lacks {
            self.send_digest(link, true);
        }
    }

    /// A node that has just started hears the same from all its seeds.
    fn may_ask(&mut self, link: LinkId) -> bool {
        if self.registry.owners().nth(NOTHING_MAX).is_some() {
            return true;
        }
        let asked = self.lists.first_asked;
        let waits = |(at, other)| other != link && self.now.since(at) < FIRST_ANSWER;
        if asked.is_some_and(waits) {
            return false;
        }
        self.lists.first_asked = Some((self.now, link));
        true
    }

    fn may_begin(&mut self) -> bool {
        self.is_full_mesh() || self.lists.begun.take(self.now, 1)
    }

    pub(super) fn on_members(&mut self, link: LinkId, key: NodeKey, members: &[MemberEntry], reply: bool) {
        self.lists.has_heard = true;
        self.membership.apply_entries(key, members);
        self.run_member_effects();
        if reply {
            self.send_members(link, false);
        }
    }

    fn send_members(&mut self, link: LinkId, reply: bool) {
        let hash = self.membership.entries_hash();
        let told = self.links.get(link).and_then(|link| link.told.members);
        let bytes = MEMBER_BYTES * (self.membership.all_known().len() + 1);
        if !self.may_send(link, told, hash, bytes) {
            return;
        }
        if let Some(told) = self.links.told_mut(link) {
            told.members = Some((hash, self.now));
        }
        let members = self.membership.entries();
        self.output(Output::Control { link, frame: Control::Members { members, reply } });
    }

    pub(super) fn send_digest(&mut self, link: LinkId, reply: bool) {
        let hash = self.registry.digest_hash();
        let told = self.links.get(link).and_then(|link| link.told.digest);
        let bytes = VERSION_BYTES * self.registry.owners().len();
        if !self.may_send(link, told, hash, bytes) {
            return;
        }
        if let Some(told) = self.links.told_mut(link) {
            told.digest = Some((hash, self.now));
        }
        let have = self.registry.digest();
        self.output(Output::Control { link, frame: Control::OwnedDigest { have, reply } });
    }

    /// A peer has told whose records it has up to where.
    pub(super) fn on_digest(&mut self, link: LinkId, have: &[OwnedVersion], reply: bool) {
        if self.lists.pace.next_at(self.now) > self.now {
            return self.owe(link, self.now);
        }
        let newer = self.registry.newer_than(have);
        let bytes = newer.iter().map(batch_bytes).sum();
        self.lists.pace.take(self.now, bytes);
        for batches in in_frames(newer) {
            self.output(Output::Control { link, frame: Control::Owned { batches } });
        }
        if reply {
            self.send_digest(link, false);
        }
    }

    /// Whether so many bytes of something with this hash may go over a link now; if it needs to and may not, the peer
    /// is owed a comparison.
    fn may_send(&mut self, link: LinkId, told: Option<(u64, Instant)>, hash: u64, bytes: usize) -> bool {
        match told.filter(|(_, at)| self.now.since(*at) < AGAIN_AFTER) {
            Some((last, _)) if last == hash => return false,
            Some((_, at)) => {
                self.owe(link, at + AGAIN_AFTER);
                return false;
            }
            None => {}
        }
        let may = self.lists.pace.take(self.now, bytes);
        if !may {
            self.owe(link, self.now);
        }
        may
    }

    fn owe(&mut self, link: LinkId, due: Instant) {
        let is_owed = self.lists.owed.iter().any(|(_, other)| *other == link);
        // Who finds no room is compared with as everybody is, by chance.
        if is_owed || self.lists.owed.len() >= limits::LISTS_OWED_MAX {
            return;
        }
        self.lists.owed.push_back((due, link));
        self.arm_debts();
    }

    fn arm_debts(&mut self) {
        let Some((due, _)) = self.lists.owed.front() else {
            return;
        };
        if !std::mem::replace(&mut self.lists.is_armed, true) {
            let at = self.debts_next_at().max(*due);
            self.set_timer(at.since(self.now), Timer::Lists);
        }
    }

    fn debts_next_at(&self) -> Instant {
        let settled = if self.is_full_mesh() { self.now } else { self.lists.settled.next_at(self.now) };
        self.lists.pace.next_at(self.now).max(settled)
    }

    /// Compares with the next one that is owed it.
    pub(super) fn settle_debts(&mut self) {
        self.lists.is_armed = false;
        if self.debts_next_at() <= self.now
            && let Some((_, link)) = self.lists.owed.pop_front_if(|(due, _)| *due <= self.now)
            && self.links.get(link).is_some_and(|at| self.links.proven(&at.key) == Some(link))
        {
            self.lists.settled.take(self.now, 1);
            if self.lists.has_heard {
                self.send_summary(link);
            } else if self.may_ask(link) {
                // With a summary alone who agrees on the living would not tell who has gone for good.
                self.send_members(link, true);
            } else {
                self.owe(link, self.now + FIRST_ANSWER);
            }
        }
        self.arm_debts();
    }
}

/// Records in frames of a few packets each: a long one would hold up all that comes behind it where packets are lost.
pub(super) fn in_frames(batches: Vec<OwnedBatch>) -> Vec<Vec<OwnedBatch>> {
    let mut frames: Vec<Vec<OwnedBatch>> = Vec::new();
    let mut room = 0;
    for batch in batches {
        let size = batch_bytes(&batch);
        match frames.last_mut().filter(|_| size <= room) {
            Some(frame) => frame.push(batch),
            None => {
                room = RECORDS_FRAME_BYTES;
                frames.push(vec![batch]);
            }
        }
        room = room.saturating_sub(size);
    }
    frames
}

/// About as many as it has in a frame.
pub(super) fn batch_bytes(batch: &OwnedBatch) -> usize {
    let records = batch.records.iter();
    64 + records.map(|r| 32 + r.path.len() + r.value.as_ref().map_or(0, |v| v.len())).sum::<usize>()
}
