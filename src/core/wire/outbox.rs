//! What is asked of a node's outbox, and what it answers.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::limits;
use crate::core::model::{DeadLetter, LetterTrace, Message};

/// Which dead letters are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadOnes {
    /// All of them, [`limits::DEAD_LETTERS_AT_ONCE`] at a time.
    All,
    /// Those messages.
    These(Vec<Uuid>),
}

/// What is asked of an outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboxRequest {
    /// Deliver each of these at least once: all are on the disk together, or none is. Only of a node's own agents and clients.
    Accept {
        /// The messages, at most [`limits::PROMISED_COPIES_MAX`].
        messages: Vec<Message>,
        /// How long each is tried, in milliseconds.
        life_ms: u64,
    },
    /// Where a message is on its way.
    Trace {
        /// Which.
        id: Uuid,
    },
    /// The dead letters, oldest first.
    DeadLetters {
        /// At most so many, and [`limits::DEAD_LETTERS_LISTED_MAX`].
        limit: u32,
        /// Only those after this one.
        after: Option<Uuid>,
    },
    /// Take dead letters up again.
    Retry {
        /// Which.
        letters: DeadOnes,
    },
    /// Forget dead letters.
    Drop {
        /// Which.
        letters: DeadOnes,
    },
}

/// What an outbox answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboxAnswer {
    /// The message is on the disk; of several, all of them.
    Accepted {
        /// Its id; of several, the first one's.
        id: Uuid,
    },
    /// Where a message is; `None` when it is not known: it was never taken in here, or was delivered too long ago.
    Trace(Option<Box<LetterTrace>>),
    /// A part of the dead letters.
    DeadLetters {
        /// Oldest first.
        letters: Vec<DeadLetter>,
        /// How many there are in all.
        total: u64,
    },
    /// So many dead letters were taken up again, or dropped.
    Changed {
        /// How many.
        count: u64,
        /// How many dead letters there are now.
        left: u64,
    },
}

impl OutboxRequest {
    /// Checks the bounds of a request that came from elsewhere.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Retry { letters: DeadOnes::These(ids) } | Self::Drop { letters: DeadOnes::These(ids) }
                if ids.len() > limits::DEAD_LETTERS_AT_ONCE =>
            {
                Err("too many dead letters are named")
            }
            Self::Accept { messages, .. }
                if messages.is_empty() || messages.len() > limits::PROMISED_COPIES_MAX =>
            {
                Err("too many messages, or none, are to be taken in together")
            }
            Self::Accept { .. }
            | Self::Trace { .. }
            | Self::DeadLetters { .. }
            | Self::Retry { .. }
            | Self::Drop { .. } => Ok(()),
        }
    }
}

impl OutboxAnswer {
    /// Checks the bounds of an answer that came from elsewhere.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::DeadLetters { letters, .. } if letters.len() > limits::DEAD_LETTERS_LISTED_MAX => {
                Err("too many dead letters")
            }
            Self::Trace(Some(trace)) if trace.failed.len() > limits::OUTBOX_FAILURES_KEPT => {
                Err("too many failed tries")
            }
            Self::Accepted { .. } | Self::Trace(_) | Self::DeadLetters { .. } | Self::Changed { .. } => {
                Ok(())
            }
        }
    }
}
