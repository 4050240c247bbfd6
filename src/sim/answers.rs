//! What a simulated machine answers when it is asked about itself. It has no certificates and no disk worth
//! telling of, and keeps no history: what was found out is in the report.

use std::collections::BTreeMap;

use super::world::World;
use crate::core::contract::{AgentReport, Input, NodeAnswer, NodeQuery, RuntimeAnswer, RuntimeQuery};
use crate::core::ids::AgentName;
use crate::core::model::{AgentSource, Tally, Turn};
use crate::core::wire::{AgentStats, HistoryPage, NodeFacts};

impl World {
    pub(super) fn ask_node(&mut self, machine: usize, question: u64, query: &NodeQuery) {
        let answer = match query {
            NodeQuery::Facts => {
                NodeAnswer::Facts(Box::new(NodeFacts { version: "0.0.0".to_owned(), ..NodeFacts::default() }))
            }
            NodeQuery::History(_) => NodeAnswer::History(HistoryPage::default()),
            NodeQuery::ModulePart { .. } => {
                let answer = Err("there are no modules in a simulation".to_owned());
                return self.input_soon(machine, Input::NodeAnswer { question, answer });
            }
        };
        self.input_soon(machine, Input::NodeAnswer { question, answer: Ok(answer) });
    }

    /// Since it was last counted, each agent was given a hundred messages. Of a process agent named `errs` half of them have
    /// failed; one named `breaks` has failed the first three, and its breaker is open.
    pub(super) fn count_messages(&mut self, machine: usize, agents: Vec<AgentName>) {
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        let (mut told, mut opened) = (BTreeMap::new(), vec![]);
        for agent in agents {
            let Some((run, spec)) = process.agents.get(&agent) else {
                continue;
            };
            let command = match &spec.source {
                AgentSource::Process { command, .. } => command.as_str(),
                AgentSource::Native { .. } | AgentSource::Wasm(_) => "",
            };
            let is_first = process.tallies.get(&agent).is_none_or(|(counted, _)| counted != run);
            let (worked, failed) = match command {
                "errs" => (50, 50),
                "breaks" if is_first => (0, 3),
                "breaks" => (0, 0),
                _ => (100, 0),
            };
            if command == "breaks" && is_first {
                let report = AgentReport::Breaker(Turn::Opened { why: "no answer".to_owned() });
                opened.push(Input::Agent { agent: agent.clone(), run: *run, report });
            }
            let counted = process.tallies.entry(agent.clone()).or_insert((*run, Tally::default()));
            let before = if counted.0 == *run { counted.1 } else { Tally::default() };
            *counted = (*run, before.and(Tally { worked, failed }));
            told.insert(agent, counted.1);
        }
        self.input_soon(machine, Input::Counted { tallies: told });
        opened.into_iter().for_each(|input| self.input_soon(machine, input));
    }

    pub(super) fn ask_runtime(
        &mut self,
        machine: usize,
        question: u64,
        agent: &AgentName,
        query: &RuntimeQuery,
    ) {
        let answer = match query {
            RuntimeQuery::Stats => RuntimeAnswer::Stats(AgentStats { pid: Some(1), ..AgentStats::default() }),
            RuntimeQuery::Logs { lines } => {
                let line = |n| format!("{agent}: line {n}");
                RuntimeAnswer::Lines((0..(*lines).min(3)).map(line).collect())
            }
        };
        self.input_soon(machine, Input::RuntimeAnswer { question, answer });
    }
}
