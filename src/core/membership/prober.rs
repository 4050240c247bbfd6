//! Probes: whom to ask when, how long to wait, whom to ask for help, and what a missed answer means.
//!
//! foca's own probing is switched off (see [`super::runtime`]): its timings are fixed for its life, it
//! knows no round trips, no helpers that answer "not I either", and it picks at random, so that the time
//! until anybody looks at a dead member has a long tail. This one speaks foca's messages, so foca answers
//! them as ever. Each turn goes to the next member in the ring of all live members, so that everyone is
//! looked at by its neighbour in every period, whatever the size; each fourth turn (in a
//! large mesh each sixteenth, to one that there is a link to) goes to a random member as well, every one once a lap, so that no failures hide each other (the laps are those of Das, Gupta,
//! Motivala: "SWIM", DSN 2002, 4.3; with them alone the time to the first look has a long tail).
//! The ring is ordered by place, so that neighbours are near each other: see [`Membership::place`].
//!
//! A probe waits as long as the member's round trips suggest, then asks others to try and tries again
//! itself. Helpers that hear nothing say so ("nack"): then the wait ends early, the helpers count as
//! witnesses, and it is not this node's own ears that are at fault ("Lifeguard", section IV.A).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use bytes::BufMut;
use foca::{Header, Member, Message, State};
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::identity::Identity;
use super::packet::{self, SwimCodec};
use super::runtime::Crossing;
use super::{Evidence, Known, MemberEffect, MemberTimer, Membership};
use crate::core::ids::NodeKey;
use crate::core::limits;
use crate::core::model::MemberStatus;
use crate::core::time::Instant;

/// Each turn with a number divisible by this goes to a random member, too.
const RANDOM_EVERY: u32 = 4;
/// The same where most members have no link to this one.
const RANDOM_EVERY_LARGE: u32 = 16;
/// Bystanders that ask a suspect at once, in expectation, whatever the size of the mesh.
const CHECKERS: f64 = 5.0;
/// A helper gives up a little before whoever asked it does.
const HELP_SHARE: (u32, u32) = (4, 5);
/// No wait is longer than this, or than the probe timeout where that is longer, before health stretches it.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// How long a member whose host said that nobody listens may take to show that somebody does.
pub(super) const REFUSED_WAIT: Duration = Duration::from_millis(50);

/// Why a member is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It is its turn.
    Turn,
    /// Somebody suspects it, or there was a sign: ask at once, and bother nobody else.
    Check,
}

#[derive(Debug)]
struct Probe {
    key: NodeKey,
    why: Why,
    sent: Instant,
    /// Whether it was sent twice: then an answer does not tell a round trip (Karn's rule).
    again: bool,
    /// Whether this node has slept through a wait already.
    excused: bool,
    /// Who was asked for help and can say that it failed.
    helpers: BTreeSet<NodeKey>,
    asked: u8,
    nacks: BTreeSet<NodeKey>,
}

/// The probes under way, and whose turn it is.
#[derive(Debug)]
pub(super) struct Prober {
    rng: ChaCha8Rng,
    turns: u32,
    lap: Vec<NodeKey>,
    last_number: u8,
    open: BTreeMap<u8, Probe>,
    /// Members that others have asked this node to reach: who asked, and under which number.
    duties: BTreeMap<(NodeKey, u8), NodeKey>,
    /// Members that cannot be asked, because it is not known where they are.
    nameless: BTreeSet<NodeKey>,
}

impl Prober {
    pub(super) fn new(rng: ChaCha8Rng) -> Self {
        Self {
            rng,
            turns: 0,
            lap: Vec::new(),
            last_number: 0,
            open: BTreeMap::new(),
            duties: BTreeMap::new(),
            nameless: BTreeSet::new(),
        }
    }

    /// A new member takes a random place in the present lap.
    pub(super) fn add(&mut self, key: NodeKey) {
        if self.lap.contains(&key) {
            return;
        }
        let at = self.rng.random_range(0..=self.lap.len());
        self.lap.insert(at, key);
    }

    pub(super) fn forget(&mut self, key: &NodeKey) {
        self.nameless.remove(key);
        self.lap.retain(|other| other != key);
        self.let_off(key);
    }

    /// What its former process did not answer says nothing about the present one.
    pub(super) fn let_off(&mut self, key: &NodeKey) {
        self.open.retain(|_, probe| probe.key != *key);
    }

    /// Some of these, each with the same chance.
    pub(super) fn choose(&mut self, mut from: Vec<NodeKey>, count: usize) -> Vec<NodeKey> {
        let (chosen, _) = from.partial_shuffle(&mut self.rng, count);
        chosen.to_vec()
    }

