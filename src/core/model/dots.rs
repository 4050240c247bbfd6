//! Dots and clocks: the names of writes, and exact sets of them.
//!
//! A [`Dot`] names one write to one key, for ever. A [`Clock`] is a set of dots: of each actor a prefix without
//! gaps, and the ranges above it. The idea of dots is that of "Dotted Version Vectors" (Preguiça, Baquero,
//! Almeida, Fonte, Gonçalves: "Brief Announcement: Efficient Causality Tracking in Distributed Storage Systems
//! With Dotted Version Vectors", PODC 2012); of clocks with gaps, "Global Logical Clocks" (Gonçalves, Almeida,
//! Baquero, Fonte: "DottedDB: Anti-Entropy without Merkle Trees, Deletes without Tombstones", SRDS 2017).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::core::ids::NodeKey;
use crate::core::limits;

/// Who mints dots: one process of one node, and never again another. Half of it is drawn by chance at the first write,
/// half tells whose process it is: so a node knows its own writes although its store has forgotten them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor(pub uuid::Uuid);

impl Actor {
    /// A new one of that node.
    #[must_use]
    pub fn fresh(node: &NodeKey, drawn: [u8; 8]) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&drawn);
        bytes[8..].copy_from_slice(&node.0[..8]);
        Self(uuid::Uuid::from_bytes(bytes))
    }

    /// Whether a process of that node mints with it.
    #[must_use]
    pub fn is_of(&self, node: &NodeKey) -> bool {
        self.0.as_bytes()[8..] == node.0[..8]
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0.as_fields().0)
    }
}

/// Names one write: the `n`-th of its actor, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who made it.
    pub actor: Actor,
    /// Its number; an actor leaves none out.
    pub n: u64,
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{}", self.actor, self.n)
    }
}

/// Consecutive dots of one actor, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DotRange {
    /// Whose.
    pub actor: Actor,
    /// The first.
    pub from: u64,
    /// The last.
    pub upto: u64,
}

impl DotRange {
    /// Checks the bounds of a range that came from elsewhere.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.from == 0 || self.from > self.upto || self.upto > limits::DOT_MAX {
            return Err("a range of dots is none");
        }
        Ok(())
    }

    /// How many dots it has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.upto - self.from + 1
    }
}

/// Dots of one actor: all up to a number, and ranges above the gap that follows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Span {
    /// All from 1 to here; 0 when the first is missing.
    pub upto: u64,
    /// First to last of each further range; no two touch, and none touches the prefix.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub above: BTreeMap<u64, u64>,
}

impl Span {
    /// All dots from 1 to a number.
    #[must_use]
    pub fn prefix(upto: u64) -> Self {
        Self { upto, above: BTreeMap::new() }
    }

    /// Whether the `n`-th is in it.
    #[must_use]
    pub fn contains(&self, n: u64) -> bool {
        n <= self.upto || self.above.range(..=n).next_back().is_some_and(|(_, last)| n <= *last)
    }

    fn add(&mut self, mut from: u64, mut upto: u64) {
        if upto <= self.upto {
            return;
        }
        // Whatever touches the new range becomes part of it.
        while let Some((first, last)) = self.above.range(..=upto.saturating_add(1)).next_back()
            && last.saturating_add(1) >= from
        {
            let (first, last) = (*first, *last);
            self.above.remove(&first);
            (from, upto) = (from.min(first), upto.max(last));
        }
        if from <= self.upto + 1 {
            self.upto = upto;
        } else {
            self.above.insert(from, upto);
        }
    }

    /// The ranges, the prefix first.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let prefix = (self.upto > 0).then_some((1, self.upto));
        prefix.into_iter().chain(self.above.iter().map(|(from, upto)| (*from, *upto)))
    }

    fn is_empty(&self) -> bool {
        self.upto == 0 && self.above.is_empty()
    }

    /// The highest number in it.
    fn max(&self) -> u64 {
        self.above.last_key_value().map_or(self.upto, |(_, last)| *last)
    }
}

/// An exact set of dots.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Clock {
    actors: BTreeMap<Actor, Span>,
}

