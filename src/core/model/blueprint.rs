//! Desired state as records: blueprints say what should run, orders which node fills which slot.
//!
//! A *blueprint* has *slots*, numbered from 0, each filled by one instance: `web#0`, `web#1`. An *order* gives a slot to a
//! node. Orders of one slot are told apart by their [`OrderEpoch`], never by a clock: the higher one holds, whoever hears of
//! it first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{AgentSource, AgentSpec, Beside, Canary, NodeCard, SlotSide, Update, UpdateStrategy};
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;

/// Which of two orders for a slot holds: the greater. Those of a later term of the lease are greater than all of an earlier
/// one, because only the holder of the lease gives orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct OrderEpoch {
    /// The chain of rosters.
    pub chain: u64,
    /// Which of two chains of that number.
    pub chain_id: u64,
    /// The term of the lease.
    pub term: u64,
    /// Counts the orders of a term, from 1.
    pub order: u64,
}

impl OrderEpoch {
    /// As 32 bytes, big-endian, whose order is that of the epochs.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let parts = [self.chain, self.chain_id, self.term, self.order];
        for (octets, part) in bytes.chunks_exact_mut(8).zip(parts) {
            octets.copy_from_slice(&part.to_be_bytes());
        }
        bytes
    }

    /// The same read; `None` for bytes of another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (parts, rest) = bytes.as_chunks::<8>();
        let [chain, chain_id, term, order] = *parts else {
            return None;
        };
        let [chain, chain_id, term, order] = [chain, chain_id, term, order].map(u64::from_be_bytes);
        rest.is_empty().then_some(Self { chain, chain_id, term, order })
    }
}

impl fmt::Display for OrderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.chain, self.term, self.order)
    }
}

/// How many instances a blueprint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instances {
    /// So many.
    Count(u16),
    /// One on each node that may have one.
    PerNode,
}

/// What decides between nodes that may all have an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlacementStrategy {
    /// The node with the fewest agents, then the one whose CPU has least to do.
    #[default]
    LeastLoaded,
    /// The node with the fewest instances of this blueprint.
    Spread,
    /// The node with the most agents that has room: others stay free.
    Binpack,
    /// The nodes in turn, in the order of their names.
    RoundRobin,
}

/// What instances are spread over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Domain {
    /// Zones within their regions.
    Zone,
    /// Regions.
    Region,
}

/// Where the instances of a blueprint may be, and where they should rather be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// What decides in the end.
    #[serde(default)]
    pub strategy: PlacementStrategy,
    /// Rather on these nodes, the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefer: Vec<NodeId>,
    /// Only on nodes with these labels; `region`, `zone` and `node` count as labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub require: BTreeMap<String, String>,
    /// Rather on nodes that have an instance of these blueprints.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub near: BTreeSet<AgentName>,
    /// Not on nodes that have an instance of these blueprints. Its own name: not two on one node.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub apart_from: BTreeSet<AgentName>,
    /// As evenly as can be over these, before the strategy decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread_over: Option<Domain>,
    /// So many instances at a time go by themselves to nodes that have fewer agents, such as one that has joined; 0: none.
    #[serde(default, skip_serializing_if = "is_no_move")]
    pub rebalance: u16,
    /// Where there is no room, instances of blueprints with a lower one give way.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub priority: i16,
    /// How much of a node's capacity an instance takes.
    #[serde(default, skip_serializing_if = "Weight::is_one")]
    pub weight: Weight,
}

/// How much of a node's capacity an instance takes, in whatever the operator counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(pub u16);

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

impl Weight {
    fn is_one(&self) -> bool {
        self.0 == 1
    }
}

fn is_usual(priority: &i16) -> bool {
    *priority == 0
}

fn is_no_move(moves: &u16) -> bool {
    *moves == 0
}

/// What an instance does while its node is among a minority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnCut {
    /// It runs on. The majority starts another one: until the cut heals there are two.
    #[default]
    Continue,
    /// It is stopped.
    Stop,
    /// It runs on, answers and sends messages, and its writes to the state are refused instead of queued.
    ReadOnly,
}

/// What should run, how often, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blueprint {
    /// What each instance is; its name is the blueprint's.
    pub spec: AgentSpec,
    /// How many there are.
    pub instances: Instances,
    /// Where they are.
    #[serde(default)]
    pub placement: Placement,
    /// How a later version takes their place.
    #[serde(default)]
    pub update: Update,
    /// What they do while their node is among a minority.
    #[serde(default)]
    pub on_cut: OnCut,
}

