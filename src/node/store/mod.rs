//! The durable memory of a node: one SQLite file, `shoal.db` in the data directory, written by one thread.
//!
//! # Life of a store
//!
//! [`Store::open`] takes the data directory for this process, opens or makes the database, counts this
//! process start durably and reads what the node knows. [`Store::commit`] then queues changes; the
//! writer thread commits all that wait in one transaction and calls back with an outcome per commit, in order.
//! Dropping the store finishes the queue, empties the write-ahead log and lets the directory go.
//!
//! # What it promises
//!
//! - A commit that is reported `Ok` survives the loss of the process and of power (WAL, `synchronous=FULL`).
//! - A commit that is reported `Err` has changed nothing that this process can see. If the process ends before the
//!   store works again, a failed synchronisation may yet be found done by the next start, as with any disk.
//! - The start number grows with every process start, whatever happens in between.
//! - Leaving a mesh for good forgets the mesh and its peers; the agents stay, and come back with the node in the
//!   mesh that it joins next. The start number and the keys belong to the node and stay as well.
//!
//! # What it does not do
//!
//! It does not retry a failed commit, and it does not repair a damaged file: a start that finds one puts it aside,
//! makes a new database of what can be read, and says so in [`Remembered::rebuilt`] until the core has
//! heard of its mesh's roster. Damage that shows while the node runs fails the commits; the next start sees to it.
//! It serves no readers but those of the [`History`]: what a running node knows is in its core.

mod database;
mod directory;
mod error;
mod history;
mod log;
mod quarantine;
mod queue;
mod records;
mod rows;
mod tables;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::core::contract::{Change, Remembered};
use crate::core::ids::PersistNo;

use database::{Database, IfAbsent};
use directory::Lock;
pub use error::StoreError;
pub use history::History;
use queue::Queue;
use writer::Writer;

/// Secrets of a node's QUIC endpoint that outlive its process: with them a restarted process can tell
/// the peers of its predecessor at once that their connections are gone.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeKeys {
    /// Key of the HMAC (SHA-256) that makes stateless-reset tokens.
    pub reset_key: [u8; 64],
    /// Key of the hash by which connection ids are recognised as this node's.
    pub connection_id_key: [u8; 8],
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKeys(secret)")
    }
}

/// What became of a [`Store::commit`]: it is on the disk, or why it is not.
pub type Outcome = (PersistNo, Result<(), String>);

/// A store, and what it held when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// Where changes go from now on.
    pub store: Store,
    /// What the node knows; its start number is already durable.
    pub remembered: Remembered,
    /// The node's keys, durable too.
    pub keys: NodeKeys,
}

/// The durable memory of a node. One per data directory, over all processes.
#[derive(Debug)]
pub struct Store {
    queue: Arc<Queue>,
    file: PathBuf,
    /// `None` only while it is being dropped.
    writer: Option<JoinHandle<()>>,
    /// Dropped last, after the writer has closed the database.
    _lock: Lock,
}

impl Store {
    /// Opens the store in `data_dir`, making the directory (mode 0700) and the database (0600) if they
    /// are absent. Blocks on the disk. When it returns, this process start is counted on the disk:
    /// `remembered.start` is above every earlier one and at least what [`Change::StartAtLeast`] asked for.
    ///
    /// A database that is damaged is put aside first, and `remembered.rebuilt` is set.
    ///
    /// `fresh_keys` is called if no keys are stored. `on_outcomes` is called on the writer thread with the outcomes of
    /// one transaction, or some of them: one for every [`Store::commit`], in their order. Commits wait while it runs; it must not
    /// panic, and must not wait for the thread that drops the store.
    ///
    /// # Errors
    /// [`StoreError`]; nothing that was stored is changed.
    pub fn open(
        data_dir: &Path,
        fresh_keys: impl Fn() -> NodeKeys,
        on_outcomes: impl Fn(Vec<Outcome>) + Send + 'static,
    ) -> Result<Opened, StoreError> {
        let data_dir = directory::prepare(data_dir)?;
        let lock = Lock::take(&data_dir)?;
        let file = data_dir.join("shoal.db");
        let (database, remembered, keys) = begin(&file, &fresh_keys)?;
        let rows: usize = remembered.tables.values().map(Vec::len).sum();
        tracing::info!(file = %file.display(), start = remembered.start, peers = remembered.peers.len(),
            agents = remembered.agents.len(), rows, "the store is open");
        let queue = Arc::new(Queue::default());
        let writer = Writer::new(file.clone(), database, on_outcomes);
        let theirs = Arc::clone(&queue);
        let writer = std::thread::Builder::new()
            .name("shoal-store".to_owned())
            .spawn(move || writer.run(&theirs))
            .map_err(|cause| StoreError::Thread { cause })?;
        let store = Self { queue, file, writer: Some(writer), _lock: lock };
        Ok(Opened { store, remembered, keys })
    }

    /// The node's history.
    #[must_use]
    pub fn history(&self) -> History {
        History::new(Arc::clone(&self.queue), self.file.clone())
    }

    /// `tell` is called once, on the writer thread and with the reason, when the database or its log was removed or
    /// replaced while it was open, and is not back within
    /// [`STORE_GONE_AFTER`](crate::core::limits::STORE_GONE_AFTER). Commits fail from the moment in which it is gone.
    pub fn when_gone(&self, tell: impl FnOnce(String) + Send + 'static) {
        self.queue.when_gone(Box::new(tell));
    }

    /// Queues changes to be committed together, all or none. Never waits: the outcome comes through the
    /// callback given to [`Store::open`]. With more than
    /// [`STORE_QUEUE_CHANGES_MAX`](crate::core::limits::STORE_QUEUE_CHANGES_MAX) changes waiting that
    /// outcome is an error. Numbers are given in ascending order.
    pub fn commit(&self, no: PersistNo, changes: Vec<Change>) {
        self.queue.push(no, changes);
        if self.writer.as_ref().is_none_or(JoinHandle::is_finished) {
            tracing::error!(no = no.0, "the store's thread has ended: nothing is stored any more");
        }
    }
}

/// Opens the database, or the one that takes the place of a damaged one, and counts this start.
fn begin(
    file: &Path,
    fresh_keys: &impl Fn() -> NodeKeys,
) -> Result<(Database, Remembered, NodeKeys), StoreError> {
    quarantine::finish(file)?;
    let mut begun = try_begin(file, fresh_keys);
    // A disk that cannot be reached for a moment is no damage.
    if begun.as_ref().is_err_and(|error| matches!(error, StoreError::Unusable { .. })) {
        begun = try_begin(file, fresh_keys);
    }
    let Some(detail) = begun.as_ref().err().and_then(StoreError::damage) else {
        return begun;
    };
    quarantine::replace(file, detail)?;
    try_begin(file, fresh_keys)
}

fn try_begin(
    file: &Path,
    fresh_keys: &impl Fn() -> NodeKeys,
) -> Result<(Database, Remembered, NodeKeys), StoreError> {
    let mut database = Database::open(file, IfAbsent::Create)?;
    let (remembered, keys) = database
        .write(|transaction| records::begin_start(transaction, fresh_keys))?
        .ok_or_else(|| StoreError::StartsUsedUp { file: file.to_owned() })?;
    Ok((database, remembered, keys))
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue.close();
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the store's thread panicked: what it had not reported is not stored");
        }
    }
}
