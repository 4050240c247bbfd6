//! Clocks in few bytes: a clock is told as what it has beyond the sender's floor, which the receiver usually knows.
//!
//! A clock names one actor for each process that has ever written, for ever, and nearly all of them are below the
//! floor, because every member has what they wrote. Whoever is told a clock beyond a floor that it does not know asks
//! for that floor, and is told the clock again.
//!
//! The same hashes tell how far a node has got: what a peer writes is of no use to one that has not everything within
//! the peer's floor, because what was replaced there is not named any more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::super::Mesh;
use super::hash_of;
use crate::core::ids::NodeKey;
use crate::core::limits;
use crate::core::model::{Clock, Dot, Span};
use crate::core::time::Instant;
use crate::core::wire::{Control, Seen};

/// So many of this node's floors are remembered: others may be a few behind.
const REMEMBERED_MAX: usize = 4;
/// A floor that was asked for is kept, and not asked for again, for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// The floors that clocks are told by.
#[derive(Debug, Default)]
pub(super) struct Bases {
    /// This node's, the newest last, each with its hash.
    own: VecDeque<(u64, Arc<Clock>)>,
    /// The count of this node's floors at the newest.
    number: Option<u64>,
    /// Those that peers have told.
    foreign: BTreeMap<NodeKey, Foreign>,
    /// The hashes of others' floors that this node has got as far as, the newest last.
    covered: VecDeque<u64>,
}

#[derive(Debug)]
struct Foreign {
    base: u64,
    floor: Arc<Clock>,
    is_whole: bool,
    since: Instant,
}

/// A clock that was told: a floor, shared with others of its kind, and what it has beyond.
#[derive(Debug, Clone)]
pub(super) struct Told {
    base: Arc<Clock>,
    beyond: Clock,
}

impl Told {
    pub(super) fn contains(&self, dot: Dot) -> bool {
        self.base.contains(dot) || self.beyond.contains(dot)
    }

    /// All of it.
    pub(super) fn clock(&self) -> Clock {
        let mut clock = Clock::clone(&self.base);
        clock.join(&self.beyond);
        clock
    }

    /// The floor that it was told beyond.
    pub(super) fn base(&self) -> &Arc<Clock> {
        &self.base
    }

    /// What it has beyond `floor`.
    pub(super) fn beyond(&self, floor: &Arc<Clock>) -> Clock {
        match Arc::ptr_eq(&self.base, floor) {
            true => self.beyond.clone(),
            false => self.clock().less(floor),
        }
    }
}

impl Bases {
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.foreign.retain(|_, foreign| now.since(foreign.since) < PATIENCE);
    }

    /// This node has everything within that floor.
    pub(super) fn note_covered(&mut self, base: u64) {
        self.covered.retain(|known| *known != base);
        self.covered.push_back(base);
        if self.covered.len() > limits::FLOORS_COVERED_MAX {
            self.covered.pop_front();
        }
    }

    fn own(&self, base: u64) -> Option<&Arc<Clock>> {
        self.own.iter().find(|(hash, _)| *hash == base).map(|(_, floor)| floor)
    }
}

/// What two clocks together have of an actor.
pub(super) fn span_of(floor: &Clock, beyond: &Clock, actor: &crate::core::model::Actor) -> Span {
    let mut both = Clock::default();
    for clock in [floor, beyond] {
        let mut one = Clock::default();
        one.set(*actor, clock.get(actor).cloned().unwrap_or_default());
        both.join(&one);
    }
    both.get(actor).cloned().unwrap_or_default()
}

impl Mesh {
    /// This node's floor, with its hash; 0 while it is empty.
    pub(super) fn base(&mut self) -> (u64, Arc<Clock>) {
        let state = &self.shared.state;
        let bases = &mut self.shared.bases;
        if bases.number != Some(state.floor_number()) {
            bases.number = Some(state.floor_number());
            let floor = state.floor();
            let hash = if floor.is_empty() { 0 } else { hash_of(floor) };
            if bases.own.back().is_none_or(|(last, _)| *last != hash) {
                bases.own.push_back((hash, Arc::new(floor.clone())));
            }
            if bases.own.len() > REMEMBERED_MAX {
                bases.own.pop_front();
            }
        }
        bases.own.back().cloned().unwrap_or_default()
    }

