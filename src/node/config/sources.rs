//! One setting from its three sources: the flag beats the environment, which beats the file.
//!
//! Every source is checked, also one that is beaten, so that an error does not wait for the day when
//! the flag is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Origin, Problems};
use super::flags::Names;
use super::keys::{FileDecision, FileRegion, FileValue, FileValues, Item};
use super::recovery;
use super::values;
use super::yaml::Node;
use crate::core::limits;

/// What a setting was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Setting<T> {
    /// Nothing: the default holds.
    Absent,
    /// Something wrong, which was reported: no further error may be drawn from it.
    Bad,
    /// A value, and where from.
    Value(T, Place),
}

/// Where a value was given: for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) origin: Origin,
    /// The key of the file; empty for flags and variables.
    pub(super) key: String,
}

impl<T> Setting<T> {
    /// This one, or `weaker` where this one is absent.
    pub(super) fn or(self, weaker: Self) -> Self {
        match self {
            Self::Absent => weaker,
            Self::Bad | Self::Value(..) => self,
        }
    }

    /// The value. `Bad` gives the default too: it was reported, so nobody will see what it gave.
    pub(super) fn or_default_to(self, default: T) -> T {
        self.into_value().unwrap_or(default)
    }

    /// Where a value was given.
    pub(super) fn place(&self) -> Option<Place> {
        match self {
            Self::Value(_, place) => Some(place.clone()),
            Self::Absent | Self::Bad => None,
        }
    }

    pub(super) fn into_value(self) -> Option<T> {
        match self {
            Self::Value(value, _) => Some(value),
            Self::Absent | Self::Bad => None,
        }
    }
}

/// The sources, read one setting at a time.
pub(super) struct Sources<'a> {
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) path: Arc<str>,
    /// `None`: there is a file, and it could not be read, so nothing can be said to be missing from it.
    pub(super) file: Option<FileValues>,
    pub(super) problems: Problems,
}

