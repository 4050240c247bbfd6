//! Supervises one run of a process agent, from the start of its keeper to its end.
//!
//! ```text
//! Starting --(first line, settled, listens)--> Running --stop--> Draining --(empty, or time is up)--> Ending
//!     \________________(deadline, stop)____________\______________(fault)______________________________/
//! ```
//!
//! In every stage the keeper may report the end. `Ending` has steps, each with a deadline: stdin closed,
//! SIGTERM, SIGKILL by the keeper, SIGKILL past the keeper, the keeper's own end. The run is over only when
//! the keeper says so or is gone itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::agent::{Agent, Run};
use super::keeper::{self, KeeperLine, Kept, Report};
use super::launch::{Launched, Port, Process, launch};
use super::lines::{Line, Lines};
use super::log::Log;
use super::mailbox::{Mailbox, Phase};
use super::{Ground, http, mailbox_of, stdio};
use crate::core::contract::AgentReport;
use crate::core::limits;
use crate::core::model::ProcessProtocol;

/// After SIGKILL, and after the end of the keeper, the next step waits so long.
const KILL_GRACE: Duration = Duration::from_secs(1);
/// The keeper, which may have much to clear away, is killed itself after this.
const KEEPER_GRACE: Duration = Duration::from_secs(10);
/// Lines of the log that the reason of an end quotes, each cut to [`QUOTED_CHARS`].
const QUOTED_LINES: usize = 5;
/// Characters of such a line.
const QUOTED_CHARS: usize = 200;

/// Runs the process until its end.
pub(super) async fn supervise(
    ground: &Arc<Ground>,
    agent: &Arc<Agent>,
    run: &Arc<Run>,
    process: Process,
) -> AgentReport {
    let mut stop = run.stop.subscribe();
    let permit = tokio::select! {
        permit = ground.starts.acquire() => permit,
        _ = stop.wait_for(Option::is_some) => return AgentReport::Stopped,
    };
    // Once begun, a launch is seen through: what it started must be ended in order.
    let launched = launch(ground, agent, process).await;
    drop(permit);
    match launched {
        Ok(launched) => Supervision::new(Arc::clone(ground), agent, run, launched, stop).run().await,
        Err(reason) => ended(reason),
    }
}

fn ended(reason: String) -> AgentReport {
    AgentReport::Ended { reason }
}

