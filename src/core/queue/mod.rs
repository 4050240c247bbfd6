//! The queue of writes that this node took in while it was not among a majority.
//!
//! `storing -> waiting -> offered -> resolving -> done`. A write is durable before its ticket is given; its outcome is
//! stored in the transaction that makes the write, so that a crash at any point leaves a ticket either with its row or
//! with its one outcome, never with both or neither. Nothing here is forgotten or told before the store has
//! confirmed it; a persist that failed takes its write one state back.
//!
//! Writes are offered in the order of their tickets, a bounded number of them until they are durable, and at a bounded
//! pace. Of one key only the first is offered, and
//! the next after its outcome is durable: it must be told which dots its predecessors became, so that it covers them
//! instead of standing beside them. Many writes to one key therefore take one commit each.
//!
//! | row | key | what |
//! |---|---|---|
//! | write | `w`, start, number | what waits |
//! | outcome | `o`, start, number | what became of it; the last [`limits::TICKET_OUTCOMES_MAX`] are kept |
//! | became | `b`, key of the state | the dots that the resolved predecessors of a waiting write became |
//!
//! What it does not do: it knows neither values nor contexts, makes no write and keeps no time of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

pub(crate) use self::pace::Pace;
use self::rows::{DoneRow, Row, WriteRow};
use super::contract::Change;
use super::ids::NodeId;
use super::limits;
use super::model::{Outcome, Slot, Ticket, TicketView};
use super::time::Instant;

mod pace;
mod rows;
#[cfg(test)]
mod tests;

/// One write that is to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedWrite {
    /// The key.
    pub key: String,
    /// The value; `None` deletes the key.
    pub value: Option<Bytes>,
    /// The context that its writer gave, as the state encodes it.
    pub context: Option<Bytes>,
    /// The time that its writer gave it, as the state understands it.
    pub hlc: u64,
    /// Who wrote.
    pub writer: String,
    /// The agent on whose behalf, if it was one that fills a slot.
    pub slot: Option<Slot>,
    /// When it came, in milliseconds since 1970.
    pub queued_at_ms: u64,
    /// When its writer gives it up, in milliseconds since 1970; `None`, or later than the queue's own bound: then.
    pub deadline_ms: Option<u64>,
}

/// A write whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Its ticket, for [`Queue::resolve`].
    pub ticket: Ticket,
    /// The write as it was queued.
    pub write: QueuedWrite,
    /// What [`Queue::resolve`] was last told of a predecessor: to be joined with the write's context.
    pub became: Option<Bytes>,
}

/// Why a write is not taken in; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueFull {
    /// As many as may wait.
    #[error(
        "{0} writes wait for a majority already, the most there may be: try again when this node has one"
    )]
    Writes(usize),
    /// As many bytes as may wait.
    #[error(
        "with this write more than {0} bytes would wait for a majority, the most there may be: try again when this \
         node has one"
    )]
    Bytes(usize),
}

/// How much may wait, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueBounds {
    /// Writes.
    pub writes: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// How long one waits before it expires.
    pub age: Duration,
    /// Outcomes that are remembered.
    pub outcomes: usize,
}

impl Default for QueueBounds {
    fn default() -> Self {
        Self {
            writes: limits::QUEUED_WRITES_MAX,
            bytes: limits::QUEUED_BYTES_MAX,
            age: limits::QUEUED_AGE_MAX,
            outcomes: limits::TICKET_OUTCOMES_MAX,
        }
    }
}

/// What a start finds in the store.
#[derive(Debug)]
pub struct Restored {
    /// The queue.
    pub queue: Queue,
    /// Rows that are of no more use.
    pub changes: Vec<Change>,
    /// Rows that this version does not understand: they are left alone, and their tickets are unknown.
    pub unreadable: usize,
}

/// A ticket without its node: start, number.
type No = (u64, u64);

