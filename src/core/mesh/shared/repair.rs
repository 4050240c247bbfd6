//! Comparing with a peer and taking over what it has: one question, answered in parts, at a bounded pace.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::Mesh;
use crate::core::ids::{NodeId, NodeKey};
use crate::core::model::{Clock, DotRange};
use crate::core::state::{Offer, Part};
use crate::core::time::Instant;
use crate::core::wire::{Control, Difference, Seen, StatePart};

/// A question without a further part for so long is given up.
const PATIENCE: Duration = Duration::from_secs(3);
/// A node that was asked and had too much to do is asked again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(500);
/// How many peers are asked at once beside those that the mode waits for.
const ASKED_AT_ONCE: usize = 3;
/// How many peers are answered at once; each further one is told to wait.
const SERVED_AT_ONCE: usize = 8;
/// So many parts are sent at once to one peer, and then after a pause: 8 MiB a second.
const PARTS_AT_ONCE: usize = 4;
const PARTS_PAUSE: Duration = Duration::from_millis(125);
/// A gap older than this is asked about.
const GAP_PATIENCE: Duration = Duration::from_secs(1);

/// A question of this node.
#[derive(Debug)]
pub(super) struct Asked {
    question: u64,
    next_part: u64,
    /// When something of the answer last came.
    heard: Instant,
    /// The round of comparisons that was under way when it was asked.
    round: Option<u64>,
    received: u64,
    /// It is asked again then, not before.
    paused_until: Option<Instant>,
    /// The answer is a snapshot: what its sender had seen, and its floor.
    known: Option<Arc<(Clock, Clock)>>,
    purpose: Purpose,
}

/// Why a peer is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To take in what this node lacks.
    TakeIn,
    /// To look at everything that it holds, and to change nothing.
    Inspect,
}

/// An answer under way.
#[derive(Debug)]
pub(super) struct Serving {
    offer: Offer,
    /// Of a snapshot, told with the first part: what this node had seen.
    known: Option<Seen>,
    number: u64,
    floor: u64,
    covers: Vec<u64>,
    lacks: u64,
    pub(super) next: Instant,
}

impl Mesh {
    /// The mode waits until this node is as far as every member that it reaches.
    pub(super) fn begin_round(&mut self, round: u64) {
        self.shared.round = Some((round, BTreeSet::new()));
        // Answers to what was asked before do not count.
        self.shared.asked.clear();
        for key in self.linked() {
            self.ask_state(key);
        }
    }

    /// Asks these peers for what they have now; answers to what they were asked before do not count.
    pub(in crate::core::mesh) fn ask_anew(&mut self, keys: &BTreeSet<NodeKey>) {
        for key in keys {
            self.shared.asked.remove(key);
            self.ask_state(*key);
        }
    }

    /// Asks a peer for what it has and this node lacks, unless it is being asked.
    pub(in crate::core::mesh) fn ask_state(&mut self, key: NodeKey) {
        let wanted = self.shared.round.as_ref().is_some_and(|(_, done)| !done.contains(&key))
            || self.shared.comparing.as_ref().is_some_and(|comparing| comparing.waits_for(&key))
            || self.leads_once_told_by(&key);
        if self.shared.asked.contains_key(&key) || (!wanted && self.shared.asked.len() >= ASKED_AT_ONCE) {
            return;
        }
        self.ask(key, Purpose::TakeIn);
    }

    pub(super) fn ask(&mut self, key: NodeKey, purpose: Purpose) {
        let question = self.next_number();
        let round = self.shared.round.as_ref().map(|(round, _)| *round);
        let asked = Asked {
            question,
            next_part: 0,
            heard: self.now,
            round,
            received: 0,
            paused_until: None,
            known: None,
            purpose,
        };
        self.shared.asked.insert(key, asked);
        let clock = self.shared.state.clock().clone();
        let clock = self.seen(&clock);
        let whole = purpose == Purpose::Inspect || self.shared.state.is_behind();
        self.send_control(&key, Control::StateAsk { question, clock, whole });
    }

