//! What is promised of messages, held against a history: real processes in network namespaces that are killed and cut
//! off while clients of every node send to agents of every node. Needs root, `ip` and `nft`; where they are not, a
//! test fails and says so.
//!
//! `SHOAL_LETTERS=100000 cargo test --test faults_messages promises -- --nocapture` promises as many messages.

#[path = "faults_messages/client.rs"]
mod client;
mod common;
#[path = "faults_messages/history.rs"]
mod history;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use client::Client;
use common::netns::{Net, RealNode, address, until};
use history::{Handled, Sent, Told, breaches};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use shoal::core::model::Guarantee;

const NODES: usize = 3;
/// Between two requests of a client of a node that does not take its message.
const PACE: Duration = Duration::from_millis(10);
/// For how long a client waits for the receipt of a message without a promise: shorter than any cut.
const ONCE_DEADLINE_MS: u64 = 500;

/// Writes down what it gets, then says that it has. A line is one write of the system: whatever is killed, it is there
/// or it is not.
const WRITER: &str = r#"
import json, os, sys
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
print('{"type":"ready"}', flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "message":
        os.write(out, "{conversation_id} {content} {id}\n".format(**message).encode())
        if message["wants_answer"]:
            print(json.dumps({"type": "reply", "to": message["id"], "content": ""}), flush=True)
"#;

/// What is done to the mesh, and undone again.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// kill -9, and back at once.
    Crash,
    /// kill -9, and back when the others have given it up.
    Loss,
    /// kill -9 of all.
    Blackout,
    /// Off the network until the others have given it up.
    Cut,
    /// Two hear nothing of each other.
    Between,
    /// One does not hear another, which hears it: what it answers is lost.
    OneWay,
}

const FAULTS: [Fault; 6] =
    [Fault::Crash, Fault::Loss, Fault::Blackout, Fault::Cut, Fault::Between, Fault::OneWay];

/// Messages of one sender to one agent, one after the other.
struct Conversation {
    name: String,
    from: usize,
    to: usize,
    guarantee: Guarantee,
    /// How many of its messages were taken in.
    accepted: AtomicU64,
    /// How many were refused, or have no answer.
    unanswered: AtomicU64,
}

/// One from every node to every agent, for each guarantee.
fn conversations() -> Vec<Conversation> {
    let mut all = Vec::new();
    for (from, to) in (1..=NODES).flat_map(|from| (1..=NODES).map(move |to| (from, to))) {
        for (guarantee, word) in [(Guarantee::AtLeastOnce, "promised"), (Guarantee::AtMostOnce, "once")] {
            let name = format!("{word}-{from}-{to}");
            let (accepted, unanswered) = Default::default();
            all.push(Conversation { name, from, to, guarantee, accepted, unanswered });
        }
    }
    all
}

/// What the clients may do, which all of them look at.
#[derive(Default)]
struct Leave {
    /// How many messages of each conversation may be taken in.
    each: AtomicU64,
    is_over: AtomicBool,
}

/// Clients end with the test, also when it fails.
struct Stopping<'a>(&'a Leave);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

impl Conversation {
    /// Sends until it is over; what came of each message.
    fn hold(&self, net: &Net, leave: &Leave) -> Vec<Sent> {
        net.enter(self.from);
        let (mut sent, mut client) = (Vec::new(), None);
        while !leave.is_over.load(Ordering::Relaxed) {
            if self.accepted.load(Ordering::Relaxed) >= leave.each.load(Ordering::Relaxed) {
                thread::sleep(PACE / 10);
                continue;
            }
            let Some(connected) = client.take().or_else(|| Client::connect().ok()) else {
                thread::sleep(PACE);
                continue;
            };
            let number = sent.len() as u64;
            let told = self.send(number, connected, &mut client);
            sent.push(Sent { conversation: self.name.clone(), number, guarantee: self.guarantee, told });
            match told {
                Told::Accepted => {
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                }
                Told::Nothing => {
                    self.unanswered.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PACE);
                }
            }
        }
        sent
    }

    /// Sends one message; the connection goes back if it is good for more.
    fn send(&self, number: u64, mut connected: Client, client: &mut Option<Client>) -> Told {
        let deadline = (self.guarantee == Guarantee::AtMostOnce).then_some(ONCE_DEADLINE_MS);
        let message = json!({
            "to": format!("writer-{}", self.to), "content": number.to_string(), "conversation_id": self.name,
            "want": "receipt", "guarantee": self.guarantee, "deadline_ms": deadline,
        });
        let Ok((status, answer)) = connected.ask("POST", "/v1/messages", &message.to_string()) else {
            return Told::Nothing;
        };
        *client = Some(connected);
        match status {
            202 => Told::Accepted,
            // Every other answer is one that the faults explain.
            404 | 429.. => Told::Nothing,
            _ => panic!("{}: {status} {answer}", self.name),
        }
    }
}