/// Names what an instance is made of: two versions of a blueprint that differ only in how many there are, or where, have
/// the same, and going from one to the other starts nothing anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct SpecDigest([u8; 8]);

impl fmt::Debug for SpecDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Blueprint {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &AgentName {
        &self.spec.name
    }

    /// Names what its instances are made of.
    #[must_use]
    pub fn digest(&self) -> SpecDigest {
        let encoded = crate::core::wire::encode_value(&self.without_origin().spec);
        let mut digest = [0; 8];
        digest.copy_from_slice(&Sha256::digest(&encoded)[..8]);
        SpecDigest(digest)
    }

    /// Whether it says the same, wherever its module was uploaded.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        self.without_origin() == other.without_origin()
    }

    fn without_origin(&self) -> Self {
        let mut plain = self.clone();
        if let AgentSource::Wasm(source) = &mut plain.spec.source {
            source.origin = None;
        }
        plain
    }

    /// What whoever fills this slot is.
    #[must_use]
    pub fn spec_of(&self, slot: u16) -> AgentSpec {
        AgentSpec { name: self.spec.name.of_slot(slot), ..self.spec.clone() }
    }

    /// Checks its bounds, and that it does not contradict itself.
    ///
    /// # Errors
    /// A sentence for the person who applies it.
    pub fn check(&self) -> Result<(), String> {
        self.check_parts().map_err(|why| format!("blueprint {}: {why}", self.name()))
    }

    fn check_parts(&self) -> Result<(), String> {
        if self.name().slot().is_some() {
            return Err("its name has a '#', which stands before the number of a slot".to_owned());
        }
        self.spec.check()?;
        if self.on_cut == OnCut::ReadOnly && !matches!(self.spec.source, AgentSource::Wasm(_)) {
            return Err("on_cut: read-only is for components: what a process writes, its node does not see"
                .to_owned());
        }
        if let Instances::Count(count) = self.instances
            && count > limits::INSTANCES_MAX
        {
            return Err(format!("{count} instances are too many: at most {}", limits::INSTANCES_MAX));
        }
        let Placement { prefer, require, near, apart_from, .. } = &self.placement;
        let rules = [
            ("prefer", prefer.len()),
            ("require", require.len()),
            ("near", near.len()),
            ("apart_from", apart_from.len()),
        ];
        if let Some((rule, _)) = rules.into_iter().find(|(_, len)| *len > limits::PLACEMENT_RULES_MAX) {
            return Err(format!(
                "placement.{rule} has too many entries: at most {}",
                limits::PLACEMENT_RULES_MAX
            ));
        }
        let most = limits::PRIORITY_MAX;
        if self.placement.priority.unsigned_abs() > most {
            return Err(format!("placement.priority is -{most} to {most}"));
        }
        if self.placement.weight.0 == 0 || self.placement.weight.0 > limits::WEIGHT_MAX {
            return Err(format!("placement.weight is 1 to {}", limits::WEIGHT_MAX));
        }
        if self.placement.rebalance > limits::REBALANCE_MOVES_MAX {
            return Err(format!("placement.rebalance is 0 to {}", limits::REBALANCE_MOVES_MAX));
        }
        if self.placement.rebalance > 0 && self.instances == Instances::PerNode {
            return Err("placement.rebalance is not for one on each node: there is nowhere else".to_owned());
        }
        if self.placement.rebalance > 0 && self.placement.strategy == PlacementStrategy::Binpack {
            return Err(
                "placement.rebalance is not for binpack, which fills one node after the other".to_owned()
            );
        }
        if let Some(both) = near.intersection(apart_from).next() {
            return Err(format!("it is to be near {both} and apart from it"));
        }
        if near.contains(self.name()) {
            return Err("it is to be near itself: leave it out of placement.near".to_owned());
        }
        self.update.check()?;
        if self.update.strategy == UpdateStrategy::BlueGreen {
            self.check_blue_green()?;
        }
        let bytes = crate::core::wire::encode_value(self).len();
        if bytes > limits::BLUEPRINT_BYTES_MAX {
            return Err(format!("it has {bytes} bytes: at most {}", limits::BLUEPRINT_BYTES_MAX));
        }
        Ok(())
    }
}

impl Blueprint {
    fn check_blue_green(&self) -> Result<(), String> {
        if self.spec.exclusive {
            return Err(
                "update.strategy: blue-green is not for exclusive agents: both versions would run at a time"
                    .to_owned(),
            );
        }
        match self.instances {
            Instances::Count(_) => Ok(()),
            Instances::PerNode => {
                Err("update.strategy: blue-green is not for one on each node: each would have two".to_owned())
            }
        }
    }
}

