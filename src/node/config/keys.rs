//! The keys of a configuration file: which there are, which of them takes what, and what to say of any
//! other. This table is the only list of them.
//!
//! Walking a file against the table leaves its values as text under their full keys; what the text
//! means is not decided here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::{Origin, Problems, quoted};
use super::expand::expand;
use super::recovery;
use super::yaml::{self, Node, Value};
use crate::core::limits;

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Further keys; none is fine.
    Section,
    /// One value.
    One,
    /// One value, or `null` for none.
    OneOrNull,
    /// A list, or one text with commas, of at most so many items; none is fine.
    List(usize),
    /// Names of the user's choice with one value each; none is fine.
    Labels,
    /// A list of regions, each with its name and its nodes; none is fine.
    Regions,
    /// A list of decisions, each with its condition and its action; none is fine.
    Decisions,
    /// A list of at most so many entries, each with keys of its own; none is fine.
    Entries(usize),
}

/// Every key that is honoured.
pub(super) const KEYS: &[(&str, Shape)] = &[
    ("node", Shape::Section),
    ("node.id", Shape::One),
    ("node.data_dir", Shape::One),
    ("node.agents_dir", Shape::One),
    ("node.region", Shape::One),
    ("node.zone", Shape::One),
    ("node.labels", Shape::Labels),
    ("node.roles", Shape::List(limits::ROLES_MAX)),
    ("coordination", Shape::Section),
    ("coordination.cluster", Shape::Section),
    ("coordination.cluster.bind_addr", Shape::One),
    ("coordination.cluster.advertise_addr", Shape::List(limits::ADDRESSES_MAX)),
    ("coordination.cluster.seeds", Shape::List(limits::SEEDS_MAX)),
    ("coordination.cluster.discover", Shape::List(limits::DISCOVERIES_MAX)),
    ("coordination.cluster.profile", Shape::One),
    ("coordination.cluster.gossip_interval", Shape::One),
    ("coordination.cluster.gossip_fanout", Shape::One),
    ("coordination.cluster.probe_interval", Shape::One),
    ("coordination.cluster.probe_timeout", Shape::One),
    ("coordination.cluster.suspicion_min", Shape::One),
    ("coordination.cluster.suspicion_max", Shape::One),
    ("coordination.cluster.regions", Shape::Regions),
    ("coordination.cluster.cross_region", Shape::Section),
    ("coordination.cluster.cross_region.latency_aware_routing", Shape::One),
    ("coordination.cluster.cross_region.prefer_local_region", Shape::One),
    ("coordination.cluster.cross_region.max_cross_region_latency", Shape::OneOrNull),
    ("coordination.partition", Shape::Section),
    ("coordination.partition.strategy", Shape::One),
    ("coordination.partition.detection_timeout", Shape::One),
    ("coordination.partition.quorum_size", Shape::One),
    ("coordination.partition.tie_breaker", Shape::OneOrNull),
    ("coordination.partition.max_offline", Shape::One),
    ("coordination.partition.degraded_mode", Shape::One),
    ("coordination.partition.queue_writes", Shape::One),
    ("coordination.partition.custom_handler", Shape::OneOrNull),
    ("coordination.partition.decisions", Shape::Decisions),
    ("coordination.state", Shape::Section),
    ("coordination.state.custom_policy", Shape::OneOrNull),
    ("security", Shape::Section),
    ("security.cluster", Shape::Section),
    ("security.cluster.mtls", Shape::Section),
    ("security.cluster.mtls.enabled", Shape::One),
    ("security.cluster.mtls.verify_peer", Shape::One),
    ("security.cluster.mtls.ca_cert", Shape::One),
    ("security.cluster.mtls.node_cert", Shape::One),
    ("security.cluster.mtls.node_key", Shape::One),
    ("security.cluster.mtls.crl", Shape::OneOrNull),
    ("security.cluster.enrolment", Shape::Section),
    ("security.cluster.enrolment.ca_dir", Shape::OneOrNull),
    ("security.cluster.enrolment.token_file", Shape::OneOrNull),
    ("transport", Shape::Section),
    ("transport.type", Shape::One),
    ("transport.congestion_control", Shape::One),
    ("transport.max_streams", Shape::One),
    ("api", Shape::Section),
    ("api.bind_addr", Shape::One),
    ("api.metrics_addr", Shape::OneOrNull),
    ("api.token_file", Shape::OneOrNull),
    ("recovery", Shape::Section),
    (recovery::RULES, Shape::Entries(limits::RECOVERY_RULES_MAX)),
    ("alerts", Shape::Section),
    (recovery::WEBHOOKS, Shape::Entries(limits::WEBHOOKS_MAX)),
    ("log", Shape::Section),
    ("log.level", Shape::One),
    ("log.format", Shape::One),
];

