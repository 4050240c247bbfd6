//! Agents of this node: deploying, stopping, what the runtime reports, what the mesh is told of them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Mesh, Pending, Phase, Requester, Timer};
use crate::core::contract::{AgentReport, Change, Output};
use crate::core::error::Refusal;
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::{
    AgentRecord, AgentSpec, AgentState, Dependencies, Event, Health, MemberStatus, cycle_through, path_text,
};
use crate::core::supervision::AgentEffect;
use crate::core::wire::ResponseBody;

impl Mesh {
    /// Stores a new agent; it is started once it is durable, and whoever asked is told how that went.
    pub(super) fn deploy(&mut self, spec: AgentSpec, requester: Requester) {
        if spec.exclusive {
            let why =
                "only instances of a blueprint can be exclusive: write `exclusive: true` there, and apply it";
            return self.answer(requester, Err(Refusal::BadRequest { why: why.to_owned() }));
        }
        if let Err(why) = spec.check().and_then(|()| self.check_free(&spec.name)) {
            return self.answer(requester, Err(Refusal::BadRequest { why }));
        }
        let agent = spec.name.clone();
        if self.supervision.spec(&agent).is_some() || self.deploying.contains_key(&agent) {
            let node = self.own.clone();
            return self.answer(requester, Err(Refusal::AgentExists { agent, node }));
        }
        if let Err(why) = self.check_dependencies(&spec) {
            return self.answer(requester, Err(Refusal::BadRequest { why }));
        }
        if self.supervision.len() + self.deploying.len() >= limits::AGENTS_PER_NODE_MAX {
            let what = format!("the list of agents on {}", self.own);
            return self.answer(requester, Err(Refusal::Overloaded { what }));
        }
        self.deploying.insert(agent, None);
        self.persist(vec![Change::Agent(spec.clone())], Pending::Deploy { spec: Box::new(spec), requester });
    }

    pub(super) fn on_deploy_stored(&mut self, spec: AgentSpec, requester: Requester) {
        if !matches!(self.phase, Phase::Running) {
            // It is stored and comes up with the node's next start.
            self.deploying.remove(&spec.name);
            return self.answer(requester, Err(Refusal::Joining { node: self.own.clone() }));
        }
        self.deploying.insert(spec.name.clone(), Some(requester));
        let agent = spec.name.clone();
        let effects = self.supervision.add(spec);
        self.run_agent_effects(effects);
        self.tend_agents();
        if self.supervision.leave_waiting(&agent) {
            // It may be long until it starts: its state says what for.
            self.on_started(&agent, Ok(()));
        }
    }

    /// What an agent depends on is known somewhere, does not depend on it in turn, and is not started in a later phase.
    fn check_dependencies(&self, spec: &AgentSpec) -> Result<(), String> {
        let (name, launch) = (&spec.name, &spec.launch);
        let mut all = self.all_dependencies();
        all.entry(name.clone()).or_default().extend(launch.depends_on.iter().cloned());
        if let Some(unknown) = launch.depends_on.iter().find(|other| !all.contains_key(*other)) {
            return Err(format!(
                "it depends on {unknown}, and no agent of that name is known in the mesh: deploy that first"
            ));
        }
        if let Some(path) = cycle_through(&all, name) {
            return Err(format!("agents that depend on each other never start: {}", path_text(&path)));
        }
        let phase_of = |other| self.supervision.spec(other).map(|other| other.launch.phase);
        let late = launch.depends_on.iter().find(|other| phase_of(other) > Some(launch.phase));
        if let Some(late) = late {
            let phase = launch.phase;
            return Err(format!(
                "it is of phase {phase} and depends on {late}, which is of a later phase here"
            ));
        }
        let early = all.iter().find(|(other, of)| {
            of.contains(name) && phase_of(other).is_some_and(|phase| phase < launch.phase)
        });
        match early {
            Some((other, _)) => Err(format!(
                "it is of phase {}, and {other}, which depends on it, is of an earlier phase here",
                launch.phase
            )),
            None => Ok(()),
        }
    }