/// A version of a blueprint, and why there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Counts the versions of a blueprint, from 1.
    pub number: u64,
    /// What should run.
    pub blueprint: Blueprint,
    /// Why there is this version: `applied`, `scaled to 5`, `rolled back to version 3: ...`.
    pub why: String,
    /// Whether it is a former one that holds again: half of the instances change at once, and its failure takes nothing back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub goes_back: bool,
    /// Whether all its instances were steady once: what happens to them later is no failure of the version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settled: bool,
    /// Steps of its canary that it has passed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub steps_passed: u8,
    /// On which side its slots are.
    #[serde(default, skip_serializing_if = "SlotSide::is_first")]
    pub side: SlotSide,
    /// Set while instances of the version before are beside its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
}

fn is_zero(count: &u8) -> bool {
    *count == 0
}

/// A blueprint as it is stored, under [`BLUEPRINTS_PREFIX`]: what should run now, and what should have run before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlueprintRecord {
    /// The version that holds.
    pub current: Version,
    /// Those before, the last one first.
    #[serde(default)]
    pub former: Vec<Version>,
    /// Nothing of it should run. The record stays, so that nobody takes an order for one of a blueprint yet to come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
    /// No instance is updated until somebody says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// Where the records of blueprints are: the blueprint's name follows.
pub const BLUEPRINTS_PREFIX: &str = "_mesh/blueprints/";
/// Where orders are: the blueprint's name follows, and the number of the slot.
pub const ORDERS_PREFIX: &str = "_mesh/assignments/";
/// Where it says which nodes are drained: the node's name follows.
pub const DRAINED_PREFIX: &str = "_mesh/drained/";

impl BlueprintRecord {
    /// The record of a blueprint that is new.
    #[must_use]
    pub fn new(blueprint: Blueprint, why: String) -> Self {
        let current = Version {
            number: 1,
            blueprint,
            why,
            goes_back: false,
            settled: false,
            steps_passed: 0,
            side: SlotSide::default(),
            beside: None,
        };
        Self { current, former: vec![], removed: false, paused: false }
    }

    /// The record with a version after the current one. The oldest versions are forgotten where there are too many.
    #[must_use]
    pub fn followed_by(&self, blueprint: Blueprint, why: String, goes_back: bool) -> Self {
        let number = self.current.number + 1;
        // Where only the number of instances or their places change, what was found of the version still holds.
        let is_same = blueprint.digest() == self.current.blueprint.digest();
        let settled = is_same && self.current.settled;
        let (side, beside) = self.place_of_next(&blueprint, goes_back);
        let goes_back = goes_back || (is_same && self.current.goes_back);
        let steps_passed = if is_same { self.current.steps_passed } else { 0 };
        let current = Version { number, blueprint, why, goes_back, settled, steps_passed, side, beside };
        let former = std::iter::once(&self.current).chain(&self.former).cloned();
        let mut next = Self { current, former: former.collect(), removed: false, paused: false };
        while next.is_too_long() {
            next.forget_one();
        }
        next
    }

    fn is_too_long(&self) -> bool {
        let bytes = || crate::core::wire::encode_value(self).len();
        let (count, max) = (self.former.len(), limits::BLUEPRINT_VERSIONS_MAX);
        count > max || (count > 0 && bytes() > limits::BLUEPRINT_RECORD_BYTES_MAX)
    }

    /// Forgets the oldest version that a later one has the instances of, or else the oldest: what runs somewhere is known for
    /// as long as can be.
    fn forget_one(&mut self) {
        let mut later = BTreeSet::from([self.current.blueprint.digest()]);
        let is_repeated = |version: &Version| !later.insert(version.blueprint.digest());
        let repeated: Vec<_> = self.former.iter().map(is_repeated).collect();
        let oldest = repeated.iter().rposition(|repeated| *repeated);
        self.former.remove(oldest.unwrap_or(self.former.len() - 1));
    }

    /// The blueprint, unless it was removed.
    #[must_use]
    pub fn wanted(&self) -> Option<&Blueprint> {
        (!self.removed).then_some(&self.current.blueprint)
    }

    /// The version to go back to when the current one has failed: the last before whose instances are made of something else
    /// and were all steady once; if there is none, the last that is made of something else.
    #[must_use]
    pub fn before(&self) -> Option<&Version> {
        let digest = self.current.blueprint.digest();
        let others = || self.former.iter().filter(|former| former.blueprint.digest() != digest);
        others().find(|former| former.settled).or_else(|| others().next())
    }

