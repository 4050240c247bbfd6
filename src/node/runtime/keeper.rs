//! A process agent's keeper, from the node's side: a small process between the node and the agent that
//! starts the agent confined and ends it when the node cannot (`crate::cli::keeper` is its own side).
//!
//! Node and keeper share one socket, the keeper's stdin. No descriptor is ever made inheritable for it,
//! so nothing can leak into another agent that is being started at the same moment.
//!
//! ```text
//! node -> keeper   STDIN (with the agent's stdin attached) or NO_STDIN, once, first
//!                  BEAT now and then; TERMINATE, KILL: a signal for the agent's whole group
//!                  PERMIT with a time: an exclusive agent may run until then
//!                  end of stream: the node is gone, kill the group
//! keeper -> node   "started PID", then "exited STATUS" or "killed SIGNAL"; or, at any time, "failed WHY"
//! ```
//!
//! The agent's stdout and stderr are the keeper's own, inherited; the keeper gives them up once the agent
//! runs, so what the agent writes takes no detour and its end is seen.

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::core::model::Confinement;

/// First byte: the agent's stdin is attached.
pub const STDIN: u8 = b'I';
/// First byte: the agent's stdin is empty.
pub const NO_STDIN: u8 = b'N';
/// The node lives.
pub const BEAT: u8 = b'.';
/// SIGTERM to the agent's group.
pub const TERMINATE: u8 = b'T';
/// SIGKILL to the agent's group.
pub const KILL: u8 = b'K';

/// A later end of the agent's permit: eight bytes follow, nanoseconds by the clock that runs on in suspend, least first.
pub const PERMIT: u8 = b'P';

/// Bytes of a report of a keeper. Longer: the keeper is taken for broken.
const REPORT_BYTES_MAX: usize = 4 << 10;

/// What a keeper is to start.
#[derive(Debug)]
pub(super) struct Plan {
    /// The executable that has the `keeper` subcommand.
    pub(super) keeper: PathBuf,
    /// The agent's executable, found already.
    pub(super) command: PathBuf,
    /// Its arguments.
    pub(super) args: Vec<String>,
    /// What its processes may use.
    pub(super) confinement: Confinement,
    /// Its whole environment.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub(super) directory: PathBuf,
    /// Whether it has a stdin that is written to.
    pub(super) has_stdin: bool,
    /// How long the keeper bears the node's silence.
    pub(super) silence_max: Duration,
    /// When the agent is killed, if no later time is told.
    pub(super) permit_until: Option<u64>,
}

/// A keeper that was started, and the ends of its agent's pipes.
pub(super) struct Kept {
    /// The keeper's process.
    pub(super) child: Child,
    /// Orders to it and reports from it.
    pub(super) line: KeeperLine,
    /// The agent's stdin, if the plan has one.
    pub(super) stdin: Option<pipe::Sender>,
    /// The agent's stdout.
    pub(super) stdout: ChildStdout,
    /// The agent's stderr.
    pub(super) stderr: ChildStderr,
}

/// What a keeper reports.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The agent's process runs.
    Started(u32),
    /// The agent ended by itself, and nothing of its group is left.
    Exited(i32),
    /// A signal ended the agent, and nothing of its group is left.
    Killed(i32),
    /// The agent could not be started, or was ended because the node was silent.
    Failed(String),
    /// The keeper is gone, or talks nonsense; the agent's group may still be there.
    Gone,
}

