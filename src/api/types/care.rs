//! The JSON of how an agent is looked after.

use serde::{Deserialize, Serialize};

use crate::core::model;
use crate::core::wire;

/// How an agent's health is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What is asked.
    pub check: CheckKind,
    /// With `http`: where; null: the first of `/health`, `/api/health`, `/status` and `/ping` where something is found.
    #[serde(default)]
    pub path: Option<String>,
    /// With `answer`: the content of the message.
    #[serde(default)]
    pub content: Option<String>,
    /// From one check to the next.
    #[serde(default = "interval_default")]
    pub interval_ms: u32,
    /// How long a check may take.
    #[serde(default = "timeout_default")]
    pub timeout_ms: u32,
    /// The agent is unhealthy after so many failures in a row.
    #[serde(default = "failures_default")]
    pub failures: u32,
}

/// What a health check asks of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// `GET` at its port.
    Http,
    /// A message that has to be answered.
    Answer,
}

/// When an agent is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// How long each attempt waits; after the last one the agent is in quarantine.
    #[serde(default = "waits_default")]
    pub waits_ms: Vec<u32>,
    /// An agent that has run for so long begins again with the first wait.
    #[serde(default = "steady_default")]
    pub steady_ms: u32,
}

/// When those who ask an agent are spared their wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// It opens after so many failures in a row.
    #[serde(default = "breaker_failures_default")]
    pub failures: u32,
    /// It stays open for so long; then one message is let through as a trial.
    #[serde(default = "open_default")]
    pub open_ms: u32,
}

/// One check of an agent's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// When it was over: milliseconds since 1970 by the clock of the agent's node.
    pub unix_ms: u64,
    /// How long it took.
    pub took_ms: u32,
    /// `healthy`, `degraded`, `unhealthy` or `timeout`.
    pub result: String,
    /// What was found; null when all was well.
    pub why: Option<String>,
}

/// `POST /v1/agents/{name}/restart`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartAgent {
    /// Only if it is in quarantine.
    #[serde(default)]
    pub release: bool,
}

/// What everything but the probe is, where nothing is said.
fn usual() -> model::HealthCheck {
    model::HealthCheck::new(model::Probe::Http { path: None })
}

fn interval_default() -> u32 {
    usual().interval_ms
}

fn timeout_default() -> u32 {
    usual().timeout_ms
}

fn failures_default() -> u32 {
    usual().failures
}

fn breaker_failures_default() -> u32 {
    model::Breaker::default().failures
}

fn open_default() -> u32 {
    model::Breaker::default().open_ms
}

fn waits_default() -> Vec<u32> {
    model::Restart::default().waits_ms
}

fn steady_default() -> u32 {
    model::Restart::default().steady_ms
}

impl HealthCheck {
    /// What it means.
    ///
    /// # Errors
    /// A sentence: a key is there that does not go with `check`.
    pub fn into_model(self) -> Result<model::HealthCheck, String> {
        let Self { check, path, content, interval_ms, timeout_ms, failures } = self;
        let probe = match (check, path, content) {
            (CheckKind::Http, path, None) => model::Probe::Http { path },
            (CheckKind::Answer, None, content) => {
                model::Probe::Answer { content: content.unwrap_or_else(|| model::Probe::CONTENT.to_owned()) }
            }
            (CheckKind::Http, _, Some(_)) => return Err("a health check by HTTP has no content".to_owned()),
            (CheckKind::Answer, Some(_), _) => return Err("a health check by message has no path".to_owned()),
        };
        Ok(model::HealthCheck { probe, interval_ms, timeout_ms, failures })
    }
}

impl From<model::HealthCheck> for HealthCheck {
    fn from(check: model::HealthCheck) -> Self {
        let model::HealthCheck { probe, interval_ms, timeout_ms, failures } = check;
        let (check, path, content) = match probe {
            model::Probe::Http { path } => (CheckKind::Http, path, None),
            model::Probe::Answer { content } => (CheckKind::Answer, None, Some(content)),
        };
        Self { check, path, content, interval_ms, timeout_ms, failures }
    }
}

impl From<Breaker> for model::Breaker {
    fn from(breaker: Breaker) -> Self {
        Self { failures: breaker.failures, open_ms: breaker.open_ms }
    }
}

impl From<model::Breaker> for Breaker {
    fn from(breaker: model::Breaker) -> Self {
        Self { failures: breaker.failures, open_ms: breaker.open_ms }
    }
}

impl From<Restart> for model::Restart {
    fn from(restart: Restart) -> Self {
        Self { waits_ms: restart.waits_ms, steady_ms: restart.steady_ms }
    }
}

impl From<model::Restart> for Restart {
    fn from(restart: model::Restart) -> Self {
        Self { waits_ms: restart.waits_ms, steady_ms: restart.steady_ms }
    }
}

impl From<&wire::CheckEntry> for Check {
    fn from(entry: &wire::CheckEntry) -> Self {
        Self {
            unix_ms: entry.unix_ms,
            took_ms: entry.took_ms,
            result: entry.found.as_str().to_owned(),
            why: entry.found.why(),
        }
    }
}
