//! Frames: what travels on streams, and the total decoding of it.
//!
//! A frame is `length: u32 LE | version: u8 | kind: u8 | body`, where `length` counts what follows it.
//! Bodies are MessagePack; before one is decoded, [`check`] walks it without recursion and refuses
//! nesting and counts that could make a decoder allocate or recurse without bound.
//!
//! # Versions
//!
//! This build speaks [`PROTOCOL_VERSION_MIN`] to [`PROTOCOL_VERSION`]. A link speaks the highest version
//! that both ends do (`Hello::common_version`), and its frames carry that one; hellos carry the lowest,
//! because nothing is agreed yet. A later version may add fields, which an earlier one skips, and whole
//! frames and requests, which an earlier one must not be sent: [`Control::since_version`] says which, and
//! the mesh holds to it. A kind or a frame that is not known is skipped by its length.
//!
//! SWIM packets are not frames: see `membership::packet`.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{Refusal, SendError};
use super::ids::{CaKeyId, Incarnation, NodeKey};
use super::limits;
use super::model::{Actor, Answer, Clock, DotRange, Epoch, Hello, Message};

mod desired;
mod facts;
mod history;
mod outbox;
mod records;
mod requests;
mod shape;
mod state;
mod versions;

pub use desired::{
    BlueprintChange, BlueprintDetail, BlueprintStatus, CanaryStatus, Changes, DesiredAnswer, DesiredRequest,
    Planned, RolloutStatus, SlotStatus, StandbyStatus,
};
pub use facts::{
    AgentStats, ArrivalFacts, BreakerStats, CaFacts, CertificateFacts, CheckEntry, DiskFacts, LinkFacts,
    MemberFacts, NodeFacts, QueueFacts,
};
pub use history::{HistoryEntry, HistoryPage, HistoryQuery, Recorded};
pub use outbox::{DeadOnes, OutboxAnswer, OutboxRequest};
pub use records::{OwnedBatch, OwnedRecord, OwnedVersion};
pub use requests::{ModulePart, RequestBody, ResponseBody};
pub use shape::check;
pub use state::{
    Ack, Beat, Beats, Difference, Inspected, Past, Seen, SharedSummary, SiblingValue, StateAnswer,
    StateChange, StateDelta, StatePart, StateRequest, StateStatus, StateValue, TicketDone,
};
pub use versions::{VersionRange, no_common_version, versions_of_hello};

/// The highest protocol version that this build speaks.
pub const PROTOCOL_VERSION: u8 = 2;
/// The lowest protocol version that this build speaks: the one before, so that a mesh can be upgraded
/// node by node.
pub const PROTOCOL_VERSION_MIN: u8 = 1;
/// The first protocol version in which large control frames go over a connection of their own.
pub const BULK_SINCE: u8 = 2;
/// Bytes before a frame's body.
pub const HEADER_BYTES: usize = 6;

/// Why bytes are not a frame. The frame is dropped and counted; nothing else changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The length is below the two bytes that every frame has, or above the bound.
    #[error("a frame claims {length} bytes, allowed are 2 to {length_max}")]
    Length {
        /// What it claims.
        length: u64,
        /// What is allowed here.
        length_max: u64,
    },
    /// The version is not spoken here.
    #[error("protocol version {0} is not spoken here")]
    Version(u8),
    /// The body nests too deep, claims more elements than it has bytes, is cut short, or has trailing bytes.
    #[error("malformed MessagePack: {0}")]
    Shape(&'static str),
    /// The body is well-formed and not what its kind says.
    #[error("undecodable body: {0}")]
    Body(String),
    /// The body is well-formed and of a variant that is not known here: a later version may have it.
    #[error("unknown body: {0}")]
    Unknown(String),
    /// A record in the body breaks a bound.
    #[error("refused: {0}")]
    Bound(&'static str),
}

/// The kind of a frame, its second header byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// [`Hello`], the first frame in each direction.
    Hello = 1,
    /// [`Control`], on the control stream.
    Control = 2,
    /// [`Data`], on the data streams.
    Data = 3,
    /// A SWIM packet, where the path carries no datagram.
    Swim = 4,
}

