//! One agent as the rest of the runtime sees it: what stays over its runs (log, counters) and the run that
//! takes its messages now.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::breaker::{BreakerAtWork, Fate};
use super::log::{Log, shown};
use super::mailbox::{Account, Known, Mailbox, Over, Phase, Refused, Settled, Tracking};
use super::permit::Permit;
use super::{Delivery, Finish, Reports, usage, wasm};
use crate::core::contract::AgentReport;
use crate::core::error::SendError;
use crate::core::ids::{AgentName, ModuleId, NodeId};
use crate::core::limits;
use crate::core::model::{AgentSource, AgentSpec, Answer, Breaker, ProcessProtocol, Shown, Tally};
use crate::core::wire::{AgentStats, CheckEntry};

/// An agent of this node.
pub(super) struct Agent {
    pub(super) name: AgentName,
    pub(super) node: NodeId,
    /// `agent@node`: who answers.
    pub(super) address: String,
    pub(super) log: Log,
    pub(super) run: ArcSwap<Run>,
    pub(super) breaker: BreakerAtWork,
    reports: Reports,
    requests: AtomicU64,
    errors: AtomicU64,
    /// As its breaker counts them.
    worked: AtomicU64,
    failed: AtomicU64,
    answered: AtomicU64,
    /// Messages of which it has said what became of them.
    settled: AtomicU64,
    /// From arrival to answer, of all that it has answered together.
    answer_micros: AtomicU64,
    /// The last ones, oldest first.
    checks: Mutex<VecDeque<CheckEntry>>,
}

/// One run of an agent.
pub(super) struct Run {
    pub(super) number: u64,
    pub(super) intake: Intake,
    /// How long it may drain, once it is asked to stop.
    pub(super) stop: watch::Sender<Option<Duration>>,
    /// The module that it is made of.
    pub(super) module: Option<ModuleId>,
    /// Until when it may run, if it is exclusive.
    pub(super) permit: Option<Arc<Permit>>,
    /// When its breaker opens.
    breaker: Breaker,
    /// How long its start may take.
    pub(super) start_timeout: Duration,
    pid: AtomicU32,
    /// Where it listens, if it does.
    port: AtomicU16,
    since: OnceLock<Instant>,
}

/// Where a run takes its messages.
pub(super) enum Intake {
    /// Answered on the task of the sender; holds the [`Phase`].
    Echo(AtomicU8),
    /// Taken by the run's own tasks.
    Mailbox(Box<Mailbox>),
}

impl Run {
    /// A run that is starting.
    pub(super) fn new(number: u64, spec: &AgentSpec, permit: Option<Arc<Permit>>) -> Self {
        let (source, breaker) = (&spec.source, spec.care.breaker());
        let start_timeout = spec.launch.timeout();
        let mailbox = |tracking, window| {
            Intake::Mailbox(Box::new(Mailbox::new(tracking, window).under(permit.clone())))
        };
        let intake = match source {
            AgentSource::Native { .. } => Intake::Echo(AtomicU8::new(Phase::Starting as u8)),
            AgentSource::Process { protocol: ProcessProtocol::Stdio, .. } => {
                mailbox(Tracking::Answers, limits::AGENT_WINDOW_MAX)
            }
            AgentSource::Process { protocol: ProcessProtocol::Http, .. } => {
                mailbox(Tracking::All, limits::AGENT_HTTP_REQUESTS_MAX)
            }
            AgentSource::Wasm(source) => mailbox(Tracking::All, wasm::window_of(source)),
        };
        let stop = watch::Sender::new(None);
        let module = match source {
            AgentSource::Wasm(source) => Some(source.module),
            AgentSource::Native { .. } | AgentSource::Process { .. } => None,
        };
        let (pid, port) = (AtomicU32::new(0), AtomicU16::new(0));
        let since = OnceLock::new();
        Self { number, intake, stop, module, permit, breaker, start_timeout, pid, port, since }
    }

    /// Whether what it does counts: it needs no permit, or has one.
    pub(super) fn may_act(&self) -> bool {
        self.permit.as_ref().is_none_or(|permit| permit.holds())
    }

    pub(super) fn phase(&self) -> Phase {
        match &self.intake {
            Intake::Mailbox(mailbox) => mailbox.phase(),
            Intake::Echo(phase) => {
                let phase = phase.load(Ordering::Acquire);
                let all = [Phase::Starting, Phase::Running, Phase::Draining];
                all.into_iter().find(|p| *p as u8 == phase).unwrap_or(Phase::Ended)
            }
        }
    }

    /// Goes to a later phase; never back.
    pub(super) fn become_phase(&self, phase: Phase) {
        if phase == Phase::Running {
            let _ = self.since.set(Instant::now());
        }
        match &self.intake {
            Intake::Mailbox(mailbox) => mailbox.become_phase(phase),
            Intake::Echo(now) => {
                now.fetch_max(phase as u8, Ordering::AcqRel);
            }
        }
    }

