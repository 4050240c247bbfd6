//! Who is started when: phases, dependencies, and how many at once.
//!
//! An agent that may not start yet is *held*, and its record says what for. [`Supervision::tend`] looks at all of them again
//! and starts those that may; it is to be called whenever something has changed here or elsewhere.
//!
//! Agents that are here when the node starts are launched in phases: one of a phase is started once each agent of lower phases
//! has run, or is optional and has failed or waits itself. An agent that is started for the first time, or by its ladder from
//! the fourth attempt on, waits for those it depends on: here they must run and not be failing their checks, elsewhere one must
//! run. The ladder's waiting has an end, a first start's has not.

use std::collections::BTreeSet;

use super::{AgentEffect, Supervision};
use crate::core::ids::AgentName;
use crate::core::limits;
use crate::core::model::{AgentState, Dependencies};

/// Why an agent is not started yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// Its node has started, and its turn has not come.
    Launch,
    /// What it depends on does not run.
    Deployed,
    /// The same, and its ladder has come to an attempt that waits for that.
    Ladder,
}

/// From this attempt on the ladder waits for dependencies, and from the second one on it starts those anew that have ended.
const ATTEMPTS_IN_COMPANY: [usize; 2] = [4, 6];

/// What an agent waits for that may start but for the number of those that do at once.
fn turn_text() -> Option<String> {
    Some(format!("it waits for its turn: {} start at once", limits::LAUNCHES_AT_ONCE_MAX))
}

impl Supervision {
    /// Whether somebody waits to be started.
    pub(crate) fn is_holding(&self) -> bool {
        self.agents.values().any(|agent| agent.held.is_some())
    }

    /// What the agents here depend on.
    pub(crate) fn dependencies(&self) -> Dependencies {
        let of =
            |(name, agent): (&AgentName, &super::Agent)| (name.clone(), agent.spec.launch.depends_on.clone());
        self.agents.iter().map(of).collect()
    }

    /// What agents that are not started depend on and that is not here.
    pub(crate) fn wanted_elsewhere(&self) -> BTreeSet<AgentName> {
        let waits = |agent: &&super::Agent| {
            agent.held.is_some() || matches!(agent.state, AgentState::Restarting { .. })
        };
        let wanted = self.agents.values().filter(waits).flat_map(|agent| &agent.spec.launch.depends_on);
        wanted.filter(|name| !self.agents.contains_key(*name)).cloned().collect()
    }

    /// Starts those that wait and may start now. `elsewhere` tells whether an agent runs on another node.
    pub(crate) fn tend(&mut self, elsewhere: &dyn Fn(&AgentName) -> bool) -> Vec<AgentEffect> {
        let is_starting = |agent: &&super::Agent| agent.held.is_none() && agent.state == AgentState::Starting;
        let mut starting = self.agents.values().filter(is_starting).count();
        let held = self.agents.iter().filter(|(_, agent)| agent.held.is_some());
        let mut held: Vec<_> = held.map(|(name, agent)| (agent.spec.launch.phase, name.clone())).collect();
        held.sort_unstable();
        let unsettled = self.first_unsettled_phase();
        let mut effects: Vec<_> = self.note_held_up(unsettled).into_iter().collect();
        for (phase, name) in held {
            let why = match self.agents.get(&name).and_then(|agent| agent.held) {
                Some(Held::Launch) if unsettled.is_some_and(|unsettled| unsettled < phase) => {
                    unsettled.map(|unsettled| self.phase_text(unsettled))
                }
                Some(Held::Launch | Held::Deployed | Held::Ladder) => self.missing(&name, elsewhere),
                None => continue,
            };
            let Some(agent) = self.agents.get_mut(&name) else { continue };
            let is_in_turn = agent.held != Some(Held::Launch) || starting < limits::LAUNCHES_AT_ONCE_MAX;
            if why.is_none() && is_in_turn {
                starting += 1;
                let is_again = agent.held == Some(Held::Ladder);
                effects.extend(if is_again {
                    self.become_starting_again(&name)
                } else {
                    self.become_starting(&name)
                });
            } else if agent.waits != why.clone().or_else(turn_text) {
                agent.waits = why.or_else(turn_text);
                effects.push(agent.publish());
            }
        }
        effects
    }

