//! When an agent is started: in which phase of its node's start, after which others, and how long it may take.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::ids::AgentName;
use crate::core::limits;

/// When an agent is started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Launch {
    /// A node that starts starts its agents phase by phase, the lowest first.
    #[serde(skip_serializing_if = "is_zero")]
    pub phase: i32,
    /// It is started once these run, here or elsewhere.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub depends_on: BTreeSet<AgentName>,
    /// Whether the next phase begins also when it could not be started.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Milliseconds after which a start that is not over has failed; `None`: as usual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
fn is_zero(phase: &i32) -> bool {
    *phase == 0
}

impl Launch {
    /// Whether it is as for every agent of which nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// How long a start may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout_ms.map_or(limits::AGENT_START_DEADLINE, |ms| Duration::from_millis(ms.into()))
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// A sentence for the person who deploys the agent.
    pub fn check(&self, name: &AgentName) -> Result<(), String> {
        let (min, max) = (limits::START_TIMEOUT_MS_MIN, limits::START_TIMEOUT_MS_MAX);
        if self.timeout_ms.is_some_and(|ms| !(min..=max).contains(&ms)) {
            return Err(format!("the time that a start may take must be {min} to {max} ms"));
        }
        let max = limits::PHASE_MAX;
        if !(-max..=max).contains(&self.phase) {
            return Err(format!("phase {} is out of bounds: it must be -{max} to {max}", self.phase));
        }
        if self.depends_on.len() > limits::DEPENDENCIES_MAX {
            let (count, max) = (self.depends_on.len(), limits::DEPENDENCIES_MAX);
            return Err(format!("an agent that depends on {count} others: allowed are {max}"));
        }
        if self.depends_on.contains(name) {
            return Err(format!("it depends on itself: {name} -> {name}"));
        }
        Ok(())
    }
}

/// What depends on what.
pub type Dependencies = BTreeMap<AgentName, BTreeSet<AgentName>>;

/// A way along dependencies from an agent back to itself, if there is one; of several a shortest.
#[must_use]
pub fn cycle_through(all: &Dependencies, agent: &AgentName) -> Option<Vec<AgentName>> {
    let next = |of: &AgentName| all.get(of).into_iter().flatten();
    // From whom each was reached first.
    let mut reached: BTreeMap<&AgentName, &AgentName> = BTreeMap::new();
    let mut edge = vec![agent];
    while !edge.is_empty() {
        let mut beyond = Vec::new();
        for from in edge {
            for to in next(from) {
                if to == agent {
                    let mut path = vec![agent.clone(), from.clone()];
                    let mut at = from;
                    while at != agent {
                        at = reached[at];
                        path.push(at.clone());
                    }
                    path.reverse();
                    return Some(path);
                }
                if !reached.contains_key(to) {
                    reached.insert(to, from);
                    beyond.push(to);
                }
            }
        }
        edge = beyond;
    }
    None
}

/// `a -> b -> a`
#[must_use]
pub fn path_text(path: &[AgentName]) -> String {
    path.iter().map(AgentName::as_str).collect::<Vec<_>>().join(" -> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> AgentName {
        AgentName::new(text).expect("valid")
    }

    fn graph(edges: &[(&str, &[&str])]) -> Dependencies {
        edges.iter().map(|(from, to)| (name(from), to.iter().map(|to| name(to)).collect())).collect()
    }

    fn cycle(edges: &[(&str, &[&str])], through: &str) -> Option<String> {
        cycle_through(&graph(edges), &name(through)).map(|path| path_text(&path))
    }

    #[test]
    fn a_cycle_is_told_with_its_shortest_path() {
        let edges: &[(&str, &[&str])] =
            &[("a", &["b", "c"]), ("b", &["d"]), ("c", &["a"]), ("d", &["a"]), ("e", &["a"])];
        assert_eq!(cycle(edges, "a").as_deref(), Some("a -> c -> a"));
        assert_eq!(cycle(edges, "d").as_deref(), Some("d -> a -> b -> d"));
        assert_eq!(cycle(edges, "e"), None, "it only leads into one");
        assert_eq!(cycle(&[("a", &["a"])], "a").as_deref(), Some("a -> a"));
        assert_eq!(cycle(&[("a", &["b"])], "a"), None);
    }

    #[test]
    fn bounds_are_told() {
        let check = |launch: Launch| launch.check(&name("a"));
        assert_eq!(check(Launch::default()), Ok(()));
        let many = (0..=limits::DEPENDENCIES_MAX).map(|n| name(&format!("d{n}"))).collect();
        for (launch, words) in [
            (Launch { phase: 1001, ..Launch::default() }, "-1000 to 1000"),
            (Launch { depends_on: many, ..Launch::default() }, "allowed are 16"),
            (Launch { depends_on: [name("a")].into(), ..Launch::default() }, "a -> a"),
            (Launch { timeout_ms: Some(10), ..Launch::default() }, "1000 to 600000 ms"),
        ] {
            let why = check(launch).expect_err(words);
            assert!(why.contains(words), "{why}");
        }
    }
}
