//! Debian's `nats-server` with mutual TLS, between two clients on threads of their own that do nothing but read and
//! write: the least that a client of it can cost.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use shoal::node::transport::tls::SERVER_NAME;

use crate::{CONTENT, raw};

/// How long the server may take to listen.
const START: Duration = Duration::from_secs(10);
/// What a client writes at once when nobody waits for it.
const WRITE_BYTES: usize = 32 << 10;
/// Longer than any of its lines.
const LINE_BYTES_MAX: usize = 64 << 10;

/// The server, a client that sends, and one that answers or counts.
pub(crate) struct Nats {
    pub(crate) version: String,
    sender: Client,
    counted: Receiver<()>,
    answering: Option<JoinHandle<()>>,
    server: Child,
    _directory: tempfile::TempDir,
}

impl Nats {
    /// Starts all three. `Err` says why there is no server.
    pub(crate) fn start(client_certs: &Path, server_certs: &Path) -> Result<Self, String> {
        let version = Command::new("nats-server").arg("--version").output();
        let version =
            version.map_err(|error| format!("nats-server: {error} (apt-get install nats-server)"))?;
        let version =
            String::from_utf8_lossy(&version.stdout).trim().replace("nats-server: v", "nats-server ");
        let directory = tempfile::tempdir().expect("a directory");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let file = directory.path().join("nats.conf");
        let of = |name: &str| server_certs.join(name).display().to_string();
        let text = format!(
            "listen: {address}\ntls {{\n  cert_file: {:?}\n  key_file: {:?}\n  ca_file: {:?}\n  verify: true\n}}\n",
            of("node.crt"),
            of("node.key"),
            of("ca.crt")
        );
        std::fs::write(&file, text).expect("written");
        let mut command = Command::new("nats-server");
        command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let server = command.spawn().map_err(|error| format!("nats-server: {error}"))?;
        let mut config = raw::identity(client_certs).client_config();
        config.alpn_protocols.clear();
        let config = Arc::new(config);
        let mut sender = Client::connect(address, &config);
        let (tell, counted) = channel();
        let mut receiver = Client::connect(address, &config);
        receiver.say("SUB echo 1\r\nSUB count.* 2\r\nPING\r\n");
        receiver.until_pong();
        sender.say("SUB inbox 1\r\nPING\r\n");
        sender.until_pong();
        let answering = std::thread::spawn(move || {
            while let Some(kind) = receiver.next_message() {
                match kind {
                    Kind::Asked => receiver.publish("inbox", None),
                    Kind::Last => drop(tell.send(())),
                    Kind::Counted => {}
                }
            }
        });
        Ok(Self { version, sender, counted, answering: Some(answering), server, _directory: directory })
    }

    pub(crate) fn round_trips(&mut self, count: usize) -> Vec<Duration> {
        let mut samples = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = Instant::now();
            self.sender.publish("echo", Some("inbox"));
            self.sender.next_message().expect("an answer");
            samples.push(begun.elapsed());
        }
        samples
    }

    /// Messages a second from one client to the other. The server keeps their order: with the last, all have come.
    pub(crate) fn one_way(&mut self, count: usize) -> f64 {
        let begun = Instant::now();
        let mut bytes = Vec::with_capacity(2 * WRITE_BYTES);
        for sent in 1..=count {
            let subject = if sent == count { "count.last" } else { "count.more" };
            put_message(&mut bytes, subject, None);
            if bytes.len() >= WRITE_BYTES || sent == count {
                self.sender.write(&bytes);
                bytes.clear();
            }
        }
        self.counted.recv().expect("the other client lives");
        count as f64 / begun.elapsed().as_secs_f64()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        if let Some(answering) = self.answering.take() {
            let _ = answering.join();
        }
    }
}

/// What a message is for.
enum Kind {
    Asked,
    Counted,
    Last,
}

struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    read: Vec<u8>,
    at: usize,
}

impl Client {
    fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let begun = Instant::now();
        let mut tcp = loop {
            match TcpStream::connect(address) {
                Ok(tcp) => break tcp,
                Err(error) if begun.elapsed() > START => panic!("nats-server does not listen: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        tcp.set_nodelay(true).expect("set");
        // It says who it is before TLS begins.
        let mut byte = [0];
        while byte != *b"\n" {
            tcp.read_exact(&mut byte).expect("its first line");
        }
        let name = ServerName::try_from(SERVER_NAME).expect("a name");
        let tls = ClientConnection::new(Arc::clone(config), name).expect("usable");
        let mut client = Self { stream: StreamOwned::new(tls, tcp), read: Vec::new(), at: 0 };
        client.say("CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":true}\r\nPING\r\n");
        client.until_pong();
        client
    }

    fn say(&mut self, text: &str) {
        self.write(text.as_bytes());
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).and_then(|()| self.stream.flush()).expect("the server takes it");
    }

    fn publish(&mut self, subject: &str, reply: Option<&str>) {
        let mut bytes = Vec::with_capacity(CONTENT + 64);
        put_message(&mut bytes, subject, reply);
        self.write(&bytes);
    }

    fn until_pong(&mut self) {
        while self.line().expect("the server lives") != "PONG" {}
    }

    /// The next message, its content read; `None` when the server has gone.
    fn next_message(&mut self) -> Option<Kind> {
        loop {
            let line = self.line()?;
            if line == "PING" {
                self.say("PONG\r\n");
            }
            let Some(head) = line.strip_prefix("MSG ") else {
                assert!(!line.starts_with("-ERR"), "{line}");
                continue;
            };
            let kind = match head.split(' ').next() {
                Some("count.more") => Kind::Counted,
                Some("count.last") => Kind::Last,
                _ => Kind::Asked,
            };
            let length = head.rsplit(' ').next().and_then(|length| length.parse::<usize>().ok());
            let length = length.expect("it ends with its length");
            assert_eq!(length, CONTENT);
            while self.read.len() - self.at < length + 2 {
                self.fill()?;
            }
            self.at += length + 2;
            return Some(kind);
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read[self.at..].iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&self.read[self.at..self.at + end]).trim_end().to_owned();
                self.at += end + 1;
                return Some(line);
            }
            assert!(self.read.len() - self.at < LINE_BYTES_MAX, "a line without end");
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Option<()> {
        self.read.drain(..self.at);
        self.at = 0;
        let before = self.read.len();
        self.read.resize(before + (64 << 10), 0);
        let count = self.stream.read(&mut self.read[before..]).unwrap_or(0);
        self.read.truncate(before + count);
        (count > 0).then_some(())
    }
}

fn put_message(to: &mut Vec<u8>, subject: &str, reply: Option<&str>) {
    let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
    to.extend_from_slice(format!("PUB {subject} {reply}{CONTENT}\r\n").as_bytes());
    to.extend_from_slice(&[b'7'; CONTENT]);
    to.extend_from_slice(b"\r\n");
}
