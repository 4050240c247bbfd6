//! Who is there: SWIM membership on `foca`, with the parts that it leaves to its user.
//!
//! foca keeps the list, gossips, answers, refutes and renews. This room adds, each because foca alone was seen to fail
//! without it:
//! - its timers go to the mesh's one heap with delays of our own ([`Timings`]), pop in foca's order and
//!   are never dropped;
//! - probes are sent and awaited here, with round trips, helpers that say so when they fail, and a ring
//!   in which everyone is looked at in every period: see [`prober`];
//! - suspicions are timed here, not by foca, which would tell a healthy member that it is down although
//!   it has refuted, and forget a suspicion whose accuser has gone: see [`suspicion`];
//! - this node's own health stretches what it expects of others: see [`health`];
//! - news is checked before foca sees it: its sender against the link's peer, claims at absurd or
//!   outdated incarnations, a "down" below the incarnation that the member has refuted with, a member
//!   that left of its own will and did not come back;
//! - who left of its own will, which foca does not know, travels in the note of each packet;
//! - member lists are exchanged when links form and when their hashes differ ([`Membership::entries`],
//!   [`Membership::apply_entries`]): foca has no state transfer, and islands and healed cuts need one.
//!   "Failed" in somebody's list is a reason to suspect and to tell the member, not a verdict.
//!
//! It does not know names, addresses or links; whoever sends its packets does.
//!
//! Order of calls: any `handle_*` or `apply_*`, then [`Membership::poll`] until `None`.
//! Source of the protocol: Das, Gupta, Motivala, "SWIM", DSN 2002.

mod claims;
mod expulsion;
mod health;
mod identity;
mod lists;
mod packet;
mod prober;
mod round_trips;
mod runtime;
mod suspicion;
mod timings;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Foca, Member, Message, NoCustomBroadcast, PeriodicParams, State, Timer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::claims::is_credible_start;
use self::health::Health;
use self::identity::Identity;
use self::packet::SwimCodec;
use self::prober::Prober;
use self::round_trips::RoundTrips;
use self::runtime::Outbox;
use self::suspicion::Suspicions;
use super::ids::{Incarnation, NodeKey};
use super::limits;
use super::model::{MemberStatus, Overrides, Profile};
use super::time::Instant;

pub(crate) use self::packet::PacketError;
pub(crate) use self::timings::Timings;

/// A timer of this room, kept in the mesh's heap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberTimer {
    /// foca's own.
    Foca(Timer<Identity>),
    /// The next step of the suspicion with this number.
    Suspicion(u64),
    /// The next probe's turn.
    Turn,
    /// The wait of the probe with this number that began then is over.
    Probe(u8, Instant),
    /// A plea of another node to reach somebody for it, under its number, was in vain.
    Duty { asker: NodeKey, number: u8 },
    /// Tell accusations and verdicts on.
    Rumours,
    /// Look for suspicions that nobody ends.
    Sweep,
}

impl MemberTimer {
    /// foca's order among timers that are due at once.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::Probe(..) | Self::Duty { .. } | Self::Foca(Timer::SendIndirectProbe { .. }) => 0,
            Self::Turn | Self::Foca(Timer::ProbeRandomMember(_)) => 1,
            Self::Suspicion(_)
            | Self::Rumours
            | Self::Sweep
            | Self::Foca(Timer::ChangeSuspectToDown { .. }) => 2,
            Self::Foca(Timer::PeriodicAnnounce(_)) => 3,
            Self::Foca(Timer::PeriodicGossip(_)) => 4,
            Self::Foca(Timer::RemoveDown(_)) => 5,
            Self::Foca(Timer::PeriodicAnnounceDown(_)) => 6,
        }
    }
}

