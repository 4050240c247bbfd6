//! Blueprints in a YAML file, for `shoal plan` and `shoal apply`: agents as their manifests describe them, and beside that how
//! many there are, where, how they are updated, and what they do while their node is cut off.
//!
//! A file has one blueprint, as a manifest with more keys, or a list of them under `blueprints`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::{ConfigErrors, Origin, Problems};
use super::load::read_file;
use super::manifest::{Manifest, items, parsed, text};
use super::values;
use super::yaml::{self, Node, Value};
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::{
    Canary, Domain, Instances, OnCut, Placement, PlacementStrategy, Update, UpdateStrategy, Weight,
};

/// A blueprint as its file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlueprintManifest {
    /// What each instance is.
    pub agent: Manifest,
    /// How many there are.
    pub instances: Instances,
    /// Where they are.
    pub placement: Placement,
    /// How another version takes their place.
    pub update: Update,
    /// What they do while their node is among a minority.
    pub on_cut: OnCut,
    /// Whether an instance must never run twice at a time.
    pub exclusive: bool,
}

const LIST: &str = "blueprints";
const KEYS: [&str; 5] = ["instances", "placement", "update", "on_cut", "exclusive"];
const PLACEMENT_KEYS: [&str; 9] =
    ["strategy", "prefer", "require", "near", "apart_from", "spread_over", "rebalance", "priority", "weight"];
const UPDATE_KEYS: [&str; 9] = [
    "strategy",
    "max_parallel",
    "min_healthy",
    "deadline",
    "roll_back",
    "steps",
    "hold",
    "max_error_rate",
    "min_messages",
];
/// Of these those that are about a canary alone.
const CANARY_KEYS: [&str; 4] = ["steps", "hold", "max_error_rate", "min_messages"];
const UPDATE_STRATEGIES: [(&str, Strategy); 3] =
    [("rolling", Strategy::Rolling), ("canary", Strategy::Canary), ("blue-green", Strategy::BlueGreen)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Strategy {
    Rolling,
    Canary,
    BlueGreen,
}

/// The words for each strategy.
pub const STRATEGIES: [(&str, PlacementStrategy); 4] = [
    ("least-loaded", PlacementStrategy::LeastLoaded),
    ("spread", PlacementStrategy::Spread),
    ("binpack", PlacementStrategy::Binpack),
    ("round-robin", PlacementStrategy::RoundRobin),
];
const DOMAINS: [(&str, Domain); 2] = [("zone", Domain::Zone), ("region", Domain::Region)];
const YES_OR_NO: [(&str, bool); 2] = [("true", true), ("false", false)];
const ON_CUT: [(&str, OnCut); 3] =
    [("continue", OnCut::Continue), ("stop", OnCut::Stop), ("read-only", OnCut::ReadOnly)];

impl BlueprintManifest {
    /// Reads all blueprints of a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its line.
    pub fn read(path: &Path) -> Result<Vec<Self>, ConfigErrors> {
        let shown: Arc<str> = Arc::from(path.to_string_lossy());
        let text = read_file(path).map_err(|why| {
            let mut problems = Problems::default();
            problems.add(Origin::File { path: Arc::clone(&shown), line: None }, "", why);
            problems.into_errors()
        })?;
        let directory = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned));
        Self::parse(&text, &shown, directory.as_deref().unwrap_or(Path::new("/")))
    }

    /// Reads the text of a file whose paths are meant from `directory`.
    ///
    /// # Errors
    /// As [`BlueprintManifest::read`].
    pub fn parse(text: &str, shown: &Arc<str>, directory: &Path) -> Result<Vec<Self>, ConfigErrors> {
        let mut problems = Problems::default();
        let origin = |line| Origin::File { path: Arc::clone(shown), line: Some(line) };
        let top = yaml::parse(text, &mut |line, key, message| problems.add(origin(line), key, message));
        let Some(Node { value: Value::Map(mut entries), .. }) = top else {
            if top.is_some() {
                problems.add(
                    origin(1),
                    "",
                    "a file of blueprints has the key blueprints, or those of one blueprint",
                );
            }
            return Err(problems.into_errors());
        };
        let mut found = Vec::new();
        match entries.remove(LIST) {
            Some(list) => {
                for (key, node) in &entries {
                    problems.add(origin(node.line), key, "beside blueprints there is no other key");
                }
                read_list(list, shown, directory, &mut problems, &mut found);
            }
            None => found.extend(blueprint(entries, shown, directory, &mut problems)),
        }
        refuse_twice(&found, shown, &mut problems);
        problems.into_result().map(|()| found)
    }
}

