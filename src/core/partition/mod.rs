//! Partitions: whether this node is among a majority of the voters, and what it may do while it is not.
//!
//! `Joining -> Healthy -> Degraded -> Recovering -> Healthy`. Each voter says every quarter of the detection time
//! that it is there: a numbered beat. A voter is reachable while a beat that was new came within the detection time
//! and gossip does not call it failed or left. What makes a quorum, the roster says; only a voter counts itself.
//!
//! | mode | left when |
//! |---|---|
//! | joining | a quorum is heard, the node is as far as a quorum and as every other member that it reaches |
//! | healthy | no quorum is heard, or the node doubts itself |
//! | degraded | a quorum was heard for a moment without a break and no doubt is left |
//! | recovering | as joining; or as healthy, back to degraded |
//!
//! A node that falls several times within [`limits::FLAP_WINDOW`] must see the quorum for twice as long each time.
//! After a pause of the process nothing that it heard before counts, and nothing that comes in the first quarter of
//! the detection time either: it may have waited in a buffer. As that is no proof for what waited longer, only a
//! synchronisation, which asks the others anew, leads back to healthy.
//!
//! Members that do not vote send no beats. Whether they are reachable, gossip says; a synchronisation waits for
//! them for [`limits::SYNCHRONISATION_PATIENCE`] at most, because gossip also knows nodes that this one cannot talk
//! to. In the same way it waits for voters that gossip calls alive until their first beat is overdue, and no longer for
//! anybody in a mesh too large for links between all: there a node has compared with its neighbours by then, and the
//! rest goes from neighbour to neighbour.
//!
//! A node that the roster does not name is joining, whatever it hears.
//!
//! What it does not do: it neither sends nor synchronises nor runs a command, it says when; and until the detection
//! time has passed both sides of a new partition are healthy. While a network is cut now here and now there, a node
//! may count voters that it never heard at one moment; the time runs from the last change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use self::beats::Beats;
use self::handler::Handler;
use super::ids::NodeId;
use super::limits;
use super::model::{
    Action, Doubt, DoubtKind, Electorate, MemberStatus, Mode, ModeReason, PartitionConfig, PartitionView,
    Permissions, Roster, Strategy,
};
use super::time::Instant;

mod beats;
mod handler;
mod sides;
#[cfg(test)]
mod tests;

pub use sides::sides;

/// What this room wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionEffect {
    /// The node's mode is another one.
    ModeChanged {
        /// What it was.
        from: Mode,
        /// What it is.
        to: Mode,
        /// Why.
        reason: ModeReason,
    },
    /// Compare what this node knows with every member that it reaches, from now on, and report each that it is as
    /// far as with [`Partition::handle_synchronised`]. An earlier round is over.
    Synchronise {
        /// Names the round.
        round: u64,
    },
    /// Run the configured command; answered by [`Partition::handle_decision`].
    AskHandler {
        /// Names the answer.
        question: u64,
        /// What the command is told.
        view: PartitionView,
    },
    /// Tell all nodes that this voter is there.
    Beat {
        /// Counts the beats of this process, from 1.
        number: u64,
    },
}

/// The detector of partitions of one node.
///
/// Order of calls: any input, then [`poll`](Self::poll) until `None`, then
/// [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) says. Without a roster it
/// stays joining.
#[derive(Debug)]
pub struct Partition {
    own: NodeId,
    config: PartitionConfig,
    roster: Option<Roster>,
    /// Of that roster; nobody while there is none.
    electorate: Electorate,
    liveness: BTreeMap<NodeId, MemberStatus>,
    beats: Beats,
    /// The voters that are reachable, this node among them if it votes.
    reachable: BTreeSet<NodeId>,
    state: State,
    doubts: BTreeMap<DoubtKind, Doubt>,
    falls: Falls,
    /// When a majority was last heard, as far as this node kept up with it.
    majority_heard: Option<Instant>,
    handler: Handler,
    /// When it was last called.
    seen: Instant,
    next_tick: Instant,
    next_beat: Instant,
    /// Beats until then may be older than they seem.
    deaf_until: Instant,
    rounds: u64,
    beat_number: u64,
    changes: VecDeque<PartitionEffect>,
    synchronise: Option<u64>,
    beat: Option<u64>,
}

