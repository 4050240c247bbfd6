//! The table of the history: what the node has seen, by number, the oldest rows removed beyond a bound.
//!
//! Entries are a convenience beside what must be durable. They wait for each other, are written in a
//! transaction of their own after the commits that wait, and are not synchronised by themselves: the
//! next commit's synchronisation covers them, and a loss of power may cost the last of them. When their
//! queue is full they are dropped and counted.
//!
//! [`History`] is the way in and out for the rest of the node. Readers have a connection of their own that cannot
//! write; the writer thread never waits for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, params};

use super::database::log_of;
use super::error::StoreError;
use super::queue::Queue;
use crate::core::limits;
use crate::core::wire::{self, DiskFacts, HistoryEntry, HistoryPage, HistoryQuery, Recorded};

/// How long a reader waits for what was recorded before it asked.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// The step of the schema that makes the table.
pub(super) const TABLE: &str = "
    CREATE TABLE history (
        sequence INTEGER PRIMARY KEY,
        unix_ms INTEGER NOT NULL,
        node TEXT,
        agent TEXT,
        entry BLOB NOT NULL
    ) STRICT;
    CREATE INDEX history_of_node ON history (node, sequence) WHERE node IS NOT NULL;
    CREATE INDEX history_of_agent ON history (agent, sequence) WHERE agent IS NOT NULL;
";

/// One entry on its way to the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) unix_ms: u64,
    pub(super) what: Recorded,
}

/// A node's history: recording never waits, reading blocks on the disk. Cheap to clone.
#[derive(Debug, Clone)]
pub struct History {
    queue: Arc<Queue>,
    file: PathBuf,
}

impl History {
    pub(super) fn new(queue: Arc<Queue>, file: PathBuf) -> Self {
        Self { queue, file }
    }

    /// Keeps an entry, or drops and counts it when the disk is behind. Never waits.
    pub fn record(&self, unix_ms: u64, what: Recorded) {
        if !self.queue.record(Row { unix_ms, what: what.bounded() }) {
            metrics::counter!("shoal_history_dropped_total").increment(1);
        }
    }

    /// Reads a part of the history, with all that was recorded before the call unless the disk hangs.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn read(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        self.queue.flush_history(FLUSH_MAX);
        let failed = |cause| StoreError::of(&self.file, cause);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.file, flags).map_err(failed)?;
        connection.busy_timeout(limits::STORE_BUSY_MAX).map_err(failed)?;
        let mut page = read(&connection, query).map_err(failed)?;
        page.dropped = self.queue.history_dropped();
        Ok(page)
    }

    /// Changes that wait for the disk.
    #[must_use]
    pub fn waiting_changes(&self) -> usize {
        self.queue.waiting_changes()
    }

    /// Entries that were dropped since the process started.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.queue.history_dropped()
    }

    /// The disk under the database. Blocks on it.
    #[must_use]
    pub fn disk(&self) -> DiskFacts {
        let bytes = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.len());
        let space = self.file.parent().and_then(|directory| rustix::fs::statvfs(directory).ok());
        DiskFacts {
            free_bytes: space.as_ref().map(|s| s.f_bavail.saturating_mul(s.f_frsize)),
            total_bytes: space.as_ref().map(|s| s.f_blocks.saturating_mul(s.f_frsize)),
            database_bytes: bytes(&self.file).map(|b| b + bytes(&log_of(&self.file)).unwrap_or_default()),
        }
    }
}

/// Writes entries and removes the oldest beyond the bound, inside the transaction.
pub(super) fn write(transaction: &Transaction<'_>, rows: &[Row]) -> rusqlite::Result<()> {
    let mut insert = transaction
        .prepare_cached("INSERT INTO history (unix_ms, node, agent, entry) VALUES (?1, ?2, ?3, ?4)")?;
    for row in rows {
        let entry = wire::encode_value(&row.what);
        let unix_ms = i64::try_from(row.unix_ms).unwrap_or(i64::MAX);
        let node = row.what.node().map(|node| node.as_str());
        let agent = row.what.agent().map(|agent| agent.as_str());
        insert.execute(params![unix_ms, node, agent, &entry[..]])?;
    }
    // Numbers have no gaps: a new row takes the number after the highest.
    let sql = "DELETE FROM history WHERE sequence <= (SELECT max(sequence) FROM history) - ?1";
    transaction.prepare_cached(sql)?.execute([limits::HISTORY_ROWS_MAX as i64])?;
    Ok(())
}