fn read_list(
    list: Node,
    shown: &Arc<str>,
    directory: &Path,
    problems: &mut Problems,
    found: &mut Vec<BlueprintManifest>,
) {
    let mut report = |line, message: &str| {
        problems.add(Origin::File { path: Arc::clone(shown), line: Some(line) }, LIST, message);
    };
    let Value::List(nodes) = list.value else {
        return report(list.line, "a list is wanted here: one blueprint after the other, each after a '-'");
    };
    for node in nodes {
        match node.value {
            Value::Map(entries) => found.extend(blueprint(entries, shown, directory, problems)),
            Value::Bad => {}
            Value::Null | Value::Text { .. } | Value::List(_) => problems.add(
                Origin::File { path: Arc::clone(shown), line: Some(node.line) },
                LIST,
                "a blueprint is a list of keys and values, as in `name: web`",
            ),
        }
    }
}

fn refuse_twice(found: &[BlueprintManifest], shown: &Arc<str>, problems: &mut Problems) {
    let mut names = BTreeSet::new();
    for blueprint in found {
        if !names.insert(&blueprint.agent.name) {
            let message = format!("{} is there twice", blueprint.agent.name);
            problems.add(Origin::File { path: Arc::clone(shown), line: None }, "name", message);
        }
    }
}

fn blueprint(
    mut entries: BTreeMap<String, Node>,
    shown: &Arc<str>,
    directory: &Path,
    problems: &mut Problems,
) -> Option<BlueprintManifest> {
    let mut own: BTreeMap<_, _> = KEYS.iter().filter_map(|key| entries.remove_entry(*key)).collect();
    let agent = Manifest::of_entries(entries, &KEYS, shown, directory, problems);
    let mut take = |key: &str| own.remove(key);
    let mut report = |node: &Node, key: &str, message: String| {
        problems.add(Origin::File { path: Arc::clone(shown), line: Some(node.line) }, key, message);
    };
    let instances = read(take("instances"), "instances", instances, &mut report);
    let placement = read(take("placement"), "placement", placement, &mut report);
    let update = read(take("update"), "update", update, &mut report);
    let on_cut = read(take("on_cut"), "on_cut", |node| values::choice(text(node)?, &ON_CUT), &mut report);
    let exclusive =
        read(take("exclusive"), "exclusive", |node| values::choice(text(node)?, &YES_OR_NO), &mut report);
    Some(BlueprintManifest {
        agent: agent?,
        instances: instances.unwrap_or(Instances::Count(1)),
        placement: placement.unwrap_or_default(),
        update: update.unwrap_or_default(),
        on_cut: on_cut.unwrap_or_default(),
        exclusive: exclusive.unwrap_or_default(),
    })
}

fn read<T>(
    node: Option<Node>,
    key: &str,
    read: impl FnOnce(&Node) -> Result<T, String>,
    report: &mut dyn FnMut(&Node, &str, String),
) -> Option<T> {
    let node = node.filter(|node| !matches!(node.value, Value::Bad))?;
    read(&node).map_err(|message| report(&node, key, message)).ok()
}

fn instances(node: &Node) -> Result<Instances, String> {
    instances_of(text(node)?)
}

/// A number, or `per-node`.
///
/// # Errors
/// What it may be.
pub fn instances_of(word: &str) -> Result<Instances, String> {
    if word == "per-node" {
        return Ok(Instances::PerNode);
    }
    let count = word.parse::<u16>().ok().filter(|count| *count <= limits::INSTANCES_MAX);
    count.map(Instances::Count).ok_or_else(|| {
        format!("{word:?} is neither a number of instances, 0 to {}, nor per-node", limits::INSTANCES_MAX)
    })
}

/// The entries of a mapping that has these keys and no others.
fn entries<'a>(node: &'a Node, keys: &[&str]) -> Result<&'a BTreeMap<String, Node>, String> {
    let Value::Map(entries) = &node.value else {
        return Err(format!("it has the keys {}", keys.join(", ")));
    };
    match entries.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(unknown) => Err(format!("{} is none of {}", super::error::quoted(unknown), keys.join(", "))),
        None => Ok(entries),
    }
}

