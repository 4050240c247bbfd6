//! Bounds of measuring a running mesh, so that a measurement harms nobody's messages.

use std::time::Duration;

/// Measurements of one node that run at one moment. One more: refused as overloaded.
pub const MEASUREMENTS_AT_ONCE_MAX: usize = 1;
/// Messages, one after another, by which a route is measured.
pub const MEASURED_ASKS: usize = 1000;
/// Fresh instances, one after another, by which the start of WASM agents is measured.
pub const MEASURED_STARTS: usize = 100;
/// Bytes of the content of each message.
pub const MEASURED_CONTENT_BYTES: usize = 128;
/// How long one row may take. Longer: it is told of those that came back until then.
pub const MEASURED_FOR_MAX: Duration = Duration::from_secs(5);
/// How long each message has to be answered, in milliseconds. Longer: it counts as failed.
pub const MEASURED_ASK_DEADLINE_MS: u32 = 1000;
/// Fewer samples than this tell no 99th percentile.
pub const MEASURED_SAMPLES_MIN: usize = 100;
