//! The exchanges with a node's API, and what may go wrong with one: it is refused, the node cannot be reached, it does not
//! answer in time.
//!
//! Only plain HTTP is spoken: the API is on loopback, or behind whatever secures the way to it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use hyper_util::client::legacy::Client as Exchanges;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::ClientError;
use crate::api::types::ProblemDocument;
use crate::core::limits;

/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long an answer may take: a node waits for another for [`limits::REQUEST_DEADLINE`].
pub(crate) const ANSWER_DEADLINE: Duration = limits::REQUEST_DEADLINE.saturating_add(Duration::from_secs(5));
/// A connection that is not used is closed after so long: before the node closes it, which does after
/// [`limits::API_READ_DEADLINE`].
const IDLE_MAX: Duration = Duration::from_secs(5);
const _: () = assert!(IDLE_MAX.as_millis() < limits::API_READ_DEADLINE.as_millis());
/// Connections that are kept while nothing is asked; the node has [`limits::API_CONNECTIONS_MAX`] for all its clients.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// A stream of events is never silent for longer.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The media type of what most requests carry, and that of a module.
const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";

/// Asks one node.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    authority: String,
    token: Option<HeaderValue>,
    /// Keeps connections, and makes new ones as they are needed.
    exchanges: Exchanges<HttpConnector, Full<Bytes>>,
}

impl Http {
    /// A client for the API at `api`, as `http://127.0.0.1:8080`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`ClientError::Usage`] for another form of URL and for a token that no header can carry.
    pub(crate) fn new(api: &str, token: Option<&str>) -> Result<Self, ClientError> {
        let bad = |why: &str| {
            // What stands before an @ may be a password.
            let shown = if api.contains('@') { String::new() } else { format!(" {api:?}") };
            ClientError::Usage(format!("the API's address{shown} is not usable: {why}"))
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
                ClientError::Usage("the token holds characters that no header can carry".to_owned())
            })?;
            value.set_sensitive(true);
            Ok::<_, ClientError>(value)
        });
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_DEADLINE));
        connector.set_nodelay(true);
        let exchanges = Exchanges::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        Ok(Self { authority: authority.to_string(), token: token.transpose()?, exchanges })
    }

    /// What goes into the header, if there is a token.
    #[cfg(test)]
    pub(crate) fn token(&self) -> Option<&HeaderValue> {
        self.token.as_ref()
    }

    #[cfg(test)]
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// `GET path`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.exchange(Method::GET, path, Bytes::new(), ANSWER_DEADLINE).await
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.exchange(Method::DELETE, path, Bytes::new(), ANSWER_DEADLINE).await
    }

    /// `POST path` with a body; the answer may take as long as `within`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).expect("texts, numbers and lists are JSON");
        self.exchange(Method::POST, path, body.into(), within).await
    }

    /// `POST path` with a body of bytes; the answer may take as long as `within`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<T, ClientError> {
        self.exchange_typed(Method::POST, path, (body, OCTETS), within).await
    }

    /// `PUT path` with a body.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).expect("texts, numbers and lists are JSON");
        self.exchange(Method::PUT, path, body.into(), ANSWER_DEADLINE).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<T, ClientError> {
        self.exchange_typed(method, path, (body, JSON), within).await
    }

    async fn exchange_typed<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: (Bytes, &'static str),
        within: Duration,
    ) -> Result<T, ClientError> {
        let exchange = async {
            let response = self.send(method, path, body).await?;
            let body = Limited::new(response.into_body(), limits::API_ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| self.unreachable(&format!("its answer broke off: {error}")))?;
            serde_json::from_slice(&body.to_bytes()).map_err(|error| self.stranger(&error.to_string()))
        };
        timeout(within, exchange).await.unwrap_or_else(|_| {
            let (authority, seconds) = (&self.authority, within.as_secs());
            Err(ClientError::TimedOut(format!(
                "the node at {authority} did not answer within {seconds} s; it may still act on the request"
            )))
        })
    }

    /// Follows a stream of events.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn events(&self, path: &str) -> Result<Events, ClientError> {
        let opening = self.send(Method::GET, path, (Bytes::new(), JSON));
        let response = timeout(ANSWER_DEADLINE, opening).await.unwrap_or_else(|_| {
            let why = format!("the node at {} does not answer", self.authority);
            Err(ClientError::TimedOut(why))
        })?;
        Ok(Events { body: response.into_body(), read: Vec::new(), authority: self.authority.clone() })
    }

    /// Sends a request; an answer that is an error becomes a [`ClientError`].
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: (Bytes, &'static str),
    ) -> Result<Response<Incoming>, ClientError> {
        let request = self.request(method, path, body)?;
        let response =
            self.exchanges.request(request).await.map_err(|error| self.unreachable(&cause(&error)))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        (body, media_type): (Bytes, &'static str),
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.authority))
            .header(ACCEPT, "application/json, text/event-stream")
            .header(USER_AGENT, concat!("shoal/", env!("CARGO_PKG_VERSION")));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, media_type);
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        request.body(Full::new(body)).map_err(|error| ClientError::Usage(format!("no request: {error}")))
    }

    async fn refused(&self, response: Response<Incoming>) -> ClientError {
        let status = response.status();
        let body = Limited::new(response.into_body(), limits::API_BODY_BYTES_MAX).collect();
        let body = match timeout(ANSWER_DEADLINE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) | Err(_) => Bytes::new(),
        };
        let Ok(problem) = serde_json::from_slice::<ProblemDocument>(&body) else {
            return self.stranger(&format!("it answered {status}"));
        };
        match problem.status {
            504 => ClientError::TimedOut(problem.detail),
            401 => {
                let (authority, given) = (&self.authority, self.token.is_some());
                let why = if given { "does not take this token" } else { "requires a token" };
                ClientError::Unauthorized(format!("the API at http://{authority} {why}"))
            }
            _ => ClientError::Refused { code: problem.code, detail: problem.detail },
        }
    }

    fn unreachable(&self, why: &str) -> ClientError {
        ClientError::Unreachable(format!("the API at http://{} cannot be reached ({why})", self.authority))
    }

    fn stranger(&self, why: &str) -> ClientError {
        ClientError::Stranger(format!(
            "what answers at http://{} is no API of this version of Shoal: {why}",
            self.authority
        ))
    }
}

