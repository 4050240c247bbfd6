//! The decisions of a custom strategy: under which condition a node of a minority restricts itself to what.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One line of a custom strategy. It is looked at only while the node is not among a majority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When it holds.
    pub condition: Condition,
    /// What the node does then.
    pub action: Action,
}

/// What a node of a minority restricts itself to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It reads, with the age of what it knows; writes wait in the queue.
    ReadOnly,
    /// It neither reads nor writes what is shared, and passes on only messages between its own agents.
    LocalOnly,
}

impl Action {
    /// The word that users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::LocalOnly => "local-only",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Action {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        match text {
            "read-only" => Ok(Self::ReadOnly),
            "local-only" => Ok(Self::LocalOnly),
            "continue-critical" => Err(ConditionError::CriticalAgents("continue-critical")),
            _ => Err(ConditionError::Action(text.chars().take(SHOWN_CHARS_MAX).collect())),
        }
    }
}

/// How the number of voters that are heard, the node itself among them if it votes, compares: `nodes < quorum`,
/// `nodes == 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Condition {
    comparison: Comparison,
    bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    Equal,
    Unequal,
    AtLeast,
    More,
}

/// In the order in which a text is tried for them: the longer ones first.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("==", Comparison::Equal),
    ("!=", Comparison::Unequal),
    ("<", Comparison::Less),
    (">", Comparison::More),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Quorum,
    Number(u16),
}

const SHOWN_CHARS_MAX: usize = 80;

/// Why a text is no condition or no action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// A comparison was expected.
    #[error("{0:?} is no condition: write nodes, one of < <= == != >= >, and quorum or a number")]
    Condition(String),
    /// An action was expected.
    #[error("{0:?} is not one of read-only, local-only")]
    Action(String),
    /// It needs something that there is not.
    #[error("{0} comes with critical agents, which this version does not have: leave it out")]
    CriticalAgents(&'static str),
}

impl Condition {
    /// Whether it holds when so many voters are heard and so many would be a quorum.
    #[must_use]
    pub fn holds(self, nodes: usize, quorum: usize) -> bool {
        let bound = match self.bound {
            Bound::Quorum => quorum,
            Bound::Number(number) => usize::from(number),
        };
        match self.comparison {
            Comparison::Less => nodes < bound,
            Comparison::AtMost => nodes <= bound,
            Comparison::Equal => nodes == bound,
            Comparison::Unequal => nodes != bound,
            Comparison::AtLeast => nodes >= bound,
            Comparison::More => nodes > bound,
        }
    }
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        let bad = || ConditionError::Condition(text.chars().take(SHOWN_CHARS_MAX).collect());
        if text.contains("critical_agents_present") {
            return Err(ConditionError::CriticalAgents("critical_agents_present"));
        }
        let rest = text.trim().strip_prefix("nodes").ok_or_else(bad)?.trim_start();
        let (rest, comparison) = COMPARISONS
            .iter()
            .find_map(|(sign, comparison)| Some((rest.strip_prefix(sign)?, *comparison)))
            .ok_or_else(bad)?;
        let rest = rest.trim();
        if rest == "quorum" {
            return Ok(Self { comparison, bound: Bound::Quorum });
        }
        let digits_only = rest.bytes().all(|b| b.is_ascii_digit());
        let number = rest.parse().ok().filter(|_| digits_only).ok_or_else(bad)?;
        Ok(Self { comparison, bound: Bound::Number(number) })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = COMPARISONS.iter().find(|(_, comparison)| *comparison == self.comparison);
        let (sign, _) = sign.expect("the table has every comparison");
        match self.bound {
            Bound::Quorum => write!(f, "nodes {sign} quorum"),
            Bound::Number(number) => write!(f, "nodes {sign} {number}"),
        }
    }
}

impl TryFrom<String> for Condition {
    type Error = ConditionError;

    fn try_from(text: String) -> Result<Self, ConditionError> {
        text.parse()
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> Self {
        condition.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_compares_the_voters_that_are_heard_with_the_quorum_or_a_number() {
        for (text, nodes, holds) in [
            ("nodes < quorum", 2, true),
            ("nodes < quorum", 3, false),
            ("nodes<=quorum", 3, true),
            ("nodes == 1", 1, true),
            (" nodes  ==  1 ", 2, false),
            ("nodes != 1", 2, true),
            ("nodes >= 2", 1, false),
            ("nodes > 2", 3, true),
        ] {
            let condition: Condition = text.parse().expect(text);
            assert_eq!(condition.holds(nodes, 3), holds, "{text} with {nodes}");
            assert_eq!(condition.to_string().parse(), Ok(condition), "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused_with_what_to_write() {
        for text in [
            "",
            "nodes",
            "nodes =< 3",
            "nodes < ",
            "nodes < -1",
            "nodes < +1",
            "members < 3",
            "nodes < 70000",
        ] {
            let error = text.parse::<Condition>().expect_err(text).to_string();
            assert!(error.contains("write nodes, one of"), "{error}");
        }
        let critical = "critical_agents_present".parse::<Condition>().expect_err("refused").to_string();
        assert!(critical.contains("comes with critical agents"), "{critical}");
        let critical = "continue-critical".parse::<Action>().expect_err("refused").to_string();
        assert!(critical.contains("comes with critical agents"), "{critical}");
        assert!("write".parse::<Action>().is_err());
    }
}
