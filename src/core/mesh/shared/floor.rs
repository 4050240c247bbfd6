//! The floor: every member tells the holder of the lease what it has on its disk; what all have is told to all.
//!
//! A floor that is told is adopted, which promises nothing, and collected only when the next one is told: until then
//! nobody has forgotten anything that a member which has not heard of it could need.
//!
//! Dots that no member has, of an actor that mints no more, are gone with the disk that held them. Such gaps are
//! closed for good, or they would hold up the floor for ever. What members have told may be older than what somebody
//! else has seen of such a dot: so the dots are named first, then every member is asked again, and only what nobody
//! has even then is closed. A node that is no member is not asked: its gaps stay open for `max_offline`, in which
//! it may come back with what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;

use super::super::Mesh;
use super::bases::{Told, span_of};
use super::hash_of;
use crate::core::ids::{NodeId, NodeKey};
use crate::core::limits;
use crate::core::model::{Actor, Clock, Dot, DotRange, Epoch, Roster, Span};
use crate::core::state::Key;
use crate::core::time::Instant;
use crate::core::wire::{Control, Seen};

/// How often members tell, and the holder computes.
const INTERVAL: Duration = Duration::from_secs(1);
/// A dot that seems to be gone is missed for so long at least before it is closed: longer than anything is under way.
const MISSED_FOR: Duration = Duration::from_secs(3);
/// Keys that are looked at in one step for what need not be kept.
const COLLECTED_AT_ONCE: usize = 2_000;

/// What a member has told.
#[derive(Debug, Clone)]
struct Ack {
    clock: Told,
    unfilled: Clock,
    epoch: Epoch,
    actor: Option<Actor>,
    /// The last question that it was asked before it had all of this.
    answers: u64,
}

/// Dots that seem to be gone, until every member has been asked again.
#[derive(Debug)]
struct Missed {
    dots: Clock,
    /// Names the question that the members were asked.
    question: u64,
    since: Instant,
    asked: Instant,
}

/// The floors that this node knows of.
#[derive(Debug, Default)]
pub(super) struct Floors {
    acks: BTreeMap<NodeId, Ack>,
    /// The number of the last floor that this node was told of and has reached.
    adopted: u64,
    /// That floor, which is collected when the next is told.
    last: Option<Clock>,
    told: Option<(u64, Clock, Epoch)>,
    missed: Option<Missed>,
    /// Since when dots of these actors seem to be gone whose nodes are no members, and when they did last.
    absent: BTreeMap<Actor, (Instant, Instant)>,
    /// The last question that this node was asked, and what it had seen then.
    heard: Option<(u64, Clock)>,
    /// The last such question since which everything that it had seen is on its disk.
    answers: u64,
    /// Whom this node has told what it has on its disk, and what that was.
    acked: Option<(NodeId, Clock)>,
    /// Where the collection goes on.
    collecting: Option<Option<Key>>,
    due: Option<Instant>,
    /// Only those count that are there: what tests break, to see that they would notice.
    #[cfg(test)]
    pub(super) of_the_live_view: bool,
}

impl Floors {
    pub(super) fn adopted(&self) -> u64 {
        self.adopted
    }

    /// The mesh has reached so many floors. Returns whether the number was believed.
    pub(super) fn adopt(&mut self, number: u64) -> bool {
        let is_near = self.is_near(number);
        if is_near {
            self.adopted = self.adopted.max(number);
        }
        is_near
    }

    /// Whether the number of a floor can be that of one which the mesh has reached.
    fn is_near(&self, number: u64) -> bool {
        number <= self.adopted.saturating_add(limits::FLOOR_JUMP_MAX)
    }

    /// Another node begins to compute: it knows nothing of what the one before it was told.
    pub(super) fn begin(&mut self) {
        self.acks.clear();
        self.acked = None;
        self.told = None;
        self.missed = None;
    }

    /// Somebody could not read what this node has told: all of it is told again.
    pub(super) fn tell_again(&mut self) {
        self.acked = None;
        self.told = None;
    }

