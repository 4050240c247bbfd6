//! The two systems: how a node of each is started, and how what it says about the others is heard.
//!
//! Serf: the lines `serf: EventMember...` of its log, the moment at which `serf members` changes too (its
//! event handlers hear one to three seconds later). Shoal: the events of its API, as any client gets them.
//! Both are stamped when they arrive here.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Outcome;
use crate::space::{Net, address, in_space};

/// How often a client tries to reach an API that is not up yet.
const CONNECT_AGAIN: Duration = Duration::from_millis(2);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum System {
    Serf,
    Shoal,
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serf => "serf",
            Self::Shoal => "shoal",
        })
    }
}

/// What a node says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// It answers its user.
    Ready,
    /// That node is there.
    Alive(usize),
    /// That node has failed.
    Failed(usize),
    /// That node has left.
    Left(usize),
}

/// Which life of which node said what, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    pub(crate) at: Instant,
    pub(crate) observer: usize,
    pub(crate) life: u64,
    pub(crate) word: Word,
}

/// Programs, keys and directories.
pub(crate) struct Installation {
    pub(crate) serf: PathBuf,
    pub(crate) shoal: PathBuf,
    serf_key: String,
    dir: tempfile::TempDir,
}

impl Installation {
    /// Makes keys and certificates for so many nodes.
    pub(crate) fn new(serf: PathBuf, shoal: PathBuf, nodes: usize) -> Outcome<Self> {
        let dir = tempfile::tempdir().map_err(|e| format!("cannot make a directory: {e}"))?;
        let serf_key = output(Command::new(&serf).arg("keygen"))?;
        let ca = dir.path().join("ca");
        output(Command::new(&shoal).args(["cert", "ca", "--mesh", "bench", "--out"]).arg(&ca))?;
        let made = Self { serf, shoal, serf_key: serf_key.trim().to_owned(), dir };
        for n in 1..=nodes {
            let mut issue = Command::new(&made.shoal);
            issue.args(["cert", "issue", "--node-id", &name(n), "--ca"]).arg(&ca);
            output(issue.arg("--out").arg(made.certs(n)))?;
        }
        Ok(made)
    }

    fn certs(&self, n: usize) -> PathBuf {
        self.dir.path().join("certs").join(name(n))
    }

    /// Where a mesh of Shoal keeps its data.
    pub(crate) fn new_data_dir(&self) -> Outcome<PathBuf> {
        let dir = tempfile::Builder::new().prefix("data").tempdir_in(self.dir.path());
        Ok(dir.map_err(|e| format!("cannot make a directory: {e}"))?.keep())
    }

    /// The versions of both, one a line.
    pub(crate) fn versions(&self) -> Outcome<(String, String)> {
        let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
        let serf = output(Command::new(&self.serf).arg("version")).map(first)?;
        let shoal = output(Command::new(&self.shoal).arg("--version")).map(first)?;
        Ok((serf, shoal))
    }

    /// Starts node `n`; the first one begins the mesh when it has no other to join.
    pub(crate) fn start(
        &self,
        system: System,
        net: &Net,
        (n, life): (usize, u64),
        (data, joins): (&Path, Option<usize>),
        heard: &Sender<Heard>,
    ) -> Outcome<Process> {
        let mut command = match system {
            System::Serf => {
                let mut command = net.command(n, &self.serf);
                command.args(["agent", "-node", &name(n), "-encrypt", &self.serf_key]);
                command.args(["-bind", &format!("{}:7946", address(n)), "-rpc-addr", "127.0.0.1:7373"]);
                joins.inspect(|seed| {
                    // The first attempt comes at once, as with -join; a second one would be after 30 s.
                    command.args(["-retry-join", &format!("{}:7946", address(*seed))]);
                    command.args(["-retry-interval", "1s"]);
                });
                command
            }
            System::Shoal => {
                let mut command = net.command(n, &self.shoal);
                command.args(["server", "start", "--node-id", &name(n), "--log-level", "warn"]);
                command.args(["--bind-addr", &format!("{}:7946", address(n))]);
                command.arg("--data-dir").arg(data.join(name(n))).arg("--certs").arg(self.certs(n));
                match joins {
                    Some(seed) => command.args(["--join", &format!("{}:7946", address(seed))]),
                    None => command.arg("--bootstrap"),
                };
                command
            }
        };
        let mut child = command.spawn().map_err(|e| format!("cannot start {system}: {e}"))?;
        let over = Arc::new(AtomicBool::new(false));
        let says = Says { observer: n, life, heard: heard.clone() };
        if let Some(stream) = child.stdout.take() {
            listen_to_log(system, stream, says.clone());
        }
        if let Some(stream) = child.stderr.take() {
            listen_to_log(system, stream, says.clone());
        }
        if system == System::Shoal {
            let over = Arc::clone(&over);
            drop(in_space(&net.space(n), move || listen_to_events(&says, &over))?);
        }
        Ok(Process { child, over })
    }
}

