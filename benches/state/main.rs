//! What the shared state costs, beside SQLite alone and etcd in the same run: `cargo bench --bench state`, longer with
//! `-- --full`, one part with `-- --only=writes` (`visible`, `heal`, `sync`). Each part replaces its own table in
//! `benches/RESULTS.md`.
//!
//! Real nodes in this process, over QUIC on loopback with mutual TLS, on one disk. What is compared is measured by turns in
//! one run, because disks and neighbours change from minute to minute: what counts are the ratios.

#![allow(clippy::print_stdout, reason = "a benchmark prints its tables")]
#![allow(clippy::wildcard_enum_match_arm, reason = "any other answer ends the measurement")]

mod clients;
mod etcd;
mod heal;
#[path = "../../tests/common/mesh.rs"]
#[allow(dead_code, unreachable_pub, missing_debug_implementations, reason = "it is the tests' too")]
mod mesh;
mod raw;
#[path = "../shared/results.rs"]
#[allow(dead_code, reason = "each benchmark uses a part")]
mod results;
#[path = "../../tests/running/mod.rs"]
mod running;
mod sync;
mod tables;
mod visible;
mod writes;

use std::time::Duration;

use shoal::core::model::Mode;
use shoal::core::wire::{StateAnswer, StateRequest, StateStatus};
use shoal::node::Handle;
use tokio::runtime::{Builder, Runtime};

use mesh::TestMesh;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// Some minutes.
    Short,
    /// All sizes, more rounds.
    Full,
}

type Part = (&'static str, &'static str, fn(&Runtime, Size) -> String);

const PARTS: [Part; 4] = [
    ("writes", "Durable writes of 64 clients", writes::measure),
    ("visible", "From a write to all nodes", visible::measure),
    ("heal", "Writes that waited for a majority", heal::measure),
    ("sync", "Differences of 100 keys in states of all sizes", sync::measure),
];

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let size = if arguments.iter().any(|a| a == "--full") { Size::Full } else { Size::Short };
    let only = arguments.iter().find_map(|a| a.strip_prefix("--only="));
    let runtime = Builder::new_multi_thread().enable_all().build().expect("an executor");
    for (name, title, measure) in PARTS.into_iter().filter(|(name, ..)| only.is_none_or(|only| only == *name))
    {
        let measured = measure(&runtime, size);
        let part = format!("state --only={name}");
        let command = if size == Size::Full { format!("{part} --full") } else { part.clone() };
        let machine = results::machine();
        let text = format!(
            "## {title} (`cargo bench --bench state -- --only={name}`)\n\n{machine}. `{command}`.\n\n{measured}"
        );
        println!("\n{text}");
        results::write_part(&part, &text).expect("benches/RESULTS.md can be written");
    }
}

/// CPU that this process has used.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks: u64 = fields.split(' ').skip(11).take(2).flat_map(str::parse::<u64>).sum();
    // USER_HZ is 100 on every Linux.
    Duration::from_millis(ticks * 10)
}

/// How a node stands.
async fn standing(node: &Handle) -> StateStatus {
    match clients::state(node, StateRequest::Status).await {
        StateAnswer::Status(status) => *status,
        other => panic!("a question about the standing was answered with {other:?}"),
    }
}

/// Waits until a node stands as `is_so` says. Looking costs the node something, so it is done every millisecond at most.
async fn until_standing(node: &Handle, is_so: impl Fn(&StateStatus) -> bool) -> StateStatus {
    let begun = tokio::time::Instant::now();
    loop {
        let status = standing(node).await;
        if is_so(&status) {
            return status;
        }
        assert!(begun.elapsed() < Duration::from_secs(600), "it stays {status:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Nodes that vote in a large mesh.
const VOTERS: usize = 7;

/// Waits until the first `count` nodes see each other, are among a majority and in the roster, with all voters.
async fn all_healthy(mesh: &TestMesh, count: usize) {
    mesh.all_alive().await;
    for n in 1..=count {
        let is_so = |status: &StateStatus| status.partition.mode == Mode::Healthy;
        until_standing(mesh.node(n).handle(), is_so).await;
    }
    loop {
        let roster = clients::state(mesh.node(1).handle(), StateRequest::Roster).await;
        if let StateAnswer::Roster(Some(roster)) = roster
            && roster.members.len() == count
            && roster.voters().count() == count.min(VOTERS)
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until nodes hold the same, and how long that took.
async fn until_equal(a: &Handle, b: &Handle) -> Duration {
    let begun = std::time::Instant::now();
    loop {
        let ours = standing(a).await;
        let theirs = standing(b).await;
        if ours.hash == theirs.hash && ours.gaps + theirs.gaps == 0 {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(900), "{ours:?} is not {theirs:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
