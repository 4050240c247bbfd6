//! A node without a majority queues writes; when it has one again they are made, and all nodes come to hold the same.

use std::fmt::Write;
use std::time::{Duration, Instant};

use shoal::core::model::{Mode, Outcome, Ticket, TicketState};
use shoal::core::wire::{StateAnswer, StateRequest};
use shoal::node::Handle;
use tokio::runtime::Runtime;

use crate::clients::{millis, put_queued, state};
use crate::mesh::TestMesh;
use crate::raw::{Raw, value};
use crate::results::{percentile, shown};
use crate::{Size, all_healthy, until_equal, until_standing};

/// As many as a queue takes.
const WRITES: u64 = 10_000;
/// Clients that queue them.
const CLIENTS: u64 = 64;
/// Rows of one transaction of bare SQLite: what the store has in one while it replays.
const BATCH: u64 = 64;

/// What one run took, in milliseconds.
struct Run {
    raw: f64,
    queueing: f64,
    /// From the start of the others until this node is among a majority and has compared.
    healthy: f64,
    /// From then until every write is made.
    replay: f64,
    /// From then until all nodes are equal.
    equal: f64,
}

pub(crate) fn measure(runtime: &Runtime, size: Size) -> String {
    let runs = if size == Size::Full { 5 } else { 2 };
    let runs: Vec<_> = (0..runs).map(|_| runtime.block_on(one_run())).collect();
    table(&runs)
}

async fn one_run() -> Run {
    let mut mesh = TestMesh::start(3).await;
    all_healthy(&mesh, 3).await;
    let queueing_node = mesh.node(1).handle().clone();
    for n in [2, 3] {
        mesh.stop(n).await;
    }
    until_standing(&queueing_node, |status| status.partition.mode == Mode::Degraded).await;
    let begun = Instant::now();
    let tickets = queue_all(&queueing_node).await;
    let queueing = millis(begun.elapsed());

    let directory = tempfile::tempdir().expect("a directory");
    let mut raw = Raw::open(&directory.path().join("raw.db"));
    let raw: Duration = (0..WRITES).step_by(BATCH as usize).map(|first| raw.commit(first, BATCH)).sum();

    let begun = Instant::now();
    for n in [2, 3] {
        mesh.restart(n).await;
    }
    until_standing(&queueing_node, |status| status.partition.mode == Mode::Healthy).await;
    let healthy = begun.elapsed();
    let replaying = Instant::now();
    until_standing(&queueing_node, |status| status.queued == 0).await;
    let replay = millis(replaying.elapsed());
    for n in [2, 3] {
        until_equal(&queueing_node, mesh.node(n).handle()).await;
    }
    let equal = millis(replaying.elapsed());
    check(&mesh, &tickets).await;
    Run { raw: millis(raw), queueing, healthy: millis(healthy), replay, equal }
}

async fn queue_all(node: &Handle) -> Vec<Ticket> {
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let node = node.clone();
            tokio::spawn(async move {
                let mut tickets = Vec::new();
                for n in (client..WRITES).step_by(CLIENTS as usize) {
                    tickets.push(put_queued(&node, key(n), value(n)).await);
                }
                tickets
            })
        })
        .collect();
    let mut tickets = Vec::new();
    for task in tasks {
        tickets.extend(task.await.expect("a client does not panic"));
    }
    tickets
}

fn key(n: u64) -> String {
    format!("queued/{n:05}")
}

/// No write is lost and none was made twice: each ticket was applied, and each node has each value once.
async fn check(mesh: &TestMesh, tickets: &[Ticket]) {
    assert_eq!(tickets.len() as u64, WRITES);
    for ticket in tickets {
        let answer = state(mesh.node(1).handle(), StateRequest::Ticket { ticket: ticket.clone() }).await;
        let StateAnswer::Ticket(view) = answer else {
            panic!("a question about a ticket was answered with {answer:?}")
        };
        assert_eq!(view.state, TicketState::Done(Outcome::Applied), "{ticket}");
    }
    for n in 1..=3 {
        let (mut after, mut found) = (None, 0);
        loop {
            let list = StateRequest::List { prefix: "queued/".to_owned(), after, limit: 1000 };
            let StateAnswer::Page { entries, more } = state(mesh.node(n).handle(), list).await else {
                panic!("a list was answered otherwise")
            };
            for entry in &entries {
                assert_eq!((entry.key.as_str(), entry.siblings.len()), (key(found).as_str(), 0));
                let held = entry.value.as_ref().map(|held| held.value.to_vec());
                assert_eq!(held, Some(value(found)), "{}", entry.key);
                found += 1;
            }
            after = entries.last().map(|entry| entry.key.clone());
            if !more {
                break;
            }
        }
        assert_eq!(found, WRITES, "on node {n}");
    }
}

fn table(runs: &[Run]) -> String {
    let mut text = format!(
        "{} runs: two of three nodes stop, {WRITES} writes of 128 bytes to as many keys are queued on the third by {CLIENTS} clients, the two\n\
         start again. Raw: the same rows with SQLite alone, {BATCH} in a transaction, in the same run. Checked in each run: every\n\
         ticket `applied`, every value once on every node: 0 lost, 0 doubled. Goal: at least 0.1x the raw rate.\n\n\
         | | median s | worst s | writes/s | beside raw |\n|---|---|---|---|---|\n",
        runs.len()
    );
    let rows: [(&str, Figure); 5] = [
        ("raw SQLite", |run| run.raw),
        ("writes to tickets", |run| run.queueing),
        ("start of the two to majority", |run| run.healthy),
        ("majority to all writes made", |run| run.replay),
        ("majority to all nodes equal", |run| run.equal),
    ];
    let raw = median(runs, |run| run.raw);
    for (name, of) in rows {
        let middle = median(runs, of);
        let worst = runs.iter().map(of).fold(0.0, f64::max);
        let (rate, beside) = match name {
            "start of the two to majority" => ("-".to_owned(), "-".to_owned()),
            _ => (shown(Some(WRITES as f64 * 1e3 / middle)), format!("{:.2}x", raw / middle)),
        };
        let (middle, worst) = (shown(Some(middle / 1e3)), shown(Some(worst / 1e3)));
        let _ = writeln!(text, "| {name} | {middle} | {worst} | {rate} | {beside} |");
    }
    text
}

/// What is shown of a run.
type Figure = fn(&Run) -> f64;

fn median(runs: &[Run], of: Figure) -> f64 {
    percentile(&runs.iter().map(of).collect::<Vec<_>>(), 0.5).unwrap_or_default()
}
