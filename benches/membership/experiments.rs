//! What is done to a mesh, and what is counted.

use std::ops::AddAssign;
use std::time::{Duration, Instant as Wall};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::lab::{Kind, Watched};

/// Which mesh, under which conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) nodes: usize,
    pub(crate) loss_percent: u32,
    pub(crate) kind: Kind,
}

/// What is done in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// Nothing, for so long.
    Quiet(Duration),
    /// One node does nothing for a quarter of a second in every half, for so long.
    Stutter(Duration),
    /// So many times a node is killed at a random moment, and comes back.
    Crashes(u32),
    /// So many times a node changes a record of its own.
    News(u32),
}

impl Task {
    /// As the option `--task` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quiet(_) => "quiet",
            Self::Stutter(_) => "stutter",
            Self::Crashes(_) => "crashes",
            Self::News(_) => "news",
        }
    }
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) cell: Cell,
    pub(crate) task: Task,
    pub(crate) seed: u64,
}

/// Half of the rhythm of a node that stutters.
const STUTTER: Duration = Duration::from_millis(250);
/// Until a mesh that has just formed counts as calm: the simulator excuses what is said before.
const CALM_AFTER: Duration = Duration::from_secs(25);
/// Between a return and the next crash, at least, and up to as much more.
const BETWEEN_CRASHES: Duration = Duration::from_secs(3);
/// Longest time that a verdict or a full view is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time passes in steps of this length while a verdict is waited for.
const STEP: Duration = Duration::from_millis(50);
/// The same while a changed record spreads.
const NEWS_STEP: Duration = Duration::from_millis(10);
/// Until records change: the lists of a mesh that has just formed are equal.
const NEWS_AFTER: Duration = Duration::from_secs(10);
/// Between two changes.
const BETWEEN_NEWS: Duration = Duration::from_secs(2);
/// The second node starts up to so long after the first, and so on.
const BETWEEN_STARTS: Duration = Duration::from_millis(50);
/// All of a large mesh are started within so long.
const STARTS: Duration = Duration::from_secs(4);

/// A spell without crashes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spell {
    pub(crate) node_hours: f64,
    /// "Failed" of nodes to which nothing was done, by nodes to which nothing was done.
    pub(crate) about_others: u64,
    /// "Failed" of the node that stutters, by the others.
    pub(crate) about_paused: u64,
    /// Sent by all.
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl AddAssign for Spell {
    fn add_assign(&mut self, other: Self) {
        self.node_hours += other.node_hours;
        self.about_others += other.about_others;
        self.about_paused += other.about_paused;
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// All that was measured of one cell. Times in seconds.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) joins: Vec<f64>,
    pub(crate) quiet: Spell,
    pub(crate) stutter: Spell,
    /// From a crash to each survivor's verdict, and to the last one's.
    pub(crate) detections: Vec<f64>,
    pub(crate) lasts: Vec<f64>,
    /// From the first survivor's verdict to the last one's.
    pub(crate) verdict_spreads: Vec<f64>,
    /// From the first that saw a node come back to the last one.
    pub(crate) return_spreads: Vec<f64>,
    /// From a change of a node's own record until 99.99 % of all nodes have it.
    pub(crate) record_spreads: Vec<f64>,
    /// Survivors that had not spoken in time, crashes and starts without a full view in time.
    pub(crate) unheard: u64,
    /// Invariants of the simulator that did not hold.
    pub(crate) broken: Vec<String>,
    pub(crate) simulated_node_seconds: f64,
    pub(crate) wall_seconds: f64,
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.joins.extend(other.joins);
        self.quiet += other.quiet;
        self.stutter += other.stutter;
        self.detections.extend(other.detections);
        self.lasts.extend(other.lasts);
        self.verdict_spreads.extend(other.verdict_spreads);
        self.return_spreads.extend(other.return_spreads);
        self.record_spreads.extend(other.record_spreads);
        self.unheard += other.unheard;
        self.broken.extend(other.broken);
        self.simulated_node_seconds += other.simulated_node_seconds;
        self.wall_seconds += other.wall_seconds;
    }
}