    /// The lowest phase of which not every agent has run that has to.
    fn first_unsettled_phase(&self) -> Option<i32> {
        let unsettled = self.agents.values().filter(|agent| agent.is_launched && !self.is_settled(agent));
        unsettled.map(|agent| agent.spec.launch.phase).min()
    }

    fn is_settled(&self, agent: &super::Agent) -> bool {
        let is_waiting = agent.held.is_some() && !agent.spec.launch.depends_on.is_empty();
        agent.has_run_here || (agent.spec.launch.optional && (agent.has_failed_here || is_waiting))
    }

    /// Why agents of later phases wait. It names whom only a person can help, and does not change with each attempt.
    fn phase_text(&self, phase: i32) -> String {
        match self.holder_of(phase) {
            Some(name) => {
                format!("it waits for phase {phase}, which is held up: {name} has failed and is not optional")
            }
            None => format!("it waits for the agents of phase {phase}"),
        }
    }

    /// Who has failed and holds up a phase.
    fn holder_of(&self, phase: i32) -> Option<&AgentName> {
        let mut of_phase = self.agents.iter().filter(|(_, agent)| {
            agent.is_launched && agent.spec.launch.phase == phase && !self.is_settled(agent)
        });
        of_phase.find(|(_, agent)| agent.has_failed_here).map(|(name, _)| name)
    }

    /// Takes down who holds up those that are to be launched, if somebody does. It is told when it is news.
    fn note_held_up(&mut self, unsettled: Option<i32>) -> Option<AgentEffect> {
        let is_waiting = |agent: &super::Agent| {
            agent.held == Some(Held::Launch) && unsettled.is_some_and(|phase| agent.spec.launch.phase > phase)
        };
        let phase = unsettled.filter(|_| self.agents.values().any(is_waiting));
        let held_up = phase.and_then(|phase| Some((phase, self.holder_of(phase)?.clone())));
        if held_up == self.held_up {
            return None;
        }
        self.held_up.clone_from(&held_up);
        held_up.map(|(phase, agent)| AgentEffect::LaunchHeld { agent, phase })
    }

    /// What an agent depends on and does not run.
    pub(super) fn missing(&self, name: &AgentName, elsewhere: &dyn Fn(&AgentName) -> bool) -> Option<String> {
        let of = &self.agents.get(name)?.spec.launch.depends_on;
        let is_there = |other: &&AgentName| match self.agents.get(*other) {
            Some(here) => here.state == AgentState::Running && !here.is_failing(),
            None => elsewhere(other),
        };
        let missing: Vec<_> = of.iter().filter(|other| !is_there(other)).map(AgentName::as_str).collect();
        if missing.is_empty() {
            return None;
        }
        let is_here = |other: &&AgentName| self.agents.contains_key(*other);
        let place = if of.iter().filter(|other| !is_there(other)).all(|other| is_here(&other)) {
            "here"
        } else {
            "anywhere in the mesh"
        };
        Some(format!("it depends on {}, which does not run {place}", missing.join(", ")))
    }

    /// Whether the ladder's present attempt has to wait for what the agent depends on; before later attempts those that wait
    /// for a start of their own are started at once. Those in quarantine stay there: only an operator releases one.
    pub(super) fn prepare_attempt(
        &mut self,
        name: &AgentName,
        elsewhere: &dyn Fn(&AgentName) -> bool,
    ) -> (bool, Vec<AgentEffect>) {
        let Some(agent) = self.agents.get(name) else {
            return (false, vec![]);
        };
        let [waits, starts] = ATTEMPTS_IN_COMPANY;
        if agent.attempts < waits || self.missing(name, elsewhere).is_none() {
            return (false, vec![]);
        }
        let mut effects = Vec::new();
        if agent.attempts >= starts {
            let is_waiting = |other: &AgentName| {
                self.agents.get(other).is_some_and(|other| {
                    matches!(other.state, AgentState::Restarting { .. })
                        && other.ending.is_none()
                        && other.held.is_none()
                })
            };
            let due: BTreeSet<_> =
                agent.spec.launch.depends_on.iter().filter(|other| is_waiting(other)).cloned().collect();
            for other in due {
                effects.extend(self.become_starting_again(&other));
            }
        }
        (true, effects)
    }
}
