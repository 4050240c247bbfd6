//! What the nodes share: the replicated state, the register, and whether this node is among a majority.
//!
//! - `agreement`: the register and its lease, the steward, the mode
//! - `beats`: who tells whom that the voters are there
//! - `writes`: local writes, the queue of those that wait for a majority, what the disk says
//! - `spread`: writes on their way to the others, and theirs to this node
//! - `repair`: comparing with a peer, and taking over what differs
//! - `reconcile`, `mend`: the same for an operator, with all nodes; and keys that have come apart
//! - `floor`: what every member has on its disk
//! - `bases`: clocks in few bytes, told beyond a floor
//! - `answers`: what clients are told
//! - `clocks`: this node's wall clock beside those of the others
//! - `disk`: what is done about a disk that fails, or says nothing
//! - `view`: what those see who watch that all of it holds
//!
//! Nothing here is told to a node that does not belong to this mesh; links of such are not proven.

mod agreement;
mod answers;
mod bases;
mod beats;
mod clocks;
mod disk;
mod farewell;
#[cfg(test)]
mod flaws;
mod floor;
mod mend;
mod reconcile;
mod repair;
mod spread;
mod view;
mod writes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::RngExt;

use self::bases::Bases;
use self::beats::Heard;
use self::clocks::Clocks;
use self::disk::Disk;
use self::farewell::Farewell;
#[cfg(test)]
pub(crate) use self::flaws::Flaw;
use self::floor::Floors;
use self::mend::Mending;
use self::reconcile::Comparing;
use self::repair::{Asked, Serving};
pub use self::view::SharedView;
use self::writes::{Awaiting, Confirming};
pub(super) use self::writes::{By, Durable};
use super::lineage::is_row_of_lineage;
use super::starts::is_row_of_starts;
use super::{Mesh, Requester, Timer};
use crate::core::contract::{Boot, Table};
use crate::core::ids::{LinkId, NodeId, NodeKey};
use crate::core::limits;
use crate::core::model::{Doubt, DoubtKind, Hlc, Mode, PartitionConfig, Roster, Writes};
use crate::core::partition::Partition;
use crate::core::permits::is_row_of_permits;
use crate::core::queue::{Pace, Queue, QueueBounds};
use crate::core::register::{LeaseView, Register, RegisterError, StoreState};
use crate::core::state::State;
use crate::core::time::Instant;
use crate::core::wire::{Control, SharedSummary};

/// How often what is due now and then is looked at.
const TICK: Duration = Duration::from_millis(250);

