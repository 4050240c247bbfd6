//! Manifests: one agent in a YAML file, `agent.yaml`, for `shoal deploy --file` and for a node's `--agents-dir`.
//!
//! Every key is read on its own and every error is told with its line, as in a node's configuration. Paths are meant from
//! the manifest's directory. Keys that an agent of the kind does not take are errors, not passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::care;
use super::error::{ConfigErrors, Origin, Problems};
use super::keys::nearest;
use super::load::read_file;
use super::tools;
use super::values;
use super::yaml::{self, Node, Value};
use crate::core::ids::{AgentName, Tag};
use crate::core::limits;
use crate::core::model::{
    Balance, Care, Confinement, Grants, InstanceLife, Launch, Offer, ProcessProtocol, Target, Tool,
};

/// An agent as its manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its name.
    pub name: AgentName,
    /// What it is made of.
    pub source: ManifestSource,
    /// What it offers.
    pub offer: Offer,
    /// What it can be asked to do.
    pub tools: Vec<Tool>,
    /// How it is looked after.
    pub care: Care,
    /// When it is started.
    pub launch: Launch,
    /// What its processes may use.
    pub limits: Confinement,
}

/// What an agent is made of, on the machine of its manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestSource {
    /// Built into the binary.
    Native {
        /// Which one: `echo`.
        builtin: String,
    },
    /// An executable.
    Process {
        /// How it is spoken to.
        protocol: ProcessProtocol,
        /// Absolute path, or a name to be looked up in the node's `PATH`.
        command: String,
        /// Its arguments.
        args: Vec<String>,
    },
    /// A WebAssembly component.
    Wasm {
        /// Absolute path of its file.
        file: PathBuf,
        /// How long an instance lives.
        instance: InstanceLife,
        /// What it may reach.
        grants: Grants,
        /// Bytes of memory of an instance.
        memory_bytes: u64,
        /// Fuel for one message.
        fuel: u64,
    },
}

const KEYS: [&str; 20] = [
    "name",
    "kind",
    "source",
    "args",
    "capabilities",
    "topics",
    "balance",
    "tools",
    "instance",
    "memory_bytes",
    "fuel",
    "grants",
    "health",
    "restart",
    "breaker",
    "phase",
    "depends_on",
    "optional",
    "start_timeout",
    "limits",
];
const WASM_KEYS: [&str; 4] = ["instance", "memory_bytes", "fuel", "grants"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Native,
    Process(ProcessProtocol),
    Wasm,
}

const KINDS: [(&str, Kind); 4] = [
    ("stdio", Kind::Process(ProcessProtocol::Stdio)),
    ("http", Kind::Process(ProcessProtocol::Http)),
    ("wasm", Kind::Wasm),
    ("native", Kind::Native),
];
const BALANCES: [(&str, Balance); 3] = [
    ("round-robin", Balance::RoundRobin),
    ("least-inflight", Balance::LeastInflight),
    ("key-hash", Balance::KeyHash),
];
const LIVES: [(&str, InstanceLife); 2] =
    [("long-lived", InstanceLife::LongLived), ("per-message", InstanceLife::PerMessage)];

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its line.
    pub fn read(path: &Path) -> Result<Self, ConfigErrors> {
        let shown: Arc<str> = Arc::from(path.to_string_lossy());
        let text = read_file(path).map_err(|why| {
            let mut problems = Problems::default();
            problems.add(Origin::File { path: Arc::clone(&shown), line: None }, "", why);
            problems.into_errors()
        })?;
        let directory = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned));
        Self::parse(&text, &shown, directory.as_deref().unwrap_or(Path::new("/")))
    }

    /// Reads the text of a manifest whose paths are meant from `directory`.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn parse(text: &str, shown: &Arc<str>, directory: &Path) -> Result<Self, ConfigErrors> {
        let mut problems = Problems::default();
        let origin = |line| Origin::File { path: Arc::clone(shown), line: Some(line) };
        let top = yaml::parse(text, &mut |line, key, message| problems.add(origin(line), key, message));
        let entries = match top.map(|node| node.value) {
            Some(Value::Map(entries)) => entries,
            Some(_) => {
                problems.add(origin(1), "", "a manifest is a list of keys and values, as in `name: worker`");
                return Err(problems.into_errors());
            }
            None => return Err(problems.into_errors()),
        };
        let manifest = Self::of_entries(entries, &[], shown, directory, &mut problems);
        match (problems.into_result(), manifest) {
            (Ok(()), Some(manifest)) => Ok(manifest),
            (Err(errors), _) => Err(errors),
            (Ok(()), None) => {
                let mut problems = Problems::default();
                problems.add(
                    Origin::File { path: Arc::clone(shown), line: None },
                    "",
                    "it could not be read",
                );
                Err(problems.into_errors())
            }
        }
    }

    /// Reads the keys of a manifest out of those of a file that may have `others` as well. What is wrong is noted.
    pub(super) fn of_entries(
        entries: BTreeMap<String, Node>,
        others: &[&str],
        shown: &Arc<str>,
        directory: &Path,
        problems: &mut Problems,
    ) -> Option<Self> {
        let mut reader = Reader { entries, shown, problems };
        reader.refuse_unknown(others);
        reader.manifest(directory)
    }
}

