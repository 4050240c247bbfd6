//! Which version knows what, and what can be read of a hello whose version is not spoken here.

use std::fmt;

use serde::Deserialize;

use super::{Control, FrameKind, OwnedBatch, OwnedRecord, RequestBody, ResponseBody, check};
use super::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
use crate::core::error::{Refusal, SendError};
use crate::core::ids::NodeId;
use crate::core::model::{AgentSource, Hello};

/// The protocol versions that a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The lowest.
    pub min: u8,
    /// The highest.
    pub max: u8,
}

impl VersionRange {
    /// What this build speaks.
    pub const OWN: Self = Self { min: PROTOCOL_VERSION_MIN, max: PROTOCOL_VERSION };

    /// The highest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u8> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }
}

/// The sentence that tells both sides why `theirs`, which speaks these versions, cannot talk to `own`.
#[must_use]
pub fn no_common_version(theirs: &NodeId, speaks: impl fmt::Display, own: &NodeId) -> String {
    let ours = VersionRange::OWN;
    format!("{theirs} speaks {speaks} of the protocol, {own} {ours}: upgrade the older of the two")
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { min, max } if min == max => write!(f, "version {max}"),
            Self { min, max } => write!(f, "versions {min} to {max}"),
        }
    }
}

/// Which versions the sender of this frame speaks, if it is a hello of whatever version: what follows the
/// length prefix. Every version's hello is a MessagePack map with these two fields.
#[must_use]
pub fn versions_of_hello(frame: &[u8]) -> Option<VersionRange> {
    #[derive(Deserialize)]
    struct AnyHello {
        version_min: u8,
        version_max: u8,
    }
    let [_, kind, body @ ..] = frame else {
        return None;
    };
    if *kind != FrameKind::Hello as u8 || check(body).is_err() {
        return None;
    }
    let AnyHello { version_min: min, version_max: max } = rmp_serde::from_slice(body).ok()?;
    (min <= max).then_some(VersionRange { min, max })
}

impl Hello {
    /// The versions that its sender speaks.
    #[must_use]
    pub fn versions(&self) -> VersionRange {
        VersionRange { min: self.version_min, max: self.version_max }
    }

    /// The version that a link between the senders of these two hellos speaks, if there is one.
    #[must_use]
    pub fn common_version(&self, theirs: &Self) -> Option<u8> {
        self.versions().common(theirs.versions())
    }
}

impl Control {
    /// The first version that knows this frame: a link that speaks an earlier one must not carry it.
    #[must_use]
    pub fn since_version(&self) -> u8 {
        match self {
            // Version 1 takes no record of an agent whose name has the number of a slot.
            Self::Owned { batches } if batches.iter().any(OwnedBatch::names_slots) => 2,
            Self::Members { .. }
            | Self::Summary { .. }
            | Self::OwnedDigest { .. }
            | Self::Owned { .. }
            | Self::HeldForFailed { .. }
            | Self::Leaving { .. }
            | Self::DuplicateSeen { .. }
            | Self::Check { .. }
            | Self::CheckAnswer { .. }
            | Self::KeepAlive => 1,
            Self::Past(_)
            | Self::CrlDigest { .. }
            | Self::Crl { .. }
            | Self::Redial
            | Self::State(_)
            | Self::StateAsk { .. }
            | Self::StatePart(_)
            | Self::StateBusy { .. }
            | Self::StateAck { .. }
            | Self::StateFloor { .. }
            | Self::StateBaseAsk { .. }
            | Self::StateBase { .. }
            | Self::Beats(_)
            | Self::Register { .. }
            | Self::Permit { .. } => 2,
            Self::Request { body, .. } => body.since_version(),
            Self::Response { result: Ok(body), .. } => body.since_version(),
            Self::Response { result: Err(refusal), .. } => refusal.since_version(),
        }
    }
}

impl RequestBody {
    /// The first version that knows this request.
    #[must_use]
    pub fn since_version(&self) -> u8 {
        match self {
            Self::Deploy { spec }
                if matches!(spec.source, AgentSource::Wasm(_))
                    || !spec.offer.is_plain()
                    || !spec.tools.is_empty()
                    || !spec.care.is_default()
                    || !spec.launch.is_default()
                    || !spec.limits.is_default()
                    || spec.of_folder =>
            {
                2
            }
            Self::Ping
            | Self::Deploy { .. }
            | Self::StopAgent { .. }
            | Self::AgentInfo { .. }
            | Self::AgentLogs { .. }
            | Self::Leave { .. } => 1,
            Self::Facts
            | Self::RestartAgent { .. }
            | Self::History { .. }
            | Self::State(_)
            | Self::ModulePart { .. }
            | Self::Outbox(_)
            | Self::Desired(_) => 2,
        }
    }
}

impl ResponseBody {
    /// The first version that knows this answer.
    #[must_use]
    pub fn since_version(&self) -> u8 {
        match self {
            Self::AgentInfo { spec, .. } if matches!(spec.source, AgentSource::Wasm(_)) => 2,
            Self::Done | Self::AgentInfo { .. } | Self::Lines { .. } => 1,
            Self::Left { .. }
            | Self::Facts(_)
            | Self::History(_)
            | Self::State(_)
            | Self::ModulePart(_)
            | Self::Outbox(_)
            | Self::Desired(_) => 2,
        }
    }
}