fn placement(node: &Node) -> Result<Placement, String> {
    let entries = entries(node, &PLACEMENT_KEYS)?;
    let names = |key: &str| -> Result<BTreeSet<AgentName>, String> {
        entries.get(key).map_or(Ok(&[][..]), items)?.iter().map(parsed).collect()
    };
    let prefer = entries.get("prefer").map_or(Ok(&[][..]), items)?.iter().map(parsed::<NodeId>);
    let number = |key: &str, least: u64, most: u16| -> Result<Option<u16>, String> {
        let read = |node| values::integer(text(node)?, least, u64::from(most));
        let number = entries.get(key).map(read).transpose().map_err(|why| format!("{key}: {why}"))?;
        Ok(number.and_then(|number| u16::try_from(number).ok()))
    };
    let priority = entries.get("priority").map(priority).transpose()?;
    Ok(Placement {
        strategy: chosen(entries, "strategy", &STRATEGIES)?.unwrap_or_default(),
        prefer: prefer.collect::<Result<_, _>>()?,
        require: entries.get("require").map_or(Ok(BTreeMap::new()), labels)?,
        near: names("near")?,
        apart_from: names("apart_from")?,
        spread_over: chosen(entries, "spread_over", &DOMAINS)?,
        rebalance: number("rebalance", 0, limits::REBALANCE_MOVES_MAX)?.unwrap_or(0),
        priority: priority.unwrap_or(0),
        weight: number("weight", 1, limits::WEIGHT_MAX)?.map(Weight).unwrap_or_default(),
    })
}

fn priority(node: &Node) -> Result<i16, String> {
    let (word, most) = (text(node)?, limits::PRIORITY_MAX);
    let priority = word.parse::<i16>().ok().filter(|priority| priority.unsigned_abs() <= most);
    priority.ok_or_else(|| {
        format!("priority: {} is not a number from -{most} to {most}", super::error::quoted(word))
    })
}

fn chosen<T: Copy>(
    entries: &BTreeMap<String, Node>,
    key: &str,
    words: &[(&str, T)],
) -> Result<Option<T>, String> {
    let word = entries.get(key).map(text).transpose()?;
    word.map(|word| values::choice(word, words)).transpose().map_err(|why| format!("{key}: {why}"))
}

fn labels(node: &Node) -> Result<BTreeMap<String, String>, String> {
    let Value::Map(entries) = &node.value else {
        return Err("require: labels and their values are wanted here, as in {gpu: yes}".to_owned());
    };
    entries.iter().map(|(label, value)| Ok((label.clone(), text(value)?.to_owned()))).collect()
}

fn update(node: &Node) -> Result<Update, String> {
    let entries = entries(node, &UPDATE_KEYS)?;
    let usual = Update::default();
    let span = |key: &str, usual: Duration| -> Result<Duration, String> {
        let word = entries.get(key).map(text).transpose()?;
        let span =
            word.map(|word| values::duration(word, Duration::ZERO, limits::UPDATE_DEADLINE_MAX)).transpose();
        span.map(|span| span.unwrap_or(usual)).map_err(|why| format!("{key}: {why}"))
    };
    let max = u64::from(limits::UPDATE_PARALLEL_MAX);
    let parallel = entries.get("max_parallel").map(|node| values::integer(text(node)?, 1, max)).transpose();
    let parallel = parallel.map_err(|why| format!("max_parallel: {why}"))?;
    let update = Update {
        max_parallel: parallel.and_then(|n| u16::try_from(n).ok()).unwrap_or(usual.max_parallel),
        min_healthy: span("min_healthy", usual.min_healthy)?,
        deadline: span("deadline", usual.deadline)?,
        roll_back: chosen(entries, "roll_back", &YES_OR_NO)?.unwrap_or(usual.roll_back),
        strategy: match chosen(entries, "strategy", &UPDATE_STRATEGIES)? {
            Some(Strategy::Canary) => UpdateStrategy::Canary(canary(entries, span)?),
            other => {
                if let Some(key) = CANARY_KEYS.iter().find(|key| entries.contains_key(**key)) {
                    return Err(format!("{key} is for `strategy: canary`"));
                }
                if other == Some(Strategy::BlueGreen) {
                    UpdateStrategy::BlueGreen
                } else {
                    UpdateStrategy::Rolling
                }
            }
        },
    };
    // What it is named by here stands before what is wrong.
    update.check().map_err(|why| why.strip_prefix("update.").unwrap_or(&why).to_owned())?;
    Ok(update)
}