/// The writes of one node that wait for a majority, and what became of those that did.
///
/// Order of calls: [`enqueue`](Self::enqueue), then [`handle_stored`](Self::handle_stored) or
/// [`handle_not_stored`](Self::handle_not_stored); among a majority [`next_batch`](Self::next_batch), for each write of
/// it [`resolve`](Self::resolve) or [`put_back`](Self::put_back), and after a `resolve` either
/// [`handle_resolved`](Self::handle_resolved) or [`handle_not_resolved`](Self::handle_not_resolved). In every mode
/// [`expired`](Self::expired), each of which is resolved. Persists of the queue must be stored in the order in which
/// they were made, and none after one that failed ([`Change::Afresh`] says when that is over).
#[derive(Debug)]
pub struct Queue {
    own: NodeId,
    bounds: QueueBounds,
    start: u64,
    last_number: u64,
    waiting: BTreeMap<No, Waiting>,
    keys: BTreeMap<String, OnKey>,
    /// The first of each key, where it may be offered.
    ready: BTreeSet<No>,
    deadlines: BTreeSet<(u64, No)>,
    bytes: usize,
    offered: usize,
    resolving: usize,
    outcomes: BTreeMap<No, DoneRow>,
    /// The same by age.
    outcomes_by_age: BTreeMap<u64, No>,
    /// Outcomes that a persist under way forgets.
    leaving: BTreeSet<No>,
    last_outcome: u64,
    pace: Pace,
}

#[derive(Debug)]
struct Waiting {
    row: WriteRow,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Its row is not durable yet.
    Storing,
    Waiting,
    /// Whoever makes the writes has it.
    Offered,
    /// Its outcome is not durable yet.
    Resolving {
        done: DoneRow,
        became: Option<Bytes>,
        /// Outcomes that are forgotten in its favour.
        forgets: Vec<No>,
    },
}

/// What waits on one key.
#[derive(Debug, Default)]
struct OnKey {
    writes: BTreeSet<No>,
    /// What the last resolved predecessor became, as the store has it.
    became: Option<Bytes>,
}

impl Queue {
    /// The queue of the `start`th process of a node, from its rows.
    #[must_use]
    pub fn restore(own: NodeId, start: u64, bounds: QueueBounds, rows: &[(Bytes, Bytes)]) -> Restored {
        let mut queue = Self {
            own,
            bounds,
            start,
            last_number: 0,
            waiting: BTreeMap::new(),
            keys: BTreeMap::new(),
            ready: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            bytes: 0,
            offered: 0,
            resolving: 0,
            outcomes: BTreeMap::new(),
            outcomes_by_age: BTreeMap::new(),
            leaving: BTreeSet::new(),
            last_outcome: 0,
            pace: Pace::new(limits::REPLAYED_BYTES_PER_SECOND, limits::REPLAYED_BYTES_AT_ONCE),
        };
        let mut unreadable = 0;
        for (key, row) in rows {
            match rows::read(key, row) {
                Some(row) => queue.take_in(row),
                None => unreadable += 1,
            }
        }
        let changes = queue.drop_leftovers();
        let keys: Vec<_> = queue.keys.keys().cloned().collect();
        keys.iter().for_each(|key| queue.refresh(key));
        Restored { queue, changes, unreadable }
    }

    /// From here on tickets are given as the `start`th process does, which the mesh has not seen before.
    pub fn restart(&mut self, start: u64) {
        if start > self.start {
            self.start = start;
            self.last_number = 0;
        }
    }