impl FrameKind {
    /// The kind with this number, or `None` for one that a later version added.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Hello, Self::Control, Self::Data, Self::Swim].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Control frames: between cores, through the driver, in order, on one stream per connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// The sender's whole member list: at the start of a link, and when hashes differ.
    Members {
        /// One entry a member, the sender included.
        members: Vec<MemberEntry>,
        /// Whether the receiver should send its own list back.
        reply: bool,
    },
    /// Hashes of what the sender knows; a receiver that differs answers with [`Control::Members`] or
    /// [`Control::OwnedDigest`], each asking for a reply.
    Summary {
        /// Over who is there at which incarnation.
        members: u64,
        /// Over whose own records it has up to where.
        owned: u64,
        /// Over the writes that it has seen and the roster that it knows; `None` of a node that knows nothing of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shared: Option<SharedSummary>,
        /// Over which revocation lists it has; `None` of a node that knows nothing of them, which is not told either.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        crls: Option<u64>,
    },
    /// How much of each node's own records the sender has; the receiver sends what is newer.
    OwnedDigest {
        /// One entry a node.
        have: Vec<OwnedVersion>,
        /// Whether the receiver should send its own digest back.
        reply: bool,
    },
    /// Records that nodes publish about themselves.
    Owned {
        /// One batch an owner.
        batches: Vec<OwnedBatch>,
    },
    /// Somebody holds the receiver for failed at this incarnation: it should renew if that is its current one.
    HeldForFailed {
        /// The incarnation that is held for failed.
        incarnation: Incarnation,
    },
    /// The sender is stopping of its own will.
    Leaving {
        /// Its incarnation; a later one is alive again.
        incarnation: Incarnation,
        /// Whether it leaves the mesh for good (`cluster leave`) and is to be forgotten.
        forget: bool,
    },
    /// A second live process has claimed the receiver's node id.
    DuplicateSeen {
        /// Where the newcomer came from.
        address: String,
    },
    /// About the past of a node's store.
    Past(Past),
    /// "Are you there": answered at once with [`Control::CheckAnswer`].
    Check {
        /// Chosen by the sender.
        nonce: u64,
    },
    /// The answer to [`Control::Check`].
    CheckAnswer {
        /// The nonce of the check.
        nonce: u64,
    },
    /// A request to the receiver.
    Request {
        /// Chosen by the sender, unique among its open requests.
        id: u64,
        /// What is asked.
        body: RequestBody,
    },
    /// The answer to a request.
    Response {
        /// The request's number.
        id: u64,
        /// What came of it.
        result: Result<ResponseBody, Refusal>,
    },
    /// Which revocation lists the sender has; the receiver sends those that are newer.
    CrlDigest {
        /// One entry an issuer.
        have: Vec<CrlVersion>,
        /// Whether the receiver should send its own digest back.
        reply: bool,
        /// What the receiver has sent over this link before counts no more: the sender trusts other CAs now.
        afresh: bool,
    },
    /// A revocation list.
    Crl {
        /// As its CA signed it (DER).
        der: Bytes,
    },
    /// The sender has another certificate: the receiver, which has dialled this link, should dial it again.
    Redial,
    /// Writes, as they are made.
    State(StateDelta),
    /// What the sender has, so that the receiver sends what it lacks, as [`Control::StatePart`]s.
    StateAsk {
        /// Names the parts of the answer.
        question: u64,
        /// What it has, or less.
        clock: Seen,
        /// It was being sent everything and was not told the end: it needs everything again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        whole: bool,
    },
    /// A part of the answer.
    StatePart(Box<StatePart>),
    /// The receiver asked for so much that it must wait for others first.
    StateBusy {
        /// The question that is not answered.
        question: u64,
    },
    /// What the sender has on its disk, for whoever computes the floor, and whether it is a voter's word for writes
    /// that wait for a quorum.
    StateAck {
        /// What it has, or less.
        clock: Seen,
        /// Writes that it has replaced and never seen.
        unfilled: Clock,
        /// The roster that it knows.
        epoch: Epoch,
        /// Who mints its dots at present, if it has made any.
        actor: Option<Actor>,
        /// The last question that the sender was asked before all that it had seen by then was on its disk; 0: none.
        answers: u64,
    },
    /// What every member of a roster has on its disk.
    StateFloor {
        /// Which roster.
        epoch: Epoch,
        /// Counts the floors of a mesh.
        number: u64,
        /// What they have, or less.
        floor: Seen,
        /// Dots that nobody has and nobody will make any more: they are closed.
        voids: Vec<DotRange>,
        /// Names a question: the receiver is to tell again what it has on its disk, with all that it has seen by now.
        asks: Option<u64>,
    },
    /// The sender does not know the floor beyond which a clock was told: it needs that first.
    StateBaseAsk {
        /// Over the floor.
        base: u64,
    },
    /// A part of a floor beyond which the sender tells its clocks.
    StateBase {
        /// Over all of it.
        base: u64,
        /// The part; later ones have higher actors.
        part: Clock,
        /// Whether it is the last.
        is_last: bool,
    },
    /// Voters are there.
    Beats(Beats),
    /// A message of the register, as that encodes it.
    Register {
        /// The message.
        message: Bytes,
    },
    /// A message about permits, as that room encodes it.
    Permit {
        /// The message.
        message: Bytes,
    },
    /// Nothing; keeps a link alive on which messages flow.
    KeepAlive,
}

