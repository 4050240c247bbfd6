//! Canaries: what a new version is judged by while only some instances are of it.
//!
//! - Each node counts, every [`limits::TALLY_INTERVAL`], what became of the messages of those of its instances that are on
//!   trial, and tells the others if that has changed: at most one record of a node in that time, and none without a canary.
//! - The holder of the lease looks at what came after the step began, and lets the next step begin when the instances of this
//!   one were steady for as long as the blueprint says. The step is kept with the version; for how long it has been held is not:
//!   another holder begins to count anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::Mesh;
use super::Desired;
use super::follow::Followed;
use crate::core::contract::Output;
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::{BlueprintRecord, OrderEpoch, Tallies, Tally};
use crate::core::placement::{self, Host, Landscape, Observed, Stage};
use crate::core::time::Instant;

/// Everything that a plan is made of and that is not kept.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) hosts: BTreeMap<NodeId, Host>,
    pub(super) observed: BTreeMap<AgentName, Observed>,
    pub(super) tallies: BTreeMap<AgentName, Tally>,
}

impl Scene {
    /// As a plan sees it, with these blueprints.
    pub(super) fn landscape<'a>(
        &'a self,
        desired: &'a Desired,
        blueprints: &'a BTreeMap<AgentName, BlueprintRecord>,
    ) -> Landscape<'a> {
        let Self { hosts, observed, tallies } = self;
        Landscape { blueprints, orders: &desired.orders, hosts, observed, tallies }
    }
}

/// A step of a canary, as the holder of the lease watches it.
#[derive(Debug)]
pub(super) struct Trial {
    /// The version, and how many of its steps are passed.
    of: (u64, usize),
    pub(super) began: Instant,
    /// Since when it waits for nothing but its time.
    pub(super) held_since: Option<Instant>,
    /// What had been counted of each slot when the step began.
    before: BTreeMap<AgentName, Counted>,
}

/// What was counted of a slot, and by which order it runs: another instance counts from nothing.
type Counted = (OrderEpoch, Tally);

/// When this node counts messages.
#[derive(Debug, Default)]
pub(super) struct Counting {
    /// The blueprints whose current version is on trial.
    pub(super) of: BTreeSet<AgentName>,
    asked: Option<Instant>,
}

impl Mesh {
    /// What a plan is made of.
    pub(super) fn scene(&mut self) -> Scene {
        let (hosts, observed) = (self.hosts(), self.observe());
        Scene { hosts, observed, tallies: self.tallies() }
    }

    /// What was counted of the instances on trial by the orders that hold, since the step of their canary began. Trials that
    /// this node does not watch yet begin with this.
    fn tallies(&mut self) -> BTreeMap<AgentName, Tally> {
        let mut told: BTreeMap<AgentName, BTreeMap<AgentName, Counted>> = BTreeMap::new();
        for name in &self.desired.counting.of {
            let orders = self.desired.orders.range(name.of_slot(0)..);
            let of_it = orders.take_while(|(slot, _)| slot.base() == *name);
            let tallies = of_it.filter_map(|(slot, order)| {
                let owner = self.registry.owner(&order.post.as_ref()?.node)?;
                let (epoch, tally) = owner.tallies.get(slot)?;
                (*epoch == order.epoch).then(|| (slot.clone(), (*epoch, *tally)))
            });
            told.insert(name.clone(), tallies.collect());
        }
        self.watch_trials(&told);
        let trials = self.desired.leading.as_ref().map(|leading| &leading.trials);
        let mut since = BTreeMap::new();
        for (name, tallies) in told {
            let before = trials.and_then(|trials| trials.get(&name)).map(|trial| &trial.before);
            let at_first = |slot: &AgentName| before.and_then(|before| before.get(slot)).copied();
            since.extend(tallies.into_iter().map(|(slot, (epoch, tally))| {
                let before = at_first(&slot).filter(|(of, _)| *of == epoch).map(|(_, tally)| tally);
                (slot, tally.since(before.unwrap_or_default()))
            }));
        }
        since
    }

    /// Keeps a trial for each canary that is under way, if this node gives the orders.
    fn watch_trials(&mut self, told: &BTreeMap<AgentName, BTreeMap<AgentName, Counted>>) {
        let Desired { leading: Some(leading), blueprints, .. } = &mut self.desired else {
            return;
        };
        let steps: BTreeMap<_, _> = blueprints
            .iter()
            .filter_map(|(name, record)| Some((name, (record.current.number, record.canary()?.1))))
            .collect();
        leading.trials.retain(|name, trial| steps.get(name) == Some(&trial.of));
        for (name, of) in steps {
            leading.trials.entry(name.clone()).or_insert_with(|| {
                let before = told.get(name).cloned().unwrap_or_default();
                Trial { of, began: self.now, held_since: None, before }
            });
        }
    }

