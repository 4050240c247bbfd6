//! Who runs which agent, as messages need it: made anew for each published view, and only read afterwards.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use super::choice::{Choice, choose, is_usable};
use crate::core::error::SendError;
use crate::core::ids::{AgentName, NodeId, Tag};
use crate::core::model::{
    Address, AgentState, Balance, CrossRegion, MemberStatus, Message, Offer, OrderEpoch, SlotSide,
};
use crate::node::transport::Peer;

/// Who runs which agent, as messages need it.
#[derive(Debug, Default)]
pub struct Routes {
    /// By name; those that fill a slot of a blueprint also by the blueprint's.
    pub(super) agents: HashMap<AgentName, Group>,
    /// By what they can do.
    pub(super) capabilities: HashMap<Tag, Group>,
    /// Who listens to what and takes messages.
    pub(super) topics: HashMap<Tag, Vec<Address>>,
    /// Who listens to what, whether or not it takes messages now.
    pub(super) listeners: HashMap<Tag, Vec<Address>>,
    /// Of the slots that this node runs: the last order for each that it has heard of.
    pub ordered: BTreeMap<AgentName, OrderEpoch>,
    /// Whether this node takes no new messages from its clients.
    pub stopping: bool,
    /// Whether this node has found its mesh.
    pub joined: bool,
}

/// Instances that a message may go to as well to one as to the other, and which of them take messages now.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) instances: Vec<Arc<Instance>>,
    pub(super) choice: Choice,
    balance: Balance,
    /// Counts the messages that are given in turn. It outlives the routes.
    turns: Arc<AtomicUsize>,
}

/// One instance of an agent.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The agent.
    pub agent: AgentName,
    /// Its node.
    pub node: NodeId,
    /// What this node believes of that node.
    pub status: MemberStatus,
    /// What that node says of the agent.
    pub state: AgentState,
    /// The order by which it fills a slot.
    pub order: Option<OrderEpoch>,
    /// Whether its node refuses messages to it, because it keeps failing.
    pub is_open: bool,
    /// The way there.
    pub way: Way,
    /// The region of its node; empty when that has none.
    pub region: String,
    /// The round trip to be expected of its node, as far as known.
    pub rtt: Option<Duration>,
    /// What it offers.
    pub offer: Offer,
    /// Whether messages to its blueprint, to what it offers and to its number go to it; else it is reached by its own name alone.
    pub on_call: bool,
    /// Messages to it of which this node awaits the outcome; where nobody asks for the number, it is not counted.
    pub open: Option<Open>,
    /// Over its name and node; worked out with the routes.
    pub hash: u64,
}

/// The way to an instance.
#[derive(Debug, Clone)]
pub enum Way {
    /// On this node.
    Here,
    /// Over this link.
    Link(Arc<Peer>),
    /// There is no link now; one can be asked for.
    NoLink,
}

/// How many messages to an instance this node awaits the outcome of. It outlives the routes.
#[derive(Debug, Clone, Default)]
pub struct Open(Arc<AtomicU32>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Open);

impl Open {
    pub(super) fn count(self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self)
    }

    fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What decides which instance of several a message goes to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sticky<'a> {
    pub(super) conversation: Option<&'a str>,
    pub(super) key: Option<&'a str>,
}

impl<'a> Sticky<'a> {
    pub(super) fn of(message: &'a Message) -> Self {
        Self { conversation: message.conversation_id.as_deref(), key: message.key() }
    }
}

