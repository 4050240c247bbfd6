//! The agents of this node: what should run here, what does, and when one that is not well is started again.
//!
//! ```text
//! Starting -> Running -> Draining -> gone
//!    ^  \        |
//!    |   \       |  it ended, or its health checks failed too often in a row
//!    |    \      v
//!    +--- Restarting -> Failed: in quarantine, once all attempts were made
//! ```
//!
//! The *ladder* of attempts is that of the agent's [`Restart`](crate::core::model::Restart), or of the node's [`Recovery`]
//! where that has a rule for it: each waits longer than the one before, the first three end an agent that is unhealthy at once, later ones let it finish what it has, and after the
//! last one it is in quarantine until an operator starts it. Attempts are counted anew once it has run for long enough.
//! The count is one of this process: a node that starts anew tries all its agents anew.
//!
//! An agent that is deployed and never ran is not tried again: whoever deployed it is told why. One that was here when the
//! node started has run before, and goes up the ladder.
//!
//! Each start is a run with a number of its own; reports of an earlier run are outdated.

mod agent;
mod launch;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use self::agent::{Agent, Ending};
use self::launch::Held;
use super::contract::AgentReport;
use super::ids::AgentName;
use super::limits;
use super::model::{AgentRecord, AgentSpec, AgentState, Care, Recovery};
use super::time::Instant;

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
        /// Whether it may finish what it has.
        drains: bool,
    },
    /// Call [`Supervision::handle_restart`] then.
    RestartAfter {
        agent: AgentName,
        run: u64,
        after: Duration,
    },
    /// Call [`Supervision::handle_breaker`] then.
    BreakerAfter {
        agent: AgentName,
        opening: u64,
        after: Duration,
    },
    /// The record that the mesh should see, `None` when the agent is gone.
    Publish {
        agent: AgentName,
        record: Option<AgentRecord>,
    },
    /// Agents wait for a phase in which this one has failed, which is not optional. Told once for each.
    LaunchHeld {
        agent: AgentName,
        phase: i32,
    },
    /// How the start has ended that somebody waits for: the first one of an agent, or one that was asked for.
    Started {
        agent: AgentName,
        outcome: Result<(), String>,
    },
    /// The agent is gone because it was asked to go.
    Gone {
        agent: AgentName,
    },
}

/// The agents of this node.
#[derive(Debug, Default)]
pub(crate) struct Supervision {
    recovery: Recovery,
    agents: BTreeMap<AgentName, Agent>,
    /// The phase that was told to be held up, and by whom.
    held_up: Option<(i32, AgentName)>,
    runs: u64,
    /// Breakers that have opened.
    openings: u64,
}

impl Supervision {
    pub(crate) fn new(recovery: Recovery) -> Self {
        Self { recovery, ..Self::default() }
    }

    /// How an agent is looked after here.
    pub(crate) fn care(&self, agent: &AgentName) -> Option<&Care> {
        self.agents.get(agent).map(|a| &a.care)
    }

    fn agent(&self, spec: AgentSpec, has_run: bool) -> Agent {
        let care = self.recovery.care_of(&spec);
        Agent::new(spec, care, has_run)
    }

    pub(crate) fn spec(&self, agent: &AgentName) -> Option<&AgentSpec> {
        self.agents.get(agent).map(|a| &a.spec)
    }

    pub(crate) fn state(&self, agent: &AgentName) -> Option<&AgentState> {
        self.agents.get(agent).map(|a| &a.state)
    }

    pub(crate) fn len(&self) -> usize {
        self.agents.len()
    }

    /// Begins to run an agent that has just been deployed; it must not be here yet. One that depends on others is started by
    /// [`Supervision::tend`].
    pub(crate) fn add(&mut self, spec: AgentSpec) -> Vec<AgentEffect> {
        let held = (!spec.launch.depends_on.is_empty()).then_some(Held::Deployed);
        self.begin(self.agent(spec, false), held)
    }

    /// Takes in an agent that was here before the node started; it is started by [`Supervision::tend`].
    pub(crate) fn resume(&mut self, spec: AgentSpec) -> Vec<AgentEffect> {
        self.begin(self.agent(spec, true), Some(Held::Launch))
    }

