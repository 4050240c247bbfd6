//! Detection and false alarms, of Shoal's membership and of plain foca, in one simulated network:
//! `cargo bench --bench membership -- [--quick|--full]`.
//!
//! Both run under virtual time with the same latency, loss and pauses; the same options give the same
//! figures, but for the speed. Writes a part of `benches/RESULTS.md` and `benches/membership.csv`.
//!
//! `--quick` takes under a minute and writes nothing; without an option it takes some minutes; `--full`
//! adds a thousand node-hours of the hardest case and meshes of 1,000 nodes. `--nodes=30`, `--loss=10`,
//! `--mesh=shoal|plain` and `--task=quiet|stutter|crashes|news` run only a part, which has its own place in
//! the results; `--no-write` prints only.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its table")]

mod experiments;
mod lab;
mod plain;
#[path = "../shared/results.rs"]
mod results;
mod table;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use experiments::{Cell, Figures, Job, Task};
use lab::Kind;

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// One small mesh of each kind: does it still work?
    Smoke,
    Quick,
    Usual,
    Full,
}

type Results = BTreeMap<Cell, Figures>;

const SIZES: [usize; 3] = [5, 30, 100];
const LOSSES: [u32; 3] = [0, 10, 30];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| args.iter().any(|arg| arg == name);
    // `cargo test --benches` comes without `--bench`, and with options of its own.
    let part = match part(&args) {
        Ok(part) => part,
        Err(why) if has("--bench") => {
            eprintln!("membership: {why}");
            return ExitCode::FAILURE;
        }
        Err(_) => Part::default(),
    };
    let extent = match () {
        () if !has("--bench") => Extent::Smoke,
        () if has("--quick") => Extent::Quick,
        () if has("--full") => Extent::Full,
        () => Extent::Usual,
    };
    let mut jobs = jobs(extent);
    jobs.retain(|job| part.has(job));
    println!("{} runs", jobs.len());
    let begun = Instant::now();
    let results = run(&jobs);
    let mut options = args.iter().filter(|arg| *arg != "--bench").cloned().collect::<Vec<_>>();
    options.sort();
    let options = options.join(" ");
    let text = table::all(&results, &options);
    println!("{text}\ntook {:.0?}", begun.elapsed());
    let broken: Vec<_> = results.values().flat_map(|figures| &figures.broken).collect();
    broken.iter().for_each(|what| eprintln!("BROKEN {what}"));
    if !has("--no-write") && matches!(extent, Extent::Usual | Extent::Full) {
        let is_all = part == Part::default();
        let name = if is_all { "membership".to_owned() } else { format!("membership {options}") };
        let csv = || std::fs::write(results::path("membership.csv"), table::csv(&results));
        let written = results::write_part(&name, &text)
            .and_then(|()| if is_all { csv().map_err(|e| e.to_string()) } else { Ok(()) });
        if let Err(why) = written {
            eprintln!("membership: {why}");
            return ExitCode::FAILURE;
        }
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What of all the runs is wanted; everything, where nothing is said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Part {
    nodes: Option<usize>,
    loss_percent: Option<u32>,
    kind: Option<Kind>,
    task: Option<String>,
}

impl Part {
    fn has(&self, Job { cell, task, .. }: &Job) -> bool {
        self.nodes.is_none_or(|nodes| cell.nodes == nodes)
            && self.loss_percent.is_none_or(|loss| cell.loss_percent == loss)
            && self.kind.is_none_or(|kind| cell.kind == kind)
            && self.task.as_deref().is_none_or(|name| task.name() == name)
    }
}

fn part(args: &[String]) -> Result<Part, String> {
    let mut part = Part::default();
    for arg in args {
        let (name, value) = arg.split_once('=').unwrap_or((arg, ""));
        let number = || value.parse::<usize>().map_err(|e| format!("{arg}: {e}"));
        match (name, value) {
            ("--bench" | "--quick" | "--full" | "--no-write", "") => {}
            ("--nodes", _) => part.nodes = Some(number()?),
            ("--loss", _) => part.loss_percent = Some(number()? as u32),
            ("--mesh", "shoal") => part.kind = Some(Kind::Shoal),
            ("--mesh", "plain") => part.kind = Some(Kind::Plain),
            ("--task", "quiet" | "stutter" | "crashes" | "news") => part.task = Some(value.to_owned()),
            _ => return Err(format!("{arg} is no option of this benchmark")),
        }
    }
    Ok(part)
}

/// All runs, the longest ones first.
fn jobs(extent: Extent) -> Vec<Job> {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let mut jobs = Vec::new();
    let mut add = |nodes, loss_percent, task, seeds: u64| {
        let has_records = |kind| kind == Kind::Shoal;
        for kind in Kind::ALL {
            if matches!(task, Task::News(_)) && !has_records(kind) {
                continue;
            }
            // foca searches its members one by one: a mesh of a thousand takes minutes.
            let seeds = if kind == Kind::Plain && nodes == 1_000 { seeds.min(1) } else { seeds };
            let cell = Cell { nodes, loss_percent, kind };
            jobs.extend((1..=seeds).map(|seed| Job { cell, task, seed }));
        }
    };
    for nodes in SIZES {
        for loss in LOSSES {
            // A larger mesh gives as much in less time.
            let (spells, span, crashes) = match (extent, nodes) {
                (Extent::Smoke, 5) => (1, minutes(1), 1),
                (Extent::Smoke, _) => continue,
                (Extent::Quick, 5) => (1, minutes(20), 4),
                (Extent::Quick, 30) => (1, minutes(2), 1),
                (Extent::Quick, _) => (0, minutes(1), 0),
                (Extent::Usual, 5) => (12, minutes(60), 60),
                (Extent::Usual, 30) => (4, minutes(20), 10),
                (Extent::Usual, _) => (2, minutes(5), 2),
                (Extent::Full, 5) => (20, minutes(60), 100),
                (Extent::Full, 30) => (8, minutes(20), 20),
                (Extent::Full, _) => (4, minutes(5), 5),
            };
            // The scoreboard's own case.
            let spells = if (extent, nodes, loss) == (Extent::Full, 5, 10) { 200 } else { spells };
            add(nodes, loss, Task::Quiet(span), spells);
            add(nodes, loss, Task::Stutter(span), spells);
            add(nodes, loss, Task::Crashes(10), crashes);
        }
    }
    if matches!(extent, Extent::Usual | Extent::Full) {
        for nodes in [30, 100] {
            [0, 30].into_iter().for_each(|loss| add(nodes, loss, Task::News(20), 5));
        }
        add(10, 0, Task::Quiet(minutes(1)), 2);
        add(300, 0, Task::Quiet(minutes(1)), 1);
    }
    if extent == Extent::Full {
        add(1_000, 0, Task::Quiet(minutes(1)), 5);
        for loss in [0, 30] {
            add(1_000, loss, Task::Crashes(2), 2);
            add(1_000, loss, Task::News(10), 1);
        }
    }
    jobs.sort_by_key(|job| std::cmp::Reverse((job.cell.nodes, job.cell.kind)));
    jobs
}

/// Runs them on all cores.
fn run(jobs: &[Job]) -> Results {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Results::new());
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let figures = job.run();
            // Long runs show that they go on.
            if figures.wall_seconds > 10.0 {
                eprintln!("{job:?} took {:.0} s", figures.wall_seconds);
            }
            let mut results = results.lock().expect("no worker panics with the lock");
            *results.entry(job.cell).or_default() += figures;
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        (0..workers).for_each(|_| _ = scope.spawn(work));
    });
    results.into_inner().expect("no worker panics with the lock")
}
