//! Suspicions: from a missed probe to a refutation or a verdict.
//!
//! Whoever's own probe was missed is an accuser. It tells the mesh, with its own name as the origin, and
//! the suspect itself, again and again, by a ping that carries the suspicion, so that the answer is a
//! refutation. Everyone else who hears of it is a bystander. Some bystanders ask the suspect at once, and
//! those who get no answer become accusers too: that is a confirmation, and only such experience of
//! one's own counts, never hearsay.
//!
//! An accuser gives the suspect long at first, and less with each independent confirmation (Dadgar,
//! Phillips, Currey: "Lifeguard", DSN-W 2018, section IV.B):
//! `max - (max - min) * ln(confirmations + 1) / ln(wanted + 1)`.
//!
//! An accuser doubts itself first. Time that it slept through does not count, nor does time in which it
//! heard of nobody at all, up to twice the longest suspicion, because it is probably the accuser that is
//! cut off; and all is stretched by its own health, and by the suspect's last refutations. A bystander takes
//! over when nobody has come to a verdict for a long time: an accuser may have died, renewed itself, or been
//! cut off.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use foca::{Member, Message, State};

use super::identity::Identity;
use super::packet::{Accusation, RUMOURS_PER_PACKET_MAX};
use super::prober::{REFUSED_WAIT, Why, suspicion_of};
use super::timings::FAR;
use super::{Evidence, Known, MemberEffect, MemberTimer, Membership};
use crate::core::ids::{Incarnation, NodeKey};
use crate::core::limits;
use crate::core::model::MemberStatus;
use crate::core::time::Instant;

/// Pings to a suspect before the verdict, at least, over the time that it is given.
const STEPS: u32 = 8;
/// The longest time between two of them.
const STEP_MAX: Duration = Duration::from_millis(200);
/// So many independent confirmations make a suspicion as short as it gets, where there are so many others.
const CONFIRMATIONS_WANTED: usize = 3;
/// How many of the longest suspicions a bystander waits before it accuses on its own.
const BYSTANDER_WAITS: u32 = 2;
/// An accuser that has heard of nobody for so many probe periods is alone.
const QUIET_PERIODS: u32 = 3;
/// After so many refused pings, and no answer, nobody listens at the suspect's port.
const REFUSALS: u8 = 3;
/// How often an accusation is told on in a mesh in which a few packets reach most.
const RETELLINGS: u32 = 3;
/// Each return of a member that had not gone doubles the time that it gets next, at most so often.
const FLAPS_MAX: u32 = 3;
/// One such return is forgiven after so long.
const FLAP_FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// Each suspicion that a member refuted gives it its usual time once more the next time, at most so often: its
/// answers are delayed or lost, as on a way that is full, and more than one of them must have the chance to come.
const REFUTED_MAX: u32 = 2;
/// One refutation is forgotten after so long.
const REFUTED_FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
/// The first seconds of a node, and the least that a suspect has meanwhile, where paths are long and the others
/// are many: links to all of them are made first, each of which takes three round trips.
const FINDING_ITS_WAY: Duration = Duration::from_secs(15);
const FIRST_SUSPICION_MIN: Duration = Duration::from_secs(6);
const MANY_TO_LINK_WITH: usize = 16;
/// How long an answer may take of a member of whose round trip nothing is known: it may be far away.
const UNKNOWN_WAIT: Duration = Duration::from_secs(1);
/// With a second member that does not answer, so many others are asked at once: it may be a cut.
const ASKED_AROUND: usize = 8;
/// Accusers of one member that are remembered.
const ACCUSERS_MAX: usize = 16;

#[derive(Debug)]
struct Suspicion {
    number: u64,
    known: Known,
    since: Instant,
    /// Who could not reach it, from their own experience, this node included.
    accusers: BTreeSet<NodeKey>,
    /// How often its host said that nobody listens.
    refusals: u8,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Bystander,
    Accuser(Progress),
}

/// How far an accusation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    /// Pings sent.
    steps: u32,
    /// Time that counted.
    served: Duration,
    /// Time that did not, because this node was alone.
    alone: Duration,
    /// When the last step was.
    at: Instant,
}

