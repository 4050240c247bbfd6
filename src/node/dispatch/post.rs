//! Messages whose sender may mean more than one agent: which ones get them.
//!
//! `cap:NAME` is one agent that offers the capability, chosen like an instance of one name; then it is that one, also
//! where the way there is lost. `topic:NAME` and `all:NAME` are every agent that listens or has the name and takes messages
//! now; each gets its own copy of the message, under one id, and the outcome of each is told. A publisher's messages to a
//! topic take one stream to each node, and all of its copies are begun before the next message is.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use uuid::Uuid;

use super::outlet::begun;
use super::routes::{Group, Routes, Sticky};
use super::{Dispatcher, Inner, why_unusable};
use crate::core::error::SendError;
use crate::core::ids::{AgentName, NodeId, Tag};
use crate::core::limits;
use crate::core::model::{Address, Answer, Message, Performative, Target};
use crate::node::clock;

/// A message as its sender gives it.
#[derive(Debug, Clone)]
pub struct Posting {
    /// Whom the sender means.
    pub target: Target,
    /// UUID version 7.
    pub id: Uuid,
    /// See [`Message::from`].
    pub from: String,
    /// Its speech act.
    pub performative: Performative,
    /// The conversation that it belongs to.
    pub conversation_id: Option<String>,
    /// The id of the message that this one answers.
    pub in_reply_to: Option<Uuid>,
    /// MIME type of the content.
    pub content_type: String,
    /// The content.
    pub content: bytes::Bytes,
    /// Time for the answer or the receipt, in milliseconds.
    pub deadline_ms: u32,
    /// By which it is shared out among instances.
    pub key: Option<String>,
    /// Hops made between agents.
    pub hops: u8,
}

/// What became of a message at one of those that it went to.
#[derive(Debug)]
pub struct Delivered {
    /// Where it went: an agent's name where the sender gave no more than that.
    pub to: Address,
    /// Whether it is in its mailbox.
    pub result: Result<(), SendError>,
}

impl Posting {
    /// The message to one agent.
    #[must_use]
    pub fn addressed(self, to: Address) -> Message {
        let message = Message {
            id: self.id,
            from: self.from,
            to,
            performative: self.performative,
            conversation_id: self.conversation_id,
            in_reply_to: self.in_reply_to,
            content_type: self.content_type,
            content: self.content,
            deadline_ms: self.deadline_ms,
            traceparent: None,
            hops: self.hops,
            extensions: std::collections::BTreeMap::new(),
        };
        message.with_key(self.key).with_target(&self.target)
    }