struct Reader<'a> {
    entries: BTreeMap<String, Node>,
    shown: &'a Arc<str>,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn report(&mut self, line: Option<usize>, key: &str, message: impl Into<String>) {
        let origin = Origin::File { path: Arc::clone(self.shown), line };
        self.problems.add(origin, key, message);
    }

    /// `others` are keys that the file may have beside those of a manifest.
    fn refuse_unknown(&mut self, others: &[&str]) {
        let keys: Vec<&str> = KEYS.iter().chain(others).copied().collect();
        let unknown = self.entries.iter().filter(|(key, _)| !KEYS.contains(&key.as_str()));
        let unknown: Vec<_> = unknown.map(|(key, node)| (key.clone(), node.line)).collect();
        for (key, line) in unknown {
            let near = nearest(&key, keys.iter().copied()).map(|near| format!("did you mean {near}?"));
            let message = near.unwrap_or_else(|| format!("the keys are {}", keys.join(", ")));
            self.report(Some(line), &yaml::joined("", &key), format!("there is no such key: {message}"));
        }
    }

    /// Reads a key with `read`; an error is noted with its line.
    fn take<T>(&mut self, key: &str, read: impl FnOnce(&Node) -> Result<T, String>) -> Option<T> {
        let node = self.entries.get(key)?;
        if matches!(node.value, Value::Bad) {
            return None;
        }
        let line = node.line;
        read(node).map_err(|message| self.report(Some(line), key, message)).ok()
    }

    fn required<T>(&mut self, key: &str, read: impl FnOnce(&Node) -> Result<T, String>) -> Option<T> {
        if !self.entries.contains_key(key) {
            self.report(None, key, "this key is needed");
        }
        self.take(key, read)
    }

    fn manifest(&mut self, directory: &Path) -> Option<Manifest> {
        let name = self.required("name", parsed::<AgentName>);
        let source = self.required("source", |node| text(node).map(str::to_owned));
        let kind = self.take("kind", |node| values::choice(text(node)?, &KINDS));
        let args = self.take("args", |node| texts(node, str::to_owned)).unwrap_or_default();
        let offer = Offer {
            capabilities: self.take("capabilities", tags).unwrap_or_default(),
            topics: self.take("topics", tags).unwrap_or_default(),
            balance: self.take("balance", |node| values::choice(text(node)?, &BALANCES)).unwrap_or_default(),
        };
        let tools = self.take("tools", tools::tools).unwrap_or_default();
        if let Err(why) = Tool::check_all(&tools) {
            let line = self.entries.get("tools").map(|node| node.line);
            self.report(line, "tools", why);
        }
        let instance = self.take("instance", |node| values::choice(text(node)?, &LIVES));
        let bounded = |max: u64| move |node: &Node| values::integer(text(node)?, 1, max);
        let memory_bytes = self.take("memory_bytes", bounded(limits::WASM_MEMORY_BYTES_MAX));
        let fuel = self.take("fuel", bounded(limits::WASM_FUEL_MAX));
        let grants = self.take("grants", grants).unwrap_or_default();
        let health = self.take("health", care::health);
        let care = Care {
            health,
            restart: self.take("restart", care::restart),
            breaker: self.take("breaker", care::breaker),
        };
        let launch = Launch {
            phase: self.take("phase", phase).unwrap_or_default(),
            depends_on: self.take("depends_on", names).unwrap_or_default(),
            optional: self.take("optional", |node| values::boolean(text(node)?)).unwrap_or_default(),
            timeout_ms: self
                .take("start_timeout", |node| care::millis(node, limits::START_TIMEOUT_MS_MIN.into())),
        };
        let limits = self.take("limits", confinement).unwrap_or_default();
        if let Some(Err(why)) = name.as_ref().map(|name| launch.check(name)) {
            let given = |key: &&str| self.entries.contains_key(*key);
            let key = ["depends_on", "start_timeout"].into_iter().find(given).unwrap_or("phase");
            let line = self.entries.get(key).map(|node| node.line);
            self.report(line, key, why);
        }
        let source = source?;
        let kind = kind.unwrap_or_else(|| kind_of(&source));
        self.refuse_keys_of_other_kinds(kind);
        self.check_care(&care, kind);
        let source = match kind {
            Kind::Native => ManifestSource::Native {
                builtin: source.strip_prefix("native:").unwrap_or(&source).to_owned(),
            },
            Kind::Process(protocol) => {
                let command = self.command(source, directory)?;
                ManifestSource::Process { protocol, command, args }
            }
            Kind::Wasm => ManifestSource::Wasm {
                file: directory.join(source),
                instance: instance.unwrap_or_default(),
                grants,
                memory_bytes: memory_bytes.unwrap_or(limits::WASM_MEMORY_BYTES_DEFAULT),
                fuel: fuel.unwrap_or(limits::WASM_FUEL_DEFAULT),
            },
        };
        Some(Manifest { name: name?, source, offer, tools, care, launch, limits })
    }

    /// A path is meant from the manifest; a bare name is the node's to look up.
    fn command(&mut self, source: String, directory: &Path) -> Option<String> {
        if !source.contains('/') {
            return Some(source);
        }
        let path = directory.join(source).into_os_string().into_string();
        path.map_err(|_| self.report(None, "source", "the path of the manifest is not text in UTF-8")).ok()
    }

    fn check_care(&mut self, care: &Care, kind: Kind) {
        if let Err(why) = care.check(kind == Kind::Process(ProcessProtocol::Http)) {
            let is_given = |key: &&str| self.entries.contains_key(*key);
            let key = ["health", "restart"].into_iter().find(is_given).unwrap_or("health");
            let line = self.entries.get(key).map(|node| node.line);
            self.report(line, key, why);
        }
    }

    fn refuse_keys_of_other_kinds(&mut self, kind: Kind) {
        let others: &[&str] = match kind {
            Kind::Wasm => &["args", "limits"],
            Kind::Process(_) => &WASM_KEYS,
            Kind::Native => &["args", "instance", "memory_bytes", "fuel", "grants", "limits"],
        };
        let word = KINDS.iter().find(|(_, other)| *other == kind).map_or("", |(word, _)| word);
        for key in others {
            if let Some(line) = self.entries.get(*key).map(|node| node.line) {
                self.report(Some(line), key, format!("an agent of kind {word} does not take this"));
            }
        }
    }
}