#[derive(Debug)]
enum State {
    Joining(Synchronisation),
    Healthy,
    Degraded {
        /// Since when a quorum is heard without a break.
        quorum_since: Option<Instant>,
    },
    Recovering(Synchronisation),
}

#[derive(Debug)]
struct Synchronisation {
    round: u64,
    since: Instant,
    with: BTreeSet<NodeId>,
}

/// How often the node fell of late.
#[derive(Debug, Default)]
struct Falls {
    last: Option<Instant>,
    repeated: u32,
}

impl Partition {
    /// The detector of a process that has just started.
    #[must_use]
    pub fn new(own: NodeId, config: PartitionConfig, now: Instant) -> Self {
        let first = Synchronisation { round: 1, since: now, with: BTreeSet::new() };
        Self {
            own,
            config,
            roster: None,
            electorate: Electorate::default(),
            liveness: BTreeMap::new(),
            beats: Beats::default(),
            reachable: BTreeSet::new(),
            state: State::Joining(first),
            doubts: BTreeMap::new(),
            falls: Falls::default(),
            majority_heard: None,
            handler: Handler::default(),
            seen: now,
            next_tick: now,
            next_beat: now,
            deaf_until: now,
            rounds: 1,
            beat_number: 0,
            changes: VecDeque::new(),
            synchronise: Some(1),
            beat: None,
        }
    }