    /// Lets time count for the steps that wait for nothing else. Returns the blueprints whose step was held for long enough.
    pub(super) fn hold_canaries(&mut self, stages: &BTreeMap<AgentName, Stage>) -> Vec<AgentName> {
        let now = self.now;
        let Desired { leading: Some(leading), blueprints, .. } = &mut self.desired else {
            return vec![];
        };
        let mut held = Vec::new();
        for (name, trial) in &mut leading.trials {
            let is_ready = stages.get(name).is_some_and(|stage| stage.waits_for.is_none());
            trial.held_since = if is_ready { Some(trial.held_since.unwrap_or(now)) } else { None };
            let is_over = |since: Instant| {
                let canary = blueprints.get(name).and_then(BlueprintRecord::canary);
                canary.is_some_and(|(canary, _)| now.since(since) >= canary.hold)
            };
            if trial.held_since.is_some_and(is_over) {
                held.push(name.clone());
            }
        }
        held
    }

    /// The canaries that are under way.
    pub(super) fn stages(landscape: Landscape<'_>) -> BTreeMap<AgentName, Stage> {
        let under_way = landscape.blueprints.iter();
        under_way
            .filter_map(|(name, record)| Some((name.clone(), placement::stage(landscape, record)?)))
            .collect()
    }

    /// When a step will have been held for long enough, or what was counted is to be looked at.
    pub(super) fn trial_due(&self) -> Option<Instant> {
        let trials = &self.desired.leading.as_ref()?.trials;
        let due = trials.iter().filter_map(|(name, trial)| {
            let (canary, _) = self.desired.blueprints.get(name)?.canary()?;
            Some(trial.held_since.map(|since| since + canary.hold).filter(|at| *at > self.now))
        });
        let look = (!self.desired.counting.of.is_empty()).then(|| self.now + limits::TALLY_INTERVAL);
        due.flatten().chain(look).min()
    }

    /// A step of a canary is passed.
    pub(super) fn pass_step(&mut self, name: &AgentName) {
        let Some(record) = self.desired.blueprints.get(name) else {
            return;
        };
        let mut next = record.clone();
        next.current.steps_passed = next.current.steps_passed.saturating_add(1);
        let (version, passed) = (next.current.number, next.current.steps_passed);
        tracing::info!(%name, version, passed, "a step of a canary was held");
        self.rewrite(name, &next);
    }

    /// Counts the messages of what this node has on trial, now and then.
    pub(super) fn count_messages(&mut self) {
        let Desired { counting, followed, digests, .. } = &mut self.desired;
        let is_on_trial = |(slot, followed): &(&AgentName, &Followed)| {
            let name = slot.base();
            let current = digests.get(&name).and_then(|digests| digests.first());
            counting.of.contains(&name) && current == Some(&followed.digest)
        };
        let on_trial: Vec<_> = match counting.of.is_empty() {
            true => vec![],
            false => followed.iter().filter(is_on_trial).map(|(slot, _)| slot.clone()).collect(),
        };
        if on_trial.is_empty() {
            if counting.asked.take().is_some() {
                self.tell_tallies(&Tallies::new());
            }
            return;
        }
        let due = counting.asked.map_or(self.now, |asked| asked + limits::TALLY_INTERVAL);
        if due > self.now {
            return self.look_again(due);
        }
        counting.asked = Some(self.now);
        let agents = on_trial.into_iter().take(limits::TALLIES_MAX).collect();
        self.output(Output::CountMessages { agents });
        self.look_again(self.now + limits::TALLY_INTERVAL);
    }

    /// The runtime has counted them.
    pub(in crate::core::mesh) fn on_counted(&mut self, counted: BTreeMap<AgentName, Tally>) {
        if self.desired.counting.asked.is_none() {
            return;
        }
        let by_order = |(slot, tally)| Some((self.order_of(&slot)?, slot, tally));
        let tallies = counted.into_iter().filter_map(by_order);
        let tallies = tallies.filter(|(.., tally)| *tally != Tally::default());
        let tallies: Tallies = tallies.map(|(order, slot, tally)| (slot, (order, tally))).collect();
        self.tell_tallies(&tallies);
    }

    fn tell_tallies(&mut self, tallies: &Tallies) {
        let delta = self.registry.publish_tallies(tallies);
        self.spread(delta);
    }

    /// For how long a step was begun, and held.
    pub(super) fn trial_times(&self, name: &AgentName) -> Option<(Duration, Duration)> {
        let trial = self.desired.leading.as_ref()?.trials.get(name)?;
        let held = trial.held_since.map_or(Duration::ZERO, |since| self.now.since(since));
        Some((self.now.since(trial.began), held))
    }
}
