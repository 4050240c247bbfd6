//! Sending another node what it lacks: as things stood at one moment, in parts, and complete at the end.
//!
//! A part alone promises nothing but the writes in it. Only the last part closes the ranges of dots, because
//! a dot that is replaced here is not sent: what has replaced it must have arrived before it may count as known.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Applied, Key, Refuse, Rule, State};
use crate::core::limits;
use crate::core::model::{Clock, DotRange, KeyState, KeyUpdate, Sibling};

/// What one node has for another, as it stood when it was made.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    keys: VecDeque<(Key, KeyState)>,
    /// Parts of a key that is too large for one frame.
    rest: VecDeque<KeyUpdate>,
    closes: Vec<DotRange>,
    /// What the sender had seen, and its floor; only a snapshot needs them.
    known: Option<Arc<(Clock, Clock)>>,
    reached: Option<Key>,
    ended: bool,
}

/// One part of an [`Offer`], small enough for a frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// Keys, in order.
    pub updates: Vec<KeyUpdate>,
    /// Of a snapshot: what the sender had seen, and the floor that the receiver has to reach before it takes in
    /// anything else.
    pub known: Option<Arc<(Clock, Clock)>>,
    /// Of a snapshot: the part is about all keys after this one...
    pub after: Option<String>,
    /// ...up to this one, or all the rest: a key of them that it does not hold is no more.
    pub upto: Option<String>,
    /// In the last part: the ranges that are complete now.
    pub closes: Vec<DotRange>,
    /// Whether it is the last.
    pub is_last: bool,
}

impl State {
    /// What this node has and another lacks. `None` when it lacks nothing. To a node that lacks something of the
    /// floor, everything: what it holds may have been deleted and forgotten here. Everything also to one that asks for
    /// the `whole`, because it [is behind](State::is_behind): whoever holds more than what that one has to reach can
    /// complete it, whatever its own floor.
    #[must_use]
    pub fn offer(&self, theirs: &Clock, whole: bool) -> Option<Offer> {
        let closes = self.clock.beyond(theirs);
        if closes.is_empty() && !whole {
            return None;
        }
        if whole || !theirs.covers(&self.floor) {
            let keys = self.keys.iter().map(|(key, state)| (key.clone(), state.clone())).collect();
            let known = Some(Arc::new((self.clock.clone(), self.floor.clone())));
            return Some(Offer { keys, closes, known, ..Offer::default() });
        }
        let keys: BTreeSet<_> = closes.iter().flat_map(|range| self.keys_within(range)).collect();
        let state = |key: &Key| (key.clone(), self.keys.get(key).cloned().unwrap_or_default());
        Some(Offer { keys: keys.into_iter().map(state).collect(), closes, ..Offer::default() })
    }

    fn keys_within(&self, range: &DotRange) -> impl Iterator<Item = &Key> {
        let of_actor = self.index.get(&range.actor);
        of_actor.into_iter().flat_map(|dots| dots.range(range.from..=range.upto).map(|(_, key)| key))
    }

    /// Whether a part of a snapshot was taken in and the whole of it was not. A key of that part may lack the
    /// context that its sender had already forgotten, so nothing but a snapshot is taken in until one is complete:
    /// what has been replaced might come back.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.clock.covers(&self.target) && !self.breaks(Rule::SnapshotIsWhole)
    }

    /// Takes in one part of an offer.
    ///
    /// # Errors
    /// [`Refuse`]; nothing has changed.
    pub fn apply_part(&mut self, part: &Part) -> Result<Applied, Refuse> {
        let snapshot = part.known.as_deref();
        self.check(&part.updates, &part.closes, snapshot.map(|(_, floor)| floor))?;
        let mut applied = Applied::default();
        let none = Clock::default();
        let known = snapshot.map_or(&none, |(known, _)| known);
        if let Some((known, floor)) = snapshot {
            if !self.target.covers(floor) {
                self.target.join(floor);
                self.dirty.target = true;
            }
            if !self.breaks(Rule::SnapshotDropsUnnamed) {
                self.drop_unnamed(part, known, &mut applied);
            }
        } else if self.is_behind() {
            return Ok(applied);
        }
        for update in &part.updates {
            self.merge_update(update, known, &mut applied);
        }
        self.close(&part.closes, &mut applied);
        let completes = part.known.is_some() && !self.is_behind() && !self.floor.covers(&self.target);
        if completes && !self.breaks(Rule::SnapshotBringsItsFloor) {
            // What its sender had forgotten cannot be told to others from here either.
            self.floor.join(&self.target);
            self.on_floor_risen();
        }
        Ok(applied)
    }

    /// Of the keys that a part of a snapshot is about and does not hold, drops what its sender had seen.
    fn drop_unnamed(&mut self, part: &Part, known: &Clock, applied: &mut Applied) {
        let from = part.after.as_deref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let to = part.upto.as_deref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Included);
        let named: BTreeSet<_> = part.updates.iter().map(|update| &*update.key).collect();
        let unnamed: Vec<_> = self
            .keys
            .range::<str, _>((from, to))
            .filter(|(key, state)| {
                !named.contains(&***key) && state.siblings.iter().any(|s| known.contains(s.dot))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in unnamed {
            let Some(mut state) = self.keys.get(&key).cloned() else {
                continue;
            };
            let dropped: Clock =
                state.siblings.iter().map(|s| s.dot).filter(|dot| known.contains(*dot)).collect();
            state.siblings.retain(|sibling| !known.contains(sibling.dot));
            state.context.join(&dropped);
            self.replace(&key, state);
            applied.keys.push(key);
        }
    }
}

