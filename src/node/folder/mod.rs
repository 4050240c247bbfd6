//! The folder of manifests of `--agents-dir`: the agents that they describe run on this node, as long as their files lie
//! there.
//!
//! - [`files`]: which files there are, and what is in them;
//! - [`mod@plan`]: which agents should run, and which are left as they are because their manifests cannot be followed now.
//!
//! The folder is looked at every second. A file counts once it was the same in two looks, and one that is gone once it was
//! missing in two: one that is being written or replaced is not taken half. Then what should run is compared with what
//! runs, and the difference is deployed and stopped through the node's own requests. An agent that somebody has deployed by
//! hand is left alone. Whatever is not followed is said once in the log, and counted.

mod files;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::files::{Look, Stamp, is_manifest, look_at};
use self::plan::{Lying, Plan, plan};
use super::config::{Manifest, ManifestSource};
use super::handle::Handle;
use crate::core::error::Refusal;
use crate::core::ids::AgentName;
use crate::core::limits;
use crate::core::model::{AgentSource, AgentSpec, AgentState, WasmSource};
use crate::core::wire::{RequestBody, ResponseBody};

/// Keeps the agents of the folder.
#[derive(Debug)]
pub(super) struct Folder {
    directory: PathBuf,
    handle: Handle,
    /// The files as they were in the last look.
    seen: Look,
    has_looked: bool,
    /// Looks, one after the other, in which some file was not as in the one before.
    restless: u32,
    /// What counts of them: each file with the stamp under which it was read.
    read: BTreeMap<PathBuf, (Option<Stamp>, Lying)>,
    /// Files that counted and were missing in the last look.
    missing: BTreeSet<PathBuf>,
    plan: Plan,
    /// Whether no plan has known of all files yet.
    is_first: bool,
    /// Since when there is no manifest at all.
    empty_since: Option<Instant>,
    /// What the manifests come to, with the manifest and the component that it was worked out from.
    specs: BTreeMap<AgentName, (Manifest, Option<Stamp>, AgentSpec)>,
    /// What this node's agents are made of, as far as it was asked.
    running: BTreeMap<AgentName, AgentSpec>,
    /// Agents that could not be started or stopped: when they are tried again, and how long they were left alone.
    later: BTreeMap<AgentName, (Instant, Duration)>,
    /// Why they could not be.
    failures: BTreeMap<AgentName, String>,
    /// Why the folder cannot be followed.
    trouble: Option<String>,
    /// What the log was told.
    said: BTreeMap<String, String>,
}

impl Folder {
    pub(super) fn new(directory: PathBuf, handle: Handle) -> Self {
        Self {
            directory,
            handle,
            seen: Look::new(),
            has_looked: false,
            restless: 0,
            read: BTreeMap::new(),
            missing: BTreeSet::new(),
            plan: Plan::default(),
            is_first: true,
            empty_since: None,
            specs: BTreeMap::new(),
            running: BTreeMap::new(),
            later: BTreeMap::new(),
            failures: BTreeMap::new(),
            trouble: None,
            said: BTreeMap::new(),
        }
    }