/// The suspicions that stand, one a member, and what is still to be told of them.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    standing: BTreeMap<NodeKey, Suspicion>,
    numbers: u64,
    /// When a packet came from anybody.
    heard: Instant,
    /// Accusations and verdicts to be told, and in how many more packets.
    rumours: VecDeque<(Accusation, u32)>,
    is_telling: bool,
    asked_around: Option<Instant>,
    is_sweeping: bool,
    /// Who gave a verdict, as far as heard.
    verdicts: BTreeMap<NodeKey, (Incarnation, NodeKey)>,
    /// Members that were called failed and came back without having been started again.
    flaps: BTreeMap<NodeKey, OfLate>,
    /// Members that refuted suspicions.
    refuted: BTreeMap<NodeKey, OfLate>,
}

/// How often something happened of late.
#[derive(Debug, Clone, Copy)]
struct OfLate {
    count: u32,
    last: Instant,
}

impl OfLate {
    /// Of each `span` without another, one is forgotten.
    fn count(self, span: Duration, now: Instant) -> u32 {
        let calm = now.since(self.last).as_secs() / span.as_secs();
        self.count.saturating_sub(u32::try_from(calm).unwrap_or(u32::MAX))
    }
}

impl Suspicions {
    /// A packet came in: this node is not alone.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = now;
    }

    pub(super) fn forget(&mut self, key: &NodeKey) {
        self.standing.remove(key);
        self.verdicts.remove(key);
        self.flaps.remove(key);
        self.refuted.remove(key);
    }

    /// A member has come back that was called failed although its process lived.
    pub(super) fn note_flap(&mut self, key: NodeKey, now: Instant) {
        let count = (self.flaps_of_late(&key, now) + 1).min(FLAPS_MAX);
        self.flaps.insert(key, OfLate { count, last: now });
    }

    fn flaps_of_late(&self, key: &NodeKey, now: Instant) -> u32 {
        self.flaps.get(key).map_or(0, |flaps| flaps.count(FLAP_FORGIVEN_AFTER, now))
    }

    fn note_refuted(&mut self, key: NodeKey, now: Instant) {
        let count = (self.refuted_of_late(&key, now) + 1).min(REFUTED_MAX);
        self.refuted.insert(key, OfLate { count, last: now });
    }

    fn refuted_of_late(&self, key: &NodeKey, now: Instant) -> u32 {
        self.refuted.get(key).map_or(0, |refuted| refuted.count(REFUTED_FORGOTTEN_AFTER, now))
    }

    /// The next rumours for a packet's note.
    pub(super) fn next_rumours(&self) -> Vec<Accusation> {
        self.rumours.iter().take(RUMOURS_PER_PACKET_MAX).map(|(rumour, _)| *rumour).collect()
    }

    /// So many packets carried these.
    pub(super) fn told(&mut self, rumours: &[Accusation], packets: u32) {
        for told in rumours {
            let Some(at) = self.rumours.iter().position(|(rumour, _)| rumour == told) else {
                continue;
            };
            if let Some((rumour, left)) = self.rumours.remove(at)
                && left > packets
            {
                self.rumours.push_back((rumour, left - packets));
            }
        }
    }

    /// Who gave the verdict about a member at this incarnation, as far as heard.
    fn judge(&self, key: &NodeKey, incarnation: Incarnation) -> Option<NodeKey> {
        self.verdicts.get(key).filter(|(at, _)| *at == incarnation).map(|(_, by)| *by)
    }
}

impl Membership {
    /// A member's state was compared: a new suspicion begins, or one has ended.
    pub(super) fn follow_suspicion(&mut self, key: NodeKey, before: Option<Known>, now: Known) {
        if now.status != MemberStatus::Suspect {
            if let Some(ended) = self.suspicions.standing.remove(&key) {
                self.tell_end(key, now, &ended);
            } else if now.status == MemberStatus::Failed
                && before.is_some_and(|before| before.status.is_reachable())
            {
                let by = self.suspicions.judge(&key, now.incarnation);
                let evidence = Evidence::Failed { by, suspected_ms: 0, confirmations: 0 };
                self.effects.push_back(MemberEffect::Found { key, evidence });
            }
            return;
        }
        if self.suspicions.standing.get(&key).is_some_and(|standing| standing.known == now) {
            return;
        }
        self.suspicions.numbers += 1;
        let number = self.suspicions.numbers;
        let since = self.now;
        let suspicion = Suspicion {
            number,
            known: now,
            since,
            accusers: BTreeSet::new(),
            refusals: 0,
            role: Role::Bystander,
        };
        self.suspicions.standing.insert(key, suspicion);
        if !std::mem::replace(&mut self.suspicions.is_sweeping, true) {
            let after = self.outbox.timings.suspicion_max;
            self.effects.push_back(MemberEffect::Timer { after, timer: MemberTimer::Sweep });
        }
    }

