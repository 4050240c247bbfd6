//! Blue-green updates: when the messages go to the version that waits, and when the one before ends.
//!
//! Both are writes of the blueprint's record by the holder of the lease, so each is one moment for all instances, wherever a
//! node hears of it. The version before stays for [`limits::SWITCH_PAUSE`] after the first one, for those who have not heard of it;
//! another holder of the lease waits for that anew.

use std::collections::BTreeMap;

use super::super::Mesh;
use super::Desired;
use crate::core::ids::AgentName;
use crate::core::limits;
use crate::core::model::Beside;
use crate::core::placement::{self, Landscape, Standby};
use crate::core::time::Instant;

/// Versions that take messages while the one before is still there: which, and since when this node knows of it.
pub(super) type Switched = BTreeMap<AgentName, (u64, Instant)>;

impl Mesh {
    /// The versions that are beside the one before.
    pub(super) fn standbys(landscape: Landscape<'_>) -> BTreeMap<AgentName, Standby> {
        let beside = landscape.blueprints.iter();
        beside
            .filter_map(|(name, record)| Some((name.clone(), placement::standby(landscape, record)?)))
            .collect()
    }

    /// Lets messages go to versions that wait for nothing else, and ends those that have served their time.
    pub(super) fn tend_standbys(&mut self, standbys: &BTreeMap<AgentName, Standby>) {
        let now = self.now;
        let Desired { leading: Some(leading), blueprints, .. } = &mut self.desired else {
            return;
        };
        let serving = |name: &AgentName| {
            let current = &blueprints.get(name)?.current;
            (current.beside == Some(Beside::Serves)).then_some(current.number)
        };
        leading.switched.retain(|name, (number, _)| serving(name) == Some(*number));
        let mut over = Vec::new();
        let mut ready = Vec::new();
        for (name, standby) in standbys {
            match (standby.stage, serving(name)) {
                (Beside::Waits, _) if standby.waits_for.is_none() => ready.push(name),
                (Beside::Serves, Some(number)) => {
                    let (_, since) = *leading.switched.entry(name.clone()).or_insert((number, now));
                    if now.since(since) >= limits::SWITCH_PAUSE {
                        over.push(name);
                    }
                }
                (Beside::Waits | Beside::Serves, _) => {}
            }
        }
        ready.into_iter().for_each(|name| self.stand(name, Some(Beside::Serves)));
        over.into_iter().for_each(|name| self.stand(name, None));
    }

    fn stand(&mut self, name: &AgentName, beside: Option<Beside>) {
        let Some(record) = self.desired.blueprints.get(name) else {
            return;
        };
        let mut next = record.clone();
        next.current.beside = beside;
        // All of its instances were steady, or it would not have come so far.
        next.current.settled = beside.is_none();
        tracing::info!(%name, version = next.current.number, ?beside, "a version beside another goes on");
        self.rewrite(name, &next);
    }

    /// When the next version before will have served its time.
    pub(super) fn standby_due(&self) -> Option<Instant> {
        let switched = self.desired.leading.as_ref()?.switched.values();
        switched.map(|(_, since)| *since + limits::SWITCH_PAUSE).filter(|at| *at > self.now).min()
    }
}
