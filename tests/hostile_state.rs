//! A real mesh against a member that lies about what the nodes share: a real QUIC client with a good certificate
//! sends frames about the state, the floor, beats and process starts that no node would send. Each is refused,
//! counted and told in the log by the name of its sender, and changes nothing.

mod common;

use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use shoal::core::error::Refused;
use shoal::core::ids::{NodeId, ProcessId};
use shoal::core::limits;
use shoal::core::model::{
    Actor, Clock, Dot, DotRange, Epoch, Hello, Hlc, KeyState, KeyUpdate, Mode, Sibling, Span, Writer,
};
use shoal::core::wire::{
    self, Ack, Beat, Beats, Control, Past, RequestBody, ResponseBody, Seen, StateAnswer, StateDelta,
    StatePart, StateRequest, StateStatus, StateValue,
};
use shoal::node::{clock, telemetry};
use tokio::time::timeout;

use common::ends;
use common::mesh::{PATIENCE, TestMesh, until};
use common::raw::{Raw, frame, read_frame};

/// What is logged, and counted, by all nodes of this process.
struct Records {
    log: Log,
    metrics: PrometheusHandle,
}

static RECORDS: LazyLock<Records> = LazyLock::new(|| {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).expect("the only one of this process");
    Records { log, metrics: telemetry::collect_metrics().expect("the only ones of this process") }
});

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().expect("nobody panics with it");
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics with it").write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Malformed frames that were dropped so far.
fn malformed() -> u64 {
    let rendered = RECORDS.metrics.render();
    let name = "shoal_transport_bad_frames_total ";
    rendered.lines().find_map(|line| line.strip_prefix(name)?.parse().ok()).unwrap_or(0)
}

async fn ask(mesh: &TestMesh, request: StateRequest) -> StateAnswer {
    let node = mesh.node(1);
    match node.handle().request(node.id(), RequestBody::State(request)).await {
        Ok(ResponseBody::State(answer)) => answer,
        other => panic!("unexpected {other:?}"),
    }
}

async fn status(mesh: &TestMesh) -> StateStatus {
    let StateAnswer::Status(status) = ask(mesh, StateRequest::Status).await else {
        panic!("it is no status");
    };
    *status
}

async fn list(mesh: &TestMesh) -> Vec<StateValue> {
    let request = StateRequest::List { prefix: String::new(), after: None, limit: 100 };
    let StateAnswer::Page { entries, .. } = ask(mesh, request).await else {
        panic!("it is no page");
    };
    entries
}

async fn put(mesh: &TestMesh, key: &str, value: &str) -> Dot {
    let (key, value) = (key.to_owned(), Some(Bytes::copy_from_slice(value.as_bytes())));
    let request = StateRequest::Put { key, value, context: None, ack: Ack::Quorum };
    let StateAnswer::Written { dot, .. } = ask(mesh, request).await else {
        panic!("it is not written");
    };
    dot
}

async fn voters(mesh: &TestMesh) -> (usize, Option<Epoch>) {
    let StateAnswer::Roster(roster) = ask(mesh, StateRequest::Roster).await else {
        panic!("it is no roster");
    };
    (roster.as_ref().map_or(0, |roster| roster.voter_count()), roster.map(|roster| roster.epoch))
}

/// Three nodes that are healthy and vote.
async fn three() -> TestMesh {
    LazyLock::force(&RECORDS);
    let mesh = TestMesh::start(3).await;
    mesh.all_alive().await;
    let three_vote = async {
        while voters(&mesh).await.0 != 3 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, three_vote).await.expect("three become voters");
    becomes_healthy(&mesh).await;
    mesh
}