/// One member in a list: as gossip knows it, without name or address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemberEntry {
    /// The node.
    pub key: NodeKey,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// How often it refuted a suspicion within that incarnation.
    pub refutations: u16,
    /// Its state.
    pub state: MemberEntryState,
}

/// The state of a member in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say all")]
pub enum MemberEntryState {
    Alive,
    Suspect,
    Failed,
    Left,
    /// It left for good: nobody keeps anything of it.
    Forgotten,
}

/// Which revocation list of one issuer somebody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrlVersion {
    /// The CA.
    pub issuer: CaKeyId,
    /// The list's number.
    pub number: u64,
}

/// Data frames: messages between agents, on the data streams. No core step sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// A message for an agent on the receiving node.
    Deliver {
        /// What the sender wants to hear back.
        want: Want,
        /// Names the message in what comes back; unique among the sender's open ones. 0 with [`Want::Nothing`].
        tag: u64,
        /// The message.
        message: Message,
    },
    /// What became of the message with that tag.
    Outcome {
        /// The tag of the [`Data::Deliver`].
        tag: u64,
        /// `None` when the message was put into the mailbox and only that was asked.
        result: Result<Option<Answer>, SendError>,
    },
}

/// What the sender of a message wants to hear back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// Nothing at all.
    Nothing,
    /// Whether it is in the agent's mailbox.
    Receipt,
    /// The agent's answer.
    Answer,
}

/// A body that can be put into a frame.
pub trait Body: Serialize + DeserializeOwned {
    /// The kind that names it.
    const KIND: FrameKind;
    /// Checks the bounds that decoding alone does not.
    ///
    /// # Errors
    /// The bound that is broken.
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

impl Body for Hello {
    const KIND: FrameKind = FrameKind::Hello;
    fn check(&self) -> Result<(), &'static str> {
        self.card.check()
    }
}

