//! The tables whose rows only the core understands: bytes under a key, kept exactly as they were given.
//!
//! # What is checked
//!
//! Disks return what was not written, and SQLite has no checksums of its own. So each row carries one over its
//! table, key and bytes, and each table a tally: how many rows, how many bytes, and the sum of the
//! rows' checksums. The tally is written in the transaction that changes the rows. A start that reads the rows
//! compares both: a row that changed is noticed by its own checksum, one that is missing, or that is there
//! again as it once was, by the tally. The tally is also what the bounds are held against, without counting.
//!
//! What a group of batches makes of rows and [`Tallies`] is worked out in `rows`.
//!
//! # What it does not do
//!
//! It mends nothing: a table with one wrong row is wrong as a whole, and comes back from peers. It begins and
//! commits no transaction. The checksum guards against faults, not against somebody who edits the file.

use bytes::{Bytes, BytesMut};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, params};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::records::Refused;
use crate::core::contract::Table;
use crate::core::limits;

/// The step of the schema that makes the tables.
pub(super) const TABLES: &str = "
    CREATE TABLE state (key BLOB PRIMARY KEY, row BLOB NOT NULL, checksum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE clock (key BLOB PRIMARY KEY, row BLOB NOT NULL, checksum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE register (key BLOB PRIMARY KEY, row BLOB NOT NULL, checksum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE queue (key BLOB PRIMARY KEY, row BLOB NOT NULL, checksum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE tallies (
        name TEXT PRIMARY KEY,
        row_count INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        checksums INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO tallies VALUES ('state', 0, 0, 0), ('clock', 0, 0, 0), ('register', 0, 0, 0), ('queue', 0, 0, 0);
";

/// The step of the schema that makes the table of the outbox.
pub(super) const OUTBOX: &str = "
    CREATE TABLE outbox (key BLOB PRIMARY KEY, row BLOB NOT NULL, checksum INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO tallies VALUES ('outbox', 0, 0, 0);
";

/// Bytes that are allocated at once for rows that are read. Small, because one row in use keeps all of them.
const CHUNK_BYTES: usize = 64 << 10;

/// What a table holds, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    rows: u64,
    /// Of keys and rows.
    bytes: u64,
    /// The sum of all rows' checksums; their order does not matter.
    checksums: u64,
}

impl Tally {
    fn add(&mut self, found: Found) {
        self.rows += 1;
        self.bytes += found.bytes;
        self.checksums = self.checksums.wrapping_add(found.checksum);
    }

    /// Takes a row off. Numbers that do not allow for it come from a damaged file, and are found out at the next start.
    fn remove(&mut self, found: Found) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(found.bytes);
        self.checksums = self.checksums.wrapping_sub(found.checksum);
    }
}

/// What counts of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Of its key and itself.
    bytes: u64,
    checksum: u64,
}

impl Found {
    pub(super) fn of(table: Table, key: &[u8], row: &[u8]) -> Self {
        Self { bytes: (key.len() + row.len()) as u64, checksum: checksum_of(table, key, row) }
    }
}

/// The tallies of all tables, as of the last change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tallies([Tally; Table::ALL.len()]);

impl Tallies {
    /// Reads them.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut tallies = Self::default();
        let sql = "SELECT row_count, bytes, checksums FROM tallies WHERE name = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        for table in Table::ALL {
            *tallies.of(table) = statement.query_row([table.as_str()], |row| {
                let number = |column| row.get(column).map(i64::cast_unsigned);
                Ok(Tally { rows: number(0)?, bytes: number(1)?, checksums: number(2)? })
            })?;
        }
        Ok(tallies)
    }

    /// Writes those that differ from `before`, in the transaction that made the difference.
    pub(super) fn write(&self, before: &Self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "UPDATE tallies SET row_count = ?2, bytes = ?3, checksums = ?4 WHERE name = ?1";
        for (table, (now, then)) in Table::ALL.into_iter().zip(self.0.iter().zip(&before.0)) {
            if now != then {
                let [rows, bytes, checksums] = [now.rows, now.bytes, now.checksums].map(u64::cast_signed);
                connection.prepare_cached(sql)?.execute(params![table.as_str(), rows, bytes, checksums])?;
            }
        }
        Ok(())
    }

    /// Counts a row in the place of another. `false`: the table would be too large, and nothing has changed.
    pub(super) fn exchange(&mut self, table: Table, before: Option<Found>, after: Option<Found>) -> bool {
        let mut tally = *self.of(table);
        if let Some(before) = before {
            tally.remove(before);
        }
        if let Some(after) = after {
            tally.add(after);
            if tally.rows > limits::STORE_TABLE_ROWS_MAX || tally.bytes > limits::STORE_TABLE_BYTES_MAX {
                return false;
            }
        }
        *self.of(table) = tally;
        true
    }

    /// The table has no rows any more.
    pub(super) fn clear(&mut self, table: Table) {
        *self.of(table) = Tally::default();
    }

    fn of(&mut self, table: Table) -> &mut Tally {
        &mut self.0[index(table)]
    }
}

/// Adds or replaces a row.
pub(super) fn put(
    connection: &Connection,
    table: Table,
    key: &[u8],
    row: &[u8],
    found: Found,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(Statements::of(table).put)?;
    statement.execute(params![key, row, found.checksum.cast_signed()]).map(drop)
}

/// Removes a row.
pub(super) fn delete(connection: &Connection, table: Table, key: &[u8]) -> rusqlite::Result<()> {
    connection.prepare_cached(Statements::of(table).delete)?.execute([key]).map(drop)
}

/// Removes all rows.
pub(super) fn clear(connection: &Connection, table: Table) -> rusqlite::Result<()> {
    connection.prepare_cached(Statements::of(table).clear)?.execute([]).map(drop)
}

/// Reads a table in order of its keys and checks it.
///
/// # Errors
/// Of the disk; or, of a kind that counts as damage, that a row or the table is not what was written.
pub(super) fn read(
    connection: &Connection,
    tallies: &Tallies,
    table: Table,
) -> rusqlite::Result<Vec<(Bytes, Bytes)>> {
    let expected = tallies.0[index(table)];
    // Not more than the bound, whatever a damaged file says.
    let rows_max = expected.rows.min(limits::STORE_TABLE_ROWS_MAX);
    let mut read = Vec::with_capacity(usize::try_from(rows_max).unwrap_or_default());
    let mut found = Tally::default();
    // Keys apart from rows: whoever keeps the keys does not keep the rows as well.
    let (mut keys, mut values) = (BytesMut::new(), BytesMut::new());
    let mut statement = connection.prepare(Statements::of(table).read)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (key, value) = (row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
        let stored = row.get::<_, i64>(2)?.cast_unsigned();
        let counted = Found::of(table, key, value);
        if counted.checksum != stored {
            return Err(wrong(format!("a row of the table {} is not what was written", table.as_str())));
        }
        found.add(counted);
        if found.rows > expected.rows {
            break;
        }
        read.push((take_in(&mut keys, key), take_in(&mut values, value)));
    }
    if found != expected {
        let (name, found, expected) = (table.as_str(), found.rows, expected.rows);
        return Err(wrong(format!(
            "the table {name} is not what was written: {found} rows are there, and {expected} were"
        )));
    }
    Ok(read)
}

/// Copies bytes into a chunk that many share, or into an allocation of their own if they are many.
fn take_in(chunk: &mut BytesMut, bytes: &[u8]) -> Bytes {
    if bytes.len() > CHUNK_BYTES / 8 {
        return Bytes::copy_from_slice(bytes);
    }
    if chunk.capacity() < bytes.len() {
        *chunk = BytesMut::with_capacity(CHUNK_BYTES);
    }
    chunk.extend_from_slice(bytes);
    chunk.split().freeze()
}

/// What is stored under a key.
pub(super) fn find(connection: &Connection, table: Table, key: &[u8]) -> rusqlite::Result<Option<Found>> {
    connection
        .prepare_cached(Statements::of(table).find)?
        .query_row([key], |found| {
            let bytes = key.len() as u64 + found.get::<_, i64>(0)?.cast_unsigned();
            Ok(Found { bytes, checksum: found.get::<_, i64>(1)?.cast_unsigned() })
        })
        .optional()
}

/// XXH3 (64 bits) of the row, seeded with that of the key, seeded with the table's number.
fn checksum_of(table: Table, key: &[u8], row: &[u8]) -> u64 {
    // The key's length keeps bytes from moving between key and row.
    let seed = index(table) as u64 | (key.len() as u64) << 8;
    xxh3_64_with_seed(row, xxh3_64_with_seed(key, seed))
}

/// The table's number in checksums: never changed.
fn index(table: Table) -> usize {
    match table {
        Table::State => 0,
        Table::Clock => 1,
        Table::Register => 2,
        Table::Queue => 3,
        Table::Outbox => 4,
    }
}

fn wrong(detail: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, detail.into())
}