    /// What all agents of the mesh depend on, as far as known; instances of a blueprint by its name.
    pub(super) fn all_dependencies(&self) -> Dependencies {
        let mut all = self.blueprint_dependencies();
        for (agent, depends_on) in self.supervision.dependencies() {
            all.entry(agent.base()).or_default().extend(depends_on);
        }
        for (_, owner) in self.registry.owners() {
            for (agent, record) in &owner.agents {
                all.entry(agent.base()).or_default().extend(record.depends_on.iter().cloned());
            }
        }
        all
    }

    /// Starts the agents that wait and may start now.
    pub(super) fn tend_agents(&mut self) {
        if !self.supervision.is_holding() || !matches!(self.phase, Phase::Running) {
            return;
        }
        let elsewhere = self.running_elsewhere();
        let effects = self.supervision.tend(&|agent| elsewhere.contains(agent));
        self.run_agent_effects(effects);
    }

    pub(super) fn on_restart_due(&mut self, agent: &AgentName, run: u64) {
        let elsewhere = self.running_elsewhere();
        let effects = self.supervision.handle_restart(agent, run, &|agent| elsewhere.contains(agent));
        self.run_agent_effects(effects);
    }

    /// What agents here wait for and other nodes run.
    fn running_elsewhere(&self) -> BTreeSet<AgentName> {
        let mut wanted = self.supervision.wanted_elsewhere();
        wanted.retain(|agent| {
            self.registry.owners().any(|(node, owner)| {
                let instances = owner.agents.range(agent.of_slot(0)..);
                let mut found = instances
                    .take_while(|(other, _)| other.base() == *agent)
                    .map(|(_, record)| record)
                    .chain(owner.agents.get(agent));
                found.any(|record| record.state == AgentState::Running)
                    && self.status_of(&node.key()).is_some_and(MemberStatus::is_reachable)
            })
        });
        wanted
    }

    /// Whether a name is not that of a blueprint or of one of its instances.
    fn check_free(&self, agent: &AgentName) -> Result<(), String> {
        if agent.slot().is_some() {
            return Err(format!("{agent} is the name of an instance of a blueprint: leave out the '#'"));
        }
        match self.is_of_blueprint(agent) {
            true => Err(format!(
                "there is a blueprint {agent}: choose another name, or change it with `shoal apply`"
            )),
            false => Ok(()),
        }
    }

    /// Forgets an agent and lets it end.
    pub(super) fn undeploy(&mut self, agent: AgentName, requester: Requester) {
        if agent.slot().is_some() {
            let base = agent.base();
            let why = format!(
                "{agent} is an instance of the blueprint {base} and would be started again: `shoal agent scale {base} N`, \
                or `shoal apply` without it"
            );
            return self.answer(requester, Err(Refusal::BadRequest { why }));
        }
        if self.supervision.spec(&agent).is_none() {
            let node = self.own.clone();
            return self.answer(requester, Err(Refusal::UnknownAgent { agent, node }));
        }
        self.persist(vec![Change::RemoveAgent(agent.clone())], Pending::Undeploy { agent, requester });
    }

    pub(super) fn on_undeploy_stored(&mut self, agent: AgentName, requester: Requester) {
        if self.supervision.spec(&agent).is_none() {
            return self.answer_done(requester);
        }
        // Several may have asked before the first of them was durable: all of them wait for the one end.
        self.undeploying.entry(agent.clone()).or_default().push(requester);
        let effects = self.supervision.stop(&agent);
        self.run_agent_effects(effects);
    }

