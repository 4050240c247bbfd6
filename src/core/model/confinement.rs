//! What a process agent may use: bounds that the system keeps, set by the agent's keeper.

use serde::{Deserialize, Serialize};

use crate::core::limits;

/// Bounds of each process of an agent; what it starts inherits them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Confinement {
    /// Open files; `None`: [`limits::AGENT_FILES_MAX`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Bytes of address space, which is more than what is resident; `None`: as much as the node itself may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processes and threads of the node's user, all agents and the node included: with so many, the agent starts no
    /// more. `None`: as many as the node itself may start. The system does not keep this bound for root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
}

impl Confinement {
    /// Whether it is as for every agent of which nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// A sentence for the person who deploys the agent.
    pub fn check(&self) -> Result<(), String> {
        let Self { files, memory_bytes, processes } = *self;
        for (name, given, min, max) in [
            ("files", files, limits::CONFINED_FILES_MIN, limits::CONFINED_FILES_MAX),
            (
                "memory_bytes",
                memory_bytes,
                limits::CONFINED_MEMORY_BYTES_MIN,
                limits::CONFINED_MEMORY_BYTES_MAX,
            ),
            ("processes", processes, 1, limits::CONFINED_PROCESSES_MAX),
        ] {
            if given.is_some_and(|given| !(min..=max).contains(&given)) {
                return Err(format!("limits: {name} must be {min} to {max}"));
            }
        }
        Ok(())
    }
}
