//! What lies between two machines: whether a way is open, how much of what takes it is lost, and how long
//! it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::net::Network;
use super::regions::Regions;

/// Which ways are blocked, and which machines lose more than others.
#[derive(Debug, Default)]
pub(super) struct Paths {
    pub(super) cut: BTreeSet<(usize, usize)>,
    pub(super) lossy: BTreeMap<usize, f64>,
    pub(super) regions: Regions,
}

impl Paths {
    pub(super) fn is_open(&self, from: usize, to: usize) -> bool {
        self.cut.is_empty() || !self.cut.contains(&(from, to))
    }

    /// The least latency from one machine to another, and what may come on top.
    pub(super) fn latency(&self, network: &Network, path: (usize, usize)) -> (Duration, Duration) {
        self.regions.way(path).unwrap_or((network.latency, network.jitter))
    }
}

impl Network {
    /// How long a packet takes from one machine to another, or `None` when it is lost: for whoever lets
    /// something else than a [`World`](super::World) run over the same network. Without regions and cuts.
    pub fn transit(&self, rng: &mut ChaCha8Rng) -> Option<Duration> {
        transit(self, &Paths::default(), rng, (0, 1), 1)
    }
}

/// How long a packet takes, or `None` when it is lost.
pub(super) fn transit(
    network: &Network,
    paths: &Paths,
    rng: &mut ChaCha8Rng,
    (from, to): (usize, usize),
    packets: usize,
) -> Option<Duration> {
    if !paths.is_open(from, to) {
        return None;
    }
    let at = |machine| paths.lossy.get(&machine).copied().unwrap_or(0.0);
    let passes = (1.0 - network.loss) * (1.0 - at(from)) * (1.0 - at(to));
    if passes < 1.0 && rng.random::<f64>() >= passes.powi(packets.clamp(1, 8) as i32) {
        return None;
    }
    let (latency, jitter) = paths.latency(network, (from, to));
    Some(latency + jitter.mul_f64(rng.random()))
}
