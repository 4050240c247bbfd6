//! The breaker of one agent at work: which messages go through, and what those that did have shown.
//!
//! A failure is a message that the agent was given and that ended in an error of its making: it said so, its answer was none,
//! it had the message for [`limits::BREAKER_PATIENCE`] and did not answer by the deadline, or it ended with it. However many
//! messages an agent has when it ends, that is one failure. A full mailbox, and what waited there too long, is none. Health
//! checks pass whatever the breaker says and count for nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::mailbox::Account;
use crate::core::error::SendError;
use crate::core::limits;
use crate::core::model::{Breaker, Circuit, Passage, Shown, Turn};
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

/// What the end of a message shows of the agent that had it for so long.
pub(super) fn shown_by<T>(result: &Result<T, SendError>, had_for: Duration) -> Shown {
    match result {
        Ok(_) => Shown::Works,
        Err(SendError::DeadlineExceeded { .. }) if had_for < limits::BREAKER_PATIENCE => Shown::Nothing,
        Err(_) => Shown::Fails,
    }
}
