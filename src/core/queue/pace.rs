//! A pace in bytes. That of the replay keeps a full queue from filling the links to the other nodes. How many writes
//! are under way at once is bounded by the disk, which has to take them before the next ones are made.

use std::time::Duration;

use crate::core::time::Instant;

/// A bucket that leaks steadily ("generic cell rate algorithm", ITU-T I.371).
#[derive(Debug)]
pub(crate) struct Pace {
    /// The time that one byte takes.
    each: Duration,
    /// How far ahead of its time a write may be made.
    ahead_max: Duration,
    /// When everything that was made would have been due.
    due: Instant,
    /// Before this, nothing is made.
    paused_until: Instant,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u32, bytes_at_once: u32) -> Self {
        let each = Duration::from_secs(1) / bytes_per_second;
        Self { each, ahead_max: each * bytes_at_once, due: Instant::ZERO, paused_until: Instant::ZERO }
    }

    /// Whether so many bytes may be made at `now`; they count then.
    pub(crate) fn take(&mut self, now: Instant, bytes: usize) -> bool {
        if self.next_at(now) > now {
            return false;
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.due = self.due.max(now) + self.each * bytes;
        true
    }

    /// Nothing is made for a while.
    pub(super) fn pause(&mut self, until: Instant) {
        self.paused_until = self.paused_until.max(until);
    }

    /// When something may be made.
    pub(crate) fn next_at(&self, now: Instant) -> Instant {
        let wait = self.due.since(now).saturating_sub(self.ahead_max);
        (now + wait).max(self.paused_until)
    }
}
