//! Records that nodes publish about themselves, as frames carry them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::core::ids::NodeId;
use crate::core::limits;

/// How much of one node's own records somebody has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedVersion {
    /// The owner.
    pub node: NodeId,
    /// The owner's process start.
    pub start: u64,
    /// The highest number seen, without gaps.
    pub n: u64,
}

/// Records of one owner. Either a delta that continues at `after`, or (with `after == 0`) a snapshot
/// that replaces all that is known of the owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedBatch {
    /// The owner.
    pub node: NodeId,
    /// The owner's process start; a higher one replaces all records of a lower one.
    pub start: u64,
    /// The receiver must have seen up to here for a delta to apply.
    pub after: u64,
    /// The highest number that the receiver has seen once this batch is applied.
    pub upto: u64,
    /// The sender has forgotten removals up to here: the receiver cannot tell others of them either.
    #[serde(default)]
    pub floor: u64,
    /// The records, each newest version only.
    pub records: Vec<OwnedRecord>,
}

/// One record `_owned/<node>/<path>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedRecord {
    /// The path below `_owned/<node>/`: `node`, `load`, `agents/<name>`.
    pub path: String,
    /// The number of the write, growing by one with each write of the owner.
    pub n: u64,
    /// MessagePack; `None` when the record was removed.
    pub value: Option<Bytes>,
}

impl OwnedBatch {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.records.len() > limits::OWNED_RECORDS_MAX {
            return Err("too many records");
        }
        for record in &self.records {
            if record.n <= self.after || record.n > self.upto {
                return Err("a record's number lies outside its batch");
            }
            if record.path.is_empty() || record.path.len() > limits::NODE_ID_BYTES_MAX {
                return Err("a record's path is empty or too long");
            }
            if record.value.as_ref().is_some_and(|v| v.len() > limits::OWNED_VALUE_BYTES_MAX) {
                return Err("a record's value is too large");
            }
        }
        Ok(())
    }
}