/// What this room wants done.
#[derive(Debug)]
pub(crate) enum MemberEffect {
    /// Send this packet.
    Send { to: NodeKey, packet: Vec<u8> },
    /// Call [`Membership::handle_timer`] after this time.
    Timer { after: Duration, timer: MemberTimer },
    /// A member's status or incarnation changed.
    Changed { key: NodeKey, before: Option<Known>, now: Known },
    /// This node had to take a new incarnation, because others held it for failed.
    Renewed,
    /// Others know a later start of this node than it knows itself: its store is older than the mesh's memory.
    OutdatedSelf(Incarnation),
    /// Tell this member that somebody holds it for failed at this incarnation.
    TellHeldForFailed { key: NodeKey, incarnation: Incarnation },
    /// A node left for good: nothing of it is kept.
    Forgotten { key: NodeKey },
    /// A member told its network coordinate.
    Coordinate { key: NodeKey, told: Vec<u8> },
    /// A member answered a probe after this time.
    RoundTrip { key: NodeKey, took: Duration },
    /// Something was found out about a member.
    Found { key: NodeKey, evidence: Evidence },
}

/// What was found out about a member; [`Found`](super::model::Found) with keys for names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Evidence {
    Hint { sign: String },
    ProbeMissed { waited_ms: u32, helpers: u8, nacks: u8 },
    Accused { by: NodeKey },
    Confirmed { by: NodeKey, so_far: u8, wanted: u8 },
    Refuted,
    Failed { by: Option<NodeKey>, suspected_ms: u32, confirmations: u8 },
}

/// What is known of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) incarnation: Incarnation,
    pub(crate) refutations: u16,
    pub(crate) status: MemberStatus,
}

/// The membership of one node.
pub(crate) struct Membership {
    foca: Foca<Identity, SwimCodec, ChaCha8Rng, NoCustomBroadcast>,
    outbox: Outbox,
    effects: VecDeque<MemberEffect>,
    known: BTreeMap<NodeKey, Known>,
    /// Who left of its own will, at which incarnation: not called failed, and not believed alive below it.
    left: BTreeMap<NodeKey, Incarnation>,
    /// Who left for good, at which incarnation. Lists carry it, so that everyone forgets and nobody is told
    /// again of what it forgot; it ends with the process.
    forgotten: BTreeMap<NodeKey, Incarnation>,
    /// Departures still to be told, and how often.
    departures: VecDeque<(NodeKey, Incarnation, u32)>,
    told_held_for_failed: BTreeSet<(NodeKey, Incarnation)>,
    suspicions: Suspicions,
    prober: Prober,
    round_trips: RoundTrips,
    /// Half of the measured members answer within this; looked at once a turn.
    round_trip_median: Option<Duration>,
    health: Health,
    /// Own packets that carried the present note.
    noted: u32,
    profile: Profile,
    overrides: Overrides,
    /// Whose certificate is good no more: see [`expulsion`].
    expelled: BTreeSet<NodeKey>,
    /// The hash of the list as it was last asked for, and this node's incarnation then; `None` since a change.
    entries_hash: Cell<Option<(Incarnation, u64)>>,
    leaving: bool,
    dropped_claims: u64,
    now: Instant,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership").field("self", self.foca.identity()).field("known", &self.known).finish()
    }
}

impl Membership {
    pub(crate) fn new(
        key: NodeKey,
        incarnation: Incarnation,
        profile: Profile,
        overrides: Overrides,
        mut rng: ChaCha8Rng,
    ) -> Self {
        let own_rng = ChaCha8Rng::from_seed(rng.random());
        let timings = Timings::of(profile, &overrides, 0, None);
        let identity = Identity { key, incarnation, renewable: true };
        let mut membership = Self {
            foca: Foca::new(identity, foca_config(&timings), rng, SwimCodec),
            outbox: Outbox::new(timings),
            effects: VecDeque::new(),
            known: BTreeMap::new(),
            left: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            departures: VecDeque::new(),
            told_held_for_failed: BTreeSet::new(),
            suspicions: Suspicions::default(),
            prober: Prober::new(own_rng),
            round_trips: RoundTrips::default(),
            round_trip_median: None,
            health: Health::default(),
            noted: 0,
            profile,
            overrides,
            expelled: BTreeSet::new(),
            entries_hash: Cell::new(None),
            leaving: false,
            dropped_claims: 0,
            now: Instant::ZERO,
        };
        membership.refresh_note();
        membership.set_first_turn();
        membership
    }

