//! The messages that this node has promised to deliver, until an agent has answered them.
//!
//! `storing -> waiting -> trying -> settling -> gone`, and back from `trying` to `waiting` when a try has failed. A message
//! is durable before its sender is told that it was taken in; it goes only after an agent has answered it, or after
//! it has become a dead letter in the same transaction. So a crash at any point leaves it to be delivered (perhaps again),
//! delivered, or among the dead letters: never nowhere.
//!
//! Messages of one sender and one conversation to one address are tried one after the other, each after the one before
//! it is settled; others side by side, a bounded number for each address, so that a slow agent takes no turns from the
//! others. A try that has failed is repeated after a pause that doubles ([`backoff`]).
//!
//! | row | key | what |
//! |---|---|---|
//! | letter | `m`, number | what is to be delivered, in the order in which it came |
//! | dead letter | `d`, number | what was given up; the last [`limits::DEAD_LETTERS_MAX`] are kept |
//!
//! What it does not do: it sends nothing, asks no disk and keeps no time of its own. Whether a message reached its agent
//! twice is not known here: a try whose answer is lost is repeated.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use self::dead::is_final;
use self::rows::{DeadRow, LetterRow, Row};
use super::contract::Change;
use super::error::SendError;
use super::limits;
use super::model::{Address, FailedTry, LetterState, LetterTrace, Message};
use super::time::Instant;

mod bounds;
mod dead;
mod rows;
#[cfg(test)]
mod tests;

pub use self::bounds::{OutboxBounds, OutboxFull};
pub use self::dead::Renumbered;

/// How long the first pause between two tries of a message is.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the pause is at most.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A message whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Try {
    /// Names it in [`Outbox::ended`].
    pub number: u64,
    /// The message, with the time that this try may take.
    pub message: Message,
}

/// The outbox, with what [`Outbox::restore`] has to say of its rows.
#[derive(Debug)]
pub struct Restored {
    /// The outbox.
    pub outbox: Outbox,
    /// Rows that this version does not understand; they stay where they are.
    pub unreadable: usize,
}

/// The messages that are to be delivered, and those that were given up.
#[derive(Debug)]
pub struct Outbox {
    bounds: OutboxBounds,
    last: u64,
    letters: BTreeMap<u64, Letter>,
    ids: BTreeMap<Uuid, u64>,
    bytes: usize,
    /// What belongs to one conversation, in order: only the first is tried.
    lanes: BTreeMap<Lane, BTreeSet<u64>>,
    due: BTreeSet<(Instant, u64)>,
    /// Of those that are not being tried.
    deadlines: BTreeSet<(u64, u64)>,
    trying: usize,
    addresses: BTreeMap<Address, Busy>,
    /// What is on its way to the disk, and the bytes of it: new messages, and the ends of others.
    storing: usize,
    storing_bytes: usize,
    /// Their ends could not be stored.
    owed: BTreeSet<u64>,
    dead: BTreeMap<u64, DeadRow>,
    dead_bytes: usize,
    /// Dead letters that a transaction under way drops or takes up again.
    moving: BTreeSet<u64>,
    moving_bytes: usize,
    /// The last ones that were delivered.
    delivered: VecDeque<LetterTrace>,
    died: u64,
    /// Messages on their way to the dead letters, and the bytes of them.
    dying: usize,
    dying_bytes: usize,
}

#[derive(Debug)]
struct Letter {
    row: LetterRow,
    stage: Stage,
    /// When it is tried next, while that is known.
    due: Option<Instant>,
    tries: u32,
    /// Tries that had no end in their time.
    late: u32,
    failed: VecDeque<FailedTry>,
}

#[derive(Debug)]
enum Stage {
    /// Its row is not durable yet.
    Storing,
    Waiting,
    Trying,
    /// Its end is not durable yet; with the dead letters that are dropped in its favour.
    Settling(End, Vec<u64>),
}

#[derive(Debug, Clone)]
enum End {
    Delivered { at_ms: u64 },
    Dead(Box<DeadRow>),
}

impl End {
    /// What a dead letter weighs.
    fn bytes(&self) -> Option<usize> {
        match self {
            Self::Delivered { .. } => None,
            Self::Dead(row) => Some(row.letter.bytes()),
        }
    }
}

/// From whom, to whom, and the conversation.
type Lane = (String, Address, String);

