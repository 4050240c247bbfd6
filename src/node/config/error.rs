//! What is wrong with a configuration: every error that was found, each with the place to mend it.
//!
//! Errors are collected, never returned one at a time, and listed at most
//! [`limits::CONFIG_ERRORS_MAX`] times; above that they are counted.

use std::fmt;
use std::sync::Arc;

use crate::core::limits;

/// Where a value, or an error, comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A line of the configuration file, counted from 1; `None` is the file as a whole.
    File {
        /// The file's path as it was given.
        path: Arc<str>,
        /// The line.
        line: Option<usize>,
    },
    /// An environment variable, by its name.
    Env(&'static str),
    /// A flag of the command line, with its dashes.
    Flag(&'static str),
    /// Nobody gave a value that has no default.
    Missing,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: Some(line) } => write!(f, "{path}:{line}"),
            Self::File { path, line: None } => f.write_str(path),
            Self::Env(name) | Self::Flag(name) => f.write_str(name),
            Self::Missing => f.write_str("configuration"),
        }
    }
}

/// One error of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Where to mend it.
    pub origin: Origin,
    /// The key in dots, `coordination.cluster.seeds[1]`; empty where no key is concerned, as with a flag.
    pub key: String,
    /// What is wrong and what to do, in one sentence.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// All errors of a configuration, in the order of the file, then the environment, then the flags.
/// Its text has one line for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    unlisted: usize,
}

impl ConfigErrors {
    /// The errors that are listed: at least one.
    #[must_use]
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    /// How many more there are.
    #[must_use]
    pub fn unlisted(&self) -> usize {
        self.unlisted
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        if self.unlisted > 0 {
            write!(f, "\nand {} more errors", self.unlisted)?;
        }
        Ok(())
    }
}

/// Collects errors while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Problems {
    errors: Vec<ConfigError>,
    unlisted: usize,
}

impl Problems {
    /// Notes an error that concerns `key` (which may be empty).
    pub(super) fn add(&mut self, origin: Origin, key: &str, message: impl Into<String>) {
        if self.errors.len() == limits::CONFIG_ERRORS_MAX {
            self.unlisted += 1;
            return;
        }
        self.errors.push(ConfigError { origin, key: key.to_owned(), message: message.into() });
    }

    /// Everything that was noted.
    pub(super) fn into_errors(mut self) -> ConfigErrors {
        self.errors.sort_by(|a, b| a.origin.cmp(&b.origin));
        ConfigErrors { errors: self.errors, unlisted: self.unlisted }
    }

    /// `Err` with everything that was noted, if anything was.
    pub(super) fn into_result(self) -> Result<(), ConfigErrors> {
        if self.errors.is_empty() { Ok(()) } else { Err(self.into_errors()) }
    }
}

/// A text that someone wrote, quoted, cut to a readable length and free of control characters.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let cut: String = text.chars().take(CHARS_MAX).collect();
    let dots = if cut.len() < text.len() { "..." } else { "" };
    format!("{cut:?}{dots}")
}
