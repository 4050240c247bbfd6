//! Partitions: what this node does while it is not among a majority, and what a mesh that it founds counts as one.

use super::keys::FileDecision;
use super::sources::{Setting, Sources};
use super::values;
use crate::core::limits;
use crate::core::model::{Action, Condition, Decision, PartitionConfig, Strategy};

const STRATEGY: &str = "coordination.partition.strategy";
const DETECTION_TIMEOUT: &str = "coordination.partition.detection_timeout";
const QUORUM_SIZE: &str = "coordination.partition.quorum_size";
const TIE_BREAKER: &str = "coordination.partition.tie_breaker";
const MAX_OFFLINE: &str = "coordination.partition.max_offline";
const DEGRADED_MODE: &str = "coordination.partition.degraded_mode";
const QUEUE_WRITES: &str = "coordination.partition.queue_writes";
const HANDLER: &str = "coordination.partition.custom_handler";
const DECISIONS: &str = "coordination.partition.decisions";

/// The word of a strategy, before it has what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Consistency,
    Availability,
    Custom,
}

/// `coordination.partition`.
pub(super) fn read(sources: &mut Sources<'_>) -> PartitionConfig {
    let default = PartitionConfig::default();
    let strategy = strategy(sources);
    let detection_timeout = sources.in_file(DETECTION_TIMEOUT, |text| {
        values::duration(text, limits::DETECTION_TIMEOUT_MIN, limits::DETECTION_TIMEOUT_MAX)
    });
    let quorum_size = sources.in_file(QUORUM_SIZE, quorum_size).into_value().flatten();
    let tie_breaker = sources.in_file(TIE_BREAKER, values::node_id);
    if let (Some(_), Some(place)) = (quorum_size, tie_breaker.place()) {
        sources.problem(&place, "it does nothing beside quorum_size: a number that is reached is no tie");
    }
    let max_offline =
        sources.in_file(MAX_OFFLINE, |text| values::duration(text, limits::OFFLINE_MIN, limits::OFFLINE_MAX));
    let degraded_mode = sources.in_file(DEGRADED_MODE, values::boolean);
    if let Setting::Value(false, place) = &degraded_mode
        && strategy == Strategy::Availability
    {
        let message = "a minority that goes on writing (strategy: availability) must read what it wrote: leave it \
                       out, or choose another strategy";
        sources.problem(place, message);
    }
    PartitionConfig {
        strategy,
        detection_timeout: detection_timeout.or_default_to(default.detection_timeout),
        quorum_size,
        tie_breaker: tie_breaker.into_value(),
        max_offline: max_offline.or_default_to(default.max_offline),
        degraded_mode: degraded_mode.or_default_to(default.degraded_mode),
        queue_writes: sources.in_file(QUEUE_WRITES, values::boolean).or_default_to(default.queue_writes),
    }
}

/// `node.roles`.
pub(super) fn roles(sources: &mut Sources<'_>) -> Vec<String> {
    let Setting::Value(roles, place) = sources.list_in_file("node.roles", role) else {
        return Vec::new();
    };
    for (at, role) in roles.iter().enumerate() {
        if roles[..at].contains(role) {
            sources.problem(&place, format!("the role {role} is given twice"));
        }
    }
    roles
}

fn role(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("the role has no name".into());
    }
    values::label_text(text)
}

/// The strategy with what belongs to it.
fn strategy(sources: &mut Sources<'_>) -> Strategy {
    let word = sources.in_file(STRATEGY, |text| {
        let choices = [
            ("consistency", Word::Consistency),
            ("availability", Word::Availability),
            ("custom", Word::Custom),
        ];
        values::choice(text, &choices)
    });
    let handler = sources.in_file(HANDLER, command);
    let decisions = decisions(sources);
    let is_bad = word == Setting::Bad || handler == Setting::Bad || decisions == Setting::Bad;
    let custom = matches!(word, Setting::Value(Word::Custom, _));
    if !is_bad && !custom {
        for place in handler.place().into_iter().chain(decisions.place()) {
            sources.problem(&place, "it does nothing without strategy: custom");
        }
    }
    match (word, handler, decisions) {
        (Setting::Value(Word::Availability, _), _, _) => Strategy::Availability,
        (Setting::Value(Word::Custom, _), Setting::Value(_, place), Setting::Value(..)) => {
            sources.problem(&place, "either a command decides, or decisions do: remove one of the two");
            Strategy::Consistency
        }
        (Setting::Value(Word::Custom, _), Setting::Value(command, _), _) => Strategy::Handler { command },
        (Setting::Value(Word::Custom, _), _, Setting::Value(decisions, _)) => Strategy::Decisions(decisions),
        (Setting::Value(Word::Custom, place), Setting::Absent, Setting::Absent) => {
            sources.problem(&place, "custom needs decisions, or a custom_handler that makes them");
            Strategy::Consistency
        }
        (Setting::Value(Word::Consistency | Word::Custom, _) | Setting::Absent | Setting::Bad, _, _) => {
            Strategy::Consistency
        }
    }
}

/// The file of a command.
pub(super) fn command(text: &str) -> Result<String, String> {
    let path = values::path(text)?;
    path.to_str().map(str::to_owned).ok_or_else(|| "the path is not UTF-8 text".to_owned())
}

fn decisions(sources: &mut Sources<'_>) -> Setting<Vec<Decision>> {
    let (listed, place) = match sources.take_decisions(DECISIONS) {
        Setting::Value(listed, place) => (listed, place),
        Setting::Absent => return Setting::Absent,
        Setting::Bad => return Setting::Bad,
    };
    let mut decisions = Vec::new();
    let mut sound = true;
    for FileDecision { condition, action } in listed {
        let condition = sources.item(condition, |text| text.parse::<Condition>().map_err(|e| e.to_string()));
        let action = sources.item(action, |text| text.parse::<Action>().map_err(|e| e.to_string()));
        match (condition, action) {
            (Setting::Value(condition, _), Setting::Value(action, _)) => {
                decisions.push(Decision { condition, action });
            }
            (Setting::Absent | Setting::Bad, _) | (_, Setting::Absent | Setting::Bad) => sound = false,
        }
    }
    if sound { Setting::Value(decisions, place) } else { Setting::Bad }
}

fn quorum_size(text: &str) -> Result<Option<u16>, String> {
    if text == "auto" {
        return Ok(None);
    }
    values::integer(text, 1, limits::QUORUM_SIZE_MAX)
        .map(Some)
        .map_err(|error| format!("{error}, and not auto"))
}
