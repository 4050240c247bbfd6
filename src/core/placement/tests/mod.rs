//! What a plan orders, case by case, and what holds of every plan.

mod beside;
mod canary;
mod checked;
mod laws;
mod many;
mod nodes;
mod per_node;
mod placing;
mod priority;
mod rebalanced;
mod rolling;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::core::model::{AgentSource, AgentSpec, Beside, OrderEpoch, Placement, ProcessProtocol, Update};

/// A mesh as its leader sees it. Whatever it plans is checked.
#[derive(Debug, Clone, Default)]
struct World {
    blueprints: BTreeMap<AgentName, BlueprintRecord>,
    orders: BTreeMap<AgentName, Order>,
    hosts: BTreeMap<NodeId, Host>,
    observed: BTreeMap<AgentName, Observed>,
    tallies: BTreeMap<AgentName, Tally>,
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

fn agent(name: &str) -> AgentName {
    AgentName::new(name).expect("valid")
}

fn names(of: &[&str]) -> BTreeSet<AgentName> {
    of.iter().map(|name| agent(name)).collect()
}

fn failed(reason: &str) -> Observed {
    Observed::Failed { reason: reason.to_owned() }
}

/// A node with room: `n1`, or `n1@zone`, or `n1@region/zone`.
fn host(text: &str) -> (NodeId, Host) {
    let (name, place) = text.split_once('@').unwrap_or((text, ""));
    let (region, zone) = place.split_once('/').unwrap_or(("", place));
    let card = NodeCard {
        node_id: node(name),
        addresses: vec![],
        region: region.to_owned(),
        zone: zone.to_owned(),
        labels: BTreeMap::new(),
        version: "1".to_owned(),
        roles: vec![],
    };
    (node(name), Host { card, state: HostState::Up, other_agents: 0, cpu_tenths: 0 })
}

/// A blueprint that is as plain as can be.
fn blueprint(name: &str, instances: Instances) -> Blueprint {
    let command = "/bin/agent".to_owned();
    let source = AgentSource::Process { protocol: ProcessProtocol::Stdio, command, args: vec![] };
    let spec = AgentSpec::new(agent(name), source);
    let (placement, update) = (Placement::default(), Update::default());
    Blueprint { spec, instances, placement, update, on_cut: Default::default() }
}

fn count(name: &str, count: u16) -> Blueprint {
    blueprint(name, Instances::Count(count))
}

impl Blueprint {
    fn placed(mut self, change: impl FnOnce(&mut Placement)) -> Self {
        change(&mut self.placement);
        self
    }

    fn updated(mut self, change: impl FnOnce(&mut Update)) -> Self {
        change(&mut self.update);
        self
    }

    /// The same, made of something else.
    fn made_of(mut self, what: &str) -> Self {
        let AgentSource::Process { args, .. } = &mut self.spec.source else {
            panic!("it is a process");
        };
        *args = vec![what.to_owned()];
        self
    }
}

impl World {
    fn of(hosts: &[&str]) -> Self {
        Self { hosts: hosts.iter().map(|text| host(text)).collect(), ..Self::default() }
    }

    fn with(mut self, blueprint: Blueprint) -> Self {
        self.apply(blueprint);
        self
    }

    fn landscape(&self) -> Landscape<'_> {
        let Self { blueprints, orders, hosts, observed, tallies } = self;
        Landscape { blueprints, orders, hosts, observed, tallies }
    }

    fn apply(&mut self, blueprint: Blueprint) {
        blueprint.check().expect("a blueprint that may be applied");
        let name = blueprint.name().clone();
        let record = match self.blueprints.get(&name) {
            Some(record) => record.followed_by(blueprint, "applied".to_owned(), false),
            None => BlueprintRecord::new(blueprint, "applied".to_owned()),
        };
        self.blueprints.insert(name, record);
    }

    fn record(&mut self, name: &str) -> &mut BlueprintRecord {
        self.blueprints.get_mut(&agent(name)).expect("it is there")
    }

    fn host(&mut self, name: &str) -> &mut Host {
        self.hosts.get_mut(&node(name)).expect("it is there")
    }

    fn is(&mut self, name: &str, state: HostState) {
        self.host(name).state = state;
    }

    fn says(&mut self, slot: &str, what: Observed) {
        self.observed.insert(agent(slot), what);
    }

    fn is_unsteady(&mut self, slot: &str) {
        self.says(slot, Observed::Unsteady { stumbled: None, overdue: false });
    }

    /// Orders a slot by hand, as the current version, and says that it is steady there.
    fn gave(&mut self, slot: &str, to: &str) -> &mut Post {
        let digest = self.blueprints.get(&agent(slot).base()).map(|record| record.current.blueprint.digest());
        let post = Post { node: node(to), digest: digest.unwrap_or_default(), relieves: None, tried: vec![] };
        let order = Order {
            epoch: OrderEpoch::default(),
            post: Some(post),
            why: String::new(),
            since: OrderEpoch::default(),
        };
        self.says(slot, Observed::Steady);
        self.orders.insert(agent(slot), order);
        self.post(slot)
    }

