//! The floor: what every member has on its disk, and what need not be kept for anybody any more.

use super::{Rule, State};
use crate::core::model::{Clock, KeyState};

impl State {
    /// Every member has all of this on its disk. What this node itself has not is left out. Returns whether the
    /// floor has risen.
    pub fn raise_floor(&mut self, floor: &Clock) -> bool {
        let ours = floor.meet(&self.durable);
        if self.floor.covers(&ours) {
            return false;
        }
        self.floor.join(&ours);
        self.on_floor_risen();
        true
    }

    /// Forgets contexts and deletions that lie within the floor, of at most `keys_max` keys, from the one after
    /// `after` on. Returns where to go on, if there may be more.
    pub fn collect(&mut self, after: Option<&str>, keys_max: usize) -> Option<super::Key> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let some: Vec<_> = self
            .unsettled
            .range::<str, _>((from, std::ops::Bound::Unbounded))
            .take(keys_max)
            .cloned()
            .collect();
        let next = (some.len() == keys_max).then(|| some.last().cloned()).flatten();
        for key in some {
            let Some(state) = self.keys.get(&key).filter(|state| self.is_settled(state)) else {
                continue;
            };
            let siblings = state.siblings.iter().filter(|sibling| sibling.value.is_some()).cloned().collect();
            self.replace(&key, KeyState { siblings, context: Clock::default() });
        }
        next
    }

    /// Writes that keys here have replaced and that have never arrived: usually they are on their way. If nobody has
    /// them, they are gone with the disk that had, and their numbers are to be closed for good.
    #[must_use]
    pub fn unfilled(&self) -> Clock {
        let mut unfilled = Clock::default();
        let contexts = self.unsettled.iter().filter_map(|key| self.keys.get(key)).map(|state| &state.context);
        for range in contexts.flat_map(|context| context.beyond(&self.clock)) {
            unfilled.add_range(range);
        }
        unfilled
    }

    fn is_settled(&self, state: &KeyState) -> bool {
        if self.breaks(Rule::ForgetBelowTheFloor) {
            return true;
        }
        state.siblings.iter().all(|sibling| self.floor.contains(sibling.dot))
            && self.floor.covers(&state.context)
    }
}
