//! What comes from other nodes: checked against what is known, merged, readable at once.

use std::sync::Arc;

use super::{Key, Rule, State};
use crate::core::limits;
use crate::core::model::{Clock, Dot, DotRange, KeyState, KeyUpdate, Sibling, Span};

/// Why what a peer sent is not taken in, none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refuse {
    /// A dot that is known here with another content, or at another key: the peer, or this node, is broken.
    #[error("the write {dot:?} has two contents")]
    TwoContents {
        /// The dot.
        dot: Dot,
    },
    /// The number of a write is further ahead than writes can be made.
    #[error("the writes of {dot:?} jump ahead")]
    Jump {
        /// The dot.
        dot: Dot,
    },
    /// One more actor than a clock may have.
    #[error("it names more actors than this node can know")]
    TooManyActors,
    /// It names writes of this very process that it has not made.
    #[error("it names a write of this process that it has not made: {dot:?}")]
    Ours {
        /// The dot.
        dot: Dot,
    },
}

/// What taking something in has changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Keys that changed.
    pub keys: Vec<Key>,
    /// Whether it held any dot that was not known.
    pub is_new: bool,
}

impl State {
    /// Takes in key states of another node, and closes the ranges that they make complete. All or nothing: all,
    /// unless [`State::is_behind`]. Not to be called unless this node's clock covers the sender's floor: of what lies
    /// below, the sender has forgotten the contexts.
    ///
    /// # Errors
    /// [`Refuse`]; nothing has changed.
    pub fn apply(&mut self, updates: &[KeyUpdate], closes: &[DotRange]) -> Result<Applied, Refuse> {
        self.check(updates, closes, None)?;
        let mut applied = Applied::default();
        if self.is_behind() {
            return Ok(applied);
        }
        for update in updates {
            self.merge_update(update, &Clock::default(), &mut applied);
        }
        self.close(closes, &mut applied);
        Ok(applied)
    }

    /// `below` is the floor of the snapshot that it is a part of: what lies there is nothing that is under way.
    pub(super) fn check(
        &self,
        updates: &[KeyUpdate],
        closes: &[DotRange],
        below: Option<&Clock>,
    ) -> Result<(), Refuse> {
        let mut actors = Clock::default();
        for range in closes {
            self.check_dot(Dot { actor: range.actor, n: range.upto })?;
            actors.add(Dot { actor: range.actor, n: 1 });
        }
        for update in updates {
            for sibling in &update.state.siblings {
                self.check_dot(sibling.dot)?;
                self.check_content(&update.key, sibling)?;
                actors.add(Dot { actor: sibling.dot.actor, n: 1 });
            }
            // A write that is named as replaced before it is made could never be taken in.
            for (actor, _) in update.state.context.iter() {
                self.check_dot(Dot { actor: *actor, n: update.state.context.max(actor) })?;
            }
        }
        let unknown = actors.iter().filter(|(actor, _)| self.clock.get(actor).is_none());
        let (settled, open): (Vec<_>, Vec<_>) =
            unknown.partition(|(actor, _)| below.is_some_and(|below| below.get(actor).is_some()));
        let known = self.clock.len() + settled.len() + open.len();
        let is_new = !open.is_empty();
        if known > limits::ACTORS_MAX || (is_new && self.open.len() + open.len() > limits::CLOCK_ACTORS_MAX) {
            return Err(Refuse::TooManyActors);
        }
        Ok(())
    }

    fn check_dot(&self, dot: Dot) -> Result<(), Refuse> {
        if let Some((actor, minted)) = self.actor
            && actor == dot.actor
            && dot.n > minted
        {
            return Err(Refuse::Ours { dot });
        }
        if dot.n > self.clock.max(&dot.actor).saturating_add(limits::DOT_JUMP_MAX) {
            return Err(Refuse::Jump { dot });
        }
        Ok(())
    }

    fn check_content(&self, key: &str, theirs: &Sibling) -> Result<(), Refuse> {
        let dot = theirs.dot;
        let Some(at) = self.at(dot) else {
            return Ok(());
        };
        let mine = self.keys.get(at).and_then(|state| state.siblings.iter().find(|s| s.dot == dot));
        if &**at == key && mine.is_some_and(|mine| mine == theirs) {
            return Ok(());
        }
        Err(Refuse::TwoContents { dot })
    }

    /// `known` is what the sender has seen beside the update's own context.
    pub(super) fn merge_update(&mut self, update: &KeyUpdate, known: &Clock, applied: &mut Applied) {
        let key =
            self.keys.get_key_value(&*update.key).map_or_else(|| Key::from(&*update.key), |(k, _)| k.clone());
        let mut state = self.keys.get(&key).cloned().unwrap_or_default();
        let nothing = Clock::default();
        let seen = if self.breaks(Rule::ReplacedStaysReplaced) { &nothing } else { &self.clock };
        let changed = merge(&mut state, update, known, seen);
        for sibling in &update.state.siblings {
            if !self.clock.contains(sibling.dot) {
                self.clock.add(sibling.dot);
                if self.breaks(Rule::GapsStayOpen) {
                    self.clock.set(sibling.dot.actor, Span::prefix(self.clock.max(&sibling.dot.actor)));
                }
                self.dirty.actors.insert(sibling.dot.actor);
                self.open.insert(sibling.dot.actor);
                applied.is_new = true;
            }
        }
        if !changed {
            return;
        }
        state.context.compact(&self.clock);
        for sibling in &mut state.siblings {
            sibling.writer = self.share_writer(&Arc::clone(&sibling.writer));
        }
        self.replace(&key, state);
        applied.keys.push(key);
    }

    pub(super) fn close(&mut self, closes: &[DotRange], applied: &mut Applied) {
        for range in closes {
            let before = self.clock.get(&range.actor).cloned();
            self.clock.add_range(*range);
            if self.clock.get(&range.actor) != before.as_ref() {
                self.dirty.actors.insert(range.actor);
                self.open.insert(range.actor);
                applied.is_new = true;
            }
        }
    }
}

fn merge(state: &mut KeyState, update: &KeyUpdate, known: &Clock, seen: &Clock) -> bool {
    if known.is_empty() {
        return state.merge(&update.state, &update.more, seen);
    }
    // What the sender has seen decides about what is here, and is not kept with the key: the range that this
    // update is part of is closed in the end, and says as much.
    let before = state.siblings.len();
    let stands_there = |dot: Dot| update.state.has(dot) || update.more.contains(&dot);
    state.siblings.retain(|mine| stands_there(mine.dot) || !known.contains(mine.dot));
    let dropped = state.siblings.len() != before;
    state.merge(&update.state, &update.more, seen) || dropped
}
