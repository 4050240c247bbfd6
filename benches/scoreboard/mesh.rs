//! A mesh of real processes of one system, and what is measured on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::space::Net;
use crate::system::{Heard, Installation, Process, System, Word};
use crate::{Outcome, check_interrupt};

/// How long anything may take before the round is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// A mesh is left alone for so long before its idle traffic is counted.
const SETTLES: Duration = Duration::from_secs(5);
/// Between checks whether the user wants to stop.
const POLL: Duration = Duration::from_millis(100);
/// Ticks of `/proc/PID/stat` a second: the same on all of Linux that this runs on.
const TICKS_A_SECOND: f64 = 100.0;

/// How a node is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Blow {
    /// `kill -9` of its process.
    Kill,
    /// Its machine's cable is pulled.
    Vanish,
}

/// What an idle mesh costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    /// Sent and received, per node and second, with Ethernet headers.
    pub(crate) bytes: f64,
    /// Sent and received, per node and second.
    pub(crate) packets: f64,
    /// Of one core, in percent, mean of the nodes.
    pub(crate) cpu_percent: f64,
    /// Resident memory of a node, mean.
    pub(crate) rss_mb: f64,
}

/// What came of a node that was taken away.
pub(crate) struct Detection {
    /// Of each survivor, in order.
    pub(crate) times: Vec<Duration>,
    /// Share of the machine's CPU that others than the nodes used meanwhile: whoever starves is late.
    pub(crate) foreign_cpu: f64,
}

/// False "failed" verdicts of a spell.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Alarms {
    /// About the node that was paused again and again.
    pub(crate) about_paused: usize,
    /// About nodes to which nothing was done.
    pub(crate) about_others: usize,
}

/// Nodes 1 to n of one system; all killed when the value is dropped.
pub(crate) struct Mesh<'a> {
    system: System,
    net: &'a Net,
    installation: &'a Installation,
    data: PathBuf,
    nodes: BTreeMap<usize, Node>,
    size: usize,
    lives: u64,
    sender: Sender<Heard>,
    heard: Receiver<Heard>,
    /// All "failed" verdicts, in order: when, by whom, about whom.
    failures: Vec<(Instant, usize, usize)>,
}

struct Node {
    life: u64,
    process: Process,
    ready: Option<Instant>,
    alive: BTreeSet<usize>,
}

impl<'a> Mesh<'a> {
    /// Starts the first node and then all others at once; returns how long the first took to answer, and
    /// how long after the start of the others everybody had everybody in its list.
    pub(crate) fn start(
        installation: &'a Installation,
        system: System,
        net: &'a Net,
        size: usize,
    ) -> Outcome<(Self, Duration, Duration)> {
        let (sender, heard) = channel();
        let data = installation.new_data_dir()?;
        let (nodes, failures) = (BTreeMap::new(), Vec::new());
        let mut mesh =
            Self { system, net, installation, data, nodes, size, lives: 0, sender, heard, failures };
        let begun = Instant::now();
        mesh.start_node(1)?;
        let up = mesh.wait_for("the first node answers", |m| m.nodes[&1].ready)?.since(begun);
        // A moment of rest: the others meet a node that has nothing left to do.
        mesh.rest(Duration::from_secs(1))?;
        let begun = Instant::now();
        (2..=size).try_for_each(|n| mesh.start_node(n))?;
        mesh.wait_for_full_view()?;
        let joined = begun.elapsed();
        Ok((mesh, up, joined))
    }

    fn start_node(&mut self, n: usize) -> Outcome<()> {
        self.lives += 1;
        let life = self.lives;
        let joins = (n != 1).then_some(1);
        let where_ = (self.data.as_path(), joins);
        let process = self.installation.start(self.system, self.net, (n, life), where_, &self.sender)?;
        self.nodes.insert(n, Node { life, process, ready: None, alive: BTreeSet::new() });
        Ok(())
    }

    /// How long each survivor took to say that the node has failed, in order. The node is back in
    /// everybody's list when this returns.
    pub(crate) fn detect(&mut self, victim: usize, blow: Blow) -> Outcome<Detection> {
        let (busy, all) = machine_ticks()?;
        let own = self.ticks()?;
        let used = self.node_ticks(victim)?;
        let begun = Instant::now();
        let before = self.failures.len();
        match blow {
            Blow::Kill => drop(self.nodes.remove(&victim)),
            Blow::Vanish => self.net.set_link(victim, false)?,
        }
        let survivors: BTreeSet<_> = (1..=self.size).filter(|n| *n != victim).collect();
        let mut times = BTreeMap::new();
        self.wait_for("all survivors say so", |mesh| {
            let said = mesh.failures[before..].iter().filter(|(_, _, about)| *about == victim);
            for (at, observer, _) in said.filter(|(_, observer, _)| survivors.contains(observer)) {
                times.entry(*observer).or_insert(at.since(begun));
            }
            (times.len() == survivors.len()).then_some(())
        })?;
        self.nodes.remove(&victim);
        let (busy_now, all_now) = machine_ticks()?;
        let foreign = (busy_now - busy) - (self.ticks()? - (own - used));
        let foreign_cpu = (foreign / (all_now - all).max(1.0)).clamp(0.0, 1.0);
        if blow == Blow::Vanish {
            self.net.set_link(victim, true)?;
        }
        self.start_node(victim)?;
        self.wait_for_full_view()?;
        let mut times: Vec<_> = times.into_values().collect();
        times.sort_unstable();
        Ok(Detection { times, foreign_cpu })
    }