/// What is being tried at one address.
#[derive(Debug, Default)]
struct Busy {
    trying: usize,
    /// Due, and waiting for one of those to end.
    parked: BTreeSet<u64>,
}

/// How long the pause after so many failed tries is: 200 ms, doubled with each, 30 s at most.
#[must_use]
pub fn backoff(tries: u32) -> Duration {
    PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(PAUSE_MAX)
}

/// How long a try may take after so many that had no end in their time: an agent that needs longer has its time in the end.
fn patience(late: u32) -> Duration {
    limits::OUTBOX_TRY_DEADLINE.saturating_mul(1 << late.min(16)).min(limits::OUTBOX_TRY_LONGEST)
}

impl Outbox {
    /// The outbox of a process that finds these rows, in order of their keys.
    #[must_use]
    pub fn restore(bounds: OutboxBounds, rows: &[(Bytes, Bytes)], now: Instant) -> Restored {
        let mut outbox = Self {
            bounds,
            last: 0,
            letters: BTreeMap::new(),
            ids: BTreeMap::new(),
            bytes: 0,
            lanes: BTreeMap::new(),
            due: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            trying: 0,
            addresses: BTreeMap::new(),
            storing: 0,
            storing_bytes: 0,
            owed: BTreeSet::new(),
            dead: BTreeMap::new(),
            dead_bytes: 0,
            moving: BTreeSet::new(),
            moving_bytes: 0,
            delivered: VecDeque::new(),
            died: 0,
            dying: 0,
            dying_bytes: 0,
        };
        let mut unreadable = 0;
        for (key, row) in rows {
            // Also of rows that cannot be read: none is overwritten.
            outbox.last = outbox.last.max(rows::number(key).unwrap_or(0));
            match rows::read(key, row) {
                Some(Row::Letter(number, row)) => {
                    outbox.insert(number, row);
                    outbox.wait(number, now);
                }
                Some(Row::Dead(number, row)) => outbox.bury(number, row),
                None => unreadable += 1,
            }
        }
        Restored { outbox, unreadable }
    }

    /// Messages that are not settled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    /// Whether there is nothing to be delivered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// Dead letters.
    #[must_use]
    pub fn dead(&self) -> usize {
        self.dead.len()
    }

    /// How many messages this process has given up.
    #[must_use]
    pub fn died(&self) -> u64 {
        self.died
    }

    /// Takes messages in, all or none: their numbers, and what is to be made durable, in one transaction, before
    /// [`Outbox::accepted`].
    ///
    /// # Errors
    /// [`OutboxFull`]; nothing was changed.
    pub fn accept(
        &mut self,
        messages: Vec<Message>,
        unix_ms: u64,
        life: Duration,
    ) -> Result<(Vec<u64>, Vec<Change>), OutboxFull> {
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        let deadline_at_ms = unix_ms.saturating_add(life_ms);
        let row = |message| LetterRow { message, accepted_at_ms: unix_ms, deadline_at_ms };
        let rows: Vec<_> = messages.into_iter().map(row).collect();
        self.check_room(rows.len(), rows.iter().map(LetterRow::bytes).sum())?;
        let (mut numbers, mut changes) = (Vec::new(), Vec::new());
        for row in rows {
            let number = self.last + 1;
            changes.push(rows::put_letter(number, &row));
            self.store(row.bytes());
            self.insert(number, row);
            numbers.push(number);
        }
        Ok((numbers, changes))
    }

    /// The id of a message that is not settled.
    #[must_use]
    pub fn id(&self, number: u64) -> Option<Uuid> {
        self.letters.get(&number).map(|letter| letter.row.message.id)
    }

    fn store(&mut self, bytes: usize) {
        self.storing += 1;
        self.storing_bytes += bytes;
    }

    fn stored(&mut self, bytes: usize) {
        self.storing -= 1;
        self.storing_bytes -= bytes;
    }

    /// Whether no more should be given to the disk, nor tried, now.
    #[must_use]
    pub fn is_disk_busy(&self) -> bool {
        self.storing >= limits::OUTBOX_STORING_MAX || self.storing_bytes >= limits::OUTBOX_STORING_BYTES_MAX
    }

