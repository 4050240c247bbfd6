//! `shoal cluster analyze`: what to change in a mesh that works, from measurements alone.
//!
//! Each advice has the figure that it rests on, and nothing is said where nothing needs to be changed. What
//! does not work is the doctor's business.

use clap::Args;
use serde::Serialize;

use super::reports;
use super::trouble::{self, EXPIRY_DAYS_NOTE};
use crate::api::types::{Facts, NodeReport};
use crate::cli::client::Connection;
use crate::cli::{Failure, Shown, client_of, print};
use crate::core::ids::NodeId;

/// A round trip for which the timings of one network are too short.
const RTT_SECONDS_WAN: f64 = 0.05;
/// A round trip with which the timings for far-apart nodes only cost time.
const RTT_SECONDS_LAN: f64 = 0.005;
/// Lost packets that make probes fail now and then.
const LOSS_WORTH_A_LOOK: f64 = 0.01;
const LATE_SECONDS_SICK: f64 = 0.2;
/// A node that is so much busier than the median, in points of CPU, carries more than its share.
const CPU_POINTS_APART: f64 = 40.0;
/// One that has so many times the agents of the median, and so many more.
const AGENTS_TIMES: u32 = 3;
const AGENTS_MORE: u32 = 8;
/// From this size on, one node that cannot be reached should not keep another one out.
const NODES_WORTH_SEEDS: usize = 3;

/// Arguments of `shoal cluster analyze`.
#[derive(Debug, Args)]
pub(crate) struct AnalyzeArgs {
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// One advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Advice {
    nodes: Vec<NodeId>,
    what: String,
    figure: String,
    advice: String,
}

/// What was looked at, as JSON.
#[derive(Debug, Serialize)]
struct Analysis {
    nodes_measured: usize,
    nodes: usize,
    links_measured: usize,
    advice: Vec<Advice>,
}

pub(super) async fn run(args: &AnalyzeArgs) -> Result<(), Failure> {
    let reports = reports::of_all(&client_of(&args.connection)?).await?;
    let facts = || reports.iter().filter_map(|report| report.facts.as_ref());
    let analysis = Analysis {
        nodes_measured: facts().count(),
        nodes: reports.iter().filter(|report| report.status != "left").count(),
        links_measured: facts().map(|facts| facts.links.iter().filter(|link| link.in_use).count()).sum(),
        advice: advise(&reports),
    };
    print::show(args.shown.output, &analysis, table)
}

fn table(analysis: &Analysis) -> String {
    let Analysis { nodes_measured, nodes, links_measured, advice } = analysis;
    let mut text = format!("measured: {nodes_measured} of {nodes} nodes, {links_measured} links\n");
    if advice.is_empty() {
        return text + "nothing to change\n";
    }
    for Advice { what, figure, advice, .. } in advice {
        text += &format!(
            "\n{} ({})\n  do: {}\n",
            print::visible(what),
            print::visible(figure),
            print::visible(advice)
        );
    }
    text
}

/// What the reports advise.
fn advise(reports: &[NodeReport]) -> Vec<Advice> {
    let measured: Vec<(&NodeReport, &Facts)> =
        reports.iter().filter_map(|report| Some((report, report.facts.as_ref()?))).collect();
    let mut advice = Vec::new();
    advice.extend(on_round_trips(&measured));
    on_loss(&measured, &mut advice);
    on_sick_nodes(reports, &measured, &mut advice);
    on_load(reports, &mut advice);
    on_certificates(reports, &measured, &mut advice);
    on_seeds(reports, &measured, &mut advice);
    advice.extend(on_number(reports));
    advice
}

fn new(nodes: &[&NodeId], what: String, figure: String, advice: impl Into<String>) -> Advice {
    Advice { nodes: nodes.iter().map(|node| (*node).clone()).collect(), what, figure, advice: advice.into() }
}

