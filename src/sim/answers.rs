//! What a simulated machine answers when it is asked about itself. It has no certificates and no disk worth
//! telling of, and keeps no history: what was found out is in the report.

use super::world::World;
use crate::core::contract::{Input, NodeAnswer, NodeQuery};
use crate::core::wire::{HistoryPage, NodeFacts};

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
}
