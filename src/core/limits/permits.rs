//! Bounds of permits for exclusive agents.

use std::time::Duration;

/// How long a permit to run an exclusive agent lasts.
pub const PERMIT: Duration = Duration::from_secs(3);
/// How often a host has its permits renewed.
pub const PERMIT_RENEWAL: Duration = Duration::from_millis(600);
/// How often it asks while it has not all that it claims.
pub const PERMIT_RETRY: Duration = Duration::from_millis(100);
/// With many claims that takes longer: so much for each of them, if that is more.
pub const PERMIT_RETRY_PER_CLAIM: Duration = Duration::from_micros(500);
/// Claims that come so close together are asked for with one question.
pub const PERMIT_PAUSE: Duration = Duration::from_millis(50);
/// Exclusive instances of one node. One more is not started.
pub const PERMITS_PER_NODE_MAX: usize = 1_000;
/// Slots that a voter keeps grants of. One more is denied, unless one is over.
pub const PERMITS_MAX: usize = 4_000;
/// Bytes of a message about permits: that with all grants of a voter is the largest. More: the frame is dropped.
pub const PERMIT_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// What an exclusive instance that another node takes over needs of its permit to end: so much less it may take to finish what it has.
pub const PERMIT_ENDING: Duration = Duration::from_millis(1_200);
/// So long before the end of a permit its keeper ends the agent, and what that has started, by itself.
pub const PERMIT_KEEPER_MARGIN: Duration = Duration::from_millis(300);