    /// Suspicions on which nobody has come to a verdict for long are this node's own from here on.
    pub(super) fn on_sweep(&mut self) {
        let wait = self.outbox.timings.suspicion_max * BYSTANDER_WAITS;
        let now = self.now;
        let is_stale = |s: &Suspicion| s.role == Role::Bystander && now.since(s.since) >= wait;
        let stale = self.suspicions.standing.iter().filter(|(_, suspicion)| is_stale(suspicion));
        let stale: Vec<_> = stale.map(|(key, _)| *key).collect();
        stale.into_iter().for_each(|key| self.accuse(key, &BTreeSet::new()));
        self.suspicions.is_sweeping = !self.suspicions.standing.is_empty();
        if self.suspicions.is_sweeping {
            let after = self.outbox.timings.suspicion_max;
            self.effects.push_back(MemberEffect::Timer { after, timer: MemberTimer::Sweep });
        }
    }

    fn tell_end(&mut self, key: NodeKey, now: Known, ended: &Suspicion) {
        let evidence = match now.status {
            MemberStatus::Failed => Evidence::Failed {
                by: self.suspicions.judge(&key, now.incarnation),
                suspected_ms: u32::try_from(self.now.since(ended.since).as_millis()).unwrap_or(u32::MAX),
                confirmations: ended.accusers.len().saturating_sub(1) as u8,
            },
            MemberStatus::Alive | MemberStatus::Suspect => {
                self.suspicions.note_refuted(key, self.now);
                Evidence::Refuted
            }
            MemberStatus::Left => return,
        };
        self.effects.push_back(MemberEffect::Found { key, evidence });
    }

    /// This node could not reach a member, and neither could these helpers: suspect it, and say so.
    pub(super) fn accuse(&mut self, key: NodeKey, helpers: &BTreeSet<NodeKey>) {
        self.apply_suspicion(key);
        let own = self.foca.identity().key;
        let Some(standing) = self.suspicions.standing.get_mut(&key) else {
            return;
        };
        let room = ACCUSERS_MAX.saturating_sub(standing.accusers.len());
        let is_news = standing.accusers.insert(own);
        standing.accusers.extend(helpers.iter().copied().take(room));
        let known = standing.known;
        if is_news {
            self.effects.push_back(MemberEffect::Found { key, evidence: Evidence::Accused { by: own } });
            self.spread(Accusation::of(key, &known, own, false));
            self.ask_around();
        }
        helpers.iter().for_each(|helper| self.tell_confirmed(key, *helper));
        if let Some(Suspicion { role: role @ Role::Bystander, .. }) = self.suspicions.standing.get_mut(&key) {
            *role = Role::Accuser(Progress {
                steps: 0,
                served: Duration::ZERO,
                alone: Duration::ZERO,
                at: self.now,
            });
        }
        self.step(key);
    }

    /// Several members do not answer at the same time: whoever else is gone with them is found out now, and
    /// not one after the other as their turns come.
    fn ask_around(&mut self) {
        let own = self.foca.identity().key;
        let accused = self.suspicions.standing.values().filter(|s| s.accusers.contains(&own)).count();
        let pause = self.outbox.timings.suspicion_max;
        if accused < 2 || self.suspicions.asked_around.is_some_and(|at| self.now.since(at) < pause) {
            return;
        }
        self.suspicions.asked_around = Some(self.now);
        let alive = self.known.iter().filter(|(_, known)| known.status == MemberStatus::Alive);
        let alive: Vec<_> = alive.map(|(key, _)| *key).collect();
        for key in self.choose_near(alive, ASKED_AROUND) {
            self.probe(key, Why::Turn);
        }
    }

    /// Makes a live member a suspect, for this node and for all it gossips with.
    fn apply_suspicion(&mut self, key: NodeKey) {
        let member = self.foca.iter_membership_state().find(|m| m.id().key == key);
        let Some(member) = member.filter(|m| m.state() == State::Alive) else {
            return;
        };
        let suspect = Member::new(*member.id(), member.incarnation(), State::Suspect);
        self.outbox.touched.insert(key);
        let result = self.foca.apply_many([suspect].into_iter(), true, &mut self.outbox);
        self.settle("suspicion", result);
    }