    /// The node's mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.state {
            State::Joining(_) => Mode::Joining,
            State::Healthy => Mode::Healthy,
            State::Degraded { .. } => Mode::Degraded,
            State::Recovering(_) => Mode::Recovering,
        }
    }

    /// What the node may do at present.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        Permissions::of(self.mode(), &self.config, self.action())
    }

    /// How old that may be which this node knows of what is shared: the time since it last heard a majority.
    /// While it is degraded or recovering it may hear one again, and is no younger for that before it has caught up.
    /// `None`: never since the process started.
    #[must_use]
    pub fn age(&self, now: Instant) -> Option<Duration> {
        Some(now.since(self.majority_heard?))
    }

    /// The voters that are reachable, this node among them if it votes.
    #[must_use]
    pub fn reachable(&self) -> &BTreeSet<NodeId> {
        &self.reachable
    }

    /// The doubts that last.
    pub fn doubts(&self) -> impl Iterator<Item = &Doubt> {
        self.doubts.values()
    }

    /// The situation as the node sees it.
    #[must_use]
    pub fn view(&self, now: Instant) -> PartitionView {
        let voters = self.roster.iter().flat_map(Roster::voters);
        PartitionView {
            node: self.own.clone(),
            mode: self.mode(),
            voter: self.votes(),
            reachable: self.reachable.clone(),
            unreachable: voters.filter(|node| !self.reachable.contains(*node)).cloned().collect(),
            quorum: self.roster.as_ref().map_or(0, Roster::quorum),
            age_ms: self.age(now).map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Takes in who should exist and who votes.
    pub fn set_roster(&mut self, roster: &Roster, now: Instant) {
        self.on_now(now);
        let voted = self.votes();
        let was_member = self.is_member();
        self.roster = Some(roster.clone());
        self.electorate = roster.electorate();
        if was_member != self.is_member() {
            self.on_membership(now);
        }
        self.beats.retain(|node| roster.is_voter(node));
        if self.votes() && !voted {
            self.next_beat = now;
        }
        self.evaluate(now);
    }

    /// Takes in what gossip believes of the other nodes: all of them, not only what changed.
    pub fn set_liveness(&mut self, liveness: BTreeMap<NodeId, MemberStatus>, now: Instant) {
        self.on_now(now);
        self.liveness = liveness;
        self.evaluate(now);
    }

    /// Takes in a beat, the `number`th of the `start`th process of `from`. One that is not newer than the last, or
    /// not of a voter, counts for nothing. A node that comes back with an older store, and so with an earlier start,
    /// stays unheard until it has learnt its number.
    /// `heard` is when it came to whoever heard it first; `None`: not known, or before this process began.
    /// Whether it was a new one.
    pub fn handle_beat(
        &mut self,
        from: &NodeId,
        (start, number): (u64, u64),
        heard: Option<Instant>,
        now: Instant,
    ) -> bool {
        self.on_now(now);
        if *from == self.own || !self.electorate.has(from) {
            return false;
        }
        let heard = heard.filter(|heard| *heard >= self.deaf_until);
        let is_new = self.beats.take_in(from, (start, number), heard);
        if is_new {
            self.evaluate(now);
        }
        is_new
    }

    /// When the last beat of this voter came to whoever heard it first, as far as is known.
    #[must_use]
    pub fn heard(&self, voter: &NodeId) -> Option<Instant> {
        self.beats.heard(voter)
    }

    /// Takes in that this node is as far as `with` was when or after the round began.
    pub fn handle_synchronised(&mut self, round: u64, with: &NodeId, now: Instant) {
        self.on_now(now);
        let is_member = self.roster.as_ref().is_some_and(|roster| roster.members.contains_key(with));
        match &mut self.state {
            State::Joining(under_way) | State::Recovering(under_way)
                if under_way.round == round && is_member =>
            {
                under_way.with.insert(with.clone());
                self.evaluate(now);
            }
            State::Joining(_) | State::Recovering(_) | State::Healthy | State::Degraded { .. } => {}
        }
    }

    /// Takes in that the node should not trust itself: it degrades at once.
    pub fn doubt(&mut self, doubt: Doubt, now: Instant) {
        self.on_now(now);
        self.on_doubt(doubt, now);
        self.evaluate(now);
    }

    /// Takes back a doubt that lasts.
    pub fn doubt_over(&mut self, kind: DoubtKind, now: Instant) {
        self.on_now(now);
        if self.doubts.remove(&kind).is_some()
            && let State::Degraded { quorum_since } = &mut self.state
        {
            *quorum_since = None;
        }
        self.evaluate(now);
    }

    /// Takes in what the command decided, or why it did not. An answer to an earlier question, or after its time,
    /// is outdated.
    pub fn handle_decision(&mut self, question: u64, decision: Result<Action, String>, now: Instant) {
        self.on_now(now);
        self.handler.on_answer(question, decision, now);
        self.evaluate(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.on_now(now);
        if self.votes() && now >= self.next_beat {
            self.beat_number += 1;
            self.beat = Some(self.beat_number);
            self.next_beat = now + self.beat_interval();
        }
        self.handler.on_time(now);
        self.evaluate(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let hold_ends = match self.state {
            State::Degraded { quorum_since: Some(since) } => Some(since + self.hold()),
            State::Degraded { quorum_since: None }
            | State::Joining(_)
            | State::Healthy
            | State::Recovering(_) => None,
        };
        let beat = self.votes().then_some(self.next_beat);
        let expiry = self.beats.next_expiry(self.config.detection_timeout, self.seen);
        let ahead =
            [hold_ends, expiry, self.handler.deadline()].into_iter().flatten().filter(|at| *at > self.seen);
        ahead.chain(beat).chain([self.next_tick]).min().expect("there is always a next tick")
    }

    /// What is to be done next; the changes of the mode first.
    pub fn poll(&mut self) -> Option<PartitionEffect> {
        if let Some(change) = self.changes.pop_front() {
            return Some(change);
        }
        if let Some(round) = self.synchronise.take() {
            return Some(PartitionEffect::Synchronise { round });
        }
        if let Some((question, view)) = self.handler.take_question() {
            return Some(PartitionEffect::AskHandler { question, view });
        }
        self.beat.take().map(|number| PartitionEffect::Beat { number })
    }

    /// The process may have stood still: what follows from that is drawn before anything else is asked.
    pub fn wake(&mut self, now: Instant) {
        self.on_now(now);
    }

    /// Every input passes here first: one that comes long after a timer was due follows a pause.
    fn on_now(&mut self, now: Instant) {
        let late = now.since(self.poll_timeout());
        self.seen = self.seen.max(now);
        if late > limits::PAUSE_MAX {
            self.on_doubt(Doubt::LoopLate(late), now);
        }
        if now >= self.next_tick {
            self.next_tick = now + self.beat_interval().min(limits::PAUSE_MAX);
        }
    }

    fn on_doubt(&mut self, doubt: Doubt, now: Instant) {
        if let Doubt::LoopLate(_) = doubt {
            self.note_majority();
            self.beats.unhear();
            self.deaf_until = now + self.beat_interval();
        }
        if let Some(kind) = doubt.kind() {
            self.doubts.insert(kind, doubt.clone());
        }
        match &mut self.state {
            State::Joining(_) => {
                let anew = self.begin_synchronisation(now);
                self.state = State::Joining(anew);
            }
            State::Healthy | State::Recovering(_) => self.become_degraded(ModeReason::Doubt(doubt), now),
            State::Degraded { quorum_since } => *quorum_since = None,
        }
    }

    /// Only members are told of writes: whoever becomes one may have missed some, and whoever is none any more will.
    fn on_membership(&mut self, now: Instant) {
        let anew = self.begin_synchronisation(now);
        let round = self.synchronise;
        match self.state {
            State::Joining(_) => self.state = State::Joining(anew),
            State::Healthy | State::Degraded { .. } | State::Recovering(_) => {
                self.note_majority();
                self.enter(State::Joining(anew), ModeReason::NoMember);
            }
        }
        self.synchronise = round;
    }

    /// Draws the conclusions from what is known.
    fn evaluate(&mut self, now: Instant) {
        if self.roster.is_none() {
            return;
        }
        let own = self.votes().then(|| self.own.clone());
        let heard = self.beats.heard_within(self.config.detection_timeout, now);
        self.reachable = heard.filter(|node| !self.is_failed(node)).cloned().chain(own).collect();
        let quorum = self.electorate.is_quorum(&self.reachable);
        self.note_majority();
        // From degraded to healthy are two steps; a fall is one.
        for _ in 0..2 {
            self.step(quorum, now);
        }
        self.consult(now);
    }

    fn step(&mut self, quorum: bool, now: Instant) {
        match &self.state {
            State::Joining(under_way) => {
                if quorum && self.doubts.is_empty() && self.is_complete(under_way, now) {
                    self.become_healthy(now);
                }
            }
            State::Healthy | State::Recovering(_) if !quorum => self.become_degraded(self.quorum_lost(), now),
            State::Healthy => {}
            State::Recovering(under_way) => {
                if self.is_complete(under_way, now) {
                    self.become_healthy(now);
                }
            }
            State::Degraded { quorum_since } => {
                let since = quorum.then(|| quorum_since.unwrap_or(now));
                self.state = State::Degraded { quorum_since: since };
                let held = since.is_some_and(|since| now >= since + self.hold());
                if held && self.doubts.is_empty() {
                    self.become_recovering(now);
                }
            }
        }
    }

    /// Whether the node is as far as a quorum, itself among it, and as every other member that it reaches.
    fn is_complete(&self, under_way: &Synchronisation, now: Instant) -> bool {
        let Some(roster) = &self.roster else {
            return false;
        };
        if !self.is_member() {
            return false;
        }
        let mut with = under_way.with.clone();
        with.insert(self.own.clone());
        let is_awaited = |node: &NodeId| {
            let all_are_linked = roster.members.len() <= limits::FULL_MESH_NODES_MAX;
            let patience = match self.electorate.has(node) || !all_are_linked {
                true => self.config.detection_timeout,
                false => limits::SYNCHRONISATION_PATIENCE,
            };
            let may_be_there = self.liveness.get(node).is_some_and(|status| status.is_reachable());
            self.reachable.contains(node) || (may_be_there && now.since(under_way.since) < patience)
        };
        self.electorate.is_quorum(&with)
            && roster.members.keys().all(|node| with.contains(node) || !is_awaited(node))
    }

    fn become_healthy(&mut self, now: Instant) {
        self.majority_heard = Some(now);
        self.enter(State::Healthy, ModeReason::Synchronised);
    }

    fn become_degraded(&mut self, reason: ModeReason, now: Instant) {
        self.falls.on_fall(now);
        self.enter(State::Degraded { quorum_since: None }, reason);
    }

    fn become_recovering(&mut self, now: Instant) {
        let anew = self.begin_synchronisation(now);
        self.enter(State::Recovering(anew), ModeReason::QuorumHeard);
    }

    fn enter(&mut self, state: State, reason: ModeReason) {
        let from = self.mode();
        self.state = state;
        let to = self.mode();
        self.synchronise =
            self.synchronise.filter(|_| matches!(self.state, State::Joining(_) | State::Recovering(_)));
        if self.changes.len() < limits::MODE_CHANGES_MAX {
            self.changes.push_back(PartitionEffect::ModeChanged { from, to, reason });
            return;
        }
        if let Some(PartitionEffect::ModeChanged { to: last, reason: why, .. }) = self.changes.back_mut() {
            (*last, *why) = (to, reason);
        }
    }

    fn begin_synchronisation(&mut self, now: Instant) -> Synchronisation {
        self.rounds += 1;
        self.synchronise = Some(self.rounds);
        Synchronisation { round: self.rounds, since: now, with: BTreeSet::new() }
    }

    /// Notes until when a majority was heard, before that is forgotten.
    fn note_majority(&mut self) {
        let (Some(_), State::Healthy) = (&self.roster, &self.state) else {
            return;
        };
        let own = self.votes().then_some(&self.own);
        let heard = self.beats.majority_heard(&self.electorate, own, self.seen);
        self.majority_heard = self.majority_heard.max(heard);
    }

    /// Asks the configured command where there is one, and forgets its answer once that is of no more use.
    fn consult(&mut self, now: Instant) {
        let Strategy::Handler { .. } = self.config.strategy else {
            return;
        };
        match self.state {
            State::Joining(_) | State::Healthy => self.handler.forget(),
            State::Degraded { .. } | State::Recovering(_) => {
                let view = self.view(now);
                self.handler.consult(view, now);
            }
        }
    }

    /// What a custom strategy restricts the node to.
    fn action(&self) -> Action {
        match &self.config.strategy {
            Strategy::Consistency | Strategy::Availability => Action::ReadOnly,
            Strategy::Handler { .. } => self.handler.action(),
            Strategy::Decisions(decisions) => {
                let quorum = self.electorate.quorum();
                let nodes = self.reachable.len();
                let first = decisions.iter().find(|decision| decision.condition.holds(nodes, quorum));
                first.map_or(Action::ReadOnly, |decision| decision.action)
            }
        }
    }

    fn quorum_lost(&self) -> ModeReason {
        let (voters, quorum) = (self.electorate.voter_count(), self.electorate.quorum());
        ModeReason::QuorumLost { reachable: self.reachable.len(), voters, quorum }
    }

    fn votes(&self) -> bool {
        self.electorate.has(&self.own)
    }

    fn is_member(&self) -> bool {
        self.roster.as_ref().is_some_and(|roster| roster.members.contains_key(&self.own))
    }

    fn is_failed(&self, node: &NodeId) -> bool {
        self.liveness.get(node).is_some_and(|status| !status.is_reachable())
    }

    fn beat_interval(&self) -> Duration {
        self.config.detection_timeout / 4
    }

    /// For how long a quorum must be heard without a break: half the detection time, doubled with each fall.
    fn hold(&self) -> Duration {
        let first = self.config.detection_timeout / 2;
        let grown = first.saturating_mul(1 << self.falls.repeated);
        grown.min(limits::HOLD_DOWN_MAX.max(first))
    }
}

impl Falls {
    fn on_fall(&mut self, now: Instant) {
        /// 2 to this power is far beyond the bound of any hold-down.
        const REPEATED_MAX: u32 = 16;
        let flapping = self.last.is_some_and(|last| now.since(last) < limits::FLAP_WINDOW);
        self.repeated = if flapping { (self.repeated + 1).min(REPEATED_MAX) } else { 0 };
        self.last = Some(now);
    }
}
