//! The tables, and the same figures for machines.

use std::fmt::Write as _;

use crate::Results;
use crate::experiments::{Cell, Figures, Spell};
use crate::lab::Kind;
use crate::results::{machine, percentile, ratio, shown};
use crate::{LOSSES, SIZES};

/// Time to 99.99 % of the nodes by serf's convergence simulator (<https://www.serf.io/docs/internals/simulator.html>,
/// gossip every 0.2 s to 3): nodes, packets lost of a hundred, seconds.
const SERF_SPREAD: [(usize, u32, f64); 6] =
    [(30, 0, 1.69), (100, 0, 1.84), (1_000, 0, 2.15), (30, 30, 2.41), (100, 30, 2.63), (1_000, 30, 3.07)];

/// A table: its title, and what writes it.
type Part = (&'static str, fn(&mut String, &Results));

/// A column: its name, and what it says of a mesh.
type Column = (&'static str, fn(&Figures) -> Option<f64>);

const PAIR: [Column; 12] = [
    ("each survivor p50", |f| percentile(&f.detections, 0.5)),
    ("p99", |f| percentile(&f.detections, 0.99)),
    ("max", |f| percentile(&f.detections, 1.0)),
    ("last survivor p50", |f| percentile(&f.lasts, 0.5)),
    ("p99", |f| percentile(&f.lasts, 0.99)),
    ("max", |f| percentile(&f.lasts, 1.0)),
    ("false, quiet", |f| per_hour(f.quiet, f.quiet.about_others)),
    ("false, one stutters: of others", |f| per_hour(f.stutter, f.stutter.about_others)),
    ("of the one", |f| per_hour(f.stutter, f.stutter.about_paused)),
    ("bytes", |f| per_second(f.quiet, f.quiet.bytes)),
    ("packets", |f| per_second(f.quiet, f.quiet.packets)),
    ("join p50", |f| percentile(&f.joins, 0.5)),
];

/// The whole part of the results.
pub(crate) fn all(results: &Results, options: &str) -> String {
    let mut text = String::new();
    let options = if options.is_empty() { String::new() } else { format!(" -- {options}") };
    line(
        &mut text,
        &format!("## Simulated, beside plain foca (`cargo bench --bench membership{options}`)\n"),
    );
    line(&mut text, &format!("{}.\n", machine()));
    line(
        &mut text,
        "Both under virtual time over one simulated local network. Plain foca is `Config::new_lan` of the true size over\n\
         bare datagrams. Times in seconds. A false verdict is \"failed\" said of a running node by another one, counted per\n\
         node-hour and observer; where one node stutters (it does nothing for 0.25 s in every 0.5 s), those about it are\n\
         counted apart and its own do not count. Bytes and packets are those sent by a node in a second of quiet, without\n\
         the headers of IP, UDP and QUIC.\n",
    );
    let parts: [Part; 4] = [
        ("Detection and false alarms as a pair", pairs),
        ("How fast news spreads", spreads),
        ("Cost by size, quiet and without loss", costs),
        ("What it took", effort),
    ];
    for (title, write) in parts {
        let mut table = String::new();
        write(&mut table, results);
        let rows = table.lines().filter(|line| line.starts_with('|')).count();
        // A head without rows says nothing.
        if rows > 2 {
            line(&mut text, &format!("### {title}\n\n{table}"));
        }
    }
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes everything");
}

fn row(text: &mut String, columns: &[String]) {
    line(text, &format!("| {} |", columns.join(" | ")));
}

fn head(text: &mut String, columns: &[String]) {
    row(text, columns);
    line(text, &format!("|{}", "---|".repeat(columns.len())));
}

fn pairs(text: &mut String, results: &Results) {
    let first = ["nodes", "loss", "mesh"].map(str::to_owned);
    let names = PAIR.map(|(name, _)| name.to_owned());
    head(text, &[&first[..], &names[..]].concat());
    for nodes in SIZES {
        for loss_percent in LOSSES {
            let of = |kind| results.get(&Cell { nodes, loss_percent, kind });
            let both = (of(Kind::Plain), of(Kind::Shoal));
            let (Some(plain), Some(shoal)) = both else {
                continue;
            };
            // Where only news was spread there is nothing to compare.
            if shoal.lasts.is_empty() && shoal.quiet.node_hours + shoal.stutter.node_hours == 0.0 {
                continue;
            }
            let first = |name: &str| [nodes.to_string(), format!("{loss_percent} %"), name.to_owned()];
            for (kind, figures) in [(Kind::Plain, plain), (Kind::Shoal, shoal)] {
                let values = PAIR.map(|(_, value)| shown(value(figures)));
                row(text, &[&first(kind.name())[..], &values[..]].concat());
            }
            let ratios = PAIR.map(|(_, value)| ratio(value(shoal), value(plain)));
            row(text, &[&first("shoal / plain")[..], &ratios[..]].concat());
        }
    }
}

fn spreads(text: &mut String, results: &Results) {
    line(
        text,
        "Of \"failed\" and \"alive\": from the first node that says it to the last one. Of a record: from a node's change of\n\
         one of its own until 99.99 % of all nodes have it. Serf's formula is the time of its convergence simulator for\n\
         99.99 % of the nodes, gossip to 3 every 0.2 s.\n",
    );
    let columns = ["nodes", "loss", "mesh", "\"failed\" p50", "p99", "\"alive\" again p50", "p99"];
    let columns = [&columns[..], &["record p50", "p99", "serf's formula"]].concat();
    head(text, &columns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    for (Cell { nodes, loss_percent, kind }, figures) in results {
        if figures.verdict_spreads.is_empty() && figures.record_spreads.is_empty() {
            continue;
        }
        let formula = SERF_SPREAD.iter().find(|(n, loss, _)| n == nodes && loss == loss_percent);
        let at = |values: &[f64], share| shown(percentile(values, share));
        row(
            text,
            &[
                nodes.to_string(),
                format!("{loss_percent} %"),
                kind.name().to_owned(),
                at(&figures.verdict_spreads, 0.5),
                at(&figures.verdict_spreads, 0.99),
                at(&figures.return_spreads, 0.5),
                at(&figures.return_spreads, 0.99),
                at(&figures.record_spreads, 0.5),
                at(&figures.record_spreads, 0.99),
                shown(formula.map(|(_, _, seconds)| *seconds)),
            ],
        );
    }
}

fn costs(text: &mut String, results: &Results) {
    head(text, &["nodes", "mesh", "bytes/s of a node", "packets/s", "join p50"].map(str::to_owned));
    for (Cell { nodes, loss_percent, kind }, figures) in results {
        if *loss_percent == 0 && figures.quiet.packets > 0 {
            let bytes = shown(per_second(figures.quiet, figures.quiet.bytes));
            let packets = shown(per_second(figures.quiet, figures.quiet.packets));
            let join = shown(percentile(&figures.joins, 0.5));
            row(text, &[nodes.to_string(), kind.name().to_owned(), bytes, packets, join]);
        }
    }
}

fn effort(text: &mut String, results: &Results) {
    let columns = ["nodes", "loss", "mesh", "crashes", "node-hours quiet", "stuttering"];
    let more =
        ["false: quiet / of others / of the one", "not heard in time", "simulated node-seconds per second"];
    let columns = [&columns[..], &more[..]].concat();
    head(text, &columns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    for (Cell { nodes, loss_percent, kind }, f) in results {
        row(
            text,
            &[
                nodes.to_string(),
                format!("{loss_percent} %"),
                kind.name().to_owned(),
                f.lasts.len().to_string(),
                shown(Some(f.quiet.node_hours)),
                shown(Some(f.stutter.node_hours)),
                falses(f),
                f.unheard.to_string(),
                shown(Some(f.simulated_node_seconds / f.wall_seconds)),
            ],
        );
    }
}

/// False verdicts in full numbers: while nothing is done, and while one stutters about the others and about it.
fn falses(f: &Figures) -> String {
    format!("{} / {} / {}", f.quiet.about_others, f.stutter.about_others, f.stutter.about_paused)
}

/// One figure a line.
pub(crate) fn csv(results: &Results) -> String {
    let mut text = "mesh,nodes,loss_percent,figure,value\n".to_owned();
    for (Cell { nodes, loss_percent, kind }, f) in results {
        let mut add = |figure: &str, value: Option<f64>| {
            if let Some(value) = value {
                line(&mut text, &format!("{},{nodes},{loss_percent},{figure},{value}", kind.name()));
            }
        };
        let times = [
            ("detection_seconds", &f.detections),
            ("detection_last_seconds", &f.lasts),
            ("verdict_spread_seconds", &f.verdict_spreads),
            ("return_spread_seconds", &f.return_spreads),
            ("record_spread_seconds", &f.record_spreads),
            ("join_seconds", &f.joins),
        ];
        for (name, values) in times {
            for (suffix, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
                add(&format!("{name}_{suffix}"), percentile(values, share));
            }
            add(&format!("{name}_count"), Some(values.len() as f64));
        }
        for (name, spell) in [("quiet", f.quiet), ("stutter", f.stutter)] {
            add(&format!("{name}_node_hours"), Some(spell.node_hours));
            add(&format!("{name}_false_about_others"), Some(spell.about_others as f64));
            add(&format!("{name}_false_about_paused"), Some(spell.about_paused as f64));
            add(&format!("{name}_bytes_per_second"), per_second(spell, spell.bytes));
            add(&format!("{name}_packets_per_second"), per_second(spell, spell.packets));
        }
        add("not_heard_in_time", Some(f.unheard as f64));
    }
    text
}

fn per_hour(spell: Spell, count: u64) -> Option<f64> {
    (spell.node_hours > 0.0).then(|| count as f64 / spell.node_hours)
}

fn per_second(spell: Spell, count: u64) -> Option<f64> {
    per_hour(spell, count).map(|value| value / 3600.0)
}