/// A node that was not given the processor doubts itself for a while.
async fn becomes_healthy(mesh: &TestMesh) {
    let healthy = async {
        while status(mesh).await.partition.mode != Mode::Healthy {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, healthy).await.expect("it is healthy");
}

/// A member of the mesh, as far as its first node can tell.
struct Liar {
    raw: Raw,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    checks: u64,
    /// The question about the state that it was last asked, until it answers.
    asked: Option<u64>,
}

impl Liar {
    async fn join(mesh: &TestMesh) -> Self {
        let address = mesh.node(1).handle().listens_on().expect("it listens");
        let raw = Raw::connect(mesh.ca(), NAME, address).await.expect("connects");
        let mesh_id = mesh.node(1).handle().view().mesh_id;
        let hello = Hello { version_max: wire::PROTOCOL_VERSION, ..ends::hello(NAME, mesh_id) };
        let (send, recv) = raw.say(&frame(&hello)).await;
        until(|| mesh.node(1).handle().view().members.len() == 4).await;
        Self { raw, send, recv, checks: 0, asked: None }
    }

    /// Says something, and waits until the node has done with it: frames are taken in order.
    async fn say(&mut self, said: &Control) {
        self.checks += 1;
        let nonce = self.checks;
        let bytes = [frame(said), frame(&Control::Check { nonce })].concat();
        self.send.write_all(&bytes).await.expect("written");
        let answered = async {
            loop {
                let (kind, body) = read_frame(&mut self.recv).await;
                if kind != wire::FrameKind::Control {
                    continue;
                }
                let heard = wire::decode::<Control>(&body).expect("decodes");
                if heard == (Control::CheckAnswer { nonce }) {
                    return;
                }
                if let Control::StateAsk { question, .. } = heard {
                    self.asked = Some(question);
                }
            }
        };
        timeout(PATIENCE, answered).await.expect("the check is answered");
    }
}

const NAME: &str = "node-9";

/// A process of the liar.
fn actor() -> Actor {
    actor_of(NAME)
}

fn actor_of(writer: &str) -> Actor {
    let (drawn, _) = clock::random_id().as_u64_pair();
    Actor::fresh(&node(writer).key(), drawn.to_be_bytes())
}

fn node(name: &str) -> NodeId {
    name.parse().expect("valid")
}

/// A write as its own node sends it.
fn write(key: &str, dot: Dot, context: Clock, writer: &str) -> StateDelta {
    let sibling = Sibling {
        dot,
        hlc: Hlc::default(),
        writer: Arc::new(Writer { node: node(writer), slot: None }),
        value: Some(Bytes::from_static(b"a lie")),
    };
    let state = KeyState { siblings: vec![sibling], context };
    StateDelta {
        updates: vec![KeyUpdate { key: key.to_owned(), state, more: vec![] }],
        closes: vec![DotRange { actor: dot.actor, from: dot.n, upto: dot.n }],
        ..StateDelta::default()
    }
}

fn prefix(actor: Actor, upto: u64) -> Clock {
    let mut clock = Clock::default();
    clock.set(actor, Span::prefix(upto));
    clock
}

fn crowd(actors: usize) -> Clock {
    (0..actors).map(|_| Dot { actor: actor(), n: 1 }).collect()
}

/// What the node must say of each, and the frame.
fn lies(own: Dot, epoch: Epoch) -> Vec<(&'static str, Control)> {
    let nothing = Clock::default;
    let unmade = Dot { n: own.n + 5, ..own };
    let theirs = Dot { actor: actor(), n: 1 };
    let far = Dot { n: limits::DOT_JUMP_MAX + 2, ..theirs };
    let ahead = prefix(own.actor, own.n + 1000);
    let leap = prefix(actor(), limits::DOT_JUMP_MAX + 2);
    let floor = |number, floor| Control::StateFloor {
        epoch,
        number,
        floor: Seen { base: 0, beyond: floor },
        voids: vec![],
        asks: None,
    };
    let beat =
        Beat { voter: node("node-2"), start: 99, number: 1 << 40, leads: true, unix_ms: None, age_ms: 0 };
    vec![
        (
            "it names a write of this process that it has not made",
            passed_on(write("a", unmade, nothing(), NAME)),
        ),
        ("it sends as its own what another node wrote", state(write("a", unmade, nothing(), NAME))),
        ("it sends as its own what another node wrote", state(write("a", unmade, nothing(), "node-1"))),
        ("has two contents", passed_on(write("a", own, nothing(), NAME))),
        ("it names a write of this process that it has not made", state(write("a", theirs, ahead, NAME))),
        ("jump ahead", state(write("b", far, nothing(), NAME))),
        ("jump ahead", state(write("b", theirs, leap, NAME))),
        ("it speaks for another voter", Control::Beats(Beats { hops: 0, beats: vec![beat] })),
        ("only the holder of the lease tells of floors", floor(u64::MAX, nothing())),
        ("only the holder of the lease tells of floors", floor(2, prefix(actor(), limits::DOT_MAX))),
        ("an absurd start of this node", met(u64::MAX)),
    ]
}

fn state(delta: StateDelta) -> Control {
    Control::State(delta)
}

/// Not as its own.
fn passed_on(delta: StateDelta) -> Control {
    Control::State(StateDelta { hops: 1, ..delta })
}

fn met(start: u64) -> Control {
    Control::Past(Past::Met { start, process: ProcessId(clock::random_id()), promises: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_lies_about_the_state_are_refused_counted_and_told_by_its_name_and_change_nothing() {
    let mesh = three().await;
    let own = put(&mesh, "a", "one").await;
    let (_, epoch) = voters(&mesh).await;
    let before = list(&mesh).await;
    let holder = status(&mesh).await.lease_holder;
    let mut liar = Liar::join(&mesh).await;
    let mut believed = Vec::new();
    for (why, lie) in lies(own, epoch.expect("a roster")) {
        let (refused, lines) = (status(&mesh).await.refused, RECORDS.log.lines().len());
        liar.say(&lie).await;
        let log = RECORDS.log.lines().split_off(lines);
        let is_told = log.iter().any(|line| line.contains(why) && line.contains(NAME));
        let is_counted = status(&mesh).await.refused == refused + 1;
        if !is_told || !is_counted || list(&mesh).await != before {
            believed.push(format!("{why}: told {is_told}, counted {is_counted}: {lie:?}"));
        }
    }
    assert!(believed.is_empty(), "{believed:#?}");
    assert_eq!(list(&mesh).await, before, "nothing has changed");
    assert_eq!(status(&mesh).await.lease_holder, holder);
    an_absurd_floor_in_an_answer(&mesh, &mut liar).await;
    malformed_ones(&mesh, &mut liar, own).await;
    assert_eq!(list(&mesh).await, before);
    put(&mesh, "a", "two").await;
    assert_eq!(list(&mesh).await[0].value.as_ref().map(|value| &value.value[..]), Some(&b"two"[..]));
}

/// A node asks whoever has collected more than it knows of. If it believed the number that comes with the answer, it
/// would never ask again, nor take in another floor.
async fn an_absurd_floor_in_an_answer(mesh: &TestMesh, liar: &mut Liar) {
    let is_member = async {
        loop {
            let StateAnswer::Roster(Some(roster)) = ask(mesh, StateRequest::Roster).await else {
                panic!("there is a roster");
            };
            if roster.members.contains_key(&node(NAME)) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, is_member).await.expect("it becomes a member");
    let (refused, lines) = (status(mesh).await.refused, RECORDS.log.lines().len());
    let ahead = || state(StateDelta { base: 1 << 40, ..StateDelta::default() });
    for _ in 0..2 {
        liar.say(&ahead()).await;
        let question = liar.asked.take().expect("it is asked");
        let part = StatePart { question, is_last: true, floor: u64::MAX, ..StatePart::default() };
        liar.say(&Control::StatePart(Box::new(part))).await;
    }
    assert_eq!(status(mesh).await.refused, refused + 2);
    let log = RECORDS.log.lines().split_off(lines);
    let is_told = log.iter().any(|line| line.contains("so many floors") && line.contains(NAME));
    assert!(is_told, "{log:#?}");
}

/// Frames that are no good whatever the node knows, and then one that no link survives.
async fn malformed_ones(mesh: &TestMesh, liar: &mut Liar, own: Dot) {
    let range = DotRange { actor: own.actor, from: 1, upto: 1 << 63 };
    let wide = StateDelta { closes: vec![range], ..StateDelta::default() };
    let seen = |actors| Seen { base: 0, beyond: crowd(actors) };
    let many = |actors| Control::StateAsk { question: 7, clock: seen(actors), whole: false };
    let lines = RECORDS.log.lines().len();
    let of = |key: &str| write(key, Dot { actor: actor(), n: 1 }, Clock::default(), NAME);
    let mut large = of("large");
    large.updates[0].state.siblings[0].value = Some(vec![0; limits::STATE_VALUE_BYTES_MAX + 1].into());
    let long = of(&"k".repeat(limits::STATE_KEY_BYTES_MAX + 1));
    for bad in [state(wide), many(20_000), state(large), state(long), state(of("_owned/node-1/load"))] {
        let before = malformed();
        liar.say(&bad).await;
        assert_eq!(malformed(), before + 1, "it is counted");
    }
    let log = RECORDS.log.lines().split_off(lines);
    let is_told = log.iter().any(|line| line.contains("malformed frame dropped") && line.contains(NAME));
    assert!(is_told, "{log:#?}");
    assert!(wire::encode(&many(100_000), &mut Vec::new()).is_err(), "no frame holds that many");
    // What such a frame would begin with.
    let header = [&3_000_000_u32.to_le_bytes()[..], &[wire::PROTOCOL_VERSION, 2]].concat();
    liar.send.write_all(&header).await.expect("written");
    liar.raw.is_refused_with(Refused::Malformed).await;
    becomes_healthy(mesh).await;
}
