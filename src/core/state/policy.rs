//! How concurrent values of a key become one when it is read. Reading writes nothing: the values stay beside each
//! other until somebody writes with the context that was read.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::State;
use crate::core::model::{KeyState, OrderEpoch, Sibling};

/// Where policies are kept: `_mesh/policies/<prefix>`, the policy's name as value.
pub const POLICY_PREFIX: &str = "_mesh/policies/";

/// How concurrent values of a key become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The last writer's by hybrid time, then by dot.
    #[default]
    Lww,
    /// The greatest: as numbers where all values are numbers, else as bytes.
    Max,
    /// The least, likewise.
    Min,
    /// None is chosen: the reader is shown all.
    Manual,
    /// A command of the node that is read from chooses, outside the core, which shows it all.
    Custom,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Lww, Self::Max, Self::Min, Self::Manual, Self::Custom];

    /// The word that users write.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lww => "lww",
            Self::Max => "max",
            Self::Min => "min",
            Self::Manual => "manual",
            Self::Custom => "custom",
        }
    }

    /// The policy of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text)
    }

    /// The value that a reader is given; `None` without a value, and under [`Policy::Manual`] and [`Policy::Custom`] with several.
    #[must_use]
    pub fn resolve(self, siblings: &[Sibling]) -> Option<&Sibling> {
        let standing = standing(siblings);
        let last = |a: &&Sibling, b: &&Sibling| (a.hlc, a.dot).cmp(&(b.hlc, b.dot));
        match self {
            Self::Lww => standing.into_iter().max_by(last),
            Self::Max => standing.into_iter().max_by(|a, b| by_value(a, b).then_with(|| last(a, b))),
            Self::Min => standing.into_iter().min_by(|a, b| by_value(a, b).then_with(|| last(a, b))),
            Self::Manual | Self::Custom => {
                let mut values = standing.into_iter();
                values.next().filter(|_| values.next().is_none())
            }
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The values without those of an agent's slot that has written, or deleted, in a higher epoch.
fn standing(siblings: &[Sibling]) -> Vec<&Sibling> {
    let mut epochs: BTreeMap<&str, OrderEpoch> = BTreeMap::new();
    for slot in siblings.iter().filter_map(|sibling| sibling.writer.slot.as_ref()) {
        let epoch = epochs.entry(&slot.name).or_insert(slot.epoch);
        *epoch = slot.epoch.max(*epoch);
    }
    let is_last = |sibling: &&Sibling| {
        let slot = sibling.writer.slot.as_ref();
        slot.is_none_or(|slot| epochs.get(&*slot.name).is_none_or(|epoch| slot.epoch >= *epoch))
    };
    siblings.iter().filter(|sibling| sibling.value.is_some()).filter(is_last).collect()
}

fn by_value(a: &Sibling, b: &Sibling) -> std::cmp::Ordering {
    match (number(a), number(b)) {
        (Some(x), Some(y)) => x.total_cmp(&y),
        // Numbers come before all else, so that the order is one.
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.value.cmp(&b.value),
    }
}

/// A value as a number, if it is the text of one.
#[must_use]
pub fn as_number(value: &Bytes) -> Option<f64> {
    let number: f64 = std::str::from_utf8(value).ok()?.trim().parse().ok()?;
    number.is_finite().then_some(number)
}

fn number(sibling: &Sibling) -> Option<f64> {
    sibling.value.as_ref().and_then(as_number)
}

impl State {
    /// The policy of a key: that of the longest prefix that has one.
    #[must_use]
    pub fn policy(&self, key: &str) -> Policy {
        // What is Shoal's own must not depend on what users choose.
        if key.starts_with("_mesh/") {
            return Policy::Lww;
        }
        let matching = self.policies.iter().filter(|(prefix, _)| key.starts_with(prefix.as_str()));
        matching.max_by_key(|(prefix, _)| prefix.len()).map(|(_, policy)| *policy).unwrap_or_default()
    }

    /// All policies that are set, with their prefixes, in order.
    pub fn policies(&self) -> impl Iterator<Item = (&str, Policy)> {
        self.policies.iter().map(|(prefix, policy)| (prefix.as_str(), *policy))
    }

    /// A key has changed that may be a policy.
    pub(super) fn note_policy(&mut self, key: &str, state: Option<&KeyState>) {
        let Some(prefix) = key.strip_prefix(POLICY_PREFIX) else {
            return;
        };
        let chosen = state.and_then(|state| Policy::Lww.resolve(&state.siblings)?.value.as_ref());
        let policy = chosen.and_then(|value| Policy::parse(std::str::from_utf8(value).ok()?));
        match policy {
            Some(policy) => self.policies.insert(prefix.to_owned(), policy),
            None => self.policies.remove(prefix),
        };
    }
}