impl Clock {
    /// Whether it holds no dot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.actors.is_empty()
    }

    /// How many actors it knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.actors.len()
    }

    /// The actors with what is known of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Actor, &Span)> {
        self.actors.iter()
    }

    /// What is known of one actor.
    #[must_use]
    pub fn get(&self, actor: &Actor) -> Option<&Span> {
        self.actors.get(actor)
    }

    /// The end of an actor's prefix without gaps; 0 when there is none.
    #[must_use]
    pub fn upto(&self, actor: &Actor) -> u64 {
        self.actors.get(actor).map_or(0, |span| span.upto)
    }

    /// The highest number of an actor in it; 0 when there is none.
    #[must_use]
    pub fn max(&self, actor: &Actor) -> u64 {
        self.actors.get(actor).map_or(0, Span::max)
    }

    /// Whether a dot is in it.
    #[must_use]
    pub fn contains(&self, dot: Dot) -> bool {
        self.actors.get(&dot.actor).is_some_and(|span| span.contains(dot.n))
    }

    /// Adds one dot.
    pub fn add(&mut self, dot: Dot) {
        self.actors.entry(dot.actor).or_default().add(dot.n, dot.n);
    }

    /// Adds a range; it has passed [`DotRange::check`].
    pub fn add_range(&mut self, range: DotRange) {
        self.actors.entry(range.actor).or_default().add(range.from, range.upto);
    }

    /// Puts what is known of one actor in place of what was.
    pub fn set(&mut self, actor: Actor, span: Span) {
        if span.is_empty() {
            self.actors.remove(&actor);
        } else {
            self.actors.insert(actor, span);
        }
    }

    /// Adds every dot of another.
    pub fn join(&mut self, other: &Self) {
        for (actor, span) in &other.actors {
            let mine = self.actors.entry(*actor).or_default();
            span.ranges().for_each(|(from, upto)| mine.add(from, upto));
        }
    }

    /// Of each actor the prefix without gaps.
    #[must_use]
    pub fn gap_free(&self) -> Self {
        let whole = self.actors.iter().filter(|(_, span)| span.upto > 0);
        Self { actors: whole.map(|(actor, span)| (*actor, Span::prefix(span.upto))).collect() }
    }

    /// Whether every dot of another is in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.actors.iter().all(|(actor, span)| {
            let mine = self.actors.get(actor);
            span.ranges().all(|(from, upto)| mine.is_some_and(|mine| has_range(mine, from, upto)))
        })
    }

    /// The dots of this one that another lacks, in order.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Vec<DotRange> {
        let mut found = Vec::new();
        let none = Span::default();
        for (actor, span) in &self.actors {
            let theirs = other.actors.get(actor).unwrap_or(&none);
            for (from, upto) in span.ranges() {
                missing(theirs, from, upto, |from, upto| found.push(DotRange { actor: *actor, from, upto }));
            }
        }
        found
    }

    /// The dots of this one that another lacks, as a clock.
    #[must_use]
    pub fn less(&self, other: &Self) -> Self {
        let mut less = Self::default();
        self.beyond(other).into_iter().for_each(|range| less.add_range(range));
        less
    }

    /// Parts of at most so many actors each, in order; one at least.
    pub fn parts(&self, actors_max: usize) -> impl Iterator<Item = Self> {
        let mut actors = self.actors.iter().map(|(actor, span)| (*actor, span.clone())).peekable();
        let mut begun = false;
        std::iter::from_fn(move || {
            if std::mem::replace(&mut begun, true) && actors.peek().is_none() {
                return None;
            }
            Some(Self { actors: actors.by_ref().take(actors_max).collect() })
        })
    }

    /// What both hold without a gap: of each actor the shorter prefix.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let both = self.actors.iter().filter_map(|(actor, span)| {
            let upto = span.upto.min(other.upto(actor));
            (upto > 0).then(|| (*actor, Span::prefix(upto)))
        });
        Self { actors: both.collect() }
    }

    /// Replaces what it holds of each of its actors by a longer prefix, where `known` has one without gaps that
    /// includes all of it.
    pub fn compact(&mut self, known: &Self) {
        for (actor, span) in &mut self.actors {
            let upto = known.upto(actor);
            if span.max() <= upto {
                *span = Span::prefix(upto);
            }
        }
    }

    /// How many ranges it has beside prefixes.
    #[must_use]
    pub fn gaps(&self) -> usize {
        self.actors.values().map(|span| span.above.len()).sum()
    }

    /// Whether it is small enough for one frame.
    #[must_use]
    pub fn fits_a_frame(&self) -> bool {
        self.actors.len() <= limits::CLOCK_ACTORS_MAX && self.gaps() <= limits::CLOCK_RANGES_MAX
    }

    /// Leaves out the highest actors, and the highest ranges above gaps, until at most so many are left: the set is
    /// smaller then, which is safe to tell, because whoever is told too little sends too much.
    pub fn keep_at_most(&mut self, actors_max: usize, ranges_max: usize) {
        while self.actors.len() > actors_max {
            self.actors.pop_last();
        }
        let mut left = ranges_max;
        for span in self.actors.values_mut() {
            while span.above.len() > left {
                span.above.pop_last();
            }
            left -= span.above.len();
        }
        self.actors.retain(|_, span| !span.is_empty());
    }

    /// Checks a clock that came from elsewhere: its bounds, and that its ranges are in order and apart.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.actors.len() > limits::CLOCK_ACTORS_MAX {
            return Err("a clock has too many actors");
        }
        if self.gaps() > limits::CLOCK_RANGES_MAX {
            return Err("a clock has too many gaps");
        }
        self.actors.values().try_for_each(|span| {
            let mut end = span.upto;
            for (from, upto) in &span.above {
                if *from <= end.saturating_add(1) || upto < from {
                    return Err("the ranges of a clock overlap");
                }
                end = *upto;
            }
            if span.is_empty() || end > limits::DOT_MAX {
                return Err("a span of a clock is none");
            }
            Ok(())
        })
    }
}

