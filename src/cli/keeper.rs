//! `shoal keeper`: starts one process agent confined, and ends it when its node is gone. The node starts
//! it; it is of no use by hand. `crate::node::runtime::keeper` describes what the two say to each other.
//!
//! The agent gets its own process group in a session without a terminal, `no_new_privs`, no core dumps, a
//! limit of open files, the environment that the node made, and no descriptor but the standard three.
//! Its whole group is killed when
//!
//! - the node's end of the socket closes: the node is dead;
//! - the node has been silent for too long: it hangs, or is stopped. Silence is counted in slices of
//!   waiting, not by the clock: a machine that sleeps stops node and keeper together, and punishes nobody;
//! - the agent itself ends: what it leaves behind is not an agent any more.
//!
//! On Linux the keeper adopts what the agent forks, so a child that left the group is killed at the end too.
//!
//! Memory and processes are bounded where the agent's manifest says so, by what the system offers for that: the address
//! space of each process, and the processes of the whole user. It does not limit CPU time, nor the memory of all processes
//! of an agent together: that takes cgroups, which need rights that a node does not ask for.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSliceMut, PipeReader, PipeWriter, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus};
use rustix::process::{getrlimit, kill_process_group, setrlimit};

use crate::core::limits;
use crate::node::runtime::keeper::{BEAT, NO_STDIN, PERMIT, STDIN, TERMINATE};

