//! What a voter must never forget, and its rows in the store.
//!
//! A change is a whole next [`Durable`]; what differs from the present one is written. Whatever depends on it is
//! said when it is on disk, never before: see [`Write`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::message::{Accepted, Ballot, RegisterMessage};
use crate::core::contract::ROW_OF_ROSTER;
use crate::core::ids::NodeId;
use crate::core::model::Roster;
use crate::core::wire::{decode_value, encode_value};

const ROSTER: &[u8] = ROW_OF_ROSTER;
const INSTANCE: &[u8] = b"instance";
const VOTE: &[u8] = b"vote";
const SOUND: &[u8] = b"sound";

/// A row to be written or, without a value, removed.
pub type RowChange = (Bytes, Option<Bytes>);

/// The choice of the present roster's successor, as one voter sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub(super) struct Instance {
    /// No attempt below this one is listened to.
    pub(super) promised: Option<Ballot>,
    pub(super) accepted: Option<Accepted>,
}

/// The highest term that was granted, and to whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub(super) struct Vote {
    pub(super) term: u64,
    pub(super) holder: Option<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Durable {
    /// The newest roster known to be decided.
    pub(super) roster: Option<Roster>,
    /// Of its successor.
    pub(super) instance: Instance,
    pub(super) vote: Vote,
    /// Whether nothing was lost since this node first voted. Without it, it does not vote.
    pub(super) sound: bool,
}

impl Durable {
    /// Reads the rows. One that cannot be read is taken for lost, and all that was promised with it.
    pub(super) fn from_rows(rows: &[(Bytes, Bytes)]) -> Self {
        let row = |name: &[u8]| rows.iter().find(|(key, _)| key == name).map(|(_, row)| row);
        let mut is_readable = true;
        let roster = read::<Roster>(row(ROSTER), &mut is_readable);
        let instance = read(row(INSTANCE), &mut is_readable).unwrap_or_default();
        let vote = read(row(VOTE), &mut is_readable).unwrap_or_default();
        Self { roster, instance, vote, sound: is_readable && row(SOUND).is_some() }
    }

    /// What is to be written to get from this to `next`.
    pub(super) fn changes(&self, next: &Self) -> Vec<RowChange> {
        let mut changes = Vec::new();
        if self.roster != next.roster {
            changes.push((Bytes::from_static(ROSTER), next.roster.as_ref().map(encode_value)));
        }
        if self.instance != next.instance {
            changes.push((Bytes::from_static(INSTANCE), Some(encode_value(&next.instance))));
        }
        if self.vote != next.vote {
            changes.push((Bytes::from_static(VOTE), Some(encode_value(&next.vote))));
        }
        if self.sound != next.sound {
            let row = next.sound.then(|| Bytes::from_static(b"\xc3"));
            changes.push((Bytes::from_static(SOUND), row));
        }
        changes
    }
}

fn read<T: serde::de::DeserializeOwned>(row: Option<&Bytes>, is_readable: &mut bool) -> Option<T> {
    let value = decode_value(row?);
    *is_readable &= value.is_ok();
    value.ok()
}

/// The key of the row without which a store is not believed in: others are asked what this node may have promised.
#[must_use]
pub fn row_of_soundness() -> Bytes {
    Bytes::from_static(SOUND)
}

/// Something on its way to the disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Write {
    pub(super) token: u64,
    pub(super) next: Durable,
    pub(super) then: Then,
}

/// What a write was for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Then {
    /// Say this.
    Answer(NodeId, Box<RegisterMessage>),
    /// Grant the lease; the time counts from then.
    Grant { to: NodeId, term: u64, ask: u64 },
    /// Go by the new roster.
    Adopt,
    /// Nothing: what was lost or found again counts.
    Nothing,
}