    /// It is now so late; everything until the next call happens then.
    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// What is to be done next; call until `None`.
    pub(crate) fn poll(&mut self) -> Option<MemberEffect> {
        self.effects.pop_front()
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.foca.identity().incarnation
    }

    pub(crate) fn known(&self, key: &NodeKey) -> Option<Known> {
        self.known.get(key).copied()
    }

    pub(crate) fn all_known(&self) -> impl ExactSizeIterator<Item = (&NodeKey, &Known)> {
        self.known.iter()
    }

    /// Whom there are links to, in a mesh too large for links to all: gossip goes to these.
    pub(crate) fn set_near(&mut self, keys: Vec<NodeKey>) {
        let alive =
            keys.into_iter().filter(|key| self.known.get(key).is_some_and(|k| k.status.is_reachable()));
        self.outbox.near = alive.map(|key| (key, self.identity_of(&key))).collect();
    }

    /// Members that are alive or suspect, this node excluded.
    pub(crate) fn live_count(&self) -> usize {
        self.foca.num_members()
    }

    /// Claims that were refused before foca saw them.
    pub(crate) fn dropped_claims(&self) -> u64 {
        self.dropped_claims
    }

    /// Takes in a packet that came over the link of `peer`.
    pub(crate) fn handle_packet(&mut self, peer: NodeKey, packet: &[u8]) -> Result<(), PacketError> {
        let opened = packet::open(packet, peer, self.foca.identity().key)?;
        let claimed = opened.header.src.key;
        if claimed != peer {
            return Err(PacketError::WrongSender { claimed, peer });
        }
        if self.leaving {
            return Ok(());
        }
        for (key, incarnation) in &opened.note.left {
            self.peer_left(*key, *incarnation);
        }
        let sender = Member::new(opened.header.src, opened.header.src_incarnation, State::Alive);
        if !self.is_credible(&sender) {
            self.dropped_claims += 1;
            return Ok(());
        }
        let mut room = limits::PEERS_MAX.saturating_sub(self.known.len() + 1);
        // foca gossips at each accusation of this node, though it be refuted since: such are old.
        let mut taken: Vec<bool> = opened.members.iter().map(|(m, _)| self.admits(m, &mut room)).collect();
        let dropped = taken.iter().filter(|taken| !**taken).count();
        for ((member, _), taken) in opened.members.iter().zip(&mut taken) {
            *taken &= !self.is_refuted(member);
        }
        let rebuilt = taken.contains(&false).then(|| opened.rebuilt(&taken));
        self.dropped_claims += dropped as u64;
        self.suspicions.hear(self.now);
        if !opened.note.coordinate.is_empty() {
            let told = opened.note.coordinate.clone();
            self.effects.push_back(MemberEffect::Coordinate { key: peer, told });
        }
        // The origin of a verdict first, so that it is known when the verdict is told.
        let (verdicts, accusations): (Vec<_>, Vec<_>) =
            opened.note.rumours.iter().copied().partition(|rumour| rumour.is_verdict);
        verdicts.into_iter().for_each(|rumour| self.on_accusation(rumour));
        self.outbox.touched.insert(peer);
        self.outbox.touched.extend(opened.members.iter().map(|(m, _)| m.id().key));
        self.notice_outdated_self(opened.members.iter().map(|(m, _)| m.id()));
        let bytes = rebuilt.as_deref().unwrap_or(&opened.foca_bytes);
        // foca refuses what it cannot use (a packet for an earlier identity of ours, an unexpected
        // acknowledgement); that is the protocol's business as usual.
        let refutations = self.outbox.refutations;
        let result = self.foca.handle_data(bytes, &mut self.outbox);
        if self.outbox.refutations > refutations {
            // Others suspect this node: perhaps it is its own fault.
            self.health.worsen(1);
        }
        self.settle("packet", result);
        self.on_message(peer, &opened.header.message);
        accusations.into_iter().for_each(|rumour| self.on_accusation(rumour));
        opened.note.nacks.iter().for_each(|number| self.on_nack(peer, *number));
        Ok(())
    }