/// The mesh, with a writer on each node.
struct Mesh<'a> {
    net: &'a Net,
    nodes: Vec<Option<RealNode<'a>>>,
}

impl<'a> Mesh<'a> {
    fn new(net: &'a Net) -> Self {
        let first = net.start(1, &["--bootstrap"]);
        first.until_ready();
        let mut nodes = vec![Some(first)];
        nodes.extend((2..=NODES).map(|n| Some(net.start(n, &["--join", "node-1"]))));
        net.all_alive(&[1, 2, 3]);
        let script = net.path("writer.py");
        std::fs::write(&script, WRITER).expect("written");
        for n in 1..=NODES {
            let command = format!("exec python3 {} {}", script.display(), written(net, n).display());
            let name = format!("writer-{n}");
            let told = net.shoal(n, &["deploy", "/bin/sh", "--name", &name, "--", "-c", &command]);
            assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        }
        Self { net, nodes }
    }

    fn kill(&mut self, n: usize) {
        self.nodes[n - 1].take().expect("it runs").kill();
    }

    fn start(&mut self, n: usize) {
        self.nodes[n - 1] = Some(self.net.start(n, &[]));
    }

    /// Machine `at` hears nothing of `of`.
    fn deafen(&self, at: usize, of: usize) {
        self.net.nft(at, "add table ip cut");
        self.net.nft(at, "add chain ip cut in { type filter hook input priority 0; }");
        self.net.nft(at, &format!("add rule ip cut in ip saddr {} drop", address(of)));
    }

    fn is_given_up(&self, n: usize) -> bool {
        let others = (1..=NODES).filter(|other| *other != n);
        others.into_iter().all(|other| self.net.status(other, n).as_deref() == Some("failed"))
    }

    /// Does it to `n`.
    fn bring(&mut self, fault: Fault, n: usize) {
        match fault {
            Fault::Crash | Fault::Loss => self.kill(n),
            Fault::Blackout => (1..=NODES).for_each(|n| self.kill(n)),
            Fault::Cut => self.net.set_link(n, "down"),
            Fault::Between => {
                self.deafen(n, next(n));
                self.deafen(next(n), n);
            }
            Fault::OneWay => self.deafen(n, next(n)),
        }
    }

    /// Waits for what ends it; of a cut between two, that a message of one to the other is not answered: it may have
    /// been handled.
    fn bear(&self, fault: Fault, n: usize, is_unanswered: impl Fn() -> bool) {
        match fault {
            Fault::Crash | Fault::Blackout => {}
            Fault::Loss | Fault::Cut => {
                until("it is given up", || self.is_given_up(n));
            }
            Fault::Between | Fault::OneWay => {
                until("one is not answered", is_unanswered);
            }
        }
    }

    /// Undoes it.
    fn mend(&mut self, fault: Fault, n: usize) {
        match fault {
            Fault::Crash | Fault::Loss => self.start(n),
            Fault::Blackout => (1..=NODES).for_each(|n| self.start(n)),
            Fault::Cut => self.net.set_link(n, "up"),
            Fault::Between | Fault::OneWay => {
                for n in [n, next(n)] {
                    self.net.nft(n, "flush ruleset");
                }
            }
        }
        self.net.all_alive(&[1, 2, 3]);
    }
}

fn next(n: usize) -> usize {
    n % NODES + 1
}

/// Where the writer of node `n` writes.
fn written(net: &Net, n: usize) -> PathBuf {
    net.path(&format!("written-{n}"))
}

/// What the writer of node `n` has handled.
fn handled(net: &Net, n: usize) -> Vec<Handled> {
    let text = std::fs::read_to_string(written(net, n)).expect("it has written");
    let line = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_else(|| panic!("{line:?} lacks a word"));
        Handled { conversation: word(), number: word().parse().expect("a number"), id: word() }
    };
    text.lines().map(line).collect()
}

/// What the API of node `n` answers.
fn get(net: &Net, n: usize, path: &str) -> Option<String> {
    net.on(n, || Some(Client::connect().ok()?.ask("GET", path, "").ok()?.1))
}

fn is_drained(net: &Net, n: usize) -> bool {
    let metrics = get(net, n, "/metrics").unwrap_or_default();
    metrics.lines().any(|line| line == "shoal_outbox_messages 0")
}

/// As [`until`], for what takes its time with many messages.
fn until_within(patience: Duration, what: &str, done: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < patience, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
    begun.elapsed()
}

