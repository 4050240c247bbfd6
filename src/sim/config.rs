//! What a simulated world is made from.

use std::time::Duration;

use super::net::Network;
use super::regions::Regions;
use crate::core::model::{CrossRegion, Overrides, PartitionConfig, Profile};

/// What a world is made from.
#[derive(Debug, Clone)]
pub struct Config {
    /// Machines, named `n1`, `n2`, ... at `n1:7946`, ...; the first one begins the mesh.
    pub nodes: usize,
    /// Everything random comes from it.
    pub seed: u64,
    /// So many machines, from the first on, are everybody's seeds.
    pub seeds: usize,
    /// How packets fare.
    pub network: Network,
    /// Which machine is where.
    pub regions: Regions,
    /// Gossip timings of all nodes.
    pub profile: Profile,
    /// Explicit gossip timings of all nodes.
    pub overrides: Overrides,
    /// How regions weigh on whom nodes talk to.
    pub cross_region: CrossRegion,
    /// How nodes find out that they are in a minority, and what they do then.
    pub partition: PartitionConfig,
    /// A commit takes up to this long.
    pub commit_max: Duration,
    /// The share of commits that fail.
    pub commit_failures: f64,
    /// A rule that no node keeps.
    #[cfg(test)]
    pub(super) flaw: Option<crate::core::mesh::Flaw>,
}

impl Config {
    /// A mesh of `nodes` on one local network, with up to three seeds.
    #[must_use]
    pub fn lan(nodes: usize, seed: u64) -> Self {
        Self {
            nodes,
            seed,
            seeds: nodes.min(3),
            network: Network::default(),
            regions: Regions::default(),
            profile: Profile::default(),
            overrides: Overrides::default(),
            cross_region: CrossRegion::default(),
            partition: PartitionConfig::default(),
            commit_max: Duration::from_millis(5),
            commit_failures: 0.0,
            #[cfg(test)]
            flaw: None,
        }
    }

    /// The same with a share of packets lost.
    #[must_use]
    pub fn with_loss(mut self, loss: f64) -> Self {
        self.network.loss = loss;
        self
    }
}
