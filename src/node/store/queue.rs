//! What waits for the writer thread: commits, in the order in which they were given, up to a bound.
//!
//! A commit that finds the queue full leaves a mark in its place, so that its refusal is reported in
//! turn and by the same thread as every other outcome. Marks of consecutive numbers are one entry, so
//! they do not grow while the disk hangs.
//!
//! A commit costs about the same whether one batch is in it or a hundred. Clients that each wait for one write come
//! back soon after their outcome, so the writer may wait for the [`Company`] that it had before, for a small
//! share of what a commit takes. Whoever writes alone has no company, and does not wait.
//!
//! Entries of the history wait beside them with a bound of their own: they never take a commit's place, and
//! gather for [`limits::HISTORY_DELAY_MAX`] unless there is a commit to follow or a reader waits.

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::history::Row;
use crate::core::contract::Change;
use crate::core::ids::PersistNo;
use crate::core::limits;

/// What the writer finds in the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Changes to commit together.
    Commit(PersistNo, Vec<Change>),
    /// Numbers that found the queue full.
    Refused {
        /// Which.
        numbers: RangeInclusive<u64>,
        /// Whether a change of the core's own tables was among them.
        touches_table: bool,
    },
}

impl Entry {
    /// Whether a change of the core's own tables is in it.
    pub(super) fn touches_table(&self) -> bool {
        match self {
            Self::Commit(_, changes) => changes.iter().any(Change::touches_table),
            Self::Refused { touches_table, .. } => *touches_table,
        }
    }
}

/// Who is told that the files are gone.
type OnGone = Box<dyn FnOnce(String) + Send>;

/// A bounded queue with one consumer.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Entries of the history were written, or given up.
    kept: Condvar,
    on_gone: Mutex<Option<OnGone>>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

/// How many commits are worth waiting for, and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Company {
    commits: usize,
    until: Instant,
}

impl Company {
    /// Whoever comes is taken.
    pub(super) fn none() -> Self {
        Self { commits: 1, until: Instant::now() }
    }

    /// As many as there were, for a share of the time that their commit took.
    pub(super) fn as_before(commits: usize, commit_time: Duration) -> Self {
        let patience = (commit_time / limits::STORE_GATHER_DIVISOR).min(limits::STORE_GATHER_MAX);
        Self { commits: commits.max(1), until: Instant::now() + patience }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    /// With how many of them the writer wants to be woken; 0 while it works.
    wanted: usize,
    changes: usize,
    /// Of keys and rows for the core's own tables.
    bytes: usize,
    history: Vec<Row>,
    /// When the oldest of them came.
    history_since: Option<Instant>,
    /// A reader waits for them.
    history_wanted: bool,
    /// How many were ever taken in, and how many of those are through.
    history_in: u64,
    history_out: u64,
    history_dropped: u64,
    closed: bool,
}

impl Waiting {
    /// Leaves a mark in the place of a commit, or makes the last mark longer.
    fn refuse(&mut self, no: PersistNo, touches: bool) {
        if let Some(Entry::Refused { numbers, touches_table }) = self.entries.back_mut()
            && numbers.end().checked_add(1) == Some(no.0)
        {
            *numbers = *numbers.start()..=no.0;
            *touches_table |= touches;
            return;
        }
        self.entries.push_back(Entry::Refused { numbers: no.0..=no.0, touches_table: touches });
    }

    /// Whether there is something to do now, or for how long that may wait yet; `None`: until something comes.
    fn due(&self, company: Company) -> Result<(), Option<Duration>> {
        if self.entries.is_empty() {
            return self.history_due();
        }
        if self.closed || self.history_wanted || self.entries.len() >= company.commits {
            return Ok(());
        }
        let left = company.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Ok(()) } else { Err(Some(left)) }
    }