    /// A number between 0 and 1.
    pub(super) fn draw(&mut self) -> f64 {
        self.rng.random()
    }

    fn next_number(&mut self) -> u8 {
        // 0 marks pings that nobody waits for.
        self.last_number = self.last_number % u8::MAX + 1;
        self.last_number
    }
}

impl Membership {
    /// Where a member is: members of one place are neighbours in the ring.
    pub(crate) fn place(&mut self, key: NodeKey, place: u64) {
        if self.outbox.places.len() <= limits::PEERS_MAX {
            self.outbox.places.insert(key, place);
        }
    }

    /// This node's network coordinate as it travels, for others to measure against.
    pub(crate) fn set_coordinate(&mut self, told: Vec<u8>) {
        self.outbox.coordinate = told;
    }

    /// The shares of gossip that go to other places, by place; to those not named, all goes.
    pub(crate) fn set_crossings(&mut self, shares: impl Iterator<Item = (u64, f64)>) {
        let before = std::mem::take(&mut self.outbox.crossings);
        let due = |place: &u64| before.get(place).map_or(0.0, |crossing| crossing.due);
        self.outbox.crossings =
            shares.map(|(place, share)| (place, Crossing { share, due: due(&place) })).collect();
    }

    /// Whether nobody knows yet where a member is: what does not reach it says nothing about it.
    pub(crate) fn set_nameless(&mut self, key: NodeKey, is_nameless: bool) {
        if is_nameless {
            self.prober.nameless.insert(key);
        } else {
            self.prober.nameless.remove(&key);
        }
    }

    /// Whether a member's packets and ours may be of the compact form.
    pub(crate) fn set_modern(&mut self, key: NodeKey, is_modern: bool) {
        if is_modern {
            self.outbox.modern.insert(key);
        } else {
            self.outbox.modern.remove(&key);
        }
    }

    /// A guess of the round trip to a member that was not measured.
    pub(crate) fn expect_round_trip(&mut self, key: NodeKey, span: Duration) {
        self.round_trips.expect(key, span);
    }

    /// This node's own health: 0 while all is well, at most 7.
    pub(crate) fn health(&self) -> u8 {
        self.health.score()
    }

    pub(super) fn set_first_turn(&mut self) {
        let after = self.outbox.timings.probe_period.mul_f64(self.prober.draw());
        self.effects.push_back(MemberEffect::Timer { after, timer: MemberTimer::Turn });
    }

    /// A probe's turn: a slower one while this node doubts itself.
    pub(super) fn on_turn(&mut self, late: Duration) {
        if late > self.outbox.timings.probe_timeout {
            self.health.worsen(1);
        }
        self.round_trip_median = self.median_nearby();
        let after = self.outbox.timings.probe_period * self.health.factor();
        self.effects.push_back(MemberEffect::Timer { after, timer: MemberTimer::Turn });
        self.prober.turns = self.prober.turns.wrapping_add(1);
        if let Some(key) = self.next_in_ring() {
            self.probe(key, Why::Turn);
        }
        let is_large = self.live_count() >= limits::FULL_MESH_NODES_MAX;
        let random_every = if is_large { RANDOM_EVERY_LARGE } else { RANDOM_EVERY };
        if self.prober.turns.is_multiple_of(random_every)
            && let Some(key) = self.next_of_lap()
        {
            self.probe(key, Why::Turn);
        }
    }

    /// The usual round trip in this node's own place, or in the whole mesh if it is alone there: the pace
    /// within a region does not depend on how far the others are.
    fn median_nearby(&self) -> Option<Duration> {
        let own = self.place_of(&self.foca.identity().key);
        let nearby = self.round_trips.median(|key| self.place_of(key) == own);
        nearby.or_else(|| self.round_trips.median(|_| true))
    }

    fn place_of(&self, key: &NodeKey) -> u64 {
        self.outbox.places.get(key).copied().unwrap_or(0)
    }

    /// The live member behind this node in the ring.
    fn next_in_ring(&self) -> Option<NodeKey> {
        let own = self.foca.identity().key;
        let own = (self.place_of(&own), own);
        let live = self.known.iter().filter(|(_, known)| known.status.is_reachable());
        let live = live.filter(|(key, _)| !self.prober.nameless.contains(key));
        let places = live.map(|(key, _)| (self.place_of(key), *key));
        // The smallest above this node, or the smallest of all.
        places.min_by_key(|place| (*place < own, *place)).map(|(_, key)| key)
    }

