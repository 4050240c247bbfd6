//! Messages that were given up: kept within bounds, dropped, taken up again.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::rows::{self, DeadRow, LetterRow};
use super::{Outbox, OutboxFull};
use crate::core::contract::Change;
use crate::core::error::SendError;
use crate::core::limits;
use crate::core::model::DeadLetter;

/// The number of a dead letter, and that of the message that it becomes.
pub type Renumbered = (u64, u64);

impl Outbox {
    /// The dead letters, oldest first.
    pub fn dead_letters(&self) -> impl Iterator<Item = DeadLetter> {
        self.dead.values().map(DeadRow::view)
    }

    /// Drops dead letters, all of them with `None`: their numbers, and what is to be made durable before
    /// [`Outbox::dropped`].
    pub fn drop_dead(&mut self, ids: Option<&BTreeSet<Uuid>>) -> (Vec<u64>, Vec<Change>) {
        let numbers = self.dead_numbers(ids);
        numbers.iter().for_each(|number| self.mark(*number));
        let changes = numbers.iter().map(|number| rows::delete_dead(*number)).collect();
        (numbers, changes)
    }

    /// Dead letters are dropped, or are not.
    pub fn dropped(&mut self, numbers: &[u64], is_stored: bool) {
        for number in numbers {
            self.unmark(*number);
            if is_stored {
                self.exhume(*number);
            }
        }
    }

    /// Takes dead letters up again, as many as there is room for, all of them with `None`. Each has the time again that it
    /// once had. Returns the pairs of numbers, of the dead letter and of the message, and what is to be made durable before
    /// [`Outbox::dropped`] and [`Outbox::accepted`].
    ///
    /// # Errors
    /// [`OutboxFull`] when there is room for none; nothing was changed.
    pub fn retry_dead(
        &mut self,
        ids: Option<&BTreeSet<Uuid>>,
        unix_ms: u64,
    ) -> Result<(Vec<Renumbered>, Vec<Change>), OutboxFull> {
        let (mut pairs, mut changes) = (Vec::new(), Vec::new());
        for old in self.dead_numbers(ids) {
            let Some(DeadRow { letter, .. }) = self.dead.get(&old).cloned() else {
                continue;
            };
            match self.check_room(1, letter.bytes()) {
                Ok(()) => {}
                Err(full) if pairs.is_empty() => return Err(full),
                Err(_) => break,
            }
            let life_ms = letter.deadline_at_ms.saturating_sub(letter.accepted_at_ms);
            let deadline_at_ms = unix_ms.saturating_add(life_ms);
            let row = LetterRow { accepted_at_ms: unix_ms, deadline_at_ms, ..letter };
            let number = self.last + 1;
            self.store(row.bytes());
            changes.extend([rows::delete_dead(old), rows::put_letter(number, &row)]);
            self.insert(number, row);
            self.mark(old);
            pairs.push((old, number));
        }
        Ok((pairs, changes))
    }

    fn dead_numbers(&self, ids: Option<&BTreeSet<Uuid>>) -> Vec<u64> {
        let is_meant = |row: &DeadRow| ids.is_none_or(|ids| ids.contains(&row.letter.message.id));
        let free = self.dead.iter().filter(|(number, _)| !self.moving.contains(number));
        free.filter(|(_, row)| is_meant(row))
            .map(|(number, _)| *number)
            .take(limits::DEAD_LETTERS_AT_ONCE)
            .collect()
    }

    /// The dead letters that go for one of so many bytes.
    pub(super) fn oldest_for(&self, bytes: usize) -> Vec<u64> {
        let free = || self.dead.iter().filter(|(number, _)| !self.moving.contains(number));
        let mut count = self.dead.len() - self.moving.len() + self.dying;
        let mut total = self.dead_bytes - self.moving_bytes + self.dying_bytes;
        let mut oldest = Vec::new();
        for (number, row) in free() {
            if count < self.bounds.dead && total + bytes <= self.bounds.dead_bytes {
                break;
            }
            count -= 1;
            total -= row.letter.bytes();
            oldest.push(*number);
        }
        oldest
    }

    /// A transaction under way drops it, or takes it up again.
    pub(super) fn mark(&mut self, number: u64) {
        let bytes = self.dead.get(&number).map_or(0, |row| row.letter.bytes());
        if self.moving.insert(number) {
            self.moving_bytes += bytes;
        }
    }

    /// It does not any more.
    pub(super) fn unmark(&mut self, number: u64) {
        let bytes = self.dead.get(&number).map_or(0, |row| row.letter.bytes());
        if self.moving.remove(&number) {
            self.moving_bytes -= bytes;
        }
    }

    /// Whether so many are dropped or taken up again that no more should be given to the disk.
    #[must_use]
    pub fn moves_many(&self) -> bool {
        self.is_disk_busy() || self.moving.len() >= limits::OUTBOX_STORING_MAX
    }

    pub(super) fn bury(&mut self, number: u64, row: DeadRow) {
        self.last = self.last.max(number);
        self.dead_bytes += row.letter.bytes();
        self.dead.insert(number, row);
    }

    pub(super) fn exhume(&mut self, number: u64) {
        self.unmark(number);
        if let Some(row) = self.dead.remove(&number) {
            self.dead_bytes -= row.letter.bytes();
        }
    }
}

/// Whether no later try can end otherwise.
pub(super) fn is_final(error: &SendError) -> bool {
    match error {
        SendError::ContentTooLarge { .. } | SendError::BadAddress { .. } | SendError::TooManyHops { .. } => {
            true
        }
        SendError::UnknownAgent { .. }
        | SendError::NoRecipient { .. }
        | SendError::NodeDown { .. }
        | SendError::TooFar { .. }
        | SendError::NotRunning { .. }
        | SendError::BreakerOpen { .. }
        | SendError::Overloaded { .. }
        | SendError::DeadlineExceeded { .. }
        | SendError::LinkLost { .. }
        | SendError::AgentFailed { .. }
        | SendError::Joining { .. }
        | SendError::Superseded { .. }
        | SendError::NotPromised { .. }
        | SendError::Stopping { .. } => false,
    }
}
