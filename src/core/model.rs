//! The plain records that rooms exchange: what a node, an agent, a message and an event are.
//! Nothing here decides anything.

use ::core::net::SocketAddr;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ids::{AgentName, Incarnation, NodeId};
use super::limits;

mod address;
mod agent;
mod beside;
mod blueprint;
mod breaker;
mod care;
mod confinement;
mod decisions;
mod dots;
mod events;
mod hello;
mod launch;
mod letters;
mod modes;
mod offer;
mod performance;
mod plan;
mod recovery;
mod replica;
mod roster;
mod sides;
mod tickets;
mod tools;
mod update;
mod wasm;

pub use address::{Address, Target};
pub use agent::{
    AgentRecord, AgentSource, AgentSpec, AgentState, AgentView, MEASURED_AGENT, ProcessProtocol,
};
pub use beside::{Beside, SlotSide};
pub use blueprint::{
    BLUEPRINTS_PREFIX, Blueprint, BlueprintRecord, CAPACITY_LABEL, DRAINED_PREFIX, Domain, Instances,
    ORDERS_PREFIX, OnCut, Order, OrderEpoch, Placement, PlacementStrategy, Post, SpecDigest, Version, Weight,
    capacity, order_key, slot_of_key,
};
pub use breaker::{Breaker, BreakerState, Circuit, Passage, Shown, Turn};
pub use care::{Care, Checkup, Health, HealthCheck, Probe, Restart};
pub use confinement::Confinement;
pub use decisions::{Action, Condition, ConditionError, Decision};
pub use dots::{Actor, Clock, Dot, DotRange, Span};
pub use events::{Event, Finding, Found};
pub use hello::Hello;
pub use launch::{Dependencies, Launch, cycle_through, path_text};
pub use letters::{DeadLetter, FailedTry, Guarantee, LetterState, LetterTrace};
pub use modes::{
    Barred, Doubt, DoubtKind, Mode, ModeReason, PartitionConfig, PartitionView, Permissions, Reads, Strategy,
    Writes,
};
pub use offer::{Balance, Offer};
pub use performance::{Figures, Gauge, Samples, Verdict, measuring_message};
pub use plan::{Plan, Step, StepAction};
pub use recovery::{NamePattern, Recovery, RecoveryRule};
pub use replica::{Hlc, KeyState, KeyUpdate, Sibling, Slot, Writer, check_key};
pub use roster::{Electorate, Epoch, Roster, Seat};
pub use sides::{Cut, Side, Sides, SilentNode};
pub use tickets::{Outcome, Ticket, TicketError, TicketState, TicketView};
pub use tools::Tool;
pub use update::{Canary, Tallies, Tally, Update, UpdateStrategy};
pub use wasm::{Grants, InstanceLife, WasmSource};

/// What a node says about itself; it travels in the hello and as the record `_owned/<node>/node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCard {
    /// The node's name, equal to the one in its certificate.
    pub node_id: NodeId,
    /// Where it can be dialled, `host:port` or `[v6]:port`, best first.
    pub addresses: Vec<String>,
    /// Region label, empty when none was given.
    pub region: String,
    /// Zone label, empty when none was given.
    pub zone: String,
    /// Free labels, also called tags.
    pub labels: BTreeMap<String, String>,
    /// The software's version.
    pub version: String,
    /// The roles that its configuration gives it; none: it may be anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
}

impl NodeCard {
    /// Whether an address, `ip:port`, may be one that the node itself listens at, and not merely one at which
    /// it is seen, such as a translator's: it is on the card, or the card has a name with this port.
    #[must_use]
    pub fn may_listen_at(&self, address: SocketAddr) -> bool {
        self.addresses.iter().any(|own| match own.parse::<SocketAddr>() {
            Ok(own) => own == address,
            Err(_) => own.rsplit_once(':').is_some_and(|(_, port)| port.parse() == Ok(address.port())),
        })
    }