    /// Becomes [`Phase::Ended`] and gives out what was never answered.
    pub(super) fn close(&self) -> Vec<Over> {
        self.pid.store(0, Ordering::Relaxed);
        self.become_phase(Phase::Ended);
        match &self.intake {
            Intake::Mailbox(mailbox) => mailbox.close(),
            Intake::Echo(_) => Vec::new(),
        }
    }

    pub(super) fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    pub(super) fn set_port(&self, port: u16) {
        self.port.store(port, Ordering::Relaxed);
    }

    /// Where the agent listens, if it does.
    pub(super) fn port(&self) -> Option<u16> {
        Some(self.port.load(Ordering::Relaxed)).filter(|port| *port != 0)
    }

    /// The agent's process, while it has one.
    pub(super) fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Time since the run became running.
    pub(super) fn uptime(&self) -> Option<Duration> {
        self.since.get().map(Instant::elapsed)
    }
}

impl Agent {
    pub(super) fn new(name: AgentName, node: NodeId, run: Run, reports: Reports) -> Self {
        Self {
            address: format!("{name}@{node}"),
            name,
            node,
            log: Log::default(),
            run: ArcSwap::from_pointee(run),
            breaker: BreakerAtWork::new(),
            reports,
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            worked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            answer_micros: AtomicU64::new(0),
            checks: Mutex::default(),
        }
    }

    /// Whether what the agent sends and writes now is taken.
    ///
    /// # Errors
    /// That its permit is over.
    pub(super) fn check_permit(&self) -> Result<(), SendError> {
        match self.run.load().may_act() {
            true => Ok(()),
            false => Err(self.not_running("over, because its permit is")),
        }
    }

    /// Takes a message, or answers it, or refuses it.
    pub(super) fn deliver(&self, delivery: Delivery) {
        self.take_in(delivery, false);
    }

    /// The same for a health check, which the breaker lets through.
    pub(super) fn deliver_check(&self, delivery: Delivery) {
        self.take_in(delivery, true);
    }

    fn take_in(&self, delivery: Delivery, is_check: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let run = self.run.load();
        if run.permit.as_ref().is_some_and(|permit| !permit.takes_messages()) {
            drop(run);
            return self
                .finish(Some(delivery.finish), Err(self.not_running("without a permit for long enough")));
        }
        let mailbox = match &run.intake {
            Intake::Echo(phase) if phase.load(Ordering::Acquire) == Phase::Running as u8 => {
                drop(run);
                return self.echo(delivery);
            }
            Intake::Echo(_) => {
                let phase = run.phase();
                drop(run);
                return self.finish(Some(delivery.finish), Err(self.not_running(phase.as_str())));
            }
            Intake::Mailbox(mailbox) => mailbox,
        };
        let account = match self.admit(mailbox, &delivery, is_check) {
            Ok(account) => account,
            Err(error) => {
                drop(run);
                return self.finish(Some(delivery.finish), Err(error));
            }
        };
        let result = mailbox.insert(delivery, account, Instant::now());
        drop(run);
        if result.is_err() {
            self.note(account, Shown::Nothing, "");
        }
        match result {
            Ok(None) => {}
            Ok(Some(finish)) => finish(Ok(None)),
            Err((finish, refused)) => {
                let error = match refused {
                    Refused::Phase(phase) => self.not_running(phase.as_str()),
                    Refused::Full => {
                        SendError::Overloaded { what: format!("the mailbox of {}", self.address) }
                    }
                    Refused::Duplicate => self.failed("a message with this id is in its mailbox already"),
                };
                self.finish(Some(finish), Err(error));
            }
        }
    }

    /// Whether the breaker lets a message through, and what it is to show.
    fn admit(&self, mailbox: &Mailbox, delivery: &Delivery, is_check: bool) -> Result<Account, SendError> {
        if is_check {
            return Ok(Account::None);
        }
        // Of an agent that does not run that is what is told.
        if self.breaker.is_closed() || mailbox.phase() != Phase::Running {
            return Ok(Account::Usual);
        }
        let tells = mailbox.tracks(delivery.wants_answer);
        self.breaker.admit(tells, delivery.message.deadline_ms).map_err(|retry_ms| SendError::BreakerOpen {
            agent: self.name.clone(),
            node: self.node.clone(),
            reason: self.breaker.why(),
            retry_ms,
        })
    }

    /// What a message has shown of the agent. The core hears of it when the breaker turns, and of the sums when it asks.
    fn note(&self, account: Account, shown: Shown, why: &str) {
        let count = match (account, shown) {
            (Account::Usual | Account::Trial, Shown::Works) => Some(&self.worked),
            (Account::Usual | Account::Trial, Shown::Fails) => Some(&self.failed),
            (Account::None, _) | (_, Shown::Nothing) => None,
        };
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let run = self.run.load();
        if let Some(turn) = self.breaker.note(account, shown, why, run.breaker) {
            (self.reports)(self.name.clone(), run.number, AgentReport::Breaker(turn));
        }
    }

    fn echo(&self, delivery: Delivery) {
        self.worked.fetch_add(1, Ordering::Relaxed);
        let Delivery { message, wants_answer, finish } = delivery;
        let from = || self.address.clone();
        finish(Ok(wants_answer.then(|| Answer {
            from: from(),
            content_type: message.content_type,
            content: message.content,
        })));
    }

