//! Stands for WASM agents in a binary that was built without the feature `wasm`: it refuses them, and says so.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Ground;
use super::agent::{Agent, Run};
use crate::core::contract::AgentReport;
use crate::core::ids::ModuleId;
use crate::core::model::{Samples, WasmSource};
use crate::core::wire::ModulePart;

/// The sentence.
const ABSENT: &str = "this node's binary was built without WASM agents (the feature `wasm`)";

/// A module of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub module: ModuleId,
    /// Its size.
    pub bytes: u64,
}

/// Nothing.
pub(super) struct Wasm;

#[expect(clippy::unused_async, reason = "as where there are WASM agents")]
impl Wasm {
    pub(super) fn new(_: PathBuf) -> Self {
        Self
    }

    pub(super) async fn put(&self, _: Bytes) -> Result<ModuleId, String> {
        Err(ABSENT.to_owned())
    }

    pub(super) fn part(&self, _: &ModuleId, _: u64) -> Result<ModulePart, String> {
        Err(ABSENT.to_owned())
    }

    pub(super) async fn list(&self) -> Result<Vec<Kept>, String> {
        Ok(Vec::new())
    }

    pub(super) async fn collect(&self, _: HashSet<ModuleId>, _: Duration) {}
}

#[expect(clippy::unused_async, reason = "as where there are WASM agents")]
pub(super) async fn supervise(_: &Arc<Ground>, _: &Arc<Agent>, _: &Arc<Run>, _: WasmSource) -> AgentReport {
    AgentReport::Ended { reason: ABSENT.to_owned() }
}

#[expect(clippy::unused_async, reason = "as where there are WASM agents")]
pub(super) async fn measure_starts(_: &Arc<Ground>) -> Samples {
    Samples::nothing(ABSENT)
}

pub(super) fn window_of(_: &WasmSource) -> usize {
    1
}
