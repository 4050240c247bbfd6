//! `shoal plan`, `shoal apply`, `shoal blueprint`, and what of `shoal agent` and `shoal cluster` is about what should run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::client::{ANSWER_DEADLINE, Client, Connection};
use super::print::{self, Table};
use super::{Failure, Shown, client_of, deploy};
use crate::api::types::{
    Agent, Blueprint, BlueprintDetail, BlueprintStatus, CanaryStatus, Changes, Drain, Instances, Pause,
    Planned, Rebalance, RollBack, Rollout, Scale, StandbyStatus,
};
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::Beside;
use crate::node::config::{BlueprintManifest, instances_of};

/// How often `shoal apply --wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Arguments of `shoal plan`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  shoal plan -f mesh.yaml
  shoal plan -f mesh.yaml --detailed-exitcode     (0: nothing to do, 6: changes)
  shoal plan                                      (what the mesh is about to do by itself)")]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    changes: ChangesArgs,
    /// Exit with 6 when something would be done
    #[arg(long)]
    detailed_exitcode: bool,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `shoal apply`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  shoal apply -f mesh.yaml
  shoal apply -f mesh.yaml --plan-id 4f1c09d2a7be     (only if nothing has changed since that plan)
  shoal apply --remove web")]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    changes: ChangesArgs,
    /// Only if what would be done is what `shoal plan` has shown under this id
    #[arg(long, value_name = "ID")]
    plan_id: Option<String>,
    /// Wait so long until all instances run as described; exits 4 when they do not
    #[arg(long, value_name = "TIME", value_parser = super::message::span)]
    wait: Option<Duration>,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct ChangesArgs {
    /// File with blueprints, as docs/blueprints.md describes it. May be repeated
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Blueprint that is to go, with all its instances. May be repeated
    #[arg(long, value_name = "NAME")]
    remove: Vec<AgentName>,
}

/// The subcommands of `shoal blueprint`.
#[derive(Debug, Subcommand)]
pub(crate) enum BlueprintCommand {
    /// List the blueprints and how they stand
    #[command(after_help = "Example: shoal blueprint list -o json")]
    List(ListArgs),
    /// Show a blueprint: its versions, its instances, and why each is where it is
    #[command(after_help = "Example: shoal blueprint info web")]
    Info(OneArgs),
    /// Remove a blueprint and end its instances
    #[command(after_help = "Example: shoal blueprint remove web")]
    Remove(OneArgs),
}

/// Arguments of `shoal blueprint list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of the commands that are about one blueprint.
#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    /// The blueprint
    name: AgentName,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `shoal agent scale`.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// The blueprint
    name: AgentName,
    /// How many instances: a number, or per-node
    #[arg(value_parser = instances)]
    instances: Instances,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

fn instances(word: &str) -> Result<Instances, String> {
    instances_of(word).map(Into::into)
}

/// Arguments of `shoal agent rollback`.
#[derive(Debug, Args)]
pub(crate) struct RollBackArgs {
    #[command(flatten)]
    one: OneArgs,
    /// To which version [default: the one before]
    #[arg(long, value_name = "VERSION")]
    to_version: Option<u64>,
}

/// The subcommands of `shoal agent rollout`.
#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Show how far a version has come; exits 1 until all instances run it
    #[command(after_help = "Example: shoal agent rollout status web")]
    Status(OneArgs),
    /// Update no further instance
    #[command(after_help = "Example: shoal agent rollout pause web")]
    Pause(OneArgs),
    /// Go on with an update that was paused
    #[command(after_help = "Example: shoal agent rollout resume web")]
    Resume(OneArgs),
}

/// Arguments of `shoal cluster drain` and `undrain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The node
    node: NodeId,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `shoal cluster rebalance`.
#[derive(Debug, Args)]
pub(crate) struct RebalanceArgs {
    /// What it aims at
    #[arg(long, value_enum, default_value = "even-distribution")]
    strategy: RebalanceStrategy,
    /// At most so many moves
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=limits::ORDERS_IN_FLIGHT_MAX as i64))]
    max_moves: u32,
    /// Only show what would be moved
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RebalanceStrategy {
    /// As many agents on each node
    EvenDistribution,
}

/// Shows what would be done.
pub(super) async fn plan(args: PlanArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    let changes = changes(&client, &args.changes).await?;
    let planned: Planned = client.post("/v1/plan", &changes, ANSWER_DEADLINE).await?;
    print::show(args.shown.output, &planned, |planned| text_of(planned, "would be done"))?;
    match args.detailed_exitcode && has_changes(&planned) {
        true => Err(Failure::Changes),
        false => Ok(()),
    }
}