fn kind_of(source: &str) -> Kind {
    if source == "echo" || source.starts_with("native:") {
        Kind::Native
    } else if Path::new(source).extension().is_some_and(|end| end == "wasm" || end == "wat") {
        Kind::Wasm
    } else {
        Kind::Process(ProcessProtocol::Stdio)
    }
}

pub(super) fn text(node: &Node) -> Result<&str, String> {
    match &node.value {
        Value::Text { text, .. } => Ok(text),
        Value::Null => Err("it has no value".to_owned()),
        Value::List(_) | Value::Map(_) | Value::Bad => Err("one value is wanted here".to_owned()),
    }
}

pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(node: &Node) -> Result<T, String> {
    text(node)?.parse().map_err(|error: T::Err| error.to_string())
}

pub(super) fn items(node: &Node) -> Result<&[Node], String> {
    match &node.value {
        Value::List(items) => Ok(items),
        Value::Null => Ok(&[]),
        Value::Text { .. } | Value::Map(_) | Value::Bad => {
            Err("a list is wanted here, as in [one, two]".to_owned())
        }
    }
}

fn texts<T>(node: &Node, make: impl Fn(&str) -> T) -> Result<Vec<T>, String> {
    items(node)?.iter().map(|item| text(item).map(&make)).collect()
}

fn names(node: &Node) -> Result<BTreeSet<AgentName>, String> {
    items(node)?.iter().map(parsed::<AgentName>).collect()
}

fn phase(node: &Node) -> Result<i32, String> {
    let (text, max) = (text(node)?, limits::PHASE_MAX);
    let phase = text.parse().ok().filter(|phase| (-max..=max).contains(phase));
    phase.ok_or_else(|| format!("{} is not a whole number from -{max} to {max}", super::error::quoted(text)))
}

fn tags(node: &Node) -> Result<BTreeSet<Tag>, String> {
    items(node)?.iter().map(parsed::<Tag>).collect()
}