impl Body for Control {
    const KIND: FrameKind = FrameKind::Control;
    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Members { members, .. } if members.len() > limits::MEMBERS_PER_FRAME_MAX => {
                Err("too many members")
            }
            Self::OwnedDigest { have, .. } if have.len() > limits::MEMBERS_PER_FRAME_MAX => {
                Err("too many owners")
            }
            Self::Owned { batches } => batches.iter().try_for_each(OwnedBatch::check),
            Self::DuplicateSeen { address } if address.len() > limits::ADDRESS_BYTES_MAX => {
                Err("the address is too long")
            }
            Self::CrlDigest { have, .. } if have.len() > limits::CRLS_MAX => Err("too many revocation lists"),
            Self::Crl { der } if der.len() > limits::CRL_BYTES_MAX => Err("the revocation list is too large"),
            Self::Response { result: Ok(ResponseBody::Facts(facts)), .. } => facts.check(),
            Self::Response { result: Ok(ResponseBody::History(page)), .. } => page.check(),
            Self::Response { result: Ok(ResponseBody::State(answer)), .. } => answer.check(),
            Self::Response { result: Ok(ResponseBody::ModulePart(part)), .. } => part.check(),
            Self::Response { result: Ok(ResponseBody::Outbox(answer)), .. } => answer.check(),
            Self::State(delta) => delta.check(),
            Self::StatePart(part) => part.check(),
            Self::StateAsk { clock, .. } => clock.beyond.check(),
            Self::StateAck { clock, unfilled, .. } => clock.beyond.check().and_then(|()| unfilled.check()),
            Self::StateBase { part, .. } => part.check(),
            Self::Beats(beats) => beats.check(),
            Self::StateFloor { voids, .. } if voids.len() > limits::STATE_RANGES_PER_FRAME_MAX => {
                Err("too many ranges of dots")
            }
            Self::StateFloor { floor, voids, .. } => {
                floor.beyond.check().and_then(|()| voids.iter().try_for_each(DotRange::check))
            }
            Self::Register { message } if message.len() > limits::REGISTER_MESSAGE_BYTES_MAX => {
                Err("the message of the register is too large")
            }
            Self::Permit { message } if message.len() > limits::PERMIT_MESSAGE_BYTES_MAX => {
                Err("the message about permits is too large")
            }
            Self::Members { .. }
            | Self::Summary { .. }
            | Self::OwnedDigest { .. }
            | Self::HeldForFailed { .. }
            | Self::Leaving { .. }
            | Self::DuplicateSeen { .. }
            | Self::Past(_)
            | Self::Check { .. }
            | Self::CheckAnswer { .. }
            | Self::Request { .. }
            | Self::Response { .. }
            | Self::CrlDigest { .. }
            | Self::Crl { .. }
            | Self::Redial
            | Self::StateBusy { .. }
            | Self::StateBaseAsk { .. }
            | Self::Register { .. }
            | Self::Permit { .. }
            | Self::KeepAlive => Ok(()),
        }
    }
}

impl Body for Data {
    const KIND: FrameKind = FrameKind::Data;
    fn check(&self) -> Result<(), &'static str> {
        let content = match self {
            Self::Deliver { message, .. } => &message.content,
            Self::Outcome { result: Ok(Some(answer)), .. } => &answer.content,
            Self::Outcome { .. } => return Ok(()),
        };
        if content.len() > limits::CONTENT_BYTES_MAX {
            return Err("the content is too large");
        }
        Ok(())
    }
}

/// Appends a whole frame of the highest version to `out`.
///
/// # Errors
/// As [`encode_at`].
pub fn encode<B: Body>(body: &B, out: &mut Vec<u8>) -> Result<(), WireError> {
    encode_at(PROTOCOL_VERSION, body, out)
}

