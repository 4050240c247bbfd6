//! Places where a test can make the process end as `kill -9` would, so that what a start finds after it is known
//! and not left to luck. Builds with debug assertions only: in a release there is nothing here.
//!
//! `SHOAL_CRASH_AT=<point>[:<nth>]` names the point and the time it is reached at which the process aborts, the first
//! unless it is said. A value that names no point aborts at once, and says so: a test that waits in vain for
//! a crash would prove nothing.

/// A place in the program. A new one is a variant and its name in [`CrashPoint::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    /// A group of changes is about to be written.
    PreBegin,
    /// A group of changes is written and not committed.
    InTransaction,
    /// A group of changes is committed and not reported.
    PostCommit,
    /// The log was copied into the database and is not emptied.
    Checkpoint,
    /// A step of the schema was taken and is not committed.
    Migration,
    /// A database is complete that takes the place of a damaged one, which is still in it.
    Rebuilt,
    /// The damaged database was moved away, and the new one is not in its place.
    PutAside,
}

#[cfg(debug_assertions)]
impl CrashPoint {
    const ALL: [(Self, &'static str); 7] = [
        (Self::PreBegin, "pre_begin"),
        (Self::InTransaction, "in_transaction"),
        (Self::PostCommit, "post_commit"),
        (Self::Checkpoint, "checkpoint"),
        (Self::Migration, "migration"),
        (Self::Rebuilt, "rebuilt"),
        (Self::PutAside, "put_aside"),
    ];

    /// Ends the process if this is where it was told to end.
    pub(crate) fn reached(self) {
        use std::sync::OnceLock;
        use std::sync::atomic::{AtomicU64, Ordering};

        static CHOSEN: OnceLock<Option<(CrashPoint, u64)>> = OnceLock::new();
        static TIMES: AtomicU64 = AtomicU64::new(0);
        let chosen = CHOSEN.get_or_init(|| {
            let value = std::env::var("SHOAL_CRASH_AT").ok()?;
            let Some(chosen) = Self::parse(&value) else {
                tracing::error!(value, "SHOAL_CRASH_AT names no crash point");
                std::process::abort();
            };
            Some(chosen)
        });
        let Some((point, nth)) = *chosen else { return };
        if point == self && TIMES.fetch_add(1, Ordering::Relaxed) + 1 == nth {
            std::process::abort();
        }
    }

    fn parse(value: &str) -> Option<(Self, u64)> {
        let (name, nth) = value.split_once(':').unwrap_or((value, "1"));
        let (point, _) = Self::ALL.into_iter().find(|(_, known)| *known == name)?;
        let nth = nth.parse().ok().filter(|nth| *nth > 0)?;
        Some((point, nth))
    }
}

#[cfg(not(debug_assertions))]
impl CrashPoint {
    /// Nothing, in a release.
    #[inline(always)]
    pub(crate) fn reached(self) {}
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_with_the_time_it_is_reached_and_anything_else_is_no_point() {
        assert_eq!(CrashPoint::parse("pre_begin"), Some((CrashPoint::PreBegin, 1)));
        assert_eq!(CrashPoint::parse("put_aside:12"), Some((CrashPoint::PutAside, 12)));
        for wrong in ["", "somewhere", "pre_begin:", "pre_begin:0", "pre_begin:-1", "pre_begin:1:1"] {
            assert_eq!(CrashPoint::parse(wrong), None, "{wrong}");
        }
    }
}
