//! What it costs to level a difference of 100 keys between nodes that hold many, and what holding them costs.

use std::fmt::Write;
use std::time::{Duration, Instant};

use shoal::core::model::{MemberStatus, Mode};
use shoal::core::wire::{StateAnswer, StateRequest};
use shoal::node::Handle;
use tokio::runtime::Runtime;

use crate::clients::{millis, put, state};
use crate::mesh::TestMesh;
use crate::raw::value;
use crate::results::shown;
use crate::running::{Running, shoal};
use crate::{Size, all_healthy, until_equal, until_standing};

/// Keys that differ.
const DIFFERENT: u64 = 100;
/// Clients that fill the state.
const CLIENTS: u64 = 256;

/// What one size took.
#[derive(Default)]
struct Measured {
    keys: u64,
    /// Of a restart of the node that lacks the keys, until it runs.
    start: Duration,
    /// From the link until both are equal; with nothing different, until both have said so.
    level: Duration,
    /// Bytes over the link in both directions until then, and without a difference over the same link.
    bytes: u64,
    bytes_alike: u64,
}

/// Of a node's process of its own.
struct Process {
    keys: u64,
    start: Duration,
    resident: u64,
}

pub(crate) fn measure(runtime: &Runtime, size: Size) -> String {
    let sizes: &[u64] = match size {
        Size::Short => &[1_000, 10_000, 100_000],
        Size::Full => &[1_000, 10_000, 100_000, 1_000_000],
    };
    let mut mesh = runtime.block_on(two_nodes());
    let (mut measured, mut keys) = (Vec::new(), 0);
    for size in sizes {
        runtime.block_on(fill(mesh.node(1).handle(), keys, *size));
        keys = *size;
        measured.push(runtime.block_on(level(&mut mesh, keys)));
    }
    runtime.block_on(mesh.stop(1));
    let process = alone(&mesh, keys);
    table(&measured, &process)
}

/// Two nodes, each of which may write without the other.
async fn two_nodes() -> TestMesh {
    let mesh = TestMesh::start(2).await;
    all_healthy(&mesh, 2).await;
    let change =
        StateRequest::SetRoster { key: "quorum_size".to_owned(), value: "1".to_owned(), split_writes: true };
    match state(mesh.node(1).handle(), change).await {
        StateAnswer::Roster(Some(roster)) => assert_eq!(roster.quorum(), 1),
        other => panic!("a change of the roster was answered with {other:?}"),
    }
    mesh
}

async fn fill(node: &Handle, from: u64, upto: u64) {
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let node = node.clone();
            tokio::spawn(async move {
                for n in (from + client..upto).step_by(CLIENTS as usize) {
                    put(&node, key(n), value(n)).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a client does not panic");
    }
}

fn key(n: u64) -> String {
    format!("orders/{n:07}")
}

/// Starts the second node again after 100 keys were written without it, and before that after none were.
async fn level(mesh: &mut TestMesh, keys: u64) -> Measured {
    until_equal(mesh.node(1).handle(), mesh.node(2).handle()).await;
    let (_, _, bytes_alike) = again(mesh, 0, keys).await;
    let (start, level, bytes) = again(mesh, DIFFERENT, keys).await;
    Measured { keys, start, level, bytes, bytes_alike }
}

async fn again(mesh: &mut TestMesh, different: u64, keys: u64) -> (Duration, Duration, u64) {
    mesh.stop(2).await;
    let first = mesh.node(1).handle().clone();
    until_standing(&first, |status| status.partition.mode == Mode::Healthy).await;
    for n in 0..different {
        // Spread over all of them.
        put(&first, key(n * (keys / DIFFERENT)), value(keys + n)).await;
    }
    let begun = Instant::now();
    mesh.restart(2).await;
    let start = begun.elapsed();
    let second = mesh.node(2).handle().clone();
    while mesh.status(1, 2) != Some(MemberStatus::Alive) || link(&first).is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let linked = Instant::now();
    until_standing(&second, |status| status.partition.mode == Mode::Healthy).await;
    until_equal(&first, &second).await;
    (start, linked.elapsed(), link(&first).expect("they are linked"))
}

/// Bytes of this node's only link, both ways.
fn link(node: &Handle) -> Option<u64> {
    let view = node.view();
    let link = view.members.iter().find_map(|(_, link)| *link)?;
    let stats = node.peer(link)?.stats();
    Some(stats.udp_tx.bytes + stats.udp_rx.bytes)
}

/// Starts the first node's directory as a process.
fn alone(mesh: &TestMesh, keys: u64) -> Process {
    let certs = mesh.certs(1);
    let data_dir = certs.parent().expect("the data directory").to_owned();
    let mut command = shoal();
    command.args(["server", "start", "--node-id", "node-1", "--log-format", "json"]);
    command.arg("--data-dir").arg(&data_dir);
    command.args(["--bind-addr", "127.0.0.1:0", "--api-addr", "127.0.0.1:0"]);
    let begun = Instant::now();
    let node = Running::start(command, data_dir);
    node.until("/v1/cluster/status", |answer| answer.status == 200);
    let start = begun.elapsed();
    node.until("/v1/cluster/status", |answer| answer.json()["mode"] == "healthy");
    Process { keys, start, resident: node.resident_bytes() }
}

fn table(measured: &[Measured], process: &Process) -> String {
    let mut text = format!(
        "Two nodes hold as many keys of 128 bytes each; one stops, {DIFFERENT} keys spread over all are written on the other, it starts again.\n\
         Bytes are those of the link in both directions, with everything else that is said on it, until the restarted node is\n\
         among a majority and both are equal; beside them those of a restart after which nothing differs.\n\n\
         | keys | restart ms | link to equal ms | bytes | bytes when alike |\n|---|---|---|---|---|\n"
    );
    for of in measured {
        let (start, level) = (shown(Some(millis(of.start))), shown(Some(millis(of.level))));
        let _ = writeln!(text, "| {} | {start} | {level} | {} | {} |", of.keys, of.bytes, of.bytes_alike);
    }
    let start = shown(Some(process.start.as_secs_f64()));
    let resident = process.resident as f64 / 1e6;
    let _ = writeln!(
        text,
        "\nA node with {} keys as a process: {start} s from its start to the first answer of its API, then {resident:.0} MB resident\n\
         (goal: 500 MB with 1,000,000 keys).",
        process.keys
    );
    text
}
