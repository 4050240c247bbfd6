//! What version 1 of the protocol understands, written down once and never changed: its frames and SWIM
//! packets as types of their own. Whatever decodes here, a node of version 1 decodes; whatever does not, it
//! counts as malformed.

#![allow(missing_docs, reason = "the present types say what the fields mean")]

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shoal::core::wire;
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCard {
    pub node_id: String,
    pub addresses: Vec<String>,
    pub region: String,
    pub zone: String,
    pub labels: BTreeMap<String, String>,
    pub version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version_min: u8,
    pub version_max: u8,
    pub mesh_id: Option<Uuid>,
    pub mesh_name: String,
    pub process_id: Uuid,
    pub incarnation: u64,
    pub card: NodeCard,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    Members { members: Vec<MemberEntry>, reply: bool },
    Summary { members: u64, owned: u64 },
    OwnedDigest { have: Vec<OwnedVersion>, reply: bool },
    Owned { batches: Vec<OwnedBatch> },
    HeldForFailed { incarnation: u64 },
    Leaving { incarnation: u64, forget: bool },
    DuplicateSeen { address: String },
    Check { nonce: u64 },
    CheckAnswer { nonce: u64 },
    Request { id: u64, body: RequestBody },
    Response { id: u64, result: Result<ResponseBody, Refusal> },
    KeepAlive,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEntry {
    pub key: [u8; 16],
    pub incarnation: u64,
    pub refutations: u16,
    pub state: MemberEntryState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberEntryState {
    Alive,
    Suspect,
    Failed,
    Left,
    Forgotten,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedVersion {
    pub node: String,
    pub start: u64,
    pub n: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedBatch {
    pub node: String,
    pub start: u64,
    pub after: u64,
    pub upto: u64,
    #[serde(default)]
    pub floor: u64,
    pub records: Vec<OwnedRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedRecord {
    pub path: String,
    pub n: u64,
    pub value: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    pub cpu_permille: u16,
    pub memory_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    pub kind: String,
    pub state: AgentState,
    pub restarts: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum AgentState {
    Starting,
    Running,
    Draining,
    Restarting { reason: String },
    Failed { reason: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestBody {
    Ping,
    Deploy { spec: AgentSpec },
    StopAgent { agent: String },
    AgentInfo { agent: String },
    AgentLogs { agent: String, lines: u32 },
    Leave { drain_ms: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseBody {
    Done,
    AgentInfo { spec: AgentSpec, stats: AgentStats },
    Lines { lines: Vec<String> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    UnknownNode { node: String },
    NodeDown { node: String, status: String },
    UnknownAgent { agent: String, node: String },
    AgentExists { agent: String, node: String },
    StartFailed { agent: String, node: String, reason: String },
    Overloaded { what: String },
    TimedOut { node: String, deadline_ms: u64 },
    LinkLost { node: String },
    BadRequest { why: String },
    StoreFailed { node: String, reason: String },
    Joining { node: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSpec {
    pub name: String,
    pub source: AgentSource,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum AgentSource {
    Native { builtin: String },
    Process { protocol: ProcessProtocol, command: String, args: Vec<String> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessProtocol {
    Stdio,
    Http,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStats {
    pub pid: Option<u32>,
    pub uptime_seconds: u64,
    pub requests: u64,
    pub errors: u64,
    pub waiting: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    Deliver { want: Want, tag: u64, message: Message },
    Outcome { tag: u64, result: Result<Option<Answer>, SendError> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    Nothing,
    Receipt,
    Answer,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub id: Uuid,
    pub from: String,
    pub to: String,
    pub performative: Performative,
    pub conversation_id: Option<String>,
    pub in_reply_to: Option<Uuid>,
    pub content_type: String,
    pub content: Bytes,
    pub deadline_ms: u32,
    pub traceparent: Option<String>,
    pub hops: u8,
    pub extensions: BTreeMap<u8, Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Performative {
    AcceptProposal,
    Agree,
    Cancel,
    Cfp,
    Confirm,
    Disconfirm,
    Failure,
    Inform,
    InformIf,
    InformRef,
    NotUnderstood,
    Propagate,
    Propose,
    Proxy,
    QueryIf,
    QueryRef,
    Refuse,
    RejectProposal,
    Request,
    RequestWhen,
    RequestWhenever,
    Subscribe,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub from: String,
    pub content_type: String,
    pub content: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SendError {
    UnknownAgent { agent: String },
    NodeDown { agent: String, node: String, status: String },
    NotRunning { agent: String, node: String, state: String },
    Overloaded { what: String },
    DeadlineExceeded { deadline_ms: u64 },
    ContentTooLarge { bytes: u64, bytes_max: u64 },
    BadAddress { address: String, why: String },
    LinkLost { node: String },
    AgentFailed { agent: String, reason: String },
    TooManyHops { hops: u8 },
    Joining { node: String, agent: String },
    Stopping { node: String },
}

/// Any frame, as version 1 takes it apart: what follows the length prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Hello(Hello),
    Control(Control),
    Data(Data),
    Swim(Packet),
    /// A kind of a later version: skipped.
    OfUnknownKind,
}

impl Frame {
    /// Reads a frame as version 1 does.
    pub fn read(frame: &[u8]) -> Result<Self, String> {
        let [version, kind, body @ ..] = frame else {
            return Err("no header".to_owned());
        };
        if *version != 1 {
            return Err(format!("version {version} is not spoken here"));
        }
        Ok(match kind {
            1 => Self::Hello(decode(body)?),
            2 => Self::Control(decode(body)?),
            3 => Self::Data(decode(body)?),
            4 => Self::Swim(Packet::read(body)?),
            _ => Self::OfUnknownKind,
        })
    }

    /// The whole frame as version 1 writes it, its length first.
    pub fn written(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Hello(hello) => (1, rmp_serde::to_vec_named(hello)),
            Self::Control(control) => (2, rmp_serde::to_vec_named(control)),
            Self::Data(data) => (3, rmp_serde::to_vec(data)),
            Self::Swim(packet) => (4, Ok(packet.written())),
            Self::OfUnknownKind => panic!("there is nothing to write"),
        };
        let body = body.expect("plain values encode");
        let length = u32::try_from(body.len() + 2).expect("it is small");
        [&length.to_le_bytes()[..], &[1, kind], &body].concat()
    }
}

/// Decodes a frame's body or a record's value as version 1 does.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    wire::check(body).map_err(|error| error.to_string())?;
    rmp_serde::from_slice(body).map_err(|error| error.to_string())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub key: [u8; 16],
    pub incarnation: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwimHeader {
    pub from: Identity,
    pub refutations: u16,
    pub to: Identity,
    pub message: SwimMessage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwimMessage {
    Ping(u8),
    Ack(u8),
    PingReq { target: Identity, probe_number: u8 },
    IndirectPing { origin: Identity, probe_number: u8 },
    IndirectAck { target: Identity, probe_number: u8 },
    ForwardedAck { origin: Identity, probe_number: u8 },
    Announce,
    Feed,
    Gossip,
    Broadcast,
    TurnUndead,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwimMember {
    pub id: Identity,
    pub refutations: u16,
    /// 0 alive, 1 suspect, 2 down.
    pub state: u8,
}

/// A SWIM packet of version 1: `version | note length | note | header | count u16 BE | members`, each member
/// behind its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Who left of its own will, at which incarnation.
    pub left: Vec<([u8; 16], u64)>,
    pub header: SwimHeader,
    /// `None` where the packet ends behind its header.
    pub members: Option<Vec<SwimMember>>,
}

impl Packet {
    /// Reads a packet as version 1 does.
    pub fn read(packet: &[u8]) -> Result<Self, String> {
        let [version, note_length, rest @ ..] = packet else {
            return Err("too short".to_owned());
        };
        if *version != 1 || packet.len() > 1150 {
            return Err(format!("version {version}, {} bytes", packet.len()));
        }
        let (note, rest) = rest.split_at_checked(*note_length as usize).ok_or("a note too long")?;
        let left = match note {
            [] => Vec::new(),
            note => {
                let (left, _later): (Vec<([u8; 16], u64)>, _) =
                    postcard::take_from_bytes(note).map_err(|error| format!("note: {error}"))?;
                left
            }
        };
        if left.len() > 2 {
            return Err("too many departures".to_owned());
        }
        let (header, rest) =
            postcard::take_from_bytes::<SwimHeader>(rest).map_err(|error| format!("header: {error}"))?;
        let members = if rest.is_empty() { None } else { Some(members(rest)?) };
        let silent = matches!(
            header.message,
            SwimMessage::Announce | SwimMessage::TurnUndead | SwimMessage::Broadcast
        );
        if silent && members.is_some() {
            return Err("members where there must be none".to_owned());
        }
        Ok(Self { left, header, members })
    }

    /// The packet as version 1 writes it.
    pub fn written(&self) -> Vec<u8> {
        let note = if self.left.is_empty() { Vec::new() } else { encoded(&self.left) };
        let mut bytes = vec![1, u8::try_from(note.len()).expect("two departures at most")];
        bytes.extend(note);
        bytes.extend(encoded(&self.header));
        if let Some(members) = &self.members {
            bytes.extend(u16::try_from(members.len()).expect("few").to_be_bytes());
            for member in members {
                let member = encoded(member);
                bytes.push(u8::try_from(member.len()).expect("short"));
                bytes.extend(member);
            }
        }
        bytes
    }
}

fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("plain values encode")
}

fn members(bytes: &[u8]) -> Result<Vec<SwimMember>, String> {
    let (count, mut rest) = bytes.split_first_chunk::<2>().ok_or("cut short")?;
    let mut members = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first().ok_or("cut short")?;
        let (member, after) = after.split_at_checked(*length as usize).ok_or("cut short")?;
        let (member, _later) =
            postcard::take_from_bytes::<SwimMember>(member).map_err(|error| format!("member: {error}"))?;
        if member.state > 2 {
            return Err("an unknown state".to_owned());
        }
        members.push(member);
        rest = after;
    }
    if rest.is_empty() { Ok(members) } else { Err("trailing bytes".to_owned()) }
}
