//! Runs agents. One behaviour seen from outside, several kinds inside: `native` (built in) and
//! `process` (an executable, spoken to in JSON lines or HTTP).

use std::future::Future;
use std::pin::Pin;

use crate::core::error::SendError;
use crate::core::ids::AgentName;
use crate::core::model::{Answer, Message, Performative};

/// Takes what became of a message, exactly once. Runs on whatever task finishes the message, so it
/// must not block.
pub type Finish = Box<dyn FnOnce(Result<Option<Answer>, SendError>) + Send>;

/// A message on its way into an agent.
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// Whether `finish` wants the agent's answer (`true`), or only to hear that the message is in the mailbox.
    pub wants_answer: bool,
    /// Called exactly once, with `Ok(Some(answer))`, `Ok(None)` (in the mailbox, no answer was wanted) or the reason.
    pub finish: Finish,
}

/// A message that an agent wants to send.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The agent that sends it.
    pub from: AgentName,
    /// Its address, not yet parsed: `agent` or `agent@node`.
    pub to: String,
    /// Its speech act.
    pub performative: Performative,
    /// Its conversation.
    pub conversation_id: Option<String>,
    /// The message it answers.
    pub in_reply_to: Option<uuid::Uuid>,
    /// MIME type.
    pub content_type: String,
    /// Content.
    pub content: bytes::Bytes,
    /// Time for an answer, in milliseconds; `None` is the default deadline.
    pub deadline_ms: Option<u32>,
    /// Hops of the message that caused this one, plus one.
    pub hops: u8,
}

/// What agents may do to the mesh; the dispatcher offers it.
pub trait Outlet: Send + Sync + 'static {
    /// Sends a message; the result is that of its receipt.
    fn send(&self, draft: Draft) -> Pin<Box<dyn Future<Output = Result<(), SendError>> + Send>>;
    /// Sends a message and waits for the answer.
    fn ask(&self, draft: Draft) -> Pin<Box<dyn Future<Output = Result<Answer, SendError>> + Send>>;
}