    /// What a packet means to this node's probes.
    fn on_message(&mut self, peer: NodeKey, message: &Message<Identity>) {
        match message {
            Message::Ack(number) => self.on_answer(peer, *number, true),
            Message::ForwardedAck { origin, probe_number } => {
                self.on_answer(origin.key, *probe_number, false);
            }
            Message::PingReq { target, probe_number } => self.on_plea(peer, *probe_number, target.key),
            Message::IndirectAck { target, probe_number } => self.on_duty_done(target.key, *probe_number),
            Message::Ping(_)
            | Message::IndirectPing { .. }
            | Message::Announce
            | Message::Feed
            | Message::Gossip
            | Message::Broadcast
            | Message::TurnUndead => {}
        }
    }

    /// Whether a claim is an accusation of this node that it has refuted already.
    fn is_refuted(&self, member: &Member<Identity>) -> bool {
        *member.id() == *self.foca.identity()
            && member.state() == State::Suspect
            && member.incarnation() < self.outbox.refutations
    }

    /// Fires a timer that [`MemberEffect::Timer`] asked for, so much later than it asked.
    pub(crate) fn handle_timer(&mut self, timer: MemberTimer, late: Duration) {
        if self.leaving {
            return;
        }
        match timer {
            MemberTimer::Suspicion(number) => self.on_suspicion_step(number, late),
            MemberTimer::Turn => self.on_turn(late),
            MemberTimer::Probe(number, sent) => self.on_probe_timer(number, sent, late),
            MemberTimer::Duty { asker, number } => self.on_duty_over(asker, number),
            MemberTimer::Rumours => self.on_rumours(),
            MemberTimer::Sweep => self.on_sweep(),
            MemberTimer::Foca(timer) => {
                let result = self.foca.handle_timer(timer, &mut self.outbox);
                self.settle("timer", result);
            }
        }
    }

    /// A member left of its own will at `incarnation`. One that was not known is known as gone from here
    /// on, so that all lists agree.
    pub(crate) fn peer_left(&mut self, key: NodeKey, incarnation: Incarnation) {
        let known = self.known.get(&key).copied();
        let outdated = known.is_some_and(|known| known.incarnation > incarnation)
            || self.left.get(&key).is_some_and(|at| *at >= incarnation)
            || self.is_forgotten(&key, incarnation)
            || key == self.foca.identity().key;
        if outdated {
            return;
        }
        let before = known.map_or(Incarnation(0), |known| known.incarnation);
        if !is_credible_start(before, incarnation) || (known.is_none() && self.is_full()) {
            self.dropped_claims += 1;
            return;
        }
        self.left.insert(key, incarnation);
        let timings = &self.outbox.timings;
        let packets = u32::from(timings.transmissions) * u32::from(timings.gossip_fanout);
        self.departures.push_back((key, incarnation, packets));
        let refutations = known.map_or(0, |known| known.refutations);
        let down = Member::new(Identity::of(key, incarnation), refutations, State::Down);
        self.outbox.touched.insert(key);
        // The departure travels in our notes; as foca's "down" it would arrive first as a failure.
        let result = self.foca.apply_many([down].into_iter(), false, &mut self.outbox);
        self.settle("departure", result);
    }

