//! A single `etcd` on this machine, if its Debian package is installed, over its JSON gateway.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::raw::{key, value};

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// The process; it ends with the value.
pub(crate) struct Etcd {
    process: Child,
    address: SocketAddr,
}

impl Etcd {
    /// # Errors
    /// Why there is none.
    pub(crate) fn start(directory: &Path) -> Result<Self, String> {
        let [address, peers] = [free_port(), free_port()];
        let [clients, peers] = [address, peers].map(|address| format!("http://{address}"));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(directory).args(["--name", "n1", "--log-level", "error"]);
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &format!("n1={peers}")]);
        let started = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = started.map_err(|error| format!("`etcd` does not start: {error}"))?;
        let etcd = Self { process, address };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if begun.elapsed() > PATIENCE {
                return Err(format!("`etcd` did not listen within {} s", PATIENCE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(etcd)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("bound")
}

/// A write over the gateway.
pub(crate) fn put(n: u64) -> String {
    let [key, value] = [key(n).into_bytes(), value(n)].map(|bytes| BASE64_STANDARD.encode(bytes));
    let body = format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}");
    let length = body.len();
    format!(
        "POST /v3/kv/put HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}