/// Why an agent must be ended.
enum Fault {
    /// It breaks the protocol.
    Breach(String),
    /// It closed a pipe. Mostly that means that it is ending, which its keeper will tell better.
    Closed(&'static str),
}

enum Stage {
    /// Until it is ready; a stdio agent is also ready when it has lived until `settled`.
    /// What it says may overtake its keeper's report of its start, which is waited for all the same.
    Starting { is_ready: bool, settled: Option<Instant>, deadline: Instant },
    /// It takes messages.
    Running,
    /// It finishes what it has.
    Draining { until: Instant },
    /// It is being ended: asked for, unless there is a fault.
    Ending { step: Step, next: Instant, began: Instant, fault: Option<String> },
}

#[derive(Clone, Copy)]
enum Step {
    StdinClosed,
    Terminated,
    Killed,
    GroupKilled,
    KeeperKilled,
}

struct Supervision {
    ground: Arc<Ground>,
    agent: Arc<Agent>,
    run: Arc<Run>,
    protocol: ProcessProtocol,
    child: Child,
    line: KeeperLine,
    stage: Stage,
    /// Gives messages to the agent; its end closes stdin.
    writer: JoinSet<()>,
    /// Reads what the agent writes.
    readers: JoinSet<()>,
    /// What is wrong with the agent, from the reader or the writer.
    faults: mpsc::Receiver<Fault>,
    /// A fault that counts only if the agent is still there then.
    closed: Option<(Instant, String)>,
    ready: Arc<Notify>,
    stop: watch::Receiver<Option<Duration>>,
    /// Hears of each later end of its permit, if it is exclusive.
    permit: Option<watch::Receiver<u64>>,
    next_beat: Instant,
    /// Where the log of this run begins.
    log_mark: u64,
    /// The agent's process, known once the keeper has told.
    pid: Option<u32>,
    _port: Option<Port>,
}

impl Supervision {
    fn new(
        ground: Arc<Ground>,
        agent: &Arc<Agent>,
        run: &Arc<Run>,
        launched: Launched,
        stop: watch::Receiver<Option<Duration>>,
    ) -> Self {
        let Launched { kept: Kept { child, line, stdin, stdout, stderr }, port } = launched;
        let log_mark = agent.log.added();
        port.iter().for_each(|port| run.set_port(port.number));
        let ready = Arc::new(Notify::new());
        let (fault, faults) = mpsc::channel(2);
        let (mut readers, mut writer) = (JoinSet::new(), JoinSet::new());
        readers.spawn(follow(Arc::clone(agent), stderr));
        let conversation = Conversation { agent: Arc::clone(agent), run: Arc::clone(run), fault };
        let protocol = match (stdin, &port) {
            (None, Some(port)) => {
                readers.spawn(follow(Arc::clone(agent), stdout));
                writer.spawn(conversation.post(port.number, Arc::clone(&ready)));
                ProcessProtocol::Http
            }
            (stdin, _) => {
                let (to_writer, from_reader) = stdio::back_channel();
                let ground = Arc::clone(&ground);
                readers.spawn(conversation.clone().read(ground, stdout, to_writer, Arc::clone(&ready)));
                if let Some(stdin) = stdin {
                    writer.spawn(conversation.write(stdin, from_reader));
                }
                ProcessProtocol::Stdio
            }
        };
        let now = Instant::now();
        Self {
            ground,
            agent: Arc::clone(agent),
            run: Arc::clone(run),
            protocol,
            child,
            line,
            stage: Stage::Starting { is_ready: false, settled: None, deadline: now + run.start_timeout },
            writer,
            readers,
            faults,
            closed: None,
            ready,
            stop,
            permit: run.permit.as_ref().map(|permit| {
                let mut until = permit.subscribe();
                until.mark_changed();
                until
            }),
            next_beat: now + limits::KEEPER_HEARTBEAT,
            log_mark,
            pid: None,
            _port: port,
        }
    }

    async fn run(mut self) -> AgentReport {
        self.on_stop();
        let run = Arc::clone(&self.run);
        let mailbox = mailbox_of(&run);
        loop {
            let wake = self.next_wake(mailbox);
            tokio::select! {
                report = self.line.report() => {
                    if let Some(how) = self.on_report(report) {
                        return self.wind_up(how).await;
                    }
                }
                Some(fault) = self.faults.recv() => self.on_fault(fault),
                () = self.ready.notified() => self.on_ready(),
                () = mailbox.sooner.notified() => {}
                () = mailbox.emptied.notified() => self.on_emptied(mailbox),
                Ok(()) = self.stop.changed() => self.on_stop(),
                Some(until) = later_end(&mut self.permit) => self.line.permit(until),
                () = sleep_until(wake) => self.handle_timeout(mailbox, Instant::now()),
            }
        }
    }

    fn next_wake(&self, mailbox: &Mailbox) -> Instant {
        let stage = match &self.stage {
            Stage::Starting { settled, deadline, .. } => settled.unwrap_or(*deadline).min(*deadline),
            Stage::Running => self.next_beat,
            Stage::Draining { until } => *until,
            Stage::Ending { next, .. } => *next,
        };
        let over = mailbox.next_deadline().unwrap_or(self.next_beat);
        let closed = self.closed.as_ref().map_or(self.next_beat, |(when, _)| *when);
        stage.min(self.next_beat).min(over).min(closed)
    }

    fn handle_timeout(&mut self, mailbox: &Mailbox, now: Instant) {
        if self.next_beat <= now {
            self.line.order(keeper::BEAT);
            self.next_beat = now + limits::KEEPER_HEARTBEAT;
        }
        self.agent.expire(mailbox, now);
        if let Some((_, what)) = self.closed.take_if(|(when, _)| *when <= now) {
            self.on_fault(Fault::Breach(what));
        }
        match self.stage {
            Stage::Starting { settled: Some(settled), .. } if settled <= now => self.on_ready(),
            Stage::Starting { deadline, .. } if deadline <= now => {
                let within = self.run.start_timeout.as_secs();
                let what = match self.protocol {
                    ProcessProtocol::Http => "did not accept a connection at the port in PORT",
                    ProcessProtocol::Stdio => "was not started by its keeper",
                };
                self.begin_ending(Some(format!("it {what} within {within} s")));
            }
            Stage::Draining { until } if until <= now => self.begin_ending(None),
            Stage::Ending { next, .. } if next <= now => self.next_step(now),
            Stage::Starting { .. } | Stage::Running | Stage::Draining { .. } | Stage::Ending { .. } => {}
        }
    }

