//! Talks to a node's API for the command line, and tells apart what may go wrong: the node refused, it
//! cannot be reached, it did not answer in time.
//!
//! Only plain HTTP is spoken: the API is on loopback, or behind whatever secures the way to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Failure;
use crate::api::token::Token;
use crate::api::types::ProblemDocument;
use crate::core::limits;

/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long an answer may take: a node waits for another for [`limits::REQUEST_DEADLINE`].
pub(super) const ANSWER_DEADLINE: Duration = limits::REQUEST_DEADLINE.saturating_add(Duration::from_secs(5));
/// A stream of events is never silent for longer.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The media type of what most requests carry, and that of a module.
const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";

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

/// Asks one node.
#[derive(Debug)]
pub struct Client {
    authority: String,
    host: String,
    port: u16,
    token: Option<HeaderValue>,
}

impl Client {
    /// A client for the API at `api`, as `http://127.0.0.1:8080`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`Failure::Usage`] for another form of URL and for a token that no header can carry.
    pub fn new(api: &str, token: Option<&str>) -> Result<Self, Failure> {
        let bad = |why: &str| {
            // What stands before an @ may be a password.
            let shown = if api.contains('@') { String::new() } else { format!(" {api:?}") };
            Failure::Usage(format!("the API's address{shown} is not usable: {why}"))
        };
        let example = "give one such as http://127.0.0.1:8080";
        let uri: Uri = api.trim().parse().map_err(|_| bad(example))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(bad(
                    "this program speaks plain HTTP only; reach a distant node through a tunnel",
                ));
            }
            Some(_) | None => return Err(bad(example)),
        }
        let authority = uri.authority().ok_or_else(|| bad(example))?;
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(bad("it must end after the port"));
        }
        if authority.as_str().contains('@') {
            return Err(bad("it must not hold a user or a password"));
        }
        let token = token.map(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                Failure::Usage("the token holds characters that no header can carry".to_owned())
            })?;
            value.set_sensitive(true);
            Ok::<_, Failure>(value)
        });
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self { authority: authority.to_string(), host, port, token: token.transpose()? })
    }

    /// `GET path`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.exchange(Method::GET, path, Bytes::new(), ANSWER_DEADLINE).await
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.exchange(Method::DELETE, path, Bytes::new(), ANSWER_DEADLINE).await
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
        let body = serde_json::to_vec(body).expect("texts, numbers and lists are JSON");
        self.exchange(Method::POST, path, body.into(), within).await
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
        self.exchange_typed(Method::POST, path, (body, OCTETS), within).await
    }

    /// `PUT path` with a body.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).expect("texts, numbers and lists are JSON");
        self.exchange(Method::PUT, path, body.into(), ANSWER_DEADLINE).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<T, Failure> {
        self.exchange_typed(method, path, (body, JSON), within).await
    }

    async fn exchange_typed<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: (Bytes, &'static str),
        within: Duration,
    ) -> Result<T, Failure> {
        let exchange = async {
            let response = self.send(method, path, body).await?;
            let body = Limited::new(response.into_body(), limits::API_ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| self.unreachable(&format!("its answer broke off: {error}")))?;
            serde_json::from_slice(&body.to_bytes()).map_err(|error| self.stranger(&error.to_string()))
        };
        timeout(within, exchange).await.unwrap_or_else(|_| {
            let (authority, seconds) = (&self.authority, within.as_secs());
            Err(Failure::TimedOut(format!(
                "the node at {authority} did not answer within {seconds} s; it may still act on the request"
            )))
        })
    }

    /// Follows a stream of events.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) async fn events(&self, path: &str) -> Result<Events, Failure> {
        let response = self.send(Method::GET, path, (Bytes::new(), JSON)).await?;
        Ok(Events { body: response.into_body(), read: Vec::new(), authority: self.authority.clone() })
    }

    /// Sends a request; an answer that is an error becomes a [`Failure`].
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: (Bytes, &'static str),
    ) -> Result<Response<Incoming>, Failure> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = match timeout(CONNECT_DEADLINE, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.unreachable(&error.to_string())),
            Err(_) => return Err(self.unreachable("no connection within 5 s")),
        };
        let broke = |error: hyper::Error| self.unreachable(&error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
        // Ends with the exchange; what breaks it is told by the exchange.
        tokio::spawn(connection);
        let request = self.request(method, path, body)?;
        let response = sender.send_request(request).await.map_err(broke)?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        (body, media_type): (Bytes, &'static str),
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority)
            .header(ACCEPT, "application/json, text/event-stream")
            .header(USER_AGENT, concat!("shoal/", env!("CARGO_PKG_VERSION")));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, media_type);
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        request.body(Full::new(body)).map_err(|error| Failure::Usage(format!("no request: {error}")))
    }

    async fn refused(&self, response: Response<Incoming>) -> Failure {
        let status = response.status();
        let body = Limited::new(response.into_body(), limits::API_BODY_BYTES_MAX).collect();
        let body = match timeout(ANSWER_DEADLINE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) | Err(_) => Bytes::new(),
        };
        let Ok(problem) = serde_json::from_slice::<ProblemDocument>(&body) else {
            return self.stranger(&format!("it answered {status}"));
        };
        match (problem.status, problem.code.as_str()) {
            (504, _) => Failure::TimedOut(problem.detail),
            (401, _) => {
                let (authority, given) = (&self.authority, self.token.is_some());
                let why = if given { "does not take this token" } else { "requires a token" };
                Failure::Refused(format!(
                    "the API at http://{authority} {why}: give the right one with --token-file or SHOAL_TOKEN"
                ))
            }
            (_, _) => Failure::Refused(problem.detail),
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::Unreachable(format!(
            "the API at http://{} cannot be reached ({why}): start a node with `shoal server start`, or give \
             its address with --api",
            self.authority
        ))
    }

    fn stranger(&self, why: &str) -> Failure {
        Failure::Unreachable(format!(
            "what answers at http://{} is no API of this version of Shoal: {why}",
            self.authority
        ))
    }
}