    /// The roster has changed. A floor that was told under another one is not collected: a member that has come
    /// since need not have reached it.
    pub(super) fn forget_all_but(&mut self, roster: &Roster) {
        self.acks.retain(|node, _| roster.members.contains_key(node));
        if !self.absent.is_empty() {
            let members: Vec<_> = roster.members.keys().map(NodeId::key).collect();
            self.absent.retain(|actor, _| !members.iter().any(|member| actor.is_of(member)));
        }
        self.acked = None;
        self.last = None;
    }

    /// What a member has told that is on its disk.
    pub(super) fn told_by(&self, node: &NodeId) -> Option<Clock> {
        self.acks.get(node).map(|ack| ack.clock.clock())
    }

    /// The roster by which a member last told.
    pub(super) fn epoch_of(&self, node: &NodeId) -> Option<Epoch> {
        self.acks.get(node).map(|ack| ack.epoch)
    }

    pub(super) fn has(&self, node: &NodeId, dot: Dot) -> bool {
        self.acks.get(node).is_some_and(|ack| ack.clock.contains(dot))
    }
}

impl Mesh {
    /// Tells a node what is on this one's disk.
    pub(super) fn send_ack(&mut self, key: &NodeKey) {
        let Some(epoch) = self.shared.register.epoch().filter(|_| self.answers_for_writes()) else {
            return;
        };
        let durable = self.shared.state.durable().clone();
        let clock = self.seen(&durable);
        let mut unfilled = self.shared.state.unfilled();
        unfilled.keep_at_most(limits::CLOCK_ACTORS_MAX, limits::CLOCK_RANGES_MAX);
        let actor = self.shared.state.actor();
        let answers = self.answers();
        self.send_control(key, Control::StateAck { clock, unfilled, epoch, actor, answers });
    }

    /// The last question that this node was asked and since which everything that it had seen then is on its disk.
    fn answers(&mut self) -> u64 {
        let durable = self.shared.state.durable();
        if let Some((question, _)) = self.shared.floors.heard.take_if(|(_, seen)| durable.covers(seen)) {
            self.shared.floors.answers = question;
        }
        self.shared.floors.answers
    }

    pub(super) fn on_state_ack(
        &mut self,
        key: &NodeKey,
        from: &NodeId,
        (clock, unfilled): (Seen, Clock),
        epoch: Epoch,
        actor: Option<Actor>,
        answers: u64,
    ) {
        let Some(clock) = self.read_seen(key, clock) else {
            return;
        };
        let is_member = self.shared.register.roster().is_some_and(|roster| roster.members.contains_key(from));
        if is_member {
            let ack = Ack { clock, unfilled, epoch, actor, answers };
            self.shared.floors.acks.insert(from.clone(), ack);
            self.note_told(from);
            self.note_confirmations();
        }
    }

    /// Tells the holder of the lease, or computes as the holder, and forgets what need not be kept.
    pub(super) fn tend_floor(&mut self) {
        self.collect_some();
        if self.shared.floors.due.is_some_and(|due| due > self.now) {
            return;
        }
        self.shared.floors.due = Some(self.now + INTERVAL);
        if self.leads() {
            return self.compute_floor();
        }
        let Some(leader) = self.leader().cloned() else {
            return;
        };
        let told = (leader, self.shared.state.durable().clone());
        if self.shared.floors.acked.as_ref() != Some(&told) {
            self.send_ack(&told.0.key());
            self.shared.floors.acked = Some(told);
        }
    }