    /// Starts an agent anew; whoever asked is told how that went.
    pub(super) fn restart_agent(&mut self, agent: &AgentName, release: bool, requester: Requester) {
        let node = self.own.clone();
        let Some(state) = self.supervision.state(agent) else {
            return self.answer(requester, Err(Refusal::UnknownAgent { agent: agent.clone(), node }));
        };
        if release && !matches!(state, AgentState::Failed { quarantined: true, .. }) {
            let reason = format!("it is not in quarantine: it is {}", state.as_str());
            return self.answer(requester, Err(Refusal::StartFailed { agent: agent.clone(), node, reason }));
        }
        let waiting = self.restarting.entry(agent.clone()).or_default();
        if waiting.len() >= limits::REQUESTS_IN_FLIGHT_MAX {
            let what = format!("the list of those who wait for {agent} on {node}");
            return self.answer(requester, Err(Refusal::Overloaded { what }));
        }
        waiting.push(requester);
        let effects = self.supervision.restart(agent);
        self.run_agent_effects(effects);
    }

    pub(super) fn on_agent_report(&mut self, agent: &AgentName, run: u64, report: AgentReport) {
        let effects = self.supervision.handle_report(agent, run, report, self.now);
        self.run_agent_effects(effects);
    }

    pub(super) fn run_agent_effects(&mut self, effects: Vec<AgentEffect>) {
        for effect in effects {
            match effect {
                AgentEffect::Start { spec, run } => self.output(Output::StartAgent { spec, run }),
                AgentEffect::Stop { agent, run, drains } => {
                    let drain = match &self.phase {
                        _ if !drains => Duration::ZERO,
                        Phase::Stopping { drain, .. } => *drain,
                        Phase::Running | Phase::Stopped => super::STOP_DRAIN,
                    };
                    let drain = self.drain_of(&agent, drain);
                    let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
                    self.output(Output::StopAgent { agent, run, drain_ms });
                }
                AgentEffect::RestartAfter { agent, run, after } => {
                    self.set_timer(after, Timer::AgentRestart(agent, run));
                }
                AgentEffect::BreakerAfter { agent, opening, after } => {
                    self.set_timer(after, Timer::AgentBreaker(agent, opening));
                }
                AgentEffect::Publish { agent, record } => self.publish_agent(&agent, record.as_ref()),
                AgentEffect::LaunchHeld { agent, phase } => {
                    self.event(Event::LaunchHeld { agent, node: self.own.clone(), phase });
                }
                AgentEffect::Started { agent, outcome } => self.on_started(&agent, outcome),
                AgentEffect::Gone { agent } => self.on_agent_gone(&agent),
            }
        }
    }

    fn publish_agent(&mut self, agent: &AgentName, record: Option<&AgentRecord>) {
        if record.is_none() && !matches!(self.phase, Phase::Running) {
            // It ends with its node and comes back with it: who asks for it hears that the node is gone.
            return;
        }
        let own = self.own.clone();
        let record = record.map(|record| AgentRecord { order: self.order_of(agent), ..record.clone() });
        let record = record.as_ref();
        let before = self.registry.owner(&own).and_then(|owner| owner.agents.get(agent)).cloned();
        self.breaker_event(&own, agent, before.as_ref(), record);
        // What only its breaker has to say was said.
        let is_breaker_alone = before.as_ref().zip(record).is_some_and(|(before, record)| {
            before.breaker != record.breaker
                && AgentRecord { breaker: record.breaker.clone(), ..before.clone() } == *record
        });
        if !is_breaker_alone {
            self.agent_event(&own, agent, record);
        }
        let delta = self.registry.publish_agent(agent, record);
        self.spread(delta);
        self.note_agent(&own, agent);
    }