    fn check_room(&self, letters: usize, bytes: usize) -> Result<(), OutboxFull> {
        if self.letters.len() + letters > self.bounds.letters {
            return Err(OutboxFull::Letters(self.bounds.letters));
        }
        if self.bytes + bytes > self.bounds.bytes {
            return Err(OutboxFull::Bytes(self.bounds.bytes));
        }
        if self.is_disk_busy() {
            return Err(OutboxFull::Disk(self.storing));
        }
        Ok(())
    }

    /// The row of a message that was accepted, or taken up again, is durable, or is not and the message forgotten.
    pub fn accepted(&mut self, number: u64, is_stored: bool, now: Instant) {
        let bytes = self.letters.get(&number).map(|letter| letter.row.bytes());
        bytes.into_iter().for_each(|bytes| self.stored(bytes));
        if is_stored {
            self.wait(number, now);
        } else {
            self.remove(number);
        }
    }

    /// When there may be something to try; `None`: not before something else happens.
    #[must_use]
    pub fn next_try_at(&self) -> Option<Instant> {
        let has_room = self.trying < self.bounds.tries;
        self.due.first().filter(|_| has_room).map(|(at, _)| *at)
    }

    /// When the next message that is not being tried is over, in milliseconds since 1970.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The next message to be tried, if there is one.
    pub fn next_try(&mut self, now: Instant, unix_ms: u64) -> Option<Try> {
        while self.trying < self.bounds.tries {
            let (_, number) = *self.due.first().filter(|(at, _)| *at <= now)?;
            self.set_due(number, None);
            let letter = self.letters.get_mut(&number)?;
            let busy = self.addresses.entry(letter.row.message.to.clone()).or_default();
            if busy.trying >= self.bounds.tries_each {
                busy.parked.insert(number);
                continue;
            }
            busy.trying += 1;
            self.trying += 1;
            self.deadlines.remove(&(letter.row.deadline_at_ms, number));
            letter.stage = Stage::Trying;
            letter.tries += 1;
            let left_ms = letter.row.deadline_at_ms.saturating_sub(unix_ms).max(1);
            let most_ms = patience(letter.late).as_millis() as u64;
            let deadline_ms = u32::try_from(left_ms.min(most_ms)).unwrap_or(u32::MAX);
            return Some(Try { number, message: Message { deadline_ms, ..letter.row.message.clone() } });
        }
        None
    }

    /// A try is over. Returns what is to be made durable before [`Outbox::settled`], unless the message goes on waiting,
    /// for `pause`.
    pub fn ended(
        &mut self,
        number: u64,
        result: Result<(), SendError>,
        now: Instant,
        unix_ms: u64,
        pause: Duration,
    ) -> Option<Vec<Change>> {
        let letter = self.letters.get_mut(&number)?;
        if !matches!(letter.stage, Stage::Trying) {
            return None;
        }
        self.trying -= 1;
        let address = letter.row.message.to.clone();
        let deadline_at_ms = letter.row.deadline_at_ms;
        let failure = result.err().inspect(|error| {
            let reason = error.to_string().chars().take(limits::OUTBOX_REASON_CHARS_MAX).collect();
            let last = FailedTry { at_ms: unix_ms, code: error.code().to_owned(), reason };
            if letter.failed.len() == limits::OUTBOX_FAILURES_KEPT {
                letter.failed.pop_front();
            }
            letter.failed.push_back(last);
            letter.late += u32::from(matches!(error, SendError::DeadlineExceeded { .. }));
        });
        letter.stage = Stage::Waiting;
        self.release(&address, now);
        match failure {
            None => Some(self.settle(number, End::Delivered { at_ms: unix_ms }, now)),
            Some(error) if is_final(&error) => Some(self.die(number, error.to_string(), now, unix_ms)),
            Some(_) => {
                self.deadlines.insert((deadline_at_ms, number));
                let is_over = deadline_at_ms <= unix_ms;
                self.set_due(number, (!is_over).then_some(now + pause));
                None
            }
        }
    }

    /// How often a message was tried.
    #[must_use]
    pub fn tries(&self, number: u64) -> u32 {
        self.letters.get(&number).map_or(0, |letter| letter.tries)
    }