/// Keys that belong to the design and that this version does not honour: refused by name, because a
/// key that is accepted and does nothing misleads.
const NOT_OFFERED: &[&str] = &["agents"];

/// A section that may also stand at the top of a file, under its last name.
const ALSO_AT_TOP: (&str, &str) = ("partition", "coordination.partition");

/// A value of the file, as text with its variables expanded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileValue {
    /// It was reported already.
    Bad,
    /// `null`, where that is allowed.
    Null,
    /// One value.
    One(Item),
    /// A list, or one text that is to be parted at its commas.
    List(Vec<Item>),
    /// Names and values.
    Labels(Vec<(String, Item)>),
    /// The line of the list, and its regions.
    Regions(usize, Vec<FileRegion>),
    /// The line of the list, and its decisions.
    Decisions(usize, Vec<FileDecision>),
    /// The entries of a list, with their variables expanded.
    Entries(Vec<Node>),
}

/// One decision of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileDecision {
    pub(super) condition: Item,
    pub(super) action: Item,
}

/// One region of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileRegion {
    pub(super) name: Item,
    pub(super) nodes: Vec<Item>,
}

/// One text and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) line: usize,
    /// The full key, with an index where it is in a list.
    pub(super) key: String,
    /// `None`: it was reported already.
    pub(super) text: Option<String>,
}

/// What a file says, by full key.
pub(super) type FileValues = BTreeMap<&'static str, FileValue>;

/// Walks a file against the table; whatever does not fit is reported.
pub(super) fn read(
    top: &Node,
    path: &Arc<str>,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Problems,
) -> FileValues {
    let mut walk = Walk { path, env, problems, values: FileValues::new(), at_top: false };
    walk.section("", top);
    walk.values
}

struct Walk<'a> {
    path: &'a Arc<str>,
    env: &'a dyn Fn(&str) -> Option<String>,
    problems: &'a mut Problems,
    values: FileValues,
    /// The section that may stand at the top was met.
    at_top: bool,
}