    /// A start that somebody waits for has ended well or badly.
    fn on_started(&mut self, agent: &AgentName, outcome: Result<(), String>) {
        self.answer_restarts(agent, &outcome);
        let Some(Some(requester)) = self.deploying.remove(agent) else {
            return;
        };
        match outcome {
            Ok(()) => self.answer_done(requester),
            Err(reason) => {
                // Whoever deployed it is told, and nothing stays behind.
                let node = self.own.clone();
                self.persist(vec![Change::RemoveAgent(agent.clone())], Pending::Nothing);
                let effects = self.supervision.stop(agent);
                self.run_agent_effects(effects);
                let agent = agent.clone();
                self.answer(requester, Err(Refusal::StartFailed { agent, node, reason }));
            }
        }
    }

    fn answer_restarts(&mut self, agent: &AgentName, outcome: &Result<(), String>) {
        for requester in self.restarting.remove(agent).unwrap_or_default() {
            let (agent, node) = (agent.clone(), self.own.clone());
            let result = match outcome {
                Ok(()) => Ok(ResponseBody::Done),
                Err(reason) => Err(Refusal::StartFailed { agent, node, reason: reason.clone() }),
            };
            self.answer(requester, result);
        }
    }

    fn on_agent_gone(&mut self, agent: &AgentName) {
        self.on_slot_gone(agent);
        // Before the node ends, it gives back what it has.
        self.tend_permits();
        self.output(Output::ForgetAgent { agent: agent.clone() });
        self.answer_restarts(agent, &Err("it was stopped before it had started".to_owned()));
        let waiting = self.undeploying.remove(agent).unwrap_or_default();
        waiting.into_iter().for_each(|requester| self.answer_done(requester));
        if let Some(Some(requester)) = self.deploying.remove(agent) {
            let reason = "it was stopped before it had started".to_owned();
            let (agent, node) = (agent.clone(), self.own.clone());
            self.answer(requester, Err(Refusal::StartFailed { agent, node, reason }));
        }
        self.stop_if_empty();
    }

    pub(super) fn answer_done(&mut self, requester: Requester) {
        self.answer(requester, Ok(ResponseBody::Done));
    }

    /// Tells of the agents of another node that changed.
    pub(super) fn tell_agents(&mut self, node: &NodeId, changed: Vec<(AgentName, Option<AgentRecord>)>) {
        for (agent, before) in changed {
            let now = self.registry.owner(node).and_then(|owner| owner.agents.get(&agent)).cloned();
            self.breaker_event(node, &agent, before.as_ref(), now.as_ref());
            // What its health is, its own node keeps.
            if before.map(|b| b.state) != now.as_ref().map(|n| n.state.clone()) {
                self.agent_event(node, &agent, now.as_ref());
            }
            self.note_agent(node, &agent);
        }
    }

    fn breaker_event(
        &mut self,
        node: &NodeId,
        agent: &AgentName,
        before: Option<&AgentRecord>,
        now: Option<&AgentRecord>,
    ) {
        let of = |record: Option<&AgentRecord>| record.map_or("closed", |record| record.breaker.as_str());
        // With an agent that is gone its breaker is.
        let Some(record) = now.filter(|_| of(now) != of(before)) else {
            return;
        };
        let (state, reason) = (record.breaker.as_str().to_owned(), record.breaker.why().map(str::to_owned));
        self.event(Event::Breaker { agent: agent.clone(), node: node.clone(), state, reason });
    }

    fn agent_event(&mut self, node: &NodeId, agent: &AgentName, record: Option<&AgentRecord>) {
        let state = record.map_or("stopped", |r| r.state.as_str()).to_owned();
        let reason = record.and_then(reason_of);
        self.event(Event::Agent { agent: agent.clone(), node: node.clone(), state, reason });
    }
}

/// Why an agent is in its state; of one that runs, how its checks found it.
fn reason_of(record: &AgentRecord) -> Option<String> {
    match (record.reason(), &record.health) {
        (Some(reason), _) => Some(reason),
        (None, Health::Unchecked) => None,
        (None, health) => {
            let why = health.why().map(|why| format!(": {why}")).unwrap_or_default();
            Some(format!("{}{why}", health.as_str()))
        }
    }
}
