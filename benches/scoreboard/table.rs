//! The tables of the scoreboard.

use std::fmt::Write as _;
use std::time::Duration;

use crate::mesh::Blow;
use crate::results::{machine, percentile, ratio, shown};
use crate::system::{Installation, System};
use crate::{Measured, Outcome, Plan, Results, STUTTER_LOSS, STUTTER_SIZE};

/// A row: what it is, serf's figure, Shoal's, and what Shoal's should be.
struct Row {
    what: String,
    serf: Option<f64>,
    shoal: Option<f64>,
    goal: &'static str,
}

/// The whole part of the results.
pub(crate) fn all(installation: &Installation, plan: &Plan, results: &Results) -> Outcome<String> {
    let (serf, shoal) = installation.versions()?;
    let mut text = String::from("## Real processes beside serf (`cargo bench --bench scoreboard`)\n\n");
    let line = |text: &mut String, line: &str| writeln!(text, "{line}").expect("a string takes everything");
    line(&mut text, &format!("{}. serf {serf}; {shoal}.\n", machine()));
    let Plan { rounds, kills, vanishes, idle, stutter, .. } = plan;
    line(
        &mut text,
        &format!(
            "{rounds} rounds of each by turns; in each a fresh mesh, {idle:?} idle, {kills} kills and {vanishes} vanished machines\n\
             one after another. Times in seconds. p99 is the greatest of fewer than 100 values. Bytes and packets are sent\n\
             plus received at the node's port, with Ethernet headers. Serf speaks when its log does, which its\n\
             event handlers hear one to three seconds later; Shoal speaks when a client of its API hears it.\n"
        ),
    );
    for &size in &plan.sizes {
        let side = |system| results.get(&(size, system));
        line(&mut text, &format!("### {size} nodes\n"));
        line(&mut text, "| | serf | shoal | shoal / serf | goal |\n|---|---|---|---|---|");
        for Row { what, serf, shoal, goal } in rows(side(System::Serf), side(System::Shoal)) {
            let columns = [what, shown(serf), shown(shoal), ratio(shoal, serf), goal.to_owned()];
            line(&mut text, &format!("| {} |", columns.join(" | ")));
        }
        if size == STUTTER_SIZE && !stutter.is_zero() {
            let what = format!(
                "during {stutter:?} a round, {STUTTER_LOSS} % loss, a node stands still 0.25 s in every 0.5 s"
            );
            line(&mut text, &format!("\nVerdicts \"failed\" {what}:\n"));
            line(&mut text, "| about | serf | shoal |\n|---|---|---|");
            let sum = |system, of: fn(&crate::mesh::Alarms) -> usize| {
                side(system).map_or("-".to_owned(), |m| m.alarms.iter().map(of).sum::<usize>().to_string())
            };
            let both = |of| format!("{} | {}", sum(System::Serf, of), sum(System::Shoal, of));
            line(&mut text, &format!("| the node that stutters | {} |", both(|a| a.about_paused)));
            line(&mut text, &format!("| the others | {} |", both(|a| a.about_others)));
        }
        for (system, measured) in [System::Serf, System::Shoal].map(|s| (s, side(s))) {
            for why in measured.into_iter().flat_map(|m| &m.given_up) {
                line(&mut text, &format!("\nA round of {system} was given up: {why}."));
            }
        }
        text.push('\n');
    }
    Ok(text)
}

fn seconds(times: &[Duration]) -> Vec<f64> {
    times.iter().map(Duration::as_secs_f64).collect()
}

fn rows(serf: Option<&Measured>, shoal: Option<&Measured>) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |what: &str, goal, of: &dyn Fn(&Measured) -> Option<f64>| {
        rows.push(Row { what: what.to_owned(), serf: serf.and_then(of), shoal: shoal.and_then(of), goal });
    };
    add("start to first answer, p50", "<= 0.1 s", &|m| percentile(&seconds(&m.starts), 0.5));
    add("join to full view, p50", "<= 1 s at 30", &|m| percentile(&seconds(&m.joins), 0.5));
    add("join to full view, p99", "", &|m| percentile(&seconds(&m.joins), 0.99));
    for (blow, what) in [(Blow::Kill, "kill -9"), (Blow::Vanish, "vanished machine")] {
        let of = |share: f64, last: bool| {
            move |m: &Measured| {
                let (all, lasts) = m.detections.get(&blow)?;
                percentile(&seconds(if last { lasts } else { all }), share)
            }
        };
        add(&format!("{what}, each survivor, p50"), "", &of(0.5, false));
        add(&format!("{what}, each survivor, p99"), "", &of(0.99, false));
        add(&format!("{what}, last survivor, p50"), "", &of(0.5, true));
        add(&format!("{what}, last survivor, p99"), "<= 0.25x", &of(0.99, true));
    }
    add("CPU used by others meanwhile, %, p50", "0", &|m| Some(100.0 * percentile(&m.foreign_cpu, 0.5)?));
    add("CPU used by others meanwhile, %, max", "0", &|m| Some(100.0 * percentile(&m.foreign_cpu, 1.0)?));
    let median = |m: &Measured, of: fn(&crate::mesh::Idle) -> f64| {
        percentile(&m.idles.iter().map(of).collect::<Vec<_>>(), 0.5)
    };
    add("idle bytes/s of a node", "<= 2x", &|m| median(m, |i| i.bytes));
    add("idle packets/s of a node", "", &|m| median(m, |i| i.packets));
    add("idle CPU of a node, % of a core", "<= 0.2 %", &|m| median(m, |i| i.cpu_percent));
    add("RSS of a node, MB", "<= 25 MB", &|m| median(m, |i| i.rss_mb));
    rows
}
