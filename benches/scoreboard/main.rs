//! Whole systems as real processes, side by side: `cargo bench --bench scoreboard`.
//!
//! Meshes of Debian's `serf` (its defaults, with encryption on) and of Shoal (mutual TLS, as always) take
//! turns on the same machines: network namespaces on one bridge. Measured are the join, the detection of a
//! killed process and of a vanished machine, false verdicts about a node that stutters, and what a node
//! costs when idle. Writes a part of `benches/RESULTS.md`. Needs root, `ip`, `nft`, `setpriv` and `serf`;
//! the program under test is the one that was built, or `SHOAL_BIN`.
//!
//! Options: `--quick`; `--systems serf,shoal`, `--sizes 3,5,30`, `--rounds N`, `--kills N`,
//! `--vanishes N` (a round), `--idle SECONDS`, `--stutter SECONDS`, `--no-write`. All that it starts ends
//! with it, also on Ctrl-C.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its table")]

mod mesh;
#[path = "../shared/results.rs"]
mod results;
mod space;
mod system;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh::{Alarms, Blow, Detection, Idle, Mesh};
use space::Net;
use system::{Installation, System};

/// What went wrong, in a sentence.
type Outcome<T> = Result<T, String>;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// An error once the user has asked to stop.
fn check_interrupt() -> Outcome<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err("interrupted".to_owned()) } else { Ok(()) }
}

/// What to measure, and how often.
struct Plan {
    systems: Vec<System>,
    sizes: Vec<usize>,
    rounds: usize,
    kills: usize,
    vanishes: usize,
    idle: Duration,
    stutter: Duration,
    writes: bool,
}

/// A node of a mesh of this size is made to stutter.
const STUTTER_SIZE: usize = 5;
/// It runs and stands still for this long, by turns.
const STUTTER: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(250));
/// Meanwhile so many packets of a hundred are lost.
const STUTTER_LOSS: u32 = 10;

/// All rounds of one system at one size.
#[derive(Default)]
struct Measured {
    starts: Vec<Duration>,
    joins: Vec<Duration>,
    /// Each survivor's time, and the last survivor's.
    detections: BTreeMap<Blow, (Vec<Duration>, Vec<Duration>)>,
    /// Of each detection: the share of the machine's CPU that others than the nodes used.
    foreign_cpu: Vec<f64>,
    idles: Vec<Idle>,
    alarms: Vec<Alarms>,
    /// Rounds that were given up, and why.
    given_up: Vec<String>,
}

