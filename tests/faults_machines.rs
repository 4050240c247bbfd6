//! Faults of the catalogue in `docs/faults.md` that need whole machines, each by its number: real processes
//! in network namespaces. Needs root, `ip` and `tc`; where they are not, a test fails and says so.

mod common;

use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::netns::{Net, until};

const UPPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/agents/upper.py");

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Asks the agent through one node after another until one answers, for as long as a patient client would.
fn ask_somewhere(net: &Net, first: usize) -> bool {
    let begun = Instant::now();
    (first..).take_while(|_| begun.elapsed() < Duration::from_secs(10)).any(|n| {
        let ask = ["message", "ask", "--to", "upper", "--content", "x", "--deadline", "2s"];
        net.shoal(n % 3 + 1, &ask).status.success()
    })
}

#[test]
fn fault_10_a_rolling_restart_under_load_fails_no_request_that_is_tried_again() {
    let net = Net::new(3);
    let one = net.start(1, &["--bootstrap"]);
    one.until_ready();
    let mut nodes = vec![one, net.start(2, &["--join", "node-1"]), net.start(3, &["--join", "node-1"])];
    net.all_alive(&[1, 2, 3]);
    for n in 1..=3 {
        succeeds(&net.shoal(n, &["deploy", UPPER, "--name", "upper"]));
    }
    let (over, answered, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for client in 0..2 {
            let (net, over, answered, failed) = (&net, &over, &answered, &failed);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let counter = if ask_somewhere(net, client) { answered } else { failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for n in 1..=3 {
            assert_eq!(nodes.remove(0).stop().code(), Some(0));
            let others: Vec<_> = (1..=3).filter(|other| *other != n).collect();
            let alive = |from: usize, of: usize| net.status(from, of).as_deref() == Some("alive");
            assert!(alive(others[0], others[1]), "the other two are a majority of three all the time");
            nodes.push(net.start(n, &[]));
            net.all_alive(&[1, 2, 3]);
        }
        over.store(true, Ordering::Relaxed);
    });
    let (answered, failed) = (answered.into_inner(), failed.into_inner());
    println!("{answered} requests answered, {failed} failed");
    assert!(failed == 0 && answered > 20, "{answered} answered, {failed} failed");
}

#[test]
fn fault_51_gossip_lives_beside_messages_on_a_way_of_256_kbit() {
    let net = Net::new(3);
    let one = net.start(1, &["--bootstrap"]);
    one.until_ready();
    let two = net.start(2, &["--join", "node-1"]);
    let three = net.start(3, &["--join", "node-1"]);
    net.all_alive(&[1, 2, 3]);
    succeeds(&net.shoal(3, &["deploy", UPPER, "--name", "upper"]));
    let slow =
        ["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "256kbit", "burst", "8kb", "latency", "400ms"];
    for n in [1, 3] {
        succeeds(&net.program(n, "tc").args(slow).output().expect("`tc` is installed (Debian: iproute2)"));
    }
    let large = net.path("large");
    std::fs::write(&large, "x".repeat(100_000)).expect("writes");
    let content = format!("@{}", large.display());
    let begun = Instant::now();
    let mut answered = 0;
    while begun.elapsed() < Duration::from_secs(20) {
        let ask = ["message", "ask", "--to", "upper", "--content", &content, "--deadline", "30s"];
        succeeds(&net.shoal(1, &ask));
        answered += 1;
    }
    println!("{answered} answers of 100 kB");
    let failed = |log: &str| log.contains("status=failed");
    let logs = [one.log(), two.log(), three.log()];
    assert!(!logs.iter().any(|log| failed(log)), "{}", logs.concat());
    until("all see all", || net.all_alive(&[1, 2, 3]) > Duration::ZERO);
}
