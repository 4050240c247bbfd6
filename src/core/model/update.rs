//! How another version of a blueprint takes the place of the one that runs, and what it is judged by meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::OrderEpoch;
use crate::core::ids::AgentName;
use crate::core::limits;

/// How another version of a blueprint takes the place of the one that runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Update {
    /// Instances that are not steady because of it, at once.
    pub max_parallel: u16,
    /// An instance that has run for so long, and is not unhealthy, is steady.
    pub min_healthy: Duration,
    /// An instance that is not steady so long after its order has failed.
    pub deadline: Duration,
    /// Whether the version before takes its place again when an instance of the new one fails. Once all are of the new
    /// one, and one of them is steady, an instance that fails goes to another node instead.
    pub roll_back: bool,
    /// How far it goes before it is looked at.
    #[serde(default, skip_serializing_if = "UpdateStrategy::is_rolling")]
    pub strategy: UpdateStrategy,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            max_parallel: 1,
            min_healthy: Duration::from_secs(1),
            deadline: Duration::from_secs(60),
            roll_back: true,
            strategy: UpdateStrategy::Rolling,
        }
    }
}

/// How far an update goes before it is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateStrategy {
    /// To the next instances as soon as those before are steady.
    #[default]
    Rolling,
    /// To a share of the instances, which has to prove itself before the share grows.
    Canary(Canary),
    /// All instances of the new version beside those that run; then all messages go to them at once.
    BlueGreen,
}

impl UpdateStrategy {
    fn is_rolling(&self) -> bool {
        *self == Self::Rolling
    }

    /// What the shares are, if there are some.
    #[must_use]
    pub fn canary(&self) -> Option<&Canary> {
        match self {
            Self::Rolling | Self::BlueGreen => None,
            Self::Canary(canary) => Some(canary),
        }
    }
}

/// An update that goes from share to share.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Canary {
    /// The shares, in percent of the instances, each at least one instance. What is left after the last one follows as in a
    /// rolling update.
    pub steps: Vec<u8>,
    /// So long all instances of a share are steady before the next one begins.
    pub hold: Duration,
    /// More failures among a thousand messages, since its step began, and the version has failed; 1000: they are not looked at.
    pub error_permille_max: u16,
    /// Of fewer messages nothing is concluded.
    pub messages_min: u32,
}

impl Default for Canary {
    fn default() -> Self {
        Self {
            steps: vec![5, 25, 50, 100],
            hold: Duration::from_secs(30),
            error_permille_max: 50,
            messages_min: 20,
        }
    }
}

impl Update {
    /// Checks its bounds.
    ///
    /// # Errors
    /// What is wrong, beginning with the name of the field.
    pub fn check(&self) -> Result<(), String> {
        if self.max_parallel == 0 || self.max_parallel > limits::UPDATE_PARALLEL_MAX {
            return Err(format!("update.max_parallel is 1 to {}", limits::UPDATE_PARALLEL_MAX));
        }
        if self.deadline > limits::UPDATE_DEADLINE_MAX || self.deadline <= self.min_healthy {
            return Err("update.deadline is longer than update.min_healthy, and at most a day".to_owned());
        }
        self.strategy.canary().map_or(Ok(()), Canary::check)
    }
}

impl Canary {
    fn check(&self) -> Result<(), String> {
        let Self { steps, hold, error_permille_max, messages_min } = self;
        if steps.is_empty() || steps.len() > limits::CANARY_STEPS_MAX {
            return Err(format!("update.steps has 1 to {} steps", limits::CANARY_STEPS_MAX));
        }
        if let Some(step) = steps.iter().find(|step| !(1..=100).contains(*step)) {
            return Err(format!("update.steps are percentages, 1 to 100, and {step} is none"));
        }
        if let Some(two) = steps.windows(2).find(|two| two[1] <= two[0]) {
            return Err(format!("update.steps grow from one to the next, and {} follows {}", two[1], two[0]));
        }
        if *hold < limits::CANARY_HOLD_MIN || *hold > limits::UPDATE_DEADLINE_MAX {
            let least = limits::CANARY_HOLD_MIN.as_secs();
            return Err(format!("update.hold is {least} s to a day: messages are counted in that time"));
        }
        if *error_permille_max > 1000 {
            return Err("update.max_error_rate is 0 % to 100 %".to_owned());
        }
        if *messages_min == 0 {
            return Err("update.min_messages is 1 or more".to_owned());
        }
        Ok(())
    }

    /// Why so many messages speak against a version; `None`: they do not.
    #[must_use]
    pub fn failure(&self, tally: Tally) -> Option<String> {
        let Tally { worked, failed } = tally;
        let all = worked.saturating_add(failed);
        let exceeds = u128::from(failed) * 1000 > u128::from(self.error_permille_max) * u128::from(all);
        (all >= u64::from(self.messages_min) && exceeds).then(|| {
            format!("{failed} of {all} messages failed, more than {}", percent(self.error_permille_max))
        })
    }