impl Walk<'_> {
    /// Recurses only into sections of the table, so no deeper than the table is.
    fn section(&mut self, path: &str, node: &Node) {
        let entries = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => return,
            Value::Bad => return self.spoil(path),
            Value::Text { .. } | Value::List(_) => {
                self.problem(node.line, path, "keys and values are expected here, indented below it");
                return self.spoil(path);
            }
        };
        for (key, child) in entries {
            let mut full = yaml::joined(path, key);
            if full == ALSO_AT_TOP.0 || full == ALSO_AT_TOP.1 {
                if std::mem::replace(&mut self.at_top, true) {
                    let message = format!("{} and {} are the same: keep one", ALSO_AT_TOP.0, ALSO_AT_TOP.1);
                    self.problem(child.line, &full, &message);
                    continue;
                }
                ALSO_AT_TOP.1.clone_into(&mut full);
            }
            match KEYS.iter().find(|(known, _)| *known == full && !key.contains('.')) {
                Some((_, Shape::Section)) => self.section(&full, child),
                Some((known, shape)) => {
                    let value = self.value(known, *shape, child);
                    self.values.insert(known, value);
                }
                None if NOT_OFFERED.contains(&full.as_str()) => {
                    self.problem(child.line, &full, "this is not offered by this version: remove it");
                }
                None => {
                    let message = format!("there is no such key{}", suggestion(path, key));
                    self.problem(child.line, &full, &message);
                }
            }
        }
    }

    /// Takes every key of a section for given and bad, so that none is reported as missing on top.
    fn spoil(&mut self, path: &str) {
        let is_below =
            |key: &str| path.is_empty() || key.strip_prefix(path).is_some_and(|k| k.starts_with('.'));
        let keys = KEYS.iter().filter(|(key, shape)| *shape != Shape::Section && is_below(key));
        self.values.extend(keys.map(|(key, _)| (*key, FileValue::Bad)));
    }

    fn value(&mut self, key: &str, shape: Shape, node: &Node) -> FileValue {
        match shape {
            Shape::Section => FileValue::Bad,
            Shape::One => FileValue::One(self.item(key.to_owned(), node.line, node)),
            Shape::OneOrNull => match self.item_or_null(key.to_owned(), node.line, node) {
                None => FileValue::Null,
                Some(item) => FileValue::One(item),
            },
            Shape::List(items_max) => self.list(key, items_max, node),
            Shape::Labels => self.labels(key, node),
            Shape::Regions => self.regions(key, node),
            Shape::Decisions => self.decisions(key, node),
            Shape::Entries(items_max) => self.entries(key, items_max, node),
        }
    }

    fn list(&mut self, key: &str, items_max: usize, node: &Node) -> FileValue {
        let nodes = match &node.value {
            Value::Null => return FileValue::List(Vec::new()),
            Value::List(nodes) => nodes,
            Value::Text { .. } | Value::Map(_) | Value::Bad => return self.comma_list(key, items_max, node),
        };
        if nodes.len() > items_max {
            self.problem(node.line, key, &format!("the list has {} items, at most {items_max}", nodes.len()));
            return FileValue::Bad;
        }
        let item = |(index, node): (usize, &Node)| self.item(format!("{key}[{index}]"), node.line, node);
        FileValue::List(nodes.iter().enumerate().map(item).collect())
    }

    fn entries(&mut self, key: &str, items_max: usize, node: &Node) -> FileValue {
        let nodes = match &node.value {
            Value::Null => return FileValue::Entries(Vec::new()),
            Value::List(nodes) => nodes,
            Value::Bad => return FileValue::Bad,
            Value::Text { .. } | Value::Map(_) => {
                self.problem(node.line, key, "a list is expected here, each item with its keys");
                return FileValue::Bad;
            }
        };
        if nodes.len() > items_max {
            self.problem(node.line, key, &format!("the list has {} items, at most {items_max}", nodes.len()));
            return FileValue::Bad;
        }
        let env = self.env;
        let mut entries = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            let at = format!("{key}[{index}]");
            let mut report = |line, why: String| self.problem(line, &at, &why);
            entries.push(recovery::expanded(node, &|text| expand(text, env), &mut report));
        }
        FileValue::Entries(entries)
    }

    fn comma_list(&mut self, key: &str, items_max: usize, node: &Node) -> FileValue {
        let Some(item) = self.item_or_null(key.to_owned(), node.line, node) else {
            return FileValue::List(Vec::new());
        };
        let Some(text) = item.text else {
            return FileValue::Bad;
        };
        let count = text.split(',').count();
        if count > items_max {
            self.problem(node.line, key, &format!("the list has {count} items, at most {items_max}"));
            return FileValue::Bad;
        }
        let part =
            |part: &str| Item { line: node.line, key: key.to_owned(), text: Some(part.trim().to_owned()) };
        FileValue::List(text.split(',').map(part).collect())
    }

    fn labels(&mut self, key: &str, node: &Node) -> FileValue {
        let entries = match &node.value {
            Value::Null => return FileValue::Labels(Vec::new()),
            Value::Map(entries) => entries,
            Value::Bad => return FileValue::Bad,
            Value::Text { .. } | Value::List(_) => {
                self.problem(node.line, key, "names and values are expected here, as in {gpu: \"no\"}");
                return FileValue::Bad;
            }
        };
        if entries.len() > limits::LABELS_MAX {
            let message = format!("{} labels are given, at most {}", entries.len(), limits::LABELS_MAX);
            self.problem(node.line, key, &message);
            return FileValue::Bad;
        }
        let label = |(name, node): (&String, &Node)| {
            (name.clone(), self.item(yaml::joined(key, name), node.line, node))
        };
        FileValue::Labels(entries.iter().map(label).collect())
    }

    fn regions(&mut self, key: &str, node: &Node) -> FileValue {
        let nodes = match &node.value {
            Value::Null => return FileValue::Regions(node.line, Vec::new()),
            Value::List(nodes) => nodes,
            Value::Bad => return FileValue::Bad,
            Value::Text { .. } | Value::Map(_) => {
                self.problem(
                    node.line,
                    key,
                    "a list is expected here, as in [{name: us-east, nodes: [node-1]}]",
                );
                return FileValue::Bad;
            }
        };
        if nodes.len() > limits::REGIONS_MAX {
            let message = format!("the list has {} regions, at most {}", nodes.len(), limits::REGIONS_MAX);
            self.problem(node.line, key, &message);
            return FileValue::Bad;
        }
        let region = |(index, node): (usize, &Node)| self.region(&format!("{key}[{index}]"), node);
        let regions: Vec<_> = nodes.iter().enumerate().map(region).collect();
        let regions: Option<Vec<_>> = regions.into_iter().collect();
        regions.map_or(FileValue::Bad, |regions| FileValue::Regions(node.line, regions))
    }

    /// One region of the list; `None` when it has not the two keys that it must have, and no others.
    fn region(&mut self, key: &str, node: &Node) -> Option<FileRegion> {
        let Value::Map(entries) = &node.value else {
            if !matches!(node.value, Value::Bad) {
                self.problem(
                    node.line,
                    key,
                    "a region has a name and nodes, as in {name: us-east, nodes: [node-1]}",
                );
            }
            return None;
        };
        let (mut name, mut nodes) = (None, None);
        for (entry, child) in entries {
            let full = yaml::joined(key, entry);
            match entry.as_str() {
                "name" => name = Some(self.item(full, child.line, child)),
                "nodes" => nodes = Some(self.list(&full, limits::REGION_NODES_MAX, child)),
                _ => self.problem(child.line, &full, "there is no such key; a region has name, nodes"),
            }
        }
        if entries.keys().any(|entry| !matches!(entry.as_str(), "name" | "nodes")) {
            return None;
        }
        match (name, nodes) {
            (Some(name), Some(FileValue::List(nodes))) if !nodes.is_empty() => {
                Some(FileRegion { name, nodes })
            }
            (_, Some(FileValue::Bad)) => None,
            (None, _) => {
                self.problem(node.line, key, "the region has no name");
                None
            }
            (Some(_), _) => {
                self.problem(node.line, key, "the region names no nodes");
                None
            }
        }
    }

    fn decisions(&mut self, key: &str, node: &Node) -> FileValue {
        const EXAMPLE: &str = "{condition: nodes < quorum, action: read-only}";
        let nodes = match &node.value {
            Value::Null => return FileValue::Decisions(node.line, Vec::new()),
            Value::List(nodes) => nodes,
            Value::Bad => return FileValue::Bad,
            Value::Text { .. } | Value::Map(_) => {
                self.problem(node.line, key, &format!("a list is expected here, as in [{EXAMPLE}]"));
                return FileValue::Bad;
            }
        };
        if nodes.len() > limits::DECISIONS_MAX {
            let message = format!("the list has {} items, at most {}", nodes.len(), limits::DECISIONS_MAX);
            self.problem(node.line, key, &message);
            return FileValue::Bad;
        }
        let mut decisions = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let key = format!("{key}[{index}]");
            let pair = match &node.value {
                Value::Map(entries) if entries.len() == 2 => {
                    entries.get("condition").zip(entries.get("action"))
                }
                Value::Map(_) | Value::Null | Value::List(_) | Value::Text { .. } => None,
                Value::Bad => return FileValue::Bad,
            };
            let Some((condition, action)) = pair else {
                self.problem(
                    node.line,
                    &key,
                    &format!("a decision has a condition and an action, as in {EXAMPLE}"),
                );
                return FileValue::Bad;
            };
            let condition = self.item(yaml::joined(&key, "condition"), condition.line, condition);
            let action = self.item(yaml::joined(&key, "action"), action.line, action);
            decisions.push(FileDecision { condition, action });
        }
        FileValue::Decisions(node.line, decisions)
    }

    /// One value where there must be one.
    fn item(&mut self, key: String, line: usize, node: &Node) -> Item {
        match self.item_or_null(key.clone(), line, node) {
            Some(item) => item,
            None => {
                self.problem(line, &key, "it has no value: give one, or remove the key");
                Item { line, key, text: None }
            }
        }
    }

    /// One value, or `None` for `null` and for variables that expand to nothing.
    fn item_or_null(&mut self, key: String, line: usize, node: &Node) -> Option<Item> {
        let (text, plain) = match &node.value {
            Value::Null => return None,
            Value::Text { text, plain } => (text, *plain),
            Value::Bad => return Some(Item { line, key, text: None }),
            Value::List(_) | Value::Map(_) => {
                self.problem(line, &key, "one value is expected here, not a list or further keys");
                return Some(Item { line, key, text: None });
            }
        };
        match expand(text, self.env) {
            Ok(text) if plain && text.is_empty() => None,
            Ok(text) => Some(Item { line, key, text: Some(text) }),
            Err(why) => {
                self.problem(line, &key, &why);
                Some(Item { line, key, text: None })
            }
        }
    }

    fn problem(&mut self, line: usize, key: &str, message: &str) {
        let origin = Origin::File { path: Arc::clone(self.path), line: Some(line) };
        self.problems.add(origin, key, message);
    }
}