impl Routes {
    /// Routes over these instances, from a node in `own_region` (empty: in none). What is counted in the routes `before`
    /// is counted on.
    #[must_use]
    pub fn new(
        instances: impl IntoIterator<Item = Instance>,
        own_region: &str,
        rule: &CrossRegion,
        before: &Self,
    ) -> Self {
        let mut agents: HashMap<AgentName, Vec<Arc<Instance>>> = HashMap::new();
        let mut capabilities: BTreeMap<Tag, Vec<Arc<Instance>>> = BTreeMap::new();
        let mut topics: HashMap<Tag, Vec<Address>> = HashMap::new();
        let mut listeners: HashMap<Tag, Vec<Address>> = HashMap::new();
        for mut instance in instances {
            let counts = instance.offer.balance == Balance::LeastInflight;
            instance.open = counts.then(|| before.open_of(&instance).unwrap_or_default());
            instance.hash =
                fnv1a(&[instance.agent.as_str().as_bytes(), b"@", instance.node.as_str().as_bytes()]);
            let instance = Arc::new(instance);
            if !instance.on_call {
                agents.entry(instance.agent.clone()).or_default().push(instance);
                continue;
            }
            for capability in &instance.offer.capabilities {
                capabilities.entry(capability.clone()).or_default().push(Arc::clone(&instance));
            }
            for topic in &instance.offer.topics {
                listeners.entry(topic.clone()).or_default().push(instance.lasting_address());
            }
            if is_usable(&instance) {
                for topic in &instance.offer.topics {
                    topics.entry(topic.clone()).or_default().push(instance.address());
                }
            }
            if instance.agent.slot().is_some() {
                agents.entry(instance.agent.base()).or_default().push(Arc::clone(&instance));
            }
            let number = SlotSide::lasting_name(&instance.agent);
            if number != instance.agent {
                agents.entry(number).or_default().push(Arc::clone(&instance));
            }
            agents.entry(instance.agent.clone()).or_default().push(instance);
        }
        let group = |instances, before: Option<&Group>| {
            let turns = before.map_or_else(Arc::default, |group| Arc::clone(&group.turns));
            Group { turns, ..Group::new(instances, own_region, rule) }
        };
        let named = |(name, instances)| {
            let group = group(instances, before.agents.get(&name));
            (name, group)
        };
        let able = |(tag, instances)| {
            let group = group(instances, before.capabilities.get(&tag));
            (tag, group)
        };
        Self {
            agents: agents.into_iter().map(named).collect(),
            capabilities: capabilities.into_iter().map(able).collect(),
            topics,
            listeners,
            ..Self::default()
        }
    }

    /// Where a message to a capability goes that is promised to this instance: to any under its name, or its blueprint's, if
    /// all of these offer it, and else to it alone.
    pub(super) fn heir_of(&self, instance: &Instance, capability: &Tag) -> Address {
        let name = instance.agent.base();
        let offers = |other: &Arc<Instance>| other.offer.capabilities.contains(capability);
        match self.agents.get(&name) {
            Some(group) if group.instances.iter().all(offers) => Address { agent: name, node: None },
            Some(_) | None => instance.lasting_address(),
        }
    }

    /// Notes on a message of this node's own by which order its sender fills a slot, if it fills one.
    pub(super) fn tell_order(&self, message: Message) -> Message {
        let sender = message.from.split_once('@').filter(|(agent, _)| agent.contains('#'));
        let sender = sender.and_then(|(agent, _)| AgentName::new(agent).ok());
        match sender.and_then(|agent| self.ordered.get(&agent).copied()) {
            Some(epoch) => message.with_ordered(epoch),
            None => message,
        }
    }

    /// Whether the sender's node may take part for its slot: it has heard of the order by which an instance of the slot runs.
    ///
    /// # Errors
    /// [`SendError::Superseded`].
    pub(super) fn check_order(&self, message: &Message) -> Result<(), SendError> {
        let Some((sender, epoch)) = message.ordered() else {
            return Ok(());
        };
        let from = message.from.rsplit_once('@').map(|(_, node)| node);
        let instances = self.agents.get(&sender).map(|group| group.instances.iter());
        // What the sender's node tells of itself does not refuse it; and an order may have been lost with a node that is gone.
        let counts = |instance: &&Arc<Instance>| {
            instance.agent == sender
                && Some(instance.node.as_str()) != from
                && instance.status.is_reachable()
                && instance.state == AgentState::Running
        };
        let running = instances.into_iter().flatten().filter(counts);
        match running.filter_map(|instance| instance.order).max().filter(|order| *order > epoch) {
            Some(order) => Err(SendError::Superseded { sender, epoch: order.to_string() }),
            None => Ok(()),
        }
    }

    fn open_of(&self, instance: &Instance) -> Option<Open> {
        let instances = &self.agents.get(&instance.agent)?.instances;
        if instance.agent.slot().is_some() {
            let is_same =
                |known: &&Arc<Instance>| known.node == instance.node && known.agent == instance.agent;
            return instances.iter().find(is_same)?.open.clone();
        }
        // Those of one name come in the order of their nodes.
        let at = instances.binary_search_by(|known| known.node.cmp(&instance.node)).ok()?;
        instances[at].open.clone()
    }
}

