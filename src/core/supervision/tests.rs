//! What the supervision of agents does, step by step.

use super::*;
use crate::core::model::{
    AgentSource, Breaker, BreakerState, Care, Checkup, Health, HealthCheck, Launch, Probe, Recovery,
    RecoveryRule, Restart, Turn,
};

fn name() -> AgentName {
    AgentName::new("a").expect("valid")
}

fn spec() -> AgentSpec {
    AgentSpec::new(name(), AgentSource::Native { builtin: "echo".to_owned() })
}

/// One that is checked, and unhealthy after two failures.
fn checked() -> AgentSpec {
    let health =
        HealthCheck { failures: 2, ..HealthCheck::new(Probe::Answer { content: "ping".to_owned() }) };
    AgentSpec { care: Care { health: Some(health), ..Care::default() }, ..spec() }
}

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

/// A node's agents, and the number of the run that was started last.
struct Bench {
    here: Supervision,
    run: u64,
    record: Option<AgentRecord>,
}

impl Bench {
    fn new(spec: AgentSpec) -> Self {
        let mut bench = Self { here: Supervision::default(), run: 0, record: None };
        let effects = bench.here.add(spec);
        bench.take_in(effects);
        bench
    }

    fn running(spec: AgentSpec) -> Self {
        let mut bench = Self::new(spec);
        bench.report(AgentReport::Running, 0);
        bench
    }

    fn take_in(&mut self, effects: Vec<AgentEffect>) -> Vec<AgentEffect> {
        let mut rest = vec![];
        for effect in effects {
            match effect {
                AgentEffect::Start { run, .. } => self.run = run,
                AgentEffect::Publish { record, .. } => self.record = record,
                other @ (AgentEffect::Stop { .. }
                | AgentEffect::RestartAfter { .. }
                | AgentEffect::BreakerAfter { .. }
                | AgentEffect::LaunchHeld { .. }
                | AgentEffect::Started { .. }
                | AgentEffect::Gone { .. }) => rest.push(other),
            }
        }
        rest
    }

    fn report(&mut self, report: AgentReport, seconds: u64) -> Vec<AgentEffect> {
        let effects = self.here.handle_report(&name(), self.run, report, at(seconds));
        self.take_in(effects)
    }

    fn ended(&mut self, seconds: u64) -> Vec<AgentEffect> {
        self.report(AgentReport::Ended { reason: "exit status 1".to_owned() }, seconds)
    }

    fn found(&mut self, found: Checkup, seconds: u64) -> Vec<AgentEffect> {
        self.report(AgentReport::Checked { found }, seconds)
    }

    fn wait_is_over(&mut self) {
        let run = self.run;
        let effects = self.here.handle_restart(&name(), run, &|_| false);
        self.take_in(effects);
        assert_eq!(self.run, run + 1, "it is started");
    }

    fn restart(&mut self) -> Vec<AgentEffect> {
        let effects = self.here.restart(&name());
        self.take_in(effects)
    }

    fn state(&self) -> &'static str {
        self.record.as_ref().map_or("gone", |record| record.state.as_str())
    }

    fn after(&self, seconds: u64) -> Vec<AgentEffect> {
        let after = Duration::from_secs(seconds);
        vec![AgentEffect::RestartAfter { agent: name(), run: self.run, after }]
    }

    fn stop(&self, drains: bool) -> Vec<AgentEffect> {
        vec![AgentEffect::Stop { agent: name(), run: self.run, drains }]
    }
}

fn started(outcome: Result<(), &str>) -> AgentEffect {
    AgentEffect::Started { agent: name(), outcome: outcome.map_err(str::to_owned) }
}

fn timeout() -> Checkup {
    Checkup::Timeout { after_ms: 2000 }
}