/// Everything of it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: State,
    register: Register,
    partition: Partition,
    config: PartitionConfig,
    queue: Queue,
    /// Who holds the lease, as the register or a beat has told.
    lease: LeaseView,
    leader: Option<(NodeId, Instant)>,
    /// Milliseconds since 1970 at the core's time zero.
    wall_offset_ms: i128,
    /// The same for the ages of queued writes. It follows the wall clock, but no large step of it: a clock that is set
    /// forward by a day does not make every queued write a day older. A process that starts later takes the wall
    /// clock as it finds it.
    queue_offset_ms: i128,
    /// The operator has been told where the file's settings differ from the roster's.
    compared_with_file: bool,
    /// Whether a bootstrap of the register is wanted as soon as the mesh's id is stored.
    bootstraps: bool,
    /// Who is told when the roster of a new chain that an operator asked for is on the disk.
    begun_for: Option<super::Requester>,
    /// The store had nothing of the mesh when this process began.
    is_blank: bool,
    /// The process start that beats are counted within; it is raised when the mesh knows a later one.
    start: u64,
    /// The process start by this node's own store: queued writes of earlier ones were found there.
    first_start: u64,
    /// The hybrid time of the last write that was queued: no two have one time.
    queued_hlc: Hlc,
    /// For the timer heap: the earliest deadline that is in it.
    armed: Option<Instant>,
    next_tick: Instant,
    tokens: u64,
    /// When what others wrote is given to the disk at the latest; `None`: nothing is there.
    flush_due: Option<Instant>,
    flushing: bool,
    disk: Disk,
    clocks: Clocks,
    floors: Floors,
    bases: Bases,
    asked: BTreeMap<NodeKey, Asked>,
    serving: BTreeMap<(NodeKey, u64), Serving>,
    /// The round of comparisons that the mode waits for, and with whom it is done.
    round: Option<(u64, BTreeSet<NodeKey>)>,
    comparing: Option<Comparing>,
    mending: Option<Mending>,
    /// A whole comparison with a member has been made by this process.
    synchronised: bool,
    confirming: VecDeque<Confirming>,
    awaiting: VecDeque<Awaiting>,
    /// Who is told as soon as what was taken in is on the disk.
    acks_due: BTreeSet<NodeKey>,
    heard: Heard,
    proposals: BTreeMap<u64, Option<Requester>>,
    proposed: Option<Instant>,
    away_since: BTreeMap<NodeId, Instant>,
    /// Members that have left the mesh for good and are still in the roster.
    departed: BTreeSet<NodeId>,
    /// This node is about to leave its mesh for good.
    farewell: Option<Farewell>,
    /// Members that are about to do so, since when.
    going: BTreeMap<NodeKey, Instant>,
    /// This node has left its mesh for good: nothing of it is stored any more.
    pub(super) has_left: bool,
    /// What the register wanted to be stored since.
    forgone: Option<u64>,
    gap_since: Option<Instant>,
    writes_made: u64,
    refused: u64,
    /// How fast writes are told to others, and how often one of them was not.
    deltas: Pace,
    held_back: u64,
    reason: String,
}

impl Shared {
    pub(super) fn new(
        boot: &Boot,
        state: State,
        life: u64,
        now: Instant,
    ) -> (Self, Vec<crate::core::contract::Change>) {
        let remembered = &boot.remembered;
        let own = boot.card.node_id.clone();
        let rows = |table| remembered.tables.get(&table).map(Vec::as_slice).unwrap_or_default();
        let is_forgotten = rows(Table::Register)
            .iter()
            .all(|(key, _)| is_row_of_starts(key) || is_row_of_lineage(key) || is_row_of_permits(key));
        let doubtful = remembered.rebuilt || is_forgotten;
        let store = if doubtful { StoreState::Doubtful } else { StoreState::Whole };
        let restored =
            Queue::restore(own.clone(), remembered.start, QueueBounds::default(), rows(Table::Queue));
        if restored.unreadable > 0 {
            tracing::error!(
                rows = restored.unreadable,
                "queued writes that this version does not understand are left alone"
            );
        }
        let begins = matches!(boot.start, crate::core::contract::StartMode::Bootstrap { .. });
        let shared = Self {
            state,
            register: Register::new(own.clone(), rows(Table::Register), store, life, now),
            partition: Partition::new(own, boot.partition.clone(), now),
            config: boot.partition.clone(),
            queue: restored.queue,
            lease: LeaseView::Nobody,
            leader: None,
            wall_offset_ms: i128::from(boot.unix_ms) - i128::from(now.as_nanos() / 1_000_000),
            queue_offset_ms: i128::from(boot.unix_ms) - i128::from(now.as_nanos() / 1_000_000),
            compared_with_file: false,
            bootstraps: begins && !remembered.rebuilt,
            begun_for: None,
            is_blank: doubtful,
            start: remembered.start,
            first_start: remembered.start,
            queued_hlc: Hlc::default(),
            armed: None,
            next_tick: now,
            tokens: 0,
            flush_due: None,
            flushing: false,
            disk: Disk::default(),
            clocks: Clocks::default(),
            floors: Floors::default(),
            bases: Bases::default(),
            asked: BTreeMap::new(),
            serving: BTreeMap::new(),
            round: None,
            comparing: None,
            mending: None,
            synchronised: false,
            confirming: VecDeque::new(),
            awaiting: VecDeque::new(),
            acks_due: BTreeSet::new(),
            heard: Heard::default(),
            proposals: BTreeMap::new(),
            proposed: None,
            away_since: BTreeMap::new(),
            departed: BTreeSet::new(),
            farewell: None,
            going: BTreeMap::new(),
            has_left: false,
            forgone: None,
            gap_since: None,
            writes_made: 0,
            refused: 0,
            deltas: Pace::new(limits::DELTA_BYTES_PER_SECOND, limits::DELTA_BYTES_AT_ONCE),
            held_back: 0,
            reason: "it has just started".to_owned(),
        };
        (shared, restored.changes)
    }