pub(super) fn too_large(table: Table, key: &[u8], row: &[u8]) -> Refused {
    format!(
        "a row for the store's table {} has a key of {} bytes (at most {}) and {} bytes (at most {})",
        table.as_str(),
        key.len(),
        limits::STORE_KEY_BYTES_MAX,
        row.len(),
        limits::STORE_ROW_BYTES_MAX
    )
}

pub(super) fn full(table: Table) -> Refused {
    format!(
        "the store's table {} is full ({} rows or {} bytes): remove something first",
        table.as_str(),
        limits::STORE_TABLE_ROWS_MAX,
        limits::STORE_TABLE_BYTES_MAX
    )
}

/// What is said to SQLite about one table.
struct Statements {
    find: &'static str,
    put: &'static str,
    delete: &'static str,
    clear: &'static str,
    read: &'static str,
}

impl Statements {
    fn of(table: Table) -> &'static Self {
        match table {
            Table::State => &Self {
                find: "SELECT length(row), checksum FROM state WHERE key = ?1",
                put: "REPLACE INTO state VALUES (?1, ?2, ?3)",
                delete: "DELETE FROM state WHERE key = ?1",
                clear: "DELETE FROM state",
                read: "SELECT key, row, checksum FROM state ORDER BY key",
            },
            Table::Clock => &Self {
                find: "SELECT length(row), checksum FROM clock WHERE key = ?1",
                put: "REPLACE INTO clock VALUES (?1, ?2, ?3)",
                delete: "DELETE FROM clock WHERE key = ?1",
                clear: "DELETE FROM clock",
                read: "SELECT key, row, checksum FROM clock ORDER BY key",
            },
            Table::Register => &Self {
                find: "SELECT length(row), checksum FROM register WHERE key = ?1",
                put: "REPLACE INTO register VALUES (?1, ?2, ?3)",
                delete: "DELETE FROM register WHERE key = ?1",
                clear: "DELETE FROM register",
                read: "SELECT key, row, checksum FROM register ORDER BY key",
            },
            Table::Queue => &Self {
                find: "SELECT length(row), checksum FROM queue WHERE key = ?1",
                put: "REPLACE INTO queue VALUES (?1, ?2, ?3)",
                delete: "DELETE FROM queue WHERE key = ?1",
                clear: "DELETE FROM queue",
                read: "SELECT key, row, checksum FROM queue ORDER BY key",
            },
            Table::Outbox => &Self {
                find: "SELECT length(row), checksum FROM outbox WHERE key = ?1",
                put: "REPLACE INTO outbox VALUES (?1, ?2, ?3)",
                delete: "DELETE FROM outbox WHERE key = ?1",
                clear: "DELETE FROM outbox",
                read: "SELECT key, row, checksum FROM outbox ORDER BY key",
            },
        }
    }
}