    /// In a large mesh a lap goes round those that there are links to: each member is among them for some others.
    fn next_of_lap(&mut self) -> Option<NodeKey> {
        loop {
            if self.prober.lap.is_empty() {
                let live = self.known.iter().filter(|(_, known)| known.status.is_reachable());
                let live: Vec<_> = live.map(|(key, _)| *key).filter(|key| self.is_near(key)).collect();
                let count = live.len();
                self.prober.lap = self.prober.choose(live, count);
            }
            let key = self.prober.lap.pop()?;
            if self.is_live(&key) && self.is_near(&key) {
                return Some(key);
            }
        }
    }

    /// Whether there is a link to a member, where there are not links to all.
    fn is_near(&self, key: &NodeKey) -> bool {
        self.outbox.near.is_empty() || self.outbox.near.contains_key(key)
    }

    /// The live members next to one in the ring: so many behind it, and so many before it, without this node.
    pub(crate) fn around(&self, key: &NodeKey, count: usize) -> (Vec<NodeKey>, Vec<NodeKey>) {
        let own = self.foca.identity().key;
        let live = self.known.iter().filter(|(_, known)| known.status.is_reachable()).map(|(key, _)| key);
        let named = live.filter(|key| !self.prober.nameless.contains(key)).chain([&own, key]);
        let ring: BTreeSet<_> = named.map(|key| (self.place_of(key), *key)).collect();
        let at = (self.place_of(key), *key);
        let is_other = |(_, other): &&(u64, NodeKey)| *other != own && other != key;
        let behind = ring.range((Bound::Excluded(at), Bound::Unbounded)).chain(&ring).filter(is_other);
        let before = ring.range(..at).rev().chain(ring.iter().rev()).filter(is_other);
        (behind.take(count).map(|(_, key)| *key).collect(), before.take(count).map(|(_, key)| *key).collect())
    }

    fn is_live(&self, key: &NodeKey) -> bool {
        self.known.get(key).is_some_and(|known| known.status.is_reachable())
    }

    /// How long this node waits for a member's own answer.
    pub(super) fn wait_for(&self, key: &NodeKey) -> Duration {
        self.wait_in_health(key) * self.health.factor()
    }

    fn wait_in_health(&self, key: &NodeKey) -> Duration {
        let timings = &self.outbox.timings;
        match self.round_trips.wait(key) {
            // Set by hand: it wins over what was measured.
            _ if self.overrides.probe_timeout.is_some() => timings.probe_timeout,
            None => timings.probe_timeout,
            // Where all answers take seconds, so does the timeout.
            Some(wait) => wait.clamp(timings.probe_timeout / 2, WAIT_MAX.max(timings.probe_timeout)),
        }
    }

    /// Asks a member whether it is there, unless that is under way already.
    pub(super) fn probe(&mut self, key: NodeKey, why: Why) {
        let is_asked = self.prober.open.values().any(|probe| probe.key == key);
        if !self.is_live(&key) || is_asked || self.prober.nameless.contains(&key) {
            return;
        }
        if self.prober.open.len() >= limits::PROBES_OPEN_MAX {
            return;
        }
        let number = self.prober.next_number();
        let probe = Probe {
            key,
            why,
            sent: self.now,
            again: false,
            excused: false,
            helpers: BTreeSet::new(),
            asked: 0,
            nacks: BTreeSet::new(),
        };
        self.prober.open.insert(number, probe);
        self.ping(key, number);
        let after = self.wait_for(&key);
        self.effects.push_back(MemberEffect::Timer { after, timer: MemberTimer::Probe(number, self.now) });
    }

    /// There is a sign that a member may be gone: ask it at once.
    pub(crate) fn check(&mut self, key: NodeKey, sign: &str) {
        if self.leaving || !self.is_live(&key) {
            return;
        }
        self.hint(key, sign);
        self.probe(key, Why::Check);
    }

    /// Keeps a sign that a member may be gone for those who ask why.
    pub(crate) fn hint(&mut self, key: NodeKey, sign: &str) {
        let sign = sign.chars().take(limits::PEER_ERROR_CHARS_MAX).collect();
        self.effects.push_back(MemberEffect::Found { key, evidence: Evidence::Hint { sign } });
    }

