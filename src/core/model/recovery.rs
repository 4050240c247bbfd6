//! Recovery rules: how agents of a node are started again and left alone, where they do not say so themselves.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{AgentSpec, Breaker, Care, Restart};
use crate::core::ids::AgentName;
use crate::core::limits;

/// The rules of one node, in the order in which they are looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Recovery {
    /// For each of [`RecoveryRule::restart`] and [`RecoveryRule::breaker`] the first counts that matches and has it.
    pub rules: Vec<RecoveryRule>,
}

/// What holds for some of a node's agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryRule {
    /// Which agents, by name; instances of a blueprint by the blueprint's.
    pub agents: NamePattern,
    /// Only those that are optional at launch, or only those that are not; `None`: both.
    pub optional: Option<bool>,
    /// When they are started again.
    pub restart: Option<Restart>,
    /// When those who ask them are spared their wait.
    pub breaker: Option<Breaker>,
    /// Whether it holds also for agents that say something else themselves.
    pub overrules: bool,
}

/// Names of agents, in which `*` stands for any characters, also none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamePattern(String);

impl Recovery {
    /// How an agent is looked after under these rules: nothing is left open but whether its health is checked.
    #[must_use]
    pub fn care_of(&self, spec: &AgentSpec) -> Care {
        let name = spec.name.base();
        let matching = |rule: &&RecoveryRule| {
            rule.agents.matches(&name) && rule.optional.is_none_or(|wanted| wanted == spec.launch.optional)
        };
        let rules: Vec<_> = self.rules.iter().filter(matching).collect();
        let restart = choose(&rules, spec.care.restart.as_ref(), |rule| rule.restart.as_ref());
        let breaker = choose(&rules, spec.care.breaker.as_ref(), |rule| rule.breaker.as_ref());
        Care { health: spec.care.health.clone(), restart: Some(restart), breaker: Some(breaker) }
    }
}

/// A rule that overrules, what the agent says, any other rule, what is usual.
fn choose<T: Clone + Default>(
    rules: &[&RecoveryRule],
    own: Option<&T>,
    of: impl Fn(&RecoveryRule) -> Option<&T>,
) -> T {
    let first =
        |overrules: bool| rules.iter().filter(|rule| rule.overrules == overrules).find_map(|rule| of(rule));
    first(true).or(own).or_else(|| first(false)).cloned().unwrap_or_default()
}

impl NamePattern {
    /// Whether it stands for this name.
    #[must_use]
    pub fn matches(&self, name: &AgentName) -> bool {
        let mut parts = self.0.split('*');
        let name = name.as_str();
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
            return false;
        };
        let mut parts: Vec<_> = parts.collect();
        let Some(last) = parts.pop() else {
            return rest.is_empty();
        };
        // The first place of each part leaves the most for those after it.
        for part in parts {
            let Some(at) = rest.find(part) else {
                return false;
            };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

impl FromStr for NamePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > limits::AGENT_NAME_BYTES_MAX {
            let max = limits::AGENT_NAME_BYTES_MAX;
            return Err(format!("a pattern of {} bytes: allowed are {max}", text.len()));
        }
        // What is left of it has to be a name, or no name could match.
        let name: String = text.chars().map(|c| if c == '*' { 'x' } else { c }).collect();
        AgentName::new(&name).map_err(|error| format!("no name of an agent matches it: {error}"))?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::AgentSource;

    fn pattern(text: &str) -> NamePattern {
        text.parse().expect("a pattern")
    }

    fn rule(agents: &str) -> RecoveryRule {
        RecoveryRule {
            agents: pattern(agents),
            optional: None,
            restart: None,
            breaker: None,
            overrules: false,
        }
    }

    fn restart(ms: u32) -> Restart {
        Restart { waits_ms: vec![ms], ..Restart::default() }
    }

    fn spec(name: &str) -> AgentSpec {
        let source = AgentSource::Native { builtin: "echo".to_owned() };
        AgentSpec::new(AgentName::new(name).expect("valid"), source)
    }

    #[test]
    fn a_star_stands_for_any_characters_and_for_none() {
        for (text, name, is_match) in [
            ("*", "web", true),
            ("web", "web", true),
            ("web", "webs", false),
            ("web-*", "web-1", true),
            ("web-*", "web-", true),
            ("web-*", "the-web-1", false),
            ("*-db", "orders-db", true),
            ("*-db", "orders-db-2", false),
            ("a*b*a", "aba", true),
            ("a*b*a", "ab", false),
            ("ab*ba", "aba", false),
            ("a*b*c", "axbxbxc", true),
        ] {
            let name = AgentName::new(name).expect("valid");
            assert_eq!(pattern(text).matches(&name), is_match, "{text}: {name}");
        }
    }

    #[test]
    fn a_pattern_that_no_name_can_match_is_refused() {
        for text in ["", "a b", "web#*", &"x".repeat(65)] {
            text.parse::<NamePattern>().expect_err(text);
        }
    }

    #[test]
    fn what_an_agent_says_goes_before_a_rule_unless_the_rule_overrules() {
        let by_rule = RecoveryRule { restart: Some(restart(1)), ..rule("*") };
        let mut own = spec("a");
        own.care.restart = Some(restart(2));
        let of = |rules: &[&RecoveryRule], spec: &AgentSpec| {
            let rules = rules.iter().map(|rule| (*rule).clone()).collect();
            Recovery { rules }.care_of(spec)
        };
        assert_eq!(of(&[], &spec("a")).restart, Some(Restart::default()));
        assert_eq!(of(&[&by_rule], &spec("a")).restart, Some(restart(1)));
        assert_eq!(of(&[&by_rule], &own).restart, Some(restart(2)));
        let overrules = RecoveryRule { overrules: true, restart: Some(restart(3)), ..rule("*") };
        assert_eq!(of(&[&by_rule, &overrules], &own).restart, Some(restart(3)));
        assert_eq!(of(&[&by_rule], &own).breaker, Some(Breaker::default()));
        // Also one that says that it wants the usual.
        own.care.restart = Some(Restart::default());
        assert_eq!(of(&[&by_rule], &own).restart, Some(Restart::default()));
    }

    #[test]
    fn each_part_is_that_of_the_first_rule_that_matches_and_has_it() {
        let few = Breaker { failures: 1, ..Breaker::default() };
        let rules = vec![
            RecoveryRule { breaker: Some(few), ..rule("web") },
            RecoveryRule { optional: Some(true), restart: Some(restart(1)), ..rule("*") },
            RecoveryRule { optional: Some(false), restart: Some(restart(2)), ..rule("*") },
            RecoveryRule { restart: Some(restart(3)), breaker: Some(Breaker::default()), ..rule("*") },
        ];
        let recovery = Recovery { rules };
        let care = recovery.care_of(&spec("web#3"));
        assert_eq!((care.restart, care.breaker), (Some(restart(2)), Some(few)));
        let mut optional = spec("db");
        optional.launch.optional = true;
        let care = recovery.care_of(&optional);
        assert_eq!((care.restart, care.breaker), (Some(restart(1)), Some(Breaker::default())));
    }
}
