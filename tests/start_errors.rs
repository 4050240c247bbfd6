//! What a node says when it cannot start: one clear error, the right exit code, and nothing half done.

mod common;

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use shoal::core::ids::NodeId;
use shoal::node::certs::{self, Ca, Existing, NodeFiles};
use tempfile::TempDir;

use common::mesh::{issue, new_ca};

struct Machine {
    dir: TempDir,
    ca: Ca,
}

impl Machine {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory"), ca: new_ca("test") }
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The certificate of `node` by `signer`, where `node-1` looks for its own; it trusts the mesh's CA.
    fn install(&self, node: &str, signer: &Ca) {
        let id: NodeId = node.parse().expect("valid");
        let pair = issue(signer, &id);
        let files = NodeFiles {
            ca_pem: self.ca.bundle_pem(),
            cert_pem: &pair.cert_pem,
            key_pem: Some(&pair.key_pem),
        };
        certs::write_node(&self.data_dir().join("certs"), &files, Existing::Replace).expect("writes");
    }

    fn ready() -> Self {
        let machine = Self::new();
        machine.install("node-1", &machine.ca);
        machine
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
        command.args(["server", "start", "--node-id", "node-1", "--api-addr", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(self.data_dir()).args(args);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHOAL_"))
        {
            command.env_remove(name);
        }
        command
    }

    /// Starts with these arguments and fails; the exit code and the last line that it says.
    fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.command(args).stdin(Stdio::null()).output().expect("runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let said: Vec<_> = error.lines().filter(|line| line.starts_with("shoal: ")).collect();
        assert_eq!(said.len(), 1, "one clear error, in {error}");
        (output.status.code().expect("it ends by itself"), said[0].to_owned())
    }

    fn fails_with(&self, args: &[&str], code: i32, words: &str) {
        let (ended, error) = self.fails(args);
        assert_eq!(ended, code, "{error}");
        assert!(error.contains(words), "{words:?} is not in {error}");
    }
}

const HERE: [&str; 3] = ["--bootstrap", "--bind-addr", "127.0.0.1:0"];

#[test]
fn a_missing_certificate_is_told_with_the_command_that_makes_one() {
    Machine::new().fails_with(&HERE, 1, "shoal cert issue");
}

#[test]
fn a_certificate_of_another_node_is_refused_with_both_names() {
    let machine = Machine::new();
    machine.install("node-2", &machine.ca);
    machine.fails_with(&HERE, 1, "the certificate names node node-2, the configuration node-1");
}

#[test]
fn a_certificate_of_another_ca_is_refused() {
    let machine = Machine::new();
    machine.install("node-1", &new_ca("test"));
    machine.fails_with(&HERE, 1, "not signed by a CA that is trusted");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let machine = Machine::ready();
    let other = issue(&machine.ca, &"node-1".parse().expect("valid"));
    fs::write(machine.data_dir().join("certs/node.key"), other.key_pem).expect("writes");
    machine.fails_with(&HERE, 1, "node.key");
}

#[test]
fn garbage_in_place_of_a_certificate_is_refused_with_the_file() {
    let machine = Machine::ready();
    fs::write(machine.data_dir().join("certs/node.crt"), "not a certificate").expect("writes");
    machine.fails_with(&HERE, 1, "node.crt");
}

#[test]
fn a_udp_port_in_use_is_told_with_the_address() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    Machine::ready().fails_with(&["--bootstrap", "--bind-addr", &address], 1, &address);
}

#[test]
fn an_api_port_in_use_is_told_with_the_address() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let machine = Machine::ready();
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.args(["server", "start", "--node-id", "node-1", "--api-addr", &address]).args(HERE);
    let output = command.arg("--data-dir").arg(machine.data_dir()).output().expect("runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains(&address) && error.contains("use"), "{error}");
}

#[test]
fn an_api_address_that_is_none_is_bad_usage() {
    Machine::ready().fails_with(&["--bind-addr", "nonsense:x:y", "--bootstrap"], 2, "--bind-addr");
}

#[test]
fn a_node_whose_mesh_id_was_lost_to_damage_begins_no_second_mesh_however_often_it_is_started() {
    let machine = Machine::ready();
    fs::write(machine.data_dir().join("shoal.db"), "not a database, and long enough ".repeat(100))
        .expect("writes");
    for _ in 0..2 {
        machine.fails_with(&HERE, 1, "start it with --join");
    }
    machine.fails_with(&HERE[1..], 1, "start it with --join");
    let names = fs::read_dir(machine.data_dir()).expect("readable");
    let aside =
        names.filter(|e| e.as_ref().expect("an entry").file_name().to_string_lossy().contains(".damaged-"));
    assert_eq!(aside.count(), 1, "the new one is not damaged");
}

#[test]
fn a_data_directory_that_is_a_file_or_cannot_be_made_is_told_with_its_path() {
    let machine = Machine::ready();
    let certs = machine.data_dir().join("certs");
    let certs = certs.to_str().expect("text");
    let file = machine.dir.path().join("file");
    fs::write(&file, "").expect("writes");
    let below = file.join("data");
    for path in [&file, &below, Path::new("/proc/shoal")] {
        let text = path.to_str().expect("text");
        let args = [&HERE[..], &["--certs", certs, "--data-dir", text]].concat();
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
        command.args(["server", "start", "--node-id", "node-1", "--api-addr", "127.0.0.1:0"]).args(args);
        let output = command.output().expect("runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(text), "{text} is not in {error}");
    }
}

/// A node that runs until the value is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_data_directory_in_use_is_refused_and_its_node_goes_on() {
    let machine = Machine::ready();
    let child = machine.command(&HERE).stderr(Stdio::null()).spawn().expect("starts");
    let mut running = Running(child);
    let begun = std::time::Instant::now();
    while !machine.data_dir().join("shoal.db").exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the first node starts");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (code, error) = machine.fails(&HERE);
    assert_eq!(code, 1);
    assert!(error.contains("data") && error.contains(&running.0.id().to_string()), "{error}");
    assert!(running.0.try_wait().expect("a child").is_none(), "the first node goes on");
}

#[test]
fn a_node_that_remembers_no_mesh_and_is_told_of_none_says_what_to_do() {
    Machine::ready().fails_with(&["--bind-addr", "127.0.0.1:0"], 1, "--bootstrap nor --join");
}

#[test]
fn wrong_flags_are_bad_usage_and_told_all_at_once() {
    let machine = Machine::ready();
    machine.fails_with(&["--bootstrap", "--join", "node-2", "--bind-addr", "127.0.0.1:0"], 2, "--join");
    let output = machine
        .command(&["--bind-addr", "x", "--log-format", "xml", "--label", "novalue"])
        .output()
        .expect("runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    for flag in ["--bind-addr", "--log-format", "--label"] {
        assert!(error.contains(flag), "{flag} is not in {error}");
    }
}

#[test]
fn a_configuration_file_is_checked_without_starting_anything() {
    let machine = Machine::new();
    let file = machine.dir.path().join("node.yaml");
    fs::write(&file, "node:\n  id: node-1\n  colour: red\ntransport:\n  type: tcp\n").expect("writes");
    let path = file.to_str().expect("text");
    let output = machine.command(&["--config", path, "--check-config"]).output().expect("runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(error.contains(&format!("{path}:3")) && error.contains("node.colour"), "{error}");
    assert!(error.contains(&format!("{path}:5")) && error.contains("transport.type"), "{error}");
    assert!(!machine.data_dir().exists(), "nothing was made");
    fs::write(&file, "node: {id: node-1}\n").expect("writes");
    let output = machine.command(&["--config", path, "--check-config"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(0));
}
