//! What should run of what lies in the folder: from files to agents, without a disk and without a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::core::ids::AgentName;
use crate::core::limits;
use crate::core::model::{Dependencies, cycle_through, path_text};
use crate::node::config::Manifest;

/// What a file of the folder is: a manifest, or why it cannot be read.
pub(super) type Lying = Result<Manifest, String>;

/// What should run, and why some of it does not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The manifests that count, with their files.
    pub(super) wanted: BTreeMap<AgentName, (PathBuf, Manifest)>,
    /// Agents whose manifests cannot be followed now: they stay as they are.
    pub(super) kept: BTreeSet<AgentName>,
    /// A manifest cannot be read, and it is not known which agent it describes: it may be any.
    pub(super) is_blind: bool,
    /// Why a file is not followed.
    pub(super) complaints: BTreeMap<PathBuf, String>,
    /// Which agent each file describes, or described when it could be read.
    pub(super) owners: BTreeMap<PathBuf, AgentName>,
}

/// Plans for what lies in the folder. `owners` is what the last plan said of it; `is_first` holds as long as there was none that
/// knew of all files.
pub(super) fn plan(
    lying: BTreeMap<PathBuf, Lying>,
    owners: &BTreeMap<PathBuf, AgentName>,
    is_first: bool,
) -> Plan {
    let mut plan = Plan::default();
    let mut good = Vec::new();
    for (path, manifest) in lying {
        match manifest {
            Ok(manifest) => good.push((path, manifest)),
            Err(why) => plan.keep(path, owners, is_first, why),
        }
    }
    // A file that described an agent before goes before a copy of it.
    good.sort_by_key(|(path, manifest)| owners.get(path) != Some(&manifest.name));
    for (path, manifest) in good {
        plan.want(path, manifest, owners);
    }
    plan.refuse_cycles();
    plan
}

impl Plan {
    fn keep(&mut self, path: PathBuf, owners: &BTreeMap<PathBuf, AgentName>, is_first: bool, why: String) {
        let why = match owners.get(&path) {
            Some(name) => {
                self.kept.insert(name.clone());
                self.owners.insert(path.clone(), name.clone());
                why
            }
            None if is_first => {
                self.is_blind = true;
                format!("{why}; no agent of the folder is stopped until this is mended")
            }
            None => why,
        };
        self.complaints.insert(path, why);
    }

    fn want(&mut self, path: PathBuf, manifest: Manifest, owners: &BTreeMap<PathBuf, AgentName>) {
        let name = manifest.name.clone();
        let why = if let Some((first, _)) = self.wanted.get(&name) {
            format!("{} describes an agent {name} already: this one is passed over", first.display())
        } else if let Some(held) = self.holder_of(&name) {
            format!("{} describes the agent {name}, and cannot be read now", held.display())
        } else if self.wanted.len() == limits::MANIFESTS_MAX {
            if let Some(name) = owners.get(&path) {
                self.kept.insert(name.clone());
                self.owners.insert(path.clone(), name.clone());
            }
            format!("the folder has more than {} manifests: this one is passed over", limits::MANIFESTS_MAX)
        } else {
            self.owners.insert(path.clone(), name.clone());
            self.wanted.insert(name, (path, manifest));
            return;
        };
        self.complaints.insert(path, why);
    }

    /// Agents that depend on each other never start: those that run go on as they are.
    fn refuse_cycles(&mut self) {
        let of = |(name, (_, manifest)): (&AgentName, &(PathBuf, Manifest))| {
            (name.clone(), manifest.launch.depends_on.clone())
        };
        let all: Dependencies = self.wanted.iter().map(of).collect();
        for name in all.keys() {
            if let Some(cycle) = cycle_through(&all, name)
                && let Some((path, _)) = self.wanted.remove(name)
            {
                let why = format!("agents that depend on each other never start: {}", path_text(&cycle));
                self.complaints.insert(path, why);
                self.kept.insert(name.clone());
            }
        }
    }

    /// The file that holds a name although it cannot be read.
    fn holder_of(&self, name: &AgentName) -> Option<&Path> {
        let held = self.owners.iter().find(|(_, owned)| *owned == name && self.kept.contains(*owned));
        held.map(|(path, _)| path.as_path())
    }