/// A stream of server-sent events.
#[derive(Debug)]
pub(crate) struct Events {
    body: Incoming,
    read: Vec<u8>,
    authority: String,
}

/// What is at the bottom of an error.
fn cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// A text as one part of a path or a query: all but letters, digits and `-._~` as `%` and two digits.
pub(crate) fn quoted(text: &str) -> String {
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
pub(crate) struct Sent {
    /// Its name; empty for the usual kind.
    pub(crate) name: String,
    /// Its data.
    pub(crate) data: String,
}

impl Events {
    /// The next event.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the stream has ended or fallen silent.
    pub(crate) async fn next(&mut self) -> Result<Sent, ClientError> {
        loop {
            if let Some(sent) = take_event(&mut self.read) {
                return Ok(sent);
            }
            let gone =
                |why: String| ClientError::Gone(format!("the node at {} has gone: {why}", self.authority));
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
            let error = Http::new(api, None).expect_err(api).to_string();
            assert!(error.contains(why) && !error.contains("secret"), "{api}: {error}");
        }
        let client = Http::new("http://[::1]:81/", None).expect("valid");
        assert_eq!(client.authority, "[::1]:81");
    }

    #[test]
    fn a_token_that_would_break_the_header_is_refused() {
        let error = Http::new("http://localhost", Some("a\r\nx: y")).expect_err("two lines");
        assert!(matches!(error, ClientError::Usage(_)), "{error}");
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
