//! How nodes find their mesh, as real processes in network namespaces: names that stand for many nodes, a DNS
//! server that changes and fails, multicast DNS, and seeds that are not there. Needs root, `ip` and `dnsmasq`.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::netns::{Net, RealNode, address, until};

/// A name server on a machine of its own.
struct NameServer<'a> {
    net: &'a Net,
    n: usize,
    hosts: PathBuf,
    child: Option<Child>,
}

impl<'a> NameServer<'a> {
    /// On machine `n`; the machines `clients` ask it and nothing else.
    fn start(net: &'a Net, n: usize, clients: &[usize]) -> Self {
        for client in clients {
            let resolv = format!("nameserver {}\noptions timeout:1 attempts:1\n", address(n));
            net.set_resolver(*client, "127.0.0.1 localhost\n", &resolv);
        }
        let mut server = Self { net, n, hosts: net.path("names"), child: None };
        server.write("");
        server.run();
        until("the name server answers", || server.answers(clients[0], "ready.mesh"));
        server
    }

    fn write(&self, lines: &str) {
        let ready = format!("{} ready.mesh\n", address(self.n));
        fs::write(&self.hosts, ready + lines).expect("writes");
    }

    fn run(&mut self) {
        let mut command = self.net.program(self.n, "dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
        command.args(["--user=root", "--pid-file="]).arg(format!("--addn-hosts={}", self.hosts.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("starts"));
    }

    /// From now on the name stands for these machines.
    fn set(&self, name: &str, machines: &[usize]) {
        let lines = machines.iter().map(|n| format!("{} {name}\n", address(*n)));
        self.write(&lines.collect::<String>());
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let told = Command::new("kill").args(["-s", "HUP", &pid]).status().expect("runs");
        assert!(told.success());
    }

    /// Whether machine `n` gets an answer for that name.
    fn answers(&self, n: usize, name: &str) -> bool {
        self.net.program(n, "getent").args(["ahostsv4", name]).output().expect("runs").status.success()
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for NameServer<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn logs(node: &RealNode<'_>, words: &str) {
    until(words, || node.log().contains(words));
}

/// Row 9: a seed that is a name is called at every address that it stands for.
#[test]
fn row_009_a_seed_that_resolves_to_several_addresses_is_called_at_all_of_them() {
    let net = Net::new(2);
    let one = net.start(1, &["--bootstrap"]);
    one.until_ready();
    // Two of the three addresses are nobody's; the node's own is among them, too.
    let hosts = "10.91.0.99 nodes\n10.91.0.98 nodes\n10.91.0.2 nodes\n10.91.0.1 nodes\n";
    net.set_resolver(2, hosts, "");
    let _two = net.start(2, &["--join", "nodes"]);
    net.all_alive(&[1, 2]);
}

/// What discovery last told the core.
fn discovered(node: &RealNode<'_>) -> String {
    node.log().lines().rfind(|line| line.contains("discovered")).unwrap_or_default().to_owned()
}

#[test]
fn a_name_in_dns_is_resolved_again_and_again_and_what_it_gives_no_more_is_no_seed() {
    let net = Net::new(4);
    let names = NameServer::start(&net, 4, &[1, 2]);
    // The name does not exist yet, and then stands for a machine without a node.
    let two = net.start(2, &["--discover", "dns:nodes.mesh", "--log-level", "debug"]);
    logs(&two, "the name does not resolve and is tried again for ever");
    names.set("nodes.mesh", &[2, 3]);
    until("machine 3 is a seed", || discovered(&two).contains("10.91.0.3:7946"));
    logs(&two, "the seed does not answer");
    let one = net.start(1, &["--bootstrap"]);
    one.until_ready();
    names.set("nodes.mesh", &[1, 2]);
    net.all_alive(&[1, 2]);
    let last = discovered(&two);
    assert!(last.contains("10.91.0.1:7946") && !last.contains("10.91.0.3:7946"), "{last}");
}

/// Fault 54: the DNS of the seed fails.
#[test]
fn fault_54_with_failing_dns_a_node_starts_from_the_peers_it_remembers_and_asks_again() {
    let net = Net::new(4);
    let mut names = NameServer::start(&net, 4, &[1, 2, 3]);
    names.set("nodes.mesh", &[1, 2]);
    until("the name server answers", || names.answers(3, "nodes.mesh"));
    let _one = net.start(1, &["--bootstrap", "--discover", "dns:nodes.mesh"]);
    let two = net.start(2, &["--discover", "dns:nodes.mesh"]);
    net.all_alive(&[1, 2]);
    assert!(two.stop().success());

    names.stop();
    let two = net.start(2, &["--discover", "dns:nodes.mesh"]);
    println!("back without DNS after {:?}", net.all_alive(&[1, 2]));
    logs(&two, "the name does not resolve and is tried again for ever");
    // One that remembers nobody waits, says so, and joins when the name server is back.
    let three = net.start(3, &["--discover", "dns:nodes.mesh"]);
    logs(&three, "the name does not resolve and is tried again for ever");
    assert_eq!(net.json(3, &["cluster", "status"]).expect("it answers")["status"], "joining");
    names.run();
    println!("joined with DNS after {:?}", net.all_alive(&[1, 2, 3]));
}

/// Fault 55, as far as membership goes: all seeds are down at the start.
#[test]
fn fault_55_a_node_whose_seeds_are_all_down_is_alone_goes_on_trying_and_joins_later() {
    let net = Net::new(3);
    let one = net.start(1, &["--bootstrap"]);
    one.until_ready();
    let two = net.start(2, &["--join", "node-1,node-3"]);
    net.all_alive(&[1, 2]);
    let mode = || net.json(2, &["cluster", "status"]).map(|status| status["mode"].clone());
    until("node-2 belongs to the mesh", || mode().is_some_and(|mode| mode == "healthy"));
    two.kill();
    one.kill();

    // One that was there before resumes its mesh alone; one that is new waits.
    let two = net.start(2, &["--join", "node-1,node-3"]);
    let three = net.start(3, &["--join", "node-1"]);
    logs(&two, "the seed does not answer and is tried again for ever");
    logs(&three, "the seed does not answer and is tried again for ever");
    assert_eq!(net.json(2, &["cluster", "status"]).expect("it answers")["status"], "healthy");
    until("node-2 holds node-1 for failed", || net.status(2, 1).as_deref() != Some("alive"));

    let _one = net.start(1, &[]);
    println!("all there after {:?}", net.all_alive(&[1, 2, 3]));
}

/// Row 15: auto discovery joins without seeds.
#[test]
fn row_015_nodes_on_one_network_find_each_other_by_mdns_alone_and_say_good_bye() {
    let net = Net::new(4);
    let mdns = ["--discover", "mdns"];
    let two = net.start(2, &["--discover", "mdns", "--log-level", "debug"]);
    let _one = net.start(1, &["--bootstrap", "--discover", "mdns"]);
    let three = net.start(3, &mdns);
    println!("found each other after {:?}", net.all_alive(&[1, 2, 3]));
    until("node-3 is found", || discovered(&two).contains("10.91.0.3:7946"));
    // What is found would be remembered for over an hour if it did not say good-bye.
    assert!(three.stop().success());
    until("node-3 is found no more", || !discovered(&two).contains("10.91.0.3:7946"));
    assert!(discovered(&two).contains("10.91.0.1:7946"));
    let _four = net.start(4, &mdns);
    net.all_alive(&[1, 2, 4]);
}

/// mDNS tells only who has a certificate: the seed gives it, and from then on the network itself does.
#[test]
fn a_node_with_a_token_and_a_seed_gets_its_certificate_and_finds_the_others_by_mdns() {
    let net = Net::new(3);
    let path = |name: &str| net.path(name).display().to_string();
    let shoal = |words: &[&str]| {
        let output = net.shoal(1, words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let ca = path("ca");
    shoal(&["cert", "ca", "--mesh", "lan", "--out", &ca]);
    for n in [1, 3] {
        std::fs::create_dir_all(net.path(&format!("m{n}"))).expect("a directory");
        let (name, certs) = (format!("node-{n}"), path(&format!("m{n}/certs")));
        shoal(&["cert", "issue", "--node-id", &name, "--ca", &ca, "--out", &certs]);
    }
    let start = |n: usize, args: &[&str]| {
        let args = [&["--discover", "mdns", "--log-level", "debug"], args].concat();
        net.start_in(n, &format!("node-{n}"), &net.path(&format!("m{n}")), &args)
    };
    let one = start(1, &["--bootstrap", "--ca", &ca]);
    one.until_ready();
    std::fs::create_dir_all(net.path("m2")).expect("a directory");
    std::fs::write(net.path("token"), shoal(&["cert", "token", "--ca", &ca, "--node-id", "node-2"]))
        .expect("written");
    let two = start(2, &["--join", "10.91.0.1:7946", "--join-token", &format!("@{}", path("token"))]);
    net.all_alive(&[1, 2]);
    assert!(net.path("m2/certs/node.crt").exists());
    until("node-2 finds node-1 by mDNS, too", || discovered(&two).contains("10.91.0.1:7946"));
    // Without the seed, it is found, and finds: one that is new has nothing but the network to go by.
    one.kill();
    until("node-2 holds node-1 for failed", || net.status(2, 1).as_deref() == Some("failed"));
    let _three = start(3, &[]);
    println!("found each other after {:?}", net.all_alive(&[2, 3]));
}

/// Labels are the tags of nodes.
#[test]
fn members_are_chosen_by_the_labels_that_they_were_started_with() {
    let net = Net::new(2);
    let _one = net.start(1, &["--bootstrap", "--label", "role=gateway,rack=r1"]);
    let _two = net.start(2, &["--join", "node-1", "--label", "role=worker,rack=r1"]);
    net.all_alive(&[1, 2]);
    let names = |conditions: &[&str]| {
        let mut args = vec!["cluster", "members"];
        conditions.iter().for_each(|condition| args.extend(["--where", condition]));
        let members = net.json(2, &args).expect("it answers");
        let name = |m: &serde_json::Value| m["node_id"].as_str().expect("a name").to_owned();
        members.as_array().expect("a list").iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(&["role=gateway"]), ["node-1"]);
    assert_eq!(names(&["rack=r1"]), ["node-1", "node-2"]);
    assert_eq!(names(&["rack=r1", "role=worker"]), ["node-2"]);
    assert_eq!(names(&["role=nothing"]), [""; 0]);
}
