//! The JSON of WASM agents and of `/v1/modules`.

use serde::{Deserialize, Serialize};

use crate::core::ids::ModuleId;
use crate::core::limits;
use crate::core::model::{self, Target};
use crate::node::runtime::KeptModule;

/// A WASM agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WasmSource {
    /// SHA-256 of its module, which some node of the mesh keeps: `POST /v1/modules`.
    pub module: ModuleId,
    /// How long an instance lives.
    #[serde(default)]
    pub instance: InstanceLife,
    /// What it may reach; nothing when absent.
    #[serde(default)]
    pub grants: Grants,
    /// Bytes of linear memory that an instance may have.
    #[serde(default = "memory_bytes")]
    pub memory_bytes: u64,
    /// Units of fuel that it may use for one message: about one for each instruction.
    #[serde(default = "fuel")]
    pub fuel: u64,
}

fn memory_bytes() -> u64 {
    limits::WASM_MEMORY_BYTES_DEFAULT
}

fn fuel() -> u64 {
    limits::WASM_FUEL_DEFAULT
}

/// How long an instance of a WASM agent lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceLife {
    /// One instance handles all messages, one after another, and keeps its memory between them.
    #[default]
    LongLived,
    /// Each message has a fresh instance of its own.
    PerMessage,
}

/// What a WASM agent may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grants {
    /// What the keys of the state begin with that it may read and write.
    #[serde(default)]
    pub state: Vec<String>,
    /// Whom it may send to: `agent` on any node, `agent@node`, `cap:NAME`, `topic:NAME` or `all:NAME`.
    #[serde(default)]
    pub addresses: Vec<Target>,
}

/// A module on the asked node: an element of `GET /v1/modules`, and the answer to `POST /v1/modules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its SHA-256.
    pub module: ModuleId,
    /// Its size.
    pub bytes: u64,
    /// Whether an agent of the node uses it. One that none uses is removed after an hour.
    pub in_use: bool,
}

impl From<(KeptModule, bool)> for Module {
    fn from((KeptModule { module, bytes }, in_use): (KeptModule, bool)) -> Self {
        Self { module, bytes, in_use }
    }
}

impl From<WasmSource> for model::WasmSource {
    fn from(source: WasmSource) -> Self {
        let WasmSource { module, instance, grants, memory_bytes, fuel } = source;
        let instance = match instance {
            InstanceLife::LongLived => model::InstanceLife::LongLived,
            InstanceLife::PerMessage => model::InstanceLife::PerMessage,
        };
        let grants = model::Grants { state: grants.state, addresses: grants.addresses };
        Self { module, origin: None, instance, grants, memory_bytes, fuel }
    }
}

impl From<model::InstanceLife> for InstanceLife {
    fn from(life: model::InstanceLife) -> Self {
        match life {
            model::InstanceLife::LongLived => Self::LongLived,
            model::InstanceLife::PerMessage => Self::PerMessage,
        }
    }
}

impl From<model::WasmSource> for WasmSource {
    fn from(source: model::WasmSource) -> Self {
        let model::WasmSource { module, origin: _, instance, grants, memory_bytes, fuel } = source;
        let grants = Grants { state: grants.state, addresses: grants.addresses };
        Self { module, instance: instance.into(), grants, memory_bytes, fuel }
    }
}