fn confinement(node: &Node) -> Result<Confinement, String> {
    let entries = care::entries(node, &["files", "memory_bytes", "processes"])?;
    let bound = |key: &str, min: u64, max: u64| {
        let number = |node| text(node).and_then(|text| values::integer(text, min, max));
        entries.get(key).map(|node| care::within(key, number(node))).transpose()
    };
    Ok(Confinement {
        files: bound("files", limits::CONFINED_FILES_MIN, limits::CONFINED_FILES_MAX)?,
        memory_bytes: bound(
            "memory_bytes",
            limits::CONFINED_MEMORY_BYTES_MIN,
            limits::CONFINED_MEMORY_BYTES_MAX,
        )?,
        processes: bound("processes", 1, limits::CONFINED_PROCESSES_MAX)?,
    })
}

fn grants(node: &Node) -> Result<Grants, String> {
    let Value::Map(entries) = &node.value else {
        return Err("it has the keys state and addresses, each with a list".to_owned());
    };
    if let Some(unknown) = entries.keys().find(|key| !["state", "addresses"].contains(&key.as_str())) {
        return Err(format!("{} is neither state nor addresses", super::error::quoted(unknown)));
    }
    let target = |item: &Node| Target::parse(text(item)?).map_err(|error| error.to_string());
    let addresses = entries.get("addresses").map_or(Ok(&[][..]), items)?.iter().map(target);
    Ok(Grants {
        state: entries.get("state").map_or(Ok(Vec::new()), |node| texts(node, str::to_owned))?,
        addresses: addresses.collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Manifest, String> {
        let shown = Arc::from("agent.yaml");
        Manifest::parse(text, &shown, Path::new("/agents")).map_err(|errors| errors.to_string())
    }

    #[test]
    fn the_kind_follows_from_the_source_and_paths_are_meant_from_the_manifest() {
        let source = |text: &str| read(&format!("name: a\nsource: {text}\n")).expect("good").source;
        let process = |protocol, command: &str| ManifestSource::Process {
            protocol,
            command: command.to_owned(),
            args: Vec::new(),
        };
        assert_eq!(source("echo"), ManifestSource::Native { builtin: "echo".to_owned() });
        assert_eq!(source("./upper.py"), process(ProcessProtocol::Stdio, "/agents/./upper.py"));
        assert_eq!(source("/opt/upper"), process(ProcessProtocol::Stdio, "/opt/upper"));
        assert_eq!(source("python3\nkind: http"), process(ProcessProtocol::Http, "python3"));
        let ManifestSource::Wasm { file, fuel, .. } = source("notes.wasm") else { panic!("a component") };
        assert_eq!((file.as_path(), fuel), (Path::new("/agents/notes.wasm"), limits::WASM_FUEL_DEFAULT));
    }

    #[test]
    fn every_key_is_read() {
        let all = "name: notes\nkind: wasm\nsource: notes.wasm\ncapabilities: [keep, find]\ntopics:\n- news\n\
                   balance: key-hash\ninstance: per-message\nmemory_bytes: 65536\nfuel: 1000\n\
                   grants:\n  state: [notes/]\n  addresses: [upper, 'topic:news']\n";
        let manifest = read(all).expect("good");
        let tag = |text: &str| Tag::new(text).expect("valid");
        let offer = Offer {
            capabilities: [tag("keep"), tag("find")].into(),
            topics: [tag("news")].into(),
            balance: Balance::KeyHash,
        };
        let grants = Grants {
            state: vec!["notes/".to_owned()],
            addresses: ["upper", "topic:news"].map(|text| Target::parse(text).expect("valid")).into(),
        };
        let source = ManifestSource::Wasm {
            file: "/agents/notes.wasm".into(),
            instance: InstanceLife::PerMessage,
            grants,
            memory_bytes: 65_536,
            fuel: 1000,
        };
        let name = AgentName::new("notes").expect("valid");
        assert_eq!(
            manifest,
            Manifest {
                name,
                source,
                offer,
                tools: vec![],
                care: Care::default(),
                launch: Launch::default(),
                limits: Confinement::default()
            }
        );
        let late = read(
            "name: a\nsource: echo\nphase: -2\ndepends_on: [b, c]\noptional: true\nstart_timeout: 30s\n",
        );
        let depends_on = ["b", "c"].map(|name| AgentName::new(name).expect("valid")).into();
        let wanted = Launch { phase: -2, depends_on, optional: true, timeout_ms: Some(30_000) };
        assert_eq!(late.expect("good").launch, wanted);
        let process = read(
            "name: a\nsource: sh\nargs: [-c, 'exec agent']\nlimits: {files: 64, memory_bytes: 67108864, processes: 500}\n",
        )
        .expect("good");
        let limits = Confinement { files: Some(64), memory_bytes: Some(64 << 20), processes: Some(500) };
        assert_eq!(process.limits, limits);
        assert!(
            matches!(process.source, ManifestSource::Process { args, .. } if args == ["-c", "exec agent"])
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_all_at_once() {
        for (text, wanted) in [
            ("source: echo\n", "agent.yaml: name: this key is needed"),
            ("name: a\n", "agent.yaml: source: this key is needed"),
            ("name: a b\nsource: echo\n", "agent.yaml:1: name: agent name \"a b\" is not valid"),
            (
                "name: a\nsource: echo\ntopcis: [x]\n",
                "agent.yaml:3: topcis: there is no such key: did you mean topics?",
            ),
            (
                "name: a\nsource: echo\ncolour: {}\n",
                "agent.yaml:3: colour: there is no such key: the keys are name,",
            ),
            (
                "name: a\nsource: x.wasm\nargs: [x]\n",
                "agent.yaml:3: args: an agent of kind wasm does not take this",
            ),
            (
                "name: a\nsource: sh\nfuel: 5\n",
                "agent.yaml:3: fuel: an agent of kind stdio does not take this",
            ),
            (
                "name: a\nsource: sh\nkind: wsm\n",
                "agent.yaml:3: kind: \"wsm\" is not one of stdio, http, wasm, native; did you mean wasm?",
            ),
            ("name: a\nsource: [sh]\n", "agent.yaml:2: source: one value is wanted here"),
            ("name: a\nsource: sh\ntopics: x\n", "agent.yaml:3: topics: a list is wanted here"),
            ("name: a\nsource: sh\ntopics: [a b]\n", "agent.yaml:3: topics: tag \"a b\" is not valid"),
            ("name: a\nsource: x.wasm\nfuel: -1\n", "agent.yaml:3: fuel: \"-1\" is not a whole number"),
            ("name: a\nsource: x.wasm\ngrants: {keys: [x]}\n", "agent.yaml:3: grants: \"keys\" is neither"),
            ("name: a\nsource: x.wasm\ngrants: {addresses: ['queue:x']}\n", "there is no form \"queue\""),
            (
                "name: a\nsource: echo\ndepends_on: [b, a]\n",
                "agent.yaml:3: depends_on: it depends on itself: a -> a",
            ),
            ("name: a\nsource: echo\nphase: 1001\n", "agent.yaml:3: phase: \"1001\" is not a whole number"),
            ("name: a\nsource: echo\nstart_timeout: 1ms\n", "agent.yaml:3: start_timeout: "),
            ("name: a\nsource: sh\nlimits: 5\n", "agent.yaml:3: limits: it has the keys files, memory_bytes"),
            (
                "name: a\nsource: sh\nlimits: {file: 64}\n",
                "agent.yaml:3: limits: \"file\": there is no such key",
            ),
            (
                "name: a\nsource: sh\nlimits: {files: 4}\n",
                "limits: files: \"4\" is not a whole number from 16",
            ),
            (
                "name: a\nsource: x.wasm\nlimits: {files: 64}\n",
                "agent.yaml:3: limits: an agent of kind wasm does not take this",
            ),
            ("- a\n", "agent.yaml:1: a manifest is a list of keys and values"),
            ("name: a\nname: b\nsource: sh\n", "this key is given twice: first on line 1"),
            ("name: {a\n", "not valid YAML"),
            ("", "name: this key is needed"),
        ] {
            let errors = read(text).expect_err(text);
            assert!(errors.contains(wanted), "{text:?}: {errors}");
        }
        let errors = read("nmae: a\nkind: x\n").expect_err("bad");
        assert_eq!(errors.lines().count(), 4, "{errors}");
    }

    #[test]
    fn a_file_that_is_not_there_or_no_text_is_told_by_its_name() {
        let place = tempfile::tempdir().expect("a directory");
        let errors = Manifest::read(&place.path().join("none.yaml")).expect_err("absent").to_string();
        assert!(errors.contains("none.yaml") && errors.contains("cannot be read"), "{errors}");
        let binary = place.path().join("binary.yaml");
        std::fs::write(&binary, [0xff, 0xfe]).expect("written");
        let errors = Manifest::read(&binary).expect_err("no text").to_string();
        assert!(errors.contains("not UTF-8"), "{errors}");
    }
}