    /// Forgets a member that left for good at `incarnation`; a later incarnation of it is a new member.
    pub(crate) fn forget(&mut self, key: NodeKey, incarnation: Incarnation) {
        let known = self.known.get(&key).copied();
        let before = known.map_or(Incarnation(0), |known| known.incarnation);
        let outdated = before > incarnation || self.is_forgotten(&key, incarnation);
        if outdated || !is_credible_start(before, incarnation) || self.forgotten.len() >= FORGOTTEN_MAX {
            return;
        }
        if known.is_some() {
            self.peer_left(key, incarnation);
            let down = Timer::RemoveDown(Identity::of(key, incarnation));
            let result = self.foca.handle_timer(down, &mut self.outbox);
            self.known.remove(&key);
            self.entries_hash.set(None);
            self.settle("forgotten", result);
        }
        self.left.remove(&key);
        self.prober.forget(&key);
        self.outbox.modern.remove(&key);
        self.outbox.places.remove(&key);
        self.round_trips.forget(&key);
        self.suspicions.forget(&key);
        self.departures.retain(|(gone, _, _)| *gone != key);
        self.forgotten.insert(key, incarnation);
        self.effects.push_back(MemberEffect::Forgotten { key });
    }

    /// Whether this incarnation of a node, or a later one, left for good.
    pub(crate) fn is_forgotten(&self, key: &NodeKey, incarnation: Incarnation) -> bool {
        self.forgotten.get(key).is_some_and(|at| *at >= incarnation)
    }

    fn is_full(&self) -> bool {
        self.known.len() >= limits::PEERS_MAX
    }

    /// From now on this node says nothing and answers nothing: it has told the others that it leaves.
    pub(crate) fn leave(&mut self) {
        self.leaving = true;
        self.entries_hash.set(None);
        self.effects.clear();
    }

    /// Takes a later incarnation, because others know a later start of this node.
    pub(crate) fn restart_as(&mut self, incarnation: Incarnation) {
        if incarnation <= self.incarnation() {
            return;
        }
        self.outbox.refutations = 0;
        let identity = Identity { key: self.foca.identity().key, incarnation, renewable: true };
        let result = self.foca.change_identity(identity, &mut self.outbox);
        self.outbox.renewed = true;
        self.outbox.defunct = false;
        self.settle("restart", result);
    }

    /// Tells `key` directly that this node is there.
    pub(crate) fn announce(&mut self, key: NodeKey) {
        let to = Identity::of(key, self.known.get(&key).map_or(Incarnation(0), |k| k.incarnation));
        let result = self.foca.announce(to, &mut self.outbox);
        self.settle("announce", result);
    }

    /// After each call of foca: keep our view, our timings and our effects in step with it.
    fn settle(&mut self, what: &'static str, result: Result<(), foca::Error>) {
        if let Err(error) = result {
            tracing::trace!(what, %error, "gossip refused");
        }
        for key in std::mem::take(&mut self.outbox.touched) {
            self.compare(key);
        }
        if std::mem::take(&mut self.outbox.renewed) {
            self.outbox.refutations = 0;
            self.effects.push_back(MemberEffect::Renewed);
        }
        if std::mem::take(&mut self.outbox.defunct) && !self.leaving {
            // The block of incarnations is used up: continue in a new one, once it is durable.
            self.effects.push_back(MemberEffect::OutdatedSelf(self.incarnation()));
        }
        let packets = std::mem::take(&mut self.outbox.packets);
        self.noted += packets.len() as u32;
        self.refresh_note();
        for (to, packet) in packets {
            self.effects.push_back(MemberEffect::Send { to, packet });
        }
        for (after, timer) in std::mem::take(&mut self.outbox.timers) {
            self.effects.push_back(MemberEffect::Timer { after, timer: MemberTimer::Foca(timer) });
        }
        self.follow_size();
    }