    /// The mesh knows a later start than this node's store: this process goes on as that of `start`, and its beats
    /// are new ones to those who have heard the later one.
    pub(super) fn restart_as(&mut self, start: u64) {
        self.start = start;
        self.queue.restart(start);
    }

    /// Whether the store had, when this process began, all that this node has written to it, as far as it shows.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_blank
    }

    /// Whether this node may vote.
    pub(super) fn may_vote(&self) -> bool {
        self.register.may_vote()
    }

    /// Whether every quorum has one of these nodes in it, even without this one; or there is no other voter.
    pub(super) fn are_witnesses(&self, nodes: &BTreeSet<NodeId>) -> bool {
        self.register.are_witnesses(nodes)
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    pub(super) fn on_register_stored(&mut self, token: u64, now: Instant) {
        self.register.handle_committed(token, now);
    }

    pub(super) fn on_register_not_stored(&mut self, token: u64, now: Instant) {
        self.register.handle_commit_failed(token, now);
    }

    /// It could not be stored that this node leaves: it stays.
    pub(super) fn on_leave_failed(&mut self, now: Instant) {
        self.has_left = false;
        self.floors.tell_again();
        if let Some(token) = self.forgone.take() {
            self.register.handle_commit_failed(token, now);
        }
    }

    /// The command that decides what a minority does has decided, or failed.
    pub(super) fn on_decision(
        &mut self,
        question: u64,
        answer: Result<crate::core::model::Action, String>,
        now: Instant,
    ) {
        self.partition.handle_decision(question, answer, now);
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn roster(&self) -> Option<&Roster> {
        self.register.roster()
    }

    pub(super) fn lease_now(&self, now: Instant) -> LeaseView {
        self.register.lease(now)
    }

    /// What becomes of writes at present.
    pub(super) fn writes(&self) -> Writes {
        self.partition.permissions().writes
    }

    pub(super) fn mode(&self) -> Mode {
        self.partition.mode()
    }

    /// What this node doubts about itself and does not take back of itself.
    pub(super) fn doubts(&self) -> impl Iterator<Item = &Doubt> {
        self.partition.doubts()
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// A peer asked for what cannot be.
    pub(super) fn refuse_request(&mut self) {
        self.refused += 1;
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    pub(super) fn held_back(&self) -> u64 {
        self.held_back
    }

    /// Milliseconds since 1970 as the wall clock shows them.
    fn unix_ms(&self, now: Instant) -> u64 {
        let ms = self.wall_offset_ms + i128::from(now.as_nanos() / 1_000_000);
        u64::try_from(ms).unwrap_or(0)
    }

    /// Milliseconds since 1970 by which the ages of queued writes are told.
    pub(in crate::core::mesh) fn queue_ms(&self, now: Instant) -> u64 {
        let ms = self.queue_offset_ms + i128::from(now.as_nanos() / 1_000_000);
        u64::try_from(ms).unwrap_or(0)
    }
}

impl Mesh {
    /// Begins with what the disk remembers.
    pub(super) fn begin_shared(&mut self) {
        if let Some(roster) = self.shared.register.roster().cloned() {
            self.shared.partition.set_roster(&roster, self.now);
            self.compare_with_file(&roster);
        }
        self.tell_liveness();
        if self.joined {
            self.bootstrap_register();
        }
        self.settle_shared();
    }

    /// The mesh is this node's: if it begins it, the register begins with it.
    pub(super) fn bootstrap_register(&mut self) {
        if !std::mem::take(&mut self.shared.bootstraps) || self.shared.register.roster().is_some() {
            return;
        }
        let (seat, settings) = self.founding();
        match self.shared.register.bootstrap(seat, settings, self.now) {
            Ok(()) => {}
            // Its first look at its rows is on its way to the disk: soon again.
            Err(RegisterError::NotNow(_)) => self.shared.bootstraps = true,
            Err(error) => tracing::error!(%error, "the mesh begins without a roster"),
        }
    }

    pub(super) fn on_shared(&mut self, link: LinkId, key: NodeKey, from: &NodeId, frame: Control) {
        match frame {
            Control::Register { message } => self.on_register_message(link, from, &message),
            Control::Beats(beats) => self.on_beats(key, from, beats),
            Control::State(delta) => self.on_delta(key, from, delta),
            Control::StateAsk { question, clock, whole } => {
                self.on_state_ask(key, question, clock, whole);
            }
            Control::StatePart(part) => self.on_part(key, from, *part),
            Control::StateBusy { question } => self.on_busy(key, question),
            Control::StateAck { clock, unfilled, epoch, actor, answers } => {
                self.on_state_ack(&key, from, (clock, unfilled), epoch, actor, answers);
            }
            Control::StateFloor { epoch, number, floor, voids, asks } => {
                self.on_floor(key, epoch, number, floor, &voids, asks);
            }
            Control::StateBaseAsk { base } => self.on_base_ask(key, base),
            Control::StateBase { base, part, is_last } => self.on_base(key, base, &part, is_last),
            Control::Members { .. }
            | Control::Summary { .. }
            | Control::OwnedDigest { .. }
            | Control::Owned { .. }
            | Control::HeldForFailed { .. }
            | Control::Leaving { .. }
            | Control::DuplicateSeen { .. }
            | Control::Past(_)
            | Control::Check { .. }
            | Control::CheckAnswer { .. }
            | Control::Request { .. }
            | Control::Response { .. }
            | Control::CrlDigest { .. }
            | Control::Crl { .. }
            | Control::Redial
            | Control::Permit { .. }
            | Control::KeepAlive => tracing::error!(?link, "a frame of another room"),
        }
    }

    /// A peer has told what it has: compare.
    pub(super) fn compare_shared(&mut self, key: NodeKey, theirs: SharedSummary) {
        let ours = self.shared_summary();
        if theirs.epoch != ours.epoch
            && let Some(node) = self.node_of(&key)
        {
            self.shared.register.note_peer_epoch(&node, theirs.epoch, self.now);
        }
        if theirs.clock != ours.clock {
            self.ask_state(key);
        } else if theirs.values != ours.values && self.shared.state.clock().gaps() == 0 {
            self.shared.refused += 1;
            tracing::error!(
                ?key,
                "a peer has seen the same writes and holds other values: one of the two disks is damaged; \
                `shoal cluster reconcile --force` writes the keys in question anew"
            );
        }
    }

    pub(super) fn shared_summary(&self) -> SharedSummary {
        SharedSummary {
            clock: hash_of(self.shared.state.clock()),
            values: self.shared.state.hash() as u64,
            epoch: self.shared.register.epoch(),
        }
    }

    pub(super) fn on_shared_timer(&mut self) {
        let now = self.now;
        // Another timer has taken the place of this one.
        if self.shared.armed.is_some_and(|at| at > now) {
            return;
        }
        self.shared.armed = None;
        if self.shared.register.poll_timeout().is_some_and(|at| at <= now) {
            self.shared.register.handle_timeout(now);
        }
        if self.shared.partition.poll_timeout() <= now {
            self.shared.partition.handle_timeout(now);
        }
        self.flush_if_due();
        self.serve_on();
        if now >= self.shared.next_tick {
            self.shared.next_tick = now + TICK;
            self.tick_shared();
        }
        self.replay();
    }

    /// What is looked at now and then.
    fn tick_shared(&mut self) {
        if self.joined {
            self.bootstrap_register();
        }
        self.expire_queued();
        self.expire_confirming();
        self.put_awaited();
        self.retry_disk();
        self.watch_disk();
        self.retry_asks();
        self.steward();
        self.tend_floor();
        self.shared.bases.forget_old(self.now);
        self.mend_gaps();
        self.doubt_full_clock();
        self.forget_gone();
        self.tend_farewell();
        self.hand_over();
    }

    /// After each change: what the rooms want, and when they want to be called next.
    pub(super) fn settle_shared(&mut self) {
        loop {
            if let Some(effect) = self.shared.register.poll() {
                self.on_register_effect(effect);
            } else if let Some(effect) = self.shared.partition.poll() {
                self.on_partition_effect(effect);
            } else {
                break;
            }
        }
        self.tell_doubts();
        let shared = &self.shared;
        let mut next = shared.partition.poll_timeout().min(shared.next_tick);
        let others = [
            shared.register.poll_timeout(),
            shared.flush_due.filter(|_| !shared.flushing && self.takes_rows()),
            shared.serving.values().map(|serving| serving.next).min(),
            shared
                .queue
                .next_batch_at(self.now)
                .filter(|_| shared.mode() == Mode::Healthy && self.takes_rows()),
        ];
        for at in others.into_iter().flatten() {
            next = next.min(at);
        }
        if shared.armed.is_none_or(|armed| next < armed) {
            self.shared.armed = Some(next);
            self.timers.set(next.max(self.now), Timer::Shared);
        }
    }

    /// The process did not run for so long: no time that it has measured counts.
    pub(super) fn on_standstill(&mut self) {
        // Before the input that has woken it: a write must not be made as if nothing had happened.
        self.shared.partition.wake(self.now);
        self.shared.register.drop_lease(self.now);
        self.permits.voter.be_quiet(self.now);
    }

    /// Peers remember a later start of this node than its disk does, or writes that it does not: the disk is an old one.
    pub(super) fn on_old_store(&mut self) {
        self.shared.synchronised = false;
        self.shared.register.handle_old_store(self.now);
        self.doubt_permits();
        self.refuse_old_tickets();
    }

    /// A number of a process start that no node has reached: it would lock this one out of its own name.
    pub(super) fn refuse_start(&mut self, from: &NodeId, start: u64) {
        self.shared.refused += 1;
        tracing::warn!(%from, start, "an absurd start of this node was told: refused");
    }

    /// A node that knows writes of very many processes which not every member has makes no more of them.
    fn doubt_full_clock(&mut self) {
        let open = self.shared.state.open_actors();
        let is_doubted = self.shared.partition.doubts().any(|doubt| *doubt == Doubt::TooManyActors);
        if open >= limits::CLOCK_ACTORS_MAX && !is_doubted {
            self.shared.partition.doubt(Doubt::TooManyActors, self.now);
        } else if is_doubted && open < limits::CLOCK_ACTORS_MAX / 2 {
            self.shared.partition.doubt_over(DoubtKind::TooManyActors, self.now);
        }
    }

    fn node_of(&self, key: &NodeKey) -> Option<NodeId> {
        self.links.card(key).map(|card| card.node_id.clone())
    }

    /// The nodes that there is a link to, a random one first.
    fn linked(&mut self) -> Vec<NodeKey> {
        let mut keys: Vec<_> = self.links.all_proven().map(|(key, _)| key).collect();
        if !keys.is_empty() {
            let first = self.rng.random_range(0..keys.len());
            keys.rotate_left(first);
        }
        keys
    }
}

/// FNV-1a over the ranges of a clock.
fn hash_of(clock: &crate::core::model::Clock) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for (actor, span) in clock.iter() {
        mix(actor.0.as_bytes());
        for (from, upto) in span.ranges() {
            mix(&from.to_le_bytes());
            mix(&upto.to_le_bytes());
        }
    }
    hash
}
