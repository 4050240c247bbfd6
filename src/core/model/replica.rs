//! What is replicated: the state of one key, and the form in which it travels.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::blueprint::OrderEpoch;
use super::dots::{Clock, Dot};
use crate::core::ids::NodeId;
use crate::core::limits;

/// Hybrid logical time of a write: milliseconds of the writer's wall clock in the upper 48 bits, a counter in the
/// lower 16 ("Logical Physical Clocks", Kulkarni, Demirbas, Madappa, Avva, Leone, OPODIS 2014). It breaks ties
/// between values that are truly concurrent and decides nothing else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Hlc(pub u64);

impl Hlc {
    const COUNTER_BITS: u32 = 16;
    const AHEAD_MAX_MS: u64 = 60_000;

    /// The first of a millisecond.
    #[must_use]
    pub fn at(unix_ms: u64) -> Self {
        Self(unix_ms.min(u64::MAX >> Self::COUNTER_BITS) << Self::COUNTER_BITS)
    }

    /// Milliseconds since 1970 on the writer's clock.
    #[must_use]
    pub fn unix_ms(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// The next one for a writer whose wall clock shows `unix_ms`. A time that is far ahead of that takes nobody along.
    #[must_use]
    pub fn next_by(self, unix_ms: u64) -> Self {
        let is_far_ahead = self.unix_ms() > unix_ms.saturating_add(Self::AHEAD_MAX_MS);
        if is_far_ahead { Self::at(unix_ms).next(unix_ms) } else { self.next(unix_ms) }
    }

    /// The next one after this, at least the first of `unix_ms`.
    #[must_use]
    pub fn next(self, unix_ms: u64) -> Self {
        Self(self.0.saturating_add(1)).max(Self::at(unix_ms))
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms+{}", self.unix_ms(), self.0 & ((1 << Self::COUNTER_BITS) - 1))
    }
}

/// Which instance of an agent wrote, and in which of its lives: a higher epoch has taken the place of a lower.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// `agent#k`.
    pub name: String,
    /// That of the order by which it ran when it wrote.
    pub epoch: OrderEpoch,
}

/// Who wrote a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Writer {
    /// The node that took the write in.
    pub node: NodeId,
    /// The agent on whose behalf, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
}

/// One of the writes to a key that no later one has seen and replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sibling {
    /// Names it.
    pub dot: Dot,
    /// When it was written.
    pub hlc: Hlc,
    /// By whom.
    pub writer: Arc<Writer>,
    /// What was written; `None` is a deletion, which is kept until every member of the mesh has it.
    pub value: Option<Bytes>,
}

/// A key as one node knows it: the writes that stand beside each other, and those that they have replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyState {
    /// In order of their dots; usually one.
    pub siblings: Vec<Sibling>,
    /// Writes to this key that are replaced, as far as somebody may still hold them. It may hold more of an
    /// actor's dots, namely such as are not of this key.
    #[serde(default, skip_serializing_if = "Clock::is_empty")]
    pub context: Clock,
}

impl KeyState {
    /// Whether a write stands.
    #[must_use]
    pub fn has(&self, dot: Dot) -> bool {
        self.siblings.binary_search_by_key(&dot, |sibling| sibling.dot).is_ok()
    }

    /// The values, deletions left out.
    pub fn values(&self) -> impl Iterator<Item = (&Sibling, &Bytes)> {
        self.siblings.iter().filter_map(|sibling| Some((sibling, sibling.value.as_ref()?)))
    }

    /// Whether it has a value.
    #[must_use]
    pub fn has_value(&self) -> bool {
        self.siblings.iter().any(|sibling| sibling.value.is_some())
    }

    /// The dots of the writes that stand.
    #[must_use]
    pub fn dots(&self) -> Clock {
        self.siblings.iter().map(|sibling| sibling.dot).collect()
    }

    /// Takes in what another node knows of the key. `seen` is every dot that this node has taken in: a write that
    /// is in it and does not stand here has been replaced. `more` are dots that stand at the sender as well,
    /// though not in `theirs`. Idempotent, commutative and associative. Returns whether anything changed.
    pub fn merge(&mut self, theirs: &Self, more: &[Dot], seen: &Clock) -> bool {
        let before = self.siblings.len();
        let stands_there = |dot: Dot| theirs.has(dot) || more.contains(&dot);
        self.siblings.retain(|mine| stands_there(mine.dot) || !theirs.context.contains(mine.dot));
        let mut changed = self.siblings.len() != before;
        for sibling in &theirs.siblings {
            let Err(place) = self.siblings.binary_search_by_key(&sibling.dot, |mine| mine.dot) else {
                continue;
            };
            if !seen.contains(sibling.dot) && !self.context.contains(sibling.dot) {
                self.siblings.insert(place, sibling.clone());
                changed = true;
            }
        }
        if !self.context.covers(&theirs.context) {
            self.context.join(&theirs.context);
            changed = true;
        }
        changed
    }

    /// Bytes of its values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.values().map(|(_, value)| value.len()).sum()
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.siblings.len() > limits::SIBLINGS_PER_FRAME_MAX {
            return Err("a key has too many concurrent values");
        }
        if !self.siblings.is_sorted_by(|a, b| a.dot < b.dot) {
            return Err("the values of a key are out of order");
        }
        self.siblings.iter().try_for_each(Sibling::check)?;
        self.context.check()
    }
}

impl Sibling {
    fn check(&self) -> Result<(), &'static str> {
        if self.dot.n == 0 || self.dot.n > limits::DOT_MAX {
            return Err("a write has a number that cannot be");
        }
        if self.value.as_ref().is_some_and(|value| value.len() > limits::STATE_VALUE_BYTES_MAX) {
            return Err("a value is too large");
        }
        if self.writer.slot.as_ref().is_some_and(|slot| slot.name.len() > limits::SLOT_BYTES_MAX) {
            return Err("the name of a slot is too long");
        }
        Ok(())
    }
}

/// The state of a key on its way to another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUpdate {
    /// The key.
    pub key: String,
    /// What the sender knows of it, or a part of that: without the context then, unless it is the last part.
    pub state: KeyState,
    /// The writes of the parts before this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<Dot>,
}

impl KeyUpdate {
    /// Checks the bounds of an update that came from elsewhere.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        check_key(&self.key)?;
        if self.key.starts_with("_owned/") {
            return Err("a key of a node's own records");
        }
        if self.more.len() > limits::SIBLINGS_PER_FRAME_MAX {
            return Err("a key has too many concurrent values");
        }
        self.state.check()
    }

    /// About as many bytes as it takes in a frame.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let siblings = self.state.siblings.len() + self.more.len();
        let spans = self.state.context.len() + self.state.context.gaps();
        self.key.len() + self.state.bytes() + 96 * siblings + 32 * spans + 32
    }
}

/// Checks the name of a key: a path without empty parts and without control characters.
///
/// # Errors
/// The rule that is broken.
pub fn check_key(key: &str) -> Result<(), &'static str> {
    if key.is_empty() {
        return Err("a key is empty");
    }
    if key.len() > limits::STATE_KEY_BYTES_MAX {
        return Err("a key is too long");
    }
    if key.chars().any(char::is_control) {
        return Err("a key has a control character");
    }
    if key.split('/').any(str::is_empty) {
        return Err("a key has an empty part: it begins or ends with '/', or has two in a row");
    }
    Ok(())
}