    fn on_ready(&mut self) {
        if let Stage::Starting { is_ready, .. } = &mut self.stage {
            *is_ready = true;
            if self.pid.is_none() {
                return;
            }
            self.stage = Stage::Running;
            self.run.become_phase(Phase::Running);
            self.ground.report(&self.agent.name, self.run.number, AgentReport::Running);
        }
    }

    fn on_stop(&mut self) {
        let Some(drain) = *self.stop.borrow_and_update() else { return };
        let until = Instant::now() + drain.min(limits::DEADLINE_MAX);
        match self.stage {
            Stage::Starting { .. } => self.begin_ending(None),
            Stage::Running => {
                self.run.become_phase(Phase::Draining);
                self.stage = Stage::Draining { until };
                let run = Arc::clone(&self.run);
                self.on_emptied(mailbox_of(&run));
            }
            // A second stop may shorten the time, never lengthen it.
            Stage::Draining { until: earlier } => self.stage = Stage::Draining { until: until.min(earlier) },
            Stage::Ending { .. } => {}
        }
    }

    fn on_emptied(&mut self, mailbox: &Mailbox) {
        if matches!(self.stage, Stage::Draining { .. }) && mailbox.is_empty() {
            self.begin_ending(None);
        }
    }

    fn on_fault(&mut self, fault: Fault) {
        match (fault, &self.stage) {
            (_, Stage::Ending { .. }) => {}
            (Fault::Breach(what), _) => self.begin_ending(Some(what)),
            (Fault::Closed(what), _) => {
                self.closed = Some((Instant::now() + limits::AGENT_READ_OUT, what.to_owned()));
            }
        }
    }

    fn begin_ending(&mut self, fault: Option<String>) {
        let began = Instant::now();
        self.run.become_phase(Phase::Draining);
        self.writer.abort_all();
        if self.protocol == ProcessProtocol::Stdio && fault.is_none() {
            let next = began + limits::AGENT_STOP_EOF_GRACE;
            self.stage = Stage::Ending { step: Step::StdinClosed, next, began, fault };
        } else {
            self.line.order(keeper::TERMINATE);
            let next = began + limits::AGENT_STOP_DEADLINE;
            self.stage = Stage::Ending { step: Step::Terminated, next, began, fault };
        }
    }

    fn next_step(&mut self, now: Instant) {
        let Stage::Ending { step, next, began, .. } = &mut self.stage else { return };
        (*step, *next) = match step {
            Step::StdinClosed => {
                self.line.order(keeper::TERMINATE);
                (Step::Terminated, *began + limits::AGENT_STOP_DEADLINE)
            }
            Step::Terminated => {
                self.line.order(keeper::KILL);
                (Step::Killed, now + KILL_GRACE)
            }
            Step::Killed => {
                self.pid.into_iter().for_each(keeper::kill_group);
                (Step::GroupKilled, now + KEEPER_GRACE)
            }
            Step::GroupKilled | Step::KeeperKilled => {
                let (agent, pid) = (&self.agent.name, self.pid);
                tracing::warn!(%agent, pid, "the agent outlives SIGKILL; killing its keeper");
                let _ = self.child.start_kill();
                (Step::KeeperKilled, now + KEEPER_GRACE)
            }
        };
    }

