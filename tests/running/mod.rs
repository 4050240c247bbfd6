//! Nodes as processes, for tests of what users see: each with its own directory, certificates and ports
//! of the system's choice, on loopback; ended with the value that stands for it.

#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use shoal::core::ids::{MeshName, NodeId};
use shoal::node::certs::{self, Ca, Existing, NodeFiles, Validity};
use tempfile::TempDir;

/// Longer than anything that a test waits for takes.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A mesh that nodes can be started in.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mesh = MeshName::new("test").expect("valid");
        let validity = Validity::starting(SystemTime::now(), 30).expect("valid");
        let pair = certs::make_ca(&mesh, validity).expect("made");
        certs::write_ca(&dir.path().join("ca"), &pair, Existing::Keep).expect("written");
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data_dir(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Gives a node its certificate, in its data directory.
    pub(crate) fn certify(&self, name: &str) {
        let ca = Ca::load(&self.path().join("ca")).expect("there");
        let validity = Validity::starting(SystemTime::now(), 20).expect("valid");
        let pair = certs::issue(&ca, &NodeId::new(name).expect("valid"), &[], &[], validity).expect("issued");
        let files =
            NodeFiles { ca_pem: ca.bundle_pem(), cert_pem: &pair.cert_pem, key_pem: Some(&pair.key_pem) };
        let dir = self.data_dir(name).join("certs");
        if !dir.exists() {
            certs::write_node(&dir, &files, Existing::Keep).expect("written");
        }
    }

    /// `shoal server start` for that node, with ports of the system's choice unless `more` says otherwise.
    pub(crate) fn command(&self, name: &str, more: &[&str]) -> Command {
        self.certify(name);
        let mut command = shoal();
        command.args(["server", "start", "--node-id", name, "--log-format", "json"]);
        command.arg("--data-dir").arg(self.data_dir(name)).args(more);
        for flag in ["--bind-addr", "--api-addr"] {
            if !more.contains(&flag) {
                command.args([flag, "127.0.0.1:0"]);
            }
        }
        command
    }

    /// A node with these flags.
    pub(crate) fn start(&self, name: &str, more: &[&str]) -> Running {
        Running::start(self.command(name, more), self.data_dir(name))
    }

    /// The first node of a mesh, once it is ready.
    pub(crate) fn bootstrap(&self, name: &str, more: &[&str]) -> Running {
        let node = self.start(name, &[&["--bootstrap"], more].concat());
        node.until("/health/ready", |answer| answer.status == 200);
        node
    }

    /// Writes a script that can be executed.
    pub(crate) fn executable(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("set");
        path
    }

    /// Nodes `n1` and so on of one mesh, all of them voters and healthy, each of which knows that all others are alive.
    pub(crate) fn healthy_mesh(&self, nodes: usize) -> Vec<Running> {
        let mut all = vec![self.bootstrap("n1", &[])];
        for n in 2..=nodes {
            let node = self.join(&format!("n{n}"), &all[0]);
            all.push(node);
        }
        Running::until_healthy(&all);
        all
    }

    /// A node that joins that of `seed`; both know each other when this returns.
    pub(crate) fn join(&self, name: &str, seed: &Running) -> Running {
        self.join_with(name, seed, &[])
    }

    /// The same with more flags.
    pub(crate) fn join_with(&self, name: &str, seed: &Running, more: &[&str]) -> Running {
        let address = seed.get("/v1/cluster/members").json()[0]["address"].clone();
        let address = address.as_str().expect("an address");
        let node = self.start(name, &[&["--join", address], more].concat());
        let knows = |other: &str| {
            let other = other.to_owned();
            move |answer: &Answer| {
                let members = answer.json();
                let members = members.as_array().expect("a list");
                members
                    .iter()
                    .any(|m| m["node_id"] == other && m["status"] == "alive" && m["rtt_seconds"].is_f64())
            }
        };
        seed.until("/v1/cluster/members", knows(name));
        node.until("/v1/cluster/members", knows(seed.name().as_str()));
        node.until("/health/ready", |answer| answer.status == 200);
        node
    }
}

/// The program, with nothing of this process's environment that means something to it.
pub(crate) fn shoal() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    let of_shoal = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHOAL_"));
    of_shoal.for_each(|(name, _)| {
        command.env_remove(name);
    });
    command.stdin(Stdio::null());
    command
}

/// A node's process.
pub(crate) struct Running {
    pub(crate) api: SocketAddr,
    pub(crate) data_dir: PathBuf,
    child: Child,
    /// Clients on several threads may ask one node.
    log: Mutex<Receiver<Value>>,
}

impl Running {
    /// Waits until all of these are voters and healthy, and each knows that all are alive.
    pub(crate) fn until_healthy(all: &[Self]) {
        for node in all {
            node.until("/v1/cluster/roster", |answer| answer.json()["voters"] == all.len());
            node.until("/v1/cluster/status", |answer| answer.json()["mode"] == "healthy");
            let all_alive = |answer: &Answer| {
                let members = answer.json();
                members.as_array().is_some_and(|all| all.iter().all(|member| member["status"] == "alive"))
            };
            node.until("/v1/cluster/members", all_alive);
        }
    }