    /// Checks the bounds that a card from another node must keep.
    ///
    /// # Errors
    /// The bound that is broken, as text for the log.
    pub fn check(&self) -> Result<(), &'static str> {
        let text_max = limits::LABEL_BYTES_MAX;
        if self.addresses.len() > limits::ADDRESSES_MAX {
            return Err("it has too many addresses");
        }
        if self.addresses.iter().any(|a| a.len() > limits::ADDRESS_BYTES_MAX) {
            return Err("one of its addresses is too long");
        }
        if self.labels.len() > limits::LABELS_MAX {
            return Err("it has too many labels");
        }
        if self.labels.iter().any(|(k, v)| k.len() > text_max || v.len() > text_max) {
            return Err("one of its labels is too long");
        }
        if self.roles.len() > limits::ROLES_MAX || self.roles.iter().any(|role| role.len() > text_max) {
            return Err("it has too many roles, or one is too long");
        }
        if [&self.region, &self.zone, &self.version].iter().any(|t| t.len() > text_max) {
            return Err("its region, zone or version is too long");
        }
        Ok(())
    }
}

/// What a node believes of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberStatus {
    /// It answers, or others say so.
    Alive,
    /// It missed a probe and has not answered for itself yet.
    Suspect,
    /// It did not answer for longer than the suspicion time.
    Failed,
    /// It said good-bye.
    Left,
}

impl MemberStatus {
    /// All of them, in the order in which they are counted and shown.
    pub const ALL: [Self; 4] = [Self::Alive, Self::Suspect, Self::Failed, Self::Left];

    /// The word that users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Failed => "failed",
            Self::Left => "left",
        }
    }

    /// Whether messages are routed to it.
    #[must_use]
    pub fn is_reachable(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

impl fmt::Display for MemberStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How loaded a node is, measured on the node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// CPU in use on the whole machine, in thousandths of all its cores.
    pub cpu_permille: u16,
    /// Memory in use on the whole machine, in bytes.
    pub memory_bytes: u64,
}

/// One node as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// What it says of itself.
    pub card: NodeCard,
    /// What this node believes of it.
    pub status: MemberStatus,
    /// Its incarnation as far as known.
    pub incarnation: Incarnation,
    /// Its load, once it has told.
    pub load: Option<Load>,
    /// What it doubts about itself, in words.
    #[serde(default)]
    pub doubts: Vec<String>,
    /// The round trip to be expected of it, measured or estimated; `None` for this node, and while nothing
    /// is known.
    #[serde(default)]
    pub expected_rtt: Option<Duration>,
    /// Agents that it says it has.
    pub agents: u32,
}

/// The speech act of a message: the performatives of the FIPA ACL specification (SC00037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names are the specification's, which defines them")]
pub enum Performative {
    AcceptProposal,
    Agree,
    Cancel,
    Cfp,
    Confirm,
    Disconfirm,
    Failure,
    #[default]
    Inform,
    InformIf,
    InformRef,
    NotUnderstood,
    Propagate,
    Propose,
    Proxy,
    QueryIf,
    QueryRef,
    Refuse,
    RejectProposal,
    Request,
    RequestWhen,
    RequestWhenever,
    Subscribe,
}

/// A message from an agent or a client to an agent. It travels as a positional MessagePack array;
/// `extensions` is its last element and the place where later versions put what this one skips.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// UUID version 7.
    pub id: Uuid,
    /// Who sent it: `agent@node`, or `client@node` for the API.
    pub from: String,
    /// Where it goes.
    pub to: Address,
    /// Its speech act.
    pub performative: Performative,
    /// The conversation that it belongs to; order is kept within one.
    pub conversation_id: Option<String>,
    /// The id of the message that this one answers.
    pub in_reply_to: Option<Uuid>,
    /// MIME type of the content.
    pub content_type: String,
    /// At most [`limits::CONTENT_BYTES_MAX`] bytes.
    pub content: Bytes,
    /// Time left for an answer when the message left its last node, in milliseconds.
    pub deadline_ms: u32,
    /// W3C trace context, passed on unread.
    pub traceparent: Option<String>,
    /// Hops made between agents; bounded by [`limits::HOPS_MAX`].
    pub hops: u8,
    /// What later versions add, by number.
    pub extensions: BTreeMap<u8, Bytes>,
}

/// The number of the extension with the key that a message is shared out by; text.
const KEY: u8 = 1;
/// The number of the extension with what the sender addressed, where that was no address of one agent; text.
const SENT_TO: u8 = 2;
/// The number of the extension with the last order for the sender's slot that its node has heard of; an [`OrderEpoch`].
const ORDERED: u8 = 3;