    /// Keeps them until the node has stopped.
    pub(super) async fn run(mut self) {
        let mut ticks = interval(limits::FOLDER_POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.handle.has_ended() {
            ticks.tick().await;
            if self.handle.view().stopping {
                continue;
            }
            match self.look().await {
                Ok(may_follow) => {
                    let is_restless = self.restless >= limits::FOLDER_RESTLESS_LOOKS;
                    self.trouble = is_restless.then(|| "its files change all the time".to_owned());
                    if may_follow {
                        self.follow().await;
                    }
                }
                Err(why) => self.trouble = Some(format!("it cannot be read: {why}")),
            }
            self.say();
        }
    }

    /// Looks at the files, and plans anew where something counts that did not before. Returns whether all that was seen for the
    /// first time has had its second look.
    async fn look(&mut self) -> Result<bool, String> {
        let (directory, components) = (self.directory.clone(), self.components());
        let looked = spawn_blocking(move || look_at(&directory, &components)).await;
        let look = looked.map_err(|error| error.to_string())??;
        let before = std::mem::replace(&mut self.seen, look);
        let is_steady = std::mem::replace(&mut self.has_looked, true) && before == self.seen;
        self.restless = if is_steady { 0 } else { self.restless + 1 };
        let due = self.seen.iter().filter(|(path, stamp)| {
            let is_read = self.read.get(*path).is_some_and(|(read, _)| read == *stamp);
            is_manifest(path) && !is_read && before.get(*path) == Some(*stamp)
        });
        let due: Vec<_> = due.map(|(path, stamp)| (path.clone(), *stamp)).collect();
        for (name, (_, manifest)) in &self.plan.wanted {
            if component_of(manifest).is_some_and(|file| before.get(file) != self.seen.get(file)) {
                self.later.remove(name);
            }
        }
        let gone: BTreeSet<_> =
            self.read.keys().filter(|path| !self.seen.contains_key(*path)).cloned().collect();
        let over: Vec<_> = gone.intersection(&self.missing).cloned().collect();
        self.missing = gone;
        let is_empty = !self.seen.keys().any(|path| is_manifest(path));
        self.empty_since = if is_empty { self.empty_since.or_else(|| Some(Instant::now())) } else { None };
        if due.is_empty() && over.is_empty() {
            return Ok(self.may_follow(is_steady));
        }
        for path in over {
            self.read.remove(&path);
        }
        let directory = self.directory.clone();
        let read = spawn_blocking(move || {
            let read = |(path, stamp): (PathBuf, Option<Stamp>)| {
                match files::read(&path, stamp, limits::CONFIG_FILE_BYTES_MAX) {
                    Ok(bytes) => {
                        let lying = parsed(&path, bytes, &directory);
                        (path, (stamp, lying))
                    }
                    // Without a stamp that fits it is read again at the next look.
                    Err(why) => (path, (None, Err(why))),
                }
            };
            due.into_iter().map(read).collect::<Vec<_>>()
        });
        self.read.extend(read.await.map_err(|error| error.to_string())?);
        let lying = self.read.iter().map(|(path, (_, lying))| (path.clone(), lying.clone())).collect();
        let plan = plan(lying, &self.plan.owners, self.is_first);
        let old = std::mem::replace(&mut self.plan, plan);
        // What has changed is tried at once.
        self.later.retain(|name, _| old.wanted.get(name) == self.plan.wanted.get(name));
        self.specs.retain(|name, _| self.plan.wanted.contains_key(name));
        self.is_first &= self.plan.is_blind || !self.knows_all();
        // Nothing is known of what may come back.
        self.is_first |= self.plan.owners.is_empty();
        Ok(self.may_follow(is_steady))
    }

    /// Whether every manifest that there is was read, or could not be.
    fn knows_all(&self) -> bool {
        self.seen.keys().all(|path| !is_manifest(path) || self.read.contains_key(path))
    }

    /// Not while files change, which may be many that belong together; but not for ever. The components of new manifests have
    /// to be looked at first.
    fn may_follow(&self, is_steady: bool) -> bool {
        let is_patient = self.restless < limits::FOLDER_RESTLESS_LOOKS;
        (is_steady || !is_patient) && self.components().iter().all(|file| self.seen.contains_key(file))
    }

    /// The components that the manifests name.
    fn components(&self) -> BTreeSet<PathBuf> {
        let component = |(_, manifest): &(PathBuf, Manifest)| component_of(manifest).map(Path::to_owned);
        self.plan.wanted.values().filter_map(component).collect()
    }

    /// Stops and starts what has to be.
    async fn follow(&mut self) {
        let view = self.handle.view();
        let own = self.handle.own();
        let here: BTreeMap<_, _> = view
            .agents
            .iter()
            .filter(|agent| agent.node == *own)
            .map(|agent| (agent.name.clone(), agent.record.state.clone()))
            .collect();
        self.running.retain(|name, _| here.contains_key(name));
        for name in here.keys() {
            if !self.running.contains_key(name)
                && let Some(spec) = asked(&self.handle, name).await
            {
                self.running.insert(name.clone(), spec);
            }
        }
        self.failures.retain(|name, _| {
            let is_over =
                self.running.get(name).is_some_and(|spec| spec.of_folder) && !self.plan.spares(name);
            self.plan.wanted.contains_key(name) || is_over
        });
        self.stop_what_is_gone().await;
        let due: Vec<_> = self.plan.wanted.keys().filter(|name| self.is_due(name)).cloned().collect();
        let (mut work, mut waiting) = (Vec::new(), Vec::new());
        for name in due {
            match self.spec_of(&name).await {
                Ok(spec) => match self.running.get(&name) {
                    Some(runs) if !runs.of_folder => {
                        let why = "an agent of that name was deployed by hand: it is left alone";
                        self.failures.insert(name, why.to_owned());
                    }
                    Some(runs) if *runs == spec => match here.get(&name) {
                        Some(AgentState::Failed { reason, .. }) => {
                            let why = format!(
                                "it is in quarantine, and stays there until somebody releases it: {reason}"
                            );
                            self.failures.insert(name, why);
                        }
                        Some(_) | None => self.is_well(&name),
                    },
                    // It is there, and did not tell what it is made of.
                    None if here.contains_key(&name) => {}
                    // Files are read in any order: what it depends on comes first.
                    _ if let Some(first) = spec.launch.depends_on.iter().find(|other| {
                        self.plan.wanted.contains_key(*other)
                            && !view.agents.iter().any(|a| a.name == **other)
                    }) =>
                    {
                        let why =
                            format!("it depends on {first}, which is in the folder and not deployed yet");
                        waiting.push((name, why));
                    }
                    runs => work.push((name, runs.is_some(), spec)),
                },
                Err(why) => self.put_off(&name, why),
            }
        }
        // Of those that come now nothing is to be said.
        if work.is_empty() {
            self.failures.extend(waiting);
        }
        // Then the files are looked at again: they may have changed meanwhile.
        work.truncate(limits::FOLDER_STARTS_A_ROUND);
        let handle = self.handle.clone();
        let mut done = stream::iter(work)
            .map(move |(name, is_there, spec)| {
                let handle = handle.clone();
                async move { (name.clone(), made_run(&handle, name, is_there, spec).await) }
            })
            .buffer_unordered(limits::FOLDER_STARTS_AT_ONCE);
        let mut outcomes = Vec::new();
        while let Some(outcome) = done.next().await {
            outcomes.push(outcome);
        }
        for (name, outcome) in outcomes {
            match outcome {
                Ok(spec) => {
                    tracing::info!(agent = %name, "it runs as its manifest says");
                    self.running.insert(name.clone(), spec);
                    self.is_well(&name);
                }
                Err(why) => {
                    // Its module may have been collected meanwhile.
                    self.specs.remove(&name);
                    self.running.remove(&name);
                    self.put_off(&name, why);
                }
            }
        }
    }

    async fn stop_what_is_gone(&mut self) {
        let is_over = |spec: &&AgentSpec| {
            spec.of_folder && !self.plan.wanted.contains_key(&spec.name) && !self.plan.spares(&spec.name)
        };
        let gone: Vec<_> = self.running.values().filter(is_over).map(|spec| spec.name.clone()).collect();
        // An empty folder may be one that is not mounted.
        let is_early = self.empty_since.is_some_and(|since| since.elapsed() < limits::FOLDER_EMPTY_PAUSE);
        if self.is_first && !self.knows_all() {
            // It may be described by one that was not read yet.
            return;
        }
        let mut due: Vec<_> = gone.into_iter().filter(|name| self.is_due(name)).collect();
        if is_early {
            let why = "the folder has no manifests: it is stopped when that has been so for a minute";
            self.failures.extend(due.into_iter().map(|name| (name, why.to_owned())));
            return;
        }
        due.truncate(limits::FOLDER_STARTS_AT_ONCE);
        let handle = self.handle.clone();
        let stops = due.into_iter().map(move |name| {
            let handle = handle.clone();
            async move { (name.clone(), stopped(&handle, &name).await) }
        });
        let outcomes: Vec<_> =
            stream::iter(stops).buffer_unordered(limits::FOLDER_STARTS_AT_ONCE).collect().await;
        for (name, outcome) in outcomes {
            self.running.remove(&name);
            match outcome {
                Ok(()) => {
                    tracing::info!(agent = %name, "its manifest is gone: it was stopped");
                    self.is_well(&name);
                }
                Err(why) => self.put_off(&name, why),
            }
        }
    }

    /// What the manifest of an agent describes; a component is put among this node's modules for that.
    async fn spec_of(&mut self, name: &AgentName) -> Result<AgentSpec, String> {
        let Some((_, manifest)) = self.plan.wanted.get(name) else {
            return Err("it has no manifest".to_owned());
        };
        let stamp = component_of(manifest).and_then(|file| self.seen.get(file).copied().flatten());
        if let Some((known, of, spec)) = self.specs.get(name)
            && (known, of) == (manifest, &stamp)
        {
            return Ok(spec.clone());
        }
        let manifest = manifest.clone();
        let Manifest { name, source, offer, tools, care, launch, limits: confined } = manifest.clone();
        let source = match source {
            ManifestSource::Native { builtin } => AgentSource::Native { builtin },
            ManifestSource::Process { protocol, command, args } => {
                AgentSource::Process { protocol, command, args }
            }
            ManifestSource::Wasm { file, instance, grants, memory_bytes, fuel } => {
                let read = spawn_blocking(move || files::read(&file, stamp, limits::MODULE_BYTES_MAX));
                let bytes = read.await.map_err(|error| error.to_string())??;
                let module = self.handle.put_module(bytes.into()).await?;
                let origin = Some(self.handle.own().clone());
                AgentSource::Wasm(WasmSource { module, origin, instance, grants, memory_bytes, fuel })
            }
        };
        let bare = AgentSpec::new(name.clone(), source);
        let spec = AgentSpec { offer, tools, care, launch, limits: confined, of_folder: true, ..bare };
        spec.check()?;
        self.specs.insert(name, (manifest, stamp, spec.clone()));
        Ok(spec)
    }

    fn is_due(&self, name: &AgentName) -> bool {
        self.later.get(name).is_none_or(|(at, _)| *at <= Instant::now())
    }

    fn is_well(&mut self, name: &AgentName) {
        self.later.remove(name);
        self.failures.remove(name);
    }

    fn put_off(&mut self, name: &AgentName, why: String) {
        let (first, most) = limits::FOLDER_RETRY;
        let pause = self.later.get(name).map_or(first, |(_, pause)| (*pause * 2).min(most));
        self.later.insert(name.clone(), (Instant::now() + pause, pause));
        self.failures.insert(name.clone(), why);
    }

    /// Tells the log what is not followed, each reason once.
    fn say(&mut self) {
        let folder = self.trouble.iter().map(|why| (self.directory.display().to_string(), why.clone()));
        let of_files =
            self.plan.complaints.iter().map(|(path, why)| (path.display().to_string(), why.clone()));
        let of_agents = self.failures.iter().map(|(name, why)| {
            let file = self.plan.wanted.get(name).map(|(path, _)| path.display().to_string());
            (file.unwrap_or_else(|| name.to_string()), format!("agent {name}: {why}"))
        });
        let now: BTreeMap<_, _> = folder.chain(of_files).chain(of_agents).collect();
        for (of, reason) in now.iter().filter(|(of, why)| self.said.get(*of) != Some(*why)) {
            tracing::warn!(manifest = of, reason, "a manifest is not followed");
        }
        metrics::gauge!("shoal_folder_complaints").set(now.len() as f64);
        self.said = now;
    }
}

fn component_of(manifest: &Manifest) -> Option<&Path> {
    match &manifest.source {
        ManifestSource::Wasm { file, .. } => Some(file),
        ManifestSource::Native { .. } | ManifestSource::Process { .. } => None,
    }
}

fn parsed(path: &Path, bytes: Vec<u8>, directory: &Path) -> Lying {
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let shown: Arc<str> = Arc::from(path.to_string_lossy());
    let directory = std::path::absolute(directory).map_err(|error| error.to_string())?;
    Manifest::parse(&text, &shown, &directory).map_err(|errors| errors.to_string())
}

/// What an agent of this node is made of.
async fn asked(handle: &Handle, name: &AgentName) -> Option<AgentSpec> {
    let asking = handle.request(handle.own().clone(), RequestBody::AgentInfo { agent: name.clone() });
    match timeout(limits::REQUEST_DEADLINE, asking).await {
        Ok(Ok(ResponseBody::AgentInfo { spec, .. })) => Some(spec),
        Ok(Ok(_) | Err(_)) | Err(_) => None,
    }
}

/// Stops an agent of the folder; one that somebody has deployed by hand meanwhile is left alone.
async fn stopped(handle: &Handle, name: &AgentName) -> Result<(), String> {
    if asked(handle, name).await.is_some_and(|spec| !spec.of_folder) {
        return Err("an agent of that name was deployed by hand: it is left alone".to_owned());
    }
    let stopping = handle.request(handle.own().clone(), RequestBody::StopAgent { agent: name.clone() });
    match timeout(limits::FOLDER_REQUEST_DEADLINE, stopping).await {
        Ok(Ok(_) | Err(Refusal::UnknownAgent { .. })) => Ok(()),
        Ok(Err(refusal)) => Err(format!("it cannot be stopped: {refusal}")),
        Err(_) => Err("it does not stop".to_owned()),
    }
}

async fn made_run(
    handle: &Handle,
    name: AgentName,
    is_there: bool,
    spec: AgentSpec,
) -> Result<AgentSpec, String> {
    if is_there {
        stopped(handle, &name).await?;
    }
    let starting = handle.request(handle.own().clone(), RequestBody::Deploy { spec: spec.clone() });
    match timeout(limits::FOLDER_REQUEST_DEADLINE, starting).await {
        Ok(Ok(_)) => Ok(spec),
        Ok(Err(refusal)) => Err(format!("it could not be started: {refusal}")),
        Err(_) => Err("it does not start".to_owned()),
    }
}
