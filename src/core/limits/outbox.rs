//! Bounds of what is to be delivered at least once.

use std::time::Duration;

/// Messages that wait to be delivered at least once. One more: `overloaded`.
pub const OUTBOX_LETTERS_MAX: usize = 200_000;
/// Messages that are taken in together: one to each of those that a topic means. More: `bad_address`.
pub const PROMISED_COPIES_MAX: usize = 256;
/// Bytes of the content of all of them together. More: `content_too_large`.
pub const PROMISED_COPIES_BYTES_MAX: u64 = 16 << 20;
/// Bytes of all of them together, rows and bookkeeping. More: `overloaded`.
pub const OUTBOX_BYTES_MAX: usize = 256 << 20;
/// How long a message may be tried. Longer: cut to this.
pub const OUTBOX_LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a message is tried when its sender does not say.
pub const OUTBOX_LIFE_DEFAULT: Duration = Duration::from_secs(3600);
/// How long a try of it may take; twice as long after each that had no answer in its time. Longer: it has failed, and
/// the message is tried again.
pub const OUTBOX_TRY_DEADLINE: Duration = Duration::from_secs(30);
/// How long a try may take at most: agents that never answer have the places of others for no longer.
pub const OUTBOX_TRY_LONGEST: Duration = Duration::from_secs(300);
/// Tries under way at once. One more waits.
pub const OUTBOX_TRIES_MAX: usize = 1024;
/// Tries under way at once to one address. One more waits.
pub const OUTBOX_TRIES_EACH_MAX: usize = 64;
/// Messages, and ends of messages, on their way to the disk. One more: `overloaded`, and nothing is tried meanwhile.
pub const OUTBOX_STORING_MAX: usize = 1024;
/// Bytes of them. So many are there: the same.
pub const OUTBOX_STORING_BYTES_MAX: usize = 16 << 20;
/// The last tries of a message that are told of.
pub const OUTBOX_FAILURES_KEPT: usize = 8;
/// Characters of the reason of each; the rest is cut off.
pub const OUTBOX_REASON_CHARS_MAX: usize = 200;
/// The last messages that were delivered whose way is told.
pub const OUTBOX_DELIVERED_KEPT: usize = 1024;
/// Dead letters. One more: the oldest is dropped.
pub const DEAD_LETTERS_MAX: usize = 10_000;
/// Bytes of them. More: the oldest are dropped.
pub const DEAD_LETTERS_BYTES_MAX: usize = 64 << 20;
/// Dead letters that are taken up again, or dropped, by one request.
pub const DEAD_LETTERS_AT_ONCE: usize = 256;
/// Bytes of dead letters in one answer. More: the rest is left out, and asked for with the last one's id.
pub const DEAD_LETTERS_BYTES_LISTED: usize = 512 << 10;
/// Dead letters in one answer.
pub const DEAD_LETTERS_LISTED_MAX: usize = 1000;
/// Characters of the reason why a message was given up; the rest is cut off.
pub const DEAD_REASON_CHARS_MAX: usize = 500;