fn given<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Brings the faults, each in the middle of its share of the messages; how many there were.
#[allow(clippy::print_stdout, reason = "it says how long each took")]
fn bring_faults(net: &Net, all: &[Conversation], leave: &Leave, each: u64, rng: &mut ChaCha8Rng) -> usize {
    let rounds = if each > 1_000 { 4 * FAULTS.len() } else { FAULTS.len() };
    let patience = Duration::from_secs(90 + each / 10);
    let mut mesh = Mesh::new(net);
    let accepted = || all.iter().map(|one| one.accepted.load(Ordering::Relaxed)).sum::<u64>();
    let mut order = FAULTS;
    for round in 0..rounds {
        if round.is_multiple_of(FAULTS.len()) {
            order.shuffle(rng);
        }
        let (fault, victim) = (order[round % FAULTS.len()], rng.random_range(1..=NODES));
        let begun = Instant::now();
        // The first half of its share comes before it, the second once it is there.
        let (former, share) = (leave.each.load(Ordering::Relaxed), each * (round as u64 + 1) / rounds as u64);
        let whole = share * all.len() as u64 - accepted();
        let passed = |part: u64| {
            let enough = (share * all.len() as u64).saturating_sub(whole - whole * part / 8);
            until_within(patience, "messages are taken in", || accepted() >= enough);
        };
        leave.each.store(former.midpoint(share), Ordering::Relaxed);
        passed(2);
        mesh.bring(fault, victim);
        let mut cut = all.iter().filter(|one| one.guarantee == Guarantee::AtMostOnce);
        let cut = cut.find(|one| (one.from, one.to) == (victim, next(victim))).expect("there is one");
        let unanswered = cut.unanswered.load(Ordering::Relaxed);
        leave.each.store(share, Ordering::Relaxed);
        mesh.bear(fault, victim, || cut.unanswered.load(Ordering::Relaxed) > unanswered);
        mesh.mend(fault, victim);
        passed(8);
        println!("{fault:?} of node-{victim}: {whole} messages in {:?}", begun.elapsed());
    }
    let drained = until_within(patience, "nothing waits", || (1..=NODES).all(|n| is_drained(net, n)));
    println!("nothing waits {drained:?} after the last was taken in");
    for n in 1..=NODES {
        let dead: Value =
            serde_json::from_str(&get(net, n, "/v1/dead-letters").expect("it answers")).expect("JSON");
        assert_eq!(dead["total"], 0, "{dead}");
    }
    // What is in a mailbox is handled before its node has ended.
    for node in mesh.nodes.into_iter().flatten() {
        assert!(node.stop().success());
    }
    rounds
}

#[test]
fn promises_of_messages_hold_while_nodes_are_killed_and_cut_off_by_chance() {
    let by_chance = || UNIX_EPOCH.elapsed().expect("a clock that is not before 1970").subsec_nanos().into();
    let seed = given("SHOAL_KILL_SEED").unwrap_or_else(by_chance);
    println!("SHOAL_KILL_SEED={seed} brings the same faults in the same order");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let all = conversations();
    let promised = all.iter().filter(|one| one.guarantee == Guarantee::AtLeastOnce).count() as u64;
    let each = given("SHOAL_LETTERS").unwrap_or(2_700_u64).div_ceil(promised);
    let net = Net::new(NODES);
    let leave = Leave::default();
    let (sent, rounds) = thread::scope(|scope| {
        let stopping = Stopping(&leave);
        let clients: Vec<_> = all.iter().map(|one| scope.spawn(|| one.hold(&net, &leave))).collect();
        let rounds = bring_faults(&net, &all, &leave, each, &mut rng);
        drop(stopping);
        let sent = clients.into_iter().flat_map(|client| client.join().expect("no client panics"));
        (sent.collect::<Vec<_>>(), rounds)
    });
    let handled: Vec<_> = (1..=NODES).flat_map(|n| handled(&net, n)).collect();
    for guarantee in [Guarantee::AtLeastOnce, Guarantee::AtMostOnce] {
        let of: Vec<_> = sent.iter().filter(|sent| sent.guarantee == guarantee).collect();
        let accepted = of.iter().filter(|sent| sent.told == Told::Accepted).count();
        assert!(accepted as u64 >= each * promised, "{guarantee:?}: only {accepted} were taken in");
        let word = if guarantee == Guarantee::AtLeastOnce { "promised-" } else { "once-" };
        let came = handled.iter().filter(|line| line.conversation.starts_with(word));
        let mut numbers: Vec<_> = came.map(|line| (&line.conversation, line.number)).collect();
        let lines = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        println!(
            "{guarantee:?}: {} sent, {accepted} taken in, {} handled, {} of them again",
            of.len(),
            numbers.len(),
            lines - numbers.len()
        );
    }
    let breaches = breaches(&sent, &handled);
    println!("{rounds} faults, {} breaches", breaches.len());
    assert!(breaches.is_empty(), "{} breaches: {:?}", breaches.len(), &breaches[..breaches.len().min(20)]);
}