/// The arguments of `shoal keeper`.
#[derive(Debug, clap::Args)]
pub struct KeeperArgs {
    /// How long the node may be silent before its agent is killed, in milliseconds.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    silence_ms: u64,
    /// When it is killed, in nanoseconds of the clock that runs on in suspend, if no later time is told.
    #[arg(long)]
    permit_until: Option<u64>,
    /// Files that the agent may have open, if not as many as usual.
    #[arg(long)]
    files: Option<u64>,
    /// Bytes of address space that each of its processes may have.
    #[arg(long)]
    memory_bytes: Option<u64>,
    /// Processes and threads with which the node's user has enough.
    #[arg(long)]
    processes: Option<u64>,
    /// The agent's executable and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Silence is counted in so many slices.
const SLICES: u32 = 20;
/// How long killing what an agent left behind may take; what is in uninterruptible sleep outlives it.
const SWEEP_SLICES: u32 = 250;
/// One slice of that.
const SWEEP_SLICE: Duration = Duration::from_millis(20);
/// The exit code of a keeper whose agent could not be started.
const EXIT_NOT_STARTED: u8 = 125;

/// Runs the keeper until its agent has ended; exits with the agent's status, 128 + n for signal n.
#[must_use]
pub fn run(args: &KeeperArgs) -> ExitCode {
    let node = match open_line() {
        Ok(node) => node,
        Err(error) => {
            let mut stderr = io::stderr();
            let _ = writeln!(
                stderr,
                "shoal keeper is started by a node, not by hand: its stdin is no socket ({error})"
            );
            return ExitCode::from(EXIT_NOT_STARTED);
        }
    };
    let deadline = match args.permit_until.map(Deadline::arm).transpose() {
        Ok(deadline) => deadline,
        Err(error) => {
            report(&node, &format!("failed an exclusive agent needs a timer that kills it: {error}"));
            return ExitCode::from(EXIT_NOT_STARTED);
        }
    };
    match start(&node, args, deadline.is_some()) {
        Ok(agent) => Watch { node, agent, silence: Duration::from_millis(args.silence_ms), deadline }.run(),
        Err(error) => {
            report(&node, &format!("failed {}", error.to_string().replace(['\n', '\r'], " ")));
            ExitCode::from(EXIT_NOT_STARTED)
        }
    }
}

/// Moves the socket away from stdin, so that the agent cannot inherit it.
fn open_line() -> io::Result<UnixStream> {
    let node = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    node.local_addr()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(node)
}

/// A started agent: its process, which is also its group, and the pipe that tells of its end.
struct Agent {
    group: Pid,
    ended: PipeReader,
}

fn start(node: &UnixStream, args: &KeeperArgs, dies_with_keeper: bool) -> io::Result<Agent> {
    let stdin = receive_stdin(node)?;
    confine(args.files)?;
    let (program, words) = args.command.split_first().expect("clap requires at least one value");
    let mut command = Command::new(program);
    command.args(words).process_group(0);
    bound_memory_and_processes(&mut command, args)?;
    command.stdin(stdin.map_or_else(Stdio::null, Stdio::from));
    if dies_with_keeper {
        die_with_parent(&mut command);
    }
    let child = command.spawn().map_err(|error| explain(program, error))?;
    // The agent's pipes must end with the agent: no copy of them stays here.
    drop(command);
    let null = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;

    let group = Pid::from_child(&child);
    report(node, &format!("started {}", child.id()));
    let (ended, tell) = io::pipe()?;
    let reaper = std::thread::Builder::new().name("reaper".to_owned()).spawn(move || reap(group, tell));
    if let Err(error) = reaper {
        let _ = kill_process_group(group, Signal::KILL);
        return Err(error);
    }
    Ok(Agent { group, ended })
}

fn explain(program: &OsString, error: io::Error) -> io::Error {
    // ENOEXEC: the kernel does not know what to do with the file.
    if error.raw_os_error() == Some(8) {
        let why =
            format!("{program:?} is not a program for this machine: a script needs `#!` and its interpreter");
        return io::Error::other(why);
    }
    io::Error::other(format!("{program:?} could not be started: {error}"))
}

fn receive_stdin(node: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut opening = [0];
    let mut parts = [IoSliceMut::new(&mut opening)];
    let received = recvmsg(node, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let stdin = ancillary.drain().find_map(|message| {
        let RecvAncillaryMessage::ScmRights(mut descriptors) = message else { return None };
        descriptors.next()
    });
    match (received.bytes, opening[0], stdin) {
        (1, STDIN, Some(stdin)) => Ok(Some(stdin)),
        (1, NO_STDIN, None) => Ok(None),
        _ => Err(io::Error::other("the node did not say what the agent's stdin is")),
    }
}

/// Gives up what the agent, which inherits it, must not have.
fn confine(files: Option<u64>) -> io::Result<()> {
    // Fails for a group leader only, which is what a shell makes of a keeper that is started by hand.
    let _ = rustix::process::setsid();
    #[cfg(target_os = "linux")]
    {
        rustix::thread::set_no_new_privs(true)?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        seal_inherited()?;
    }
    setrlimit(Resource::Core, exactly(0))?;
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if let Some(files) = files.filter(|files| *files > most) {
        return Err(too_much("files", files, most));
    }
    Ok(setrlimit(Resource::Nofile, exactly(files.unwrap_or(limits::AGENT_FILES_MAX).min(most)))?)
}

fn exactly(bound: u64) -> Rlimit {
    Rlimit { current: Some(bound), maximum: Some(bound) }
}

fn too_much(name: &str, given: u64, most: u64) -> io::Error {
    io::Error::other(format!(
        "its limits say {name}: {given}, and its node may give no more than {most} itself"
    ))
}

/// Bounds the agent, and not this process, which needs memory and a thread of its own.
#[allow(unsafe_code, reason = "the child sets them itself, between fork and exec")]
fn bound_memory_and_processes(command: &mut Command, args: &KeeperArgs) -> io::Result<()> {
    if args.processes.is_some() && rustix::process::geteuid().is_root() {
        return Err(io::Error::other(
            "its limits say processes, which the system does not keep for root: run the node as a user of its own",
        ));
    }
    let all =
        [("memory_bytes", Resource::As, args.memory_bytes), ("processes", Resource::Nproc, args.processes)];
    for (name, resource, bound) in all {
        let Some(bound) = bound else { continue };
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        if bound > most {
            return Err(too_much(name, bound, most));
        }
        let set = move || Ok(setrlimit(resource, exactly(bound))?);
        // SAFETY: a system call, and nothing that allocates or locks.
        unsafe { command.pre_exec(set) };
    }
    Ok(())
}

/// Keeps what the node's own parent left open (a shell's `9>lock`, say) from reaching the agent.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "a descriptor that is known by its number only")]
fn seal_inherited() -> io::Result<()> {
    use std::os::fd::BorrowedFd;

    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if number <= 2 {
            continue;
        }
        // SAFETY: the number was open when it was listed, and this process has a single thread, which
        // closes nothing here but the listing itself, and that after the loop.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC)?;
    }
    Ok(())
}

/// Collects every child that ends, adopted ones included, until none is left; tells of the agent's own
/// end, and of the last one by closing the pipe.
fn reap(agent: Pid, mut tell: PipeWriter) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::empty()) {
        if pid == agent {
            let _ = tell.write_all(&encode(status));
        }
    }
}