    /// What became of a message that the agent was given.
    ///
    /// # Errors
    /// What is known of the message, when nobody waits for this.
    pub(super) fn settle(&self, mailbox: &Mailbox, id: Uuid, fate: Fate) -> Result<(), Known> {
        let Settled { finish, took, had_for, account } = mailbox.settle(id)?;
        self.note_fate(account, &fate, had_for);
        // What it answers after the end of its permit does not count.
        let result = self.check_permit().and(fate.into_result());
        // What ends by its deadline shows nothing of the agent.
        let is_of_agent = !matches!(result, Err(SendError::DeadlineExceeded { .. }));
        self.settled.fetch_add(u64::from(is_of_agent), Ordering::Relaxed);
        if result.is_ok() {
            self.answered.fetch_add(1, Ordering::Relaxed);
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.answer_micros.fetch_add(micros, Ordering::Relaxed);
        }
        self.finish(finish, result.map(Some));
        Ok(())
    }

    /// Ends the messages whose deadline has passed.
    pub(super) fn expire(&self, mailbox: &Mailbox, now: Instant) {
        for Over { finish, deadline_ms, had_for, account } in mailbox.expire(now) {
            let fate = Fate::Failed(SendError::DeadlineExceeded { deadline_ms: deadline_ms.into() });
            self.note_fate(account, &fate, had_for.unwrap_or_default());
            if finish.is_none() && had_for.is_none() {
                self.log
                    .push(&format!("shoal: dropped a message that waited longer than its {deadline_ms} ms"));
            }
            self.finish(finish, fate.into_result().map(Some));
        }
    }

    fn note_fate(&self, account: Account, fate: &Fate, had_for: Duration) {
        let shown = fate.shows(had_for);
        match fate.error() {
            Some(SendError::AgentFailed { reason, .. }) => self.note(account, shown, reason),
            Some(error) => self.note(account, shown, &error.to_string()),
            None => self.note(account, shown, ""),
        }
    }

    /// Ends the messages that a run leaves behind, which is its fault or not.
    pub(super) fn abandon(&self, run: &Run, reason: &str, is_fault: bool) {
        let over = run.close();
        // That it ended is one failure, however many messages it had.
        let given = over.iter().filter(|over| over.had_for.is_some() && over.account != Account::None);
        let is_trial = over.iter().any(|over| over.account == Account::Trial);
        let account = if is_trial { Account::Trial } else { Account::Usual };
        match given.count() {
            0 => self.note(account, Shown::Nothing, ""),
            _ if is_fault => self.note(account, Shown::Fails, reason),
            _ => self.note(account, Shown::Nothing, ""),
        }
        for Over { finish, had_for, .. } in over {
            let error =
                if had_for.is_some() { self.failed(reason) } else { self.not_running(Phase::Ended.as_str()) };
            self.finish(finish, Err(error));
        }
    }

    fn finish(&self, finish: Option<Finish>, result: Result<Option<Answer>, SendError>) {
        if result.is_err() {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(finish) = finish {
            finish(result);
        }
    }

    pub(super) fn failed(&self, reason: &str) -> SendError {
        let reason: String = reason.chars().take(limits::AGENT_REASON_CHARS_MAX).collect();
        SendError::AgentFailed { agent: self.name.clone(), reason: shown(&reason, usize::MAX) }
    }

    fn not_running(&self, state: &str) -> SendError {
        SendError::NotRunning { agent: self.name.clone(), node: self.node.clone(), state: state.to_owned() }
    }

    /// Grows with each message that the agent has finished, and with what it must have read.
    pub(super) fn progress(&self) -> u64 {
        let taken = match &self.run.load().intake {
            Intake::Mailbox(mailbox) => mailbox.pipes_written(),
            Intake::Echo(_) => 0,
        };
        self.settled.load(Ordering::Relaxed) + taken
    }

    pub(super) fn note_check(&self, entry: CheckEntry) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        if checks.len() == limits::CHECKS_KEPT_MAX {
            checks.pop_front();
        }
        checks.push_back(entry);
    }

    pub(super) fn tally(&self) -> Tally {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        Tally { worked: count(&self.worked), failed: count(&self.failed) }
    }

    pub(super) fn stats(&self) -> AgentStats {
        let run = self.run.load();
        let waiting = match &run.intake {
            Intake::Mailbox(mailbox) => mailbox.waiting() as u64,
            Intake::Echo(_) => 0,
        };
        let is_over = run.phase() == Phase::Ended;
        let (cpu_ms, memory_bytes) = run.pid().and_then(usage::of).unzip();
        AgentStats {
            pid: run.pid(),
            uptime_seconds: run.uptime().filter(|_| !is_over).map_or(0, |uptime| uptime.as_secs()),
            requests: self.requests.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            waiting,
            answered: self.answered.load(Ordering::Relaxed),
            answer_micros: self.answer_micros.load(Ordering::Relaxed),
            cpu_ms,
            memory_bytes,
            checks: self.checks.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect(),
            breaker: self.breaker.stats(),
        }
    }
}
