//! One agent: its state, its health, and where it stands on the ladder.

use std::time::Duration;

use super::AgentEffect;
use super::launch::Held;
use crate::core::limits;
use crate::core::model::{
    AgentRecord, AgentSpec, AgentState, BreakerState, Care, Checkup, Health, Restart, Turn,
};
use crate::core::time::Instant;

/// An agent between well and slow does not fill the histories of all nodes.
const HEALTH_TOLD_EVERY: Duration = Duration::from_secs(30);
const HEALTH_TOLD_AT_ONCE: u32 = 10;

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) spec: AgentSpec,
    /// How it is looked after here.
    pub(super) care: Care,
    pub(super) run: u64,
    pub(super) state: AgentState,
    /// What comes after the end of a run that is being ended.
    pub(super) ending: Option<Ending>,
    /// Somebody waits for how its next start goes.
    pub(super) awaited: bool,
    pub(super) restarts: u32,
    /// Ends since it was last steady.
    pub(super) attempts: usize,
    /// Why it is not started yet.
    pub(super) held: Option<Held>,
    /// The same in words.
    pub(super) waits: Option<String>,
    /// It was here when the node started: later phases wait for it.
    pub(super) is_launched: bool,
    /// It was told to end at once.
    pub(super) is_cut_short: bool,
    /// Since the node started.
    pub(super) has_run_here: bool,
    pub(super) has_failed_here: bool,
    running_since: Option<Instant>,
    /// It goes up the ladder also when its first start fails.
    has_run: bool,
    health: Health,
    breaker: BreakerState,
    /// Names the last opening of its breaker.
    opening: u64,
    /// Failed checks in a row.
    failures: u32,
    /// The health that the mesh was told of.
    told: &'static str,
    /// What was told of changes of health is paid for until then.
    paid_until: Instant,
}

/// What comes after the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The next start, after so long.
    Again(Duration),
    /// Nothing, until somebody wants it.
    Quarantine,
}

impl Agent {
    pub(super) fn new(spec: AgentSpec, care: Care, has_run: bool) -> Self {
        Self {
            spec,
            care,
            run: 0,
            state: AgentState::Starting,
            ending: None,
            awaited: !has_run,
            restarts: 0,
            attempts: 0,
            held: None,
            waits: None,
            is_launched: has_run,
            is_cut_short: false,
            has_run_here: false,
            has_failed_here: false,
            running_since: None,
            has_run,
            health: Health::Unchecked,
            breaker: BreakerState::Closed,
            opening: 0,
            failures: 0,
            told: Health::Unchecked.as_str(),
            paid_until: Instant::ZERO,
        }
    }

    pub(super) fn publish(&mut self) -> AgentEffect {
        self.told = self.health.as_str();
        let kind = self.spec.source.kind().to_owned();
        let (state, offer, health) = (self.state.clone(), self.spec.offer.clone(), self.health.clone());
        let (breaker, depends_on) = (self.breaker.clone(), self.spec.launch.depends_on.clone());
        let mut waits = self.waits.clone();
        if let Some(waits) = &mut waits {
            waits.truncate(waits.floor_char_boundary(limits::WAITS_BYTES_MAX));
        }
        let (restarts, order) = (self.restarts, None);
        let record = AgentRecord { kind, state, restarts, offer, health, breaker, depends_on, waits, order };
        AgentEffect::Publish { agent: self.spec.name.clone(), record: Some(record) }
    }

    pub(super) fn on_starting(&mut self, run: u64) -> Vec<AgentEffect> {
        self.run = run;
        self.state = AgentState::Starting;
        (self.held, self.waits) = (None, None);
        (self.health, self.failures) = (Health::Unchecked, 0);
        let spec = AgentSpec { care: self.care.clone(), ..self.spec.clone() };
        vec![self.publish(), AgentEffect::Start { spec, run }]
    }

    /// Whoever has deployed it was told that it waits: its first start is tried again like any other.
    pub(super) fn is_left_waiting(&mut self) {
        (self.has_run, self.awaited) = (true, false);
    }