    /// How many writes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of those that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a write to this key waits, so that a new one must wait behind it.
    #[must_use]
    pub fn has_queued(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|on_key| !on_key.writes.is_empty())
    }

    /// What is known of a ticket that was given to its writer; `None` when it is not this node's, was never given,
    /// or its outcome is forgotten.
    #[must_use]
    pub fn ticket(&self, ticket: &Ticket) -> Option<TicketView> {
        let no = self.no_of(ticket)?;
        if let Some(done) = self.outcomes.get(&no) {
            return Some(done.view(ticket.clone()));
        }
        let waiting = self.waiting.get(&no)?;
        match waiting.stage {
            Stage::Storing => None,
            Stage::Waiting | Stage::Offered | Stage::Resolving { .. } => {
                Some(waiting.row.view(ticket.clone()))
            }
        }
    }

    /// The tickets whose writes wait, in their order.
    pub fn tickets(&self) -> impl Iterator<Item = TicketView> {
        self.waiting
            .iter()
            .filter(|(_, waiting)| !matches!(waiting.stage, Stage::Storing))
            .map(|(no, waiting)| waiting.row.view(self.ticket_of(*no)))
    }

    /// Takes in a write: its ticket, not to be given before what is returned beside it is stored.
    ///
    /// # Errors
    /// [`QueueFull`]: the write is refused and nothing was changed.
    pub fn enqueue(&mut self, write: QueuedWrite) -> Result<(Ticket, Vec<Change>), QueueFull> {
        let age_ms = u64::try_from(self.bounds.age.as_millis()).unwrap_or(u64::MAX);
        let row = WriteRow::new(write, age_ms);
        if self.waiting.len() >= self.bounds.writes {
            return Err(QueueFull::Writes(self.bounds.writes));
        }
        if self.bytes + row.bytes() > self.bounds.bytes {
            return Err(QueueFull::Bytes(self.bounds.bytes));
        }
        self.last_number += 1;
        let no = (self.start, self.last_number);
        let mut changes = vec![rows::put_write(no, &row)];
        changes.extend(self.became_for_newcomer(&row.key));
        self.insert(no, row, Stage::Storing);
        Ok((self.ticket_of(no), changes))
    }

    /// The write is durable: its ticket may be given, and it is replayed when its turn comes.
    pub fn handle_stored(&mut self, ticket: &Ticket) {
        self.move_on(ticket, |stage| matches!(stage, Stage::Storing), Stage::Waiting);
    }

    /// The write could not be stored: it is gone, and its ticket is never given.
    pub fn handle_not_stored(&mut self, ticket: &Ticket) {
        let Some(no) = self.no_of(ticket) else {
            return;
        };
        if self.waiting.get(&no).is_some_and(|waiting| matches!(waiting.stage, Stage::Storing)) {
            let waiting = self.remove(no);
            self.refresh(&waiting.row.key);
        }
    }

    /// The next writes to be made, in order, as many as the pace and those under way allow at `now`; none whose time is
    /// over at `now_ms`, those are [`expired`](Self::expired).
    pub fn next_batch(&mut self, now: Instant, now_ms: u64) -> Vec<Replay> {
        let in_time = |no: &No| self.waiting[no].row.deadline_ms > now_ms;
        let ready = self.ready.iter().copied().filter(in_time);
        let turn: Vec<No> = ready.take(self.room().min(limits::REPLAY_BATCH_MAX)).collect();
        let mut batch = Vec::new();
        for no in turn {
            let waiting = self.waiting.get_mut(&no).expect("what is ready waits");
            if !self.pace.take(now, waiting.row.bytes()) {
                break;
            }
            waiting.stage = Stage::Offered;
            self.offered += 1;
            self.ready.remove(&no);
            let ticket = self.ticket_of(no);
            let waiting = &self.waiting[&no];
            let became = self.keys.get(&waiting.row.key).and_then(|on_key| on_key.became.clone());
            batch.push(Replay { ticket, write: waiting.row.write(), became });
        }
        batch
    }

    /// Offers one that waits out of its turn: to be resolved, not to be made.
    pub fn offer(&mut self, ticket: &Ticket) -> Option<QueuedWrite> {
        let no = self.no_of(ticket)?;
        let waiting = self.waiting.get_mut(&no).filter(|waiting| matches!(waiting.stage, Stage::Waiting))?;
        waiting.stage = Stage::Offered;
        self.offered += 1;
        self.ready.remove(&no);
        Some(waiting.row.write())
    }

    /// When [`next_batch`](Self::next_batch) has something again; `None` while nothing is ready, or as many as may be
    /// are under way.
    #[must_use]
    pub fn next_batch_at(&self, now: Instant) -> Option<Instant> {
        (!self.ready.is_empty() && self.room() > 0).then(|| self.pace.next_at(now))
    }

    /// How many more writes may be under way.
    fn room(&self) -> usize {
        limits::REPLAYS_UNDER_WAY_MAX.saturating_sub(self.offered + self.resolving)
    }

    /// A write that was offered cannot be made now: it waits on, at its place, and with it all others for a while.
    pub fn put_back(&mut self, ticket: &Ticket, now: Instant) {
        if self.move_on(ticket, |stage| matches!(stage, Stage::Offered), Stage::Waiting) {
            self.offered -= 1;
            self.pace.pause(now + limits::REPLAY_RETRY);
        }
    }

    /// Waiting writes whose time is over at `now_ms`, at most [`limits::REPLAY_BATCH_MAX`]: each is to be resolved.
    #[must_use]
    pub fn expired(&self, now_ms: u64) -> Vec<Ticket> {
        let over = self.deadlines.range(..=(now_ms, (u64::MAX, u64::MAX))).map(|(_, no)| *no);
        let waits = |no: &No| matches!(self.waiting[no].stage, Stage::Waiting);
        over.filter(waits).take(limits::REPLAY_BATCH_MAX).map(|no| self.ticket_of(no)).collect()
    }

    /// When the next write expires, in milliseconds since 1970.
    #[must_use]
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Gives a ticket its outcome. What is returned belongs into the transaction that makes the write.
    ///
    /// `became` is what the next write to the key must cover: the dot of this write, and whatever of
    /// [`Replay::became`] it does not cover itself. Without it, what is known stays.
    ///
    /// `None`: the ticket waits for no outcome, or it was made without having been offered. Nothing was changed, and
    /// the write must not be made.
    #[must_use]
    pub fn resolve(
        &mut self,
        ticket: &Ticket,
        outcome: Outcome,
        became: Option<Bytes>,
    ) -> Option<Vec<Change>> {
        let no = self.no_of(ticket)?;
        let waiting = self.waiting.get(&no)?;
        let may_be = match (&waiting.stage, &outcome) {
            (Stage::Offered, _) => true,
            (Stage::Waiting, Outcome::Expired | Outcome::Rejected { .. }) => true,
            (Stage::Waiting, Outcome::Applied | Outcome::Conflicted) => false,
            (Stage::Storing | Stage::Resolving { .. }, _) => false,
        };
        if !may_be {
            return None;
        }
        self.last_outcome += 1;
        let done = waiting.row.done(outcome, self.last_outcome);
        let key = waiting.row.key.clone();
        let forgets = self.outcomes_to_forget();
        let mut changes = vec![rows::delete_write(no), rows::put_outcome(no, &done)];
        changes.extend(forgets.iter().map(|no| rows::delete_outcome(*no)));
        self.leaving.extend(&forgets);
        self.ready.remove(&no);
        self.offered -= usize::from(matches!(waiting.stage, Stage::Offered));
        self.resolving += 1;
        let known = self.known_became(&key).is_some();
        let given = became.clone();
        self.waiting.get_mut(&no).expect("it was looked up").stage =
            Stage::Resolving { done, became, forgets };
        let has_successor =
            self.on_key(&key).any(|waiting| !matches!(waiting.stage, Stage::Resolving { .. }));
        match given {
            Some(became) if has_successor => changes.push(rows::put_became(&key, &became)),
            Some(_) | None if known && !has_successor => changes.push(rows::delete_became(&key)),
            Some(_) | None => {}
        }
        Some(changes)
    }

    /// The outcome is durable: what may be told of it. `None` for a ticket that was not being resolved.
    pub fn handle_resolved(&mut self, ticket: &Ticket) -> Option<TicketView> {
        let no = self.no_of(ticket)?;
        let Stage::Resolving { .. } = self.waiting.get(&no)?.stage else {
            return None;
        };
        let Waiting { row, stage } = self.remove(no);
        let Stage::Resolving { done, became, forgets } = stage else {
            unreachable!("it was looked at before it was removed");
        };
        self.resolving -= 1;
        for gone in forgets {
            self.leaving.remove(&gone);
            if let Some(row) = self.outcomes.remove(&gone) {
                self.outcomes_by_age.remove(&row.order);
            }
        }
        self.outcomes_by_age.insert(done.order, no);
        let view = done.view(ticket.clone());
        self.outcomes.insert(no, done);
        if let Some(on_key) = self.keys.get_mut(&row.key) {
            on_key.became = became.or(on_key.became.take());
        }
        self.refresh(&row.key);
        Some(view)
    }

    /// Neither the write nor its outcome could be stored: it waits on, at its place.
    pub fn handle_not_resolved(&mut self, ticket: &Ticket) {
        let Some(no) = self.no_of(ticket) else {
            return;
        };
        let Some(waiting) = self.waiting.get_mut(&no) else {
            return;
        };
        let Stage::Resolving { forgets, .. } = &waiting.stage else {
            return;
        };
        forgets.iter().for_each(|no| {
            self.leaving.remove(no);
        });
        self.resolving -= 1;
        waiting.stage = Stage::Waiting;
        let key = waiting.row.key.clone();
        self.refresh(&key);
    }

    fn take_in(&mut self, row: Row) {
        match row {
            Row::Write(no, row) => self.insert(no, row, Stage::Waiting),
            Row::Done(no, done) => {
                self.note_number(no);
                self.last_outcome = self.last_outcome.max(done.order);
                self.outcomes_by_age.insert(done.order, no);
                self.outcomes.insert(no, done);
            }
            Row::Became(key, became) => self.keys.entry(key).or_default().became = Some(became),
        }
    }

    /// Rows that no crash leaves behind; should they be there all the same, an outcome stays the only one, and no
    /// later write takes what an unrelated one became for its predecessor's.
    fn drop_leftovers(&mut self) -> Vec<Change> {
        let resolved: Vec<No> =
            self.waiting.keys().filter(|no| self.outcomes.contains_key(no)).copied().collect();
        let mut changes = Vec::new();
        for no in resolved {
            self.remove(no);
            changes.push(rows::delete_write(no));
        }
        self.keys.retain(|key, on_key| {
            if on_key.writes.is_empty() && on_key.became.is_some() {
                changes.push(rows::delete_became(key));
            }
            !on_key.writes.is_empty()
        });
        changes
    }

    /// What its predecessors became must be stored with a write that comes while one of them is being resolved:
    /// that one may have seen no successor, and left no row.
    fn became_for_newcomer(&self, key: &str) -> Option<Change> {
        let is_resolving = self.on_key(key).any(|waiting| matches!(waiting.stage, Stage::Resolving { .. }));
        self.known_became(key).filter(|_| is_resolving).map(|became| rows::put_became(key, &became))
    }

    /// What the predecessors on a key became, as far as that is stored or being stored.
    fn known_became(&self, key: &str) -> Option<Bytes> {
        let under_way = self.on_key(key).filter_map(|waiting| match &waiting.stage {
            Stage::Resolving { became, .. } => became.clone(),
            Stage::Storing | Stage::Waiting | Stage::Offered => None,
        });
        under_way.last().or_else(|| self.keys.get(key)?.became.clone())
    }

    fn on_key(&self, key: &str) -> impl Iterator<Item = &Waiting> {
        self.keys.get(key).into_iter().flat_map(|on_key| &on_key.writes).map(|no| &self.waiting[no])
    }

    /// As many of the oldest outcomes as are too many with one more.
    fn outcomes_to_forget(&self) -> Vec<No> {
        let kept = self.outcomes.len() - self.leaving.len() + self.resolving + 1;
        let too_many = kept.saturating_sub(self.bounds.outcomes);
        self.outcomes_by_age
            .values()
            .filter(|no| !self.leaving.contains(no))
            .take(too_many)
            .copied()
            .collect()
    }

    /// Whether it was there.
    fn move_on(&mut self, ticket: &Ticket, from: impl Fn(&Stage) -> bool, to: Stage) -> bool {
        let Some(no) = self.no_of(ticket) else {
            return false;
        };
        let Some(waiting) = self.waiting.get_mut(&no).filter(|waiting| from(&waiting.stage)) else {
            return false;
        };
        waiting.stage = to;
        let key = waiting.row.key.clone();
        self.refresh(&key);
        true
    }

    /// Makes the first write of a key ready, if it waits; forgets a key on which nothing waits.
    fn refresh(&mut self, key: &str) {
        let Some(on_key) = self.keys.get(key) else {
            return;
        };
        let Some(first) = on_key.writes.first() else {
            self.keys.remove(key);
            return;
        };
        if matches!(self.waiting[first].stage, Stage::Waiting) {
            self.ready.insert(*first);
        }
    }

    fn insert(&mut self, no: No, row: WriteRow, stage: Stage) {
        self.note_number(no);
        self.bytes += row.bytes();
        self.keys.entry(row.key.clone()).or_default().writes.insert(no);
        self.deadlines.insert((row.deadline_ms, no));
        self.waiting.insert(no, Waiting { row, stage });
    }

    fn remove(&mut self, no: No) -> Waiting {
        let waiting = self.waiting.remove(&no).expect("the caller looked it up");
        self.bytes -= waiting.row.bytes();
        self.ready.remove(&no);
        self.deadlines.remove(&(waiting.row.deadline_ms, no));
        if let Some(on_key) = self.keys.get_mut(&waiting.row.key) {
            on_key.writes.remove(&no);
        }
        waiting
    }

    /// No number is given twice, not even if two processes should have had the same start.
    fn note_number(&mut self, (start, number): No) {
        if start == self.start {
            self.last_number = self.last_number.max(number);
        }
    }

    fn no_of(&self, ticket: &Ticket) -> Option<No> {
        (ticket.node == self.own).then_some((ticket.start, ticket.number))
    }

    fn ticket_of(&self, (start, number): No) -> Ticket {
        Ticket { node: self.own.clone(), start, number }
    }
}
