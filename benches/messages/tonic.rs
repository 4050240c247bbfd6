//! tonic with mutual TLS, as two processes of the program in `benches/tonic`, which is built apart: it needs crates that
//! nothing else here does.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Where the program is built, below `benches/`.
const BUILT: &str = "tonic/target/release/shoal-bench-tonic";

/// A server and a client, which does what its standard input says.
pub(crate) struct Tonic {
    server: Child,
    client: Child,
    say: ChildStdin,
    hear: BufReader<ChildStdout>,
}

impl Tonic {
    /// Starts both with certificates of that CA's directory: `ca.crt`, and `NAME.crt` and `NAME.key` of each side.
    pub(crate) fn start(certs: &Path) -> Result<Self, String> {
        let program = std::env::var_os("SHOAL_BENCH_TONIC").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("benches").join(BUILT),
            std::path::PathBuf::from,
        );
        let start = |role: &str, more: &[&str]| {
            let mut command = Command::new(&program);
            command.arg(role).arg(certs).args(more).stdin(Stdio::piped()).stdout(Stdio::piped());
            command.spawn().map_err(|error| {
                format!(
                    "{}: {error} (cargo build --release --manifest-path benches/tonic/Cargo.toml)",
                    program.display()
                )
            })
        };
        let mut server = start("server", &[])?;
        let mut line = String::new();
        let hear = server.stdout.take().expect("it is piped");
        BufReader::new(hear).read_line(&mut line).map_err(|error| error.to_string())?;
        let mut client = start("client", &[line.trim()])?;
        let say = client.stdin.take().expect("it is piped");
        let hear = BufReader::new(client.stdout.take().expect("it is piped"));
        Ok(Self { server, client, say, hear })
    }

    pub(crate) fn round_trips(&mut self, count: usize) -> Vec<Duration> {
        writeln!(self.say, "{count}").expect("it listens");
        let mut line = String::new();
        self.hear.read_line(&mut line).expect("it answers");
        let samples: Vec<_> = line
            .split_whitespace()
            .map(|nanos| Duration::from_nanos(nanos.parse().expect("a number")))
            .collect();
        assert_eq!(samples.len(), count);
        samples
    }
}

impl Drop for Tonic {
    fn drop(&mut self) {
        for child in [&mut self.client, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
