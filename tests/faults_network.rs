//! Faults of the network and of the system under real processes. Those in network namespaces need root;
//! `tests/run` says so where it is not.

mod common;
#[allow(unreachable_pub, missing_debug_implementations, reason = "shared with other programs")]
mod running;

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use common::netns::{Net, until};
use running::{Place, Running};
use shoal::core::limits;

const UPPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/agents/upper.py");

fn succeeds(output: &std::process::Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_killed_process_on_a_live_machine_is_hinted_at_by_its_refused_packets() {
    let net = Net::new(3);
    let debug = ["--log-level", "debug"];
    let one = net.start(1, &[&["--bootstrap"], &debug[..]].concat());
    one.until_ready();
    let two = net.start(2, &[&["--join", "node-1"], &debug[..]].concat());
    let three = net.start(3, &["--join", "node-1"]);
    net.all_alive(&[1, 2, 3]);
    let hinted = |log: String| log.contains("a link's peer was not reached");
    assert!(!hinted(one.log()) && !hinted(two.log()));
    three.kill();
    let took = until("both others have a hint", || hinted(one.log()) && hinted(two.log()));
    println!("both others had a hint after {took:?}");
    let failed = |n: usize| net.status(n, 3).as_deref() == Some("failed");
    println!("and said failed {:?} later", until("node-3 is failed", || failed(1) && failed(2)));
    assert!(took < Duration::from_secs(3), "the next probe brings it: {took:?}");
}

#[test]
fn fault_50_large_packets_that_vanish_stop_neither_gossip_nor_messages() {
    let net = Net::new(2);
    let one = net.start(1, &["--bootstrap"]);
    one.until_ready();
    let _two = net.start(2, &["--join", "node-1"]);
    net.all_alive(&[1, 2]);
    succeeds(&net.shoal(2, &["deploy", UPPER, "--name", "upper"]));
    let content = net.path("content");
    std::fs::write(&content, "a".repeat(100 << 10)).expect("written");
    let content = format!("@{}", content.display());
    let ask = ["message", "ask", "--to", "upper", "--deadline", "30s", "--content", &content];
    until("node-1 knows of the agent", || net.shoal(1, &ask).status.success());

    // By now the path is known to carry more than this.
    for n in 1..=2 {
        // The rule must see packets, not what the system is about to cut into packets.
        net.ip(n, &["link", "set", "dev", "eth0", "gso_max_segs", "1"]);
        net.nft(n, "add table ip hole");
        net.nft(n, "add chain ip hole in { type filter hook input priority 0; }");
        net.nft(n, "add rule ip hole in udp dport 7946 meta length > 1250 counter drop");
    }
    let begun = Instant::now();
    for _ in 0..5 {
        let answer = succeeds(&net.shoal(1, &ask));
        assert_eq!(answer.trim_end().len(), 100 << 10);
    }
    println!("five messages of 100 KiB and their answers took {:?}", begun.elapsed());
    assert!(net.nft(2, "list table ip hole").contains("counter packets"));
    assert!(!net.nft(2, "list table ip hole").contains("counter packets 0 "), "packets did vanish");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(net.status(1, 2).as_deref(), Some("alive"));
    assert_eq!(net.status(2, 1).as_deref(), Some("alive"));
    assert!(!one.log().contains("node-2 failed"), "{}", one.log());
}

#[test]
fn fault_53_a_node_whose_address_changes_is_the_same_member_and_soon_back() {
    let net = Net::new(3);
    let one = net.start(1, &["--bootstrap"]);
    one.until_ready();
    let _two = net.start(2, &["--join", "node-1"]);
    let _three = net.start(3, &["--join", "node-1"]);
    net.all_alive(&[1, 2, 3]);
    succeeds(&net.shoal(3, &["deploy", UPPER, "--name", "upper"]));
    let ask = ["message", "ask", "--to", "upper", "--content", "here"];
    until("node-1 knows of the agent", || net.shoal(1, &ask).status.success());

    net.ip(3, &["addr", "del", "10.91.0.3/24", "dev", "eth0"]);
    net.ip(3, &["addr", "add", "10.91.0.33/24", "dev", "eth0"]);
    let begun = Instant::now();
    until("messages reach it again", || net.shoal(1, &ask).status.success());
    println!("messages reached it after {:?}", begun.elapsed());
    net.all_alive(&[1, 2, 3]);
    println!("all were alive after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    for n in 1..=3 {
        let members = net.json(n, &["cluster", "members"]).expect("answers");
        let names: Vec<_> =
            members.as_array().expect("a list").iter().map(|m| m["node_id"].clone()).collect();
        assert_eq!(names, ["node-1", "node-2", "node-3"], "as node-{n} sees it");
    }
}

/// Longer than a link lasts in silence, a dial, a suspicion and every pause between two tries.
const A_LONG_CUT: Duration = Duration::from_secs(64);

#[test]
fn after_a_cut_of_minutes_with_changed_addresses_and_a_dead_seed_the_mesh_is_one_again() {
    assert!(A_LONG_CUT > limits::LINK_IDLE_MAX + limits::HANDSHAKE_DEADLINE / 2);
    let net = Net::new(4);
    let one = net.start(1, &["--bootstrap"]);
    one.until_ready();
    let nodes: Vec<_> = (2..=4).map(|n| net.start(n, &["--join", "node-1"])).collect();
    net.all_alive(&[1, 2, 3, 4]);

    let cut = Instant::now();
    (2..=4).for_each(|n| net.set_link(n, "down"));
    one.kill();
    for n in [2, 3] {
        net.ip(n, &["addr", "del", &format!("10.91.0.{n}/24"), "dev", "eth0"]);
        net.ip(n, &["addr", "add", &format!("10.91.0.{n}{n}/24"), "dev", "eth0"]);
    }
    let failed = |n: usize, of: usize| net.status(n, of).as_deref() == Some("failed");
    // A node that hears nobody doubts itself first: it gives its verdicts late, and the mesh must heal from either.
    let is_lost =
        |n: usize, of: usize| of == n || !matches!(net.status(n, of).as_deref(), Some("alive") | None);
    until("everybody has lost all others", || (2..=4).all(|n| (1..=4).all(|of| is_lost(n, of))));
    std::thread::sleep(A_LONG_CUT.saturating_sub(cut.elapsed()));
    for n in 2..=4 {
        println!("node-{n} says {:?}", [1, 2, 3, 4].map(|of| net.status(n, of)));
        net.set_link(n, "up");
    }
    let healed = net.all_alive(&[2, 3, 4]);
    println!("one mesh again {healed:?} after a cut of {:?}", cut.elapsed() - healed);
    assert!(healed < Duration::from_secs(20), "{healed:?}");
    until("the dead seed is failed for everybody", || (2..=4).all(|n| failed(n, 1)));
    assert!(nodes.iter().all(|node| !node.log().contains("malformed")), "nobody took it for an attack");
}

#[test]
fn sighup_reads_the_certificates_at_once_and_says_each_time_what_is_wrong_with_them() {
    let place = Place::new();
    let node = place.bootstrap("node-1", &[]);
    let certs = place.data_dir("node-1").join("certs");
    let own = std::fs::read_to_string(certs.join("node.crt")).expect("there");
    let refused = "the changed certificates are refused, and the former stay in use";
    std::fs::write(certs.join("node.crt"), "no certificate").expect("written");
    // The node has noticed by itself and said so; it says it again only to who asks.
    node.wait_for_log(refused);
    for _ in 0..2 {
        node.signal("HUP");
        node.wait_for_log(refused);
    }
    std::fs::remove_dir_all(&certs).expect("removed");
    place.certify("node-1");
    let begun = Instant::now();
    node.signal("HUP");
    let told = node.wait_for_log("certificates read anew");
    assert_eq!(told["renewed"], true, "{told}");
    println!("read anew after {:?}", begun.elapsed());
    assert_ne!(std::fs::read_to_string(certs.join("node.crt")).expect("there"), own);
    node.until("/health/ready", |answer| answer.status == 200);
}

/// A library that moves the clock of the process a day ahead for as long as a file is there.
const DAY_AHEAD: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    const char *file = getenv("A_DAY_AHEAD_WHILE");
    if (result == 0 && clock == CLOCK_REALTIME && file && access(file, F_OK) == 0) now->tv_sec += 86400;
    return result;
}
"#;

