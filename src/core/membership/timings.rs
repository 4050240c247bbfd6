//! How often to probe, how long to wait and to whom to gossip, by the size of the mesh.

use std::time::Duration;

use crate::core::model::{Overrides, Profile};

/// The timings in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timings {
    /// Time between two probes of one node; at its end the probe has failed.
    pub(crate) probe_period: Duration,
    /// How long a direct probe may take before others are asked.
    pub(crate) probe_timeout: Duration,
    /// Others that are asked.
    pub(crate) indirect_probes: u8,
    /// Time between two rounds of gossip, while there is something to tell.
    pub(crate) gossip_interval: Duration,
    /// Nodes told in each round.
    pub(crate) gossip_fanout: u8,
    /// How long a suspect may take to refute when enough others confirm that it is gone.
    pub(crate) suspicion_min: Duration,
    /// How long it may take when nobody does.
    pub(crate) suspicion_max: Duration,
    /// How often one piece of news is told by one node.
    pub(crate) transmissions: u8,
}

impl Timings {
    /// The timings of a mesh with `live` live members besides this node, of which half answer within
    /// `round_trip`, as far as measured.
    #[must_use]
    pub(crate) fn of(
        profile: Profile,
        overrides: &Overrides,
        live: usize,
        round_trip: Option<Duration>,
    ) -> Self {
        let size = live + 1;
        let ms = Duration::from_millis;
        let row = |period, timeout, gossip, fanout, (min, max)| Self {
            probe_period: ms(period),
            probe_timeout: ms(timeout),
            indirect_probes: 4,
            gossip_interval: ms(gossip),
            gossip_fanout: fanout,
            suspicion_min: ms(min),
            suspicion_max: ms(max),
            transmissions: transmissions(size),
        };
        let mut timings = match (profile, size) {
            (Profile::Local, _) => row(250, 100, 50, 3, (400, 2_000)),
            (Profile::Auto, 0..10) => row(500, 150, 100, 3, (600, 3_000)),
            (Profile::Auto, 10..=50) => row(500, 150, 150, 4, (800, 5_000)),
            (Profile::Auto, _) | (Profile::Lan, _) => row(500, 200, 200, 5, (1_200, 8_000)),
            (Profile::Wan, _) => row(1_500, 600, 300, 4, (3_000, 15_000)),
        };
        if profile == Profile::Auto
            && let Some(band) = round_trip.and_then(far_band)
        {
            timings.stretch(band);
        }
        timings.probe_period = overrides.probe_interval.unwrap_or(timings.probe_period);
        timings.probe_timeout = overrides.probe_timeout.unwrap_or(timings.probe_timeout);
        timings.gossip_interval = overrides.gossip_interval.unwrap_or(timings.gossip_interval);
        timings.gossip_fanout = overrides.gossip_fanout.unwrap_or(timings.gossip_fanout).max(1);
        timings.suspicion_min = overrides.suspicion_min.unwrap_or(timings.suspicion_min);
        timings.suspicion_max = overrides.suspicion_max.unwrap_or(timings.suspicion_max);
        timings.suspicion_max = timings.suspicion_max.max(timings.suspicion_min);
        // A probe whose timeout does not end before its period could never ask others.
        timings.probe_timeout = timings.probe_timeout.min(timings.probe_period / 2);
        timings
    }
}

/// Round trips of a network that is no local one.
pub(super) const FAR: Duration = Duration::from_millis(30);

/// Where round trips are long: the next of 30 ms, 60 ms, 120 ms and so on above one. Bands, so that the
/// timings do not change with every sample.
fn far_band(round_trip: Duration) -> Option<Duration> {
    if round_trip < FAR {
        return None;
    }
    let times = round_trip.as_millis() / FAR.as_millis() + 1;
    Some(FAR * u32::try_from(times).unwrap_or(1 << 8).next_power_of_two().min(1 << 8))
}

impl Timings {
    /// Gives answers and refutations the time that they need over long round trips.
    fn stretch(&mut self, round_trip: Duration) {
        self.probe_timeout = self.probe_timeout.max(round_trip * 2);
        self.probe_period = self.probe_period.max(round_trip * 6);
        self.gossip_interval = self.gossip_interval.max(round_trip / 2);
        self.suspicion_min = self.suspicion_min.max(round_trip * 8);
        self.suspicion_max = self.suspicion_max.max(round_trip * 32);
    }
}

/// Retransmissions that reach everybody with high probability: proportional to the logarithm of the
/// size (Das, Gupta, Motivala: SWIM, DSN 2002, section 4.1), with a floor that survives heavy loss.
fn transmissions(size: usize) -> u8 {
    let factor = (size as f64 + 1.0).log10() * 5.0;
    (factor.ceil() as u8).clamp(6, 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_follows_the_size_and_explicit_settings_win() {
        let none = Overrides::default();
        assert_eq!(Timings::of(Profile::Auto, &none, 2, None).gossip_interval, Duration::from_millis(100));
        assert_eq!(Timings::of(Profile::Auto, &none, 9, None).gossip_interval, Duration::from_millis(150));
        assert_eq!(Timings::of(Profile::Auto, &none, 60, None).gossip_fanout, 5);
        let set = Overrides { probe_interval: Some(Duration::from_secs(3)), gossip_fanout: Some(9), ..none };
        let timings = Timings::of(Profile::Wan, &set, 2, None);
        assert_eq!((timings.probe_period, timings.gossip_fanout), (Duration::from_secs(3), 9));
    }

    #[test]
    fn auto_follows_the_round_trips_in_bands() {
        let of =
            |ms: u64| Timings::of(Profile::Auto, &Overrides::default(), 2, Some(Duration::from_millis(ms)));
        assert_eq!(of(1), of(29));
        assert_eq!(of(70), of(110));
        assert!(of(200).probe_timeout >= Duration::from_millis(400));
        assert!(of(200).probe_period > of(200).probe_timeout * 2);
        assert!(of(200).suspicion_min > of(1).suspicion_min);
        let lan =
            |ms: u64| Timings::of(Profile::Lan, &Overrides::default(), 2, Some(Duration::from_millis(ms)));
        assert_eq!(lan(1), lan(300), "a profile by name stays as it is");
    }

    #[test]
    fn a_probe_always_leaves_time_to_ask_others() {
        let set = Overrides {
            probe_interval: Some(Duration::from_millis(100)),
            probe_timeout: Some(Duration::from_millis(100)),
            ..Overrides::default()
        };
        let timings = Timings::of(Profile::Auto, &set, 2, None);
        assert!(timings.probe_timeout < timings.probe_period);
    }
}
