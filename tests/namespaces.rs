//! Meshes of real processes in network namespaces: what users see in the first five minutes and on the
//! worst night. Needs root; `tests/run` says so where it is not.

mod common;

use std::process::Output;
use std::time::Duration;

use common::netns::{Net, until};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The exit code and the error of a command that fails.
fn fails(output: &Output) -> (i32, String) {
    assert!(!output.status.success(), "it succeeds: {}", text(&output.stdout));
    (output.status.code().expect("it ends by itself"), text(&output.stderr))
}

const UPPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/agents/upper.py");
const REVERSE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/agents/http_reverse.py");

/// Nodes 1 to 3, joined by the first one's address or name.
macro_rules! three {
    ($net:expr, $seed:expr) => {{
        let one = $net.start(1, &["--bootstrap"]);
        one.until_ready();
        let two = $net.start(2, &["--join", $seed]);
        let three = $net.start(3, &["--join", $seed]);
        (one, two, three)
    }};
}

#[test]
fn three_machines_join_answer_notice_a_death_and_take_the_dead_back_without_a_seed() {
    let net = Net::new(3);
    let (one, _two, three) = three!(net, "node-1");
    println!("all see all after {:?} from the start of the last", net.all_alive(&[1, 2, 3]));

    succeeds(&net.shoal(1, &["deploy", UPPER, "--name", "upper", "--target-node", "node-3"]));
    let ask = ["message", "ask", "--to", "upper", "--content", "a real answer"];
    until("node-1 knows of the agent", || net.shoal(1, &ask).status.success());
    assert_eq!(succeeds(&net.shoal(1, &ask)).trim_end(), "A REAL ANSWER");
    assert_eq!(succeeds(&net.shoal(2, &ask)).trim_end(), "A REAL ANSWER");

    three.kill();
    let failed = |n: usize| net.status(n, 3).as_deref() == Some("failed");
    println!("both others say failed after {:?}", until("node-3 is failed", || failed(1) && failed(2)));
    let begun = std::time::Instant::now();
    let (code, error) = fails(&net.shoal(1, &ask));
    println!("ask then failed after {:?}: {error}", begun.elapsed());
    assert_eq!(code, 1);
    assert!(error.contains("node-3 is failed"), "{error}");

    // The seed is dead as well: what the node remembers must do.
    one.kill();
    let _three = net.start(3, &[]);
    net.all_alive(&[2, 3]);
    until("the agent is back with its node", || net.shoal(2, &ask).status.success());
    let _one = net.start(1, &["--bootstrap"]);
    net.all_alive(&[1, 2, 3]);
}

#[test]
fn a_node_that_is_told_to_stop_is_left_not_failed_exits_0_and_comes_back() {
    let net = Net::new(3);
    let (_one, _two, three) = three!(net, "10.91.0.1:7946");
    net.all_alive(&[1, 2, 3]);
    assert_eq!(three.stop().code(), Some(0));
    until("the others say left", || (1..=2).all(|n| net.status(n, 3).as_deref() == Some("left")));
    let events = net.shoal(1, &["cluster", "members"]);
    assert!(succeeds(&events).contains("left"));
    let three = net.start(3, &[]);
    net.all_alive(&[1, 2, 3]);

    // Only this takes it out of the mesh.
    succeeds(&net.shoal(3, &["cluster", "leave"]));
    assert_eq!(three.ended().code(), Some(0));
    until("the others forget it", || (1..=2).all(|n| net.status(n, 3).is_none()));
    let again = net.start(3, &[]);
    let log = net.path("node-3/log");
    assert_eq!(again.ended().code(), Some(1));
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(log.contains("remembers no mesh"), "{log}");
}

#[test]
fn a_machine_that_was_cut_off_comes_back_by_itself() {
    let net = Net::new(3);
    let (_one, _two, _three) = three!(net, "node-1,node-2");
    net.all_alive(&[1, 2, 3]);
    net.set_link(3, "down");
    until("both sides see it", || {
        let far = |n: usize, of: usize| net.status(n, of).as_deref() == Some("failed");
        far(1, 3) && far(2, 3) && far(3, 1) && far(3, 2)
    });
    std::thread::sleep(Duration::from_secs(20));
    net.set_link(3, "up");
    println!("healed after {:?}", net.all_alive(&[1, 2, 3]));
}

#[test]
fn no_agent_outlives_its_node() {
    let net = Net::new(1);
    let one = net.start(1, &["--bootstrap"]);
    one.until_ready();
    succeeds(&net.shoal(1, &["deploy", UPPER, "--name", "upper"]));
    succeeds(&net.shoal(1, &["deploy", REVERSE, "--name", "reverse", "--kind", "http"]));
    let pid = |name: &str| {
        net.json(1, &["agent", "info", name]).expect("known")["pid"].as_u64().expect("a process")
    };
    let pids = [pid("upper"), pid("reverse")];
    let ask = net.shoal(1, &["message", "ask", "--to", "reverse", "--content", "abc"]);
    assert_eq!(succeeds(&ask).trim_end(), "cba");
    one.kill();
    let lives = |pid: &u64| std::path::Path::new(&format!("/proc/{pid}")).exists();
    until("the agents are gone", || !pids.iter().any(lives));
}

#[test]
fn a_second_node_with_a_live_nodes_name_is_refused_and_both_say_so() {
    let net = Net::new(3);
    let (_one, two, _three) = three!(net, "node-1");
    net.all_alive(&[1, 2, 3]);
    let other = net.install_as(3, "node-2", &net.path("impostor"));
    let ports = ["--bind-addr", "0.0.0.0:7950", "--api-addr", "127.0.0.1:8090"];
    let impostor = net.start_in(3, "node-2", &other, &[&["--join", "node-1"], &ports[..]].concat());
    assert_eq!(impostor.ended().code(), Some(1));
    let log = std::fs::read_to_string(other.join("log")).expect("a log");
    assert!(log.contains("a live node has this node id"), "{log}");
    until("the real one says so", || two.log().contains("a second live process claims this node id"));
    assert_eq!(net.status(1, 2).as_deref(), Some("alive"));
    net.all_alive(&[1, 2, 3]);
}

#[test]
fn two_meshes_with_one_ca_refuse_each_other_with_that_reason() {
    let net = Net::new(2);
    let one = net.start(1, &["--bootstrap"]);
    one.until_ready();
    let two = net.start(2, &["--bootstrap"]);
    two.until_ready();
    assert_eq!(two.stop().code(), Some(0));
    let two = net.start(2, &["--join", "node-1"]);
    until("the reason is logged on both", || {
        [&one, &two].iter().all(|node| node.log().contains("belong to different meshes"))
    });
    assert_eq!(net.status(1, 2), None);
}

#[test]
fn seeds_that_do_not_answer_are_tried_until_one_does() {
    let net = Net::new(2);
    let two = net.start(2, &["--join", "node-1,no-such-host.invalid:7946"]);
    two.until_ready();
    let status = net.json(2, &["cluster", "status"]).expect("answers");
    assert_eq!(status["status"], "joining");
    let (code, _) = fails(&net.shoal(2, &["message", "ask", "--to", "echo", "--content", "x"]));
    assert_eq!(code, 1);
    let one = net.start(1, &["--bootstrap"]);
    one.until_ready();
    net.all_alive(&[1, 2]);
}