    /// Suspects a member without waiting for its turn to be probed: it has the suspicion time to refute.
    pub(crate) fn suspect(&mut self, key: NodeKey) {
        if self.known.get(&key).is_some_and(|known| known.status.is_reachable()) {
            self.accuse(key, &BTreeSet::new());
        }
    }

    /// The host of a member says that nobody listens at its port: ask again a few times, at once.
    pub(crate) fn port_refuses(&mut self, key: NodeKey, sign: &str) {
        if self.leaving || !self.known.get(&key).is_some_and(|known| known.status.is_reachable()) {
            return;
        }
        let is_accused = |s: &Suspicion| matches!(s.role, Role::Accuser(_));
        if !self.suspicions.standing.get(&key).is_some_and(is_accused) {
            self.hint(key, sign);
            self.accuse(key, &BTreeSet::new());
        }
        if let Some(standing) = self.suspicions.standing.get_mut(&key) {
            standing.refusals = standing.refusals.saturating_add(1);
        }
        self.step(key);
    }

    /// Somebody could not reach a member, or gave a verdict about it.
    pub(super) fn on_accusation(&mut self, rumour: Accusation) {
        let Accusation { key, incarnation, refutations, by, is_verdict } = rumour;
        if key == self.foca.identity().key || by == self.foca.identity().key || by == key {
            return;
        }
        let is_known = self.known.get(&key).is_some_and(|known| known.incarnation == incarnation);
        if !is_known {
            return;
        }
        if is_verdict {
            // The first judge will do: others come to the same verdict at about the same time.
            if self.suspicions.judge(&key, incarnation).is_none() {
                self.suspicions.verdicts.insert(key, (incarnation, by));
                self.spread(rumour);
            }
            return;
        }
        let Some(standing) = self.suspicions.standing.get_mut(&key) else {
            return;
        };
        if standing.known.refutations != refutations
            || standing.accusers.len() >= ACCUSERS_MAX
            || !standing.accusers.insert(by)
        {
            return;
        }
        let is_first = standing.accusers.len() == 1;
        let is_accuser = matches!(standing.role, Role::Accuser(_));
        if is_first {
            self.effects.push_back(MemberEffect::Found { key, evidence: Evidence::Accused { by } });
        } else {
            self.tell_confirmed(key, by);
        }
        self.spread(rumour);
        if is_accuser {
            self.hasten(key);
        } else if is_first && self.prober.draw() < self.check_share(&key) {
            self.probe(key, Why::Check);
        }
    }

    fn tell_confirmed(&mut self, key: NodeKey, by: NodeKey) {
        let Some(standing) = self.suspicions.standing.get(&key) else {
            return;
        };
        let so_far = standing.accusers.len().saturating_sub(1) as u8;
        let wanted = self.confirmations_wanted() as u8;
        let evidence = Evidence::Confirmed { by, so_far, wanted };
        self.effects.push_back(MemberEffect::Found { key, evidence });
    }

    /// The others, of whom at most a few are wanted as witnesses. Those under suspicion themselves, as all
    /// beyond a cut are, will hardly be any; where nobody else is left, it is better to wait for them.
    fn confirmations_wanted(&self) -> usize {
        let alive = self.known.values().filter(|known| known.status == MemberStatus::Alive).count();
        let others = if alive > 0 { alive } else { self.live_count().saturating_sub(1) };
        others.min(CONFIRMATIONS_WANTED)
    }

    /// How long the suspect has, after so many confirmations.
    fn window(&self, key: &NodeKey, confirmations: usize) -> Duration {
        let timings = &self.outbox.timings;
        // An answer must have the time to come.
        let wait = self.round_trips.wait(key).unwrap_or(UNKNOWN_WAIT);
        let mut min = timings.suspicion_min.max(wait * 2);
        if self.is_finding_its_way() {
            min = min.max(FIRST_SUSPICION_MIN);
        }
        let max = timings.suspicion_max.max(min);
        let window = suspicion_window(min, max, confirmations, self.confirmations_wanted())
            * (1 + self.suspicions.refuted_of_late(key, self.now));
        // Held for alive rather than for failed: a link that comes and goes must not make news each time.
        window * self.health.factor() * 2_u32.pow(self.suspicions.flaps_of_late(key, self.now))
    }