/// A stream of server-sent events.
#[derive(Debug)]
pub(super) struct Events {
    body: Incoming,
    read: Vec<u8>,
    authority: String,
}

/// A text as one part of a path or a query: all but letters, digits and `-._~` as `%` and two digits.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted += &format!("%{byte:02X}");
        }
    }
    quoted
}

/// One server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Its name; empty for the usual kind.
    pub(super) name: String,
    /// Its data.
    pub(super) data: String,
}

impl Events {
    /// The next event.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] when the stream has ended or fallen silent.
    pub(super) async fn next(&mut self) -> Result<Sent, Failure> {
        loop {
            if let Some(sent) = take_event(&mut self.read) {
                return Ok(sent);
            }
            let gone =
                |why: String| Failure::Unreachable(format!("the node at {} has gone: {why}", self.authority));
            match timeout(SILENCE_MAX, self.body.frame()).await {
                Ok(Some(Ok(frame))) => self.read.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Ok(Some(Err(error))) => return Err(gone(error.to_string())),
                Ok(None) => return Err(gone("it ended the stream of events".to_owned())),
                Err(_) => return Err(gone(format!("nothing came for {} s", SILENCE_MAX.as_secs()))),
            }
            if self.read.len() > limits::API_BODY_BYTES_MAX {
                return Err(gone("an event has no end".to_owned()));
            }
        }
    }
}

/// Takes the first whole event out of `read`; comments are skipped.
fn take_event(read: &mut Vec<u8>) -> Option<Sent> {
    loop {
        let end = read.windows(2).position(|pair| pair == b"\n\n")? + 2;
        let block: Vec<u8> = read.drain(..end).collect();
        let block = String::from_utf8_lossy(&block);
        let mut sent = Sent::default();
        for line in block.lines() {
            match line.split_once(':').map(|(field, value)| (field, value.strip_prefix(' ').unwrap_or(value)))
            {
                Some(("event", value)) => sent.name = value.to_owned(),
                Some(("data", value)) => sent.data.push_str(value),
                Some(_) | None => {}
            }
        }
        if !sent.data.is_empty() {
            return Some(sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_address_of_an_api_is_taken() {
        for (api, why) in [
            ("https://127.0.0.1:8080", "plain HTTP only"),
            ("127.0.0.1:8080", "give one such as"),
            ("ftp://127.0.0.1", "give one such as"),
            ("http://127.0.0.1:8080/v1", "end after the port"),
            ("http://me:secret@127.0.0.1", "user or a password"),
            ("http://", "give one such as"),
            ("", "give one such as"),
        ] {
            let error = Client::new(api, None).expect_err(api).to_string();
            assert!(error.contains(why) && !error.contains("secret"), "{api}: {error}");
        }
        let client = Client::new("http://[::1]:81/", None).expect("valid");
        assert_eq!((client.host.as_str(), client.port), ("::1", 81));
        assert_eq!(Client::new("http://localhost", None).expect("valid").port, 80);
    }

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
        let port = |connection: &Connection, env: &dyn Fn(&str) -> Option<String>| {
            connection.client(env).expect("valid").port
        };
        assert_eq!((port(&flags, &told), port(&no_flags, &told)), (1, 2));
        assert_eq!(port(&no_flags, &|_| Some(String::new())), 8080);
        let token = |connection: &Connection| connection.client(&secret).expect("valid").token.expect("one");
        assert_eq!(token(&flags), format!("Bearer {}", "f".repeat(32)));
        assert_eq!(token(&no_flags), "Bearer of the environment");
        assert!(no_flags.client(&|_| Some(String::new())).expect("valid").token.is_none());
    }

    #[test]
    fn a_token_that_would_break_the_header_is_refused() {
        let error = Client::new("http://localhost", Some("a\r\nx: y")).expect_err("two lines");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn events_are_read_whole_whatever_the_pieces_they_come_in() {
        let stream = b": hello\n\nid: 1\ndata: {\"a\":1}\n\nevent: gap\ndata: {}\n\nid: 2\nda";
        let mut read = Vec::new();
        let mut seen = Vec::new();
        for byte in stream {
            read.push(*byte);
            seen.extend(take_event(&mut read));
        }
        let sent = |name: &str, data: &str| Sent { name: name.to_owned(), data: data.to_owned() };
        assert_eq!(seen, [sent("", "{\"a\":1}"), sent("gap", "{}")]);
        assert_eq!(read, b"id: 2\nda");
    }
}