impl Sources<'_> {
    /// A setting of one value.
    pub(super) fn one<T>(
        &mut self,
        names: &Names,
        flag: Option<&str>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Setting<T> {
        let flag = self.given(flag, Origin::Flag(names.flag), &parse);
        let variable = self.variable(names.env);
        let variable = self.given(variable.as_deref(), Origin::Env(names.env), &parse);
        let file = self.in_file(names.key, &parse);
        flag.or(variable).or(file)
    }

    /// A setting that is a path; from a flag it may be any path that the system knows.
    pub(super) fn path(&mut self, names: &Names, flag: Option<&Path>) -> Setting<PathBuf> {
        let flag = match flag {
            None => Setting::Absent,
            Some(path) => match path.to_str() {
                Some(text) => self.given(Some(text), Origin::Flag(names.flag), values::path),
                None => Setting::Value(
                    path.to_owned(),
                    Place { origin: Origin::Flag(names.flag), key: String::new() },
                ),
            },
        };
        flag.or(self.one(names, None, values::path))
    }

    /// A setting of several values; the strongest source that gives any gives all of them.
    pub(super) fn list<T>(
        &mut self,
        names: &Names,
        flag: &[String],
        items_max: usize,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Setting<Vec<T>> {
        let flag = self.given_list(flag, Origin::Flag(names.flag), items_max, &parse);
        let variable: Vec<String> = self.variable(names.env).into_iter().collect();
        let variable = self.given_list(&variable, Origin::Env(names.env), items_max, &parse);
        let file = self.list_in_file(names.key, &parse);
        flag.or(variable).or(file)
    }

    /// A value that only a file gives.
    pub(super) fn in_file<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Setting<T> {
        match self.take(key) {
            None | Some(FileValue::Null) => Setting::Absent,
            Some(FileValue::One(item)) => self.item(item, &parse),
            Some(FileValue::Bad | FileValue::List(_) | FileValue::Labels(_)) => Setting::Bad,
            Some(FileValue::Regions(..) | FileValue::Decisions(..) | FileValue::Entries(_)) => Setting::Bad,
        }
    }

    /// A list of decisions that only a file gives, its texts not yet parsed; an empty one counts as not given.
    pub(super) fn take_decisions(&mut self, key: &str) -> Setting<Vec<FileDecision>> {
        match self.take(key) {
            None => Setting::Absent,
            Some(FileValue::Decisions(_, decisions)) if decisions.is_empty() => Setting::Absent,
            Some(FileValue::Decisions(line, decisions)) => {
                Setting::Value(decisions, Place { origin: self.line(line), key: key.to_owned() })
            }
            Some(FileValue::Bad | FileValue::Null | FileValue::One(_) | FileValue::Entries(_)) => {
                Setting::Bad
            }
            Some(FileValue::List(_) | FileValue::Labels(_) | FileValue::Regions(..)) => Setting::Bad,
        }
    }

    /// A list of regions that only a file gives, its texts not yet parsed; an empty one counts as not given.
    pub(super) fn take_regions(&mut self, key: &str) -> Setting<Vec<FileRegion>> {
        match self.take(key) {
            None => Setting::Absent,
            Some(FileValue::Regions(_, regions)) if regions.is_empty() => Setting::Absent,
            Some(FileValue::Regions(line, regions)) => {
                Setting::Value(regions, Place { origin: self.line(line), key: key.to_owned() })
            }
            Some(FileValue::Bad | FileValue::Null | FileValue::One(_) | FileValue::Entries(_)) => {
                Setting::Bad
            }
            Some(FileValue::List(_) | FileValue::Labels(_) | FileValue::Decisions(..)) => Setting::Bad,
        }
    }

    /// The entries of a list that only a file gives, each read by `read`; those that are wrong are noted, and missing.
    pub(super) fn entries_in_file<T>(
        &mut self,
        key: &str,
        read: impl Fn(&Node) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(FileValue::Entries(nodes)) = self.take(key) else {
            return Vec::new();
        };
        let mut values = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate().filter(|(_, node)| !recovery::is_bad(node)) {
            match read(node) {
                Ok(value) => values.push(value),
                Err(why) => self.problems.add(self.line(node.line), &format!("{key}[{index}]"), why),
            }
        }
        values
    }

    /// Labels: those of the file, replaced name by name by those of the environment, and these by flags.
    pub(super) fn labels(&mut self, names: &Names, flag: &[String]) -> BTreeMap<String, String> {
        let mut labels = self.labels_in_file(names.key);
        let variable: Vec<String> = self.variable(names.env).into_iter().collect();
        for (texts, origin) in [(&variable[..], Origin::Env(names.env)), (flag, Origin::Flag(names.flag))] {
            let given = self.given_list(texts, origin, limits::LABELS_MAX, values::label);
            let Setting::Value(pairs, place) = given else {
                continue;
            };
            let mut names_seen = BTreeSet::new();
            for (name, value) in pairs {
                if !names_seen.insert(name.clone()) {
                    self.problem(&place, format!("the label {name} is given twice"));
                }
                labels.insert(name, value);
            }
            if labels.len() > limits::LABELS_MAX {
                let message =
                    format!("with it the node has {} labels, at most {}", labels.len(), limits::LABELS_MAX);
                self.problem(&place, message);
            }
        }
        labels
    }

    fn labels_in_file(&mut self, key: &str) -> BTreeMap<String, String> {
        let Some(FileValue::Labels(items)) = self.take(key) else {
            return BTreeMap::new();
        };
        let mut labels = BTreeMap::new();
        for (name, item) in items {
            let label = self.item(item, |text| values::named_label(&name, text));
            labels.extend(label.into_value());
        }
        labels
    }

    pub(super) fn problem(&mut self, place: &Place, message: impl Into<String>) {
        self.problems.add(place.origin.clone(), &place.key, message);
    }

    /// An environment variable; an empty one counts as not set.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    fn take(&mut self, key: &str) -> Option<FileValue> {
        match &mut self.file {
            None => Some(FileValue::Bad),
            Some(values) => values.remove(key),
        }
    }

    fn given<T>(
        &mut self,
        text: Option<&str>,
        origin: Origin,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Setting<T> {
        let Some(text) = text else {
            return Setting::Absent;
        };
        match parse(text) {
            Ok(value) => Setting::Value(value, Place { origin, key: String::new() }),
            Err(why) => {
                self.problems.add(origin, "", why);
                Setting::Bad
            }
        }
    }

    /// Texts with commas in them are parted; each part is one item.
    fn given_list<T>(
        &mut self,
        texts: &[String],
        origin: Origin,
        items_max: usize,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Setting<Vec<T>> {
        let items: Vec<&str> = texts.iter().flat_map(|text| text.split(',')).map(str::trim).collect();
        if items.is_empty() {
            return Setting::Absent;
        }
        if items.len() > items_max {
            self.problems.add(origin, "", format!("{} values are given, at most {items_max}", items.len()));
            return Setting::Bad;
        }
        let settings = items.into_iter().map(|item| self.given(Some(item), origin.clone(), &parse)).collect();
        all(settings, Place { origin, key: String::new() })
    }

    /// A list that only a file gives.
    pub(super) fn list_in_file<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Setting<Vec<T>> {
        let items = match self.take(key) {
            None => return Setting::Absent,
            Some(FileValue::List(items)) => items,
            Some(FileValue::Bad | FileValue::Null | FileValue::One(_)) => return Setting::Bad,
            Some(
                FileValue::Labels(_)
                | FileValue::Regions(..)
                | FileValue::Decisions(..)
                | FileValue::Entries(_),
            ) => return Setting::Bad,
        };
        let Some(first) = items.first() else {
            return Setting::Absent;
        };
        let place = Place { origin: self.line(first.line), key: key.to_owned() };
        let settings = items.into_iter().map(|item| self.item(item, &parse)).collect();
        all(settings, place)
    }

    /// One text of a file.
    pub(super) fn item<T>(&mut self, item: Item, parse: impl Fn(&str) -> Result<T, String>) -> Setting<T> {
        let Item { line, key, text } = item;
        let Some(text) = text else {
            return Setting::Bad;
        };
        let place = Place { origin: self.line(line), key };
        match parse(&text) {
            Ok(value) => Setting::Value(value, place),
            Err(why) => {
                self.problem(&place, why);
                Setting::Bad
            }
        }
    }

    fn line(&self, line: usize) -> Origin {
        Origin::File { path: Arc::clone(&self.path), line: Some(line) }
    }
}

/// All of them, or `Bad` when one is.
fn all<T>(settings: Vec<Setting<T>>, place: Place) -> Setting<Vec<T>> {
    match settings.into_iter().map(Setting::into_value).collect() {
        Some(values) => Setting::Value(values, place),
        None => Setting::Bad,
    }
}