    fn check(&self) -> Result<(), SendError> {
        match &self.key {
            Some(key) if key.is_empty() || key.len() > limits::MESSAGE_KEY_BYTES_MAX => {
                let most = limits::MESSAGE_KEY_BYTES_MAX;
                let why =
                    format!("the message to it has a key of {} bytes: 1 to {most} are allowed", key.len());
                Err(SendError::BadAddress { address: self.target.to_string(), why })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn sticky(&self) -> Sticky<'_> {
        Sticky { conversation: self.conversation_id.as_deref(), key: self.key.as_deref() }
    }
}

impl Dispatcher {
    /// Sends a message to one agent and waits for its answer.
    ///
    /// # Errors
    /// As [`Dispatcher::ask`]; [`SendError::BadAddress`] for a target of several agents.
    pub async fn enquire(&self, posting: Posting) -> Result<Answer, SendError> {
        posting.check()?;
        let to = match &posting.target {
            Target::Agent(address) => address.clone(),
            Target::Capability(tag) => {
                self.inner.able(tag, &posting).inspect_err(|error| self.inner.count_error(error))?
            }
            Target::Topic(_) | Target::All(_) => {
                let why = "one answer comes from one agent: ask an agent or cap:NAME".to_owned();
                return Err(SendError::BadAddress { address: posting.target.to_string(), why });
            }
        };
        self.ask(posting.addressed(to)).await
    }

    /// The messages that have to be delivered where one is promised: one to each of those whom its sender means and this node
    /// knows of, whether or not it takes messages now. The first has the id of the posting, others have ids of their own: each
    /// is tried, and ends, by itself.
    ///
    /// # Errors
    /// [`SendError`]: nobody is meant, too many are, or the content is too large for them.
    pub fn copies(&self, posting: Posting) -> Result<Vec<Message>, SendError> {
        posting.check()?;
        let to = self.inner.meant(&posting)?;
        let ids = std::iter::once(posting.id).chain(std::iter::repeat_with(clock::message_id));
        let copy = |(to, id)| Posting { id, ..posting.clone() }.addressed(to);
        Ok(to.into_iter().zip(ids).map(copy).collect())
    }

    /// Sends a message to all that its sender means, and waits until it is known of each whether it is in its mailbox.
    ///
    /// # Errors
    /// [`SendError`] when it went to nobody. One that went to somebody has a result of its own for each.
    pub async fn post(&self, posting: Posting) -> Result<Vec<Delivered>, SendError> {
        posting.check()?;
        let found = match &posting.target {
            Target::Agent(address) => Ok(vec![address.clone()]),
            Target::Capability(tag) => self.inner.able(tag, &posting).map(|address| vec![address]),
            Target::Topic(_) | Target::All(_) => self.inner.all_of(&posting),
        };
        let mut to = found.inspect_err(|error| self.inner.count_error(error))?;
        if to.len() == 1
            && let Some(to) = to.pop()
        {
            let result = self.send(posting.addressed(to.clone())).await;
            return Ok(vec![Delivered { to, result }]);
        }
        // A node's listeners share a stream, which takes no more than it has room for.
        let at_once = (limits::COPIES_AT_ONCE_BYTES / (posting.content.len() + limits::COPY_BYTES)).max(1);
        let mut by_node: BTreeMap<Option<NodeId>, Vec<Address>> = BTreeMap::new();
        for address in to {
            by_node.entry(address.node.clone()).or_default().push(address);
        }
        let each: Vec<_> = by_node
            .into_values()
            .map(|at_node| begun(Box::pin(self.clone().post_to_node(posting.clone(), at_node, at_once))))
            .collect();
        Ok(join_all(each).await.into_iter().flatten().collect())
    }

    /// So many at once; all of these are on their way when this is first polled.
    async fn post_to_node(self, posting: Posting, to: Vec<Address>, at_once: usize) -> Vec<Delivered> {
        let mut delivered = Vec::with_capacity(to.len());
        for portion in to.chunks(at_once) {
            let each: Vec<_> = portion
                .iter()
                .map(|to| {
                    let (dispatcher, to) = (self.clone(), to.clone());
                    let message = posting.clone().addressed(to.clone());
                    begun(Box::pin(async move { Delivered { to, result: dispatcher.send(message).await } }))
                })
                .collect();
            delivered.extend(join_all(each).await);
        }
        delivered
    }
}

impl Inner {
    /// One of those that offer a capability.
    fn able(&self, tag: &Tag, posting: &Posting) -> Result<Address, SendError> {
        let routes = self.open_routes()?;
        match routes.capabilities.get(tag) {
            Some(group) => match group.pick(posting.sticky()) {
                Some(instance) => Ok(instance.address()),
                None => Err(why_unusable(&anywhere(group.instances[0].agent.clone()), Some(group))),
            },
            None if !routes.joined => Err(self.joining(tag.as_str())),
            None => Err(nobody(&posting.target, "no agent offers this capability")),
        }
    }

    /// All that a topic or a name means: at least one.
    fn all_of(&self, posting: &Posting) -> Result<Vec<Address>, SendError> {
        let routes = self.open_routes()?;
        let found = match &posting.target {
            Target::Topic(tag) if !routes.joined => return Err(self.joining(tag.as_str())),
            Target::Topic(tag) => match routes.topics.get(tag) {
                Some(listeners) => listeners.clone(),
                None => {
                    return Err(nobody(
                        &posting.target,
                        "no agent that takes messages listens to this topic",
                    ));
                }
            },
            Target::All(agent) if !routes.joined => return Err(self.joining(agent.as_str())),
            Target::All(agent) => {
                let group = routes.agents.get(agent);
                let usable = group.map_or_else(Vec::new, Group::usable);
                if usable.is_empty() {
                    return Err(why_unusable(&anywhere(agent.clone()), group));
                }
                usable
            }
            Target::Agent(_) | Target::Capability(_) => Vec::new(),
        };
        let (count, bytes) = (found.len() as u64, posting.content.len() as u64);
        if found.len() > limits::RECIPIENTS_MAX {
            let why =
                format!("it means {count} agents: a message goes to {} at most", limits::RECIPIENTS_MAX);
            return Err(SendError::BadAddress { address: posting.target.to_string(), why });
        }
        let bytes_max = limits::COPIES_BYTES_MAX / count.max(1);
        if bytes > bytes_max {
            return Err(SendError::ContentTooLarge { bytes, bytes_max });
        }
        Ok(found)
    }

    /// Whom a promised message is for: at least one.
    fn meant(&self, posting: &Posting) -> Result<Vec<Address>, SendError> {
        // A node that stops keeps its promises after its next start: whether it takes one, the core decides.
        let routes = self.routes.load_full();
        let target = &posting.target;
        let mut found = match target {
            Target::Agent(address) => return Ok(vec![address.clone()]),
            Target::Capability(tag) | Target::Topic(tag) if !routes.joined => {
                return Err(self.joining(tag.as_str()));
            }
            Target::All(agent) if !routes.joined => return Err(self.joining(agent.as_str())),
            Target::Capability(tag) => {
                let group = routes.capabilities.get(tag);
                let group = group.ok_or_else(|| nobody(target, "no agent offers this capability"))?;
                // Where none takes messages now, the first of a node that is there will do, or else the first.
                let there = || group.instances.iter().find(|instance| instance.status.is_reachable());
                let first = || there().unwrap_or(&group.instances[0]);
                let chosen = group.pick(posting.sticky()).unwrap_or_else(first);
                return Ok(vec![routes.heir_of(chosen, tag)]);
            }
            Target::Topic(tag) => match routes.listeners.get(tag) {
                Some(listeners) => listeners.clone(),
                None => return Err(nobody(target, "no agent listens to this topic")),
            },
            Target::All(agent) => match routes.agents.get(agent) {
                Some(group) => group.lasting(),
                None => return Err(why_unusable(&anywhere(agent.clone()), None)),
            },
        };
        // A slot that went from one node to another is told of by both for a while.
        found.sort();
        found.dedup();
        let (count, bytes) = (found.len() as u64, posting.content.len() as u64);
        if found.len() > limits::PROMISED_COPIES_MAX {
            let max = limits::PROMISED_COPIES_MAX;
            let why = format!("it means {count} agents: at-least-once is for {max} at most");
            return Err(SendError::BadAddress { address: target.to_string(), why });
        }
        let bytes_max = limits::PROMISED_COPIES_BYTES_MAX / count.max(1);
        if bytes > bytes_max && count > 1 {
            return Err(SendError::ContentTooLarge { bytes, bytes_max });
        }
        Ok(found)
    }

    fn open_routes(&self) -> Result<Arc<Routes>, SendError> {
        let routes = self.routes.load_full();
        if routes.stopping { Err(SendError::Stopping { node: self.own.clone() }) } else { Ok(routes) }
    }

    /// A tag is spelt like a name.
    fn joining(&self, name: &str) -> SendError {
        match AgentName::new(name) {
            Ok(agent) => SendError::Joining { node: self.own.clone(), agent },
            Err(_) => SendError::LinkLost { node: self.own.clone() },
        }
    }
}

fn anywhere(agent: AgentName) -> Address {
    Address { agent, node: None }
}

fn nobody(target: &Target, why: &str) -> SendError {
    SendError::NoRecipient { to: target.to_string(), why: why.to_owned() }
}