/// Starts a keeper. Blocks for the time of a `fork` and an `exec`. Must run inside a tokio runtime.
///
/// # Errors
/// What the system refused: descriptors, processes, or the keeper's executable.
pub(super) fn start(plan: &Plan) -> io::Result<Kept> {
    let (ours, theirs) = StdUnixStream::pair()?;
    let stdin = if plan.has_stdin {
        let (reader, writer) = io::pipe()?;
        send_opening(&ours, Some(reader.as_fd()))?;
        Some(pipe::Sender::from_owned_fd(OwnedFd::from(writer))?)
    } else {
        send_opening(&ours, None)?;
        None
    };
    ours.set_nonblocking(true)?;
    let stream = UnixStream::from_std(ours)?;
    let mut child = Command::new(&plan.keeper)
        .arg("keeper")
        .args(["--silence-ms", &plan.silence_max.as_millis().to_string()])
        .args(plan.permit_until.map(|until| format!("--permit-until={until}")))
        .args(bounds(&plan.confinement))
        .arg("--")
        .arg(&plan.command)
        .args(&plan.args)
        .env_clear()
        .envs(plan.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&plan.directory)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().expect("it was piped a line above");
    let stderr = child.stderr.take().expect("it was piped a line above");
    Ok(Kept { child, line: KeeperLine { stream, received: Vec::new() }, stdin, stdout, stderr })
}

/// Those of the bounds that are given, as the keeper is told them.
fn bounds(confinement: &Confinement) -> impl Iterator<Item = String> {
    let Confinement { files, memory_bytes, processes } = *confinement;
    let all = [("files", files), ("memory-bytes", memory_bytes), ("processes", processes)];
    all.into_iter().filter_map(|(name, bound)| Some(format!("--{name}={}", bound?)))
}

fn send_opening(socket: &StdUnixStream, stdin: Option<std::os::fd::BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let stdin: Vec<_> = stdin.into_iter().collect();
    let opening = if stdin.is_empty() { NO_STDIN } else { STDIN };
    if !stdin.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&stdin)) {
        return Err(io::Error::other("there is no room for the descriptor"));
    }
    sendmsg(socket, &[IoSlice::new(&[opening])], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// The socket between a node and one keeper.
#[derive(Debug)]
pub(super) struct KeeperLine {
    stream: UnixStream,
    received: Vec<u8>,
}

impl KeeperLine {
    /// Gives an order. A keeper that does not read (stopped, or gone) misses it: the caller has deadlines.
    pub(super) fn order(&self, order: u8) {
        let _ = self.stream.try_write(&[order]);
    }

    /// Tells a later end of the agent's permit. One that is missed is followed by another.
    pub(super) fn permit(&self, until: u64) {
        let mut order = [PERMIT; 9];
        order[1..].copy_from_slice(&until.to_le_bytes());
        let _ = self.stream.try_write(&order);
    }

    /// The next report. May be dropped and called again at any time.
    pub(super) async fn report(&mut self) -> Report {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return parse(&String::from_utf8_lossy(&line[..end]));
            }
            if self.received.len() > REPORT_BYTES_MAX || self.stream.readable().await.is_err() {
                return Report::Gone;
            }
            let mut bytes = [0; 512];
            match self.stream.try_read(&mut bytes) {
                Ok(0) => return Report::Gone,
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Report::Gone,
            }
        }
    }
}

fn parse(line: &str) -> Report {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let report = match word {
        "started" => rest.parse().ok().map(Report::Started),
        "exited" => rest.parse().ok().map(Report::Exited),
        "killed" => rest.parse().ok().map(Report::Killed),
        "failed" => Some(Report::Failed(rest.to_owned())),
        _ => None,
    };
    report.unwrap_or(Report::Gone)
}

/// Kills an agent's group without its keeper.
pub(super) fn kill_group(agent_pid: u32) {
    if let Some(group) = i32::try_from(agent_pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// A signal as people know it.
pub(super) fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return format!("signal {number}"),
    };
    format!("{name} (signal {number})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_is_not_understood_means_that_the_keeper_is_broken() {
        assert_eq!(parse("started 42"), Report::Started(42));
        assert_eq!(parse("exited 3"), Report::Exited(3));
        assert_eq!(parse("killed 9"), Report::Killed(9));
        assert_eq!(parse("failed no such file"), Report::Failed("no such file".to_owned()));
        for line in ["", "started", "started -1", "exited x", "hello"] {
            assert_eq!(parse(line), Report::Gone, "{line}");
        }
    }
}
