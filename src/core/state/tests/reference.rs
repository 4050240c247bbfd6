//! What a node with a certain clock must show, from sets alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::model::{Clock, Dot};

/// Every write that was ever made, and what it has replaced.
#[derive(Debug, Default)]
pub(super) struct Reference {
    writes: BTreeMap<Dot, Write>,
}

#[derive(Debug)]
struct Write {
    key: String,
    value: Option<u64>,
    /// All writes to the key that its writer had seen, directly or through those.
    past: BTreeSet<Dot>,
}

impl Reference {
    /// A write by somebody who had seen `seen` of the key.
    pub(super) fn note(&mut self, dot: Dot, key: &str, value: Option<u64>, seen: &Clock) {
        let of_key = self.writes.iter().filter(|(d, w)| w.key == key && seen.contains(**d));
        let past = of_key.flat_map(|(d, w)| std::iter::once(*d).chain(w.past.iter().copied())).collect();
        let before = self.writes.insert(dot, Write { key: key.to_owned(), value, past });
        assert!(before.is_none(), "{dot:?} names two writes");
    }

    /// Writes that are lost with the only disk that held them.
    pub(super) fn forget(&mut self, lost: impl Fn(Dot) -> bool) {
        self.writes.retain(|dot, _| !lost(*dot));
    }

    /// The values that a node with this clock shows.
    pub(super) fn expected(&self, key: &str, clock: &Clock) -> BTreeMap<Dot, u64> {
        let here: Vec<_> = self.writes.iter().filter(|(d, w)| w.key == key && clock.contains(**d)).collect();
        let replaced: BTreeSet<_> = here.iter().flat_map(|(_, w)| w.past.iter().copied()).collect();
        here.into_iter()
            .filter(|(dot, _)| !replaced.contains(dot))
            .filter_map(|(dot, write)| Some((*dot, write.value?)))
            .collect()
    }
}