    /// The canary that is under way, and how many of its steps are passed. The first version has nothing to be compared with,
    /// and one that holds again was good before: neither is a canary.
    #[must_use]
    pub fn canary(&self) -> Option<(&Canary, usize)> {
        let Version { goes_back, settled, steps_passed, beside, .. } = self.current;
        let canary = self.wanted()?.update.strategy.canary()?;
        let passed = usize::from(steps_passed);
        let is_judged = !goes_back && !settled && beside.is_none();
        (is_judged && passed < canary.steps.len() && self.before().is_some()).then_some((canary, passed))
    }

    /// Whether the messages of its current version are counted.
    #[must_use]
    pub fn counts_messages(&self) -> bool {
        let canary = self.wanted().and_then(|blueprint| blueprint.update.strategy.canary());
        let is_judged = !self.current.settled && !self.current.goes_back && self.before().is_some();
        is_judged && canary.is_some_and(Canary::counts_messages)
    }

    /// The version that an operator means who wants the one before: a change of numbers or places is taken back, or else it is
    /// [`BlueprintRecord::before`].
    #[must_use]
    pub fn previous(&self) -> Option<&Version> {
        let digest = self.current.blueprint.digest();
        let last = self.former.first()?;
        if last.blueprint.digest() == digest { Some(last) } else { self.before() }
    }

    /// The record once nothing of it should run any more.
    #[must_use]
    pub fn ended(&self) -> Self {
        let number = self.current.number + 1;
        let side = self.side_on_call();
        let why = "removed".to_owned();
        let current = Version { number, why, side, beside: None, ..self.current.clone() };
        Self { current, removed: true, ..self.clone() }
    }

    /// The version whose instances are made of that.
    #[must_use]
    pub fn version_of(&self, digest: SpecDigest) -> Option<&Version> {
        std::iter::once(&self.current)
            .chain(&self.former)
            .find(|version| version.blueprint.digest() == digest)
    }
}

/// Which node fills a slot, as it is stored under [`ORDERS_PREFIX`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Which order of the slot it is.
    pub epoch: OrderEpoch,
    /// What is ordered; `None`: nobody fills the slot.
    pub post: Option<Post>,
    /// Why, in a few words.
    pub why: String,
    /// The order by which the node got the slot: this one, or an earlier one since which the slot has been this node's.
    #[serde(default)]
    pub since: OrderEpoch,
}

/// What a node is ordered to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Post {
    /// The node.
    pub node: NodeId,
    /// What it runs: a version of the blueprint with this digest.
    pub digest: SpecDigest,
    /// A node that had the slot before, and goes on until this one has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relieves: Option<NodeId>,
    /// Nodes on which this version came to its end too often.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<NodeId>,
}

/// Where the order for a slot is stored; `None` for an agent that fills none.
#[must_use]
pub fn order_key(slot: &AgentName) -> Option<String> {
    Some(format!("{ORDERS_PREFIX}{}/{}", slot.base(), slot.slot()?))
}

/// The slot whose order is stored there.
#[must_use]
pub fn slot_of_key(key: &str) -> Option<AgentName> {
    let (name, number) = key.strip_prefix(ORDERS_PREFIX)?.split_once('/')?;
    AgentName::new(&format!("{name}#{number}")).ok()
}

/// The label that says how much instances of blueprints on a node may weigh together.
pub const CAPACITY_LABEL: &str = "capacity";

/// Reads the value of the label [`CAPACITY_LABEL`].
///
/// # Errors
/// It is no number, in words.
pub fn capacity(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("its label {CAPACITY_LABEL} is {text:?}, which is no number"))
}

impl NodeCard {
    /// How much instances of blueprints on it may weigh together; `None`: it does not say.
    ///
    /// # Errors
    /// What it says is no number.
    pub fn capacity(&self) -> Result<Option<u32>, String> {
        self.labels.get(CAPACITY_LABEL).map(|text| capacity(text)).transpose()
    }

    /// Whether the node has what a placement requires; `Err` names what it has not.
    ///
    /// # Errors
    /// The first label that is another, in words.
    pub fn satisfies(&self, require: &BTreeMap<String, String>) -> Result<(), String> {
        for (label, wanted) in require {
            let found = match label.as_str() {
                "region" => Some(self.region.as_str()),
                "zone" => Some(self.zone.as_str()),
                "node" => Some(self.node_id.as_str()),
                other => self.labels.get(other).map(String::as_str),
            };
            match found.filter(|found| !found.is_empty()) {
                Some(found) if found == wanted => {}
                Some(found) => return Err(format!("its {label} is {found}, not {wanted}")),
                None => return Err(format!("it has no {label}, {wanted} is required")),
            }
        }
        Ok(())
    }
}
