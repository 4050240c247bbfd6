//! What an agent is to others: what it can do, what it listens to, and how its instances share its messages.

use std::collections::BTreeSet;

use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use crate::core::ids::Tag;
use crate::core::limits;

/// How messages that may go to several instances are shared out among those that are chosen for a node. Without a key that
/// counts, messages of one conversation go to one of them whatever it says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// In turn.
    #[default]
    RoundRobin,
    /// To the one of which the sender's node awaits the fewest outcomes: answers, and receipts of what is only sent.
    LeastInflight,
    /// Messages of one key to one instance; those without a key as with [`Balance::RoundRobin`].
    KeyHash,
}

/// What an agent offers to those who send messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What it can do: `cap:NAME` finds it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities: BTreeSet<Tag>,
    /// What it listens to: `topic:NAME` reaches it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub topics: BTreeSet<Tag>,
    /// How its instances share its messages.
    #[serde(default, deserialize_with = "known_or_default")]
    pub balance: Balance,
}

/// A word of a later version means what no word means: a record is not refused for it.
fn known_or_default<'de, D: Deserializer<'de>>(from: D) -> Result<Balance, D::Error> {
    let word = String::deserialize(from)?;
    Ok(Balance::deserialize(StrDeserializer::<ValueError>::new(&word)).unwrap_or_default())
}

impl Offer {
    /// Whether it says nothing beyond the agent's name.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Checks its bounds.
    ///
    /// # Errors
    /// A sentence for the person who deploys it.
    pub fn check(&self) -> Result<(), String> {
        for (what, tags) in [("capabilities", &self.capabilities), ("topics", &self.topics)] {
            let (count, most) = (tags.len(), limits::OFFER_TAGS_MAX);
            if count > most {
                return Err(format!("the agent has {count} {what}: at most {most} are allowed"));
            }
        }
        Ok(())
    }
}