    pub(crate) fn start(mut command: Command, data_dir: PathBuf) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("started");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (lines, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = lines.send(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        let api = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Self { api, data_dir, child, log: Mutex::new(log) };
        let told = node.wait_for_log("api");
        let port = told["address"].as_str().and_then(|address| address.rsplit(':').next());
        node.api.set_port(port.expect("an address").parse().expect("a port"));
        node
    }

    /// A node whose log, and with it the port of its API, is to be found elsewhere.
    pub(crate) fn adopted(child: Child, data_dir: PathBuf) -> Self {
        let api = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { api, data_dir, child, log: Mutex::new(channel().1) }
    }

    /// The next line of the log with that message.
    pub(crate) fn wait_for_log(&self, message: &str) -> Value {
        loop {
            let line = self.log.lock().expect("nobody panicked").recv_timeout(LONG);
            let line =
                line.unwrap_or_else(|error| panic!("{error} while waiting for the log line {message:?}"));
            assert!(line.is_object(), "the node says {line}");
            if line["message"] == message {
                return line;
            }
        }
    }

    /// What an ended node has logged since the last line that was waited for.
    pub(crate) fn rest_of_log(&self) -> Vec<Value> {
        self.log.lock().expect("nobody panicked").iter().collect()
    }

    /// Asks again until the answer is as it should be: what an event tells shows in views a moment later.
    pub(crate) fn until(&self, path: &str, is_it: impl Fn(&Answer) -> bool) -> Answer {
        let begun = Instant::now();
        loop {
            let answer = self.get(path);
            if is_it(&answer) {
                return answer;
            }
            assert!(begun.elapsed() < LONG, "it stays {answer:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn name(&self) -> String {
        self.data_dir.file_name().expect("a name").to_string_lossy().into_owned()
    }

    /// Waits until the node has seen such an event since it started.
    pub(crate) fn wait_for_event(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut stream = Events::open(self.api, "/v1/cluster/events?after=0", &[]);
        loop {
            let event = stream.next();
            if is_it(&event.data) {
                return event.data;
            }
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.api)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &["content-type: application/json"], body.to_string().as_bytes())
    }

    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|header| header.to_ascii_lowercase().starts_with("host:")) {
            head.push_str(&format!("host: {}\r\n", self.api));
        }
        headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        exchange(self.api, &[head.as_bytes(), body].concat())
    }

    /// Runs `shoal <words>` against this node.
    pub(crate) fn shoal(&self, words: &[&str]) -> Told {
        Told::of(shoal().env("SHOAL_API", self.url()).args(words).output().expect("ran"))
    }

    /// Bytes of memory that the process holds.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("told");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("ran").success());
        // The signal is sent before the last of its threads stands still.
        let begun = Instant::now();
        while name == "STOP" && !self.stands_still() {
            assert!(begun.elapsed() < LONG, "{} does not stop", self.name());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether every thread of the process is stopped.
    fn stands_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        // The state comes after the name, which is in parentheses.
        let is_stopped = |stat: String| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T"));
        tasks
            .map(|task| task.expect("readable").path().join("stat"))
            .all(|stat| std::fs::read_to_string(stat).is_ok_and(is_stopped))
    }

    /// Waits for the end of the process.
    pub(crate) fn code(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(begun.elapsed() < LONG, "{} does not end", self.name());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Told {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.out).expect("JSON")
    }
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// The code of an error, after checking that it is told as the API promises.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        let problem: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"));
        assert!(
            self.head.to_ascii_lowercase().contains("content-type: application/problem+json"),
            "{self:?}"
        );
        assert_eq!(problem["status"], self.status);
        let code = problem["code"].as_str().expect("a code").to_owned();
        assert_eq!(problem["type"], format!("urn:shoal:problem:{code}"));
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()));
        code
    }
}

/// Sends bytes and reads until the other side closes.
pub(crate) fn exchange(api: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(api).expect("connected");
    stream.set_read_timeout(Some(LONG)).expect("set");
    // A server that has refused need not read the rest.
    let _ = stream.write_all(request);
    read_answer(stream)
}

/// Reads until the other side closes; a reset after the answer is one too.
pub(crate) fn read_answer(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    let begun = Instant::now();
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        assert!(begun.elapsed() < LONG, "the answer has no end");
        bytes.extend_from_slice(&piece[..count]);
    }
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.expect("a status"), head: head.to_owned(), body: body.to_owned() }
}

/// A stream of server-sent events.
pub(crate) struct Events {
    lines: std::io::Lines<BufReader<TcpStream>>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) id: Option<u64>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Events {
    pub(crate) fn open(api: SocketAddr, path: &str, headers: &[&str]) -> Self {
        let mut stream = TcpStream::connect(api).expect("connected");
        stream.set_read_timeout(Some(LONG)).expect("set");
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {api}\r\n{headers}\r\n").expect("written");
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next().expect("an answer").expect("read");
        assert!(status.contains(" 200 "), "{status}");
        // The head ends before anything is awaited: the subscription has begun.
        while !lines.next().expect("a head").expect("read").is_empty() {}
        Self { lines }
    }

    pub(crate) fn next(&mut self) -> Sent {
        let mut sent = Sent { id: None, name: String::new(), data: Value::Null };
        loop {
            let line = self.lines.next().expect("the stream goes on").expect("read");
            match line.split_once(": ") {
                Some(("id", id)) => sent.id = Some(id.parse().expect("a number")),
                Some(("event", name)) => sent.name = name.to_owned(),
                Some(("data", data)) => sent.data = serde_json::from_str(data).expect("JSON"),
                _ if line.is_empty() && !sent.data.is_null() => return sent,
                _ => {}
            }
        }
    }

    /// Whether the other side has ended the stream.
    pub(crate) fn ends(mut self) -> bool {
        self.lines.by_ref().all(|line| line.is_ok())
    }
}
