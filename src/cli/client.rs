//! How a command finds its node, and what it says when it cannot reach it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Failure;
use crate::api::token::Token;
use crate::client::ClientError;
use crate::client::http::Http;
pub(super) use crate::client::http::{ANSWER_DEADLINE, quoted};

/// Where a command looks for a node when it is not told.
const API_DEFAULT: &str = "http://127.0.0.1:8080";

/// How a command finds its node.
#[derive(Debug, Clone, clap::Args)]
pub struct Connection {
    /// Address of the API of a node [env: SHOAL_API] [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL")]
    api: Option<String>,
    /// File with the token of the API [default: the token in the environment variable SHOAL_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Connection {
    /// Whether a flag says how.
    pub(super) fn is_given(&self) -> bool {
        self.api.is_some() || self.token_file.is_some()
    }

    /// A client as the flags and `env` say; a variable that is empty counts as not set. Nothing is
    /// connected yet.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub(super) fn client(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Client, Failure> {
        let variable = |name| env(name).filter(|value| !value.is_empty());
        let token = match &self.token_file {
            Some(path) => Some(read_token(path)?),
            None => variable("SHOAL_TOKEN"),
        };
        let api = self.api.clone().or_else(|| variable("SHOAL_API"));
        Client::new(api.as_deref().unwrap_or(API_DEFAULT), token.as_deref())
    }
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let token = Token::read(path).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(token.as_str().to_owned())
}

/// Asks one node, and tells failures as a command does.
#[derive(Debug)]
pub struct Client(Http);

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused { detail, .. } => Self::Refused(detail),
            ClientError::Unauthorized(what) => {
                Self::Refused(format!("{what}: give the right one with --token-file or SHOAL_TOKEN"))
            }
            ClientError::Usage(what) => Self::Usage(what),
            ClientError::Unreachable(what) => Self::Unreachable(format!(
                "{what}: start a node with `shoal server start`, or give its address with --api"
            )),
            ClientError::Stranger(what) | ClientError::Gone(what) => Self::Unreachable(what),
            ClientError::TimedOut(what) => Self::TimedOut(what),
        }
    }
}

impl Client {
    /// A client for the API at `api`, as `http://127.0.0.1:8080`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`Failure::Usage`] for another form of URL and for a token that no header can carry.
    pub fn new(api: &str, token: Option<&str>) -> Result<Self, Failure> {
        Ok(Self(Http::new(api, token)?))
    }

    /// `GET path`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        Ok(self.0.get(path).await?)
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        Ok(self.0.delete(path).await?)
    }

    /// `POST path` with a body; the answer may take as long as `within`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, Failure> {
        Ok(self.0.post(path, body, within).await?)
    }

    /// `POST path` with a body of bytes; the answer may take as long as `within`.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<T, Failure> {
        Ok(self.0.upload(path, body, within).await?)
    }

    /// `PUT path` with a body.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        Ok(self.0.put(path, body).await?)
    }

    /// Follows a stream of events.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) async fn events(&self, path: &str) -> Result<Events, Failure> {
        Ok(Events(self.0.events(path).await?))
    }
}

/// A stream of server-sent events.
#[derive(Debug)]
pub(super) struct Events(crate::client::http::Events);

impl Events {
    /// The next event.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] when the stream has ended or fallen silent.
    pub(super) async fn next(&mut self) -> Result<Sent, Failure> {
        Ok(self.0.next().await?)
    }
}

pub(super) use crate::client::http::Sent;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_beats_the_environment_and_an_empty_variable_is_none() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "f".repeat(32)).expect("written");
        let flags = Connection {
            api: Some("http://localhost:1".to_owned()),
            token_file: Some(file.path().to_owned()),
        };
        let no_flags = Connection { api: None, token_file: None };
        let told = |name: &str| (name == "SHOAL_API").then(|| "http://localhost:2".to_owned());
        let secret = |name: &str| (name == "SHOAL_TOKEN").then(|| "of the environment".to_owned());
        let at = |connection: &Connection, env: &dyn Fn(&str) -> Option<String>| {
            connection.client(env).expect("valid").0.authority().to_owned()
        };
        assert_eq!(
            (at(&flags, &told).as_str(), at(&no_flags, &told).as_str()),
            ("localhost:1", "localhost:2")
        );
        assert_eq!(at(&no_flags, &|_| Some(String::new())), "127.0.0.1:8080");
        let token = |connection: &Connection| {
            connection.client(&secret).expect("valid").0.token().expect("one").to_owned()
        };
        assert_eq!(token(&flags), format!("Bearer {}", "f".repeat(32)));
        assert_eq!(token(&no_flags), "Bearer of the environment");
        assert!(no_flags.client(&|_| Some(String::new())).expect("valid").0.token().is_none());
    }
}
