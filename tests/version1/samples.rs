//! What the recorded frames of version 1 say, as values of the present build.

use std::collections::BTreeMap;

use bytes::Bytes;
use shoal::core::error::{Refusal, SendError};
use shoal::core::ids::{AgentName, Incarnation, MeshId, NodeId, ProcessId};
use shoal::core::model::{
    Address, AgentRecord, AgentSource, AgentSpec, AgentState, Answer, Hello, Load, Message, NodeCard,
    Performative, ProcessProtocol,
};
use shoal::core::wire::{
    AgentStats, Control, Data, MemberEntry, MemberEntryState, OwnedBatch, OwnedRecord, OwnedVersion,
    RequestBody, ResponseBody, Want, encode_value,
};
use uuid::Uuid;

/// The card of the node that the frames were recorded from.
pub fn card() -> NodeCard {
    NodeCard {
        node_id: node("node-9"),
        addresses: vec!["127.0.0.1:9".to_owned(), "[::1]:9".to_owned()],
        region: "north".to_owned(),
        zone: "a".to_owned(),
        labels: BTreeMap::from([("role".to_owned(), "gateway".to_owned())]),
        roles: vec![],
        version: "0.1.0".to_owned(),
    }
}

/// Hellos, by the name of the file that each is recorded in.
pub fn hellos() -> Vec<(&'static str, Hello)> {
    let joining = Hello {
        version_min: 1,
        version_max: 1,
        mesh_id: None,
        mesh_name: "test".parse().expect("valid"),
        process_id: ProcessId(uuid(9)),
        incarnation: Incarnation::first_of(1),
        card: card(),
        bulk_beside: None,
    };
    let member = Hello { mesh_id: Some(MeshId(uuid(7))), ..joining.clone() };
    vec![("hello-joining", joining), ("hello-member", member)]
}

/// Control frames, requests and answers among them.
pub fn controls() -> Vec<(&'static str, Control)> {
    let entry = |state| MemberEntry {
        key: node("node-9").key(),
        incarnation: Incarnation(Incarnation::first_of(3).0 + 2),
        refutations: 4,
        state,
    };
    let members = [
        MemberEntryState::Alive,
        MemberEntryState::Suspect,
        MemberEntryState::Failed,
        MemberEntryState::Left,
        MemberEntryState::Forgotten,
    ];
    let members = members.into_iter().map(entry).collect();
    let have = vec![OwnedVersion { node: node("node-9"), start: 3, n: 17 }];
    let batch =
        OwnedBatch { node: node("node-9"), start: 3, after: 0, upto: 8, floor: 1, records: records() };
    let mut all = vec![
        ("control-members", Control::Members { members, reply: true }),
        ("control-summary", Control::Summary { members: u64::MAX, owned: 5, shared: None, crls: None }),
        ("control-owned-digest", Control::OwnedDigest { have, reply: false }),
        ("control-owned", Control::Owned { batches: vec![batch] }),
        ("control-held-for-failed", Control::HeldForFailed { incarnation: Incarnation::first_of(3) }),
        ("control-leaving", Control::Leaving { incarnation: Incarnation::first_of(3), forget: true }),
        ("control-duplicate-seen", Control::DuplicateSeen { address: "10.0.0.1:7946".to_owned() }),
        ("control-check", Control::Check { nonce: 41 }),
        ("control-check-answer", Control::CheckAnswer { nonce: 41 }),
        ("control-keep-alive", Control::KeepAlive),
    ];
    let requests = requests().into_iter().map(|(name, body)| (name, Control::Request { id: 6, body }));
    let responses = responses().into_iter().map(|(name, result)| (name, Control::Response { id: 6, result }));
    all.extend(requests.chain(responses));
    all
}

fn requests() -> Vec<(&'static str, RequestBody)> {
    let process = AgentSource::Process {
        protocol: ProcessProtocol::Http,
        command: "python3".to_owned(),
        args: vec!["-m".to_owned(), "agent".to_owned()],
    };
    vec![
        ("request-ping", RequestBody::Ping),
        ("request-deploy-native", RequestBody::Deploy { spec: echo() }),
        ("request-deploy-process", RequestBody::Deploy { spec: AgentSpec::new(agent(), process) }),
        ("request-stop-agent", RequestBody::StopAgent { agent: agent() }),
        ("request-agent-info", RequestBody::AgentInfo { agent: agent() }),
        ("request-agent-logs", RequestBody::AgentLogs { agent: agent(), lines: 100 }),
        ("request-leave", RequestBody::Leave { drain_ms: 60_000, force: false }),
    ]
}

fn responses() -> Vec<(&'static str, Result<ResponseBody, Refusal>)> {
    let stats = AgentStats {
        pid: Some(4711),
        uptime_seconds: 60,
        requests: 12,
        errors: 1,
        waiting: 2,
        ..Default::default()
    };
    let lines = vec!["one".to_owned(), "two".to_owned()];
    let node = || node("node-9");
    let text = |text: &str| text.to_owned();
    vec![
        ("response-done", Ok(ResponseBody::Done)),
        ("response-agent-info", Ok(ResponseBody::AgentInfo { spec: echo(), stats, care: None })),
        ("response-lines", Ok(ResponseBody::Lines { lines })),
        ("refusal-unknown-node", Err(Refusal::UnknownNode { node: node() })),
        ("refusal-node-down", Err(Refusal::NodeDown { node: node(), status: text("failed") })),
        ("refusal-unknown-agent", Err(Refusal::UnknownAgent { agent: agent(), node: node() })),
        ("refusal-agent-exists", Err(Refusal::AgentExists { agent: agent(), node: node() })),
        (
            "refusal-start-failed",
            Err(Refusal::StartFailed { agent: agent(), node: node(), reason: text("exit status 1") }),
        ),
        ("refusal-overloaded", Err(Refusal::Overloaded { what: text("the store's queue of node-9") })),
        ("refusal-timed-out", Err(Refusal::TimedOut { node: node(), deadline_ms: 15_000 })),
        ("refusal-link-lost", Err(Refusal::LinkLost { node: node() })),
        ("refusal-bad-request", Err(Refusal::BadRequest { why: text("the command is empty") })),
        ("refusal-store-failed", Err(Refusal::StoreFailed { node: node(), reason: text("disk full") })),
        ("refusal-joining", Err(Refusal::Joining { node: node() })),
    ]
}

