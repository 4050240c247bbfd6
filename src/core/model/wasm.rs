//! What a WASM agent is made of: its module by name, what it may reach, and what it may use up.

use serde::{Deserialize, Serialize};

use super::Target;
use crate::core::ids::{ModuleId, NodeId};
use crate::core::limits;

/// How long an instance of a WASM agent lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceLife {
    /// One instance handles all messages, one after another, and keeps its memory between them.
    #[default]
    LongLived,
    /// Each message has a fresh instance of its own.
    PerMessage,
}

/// What a WASM agent may reach. Nothing granted means that nothing is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// What the keys of the state begin with that it may read and write.
    pub state: Vec<String>,
    /// Whom it may send to: `agent` on any node, `agent@node`, `cap:NAME`, `topic:NAME` or `all:NAME`.
    pub addresses: Vec<Target>,
}

impl Grants {
    /// Whether it may read and write this key.
    #[must_use]
    pub fn permits_key(&self, key: &str) -> bool {
        self.state.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    /// Whether it may send to this target. Who may send to an agent wherever it runs may name the node, or send to all
    /// of its name, not the other way round.
    #[must_use]
    pub fn permits_target(&self, to: &Target) -> bool {
        let is_it = |granted: &Target| match (granted, to) {
            (Target::Agent(granted), Target::Agent(to)) => {
                granted.agent == to.agent && (granted.node.is_none() || granted.node == to.node)
            }
            (Target::Agent(granted), Target::All(agent)) => granted.agent == *agent && granted.node.is_none(),
            (granted, to) => granted == to,
        };
        self.addresses.iter().any(is_it)
    }

    fn check(&self) -> Result<(), String> {
        if self.state.len() > limits::GRANTS_MAX || self.addresses.len() > limits::GRANTS_MAX {
            return Err(format!("an agent has at most {} grants of a kind", limits::GRANTS_MAX));
        }
        for prefix in &self.state {
            let is_text = !prefix.chars().any(char::is_control);
            if prefix.is_empty() || prefix.len() > limits::STATE_KEY_BYTES_MAX || !is_text {
                return Err(format!(
                    "the grant {prefix:?} is not usable: give what keys begin with, 1 to {} bytes of text",
                    limits::STATE_KEY_BYTES_MAX
                ));
            }
        }
        Ok(())
    }
}

/// What a WASM agent is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WasmSource {
    /// Its component.
    pub module: ModuleId,
    /// A node that had the module when the agent was deployed: it is asked first by one that lacks it.
    pub origin: Option<NodeId>,
    /// How long an instance lives.
    pub instance: InstanceLife,
    /// What it may reach.
    pub grants: Grants,
    /// Bytes of linear memory that an instance may have.
    pub memory_bytes: u64,
    /// Units of fuel that it may use for one message: about one for each instruction.
    pub fuel: u64,
}

impl WasmSource {
    /// A long-lived agent of that module without any grant, and with the usual limits.
    #[must_use]
    pub fn new(module: ModuleId) -> Self {
        Self {
            module,
            origin: None,
            instance: InstanceLife::default(),
            grants: Grants::default(),
            memory_bytes: limits::WASM_MEMORY_BYTES_DEFAULT,
            fuel: limits::WASM_FUEL_DEFAULT,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.grants.check()?;
        let within = |what: &str, value: u64, max: u64| {
            if (1..=max).contains(&value) {
                return Ok(());
            }
            Err(format!("the agent's {what} is {value}: it must be from 1 to {max}"))
        };
        within("memory in bytes", self.memory_bytes, limits::WASM_MEMORY_BYTES_MAX)?;
        within("fuel", self.fuel, limits::WASM_FUEL_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        Target::parse(text).expect("valid")
    }

    #[test]
    fn nothing_granted_means_nothing_allowed_and_a_grant_allows_what_it_says() {
        let none = Grants::default();
        assert!(!none.permits_key("notes/a") && !none.permits_target(&target("upper")));
        let some = Grants {
            state: vec!["notes/".to_owned()],
            addresses: ["upper", "lower@node-2", "cap:resize", "topic:orders"].map(target).into(),
        };
        assert!(some.permits_key("notes/a"));
        assert!(!some.permits_key("notes") && !some.permits_key("other/notes/a"));
        for (to, is_allowed) in [
            ("upper", true),
            ("upper@node-9", true),
            ("lower@node-2", true),
            ("lower@node-3", false),
            ("lower", false),
            ("up", false),
            ("all:upper", true),
            ("all:lower", false),
            ("cap:resize", true),
            ("cap:orders", false),
            ("topic:orders", true),
            ("topic:resize", false),
        ] {
            assert_eq!(some.permits_target(&target(to)), is_allowed, "{to}");
        }
    }

    #[test]
    fn grants_and_limits_outside_their_bounds_are_refused_with_the_bound() {
        let good = WasmSource::new(ModuleId::of(b"module"));
        good.check().expect("the defaults are within their bounds");
        let empty = Grants { state: vec![String::new()], ..Grants::default() };
        let many = Grants { addresses: vec![target("a"); limits::GRANTS_MAX + 1], ..Grants::default() };
        for bad in [
            WasmSource { grants: empty, ..good.clone() },
            WasmSource { grants: many, ..good.clone() },
            WasmSource { memory_bytes: limits::WASM_MEMORY_BYTES_MAX + 1, ..good.clone() },
            WasmSource { fuel: 0, ..good.clone() },
        ] {
            bad.check().expect_err("it is outside its bounds");
        }
    }
}
