//! One packet's way, for whoever lets something else than a [`World`](super::World) run over the same
//! network. It knows neither cuts nor copies nor overtaking.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;

use super::net::Network;
use super::paths::{Paths, transit};

impl Network {
    /// How long a packet takes from one machine to another, or `None` when it is lost.
    pub fn transit(&self, rng: &mut ChaCha8Rng) -> Option<Duration> {
        transit(self, &Paths::default(), rng, (0, 1), 1)
    }
}
