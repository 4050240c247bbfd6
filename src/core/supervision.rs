//! The agents of this node: what should run here, what does, and when one that ended is started again.
//!
//! `Starting -> Running -> (Draining -> gone)`; one that ends without having been asked to is
//! `Restarting` after 1, 5 and 15 seconds and then `Failed`; ten minutes without an end begin the count
//! anew. An agent that never ran is not tried again: whoever deployed it is told why.
//!
//! Each start is a run with a number of its own; reports of an earlier run are outdated.

use std::collections::BTreeMap;
use std::time::Duration;

use super::contract::AgentReport;
use super::ids::AgentName;
use super::limits;
use super::model::{AgentRecord, AgentSpec, AgentState};
use super::time::Instant;

/// Waits before an agent that ended is started again.
pub(crate) const RESTART_AFTER: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];
/// An agent that ran for this long begins again with the first wait.
pub(crate) const HEALTHY_AFTER: Duration = Duration::from_secs(600);

/// What this room wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AgentEffect {
    Start {
        spec: AgentSpec,
        run: u64,
    },
    Stop {
        agent: AgentName,
        run: u64,
    },
    /// Call [`Supervision::handle_restart`] then.
    RestartAfter {
        agent: AgentName,
        run: u64,
        after: Duration,
    },
    /// The record that the mesh should see, `None` when the agent is gone.
    Publish {
        agent: AgentName,
        record: Option<AgentRecord>,
    },
    /// The agent's first start has ended well or badly.
    FirstStart {
        agent: AgentName,
        outcome: Result<(), String>,
    },
    /// The agent is gone because it was asked to go.
    Gone {
        agent: AgentName,
    },
}

#[derive(Debug)]
struct Agent {
    spec: AgentSpec,
    run: u64,
    state: AgentState,
    restarts: u32,
    /// Ends since it was last healthy.
    attempts: usize,
    running_since: Option<Instant>,
    has_run: bool,
}

/// The agents of this node.
#[derive(Debug, Default)]
pub(crate) struct Supervision {
    agents: BTreeMap<AgentName, Agent>,
    runs: u64,
}

impl Supervision {
    pub(crate) fn spec(&self, agent: &AgentName) -> Option<&AgentSpec> {
        self.agents.get(agent).map(|a| &a.spec)
    }

    pub(crate) fn len(&self) -> usize {
        self.agents.len()
    }

    /// Begins to run an agent; it must not be here yet.
    pub(crate) fn add(&mut self, spec: AgentSpec) -> Vec<AgentEffect> {
        assert!(!self.agents.contains_key(&spec.name), "an agent is added once");
        assert!(
            self.agents.len() < limits::AGENTS_PER_NODE_MAX,
            "the bound is checked before the spec is stored"
        );
        let name = spec.name.clone();
        let agent = Agent {
            spec,
            run: 0,
            state: AgentState::Starting,
            restarts: 0,
            attempts: 0,
            running_since: None,
            has_run: false,
        };
        self.agents.insert(name.clone(), agent);
        self.become_starting(&name)
    }

    /// Asks an agent to end. Nothing happens when it is unknown or ending already.
    pub(crate) fn stop(&mut self, name: &AgentName) -> Vec<AgentEffect> {
        let Some(agent) = self.agents.get_mut(name) else {
            return vec![];
        };
        match agent.state {
            AgentState::Draining => vec![],
            AgentState::Starting | AgentState::Running => {
                agent.state = AgentState::Draining;
                let stop = AgentEffect::Stop { agent: name.clone(), run: agent.run };
                vec![agent.publish(), stop]
            }
            AgentState::Restarting { .. } | AgentState::Failed { .. } => self.become_gone(name),
        }
    }

    /// Asks all agents to end.
    pub(crate) fn stop_all(&mut self) -> Vec<AgentEffect> {
        let names: Vec<_> = self.agents.keys().cloned().collect();
        names.iter().flat_map(|name| self.stop(name)).collect()
    }

    /// Takes in what the runtime reports of one run.
    pub(crate) fn handle_report(
        &mut self,
        name: &AgentName,
        run: u64,
        report: AgentReport,
        now: Instant,
    ) -> Vec<AgentEffect> {
        let Some(agent) = self.agents.get_mut(name).filter(|a| a.run == run) else {
            return vec![];
        };
        match (report, &agent.state) {
            (AgentReport::Running, AgentState::Starting) => agent.on_running(now),
            (AgentReport::Running, _) => vec![],
            (AgentReport::Stopped, _) | (AgentReport::Ended { .. }, AgentState::Draining) => {
                self.become_gone(name)
            }
            (AgentReport::Ended { reason }, _) => agent.on_ended(reason, now),
        }
    }

    /// Starts an agent again, if it still waits for that.
    pub(crate) fn handle_restart(&mut self, name: &AgentName, run: u64) -> Vec<AgentEffect> {
        let waits = |a: &&mut Agent| a.run == run && matches!(a.state, AgentState::Restarting { .. });
        let Some(agent) = self.agents.get_mut(name).filter(waits) else {
            return vec![];
        };
        agent.restarts += 1;
        self.become_starting(name)
    }

    fn become_starting(&mut self, name: &AgentName) -> Vec<AgentEffect> {
        self.runs += 1;
        let run = self.runs;
        let agent = self.agents.get_mut(name).expect("the caller holds its name");
        agent.run = run;
        agent.state = AgentState::Starting;
        vec![agent.publish(), AgentEffect::Start { spec: agent.spec.clone(), run }]
    }

    fn become_gone(&mut self, name: &AgentName) -> Vec<AgentEffect> {
        self.agents.remove(name);
        let agent = name.clone();
        vec![AgentEffect::Publish { agent: agent.clone(), record: None }, AgentEffect::Gone { agent }]
    }
}