/// A status as two bytes: whether a signal ended it, and which, or its exit status.
fn encode(status: WaitStatus) -> [u8; 2] {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match status.terminating_signal() {
        Some(signal) => [1, byte(signal)],
        None => [0, byte(status.exit_status().unwrap_or(i32::from(u8::MAX)))],
    }
}

/// Kills an agent as soon as its keeper, which starts it, is dead.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "the child asks for it itself, between fork and exec")]
fn die_with_parent(command: &mut Command) {
    let keeper = rustix::process::getpid();
    let ask = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have died before that.
        if rustix::process::getppid() == Some(keeper) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: two system calls, and nothing that allocates or locks.
    unsafe { command.pre_exec(ask) };
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command) {}

/// A timer of the kernel that kills this process, and with it the agent, at the end of the agent's permit; also while both
/// are stopped. The keeper itself is to be done a little earlier: it ends what the agent has started as well.
#[cfg(target_os = "linux")]
struct Deadline {
    timer: nix::sys::timer::Timer,
    until: u64,
}

#[cfg(target_os = "linux")]
impl Deadline {
    fn arm(until: u64) -> io::Result<Self> {
        use nix::sys::signal::{SigEvent, SigevNotify, Signal};
        let notify = SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 };
        let timer = nix::sys::timer::Timer::new(nix::time::ClockId::CLOCK_BOOTTIME, SigEvent::new(notify))?;
        let mut deadline = Self { timer, until };
        deadline.set(until)?;
        Ok(deadline)
    }

    fn set(&mut self, until: u64) -> io::Result<()> {
        use nix::sys::timer::{Expiration, TimerSetTimeFlags};
        self.until = until;
        // Zero would disarm it.
        let until = nix::sys::time::TimeSpec::from_duration(Duration::from_nanos(until.max(1)));
        Ok(self.timer.set(Expiration::OneShot(until), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }

    /// Until the keeper ends the agent itself.
    fn left(&self) -> Duration {
        let left = Duration::from_nanos(self.until.saturating_sub(crate::node::clock::boot_nanos()));
        left.saturating_sub(limits::PERMIT_KEEPER_MARGIN)
    }
}

#[cfg(not(target_os = "linux"))]
struct Deadline;

#[cfg(not(target_os = "linux"))]
impl Deadline {
    fn arm(_until: u64) -> io::Result<Self> {
        Err(io::Error::other("this system has none"))
    }

    fn set(&mut self, _until: u64) -> io::Result<()> {
        Ok(())
    }

    fn left(&self) -> Duration {
        Duration::MAX
    }
}

/// Watches one agent and its node.
struct Watch {
    node: UnixStream,
    agent: Agent,
    silence: Duration,
    /// When the agent is killed whatever happens, if it is exclusive.
    deadline: Option<Deadline>,
}

/// Why waiting was over.
enum Woken {
    Slice,
    Order(u8),
    NodeGone,
    AgentEnded([u8; 2]),
}

impl Watch {
    fn run(mut self) -> ExitCode {
        let slice = (self.silence / SLICES).max(Duration::from_millis(1));
        let mut silent = 0;
        let (ended, why) = loop {
            let left = self.deadline.as_ref().map(Deadline::left);
            if left.is_some_and(|left| left.is_zero()) {
                break (None, "its permit was over".to_owned());
            }
            let span = left.map_or(slice, |left| left.min(slice));
            match self.wait(span) {
                Woken::AgentEnded(status) => break (Some(status), String::new()),
                Woken::Order(order) => {
                    silent = 0;
                    self.obey(order);
                }
                Woken::Slice if span < slice => {}
                Woken::Slice => {
                    silent += 1;
                    if silent >= SLICES {
                        let silence = self.silence.as_millis();
                        break (None, format!("its node was silent for {silence} ms"));
                    }
                }
                Woken::NodeGone => break (None, "its node is gone".to_owned()),
            }
        };
        let status = ended.or_else(|| self.kill());
        self.sweep();
        let Some([by_signal, number]) = status else {
            // It cannot be killed; that is for the node, if there is one, to say.
            return ExitCode::from(EXIT_NOT_STARTED);
        };
        if ended.is_none() {
            report(&self.node, &format!("failed {why}, so its keeper ended it"));
            return ExitCode::from(EXIT_NOT_STARTED);
        }
        let word = if by_signal == 1 { "killed" } else { "exited" };
        report(&self.node, &format!("{word} {number}"));
        ExitCode::from(if by_signal == 1 { number.saturating_add(128) } else { number })
    }

    fn obey(&mut self, order: u8) {
        match order {
            BEAT => {}
            PERMIT => self.go_on(),
            TERMINATE => self.signal(Signal::TERM),
            // KILL, and what this version does not know: better an agent that ends than one that nobody ends.
            _ => self.signal(Signal::KILL),
        }
    }

    /// Takes in a later end of the agent's permit. What cannot be read is none: the timer stays as it is.
    fn go_on(&mut self) {
        let mut until = [0; 8];
        if let Some(deadline) = &mut self.deadline
            && self.node.read_exact(&mut until).is_ok()
            && let Err(error) = deadline.set(u64::from_le_bytes(until))
        {
            report(&self.node, &format!("failed its permit cannot be made longer: {error}"));
        }
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.agent.group, signal);
    }

    /// Kills the agent and waits for its status.
    fn kill(&mut self) -> Option<[u8; 2]> {
        for _ in 0..SWEEP_SLICES {
            self.signal(Signal::KILL);
            if let Some(status) = self.ended(SWEEP_SLICE) {
                return status;
            }
        }
        None
    }

    /// Kills what is left of the agent's group, and what left it, once the agent is gone.
    fn sweep(&mut self) {
        for _ in 0..SWEEP_SLICES {
            self.signal(Signal::KILL);
            kill_adopted();
            if let Some(None) = self.ended(SWEEP_SLICE) {
                return;
            }
        }
    }

    fn wait(&mut self, slice: Duration) -> Woken {
        let mut events =
            [PollFd::new(&self.node, PollFlags::IN), PollFd::new(&self.agent.ended, PollFlags::IN)];
        // An error (EINTR) only makes the slice shorter; it is not counted, so nobody is killed early.
        let count = poll(&mut events, Some(&timespec(slice)));
        let [node, agent] = [events[0].revents(), events[1].revents()];
        if !agent.is_empty() {
            return Woken::AgentEnded(read_status(&mut self.agent.ended).unwrap_or([1, 9]));
        }
        if !node.is_empty() {
            let mut order = [0];
            return match self.node.read(&mut order) {
                Ok(1) => Woken::Order(order[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Woken::Order(BEAT),
                Ok(_) | Err(_) => Woken::NodeGone,
            };
        }
        if count.is_ok() { Woken::Slice } else { Woken::Order(BEAT) }
    }

    /// Waits a slice for the reaper: `Some(Some(status))` the agent's end, `Some(None)` no child is left.
    fn ended(&mut self, slice: Duration) -> Option<Option<[u8; 2]>> {
        let mut events = [PollFd::new(&self.agent.ended, PollFlags::IN)];
        let _ = poll(&mut events, Some(&timespec(slice)));
        (!events[0].revents().is_empty()).then(|| read_status(&mut self.agent.ended))
    }
}

fn read_status(ended: &mut PipeReader) -> Option<[u8; 2]> {
    let mut status = [0; 2];
    ended.read_exact(&mut status).is_ok().then_some(status)
}

fn timespec(span: Duration) -> Timespec {
    Timespec::try_from(span).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 })
}

/// Kills the children that this process has adopted: those that left the agent's group by a session of
/// their own. Their own children come here in turn.
#[cfg(target_os = "linux")]
fn kill_adopted() {
    let own = rustix::process::getpid();
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        if parent_of(&entry.path()) == Some(own) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// The parent in `/proc/PID/stat`: the second field after the name, which is in parentheses and may hold any character.
#[cfg(target_os = "linux")]
fn parent_of(process: &std::path::Path) -> Option<Pid> {
    let stat = std::fs::read(process.join("stat")).ok()?;
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(&stat[after_name..]).ok()?;
    fields.split_whitespace().nth(1)?.parse().ok().and_then(Pid::from_raw)
}

#[cfg(not(target_os = "linux"))]
fn kill_adopted() {}

fn report(mut node: &UnixStream, line: &str) {
    let _ = node.write_all(format!("{line}\n").as_bytes());
}