fn canary(
    entries: &BTreeMap<String, Node>,
    span: impl Fn(&str, Duration) -> Result<Duration, String>,
) -> Result<Canary, String> {
    let usual = Canary::default();
    let percent = |node: &Node| {
        let word = text(node)?;
        word.strip_suffix('%')
            .unwrap_or(word)
            .parse::<u8>()
            .map_err(|_| format!("steps: {} is not a percentage, 1 to 100", super::error::quoted(word)))
    };
    let steps =
        entries.get("steps").map(|node| items(node).map_err(|why| format!("steps: {why}"))).transpose()?;
    let steps = steps.map(|steps| steps.iter().map(percent).collect::<Result<_, _>>()).transpose()?;
    let rate = entries.get("max_error_rate").map(|node| error_permille(text(node)?)).transpose();
    let most = u64::from(u32::MAX);
    let messages = entries.get("min_messages").map(|node| values::integer(text(node)?, 1, most)).transpose();
    let messages = messages.map_err(|why| format!("min_messages: {why}"))?;
    Ok(Canary {
        steps: steps.unwrap_or(usual.steps),
        hold: span("hold", usual.hold)?,
        error_permille_max: rate
            .map_err(|why| format!("max_error_rate: {why}"))?
            .unwrap_or(usual.error_permille_max),
        messages_min: messages.and_then(|n| u32::try_from(n).ok()).unwrap_or(usual.messages_min),
    })
}

