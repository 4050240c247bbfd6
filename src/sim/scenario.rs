//! A run as a person asks for it: so many nodes, so much loss, a cut, some crashes; what happened is
//! written as text, the same text for the same scenario.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::config::Config;
use super::faults::{Fault, Schedule};
use super::report::{StatusChange, percentile};
use super::world::World;
use crate::core::ids::NodeId;
use crate::core::model::MemberStatus;
use crate::core::time::Instant;

/// Starts are spread over this time a node.
const START_SPREAD: Duration = Duration::from_millis(50);
/// Changes that several nodes tell of within this time are told in one line.
const TOLD_TOGETHER: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The mesh and its network.
    pub config: Config,
    /// How long, from the first start.
    pub span: Duration,
    /// A cut, if one is wanted.
    pub cut: Option<Cut>,
    /// So many nodes are killed, one after another, spread over the run.
    pub crashes: usize,
    /// Whether random faults of all kinds happen, until the last two minutes.
    pub random_faults: bool,
    /// Whether every node's word is a line of its own.
    pub every_change: bool,
}

/// A cut between two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The sizes of the two sides, as a proportion.
    pub sides: (u32, u32),
    /// When it begins.
    pub at: Duration,
    /// How long it lasts.
    pub span: Duration,
}

/// How a scenario ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Invariants that did not hold; none in a sound run.
    pub broken: Vec<String>,
    /// SHA-256 over all inputs and outputs of all nodes.
    pub digest: String,
}

impl Scenario {
    /// Runs it and writes what happened.
    ///
    /// # Errors
    /// Only those of `out`.
    pub fn run(&self, out: &mut impl Write) -> io::Result<Verdict> {
        let mut world = World::new(self.config.clone());
        world.start_all();
        let crashes = self.plan(&mut world);
        let spread = START_SPREAD * u32::try_from(self.config.nodes).unwrap_or(u32::MAX);
        let joined = world
            .run_until(Instant::ZERO + self.span, |w| w.now() >= Instant::ZERO + spread && w.all_know_all());
        let healed = self.wait_for_heal(&mut world);
        world.run_for((Instant::ZERO + self.span).since(world.now()));
        self.tell(&world, out)?;
        self.sum_up(&world, joined, healed, &crashes, out)?;
        Ok(Verdict { broken: world.broken().to_vec(), digest: world.report().digest() })
    }