    fn compare(&mut self, key: NodeKey) {
        if key == self.foca.identity().key {
            return;
        }
        let Some(member) = self.foca.iter_membership_state().find(|m| m.id().key == key) else {
            return;
        };
        let incarnation = member.id().incarnation;
        let status = match member.state() {
            State::Alive => MemberStatus::Alive,
            State::Suspect => MemberStatus::Suspect,
            State::Down if self.left.get(&key).is_some_and(|at| *at >= incarnation) => MemberStatus::Left,
            State::Down => MemberStatus::Failed,
        };
        self.forgotten.remove(&key);
        let now = Known { incarnation, refutations: member.incarnation(), status };
        let before = self.known.insert(key, now);
        self.entries_hash.set(None);
        if let Some(near) = self.outbox.near.get_mut(&key) {
            *near = Identity::of(key, incarnation);
        }
        if !status.is_reachable() {
            self.outbox.near.remove(&key);
        }
        if before.is_none() {
            self.prober.add(key);
        }
        let lived = before.is_some_and(|b| b.incarnation.start() == now.incarnation.start());
        if !lived {
            self.prober.let_off(&key);
        }
        if lived && before.is_some_and(|b| b.status == MemberStatus::Failed) && status.is_reachable() {
            self.suspicions.note_flap(key, self.now);
        }
        self.follow_suspicion(key, before, now);
        if before.is_none_or(|b| (b.incarnation, b.status) != (now.incarnation, now.status)) {
            self.effects.push_back(MemberEffect::Changed { key, before, now });
        }
    }

    /// Counts the packets that carried the present note, and puts what is to be told next into it.
    fn refresh_note(&mut self) {
        let packets_sent = std::mem::take(&mut self.noted);
        if packets_sent > 0 {
            let told = std::mem::take(&mut self.outbox.note);
            self.suspicions.told(&told.rumours, packets_sent);
            for (key, incarnation) in told.left {
                let Some(at) = self.departures.iter().position(|d| (d.0, d.1) == (key, incarnation)) else {
                    continue;
                };
                let Some((_, _, left)) = self.departures.remove(at) else {
                    continue;
                };
                if left > packets_sent {
                    self.departures.push_back((key, incarnation, left - packets_sent));
                }
            }
        }
        let next = self.departures.iter().take(packet::DEPARTURES_PER_PACKET_MAX);
        self.outbox.note = packet::Note {
            left: next.map(|d| (d.0, d.1)).collect(),
            rumours: self.suspicions.next_rumours(),
            nacks: Vec::new(),
            health: Some(self.health.score()),
            coordinate: Vec::new(),
        };
    }

    fn follow_size(&mut self) {
        let live = self.foca.num_members();
        let timings = Timings::of(self.profile, &self.overrides, live, self.round_trip_median);
        if timings == self.outbox.timings {
            return;
        }
        self.outbox.timings = timings;
        // The probe period and timeout that foca holds are never used (see `prober`); the rest may change.
        self.foca.set_config(foca_config(&timings)).expect("only fields that foca lets change differ");
    }
}

/// What is forgotten, beyond which it is not told to others: a whole list still fits into a frame.
const FORGOTTEN_MAX: usize = limits::MEMBERS_PER_FRAME_MAX - limits::PEERS_MAX - 1;

fn foca_config(timings: &Timings) -> foca::Config {
    let at_least_one = |n: u8| NonZeroUsize::new(n.max(1).into()).expect("at least one");
    foca::Config {
        // Fixed for foca's life, and never used: this room probes by itself (see `prober`).
        probe_period: Duration::from_secs(1),
        probe_rtt: Duration::from_millis(500),
        num_indirect_probes: at_least_one(timings.indirect_probes),
        max_transmissions: NonZeroU8::new(timings.transmissions.max(1)).expect("at least one"),
        suspect_to_down_after: timings.suspicion_max,
        // Never: who failed is called again until it is back or removed, see `links`.
        remove_down_after: None,
        max_packet_size: NonZeroUsize::new(packet::FOCA_BYTES_MAX).expect("a packet has room"),
        notify_down_members: true,
        // Member lists do what announcing would, and faster.
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams {
            frequency: timings.gossip_interval,
            num_members: at_least_one(timings.gossip_fanout),
        }),
    }
}

#[cfg(test)]
mod tests;