impl Agent {
    fn publish(&self) -> AgentEffect {
        let kind = self.spec.source.kind().to_owned();
        let (state, offer) = (self.state.clone(), self.spec.offer.clone());
        let record = AgentRecord { kind, state, restarts: self.restarts, offer };
        AgentEffect::Publish { agent: self.spec.name.clone(), record: Some(record) }
    }

    fn on_running(&mut self, now: Instant) -> Vec<AgentEffect> {
        self.state = AgentState::Running;
        self.running_since = Some(now);
        let first = !std::mem::replace(&mut self.has_run, true);
        let told = AgentEffect::FirstStart { agent: self.spec.name.clone(), outcome: Ok(()) };
        std::iter::once(self.publish()).chain(first.then_some(told)).collect()
    }

    fn on_ended(&mut self, reason: String, now: Instant) -> Vec<AgentEffect> {
        let name = self.spec.name.clone();
        let ran_for = self.running_since.take().map(|since| now.since(since));
        if ran_for.is_some_and(|span| span >= HEALTHY_AFTER) {
            self.attempts = 0;
        }
        if !self.has_run {
            self.state = AgentState::Failed { reason: reason.clone() };
            let told = AgentEffect::FirstStart { agent: name, outcome: Err(reason) };
            return vec![self.publish(), told];
        }
        let Some(after) = RESTART_AFTER.get(self.attempts).copied() else {
            self.state = AgentState::Failed { reason };
            return vec![self.publish()];
        };
        self.attempts += 1;
        self.state = AgentState::Restarting { reason };
        vec![self.publish(), AgentEffect::RestartAfter { agent: name, run: self.run, after }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::AgentSource;

    fn spec() -> AgentSpec {
        let name = AgentName::new("a").expect("valid");
        AgentSpec::new(name, AgentSource::Native { builtin: "echo".to_owned() })
    }

    fn run_of(effects: &[AgentEffect]) -> u64 {
        let run = effects
            .iter()
            .find_map(|e| if let AgentEffect::Start { run, .. } = e { Some(*run) } else { None });
        run.expect("it starts")
    }

    fn ended() -> AgentReport {
        AgentReport::Ended { reason: "exit status 1".to_owned() }
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn an_agent_that_keeps_ending_is_started_three_times_more_and_then_failed() {
        let mut here = Supervision::default();
        let name = spec().name;
        let mut run = run_of(&here.add(spec()));
        for wait in RESTART_AFTER {
            here.handle_report(&name, run, AgentReport::Running, at(0));
            let effects = here.handle_report(&name, run, ended(), at(1));
            assert!(effects.contains(&AgentEffect::RestartAfter { agent: name.clone(), run, after: wait }));
            run = run_of(&here.handle_restart(&name, run));
        }
        here.handle_report(&name, run, AgentReport::Running, at(0));
        here.handle_report(&name, run, ended(), at(1));
        assert_eq!(here.agents[&name].state.as_str(), "failed");
        assert_eq!(here.agents[&name].restarts, 3);
    }

    #[test]
    fn ten_healthy_minutes_begin_the_count_anew() {
        let mut here = Supervision::default();
        let name = spec().name;
        let mut run = run_of(&here.add(spec()));
        for _ in 0..10 {
            here.handle_report(&name, run, AgentReport::Running, at(0));
            let effects = here.handle_report(&name, run, ended(), at(600));
            let after = RESTART_AFTER[0];
            assert!(effects.contains(&AgentEffect::RestartAfter { agent: name.clone(), run, after }));
            run = run_of(&here.handle_restart(&name, run));
        }
    }

    #[test]
    fn reports_and_timers_of_an_earlier_run_are_outdated() {
        let mut here = Supervision::default();
        let name = spec().name;
        let first = run_of(&here.add(spec()));
        here.handle_report(&name, first, AgentReport::Running, at(0));
        here.handle_report(&name, first, ended(), at(1));
        let second = run_of(&here.handle_restart(&name, first));
        assert_eq!(here.handle_report(&name, first, ended(), at(2)), vec![]);
        assert_eq!(here.handle_restart(&name, first), vec![]);
        here.handle_report(&name, second, AgentReport::Running, at(3));
        assert_eq!(here.agents[&name].state, AgentState::Running);
    }

    #[test]
    fn an_agent_that_never_ran_is_not_tried_again() {
        let mut here = Supervision::default();
        let name = spec().name;
        let run = run_of(&here.add(spec()));
        let effects = here.handle_report(&name, run, ended(), at(0));
        let outcome = Err("exit status 1".to_owned());
        assert!(effects.contains(&AgentEffect::FirstStart { agent: name.clone(), outcome }));
        assert!(!effects.iter().any(|e| matches!(e, AgentEffect::RestartAfter { .. })));
    }

    #[test]
    fn a_stopped_agent_drains_and_goes_and_one_that_waits_goes_at_once() {
        let mut here = Supervision::default();
        let name = spec().name;
        let run = run_of(&here.add(spec()));
        here.handle_report(&name, run, AgentReport::Running, at(0));
        assert!(here.stop(&name).contains(&AgentEffect::Stop { agent: name.clone(), run }));
        assert_eq!(here.stop(&name), vec![]);
        let effects = here.handle_report(&name, run, AgentReport::Stopped, at(1));
        assert!(effects.contains(&AgentEffect::Gone { agent: name.clone() }));

        let run = run_of(&here.add(spec()));
        here.handle_report(&name, run, AgentReport::Running, at(0));
        here.handle_report(&name, run, ended(), at(1));
        assert!(here.stop(&name).contains(&AgentEffect::Gone { agent: name.clone() }));
        assert_eq!(here.handle_restart(&name, run), vec![], "its timer is outdated");
    }
}