#[test]
fn an_agent_that_keeps_ending_waits_longer_each_time_and_is_then_in_quarantine() {
    let mut bench = Bench::running(spec());
    for wait in [1, 5, 15, 30, 60, 120, 240] {
        assert_eq!(bench.ended(1), bench.after(wait));
        assert_eq!(bench.state(), "restarting");
        bench.wait_is_over();
        assert_eq!(bench.report(AgentReport::Running, 2), []);
    }
    assert_eq!(bench.ended(3), []);
    let record = bench.record.clone().expect("it is here");
    assert_eq!((record.state.as_str(), record.restarts), ("quarantined", 7));
    assert_eq!(record.state.reason(), Some("exit status 1"));
    assert_eq!(
        bench.here.handle_restart(&name(), bench.run, &|_| false),
        vec![],
        "nobody starts it but an operator"
    );
    assert_eq!(bench.restart(), []);
    assert_eq!(bench.report(AgentReport::Running, 4), [started(Ok(()))]);
    assert_eq!(bench.ended(5), bench.after(1), "the count has begun anew");
}

#[test]
fn an_agent_that_is_unhealthy_is_ended_at_once_three_times_and_then_asked_to() {
    let mut bench = Bench::running(checked());
    for (attempt, wait) in [1, 5, 15, 30, 60, 120, 240].into_iter().enumerate() {
        assert_eq!(bench.found(timeout(), 1), []);
        assert_eq!(bench.found(timeout(), 2), bench.stop(attempt >= 3));
        let record = bench.record.as_ref().expect("it is here");
        assert_eq!((bench.state(), record.health.as_str()), ("restarting", "unhealthy"));
        assert_eq!(
            record.state.reason(),
            Some("2 health checks failed, the last one: no answer within 2000 ms")
        );
        assert_eq!(bench.found(timeout(), 2), [], "it is being ended");
        // Whichever it reports: it has ended because it was asked to.
        let report = if attempt % 2 == 0 {
            AgentReport::Stopped
        } else {
            AgentReport::Ended { reason: "killed".to_owned() }
        };
        assert_eq!(bench.report(report, 3), bench.after(wait));
        bench.wait_is_over();
        assert_eq!(bench.record.as_ref().expect("it is here").health, Health::Unchecked);
        bench.report(AgentReport::Running, 3);
    }
    bench.found(timeout(), 4);
    assert_eq!(bench.found(timeout(), 5), bench.stop(true));
    assert_eq!(bench.state(), "quarantined");
    assert_eq!(bench.report(AgentReport::Stopped, 6), []);
    assert_eq!(bench.state(), "quarantined");
}

#[test]
fn failures_that_are_not_in_a_row_only_degrade() {
    let mut bench = Bench::running(checked());
    let health = |bench: &Bench| bench.record.clone().expect("it is here").health;
    for _ in 0..5 {
        assert_eq!(bench.found(timeout(), 1), []);
        assert_eq!(health(&bench).why(), Some("no answer within 2000 ms"));
        assert_eq!(bench.found(Checkup::Healthy, 2), []);
        assert_eq!(health(&bench), Health::Healthy);
    }
    let slow = Checkup::Degraded { why: "slow".to_owned() };
    (0..5).for_each(|_| assert_eq!(bench.found(slow.clone(), 3), []));
    assert_eq!((bench.state(), health(&bench).as_str()), ("running", "degraded"));
}

#[test]
fn health_that_changes_with_every_check_is_told_now_and_then() {
    let mut bench = Bench::running(checked());
    let mut told = 0;
    for second in 0..600 {
        bench.record = None;
        bench.found(if second % 2 == 0 { Checkup::Healthy } else { timeout() }, second);
        told += u32::from(bench.record.is_some());
    }
    assert!((20..=31).contains(&told), "{told}");
}

#[test]
fn the_last_change_of_health_is_told_in_the_end_if_it_is_found_again() {
    let mut bench = Bench::running(checked());
    for second in 0..60 {
        bench.found(if second % 2 == 0 { timeout() } else { Checkup::Healthy }, second);
    }
    bench.found(timeout(), 60);
    bench.found(Checkup::Healthy, 61);
    bench.found(Checkup::Healthy, 400);
    assert_eq!(bench.record.expect("told").health, Health::Healthy);
}