    /// A probe's wait is over; `sent` tells whether it is still the same one.
    pub(super) fn on_probe_timer(&mut self, number: u8, sent: Instant, late: Duration) {
        let Some(probe) = self.prober.open.get_mut(&number).filter(|probe| probe.sent == sent) else {
            return;
        };
        let key = probe.key;
        if late > self.outbox.timings.probe_timeout && !probe.excused {
            // It was this node that slept: the answer may have come and gone. Ask again.
            probe.excused = true;
            probe.again = true;
            self.health.worsen(1);
            self.ping(key, number);
            let after = self.wait_for(&key);
            let timer = MemberTimer::Probe(number, sent);
            self.effects.push_back(MemberEffect::Timer { after, timer });
            return;
        }
        if probe.why == Why::Turn && probe.asked == 0 {
            self.ask_for_help(number, sent);
        } else {
            self.on_missed(number);
        }
    }

    /// Others try, and this node tries once more itself.
    fn ask_for_help(&mut self, number: u8, sent: Instant) {
        let key = self.prober.open[&number].key;
        let alive = |(other, known): (&NodeKey, &Known)| {
            (known.status == MemberStatus::Alive && *other != key).then_some(*other)
        };
        let others: Vec<_> = self.known.iter().filter_map(alive).collect();
        let helpers = self.choose_helpers(&key, others);
        self.round_trips.back_off(key, self.now.since(sent));
        let target = self.identity_of(&key);
        for helper in &helpers {
            self.send_message(*helper, Message::PingReq { target, probe_number: number }, &[]);
        }
        self.ping(key, number);
        let farthest = helpers.iter().filter_map(|helper| self.round_trips.wait(helper)).max();
        // Helpers may know less of its round trips, and wait as long as the profile says.
        let helped = self.wait_in_health(&key).max(self.outbox.timings.probe_timeout);
        let after = (helped + farthest.unwrap_or_default()) * self.health.factor();
        let modern = helpers.iter().copied().filter(|helper| self.outbox.modern.contains(helper)).collect();
        let probe = self.prober.open.get_mut(&number).expect("it was indexed above");
        probe.again = true;
        probe.asked = helpers.len().clamp(1, usize::from(u8::MAX)) as u8;
        probe.helpers = modern;
        self.effects.push_back(MemberEffect::Timer { after, timer: MemberTimer::Probe(number, sent) });
    }

