//! What both kinds of mesh can do under virtual time, and what is read off what their nodes say.

use std::time::Duration;

use shoal::core::model::MemberStatus;
use shoal::core::time::Instant;
use shoal::sim::{Config, Fault, Schedule, World};

use crate::plain::Plain;

/// The two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `foca::Foca` with `foca::Config::new_lan`, as it comes, over bare datagrams.
    Plain,
    /// The core of Shoal.
    Shoal,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Plain, Self::Shoal];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain foca",
            Self::Shoal => "shoal",
        }
    }

    /// A mesh of so many machines, none of which runs.
    pub(crate) fn mesh(self, nodes: usize, seed: u64, loss: f64) -> Watched {
        let config = Config::lan(nodes, seed).with_loss(loss);
        let lab: Box<dyn Lab> = match self {
            Self::Plain => Box::new(Plain::new(&config)),
            Self::Shoal => Box::new(Simulated { world: World::new(config), read: 0 }),
        };
        Watched { lab, nodes, running: vec![false; nodes], sees: vec![false; nodes * nodes], missing: 0 }
    }
}

/// What one node says of another, by their indexes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) at: Instant,
    pub(crate) observer: usize,
    pub(crate) about: usize,
    pub(crate) is_alive: bool,
    /// It says "failed" of a node to which nothing was done, and nothing was done to it itself either.
    pub(crate) is_false: bool,
}

/// A mesh under virtual time.
pub(crate) trait Lab {
    fn now(&self) -> Instant;
    fn start(&mut self, machine: usize);
    fn crash(&mut self, machine: usize);
    /// The machine does nothing for `off` once in every `on + off`, so many times.
    fn stutter(&mut self, machine: usize, on: Duration, off: Duration, times: u32);
    fn run_for(&mut self, span: Duration);
    /// What was said since the last call, in order.
    fn told(&mut self) -> Vec<Told>;
    /// A node changes a record of its own, where there are such; whether it did.
    fn publish(&mut self, machine: usize) -> bool;
    /// How many nodes have the newest records of this one, itself included.
    fn informed(&self, of: usize) -> usize;
    /// Packets and bytes sent so far, by all.
    fn traffic(&self) -> (u64, u64);
    /// Invariants that did not hold.
    fn broken(&self) -> Vec<String>;
}

/// Shoal in its simulator.
struct Simulated {
    world: World,
    read: usize,
}

impl Lab for Simulated {
    fn now(&self) -> Instant {
        self.world.now()
    }

    fn start(&mut self, machine: usize) {
        self.world.apply(&Fault::Start { machine });
    }

    fn crash(&mut self, machine: usize) {
        self.world.crash(machine);
    }

    fn stutter(&mut self, machine: usize, on: Duration, off: Duration, times: u32) {
        let pause = |n| ((on + off) * n + on, Fault::Pause { machine, span: off });
        self.world.take_up(Schedule((0..times).map(pause).collect()));
    }

    fn run_for(&mut self, span: Duration) {
        self.world.run_for(span);
    }

    fn told(&mut self) -> Vec<Told> {
        let index = |name: &str| name[1..].parse::<usize>().expect("machines are n1, n2, ...") - 1;
        let changes = &self.world.report().changes[self.read..];
        self.read += changes.len();
        let told = changes.iter().filter_map(|change| {
            let is_alive = match change.status {
                MemberStatus::Alive => true,
                MemberStatus::Failed => false,
                MemberStatus::Suspect | MemberStatus::Left => return None,
            };
            let (observer, about) = (index(change.observer.as_str()), index(change.node.as_str()));
            Some(Told { at: change.at, observer, about, is_alive, is_false: change.is_false })
        });
        told.collect()
    }

    fn publish(&mut self, machine: usize) -> bool {
        self.world.publish(machine)
    }

    fn informed(&self, of: usize) -> usize {
        self.world.informed(of)
    }

    fn traffic(&self) -> (u64, u64) {
        self.world.traffic()
    }

    fn broken(&self) -> Vec<String> {
        self.world.broken().to_vec()
    }
}

/// A mesh, and who has told of whom that it is alive.
pub(crate) struct Watched {
    pub(crate) lab: Box<dyn Lab>,
    nodes: usize,
    running: Vec<bool>,
    /// By observer and node.
    sees: Vec<bool>,
    /// Pairs of running nodes of which the first has not told that the second is alive.
    missing: usize,
}

/// Time passes in steps of this length where a condition is waited for.
const STEP: Duration = Duration::from_millis(50);

impl Watched {
    /// Starts the first node, and all others up to 50 ms after one another; `None` when they do not all
    /// see each other within `patience`, else when the last one told so.
    pub(crate) fn start_all(&mut self, starts: &[Duration], patience: Duration) -> Option<Instant> {
        for (machine, pause) in starts.iter().enumerate() {
            self.start(machine);
            self.lab.run_for(*pause);
        }
        self.wait_for_full_view(patience)
    }

    pub(crate) fn start(&mut self, machine: usize) {
        for other in 0..self.nodes {
            self.sees[machine * self.nodes + other] = false;
        }
        self.running[machine] = true;
        self.lab.start(machine);
        self.count_missing();
    }

    pub(crate) fn crash(&mut self, machine: usize) {
        self.running[machine] = false;
        self.lab.crash(machine);
        self.count_missing();
    }

    /// Whether the first has told that the second is alive, and not otherwise since.
    pub(crate) fn sees(&self, observer: usize, about: usize) -> bool {
        self.sees[observer * self.nodes + about]
    }

    fn wait_for_full_view(&mut self, patience: Duration) -> Option<Instant> {
        let mut last = self.lab.now();
        self.wait(patience, |told| last = told.at).then_some(last)
    }

    /// Waits until all see all; how long after the first the last node told of this one that it is alive.
    pub(crate) fn wait_for_return(&mut self, about: usize, patience: Duration) -> Option<Duration> {
        let mut times: Option<(Instant, Instant)> = None;
        let all = self.wait(patience, |told| {
            if told.about == about && told.is_alive {
                times = Some((times.map_or(told.at, |(first, _)| first), told.at));
            }
        });
        times.filter(|_| all).map(|(first, last)| last.since(first))
    }

    fn wait(&mut self, patience: Duration, mut on_told: impl FnMut(&Told)) -> bool {
        let end = self.lab.now() + patience;
        loop {
            self.advance(Duration::ZERO).iter().for_each(&mut on_told);
            if self.missing == 0 || self.lab.now() >= end {
                return self.missing == 0;
            }
            self.lab.run_for(STEP);
        }
    }

    /// Lets time pass and returns what is said meanwhile.
    pub(crate) fn advance(&mut self, span: Duration) -> Vec<Told> {
        if !span.is_zero() {
            self.lab.run_for(span);
        }
        let told = self.lab.told();
        for Told { observer, about, is_alive, .. } in &told {
            let pair = observer * self.nodes + about;
            if self.sees[pair] != *is_alive {
                self.sees[pair] = *is_alive;
                if self.running[*observer] && self.running[*about] {
                    if *is_alive { self.missing -= 1 } else { self.missing += 1 }
                }
            }
        }
        told
    }

    fn count_missing(&mut self) {
        // What was said before the change belongs to before it.
        drop(self.advance(Duration::ZERO));
        let running: Vec<_> = (0..self.nodes).filter(|n| self.running[*n]).collect();
        let sees = |a: usize, b: usize| a == b || self.sees[a * self.nodes + b];
        self.missing = running.iter().map(|a| running.iter().filter(|b| !sees(*a, **b)).count()).sum();
    }
}