    /// What the mesh costs while nothing happens.
    pub(crate) fn idle(&mut self, span: Duration) -> Outcome<Idle> {
        self.rest(SETTLES)?;
        let (begun, traffic, ticks) = (Instant::now(), self.net.traffic()?, self.ticks()?);
        self.rest(span)?;
        let seconds = begun.elapsed().as_secs_f64() * self.size as f64;
        let (traffic_now, ticks_now) = (self.net.traffic()?, self.ticks()?);
        let rss: f64 = self.nodes.values().map(|n| rss_kib(n.process.pid())).sum::<Outcome<f64>>()?;
        Ok(Idle {
            bytes: (traffic_now.bytes - traffic.bytes) as f64 / seconds,
            packets: (traffic_now.packets - traffic.packets) as f64 / seconds,
            cpu_percent: 100.0 * (ticks_now - ticks) / TICKS_A_SECOND / seconds,
            rss_mb: rss * 1024.0 / 1e6 / self.size as f64,
        })
    }

    /// Pauses a node for `off` in every `on + off`, while all machines lose `loss` percent of what
    /// arrives, and counts what is said in that time and shortly after.
    pub(crate) fn stutter(
        &mut self,
        victim: usize,
        (on, off): (Duration, Duration),
        loss: u32,
        span: Duration,
    ) -> Outcome<Alarms> {
        let pid = i32::try_from(self.nodes[&victim].process.pid()).expect("a pid of Linux");
        let pid = Pid::from_raw(pid).expect("not zero");
        let signal = |signal| kill_process(pid, signal).map_err(|e| format!("cannot signal: {e}"));
        let before = self.failures.len();
        self.net.set_loss(loss)?;
        let begun = Instant::now();
        while begun.elapsed() < span {
            signal(Signal::STOP)?;
            let rested = self.rest(off);
            signal(Signal::CONT)?;
            rested?;
            self.rest(on)?;
        }
        self.net.set_loss(0)?;
        self.rest(SETTLES)?;
        let mut alarms = Alarms::default();
        for (_, observer, about) in &self.failures[before..] {
            // What the paused node itself says is excused, as it is in the simulator.
            match *about == victim {
                true => alarms.about_paused += 1,
                false if *observer == victim => {}
                false => alarms.about_others += 1,
            }
        }
        Ok(alarms)
    }

    fn wait_for_full_view(&mut self) -> Outcome<()> {
        let size = self.size;
        self.wait_for("everybody lists everybody", |mesh| {
            let is_full = |(n, node): (&usize, &Node)| {
                node.ready.is_some() && (1..=size).all(|of| of == *n || node.alive.contains(&of))
            };
            mesh.nodes.iter().all(is_full).then_some(())
        })
    }

    /// Takes in what is said until the condition holds.
    fn wait_for<T>(&mut self, what: &str, mut holds: impl FnMut(&Self) -> Option<T>) -> Outcome<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = holds(self) {
                return Ok(value);
            }
            if Instant::now() > end {
                return Err(format!(
                    "not within {PATIENCE:?}: {what} ({}, {} nodes)",
                    self.system, self.size
                ));
            }
            self.take_in(POLL)?;
        }
    }

    /// Takes in what is said for a while.
    fn rest(&mut self, span: Duration) -> Outcome<()> {
        let end = Instant::now() + span;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.take_in(left.min(POLL))?;
        }
    }

    fn take_in(&mut self, patience: Duration) -> Outcome<()> {
        check_interrupt()?;
        match self.heard.recv_timeout(patience) {
            Ok(heard) => self.on_heard(heard),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                for (n, node) in &mut self.nodes {
                    if node.process.has_ended() {
                        return Err(format!("{} {n} ended by itself", self.system));
                    }
                }
            }
        }
        Ok(())
    }

    fn on_heard(&mut self, Heard { at, observer, life, word }: Heard) {
        let Some(node) = self.nodes.get_mut(&observer).filter(|node| node.life == life) else {
            return;
        };
        match word {
            Word::Ready => _ = node.ready.get_or_insert(at),
            Word::Alive(about) => _ = node.alive.insert(about),
            Word::Left(about) => _ = node.alive.remove(&about),
            Word::Failed(about) => {
                node.alive.remove(&about);
                self.failures.push((at, observer, about));
            }
        }
    }

    fn node_ticks(&self, n: usize) -> Outcome<f64> {
        ticks(self.nodes[&n].process.pid())
    }

    fn ticks(&self) -> Outcome<f64> {
        self.nodes.values().map(|node| ticks(node.process.pid())).sum()
    }
}

trait Since {
    fn since(self, earlier: Instant) -> Duration;
}

impl Since for Instant {
    fn since(self, earlier: Instant) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

fn ticks(pid: u32) -> Outcome<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| format!("a node is gone: {e}"))?;
    // The command's name may hold anything; the fields after it are counted from 3.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    Ok(fields.split_whitespace().skip(11).take(2).flat_map(str::parse::<f64>).sum())
}

/// Ticks of all cores since the start of the machine: at work, and all.
fn machine_ticks() -> Outcome<(f64, f64)> {
    let text = fs::read_to_string("/proc/stat").map_err(|e| format!("cannot read /proc/stat: {e}"))?;
    let line = text.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; what follows is counted in these already.
    let ticks: Vec<f64> = line.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
    let all = ticks.iter().sum::<f64>();
    let idle = ticks.iter().skip(3).take(2).sum::<f64>();
    Ok((all - idle, all))
}

fn rss_kib(pid: u32) -> Outcome<f64> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| format!("a node is gone: {e}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).ok_or("no VmRSS".to_owned())
}