    fn compute_floor(&mut self) {
        let Some(roster) = self.shared.register.roster().cloned() else {
            return;
        };
        let (base, collected) = self.base();
        let durable = Seen { base, beyond: self.shared.state.durable().less(&collected) };
        let Some(clock) = self.read_seen(&self.key.clone(), durable) else {
            return;
        };
        let (unfilled, actor) = (self.shared.state.unfilled(), self.shared.state.actor());
        let answers = self.answers();
        let own = Ack { clock, unfilled, epoch: roster.epoch, actor, answers };
        self.shared.floors.acks.insert(self.own.clone(), own);
        let acks = &self.shared.floors.acks;
        let all: Option<Vec<_>> = roster
            .members
            .keys()
            .filter(|node| self.counts(node))
            .map(|node| acks.get(node).filter(|ack| ack.epoch == roster.epoch))
            .map(|ack| ack.map(|ack| Open { beyond: ack.clock.beyond(&collected), ack }))
            .collect();
        let Some(all) = all.filter(|all| !all.is_empty()) else {
            return;
        };
        let gone = gone(&collected, &all);
        let answered: BTreeSet<_> = all.iter().map(|open| open.ack.answers).collect();
        let floor = met(&collected, &all);
        let number = self.shared.floors.adopted + 1;
        let fresh = self.rng.random_range(1..=u64::MAX);
        let gone = self.shared.floors.without_absent(gone, &roster, self.now);
        let (voids, asks) = self.shared.floors.note_missed(gone, &answered, fresh, self.now);
        // A floor is collected when the next one is told: the last of a kind is told twice.
        let told = self.shared.floors.told.as_ref();
        let same = told.is_some_and(|(_, last, epoch)| *last == floor && *epoch == roster.epoch);
        let again =
            self.shared.floors.last.as_ref().is_some_and(|last| !self.shared.state.floor().covers(last));
        if same && voids.is_empty() && !again && asks.is_none() {
            return;
        }
        self.shared.floors.told = Some((number, floor.clone(), roster.epoch));
        let own = self.own.clone();
        let seen = self.seen(&floor);
        for node in roster.members.keys().filter(|node| **node != own) {
            let (floor, voids, epoch) = (seen.clone(), voids.clone(), roster.epoch);
            self.tell_member_soon(&node.key(), Control::StateFloor { epoch, number, floor, voids, asks });
        }
        self.on_floor(self.key, roster.epoch, number, seen, &voids, asks);
    }

    /// Whether a member's disk counts for the floor: that of every one does, alive or not.
    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "tests ask it of a mesh")]
    fn counts(&self, _node: &NodeId) -> bool {
        true
    }

    #[cfg(test)]
    fn counts(&self, node: &NodeId) -> bool {
        let known = self.membership.known(&node.key());
        let is_there = *node == self.own || known.is_some_and(|known| known.status.is_reachable());
        is_there || !self.shared.floors.of_the_live_view
    }

    pub(super) fn on_floor(
        &mut self,
        from: NodeKey,
        epoch: Epoch,
        number: u64,
        floor: Seen,
        voids: &[DotRange],
        asks: Option<u64>,
    ) {
        if !self.believes_floor(from, number) {
            return;
        }
        if let Some(question) = asks {
            self.shared.floors.heard = Some((question, self.shared.state.clock().clone()));
            if from == self.key {
                self.flush_soon(Duration::ZERO);
            } else {
                self.ack_when_stored(from);
            }
        }
        // A node that is behind the newest roster does not collect, and no floor of an older one counts.
        if self.shared.register.epoch() != Some(epoch) || number <= self.shared.floors.adopted {
            return;
        }
        let Some(floor) = self.read_seen(&from, floor).map(|told| told.clock()) else {
            return;
        };
        if !self.shared.state.clock().covers(&floor) {
            return self.ask_state(from);
        }
        match self.shared.state.apply(&[], voids) {
            Ok(applied) => self.on_applied(applied),
            Err(refuse) => {
                self.shared.refused += 1;
                tracing::error!(%refuse, "gaps that are to be closed");
            }
        }
        self.shared.bases.note_covered(hash_of(&floor));
        if let Some(last) = self.shared.floors.last.replace(floor)
            && self.shared.state.raise_floor(&last)
        {
            self.shared.floors.collecting = Some(None);
            self.flush_later();
        }
        self.shared.floors.adopted = number;
    }

    /// Whether a floor comes from one that may tell it: as far as this node knows, nobody else holds the lease. A
    /// number that is far ahead would keep this node from ever taking in another floor.
    fn believes_floor(&mut self, from: NodeKey, number: u64) -> bool {
        if from == self.key {
            return true;
        }
        let Some(node) = self.node_of(&from) else {
            return false;
        };
        let votes = self.shared.register.roster().is_some_and(|roster| roster.is_voter(&node));
        let leads = votes && self.leader().is_none_or(|leader| *leader == node);
        if leads && self.shared.floors.is_near(number) {
            return true;
        }
        // In a large mesh others have told who gives orders, and that may be over already.
        if votes && !leads && (!self.hears_the_leader() || !self.is_full_mesh()) {
            // It may well have taken the lease over a moment ago: it tells of the floor again soon.
            return false;
        }
        self.shared.refused += 1;
        tracing::warn!(from = %node, number, "only the holder of the lease tells of floors, one after the other: refused");
        false
    }

    /// Tells a node what is on this one's disk as soon as everything is that this one has seen.
    pub(super) fn ack_when_stored(&mut self, key: NodeKey) {
        self.shared.acks_due.insert(key);
        self.flush_soon(Duration::ZERO);
        if !self.shared.state.needs_flush() && !self.shared.flushing {
            self.shared.acks_due.remove(&key);
            self.send_ack(&key);
        }
    }

    fn collect_some(&mut self) {
        let Some(after) = self.shared.floors.collecting.take() else {
            return;
        };
        if let Some(next) = self.shared.state.collect(after.as_deref(), COLLECTED_AT_ONCE) {
            self.shared.floors.collecting = Some(Some(next));
        }
        self.flush_later();
    }
}

