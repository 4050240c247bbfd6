//! From a write on one node until it can be read in the memory of all.

use std::fmt::Write;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::clients::{millis, put};
use crate::mesh::TestMesh;
use crate::raw::{Raw, value};
use crate::results::{percentile, shown};
use crate::{Size, all_healthy};

/// Between two writes: by then what the others took in is on the disk that all of them share here.
const PAUSE: Duration = Duration::from_millis(150);

/// What was measured of one size, in milliseconds.
#[derive(Default)]
struct Measured {
    nodes: usize,
    raw: Vec<f64>,
    round_trip: Vec<f64>,
    answered: Vec<f64>,
    everywhere: Vec<f64>,
    /// From the answer to the last node.
    beyond: Vec<f64>,
}

pub(crate) fn measure(runtime: &Runtime, size: Size) -> String {
    let writes = if size == Size::Full { 400 } else { 100 };
    let measured: Vec<_> = [5, 30].map(|nodes| runtime.block_on(one_size(nodes, writes))).into();
    table(&measured, writes)
}

async fn one_size(nodes: usize, writes: u64) -> Measured {
    let mesh = TestMesh::start(nodes).await;
    all_healthy(&mesh, nodes).await;
    let directory = tempfile::tempdir().expect("a directory");
    let mut raw = Raw::open(&directory.path().join("raw.db"));
    let (seen, mut sightings) = mpsc::unbounded_channel();
    for n in 2..=nodes {
        let mut live = mesh.node(n).handle().state_changes().subscribe(None).live;
        let seen = seen.clone();
        tokio::spawn(async move {
            while let Ok(change) = live.recv().await {
                let _ = seen.send((change.event.key.clone(), Instant::now()));
            }
        });
    }
    let mut measured = Measured { nodes, ..Measured::default() };
    let writer = mesh.node(1).handle();
    for n in 0..writes + WARM_UP {
        tokio::time::sleep(PAUSE).await;
        let commit = raw.commit(n, 1);
        let key = format!("visible/{n}");
        let begun = Instant::now();
        put(writer, key.clone(), value(n)).await;
        let answered = begun.elapsed();
        let mut times = Vec::new();
        while times.len() < nodes - 1 {
            let (seen, at) = sightings.recv().await.expect("the watchers live");
            if seen == key {
                times.push(at - begun);
            }
        }
        if n < WARM_UP {
            continue;
        }
        let everywhere = times.into_iter().max().unwrap_or_default();
        measured.raw.push(millis(commit));
        measured.answered.push(millis(answered));
        measured.everywhere.push(millis(everywhere));
        measured.beyond.push(millis(everywhere.saturating_sub(answered)));
        measured.round_trip.push(round_trip(&mesh));
    }
    measured
}

/// Writes that are not counted.
const WARM_UP: u64 = 10;

/// The longest of the writer's links.
fn round_trip(mesh: &TestMesh) -> f64 {
    let writer = mesh.node(1).handle();
    let view = writer.view();
    let links = view.members.iter().filter_map(|(_, link)| writer.rtt((*link)?));
    links.max().map_or(0.0, millis)
}

fn table(measured: &[Measured], writes: u64) -> String {
    let mut text = format!(
        "{writes} writes one after another on one node of a mesh in this process; a write can be read where a watcher of that node has\n\
         heard of it. Before each, one row is committed with SQLite alone. Times in milliseconds. All nodes share two\n\
         cores and one disk, which real ones do not. Goals, p99: commit + 5 ms at 5 nodes, commit + 20 ms at 30.\n\n\
         | nodes | | p50 | p99 |\n|---|---|---|---|\n"
    );
    for of in measured {
        let rows = [
            ("raw commit of one row", &of.raw),
            ("longest round trip of a link, as QUIC smooths it", &of.round_trip),
            ("write to answer (on the disk)", &of.answered),
            ("write to readable on all nodes", &of.everywhere),
            ("answer to readable on all nodes", &of.beyond),
        ];
        for (name, values) in rows {
            let (p50, p99) = (shown(percentile(values, 0.5)), shown(percentile(values, 0.99)));
            let _ = writeln!(text, "| {} | {name} | {p50} | {p99} |", of.nodes);
        }
    }
    text
}
