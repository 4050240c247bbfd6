//! How an agent is looked after: what tells that it is well, and what is done when it is not.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Breaker;
use crate::core::limits;

/// How an agent is looked after.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Care {
    /// How its health is checked; `None`: only its end tells that something is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// When it is started again; `None`: as its node's [`Recovery`](super::Recovery) says, or as usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// When those who ask it are spared their wait; `None`: likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
}

/// A check that is made again and again while an agent runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Milliseconds from one check to the next.
    pub interval_ms: u32,
    /// Milliseconds that a check may take. One that takes more than half of them finds the agent degraded.
    pub timeout_ms: u32,
    /// The agent is unhealthy, and is started again, after so many failures in a row.
    pub failures: u32,
}

/// What a check asks of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// `GET` at the agent's port; a status of 200 to 299 is well. Only of agents that are spoken to in HTTP.
    Http {
        /// `None`: the first of [`Probe::PATHS`] at which something is found.
        path: Option<String>,
    },
    /// A message like any other, with this content, that has to be answered.
    Answer {
        /// The content, as text.
        content: String,
    },
}

/// When an agent that has ended, or was found unhealthy, is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// How long each attempt waits, in milliseconds; after the last one the agent is put in quarantine. The first
    /// [`Restart::ABRUPT`] attempts end an agent that is unhealthy at once, later ones let it finish what it has.
    pub waits_ms: Vec<u32>,
    /// Once an agent has run for so many milliseconds, the attempts are counted anew.
    pub steady_ms: u32,
}

impl Probe {
    /// What a check by message says if nothing else is said.
    pub const CONTENT: &str = "ping";
    /// Where health is looked for if nothing else is said.
    pub const PATHS: [&str; 4] = ["/health", "/api/health", "/status", "/ping"];
}

impl HealthCheck {
    /// The check with this probe and everything else as usual: every 5 s, within 2 s, three failures.
    #[must_use]
    pub fn new(probe: Probe) -> Self {
        Self { probe, interval_ms: 5_000, timeout_ms: 2_000, failures: 3 }
    }
}

impl Restart {
    /// So many attempts are made abruptly.
    pub const ABRUPT: usize = 3;

    /// Checks the bounds.
    ///
    /// # Errors
    /// A sentence for the person who gives it.
    pub fn check(&self) -> Result<(), String> {
        if self.waits_ms.len() > limits::RESTARTS_MAX {
            let max = limits::RESTARTS_MAX;
            return Err(format!("{} waits before a restart, allowed are {max}", self.waits_ms.len()));
        }
        for wait in &self.waits_ms {
            check_span("a wait before a restart", *wait, 0)?;
        }
        check_span("the time until restarts are counted anew", self.steady_ms, 1)
    }

    /// How long the attempt after `attempts` of them waits; `None`: there is none.
    #[must_use]
    pub fn wait_after(&self, attempts: usize) -> Option<Duration> {
        self.waits_ms.get(attempts).map(|ms| Duration::from_millis((*ms).into()))
    }

    /// How long an agent has to run until attempts are counted anew.
    #[must_use]
    pub fn steady(&self) -> Duration {
        Duration::from_millis(self.steady_ms.into())
    }
}

impl Default for Restart {
    fn default() -> Self {
        let waits_s = [1, 5, 15, 30, 60, 120, 240];
        Self { waits_ms: waits_s.map(|s| s * 1000).to_vec(), steady_ms: 600_000 }
    }
}

impl Care {
    /// Whether it is as for every agent of which nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// When it is started again; as usual where nothing is said.
    #[must_use]
    pub fn restart(&self) -> Restart {
        self.restart.clone().unwrap_or_default()
    }