    /// Takes in an agent that the node is ordered to run: as one that was here before, but no phase waits for it.
    pub(crate) fn take_order(&mut self, spec: AgentSpec) -> Vec<AgentEffect> {
        let mut agent = self.agent(spec, true);
        agent.is_launched = false;
        self.begin(agent, Some(Held::Launch))
    }

    /// Whether an agent that was deployed waits for others. From then on nobody waits for its first start.
    pub(crate) fn leave_waiting(&mut self, name: &AgentName) -> bool {
        let agent = self.agents.get_mut(name).filter(|agent| agent.held.is_some());
        agent.map(Agent::is_left_waiting).is_some()
    }

    fn begin(&mut self, mut agent: Agent, held: Option<Held>) -> Vec<AgentEffect> {
        let name = agent.spec.name.clone();
        agent.held = held;
        assert!(!self.agents.contains_key(&name), "an agent is added once");
        assert!(
            self.agents.len() < limits::AGENTS_PER_NODE_MAX,
            "the bound is checked before the spec is stored"
        );
        if agent.held.is_some() {
            let publish = agent.publish();
            self.agents.insert(name, agent);
            return vec![publish];
        }
        self.agents.insert(name.clone(), agent);
        self.become_starting(&name)
    }

    /// Asks an agent to end. Nothing happens when it is unknown or ending for good already.
    pub(crate) fn stop(&mut self, name: &AgentName) -> Vec<AgentEffect> {
        let Some(agent) = self.agents.get_mut(name) else {
            return vec![];
        };
        let is_ending = agent.ending.take().is_some();
        if agent.held.is_some() {
            return self.become_gone(name);
        }
        match agent.state {
            AgentState::Draining => vec![],
            AgentState::Restarting { .. } | AgentState::Failed { .. } if !is_ending => self.become_gone(name),
            AgentState::Starting
            | AgentState::Running
            | AgentState::Restarting { .. }
            | AgentState::Failed { .. } => {
                agent.state = AgentState::Draining;
                let stop = AgentEffect::Stop { agent: name.clone(), run: agent.run, drains: true };
                vec![agent.publish(), stop]
            }
        }
    }

    /// Ends an agent that may not run any more, whatever it is doing and without giving it time.
    pub(crate) fn cut_short(&mut self, name: &AgentName) -> Vec<AgentEffect> {
        let Some(agent) = self.agents.get_mut(name) else {
            return vec![];
        };
        let run = agent.run;
        match agent.state {
            // It was told so already.
            AgentState::Draining if agent.is_cut_short => vec![],
            // It finishes what it has: for that there is no time any more.
            AgentState::Draining => {
                agent.is_cut_short = true;
                vec![AgentEffect::Stop { agent: name.clone(), run, drains: false }]
            }
            AgentState::Starting
            | AgentState::Running
            | AgentState::Restarting { .. }
            | AgentState::Failed { .. } => {
                agent.is_cut_short = true;
                let mut effects = self.stop(name);
                for effect in &mut effects {
                    if let AgentEffect::Stop { drains, .. } = effect {
                        *drains = false;
                    }
                }
                effects
            }
        }
    }

    /// Asks all agents to end.
    pub(crate) fn stop_all(&mut self) -> Vec<AgentEffect> {
        let names: Vec<_> = self.agents.keys().cloned().collect();
        names.iter().flat_map(|name| self.stop(name)).collect()
    }

