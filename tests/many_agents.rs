//! Many agents of one component on a real node, asked through another one, with as many live instances as there may be.
//!
//! `SHOAL_AGENTS=10000 cargo test --release --test many_agents -- --nocapture` has as many agents as a node may have.

#![cfg(feature = "wasm")]

mod running;
mod wasm;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use running::{Answer, LONG, Place, Running};
use serde_json::{Value, json};
use shoal::core::limits;

/// Clients that ask at the same time.
const CLIENTS: usize = 32;

/// Does it for each number, by several clients; numbers are given out in order.
fn for_each(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    work(n);
                }
            });
        }
    });
}

fn deploy(node: &Running, n: usize, module: &Value, instance: &str) -> Answer {
    let source = json!({"kind": "wasm", "module": module, "instance": instance, "memory_bytes": 1 << 20});
    node.post("/v1/agents", &json!({"name": format!("tally-{n}"), "source": source}))
}

/// What that agent answers: how many messages its instance has had.
fn tally(node: &Running, n: usize) -> String {
    let asked = json!({"to": format!("tally-{n}"), "content": "x", "deadline_ms": 30_000});
    let answer = node.post("/v1/messages", &asked);
    assert_eq!(answer.status, 200, "tally-{n}: {answer:?}");
    answer.json()["content"].as_str().expect("text").to_owned()
}

/// How many agents that node knows to run.
fn running_agents(node: &Running) -> usize {
    let all = node.get("/v1/agents").json();
    all.as_array().expect("a list").iter().filter(|agent| agent["state"] == "running").count()
}

#[test]
fn a_node_has_thousands_of_agents_of_one_component_a_thousand_live_and_has_them_again_after_a_kill() {
    let place = Place::new();
    let first = place.bootstrap("n1", &[]);
    let node = place.join("n2", &first);
    let module = node.ask("POST", "/v1/modules", &[], &wasm::tally()).json()["module"].clone();
    let count = std::env::var("SHOAL_AGENTS").map_or(2_000, |text| text.parse().expect("a number"));
    let patience = 2 * LONG + Duration::from_millis(50) * u32::try_from(count).expect("few");
    // Half of them keep an instance as long as there is room, the other half have one for each message.
    let life = |n: usize| if n < count / 2 { "long-lived" } else { "per-message" };
    let empty = node.resident_bytes();
    let begun = Instant::now();
    for_each(count, |n| {
        let deployed = deploy(&node, n, &module, life(n));
        assert_eq!(deployed.status, 201, "tally-{n}: {deployed:?}");
    });
    let deployed = node.resident_bytes();
    println!("{count} agents in {:?}: {} bytes each", begun.elapsed(), (deployed - empty) / count as u64);
    if count == limits::AGENTS_PER_NODE_MAX {
        let refused = deploy(&node, count, &module, "long-lived");
        assert!(refused.status >= 400 && refused.body.contains("10000"), "{refused:?}");
    }

    let begun = Instant::now();
    while running_agents(&first) < count {
        assert!(begun.elapsed() < patience, "n1 knows of {} only", running_agents(&first));
    }
    println!("n1 knew of all {:?} later", begun.elapsed());
    let live = limits::WASM_INSTANCES_MAX;
    let begun = Instant::now();
    for wanted in ["1", "2"] {
        for_each(live, |n| assert_eq!(tally(&first, n), wanted, "tally-{n} has kept its instance"));
    }
    let lived = node.resident_bytes();
    println!(
        "{live} live instances, asked twice in {:?}: {} bytes each",
        begun.elapsed(),
        lived.saturating_sub(deployed) / live as u64
    );
    let begun = Instant::now();
    for_each(count, |n| {
        let wanted = if n < live { "3" } else { "1" };
        let tally = tally(&first, n);
        // Those that came between have pushed some of the first ones out.
        assert!(tally == wanted || (n < live && tally == "1"), "tally-{n}: {tally}");
    });
    println!("all {count} answered in {:?}; resident {} bytes", begun.elapsed(), node.resident_bytes());

    let bind = first.get("/v1/cluster/members").json();
    let own = bind.as_array().expect("a list").iter().find(|member| member["node_id"] == "n2").cloned();
    let bind = own.expect("n2")["address"].as_str().expect("an address").to_owned();
    drop(node);
    let begun = Instant::now();
    let node = place.start("n2", &["--bind-addr", &bind]);
    while running_agents(&node) < count {
        assert!(begun.elapsed() < patience, "{} of them are back", running_agents(&node));
    }
    println!("all ran again {:?} after a kill", begun.elapsed());
    for n in [0, count / 2, count - 1] {
        assert_eq!(tally(&node, n), "1");
    }
}