    /// Gives up the next message whose time is over: its number, and what is to be made durable before
    /// [`Outbox::settled`].
    pub fn expire(&mut self, now: Instant, unix_ms: u64) -> Option<(u64, Vec<Change>)> {
        if self.is_disk_busy() {
            return None;
        }
        let (_, number) = *self.deadlines.first().filter(|(at, _)| *at <= unix_ms)?;
        let last = self.letters.get(&number).and_then(|letter| letter.failed.back());
        let reason = match last {
            Some(last) => format!("its time was over; the last try: {}", last.reason),
            None => "its time was over before it could be tried".to_owned(),
        };
        Some((number, self.die(number, reason, now, unix_ms)))
    }

    /// The end of a message is durable, or is not.
    pub fn settled(&mut self, number: u64, is_stored: bool, now: Instant) {
        let Some(Letter { stage: Stage::Settling(end, _), .. }) = self.letters.get(&number) else {
            return;
        };
        let bytes = end.bytes();
        self.stored(bytes.unwrap_or_default());
        if let Some(bytes) = bytes {
            self.dying -= 1;
            self.dying_bytes -= bytes;
        }
        if !is_stored {
            self.owed.insert(number);
            return;
        }
        let Some(letter) = self.remove(number) else {
            return;
        };
        self.start_next(number, &letter.row, now);
        let Stage::Settling(end, dropped) = letter.stage else {
            return;
        };
        dropped.into_iter().for_each(|old| self.exhume(old));
        match end {
            End::Delivered { at_ms } => {
                if self.delivered.len() == limits::OUTBOX_DELIVERED_KEPT {
                    self.delivered.pop_front();
                }
                let state = LetterState::Delivered { at_ms };
                self.delivered.push_back(trace(&letter.row, letter.tries, letter.failed.into(), state));
            }
            End::Dead(row) => self.bury(number, *row),
        }
    }

    /// The end of a message that is still to be made durable, because the disk did not take it before.
    pub fn next_owed(&mut self, now: Instant) -> Option<(u64, Vec<Change>)> {
        if self.is_disk_busy() {
            return None;
        }
        let number = self.owed.pop_first()?;
        let Stage::Settling(end, dropped) = &self.letters.get(&number)?.stage else {
            return None;
        };
        let (end, dropped) = (end.clone(), dropped.clone());
        dropped.into_iter().for_each(|old| self.unmark(old));
        Some((number, self.settle(number, end, now)))
    }

    /// What is known of a message's way.
    #[must_use]
    pub fn trace(&self, id: Uuid) -> Option<LetterTrace> {
        if let Some(letter) = self.ids.get(&id).and_then(|number| self.letters.get(number)) {
            let state = match &letter.stage {
                Stage::Storing | Stage::Waiting => LetterState::Waiting,
                Stage::Trying => LetterState::Trying,
                Stage::Settling(End::Delivered { at_ms }, _) => LetterState::Delivered { at_ms: *at_ms },
                Stage::Settling(End::Dead(row), _) => {
                    LetterState::Dead { reason: row.reason.clone(), at_ms: row.died_at_ms }
                }
            };
            return Some(trace(&letter.row, letter.tries, letter.failed.clone().into(), state));
        }
        let dead = self.dead.values().find(|row| row.letter.message.id == id).map(|row| {
            let state = LetterState::Dead { reason: row.reason.clone(), at_ms: row.died_at_ms };
            trace(&row.letter, row.tries, vec![], state)
        });
        dead.or_else(|| self.delivered.iter().rev().find(|trace| trace.id == id).cloned())
    }

    fn insert(&mut self, number: u64, row: LetterRow) {
        self.last = self.last.max(number);
        self.bytes += row.bytes();
        self.ids.insert(row.message.id, number);
        if let Some(lane) = lane(&row) {
            self.lanes.entry(lane).or_default().insert(number);
        }
        let (stage, failed) = (Stage::Storing, VecDeque::new());
        self.letters.insert(number, Letter { row, stage, due: None, tries: 0, late: 0, failed });
    }

    fn set_due(&mut self, number: u64, due: Option<Instant>) {
        let Some(letter) = self.letters.get_mut(&number) else {
            return;
        };
        if let Some(before) = std::mem::replace(&mut letter.due, due) {
            self.due.remove(&(before, number));
        }
        self.due.extend(due.map(|at| (at, number)));
    }

    /// It is durable: it may be tried, if it is the first of its conversation.
    fn wait(&mut self, number: u64, now: Instant) {
        let Some(letter) = self.letters.get_mut(&number) else {
            return;
        };
        letter.stage = Stage::Waiting;
        self.deadlines.insert((letter.row.deadline_at_ms, number));
        let lane = lane(&letter.row);
        if lane.is_none_or(|lane| self.lanes.get(&lane).is_some_and(|lane| lane.first() == Some(&number))) {
            self.set_due(number, Some(now));
        }
    }