    /// In a large mesh those help whose neighbour in the ring the member is: they have a link to it, and to this node,
    /// if that is its neighbour, too.
    fn choose_helpers(&mut self, key: &NodeKey, others: Vec<NodeKey>) -> Vec<NodeKey> {
        let count = usize::from(self.outbox.timings.indirect_probes);
        if self.outbox.near.is_empty() {
            return self.prober.choose(others, count);
        }
        let (behind, before) = self.around(key, limits::RING_NEIGHBOURS);
        let near = behind.into_iter().chain(before).filter(|other| self.is_near(other));
        let near: BTreeSet<_> = near.filter(|other| others.contains(other)).collect();
        let (first, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(|other| near.contains(other));
        let mut helpers = self.prober.choose(first, count);
        let missing = count - helpers.len();
        helpers.extend(self.choose_near(rest, missing));
        helpers
    }

    /// The share of bystanders that ask a suspect. In a large mesh those look who have a link to the suspect: a handshake takes longer than it has to answer.
    pub(super) fn check_share(&self, key: &NodeKey) -> f64 {
        let near = &self.outbox.near;
        match (near.is_empty(), near.contains_key(key)) {
            (true, _) => CHECKERS / self.live_count().max(1) as f64,
            (false, true) => CHECKERS / near.len() as f64,
            (false, false) => 0.0,
        }
    }

    /// Some of these; those that there are links to, if they are enough and the mesh is large: a handshake takes longer
    /// than what they are wanted for.
    pub(super) fn choose_near(&mut self, mut from: Vec<NodeKey>, count: usize) -> Vec<NodeKey> {
        let near = &self.outbox.near;
        if from.iter().filter(|key| near.contains_key(key)).count() >= count {
            from.retain(|key| near.contains_key(key));
        }
        self.prober.choose(from, count)
    }

    /// The member has answered, directly or through a helper.
    pub(super) fn on_answer(&mut self, from: NodeKey, number: u8, directly: bool) {
        if self.prober.open.get(&number).is_none_or(|probe| probe.key != from) {
            return;
        }
        let Some(probe) = self.prober.open.remove(&number) else {
            return;
        };
        self.health.improve();
        if directly && !probe.again {
            let took = self.now.since(probe.sent);
            self.round_trips.measure(from, took);
            self.effects.push_back(MemberEffect::RoundTrip { key: from, took });
        }
    }

    /// A helper could not reach the member either; when none could, nothing is left to wait for.
    pub(super) fn on_nack(&mut self, from: NodeKey, number: u8) {
        let Some(probe) = self.prober.open.get_mut(&number) else {
            return;
        };
        if probe.helpers.contains(&from) {
            probe.nacks.insert(from);
        }
        if probe.asked > 0 && probe.nacks.len() == usize::from(probe.asked) {
            self.on_missed(number);
        }
    }

    fn on_missed(&mut self, number: u8) {
        let Some(probe) = self.prober.open.remove(&number) else {
            return;
        };
        let silent = probe.helpers.len().saturating_sub(probe.nacks.len());
        let is_alive = self.known.get(&probe.key).is_some_and(|k| k.status == MemberStatus::Alive);
        if probe.why == Why::Turn && is_alive {
            // Helpers that say nothing at all may mean that this node hears nothing at all.
            self.health.worsen(silent as u8);
        }
        let waited_ms = u32::try_from(self.now.since(probe.sent).as_millis()).unwrap_or(u32::MAX);
        let evidence = Evidence::ProbeMissed {
            waited_ms,
            helpers: probe.helpers.len() as u8,
            nacks: probe.nacks.len() as u8,
        };
        self.effects.push_back(MemberEffect::Found { key: probe.key, evidence });
        self.accuse(probe.key, &probe.nacks);
    }

    /// Somebody asks this node to reach a member: it says so if it cannot.
    pub(super) fn on_plea(&mut self, asker: NodeKey, number: u8, target: NodeKey) {
        if self.prober.duties.len() >= limits::PROBES_OPEN_MAX {
            return;
        }
        self.prober.duties.insert((asker, number), target);
        let after = self.wait_in_health(&target) * HELP_SHARE.0 / HELP_SHARE.1;
        let timer = MemberTimer::Duty { asker, number };
        self.effects.push_back(MemberEffect::Timer { after, timer });
    }

    pub(super) fn on_duty_done(&mut self, asker: NodeKey, number: u8) {
        self.prober.duties.remove(&(asker, number));
    }

    pub(super) fn on_duty_over(&mut self, asker: NodeKey, number: u8) {
        if self.prober.duties.remove(&(asker, number)).is_some() {
            let mut note = self.outbox.note.clone();
            note.nacks = vec![number];
            self.send_noted(asker, &note, Message::Gossip, &[]);
        }
    }

    pub(super) fn identity_of(&self, key: &NodeKey) -> Identity {
        Identity::of(*key, self.known.get(key).map_or(crate::core::ids::Incarnation(0), |k| k.incarnation))
    }

    /// Asks a member; one under suspicion is told of it in the same packet, so that its answer refutes.
    fn ping(&mut self, key: NodeKey, number: u8) {
        let suspected = self.known.get(&key).filter(|known| known.status == MemberStatus::Suspect);
        let news: Vec<_> = suspected.map(|known| suspicion_of(key, known)).into_iter().collect();
        self.send_message(key, Message::Ping(number), &news);
    }

    pub(super) fn send_message(
        &mut self,
        to: NodeKey,
        message: Message<Identity>,
        news: &[Member<Identity>],
    ) {
        let note = self.outbox.note.clone();
        self.send_noted(to, &note, message, news);
    }

    /// A packet as foca sends it, but to a member and with news of our choice.
    pub(super) fn send_noted(
        &mut self,
        to: NodeKey,
        note: &packet::Note,
        message: Message<Identity>,
        news: &[Member<Identity>],
    ) {
        let header = Header {
            src: *self.foca.identity(),
            // Our own number of refutations is foca's secret; a lower one is no news to anybody.
            src_incarnation: 0,
            dst: self.identity_of(&to),
            message,
        };
        let mut bytes = Vec::new();
        let encoded = foca::Codec::encode_header(&mut SwimCodec, &header, &mut bytes).and_then(|()| {
            if news.is_empty() {
                return Ok(());
            }
            bytes.put_u16(news.len() as u16);
            news.iter().try_for_each(|member| foca::Codec::encode_member(&mut SwimCodec, member, &mut bytes))
        });
        encoded.expect("plain numbers always encode, and a vector takes them");
        self.noted += 1;
        let packet = self.outbox.seal(&to, note, &bytes);
        self.effects.push_back(MemberEffect::Send { to, packet });
    }
}

/// The news that a member is suspected.
pub(super) fn suspicion_of(key: NodeKey, known: &Known) -> Member<Identity> {
    Member::new(Identity::of(key, known.incarnation), known.refutations, State::Suspect)
}