#[test]
fn a_run_that_is_over_is_over_once_however_often_that_is_told() {
    let ended = || AgentReport::Ended { reason: "it was killed".to_owned() };
    for reports in [[AgentReport::Stopped, ended()], [ended(), AgentReport::Stopped]] {
        let mut bench = Bench::running(checked());
        bench.found(timeout(), 1);
        bench.found(timeout(), 2);
        let [first, second] = reports;
        assert_eq!(bench.report(first, 3), bench.after(1));
        assert_eq!(bench.report(second, 3), []);
        assert_eq!(bench.state(), "restarting");
        bench.wait_is_over();
        bench.report(AgentReport::Running, 4);
        assert_eq!(bench.ended(5), bench.after(5), "one attempt was counted");
    }
}

#[test]
fn after_a_steady_run_an_unhealthy_agent_is_ended_at_once_again() {
    let mut bench = Bench::running(checked());
    for _ in 0..5 {
        bench.ended(1);
        bench.wait_is_over();
        bench.report(AgentReport::Running, 2);
    }
    bench.found(timeout(), 1000);
    assert_eq!(bench.found(timeout(), 1001), bench.stop(false));
}

#[test]
fn ten_steady_minutes_begin_the_count_anew() {
    let mut bench = Bench::running(spec());
    for _ in 0..20 {
        assert_eq!(bench.ended(600), bench.after(1));
        bench.wait_is_over();
        bench.report(AgentReport::Running, 0);
    }
}

#[test]
fn the_ladder_is_that_of_the_agent() {
    let restart = Restart { waits_ms: vec![2000], steady_ms: 1000 };
    let mut bench =
        Bench::running(AgentSpec { care: Care { restart: Some(restart), ..Care::default() }, ..spec() });
    for _ in 0..2 {
        assert_eq!(bench.ended(1), bench.after(2));
        bench.wait_is_over();
        bench.report(AgentReport::Running, 0);
    }
    assert_eq!(bench.ended(0), []);
    assert_eq!(bench.state(), "quarantined");
}

#[test]
fn somebody_may_start_an_agent_anew_whatever_it_is_doing() {
    // Running.
    let mut bench = Bench::running(spec());
    assert_eq!(bench.restart(), bench.stop(true));
    assert_eq!(bench.state(), "restarting");
    let first = bench.run;
    assert_eq!(bench.report(AgentReport::Stopped, 1), []);
    assert_eq!(bench.run, first + 1, "at once");
    assert_eq!(bench.report(AgentReport::Running, 1), [started(Ok(()))]);
    // While it waits.
    bench.ended(2);
    assert_eq!((bench.restart(), bench.run), (vec![], first + 2));
    // It fails: whoever wanted it is told, and the ladder goes on.
    let told = [bench.after(1), vec![started(Err("exit status 1"))]].concat();
    assert_eq!(bench.ended(3), told);
    // While it is being ended for its health.
    let mut bench = Bench::running(checked());
    bench.found(timeout(), 1);
    bench.found(timeout(), 2);
    let first = bench.run;
    assert_eq!(bench.restart(), []);
    assert_eq!(bench.report(AgentReport::Stopped, 3), []);
    assert_eq!(bench.run, first + 1, "without a wait");
    // While it goes for good.
    bench.report(AgentReport::Running, 4);
    bench.here.stop(&name());
    assert_eq!(bench.restart(), [started(Err("it is being stopped"))]);
    assert_eq!(Supervision::default().restart(&name()), vec![]);
}

#[test]
fn reports_and_timers_of_an_earlier_run_are_outdated() {
    let mut bench = Bench::running(checked());
    let first = bench.run;
    bench.ended(1);
    bench.wait_is_over();
    let report = AgentReport::Ended { reason: "late".to_owned() };
    assert_eq!(bench.here.handle_report(&name(), first, report, at(2)), vec![]);
    assert_eq!(bench.here.handle_restart(&name(), first, &|_| false), vec![]);
    bench.report(AgentReport::Running, 3);
    bench.found(timeout(), 4);
    let found = AgentReport::Checked { found: timeout() };
    assert_eq!(bench.here.handle_report(&name(), first, found, at(5)), vec![]);
    assert_eq!(bench.state(), "running");
}

