//! How a node gets its first certificate, and whether it gives others theirs.
//!
//! A join token is a secret: it is never shown, neither in an error nor by `Debug`. Whether it is good is not known here,
//! and a file with it is not opened: it may be gone when the node has its certificate.

use std::fmt;
use std::path::PathBuf;

use super::sources::{Setting, Sources};
use super::{ClusterConfig, Flags, StartMode, flags, values};
use crate::core::limits;

/// What every token begins with.
const TOKEN_PREFIX: &str = "shoal1.";

/// Joining without the CA's key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnrolmentConfig {
    /// Directory of the mesh's CA, from which this node gives certificates to machines that bring a join token and to
    /// nodes that renew theirs. Default `None`: it gives none. Whoever can read it can become any node.
    pub ca: Option<PathBuf>,
    /// Token for the first certificate of this node. Default `None`: the certificate must be there. It is looked at only
    /// while [`TlsPaths::cert`](super::TlsPaths::cert) does not exist.
    pub token: Option<TokenSource>,
}

/// Where a join token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// Here.
    Text(Secret),
    /// In this file.
    File(PathBuf),
}

/// A text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

pub(super) fn read(sources: &mut Sources<'_>, flags: &Flags, cluster: &ClusterConfig) -> EnrolmentConfig {
    let ca = sources.path(&flags::CA, flags.ca.as_deref());
    let token = sources.one(&flags::JOIN_TOKEN, flags.join_token.as_ref().map(Secret::as_str), token);
    let file = sources.in_file("security.cluster.enrolment.token_file", values::path);
    let file = match file {
        Setting::Value(path, place) => Setting::Value(TokenSource::File(path), place),
        Setting::Absent => Setting::Absent,
        Setting::Bad => Setting::Bad,
    };
    let token = token.or(file);
    if let Setting::Value(_, place) = &token {
        match &cluster.start {
            StartMode::Bootstrap => sources.problem(
                place,
                "a node that founds a mesh cannot get its certificate from it: make one with `shoal cert issue`",
            ),
            StartMode::Resume => {
                sources.problem(place, "it needs nodes to get the certificate from: give --join, or seeds in the file");
            }
            StartMode::Discover if cluster.askable().is_empty() => sources.problem(
                place,
                "it needs nodes to get the certificate from, and mDNS begins once it has one: give --join, or \
                 --discover dns:NAME",
            ),
            StartMode::Discover | StartMode::Join(_) => {}
        }
    }
    EnrolmentConfig { ca: ca.into_value(), token: token.into_value() }
}

/// A token, or `@` and the file with it. What is wrong is told without the text.
fn token(text: &str) -> Result<TokenSource, String> {
    if let Some(path) = text.strip_prefix('@') {
        return values::path(path).map(TokenSource::File);
    }
    let text = text.trim();
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    match text.strip_prefix(TOKEN_PREFIX) {
        Some(rest) if rest.chars().all(is_of_token) && text.len() <= limits::JOIN_TOKEN_CHARS_MAX => {
            Ok(TokenSource::Text(Secret(text.to_owned())))
        }
        Some(_) | None => Err(format!(
            "this is no join token: give the line that begins with {TOKEN_PREFIX}, as `shoal cert token` printed it, \
             or @ and the file with it"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_text_or_a_file_and_never_shown() {
        let source = token("shoal1.AbC-_9\n").expect("a token");
        assert_eq!(source, TokenSource::Text(Secret("shoal1.AbC-_9".to_owned())));
        assert!(!format!("{source:?}").contains("AbC"), "{source:?}");
        assert_eq!(token("@/run/token"), Ok(TokenSource::File("/run/token".into())));
        let long = format!("shoal1.{}", "A".repeat(limits::JOIN_TOKEN_CHARS_MAX));
        for text in ["", "@", "secret", "shoal2.AbC", "shoal1.Ab C", "shoal1.Ab/C", long.as_str()] {
            let error = token(text).expect_err("no token");
            assert!(!error.contains("secret") && !error.contains("Ab"), "{error}");
        }
    }
}