    /// When those who ask it are spared their wait; as usual where nothing is said.
    #[must_use]
    pub fn breaker(&self) -> Breaker {
        self.breaker.unwrap_or_default()
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// A sentence for the person who deploys the agent.
    pub fn check(&self, speaks_http: bool) -> Result<(), String> {
        if let Some(health) = &self.health {
            check_span("the interval of health checks", health.interval_ms, limits::CHECK_INTERVAL_MS_MIN)?;
            check_span("the time that a health check may take", health.timeout_ms, 1)?;
            if !(1..=limits::CHECK_FAILURES_MAX).contains(&health.failures) {
                let max = limits::CHECK_FAILURES_MAX;
                return Err(format!(
                    "{} failed health checks in a row: it must be 1 to {max}",
                    health.failures
                ));
            }
            match &health.probe {
                Probe::Http { .. } if !speaks_http => {
                    return Err("only an agent of kind http has its health checked by HTTP".to_owned());
                }
                Probe::Http { path: Some(path) } if !is_path(path) => {
                    return Err(format!(
                        "{path:?} is no path of a health check: it begins with / and has no spaces"
                    ));
                }
                Probe::Answer { content } if content.len() > limits::CHECK_CONTENT_BYTES_MAX => {
                    let max = limits::CHECK_CONTENT_BYTES_MAX;
                    return Err(format!(
                        "the content of a health check has {} bytes, allowed are {max}",
                        content.len()
                    ));
                }
                Probe::Http { .. } | Probe::Answer { .. } => {}
            }
        }
        self.restart.as_ref().map_or(Ok(()), Restart::check)?;
        self.breaker.as_ref().map_or(Ok(()), Breaker::check)
    }
}

fn check_span(what: &str, ms: u32, min: u32) -> Result<(), String> {
    match ms {
        ms if (min..=limits::CARE_SPAN_MS_MAX).contains(&ms) => Ok(()),
        _ => Err(format!("{what} is {ms} ms: it must be {min} to {} ms", limits::CARE_SPAN_MS_MAX)),
    }
}

fn is_path(path: &str) -> bool {
    path.len() <= limits::CHECK_PATH_BYTES_MAX
        && path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

/// How an agent is, by its checks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "health")]
pub enum Health {
    /// Nothing has been asked, or not yet.
    #[default]
    Unchecked,
    /// The last check found it well.
    Healthy,
    /// It answers slowly or is busy, or the last checks failed, but not as many as may.
    Degraded {
        /// What was found.
        why: String,
    },
    /// As many checks failed in a row as make it so.
    Unhealthy {
        /// What was found.
        why: String,
    },
}

impl Health {
    /// The word that users see.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Healthy => "healthy",
            Self::Degraded { .. } => "degraded",
            Self::Unhealthy { .. } => "unhealthy",
        }
    }

    /// What was found, where that is something.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Degraded { why } | Self::Unhealthy { why } => Some(why),
            Self::Unchecked | Self::Healthy => None,
        }
    }

    /// Whether no check has told anything.
    #[must_use]
    pub fn is_unchecked(&self) -> bool {
        *self == Self::Unchecked
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "result")]
pub enum Checkup {
    /// It is well.
    Healthy,
    /// It answers, and slowly; or is too busy to.
    Degraded {
        /// In what way.
        why: String,
    },
    /// It answers that it is not well, or cannot be reached.
    Unhealthy {
        /// What it says, or what is wrong.
        why: String,
    },
    /// It did not answer in time.
    Timeout {
        /// How long that is, in milliseconds.
        after_ms: u32,
    },
}

impl Checkup {
    /// The word that users see.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded { .. } => "degraded",
            Self::Unhealthy { .. } => "unhealthy",
            Self::Timeout { .. } => "timeout",
        }
    }

    /// What is wrong, in a few words.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        match self {
            Self::Healthy => None,
            Self::Degraded { why } | Self::Unhealthy { why } => Some(why.clone()),
            Self::Timeout { after_ms } => Some(format!("no answer within {after_ms} ms")),
        }
    }

    /// The same with what was found cut to [`limits::CHECK_WHY_CHARS_MAX`].
    #[must_use]
    pub fn bounded(mut self) -> Self {
        if let Self::Degraded { why } | Self::Unhealthy { why } = &mut self
            && let Some((at, _)) = why.char_indices().nth(limits::CHECK_WHY_CHARS_MAX)
        {
            why.truncate(at);
        }
        self
    }

    /// Whether it counts against the agent.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Unhealthy { .. } | Self::Timeout { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(health: HealthCheck) -> Result<(), String> {
        Care { health: Some(health), ..Care::default() }.check(true)
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_with_the_bounds() {
        assert_eq!(Care::default().check(false), Ok(()));
        let usual = || HealthCheck::new(Probe::Http { path: None });
        assert_eq!(check(usual()), Ok(()));
        let cases = [
            (HealthCheck { interval_ms: 10, ..usual() }, "100 to 86400000 ms"),
            (HealthCheck { timeout_ms: 0, ..usual() }, "1 to 86400000 ms"),
            (HealthCheck { failures: 0, ..usual() }, "1 to 1000"),
            (
                HealthCheck { probe: Probe::Http { path: Some("health".to_owned()) }, ..usual() },
                "begins with /",
            ),
            (HealthCheck { probe: Probe::Http { path: Some("/a b".to_owned()) }, ..usual() }, "no spaces"),
            (
                HealthCheck { probe: Probe::Answer { content: "x".repeat(5000) }, ..usual() },
                "allowed are 4096",
            ),
        ];
        for (health, words) in cases {
            let why = check(health).expect_err(words);
            assert!(why.contains(words), "{why}");
        }
        let care = Care { health: Some(usual()), ..Care::default() };
        assert!(care.check(false).expect_err("no HTTP").contains("only an agent of kind http"));
        let restart = |restart| Care { restart: Some(restart), ..Care::default() }.check(false);
        let usual = Restart::default;
        restart(Restart { waits_ms: vec![], ..usual() }).expect("it is never started again");
        restart(Restart { waits_ms: vec![1; 33], ..usual() }).expect_err("too many");
        restart(Restart { waits_ms: vec![u32::MAX], ..usual() }).expect_err("too long");
        restart(Restart { steady_ms: 0, ..usual() }).expect_err("no time at all");
    }
}