/// Oldest first; a row that this version does not understand is left out.
fn read(connection: &Connection, query: &HistoryQuery) -> rusqlite::Result<HistoryPage> {
    let oldest: Option<i64> = connection.query_row("SELECT min(sequence) FROM history", [], |r| r.get(0))?;
    let conditions = [
        query.after.map(|_| "sequence > :after"),
        query.node.as_ref().map(|_| "node = :node"),
        query.agent.as_ref().map(|_| "agent = :agent"),
    ];
    let conditions: Vec<_> = conditions.into_iter().flatten().collect();
    let chosen =
        if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
    let order = if query.after.is_some() { "ASC" } else { "DESC" };
    let limit = (query.limit as usize).min(limits::HISTORY_PAGE_MAX) as i64;
    let sql = format!(
        "SELECT sequence, unix_ms, entry FROM history {chosen} ORDER BY sequence {order} LIMIT :limit"
    );
    let after = query.after.map(|after| i64::try_from(after).unwrap_or(i64::MAX));
    let node = query.node.as_ref().map(|node| node.as_str());
    let agent = query.agent.as_ref().map(|agent| agent.as_str());
    let mut named: Vec<(&str, &dyn rusqlite::ToSql)> = vec![(":limit", &limit)];
    if after.is_some() {
        named.push((":after", &after));
    }
    if node.is_some() {
        named.push((":node", &node));
    }
    if agent.is_some() {
        named.push((":agent", &agent));
    }
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(&named[..])?;
    let mut entries = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let entry: Vec<u8> = row.get(2)?;
        bytes += entry.len();
        if bytes > limits::HISTORY_PAGE_BYTES_MAX {
            break;
        }
        let (sequence, unix_ms): (i64, i64) = (row.get(0)?, row.get(1)?);
        match wire::decode_value::<Recorded>(&entry) {
            Ok(what) => entries.push(HistoryEntry {
                sequence: sequence.unsigned_abs(),
                unix_ms: unix_ms.unsigned_abs(),
                what,
            }),
            Err(error) => tracing::debug!(sequence, %error, "an entry of the history is not understood"),
        }
    }
    if query.after.is_none() {
        entries.reverse();
    }
    Ok(HistoryPage { entries, oldest: oldest.map(i64::unsigned_abs), dropped: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::{AgentName, NodeId};
    use crate::core::model::{Event, MemberStatus};
    use crate::node::store::records::SCHEMA;

    fn open() -> Connection {
        let connection = Connection::open_in_memory().expect("opens");
        SCHEMA.iter().for_each(|step| connection.execute_batch(step).expect("a step of the schema"));
        connection
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn member(name: &str) -> Row {
        let event =
            Event::Member { node: node(name), status: MemberStatus::Alive, reason: "it joined".to_owned() };
        Row { unix_ms: 5, what: Recorded::Event(event) }
    }

    fn put(connection: &mut Connection, rows: &[Row]) {
        let transaction = connection.transaction().expect("begun");
        write(&transaction, rows).expect("written");
        transaction.commit().expect("committed");
    }

    fn numbers(connection: &Connection, query: HistoryQuery) -> Vec<u64> {
        read(connection, &query).expect("readable").entries.iter().map(|e| e.sequence).collect()
    }

    #[test]
    fn the_oldest_rows_go_and_the_numbers_go_on() {
        let mut connection = open();
        let many = vec![member("a"); limits::HISTORY_ROWS_MAX];
        put(&mut connection, &many);
        put(&mut connection, &[member("b"), member("b"), member("b")]);
        let count: i64 =
            connection.query_row("SELECT count(*) FROM history", [], |r| r.get(0)).expect("counted");
        assert_eq!(count as usize, limits::HISTORY_ROWS_MAX);
        let page =
            read(&connection, &HistoryQuery { limit: 2, ..HistoryQuery::default() }).expect("readable");
        assert_eq!(page.oldest, Some(4));
        let last = limits::HISTORY_ROWS_MAX as u64 + 3;
        assert_eq!(page.entries.iter().map(|e| e.sequence).collect::<Vec<_>>(), [last - 1, last]);
    }

    #[test]
    fn entries_are_chosen_by_node_agent_and_number_and_come_oldest_first() {
        let mut connection = open();
        let agent = Event::Agent {
            agent: AgentName::new("echo").expect("valid"),
            node: node("a"),
            state: "running".to_owned(),
            reason: None,
        };
        let agent = Row { unix_ms: 9, what: Recorded::Event(agent) };
        put(&mut connection, &[member("a"), member("b"), agent, member("a"), member("b")]);
        let all = HistoryQuery { limit: 10, ..HistoryQuery::default() };
        assert_eq!(numbers(&connection, all.clone()), [1, 2, 3, 4, 5]);
        let of_a = HistoryQuery { node: Some(node("a")), ..all.clone() };
        assert_eq!(numbers(&connection, of_a.clone()), [1, 3, 4]);
        assert_eq!(numbers(&connection, HistoryQuery { limit: 2, ..of_a.clone() }), [3, 4], "the newest");
        assert_eq!(
            numbers(&connection, HistoryQuery { after: Some(0), limit: 2, ..of_a }),
            [1, 3],
            "the next"
        );
        let of_echo = HistoryQuery { agent: Some(AgentName::new("echo").expect("valid")), ..all };
        assert_eq!(numbers(&connection, of_echo), [3]);
    }

    #[test]
    fn a_page_is_bounded_whatever_is_asked_and_a_foreign_row_is_left_out() {
        let mut connection = open();
        put(&mut connection, &vec![member("a"); limits::HISTORY_PAGE_MAX + 5]);
        connection.execute("UPDATE history SET entry = x'c1' WHERE sequence = 1000", []).expect("changed");
        let asked = HistoryQuery { limit: u32::MAX, ..HistoryQuery::default() };
        assert_eq!(numbers(&connection, asked).len(), limits::HISTORY_PAGE_MAX - 1);
        let reason = "x".repeat(limits::HISTORY_TEXT_CHARS_MAX);
        let long = Event::Member { node: node("c"), status: MemberStatus::Alive, reason };
        put(&mut connection, &vec![Row { unix_ms: 1, what: Recorded::Event(long) }; 1000]);
        let page = read(&connection, &HistoryQuery { limit: 1000, ..HistoryQuery::default() }).expect("read");
        let bytes: usize = page.entries.iter().map(|e| wire::encode_value(&e.what).len()).sum();
        assert!((1..=limits::HISTORY_PAGE_BYTES_MAX).contains(&bytes), "{bytes}");
    }
}