    /// Whether entries of the history have waited long enough, or for how long they may yet.
    fn history_due(&self) -> Result<(), Option<Duration>> {
        let Some(since) = self.history_since else {
            return Err(None);
        };
        if self.history_wanted || self.closed || !self.entries.is_empty() {
            return Ok(());
        }
        let left = limits::HISTORY_DELAY_MAX.saturating_sub(since.elapsed());
        if left.is_zero() { Ok(()) } else { Err(Some(left)) }
    }
}

/// What the writer takes at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Commits and refusals, in order.
    pub(super) entries: VecDeque<Entry>,
    /// Entries of the history, in order; to be reported with [`Queue::history_done`].
    pub(super) history: Vec<Row>,
}

impl Queue {
    /// Adds a commit, or its refusal if the queue is full.
    pub(super) fn push(&self, no: PersistNo, changes: Vec<Change>) {
        let mut waiting = self.lock();
        let weight = changes.len().max(1);
        let bytes: usize = changes.iter().map(row_bytes).sum();
        // Whatever its size: what a disk that was full has to take in one transaction may be more than fits here.
        let has_room = waiting.changes < limits::STORE_QUEUE_CHANGES_MAX
            && waiting.bytes < limits::STORE_QUEUE_BYTES_MAX;
        if has_room {
            waiting.changes += weight;
            waiting.bytes += bytes;
            waiting.entries.push_back(Entry::Commit(no, changes));
        } else {
            waiting.refuse(no, changes.iter().any(Change::touches_table));
        }
        let is_wanted = (1..=waiting.entries.len()).contains(&waiting.wanted);
        drop(waiting);
        if is_wanted {
            self.changed.notify_one();
        }
    }

    /// Adds an entry of the history; `false` if it was dropped because too many wait.
    pub(super) fn record(&self, row: Row) -> bool {
        let mut waiting = self.lock();
        if waiting.history.len() >= limits::HISTORY_QUEUE_MAX || waiting.closed {
            waiting.history_dropped += 1;
            return false;
        }
        waiting.history.push(row);
        waiting.history_in += 1;
        let is_first = waiting.history_since.is_none();
        if is_first {
            waiting.history_since = Some(Instant::now());
        }
        drop(waiting);
        // The writer only has to learn until when it may sleep.
        if is_first {
            self.changed.notify_one();
        }
        true
    }

    /// Waits for something to do, for `patience` at most, and takes all of it; `None` once the queue is closed and
    /// empty.
    pub(super) fn take(&self, company: Company, patience: Duration) -> Option<Taken> {
        let begun = Instant::now();
        let mut waiting = self.lock();
        loop {
            let left = match waiting.due(company) {
                Ok(()) => break,
                Err(None) if waiting.closed => return None,
                Err(left) => left,
            };
            let rest = patience.saturating_sub(begun.elapsed());
            if rest.is_zero() {
                waiting.wanted = 0;
                return Some(Taken::default());
            }
            let expected = company.until.saturating_duration_since(Instant::now());
            // While company is expected, each of it does not wake the writer.
            waiting.wanted = if expected.is_zero() { 1 } else { company.commits };
            let expected = (!expected.is_zero()).then_some(expected);
            let left = [left, expected].into_iter().flatten().fold(rest, Duration::min);
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.wanted = 0;
        waiting.changes = 0;
        waiting.bytes = 0;
        waiting.history_since = None;
        waiting.history_wanted = false;
        let entries = std::mem::take(&mut waiting.entries);
        Some(Taken { entries, history: std::mem::take(&mut waiting.history) })
    }

    /// So many entries of the history are written, or lost.
    pub(super) fn history_done(&self, count: usize, lost: bool) {
        let mut waiting = self.lock();
        waiting.history_out += count as u64;
        if lost {
            waiting.history_dropped += count as u64;
        }
        drop(waiting);
        self.kept.notify_all();
    }

    /// Waits until the entries that were taken in before are through, or for `patience`.
    pub(super) fn flush_history(&self, patience: Duration) {
        let mut waiting = self.lock();
        let upto = waiting.history_in;
        if waiting.history_out >= upto {
            return;
        }
        waiting.history_wanted = true;
        self.changed.notify_one();
        let is_behind = |w: &mut Waiting| w.history_out < upto;
        drop(self.kept.wait_timeout_while(waiting, patience, is_behind));
    }

    /// Whom to tell when the consumer finds its files gone.
    pub(super) fn when_gone(&self, tell: OnGone) {
        *self.on_gone.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
    }

    /// The consumer's files are gone: it is told once.
    pub(super) fn tell_gone(&self, reason: &str) {
        let tell = self.on_gone.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tell) = tell {
            tell(reason.to_owned());
        }
    }

