//! How much an outbox holds.

use crate::core::limits;

/// How much may wait, and how much is tried at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxBounds {
    /// Messages.
    pub letters: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// Dead letters; the oldest is dropped for a new one.
    pub dead: usize,
    /// Bytes of them.
    pub dead_bytes: usize,
    /// Tries under way.
    pub tries: usize,
    /// Tries under way to one address.
    pub tries_each: usize,
}

impl Default for OutboxBounds {
    fn default() -> Self {
        Self {
            letters: limits::OUTBOX_LETTERS_MAX,
            bytes: limits::OUTBOX_BYTES_MAX,
            dead: limits::DEAD_LETTERS_MAX,
            dead_bytes: limits::DEAD_LETTERS_BYTES_MAX,
            tries: limits::OUTBOX_TRIES_MAX,
            tries_each: limits::OUTBOX_TRIES_EACH_MAX,
        }
    }
}

/// Why a message is not taken in; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutboxFull {
    /// As many as may wait.
    #[error("{0} messages wait to be delivered already, the most there may be")]
    Letters(usize),
    /// As many bytes as may wait.
    #[error(
        "with this one, messages of more than {0} bytes would wait to be delivered, the most there may be"
    )]
    Bytes(usize),
    /// As many as may wait for the disk.
    #[error("{0} messages wait for the disk already")]
    Disk(usize),
}
