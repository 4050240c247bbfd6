//! The token of the API: read from the file that the configuration names, or made once and kept in the
//! node's data directory. It is never logged.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use crate::core::limits;
use crate::node::clock;

/// The name of the file in the data directory.
pub const TOKEN_FILE: &str = "api.token";

/// Whoever knows it may use the API.
#[derive(Clone)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("the API's token cannot be read from {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not hold a token.
    #[error(
        "{path} does not hold a token of the API: it must be one line of {} to {} visible ASCII characters; \
         `openssl rand -hex 32` makes one",
        limits::API_TOKEN_CHARS_MIN,
        limits::API_TOKEN_CHARS_MAX
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// A new token could not be kept.
    #[error("a token for the API could not be written to {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Token {
    /// Reads the token in `path`.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text = read_bounded(path).map_err(|source| TokenError::Read { path: path.to_owned(), source })?;
        let token = text.trim();
        let chars = limits::API_TOKEN_CHARS_MIN..=limits::API_TOKEN_CHARS_MAX;
        if !chars.contains(&token.len()) || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError::Malformed { path: path.to_owned() });
        }
        Ok(Self(token.to_owned()))
    }

    /// Reads the token that `data_dir` keeps, or makes one: 256 bits from the system's generator.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn kept_in(data_dir: &Path) -> Result<Self, TokenError> {
        let path = data_dir.join(TOKEN_FILE);
        match Self::read(&path) {
            Err(TokenError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            read => return read,
        }
        let token = BASE64_URL_SAFE_NO_PAD.encode(clock::random_bytes::<32>());
        match write_new(data_dir, &path, &token) {
            Ok(()) => {
                tracing::info!(path = %path.display(), "made a token for the API; clients give it with --token-file");
                Ok(Self(token))
            }
            Err(source) => Err(TokenError::Write { path, source }),
        }
    }

    /// Whether `presented` is this token; the time it takes tells nothing but its length.
    #[must_use]
    pub fn admits(&self, presented: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(presented).into()
    }

    /// The token itself, for the client's request.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let bytes_max = limits::API_TOKEN_CHARS_MAX as u64 + 64;
    File::open(path)?.take(bytes_max).read_to_string(&mut text)?;
    Ok(text)
}

/// Written beside its place and moved there whole, so that a crash leaves no half of a token.
fn write_new(data_dir: &Path, path: &Path, token: &str) -> io::Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(".api.token-")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(data_dir)?;
    writeln!(file, "{token}")?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_for_its_owner_alone_and_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = Token::kept_in(dir.path()).expect("made");
        assert_eq!(made.as_str().len(), 43, "32 bytes in base64url");
        let mode = std::fs::metadata(dir.path().join(TOKEN_FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Token::kept_in(dir.path()).expect("read");
        assert!(again.admits(made.as_str().as_bytes()));
        let other = tempfile::tempdir().expect("a directory");
        assert!(!Token::kept_in(other.path()).expect("made").admits(made.as_str().as_bytes()));
    }

    #[test]
    fn what_is_no_token_is_refused_and_never_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(TOKEN_FILE);
        for text in ["", "short", &"x".repeat(5000), &format!("{} {}", "a".repeat(20), "b".repeat(20))] {
            std::fs::write(&path, text).expect("written");
            let error = Token::kept_in(dir.path()).expect_err("no token");
            assert!(matches!(error, TokenError::Malformed { .. }), "{error}");
            assert_eq!(std::fs::read_to_string(&path).expect("there"), text);
        }
    }

    #[test]
    fn a_token_shows_nowhere_in_debug_output() {
        let dir = tempfile::tempdir().expect("a directory");
        let token = Token::kept_in(dir.path()).expect("made");
        assert!(!format!("{token:?}").contains(token.as_str()));
    }
}