impl Offer {
    /// Of a snapshot: what the sender had seen, and its floor.
    #[must_use]
    pub fn known(&self) -> Option<&Arc<(Clock, Clock)>> {
        self.known.as_ref()
    }

    /// Whether everything was taken.
    #[cfg(test)]
    pub(super) fn is_done(&self) -> bool {
        self.ended
    }

    /// The next part; `None` after the last.
    pub fn next_part(&mut self) -> Option<Part> {
        self.next_part_of(limits::STATE_KEYS_PER_FRAME_MAX)
    }

    /// The next part, of at most so many keys.
    pub(super) fn next_part_of(&mut self, keys_max: usize) -> Option<Part> {
        if self.ended {
            return None;
        }
        let after = self.reached.as_ref().map(ToString::to_string);
        let mut part = Part { known: self.known.clone(), after, ..Part::default() };
        let mut bytes = 0;
        while part.updates.len() < keys_max {
            let Some(update) = self.next_update() else {
                break;
            };
            bytes += update.bytes();
            if bytes > limits::STATE_FRAME_BYTES_MAX && !part.updates.is_empty() {
                self.rest.push_front(update);
                break;
            }
            self.reached = Some(Key::from(&*update.key));
            part.updates.push(update);
        }
        // A key that goes on in the next part is not finished with this one.
        let goes_on =
            self.rest.front().is_some_and(|next| part.updates.last().is_some_and(|u| u.key == next.key));
        if self.keys.is_empty()
            && self.rest.is_empty()
            && self.closes.len() <= limits::STATE_RANGES_PER_FRAME_MAX
        {
            part.closes = std::mem::take(&mut self.closes);
            part.is_last = true;
            self.ended = true;
        } else {
            part.upto = self.reached.as_ref().map(ToString::to_string);
            if self.keys.is_empty() && self.rest.is_empty() {
                // Everything has been sent: ranges may be closed in any order now.
                part.closes = self.closes.split_off(self.closes.len() - limits::STATE_RANGES_PER_FRAME_MAX);
            }
        }
        debug_assert!(!goes_on || !part.is_last, "the last part holds the end of its last key");
        Some(part)
    }

    fn next_update(&mut self) -> Option<KeyUpdate> {
        if let Some(update) = self.rest.pop_front() {
            return Some(update);
        }
        let (key, state) = self.keys.pop_front()?;
        let update = KeyUpdate { key: key.to_string(), state, more: vec![] };
        if update.bytes() <= limits::STATE_FRAME_BYTES_MAX {
            return Some(update);
        }
        self.rest = split(&update).into();
        self.rest.pop_front()
    }
}

/// Parts of a key that is too large for a frame: the values bit by bit, and with the last of them the context.
fn split(update: &KeyUpdate) -> Vec<KeyUpdate> {
    let mut parts: Vec<Vec<Sibling>> = vec![vec![]];
    let mut bytes = 0;
    for sibling in &update.state.siblings {
        bytes += sibling.value.as_ref().map_or(0, bytes::Bytes::len) + 96;
        if bytes > limits::STATE_FRAME_BYTES_MAX / 2 && parts.last().is_some_and(|part| !part.is_empty()) {
            parts.push(vec![]);
            bytes = 0;
        }
        if let Some(part) = parts.last_mut() {
            part.push(sibling.clone());
        }
    }
    let last = parts.pop().unwrap_or_default();
    let more: Vec<_> = parts.iter().flatten().map(|sibling| sibling.dot).collect();
    let part = |siblings| KeyState { siblings, context: Clock::default() };
    let mut updates: Vec<_> = parts
        .into_iter()
        .map(|siblings| KeyUpdate { key: update.key.clone(), state: part(siblings), more: vec![] })
        .collect();
    let state = KeyState { siblings: last, context: update.state.context.clone() };
    updates.push(KeyUpdate { key: update.key.clone(), state, more });
    updates
}