/// Data frames.
pub fn data() -> Vec<(&'static str, Data)> {
    let message = |to: &str| Message {
        id: uuid(1),
        from: "writer@node-9".to_owned(),
        to: Address::parse(to).expect("valid"),
        performative: Performative::QueryRef,
        conversation_id: Some("c-1".to_owned()),
        in_reply_to: Some(uuid(2)),
        content_type: "text/plain".to_owned(),
        content: Bytes::from_static(b"hello"),
        deadline_ms: 5_000,
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        hops: 2,
        extensions: BTreeMap::from([(7, Bytes::from_static(b"later"))]),
    };
    let bare = Message {
        conversation_id: None,
        in_reply_to: None,
        traceparent: None,
        extensions: BTreeMap::new(),
        ..message("echo")
    };
    let deliver = |want, tag, message| Data::Deliver { want, tag, message };
    let answer = Answer {
        from: "echo@node-9".to_owned(),
        content_type: "text/plain".to_owned(),
        content: Bytes::from_static(b"hello"),
    };
    let outcome = |result| Data::Outcome { tag: 8, result };
    let mut all = vec![
        ("data-deliver-answer", deliver(Want::Answer, 8, message("echo@node-1"))),
        ("data-deliver-receipt", deliver(Want::Receipt, 9, message("echo"))),
        ("data-deliver-nothing", deliver(Want::Nothing, 0, bare)),
        ("data-outcome-answer", outcome(Ok(Some(answer)))),
        ("data-outcome-receipt", outcome(Ok(None))),
    ];
    all.extend(send_errors().into_iter().map(|(name, error)| (name, outcome(Err(error)))));
    all
}

fn send_errors() -> Vec<(&'static str, SendError)> {
    let node = || node("node-9");
    let text = |text: &str| text.to_owned();
    vec![
        ("send-error-unknown-agent", SendError::UnknownAgent { agent: agent() }),
        ("send-error-node-down", SendError::NodeDown { agent: agent(), node: node(), status: text("left") }),
        (
            "send-error-not-running",
            SendError::NotRunning { agent: agent(), node: node(), state: text("draining") },
        ),
        ("send-error-overloaded", SendError::Overloaded { what: text("the mailbox of writer") }),
        ("send-error-deadline-exceeded", SendError::DeadlineExceeded { deadline_ms: 5_000 }),
        ("send-error-content-too-large", SendError::ContentTooLarge { bytes: 1 << 21, bytes_max: 1 << 20 }),
        ("send-error-bad-address", SendError::BadAddress { address: text("a b"), why: text("a space") }),
        ("send-error-link-lost", SendError::LinkLost { node: node() }),
        ("send-error-agent-failed", SendError::AgentFailed { agent: agent(), reason: text("exit status 1") }),
        ("send-error-too-many-hops", SendError::TooManyHops { hops: 16 }),
        ("send-error-joining", SendError::Joining { node: node(), agent: agent() }),
        ("send-error-stopping", SendError::Stopping { node: node() }),
    ]
}

/// A node's records of every kind and state; they travel inside `control-owned`.
fn records() -> Vec<OwnedRecord> {
    let states = [
        AgentState::Starting,
        AgentState::Running,
        AgentState::Draining,
        AgentState::Restarting { reason: "exit status 1".to_owned() },
        AgentState::Failed { reason: "exit status 1".to_owned(), quarantined: false },
    ];
    let agents = states.into_iter().enumerate().map(|(n, state)| {
        let (offer, health, breaker, depends_on, waits, order) = Default::default();
        let record = AgentRecord {
            kind: "stdio".to_owned(),
            state,
            restarts: 2,
            offer,
            health,
            breaker,
            depends_on,
            waits,
            order,
        };
        (format!("agents/agent-{n}"), Some(encode_value(&record)))
    });
    let load = Load { cpu_permille: 125, memory_bytes: 1 << 33 };
    let own =
        [("node".to_owned(), Some(encode_value(&card()))), ("load".to_owned(), Some(encode_value(&load)))];
    let removed = [("agents/gone".to_owned(), None)];
    let all = own.into_iter().chain(agents).chain(removed).zip(1..);
    all.map(|((path, value), n)| OwnedRecord { path, n, value }).collect()
}

/// What [`records`] hold.
pub fn record_values() -> (NodeCard, Load) {
    (card(), Load { cpu_permille: 125, memory_bytes: 1 << 33 })
}

fn echo() -> AgentSpec {
    AgentSpec::new(agent(), AgentSource::Native { builtin: "echo".to_owned() })
}

fn agent() -> AgentName {
    "writer".parse().expect("valid")
}

fn node(name: &str) -> NodeId {
    name.parse().expect("valid")
}

fn uuid(byte: u8) -> Uuid {
    Uuid::from_bytes([byte; 16])
}
