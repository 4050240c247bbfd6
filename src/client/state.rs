//! The state that the nodes share: keys with values.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use super::http::quoted;
use super::{Client, ClientError};
use crate::api::types::{Ack, KeyPage, KeyState, PutKey, Write, decoded};

/// A key as the asked node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value; `None` where several stand beside each other and the key's policy chooses none.
    pub value: Option<Bytes>,
    /// All values, where several were written at the same time.
    pub siblings: Vec<Bytes>,
    /// Names what was read: [`Client::replace`] replaces exactly that.
    pub context: String,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It is made.
    Made {
        /// It stands beside values that it has not replaced.
        beside_others: bool,
        /// It was made without a majority, because the mesh is set to `availability`.
        without_majority: bool,
    },
    /// The node hears no majority: it is queued, and made later, under this ticket.
    Queued {
        /// Its name.
        ticket: String,
    },
}

impl Client {
    /// What the asked node knows of a key; `None`: it has no value.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, ClientError> {
        match self.http.get::<KeyState>(&path_of(key)).await {
            Ok(state) => entry(state).map(Some),
            Err(error) if error.code() == Some("no_such_key") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a key, over whatever the asked node has seen of it; answered when it is on that node's disk.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put(&self, key: &str, value: impl Into<Bytes>) -> Result<Written, ClientError> {
        self.write(key, value.into(), None, Ack::Local).await
    }

    /// The same; answered when it is on the disks of a quorum of the voters.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put_durably(&self, key: &str, value: impl Into<Bytes>) -> Result<Written, ClientError> {
        self.write(key, value.into(), None, Ack::Quorum).await
    }

    /// Writes a key in place of what was read, and of nothing that was written since: that stands beside it then.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn replace(&self, read: &Entry, value: impl Into<Bytes>) -> Result<Written, ClientError> {
        self.write(&read.key, value.into(), Some(read.context.clone()), Ack::Local).await
    }

    /// Deletes a key, as far as the asked node has seen what was written to it.
    ///
    /// # Errors
    /// [`ClientError`]; with the code `no_such_key` where there is nothing to delete.
    pub async fn delete(&self, key: &str) -> Result<Written, ClientError> {
        self.http.delete::<Write>(&path_of(key)).await.map(Written::from)
    }

    /// All keys that begin with a prefix, in order. Asks as often as it takes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, ClientError> {
        let mut entries = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/v1/state?prefix={}{after}", quoted(prefix));
            let page: KeyPage = self.http.get(&path).await?;
            let last = page.entries.last().map(|last| format!("&after={}", quoted(&last.key)));
            entries.extend(page.entries.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?);
            match last.filter(|_| page.more) {
                Some(last) => after = last,
                None => return Ok(entries),
            }
        }
    }

    async fn write(
        &self,
        key: &str,
        value: Bytes,
        context: Option<String>,
        ack: Ack,
    ) -> Result<Written, ClientError> {
        let text = std::str::from_utf8(&value).ok().map(str::to_owned);
        let value_base64 = text.is_none().then(|| BASE64_STANDARD.encode(&value));
        let put = PutKey { value: text, value_base64, context, ack };
        self.http.put::<Write>(&path_of(key), &put).await.map(Written::from)
    }
}

impl From<Write> for Written {
    fn from(write: Write) -> Self {
        match write {
            Write::Done(done) => Self::Made { beside_others: done.sibling, without_majority: done.marked },
            Write::Queued(queued) => Self::Queued { ticket: queued.ticket },
        }
    }
}

fn path_of(key: &str) -> String {
    format!("/v1/state/{}", quoted(key))
}

fn entry(state: KeyState) -> Result<Entry, ClientError> {
    let bytes = |value: &str, encoding| {
        let no = || ClientError::Stranger(format!("a value of {:?} is no base64", state.key));
        decoded(value, encoding).map(Bytes::from).ok_or_else(no)
    };
    let value = state.value.as_deref().zip(state.encoding).map(|(value, encoding)| bytes(value, encoding));
    let siblings = state.siblings.iter().map(|sibling| bytes(&sibling.value, sibling.encoding));
    Ok(Entry {
        value: value.transpose()?,
        siblings: siblings.collect::<Result<_, _>>()?,
        context: state.context.clone(),
        key: state.key.clone(),
    })
}