#[test]
fn an_agent_that_is_deployed_and_never_ran_is_not_tried_again_and_one_that_was_here_is() {
    let mut bench = Bench::new(spec());
    assert_eq!(bench.ended(0), [started(Err("exit status 1"))]);
    assert_eq!(bench.state(), "failed");
    let mut bench = Bench { here: Supervision::default(), run: 0, record: None };
    let effects = bench.here.resume(spec());
    bench.take_in(effects);
    assert_eq!(bench.ended(0), bench.after(1));
    bench.wait_is_over();
    assert_eq!(bench.report(AgentReport::Running, 1), [], "nobody waits for it");
}

#[test]
fn a_stopped_agent_drains_and_goes_and_one_that_waits_goes_at_once() {
    let gone = [AgentEffect::Gone { agent: name() }];
    let mut bench = Bench::running(spec());
    let effects = bench.here.stop(&name());
    assert_eq!(bench.take_in(effects), bench.stop(true));
    assert_eq!(bench.here.stop(&name()), vec![]);
    assert_eq!(bench.report(AgentReport::Stopped, 1), gone);
    assert_eq!(bench.state(), "gone");

    let mut bench = Bench::running(spec());
    bench.ended(1);
    let effects = bench.here.stop(&name());
    assert_eq!(bench.take_in(effects), gone);
    assert_eq!(bench.here.handle_restart(&name(), bench.run, &|_| false), vec![], "its timer is outdated");

    // One that is being ended for its health: its run has to be over first.
    let mut bench = Bench::running(checked());
    bench.found(timeout(), 1);
    bench.found(timeout(), 2);
    let effects = bench.here.stop(&name());
    assert_eq!(bench.take_in(effects), bench.stop(true));
    assert_eq!(bench.state(), "draining");
    assert_eq!(bench.report(AgentReport::Stopped, 3), gone);
}

#[test]
fn an_open_breaker_is_told_and_half_opens_in_time_or_when_the_agent_was_started_anew() {
    let mut bench = Bench::running(spec());
    let opened = |bench: &mut Bench, seconds| {
        let turn = Turn::Opened { why: "no".to_owned() };
        bench.report(AgentReport::Breaker(turn), seconds)
    };
    let breaker = |bench: &Bench| bench.record.clone().expect("it is here").breaker;
    let half_open = BreakerState::HalfOpen { why: "no".to_owned() };
    let due =
        |opening| vec![AgentEffect::BreakerAfter { agent: name(), opening, after: Duration::from_secs(60) }];
    assert_eq!(opened(&mut bench, 1), due(1));
    assert_eq!(
        (breaker(&bench).as_str(), breaker(&bench).why(), bench.state()),
        ("open", Some("no"), "running")
    );
    let effects = bench.here.handle_breaker(&name(), 1);
    bench.take_in(effects);
    assert_eq!(breaker(&bench), half_open);
    // The trial has failed; what was due before means nothing any more.
    assert_eq!(opened(&mut bench, 62), due(2));
    assert_eq!(bench.here.handle_breaker(&name(), 1), []);
    assert!(breaker(&bench).is_open());
    // It is started anew: the ladder does not ask its breaker, nor the breaker for its time.
    assert_eq!(bench.ended(63), bench.after(1));
    bench.wait_is_over();
    assert!(breaker(&bench).is_open());
    bench.report(AgentReport::Running, 65);
    assert_eq!(breaker(&bench), half_open);
    assert_eq!(bench.here.handle_breaker(&name(), 2), []);
    assert_eq!(bench.report(AgentReport::Breaker(Turn::Closed), 66), []);
    assert!(breaker(&bench).is_closed());
}