    /// Whether messages are looked at, and the breaker that counts their failures.
    #[must_use]
    pub fn counts_messages(&self) -> bool {
        self.error_permille_max < 1000
    }
}

fn percent(permille: u16) -> String {
    match permille % 10 {
        0 => format!("{} %", permille / 10),
        tenth => format!("{}.{tenth} %", permille / 10),
    }
}

/// What became of the messages that an instance was given. What counts as a failure is what its breaker counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Messages that it has answered, or taken.
    pub worked: u64,
    /// Messages that ended in an error of its making.
    pub failed: u64,
}

impl Tally {
    /// What came after `before`; all of it, if it has been counted from nothing since.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        match (self.worked.checked_sub(before.worked), self.failed.checked_sub(before.failed)) {
            (Some(worked), Some(failed)) => Self { worked, failed },
            _ => self,
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let worked = self.worked.saturating_add(other.worked);
        Self { worked, failed: self.failed.saturating_add(other.failed) }
    }
}

/// What a node has counted of the instances that it runs by these orders.
pub type Tallies = BTreeMap<AgentName, (OrderEpoch, Tally)>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_steps_and_bounds_are_refused_by_name() {
        let bad = |change: fn(&mut Canary)| {
            let mut canary = Canary::default();
            change(&mut canary);
            Update { strategy: UpdateStrategy::Canary(canary), ..Update::default() }
                .check()
                .expect_err("it is bad")
        };
        assert!(bad(|canary| canary.steps.clear()).contains("update.steps has 1 to"));
        assert!(bad(|canary| canary.steps = (1..=30).collect()).contains("update.steps has 1 to"));
        assert!(bad(|canary| canary.steps = vec![0, 50]).contains("0 is none"));
        assert!(bad(|canary| canary.steps = vec![50, 101]).contains("101 is none"));
        assert!(bad(|canary| canary.steps = vec![50, 50]).contains("50 follows 50"));
        assert!(bad(|canary| canary.steps = vec![50, 25]).contains("25 follows 50"));
        assert!(bad(|canary| canary.hold = Duration::from_secs(1)).contains("update.hold is 10 s"));
        assert!(bad(|canary| canary.error_permille_max = 1001).contains("update.max_error_rate"));
        assert!(bad(|canary| canary.messages_min = 0).contains("update.min_messages"));
        assert_eq!(
            Update { strategy: UpdateStrategy::Canary(Canary::default()), ..Update::default() }.check(),
            Ok(())
        );
    }

    #[test]
    fn a_rate_speaks_against_a_version_only_above_its_bound_and_of_enough_messages() {
        let canary = Canary { error_permille_max: 50, messages_min: 20, ..Canary::default() };
        let failure = |worked, failed| canary.failure(Tally { worked, failed });
        assert_eq!(failure(0, 19), None, "of fewer nothing is concluded");
        assert_eq!(failure(95, 5), None, "exactly as many as may fail");
        assert_eq!(failure(94, 6).as_deref(), Some("6 of 100 messages failed, more than 5 %"));
        let all = Canary { error_permille_max: 1000, ..canary };
        assert_eq!(all.failure(Tally { worked: 0, failed: 1000 }), None);
    }

    #[test]
    fn a_tally_that_began_anew_counts_as_a_whole() {
        let (before, after) = (Tally { worked: 10, failed: 2 }, Tally { worked: 15, failed: 2 });
        assert_eq!(after.since(before), Tally { worked: 5, failed: 0 });
        let anew = Tally { worked: 3, failed: 1 };
        assert_eq!(anew.since(before), anew);
    }

    #[test]
    fn what_an_earlier_version_wrote_is_a_rolling_update_and_that_is_written_as_before() {
        #[derive(Serialize, Deserialize)]
        struct Earlier {
            max_parallel: u16,
            min_healthy: Duration,
            deadline: Duration,
            roll_back: bool,
        }
        let span = Duration::from_secs(1);
        let earlier = Earlier { max_parallel: 3, min_healthy: span, deadline: span * 9, roll_back: true };
        let encoded = crate::core::wire::encode_value(&earlier);
        let update: Update = crate::core::wire::decode_value(&encoded).expect("it decodes");
        assert_eq!((update.max_parallel, &update.strategy), (3, &UpdateStrategy::Rolling));
        assert_eq!(crate::core::wire::encode_value(&update), encoded);
        let canary = Update { strategy: UpdateStrategy::Canary(Canary::default()), ..update };
        let encoded = crate::core::wire::encode_value(&canary);
        assert_eq!(crate::core::wire::decode_value::<Update>(&encoded).expect("it decodes"), canary);
        let read: Earlier = crate::core::wire::decode_value(&encoded).expect("an earlier version reads it");
        assert_eq!(read.max_parallel, 3);
    }
}
