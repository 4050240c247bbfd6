//! A client for programs that use a mesh: [`Client`] asks agents, sends them messages, reads and writes the shared state,
//! and follows what changes. It speaks to the HTTP API of one node, which does the rest. It runs inside a tokio runtime with IO and time.
//!
//! ```no_run
//! # async fn example() -> Result<(), shoal::ClientError> {
//! use std::time::Duration;
//!
//! let mesh = shoal::Client::new("http://127.0.0.1:8080", None)?;
//!
//! // One answer, from whichever instance of the agent is nearest.
//! let answer = mesh.ask("resize", "cat.jpg").await?;
//! println!("{} says {}", answer.from, answer.text());
//!
//! // To everybody who listens; and to one, at least once, whatever breaks meanwhile.
//! mesh.send("topic:photos.added", "cat.jpg").await?;
//! mesh.message("archive", "cat.jpg").conversation("photos").at_least_once().send().await?;
//! let slow = mesh.message("train", "all").deadline(Duration::from_secs(600)).ask().await?;
//! # let _ = slow;
//!
//! // The state that the nodes share.
//! mesh.put("photos/cat", "resized").await?;
//! if let Some(entry) = mesh.get("photos/cat").await? {
//!     println!("{:?} is {:?}", entry.key, entry.value);
//! }
//!
//! // What changes, as it changes.
//! let mut changes = mesh.watch_state("photos/").await?;
//! loop {
//!     println!("{:?}", changes.next().await?);
//! }
//! # }
//! ```

mod error;
pub(crate) mod http;
mod message;
mod state;
mod watch;

pub use self::error::ClientError;
use self::http::Http;
pub use self::message::{Message, Reply, Sent};
pub use self::state::{Entry, Written};
pub use self::watch::{Seen, Watch};
use crate::api::types::{Agent, Member};

/// Talks to the API of one node. A clone shares its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: Http,
}

impl Client {
    /// A client for the API at `api`, as `http://127.0.0.1:8080`, with its token if it wants one. Nothing is connected yet.
    ///
    /// # Errors
    /// [`ClientError::Usage`] for another form of URL and for a token that no header can carry.
    pub fn new(api: &str, token: Option<&str>) -> Result<Self, ClientError> {
        Ok(Self { http: Http::new(api, token)? })
    }

    /// Asks an agent and waits for its answer, for five seconds. `to` is `NAME`, `NAME@NODE` or `cap:NAME`.
    ///
    /// # Errors
    /// [`ClientError`]; nothing is "sent" into nowhere.
    pub async fn ask(&self, to: &str, content: impl Into<bytes::Bytes>) -> Result<Reply, ClientError> {
        self.message(to, content).ask().await
    }

    /// Sends a message, at most once, and waits until it is in the mailbox of whom it is for. `to` is as for
    /// [`ask`](Self::ask), or `topic:NAME` or `all:NAME`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send(&self, to: &str, content: impl Into<bytes::Bytes>) -> Result<Sent, ClientError> {
        self.message(to, content).send().await
    }

    /// A message of which more is to be said than its address and content.
    pub fn message(&self, to: &str, content: impl Into<bytes::Bytes>) -> Message<'_> {
        Message::new(&self.http, to, content.into())
    }

    /// The nodes of the mesh, as the asked one sees them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn members(&self) -> Result<Vec<Member>, ClientError> {
        self.http.get("/v1/cluster/members").await
    }

    /// The agents of the mesh, as the asked node sees them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn agents(&self) -> Result<Vec<Agent>, ClientError> {
        self.http.get("/v1/agents").await
    }
}
