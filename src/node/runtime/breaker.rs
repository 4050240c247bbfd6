//! The breaker of one agent at work: which messages go through, and what those that did have shown.
//!
//! A failure is a message that the agent was given and did not bring to an end: it trapped, broke off, had a status of 500 or
//! more, had the message for [`limits::BREAKER_PATIENCE`] and did not answer by the deadline, or ended with it. However many
//! messages an agent has when it ends, that is one failure. An agent that says itself that it does not do what was asked works:
//! one client's bad requests must not shut it for all others. A full mailbox, and what waited there too long, is no failure either.
//! Health checks pass whatever the breaker says and count for nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::mailbox::Account;
use crate::core::error::SendError;
use crate::core::limits;
use crate::core::model::{Answer, Breaker, Circuit, Passage, Shown, Turn};
use crate::core::wire::BreakerStats;

/// The breaker of one agent. It outlives the agent's runs.
pub(super) struct BreakerAtWork {
    /// A [`Circuit`].
    circuit: AtomicU64,
    /// Its times are counted from then.
    born: Instant,
    /// What failed last.
    why: Mutex<String>,
}

impl BreakerAtWork {
    pub(super) fn new() -> Self {
        let circuit = AtomicU64::new(Circuit::CLOSED.to_bits());
        Self { circuit, born: Instant::now(), why: Mutex::default() }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn circuit(&self) -> Circuit {
        Circuit::from_bits(self.circuit.load(Ordering::Acquire))
    }

    /// Whether every message goes through.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.circuit(), Circuit::Closed { .. })
    }

    /// Asks for the passage of a message, which tells something of the agent or not.
    ///
    /// # Errors
    /// When to try again, in milliseconds.
    pub(super) fn admit(&self, tells: bool, deadline_ms: u32) -> Result<Account, u64> {
        if self.is_closed() {
            return Ok(Account::Usual);
        }
        let (now_ms, deadline) = (self.now_ms(), Duration::from_millis(deadline_ms.into()));
        let patience = deadline.min(limits::DEADLINE_MAX) + limits::CHECK_SLACK;
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        match self.step(|circuit| circuit.admit(tells, patience_ms, now_ms)) {
            Passage::Free => Ok(Account::Usual),
            Passage::Trial => Ok(Account::Trial),
            Passage::Refused { retry_ms } => Err(retry_ms),
        }
    }

    /// Takes in what a message has shown of the agent, if it was to show something. Returns how the breaker turned.
    pub(super) fn note(&self, account: Account, shown: Shown, why: &str, rule: Breaker) -> Option<Turn> {
        if account == Account::None {
            return None;
        }
        let why: String = why.chars().take(limits::CHECK_WHY_CHARS_MAX).collect();
        if shown == Shown::Fails {
            self.why.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&why);
        }
        let now_ms = self.now_ms();
        let turned = self.step(|circuit| circuit.note(shown, account == Account::Trial, rule, now_ms))?;
        if turned {
            metrics::counter!("shoal_agent_breaker_openings_total").increment(1);
            return Some(Turn::Opened { why });
        }
        Some(Turn::Closed)
    }

    /// The agent was started anew.
    pub(super) fn renew(&self) {
        let now_ms = self.now_ms();
        self.step(|circuit| (circuit.renewed(now_ms), ()));
    }

    /// What failed last.
    pub(super) fn why(&self) -> String {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How it stands; `None` while nothing has failed.
    pub(super) fn stats(&self) -> Option<BreakerStats> {
        let (failures, until_ms) = match self.circuit() {
            Circuit::Closed { failures: 0 } => return None,
            Circuit::Closed { failures } => (failures, 0),
            Circuit::Open { until_ms } | Circuit::Trial { until_ms } => (0, until_ms),
        };
        let retry_ms = until_ms.checked_sub(self.now_ms()).filter(|ms| *ms > 0);
        Some(BreakerStats { failures, retry_ms, why: self.why() })
    }

    /// Makes a step; of several at once each finds what the one before it left.
    fn step<T>(&self, step: impl Fn(Circuit) -> (Circuit, T)) -> T {
        let mut bits = self.circuit.load(Ordering::Acquire);
        loop {
            let (next, result) = step(Circuit::from_bits(bits));
            let next = next.to_bits();
            if next == bits {
                return result;
            }
            match self.circuit.compare_exchange_weak(bits, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return result,
                Err(now) => bits = now,
            }
        }
    }
}

/// What became of a message that the agent was given.
#[derive(Debug)]
pub(super) enum Fate {
    /// Its answer.
    Answered(Answer),
    /// It came to an end, and what it said is no answer: that it does not do this, or more than a message can carry.
    Declined(SendError),
    /// It came to no end, or to none in time.
    Failed(SendError),
}

impl Fate {
    /// What it shows of the agent that had the message for so long.
    pub(super) fn shows(&self, had_for: Duration) -> Shown {
        match self {
            Self::Answered(_) | Self::Declined(_) => Shown::Works,
            Self::Failed(SendError::DeadlineExceeded { .. }) if had_for < limits::BREAKER_PATIENCE => {
                Shown::Nothing
            }
            Self::Failed(_) => Shown::Fails,
        }
    }

    /// Why there is no answer.
    pub(super) fn error(&self) -> Option<&SendError> {
        match self {
            Self::Answered(_) => None,
            Self::Declined(error) | Self::Failed(error) => Some(error),
        }
    }

    /// What its sender is told.
    pub(super) fn into_result(self) -> Result<Answer, SendError> {
        match self {
            Self::Answered(answer) => Ok(answer),
            Self::Declined(error) | Self::Failed(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_declines_shows_that_it_works_and_what_it_does_not_finish_that_it_fails() {
        let failed =
            || SendError::AgentFailed { agent: "a".parse().expect("valid"), reason: "no".to_owned() };
        let late = || SendError::DeadlineExceeded { deadline_ms: 5_000 };
        let (short, long) = (limits::BREAKER_PATIENCE / 2, limits::BREAKER_PATIENCE);
        for (fate, had_for, shown) in [
            (Fate::Declined(failed()), long, Shown::Works),
            (Fate::Failed(failed()), short, Shown::Fails),
            (Fate::Failed(late()), short, Shown::Nothing),
            (Fate::Failed(late()), long, Shown::Fails),
        ] {
            assert_eq!(fate.shows(had_for), shown, "{fate:?} after {had_for:?}");
        }
    }

    #[test]
    fn a_client_that_is_declined_again_and_again_does_not_open_a_breaker() {
        let breaker = BreakerAtWork::new();
        let rule = Breaker { failures: 1, ..Breaker::default() };
        let declined = Fate::Declined(SendError::Overloaded { what: "x".to_owned() });
        let shown = declined.shows(Duration::ZERO);
        assert!((0..10).all(|_| breaker.note(Account::Usual, shown, "x", rule).is_none()));
        assert!(breaker.is_closed());
        let failed = Fate::Failed(SendError::Overloaded { what: "x".to_owned() });
        let turn = breaker.note(Account::Usual, failed.shows(Duration::ZERO), "x", rule);
        assert_eq!(turn, Some(Turn::Opened { why: "x".to_owned() }));
    }
}
