//! The simulated runtime: agents that start, end and are ended, and the keepers of exclusive ones.

use std::time::Duration;

use rand::RngExt;

use super::machine::Machine;
use super::world::{Event, World};
use crate::core::contract::{AgentReport, Input};
use crate::core::error::Refusal;
use crate::core::ids::{AgentName, RequestId};
use crate::core::model::{AgentSource, AgentSpec, Checkup};
use crate::core::time::Instant;
use crate::core::wire::{RequestBody, ResponseBody, StateAnswer, StateRequest};

impl World {
    /// The runtime: native agents run; a process agent named `fails` does not start, one named `stalls@1` never begins on machine
    /// 1, one named `ends` ends after a second, the health checks of one named `hangs` all fail, one named `lingers` takes five seconds to
    /// end, every other runs.
    pub(super) fn start_agent(&mut self, machine: usize, spec: AgentSpec, run: u64) {
        let agent = spec.name.clone();
        let command = match &spec.source {
            AgentSource::Native { .. } | AgentSource::Wasm(_) => "",
            AgentSource::Process { command, .. } => command.as_str(),
        };
        let (fails, ends) = (command == "fails", command == "ends");
        let stalls = command.strip_prefix("stalls@") == Some(&machine.to_string());
        if spec.exclusive {
            self.check_alone(machine, &agent);
        }
        let checks = spec.care.health.clone().filter(|_| command == "hangs");
        if let Some(process) = &mut self.machines[machine].process {
            process.agents.insert(agent.clone(), (run, spec));
        }
        let takes = Duration::from_millis(20).mul_f64(self.rng.random());
        let ended = || AgentReport::Ended { reason: "exit status 1".to_owned() };
        let first = if fails { ended() } else { AgentReport::Running };
        if !stalls {
            self.input_after(takes, machine, Input::Agent { agent: agent.clone(), run, report: first });
        }
        if let Some(check) = checks {
            for n in 1..=check.failures {
                let found = Checkup::Timeout { after_ms: check.timeout_ms };
                let report = AgentReport::Checked { found };
                let after = takes + n * Duration::from_millis((check.interval_ms + check.timeout_ms).into());
                self.input_after(after, machine, Input::Agent { agent: agent.clone(), run, report });
            }
        }
        if ends {
            let after = takes + Duration::from_secs(1);
            self.input_after(after, machine, Input::Agent { agent, run, report: ended() });
        }
    }

    pub(super) fn stop_agent(&mut self, machine: usize, agent: &AgentName, run: u64) {
        let mut takes = Duration::from_millis(20).mul_f64(self.rng.random());
        if let Some(process) = &mut self.machines[machine].process
            && process.agents.get(agent).is_some_and(|(running, _)| *running == run)
            && let Some((_, spec)) = process.agents.remove(agent)
            && let AgentSource::Process { command, .. } = &spec.source
            && command == "lingers"
        {
            takes = Duration::from_secs(5);
        }
        let report = AgentReport::Stopped;
        self.input_after(takes, machine, Input::Agent { agent: agent.clone(), run, report });
    }

    /// An agent is gone: nothing is kept of it.
    pub(super) fn forget_agent(&mut self, machine: usize, agent: &AgentName) {
        if let Some(process) = &mut self.machines[machine].process {
            process.permits.remove(agent);
        }
    }

    /// Until when an exclusive agent may run; its keeper holds that deadline, whatever its node does.
    pub(super) fn permit_agent(&mut self, machine: usize, agent: AgentName, until: Instant) {
        let host = &mut self.machines[machine];
        let behind = host.behind;
        let Some(process) = &mut host.process else {
            return;
        };
        let run = process.run;
        process.permits.insert(agent.clone(), until);
        self.at(until + behind, Event::PermitOver { machine, run, agent });
    }

    pub(super) fn on_permit_over(&mut self, machine: usize, run: u64, agent: &AgentName) {
        let clock = self.machines[machine].clock(self.now);
        let Some(process) = self.machines[machine].process.as_mut().filter(|process| process.run == run)
        else {
            return;
        };
        if process.permits.get(agent).is_none_or(|until| clock < *until) {
            return;
        }
        process.permits.remove(agent);
        if let Some((run, _)) = process.agents.remove(agent) {
            let report = AgentReport::Ended { reason: "its permit was over".to_owned() };
            self.input_soon(machine, Input::Agent { agent: agent.clone(), run, report });
        }
    }

    /// An exclusive agent begins: it has a permit, and runs nowhere else.
    fn check_alone(&mut self, machine: usize, agent: &AgentName) {
        if let Some(why) = self.why_not_alone(machine, agent) {
            let on = &self.machines[machine].node;
            self.checkers.fail(format!("{agent} is exclusive, and begins on {on}: {why}"));
        }
        self.checkers.exclusive.insert(agent.clone());
        self.report.exclusive_starts += 1;
    }

    /// Why an exclusive agent may neither run nor have an effect on a machine, if it may not.
    fn why_not_alone(&self, machine: usize, agent: &AgentName) -> Option<String> {
        let host = &self.machines[machine];
        let until = host.process.as_ref().and_then(|process| process.permits.get(agent));
        if until.is_none_or(|until| *until <= host.clock(self.now)) {
            return Some("it has no permit".to_owned());
        }
        let runs =
            |host: &Machine| host.process.as_ref().is_some_and(|process| process.agents.contains_key(agent));
        let others = self.machines.iter().enumerate().filter(|(other, host)| *other != machine && runs(host));
        let others: Vec<_> = others.map(|(_, host)| host.node.to_string()).collect();
        (!others.is_empty()).then(|| format!("it runs on {others:?}"))
    }

    /// A node is about to be asked for something: whether an exclusive agent asks, and must be refused.
    pub(super) fn note_effect(&mut self, machine: usize, input: &Input) {
        if let Input::Request { request, body: RequestBody::State(StateRequest::PutBy { agent, .. }), .. } =
            input
            && self.checkers.exclusive.contains(agent)
            && let Some(why) = self.why_not_alone(machine, agent)
        {
            self.checkers.barred.insert((machine, *request), format!("{agent} writes, and {why}"));
        }
    }

    /// What an exclusive agent must not do is refused.
    pub(super) fn check_effect(
        &mut self,
        machine: usize,
        request: RequestId,
        result: &Result<ResponseBody, Refusal>,
    ) {
        let barred = self.checkers.barred.remove(&(machine, request));
        match (barred, result) {
            (Some(why), Ok(ResponseBody::State(StateAnswer::Written { .. }))) => self.fail_at(machine, &why),
            (None, Ok(ResponseBody::State(StateAnswer::Written { .. }))) => self.report.effects += 1,
            _ => {}
        }
    }
}
