//! The only reading of the clocks and of the system's randomness.

use std::time::SystemTime;

use uuid::Uuid;

use crate::core::time::Instant;

/// Time since the node started, as the core counts it: it never goes back, and runs on while the machine is suspended, because
/// leases and permits are over then as well.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// By [`boot_nanos`].
    origin: u64,
}

impl Clock {
    /// A clock whose origin is now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: boot_nanos() }
    }

    /// Now, in the core's time.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_nanos(boot_nanos().saturating_sub(self.origin))
    }

    /// The executor's point in time that the core calls `at`, should the machine not be suspended until then. After it was, the
    /// executor's points are late by that: whoever waits for one asks again when it has come.
    #[must_use]
    pub fn deadline(&self, at: Instant) -> tokio::time::Instant {
        tokio::time::Instant::now() + at.since(self.now())
    }

    /// That point in time by [`boot_nanos`].
    #[must_use]
    pub fn boot_nanos_at(&self, at: Instant) -> u64 {
        self.origin.saturating_add(at.as_nanos())
    }
}

/// Nanoseconds since the machine was started, suspended or not.
#[must_use]
pub fn boot_nanos() -> u64 {
    #[cfg(target_os = "linux")]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(CLOCK);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// The wall clock. It is shown and written to certificates, and orders nothing.
#[must_use]
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Milliseconds since 1970 by the wall clock.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes from the system's generator.
///
/// # Panics
/// When the system has no randomness: nothing here can work without.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}

/// Fills with bytes from the system's generator.
///
/// # Panics
/// As [`random_bytes`].
pub fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives randomness");
}

/// A random id (UUID version 4).
#[must_use]
pub fn random_id() -> Uuid {
    uuid::Builder::from_random_bytes(random_bytes()).into_uuid()
}

/// A new message's id (UUID version 7): unique, and ordered by the time of its making. Its random part
/// comes from a generator that the system's seeds once a thread, because a system call a message is
/// more than a message costs.
#[must_use]
pub fn message_id() -> Uuid {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    thread_local! {
        static GENERATOR: std::cell::RefCell<ChaCha8Rng> =
            std::cell::RefCell::new(ChaCha8Rng::from_seed(random_bytes()));
    }
    let random: [u8; 10] = GENERATOR.with_borrow_mut(|generator| generator.random());
    uuid::Builder::from_unix_timestamp_millis(unix_ms(), &random).into_uuid()
}