impl Floors {
    /// Leaves out what a node may yet come back with that is no member: it was taken out, and has not been away for so long
    /// that nobody counts with it any more. All members have told what they have, but nobody knows what it has.
    fn without_absent(&mut self, mut gone: Clock, roster: &Roster, now: Instant) -> Clock {
        if gone.is_empty() {
            return gone;
        }
        let members: Vec<_> = roster.members.keys().map(NodeId::key).collect();
        let is_of_a_member = |actor: &Actor| members.iter().any(|member| actor.is_of(member));
        let absent: Vec<_> = gone.iter().map(|(actor, _)| *actor).filter(|a| !is_of_a_member(a)).collect();
        // Who is not named for a moment, because members differ about it, is not back.
        self.absent.retain(|_, (_, seen)| now.since(*seen) < roster.max_offline);
        for actor in absent {
            let (since, seen) = self.absent.entry(actor).or_insert((now, now));
            *seen = now;
            if now.since(*since) < roster.max_offline {
                gone.set(actor, Span::default());
            }
        }
        gone
    }

    /// Takes in which dots seem to be gone, as the members have told; `answered` are the questions that they have
    /// answered last. Returns those that are, and the question that the members are to be asked, a `fresh` one or that
    /// under way.
    fn note_missed(
        &mut self,
        gone: Clock,
        answered: &BTreeSet<u64>,
        fresh: u64,
        now: Instant,
    ) -> (Vec<DotRange>, Option<u64>) {
        let Some(missed) = &mut self.missed else {
            let asks = (!gone.is_empty()).then_some(fresh);
            self.missed = asks.map(|question| Missed { dots: gone, question, since: now, asked: now });
            return (vec![], asks);
        };
        missed.dots = missed.dots.less(&missed.dots.less(&gone));
        if missed.dots.is_empty() {
            self.missed = None;
            return (vec![], None);
        }
        let all_answered = answered.iter().all(|question| *question == missed.question);
        if all_answered && now.since(missed.since) >= MISSED_FOR {
            let mut voids = missed.dots.beyond(&Clock::default());
            voids.truncate(limits::STATE_RANGES_PER_FRAME_MAX);
            self.missed = None;
            return (voids, None);
        }
        let asks = (now.since(missed.asked) >= MISSED_FOR).then_some(missed.question);
        if asks.is_some() {
            missed.asked = now;
        }
        (vec![], asks)
    }
}