impl Refusal {
    /// The first version that knows this refusal; an earlier one is told its text (see
    /// [`Refusal::BadRequest`]).
    #[must_use]
    pub fn since_version(&self) -> u8 {
        match self {
            Self::UnknownNode { .. }
            | Self::NodeDown { .. }
            | Self::UnknownAgent { .. }
            | Self::AgentExists { .. }
            | Self::StartFailed { .. }
            | Self::Overloaded { .. }
            | Self::TimedOut { .. }
            | Self::LinkLost { .. }
            | Self::BadRequest { .. }
            | Self::StoreFailed { .. }
            | Self::Joining { .. } => 1,
            Self::Outdated { .. }
            | Self::NoAnswer { .. }
            | Self::BadWrite { .. }
            | Self::Barred { .. }
            | Self::Indeterminate { .. }
            | Self::UnknownTicket { .. } => 2,
        }
    }
}

impl SendError {
    /// The same for somebody who speaks this version.
    #[must_use]
    pub fn said_in(self, version: u8) -> Self {
        if version >= 2 {
            self
        } else if let Self::BreakerOpen { agent, node, reason, .. } = self {
            Self::NotRunning { agent, node, state: format!("left alone for a while: {reason}") }
        } else {
            self
        }
    }
}

impl OwnedBatch {
    /// Whether a record is that of an agent that fills a slot of a blueprint.
    #[must_use]
    pub fn names_slots(&self) -> bool {
        self.records.iter().any(OwnedRecord::names_slot)
    }

    /// The same without the records of agents that fill slots.
    #[must_use]
    pub fn without_slots(mut self) -> Self {
        self.records.retain(|record| !record.names_slot());
        self
    }
}

impl OwnedRecord {
    fn names_slot(&self) -> bool {
        self.path.contains('#')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::limits;
    use crate::core::wire::{WireError, decode, encode_at, split};

    fn range(min: u8, max: u8) -> VersionRange {
        VersionRange { min, max }
    }

    #[test]
    fn two_nodes_speak_the_highest_version_that_both_know() {
        assert_eq!(range(1, 2).common(range(1, 1)), Some(1));
        assert_eq!(range(1, 2).common(range(1, 2)), Some(2));
        assert_eq!(range(1, 2).common(range(2, 3)), Some(2));
        assert_eq!(range(1, 2).common(range(3, 4)), None);
        assert_eq!(range(1, 2).common(range(0, 0)), None);
    }

    #[test]
    fn the_versions_of_a_hello_can_be_read_whatever_its_version_and_its_other_fields() {
        #[derive(serde::Serialize)]
        struct Later {
            mood: &'static str,
            version_max: u8,
            version_min: u8,
        }
        let hello = |version_min, version_max| {
            let body = rmp_serde::to_vec_named(&Later { mood: "fine", version_max, version_min });
            [vec![version_min, 1], body.expect("encodes")].concat()
        };
        assert_eq!(versions_of_hello(&hello(3, 4)), Some(range(3, 4)));
        assert_eq!(versions_of_hello(&hello(0, 0)), Some(range(0, 0)));
        assert_eq!(versions_of_hello(&hello(4, 3)), None, "a range that is none");
        assert_eq!(versions_of_hello(&[3, 2, 0x80]), None, "not a hello");
        assert_eq!(versions_of_hello(&[3]), None);
    }

    #[test]
    fn a_frame_of_a_variant_that_a_later_version_adds_is_unknown_and_not_malformed() {
        #[derive(serde::Serialize)]
        #[serde(rename_all = "snake_case")]
        enum Later {
            Sing { verse: u8 },
            Hum,
            Request { id: u64, body: Asked },
        }
        #[derive(serde::Serialize)]
        #[serde(rename_all = "snake_case")]
        enum Asked {
            Sing,
        }
        for later in [Later::Sing { verse: 3 }, Later::Hum, Later::Request { id: 1, body: Asked::Sing }] {
            let bytes = rmp_serde::to_vec_named(&later).expect("encodes");
            assert!(matches!(decode::<Control>(&bytes), Err(WireError::Unknown(_))), "{bytes:?}");
        }
        let wrong = rmp_serde::to_vec_named(&("check", "no nonce")).expect("encodes");
        assert!(matches!(decode::<Control>(&wrong), Err(WireError::Body(_))));
    }

    #[test]
    fn an_open_breaker_is_told_to_an_earlier_version_in_words_that_it_knows() {
        let (agent, node) = ("a".parse().expect("valid"), "n".parse().expect("valid"));
        let open = SendError::BreakerOpen { agent, node, reason: "no".to_owned(), retry_ms: 1 };
        assert_eq!(open.clone().said_in(2), open);
        let said = open.said_in(1);
        assert_eq!(
            (said.code(), said.to_string().contains("left alone for a while: no")),
            ("not_running", true)
        );
    }

    #[test]
    fn a_frame_carries_the_version_of_its_link() {
        for version in PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION {
            let mut bytes = Vec::new();
            encode_at(version, &Control::KeepAlive, &mut bytes).expect("fits");
            assert_eq!(bytes[4], version);
            assert!(bytes.len() <= limits::FRAME_BYTES_MAX);
            assert!(matches!(split(&bytes[4..]), Ok(Some((FrameKind::Control, _)))));
        }
    }
}