    /// Whether this node is known to have everything within the floor with that hash.
    pub(super) fn covers(&mut self, base: u64) -> bool {
        self.base();
        let bases = &self.shared.bases;
        base == 0 || bases.own(base).is_some() || bases.covered.contains(&base)
    }

    /// The hashes of the floors that it is known to have everything within, the newest last.
    pub(super) fn all_covered(&mut self) -> Vec<u64> {
        self.base();
        let bases = &self.shared.bases;
        let own = || bases.own.iter().map(|(base, _)| *base).filter(|base| *base != 0);
        let others = bases.covered.iter().copied().filter(|base| own().all(|known| known != *base));
        let mut all: Vec<_> = others.chain(own()).collect();
        all.drain(..all.len().saturating_sub(limits::FLOORS_COVERED_MAX));
        all
    }

    /// A clock that holds the floor, as it travels; of a very large one less.
    pub(super) fn seen(&mut self, clock: &Clock) -> Seen {
        let (base, floor) = self.base();
        let mut beyond = clock.less(&floor);
        beyond.keep_at_most(limits::CLOCK_ACTORS_MAX, limits::CLOCK_RANGES_MAX);
        Seen { base, beyond }
    }

    /// Reads a clock that a peer has told. `None`: the floor beyond which it was told is not known here, and was asked
    /// for, if it is not on its way.
    pub(super) fn read_seen(&mut self, key: &NodeKey, seen: Seen) -> Option<Told> {
        self.base();
        let Seen { base, beyond } = seen;
        if base == 0 {
            return Some(Told { base: Arc::default(), beyond });
        }
        if let Some(own) = self.shared.bases.own(base) {
            return Some(Told { base: Arc::clone(own), beyond });
        }
        match self.shared.bases.foreign.get(key) {
            Some(foreign) if foreign.base == base && foreign.is_whole => {
                return Some(Told { base: Arc::clone(&foreign.floor), beyond });
            }
            Some(foreign) if foreign.base == base && self.now.since(foreign.since) < PATIENCE => {}
            Some(_) | None => {
                let foreign = Foreign { base, floor: Arc::default(), is_whole: false, since: self.now };
                self.shared.bases.foreign.insert(*key, foreign);
                self.send_control(key, Control::StateBaseAsk { base });
            }
        }
        None
    }

    /// Tells a peer the floor beyond which it is going to be told clocks.
    pub(super) fn send_base(&mut self, key: &NodeKey, base: u64, floor: &Clock) {
        let mut parts = floor.parts(limits::CLOCK_ACTORS_MAX).peekable();
        while let Some(part) = parts.next() {
            let is_last = parts.peek().is_none();
            self.send_control(key, Control::StateBase { base, part, is_last });
        }
    }

    pub(super) fn on_base_ask(&mut self, key: NodeKey, base: u64) {
        self.base();
        let Some(floor) = self.shared.bases.own(base).cloned() else {
            return;
        };
        self.send_base(&key, base, &floor);
        // What it could not read is told once more.
        self.shared.floors.tell_again();
        if self.shared.asked.remove(&key).is_some() {
            self.ask_state(key);
        }
    }

    pub(super) fn on_base(&mut self, key: NodeKey, base: u64, part: &Clock, is_last: bool) {
        // An answer to a question may be told beyond a floor that this node is bound not to know.
        let is_awaited = self.shared.asked.contains_key(&key);
        let foreign = match self.shared.bases.foreign.get_mut(&key) {
            Some(foreign) if foreign.base == base => foreign,
            Some(_) | None if is_awaited => {
                let begun = Foreign { base, floor: Arc::default(), is_whole: false, since: self.now };
                let bases = &mut self.shared.bases;
                bases.foreign.insert(key, begun);
                bases.foreign.get_mut(&key).expect("it was just put there")
            }
            Some(_) | None => return,
        };
        foreign.since = self.now;
        if foreign.is_whole {
            return;
        }
        Arc::make_mut(&mut foreign.floor).join(part);
        if foreign.floor.len() > limits::ACTORS_MAX || (is_last && hash_of(&foreign.floor) != base) {
            self.shared.bases.foreign.remove(&key);
            self.shared.refused += 1;
            tracing::warn!(?key, "a peer has told a floor that is not the one it named: dropped");
        } else if is_last {
            foreign.is_whole = true;
        }
    }
}