    /// In its first seconds on long paths a node has few links and hardly measured anything, and what it
    /// expects of the others from coordinates that have just begun to move is far too little.
    fn is_finding_its_way(&self) -> bool {
        let is_far = self.round_trip_median.is_none_or(|median| median >= FAR);
        is_far && self.now < Instant::ZERO + FINDING_ITS_WAY && self.live_count() >= MANY_TO_LINK_WITH
    }

    pub(super) fn on_suspicion_step(&mut self, number: u64, late: Duration) {
        let found = self.suspicions.standing.iter().find(|(_, suspicion)| suspicion.number == number);
        let Some((&key, _)) = found else {
            return;
        };
        if late > self.outbox.timings.probe_timeout {
            // This node has slept; what came meanwhile may not have been read yet.
            self.health.worsen(1);
            if let Some(Suspicion { role: Role::Accuser(progress), .. }) =
                self.suspicions.standing.get_mut(&key)
            {
                progress.at = self.now;
                progress.served /= 2;
            }
        }
        self.step(key);
    }

    /// Counts the time since the last step, gives the verdict if it is due, or else tells the suspect once
    /// more and sets the timer of the next step.
    fn step(&mut self, key: NodeKey) {
        let now = self.now;
        let is_alone = self.is_alone();
        let alone_max = self.outbox.timings.suspicion_max * 2;
        self.suspicions.numbers += 1;
        let number = self.suspicions.numbers;
        let Some(standing) = self.suspicions.standing.get_mut(&key) else {
            return;
        };
        let Role::Accuser(progress) = &mut standing.role else {
            return;
        };
        let passed = now.since(progress.at);
        progress.at = now;
        if is_alone && progress.alone < alone_max {
            progress.alone += passed;
        } else {
            progress.served += passed;
        }
        progress.steps += 1;
        standing.number = number;
        let (steps, served, refusals) = (progress.steps, progress.served, standing.refusals);
        let (known, confirmations) = (standing.known, standing.accusers.len().saturating_sub(1));
        let window = self.window(&key, confirmations);
        let is_refused = refusals >= REFUSALS && served >= REFUSED_WAIT;
        if is_refused || (served >= window && steps > STEPS / 2) {
            return self.give_verdict(key, known);
        }
        let until = if refusals > 0 { REFUSED_WAIT / 2 } else { step_of(window) };
        self.effects.push_back(MemberEffect::Timer { after: until, timer: MemberTimer::Suspicion(number) });
        self.send_message(key, Message::Ping(0), &[suspicion_of(key, &known)]);
    }

    /// One more confirms it: the next step is nearer than it was.
    fn hasten(&mut self, key: NodeKey) {
        self.suspicions.numbers += 1;
        let number = self.suspicions.numbers;
        let Some(standing) = self.suspicions.standing.get_mut(&key) else {
            return;
        };
        standing.number = number;
        let confirmations = standing.accusers.len().saturating_sub(1);
        let after = step_of(self.window(&key, confirmations));
        self.effects.push_back(MemberEffect::Timer { after, timer: MemberTimer::Suspicion(number) });
    }

    /// Whether this node has heard of nobody for so long that it is probably cut off itself.
    fn is_alone(&self) -> bool {
        let quiet = self.outbox.timings.probe_period * QUIET_PERIODS * self.health.factor();
        self.live_count() > 1 && self.now.since(self.suspicions.heard) > quiet
    }

    fn give_verdict(&mut self, key: NodeKey, known: Known) {
        let own = self.foca.identity().key;
        let down = Member::new(Identity::of(key, known.incarnation), known.refutations, State::Down);
        self.suspicions.verdicts.insert(key, (known.incarnation, own));
        self.outbox.touched.insert(key);
        // Reliable, in case it hears: only a new incarnation brings it back.
        self.effects.push_back(MemberEffect::TellHeldForFailed { key, incarnation: known.incarnation });
        let result = self.foca.apply_many([down].into_iter(), true, &mut self.outbox);
        self.settle("verdict", result);
        self.spread(Accusation::of(key, &known, own, true));
    }