#[test]
fn fault_34_a_clock_that_jumps_a_day_ahead_and_back_fails_nobody_and_loses_no_message() {
    let place = Place::new();
    let (source, library) = (place.path().join("ahead.c"), place.path().join("ahead.so"));
    std::fs::write(&source, DAY_AHEAD).expect("written");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).output();
    succeeds(&built.expect("a C compiler (Debian: gcc)"));
    let switch = place.path().join("ahead");
    let with_switch = |name: &str, more: &[&str]| {
        let mut command = place.command(name, more);
        command.env("LD_PRELOAD", &library).env("A_DAY_AHEAD_WHILE", &switch);
        Running::start(command, place.data_dir(name))
    };
    let other = place.bootstrap("node-1", &[]);
    let address = other.get("/v1/cluster/members").json()[0]["address"].clone();
    let node = with_switch("node-2", &["--join", address.as_str().expect("an address")]);
    let alive = |of: &Running| {
        let members = of.get("/v1/cluster/members").json();
        let members = members.as_array().expect("a list").clone();
        members.len() == 2 && members.iter().all(|m| m["status"] == "alive")
    };
    until("both are there", || alive(&other) && alive(&node));
    let deployed = node.shoal(&["deploy", "echo", "--name", "echo"]);
    assert_eq!(deployed.code, Some(0), "{deployed:?}");
    let ask = ["message", "ask", "--to", "echo", "--content", "what day is it"];
    until("node-1 knows of the agent", || other.shoal(&ask).code == Some(0));

    std::fs::write(&switch, "").expect("written");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        assert!(alive(&other) && alive(&node), "after {:?}", begun.elapsed());
        assert_eq!(other.shoal(&ask).code, Some(0), "after {:?}", begun.elapsed());
    }
    // The node does live in tomorrow.
    let stopped = node.shoal(&["agent", "stop", "echo"]);
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    let history = node.get("/v1/history").body;
    let tomorrow = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis()
        + 23 * 3_600_000;
    let latest = history.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u128>().ok());
    let latest = latest.filter(|n| (1_000_000_000_000..10_000_000_000_000).contains(n)).max();
    assert!(latest.is_some_and(|ms| ms > tomorrow), "{history}");
    std::fs::remove_file(&switch).expect("removed");
    std::thread::sleep(Duration::from_secs(2));
    assert!(alive(&other) && alive(&node), "and back");
}