impl Instance {
    /// The address of exactly this one.
    pub(super) fn address(&self) -> Address {
        Address { agent: self.agent.clone(), node: Some(self.node.clone()) }
    }

    /// The address under which it is found later as well: a slot of a blueprint may have moved, or another version may fill
    /// that of the same number; another agent has not.
    pub(super) fn lasting_address(&self) -> Address {
        let node = self.agent.slot().is_none().then(|| self.node.clone());
        Address { agent: SlotSide::lasting_name(&self.agent), node }
    }
}

impl Group {
    fn new(instances: Vec<Arc<Instance>>, own_region: &str, rule: &CrossRegion) -> Self {
        let choice = choose(own_region, &instances, rule);
        let mut balances = choice.chosen.iter().map(|index| instances[*index].offer.balance);
        let first = balances.next().unwrap_or_default();
        // Instances that do not agree are taken in turn.
        let balance = if balances.all(|other| other == first) { first } else { Balance::default() };
        Self { instances, choice, balance, turns: Arc::default() }
    }

    /// The addresses of all that may take messages.
    pub(super) fn usable(&self) -> Vec<Address> {
        self.instances
            .iter()
            .filter(|instance| is_usable(instance))
            .map(|instance| instance.address())
            .collect()
    }

    /// The lasting addresses of all, whether or not they take messages now.
    pub(super) fn lasting(&self) -> Vec<Address> {
        self.instances.iter().map(|instance| instance.lasting_address()).collect()
    }

    /// The instance that the next message goes to; `None` when there is none that may take it.
    pub(super) fn pick(&self, sticky: Sticky<'_>) -> Option<&Arc<Instance>> {
        self.pick_among(&self.choice.chosen, sticky)
    }

    /// The same of those on a node, whatever else speaks against them than that they take no messages.
    pub(super) fn pick_on(&self, node: &NodeId, sticky: Sticky<'_>) -> Option<&Arc<Instance>> {
        let usable = || {
            let all = self.instances.iter().enumerate();
            all.filter(|(_, instance)| instance.node == *node && is_usable(instance))
        };
        let mut there = usable();
        let (_, first) = there.next()?;
        if there.next().is_none() {
            return Some(first);
        }
        let may_be = |wanted: &dyn Fn(&Instance) -> bool| {
            usable().filter(|(_, instance)| wanted(instance)).map(|(index, _)| index).collect::<Vec<_>>()
        };
        // One that is not on call has a name of its own, and one whose breaker is open refuses what it is given.
        let ranked = [may_be(&|i| i.on_call && !i.is_open), may_be(&|i| i.on_call), may_be(&|_| true)];
        ranked.iter().find_map(|among| self.pick_among(among, sticky))
    }

    fn pick_among(&self, among: &[usize], sticky: Sticky<'_>) -> Option<&Arc<Instance>> {
        let at = |index: usize| &self.instances[among[index % among.len()]];
        match (among.len(), self.balance) {
            (0, _) => return None,
            (1, _) => return Some(at(0)),
            (_, Balance::KeyHash | Balance::RoundRobin | Balance::LeastInflight) => {}
        }
        let key = sticky.key.filter(|_| self.balance == Balance::KeyHash);
        if let Some(key) = key.or(sticky.conversation) {
            return self.of_key(among, key);
        }
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        if self.balance != Balance::LeastInflight {
            return Some(at(turn));
        }
        // Of those with as few, the next in turn.
        let in_turn = (0..among.len()).map(|index| at(turn.wrapping_add(index)));
        in_turn.min_by_key(|instance| instance.open.as_ref().map_or(0, Open::now))
    }

    /// The one that a key belongs to: that with the highest weight (Thaler and Ravishankar, "Using name-based mappings to
    /// increase hit rates", 1998). When one comes or goes, only the keys that it gets or had have another one; all nodes
    /// that choose among the same instances choose alike.
    fn of_key(&self, among: &[usize], key: &str) -> Option<&Arc<Instance>> {
        let hash = fnv1a(&[key.as_bytes()]);
        let instances = among.iter().map(|index| &self.instances[*index]);
        instances.max_by_key(|instance| mixed(hash ^ instance.hash))
    }
}

