//! Real nodes in network namespaces: each its own machine as far as the network goes, joined by a bridge
//! in a namespace of its own. Needs root and `ip`; without them a test fails and says so.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use shoal::core::ids::NodeId;
use shoal::node::certs::{self, Ca, Existing, NodeFiles};
use tempfile::TempDir;

use super::mesh::{issue, new_ca};

/// How long anything may take before the test gives up; nothing waits that long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

static NETS: AtomicU32 = AtomicU32::new(0);

/// A bridge with one namespace a machine; gone when the value is.
pub struct Net {
    name: String,
    machines: usize,
    dir: TempDir,
    ca: Ca,
}

impl Net {
    /// A network of `machines` machines, `10.91.0.1` and so on. Their names are `node-1`, `node-2`, ... also
    /// for name resolution on each of them.
    pub fn new(machines: usize) -> Self {
        let name = format!("sh{}x{}", std::process::id() % 100_000, NETS.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let net = Self { name, machines, dir, ca: new_ca("test") };
        let switch = net.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
        for n in 1..=machines {
            net.add_machine(n);
        }
        net
    }

    fn switch(&self) -> String {
        format!("{}s", self.name)
    }

    fn space(&self, n: usize) -> String {
        format!("{}n{n}", self.name)
    }

    fn add_machine(&self, n: usize) {
        let (switch, space) = (self.switch(), self.space(n));
        let (here, there) = (format!("v{}{n}a", &self.name), format!("p{n}"));
        let here = &here[here.len().saturating_sub(15)..];
        ip(&["netns", "add", &space]);
        ip(&["-n", &switch, "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", &space]);
        ip(&["-n", &switch, "link", "set", here, "name", &there]);
        ip(&["-n", &switch, "link", "set", &there, "master", "br0"]);
        ip(&["-n", &switch, "link", "set", &there, "up"]);
        ip(&["-n", &space, "addr", "add", &format!("{}/24", address(n)), "dev", "eth0"]);
        ip(&["-n", &space, "link", "set", "eth0", "up"]);
        ip(&["-n", &space, "link", "set", "lo", "up"]);
        // `ip netns exec` shows these files as /etc/hosts and /etc/resolv.conf inside.
        let etc = Path::new("/etc/netns").join(&space);
        fs::create_dir_all(&etc).expect("root may write to /etc/netns");
        let names = (1..=self.machines).map(|m| format!("{} node-{m}\n", address(m)));
        let hosts: String = std::iter::once("127.0.0.1 localhost\n".to_owned()).chain(names).collect();
        fs::write(etc.join("hosts"), hosts).expect("writes");
        fs::write(etc.join("resolv.conf"), "").expect("writes");
    }

    /// `ip ARGS` on machine `n`.
    pub fn ip(&self, n: usize, args: &[&str]) {
        ip(&[&["-n", &self.space(n)], args].concat());
    }

    /// `nft COMMAND` on machine `n`; what it prints.
    pub fn nft(&self, n: usize, command: &str) -> String {
        let output = Command::new("ip").args(["netns", "exec", &self.space(n), "nft", command]).output();
        let output = output.expect("`nft` is installed (Debian: nftables)");
        assert!(output.status.success(), "nft {command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What machine `n` asks for names: `/etc/hosts` and `/etc/resolv.conf` there, from now on, also for
    /// processes that run.
    pub fn set_resolver(&self, n: usize, hosts: &str, resolv: &str) {
        let etc = Path::new("/etc/netns").join(self.space(n));
        fs::write(etc.join("hosts"), hosts).expect("writes");
        fs::write(etc.join("resolv.conf"), resolv).expect("writes");
    }

    /// Takes machine `n` off the network, or puts it back.
    pub fn set_link(&self, n: usize, state: &str) {
        ip(&["-n", &self.switch(), "link", "set", &format!("p{n}"), state]);
    }

    /// A node's directory, with its certificate.
    pub fn install(&self, n: usize) -> PathBuf {
        self.install_as(n, &format!("node-{n}"), &self.dir.path().join(format!("node-{n}")))
    }

    /// A directory on machine `n` with a certificate of that name.
    pub fn install_as(&self, _n: usize, id: &str, data_dir: &Path) -> PathBuf {
        let id: NodeId = id.parse().expect("valid");
        let pair = issue(&self.ca, &id);
        let files = NodeFiles {
            ca_pem: self.ca.bundle_pem(),
            cert_pem: &pair.cert_pem,
            key_pem: Some(&pair.key_pem),
        };
        certs::write_node(&data_dir.join("certs"), &files, Existing::Keep).expect("writes");
        data_dir.to_owned()
    }

    /// A path below the test's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts `node-n` on machine `n` with these arguments after `server start`.
    pub fn start(&self, n: usize, args: &[&str]) -> RealNode<'_> {
        let data_dir = self.dir.path().join(format!("node-{n}"));
        if !data_dir.exists() {
            self.install(n);
        }
        self.start_in(n, &format!("node-{n}"), &data_dir, args)
    }

    /// Starts a node of that name with that directory on machine `n`.
    pub fn start_in(&self, n: usize, id: &str, data_dir: &Path, args: &[&str]) -> RealNode<'_> {
        let log = data_dir.join("log");
        let logs = File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = self.command(n, &["server", "start", "--node-id", id]);
        command.arg("--data-dir").arg(data_dir).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(logs);
        let child = command.spawn().expect("starts");
        RealNode { net: self, n, log, child: Some(child) }
    }

    /// Runs any program on machine `n`; it must succeed.
    pub fn run_on(&self, n: usize, words: &[&str]) {
        ip(&[&["netns", "exec", &self.space(n)], words].concat());
    }

    /// `shoal ARGS` on machine `n`, not started yet.
    pub fn command(&self, n: usize, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(n), env!("CARGO_BIN_EXE_shoal")]).args(args);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHOAL_"))
        {
            command.env_remove(name);
        }
        command
    }

    /// Any program on machine `n`, not started yet.
    pub fn program(&self, n: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(n), program]);
        command
    }

    /// Moves this thread to machine `n`, for good: sockets that it opens from now on are there.
    pub fn enter(&self, n: usize) {
        let space = File::open(Path::new("/run/netns").join(self.space(n))).expect("there is a machine");
        let moved = move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network));
        moved.expect("root may enter namespaces");
    }

    /// Does something on a thread of machine `n`.
    pub fn on<T: Send>(&self, n: usize, work: impl FnOnce() -> T + Send) -> T {
        let on_machine = || {
            self.enter(n);
            work()
        };
        std::thread::scope(|scope| scope.spawn(on_machine).join().expect("it does not panic"))
    }

    /// Runs `shoal ARGS` on machine `n` to its end.
    pub fn shoal(&self, n: usize, args: &[&str]) -> Output {
        self.command(n, args).output().expect("runs")
    }

    /// The JSON that `shoal ARGS -o json` prints on machine `n`; `None` when it fails.
    pub fn json(&self, n: usize, args: &[&str]) -> Option<Value> {
        let output = self.shoal(n, &[args, &["-o", "json"]].concat());
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// What machine `n` says of the status of node `of`.
    pub fn status(&self, n: usize, of: usize) -> Option<String> {
        let members = self.json(n, &["cluster", "members"])?;
        let name = format!("node-{of}");
        let member = members.as_array()?.iter().find(|m| m["node_id"] == name.as_str())?;
        Some(member["status"].as_str()?.to_owned())
    }

    /// Waits until the nodes on these machines all see each other alive; how long that took.
    pub fn all_alive(&self, machines: &[usize]) -> Duration {
        let alive = |n: usize, of: usize| self.status(n, of).as_deref() == Some("alive");
        until("all see all alive", || machines.iter().all(|n| machines.iter().all(|of| alive(*n, *of))))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for n in 1..=self.machines {
            let space = self.space(n);
            let _ = Command::new("ip").args(["netns", "del", &space]).output();
            let _ = fs::remove_dir_all(Path::new("/etc/netns").join(space));
        }
        let _ = Command::new("ip").args(["netns", "del", &self.switch()]).output();
    }
}

/// Where machine `n` is.
pub fn address(n: usize) -> String {
    format!("10.91.0.{n}")
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("`ip` is installed (Debian: iproute2)");
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {why}; these tests need root", args.join(" "));
}

/// Waits until `done`; how long that took.
pub fn until(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20));
    }
    begun.elapsed()
}

/// A node's process.
pub struct RealNode<'a> {
    net: &'a Net,
    n: usize,
    log: PathBuf,
    child: Option<Child>,
}

impl RealNode<'_> {
    /// Waits until its API answers.
    pub fn until_ready(&self) {
        until("the API answers", || self.net.json(self.n, &["cluster", "status"]).is_some());
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// kill -9.
    pub fn kill(mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().expect("runs").success());
    }

    /// Waits for its end.
    pub fn ended(mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return status;
            }
            if begun.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("it does not end; its log:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and its end.
    pub fn stop(self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }
}

impl Drop for RealNode<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                eprintln!("log of node-{}:\n{}", self.n, self.log());
            }
        }
    }
}
