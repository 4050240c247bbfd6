//! Round trips to members, and how long an answer may take: the estimator of RFC 6298, one a member.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::ids::NodeKey;

/// Added to an estimate: timers and schedulers are no finer than this.
const GRAIN: Duration = Duration::from_millis(25);
/// Round trips above this are no measurement but a machine that slept.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(10);

/// What was measured of one member.
#[derive(Debug, Clone, Copy)]
struct Estimate {
    smoothed: Duration,
    variation: Duration,
}

/// What was measured of all members, and what is expected of others.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    measured: BTreeMap<NodeKey, Estimate>,
    expected: BTreeMap<NodeKey, Duration>,
}

impl RoundTrips {
    /// A probe was answered after `took`.
    pub(super) fn measure(&mut self, key: NodeKey, took: Duration) {
        if took > ROUND_TRIP_MAX {
            return;
        }
        let estimate = self.measured.entry(key).or_insert(Estimate { smoothed: took, variation: took / 2 });
        let deviation = estimate.smoothed.abs_diff(took);
        estimate.variation = (estimate.variation * 3 + deviation) / 4;
        estimate.smoothed = (estimate.smoothed * 7 + took) / 8;
    }

    /// Somebody has a guess of a member that was never measured.
    pub(super) fn expect(&mut self, key: NodeKey, span: Duration) {
        self.expected.insert(key, span.min(ROUND_TRIP_MAX));
    }

    /// An answer did not come in time: one that was never measured is given longer the next time (the
    /// back-off of RFC 6298, 5.5), or an answer that always comes late would never be measured.
    pub(super) fn back_off(&mut self, key: NodeKey, waited: Duration) {
        if !self.measured.contains_key(&key) {
            self.expect(key, waited);
        }
    }

    pub(super) fn forget(&mut self, key: &NodeKey) {
        self.measured.remove(key);
        self.expected.remove(key);
    }

    /// How long an answer of a member may take, if anything is known of it.
    pub(super) fn wait(&self, key: &NodeKey) -> Option<Duration> {
        let measured = self.measured.get(key).map(|e| e.smoothed + e.variation * 4 + GRAIN);
        measured.or_else(|| self.expected.get(key).map(|expected| *expected * 2 + GRAIN))
    }

    /// The round trip below which half of those members are that were measured.
    pub(super) fn median(&self, of: impl Fn(&NodeKey) -> bool) -> Option<Duration> {
        let measured = self.measured.iter().filter(|(key, _)| of(key));
        let mut all: Vec<_> = measured.map(|(_, estimate)| estimate.smoothed).collect();
        if all.is_empty() {
            return None;
        }
        let middle = all.len() / 2;
        Some(*all.select_nth_unstable(middle).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_wait_follows_the_round_trip_and_its_variation() {
        let (mut trips, key) = (RoundTrips::default(), NodeKey([1; 16]));
        assert_eq!(trips.wait(&key), None);
        trips.expect(key, ms(100));
        assert_eq!(trips.wait(&key), Some(ms(225)));
        for _ in 0..100 {
            trips.measure(key, ms(200));
        }
        assert!((ms(200)..ms(240)).contains(&trips.wait(&key).expect("measured")));
        for n in 0..100 {
            trips.measure(key, ms(if n % 2 == 0 { 200 } else { 300 }));
        }
        assert!(trips.wait(&key).expect("measured") > ms(300), "its jitter counts");
    }

    #[test]
    fn a_machine_that_slept_is_no_measurement() {
        let (mut trips, key) = (RoundTrips::default(), NodeKey([1; 16]));
        trips.measure(key, ms(1));
        let before = trips.wait(&key);
        trips.measure(key, Duration::from_secs(3600));
        assert_eq!((trips.wait(&key), trips.median(|_| true)), (before, Some(ms(1))));
    }
}