    /// Commits and marks that wait.
    pub(super) fn waiting_entries(&self) -> usize {
        self.lock().entries.len()
    }

    /// Changes that wait to be committed.
    pub(super) fn waiting_changes(&self) -> usize {
        self.lock().changes
    }

    /// Entries of the history that were dropped.
    pub(super) fn history_dropped(&self) -> u64 {
        self.lock().history_dropped
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

/// What a change weighs beside itself.
fn row_bytes(change: &Change) -> usize {
    match change {
        Change::Put { key, row, .. } => key.len() + row.len(),
        Change::Delete { key, .. } => key.len(),
        Change::MeshId(_)
        | Change::Peer(_)
        | Change::ForgetPeer(_)
        | Change::Agent(_)
        | Change::RemoveAgent(_)
        | Change::LeaveMesh
        | Change::StartAtLeast(_)
        | Change::Clear(_)
        | Change::Afresh => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_finds_the_queue_full_is_refused_in_its_turn_and_costs_no_more_space() {
        let queue = Queue::default();
        let max = limits::STORE_QUEUE_CHANGES_MAX as u64;
        for no in 0..max + 1000 {
            queue.push(PersistNo(no), Vec::new());
        }
        let taken = queue.take(Company::none(), LONG).expect("something waits").entries;
        assert_eq!(taken.len() as u64, max + 1);
        assert_eq!(taken.back(), Some(&Entry::Refused { numbers: max..=max + 999, touches_table: false }));
        queue.push(PersistNo(7), Vec::new());
        assert_eq!(
            queue.take(Company::none(), LONG).expect("room again").entries.pop_back(),
            Some(Entry::Commit(PersistNo(7), Vec::new()))
        );
    }

    #[test]
    fn the_bytes_that_wait_are_bounded_and_one_commit_may_be_larger() {
        let large = |times: usize| -> Vec<Change> {
            let row = bytes::Bytes::from(vec![1; limits::STORE_ROW_BYTES_MAX]);
            let put = |n: usize| Change::Put {
                table: crate::core::contract::Table::State,
                key: vec![n as u8].into(),
                row: row.clone(),
            };
            (0..times).map(put).collect()
        };
        let queue = Queue::default();
        queue.push(PersistNo(1), large(1));
        queue.push(PersistNo(2), large(limits::STORE_QUEUE_BYTES_MAX / limits::STORE_ROW_BYTES_MAX + 1));
        queue.push(PersistNo(3), large(1));
        let taken = queue.take(Company::none(), LONG).expect("something waits").entries;
        let is_taken: Vec<_> = taken.iter().map(|entry| matches!(entry, Entry::Commit(..))).collect();
        assert_eq!(is_taken, [true, true, false]);
    }

    #[test]
    fn a_closed_queue_is_emptied_before_it_ends() {
        let queue = Queue::default();
        queue.push(PersistNo(1), Vec::new());
        queue.close();
        assert!(queue.take(Company::none(), LONG).is_some());
        assert!(queue.take(Company::none(), LONG).is_none());
    }

    fn row() -> Row {
        let event = crate::core::model::Event::Refused { peer: "p".to_owned(), reason: "r".to_owned() };
        Row { unix_ms: 1, what: crate::core::wire::Recorded::Event(event) }
    }

    #[test]
    fn a_full_history_drops_and_counts_and_takes_no_place_from_commits() {
        let queue = Queue::default();
        for n in 0..limits::HISTORY_QUEUE_MAX + 7 {
            assert_eq!(queue.record(row()), n < limits::HISTORY_QUEUE_MAX);
        }
        assert_eq!(queue.history_dropped(), 7);
        for no in 0..limits::STORE_QUEUE_CHANGES_MAX as u64 {
            queue.push(PersistNo(no), Vec::new());
        }
        let taken = queue.take(Company::none(), LONG).expect("something waits");
        assert_eq!(taken.entries.len(), limits::STORE_QUEUE_CHANGES_MAX);
        assert!(taken.entries.iter().all(|entry| matches!(entry, Entry::Commit(..))));
        assert_eq!(taken.history.len(), limits::HISTORY_QUEUE_MAX, "it goes with the commits at once");
    }

    #[test]
    fn history_gathers_for_a_while_and_a_reader_hurries_it() {
        let queue = std::sync::Arc::new(Queue::default());
        queue.record(row());
        let begun = Instant::now();
        assert_eq!(queue.take(Company::none(), LONG).expect("it is due in the end").history.len(), 1);
        assert!(begun.elapsed() >= limits::HISTORY_DELAY_MAX);
        queue.history_done(1, false);

        queue.record(row());
        let writer = std::sync::Arc::clone(&queue);
        let writer = std::thread::spawn(move || {
            let taken = writer.take(Company::none(), LONG).expect("something waits");
            writer.history_done(taken.history.len(), false);
        });
        let begun = Instant::now();
        queue.flush_history(Duration::from_secs(10));
        assert!(begun.elapsed() < limits::HISTORY_DELAY_MAX, "{:?}", begun.elapsed());
        writer.join().expect("it ends");
    }

    fn push(queue: &Queue, numbers: std::ops::Range<u64>) {
        numbers.for_each(|no| queue.push(PersistNo(no), Vec::new()));
    }

    #[test]
    fn commits_that_come_back_soon_are_waited_for_and_taken_together() {
        let queue = std::sync::Arc::new(Queue::default());
        let giver = std::sync::Arc::clone(&queue);
        push(&queue, 0..3);
        // Longer than any commit: only that all are there ends the wait.
        let company = Company { commits: 5, until: Instant::now() + Duration::from_secs(60) };
        let giver = std::thread::spawn(move || push(&giver, 3..5));
        assert_eq!(queue.take(company, LONG).expect("all are there").entries.len(), 5);
        assert!(Instant::now() < company.until, "the last of them ends the wait");
        giver.join().expect("it ends");
    }

    #[test]
    fn company_that_does_not_come_costs_a_share_of_a_commit_and_no_more() {
        let commit = Duration::from_millis(4);
        let queue = Queue::default();
        push(&queue, 0..1);
        let begun = Instant::now();
        assert_eq!(queue.take(Company::as_before(64, commit), LONG).expect("one came").entries.len(), 1);
        let patience = begun.elapsed();
        assert!(patience >= commit / limits::STORE_GATHER_DIVISOR, "{patience:?}");

        push(&queue, 1..2);
        let company = Company::as_before(64, Duration::from_secs(3600));
        assert!(company.until <= Instant::now() + limits::STORE_GATHER_MAX, "whatever a commit took");
        assert_eq!(queue.take(company, LONG).expect("one came").entries.len(), 1);
    }

    #[test]
    fn whoever_writes_alone_and_whoever_closes_the_queue_waits_for_nobody() {
        let queue = Queue::default();
        let far = Instant::now() + Duration::from_secs(3600);
        push(&queue, 0..1);
        assert_eq!(
            queue.take(Company { commits: 1, until: far }, LONG).expect("it is there").entries.len(),
            1
        );
        push(&queue, 1..2);
        queue.close();
        assert!(queue.take(Company { commits: 2, until: far }, LONG).is_some());
        assert!(queue.take(Company { commits: 2, until: far }, LONG).is_none());
    }
}