/// A node's process; killed when the value is dropped.
pub(crate) struct Process {
    child: Child,
    over: Arc<AtomicBool>,
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.over.store(true, Ordering::Relaxed);
        let _ = self.child.wait();
    }
}

#[derive(Clone)]
struct Says {
    observer: usize,
    life: u64,
    heard: Sender<Heard>,
}

impl Says {
    fn say(&self, word: Word) {
        let heard = Heard { at: Instant::now(), observer: self.observer, life: self.life, word };
        // Nobody listens once the mesh is over.
        let _ = self.heard.send(heard);
    }
}

fn listen_to_log(system: System, stream: impl Read + Send + 'static, says: Says) {
    thread::spawn(move || {
        let verbose = std::env::var_os("SCOREBOARD_LOGS").is_some();
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if verbose {
                eprintln!("{system} {}: {line}", says.observer);
            }
            if system == System::Serf
                && let Some(word) = word_of_serf(&line)
            {
                says.say(word);
            }
        }
    });
}

fn word_of_serf(line: &str) -> Option<Word> {
    if line.contains("Serf agent running!") {
        return Some(Word::Ready);
    }
    let (event, rest) = line.split_once("serf: EventMember")?.1.split_once(": ")?;
    let node = number(rest.split(' ').next()?)?;
    match event {
        "Join" => Some(Word::Alive(node)),
        "Failed" => Some(Word::Failed(node)),
        "Leave" | "Reap" => Some(Word::Left(node)),
        _ => None,
    }
}

/// Follows the events of the node on this machine until its process is over.
fn listen_to_events(says: &Says, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect("127.0.0.1:8080") else {
            thread::sleep(CONNECT_AGAIN);
            continue;
        };
        // HTTP/1.0: the answer comes without chunks.
        let asked = stream.write_all(b"GET /v1/cluster/events?after=0 HTTP/1.0\r\nHost: localhost\r\n\r\n");
        if asked.is_err() {
            continue;
        }
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        if lines.next().is_some_and(|status| status.contains(" 200")) {
            says.say(Word::Ready);
        }
        lines.filter_map(|line| word_of_shoal(&line)).for_each(|word| says.say(word));
    }
}

fn word_of_shoal(line: &str) -> Option<Word> {
    let event: Value = serde_json::from_str(line.strip_prefix("data: ")?).ok()?;
    if event["type"] != "member" {
        return None;
    }
    let node = number(event["node"].as_str()?)?;
    match event["status"].as_str()? {
        "alive" => Some(Word::Alive(node)),
        "failed" => Some(Word::Failed(node)),
        "left" => Some(Word::Left(node)),
        _ => None,
    }
}

fn name(n: usize) -> String {
    format!("node-{n}")
}

fn number(name: &str) -> Option<usize> {
    name.strip_prefix("node-")?.parse().ok()
}

fn output(command: &mut Command) -> Outcome<String> {
    let output = command.output().map_err(|e| format!("cannot run {command:?}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
