//! What a simulated machine answers when it is asked about itself. It has no certificates and no disk worth
//! telling of, and keeps no history: what was found out is in the report.

use super::world::World;
use crate::core::contract::{Input, NodeAnswer, NodeQuery, RuntimeAnswer, RuntimeQuery};
use crate::core::ids::AgentName;
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