type Results = BTreeMap<(usize, System), Measured>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` runs it too: only `cargo bench` means it.
    if !args.iter().any(|arg| arg == "--bench") {
        println!("nothing to do: run it with `cargo bench --bench scoreboard`");
        return ExitCode::SUCCESS;
    }
    match plan(&args).and_then(|plan| run(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("scoreboard: {why}");
            ExitCode::FAILURE
        }
    }
}

fn plan(args: &[String]) -> Outcome<Plan> {
    let second = Duration::from_secs(1);
    let mut plan = Plan {
        systems: vec![System::Serf, System::Shoal],
        sizes: vec![3, 5, 30],
        rounds: 5,
        kills: 4,
        vanishes: 2,
        idle: 60 * second,
        stutter: 120 * second,
        writes: true,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        let number = |text: &String| text.parse::<usize>().map_err(|e| format!("{arg} {text}: {e}"));
        let span = |text: &String| Ok::<_, String>(Duration::from_secs(number(text)? as u64));
        match arg.as_str() {
            "--bench" => {}
            "--quick" => {
                (plan.rounds, plan.kills, plan.vanishes) = (1, 2, 1);
                (plan.idle, plan.stutter) = (10 * second, 20 * second);
            }
            "--systems" => plan.systems = value()?.split(',').map(system).collect::<Outcome<_>>()?,
            "--sizes" => {
                let sizes = value()?.split(',').map(|n| number(&n.to_owned()));
                plan.sizes = sizes.collect::<Outcome<_>>()?;
            }
            "--rounds" => plan.rounds = number(value()?)?,
            "--kills" => plan.kills = number(value()?)?,
            "--vanishes" => plan.vanishes = number(value()?)?,
            "--idle" => plan.idle = span(value()?)?,
            "--stutter" => plan.stutter = span(value()?)?,
            "--no-write" => plan.writes = false,
            other => return Err(format!("{other} is no option of this benchmark")),
        }
    }
    if plan.sizes.iter().any(|n| !(2..=250).contains(n)) || plan.sizes.is_empty() {
        return Err("--sizes are from 2 to 250".to_owned());
    }
    Ok(plan)
}

fn system(name: &str) -> Outcome<System> {
    match name {
        "serf" => Ok(System::Serf),
        "shoal" => Ok(System::Shoal),
        other => Err(format!("{other} is neither serf nor shoal")),
    }
}

fn run(plan: &Plan) -> Outcome<()> {
    listen_for_interrupt()?;
    let shoal =
        std::env::var_os("SHOAL_BIN").map_or(PathBuf::from(env!("CARGO_BIN_EXE_shoal")), PathBuf::from);
    let nodes = plan.sizes.iter().copied().max().unwrap_or_default();
    let installation = Installation::new(PathBuf::from("serf"), shoal, nodes)?;
    let net = Net::new(nodes)?;
    let mut results = Results::new();
    for &size in &plan.sizes {
        for round in 0..plan.rounds {
            for &system in &plan.systems {
                println!("{size} nodes, round {} of {}: {system}", round + 1, plan.rounds);
                let measured = results.entry((size, system)).or_default();
                if let Err(why) = measure(plan, &installation, &net, (system, size, round), measured) {
                    check_interrupt()?;
                    println!("  given up: {why}");
                    measured.given_up.push(why);
                    // The next round finds whole machines.
                    (1..=nodes).try_for_each(|n| net.set_link(n, true))?;
                    net.set_loss(0)?;
                }
            }
        }
    }
    let text = table::all(&installation, plan, &results)?;
    println!("\n{text}");
    if plan.writes { results::write_part("scoreboard", &text) } else { Ok(()) }
}

/// One round of one system: a fresh mesh, and all that is done to it.
fn measure(
    plan: &Plan,
    installation: &Installation,
    net: &Net,
    (system, size, round): (System, usize, usize),
    measured: &mut Measured,
) -> Outcome<()> {
    let (mut mesh, up, joined) = Mesh::start(installation, system, net, size)?;
    println!("  start {up:.2?}, join {joined:.2?}");
    measured.starts.push(up);
    measured.joins.push(joined);
    if !plan.idle.is_zero() {
        let idle = mesh.idle(plan.idle)?;
        println!("  idle {idle:.2?}");
        measured.idles.push(idle);
    }
    let blows = std::iter::repeat_n(Blow::Kill, plan.kills);
    let blows = blows.chain(std::iter::repeat_n(Blow::Vanish, plan.vanishes));
    for (count, blow) in blows.enumerate() {
        // Another one each time, but not the first: the others join it.
        let victim = 2 + (round * 7 + count) % (size - 1);
        let Detection { times, foreign_cpu } = mesh.detect(victim, blow)?;
        let (first, last) = (times[0], times[times.len() - 1]);
        let foreign = 100.0 * foreign_cpu;
        println!(
            "  {blow:?} of {victim}: first {first:.2?}, last {last:.2?}; others used {foreign:.0} % of the CPU"
        );
        measured.foreign_cpu.push(foreign_cpu);
        let (all, last) = measured.detections.entry(blow).or_default();
        last.extend(times.last());
        all.extend(times);
    }
    if size == STUTTER_SIZE && !plan.stutter.is_zero() {
        let alarms = mesh.stutter(2 + round % (size - 1), STUTTER, STUTTER_LOSS, plan.stutter)?;
        println!("  stutter {alarms:?}");
        measured.alarms.push(alarms);
    }
    Ok(())
}

/// Ctrl-C and SIGTERM end the round that is under way, and everything that it started with it.
fn listen_for_interrupt() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("cannot listen for Ctrl-C: {e}"))?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminated = signal(SignalKind::terminate()).expect("one may listen for SIGTERM");
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            INTERRUPTED.store(true, Ordering::Relaxed);
        });
    });
    Ok(())
}
