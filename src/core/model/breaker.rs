//! The circuit breaker of an agent: it spares those who ask an agent that keeps failing their wait.
//!
//! ```text
//! Closed -- so many failures in a row --> Open -- its time is over, or the agent was started anew --> a trial
//!    ^                                     ^                                                          |
//!    |                                     +------------------- it failed ----------------------------+
//!    +------------------------------------------------------- it was answered -----------------------+
//! ```
//!
//! [`Circuit`] is one number, so that a message takes no lock: each of its steps takes the number that is and the time, and
//! gives the number that follows. It does not say what a failure is; whoever gives messages to agents does.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::core::limits;

/// When the breaker of an agent opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// It opens after so many failures in a row.
    pub failures: u32,
    /// It stays open for so many milliseconds; then one message is let through as a trial.
    pub open_ms: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 3, open_ms: 60_000 }
    }
}

impl Breaker {
    /// Checks the bounds.
    ///
    /// # Errors
    /// A sentence for the person who deploys the agent.
    pub fn check(&self) -> Result<(), String> {
        let (min, max) = (limits::BREAKER_OPEN_MS_MIN, limits::CARE_SPAN_MS_MAX);
        if !(min..=max).contains(&self.open_ms) {
            return Err(format!(
                "a breaker that is open for {} ms: it must be {min} to {max} ms",
                self.open_ms
            ));
        }
        if !(1..=limits::BREAKER_FAILURES_MAX).contains(&self.failures) {
            let max = limits::BREAKER_FAILURES_MAX;
            return Err(format!(
                "a breaker that opens after {} failures: it must be 1 to {max}",
                self.failures
            ));
        }
        Ok(())
    }
}

/// What an agent's node says of its breaker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "breaker")]
pub enum BreakerState {
    /// Messages go through.
    #[default]
    Closed,
    /// They are refused.
    Open {
        /// What failed last.
        why: String,
    },
    /// The next one is a trial.
    HalfOpen {
        /// What failed last.
        why: String,
    },
}

impl BreakerState {
    /// The word that users see.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half-open",
        }
    }

    /// What failed last, unless it is closed.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Closed => None,
            Self::Open { why } | Self::HalfOpen { why } => Some(why),
        }
    }

    /// Whether messages go through.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self == Self::Closed
    }

    /// Whether messages are refused.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

/// A breaker at one moment. Times are milliseconds of whatever clock its keeper uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// Messages go through.
    Closed {
        /// Failures in a row so far.
        failures: u32,
    },
    /// They are refused until then; the first one afterwards is the trial.
    Open {
        /// When its time is over.
        until_ms: u64,
    },
    /// A trial is under way.
    Trial {
        /// By then it has an outcome, or another one may be made.
        until_ms: u64,
    },
}

/// Whether a message goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It does.
    Free,
    /// It does, and what becomes of it decides.
    Trial,
    /// It does not.
    Refused {
        /// When to try again: after so many milliseconds.
        retry_ms: u64,
    },
}

/// What a message has shown of its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It works.
    Works,
    /// It failed.
    Fails,
    /// Nothing.
    Nothing,
}

/// How a breaker has changed for those outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "turn")]
pub enum Turn {
    /// Messages are refused from now on, or again.
    Opened {
        /// What failed last.
        why: String,
    },
    /// They go through again.
    Closed,
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened { why } => write!(f, "opened: {why}"),
            Self::Closed => write!(f, "closed"),
        }
    }
}

impl Circuit {
    /// Asks for the passage of a message that has `patience_ms` for its outcome. One that `tells` nothing of the agent is no
    /// trial: once the time of an open breaker is over it goes through and changes nothing.
    #[must_use]
    pub fn admit(self, tells: bool, patience_ms: u64, now_ms: u64) -> (Self, Passage) {
        match self {
            Self::Closed { .. } => (self, Passage::Free),
            Self::Open { until_ms } | Self::Trial { until_ms } if now_ms < until_ms => {
                (self, Passage::Refused { retry_ms: until_ms - now_ms })
            }
            Self::Open { .. } | Self::Trial { .. } if tells => {
                (Self::Trial { until_ms: now_ms.saturating_add(patience_ms) }, Passage::Trial)
            }
            Self::Open { .. } | Self::Trial { .. } => (self, Passage::Free),
        }
    }

