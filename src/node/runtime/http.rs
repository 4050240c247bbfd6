//! The conversation with an HTTP agent: each message is a POST to `/` on loopback, the response its reply.
//!
//! A port is free when it is given to the agent, not reserved: another process of the machine could take
//! it first. The agent then fails to listen, ends, and is started again with another port.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::agent::Agent;
use super::breaker::Fate;
use super::mailbox::{Mailbox, Taken};
use crate::core::error::SendError;
use crate::core::limits;
use crate::core::model::{Answer, Message};

type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// How often a starting agent is tried.
const PROBE_INTERVAL: Duration = Duration::from_millis(25);
/// Bytes of an error's body that its reason shows.
const ERROR_BODY_BYTES: usize = 512;
/// Idle connections are closed after this; an agent that handles one at a time is not kept busy by them.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// Waits until the agent listens, then posts its messages until the task is aborted.
pub(super) async fn converse(agent: Arc<Agent>, mailbox: &Mailbox, port: u16, ready: &Notify) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
    ready.notify_one();
    let client: HttpClient = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(limits::AGENT_HTTP_REQUESTS_MAX)
        .build_http();
    let mut requests = JoinSet::new();
    loop {
        while let Some(taken) = mailbox.take(Instant::now()) {
            requests.spawn(post(Arc::clone(&agent), client.clone(), address, taken));
        }
        tokio::select! {
            () = mailbox.arrived.notified() => {}
            Some(Ok((id, wants_answer, fate))) = requests.join_next() => {
                if let (false, Some(error)) = (wants_answer, fate.error()) {
                    agent.log.push(&format!("shoal: message {id} failed: {error}"));
                }
                // One that is over already was told so; nobody waits for this.
                let _ = agent.settle(mailbox, id, fate);
            }
        }
    }
}

async fn post(
    agent: Arc<Agent>,
    client: HttpClient,
    address: SocketAddr,
    taken: Taken,
) -> (uuid::Uuid, bool, Fate) {
    let Taken { message, wants_answer, left } = taken;
    let (id, deadline_ms) = (message.id, message.deadline_ms);
    let exchange = async {
        let request = request(address, message, left);
        match client.request(request).await {
            Ok(response) => fate(&agent, response).await,
            Err(error) => Fate::Failed(agent.failed(&explain(&error))),
        }
    };
    let fate = tokio::time::timeout(left, exchange).await;
    let over = || Fate::Failed(SendError::DeadlineExceeded { deadline_ms: deadline_ms.into() });
    (id, wants_answer, fate.unwrap_or_else(|_| over()))
}

fn request(address: SocketAddr, message: Message, left: Duration) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(message.content.clone()));
    *request.method_mut() = hyper::Method::POST;
    *request.uri_mut() = format!("http://{address}/").parse().expect("a socket address makes a URI");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, header_value(&message.content_type));
    let mut set = |name: &'static str, value: &str| {
        headers.insert(HeaderName::from_static(name), header_value(value));
    };
    set("shoal-message-id", &message.id.to_string());
    set("shoal-from", &message.from);
    set("shoal-to", &message.sent_to());
    let performative = serde_json::to_value(message.performative);
    set("shoal-performative", performative.as_ref().ok().and_then(|name| name.as_str()).unwrap_or_default());
    if let Some(conversation) = &message.conversation_id {
        set("shoal-conversation", conversation);
    }
    if let Some(in_reply_to) = &message.in_reply_to {
        set("shoal-in-reply-to", &in_reply_to.to_string());
    }
    if let Some(key) = message.key() {
        set("shoal-key", key);
    }
    set("shoal-deadline-ms", &left.as_millis().to_string());
    if let Some(traceparent) = &message.traceparent {
        set("traceparent", traceparent);
    }
    request
}

/// What a header cannot carry is escaped as in Rust and JavaScript source: `\u{e9}`.
fn header_value(text: &str) -> HeaderValue {
    let plain = |c: char| c == ' ' || c.is_ascii_graphic();
    if text.chars().all(plain) {
        return HeaderValue::from_str(text).expect("printable ASCII is a header value");
    }
    let escaped: String = text.chars().flat_map(char::escape_default).collect();
    HeaderValue::from_str(&escaped).expect("escapes are printable ASCII")
}

/// A status of 500 or more says that the agent is at fault; any other that is no success, that it will not do what was asked.
async fn fate(agent: &Agent, response: Response<Incoming>) -> Fate {
    let (parts, body) = response.into_parts();
    if !parts.status.is_success() {
        let start = start_of(body).await;
        let error = agent.failed(&format!("HTTP status {}: {start}", parts.status));
        let is_fault = parts.status.as_u16() >= 500;
        return if is_fault { Fate::Failed(error) } else { Fate::Declined(error) };
    }
    if let Some(bytes) = body.size_hint().exact()
        && bytes > limits::CONTENT_BYTES_MAX as u64
    {
        let bytes_max = limits::CONTENT_BYTES_MAX as u64;
        return Fate::Declined(SendError::ContentTooLarge { bytes, bytes_max });
    }
    let content = match Limited::new(body, limits::CONTENT_BYTES_MAX).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let why = format!("its response has more than {} bytes", limits::CONTENT_BYTES_MAX);
            return Fate::Declined(agent.failed(&why));
        }
        Err(error) => return Fate::Failed(agent.failed(&format!("its response broke off: {error}"))),
    };
    let (from, content_type) = (agent.address.clone(), content_type(&parts.headers));
    Fate::Answered(Answer { from, content_type, content })
}

fn content_type(headers: &HeaderMap) -> String {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    given.unwrap_or("application/octet-stream").to_owned()
}

/// The first bytes of a body, as text.
pub(super) async fn start_of(mut body: Incoming) -> String {
    let mut start = Vec::new();
    while start.len() < ERROR_BODY_BYTES
        && let Some(Ok(frame)) = body.frame().await
    {
        start.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
    }
    start.truncate(ERROR_BODY_BYTES);
    String::from_utf8_lossy(&start).trim_end().to_owned()
}

pub(super) fn explain(error: &hyper_util::client::legacy::Error) -> String {
    let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    if error.is_connect() {
        return format!("it does not accept a connection: {cause}");
    }
    format!("it gave no valid HTTP response: {cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_could_forge_a_header_is_escaped() {
        for (text, value) in [
            ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
            ("a\r\nShoal-From: boss", "a\\r\\nShoal-From: boss"),
            ("Gespräch", "Gespr\\u{e4}ch"),
            ("", ""),
        ] {
            assert_eq!(header_value(text), value);
        }
    }
}
