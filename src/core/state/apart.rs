//! Keys that two nodes hold differently although both have taken in the writes in question: found, and brought together
//! again.
//!
//! Equal clocks mean equal values, so such a key is the work of a damaged disk or of a mistake in this program, and no
//! rule of merging mends it: each node takes what the other lacks for something that has been replaced. An
//! operator may have every key compared with a peer's snapshot ([`Inspection`]), and then what has come apart is
//! *written anew* ([`State::mended`]): an ordinary write that replaces everything that stands anywhere, and
//! spreads as such. What one side holds stays, unless the other names it as replaced: in doubt data is kept.
//!
//! A snapshot is old when its last part has come. A key that may have been written since is not judged: it is
//! counted as undecided.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::{Key, Part, State};
use crate::core::limits;
use crate::core::model::{Clock, KeyState, KeyUpdate, Sibling};

/// Compares this node's keys with those of a peer's snapshot, part by part.
#[derive(Debug, Default)]
pub struct Inspection {
    /// What the peer had seen.
    known: Clock,
    /// All keys up to this one are compared.
    reached: Option<Key>,
    /// The key that the parts have come to; more of it may follow.
    last: Option<KeyUpdate>,
    /// Keys whose values differ, as the peer holds them.
    differing: BTreeMap<Key, KeyState>,
    bytes: usize,
    left_out: u64,
}

/// What came of an [`Inspection`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Apart {
    /// The keys that have come apart, as the peer holds them.
    pub keys: BTreeMap<Key, KeyState>,
    /// Keys that differ and may do so rightly, because they are being written; and those beyond what one inspection
    /// holds.
    pub undecided: u64,
}

/// What is to be written to a key so that all nodes hold the same again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mended {
    /// The values that stand beside each other from now on, the one that was written last at the end. None: the key is
    /// deleted.
    pub values: Vec<Bytes>,
    /// What they replace.
    pub context: Clock,
}

impl Inspection {
    /// Takes the next part of the snapshot, in order.
    pub fn take(&mut self, state: &State, part: &Part) {
        if let Some(known) = &part.known {
            self.known = known.0.clone();
        }
        for update in &part.updates {
            match &mut self.last {
                Some(last) if last.key == update.key => {
                    last.state.siblings.extend(update.state.siblings.iter().cloned());
                    last.state.context.join(&update.state.context);
                }
                Some(_) | None => {
                    self.compare_last(state);
                    self.last = Some(update.clone());
                }
            }
        }
        if part.is_last {
            self.compare_last(state);
            self.compare_absent(state, None);
        }
    }

    /// What the peer had seen, once a part has come.
    #[must_use]
    pub fn known(&self) -> &Clock {
        &self.known
    }

    /// What has come apart. As long as this node's clock does not cover [`Inspection::known`], nothing is judged.
    #[must_use]
    pub fn finish(self, state: &State) -> Apart {
        let mut apart = Apart { undecided: self.left_out, ..Apart::default() };
        if !state.clock().covers(&self.known) {
            apart.undecided += self.differing.len() as u64;
            return apart;
        }
        // Nothing has been written since: whatever is missing here was not deleted a moment ago.
        let is_still = self.known.covers(state.clock());
        for (key, theirs) in self.differing {
            match judge(&state.state_of(&key), &theirs, &self.known, is_still) {
                Verdict::Equal => {}
                Verdict::Undecided => apart.undecided += 1,
                Verdict::Apart => {
                    apart.keys.insert(key, theirs);
                }
            }
        }
        apart
    }

    fn compare_last(&mut self, state: &State) {
        let Some(KeyUpdate { key, state: theirs, .. }) = self.last.take() else {
            return;
        };
        self.compare_absent(state, Some(&key));
        let key = Key::from(key);
        self.compare(state, &key, theirs);
        self.reached = Some(key);
    }

    /// The keys before `upto` that the peer does not hold.
    fn compare_absent(&mut self, state: &State, upto: Option<&str>) {
        let from = self.reached.clone();
        let from = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let upto = upto.map_or(Bound::Unbounded, Bound::Excluded);
        // A peer that sends its keys out of order has none between them.
        if let (Bound::Excluded(from), Bound::Excluded(upto)) = (from, upto)
            && from >= upto
        {
            return;
        }
        for (key, _) in state.keys.range::<str, _>((from, upto)) {
            self.compare(state, key, KeyState::default());
        }
    }

    fn compare(&mut self, state: &State, key: &Key, theirs: KeyState) {
        let ours = state.state_of(key);
        if same_values(&ours, &theirs) {
            return;
        }
        if is_newer(&ours, &self.known) {
            self.left_out += 1;
            return;
        }
        self.bytes += key.len() + theirs.bytes();
        if self.differing.len() >= limits::APART_KEYS_MAX || self.bytes > limits::APART_BYTES_MAX {
            self.left_out += 1;
            return;
        }
        self.differing.insert(key.clone(), theirs);
    }
}

impl State {
    /// What is to be written to a key that has come apart from `theirs`, of one peer or more.
    #[must_use]
    pub fn mended<'a>(&self, key: &str, theirs: impl Iterator<Item = &'a KeyState>) -> Mended {
        let states: Vec<_> = [self.state_of(key)].into_iter().chain(theirs.cloned()).collect();
        let mut context = Clock::default();
        for state in &states {
            context.join(&state.context);
            context.join(&state.dots());
        }
        let replaces = |state: &KeyState, dot| state.context.contains(dot) && !state.has(dot);
        let is_replaced = |sibling: &Sibling| states.iter().any(|state| replaces(state, sibling.dot));
        let mut standing: Vec<&Sibling> = states.iter().flat_map(|state| &state.siblings).collect();
        standing.retain(|sibling| !is_replaced(sibling));
        standing.sort_by_key(|sibling| (sibling.hlc, sibling.dot));
        let mut values: Vec<Bytes> = vec![];
        // From the last one on, so that of equal values the latest counts.
        for value in standing.into_iter().rev().filter_map(|sibling| sibling.value.as_ref()) {
            if !values.contains(value) && values.len() < limits::SIBLINGS_MAX {
                values.push(value.clone());
            }
        }
        values.reverse();
        Mended { values, context }
    }

    fn state_of(&self, key: &str) -> KeyState {
        self.keys.get(key).cloned().unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Equal,
    Undecided,
    Apart,
}

/// Whether a key has come apart, on a node that has taken in everything that the peer had seen.
fn judge(ours: &KeyState, theirs: &KeyState, known: &Clock, is_still: bool) -> Verdict {
    if same_values(ours, theirs) {
        return Verdict::Equal;
    }
    if is_newer(ours, known) {
        return Verdict::Undecided;
    }
    // A value that stands here and not there, although the peer had seen it, cannot have been replaced there without
    // being replaced here. One that stands there alone may have been deleted here since, and the deletion forgotten.
    let gone_unseen = theirs.values().any(|(s, _)| !ours.has(s.dot) && !ours.context.contains(s.dot));
    if gone_unseen && !is_still { Verdict::Undecided } else { Verdict::Apart }
}

fn same_values(ours: &KeyState, theirs: &KeyState) -> bool {
    ours.values().map(|(s, value)| (s.dot, value)).eq(theirs.values().map(|(s, value)| (s.dot, value)))
}

/// It was written, or a write to it was replaced, after what the peer had seen.
fn is_newer(ours: &KeyState, known: &Clock) -> bool {
    ours.siblings.iter().any(|sibling| !known.contains(sibling.dot)) || !known.covers(&ours.context)
}