impl FromIterator<Dot> for Clock {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut clock = Self::default();
        dots.into_iter().for_each(|dot| clock.add(dot));
        clock
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = |span: &Span| span.ranges().collect::<Vec<_>>();
        f.debug_map().entries(self.actors.iter().map(|(actor, span)| (actor, ranges(span)))).finish()
    }
}

fn has_range(span: &Span, from: u64, upto: u64) -> bool {
    upto <= span.upto || span.above.range(..=from).next_back().is_some_and(|(_, last)| upto <= *last)
}

/// Calls `found` for each part of `from..=upto` that a span lacks.
fn missing(span: &Span, from: u64, upto: u64, mut found: impl FnMut(u64, u64)) {
    let mut next = from.max(span.upto.saturating_add(1));
    let before = span.above.range(..next).next_back().map(|(first, last)| (*first, *last));
    let within = span.above.range(next..).map(|(first, last)| (*first, *last));
    for (first, last) in before.into_iter().chain(within) {
        if first > upto {
            break;
        }
        if next < first {
            found(next, first - 1);
        }
        next = next.max(last.saturating_add(1));
    }
    if next <= upto {
        found(next, upto);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn actor(n: u8) -> Actor {
        Actor(uuid::Uuid::from_bytes([n; 16]))
    }

    fn dots() -> impl Strategy<Value = BTreeSet<(u8, u64)>> {
        proptest::collection::btree_set((0..3_u8, 1..24_u64), 0..40)
    }

    fn clock(dots: &BTreeSet<(u8, u64)>) -> Clock {
        dots.iter().map(|(a, n)| Dot { actor: actor(*a), n: *n }).collect()
    }

    fn set(ranges: &[DotRange]) -> BTreeSet<(u8, u64)> {
        ranges.iter().flat_map(|r| (r.from..=r.upto).map(|n| (r.actor.0.as_bytes()[0], n))).collect()
    }

    proptest! {
        #[test]
        fn a_clock_is_the_set_of_its_dots(a in dots(), b in dots()) {
            let (ca, cb) = (clock(&a), clock(&b));
            prop_assert_eq!(ca.check(), Ok(()));
            for n in 1..26 {
                for who in 0..3 {
                    prop_assert_eq!(ca.contains(Dot { actor: actor(who), n }), a.contains(&(who, n)));
                }
            }
            let mut joined = ca.clone();
            joined.join(&cb);
            prop_assert_eq!(&joined, &clock(&a.union(&b).copied().collect()));
            prop_assert_eq!(set(&ca.beyond(&cb)), a.difference(&b).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(ca.covers(&cb), b.is_subset(&a));
            let prefix: BTreeSet<_> = a.iter().filter(|(w, n)| (1..=*n).all(|m| a.contains(&(*w, m)))).copied().collect();
            prop_assert_eq!(&ca.gap_free(), &clock(&prefix));
            let mut less = joined.clone();
            less.keep_at_most(2, 2);
            let mut again = cb.clone();
            again.join(&ca.less(&cb));
            prop_assert_eq!(&again, &joined);
            let mut whole = Clock::default();
            ca.parts(2).for_each(|part| whole.join(&part));
            prop_assert_eq!(&whole, &ca);
            prop_assert!(ca.parts(2).all(|part| part.len() <= 2));
            prop_assert!(joined.covers(&less) && less.gaps() <= 2 && less.len() <= 2);
        }
    }

    #[test]
    fn a_clock_from_elsewhere_keeps_its_bounds() {
        let span = |upto, above: &[(u64, u64)]| Span { upto, above: above.iter().copied().collect() };
        let with = |span| Clock { actors: [(actor(1), span)].into() };
        assert!(with(span(3, &[(5, 6), (8, 9)])).check().is_ok());
        for bad in [
            span(0, &[]),
            span(3, &[(4, 6)]),
            span(3, &[(2, 6)]),
            span(3, &[(6, 5)]),
            span(3, &[(5, 9), (9, 10)]),
        ] {
            assert!(with(bad.clone()).check().is_err(), "{bad:?}");
        }
        assert!(with(span(u64::MAX, &[])).check().is_err());
        assert!(with(span(1, &[(1 << 63, u64::MAX)])).check().is_err());
    }
}
