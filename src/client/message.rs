//! Messages to agents.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use uuid::Uuid;

use super::ClientError;
use super::http::Http;
use crate::api::types::{Answered, Receipt, Send, Wanted};
use crate::core::model::{Guarantee, Performative};

/// What the way to the node and back may take beside the deadline of the message.
const SLACK: Duration = Duration::from_secs(5);
/// How long an answer, or a receipt, may take where nothing is said.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);
/// How long a node may take to store a message.
const STORE_DEADLINE: Duration = Duration::from_secs(20);

/// A message that is to be sent.
#[derive(Debug, Clone)]
#[must_use = "it is sent by `ask` or `send`"]
pub struct Message<'a> {
    http: &'a Http,
    to: String,
    content: Bytes,
    content_type: Option<String>,
    performative: Option<Performative>,
    conversation: Option<String>,
    key: Option<String>,
    deadline: Option<Duration>,
    guarantee: Guarantee,
}

/// What an agent has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The id of the message that it answers.
    pub message_id: Uuid,
    /// Who answered: `agent@node`.
    pub from: String,
    /// MIME type of the content.
    pub content_type: String,
    /// What it said.
    pub content: Bytes,
}

/// What is known of a message that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub message_id: Uuid,
    /// Of a message to several, those who did not get it: `agent@node`, the code of the reason, and the reason in words.
    pub failed: Vec<(String, String, String)>,
    /// How many have it; of a message that is stored to be tried, none yet.
    pub reached: usize,
}

impl Reply {
    /// The content as text; bytes that are no UTF-8 are replaced by `U+FFFD`.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }
}

impl<'a> Message<'a> {
    pub(super) fn new(http: &'a Http, to: &str, content: Bytes) -> Self {
        Self {
            http,
            to: to.to_owned(),
            content,
            content_type: None,
            performative: None,
            conversation: None,
            key: None,
            deadline: None,
            guarantee: Guarantee::AtMostOnce,
        }
    }

    /// MIME type of the content; by default text where it is UTF-8, and `application/octet-stream` where not.
    pub fn content_type(mut self, content_type: &str) -> Self {
        self.content_type = Some(content_type.to_owned());
        self
    }

    /// Its speech act; by default a request where an answer is wanted, and information where not.
    pub fn performative(mut self, performative: Performative) -> Self {
        self.performative = Some(performative);
        self
    }

    /// Its conversation: messages of one keep their order and go to one instance.
    pub fn conversation(mut self, id: &str) -> Self {
        self.conversation = Some(id.to_owned());
        self
    }

    /// What instances with `key-hash` share messages out by.
    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// How long the answer or the receipt may take (5 s by default); of one that is delivered at least once, how long it is
    /// tried (an hour by default).
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The node stores it and tries until the agent has answered it: the agent may get it twice. Goes with
    /// [`send`](Self::send).
    pub fn at_least_once(mut self) -> Self {
        self.guarantee = Guarantee::AtLeastOnce;
        self
    }

    /// Sends it and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ask(self) -> Result<Reply, ClientError> {
        if self.guarantee == Guarantee::AtLeastOnce {
            let why = "an answer is not waited for where a message is delivered at least once: use `send`";
            return Err(ClientError::Usage(why.to_owned()));
        }
        let within = self.deadline.unwrap_or(DEADLINE_DEFAULT).saturating_add(SLACK);
        let http = self.http;
        let answered: Answered =
            http.post("/v1/messages", &self.into_request(Wanted::Answer), within).await?;
        let content = match (answered.content, answered.content_base64) {
            (Some(text), _) => Bytes::from(text),
            (None, Some(base64)) => {
                let decoded = BASE64_STANDARD.decode(base64);
                decoded
                    .map_err(|error| ClientError::Stranger(format!("the answer is no base64: {error}")))?
                    .into()
            }
            (None, None) => Bytes::new(),
        };
        let Answered { message_id, from, content_type, .. } = answered;
        Ok(Reply { message_id, from, content_type, content })
    }

    /// Sends it and waits until it is in the mailboxes of those whom it is for or, where it is delivered at least once, on the
    /// disk of the asked node.
    ///
    /// # Errors
    /// [`ClientError`]. A message to several has not failed while one of them has it: see [`Sent::failed`].
    pub async fn send(self) -> Result<Sent, ClientError> {
        let is_stored = self.guarantee == Guarantee::AtLeastOnce;
        let within = match self.deadline {
            _ if is_stored => STORE_DEADLINE,
            deadline => deadline.unwrap_or(DEADLINE_DEFAULT).saturating_add(SLACK),
        };
        let http = self.http;
        let receipt: Receipt = http.post("/v1/messages", &self.into_request(Wanted::Receipt), within).await?;
        let Receipt { message_id, recipients, .. } = receipt;
        let Some(recipients) = recipients else {
            return Ok(Sent { message_id, failed: Vec::new(), reached: usize::from(!is_stored) });
        };
        let all = if is_stored { 0 } else { recipients.len() };
        let failed = recipients
            .into_iter()
            .filter_map(|one| Some((one.to, one.code?, one.detail.unwrap_or_default())));
        let failed: Vec<_> = failed.collect();
        Ok(Sent { message_id, reached: all.saturating_sub(failed.len()), failed })
    }

    fn into_request(self, want: Wanted) -> Send {
        let text = std::str::from_utf8(&self.content).ok().map(str::to_owned);
        let content_base64 = text.is_none().then(|| BASE64_STANDARD.encode(&self.content));
        let deadline_ms = self.deadline.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        Send {
            to: self.to,
            content: text,
            content_base64,
            content_type: self.content_type,
            performative: self.performative,
            conversation_id: self.conversation,
            deadline_ms,
            want,
            guarantee: self.guarantee,
            key: self.key,
        }
    }
}