    /// Takes in what the keeper says; `Some` is how the agent ended.
    fn on_report(&mut self, report: Report) -> Option<String> {
        match report {
            Report::Started(pid) => {
                self.pid = Some(pid);
                self.run.set_pid(pid);
                match (&mut self.stage, self.protocol) {
                    (Stage::Starting { is_ready: true, .. }, _) => self.on_ready(),
                    (Stage::Starting { settled, .. }, ProcessProtocol::Stdio) => {
                        *settled = Some(Instant::now() + limits::AGENT_START_SETTLE);
                    }
                    _ => {}
                }
                None
            }
            Report::Exited(status) => Some(format!("it ended with exit status {status}")),
            Report::Killed(signal) => Some(format!("it was killed by {}", keeper::signal_name(signal))),
            Report::Failed(why) => Some(why),
            Report::Gone => Some(match self.pid {
                Some(pid) => {
                    keeper::kill_group(pid);
                    "its keeper was killed, and it with its keeper".to_owned()
                }
                None => format!("its keeper {:?} ended without starting it", self.ground.config.keeper),
            }),
        }
    }

    /// The agent is gone: hears what it still said, clears up, and says how it ended.
    async fn wind_up(mut self, how: String) -> AgentReport {
        self.run.become_phase(Phase::Draining);
        let read_out = async { while self.readers.join_next().await.is_some() {} };
        let _ = timeout(limits::AGENT_READ_OUT, read_out).await;
        if timeout(KILL_GRACE, self.child.wait()).await.is_err() {
            let _ = self.child.start_kill();
        }
        // What it wrote against the protocol closed its stdout, which may have ended it before the fault was heard of.
        while matches!(self.stage, Stage::Starting { .. } | Stage::Running)
            && let Ok(fault) = self.faults.try_recv()
        {
            self.on_fault(fault);
        }
        let reason = match self.stage {
            Stage::Draining { .. } | Stage::Ending { fault: None, .. } => return AgentReport::Stopped,
            Stage::Ending { fault: Some(fault), .. } => format!("{fault}, so it was ended"),
            Stage::Starting { .. } if self.pid.is_some() => format!("{how} before it was ready"),
            Stage::Starting { .. } | Stage::Running => how,
        };
        ended(with_log(reason, &self.agent.log, self.log_mark))
    }
}

/// The next end of a permit that is told; `None`: there is none, and never will be.
async fn later_end(permit: &mut Option<watch::Receiver<u64>>) -> Option<u64> {
    let until = permit.as_mut()?;
    until.changed().await.ok()?;
    Some(*until.borrow_and_update())
}

fn with_log(reason: String, log: &Log, mark: u64) -> String {
    let lines = log.last_since(mark, QUOTED_LINES);
    if lines.is_empty() {
        return reason;
    }
    let cut = |line: String| line.chars().take(QUOTED_CHARS).collect::<String>();
    let quoted: Vec<_> = lines.into_iter().map(cut).collect();
    format!("{reason}; its log ends with: {}", quoted.join(" | "))
}

/// What the tasks of a conversation hold.
#[derive(Clone)]
struct Conversation {
    agent: Arc<Agent>,
    run: Arc<Run>,
    fault: mpsc::Sender<Fault>,
}

impl Conversation {
    async fn read(
        self,
        ground: Arc<Ground>,
        stdout: tokio::process::ChildStdout,
        back: stdio::ToWriter,
        ready: Arc<Notify>,
    ) {
        let Self { agent, run, fault } = self;
        let breach = stdio::read(ground, agent, mailbox_of(&run), stdout, back, &ready).await;
        let _ = fault.send(breach.map_or(Fault::Closed("it closed its stdout"), Fault::Breach)).await;
    }

    async fn write(self, stdin: tokio::net::unix::pipe::Sender, back: stdio::FromReader) {
        stdio::write(&self.agent, mailbox_of(&self.run), stdin, back).await;
        let _ = self.fault.send(Fault::Closed("it closed its stdin")).await;
    }

    async fn post(self, port: u16, ready: Arc<Notify>) {
        http::converse(self.agent, mailbox_of(&self.run), port, &ready).await;
    }
}

/// Copies what an agent writes into its log until it ends.
async fn follow(agent: Arc<Agent>, stream: impl tokio::io::AsyncRead + Unpin) {
    let mut lines = Lines::new(stream, limits::AGENT_LOG_LINE_BYTES_MAX);
    while let Ok(Some(Line::Whole(line) | Line::TooLong(line))) = lines.next().await {
        agent.log.push(&String::from_utf8_lossy(line));
    }
}