    /// Whether an agent of the folder may go on although no manifest that counts describes it.
    pub(super) fn spares(&self, name: &AgentName) -> bool {
        self.is_blind || self.kept.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::Offer;
    use crate::node::config::ManifestSource;

    fn manifest(name: &str) -> Manifest {
        let source = ManifestSource::Native { builtin: "echo".to_owned() };
        Manifest {
            name: agent(name),
            source,
            offer: Offer::default(),
            tools: Vec::new(),
            care: Default::default(),
            launch: Default::default(),
            limits: Default::default(),
        }
    }

    fn agent(name: &str) -> AgentName {
        AgentName::new(name).expect("valid")
    }

    /// Files with the agent that each describes; none: it cannot be read.
    fn planned(files: &[(&str, Option<&str>)], before: &Plan, is_first: bool) -> Plan {
        let lying = files.iter().map(|(path, name)| {
            (PathBuf::from(path), name.map(manifest).ok_or_else(|| "it is no YAML".to_owned()))
        });
        plan(lying.collect(), &before.owners, is_first)
    }

    fn wanted(plan: &Plan) -> Vec<(&str, &str)> {
        plan.wanted.iter().map(|(name, (path, _))| (name.as_str(), path.to_str().expect("text"))).collect()
    }

    #[test]
    fn a_file_that_cannot_be_read_keeps_the_agent_that_it_described() {
        let first = planned(&[("a.yaml", Some("one")), ("b.yaml", Some("two"))], &Plan::default(), true);
        assert_eq!(wanted(&first), [("one", "a.yaml"), ("two", "b.yaml")]);
        let broken = planned(&[("a.yaml", None)], &first, false);
        assert!(broken.spares(&agent("one")) && !broken.spares(&agent("two")) && !broken.is_blind);
        let still = planned(&[("a.yaml", None)], &broken, false);
        assert!(still.spares(&agent("one")), "it is remembered over several plans");
        let gone = planned(&[], &still, false);
        assert!(!gone.spares(&agent("one")));
        // Nobody else takes its place meanwhile.
        let other = planned(&[("a.yaml", None), ("z.yaml", Some("one"))], &first, false);
        assert_eq!((wanted(&other), other.complaints.len()), (vec![], 2));
    }

    #[test]
    fn at_first_a_file_that_cannot_be_read_may_be_about_any_agent_and_later_about_none() {
        let start = planned(&[("a.yaml", None), ("b.yaml", Some("two"))], &Plan::default(), true);
        assert!(start.is_blind && start.spares(&agent("one")));
        let still = planned(&[("a.yaml", None), ("b.yaml", Some("two"))], &start, start.is_blind);
        assert!(still.is_blind);
        let later = planned(&[("b.yaml", Some("two")), ("notes.yaml", None)], &start, false);
        assert!(!later.spares(&agent("one")) && later.complaints.len() == 1);
    }

    #[test]
    fn of_two_manifests_of_one_name_the_one_that_counted_before_counts() {
        let first = planned(&[("one.yaml", Some("one"))], &Plan::default(), true);
        let copied = planned(&[("backup.yaml", Some("one")), ("one.yaml", Some("one"))], &first, false);
        assert_eq!(wanted(&copied), [("one", "one.yaml")]);
        let renamed = planned(&[("backup.yaml", Some("one"))], &copied, false);
        assert_eq!(wanted(&renamed), [("one", "backup.yaml")]);
        let fresh = planned(&[("b.yaml", Some("one")), ("a.yaml", Some("one"))], &Plan::default(), true);
        assert_eq!(wanted(&fresh), [("one", "a.yaml")]);
    }

    #[test]
    fn agents_that_depend_on_each_other_stay_as_they_are_and_the_way_is_told() {
        let depending = |name: &str, on: &str| {
            let mut manifest = manifest(name);
            manifest.launch.depends_on.insert(agent(on));
            (PathBuf::from(format!("{name}.yaml")), Ok(manifest))
        };
        let lying = [depending("one", "two"), depending("two", "one"), depending("three", "one")];
        let plan = plan(lying.into(), &BTreeMap::new(), true);
        assert_eq!(wanted(&plan), [("three", "three.yaml")]);
        assert!(
            plan.complaints[Path::new("two.yaml")].ends_with("two -> one -> two"),
            "{:?}",
            plan.complaints
        );
        assert!(plan.spares(&agent("one")) && plan.complaints.len() == 2);
    }

    #[test]
    fn those_beyond_the_bound_are_passed_over_and_take_nothing_from_those_that_run() {
        let names: Vec<_> = (0..limits::MANIFESTS_MAX).map(|n| format!("m{n:05}")).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), Some(name.as_str()))).collect();
        let full = planned(&files, &Plan::default(), true);
        assert!(full.complaints.is_empty());
        let more = planned(&[&[("a-new", Some("a-new"))], &files[..]].concat(), &full, false);
        assert_eq!((more.wanted.len(), more.complaints.len()), (limits::MANIFESTS_MAX, 1));
        assert!(!more.wanted.contains_key(&agent("a-new")), "those that were there go on");
    }
}
