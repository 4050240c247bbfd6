//! Whom a message is for: as its sender says, and as it travels.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::core::error::SendError;
use crate::core::ids::{AgentName, NodeId, Tag};

/// What stands before the name in the forms that are no address of one agent.
const CAPABILITY: &str = "cap";
pub(super) const TOPIC: &str = "topic";
const ALL: &str = "all";

/// Whom the sender of a message means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// `worker` or `worker@node-1`: one agent of that name, or the one on that node.
    Agent(Address),
    /// `cap:NAME`: one of the agents that offer this capability, whatever their names.
    Capability(Tag),
    /// `topic:NAME`: every agent that listens to it.
    Topic(Tag),
    /// `all:NAME`: the agents of that name on all nodes.
    All(AgentName),
}

impl Target {
    /// Parses one of the four forms.
    ///
    /// # Errors
    /// [`SendError::BadAddress`] with the rule that is broken.
    pub fn parse(text: &str) -> Result<Self, SendError> {
        let Some((form, name)) = text.split_once(':') else {
            return Address::parse(text).map(Self::Agent);
        };
        let parsed = match form {
            CAPABILITY => Tag::new(name).map(Self::Capability),
            TOPIC => Tag::new(name).map(Self::Topic),
            ALL => AgentName::new(name).map(Self::All),
            _ => {
                let why = format!(
                    "there is no form {form:?}: give cap:NAME, topic:NAME, all:NAME, NAME or NAME@NODE"
                );
                return Err(bad_address(text, why));
            }
        };
        parsed.map_err(|error| bad_address(text, error.to_string()))
    }

    /// The address, where it means an agent by its name.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Agent(address) => Some(address),
            Self::Capability(_) | Self::Topic(_) | Self::All(_) => None,
        }
    }
}

impl TryFrom<String> for Target {
    type Error = SendError;
    fn try_from(text: String) -> Result<Self, SendError> {
        Self::parse(&text)
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(address) => address.fmt(f),
            Self::Capability(tag) => write!(f, "{CAPABILITY}:{tag}"),
            Self::Topic(tag) => write!(f, "{TOPIC}:{tag}"),
            Self::All(agent) => write!(f, "{ALL}:{agent}"),
        }
    }
}

/// Where one message goes: an agent by name, wherever it is, or on one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// The agent.
    pub agent: AgentName,
    /// The node, when the sender insists on one.
    pub node: Option<NodeId>,
}

impl Address {
    /// Parses `agent` or `agent@node`.
    ///
    /// # Errors
    /// [`SendError::BadAddress`] with the rule that is broken. The forms of a [`Target`] that are no address of one
    /// agent are named as such.
    pub fn parse(text: &str) -> Result<Self, SendError> {
        let bad = |why: String| Err(bad_address(text, why));
        if text.contains(':') {
            return bad("here an agent is wanted by its name, as in worker or worker@node-1".to_owned());
        }
        let (agent, node) = match text.split_once('@') {
            Some((agent, node)) => (agent, Some(node)),
            None => (text, None),
        };
        let agent = match AgentName::new(agent) {
            Ok(agent) => agent,
            Err(error) => return bad(error.to_string()),
        };
        match node.map(NodeId::new).transpose() {
            Ok(node) => Ok(Self { agent, node }),
            Err(error) => bad(error.to_string()),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = SendError;
    fn try_from(text: String) -> Result<Self, SendError> {
        Self::parse(&text)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{}@{node}", self.agent),
            None => self.agent.fmt(f),
        }
    }
}

fn bad_address(text: &str, why: String) -> SendError {
    SendError::BadAddress { address: text.chars().take(200).collect(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_target_is_read_and_written_alike() {
        for text in ["worker", "worker@node-1", "cap:resize", "topic:orders.made", "all:worker"] {
            assert_eq!(Target::parse(text).expect("a form").to_string(), text);
        }
        assert!(matches!(Target::parse("worker@node-1"), Ok(Target::Agent(_))));
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_rule() {
        let why = |text: &str| Target::parse(text).expect_err("no target").to_string();
        assert!(why("queue:x").contains("there is no form \"queue\""));
        assert!(why("topic:").contains("it is empty"));
        assert!(why("cap:a b").contains("only letters"));
        assert!(why("all:worker@node-1").contains("only letters"));
        assert!(why(&format!("topic:{}", "x".repeat(65))).contains("too long"));
        assert!(why("worker@").contains("it is empty"));
        let only_one = Address::parse("topic:orders").expect_err("no address").to_string();
        assert!(only_one.contains("an agent is wanted by its name"), "{only_one}");
    }
}
