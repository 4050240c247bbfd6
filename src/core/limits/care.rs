//! Bounds of how agents are looked after.

use std::time::Duration;

use super::{AGENT_DRAIN, AGENT_START_DEADLINE, AGENT_STOP_DEADLINE, REQUEST_DEADLINE};

/// The longest span in it, in milliseconds: a day.
pub const CARE_SPAN_MS_MAX: u32 = 86_400_000;
/// Health is not checked more often, in milliseconds.
pub const CHECK_INTERVAL_MS_MIN: u32 = 100;
/// Failures in a row that may be asked for.
pub const CHECK_FAILURES_MAX: u32 = 1000;
/// Bytes of the content of a check that wants an answer.
pub const CHECK_CONTENT_BYTES_MAX: usize = 4096;
/// Bytes of the path of a check by HTTP.
pub const CHECK_PATH_BYTES_MAX: usize = 256;
/// Checks of one agent that are kept.
pub const CHECKS_KEPT_MAX: usize = 100;
/// A check may take so much longer than it should until it is given up.
pub const CHECK_SLACK: Duration = Duration::from_millis(500);
/// How long starting an agent anew may take: it finishes what it has, is ended, and starts.
pub const RESTART_DEADLINE: Duration = REQUEST_DEADLINE
    .saturating_add(AGENT_DRAIN)
    .saturating_add(AGENT_STOP_DEADLINE)
    .saturating_add(AGENT_START_DEADLINE);
/// Attempts to start an agent again before it is put in quarantine.
pub const RESTARTS_MAX: usize = 32;
/// Characters of what a check found.
pub const CHECK_WHY_CHARS_MAX: usize = 200;
/// Failures in a row, after which a breaker opens, that may be asked for.
pub const BREAKER_FAILURES_MAX: u32 = 1000;
/// A breaker is not open for less, in milliseconds: each opening is told to the whole mesh.
pub const BREAKER_OPEN_MS_MIN: u32 = 1000;
/// Recovery rules of a node. More: the configuration is refused.
pub const RECOVERY_RULES_MAX: usize = 64;
/// Webhooks of a node. More: the configuration is refused.
pub const WEBHOOKS_MAX: usize = 8;
/// Bytes of the URL of a webhook. More: the configuration is refused.
pub const ALERT_URL_BYTES_MAX: usize = 2048;
/// Alerts that wait for one webhook. One more is dropped and counted.
pub const ALERTS_WAITING_MAX: usize = 256;
/// How long one attempt to post an alert may take.
pub const ALERT_DEADLINE: Duration = Duration::from_secs(5);
/// Attempts to post an alert. After the last one it is dropped and counted.
pub const ALERT_ATTEMPTS_MAX: u32 = 5;
/// The pause after the first attempt; it doubles with each.
pub const ALERT_PAUSE: Duration = Duration::from_secs(1);
/// An agent that had a message for less than this shows nothing when it does not answer it in time.
pub const BREAKER_PATIENCE: Duration = Duration::from_secs(1);