impl Message {
    /// The key by which messages are shared out among instances.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.text_of(KEY)
    }

    /// Gives it a key.
    #[must_use]
    pub fn with_key(mut self, key: Option<String>) -> Self {
        self.extensions.extend(key.map(|key| (KEY, Bytes::from(key))));
        self
    }

    /// Notes whom the sender meant, where that is more than the address says.
    #[must_use]
    pub fn with_target(mut self, target: &Target) -> Self {
        if target.address().is_none() {
            self.extensions.insert(SENT_TO, Bytes::from(target.to_string()));
        }
        self
    }

    /// Notes the last order for the sender's slot that its node has heard of.
    #[must_use]
    pub fn with_ordered(mut self, epoch: OrderEpoch) -> Self {
        self.extensions.insert(ORDERED, Bytes::from(epoch.to_bytes().to_vec()));
        self
    }

    /// The sender, if it fills a slot and its node tells by which order, and the last order for the slot that this node has
    /// heard of.
    #[must_use]
    pub fn ordered(&self) -> Option<(AgentName, OrderEpoch)> {
        let epoch = OrderEpoch::from_bytes(self.extensions.get(&ORDERED)?)?;
        let (agent, _) = self.from.rsplit_once('@')?;
        Some((AgentName::new(agent).ok()?, epoch))
    }

    /// What its sender addressed, where that was no address of one agent.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.text_of(SENT_TO)
    }

    /// The topic that it was published to.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        let (form, topic) = self.target()?.split_once(':')?;
        (form == address::TOPIC).then_some(topic)
    }

    /// What its sender addressed.
    #[must_use]
    pub fn sent_to(&self) -> String {
        self.target().map_or_else(|| self.to.to_string(), str::to_owned)
    }

    /// Checks the extensions that this version knows, of a message that came from elsewhere.
    ///
    /// # Errors
    /// Which rule they break.
    pub fn check_extensions(&self) -> Result<(), String> {
        let is_key = |bytes: &Bytes| {
            let text = std::str::from_utf8(bytes);
            text.is_ok_and(|key| !key.is_empty() && key.len() <= limits::MESSAGE_KEY_BYTES_MAX)
        };
        if self.extensions.get(&KEY).is_some_and(|bytes| !is_key(bytes)) {
            return Err("its key is not usable".to_owned());
        }
        let is_target = |text: &str| match Target::parse(text) {
            // A blueprint's name means its slots.
            Ok(Target::All(agent)) => [&self.to.agent, &self.to.agent.base()].contains(&&agent),
            Ok(Target::Capability(_) | Target::Topic(_)) => true,
            Ok(Target::Agent(_)) | Err(_) => false,
        };
        if self.extensions.contains_key(&SENT_TO) && !self.target().is_some_and(is_target) {
            return Err("what it says it was sent to cannot have led here".to_owned());
        }
        if self.extensions.contains_key(&ORDERED) && self.ordered().is_none() {
            return Err("the order that its sender runs by is not usable".to_owned());
        }
        Ok(())
    }

    fn text_of(&self, extension: u8) -> Option<&str> {
        self.extensions.get(&extension).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who answered: `agent@node`.
    pub from: String,
    /// MIME type of the content.
    pub content_type: String,
    /// At most [`limits::CONTENT_BYTES_MAX`] bytes.
    pub content: Bytes,
}

/// A named set of gossip timings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// By the number of live members: below 10, 10 to 50, above 50.
    #[default]
    Auto,
    /// All nodes on one machine.
    Local,
    /// One local network, whatever its size.
    Lan,
    /// Nodes far apart.
    Wan,
}

/// What an operator set explicitly; it wins over the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Overrides {
    /// Time between two probes of one node.
    pub probe_interval: Option<Duration>,
    /// How long a direct probe may take before others are asked.
    pub probe_timeout: Option<Duration>,
    /// Time between two rounds of gossip, while there is something to tell.
    pub gossip_interval: Option<Duration>,
    /// Nodes told in each round.
    pub gossip_fanout: Option<u8>,
    /// How long a suspect may take to refute when enough others confirm that it is gone.
    pub suspicion_min: Option<Duration>,
    /// How long it may take when nobody does.
    pub suspicion_max: Option<Duration>,
}

