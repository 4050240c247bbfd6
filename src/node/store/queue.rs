//! What waits for the writer thread: commits, in the order in which they were given, up to a bound.
//!
//! A commit that finds the queue full leaves a mark in its place, so that its refusal is reported in
//! turn and by the same thread as every other outcome. Marks of consecutive numbers are one entry, so
//! they do not grow while the disk hangs.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::core::contract::Change;
use crate::core::ids::PersistNo;
use crate::core::limits;

/// What the writer finds in the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Changes to commit together.
    Commit(PersistNo, Vec<Change>),
    /// Numbers that found the queue full.
    Refused(RangeInclusive<u64>),
}

/// A bounded queue with one consumer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    changes: usize,
    closed: bool,
}

impl Queue {
    /// Adds a commit, or its refusal if the queue is full.
    pub(super) fn push(&self, no: PersistNo, changes: Vec<Change>) {
        let mut waiting = self.lock();
        let weight = changes.len().max(1);
        if waiting.changes + weight <= limits::STORE_QUEUE_CHANGES_MAX {
            waiting.changes += weight;
            waiting.entries.push_back(Entry::Commit(no, changes));
        } else if let Some(Entry::Refused(range)) = waiting.entries.back_mut()
            && range.end().checked_add(1) == Some(no.0)
        {
            *range = *range.start()..=no.0;
        } else {
            waiting.entries.push_back(Entry::Refused(no.0..=no.0));
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Waits for something to do and takes all of it; `None` once the queue is closed and empty.
    pub(super) fn take(&self) -> Option<VecDeque<Entry>> {
        let mut waiting = self
            .changed
            .wait_while(self.lock(), |w| w.entries.is_empty() && !w.closed)
            .unwrap_or_else(PoisonError::into_inner);
        waiting.changes = 0;
        let entries = std::mem::take(&mut waiting.entries);
        (!entries.is_empty()).then_some(entries)
    }

    /// Lets the consumer finish what is there and then stop.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// No code panics while it holds the lock, so what it guards is whole even if the lock is poisoned.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_the_queue_full_is_refused_in_its_turn_and_costs_no_more_space() {
        let queue = Queue::default();
        let max = limits::STORE_QUEUE_CHANGES_MAX as u64;
        for no in 0..max + 1000 {
            queue.push(PersistNo(no), Vec::new());
        }
        let taken = queue.take().expect("something waits");
        assert_eq!(taken.len() as u64, max + 1);
        assert_eq!(taken.back(), Some(&Entry::Refused(max..=max + 999)));
        queue.push(PersistNo(7), Vec::new());
        assert_eq!(
            queue.take().expect("room again").pop_back(),
            Some(Entry::Commit(PersistNo(7), Vec::new()))
        );
    }

    #[test]
    fn a_closed_queue_is_emptied_before_it_ends() {
        let queue = Queue::default();
        queue.push(PersistNo(1), Vec::new());
        queue.close();
        assert!(queue.take().is_some());
        assert!(queue.take().is_none());
    }
}