    /// Whether its last health check failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    pub(super) fn on_running(&mut self, now: Instant) -> Vec<AgentEffect> {
        self.state = AgentState::Running;
        self.running_since = Some(now);
        (self.has_run, self.has_run_here) = (true, true);
        // One that was started anew has its trial at once.
        self.half_open();
        let told = self.started(Ok(()));
        std::iter::once(self.publish()).chain(told).collect()
    }

    /// A run has ended by itself.
    pub(super) fn on_ended(&mut self, reason: String, now: Instant) -> Vec<AgentEffect> {
        self.has_failed_here = true;
        if !self.has_run {
            self.state = AgentState::Failed { reason: reason.clone(), quarantined: false };
            let told = self.started(Err(reason));
            return std::iter::once(self.publish()).chain(told).collect();
        }
        let told = self.started(Err(reason.clone()));
        let next = self.climb(reason, now);
        let mut effects = vec![self.publish()];
        if let Ending::Again(after) = next {
            effects.push(AgentEffect::RestartAfter { agent: self.spec.name.clone(), run: self.run, after });
        }
        effects.into_iter().chain(told).collect()
    }

    pub(super) fn on_checked(&mut self, found: &Checkup, now: Instant) -> Vec<AgentEffect> {
        self.failures = if found.is_failure() { self.failures.saturating_add(1) } else { 0 };
        let failures_max = self.care.health.as_ref().map_or(u32::MAX, |health| health.failures);
        let is_over = self.failures >= failures_max;
        self.health = match found.why() {
            None => Health::Healthy,
            Some(why) if is_over => Health::Unhealthy { why },
            Some(why) => Health::Degraded { why },
        };
        if is_over {
            let why = self.health.why().unwrap_or_default();
            let reason = format!("{} health checks failed, the last one: {why}", self.failures);
            let next = self.climb(reason, now);
            let is_abrupt = next != Ending::Quarantine && self.attempts <= Restart::ABRUPT;
            return self.end(next, !is_abrupt);
        }
        let is_news = self.health.as_str() != self.told && self.may_tell(now);
        if is_news { vec![self.publish()] } else { vec![] }
    }

    /// Its runtime refuses messages, or lets them through again. `opening` names it, if it is one.
    pub(super) fn on_breaker(&mut self, turn: Turn, opening: u64) -> Vec<AgentEffect> {
        match turn {
            Turn::Opened { why } => {
                (self.breaker, self.opening) = (BreakerState::Open { why }, opening);
                let after = Duration::from_millis(self.care.breaker().open_ms.into());
                let agent = self.spec.name.clone();
                vec![self.publish(), AgentEffect::BreakerAfter { agent, opening, after }]
            }
            Turn::Closed if self.breaker.is_closed() => vec![],
            Turn::Closed => {
                self.breaker = BreakerState::Closed;
                vec![self.publish()]
            }
        }
    }

    /// The time of an open breaker is over: senders are to know, or nobody would ever make the trial.
    pub(super) fn on_breaker_due(&mut self, opening: u64) -> Vec<AgentEffect> {
        if self.opening != opening || !self.half_open() {
            return vec![];
        }
        vec![self.publish()]
    }

    fn half_open(&mut self) -> bool {
        let BreakerState::Open { why } = &self.breaker else {
            return false;
        };
        self.breaker = BreakerState::HalfOpen { why: why.clone() };
        true
    }

    /// Whether a change of health may be told now: a few at once, then one in each [`HEALTH_TOLD_EVERY`]. (The generic cell
    /// rate algorithm of ITU-T I.371.)
    fn may_tell(&mut self, now: Instant) -> bool {
        if self.paid_until.since(now) > HEALTH_TOLD_AT_ONCE * HEALTH_TOLD_EVERY {
            return false;
        }
        self.paid_until = self.paid_until.max(now) + HEALTH_TOLD_EVERY;
        true
    }

    /// Ends the present run for what comes after it; the state tells so already.
    pub(super) fn end(&mut self, next: Ending, drains: bool) -> Vec<AgentEffect> {
        self.ending = Some(next);
        let stop = AgentEffect::Stop { agent: self.spec.name.clone(), run: self.run, drains };
        vec![self.publish(), stop]
    }

    /// One step up the ladder: what comes next, and the state that tells so.
    fn climb(&mut self, reason: String, now: Instant) -> Ending {
        let ran_for = self.running_since.take().map(|since| now.since(since));
        let restart = self.care.restart();
        if ran_for.is_some_and(|span| span >= restart.steady()) {
            self.attempts = 0;
        }
        let Some(after) = restart.wait_after(self.attempts) else {
            self.state = AgentState::Failed { reason, quarantined: true };
            return Ending::Quarantine;
        };
        self.attempts += 1;
        self.state = AgentState::Restarting { reason };
        Ending::Again(after)
    }

    /// Tells whoever waits for a start.
    fn started(&mut self, outcome: Result<(), String>) -> Option<AgentEffect> {
        let is_awaited = std::mem::take(&mut self.awaited);
        is_awaited.then(|| AgentEffect::Started { agent: self.spec.name.clone(), outcome })
    }
}