    pub(super) fn retry_asks(&mut self) {
        let now = self.now;
        self.shared.asked.retain(|_, asked| match asked.paused_until {
            Some(until) => now < until,
            None => now.since(asked.heard) < PATIENCE,
        });
        self.shared.serving.retain(|(key, _), _| self.links.proven(key).is_some());
        if let Some((_, done)) = &self.shared.round {
            let done = done.clone();
            for key in self.linked().into_iter().filter(|key| !done.contains(key)) {
                self.ask_state(key);
            }
        }
        self.retry_comparing();
        self.retry_mending();
    }

    /// A gap that does not close by itself is asked about.
    pub(super) fn mend_gaps(&mut self) {
        if self.shared.state.clock().gaps() == 0 {
            self.shared.gap_since = None;
            return;
        }
        let since = *self.shared.gap_since.get_or_insert(self.now);
        if self.now.since(since) < GAP_PATIENCE {
            return;
        }
        self.shared.gap_since = Some(self.now);
        if let Some(key) = self.linked().first() {
            self.ask_state(*key);
        }
    }

    pub(super) fn on_state_ask(&mut self, key: NodeKey, question: u64, theirs: Seen, whole: bool) {
        let their_base = theirs.base;
        let Some(theirs) = self.read_seen(&key, theirs).map(|told| told.clock()) else {
            return;
        };
        let lacking = theirs.beyond(self.shared.state.clock());
        let lacks = lacking.iter().map(DotRange::count).sum();
        if self.shared.state.is_behind() || self.shared.serving.len() >= SERVED_AT_ONCE {
            return self.send_control(&key, Control::StateBusy { question });
        }
        // An earlier question of the same peer is outdated.
        self.shared.serving.retain(|(other, _), _| *other != key);
        let offer = self.shared.state.offer(&theirs, whole).unwrap_or_default();
        let (base, own_floor) = self.base();
        let known = offer.known().map(|known| Seen { base, beyond: known.0.less(&own_floor) });
        if known.as_ref().is_some_and(|known| !known.beyond.fits_a_frame()) {
            // Very many writes are on their way to this node.
            return self.send_control(&key, Control::StateBusy { question });
        }
        if known.is_some() && base != 0 && base != their_base {
            self.send_base(&key, base, &own_floor);
        }
        let floor = self.shared.floors.adopted();
        let covers = self.all_covered();
        let serving = Serving { offer, known, number: 0, floor, covers, lacks, next: self.now };
        self.shared.serving.insert((key, question), serving);
        self.serve_on();
        if lacks > 0 {
            self.ask_state(key);
        }
    }

    /// Sends further parts of the answers whose time it is.
    pub(super) fn serve_on(&mut self) {
        let due: Vec<_> =
            self.shared.serving.iter().filter(|(_, s)| s.next <= self.now).map(|(at, _)| *at).collect();
        for (key, question) in due {
            for _ in 0..PARTS_AT_ONCE {
                let Some(serving) = self.shared.serving.get_mut(&(key, question)) else {
                    break;
                };
                serving.next = self.now + PARTS_PAUSE;
                let Some(part) = serving.offer.next_part() else {
                    self.shared.serving.remove(&(key, question));
                    break;
                };
                let known = serving.known.take();
                let frame = StatePart { known, ..frame_of(question, serving, part) };
                serving.number += 1;
                let is_last = frame.is_last;
                self.send_control(&key, Control::StatePart(Box::new(frame)));
                if is_last {
                    self.shared.serving.remove(&(key, question));
                }
            }
        }
    }

    pub(super) fn on_busy(&mut self, key: NodeKey, question: u64) {
        if let Some(asked) = self.shared.asked.get_mut(&key).filter(|asked| asked.question == question) {
            asked.paused_until = Some(self.now + BUSY_PAUSE);
        }
    }