    /// The next of a conversation may be tried, if the one that is settled was the first.
    fn start_next(&mut self, settled: u64, row: &LetterRow, now: Instant) {
        let next = lane(row).and_then(|lane| self.lanes.get(&lane)?.first().copied());
        let is_waiting = |number: &u64| {
            self.letters.get(number).is_some_and(|letter| matches!(letter.stage, Stage::Waiting))
        };
        if let Some(number) = next.filter(|next| *next > settled).filter(is_waiting) {
            self.set_due(number, Some(now));
        }
    }

    /// A try at an address is over: one that waits for that has its turn.
    fn release(&mut self, address: &Address, now: Instant) {
        let Some(busy) = self.addresses.get_mut(address) else {
            return;
        };
        busy.trying -= 1;
        self.unpark(address, now);
    }

    /// Gives one of those that wait for a try at an address to end its turn, if there is room.
    fn unpark(&mut self, address: &Address, now: Instant) {
        let Some(busy) = self.addresses.get_mut(address) else {
            return;
        };
        let has_room = busy.trying < self.bounds.tries_each;
        let parked = if has_room { busy.parked.pop_first() } else { None };
        if busy.trying == 0 && busy.parked.is_empty() {
            self.addresses.remove(address);
        }
        if let Some(number) = parked {
            self.set_due(number, Some(now));
        }
    }

    fn die(&mut self, number: u64, reason: String, now: Instant, unix_ms: u64) -> Vec<Change> {
        let Some(letter) = self.letters.get(&number) else {
            return vec![];
        };
        self.died += 1;
        let reason = reason.chars().take(limits::DEAD_REASON_CHARS_MAX).collect();
        let row = DeadRow { letter: letter.row.clone(), died_at_ms: unix_ms, tries: letter.tries, reason };
        self.settle(number, End::Dead(Box::new(row)), now)
    }

    fn settle(&mut self, number: u64, end: End, now: Instant) -> Vec<Change> {
        self.set_due(number, None);
        let mut changes = vec![rows::delete_letter(number)];
        let mut dropped = Vec::new();
        self.store(end.bytes().unwrap_or_default());
        if let End::Dead(row) = &end {
            let bytes = row.letter.bytes();
            changes.push(rows::put_dead(number, row));
            dropped = self.oldest_for(bytes);
            changes.extend(dropped.iter().map(|old| rows::delete_dead(*old)));
            dropped.iter().for_each(|old| self.mark(*old));
            self.dying += 1;
            self.dying_bytes += bytes;
        }
        if let Some(letter) = self.letters.get_mut(&number) {
            self.deadlines.remove(&(letter.row.deadline_at_ms, number));
            letter.stage = Stage::Settling(end, dropped);
            let address = letter.row.message.to.clone();
            if let Some(busy) = self.addresses.get_mut(&address) {
                busy.parked.remove(&number);
            }
            // It may have been given the turn of one that waits.
            self.unpark(&address, now);
        }
        changes
    }

    fn remove(&mut self, number: u64) -> Option<Letter> {
        let letter = self.letters.remove(&number)?;
        self.bytes -= letter.row.bytes();
        self.ids.remove(&letter.row.message.id);
        if let Some(lane) = lane(&letter.row)
            && let Some(numbers) = self.lanes.get_mut(&lane)
        {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.lanes.remove(&lane);
            }
        }
        Some(letter)
    }
}

fn lane(row: &LetterRow) -> Option<Lane> {
    let Message { from, to, conversation_id, .. } = &row.message;
    conversation_id.as_ref().map(|conversation| (from.clone(), to.clone(), conversation.clone()))
}

fn trace(row: &LetterRow, tries: u32, failed: Vec<FailedTry>, state: LetterState) -> LetterTrace {
    LetterTrace {
        id: row.message.id,
        from: row.message.from.clone(),
        to: row.message.to.clone(),
        conversation_id: row.message.conversation_id.clone(),
        accepted_at_ms: row.accepted_at_ms,
        deadline_at_ms: row.deadline_at_ms,
        tries,
        failed,
        state,
    }
}