/// `5%` or `0.5%`, as so many of a thousand.
fn error_permille(word: &str) -> Result<u16, String> {
    let bad = || format!("{} is not a rate: write it as 5% or 0.5%, up to 100%", super::error::quoted(word));
    let number = word.strip_suffix('%').ok_or_else(bad)?.trim();
    let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(tenth) || tenth.len() > 1 {
        return Err(bad());
    }
    let of = |part: &str| part.parse::<u16>().map_err(|_| bad());
    let permille = of(whole)? * 10 + of(tenth)?;
    if permille > 1000 { Err(bad()) } else { Ok(permille) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<BlueprintManifest>, String> {
        let shown = Arc::from("mesh.yaml");
        BlueprintManifest::parse(text, &shown, Path::new("/agents")).map_err(|errors| errors.to_string())
    }

    #[test]
    fn every_key_is_read() {
        let text = "blueprints:\n- name: web\n  source: ./web.py\n  kind: http\n  instances: 5\n  on_cut: stop\n  \
                    placement:\n    strategy: spread\n    prefer: [node-1]\n    require: {gpu: a100, zone: b}\n    \
                    near: [db]\n    apart_from: [web]\n    spread_over: zone\n    rebalance: 2\n    priority: -3\n    weight: 4\n  update:\n    max_parallel: 2\n    \
                    min_healthy: 5s\n    deadline: 90s\n    roll_back: false\n- name: log\n  source: echo\n  \
                    instances: per-node\n";
        let found = read(text).expect("good");
        let web = &found[0];
        assert_eq!(
            (web.agent.name.as_str(), web.instances, web.on_cut),
            ("web", Instances::Count(5), OnCut::Stop)
        );
        let placement = &web.placement;
        assert_eq!(
            (placement.strategy, placement.spread_over),
            (PlacementStrategy::Spread, Some(Domain::Zone))
        );
        assert_eq!(placement.require.get("gpu").map(String::as_str), Some("a100"));
        assert_eq!((placement.rebalance, placement.priority, placement.weight), (2, -3, Weight(4)));
        assert_eq!((placement.prefer.len(), placement.near.len(), placement.apart_from.len()), (1, 1, 1));
        let update = Update {
            max_parallel: 2,
            min_healthy: Duration::from_secs(5),
            deadline: Duration::from_secs(90),
            roll_back: false,
            strategy: UpdateStrategy::Rolling,
        };
        assert_eq!(web.update, update);
        assert_eq!(found[1].instances, Instances::PerNode);
    }

    #[test]
    fn a_canary_is_read_and_what_is_wrong_with_one_is_told() {
        let of = |update: &str| read(&format!("name: w\nsource: echo\nupdate: {{{update}}}\n"));
        let found =
            of("strategy: canary, steps: [5, 25%, 100], hold: 1m, max_error_rate: 0.5%, min_messages: 7");
        let canary = Canary {
            steps: vec![5, 25, 100],
            hold: Duration::from_secs(60),
            error_permille_max: 5,
            messages_min: 7,
        };
        assert_eq!(found.expect("good")[0].update.strategy, UpdateStrategy::Canary(canary));
        let beside = of("strategy: blue-green, deadline: 2m").expect("good");
        assert_eq!(beside[0].update.strategy, UpdateStrategy::BlueGreen);
        let plain = of("strategy: canary").expect("good");
        assert_eq!(plain[0].update.strategy, UpdateStrategy::Canary(Canary::default()));
        for (text, wanted) in [
            ("strategy: green-blue", "update: strategy: \"green-blue\" is not one of"),
            ("strategy: blue-green, steps: [5]", "update: steps is for `strategy: canary`"),
            ("steps: [5]", "update: steps is for `strategy: canary`"),
            ("strategy: rolling, hold: 30s", "update: hold is for `strategy: canary`"),
            ("strategy: canary, stops: [5]", "update: \"stops\" is none of strategy, max_parallel"),
            ("strategy: canary, steps: []", "update: steps has 1 to 20 steps"),
            ("strategy: canary, steps: [25, 5]", "update: steps grow from one to the next, and 5 follows 25"),
            (
                "strategy: canary, steps: [50, 150]",
                "update: steps are percentages, 1 to 100, and 150 is none",
            ),
            ("strategy: canary, steps: [many]", "update: steps: \"many\" is not a percentage"),
            ("strategy: canary, hold: 1s", "update: hold is 10 s to a day"),
            ("strategy: canary, max_error_rate: 5", "update: max_error_rate: \"5\" is not a rate"),
            ("strategy: canary, max_error_rate: 101%", "update: max_error_rate: \"101%\" is not a rate"),
            ("strategy: canary, max_error_rate: 0.55%", "update: max_error_rate: \"0.55%\" is not a rate"),
            ("strategy: canary, min_messages: 0", "update: min_messages:"),
        ] {
            let errors = of(text).expect_err(text);
            assert!(errors.contains(wanted), "{text:?}: {errors}");
        }
    }

    #[test]
    fn the_example_is_good() {
        let found = read(include_str!("../../../examples/mesh.yaml")).expect("good");
        let names: Vec<_> = found.iter().map(|blueprint| blueprint.agent.name.as_str()).collect();
        assert_eq!(names, ["gateway", "orders", "stock"]);
    }

    #[test]
    fn a_manifest_is_a_blueprint_of_one_instance() {
        let found = read("name: web\nsource: echo\n").expect("good");
        assert_eq!((found.len(), found[0].instances), (1, Instances::Count(1)));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_all_at_once() {
        for (text, wanted) in [
            ("blueprints: web\n", "mesh.yaml:1: blueprints: a list is wanted here"),
            ("blueprints:\n- web\n", "mesh.yaml:2: blueprints: a blueprint is a list of keys"),
            ("blueprints: []\nname: x\n", "mesh.yaml:2: name: beside blueprints there is no other key"),
            (
                "name: w\nsource: echo\ninstances: many\n",
                "mesh.yaml:3: instances: \"many\" is neither a number",
            ),
            ("name: w\nsource: echo\ninstances: -1\n", "mesh.yaml:3: instances: \"-1\" is neither a number"),
            (
                "name: w\nsource: echo\nplacement: {stratgy: x}\n",
                "mesh.yaml:3: placement: \"stratgy\" is none of",
            ),
            (
                "name: w\nsource: echo\nplacement: {strategy: x}\n",
                "mesh.yaml:3: placement: strategy: \"x\" is not one of",
            ),
            ("name: w\nsource: echo\nplacement: {rebalance: -1}\n", "mesh.yaml:3: placement: rebalance:"),
            ("name: w\nsource: echo\nplacement: {weight: 0}\n", "mesh.yaml:3: placement: weight:"),
            (
                "name: w\nsource: echo\nplacement: {priority: 1001}\n",
                "mesh.yaml:3: placement: priority: \"1001\" is not a number from -1000 to 1000",
            ),
            ("name: w\nsource: echo\nplacement: {rebalance: 513}\n", "mesh.yaml:3: placement: rebalance:"),
            ("name: w\nsource: echo\nupdate: {deadline: soon}\n", "mesh.yaml:3: update: deadline:"),
            ("name: w\nsource: echo\nupdate: {max_parallel: 0}\n", "mesh.yaml:3: update: max_parallel:"),
            ("name: w\nsource: echo\non_cut: readonly\n", "mesh.yaml:3: on_cut: \"readonly\" is not one of"),
            ("name: w\nsource: echo\nreplicas: 3\n", "mesh.yaml:3: replicas: there is no such key"),
            (
                "blueprints:\n- {name: w, source: echo}\n- {name: w, source: echo}\n",
                "mesh.yaml: name: w is there twice",
            ),
        ] {
            let errors = read(text).expect_err(text);
            assert!(errors.contains(wanted), "{text:?}: {errors}");
        }
        let errors =
            read("blueprints:\n- {nmae: a}\n- {name: b, source: echo, instances: x}\n").expect_err("bad");
        assert_eq!(errors.lines().count(), 4, "{errors}");
    }
}