    /// Takes in what a message has shown. While the breaker is not closed, only trials count: others were given to the agent
    /// before it opened. Returns whether it `true`: has opened, or opened again, `false`: has closed.
    #[must_use]
    pub fn note(self, shown: Shown, is_trial: bool, rule: Breaker, now_ms: u64) -> (Self, Option<bool>) {
        let open = || Self::Open { until_ms: now_ms.saturating_add(rule.open_ms.into()) };
        match (self, shown) {
            (Self::Closed { .. }, Shown::Works) => (Self::CLOSED, None),
            (Self::Closed { failures }, Shown::Fails) => match failures.saturating_add(1) {
                failures if failures >= rule.failures => (open(), Some(true)),
                failures => (Self::Closed { failures }, None),
            },
            (Self::Closed { .. }, Shown::Nothing) => (self, None),
            (Self::Open { .. } | Self::Trial { .. }, _) if !is_trial => (self, None),
            (Self::Open { .. } | Self::Trial { .. }, Shown::Works) => (Self::CLOSED, Some(false)),
            (Self::Trial { .. }, Shown::Fails) => (open(), Some(true)),
            (Self::Trial { .. }, Shown::Nothing) => (Self::Open { until_ms: now_ms }, None),
            // A trial of before, and it was tried again meanwhile.
            (Self::Open { .. }, Shown::Fails | Shown::Nothing) => (self, None),
        }
    }

    /// The agent was started anew: if messages were refused, the next one is a trial at once. Failures go on being counted: an
    /// agent that ends with each message fails too.
    #[must_use]
    pub fn renewed(self, now_ms: u64) -> Self {
        match self {
            Self::Closed { .. } => self,
            Self::Open { .. } | Self::Trial { .. } => Self::Open { until_ms: now_ms },
        }
    }

    /// Nothing has failed yet.
    pub const CLOSED: Self = Self::Closed { failures: 0 };