impl Job {
    /// Does it. The same job gives the same figures, but for the time that it took.
    pub(crate) fn run(&self) -> Figures {
        let begun = Wall::now();
        let Cell { nodes, loss_percent, kind } = self.cell;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut mesh = kind.mesh(nodes, self.seed, f64::from(loss_percent) / 100.0);
        let mut figures = Figures::default();
        let between = BETWEEN_STARTS.min(2 * STARTS / nodes as u32);
        let spread = |_| between.mul_f64(rng.random());
        let starts: Vec<_> = (0..nodes).map(spread).collect();
        let last_start: Duration = starts[..nodes - 1].iter().sum();
        match mesh.start_all(&starts, PATIENCE) {
            Some(at) => {
                figures.joins.push((at.since(Default::default())).saturating_sub(last_start).as_secs_f64())
            }
            None => figures.unheard += 1,
        }
        match self.task {
            Task::Quiet(span) => figures.quiet = spell(&mut mesh, nodes, None, span),
            Task::Stutter(span) => {
                let victim = rng.random_range(0..nodes);
                figures.stutter = spell(&mut mesh, nodes, Some(victim), span);
            }
            Task::Crashes(count) => {
                (0..count).for_each(|_| crash(&mut mesh, nodes, &mut rng, &mut figures));
            }
            Task::News(count) => {
                mesh.advance(NEWS_AFTER);
                (0..count).for_each(|_| news(&mut mesh, nodes, &mut rng, &mut figures));
            }
        }
        let name =
            |what| format!("{} {nodes} nodes {loss_percent} % seed {}: {what}", kind.name(), self.seed);
        figures.broken = mesh.lab.broken().into_iter().map(name).collect();
        figures.simulated_node_seconds =
            mesh.lab.now().since(Default::default()).as_secs_f64() * nodes as f64;
        figures.wall_seconds = begun.elapsed().as_secs_f64();
        figures
    }
}

fn spell(mesh: &mut Watched, nodes: usize, victim: Option<usize>, span: Duration) -> Spell {
    mesh.advance(CALM_AFTER);
    let (packets, bytes) = mesh.lab.traffic();
    let mut spell = Spell { node_hours: span.as_secs_f64() * nodes as f64 / 3600.0, ..Spell::default() };
    let mut left = span;
    // A minute at a time: what was said is read and let go.
    while !left.is_zero() {
        let part = left.min(Duration::from_secs(60));
        left -= part;
        if let Some(victim) = victim {
            let times = part.as_millis() / (2 * STUTTER).as_millis();
            mesh.lab.stutter(victim, STUTTER, STUTTER, u32::try_from(times).expect("a minute at most"));
        }
        for told in mesh.advance(part) {
            let of_victim = victim == Some(told.about) && victim != Some(told.observer) && !told.is_alive;
            spell.about_paused += u64::from(of_victim);
            spell.about_others += u64::from(told.is_false && !of_victim);
        }
    }
    let (packets_now, bytes_now) = mesh.lab.traffic();
    Spell { packets: packets_now - packets, bytes: bytes_now - bytes, ..spell }
}

/// A node changes a record of its own, and everybody is to have it.
fn news(mesh: &mut Watched, nodes: usize, rng: &mut ChaCha8Rng, figures: &mut Figures) {
    mesh.advance(BETWEEN_NEWS + BETWEEN_NEWS.mul_f64(rng.random()));
    let owner = rng.random_range(0..nodes);
    let begun = mesh.lab.now();
    if !mesh.lab.publish(owner) {
        // It told something else a short while ago.
        return;
    }
    let enough = (0.9999 * nodes as f64).ceil() as usize;
    while mesh.lab.informed(owner) < enough {
        if mesh.lab.now().since(begun) >= PATIENCE {
            figures.unheard += 1;
            return;
        }
        mesh.advance(NEWS_STEP);
    }
    figures.record_spreads.push(mesh.lab.now().since(begun).as_secs_f64());
}

fn crash(mesh: &mut Watched, nodes: usize, rng: &mut ChaCha8Rng, figures: &mut Figures) {
    mesh.advance(BETWEEN_CRASHES + BETWEEN_CRASHES.mul_f64(rng.random()));
    let victim = rng.random_range(0..nodes);
    // Who holds it for failed already has nothing left to say.
    let mut open: Vec<bool> = (0..nodes).map(|n| n != victim && mesh.sees(n, victim)).collect();
    mesh.crash(victim);
    let begun = mesh.lab.now();
    let mut times = Vec::new();
    while open.contains(&true) && mesh.lab.now().since(begun) < PATIENCE {
        for told in mesh.advance(STEP) {
            if told.about == victim && !told.is_alive && std::mem::take(&mut open[told.observer]) {
                times.push(told.at.since(begun).as_secs_f64());
            }
        }
    }
    figures.unheard += open.iter().filter(|open| **open).count() as u64;
    if let (Some(first), Some(last)) = (times.first(), times.last()) {
        figures.verdict_spreads.push(last - first);
        figures.lasts.push(*last);
    }
    figures.detections.extend(times);
    mesh.start(victim);
    match mesh.wait_for_return(victim, PATIENCE) {
        Some(spread) => figures.return_spreads.push(spread.as_secs_f64()),
        None => figures.unheard += 1,
    }
}