    /// Starts an agent anew because somebody wants it, whatever it is doing; its attempts are counted anew. Answered with
    /// [`AgentEffect::Started`].
    pub(crate) fn restart(&mut self, name: &AgentName) -> Vec<AgentEffect> {
        let Some(agent) = self.agents.get_mut(name) else {
            return vec![];
        };
        agent.attempts = 0;
        agent.awaited = true;
        if agent.held.is_some() {
            return self.become_starting_again(name);
        }
        match (&agent.state, &mut agent.ending) {
            (_, Some(ending)) => {
                *ending = Ending::Again(Duration::ZERO);
                let reason = agent.state.reason().unwrap_or_default().to_owned();
                agent.state = AgentState::Restarting { reason };
                vec![agent.publish()]
            }
            (AgentState::Draining, None) => {
                agent.awaited = false;
                let outcome = Err("it is being stopped".to_owned());
                vec![AgentEffect::Started { agent: name.clone(), outcome }]
            }
            (AgentState::Starting | AgentState::Running, None) => {
                agent.state = AgentState::Restarting { reason: "somebody wants it started anew".to_owned() };
                agent.end(Ending::Again(Duration::ZERO), true)
            }
            (AgentState::Restarting { .. } | AgentState::Failed { .. }, None) => {
                self.become_starting_again(name)
            }
        }
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
            (AgentReport::Checked { found }, AgentState::Running) => agent.on_checked(&found, now),
            (AgentReport::Running | AgentReport::Checked { .. }, _) => vec![],
            (AgentReport::Breaker(turn), _) => {
                self.openings += 1;
                agent.on_breaker(turn, self.openings)
            }
            (AgentReport::Stopped | AgentReport::Ended { .. }, _) if agent.ending.is_some() => {
                self.on_ended_here(name)
            }
            // Its run is over: that was told before, in other words.
            (
                AgentReport::Stopped | AgentReport::Ended { .. },
                AgentState::Restarting { .. } | AgentState::Failed { .. },
            ) => vec![],
            (AgentReport::Stopped, _) | (AgentReport::Ended { .. }, AgentState::Draining) => {
                self.become_gone(name)
            }
            (AgentReport::Ended { reason }, _) => agent.on_ended(reason, now),
        }
    }

    /// A run that this room wanted to end has ended.
    fn on_ended_here(&mut self, name: &AgentName) -> Vec<AgentEffect> {
        let agent = self.agents.get_mut(name).expect("the caller has looked it up");
        match agent.ending.take() {
            Some(Ending::Again(Duration::ZERO)) => self.become_starting_again(name),
            Some(Ending::Again(after)) => {
                vec![AgentEffect::RestartAfter { agent: name.clone(), run: agent.run, after }]
            }
            Some(Ending::Quarantine) | None => vec![],
        }
    }

    /// Starts an agent again, if it still waits for that; later attempts wait for what it depends on first.
    pub(crate) fn handle_restart(
        &mut self,
        name: &AgentName,
        run: u64,
        elsewhere: &dyn Fn(&AgentName) -> bool,
    ) -> Vec<AgentEffect> {
        let waits = |a: &&mut Agent| {
            a.run == run && a.ending.is_none() && matches!(a.state, AgentState::Restarting { .. })
        };
        if self.agents.get_mut(name).filter(waits).is_none() {
            return vec![];
        }
        let has_waited = self.agents.get(name).is_some_and(|agent| agent.held.is_some());
        let (has_to_wait, mut effects) =
            if has_waited { (false, vec![]) } else { self.prepare_attempt(name, elsewhere) };
        if !has_to_wait {
            effects.extend(self.become_starting_again(name));
            return effects;
        }
        let waits = self.missing(name, elsewhere);
        let agent = self.agents.get_mut(name).expect("it was looked up");
        (agent.held, agent.waits) = (Some(Held::Ladder), waits);
        effects.push(agent.publish());
        let after = limits::DEPENDENCY_WAIT;
        effects.push(AgentEffect::RestartAfter { agent: name.clone(), run, after });
        effects
    }

    /// The time of an open breaker is over, if it is still open.
    pub(crate) fn handle_breaker(&mut self, name: &AgentName, opening: u64) -> Vec<AgentEffect> {
        self.agents.get_mut(name).map(|agent| agent.on_breaker_due(opening)).unwrap_or_default()
    }

    fn become_starting_again(&mut self, name: &AgentName) -> Vec<AgentEffect> {
        self.agents.get_mut(name).expect("the caller holds its name").restarts += 1;
        self.become_starting(name)
    }

    fn become_starting(&mut self, name: &AgentName) -> Vec<AgentEffect> {
        self.runs += 1;
        let agent = self.agents.get_mut(name).expect("the caller holds its name");
        agent.on_starting(self.runs)
    }

    fn become_gone(&mut self, name: &AgentName) -> Vec<AgentEffect> {
        self.agents.remove(name);
        let agent = name.clone();
        vec![AgentEffect::Publish { agent: agent.clone(), record: None }, AgentEffect::Gone { agent }]
    }
}