    /// Schedules what is going to be done; returns which nodes are killed, and when.
    fn plan(&self, world: &mut World) -> Vec<(Instant, usize)> {
        let nodes = self.config.nodes;
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed ^ 0xc4a5);
        let mut victims: Vec<_> = (0..nodes).collect();
        victims.shuffle(&mut rng);
        victims.truncate(self.crashes);
        let share = 0.8 / (self.crashes + 1) as f64;
        let at = |n: usize| self.span.mul_f64(0.1 + share * (n + 1) as f64 * rng.random_range(0.9..1.0));
        let times: Vec<_> = (0..victims.len()).map(at).collect();
        let planned: Vec<_> = times.into_iter().zip(victims).collect();
        let mut schedule =
            Schedule(planned.iter().map(|(at, machine)| (*at, Fault::Crash { machine: *machine })).collect());
        if let Some(cut) = self.cut {
            let (one, other) = cut.machines(nodes);
            schedule.0.push((cut.at, Fault::Cut { from: one.clone(), to: other.clone() }));
            schedule.0.push((cut.at, Fault::Cut { from: other, to: one }));
            schedule.0.push((cut.at + cut.span, Fault::Heal));
        }
        if self.random_faults {
            let calm = Duration::from_secs(120);
            let span = self.span.saturating_sub(calm);
            schedule.0.extend(Schedule::random(nodes, self.config.seeds, self.config.seed, span).0);
            schedule.0.push((span, Fault::Loss(self.config.network.loss)));
        }
        world.take_up(schedule);
        planned.into_iter().map(|(at, machine)| (Instant::ZERO + at, machine)).collect()
    }

    /// How long after the end of the cut all running nodes know each other again.
    fn wait_for_heal(&self, world: &mut World) -> Option<Option<Duration>> {
        let cut = self.cut?;
        let heals = Instant::ZERO + cut.at + cut.span;
        let end = Instant::ZERO + self.span;
        let healed = world.run_until(end, |w| w.now() > heals && w.all_know_all());
        Some(healed.map(|at| at.since(heals)))
    }

    fn tell(&self, world: &World, out: &mut impl Write) -> io::Result<()> {
        let changes = &world.report().changes;
        if self.every_change {
            changes.iter().try_for_each(|change| writeln!(out, "{change}"))?;
        } else {
            episodes(changes).iter().try_for_each(|episode| writeln!(out, "{episode}"))?;
        }
        for (at, machine, reason) in &world.report().fatal {
            writeln!(out, "{at:?} {} ended: {reason}", world.node(*machine))?;
        }
        Ok(())
    }

    fn sum_up(
        &self,
        world: &World,
        joined: Option<Instant>,
        healed: Option<Option<Duration>>,
        crashes: &[(Instant, usize)],
        out: &mut impl Write,
    ) -> io::Result<()> {
        let report = world.report();
        let never = || "never".to_owned();
        writeln!(out)?;
        writeln!(out, "seed                {}", report.seed)?;
        writeln!(out, "nodes               {}", self.config.nodes)?;
        writeln!(out, "virtual time        {:?}, {} events", world.now(), report.events)?;
        writeln!(out, "full membership     {}", joined.map_or_else(never, |at| format!("{at:?}")))?;
        for (at, machine) in crashes {
            let times = report.detections(world.node(*machine), *at);
            let (p50, max) = (percentile(&times, 0.5), percentile(&times, 1.0));
            let (name, by) = (world.node(*machine), times.len());
            writeln!(out, "crash of {name:<10} at {at:?}: seen by {by}, p50 {p50:.2?}, max {max:.2?}")?;
        }
        if let Some(healed) = healed {
            let took = healed.map_or_else(never, |span| format!("{span:.2?} after the cut ended"));
            writeln!(out, "healed              {took}")?;
        }
        let suspicions = report.changes.iter().filter(|c| c.status == MemberStatus::Suspect).count();
        writeln!(out, "suspicions heard    {suspicions}")?;
        writeln!(out, "false failures      {}", report.false_failures())?;
        writeln!(out, "renewals            {}", world.renewals())?;
        let (packets, bytes) = world.traffic();
        let node_seconds = self.span.as_secs_f64() * self.config.nodes as f64;
        let (packets, bytes) = (packets as f64 / node_seconds, bytes as f64 / node_seconds);
        writeln!(out, "traffic             {packets:.1} packets and {bytes:.0} bytes per node and second")?;
        let unrest = world.unrest();
        match unrest.first() {
            None => writeln!(out, "at the end          all agree")?,
            Some(first) => {
                writeln!(out, "at the end          {} differences, one is: {first}", unrest.len())?
            }
        }
        writeln!(out, "digest              {}", report.digest())?;
        match world.broken() {
            [] => writeln!(out, "invariants          all held"),
            broken => broken.iter().try_for_each(|what| writeln!(out, "BROKEN              {what}")),
        }
    }
}

impl Cut {
    /// The machines of the two sides; each has at least one.
    fn machines(self, nodes: usize) -> (Vec<usize>, Vec<usize>) {
        let (one, other) = (u64::from(self.sides.0), u64::from(self.sides.1));
        let first = nodes as u64 * one / (one + other).max(1);
        let first = (first as usize).clamp(1, nodes.saturating_sub(1).max(1));
        ((0..first).collect(), (first..nodes).collect())
    }
}

/// What several nodes told of one node at about the same time.
struct Episode<'a> {
    first: &'a StatusChange,
    last: Instant,
    observers: usize,
}

impl fmt::Display for Episode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StatusChange { at, observer, node, status, reason, .. } = self.first;
        write!(f, "{at:?} {node} is {status}: {reason} (says {observer}")?;
        match self.observers {
            1 => write!(f, ")"),
            more => write!(f, ", and {} more until {:?})", more - 1, self.last),
        }
    }
}

fn episodes(changes: &[StatusChange]) -> Vec<Episode<'_>> {
    let mut told: Vec<Episode<'_>> = Vec::new();
    let mut open: BTreeMap<&NodeId, usize> = BTreeMap::new();
    for change in changes {
        let same = |index: &usize| {
            let episode: &Episode<'_> = &told[*index];
            episode.first.status == change.status && change.at.since(episode.first.at) <= TOLD_TOGETHER
        };
        if let Some(index) = open.get(&change.node).copied().filter(same) {
            told[index].observers += 1;
            told[index].last = change.at;
        } else {
            open.insert(&change.node, told.len());
            told.push(Episode { first: change, last: change.at, observers: 1 });
        }
    }
    told
}
