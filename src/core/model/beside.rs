//! Two versions of a blueprint beside each other, of which one takes the messages.
//!
//! The slots of a blueprint have two *sides*, told apart by their numbers alone: the first side begins at 0, the second one at
//! [`limits::INSTANCES_MAX`]. A blueprint has its instances on one side. A version that comes beside the one before has the
//! other: all of its instances begin there while the former ones go on, and each side is looked after as usual. Then one
//! write of the blueprint's record, [`Beside::Serves`], lets all messages go to the other side, and a later one ends the former.
//! Whoever knows the record and the name of an instance knows whether it takes messages: nothing has to be told of it.

use serde::{Deserialize, Serialize};

use super::{Blueprint, BlueprintRecord, Instances, UpdateStrategy, Version};
use crate::core::ids::AgentName;
use crate::core::limits;

/// A side of a blueprint's slots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotSide {
    /// Slots from 0 on.
    #[default]
    First,
    /// Slots from [`limits::INSTANCES_MAX`] on.
    Second,
}

impl SlotSide {
    /// The side of a slot.
    #[must_use]
    pub fn of(slot: &AgentName) -> Self {
        if slot.slot().is_some_and(|number| number >= limits::INSTANCES_MAX) {
            Self::Second
        } else {
            Self::First
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// The slot with this number on this side, from 0.
    #[must_use]
    pub fn slot(self, name: &AgentName, number: u16) -> AgentName {
        match self {
            Self::First => name.of_slot(number),
            Self::Second => name.of_slot(number.saturating_add(limits::INSTANCES_MAX)),
        }
    }

    /// The number of a slot on its side.
    #[must_use]
    pub fn number_of(slot: &AgentName) -> Option<u16> {
        slot.slot().map(
            |number| if number >= limits::INSTANCES_MAX { number - limits::INSTANCES_MAX } else { number },
        )
    }

    /// The name under which an instance of either side is found: that of the slot with its number on the first one.
    #[must_use]
    pub fn lasting_name(agent: &AgentName) -> AgentName {
        Self::number_of(agent).map_or_else(|| agent.clone(), |number| agent.of_slot(number))
    }

    pub(super) fn is_first(&self) -> bool {
        *self == Self::First
    }
}

/// How far a version has come that is beside the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Beside {
    /// Its instances begin, and take no messages; those of the version before do.
    Waits,
    /// Its instances take the messages. Those of the version before are there until everybody has heard of it.
    Serves,
}

impl BlueprintRecord {
    /// The side whose instances take messages.
    #[must_use]
    pub fn side_on_call(&self) -> SlotSide {
        match self.current.beside {
            Some(Beside::Waits) => self.current.side.other(),
            Some(Beside::Serves) | None => self.current.side,
        }
    }

    /// Whether whoever fills this slot takes messages to the blueprint.
    #[must_use]
    pub fn is_on_call(&self, slot: &AgentName) -> bool {
        SlotSide::of(slot) == self.side_on_call()
    }

    /// The version whose instances take messages, unless it is forgotten.
    #[must_use]
    pub fn on_call(&self) -> Option<&Version> {
        match self.current.beside {
            Some(Beside::Waits) => self.former.iter().find(|former| former.side != self.current.side),
            Some(Beside::Serves) | None => Some(&self.current),
        }
    }

    /// Where a version is that comes next, and whether it waits there. One that takes messages already stays where it is.
    pub(super) fn place_of_next(&self, next: &Blueprint, goes_back: bool) -> (SlotSide, Option<Beside>) {
        let (digest, current) = (next.digest(), &self.current);
        if digest == current.blueprint.digest() {
            return (current.side, current.beside);
        }
        let comes_beside = |blueprint: &Blueprint| blueprint.update.strategy == UpdateStrategy::BlueGreen;
        let has_one_each = next.instances == Instances::PerNode;
        let runs = self.on_call().is_some_and(|version| version.blueprint.digest() == digest);
        let is_wanted = comes_beside(next) || goes_back && comes_beside(&current.blueprint);
        let waits = is_wanted && !self.removed && !runs && !has_one_each;
        match waits {
            true => (self.side_on_call().other(), Some(Beside::Waits)),
            false => (self.side_on_call(), None),
        }
    }