/// What the writer of an unknown key may have meant: a similar key in the same section, or the same
/// key in another one.
fn suggestion(path: &str, key: &str) -> String {
    if key == "bootstrap" {
        return ": a mesh is founded with the flag --bootstrap, once, and not by a file that outlives it"
            .into();
    }
    if path.is_empty() && KEYS.iter().any(|(known, _)| *known == key) {
        return ": write it in its section, indented, and not with dots".into();
    }
    let siblings = KEYS.iter().map(|(known, _)| *known).filter_map(|known| {
        let (parent, last) = known.rsplit_once('.').unwrap_or(("", known));
        (parent == path).then_some(last)
    });
    if let Some(near) = nearest(key, siblings.clone()) {
        return format!(": did you mean {near}?");
    }
    let elsewhere: Vec<&str> = KEYS
        .iter()
        .map(|(known, _)| *known)
        .filter(|known| known.rsplit_once('.').is_some_and(|(_, last)| last == key))
        .collect();
    if !elsewhere.is_empty() {
        return format!(": did you mean {}?", elsewhere.join(" or "));
    }
    let here = if path.is_empty() { "the file" } else { path };
    format!("; {here} has {}", siblings.collect::<Vec<_>>().join(", "))
}

/// The candidate that differs from `word` by a slip or two, if there is one.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const WORD_BYTES_MAX: usize = 64;
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase();
    candidates
        .map(|candidate| (strsim::osa_distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 2.min(candidate.len() / 2))
        .min()
        .map(|(_, candidate)| candidate)
}

/// "text is not one of a, b; did you mean b?"
pub(super) fn not_one_of(text: &str, choices: &[&str]) -> String {
    let near = nearest(text, choices.iter().copied());
    let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    format!("{} is not one of {}{hint}", quoted(text), choices.join(", "))
}