/// FNV-1a of 64 bits.
fn fnv1a(parts: &[&[u8]]) -> u64 {
    let octets = parts.iter().copied().flatten();
    octets
        .fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3))
}

/// The finalizer of MurmurHash3: each bit of the input changes each of the output with about the same probability.
fn mixed(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::*;

    pub(in crate::node::dispatch) fn instance(agent: &str, node: &str, offer: Offer) -> Instance {
        Instance {
            agent: AgentName::new(agent).expect("valid"),
            node: NodeId::new(node).expect("valid"),
            status: MemberStatus::Alive,
            state: AgentState::Running,
            order: None,
            is_open: false,
            way: Way::NoLink,
            region: String::new(),
            rtt: None,
            offer,
            on_call: true,
            open: None,
            hash: 0,
        }
    }

    pub(in crate::node::dispatch) fn tag(text: &str) -> Tag {
        Tag::new(text).expect("valid")
    }

    fn balanced(balance: Balance) -> Offer {
        Offer { balance, ..Offer::default() }
    }

    fn routes(instances: Vec<Instance>, before: &Routes) -> Routes {
        Routes::new(instances, "", &CrossRegion::default(), before)
    }

    fn workers(count: usize, balance: Balance) -> Vec<Instance> {
        (0..count).map(|n| instance("worker", &format!("n{n}"), balanced(balance))).collect()
    }

    fn node_for<'a>(routes: &'a Routes, sticky: Sticky<'_>) -> &'a str {
        let group = &routes.agents[&AgentName::new("worker").expect("valid")];
        group.pick(sticky).expect("somebody").node.as_str()
    }

    fn keyed(key: &str) -> Sticky<'_> {
        Sticky { key: Some(key), conversation: None }
    }

    fn order(order: u64) -> OrderEpoch {
        OrderEpoch { order, ..OrderEpoch::default() }
    }

    fn message(from: &str) -> Message {
        let to = Address::parse("sink").expect("an address");
        crate::core::model::measuring_message(uuid::Uuid::nil(), from.to_owned(), to)
    }

    #[test]
    fn a_message_of_an_instance_tells_what_its_node_has_heard_and_those_of_others_tell_nothing() {
        let routes = Routes {
            ordered: [(AgentName::new("web#1").expect("valid"), order(3))].into(),
            ..Routes::default()
        };
        let told = routes.tell_order(message("web#1@n1")).ordered();
        assert_eq!(
            told.map(|(sender, epoch)| (sender.to_string(), epoch)),
            Some(("web#1".to_owned(), order(3)))
        );
        for from in ["web#2@n1", "web@n1", "client@n1", "#@n1", ""] {
            assert_eq!(routes.tell_order(message(from)).ordered(), None, "{from}");
        }
    }

    #[test]
    fn who_has_been_replaced_by_one_that_runs_is_refused_unless_its_node_knows() {
        let at = |node: &str, number: u64, state: AgentState| Instance {
            order: Some(order(number)),
            state,
            ..instance("web#1", node, Offer::default())
        };
        let check = |instances: Vec<Instance>, heard: u64| {
            let sent = message("web#1@n1").with_ordered(order(heard));
            routes(instances, &Routes::default()).check_order(&sent).map_err(|error| error.code())
        };
        let old = || at("n1", 1, AgentState::Running);
        assert_eq!(check(vec![old()], 1), Ok(()));
        assert_eq!(
            check(vec![old(), at("n2", 2, AgentState::Starting)], 1),
            Ok(()),
            "it may yet fail to begin"
        );
        assert_eq!(check(vec![old(), at("n2", 2, AgentState::Running)], 1), Err("superseded"));
        assert_eq!(check(vec![old(), at("n2", 2, AgentState::Running)], 2), Ok(()), "its node will end it");
        assert_eq!(check(vec![], 1), Ok(()), "nothing is known of the slot");
        assert_eq!(check(vec![at("n1", 2, AgentState::Running)], 1), Ok(()), "it is the sender itself");
        let gone = Instance { status: MemberStatus::Failed, ..at("n2", 2, AgentState::Running) };
        assert_eq!(check(vec![old(), gone], 1), Ok(()), "its order may have been lost with it");
        let others = vec![Instance { order: Some(order(9)), ..instance("web#2", "n2", Offer::default()) }];
        assert_eq!(check(others, 1), Ok(()), "another slot");
        let silent = routes(vec![at("n2", 2, AgentState::Running)], &Routes::default());
        assert_eq!(
            silent.check_order(&message("web#1@n1")),
            Ok(()),
            "a node of an earlier version tells nothing"
        );
    }

    #[test]
    fn without_anything_that_binds_a_message_instances_have_it_in_turn() {
        let first = routes(workers(3, Balance::RoundRobin), &Routes::default());
        let turn = |routes: &Routes| node_for(routes, keyed("a")).to_owned();
        let nodes: Vec<_> = (0..4).map(|_| turn(&first)).collect();
        assert_eq!(nodes, ["n0", "n1", "n2", "n0"], "a key means nothing here");
        let next = routes(workers(3, Balance::RoundRobin), &first);
        assert_eq!(turn(&next), "n1", "new routes go on where the former were");
    }

    #[test]
    fn a_conversation_stays_with_one_instance_and_conversations_are_spread() {
        for balance in [Balance::RoundRobin, Balance::LeastInflight, Balance::KeyHash] {
            let routes = routes(workers(4, balance), &Routes::default());
            let node = |n: u32| {
                let name = format!("job-{n}");
                let sticky = Sticky { conversation: Some(&name), key: None };
                let first = node_for(&routes, sticky);
                assert_eq!(node_for(&routes, sticky), first);
                first
            };
            let mut counts = BTreeMap::new();
            (0..4000).for_each(|n| *counts.entry(node(n)).or_insert(0) += 1);
            assert!(counts.len() == 4 && counts.values().all(|n| (850..1150).contains(n)), "{counts:?}");
        }
    }

    #[test]
    fn a_key_goes_to_one_instance_and_only_the_keys_of_one_that_goes_move() {
        let all = routes(workers(5, Balance::KeyHash), &Routes::default());
        let fewer = routes(workers(4, Balance::KeyHash), &Routes::default());
        let mut moved = 0;
        for n in 0..1000 {
            let key = format!("key-{n}");
            let sticky = Sticky { conversation: Some("one conversation"), key: Some(&key) };
            let (before, after) = (node_for(&all, sticky), node_for(&fewer, sticky));
            moved += usize::from(before != after);
            assert!(before == after || before == "n4", "the key of an instance that stays has moved");
        }
        assert!((150..250).contains(&moved), "{moved} of 1,000 keys were those of the fifth");
    }

    #[test]
    fn the_instance_with_the_fewest_open_messages_is_next_also_after_new_routes() {
        let first = routes(workers(3, Balance::LeastInflight), &Routes::default());
        let group = &first.agents[&AgentName::new("worker").expect("valid")];
        let open = |at: usize| group.instances[at].open.clone().expect("counted").count();
        let _busy = (open(0), open(0), open(1), open(2), open(2));
        assert_eq!(node_for(&first, Sticky::default()), "n1");
        let next = routes(workers(3, Balance::LeastInflight), &first);
        assert_eq!(node_for(&next, Sticky::default()), "n1");
        let more = (open(1), open(1));
        assert_ne!(node_for(&next, Sticky::default()), "n1");
        drop(more);
        assert_eq!(node_for(&next, Sticky::default()), "n1");
    }

    #[test]
    fn those_of_a_blueprint_on_a_node_that_is_named_have_messages_in_turn_and_a_key_is_one_ones() {
        let of = |slot: &str, node: &str, balance| instance(slot, node, balanced(balance));
        let on = |balance| {
            let all = [("web#0", "n1"), ("web#1", "n2"), ("web#2", "n2"), ("web#3", "n2")];
            routes(all.iter().map(|(slot, node)| of(slot, node, balance)).collect(), &Routes::default())
        };
        let name = AgentName::new("web").expect("valid");
        let node = NodeId::new("n2").expect("valid");
        let picked = |routes: &Routes, key: Option<&str>| {
            let sticky = Sticky { conversation: None, key };
            routes.agents[&name].pick_on(&node, sticky).expect("there are three").agent.to_string()
        };
        let in_turn = on(Balance::RoundRobin);
        let all: Vec<_> = (0..6).map(|_| picked(&in_turn, None)).collect();
        assert_eq!(all, ["web#1", "web#2", "web#3", "web#1", "web#2", "web#3"]);
        let by_key = on(Balance::KeyHash);
        let one = picked(&by_key, Some("a key"));
        assert!((0..6).all(|_| picked(&by_key, Some("a key")) == one));
        let keys: BTreeSet<_> = (0..30).map(|n| picked(&by_key, Some(&n.to_string()))).collect();
        assert_eq!(keys.len(), 3);
        let mut broken = of("web#1", "n2", Balance::RoundRobin);
        broken.is_open = true;
        let all = vec![broken.clone(), of("web#2", "n2", Balance::RoundRobin)];
        let routed = routes(all, &Routes::default());
        assert_eq!([picked(&routed, None), picked(&routed, None)], ["web#2", "web#2"]);
        assert_eq!(picked(&routes(vec![broken], &Routes::default()), None), "web#1", "there is no other");
    }

    #[test]
    fn one_that_is_not_on_call_is_reached_by_its_own_name_alone_and_a_number_means_who_is() {
        let offer = Offer {
            capabilities: [tag("resize")].into(),
            topics: [tag("orders")].into(),
            ..Offer::default()
        };
        let of = |slot: &str, on_call: bool| Instance { on_call, ..instance(slot, "n1", offer.clone()) };
        let name = |text: &str| AgentName::new(text).expect("valid");
        let picked = |routes: &Routes, text: &str| {
            let group = routes.agents.get(&name(text))?;
            let node = NodeId::new("n1").expect("valid");
            let (any, there) = (group.pick(Sticky::default())?, group.pick_on(&node, Sticky::default())?);
            assert_eq!(any.agent, there.agent, "also where the node is named");
            Some(any.agent.to_string())
        };
        let before = routes(vec![of("web#0", true), of("web#10000", false)], &Routes::default());
        let after = routes(vec![of("web#0", false), of("web#10000", true)], &before);
        for (routes, web, number, other) in
            [(&before, "web#0", "web#0", "web#10000"), (&after, "web#10000", "web#10000", "web#10000")]
        {
            assert_eq!(picked(routes, "web").as_deref(), Some(web));
            assert_eq!(picked(routes, "web#0").as_deref(), Some(number));
            assert_eq!(picked(routes, "web#10000").as_deref(), Some(other));
            assert_eq!(routes.agents[&name("web")].usable().len(), 1);
            let able = routes.capabilities[&tag("resize")].pick(Sticky::default());
            assert_eq!(able.expect("one").agent.as_str(), web);
            let listeners: Vec<_> = routes.topics[&tag("orders")].iter().map(ToString::to_string).collect();
            assert_eq!(listeners, [format!("{web}@n1")]);
            let lasting: Vec<_> = routes.listeners[&tag("orders")].iter().map(ToString::to_string).collect();
            assert_eq!(lasting, ["web#0"], "a message that waits finds whoever is on call then");
        }
    }

    #[test]
    fn a_capability_is_offered_by_agents_of_any_name_and_a_topic_reaches_those_that_run() {
        let offer = Offer {
            capabilities: [tag("resize")].into(),
            topics: [tag("orders")].into(),
            ..Offer::default()
        };
        let restarting = AgentState::Restarting { reason: "it ended".to_owned() };
        let all = routes(
            vec![
                instance("one", "n1", offer.clone()),
                instance("two", "n2", offer.clone()),
                Instance { state: restarting, ..instance("three", "n3", offer) },
                instance("four", "n4", Offer::default()),
            ],
            &Routes::default(),
        );
        let pick = || all.capabilities[&tag("resize")].pick(Sticky::default());
        let agents = [pick(), pick(), pick()].map(|picked| picked.expect("one").agent.to_string());
        assert_eq!(agents, ["one", "two", "one"]);
        let listeners: Vec<_> = all.topics[&tag("orders")].iter().map(ToString::to_string).collect();
        assert_eq!(listeners, ["one@n1", "two@n2"]);
        assert!(!all.topics.contains_key(&tag("resize")));
    }
}