    fn post(&mut self, slot: &str) -> &mut Post {
        let order = self.orders.get_mut(&agent(slot)).expect("it was ordered");
        order.post.as_mut().expect("it is filled")
    }

    fn plan(&self) -> Plan {
        let plan = plan(self.landscape());
        check(self.landscape(), &plan).unwrap_or_else(|wrong| panic!("{wrong}, in {plan:#?}\n{self:#?}"));
        plan
    }

    fn rebalanced(&self, moves_max: usize) -> Plan {
        let plan = rebalance(self.landscape(), moves_max);
        check(self.landscape(), &plan).unwrap_or_else(|wrong| panic!("{wrong}, in {plan:#?}"));
        plan
    }

    /// Gives the orders of a plan. Nothing is heard yet of what they ask for.
    fn give(&mut self, plan: &Plan) {
        for step in &plan.steps {
            let order = Order {
                epoch: OrderEpoch::default(),
                post: step.post.clone(),
                why: step.why.clone(),
                since: OrderEpoch::default(),
            };
            self.orders.insert(step.slot.clone(), order);
            self.observed.remove(&step.slot);
        }
        for (name, why) in &plan.roll_back {
            let record = &self.blueprints[name];
            let former = record.former.first().expect("there is a former version").blueprint.clone();
            self.blueprints.insert(name.clone(), record.followed_by(former, why.clone(), true));
        }
    }

    /// Whatever was ordered of nodes that are there, and of which nothing was heard, is steady now.
    fn all_begin(&mut self) {
        for (slot, order) in &self.orders {
            if let Some(post) = &order.post
                && self.hosts.get(&post.node).is_some_and(|host| host.state != HostState::Lost)
            {
                self.observed.entry(slot.clone()).or_insert(Observed::Steady);
            }
        }
    }

    /// Plans, gives the orders and lets everything begin, until nothing is left to do. How often there was something.
    fn settle(&mut self) -> usize {
        for round in 0..ROUNDS_MAX {
            let plan = self.plan();
            if plan.is_empty() && !self.holds_pass() {
                return round;
            }
            self.give(&plan);
            self.all_begin();
        }
        panic!("it never comes to rest: {:#?}\n{self:#?}", self.plan());
    }

    /// The time of every canary's step that waits for nothing else is over. Whether there was one.
    fn holds_pass(&mut self) -> bool {
        let landscape = self.landscape();
        let holds = |(_, record): &(&AgentName, &BlueprintRecord)| {
            stage(landscape, record).is_some_and(|stage| stage.waits_for.is_none())
        };
        let held: Vec<_> =
            self.blueprints.iter().filter(holds).map(|(name, _)| name.as_str().to_owned()).collect();
        held.iter().for_each(|name| self.record(name).current.steps_passed += 1);
        !held.is_empty() | self.standbys_pass()
    }

    /// What waits for nothing else takes the messages, and what has served its time ends. Whether there was something.
    fn standbys_pass(&mut self) -> bool {
        let landscape = self.landscape();
        let passes = |record: &BlueprintRecord| {
            let standby = standby(landscape, record)?;
            match standby.stage {
                Beside::Waits => standby.waits_for.is_none().then_some(Some(Beside::Serves)),
                Beside::Serves => Some(None),
            }
        };
        let all = self.blueprints.iter();
        let pass: Vec<_> =
            all.filter_map(|(name, record)| Some((name.as_str().to_owned(), passes(record)?))).collect();
        for (name, beside) in &pass {
            let current = &mut self.record(name).current;
            (current.beside, current.settled) = (*beside, beside.is_none());
        }
        !pass.is_empty()
    }

    fn settled(mut self) -> Self {
        self.settle();
        self
    }

    /// Where the instances of a blueprint are: `0@n1`.
    fn places(&self, name: &str) -> Vec<String> {
        let posts = orders_of(self.landscape(), &agent(name));
        let mut posts: Vec<_> = posts.map(|(slot, post)| (slot.slot(), post)).collect();
        posts.sort_by_key(|(number, _)| *number);
        posts.iter().map(|(number, post)| format!("{}@{}", number.expect("a slot"), post.node)).collect()
    }
}

/// An update of all slots of the largest world of these tests, one at a time, takes fewer.
const ROUNDS_MAX: usize = 90;

/// What a plan does, a line for each step: `move web#0 to n2 for n1`.
fn steps(plan: &Plan) -> Vec<String> {
    let line = |step: &Step| {
        let mut line = format!("{:?} {}", step.action, step.slot).to_lowercase();
        if let Some(post) = &step.post {
            line.push_str(&format!(" to {}", post.node));
            line.extend(post.relieves.as_ref().map(|relieved| format!(" for {relieved}")));
        }
        line
    };
    plan.steps.iter().map(line).collect()
}

/// Why a step is taken.
fn why(plan: &Plan, slot: &str) -> String {
    plan.steps.iter().find(|step| step.slot == agent(slot)).expect("it is ordered").why.clone()
}
