//! The pace of the replay: a bucket of tokens, so that a full queue does not starve what is written meanwhile.

use std::time::Duration;

use crate::core::time::Instant;

#[derive(Debug)]
pub(super) struct Pace {
    /// The time in which one token comes.
    each: Duration,
    full: Duration,
    /// What is in the bucket, as the time that it took to come.
    credit: Duration,
    counted: Option<Instant>,
}

impl Pace {
    pub(super) fn new(per_second: u32, burst: usize) -> Self {
        let each = Duration::from_secs(1) / per_second;
        let full = each * u32::try_from(burst).expect("a burst is a small number");
        Self { each, full, credit: full, counted: None }
    }

    /// Whether there is a token at `now`; it is taken.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = self.counted.map_or(Duration::ZERO, |counted| now.since(counted));
        self.credit = (self.credit + passed).min(self.full);
        self.counted = self.counted.max(Some(now));
        let Some(left) = self.credit.checked_sub(self.each) else {
            return false;
        };
        self.credit = left;
        true
    }

    /// When there is a token.
    pub(super) fn next_at(&self, now: Instant) -> Instant {
        let counted = self.counted.unwrap_or(now);
        now.max(counted + self.each.saturating_sub(self.credit))
    }
}