/// Appends a whole frame to `out` for a link that speaks `version`. Whether that version knows the body
/// is the caller's to ask.
///
/// # Errors
/// [`WireError::Length`] when the frame would exceed [`limits::FRAME_BYTES_MAX`]; `out` is as it was.
pub fn encode_at<B: Body>(version: u8, body: &B, out: &mut Vec<u8>) -> Result<(), WireError> {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, version, B::KIND as u8]);
    // Control frames are maps, so that a later version may add fields; data frames are arrays, for speed,
    // and their extensions have a field of their own.
    let encoded = match B::KIND {
        FrameKind::Data => rmp_serde::encode::write(out, body),
        FrameKind::Hello | FrameKind::Control | FrameKind::Swim => rmp_serde::encode::write_named(out, body),
    };
    let length = (out.len() - start - 4) as u64;
    let length_max = limits::FRAME_BYTES_MAX as u64;
    let result = match encoded {
        Err(error) => Err(WireError::Body(error.to_string())),
        Ok(()) if length > length_max => Err(WireError::Length { length, length_max }),
        Ok(()) => Ok(length as u32),
    };
    match result {
        Ok(length) => {
            out[start..start + 4].copy_from_slice(&length.to_le_bytes());
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// Appends a SWIM packet as a frame for a link that speaks `version`.
pub fn encode_swim(version: u8, packet: &[u8], out: &mut Vec<u8>) {
    let length = (packet.len() + 2) as u32;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[version, FrameKind::Swim as u8]);
    out.extend_from_slice(packet);
}

/// Reads the length prefix of a frame: the bytes that follow it.
///
/// # Errors
/// [`WireError::Length`] when it is below 2 or above `length_max`; the stream cannot be followed further.
pub fn frame_length(prefix: [u8; 4], length_max: usize) -> Result<usize, WireError> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length < 2 || length > length_max {
        return Err(WireError::Length { length: length as u64, length_max: length_max as u64 });
    }
    Ok(length)
}

/// Splits what follows the length prefix into its kind and its body. `Ok(None)` is a kind that this
/// version does not know: skip it.
///
/// # Errors
/// [`WireError::Version`] for another version, [`WireError::Length`] for a frame without a header.
pub fn split(frame: &[u8]) -> Result<Option<(FrameKind, &[u8])>, WireError> {
    let [version, kind, body @ ..] = frame else {
        return Err(WireError::Length {
            length: frame.len() as u64,
            length_max: limits::FRAME_BYTES_MAX as u64,
        });
    };
    if !(PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION).contains(version) {
        return Err(WireError::Version(*version));
    }
    Ok(FrameKind::from_byte(*kind).map(|kind| (kind, body)))
}

/// Decodes a body after [`check`]ing its shape, then its bounds.
///
/// # Errors
/// [`WireError::Shape`], [`WireError::Body`], [`WireError::Unknown`] or [`WireError::Bound`].
pub fn decode<B: Body>(body: &[u8]) -> Result<B, WireError> {
    check(body)?;
    let value: B = rmp_serde::from_slice(body).map_err(|e| body_error(&e))?;
    value.check().map_err(WireError::Bound)?;
    Ok(value)
}

/// Encodes a record's value.
///
/// # Panics
/// Never for the records of [`super::model`]: they have no maps with keys that MessagePack refuses.
#[must_use]
pub fn encode_value<T: Serialize>(value: &T) -> Bytes {
    rmp_serde::to_vec_named(value).expect("plain records always encode").into()
}

/// Decodes a record's value, shape first.
///
/// # Errors
/// [`WireError::Shape`], [`WireError::Body`] or [`WireError::Unknown`].
pub fn decode_value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    check(bytes)?;
    rmp_serde::from_slice(bytes).map_err(|e| body_error(&e))
}

/// The decoder's complaint may repeat what the peer sent: as much of it as a log line may hold, and
/// nothing in it that a terminal would obey.
fn body_error(error: &rmp_serde::decode::Error) -> WireError {
    let text = error.to_string();
    // serde has no other way to tell a variant that is not known from a value that is wrong.
    let unknown = text.starts_with("unknown variant");
    let text = text.chars().take(limits::PEER_ERROR_CHARS_MAX).flat_map(char::escape_debug).collect();
    if unknown { WireError::Unknown(text) } else { WireError::Body(text) }
}

#[cfg(test)]
mod tests;
