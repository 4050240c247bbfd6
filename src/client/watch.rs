//! Following what changes.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::http::{Events, quoted};
use super::{Client, ClientError};
use crate::api::types::{Gap, NumberedChange, NumberedEvent};

/// A stream of what the asked node sees, from the moment on when it was opened.
#[derive(Debug)]
pub struct Watch<T> {
    events: Events,
    of: PhantomData<fn() -> T>,
}

/// One element of a [`Watch`].
#[derive(Debug, Clone, PartialEq)]
pub enum Seen<T> {
    /// Something happened.
    One(T),
    /// The reader was too slow: some of what happened is no longer kept, and what follows is younger. Whoever keeps what it has
    /// read should read all of it anew.
    Gap,
}

impl Client {
    /// Follows what happens in the mesh: members, agents, modes, tickets.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn watch(&self) -> Result<Watch<NumberedEvent>, ClientError> {
        let events = self.http.events("/v1/cluster/events").await?;
        Ok(Watch { events, of: PhantomData })
    }

    /// Follows the keys that begin with a prefix.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn watch_state(&self, prefix: &str) -> Result<Watch<NumberedChange>, ClientError> {
        let events = self.http.events(&format!("/v1/state-changes?prefix={}", quoted(prefix))).await?;
        Ok(Watch { events, of: PhantomData })
    }
}

impl<T: DeserializeOwned> Watch<T> {
    /// The next one.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the stream has ended: open another one, and read anew what may have changed meanwhile;
    /// [`ClientError::Stranger`] for one that this version does not understand, after which the next may come.
    pub async fn next(&mut self) -> Result<Seen<T>, ClientError> {
        let sent = self.events.next().await?;
        let strange =
            |error| ClientError::Stranger(format!("the node sent what this version does not know: {error}"));
        if sent.name == "gap" {
            let Gap { .. } = serde_json::from_str(&sent.data).map_err(strange)?;
            return Ok(Seen::Gap);
        }
        serde_json::from_str(&sent.data).map(Seen::One).map_err(strange)
    }
}
