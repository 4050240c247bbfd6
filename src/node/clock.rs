//! The only reading of the clocks and of the system's randomness.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::core::time::Instant;

/// Monotonic time since the node started, as the core counts it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock whose origin is now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    /// Now, in the core's time.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The executor's point in time that the core calls `at`.
    #[must_use]
    pub fn deadline(&self, at: Instant) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.origin + Duration::from_nanos(at.as_nanos()))
    }
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
