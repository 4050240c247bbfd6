//! What agents send: their drafts become messages, in the order in which they wrote them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::unconstrained;

use super::{DEADLINE_DEFAULT, Delivered, Dispatcher, Posting};
use crate::core::error::SendError;
use crate::core::limits;
use crate::core::model::{Answer, Guarantee, Message, Target};
use crate::node::clock;
use crate::node::runtime::{Draft, Outlet};

/// Whether a message is on the disk of this node, to be delivered at least once.
pub type Promised = Pin<Box<dyn Future<Output = Result<(), SendError>> + Send>>;

/// Promises to deliver messages, each or none, for so long. They take their places among the messages of their conversations
/// when its future is first polled.
pub type Promise = Box<dyn Fn(Vec<Message>, Duration) -> Promised + Send + Sync>;

impl Dispatcher {
    async fn promise(&self, messages: Vec<Message>, life: Duration) -> Result<(), SendError> {
        messages.iter().try_for_each(|message| self.inner.check(message))?;
        match (self.inner.promise.get(), messages.first()) {
            (Some(promise), _) => promise(messages, life).await,
            (None, Some(first)) => {
                Err(SendError::Joining { node: self.inner.own.clone(), agent: first.to.agent.clone() })
            }
            (None, None) => Ok(()),
        }
    }

    pub(super) fn posting_of(&self, draft: Draft) -> Result<Posting, SendError> {
        Ok(Posting {
            target: Target::parse(&draft.to)?,
            id: clock::message_id(),
            from: format!("{}@{}", draft.from, self.inner.own),
            performative: draft.performative,
            conversation_id: draft.conversation_id,
            in_reply_to: draft.in_reply_to,
            content_type: draft.content_type,
            content: draft.content,
            deadline_ms: draft.deadline_ms.unwrap_or(DEADLINE_DEFAULT.as_millis() as u32),
            key: draft.key,
            hops: draft.hops,
        })
    }
}

/// A message that did not reach all of those whom its sender meant has failed, for the first reason; it is with the others.
fn outcome_of(delivered: Vec<Delivered>) -> Result<(), SendError> {
    delivered.into_iter().try_for_each(|Delivered { result, .. }| result)
}

/// Begins a message's way before anybody awaits it, so that messages of one agent leave in the order in
/// which it wrote them. Its future is unconstrained: tokio would make one that has had many turns wait for its place.
pub(super) fn begun<F>(mut exchange: Pin<Box<F>>) -> Pin<Box<dyn Future<Output = F::Output> + Send>>
where
    F: Future<Output: Send> + Send + 'static,
{
    match exchange.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Box::pin(std::future::ready(output)),
        Poll::Pending => exchange,
    }
}

impl Outlet for Dispatcher {
    fn send(&self, draft: Draft) -> Pin<Box<dyn Future<Output = Result<(), SendError>> + Send>> {
        let dispatcher = self.clone();
        begun(Box::pin(unconstrained(async move {
            let (guarantee, life_ms) = (draft.guarantee, draft.deadline_ms);
            let posting = dispatcher.posting_of(draft)?;
            match guarantee {
                Guarantee::AtMostOnce => outcome_of(dispatcher.post(posting).await?),
                Guarantee::AtLeastOnce => {
                    let messages = dispatcher.copies(posting)?;
                    let life =
                        life_ms.map_or(limits::OUTBOX_LIFE_DEFAULT, |ms| Duration::from_millis(ms.into()));
                    dispatcher.promise(messages, life).await
                }
            }
        })))
    }

    fn ask(&self, draft: Draft) -> Pin<Box<dyn Future<Output = Result<Answer, SendError>> + Send>> {
        let dispatcher = self.clone();
        begun(Box::pin(unconstrained(async move { dispatcher.enquire(dispatcher.posting_of(draft)?).await })))
    }
}