/// What a member has told, beyond the floor.
struct Open<'a> {
    ack: &'a Ack,
    beyond: Clock,
}

/// The floor, and what all have beyond it without a gap.
fn met(floor: &Clock, all: &[Open<'_>]) -> Clock {
    let mut met = floor.clone();
    let first = all.iter().min_by_key(|open| open.beyond.len());
    for (actor, _) in first.iter().flat_map(|open| open.beyond.iter()) {
        let upto = all.iter().map(|open| span_of(floor, &open.beyond, actor).upto).min().unwrap_or(0);
        if upto > floor.upto(actor) {
            met.set(*actor, Span::prefix(upto));
        }
    }
    met
}

/// Dots that no member has and nobody will make any more: members agree on what they have of an actor, and it is
/// nobody's present one.
fn gone(floor: &Clock, all: &[Open<'_>]) -> Clock {
    let minting: BTreeSet<_> = all.iter().filter_map(|open| open.ack.actor).collect();
    let mut named = Clock::default();
    for open in all {
        named.join(&open.beyond);
        named.join(&open.ack.unfilled);
    }
    let mut gone = Clock::default();
    for (actor, span) in named.iter().filter(|(actor, _)| !minting.contains(actor)) {
        let first = span_of(floor, &all[0].beyond, actor);
        if all.iter().any(|open| span_of(floor, &open.beyond, actor) != first) {
            continue;
        }
        let upto = span.ranges().map(|(_, upto)| upto).max().unwrap_or(0);
        let (mut whole, mut has) = (Clock::default(), Clock::default());
        whole.add_range(DotRange { actor: *actor, from: 1, upto });
        has.set(*actor, first);
        gone.join(&whole.less(&has));
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::Seat;

    #[test]
    fn what_a_node_that_was_taken_out_may_come_back_with_is_not_closed_before_it_is_away_for_too_long() {
        let key = |name: &str| NodeId::new(name).expect("valid").key();
        let actor = |name: &str| Actor::fresh(&key(name), [7; 8]);
        let gone: Clock =
            [("here", 3), ("out", 9)].map(|(name, n)| Dot { actor: actor(name), n }).into_iter().collect();
        let of_members: Clock = [Dot { actor: actor("here"), n: 3 }].into_iter().collect();
        let max_offline = Duration::from_secs(3600);
        let roster = |members: &[&str]| Roster {
            epoch: Epoch { chain: 1, chain_id: 1, order: 1 },
            members: members
                .iter()
                .map(|name| (NodeId::new(name).expect("valid"), Seat::default()))
                .collect(),
            quorum_size: None,
            tie_breaker: None,
            split_writes: false,
            max_offline,
            audit: None,
        };
        let mut floors = Floors::default();
        let begun = Instant::ZERO + Duration::from_secs(5);
        let both = roster(&["here", "out"]);
        let one = roster(&["here"]);
        assert_eq!(floors.without_absent(gone.clone(), &both, begun), gone, "it is asked itself");
        assert_eq!(floors.without_absent(gone.clone(), &one, begun), of_members);
        // Members differ for a moment, and the lease goes to another node and back.
        assert_eq!(floors.without_absent(Clock::default(), &one, begun), Clock::default());
        assert_eq!(floors.without_absent(of_members.clone(), &one, begun), of_members);
        floors.begin();
        let half = begun + max_offline / 2;
        assert_eq!(floors.without_absent(gone.clone(), &one, half), of_members);
        let whole = begun + max_offline;
        assert_eq!(floors.without_absent(gone.clone(), &one, whole), gone, "nobody counts with it any more");
        floors.forget_all_but(&both);
        assert_eq!(floors.without_absent(gone.clone(), &one, whole), of_members, "it was back meanwhile");
    }
}
