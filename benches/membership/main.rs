//! Detection and false alarms, of Shoal's membership and of plain foca, in one simulated network:
//! `cargo bench --bench membership -- [--quick|--full]`.
//!
//! Both run under virtual time with the same latency, loss and pauses; the same options give the same
//! figures, but for the speed. Writes a part of `benches/RESULTS.md` and `benches/membership.csv`.
//!
//! `--quick` takes under a minute and writes nothing; without an option it takes some minutes; `--full`
//! adds a thousand node-hours of the hardest case and meshes of 1,000 nodes. `--nodes=30` runs only meshes
//! of that size and `--no-write` prints only.

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
    let known = ["--bench", "--quick", "--full", "--no-write"];
    let only = args.iter().find_map(|arg| arg.strip_prefix("--nodes=")?.parse::<usize>().ok());
    // `cargo test --benches` comes without `--bench`, and with options of its own.
    if has("--bench")
        && let Some(other) =
            args.iter().find(|arg| !known.contains(&arg.as_str()) && !arg.starts_with("--nodes="))
    {
        eprintln!("membership: {other} is no option of this benchmark");
        return ExitCode::FAILURE;
    }
    let extent = match () {
        () if !has("--bench") => Extent::Smoke,
        () if has("--quick") => Extent::Quick,
        () if has("--full") => Extent::Full,
        () => Extent::Usual,
    };
    let mut jobs = jobs(extent);
    jobs.retain(|job| only.is_none_or(|nodes| job.cell.nodes == nodes));
    println!("{} runs", jobs.len());
    let begun = Instant::now();
    let results = run(&jobs);
    let text = table::all(&results, extent == Extent::Full);
    println!("{text}\ntook {:.0?}", begun.elapsed());
    let broken: Vec<_> = results.values().flat_map(|figures| &figures.broken).collect();
    broken.iter().for_each(|what| eprintln!("BROKEN {what}"));
    if !has("--no-write") && only.is_none() && matches!(extent, Extent::Usual | Extent::Full) {
        let csv = results::path("membership.csv");
        let written = results::write_part("membership", &text)
            .and_then(|()| std::fs::write(&csv, table::csv(&results)).map_err(|e| e.to_string()));
        if let Err(why) = written {
            eprintln!("membership: {why}");
            return ExitCode::FAILURE;
        }
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All runs, the longest ones first.
fn jobs(extent: Extent) -> Vec<Job> {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let mut jobs = Vec::new();
    let mut add = |nodes, loss_percent, task, seeds: u64| {
        for kind in Kind::ALL {
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
                (Extent::Full, 30) => (8, minutes(60), 30),
                (Extent::Full, _) => (4, minutes(20), 10),
            };
            add(nodes, loss, Task::Quiet(span), spells);
            // The scoreboard's own case.
            let spells = if (extent, nodes, loss) == (Extent::Full, 5, 10) { 200 } else { spells };
            add(nodes, loss, Task::Stutter(span), spells);
            add(nodes, loss, Task::Crashes(10), crashes);
        }
    }
    if matches!(extent, Extent::Usual | Extent::Full) {
        add(10, 0, Task::Quiet(minutes(1)), 2);
        add(300, 0, Task::Quiet(minutes(1)), 1);
    }
    if extent == Extent::Full {
        for loss in [0, 30] {
            add(1_000, loss, Task::Quiet(minutes(1)), if loss == 0 { 5 } else { 0 });
            add(1_000, loss, Task::Crashes(1), 5);
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