/// Processor time that a process has used.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields: Vec<_> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks: u64 = [11, 12].iter().map(|n| fields[*n].parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn fault_63_a_node_without_file_descriptors_accepts_nobody_new_serves_who_is_there_and_does_not_spin() {
    let place = Place::new();
    let plain = place.command("node-1", &["--bootstrap"]);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
        .arg(plain.get_program())
        .args(plain.get_args());
    let node = Running::start(limited, place.data_dir("node-1"));
    node.until("/health/ready", |answer| answer.status == 200);
    let other = place.join("node-2", &node);
    let told = node.shoal(&["deploy", "echo", "--name", "echo"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let ask = ["message", "ask", "--to", "echo", "--content", "still here"];
    let answered = || other.shoal(&ask).code == Some(0);
    until("node-2 knows of the agent", answered);

    let held: Vec<_> = (0..100).filter_map(|_| TcpStream::connect(node.api).ok()).collect();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("it lives").count();
    until("no descriptor is left", || open() >= 63);
    let (begun, before) = (Instant::now(), cpu(node.pid()));
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(answered(), "messages over the links that are there");
        std::thread::sleep(Duration::from_millis(100));
    }
    let used = cpu(node.pid()) - before;
    println!("{} connections held; {used:?} of processor time in {:?}", held.len(), begun.elapsed());
    assert!(used < Duration::from_millis(1_000), "{used:?}");
    let members = other.get("/v1/cluster/members").json();
    assert!(members.as_array().expect("a list").iter().all(|m| m["status"] == "alive"), "{members}");

    drop(held);
    node.until("/health/ready", |answer| answer.status == 200);
}
