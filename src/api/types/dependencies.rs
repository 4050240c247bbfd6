//! The JSON of `GET /v1/dependencies`: which agents of the mesh depend on which.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::core::ids::{AgentName, NodeId};
use crate::core::model::{AgentState, AgentView};

/// The agents of the mesh and what they say that they depend on, as the asked node has heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencyGraph {
    /// In order of names. An agent that is depended on and known nowhere is here too, without instances.
    pub agents: Vec<Dependent>,
}

/// One agent by its name, wherever it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependent {
    /// Its name.
    pub name: AgentName,
    /// Where it is.
    pub instances: Vec<DependentInstance>,
    /// What any of them depends on.
    pub depends_on: BTreeSet<AgentName>,
    /// What depends on it.
    pub dependents: BTreeSet<AgentName>,
    /// Those of `depends_on` that run nowhere.
    pub missing: BTreeSet<AgentName>,
}

/// An agent on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependentInstance {
    /// The node.
    pub node: NodeId,
    /// As in [`Agent`](super::Agent); `unreachable` where its node is.
    pub state: String,
}

impl DependencyGraph {
    /// What these agents say together.
    #[must_use]
    pub fn of(views: &[AgentView]) -> Self {
        let mut agents: BTreeMap<AgentName, Dependent> = BTreeMap::new();
        let mut running: BTreeSet<&AgentName> = BTreeSet::new();
        for view in views {
            let is_reachable = view.node_status.is_reachable();
            if is_reachable && view.record.state == AgentState::Running {
                running.insert(&view.name);
            }
            let state = if is_reachable { view.record.state.as_str() } else { "unreachable" };
            let instance = DependentInstance { node: view.node.clone(), state: state.to_owned() };
            let agent = entry(&mut agents, &view.name);
            agent.instances.push(instance);
            agent.depends_on.extend(view.record.depends_on.iter().cloned());
            for other in &view.record.depends_on {
                entry(&mut agents, other).dependents.insert(view.name.clone());
            }
        }
        let mut agents: Vec<_> = agents.into_values().collect();
        for agent in &mut agents {
            agent.missing =
                agent.depends_on.iter().filter(|other| !running.contains(other)).cloned().collect();
        }
        Self { agents }
    }

    /// The same in the language of Graphviz. Names have no characters that would have to be escaped there.
    #[must_use]
    pub fn dot(&self) -> String {
        let mut text = "digraph agents {\n  rankdir=LR;\n".to_owned();
        for agent in &self.agents {
            let runs = agent.instances.iter().any(|instance| instance.state == "running");
            let style = if runs { "" } else { " [style=dashed]" };
            text += &format!("  \"{}\"{style};\n", agent.name);
        }
        for agent in &self.agents {
            for other in &agent.depends_on {
                text += &format!("  \"{}\" -> \"{other}\";\n", agent.name);
            }
        }
        text + "}\n"
    }
}

fn entry<'a>(agents: &'a mut BTreeMap<AgentName, Dependent>, name: &AgentName) -> &'a mut Dependent {
    agents.entry(name.clone()).or_insert_with(|| Dependent {
        name: name.clone(),
        instances: Vec::new(),
        depends_on: BTreeSet::new(),
        dependents: BTreeSet::new(),
        missing: BTreeSet::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{AgentRecord, MemberStatus};

    fn view(name: &str, node: &str, node_status: MemberStatus, on: &[&str]) -> AgentView {
        let (offer, health, breaker) = Default::default();
        let depends_on = on.iter().map(|on| AgentName::new(on).expect("valid")).collect();
        let (kind, state) = ("stdio".to_owned(), AgentState::Running);
        let (restarts, waits, order) = (0, None, None);
        let record = AgentRecord { kind, state, restarts, offer, health, breaker, depends_on, waits, order };
        let (name, node) = (name.parse().expect("valid"), node.parse().expect("valid"));
        AgentView { name, node, node_status, record, on_call: true }
    }

    #[test]
    fn what_instances_say_is_joined_and_what_runs_nowhere_is_missing() {
        let graph = DependencyGraph::of(&[
            view("db", "n1", MemberStatus::Failed, &[]),
            view("web", "n1", MemberStatus::Alive, &["db"]),
            view("web", "n2", MemberStatus::Alive, &["cache", "log"]),
            view("log", "n2", MemberStatus::Alive, &[]),
        ]);
        let names =
            |set: &BTreeSet<AgentName>| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let told = graph.agents.iter().map(|agent| {
            let Dependent { name, instances, depends_on, dependents, missing } = agent;
            format!(
                "{name} {} [{}] [{}] [{}]",
                instances.len(),
                names(depends_on),
                names(dependents),
                names(missing)
            )
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                "cache 0 [] [web] []",
                "db 1 [] [web] []",
                "log 1 [] [web] []",
                "web 2 [cache,db,log] [] [cache,db]",
            ]
        );
        let dot = graph.dot();
        assert!(
            dot.contains("  \"db\" [style=dashed];\n") && dot.contains("  \"web\" -> \"log\";\n"),
            "{dot}"
        );
    }
}
