//! The JSON of `/v1/cluster/performance`.

use serde::{Deserialize, Serialize};

use crate::core::ids::NodeId;
use crate::node::Measured;

/// `POST /v1/cluster/performance`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// To which node the remote route is measured; to the nearest when null.
    #[serde(default)]
    pub peer: Option<NodeId>,
}

/// The answer to [`Measure`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Performance {
    /// The asked node, which has measured.
    pub node_id: NodeId,
    /// `local_route`, `remote_route` and `wasm_start`, in this order.
    pub rows: Vec<PerformanceRow>,
}

/// One row of [`Performance`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PerformanceRow {
    /// What: `local_route`, `remote_route` or `wasm_start`.
    pub name: String,
    /// The node that answered; null where there is none to ask.
    pub node: Option<NodeId>,
    /// What the median should not exceed.
    pub target_p50_seconds: f64,
    /// What the 99th percentile should not exceed; null where there is no such target.
    pub target_p99_seconds: Option<f64>,
    /// The median; null when nothing came back.
    pub p50_seconds: Option<f64>,
    /// The 99th percentile; null with fewer than a hundred samples.
    pub p99_seconds: Option<f64>,
    /// Samples.
    pub count: usize,
    /// Messages, or instances, that failed.
    pub failed: usize,
    /// `met`, `missed` or `not_measured`.
    pub status: String,
    /// Why it was not measured, or why one failed; null otherwise.
    pub reason: Option<String>,
}

impl From<Measured> for PerformanceRow {
    fn from(measured: Measured) -> Self {
        let Measured { gauge, node, figures, verdict, reason } = measured;
        Self {
            name: gauge.as_str().to_owned(),
            node,
            target_p50_seconds: gauge.p50_max().as_secs_f64(),
            target_p99_seconds: gauge.p99_max().map(|max| max.as_secs_f64()),
            p50_seconds: figures.p50.map(|took| took.as_secs_f64()),
            p99_seconds: figures.p99.map(|took| took.as_secs_f64()),
            count: figures.count,
            failed: figures.failed,
            status: verdict.as_str().to_owned(),
            reason,
        }
    }
}