/// How regions weigh on whom a node talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrossRegion {
    /// Of several instances of an agent, take one of those with the lowest round trip.
    pub latency_aware_routing: bool,
    /// Of several peers or instances, take mostly (of instances always) one of the own region.
    pub prefer_local_region: bool,
    /// Instances in other regions with a longer round trip are not chosen, and peers there less often.
    pub max_cross_region_latency: Option<Duration>,
}

impl Default for CrossRegion {
    fn default() -> Self {
        Self { latency_aware_routing: true, prefer_local_region: true, max_cross_region_latency: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_extensions_that_can_be_true_are_taken_from_elsewhere() {
        let message = |key: Option<&str>, sent_to: Option<&str>| {
            let mut message = Message {
                id: Uuid::nil(),
                from: "client@node-2".to_owned(),
                to: Address::parse("worker@node-1").expect("valid"),
                performative: Performative::Inform,
                conversation_id: None,
                in_reply_to: None,
                content_type: "text/plain".to_owned(),
                content: Bytes::new(),
                deadline_ms: 1,
                traceparent: None,
                hops: 0,
                extensions: BTreeMap::from([(77, Bytes::from_static(&[0xff]))]),
            }
            .with_key(key.map(str::to_owned));
            message.extensions.extend(sent_to.map(|text| (SENT_TO, Bytes::from(text.to_owned()))));
            message
        };
        for sent_to in ["cap:resize", "topic:orders", "all:worker"] {
            let good = message(Some("customer-7"), Some(sent_to));
            assert_eq!((good.check_extensions(), good.sent_to().as_str()), (Ok(()), sent_to));
        }
        assert_eq!(message(None, None).sent_to(), "worker@node-1");
        let to_slot = Message {
            to: Address::parse("worker#2@node-1").expect("valid"),
            ..message(None, Some("all:worker"))
        };
        assert_eq!(to_slot.check_extensions(), Ok(()), "an instance of a blueprint");
        for sent_to in ["all:other", "worker", "worker@node-1", "queue:x", "topic:", "\u{1b}"] {
            assert!(message(None, Some(sent_to)).check_extensions().is_err(), "{sent_to:?}");
        }
        for key in [String::new(), "x".repeat(limits::MESSAGE_KEY_BYTES_MAX + 1)] {
            assert!(message(Some(&key), None).check_extensions().is_err());
        }
        let epoch = |chain, term, order| OrderEpoch { chain, chain_id: 7, term, order };
        let ordered =
            Message { from: "web#1@node-2".to_owned(), ..message(None, None) }.with_ordered(epoch(1, 2, 3));
        assert_eq!(ordered.check_extensions(), Ok(()));
        let told = ordered.ordered().expect("it tells");
        assert_eq!((told.0.as_str(), told.1), ("web#1", epoch(1, 2, 3)));
        for bytes in [&[][..], &[0; 31], &[0; 33], &[0; 40]] {
            let mut bad = ordered.clone();
            bad.extensions.insert(ORDERED, Bytes::copy_from_slice(bytes));
            assert!(bad.check_extensions().is_err(), "{bytes:?}");
        }
        let mut epochs = [epoch(1, 2, 256), epoch(1, 2, 3), epoch(2, 0, 0), epoch(1, 300, 0)];
        epochs.sort_unstable();
        assert!(epochs.is_sorted_by_key(|epoch| epoch.to_bytes()), "bytes are ordered as epochs are");
    }

    #[test]
    fn a_node_may_listen_at_its_own_addresses_and_not_at_a_translators() {
        let card = |addresses: &[&str]| NodeCard {
            node_id: "node-1".parse().expect("valid"),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            region: String::new(),
            zone: String::new(),
            labels: BTreeMap::new(),
            version: "0.1.0".to_owned(),
            roles: vec![],
        };
        let at = |card: &NodeCard, address: &str| card.may_listen_at(address.parse().expect("an address"));
        let numbered = card(&["10.0.0.1:7946", "[fd00::1]:7946"]);
        assert!(at(&numbered, "10.0.0.1:7946") && at(&numbered, "[fd00::1]:7946"));
        assert!(!at(&numbered, "10.0.0.2:7946") && !at(&numbered, "10.0.0.1:40001"));
        let named = card(&["one.example:7946"]);
        assert!(at(&named, "10.0.0.2:7946") && !at(&named, "10.0.0.2:40001"));
        assert!(!at(&card(&[]), "10.0.0.1:7946"));
    }
}