    /// Checks that two versions that are beside each other can be.
    ///
    /// # Errors
    /// A sentence for the person who changes it.
    pub fn check_beside(&self) -> Result<(), String> {
        let per_node = |version: &Version| version.blueprint.instances == Instances::PerNode;
        let both = std::iter::once(&self.current).chain(self.on_call());
        if self.current.beside.is_some() && both.into_iter().any(per_node) {
            let name = self.current.blueprint.name();
            return Err(format!(
                "blueprint {name}: a blue-green update is not for one on each node, which would have two: change \
                 `instances` before it or after it"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{AgentSource, AgentSpec, ProcessProtocol, Update};

    fn name(text: &str) -> AgentName {
        AgentName::new(text).expect("valid")
    }

    fn blueprint(command: &str, strategy: UpdateStrategy) -> Blueprint {
        let (protocol, command) = (ProcessProtocol::Stdio, command.to_owned());
        let source = AgentSource::Process { protocol, command, args: vec![] };
        Blueprint {
            spec: AgentSpec::new(name("web"), source),
            instances: Instances::Count(3),
            placement: Default::default(),
            update: Update { strategy, ..Update::default() },
            on_cut: Default::default(),
        }
    }

    fn beside(command: &str) -> Blueprint {
        blueprint(command, UpdateStrategy::BlueGreen)
    }

    fn stands(record: &BlueprintRecord) -> (SlotSide, Option<Beside>, SlotSide) {
        (record.current.side, record.current.beside, record.side_on_call())
    }

    fn next(record: &BlueprintRecord, blueprint: Blueprint) -> BlueprintRecord {
        record.followed_by(blueprint, "applied".to_owned(), false)
    }

    #[test]
    fn numbers_tell_the_sides_of_slots_apart() {
        let (first, second) = (SlotSide::First.slot(&name("web"), 2), SlotSide::Second.slot(&name("web"), 2));
        assert_eq!((first.as_str(), second.as_str()), ("web#2", "web#10002"));
        assert_eq!((SlotSide::of(&first), SlotSide::of(&second)), (SlotSide::First, SlotSide::Second));
        assert_eq!((SlotSide::number_of(&first), SlotSide::number_of(&second)), (Some(2), Some(2)));
        assert_eq!(
            (SlotSide::lasting_name(&second), SlotSide::lasting_name(&name("web"))),
            (first, name("web"))
        );
    }

    #[test]
    fn a_version_waits_on_the_other_side_and_what_takes_its_place_waits_there_as_well() {
        let first = BlueprintRecord::new(beside("one"), "applied".to_owned());
        assert_eq!(
            stands(&first),
            (SlotSide::First, None, SlotSide::First),
            "the first one is beside nothing"
        );
        let second = next(&first, beside("two"));
        assert_eq!(stands(&second), (SlotSide::Second, Some(Beside::Waits), SlotSide::First));
        let third = next(&second, beside("three"));
        assert_eq!(stands(&third), (SlotSide::Second, Some(Beside::Waits), SlotSide::First));
        assert_eq!(third.on_call().map(|version| version.number), Some(1));
        let scaled = next(&third, Blueprint { instances: Instances::Count(5), ..beside("three") });
        assert_eq!(stands(&scaled), stands(&third), "a change of numbers changes nothing of that");
        let rolling = next(&third, blueprint("four", UpdateStrategy::Rolling));
        assert_eq!(stands(&rolling), (SlotSide::First, None, SlotSide::First));
    }

    #[test]
    fn before_the_switch_the_way_back_is_no_way_and_after_it_it_is_a_switch_as_well() {
        let first = BlueprintRecord::new(blueprint("one", UpdateStrategy::Rolling), "applied".to_owned());
        let mut second = next(&first, beside("two"));
        let back = |record: &BlueprintRecord| {
            record.followed_by(first.current.blueprint.clone(), "back".to_owned(), true)
        };
        assert_eq!(stands(&back(&second)), (SlotSide::First, None, SlotSide::First));
        second.current.beside = Some(Beside::Serves);
        assert_eq!(stands(&second), (SlotSide::Second, Some(Beside::Serves), SlotSide::Second));
        assert_eq!(stands(&back(&second)), (SlotSide::First, Some(Beside::Waits), SlotSide::Second));
        second.current.beside = None;
        assert_eq!(back(&second).on_call().map(|version| version.number), Some(2));
        let again = next(&second.ended(), beside("three"));
        assert_eq!(
            stands(&again),
            (SlotSide::Second, None, SlotSide::Second),
            "of one that was removed nothing runs"
        );
    }

    #[test]
    fn one_on_each_node_cannot_be_beside_another() {
        let first = BlueprintRecord::new(blueprint("one", UpdateStrategy::Rolling), "applied".to_owned());
        let second = next(&first, beside("two"));
        assert_eq!(second.check_beside(), Ok(()));
        let per_node =
            Blueprint { instances: Instances::PerNode, ..blueprint("two", UpdateStrategy::Rolling) };
        let refused = next(&second, per_node).check_beside().expect_err("it waits beside another");
        assert!(refused.contains("not for one on each node"), "{refused}");
    }

    #[test]
    fn what_an_earlier_version_wrote_is_beside_nothing_and_that_is_written_as_before() {
        let first = BlueprintRecord::new(beside("one"), "applied".to_owned());
        let text = String::from_utf8_lossy(&crate::core::wire::encode_value(&first)).into_owned();
        assert!(!text.contains("beside") && !text.contains("side\""), "{text}");
    }
}
