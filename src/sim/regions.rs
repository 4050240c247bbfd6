//! Regions of a simulated mesh: which machine is where, and how long packets take between them.
//!
//! Inside a region [`Network`](super::net::Network)'s latency and jitter hold.

use std::time::Duration;

use super::config::Config;
use super::world::World;

/// The regions of a mesh; none: every machine is in the same place and has no region.
#[derive(Debug, Clone, Default)]
pub struct Regions {
    /// How many machines each has: the first `n1` to `n5`, the second from `n6` on, and so on. They are
    /// named `r1`, `r2`, ...; machines beyond the last belong to none and are in the first one's place.
    counts: Vec<usize>,
    /// One way between two regions, by their indices, the lower first.
    ways: Vec<((usize, usize), Duration)>,
    /// One way between any other two.
    cross: Duration,
    /// Up to so much of the latency more, evenly spread: 0.1 is a tenth.
    jitter: f64,
}

impl Regions {
    /// The index of a machine's region.
    fn index(&self, machine: usize) -> Option<usize> {
        let mut last = 0;
        self.counts.iter().position(|count| {
            last += count;
            machine < last
        })
    }

    /// The name of a machine's region; empty for one that has none.
    pub(super) fn name(&self, machine: usize) -> String {
        self.index(machine).map(|index| format!("r{}", index + 1)).unwrap_or_default()
    }

    /// The least latency one way and what may come on top, between machines of different regions.
    pub(super) fn way(&self, (from, to): (usize, usize)) -> Option<(Duration, Duration)> {
        if self.counts.is_empty() {
            return None;
        }
        let (from, to) = (self.index(from).unwrap_or(0), self.index(to).unwrap_or(0));
        if from == to {
            return None;
        }
        let pair = (from.min(to), from.max(to));
        let set = self.ways.iter().find(|(of, _)| *of == pair).map(|(_, latency)| *latency);
        let latency = set.unwrap_or(self.cross);
        Some((latency, latency.mul_f64(self.jitter)))
    }
}

impl Config {
    /// A mesh of regions, each a local network of so many machines, with `cross` one way between any two
    /// and up to a tenth of jitter. The first machine of each of the first three is a seed of all.
    ///
    /// Machines are numbered through: with counts 3 and 2, `n1` to `n3` are `r1` and `n4` and `n5` are `r2`.
    #[must_use]
    pub fn regions(counts: &[usize], cross: Duration, seed: u64) -> Self {
        let regions = Regions { counts: counts.to_vec(), ways: Vec::new(), cross, jitter: 0.1 };
        Self { regions, ..Self::lan(counts.iter().sum(), seed) }
    }

    /// The same with another latency one way between two regions, numbered from 1 as in their names.
    #[must_use]
    pub fn with_way(mut self, one: usize, other: usize, latency: Duration) -> Self {
        let pair = (one.min(other) - 1, one.max(other) - 1);
        self.regions.ways.retain(|(of, _)| *of != pair);
        self.regions.ways.push((pair, latency));
        self
    }
}

impl World {
    /// The region that a machine is in; empty when it is in none.
    #[must_use]
    pub fn region(&self, machine: usize) -> String {
        self.config.regions.name(machine)
    }

    /// The round trip that a running machine's node expects of another.
    #[must_use]
    pub fn expected_rtt(&self, observer: usize, of: usize) -> Option<Duration> {
        let key = self.machines[of].node.key();
        self.machines[observer].process.as_ref()?.mesh.expected_rtt(&key)
    }

    /// The least round trip between two machines, as the network is made.
    #[must_use]
    pub fn least_rtt(&self, one: usize, other: usize) -> Duration {
        2 * self.config.regions.way((one, other)).map_or(self.config.network.latency, |(latency, _)| latency)
    }
}
