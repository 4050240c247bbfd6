//! Bounds of how agents are launched.

use std::time::Duration;

/// Phases are between this and its opposite.
pub const PHASE_MAX: i32 = 1000;
/// Agents that one may depend on. More: the deploy is refused, the record dropped on receipt.
pub const DEPENDENCIES_MAX: usize = 16;
/// Agents of a node that starts which are starting at one moment; the next waits.
pub const LAUNCHES_AT_ONCE_MAX: usize = 10;
/// The least that a start may be given, in milliseconds.
pub const START_TIMEOUT_MS_MIN: u32 = 1000;
/// The most that a start may be given, in milliseconds.
pub const START_TIMEOUT_MS_MAX: u32 = 600_000;
/// For how long an attempt of the ladder waits for what the agent depends on; then it is made without.
pub const DEPENDENCY_WAIT: Duration = Duration::from_secs(60);
/// Bytes of why an agent is not started yet, in its record.
pub const WAITS_BYTES_MAX: usize = 512;
