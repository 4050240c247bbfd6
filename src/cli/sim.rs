//! `shoal sim`: a whole mesh in this process, under virtual time, from one seed.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;

use crate::sim::{Config, Cut, Scenario};

/// Runs a simulated mesh: the same protocol core, a seeded network, and faults.
///
/// The same arguments print the same text. Exit code 1 when an invariant did not hold.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example: shoal sim --nodes 30 --seed 7 --for 10m --loss 10 --cut 2:3")]
pub(super) struct SimArgs {
    /// Machines; the first one begins the mesh.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    nodes: u16,
    /// Everything random comes from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Virtual time, as in `90s`, `10m`, `2h`.
    #[arg(long = "for", default_value = "5m", value_parser = humantime::parse_duration)]
    span: Duration,
    /// Packets lost, in percent.
    #[arg(long, default_value_t = 0.0, value_parser = percent)]
    loss: f64,
    /// Cuts the mesh into two sides of this proportion, as in `2:3`.
    #[arg(long, value_parser = proportion)]
    cut: Option<(u32, u32)>,
    /// When the cut begins; after a third of the run where nothing else is said.
    #[arg(long, requires = "cut", value_parser = humantime::parse_duration)]
    cut_at: Option<Duration>,
    /// How long the cut lasts; a third of the run where nothing else is said.
    #[arg(long, requires = "cut", value_parser = humantime::parse_duration)]
    cut_for: Option<Duration>,
    /// Nodes that are killed, one after another, and stay dead.
    #[arg(long, default_value_t = 0)]
    crash: u16,
    /// Random crashes, restarts, moves, departures, pauses, cuts and losses until the last two minutes.
    #[arg(long)]
    chaos: bool,
    /// Latency of a packet, one way.
    #[arg(long, default_value = "400us", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// Up to so much more latency, evenly spread.
    #[arg(long, default_value = "200us", value_parser = humantime::parse_duration)]
    jitter: Duration,
    /// Prints what every single node says, not what they say together.
    #[arg(long)]
    every_change: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    let number: f64 = text.trim_end_matches('%').parse().map_err(|_| format!("{text:?} is not a number"))?;
    if (0.0..=100.0).contains(&number) { Ok(number) } else { Err("a percentage is 0 to 100".to_owned()) }
}

fn proportion(text: &str) -> Result<(u32, u32), String> {
    let parts = text.split_once(':').map(|(a, b)| (a.parse::<u16>(), b.parse::<u16>()));
    match parts {
        Some((Ok(one), Ok(other))) if one > 0 && other > 0 => Ok((one.into(), other.into())),
        Some(_) | None => Err(format!("{text:?} is not a proportion like 2:3")),
    }
}

impl SimArgs {
    fn scenario(&self) -> Scenario {
        let mut config = Config::lan(self.nodes.into(), self.seed).with_loss(self.loss / 100.0);
        config.network.latency = self.latency;
        config.network.jitter = self.jitter;
        let cut = self.cut.map(|sides| Cut {
            sides,
            at: self.cut_at.unwrap_or(self.span / 3),
            span: self.cut_for.unwrap_or(self.span / 3),
        });
        Scenario {
            config,
            span: self.span,
            cut,
            crashes: usize::from(self.crash.min(self.nodes)),
            random_faults: self.chaos,
            every_change: self.every_change,
        }
    }

    /// The command that does the same again.
    fn command(&self) -> String {
        let time = |span: Duration| humantime::format_duration(span).to_string().replace(' ', "");
        let mut text =
            format!("shoal sim --nodes {} --seed {} --for {}", self.nodes, self.seed, time(self.span));
        let mut add = |option: &str, value: String| text.push_str(&format!(" {option} {value}"));
        if self.loss > 0.0 {
            add("--loss", self.loss.to_string());
        }
        if let Some((one, other)) = self.cut {
            add("--cut", format!("{one}:{other}"));
        }
        self.cut_at.into_iter().for_each(|at| add("--cut-at", time(at)));
        self.cut_for.into_iter().for_each(|span| add("--cut-for", time(span)));
        if self.crash > 0 {
            add("--crash", self.crash.to_string());
        }
        add("--latency", time(self.latency));
        add("--jitter", time(self.jitter));
        if self.chaos {
            text.push_str(" --chaos");
        }
        text
    }
}

/// Runs the simulation and writes what happened; returns the exit code, 0 or 1.
///
/// # Errors
/// Only those of `out`.
pub(super) fn run(args: &SimArgs, out: &mut impl Write) -> io::Result<u8> {
    let verdict = args.scenario().run(out)?;
    writeln!(out, "again               {}", args.command())?;
    Ok(u8::from(!verdict.broken.is_empty()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        sim: SimArgs,
    }

    fn parse(line: &str) -> Result<SimArgs, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.sim)
    }

    fn output(args: &SimArgs) -> String {
        let mut out = Vec::new();
        assert_eq!(run(args, &mut out).expect("a vector takes it"), 0);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_same_command_prints_the_same_and_tells_of_a_cut_and_a_crash() {
        let args = parse("sim --nodes 5 --seed 3 --for 3m --loss 5% --cut 2:3 --crash 1").expect("valid");
        let text = output(&args);
        assert_eq!(text, output(&args));
        for part in
            ["is failed", "full membership", "healed", "crash of", "seed                3", "all held"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        let again = text.lines().last().expect("a line").trim_start_matches("again").trim();
        let again = parse(again.trim_start_matches("shoal ")).expect("the printed command is valid");
        assert_eq!(output(&again), text);
    }

    #[test]
    fn bad_numbers_are_refused() {
        for line in [
            "sim --loss 101",
            "sim --loss x",
            "sim --cut 3",
            "sim --cut 0:3",
            "sim --nodes 0",
            "sim --cut-at 3s",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