/// The gossip timings against the longest round trip.
fn on_round_trips(measured: &[(&NodeReport, &Facts)]) -> Option<Advice> {
    let of_node = |(report, facts): &(&'_ NodeReport, &'_ Facts)| {
        let id = report.node_id.clone();
        facts
            .links
            .iter()
            .filter(|link| link.in_use)
            .map(move |link| (id.clone(), link.clone()))
            .collect::<Vec<_>>()
    };
    let links: Vec<_> = measured.iter().flat_map(of_node).collect();
    let (from, longest) = links.iter().max_by(|(_, a), (_, b)| a.rtt_seconds.total_cmp(&b.rtt_seconds))?;
    let figure = format!(
        "longest round trip {} from {from} to {}, shortest {}",
        print::seconds(longest.rtt_seconds),
        longest.node,
        print::seconds(links.iter().map(|(_, link)| link.rtt_seconds).fold(f64::MAX, f64::min))
    );
    let with = |profiles: &[&str]| -> Vec<&NodeId> {
        let those = measured.iter().filter(|(_, facts)| profiles.contains(&facts.profile.as_str()));
        those.map(|(report, _)| &report.node_id).collect()
    };
    let (short, wan) = (with(&["local", "lan"]), with(&["wan"]));
    if longest.rtt_seconds >= RTT_SECONDS_WAN && !short.is_empty() {
        let what = format!("round trips are long for the gossip timings of {}", names(&short));
        return Some(new(
            &short,
            what,
            figure,
            "set `coordination.cluster.profile: auto`, or `wan`, on all nodes",
        ));
    }
    if longest.rtt_seconds < RTT_SECONDS_LAN && !wan.is_empty() {
        let what = format!("{} waits as if nodes were far apart, and none is", names(&wan));
        return Some(new(
            &wan,
            what,
            figure,
            "set `coordination.cluster.profile: auto`: failures are seen sooner",
        ));
    }
    None
}

fn on_loss(measured: &[(&NodeReport, &Facts)], advice: &mut Vec<Advice>) {
    for (report, facts) in measured {
        for link in facts.links.iter().filter(|link| link.in_use) {
            if let Some(loss) = trouble::loss_of(link).filter(|loss| *loss > LOSS_WORTH_A_LOOK) {
                let what = format!("packets from {} to {} are lost", report.node_id, link.node);
                let figure = format!("{} of {} packets", trouble::share(loss), link.sent_packets);
                let nodes = [&report.node_id, &link.node];
                advice.push(new(
                    &nodes,
                    what,
                    figure,
                    "look at that network path: probes fail with it now and then",
                ));
            }
        }
    }
}

/// One node that most others do not hold for alive, or whose loop is late where others' are not.
fn on_sick_nodes(reports: &[NodeReport], measured: &[(&NodeReport, &Facts)], advice: &mut Vec<Advice>) {
    let late: Vec<_> = measured.iter().filter(|(_, f)| f.loop_late_seconds >= LATE_SECONDS_SICK).collect();
    if let [(report, facts)] = late[..]
        && measured.len() > 1
    {
        let node = &report.node_id;
        let figure =
            format!("its main loop was {} late in the last minute", print::seconds(facts.loop_late_seconds));
        let advice_text =
            "it alone is slow: look for what pauses it or takes its CPU, or move its agents away";
        advice.push(new(
            &[node],
            format!("{node} is slow and may be suspected wrongly"),
            figure,
            advice_text,
        ));
    }
    for report in reports.iter().filter(|report| report.status != "left" && report.status != "failed") {
        let node = &report.node_id;
        let views =
            measured.iter().filter_map(|(other, facts)| Some((&other.node_id, facts.members.get(node)?)));
        let (mut all, mut doubting) = (0, 0);
        for (_, status) in views {
            all += 1;
            doubting += usize::from(status == "suspect" || status == "failed");
        }
        if doubting > 0 && doubting * 2 >= all && all >= 2 {
            let figure = format!("{doubting} of {all} nodes do not hold it for alive");
            let what = format!("{node} does not answer probes as it should");
            advice.push(new(
                &[node],
                what,
                figure,
                format!("`shoal why {node} --all-nodes` tells who could not reach it"),
            ));
        }
    }
}