#[test]
fn an_agent_goes_up_the_ladder_of_its_nodes_rule_and_its_run_has_the_rules_breaker() {
    let breaker = Breaker { failures: 9, ..Breaker::default() };
    let rule = RecoveryRule {
        agents: "a*".parse().expect("a pattern"),
        optional: None,
        restart: Some(Restart { waits_ms: vec![7_000], ..Restart::default() }),
        breaker: Some(breaker),
        overrules: false,
    };
    let mut bench = Bench { here: Supervision::new(Recovery { rules: vec![rule] }), run: 0, record: None };
    let effects = bench.here.add(spec());
    let [_, AgentEffect::Start { spec: run, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(run.care.breaker, Some(breaker));
    bench.take_in(effects);
    assert_eq!(bench.here.spec(&name()), Some(&spec()), "what was deployed stays as it was");
    bench.report(AgentReport::Running, 0);
    assert_eq!(bench.ended(1), bench.after(7));
    bench.wait_is_over();
    assert_eq!(bench.ended(2), []);
    assert_eq!(bench.state(), "quarantined");
}

/// Agents of a node that starts, with what was started and who was told to hold others up, in order.
struct Launched {
    here: Supervision,
    started: Vec<(String, u64)>,
    holding: Vec<(String, i32)>,
}

impl Launched {
    fn new(agents: &[(&str, Launch)]) -> Self {
        let mut launched = Self { here: Supervision::default(), started: vec![], holding: vec![] };
        for (agent, launch) in agents {
            let source = AgentSource::Native { builtin: "echo".to_owned() };
            let spec = AgentSpec::new(AgentName::new(agent).expect("valid"), source);
            let effects = launched.here.resume(AgentSpec { launch: launch.clone(), ..spec });
            launched.take_in(effects);
        }
        launched
    }

    fn take_in(&mut self, effects: Vec<AgentEffect>) {
        for effect in effects {
            match effect {
                AgentEffect::Start { spec, run } => self.started.push((spec.name.to_string(), run)),
                AgentEffect::LaunchHeld { agent, phase } => self.holding.push((agent.to_string(), phase)),
                AgentEffect::Stop { .. }
                | AgentEffect::RestartAfter { .. }
                | AgentEffect::BreakerAfter { .. }
                | AgentEffect::Publish { .. }
                | AgentEffect::Started { .. }
                | AgentEffect::Gone { .. } => {}
            }
        }
    }

    /// What is started now, with these running elsewhere.
    fn tend(&mut self, elsewhere: &[&str]) -> Vec<String> {
        self.started.clear();
        let effects = self.here.tend(&|agent| elsewhere.contains(&agent.as_str()));
        self.take_in(effects);
        self.started.iter().map(|(agent, _)| agent.clone()).collect()
    }

    fn report(&mut self, agent: &str, report: AgentReport) {
        let agent = AgentName::new(agent).expect("valid");
        let run = self.here.agents[&agent].run;
        let effects = self.here.handle_report(&agent, run, report, at(1));
        self.take_in(effects);
    }

    fn ended(&mut self, agent: &str) {
        self.report(agent, AgentReport::Ended { reason: "exit status 1".to_owned() });
    }

    fn waits(&self, agent: &str) -> Option<&str> {
        self.here.agents[&AgentName::new(agent).expect("valid")].waits.as_deref()
    }
}

fn phase(phase: i32) -> Launch {
    Launch { phase, ..Launch::default() }
}

fn after(others: &[&str]) -> Launch {
    let depends_on = others.iter().map(|other| AgentName::new(other).expect("valid")).collect();
    Launch { depends_on, ..Launch::default() }
}

#[test]
fn phases_begin_one_after_the_other_and_a_failed_agent_holds_the_next_unless_it_is_optional() {
    let optional = Launch { optional: true, ..phase(1) };
    let mut node = Launched::new(&[
        ("web", phase(2)),
        ("cache", optional),
        ("db", phase(1)),
        ("log", phase(-1)),
        ("late", phase(3)),
    ]);
    assert_eq!(node.tend(&[]), ["log"]);
    assert_eq!(node.waits("web"), Some("it waits for the agents of phase -1"));
    assert_eq!(node.tend(&[]), [""; 0]);
    node.report("log", AgentReport::Running);
    assert_eq!(node.tend(&[]), ["cache", "db"]);
    node.ended("cache");
    assert_eq!(node.tend(&[]), [""; 0]);
    assert!(node.holding.is_empty(), "the phase only waits");
    node.ended("db");
    assert_eq!(node.tend(&[]), [""; 0]);
    assert_eq!(node.tend(&[]), [""; 0]);
    assert_eq!(node.holding, [("db".to_owned(), 1)], "it is told once");
    let held = "it waits for phase 1, which is held up: db has failed and is not optional";
    assert_eq!((node.waits("web"), node.waits("late")), (Some(held), Some(held)));
    // Its ladder goes on; once it has run, the next phase begins, and the optional one does not count.
    let db = AgentName::new("db").expect("valid");
    let run = node.here.agents[&db].run;
    let effects = node.here.handle_restart(&db, run, &|_| false);
    node.take_in(effects);
    node.report("db", AgentReport::Running);
    assert_eq!(node.tend(&[]), ["web"]);
    // What has run once does not hold others when it ends later.
    node.ended("log");
    node.report("web", AgentReport::Running);
    assert_eq!(node.tend(&[]), ["late"]);
    assert!(!node.here.is_holding());
}

#[test]
fn at_most_ten_are_starting_at_once() {
    let names: Vec<_> = (0..12).map(|n| format!("a{n:02}")).collect();
    let agents: Vec<_> = names.iter().map(|name| (name.as_str(), phase(0))).collect();
    let mut node = Launched::new(&agents);
    assert_eq!(node.tend(&[]).len(), 10);
    node.report("a03", AgentReport::Running);
    assert_eq!(node.tend(&[]), ["a10"]);
    node.ended("a04");
    assert_eq!(node.tend(&[]), ["a11"]);
}

#[test]
fn an_agent_is_started_once_what_it_depends_on_runs_here_or_elsewhere() {
    let mut node = Launched::new(&[("web", after(&["db", "far"])), ("db", phase(0))]);
    assert_eq!(node.tend(&[]), ["db"]);
    assert_eq!(node.waits("web"), Some("it depends on db, far, which does not run anywhere in the mesh"));
    assert_eq!(node.tend(&["far"]), [""; 0]);
    assert_eq!(node.waits("web"), Some("it depends on db, which does not run here"));
    node.report("db", AgentReport::Running);
    assert_eq!(node.tend(&["far"]), ["web"]);
    // One that waits is stopped without having run.
    let mut node = Launched::new(&[("web", after(&["db"]))]);
    let web = AgentName::new("web").expect("valid");
    assert!(node.here.stop(&web).contains(&AgentEffect::Gone { agent: web }));
}

#[test]
fn the_later_attempts_of_the_ladder_wait_for_dependencies_and_the_last_ones_start_them_first() {
    let mut node = Launched::new(&[("a", after(&["db"])), ("db", phase(0))]);
    node.tend(&[]);
    node.report("db", AgentReport::Running);
    node.tend(&[]);
    let (a, db) = (name(), AgentName::new("db").expect("valid"));
    let due = |node: &mut Launched| {
        node.started.clear();
        let run = node.here.agents[&a].run;
        let effects = node.here.handle_restart(&a, run, &|_| false);
        let wait = AgentEffect::RestartAfter { agent: a.clone(), run, after: limits::DEPENDENCY_WAIT };
        let waits = effects.contains(&wait);
        node.take_in(effects);
        (waits, node.started.iter().map(|(agent, _)| agent.clone()).collect::<Vec<_>>())
    };
    let none: [&str; 0] = [];
    node.ended("db");
    for _ in 0..3 {
        node.ended("a");
        assert_eq!(due(&mut node), (false, vec!["a".to_owned()]), "the first three ask for nobody");
    }
    node.ended("a");
    assert_eq!(due(&mut node), (true, vec![]));
    assert_eq!(node.waits("a"), Some("it depends on db, which does not run here"));
    assert_eq!(due(&mut node), (false, vec!["a".to_owned()]), "it has waited for long enough");
    node.ended("a");
    assert!(due(&mut node).0);
    let run = node.here.agents[&db].run;
    let effects = node.here.handle_restart(&db, run, &|_| false);
    node.take_in(effects);
    node.report("db", AgentReport::Running);
    assert_eq!(node.tend(&[]), ["a"], "what it waits for runs again");
    node.ended("db");
    node.ended("a");
    assert_eq!(due(&mut node), (true, vec!["db".to_owned()]), "the sixth attempt starts it first");
    assert_eq!(node.tend(&[]), none);
    node.report("db", AgentReport::Running);
    assert_eq!(node.tend(&[]), ["a"]);
}