/// Makes it what should run.
pub(super) async fn apply(args: ApplyArgs) -> Result<(), Failure> {
    let client = client_of(&args.connection)?;
    if args.changes.file.is_empty() && args.changes.remove.is_empty() {
        return Err(Failure::Usage("give a file with --file, or a blueprint to --remove".to_owned()));
    }
    let changes = Changes { plan_id: args.plan_id, ..changes(&client, &args.changes).await? };
    let planned: Planned = client.post("/v1/blueprints", &changes, ANSWER_DEADLINE).await?;
    print::show(args.shown.output, &planned, |planned| text_of(planned, "is being done"))?;
    match args.wait {
        Some(patience) => settle(&client, &changes, &planned, patience).await,
        None => Ok(()),
    }
}

fn has_changes(planned: &Planned) -> bool {
    planned.steps_total > 0 || !planned.blueprints.is_empty()
}

async fn changes(client: &Client, args: &ChangesArgs) -> Result<Changes, Failure> {
    let mut blueprints = Vec::new();
    for file in &args.file {
        let found = BlueprintManifest::read(file).map_err(|errors| Failure::Usage(errors.to_string()))?;
        for blueprint in found {
            blueprints.push(described(client, blueprint).await?);
        }
    }
    Ok(Changes { blueprints, remove: args.remove.clone(), plan_id: None })
}

async fn described(client: &Client, blueprint: BlueprintManifest) -> Result<Blueprint, Failure> {
    let BlueprintManifest { agent, instances, placement, update, on_cut, exclusive } = blueprint;
    Ok(Blueprint {
        agent: deploy::agent_of(client, agent, None).await?,
        instances: instances.into(),
        placement: placement.into(),
        update: update.into(),
        on_cut,
        exclusive,
    })
}

/// Applies one blueprint that was described by flags.
pub(super) async fn apply_one(client: &Client, shown: Shown, blueprint: Blueprint) -> Result<(), Failure> {
    let changes = Changes { blueprints: vec![blueprint], ..Changes::default() };
    let planned: Planned = client.post("/v1/blueprints", &changes, ANSWER_DEADLINE).await?;
    print::show(shown.output, &planned, |planned| text_of(planned, "is being done"))
}