fn on_load(reports: &[NodeReport], advice: &mut Vec<Advice>) {
    let present: Vec<_> =
        reports.iter().filter(|report| report.status == "alive" || report.status == "suspect").collect();
    let mut cpus: Vec<f64> = present.iter().filter_map(|report| report.cpu_percent).collect();
    cpus.sort_by(f64::total_cmp);
    let mut agents: Vec<u32> = present.iter().map(|report| report.agents).collect();
    agents.sort_unstable();
    let (Some(cpu_median), Some(agents_median)) =
        (cpus.get(cpus.len().saturating_sub(1) / 2), agents.get(agents.len().saturating_sub(1) / 2))
    else {
        return;
    };
    for report in present {
        let node = &report.node_id;
        if let Some(cpu) = report.cpu_percent.filter(|cpu| cpu - cpu_median >= CPU_POINTS_APART) {
            let figure = format!("{cpu:.0}% CPU, the median is {cpu_median:.0}%");
            advice.push(new(
                &[node],
                format!("{node} is much busier than the others"),
                figure,
                "move agents away from it",
            ));
        }
        let more = report.agents.saturating_sub(*agents_median);
        if more >= AGENTS_MORE && report.agents >= agents_median.saturating_mul(AGENTS_TIMES) {
            let figure = format!("{} agents, the median is {agents_median}", report.agents);
            let what = format!("{node} has many more agents than the others");
            advice.push(new(&[node], what, figure, "deploy new ones elsewhere (`--target-node`)"));
        }
    }
}

fn on_certificates(reports: &[NodeReport], measured: &[(&NodeReport, &Facts)], advice: &mut Vec<Advice>) {
    let now = reports::now(reports);
    for (report, facts) in measured {
        let Some(certificate) = &facts.certificate else { continue };
        let days = trouble::days_left(certificate.not_after, now);
        if days < EXPIRY_DAYS_NOTE {
            let node = &report.node_id;
            let what = format!("the certificate of {node} expires soon");
            advice.push(new(
                &[node],
                what,
                format!("{days} days left"),
                "issue a new one with `shoal cert issue`",
            ));
        }
    }
}

fn on_seeds(reports: &[NodeReport], measured: &[(&NodeReport, &Facts)], advice: &mut Vec<Advice>) {
    if reports.len() < NODES_WORTH_SEEDS {
        return;
    }
    let single: Vec<_> =
        measured.iter().filter(|(_, facts)| facts.seeds == 1).map(|(report, _)| &report.node_id).collect();
    if !single.is_empty() {
        let what = format!(
            "{} would not find the mesh without one certain node, had it lost its memory",
            names(&single)
        );
        let figure = "started with 1 seed".to_owned();
        advice.push(new(
            &single,
            what,
            figure,
            "give two or three seeds: `--join A,B,C`, or `seeds` in the file",
        ));
    }
}

/// An even number of nodes can be cut into halves of which neither is the larger.
fn on_number(reports: &[NodeReport]) -> Option<Advice> {
    let nodes = reports.iter().filter(|report| report.status != "left").count();
    if nodes < 2 || nodes % 2 == 1 {
        return None;
    }
    let what = "a cut through the middle leaves no side with a majority".to_owned();
    let advice = format!("run an odd number of nodes: {} bear the loss of {}", nodes + 1, nodes / 2);
    Some(new(&[], what, format!("{nodes} nodes"), advice))
}

fn names(nodes: &[&NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Each advice in one sentence, for tests.
#[cfg(test)]
pub(super) fn sentences(reports: &[NodeReport]) -> Vec<String> {
    advise(reports).into_iter().map(|a| format!("{} ({}): {}", a.what, a.figure, a.advice)).collect()
}