    /// The same as a number: the state in the two lowest bits.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        match self {
            Self::Closed { failures } => u64::from(failures) << 2,
            Self::Open { until_ms } => until_ms.min(u64::MAX >> 2) << 2 | 1,
            Self::Trial { until_ms } => until_ms.min(u64::MAX >> 2) << 2 | 2,
        }
    }

    /// What [`Circuit::to_bits`] made the number of.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        let value = bits >> 2;
        match bits & 3 {
            0 => Self::Closed { failures: u32::try_from(value).unwrap_or(u32::MAX) },
            1 => Self::Open { until_ms: value },
            _ => Self::Trial { until_ms: value },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Breaker = Breaker { failures: 3, open_ms: 60_000 };

    /// A breaker under a clock of its own, and what it did, step by step.
    struct Bench {
        bits: u64,
        now_ms: u64,
    }

    impl Bench {
        fn new() -> Self {
            Self { bits: Circuit::CLOSED.to_bits(), now_ms: 1000 }
        }

        fn open() -> Self {
            let mut bench = Self::new();
            assert_eq!([1, 2, 3].map(|_| bench.note(Shown::Fails, false)), [None, None, Some(true)]);
            bench
        }

        fn admit(&mut self, tells: bool) -> Passage {
            let (next, passage) = Circuit::from_bits(self.bits).admit(tells, 5_000, self.now_ms);
            self.bits = next.to_bits();
            passage
        }

        fn note(&mut self, shown: Shown, is_trial: bool) -> Option<bool> {
            let (next, turn) = Circuit::from_bits(self.bits).note(shown, is_trial, RULE, self.now_ms);
            self.bits = next.to_bits();
            turn
        }
    }

    #[test]
    fn it_opens_after_so_many_failures_in_a_row_and_an_answer_between_them_counts_anew() {
        let mut bench = Bench::new();
        for shown in [Shown::Fails, Shown::Fails, Shown::Works, Shown::Fails, Shown::Nothing, Shown::Fails] {
            assert_eq!(bench.note(shown, false), None);
            assert_eq!(bench.admit(true), Passage::Free);
        }
        assert_eq!(bench.note(Shown::Fails, false), Some(true));
        assert_eq!(bench.admit(true), Passage::Refused { retry_ms: 60_000 });
        bench.now_ms += 59_999;
        assert_eq!(bench.admit(true), Passage::Refused { retry_ms: 1 });
        assert_eq!(bench.admit(false), Passage::Refused { retry_ms: 1 });
    }

    #[test]
    fn after_its_time_one_message_is_a_trial_and_decides() {
        let mut bench = Bench::open();
        bench.now_ms += 60_000;
        assert_eq!(bench.admit(false), Passage::Free, "it would tell nothing");
        assert_eq!(bench.admit(true), Passage::Trial);
        assert_eq!(bench.admit(true), Passage::Refused { retry_ms: 5_000 });
        assert_eq!(bench.note(Shown::Works, false), None, "it was given to the agent before");
        assert_eq!(bench.note(Shown::Fails, true), Some(true));
        assert_eq!(bench.admit(true), Passage::Refused { retry_ms: 60_000 });
        bench.now_ms += 60_000;
        assert_eq!(bench.admit(true), Passage::Trial);
        assert_eq!(bench.note(Shown::Works, true), Some(false));
        assert_eq!(bench.admit(true), Passage::Free);
        assert_eq!(bench.note(Shown::Fails, false), None, "failures are counted anew");
    }

    #[test]
    fn a_trial_that_shows_nothing_or_is_never_heard_of_makes_room_for_another() {
        let mut bench = Bench::open();
        bench.now_ms += 60_000;
        assert_eq!(bench.admit(true), Passage::Trial);
        assert_eq!(bench.note(Shown::Nothing, true), None);
        assert_eq!(bench.admit(true), Passage::Trial);
        bench.now_ms += 5_000;
        assert_eq!(bench.admit(true), Passage::Trial);
        bench.now_ms += 1;
        assert_eq!(bench.note(Shown::Fails, true), Some(true));
        assert_eq!(bench.note(Shown::Fails, true), None, "the one of before adds nothing");
        assert_eq!(bench.admit(true), Passage::Refused { retry_ms: 60_000 });
    }

    #[test]
    fn an_agent_that_was_started_anew_has_its_trial_at_once() {
        let mut bench = Bench::open();
        let renewed = Circuit::from_bits(bench.bits).renewed(bench.now_ms);
        bench.bits = renewed.to_bits();
        assert_eq!(bench.admit(true), Passage::Trial);
        assert_eq!(Circuit::Closed { failures: 2 }.renewed(0), Circuit::Closed { failures: 2 });
    }

    #[test]
    fn every_state_survives_being_a_number() {
        let long = u64::MAX >> 2;
        for circuit in [
            Circuit::CLOSED,
            Circuit::Closed { failures: u32::MAX },
            Circuit::Open { until_ms: 0 },
            Circuit::Open { until_ms: long },
            Circuit::Trial { until_ms: 77 },
        ] {
            assert_eq!(Circuit::from_bits(circuit.to_bits()), circuit);
        }
    }

    #[test]
    fn bounds_are_told() {
        assert_eq!(Breaker::default().check(), Ok(()));
        for (breaker, words) in [
            (Breaker { failures: 0, ..RULE }, "1 to 1000"),
            (Breaker { failures: 1001, ..RULE }, "1 to 1000"),
            (Breaker { open_ms: 999, ..RULE }, "1000 to 86400000 ms"),
            (Breaker { open_ms: u32::MAX, ..RULE }, "1000 to 86400000 ms"),
        ] {
            let why = breaker.check().expect_err(words);
            assert!(why.contains(words), "{why}");
        }
    }
}