/// Waits until what was applied runs, and what was removed does not.
async fn settle(
    client: &Client,
    changes: &Changes,
    planned: &Planned,
    patience: Duration,
) -> Result<(), Failure> {
    let begun = tokio::time::Instant::now();
    loop {
        let Some(open) = still_open(client, changes, planned).await? else {
            return Ok(());
        };
        if begun.elapsed() >= patience {
            return Err(Failure::TimedOut(format!("after {} s {open}", patience.as_secs())));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What is not yet as it was applied; `None`: nothing.
async fn still_open(
    client: &Client,
    changes: &Changes,
    planned: &Planned,
) -> Result<Option<String>, Failure> {
    let all: Vec<BlueprintStatus> = client.get("/v1/blueprints").await?;
    for Blueprint { agent, .. } in &changes.blueprints {
        let name = &agent.name;
        let Some(status) = all.iter().find(|status| status.name == *name) else {
            return Err(Failure::Refused(format!("blueprint {name} was removed meanwhile")));
        };
        let change = planned.blueprints.iter().find(|change| change.name == *name);
        let applied = change.and_then(|change| change.to_version);
        if applied.is_some_and(|applied| status.version > applied) {
            let why = format!("blueprint {name} is at version {} meanwhile: {}", status.version, status.why);
            return Err(Failure::Refused(why));
        }
        if !has_settled(status) {
            let why = status.unplaced.iter().next().map(|(slot, why)| format!("; {slot}: {why}"));
            return Ok(Some(format!(
                "{} of {} instances of {name} run version {}{}: see `shoal blueprint info {name}`",
                status.updated,
                status.wanted,
                status.version,
                why.unwrap_or_default()
            )));
        }
    }
    if changes.remove.is_empty() {
        return Ok(None);
    }
    let agents: Vec<Agent> = client.get("/v1/agents").await?;
    let left = agents.iter().find(|agent| agent.reachable && changes.remove.contains(&agent.name.base()));
    Ok(left.map(|left| format!("{} still runs on {}", left.name, left.node)))
}

/// Whether all that is wanted runs, as the current version says.
fn has_settled(status: &BlueprintStatus) -> bool {
    status.unplaced.is_empty() && status.placed == status.wanted && status.updated == status.wanted
}

fn text_of(planned: &Planned, what: &str) -> String {
    let mut text = String::new();
    for change in &planned.blueprints {
        let line = match (change.from_version, change.to_version) {
            (None, Some(to)) => format!("blueprint {}: new, version {to}", change.name),
            (Some(from), Some(to)) if from == to => format!("blueprint {}: version {to}", change.name),
            (Some(from), Some(to)) => format!("blueprint {}: version {from} -> {to}", change.name),
            (_, None) => format!("blueprint {}: removed", change.name),
        };
        text.push_str(&(line + "\n"));
    }
    if !planned.steps.is_empty() {
        let mut table = Table::new(&["ACTION", "INSTANCE", "NODE", "WHY"]);
        for step in &planned.steps {
            let node = print::or_nothing(step.node.as_ref(), ToString::to_string);
            table.row([step.action.clone(), step.slot.to_string(), node, step.why.clone()]);
        }
        text.push_str(&table.text());
    }
    let untold = planned.steps_total.saturating_sub(planned.steps.len() as u32);
    if untold > 0 {
        text.push_str(&format!("and {untold} more\n"));
    }
    for (slot, why) in &planned.unplaced {
        text.push_str(&(print::visible(&format!("not placed: {slot}: {why}")) + "\n"));
    }
    match has_changes(planned) {
        true => {
            text.push_str(&format!("{} steps: this {what} (plan {})\n", planned.steps_total, planned.plan_id))
        }
        false => text.push_str("nothing to do\n"),
    }
    text
}

/// Does what the subcommand asks.
pub(super) async fn run(command: BlueprintCommand) -> Result<(), Failure> {
    match command {
        BlueprintCommand::List(args) => list(&args).await,
        BlueprintCommand::Info(args) => info(&args).await,
        BlueprintCommand::Remove(args) => {
            let path = format!("/v1/blueprints/{}", args.name);
            let planned: Planned = client_of(&args.connection)?.delete(&path).await?;
            print::show(args.shown.output, &planned, |planned| text_of(planned, "is being done"))
        }
    }
}

async fn list(args: &ListArgs) -> Result<(), Failure> {
    let all: Vec<BlueprintStatus> = client_of(&args.connection)?.get("/v1/blueprints").await?;
    print::show(args.shown.output, &all, |all| {
        let mut table = Table::new(&["NAME", "VERSION", "INSTANCES", "RUNNING", "UPDATED", "STATE", "WHY"]);
        for status in all {
            table.row([
                status.name.to_string(),
                status.version.to_string(),
                status.instances.to_string(),
                status.running.to_string(),
                status.updated.to_string(),
                state_of(status).to_owned(),
                status.why.clone(),
            ]);
        }
        table.text()
    })
}

/// In a word, how a blueprint stands.
fn state_of(status: &BlueprintStatus) -> &'static str {
    match () {
        () if !status.unplaced.is_empty() => "unplaced",
        () if has_settled(status) => "steady",
        () if status.paused => "paused",
        () => "changing",
    }
}

async fn info(args: &OneArgs) -> Result<(), Failure> {
    let path = format!("/v1/blueprints/{}", args.name);
    let detail: BlueprintDetail = client_of(&args.connection)?.get(&path).await?;
    print::show(args.shown.output, &detail, |detail| {
        let status = &detail.status;
        let mut text = print::pairs(&[
            ("Name", status.name.to_string()),
            ("Version", format!("{} ({})", status.version, status.why)),
            ("State", state_of(status).to_owned()),
            ("Instances", status.instances.to_string()),
            ("Running", format!("{}, {} of them of this version", status.running, status.updated)),
        ]);
        if detail.exclusive {
            text.push_str(&print::pairs(&[(
                "Exclusive",
                "no instance ever runs twice at a time".to_owned(),
            )]));
        }
        let mut slots = Table::new(&["INSTANCE", "NODE", "STATE", "VERSION", "ORDER", "WHY"]);
        for slot in &detail.slots {
            let state = print::or_nothing(slot.state.clone(), |state| state);
            let version = print::or_nothing(slot.version, |version| version.to_string());
            let row = [
                slot.slot.to_string(),
                slot.node.to_string(),
                state,
                version,
                slot.epoch.clone(),
                slot.why.clone(),
            ];
            slots.row(row);
        }
        text.push_str(&format!("\n{}", slots.text()));
        for (slot, why) in &status.unplaced {
            text.push_str(&(print::visible(&format!("not placed: {slot}: {why}")) + "\n"));
        }
        let mut versions = Table::new(&["VERSION", "INSTANCES", "WHY"]);
        for version in &detail.versions {
            versions.row([version.version.to_string(), version.instances.to_string(), version.why.clone()]);
        }
        text + "\n" + &versions.text()
    })
}

/// `shoal agent scale`.
pub(super) async fn scale(args: &ScaleArgs) -> Result<(), Failure> {
    let path = format!("/v1/blueprints/{}/scale", args.name);
    let body = Scale { instances: args.instances };
    changed(&args.connection, args.shown, &path, &body).await
}

/// `shoal agent rollback`.
pub(super) async fn roll_back(args: &RollBackArgs) -> Result<(), Failure> {
    let path = format!("/v1/blueprints/{}/rollback", args.one.name);
    changed(&args.one.connection, args.one.shown, &path, &RollBack { version: args.to_version }).await
}

/// `shoal agent rollout`.
pub(super) async fn rollout(command: RolloutCommand) -> Result<(), Failure> {
    match command {
        RolloutCommand::Status(args) => rollout_status(&args).await,
        RolloutCommand::Pause(args) => pause(&args, true).await,
        RolloutCommand::Resume(args) => pause(&args, false).await,
    }
}

async fn pause(args: &OneArgs, paused: bool) -> Result<(), Failure> {
    let path = format!("/v1/blueprints/{}/pause", args.name);
    changed(&args.connection, args.shown, &path, &Pause { paused }).await
}

async fn rollout_status(args: &OneArgs) -> Result<(), Failure> {
    let path = format!("/v1/blueprints/{}/rollout", args.name);
    let rollout: Rollout = client_of(&args.connection)?.get(&path).await?;
    print::show(args.shown.output, &rollout, |Rollout { status, canary, beside }| {
        let (name, version, updated, placed) = (&status.name, status.version, status.updated, status.placed);
        let line =
            format!("{name}: {updated} of {placed} instances run version {version}: {}\n", state_of(status));
        let beside = beside.as_ref().map(standby_lines).unwrap_or_default();
        line + &canary.as_ref().map(canary_lines).unwrap_or_default() + &beside
    })?;
    let Rollout { status, canary, beside } = rollout;
    match has_settled(&status) && canary.is_none() && beside.is_none() {
        true => Ok(()),
        false => Err(Failure::Refused(format!(
            "version {} of {} is not everywhere yet",
            status.version, status.name
        ))),
    }
}

fn standby_lines(standby: &StandbyStatus) -> String {
    let StandbyStatus { stage, wanted, steady, waits_for } = standby;
    let takes = match stage {
        Beside::Waits => "takes no messages yet",
        Beside::Serves => "takes all messages",
    };
    let waits_for = print::visible(waits_for);
    format!(
        "beside the version before: {steady} of {wanted} instances are steady; it {takes}\nwaits for: {waits_for}\n"
    )
}

fn canary_lines(canary: &CanaryStatus) -> String {
    let CanaryStatus { step, steps, percent, share, updated, worked, failed, waits_for, .. } = canary;
    let since = canary.began_ms.map(|ms| format!(", since {} s", ms / 1000)).unwrap_or_default();
    let waits_for = print::visible(waits_for);
    format!(
        "canary: step {step} of {steps}, {percent} %: {updated} of {share} instances{since}\n\
         messages: {} since the step began, {failed} failed\nwaits for: {waits_for}\n",
        worked.saturating_add(*failed)
    )
}

/// `shoal cluster drain` and `undrain`.
pub(super) async fn drain(args: &DrainArgs, drained: bool) -> Result<(), Failure> {
    let body = Drain { node: args.node.clone(), drained };
    let client = client_of(&args.connection)?;
    let done: Planned = client.post("/v1/cluster/drain", &body, ANSWER_DEADLINE).await?;
    print::show(args.shown.output, &done, |_| match drained {
        true => format!("{} is drained: what it has by a blueprint goes to other nodes\n", args.node),
        false => format!("{} takes instances again\n", args.node),
    })
}

/// `shoal cluster rebalance`.
pub(super) async fn rebalance(args: &RebalanceArgs) -> Result<(), Failure> {
    let RebalanceStrategy::EvenDistribution = args.strategy;
    let body = Rebalance { max_moves: args.max_moves, dry_run: args.dry_run };
    let client = client_of(&args.connection)?;
    let planned: Planned = client.post("/v1/cluster/rebalance", &body, ANSWER_DEADLINE).await?;
    let what = if args.dry_run { "would be done" } else { "is being done" };
    print::show(args.shown.output, &planned, |planned| text_of(planned, what))
}

async fn changed(
    connection: &Connection,
    shown: Shown,
    path: &str,
    body: &impl serde::Serialize,
) -> Result<(), Failure> {
    let planned: Planned = client_of(connection)?.post(path, body, ANSWER_DEADLINE).await?;
    print::show(shown.output, &planned, |planned| {
        let line = |change: &crate::api::types::BlueprintChange| {
            let version = print::or_nothing(change.to_version, |version| version.to_string());
            format!("blueprint {}: version {version}\n", change.name)
        };
        planned.blueprints.iter().map(line).collect()
    })
}