    pub(super) fn on_part(&mut self, key: NodeKey, from: &NodeId, part: StatePart) {
        let now = self.now;
        let Some(asked) = self.shared.asked.get_mut(&key).filter(|asked| asked.question == part.question)
        else {
            return;
        };
        if asked.next_part != part.number {
            self.shared.asked.remove(&key);
            return;
        }
        asked.next_part += 1;
        asked.heard = now;
        let (is_last, floor, lacks) = (part.is_last, part.floor, part.lacks);
        let before = count(self.shared.state.clock());
        let StatePart { updates, known, after, upto, closes, covers, .. } = part;
        if let Some(known) = known {
            let Some(told) = self.read_seen(&key, known) else {
                self.shared.asked.remove(&key);
                return;
            };
            let floor = Clock::clone(told.base());
            if let Some(asked) = self.shared.asked.get_mut(&key) {
                asked.known = Some(Arc::new((told.clock(), floor)));
            }
        }
        let asked = self.shared.asked.get(&key);
        let inspects = asked.is_some_and(|asked| asked.purpose == Purpose::Inspect);
        let known = asked.and_then(|asked| asked.known.clone());
        let part = Part { updates, known, after, upto, closes, is_last };
        if inspects {
            if is_last {
                self.shared.asked.remove(&key);
            }
            return self.on_inspected(key, &part);
        }
        let lost = self.lost_write(&part.updates, &part.closes);
        match self.shared.state.apply_part(&part) {
            Ok(applied) => {
                self.on_applied(applied);
                if let Some(dot) = lost {
                    self.on_lost_write(from, dot);
                }
            }
            Err(refuse) => {
                self.shared.asked.remove(&key);
                return self.on_state_refused(from, refuse);
            }
        }
        let received = count(self.shared.state.clock()).saturating_sub(before);
        if let Some(asked) = self.shared.asked.get_mut(&key) {
            asked.received += received;
        }
        if is_last {
            self.on_compared(key, from, (floor, covers), lacks);
        }
    }

    /// This node has everything that the peer had when it was asked.
    fn on_compared(&mut self, key: NodeKey, from: &NodeId, (floor, covers): (u64, Vec<u64>), lacks: u64) {
        let Some(asked) = self.shared.asked.remove(&key) else {
            return;
        };
        // What came while it was behind was not taken in, unless it was everything.
        if self.shared.state.is_behind() {
            return;
        }
        let is_member = self.is_member(&key);
        if is_member || self.shared.register.roster().is_none() {
            self.shared.synchronised = true;
            covers.into_iter().for_each(|base| self.shared.bases.note_covered(base));
            if !self.shared.floors.adopt(floor) {
                self.shared.refused += 1;
                tracing::warn!(%from, number = floor, "no mesh has reached so many floors: not believed");
            }
        }
        // Who is no member as far as this node knows does not count, and is asked again: the roster may be on its way.
        if let Some((round, done)) = &mut self.shared.round
            && asked.round == Some(*round)
            && is_member
        {
            done.insert(key);
            let round = *round;
            self.shared.partition.handle_synchronised(round, from, self.now);
        }
        self.note_caught_up_with(&key);
        self.note_compared(key, from, Difference { received: asked.received, sent: lacks });
    }
}

fn frame_of(question: u64, serving: &Serving, part: Part) -> StatePart {
    let Part { updates, known: _, after, upto, closes, is_last } = part;
    let (number, floor, lacks) = (serving.number, serving.floor, serving.lacks);
    let covers = if is_last { serving.covers.clone() } else { vec![] };
    StatePart { question, number, updates, known: None, after, upto, closes, is_last, floor, lacks, covers }
}

fn count(clock: &Clock) -> u64 {
    clock.iter().flat_map(|(_, span)| span.ranges()).map(|(from, upto)| upto - from + 1).sum()
}