    /// Tells others: some at once, the rest by every packet that is sent anyhow and in rounds of its own.
    fn spread(&mut self, rumour: Accusation) {
        if self.suspicions.rumours.iter().any(|(other, _)| *other == rumour) {
            return;
        }
        if self.suspicions.rumours.len() >= limits::RUMOURS_MAX {
            self.suspicions.rumours.pop_front();
        }
        let is_own = rumour.by == self.foca.identity().key;
        let in_reach = self.live_count() < limits::FULL_MESH_NODES_MAX;
        // A verdict goes to all at once where they can be reached; of an accusation, a few need to hear soon.
        let fanout = match (is_own, rumour.is_verdict) {
            (false, _) => 0,
            (true, true) if in_reach => self.live_count(),
            (true, _) => limits::RELAY_FANOUT,
        };
        let packets = match (in_reach, rumour.is_verdict) {
            (true, false) => RETELLINGS,
            (true, true) | (false, _) => self.outbox.timings.transmissions.into(),
        };
        self.suspicions.rumours.push_front((rumour, packets));
        self.refresh_note();
        self.tell_rumours(fanout);
        if !self.suspicions.is_telling {
            self.suspicions.is_telling = true;
            let after = self.outbox.timings.gossip_interval;
            self.effects.push_back(MemberEffect::Timer { after, timer: MemberTimer::Rumours });
        }
    }

    /// A round of telling.
    pub(super) fn on_rumours(&mut self) {
        self.refresh_note();
        self.suspicions.is_telling = !self.suspicions.rumours.is_empty();
        if !self.suspicions.is_telling {
            return;
        }
        self.tell_rumours(usize::from(self.outbox.timings.gossip_fanout));
        let after = self.outbox.timings.gossip_interval;
        self.effects.push_back(MemberEffect::Timer { after, timer: MemberTimer::Rumours });
    }

    fn tell_rumours(&mut self, fanout: usize) {
        if fanout == 0 {
            return;
        }
        let rumours = self.suspicions.next_rumours();
        let state = |rumour: &Accusation| if rumour.is_verdict { State::Down } else { State::Suspect };
        let still = |rumour: &&Accusation| {
            let known = self.known.get(&rumour.key);
            known.is_some_and(|k| (k.incarnation, k.refutations) == (rumour.incarnation, rumour.refutations))
        };
        let news: Vec<_> = rumours
            .iter()
            .filter(still)
            .map(|r| Member::new(Identity::of(r.key, r.incarnation), r.refutations, state(r)))
            .collect();
        let others = self.known.iter().filter(|(_, known)| known.status == MemberStatus::Alive);
        let others: Vec<_> = others.map(|(key, _)| *key).collect();
        for to in self.choose_near(others, fanout) {
            self.send_message(to, Message::Gossip, &news);
        }
    }
}

/// Time between two pings to a suspect: a long suspicion has more of them, not rarer ones, because at heavy
/// loss a few are all lost by chance.
fn step_of(window: Duration) -> Duration {
    (window / STEPS).min(STEP_MAX)
}

/// The time that a suspect has, see the head of this file.
fn suspicion_window(min: Duration, max: Duration, confirmations: usize, wanted: usize) -> Duration {
    if wanted == 0 {
        return min;
    }
    let share = ((confirmations + 1) as f64).ln() / ((wanted + 1) as f64).ln();
    max.saturating_sub((max - min).mul_f64(share.min(1.0))).max(min)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of memberlist's remaining suspicion time, there less the time that has passed.
    #[test]
    fn the_window_shrinks_with_the_logarithm_of_the_confirmations() {
        let window = |confirmations| {
            suspicion_window(Duration::from_secs(2), Duration::from_secs(30), confirmations, 3).as_secs_f64()
        };
        assert!((window(0) - 30.0).abs() < 0.01);
        assert!((window(1) - 16.0).abs() < 0.01);
        assert!((window(2) - 7.81).abs() < 0.01);
        assert!((window(3) - 2.0).abs() < 0.01);
        assert!((window(9) - 2.0).abs() < 0.01);
    }

    #[test]
    fn where_nobody_could_confirm_it_starts_short() {
        let (min, max) = (Duration::from_millis(500), Duration::from_secs(1));
        assert_eq!(suspicion_window(min, max, 0, 0), min);
        let rounded = |c| suspicion_window(min, max, c, 3).as_millis();
        assert_eq!([rounded(0), rounded(1), rounded(2), rounded(3)], [1000, 750, 603, 500]);
    }
}
